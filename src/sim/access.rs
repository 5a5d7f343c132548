//! Who may ask the simulated GitHub: tokens and their users, Apps, their installations and what was made of them.

use super::config::{SimApp, SimConfig, SimInstallation, SimToken};
use super::rng::mix;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use serde_json::Value;
use std::collections::HashMap;

/// Longest time between now and the end of a JWT, seconds.
const JWT_S_MAX: i64 = 600;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Who {
    /// Whose budget it is.
    pub(crate) user: String,
    /// Requests per window.
    pub(crate) limit: u64,
    /// The installation, which sees its own account only.
    pub(crate) installation: Option<SimInstallation>,
}

/// Why an App is not let in: status and message, as GitHub words them.
pub(crate) type AppFault = (u16, &'static str);

/// All of it.
#[derive(Debug)]
pub(crate) struct Access {
    seed: u64,
    limit: u64,
    tokens: Vec<SimToken>,
    apps: Vec<SimApp>,
    /// Installation tokens: number of the installation, and the end, epoch milliseconds.
    made: HashMap<String, (u64, i64)>,
    made_ever: u64,
}

impl Access {
    /// As configured.
    pub(crate) fn new(config: &SimConfig) -> Self {
        let mut tokens = vec![SimToken::new(&config.token)];
        tokens.extend(config.further_tokens.iter().cloned());
        let mut apps = config.apps.clone();
        for app in &mut apps {
            if app.installations.is_empty() {
                let each = (1_000..).zip(&config.entities);
                let on = |(id, it): (u64, &super::SimEntity)| {
                    SimInstallation::new(id, it.kind, &it.slug)
                };
                app.installations = each.map(on).collect();
            }
        }
        Self {
            seed: config.seed,
            limit: config.rate_limit_per_hour,
            tokens,
            apps,
            made: HashMap::new(),
            made_ever: 0,
        }
    }

    /// Whose token this is; `None`: nobody's.
    pub(crate) fn who(&self, token: &str, now_ms: i64) -> Option<Who> {
        if let Some(known) = self.tokens.iter().find(|known| known.token == token) {
            return Some(Who {
                user: known.user.clone().unwrap_or_else(|| known.token.clone()),
                limit: known.rate_limit_per_hour.unwrap_or(self.limit),
                installation: None,
            });
        }
        let (id, until_ms) = self.made.get(token)?;
        let (app, installation) = self.installation(*id)?;
        let lives = now_ms < *until_ms && !installation.suspended;
        lives.then(|| Who {
            user: format!("installation/{id}"),
            limit: app.rate_limit_per_hour.unwrap_or(self.limit),
            installation: Some(installation.clone()),
        })
    }

    fn installation(&self, id: u64) -> Option<(&SimApp, &SimInstallation)> {
        self.apps.iter().find_map(|app| {
            let found = app.installations.iter().find(|installation| installation.id == id);
            found.map(|installation| (app, installation))
        })
    }

    /// Replaces the first token.
    pub(crate) fn set_first(&mut self, token: String) {
        if let Some(first) = self.tokens.first_mut() {
            first.token = token;
        }
    }

    /// Accepts a token from now on.
    pub(crate) fn accept(&mut self, token: SimToken) {
        self.tokens.push(token);
    }

    /// Refuses a token from now on, whoever made it.
    pub(crate) fn revoke(&mut self, token: &str) {
        self.tokens.retain(|known| known.token != token);
        self.made.remove(token);
    }

    /// Refuses all tokens of installations that were made so far.
    pub(crate) fn revoke_made(&mut self) {
        self.made.clear();
    }

    /// Changes what an App is installed on.
    pub(crate) fn set_installations(&mut self, app: u64, installations: Vec<SimInstallation>) {
        if let Some(app) = self.apps.iter_mut().find(|it| it.id == app) {
            app.installations = installations;
        }
    }

    /// The App that a JWT speaks for.
    pub(crate) fn app(&self, jwt: &str, now_ms: i64) -> Result<&SimApp, AppFault> {
        const NO_JWT: AppFault = (401, "A JSON web token could not be decoded");
        let (signed, signature) = jwt.rsplit_once('.').ok_or(NO_JWT)?;
        let (header, claims) = signed.split_once('.').ok_or(NO_JWT)?;
        let json = |part: &str| -> Option<Value> {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
        };
        let (header, claims) = json(header).zip(json(claims)).ok_or(NO_JWT)?;
        if header.get("alg").and_then(Value::as_str) != Some("RS256") {
            return Err(NO_JWT);
        }
        let issuer = match claims.get("iss") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => return Err((401, "'Issuer' claim ('iss') must be an Integer")),
        };
        let is = |app: &&SimApp| app.client_id == issuer || app.id.to_string() == issuer;
        let app = self.apps.iter().find(is).ok_or((404, "Integration not found"))?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| NO_JWT)?;
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &app.public_key)
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| NO_JWT)?;
        check_times(&claims, now_ms / 1000)?;
        Ok(app)
    }

    /// Makes a token of an installation; its end, epoch milliseconds.
    pub(crate) fn make(&mut self, installation: u64, now_ms: i64) -> Option<(String, i64)> {
        let (app, _) = self.installation(installation)?;
        // whole seconds, as `expires_at` says them
        let until_ms = (now_ms / 1000).saturating_add(app.token_life_s).saturating_mul(1000);
        self.made_ever += 1;
        let token = format!(
            "ghs_{:016x}{:016x}{:04}",
            mix(self.seed, installation),
            mix(self.seed, self.made_ever),
            self.made_ever % 10_000
        );
        self.made.retain(|_, (_, until_ms)| *until_ms > now_ms);
        self.made.insert(token.clone(), (installation, until_ms));
        Some((token, until_ms))
    }

    /// How many tokens of installations have been made.
    pub(crate) fn made_ever(&self) -> u64 {
        self.made_ever
    }
}

fn check_times(claims: &Value, now_s: i64) -> Result<(), AppFault> {
    let time = |name: &str| claims.get(name).and_then(Value::as_i64);
    if time("iat").is_none_or(|iat| iat > now_s) {
        return Err((
            401,
            "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued",
        ));
    }
    let expires = time("exp").filter(|exp| *exp > now_s).ok_or((
        401,
        "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires",
    ))?;
    if expires - now_s > JWT_S_MAX {
        return Err((401, "'Expiration time' claim ('exp') is too far in the future"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::github::jwt::AppKey;

    #[test]
    fn a_jwt_is_taken_from_its_app_alone_and_at_its_time() {
        let key = AppKey::from_pem(include_bytes!("../../tests/it/keys/app.pem")).unwrap();
        let other =
            AppKey::from_pem(include_bytes!("../../tests/it/keys/other-pkcs8.pem")).unwrap();
        let app = SimApp::new(&key);
        let config = SimConfig { apps: vec![app], ..SimConfig::default() };
        let access = Access::new(&config);
        let now_s = 1_800_000_000;
        let asked = |key: &AppKey, issuer: &str, made_s: i64| {
            let jwt = key.jwt(issuer, made_s).unwrap();
            access.app(jwt.expose(), now_s * 1000).map(|app| app.id)
        };
        assert_eq!(asked(&key, "12345", now_s), Ok(12_345));
        assert_eq!(asked(&key, "Iv23liSimulated", now_s), Ok(12_345));
        assert_eq!(asked(&key, "12345", now_s + 60), Ok(12_345), "within a minute ahead");
        assert_eq!(asked(&key, "99", now_s).unwrap_err().0, 404);
        assert!(asked(&other, "12345", now_s).unwrap_err().1.contains("could not be decoded"));
        assert!(asked(&key, "12345", now_s + 61).unwrap_err().1.contains("'iat'"));
        assert!(asked(&key, "12345", now_s - 540).unwrap_err().1.contains("future time"));
        for bad in ["", "a.b.c", "ghp_x", "e30.e30.e30"] {
            assert_eq!(access.app(bad, now_s * 1000).unwrap_err().0, 401, "{bad}");
        }
    }

    #[test]
    fn tokens_of_one_user_share_it_and_those_of_an_installation_end() {
        let key = AppKey::from_pem(include_bytes!("../../tests/it/keys/app.pem")).unwrap();
        let of = |token: &str| SimToken { user: Some("octocat".into()), ..SimToken::new(token) };
        let mut access = Access::new(&SimConfig {
            further_tokens: vec![of("a"), of("b")],
            apps: vec![SimApp::new(&key)],
            ..SimConfig::default()
        });
        let user = |access: &Access, token: &str, now| access.who(token, now).map(|it| it.user);
        assert_eq!(user(&access, "a", 0), user(&access, "b", 0));
        assert_ne!(user(&access, "a", 0), user(&access, "simulated-token", 0));
        access.revoke("a");
        assert_eq!(user(&access, "a", 0), None);
        let (token, until) = access.make(1_000, 500).unwrap();
        assert_eq!(until, 3_600_000);
        assert_eq!(user(&access, &token, until - 1).as_deref(), Some("installation/1000"));
        assert_eq!(user(&access, &token, until), None);
        assert_eq!(access.make(7, 0), None);
    }
}
