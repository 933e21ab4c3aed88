//! A connected backend, and what it offers.

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{Capabilities, Cluster, DiscoveryError, peer::PeerDiscovery, store::RecordStore};

/// A connected backend: vends the discovery traits that it can provide, and no others.
///
/// Every handle it vends keeps what it needs alive: dropping the system changes nothing for
/// handles that are still held.
#[async_trait]
pub trait DiscoverySystem: Debug + Send + Sync + 'static {
    /// The backend's name, as in its URL scheme.
    fn name(&self) -> &str;

    /// The cluster that this connection sees.
    fn cluster(&self) -> &Cluster;

    /// What the system can do.
    fn capabilities(&self) -> &Capabilities;

    /// Discovery of peers, if the system provides it.
    fn peer_discovery(&self) -> Option<Arc<dyn PeerDiscovery>> {
        None
    }

    /// The record store behind it, if there is one: what an application's own discovery
    /// trait is written over.
    fn records(&self) -> Option<Arc<dyn RecordStore>> {
        None
    }

    /// Unregisters everything that was registered through this system and ends its tasks.
    /// May be called again. Afterwards registering answers `Closed`; lookups through its
    /// handles still work.
    ///
    /// # Errors
    /// `Timeout` if the backend did not confirm within `deadline`: the tasks have ended all
    /// the same, and what was registered expires.
    ///
    /// # Cancel safety
    /// Shutdown has begun with the first poll and goes on when the future is dropped.
    async fn shutdown(&self, deadline: Duration) -> Result<(), DiscoveryError>;
}
