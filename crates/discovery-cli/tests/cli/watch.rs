//! `watch`: what it tells, and how it ends.

use std::{
    io::{BufRead, BufReader, Read},
    process::Stdio,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    commands::catches_terminate,
    process::{Ended, PATIENCE, Peer, Service, command, eventually, run, start_quietly},
    watching::Watching,
};

/// What `list` shows of the only peer there is.
fn listed(service: &Service) -> Value {
    run(["list", "--system", &service.url]).object()
}

fn with(mut peer: Value, more: Value) -> Value {
    let parts = peer.as_object_mut().unwrap();
    parts.extend(more.as_object().unwrap().clone());
    peer
}

#[test]
fn it_tells_who_is_there_who_comes_and_who_leaves() {
    let service = Service::start();
    let mut old = Peer::register(&service.url, "tcp://h:1");
    let object = listed(&service);
    let mut watching = Watching::start(&service.url);
    assert_eq!(watching.peers[&old.instance], object);

    old.process.signal(Signal::TERM);
    let removed = json!({"event": "removed", "reason": "unregistered"});
    assert_eq!(watching.next(), with(object, removed));
    assert_eq!(old.process.wait(), Some(0));

    let young = Peer::register(&service.with_options("ttl=1s"), "tcp://h:2");
    let object = listed(&service);
    assert_eq!(watching.next(), with(object.clone(), json!({"event": "added"})));
    young.process.signal(Signal::KILL);
    let removed = json!({"event": "removed", "reason": "expired"});
    assert_eq!(watching.next(), with(object, removed));
    assert_eq!(watching.process.complaints(), Vec::<String>::new());
}

#[test]
fn an_empty_cluster_has_a_snapshot_too() {
    let service = Service::start();
    let _elsewhere = Peer::register(&service.with_options("cluster=ab"), "tcp://h:1");
    let watching = Watching::start(&service.with_options("cluster=a"));
    assert!(watching.peers.is_empty());
}

#[test]
fn asked_to_end_it_ends_well() {
    let service = Service::start();
    for signal in [Signal::INT, Signal::TERM] {
        let mut watching = Watching::start(&service.url);
        watching.process.signal(signal);
        assert_eq!(watching.process.wait(), Some(0));
        assert_eq!(watching.process.complaints(), Vec::<String>::new());
    }
}

#[test]
fn asked_to_end_before_it_watches_it_was_interrupted() {
    let service = Service::start();
    service.process.signal(Signal::STOP);
    let mut watch = start_quietly(["watch", "--system", &service.url]);
    eventually(PATIENCE, || catches_terminate(watch.id()).then_some(()));
    watch.signal(Signal::TERM);
    assert_eq!(watch.wait(), Some(130));
}

/// With this on stdout; `read` takes from it what it wants, and goes.
fn watch_into(service: &Service, output: &str, read: impl FnOnce(std::io::PipeReader)) -> Ended {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = command(["watch", "--system", &service.url, "--output", output]);
    command.stdout(writer).stderr(Stdio::piped());
    let began = tokio::time::Instant::now();
    let mut child = command.spawn().unwrap();
    // The writer of this process: the child has its own.
    drop(command);
    read(reader);
    let ended = eventually(PATIENCE, || child.try_wait().unwrap());
    let stderr = child.wait_with_output().unwrap().stderr;
    Ended {
        code: ended.code(),
        stdout: String::new(),
        stderr: String::from_utf8(stderr).unwrap(),
        took: began.elapsed(),
    }
}

#[test]
fn a_reader_that_has_read_enough_ends_it_quietly() {
    let service = Service::start();
    let _peer = Peer::register(&service.url, "tcp://h:1");
    for output in ["json", "text"] {
        let ended = watch_into(&service, output, |reader| {
            // Nothing else happens: it is not by writing that it learns of this.
            let mut first = String::new();
            BufReader::new(reader).read_line(&mut first).unwrap();
            assert!(!first.is_empty());
        });
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
        let ended = watch_into(&service, output, drop);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    }
}

#[test]
fn a_reader_that_reads_nothing_does_not_keep_it_from_ending() {
    let service = Service::start();
    // More than a pipe holds.
    let address = "x".repeat(4_000);
    let peers: Vec<_> = (0..10).map(|_| Peer::register(&service.url, &address)).collect();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = command(["watch", "--system", &service.url]);
    let mut child = command.stdout(writer).spawn().unwrap();
    // It has begun to write, and cannot end that.
    reader.read_exact(&mut [0]).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    let ended = eventually(Duration::from_secs(5), || child.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0));
    drop(peers);
}

#[test]
fn text_has_a_table_and_a_line_per_event() {
    let service = Service::start();
    let peer = Peer::register(&service.url, "tcp://h:1");
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = command(["watch", "--system", &service.url, "--output", "text"]);
    let mut child = command.stdout(writer).spawn().unwrap();
    drop(command);
    let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
    let heading = lines.next().unwrap();
    assert!(heading.starts_with("UTC       EVENT     INSTANCE"), "{heading}");
    let there = lines.next().unwrap();
    assert_eq!(there.find("tcp://h:1"), heading.find("ADDRESS"), "{there}");
    assert!(lines.next().unwrap().starts_with("1 peer in cluster default"));
    peer.process.signal(Signal::TERM);
    let removed = lines.next().unwrap();
    assert_eq!(
        removed.find(&peer.instance),
        heading.find("INSTANCE"),
        "{removed}"
    );
    assert!(
        removed.contains("  removed   ") && removed.ends_with("  unregistered"),
        "{removed}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}
