//! What etcd tells those who watch, as changes of a store.
//!
//! A watch has a connection of its own, so that what it brings delays no call, and so that dropping
//! it ends the watch at the server, too. It begins with everything as of a revision, and goes on
//! from the next one.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use discovery_core::{
    DiscoveryError, ErrorKind,
    store::{Change, Changes, Departure, Position},
};
use futures_util::stream;
use tokio::time::{Instant, timeout_at};

use crate::{
    client::{Client, Event, Line, Message, WatchStream, Way},
    error::{self, Effect, Fault},
    scan::{self, Generations, Scan},
};

/// After how long without a word the server is asked for one.
const ASK_AFTER: Duration = Duration::from_secs(3);
/// The same, for a watch that is to tell when it has told what there was.
const ASK_SOON: Duration = Duration::from_millis(200);
/// After how long without an answer the watch has ended.
const ANSWER_WITHIN: Duration = Duration::from_secs(6);
/// After how long at most a watch that was cut off without a word ends: both of the above, and
/// as much again of the first for a busy machine, rounded.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);

/// What is watched, and over what.
pub(crate) struct Watched {
    pub(crate) client: Client,
    pub(crate) generations: Arc<Generations>,
    pub(crate) scan: Scan,
}

/// Watches what lies under a prefix; established when the call returns.
pub(crate) async fn changes(watched: Watched, after: Option<Position>) -> Result<Changes, DiscoveryError> {
    let opened = watched.open(after).await.map_err(|fault| fault.error)?;
    let watch = Watch::new(watched, opened);
    Ok(Box::pin(stream::unfold(watch, |mut watch| async move {
        let change = watch.next().await?;
        Some((change, watch))
    })))
}

/// A watch that has been established.
struct Opened {
    stream: WatchStream,
    generation: u64,
    /// What it begins with; nothing if the server has yet to tell what happened in between.
    beginning: Option<Change>,
    /// Up to where it has to tell before it has told what there was.
    behind: Option<u64>,
    /// Whether a server that says how far it has come has told everything up to there.
    in_order: bool,
}

impl Watched {
    async fn open(&self, after: Option<Position>) -> Result<Opened, Fault> {
        let deadline = self.client.deadline();
        self.client
            .call_over(Way::Own, Effect::Read, deadline, |line| async move {
                self.open_on(&line, after).await
            })
            .await
    }

    async fn open_on(&self, line: &Line, after: Option<Position>) -> Result<Opened, Fault> {
        let in_order = tells_progress_in_order(&line.version().await?);
        if let Some(after) = after
            && let Some(opened) = self.resume(line, after, in_order).await?
        {
            return Ok(opened);
        }
        let (records, at) = self.scan.everything(line, &self.generations).await?;
        let stream = self.begin(line, at).await?;
        let reset = Change::Reset {
            records: records.into(),
            as_of: Some(at),
        };
        Ok(Opened {
            stream: stream.ok_or_else(|| too_fast(line.host()))?,
            generation: at.generation,
            beginning: Some(reset),
            behind: None,
            in_order,
        })
    }

    /// Goes on after a position, if everything that happened since can be told.
    async fn resume(&self, line: &Line, after: Position, in_order: bool) -> Result<Option<Opened>, Fault> {
        let now = self.scan.position(line, &self.generations).await?;
        // A server that was restored from a copy has the same generation and an earlier revision.
        let same = now.generation == after.generation && now.seq >= after.seq;
        // Unless nothing has happened, only the server knows when it has told all of it.
        if !same || (now != after && !in_order) {
            return Ok(None);
        }
        let Some(stream) = self.begin(line, after).await? else {
            return Ok(None);
        };
        Ok(Some(Opened {
            stream,
            generation: after.generation,
            beginning: (now == after).then_some(Change::Progress(now)),
            behind: (now != after).then_some(now.seq),
            in_order,
        }))
    }

    /// Watches from the revision after a position; nothing if etcd does not have that any more,
    /// or has not come to it yet, about which it would say nothing.
    async fn begin(&self, line: &Line, after: Position) -> Result<Option<WatchStream>, Fault> {
        let (start, end) = self.scan.keys.range(&self.scan.prefix);
        let revision = i64::try_from(after.seq).unwrap_or(i64::MAX).saturating_add(1);
        let mut stream = line.watch(start, end, revision).await?;
        let first = stream.next().await?;
        // A refusal says that it has begun, too.
        if let Some(reason) = first.canceled {
            return match first.compacted {
                true => Ok(None),
                false => Err(error::canceled(&reason, line.host())),
            };
        }
        if !first.created {
            let context = format!("{} tells on a watch before it has begun", line.host());
            return Err(Fault::strange(ErrorKind::Unexpected, context));
        }
        let come = u64::try_from(first.revision).unwrap_or_default();
        Ok((come >= after.seq).then_some(stream))
    }
}

fn too_fast(host: &str) -> Fault {
    Fault::ended(format!("{host} forgets what happened faster than it can be read"))
}

/// Whether the servers of a version say how far they have come only after they have told
/// everything up to there. Those before 3.4.25 and 3.5.8 may say so first.
fn tells_progress_in_order(version: &str) -> bool {
    let mut numbers = version
        .split(['.', '-', '+'])
        .map(|part| part.parse::<u32>().ok());
    let mut number = || numbers.next().flatten();
    let (Some(major), Some(minor), Some(patch)) = (number(), number(), number()) else {
        return false;
    };
    match (major, minor) {
        (3, 4) => patch >= 25,
        (3, 5) => patch >= 8,
        (3, minor) => minor > 5,
        (major, _) => major > 3,
    }
}

struct Watch {
    watched: Watched,
    /// Nothing once it has ended.
    stream: Option<WatchStream>,
    generation: u64,
    behind: Option<u64>,
    in_order: bool,
    /// Changes of a revision of which more is to come, each with its revision.
    partial: Vec<(i64, Change)>,
    ready: VecDeque<Change>,
    heard: Instant,
    /// When the server was asked first and last since it was heard.
    asked: Option<(Instant, Instant)>,
}

impl Watch {
    fn new(watched: Watched, opened: Opened) -> Self {
        Self {
            watched,
            stream: Some(opened.stream),
            generation: opened.generation,
            behind: opened.behind,
            in_order: opened.in_order,
            partial: Vec::new(),
            ready: opened.beginning.into_iter().collect(),
            heard: Instant::now(),
            asked: None,
        }
    }

    async fn next(&mut self) -> Option<Result<Change, DiscoveryError>> {
        loop {
            // Changes of one revision have one position. They all come before any error, so
            // that nobody goes on from there without the rest of them.
            if let Some(change) = self.ready.pop_front() {
                return Some(Ok(change));
            }
            let (stream, behind) = (self.stream.as_mut()?, self.behind.is_some());
            let message = hear(stream, &mut self.heard, &mut self.asked, behind).await;
            let read = match message {
                Ok(message) => self.read(message).await,
                Err(fault) => Err(fault),
            };
            if let Err(fault) = read {
                // Dropping it closes its connection.
                self.stream = None;
                return Some(Err(fault.error));
            }
        }
    }

    async fn read(&mut self, message: Message) -> Result<(), Fault> {
        if let Some(reason) = &message.canceled {
            if message.compacted {
                return self.start_over().await;
            }
            let host = self.stream.as_ref().map_or("etcd", WatchStream::host);
            return Err(error::canceled(reason, host));
        }
        let progress = message.events.is_empty() && !message.created;
        let last = message.events.last().map_or(0, Event::revision);
        for event in message.events {
            let revision = event.revision();
            let change = self.change(event);
            self.partial.extend(change.map(|change| (revision, change)));
        }
        let whole = |revision: i64| !message.goes_on || revision < last;
        let complete = self
            .partial
            .iter()
            .take_while(|(revision, _)| whole(*revision))
            .count();
        let complete = self.partial.drain(..complete).map(|(_, change)| change);
        self.ready.extend(complete);
        let come = u64::try_from(message.revision).unwrap_or_default();
        if progress
            && self.in_order
            && self.partial.is_empty()
            && self.behind.is_none_or(|behind| come >= behind)
        {
            self.behind = None;
            self.ready
                .push_back(Change::Progress(self.position(message.revision)));
        }
        Ok(())
    }

    /// What was to be told is not there any more: everything is told anew.
    async fn start_over(&mut self) -> Result<(), Fault> {
        self.stream = None;
        let opened = self.watched.open(None).await?;
        self.stream = Some(opened.stream);
        (self.generation, self.in_order) = (opened.generation, opened.in_order);
        (self.heard, self.asked, self.behind) = (Instant::now(), None, None);
        self.partial.clear();
        self.ready.extend(opened.beginning);
        Ok(())
    }

    /// What happened, if it happened to a record under the prefix.
    fn change(&self, event: Event) -> Option<Change> {
        let at = self.position(event.revision());
        let own = |key: &[u8]| {
            let key = self.watched.scan.keys.read(key)?;
            key.starts_with(&self.watched.scan.prefix).then_some(key)
        };
        Some(match event {
            Event::Put(entry) => Change::Put(scan::record(own(&entry.key)?, entry, Some(at))),
            Event::Delete { key, .. } => Change::Gone {
                key: own(&key)?,
                at: Some(at),
                // etcd does not tell a lease that ran out from one that was revoked, nor either
                // from a key that was removed.
                why: Departure::Unknown,
            },
        })
    }

    fn position(&self, revision: i64) -> Position {
        Position {
            generation: self.generation,
            seq: u64::try_from(revision).unwrap_or_default(),
        }
    }
}

/// The next message. A server that says nothing is asked, and must answer.
///
/// What has arrived is read first, however late: a reader who stays away for long is no reason to
/// doubt the server.
async fn hear(
    stream: &mut WatchStream,
    heard: &mut Instant,
    asked: &mut Option<(Instant, Instant)>,
    behind: bool,
) -> Result<Message, Fault> {
    let pause = if behind { ASK_SOON } else { ASK_AFTER };
    loop {
        let until = match asked {
            None => *heard + pause,
            Some((first, last)) => (*last + pause).min(*first + ANSWER_WITHIN),
        };
        if let Ok(message) = timeout_at(until, stream.next()).await {
            (*heard, *asked) = (Instant::now(), None);
            return message;
        }
        let now = Instant::now();
        let first = asked.map_or(now, |(first, _)| first);
        let silent = Fault::silent(Effect::Read, stream.host(), ANSWER_WITHIN);
        if now >= first + ANSWER_WITHIN {
            return Err(silent);
        }
        *asked = Some((first, now));
        timeout_at(first + ANSWER_WITHIN, stream.ask())
            .await
            .map_err(|_| silent)??;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_servers_that_tell_in_order_move_the_position() {
        for (version, in_order) in [
            ("3.4.23", false),
            ("3.4.25", true),
            ("3.5.1", false),
            ("3.5.7", false),
            ("3.5.8", true),
            ("3.5.30", true),
            ("3.6.0", true),
            ("3.6.0-rc.1", true),
            ("4.0.0", true),
            ("3.3.27", false),
            ("2.3.8", false),
            ("", false),
            ("3.5", false),
            ("x.y.z", false),
        ] {
            assert_eq!(tells_progress_in_order(version), in_order, "{version}");
        }
    }

    #[test]
    fn silence_is_noticed_within_the_declared_bound() {
        assert!(ASK_AFTER + ANSWER_WITHIN < SILENCE);
    }
}
