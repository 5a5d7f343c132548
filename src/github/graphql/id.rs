//! One id for one entry, whichever way it came.
//!
//! A node id is a prefix for the type, `_`, and base64url of a `MessagePack` array: a zero and the 22 characters that REST
//! calls `_document_id`. Inferred from four ids in a public issue (github/ghec-audit-log-cli #32), not documented: an
//! id of any other shape stands for itself, so that a wrong guess doubles an entry and loses none.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Array of two, the number 0, a string of 22 bytes.
const BEFORE: [u8; 3] = [0x92, 0x00, 0xb6];
/// Characters of a document id.
const LEN: usize = 22;

/// The document id that a node id holds; `None` where it is of another shape.
pub fn document_id(node_id: &str) -> Option<String> {
    let (prefix, rest) = node_id.split_once('_')?;
    if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(rest).ok()?;
    let id = bytes.strip_prefix(&BEFORE)?;
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if id.len() != LEN || !id.iter().all(plain) {
        return None;
    }
    String::from_utf8(id.to_vec()).ok()
}

/// The node id that holds a document id of 22 bytes: what [`document_id`] undoes.
pub fn node_id(prefix: &str, document_id: &[u8]) -> String {
    let bytes: Vec<u8> = BEFORE.iter().chain(document_id).copied().collect();
    format!("{prefix}_{}", URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_id_as_github_has_sent_it() {
        assert_eq!(
            document_id("RAAE_kgC2dmxGYVowTlpYQlRUTzJsaE5VMDNFQQ").as_deref(),
            Some("vlFaZ0NZXBTTO2lhNU03EA")
        );
    }

    #[test]
    fn another_shape_is_no_document_id() {
        for id in [
            "",
            "_",
            "RAAE",
            "_kgC2dmxGYVowTlpYQlRUTzJsaE5VMDNFQQ",
            "RAAE_",
            "RAAE_kgC2dmxGYVowTlpYQlRUTzJsaE5VMDNFQQ==",
            "RAAE_kgC2dmxGYVowTlpYQlRUTzJsaE5VMDNF",
            "MDQ6VXNlcjM0MDczMDM=",
            "U_kgDOADP9xw",
            "R A_kgC2dmxGYVowTlpYQlRUTzJsaE5VMDNFQQ",
            "\u{e9}_kgC2dmxGYVowTlpYQlRUTzJsaE5VMDNFQQ",
        ] {
            assert_eq!(document_id(id), None, "{id}");
        }
        // 22 bytes that are no document id
        assert_eq!(document_id(&node_id("RAAE", b"0123456789 123456789 1")), None);
    }

    proptest! {
        #[test]
        fn what_rest_calls_an_entry_is_read_back(id in "[A-Za-z0-9_-]{22}", prefix in "[A-Z]{1,8}") {
            prop_assert_eq!(document_id(&node_id(&prefix, id.as_bytes())), Some(id));
        }

        #[test]
        fn two_ids_never_become_one(a in "[A-Za-z0-9_-]{22}", b in "[A-Za-z0-9_-]{22}") {
            prop_assert_eq!(node_id("X", a.as_bytes()) == node_id("X", b.as_bytes()), a == b);
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            if let Some(id) = document_id(&text) {
                prop_assert_eq!(id.len(), LEN);
            }
        }
    }
}
