//! One watch after the other: goes on where the last one broke.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use discovery_core::{
    DiscoveryError, ErrorKind,
    backoff::Backoff,
    store::{Change, Changes, Position, RecordKey, RecordStore},
};
use futures_util::{StreamExt, future::BoxFuture};
use tokio::time::{Instant, Sleep, sleep};

/// What came of following a store.
#[derive(Debug)]
pub enum Heard {
    /// What the watch told.
    Change(Change),
    /// The watch broke, or could not be made; it is tried again.
    Interrupted(DiscoveryError),
}

enum Link {
    Open(Changes),
    Opening(BoxFuture<'static, Result<Changes, DiscoveryError>>),
    Waiting(Pin<Box<Sleep>>),
}

/// Follows what happens under a prefix, one [`RecordStore::watch`] after the other.
///
/// A watch that breaks is made again from where it had come to, waiting longer after each
/// failure and never all followers at once. Whoever needs more than a stream of changes, such as
/// to pass them on, builds on this; a [`watch`](super::watch) is the view of one reader.
pub struct Follow {
    store: Arc<dyn RecordStore>,
    prefix: RecordKey,
    link: Link,
    /// Where to go on; nowhere if the store has no positions, or the next watch is to tell
    /// everything.
    position: Option<Position>,
    /// Whether this watch has told anything yet.
    begun: bool,
    /// Since when there is this watch.
    since: Instant,
    backoff: Backoff,
}

impl Follow {
    /// Watches everything under a prefix; established when the call returns. What is heard first
    /// is a [`Change::Reset`].
    ///
    /// # Errors
    /// Those of [`RecordStore::watch`]. Nothing is tried again before the first success.
    pub async fn start(store: Arc<dyn RecordStore>, prefix: RecordKey) -> Result<Self, DiscoveryError> {
        let link = Link::Open(store.watch(&prefix, None).await?);
        Ok(Self {
            store,
            prefix,
            link,
            position: None,
            begun: false,
            since: Instant::now(),
            backoff: Backoff::default(),
        })
    }

    /// Whether there is a watch, and has been for this long.
    pub(super) fn has_had(&self, time: Duration) -> bool {
        matches!(self.link, Link::Open(_)) && self.since.elapsed() >= time
    }

    /// Drops the watch and makes a new one that tells everything.
    pub(super) fn start_over(&mut self) {
        self.position = None;
        self.open();
    }

    fn open(&mut self) {
        let (store, prefix, after) = (self.store.clone(), self.prefix.clone(), self.position);
        self.begun = false;
        self.link = Link::Opening(Box::pin(async move { store.watch(&prefix, after).await }));
    }

    /// Waits for what happens next. Never ends.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: what is under way is kept.
    pub async fn next(&mut self) -> Heard {
        loop {
            match &mut self.link {
                Link::Open(changes) => {
                    let item = changes.next().await;
                    match item.unwrap_or_else(|| Err(ended())) {
                        Ok(change) if self.may_come(&change) => return Heard::Change(self.heard(change)),
                        Ok(_) => return self.broken(no_reset()),
                        Err(error) => return self.broken(error),
                    }
                }
                Link::Opening(opening) => match opening.await {
                    Ok(changes) => {
                        self.link = Link::Open(changes);
                        self.since = Instant::now();
                    }
                    Err(error) => return self.broken(error),
                },
                Link::Waiting(wait) => {
                    wait.await;
                    self.open();
                }
            }
        }
    }

    /// A watch that does not go on from a position must begin with everything.
    fn may_come(&self, change: &Change) -> bool {
        self.begun || self.position.is_some() || matches!(change, Change::Reset { .. })
    }

    fn heard(&mut self, change: Change) -> Change {
        self.begun = true;
        match &change {
            Change::Reset { as_of, .. } => self.position = *as_of,
            change => self.position = change.position().or(self.position),
        }
        change
    }

    fn broken(&mut self, error: DiscoveryError) -> Heard {
        if self.begun {
            self.backoff.lasted(self.since.elapsed());
        }
        let wait = self.backoff.next(&error, Duration::MAX);
        self.link = Link::Waiting(Box::pin(sleep(wait)));
        Heard::Interrupted(error)
    }
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow")
            .field("prefix", &self.prefix)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

fn ended() -> DiscoveryError {
    DiscoveryError::new(ErrorKind::Unavailable, "the store ended the watch")
}

fn no_reset() -> DiscoveryError {
    let context = "the store began a watch without telling what stands there";
    DiscoveryError::new(ErrorKind::Unexpected, context)
}
