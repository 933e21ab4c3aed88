//! What a watch makes of what servers say, where that differs by version or comes rarely.

mod fake;

use std::time::Duration;

use discovery_core::{
    Cluster, DiscoveryError, ErrorKind,
    store::{Change, Changes, Position, RecordKey, RecordStore},
};
use discovery_etcd::{EtcdConfig, EtcdStore};
use etcd_client::proto::{PbEvent, PbKeyValue, PbWatchResponse};
use fake::{Fake, GENERATION, Script, Step, header, record};
use futures_util::StreamExt;
use tokio::time::timeout;

/// A version that says how far it has come only when it has told everything up to there.
const IN_ORDER: &str = "3.5.8";
/// One that may say so before.
const OUT_OF_ORDER: &str = "3.5.7";

fn at(seq: u64) -> Position {
    Position {
        generation: GENERATION,
        seq,
    }
}

fn created(revision: i64) -> PbWatchResponse {
    PbWatchResponse {
        header: header(revision),
        created: true,
        ..PbWatchResponse::default()
    }
}

fn canceled(compact_revision: i64, reason: &str) -> PbWatchResponse {
    PbWatchResponse {
        header: header(0),
        canceled: true,
        compact_revision,
        cancel_reason: reason.to_owned(),
        ..PbWatchResponse::default()
    }
}

/// Nothing has happened up to this revision.
fn progress(revision: i64) -> PbWatchResponse {
    PbWatchResponse {
        header: header(revision),
        watch_id: -1,
        ..PbWatchResponse::default()
    }
}

fn put(name: &str, revision: i64) -> PbEvent {
    event(0, record(name, revision))
}

fn delete(name: &str, revision: i64) -> PbEvent {
    event(1, record(name, revision))
}

fn event(kind: i32, stands: PbKeyValue) -> PbEvent {
    PbEvent {
        r#type: kind,
        kv: Some(stands),
        prev_kv: None,
    }
}

fn events(revision: i64, events: Vec<PbEvent>) -> PbWatchResponse {
    PbWatchResponse {
        header: header(revision),
        events,
        ..PbWatchResponse::default()
    }
}

fn fragment(revision: i64, of: Vec<PbEvent>) -> PbWatchResponse {
    PbWatchResponse {
        fragment: true,
        ..events(revision, of)
    }
}

fn script(from: i64, steps: Vec<Step>) -> Script {
    Script { from, steps }
}

async fn watch(fake: &Fake, after: Option<u64>) -> Result<Changes, DiscoveryError> {
    let config = EtcdConfig::try_new(&format!("etcd://{}", fake.address)).expect("a configuration");
    let prefix = RecordKey::try_new(&Cluster::default(), "things", &[]).expect("a key");
    let store = EtcdStore::try_new(&config).expect("a store");
    store.watch(&prefix, after.map(at)).await
}

fn seq(position: Option<Position>) -> String {
    position.map_or("nowhere".to_owned(), |position| position.seq.to_string())
}

/// The next change, shortly.
async fn next(changes: &mut Changes) -> String {
    let item = timeout(Duration::from_secs(2), changes.next()).await;
    match item.expect("in time").expect("it goes on") {
        Ok(Change::Reset { records, as_of }) => {
            let names: Vec<_> = records.iter().map(|record| record.key.last()).collect();
            format!("reset {names:?} {}", seq(as_of))
        }
        Ok(Change::Put(record)) => format!("put {} {}", record.key.last(), seq(record.at)),
        Ok(Change::Gone { key, at, .. }) => format!("gone {} {}", key.last(), seq(at)),
        Ok(Change::Progress(position)) => format!("progress {}", position.seq),
        Err(error) => format!("error {}", error.kind().code()),
    }
}

async fn silent(changes: &mut Changes) {
    let item = timeout(Duration::from_millis(300), changes.next()).await;
    assert!(item.is_err(), "{item:?}");
}

#[tokio::test]
async fn a_server_that_tells_in_order_is_followed_from_where_it_was() {
    let told = events(9, vec![put("a", 8), delete("b", 9)]);
    let steps = vec![
        Step::Say(created(9)),
        Step::Say(told),
        // Overtaken by what happened since.
        Step::WhenAsked(progress(8)),
        Step::WhenAsked(progress(10)),
        Step::Say(events(12, vec![put("c", 12)])),
        Step::WhenAsked(progress(15)),
    ];
    let fake = Fake::start(IN_ORDER, (9, &["a"]), vec![script(6, steps)]).await;
    let mut changes = watch(&fake, Some(5)).await.unwrap();
    for expected in ["put a 8", "gone b 9", "progress 10", "put c 12"] {
        assert_eq!(next(&mut changes).await, expected);
    }
    // Not asked before it has been silent for a while.
    silent(&mut changes).await;
    let item = timeout(Duration::from_secs(5), changes.next())
        .await
        .expect("asked");
    assert_eq!(item.unwrap().unwrap().position(), Some(at(15)));
}

#[tokio::test]
async fn a_server_that_tells_out_of_order_tells_everything_anew() {
    let steps = vec![
        Step::Say(created(9)),
        // A sign of life, which says nothing about what was told.
        Step::Say(progress(20)),
        Step::Say(events(15, vec![put("c", 15)])),
    ];
    let fake = Fake::start(OUT_OF_ORDER, (9, &["a"]), vec![script(10, steps)]).await;
    let mut changes = watch(&fake, Some(5)).await.unwrap();
    assert_eq!(next(&mut changes).await, r#"reset ["a"] 9"#);
    assert_eq!(next(&mut changes).await, "put c 15");
}

#[tokio::test]
async fn nothing_has_happened_on_any_server() {
    let fake = Fake::start(
        OUT_OF_ORDER,
        (9, &["a"]),
        vec![script(10, vec![Step::Say(created(9))])],
    )
    .await;
    let mut changes = watch(&fake, Some(9)).await.unwrap();
    assert_eq!(next(&mut changes).await, "progress 9");
    silent(&mut changes).await;
}

#[tokio::test]
async fn what_was_thrown_away_is_told_anew() {
    let anew = script(
        10,
        vec![Step::Say(created(9)), Step::Say(events(10, vec![put("b", 10)]))],
    );
    for compacted in [
        // At once, or after it has begun.
        vec![Step::Say(PbWatchResponse {
            created: true,
            ..canceled(8, "")
        })],
        vec![Step::Say(created(9)), Step::Say(canceled(8, ""))],
    ] {
        let fake = Fake::start(IN_ORDER, (9, &["a"]), vec![script(6, compacted), anew.clone()]).await;
        let mut changes = watch(&fake, Some(5)).await.unwrap();
        assert_eq!(next(&mut changes).await, r#"reset ["a"] 9"#);
        assert_eq!(next(&mut changes).await, "put b 10");
        assert!(fake.is_done());
    }
}

#[tokio::test]
async fn a_server_that_is_not_as_far_is_not_waited_for() {
    // It was restored from a copy; a watch from the future would be silent.
    let anew = script(4, vec![Step::Say(created(3))]);
    let fake = Fake::start(IN_ORDER, (3, &["a"]), vec![anew.clone()]).await;
    let mut changes = watch(&fake, Some(5)).await.unwrap();
    assert_eq!(next(&mut changes).await, r#"reset ["a"] 3"#);
    // So was the member of the cluster that serves the watch.
    let lags = script(10, vec![Step::Say(created(3))]);
    let fake = Fake::start(
        IN_ORDER,
        (9, &["a"]),
        vec![lags, script(10, vec![Step::Say(created(9))])],
    )
    .await;
    let mut changes = watch(&fake, Some(9)).await.unwrap();
    assert_eq!(next(&mut changes).await, r#"reset ["a"] 9"#);
}

#[tokio::test]
async fn a_refusal_that_says_it_has_begun_is_a_refusal() {
    for (reason, kind) in [
        (
            "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
            ErrorKind::PermissionDenied,
        ),
        ("etcdserver: no leader", ErrorKind::Unavailable),
    ] {
        let refusal = PbWatchResponse {
            created: true,
            ..canceled(0, reason)
        };
        let fake = Fake::start(IN_ORDER, (9, &[]), vec![script(10, vec![Step::Say(refusal)])]).await;
        let error = watch(&fake, None).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[tokio::test]
async fn a_watch_that_is_ended_in_between_ends_with_the_reason() {
    let steps = vec![Step::Say(created(9)), Step::Say(canceled(0, "permission denied"))];
    let fake = Fake::start(IN_ORDER, (9, &[]), vec![script(10, steps)]).await;
    let mut changes = watch(&fake, None).await.unwrap();
    assert_eq!(next(&mut changes).await, "reset [] 9");
    assert_eq!(next(&mut changes).await, "error permission-denied");
    assert!(changes.next().await.is_none(), "an error is the last item");
}

#[tokio::test]
async fn a_revision_is_told_when_it_is_whole() {
    let steps = vec![
        Step::Say(created(9)),
        Step::Say(fragment(11, vec![put("a", 10), put("b", 11)])),
        Step::WhenAsked(fragment(11, vec![put("c", 11)])),
        Step::WhenAsked(events(11, vec![put("d", 11)])),
    ];
    let fake = Fake::start(IN_ORDER, (9, &[]), vec![script(10, steps)]).await;
    let mut changes = watch(&fake, None).await.unwrap();
    assert_eq!(next(&mut changes).await, "reset [] 9");
    assert_eq!(next(&mut changes).await, "put a 10");
    silent(&mut changes).await;
    let item = timeout(Duration::from_secs(8), changes.next())
        .await
        .expect("asked twice");
    // Only the last change of a revision bears its position.
    assert_eq!(item.unwrap().unwrap().position(), None);
    assert_eq!(next(&mut changes).await, "put c nowhere");
    assert_eq!(next(&mut changes).await, "put d 11");
}

#[tokio::test]
async fn what_is_not_whole_is_never_told() {
    let steps = vec![
        Step::Say(created(9)),
        Step::Say(fragment(11, vec![put("a", 10), put("b", 11)])),
        Step::Break,
    ];
    let fake = Fake::start(IN_ORDER, (9, &[]), vec![script(10, steps)]).await;
    let mut changes = watch(&fake, None).await.unwrap();
    assert_eq!(next(&mut changes).await, "reset [] 9");
    assert_eq!(next(&mut changes).await, "put a 10");
    assert_eq!(next(&mut changes).await, "error unavailable");
}

#[tokio::test]
async fn what_lies_beside_the_prefix_and_what_is_unknown_is_not_told() {
    let mut beside = record("x", 10);
    beside.key = b"/discovery/default/things-b/x".to_vec();
    let mut no_key = record("x", 10);
    no_key.key = b"/discovery/default/things//x".to_vec();
    let all = vec![
        event(0, beside),
        event(1, no_key),
        event(9, record("x", 10)),
        put("a", 10),
    ];
    let steps = vec![Step::Say(created(9)), Step::Say(events(10, all))];
    let fake = Fake::start(IN_ORDER, (9, &[]), vec![script(10, steps)]).await;
    let mut changes = watch(&fake, None).await.unwrap();
    assert_eq!(next(&mut changes).await, "reset [] 9");
    assert_eq!(next(&mut changes).await, "put a 10");
    silent(&mut changes).await;
}
