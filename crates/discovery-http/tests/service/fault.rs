//! Servers that do not answer, or not as they should.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use discovery_core::{
    ErrorKind, Retry,
    store::{Record, RecordStore, Session},
};
use discovery_http::{HttpStore, HttpSystem};
use discovery_memory::MemoryStore;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::harness::{
    SECOND, TTL, any_port, client, config, create, held, key, patient, read, serve, service,
};

/// A server that reads a request's beginning and then says `answer`, or nothing if there is none.
pub(crate) async fn canned(answer: Option<String>) -> SocketAddr {
    let listener = TcpListener::bind(any_port()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            connections.spawn(async move {
                let _ = stream.read(&mut [0; 4_096]).await;
                match answer {
                    Some(answer) => {
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                    None => sleep(600 * SECOND).await,
                }
            });
        }
    });
    addr
}

fn http(status: &str, media_type: &str, body: &str) -> Option<String> {
    Some(format!(
        "HTTP/1.1 {status}\r\ncontent-type: {media_type}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    ))
}

fn session() -> Session {
    Session {
        id: "1.00.2710".into(),
        ttl: TTL,
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_a_timeout_within_the_deadline() {
    let addr = canned(None).await;
    let limit = Duration::from_millis(300);
    let store = HttpStore::try_new(&config(addr).with_timeout(limit)).unwrap();
    let start = Instant::now();
    let keys: Vec<_> = (0..100).map(|number| key("c", &number.to_string())).collect();
    let item = create(&keys[0], "1");
    let session = session();
    let (reads, written, opened) = tokio::join!(
        store.get(&keys),
        store.write(&session, std::slice::from_ref(&item)),
        store.open(TTL)
    );
    assert!(start.elapsed() < 3 * limit, "{:?}", start.elapsed());
    for read in reads {
        let error = read.unwrap_err();
        assert_eq!(
            (error.kind(), error.retry()),
            (ErrorKind::Timeout, Retry::Safe { after: None })
        );
        assert!(error.to_string().contains(&addr.to_string()), "{error}");
    }
    let error = written[0].as_ref().unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Timeout, Retry::OutcomeUnknown)
    );
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::Timeout);

    let connecting = HttpSystem::connect(config(addr).with_connect_timeout(limit)).await;
    assert_eq!(connecting.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn waiting_for_a_turn_counts_against_the_deadline() {
    let addr = canned(None).await;
    let limit = Duration::from_millis(300);
    let store = HttpStore::try_new(&config(addr).with_timeout(limit)).unwrap();
    let mut calls = JoinSet::new();
    let start = Instant::now();
    for number in 0..200 {
        let store = store.clone();
        calls.spawn(async move { store.get(&[key("c", &number.to_string())]).await });
    }
    for answers in calls.join_all().await {
        assert_eq!(answers[0].as_ref().unwrap_err().kind(), ErrorKind::Timeout);
    }
    assert!(start.elapsed() < 3 * limit, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_refused_connection_is_unavailable_and_may_be_repeated() {
    let listener = TcpListener::bind(any_port()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let store = client(addr);
    let answer = store
        .write(&session(), &[create(&key("c", "1"), "1")])
        .await
        .pop()
        .unwrap();
    let error = answer.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Unavailable, Retry::Safe { after: None })
    );
    assert!(error.to_string().contains(&addr.to_string()), "{error}");
    let error = HttpSystem::connect(config(addr)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn the_page_of_a_proxy_is_unavailable() {
    let addr = canned(http("502 Bad Gateway", "text/html", "<html>not found</html>")).await;
    let store = client(addr);
    let error = store.get(&[key("c", "1")]).await.pop().unwrap().unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Unavailable, Retry::Safe { after: None })
    );
    let error = store.open(TTL).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Unavailable, Retry::OutcomeUnknown)
    );
}

#[tokio::test]
async fn a_missing_page_is_never_a_missing_record() {
    for answer in [
        http("404 Not Found", "text/html", "<html>not found</html>"),
        http("404 Not Found", "application/problem+json", "{}"),
        http(
            "404 Not Found",
            "application/problem+json",
            r#"{"type":"https://shop/problems/1","code":"not-found"}"#,
        ),
        // Not even the service itself may say so of a whole request.
        http(
            "404 Not Found",
            "application/problem+json",
            r#"{"type":"urn:discovery:problem:not-found","code":"not-found"}"#,
        ),
        http("302 Found", "text/html", ""),
    ] {
        let store = client(canned(answer).await);
        let error = store.get(&[key("c", "1")]).await.pop().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unexpected, "{error}");
        let error = store.list(&key("c", "1"), None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unexpected, "{error}");
        let error = store.renew(&session(), &[]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unexpected, "{error}");
    }
}

#[tokio::test]
async fn only_the_expected_success_is_one() {
    let granted = r#"{"session":"1.00.2710","ttl_ms":10000,"renew_every_ms":3333}"#;
    let opened = |status: &str, media_type: &str| http(status, media_type, granted);
    let store = client(canned(opened("201 Created", "application/json")).await);
    store.open(TTL).await.unwrap();
    for answer in [
        opened("200 OK", "application/json"),
        opened("201 Created", "text/html"),
    ] {
        let error = client(canned(answer).await).open(TTL).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
    }
    // The page of a captive portal confirms nothing.
    for answer in [
        http("200 OK", "text/html", "<html>log in</html>"),
        http("200 OK", "application/json", "{}"),
        http("202 Accepted", "application/json", "{}"),
    ] {
        let error = client(canned(answer).await).close(&session()).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.retry()),
            (ErrorKind::Malformed, Retry::OutcomeUnknown),
            "{error}"
        );
    }
    let page = http("200 OK", "text/html", r#"{"results":[null]}"#);
    let error = client(canned(page).await)
        .get(&[key("c", "1")])
        .await
        .pop()
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
}

#[tokio::test]
async fn a_read_that_the_service_gave_up_may_be_repeated() {
    let problem = |code: &str| {
        let body = format!(
            r#"{{"type":"urn:discovery:problem:{code}","code":"{code}","retryable":true,"outcome_unknown":true}}"#
        );
        http("504 Gateway Timeout", "application/problem+json", &body)
    };
    for code in ["timeout", "unavailable"] {
        let store = client(canned(problem(code)).await);
        let error = store.get(&[key("c", "1")]).await.pop().unwrap().unwrap_err();
        assert_eq!(error.retry(), Retry::Safe { after: None }, "{error}");
        let error = store.open(TTL).await.unwrap_err();
        assert_eq!(error.retry(), Retry::OutcomeUnknown, "{error}");
    }
}

#[tokio::test]
async fn a_success_that_cannot_be_read_is_malformed() {
    for body in [
        "<html>",
        "{}",
        r#"{"results":[]}"#,
        r#"{"results":[null,null]}"#,
        r#"{"results":[{"record":{"key":"a/b","body":"","writer":"x","version":"00"}}]}"#,
    ] {
        let store = client(canned(http("200 OK", "application/json", body)).await);
        let error = store.get(&[key("c", "1")]).await.pop().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{body}");
        let answer = store
            .write(&session(), &[create(&key("c", "1"), "1")])
            .await
            .pop()
            .unwrap();
        let error = answer.unwrap_err();
        assert_eq!(
            (error.kind(), error.retry()),
            (ErrorKind::Malformed, Retry::OutcomeUnknown),
            "{body}"
        );
    }
}

#[tokio::test]
async fn an_oversized_answer_is_not_read_to_its_end() {
    let addr = canned(http(
        "200 OK",
        "application/json",
        &" ".repeat(17 * 1_024 * 1_024),
    ))
    .await;
    let error = client(addr)
        .get(&[key("c", "1")])
        .await
        .pop()
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert!(error.to_string().contains("more than"), "{error}");
}

#[tokio::test]
async fn a_stranger_is_told_at_connect() {
    for answer in [
        http("200 OK", "text/html", "<html>welcome</html>"),
        http(
            "200 OK",
            "application/json",
            r#"{"service":"shop","api":"v1","epoch":"0"}"#,
        ),
        http("404 Not Found", "text/html", ""),
    ] {
        let error = HttpSystem::connect(config(canned(answer).await))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("not a discovery service"), "{error}");
    }
    let answer = http(
        "200 OK",
        "application/json",
        r#"{"service":"discovery","api":"v9","epoch":"0"}"#,
    );
    let error = HttpSystem::connect(config(canned(answer).await))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_connection_that_breaks_in_the_middle_of_a_write_leaves_the_outcome_open() {
    let cut = Some("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned());
    for answer in [Some(String::new()), cut] {
        let addr = canned(answer).await;
        let store = client(addr);
        let written = store
            .write(&session(), &[create(&key("c", "1"), "1")])
            .await
            .pop()
            .unwrap();
        let error = written.unwrap_err();
        assert_eq!(
            (error.kind(), error.retry()),
            (ErrorKind::Unavailable, Retry::OutcomeUnknown),
            "{error:?}"
        );
        let chain = format!("{error:?}");
        assert!(!chain.contains("sessions/"), "no token in any message: {chain}");
    }
}

#[tokio::test]
async fn a_read_over_a_connection_from_before_a_restart_is_repeated() {
    let memory = Arc::new(MemoryStore::new());
    let server = serve(any_port(), Duration::ZERO, memory.clone()).await;
    let addr = server.local_addr();
    let store = client(addr);
    assert!(read(&store, &key("c", "1")).await.is_none());
    server.shutdown(SECOND).await.unwrap();
    let _server = serve(addr, Duration::ZERO, memory).await;
    for _ in 0..10 {
        assert!(read(&store, &key("c", "1")).await.is_none());
    }
}

#[tokio::test]
async fn a_thousand_concurrent_reads_share_few_connections() {
    let server = service().await;
    let (addr, most) = counting_proxy(server.local_addr()).await;
    let store = HttpStore::try_new(&config(addr).with_timeout(20 * SECOND)).unwrap();
    let mut calls = JoinSet::new();
    for number in 0..1_000 {
        let store = store.clone();
        calls.spawn(async move { read(&store, &key("c", &number.to_string())).await });
    }
    assert!(calls.join_all().await.iter().all(Option::is_none));
    let most = most.load(Ordering::Relaxed);
    println!("at most {most} connections at once");
    assert!(most <= 64, "{most} connections at once");
}

/// Passes bytes on and counts how many connections are open at most.
async fn counting_proxy(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(any_port()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let told = most.clone();
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut from, _)) = listener.accept().await {
            let open = open.clone();
            most.fetch_max(open.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            connections.spawn(async move {
                let mut to = TcpStream::connect(to).await.unwrap();
                let _ = copy_bidirectional(&mut from, &mut to).await;
                open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    (addr, told)
}

#[tokio::test]
async fn shutdown_does_not_wait_for_idle_or_silent_connections() {
    let server = service().await;
    let addr = server.local_addr();
    let store = client(addr);
    read(&store, &key("c", "1")).await;
    let _silent = TcpStream::connect(addr).await.unwrap();
    let mut half = TcpStream::connect(addr).await.unwrap();
    half.write_all(b"GET /heal").await.unwrap();
    let start = Instant::now();
    server.shutdown(10 * SECOND).await.unwrap();
    assert!(start.elapsed() < 2 * SECOND, "{:?}", start.elapsed());
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn shutdown_does_not_cut_an_answer_that_is_read_slowly() {
    let server = service().await;
    let addr = server.local_addr();
    let store = patient(addr);
    let session = store.open(6 * TTL).await.unwrap();
    // More than fits in the buffers of two sockets.
    let body = "\"".repeat(discovery_core::limit::BODY_BYTES);
    let items: Vec<_> = (0..250)
        .map(|number| create(&key("c", &number.to_string()), body.clone()))
        .collect();
    store.write(&session, &items).await;

    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1_024).unwrap();
    let mut slow = socket.connect(addr).await.unwrap();
    let ask = b"GET /v1/clusters/c/records/things HTTP/1.1\r\nhost: h\r\n\r\n";
    slow.write_all(ask).await.unwrap();
    let mut answer = vec![0; 1];
    slow.read_exact(&mut answer).await.unwrap();
    let stopping = tokio::spawn(server.shutdown(20 * SECOND));
    sleep(SECOND).await;
    assert!(!stopping.is_finished());
    slow.read_to_end(&mut answer).await.unwrap();
    stopping.await.unwrap().unwrap();

    let head_end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let (head, body) = answer.split_at(head_end + 4);
    let head = std::str::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    assert_eq!(length.unwrap(), body.len().to_string());
}

#[tokio::test]
async fn a_warm_up_without_end_is_refused() {
    let config = discovery_http::server::ServerConfig {
        listen: any_port(),
        warm_up: Duration::MAX,
        ..Default::default()
    };
    let started = discovery_http::server::Server::start(config, Arc::new(MemoryStore::new())).await;
    let error = started.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("warm_up"), "{error}");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let server = service().await;
    let config = discovery_http::server::ServerConfig {
        listen: server.local_addr(),
        ..Default::default()
    };
    let error = discovery_http::server::Server::start(config, Arc::new(MemoryStore::new()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(
        error.to_string().contains(&server.local_addr().to_string()),
        "{error}"
    );
}

#[tokio::test]
async fn a_renewal_that_is_cut_half_way_keeps_what_it_learned() {
    let server = service().await;
    let store = client(server.local_addr());
    let session = store.open(TTL).await.unwrap();
    let items: Vec<_> = (0..40)
        .map(|number| create(&key("c", &number.to_string()), "x".repeat(16_000)))
        .collect();
    let written = store.write(&session, &items).await.into_iter();
    let records: Vec<Record> = written
        .map(|answer| match answer {
            Ok(discovery_core::store::Written::Done(record)) => record,
            other => panic!("{other:?}"),
        })
        .collect();
    let mut held: Vec<_> = records.iter().map(held).collect();
    // The service refuses the part that this one is in, not the others.
    held[39].body = vec![b'x'; 17_000].into();
    let renewal = store.renew(&session, &held).await.unwrap();
    let kept: Vec<_> = renewal.kept.iter().map(std::mem::discriminant).collect();
    assert_eq!(kept.len(), 40);
    assert_ne!(kept[0], kept[39]);
}
