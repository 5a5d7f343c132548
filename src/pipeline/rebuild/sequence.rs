//! Which numbers of an entity's sequence are there: one bit each, so that any order of reading costs the same.

use std::collections::BTreeMap;

/// Numbers of one chunk.
const CHUNK: u64 = 1 << 16;
const WORDS: usize = 1 << 10;
const WORD: u64 = 64;

/// Most missing spans that are named one by one.
pub(super) const SPANS_MAX: usize = 1_000;

/// A set of sequence numbers.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    chunks: BTreeMap<u64, Box<[u64; WORDS]>>,
    doubled: u64,
}

/// What is missing of a sequence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Missing {
    /// How many numbers.
    pub(super) count: u64,
    /// Where, first and last number of each span, ascending: at most [`SPANS_MAX`], the last of them then covers the rest.
    pub(super) spans: Vec<(u64, u64)>,
}

impl Missing {
    /// Adds the numbers from `first` to `last`, which lie behind all before them.
    pub(super) fn push(&mut self, first: u64, last: u64) {
        self.count = self.count.saturating_add(last.saturating_sub(first).saturating_add(1));
        let full = self.spans.len() >= SPANS_MAX;
        match self.spans.last_mut() {
            Some(span) if full || span.1.saturating_add(1) == first => span.1 = last,
            _ => self.spans.push((first, last)),
        }
    }
}

impl Sequences {
    /// Takes a number.
    pub(super) fn insert(&mut self, number: u64) {
        let chunk = self.chunks.entry(number / CHUNK).or_insert_with(|| Box::new([0; WORDS]));
        let (word, bit) = place(number);
        if let Some(word) = chunk.get_mut(word) {
            self.doubled = self.doubled.saturating_add(u64::from(*word & bit != 0));
            *word |= bit;
        }
    }

    /// How often a number came that was there already.
    pub(super) fn doubled(&self) -> u64 {
        self.doubled
    }

    /// The greatest number; 0 without any.
    pub(super) fn highest(&self) -> u64 {
        self.chunks.last_key_value().map_or(0, |(chunk, words)| {
            let word = words.iter().rposition(|word| *word != 0).unwrap_or(0);
            let bits = words.get(word).copied().unwrap_or(0);
            chunk
                .saturating_mul(CHUNK)
                .saturating_add(count(word).saturating_mul(WORD))
                .saturating_add(u64::from(63_u32.saturating_sub(bits.leading_zeros())))
        })
    }

    /// The numbers from `from` up to the greatest that are neither here nor in `explained` (ascending spans).
    pub(super) fn missing(&self, from: u64, explained: &[(u64, u64)]) -> Missing {
        let mut missing = Missing::default();
        self.each_span(from, |first, last| {
            without(first, last, explained, &mut |first, last| missing.push(first, last));
        });
        missing
    }

    /// The number up to which all from `from` on are here or in `explained`; `from - 1` when it is not itself.
    pub(super) fn whole_up_to(&self, from: u64, explained: &[(u64, u64)]) -> u64 {
        let first = self.missing(from, explained).spans.first().copied();
        first.map_or_else(|| self.highest(), |(first, _)| first.saturating_sub(1))
    }

    /// Spans of numbers from `from` on that are not here, below the greatest, ascending.
    fn each_span(&self, from: u64, mut take: impl FnMut(u64, u64)) {
        let mut next = from;
        for (chunk, words) in self.chunks.range(from / CHUNK..) {
            let base = chunk.saturating_mul(CHUNK);
            for (index, word) in words.iter().enumerate() {
                let base = base.saturating_add(count(index).saturating_mul(WORD));
                let mut bits = *word;
                while bits != 0 {
                    let number = base.saturating_add(u64::from(bits.trailing_zeros()));
                    bits &= bits - 1;
                    if number > next {
                        take(next, number.saturating_sub(1));
                    }
                    next = next.max(number.saturating_add(1));
                }
            }
        }
    }
}

/// The parts of a span that lie in none of `explained`.
fn without(first: u64, last: u64, explained: &[(u64, u64)], take: &mut impl FnMut(u64, u64)) {
    let mut next = first;
    for &(a, b) in explained.iter().filter(|&&(a, b)| a <= last && b >= first) {
        if next < a {
            take(next, a.saturating_sub(1));
        }
        next = next.max(b.saturating_add(1));
    }
    if next <= last {
        take(next, last);
    }
}

fn place(number: u64) -> (usize, u64) {
    let within = number % CHUNK;
    (usize::try_from(within / WORD).unwrap_or(0), 1 << (within % WORD))
}

fn count(index: usize) -> u64 {
    u64::try_from(index).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn of(numbers: impl IntoIterator<Item = u64>) -> Sequences {
        let mut sequences = Sequences::default();
        numbers.into_iter().for_each(|number| sequences.insert(number));
        sequences
    }

    #[test]
    fn a_jump_of_billions_costs_nothing() {
        let sequences = of([1, 2, 5, 10_000_000_001]);
        let missing = sequences.missing(1, &[]);
        assert_eq!(missing.spans, [(3, 4), (6, 10_000_000_000)]);
        assert_eq!(missing.count, 2 + 9_999_999_995);
        assert_eq!(sequences.missing(1, &[(6, 10_000_000_000)]).spans, [(3, 4)]);
        assert_eq!(sequences.whole_up_to(1, &[]), 2);
        assert_eq!(sequences.whole_up_to(1, &[(3, 10_000_000_000)]), 10_000_000_001);
        assert_eq!((sequences.highest(), sequences.doubled()), (10_000_000_001, 0));
        assert_eq!((of([]).highest(), of([]).whole_up_to(1, &[])), (0, 0));
        assert_eq!(of([7, 7, 7]).doubled(), 2);
    }

    #[test]
    fn too_many_spans_are_covered_by_the_last() {
        let missing = of((0..4_000).map(|number| number * 2)).missing(0, &[]);
        assert_eq!(missing.count, 3_999);
        assert_eq!(missing.spans.len(), SPANS_MAX);
        assert_eq!(missing.spans.last(), Some(&(1_999, 7_997)));
    }

    proptest! {
        /// Beside the plainest model there is: a set of numbers.
        #[test]
        fn what_is_missing_is_what_a_set_lacks(
            numbers in btree_set(1_u64..400, 1..200), from in 1_u64..100,
            explained in vec((1_u64..400, 0_u64..30), 0..4), far in any::<bool>(),
        ) {
            let base = if far { CHUNK - 200 } else { 0 };
            let mut explained: Vec<_> =
                explained.into_iter().map(|(a, n)| (base + a, base + a + n)).collect();
            explained.sort_unstable();
            let sequences = of(numbers.iter().map(|number| base + number));
            let highest = base + numbers.last().unwrap();
            let known = |n: u64| {
                numbers.contains(&(n - base)) || explained.iter().any(|&(a, b)| a <= n && n <= b)
            };
            let wanted: BTreeSet<u64> =
                (base + from..=highest).filter(|number| !known(*number)).collect();
            let missing = sequences.missing(base + from, &explained);
            let found: BTreeSet<u64> = missing.spans.iter().flat_map(|&(a, b)| a..=b).collect();
            prop_assert_eq!(missing.count, u64::try_from(wanted.len()).unwrap());
            prop_assert_eq!(&found, &wanted);
            prop_assert_eq!(sequences.highest(), highest);
            if base + from <= highest {
                let whole = wanted.first().map_or(highest, |first| first - 1);
                prop_assert_eq!(sequences.whole_up_to(base + from, &explained), whole);
            }
        }
    }
}
