//! Lookups: L1 to L7.

use std::{
    future::Future,
    pin::pin,
    slice::from_ref,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use discovery_core::{
    Cluster, ErrorKind, InstanceId, PeerInfo, WorkerAddress, limit::CALL_DEADLINE, peer::PeerDiscovery,
};
use discovery_records::peer::peers_prefix;
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use crate::{
    Fault, Mode, journal,
    trial::{Ctx, colliding, peer, peers_of, register, trials, unreadable},
};

trials! { "lookup":
    "L1" an_unknown_id_is_not_found_promptly [];
    "L2" a_backend_that_cannot_be_asked_is_never_not_found [];
    "L3" what_cannot_be_read_is_malformed_and_skipped_in_lists [];
    "L3" another_instance_under_the_worker_id_is_not_found [];
    "L4" clusters_are_isolated_exactly [Register];
    "L5" a_lookup_may_be_dropped_at_every_await [Register];
    "L5" lookups_that_were_dropped_while_they_waited_leave_nothing_behind [Register];
    "L6" a_thousand_lookups_at_once_are_answered [Register];
    "L6" a_lookup_that_waits_holds_up_no_other [];
    "L7" a_batch_answers_every_id_with_one_call [Register];
}

async fn an_unknown_id_is_not_found_promptly(ctx: Ctx) {
    let (faulty, system) = ctx.faulty().await;
    let (peers, unknown) = (peers_of(&*system), peer());
    let begun = Instant::now();
    for _ in 0..10 {
        let error = peers
            .discover_by_worker_id(unknown.worker_id())
            .await
            .expect_err("unknown");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        let error = peers
            .discover_by_instance_id(unknown.instance_id())
            .await
            .expect_err("unknown");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    assert!(begun.elapsed() < CALL_DEADLINE, "by a timeout");
    assert_eq!((faulty.calls(), faulty.reads()), (20, 20), "one round trip each");
}

async fn a_backend_that_cannot_be_asked_is_never_not_found(ctx: Ctx) {
    let (system, unknown) = (ctx.connect().await, peer());
    let peers = peers_of(&*system);
    for fault in [Fault::Cut, Fault::Stall] {
        ctx.fault(fault).await;
        let lookups = async {
            let by_worker = peers.discover_by_worker_id(unknown.worker_id()).await;
            let many = peers
                .discover_many(&[unknown.worker_id(), unknown.worker_id()])
                .await;
            let by_instance = peers.discover_by_instance_id(unknown.instance_id()).await;
            let mut errors = vec![by_worker.expect_err("nobody answers")];
            errors.push(by_instance.expect_err("nobody answers"));
            errors.extend(many.into_iter().map(|answer| answer.expect_err("nobody answers")));
            errors.push(
                peers
                    .watch()
                    .expect("a list")
                    .list_peers()
                    .await
                    .expect_err("nobody answers"),
            );
            errors
        };
        let errors = timeout(CALL_DEADLINE * 4 + Duration::from_secs(2), lookups)
            .await
            .expect("bounded");
        for error in errors {
            assert!(
                matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout),
                "{fault:?}: {error}"
            );
            assert!(error.system().is_some(), "{error} names no system");
        }
        ctx.fault(Fault::Heal).await;
        let error = peers
            .discover_by_worker_id(unknown.worker_id())
            .await
            .expect_err("unknown");
        assert_eq!(error.kind(), ErrorKind::NotFound, "after {fault:?}: {error}");
    }
}

async fn what_cannot_be_read_is_malformed_and_skipped_in_lists(ctx: Ctx) {
    let bodies = unreadable();
    let good = peer();
    let _planted_good = ctx.plant_peer(&good).await;
    let peers = ctx.peers().await;
    for (peer, body) in bodies.clone() {
        let _planted = ctx.plant(&ctx.key(&peer), body).await;
        let by_worker = peers
            .discover_by_worker_id(peer.worker_id())
            .await
            .expect_err("unreadable");
        assert_eq!(by_worker.kind(), ErrorKind::Malformed, "{by_worker}");
        let by_instance = peers
            .discover_by_instance_id(peer.instance_id())
            .await
            .expect_err("unreadable");
        assert_eq!(by_instance.kind(), ErrorKind::Malformed, "{by_instance}");
    }
    let listed = peers.watch().expect("a list").list_peers().await.expect("listed");
    assert_eq!(listed, [good]);
    let skipped = format!("{}", bodies.len());
    let counted = journal::entries(|entry| {
        entry
            .get("cluster")
            .is_some_and(|cluster| cluster == ctx.cluster.as_str())
            && entry.get("skipped") == Some(&skipped)
    });
    assert_eq!(counted.len(), 1, "what was skipped was not counted");
    let listing = ctx
        .store()
        .await
        .list(&peers_prefix(&ctx.cluster), None)
        .await
        .expect("listed");
    assert_eq!(
        listing.records.len(),
        bodies.len() + 1,
        "the store hides what it holds"
    );
}

async fn another_instance_under_the_worker_id_is_not_found(ctx: Ctx) {
    let (there, asked) = (
        colliding(0, "tcp://127.0.0.1:1"),
        colliding(1, "tcp://127.0.0.1:2"),
    );
    let _planted = ctx.plant_peer(&there).await;
    let peers = ctx.peers().await;
    let error = peers
        .discover_by_instance_id(asked.instance_id())
        .await
        .expect_err("another one stands there");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert_eq!(
        peers
            .discover_by_worker_id(asked.worker_id())
            .await
            .expect("it stands"),
        there
    );
}

async fn clusters_are_isolated_exactly(ctx: Ctx) {
    // As long as can be, and different at the end only.
    let long = ["x", "y"].map(|end| "l".repeat(127) + end);
    let names = [
        "a",
        "ab",
        "a-b",
        "a.b",
        "a%2Fb",
        "a%2Fpeers",
        "%61",
        "A",
        "a b",
        " a",
        "a ",
        "grün",
        "grn",
        "GRÜN",
        "gru\u{308}n",
        "日本",
        "*",
        ">",
        "a\\b",
        "...",
        "a?b#c",
        &long[0],
        &long[1],
    ];
    let id = InstanceId::new_v4();
    let mut all = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let mut how = ctx.how();
        how.cluster = Cluster::try_new(name).expect("a valid cluster");
        let system = ctx.backend.connect(&how).await.expect("connected");
        let peer = PeerInfo::new(id, WorkerAddress::from_bytes(format!("tcp://127.0.0.1:{at}")));
        let stranger = PeerInfo::new(InstanceId::new_v4(), peer.address().clone());
        let registrations = [
            register(&*system, &peer).await,
            register(&*system, &stranger).await,
        ];
        let registrations = registrations.map(|outcome| outcome.expect("alone in its cluster"));
        all.push((name, system, peer, stranger, registrations));
    }
    for (name, system, peer, stranger, _) in &all {
        let peers = peers_of(&**system);
        assert_eq!(
            peers.discover_by_instance_id(id).await.expect("found"),
            *peer,
            "in {name}"
        );
        for (other, _, _, foreign, _) in &all {
            let found = peers.discover_by_worker_id(foreign.worker_id()).await;
            assert_eq!(
                found.is_ok(),
                name == other,
                "{foreign:?} of {other} in {name}: {found:?}"
            );
        }
        let mut listed = peers.watch().expect("a list").list_peers().await.expect("listed");
        let mut expected = vec![peer.clone(), stranger.clone()];
        expected.sort_by_key(PeerInfo::worker_id);
        listed.sort_by_key(PeerInfo::worker_id);
        assert_eq!(listed, expected, "in {name}");
    }
}

async fn a_lookup_may_be_dropped_at_every_await(ctx: Ctx) {
    let (system, peer) = (ctx.connect().await, peer());
    let _registration = register(&*system, &peer).await.expect("registered");
    let peers = peers_of(&*system);
    let ids: Vec<_> = std::iter::repeat_n(peer.worker_id(), 3).collect();
    for polls in 0..30 {
        let finished = [
            dropped_after(polls, peers.discover_by_worker_id(peer.worker_id())).await,
            dropped_after(polls, peers.discover_by_instance_id(peer.instance_id())).await,
            dropped_after(polls, peers.discover_many(&ids)).await,
        ];
        if finished.iter().all(|finished| *finished) {
            break;
        }
    }
    let again = timeout(CALL_DEADLINE, peers.discover_by_worker_id(peer.worker_id())).await;
    assert_eq!(again.expect("nothing is stuck").expect("found"), peer);
    // As many as could have been leaked by the drops above, and more.
    let lookups = (0..200).map(|_| peers.discover_by_worker_id(peer.worker_id()));
    let all = timeout(Duration::from_secs(10), join_all(lookups))
        .await
        .expect("nothing is stuck");
    assert!(all.iter().all(Result::is_ok));
}

async fn lookups_that_were_dropped_while_they_waited_leave_nothing_behind(ctx: Ctx) {
    let ((faulty, system), peer) = (ctx.faulty().await, peer());
    let _planted = ctx.plant_peer(&peer).await;
    let peers = peers_of(&*system);
    faulty.set(Mode::Freeze);
    for polls in 0..600 {
        let polls = 1 + polls % 3;
        let finished = [
            dropped_after(polls, peers.discover_by_worker_id(peer.worker_id())).await,
            dropped_after(polls, peers.discover_by_instance_id(peer.instance_id())).await,
            dropped_after(polls, peers.discover_many(&[peer.worker_id(); 3])).await,
            dropped_after(polls, peers.watch().expect("a list").list_peers()).await,
        ];
        assert!(!finished.contains(&true), "nobody answered");
    }
    faulty.set(Mode::Pass);
    let lookups = async {
        let found = [
            peers.discover_by_worker_id(peer.worker_id()).await,
            peers.discover_by_instance_id(peer.instance_id()).await,
            peers.discover_many(&[peer.worker_id()]).await.remove(0),
        ];
        for found in found {
            assert_eq!(found.expect("found"), peer);
        }
        let listed = peers.watch().expect("a list").list_peers().await;
        assert_eq!(listed.expect("listed"), from_ref(&peer));
    };
    timeout(CALL_DEADLINE * 2, lookups)
        .await
        .expect("nothing is stuck");
}

/// Polls a future at most so many times, then drops it; whether it had finished.
async fn dropped_after<T>(polls: usize, future: impl Future<Output = T>) -> bool {
    let mut future = pin!(future);
    for _ in 0..polls {
        let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if polled.is_ready() {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

async fn a_thousand_lookups_at_once_are_answered(ctx: Ctx) {
    let (system, peer) = (ctx.connect().await, peer());
    let _registration = register(&*system, &peer).await.expect("registered");
    ctx.found_within(ctx.propagation(), &peer).await;
    let peers: Arc<dyn PeerDiscovery> = peers_of(&*system);
    let before = ctx.backend.connections();
    let lookups = (0..1_000).map(|_| {
        let (peers, peer) = (peers.clone(), peer.clone());
        tokio::spawn(async move { peers.discover_by_worker_id(peer.worker_id()).await })
    });
    let lookups: Vec<_> = lookups.collect();
    let answers = timeout(Duration::from_secs(20), join_all(lookups))
        .await
        .expect("answered");
    let failed = answers
        .into_iter()
        .filter_map(|answer| answer.expect("no panic").err())
        .next();
    assert!(failed.is_none(), "{failed:?}");
    if let (Some(before), Some(after)) = (before, ctx.backend.connections()) {
        assert!(after <= before + 64, "{after} connections, {before} before");
    }
}

async fn a_lookup_that_waits_holds_up_no_other(ctx: Ctx) {
    let (faulty, system) = ctx.faulty().await;
    let (peers, unknown) = (peers_of(&*system), peer());
    faulty.set(Mode::Stall);
    let lookups = (0..300).map(|at| {
        let (peers, unknown) = (peers.clone(), unknown.clone());
        async move {
            match at % 3 {
                0 => peers.discover_by_worker_id(unknown.worker_id()).await,
                1 => peers.discover_by_instance_id(unknown.instance_id()).await,
                _ => peers.discover_many(&[unknown.worker_id()]).await.remove(0),
            }
        }
    });
    // They wait side by side, not one after the other.
    let answers = timeout(CALL_DEADLINE * 2, join_all(lookups))
        .await
        .expect("in time");
    for answer in answers {
        let error = answer.expect_err("nobody answered");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    }
    assert_eq!(faulty.calls(), 300);
}

async fn a_batch_answers_every_id_with_one_call(ctx: Ctx) {
    let (faulty, system) = ctx.faulty().await;
    let (known, unknown, broken) = ([peer(), peer(), peer()], peer(), peer());
    let mut planted = Vec::new();
    for peer in &known {
        planted.push(ctx.plant_peer(peer).await);
    }
    let _broken = ctx.plant(&ctx.key(&broken), "not json").await;
    let asked = [&known[2], &unknown, &known[0], &broken, &known[1], &known[2]];
    let ids: Vec<_> = asked.iter().map(|peer| peer.worker_id()).collect();
    let before = faulty.calls();
    let answers = peers_of(&*system).discover_many(&ids).await;
    assert_eq!(faulty.calls() - before, 1, "calls");
    assert_eq!(answers.len(), ids.len());
    for (peer, answer) in asked.into_iter().zip(answers) {
        match answer {
            Ok(found) => assert_eq!(found, *peer),
            Err(error) if peer == &unknown => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
            Err(error) if peer == &broken => assert_eq!(error.kind(), ErrorKind::Malformed, "{error}"),
            Err(error) => panic!("{peer:?}: {error}"),
        }
    }
    assert!(peers_of(&*system).discover_many(&[]).await.is_empty());
}
