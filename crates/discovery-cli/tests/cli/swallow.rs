//! A network that swallows whatever is sent.

use std::{net::SocketAddr, time::Duration};

use discovery::peer::{InstanceId, WorkerAddress};
use discovery_conformance::{FaultProxy, Toxic, broken::Flaw};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::{
    crowd::Crowd,
    doctor::Ill,
    process::{PATIENCE, Peer, Service, eventually, run, start_overheard},
    watch_faults::{KEEP_ALIVE, MARGIN, watched},
    watching::Watching,
};

#[test]
fn a_watch_notices_and_makes_up_for_it() {
    let service = Service::start();
    let url = service.with_options("ttl=10s");
    let mut leaves = Peer::register(&url, "tcp://h:1");
    let mut moves = Peer::register(&url, "tcp://h:2");
    let crowd = Crowd::connect(&url);
    let target: SocketAddr = service.address.parse().unwrap();
    let proxy = crowd.runtime.block_on(FaultProxy::start(target)).unwrap();
    let through = watched(&format!("http://{}", proxy.local_addr()), "ttl=10s");
    let mut watching = Watching::start(&through);
    // While nothing happens, nothing is suspected.
    let idle = Instant::now();
    eventually(PATIENCE, || (idle.elapsed() > KEEP_ALIVE * 3).then_some(()));
    assert_eq!(watching.process.complaints(), Vec::<String>::new());

    crowd.runtime.block_on(proxy.apply(Toxic::Swallow)).unwrap();
    let swallowed = Instant::now();
    let line = watching.says(KEEP_ALIVE * 2 + MARGIN, "trying again");
    let noticed = swallowed.elapsed();
    assert!(line.contains(&proxy.local_addr().to_string()), "{line}");
    assert!(noticed < KEEP_ALIVE * 2 + MARGIN, "{noticed:?}");

    for peer in [&mut leaves, &mut moves] {
        peer.process.signal(Signal::TERM);
        assert_eq!(peer.process.wait(), Some(0));
    }
    let moved = crowd.runtime.block_on(async {
        let id: InstanceId = moves.instance.parse().unwrap();
        let address = WorkerAddress::from_bytes("tcp://h:3");
        crowd.peers.register_instance(id, address).await.unwrap()
    });
    crowd.runtime.block_on(proxy.heal()).unwrap();
    watching.says(PATIENCE, "can be heard again");
    watching.next_called("resynced");
    let agreed = watching.agrees_with_list(&url, PATIENCE);
    assert_eq!(agreed.len(), 1);
    assert_eq!(agreed[&moves.instance]["address"], "tcp://h:3");
    let modified = watching.events.iter().find(|event| event["event"] == "modified");
    if let Some(modified) = modified {
        assert_eq!(modified["previous"]["address"], "tcp://h:2");
    }
    crowd.runtime.block_on(moved.unregister()).unwrap();
    watching.until(PATIENCE, |peers| peers.is_empty());
}

#[test]
fn an_examination_through_it_ends_in_time() {
    let service = Service::start();
    let crowd = Crowd::connect(&service.url);
    let target: SocketAddr = service.address.parse().unwrap();
    let proxy = crowd.runtime.block_on(FaultProxy::start(target)).unwrap();
    crowd.runtime.block_on(proxy.apply(Toxic::Swallow)).unwrap();
    let ended = run(["doctor", "--system", &format!("http://{}", proxy.local_addr())]);
    assert_eq!(ended.code, Some(4), "{ended:?}");
    // The connect deadline, and a margin.
    assert!(ended.took < Duration::from_secs(7), "{ended:?}");
    ended.complaint();
}

#[test]
fn an_examination_that_is_cut_off_ends_and_says_what_it_may_leave() {
    // The probe is registered, but not to be found for a second: that is when it is cut off.
    let ill = Ill::broken(Flaw::VisibleLate);
    let target: SocketAddr = ill.url.trim_start_matches("http://").parse().unwrap();
    let proxy = ill.runtime.block_on(FaultProxy::start(target)).unwrap();
    let mut doctor = start_overheard(["doctor", "--system", &format!("http://{}", proxy.local_addr())]);
    while doctor.object()["check"] != "register" {}
    ill.runtime.block_on(proxy.apply(Toxic::Swallow)).unwrap();
    let cut = Instant::now();
    let mut checks = Vec::new();
    loop {
        let object = doctor.object();
        match object["event"].as_str() {
            Some("check") => checks.push((object["check"].clone(), object["status"].clone())),
            _ => break,
        }
    }
    assert_eq!(doctor.wait(), Some(4));
    assert!(cut.elapsed() < Duration::from_secs(18), "{:?}", cut.elapsed());
    let status = |check: &str| {
        let mut all = checks.iter();
        all.find(|(name, _)| name == check)
            .map(|(_, status)| status.clone())
    };
    for (check, expected) in [
        ("find_worker", "failed"),
        ("unregister", "failed"),
        ("forget", "skipped"),
        ("leave", "skipped"),
    ] {
        assert_eq!(status(check), Some(expected.into()), "{check}: {checks:?}");
    }
    let complaints = doctor.complaints();
    assert!(complaints[0].contains("expires within its TTL"), "{complaints:?}");
    assert!(complaints[1].starts_with("error: "), "{complaints:?}");
}
