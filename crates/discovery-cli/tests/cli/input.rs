//! Bad input: one line, exit 2, nothing written.

use crate::process::{Service, run};

const ID: &str = "5f3c8d1e-8a43-4c1b-9a65-0a6c1a3f9b10";
const NIL: &str = "00000000-0000-0000-0000-000000000000";
const HASHES_TO_ZERO: &str = "b93942ea-7b73-8267-caad-69f6c443a950";

/// What is refused, and what the line must name.
fn refused(args: &[&str], named: &str) {
    let ended = run(args);
    let shown: Vec<_> = args.iter().map(|arg| &arg[..arg.len().min(80)]).collect();
    assert_eq!(ended.code, Some(2), "{shown:?}: {ended:?}");
    assert_eq!(ended.stdout, "", "{shown:?}");
    let complaint = ended.complaint();
    assert!(complaint.contains(named), "{shown:?}: {complaint}");
    assert!(complaint.len() < 1_500, "{shown:?}: {} bytes", complaint.len());
}

#[test]
fn bad_urls_are_refused_by_every_command() {
    for (url, named) in [
        ("gopher://h", "gopher"),
        ("etcds://h?colour=red", "etcd"),
        ("h:7400", "system URL"),
        ("", "system URL"),
        ("https://h", "https"),
        ("http://", "host"),
        ("http://h?colour=red", "colour"),
        ("http://h?cluster=a/b", "cluster"),
        ("http://h?ttl=0s", "ttl"),
        ("http://h?ttl=soon", "ttl"),
        ("memory://", "serve"),
        ("memory://lab", "serve"),
    ] {
        for command in ["list", "watch", "doctor"] {
            refused(&[command, "--system", url], named);
        }
        refused(&["register", "--system", url, "--address", "a"], named);
        refused(&["resolve", "--system", url, "--instance-id", ID], named);
    }
    // One that works does not make up for one that cannot.
    refused(
        &[
            "resolve",
            "--system",
            "http://127.0.0.1:1",
            "--system",
            "gopher://h",
            "--instance-id",
            ID,
        ],
        "gopher",
    );
    refused(
        &["serve", "--listen", "127.0.0.1:0", "--system", "memory://lab"],
        "memory",
    );
    refused(
        &["serve", "--listen", "127.0.0.1:0", "--system", "gopher://h"],
        "gopher",
    );
    refused(&["demo", "--system", "memory://"], "memory");
    refused(&["demo", "--system", "http://h?ttl=0s"], "ttl");
}

#[test]
fn bad_values_are_refused_and_nothing_is_written() {
    let service = Service::start();
    let long = "x".repeat(120_000);
    let url = service.url.as_str();
    for (address, named) in [
        ("", "address has 0 bytes"),
        (long.as_str(), "address has 120000 bytes"),
    ] {
        refused(&["register", "--system", url, "--address", address], named);
    }
    for id in ["x", "", NIL, HASHES_TO_ZERO, long.as_str()] {
        refused(
            &["register", "--system", url, "--address", "a", "--instance-id", id],
            "instance id",
        );
        refused(&["resolve", "--system", url, "--instance-id", id], "instance id");
    }
    for id in ["x", "", "ff", "0000000000000000", "00000000000000fg"] {
        refused(&["resolve", "--system", url, "--worker-id", id], "worker id");
    }
    refused(
        &["resolve", "--system", url, "--instance-id", ID, "--timeout", "0s"],
        "--timeout",
    );
    refused(
        &[
            "resolve",
            "--system",
            url,
            "--instance-id",
            ID,
            "--timeout",
            "soon",
        ],
        "--timeout",
    );
    assert_eq!(run(["list", "--system", url]).stdout, "");
}

#[test]
fn bad_usage_is_refused() {
    refused(&["register", "--address", "a"], "--system");
    refused(&["register", "--system", "http://127.0.0.1:1"], "--address");
    refused(&["resolve", "--system", "http://127.0.0.1:1"], "--worker-id");
    refused(
        &[
            "resolve",
            "--system",
            "http://h",
            "--instance-id",
            ID,
            "--worker-id",
            "00000000000000ff",
        ],
        "cannot be used with",
    );
    refused(&["explode"], "explode");
    refused(&["list", "--explode"], "--explode");
    refused(&["watch"], "--system");
    refused(&["doctor"], "--system");
    refused(&["demo", "--peers", "2"], "3..=64");
    refused(&["demo", "--peers", "65"], "3..=64");
    refused(&["serve", "--warm-up", "2h"], "--warm-up");
    for listen in ["nowhere", "127.0.0.1", "localhost:7400", "127.0.0.1:99999"] {
        refused(&["serve", "--listen", listen], "--listen");
    }
}

#[test]
fn an_address_that_cannot_be_had_is_refused() {
    let service = Service::start();
    refused(&["serve", "--listen", &service.address], &service.address);
    // Reserved for documentation: no machine has it.
    let ended = run(["serve", "--listen", "192.0.2.1:7400"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("warning:"), "{ended:?}");
}

#[test]
fn a_password_is_not_repeated() {
    for args in [
        &["list", "http://me:hunter2@h"][..],
        &["list", "--system", "http://me:hunter2@h"],
        &["watch", "--system", "http://me:hunter2@h"],
        &["doctor", "--system", "http://me:hunter2@h", "-vv"],
        &["http://me:hunter2@h"],
        &["demo", "--system", "http//me:hunter2@h"],
    ] {
        let ended = run(args);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(!ended.complaint().contains("hunter2"), "{ended:?}");
    }
}

#[test]
fn a_refusal_is_an_object_too_when_asked_for() {
    for args in [
        &["list", "--output", "json"][..],
        &["--output=json", "list", "--system", "gopher://h"],
    ] {
        let ended = run(args);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        let object = ended.object();
        assert_eq!((&object["event"], &object["exit"]), (&"error".into(), &2.into()));
        ended.complaint();
    }
}
