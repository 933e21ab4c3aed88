//! What trials are made of.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use discovery_core::{
    Bounds, Capabilities, Capability, Cluster, DiscoveryError, DiscoverySystem, InstanceId, PeerInfo,
    WorkerAddress,
    peer::{PeerDiscovery, Registration},
    store::{Expect, Record, RecordKey, RecordStore, Session, Write, Writer, Written},
};
use discovery_records::{
    RecordSystem, RecordSystemConfig, Renewing,
    peer::{encode, peer_key},
    view::ViewConfig,
};
use tokio::time::{Instant, sleep};

use crate::{Backend, Connect, Fault, Faulty, Harness, Member, Timing, member};

/// Two instances with one worker id: `xxh3_64` of 16 bytes can be inverted.
pub(crate) const COLLIDING: [&str; 2] = [
    "b93942ea-7b73-8267-d59f-3d805cf975ae",
    "b81a078d-f2d8-4f88-3a52-96093bbc56af",
];

/// Once told to stop, how much longer than declared something may take before a trial calls it
/// late: scheduling on a busy machine.
const GRACE: Duration = Duration::from_millis(400);

/// A trial: a numbered line of the contract, and how to try it.
#[derive(Clone, Copy)]
pub(crate) struct Trial {
    pub(crate) suite: &'static str,
    pub(crate) number: &'static str,
    pub(crate) name: &'static str,
    pub(crate) needs: &'static [Capability],
    /// Whether it must not run on a paused clock.
    pub(crate) real_time: bool,
    pub(crate) run: fn(Ctx) -> Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Lists trials: `"R1" name needs [Register]`.
macro_rules! trials {
    ($suite:literal: $($number:literal $name:ident [$($need:ident),*] $($real:ident)?;)*) => {
        /// The trials of this suite.
        pub(crate) const TRIALS: &[$crate::trial::Trial] = &[$(
            $crate::trial::Trial {
                suite: $suite,
                number: $number,
                name: stringify!($name),
                needs: &[$(discovery_core::Capability::$need),*],
                real_time: trials!(@real $($real)?),
                run: |ctx| Box::pin($name(ctx)),
            },
        )*];
    };
    (@real real_time) => { true };
    (@real) => { false };
}
pub(crate) use trials;

/// What a trial works with: a backend of its own and a cluster of its own.
#[derive(Clone)]
pub(crate) struct Ctx {
    pub(crate) harness: Arc<dyn Harness>,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) cluster: Cluster,
}

impl Ctx {
    pub(crate) fn capabilities(&self) -> Capabilities {
        self.harness.capabilities()
    }

    pub(crate) fn bounds(&self) -> Bounds {
        self.capabilities().bounds()
    }

    /// The TTL that trials use: short, but on a real clock not so short that a busy machine
    /// misses a renewal.
    pub(crate) fn ttl(&self) -> Duration {
        match self.harness.timing() {
            Timing::Virtual => self.bounds().min_ttl,
            Timing::Real => self.bounds().min_ttl.max(Duration::from_secs(2)),
        }
    }

    /// By when something that was written must be seen.
    pub(crate) fn propagation(&self) -> Duration {
        self.bounds().propagation + GRACE
    }

    /// By when a lost registration must be back: one renewal interval and 2 s.
    pub(crate) fn recovery(&self) -> Duration {
        self.ttl() / 3 + Duration::from_secs(2) + self.propagation()
    }

    /// By when a killed owner's record must be gone.
    pub(crate) fn expiry(&self) -> Duration {
        self.ttl() + self.bounds().expiry_slack + GRACE
    }

    /// Longer than anything waits between two attempts; on a real clock as long as is bearable.
    pub(crate) fn long_outage(&self) -> Duration {
        match self.harness.timing() {
            Timing::Virtual => Duration::from_secs(600),
            Timing::Real => self.ttl() * 2,
        }
    }

    /// A TTL whose third is much more than 2 s; on a real clock as long as is bearable.
    pub(crate) fn long_ttl(&self) -> Duration {
        match self.harness.timing() {
            Timing::Virtual => Duration::from_secs(60),
            Timing::Real => self.ttl() * 2,
        }
    }

    pub(crate) fn how(&self) -> Connect {
        Connect {
            cluster: self.cluster.clone(),
            ttl: self.ttl(),
            own_thread: false,
            view: ViewConfig::default(),
        }
    }

    pub(crate) async fn connect(&self) -> Arc<dyn DiscoverySystem> {
        self.backend
            .connect(&self.how())
            .await
            .expect("the backend is there")
    }

    pub(crate) async fn peers(&self) -> Arc<dyn PeerDiscovery> {
        peers_of(&*self.connect().await)
    }

    /// The raw store, over a connection of its own.
    pub(crate) async fn store(&self) -> Arc<dyn RecordStore> {
        self.connect().await.records().expect("a record store")
    }

    /// A system over the backend's store with faults on demand in between.
    pub(crate) async fn faulty(&self) -> (Arc<Faulty>, Arc<dyn DiscoverySystem>) {
        self.faulty_with(&self.how()).await
    }

    /// The same, connected in another way.
    pub(crate) async fn faulty_with(&self, how: &Connect) -> (Arc<Faulty>, Arc<dyn DiscoverySystem>) {
        let faulty = Arc::new(Faulty::new(self.store().await));
        let system = system_over(faulty.clone(), &self.capabilities(), how);
        (faulty, system)
    }

    /// A TTL after which no trial waits: what goes within it does not go by expiring, and not
    /// by a renewal either.
    pub(crate) fn how_for_long(&self) -> Connect {
        Connect {
            ttl: Duration::from_secs(600).max(self.ttl()),
            ..self.how()
        }
    }

    pub(crate) async fn member(&self, peer: &PeerInfo) -> Box<dyn Member> {
        member::start(&*self.backend, &self.capabilities(), &self.how(), peer).await
    }

    pub(crate) async fn fault(&self, fault: Fault) {
        self.backend.fault(fault).await;
    }

    /// The record that stands for a peer.
    pub(crate) async fn standing(&self, peer: &PeerInfo) -> Option<Record> {
        let key = peer_key(&self.cluster, peer.worker_id());
        self.store()
            .await
            .get(&[key])
            .await
            .remove(0)
            .expect("the store answers")
    }

    pub(crate) fn key(&self, peer: &PeerInfo) -> RecordKey {
        peer_key(&self.cluster, peer.worker_id())
    }

    /// Puts a record there by hand, on a session that nobody renews.
    pub(crate) async fn plant(&self, key: &RecordKey, body: impl Into<Bytes>) -> (Session, Record) {
        let store = self.store().await;
        let session = store.open(Duration::from_secs(600)).await.expect("a session");
        let item = Write {
            key: key.clone(),
            body: body.into(),
            writer: Writer::random(),
            expect: Expect::Absent,
        };
        match store.write(&session, &[item]).await.remove(0) {
            Ok(Written::Done(record)) => (session, record),
            other => panic!("{key} cannot be planted: {other:?}"),
        }
    }

    /// Puts a peer there by hand.
    pub(crate) async fn plant_peer(&self, peer: &PeerInfo) -> (Session, Record) {
        self.plant(&self.key(peer), encode(peer).expect("a valid peer"))
            .await
    }

    /// Removes whatever stands for a peer, by hand.
    pub(crate) async fn delete(&self, peer: &PeerInfo) {
        use discovery_core::store::{Removal, Removed};
        let store = self.store().await;
        let session = store.open(Duration::from_secs(600)).await.expect("a session");
        let Some(Record {
            key, writer, version, ..
        }) = self.standing(peer).await
        else {
            return;
        };
        let removal = Removal {
            key,
            writer,
            expect: Expect::Version(version),
        };
        let removed = store.remove(&session, &removal).await;
        assert!(matches!(removed, Ok(Removed::Done)), "{removed:?}");
    }

    /// Waits until a peer is found, by both ids, at its address.
    pub(crate) async fn found_within(&self, limit: Duration, peer: &PeerInfo) {
        let peers = self.peers().await;
        eventually(limit, || async {
            let by_worker = peers.discover_by_worker_id(peer.worker_id()).await;
            let by_instance = peers.discover_by_instance_id(peer.instance_id()).await;
            by_worker.is_ok_and(|found| found == *peer) && by_instance.is_ok_and(|found| found == *peer)
        })
        .await;
    }

    /// Waits until the backend says that a peer is not there.
    pub(crate) async fn gone_within(&self, limit: Duration, peer: &PeerInfo) {
        let peers = self.peers().await;
        eventually(limit, || async { is_absent(&*peers, peer).await }).await;
    }

    /// Checks again and again that something stays true.
    pub(crate) async fn stays<F, T>(&self, span: Duration, what: &str, check: F)
    where
        F: Fn() -> T,
        T: Future<Output = bool>,
    {
        let until = Instant::now() + span;
        while Instant::now() < until {
            assert!(check().await, "{what}");
            sleep(Duration::from_millis(25)).await;
        }
    }
}

/// Whether the backend was asked and said that there is no such peer, by either id.
pub(crate) async fn is_absent(peers: &dyn PeerDiscovery, peer: &PeerInfo) -> bool {
    use discovery_core::ErrorKind::NotFound;
    let by_worker = peers.discover_by_worker_id(peer.worker_id()).await;
    let by_instance = peers.discover_by_instance_id(peer.instance_id()).await;
    by_worker.is_err_and(|error| error.kind() == NotFound)
        && by_instance.is_err_and(|error| error.kind() == NotFound)
}

pub(crate) fn peers_of(system: &dyn DiscoverySystem) -> Arc<dyn PeerDiscovery> {
    system.peer_discovery().expect("the system registers peers")
}

/// Registers a peer through a system.
pub(crate) async fn register(
    system: &dyn DiscoverySystem,
    peer: &PeerInfo,
) -> Result<Registration, DiscoveryError> {
    peers_of(system)
        .register_instance(peer.instance_id(), peer.address().clone())
        .await
}

/// A system over any store, renewing where the trial runs.
pub(crate) fn system_over(
    store: Arc<dyn RecordStore>,
    capabilities: &Capabilities,
    connect: &Connect,
) -> Arc<dyn DiscoverySystem> {
    let config = RecordSystemConfig {
        name: "trial".to_owned(),
        source: "trial".to_owned(),
        cluster: connect.cluster.clone(),
        capabilities: capabilities.clone(),
        ttl: connect.ttl,
        renewing: if connect.own_thread {
            Renewing::OwnThread
        } else {
            Renewing::Shared
        },
        view: connect.view,
    };
    Arc::new(RecordSystem::sharing(config, store))
}

/// A peer that nobody else is.
pub(crate) fn peer() -> PeerInfo {
    PeerInfo::new(
        InstanceId::new_v4(),
        WorkerAddress::from_bytes("tcp://127.0.0.1:5555"),
    )
}

/// Peers that nobody else is, each with a body for its key that no release may take for it:
/// no envelope, of another version or kind, or contradicting itself or its key.
pub(crate) fn unreadable() -> Vec<(PeerInfo, Vec<u8>)> {
    let bodies: [&[u8]; 6] = [
        b"",
        b"not json",
        b"{}",
        b"\xff\xfe",
        br#"{"v":2,"kind":"peer","data":{}}"#,
        &encode(&peer()).expect("a valid peer"),
    ];
    let mut all: Vec<_> = bodies.map(|body| (peer(), body.to_vec())).into();
    // Whole but for one thing.
    let changes = [
        ("\"v\":1", "\"v\":2"),
        ("\"kind\":\"peer\"", "\"kind\":\"shard\""),
        (":5555", ":5556"),
        ("\"address\":", "\"address_base64\":\"eA==\",\"address\":"),
        ("\"instance_id\":\"", "\"instance_id\":\"x"),
    ];
    for (from, to) in changes {
        let peer = peer();
        let body = String::from_utf8(encode(&peer).expect("a valid peer").to_vec()).expect("JSON");
        assert!(body.contains(from), "{body} has no {from}");
        all.push((peer, body.replace(from, to).into_bytes()));
    }
    // An address that nobody could have registered.
    for address in [vec![], vec![b'x'; 4_097]] {
        let (peer, address) = (peer(), WorkerAddress::from_bytes(address));
        let body = format!(
            r#"{{"v":1,"kind":"peer","data":{{"instance_id":"{}","address":"{address}","checksum":"{:016x}"}}}}"#,
            peer.instance_id(),
            address.checksum()
        );
        all.push((peer, body.into_bytes()));
    }
    all
}

/// One of the two instances that share a worker id, at this address.
pub(crate) fn colliding(which: usize, address: &str) -> PeerInfo {
    PeerInfo::new(
        COLLIDING[which].parse().expect("a valid id"),
        WorkerAddress::from_bytes(address),
    )
}

/// Waits until `check` holds; fails the trial if it does not within `limit`.
pub(crate) async fn eventually<F, T>(limit: Duration, check: F)
where
    F: Fn() -> T,
    T: Future<Output = bool>,
{
    let begun = Instant::now();
    loop {
        if check().await {
            return;
        }
        assert!(begun.elapsed() <= limit, "not within {limit:?}");
        sleep(Duration::from_millis(10)).await;
    }
}
