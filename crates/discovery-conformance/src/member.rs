//! Members: other owners of registrations, that can be killed and paused.
//!
//! Where the backend can be reached by several processes, a member is a real process: the test
//! binary, executed again. Elsewhere it is a system in this process behind a gate.

use std::{process::Stdio, sync::Arc, time::Duration};

use async_trait::async_trait;
use discovery_core::{
    Capabilities, Cluster, DiscoverySystem, ErrorKind, PeerInfo, WorkerAddress,
    peer::{PeerDiscovery, Registration},
};
use discovery_records::view::ViewConfig;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::watch,
};

use crate::{
    Backend, Connect, Faulty, Harness, Mode,
    trial::{eventually, system_over},
};

/// Tells the test binary that it is a member.
const ENV: &str = "DISCOVERY_CONFORMANCE_MEMBER";

/// How a member's registration stands, as far as it told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// It has not said anything yet.
    Starting,
    /// Its registration changed to this state.
    State(String),
    /// It could not register; the code of the error's kind.
    Failed(String),
    /// It has ended.
    Ended,
}

impl MemberState {
    /// Whether the registration stands.
    #[must_use]
    pub fn is_live(&self) -> bool {
        *self == Self::State("live".to_owned())
    }
}

/// Another owner of a registration.
#[async_trait]
pub trait Member: Send + Sync {
    /// How its registration stands.
    fn state(&self) -> MemberState;
    /// Ends it without a chance to say goodbye.
    fn kill(&self);
    /// Makes it stand still.
    fn pause(&self);
    /// Lets it go on.
    fn resume(&self);
    /// Lets it unregister and end.
    async fn leave(&mut self);
}

#[derive(Serialize, Deserialize)]
struct Orders {
    endpoint: String,
    cluster: String,
    ttl_ms: u64,
    instance: String,
    address: Vec<u8>,
}

/// Starts a member that registers this peer, and waits until it has told how that went.
pub(crate) async fn start(
    backend: &dyn Backend,
    capabilities: &Capabilities,
    connect: &Connect,
    peer: &PeerInfo,
) -> Box<dyn Member> {
    let member: Box<dyn Member> = match backend.endpoint() {
        Some(endpoint) => Box::new(ProcessMember::start(endpoint, connect, peer)),
        None => Box::new(LocalMember::start(backend, capabilities, connect, peer).await),
    };
    eventually(Duration::from_secs(20), || async {
        member.state() != MemberState::Starting
    })
    .await;
    member
}

/// If this process was started as a member, is one until told to leave; whether it was.
pub(crate) fn be_one(harness: &Arc<dyn Harness>) -> bool {
    let Ok(orders) = std::env::var(ENV) else {
        return false;
    };
    let orders: Orders = serde_json::from_str(&orders).expect("orders are JSON");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(serve(harness, orders));
    true
}

async fn serve(harness: &Arc<dyn Harness>, orders: Orders) {
    let tell = |state: &MemberState| println!("{}", serde_json::to_string(state).expect("states are JSON"));
    let backend = harness
        .attach(&orders.endpoint)
        .expect("the endpoint was given by the test");
    let connect = Connect {
        cluster: Cluster::try_new(&orders.cluster).expect("a valid cluster"),
        ttl: Duration::from_millis(orders.ttl_ms),
        own_thread: false,
        view: ViewConfig::default(),
    };
    let id = orders.instance.parse().expect("a valid instance");
    let address = WorkerAddress::from_bytes(&orders.address);
    let registered = match backend.connect(&connect).await {
        Ok(system) => discovery(&*system).register_instance(id, address).await,
        Err(error) => Err(error),
    };
    let registration = match registered {
        Ok(registration) => registration,
        Err(error) => return tell(&MemberState::Failed(error.kind().code().to_owned())),
    };
    let mut observer = registration.observer();
    tell(&MemberState::State(observer.state().to_string()));
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            state = observer.changed() => tell(&MemberState::State(state.to_string())),
            _ = input.next_line() => break,
        }
    }
    let _ = registration.unregister().await;
}

fn discovery(system: &dyn DiscoverySystem) -> Arc<dyn PeerDiscovery> {
    system
        .peer_discovery()
        .expect("members need a system that registers")
}

/// A member that is a process.
struct ProcessMember {
    child: Child,
    pid: Pid,
    input: Option<ChildStdin>,
    state: watch::Receiver<MemberState>,
}

impl ProcessMember {
    fn start(endpoint: String, connect: &Connect, peer: &PeerInfo) -> Self {
        let orders = Orders {
            endpoint,
            cluster: connect.cluster.to_string(),
            ttl_ms: u64::try_from(connect.ttl.as_millis()).expect("a short TTL"),
            instance: peer.instance_id().to_string(),
            address: peer.address().as_bytes().to_vec(),
        };
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .env(ENV, serde_json::to_string(&orders).expect("orders are JSON"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("a member process");
        let pid = child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
            .expect("a process id");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let (told, state) = watch::channel(MemberState::Starting);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Ok(state) = serde_json::from_str(&line) {
                    told.send_replace(state);
                }
            }
            told.send_if_modified(|state| {
                let failed = matches!(state, MemberState::Failed(_));
                if !failed {
                    *state = MemberState::Ended;
                }
                !failed
            });
        });
        Self {
            input: child.stdin.take(),
            pid,
            child,
            state,
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("a member that lives");
    }
}

#[async_trait]
impl Member for ProcessMember {
    fn state(&self) -> MemberState {
        self.state.borrow().clone()
    }

    fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn pause(&self) {
        self.signal(Signal::STOP);
    }

    fn resume(&self) {
        self.signal(Signal::CONT);
    }

    async fn leave(&mut self) {
        if let Some(mut input) = self.input.take() {
            let _ = input.write_all(b"leave\n").await;
        }
        self.child.wait().await.expect("a member that ends");
    }
}

/// A member in this process, behind a gate.
struct LocalMember {
    gate: Arc<Faulty>,
    _system: Arc<dyn DiscoverySystem>,
    registration: Option<Result<Registration, ErrorKind>>,
}

impl LocalMember {
    async fn start(
        backend: &dyn Backend,
        capabilities: &Capabilities,
        connect: &Connect,
        peer: &PeerInfo,
    ) -> Self {
        let through = backend.connect(connect).await.expect("a backend to connect to");
        let gate = Arc::new(Faulty::new(through.records().expect("a record store")));
        let system = system_over(gate.clone(), capabilities, connect);
        let registered = discovery(&*system)
            .register_instance(peer.instance_id(), peer.address().clone())
            .await;
        let registration = Some(registered.map_err(|error| error.kind()));
        Self {
            gate,
            _system: system,
            registration,
        }
    }
}

#[async_trait]
impl Member for LocalMember {
    fn state(&self) -> MemberState {
        match &self.registration {
            None => MemberState::Ended,
            Some(Ok(registration)) => MemberState::State(registration.state().to_string()),
            Some(Err(kind)) => MemberState::Failed(kind.code().to_owned()),
        }
    }

    fn kill(&self) {
        // Nothing that it sends from now on arrives.
        self.gate.set(Mode::Freeze);
    }

    fn pause(&self) {
        self.gate.set(Mode::Freeze);
    }

    fn resume(&self) {
        self.gate.set(Mode::Pass);
    }

    async fn leave(&mut self) {
        if let Some(Ok(registration)) = self.registration.take() {
            let _ = registration.unregister().await;
        }
    }
}
