//! The one list of backends.

/// A backend: the crate `discovery-<name>`, and the facade's feature of the same name.
pub(crate) struct Backend {
    /// Its name, as in its URL scheme.
    pub(crate) name: &'static str,
    /// Crates that only this backend may bring, as long as no other one lists them too.
    pub(crate) brings: &'static [&'static str],
}

/// Every backend there is.
pub(crate) const BACKENDS: &[Backend] = &[
    Backend {
        name: "memory",
        brings: &[],
    },
    Backend {
        name: "etcd",
        brings: &[
            // Its client takes all of tonic, the server included.
            "axum",
            "axum-core",
            "etcd-client",
            "h2",
            "http",
            "hyper",
            "hyper-util",
            "prost",
            "ring",
            "rustls",
            "rustls-native-certs",
            "tonic",
        ],
    },
    Backend {
        name: "http",
        brings: &["http", "hyper", "hyper-util", "reqwest", "rustls", "url"],
    },
];

/// The backend of an example: a package `discovery-<name>` that is no member of the workspace.
pub(crate) struct Example {
    /// Its name, as in its URL scheme.
    pub(crate) name: &'static str,
    /// Its manifest, from the workspace's root.
    pub(crate) manifest: &'static str,
}

/// Every example of a backend.
pub(crate) const EXAMPLES: &[Example] = &[Example {
    name: "folder",
    manifest: "examples/folder-store/Cargo.toml",
}];

/// Crates of servers, which no backend's feature may bring.
pub(crate) const SERVER: &[&str] = &["axum", "axum-core"];

/// The name of the crate that holds a backend.
pub(crate) fn package(backend: &str) -> String {
    format!("discovery-{backend}")
}

/// The backend that a crate holds, if it holds one.
pub(crate) fn of_package(package: &str) -> Option<&'static str> {
    let name = package.strip_prefix("discovery-")?;
    BACKENDS
        .iter()
        .map(|backend| backend.name)
        .find(|known| *known == name)
}
