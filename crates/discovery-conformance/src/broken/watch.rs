//! Watches that do not tell what happened.

use std::{collections::HashSet, fmt, future::ready};

use discovery_core::{
    DiscoveryError,
    store::{Change, Changes, Departure, Position, Record, RecordKey},
};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Broken, Flaw, lock};

/// How much waits for a reader at most, where all but a batch of it is dropped.
const CHUNK: usize = 1_024;
const BATCH: usize = 256;

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
            others: self.beside(prefix).await,
        };
        let changes = self.inner.watch(prefix, after).await?;
        if self.has(Flaw::DropsPastABatch) {
            let told = changes
                .ready_chunks(CHUNK)
                .map(|chunk| stream::iter(chunk).take(BATCH));
            return Ok(Box::pin(told.flatten()));
        }
        if let (Flaw::ThroughTooEarly, Some(after)) = (self.flaw, after) {
            let through = stream::once(ready(Ok(Change::Progress(after))));
            return Ok(Box::pin(through.chain(changes)));
        }
        let changes = changes.flat_map(move |change| stream::iter(flawed.tell(change)));
        if self.has(Flaw::SilentForEver) {
            let until_broken = changes.take_while(|change| ready(change.is_ok()));
            return Ok(Box::pin(until_broken.chain(stream::pending())));
        }
        Ok(Box::pin(changes))
    }
}

impl Broken {
    /// What lies beside a prefix but begins with its text.
    async fn beside(&self, prefix: &RecordKey) -> Vec<Record> {
        if !self.has(Flaw::MatchesTextPrefixes) {
            return Vec::new();
        }
        let written: Vec<_> = lock(&self.written).iter().map(|(key, _)| key.clone()).collect();
        let beside = written
            .into_iter()
            .filter(|key| key.as_str().starts_with(prefix.as_str()) && !key.starts_with(prefix));
        let beside: Vec<_> = beside.collect();
        let found = self.inner.get(&beside).await;
        found
            .into_iter()
            .filter_map(|found| found.ok().flatten())
            .collect()
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
    /// What does not belong to it, for its snapshots.
    others: Vec<Record>,
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
            (Flaw::NeverThrough, Change::Progress(_)) => Vec::new(),
            (Flaw::RunsAhead, change) => vec![ahead(change)],
            (Flaw::TellsExpiryWithTheNext, change) => self.with_the_next(change),
            (Flaw::MatchesTextPrefixes, Change::Reset { records, as_of }) => {
                let records = records.iter().chain(&self.others).cloned().collect();
                vec![Change::Reset { records, as_of }]
            }
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

    fn with_the_next(&mut self, change: Change) -> Vec<Change> {
        let kept = self.missed.get_or_insert_default();
        if let Change::Gone {
            why: Departure::Expired,
            ..
        } = change
        {
            kept.push(change);
            return Vec::new();
        }
        kept.drain(..).chain([change]).collect()
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

fn ahead(change: Change) -> Change {
    let further = |at: Position| Position {
        seq: at.seq + 1,
        ..at
    };
    match change {
        Change::Reset { records, as_of } => Change::Reset {
            records,
            as_of: as_of.map(further),
        },
        Change::Put(record) => Change::Put(Record {
            at: record.at.map(further),
            ..record
        }),
        Change::Gone { key, at, why } => Change::Gone {
            key,
            at: at.map(further),
            why,
        },
        Change::Progress(at) => Change::Progress(further(at)),
    }
}

fn gone(key: RecordKey) -> Change {
    let (at, why) = (None, Departure::Unknown);
    Change::Gone { key, at, why }
}
