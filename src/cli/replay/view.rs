//! How far it is: a bar on a terminal, a line of the log now and then elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};
use tracing::info;

/// Lines of the log come this often.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

pub(super) struct View {
    bar: Option<ProgressBar>,
    doing: &'static str,
    last_plain: Instant,
}

impl View {
    pub(super) fn new(doing: &'static str, offsets: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let template =
                "{prefix} {bar:30.cyan/blue} {percent:>3}%  {msg}  {elapsed}, {eta} left";
            let style = ProgressStyle::with_template(template);
            let bar = ProgressBar::new(offsets).with_prefix(doing);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar, doing, last_plain: Instant::now() }
    }

    pub(super) fn show(&mut self, offsets_done: u64, offsets_all: u64, records: Option<u64>) {
        let told = records.map_or_else(String::new, |records| format!("{records} records"));
        if let Some(bar) = &self.bar {
            bar.set_length(offsets_all);
            bar.set_position(offsets_done);
            bar.set_message(told);
        } else if self.last_plain.elapsed() >= PLAIN_EVERY {
            self.last_plain = Instant::now();
            info!(offsets_done, offsets_all, records, "{}", self.doing);
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
