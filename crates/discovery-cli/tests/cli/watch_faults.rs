//! Whatever happens to the service, to the watch or to what is between them: who folds what a
//! watch tells knows what `list` shows.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use crate::{
    crowd::Crowd,
    process::{PATIENCE, Peer, Service},
    watching::{Watching, list},
};

/// What it may take a busy machine beyond what is declared.
pub(crate) const MARGIN: Duration = Duration::from_secs(2);
/// Of the watches here; noticing silence takes two of it.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(1);

pub(crate) fn watched(url: &str, options: &str) -> String {
    format!("{url}?keep_alive=1s&{options}")
}

#[test]
fn a_killed_service_that_comes_back_loses_nobody() {
    let mut service = Service::start();
    let url = service.with_options("ttl=3s");
    let _stay = ["tcp://h:1", "tcp://h:2", "tcp://h:3"].map(|address| Peer::register(&url, address));
    let dies = Peer::register(&url, "tcp://h:4");
    let mut watching = Watching::start(&url);
    service.process.signal(Signal::KILL);
    service.process.wait();
    watching.says(PATIENCE, "trying again");
    dies.process.signal(Signal::KILL);

    let _service = Service::with(["--listen", &service.address, "--warm-up", "3s"]);
    watching.says(PATIENCE, "can be heard again");
    let agreed = watching.agrees_with_list(&url, PATIENCE);
    assert_eq!(agreed.len(), 3, "{agreed:?}");
    let removed = watching.events.iter().filter(|event| event["event"] == "removed");
    let removed: Vec<_> = removed.map(|event| &event["instance_id"]).collect();
    assert_eq!(removed, [&dies.instance], "{:?}", watching.events);
    // Told once each, and by nobody else.
    assert_eq!(
        watching.process.complaints().len(),
        2,
        "{:?}",
        watching.process.complaints()
    );
}

#[test]
fn a_service_that_has_lost_its_memory_empties_no_crowd() {
    const CROWD: usize = 12;
    let mut service = Service::start();
    let url = service.with_options("ttl=6s");
    let crowd = Crowd::connect(&url);
    let held = crowd.register(CROWD);
    let mut watching = Watching::start(&watched(&service.url, "ttl=6s"));
    assert_eq!(watching.peers.len(), CROWD);
    service.process.signal(Signal::KILL);
    service.process.wait();
    watching.says(PATIENCE, "trying again");

    // Nobody has come back yet when it answers.
    let _service = Service::with(["--listen", &service.address, "--warm-up", "0s"]);
    watching.next_called("resynced");
    let agreed = watching.agrees_with_list(&url, PATIENCE);
    assert_eq!(agreed.len(), CROWD);
    let told: Vec<_> = watching.events.iter().map(|event| &event["event"]).collect();
    assert!(told.iter().all(|name| *name == "resynced"), "{told:?}");
    drop(held);
}

#[test]
fn what_a_stopped_service_did_not_take_is_told_once_it_goes_on() {
    const CROWD: usize = 100;
    let service = Service::start();
    let url = service.with_options("ttl=10s");
    let crowd = Crowd::connect(&url);
    let leave = crowd.register(CROWD);
    let mut watching = Watching::start(&watched(&service.url, "ttl=10s"));
    assert_eq!(watching.peers.len(), CROWD);

    service.process.signal(Signal::STOP);
    let stopped = Instant::now();
    let mut joining = crowd.begin_to_register(CROWD);
    let mut leaving = crowd.begin_to_unregister(leave);
    let line = watching.says(KEEP_ALIVE * 2 + MARGIN, "trying again");
    assert!(stopped.elapsed() < KEEP_ALIVE * 2 + MARGIN, "{line}");
    service.process.signal(Signal::CONT);

    let stay = crowd.runtime.block_on(async {
        while leaving.join_next().await.is_some() {}
        let mut stay = Vec::new();
        while let Some(joined) = joining.join_next().await {
            stay.extend(joined.unwrap());
        }
        stay
    });
    watching.says(PATIENCE, "can be heard again");
    let agreed = watching.agrees_with_list(&url, PATIENCE);
    assert_eq!(agreed.len(), stay.len());
}

#[test]
fn a_stopped_watch_learns_what_it_has_slept_through() {
    const CROWD: usize = 100;
    let service = Service::start();
    let url = service.with_options("ttl=10s");
    let crowd = Crowd::connect(&url);
    let leave = crowd.register(CROWD);
    let mut watching = Watching::start(&watched(&service.url, "ttl=10s"));
    watching.process.signal(Signal::STOP);
    let stay = crowd.register(CROWD);
    let mut leaving = crowd.begin_to_unregister(leave);
    crowd
        .runtime
        .block_on(async { while leaving.join_next().await.is_some() {} });
    watching.process.signal(Signal::CONT);
    watching.until(PATIENCE, |peers| {
        list(&url).is_some_and(|listed| listed == *peers)
    });
    assert_eq!(watching.peers.len(), stay.len());
}

#[test]
fn a_service_that_is_not_there_is_told_at_once() {
    let began = Instant::now();
    let ended = crate::process::run(["watch", "--system", "http://127.0.0.1:1", "--output", "json"]);
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(began.elapsed() < Duration::from_secs(6));
    assert_eq!(ended.object()["event"], "error");
    ended.complaint();
}
