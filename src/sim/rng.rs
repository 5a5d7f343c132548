//! Numbers that look random and are pure functions of their inputs.

/// Scrambles two numbers into one (the finalizer of splitmix64).
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    let mut z = a ^ b.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0xD1B5_4A32_D192_ED03);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A number of a text.
pub(crate) fn mix_text(seed: u64, text: &str) -> u64 {
    mix(seed, xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
}

/// A stream of numbers.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    /// The stream of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0, 0)
    }

    /// A number below `n`; 0 when `n` is 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next().checked_rem(n).unwrap_or(0)
    }

    /// An index into something of `len` elements.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize_of(self.below(u64_of(len)))
    }

    /// One of the elements; the default of an empty slice.
    pub(crate) fn pick<T: Copy + Default>(&mut self, of: &[T]) -> T {
        of.get(self.index(of.len())).copied().unwrap_or_default()
    }
}

/// A probability, as a number that a draw is compared with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Chance(u64);

impl Chance {
    /// Of a probability from 0 to 1; what lies outside is cut.
    pub(crate) fn new(probability: f64) -> Self {
        Self(scaled(probability.clamp(0.0, 1.0), 4_294_967_296.0))
    }

    /// Whether this draw hits.
    pub(crate) fn hits(self, draw: u64) -> bool {
        (draw >> 32) < self.0
    }

    /// Whether it can never hit.
    pub(crate) fn is_never(self) -> bool {
        self.0 == 0
    }
}

/// `value * scale` as a whole number; 0 when negative or not a number.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "there is no other way from a float to a number, and this one saturates"
)]
pub(crate) fn scaled(value: f64, scale: f64) -> u64 {
    (value * scale) as u64
}

/// A length as `u64`.
pub(crate) fn u64_of(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// A number as a length.
pub(crate) fn usize_of(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// A number of milliseconds as an epoch time.
pub(crate) fn i64_of(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// An epoch time as a number, 0 when before 1970.
pub(crate) fn u64_from(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_a_pure_function_of_its_seed() {
        let draw = |seed| {
            let mut rng = Rng::new(seed);
            (0..4).map(|_| rng.next()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn chances_hit_as_often_as_they_say() {
        let mut rng = Rng::new(1);
        let tenth = Chance::new(0.1);
        let hits = (0..10_000).filter(|_| tenth.hits(rng.next())).count();
        assert!((800..1200).contains(&hits), "{hits}");
        assert!(Chance::new(1.0).hits(u64::MAX));
        assert!(!Chance::new(0.0).hits(0) && Chance::new(0.0).is_never());
        assert_eq!(Chance::new(f64::NAN), Chance::new(0.0));
    }
}
