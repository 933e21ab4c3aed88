//! Watches, as the service tells them and as the client hears them.

mod between;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use discovery_core::{
    DiscoverySystem, ErrorKind, InstanceId, Retry, WorkerAddress,
    peer::PeerEvent,
    store::{
        Change, Changes, Departure, Expect, Position, Record, RecordKey, RecordStore, Removal, Session,
        Write, Written,
    },
};
use discovery_http::{
    HttpStore, HttpSystem,
    server::{Server, ServerConfig},
};
use discovery_memory::MemoryStore;
use discovery_records::view::Heard;
use futures_util::StreamExt;
use tokio::time::{Instant, sleep, timeout};

use self::between::{Between, Manner};
use crate::{
    harness::{
        SECOND, TTL, any_port, client, config, create, eventually, forgetful, get, key, put, send, serve,
        service,
    },
    watching::Events,
};

const WATCH: &str = "/v1/clusters/c/watch/things";

fn prefix() -> RecordKey {
    RecordKey::try_new(&"c".parse().unwrap(), "things", &[]).unwrap()
}

async fn next(changes: &mut Changes) -> Change {
    let next = timeout(10 * SECOND, changes.next()).await.expect("in time");
    next.expect("it goes on").expect("no error")
}

/// The next change that says more than that nothing happened.
async fn news(changes: &mut Changes) -> Change {
    loop {
        match next(changes).await {
            Change::Progress(_) => {}
            change => return change,
        }
    }
}

async fn failure(changes: &mut Changes, limit: Duration) -> discovery_core::DiscoveryError {
    let failing = async {
        loop {
            if let Err(error) = changes.next().await.expect("an error comes last") {
                return error;
            }
        }
    };
    let error = timeout(limit, failing).await.expect("in time");
    assert!(changes.next().await.is_none(), "an error is the last item");
    error
}

async fn replace(store: &dyn RecordStore, session: &Session, record: &Record, body: String) -> Record {
    let item = Write {
        key: record.key.clone(),
        body: body.into(),
        writer: record.writer,
        expect: Expect::Version(record.version.clone()),
    };
    match store.write(session, &[item]).await.pop().unwrap().unwrap() {
        Written::Done(record) => record,
        conflict => panic!("{conflict:?}"),
    }
}

async fn remove(store: &dyn RecordStore, session: &Session, record: &Record) {
    let removal = Removal {
        key: record.key.clone(),
        writer: record.writer,
        expect: Expect::Version(record.version.clone()),
    };
    store.remove(session, &removal).await.unwrap();
}

/// What stands, for comparing.
type Standing = BTreeMap<String, Vec<u8>>;

fn fold(standing: &mut Standing, change: &Change) {
    match change {
        Change::Reset { records, .. } => {
            *standing = records
                .iter()
                .map(|record| (record.key.to_string(), record.body.to_vec()))
                .collect();
        }
        Change::Put(record) => {
            standing.insert(record.key.to_string(), record.body.to_vec());
        }
        Change::Gone { key, .. } => drop(standing.remove(key.as_str())),
        Change::Progress(_) => {}
    }
}

async fn listed(store: &dyn RecordStore) -> Standing {
    let (records, _) = discovery_records::view::list(store, &prefix()).await.unwrap();
    let pairs = records.into_iter();
    pairs
        .map(|record| (record.key.to_string(), record.body.to_vec()))
        .collect()
}

#[tokio::test]
async fn events_have_the_documented_shape() {
    let server = service().await;
    let addr = server.local_addr();
    let store = client(addr);
    let session = store.open(TTL).await.unwrap();
    let one = put(&store, &session, &key("c", "1"), "one").await;
    put(&store, &session, &key("other", "2"), "elsewhere").await;

    let mut events = Events::open(addr, WATCH, "accept: text/event-stream\r\n").await;
    let head = events.head.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    for line in [
        "content-type: text/event-stream",
        "cache-control: no-store",
        "x-accel-buffering: no",
    ] {
        assert!(head.contains(line), "{head}");
    }
    let reset = events.next().await.unwrap();
    assert_eq!(
        (reset.name.as_str(), &reset.data["last"]),
        ("reset", &true.into())
    );
    assert_eq!(reset.data["part"], 0);
    assert_eq!(reset.data["records"].as_array().unwrap().len(), 1);
    assert_eq!(reset.data["records"][0]["key"], "things/1");
    assert_eq!(reset.data["records"][0]["body"], "one");
    let position = |record: &Record| {
        let at = record.at.unwrap();
        Some(format!("{}-{}", at.generation, at.seq))
    };

    let two = put(&store, &session, &key("c", "2"), "two").await;
    let told = events.change().await;
    assert_eq!((told.name.as_str(), told.id), ("put", position(&two)));
    let direct = get(addr, "/v1/clusters/c/records/things/2").await.json();
    assert_eq!(told.data, direct, "a record is the same wherever it is told");

    remove(&store, &session, &one).await;
    let gone = events.change().await;
    assert_eq!((gone.name.as_str(), gone.id.is_some()), ("gone", true));
    assert_eq!(
        gone.data,
        serde_json::json!({"key": "things/1", "why": "removed"})
    );
    store.close(&session).await.unwrap();
    assert_eq!(events.change().await.data["why"], "removed");
}

#[tokio::test]
async fn expiry_is_told_as_such() {
    let server = service().await;
    let store = client(server.local_addr());
    let mut changes = store.watch(&prefix(), None).await.unwrap();
    let session = store.open(SECOND).await.unwrap();
    put(&store, &session, &key("c", "1"), "1").await;
    assert!(matches!(news(&mut changes).await, Change::Reset { records, .. } if records.is_empty()));
    assert!(matches!(news(&mut changes).await, Change::Put(_)));
    let gone = news(&mut changes).await;
    assert!(
        matches!(
            gone,
            Change::Gone {
                why: Departure::Expired,
                at: Some(_),
                ..
            }
        ),
        "{gone:?}"
    );
}

#[tokio::test]
async fn what_was_written_before_is_in_the_first_reset() {
    let server = service().await;
    let store = client(server.local_addr());
    let session = store.open(TTL).await.unwrap();
    let mut open = Vec::new();
    for number in 0..50 {
        put(&store, &session, &key("c", &number.to_string()), "x").await;
        let mut changes = store.watch(&prefix(), None).await.unwrap();
        let Change::Reset { records, .. } = next(&mut changes).await else {
            panic!("a watch begins with a reset");
        };
        assert_eq!(records.len(), number + 1);
        open.push(changes);
    }
}

#[tokio::test]
async fn a_watch_goes_on_by_header_and_by_cursor() {
    let server = service().await;
    let addr = server.local_addr();
    let store = client(addr);
    let session = store.open(TTL).await.unwrap();
    let mut events = Events::open(addr, WATCH, "").await;
    events.change().await;
    put(&store, &session, &key("c", "1"), "1").await;
    let seen = events.change().await.id.unwrap();
    drop(events);
    for name in ["2", "3", "4"] {
        put(&store, &session, &key("c", name), name).await;
    }
    let by_header = format!("last-event-id: {seen}\r\n");
    for (path, headers) in [
        (WATCH.to_owned(), by_header.clone()),
        (format!("{WATCH}?cursor={seen}"), String::new()),
        // What a browser sends when it reconnects: its URL stays as it was.
        (format!("{WATCH}?cursor=1-1"), by_header),
    ] {
        let mut events = Events::open(addr, &path, &headers).await;
        for name in ["2", "3", "4"] {
            let event = events.next().await.unwrap();
            assert_eq!((event.name.as_str(), &event.data["body"]), ("put", &name.into()));
        }
        let progress = events.next().await.unwrap();
        assert_eq!(
            (progress.name.as_str(), progress.id.is_some()),
            ("progress", true)
        );
    }
}

#[tokio::test]
async fn a_cursor_that_is_not_known_is_answered_with_a_reset() {
    let server = service().await;
    let addr = server.local_addr();
    let store = client(addr);
    let session = store.open(TTL).await.unwrap();
    let record = put(&store, &session, &key("c", "1"), "1").await;
    let at = record.at.unwrap();
    let from_the_future = format!("{}-{}", at.generation, at.seq + 1_000);
    let of_another_epoch = format!("{}-{}", at.generation - 1, at.seq);
    for cursor in [
        "1-1",
        "0-0",
        "18446744073709551615-0",
        &from_the_future,
        &of_another_epoch,
    ] {
        let mut events = Events::open(addr, &format!("{WATCH}?cursor={cursor}"), "").await;
        let first = events.next().await.unwrap();
        assert_eq!(
            (first.name.as_str(), &first.data["last"]),
            ("reset", &true.into()),
            "{cursor}"
        );
    }
}

#[tokio::test]
async fn who_comes_back_after_the_ring_has_gone_round_gets_a_reset() {
    let server = service().await;
    let store = client(server.local_addr());
    let session = store.open(TTL).await.unwrap();
    // Somebody watches all the time, so the ring is filled.
    let mut watching = store.watch(&prefix(), None).await.unwrap();
    let Change::Reset { as_of, .. } = next(&mut watching).await else {
        panic!("a watch begins with a reset");
    };
    let mut resumed = store.watch(&prefix(), as_of).await.unwrap();
    assert!(matches!(next(&mut resumed).await, Change::Progress(_)));
    let mut standing = Standing::new();
    for round in 0..5 {
        // More than the ring holds, 50 records of 16 kB at a time.
        let mut records = Vec::new();
        for number in 0..50 {
            let name = format!("{round}-{number}");
            records.push(put(&store, &session, &key("c", &name), &"x".repeat(16_000)).await);
        }
        for record in &records[1..] {
            remove(&store, &session, record).await;
        }
    }
    let mut late = store.watch(&prefix(), as_of).await.unwrap();
    let first = next(&mut late).await;
    assert!(matches!(first, Change::Reset { .. }), "{first:?}");
    fold(&mut standing, &first);
    assert_eq!(standing, listed(&store).await);
    assert_eq!(standing.len(), 5);
}

#[tokio::test]
async fn a_slow_reader_gets_a_reset_and_converges() {
    let server = service().await;
    let addr = server.local_addr();
    let store = client(addr);
    let session = store.open(TTL).await.unwrap();
    let mut slow = store.watch(&prefix(), None).await.unwrap();
    assert!(matches!(next(&mut slow).await, Change::Reset { .. }));
    let mut quick = store.watch(&prefix(), None).await.unwrap();
    let writing = async {
        // Far more than the buffers of two sockets and the ring hold together.
        let mut record = put(&store, &session, &key("c", "1"), "begin").await;
        for number in 0..1_200 {
            record = replace(
                &store,
                &session,
                &record,
                format!("{number}{}", "x".repeat(16_000)),
            )
            .await;
        }
        put(&store, &session, &key("c", "end"), "end").await;
    };
    let reading = async {
        let mut puts = 0;
        loop {
            match news(&mut quick).await {
                Change::Put(record) if record.key.last() == "end" => return puts,
                Change::Put(_) => puts += 1,
                _ => {}
            }
        }
    };
    let ((), quick_puts) = tokio::join!(writing, reading);
    assert!(quick_puts >= 100, "{quick_puts}");
    let (mut resets, mut puts, mut standing) = (0, 0, Standing::new());
    let end = key("c", "end").to_string();
    let limit = Instant::now() + 60 * SECOND;
    while !standing.contains_key(&end) {
        assert!(Instant::now() < limit, "it never converges");
        let change = next(&mut slow).await;
        match &change {
            Change::Reset { .. } => resets += 1,
            _ => puts += 1,
        }
        fold(&mut standing, &change);
    }
    assert_eq!(standing, listed(&store).await);
    assert!(resets >= 1, "nothing was left out without a word: {puts} changes");
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_disconnected_in_the_end() {
    let server = service().await;
    let addr = server.local_addr();
    let store = client(addr);
    let session = store.open(60 * SECOND).await.unwrap();
    let silent = Events::open(addr, WATCH, "").await;
    let start = Instant::now();
    let mut record = put(&store, &session, &key("c", "1"), "begin").await;
    // More than its socket holds, and then something now and then.
    let mut number = 0;
    while server.watches() == 1 {
        assert!(start.elapsed() < 120 * SECOND, "it is still there");
        number += 1;
        record = replace(
            &store,
            &session,
            &record,
            format!("{number}{}", "x".repeat(16_000)),
        )
        .await;
        if number > 600 {
            sleep(SECOND / 10).await;
        }
    }
    assert!(start.elapsed() > 25 * SECOND, "{:?}", start.elapsed());
    drop(silent);
}

#[tokio::test]
async fn a_quiet_watch_shows_life_as_often_as_asked() {
    let server = service().await;
    let addr = server.local_addr();
    let mut often = Events::open(addr, &format!("{WATCH}?keep_alive=1s"), "").await;
    let reset = often.next().await.unwrap();
    let start = Instant::now();
    for _ in 0..3 {
        let event = often.next().await.unwrap();
        assert_eq!(event.name, "progress");
        assert_eq!(event.id, reset.id, "a quiet watch can go on from where it is");
    }
    let took = start.elapsed();
    assert!((2_900..4_500).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test]
async fn a_long_poll_answers_with_changes_or_after_its_time() {
    let server = service().await;
    let addr = server.local_addr();
    let store = client(addr);
    let session = store.open(TTL).await.unwrap();
    let one = put(&store, &session, &key("c", "1"), "1").await;

    let first = get(addr, &format!("{WATCH}?wait=30s")).await;
    assert_eq!(
        (first.status, first.header("content-type")),
        (200, "application/json")
    );
    let first = first.json();
    assert_eq!(first["events"].as_array().unwrap().len(), 1);
    assert_eq!(first["events"][0]["event"], "reset");
    assert_eq!(first["events"][0]["data"]["records"][0]["key"], "things/1");
    let cursor = first["cursor"].as_str().unwrap();
    assert_eq!(first["events"][0]["id"], cursor);

    let start = Instant::now();
    let none = get(addr, &format!("{WATCH}?wait=500ms&cursor={cursor}"))
        .await
        .json();
    assert!(start.elapsed() >= SECOND / 2, "{:?}", start.elapsed());
    assert_eq!(none, serde_json::json!({"events": [], "cursor": cursor}));

    let path = format!("{WATCH}?wait=30s&cursor={cursor}");
    let start = Instant::now();
    let (answer, ()) = tokio::join!(get(addr, &path), async {
        sleep(SECOND / 2).await;
        remove(&store, &session, &one).await;
    });
    assert!(start.elapsed() < 5 * SECOND, "as soon as there is something");
    let answer = answer.json();
    assert_eq!(answer["events"][0]["event"], "gone");
    assert_eq!(answer["events"][0]["data"]["key"], "things/1");
    assert_eq!(answer["cursor"], answer["events"][0]["id"]);
    assert_eq!(server.watches(), 0);
}

#[tokio::test]
async fn a_long_poll_is_bounded_and_goes_on_where_it_ended() {
    let server = service().await;
    let addr = server.local_addr();
    let store = crate::harness::patient(addr);
    let session = store.open(TTL).await.unwrap();
    let first = get(addr, &format!("{WATCH}?wait=0s")).await.json();
    let mut cursor = first["cursor"].as_str().unwrap().to_owned();
    let _watched = store.watch(&prefix(), None).await.unwrap();
    let items: Vec<_> = (0..100)
        .map(|number| create(&key("c", &format!("{number:03}")), "x".repeat(16_000)))
        .collect();
    for written in store.write(&session, &items).await {
        written.unwrap();
    }
    let (mut told, mut answers) = (Vec::new(), 0);
    while told.len() < 100 {
        let answer = get(addr, &format!("{WATCH}?wait=5s&cursor={cursor}")).await;
        assert!(answer.text.len() < 1_200_000, "{}", answer.text.len());
        let answer = answer.json();
        let events = answer["events"].as_array().unwrap();
        assert!(!events.is_empty() && events.iter().all(|event| event["event"] == "put"));
        told.extend(
            events
                .iter()
                .map(|event| event["data"]["key"].as_str().unwrap().to_owned()),
        );
        answer["cursor"].as_str().unwrap().clone_into(&mut cursor);
        answers += 1;
    }
    let expected: Vec<_> = (0..100).map(|number| format!("things/{number:03}")).collect();
    assert_eq!(told, expected, "each once, in order");
    assert!(answers >= 2, "{answers}");
}

#[tokio::test]
async fn a_large_reset_comes_whole_in_bounded_parts() {
    let server = service().await;
    let addr = server.local_addr();
    let store = crate::harness::patient(addr);
    let session = store.open(TTL).await.unwrap();
    let items: Vec<_> = (0..3_000)
        .map(|number| create(&key("c", &format!("{number:04}")), "x".repeat(400)))
        .collect();
    for written in store.write(&session, &items).await {
        written.unwrap();
    }
    let mut events = Events::open(addr, WATCH, "").await;
    let (mut told, mut parts) = (0, 0);
    loop {
        let part = events.next().await.unwrap();
        assert_eq!((part.name.as_str(), &part.data["part"]), ("reset", &parts.into()));
        assert!(part.data.to_string().len() < 128 * 1_024);
        told += part.data["records"].as_array().unwrap().len();
        parts += 1;
        assert_eq!(part.id.is_some(), part.data["last"] == true);
        if part.id.is_some() {
            break;
        }
    }
    assert_eq!(told, 3_000);
    assert!(parts > 10, "{parts}");
    let mut changes = store.watch(&prefix(), None).await.unwrap();
    let Change::Reset { records, .. } = next(&mut changes).await else {
        panic!("a watch begins with a reset");
    };
    assert_eq!(records.len(), 3_000);
    let polled = get(addr, &format!("{WATCH}?wait=0s")).await.json();
    assert_eq!(polled["events"].as_array().unwrap().len(), parts);
}

#[tokio::test]
async fn a_watch_that_is_dropped_is_released() {
    let server = service().await;
    let addr = server.local_addr();
    let store = client(addr);
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(store.watch(&prefix(), None).await.unwrap());
    }
    let mut raw = Events::open(addr, WATCH, "").await;
    raw.next().await.unwrap();
    assert_eq!(server.watches(), 21);
    assert_eq!(get(addr, "/healthz").await.json()["watches"], 21);
    drop((open, raw));
    eventually(2 * SECOND, async || server.watches() == 0).await;
}

#[tokio::test]
async fn shutting_down_does_not_wait_for_watches() {
    let server = service().await;
    let addr = server.local_addr();
    let store = client(addr);
    let mut changes = store.watch(&prefix(), None).await.unwrap();
    let mut never_read = store.watch(&prefix(), None).await.unwrap();
    next(&mut changes).await;
    let mut raw = Events::open(addr, WATCH, "").await;
    raw.next().await.unwrap();
    let poll = tokio::spawn(async move {
        let cursor = get(addr, &format!("{WATCH}?wait=0s")).await.json()["cursor"].clone();
        get(
            addr,
            &format!("{WATCH}?wait=30s&cursor={}", cursor.as_str().unwrap()),
        )
        .await
    });
    eventually(2 * SECOND, async || server.watches() == 4).await;
    let start = Instant::now();
    server.shutdown(5 * SECOND).await.unwrap();
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    let error = failure(&mut changes, SECOND).await;
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Unavailable, Retry::Safe { after: None })
    );
    failure(&mut never_read, SECOND).await;
    assert!(raw.next().await.is_none(), "a plain end");
    assert_eq!(poll.await.unwrap().json()["events"], serde_json::json!([]));
}

#[tokio::test]
async fn a_watch_too_many_is_told_to_come_back() {
    let config = ServerConfig {
        listen: any_port(),
        max_watches: 3,
        ..ServerConfig::default()
    };
    let server = Server::start(config, Arc::new(MemoryStore::new())).await.unwrap();
    let addr = server.local_addr();
    let store = client(addr);
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(store.watch(&prefix(), None).await.unwrap());
    }
    for path in [WATCH.to_owned(), format!("{WATCH}?wait=1s")] {
        let answer = get(addr, &path).await;
        assert_eq!((answer.status, answer.problem().as_str()), (503, "overloaded"));
        assert_eq!(answer.header("retry-after"), "5");
    }
    let error = store.watch(&prefix(), None).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        matches!(error.retry(), Retry::Safe { after: Some(_) }),
        "{error:?}"
    );
    assert!(store.open(TTL).await.is_ok(), "everything else goes on");
    open.pop();
    eventually(2 * SECOND, async || store.watch(&prefix(), None).await.is_ok()).await;
}

#[tokio::test]
async fn as_many_watches_as_cannot_be_are_refused() {
    for max_watches in [0, 10_001] {
        let config = ServerConfig {
            listen: any_port(),
            max_watches,
            ..ServerConfig::default()
        };
        let error = Server::start(config, Arc::new(MemoryStore::new()))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("max_watches"), "{error}");
    }
}

#[tokio::test]
async fn while_warming_up_nobody_is_told_everything() {
    let server = forgetful(any_port(), Duration::from_millis(700)).await;
    let addr = server.local_addr();
    let store = client(addr);
    for path in [
        WATCH.to_owned(),
        format!("{WATCH}?wait=0s"),
        format!("{WATCH}?cursor=1-1"),
    ] {
        let answer = timeout(5 * SECOND, get(addr, &path))
            .await
            .expect("refused at once");
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (503, "warming-up"),
            "{path}"
        );
    }
    let error = store.watch(&prefix(), None).await.err().unwrap();
    assert!(
        matches!(error.retry(), Retry::Safe { after: Some(_) }),
        "{error:?}"
    );
    eventually(3 * SECOND, async || store.watch(&prefix(), None).await.is_ok()).await;
}

#[tokio::test]
async fn peers_are_watched_through_a_restart_and_the_difference_is_told() {
    let server = service().await;
    let addr = server.local_addr();
    let system = HttpSystem::connect(config(addr).with_ttl(3 * SECOND))
        .await
        .unwrap();
    let other = HttpSystem::connect(config(addr).with_ttl(3 * SECOND))
        .await
        .unwrap();
    let peers = other.peer_discovery().unwrap();
    let (stays, leaves) = (InstanceId::new_v4(), InstanceId::new_v4());
    let _stays = peers
        .register_instance(stays, WorkerAddress::from_bytes("tcp://1"))
        .await
        .unwrap();
    let leaving = peers
        .register_instance(leaves, WorkerAddress::from_bytes("tcp://2"))
        .await
        .unwrap();
    let watch = system.peer_discovery().unwrap().watch().unwrap();
    let mut events = watch.watch_peers().await.unwrap();
    let mut next = async || {
        timeout(15 * SECOND, events.next())
            .await
            .expect("in time")
            .unwrap()
    };
    assert!(matches!(next().await, PeerEvent::Snapshot(peers) if peers.len() == 2));
    server.shutdown(SECOND).await.unwrap();
    assert!(matches!(next().await, PeerEvent::Interrupted(_)));
    // Gone before the service is back, so nobody ever says that it left.
    let _ = leaving.unregister().await;
    let _server = forgetful(addr, 2 * SECOND).await;
    let mut seen = Vec::new();
    loop {
        let event = next().await;
        seen.push(format!("{event:?}"));
        if matches!(event, PeerEvent::Resynced { .. }) {
            break;
        }
        match event {
            PeerEvent::Removed { peer, .. } => assert_eq!(peer.instance_id(), leaves),
            PeerEvent::Interrupted(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(seen.iter().any(|event| event.starts_with("Removed")), "{seen:?}");
}

#[tokio::test]
async fn a_connection_that_swallows_everything_is_noticed_within_two_keep_alives() {
    let server = service().await;
    let between = Between::start(server.local_addr(), Manner::Through).await;
    let store = HttpStore::try_new(&config(between.addr()).with_keep_alive(SECOND)).unwrap();
    let mut changes = store.watch(&prefix(), None).await.unwrap();
    next(&mut changes).await;
    // Keep-alives arrive: it lives for longer than two of them.
    let quiet = async { while changes.next().await.unwrap().is_ok() {} };
    assert!(
        timeout(3 * SECOND, quiet).await.is_err(),
        "it goes on while it is quiet"
    );
    between.set(Manner::Swallow);
    let start = Instant::now();
    let error = failure(&mut changes, 4 * SECOND).await;
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Timeout, Retry::Safe { after: None })
    );
    assert!(start.elapsed() < 2 * SECOND + SECOND / 2, "{:?}", start.elapsed());
}

#[tokio::test]
async fn where_streams_are_kept_back_the_client_polls() {
    let server = service().await;
    let addr = server.local_addr();
    let direct = client(addr);
    let session = direct.open(TTL).await.unwrap();
    let record = put(&direct, &session, &key("c", "1"), "1").await;
    let between = Between::start(addr, Manner::Buffer).await;
    let store = HttpStore::try_new(&config(between.addr()).with_keep_alive(SECOND)).unwrap();
    let mut changes = store.watch(&prefix(), None).await.unwrap();
    let start = Instant::now();
    assert!(matches!(news(&mut changes).await, Change::Reset { records, .. } if records.len() == 1));
    assert!(start.elapsed() < 2 * SECOND, "{:?}", start.elapsed());
    for number in 2..5 {
        let name = number.to_string();
        put(&direct, &session, &key("c", &name), &name).await;
        let told = news(&mut changes).await;
        assert!(
            matches!(&told, Change::Put(record) if record.key.last() == name),
            "{told:?}"
        );
    }
    remove(&direct, &session, &record).await;
    let gone = news(&mut changes).await;
    assert!(
        matches!(&gone, Change::Gone { key, .. } if *key == record.key),
        "{gone:?}"
    );
    // Polls are noticed to be silent as well.
    between.set(Manner::Swallow);
    let error = failure(&mut changes, 4 * SECOND).await;
    assert_eq!(error.kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn where_a_stream_is_refused_the_client_polls_from_its_position() {
    let server = service().await;
    let addr = server.local_addr();
    let direct = client(addr);
    let session = direct.open(TTL).await.unwrap();
    let _kept = direct.watch(&prefix(), None).await.unwrap();
    let first = put(&direct, &session, &key("c", "1"), "1").await;
    put(&direct, &session, &key("c", "2"), "2").await;
    let between = Between::start(addr, Manner::NoStreams).await;
    let store = HttpStore::try_new(&config(between.addr()).with_keep_alive(SECOND)).unwrap();
    let mut changes = store.watch(&prefix(), first.at).await.unwrap();
    assert!(matches!(next(&mut changes).await, Change::Put(record) if record.key.last() == "2"));
    assert!(matches!(next(&mut changes).await, Change::Progress(_)));
    put(&direct, &session, &key("c", "3"), "3").await;
    assert!(matches!(news(&mut changes).await, Change::Put(record) if record.key.last() == "3"));
}

#[tokio::test]
async fn what_is_no_watch_is_told_apart() {
    let stream = |body: &str| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
        format!("{head}{body}")
    };
    let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>";
    let bad = "HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>";
    for (answer, kind) in [
        (page.to_owned(), ErrorKind::Malformed),
        (bad.to_owned(), ErrorKind::Unavailable),
        (stream("data: \u{0}\u{ff}\n\n"), ErrorKind::Unavailable),
        (stream("event: put\ndata: {}\n\n"), ErrorKind::Malformed),
        (stream("event: reset\ndata: <html>\n\n"), ErrorKind::Malformed),
        (
            stream("id: x\nevent: progress\ndata: {}\n\n"),
            ErrorKind::Malformed,
        ),
        (
            stream(&format!("data: {}", "x".repeat(1_100_000))),
            ErrorKind::Malformed,
        ),
        (stream(&"data: xxxxxxxxx\n".repeat(120_000)), ErrorKind::Malformed),
        (stream(""), ErrorKind::Unavailable),
    ] {
        let addr = crate::fault::canned(Some(answer.clone())).await;
        let shown = &answer[..answer.len().min(150)];
        let error = match client(addr).watch(&prefix(), None).await {
            Err(error) => error,
            Ok(mut changes) => failure(&mut changes, 5 * SECOND).await,
        };
        assert_eq!(error.kind(), kind, "{shown} {error:?}");
        assert!(error.to_string().contains(&addr.to_string()), "{error}");
    }
}

#[tokio::test]
async fn those_who_are_told_to_come_back_do_not_come_all_at_once() {
    const WATCHERS: usize = 60;
    let server = service().await;
    let between = Between::start(server.local_addr(), Manner::Through).await;
    let mut following = Vec::new();
    for number in 0..WATCHERS {
        let store: Arc<dyn RecordStore> = Arc::new(client(between.addr()));
        let own = prefix().child(&format!("watcher{number}")).unwrap();
        let mut follow = discovery_records::view::Follow::start(store, own).await.unwrap();
        assert!(matches!(follow.next().await, Heard::Change(Change::Reset { .. })));
        following.push(follow);
    }
    let mut watching = tokio::task::JoinSet::<()>::new();
    for mut follow in following {
        watching.spawn(async move {
            loop {
                follow.next().await;
            }
        });
    }
    between.set(Manner::Refuse);
    // Of each: when it came first, and when it came again.
    let mut times: BTreeMap<String, Vec<Instant>> = BTreeMap::new();
    eventually(20 * SECOND, async || {
        times.clear();
        for (what, at) in between.arrivals() {
            let own = what.split("watcher").nth(1).unwrap_or_default();
            let own = own.split('&').next().unwrap_or_default();
            times.entry(own.to_owned()).or_default().push(at);
        }
        times.len() == WATCHERS && times.values().all(|times| times.len() >= 2)
    })
    .await;
    let gaps: Vec<_> = times.values().map(|times| times[1] - times[0]).collect();
    // It was told to wait for one second; nobody comes earlier, and not all at the same time.
    let (least, most) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
    assert!(*least >= SECOND - SECOND / 20, "{gaps:?}");
    assert!(*most - *least >= SECOND / 4, "{gaps:?}");
    let together = |from: &Duration| {
        gaps.iter()
            .filter(|gap| (*from..*from + SECOND / 20).contains(*gap))
            .count()
    };
    let busiest = gaps.iter().map(together).max().unwrap();
    assert!(busiest <= WATCHERS / 3, "{gaps:?}");
    watching.shutdown().await;
}

#[tokio::test]
async fn a_store_whose_watch_breaks_is_followed_from_where_it_broke() {
    let store = Arc::new(between::Breaking::default());
    let server = serve(any_port(), Duration::ZERO, store.clone()).await;
    let addr = server.local_addr();
    let http = client(addr);
    let session = http.open(TTL).await.unwrap();
    let mut changes = http.watch(&prefix(), None).await.unwrap();
    assert!(matches!(next(&mut changes).await, Change::Reset { .. }));
    for round in 0..3 {
        store.break_all();
        put(&http, &session, &key("c", &round.to_string()), "x").await;
        let told = news(&mut changes).await;
        assert!(
            matches!(&told, Change::Put(record) if record.key.last() == round.to_string()),
            "{told:?}"
        );
    }
    assert_eq!(store.watches(), 4, "one at a time, however many watch");
    assert_eq!(server.watches(), 1);
}

#[tokio::test]
async fn a_store_that_is_not_heard_ends_the_watches_with_its_error() {
    let store = Arc::new(between::Breaking::default());
    let server = serve(any_port(), Duration::ZERO, store.clone()).await;
    let addr = server.local_addr();
    let http = client(addr);
    let mut changes = http.watch(&prefix(), None).await.unwrap();
    let mut raw = Events::open(addr, WATCH, "").await;
    store.refuse(true);
    let error = failure(&mut changes, 9 * SECOND).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("broken as asked"), "{error}");
    while let Some(event) = raw.next().await {
        if event.name == "error" {
            assert_eq!(event.data["code"], "unavailable");
            assert!(event.id.is_none());
        }
    }
    let error = http.watch(&prefix(), None).await.err().unwrap();
    assert!(error.to_string().contains("broken as asked"), "{error}");
    store.refuse(false);
    let mut changes = http.watch(&prefix(), None).await.unwrap();
    assert!(matches!(next(&mut changes).await, Change::Reset { .. }));
    assert_eq!(server.watches(), 1);
}

#[tokio::test]
async fn a_store_without_positions_is_numbered_by_the_service() {
    let server = serve(
        any_port(),
        Duration::ZERO,
        Arc::new(between::Breaking::without_positions()),
    )
    .await;
    let addr = server.local_addr();
    let store = client(addr);
    let session = store.open(TTL).await.unwrap();
    let mut changes = store.watch(&prefix(), None).await.unwrap();
    let Change::Reset { as_of, .. } = next(&mut changes).await else {
        panic!("a watch begins with a reset");
    };
    put(&store, &session, &key("c", "1"), "1").await;
    let told = news(&mut changes).await;
    let position = told.position().unwrap();
    assert!(position > as_of.unwrap());
    put(&store, &session, &key("c", "2"), "2").await;
    let mut resumed = store.watch(&prefix(), Some(position)).await.unwrap();
    assert!(matches!(next(&mut resumed).await, Change::Put(record) if record.key.last() == "2"));
    assert!(matches!(next(&mut resumed).await, Change::Progress(at) if at > position));
}

#[tokio::test]
async fn a_watch_takes_nobody_elses_turn_and_outlives_every_timeout_of_a_request() {
    let server = service().await;
    let addr = server.local_addr();
    let store = client(addr);
    // More than the client sends at a time.
    let mut open = Vec::new();
    for _ in 0..100 {
        open.push(store.watch(&prefix(), None).await.unwrap());
    }
    let session = store.open(TTL).await.unwrap();
    // Longer than one request may take.
    sleep(6 * SECOND).await;
    put(&store, &session, &key("c", "1"), "1").await;
    for changes in &mut open {
        assert!(matches!(news(changes).await, Change::Reset { .. }));
        assert!(matches!(news(changes).await, Change::Put(_)));
    }
}

#[tokio::test]
async fn folding_equals_the_list_whatever_is_cut() {
    let memory = Arc::new(MemoryStore::new());
    let server = serve(any_port(), Duration::ZERO, memory.clone()).await;
    let between = Between::start(server.local_addr(), Manner::Through).await;
    let direct = client(server.local_addr());
    let watched: Arc<dyn RecordStore> = Arc::new(client(between.addr()));
    let mut follow = discovery_records::view::Follow::start(watched, prefix())
        .await
        .unwrap();
    let session = direct.open(30 * SECOND).await.unwrap();
    let mut standing = Standing::new();
    let mut records: BTreeMap<u64, Record> = BTreeMap::new();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for step in 0..600 {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let name = (seed >> 33) % 25;
        match records.remove(&name) {
            None => drop(records.insert(
                name,
                put(&direct, &session, &key("c", &name.to_string()), "new").await,
            )),
            Some(record) if seed.is_multiple_of(3) => remove(&direct, &session, &record).await,
            Some(record) => {
                let record = replace(&direct, &session, &record, step.to_string()).await;
                records.insert(name, record);
            }
        }
        if step % 50 == 20 {
            between.cut();
        }
        while let Ok(heard) = timeout(Duration::from_millis(2), follow.next()).await {
            if let Heard::Change(change) = heard {
                fold(&mut standing, &change);
            }
        }
    }
    let expected = listed(&direct).await;
    let end = Instant::now() + 10 * SECOND;
    while standing != expected {
        assert!(Instant::now() < end, "{standing:?} instead of {expected:?}");
        if let Ok(Heard::Change(change)) = timeout(SECOND, follow.next()).await {
            fold(&mut standing, &change);
        }
    }
}

#[tokio::test]
async fn many_watch_many_that_change_and_all_come_to_the_same() {
    const WATCHERS: usize = 100;
    const RECORDS: usize = 100;
    let server = service().await;
    let addr: SocketAddr = server.local_addr();
    let store = crate::harness::patient(addr);
    let session = store.open(60 * SECOND).await.unwrap();
    let mut watching = tokio::task::JoinSet::new();
    for _ in 0..WATCHERS {
        let store = store.clone();
        watching.spawn(async move {
            let mut changes = store.watch(&prefix(), None).await.unwrap();
            let (mut standing, mut last) = (Standing::new(), None::<Position>);
            while !standing.contains_key(key("c", "end").as_str()) {
                let change = timeout(60 * SECOND, changes.next()).await.expect("in time");
                let change = change.unwrap().unwrap();
                assert!(change.position() >= last, "never backwards");
                last = change.position();
                fold(&mut standing, &change);
            }
            standing
        });
    }
    eventually(30 * SECOND, async || server.watches() == WATCHERS).await;
    let items: Vec<_> = (0..RECORDS)
        .map(|number| create(&key("c", &number.to_string()), "0"))
        .collect();
    let mut records: Vec<_> = Vec::new();
    for written in store.write(&session, &items).await {
        let Written::Done(record) = written.unwrap() else {
            panic!("a conflict");
        };
        records.push(record);
    }
    for round in 1..=20 {
        let items = records.iter().map(|record| Write {
            key: record.key.clone(),
            body: round.to_string().into(),
            writer: record.writer,
            expect: Expect::Version(record.version.clone()),
        });
        let items: Vec<_> = items.collect();
        let written = store.write(&session, &items).await.into_iter();
        records = written
            .map(|written| match written.unwrap() {
                Written::Done(record) => record,
                conflict => panic!("{conflict:?}"),
            })
            .collect();
    }
    put(&store, &session, &key("c", "end"), "end").await;
    let expected = listed(&store).await;
    for standing in watching.join_all().await {
        assert_eq!(standing, expected);
    }
    eventually(2 * SECOND, async || server.watches() == 0).await;
}

#[tokio::test]
async fn options_of_a_watch_are_checked() {
    let server = service().await;
    let addr = server.local_addr();
    for accept in ["text/event-stream", "text/*;q=0.5", "application/json, */*"] {
        let events = Events::open(addr, WATCH, &format!("accept: {accept}\r\n")).await;
        assert!(events.head.starts_with("HTTP/1.1 200"), "{accept}");
    }
    let refused = send(
        addr,
        reqwest::Method::GET,
        WATCH,
        &[("accept", "application/json")],
        "",
    )
    .await;
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (406, "not-acceptable")
    );
    let json = [("accept", "application/json")];
    let polled = send(addr, reqwest::Method::GET, &format!("{WATCH}?wait=0s"), &json, "").await;
    assert_eq!(polled.status, 200);
    let below = format!("{WATCH}?under=a/b&wait=0s");
    let store = client(addr);
    let session = store.open(TTL).await.unwrap();
    let deep = RecordKey::try_new(&"c".parse().unwrap(), "things", &["a", "b", "c"]).unwrap();
    put(&store, &session, &deep, "deep").await;
    put(&store, &session, &key("c", "a"), "not below").await;
    let told = get(addr, &below).await.json();
    assert_eq!(told["events"][0]["data"]["records"].as_array().unwrap().len(), 1);
}
