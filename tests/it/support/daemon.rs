//! The compiled program: as a daemon that is killed and started, and as a command that is run once.

use super::{free_port, logs, unique};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The program that cargo built for these tests.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_ghauditd");

/// A home folder with a configuration, and at most one process that runs with it. Killed when dropped.
pub(crate) struct Daemon {
    home: TempDir,
    admin: SocketAddr,
    log: PathBuf,
    environment: Vec<(String, String)>,
    child: Option<Child>,
}

impl Daemon {
    /// A home and a free admin port; nothing is started yet.
    pub(crate) fn new(name: &str) -> Self {
        let name = unique(name);
        Self {
            home: tempfile::Builder::new().prefix(&name).tempdir().unwrap(),
            admin: SocketAddr::from(([127, 0, 0, 1], free_port())),
            log: logs().join(format!("{name}.log")),
            environment: Vec::new(),
            child: None,
        }
    }

    /// The folder for configuration, token and state.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// What belongs into `admin.listen`.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// `HOME/ghauditd.toml`.
    pub(crate) fn config(&self) -> PathBuf {
        self.home().join("ghauditd.toml")
    }

    /// Writes the configuration.
    pub(crate) fn configure(&self, toml: &str) {
        self.write("ghauditd.toml", toml);
    }

    /// Writes a file below the home and gives its path.
    pub(crate) fn write(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.home().join(name);
        std::fs::write(&path, contents)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// Sets an environment variable of the processes that are started from now on.
    pub(crate) fn env(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// `ghauditd run --config HOME/ghauditd.toml`. The log goes on in the same file.
    pub(crate) fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same with further arguments.
    pub(crate) fn start_with(&mut self, args: &[&str]) {
        self.spawn(Command::new(PROGRAM), args);
    }

    /// The same with a file system of its own in a folder, `bytes` large, without room for a byte or a name: [`SmallDisk::free`] makes room.
    /// `None` where the host does not let a test mount one. What is on it ends with the process.
    pub(crate) fn start_on_full_disk(&mut self, folder: &Path, bytes: u32) -> Option<SmallDisk> {
        std::fs::create_dir_all(folder).unwrap();
        let small = |script: &str| {
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", "--mount", "sh", "-c", script]);
            command.arg(folder).arg(format!("size={bytes},nr_inodes=4000"));
            command
        };
        let tried = small("mount -t tmpfs -o \"$1\" tmpfs \"$0\"").output();
        if !tried.as_ref().is_ok_and(|output| output.status.success()) {
            println!("skipped, no file system may be mounted here: {tried:?}");
            return None;
        }
        let mut command = small(
            "mount -t tmpfs -o \"$1\" tmpfs \"$0\"; shift; mkdir \"$0/ballast\"; cd \"$0/ballast\"; \
             cat /dev/zero 2>/dev/null >0; seq 4000 | xargs touch 2>/dev/null; cd \"$OLDPWD\"; exec \"$@\"",
        );
        command.arg(PROGRAM);
        self.spawn(command, &[]);
        let inside = format!("/proc/{}/root", self.pid().unwrap());
        Some(SmallDisk(Path::new(&inside).join(folder.strip_prefix("/").unwrap())))
    }

    fn spawn(&mut self, mut command: Command, args: &[&str]) {
        assert!(!self.running(), "the daemon runs already");
        let log = open_log(&self.log);
        let child = command
            .arg("run")
            .arg("--config")
            .arg(self.config())
            .args(args)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.home())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{PROGRAM}: {error}"));
        self.child = Some(child);
    }

    /// Runs a command with this configuration to its end, for instance `checkpoint list`.
    pub(crate) fn command(&self, args: &[&str]) -> Output {
        let config = self.config();
        let environment =
            self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        run(&[args, &["--config", config.to_str().unwrap()]].concat(), environment)
    }

    /// Begins a command with this configuration; what it prints is kept for whoever waits for it.
    pub(crate) fn begin(&self, args: &[&str]) -> Child {
        Command::new(PROGRAM)
            .args(args)
            .arg("--config")
            .arg(self.config())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.home())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{PROGRAM}: {error}"))
    }

    /// The process id, while one is held.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// A process was started and has not ended.
    pub(crate) fn running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM; [`Daemon::wait`] says how it ended.
    pub(crate) fn term(&self) {
        let child = self.child.as_ref().expect("a daemon that was started");
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits until the process ends by itself; panics with the end of the log after `timeout`.
    pub(crate) async fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let start = Instant::now();
        let mut child = self.child.take().expect("a daemon that was started");
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if start.elapsed() > timeout {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("the daemon did not end within {timeout:?}:\n{}", self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// All that it and its predecessors in this home have logged.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last 40 lines of the log.
    pub(crate) fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Status and body of a page of the admin server; `None` when nobody listens.
    pub(crate) async fn get(&self, path: &str) -> Option<(u16, String)> {
        // a provider that is there already is as good
        drop(rustls::crypto::ring::default_provider().install_default());
        let client =
            reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
        let response = client.get(format!("http://{}{path}", self.admin)).send().await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.text().await.ok()?))
    }

    /// Waits until `/readyz` answers 200; panics with the end of the log when it does not, or when the process ends.
    pub(crate) async fn ready(&mut self, timeout: Duration) {
        let start = Instant::now();
        loop {
            let answer = self.get("/readyz").await;
            if answer.as_ref().is_some_and(|(status, _)| *status == 200) {
                return;
            }
            assert!(self.running(), "the daemon ended before it was ready:\n{}", self.log_tail());
            assert!(
                start.elapsed() < timeout,
                "not ready in {timeout:?}: {answer:?}\n{}",
                self.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until one line of `/readyz` holds all these words, and it is not ready.
    pub(crate) async fn not_ready(&mut self, words: &[&str], timeout: Duration) {
        let start = Instant::now();
        loop {
            let answer = self.get("/readyz").await;
            let says = |line: &str| words.iter().all(|word| line.contains(word));
            if answer.as_ref().is_some_and(|(code, it)| *code == 503 && it.lines().any(says)) {
                return;
            }
            assert!(self.running(), "the daemon has ended:\n{}", self.log_tail());
            assert!(start.elapsed() < timeout, "not {words:?}: {answer:?}\n{}", self.log_tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The sum of a metric over all its label sets that contain `labels`; 0 when there is none.
    pub(crate) async fn metric(&self, name: &str, labels: &str) -> f64 {
        let (_, page) = self.get("/metrics").await.expect("the admin server answers");
        metric_in(&page, name, labels)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            println!("--- end of {}:\n{}", self.log.display(), self.log_tail());
        }
    }
}

/// A file system that only one daemon sees, by the path at which others see it.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Where its contents are while the daemon runs.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Takes away what fills it.
    pub(crate) fn free(&self) {
        std::fs::remove_dir_all(self.0.join("ballast")).unwrap();
    }

    /// Fills it to the last byte.
    pub(crate) fn fill(&self) {
        std::fs::create_dir(self.0.join("ballast")).unwrap();
        let mut ballast = File::create(self.0.join("ballast/0")).unwrap();
        let error = loop {
            if let Err(error) = ballast.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }
}

/// Runs the program to its end. What it prints also goes to a log file, where `scripts/test` looks for tokens.
pub(crate) fn run<'a>(
    args: &[&str],
    environment: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Output {
    let output = Command::new(PROGRAM)
        .args(args)
        .envs(environment)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{PROGRAM}: {error}"));
    let mut log = open_log(&logs().join("commands.log"));
    let text =
        [format!("$ ghauditd {}\n", args.join(" ")).as_bytes(), &output.stdout, &output.stderr]
            .concat();
    log.write_all(&text).unwrap();
    output
}

fn open_log(path: &Path) -> File {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn metric_in(page: &str, name: &str, labels: &str) -> f64 {
    let values = page.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, its_labels) = series.split_once('{').unwrap_or((series, ""));
        (found == name && its_labels.contains(labels)).then(|| value.parse::<f64>().unwrap())
    });
    // the sum of nothing is -0.0
    values.fold(0.0, |sum, value| sum + value)
}

mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[test]
    fn metrics_are_summed_over_labels() {
        let page = "# TYPE a counter\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"2\",y=\"2\"} 4\nb 0.5\nab 9\n";
        assert_eq!(metric_in(page, "a_total", "").to_string(), "7");
        assert_eq!(metric_in(page, "a_total", "x=\"2\"").to_string(), "4");
        assert_eq!(metric_in(page, "b", "").to_string(), "0.5");
        assert_eq!(metric_in(page, "c", "").to_string(), "0");
    }

    #[tokio::test]
    async fn pages_of_the_admin_port_are_read() {
        let daemon = Daemon::new("support");
        assert_eq!(daemon.get("/readyz").await, None);
        let listener = tokio::net::TcpListener::bind(daemon.admin()).await.unwrap();
        let answer = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_buf(&mut Vec::with_capacity(4096)).await.unwrap();
            stream.write_all(b"HTTP/1.1 503 X\r\ncontent-length: 3\r\n\r\nno!").await.unwrap();
        };
        let (page, ()) = tokio::join!(daemon.get("/readyz"), answer);
        assert_eq!(page, Some((503, "no!".to_owned())));
    }
}
