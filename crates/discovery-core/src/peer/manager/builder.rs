//! Setting a manager up.

use std::{sync::Arc, time::Duration};

use super::PeerDiscoveryManager;
use crate::{
    DiscoveryError,
    peer::{PeerDiscovery, PeerInfo},
};

/// The longest span that makes sense for any of the values.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);

/// Sets a [`PeerDiscoveryManager`] up; every value has a default that works.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it builds"]
pub struct PeerDiscoveryManagerBuilder {
    pub(super) local: Option<PeerInfo>,
    pub(super) sources: Vec<Arc<dyn PeerDiscovery>>,
    pub(super) fresh_for: Duration,
    pub(super) negative_for: Duration,
    pub(super) capacity: usize,
    pub(super) source_deadline: Duration,
    pub(super) watch: bool,
}

impl Default for PeerDiscoveryManagerBuilder {
    fn default() -> Self {
        Self {
            local: None,
            sources: Vec::new(),
            fresh_for: Duration::from_secs(2),
            negative_for: Duration::from_secs(1),
            capacity: 100_000,
            source_deadline: Duration::from_secs(2),
            watch: true,
        }
    }
}

impl PeerDiscoveryManagerBuilder {
    /// The peer to register in every source; none by default, for a manager that only looks up.
    pub fn local_peer(mut self, local: impl Into<Option<PeerInfo>>) -> Self {
        self.local = local.into();
        self
    }

    /// Adds a source; they are asked in the order in which they were added.
    pub fn source(mut self, source: Arc<dyn PeerDiscovery>) -> Self {
        self.sources.push(source);
        self
    }

    /// Adds several sources.
    pub fn sources(mut self, sources: impl IntoIterator<Item = Arc<dyn PeerDiscovery>>) -> Self {
        self.sources.extend(sources);
        self
    }

    /// How long an answer is given again without asking: 2 s by default, a day at most. It
    /// leaves at most 100 ms late. Zero asks every time.
    pub fn fresh_for(mut self, fresh_for: Duration) -> Self {
        self.fresh_for = fresh_for;
        self
    }

    /// How long "not found" is given again without asking: 1 s by default. Zero asks every time.
    pub fn negative_for(mut self, negative_for: Duration) -> Self {
        self.negative_for = negative_for;
        self
    }

    /// How many peers are kept: 100,000 by default, at least one. A full manager admits
    /// newcomers in place of peers that were not looked up lately.
    pub fn capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    /// How long one source may take for one lookup: 2 s by default.
    pub fn source_deadline(mut self, deadline: Duration) -> Self {
        self.source_deadline = deadline;
        self
    }

    /// Whether to follow the watches of the sources that have one; it is by default. Without
    /// them a peer that has left is returned for as long as an answer is fresh.
    pub fn watch(mut self, watch: bool) -> Self {
        self.watch = watch;
        self
    }

    /// Builds the manager and registers the local peer; see [`PeerDiscoveryManager::new`].
    ///
    /// # Errors
    /// Those of [`PeerDiscoveryManager::new`]; `InvalidConfig` naming a value that cannot be.
    pub async fn build(self) -> Result<PeerDiscoveryManager, DiscoveryError> {
        if self.capacity == 0 {
            return Err(DiscoveryError::invalid_config(
                "capacity is 0; a manager keeps at least one peer",
            ));
        }
        if self.source_deadline.is_zero() {
            return Err(DiscoveryError::invalid_config(
                "source_deadline is 0; no source could answer",
            ));
        }
        let spans = [
            ("fresh_for", self.fresh_for),
            ("negative_for", self.negative_for),
            ("source_deadline", self.source_deadline),
        ];
        if let Some((name, _)) = spans.into_iter().find(|(_, span)| *span > LONGEST) {
            return Err(DiscoveryError::invalid_config(format!(
                "{name} is longer than a day"
            )));
        }
        PeerDiscoveryManager::build(self).await
    }
}
