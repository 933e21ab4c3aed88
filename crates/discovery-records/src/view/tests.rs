use std::{fmt, sync::Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use discovery_core::{
    Cluster, ErrorKind, Retry,
    store::{
        Change, Changes, Held, Listing, Position, Removal, Removed, Renewal, Session, Version, Write, Writer,
        Written,
    },
};
use futures_util::StreamExt;

use self::Step::{Breaks, Ends, Refuses, Tells, Waits};
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
async fn newcomers_do_not_hide_a_mass_removal() {
    let mut fold = folding(&DOZEN, Some(TTL));
    let replaced: Vec<_> = (0..30).map(|name| name.to_string()).collect();
    let stand: Vec<_> = replaced.iter().map(String::as_str).collect();
    fold.apply(reset(&stand), Instant::now());
    let told = told(&mut fold);
    assert_eq!(told.len(), 31, "{told:?}");
    assert_eq!(*told.last().unwrap(), format!("resynced {}", DOZEN.join(" ")));
}

#[tokio::test(start_paused = true)]
async fn suspects_are_held_for_one_ttl_in_all() {
    let mut fold = folding(&DOZEN, Some(TTL));
    let begun = Instant::now();
    let (later, end) = (begun + TTL / 2, begun + TTL);
    fold.apply(reset(&[]), begun);
    fold.believe(end - Duration::from_millis(1));
    assert_eq!(told(&mut fold).len(), 1, "held");
    // Another snapshot prolongs nothing, and what it names is no suspect any more.
    fold.apply(reset(&DOZEN[..2]), later);
    assert_eq!(told(&mut fold), ["resynced c d e f g h i j k l"]);
    assert_eq!(fold.due(), Some(end));
    // Nor does one that is no mass removal cut it short.
    let many = ["a", "b", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    fold.apply(reset(&many), later);
    assert_eq!(told(&mut fold).last().unwrap(), "resynced c d e f g h i j k l");
    fold.apply(reset(&many), later);
    assert_eq!(told(&mut fold), ["resynced c d e f g h i j k l"]);
    fold.apply(put("c", "c"), later);
    fold.apply(gone("d"), later);
    assert_eq!(told(&mut fold), ["removed d Expired"]);
    // Each has a TTL of its own.
    fold.apply(reset(&[]), later);
    told(&mut fold);
    assert_eq!(fold.due(), Some(end));
    fold.believe(end);
    let left = ["e", "f", "g", "h", "i", "j", "k", "l"].map(|name| format!("removed {name} Unknown"));
    assert_eq!(told(&mut fold), left);
    assert_eq!(fold.due(), Some(later + TTL));
    fold.believe(later + TTL);
    assert_eq!(told(&mut fold).len(), many.len() + 1);
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
async fn a_list_that_lacks_suspects_is_no_news() {
    let mut fold = folding(&DOZEN, Some(TTL));
    fold.apply(reset(&DOZEN[..2]), Instant::now());
    fold.note();
    assert_eq!(
        fold.differences(&[record("a", "a")]),
        [prefix().child("b").unwrap()]
    );
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

/// What a scripted watch does next, times in seconds; after the last step it is silent for ever.
enum Step {
    Tells(Change),
    Waits(u64),
    Breaks,
    Refuses(Duration),
    Ends,
}

/// A store whose watches and lists are told what to tell; the rest of it is not there.
#[derive(Default)]
struct Scripted {
    watches: Mutex<Vec<Vec<Step>>>,
    asked: Mutex<Vec<Option<Position>>>,
    lists: Mutex<Vec<Shown>>,
    listed: Mutex<Vec<Instant>>,
    begun: Option<Instant>,
}

/// What a list shows, and how long it takes. One that has a time is shown from then on; those
/// that have none are shown one after the other; the last one again and again.
#[derive(Clone, Default)]
struct Shown {
    from: Duration,
    takes: Duration,
    page: Listing,
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripted")
    }
}

impl Scripted {
    fn new(watches: Vec<Vec<Step>>) -> Arc<Self> {
        Self::with_lists(watches, Vec::new())
    }

    fn with_lists(mut watches: Vec<Vec<Step>>, mut lists: Vec<Shown>) -> Arc<Self> {
        watches.reverse();
        lists.reverse();
        Arc::new(Self {
            watches: Mutex::new(watches),
            lists: Mutex::new(lists),
            begun: Some(Instant::now()),
            ..Self::default()
        })
    }

    async fn view(self: &Arc<Self>) -> impl Stream<Item = String> + Unpin {
        self.checked_every(ViewConfig::default().check_every).await
    }

    async fn checked_every(self: &Arc<Self>, check_every: Duration) -> impl Stream<Item = String> + Unpin {
        let config = ViewConfig {
            check_every,
            ..ViewConfig::default()
        };
        let events = watch(self.clone(), prefix(), text, TTL, config).await.unwrap();
        Box::pin(events.map(|event| words(&event)))
    }

    /// Everything that is told within a minute of being checked about every second.
    async fn told_in_a_minute(self: &Arc<Self>) -> Vec<String> {
        let end = tokio::time::sleep(Duration::from_secs(60));
        let view = self.checked_every(Duration::from_secs(1)).await;
        view.take_until(end).collect().await
    }

    /// From where on watches were asked for while somebody read a view for some minutes.
    async fn asked_in(self: &Arc<Self>, minutes: u64, check_every: Duration) -> Vec<Option<Position>> {
        let reading = self.checked_every(check_every).await.for_each(|_| async {});
        let _ = tokio::time::timeout(Duration::from_secs(60 * minutes), reading).await;
        self.asked()
    }

    fn next_list(&self) -> Option<Shown> {
        let elapsed = self.begun?.elapsed();
        let mut lists = self.lists.lock().unwrap();
        let over = |next: &Shown| !next.from.is_zero() && next.from <= elapsed;
        while lists.len() > 1 && over(&lists[lists.len() - 2]) {
            lists.pop();
        }
        match lists.len() {
            len if len > 1 && lists[len - 2].from.is_zero() => lists.pop(),
            _ => lists.last().cloned(),
        }
    }

    /// As many events, if they come within a minute.
    async fn first(self: &Arc<Self>, count: usize) -> Vec<String> {
        let end = tokio::time::sleep(Duration::from_secs(60));
        self.view().await.take(count).take_until(end).collect().await
    }

    fn asked(&self) -> Vec<Option<Position>> {
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
        self.listed.lock().unwrap().push(Instant::now());
        let Shown { takes, page, .. } = self.next_list().ok_or_else(lost)?;
        tokio::time::sleep(takes).await;
        Ok(page)
    }
    async fn watch(&self, _: &RecordKey, after: Option<Position>) -> Result<Changes, DiscoveryError> {
        self.asked.lock().unwrap().push(after);
        let steps = self.watches.lock().unwrap().pop().ok_or_else(lost)?;
        Ok(Box::pin(stream::unfold(
            steps.into_iter(),
            |mut steps| async move {
                loop {
                    match steps.next() {
                        Some(Tells(change)) => return Some((Ok(change), steps)),
                        Some(Breaks) => return Some((Err(lost()), steps)),
                        Some(Refuses(span)) => {
                            let busy = lost().with_retry(Retry::Safe { after: Some(span) });
                            return Some((Err(busy), steps));
                        }
                        Some(Waits(secs)) => tokio::time::sleep(Duration::from_secs(secs)).await,
                        Some(Ends) => return None,
                        None => std::future::pending().await,
                    }
                }
            },
        )))
    }
}

/// A reset of a store without positions.
fn reset_nowhere(names: &[&str]) -> Change {
    match reset(names) {
        Change::Reset { records, .. } => Change::Reset { records, as_of: None },
        other => other,
    }
}

/// A list of these.
fn page(names: &[&str]) -> Shown {
    let page = Listing {
        records: names.iter().map(|name| record(name, name)).collect(),
        ..Listing::default()
    };
    Shown {
        page,
        ..Shown::default()
    }
}

/// The same, from some second on.
fn page_from(secs: u64, names: &[&str]) -> Shown {
    let from = Duration::from_secs(secs);
    Shown { from, ..page(names) }
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_where_it_broke() {
    let store = Scripted::new(vec![
        vec![Tells(reset(&["a"])), Tells(Change::Progress(at(9))), Breaks],
        vec![Tells(put("b", "b")), Breaks],
        vec![Tells(Change::Progress(at(12))), Breaks],
        vec![Tells(reset(&["a", "b"])), Breaks],
        vec![Tells(reset_nowhere(&["a", "b"])), Breaks],
        vec![Tells(reset(&["a", "b"]))],
    ]);
    let told = store.first(10).await;
    assert_eq!(told[..4], ["snapshot a", "interrupted", "added b", "resynced "]);
    assert!(
        told[4..]
            .chunks(2)
            .all(|pair| pair == ["interrupted", "resynced "]),
        "{told:?}"
    );
    let from = [None, Some(at(9)), Some(at(9)), Some(at(12)), Some(at(7)), None];
    assert_eq!(store.asked(), from);
}

#[tokio::test(start_paused = true)]
async fn a_store_without_positions_tells_everything_each_time() {
    let store = Scripted::new(vec![
        vec![Tells(reset_nowhere(&["a"])), Tells(put("b", "b")), Breaks],
        vec![Tells(put("x", "x"))],
        vec![Tells(reset_nowhere(&["a"])), Tells(put("c", "c"))],
    ]);
    let told = store.first(6).await;
    assert_eq!(
        told,
        [
            "snapshot a",
            "added b",
            "interrupted",
            "removed b Unknown",
            "resynced ",
            "added c"
        ]
    );
    assert_eq!(store.asked(), [None; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_ends_a_watch_or_begins_it_in_the_middle_is_tried_again() {
    let store = Scripted::new(vec![
        vec![Tells(put("x", "x"))],
        vec![Tells(reset(&["a"])), Ends],
        vec![Tells(reset(&["a"]))],
    ]);
    let told = store.first(3).await;
    assert_eq!(told, ["snapshot a", "interrupted", "resynced "]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_cannot_be_made_again_is_told_like_one_that_breaks() {
    let store = Scripted::new(vec![vec![Tells(reset(&["a"])), Breaks]]);
    let mut follow = Follow::start(store.clone(), prefix()).await.unwrap();
    assert!(matches!(follow.next().await, Heard::Change(_)));
    for tries in 1..=3 {
        let heard = tokio::time::timeout(TTL, follow.next()).await;
        assert!(matches!(heard, Ok(Heard::Interrupted(_))), "{heard:?}");
        assert_eq!(store.asked().len(), tries);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_asked_less_and_less_often() {
    let store = Scripted::new(vec![vec![Tells(reset(&["a"])), Breaks]]);
    let mut view = store.view().await;
    assert_eq!(view.next().await.unwrap(), "snapshot a");
    assert_eq!(view.next().await.unwrap(), "interrupted");
    let _ = tokio::time::timeout(Duration::from_secs(60), view.next()).await;
    let asked = store.asked().len();
    assert!((15..60).contains(&asked), "{asked} times in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_breaks_every_watch_is_not_asked_all_the_time() {
    let breaks = || vec![Tells(reset(&["a"])), Breaks];
    let store = Scripted::new((0..2_000).map(|_| breaks()).collect());
    let asked = store.asked_in(1, Duration::from_secs(300)).await.len();
    assert!((15..60).contains(&asked), "{asked} times in a minute");
}

#[tokio::test(start_paused = true)]
async fn whoever_was_heard_for_long_is_asked_again_soon() {
    let lasting = || vec![Tells(reset(&["a"])), Waits(4), Breaks];
    let store = Scripted::new((0..200).map(|_| lasting()).collect());
    let asked = store.asked_in(1, Duration::from_secs(300)).await.len();
    assert_eq!(asked, 15, "never more than 100 ms after four seconds");
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn what_a_reset_tells_is_not_missed() {
    let watches = vec![vec![Tells(reset(&["a"])), Waits(15), Tells(reset(&["a", "b"]))]];
    let store = Scripted::with_lists(watches, vec![page(&["a"]), page_from(10, &["a", "b"])]);
    assert_eq!(store.asked_in(5, SECOND).await, [None]);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_behind_the_watch_starts_nothing_over() {
    let watches = vec![vec![Tells(reset(&["a"])), Tells(put("b", "b"))]];
    let store = Scripted::with_lists(watches, vec![page(&["a"]), page_from(5, &["a", "b"])]);
    assert_eq!(store.asked_in(5, SECOND).await, [None]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_cut_now_and_then_is_checked_all_the_same() {
    let mut watches = vec![vec![Tells(reset(&["a"])), Waits(60), Breaks]];
    watches.extend((0..1_000).map(|_| vec![Tells(progress(9)), Waits(60), Breaks]));
    let store = Scripted::with_lists(watches, vec![page(&["a", "b"])]);
    let asked = store.asked_in(60, Duration::from_secs(100)).await;
    assert!(asked[1..].contains(&None), "nobody has noticed: {asked:?}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_heard_is_not_started_over() {
    let watches = vec![
        vec![Tells(reset(&["a"])), Refuses(Duration::from_secs(60))],
        vec![Tells(put("b", "b")), Tells(progress(9))],
    ];
    let store = Scripted::with_lists(watches, vec![page(&["a", "b"])]);
    assert_eq!(store.asked_in(5, SECOND).await, [None, Some(at(7))]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_silent_after_an_interruption_is_started_over() {
    let watches = vec![
        vec![Tells(reset(&["a"])), Breaks],
        vec![],
        vec![Tells(reset(&["a", "b"]))],
    ];
    let store = Scripted::with_lists(watches, vec![page(&["a", "b"])]);
    assert_eq!(store.asked_in(5, SECOND).await, [None, Some(at(7)), None]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_misses_what_a_list_shows_is_made_anew() {
    let store = Scripted::with_lists(
        vec![vec![Tells(reset(&["a"]))], vec![Tells(reset(&["a", "b"]))]],
        vec![page(&["a", "b"])],
    );
    assert_eq!(
        store.told_in_a_minute().await,
        ["snapshot a", "added b", "resynced "]
    );
    assert_eq!(store.asked(), [None, None]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_slower_than_a_list_is_trusted() {
    // The list comes after 10 to 11 s.
    for watches in [
        vec![vec![Tells(reset(&["a"])), Waits(15), Tells(put("b", "b"))]],
        // One that breaks meanwhile gets as much time again.
        vec![
            vec![Tells(reset(&["a"])), Waits(15), Breaks],
            vec![Waits(10), Tells(put("b", "b"))],
        ],
    ] {
        let watched = watches.len();
        let store = Scripted::with_lists(watches, vec![page(&["a", "b"])]);
        let told = store.told_in_a_minute().await;
        assert_eq!(told.last().unwrap(), "added b", "{told:?}");
        assert_eq!(store.asked().len(), watched, "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_slower_than_a_watch_or_fails_is_no_evidence() {
    let steps = || vec![vec![Tells(reset(&["a"])), Waits(12), Tells(put("b", "b"))]];
    let takes = Duration::from_secs(3);
    let slow = vec![
        Shown {
            takes,
            ..page(&["a"])
        },
        page(&["a", "b"]),
    ];
    for lists in [slow, Vec::new()] {
        let store = Scripted::with_lists(steps(), lists);
        assert_eq!(store.told_in_a_minute().await, ["snapshot a", "added b"]);
        assert!(store.listed.lock().unwrap().len() > 3);
    }
}

#[tokio::test(start_paused = true)]
async fn lists_come_about_as_often_as_configured_and_never_in_step() {
    let store = Scripted::with_lists(vec![vec![Tells(reset(&["a"]))]], vec![page(&["a"])]);
    let (begun, end) = (Instant::now(), tokio::time::sleep(Duration::from_secs(1_000)));
    let view = store.checked_every(Duration::from_secs(10)).await;
    view.take_until(end).for_each(|_| std::future::ready(())).await;
    let listed = store.listed.lock().unwrap();
    let gaps: Vec<_> = [begun]
        .iter()
        .chain(&*listed)
        .zip(&*listed)
        .map(|(one, next)| *next - *one)
        .collect();
    let allowed = Duration::from_secs(15)..=Duration::from_millis(20_002);
    assert!(
        gaps.len() >= 49 && gaps.iter().all(|gap| allowed.contains(gap)),
        "{gaps:?}"
    );
    assert!(
        gaps.iter()
            .any(|gap| gap.abs_diff(gaps[0]) > Duration::from_secs(1)),
        "{gaps:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_list_has_all_pages_and_none_twice() {
    let on_page = |name, next: Option<&'static str>| {
        let (next, skipped) = (next.map(Bytes::from), 2);
        let takes = Duration::from_millis(1);
        let page = Listing {
            next,
            skipped,
            ..page(&[name]).page
        };
        Shown {
            takes,
            page,
            ..Shown::default()
        }
    };
    let store = Scripted::with_lists(
        Vec::new(),
        vec![
            on_page("a", Some("1")),
            on_page("b", Some("2")),
            on_page("c", None),
        ],
    );
    let listed = list_all(&*store, &prefix()).await.unwrap();
    let names: Vec<_> = listed.records.iter().map(|record| record.key.last()).collect();
    assert_eq!((names, listed.skipped), (vec!["a", "b", "c"], 6));
    let store = Scripted::with_lists(Vec::new(), vec![on_page("a", Some("1"))]);
    let (store, prefix) = (&*store, prefix());
    let listed = tokio::time::timeout(TTL, list_all(store, &prefix)).await;
    let error = listed.expect("no end").err().map(|error| error.kind());
    assert_eq!(error, Some(ErrorKind::Unexpected));
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
