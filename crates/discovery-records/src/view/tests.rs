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

fn at(seq: u64) -> Position {
    Position { generation: 1, seq }
}

fn progress(seq: u64) -> Change {
    Change::Progress(at(seq))
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
async fn suspects_are_not_believed_while_nothing_can_be_heard() {
    let mut fold = folding(&DOZEN, Some(TTL));
    let begun = Instant::now();
    fold.apply(reset(&[]), begun);
    fold.interrupted(lost());
    assert_eq!(fold.due(), None);
    told(&mut fold);
    // What the store has learned again meanwhile is told before anything is believed.
    fold.apply(put("a", "a"), begun + 2 * TTL);
    fold.apply(progress(9), begun + 2 * TTL);
    assert_eq!(told(&mut fold), ["resynced b c d e f g h i j k l"]);
    assert_eq!(fold.due(), Some(begun + TTL));
    fold.believe(begun + 2 * TTL);
    assert_eq!(told(&mut fold).len(), 11);
    assert_eq!(fold.due(), None);
}

#[tokio::test]
async fn many_suspects_do_not_slow_a_busy_watch_down() {
    let many: Vec<_> = (0..20_000).map(|at| format!("{at:05}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let mut fold = folding(&many, Some(TTL));
    fold.apply(reset(&[]), Instant::now());
    let begun = Instant::now();
    for _ in 0..20_000 {
        assert!(fold.due().is_some());
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
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
    /// What each watch tells: how long after the item before, and what; then it is silent.
    watches: Mutex<Vec<Vec<(u64, Told)>>>,
    asked: Mutex<Vec<Option<Position>>>,
    /// What a list finds, and what it finds from some second on; none if it fails.
    listed: Option<[&'static [&'static str]; 2]>,
    listed_from: Option<Instant>,
}

type Told = Result<Change, DiscoveryError>;

impl Scripted {
    fn new(watches: Vec<Vec<Told>>) -> Arc<Self> {
        let at_once = |watch: Vec<_>| watch.into_iter().map(|told| (0, told)).collect();
        Arc::new(Self::timed(watches.into_iter().map(at_once).collect()))
    }

    fn timed(mut watches: Vec<Vec<(u64, Told)>>) -> Self {
        watches.reverse();
        Self {
            watches: Mutex::new(watches),
            ..Self::default()
        }
    }

    /// Lists `first`, and after `secs` seconds `then`.
    fn listing(self, first: &'static [&'static str], secs: u64, then: &'static [&'static str]) -> Arc<Self> {
        Arc::new(Self {
            listed: Some([first, then]),
            listed_from: Some(Instant::now() + Duration::from_secs(secs)),
            ..self
        })
    }

    async fn view(self: &Arc<Self>) -> impl Stream<Item = String> + Unpin {
        self.view_checked(ViewConfig::default().check_every).await
    }

    async fn view_checked(self: &Arc<Self>, check_every: Duration) -> impl Stream<Item = String> + Unpin {
        let config = ViewConfig {
            check_every,
            ..ViewConfig::default()
        };
        let events = watch(self.clone(), prefix(), text, TTL, config).await.unwrap();
        Box::pin(events.map(|event| words(&event)))
    }

    /// From where on watches were asked for while somebody read a view for some minutes.
    async fn asked_in(self: &Arc<Self>, minutes: u64, check_every: Duration) -> Vec<Option<Position>> {
        let reading = self.view_checked(check_every).await.for_each(|_| async {});
        let _ = tokio::time::timeout(Duration::from_secs(60 * minutes), reading).await;
        self.asked.lock().unwrap().clone()
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
        let [first, then] = self.listed.ok_or_else(lost)?;
        let later = self.listed_from.is_some_and(|from| from <= Instant::now());
        let names = if later { then } else { first };
        Ok(Listing {
            records: names.iter().map(|name| record(name, name)).collect(),
            ..Listing::default()
        })
    }
    async fn watch(&self, _: &RecordKey, after: Option<Position>) -> Result<Changes, DiscoveryError> {
        self.asked.lock().unwrap().push(after);
        let told = self.watches.lock().unwrap().pop().ok_or_else(lost)?;
        let told = stream::iter(told).then(|(secs, told)| async move {
            tokio::time::sleep(Duration::from_secs(secs)).await;
            told
        });
        Ok(Box::pin(told.chain(stream::pending())))
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_where_it_broke() {
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

#[tokio::test(start_paused = true)]
async fn a_store_that_breaks_every_watch_is_not_asked_all_the_time() {
    let breaks = || vec![Ok(reset(&["a"])), Err(lost())];
    let store = Scripted::new((0..2_000).map(|_| breaks()).collect());
    let asked = store.asked_in(1, Duration::from_secs(300)).await.len();
    assert!((15..60).contains(&asked), "{asked} times in a minute");
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_watch_that_misses_something_is_started_over() {
    let watches = vec![vec![(0, Ok(reset(&["a"])))], vec![(0, Ok(reset(&["a", "b"])))]];
    let store = Scripted::timed(watches).listing(&["a", "b"], 0, &["a", "b"]);
    assert_eq!(store.asked_in(5, SECOND).await, [None, None]);
}

#[tokio::test(start_paused = true)]
async fn what_a_reset_tells_is_not_missed() {
    let watches = vec![vec![(0, Ok(reset(&["a"]))), (15, Ok(reset(&["a", "b"])))]];
    let store = Scripted::timed(watches).listing(&["a"], 10, &["a", "b"]);
    assert_eq!(store.asked_in(5, SECOND).await, [None]);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_behind_the_watch_starts_nothing_over() {
    let watches = vec![vec![(0, Ok(reset(&["a"]))), (0, Ok(put("b", "b")))]];
    let store = Scripted::timed(watches).listing(&["a"], 5, &["a", "b"]);
    assert_eq!(store.asked_in(5, SECOND).await, [None]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_cut_now_and_then_is_checked_all_the_same() {
    let mut watches = vec![vec![(0, Ok(reset(&["a"]))), (60, Err(lost()))]];
    watches.extend((0..1_000).map(|_| vec![(0, Ok(progress(9))), (60, Err(lost()))]));
    let store = Scripted::timed(watches).listing(&["a", "b"], 0, &["a", "b"]);
    let asked = store.asked_in(60, Duration::from_secs(100)).await;
    assert!(asked[1..].contains(&None), "nobody has noticed: {asked:?}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_heard_is_not_started_over() {
    let busy = || {
        let after = Some(Duration::from_secs(60));
        lost().with_retry(discovery_core::Retry::Safe { after })
    };
    let watches = vec![
        vec![(0, Ok(reset(&["a"]))), (0, Err(busy()))],
        vec![(0, Ok(put("b", "b"))), (0, Ok(progress(9)))],
    ];
    let store = Scripted::timed(watches).listing(&["a", "b"], 0, &["a", "b"]);
    assert_eq!(store.asked_in(5, SECOND).await, [None, Some(at(7))]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_silent_after_an_interruption_is_started_over() {
    let watches = vec![
        vec![(0, Ok(reset(&["a"]))), (0, Err(lost()))],
        vec![],
        vec![(0, Ok(reset(&["a", "b"])))],
    ];
    let store = Scripted::timed(watches).listing(&["a", "b"], 0, &["a", "b"]);
    assert_eq!(store.asked_in(5, SECOND).await, [None, Some(at(7)), None]);
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
