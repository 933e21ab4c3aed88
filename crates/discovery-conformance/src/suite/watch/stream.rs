//! What a watch tells while nothing breaks: W1, W2, W7.

use std::time::Duration;

use discovery_core::{
    ErrorKind, PeerInfo, WorkerAddress,
    limit::{CALL_DEADLINE, CONNECT_DEADLINE},
    peer::{PeerDiscovery, PeerEvent, RemovalReason},
    store::{Expect, Record, RecordKey, Write, Writer},
};
use discovery_records::peer::encode;
use futures_util::{FutureExt, StreamExt};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout},
};

use super::{Fleet, Watcher};
use crate::{
    Fault, Mode,
    trial::{Ctx, colliding, eventually, peer, peers_of, register, trials},
};

trials! { "watch":
    "W1" a_watch_begins_with_a_snapshot_also_when_there_is_nothing [Watch];
    "W1" what_happens_after_the_call_returned_is_told [Register, Watch];
    "W1" a_watch_that_cannot_be_had_says_so_in_time [Watch];
    "W2" each_change_is_told_once_and_in_order [Register, Watch];
    "W2" an_expiry_is_told_once [Register, Watch, Expiry];
    "W2" renewals_and_takeovers_are_no_events [Register, Watch];
    "W2" what_stands_instead_is_told_as_what_it_is [Watch];
    "W2" who_leaves_did_not_expire [Register, Watch];
    "W2" clusters_do_not_hear_of_each_other [Register, Watch];
    "W2" what_only_begins_like_a_peer_is_not_heard_of [Watch];
    "W7" dropping_the_stream_releases_the_watch [Watch];
    "W7" restarts_leave_nothing_behind [Watch, ServerRestart];
}

async fn a_watch_begins_with_a_snapshot_also_when_there_is_nothing(ctx: Ctx) {
    let watch = ctx.peers().await.watch().expect("the system watches");
    let mut events = watch.watch_peers().await.expect("a watch");
    let first = timeout(ctx.propagation(), events.next()).await.expect("in time");
    assert!(
        matches!(&first, Some(PeerEvent::Snapshot(peers)) if peers.is_empty()),
        "{first:?}"
    );
    let mut fleet = Fleet::start(&ctx).await;
    fleet.add(20).await;
    sleep(ctx.propagation()).await;
    let mut events = watch.watch_peers().await.expect("a watch");
    let first = timeout(ctx.propagation(), events.next()).await.expect("in time");
    assert!(
        matches!(&first, Some(PeerEvent::Snapshot(peers)) if *peers == fleet.peers()),
        "{first:?}"
    );
}

async fn what_happens_after_the_call_returned_is_told(ctx: Ctx) {
    let (system, peer) = (ctx.connect().await, peer());
    let watch = peers_of(&*system).watch().expect("the system watches");
    let mut events = watch.watch_peers().await.expect("a watch");
    // Nobody reads yet.
    let registration = register(&*system, &peer).await.expect("registered");
    let mut told = Vec::new();
    while told.len() < 2 {
        let event = timeout(ctx.propagation(), events.next()).await;
        told.push(event.expect("in time").expect("an event"));
    }
    assert!(
        matches!(&told[..], [PeerEvent::Snapshot(none), PeerEvent::Added(added)] if none.is_empty() && *added == peer),
        "{told:?}"
    );
    registration.unregister().await.expect("unregistered");
}

async fn a_watch_that_cannot_be_had_says_so_in_time(ctx: Ctx) {
    let peers = ctx.peers().await;
    let watch = peers.watch().expect("the system watches");
    for fault in [Fault::Cut, Fault::Stall] {
        ctx.fault(fault).await;
        let begun = Instant::now();
        let error = watch.watch_peers().await.map(drop).expect_err("it is not there");
        assert!(
            matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout),
            "{error}"
        );
        assert!(error.system().is_some(), "{error} names no system");
        let limit = CONNECT_DEADLINE + CALL_DEADLINE + Duration::from_secs(1);
        assert!(begun.elapsed() < limit, "after {:?}", begun.elapsed());
        ctx.fault(Fault::Heal).await;
    }
    eventually(ctx.recovery(), || async { watch.watch_peers().await.is_ok() }).await;
}

async fn each_change_is_told_once_and_in_order(ctx: Ctx) {
    let (system, first) = (ctx.connect().await, peer());
    let second = PeerInfo::new(
        first.instance_id(),
        WorkerAddress::from_bytes("tcp://elsewhere:1"),
    );
    let watcher = Watcher::start(&*ctx.peers().await).await;
    for peer in [&first, &second] {
        let registration = register(&*system, peer).await.expect("registered");
        watcher
            .comes_to(ctx.propagation(), std::slice::from_ref(peer))
            .await;
        registration.unregister().await.expect("unregistered");
        watcher.comes_to(ctx.propagation(), &[]).await;
    }
    // Whatever else was told would be there by now.
    sleep(ctx.propagation()).await;
    let events = watcher.events();
    let [_, added, removed, again, gone] = &events[..] else {
        panic!("{events:?}");
    };
    assert!(
        matches!(added, PeerEvent::Added(peer) if *peer == first)
            && matches!(again, PeerEvent::Added(peer) if *peer == second),
        "{events:?}"
    );
    for (event, left) in [(removed, &first), (gone, &second)] {
        let PeerEvent::Removed { peer, reason } = event else {
            panic!("{events:?}");
        };
        assert_eq!(peer, left);
        assert_ne!(*reason, RemovalReason::Expired, "it unregistered");
    }
}

async fn an_expiry_is_told_once(ctx: Ctx) {
    let (watcher, peer) = (Watcher::start(&*ctx.peers().await).await, peer());
    let member = ctx.member(&peer).await;
    watcher
        .comes_to(ctx.propagation(), std::slice::from_ref(&peer))
        .await;
    member.kill();
    watcher
        .comes_to(ctx.expiry() + ctx.bounds().propagation, &[])
        .await;
    sleep(ctx.ttl()).await;
    let events = watcher.events_after(1);
    let [PeerEvent::Added(_), PeerEvent::Removed { reason, .. }] = &events[..] else {
        panic!("{events:?}");
    };
    assert_ne!(*reason, RemovalReason::Unregistered, "it was killed");
}

async fn renewals_and_takeovers_are_no_events(ctx: Ctx) {
    let (one, other, peer) = (ctx.connect().await, ctx.connect().await, peer());
    let watcher = Watcher::start(&*ctx.peers().await).await;
    let first = register(&*one, &peer).await.expect("registered");
    sleep(ctx.ttl() * 2).await;
    let second = register(&*other, &peer).await.expect("the same peer");
    sleep(ctx.ttl()).await;
    let told = watcher.events_after(1);
    assert!(matches!(&told[..], [PeerEvent::Added(_)]), "{told:?}");
    first.unregister().await.expect("left");
    second.unregister().await.expect("left");
    watcher.comes_to(ctx.propagation(), &[]).await;
}

async fn what_stands_instead_is_told_as_what_it_is(ctx: Ctx) {
    let mut fleet = Fleet::start(&ctx).await;
    let moved = fleet.add(1).await.remove(0);
    let first = colliding(0, "tcp://one:1");
    fleet.write(std::slice::from_ref(&first)).await;
    let watcher = Watcher::start(&*ctx.peers().await).await;
    let there = fleet.modify(&moved, "tcp://elsewhere:1").await;
    let second = colliding(1, "tcp://two:2");
    fleet.write(std::slice::from_ref(&second)).await;
    watcher.comes_to(ctx.propagation(), &fleet.peers()).await;
    let told = watcher.events_after(1);
    let [
        PeerEvent::Modified { previous, peer },
        PeerEvent::Removed { peer: left, .. },
        PeerEvent::Added(came),
    ] = &told[..]
    else {
        panic!("{told:?}");
    };
    assert_eq!((previous, peer, left, came), (&moved, &there, &first, &second));
    // What cannot be read is no peer any more.
    let (_, Record { key, version, .. }) = fleet.standing[&there.worker_id()].clone();
    let unreadable = Write {
        key,
        body: "no peer".into(),
        writer: Writer::random(),
        expect: Expect::Version(version),
    };
    fleet
        .store
        .write(&fleet.session, &[unreadable])
        .await
        .remove(0)
        .expect("written");
    watcher.comes_to(ctx.propagation(), &[second]).await;
}

async fn who_leaves_did_not_expire(ctx: Ctx) {
    let (system, peers) = (ctx.connect().await, [peer(), peer(), peer()]);
    let mut registrations = Vec::new();
    for peer in &peers {
        registrations.push(register(&*system, peer).await.expect("registered"));
    }
    let watcher = Watcher::start(&*ctx.peers().await).await;
    eventually(ctx.propagation(), || async {
        watcher.peers().len() == peers.len()
    })
    .await;
    // The others stay for now; with the last one its session may end, too.
    for registration in registrations {
        registration.unregister().await.expect("unregistered");
    }
    watcher.comes_to(ctx.propagation(), &[]).await;
    let expired = watcher.count(|event| {
        let expired = RemovalReason::Expired;
        matches!(event, PeerEvent::Removed { reason, .. } if *reason == expired)
    });
    assert_eq!(expired, 0, "{:?}", watcher.events());
}

async fn what_only_begins_like_a_peer_is_not_heard_of(ctx: Ctx) {
    let others = ["peersx", "peers-b", "peers.c"];
    let plant = async |peer: &PeerInfo, kind: &str| {
        let key = RecordKey::try_new(&ctx.cluster, kind, &[ctx.key(peer).last()]).expect("a valid key");
        ctx.plant(&key, encode(peer).expect("a valid peer")).await
    };
    for kind in others {
        plant(&peer(), kind).await;
    }
    let peers = ctx.peers().await;
    let watcher = Watcher::start(&*peers).await;
    for kind in others {
        plant(&peer(), kind).await;
    }
    let mut fleet = Fleet::start(&ctx).await;
    fleet.add(1).await;
    watcher.comes_to(ctx.propagation(), &fleet.peers()).await;
    watcher.comes_to_the_list(ctx.propagation()).await;
    assert_eq!(watcher.events_after(1).len(), 1, "{:?}", watcher.events());
}

async fn clusters_do_not_hear_of_each_other(ctx: Ctx) {
    let watcher = Watcher::start(&*ctx.peers().await).await;
    let cluster = ctx.cluster.as_str();
    let half = &cluster[..cluster.len() / 2];
    let mut kept = Vec::new();
    for name in [
        format!("{cluster}x"),
        half.to_owned(),
        format!("{cluster}-b"),
        format!("{cluster}%2Fpeers"),
    ] {
        let mut how = ctx.how();
        how.cluster = discovery_core::Cluster::try_new(name).expect("a valid name");
        let system = ctx.backend.connect(&how).await.expect("connected");
        kept.push((register(&*system, &peer()).await.expect("registered"), system));
    }
    let (system, ours) = (ctx.connect().await, peer());
    let _ours = register(&*system, &ours).await.expect("registered");
    watcher.comes_to(ctx.propagation(), &[ours]).await;
    assert_eq!(watcher.events_after(1).len(), 1, "{:?}", watcher.events());
}

async fn dropping_the_stream_releases_the_watch(ctx: Ctx) {
    let (faulty, system) = ctx.faulty().await;
    let watch = peers_of(&*system).watch().expect("the system watches");
    drop(watch.watch_peers().await.expect("a watch"));
    let tasks = Handle::current().metrics().num_alive_tasks();
    let (watches, connections) = (ctx.backend.watches(), ctx.backend.connections());
    let mut streams = Vec::new();
    for read in 0..20 {
        let mut stream = watch.watch_peers().await.expect("a watch");
        // Read to the end of what there is, in part, or not at all.
        for _ in 0..read % 3 {
            let _ = stream.next().now_or_never();
        }
        streams.push(stream);
    }
    assert!(faulty.watches() > 0);
    // Also while it is interrupted and tries again.
    faulty.set(Mode::Cut);
    for stream in &mut streams[..10] {
        while stream.next().now_or_never().is_some() {}
    }
    drop(streams);
    faulty.set(Mode::Pass);
    let few =
        |now: Option<usize>, before: Option<usize>| now.zip(before).is_none_or(|(now, before)| now <= before);
    eventually(Duration::from_secs(5), || async {
        faulty.watches() == 0
            && few(ctx.backend.watches(), watches)
            && few(ctx.backend.connections(), connections.map(|before| before + 2))
            && Handle::current().metrics().num_alive_tasks() <= tasks
    })
    .await;
}

async fn restarts_leave_nothing_behind(ctx: Ctx) {
    let system = ctx.connect().await;
    let peers = peers_of(&*system);
    let watcher = Watcher::start(&*peers).await;
    let settled = || async {
        let came = peer();
        let registration = register(&*system, &came).await.expect("registered");
        watcher
            .comes_to(Duration::from_secs(10), std::slice::from_ref(&came))
            .await;
        registration.unregister().await.expect("unregistered");
        watcher.comes_to(ctx.propagation(), &[]).await;
        (
            Handle::current().metrics().num_alive_tasks(),
            ctx.backend.connections(),
        )
    };
    restart(&ctx, &*peers).await;
    let (tasks, connections) = settled().await;
    for _ in 0..50 {
        restart(&ctx, &*peers).await;
    }
    assert!(watcher.interruptions() > 0);
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        let (tasks_now, connections_now) = settled().await;
        if tasks_now <= tasks && connections_now <= connections.map(|before| before + 1) {
            break;
        }
        assert!(
            Instant::now() < limit,
            "tasks {tasks} -> {tasks_now}, connections {connections:?} -> {connections_now:?}"
        );
    }
}

/// Restarts the server under a watch that stands, and one that is perhaps waiting to try again.
async fn restart(ctx: &Ctx, peers: &dyn PeerDiscovery) {
    let standing = Watcher::start(peers).await;
    ctx.fault(Fault::Cut).await;
    eventually(ctx.recovery(), || async { standing.interruptions() == 1 }).await;
    ctx.fault(Fault::Heal).await;
}
