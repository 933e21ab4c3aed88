//! Watches that do not tell what happened.

use std::{collections::HashSet, fmt, future::ready};

use discovery_core::{
    DiscoveryError,
    store::{Change, Changes, Departure, Position, RecordKey},
};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Broken, Flaw, lock};

impl Broken {
    pub(super) async fn flawed_watch(
        &self,
        prefix: &RecordKey,
        after: Option<Position>,
    ) -> Result<Changes, DiscoveryError> {
        if self.has(Flaw::WatchesLate) {
            let (inner, prefix) = (self.inner.clone(), prefix.clone());
            let late = async move { inner.watch(&prefix, after).await };
            return Ok(Box::pin(stream::once(late).try_flatten()));
        }
        if self.has(Flaw::LeaksWatches) {
            let leaked = self.inner.watch(prefix, after).await?;
            lock(&self.leaked).push(Leaked(leaked));
        }
        if let (Flaw::ForgetsWhatWasMissed, Some(after)) = (self.flaw, after) {
            let told = self.inner.watch(prefix, None).await?.skip(1);
            let begin = stream::once(async move { Ok(Change::Progress(after)) });
            return Ok(Box::pin(begin.chain(told)));
        }
        let mut flawed = FlawedWatch {
            flaw: self.flaw,
            begun: after.is_some(),
            known: HashSet::new(),
            missed: after.map(|_| Vec::new()),
        };
        let changes = self.inner.watch(prefix, after).await?;
        let changes = changes.flat_map(move |change| stream::iter(flawed.tell(change)));
        if self.has(Flaw::SilentForEver) {
            let until_broken = changes.take_while(|change| ready(change.is_ok()));
            return Ok(Box::pin(until_broken.chain(stream::pending())));
        }
        Ok(Box::pin(changes))
    }
}

/// A watch that goes on although nobody reads it.
pub(super) struct Leaked(#[expect(dead_code, reason = "held, not read")] Changes);

impl fmt::Debug for Leaked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leaked")
    }
}

/// What a flawed store makes of the changes that it should tell.
struct FlawedWatch {
    flaw: Flaw,
    begun: bool,
    known: HashSet<RecordKey>,
    /// What was missed, until all of it is there; nothing in a watch that begins anew.
    missed: Option<Vec<Change>>,
}

impl FlawedWatch {
    fn tell(&mut self, told: Result<Change, DiscoveryError>) -> Vec<Result<Change, DiscoveryError>> {
        let change = match told {
            Ok(change) => change,
            Err(error) => return vec![Err(error)],
        };
        let begun = std::mem::replace(&mut self.begun, true);
        let tell = match (self.flaw, change) {
            (Flaw::NoEmptySnapshot, Change::Reset { records, .. }) if records.is_empty() => Vec::new(),
            (Flaw::SwallowsResets, Change::Reset { .. }) if begun => Vec::new(),
            (Flaw::TellsTakeoverAsRemoval, change) => self.with_removal(change),
            (Flaw::TellsTwice, Change::Put(record)) => {
                let put = Change::Put(record.clone());
                vec![put.clone(), gone(record.key), put]
            }
            (Flaw::ConfusesDepartures, Change::Gone { key, at, why }) => {
                let why = match why {
                    Departure::Removed => Departure::Expired,
                    _ => Departure::Removed,
                };
                vec![Change::Gone { key, at, why }]
            }
            (Flaw::TellsBackwards, change) => self.backwards(change),
            (_, change) => vec![change],
        };
        tell.into_iter().map(Ok).collect()
    }

    fn with_removal(&mut self, change: Change) -> Vec<Change> {
        match &change {
            Change::Reset { records, .. } => {
                self.known = records.iter().map(|record| record.key.clone()).collect();
            }
            Change::Gone { key, .. } => drop(self.known.remove(key)),
            Change::Put(record) => {
                if !self.known.insert(record.key.clone()) {
                    return vec![gone(record.key.clone()), change];
                }
            }
            Change::Progress(_) => {}
        }
        vec![change]
    }

    fn backwards(&mut self, change: Change) -> Vec<Change> {
        match (&mut self.missed, change) {
            (Some(missed), change @ (Change::Put(_) | Change::Gone { .. })) => {
                missed.push(change);
                Vec::new()
            }
            (missed, change) => {
                let missed = missed.take().unwrap_or_default();
                missed.into_iter().rev().chain([change]).collect()
            }
        }
    }
}

fn gone(key: RecordKey) -> Change {
    let (at, why) = (None, Departure::Unknown);
    Change::Gone { key, at, why }
}
