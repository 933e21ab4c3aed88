//! Connected backends. What each one is called, its crate documents.

pub use discovery_core::DiscoverySystem;
/// Discovery over etcd.
#[cfg(feature = "etcd")]
pub use discovery_etcd as etcd;
/// Discovery over an HTTP service.
#[cfg(feature = "http")]
pub use discovery_http as http;
/// Discovery within this process.
#[cfg(feature = "memory")]
pub use discovery_memory as memory;
