//! How fast records are sent again. Pure, but for the type of the clock.

use std::fmt;
use std::time::Duration;
use tokio::time::Instant;

/// Most records of one transaction.
const BATCH_RECORDS_MAX: u64 = 2_000;

/// Records in a second, at most; `None`: as fast as it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(Option<u32>);

impl Rate {
    /// No limit.
    pub const UNLIMITED: Self = Self(None);

    /// At most so many in a second; zero is none.
    pub fn per_second(records: u32) -> Option<Self> {
        (records > 0).then_some(Self(Some(records)))
    }

    /// How long so many records take at least.
    pub fn time_of(self, records: u64) -> Option<Duration> {
        let per_second = u64::from(self.0?);
        let rest_ns = (records % per_second).saturating_mul(1_000_000_000) / per_second;
        Some(Duration::from_secs(records / per_second) + Duration::from_nanos(rest_ns))
    }

    /// Most records of a transaction: no more than a second's worth, so that a slow replay is an even one.
    pub fn batch_records_max(self) -> u64 {
        self.0.map_or(BATCH_RECORDS_MAX, |it| u64::from(it).min(BATCH_RECORDS_MAX))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(records) => write!(f, "{records} records/s"),
            None => f.write_str("no limit"),
        }
    }
}

/// Keeps to a rate. Time in which nothing was sent is not made up for.
#[derive(Debug)]
pub struct Pacer {
    rate: Rate,
    due: Option<Instant>,
}

impl Pacer {
    /// From now on.
    pub fn new(rate: Rate) -> Self {
        Self { rate, due: None }
    }

    /// When the next records may be sent; books them.
    pub fn book(&mut self, records: u64, now: Instant) -> Instant {
        let at = self.due.map_or(now, |due| due.max(now));
        self.due = self.rate.time_of(records).map(|time| at + time);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(records: u32) -> Rate {
        Rate::per_second(records).unwrap()
    }

    #[test]
    fn time_and_batches_follow_the_rate() {
        assert_eq!(rate(500).time_of(1_250), Some(Duration::from_millis(2_500)));
        assert_eq!(Rate::UNLIMITED.time_of(u64::MAX), None);
        assert_eq!(rate(3).batch_records_max(), 3);
        assert_eq!(rate(9_000).batch_records_max(), 2_000);
        assert_eq!(Rate::UNLIMITED.batch_records_max(), 2_000);
        assert_eq!(Rate::per_second(0), None);
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let start = Instant::now();
        let mut pacer = Pacer::new(rate(10));
        assert_eq!(pacer.book(10, start), start);
        assert_eq!(pacer.book(5, start), start + Duration::from_secs(1));
        let later = start + Duration::from_mins(1);
        assert_eq!(pacer.book(5, later), later);
        assert_eq!(pacer.book(5, later), later + Duration::from_millis(500));
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate(
            records in 1_u32..10_000,
            steps in proptest::collection::vec((1_u64..2_000, 0_u64..500), 1..50),
        ) {
            let mut pacer = Pacer::new(rate(records));
            let start = Instant::now();
            let mut now = start;
            let mut sent_before = 0;
            for (batch, pause_ms) in steps {
                now = pacer.book(batch, now + Duration::from_millis(pause_ms));
                let least = rate(records).time_of(sent_before).unwrap();
                // each booking rounds down to a nanosecond
                prop_assert!(now - start + Duration::from_nanos(50) >= least);
                sent_before += batch;
            }
        }
    }
}
