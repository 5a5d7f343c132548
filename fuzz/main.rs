//! Fuzz targets: one module each, on the stable toolchain. How to run and add one: `fuzz/README.md`.

#[cfg(test)]
mod decisions;

#[cfg(test)]
mod answer;
#[cfg(test)]
mod buckets;
#[cfg(test)]
mod checkpoint;
#[cfg(test)]
mod config;
#[cfg(test)]
mod cursor;
#[cfg(test)]
mod graphql;
#[cfg(test)]
mod key;
#[cfg(test)]
mod lanes;
#[cfg(test)]
mod link;
#[cfg(test)]
mod page;
#[cfg(test)]
mod query;
#[cfg(test)]
mod seen;
#[cfg(test)]
mod segment;
