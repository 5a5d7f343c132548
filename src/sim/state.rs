//! What a running simulated GitHub knows and remembers.

use super::access::Access;
use super::clock::Clock;
use super::config::{SimConfig, SimEntity};
use super::faults::Faults;
use super::inject::{Date, Plan};
use super::limits::Limits;
use super::log::{EntityLog, Row, World};
use super::premade::Premade;
use super::query::PathTarget;
use super::rng::{mix, usize_of};
use super::stats::SimStats;
use super::timeline::{EXTRA, Variant};
use crate::audit::Lane;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// At most one answer in so many has a wild `Date`, over all lanes: three in a row would rightly be believed.
const WILD_DATE_APART: u64 = 10;

/// Shared by the listeners and [`super::Sim`].
#[derive(Debug)]
pub(crate) struct State {
    /// As configured.
    pub(crate) seed: u64,
    /// Path before the endpoints, without a slash at its end.
    pub(crate) base_path: String,
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    /// Host and port of the other host.
    pub(crate) elsewhere: String,
    /// Versions of the API.
    pub(crate) api_versions: Vec<String>,
    /// The logs.
    pub(crate) entities: Vec<EntityLog>,
    /// The simulated clock.
    pub(crate) clock: Clock,
    /// Who may ask.
    pub(crate) access: Mutex<Access>,
    /// Request budgets.
    pub(crate) limits: Mutex<Limits>,
    /// Counters.
    pub(crate) stats: Mutex<SimStats>,
    /// Pages made beforehand.
    pub(crate) premade: Option<Premade>,
    faults: RwLock<Arc<Faults>>,
    struck: AtomicU64,
    /// Requests so far, and the number of the last one with a wild `Date`.
    requests: AtomicU64,
    last_wild_date: AtomicU64,
    lanes: Vec<LaneState>,
    served: Mutex<HashSet<u64>>,
}

/// What is remembered of one lane of one entity.
#[derive(Debug, Default)]
struct LaneState {
    requests: AtomicU64,
    served: Mutex<Vec<u64>>,
}

/// A lock that outlives a panic of another thread.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// From a configuration; `elsewhere` is host and port of the other host.
    pub(crate) fn new(config: &SimConfig, elsewhere: String) -> Self {
        let log = |entity: &SimEntity| {
            let mirror = config.mirrors.iter().find(|(a, _)| *a == entity.slug);
            let shown = mirror.and_then(|(_, b)| config.entities.iter().find(|it| it.slug == *b));
            let shown = shown.unwrap_or(entity);
            EntityLog::new(config.seed, entity, shown, config.clock, &config.faults)
        };
        let entities: Vec<_> = config.entities.iter().map(log).collect();
        let premade = config.premade.then(|| Premade::new(&entities, config.clock.start_ms));
        Self {
            seed: config.seed,
            premade,
            base_path: config.base_path.trim_end_matches('/').to_owned(),
            scheme: if config.tls { "https" } else { "http" },
            elsewhere,
            api_versions: config.api_versions.clone(),
            lanes: entities.iter().flat_map(|_| Lane::ALL.map(|_| LaneState::default())).collect(),
            entities,
            clock: Clock::start(config.clock),
            access: Mutex::new(Access::new(config)),
            limits: Mutex::new(Limits::new(config.rate_limit_window_s)),
            stats: Mutex::default(),
            faults: RwLock::new(Arc::new(config.faults.clone())),
            struck: AtomicU64::new(0),
            requests: AtomicU64::new(WILD_DATE_APART),
            last_wild_date: AtomicU64::new(0),
            served: Mutex::default(),
        }
    }

    /// The switches as they are now.
    pub(crate) fn faults(&self) -> Arc<Faults> {
        Arc::clone(&self.faults.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the switches.
    pub(crate) fn set_faults(&self, faults: Faults) {
        *self.faults.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(faults);
        self.struck.store(0, Ordering::Relaxed);
    }

    /// The entity of a path, by slug or numeric id.
    pub(crate) fn entity(&self, target: &PathTarget) -> Option<(usize, &EntityLog)> {
        self.entities.iter().enumerate().find(|(_, entity)| {
            let who = &entity.who;
            who.kind == target.kind
                && (who.slug == target.name || target.name.parse() == Ok(who.id))
        })
    }

    /// What strikes the next request of this lane.
    pub(crate) fn plan(&self, entity: usize, lane: Lane) -> Plan {
        let faults = self.faults();
        let (Some(log), Some(state)) = (self.entities.get(entity), self.lane(entity, lane)) else {
            return Plan::none(0);
        };
        let number = state.requests.fetch_add(1, Ordering::Relaxed);
        let own = if lane == Lane::GraphQl { mix(self.seed, 1) } else { self.seed };
        let draw = mix(mix(own, log.lane(lane).seed), number);
        let meant = faults.only_entity.as_ref().is_none_or(|only| *only == log.who.slug)
            && faults.only_lane.is_none_or(|only| only == lane);
        if !meant {
            return Plan::none(draw);
        }
        let overall = self.requests.fetch_add(1, Ordering::Relaxed);
        let since = overall - self.last_wild_date.load(Ordering::Relaxed).min(overall);
        let mut plan = Plan::new(&faults, draw, since >= WILD_DATE_APART);
        if lane == Lane::GraphQl {
            plan = plan.of_graphql(&faults);
        }
        let spent = faults.at_most > 0 && self.struck.load(Ordering::Relaxed) >= faults.at_most;
        if plan.names.is_empty() || spent {
            return Plan::none(draw);
        }
        self.struck.fetch_add(1, Ordering::Relaxed);
        if plan.date == Date::Wild {
            self.last_wild_date.store(overall, Ordering::Relaxed);
        }
        plan
    }

    fn lane(&self, entity: usize, lane: Lane) -> Option<&LaneState> {
        let place = Lane::ALL.iter().position(|of| *of == lane)?;
        self.lanes.get(entity * Lane::ALL.len() + place)
    }

    /// Properties that selecting rows depends on.
    pub(crate) fn world(&self) -> World {
        let faults = self.faults();
        World {
            filters_created_at: faults.created_filters_created_at,
            git_newest_first: faults.git_newest_first,
            graphql: false,
            rest_later_ms: super::rng::i64_of(faults.graphql_ahead_s).saturating_mul(1000),
        }
    }

    /// Remembers that these rows were handed over as they are at `now`.
    pub(crate) fn mark_served(&self, entity: usize, rows: &[Row], now: i64) {
        let Some(log) = self.entities.get(entity) else {
            return;
        };
        for lane in Lane::REST {
            let Some(state) = self.lane(entity, lane) else {
                continue;
            };
            let mut bits = lock(&state.served);
            for row in rows.iter().filter(|row| row.lane == lane && row.key.index < EXTRA) {
                let bit = bit_of(row.key.index, log.lane(lane).variant(row.key.index, now));
                let word = usize_of(bit / 64);
                if bits.len() <= word {
                    bits.resize(word + 1, 0);
                }
                if let Some(word) = bits.get_mut(word) {
                    *word |= 1 << (bit % 64);
                }
            }
        }
        let mut extras = lock(&self.served);
        extras.extend(
            rows.iter()
                .filter(|row| row.key.index >= EXTRA)
                .map(|row| extra_bit(entity, row.lane, row.key.index)),
        );
    }

    /// Whether this body was handed over in full at least once.
    pub(crate) fn was_served(
        &self,
        entity: usize,
        lane: Lane,
        index: u64,
        variant: Variant,
    ) -> bool {
        if index >= EXTRA {
            return lock(&self.served).contains(&extra_bit(entity, lane, index));
        }
        let bit = bit_of(index, variant);
        self.lane(entity, lane).is_some_and(|state| {
            lock(&state.served)
                .get(usize_of(bit / 64))
                .is_some_and(|word| word >> (bit % 64) & 1 == 1)
        })
    }
}

fn bit_of(index: u64, variant: Variant) -> u64 {
    index * 4 + u64::from(variant.revised) * 2 + u64::from(variant.ip)
}

fn extra_bit(entity: usize, lane: Lane, index: u64) -> u64 {
    mix(mix(super::rng::u64_of(entity), index), u64::from(lane == Lane::Git))
}
