//! Fuzz targets: one module each, one `#[test]` each, on the stable toolchain. How to run and add one: `fuzz/README.md`.

#[cfg(test)]
mod decisions;

#[cfg(test)]
mod link;
#[cfg(test)]
mod page;
#[cfg(test)]
mod query;
