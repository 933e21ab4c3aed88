//! Measures how one service tells many watchers of many peers that change.
//!
//! ```sh
//! cargo run --release -p discovery-http --features server --example fanout -- [WATCHERS [PEERS [CHANGES_PER_SECOND]]]
//! ```
//!
//! The service is a process of its own; all watchers share another one with the peers.

use std::{
    collections::HashMap,
    fs,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use discovery_core::{
    Cluster, DiscoveryError,
    store::{Change, Expect, Record, RecordKey, RecordStore, Session, Write, Writer, Written},
};
use discovery_http::{
    HttpConfig, HttpStore,
    server::{Server, ServerConfig},
};
use discovery_memory::MemoryStore;
use futures_util::StreamExt;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    runtime::Handle,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

const SERVE: &str = "DISCOVERY_HTTP_FANOUT_SERVER";
const SECOND: Duration = Duration::from_secs(1);
/// How long peers change one by one.
const CHURN: u64 = 20;
/// An address and what else an envelope holds come to about this.
const BODY_BYTES: usize = 200;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    if std::env::var_os(SERVE).is_some() {
        return serve().await;
    }
    let numbers: Vec<usize> = std::env::args()
        .skip(1)
        .map(|text| text.parse())
        .collect::<Result<_, _>>()?;
    let number = |index: usize, default| numbers.get(index).copied().unwrap_or(default);
    measure(number(0, 1_000), number(1, 1_000), number(2, 200)).await
}

/// Serves until its input ends.
async fn serve() -> Result<(), Failure> {
    let (store, _pauses) = MemoryStore::forgiving_pauses(&Handle::current());
    let config = ServerConfig {
        listen: "127.0.0.1:0".parse()?,
        ..ServerConfig::default()
    };
    let server = Server::start(config, Arc::new(store)).await?;
    println!("{}", server.local_addr());
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    while let Some(_line) = input.next_line().await? {}
    Ok(())
}

async fn start() -> Result<(Child, String), Failure> {
    let mut child = Command::new(std::env::current_exe()?)
        .env(SERVE, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let output = child.stdout.take().ok_or("no output")?;
    let address = BufReader::new(output).lines().next_line().await?;
    Ok((child, address.ok_or("the service did not start")?))
}

/// What the watchers saw.
struct Seen {
    start: Instant,
    /// How many records each of them must have in the newest round.
    peers: usize,
    resets: AtomicUsize,
    puts: AtomicU64,
    /// Watchers that have everything of a round.
    complete: [AtomicUsize; 3],
    /// Microseconds from write to news, by power of two quarters.
    delays: Vec<AtomicU64>,
}

impl Seen {
    fn delay(&self, micros: u64) {
        let bucket = ((micros.max(1) as f64).log2() * 8.0) as usize;
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

    fn reset_delays(&self) {
        for count in &self.delays {
            count.store(0, Ordering::Relaxed);
        }
    }
}

fn prefix() -> Result<RecordKey, DiscoveryError> {
    RecordKey::try_new(&Cluster::default(), "peers", &[])
}

/// Round, time of writing, and what else there is.
fn body(round: u64, start: Instant) -> Bytes {
    let mut body = format!("{round} {} ", start.elapsed().as_micros());
    body.extend(std::iter::repeat_n('x', BODY_BYTES - body.len()));
    body.into()
}

async fn watch(store: HttpStore, seen: Arc<Seen>) -> Result<(), DiscoveryError> {
    let mut changes = store.watch(&prefix()?, None).await?;
    let mut rounds: HashMap<RecordKey, u64> = HashMap::new();
    let mut counts = [0; 3];
    while let Some(change) = changes.next().await {
        let records: Vec<Record> = match change? {
            Change::Reset { records, .. } => {
                seen.resets.fetch_add(1, Ordering::Relaxed);
                rounds.clear();
                counts = [0; 3];
                records.to_vec()
            }
            Change::Put(record) => {
                seen.puts.fetch_add(1, Ordering::Relaxed);
                vec![record]
            }
            _ => continue,
        };
        let now = seen.start.elapsed().as_micros() as u64;
        let news = records.len() == 1;
        for record in records {
            let text = String::from_utf8_lossy(&record.body);
            let mut words = text.split(' ').map_while(|word| word.parse::<u64>().ok());
            let (Some(round), Some(written)) = (words.next(), words.next()) else {
                continue;
            };
            if news {
                seen.delay(now.saturating_sub(written));
            }
            let before = rounds.insert(record.key, round);
            if before != Some(round)
                && let Some(count) = counts.get_mut(round as usize)
            {
                *count += 1;
                if *count == seen.peers {
                    seen.complete[round as usize].fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
    Ok(())
}

/// Counts the bytes of one watch as they come.
async fn count_bytes(address: String, bytes: Arc<AtomicU64>) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let request = b"GET /v1/clusters/default/watch/peers HTTP/1.1\r\nhost: h\r\n\r\n";
    stream.write_all(request).await?;
    let mut piece = vec![0; 65_536];
    loop {
        let length = stream.read(&mut piece).await?;
        bytes.fetch_add(length as u64, Ordering::Relaxed);
        if length == 0 {
            return Ok(());
        }
    }
}

/// Registers or changes peers.
async fn write(store: &HttpStore, session: &Session, items: Vec<Write>) -> Result<Vec<Record>, Failure> {
    let answers = store.write(session, &items).await.into_iter();
    let records = answers.map(|answer| match answer? {
        Written::Done(record) => Ok(record),
        Written::Conflict(_) => Err("a conflict".into()),
    });
    records.collect()
}

fn replace(record: &Record, round: u64, start: Instant) -> Write {
    Write {
        key: record.key.clone(),
        body: body(round, start),
        writer: record.writer,
        expect: Expect::Version(record.version.clone()),
    }
}

/// Resident memory in MiB, and processor time in seconds.
fn usage(pid: u32) -> Result<(u64, f64), Failure> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = rss.ok_or("no VmRSS")?.trim().trim_end_matches(" kB").parse()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let times = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = times.skip(11).take(2).flat_map(str::parse::<f64>).sum();
    Ok((kib / 1_024, ticks / 100.0))
}

async fn until(limit: Duration, what: &str, mut done: impl FnMut() -> bool) -> Result<Duration, Failure> {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > limit {
            return Err(format!("{what}: not within {limit:?}").into());
        }
        sleep(Duration::from_millis(2)).await;
    }
    Ok(start.elapsed())
}

async fn measure(watchers: usize, peers: usize, rate: usize) -> Result<(), Failure> {
    let (child, address) = start().await?;
    let pid = child.id().ok_or("no service")?;
    let config = HttpConfig::try_new(&format!("http://{address}"))?.with_timeout(60 * SECOND);
    let store = HttpStore::try_new(&config)?;
    let session = store.open(600 * SECOND).await?;
    let seen = Arc::new(Seen {
        start: Instant::now(),
        peers,
        resets: AtomicUsize::new(0),
        puts: AtomicU64::new(0),
        complete: Default::default(),
        delays: (0..320).map(|_| AtomicU64::new(0)).collect(),
    });
    println!(
        "{watchers} watchers, {peers} peers, service alone: {} MiB",
        usage(pid)?.0
    );

    let mut items = Vec::new();
    for number in 0..peers {
        items.push(Write {
            key: prefix()?.child(&format!("{number:016x}"))?,
            body: body(0, seen.start),
            writer: Writer::random(),
            expect: Expect::Absent,
        });
    }
    let mut records = write(&store, &session, items).await?;

    let mut tasks = JoinSet::new();
    for _ in 0..watchers {
        let (store, seen) = (store.clone(), seen.clone());
        tasks.spawn(async move {
            if let Err(error) = watch(store, seen).await {
                eprintln!("a watch ended: {error}");
            }
        });
    }
    let took = until(120 * SECOND, "first snapshots", || {
        seen.resets.load(Ordering::Relaxed) >= watchers
    })
    .await?;
    report(
        pid,
        &format!("all connect at once; everybody has all peers after {took:?}"),
    )?;

    let bytes = Arc::new(AtomicU64::new(0));
    let counting = bytes.clone();
    tasks.spawn(async move {
        let _ = count_bytes(address, counting).await;
    });
    sleep(SECOND).await;
    let (before, cpu, puts) = (
        bytes.load(Ordering::Relaxed),
        usage(pid)?.1,
        seen.puts.load(Ordering::Relaxed),
    );
    let mut ticks = interval(SECOND / 20);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let each = (rate / 20).max(1);
    let mut next = 0;
    for _ in 0..20 * CHURN {
        ticks.tick().await;
        let chosen: Vec<usize> = (0..each).map(|offset| (next + offset) % peers).collect();
        next += each;
        let items = chosen
            .iter()
            .map(|index| replace(&records[*index], 1, seen.start))
            .collect();
        for (index, record) in chosen.iter().zip(write(&store, &session, items).await?) {
            records[*index] = record;
        }
    }
    let changes = each as u64 * 20 * CHURN;
    let wanted = puts + changes * watchers as u64;
    let late = until(60 * SECOND, "churn", || {
        seen.puts.load(Ordering::Relaxed) >= wanted
    })
    .await?;
    let told = bytes.load(Ordering::Relaxed) - before;
    println!(
        "{changes} changes in {CHURN} s, one after the other: written as text once each, {told} bytes; \
         told {} times, {} MiB",
        changes * watchers as u64,
        told * watchers as u64 / 1_048_576,
    );
    println!(
        "  from write to news: p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms; the last {late:?} after the end",
        seen.percentile(0.5),
        seen.percentile(0.99),
        seen.percentile(0.999),
    );
    println!("  service: {:.1} s of processor time", usage(pid)?.1 - cpu);
    report(pid, "while they change")?;

    seen.reset_delays();
    let cpu = usage(pid)?.1;
    let start = Instant::now();
    let items = records
        .iter()
        .map(|record| replace(record, 2, seen.start))
        .collect();
    write(&store, &session, items).await?;
    until(120 * SECOND, "burst", || {
        seen.complete[2].load(Ordering::Relaxed) >= watchers
    })
    .await?;
    println!(
        "all peers change at once: everybody knows after {:?}; service {:.1} s of processor time; p50 {:.1} ms",
        start.elapsed(),
        usage(pid)?.1 - cpu,
        seen.percentile(0.5),
    );
    report(
        pid,
        &format!("{} resets in all", seen.resets.load(Ordering::Relaxed)),
    )?;
    tasks.shutdown().await;
    Ok(())
}

fn report(pid: u32, what: &str) -> Result<(), Failure> {
    let (service, watchers) = (usage(pid)?.0, usage(std::process::id())?.0);
    println!("{what}: service {service} MiB, watchers {watchers} MiB");
    Ok(())
}
