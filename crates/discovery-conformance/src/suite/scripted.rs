//! Sources that answer as a trial tells them, in front of a real one.

use std::{
    collections::VecDeque,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use discovery_core::{
    DiscoveryError, ErrorKind, InstanceId, PeerInfo, WorkerAddress, WorkerId,
    peer::{PeerDiscovery, PeerEvent, PeerEvents, PeerWatch, Registration},
};
use futures_util::stream;
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};

/// What a source does with a lookup.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Asks the real source.
    Real,
    /// Answers with this peer, whatever was asked.
    Give(PeerInfo),
    /// Says that there is no such peer.
    NotFound,
    /// Fails.
    Fail(ErrorKind),
    /// Never answers.
    Hang,
    /// Crashes.
    Panic,
}

/// An answer that waits for its trial.
pub(crate) type Gate = oneshot::Sender<Act>;

/// A source with a script.
#[derive(Debug)]
pub(crate) struct Scripted {
    name: String,
    real: Arc<dyn PeerDiscovery>,
    act: Mutex<Act>,
    gates: Mutex<VecDeque<oneshot::Receiver<Act>>>,
    delay: Mutex<Duration>,
    refuse_registration: Mutex<Option<ErrorKind>>,
    watch: Mutex<Option<Arc<dyn PeerWatch>>>,
    calls: AtomicU64,
    under_way: AtomicU64,
    most_at_once: AtomicU64,
}

/// A lookup under way.
struct UnderWay<'a>(&'a AtomicU64);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Scripted {
    pub(crate) fn new(name: &str, real: Arc<dyn PeerDiscovery>) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            real,
            act: Mutex::new(Act::Real),
            gates: Mutex::default(),
            delay: Mutex::default(),
            refuse_registration: Mutex::default(),
            watch: Mutex::default(),
            calls: AtomicU64::new(0),
            under_way: AtomicU64::new(0),
            most_at_once: AtomicU64::new(0),
        })
    }

    /// What lookups get from now on.
    pub(crate) fn act(&self, act: Act) {
        *self.act.lock().expect("not poisoned") = act;
    }

    /// The next lookup without a gate yet waits for what the gate is told.
    pub(crate) fn gate(&self) -> Gate {
        let (gate, waiting) = oneshot::channel();
        self.gates.lock().expect("not poisoned").push_back(waiting);
        gate
    }

    /// How long each answer takes.
    pub(crate) fn delay(&self, delay: Duration) {
        *self.delay.lock().expect("not poisoned") = delay;
    }

    /// Fails registrations.
    pub(crate) fn refuse_registration(&self, kind: ErrorKind) {
        *self.refuse_registration.lock().expect("not poisoned") = Some(kind);
    }

    /// From now on it vends the watch of the real source; without, it has none, as what it
    /// answers has nothing to do with what the real source would tell.
    pub(crate) fn watch_for_real(&self) {
        *self.watch.lock().expect("not poisoned") = self.real.watch();
    }

    /// From now on it vends a watch that tells what it is told.
    pub(crate) fn watch_as_told(&self) -> Teller {
        let (teller, told) = mpsc::channel(16);
        let told = Told(Mutex::new(Some(told)));
        *self.watch.lock().expect("not poisoned") = Some(Arc::new(told));
        teller
    }

    /// How many ids were looked up.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// The most lookups that were under way at once.
    pub(crate) fn most_at_once(&self) -> u64 {
        self.most_at_once.load(Ordering::Relaxed)
    }

    async fn next(&self) -> Act {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let at_once = self.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        let _under_way = UnderWay(&self.under_way);
        self.most_at_once.fetch_max(at_once, Ordering::Relaxed);
        let gate = self.gates.lock().expect("not poisoned").pop_front();
        let delay = *self.delay.lock().expect("not poisoned");
        if !delay.is_zero() {
            sleep(delay).await;
        }
        let act = match gate {
            Some(gate) => gate.await.unwrap_or(Act::Hang),
            None => self.act.lock().expect("not poisoned").clone(),
        };
        match act {
            Act::Hang => pending().await,
            Act::Panic => panic!("as scripted"),
            act => act,
        }
    }

    fn error(&self, kind: ErrorKind) -> DiscoveryError {
        DiscoveryError::new(kind, "as scripted").with_system(self.name.as_str())
    }
}

#[async_trait]
impl PeerDiscovery for Scripted {
    fn name(&self) -> &str {
        &self.name
    }

    async fn discover_by_worker_id(&self, id: WorkerId) -> Result<PeerInfo, DiscoveryError> {
        match self.next().await {
            Act::Give(peer) => Ok(peer),
            Act::NotFound => Err(self.error(ErrorKind::NotFound)),
            Act::Fail(kind) => Err(self.error(kind)),
            Act::Real | Act::Hang | Act::Panic => self.real.discover_by_worker_id(id).await,
        }
    }

    async fn discover_by_instance_id(&self, id: InstanceId) -> Result<PeerInfo, DiscoveryError> {
        match self.next().await {
            Act::Give(peer) => Ok(peer),
            Act::NotFound => Err(self.error(ErrorKind::NotFound)),
            Act::Fail(kind) => Err(self.error(kind)),
            Act::Real | Act::Hang | Act::Panic => self.real.discover_by_instance_id(id).await,
        }
    }

    async fn discover_many(&self, ids: &[WorkerId]) -> Vec<Result<PeerInfo, DiscoveryError>> {
        let mut answers = Vec::new();
        for id in ids {
            answers.push(self.discover_by_worker_id(*id).await);
        }
        answers
    }

    async fn register_instance(
        &self,
        id: InstanceId,
        address: WorkerAddress,
    ) -> Result<Registration, DiscoveryError> {
        let refused = *self.refuse_registration.lock().expect("not poisoned");
        match refused {
            // Not every source names itself.
            Some(kind) => Err(DiscoveryError::new(kind, "as scripted")),
            None => self.real.register_instance(id, address).await,
        }
    }

    async fn unregister_instance(&self, id: InstanceId) -> Result<(), DiscoveryError> {
        self.real.unregister_instance(id).await
    }

    fn watch(&self) -> Option<Arc<dyn PeerWatch>> {
        self.watch.lock().expect("not poisoned").clone()
    }
}

/// What a watch is told to tell.
pub(crate) type Teller = mpsc::Sender<PeerEvent>;

/// A watch that tells what it is told, once.
#[derive(Debug)]
struct Told(Mutex<Option<mpsc::Receiver<PeerEvent>>>);

#[async_trait]
impl PeerWatch for Told {
    async fn list_peers(&self) -> Result<Vec<PeerInfo>, DiscoveryError> {
        Err(DiscoveryError::new(ErrorKind::Unsupported, "as scripted"))
    }

    async fn watch_peers(&self) -> Result<PeerEvents, DiscoveryError> {
        let told = self.0.lock().expect("not poisoned").take();
        let told = told.ok_or_else(|| DiscoveryError::new(ErrorKind::Unavailable, "as scripted"))?;
        Ok(Box::pin(stream::unfold(told, |mut told| async move {
            told.recv().await.map(|event| (event, told))
        })))
    }
}
