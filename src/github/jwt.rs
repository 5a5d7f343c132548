//! How a GitHub App says who it is: a JSON Web Token, signed with its private key. Pure.
//!
//! RFC 7515 (JWS, compact form), RFC 7518 3.3 (RS256), RFC 7519 (claims). What GitHub wants in it: docs.github.com,
//! "Generating a JSON Web Token (JWT) for a GitHub App": `iat` 60 s in the past against clock drift, `exp` at most ten minutes
//! ahead, `iss` the client id or the app id.

use super::SecretText;
use super::auth::{Secret, SecretKind};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::zeroize::Zeroize as _;

/// How long before now a token was made, as it says.
const ISSUED_BEFORE_S: i64 = 60;
/// How long it holds from now on: a minute less than GitHub's ten, against clocks that run ahead.
const HOLDS_S: i64 = 9 * 60;
/// `{"alg":"RS256","typ":"JWT"}`.
const HEADER: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9";
/// Largest file of a private key, in bytes: one of 4,096 bits has 3,272.
const PEM_BYTES_MAX: u64 = 16 * 1024;

/// The private key of a GitHub App: RSA with 2,048 to 4,096 bits.
pub struct AppKey(RsaKeyPair);

impl std::fmt::Debug for AppKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AppKey([secret])")
    }
}

impl Secret for AppKey {
    const KIND: SecretKind = SecretKind::PrivateKey;
    const BYTES_MAX: u64 = PEM_BYTES_MAX;

    fn parse(pem: &[u8]) -> Result<Self, &'static str> {
        Self::from_pem(pem)
    }
}

impl AppKey {
    /// A key from PEM: `BEGIN RSA PRIVATE KEY` (PKCS#1), as GitHub hands it out, or `BEGIN PRIVATE KEY` (PKCS#8). The error is
    /// what is wrong with it, as a fragment after the file's name.
    pub fn from_pem(pem: &[u8]) -> Result<Self, &'static str> {
        let mut der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| other_than_a_key(pem))?;
        let pair = match &der {
            PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
            PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
            _ => return Err("holds a key that is not RSA"),
        };
        der.zeroize();
        pair.map(Self).map_err(|rejected| match rejected.to_string().as_str() {
            "WrongAlgorithm" => "holds a key that is not RSA",
            "TooSmall" => "holds a key of fewer than 2048 bits",
            "TooLarge" => "holds a key of more than 4096 bits",
            _ => "holds a damaged key",
        })
    }

    /// The public half, as DER (PKCS#1).
    pub fn public_der(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    /// A token for the app `issuer` (client id or app id), made at `now_s`, epoch seconds by the server's clock. `None` only
    /// where no signature can be made.
    pub fn jwt(&self, issuer: &str, now_s: i64) -> Option<SecretText> {
        let claims = serde_json::json!({
            "iat": now_s.saturating_sub(ISSUED_BEFORE_S),
            "exp": now_s.saturating_add(HOLDS_S),
            "iss": issuer,
        });
        let mut token = format!("{HEADER}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let mut signature = vec![0; self.0.public().modulus_len()];
        let random = ring::rand::SystemRandom::new();
        self.0.sign(&RSA_PKCS1_SHA256, &random, token.as_bytes(), &mut signature).ok()?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Some(SecretText::new(token))
    }
}

/// What a file holds in which there is no private key that can be read.
fn other_than_a_key(pem: &[u8]) -> &'static str {
    let holds = |text: &str| memchr::memmem::find(pem, text.as_bytes()).is_some();
    if holds("BEGIN ENCRYPTED PRIVATE KEY") || holds("Proc-Type: 4,ENCRYPTED") {
        "holds a key that is encrypted with a passphrase"
    } else if holds("BEGIN OPENSSH PRIVATE KEY") {
        "holds a key in the form of OpenSSH"
    } else if holds("BEGIN PUBLIC KEY") || holds("BEGIN RSA PUBLIC KEY") {
        "holds a public key"
    } else if holds("PRIVATE KEY-----") {
        "holds a damaged key"
    } else {
        "holds no private key in PEM form"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    const APP: &[u8] = include_bytes!("../../tests/it/keys/app.pem");
    const PKCS8: &[u8] = include_bytes!("../../tests/it/keys/other-pkcs8.pem");

    fn part(token: &str, number: usize) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(token.split('.').nth(number).unwrap()).unwrap()
    }

    #[test]
    fn both_forms_of_a_key_sign_what_github_asks_for() {
        for pem in [APP, PKCS8] {
            let key = AppKey::from_pem(pem).unwrap();
            let token = key.jwt("Iv23liAbCdEf\"", 1_000_000).unwrap();
            let token = token.expose();
            let json = |number| serde_json::from_slice::<serde_json::Value>(&part(token, number));
            assert_eq!(json(0).unwrap(), serde_json::json!({"alg": "RS256", "typ": "JWT"}));
            let claims = json(1).unwrap();
            assert_eq!(claims["iss"], "Iv23liAbCdEf\"");
            assert_eq!((&claims["iat"], &claims["exp"]), (&999_940.into(), &1_000_540.into()));
            let (signed, _) = token.rsplit_once('.').unwrap();
            UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_der())
                .verify(signed.as_bytes(), &part(token, 2))
                .unwrap();
            assert_eq!(format!("{key:?}"), "AppKey([secret])");
        }
    }

    #[test]
    fn what_is_no_usable_key_is_named() {
        let small = include_bytes!("../../tests/it/keys/small.pem");
        let damaged = String::from_utf8_lossy(APP).replace("MII", "MIX");
        let cut = APP.get(..APP.len() / 2).unwrap();
        for (pem, part) in [
            (&b""[..], "no private key"),
            (b"ghp_secret", "no private key"),
            (include_bytes!("../../tests/it/keys/ec.pem"), "not RSA"),
            (include_bytes!("../../tests/it/keys/ec-pkcs8.pem"), "not RSA"),
            (include_bytes!("../../tests/it/keys/encrypted.pem"), "passphrase"),
            (include_bytes!("../../tests/it/keys/public.pem"), "public key"),
            (small, "fewer than 2048"),
            (damaged.as_bytes(), "damaged"),
            (cut, "damaged"),
        ] {
            let fault = AppKey::from_pem(pem).unwrap_err();
            assert!(fault.contains(part), "{part}: {fault}");
        }
    }
}
