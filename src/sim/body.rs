//! The bytes of one entry: a pure function of its lane, its index and its variant.

use super::catalogue::{Action, Kind, actions};
use super::rng::{Rng, i64_of, mix, mix_text};
use super::shape::Shape;
use super::timeline::{Id, LaneLog, Variant};
use crate::audit::{EntityKind, Lane};
use base64::Engine as _;
use std::io::Write as _;

/// Who the entity is in the bodies of its entries.
#[derive(Debug)]
pub(crate) struct Who {
    /// Enterprise or organization.
    pub(crate) kind: EntityKind,
    /// Its slug.
    pub(crate) slug: String,
    /// Its numeric id, as in `Link`.
    pub(crate) id: u64,
    business: (String, u64),
    orgs: Vec<(String, u64)>,
}

impl Who {
    /// Of a kind and a slug.
    pub(crate) fn new(seed: u64, kind: EntityKind, slug: &str) -> Self {
        let id_of = |name: &str| 10_000 + mix_text(seed, name) % 90_000_000;
        let named = |name: String| {
            let id = id_of(&name);
            (name, id)
        };
        let (business, orgs) = match kind {
            EntityKind::Enterprise => {
                let parts = ["payments", "platform", "web", "data", "mobile"];
                (named(slug.to_owned()), parts.map(|part| named(format!("{slug}-{part}"))).to_vec())
            }
            EntityKind::Organization => {
                (named("octo-enterprise".to_owned()), vec![named(slug.to_owned())])
            }
        };
        Self { kind, slug: slug.to_owned(), id: id_of(slug), business, orgs }
    }
}

/// The id that a reader must find in the entry, `None` where it carries none.
pub(crate) fn document_id(log: &LaneLog, index: u64) -> Option<String> {
    match log.shapes.of(log.shape_draw(index)) {
        Shape::NoDocumentId | Shape::WrongTypes | Shape::Uncuttable => None,
        _ => Some(text_of(&log.id(index)).to_owned()),
    }
}

/// An id as text.
pub(crate) fn text_of(id: &Id) -> &str {
    std::str::from_utf8(id).unwrap_or_default()
}

/// Appends the entry.
pub(crate) fn write(out: &mut Vec<u8>, who: &Who, log: &LaneLog, index: u64, variant: Variant) {
    let mut rng = log.body_rng(index);
    let shape = log.shapes.of(log.shape_draw(index));
    let Some(action) = actions(log.lane).pick(rng.next()) else {
        return;
    };
    let mut writer = Writer { out, rng, who, shape, empty: true };
    writer.entry(log, index, variant, action);
}

pub(crate) const LOGINS: [&str; 16] = [
    "mona",
    "hubot",
    "octocat",
    "a-keller",
    "jdvries",
    "s.ito",
    "lindqvist",
    "ci-deployer",
    "dependabot[bot]",
    "github-actions[bot]",
    "release-train",
    "n-okafor",
    "rvandermeer",
    "yusuf-k",
    "tamsin-w",
    "qa_robot",
];
const WORDS: [&str; 16] = [
    "billing", "gateway", "ledger", "atlas", "beacon", "core", "docs", "edge", "frontend", "infra",
    "kiosk", "mailer", "notifier", "orders", "portal", "search",
];
const AGENTS: [&str; 8] = [
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/139.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0",
    "GitHub CLI 2.62.0",
    "octokit-core.js/6.1.2 Node.js/22",
    "go-github/v68.0.0",
    "Terraform/1.9.8 (+https://www.terraform.io) terraform-provider-github/6.4.0",
    "GitHub-Hookshot/cb6a1dd",
    "python-requests/2.32.3",
];
const GIT_AGENTS: [&str; 4] = [
    "git/2.47.1",
    "git/2.43.0.windows.1",
    "git/2.39.5 (Apple Git-154)",
    "JGit/6.10.0.202406032230-r",
];
pub(crate) const COUNTRIES: [&str; 8] = ["NL", "DE", "US", "JP", "GB", "SE", "NG", "IN"];
pub(crate) const OPERATIONS: [&str; 6] =
    ["create", "modify", "remove", "access", "authentication", "transfer"];
const CONCLUSIONS: [&str; 4] = ["success", "success", "failure", "cancelled"];
const EVENTS: [&str; 4] = ["push", "pull_request", "schedule", "workflow_dispatch"];
const ACCESS: [&str; 5] = [
    "Personal access token (classic)",
    "Fine-grained personal access token",
    "OAuth access token",
    "GitHub App server-to-server token",
    "GitHub App user-to-server token",
];
const SENTENCES: [&str; 8] = [
    "Bump the version of the ledger schema",
    "Fix flaky test on the nightly build (#1042)",
    "Rotate the signing key; see the run book",
    "Überprüfung der Zahlungsläufe",
    "支払いの丸め誤差を直す",
    "Revert \\\"Enable the new cache\\\"",
    "Hotfix: do not retry on 409\\n\\nReviewed on call.",
    "Update \\u00e9l\\u00e8ves.csv and the importer \\ud83d\\ude80",
];

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    rng: Rng,
    who: &'a Who,
    shape: Shape,
    empty: bool,
}

impl Writer<'_> {
    fn entry(&mut self, log: &LaneLog, index: u64, variant: Variant, action: &Action) {
        let (ts, created_at) = (log.ts(index), log.created_at(index));
        let id = log.id(index);
        self.out.push(b'{');
        if self.shape == Shape::DuplicateMembers {
            self.raw("_document_id", b"\"not-the-id\"");
            self.raw("action", b"\"not.the_action\"");
            self.raw("@timestamp", b"1");
        }
        self.times_and_id(ts, text_of(&id));
        self.action(action.name);
        self.actor(log.lane, variant);
        self.place(log.lane);
        if log.lane == Lane::Web && !matches!(self.shape, Shape::NoCreatedAt | Shape::NoTimes) {
            self.time("created_at", created_at);
        }
        self.credential(log.lane);
        for (name, kind) in &action.fields {
            // GitHub leaves out what does not apply
            if log.lane == Lane::Git || self.rng.below(3) > 0 {
                self.value(name, *kind, ts);
            }
        }
        if variant.revised {
            self.text("external_identity_nameid", "mona@example.com");
            self.number("revision", 1);
        }
        self.oddity();
        if self.shape != Shape::Uncuttable {
            self.out.push(b'}');
        }
    }

    fn times_and_id(&mut self, ts: i64, id: &str) {
        if !matches!(self.shape, Shape::NoTimestamp | Shape::NoTimes) {
            self.time("@timestamp", ts);
        }
        match self.shape {
            Shape::NoDocumentId => {}
            Shape::WrongTypes => self.raw("_document_id", br#"{"value":17}"#),
            _ => self.text("_document_id", id),
        }
    }

    fn time(&mut self, name: &str, ms: i64) {
        self.name(name);
        let wrong = self.shape == Shape::WrongTypes;
        let done = if wrong { write!(self.out, "\"{ms}\"") } else { write!(self.out, "{ms}") };
        written(done);
    }

    fn action(&mut self, name: &str) {
        match self.shape {
            Shape::NoAction => {}
            Shape::WrongTypes => self.raw("action", br#"["wrong"]"#),
            _ => self.text("action", name),
        }
    }

    fn actor(&mut self, lane: Lane, variant: Variant) {
        let login = self.rng.pick(&LOGINS);
        let id = 1_000 + mix_text(1, login) % 90_000_000;
        match self.shape {
            Shape::NoActor => {}
            Shape::WrongTypes => self.raw("actor", b"12345"),
            Shape::EmptyStrings => {
                for name in
                    ["actor", "user", "external_identity_nameid", "external_identity_username"]
                {
                    self.text(name, "");
                }
            }
            _ => {
                self.text("actor", login);
                self.number("actor_id", id);
            }
        }
        if variant.ip || lane == Lane::Web && self.rng.below(3) == 0 {
            let (a, b) = (self.rng.below(250), self.rng.below(250));
            self.text("actor_ip", &format!("203.0.{a}.{b}"));
        }
        if lane == Lane::Web {
            self.flag("actor_is_bot", login.ends_with("[bot]"));
        }
        let country = self.rng.pick(&COUNTRIES);
        self.name("actor_location");
        written(write!(self.out, "{{\"country_code\":\"{country}\"}}"));
        let (name, id) = &self.who.business;
        self.text("business", name);
        self.number("business_id", *id);
    }

    fn place(&mut self, lane: Lane) {
        let Some((org, org_id)) = self.who.orgs.get(self.rng.index(self.who.orgs.len())) else {
            return;
        };
        match self.shape {
            Shape::NoOrg => {}
            Shape::WrongTypes => self.raw("org", b"null"),
            Shape::ArrayOrg => {
                self.name("org");
                written(write!(self.out, "[\"{org}\",\"octo-partners\"]"));
                self.name("org_id");
                written(write!(self.out, "[{org_id},42]"));
            }
            _ => {
                self.text("org", org);
                self.number("org_id", *org_id);
            }
        }
        if lane == Lane::Git || self.rng.below(5) < 4 {
            let repo = format!("{org}/{}-{}", self.rng.pick(&WORDS), self.rng.pick(&WORDS));
            let id = 100_000 + mix_text(2, &repo) % 900_000_000;
            self.text(if lane == Lane::Git { "repository" } else { "repo" }, &repo);
            self.number(if lane == Lane::Git { "repository_id" } else { "repo_id" }, id);
        }
        if lane == Lane::Web && self.rng.below(3) == 0 {
            let user = self.rng.pick(&LOGINS);
            self.text("user", user);
            self.number("user_id", 1_000 + mix_text(1, user) % 90_000_000);
        }
    }

    fn credential(&mut self, lane: Lane) {
        if lane == Lane::Web {
            let operation = self.rng.pick(&OPERATIONS);
            self.text("operation_type", operation);
        }
        if self.rng.below(3) == 0 {
            let access = self.rng.pick(&ACCESS);
            self.text("programmatic_access_type", access);
            let token = self.base64(32);
            self.text("hashed_token", &token);
            let id = self.rng.below(9_000_000_000);
            self.number("token_id", id);
            if access.contains("classic") || access.starts_with("OAuth") {
                self.text("token_scopes", "admin:org,read:audit_log,repo,workflow");
            }
        }
        let agent = match lane {
            Lane::Web | Lane::GraphQl => self.rng.pick(&AGENTS),
            Lane::Git => self.rng.pick(&GIT_AGENTS),
        };
        self.text("user_agent", agent);
        let (a, b, c) = (self.rng.next() >> 48, self.rng.next() >> 40, self.rng.next() >> 32);
        self.text("request_id", &format!("{a:04X}:{b:06X}:{c:08X}"));
        if self.rng.below(4) == 0 {
            let login = self.rng.pick(&WORDS);
            self.text("external_identity_nameid", &format!("{login}@example.com"));
        }
    }

    fn value(&mut self, name: &str, kind: Kind, ts: i64) {
        match kind {
            Kind::Numbers => {
                let (a, b) = (self.rng.below(90_000_000), self.rng.below(90_000_000));
                self.raw(name, format!("[{a},{b}]").as_bytes());
            }
            Kind::Words => {
                let (a, b) = (self.rng.pick(&WORDS), self.rng.pick(&WORDS));
                self.raw(name, format!("[\"{a}\",\"{b}\"]").as_bytes());
            }
            Kind::Object => {
                let (a, b) = (self.rng.pick(&WORDS), self.rng.pick(&SENTENCES));
                self.raw(name, format!("{{\"code\":\"{a}\",\"message\":\"{b}\"}}").as_bytes());
            }
            Kind::Iso => {
                let before = i64_of(self.rng.below(3600));
                self.text(name, &crate::time::rfc3339_s(ts / 1000 - before));
            }
            Kind::Millis => {
                self.name(name);
                written(write!(self.out, "{ts}"));
            }
            Kind::Flag => {
                let flag = self.rng.below(2) == 0;
                self.flag(name, flag);
            }
            Kind::Id => {
                let id = self.rng.below(20_000_000_000);
                self.number(name, id);
            }
            Kind::Protocol => self.text(name, if is_ssh(ts) { "ssh" } else { "http" }),
            Kind::Small if name == "transport_protocol" => {
                self.number(name, 1 + u64::from(is_ssh(ts)));
            }
            Kind::Small => {
                let small = self.rng.below(60);
                self.number(name, small);
            }
            _ => self.string_value(name, kind),
        }
    }

    fn string_value(&mut self, name: &str, kind: Kind) {
        let (word, other) = (self.rng.pick(&WORDS), self.rng.pick(&WORDS));
        let (login, number) = (self.rng.pick(&LOGINS), self.rng.next());
        match kind {
            Kind::Sha => {
                let more = self.rng.next();
                self.text(name, &format!("{number:016x}{more:016x}{:08x}", more >> 32));
            }
            Kind::Email => self.text(name, &format!("{word}.{other}@example.com")),
            Kind::Url => self.text(
                name,
                &format!(
                    "https://github.com/{}/{word}-{other}/pull/{}",
                    self.who.slug,
                    number >> 50
                ),
            ),
            Kind::Visibility => {
                self.text(
                    name,
                    ["private", "internal", "public"].get(login.len() % 3).unwrap_or(&""),
                );
            }
            Kind::Permission => {
                self.text(name, ["read", "write", "admin"].get(login.len() % 3).unwrap_or(&""));
            }
            Kind::Fingerprint => {
                let print = self.base64(32);
                self.text(name, &format!("SHA256:{print}"));
            }
            Kind::Sentence => {
                let sentence = self.rng.pick(&SENTENCES);
                self.text(name, sentence);
            }
            Kind::Login => self.text(name, login),
            Kind::Repo => self.text(name, &format!("{}/{word}-{other}", self.who.slug)),
            Kind::Branch => self.text(name, &format!("refs/heads/{word}/{other}-{}", number >> 52)),
            Kind::Uuid => self.text(
                name,
                &format!(
                    "{:08x}-{:04x}-4000-8000-{:012x}",
                    number >> 32,
                    number & 0xFFFF,
                    number >> 16
                ),
            ),
            Kind::WorkflowRef => self.text(
                name,
                &format!("{}/{word}/.github/workflows/{other}.yml@refs/heads/main", self.who.slug),
            ),
            _ if name == "conclusion" => self.text(name, self.rng.clone().pick(&CONCLUSIONS)),
            _ if name == "event" => self.text(name, self.rng.clone().pick(&EVENTS)),
            _ => self.text(name, &format!("{word}-{other}")),
        }
    }

    fn oddity(&mut self) {
        match self.shape {
            Shape::InvalidUtf8 => self.raw("message", b"\"caf\xe9 \xff\xfe \xc0\xaf\""),
            Shape::LoneSurrogate => self.raw("message", br#""half \ud83d of it""#),
            Shape::HugeNumber => self.raw("limit", b"1e400"),
            Shape::BigInteger => self.raw("target_amount", b"9223372036854775809"),
            Shape::DeepNesting => {
                let mut nest = Vec::with_capacity(1_200);
                for _ in 0..100 {
                    nest.extend_from_slice(b"[{\"a\":");
                }
                nest.extend_from_slice(b"null");
                for _ in 0..100 {
                    nest.extend_from_slice(b"}]");
                }
                self.raw("data", &nest);
            }
            Shape::HugeEntry => {
                let filler = self.base64(1 << 20);
                self.text("deleted_content", &filler);
            }
            Shape::Uncuttable => self.raw("data", br#"{"rows":[1,[2,{"n":3}"#),
            _ => {}
        }
    }

    fn base64(&mut self, bytes: usize) -> String {
        let seed = self.rng.next();
        let raw: Vec<u8> = (0..bytes.div_ceil(8))
            .flat_map(|n| mix(seed, super::rng::u64_of(n)).to_be_bytes())
            .collect();
        base64::engine::general_purpose::STANDARD.encode(raw.get(..bytes).unwrap_or_default())
    }

    fn name(&mut self, name: &str) {
        if !std::mem::take(&mut self.empty) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn raw(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        self.out.extend_from_slice(value);
    }

    /// A string whose special characters are escaped already.
    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        self.out.push(b'"');
        self.out.extend_from_slice(value.as_bytes());
        self.out.push(b'"');
    }

    fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        written(write!(self.out, "{value}"));
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.raw(name, if value { b"true" } else { b"false" });
    }
}

/// Number and name of a Git event's protocol have to agree.
fn is_ssh(ts: i64) -> bool {
    ts.rem_euclid(3) == 0
}

/// Writing into memory cannot fail.
fn written(result: std::io::Result<()>) {
    drop(result);
}

/// Whether a page that holds this entry cannot be cut.
pub(crate) fn is_uncuttable(log: &LaneLog, index: u64) -> bool {
    log.shapes.of(log.shape_draw(index)) == Shape::Uncuttable
}

#[cfg(test)]
mod tests {
    use super::super::config::Traffic;
    use super::super::faults::Faults;
    use super::*;

    fn lane(lane: Lane, faults: &Faults) -> LaneLog {
        let traffic = Traffic { history_entries: 20_000, ..Traffic::default() };
        LaneLog::new(3, "acme", lane, 1_750_000_000_000, &traffic, faults)
    }

    fn bodies(log: &LaneLog) -> impl Iterator<Item = Vec<u8>> + '_ {
        let who = Who::new(3, EntityKind::Enterprise, "acme");
        (0..20_000).map(move |index| {
            let mut out = Vec::new();
            write(&mut out, &who, log, index, Variant::default());
            out
        })
    }

    #[test]
    fn plain_entries_are_json_objects_of_realistic_size() {
        let mut total = 0;
        for (lane_of, least, most) in [(Lane::Web, 700, 900), (Lane::Git, 450, 700)] {
            let log = lane(lane_of, &Faults::default());
            let mut bytes = 0;
            for body in bodies(&log) {
                let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
                let git = value["action"].as_str().unwrap().starts_with("git.");
                assert_eq!(git, lane_of == Lane::Git);
                assert!(value["@timestamp"].is_i64() && value["org"].is_string());
                bytes += body.len();
            }
            let mean = bytes / 20_000;
            assert!((least..most).contains(&mean), "{lane_of}: {mean}");
            total += mean;
        }
        assert!((650..750).contains(&(total / 2)), "{total}");
    }

    #[test]
    fn each_hostile_shape_is_what_it_says() {
        let shaped = |name: &str| {
            let mut faults = Faults::default();
            faults.set(name, "1").unwrap();
            let log = lane(Lane::Web, &faults);
            bodies(&log).next().unwrap()
        };
        let text = |body: Vec<u8>| String::from_utf8(body).unwrap();
        assert!(std::str::from_utf8(&shaped("invalid_utf8")).is_err());
        for name in ["lone_surrogate", "huge_number", "deep_nesting"] {
            assert!(serde_json::from_slice::<serde_json::Value>(&shaped(name)).is_err(), "{name}");
        }
        assert!(text(shaped("big_integer")).contains("9223372036854775809"));
        assert!(text(shaped("array_org")).contains("\"org\":[\""));
        assert_eq!(text(shaped("duplicate_members")).matches("\"_document_id\":").count(), 2);
        assert!(shaped("huge_entry").len() > 1 << 20);
        let uncuttable = text(shaped("uncuttable"));
        assert!(uncuttable.matches('{').count() > uncuttable.matches('}').count());
        for (name, member) in [
            ("missing_created_at", "created_at"),
            ("missing_timestamp", "@timestamp"),
            ("missing_document_id", "_document_id"),
            ("missing_actor", "actor"),
            ("missing_org", "org"),
            ("missing_action", "action"),
        ] {
            assert!(!text(shaped(name)).contains(&format!("\"{member}\":")), "{name}");
        }
    }
}
