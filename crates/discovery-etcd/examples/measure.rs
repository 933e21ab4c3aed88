//! Measures this crate against the vendor's client, on one server and in one run.
//!
//! ```sh
//! cargo run --release -p discovery-etcd --example measure
//! ```
//!
//! Starts an etcd of its own; see `discovery_conformance::servers` for how it is found. Every
//! figure is a ratio to what the vendor's client needs for the same, except for counts.

use std::{collections::BTreeMap, error::Error, sync::Arc, time::Duration};

use discovery_conformance::servers::EtcdServer;
use discovery_core::{
    Cluster, DiscoverySystem, InstanceId, PeerInfo, WorkerAddress, WorkerId,
    peer::{PeerDiscovery, manager::PeerDiscoveryManager},
};
use discovery_etcd::{EtcdConfig, EtcdSystem};
use discovery_records::peer::{decode, encode, peer_key};
use etcd_client::{Client, GetOptions, PutOptions, Txn, TxnOp};
use futures_util::{StreamExt, future::join_all, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};

type Failure = Box<dyn Error + Send + Sync>;

/// Operations that the vendor's client sends in one transaction: the server's limit.
const BATCH: usize = 128;
/// Requests that this crate has in flight for one batched read.
const IN_FLIGHT: usize = 64;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let server = EtcdServer::start().await?;
    let raw = Client::connect([server.address().to_string()], None).await?;
    let version = raw.clone().status().await?.version().to_owned();
    println!("etcd {version}; the server and both clients share this machine\n");
    println!("{:<68} {:>8} {:>8}", "", "measured", "target");
    let bench = Bench { server, raw };
    bench.cold_lookups().await?;
    bench.batched_lookups().await?;
    bench.registrations().await?;
    bench.renewals(1).await?;
    bench.renewals(10_000).await?;
    bench.list().await
}

struct Bench {
    server: EtcdServer,
    raw: Client,
}

fn line(what: &str, measured: f64, target: &str) {
    println!("{what:<68} {measured:>8.2} {target:>8}");
}

fn ratio(this: Duration, that: Duration) -> f64 {
    this.as_secs_f64() / that.as_secs_f64()
}

fn median(mut spans: Vec<Duration>) -> Duration {
    spans.sort_unstable();
    spans[spans.len() / 2]
}

fn newcomers(count: usize) -> Vec<PeerInfo> {
    let newcomer = |_| {
        PeerInfo::new(
            InstanceId::new_v4(),
            WorkerAddress::from_bytes("tcp://10.0.0.1:5555"),
        )
    };
    (0..count).map(newcomer).collect()
}

fn raw_key(cluster: &Cluster, id: WorkerId) -> String {
    format!("/discovery/{}", peer_key(cluster, id))
}

/// A peer as this crate keeps it.
fn raw_value(peer: &PeerInfo) -> Result<Vec<u8>, Failure> {
    let mut value = encode(peer)?.to_vec();
    value.extend_from_slice(format!("\n{:032x}", 7).as_bytes());
    Ok(value)
}

impl Bench {
    async fn connect(&self, cluster: &Cluster, ttl: Duration) -> Result<EtcdSystem, Failure> {
        let config = EtcdConfig::try_new(&format!("etcd://{}", self.server.address()))?;
        let config = config.with_cluster(cluster.clone()).with_ttl(ttl);
        Ok(EtcdSystem::connect(config.with_timeout(Duration::from_secs(30))).await?)
    }

    async fn peers(&self, cluster: &Cluster) -> Result<Arc<dyn PeerDiscovery>, Failure> {
        let system = self.connect(cluster, Duration::from_secs(10)).await?;
        system.peer_discovery().ok_or_else(|| "no peers".into())
    }

    /// Writes peers with the vendor's client alone, in full transactions; how long that took.
    async fn fill(&self, cluster: &Cluster, peers: &[PeerInfo]) -> Result<Duration, Failure> {
        let lease = self.raw.clone().lease_grant(3_600, None).await?.id();
        let mut parts = Vec::new();
        for part in peers.chunks(BATCH) {
            let mut puts = Vec::with_capacity(part.len());
            for peer in part {
                let options = PutOptions::new().with_lease(lease);
                let key = raw_key(cluster, peer.worker_id());
                puts.push(TxnOp::put(key, raw_value(peer)?, Some(options)));
            }
            let mut raw = self.raw.clone();
            parts.push(async move { raw.txn(Txn::new().and_then(puts)).await });
        }
        let begun = Instant::now();
        let written: Vec<_> = stream::iter(parts).buffer_unordered(4).collect().await;
        for outcome in written {
            outcome?;
        }
        Ok(begun.elapsed())
    }

    /// P8: one lookup at a time, in turns.
    async fn cold_lookups(&self) -> Result<(), Failure> {
        let (cluster, all) = (Cluster::try_new("cold")?, newcomers(2_000));
        self.fill(&cluster, &all).await?;
        let peers = self.peers(&cluster).await?;
        let builder = PeerDiscoveryManager::builder().source(peers.clone());
        let manager = builder.fresh_for(Duration::ZERO).watch(false).build().await?;
        let (mut by_raw, mut by_peers, mut by_manager) = (Vec::new(), Vec::new(), Vec::new());
        let mut raw = self.raw.clone();
        for peer in &all {
            let id = peer.worker_id();
            let begun = Instant::now();
            raw.get(raw_key(&cluster, id), None).await?;
            by_raw.push(begun.elapsed());
            let begun = Instant::now();
            peers.discover_by_worker_id(id).await?;
            by_peers.push(begun.elapsed());
            let begun = Instant::now();
            manager.discover_by_worker_id(id).await?;
            by_manager.push(begun.elapsed());
        }
        manager.shutdown(Duration::from_secs(5)).await?;
        let (raw, peers, manager) = (median(by_raw), median(by_peers), median(by_manager));
        println!("P8  one get of the vendor's client: {raw:?} (p50)");
        line(
            "    a lookup of this crate / that get, p50",
            ratio(peers, raw),
            "<= 1.05",
        );
        line(
            "    a miss of the manager / that get, p50",
            ratio(manager, raw),
            "<= 1.05",
        );
        Ok(())
    }

    /// P16: many ids at once, against one get per key with as many requests in flight.
    async fn batched_lookups(&self) -> Result<(), Failure> {
        let (cluster, all) = (Cluster::try_new("batch")?, newcomers(10_000));
        self.fill(&cluster, &all).await?;
        let peers = self.peers(&cluster).await?;
        let ids: Vec<_> = all.iter().map(PeerInfo::worker_id).collect();
        let (mut singly, mut batched) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let begun = Instant::now();
            self.get_singly(&cluster, &ids).await?;
            singly.push(begun.elapsed());
            let begun = Instant::now();
            let found = peers.discover_many(&ids).await;
            batched.push(begun.elapsed());
            found.into_iter().collect::<Result<Vec<_>, _>>()?;
        }
        let (singly, batched) = (median(singly), median(batched));
        println!("P16 10,000 ids: one get per key {singly:?}, discover_many {batched:?}");
        line(
            "    rate of discover_many / of one get per key",
            ratio(singly, batched),
            ">= 3",
        );
        Ok(())
    }

    async fn get_singly(&self, cluster: &Cluster, ids: &[WorkerId]) -> Result<(), Failure> {
        let gets = ids.iter().map(|id| {
            let (mut raw, key) = (self.raw.clone(), raw_key(cluster, *id));
            async move { raw.get(key, None).await }
        });
        let answers: Vec<_> = stream::iter(gets).buffer_unordered(IN_FLIGHT).collect().await;
        for answer in answers {
            answer?;
        }
        Ok(())
    }

    /// P11: many registrations of one process.
    async fn registrations(&self) -> Result<(), Failure> {
        let all = newcomers(10_000);
        let raw = self.fill(&Cluster::try_new("raw")?, &all).await?;
        let system = self
            .connect(&Cluster::try_new("register")?, Duration::from_secs(10))
            .await?;
        let begun = Instant::now();
        let registered = register(&system, &all).await?;
        let took = begun.elapsed();
        println!("P11 10,000 records: full transactions {raw:?}, registered {took:?}");
        line(
            "    rate of registering / of full transactions",
            ratio(raw, took),
            ">= 0.5",
        );
        drop(registered);
        system.shutdown(Duration::from_secs(30)).await?;
        Ok(())
    }

    /// P14: requests of an idle process.
    async fn renewals(&self, count: usize) -> Result<(), Failure> {
        let ttl = Duration::from_secs(3);
        let system = self
            .connect(&Cluster::try_new(format!("idle-{count}"))?, ttl)
            .await?;
        let registered = register(&system, &newcomers(count)).await?;
        sleep(ttl).await;
        let before = self.requests().await?;
        sleep(ttl * 5).await;
        let after = self.requests().await?;
        let new = |method: &str| after.get(method).unwrap_or(&0) - before.get(method).unwrap_or(&0);
        let requests: u64 = after.keys().map(|method| new(method)).sum();
        line(
            &format!("P14 requests per renewal, {count} registered"),
            requests as f64 / new("LeaseKeepAlive") as f64,
            "<= 2",
        );
        drop(registered);
        system.shutdown(Duration::from_secs(30)).await?;
        Ok(())
    }

    /// How many requests of each method the server has begun to work on.
    async fn requests(&self) -> Result<BTreeMap<String, u64>, Failure> {
        let mut stream = TcpStream::connect(self.server.address()).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let counts = text.lines().filter_map(|line| {
            let (labels, count) = line.strip_prefix("grpc_server_started_total")?.rsplit_once(' ')?;
            let method = labels.split("grpc_method=\"").nth(1)?.split('"').next()?;
            Some((method.to_owned(), count.parse::<f64>().ok()? as u64))
        });
        Ok(counts.collect())
    }

    /// P10: everybody, decoded, against one read of everything.
    async fn list(&self) -> Result<(), Failure> {
        let (cluster, all) = (Cluster::try_new("list")?, newcomers(100_000));
        self.fill(&cluster, &all).await?;
        let watch = self.peers(&cluster).await?.watch().ok_or("no list")?;
        let (mut by_raw, mut by_list) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let begun = Instant::now();
            let read = self.read_all(&cluster).await?;
            by_raw.push(begun.elapsed());
            let begun = Instant::now();
            let listed = watch.list_peers().await?;
            by_list.push(begun.elapsed());
            assert_eq!((read.len(), listed.len()), (all.len(), all.len()));
        }
        let (raw, list) = (median(by_raw), median(by_list));
        println!("P10 100,000 peers: one unpaged read, decoded, {raw:?}; list_peers {list:?}");
        line("    list_peers / that read", ratio(list, raw), "<= 1.7");
        Ok(())
    }

    async fn read_all(&self, cluster: &Cluster) -> Result<Vec<PeerInfo>, Failure> {
        let mut kv = self.raw.kv_client().max_decoding_message_size(usize::MAX);
        let prefix = format!("/discovery/{cluster}/peers/");
        let answer = kv.get(prefix, Some(GetOptions::new().with_prefix())).await?;
        let mut peers = Vec::with_capacity(answer.kvs().len());
        for kv in answer.kvs() {
            let id: WorkerId = kv.key_str()?.rsplit('/').next().unwrap_or_default().parse()?;
            let body = &kv.value()[..kv.value().len() - 33];
            peers.push(decode(&peer_key(cluster, id), body)?);
        }
        Ok(peers)
    }
}

async fn register(
    system: &EtcdSystem,
    all: &[PeerInfo],
) -> Result<Vec<discovery_core::peer::Registration>, Failure> {
    let peers = system.peer_discovery().ok_or("no peers")?;
    let registering = all
        .iter()
        .map(|peer| peers.register_instance(peer.instance_id(), peer.address().clone()));
    let registered = join_all(registering).await;
    Ok(registered.into_iter().collect::<Result<_, _>>()?)
}
