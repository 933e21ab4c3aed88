//! Peers as records: one record per peer, keyed by worker id.
//!
//! Because the worker id is derived from the instance id, one key answers both lookups and
//! create-if-absent on that key is all that collision detection needs.

mod codec;
mod object;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use discovery_core::{
    Cluster, DiscoveryError, ErrorKind, InstanceId, PeerInfo, WorkerAddress, WorkerId,
    peer::{PeerDiscovery, PeerWatch, Registration},
    store::{Record, RecordKey, RecordStore},
};

pub use self::{
    codec::{decode, encode},
    object::PeerObject,
};
use crate::{Intent, Registrar};

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
    let prefix = peers_prefix(cluster);
    let (mut peers, mut skipped, mut page) = (Vec::new(), 0, None::<Bytes>);
    loop {
        let listing = store.list(&prefix, page.clone()).await?;
        skipped += listing.skipped;
        for Record { key, body, .. } in &listing.records {
            match decode(key, body) {
                Ok(peer) => peers.push(peer),
                Err(error) => {
                    skipped += 1;
                    tracing::debug!(target: "discovery", %key, %error, "skipped a record");
                }
            }
        }
        if listing.next.is_some() && listing.next == page {
            return Err(DiscoveryError::new(
                ErrorKind::Unexpected,
                "the store gave the same page twice",
            ));
        }
        page = listing.next;
        if page.is_none() {
            break;
        }
    }
    if skipped > 0 {
        tracing::warn!(target: "discovery", %cluster, skipped, "skipped records that are no peers");
    }
    Ok(peers)
}

/// [`PeerDiscovery`] and [`PeerWatch`] over a record store.
#[derive(Clone, Debug)]
pub struct RecordPeers {
    system: Arc<str>,
    cluster: Cluster,
    store: Arc<dyn RecordStore>,
    registrar: Registrar,
    lists: bool,
}

impl RecordPeers {
    /// Peers of a cluster, looked up in `store` and registered through `registrar`.
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
            lists: true,
        }
    }

    /// Whether the view of all peers is vended; it is unless told otherwise.
    #[must_use]
    pub fn with_list(mut self, lists: bool) -> Self {
        self.lists = lists;
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
        self.lists.then(|| Arc::new(self.clone()) as _)
    }
}

#[async_trait]
impl PeerWatch for RecordPeers {
    async fn list_peers(&self) -> Result<Vec<PeerInfo>, DiscoveryError> {
        list(&*self.store, &self.cluster)
            .await
            .map_err(|error| self.failed("list", error))
    }
}

fn unanswered() -> DiscoveryError {
    DiscoveryError::new(
        ErrorKind::Unexpected,
        "the store gave fewer answers than it was asked for",
    )
}
