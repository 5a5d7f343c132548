//! The processes of one measurement: the simulated GitHub and the daemon, each on its own.

use crate::support::{cpu_seconds, number, peak_rss_mib, variable};
use ghauditd::audit::EntityKind;
use ghauditd::sim::{Sim, SimConfig, SimEntity, Traffic};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::metadata::MetadataTopic;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const TOKEN: &str = "bench-token";
const WAIT: Duration = Duration::from_mins(20);

/// A simulated GitHub in a process of its own, whose pages are made beforehand.
pub(crate) struct GitHub {
    process: Child,
    home: TempDir,
    url: String,
}

impl GitHub {
    /// Starts one with a history of web entries, spread over `span_s` seconds, and so many live ones a second.
    pub(crate) fn start(records: u32, span_s: Option<u32>, live_per_second: f64) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .env("GHAUDITD_BENCH_PHASE", "github")
            .env("GHAUDITD_BENCH_RECORDS", records.to_string())
            .env("GHAUDITD_BENCH_SPAN_S", span_s.unwrap_or(0).to_string())
            .env("GHAUDITD_BENCH_LIVE", live_per_second.to_string())
            .env("GHAUDITD_BENCH_CA", home.path().join("ca.pem"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let url = lines.next().unwrap().unwrap();
        Self { process, home, url }
    }
}

impl Drop for GitHub {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// The process of [`GitHub::start`]: serves until its standard input ends.
pub(crate) fn serve() {
    let records = number("GHAUDITD_BENCH_RECORDS", 0);
    let span_s = number("GHAUDITD_BENCH_SPAN_S", 0);
    let live = variable("GHAUDITD_BENCH_LIVE").map_or(0.0, |text| text.parse().unwrap());
    let web = Traffic {
        history_entries: u64::from(records),
        history_span_s: (span_s > 0).then_some(i64::from(span_s)),
        live_per_second: live,
        ..Traffic::web()
    };
    let entity =
        SimEntity { web, git: Traffic::git(), ..SimEntity::new(EntityKind::Enterprise, "acme") };
    let config = SimConfig {
        entities: vec![entity],
        token: TOKEN.to_owned(),
        tls: true,
        premade: live <= 0.0,
        ..SimConfig::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let sim = Sim::start(config).await.unwrap();
        std::fs::write(variable("GHAUDITD_BENCH_CA").unwrap(), sim.ca_pem().unwrap()).unwrap();
        println!("{}", sim.base_url());
        let end = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        end.await.unwrap().unwrap();
    });
}

/// How a daemon collects.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) pages: u32,
    pub(crate) compression: &'static str,
    pub(crate) gzip: bool,
    pub(crate) archive: bool,
    /// How often the tail is polled.
    pub(crate) poll: &'static str,
}

impl Default for Plan {
    /// As shipped, but without an archive, and with the encoding that costs least.
    fn default() -> Self {
        Self { pages: 10, compression: "zstd", gzip: false, archive: false, poll: "15s" }
    }
}

/// What something has cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// Process CPU for each entry, microseconds.
    pub(crate) cpu_us: f64,
    pub(crate) entries_per_second: f64,
    pub(crate) rss_mib: u64,
    /// Mean time of a transaction, milliseconds.
    pub(crate) commit_ms: f64,
    /// Mean size of an entry, bytes.
    pub(crate) entry_bytes: f64,
}

/// A home and a topic prefix for one run of the daemon.
pub(crate) struct Installation {
    pub(crate) brokers: String,
    pub(crate) plan: Plan,
    prefix: String,
    home: TempDir,
    admin: SocketAddr,
}

impl Installation {
    pub(crate) fn new(brokers: &str, github: &GitHub, plan: Plan) -> Self {
        let home = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let installation = Self {
            brokers: brokers.to_owned(),
            plan,
            prefix: format!("bench-{:08x}", rand::random::<u32>()),
            home,
            admin: free,
        };
        installation.write("token", TOKEN);
        let token = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(installation.path("token"), token).unwrap();
        installation.configure(&github.url, &github.home.path().join("ca.pem"));
        installation
    }

    /// The topic that holds the entries.
    pub(crate) fn topic(&self) -> String {
        format!("{}.github.audit.web", self.prefix)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// The defaults, but for where things are and what is measured.
    fn configure(&self, url: &str, ca: &Path) {
        let Plan { pages, compression, gzip, archive, poll } = self.plan;
        let archive = if archive {
            format!(
                "store = \"dir\"\npath = {:?}\nimmutable = false\nlock_mode = \"governance\"\n\
                 retention = \"1d\"\nsegment_age = \"5s\"\n",
                self.path("archive").display().to_string()
            )
        } else {
            "enabled = false\n".to_owned()
        };
        self.write(
            "ghauditd.toml",
            &format!(
                "[server.bench]\nbase_url = \"{url}\"\nca_file = {:?}\ngzip = {gzip}\n\
                 [[entity]]\nname = \"acme\"\nkind = \"enterprise\"\nslug = \"acme\"\nserver = \"bench\"\n\
                 token_file = {:?}\nlanes = [\"web\"]\n\
                 [collect]\nbatch_pages = {pages}\npoll_interval_min = {poll:?}\npoll_interval_max = {poll:?}\n\
                 [kafka]\nbrokers = {:?}\nid_prefix = {:?}\ntopic_prefix = \"{}.\"\nreplication = 1\n\
                 compression = {compression:?}\n[archive]\n{archive}\
                 [state]\ndir = {:?}\n[admin]\nlisten = \"{}\"\n",
                ca.display().to_string(),
                self.path("token").display().to_string(),
                self.brokers,
                self.prefix,
                self.prefix,
                self.path("state").display().to_string(),
                self.admin,
            ),
        );
    }

    /// Runs the daemon until it has committed, and archived where it archives, that many entries.
    pub(crate) fn collect(&self, records: u32) -> Cost {
        let daemon = self.start();
        let page = daemon.wait(Duration::from_millis(5), |page| sum(page, "requests_total") > 0.0);
        let before = sum(&page, "entries_committed_total");
        let all = f64::from(records);
        let (cpu, began) = (cpu_seconds(&daemon.id()), Instant::now());
        let done =
            if self.plan.archive { "archive_records_total" } else { "entries_committed_total" };
        // asking costs the daemon too: seldom, and often only where the end is near
        daemon.wait(Duration::from_millis(250), |page| sum(page, done) >= all * 0.94);
        let page = daemon.wait(Duration::from_millis(10), |page| sum(page, done) >= all);
        let (cpu, wall) = (cpu_seconds(&daemon.id()) - cpu, began.elapsed().as_secs_f64());
        assert!(sum(&page, "entries_known_total") < 0.03 * all, "the second walk was measured too");
        let measured = all - before;
        Cost {
            cpu_us: cpu * 1e6 / measured,
            entries_per_second: measured / wall,
            rss_mib: peak_rss_mib(&daemon.id()),
            commit_ms: 1e3 * sum(&page, "transaction_seconds_sum")
                / sum(&page, "transaction_seconds_count"),
            entry_bytes: sum(&page, "page_body_bytes_total") / sum(&page, "entries_received_total"),
        }
    }

    /// Runs the daemon for a while, and says how long its live pages took from the response to the commit.
    pub(crate) fn live(&self, seconds: u64) -> String {
        let daemon = self.start();
        daemon
            .wait(Duration::from_millis(50), |page| sum(page, "live_latency_seconds_count") > 0.0);
        std::thread::sleep(Duration::from_secs(seconds));
        let page = daemon.page().unwrap();
        let count = sum(&page, "live_latency_seconds_count");
        let mean_ms = 1e3 * sum(&page, "live_latency_seconds_sum") / count;
        let mut text =
            format!("live: {count} pages, from response to committed {mean_ms:.1} ms on average");
        for line in page.lines().filter(|line| line.contains("live_latency_seconds_bucket")) {
            let bound = line.split("le=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
            let within: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            write!(text, "; {within} within {bound} s").unwrap();
            if within >= count {
                break;
            }
        }
        text
    }

    fn start(&self) -> Daemon {
        let log = std::fs::File::create(self.path("log")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_ghauditd"))
            .args(["run", "--config"])
            .arg(self.path("ghauditd.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Daemon { process, admin: self.admin, log: self.path("log") }
    }

    /// Leaves the broker as it was.
    pub(crate) fn remove_topics(&self) {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap();
        let metadata = admin.inner().fetch_metadata(None, Duration::from_secs(10)).unwrap();
        let names = metadata.topics().iter().map(MetadataTopic::name);
        let ours: Vec<&str> = names.filter(|name| name.starts_with(&self.prefix)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(admin.delete_topics(&ours, &AdminOptions::new())).unwrap();
    }
}

/// A running daemon; killed when dropped.
struct Daemon {
    process: Child,
    admin: SocketAddr,
    log: std::path::PathBuf,
}

impl Daemon {
    fn id(&self) -> String {
        self.process.id().to_string()
    }

    /// Its metrics page, once it serves one.
    fn page(&self) -> Option<String> {
        let mut stream = TcpStream::connect(self.admin).ok()?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")
            .ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        Some(page)
    }

    /// Asks for the metrics again and again until they are as wanted.
    fn wait(&self, pause: Duration, wanted: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            if let Some(page) = self.page().filter(|page| wanted(page)) {
                return page;
            }
            let runs = Path::new(&format!("/proc/{}/fd/0", self.id())).exists();
            assert!(
                runs && began.elapsed() <= WAIT,
                "the daemon gets no further:\n{}",
                std::fs::read_to_string(&self.log).unwrap()
            );
            std::thread::sleep(pause);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// The sum of a metric over all its label sets.
fn sum(page: &str, name: &str) -> f64 {
    let values = page.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let found = series.split('{').next()?.strip_prefix("ghauditd_")?;
        (found == name).then(|| value.parse::<f64>().unwrap())
    });
    values.sum()
}
