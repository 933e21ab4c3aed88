//! What happens when processes are killed, stopped, or race.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use crate::process::{PATIENCE, Peer, Running, Service, eventually, resolve, run, start, start_quietly};

/// Two instance ids with one worker id.
const COLLIDING: [&str; 2] = [
    "b93942ea-7b73-8267-d59f-3d805cf975ae",
    "b81a078d-f2d8-4f88-3a52-96093bbc56af",
];
/// For one more process to start and answer on a busy machine.
const ONE_LOOK: Duration = Duration::from_millis(500);

#[test]
fn a_killed_peer_is_gone_within_its_ttl() {
    let service = Service::start();
    let url = service.with_options("ttl=2s");
    let peer = Peer::register(&url, "tcp://h:1");
    peer.process.signal(Signal::KILL);
    let (ttl, slack) = (Duration::from_secs(2), Duration::from_secs(1));
    let code = eventually(ttl + slack + ONE_LOOK, || {
        match resolve(&url, &peer.instance).code {
            Some(0) => None,
            code => Some(code),
        }
    });
    assert_eq!(code, Some(3));
}

#[test]
fn after_a_new_service_took_over_everybody_is_back() {
    let mut service = Service::start();
    let url = service.with_options("ttl=3s");
    let peer = Peer::register(&url, "tcp://h:1");
    service.process.signal(Signal::KILL);
    service.process.wait();
    assert_eq!(resolve(&url, &peer.instance).code, Some(4));

    let _service = Service::with(["--listen", &service.address, "--warm-up", "3s"]);
    let began = Instant::now();
    let bound = Duration::from_secs(1 + 2);
    let mut warming = false;
    eventually(bound + ONE_LOOK, || {
        let lookup = resolve(&url, &peer.instance);
        match lookup.code {
            Some(0) => Some(()),
            code => {
                assert_eq!(code, Some(4), "{lookup:?}");
                warming |= lookup.complaint().contains("just started");
                None
            }
        }
    });
    // What never was there is not known to be missing before everybody had time to come back.
    let unknown = resolve(&url, COLLIDING[0]);
    if began.elapsed() < Duration::from_secs(3) {
        assert_eq!(unknown.code, Some(4), "{unknown:?}");
        warming |= unknown.complaint().contains("just started");
        assert!(warming, "{unknown:?}");
    }
    eventually(PATIENCE, || {
        (resolve(&url, COLLIDING[0]).code == Some(3)).then_some(())
    });
    // The holder is alive; it told so only if a renewal failed in between.
    let states = std::iter::from_fn(|| peer.process.object_within(Duration::from_millis(100)));
    let states: Vec<_> = states
        .map(|event| event["state"].as_str().unwrap().to_owned())
        .collect();
    assert!(states.last().is_none_or(|state| state == "live"), "{states:?}");
}

#[test]
fn a_stopped_service_is_a_failure_in_time_and_loses_nobody() {
    let service = Service::start();
    let url = service.with_options("ttl=3s");
    let peer = Peer::register(&url, "tcp://h:1");
    service.process.signal(Signal::STOP);
    let stopped = Instant::now();
    eventually(PATIENCE, || {
        let lookup = resolve(&url, &peer.instance);
        assert_eq!(lookup.code, Some(4), "{lookup:?}");
        assert!(lookup.took < Duration::from_secs(1) + ONE_LOOK, "{lookup:?}");
        lookup.complaint();
        (stopped.elapsed() > Duration::from_secs(4)).then_some(())
    });
    service.process.signal(Signal::CONT);
    let lookup = resolve(&url, &peer.instance);
    assert_eq!(lookup.code, Some(0), "{lookup:?}");
}

#[test]
fn of_many_claimants_of_one_instance_one_lives() {
    const CLAIMANTS: usize = 30;
    let service = Service::start();
    let claim = |number: usize| {
        let address = format!("tcp://h:{number}");
        start_quietly([
            "register",
            "--system",
            &service.url,
            "--address",
            &address,
            "--instance-id",
            COLLIDING[0],
        ])
    };
    let mut claimants: Vec<Running> = (0..CLAIMANTS).map(claim).collect();
    let mut ended = Vec::new();
    eventually(PATIENCE, || {
        claimants.retain_mut(|claimant| match claimant.exited() {
            Some(code) => {
                ended.push(code);
                false
            }
            None => true,
        });
        (claimants.len() == 1).then_some(())
    });
    assert_eq!(ended, [Some(5); CLAIMANTS - 1]);
    let live = claimants[0].object();
    assert_eq!(live["state"], "live");
    let found = resolve(&service.url, COLLIDING[0]);
    assert_eq!(found.object()["address_base64"], live["address_base64"]);
    assert_eq!(run(["list", "--system", &service.url]).objects().len(), 1);
}

#[test]
fn another_instance_under_the_same_worker_id_is_refused() {
    let service = Service::start();
    let register = |id: &str| {
        [
            "register",
            "--system",
            &service.url,
            "--address",
            "a",
            "--instance-id",
            id,
        ]
        .map(str::to_owned)
    };
    let holder = start(register(COLLIDING[0]));
    assert_eq!(holder.object()["state"], "live");
    let refused = run(register(COLLIDING[1]));
    assert_eq!(refused.code, Some(5), "{refused:?}");
    for id in COLLIDING {
        assert!(refused.complaint().contains(id), "{refused:?}");
    }
}

#[test]
fn a_paused_process_whose_place_was_taken_ends() {
    let service = Service::start();
    let url = service.with_options("ttl=1s");
    let register = |id: &str| {
        start_quietly([
            "register",
            "--system",
            &url,
            "--address",
            "a",
            "--instance-id",
            id,
        ])
    };
    let mut paused = register(COLLIDING[0]);
    assert_eq!(paused.object()["state"], "live");
    paused.signal(Signal::STOP);
    eventually(PATIENCE, || {
        (resolve(&url, COLLIDING[0]).code == Some(3)).then_some(())
    });
    let successor = register(COLLIDING[1]);
    assert_eq!(successor.object()["state"], "live");
    paused.signal(Signal::CONT);
    assert_eq!(paused.wait(), Some(5));
    assert_eq!(resolve(&url, COLLIDING[1]).code, Some(0));
}

#[test]
fn without_a_service_nothing_is_found_to_be_missing() {
    let dead = "http://127.0.0.1:1";
    for args in [
        &["list", "--system", dead][..],
        &["watch", "--system", dead],
        &["resolve", "--system", dead, "--instance-id", COLLIDING[0]],
        &["register", "--system", dead, "--address", "a"],
    ] {
        let ended = run(args);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(4), ""), "{ended:?}");
        let complaint = ended.complaint();
        assert!(
            complaint.contains("http") && complaint.contains("127.0.0.1:1"),
            "{complaint}"
        );
    }
    let ended = run(["list", "--system", dead, "--output", "json"]);
    let object = ended.object();
    assert_eq!((&object["event"], &object["exit"]), (&"error".into(), &4.into()));
    assert_eq!(
        (&object["code"], &object["system"]),
        (&"unavailable".into(), &"http".into())
    );
    ended.complaint();
}

#[test]
fn leaving_without_a_service_says_so() {
    let mut service = Service::start();
    let mut peer = Peer::register(&service.url, "tcp://h:1");
    service.process.signal(Signal::KILL);
    service.process.wait();
    let asked = Instant::now();
    peer.process.signal(Signal::TERM);
    assert_eq!(peer.process.wait(), Some(4));
    assert!(asked.elapsed() < Duration::from_secs(7), "{:?}", asked.elapsed());
}
