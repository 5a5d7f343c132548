//! `ghauditd` reads the GitHub Enterprise audit log before GitHub deletes it, streams every entry to Kafka exactly
//! once, and forwards the topics into write-once storage.
//!
//! # The map, in the order in which the data travels
//!
//! | room | what it is |
//! |---|---|
//! | [`audit`] | what flows: entry, cursor, slice, checkpoint, seen ids, record. Pure; imports nothing of ours |
//! | [`github`] | where entries come from: REST client, authentication, pages, rate limits |
//! | [`intake`] | what GitHub pushes (reserved) |
//! | [`kafka`] | transactional producer, read-committed consumer, topics, error triage |
//! | [`state`] | seen ids on disk: a cache of their changelog topic |
//! | [`pipeline`] | schedule, plan, collector, archiver: the only place where the rooms above and the archive meet |
//! | [`archive`] | segments and the write-once stores |
//! | [`proof`] | Merkle tree, tiles, signed notes (reserved). Pure; imports nothing of ours |
//! | [`admin`] | health and metrics over HTTP on loopback |
//! | [`config`] | what the operator says: loaded, checked all at once, before the first socket |
//! | [`daemon`], [`supervisor`] | composition root; named tasks, cancellation, grace |
//! | [`cli`] | one file per command |
//! | `sim` | the simulated GitHub (feature `sim`) |
//!
//! Leaves that every speaker may use: [`health`], [`metrics`], [`retry`], [`status`], [`time`]. [`telemetry`] sets the log up for [`cli`].
//!
//! # Who may import whom
//!
//! `main -> cli -> daemon -> {admin, config, pipeline, supervisor}`;
//! `pipeline -> {github, intake, kafka, state, archive} -> {audit, proof}`. Siblings never import each other. Settings
//! types live in the room that they configure; [`config`] reads the file and fills them. Traits stand only where
//! faults are injected: [`github::Source`], [`kafka::Sink`], [`archive::Store`].
//!
//! Reading order for a newcomer: [`audit`], [`pipeline`], then the speakers ([`github`], [`kafka`], [`archive`]).

pub mod admin;
pub mod archive;
pub mod audit;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod github;
pub mod health;
pub mod intake;
pub mod kafka;
pub mod metrics;
pub mod pipeline;
pub mod proof;
pub mod retry;
#[cfg(feature = "sim")]
pub mod sim;
pub mod state;
pub mod status;
pub mod supervisor;
pub mod telemetry;
pub mod time;
