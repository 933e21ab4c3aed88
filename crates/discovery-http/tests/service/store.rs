//! The record-store contract, through the service.

use discovery_core::{
    Cluster, ErrorKind,
    store::{Expect, Kept, RecordKey, RecordStore, Removal, Removed, Version, Write, Writer, Written},
};
use tokio::time::Instant;

use crate::harness::{SECOND, TTL, client, create, eventually, held, json, key, patient, put, read, service};

#[tokio::test]
async fn a_record_is_written_read_replaced_and_removed() {
    let server = service().await;
    let store = client(server.local_addr());
    let session = store.open(TTL).await.unwrap();
    assert_eq!(session.ttl, TTL);
    let key = key("c", "1");
    assert!(read(&store, &key).await.is_none());

    let first = put(&store, &session, &key, "\"one\"").await;
    let found = read(&store, &key).await.unwrap();
    assert_eq!((&found.key, &found.body), (&key, &first.body));
    assert_eq!(
        (found.writer, &found.version, found.at),
        (first.writer, &first.version, first.at)
    );
    assert!(first.at.is_some());

    let replace = Write {
        expect: Expect::Version(first.version.clone()),
        ..create(&key, &b"\x00\xff"[..])
    };
    let answers = store.write(&session, &[replace.clone(), replace]).await;
    let [Ok(Written::Done(second)), Ok(Written::Conflict(Some(standing)))] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert_eq!(second.version, standing.version);
    assert_eq!(standing.body, &b"\x00\xff"[..]);

    let removal = |version: &Version| Removal {
        key: key.clone(),
        writer: second.writer,
        expect: Expect::Version(version.clone()),
    };
    let old = store.remove(&session, &removal(&first.version)).await.unwrap();
    assert!(matches!(old, Removed::Conflict(Some(_))), "{old:?}");
    let now = store.remove(&session, &removal(&second.version)).await.unwrap();
    assert!(matches!(now, Removed::Done), "{now:?}");
    let again = store.remove(&session, &removal(&second.version)).await.unwrap();
    assert!(matches!(again, Removed::Conflict(None)), "{again:?}");
    assert!(read(&store, &key).await.is_none());
}

#[tokio::test]
async fn a_fenced_author_writes_no_more() {
    let server = service().await;
    let store = client(server.local_addr());
    let session = store.open(TTL).await.unwrap();
    let item = create(&key("c", "1"), "x");
    let fence = Removal {
        key: item.key.clone(),
        writer: item.writer,
        expect: Expect::Absent,
    };
    assert!(matches!(
        store.remove(&session, &fence).await.unwrap(),
        Removed::Done
    ));
    let answer = store
        .write(&session, std::slice::from_ref(&item))
        .await
        .pop()
        .unwrap();
    assert!(matches!(answer, Ok(Written::Conflict(None))), "{answer:?}");
    put(&store, &session, &item.key, "of another author").await;
}

#[tokio::test]
async fn a_renewal_tells_of_every_record_and_of_what_nobody_asked_for() {
    let server = service().await;
    let store = client(server.local_addr());
    let session = store.open(TTL).await.unwrap();
    let other = store.open(TTL).await.unwrap();
    let mine = put(&store, &session, &key("c", "mine"), "1").await;
    let unwanted = put(&store, &session, &key("c", "unwanted"), "1").await;
    let others = put(&store, &other, &key("c", "other"), "1").await;
    let mut gone = mine.clone();
    gone.key = key("c", "gone");
    let renewal = store
        .renew(&session, &[held(&mine), held(&others), held(&gone)])
        .await
        .unwrap();
    assert_eq!(renewal.session, session);
    let [Kept::Mine(version), Kept::Other(record), Kept::Gone] = &renewal.kept[..] else {
        panic!("{renewal:?}");
    };
    assert_eq!((version, &record.key), (&mine.version, &others.key));
    assert_eq!(renewal.unwanted.len(), 1);
    assert_eq!(renewal.unwanted[0].key, unwanted.key);
}

#[tokio::test]
async fn of_many_unwanted_records_some_are_told_at_a_time() {
    let server = service().await;
    let store = patient(server.local_addr());
    let told = async |cluster: &str, count: usize, body: &str| {
        let session = store.open(6 * TTL).await.unwrap();
        let items: Vec<_> = (0..count)
            .map(|number| create(&key(cluster, &number.to_string()), body.to_owned()))
            .collect();
        store.write(&session, &items).await;
        let name = std::str::from_utf8(&session.id).unwrap();
        let path = format!("/v1/clusters/{cluster}/sessions/{name}/renew");
        let ask = serde_json::json!({"ttl_ms": 60_000, "complete": true});
        let answer = json(server.local_addr(), reqwest::Method::POST, &path, ask).await;
        answer.json()["unwanted"].as_array().unwrap().len()
    };
    assert_eq!(told("small", 1_500, "x").await, 1_000);
    let full = "x".repeat(discovery_core::limit::BODY_BYTES);
    let told = told("full", 300, &full).await;
    assert!((1..=256).contains(&told), "{told} of full size");
}

#[tokio::test]
async fn a_closed_session_is_lost_with_its_records_and_closing_again_is_success() {
    let server = service().await;
    let store = client(server.local_addr());
    let session = store.open(TTL).await.unwrap();
    let record = put(&store, &session, &key("c", "1"), "1").await;
    store.close(&session).await.unwrap();
    store.close(&session).await.unwrap();
    assert!(read(&store, &record.key).await.is_none());

    let late = store.renew(&session, &[held(&record)]).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::LeaseLost);
    let late = store
        .write(&session, &[create(&record.key, "2")])
        .await
        .pop()
        .unwrap();
    assert_eq!(late.unwrap_err().kind(), ErrorKind::LeaseLost);
    let removal = Removal {
        key: record.key.clone(),
        writer: Writer::random(),
        expect: Expect::Absent,
    };
    let late = store.remove(&session, &removal).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::LeaseLost);
    assert!(read(&store, &record.key).await.is_none());
}

#[tokio::test]
async fn records_leave_when_nobody_renews() {
    let server = service().await;
    let store = client(server.local_addr());
    let session = store.open(SECOND).await.unwrap();
    let record = put(&store, &session, &key("c", "1"), "1").await;
    let start = Instant::now();
    eventually(3 * SECOND, async || read(&store, &record.key).await.is_none()).await;
    assert!(start.elapsed() < 2 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test]
async fn ttls_outside_the_limits_are_refused() {
    let server = service().await;
    let store = client(server.local_addr());
    for ttl in [SECOND / 2, 3_601 * SECOND] {
        let error = store.open(ttl).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("ttl"), "{error}");
    }
}

#[tokio::test]
async fn clusters_are_told_apart_whatever_their_names() {
    let server = service().await;
    let store = client(server.local_addr());
    let session = store.open(TTL).await.unwrap();
    let names = [
        "a",
        "ab",
        "a-b",
        "a.b",
        "a%2Fb",
        "a%252Fb",
        "grün",
        "漢字",
        "a b",
        "a+b",
        "a?b#c",
        "A",
        "records:batchGet",
    ];
    for name in names {
        put(&store, &session, &key(name, "1"), name).await;
    }
    let keys: Vec<_> = names.iter().map(|name| key(name, "1")).collect();
    let found = store.get(&keys).await;
    for (name, found) in names.iter().zip(found) {
        assert_eq!(found.unwrap().unwrap().body, name.as_bytes());
        let kind = RecordKey::try_new(&Cluster::try_new(name).unwrap(), "things", &[]);
        let listing = store.list(&kind.unwrap(), None).await.unwrap();
        assert_eq!(listing.records.len(), 1, "{name}");
        assert_eq!(listing.records[0].body, name.as_bytes());
    }
}

#[tokio::test]
async fn ten_thousand_records_are_listed_and_read_once_each() {
    let server = service().await;
    let store = patient(server.local_addr());
    let session = store.open(6 * TTL).await.unwrap();
    let items: Vec<_> = (0..10_000)
        .map(|number| create(&key("c", &format!("{number:05}")), number.to_string()))
        .collect();
    for answer in store.write(&session, &items).await {
        assert!(matches!(answer, Ok(Written::Done(_))), "{answer:?}");
    }
    let (mut listed, mut page, mut pages) = (Vec::new(), None, 0);
    loop {
        let listing = store.list(&kind(), page).await.unwrap();
        assert!(listing.records.len() <= 1_000 && listing.as_of.is_some());
        listed.extend(listing.records);
        pages += 1;
        page = listing.next;
        if page.is_none() {
            break;
        }
    }
    let keys: Vec<_> = items.iter().map(|item| item.key.clone()).collect();
    assert_eq!(pages, 10);
    assert!(listed.iter().map(|record| &record.key).eq(&keys));
    let found = store.get(&keys).await;
    for (item, found) in items.iter().zip(found) {
        assert_eq!(found.unwrap().unwrap().body, item.body);
    }
    let held: Vec<_> = listed.iter().map(held).collect();
    let renewal = store.renew(&session, &held).await.unwrap();
    assert_eq!(renewal.kept.len(), 10_000);
    assert!(renewal.kept.iter().all(|kept| matches!(kept, Kept::Mine(_))));
}

#[tokio::test]
async fn records_of_full_size_fit_in_every_call() {
    let server = service().await;
    let store = patient(server.local_addr());
    let session = store.open(6 * TTL).await.unwrap();
    // The worst that JSON can make of text.
    let body = "\"".repeat(discovery_core::limit::BODY_BYTES);
    let items: Vec<_> = (0..450)
        .map(|number| create(&key("c", &format!("{number:05}")), body.clone()))
        .collect();
    let written = store.write(&session, &items).await;
    let records: Vec<_> = written
        .into_iter()
        .map(|answer| match answer {
            Ok(Written::Done(record)) => record,
            other => panic!("{other:?}"),
        })
        .collect();
    let keys: Vec<_> = items.iter().map(|item| item.key.clone()).collect();
    assert!(
        store
            .get(&keys)
            .await
            .iter()
            .all(|found| matches!(found, Ok(Some(_))))
    );
    let first = store.list(&kind(), None).await.unwrap();
    assert!(first.records.len() < 450 && first.next.is_some());
    let (mut listed, mut page) = (first.records.len(), first.next);
    while let Some(token) = page {
        let listing = store.list(&kind(), Some(token)).await.unwrap();
        (listed, page) = (listed + listing.records.len(), listing.next);
    }
    assert_eq!(listed, 450);
    let held: Vec<_> = records.iter().map(held).collect();
    let renewal = store.renew(&session, &held[..100]).await.unwrap();
    assert!(renewal.kept.iter().all(|kept| matches!(kept, Kept::Mine(_))));
}

#[tokio::test]
async fn a_list_below_a_segment_holds_nothing_else() {
    let server = service().await;
    let store = client(server.local_addr());
    let session = store.open(TTL).await.unwrap();
    for path in [["a", "1"], ["a", "2"], ["ab", "1"]] {
        let key = RecordKey::try_new(&"c".parse().unwrap(), "things", &path).unwrap();
        put(&store, &session, &key, "x").await;
    }
    let below = store.list(&key("c", "a"), None).await.unwrap();
    assert_eq!(below.records.len(), 2);
    let error = store.list(&kind(), Some("rubbish".into())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

fn kind() -> RecordKey {
    RecordKey::try_new(&"c".parse().unwrap(), "things", &[]).unwrap()
}
