//! Where the collectors of all entities meet: each posts what it wants, and is told what it may ask for now.
//!
//! The decision is [`allot`]; here are only who takes part, the ledger, and the bells that wake a collector whose turn has
//! come. Nothing waits while the lock is held.

use super::allot::{Allotment, Demand, Item, Party, Scene, State, Way, Why, allot};
use super::budget::{Account, Ledger, Now, Standing, Told};
use crate::audit::{EntityKind, EntityName};
use crate::github::CredentialId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// A demand that is not posted again counts so long, milliseconds: its collector has other troubles.
const DEMAND_MS: i64 = 15_000;

/// The one scheduler of a process.
#[derive(Debug)]
pub struct Arbiter(Mutex<Desk>);

#[derive(Debug)]
struct Desk {
    ledger: Ledger,
    credentials: Vec<CredentialId>,
    numbers: BTreeMap<CredentialId, usize>,
    in_flight: Vec<u32>,
    aside: Vec<Option<(i64, &'static str)>>,
    chairs: Vec<Chair>,
}

/// What is known of one entity.
#[derive(Debug)]
struct Chair {
    entity: EntityName,
    class: EntityKind,
    /// Its credentials by number.
    ways: Vec<usize>,
    /// Those that it was refused itself, until when.
    aside: Vec<Option<i64>>,
    /// Those with which it has a request in flight.
    busy: Vec<bool>,
    demand: Demand,
    /// When it was posted; `None`: it counts no more.
    posted: Option<Now>,
    /// The last time that the entity told.
    last: Option<Now>,
    bell: Arc<Notify>,
    /// Entities that share a credential, directly or through others, have the same number.
    group: usize,
}

/// What a collector may ask for.
#[derive(Debug)]
pub struct Turn {
    /// Number of the item among those that were posted, and the ticket of its request.
    pub granted: Vec<(usize, Ticket)>,
    /// Why each item is asked for, or not.
    pub whys: Vec<Why>,
    /// Monotonic time at which it may be worth while to ask again, milliseconds; `None`: when the bell rings.
    pub wake_ms: Option<i64>,
}

/// Why a slice is read now or is not, for those who look on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The entity.
    pub entity: EntityName,
    /// The slice.
    pub item: Item,
    /// Why.
    pub why: Why,
}

/// How it stands with one credential of an entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credit {
    /// The credential.
    pub credential: CredentialId,
    /// Its budget; `None` while none is known, or where there is no limit.
    pub standing: Option<Standing>,
    /// Whether this budget is the entity's alone.
    pub is_separate: bool,
    /// Until when it is set aside, monotonic milliseconds, and why where that is the same for all who use it.
    pub aside: Option<(i64, Option<&'static str>)>,
}

impl Arbiter {
    /// A scheduler that leaves `reserve` requests of each window to others.
    pub fn new(reserve: u64) -> Self {
        Self(Mutex::new(Desk {
            ledger: Ledger::new(reserve),
            credentials: Vec::new(),
            numbers: BTreeMap::new(),
            in_flight: Vec::new(),
            aside: Vec::new(),
            chairs: Vec::new(),
        }))
    }

    /// Takes an entity in, with the credentials that it may use.
    pub fn seat(
        self: &Arc<Self>,
        entity: &EntityName,
        class: EntityKind,
        credentials: &[CredentialId],
    ) -> Seat {
        let bell = Arc::new(Notify::new());
        let number = self.desk().seat(entity, class, credentials, Arc::clone(&bell));
        Seat { arbiter: Arc::clone(self), number, bell }
    }

    /// Why each slice is read now or is not.
    pub fn reasons(&self, mono_ms: i64) -> Vec<Reason> {
        let desk = self.desk();
        let everybody: Vec<usize> = (0..desk.chairs.len()).collect();
        let allotment = desk.allot(&everybody, mono_ms);
        let mut reasons = Vec::new();
        for (chair, whys) in desk.chairs.iter().zip(allotment.whys) {
            for (&item, why) in chair.demand.items.iter().zip(whys) {
                reasons.push(Reason { entity: chair.entity.clone(), item, why });
            }
        }
        reasons
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        // a poisoned lock means that a holder panicked between assignments of plain values
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An entity's place at the scheduler.
#[derive(Debug)]
pub struct Seat {
    arbiter: Arc<Arbiter>,
    number: usize,
    bell: Arc<Notify>,
}

impl Seat {
    /// Posts what the entity wants and takes what it gets.
    pub fn ask(&self, demand: Demand, now: Now) -> Turn {
        let (turn, bells) = self.arbiter.desk().ask(self.number, demand, now);
        for bell in bells {
            bell.notify_one();
        }
        let ticket = |(item, way, is_tail)| {
            let ticket = Ticket {
                arbiter: Arc::clone(&self.arbiter),
                number: self.number,
                way,
                now,
                is_tail,
                is_open: true,
            };
            (item, ticket)
        };
        let granted = turn.granted.into_iter().map(ticket).collect();
        Turn { granted, whys: turn.whys, wake_ms: turn.wake_ms }
    }

    /// The entity wants nothing for now: nobody waits for it.
    pub fn withdraw(&self) {
        let mut desk = self.arbiter.desk();
        if let Some(chair) = desk.chairs.get_mut(self.number) {
            chair.posted = None;
            chair.demand.items.clear();
        }
    }

    /// Waits until the entity's turn may have come.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }

    /// Sets a credential aside, for this entity or for all that use it.
    pub fn set_aside(&self, way: usize, until_ms: i64, reason: &'static str, for_all: bool) {
        self.arbiter.desk().set_aside(self.number, way, until_ms, reason, for_all);
    }

    /// Until when a credential is set aside for a secondary limit: GitHub counts that over REST and GraphQL together.
    pub fn limited_until(&self, way: usize, mono_ms: i64) -> Option<i64> {
        let desk = self.arbiter.desk();
        let credential = *desk.chairs.get(self.number)?.ways.get(way)?;
        let (until_ms, reason) = desk.aside.get(credential).copied().flatten()?;
        (reason == "secondary" && until_ms > mono_ms).then_some(until_ms)
    }

    /// A page came with a credential: it is no longer on trial.
    pub fn prove(&self, way: usize, mono_ms: i64) {
        self.arbiter.desk().prove(self.number, way, mono_ms);
    }

    /// A credential works, or is another one now: it is used again.
    pub fn take_back(&self, way: usize) {
        self.arbiter.desk().take_back(self.number, way);
    }

    /// How it stands with each of the entity's credentials.
    pub fn credits(&self, now: Now) -> Vec<Credit> {
        let desk = self.arbiter.desk();
        let Some(chair) = desk.chairs.get(self.number) else { return Vec::new() };
        let credit = |(way, &credential): (usize, &usize)| {
            let account = Account { credential, class: chair.class, entity: self.number };
            let until_ms = desk.aside_until(chair, way).filter(|until| *until > now.mono_ms);
            let of_all = desk.aside.get(credential).copied().flatten();
            let reason = of_all.filter(|(until, _)| Some(*until) == until_ms).map(|it| it.1);
            Some(Credit {
                credential: desk.credentials.get(credential)?.clone(),
                standing: desk.ledger.standing(account, now.s),
                is_separate: desk.ledger.is_separate(account),
                aside: until_ms.map(|until_ms| (until_ms, reason)),
            })
        };
        chair.ways.iter().enumerate().filter_map(credit).collect()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.withdraw();
    }
}

/// One request that was granted. Dropped without an answer, it counts as one that GitHub may have counted.
#[derive(Debug)]
pub struct Ticket {
    arbiter: Arc<Arbiter>,
    number: usize,
    way: usize,
    now: Now,
    is_tail: bool,
    is_open: bool,
}

impl Ticket {
    /// Number of the entity's credential.
    pub fn way(&self) -> usize {
        self.way
    }

    /// Whether it is for a tail.
    pub fn is_tail(&self) -> bool {
        self.is_tail
    }

    /// The answer has come. Returns how many requests of others were noticed by it.
    pub fn answered(mut self, told: Told, now: Now) -> u64 {
        self.is_open = false;
        self.arbiter.desk().answer(self.number, self.way, told, now)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.is_open {
            self.arbiter.desk().answer(self.number, self.way, Told::Nothing, self.now);
        }
    }
}

/// A turn as the desk gives it: item, way, and whether it is a tail.
struct Given {
    granted: Vec<(usize, usize, bool)>,
    whys: Vec<Why>,
    wake_ms: Option<i64>,
}

impl Chair {
    /// GitHub's now as this entity knows it.
    fn now(&self, mono_ms: i64) -> Now {
        let last = self.last.unwrap_or(Now { s: 0, mono_ms });
        let s = last.s.saturating_add(mono_ms.saturating_sub(last.mono_ms).max(0) / 1000);
        Now { s, mono_ms }
    }
}

impl Desk {
    fn seat(
        &mut self,
        entity: &EntityName,
        class: EntityKind,
        credentials: &[CredentialId],
        bell: Arc<Notify>,
    ) -> usize {
        let ways: Vec<usize> = credentials.iter().map(|id| self.number(id)).collect();
        let number = self.chairs.len();
        let shares = |chair: &&Chair| chair.ways.iter().any(|way| ways.contains(way));
        let groups: Vec<usize> = self.chairs.iter().filter(shares).map(|it| it.group).collect();
        for chair in self.chairs.iter_mut().filter(|chair| groups.contains(&chair.group)) {
            chair.group = number;
        }
        self.chairs.push(Chair {
            entity: entity.clone(),
            class,
            aside: vec![None; ways.len()],
            busy: vec![false; ways.len()],
            ways,
            demand: Demand::default(),
            posted: None,
            last: None,
            bell,
            group: number,
        });
        number
    }

    fn number(&mut self, id: &CredentialId) -> usize {
        if let Some(&number) = self.numbers.get(id) {
            return number;
        }
        let number = self.credentials.len();
        self.credentials.push(id.clone());
        self.numbers.insert(id.clone(), number);
        self.in_flight.push(0);
        self.aside.push(None);
        number
    }

    fn ask(&mut self, number: usize, demand: Demand, now: Now) -> (Given, Vec<Arc<Notify>>) {
        let mut given = Given { granted: Vec::new(), whys: Vec::new(), wake_ms: None };
        let Some(chair) = self.chairs.get_mut(number) else { return (given, Vec::new()) };
        chair.demand = demand;
        chair.posted = Some(now);
        chair.last = Some(now);
        let group = chair.group;
        let fresh = |chair: &Chair| {
            chair.posted.is_some_and(|at| now.mono_ms.saturating_sub(at.mono_ms) < DEMAND_MS)
        };
        let members = self.chairs.iter().enumerate();
        let members: Vec<usize> = members
            .filter(|(_, chair)| chair.group == group && fresh(chair))
            .map(|(number, _)| number)
            .collect();
        let mut allotment = self.allot(&members, now.mono_ms);
        let mut bells = BTreeMap::new();
        for grant in &allotment.grants {
            let Some(&member) = members.get(grant.party) else { continue };
            if member != number {
                if let Some(chair) = self.chairs.get(member) {
                    bells.insert(member, Arc::clone(&chair.bell));
                }
                continue;
            }
            let is_tail = self.start(number, grant.item, grant.way, now);
            given.granted.push((grant.item, grant.way, is_tail));
        }
        let at = members.iter().position(|member| *member == number);
        given.whys =
            at.and_then(|at| allotment.whys.get_mut(at)).map(std::mem::take).unwrap_or_default();
        given.wake_ms = wake_ms(&given.whys, now.mono_ms);
        (given, bells.into_values().collect())
    }

    /// Books a request that is about to be made.
    fn start(&mut self, number: usize, item: usize, way: usize, now: Now) -> bool {
        let Some(chair) = self.chairs.get_mut(number) else { return false };
        let Some(&credential) = chair.ways.get(way) else { return false };
        if let Some(busy) = chair.busy.get_mut(way) {
            *busy = true;
        }
        let mut is_tail = false;
        if let Some(item) = chair.demand.items.get_mut(item) {
            item.state = State::InFlight(way);
            is_tail = matches!(item.rank, super::allot::Rank::Tail { .. });
        }
        let account = Account { credential, class: chair.class, entity: number };
        self.ledger.start(account, is_tail, now);
        if let Some(in_flight) = self.in_flight.get_mut(credential) {
            *in_flight = in_flight.saturating_add(1);
        }
        is_tail
    }

    fn answer(&mut self, number: usize, way: usize, told: Told, now: Now) -> u64 {
        let Some(chair) = self.chairs.get_mut(number) else { return 0 };
        let Some(&credential) = chair.ways.get(way) else { return 0 };
        if let Some(busy) = chair.busy.get_mut(way) {
            *busy = false;
        }
        // until it posts again it is taken to go on: others must not slip in between
        for item in &mut chair.demand.items {
            if item.state == State::InFlight(way) {
                item.state = State::Ready;
            }
        }
        let account = Account { credential, class: chair.class, entity: number };
        if let Some(in_flight) = self.in_flight.get_mut(credential) {
            *in_flight = in_flight.saturating_sub(1);
        }
        self.ledger.answer(account, told, now)
    }

    fn set_aside(
        &mut self,
        number: usize,
        way: usize,
        until_ms: i64,
        reason: &'static str,
        for_all: bool,
    ) {
        let Some(chair) = self.chairs.get_mut(number) else { return };
        if for_all {
            let aside = chair.ways.get(way).and_then(|credential| self.aside.get_mut(*credential));
            // of two reasons the one that lasts longer
            if let Some(aside) = aside
                && aside.is_none_or(|(until, _)| until < until_ms)
            {
                *aside = Some((until_ms, reason));
            }
        } else if let Some(aside) = chair.aside.get_mut(way) {
            *aside = Some(until_ms);
        }
    }

    fn prove(&mut self, number: usize, way: usize, mono_ms: i64) {
        let Some(chair) = self.chairs.get(number) else { return };
        if self.aside_until(chair, way).is_some_and(|until_ms| until_ms <= mono_ms) {
            self.take_back(number, way);
        }
    }

    fn take_back(&mut self, number: usize, way: usize) {
        let Some(chair) = self.chairs.get_mut(number) else { return };
        if let Some(aside) = chair.aside.get_mut(way) {
            *aside = None;
        }
        let aside = chair.ways.get(way).and_then(|credential| self.aside.get_mut(*credential));
        if let Some(aside) = aside {
            *aside = None;
        }
    }

    fn aside_until(&self, chair: &Chair, way: usize) -> Option<i64> {
        let own = chair.aside.get(way).copied().flatten();
        let of_all = chair.ways.get(way).and_then(|it| self.aside.get(*it)).copied().flatten();
        own.max(of_all.map(|(until, _)| until))
    }

    fn allot(&self, members: &[usize], mono_ms: i64) -> Allotment {
        let mut purses = Vec::new();
        let mut known = BTreeMap::new();
        let mut ways = Vec::with_capacity(members.len());
        // one that has not heard from GitHub since an outage must not hold the window of the others open
        let mut latest = BTreeMap::new();
        for chair in members.iter().filter_map(|number| self.chairs.get(*number)) {
            for &credential in &chair.ways {
                let s = latest.entry(credential).or_insert(i64::MIN);
                *s = (*s).max(chair.now(mono_ms).s);
            }
        }
        for &number in members {
            let Some(chair) = self.chairs.get(number) else { continue };
            let each = chair.ways.iter().enumerate().map(|(way, &credential)| {
                let account = Account { credential, class: chair.class, entity: number };
                let own = self.ledger.is_separate(account).then_some(number);
                let is_enterprise = chair.class == EntityKind::Enterprise;
                let purse = *known.entry((credential, is_enterprise, own)).or_insert_with(|| {
                    let s = latest.get(&credential).copied().unwrap_or(i64::MIN);
                    purses.push(self.ledger.purse(account, Now { s, mono_ms }));
                    purses.len().saturating_sub(1)
                });
                let busy = chair.busy.get(way) == Some(&true);
                Way { credential, purse, busy, aside_until_ms: self.aside_until(chair, way) }
            });
            ways.push(each.collect::<Vec<Way>>());
        }
        let chairs = members.iter().filter_map(|number| self.chairs.get(*number));
        let parties =
            chairs.zip(&ways).map(|(chair, ways)| Party { demand: &chair.demand, ways }).collect();
        allot(&Scene { parties, purses, in_flight: self.in_flight.clone(), mono_ms })
    }
}

/// The earliest time at which a reason not to ask ends by itself.
fn wake_ms(whys: &[Why], mono_ms: i64) -> Option<i64> {
    let ends = whys.iter().filter_map(|why| match why {
        Why::NotDue(at_ms) | Why::Aside(at_ms) => Some(*at_ms),
        Why::Budget(left_ms) | Why::Kept(left_ms) => Some(mono_ms.saturating_add(*left_ms)),
        _ => None,
    });
    ends.min()
}

#[cfg(test)]
mod simulation;
