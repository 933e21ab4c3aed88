//! The twins: stores, systems and harnesses that each break one line.

use std::sync::Arc;

use async_trait::async_trait;
use discovery_conformance::{
    Backend, BadConnection, Connect, Fault, Harness, InProcess, MakeSystem, StoreUnderTest, Timing,
    broken::{Broken, FLAWS, Flaw, SelfishSystem},
};
use discovery_core::{
    Capabilities, Capability, DiscoveryError, DiscoverySystem, ErrorKind, InstanceId, store::RecordStore,
};
use discovery_memory::{MemoryConfig, MemoryStore, MemorySystem};
use discovery_records::Renewing;

use crate::least::Least;

/// A backend that breaks a line of the contract.
pub(crate) struct Twin {
    pub(crate) number: &'static str,
    pub(crate) name: String,
    pub(crate) make: Box<dyn Fn() -> Arc<dyn Harness> + Send + Sync>,
}

/// Every twin.
pub(crate) fn twins() -> Vec<Twin> {
    let stores = FLAWS.iter().map(|(number, flaw)| Twin {
        number,
        name: format!("{flaw:?}"),
        make: Box::new(|| Arc::new(harness(Some(*flaw)))),
    });
    let systems = SYSTEMS.iter().map(|(number, name, make)| Twin {
        number,
        name: (*name).to_owned(),
        make: Box::new(make),
    });
    let doors = DOORS.iter().map(|(number, name, door)| Twin {
        number,
        name: (*name).to_owned(),
        make: Box::new(|| Arc::new(Guarded(*door))),
    });
    stores.chain(systems).chain(doors).collect()
}

/// A backend without a flaw, that declares what the trials of this number need.
pub(crate) fn sound(number: &str) -> Arc<dyn Harness> {
    match number {
        "S5" | "S6" | "S7" => Arc::new(Guarded(SOUND)),
        _ => Arc::new(harness(None)),
    }
}

/// A backend without a flaw that tells no more than it must.
pub(crate) fn least() -> Arc<dyn Harness> {
    Arc::new(InProcess {
        make_store: Box::new(|| {
            let memory = MemoryStore::new();
            StoreUnderTest {
                store: Arc::new(Least(Arc::new(memory.clone()))),
                wipe: Box::new(move || memory.wipe()),
            }
        }),
        ..harness(None)
    })
}

fn harness(flaw: Option<Flaw>) -> InProcess {
    // What a client gets wrong must sit in front of the faults of the backend, the rest behind.
    let of_the_client = flaw.filter(|flaw| flaw.is_of_the_client());
    let of_the_store = flaw.filter(|flaw| !flaw.is_of_the_client());
    InProcess {
        name: "broken",
        capabilities: MemorySystem::declared(),
        make_store: Box::new(move || {
            let memory = MemoryStore::new();
            StoreUnderTest {
                store: broken(Arc::new(memory.clone()), of_the_store),
                wipe: Box::new(move || memory.wipe()),
            }
        }),
        make_system: Arc::new(Box::new(move |store, connect| {
            system(broken(store, of_the_client), connect)
        })),
        texts_with_secret: |_| vec!["nothing to hide".to_owned()],
    }
}

fn broken(store: Arc<dyn RecordStore>, flaw: Option<Flaw>) -> Arc<dyn RecordStore> {
    match flaw {
        Some(flaw) => Arc::new(Broken::new(store, flaw)),
        None => store,
    }
}

fn system(store: Arc<dyn RecordStore>, connect: &Connect) -> Connected {
    let renewing = match connect.own_thread {
        true => Renewing::OwnThread,
        false => Renewing::Shared,
    };
    let config = MemoryConfig::default()
        .with_cluster(connect.cluster.clone())
        .with_view(connect.view)
        .with_renewing(renewing)
        .with_ttl(connect.ttl);
    Ok(Arc::new(MemorySystem::with_store(&config, store)?))
}

/// What connecting comes to.
type Connected = Result<Arc<dyn DiscoverySystem>, DiscoveryError>;

type Make = fn() -> Arc<dyn Harness>;

/// Systems that break what their stores keep.
const SYSTEMS: &[(&str, &str, Make)] = &[
    ("S1", "VendsUndeclared", || {
        let capabilities = MemorySystem::declared().without(Capability::List);
        let harness = harness(None);
        Arc::new(InProcess {
            capabilities,
            ..harness
        })
    }),
    ("S3", "SpawnsWhenDropped", || with_system(selfish)),
    ("S4", "TakesAlongWhenDropped", || with_system(selfish)),
    ("S5", "ConnectsWithoutLooking", || {
        let capabilities = MemorySystem::declared().with(Capability::ServerRestart);
        let harness = harness(None);
        Arc::new(InProcess {
            capabilities,
            ..harness
        })
    }),
    ("S8", "ShowsSecrets", || {
        let texts_with_secret = |secret: &str| vec![format!("cannot log in as {secret}")];
        let harness = harness(None);
        Arc::new(InProcess {
            texts_with_secret,
            ..harness
        })
    }),
    ("R16", "RenewsWhereItIsCalled", || {
        with_system(|store, connect| {
            let own_thread = false;
            system(
                store,
                &Connect {
                    own_thread,
                    ..connect.clone()
                },
            )
        })
    }),
    ("W8", "NeverHolds", || {
        with_system(|store, connect| holding(store, connect, false))
    }),
    ("W8", "AlwaysHolds", || {
        with_system(|store, connect| holding(store, connect, true))
    }),
];

fn holding(store: Arc<dyn RecordStore>, connect: &Connect, hold_mass_removals: bool) -> Connected {
    let mut connect = connect.clone();
    connect.view.hold_mass_removals = hold_mass_removals;
    system(store, &connect)
}

fn selfish(store: Arc<dyn RecordStore>, connect: &Connect) -> Connected {
    Ok(Arc::new(SelfishSystem(system(store, connect)?)))
}

fn with_system(make: fn(Arc<dyn RecordStore>, &Connect) -> Connected) -> Arc<dyn Harness> {
    let make_system: MakeSystem = Box::new(make);
    Arc::new(InProcess {
        make_system: Arc::new(make_system),
        ..harness(None)
    })
}

/// What guards a backend: who is let in although nobody should be, and what the others are told.
#[derive(Clone, Copy)]
struct Door {
    refusal: fn(BadConnection) -> Option<DiscoveryError>,
    rotation_locks_out: bool,
}

const SOUND: Door = Door {
    refusal: |bad| {
        let (kind, why) = match bad {
            BadConnection::WrongCredentials => {
                (ErrorKind::PermissionDenied, "these credentials are not known")
            }
            BadConnection::PlaintextToTls => (ErrorKind::InvalidConfig, "the port speaks TLS"),
            BadConnection::TlsToPlaintext => (ErrorKind::InvalidConfig, "the port does not speak TLS"),
            _ => (ErrorKind::PermissionDenied, "the certificate is not valid"),
        };
        Some(DiscoveryError::new(kind, why))
    },
    rotation_locks_out: false,
};

/// Backends whose doors are not shut, or do not say why they are.
const DOORS: &[(&str, &str, Door)] = &[
    ("S6", "LetsAnybodyIn", OPEN),
    ("S6", "DoesNotSayWhy", SILENT),
    (
        "S6",
        "RotationLocksOut",
        Door {
            rotation_locks_out: true,
            ..SOUND
        },
    ),
    ("S7", "TrustsAnybody", OPEN),
    ("S7", "DoesNotSayWhy", SILENT),
];

const OPEN: Door = Door {
    refusal: |_| None,
    ..SOUND
};
const SILENT: Door = Door {
    refusal: |_| {
        Some(DiscoveryError::new(
            ErrorKind::Unavailable,
            "the connection was closed",
        ))
    },
    ..SOUND
};

/// A backend that declares that it has a door.
struct Guarded(Door);

#[async_trait]
impl Harness for Guarded {
    fn name(&self) -> &str {
        "guarded"
    }

    fn timing(&self) -> Timing {
        Timing::Virtual
    }

    fn capabilities(&self) -> Capabilities {
        MemorySystem::declared()
            .with(Capability::ServerRestart)
            .with(Capability::Authentication)
            .with(Capability::Tls)
    }

    async fn start(&self) -> Result<Box<dyn Backend>, String> {
        let inner = harness(None).start().await?;
        Ok(Box::new(Guard { inner, door: self.0 }))
    }

    fn texts_with_secret(&self, secret: &str) -> Vec<String> {
        harness(None).texts_with_secret(secret)
    }
}

struct Guard {
    inner: Box<dyn Backend>,
    door: Door,
}

#[async_trait]
impl Backend for Guard {
    async fn connect(&self, connect: &Connect) -> Connected {
        let system = self.inner.connect(connect).await?;
        // In memory nothing is there to connect to: a lookup tells whether it answers.
        let peers = system.peer_discovery().expect("it registers");
        let looked = peers.discover_by_instance_id(InstanceId::new_v4()).await;
        match looked {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(system),
        }
    }

    fn connect_lazy(&self, connect: &Connect) -> Connected {
        self.inner.connect_lazy(connect)
    }

    async fn connect_badly(&self, connect: &Connect, bad: BadConnection) -> Connected {
        match (self.door.refusal)(bad) {
            Some(refusal) => Err(refusal.with_system("guarded")),
            None => self.inner.connect(connect).await,
        }
    }

    async fn rotate_credentials(&self) {
        if self.door.rotation_locks_out {
            self.inner.fault(Fault::Cut).await;
        }
    }

    async fn fault(&self, fault: Fault) {
        self.inner.fault(fault).await;
    }

    fn watches(&self) -> Option<usize> {
        self.inner.watches()
    }
}
