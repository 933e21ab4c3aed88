//! A view of everything under a prefix that stays true, whatever happens to the store or to
//! the way there: what every watching trait is written over.
//!
//! ```text
//! RecordStore::watch ─► Follow: one watch after the other ─► Fold: what stands, and events
//!                                     ▲ start over ◄── Check: compares with a list now and then
//! ```

mod check;
mod fold;
mod follow;
#[cfg(test)]
mod tests;

use std::{fmt::Debug, sync::Arc, time::Duration};

use discovery_core::{
    DiscoveryError, SystemUrl,
    store::{Change, Departure, Record, RecordKey, RecordStore},
};
use futures_util::{Stream, stream};
use tokio::time::{Instant, sleep_until};

pub use self::follow::{Follow, Heard};
use self::{
    check::{Check, PATIENCE},
    fold::Fold,
};
use crate::list::list_all;

/// How to read the body of a record. What cannot be read is not in the view.
pub type Read<T> = fn(&RecordKey, &[u8]) -> Result<T, DiscoveryError>;

/// How a view distrusts what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewConfig {
    /// When a snapshot after a gap lacks more than half of ten or more items: whether to keep
    /// these for one more TTL, marked as suspects, before they are believed to be gone. On by
    /// default: it is rather the backend that has lost its memory than a fleet its members.
    /// Removals that are told one by one, such as by unregistering, are never held.
    pub hold_mass_removals: bool,
    /// About how often a view is compared with a list, to find out about a watch that has
    /// missed something: every 5 min by default, a second at least.
    pub check_every: Duration,
}

impl Default for ViewConfig {
    fn default() -> Self {
        Self {
            hold_mass_removals: true,
            check_every: Duration::from_secs(300),
        }
    }
}

impl ViewConfig {
    /// Reads the options `hold_mass_removals` (`on` or `off`) and `check_every` of a system URL.
    ///
    /// # Errors
    /// `InvalidConfig` naming the option.
    pub fn from_url(url: &mut SystemUrl) -> Result<Self, DiscoveryError> {
        let mut config = Self::default();
        match url.take("hold_mass_removals").as_deref() {
            None => {}
            Some("on") => config.hold_mass_removals = true,
            Some("off") => config.hold_mass_removals = false,
            Some(_) => {
                return Err(DiscoveryError::invalid_config(
                    "hold_mass_removals is neither on nor off",
                ));
            }
        }
        config.check_every = url.take_duration("check_every")?.unwrap_or(config.check_every);
        config.validate().map(|()| config)
    }

    /// Checks every value.
    ///
    /// # Errors
    /// `InvalidConfig` naming the value.
    pub fn validate(&self) -> Result<(), DiscoveryError> {
        if self.check_every < Duration::from_secs(1) {
            return Err(DiscoveryError::invalid_config(format!(
                "check_every {:?} is shorter than 1s",
                self.check_every
            )));
        }
        Ok(())
    }
}

/// What a view tells.
#[derive(Clone, Debug)]
pub enum ViewEvent<T> {
    /// Everything, in the order of keys: always the first event, also if there is nothing.
    Snapshot(Vec<T>),
    /// Something appeared.
    Added(T),
    /// What stands under a key says something else.
    Modified {
        /// What it said.
        previous: T,
        /// What it says.
        item: T,
    },
    /// Something left.
    Removed {
        /// What it said.
        item: T,
        /// Why it left.
        why: Departure,
    },
    /// The store cannot be heard; tried again until it can.
    Interrupted(DiscoveryError),
    /// Everything that was missed has been told.
    Resynced {
        /// What the store does not know any more but is kept for now; see
        /// [`ViewConfig::hold_mass_removals`].
        suspects: Vec<T>,
    },
}

/// Watches everything under a prefix; established when the call returns.
///
/// The stream never ends. A watch that breaks is made again, from where it had come to, waiting
/// longer after each failure and never all readers at once. `ttl` is how long what a mass
/// removal takes away is held. What waits for a slow reader is bounded by what stands under the
/// prefix: nothing is read from the store until the reader has taken what there is.
///
/// # Errors
/// Those of [`RecordStore::watch`].
pub async fn watch<T>(
    store: Arc<dyn RecordStore>,
    prefix: RecordKey,
    read: Read<T>,
    ttl: Duration,
    config: ViewConfig,
) -> Result<impl Stream<Item = ViewEvent<T>> + Send + 'static, DiscoveryError>
where
    T: Clone + PartialEq + Debug + Send + Sync + 'static,
{
    let follow = Follow::start(store.clone(), prefix.clone()).await?;
    let view = View {
        follow,
        fold: Fold::new(read, config.hold_mass_removals.then_some(ttl)),
        check: Check::new(store, prefix, config.check_every),
    };
    Ok(stream::unfold(view, |mut view| async move {
        let event = view.next().await;
        Some((event, view))
    }))
}

struct View<T> {
    follow: Follow,
    fold: Fold<T>,
    check: Check,
}

impl<T: Clone + PartialEq + Debug> View<T> {
    /// Cancel safe: everything under way is kept in the fields.
    async fn next(&mut self) -> ViewEvent<T> {
        loop {
            if let Some(event) = self.fold.next_event() {
                return event;
            }
            tokio::select! {
                heard = self.follow.next() => match heard {
                    Heard::Change(change) => self.apply(change),
                    Heard::Interrupted(error) => {
                        self.check.interrupted(&mut self.fold);
                        self.fold.interrupted(error);
                    }
                },
                () = until(self.fold.due()) => self.fold.believe(Instant::now()),
                missed = self.check.next(&mut self.fold) => self.distrust(&missed),
            }
        }
    }

    fn apply(&mut self, change: Change) {
        // It tells everything, as a list does, and is newer than one under way.
        if matches!(change, Change::Reset { .. }) {
            self.check.postpone(&mut self.fold);
        }
        self.fold.apply(change, Instant::now());
    }

    /// The watch has not told what a list shows: it is not to be trusted, unless it is being
    /// made again or just has been.
    fn distrust(&mut self, missed: &RecordKey) {
        if !self.follow.has_had(PATIENCE) {
            return;
        }
        tracing::warn!(target: "discovery::watch", %missed, "a watch has missed a change; starting over");
        self.follow.start_over();
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Lists everything under a prefix, page by page: the records, and how much else lies there.
///
/// # Errors
/// Those of [`RecordStore::list`]; `Unexpected` for a store that gives a page twice.
pub async fn list(store: &dyn RecordStore, prefix: &RecordKey) -> Result<(Vec<Record>, u64), DiscoveryError> {
    let listed = list_all(store, prefix).await?;
    Ok((listed.records, listed.skipped))
}
