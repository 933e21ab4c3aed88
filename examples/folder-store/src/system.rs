//! The connected system.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use discovery_core::{
    Bounds, Capabilities, Capability, Cluster, DiscoveryError, DiscoverySystem, limit::CALL_DEADLINE,
    peer::PeerDiscovery, store::RecordStore,
};
use discovery_records::{RecordSystem, RecordSystemConfig, Renewing};

use crate::{
    FolderConfig, FolderStore,
    store::{POLL_EVERY, source},
};

/// Discovery by files in a folder.
#[derive(Debug)]
pub struct FolderSystem(RecordSystem);

impl FolderSystem {
    /// Connects: checks that the folder is there and can be locked and written.
    ///
    /// # Errors
    /// `InvalidConfig` naming the value; `Unavailable`, `Timeout`: the folder cannot be used.
    pub async fn connect(config: FolderConfig) -> Result<Self, DiscoveryError> {
        let system = Self::connect_lazy(&config)?;
        FolderStore::new(config.path()).check().await?;
        Ok(system)
    }

    /// Connects with the first call: the folder may be missing for now.
    ///
    /// # Errors
    /// `InvalidConfig` naming the value.
    pub fn connect_lazy(config: &FolderConfig) -> Result<Self, DiscoveryError> {
        config.validate()?;
        let store: Arc<dyn RecordStore> = Arc::new(FolderStore::new(config.path()));
        let parts = RecordSystemConfig {
            name: "folder".to_owned(),
            source: source(config.path()),
            cluster: config.cluster().clone(),
            capabilities: Self::declared(),
            ttl: config.ttl(),
            // An application that blocks its threads stays registered.
            renewing: Renewing::OwnThread,
            view: config.view(),
        };
        Ok(Self(RecordSystem::sharing(parts, store)))
    }

    /// What every folder system declares.
    #[must_use]
    pub fn declared() -> Capabilities {
        let bounds = Bounds {
            min_ttl: Duration::from_secs(1),
            default_ttl: FolderConfig::DEFAULT_TTL,
            // How far the wall clocks of machines that share a folder may be apart.
            expiry_slack: Duration::from_secs(1),
            // Who asks sees it at once, who watches by the next list.
            propagation: POLL_EVERY * 2,
            // A list that nobody answers, and the wait before it.
            watch_silence: POLL_EVERY + CALL_DEADLINE,
        };
        Capabilities::new(bounds)
            .with(Capability::Register)
            .with(Capability::Watch)
            .with(Capability::List)
            .with(Capability::Expiry)
            .with(Capability::StrongCollision)
            .with(Capability::MultiProcess)
            // A call that is given up goes on in its thread.
            .with(Capability::ClientQueue)
    }
}

#[async_trait]
impl DiscoverySystem for FolderSystem {
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
