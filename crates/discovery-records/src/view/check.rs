//! Distrust: compares the view with a list now and then.
//!
//! What the watch was heard of since a while before the list is not compared, and what differs
//! gets time to be told: a watch that is slower than a list, or a list that is behind the watch,
//! is no cause to start over.

use std::{fmt::Debug, pin::Pin, sync::Arc, time::Duration};

use discovery_core::{
    DiscoveryError,
    backoff::jitter,
    store::{Record, RecordKey, RecordStore},
};
use futures_util::future::BoxFuture;
use tokio::time::{Sleep, sleep};

use super::{Fold, list};

/// How much longer than a list a watch may take to tell something, or the other way round.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

enum Stage {
    Waiting(Pin<Box<Sleep>>),
    Noting(Pin<Box<Sleep>>),
    Listing(BoxFuture<'static, Result<Vec<Record>, DiscoveryError>>),
    Doubting(Pin<Box<Sleep>>, Vec<RecordKey>),
}

pub(super) struct Check {
    store: Arc<dyn RecordStore>,
    prefix: RecordKey,
    every: Duration,
    stage: Stage,
}

impl Check {
    pub(super) fn new(store: Arc<dyn RecordStore>, prefix: RecordKey, every: Duration) -> Self {
        Self {
            store,
            prefix,
            every,
            stage: wait(every),
        }
    }

    /// Waits for a key about which the watch is wrong. Cancel safe.
    pub(super) async fn next<T: Clone + PartialEq + Debug>(&mut self, fold: &mut Fold<T>) -> RecordKey {
        loop {
            match &mut self.stage {
                Stage::Waiting(wait) => {
                    wait.await;
                    fold.note();
                    self.stage = Stage::Noting(Box::pin(sleep(PATIENCE)));
                }
                Stage::Noting(patience) => {
                    patience.await;
                    let (store, prefix) = (self.store.clone(), self.prefix.clone());
                    let listing = async move { list(&*store, &prefix).await.map(|(records, _)| records) };
                    self.stage = Stage::Listing(Box::pin(listing));
                }
                Stage::Listing(listing) => {
                    let differences = match listing.await {
                        Ok(listed) => fold.differences(&listed),
                        Err(error) => {
                            tracing::debug!(target: "discovery::watch", %error, "no list to compare with");
                            Vec::new()
                        }
                    };
                    if differences.is_empty() {
                        self.postpone(fold);
                    } else {
                        self.stage = Stage::Doubting(Box::pin(sleep(PATIENCE)), differences);
                    }
                }
                Stage::Doubting(patience, differences) => {
                    patience.await;
                    let missed = differences.iter().find(|key| !fold.was_touched(key)).cloned();
                    self.postpone(fold);
                    if let Some(missed) = missed {
                        return missed;
                    }
                }
            }
        }
    }

    /// Gives a check under way up. One that was not begun keeps its time, or a watch that is cut
    /// every few minutes would never be compared.
    pub(super) fn interrupted<T: Clone + PartialEq + Debug>(&mut self, fold: &mut Fold<T>) {
        if !matches!(self.stage, Stage::Waiting(_)) {
            self.postpone(fold);
        }
    }

    /// Gives a check under way up: the next one comes in its time.
    pub(super) fn postpone<T: Clone + PartialEq + Debug>(&mut self, fold: &mut Fold<T>) {
        fold.note_no_more();
        self.stage = wait(self.every);
    }
}

fn wait(every: Duration) -> Stage {
    Stage::Waiting(Box::pin(sleep(jitter(every, 0.5))))
}
