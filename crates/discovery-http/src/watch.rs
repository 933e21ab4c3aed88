//! What the service tells those who watch, as changes of a store.
//!
//! A watch is one answer that does not end. Where such answers do not get through, because
//! something in between keeps them back, it is one request after the other.

use std::{collections::VecDeque, time::Duration};

use discovery_core::{
    Cluster, DiscoveryError, ErrorKind,
    store::{Change, Changes, Position, Record, RecordKey},
};
use futures_util::stream;

use crate::{
    client::{self, Client, Request},
    error::{self, Effect},
    part,
    sse::Event,
    stream::EventStream,
    wire::{self, GoneRecord, PollAnswer, Problem, ResetPart, WireRecord},
};

/// The most bytes of keys and bodies in one reset: 10,000 records of full size.
const RESET_BYTES: usize = 192 * 1_024 * 1_024;
/// The most bytes of one answer to a poll.
const POLL_BYTES: usize = 256 * 1_024 * 1_024;

/// Watches what lies under a prefix; established when the call returns.
pub(crate) async fn changes(
    client: &Client,
    prefix: &RecordKey,
    after: Option<Position>,
) -> Result<Changes, DiscoveryError> {
    let cluster = part::cluster(prefix)?;
    let mut watch = Watch {
        client: client.clone(),
        cluster: cluster.clone(),
        prefix: prefix.clone(),
        link: Link::Ended,
        reading: Reading::new(cluster, prefix.clone()),
        position: after,
        ready: VecDeque::new(),
    };
    let request = Request::get(watch.path(None)).accepting(wire::EVENT_STREAM);
    watch.link = match client.events(&request, client.deadline()).await {
        Ok(events) => Link::Opened(events),
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            tracing::debug!(%error, "the service streams no events; polling");
            watch.poll(Duration::ZERO, client.timeout()).await?;
            Link::Polling(client.keep_alive() / 2)
        }
        Err(error) => return Err(error),
    };
    Ok(Box::pin(stream::unfold(watch, |mut watch| async move {
        let change = watch.next().await?;
        Some((change, watch))
    })))
}

struct Watch {
    client: Client,
    cluster: Cluster,
    prefix: RecordKey,
    link: Link,
    reading: Reading,
    /// What it has come to.
    position: Option<Position>,
    ready: VecDeque<Change>,
}

enum Link {
    /// Nothing was heard yet: something in between may keep it all back.
    Opened(EventStream),
    Streaming(EventStream),
    /// Asked again and again, waiting for this long each time.
    Polling(Duration),
    Ended,
}

impl Watch {
    async fn next(&mut self) -> Option<Result<Change, DiscoveryError>> {
        while self.ready.is_empty() {
            if matches!(self.link, Link::Ended) {
                return None;
            }
            if let Err(error) = self.step().await {
                // Dropping a stream closes its connection.
                self.link = Link::Ended;
                return Some(Err(error));
            }
        }
        let change = self.ready.pop_front()?;
        self.position = match &change {
            Change::Reset { as_of, .. } => *as_of,
            change => change.position().or(self.position),
        };
        Some(Ok(change))
    }

    /// Hears one event, or what one poll answers.
    async fn step(&mut self) -> Result<(), DiscoveryError> {
        let keep_alive = self.client.keep_alive();
        let event = match &mut self.link {
            // The service says something at once.
            Link::Opened(events) => match events.next(keep_alive).await {
                Err(error) if error.kind() == ErrorKind::Timeout => {
                    tracing::debug!(%error, "a watch was opened, but nothing came; polling");
                    self.link = Link::Polling(Duration::ZERO);
                    return Ok(());
                }
                event => event?,
            },
            Link::Streaming(events) => events.next(2 * keep_alive).await?,
            Link::Polling(wait) => {
                let wait = std::mem::replace(wait, keep_alive / 2);
                return self.poll(wait, keep_alive).await;
            }
            Link::Ended => return Ok(()),
        };
        let change = self.reading.take(event).map_err(|fault| self.error(fault))?;
        self.ready.extend(change);
        self.link = match std::mem::replace(&mut self.link, Link::Ended) {
            Link::Opened(events) => Link::Streaming(events),
            link => link,
        };
        Ok(())
    }

    /// One poll, answered within `limit`.
    async fn poll(&mut self, wait: Duration, limit: Duration) -> Result<(), DiscoveryError> {
        let request = Request::get(self.path(Some(wait))).at_most(POLL_BYTES);
        let answer: PollAnswer = self.client.poll(&request, limit).await?;
        for event in answer.events {
            let event = Event {
                name: event.event,
                id: event.id,
                data: event.data.get().to_owned(),
            };
            let change = self.reading.take(event).map_err(|fault| self.error(fault))?;
            self.ready.extend(change);
        }
        let cursor = answer.cursor.as_deref();
        let cursor = cursor.ok_or_else(|| self.error("without saying where to go on".into()))?;
        let at = wire::cursor(cursor).ok_or_else(|| self.error("with a cursor that is none".into()))?;
        self.position = Some(at);
        self.ready.push_back(Change::Progress(at));
        Ok(())
    }

    fn path(&self, wait: Option<Duration>) -> String {
        let cursor = self.position.map(wire::cursor_text);
        let timing = match wait {
            Some(wait) => ("wait", milliseconds(wait)),
            None => ("keep_alive", milliseconds(self.client.keep_alive())),
        };
        let mut options = vec![(timing.0, timing.1.as_str())];
        options.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        client::prefix_path(&self.cluster, "watch", &self.prefix, &options)
    }

    fn error(&self, fault: Fault) -> DiscoveryError {
        match fault {
            Fault::Told(problem) => self.client.problem(&problem, Effect::Read),
            Fault::Foreign(why, cause) => {
                let error = self.client.unreadable(Effect::Read, &why);
                match cause {
                    Some(cause) => error.with_source(cause),
                    None => error,
                }
            }
        }
    }
}

fn milliseconds(duration: Duration) -> String {
    format!("{}ms", wire::millis(duration))
}

/// Why an event is no change.
#[derive(Debug)]
enum Fault {
    /// The service says that the watch has ended.
    Told(Box<Problem>),
    /// What came is not what a service tells.
    Foreign(String, Option<DiscoveryError>),
}

impl From<&str> for Fault {
    fn from(why: &str) -> Self {
        Self::Foreign(why.to_owned(), None)
    }
}

impl From<serde_json::Error> for Fault {
    fn from(cause: serde_json::Error) -> Self {
        let cause =
            error::error(ErrorKind::Malformed, "an event cannot be read".to_owned()).with_source(cause);
        Self::Foreign("with an event that is none".to_owned(), Some(cause))
    }
}

impl From<DiscoveryError> for Fault {
    fn from(cause: DiscoveryError) -> Self {
        Self::Foreign("with a record that is none".to_owned(), Some(cause))
    }
}

/// Puts changes together from events.
struct Reading {
    cluster: Cluster,
    prefix: RecordKey,
    /// The parts of a reset that came so far, and their bytes.
    reset: Option<(Vec<Record>, u64, usize)>,
}

impl Reading {
    fn new(cluster: Cluster, prefix: RecordKey) -> Self {
        Self {
            cluster,
            prefix,
            reset: None,
        }
    }

    fn take(&mut self, event: Event) -> Result<Option<Change>, Fault> {
        let at = event
            .id
            .as_deref()
            .map(|id| wire::cursor(id).ok_or("with an id that is none"));
        let at = at.transpose()?;
        if self.reset.is_some() && [wire::PUT, wire::GONE, wire::PROGRESS].contains(&event.name.as_str()) {
            return Err("with a reset that is not complete".into());
        }
        match event.name.as_str() {
            wire::RESET => self.part(serde_json::from_str(&event.data)?, at),
            wire::PUT => {
                let mut record = self.record(serde_json::from_str(&event.data)?)?;
                record.at = at.or(record.at);
                Ok(Some(Change::Put(record)))
            }
            wire::GONE => {
                let gone: GoneRecord = serde_json::from_str(&event.data)?;
                let why = gone.why();
                let key = self.own(wire::key(&self.cluster, &gone.key)?)?;
                Ok(Some(Change::Gone { key, at, why }))
            }
            wire::PROGRESS => Ok(at.map(Change::Progress)),
            wire::ERROR => Err(Fault::Told(serde_json::from_str(&event.data)?)),
            // A newer service may tell more.
            _ => Ok(None),
        }
    }

    fn part(&mut self, part: ResetPart, at: Option<Position>) -> Result<Option<Change>, Fault> {
        let (mut records, next, mut bytes) = match part.part {
            0 => (Vec::new(), 0, 0),
            _ => self.reset.take().ok_or("with a reset that has no beginning")?,
        };
        if part.part != next {
            return Err("with a reset of which a part is missing".into());
        }
        for record in part.records {
            let record = self.record(record)?;
            bytes += record.key.as_str().len() + record.body.len();
            records.push(record);
        }
        if bytes > RESET_BYTES {
            return Err("with more records than this client holds".into());
        }
        if !part.last {
            self.reset = Some((records, next + 1, bytes));
            return Ok(None);
        }
        self.reset = None;
        Ok(Some(Change::Reset {
            records: records.into(),
            as_of: at,
        }))
    }

    fn record(&self, record: WireRecord) -> Result<Record, Fault> {
        let mut record = record.into_record(&self.cluster)?;
        record.key = self.own(record.key)?;
        Ok(record)
    }

    fn own(&self, key: RecordKey) -> Result<RecordKey, Fault> {
        match key.starts_with(&self.prefix) {
            true => Ok(key),
            false => Err("with a record that was not asked for".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use discovery_core::store::Departure;

    use super::*;

    fn reading() -> Reading {
        let cluster = Cluster::try_new("c").unwrap();
        let prefix = RecordKey::try_new(&cluster, "things", &[]).unwrap();
        Reading::new(cluster, prefix)
    }

    fn event(name: &str, id: Option<&str>, data: &str) -> Event {
        Event {
            name: name.to_owned(),
            id: id.map(str::to_owned),
            data: data.to_owned(),
        }
    }

    fn record(key: &str) -> String {
        let writer = "0".repeat(32);
        format!(r#"{{"key":"{key}","body":"b","writer":"{writer}","version":"00"}}"#)
    }

    fn part(number: u64, last: bool, keys: &[&str]) -> String {
        let records: Vec<_> = keys.iter().map(|key| record(key)).collect();
        let records = records.join(",");
        format!(r#"{{"part":{number},"last":{last},"records":[{records}]}}"#)
    }

    #[test]
    fn a_reset_counts_when_it_is_complete() {
        let mut reading = reading();
        let mut take = |id: Option<&str>, data: &str| reading.take(event("reset", id, data)).unwrap();
        assert!(take(None, &part(0, false, &["things/1"])).is_none());
        // Begun anew.
        assert!(take(None, &part(0, false, &["things/2", "things/3"])).is_none());
        assert!(take(None, &part(1, false, &[])).is_none());
        let Some(Change::Reset { records, as_of }) = take(Some("7-9"), &part(2, true, &["things/4"])) else {
            panic!("not complete");
        };
        let keys: Vec<_> = records
            .iter()
            .map(|record| record.key.last().to_owned())
            .collect();
        assert_eq!(keys, ["2", "3", "4"]);
        assert_eq!(as_of.map(wire::cursor_text).as_deref(), Some("7-9"));
    }

    #[test]
    fn changes_have_the_position_of_their_event() {
        let mut reading = reading();
        let put = reading
            .take(event("put", Some("1-2"), &record("things/1")))
            .unwrap();
        assert!(matches!(&put, Some(Change::Put(record)) if record.key.last() == "1"));
        assert_eq!(put.unwrap().position(), wire::cursor("1-2"));
        let gone = r#"{"key":"things/1","why":"expired"}"#;
        let gone = reading.take(event("gone", Some("1-3"), gone)).unwrap().unwrap();
        assert_eq!(gone.position(), wire::cursor("1-3"));
        assert!(matches!(
            gone,
            Change::Gone {
                why: Departure::Expired,
                ..
            }
        ));
        let gone = r#"{"key":"things/1","why":"from the future"}"#;
        let gone = reading.take(event("gone", None, gone)).unwrap().unwrap();
        assert!(matches!(
            gone,
            Change::Gone {
                why: Departure::Unknown,
                at: None,
                ..
            }
        ));
        let progress = reading.take(event("progress", Some("1-4"), "{}")).unwrap();
        assert_eq!(progress.unwrap().position(), wire::cursor("1-4"));
        assert!(reading.take(event("progress", None, "{}")).unwrap().is_none());
        assert!(
            reading
                .take(event("from-the-future", None, "?"))
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn what_no_service_tells_is_refused() {
        let begun = part(0, false, &["things/1"]);
        for events in [
            vec![("reset", None, part(1, true, &[]))],
            vec![
                ("reset", None, begun.clone()),
                ("reset", None, part(2, true, &[])),
            ],
            vec![("reset", None, begun.clone()), ("put", None, record("things/2"))],
            vec![("reset", None, begun), ("progress", Some("1-1"), "{}".to_owned())],
            vec![("reset", None, part(0, true, &["elsewhere/1"]))],
            vec![("reset", None, "{}".to_owned())],
            vec![("put", Some("x"), record("things/1"))],
            vec![("put", None, record("thingsx/1"))],
            vec![("put", None, record("things//1"))],
            vec![("put", None, "[]".to_owned())],
            vec![("gone", None, r#"{"key":"other/1","why":"removed"}"#.to_owned())],
            vec![("error", None, "?".to_owned())],
        ] {
            let mut reading = reading();
            let shown = format!("{events:?}");
            let mut fault = None;
            for (name, id, data) in events {
                fault = reading.take(event(name, id, &data)).err();
            }
            assert!(matches!(fault, Some(Fault::Foreign(..))), "{shown}");
        }
    }

    #[test]
    fn the_end_that_a_service_tells_is_its_problem() {
        let problem = r#"{"type":"urn:discovery:problem:unavailable","code":"unavailable"}"#;
        let fault = reading().take(event("error", None, problem)).unwrap_err();
        assert!(matches!(fault, Fault::Told(problem) if problem.code == "unavailable"));
    }
}
