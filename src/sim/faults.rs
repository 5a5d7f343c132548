//! Every switch for what GitHub, or something that poses as it, may do. All are off by default.

use crate::audit::Lane;

/// A fault that there is none of, or a value that it cannot take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// No such switch.
    #[error("there is no fault {0:?}: `ghauditd sim --list-faults` names them")]
    Unknown(String),
    /// Not a value for it.
    #[error("fault {name} cannot be {value:?}: it takes {takes}")]
    Value {
        /// The switch.
        name: &'static str,
        /// What was given.
        value: String,
        /// What it takes.
        takes: &'static str,
    },
}

/// What a switch takes, in words.
trait Switch: Sized {
    const TAKES: &'static str;
    fn read(text: &str) -> Option<Self>;
}

impl Switch for f64 {
    const TAKES: &'static str = "a probability from 0 to 1";
    fn read(text: &str) -> Option<Self> {
        text.parse().ok().filter(|p| (0.0..=1.0).contains(p))
    }
}

impl Switch for u64 {
    const TAKES: &'static str = "a whole number";
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Switch for bool {
    const TAKES: &'static str = "true or false";
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ty = $default:expr;)+) => {
        /// What misbehaves. A `f64` is a probability (of an entry or of a request), a `bool` a property of the world,
        /// a `u64` an amount. Off by default.
        ///
        /// Switches marked *entry* shape the log itself and are read when the simulated GitHub starts;
        /// [`super::Sim::set_faults`] changes all others at once.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Faults {
            $($(#[doc = $doc])+ pub $name: $kind,)+
            /// Request faults strike this entity (slug) alone.
            pub only_entity: Option<String>,
            /// Request faults strike this lane alone.
            pub only_lane: Option<Lane>,
        }

        impl Default for Faults {
            fn default() -> Self {
                Self { $($name: $default,)+ only_entity: None, only_lane: None }
            }
        }

        impl Faults {
            /// Name and meaning of every switch that [`Faults::set`] knows.
            pub fn list() -> Vec<(&'static str, &'static str, &'static str)> {
                vec![$((stringify!($name), <$kind as Switch>::TAKES, concat!($($doc),+))),+]
            }

            /// Sets a switch by its name.
            pub fn set(&mut self, name: &str, value: &str) -> Result<(), FaultError> {
                match name {
                    $(stringify!($name) => {
                        self.$name = Switch::read(value).ok_or(FaultError::Value {
                            name: stringify!($name),
                            value: value.to_owned(),
                            takes: <$kind as Switch>::TAKES,
                        })?;
                    })+
                    _ => return Err(FaultError::Unknown(name.to_owned())),
                }
                Ok(())
            }
        }
    };
}

faults! {
    /// Entry: indexed late, behind cursors that have passed its time.
    late: f64 = 0.0;
    /// Entry: least lateness, simulated seconds.
    late_min_s: u64 = 5;
    /// Entry: greatest lateness, simulated seconds.
    late_max_s: u64 = 300;
    /// Entry: `created_at` of a late entry is when it was indexed, not when it occurred.
    late_created_at: bool = false;
    /// Entry: its body changes some time after it was first visible, under the same id.
    revised: f64 = 0.0;
    /// Entry: how long after becoming visible, simulated seconds (up to half as much again).
    revised_after_s: u64 = 60;
    /// Entry: so many simulated seconds after the start `actor_ip` appears on all entries, new and existing; 0: never.
    ip_disclosed_after_s: u64 = 0;
    /// Entry: carries the id of an earlier, different entry.
    reused_id: f64 = 0.0;
    /// Entry: no `created_at`.
    missing_created_at: f64 = 0.0;
    /// Entry: no `@timestamp`.
    missing_timestamp: f64 = 0.0;
    /// Entry: neither of the two times.
    missing_times: f64 = 0.0;
    /// Entry: no `_document_id`.
    missing_document_id: f64 = 0.0;
    /// Entry: no `actor`.
    missing_actor: f64 = 0.0;
    /// Entry: no `org`.
    missing_org: f64 = 0.0;
    /// Entry: no `action`.
    missing_action: f64 = 0.0;
    /// Entry: id, times, action, actor and org are of other types than documented.
    wrong_types: f64 = 0.0;
    /// Entry: actor, user and identity are empty strings.
    empty_strings: f64 = 0.0;
    /// Entry: `org` and `org_id` are arrays.
    array_org: f64 = 0.0;
    /// Entry: bytes in a string that are not UTF-8.
    invalid_utf8: f64 = 0.0;
    /// Entry: the escape of a lone surrogate.
    lone_surrogate: f64 = 0.0;
    /// Entry: the number 1e400.
    huge_number: f64 = 0.0;
    /// Entry: arrays and objects 200 deep.
    deep_nesting: f64 = 0.0;
    /// Entry: the same member name twice, the facts included; the last one is what counts.
    duplicate_members: f64 = 0.0;
    /// Entry: the number 2^63+1.
    big_integer: f64 = 0.0;
    /// Entry: 1 MB long.
    huge_entry: f64 = 0.0;
    /// Entry: brackets that do not close: its page cannot be cut.
    uncuttable: f64 = 0.0;
    /// Entry: GraphQL alone shows it, where it shows such entries at all.
    graphql_only: f64 = 0.0;
    /// Entry: so many entries dated 2099 in each lane, visible from the start.
    dated_2099: u64 = 0;
    /// Entry: runs of so many entries within one millisecond; 0: none.
    tie_run: u64 = 0;
    /// Entry: a run of ties begins with each so-many-th entry.
    tie_every: u64 = 1_000;
    /// Entry: so many entries of the history within one second; 0: none.
    burst: u64 = 0;

    /// World: `created:` filters by `created_at`, not by `@timestamp`.
    created_filters_created_at: bool = false;
    /// World: Git events come newest first although `order=asc` is asked for.
    git_newest_first: bool = false;
    /// World: the rows within a page are in no order.
    unsorted_pages: bool = false;
    /// World: links count pages (`page=`) in place of cursors.
    page_links: bool = false;
    /// World: the last page has a `next` link too, to where later entries will come. GitHub gives none.
    tail_cursor: bool = false;
    /// World: a malformed `created:` is ignored, not answered with 422.
    bad_phrase_ignored: bool = false;
    /// World: limits are answered with 429, not 403.
    limits_429: bool = false;
    /// World: a 304 is not counted against the limit.
    not_modified_is_free: bool = false;
    /// World: GraphQL has no audit log any more.
    graphql_dropped: bool = false;
    /// World: REST shows entries so many simulated seconds later than GraphQL.
    graphql_ahead_s: u64 = 0;
    /// World: every last page has a `next` link to itself: the chain never ends.
    endless_next: bool = false;

    /// Request: a row of the page is shown twice.
    duplicate_rows: f64 = 0.0;
    /// Request: the next page begins with the last rows of this one.
    overlapping_pages: f64 = 0.0;
    /// Request: fewer rows than asked for, although more follow.
    short_pages: f64 = 0.0;
    /// Request: an empty page with a `next` link, although more follow.
    empty_pages: f64 = 0.0;
    /// Request: a valid cursor is refused.
    lost_cursor: f64 = 0.0;
    /// Request: status of a refused cursor, lost or malformed.
    lost_cursor_status: u64 = 422;
    /// Request: 500, 502, 503 or 504.
    server_error: f64 = 0.0;
    /// Request: the connection is reset before the answer.
    reset_before_headers: f64 = 0.0;
    /// Request: the connection is reset in the middle of the body.
    reset_in_body: f64 = 0.0;
    /// Request: the answer begins late.
    slow_first_byte: f64 = 0.0;
    /// Request: how late, real milliseconds.
    slow_first_byte_ms: u64 = 1_000;
    /// Request: the body comes in pieces.
    drip: f64 = 0.0;
    /// Request: bytes of a piece.
    drip_bytes: u64 = 1_024;
    /// Request: real milliseconds between two pieces.
    drip_ms: u64 = 20;
    /// Request: the body ends before its content-length.
    truncated_length: f64 = 0.0;
    /// Request: the chunked body ends without its last chunk.
    truncated_chunks: f64 = 0.0;
    /// Request: a body that is complete for HTTP ends in the middle of the JSON.
    truncated_json: f64 = 0.0;
    /// Request: an HTML page with status 200.
    html: f64 = 0.0;
    /// Request: a JSON object with status 200.
    object: f64 = 0.0;
    /// Request: 403, not an owner.
    forbidden: f64 = 0.0;
    /// Request: 403, the token is not authorized for SAML SSO.
    sso: f64 = 0.0;
    /// Request: 404.
    not_found: f64 = 0.0;
    /// Request: 401, as when the token has been revoked.
    unauthorized: f64 = 0.0;
    /// Request: 301, 302 or 307 to another path of this server.
    redirect: f64 = 0.0;
    /// Request: a redirect to another host.
    redirect_elsewhere: f64 = 0.0;
    /// Request: the `next` link leads to another host.
    link_elsewhere: f64 = 0.0;
    /// Request: a body that grows a thousandfold when decompressed.
    bomb: f64 = 0.0;
    /// Request: bytes of that body after decompression.
    bomb_bytes: u64 = 1 << 30;
    /// Request: headers without end.
    huge_headers: f64 = 0.0;
    /// Request: bytes of those headers.
    huge_header_bytes: u64 = 1 << 20;
    /// Request: `Date` is a year ahead; at most in one answer of ten.
    wild_date: f64 = 0.0;
    /// Request: `Date` is an hour old, as from a cache.
    cached_date: f64 = 0.0;
    /// Request: the hourly limit is used up until shortly.
    primary_limit: f64 = 0.0;
    /// Request: a secondary limit, with `retry-after`.
    secondary_limit: f64 = 0.0;
    /// Limits: one budget of a user for all entities, not one for each.
    budget_of_all_entities: bool = false;
    /// Limits: so many requests of each window are made by others with the same user, evenly.
    foreign_requests: u64 = 0;
    /// Apps: 500 in place of a token.
    no_token_made: bool = false;
    /// Apps: no `GET /enterprises/{enterprise}/installation`, as before May 2026.
    no_enterprise_installation: bool = false;
    /// Request: that `retry-after`, seconds.
    secondary_retry_after_s: u64 = 1;
    /// Request: a secondary limit that only its message tells.
    secondary_message: f64 = 0.0;
    /// Request: GraphQL gives a part of the page, status 200, and an error.
    graphql_partial: f64 = 0.0;
    /// Request: GraphQL shows one entry of the page as null, without an error.
    graphql_null: f64 = 0.0;
    /// Request faults strike at most so many times, then no more; 0: without end.
    at_most: u64 = 0;
}

impl Faults {
    /// Everything that must cost neither a loss nor a double, at moderate rates. Left out: what takes a reader's
    /// permission away, limits that cost a minute, servers that are out for harm, and `uncuttable` (its whole page
    /// goes to the dead-letter topic, so bodies cannot be compared one by one).
    pub fn nasty() -> Self {
        Self {
            late: 0.02,
            revised: 0.01,
            reused_id: 0.01,
            missing_created_at: 0.02,
            missing_timestamp: 0.01,
            missing_times: 0.005,
            missing_document_id: 0.005,
            missing_actor: 0.02,
            missing_org: 0.01,
            missing_action: 0.005,
            wrong_types: 0.005,
            empty_strings: 0.01,
            array_org: 0.02,
            invalid_utf8: 0.005,
            lone_surrogate: 0.005,
            huge_number: 0.005,
            deep_nesting: 0.002,
            duplicate_members: 0.005,
            big_integer: 0.005,
            huge_entry: 0.0001,
            dated_2099: 1,
            tie_run: 150,
            burst: 5_000,
            ..Self::nasty_requests()
        }
    }

    /// [`Faults::nasty`] without what only a reader that sweeps can find: late entries and revisions.
    pub fn nasty_read_once() -> Self {
        Self { late: 0.0, revised: 0.0, ..Self::nasty() }
    }

    /// The faults of [`Faults::nasty`] that strike requests, over a log of plain entries.
    pub fn nasty_requests() -> Self {
        Self {
            duplicate_rows: 0.02,
            overlapping_pages: 0.02,
            short_pages: 0.02,
            empty_pages: 0.01,
            lost_cursor: 0.005,
            server_error: 0.02,
            reset_before_headers: 0.01,
            reset_in_body: 0.01,
            slow_first_byte: 0.02,
            slow_first_byte_ms: 300,
            drip: 0.01,
            truncated_length: 0.01,
            truncated_chunks: 0.01,
            truncated_json: 0.01,
            html: 0.01,
            object: 0.01,
            redirect: 0.01,
            wild_date: 0.02,
            cached_date: 0.02,
            secondary_limit: 0.002,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_set_by_name_and_refuse_what_they_cannot_take() {
        let mut faults = Faults::default();
        faults.set("late", "0.25").unwrap();
        faults.set("page_links", "true").unwrap();
        faults.set("burst", "5000").unwrap();
        assert_eq!((faults.late, faults.page_links, faults.burst), (0.25, true, 5000));
        assert!(matches!(faults.set("lat", "1"), Err(FaultError::Unknown(_))));
        let refused = faults.set("late", "2").unwrap_err();
        assert_eq!(
            refused.to_string(),
            "fault late cannot be \"2\": it takes a probability from 0 to 1"
        );
    }

    #[test]
    fn every_switch_is_listed_with_its_meaning() {
        let list = Faults::list();
        assert!(list.len() > 60, "{}", list.len());
        for (name, takes, meaning) in list {
            assert!(!meaning.trim().is_empty() && !takes.is_empty(), "{name}");
            assert!(
                Faults::default().set(name, "1").is_ok() || takes.starts_with("true"),
                "{name}"
            );
        }
    }
}
