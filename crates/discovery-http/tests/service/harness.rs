//! A service on a free port, and plain requests to it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use discovery_core::{
    Cluster,
    store::{Expect, Held, Record, RecordKey, RecordStore, Session, Write, Writer, Written},
};
use discovery_http::{
    HttpConfig, HttpStore,
    server::{Server, ServerConfig},
};
use discovery_memory::MemoryStore;
use reqwest::{Method, header::HeaderMap};
use serde_json::Value;
use tokio::time::{Instant, sleep};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const TTL: Duration = Duration::from_secs(10);

pub(crate) fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A service over a store of its own.
pub(crate) async fn service() -> Server {
    forgetful(any_port(), Duration::ZERO).await
}

/// A service over a store of its own, which knows nothing of an earlier start.
pub(crate) async fn forgetful(listen: SocketAddr, warm_up: Duration) -> Server {
    let config = ServerConfig {
        listen,
        warm_up,
        forgetful: true,
        ..ServerConfig::default()
    };
    Server::start(config, Arc::new(MemoryStore::new())).await.unwrap()
}

/// A service over a store that remembers.
pub(crate) async fn serve(listen: SocketAddr, warm_up: Duration, store: Arc<dyn RecordStore>) -> Server {
    let config = ServerConfig {
        listen,
        warm_up,
        forgetful: false,
        ..ServerConfig::default()
    };
    Server::start(config, store).await.unwrap()
}

pub(crate) fn config(addr: SocketAddr) -> HttpConfig {
    HttpConfig::try_new(&format!("http://{addr}")).unwrap()
}

pub(crate) fn client(addr: SocketAddr) -> HttpStore {
    HttpStore::try_new(&config(addr)).unwrap()
}

/// A client that waits as long as megabytes take on a busy machine.
pub(crate) fn patient(addr: SocketAddr) -> HttpStore {
    HttpStore::try_new(&config(addr).with_timeout(60 * SECOND)).unwrap()
}

/// An answer to a plain request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks that this is a problem document, and gives its code.
    #[track_caller]
    pub(crate) fn problem(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{self:?}"
        );
        let problem = self.json();
        let code = problem["code"].as_str().unwrap().to_owned();
        assert_eq!(problem["status"], self.status, "{self:?}");
        assert_eq!(
            problem["type"],
            format!("urn:discovery:problem:{code}"),
            "{self:?}"
        );
        assert!(
            problem["title"].is_string() && problem["detail"].is_string(),
            "{self:?}"
        );
        assert!(problem["retryable"].is_boolean(), "{self:?}");
        code
    }
}

/// Sends a request as another language would.
pub(crate) async fn send(
    addr: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<reqwest::Body>,
) -> Answer {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.request(method, format!("http://{addr}{path}")).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        text: response.text().await.unwrap(),
    }
}

pub(crate) async fn get(addr: SocketAddr, path: &str) -> Answer {
    send(addr, Method::GET, path, &[], "").await
}

pub(crate) async fn json(addr: SocketAddr, method: Method, path: &str, body: Value) -> Answer {
    let headers = [("content-type", "application/json")];
    send(addr, method, path, &headers, body.to_string()).await
}

pub(crate) fn key(cluster: &str, name: &str) -> RecordKey {
    RecordKey::try_new(&Cluster::try_new(cluster).unwrap(), "things", &[name]).unwrap()
}

pub(crate) fn create(key: &RecordKey, body: impl Into<Bytes>) -> Write {
    Write {
        key: key.clone(),
        body: body.into(),
        writer: Writer::random(),
        expect: Expect::Absent,
    }
}

/// Writes one record that must not be there yet.
pub(crate) async fn put(store: &dyn RecordStore, session: &Session, key: &RecordKey, body: &str) -> Record {
    let item = create(key, body.to_owned());
    match store.write(session, &[item]).await.pop().unwrap().unwrap() {
        Written::Done(record) => record,
        conflict => panic!("{conflict:?}"),
    }
}

pub(crate) async fn read(store: &dyn RecordStore, key: &RecordKey) -> Option<Record> {
    store.get(std::slice::from_ref(key)).await.pop().unwrap().unwrap()
}

pub(crate) fn held(record: &Record) -> Held {
    Held {
        key: record.key.clone(),
        body: record.body.clone(),
        writer: record.writer,
        version: record.version.clone(),
    }
}

/// Waits until `check` holds.
pub(crate) async fn eventually(limit: Duration, mut check: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + limit;
    while !check().await {
        assert!(Instant::now() < end, "not within {limit:?}");
        sleep(Duration::from_millis(20)).await;
    }
}
