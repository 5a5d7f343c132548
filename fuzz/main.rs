//! Fuzz targets: one module each, one `#[test]` each, on the stable toolchain. How to add one: `fuzz/README.md`.
//!
//! `cargo test --test fuzz` runs each for a moment; `scripts/fuzz SECONDS` runs each that long.

#[cfg(test)]
mod decisions;

#[cfg(test)]
mod link;
#[cfg(test)]
mod page;
#[cfg(test)]
mod query;
