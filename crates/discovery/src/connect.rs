//! From a URL to a system.

use std::sync::Arc;

use discovery_core::{DiscoveryError, DiscoverySystem, SystemUrl};

/// Schemes, the cargo feature that each needs, and whether it can be used here.
const SCHEMES: [(&str, &str, bool); 5] = [
    ("memory", "memory", cfg!(feature = "memory")),
    ("http", "http", cfg!(feature = "http")),
    ("etcd", "etcd", cfg!(feature = "etcd")),
    ("etcds", "etcd", cfg!(feature = "etcd")),
    // Refused by its backend until there is TLS.
    ("https", "http", false),
];

/// Connects to the system that a URL names, and checks that it is there.
///
/// Waits for at most the connect deadline (5 s unless the URL says otherwise). To start while
/// the backend may be down, use [`connect_lazy`].
///
/// # Errors
/// * `InvalidConfig`: not a system URL, an unknown scheme or option, a value outside its
///   limits, or a backend that was not compiled in; the message names it and the way out.
/// * `Unavailable`, `Timeout`, `PermissionDenied`: the backend cannot be used now.
///
/// Needs a tokio runtime with its timer and I/O enabled; outside one, `InvalidConfig`.
///
/// # Cancel safety
/// Dropping the future leaves nothing behind.
pub async fn connect(url: &str) -> Result<Arc<dyn DiscoverySystem>, DiscoveryError> {
    let url: SystemUrl = url.parse()?;
    match url.scheme() {
        #[cfg(feature = "http")]
        "http" | "https" => {
            let config = discovery_http::HttpConfig::from_url(url)?;
            Ok(Arc::new(discovery_http::HttpSystem::connect(config).await?))
        }
        #[cfg(feature = "etcd")]
        "etcd" | "etcds" => {
            let config = discovery_etcd::EtcdConfig::from_url(url)?;
            Ok(Arc::new(discovery_etcd::EtcdSystem::connect(config).await?))
        }
        _ => lazily(url),
    }
}

/// Makes the system that a URL names, without any I/O: it connects when it is first used.
///
/// # Errors
/// `InvalidConfig`, as [`connect`].
pub fn connect_lazy(url: &str) -> Result<Arc<dyn DiscoverySystem>, DiscoveryError> {
    lazily(url.parse()?)
}

fn lazily(url: SystemUrl) -> Result<Arc<dyn DiscoverySystem>, DiscoveryError> {
    match url.scheme() {
        #[cfg(feature = "memory")]
        "memory" => {
            let config = discovery_memory::MemoryConfig::from_url(url)?;
            Ok(Arc::new(discovery_memory::MemorySystem::connect(config)?))
        }
        #[cfg(feature = "http")]
        "http" | "https" => {
            let config = discovery_http::HttpConfig::from_url(url)?;
            Ok(Arc::new(discovery_http::HttpSystem::connect_lazy(config)?))
        }
        #[cfg(feature = "etcd")]
        "etcd" | "etcds" => {
            let config = discovery_etcd::EtcdConfig::from_url(url)?;
            Ok(Arc::new(discovery_etcd::EtcdSystem::connect_lazy(config)?))
        }
        scheme => Err(unknown(scheme)),
    }
}

fn unknown(scheme: &str) -> DiscoveryError {
    if let Some((_, feature, _)) = SCHEMES.iter().find(|(known, ..)| *known == scheme) {
        let context = format!("{scheme}:// needs the cargo feature `{feature}`, which was not compiled in");
        return DiscoveryError::invalid_config(context);
    }
    let usable = SCHEMES.iter().filter(|(.., usable)| *usable);
    let schemes: Vec<_> = usable.map(|(scheme, ..)| format!("{scheme}://")).collect();
    DiscoveryError::invalid_config(format!(
        "unknown scheme {scheme}://; there are {}",
        schemes.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use discovery_core::ErrorKind;

    use super::*;

    #[test]
    fn an_unknown_scheme_is_named_with_those_that_exist() {
        let error = connect_lazy("gopher://somewhere").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("gopher"), "{error}");
        #[cfg(feature = "memory")]
        assert!(error.to_string().contains("memory://"), "{error}");
    }

    #[cfg(not(feature = "http"))]
    #[test]
    fn a_backend_that_was_not_compiled_in_names_its_feature() {
        let error = connect_lazy("http://127.0.0.1:7400").unwrap_err();
        assert!(error.to_string().contains("feature `http`"), "{error}");
    }

    #[cfg(not(feature = "etcd"))]
    #[test]
    fn etcd_was_not_compiled_in() {
        for url in ["etcd://127.0.0.1:2379", "etcds://127.0.0.1:2379"] {
            let error = connect_lazy(url).unwrap_err();
            assert!(error.to_string().contains("feature `etcd`"), "{error}");
        }
    }

    #[cfg(feature = "etcd")]
    #[test]
    fn etcd_is_connected_to_by_its_url() {
        let system = connect_lazy("etcd://127.0.0.1:2379,127.0.0.1:2381?cluster=demo").unwrap();
        assert_eq!((system.name(), system.cluster().as_str()), ("etcd", "demo"));
        connect_lazy("etcds://me:secret@127.0.0.1:2379?ca_file=ca.pem").unwrap();
    }
}
