//! The connected system.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use discovery_core::{
    Bounds, Capabilities, Capability, Cluster, DiscoveryError, DiscoverySystem, peer::PeerDiscovery,
    store::RecordStore,
};
use discovery_records::{OpenStore, RecordSystem, RecordSystemConfig, Renewing};

use crate::{
    config::{DEFAULT_TTL, EtcdConfig},
    error::SYSTEM,
    store::EtcdStore,
    watch,
};

/// Discovery over etcd.
///
/// Lookups share one connection per server, driven by the runtime that makes them; renewal has
/// connections of its own, on a thread of its own; each watch has one.
#[derive(Debug)]
pub struct EtcdSystem {
    config: EtcdConfig,
    store: EtcdStore,
    records: RecordSystem,
}

impl EtcdSystem {
    /// Connects: checks, within the connect deadline, that one of the servers answers.
    ///
    /// # Errors
    /// `InvalidConfig`: a value cannot work, a file that is named cannot be read, or one side
    /// speaks TLS and the other does not. `Unavailable`: no server can be reached, or none has a
    /// certificate that is to be trusted. `Timeout`: no server answers. `PermissionDenied`: the
    /// servers do not believe who asks, want to know it, or want a certificate.
    pub async fn connect(config: EtcdConfig) -> Result<Self, DiscoveryError> {
        let system = Self::connect_lazy(config)?;
        let (cluster, limit) = (system.config.cluster(), system.config.connect_timeout());
        system.store.check(cluster.as_str(), limit).await?;
        Ok(system)
    }

    /// Connects with the first call: the servers may be down for now, and files that are named
    /// are not read yet.
    ///
    /// # Errors
    /// `InvalidConfig` naming the value that cannot work.
    pub fn connect_lazy(config: EtcdConfig) -> Result<Self, DiscoveryError> {
        let store = EtcdStore::try_new(&config)?;
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

    /// What an etcd system declares.
    ///
    /// The smallest time to live is that of servers with default timing, and the slack that of
    /// servers that run: after a restart, a pause or a change of their leader every lease has
    /// its whole time to live again.
    #[must_use]
    pub fn declared() -> Capabilities {
        let bounds = Bounds {
            min_ttl: Duration::from_secs(2),
            default_ttl: DEFAULT_TTL,
            expiry_slack: Duration::from_millis(1_500),
            propagation: Duration::from_millis(500),
            watch_silence: watch::SILENCE,
        };
        Capabilities::new(bounds)
            .with(Capability::Register)
            .with(Capability::Watch)
            .with(Capability::List)
            .with(Capability::Expiry)
            .with(Capability::StrongCollision)
            .with(Capability::MultiProcess)
            .with(Capability::Authentication)
            .with(Capability::Tls)
            .with(Capability::ServerRestart)
    }
}

fn records(config: &EtcdConfig, store: &EtcdStore, renewing: Renewing) -> RecordSystem {
    let parts = RecordSystemConfig {
        name: SYSTEM.to_owned(),
        source: config.source(),
        cluster: config.cluster().clone(),
        capabilities: EtcdSystem::declared(),
        ttl: config.ttl(),
        renewing,
        view: config.view(),
    };
    let config = config.clone();
    // A connection belongs to the runtime that drives it, so renewal opens its own.
    let open_store: OpenStore = Box::new(move || {
        let store = EtcdStore::try_new(&config).map(|store| Arc::new(store) as Arc<dyn RecordStore>);
        Box::pin(async move { store })
    });
    RecordSystem::new(parts, Arc::new(store.clone()), open_store)
}

#[async_trait]
impl DiscoverySystem for EtcdSystem {
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
