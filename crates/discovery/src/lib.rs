#![doc = include_str!("../README.md")]

mod connect;
pub mod systems;

pub use discovery_core::{
    Bounds, Capabilities, Capability, Cluster, DiscoveryError, ErrorKind, Retry, Secret, SystemUrl, limit,
    peer, store, task,
};
#[doc(inline)]
pub use discovery_records as records;

pub use self::connect::{connect, connect_lazy};
