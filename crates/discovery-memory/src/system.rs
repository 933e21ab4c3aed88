//! The connected system.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use discovery_core::{
    Bounds, Capabilities, Capability, Cluster, DiscoveryError, DiscoverySystem, peer::PeerDiscovery,
    store::RecordStore,
};
use discovery_records::{RecordSystem, RecordSystemConfig};

use crate::{MemoryConfig, MemoryStore, named};

/// Discovery within one process.
#[derive(Debug)]
pub struct MemorySystem(RecordSystem);

impl MemorySystem {
    /// Connects, which involves no I/O.
    ///
    /// # Errors
    /// `InvalidConfig` naming the key.
    pub fn connect(config: MemoryConfig) -> Result<Self, DiscoveryError> {
        config.validate()?;
        let store = config.store_name().map_or_else(MemoryStore::new, named::store);
        Self::with_store(&config, Arc::new(store))
    }

    /// Connects to a store that the caller made.
    ///
    /// # Errors
    /// `InvalidConfig` naming the key.
    pub fn with_store(config: &MemoryConfig, store: Arc<dyn RecordStore>) -> Result<Self, DiscoveryError> {
        config.validate()?;
        let parts = RecordSystemConfig {
            name: "memory".to_owned(),
            source: config
                .store_name()
                .map_or("memory".to_owned(), |name| format!("memory://{name}")),
            cluster: config.cluster().clone(),
            capabilities: Self::declared(),
            ttl: config.ttl(),
            renewing: config.renewing(),
            view: config.view(),
        };
        Ok(Self(RecordSystem::sharing(parts, store)))
    }

    /// What every memory system declares.
    #[must_use]
    pub fn declared() -> Capabilities {
        let bounds = Bounds {
            min_ttl: Duration::from_secs(1),
            default_ttl: MemoryConfig::DEFAULT_TTL,
            expiry_slack: Duration::ZERO,
            propagation: Duration::ZERO,
            watch_silence: Duration::ZERO,
        };
        Capabilities::new(bounds)
            .with(Capability::Register)
            .with(Capability::Watch)
            .with(Capability::List)
            .with(Capability::Expiry)
            .with(Capability::StrongCollision)
    }
}

#[async_trait]
impl DiscoverySystem for MemorySystem {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn cluster(&self) -> &Cluster {
        self.0.cluster()
    }

    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }

    fn peer_discovery(&self) -> Option<Arc<dyn PeerDiscovery>> {
        self.0.peer_discovery()
    }

    fn records(&self) -> Option<Arc<dyn RecordStore>> {
        self.0.records()
    }

    async fn shutdown(&self, deadline: Duration) -> Result<(), DiscoveryError> {
        self.0.shutdown(deadline).await
    }
}
