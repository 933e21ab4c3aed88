//! The core of the discovery workspace: what applications hold, and what backends implement.
//!
//! * An application holds a small trait, [`peer::PeerDiscovery`], or rather the
//!   [`PeerDiscoveryManager`](peer::manager::PeerDiscoveryManager), which composes several.
//! * A [`DiscoverySystem`] is a connected backend; it vends the traits that it can provide.
//! * A backend that keeps records implements [`store::RecordStore`]; the traits are then
//!   written over it once, in `discovery-records`.
//!
//! Nothing here knows a backend or touches a network.

pub mod backoff;
mod capability;
mod clock;
mod error;
mod id;
pub mod limit;
pub mod peer;
pub mod registration;
mod secret;
pub mod store;
mod system;
pub mod task;
mod url;

pub use self::{
    capability::{Bounds, Capabilities, Capability},
    clock::{Clock, Deadline, Moment},
    error::{DiscoveryError, ErrorKind, Retry},
    id::{Cluster, InstanceId, WorkerId},
    peer::{PeerInfo, WorkerAddress},
    registration::RegistrationState,
    secret::Secret,
    system::DiscoverySystem,
    url::SystemUrl,
};
