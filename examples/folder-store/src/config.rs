//! How a folder system is set up.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use discovery_core::{Cluster, DiscoveryError, SystemUrl, limit};
use discovery_records::view::ViewConfig;

/// Configuration of a [`FolderSystem`](crate::FolderSystem).
#[derive(Clone, Debug)]
pub struct FolderConfig {
    path: PathBuf,
    cluster: Cluster,
    ttl: Duration,
    view: ViewConfig,
}

impl FolderConfig {
    /// The TTL unless configured otherwise.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(10);

    /// The folder at `path`, which must be there and be writable; everything else by default.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            cluster: Cluster::default(),
            ttl: Self::DEFAULT_TTL,
            view: ViewConfig::default(),
        }
    }

    /// Reads `folder:///path[?cluster=…&ttl=…&hold_mass_removals=on|off&check_every=…]`.
    ///
    /// # Errors
    /// `InvalidConfig` naming the part that cannot be.
    pub fn from_url(mut url: SystemUrl) -> Result<Self, DiscoveryError> {
        let misplaced = url.user().is_some() || !url.hosts().is_empty() || url.path().is_empty();
        if url.scheme() != "folder" || misplaced {
            let context = "a folder is named as in folder:///var/lib/fleet, without host and user";
            return Err(DiscoveryError::invalid_config(context));
        }
        let mut config = Self::new(url.path()).with_cluster(url.take_cluster()?);
        config.ttl = url.take_ttl()?.unwrap_or(config.ttl);
        config.view = ViewConfig::from_url(&mut url)?;
        url.finish()?;
        Ok(config)
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

    /// Chooses how watches distrust what they are told.
    #[must_use]
    pub fn with_view(mut self, view: ViewConfig) -> Self {
        self.view = view;
        self
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
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

    /// How watches distrust what they are told.
    #[must_use]
    pub fn view(&self) -> ViewConfig {
        self.view
    }

    /// Checks every value.
    ///
    /// # Errors
    /// `InvalidConfig` naming the value.
    pub fn validate(&self) -> Result<(), DiscoveryError> {
        self.view.validate()?;
        limit::ttl(self.ttl).map(drop)
    }
}
