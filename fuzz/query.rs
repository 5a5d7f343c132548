//! URLs of pages: whatever cursor, slug, query and page, the request stays at its endpoint and says what was meant.

use crate::decisions::Decisions;
use ghauditd::audit::slice::Query;
use ghauditd::audit::{Cursor, EntityKind, Lane};
use ghauditd::github::{Next, PageRequest, link, query};
use url::Url;

#[test]
fn cursor_and_query() {
    bolero::check!()
        .with_max_len(512_usize)
        .for_each(|bytes: &[u8]| check(&mut Decisions::new(bytes)));
}

fn check(decisions: &mut Decisions<'_>) {
    let base = Url::parse(decisions.pick(&[
        "https://api.github.com/",
        "https://ghe.example/api/v3/",
        "https://ghe.example:8443/api/v3",
        "http://127.0.0.1:1/",
    ]))
    .unwrap();
    let request_query = Query {
        from_s: decisions.number(),
        to_s: (decisions.byte() > 127).then(|| decisions.number()),
    };
    let page = (decisions.byte() > 127).then(|| decisions.number().unsigned_abs());
    let per_page = decisions.byte();
    let slug_len = decisions.below(12);
    let slug = string(decisions, slug_len);
    let cursor = string(decisions, 256);
    let Ok(endpoint) = query::endpoint(&base, EntityKind::Organization, &slug) else {
        assert!(matches!(slug.as_str(), "" | "." | ".."), "{slug:?}");
        return;
    };
    assert!(link::same_origin(&endpoint, &base));
    let depth = |url: &Url| url.path_segments().unwrap().filter(|part| !part.is_empty()).count();
    assert_eq!(depth(&endpoint), depth(&base) + 3, "{endpoint}");
    let request = PageRequest {
        lane: Lane::Git,
        query: request_query,
        cursor: Cursor::new(cursor.clone()),
        per_page,
    };
    let url = query::page_url(&endpoint, &request, page);
    assert_eq!(url.path(), endpoint.path());
    let values = |name: &str| -> Vec<String> {
        url.query_pairs().filter(|pair| pair.0 == name).map(|pair| pair.1.into_owned()).collect()
    };
    assert_eq!(values("phrase"), [query::phrase(request_query)]);
    assert_eq!(values("include"), ["git"]);
    assert_eq!(values("order"), ["asc"]);
    let per_page: u8 = values("per_page")[0].parse().unwrap();
    assert!((1..=100).contains(&per_page));
    let header = format!("<{url}>; rel=\"next\"");
    let next = link::next([header.as_bytes()], &endpoint);
    if cursor.is_empty() {
        assert!(values("after").is_empty());
        if let Some(page) = page.filter(|page| *page > 0) {
            assert_eq!(next, Ok(Some(Next::Page(page))));
        }
    } else {
        assert_eq!(values("after"), [cursor.as_str()]);
        if !cursor.contains(char::REPLACEMENT_CHARACTER) {
            assert_eq!(next, Ok(Cursor::new(cursor).map(Next::Cursor)));
        }
    }
}

/// At most `len` characters of any kind, the ones that URLs treat specially more often.
fn string(decisions: &mut Decisions<'_>, len: usize) -> String {
    let mut text = String::new();
    while text.chars().count() < len && !decisions.is_empty() {
        match decisions.byte() {
            0..=20 => text.push_str(
                decisions.pick(&["%", "/", "..", ".", "?", "#", "&", "=", "+", "\\", "%2e", " "]),
            ),
            21..=60 => {
                let high = u32::from(decisions.byte()) << 8;
                text.extend(char::from_u32(high | u32::from(decisions.byte())));
            }
            other => text.push(char::from(other)),
        }
    }
    text
}
