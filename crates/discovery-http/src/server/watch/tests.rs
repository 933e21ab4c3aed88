//! Hubs and readers on virtual time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use discovery_core::{
    Cluster,
    store::{Expect, RecordKey, RecordStore, Session, Write, Writer, Written},
};
use discovery_memory::MemoryStore;
use tokio::{
    runtime::Handle,
    time::{Instant, advance, sleep},
};

use super::{
    frame,
    hub::{Hub, Start},
    reader::{Reader, Ready},
    registry::Watches,
};

const SECOND: Duration = Duration::from_secs(1);

fn prefix() -> RecordKey {
    RecordKey::try_new(&Cluster::default(), "things", &[]).unwrap()
}

async fn write(store: &dyn RecordStore, session: &Session, name: &str) {
    let item = Write {
        key: prefix().child(name).unwrap(),
        body: Bytes::from_static(b"body"),
        writer: Writer::random(),
        expect: Expect::Absent,
    };
    let written = store.write(session, &[item]).await.remove(0).unwrap();
    assert!(matches!(written, Written::Done(_)), "{written:?}");
}

async fn hub(watches: &Watches, store: &Arc<dyn RecordStore>) -> Arc<Hub> {
    let hub = watches.hub(store, prefix()).unwrap();
    hub.caught_up().await.unwrap();
    hub
}

async fn reader(watches: &Watches, store: &Arc<dyn RecordStore>) -> Reader {
    let hub = hub(watches, store).await;
    Reader::new(hub, None, watches.permit().unwrap())
}

/// What is told next, within a second.
async fn text(reader: &mut Reader) -> Option<Bytes> {
    match reader.next(Instant::now() + SECOND).await {
        Ready::Text(text) => Some(text),
        Ready::Nothing(_) => None,
        Ready::Ended(_) => panic!("it goes on"),
    }
}

fn names(text: &[u8]) -> Vec<String> {
    let names = frame::read(text).map(|(_, name, _)| String::from_utf8(name.to_vec()).unwrap());
    names.collect()
}

fn memory() -> Arc<dyn RecordStore> {
    Arc::new(MemoryStore::new())
}

#[tokio::test(start_paused = true)]
async fn everybody_is_told_the_same_text_written_once() {
    let (watches, store) = (Watches::new(10), memory());
    let session = store.open(60 * SECOND).await.unwrap();
    let mut one = reader(&watches, &store).await;
    let mut two = reader(&watches, &store).await;
    let (first, second) = (text(&mut one).await.unwrap(), text(&mut two).await.unwrap());
    assert_eq!(names(&first), ["reset"]);
    assert_eq!(first.as_ptr(), second.as_ptr());
    write(&*store, &session, "1").await;
    let (first, second) = (text(&mut one).await.unwrap(), text(&mut two).await.unwrap());
    assert_eq!(names(&first), ["put"]);
    assert_eq!(first.as_ptr(), second.as_ptr());
    watches.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_made_once_until_something_changes() {
    let (watches, store) = (Watches::new(10), memory());
    let session = store.open(60 * SECOND).await.unwrap();
    let hub = hub(&watches, &store).await;
    let snapshot = || match hub.start(None) {
        Start::Snapshot(snapshot) => snapshot,
        Start::Resume(..) => panic!("there is nothing to resume from"),
    };
    let first = snapshot();
    assert!(Arc::ptr_eq(&first, &snapshot()));
    write(&*store, &session, "1").await;
    hub.caught_up().await.unwrap();
    assert!(!Arc::ptr_eq(&first, &snapshot()));
    watches.end().await;
}

#[tokio::test(start_paused = true)]
async fn many_changes_at_once_are_told_together() {
    let (watches, store) = (Watches::new(10), memory());
    let session = store.open(60 * SECOND).await.unwrap();
    let mut reader = reader(&watches, &store).await;
    assert_eq!(names(&text(&mut reader).await.unwrap()), ["reset"]);
    for number in 0..100 {
        write(&*store, &session, &number.to_string()).await;
    }
    let (mut told, mut texts) = (0, 0);
    while told < 100 {
        told += names(&text(&mut reader).await.unwrap()).len();
        texts += 1;
    }
    assert!(texts <= 3, "{texts}");
    watches.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_in_a_snapshot_is_not_told_again() {
    let (watches, store) = (Watches::new(10), memory());
    let session = store.open(60 * SECOND).await.unwrap();
    let hub = hub(&watches, &store).await;
    let mut one = reader(&watches, &store).await;
    assert_eq!(names(&text(&mut one).await.unwrap()), ["reset"]);
    write(&*store, &session, "1").await;
    assert_eq!(names(&text(&mut one).await.unwrap()), ["put"]);
    write(&*store, &session, "2").await;
    // The hub hears of it, but has told something just now.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(matches!(one.ready(), Ready::Nothing(_)), "it waits to be told");
    let mut two = Reader::new(hub, None, watches.permit().unwrap());
    let reset = text(&mut two).await.unwrap();
    let (_, _, data) = frame::read(&reset).next().unwrap();
    let data: serde_json::Value = serde_json::from_slice(data).unwrap();
    assert_eq!(data["records"].as_array().unwrap().len(), 2);
    assert!(text(&mut two).await.is_none());
    assert_eq!(names(&text(&mut one).await.unwrap()), ["put"]);
    watches.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_hub_ends_when_nobody_has_used_it_for_a_while() {
    let (watches, store) = (Watches::new(10), memory());
    let mut watching = reader(&watches, &store).await;
    text(&mut watching).await.unwrap();
    sleep(120 * SECOND).await;
    let hub = Arc::downgrade(&hub(&watches, &store).await);
    assert!(
        text(&mut watching).await.is_none(),
        "it lives as long as somebody watches"
    );
    drop(watching);
    assert_eq!(watches.count(), 0);
    sleep(10 * SECOND).await;
    assert!(hub.upgrade().is_some(), "somebody may come back");
    sleep(40 * SECOND).await;
    assert!(hub.upgrade().is_none());
    // Whoever comes later gets a new one.
    assert_eq!(
        names(&text(&mut reader(&watches, &store).await).await.unwrap()),
        ["reset"]
    );
    watches.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_the_process_ends_nothing() {
    let (memory, pauses) = MemoryStore::forgiving_pauses(&Handle::current());
    let store: Arc<dyn RecordStore> = Arc::new(memory);
    let watches = Watches::new(10);
    let session = store.open(3 * SECOND).await.unwrap();
    let mut reader = reader(&watches, &store).await;
    assert_eq!(names(&text(&mut reader).await.unwrap()), ["reset"]);
    write(&*store, &session, "1").await;
    assert_eq!(names(&text(&mut reader).await.unwrap()), ["put"]);
    // Nothing runs while the clock jumps.
    advance(60 * SECOND).await;
    assert!(text(&mut reader).await.is_none());
    store.renew(&session, &[]).await.unwrap();
    sleep(5 * SECOND).await;
    assert_eq!(
        names(&text(&mut reader).await.unwrap()),
        ["gone"],
        "then it expires as ever"
    );
    watches.end().await;
    pauses.shutdown(SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_never_silent_for_longer_than_asked() {
    let (watches, store) = (Watches::new(10), memory());
    let mut reader = reader(&watches, &store).await;
    assert_eq!(names(&reader.text(3 * SECOND).await.unwrap()), ["reset"]);
    for _ in 0..5 {
        let start = Instant::now();
        assert_eq!(names(&reader.text(3 * SECOND).await.unwrap()), ["progress"]);
        assert_eq!(start.elapsed(), 3 * SECOND);
    }
    watches.end().await;
    assert!(reader.text(3 * SECOND).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn there_is_no_watch_more_than_allowed() {
    let (watches, store) = (Watches::new(2), memory());
    let one = reader(&watches, &store).await;
    let _two = reader(&watches, &store).await;
    assert_eq!(watches.count(), 2);
    assert!(watches.permit().is_err());
    drop(one);
    assert!(watches.permit().is_ok());
    watches.end().await;
}
