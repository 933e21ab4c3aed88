//! Leased records: every discovery trait, written once over any
//! [`RecordStore`](discovery_core::store::RecordStore).
//!
//! * [`record`]: the envelope that bodies are written in.
//! * [`Registrar`]: keeps registrations alive whatever happens to the backend.
//! * [`view`]: a view of everything under a prefix that stays true, whatever happens.
//! * [`peer`]: peers as records, one record per peer.
//! * [`RecordSystem`]: a [`DiscoverySystem`](discovery_core::DiscoverySystem) over a store,
//!   which backends wrap.

pub mod peer;
pub mod record;
mod registrar;
mod system;
pub mod view;

pub use self::{
    registrar::{Intent, Judge, OpenStore, Opening, Registrar, RegistrarConfig, Renewing},
    system::{RecordSystem, RecordSystemConfig},
};
