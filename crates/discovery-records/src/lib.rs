//! Leased records: every discovery trait, written once over any
//! [`RecordStore`](discovery_core::store::RecordStore).
//!
//! * [`record`]: the envelope that bodies are written in.
//! * [`Registrar`]: keeps registrations alive whatever happens to the backend.
//! * [`view`]: a view of everything under a prefix that stays true, whatever happens.
//! * [`poll`]: a watch for stores that cannot tell of changes by themselves.
//! * [`peer`]: peers as records, one record per peer.
//! * [`RecordSystem`]: a [`DiscoverySystem`](discovery_core::DiscoverySystem) over a store,
//!   which backends wrap.

mod list;
pub mod peer;
mod poll;
pub mod record;
mod registrar;
mod system;
pub mod view;

pub use self::{
    poll::poll,
    registrar::{Intent, Judge, OpenStore, Opening, Registrar, RegistrarConfig, Renewing},
    system::{RecordSystem, RecordSystemConfig},
};
