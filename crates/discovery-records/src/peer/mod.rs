//! Peers as records: one record per peer, keyed by worker id.
//!
//! Because the worker id is derived from the instance id, one key answers both lookups and
//! create-if-absent on that key is all that collision detection needs.

mod codec;
mod object;
mod watch;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use discovery_core::{
    Cluster, DiscoveryError, ErrorKind, InstanceId, PeerInfo, WorkerAddress, WorkerId,
    peer::{PeerDiscovery, PeerEvents, PeerWatch, Registration},
    store::{Record, RecordKey, RecordStore},
};

pub use self::{
    codec::{decode, encode},
    object::PeerObject,
};
use crate::{
    Intent, Registrar,
    view::{self, ViewConfig},
};

/// The prefix of all peers of a cluster.
///
/// # Panics
/// Never: the cluster is valid and the kind is a constant.
#[must_use]
pub fn peers_prefix(cluster: &Cluster) -> RecordKey {
    RecordKey::try_new(cluster, "peers", &[]).expect("constant segments are valid")
}

/// The key of one peer.
///
/// # Panics
/// Never: a worker id is a valid segment.
#[must_use]
pub fn peer_key(cluster: &Cluster, id: WorkerId) -> RecordKey {
    peers_prefix(cluster)
        .child(&id.to_string())
        .expect("hex digits are valid")
}

/// Whether `standing` is this peer: the same instance at the same address.
///
/// # Errors
/// What stands there instead: `WorkerIdCollision`, `ChecksumMismatch`, or `Malformed`.
pub fn judge(peer: &PeerInfo, key: &RecordKey, standing: &[u8]) -> Result<(), DiscoveryError> {
    let other = decode(key, standing)?;
    if other.instance_id() != peer.instance_id() {
        let context = format!(
            "instance {} is registered under worker id {}, so instance {} cannot be",
            other.instance_id(),
            peer.worker_id(),
            peer.instance_id()
        );
        return Err(DiscoveryError::new(ErrorKind::WorkerIdCollision, context));
    }
    if other.address() != peer.address() {
        let context = format!(
            "instance {} is registered with an address of checksum {:016x}, not {:016x}",
            peer.instance_id(),
            other.address().checksum(),
            peer.address().checksum()
        );
        return Err(DiscoveryError::new(ErrorKind::ChecksumMismatch, context));
    }
    Ok(())
}

/// Lists the peers of a cluster, page by page.
///
/// # Errors
/// Those of [`RecordStore::list`]. Records that cannot be read are skipped and logged.
pub async fn list(store: &dyn RecordStore, cluster: &Cluster) -> Result<Vec<PeerInfo>, DiscoveryError> {
    let (records, mut skipped) = view::list(store, &peers_prefix(cluster)).await?;
    let mut peers = Vec::with_capacity(records.len());
    for Record { key, body, .. } in &records {
        match decode(key, body) {
            Ok(peer) => peers.push(peer),
            Err(error) => {
                skipped += 1;
                tracing::debug!(target: "discovery", %key, %error, "skipped a record");
            }
        }
    }
    if skipped > 0 {
        tracing::warn!(target: "discovery", %cluster, skipped, "skipped records that are no peers");
    }
    Ok(peers)
}

/// [`PeerDiscovery`] over a record store.
#[derive(Clone, Debug)]
pub struct RecordPeers {
    system: Arc<str>,
    cluster: Cluster,
    store: Arc<dyn RecordStore>,
    registrar: Registrar,
    watching: Option<(ViewConfig, Duration)>,
}

impl RecordPeers {
    /// Peers of a cluster, looked up in `store` and registered through `registrar`; without
    /// the view of all peers.
    pub fn new(
        system: impl Into<Arc<str>>,
        cluster: Cluster,
        store: Arc<dyn RecordStore>,
        registrar: Registrar,
    ) -> Self {
        Self {
            system: system.into(),
            cluster,
            store,
            registrar,
            watching: None,
        }
    }

    /// Vends the view of all peers, too; their records live for `ttl`.
    #[must_use]
    pub fn with_watch(mut self, config: ViewConfig, ttl: Duration) -> Self {
        self.watching = Some((config, ttl));
        self
    }

    fn read(
        &self,
        key: &RecordKey,
        found: Result<Option<Record>, DiscoveryError>,
    ) -> Result<PeerInfo, DiscoveryError> {
        let not_found = || {
            let context = format!(
                "no peer with worker id {} in cluster {}",
                key.last(),
                self.cluster
            );
            DiscoveryError::new(ErrorKind::NotFound, context)
        };
        found
            .and_then(|record| record.ok_or_else(not_found))
            .and_then(|record| decode(key, &record.body))
            .map_err(|error| self.failed("lookup", error))
    }

    fn failed(&self, operation: &'static str, error: DiscoveryError) -> DiscoveryError {
        error.with_operation(operation).with_system(self.system.clone())
    }
}

#[async_trait]
impl PeerDiscovery for RecordPeers {
    fn name(&self) -> &str {
        &self.system
    }

    async fn discover_by_worker_id(&self, id: WorkerId) -> Result<PeerInfo, DiscoveryError> {
        let key = peer_key(&self.cluster, id);
        let found = self
            .store
            .get(std::slice::from_ref(&key))
            .await
            .pop()
            .unwrap_or_else(|| Err(unanswered()));
        self.read(&key, found)
    }

    async fn discover_by_instance_id(&self, id: InstanceId) -> Result<PeerInfo, DiscoveryError> {
        let peer = self.discover_by_worker_id(id.worker_id()).await?;
        if peer.instance_id() == id {
            return Ok(peer);
        }
        tracing::warn!(target: "discovery", asked = %id, found = %peer.instance_id(), "two instances share a worker id");
        let context = format!("no instance {id} in cluster {}", self.cluster);
        Err(self.failed("lookup", DiscoveryError::new(ErrorKind::NotFound, context)))
    }

    async fn discover_many(&self, ids: &[WorkerId]) -> Vec<Result<PeerInfo, DiscoveryError>> {
        let keys: Vec<_> = ids.iter().map(|id| peer_key(&self.cluster, *id)).collect();
        let mut found = self.store.get(&keys).await.into_iter();
        keys.iter()
            .map(|key| self.read(key, found.next().unwrap_or_else(|| Err(unanswered()))))
            .collect()
    }

    async fn register_instance(
        &self,
        id: InstanceId,
        address: WorkerAddress,
    ) -> Result<Registration, DiscoveryError> {
        address.validate()?;
        let peer = PeerInfo::new(id, address);
        let key = peer_key(&self.cluster, peer.worker_id());
        let body = encode(&peer)?;
        let judge = {
            let key = key.clone();
            Box::new(move |standing: &[u8]| judge(&peer, &key, standing))
        };
        let registered = self.registrar.register(Intent { key, body, judge }).await;
        registered.map_err(|error| self.failed("register", error))
    }

    async fn unregister_instance(&self, id: InstanceId) -> Result<(), DiscoveryError> {
        let key = peer_key(&self.cluster, id.worker_id());
        let is_it = |body: &[u8]| decode(&key, body).is_ok_and(|peer| peer.instance_id() == id);
        let ended = self.registrar.unregister(&key, is_it).await;
        ended.map_err(|error| self.failed("unregister", error))
    }

    fn watch(&self) -> Option<Arc<dyn PeerWatch>> {
        let (config, ttl) = self.watching?;
        Some(Arc::new(AllPeers {
            system: self.system.clone(),
            cluster: self.cluster.clone(),
            store: self.store.clone(),
            config,
            ttl,
        }))
    }
}

/// [`PeerWatch`] over a record store.
#[derive(Debug)]
struct AllPeers {
    system: Arc<str>,
    cluster: Cluster,
    store: Arc<dyn RecordStore>,
    config: ViewConfig,
    ttl: Duration,
}

#[async_trait]
impl PeerWatch for AllPeers {
    async fn list_peers(&self) -> Result<Vec<PeerInfo>, DiscoveryError> {
        let listed = list(&*self.store, &self.cluster).await;
        listed.map_err(|error| error.with_operation("list").with_system(self.system.clone()))
    }

    async fn watch_peers(&self) -> Result<PeerEvents, DiscoveryError> {
        let source = self.system.clone();
        let watch = watch::watch(self.store.clone(), &self.cluster, source, self.ttl, self.config);
        watch
            .await
            .map_err(|error| error.with_operation("watch").with_system(self.system.clone()))
    }
}

fn unanswered() -> DiscoveryError {
    DiscoveryError::new(
        ErrorKind::Unexpected,
        "the store gave fewer answers than it was asked for",
    )
}
