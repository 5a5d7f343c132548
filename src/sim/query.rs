//! What a request asks for: path and parameters.

use super::cursor::Place;
use super::phrase::{BadPhrase, Window, default_from, window};
use crate::audit::{EntityKind, Lane};

/// Which entity a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathTarget {
    /// Enterprise or organization.
    pub(crate) kind: EntityKind,
    /// Slug, or the numeric id.
    pub(crate) name: String,
}

/// Reads `.../enterprises/{slug}/audit-log`, `.../orgs/{slug}/audit-log`, `.../organizations/{id}/audit-log`.
pub(crate) fn path_target(path: &str) -> Option<PathTarget> {
    let mut segments = path.rsplit('/');
    let (last, name, kind) = (segments.next()?, segments.next()?, segments.next()?);
    let kind = match kind {
        "enterprises" => EntityKind::Enterprise,
        "orgs" | "organizations" => EntityKind::Organization,
        _ => return None,
    };
    (last == "audit-log").then(|| PathTarget { kind, name: name.to_owned() })
}

/// The parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    /// `include`.
    pub(crate) lanes: Vec<Lane>,
    /// `created:` of the phrase, or the default.
    pub(crate) window: Window,
    /// `after`.
    pub(crate) after: Option<Place>,
    /// `before`.
    pub(crate) before: Option<Place>,
    /// `order=asc`.
    pub(crate) ascending: bool,
    /// `per_page`.
    pub(crate) per_page: usize,
    /// `page`, from 1.
    pub(crate) page: Option<u64>,
    /// All parameters but `after`, `before` and `page`, for `Link`.
    pub(crate) kept: Vec<(String, String)>,
}

/// A parameter that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BadQuery {
    /// `phrase`.
    Phrase(BadPhrase),
    /// `after` or `before`.
    Cursor,
    /// `include`, `order`.
    Value(&'static str),
}

/// Reads the query part of a URL.
pub(crate) fn query(
    text: &str,
    now_ms: i64,
    pages_allowed: bool,
    bad_phrase_ignored: bool,
) -> Result<Query, BadQuery> {
    let mut query = Query {
        lanes: vec![Lane::Web],
        window: Window { from_ms: default_from(now_ms), to_ms: i64::MAX },
        after: None,
        before: None,
        ascending: false,
        per_page: 30,
        page: None,
        kept: Vec::new(),
    };
    for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
        match &*name {
            "after" => query.after = place(&value)?,
            "before" => query.before = place(&value)?,
            "page" if pages_allowed => query.page = value.parse().ok().filter(|page| *page > 0),
            "page" => {}
            _ => {
                query.parameter(&name, &value, now_ms, bad_phrase_ignored)?;
                query.kept.push((name.into_owned(), value.into_owned()));
            }
        }
    }
    Ok(query)
}

fn place(cursor: &str) -> Result<Option<Place>, BadQuery> {
    if cursor.is_empty() {
        return Ok(None);
    }
    Place::decode(cursor).map(Some).ok_or(BadQuery::Cursor)
}

impl Query {
    fn parameter(
        &mut self,
        name: &str,
        value: &str,
        now_ms: i64,
        bad_phrase_ignored: bool,
    ) -> Result<(), BadQuery> {
        match (name, value) {
            ("phrase", phrase) => match window(phrase, now_ms) {
                Ok(window) => self.window = window,
                Err(_) if bad_phrase_ignored => {}
                Err(bad) => return Err(BadQuery::Phrase(bad)),
            },
            ("include", "web") => self.lanes = vec![Lane::Web],
            ("include", "git") => self.lanes = vec![Lane::Git],
            ("include", "all") => self.lanes = Lane::REST.to_vec(),
            ("include", _) => return Err(BadQuery::Value("include")),
            ("order", "asc") => self.ascending = true,
            ("order", "desc") => self.ascending = false,
            ("order", _) => return Err(BadQuery::Value("order")),
            ("per_page", number) => self.per_page = number.parse().unwrap_or(30).clamp(1, 100),
            _ => {}
        }
        Ok(())
    }

    /// The query part of a `Link` with other cursors: `after` and `before` last, empty ones too, as GitHub does.
    pub(crate) fn link_with_cursors(&self, after: &str, before: &str) -> String {
        self.link(&[("after", after), ("before", before)])
    }

    /// The query part of a `Link` that counts pages.
    pub(crate) fn link_with_page(&self, page: u64) -> String {
        self.link(&[("page", &page.to_string())])
    }

    fn link(&self, last: &[(&str, &str)]) -> String {
        url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(&self.kept)
            .extend_pairs(last)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_with_and_without_prefix() {
        let org =
            |name: &str| Some(PathTarget { kind: EntityKind::Organization, name: name.to_owned() });
        assert_eq!(path_target("/orgs/acme/audit-log"), org("acme"));
        assert_eq!(path_target("/api/v3/orgs/acme/audit-log"), org("acme"));
        assert_eq!(path_target("/organizations/17/audit-log"), org("17"));
        assert_eq!(path_target("/enterprises/a/audit-log").unwrap().kind, EntityKind::Enterprise);
        for path in ["/", "/audit-log", "/users/a/audit-log", "/orgs/a/audit-log/x", "/orgs/a"] {
            assert_eq!(path_target(path), None, "{path}");
        }
    }

    #[test]
    fn defaults_are_github_s() {
        let query = query("", 0, false, false).unwrap();
        assert_eq!((query.per_page, query.ascending, query.page), (30, false, None));
        assert_eq!(query.lanes, [Lane::Web]);
    }

    #[test]
    fn parameters_are_read_and_cut_to_their_limits() {
        let text = "phrase=created%3A%3E%3D2026-01-01&include=all&order=asc&per_page=500&after=&before=&page=3";
        let query = query(text, 0, true, false).unwrap();
        assert_eq!((query.per_page, query.ascending, query.page), (100, true, Some(3)));
        assert_eq!(query.lanes, Lane::REST);
        assert_eq!(query.window.from_ms, 1_767_225_600_000);
    }

    #[test]
    fn a_link_keeps_the_parameters_and_ends_with_both_cursors() {
        let query =
            query("phrase=created:%3E%3D2026-01-01+action:x&per_page=100&after=", 0, false, false);
        assert_eq!(
            query.unwrap().link_with_cursors("MS4w=", ""),
            "phrase=created%3A%3E%3D2026-01-01+action%3Ax&per_page=100&after=MS4w%3D&before="
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        assert_eq!(query("after=x", 0, false, false), Err(BadQuery::Cursor));
        assert_eq!(query("order=up", 0, false, false), Err(BadQuery::Value("order")));
        assert!(matches!(query("phrase=created:x", 0, false, false), Err(BadQuery::Phrase(_))));
        assert!(query("phrase=created:x", 0, false, true).is_ok());
    }
}
