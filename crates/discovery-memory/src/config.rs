//! How a memory system is set up.

use std::time::Duration;

use discovery_core::{Cluster, DiscoveryError, SystemUrl, limit};
use discovery_records::{Renewing, view::ViewConfig};

/// Configuration of a [`MemorySystem`](crate::MemorySystem).
#[derive(Clone, Debug)]
pub struct MemoryConfig {
    store_name: Option<String>,
    cluster: Cluster,
    ttl: Duration,
    renewing: Renewing,
    view: ViewConfig,
}

impl MemoryConfig {
    /// The TTL unless configured otherwise.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(10);

    /// Shares the store of this name with everything in the process that uses the same name.
    #[must_use]
    pub fn with_store_name(mut self, name: impl Into<String>) -> Self {
        self.store_name = Some(name.into());
        self
    }

    /// Chooses the cluster; `default` by default.
    #[must_use]
    pub fn with_cluster(mut self, cluster: Cluster) -> Self {
        self.cluster = cluster;
        self
    }

    /// Chooses the time to live, 1 s to 1 h; 10 s by default.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Chooses who drives renewal. By default the runtime that registers, so that a test with
    /// a paused clock sees one time; with [`Renewing::OwnThread`] registrations also outlive a
    /// runtime that blocks.
    #[must_use]
    pub fn with_renewing(mut self, renewing: Renewing) -> Self {
        self.renewing = renewing;
        self
    }

    /// Chooses how watches distrust what they are told.
    #[must_use]
    pub fn with_view(mut self, view: ViewConfig) -> Self {
        self.view = view;
        self
    }

    /// The name of the shared store, if there is one.
    #[must_use]
    pub fn store_name(&self) -> Option<&str> {
        self.store_name.as_deref()
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The time to live.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Who drives renewal.
    #[must_use]
    pub fn renewing(&self) -> Renewing {
        self.renewing
    }

    /// How watches distrust what they are told.
    #[must_use]
    pub fn view(&self) -> ViewConfig {
        self.view
    }

    /// Reads `memory://[NAME][?cluster=…&ttl=…&hold_mass_removals=on|off&check_every=…]`.
    ///
    /// # Errors
    /// `InvalidConfig` naming the part that cannot be.
    pub fn from_url(mut url: SystemUrl) -> Result<Self, DiscoveryError> {
        let mut config = Self::default().with_cluster(url.take_cluster()?);
        if let Some(ttl) = url.take_ttl()? {
            config = config.with_ttl(ttl);
        }
        config.view = ViewConfig::from_url(&mut url)?;
        if !url.path().is_empty() || url.user().is_some() {
            return Err(DiscoveryError::invalid_config(
                "memory:// takes a name only, as in memory://NAME",
            ));
        }
        if !url.hosts().is_empty() {
            config = config.with_store_name(url.hosts());
        }
        url.finish()?;
        config.validate()?;
        Ok(config)
    }

    /// Checks every value.
    ///
    /// # Errors
    /// `InvalidConfig` naming the key.
    pub fn validate(&self) -> Result<(), DiscoveryError> {
        if self.store_name.as_deref() == Some("") {
            return Err(DiscoveryError::invalid_config("store name is empty"));
        }
        self.view.validate()?;
        limit::ttl(self.ttl).map(drop)
    }
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            store_name: None,
            cluster: Cluster::default(),
            ttl: Self::DEFAULT_TTL,
            renewing: Renewing::Shared,
            view: ViewConfig::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_whole() {
        let config = MemoryConfig::from_url("memory://lab?cluster=c&ttl=3s".parse().unwrap()).unwrap();
        assert_eq!(
            (
                config.store_name(),
                config.cluster().as_str(),
                config.ttl().as_secs()
            ),
            (Some("lab"), "c", 3)
        );
        for text in [
            "memory://?ttl=0s",
            "memory://?x=1",
            "memory:///path",
            "memory://u@x",
        ] {
            assert!(MemoryConfig::from_url(text.parse().unwrap()).is_err(), "{text}");
        }
    }
}
