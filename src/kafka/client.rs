//! What every client of ours hears: librdkafka's connection errors and log lines, kept so that a time-out can say why.
//!
//! librdkafka answers "timed out" to a wrong password, an unknown authority, TLS against plaintext and a dead port alike;
//! the reason comes only through these callbacks.

use crate::audit::Topic;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::ProducerContext;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Kinds of connection trouble, the least telling first: the most telling one heard is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// Every broker is out of reach, without a reason: what a plaintext client on a TLS port gets.
    AllDown,
    /// A connection could not be made, or broke.
    Connection,
    /// A broker's name has no address.
    Name,
    /// TLS: an unknown authority, a wrong host name, or no TLS on the other side.
    Tls,
    /// The login was refused.
    Login,
}

impl Trouble {
    fn of(code: RDKafkaErrorCode, reason: &str) -> Option<Self> {
        Some(match code {
            // a plaintext port closes the connection in the middle of the handshake
            RDKafkaErrorCode::BrokerTransportFailure if reason.contains("SSL handshake failed") => {
                Self::Tls
            }
            RDKafkaErrorCode::AllBrokersDown => Self::AllDown,
            RDKafkaErrorCode::BrokerTransportFailure => Self::Connection,
            RDKafkaErrorCode::Resolve => Self::Name,
            RDKafkaErrorCode::SSL => Self::Tls,
            RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => {
                Self::Login
            }
            _ => return None,
        })
    }

    /// Whether waiting is unlikely to help: the configuration and the broker disagree.
    fn is_lasting(self) -> bool {
        matches!(self, Self::Tls | Self::Login)
    }

    /// What to do. After a connection of this process has worked, the configuration is no longer under suspicion.
    fn remedy(self, text: &str, worked: bool) -> &'static str {
        match self {
            Self::Connection | Self::AllDown if worked && text.contains("refused") => {
                "the broker has gone away, nothing listens there now: see that it runs"
            }
            Self::Connection | Self::AllDown if worked => {
                "the broker has gone away: see that it runs and that the network reaches it"
            }
            Self::Login => "login refused: check sasl.mechanism, sasl.username and sasl.password",
            Self::Tls if text.contains("certificate verify failed") => {
                "the broker's certificate is not trusted: check ssl.ca.location and the host name in kafka.brokers"
            }
            Self::Tls => {
                "TLS failed: check that kafka.brokers names a TLS port and security.protocol fits it"
            }
            Self::Name => {
                "a broker's name has no address: check kafka.brokers and the brokers' advertised.listeners"
            }
            Self::Connection if text.contains("refused") => {
                "nothing listens there: check kafka.brokers, and that the broker runs"
            }
            Self::Connection => {
                "the connection failed: check kafka.brokers, the network and security.protocol"
            }
            Self::AllDown => {
                "brokers close the connection without a word: check security.protocol (the port may expect TLS)"
            }
        }
    }
}

/// What all clients of one configuration know together: whether any of them ever got through to the brokers, and what
/// the log says of their trouble already. An outage that each of them notices is said once.
#[derive(Debug, Clone, Default)]
pub struct Contact(Arc<Common>);

#[derive(Debug, Default)]
struct Common {
    worked: AtomicBool,
    told: Mutex<BTreeSet<Trouble>>,
}

/// What has happened since the start is no part of a configuration.
impl PartialEq for Contact {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Contact {}

/// What to do where brokers say nothing at all.
pub(super) const SILENT: &str = "see that the brokers run and are not overloaded";

/// What a client has heard since it last got through.
#[derive(Debug, Default)]
pub struct Ears {
    heard: Mutex<BTreeMap<Trouble, String>>,
    contact: Contact,
    deaf: AtomicBool,
}

impl Ears {
    /// Ears that have heard nothing yet.
    pub fn new(contact: Contact) -> Self {
        Self { contact, ..Self::default() }
    }

    /// A call got through: what was heard before no longer explains anything.
    pub fn clear(&self) {
        let common = &self.contact.0;
        common.worked.store(true, Ordering::Relaxed);
        lock(&self.heard).clear();
        // told perhaps by a client that is gone by now
        let told = std::mem::take(&mut *lock(&common.told));
        if !told.is_empty() {
            tracing::info!("connection to Kafka is back");
        }
    }

    /// Something has ended, well or not: what was heard belongs to it, and so does what `drain` takes from the queue.
    pub(super) fn forget(&self, drain: impl FnOnce()) {
        self.deaf.store(true, Ordering::Relaxed);
        drain();
        self.deaf.store(false, Ordering::Relaxed);
        lock(&self.heard).clear();
    }

    /// The remedy and librdkafka's words for the most telling trouble heard.
    pub fn explain(&self) -> Option<String> {
        let heard = lock(&self.heard);
        let (trouble, text) = heard.last_key_value()?;
        Some(format!("{} (librdkafka: {text})", trouble.remedy(text, self.worked())))
    }

    fn worked(&self) -> bool {
        self.contact.0.worked.load(Ordering::Relaxed)
    }

    /// `message`, and why where a reason was heard.
    pub fn with_reason(&self, message: impl std::fmt::Display) -> String {
        self.explain().map_or_else(|| message.to_string(), |reason| format!("{message}: {reason}"))
    }

    /// Why where a reason was heard, else `message`: librdkafka's own words for a time-out tell nothing.
    pub fn reason_or(&self, message: impl std::fmt::Display) -> String {
        self.explain().unwrap_or_else(|| message.to_string())
    }

    /// Whether something was heard that waiting is unlikely to cure.
    pub fn heard_lasting_trouble(&self) -> bool {
        lock(&self.heard).keys().any(|trouble| trouble.is_lasting())
    }

    /// Keeps what was heard; said in the log once until a call gets through again, unless something more telling was, or
    /// another client has said it.
    fn hear(&self, trouble: Trouble, text: &str) {
        if self.deaf.load(Ordering::Relaxed) {
            return;
        }
        // how long it took, and how often before: that would make one trouble look like many
        let text = text.rsplit_once(" (after ").map_or(text, |(cause, _)| cause);
        let mut heard = lock(&self.heard);
        let is_new = heard.insert(trouble, text.to_owned()).is_none();
        let is_worth_a_line = is_new && heard.last_key_value().is_none_or(|(it, _)| *it == trouble);
        drop(heard);
        if is_worth_a_line && lock(&self.contact.0.told).insert(trouble) {
            tracing::warn!(reason = %text, "{}", trouble.remedy(text, self.worked()));
        } else {
            tracing::debug!(reason = %text, "Kafka connection trouble goes on");
        }
    }
}

/// What became of the records of one transaction.
#[derive(Debug, Default)]
struct Deliveries {
    ended: usize,
    awaited: usize,
    /// Offset after the last delivered record, for each state topic.
    next_offsets: BTreeMap<Topic, i64>,
    /// Without a topic: of one that is none of ours.
    failed: Option<(Option<Topic>, RDKafkaErrorCode)>,
}

/// The context of every client of ours.
#[derive(Debug, Default)]
pub struct Context {
    ears: Arc<Ears>,
    deliveries: Mutex<Deliveries>,
    all_ended: Condvar,
}

impl Context {
    /// A context that tells `ears` what it hears.
    pub fn new(ears: Arc<Ears>) -> Self {
        Self { ears, ..Self::default() }
    }

    /// Forgets the deliveries of the transaction before.
    pub(super) fn begin(&self) {
        *lock(&self.deliveries) = Deliveries::default();
    }

    /// Waits until `sent` deliveries have ended, well or not; `false` when `deadline` came first.
    pub(super) fn wait_ended(&self, sent: usize, deadline: Instant) -> bool {
        let mut deliveries = lock(&self.deliveries);
        deliveries.awaited = sent;
        while deliveries.ended < sent {
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return false;
            }
            let waited = self.all_ended.wait_timeout(deliveries, left);
            deliveries = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// The first record that was not delivered, other than by an abort.
    pub(super) fn failed(&self) -> Option<(Option<Topic>, RDKafkaErrorCode)> {
        lock(&self.deliveries).failed
    }

    /// For each state topic written: the offset after the last record delivered.
    pub(super) fn next_offsets(&self) -> Vec<(Topic, i64)> {
        lock(&self.deliveries).next_offsets.iter().map(|(topic, next)| (*topic, *next)).collect()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        // the errors among these lines come through `error` too, and are said there; but for this one, which is not
        // always followed by an error: what a plaintext client on a TLS port gets
        if fac == "FAIL" && message.contains(" in state APIVERSION_QUERY") {
            let text = message.split_once("]: ").map_or(message, |(_, text)| text);
            self.ears.hear(Trouble::AllDown, text);
        }
        match level {
            _ if fac == "CONFWARN" => {}
            RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info => {
                tracing::trace!(fac, "librdkafka: {message}");
            }
            _ => tracing::debug!(fac, "librdkafka: {message}"),
        }
    }

    fn stats_raw(&self, _statistics: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(trouble) = error.rdkafka_error_code().and_then(|code| Trouble::of(code, reason))
        {
            self.ears.hear(trouble, reason);
        } else {
            tracing::debug!(%error, "librdkafka: {reason}");
        }
    }
}

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    /// Index of the record's topic in [`Topic::ALL`]; any other number for a topic that is none of ours.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, topic_index: usize) {
        let topic = Topic::ALL.get(topic_index).copied();
        let mut deliveries = lock(&self.deliveries);
        match (result, topic) {
            (Ok(message), Some(topic)) if topic.is_state() => {
                let next = deliveries.next_offsets.entry(topic).or_default();
                *next = (*next).max(message.offset() + 1);
            }
            (Err((error, _)), topic) => note_failure(&mut deliveries, topic, error),
            _ => {}
        }
        deliveries.ended += 1;
        if deliveries.ended == deliveries.awaited {
            self.all_ended.notify_all();
        }
    }
}

fn note_failure(deliveries: &mut Deliveries, topic: Option<Topic>, error: &KafkaError) {
    let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
    // purged records are the consequence of an abort, never its cause
    let is_purged = matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight);
    if !is_purged && deliveries.failed.is_none() {
        deliveries.failed = Some((topic, code));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(errors: &[(RDKafkaErrorCode, &str)]) -> Ears {
        let ears = Arc::new(Ears::default());
        let context = Context::new(Arc::clone(&ears));
        for (code, reason) in errors {
            context.error(KafkaError::Global(*code), reason);
        }
        drop(context);
        Arc::into_inner(ears).unwrap()
    }

    #[test]
    fn the_most_telling_trouble_is_shown() {
        let ears = heard(&[
            (RDKafkaErrorCode::Authentication, "SASL authentication error: bad"),
            (RDKafkaErrorCode::BrokerTransportFailure, "Disconnected"),
            (RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down"),
        ]);
        let text = ears.with_reason("no answer");
        assert!(text.starts_with("no answer: login refused"), "{text}");
        assert!(ears.heard_lasting_trouble());
        ears.clear();
        assert_eq!(ears.with_reason("no answer"), "no answer");
    }

    #[test]
    fn each_trouble_reads_differently() {
        let rows = [
            (RDKafkaErrorCode::Authentication, "x"),
            (RDKafkaErrorCode::SSL, "certificate verify failed"),
            (RDKafkaErrorCode::SSL, "wrong version number"),
            (RDKafkaErrorCode::Resolve, "x"),
            (RDKafkaErrorCode::BrokerTransportFailure, "Connection refused"),
            (RDKafkaErrorCode::BrokerTransportFailure, "x"),
            (RDKafkaErrorCode::AllBrokersDown, "x"),
        ];
        let texts: std::collections::BTreeSet<_> =
            rows.iter().map(|row| heard(&[*row]).explain().unwrap()).collect();
        assert_eq!(texts.len(), rows.len(), "{texts:#?}");
    }

    #[test]
    fn a_connection_that_had_worked_puts_no_suspicion_on_the_configuration() {
        let contact = Contact::default();
        // another client of the same process got through
        Ears::new(contact.clone()).clear();
        for (trouble, text) in [
            (Trouble::Connection, "127.0.0.1:9092/1: Disconnected"),
            (Trouble::Connection, "127.0.0.1:9092/1: Connect failed: Connection refused"),
            (Trouble::AllDown, "1/1 brokers are down"),
        ] {
            let ears = Ears::new(contact.clone());
            ears.hear(
                trouble,
                &format!("{text} (after 12ms in state UP, 3 identical error(s) suppressed)"),
            );
            let told = ears.explain().unwrap();
            assert!(told.starts_with("the broker has gone away"), "{told}");
            assert!(told.ends_with(&format!("(librdkafka: {text})")), "{told}");
            assert!(!told.contains("security.protocol"), "{told}");
        }
        let ears = Ears::new(contact);
        ears.hear(Trouble::Login, "SASL authentication error");
        assert!(ears.explain().unwrap().starts_with("login refused"));
    }

    #[test]
    fn what_is_left_in_the_queue_of_something_that_has_ended_is_not_heard() {
        let ears = heard(&[(RDKafkaErrorCode::BrokerTransportFailure, "x")]);
        ears.forget(|| ears.hear(Trouble::Connection, "y"));
        assert_eq!(ears.explain(), None);
        ears.hear(Trouble::Connection, "z");
        assert!(ears.explain().is_some());
    }

    #[test]
    fn a_connection_closed_at_the_first_question_is_heard_without_an_error() {
        let ears = Arc::new(Ears::default());
        let line = "[thrd:k:1/bootstrap]: k:1/bootstrap: Disconnected: connection closed by peer: receive 0 after \
                    POLLIN (after 2ms in state APIVERSION_QUERY)";
        Context::new(Arc::clone(&ears)).log(RDKafkaLogLevel::Info, "FAIL", line);
        let told = ears.explain().unwrap();
        assert!(
            told.contains("the port may expect TLS") && told.contains("librdkafka: k:1"),
            "{told}"
        );
    }

    #[test]
    fn an_outage_is_told_once_and_so_is_the_next_one() {
        let contact = Contact::default();
        let told = || lock(&contact.0.told).len();
        let clients = [(); 3].map(|()| Ears::new(contact.clone()));
        for ears in &clients {
            ears.hear(Trouble::Connection, "x");
        }
        assert_eq!(told(), 1);
        // less telling, and another trouble
        clients[0].hear(Trouble::AllDown, "y");
        assert_eq!(told(), 1);
        clients[1].hear(Trouble::Login, "z");
        assert_eq!(told(), 2);
        // a client that had heard nothing gets through
        Ears::new(contact.clone()).clear();
        assert_eq!(told(), 0);
        Ears::new(contact.clone()).hear(Trouble::Connection, "x");
        assert_eq!(told(), 1);
    }

    #[test]
    fn waiting_for_deliveries_has_an_end() {
        let context = Context::default();
        assert!(context.wait_ended(0, Instant::now()));
        assert!(!context.wait_ended(1, Instant::now() + Duration::from_millis(5)));
    }
}
