//! Connected backends. What each one is called, its crate documents.

pub use discovery_core::DiscoverySystem;
/// The HTTP discovery service: its client and, with feature `http-server`, the server.
#[cfg(feature = "http")]
pub use discovery_http as http;
/// Discovery within this process.
#[cfg(feature = "memory")]
pub use discovery_memory as memory;
