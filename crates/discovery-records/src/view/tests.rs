use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use discovery_core::{
    Cluster, ErrorKind,
    store::{
        Change, Changes, Held, Listing, Position, Removal, Removed, Renewal, Session, Version, Write, Writer,
        Written,
    },
};
use futures_util::StreamExt;

use super::*;

/// The name of a record is what it says.
fn text(_: &RecordKey, body: &[u8]) -> Result<String, DiscoveryError> {
    let text = String::from_utf8(body.to_vec()).map_err(|_| unreadable())?;
    if text == "unreadable" {
        Err(unreadable())
    } else {
        Ok(text)
    }
}

fn unreadable() -> DiscoveryError {
    DiscoveryError::new(ErrorKind::Malformed, "not text")
}

fn prefix() -> RecordKey {
    RecordKey::try_new(&Cluster::default(), "things", &[]).unwrap()
}

fn record(name: &str, says: &str) -> Record {
    Record {
        key: prefix().child(name).unwrap(),
        body: says.to_owned().into(),
        writer: Writer::random(),
        version: Version(Bytes::new()),
        at: None,
    }
}

fn put(name: &str, says: &str) -> Change {
    Change::Put(record(name, says))
}

fn gone(name: &str) -> Change {
    let (key, at, why) = (prefix().child(name).unwrap(), None, Departure::Expired);
    Change::Gone { key, at, why }
}

fn reset(names: &[&str]) -> Change {
    let records = names.iter().map(|name| record(name, name)).collect();
    let as_of = Some(Position {
        generation: 1,
        seq: 7,
    });
    Change::Reset { records, as_of }
}

fn lost() -> DiscoveryError {
    DiscoveryError::new(ErrorKind::Unavailable, "lost")
}

/// An event in a few words.
fn words(event: &ViewEvent<String>) -> String {
    match event {
        ViewEvent::Snapshot(items) => format!("snapshot {}", items.join(" ")),
        ViewEvent::Added(item) => format!("added {item}"),
        ViewEvent::Modified { previous, item } => format!("modified {previous} {item}"),
        ViewEvent::Removed { item, why } => format!("removed {item} {why:?}"),
        ViewEvent::Interrupted(_) => "interrupted".to_owned(),
        ViewEvent::Resynced { suspects } => format!("resynced {}", suspects.join(" ")),
    }
}

fn told(fold: &mut Fold<String>) -> Vec<String> {
    std::iter::from_fn(|| fold.next_event())
        .map(|event| words(&event))
        .collect()
}

fn folding(names: &[&str], hold: Option<Duration>) -> Fold<String> {
    let mut fold = Fold::new(text, hold);
    fold.apply(reset(names), Instant::now());
    told(&mut fold);
    fold
}

const TTL: Duration = Duration::from_secs(10);
const DOZEN: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

#[tokio::test(start_paused = true)]
async fn only_what_is_said_makes_events() {
    let mut fold = folding(&["a"], None);
    let now = Instant::now();
    for change in [
        put("a", "a"),
        put("b", "b"),
        put("b", "b"),
        put("b", "c"),
        gone("b"),
        gone("b"),
        put("a", "unreadable"),
        put("a", "unreadable"),
        Change::Progress(Position {
            generation: 1,
            seq: 9,
        }),
    ] {
        fold.apply(change, now);
    }
    assert_eq!(
        told(&mut fold),
        [
            "added b",
            "modified b c",
            "removed c Expired",
            "removed a Unknown"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn every_interruption_has_an_end_and_is_told_once() {
    let mut fold = folding(&["a"], None);
    let now = Instant::now();
    fold.interrupted(lost());
    fold.interrupted(lost());
    fold.apply(put("b", "b"), now);
    fold.apply(
        Change::Progress(Position {
            generation: 1,
            seq: 9,
        }),
        now,
    );
    assert_eq!(told(&mut fold), ["interrupted", "added b", "resynced "]);
    fold.interrupted(lost());
    fold.apply(reset(&["a"]), now);
    assert_eq!(told(&mut fold), ["interrupted", "removed b Unknown", "resynced "]);
    // A reader who was too slow was not interrupted, but did miss something.
    fold.apply(reset(&["a", "c"]), now);
    assert_eq!(told(&mut fold), ["added c", "resynced "]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_before_the_snapshot() {
    let mut fold = Fold::new(text, None);
    fold.interrupted(lost());
    assert_eq!(told(&mut fold), Vec::<String>::new());
    fold.apply(reset(&[]), Instant::now());
    assert_eq!(told(&mut fold), ["snapshot "]);
}

#[tokio::test(start_paused = true)]
async fn a_mass_removal_is_more_than_half_of_ten_or_more() {
    for (before, after, held) in [
        (12, 6, false),
        (12, 5, true),
        (10, 4, true),
        (9, 0, false),
        (12, 0, true),
    ] {
        let mut fold = folding(&DOZEN[..before], Some(TTL));
        fold.apply(reset(&DOZEN[..after]), Instant::now());
        let told = told(&mut fold);
        assert_eq!(told.len() == 1, held, "{before} to {after}: {told:?}");
        let suspects = if held {
            DOZEN[after..before].join(" ")
        } else {
            String::new()
        };
        assert_eq!(*told.last().unwrap(), format!("resynced {suspects}"));
    }
}

#[tokio::test(start_paused = true)]
async fn suspects_are_held_for_one_ttl_in_all() {
    let mut fold = folding(&DOZEN, Some(TTL));
    let begun = Instant::now();
    fold.apply(reset(&[]), begun);
    fold.believe(begun + TTL - Duration::from_millis(1));
    assert_eq!(told(&mut fold).len(), 1, "held");
    // Another snapshot prolongs nothing, and what it names is no suspect any more.
    fold.apply(reset(&DOZEN[..2]), begun + TTL / 2);
    assert_eq!(told(&mut fold), ["resynced c d e f g h i j k l"]);
    // Nor does one that is no mass removal cut it short.
    fold.apply(put("c", "c"), begun + TTL / 2);
    fold.apply(gone("d"), begun + TTL / 2);
    assert_eq!(told(&mut fold), ["removed d Expired"]);
    fold.believe(fold.due().unwrap());
    let told = told(&mut fold);
    assert_eq!(told.len(), 8, "{told:?}");
    assert_eq!(fold.due(), None);
}

#[tokio::test(start_paused = true)]
async fn a_list_is_compared_with_what_was_not_heard_of_since() {
    let mut fold = folding(&["a", "b", "c", "d"], None);
    fold.note();
    let now = Instant::now();
    fold.apply(put("new", "new"), now);
    fold.apply(gone("a"), now);
    // The list was made before both; the watch has missed that c left, d changed and e came.
    let listed = [
        record("a", "a"),
        record("b", "b"),
        record("d", "x"),
        record("e", "e"),
        record("f", "unreadable"),
    ];
    let mut names: Vec<_> = fold
        .differences(&listed)
        .iter()
        .map(|key| key.last().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["c", "d", "e"]);
}

/// A store whose watches are told what to tell; the rest of it is not there.
#[derive(Debug, Default)]
struct Scripted {
    /// What each watch tells, before it is silent for ever.
    watches: Mutex<Vec<Vec<Result<Change, DiscoveryError>>>>,
    asked: Mutex<Vec<Option<Position>>>,
}

impl Scripted {
    fn new(watches: Vec<Vec<Result<Change, DiscoveryError>>>) -> Arc<Self> {
        let mut watches = watches;
        watches.reverse();
        Arc::new(Self {
            watches: Mutex::new(watches),
            asked: Mutex::default(),
        })
    }

    async fn view(self: &Arc<Self>) -> impl Stream<Item = String> + Unpin {
        let config = ViewConfig::default();
        let events = watch(self.clone(), prefix(), text, TTL, config).await.unwrap();
        Box::pin(events.map(|event| words(&event)))
    }
}

#[async_trait]
impl RecordStore for Scripted {
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
    async fn list(&self, _: &RecordKey, _: Option<Bytes>) -> Result<Listing, DiscoveryError> {
        Err(lost())
    }
    async fn watch(&self, _: &RecordKey, after: Option<Position>) -> Result<Changes, DiscoveryError> {
        self.asked.lock().unwrap().push(after);
        let told = self.watches.lock().unwrap().pop().ok_or_else(lost)?;
        Ok(Box::pin(stream::iter(told).chain(stream::pending())))
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_where_it_broke() {
    let at = |seq| Position { generation: 1, seq };
    let store = Scripted::new(vec![
        vec![Ok(reset(&["a"])), Ok(Change::Progress(at(9))), Err(lost())],
        vec![Ok(put("b", "b")), Err(lost())],
        vec![Ok(Change::Progress(at(12)))],
    ]);
    let told: Vec<_> = store.view().await.take(4).collect().await;
    assert_eq!(told, ["snapshot a", "interrupted", "added b", "resynced "]);
    assert_eq!(*store.asked.lock().unwrap(), [None, Some(at(9)), Some(at(9))]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_ends_a_watch_or_begins_it_in_the_middle_is_tried_again() {
    let store = Scripted::new(vec![vec![Ok(put("x", "x"))], vec![Ok(reset(&["a"]))]]);
    let told: Vec<_> = store.view().await.take(1).collect().await;
    assert_eq!(told, ["snapshot a"]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_asked_less_and_less_often() {
    let store = Scripted::new(vec![vec![Ok(reset(&["a"])), Err(lost())]]);
    let mut view = store.view().await;
    assert_eq!(view.next().await.unwrap(), "snapshot a");
    assert_eq!(view.next().await.unwrap(), "interrupted");
    let _ = tokio::time::timeout(Duration::from_secs(60), view.next()).await;
    let asked = store.asked.lock().unwrap().len();
    assert!((15..60).contains(&asked), "{asked} times in a minute");
}

#[test]
fn options_of_a_url_are_read_and_refused_by_name() {
    let read = |text: &str| {
        let mut url: SystemUrl = text.parse().unwrap();
        ViewConfig::from_url(&mut url)
    };
    assert_eq!(read("x://").unwrap(), ViewConfig::default());
    let config = read("x://?hold_mass_removals=off&check_every=30s").unwrap();
    assert!(!config.hold_mass_removals && config.check_every == Duration::from_secs(30));
    for (text, named) in [
        ("x://?hold_mass_removals=no", "hold_mass_removals"),
        ("x://?check_every=10ms", "check_every"),
    ] {
        let error = read(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains(named), "{error}");
    }
}
