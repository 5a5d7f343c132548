//! The URL of one page: always built from the configured base, never taken from an answer.

use super::PageRequest;
use crate::audit::EntityKind;
use crate::audit::slice::Query;
use crate::time::rfc3339_s;
use url::Url;

/// Last second that can be written: 9999-12-30T22:00:00Z.
const LAST_SECOND: i64 = 253_402_207_200;

/// A slug or base that no URL can be built from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no audit log URL can be built for slug {slug:?}: set `slug` to the name in the address bar of GitHub"
)]
pub struct QueryError {
    slug: String,
}

/// The audit log's URL of an enterprise or organization, without a query. The slug is one path segment, whatever it holds.
pub fn endpoint(base: &Url, kind: EntityKind, slug: &str) -> Result<Url, QueryError> {
    let fault = || QueryError { slug: slug.to_owned() };
    // the URL standard drops dot segments, and tabs and line breaks wherever they are: the token would go elsewhere
    if matches!(slug, "" | "." | "..") || slug.contains(char::is_control) {
        return Err(fault());
    }
    let mut url = base.clone();
    url.path_segments_mut().map_err(|()| fault())?.pop_if_empty().extend([
        kind.path_segment(),
        slug,
        "audit-log",
    ]);
    Ok(url)
}

/// The URL of one page at an [`endpoint`]. A cursor goes before a page number.
pub fn page_url(endpoint: &Url, request: &PageRequest, page: Option<u64>) -> Url {
    let mut url = endpoint.clone();
    let mut pairs = url.query_pairs_mut();
    pairs
        .append_pair("phrase", &phrase(request.query))
        .append_pair("include", request.lane.as_str())
        .append_pair("order", "asc")
        .append_pair("per_page", &request.per_page.clamp(1, 100).to_string());
    if let Some(cursor) = &request.cursor {
        pairs.append_pair("after", cursor.as_str());
    } else if let Some(page) = page {
        pairs.append_pair("page", &page.to_string());
    }
    drop(pairs);
    url
}

/// GitHub's search phrase: `created:` in whole seconds, both edges inclusive. Without it only three months are shown.
/// Source: docs.github.com, "Searching the audit log for your enterprise".
pub fn phrase(query: Query) -> String {
    let second = |at: i64| rfc3339_s(at.clamp(0, LAST_SECOND));
    match query.to_s {
        Some(to_s) => format!("created:{}..{}", second(query.from_s), second(to_s)),
        None => format!("created:>={}", second(query.from_s)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Cursor, Lane};
    use proptest::prelude::*;

    fn request(cursor: Option<&str>) -> PageRequest {
        PageRequest {
            lane: Lane::Web,
            query: Query { from_s: 1_767_323_045, to_s: None },
            cursor: cursor.and_then(|text| Cursor::new(text.to_owned())),
            per_page: 100,
        }
    }

    fn base(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn urls_as_github_documents_them() {
        let endpoint =
            endpoint(&base("https://api.github.com/"), EntityKind::Organization, "octo-org")
                .unwrap();
        assert_eq!(
            page_url(&endpoint, &request(None), None).as_str(),
            "https://api.github.com/orgs/octo-org/audit-log\
             ?phrase=created%3A%3E%3D2026-01-02T03%3A04%3A05Z&include=web&order=asc&per_page=100"
        );
        assert!(
            page_url(&endpoint, &request(Some("a=")), Some(3)).as_str().ends_with("&after=a%3D")
        );
        assert!(page_url(&endpoint, &request(None), Some(3)).as_str().ends_with("&page=3"));
    }

    #[test]
    fn any_base_and_kind() {
        for (text, expected) in [
            ("https://ghe.example/api/v3/", "https://ghe.example/api/v3/enterprises/e/audit-log"),
            ("https://ghe.example/api/v3", "https://ghe.example/api/v3/enterprises/e/audit-log"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/enterprises/e/audit-log"),
        ] {
            assert_eq!(
                endpoint(&base(text), EntityKind::Enterprise, "e").unwrap().as_str(),
                expected
            );
        }
    }

    #[test]
    fn phrases() {
        let phrase = |from_s, to_s| phrase(Query { from_s, to_s });
        assert_eq!(phrase(0, Some(1)), "created:1970-01-01T00:00:00Z..1970-01-01T00:00:01Z");
        assert_eq!(phrase(i64::MIN, None), "created:>=1970-01-01T00:00:00Z");
        assert_eq!(phrase(0, Some(i64::MAX)), "created:1970-01-01T00:00:00Z..9999-12-30T22:00:00Z");
    }

    #[test]
    fn a_slug_cannot_leave_its_segment() {
        let base = base("https://api.github.com/");
        for slug in ["", ".", "..", "\t", ".\t.", "octo\norg"] {
            assert!(endpoint(&base, EntityKind::Organization, slug).is_err());
        }
        for slug in ["a/../b", "%2e%2e", "a?b", "a#b", "a\\b", "ä b"] {
            let url = endpoint(&base, EntityKind::Organization, slug).unwrap();
            assert_eq!(url.path_segments().unwrap().count(), 3, "{url}");
            assert!(url.path().ends_with("/audit-log"), "{url}");
            assert_eq!(url.query(), None);
        }
    }

    proptest! {
        #[test]
        fn every_cursor_arrives_as_it_is(cursor in "\\PC{1,80}", from_s in any::<i64>(), to_s in any::<Option<i64>>()) {
            let mut request = request(Some(&cursor));
            request.query = Query { from_s, to_s };
            let endpoint = endpoint(&base("https://api.github.com/"), EntityKind::Organization, "o").unwrap();
            let url = page_url(&endpoint, &request, None);
            let after: Vec<_> = url.query_pairs().filter(|(name, _)| name == "after").collect();
            prop_assert_eq!(after.len(), 1);
            prop_assert_eq!(&after[0].1, &cursor);
        }
    }
}
