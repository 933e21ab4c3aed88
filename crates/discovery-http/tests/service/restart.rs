//! A service that stops and comes back without its memory.

use std::{sync::Arc, time::Duration};

use discovery_core::{
    ErrorKind, Retry,
    store::{Expect, Kept, RecordStore, Removal, Removed, Written},
};
use discovery_http::server::Server;
use discovery_memory::MemoryStore;

use crate::harness::{
    SECOND, TTL, any_port, client, create, forgetful, get, held, key, patient, put, read, serve, service,
};

async fn restart(server: Server, warm_up: Duration) -> Server {
    let addr = server.local_addr();
    server.shutdown(SECOND).await.unwrap();
    forgetful(addr, warm_up).await
}

#[tokio::test]
async fn one_renewal_brings_the_records_back() {
    let server = service().await;
    let store = client(server.local_addr());
    let session = store.open(TTL).await.unwrap();
    let one = put(&store, &session, &key("c", "1"), "1").await;
    let two = put(&store, &session, &key("c", "2"), "2").await;

    let server = restart(server, Duration::ZERO).await;
    assert!(read(&store, &one.key).await.is_none());
    let other = store.open(TTL).await.unwrap();
    let taken = put(&store, &other, &two.key, "of another").await;

    let renewal = store.renew(&session, &[held(&one), held(&two)]).await.unwrap();
    assert_ne!(renewal.session, session);
    let [Kept::Mine(version), Kept::Other(standing)] = &renewal.kept[..] else {
        panic!("{renewal:?}");
    };
    assert_eq!(standing.version, taken.version);
    let back = read(&store, &one.key).await.unwrap();
    assert_eq!(
        (&back.version, &back.body, back.writer),
        (version, &one.body, one.writer)
    );

    // From here on it is a session like any other.
    let again = store.renew(&renewal.session, &[held(&back)]).await.unwrap();
    assert!(matches!(again.kept[..], [Kept::Mine(_)]) && again.session == renewal.session);
    drop(server);
}

#[tokio::test]
async fn a_renewal_whose_answer_was_lost_can_be_repeated() {
    let server = service().await;
    let store = client(server.local_addr());
    let session = store.open(TTL).await.unwrap();
    let record = put(&store, &session, &key("c", "1"), "1").await;
    let _server = restart(server, Duration::ZERO).await;
    let lost = store.renew(&session, &[held(&record)]).await.unwrap();
    let renewal = store.renew(&session, &[held(&record)]).await.unwrap();
    assert!(matches!(renewal.kept[..], [Kept::Mine(_)]), "{renewal:?}");
    assert_eq!(
        renewal.session, lost.session,
        "a lost answer opens no second session"
    );
    let [Kept::Mine(version)] = &renewal.kept[..] else {
        panic!("{renewal:?}");
    };
    let standing = read(&store, &record.key).await.unwrap();
    assert_eq!(version, &standing.version);
}

#[tokio::test]
async fn a_large_session_comes_back_whole() {
    let server = service().await;
    let store = patient(server.local_addr());
    let session = store.open(TTL).await.unwrap();
    let mut records = Vec::new();
    for number in 0..50 {
        records.push(
            put(
                &store,
                &session,
                &key("c", &number.to_string()),
                &"x".repeat(16_000),
            )
            .await,
        );
    }
    let held: Vec<_> = records.iter().map(held).collect();
    let _server = restart(server, Duration::ZERO).await;
    let renewal = store.renew(&session, &held).await.unwrap();
    assert!(renewal.kept.iter().all(|kept| matches!(kept, Kept::Mine(_))));
    store.close(&renewal.session).await.unwrap();
    for record in &records {
        assert!(
            read(&store, &record.key).await.is_none(),
            "all of it is in one session"
        );
    }
}

#[tokio::test]
async fn a_session_closed_in_this_epoch_stays_closed() {
    let server = service().await;
    let store = client(server.local_addr());
    let session = store.open(TTL).await.unwrap();
    let record = put(&store, &session, &key("c", "1"), "1").await;
    let _server = restart(server, Duration::ZERO).await;
    let renewal = store.renew(&session, &[held(&record)]).await.unwrap();
    store.close(&renewal.session).await.unwrap();
    let late = store.renew(&renewal.session, &[held(&record)]).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::LeaseLost);
    assert!(read(&store, &record.key).await.is_none());
}

#[tokio::test]
async fn while_warming_up_nothing_is_not_yet_an_answer() {
    let server = service().await;
    let addr = server.local_addr();
    let store = client(addr);
    let session = store.open(TTL).await.unwrap();
    let record = put(&store, &session, &key("c", "1"), "1").await;
    let missing = key("c", "2");
    let _server = restart(server, Duration::from_millis(800)).await;

    let answers = store.get(std::slice::from_ref(&record.key)).await;
    let error = answers[0].as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        matches!(error.retry(), Retry::Safe { after: Some(_) }),
        "{error:?}"
    );
    let kind = discovery_core::store::RecordKey::try_new(&"c".parse().unwrap(), "things", &[]).unwrap();
    assert_eq!(
        store.list(&kind, None).await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    for path in [
        "/readyz",
        "/v1/clusters/c/records/things",
        "/v1/clusters/c/records/things/1",
        "/v1/clusters/c/instances",
        "/v1/clusters/c/workers/00000000000000ff",
        "/v1/clusters/c/instances/5f3c8d1e-8a43-4c1b-9a65-0a6c1a3f9b10",
    ] {
        let answer = get(addr, path).await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (503, "warming-up"),
            "{path}"
        );
        assert_eq!(answer.header("retry-after"), "1", "{path}");
    }
    assert_eq!(get(addr, "/healthz").await.status, 200);

    // What comes back is found at once.
    store.renew(&session, &[held(&record)]).await.unwrap();
    let answers = store.get(&[record.key.clone(), missing.clone()]).await;
    assert!(
        matches!(answers[0], Ok(Some(_))) && answers[1].is_err(),
        "{answers:?}"
    );

    crate::harness::eventually(3 * SECOND, async || get(addr, "/readyz").await.status == 200).await;
    assert!(read(&store, &missing).await.is_none());
    assert_eq!(store.list(&kind, None).await.unwrap().records.len(), 1);
}

#[tokio::test]
async fn a_service_in_front_of_a_store_that_remembers_keeps_every_session() {
    let memory = Arc::new(MemoryStore::new());
    let server = serve(any_port(), Duration::ZERO, memory.clone()).await;
    let addr = server.local_addr();
    let store = client(addr);
    let session = store.open(TTL).await.unwrap();
    let record = put(&store, &session, &key("c", "1"), "1").await;
    server.shutdown(SECOND).await.unwrap();
    let _server = serve(addr, Duration::ZERO, memory).await;
    let renewal = store.renew(&session, &[held(&record)]).await.unwrap();
    let [Kept::Mine(version)] = &renewal.kept[..] else {
        panic!("{renewal:?}");
    };
    assert_eq!(version, &record.version);
    // Closed through one start, it stays closed in it, under either name.
    store.close(&session).await.unwrap();
    let late = store.renew(&renewal.session, &[held(&record)]).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::LeaseLost);
}

#[tokio::test]
async fn what_was_closed_through_one_service_no_other_brings_back() {
    let memory = Arc::new(MemoryStore::new());
    let one = serve(any_port(), Duration::ZERO, memory.clone()).await;
    let two = serve(any_port(), Duration::ZERO, memory.clone()).await;
    let (store, other) = (client(one.local_addr()), client(two.local_addr()));
    let session = store.open(TTL).await.unwrap();
    let record = put(&store, &session, &key("c", "1"), "1").await;
    store.close(&session).await.unwrap();
    let late = other.renew(&session, &[held(&record)]).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::LeaseLost);

    // Nor does a later start of the same one.
    let addr = one.local_addr();
    one.shutdown(SECOND).await.unwrap();
    let _one = serve(addr, Duration::ZERO, memory).await;
    let late = store.renew(&session, &[held(&record)]).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::LeaseLost);
    assert!(read(&other, &record.key).await.is_none());
}

#[tokio::test]
async fn closing_under_the_old_name_ends_what_was_taken_up_for_good() {
    let server = service().await;
    let store = client(server.local_addr());
    let session = store.open(TTL).await.unwrap();
    let record = put(&store, &session, &key("c", "1"), "1").await;
    let _server = restart(server, Duration::ZERO).await;
    let _lost = store.renew(&session, &[held(&record)]).await.unwrap();
    store.close(&session).await.unwrap();
    assert!(read(&store, &record.key).await.is_none());
    for _ in 0..2 {
        let late = store.renew(&session, &[held(&record)]).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::LeaseLost);
        store.close(&session).await.unwrap();
    }
    assert!(read(&store, &record.key).await.is_none());
}

#[tokio::test]
async fn whatever_ended_first_a_late_renewal_of_the_old_name_brings_nothing_back() {
    let server = service().await;
    let store = client(server.local_addr());
    let (unheard, taken) = (store.open(TTL).await.unwrap(), store.open(TTL).await.unwrap());
    let first = put(&store, &unheard, &key("c", "1"), "1").await;
    let second = put(&store, &taken, &key("c", "2"), "2").await;
    let _server = restart(server, Duration::ZERO).await;
    // One is closed before the service has heard of it, the other under its new name.
    store.close(&unheard).await.unwrap();
    let renewal = store.renew(&taken, &[held(&second)]).await.unwrap();
    store.close(&renewal.session).await.unwrap();
    for (session, record) in [(unheard, first), (taken, second)] {
        let late = store.renew(&session, &[held(&record)]).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::LeaseLost);
        assert!(read(&store, &record.key).await.is_none());
    }
}

#[tokio::test]
async fn writes_and_removals_under_the_old_name_reach_what_was_taken_up() {
    let server = service().await;
    let store = client(server.local_addr());
    let session = store.open(TTL).await.unwrap();
    let record = put(&store, &session, &key("c", "1"), "1").await;
    let _server = restart(server, Duration::ZERO).await;
    let lost = store.renew(&session, &[held(&record)]).await.unwrap();
    let written = put(&store, &session, &key("c", "2"), "2").await;
    let renewal = store
        .renew(&lost.session, &[held(&record), held(&written)])
        .await
        .unwrap();
    assert!(matches!(renewal.kept[1], Kept::Mine(_)), "{renewal:?}");

    let standing = read(&store, &record.key).await.unwrap();
    let removal = Removal {
        key: record.key.clone(),
        writer: record.writer,
        expect: Expect::Version(standing.version),
    };
    let removed = store.remove(&session, &removal).await.unwrap();
    assert!(matches!(removed, Removed::Done), "{removed:?}");
    // What was removed since does not come back with a renewal that was on its way.
    let late = store.renew(&session, &[held(&record)]).await.unwrap();
    assert!(matches!(late.kept[..], [Kept::Gone]), "{late:?}");
    assert!(read(&store, &record.key).await.is_none());
}

#[tokio::test]
async fn a_session_that_was_told_lost_is_not_taken_up_later() {
    let server = service().await;
    let store = client(server.local_addr());
    let session = store.open(TTL).await.unwrap();
    let record = put(&store, &session, &key("c", "1"), "1").await;
    let _server = restart(server, Duration::ZERO).await;
    let item = create(&key("c", "2"), "2");
    let written = store.write(&session, &[item]).await.pop().unwrap();
    assert_eq!(written.unwrap_err().kind(), ErrorKind::LeaseLost);
    let late = store.renew(&session, &[held(&record)]).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::LeaseLost);
}

#[tokio::test]
async fn an_own_record_in_a_newer_session_is_not_moved() {
    let server = service().await;
    let store = client(server.local_addr());
    let session = store.open(TTL).await.unwrap();
    let record = put(&store, &session, &key("c", "1"), "1").await;
    let _server = restart(server, Duration::ZERO).await;
    let newer = store.open(TTL).await.unwrap();
    let mut again = create(&record.key, record.body.clone());
    again.writer = record.writer;
    let written = store.write(&newer, &[again]).await.pop().unwrap().unwrap();
    let Written::Done(standing) = written else {
        panic!("{written:?}");
    };
    let renewal = store.renew(&session, &[held(&record)]).await.unwrap();
    let [Kept::Other(found)] = &renewal.kept[..] else {
        panic!("{renewal:?}");
    };
    assert_eq!(found.version, standing.version);
    store.close(&renewal.session).await.unwrap();
    assert!(read(&store, &record.key).await.is_some());
}
