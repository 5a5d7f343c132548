//! Named tasks, cancellation, grace; and what systemd is told.
//!
//! Every task has a name, an owner (the [`Supervisor`]) and an end. The first task that ends unasked stops all
//! others; a stop lasts at most the grace period, after which what is left is named and dropped. A restart walks
//! the ordinary recovery path, so dropping a task loses nothing.

use sd_notify::NotifyState;
use std::future::Future;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// How a task ended.
#[derive(Debug)]
pub enum End<E> {
    /// It returned.
    Returned(Result<(), E>),
    /// It panicked (builds that unwind only; a release build aborts).
    Panicked(String),
}

/// What a run of the supervisor came to.
#[derive(Debug)]
pub struct Outcome<E> {
    /// Why it stopped.
    pub cause: Cause<E>,
    /// Errors of tasks that ended after the stop had begun.
    pub later_errors: Vec<(String, E)>,
    /// Tasks that did not end within the grace period.
    pub unfinished: Vec<String>,
}

/// Why a supervisor stopped.
#[derive(Debug)]
pub enum Cause<E> {
    /// It was asked to: `SIGTERM`, `SIGINT`, or what else the caller waits for.
    Asked(String),
    /// A task ended unasked.
    Task {
        /// Its name.
        name: String,
        /// How.
        end: End<E>,
    },
}

/// Owner of all tasks of a process.
#[derive(Debug)]
pub struct Supervisor<E> {
    tasks: JoinSet<(String, Result<(), E>)>,
    names: Vec<(tokio::task::Id, String)>,
    stop: CancellationToken,
}

impl<E: Send + 'static> Default for Supervisor<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E: Send + 'static> Supervisor<E> {
    /// Without tasks.
    pub fn new() -> Self {
        Self { tasks: JoinSet::new(), names: Vec::new(), stop: CancellationToken::new() }
    }

    /// Cancelled when the stop begins: each task watches its own clone and ends by itself.
    pub fn token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task. It ends when the token is cancelled; ending earlier, with or without an error, stops all.
    pub fn spawn<F>(&mut self, name: impl Into<String>, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let name = name.into();
        let named = name.clone();
        let handle = self.tasks.spawn(async move { (named, task.await) });
        self.names.push((handle.id(), name));
    }

    /// Runs until `asked` or until a task ends, then stops all within `grace`. Being asked again ends the grace period.
    pub async fn run(
        mut self,
        mut asked: impl AsyncFnMut() -> String,
        grace: Duration,
    ) -> Outcome<E> {
        let cause = tokio::select! {
            reason = asked() => Cause::Asked(reason),
            ended = self.next_end() => match ended {
                Some((name, end)) => Cause::Task { name, end },
                None => Cause::Asked("no task is left".to_owned()),
            },
        };
        self.stop.cancel();
        notify(&[NotifyState::Stopping]);
        let mut outcome = Outcome { cause, later_errors: Vec::new(), unfinished: Vec::new() };
        let in_time = tokio::select! {
            biased;
            () = self.drain(&mut outcome) => true,
            () = tokio::time::sleep(grace) => false,
            reason = asked() => {
                warn!(reason, "asked again: not waiting any longer");
                false
            }
        };
        if !in_time {
            outcome.unfinished = self.names.drain(..).map(|(_, name)| name).collect();
            outcome.unfinished.sort();
            self.tasks.abort_all();
        }
        outcome
    }

    async fn drain(&mut self, outcome: &mut Outcome<E>) {
        while let Some((name, end)) = self.next_end().await {
            match end {
                End::Returned(Ok(())) => debug!(task = name, "task has ended"),
                End::Returned(Err(error)) => outcome.later_errors.push((name, error)),
                End::Panicked(what) => {
                    error!(task = name, what, "task panicked while it was being stopped");
                }
            }
        }
    }

    async fn next_end(&mut self) -> Option<(String, End<E>)> {
        let joined = self.tasks.join_next_with_id().await?;
        let id = match &joined {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let place = self.names.iter().position(|(known, _)| *known == id);
        let name = place.map_or_else(String::new, |place| self.names.swap_remove(place).1);
        Some(match joined {
            Ok((_, (name, result))) => (name, End::Returned(result)),
            Err(error) => (name, End::Panicked(error.to_string())),
        })
    }
}

/// `SIGTERM` and `SIGINT`, caught from the moment this is made.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Begins to catch them.
    ///
    /// # Errors
    /// The system does not let us.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one; answers with its name.
    pub async fn next(&mut self) -> String {
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        };
        info!(signal = name, "asked to stop");
        name.to_owned()
    }
}

/// Tells systemd that the service is ready, with a line for `systemctl status`.
pub fn notify_ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells systemd what the service is doing.
pub fn notify_status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

fn notify(states: &[NotifyState<'_>]) {
    // without systemd there is no socket, and this does nothing
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "systemd could not be told about the service's state");
    }
}

/// Feeds systemd's watchdog while `progress` says that all loops turn; without a watchdog it only waits for the stop.
///
/// A loop that hangs is named in the log, and systemd restarts the service when the watchdog's time is over.
pub async fn watchdog<P>(progress: P, stop: CancellationToken)
where
    P: Fn() -> Result<(), String> + Send,
{
    let Some(period) = sd_notify::watchdog_enabled() else {
        stop.cancelled().await;
        return;
    };
    let mut ticks = tokio::time::interval(period / 3);
    let mut stalled = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match progress() {
            Ok(()) => {
                notify(&[NotifyState::Watchdog]);
                if std::mem::take(&mut stalled) {
                    info!("all loops turn again");
                }
            }
            Err(who) if !stalled => {
                stalled = true;
                error!(
                    who,
                    "a loop makes no progress: systemd will restart the service unless it goes on"
                );
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_millis(200);

    /// Asks once, or never where there is no reason.
    fn asks(mut reason: Option<&'static str>) -> impl AsyncFnMut() -> String {
        async move || match reason.take() {
            Some(reason) => reason.to_owned(),
            None => std::future::pending().await,
        }
    }

    async fn obedient(token: CancellationToken) -> Result<(), &'static str> {
        token.cancelled().await;
        Ok(())
    }

    #[tokio::test]
    async fn being_asked_stops_all_tasks() {
        let mut supervisor = Supervisor::new();
        for name in ["collector", "archiver"] {
            supervisor.spawn(name, obedient(supervisor.token()));
        }
        let outcome = supervisor.run(asks(Some("SIGTERM")), GRACE).await;
        assert!(matches!(outcome.cause, Cause::Asked(reason) if reason == "SIGTERM"));
        assert_eq!(outcome.unfinished, Vec::<String>::new());
        assert!(outcome.later_errors.is_empty());
    }

    #[tokio::test]
    async fn the_first_end_unasked_stops_the_others_and_is_named() {
        let mut supervisor = Supervisor::new();
        supervisor.spawn("archiver", obedient(supervisor.token()));
        supervisor.spawn("collector", async { Err("the store is gone") });
        let outcome = supervisor.run(asks(None), GRACE).await;
        let Cause::Task { name, end } = outcome.cause else { panic!("not a task") };
        assert_eq!(name, "collector");
        assert!(matches!(end, End::Returned(Err("the store is gone"))));
        assert!(outcome.unfinished.is_empty());
    }

    #[tokio::test]
    async fn an_end_without_an_error_is_unasked_too() {
        let mut supervisor: Supervisor<&str> = Supervisor::new();
        supervisor.spawn("collector", async { Ok(()) });
        let outcome = supervisor.run(asks(None), GRACE).await;
        assert!(matches!(outcome.cause, Cause::Task { end: End::Returned(Ok(())), .. }));
    }

    #[tokio::test]
    async fn a_task_that_does_not_end_is_named_after_the_grace_period() {
        let mut supervisor: Supervisor<&str> = Supervisor::new();
        supervisor.spawn("deaf", std::future::pending());
        supervisor.spawn("obedient", obedient(supervisor.token()));
        let outcome = supervisor.run(asks(Some("SIGINT")), GRACE).await;
        assert_eq!(outcome.unfinished, ["deaf"]);
    }

    #[tokio::test]
    async fn being_asked_again_ends_the_grace_period() {
        let mut supervisor: Supervisor<&str> = Supervisor::new();
        supervisor.spawn("deaf", std::future::pending());
        let hours = Duration::from_hours(24);
        let outcome = supervisor.run(async || "SIGTERM".to_owned(), hours).await;
        assert_eq!(outcome.unfinished, ["deaf"]);
    }

    #[tokio::test]
    async fn an_error_during_the_stop_is_kept() {
        let mut supervisor = Supervisor::new();
        let token = supervisor.token();
        supervisor.spawn("archiver", async move {
            token.cancelled().await;
            Err("the last put failed")
        });
        let outcome = supervisor.run(asks(Some("SIGTERM")), GRACE).await;
        assert_eq!(outcome.later_errors, [("archiver".to_owned(), "the last put failed")]);
    }

    #[tokio::test]
    async fn a_panic_is_an_end_with_the_tasks_name() {
        let mut supervisor: Supervisor<&str> = Supervisor::new();
        supervisor.spawn("collector", async { panic!("on purpose") });
        let outcome = supervisor.run(asks(None), GRACE).await;
        let Cause::Task { name, end: End::Panicked(_) } = outcome.cause else {
            panic!("not a panic")
        };
        assert_eq!(name, "collector");
    }
}
