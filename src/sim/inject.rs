//! Which request faults strike a request: one independent draw for each, a pure function of the seed, the entity, the
//! lane, and how many requests came before.

use super::faults::Faults;
use super::rng::{Chance, mix};

/// In place of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    ServerError(u16),
    Reset,
    Html,
    Object,
    Forbidden,
    Sso,
    NotFound,
    Unauthorized,
    Redirect(u16),
    RedirectElsewhere,
    Bomb,
    HugeHeaders,
    PrimaryLimit,
    SecondaryLimit,
    SecondaryMessage,
    LostCursor,
}

/// To the body of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    Reset,
    Length,
    Chunks,
    Json,
}

/// To the `Date` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Date {
    True,
    Wild,
    Cached,
}

/// To the rows of the page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fault of its own")]
pub(crate) struct Rows {
    pub(crate) duplicate: bool,
    pub(crate) overlap: bool,
    pub(crate) short: bool,
    pub(crate) empty: bool,
    pub(crate) link_elsewhere: bool,
}

/// To a page in GraphQL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct GraphQl {
    pub(crate) partial: bool,
    pub(crate) null: bool,
}

/// All that strikes one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) reply: Option<Reply>,
    pub(crate) cut: Option<Cut>,
    pub(crate) date: Date,
    pub(crate) rows: Rows,
    pub(crate) graphql: GraphQl,
    pub(crate) slow: bool,
    pub(crate) drip: bool,
    /// A number for details, such as where a body is cut.
    pub(crate) draw: u64,
    /// Names of the faults, for the statistics.
    pub(crate) names: Vec<&'static str>,
}

impl Plan {
    /// Nothing strikes.
    pub(crate) fn none(draw: u64) -> Self {
        Self {
            reply: None,
            cut: None,
            date: Date::True,
            rows: Rows::default(),
            graphql: GraphQl::default(),
            slow: false,
            drip: false,
            draw,
            names: Vec::new(),
        }
    }

    /// The plan of a draw. `date_free`: no answer shortly before had a wild `Date`.
    pub(crate) fn new(faults: &Faults, draw: u64, date_free: bool) -> Self {
        let mut plan = Self::none(draw);
        let mut purpose = 0;
        let mut names = Vec::new();
        let mut strikes = |name, rate| {
            purpose += 1;
            let hit = Chance::new(rate).hits(mix(draw, purpose));
            if hit {
                names.push(name);
            }
            hit
        };
        plan.reply = reply(faults, draw, &mut strikes);
        if plan.reply.is_none() {
            plan.cut = cut(faults, &mut strikes);
            plan.rows = rows(faults, &mut strikes);
        }
        plan.slow = strikes("slow_first_byte", faults.slow_first_byte);
        plan.drip = plan.cut.is_none() && strikes("drip", faults.drip);
        if date_free && strikes("wild_date", faults.wild_date) {
            plan.date = Date::Wild;
        } else if strikes("cached_date", faults.cached_date) {
            plan.date = Date::Cached;
        }
        plan.names = names;
        plan
    }
}

impl Plan {
    /// What may strike a request in GraphQL besides.
    pub(crate) fn of_graphql(mut self, faults: &Faults) -> Self {
        let mut strikes = |name, rate, purpose| {
            let hit = Chance::new(rate).hits(mix(self.draw, purpose));
            if hit {
                self.names.push(name);
            }
            hit
        };
        self.graphql = GraphQl {
            partial: strikes("graphql_partial", faults.graphql_partial, 1_001),
            null: strikes("graphql_null", faults.graphql_null, 1_002),
        };
        self
    }
}

fn reply(
    faults: &Faults,
    draw: u64,
    strikes: &mut impl FnMut(&'static str, f64) -> bool,
) -> Option<Reply> {
    let pick = |of: [u16; 3]| *of.get(super::rng::usize_of(draw % 3)).unwrap_or(&502);
    let each = [
        ("unauthorized", faults.unauthorized, Reply::Unauthorized),
        ("forbidden", faults.forbidden, Reply::Forbidden),
        ("sso", faults.sso, Reply::Sso),
        ("not_found", faults.not_found, Reply::NotFound),
        ("reset_before_headers", faults.reset_before_headers, Reply::Reset),
        ("server_error", faults.server_error, Reply::ServerError(pick([500, 502, 503]))),
        ("html", faults.html, Reply::Html),
        ("object", faults.object, Reply::Object),
        ("redirect", faults.redirect, Reply::Redirect(pick([301, 302, 307]))),
        ("redirect_elsewhere", faults.redirect_elsewhere, Reply::RedirectElsewhere),
        ("bomb", faults.bomb, Reply::Bomb),
        ("huge_headers", faults.huge_headers, Reply::HugeHeaders),
        ("primary_limit", faults.primary_limit, Reply::PrimaryLimit),
        ("secondary_limit", faults.secondary_limit, Reply::SecondaryLimit),
        ("secondary_message", faults.secondary_message, Reply::SecondaryMessage),
        ("lost_cursor", faults.lost_cursor, Reply::LostCursor),
    ];
    each.into_iter().find(|(name, rate, _)| strikes(name, *rate)).map(|(_, _, reply)| reply)
}

fn cut(faults: &Faults, strikes: &mut impl FnMut(&'static str, f64) -> bool) -> Option<Cut> {
    let each = [
        ("reset_in_body", faults.reset_in_body, Cut::Reset),
        ("truncated_length", faults.truncated_length, Cut::Length),
        ("truncated_chunks", faults.truncated_chunks, Cut::Chunks),
        ("truncated_json", faults.truncated_json, Cut::Json),
    ];
    each.into_iter().find(|(name, rate, _)| strikes(name, *rate)).map(|(_, _, cut)| cut)
}

fn rows(faults: &Faults, strikes: &mut impl FnMut(&'static str, f64) -> bool) -> Rows {
    Rows {
        duplicate: strikes("duplicate_rows", faults.duplicate_rows),
        overlap: strikes("overlapping_pages", faults.overlapping_pages),
        short: strikes("short_pages", faults.short_pages),
        empty: strikes("empty_pages", faults.empty_pages),
        link_elsewhere: strikes("link_elsewhere", faults.link_elsewhere),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_strikes_by_default() {
        for draw in 0..100 {
            assert_eq!(Plan::new(&Faults::default(), draw, true), Plan::none(draw));
        }
    }

    #[test]
    fn a_certain_fault_always_strikes_and_a_plan_is_a_pure_function_of_its_draw() {
        let faults = Faults { server_error: 1.0, ..Faults::nasty() };
        for draw in 0..100 {
            let plan = Plan::new(&faults, draw, true);
            assert!(plan.reply.is_some());
            assert_eq!(plan, Plan::new(&faults, draw, true));
        }
    }

    #[test]
    fn a_wild_date_waits_until_it_may_come() {
        let faults = Faults { wild_date: 1.0, ..Faults::default() };
        assert_eq!(Plan::new(&faults, 1, true).date, Date::Wild);
        assert_eq!(Plan::new(&faults, 1, false).date, Date::True);
    }
}
