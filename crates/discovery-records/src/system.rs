//! A discovery system over any record store.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use discovery_core::{
    Capabilities, Capability, Cluster, DiscoveryError, DiscoverySystem, peer::PeerDiscovery,
    store::RecordStore,
};

use crate::{OpenStore, Registrar, RegistrarConfig, Renewing, peer::RecordPeers, view::ViewConfig};

/// What a [`RecordSystem`] is made of, beside its store.
#[derive(Clone, Debug)]
pub struct RecordSystemConfig {
    /// The backend's name, as in its URL scheme.
    pub name: String,
    /// What messages and answers call this connection: the name, and where it leads to.
    pub source: String,
    /// The cluster that this connection sees.
    pub cluster: Cluster,
    /// What the backend declares.
    pub capabilities: Capabilities,
    /// The time to live to ask for.
    pub ttl: Duration,
    /// Where renewal runs.
    pub renewing: Renewing,
    /// How watches distrust what they are told.
    pub view: ViewConfig,
}

/// A [`DiscoverySystem`] over a record store: what record-keeping backends wrap.
#[derive(Debug)]
pub struct RecordSystem {
    config: RecordSystemConfig,
    store: Arc<dyn RecordStore>,
    registrar: Registrar,
}

impl RecordSystem {
    /// Looks things up and registers in the same `store`: for one that belongs to no runtime.
    pub fn sharing(config: RecordSystemConfig, store: Arc<dyn RecordStore>) -> Self {
        let renewed = store.clone();
        let open_store = Box::new(move || {
            let store = renewed.clone();
            Box::pin(async move { Ok(store) }) as _
        });
        Self::new(config, store, open_store)
    }

    /// Looks things up in `store`; registers through a store that `open_store` opens where
    /// renewal runs, once the first registration needs it.
    pub fn new(config: RecordSystemConfig, store: Arc<dyn RecordStore>, open_store: OpenStore) -> Self {
        let registrar = Registrar::new(
            RegistrarConfig::new(config.source.clone(), config.ttl).with_renewing(config.renewing),
            open_store,
        );
        Self {
            config,
            store,
            registrar,
        }
    }
}

#[async_trait]
impl DiscoverySystem for RecordSystem {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn cluster(&self) -> &Cluster {
        &self.config.cluster
    }

    fn capabilities(&self) -> &Capabilities {
        &self.config.capabilities
    }

    fn peer_discovery(&self) -> Option<Arc<dyn PeerDiscovery>> {
        let RecordSystemConfig {
            source,
            cluster,
            capabilities,
            ttl,
            view,
            ..
        } = &self.config;
        let mut peers = RecordPeers::new(
            source.as_str(),
            cluster.clone(),
            self.store.clone(),
            self.registrar.clone(),
        );
        if capabilities.has(Capability::List) && capabilities.has(Capability::Watch) {
            peers = peers.with_watch(*view, *ttl);
        }
        capabilities
            .has(Capability::Register)
            .then(|| Arc::new(peers) as _)
    }

    fn records(&self) -> Option<Arc<dyn RecordStore>> {
        Some(self.store.clone())
    }

    async fn shutdown(&self, deadline: Duration) -> Result<(), DiscoveryError> {
        let ended = self.registrar.shutdown(deadline).await;
        ended.map_err(|error| {
            error
                .with_operation("shutdown")
                .with_system(self.config.source.as_str())
        })
    }
}
