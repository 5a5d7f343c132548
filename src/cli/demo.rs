//! `ghauditd demo`: the whole product at work, checked against what the simulated GitHub says it served.

mod verify;
mod view;

use super::{Exit, Output};
use crate::audit::{EntityKind, EntityName};
use crate::kafka::restore::read_checkpoints;
use crate::kafka::settings::Settings;
use crate::sim::{Sim, SimConfig, SimEntity, Traffic};
use anyhow::{Context as _, bail};
use clap::Args;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use verify::{Archived, Verdict};
use view::{Line, View};

const LONG_ABOUT: &str = "\
Shows the whole path on this machine: a simulated GitHub, the daemon as it runs in production (a process of its own), a \
real Kafka, an archive in a folder. After a while the daemon is killed with SIGKILL and started again. At the end all \
entries in Kafka and in the archive are compared with the simulated GitHub's journal.

`make demo` starts the Kafka broker for it and stops it afterwards.";

/// Show the whole path at work and check it (simulated GitHub, real Kafka, archive in a folder)
#[derive(Debug, Args)]
#[command(long_about = LONG_ABOUT)]
pub(super) struct DemoArgs {
    /// An empty or missing folder for everything that the demo writes
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The Kafka broker
    #[arg(long, value_name = "HOST:PORT")]
    brokers: String,
    /// How long new entries come in
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(5..=3600))]
    seconds: u32,
}

const ENTITY: &str = "acme";
const HISTORY_WEB: u64 = 20_000;
const HISTORY_GIT: u64 = 10_000;
const LIVE_WEB_PER_S: u32 = 20;
const LIVE_GIT_PER_S: u32 = 10;
/// How long what is still missing at the end may take.
const PATIENCE: Duration = Duration::from_mins(2);

pub(super) fn run(args: &DemoArgs, out: &mut Output) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let exit = runtime.block_on(demo(args, out));
    runtime.shutdown_background();
    exit
}

async fn demo(args: &DemoArgs, out: &mut Output) -> anyhow::Result<Exit> {
    crate::github::client::install_crypto_provider();
    let stage = Stage::set(args).await?;
    out.line(format!("Simulated GitHub   {}  (enterprise {ENTITY})", stage.sim.base_url()))?;
    out.line(format!("Kafka              {}", args.brokers))?;
    out.line(format!("Archive            {}", stage.archive().display()))?;
    out.line(format!("Daemon's log       {}\n", stage.log().display()))?;
    out.flush()?;
    let mut show = Show { stage, view: View::new(), archived: Archived::default(), child: None };
    let finished = show.play(args).await;
    show.view.finish();
    finished?;
    let verdict = verify::verify(&show.stage.sim, &show.stage.kafka, &show.stage.archive()).await?;
    conclude(&verdict, &show.stage, args, out)
}

/// Everything that stands before the daemon starts.
struct Stage {
    dir: PathBuf,
    sim: Sim,
    kafka: Arc<Settings>,
    metrics_port: u16,
}

impl Stage {
    async fn set(args: &DemoArgs) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&args.dir).with_context(|| format!("{}", args.dir.display()))?;
        let dir = args.dir.canonicalize()?;
        if std::fs::read_dir(&dir)?.next().is_some() {
            bail!("{} is not empty: name a folder that is, or that does not exist", dir.display());
        }
        let token = format!("demo-{:032x}", rand::random::<u128>());
        let sim = Sim::start(sim_config(args.seconds, &token)).await.context("simulated GitHub")?;
        let metrics_port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let prefix = format!("demo-{:08x}", rand::random::<u32>());
        let kafka =
            Settings { brokers: args.brokers.clone(), id_prefix: prefix, ..Settings::default() };
        let stage = Self { dir, sim, kafka: Arc::new(kafka), metrics_port };
        stage.write(&token)?;
        // the daemon's own reader of this file names the topics
        let environment = crate::config::Environment::default();
        let loaded = crate::config::load(&stage.config(), &environment)
            .map_err(|faults| anyhow::anyhow!("the demo's configuration: {faults}"))?;
        Ok(Self { kafka: Arc::new(loaded.config.kafka), ..stage })
    }

    fn write(&self, token: &str) -> anyhow::Result<()> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut options = std::fs::OpenOptions::new();
        let mut file =
            options.write(true).create_new(true).mode(0o600).open(self.dir.join("token"))?;
        file.write_all(token.as_bytes())?;
        let ca_file = self.dir.join("github-ca.pem");
        std::fs::write(&ca_file, self.sim.ca_pem().unwrap_or_default())?;
        let config = format!(
            "# Written by `ghauditd demo`.\n\
             [server.simulated]\nbase_url = \"{}\"\nca_file = {ca}\n\n\
             [[entity]]\nname = \"{ENTITY}\"\nkind = \"enterprise\"\nslug = \"{ENTITY}\"\nserver = \"simulated\"\n\
             token_file = {}\n\n\
             [collect]\npoll_interval_min = \"1s\"\npoll_interval_max = \"2s\"\n\n\
             [kafka]\nbrokers = {:?}\nid_prefix = \"{prefix}\"\ntopic_prefix = \"{prefix}.\"\nreplication = 1\n\n\
             [archive]\nstore = \"dir\"\npath = {}\nlock_mode = \"governance\"\nretention = \"1d\"\nsegment_age = \"2s\"\nimmutable = false\n\n\
             [state]\ndir = {}\n\n[admin]\nlisten = \"127.0.0.1:{}\"\n",
            self.sim.base_url(),
            quoted(&self.dir.join("token")),
            self.kafka.brokers,
            quoted(&self.archive()),
            quoted(&self.dir.join("state")),
            self.metrics_port,
            ca = quoted(&ca_file),
            prefix = self.kafka.id_prefix,
        );
        std::fs::write(self.config(), config)?;
        Ok(())
    }

    fn config(&self) -> PathBuf {
        self.dir.join("ghauditd.toml")
    }

    fn archive(&self) -> PathBuf {
        self.dir.join("archive")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("ghauditd.log")
    }

    fn start_daemon(&self) -> anyhow::Result<Child> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        Command::new(std::env::current_exe()?)
            .arg("--config")
            .arg(self.config())
            .arg("run")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("the daemon cannot be started")
    }
}

fn sim_config(seconds: u32, token: &str) -> SimConfig {
    let traffic = |history_entries, per_second: u32, base| Traffic {
        history_entries,
        live_per_second: f64::from(per_second),
        live_entries_max: Some(u64::from(per_second) * u64::from(seconds)),
        ..base
    };
    SimConfig {
        seed: rand::random(),
        entities: vec![SimEntity {
            web: traffic(HISTORY_WEB, LIVE_WEB_PER_S, Traffic::web()),
            git: traffic(HISTORY_GIT, LIVE_GIT_PER_S, Traffic::git()),
            ..SimEntity::new(EntityKind::Enterprise, ENTITY)
        }],
        token: token.to_owned(),
        tls: true,
        ..SimConfig::default()
    }
}

/// The demo while it runs.
struct Show {
    stage: Stage,
    view: View,
    archived: Archived,
    child: Option<Child>,
}

impl Show {
    /// Starts, kills, starts again, and waits until everything has arrived.
    async fn play(&mut self, args: &DemoArgs) -> anyhow::Result<()> {
        let begun = Instant::now();
        let live = Duration::from_secs(args.seconds.into());
        self.child = Some(self.stage.start_daemon()?);
        self.view.say("The daemon is started.");
        let mut killed = false;
        loop {
            let line = self.look(begun).await?;
            self.view.show(&line);
            if let Some(child) = self.child.as_mut()
                && let Some(status) = child.try_wait()?
            {
                bail!("the daemon ended by itself ({status}): see {}", self.stage.log().display());
            }
            if !killed && line.committed > 0 && begun.elapsed() >= live / 3 {
                killed = true;
                self.kill_and_restart().await?;
            }
            let arrived = line.committed >= line.visible && line.archived >= line.committed;
            if killed && begun.elapsed() > live && arrived {
                break;
            }
            if begun.elapsed() > live + PATIENCE {
                self.view.say("Not everything has arrived in time; comparing what there is.");
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        self.stop().await
    }

    async fn look(&mut self, begun: Instant) -> anyhow::Result<Line> {
        self.archived.look(&self.stage.archive())?;
        let entity = EntityName::try_from(ENTITY.to_owned())?;
        let restored = read_checkpoints(Arc::clone(&self.stage.kafka)).await.ok();
        let committed = restored
            .and_then(|restored| restored.checkpoints.get(&entity).map(|it| it.sequence))
            .unwrap_or(0);
        Ok(Line {
            elapsed: begun.elapsed(),
            visible: self.stage.sim.visible_entries(),
            committed,
            archived: self.archived.entries,
            segments: self.archived.segments,
            runway: view::runway(self.stage.metrics_port).await,
        })
    }

    async fn kill_and_restart(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            let pid = child.id().unwrap_or_default();
            child.kill().await?;
            self.view
                .say(&format!("kill -9 {pid}: the daemon is dead, in the middle of its work."));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.child = Some(self.stage.start_daemon()?);
        self.view.say("The daemon is started again: it goes on from its checkpoint in Kafka.");
        Ok(())
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) {
            let pid = rustix::process::Pid::from_raw(pid).context("process id")?;
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        }
        let status = tokio::time::timeout(Duration::from_secs(30), child.wait()).await;
        let status = status.context("the daemon does not stop on SIGTERM")??;
        self.view.say(&format!("SIGTERM: the daemon has stopped ({status})."));
        Ok(())
    }
}

fn conclude(
    verdict: &Verdict,
    stage: &Stage,
    args: &DemoArgs,
    out: &mut Output,
) -> anyhow::Result<Exit> {
    out.line("")?;
    out.line(format!("Served by the simulated GitHub   {:>8} entries", verdict.journal))?;
    out.line(format!(
        "Committed to Kafka               {:>8} entries, {} lost, {} doubled, {} changed",
        verdict.kafka.found, verdict.kafka.lost, verdict.kafka.doubled, verdict.kafka.foreign
    ))?;
    out.line(format!(
        "Archived                         {:>8} entries, {} lost, {} doubled, {} changed",
        verdict.archive.found,
        verdict.archive.lost,
        verdict.archive.doubled,
        verdict.archive.foreign
    ))?;
    let good = verdict.is_good();
    out.line(if good {
        "collected = committed = archived: every entry once, byte for byte, across the SIGKILL."
    } else {
        "NOT EQUAL: this is a fault of ghauditd; please keep the folder and report it."
    })?;
    let (config, web) = (stage.config(), stage.kafka.topic(crate::audit::Topic::Web).to_owned());
    let program = std::env::current_exe()?;
    out.line(format!(
        "\nTry next:\n  {0} --config {1} archive list\n  {0} --config {1} archive cat {web} | head -3\n  \
         {0} sim --help\n(With the broker started again, `{0} --config {1} checkpoint show` tells where the daemon stands, and\n  \
         kcat -b {2} -t {web} -C -e -c 3  what a consumer sees.)",
        shown(&program), shown(&config), args.brokers
    ))?;
    Ok(if good { Exit::Ok } else { Exit::Mismatch })
}

/// A path as a TOML string.
fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}

/// A path as one would type it from here.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}
