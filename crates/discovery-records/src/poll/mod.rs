//! A watch for stores that cannot push: lists, compared with each other.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use discovery_core::{
    DiscoveryError,
    backoff::jitter,
    store::{Change, Changes, Departure, Position, Record, RecordKey, RecordStore, Writer},
};
use futures_util::stream;
use tokio::time::sleep;

use crate::list::{Listed, list_all};

/// The shortest interval: less would be nothing but load.
const SHORTEST: Duration = Duration::from_millis(10);

/// Watches what lies under a prefix by listing it again and again: what
/// [`RecordStore::watch`] is for a store that cannot tell of changes by itself.
///
/// The first list is made before this returns, and is the [`Change::Reset`] that the stream
/// begins with. Then the prefix is listed after half to all of `every`, at random, so that many
/// who watch do not ask at once; at least 10 ms. What differs is told: first what is gone, then
/// what was written. Nothing is listed while a reader has not taken what there is, so what waits
/// is bounded by what stands under the prefix, and a slow reader costs the store nothing.
/// The first error, of any page, is the last item.
///
/// What a poll can tell:
/// * What stood for longer than it takes to list again is told, with the latest of its states.
///   That a record was removed and created again in between is told as a put if the author or the
///   body is another one, and not at all if both are the same, like a renewal that only
///   changes the version. A version is therefore the latest one only when it is told.
/// * That the store lost its memory, if its lists say as of which [`Position`] they are true: in
///   another generation everything is told again by a `Reset`, and a view holds what is gone.
///   The position that a reader has come to is told by a [`Change::Progress`] behind the changes.
///
/// What it cannot:
/// * Why something left: always [`Departure::Unknown`]. Nor in which order changes of different
///   keys happened: a put tells no position of its own.
/// * That something came and left between two lists.
/// * Without positions, an empty store from one that was emptied: everything is told as gone.
/// * What happened before it began: `after` of [`RecordStore::watch`] is of no use to it, and
///   whoever watches again gets a `Reset`.
///
/// The backend's declared propagation must cover `every` and the time a list takes, and its
/// `watch_silence` these and the deadline of one call.
///
/// # Errors
/// `InvalidArgument` for a shorter interval than 10 ms; else those of [`RecordStore::list`].
pub async fn poll(
    store: Arc<dyn RecordStore>,
    prefix: RecordKey,
    every: Duration,
) -> Result<Changes, DiscoveryError> {
    if every < SHORTEST {
        let context = format!("an interval of {every:?} to poll at; {SHORTEST:?} is the shortest");
        return Err(DiscoveryError::invalid_argument(context));
    }
    let first = list_all(&*store, &prefix).await?;
    let mut differ = Differ::default();
    differ.reset(first);
    let poll = Poll {
        store,
        prefix,
        every,
        differ,
    };
    Ok(Box::pin(stream::unfold(Some(poll), |poll| async {
        let mut poll = poll?;
        match poll.next().await {
            Ok(change) => Some((Ok(change), Some(poll))),
            Err(error) => Some((Err(error), None)),
        }
    })))
}

struct Poll {
    store: Arc<dyn RecordStore>,
    prefix: RecordKey,
    every: Duration,
    differ: Differ,
}

impl Poll {
    async fn next(&mut self) -> Result<Change, DiscoveryError> {
        loop {
            if let Some(change) = self.differ.ready.pop_front() {
                return Ok(change);
            }
            sleep(jitter(self.every, 0.5)).await;
            let listed = list_all(&*self.store, &self.prefix).await?;
            self.differ.compare(listed);
        }
    }
}

/// What was told of a record. Versions are no help: a renewal may change one, and a store that
/// counts them per record gives the same ones again to a record that was created again.
#[derive(PartialEq)]
struct Told {
    writer: Writer,
    body: Bytes,
}

/// Tells lists from each other: no I/O.
#[derive(Default)]
struct Differ {
    told: BTreeMap<RecordKey, Told>,
    /// What all that was told is true as of.
    position: Option<Position>,
    ready: VecDeque<Change>,
}

impl Differ {
    fn compare(&mut self, listed: Listed) {
        // The end decides: a store that lost its memory during the list is in the generation of
        // the last page, and as the first one stays noted, the next list is told whole, too.
        let generation = |position: Option<Position>| position.map(|position| position.generation);
        if generation(listed.ended) != generation(self.position) {
            return self.reset(listed);
        }
        let mut stand: BTreeMap<_, _> = listed.records.into_iter().map(keyed).collect();
        let stood = std::mem::take(&mut self.told);
        for (key, told) in stood {
            match stand.remove(&key) {
                None => self.ready.push_back(gone(key)),
                Some(record) if told == of(&record) => drop(self.told.insert(key, told)),
                // Back again, for after what is gone.
                Some(record) => drop(stand.insert(key, record)),
            }
        }
        for (key, record) in stand {
            self.told.insert(key, of(&record));
            // Others may have happened before it that the first page does not show yet.
            self.ready.push_back(Change::Put(Record { at: None, ..record }));
        }
        if let Some(position) = listed.began.filter(|began| Some(*began) != self.position) {
            self.position = listed.began;
            self.ready.push_back(Change::Progress(position));
        }
    }

    fn reset(&mut self, listed: Listed) {
        let records: BTreeMap<_, _> = listed.records.into_iter().map(keyed).collect();
        self.told = records
            .iter()
            .map(|(key, record)| (key.clone(), of(record)))
            .collect();
        self.position = listed.began;
        self.ready.push_back(Change::Reset {
            records: records.into_values().collect(),
            as_of: listed.began,
        });
    }
}

fn keyed(record: Record) -> (RecordKey, Record) {
    (record.key.clone(), record)
}

fn of(record: &Record) -> Told {
    Told {
        writer: record.writer,
        body: record.body.clone(),
    }
}

fn gone(key: RecordKey) -> Change {
    Change::Gone {
        key,
        at: None,
        why: Departure::Unknown,
    }
}
