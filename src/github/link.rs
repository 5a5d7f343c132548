//! The `Link` header: where a walk goes on. RFC 8288, as far as GitHub uses it.
//!
//! The URL in the header is never followed: it is taken apart, its cursor kept, and the next request built from our own
//! base. Its path may differ from ours (GitHub answers with numeric ids), its scheme, host and port may not.

use super::Next;
use crate::audit::Cursor;
use url::Url;

/// Why a `Link` header is not used. Nothing moves then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Not written as RFC 8288 says.
    #[error("the Link header is malformed at byte {0}")]
    Malformed(usize),
    /// The next link's URL cannot be parsed.
    #[error("the next link of the Link header is not a URL")]
    NotAUrl,
    /// Another scheme, host or port than the configured one.
    #[error("the next link leads to {0}, which is not the configured server")]
    Elsewhere(String),
    /// Neither a usable `after` nor a usable `page`.
    #[error("the next link has neither a usable `after` nor a usable `page`")]
    NoPlace,
}

/// Where to go on after an answer to a request for `request_url`, from the values of its `Link` headers; `None` where
/// no link is `rel="next"`.
pub fn next<'a>(
    values: impl IntoIterator<Item = &'a [u8]>,
    request_url: &Url,
) -> Result<Option<Next>, LinkError> {
    for value in values {
        let text = std::str::from_utf8(value)
            .map_err(|error| LinkError::Malformed(error.valid_up_to()))?;
        let mut rest = Reader { text, at: 0 };
        while let Some(link) = rest.link()? {
            if link.is_next {
                return place(link.target, request_url).map(Some);
            }
        }
    }
    Ok(None)
}

/// Whether two URLs have the same scheme, host and port.
pub fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host() == other.host()
        && one.port_or_known_default() == other.port_or_known_default()
}

/// Scheme, host and port of a URL, for messages: never its user, path or query.
pub fn origin_text(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// The place that a next link stands for. `after` goes before `page`; GitHub sends an empty `before=` along.
fn place(target: &str, request_url: &Url) -> Result<Next, LinkError> {
    let url = request_url.join(target).map_err(|_| LinkError::NotAUrl)?;
    if !same_origin(&url, request_url) {
        return Err(LinkError::Elsewhere(origin_text(&url)));
    }
    let value = |name: &str| {
        url.query_pairs()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value)
    };
    if let Some(after) = value("after") {
        let decodable = !after.contains(char::REPLACEMENT_CHARACTER);
        let cursor = Cursor::new(after.into_owned()).filter(|_| decodable);
        return cursor.map(Next::Cursor).ok_or(LinkError::NoPlace);
    }
    let page = value("page").and_then(|page| page.parse().ok()).filter(|page| *page > 0);
    page.map(Next::Page).ok_or(LinkError::NoPlace)
}

/// One link of a header.
struct Link<'a> {
    target: &'a str,
    is_next: bool,
}

/// Reads a header's value from left to right.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn malformed(&self) -> LinkError {
        LinkError::Malformed(self.at)
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip(&mut self, also: char) {
        let rest = self.rest();
        let kept = rest.trim_start_matches([' ', '\t', also]);
        self.at += rest.len() - kept.len();
    }

    fn take(&mut self, symbol: char) -> bool {
        let found = self.rest().starts_with(symbol);
        if found {
            self.at += symbol.len_utf8();
        }
        found
    }

    /// Everything before `end`, which is taken too.
    fn until(&mut self, end: char) -> Result<&'a str, LinkError> {
        let (part, _) = self.rest().split_once(end).ok_or_else(|| self.malformed())?;
        self.at += part.len() + end.len_utf8();
        Ok(part)
    }

    /// The next link; `None` at the end.
    fn link(&mut self) -> Result<Option<Link<'a>>, LinkError> {
        self.skip(',');
        if self.rest().is_empty() {
            return Ok(None);
        }
        if !self.take('<') {
            return Err(self.malformed());
        }
        let target = self.until('>')?;
        // of several `rel` only the first one counts (RFC 8288, 3.3)
        let mut rel: Option<String> = None;
        loop {
            self.skip(' ');
            if self.rest().is_empty() || self.rest().starts_with(',') {
                break;
            }
            if !self.take(';') {
                return Err(self.malformed());
            }
            let Some((name, value)) = self.parameter()? else {
                continue;
            };
            if name.eq_ignore_ascii_case("rel") && rel.is_none() {
                rel = Some(value);
            }
        }
        let is_next = rel.is_some_and(|rel| {
            rel.split_ascii_whitespace().any(|relation| relation.eq_ignore_ascii_case("next"))
        });
        Ok(Some(Link { target, is_next }))
    }

    /// `name`, `name=token` or `name="quoted"`; `None` where nothing stands between two semicolons.
    fn parameter(&mut self) -> Result<Option<(&'a str, String)>, LinkError> {
        self.skip(' ');
        let name = self.token();
        if name.is_empty() {
            let empty = self.rest().is_empty() || self.rest().starts_with([';', ',']);
            return if empty { Ok(None) } else { Err(self.malformed()) };
        }
        self.skip(' ');
        if !self.take('=') {
            return Ok(Some((name, String::new())));
        }
        self.skip(' ');
        let value = if self.take('"') { self.quoted()? } else { self.token().to_owned() };
        Ok(Some((name, value)))
    }

    fn token(&mut self) -> &'a str {
        let rest = self.rest();
        let end = rest.find([' ', '\t', ',', ';', '=', '"', '<', '>']).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    fn quoted(&mut self) -> Result<String, LinkError> {
        let mut value = String::new();
        let mut symbols = self.rest().char_indices();
        while let Some((offset, symbol)) = symbols.next() {
            match symbol {
                '"' => {
                    self.at += offset + 1;
                    return Ok(value);
                }
                '\\' => value.extend(symbols.next().map(|(_, escaped)| escaped)),
                other => value.push(other),
            }
        }
        Err(self.malformed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ours() -> Url {
        Url::parse("https://api.github.com/orgs/octo/audit-log?phrase=created%3A%3E%3D2026")
            .unwrap()
    }

    fn next_of(value: &str) -> Result<Option<Next>, LinkError> {
        next([value.as_bytes()], &ours())
    }

    fn cursor(text: &str) -> Option<Next> {
        Cursor::new(text.to_owned()).map(Next::Cursor)
    }

    #[test]
    fn reads_githubs_own_form() {
        let value = "<https://api.github.com/enterprises/13827/audit-log?phrase=x&per_page=100&after=MS42NjQzODMzNTk5MjdlKzEyfDloQzBxdURzaFdVbVlLWjkxRU9mNXc%3D&before=>; rel=\"next\", \
            <https://api.github.com/enterprises/13827/audit-log?after=&before=>; rel=\"first\", \
            <https://api.github.com/enterprises/13827/audit-log?after=&before=MS42MjA%3D>; rel=\"prev\"";
        let expected = cursor("MS42NjQzODMzNTk5MjdlKzEyfDloQzBxdURzaFdVbVlLWjkxRU9mNXc=");
        assert_eq!(next_of(value), Ok(expected.clone()));
        let mut parts: Vec<&[u8]> = value.split(", ").map(str::as_bytes).collect();
        parts.reverse();
        assert_eq!(next(parts, &ours()), Ok(expected), "several headers, in any order");
    }

    #[test]
    fn forms_that_rfc_8288_allows() {
        for (value, expected) in [
            ("", None),
            (" , ,", None),
            ("<?after=a>; rel=next", cursor("a")),
            ("</x?after=a>;REL=\"prev NEXT\"", cursor("a")),
            ("<?after=a> ; title=\"x, y; \\\"z>\" ; rel = \"next\" ,", cursor("a")),
            ("<?after=a>; rel=prev; rel=next", None),
            ("<?after=a>", None),
            ("<?after=a>;;flag;rel=next", cursor("a")),
            ("<?after=a%2Bb+c%26>; rel=next", cursor("a+b c&")),
            ("<https://API.github.com:443/other?after=a>; rel=next", cursor("a")),
            ("<?page=7&per_page=100>; rel=\"next\"", Some(Next::Page(7))),
            ("<?page=7&after=a>; rel=\"next\"", cursor("a")),
            ("<?page=7&after=>; rel=\"next\"", Some(Next::Page(7))),
            ("<?after=&after=a>; rel=\"next\"", cursor("a")),
            ("<http://other.example/?after=a>; rel=\"prev\"", None),
        ] {
            assert_eq!(next_of(value), Ok(expected), "{value}");
        }
    }

    #[test]
    fn never_elsewhere() {
        for target in [
            "https://api.github.com.evil.example/?after=a",
            "http://api.github.com/?after=a",
            "https://api.github.com:8443/?after=a",
            "//evil.example/?after=a",
            "https://api.github.com@evil.example/?after=a",
            "file:///etc/passwd?after=a",
        ] {
            let error = next_of(&format!("<{target}>; rel=next")).unwrap_err();
            assert!(matches!(error, LinkError::Elsewhere(_)), "{target}: {error}");
        }
    }

    #[test]
    fn an_unusable_header_is_an_error_and_not_the_end() {
        let long = format!("<?after={}>; rel=next", "a".repeat(Cursor::LEN_MAX + 1));
        for value in [
            "x",
            "<",
            "<?after=a",
            "<?after=a> rel=next",
            "<?after=a>; rel=\"next",
            "<?after=a>; =next",
            "<?x=1>; rel=next",
            "<?after=>; rel=next",
            "<?page=0>; rel=next",
            "<?page=-1>; rel=next",
            "<?page=99999999999999999999>; rel=next",
            "<https://[>; rel=next",
            "<?after=%ff>; rel=next",
            &long,
        ] {
            assert!(next_of(value).is_err(), "{value}");
        }
        assert!(next([&b"<?after=\xff>; rel=next"[..]], &ours()).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_never_lead_elsewhere(value in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(next([value.as_slice()], &ours()));
        }

        #[test]
        fn any_cursor_comes_back(text in "[^\u{fffd}]{1,80}", before in any::<bool>()) {
            let mut url = ours();
            url.query_pairs_mut().append_pair("after", &text).append_pair("before", "");
            let link = format!("<{url}>; rel=\"next\"");
            let value = if before { format!("<?after=x>; rel=\"prev\", {link}") } else { link };
            prop_assert_eq!(next_of(&value), Ok(cursor(&text)));
        }
    }
}
