use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use discovery_core::{
    Cluster, ErrorKind,
    store::{Held, Listing, Removal, Removed, Renewal, Session, Version, Write, Written},
};
use futures_util::StreamExt;
use tokio::time::{Instant, timeout};

use super::*;

const EVERY: Duration = Duration::from_secs(1);

fn prefix() -> RecordKey {
    RecordKey::try_new(&Cluster::default(), "things", &[]).unwrap()
}

/// A record by its name, its author, what it says and its version.
fn record(name: &str, writer: u128, says: &str, version: u64) -> Record {
    Record {
        key: prefix().child(name).unwrap(),
        body: says.to_owned().into(),
        writer: Writer::from_u128(writer),
        version: Version(version.to_string().into()),
        at: Some(at(1, version)),
    }
}

fn at(generation: u64, seq: u64) -> Position {
    Position { generation, seq }
}

fn page(records: &[Record], as_of: Option<Position>, next: Option<&'static str>) -> Listing {
    Listing {
        records: records.to_vec(),
        as_of,
        next: next.map(Bytes::from),
        ..Listing::default()
    }
}

/// A list of one page, of a store without positions.
fn list(records: &[Record]) -> Vec<Listing> {
    vec![page(records, None, None)]
}

fn lost() -> DiscoveryError {
    DiscoveryError::new(ErrorKind::Unavailable, "lost")
}

/// A store that can only list, and gives one page after the other; fails when there is none left.
#[derive(Debug, Default)]
struct Pages {
    left: Mutex<VecDeque<Listing>>,
    asked: Mutex<Vec<(Instant, Option<Bytes>)>>,
}

impl Pages {
    fn new(lists: impl IntoIterator<Item = Vec<Listing>>) -> Arc<Self> {
        Arc::new(Self {
            left: Mutex::new(lists.into_iter().flatten().collect()),
            asked: Mutex::default(),
        })
    }

    fn asked(&self) -> Vec<(Instant, Option<Bytes>)> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl RecordStore for Pages {
    async fn open(&self, _: Duration) -> Result<Session, DiscoveryError> {
        Err(lost())
    }
    async fn write(&self, _: &Session, _: &[Write]) -> Vec<Result<Written, DiscoveryError>> {
        Vec::new()
    }
    async fn renew(&self, _: &Session, _: &[Held]) -> Result<Renewal, DiscoveryError> {
        Err(lost())
    }
    async fn remove(&self, _: &Session, _: &Removal) -> Result<Removed, DiscoveryError> {
        Err(lost())
    }
    async fn close(&self, _: &Session) -> Result<(), DiscoveryError> {
        Err(lost())
    }
    async fn get(&self, _: &[RecordKey]) -> Vec<Result<Option<Record>, DiscoveryError>> {
        Vec::new()
    }
    async fn list(&self, _: &RecordKey, page: Option<Bytes>) -> Result<Listing, DiscoveryError> {
        self.asked.lock().unwrap().push((Instant::now(), page));
        self.left.lock().unwrap().pop_front().ok_or_else(lost)
    }
    async fn watch(&self, _: &RecordKey, _: Option<Position>) -> Result<Changes, DiscoveryError> {
        Err(lost())
    }
}

/// A change in a few words: what it says, and where it leads to.
fn words(change: Result<Change, DiscoveryError>) -> String {
    match change {
        Ok(Change::Reset { records, as_of }) => {
            let names: Vec<_> = records.iter().map(said).collect();
            format!("reset{} {}", place(as_of), names.join(" "))
        }
        Ok(Change::Put(record)) => format!("put{} {}", place(record.at), said(&record)),
        Ok(Change::Gone { key, at, why }) => format!("gone{} {} {why:?}", place(at), key.last()),
        Ok(Change::Progress(position)) => format!("progress{}", place(Some(position))),
        Err(error) => format!("error {}", error.kind()),
    }
}

fn said(record: &Record) -> String {
    format!("{}={}", record.key.last(), String::from_utf8_lossy(&record.body))
}

fn place(position: Option<Position>) -> String {
    position.map_or(String::new(), |Position { generation, seq }| {
        format!("@{generation}.{seq}")
    })
}

/// Everything that is told of these lists, and how the watch ends when there is none left.
async fn told(lists: impl IntoIterator<Item = Vec<Listing>>) -> Vec<String> {
    let changes = poll(Pages::new(lists), prefix(), EVERY).await.unwrap();
    changes.map(words).collect().await
}

#[tokio::test(start_paused = true)]
async fn what_differs_is_told_and_the_first_error_is_the_last_item() {
    let one = record("a", 1, "one", 1);
    let two = record("b", 2, "two", 2);
    let three = record("c", 3, "three", 3);
    let lists = [
        list(&[one.clone(), two]),
        list(&[one.clone(), three.clone()]),
        list(&[one.clone(), three]),
        list(&[one, record("c", 3, "other", 4)]),
        list(&[]),
    ];
    assert_eq!(
        told(lists).await,
        [
            "reset a=one b=two",
            "gone b Unknown",
            "put c=three",
            "put c=other",
            "gone a Unknown",
            "gone c Unknown",
            "error unavailable"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_version_alone_is_no_change_and_hides_none_that_follows() {
    let lists = [
        list(&[record("a", 1, "x", 1)]),
        list(&[record("a", 1, "x", 2)]),
        list(&[record("a", 1, "y", 3)]),
        list(&[record("a", 1, "y", 4)]),
        list(&[record("a", 1, "y", 4)]),
    ];
    assert_eq!(told(lists).await, ["reset a=x", "put a=y", "error unavailable"]);
}

#[tokio::test(start_paused = true)]
async fn removed_and_created_again_between_two_lists_is_what_stands_now() {
    let lists = [
        list(&[record("a", 1, "x", 1), record("b", 1, "x", 2)]),
        // By another author, and with another body by the same one; the versions are counted anew.
        list(&[record("a", 2, "x", 1), record("b", 1, "y", 2)]),
        // Gone for longer than that, and back just as it was.
        list(&[record("b", 1, "y", 2)]),
        list(&[record("a", 2, "x", 1), record("b", 1, "y", 2)]),
    ];
    assert_eq!(
        told(lists).await,
        [
            "reset a=x b=x",
            "put a=x",
            "put b=y",
            "gone a Unknown",
            "put a=x",
            "error unavailable"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_store_that_lost_its_memory_is_told_whole() {
    let whole = |records: &[Record], generation, seq| vec![page(records, Some(at(generation, seq)), None)];
    let (a, b) = (record("a", 1, "x", 1), record("b", 1, "x", 2));
    let lists = [
        whole(&[a.clone(), b.clone()], 1, 5),
        whole(std::slice::from_ref(&b), 1, 6),
        whole(std::slice::from_ref(&a), 2, 3),
        whole(std::slice::from_ref(&a), 2, 3),
        // It loses its memory while it is listed: what the first page showed is gone.
        vec![
            page(&[a], Some(at(2, 4)), Some("next")),
            page(std::slice::from_ref(&b), Some(at(3, 1)), None),
        ],
        whole(&[b], 3, 1),
    ];
    assert_eq!(
        told(lists).await,
        [
            "reset@1.5 a=x b=x",
            "gone a Unknown",
            "progress@1.6",
            "reset@2.3 a=x",
            "reset@2.4 a=x b=x",
            "reset@3.1 b=x",
            "error unavailable"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_position_is_told_behind_what_happened_and_never_too_far() {
    let a = record("a", 1, "x", 1);
    let lists = [
        vec![page(&[], Some(at(1, 0)), None)],
        // The second page is of a later time, when the first one may not be true any more.
        vec![
            page(&[a], Some(at(1, 1)), Some("next")),
            page(&[record("b", 1, "y", 7)], Some(at(1, 7)), None),
        ],
    ];
    assert_eq!(
        told(lists).await,
        [
            "reset@1.0 ",
            "put a=x",
            "put b=y",
            "progress@1.1",
            "error unavailable"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_pages_of_a_list_are_followed_and_one_that_fails_ends_the_watch() {
    let halves = |next| vec![page(&[record("a", 1, "x", 1)], None, Some(next))];
    let store = Pages::new([halves("one"), list(&[record("b", 1, "x", 2)]), halves("two")]);
    let changes = poll(store.clone(), prefix(), EVERY).await.unwrap();
    let told: Vec<_> = changes.map(words).collect().await;
    assert_eq!(told, ["reset a=x b=x", "error unavailable"]);
    let pages: Vec<_> = store.asked().into_iter().map(|(_, page)| page).collect();
    assert_eq!(pages, [None, Some("one".into()), None, Some("two".into())]);
    let again = Pages::new([halves("one"), halves("one")]);
    let error = poll(again, prefix(), EVERY).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unexpected, "{error}");
}

#[tokio::test(start_paused = true)]
async fn who_reads_late_gets_the_last_state_and_costs_nothing_until_then() {
    let store = Pages::new([
        list(&[]),
        list(&[record("a", 1, "last", 9)]),
        list(&[record("a", 1, "last", 9)]),
    ]);
    let mut changes = poll(store.clone(), prefix(), EVERY).await.unwrap();
    sleep(EVERY * 100).await;
    assert_eq!(store.asked().len(), 1);
    assert_eq!(words(changes.next().await.unwrap()), "reset ");
    assert_eq!(words(changes.next().await.unwrap()), "put a=last");
    assert_eq!(store.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn lists_are_made_at_intervals_that_differ() {
    let store = Pages::new((0..40).map(|_| list(&[])));
    let changes = poll(store.clone(), prefix(), EVERY).await.unwrap();
    let told: Vec<_> = changes.map(words).collect().await;
    assert_eq!(told, ["reset ", "error unavailable"]);
    let asked = store.asked();
    let waits: Vec<_> = asked.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert_eq!(waits.len(), 40);
    // The timer is one of whole milliseconds.
    let longest = EVERY + Duration::from_millis(1);
    assert!(
        waits.iter().all(|wait| (EVERY / 2..=longest).contains(wait)),
        "{waits:?}"
    );
    assert!(waits.windows(2).any(|pair| pair[0] != pair[1]), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reader_who_gives_up_waiting_loses_nothing() {
    let store = Pages::new([list(&[]), list(&[record("a", 1, "x", 1)])]);
    let mut changes = poll(store, prefix(), EVERY).await.unwrap();
    let mut told = Vec::new();
    while told.len() < 3 {
        if let Ok(change) = timeout(EVERY / 7, changes.next()).await {
            told.push(words(change.unwrap()));
        }
    }
    assert_eq!(told, ["reset ", "put a=x", "error unavailable"]);
}

#[tokio::test(start_paused = true)]
async fn there_is_no_watch_without_a_list_or_without_a_pause() {
    let error = poll(Pages::new([]), prefix(), EVERY).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let never = Duration::ZERO;
    let error = poll(Pages::new([list(&[])]), prefix(), never)
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
}
