//! What the commands do when nothing goes wrong.

use std::{
    io::{Read, Write},
    net::TcpListener,
    process::Stdio,
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::Duration,
};

use rustix::process::Signal;

use crate::process::{PATIENCE, Peer, Service, command, eventually, resolve, run, start_quietly};

const UNKNOWN: &str = "5f3c8d1e-8a43-4c1b-9a65-0a6c1a3f9b10";

#[test]
fn serve_tells_its_address_first_and_ends_when_asked() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut service = Service::start();
        assert!(service.address.starts_with("127.0.0.1:"), "{}", service.address);
        assert_eq!(service.url, format!("http://{}", service.address));
        assert_eq!(run(["list", "--system", &service.url]).code, Some(0));
        service.process.signal(signal);
        assert_eq!(service.process.wait(), Some(0));
    }
}

#[test]
fn what_is_registered_is_found_by_both_ids_and_listed() {
    let service = Service::start();
    let peer = Peer::register(&service.url, "tcp://10.0.0.7:5555");
    let by_instance = resolve(&service.url, &peer.instance);
    let by_worker = run(["resolve", "--system", &service.url, "--worker-id", &peer.worker]);
    for found in [&by_instance, &by_worker] {
        assert_eq!((found.code, found.stderr.as_str()), (Some(0), ""), "{found:?}");
        let found = found.object();
        assert_eq!(found["instance_id"], peer.instance);
        assert_eq!(found["worker_id"], peer.worker);
        assert_eq!(found["address"], "tcp://10.0.0.7:5555");
        assert_eq!(found["address_base64"], "dGNwOi8vMTAuMC4wLjc6NTU1NQ==");
        assert_eq!(found["checksum"].as_str().map(str::len), Some(16));
        assert!(found["source"].as_str().unwrap().starts_with("http://127.0.0.1:"));
        assert!(found["age_ms"].is_u64());
    }
    let other = Peer::register(&service.url, "tcp://10.0.0.8:5555");
    let listed = run(["list", "--system", &service.url]);
    let mut ids: Vec<_> = listed
        .objects()
        .iter()
        .map(|peer| peer["instance_id"].clone())
        .collect();
    ids.sort_by_key(ToString::to_string);
    let mut expected = [peer.instance.as_str(), other.instance.as_str()];
    expected.sort_unstable();
    assert_eq!(ids, expected);
}

#[test]
fn an_empty_list_is_a_success() {
    let service = Service::start();
    let listed = run(["list", "--system", &service.url]);
    assert_eq!(
        (listed.code, listed.stdout.as_str(), listed.stderr.as_str()),
        (Some(0), "", "")
    );
    let listed = run(["list", "--system", &service.url, "--output", "text"]);
    assert_eq!(listed.stdout, "0 peers in cluster default\n");
}

#[test]
fn text_is_an_aligned_table_without_colour_in_a_pipe() {
    let service = Service::start();
    let peer = Peer::register(&service.url, "tcp://h:1");
    let listed = run(["list", "--system", &service.url, "--output", "text"]);
    let lines: Vec<_> = listed.stdout.lines().collect();
    assert!(
        lines[0].starts_with("INSTANCE") && lines[0].ends_with("ADDRESS"),
        "{listed:?}"
    );
    assert_eq!(lines[1], format!("{}  {}  tcp://h:1", peer.instance, peer.worker));
    assert_eq!(lines[0].find("ADDRESS"), lines[1].find("tcp://"));
    let found = run([
        "resolve",
        "--output=text",
        "--system",
        &service.url,
        "--worker-id",
        &peer.worker,
    ]);
    assert!(found.stdout.contains("address   tcp://h:1\n"), "{found:?}");
}

#[test]
fn asked_to_end_a_registration_leaves_at_once() {
    let service = Service::start();
    for signal in [Signal::INT, Signal::TERM] {
        let mut peer = Peer::register(&service.url, "tcp://h:1");
        peer.process.signal(signal);
        assert_eq!(peer.process.object()["state"], "gone");
        assert_eq!(peer.process.wait(), Some(0));
        let lookup = resolve(&service.url, &peer.instance);
        assert_eq!(lookup.code, Some(3), "{lookup:?}");
        assert!(lookup.complaint().contains("not found"), "{lookup:?}");
    }
}

#[test]
fn clusters_do_not_mix() {
    let service = Service::start();
    let peer = Peer::register(&service.with_options("cluster=a"), "tcp://h:1");
    assert_eq!(
        resolve(&service.with_options("cluster=ab"), &peer.instance).code,
        Some(3)
    );
    assert_eq!(
        resolve(&service.with_options("cluster=a"), &peer.instance).code,
        Some(0)
    );
}

#[test]
fn several_systems_are_fallbacks_in_order() {
    let (one, two) = (Service::start(), Service::start());
    let peer = Peer::register(&two.url, "tcp://h:1");
    let dead = "http://127.0.0.1:1";
    let ask = |first: &str, second: &str, id: &str| {
        run([
            "resolve",
            "--system",
            first,
            "--system",
            second,
            "--instance-id",
            id,
        ])
    };
    assert_eq!(ask(&one.url, &two.url, &peer.instance).code, Some(0));
    assert_eq!(ask(dead, &two.url, &peer.instance).code, Some(0));
    assert_eq!(ask(&one.url, &two.url, UNKNOWN).code, Some(3));
    for (first, second) in [(dead, two.url.as_str()), (two.url.as_str(), dead)] {
        let lookup = ask(first, second, UNKNOWN);
        assert_eq!(lookup.code, Some(4), "{lookup:?}");
        assert!(lookup.complaint().contains("127.0.0.1:1"), "{lookup:?}");
    }
}

#[test]
fn a_service_can_stand_in_front_of_another() {
    let behind = Service::start();
    let front = Service::with(["--listen", "127.0.0.1:0", "--system", &behind.url]);
    let mut peer = Peer::register(&front.url, "tcp://h:1");
    for url in [&front.url, &behind.url] {
        assert_eq!(resolve(url, &peer.instance).code, Some(0), "{url}");
    }
    peer.process.signal(Signal::TERM);
    assert_eq!(peer.process.wait(), Some(0));
    assert_eq!(resolve(&behind.url, &peer.instance).code, Some(3));
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let service = Service::start();
    let _peer = Peer::register(&service.url, "tcp://h:1");
    let list = |output: &str| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = command(["list", "--system", &service.url, "--output", output]);
        command.stdout(writer).stderr(Stdio::piped()).output().unwrap()
    };
    for output in ["json", "text"] {
        let ended = list(output);
        assert_eq!(
            (ended.status.code(), ended.stderr.len()),
            (Some(0), 0),
            "{ended:?}"
        );
    }
}

#[test]
fn asked_to_end_while_it_connects_it_was_interrupted() {
    let service = Service::start();
    service.process.signal(Signal::STOP);
    let mut register = start_quietly(["register", "--system", &service.url, "--address", "a"]);
    // Signals are caught before the first connection is made.
    eventually(Duration::from_secs(5), || {
        catches_terminate(register.id()).then_some(())
    });
    register.signal(Signal::TERM);
    assert_eq!(register.wait(), Some(130));
}

#[test]
fn asked_to_end_while_it_registers_it_was_interrupted() {
    let (url, asked) = healthy_but_mute();
    let mut register = start_quietly(["register", "--system", &url, "--address", "a"]);
    asked.recv_timeout(PATIENCE).expect("it asks to register");
    register.signal(Signal::INT);
    assert_eq!(register.wait(), Some(130));
}

/// A service that says that it is alive, and answers nothing else; tells when it is asked.
fn healthy_but_mute() -> (String, Receiver<()>) {
    const HEALTH: &str = r#"{"service":"discovery","api":"v1","epoch":"1"}"#;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, asked) = sync_channel(1_024);
    thread::spawn(move || {
        let mut mute = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 64];
            let read = stream.read(&mut head).unwrap_or_default();
            if head[..read].starts_with(b"GET /healthz") {
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{HEALTH}",
                    HEALTH.len()
                );
                let _ = stream.write_all(answer.as_bytes());
            } else {
                let _ = tell.send(());
            }
            mute.push(stream);
        }
    });
    (url, asked)
}

/// Whether a process has a handler for SIGTERM; where that cannot be known, waits a little.
pub(crate) fn catches_terminate(pid: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
        std::thread::sleep(Duration::from_millis(500));
        return true;
    };
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (Signal::TERM.as_raw() - 1)) != 0)
}

#[test]
fn help_shows_examples_and_exit_codes() {
    for args in [
        &["--help"][..],
        &["serve", "--help"],
        &["register", "--help"],
        &["resolve", "--help"],
        &["list", "--help"],
        &["watch", "--help"],
        &["doctor", "--help"],
        &["demo", "--help"],
    ] {
        let help = run(args);
        assert_eq!(help.code, Some(0), "{args:?}");
        for part in ["Examples:", "Exit codes:", "5  worker-id collision"] {
            assert!(help.stdout.contains(part), "{args:?}: {part}");
        }
        assert!(!help.stdout.contains("demo-worker"), "{args:?}");
    }
    let version = run(["--version"]);
    assert_eq!(
        version.stdout,
        format!("discovery {}\n", env!("CARGO_PKG_VERSION"))
    );
}
