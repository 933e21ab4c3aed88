//! Measures how one service tells many watchers of many peers that come and go.
//!
//! ```sh
//! cargo run --release -p discovery-http --features server --example fanout -- [WATCHERS [PEERS [CHANGES_PER_SECOND]]]
//! ```
//!
//! The service is a process of its own, which is also killed and started again; all watchers
//! share another process with whoever writes the peers. Each watcher folds what it is told into
//! a view of its own; it has converged when that view is exactly what was written.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use discovery_core::{
    Cluster, DiscoveryError, DiscoverySystem, InstanceId, PeerInfo, WorkerAddress, WorkerId,
    peer::{PeerEvent, PeerWatch},
    store::{Expect, Record, RecordStore, Removal, Removed, Session, Write, Writer, Written},
};
use discovery_http::{
    HttpConfig, HttpSystem,
    server::{Server, ServerConfig},
};
use discovery_memory::MemoryStore;
use discovery_records::peer::{encode, peer_key};
use futures_util::StreamExt;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    runtime::Handle,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

/// Tells this binary that it is the service, and where to listen.
const SERVE: &str = "DISCOVERY_HTTP_FANOUT_SERVER";
const SECOND: Duration = Duration::from_secs(1);
/// How long peers come and go.
const CHURN: u64 = 20;
/// How long anything may take at most.
const LIMIT: Duration = Duration::from_secs(120);

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    if let Ok(listen) = std::env::var(SERVE) {
        return serve(&listen).await;
    }
    let numbers: Vec<usize> = std::env::args()
        .skip(1)
        .map(|text| text.parse())
        .collect::<Result<_, _>>()?;
    let number = |index: usize, default| numbers.get(index).copied().unwrap_or(default);
    measure(number(0, 1_000), number(1, 1_000), number(2, 200)).await
}

/// Serves until its input ends.
async fn serve(listen: &str) -> Result<(), Failure> {
    let (store, _pauses) = MemoryStore::forgiving_pauses(&Handle::current());
    let config = ServerConfig {
        listen: listen.parse()?,
        warm_up: Duration::ZERO,
        forgetful: true,
        ..ServerConfig::default()
    };
    let server = Server::start(config, Arc::new(store)).await?;
    println!("{}", server.local_addr());
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    while let Some(_line) = input.next_line().await? {}
    Ok(())
}

/// The service, as a process.
struct Service {
    child: Child,
    address: String,
}

impl Service {
    async fn start(listen: &str) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .env(SERVE, listen)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        let address = BufReader::new(output).lines().next_line().await?;
        let address = address.ok_or("the service did not start")?;
        Ok(Self { child, address })
    }

    fn usage(&self) -> Result<Usage, Failure> {
        Usage::of(self.child.id().ok_or("no service")?)
    }
}

/// What a process takes.
struct Usage {
    resident_mib: u64,
    processor_seconds: f64,
}

impl Usage {
    fn of(pid: u32) -> Result<Self, Failure> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: u64 = resident
            .ok_or("no VmRSS")?
            .trim()
            .trim_end_matches(" kB")
            .parse()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let times = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: f64 = times.skip(11).take(2).flat_map(str::parse::<f64>).sum();
        Ok(Self {
            resident_mib: kib / 1_024,
            processor_seconds: ticks / 100.0,
        })
    }
}

/// What the watchers have come to.
struct Seen {
    start: Instant,
    /// Of each watcher's view; see [`digest`].
    views: Vec<AtomicU64>,
    /// Of what was written.
    written: AtomicU64,
    events: AtomicU64,
    interruptions: AtomicUsize,
    /// Microseconds from write to news, eight buckets per power of two.
    delays: Vec<AtomicU64>,
}

/// One peer's part in the digest of a view: the digest is the sum over all, so that order does
/// not matter.
fn digest(peer: &PeerInfo) -> u64 {
    let mut hasher = DefaultHasher::new();
    peer.hash(&mut hasher);
    hasher.finish() | 1
}

impl Seen {
    fn new(watchers: usize) -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            views: (0..watchers).map(|_| AtomicU64::new(u64::MAX)).collect(),
            written: AtomicU64::new(0),
            events: AtomicU64::new(0),
            interruptions: AtomicUsize::new(0),
            delays: (0..320).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    /// How many watchers' views are what was written.
    fn converged(&self) -> usize {
        let written = self.written.load(Ordering::Relaxed);
        let same = |view: &&AtomicU64| view.load(Ordering::Relaxed) == written;
        self.views.iter().filter(same).count()
    }

    async fn converge(&self, what: &str) -> Result<Duration, Failure> {
        let begun = Instant::now();
        while self.converged() < self.views.len() {
            if begun.elapsed() > LIMIT {
                let (converged, all) = (self.converged(), self.views.len());
                return Err(format!("{what}: only {converged} of {all} within {LIMIT:?}").into());
            }
            sleep(Duration::from_millis(2)).await;
        }
        Ok(begun.elapsed())
    }

    /// Notes how old this news is; its address says when it was written.
    fn news(&self, peer: &PeerInfo) {
        let written = peer
            .address()
            .to_str()
            .and_then(|text| text.rsplit('/').next()?.parse().ok());
        let now = self.start.elapsed().as_micros() as u64;
        let micros = now.saturating_sub(written.unwrap_or(now)).max(1);
        let bucket = ((micros as f64).log2() * 8.0) as usize;
        self.delays[bucket.min(self.delays.len() - 1)].fetch_add(1, Ordering::Relaxed);
    }

    /// The upper end of what this share of all news took, in milliseconds.
    fn percentile(&self, share: f64) -> f64 {
        let counts: Vec<u64> = self
            .delays
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect();
        let wanted = (counts.iter().sum::<u64>() as f64 * share).ceil() as u64;
        let mut sum = 0;
        let bucket = counts.iter().position(|count| {
            sum += count;
            sum >= wanted
        });
        ((bucket.unwrap_or_default() + 1) as f64 / 8.0).exp2() / 1_000.0
    }
}

/// Folds what one watch tells.
async fn watch(watch: Arc<dyn PeerWatch>, which: usize, seen: Arc<Seen>) -> Result<(), DiscoveryError> {
    let mut events = watch.watch_peers().await?;
    let mut view = 0_u64;
    while let Some(event) = events.next().await {
        match event {
            PeerEvent::Snapshot(peers) => {
                view = peers.iter().map(digest).fold(0, u64::wrapping_add);
            }
            PeerEvent::Added(peer) => {
                seen.news(&peer);
                view = view.wrapping_add(digest(&peer));
            }
            PeerEvent::Modified { previous, peer } => {
                view = view.wrapping_sub(digest(&previous)).wrapping_add(digest(&peer));
            }
            PeerEvent::Removed { peer, .. } => view = view.wrapping_sub(digest(&peer)),
            PeerEvent::Interrupted(_) => drop(seen.interruptions.fetch_add(1, Ordering::Relaxed)),
            _ => {}
        }
        seen.events.fetch_add(1, Ordering::Relaxed);
        seen.views[which].store(view, Ordering::Relaxed);
    }
    Ok(())
}

/// Whoever writes the peers, without a registration for each: that would measure something else.
struct Fleet {
    store: Arc<dyn RecordStore>,
    session: Session,
    standing: BTreeMap<WorkerId, (PeerInfo, Record)>,
    seen: Arc<Seen>,
}

impl Fleet {
    async fn start(store: Arc<dyn RecordStore>, seen: Arc<Seen>) -> Result<Self, Failure> {
        Ok(Self {
            session: store.open(600 * SECOND).await?,
            store,
            standing: BTreeMap::new(),
            seen,
        })
    }

    fn newcomers(&self, count: usize) -> Vec<PeerInfo> {
        let newcomer = |_| {
            let address = format!("tcp://10.0.0.1:5555/{}", self.seen.start.elapsed().as_micros());
            PeerInfo::new(InstanceId::new_v4(), WorkerAddress::from_bytes(address))
        };
        (0..count).map(newcomer).collect()
    }

    async fn come(&mut self, peers: Vec<PeerInfo>) -> Result<(), Failure> {
        for peers in peers.chunks(500) {
            let mut items = Vec::with_capacity(peers.len());
            for peer in peers {
                items.push(Write {
                    key: peer_key(&Cluster::default(), peer.worker_id()),
                    body: encode(peer)?,
                    writer: Writer::random(),
                    expect: Expect::Absent,
                });
            }
            let written = self.store.write(&self.session, &items).await;
            for (peer, written) in peers.iter().zip(written) {
                let Written::Done(record) = written? else {
                    return Err("a conflict".into());
                };
                self.seen.written.fetch_add(digest(peer), Ordering::Relaxed);
                self.standing.insert(peer.worker_id(), (peer.clone(), record));
            }
        }
        Ok(())
    }

    async fn go(&mut self, count: usize) -> Result<(), Failure> {
        for _ in 0..count {
            let Some((_, (peer, record))) = self.standing.pop_first() else {
                return Ok(());
            };
            let removal = Removal {
                key: record.key,
                writer: record.writer,
                expect: Expect::Version(record.version),
            };
            match self.store.remove(&self.session, &removal).await? {
                Removed::Done => drop(self.seen.written.fetch_sub(digest(&peer), Ordering::Relaxed)),
                Removed::Conflict(_) => return Err("a conflict".into()),
            }
        }
        Ok(())
    }

    /// Writes everybody again, as registrars do after the service has lost its memory.
    async fn again(&mut self) -> Result<(), Failure> {
        self.session = self.store.open(600 * SECOND).await?;
        self.seen.written.store(0, Ordering::Relaxed);
        let peers = std::mem::take(&mut self.standing).into_values();
        self.come(peers.map(|(peer, _)| peer).collect()).await
    }
}

async fn measure(watchers: usize, peers: usize, rate: usize) -> Result<(), Failure> {
    let mut service = Service::start("127.0.0.1:0").await?;
    let config = HttpConfig::try_new(&format!("http://{}", service.address))?.with_timeout(60 * SECOND);
    let system = HttpSystem::connect(config).await?;
    let seen = Seen::new(watchers);
    let mut fleet = Fleet::start(system.records().ok_or("no records")?, seen.clone()).await?;
    println!("{watchers} watchers, {peers} peers; {}", report(&service)?);

    fleet.come(fleet.newcomers(peers)).await?;
    let watching = system
        .peer_discovery()
        .and_then(|peers| peers.watch())
        .ok_or("no watch")?;
    let mut tasks = JoinSet::new();
    for which in 0..watchers {
        tasks.spawn(watch(watching.clone(), which, seen.clone()));
    }
    let took = seen.converge("connecting").await?;
    println!(
        "all connect at once: every view has converged after {took:.2?}; {}",
        report(&service)?
    );

    let (events, before) = (seen.events.load(Ordering::Relaxed), service.usage()?);
    let mut ticks = interval(SECOND / 20);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let each = (rate / 40).max(1);
    for _ in 0..20 * CHURN {
        ticks.tick().await;
        fleet.go(each).await?;
        fleet.come(fleet.newcomers(each)).await?;
    }
    let took = seen.converge("churning").await?;
    let processor = service.usage()?.processor_seconds - before.processor_seconds;
    println!(
        "{} peers come and as many go in {CHURN} s: {} events told; every view has converged {took:.2?} after \
         the last of them; from write to news p50 {:.1} ms, p99 {:.1} ms; service {processor:.1} s of \
         processor time; {}",
        each as u64 * 20 * CHURN,
        seen.events.load(Ordering::Relaxed) - events,
        seen.percentile(0.5),
        seen.percentile(0.99),
        report(&service)?,
    );

    let address = service.address.clone();
    service.child.kill().await?;
    service = Service::start(&address).await?;
    fleet.again().await?;
    let took = seen.converge("restarting").await?;
    println!(
        "service killed, started again, all peers written again: every view has converged after {took:.2?}, \
         {} interruptions told; {}",
        seen.interruptions.load(Ordering::Relaxed),
        report(&service)?,
    );
    tasks.shutdown().await;
    Ok(())
}

fn report(service: &Service) -> Result<String, Failure> {
    let (service, watchers) = (service.usage()?, Usage::of(std::process::id())?);
    Ok(format!(
        "service {} MiB, watchers {} MiB",
        service.resident_mib, watchers.resident_mib
    ))
}
