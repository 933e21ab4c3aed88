//! What an idle client costs, and what the service bounds.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use discovery_core::{DiscoverySystem, ErrorKind, InstanceId, Retry, WorkerAddress, store::RecordStore};
use discovery_http::{HttpSystem, server::Server};
use reqwest::Method;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    harness::{SECOND, any_port, client, config, create, eventually, get, json, key, patient, serve},
    odd::Odd,
};

async fn odd() -> Server {
    serve(any_port(), Duration::ZERO, Arc::new(Odd::default())).await
}

#[tokio::test]
async fn an_idle_client_sends_one_renewal_for_all_it_registered() {
    let store = Arc::new(Odd::default());
    let server = serve(any_port(), Duration::ZERO, store.clone()).await;
    let config = config(server.local_addr()).with_ttl(3 * SECOND);
    let _without_registration = HttpSystem::connect(config.clone()).await.unwrap();
    assert_eq!(store.calls.load(Ordering::Relaxed), 0);

    let system = HttpSystem::connect(config).await.unwrap();
    let peers = system.peer_discovery().unwrap();
    let mut registrations = Vec::new();
    for number in 0..20 {
        let address = WorkerAddress::from_bytes(format!("tcp://{number}"));
        registrations.push(
            peers
                .register_instance(InstanceId::new_v4(), address)
                .await
                .unwrap(),
        );
    }
    let before = store.calls.load(Ordering::Relaxed);
    sleep(3 * SECOND).await;
    let calls = store.calls.load(Ordering::Relaxed) - before;
    // Every third of the TTL, a little earlier or later.
    assert!((2..=5).contains(&calls), "{calls} requests within one TTL");
    system.shutdown(SECOND).await.unwrap();
}

#[tokio::test]
async fn a_handler_that_panics_is_answered_for() {
    let server = odd().await;
    let answer = get(server.local_addr(), "/v1/clusters/c/records/things/panic").await;
    assert_eq!((answer.status, answer.problem().as_str()), (500, "unexpected"));
    let store = client(server.local_addr());
    let error = store.get(&[key("c", "panic")]).await.pop().unwrap().unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Unexpected, Retry::Never)
    );
    let session = store.open(SECOND).await.unwrap();
    let written = store.write(&session, &[create(&key("c", "panic"), "1")]).await;
    let error = written[0].as_ref().unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Unexpected, Retry::OutcomeUnknown)
    );
    assert!(store.get(&[key("c", "1")]).await[0].is_ok());
}

#[tokio::test]
async fn a_store_that_hangs_costs_no_more_than_the_time_for_a_request() {
    let server = odd().await;
    let start = Instant::now();
    let addr = server.local_addr();
    let ask = serde_json::json!({"keys": ["things/hang"]});
    let (one, batch) = tokio::join!(
        get(addr, "/v1/clusters/c/records/things/hang"),
        json(addr, Method::POST, "/v1/clusters/c/records:batchGet", ask)
    );
    for answer in [one, batch] {
        assert_eq!((answer.status, answer.problem().as_str()), (504, "timeout"));
        let answer = answer.json();
        assert!(
            answer["retryable"] == true && answer["outcome_unknown"].is_null(),
            "{answer}"
        );
    }
    assert!(start.elapsed() < 7 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test]
async fn who_sends_slowly_takes_nobody_elses_turn() {
    let server = odd().await;
    let addr = server.local_addr();
    let mut slow = Vec::new();
    for _ in 0..1_100 {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let begun = b"POST /v1/clusters/c/sessions HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\n{";
        stream.write_all(begun).await.unwrap();
        slow.push(stream);
    }
    sleep(SECOND / 5).await;
    assert!(client(addr).get(&[key("c", "1")]).await[0].is_ok());
    let mut answer = vec![0; 12];
    let read = timeout(7 * SECOND, slow[0].read_exact(&mut answer)).await;
    read.expect("in time").unwrap();
    assert_eq!(answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn an_overloaded_service_says_so_and_stops_at_its_deadline() {
    let server = odd().await;
    let addr = server.local_addr();
    let mut hanging = JoinSet::<()>::new();
    // Each store has at most 64 requests in flight.
    for _ in 0..17 {
        let store = patient(addr);
        for _ in 0..64 {
            let store = store.clone();
            hanging.spawn(async move {
                loop {
                    store.get(&[key("c", "hang")]).await;
                }
            });
        }
    }
    eventually(30 * SECOND, async || {
        let answer = get(addr, "/v1/clusters/c/records/things/1").await;
        answer.status == 503 && answer.problem() == "overloaded" && answer.header("retry-after") == "1"
    })
    .await;
    assert_eq!(get(addr, "/healthz").await.status, 200);
    hanging.abort_all();
    eventually(2 * SECOND, async || {
        client(addr).get(&[key("c", "1")]).await[0].is_ok()
    })
    .await;

    let last = client(addr);
    let hanging = tokio::spawn(async move { last.get(&[key("c", "hang")]).await.len() });
    sleep(SECOND / 5).await;
    let error = server.shutdown(SECOND).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    hanging.abort();
}
