//! `Link` headers: any bytes; never another server; a cursor that comes back as it was.

use crate::decisions::Decisions;
use ghauditd::github::{Next, link};
use url::Url;

const PARTS: &[&str] = &[
    "<",
    ">",
    ";",
    ",",
    " ",
    "\t",
    "=",
    "\"",
    "\\",
    "rel",
    "rel=next",
    "rel=\"next\"",
    "; rel=\"prev next\"",
    "REL=NEXT",
    "<https://api.github.com/",
    "<https://evil.example/",
    "<//evil.example/",
    "<http://api.github.com/",
    "<?",
    "</",
    "after=",
    "page=",
    "&before=",
    "?",
    "&",
    "#",
    "MTI%3D",
    "%",
    "%00",
    "%ff",
    "7",
    "0",
    "@evil.example/",
    ":443",
    ":8443",
    "<https://api.github.com/x?after=a>; rel=\"next\"",
    "é",
    "title=\"a, b\"",
];

fn ours() -> Url {
    Url::parse("https://api.github.com/orgs/o/audit-log?phrase=x").unwrap()
}

#[test]
fn link_of_bytes() {
    bolero::check!().for_each(|bytes: &[u8]| check(&[bytes]));
}

#[test]
fn link_of_parts() {
    bolero::check!().with_max_len(64_usize).for_each(|bytes: &[u8]| {
        let mut decisions = Decisions::new(bytes);
        let mut values = vec![Vec::new()];
        while !decisions.is_empty() {
            match decisions.byte() {
                0..=3 => values.push(Vec::new()),
                other => {
                    let part = PARTS[usize::from(other) % PARTS.len()];
                    values.last_mut().unwrap().extend_from_slice(part.as_bytes());
                }
            }
        }
        check(&values.iter().map(Vec::as_slice).collect::<Vec<_>>());
    });
}

fn check(values: &[&[u8]]) {
    match link::next(values.iter().copied(), &ours()) {
        Ok(Some(Next::Cursor(cursor))) => {
            assert!(!cursor.as_str().is_empty());
            // a header without another link: what was read must be readable again
            let mut url = ours();
            url.query_pairs_mut().append_pair("after", cursor.as_str());
            let again = link::next([format!("<{url}>; rel=next").as_bytes()], &ours());
            assert_eq!(again, Ok(Some(Next::Cursor(cursor))));
        }
        Ok(Some(Next::Page(page))) => assert!(page > 0),
        Ok(None) => {
            // silence is the end of a walk: there must not be a plain next link that was overlooked
            for value in values {
                let plain = value.windows(11).filter(|part| part == b"rel=\"next\",").count();
                assert!(
                    plain == 0 || !value.starts_with(b"<?after=a>; rel=\"next\","),
                    "{value:?}"
                );
            }
        }
        Err(_) => {}
    }
}
