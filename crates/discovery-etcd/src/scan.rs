//! Reading everything under a prefix, and the generation that positions belong to.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use discovery_core::{
    DiscoveryError, ErrorKind,
    store::{Listing, Position, Record, RecordKey, Version},
};

use crate::{
    client::{Condition, Entry, Line, Read, Request},
    error::{Fault, Reach},
    key::Keys,
    value,
};

/// Records of one page.
const PAGE: i64 = 10_000;
/// How often a read of everything begins anew because etcd has thrown away the revision that it
/// was to be true as of.
const ATTEMPTS: u32 = 3;

/// What all reads under a prefix need.
#[derive(Clone, Debug)]
pub(crate) struct Scan {
    pub(crate) keys: Keys,
    pub(crate) prefix: RecordKey,
}

/// The generations that were seen: a later one must be larger, also where clocks differ.
#[derive(Debug, Default)]
pub(crate) struct Generations(AtomicU64);

/// Where a page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    at: Position,
    /// The last key of the page before.
    after: Vec<u8>,
}

/// What was read at once.
struct Page {
    at: Position,
    entries: Vec<Entry>,
    more: bool,
}

impl Scan {
    /// The position of the store. Its generation is written down if it is not there yet.
    pub(crate) async fn position(&self, line: &Line, seen: &Generations) -> Result<Position, Fault> {
        let key = self.keys.generation(&self.prefix);
        loop {
            let found = line.read(Read::one(key.clone())).await?;
            let Some(generation) = found.entries.first() else {
                seen.begin(line, key.clone()).await?;
                continue;
            };
            return Ok(Position {
                generation: seen.read(generation, line.host())?,
                seq: u64::try_from(found.revision).unwrap_or_default(),
            });
        }
    }

    /// Everything, as of one position.
    pub(crate) async fn everything(
        &self,
        line: &Line,
        seen: &Generations,
    ) -> Result<(Vec<Record>, Position), Fault> {
        let mut attempt = 1;
        loop {
            match self.try_everything(line, seen).await {
                Err(fault) if fault.reach == Reach::NoRevision && attempt < ATTEMPTS => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    async fn try_everything(
        &self,
        line: &Line,
        seen: &Generations,
    ) -> Result<(Vec<Record>, Position), Fault> {
        let (start, end) = self.keys.range(&self.prefix);
        let mut page = self.read(line, seen, start, end.clone()).await?;
        let mut records = Vec::new();
        loop {
            let place = Place::after(&page);
            let (read, _) = self.records(page.entries, page.at.generation);
            records.extend(read);
            let Some(place) = place else {
                return Ok((records, page.at));
            };
            page = page_at(line, place.start(), end.clone(), place.at).await?;
        }
    }

    /// A page of a list: the first one, or the one at a place.
    pub(crate) async fn page(
        &self,
        line: &Line,
        seen: &Generations,
        place: Option<&Place>,
    ) -> Result<Listing, Fault> {
        let (start, end) = self.keys.range(&self.prefix);
        let page = match place {
            None => self.read(line, seen, start, end).await?,
            Some(place) => match page_at(line, place.start(), end.clone(), place.at).await {
                // Not true as of one position any more, but nothing that stands is left out.
                Err(fault) if fault.reach == Reach::NoRevision => {
                    self.read(line, seen, place.start(), end).await?
                }
                page => page?,
            },
        };
        let next = Place::after(&page).map(|place| place.token());
        let (records, skipped) = self.records(page.entries, page.at.generation);
        Ok(Listing {
            records,
            skipped,
            as_of: Some(page.at),
            next,
        })
    }

    /// Reads a page as of now, and the generation as of the same revision.
    async fn read(
        &self,
        line: &Line,
        seen: &Generations,
        start: Vec<u8>,
        end: Vec<u8>,
    ) -> Result<Page, Fault> {
        let at = self.position(line, seen).await?;
        page_at(line, start, end, at).await
    }

    /// The records among what was read, and how much else lies under the prefix.
    fn records(&self, entries: Vec<Entry>, generation: u64) -> (Vec<Record>, u64) {
        let mut skipped = 0;
        let mut records = Vec::with_capacity(entries.len());
        for entry in entries {
            match self.keys.read(&entry.key) {
                Some(key) if key.starts_with(&self.prefix) => {
                    let seq = u64::try_from(entry.revision).unwrap_or_default();
                    let at = Position { generation, seq };
                    records.push(record(key, entry, Some(at)));
                }
                Some(_) => {}
                None => skipped += u64::from(self.is_below(&entry.key)),
            }
        }
        (records, skipped)
    }

    /// Whether a key that is no record's lies under the prefix.
    fn is_below(&self, key: &[u8]) -> bool {
        let prefix = self.keys.record(&self.prefix);
        key.strip_prefix(&prefix[..])
            .is_some_and(|rest| rest.first().is_none_or(|first| *first == b'/'))
    }
}

impl Generations {
    /// Writes a generation down where there is none.
    async fn begin(&self, line: &Line, key: Vec<u8>) -> Result<(), Fault> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = u64::try_from(now.unwrap_or(Duration::ZERO).as_millis()).unwrap_or(u64::MAX);
        let generation = now.max(self.0.load(Ordering::Relaxed).saturating_add(1));
        let put = Request::Put {
            key: key.clone(),
            value: generation.to_string().into_bytes(),
            lease: 0,
        };
        let create = Request::If {
            when: vec![Condition::Absent(key.clone())],
            then: Box::new(put),
            otherwise: Box::new(Request::Get(key)),
        };
        line.run(vec![create]).await.map(drop)
    }

    fn read(&self, entry: &Entry, host: &str) -> Result<u64, Fault> {
        let text = str::from_utf8(&entry.value).ok();
        let generation = text.and_then(|text| text.parse().ok()).ok_or_else(|| {
            let key = String::from_utf8_lossy(&entry.key).into_owned();
            Fault::strange(
                ErrorKind::Malformed,
                format!("{key} at {host} is no number: remove that key"),
            )
        })?;
        self.0.fetch_max(generation, Ordering::Relaxed);
        Ok(generation)
    }
}

impl Place {
    fn after(page: &Page) -> Option<Self> {
        let last = page.entries.last().filter(|_| page.more)?;
        Some(Self {
            at: page.at,
            after: last.key.clone(),
        })
    }

    /// The first key that may come there.
    fn start(&self) -> Vec<u8> {
        let mut start = self.after.clone();
        start.push(0);
        start
    }

    /// A place as a page token, opaque to whoever gets it.
    fn token(&self) -> Bytes {
        let mut token = format!("{}.{}.", self.at.generation, self.at.seq).into_bytes();
        token.extend_from_slice(&self.after);
        token.into()
    }

    /// Reads a page token of a list under a prefix.
    pub(crate) fn read(token: &[u8], keys: &Keys, prefix: &RecordKey) -> Result<Self, DiscoveryError> {
        let (start, end) = keys.range(prefix);
        let mut parts = token.splitn(3, |byte| *byte == b'.');
        let mut number = || str::from_utf8(parts.next()?).ok()?.parse().ok();
        let at = number().zip(number());
        let at = at.map(|(generation, seq)| Position { generation, seq });
        let after = parts.next().filter(|key| (&start[..]..&end[..]).contains(key));
        match (at, after) {
            // 0 would be now, and not a position.
            (Some(at), Some(after)) if i64::try_from(at.seq).is_ok_and(|seq| seq > 0) => Ok(Self {
                at,
                after: after.to_vec(),
            }),
            _ => Err(DiscoveryError::invalid_argument(
                "the page token is none of this list",
            )),
        }
    }
}

/// A page as of a position.
async fn page_at(line: &Line, start: Vec<u8>, end: Vec<u8>, at: Position) -> Result<Page, Fault> {
    let read = Read {
        start,
        end: Some(end),
        limit: PAGE,
        revision: i64::try_from(at.seq).unwrap_or(i64::MAX),
    };
    let found = line.read(read).await?;
    Ok(Page {
        at,
        entries: found.entries,
        more: found.more,
    })
}

pub(crate) fn record(key: RecordKey, entry: Entry, at: Option<Position>) -> Record {
    let version = version(entry.revision);
    let (body, writer) = value::decode(entry.value);
    Record {
        key,
        body,
        writer,
        version,
        at,
    }
}

/// The revision of a write is the record's version.
pub(crate) fn version(revision: i64) -> Version {
    Version(Bytes::from(revision.to_string()))
}

/// The revision that a version is; `None` for one of another store, which never matches.
pub(crate) fn revision(version: &Version) -> Option<i64> {
    let revision = str::from_utf8(&version.0).ok()?.parse().ok()?;
    // Nothing that stands has a revision of 0: comparing with it would ask for absence.
    (revision > 0).then_some(revision)
}

#[cfg(test)]
mod tests {
    use discovery_core::Cluster;

    use super::*;

    fn scan() -> Scan {
        let cluster = Cluster::try_new("c").unwrap();
        Scan {
            keys: Keys::new("r"),
            prefix: RecordKey::try_new(&cluster, "peers", &[]).unwrap(),
        }
    }

    fn entry(key: &str) -> Entry {
        Entry {
            key: key.into(),
            value: b"garbage".to_vec(),
            revision: 7,
            lease: 0,
        }
    }

    #[test]
    fn what_lies_beside_the_prefix_is_not_counted_as_skipped() {
        let scan = scan();
        let entries = [
            "/r/c/peers",
            "/r/c/peers-b/1",
            "/r/c/peers.x",
            "/r/c/peers//",
            "/r/c/peers/1",
        ];
        let (records, skipped) = scan.records(entries.map(entry).into(), 1);
        let keys: Vec<_> = records.iter().map(|record| record.key.as_str()).collect();
        assert_eq!((keys, skipped), (vec!["c/peers", "c/peers/1"], 1));
        assert_eq!(
            records[0].at,
            Some(Position {
                generation: 1,
                seq: 7
            })
        );
    }

    #[test]
    fn a_page_token_leads_back_to_its_place() {
        let Scan { keys, prefix } = scan();
        let at = Position {
            generation: u64::MAX,
            seq: 12,
        };
        let place = Place {
            at,
            after: b"/r/c/peers/a.b.c".to_vec(),
        };
        assert_eq!(Place::read(&place.token(), &keys, &prefix).unwrap(), place);
        for token in [
            "",
            "1",
            "1.2",
            "1.2.",
            "1.2./r/c/other/1",
            "1.2./r/d/peers/1",
            "x.2./r/c/peers/1",
            "1.0./r/c/peers/1",
        ] {
            let error = Place::read(token.as_bytes(), &keys, &prefix).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{token}");
        }
    }

    #[test]
    fn versions_of_other_stores_match_nothing() {
        assert_eq!(revision(&version(12)), Some(12));
        for foreign in [&b""[..], b"0", b"-1", b"x", b"\xff", b"99999999999999999999"] {
            assert_eq!(
                revision(&Version(Bytes::from_static(foreign))),
                None,
                "{foreign:?}"
            );
        }
    }
}
