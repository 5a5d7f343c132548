//! The audit-log endpoint: from a request to an answer.

use super::access::Who;
use super::answer::{Answer, Step};
use super::config::SimInstallation;
use super::disturb;
use super::graphql::{Reaction, is_endpoint};
use super::inject::{Date, Plan, Reply};
use super::limits::Standing;
use super::listener::Answerer;
use super::log::{EntityLog, Row};
use super::page::{Context, Page, etag, page};
use super::premade::{Block, Found};
use super::query::{BadQuery, PathTarget, Query, path_target, query};
use super::rng::{mix, u64_from, u64_of};
use super::state::{State, lock};
use crate::audit::{EntityKind, Lane};
use http::request::Parts;
use http::{StatusCode, header};
use std::io::Write as _;
use std::time::{Duration, UNIX_EPOCH};

const DOCS: &str = "https://docs.github.com/rest";
const DOCS_AUDIT: &str =
    "https://docs.github.com/enterprise-cloud@latest/rest/enterprise-admin/audit-log";
/// go-github and others tell secondary limits by the end of this.
const DOCS_SECONDARY: &str = "https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api#about-secondary-rate-limits";

/// A request whose sender is known.
struct Asked<'a> {
    request: &'a Parts,
    entity_number: usize,
    entity: &'a EntityLog,
    plan: Plan,
    user: String,
    standing: Option<Standing>,
    now: i64,
}

impl Answerer for State {
    fn connected(&self) {
        lock(&self.stats).connections += 1;
    }

    fn answer(&self, request: &Parts, body: &[u8]) -> Answer {
        let now = self.clock.now_ms();
        let answered = self.gate(request).and_then(|()| {
            if request.method == http::Method::POST
                && is_endpoint(request.uri.path(), &self.base_path)
            {
                let who = self.sender(request, now)?;
                return Ok(self.graphql(request, body, &who, now));
            }
            if let Some(answer) = self.app_answer(request, now) {
                return Ok(Reaction { answer, plan: Plan::none(0) });
            }
            let asked = self.identify(request, now)?;
            Ok(Reaction { answer: self.answer_asked(&asked), plan: asked.plan })
        });
        let Reaction { mut answer, plan } =
            answered.unwrap_or_else(|refusal| Reaction { answer: *refusal, plan: Plan::none(0) });
        self.common_headers(&mut answer, &plan, now);
        let mut stats = lock(&self.stats);
        stats.requests += 1;
        if !answer.reset {
            *stats.by_status.entry(answer.status.as_u16()).or_default() += 1;
        }
        for name in plan.names {
            *stats.faults.entry(name).or_default() += 1;
        }
        answer
    }
}

impl State {
    /// What every request must bring.
    fn gate(&self, request: &Parts) -> Result<(), Box<Answer>> {
        if !request.headers.contains_key(header::USER_AGENT) {
            return Err(Box::new(Answer::new(
                StatusCode::FORBIDDEN,
                "text/html",
                "Request forbidden by administrative rules. Please make sure your request has a User-Agent header (https://docs.github.com/en/rest/overview/resources-in-the-rest-api#user-agent-required). Check https://developer.github.com for other possible causes.\r\n",
            )));
        }
        self.version(request)
    }

    /// Whose token it is, or the refusal.
    fn sender(&self, request: &Parts, now: i64) -> Result<Who, Box<Answer>> {
        let who = lock(&self.access).who(bearer(request).unwrap_or_default(), now);
        who.ok_or_else(|| {
            Box::new(Answer::message(StatusCode::UNAUTHORIZED, "Bad credentials", DOCS))
        })
    }

    /// Who asks for what, or the refusal.
    fn identify<'a>(&'a self, request: &'a Parts, now: i64) -> Result<Asked<'a>, Box<Answer>> {
        let refused = |status, message: &str| Box::new(Answer::message(status, message, DOCS));
        let not_found = || refused(StatusCode::NOT_FOUND, "Not Found");
        let who = self.sender(request, now)?;
        let target =
            path_target(request.uri.path()).filter(|_| request.method == http::Method::GET);
        let target: PathTarget = target.ok_or_else(not_found)?;
        let (entity_number, entity) = self.entity(&target).ok_or_else(not_found)?;
        let of_another =
            |it: &SimInstallation| it.kind != target.kind || it.slug != entity.who.slug;
        if who.installation.as_ref().is_some_and(of_another) {
            return Err(refused(StatusCode::FORBIDDEN, "Resource not accessible by integration"));
        }
        let plan = self.plan(entity_number, lane_of(request));
        let standing = self.standing(&who, entity_number, now);
        *lock(&self.stats).by_user.entry(who.user.clone()).or_default() += 1;
        Ok(Asked { request, entity_number, entity, plan, user: who.user, standing, now })
    }

    fn standing(&self, who: &Who, entity: usize, now: i64) -> Option<Standing> {
        let (user, limit) = (who.user.as_str(), who.limit);
        let faults = self.faults();
        let mut limits = lock(&self.limits);
        limits.shared = faults.budget_of_all_entities;
        limits.foreign_per_window = faults.foreign_requests;
        limits.count(user, entity, limit, now)
    }

    fn version(&self, request: &Parts) -> Result<(), Box<Answer>> {
        let Some(version) = request.headers.get("x-github-api-version") else {
            return Ok(());
        };
        let version = version.to_str().unwrap_or_default();
        if self.api_versions.iter().any(|known| known == version) {
            return Ok(());
        }
        let (status, message) = if version.parse::<jiff::civil::Date>().is_ok() {
            (StatusCode::GONE, format!("API version {version} is no longer supported."))
        } else {
            (
                StatusCode::BAD_REQUEST,
                "The API version that you specified is not a version.".to_owned(),
            )
        };
        Err(Box::new(Answer::message(
            status,
            &message,
            "https://docs.github.com/rest/about-the-rest-api/api-versions",
        )))
    }

    fn answer_asked(&self, asked: &Asked<'_>) -> Answer {
        let mut answer = self.reply(asked);
        if let Some(mut standing) = asked.standing {
            if answer.status == StatusCode::NOT_MODIFIED && self.faults().not_modified_is_free {
                lock(&self.limits).refund(&asked.user, asked.entity_number);
                standing.used = standing.used.saturating_sub(1);
            }
            rate_limit_headers(&mut answer, standing, "audit_log");
        }
        answer
    }

    fn reply(&self, asked: &Asked<'_>) -> Answer {
        let limited = if self.faults().limits_429 {
            StatusCode::TOO_MANY_REQUESTS
        } else {
            StatusCode::FORBIDDEN
        };
        if asked.standing.is_some_and(|standing| standing.exceeded) {
            lock(&self.stats).over_limit += 1;
            return primary_limit(limited, asked.standing);
        }
        if let Some(reply) = asked.plan.reply {
            let refusal = self.disturbed(reply, asked, limited);
            if let Some(answer) = refusal {
                return answer;
            }
        }
        let faults = self.faults();
        let pages_allowed = faults.page_links || asked.entity.who.kind == EntityKind::Enterprise;
        let text = asked.request.uri.query().unwrap_or_default();
        match query(text, asked.now, pages_allowed, faults.bad_phrase_ignored) {
            Ok(_) if asked.plan.reply == Some(Reply::LostCursor) && holds_cursor(asked.request) => {
                self.bad_cursor()
            }
            Ok(query) => self.page_answer(asked, &query),
            Err(BadQuery::Cursor) => self.bad_cursor(),
            Err(BadQuery::Phrase(bad)) => {
                let message =
                    format!("Validation Failed: created:{} is not a date", bad.0.replace('"', ""));
                Answer::message(StatusCode::UNPROCESSABLE_ENTITY, &message, DOCS_AUDIT)
            }
            Err(BadQuery::Value(name)) => {
                let message = format!("Validation Failed: {name}");
                Answer::message(StatusCode::UNPROCESSABLE_ENTITY, &message, DOCS_AUDIT)
            }
        }
    }

    fn bad_cursor(&self) -> Answer {
        let status = u16::try_from(self.faults().lost_cursor_status).ok();
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        let status = status.unwrap_or(StatusCode::UNPROCESSABLE_ENTITY);
        Answer::message(status, "Invalid cursor", DOCS_AUDIT)
    }

    fn page_answer(&self, asked: &Asked<'_>, query: &Query) -> Answer {
        let page = self.premade_page(asked, query);
        let (page, block) = match page {
            Some((page, block)) => (page, Some(block)),
            None => (self.made_page(asked, query), None),
        };
        let mut answer = Answer::new(StatusCode::OK, "application/json; charset=utf-8", Vec::new());
        let base = self.base(asked.request);
        let lead_astray = asked.plan.rows.link_elsewhere;
        let next_base = if lead_astray { self.elsewhere_base() } else { base.clone() };
        if let Some(link) = page.link(&base, &next_base, asked.entity) {
            answer.header("link", link);
        }
        match block {
            Some(block) => self.fill_with_block(&mut answer, asked, block),
            None => self.fill(&mut answer, asked, &page),
        }
        answer
    }

    fn premade_page(&self, asked: &Asked<'_>, query: &Query) -> Option<(Page, &Block)> {
        let faults = self.faults();
        if !asked.plan.names.is_empty() || faults.page_links || faults.unsorted_pages {
            return None;
        }
        match self.find_premade(asked, query)? {
            Found::Block(block) => Some((Page::of_block(query, block), block)),
            Found::Until(_) => None,
        }
    }

    fn find_premade(&self, asked: &Asked<'_>, query: &Query) -> Option<Found<'_>> {
        let premade = self.premade.as_ref()?;
        premade.find(asked.entity_number, asked.entity, query, self.world(), asked.now)
    }

    fn made_page(&self, asked: &Asked<'_>, query: &Query) -> Page {
        let context = Context {
            entity: asked.entity,
            world: self.world(),
            strikes: asked.plan.rows,
            draw: asked.plan.draw,
            now: asked.now,
            until: match self.find_premade(asked, query) {
                Some(Found::Until(place)) => Some(place),
                _ => None,
            },
        };
        page(query, &self.faults(), &context)
    }

    fn fill_with_block(&self, answer: &mut Answer, asked: &Asked<'_>, block: &Block) {
        answer.header("etag", &block.etag);
        if answer.not_modified(asked.request) {
            return;
        }
        let gzip = accepts_gzip(asked.request);
        let body = if gzip { &block.gzip } else { &block.plain };
        if gzip {
            answer.header("content-encoding", "gzip");
        }
        answer.steps = [Step::Data(body.clone())].into();
        self.count_page(asked, &block.rows, body.len());
    }

    fn fill(&self, answer: &mut Answer, asked: &Asked<'_>, page: &Page) {
        let body = page.body(asked.entity, asked.now);
        answer.header("etag", etag(&body));
        if answer.not_modified(asked.request) {
            return;
        }
        let gzip = accepts_gzip(asked.request);
        let sent = disturb::body(answer, body, gzip, &asked.plan, &self.faults());
        self.count_page(asked, &page.rows, sent);
    }

    fn count_page(&self, asked: &Asked<'_>, rows: &[Row], sent: usize) {
        if asked.plan.cut.is_none() {
            self.mark_served(asked.entity_number, rows, asked.now);
        }
        let mut stats = lock(&self.stats);
        stats.pages += 1;
        stats.entries_served += u64_of(rows.len());
        stats.body_bytes += u64_of(sent);
    }

    /// The answer of a fault that comes in place of a page; `None` when it does not apply to this request.
    fn disturbed(&self, reply: Reply, asked: &Asked<'_>, limited: StatusCode) -> Option<Answer> {
        let path_and_query = asked.request.uri.path_and_query().map_or("/", |it| it.as_str());
        let faults = self.faults();
        Some(match reply {
            Reply::LostCursor => return None,
            Reply::Redirect(_) if path_and_query.contains("/moved/") => return None,
            Reply::Redirect(status) => {
                let place = self.base(asked.request);
                let rest = path_and_query.strip_prefix(&self.base_path).unwrap_or(path_and_query);
                disturb::redirect(status, &format!("{place}/moved{rest}"))
            }
            Reply::RedirectElsewhere => {
                disturb::redirect(302, &format!("{}{path_and_query}", self.elsewhere_base()))
            }
            Reply::PrimaryLimit => {
                let reset_s = asked.now / 1000 + 2;
                let standing = Standing { limit: 1_750, used: 1_750, reset_s, exceeded: true };
                primary_limit(limited, Some(standing))
            }
            Reply::SecondaryLimit => {
                let mut answer = secondary_limit(limited);
                answer.header("retry-after", faults.secondary_retry_after_s.to_string());
                answer
            }
            Reply::SecondaryMessage => secondary_limit(limited),
            other => disturb::reply(other, &asked.entity.who.slug, &faults),
        })
    }

    /// Scheme, host and path before the endpoints, as the client called us.
    pub(crate) fn base(&self, request: &Parts) -> String {
        format!("{}://{}{}", self.scheme, host(request), self.base_path)
    }

    fn elsewhere_base(&self) -> String {
        format!("{}://{}{}", self.scheme, self.elsewhere, self.base_path)
    }

    fn common_headers(&self, answer: &mut Answer, plan: &Plan, now: i64) {
        let shown = match plan.date {
            Date::True => now,
            Date::Wild => now.saturating_add(365 * 86_400_000),
            Date::Cached => now.saturating_sub(3_600_000),
        };
        answer.header(
            "date",
            httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(u64_from(shown))),
        );
        answer.header("server", "github.com");
        answer.header("cache-control", "private, max-age=60, s-maxage=60");
        answer.header("vary", "Accept, Authorization, Cookie, Accept-Encoding, X-GitHub-OTP");
        answer.header("x-github-media-type", "github.v3; format=json");
        if let Some(version) = self.api_versions.first() {
            answer.header("x-github-api-version-selected", version);
        }
        answer.header("x-oauth-scopes", "read:audit_log");
        answer.header("x-accepted-oauth-scopes", "admin:enterprise, read:audit_log");
        let number = lock(&self.stats).requests;
        let id = mix(self.seed, number);
        answer.header(
            "x-github-request-id",
            format!(
                "{:04X}:{:06X}:{number:X}:{:08X}",
                id >> 48,
                (id >> 20) & 0xFF_FFFF,
                id & 0xFFFF_FFFF
            ),
        );
        if plan.slow {
            answer.delay = Some(Duration::from_millis(self.faults().slow_first_byte_ms));
        }
    }
}

/// Host and port as the client called us.
pub(crate) fn host(request: &Parts) -> &str {
    let host = request.uri.authority().map(http::uri::Authority::as_str);
    let host = host.or_else(|| request.headers.get(header::HOST)?.to_str().ok());
    host.unwrap_or("localhost")
}

/// The lane whose faults a request draws: Git for `include=git`.
fn lane_of(request: &Parts) -> Lane {
    let git = request.uri.query().is_some_and(|query| query.contains("include=git"));
    if git { Lane::Git } else { Lane::Web }
}

fn holds_cursor(request: &Parts) -> bool {
    let query = request.uri.query().unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes())
        .any(|(name, value)| name == "after" && !value.is_empty())
}

pub(crate) fn bearer(request: &Parts) -> Option<&str> {
    let value = request.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token")).then_some(token)
}

pub(crate) fn accepts_gzip(request: &Parts) -> bool {
    let accepted =
        request.headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    accepted.is_some_and(|accepted| accepted.contains("gzip"))
}

pub(crate) fn rate_limit_headers(answer: &mut Answer, standing: Standing, resource: &str) {
    let mut number = Vec::new();
    let each = [
        ("x-ratelimit-limit", standing.limit),
        ("x-ratelimit-remaining", standing.limit.saturating_sub(standing.used)),
        ("x-ratelimit-used", standing.used),
        ("x-ratelimit-reset", u64_from(standing.reset_s)),
    ];
    for (name, value) in each {
        number.clear();
        // writing into memory cannot fail
        if write!(number, "{value}").is_ok() && !answer.headers.contains_key(name) {
            answer.header(name, &number);
        }
    }
    answer.header("x-ratelimit-resource", resource);
}

fn primary_limit(status: StatusCode, standing: Option<Standing>) -> Answer {
    let mut answer = Answer::message(
        status,
        "API rate limit exceeded for user ID 1. If you reach out to GitHub Support for help, please include the request ID and timestamp.",
        "https://docs.github.com/rest/overview/rate-limits-for-the-rest-api",
    );
    if let Some(standing) = standing {
        rate_limit_headers(&mut answer, standing, "audit_log");
    }
    answer
}

fn secondary_limit(status: StatusCode) -> Answer {
    Answer::message(
        status,
        "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.",
        DOCS_SECONDARY,
    )
}
