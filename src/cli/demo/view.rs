//! The demo's live view: one line that moves on a terminal, a line now and then elsewhere.

use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// What there is to see at one moment.
pub(super) struct Line {
    pub(super) elapsed: Duration,
    /// Entries that the simulated GitHub has.
    pub(super) visible: u64,
    /// Entries committed to Kafka.
    pub(super) committed: u64,
    /// Entries archived.
    pub(super) archived: u64,
    /// Segments in the archive.
    pub(super) segments: u64,
    /// Shortest runway of all lanes, seconds.
    pub(super) runway: Option<f64>,
}

/// Lines off a terminal come this often.
const PLAIN_EVERY: Duration = Duration::from_secs(3);

pub(super) struct View {
    bar: Option<ProgressBar>,
    last_plain: Option<Instant>,
    last: Option<(Duration, u64)>,
}

impl View {
    pub(super) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30.cyan/blue} {percent:>3}%  {msg}");
            let bar = ProgressBar::new(1);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar, last_plain: None, last: None }
    }

    /// An event.
    pub(super) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(format!("* {text}")),
            None => plain(&format!("* {text}")),
        }
    }

    pub(super) fn show(&mut self, line: &Line) {
        let rate = self.rate(line);
        let runway =
            line.runway.map_or_else(|| "-".to_owned(), |s| format!("{:.1} d", s / 86_400.0));
        let text = format!(
            "{:>3} s  collected and committed {} of {}  archived {} in {} segments  runway {runway}  {rate:.0} entries/s",
            line.elapsed.as_secs(),
            HumanCount(line.committed),
            HumanCount(line.visible),
            HumanCount(line.archived),
            line.segments,
        );
        if let Some(bar) = &self.bar {
            bar.set_length(line.visible.max(1));
            bar.set_position(line.archived);
            bar.set_message(text);
        } else if self.last_plain.is_none_or(|last| last.elapsed() >= PLAIN_EVERY) {
            self.last_plain = Some(Instant::now());
            plain(&text);
        }
    }

    fn rate(&mut self, line: &Line) -> f64 {
        let (then, before) = self.last.replace((line.elapsed, line.committed)).unwrap_or_default();
        let entries = u32::try_from(line.committed.saturating_sub(before)).unwrap_or(u32::MAX);
        let seconds = line.elapsed.saturating_sub(then).as_secs_f64();
        if seconds > 0.0 { f64::from(entries) / seconds } else { 0.0 }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}

fn plain(text: &str) {
    // a view that nobody can read any more is no reason to stop
    writeln!(std::io::stderr(), "{text}").unwrap_or_default();
}

/// The shortest runway that the daemon's metrics page shows.
pub(super) async fn runway(port: u16) -> Option<f64> {
    let url = format!("http://127.0.0.1:{port}/metrics");
    let client =
        reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(1)).build().ok()?;
    let page = client.get(url).send().await.ok()?.text().await.ok()?;
    page.lines()
        .filter(|line| line.starts_with("ghauditd_runway_seconds{"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .reduce(f64::min)
}
