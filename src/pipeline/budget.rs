//! What may still be asked of GitHub: a ledger of each credential's requests, learned from the headers of the answers. Pure.
//!
//! A budget belongs to a credential and an endpoint class. GitHub's documentation says "per user and IP address", its
//! changelog of 2023 said "per user, address and entity": so both books are kept, one for all entities of the class and
//! one for each entity, and the headers decide which of the two holds. Until they do, the entities share one budget.
//! See `docs/decisions/0018-one-scheduler.md`.

use crate::audit::EntityKind;
use crate::github::rate_limit::Budget;
use std::collections::BTreeMap;

/// GitHub's reset times differ by a second or two from answer to answer.
const RESET_SLACK_S: i64 = 2;
/// What `remaining` may go up within a window when answers overtake each other.
const OVERTAKING_MAX: u64 = 2;
/// Signs that entities have budgets of their own: so many decide, so many are kept.
const SIGNS_ENOUGH: u8 = 4;
const SIGNS_MAX: u8 = 6;
/// Where no window is known, milliseconds: GitHub's usual one.
const WINDOW_MS: i64 = 3_600_000;
/// GitHub's clock must have gone on so far before its pace is reckoned, seconds.
const PACE_AFTER_S: i64 = 60;

/// The time by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// GitHub's now, epoch seconds.
    pub s: i64,
    /// Monotonic time, milliseconds.
    pub mono_ms: i64,
}

/// What an answer told of the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Its headers.
    Budget(Budget),
    /// A page without such headers: there is no limit (GHES).
    Unlimited,
    /// Nothing, and it may have been counted: no answer, or an error without headers.
    Nothing,
}

/// Whose budget: credential and entity by number, and the endpoint class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// Number of the credential.
    pub credential: usize,
    /// Enterprises or organizations.
    pub class: EntityKind,
    /// Number of the entity.
    pub entity: usize,
}

/// What the scheduler needs to know of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purse {
    /// Requests that may be made now: neither the reserve nor what is in flight is among them. `u64::MAX`: no limit.
    pub spendable: u64,
    /// Requests of a whole window less the reserve. `u64::MAX`: no limit is known.
    pub whole: u64,
    /// Requests of this window that tails have used.
    pub tail_spent: u64,
    /// Requests that others are expected to make with this credential until the window ends.
    pub foreign: u64,
    /// Until the window ends, by our own clock, milliseconds.
    pub left_ms: i64,
}

impl Purse {
    /// Without any limit.
    pub const UNLIMITED: Self = Self {
        spendable: u64::MAX,
        whole: u64::MAX,
        tail_spent: 0,
        foreign: 0,
        left_ms: WINDOW_MS,
    };
}

/// How it stands with a budget, for those who look on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Requests of a window.
    pub limit: u64,
    /// What GitHub last said is left, less what was sent since.
    pub remaining: u64,
    /// When the window ends, epoch seconds.
    pub reset_s: i64,
    /// Requests of this window that somebody else made.
    pub foreign: u64,
}

/// All budgets.
#[derive(Debug)]
pub struct Ledger {
    reserve: u64,
    shared: BTreeMap<(usize, EntityKind), Book>,
    own: BTreeMap<(usize, usize), Book>,
    signs: BTreeMap<(usize, EntityKind), Signs>,
    pace: Pace,
}

impl Ledger {
    /// An empty ledger that leaves `reserve` requests of each window to others.
    pub fn new(reserve: u64) -> Self {
        Self {
            reserve,
            shared: BTreeMap::new(),
            own: BTreeMap::new(),
            signs: BTreeMap::new(),
            pace: Pace::default(),
        }
    }

    /// A request is sent.
    pub fn start(&mut self, account: Account, is_tail: bool, now: Now) {
        for book in self.books(account) {
            book.start(is_tail, now.s);
        }
    }

    /// Its answer has come, or none will. Returns how many requests of others were noticed by it.
    pub fn answer(&mut self, account: Account, told: Told, now: Now) -> u64 {
        self.pace.observe(now);
        if let Told::Budget(budget) = told {
            self.learn(account, budget, now.s);
        }
        let is_separate = self.is_separate(account);
        let [shared, own] = self.books(account);
        let of_shared = shared.answer(told, now.s);
        let of_own = own.answer(told, now.s);
        if is_separate { of_own } else { of_shared }
    }

    /// What may be spent.
    pub fn purse(&self, account: Account, now: Now) -> Purse {
        self.book(account).map_or(
            // nobody has been asked yet: one request finds out
            Purse { spendable: 1, ..Purse::UNLIMITED },
            |book| book.purse(self.reserve, now.s, self.pace),
        )
    }

    /// How a budget stands; `None` while nothing is known, or where there is no limit.
    pub fn standing(&self, account: Account, now_s: i64) -> Option<Standing> {
        self.book(account)?.standing(now_s)
    }

    /// Whether each entity was found to have a budget of its own with this credential.
    pub fn is_separate(&self, account: Account) -> bool {
        self.signs.get(&(account.credential, account.class)).is_some_and(|it| it.is_separate)
    }

    /// How far the clocks are apart in pace: our milliseconds in so many seconds of GitHub's.
    pub fn mono_ms(&self, seconds: i64) -> i64 {
        self.pace.mono_ms(seconds)
    }

    fn book(&self, account: Account) -> Option<&Book> {
        if self.is_separate(account) {
            self.own.get(&(account.credential, account.entity))
        } else {
            self.shared.get(&(account.credential, account.class))
        }
    }

    fn books(&mut self, account: Account) -> [&mut Book; 2] {
        [
            self.shared.entry((account.credential, account.class)).or_default(),
            self.own.entry((account.credential, account.entity)).or_default(),
        ]
    }

    /// Two entities that share a budget never see different windows, nor `remaining` go up within one.
    fn learn(&mut self, account: Account, told: Budget, now_s: i64) {
        let key = (account.credential, account.class);
        let before = self.shared.get(&key).and_then(|book| book.window(now_s));
        let in_flight = self.shared.get(&key).map_or(0, |book| book.in_flight);
        let signs = self.signs.entry(key).or_default();
        let last = signs.last.replace(account.entity);
        let Some(before) = before.filter(|_| last.is_some_and(|it| it != account.entity)) else {
            return;
        };
        let other_window = (told.reset_s - before.reset_s).abs() > RESET_SLACK_S;
        let rose = told.remaining > before.left.saturating_add(in_flight + OVERTAKING_MAX);
        signs.count = if other_window || rose {
            signs.count.saturating_add(2).min(SIGNS_MAX)
        } else {
            signs.count.saturating_sub(1)
        };
        signs.is_separate = match signs.count {
            0 => false,
            SIGNS_ENOUGH.. => true,
            _ => signs.is_separate,
        };
    }
}

#[derive(Debug, Default)]
struct Signs {
    last: Option<usize>,
    count: u8,
    is_separate: bool,
}

/// How much faster than ours GitHub's clock goes: 1, but for a simulated one.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    since: Option<Now>,
    milli: Option<i64>,
}

impl Pace {
    fn observe(&mut self, now: Now) {
        let Some(since) = self.since else {
            self.since = Some(now);
            return;
        };
        let (gone_s, gone_ms) = (now.s - since.s, now.mono_ms - since.mono_ms);
        if gone_s >= PACE_AFTER_S {
            let milli = gone_s.saturating_mul(1_000_000) / gone_ms.max(1);
            // a real clock differs by its rounding to seconds; one that jumps once has not gone fast
            let is_fast = milli >= 1500 && gone_ms >= 200;
            self.milli = is_fast.then_some(milli);
            self.since = Some(now);
        }
    }

    fn mono_ms(self, seconds: i64) -> i64 {
        let milli = self.milli.unwrap_or(1000);
        seconds.saturating_mul(1_000_000) / milli.max(1000)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    limit: u64,
    /// Least `remaining` that was told, less the requests since of which nothing was told.
    left: u64,
    reset_s: i64,
    /// How long a window lasts, as far as was seen.
    length_s: i64,
    /// `remaining` of the window's first answer, and when it came.
    first_left: u64,
    first_s: i64,
    /// Our answers since then.
    answered: u64,
    /// Requests of others noticed.
    foreign: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Limit {
    /// No answer has told anything.
    #[default]
    Unknown,
    Unlimited,
    Window(Window),
}

#[derive(Debug, Default)]
struct Book {
    limit: Limit,
    in_flight: u64,
    tail_spent: u64,
    /// The window that `tail_spent` is of, by its end.
    tail_window_s: i64,
}

impl Book {
    fn start(&mut self, is_tail: bool, now_s: i64) {
        self.in_flight = self.in_flight.saturating_add(1);
        if let Limit::Window(window) = self.limit {
            let ends_s = if now_s < window.reset_s { window.reset_s } else { i64::MAX };
            if ends_s != self.tail_window_s {
                (self.tail_window_s, self.tail_spent) = (ends_s, 0);
            }
        }
        self.tail_spent = self.tail_spent.saturating_add(u64::from(is_tail));
    }

    fn answer(&mut self, told: Told, now_s: i64) -> u64 {
        self.in_flight = self.in_flight.saturating_sub(1);
        match (told, &mut self.limit) {
            (Told::Budget(told), Limit::Window(window)) if is_same(window, told, now_s) => {
                window.same(told, self.in_flight, now_s)
            }
            // a late answer of the window before
            (Told::Budget(told), Limit::Window(window))
                if told.reset_s < window.reset_s && now_s < window.reset_s =>
            {
                0
            }
            (Told::Budget(told), limit) => {
                let known_s = match limit {
                    Limit::Window(before) => before.length_s,
                    Limit::Unknown | Limit::Unlimited => 0,
                };
                *limit = Limit::Window(Window::new(told, now_s, known_s));
                if self.tail_window_s == i64::MAX {
                    self.tail_window_s = told.reset_s;
                }
                0
            }
            (Told::Unlimited, limit @ (Limit::Unknown | Limit::Unlimited)) => {
                *limit = Limit::Unlimited;
                0
            }
            (Told::Unlimited | Told::Nothing, Limit::Window(window)) => {
                window.left = window.left.saturating_sub(1);
                window.answered = window.answered.saturating_add(1);
                0
            }
            (Told::Nothing, _) => 0,
        }
    }

    fn window(&self, now_s: i64) -> Option<Window> {
        match self.limit {
            Limit::Window(window) if now_s < window.reset_s => Some(window),
            _ => None,
        }
    }

    fn purse(&self, reserve: u64, now_s: i64, pace: Pace) -> Purse {
        let window = match self.limit {
            Limit::Unknown => {
                let spendable = 1_u64.saturating_sub(self.in_flight);
                return Purse { spendable, ..Purse::UNLIMITED };
            }
            Limit::Unlimited => return Purse::UNLIMITED,
            Limit::Window(window) => window,
        };
        let whole = window.limit.saturating_sub(reserve);
        let has_ended = now_s >= window.reset_s;
        let left = if has_ended { window.limit } else { window.left };
        let left_s = if has_ended { window.length_s } else { window.reset_s.saturating_sub(now_s) };
        let ends_s = if has_ended { i64::MAX } else { window.reset_s };
        Purse {
            spendable: left.saturating_sub(reserve).saturating_sub(self.in_flight),
            whole,
            tail_spent: if ends_s == self.tail_window_s { self.tail_spent } else { 0 },
            foreign: if has_ended { 0 } else { window.foreign_to_come(now_s) },
            left_ms: pace.mono_ms(left_s),
        }
    }

    fn standing(&self, now_s: i64) -> Option<Standing> {
        let Limit::Window(window) = self.limit else { return None };
        let has_ended = now_s >= window.reset_s;
        let left = if has_ended { window.limit } else { window.left };
        Some(Standing {
            limit: window.limit,
            remaining: left.saturating_sub(self.in_flight),
            reset_s: window.reset_s,
            foreign: if has_ended { 0 } else { window.foreign },
        })
    }
}

/// A window that has ended by our reckoning and is told of again has not: our clock is ahead.
fn is_same(window: &Window, told: Budget, now_s: i64) -> bool {
    let near = (told.reset_s - window.reset_s).abs() <= RESET_SLACK_S;
    near && (now_s < window.reset_s || told.remaining <= window.left)
}

impl Window {
    fn new(told: Budget, now_s: i64, known_s: i64) -> Self {
        Self {
            length_s: known_s.max(told.reset_s.saturating_sub(now_s)).max(1),
            limit: told.limit,
            left: told.remaining,
            // one that has ended already by our clock: asked again in a second, and not at once
            reset_s: told.reset_s.max(now_s.saturating_add(1)),
            first_left: told.remaining,
            first_s: now_s,
            answered: 0,
            foreign: 0,
        }
    }

    /// Takes a further answer of the same window; returns how many requests of others it shows that were not known.
    fn same(&mut self, told: Budget, in_flight: u64, now_s: i64) -> u64 {
        self.limit = told.limit;
        self.reset_s = self.reset_s.max(told.reset_s).max(now_s.saturating_add(1));
        self.left = self.left.min(told.remaining);
        self.answered = self.answered.saturating_add(1);
        // GitHub may have counted those in flight already
        let ours = self.answered.saturating_add(in_flight);
        let foreign = self.first_left.saturating_sub(self.left).saturating_sub(ours);
        let more = foreign.saturating_sub(self.foreign);
        self.foreign = self.foreign.max(foreign);
        more
    }

    /// What others will use until the window ends, if they go on as they did in it.
    fn foreign_to_come(&self, now_s: i64) -> u64 {
        let seconds = |s: i64| u64::try_from(s).unwrap_or(0);
        let (gone_s, left_s) = (now_s - self.first_s, self.reset_s - now_s);
        self.foreign.saturating_mul(seconds(left_s)) / seconds(gone_s).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESET_S: i64 = 1_790_003_600;

    fn at(s: i64) -> Now {
        Now { s, mono_ms: s * 1000 }
    }

    fn account(credential: usize, entity: usize) -> Account {
        Account { credential, class: EntityKind::Organization, entity }
    }

    fn told(remaining: u64, reset_s: i64) -> Told {
        Told::Budget(Budget { limit: 100, remaining, reset_s })
    }

    fn ask(ledger: &mut Ledger, account: Account, remaining: u64, now_s: i64) -> u64 {
        ledger.start(account, false, at(now_s));
        ledger.answer(account, told(remaining, RESET_S), at(now_s))
    }

    #[test]
    fn before_any_answer_one_request_finds_out_and_the_reserve_and_requests_in_flight_are_kept() {
        let (mut ledger, a) = (Ledger::new(10), account(0, 0));
        let now = at(RESET_S - 1000);
        let spendable = |ledger: &Ledger| ledger.purse(a, now).spendable;
        assert_eq!(spendable(&ledger), 1);
        ledger.start(a, false, now);
        assert_eq!(spendable(&ledger), 0);
        ledger.answer(a, told(50, RESET_S), now);
        assert_eq!(spendable(&ledger), 40);
        ledger.start(a, false, now);
        ledger.start(a, false, now);
        assert_eq!(spendable(&ledger), 38);
        ledger.answer(a, told(48, RESET_S), now);
        ledger.answer(a, told(49, RESET_S), now);
        assert_eq!(spendable(&ledger), 38, "an answer that was overtaken brings nothing back");
        ledger.start(a, false, now);
        ledger.answer(a, Told::Nothing, now);
        assert_eq!(spendable(&ledger), 37, "it may have been counted");
    }

    #[test]
    fn a_window_that_has_ended_is_full_again_and_one_that_has_not_after_all_is_not() {
        let (mut ledger, a) = (Ledger::new(10), account(0, 0));
        ask(&mut ledger, a, 10, RESET_S - 5);
        assert_eq!(ledger.purse(a, at(RESET_S - 5)).spendable, 0);
        assert_eq!(ledger.purse(a, at(RESET_S)).spendable, 90);
        assert_eq!(ledger.purse(a, at(RESET_S)).left_ms, 5000, "as long as it was seen to last");
        ledger.start(a, true, at(RESET_S));
        assert_eq!(ledger.purse(a, at(RESET_S)).spendable, 89);
        // our clock was ahead
        ledger.answer(a, told(9, RESET_S), at(RESET_S));
        assert_eq!(ledger.purse(a, at(RESET_S)).spendable, 0);
        ledger.start(a, true, at(RESET_S + 1));
        ledger.answer(a, told(99, RESET_S + 3600), at(RESET_S + 1));
        let purse = ledger.purse(a, at(RESET_S + 1));
        assert_eq!((purse.spendable, purse.whole, purse.left_ms), (89, 90, 3_599_000));
    }

    #[test]
    fn without_headers_there_is_no_limit_and_a_page_without_them_does_not_lift_one() {
        let (mut ledger, a, b) = (Ledger::new(10), account(0, 0), account(1, 0));
        let now = at(RESET_S - 100);
        ledger.start(a, false, now);
        ledger.answer(a, Told::Unlimited, now);
        assert_eq!(ledger.purse(a, now), Purse::UNLIMITED);
        ask(&mut ledger, b, 50, now.s);
        ledger.start(b, false, now);
        ledger.answer(b, Told::Unlimited, now);
        assert_eq!(ledger.purse(b, now).spendable, 39);
    }

    #[test]
    fn requests_of_others_are_noticed_once_and_not_confused_with_ours() {
        let (mut ledger, a) = (Ledger::new(0), account(0, 0));
        let begun_s = RESET_S - 1000;
        assert_eq!(ask(&mut ledger, a, 90, begun_s), 0, "what was used before is nobody's");
        assert_eq!(ask(&mut ledger, a, 89, begun_s + 10), 0);
        ledger.start(a, false, at(begun_s));
        ledger.start(a, false, at(begun_s));
        assert_eq!(ledger.answer(a, told(87, RESET_S), at(begun_s + 20)), 0, "both counted");
        assert_eq!(ledger.answer(a, told(87, RESET_S), at(begun_s + 20)), 0);
        assert_eq!(ask(&mut ledger, a, 80, begun_s + 100), 6);
        assert_eq!(ask(&mut ledger, a, 79, begun_s + 100), 0);
        assert_eq!(ledger.purse(a, at(begun_s + 100)).foreign, 6 * 900 / 100);
    }

    #[test]
    fn entities_share_a_budget_until_the_headers_say_otherwise() {
        let (mut ledger, a, b) = (Ledger::new(0), account(0, 0), account(0, 1));
        let now_s = RESET_S - 1000;
        let mut left = 90;
        for _ in 0..10 {
            ask(&mut ledger, a, left - 1, now_s);
            ask(&mut ledger, b, left - 2, now_s);
            left -= 2;
        }
        assert!(!ledger.is_separate(a));
        assert_eq!(ledger.purse(b, at(now_s)).spendable, 70);
        for round in 0..3 {
            ask(&mut ledger, a, 60 - round, now_s);
            ask(&mut ledger, b, 95 - round, now_s);
        }
        assert!(ledger.is_separate(a));
        assert_eq!(ledger.purse(a, at(now_s)).spendable, 58);
        let mut left = 50;
        for _ in 0..10 {
            ask(&mut ledger, a, left - 1, now_s);
            ask(&mut ledger, b, left - 2, now_s);
            left -= 2;
        }
        assert!(!ledger.is_separate(a), "and back");
        assert!(!ledger.is_separate(account(1, 0)));
    }

    #[test]
    fn a_simulated_clock_goes_as_fast_as_it_goes() {
        let mut ledger = Ledger::new(0);
        assert_eq!(ledger.mono_ms(60), 60_000);
        for second in 0..10 {
            let now = Now { s: second * 60, mono_ms: second * 1000 };
            ledger.answer(account(0, 0), Told::Nothing, now);
        }
        assert_eq!(ledger.mono_ms(60), 1000);
    }
}
