//! Whatever is wrong with a request, the answer is a problem document.

use std::{sync::Arc, time::Duration};

use discovery_memory::MemoryStore;
use reqwest::Method;

use crate::harness::{any_port, send, serve, service};

const JSON: (&str, &str) = ("content-type", "application/json");
const SESSION: (&str, &str) = ("session-id", "1.00.2710");
const CREATE: (&str, &str) = ("if-none-match", "*");

/// Method, path, headers and body; status and code of the answer.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str, u16, &'a str);

#[tokio::test]
async fn every_bad_request_is_answered_with_a_problem() {
    let server = service().await;
    let long = "x".repeat(129);
    let long = format!("/v1/clusters/{long}/instances");
    let big_body = format!(r#"{{"body":"{}"}}"#, "x".repeat(16 * 1_024 + 1));
    let many = format!(r#"{{"keys":[{}"a/b"]}}"#, r#""a/b","#.repeat(400));
    let cases: &[Case<'_>] = &[
        ("GET", "/", &[], "", 404, "no-such-route"),
        ("GET", "/v2/clusters/c/instances", &[], "", 404, "no-such-route"),
        ("GET", "/v1/clusters/c", &[], "", 404, "no-such-route"),
        ("GET", "/v1/clusters//instances", &[], "", 400, "invalid-argument"),
        (
            "GET",
            "/v1/clusters/c/records/peers/",
            &[],
            "",
            404,
            "no-such-route",
        ),
        ("POST", "/healthz", &[], "", 405, "method-not-allowed"),
        (
            "PATCH",
            "/v1/clusters/c/instances",
            &[],
            "",
            405,
            "method-not-allowed",
        ),
        (
            "GET",
            "/v1/clusters/c/sessions",
            &[],
            "",
            405,
            "method-not-allowed",
        ),
        (
            "GET",
            "/v1/clusters/a%2Fb/instances",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/a%00b/instances",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/%FF/instances",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/c/watch/things?cursor=x",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/c/watch/things?cursor=1",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/c/watch/things?cursor=",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/c/watch/things?cursor=+1-2",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/c/watch/things?keep_alive=500ms",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/c/watch/things?keep_alive=61s",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/c/watch/things?keep_alive=soon",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/c/watch/things?wait=61s",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/c/watch/things?wait=-1s",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/c/watch/things?waits=1s",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/c/watch/things?under=a//b",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/c/watch/a%2Fb",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/c/watch/things",
            &[("last-event-id", "here")],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/c/watch/things",
            &[("accept", "application/json")],
            "",
            406,
            "not-acceptable",
        ),
        ("GET", "/v1/clusters/c/watch", &[], "", 404, "no-such-route"),
        (
            "POST",
            "/v1/clusters/c/watch/things",
            &[],
            "",
            405,
            "method-not-allowed",
        ),
        ("GET", &long, &[], "", 400, "invalid-argument"),
        (
            "GET",
            "/v1/clusters/c/instances?limit=0",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/c/instances?limit=1001",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/c/instances?limt=1",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/c/instances?after=x",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/c/records/a?under=b//c",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/c/records/a/b//c",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/c/records/a/b%2Fc",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/c/instances/x",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "GET",
            "/v1/clusters/c/workers/ff",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "POST",
            "/v1/clusters/c/sessions",
            &[],
            "",
            415,
            "unsupported-media-type",
        ),
        (
            "POST",
            "/v1/clusters/c/sessions",
            &[("content-type", "text/plain")],
            "{}",
            415,
            "unsupported-media-type",
        ),
        (
            "POST",
            "/v1/clusters/c/sessions",
            &[JSON],
            "",
            400,
            "invalid-argument",
        ),
        (
            "POST",
            "/v1/clusters/c/sessions",
            &[JSON],
            "{",
            400,
            "invalid-argument",
        ),
        (
            "POST",
            "/v1/clusters/c/sessions",
            &[JSON],
            "{}",
            400,
            "invalid-argument",
        ),
        (
            "POST",
            "/v1/clusters/c/sessions",
            &[JSON],
            r#"{"ttl_ms":-1}"#,
            400,
            "invalid-argument",
        ),
        (
            "POST",
            "/v1/clusters/c/sessions",
            &[JSON],
            r#"{"ttl_ms":999}"#,
            400,
            "invalid-config",
        ),
        (
            "POST",
            "/v1/clusters/c/sessions",
            &[JSON],
            r#"{"ttl_ms":3600001}"#,
            400,
            "invalid-config",
        ),
        (
            "POST",
            "/v1/clusters/c/sessions/x/renew",
            &[JSON],
            r#"{"ttl_ms":1000}"#,
            400,
            "invalid-argument",
        ),
        (
            "POST",
            "/v1/clusters/c/sessions/1.00.2710/renew",
            &[JSON],
            r#"{"ttl_ms":1}"#,
            400,
            "invalid-config",
        ),
        (
            "DELETE",
            "/v1/clusters/c/sessions/x",
            &[],
            "",
            400,
            "invalid-argument",
        ),
        (
            "POST",
            "/v1/clusters/c/records:batchGet",
            &[JSON],
            r#"{"keys":["/"]}"#,
            400,
            "invalid-argument",
        ),
        (
            "POST",
            "/v1/clusters/c/records:batchGet",
            &[JSON],
            &many,
            400,
            "invalid-argument",
        ),
        (
            "POST",
            "/v1/clusters/c/records:batchWrite",
            &[JSON],
            r#"{"session":"1.00.2710","items":[{"key":"a/b","body":"","writer":"x","expect":"absent"}]}"#,
            400,
            "invalid-argument",
        ),
        (
            "POST",
            "/v1/clusters/c/records:remove",
            &[JSON],
            r#"{"session":"1.00.2710","key":"a/b","writer":"000102030405060708090a0b0c0d0e0f","expect":"absent"}"#,
            410,
            "lease-lost",
        ),
        (
            "PUT",
            "/v1/clusters/c/records/a/b",
            &[JSON, CREATE],
            "{}",
            400,
            "invalid-argument",
        ),
        (
            "PUT",
            "/v1/clusters/c/records/a/b",
            &[JSON, CREATE, SESSION],
            "{}",
            400,
            "invalid-argument",
        ),
        (
            "PUT",
            "/v1/clusters/c/records/a/b",
            &[JSON, SESSION],
            r#"{"body":""}"#,
            428,
            "precondition-required",
        ),
        (
            "PUT",
            "/v1/clusters/c/records/a/b",
            &[JSON, CREATE, SESSION],
            r#"{"body":""}"#,
            410,
            "lease-lost",
        ),
        (
            "PUT",
            "/v1/clusters/c/records/a/b",
            &[JSON, CREATE, SESSION],
            &big_body,
            413,
            "too-large",
        ),
        (
            "PUT",
            "/v1/clusters/c/records/a/b",
            &[JSON, SESSION, ("if-match", "x")],
            r#"{"body":""}"#,
            400,
            "invalid-argument",
        ),
        (
            "DELETE",
            "/v1/clusters/c/records/a/b",
            &[SESSION, CREATE],
            "",
            400,
            "invalid-argument",
        ),
        (
            "DELETE",
            "/v1/clusters/c/records/a/b",
            &[SESSION],
            "",
            428,
            "precondition-required",
        ),
        (
            "PUT",
            "/v1/clusters/c/instances/00000000-0000-0000-0000-000000000000",
            &[JSON],
            r#"{"address":"a"}"#,
            400,
            "invalid-argument",
        ),
        (
            "PUT",
            "/v1/clusters/c/instances/b93942ea-7b73-8267-caad-69f6c443a950",
            &[JSON],
            r#"{"address":"a"}"#,
            400,
            "invalid-argument",
        ),
        (
            "PUT",
            "/v1/clusters/c/instances/5f3c8d1e-8a43-4c1b-9a65-0a6c1a3f9b10",
            &[JSON],
            r#"{"address":""}"#,
            400,
            "invalid-argument",
        ),
        (
            "PUT",
            "/v1/clusters/c/instances/5f3c8d1e-8a43-4c1b-9a65-0a6c1a3f9b10/lease",
            &[("lease-id", "é")],
            "",
            400,
            "invalid-argument",
        ),
    ];
    for (method, path, headers, body, status, code) in cases {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let answer = send(
            server.local_addr(),
            method.clone(),
            path,
            headers,
            body.to_string(),
        )
        .await;
        let named = (answer.status, answer.problem());
        assert_eq!(
            named,
            (*status, (*code).to_owned()),
            "{method} {path}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn a_request_with_too_many_items_is_refused() {
    let server = serve(any_port(), Duration::ZERO, Arc::new(MemoryStore::new())).await;
    let writer = "000102030405060708090a0b0c0d0e0f";
    let held = format!(r#"{{"key":"a/b","body":"","writer":"{writer}","version":"00"}}"#);
    let item = format!(r#"{{"key":"a/b","body":"","writer":"{writer}","expect":"absent"}}"#);
    let many = |what: &str, count: usize| vec![what; count].join(",");
    let ask = async |count: usize| {
        let renewal = format!(r#"{{"ttl_ms":10000,"held":[{}]}}"#, many(&held, count));
        let write = format!(r#"{{"session":"1.00.2710","items":[{}]}}"#, many(&item, count));
        let mut statuses = Vec::new();
        for (path, body) in [
            ("/v1/clusters/c/sessions/1.00.2710/renew", renewal),
            ("/v1/clusters/c/records:batchWrite", write),
        ] {
            let answer = send(server.local_addr(), Method::POST, path, &[JSON], body).await;
            statuses.push(answer.status);
        }
        statuses
    };
    assert_eq!(ask(1_001).await, [400, 400]);
    // Each of the items has an answer of its own.
    assert_eq!(ask(1_000).await, [410, 200]);
}

#[tokio::test]
async fn a_request_past_the_limit_is_refused_without_reading_it_all() {
    let server = service().await;
    let body = vec![b' '; 1_024 * 1_024 + 1];
    let path = "/v1/clusters/c/sessions";
    let answer = send(server.local_addr(), Method::POST, path, &[JSON], body).await;
    assert_eq!((answer.status, answer.problem().as_str()), (413, "too-large"));
}
