//! The connected system.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use discovery_core::{
    Bounds, Capabilities, Capability, Cluster, DiscoveryError, DiscoverySystem, peer::PeerDiscovery,
    store::RecordStore,
};
use discovery_records::{OpenStore, RecordSystem, RecordSystemConfig, Renewing};

use crate::{
    config::{DEFAULT_TTL, HttpConfig},
    error::SYSTEM,
    store::HttpStore,
    wire,
};

/// Discovery over an HTTP service.
///
/// Lookups share one pool of connections, driven by the runtime that makes them; renewal has
/// a connection of its own, on a thread of its own.
#[derive(Debug)]
pub struct HttpSystem {
    config: HttpConfig,
    store: HttpStore,
    records: RecordSystem,
}

impl HttpSystem {
    /// Connects: checks, within the connect deadline, that a discovery service answers. A
    /// service that is still warming up counts.
    ///
    /// # Errors
    /// `InvalidConfig`: a value cannot work, or what answers there is no discovery service.
    /// `Unavailable`, `Timeout`: nothing answers there.
    pub async fn connect(config: HttpConfig) -> Result<Self, DiscoveryError> {
        let system = Self::connect_lazy(config)?;
        system.store.check(system.config.connect_timeout()).await?;
        Ok(system)
    }

    /// Connects with the first call: the service may be down for now.
    ///
    /// # Errors
    /// `InvalidConfig` naming the value that cannot work.
    pub fn connect_lazy(config: HttpConfig) -> Result<Self, DiscoveryError> {
        let store = HttpStore::try_new(&config)?;
        let records = records(&config, &store, Renewing::OwnThread);
        Ok(Self {
            config,
            store,
            records,
        })
    }

    /// Chooses who drives renewal, a thread of its own unless chosen. To be called before
    /// anything is registered: what was registered earlier is given up.
    #[must_use]
    pub fn with_renewing(mut self, renewing: Renewing) -> Self {
        self.records = records(&self.config, &self.store, renewing);
        self
    }

    /// What an HTTP system declares unless configured otherwise. Of one that is, the bound on a
    /// silent watch is two of its keep-alives.
    #[must_use]
    pub fn declared() -> Capabilities {
        declared(wire::DEFAULT_KEEP_ALIVE)
    }
}

fn declared(keep_alive: Duration) -> Capabilities {
    let bounds = Bounds {
        min_ttl: Duration::from_secs(1),
        default_ttl: DEFAULT_TTL,
        expiry_slack: Duration::from_secs(1),
        propagation: Duration::from_millis(500),
        watch_silence: 2 * keep_alive,
    };
    Capabilities::new(bounds)
        .with(Capability::Register)
        .with(Capability::Watch)
        .with(Capability::List)
        .with(Capability::Expiry)
        .with(Capability::StrongCollision)
        .with(Capability::MultiProcess)
        .with(Capability::ServerRestart)
}

fn records(config: &HttpConfig, store: &HttpStore, renewing: Renewing) -> RecordSystem {
    let parts = RecordSystemConfig {
        name: SYSTEM.to_owned(),
        source: config.base_url().to_owned(),
        cluster: config.cluster().clone(),
        capabilities: declared(config.keep_alive()),
        ttl: config.ttl(),
        renewing,
        view: config.view(),
    };
    let config = config.clone();
    // A connection belongs to the runtime that drives it, so renewal opens its own.
    let open_store: OpenStore = Box::new(move || {
        let store = HttpStore::try_new(&config).map(|store| Arc::new(store) as Arc<dyn RecordStore>);
        Box::pin(async move { store })
    });
    RecordSystem::new(parts, Arc::new(store.clone()), open_store)
}

#[async_trait]
impl DiscoverySystem for HttpSystem {
    fn name(&self) -> &str {
        self.records.name()
    }

    fn cluster(&self) -> &Cluster {
        self.records.cluster()
    }

    fn capabilities(&self) -> &Capabilities {
        self.records.capabilities()
    }

    fn peer_discovery(&self) -> Option<Arc<dyn PeerDiscovery>> {
        self.records.peer_discovery()
    }

    fn records(&self) -> Option<Arc<dyn RecordStore>> {
        self.records.records()
    }

    async fn shutdown(&self, deadline: Duration) -> Result<(), DiscoveryError> {
        self.records.shutdown(deadline).await
    }
}
