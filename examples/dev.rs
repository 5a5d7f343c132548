use ghauditd::sim::*; use ghauditd::config; use ghauditd::audit::EntityKind;
use std::time::Duration;
#[tokio::main]
async fn main() {
    let brokers = std::env::args().nth(1).unwrap();
    let n: u64 = std::env::args().nth(2).unwrap().parse().unwrap();
    let secs: u64 = std::env::args().nth(3).unwrap().parse().unwrap();
    let nasty = std::env::args().nth(4).is_some();
    ghauditd::telemetry::start(ghauditd::telemetry::Format::Human, "info").unwrap();
    let mut e = SimEntity::new(EntityKind::Enterprise, "acme");
    e.web.history_entries = n; e.git.history_entries = n/2; e.web.live_entries_max=Some(100); e.git.live_entries_max=Some(100);
    let faults = if nasty { Faults::nasty() } else { Faults::default() };
    let sim = Sim::start(SimConfig{entities: vec![e], token: "ghp_x".into(), faults, ..Default::default()}).await.unwrap();
    let dir = std::env::args().nth(5).unwrap_or_else(|| format!("/tmp/dev-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(format!("{dir}/token"), "ghp_x").unwrap();
    let prefix = format!("d{}", std::process::id());
    let toml = format!("[server.sim]\nbase_url = \"{}\"\n[[entity]]\nname=\"acme\"\nkind=\"enterprise\"\nslug=\"acme\"\nserver=\"sim\"\ntoken_file=\"{dir}/token\"\n[collect]\npoll_interval_min=\"1s\"\npoll_interval_max=\"1s\"\n[kafka]\nbrokers=\"{brokers}\"\nid_prefix=\"{prefix}\"\ntopic_prefix=\"{prefix}.\"\ndata_partitions=3\nstate_partitions=4\nreplication=1\n[archive]\nenabled=false\n[state]\ndir=\"{dir}/state\"\n[admin]\nlisten=\"127.0.0.1:9464\"\n", sim.base_url());
    let loaded = match config::load::parse(&toml, "dev", &config::Environment::of_process()) { Ok(l) => l, Err(e) => { eprintln!("{e:?}"); return } };
    println!("prefix {prefix}");
    let start = std::time::Instant::now();
    let _ = tokio::time::timeout(Duration::from_secs(secs), ghauditd::daemon::run(loaded.config, Default::default())).await.map(|r| println!("{r:?}"));
    println!("visible {} journal {} stats {:?} after {:?}", sim.visible_entries(), sim.journal_entries().count(), sim.stats(), start.elapsed());
}
