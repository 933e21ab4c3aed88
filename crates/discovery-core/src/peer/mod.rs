//! Peers: other instances, as seen from here.

mod address;
mod event;
pub mod manager;

use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;

pub use self::{
    address::WorkerAddress,
    event::{PeerEvent, PeerEvents, RemovalReason},
};
use crate::DiscoveryError;
pub use crate::{
    id::{InstanceId, WorkerId},
    registration::{Registration, RegistrationObserver, RegistrationState},
};

/// Another instance and where to reach it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerInfo {
    instance_id: InstanceId,
    worker_id: WorkerId,
    address: WorkerAddress,
}

impl PeerInfo {
    /// A peer at an address; the address is validated where it is first used.
    #[must_use]
    pub fn new(instance_id: InstanceId, address: WorkerAddress) -> Self {
        Self {
            instance_id,
            worker_id: instance_id.worker_id(),
            address,
        }
    }

    /// The incarnation.
    #[must_use]
    pub fn instance_id(&self) -> InstanceId {
        self.instance_id
    }

    /// The worker id that belongs to the incarnation.
    #[must_use]
    pub fn worker_id(&self) -> WorkerId {
        self.worker_id
    }

    /// Where to reach it.
    #[must_use]
    pub fn address(&self) -> &WorkerAddress {
        &self.address
    }

    /// Where to reach it, taken out.
    #[must_use]
    pub fn into_address(self) -> WorkerAddress {
        self.address
    }
}

/// Finds and registers peers over one backend.
///
/// Lookups are cancel safe and change nothing. They answer `NotFound` only if the backend was
/// asked and said so; `Unavailable` or `Timeout` if it could not be asked; `Malformed` if what
/// stands there cannot be read or contradicts its key.
#[async_trait]
pub trait PeerDiscovery: Debug + Send + Sync + 'static {
    /// What messages and answers call this source: the backend and where it is.
    fn name(&self) -> &str;

    /// Finds the peer with this worker id.
    ///
    /// # Errors
    /// As described at the trait.
    async fn discover_by_worker_id(&self, id: WorkerId) -> Result<PeerInfo, DiscoveryError>;

    /// Finds this very instance. Another instance under the same worker id is `NotFound`.
    ///
    /// # Errors
    /// As described at the trait.
    async fn discover_by_instance_id(&self, id: InstanceId) -> Result<PeerInfo, DiscoveryError>;

    /// Finds many peers with as few requests as the backend allows: one answer per id, in order.
    async fn discover_many(&self, ids: &[WorkerId]) -> Vec<Result<PeerInfo, DiscoveryError>>;

    /// Publishes the instance and keeps it published until the registration is given up.
    ///
    /// On success the backend has acknowledged the record; every reader of the cluster finds it
    /// within the declared propagation. What the backend loses is published again without
    /// anybody asking. Registering the same peer again gives another hold on the same
    /// registration.
    ///
    /// # Errors
    /// * `InvalidArgument`: an empty or too long address; nothing was sent.
    /// * `WorkerIdCollision`, `ChecksumMismatch`: another instance, or the same one with
    ///   another address, stands there; nothing was written.
    /// * `Malformed`: something unreadable stands there; it was left alone.
    /// * `Unavailable`, `Timeout`: not published, after 14 s at most. Should a write still
    ///   arrive, it is taken back; registering again is safe.
    /// * `InvalidConfig` outside a tokio runtime with its timer and I/O enabled.
    ///
    /// # Cancel safety
    /// Dropping the future gives the registration up: what was written is removed again.
    async fn register_instance(
        &self,
        id: InstanceId,
        address: WorkerAddress,
    ) -> Result<Registration, DiscoveryError>;

    /// Ends *every* hold that this system has on the instance, and removes its record.
    /// To give up one hold only, use [`Registration::unregister`]. Success if there is none.
    ///
    /// # Errors
    /// As [`Registration::unregister`].
    async fn unregister_instance(&self, id: InstanceId) -> Result<(), DiscoveryError>;

    /// The view of all peers of this source, if it can provide one.
    fn watch(&self) -> Option<Arc<dyn PeerWatch>>;
}

/// The view of all peers of one source.
#[async_trait]
pub trait PeerWatch: Debug + Send + Sync + 'static {
    /// Every peer of the cluster, in the order of their worker ids. A record that cannot be
    /// read is skipped and logged.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`: a part that could not be read is never left out silently.
    async fn list_peers(&self) -> Result<Vec<PeerInfo>, DiscoveryError>;

    /// Watches all peers of the cluster: a snapshot, then every change.
    ///
    /// The watch is established when the call returns: what happens from then on is in the
    /// stream. Folding the events gives what [`list_peers`](Self::list_peers) gives, once
    /// nothing changes any more, whatever happened to the connection or the backend in between;
    /// see [`PeerEvent`].
    ///
    /// The stream ends only when it is dropped, which also ends the watch at the backend. It
    /// holds what it needs: the system may be dropped.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`, `PermissionDenied`: there is no watch.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind; no event is lost when a call for the next
    /// item is dropped.
    ///
    /// # Example
    /// ```
    /// # use std::sync::Arc;
    /// use discovery_core::peer::{PeerEvent, PeerWatch};
    /// use futures_util::StreamExt;
    ///
    /// # async fn example(watch: Arc<dyn PeerWatch>) -> Result<(), discovery_core::DiscoveryError> {
    /// let mut events = watch.watch_peers().await?;
    /// while let Some(event) = events.next().await {
    ///     match event {
    ///         PeerEvent::Snapshot(peers) => println!("{} peers", peers.len()),
    ///         PeerEvent::Added(peer) => println!("{} at {}", peer.worker_id(), peer.address()),
    ///         PeerEvent::Removed { peer, .. } => println!("{} has left", peer.worker_id()),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    async fn watch_peers(&self) -> Result<PeerEvents, DiscoveryError>;
}
