//! GitHub's list of a range, walked to its end, with what was asked and when: the statement rests on it.

use super::allowance::Allowance;
use super::lists::Lists;
use super::spill::SpillError;
use super::{Step, Tell};
use crate::audit::entry::derived_id;
use crate::audit::slice::{Query, Walk};
use crate::audit::{Entry, Fingerprint, Lane};
use crate::github::{Next, Page, PageRequest, Source, SourceError};
use crate::retry::Backoff;
use crate::time::{rfc3339_ms, rfc3339_s, wall_ms};
use serde::Serialize;
use std::collections::HashSet;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Entries of a page.
const PER_PAGE: u8 = 100;
/// Failures in a row before GitHub counts as out of reach.
const FAILURES_MAX: u32 = 8;
/// Queries that a list may take: a lost cursor, or a link that counts pages, begins another one.
const QUERIES_MAX: usize = 1_000;
/// Pages of a query whose links count pages: deletions meanwhile move what follows.
const COUNTED_PAGES_MAX: u64 = 100;
/// Pages in a row without any entry.
const BARREN_MAX: u32 = 100;
/// GitHub's clock and ours may differ by so much before it is asked again.
const CLOCK_DOUBT_MS: i64 = 3_600_000;

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// The token, or its rights.
    #[error("GitHub refuses: {message}: {remedy}")]
    Denied {
        /// What it said.
        message: String,
        /// What to do.
        remedy: String,
    },
    /// Something that asking again did not mend.
    #[error("GitHub's list could not be read to its end: {0}; try again later")]
    GaveUp(String),
    /// The list cannot be kept.
    #[error(transparent)]
    Spill(#[from] SpillError),
}

/// Why a query was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The list.
    List,
    /// The rest of it, after a cursor was lost.
    GoOn,
    /// Its end, or its beginning, asked again: that no next link came proves nothing by itself.
    Confirm,
}

/// A query as it was asked, and what came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// The lane.
    pub lane: Lane,
    /// Why.
    pub purpose: Purpose,
    /// First second of `created:`.
    pub from: String,
    /// Last second of `created:`, inclusive.
    pub to: String,
    /// Host's clock before the first request.
    pub asked: String,
    /// Host's clock after the last answer.
    pub answered: String,
    /// `Date` of the first answer.
    pub github_first: Option<String>,
    /// `Date` of the last answer.
    pub github_last: Option<String>,
    /// Pages.
    pub pages: u64,
    /// Entries on them, also those that came twice.
    pub entries: u64,
    /// How it ended: `no_next_link`, `cursor_refused`, `pages_counted`.
    pub ended: &'static str,
}

/// Walks lists.
pub struct Walker<'a, S> {
    source: &'a S,
    purses: Vec<Purse>,
    tell: Tell,
    /// What was asked.
    pub asked: Vec<Asked>,
    /// Requests that were sent, refused ones too.
    pub requests: u64,
    /// GitHub's `Date`, the newest, epoch milliseconds.
    pub github_now_ms: Option<i64>,
    per_page: u8,
}

impl<S> std::fmt::Debug for Walker<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Walker").field("requests", &self.requests).finish_non_exhaustive()
    }
}

/// A credential's budget, as far as it may be used.
#[derive(Debug, Clone)]
struct Purse {
    allowance: Allowance,
    /// Nothing may be asked before.
    until: Option<(Instant, &'static str)>,
    /// What was said when it was refused.
    denied: Option<(String, String)>,
}

/// What a request came to, where it is not a page.
enum NoPage {
    /// Begin again, without a cursor.
    Lost,
    Failed(WalkError),
}

/// The newest and the oldest second of a list, with what stands there.
#[derive(Debug, Default)]
struct Edge {
    at_s: Option<i64>,
    there: HashSet<Fingerprint>,
}

impl Edge {
    /// Takes an entry; true when it is new there. `beyond`: whether a second lies further out than another.
    fn take(&mut self, at_s: i64, it: Fingerprint, beyond: impl Fn(i64, i64) -> bool) -> bool {
        match self.at_s {
            Some(edge_s) if beyond(edge_s, at_s) => return false,
            Some(edge_s) if edge_s == at_s => {}
            _ => self.there.clear(),
        }
        self.at_s = Some(at_s);
        self.there.insert(it)
    }
}

/// What a list has shown so far.
#[derive(Debug, Default)]
struct Seen {
    newest: Edge,
    oldest: Edge,
}

impl<'a, S: Source> Walker<'a, S> {
    /// Asks `source`, with what the allowance leaves.
    pub fn new(source: &'a S, allowance: &Allowance, tell: Tell) -> Self {
        let purse = Purse { allowance: allowance.clone(), until: None, denied: None };
        Self {
            source,
            purses: vec![purse; source.credentials().len()],
            tell,
            asked: Vec::new(),
            requests: 0,
            github_now_ms: None,
            per_page: PER_PAGE,
        }
    }

    /// Requests of GitHub's window that are left to others, where there is a limit; of all credentials together.
    pub fn reserve(&self) -> Option<u64> {
        self.purses.iter().filter_map(|purse| purse.allowance.reserve()).reduce(u64::saturating_add)
    }

    /// GitHub's now, epoch milliseconds, and whether the token may read the lane. One request, or three where the clocks
    /// differ: a single answer may come from a cache, or be wild.
    pub async fn now_ms(&mut self, lane: Lane, at_s: i64) -> Result<i64, WalkError> {
        let query = Query { from_s: at_s, to_s: Some(at_s) };
        let mut dates = Vec::new();
        loop {
            let request = PageRequest { lane, query, cursor: None, per_page: 1 };
            let page = match self.page(request, None).await {
                Ok(page) => page,
                Err(NoPage::Failed(error)) => return Err(error),
                Err(NoPage::Lost) => {
                    return Err(WalkError::GaveUp("a request without a cursor is refused".into()));
                }
            };
            dates.push(page.date_ms.unwrap_or_else(wall_ms));
            dates.sort_unstable();
            let sane = |ms: i64| ms.abs_diff(wall_ms()) < CLOCK_DOUBT_MS.unsigned_abs();
            if dates.len() == 3 || dates.iter().all(|&ms| sane(ms)) {
                return Ok(dates.get(dates.len() / 2).copied().unwrap_or_else(wall_ms));
            }
        }
    }

    /// Lists a lane from `from_s` to `to_s`, both inclusive.
    pub async fn list(
        &mut self,
        lane: Lane,
        from_s: i64,
        to_s: i64,
        lists: &mut Lists,
    ) -> Result<(), WalkError> {
        let whole = Query { from_s, to_s: Some(to_s) };
        let mut seen = Seen::default();
        let rising = self.walk(lane, whole, Purpose::List, &mut seen, lists).await?.rising;
        // protocols 3.5: the end counts only when it was asked for once more without a cursor and showed nothing new
        loop {
            let from_s = seen.newest.at_s.unwrap_or(from_s);
            let query = Query { from_s, to_s: Some(to_s) };
            let walked = self.walk(lane, query, Purpose::Confirm, &mut seen, lists).await?;
            if walked.new_at_the_end == 0 {
                break;
            }
        }
        // where the oldest do not come first the walk ended at them
        while let (false, Some(oldest_s)) = (rising, seen.oldest.at_s) {
            let query = Query { from_s, to_s: Some(oldest_s) };
            let walked = self.walk(lane, query, Purpose::Confirm, &mut seen, lists).await?;
            if walked.new_at_the_beginning == 0 {
                break;
            }
        }
        Ok(())
    }

    async fn walk(
        &mut self,
        lane: Lane,
        query: Query,
        purpose: Purpose,
        seen: &mut Seen,
        lists: &mut Lists,
    ) -> Result<Walked, WalkError> {
        let mut all = Walked { rising: true, ..Walked::default() };
        let (mut query, mut purpose) = (query, purpose);
        loop {
            if self.asked.len() >= QUERIES_MAX {
                let why = format!(
                    "{QUERIES_MAX} queries did not suffice, cursors are lost again and again"
                );
                return Err(WalkError::GaveUp(why));
            }
            let mut state = Walk::new(query);
            let ended = self.query(lane, query, purpose, &mut state, seen, &mut all, lists).await?;
            all.rising &= state.is_rising();
            if ended {
                return Ok(all);
            }
            let start_s = state.restart_s(query.from_s, query.to_s);
            if purpose == Purpose::GoOn && start_s == query.from_s {
                // it got no further: not at full speed
                sleep(Duration::from_secs(1)).await;
            }
            query = Query { from_s: start_s, ..query };
            purpose = Purpose::GoOn;
        }
    }

    /// One query, page by page; false where it must be asked again from where it came to.
    #[expect(clippy::too_many_arguments, reason = "all that a walk is about")]
    async fn query(
        &mut self,
        lane: Lane,
        query: Query,
        purpose: Purpose,
        state: &mut Walk,
        seen: &mut Seen,
        walked: &mut Walked,
        lists: &mut Lists,
    ) -> Result<bool, WalkError> {
        let mut asked = Asked {
            lane,
            purpose,
            from: rfc3339_s(query.from_s),
            to: query.to_s.map_or_else(String::new, rfc3339_s),
            asked: rfc3339_ms(wall_ms()),
            answered: String::new(),
            github_first: None,
            github_last: None,
            pages: 0,
            entries: 0,
            ended: "no_next_link",
        };
        let (mut next, mut barren) = (None, 0);
        let ended = loop {
            let (cursor, number) = match next {
                None => (None, None),
                Some(Next::Cursor(cursor)) => (Some(cursor), None),
                Some(Next::Page(number)) => (None, Some(number)),
            };
            if number.is_some() && asked.pages >= COUNTED_PAGES_MAX && state.is_rising() {
                asked.ended = "pages_counted";
                break false;
            }
            let request = PageRequest { lane, query, cursor, per_page: self.per_page };
            let page = match self.page(request, number).await {
                Ok(page) => page,
                Err(NoPage::Lost) => {
                    asked.ended = "cursor_refused";
                    break false;
                }
                Err(NoPage::Failed(error)) => return Err(error),
            };
            asked.took(&page);
            take(&page.entries, lane, query, state, seen, walked, lists)?;
            self.tell_place(lane, query, state, lists);
            barren = if page.entries.is_empty() { barren + 1 } else { 0 };
            if barren > BARREN_MAX {
                let why = format!("{BARREN_MAX} pages in a row are empty and name a next one");
                return Err(WalkError::GaveUp(why));
            }
            next = page.next;
            if next.is_none() {
                break true;
            }
        };
        self.asked.push(asked);
        Ok(ended)
    }

    fn tell_place(&self, lane: Lane, query: Query, state: &Walk, lists: &Lists) {
        let to_s = query.to_s.unwrap_or(query.from_s);
        let at_s = state.last_s.unwrap_or(query.from_s);
        (self.tell)(Step::Listing { lane, entries: lists.github.items(), at_s, to_s });
    }

    /// One page: waits where a limit says so, asks again where that can help.
    async fn page(&mut self, request: PageRequest, number: Option<u64>) -> Result<Page, NoPage> {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let mut uncut: Option<String> = None;
        let (mut request, mut failures) = (request, 0);
        loop {
            let chosen = self.credential().await?;
            let Some(credential) = self.source.credentials().get(chosen) else {
                return Err(gave_up("the entity has no credential"));
            };
            self.requests += 1;
            let error = match self.source.fetch(request.clone(), number, credential).await {
                Ok(page) => {
                    self.per_page = self.per_page.saturating_mul(2).min(PER_PAGE);
                    self.keep_reserve(&page, chosen);
                    return Ok(page);
                }
                Err(error) => error,
            };
            let fewer = matches!(&error, SourceError::Uncuttable { .. })
                || matches!(&error, SourceError::Transport { reason: "too_large", .. });
            if fewer && request.per_page > 1 {
                self.per_page = request.per_page / 2;
                request.per_page = self.per_page;
                if number.is_some() {
                    // the numbers of pages depend on how many entries are on one
                    return Err(NoPage::Lost);
                }
                continue;
            }
            match error {
                SourceError::RateLimited { wait, reason, .. } => self.pause(chosen, reason, wait),
                SourceError::Denied { message, remedy, .. } => {
                    if let Some(purse) = self.purses.get_mut(chosen) {
                        purse.denied = Some((message, remedy));
                    }
                }
                SourceError::Refused { .. } if request.cursor.is_some() => {
                    return Err(NoPage::Lost);
                }
                SourceError::Refused { status, message } => {
                    return Err(gave_up(format!(
                        "the query is refused with status {status}: {message}"
                    )));
                }
                SourceError::Uncuttable { body, next, date_ms } => {
                    let digest = derived_id(&body);
                    if uncut.as_ref() == Some(&digest) {
                        // as the daemon takes it: whole, under the digest of its bytes
                        let body_bytes = body.len();
                        let entries = vec![Entry::opaque(body)];
                        return Ok(Page { entries, next, date_ms, body_bytes, budget: None });
                    }
                    uncut = Some(digest);
                }
                SourceError::NotOffered { message } => return Err(gave_up(message)),
                SourceError::Transport { message, .. } => {
                    failures += 1;
                    if failures >= FAILURES_MAX {
                        return Err(gave_up(message));
                    }
                    sleep(backoff.next_wait()).await;
                }
            }
        }
    }

    fn keep_reserve(&mut self, page: &Page, chosen: usize) {
        self.github_now_ms = self.github_now_ms.max(page.date_ms);
        let now_s = page.date_ms.unwrap_or_else(wall_ms).div_euclid(1000);
        let purse = self.purses.get_mut(chosen);
        if let Some(wait) = purse.and_then(|purse| purse.allowance.after(page.budget, now_s)) {
            self.pause(chosen, "reserve", wait);
        }
    }

    fn pause(&mut self, chosen: usize, reason: &'static str, wait: Duration) {
        if let Some(purse) = self.purses.get_mut(chosen) {
            purse.until = Some((Instant::now() + wait, reason));
        }
    }

    /// A credential that may be used now: the first one that need not wait; waits where all must.
    async fn credential(&self) -> Result<usize, NoPage> {
        let usable = || self.purses.iter().enumerate().filter(|(_, purse)| purse.denied.is_none());
        let free_at = |purse: &Purse| purse.until.map(|(until, _)| until);
        let Some((chosen, purse)) = usable()
            .min_by_key(|(_, purse)| free_at(purse).filter(|until| *until > Instant::now()))
        else {
            let said = self.purses.iter().find_map(|purse| purse.denied.clone());
            return Err(said.map_or_else(
                || gave_up("the entity has no credential"),
                |(message, remedy)| NoPage::Failed(WalkError::Denied { message, remedy }),
            ));
        };
        if let Some((until, reason)) = purse.until {
            let wait = until.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                (self.tell)(Step::Waiting { reason, wait });
                sleep(wait).await;
            }
        }
        Ok(chosen)
    }
}

/// What a walk came to.
#[derive(Debug, Default)]
struct Walked {
    new_at_the_end: u64,
    new_at_the_beginning: u64,
    rising: bool,
}

fn take(
    entries: &[Entry],
    lane: Lane,
    query: Query,
    state: &mut Walk,
    seen: &mut Seen,
    walked: &mut Walked,
    lists: &mut Lists,
) -> Result<(), WalkError> {
    let to_s = query.to_s.unwrap_or(i64::MAX);
    for entry in entries {
        let item = lists.take_github(lane, entry)?;
        let time_s = item.time_s().filter(|at_s| (query.from_s..=to_s).contains(at_s));
        state.show(time_s, to_s);
        let Some(at_s) = time_s else { continue };
        let newer = seen.newest.take(at_s, item.fingerprint, |edge, at| at < edge);
        let older = seen.oldest.take(at_s, item.fingerprint, |edge, at| at > edge);
        walked.new_at_the_end += u64::from(newer);
        walked.new_at_the_beginning += u64::from(older);
    }
    Ok(())
}

impl Asked {
    fn took(&mut self, page: &Page) {
        let date = page.date_ms.map(rfc3339_ms);
        self.github_first = self.github_first.take().or_else(|| date.clone());
        self.github_last = date.or_else(|| self.github_last.take());
        self.answered = rfc3339_ms(wall_ms());
        self.pages += 1;
        self.entries += u64::try_from(page.entries.len()).unwrap_or(u64::MAX);
    }
}

fn gave_up(why: impl Into<String>) -> NoPage {
    NoPage::Failed(WalkError::GaveUp(why.into()))
}
