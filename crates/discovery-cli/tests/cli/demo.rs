//! The demonstration, and that it leaves nobody behind.

use std::time::Duration;

use rustix::process::Signal;

use crate::process::{Running, Service, eventually, run, start_quietly};

/// How long after its parent a worker may live.
const ORPHANED: Duration = Duration::from_secs(5);

fn demo<const N: usize>(args: [&str; N]) -> Running {
    start_quietly(["demo"].into_iter().chain(args))
}

/// The processes whose arguments contain `mark`.
fn processes(mark: &str) -> usize {
    let listed = std::process::Command::new("ps")
        .args(["-axww", "-o", "args="])
        .output();
    let from_proc = || {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        lines
            .filter(|line| String::from_utf8_lossy(line).split('\0').any(|arg| arg == mark))
            .count()
    };
    match listed {
        _ if cfg!(target_os = "linux") => from_proc(),
        Ok(listed) => String::from_utf8_lossy(&listed.stdout)
            .lines()
            .filter(|line| line.contains(mark))
            .count(),
        Err(_) => from_proc(),
    }
}

/// Waits until workers of a demonstration run; returns what they are known by.
fn workers_of(demo: &Running) -> String {
    let mark = format!("--parent={}", demo.id());
    eventually(Duration::from_secs(10), || (processes(&mark) >= 2).then_some(()));
    mark
}

fn nobody_is_left(mark: &str) {
    eventually(ORPHANED, || (processes(mark) == 0).then_some(()));
}

#[test]
fn every_expectation_holds_and_nobody_is_left() {
    let mut demo = demo([]);
    let mark = workers_of(&demo);
    let first = demo.object();
    assert_eq!((&first["peers"], &first["ttl_ms"]), (&8.into(), &3_000.into()));
    for (step, limit) in [
        ("meet", 10_000),
        ("kill", 5_000),
        ("leave", 1_500),
        ("join", 1_500),
    ] {
        let shown = demo.object();
        assert_eq!(
            (&shown["step"], &shown["held"]),
            (&step.into(), &true.into()),
            "{shown}"
        );
        assert_eq!(shown["limit_ms"], limit);
        assert!(shown["delay_ms"].as_u64().unwrap() <= limit, "{shown}");
    }
    assert_eq!(demo.object()["step"], "stay");
    let verdict = demo.object();
    assert_eq!(
        (&verdict["event"], &verdict["held"]),
        (&"verdict".into(), &true.into())
    );
    assert!(verdict["took_ms"].as_u64().unwrap() < 30_000, "{verdict}");
    assert_eq!(demo.wait(), Some(0));
    assert_eq!(processes(&mark), 0);
}

#[test]
fn another_system_is_used_in_a_cluster_of_its_own_and_left_as_it_was() {
    let service = Service::start();
    let mut demo = demo(["--peers", "3", "--system", &service.url]);
    assert_eq!(demo.object()["ttl_ms"], 1_000);
    assert_eq!(demo.wait(), Some(0));
    assert_eq!(run(["list", "--system", &service.url]).stdout, "");
}

#[test]
fn interrupted_it_leaves_nobody_behind() {
    for (signal, peers) in [(Signal::INT, "8"), (Signal::TERM, "3")] {
        let mut demo = demo(["--peers", peers]);
        let mark = workers_of(&demo);
        demo.signal(signal);
        assert_eq!(demo.wait(), Some(130));
        assert_eq!(processes(&mark), 0);
    }
}

#[test]
fn killed_it_leaves_nobody_behind() {
    let demo = demo([]);
    let mark = workers_of(&demo);
    demo.signal(Signal::KILL);
    nobody_is_left(&mark);
}

#[test]
fn a_system_that_does_not_work_is_one_clear_failure() {
    let ended = run(["demo", "--system", "http://127.0.0.1:1"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(4), ""), "{ended:?}");
    assert!(ended.complaint().contains("127.0.0.1:1"), "{ended:?}");
}

#[test]
fn a_system_that_dies_meanwhile_is_one_clear_failure() {
    let service = Service::start();
    let mut demo = demo(["--peers", "3", "--system", &service.url]);
    let mark = workers_of(&demo);
    assert_eq!(demo.object()["event"], "demo");
    service.process.signal(Signal::KILL);
    assert_eq!(demo.wait(), Some(4));
    assert_eq!(processes(&mark), 0);
}
