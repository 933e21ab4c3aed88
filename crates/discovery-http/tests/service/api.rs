//! Every endpoint, as another language would use it.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::harness::{get, json, send, service};

const ID: &str = "5f3c8d1e-8a43-4c1b-9a65-0a6c1a3f9b10";
/// Two instance ids of one worker id.
const TWINS: [&str; 2] = [
    "b93942ea-7b73-8267-d59f-3d805cf975ae",
    "b81a078d-f2d8-4f88-3a52-96093bbc56af",
];

fn instance(id: &str) -> String {
    format!("/v1/clusters/demo/instances/{id}")
}

#[tokio::test]
async fn health_names_service_and_version() {
    let server = service().await;
    let health = get(server.local_addr(), "/healthz").await;
    assert_eq!(health.status, 200);
    let health = health.json();
    assert_eq!(
        (&health["service"], &health["api"]),
        (&json!("discovery"), &json!("v1"))
    );
    assert!(u64::from_str_radix(health["epoch"].as_str().unwrap(), 16).is_ok());
    assert_eq!(get(server.local_addr(), "/readyz").await.status, 200);
}

#[tokio::test]
async fn sessions_are_opened_renewed_and_closed() {
    let server = service().await;
    let addr = server.local_addr();
    let opened = json(
        addr,
        Method::POST,
        "/v1/clusters/demo/sessions",
        json!({"ttl_ms": 3000}),
    )
    .await;
    assert_eq!(opened.status, 201);
    assert_eq!(opened.header("cache-control"), "no-store");
    let opened = opened.json();
    assert_eq!(
        (&opened["ttl_ms"], &opened["renew_every_ms"]),
        (&json!(3000), &json!(1000))
    );
    let session = format!(
        "/v1/clusters/demo/sessions/{}",
        opened["session"].as_str().unwrap()
    );
    let renew = format!("{session}/renew");
    let renewed = json(addr, Method::POST, &renew, json!({"ttl_ms": 3000})).await;
    assert_eq!(renewed.status, 200, "{renewed:?}");
    assert_eq!(renewed.json()["session"], opened["session"]);
    for _ in 0..2 {
        assert_eq!(send(addr, Method::DELETE, &session, &[], "").await.status, 204);
    }
    let late = json(addr, Method::POST, &renew, json!({"ttl_ms": 3000})).await;
    assert_eq!((late.status, late.problem().as_str()), (410, "lease-lost"));
}

#[tokio::test]
async fn one_record_is_created_read_replaced_and_removed() {
    let server = service().await;
    let addr = server.local_addr();
    let opened = json(
        addr,
        Method::POST,
        "/v1/clusters/demo/sessions",
        json!({"ttl_ms": 3000}),
    )
    .await;
    let session = opened.json()["session"].as_str().unwrap().to_owned();
    let session = ("session-id", session.as_str());
    let media = ("content-type", "application/json");
    let path = "/v1/clusters/demo/records/shards/a%20b/%C3%BC";

    let missing = get(addr, path).await;
    assert_eq!((missing.status, missing.problem().as_str()), (404, "not-found"));
    let create = [session, media, ("if-none-match", "*")];
    let created = send(addr, Method::PUT, path, &create, r#"{"body":"one"}"#).await;
    assert_eq!(created.status, 201, "{created:?}");
    let etag = created.header("etag").to_owned();
    assert_eq!(created.json()["key"], "shards/a b/ü");
    assert_eq!(created.json()["writer"].as_str().unwrap().len(), 32);

    let again = send(addr, Method::PUT, path, &create, r#"{"body":"two"}"#).await;
    assert_eq!(
        (again.status, again.problem().as_str()),
        (412, "precondition-failed")
    );
    assert_eq!(again.json()["record"]["body"], "one");

    let found = get(addr, path).await;
    assert_eq!((found.status, found.header("etag")), (200, etag.as_str()));
    assert_eq!(found.json()["body"], "one");

    let writer = ("writer-id", "000102030405060708090a0b0c0d0e0f");
    let replace = [session, media, writer, ("if-match", etag.as_str())];
    let replaced = send(addr, Method::PUT, path, &replace, r#"{"body_base64":"AP8="}"#).await;
    assert_eq!(replaced.status, 200, "{replaced:?}");
    assert_eq!(replaced.json()["writer"], writer.1);
    assert_eq!(get(addr, path).await.json()["body_base64"], "AP8=");

    let list = get(addr, "/v1/clusters/demo/records/shards?limit=1").await.json();
    assert_eq!(list["records"].as_array().unwrap().len(), 1);
    assert_eq!((&list["skipped"], &list["next"]), (&json!(0), &json!(null)));

    let old = send(
        addr,
        Method::DELETE,
        path,
        &[session, ("if-match", etag.as_str())],
        "",
    )
    .await;
    assert_eq!((old.status, old.problem().as_str()), (412, "precondition-failed"));
    let etag = replaced.header("etag");
    let removed = send(addr, Method::DELETE, path, &[session, ("if-match", etag)], "").await;
    assert_eq!(removed.status, 204, "{removed:?}");

    let fence = [session, writer, ("if-none-match", "*")];
    assert_eq!(send(addr, Method::DELETE, path, &fence, "").await.status, 204);
    let late = [session, media, writer, ("if-none-match", "*")];
    let late = send(addr, Method::PUT, path, &late, r#"{"body":"late"}"#).await;
    assert_eq!(late.status, 412);
    assert_eq!(late.json()["record"], json!(null));
}

#[tokio::test]
async fn an_instance_is_registered_found_renewed_and_unregistered() {
    let server = service().await;
    let addr = server.local_addr();
    let body = json!({"address": "tcp://10.0.0.1:5555", "ttl_ms": 5000});
    let created = json(addr, Method::PUT, &instance(ID), body.clone()).await;
    assert_eq!(created.status, 201, "{created:?}");
    let created = created.json();
    assert_eq!(created["instance_id"], ID);
    assert_eq!(
        (&created["ttl_ms"], &created["renew_every_ms"]),
        (&json!(5000), &json!(1666))
    );
    let worker = created["worker_id"].as_str().unwrap();

    for path in [instance(ID), format!("/v1/clusters/demo/workers/{worker}")] {
        let found = get(addr, &path).await.json();
        assert_eq!(found["address"], "tcp://10.0.0.1:5555");
        assert_eq!(found["address_base64"], "dGNwOi8vMTAuMC4wLjE6NTU1NQ==");
        assert_eq!(
            (&found["worker_id"], &found["checksum"]),
            (&created["worker_id"], &created["checksum"])
        );
    }
    let first = created["lease_id"].as_str().unwrap();
    let lease = format!("{}/lease", instance(ID));
    let renewed = send(addr, Method::PUT, &lease, &[("lease-id", first)], "").await;
    assert_eq!(
        (renewed.status, renewed.header("expires-in")),
        (204, "5"),
        "{renewed:?}"
    );

    // Again, as after a crash: the record moves to the new lease.
    let moved = json(addr, Method::PUT, &instance(ID), body).await;
    assert_eq!(moved.status, 200, "{moved:?}");
    let renewed = send(addr, Method::PUT, &lease, &[("lease-id", first)], "").await;
    assert_eq!(renewed.status, 204, "the same peer stands there: {renewed:?}");
    let second = moved.json()["lease_id"].as_str().unwrap().to_owned();
    let unregister = async |lease: &str| {
        let answer = send(addr, Method::DELETE, &instance(ID), &[("lease-id", lease)], "").await;
        answer.status
    };
    assert_eq!(unregister(first).await, 204);
    assert_eq!(
        get(addr, &instance(ID)).await.status,
        200,
        "an old lease removes nothing"
    );
    assert_eq!(unregister(&second).await, 204);
    assert_eq!(unregister(&second).await, 204);
    let gone = get(addr, &instance(ID)).await;
    assert_eq!((gone.status, gone.problem().as_str()), (404, "not-found"));
    let late = send(addr, Method::PUT, &lease, &[("lease-id", &second)], "").await;
    assert_eq!((late.status, late.problem().as_str()), (410, "lease-lost"));
}

#[tokio::test]
async fn another_address_or_instance_is_refused_by_name() {
    let server = service().await;
    let addr = server.local_addr();
    let [one, two] = TWINS;
    let created = json(addr, Method::PUT, &instance(one), json!({"address": "a"})).await;
    assert_eq!(created.status, 201);
    let other = json(
        addr,
        Method::PUT,
        &instance(one),
        json!({"address_base64": "/w=="}),
    )
    .await;
    assert_eq!(
        (other.status, other.problem().as_str()),
        (409, "checksum-mismatch")
    );
    let twin = json(addr, Method::PUT, &instance(two), json!({"address": "a"})).await;
    assert_eq!(
        (twin.status, twin.problem().as_str()),
        (409, "worker-id-collision")
    );
    assert!(twin.text.contains(one) && twin.text.contains(two), "{twin:?}");
    let missing = get(addr, &instance(two)).await;
    assert_eq!((missing.status, missing.problem().as_str()), (404, "not-found"));
}

#[tokio::test]
async fn a_lease_whose_place_was_taken_is_superseded() {
    let server = service().await;
    let addr = server.local_addr();
    let [one, two] = TWINS;
    let opened = json(
        addr,
        Method::PUT,
        &instance(one),
        json!({"address": "a", "ttl_ms": 60000}),
    )
    .await;
    let lease = opened.json()["lease_id"].as_str().unwrap().to_owned();
    // A record store removes the record from under the lease; the twin takes the place.
    let worker = opened.json()["worker_id"].as_str().unwrap().to_owned();
    let record = format!("/v1/clusters/demo/records/peers/{worker}");
    let etag = get(addr, &record).await.header("etag").to_owned();
    let remove = [("session-id", lease.as_str()), ("if-match", etag.as_str())];
    assert_eq!(send(addr, Method::DELETE, &record, &remove, "").await.status, 204);
    let path = format!("{}/lease", instance(one));
    let absent = send(addr, Method::PUT, &path, &[("lease-id", &lease)], "").await;
    assert_eq!((absent.status, absent.problem().as_str()), (404, "not-found"));
    let twin = json(addr, Method::PUT, &instance(two), json!({"address": "a"})).await;
    assert_eq!(twin.status, 201);
    let late = send(addr, Method::PUT, &path, &[("lease-id", &lease)], "").await;
    assert_eq!((late.status, late.problem().as_str()), (409, "superseded"));
}

#[tokio::test]
async fn a_superseded_lease_is_not_kept_alive() {
    let server = service().await;
    let addr = server.local_addr();
    let [one, two] = TWINS;
    let ask = json!({"address": "a", "ttl_ms": 60000});
    let registered = json(addr, Method::PUT, &instance(one), ask).await;
    assert_eq!(registered.status, 201);
    // The lease of the twin, whose place is taken, is any other session.
    let opened = json(
        addr,
        Method::POST,
        "/v1/clusters/demo/sessions",
        json!({"ttl_ms": 1000}),
    )
    .await;
    let lease = opened.json()["session"].as_str().unwrap().to_owned();
    let renew = async || {
        let path = format!("{}/lease", instance(two));
        send(addr, Method::PUT, &path, &[("lease-id", &lease)], "")
            .await
            .problem()
    };
    for _ in 0..4 {
        assert_eq!(renew().await, "superseded");
        tokio::time::sleep(Duration::from_millis(350)).await;
    }
    let path = format!("/v1/clusters/demo/sessions/{lease}/renew");
    let late = json(addr, Method::POST, &path, json!({"ttl_ms": 1000})).await;
    assert_eq!(late.problem(), "lease-lost");
}

#[tokio::test]
async fn instances_are_listed_page_by_page() {
    let server = service().await;
    let addr = server.local_addr();
    for number in 1..=5 {
        let id = format!("00000000-0000-0000-0000-00000000000{number}");
        let created = json(addr, Method::PUT, &instance(&id), json!({"address": "a"})).await;
        assert_eq!(created.status, 201);
    }
    let (mut workers, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/clusters/demo/instances?limit=2{after}");
        let page = get(addr, &path).await.json();
        let instances = page["instances"].as_array().unwrap();
        assert!(instances.len() <= 2);
        workers.extend(
            instances
                .iter()
                .map(|peer| peer["worker_id"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(workers.len(), 5);
    assert!(workers.is_sorted());
    let elsewhere = get(addr, "/v1/clusters/other/instances").await.json();
    assert_eq!(elsewhere["instances"], json!([]));
}
