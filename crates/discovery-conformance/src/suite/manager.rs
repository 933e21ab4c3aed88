//! The manager over the backend's systems: M1 to M4, M6 to M8, M11, M13.

use std::{slice::from_ref, sync::Arc, time::Duration};

use discovery_core::{
    ErrorKind, PeerInfo,
    peer::{PeerDiscovery, RegistrationState, manager::PeerDiscoveryManager},
};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::scripted::{Act, Scripted};
use crate::{
    Fault,
    trial::{Ctx, colliding, eventually, is_absent, peer, register, trials},
};

trials! { "manager":
    "M1" construction_registers_in_every_source [Register];
    "M1" a_source_that_refuses_rolls_the_others_back_and_is_named [Register];
    "M2" ten_thousand_lookups_of_a_missing_key_are_one_call [];
    "M3" cancelling_the_first_caller_affects_no_other [];
    "M3" a_late_caller_inherits_no_old_deadline [];
    "M4" errors_are_not_kept_and_not_found_only_briefly [];
    "M6" not_found_means_that_every_source_said_so [];
    "M7" a_wrong_answer_is_dropped_counted_and_a_failure [];
    "M8" entries_expire [];
    "M8" a_reported_peer_leaves_at_once [];
    "M8" a_full_manager_admits_newcomers [];
    "M8" the_local_peer_stays_until_superseded [Register];
    "M11" shutdown_unregisters_everywhere_and_closes [Register];
    "M11" shutdown_ends_within_its_deadline_when_nobody_answers [Register];
    "M11" dropping_the_manager_unregisters [Register];
    "M13" no_answer_begun_before_a_report_is_given_or_kept_after_it [];
}

const FRESH: Duration = Duration::from_secs(2);
const SOURCE_DEADLINE: Duration = Duration::from_secs(1);

/// Scripted sources in front of the backend, each over a connection of its own.
async fn sources<const N: usize>(ctx: &Ctx) -> [Arc<Scripted>; N] {
    let mut sources = Vec::new();
    for at in 0..N {
        sources.push(Scripted::new(&format!("source-{at}"), ctx.peers().await));
    }
    sources.try_into().expect("as many as asked")
}

async fn manager(local: impl Into<Option<PeerInfo>>, sources: &[Arc<Scripted>]) -> PeerDiscoveryManager {
    let sources = sources
        .iter()
        .map(|source| source.clone() as Arc<dyn PeerDiscovery>);
    let builder = PeerDiscoveryManager::builder().local_peer(local).sources(sources);
    builder
        .fresh_for(FRESH)
        .source_deadline(SOURCE_DEADLINE)
        .build()
        .await
        .expect("a manager")
}

async fn construction_registers_in_every_source(ctx: Ctx) {
    let local = peer();
    let sources: [_; 2] = sources(&ctx).await;
    let manager = manager(local.clone(), &sources).await;
    assert_eq!(
        manager
            .discover_by_worker_id(local.worker_id())
            .await
            .expect("itself"),
        local
    );
    assert_eq!(
        manager
            .discover_by_instance_id(local.instance_id())
            .await
            .expect("itself"),
        local
    );
    assert_eq!(
        sources[0].calls() + sources[1].calls(),
        0,
        "the local peer needs no call"
    );
    ctx.found_within(ctx.propagation(), &local).await;
    let states: Vec<_> = manager
        .registrations()
        .iter()
        .map(|registration| registration.state())
        .collect();
    assert_eq!(states, [RegistrationState::Live; 2]);
}

async fn a_source_that_refuses_rolls_the_others_back_and_is_named(ctx: Ctx) {
    let local = peer();
    let sources: [_; 3] = sources(&ctx).await;
    sources[1].refuse_registration(ErrorKind::PermissionDenied);
    let all = sources
        .iter()
        .map(|source| source.clone() as Arc<dyn PeerDiscovery>);
    let error = PeerDiscoveryManager::new(local.clone(), all)
        .await
        .expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(
        error.to_string().contains("source-1"),
        "{error} does not name the source"
    );
    assert!(is_absent(&*ctx.peers().await, &local).await, "not rolled back");
    let peers = ctx.peers().await;
    ctx.stays(ctx.ttl(), "it came back", || is_absent(&*peers, &local))
        .await;
}

async fn ten_thousand_lookups_of_a_missing_key_are_one_call(ctx: Ctx) {
    let sources: [_; 2] = sources(&ctx).await;
    let manager = Arc::new(manager(None, &sources).await);
    for source in &sources {
        source.delay(Duration::from_millis(100));
    }
    let unknown = peer().worker_id();
    let lookups = (0..10_000).map(|_| {
        let manager = manager.clone();
        tokio::spawn(async move { manager.discover_by_worker_id(unknown).await })
    });
    let lookups: Vec<_> = lookups.collect();
    for outcome in join_all(lookups).await {
        let error = outcome.expect("no panic").expect_err("unknown");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    assert_eq!((sources[0].calls(), sources[1].calls()), (1, 1));
}

async fn cancelling_the_first_caller_affects_no_other(ctx: Ctx) {
    let [source] = sources(&ctx).await;
    let manager = Arc::new(manager(None, from_ref(&source)).await);
    let asked = peer();
    let gate = source.gate();
    let lookup = || {
        let (manager, id) = (manager.clone(), asked.worker_id());
        tokio::spawn(async move { manager.discover_by_worker_id(id).await })
    };
    let first = lookup();
    eventually(SOURCE_DEADLINE / 2, || async { source.calls() == 1 }).await;
    let second = lookup();
    tokio::task::yield_now().await;
    first.abort();
    assert!(first.await.is_err_and(|error| error.is_cancelled()));
    let third = lookup();
    tokio::task::yield_now().await;
    gate.send(Act::Give(asked.clone())).expect("the call still waits");
    for waiting in [second, third] {
        let found = timeout(SOURCE_DEADLINE, waiting)
            .await
            .expect("in time")
            .expect("no panic");
        assert_eq!(found.expect("found"), asked);
    }
    assert_eq!(source.calls(), 1);
}

async fn a_late_caller_inherits_no_old_deadline(ctx: Ctx) {
    let [source] = sources(&ctx).await;
    let manager = Arc::new(manager(None, from_ref(&source)).await);
    let asked = peer();
    let _hangs = source.gate();
    let early = {
        let (manager, id) = (manager.clone(), asked.worker_id());
        tokio::spawn(async move { manager.discover_by_worker_id(id).await })
    };
    eventually(SOURCE_DEADLINE / 2, || async { source.calls() == 1 }).await;
    sleep(SOURCE_DEADLINE * 7 / 10).await;
    source.act(Act::Give(asked.clone()));
    let begun = Instant::now();
    let late = manager.discover_by_worker_id(asked.worker_id()).await;
    assert_eq!(late.expect("its own time was not up"), asked);
    assert!(
        begun.elapsed() < SOURCE_DEADLINE + Duration::from_millis(500),
        "{:?}",
        begun.elapsed()
    );
    let error = early.await.expect("no panic").expect_err("its time was up");
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert_eq!(source.calls(), 2);
}

async fn errors_are_not_kept_and_not_found_only_briefly(ctx: Ctx) {
    let [source] = sources(&ctx).await;
    let manager = manager(None, from_ref(&source)).await;
    let asked = peer();
    let id = asked.worker_id();
    source.act(Act::Fail(ErrorKind::Unavailable));
    for call in 1..=3 {
        let error = manager.discover_by_worker_id(id).await.expect_err("as scripted");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert_eq!(source.calls(), call, "an error was kept");
    }
    source.act(Act::NotFound);
    for _ in 0..3 {
        assert_eq!(
            manager
                .discover_by_worker_id(id)
                .await
                .expect_err("scripted")
                .kind(),
            ErrorKind::NotFound
        );
    }
    assert_eq!(source.calls(), 4, "not found is kept for a moment");
    source.act(Act::Give(asked.clone()));
    sleep(Duration::from_millis(1_100)).await;
    assert_eq!(
        manager
            .discover_by_worker_id(id)
            .await
            .expect("no longer than a second"),
        asked
    );
}

async fn not_found_means_that_every_source_said_so(ctx: Ctx) {
    let acts = [
        Act::NotFound,
        Act::Fail(ErrorKind::Unavailable),
        Act::Fail(ErrorKind::RateLimited),
        Act::Hang,
    ];
    for first in &acts {
        for second in &acts {
            let sources: [_; 2] = sources(&ctx).await;
            sources[0].act(first.clone());
            sources[1].act(second.clone());
            let manager = manager(None, &sources).await;
            let begun = Instant::now();
            let error = manager
                .discover_by_worker_id(peer().worker_id())
                .await
                .expect_err("nobody finds it");
            assert!(
                begun.elapsed() < SOURCE_DEADLINE * 2 + Duration::from_millis(500),
                "{:?}",
                begun.elapsed()
            );
            let kinds: Vec<_> = [first, second].into_iter().filter_map(failure).collect();
            let expected = match kinds.as_slice() {
                [] => ErrorKind::NotFound,
                [kind, rest @ ..] if rest.iter().all(|other| other == kind) => *kind,
                _ => ErrorKind::Unavailable,
            };
            assert_eq!(error.kind(), expected, "{first:?}, {second:?}: {error}");
            for (at, act) in [first, second].into_iter().enumerate() {
                let named = error.to_string().contains(&format!("source-{at}"));
                assert_eq!(named, failure(act).is_some(), "{first:?}, {second:?}: {error}");
            }
        }
    }
}

fn failure(act: &Act) -> Option<ErrorKind> {
    match act {
        Act::Fail(kind) => Some(*kind),
        Act::Hang => Some(ErrorKind::Timeout),
        _ => None,
    }
}

async fn a_wrong_answer_is_dropped_counted_and_a_failure(ctx: Ctx) {
    let sources: [_; 2] = sources(&ctx).await;
    let manager = manager(None, &sources).await;
    let (asked, wrong) = (peer(), peer());
    sources[0].act(Act::Give(wrong.clone()));
    sources[1].act(Act::NotFound);
    let error = manager
        .discover_by_worker_id(asked.worker_id())
        .await
        .expect_err("nobody knows it");
    assert_ne!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("source-0"), "{error}");
    assert_eq!(manager.wrong_answers()[0].1, 1);
    sources[1].act(Act::Give(asked.clone()));
    assert_eq!(
        manager
            .discover_by_instance_id(asked.instance_id())
            .await
            .expect("the other knows it"),
        asked
    );
    // The wrong answer was not kept for the peer that it names, either.
    sources[0].act(Act::NotFound);
    sources[1].act(Act::NotFound);
    let error = manager
        .discover_by_worker_id(wrong.worker_id())
        .await
        .expect_err("nobody knows it");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    // Another instance under the same worker id does not answer for this one.
    let (one, two) = (
        colliding(0, "tcp://127.0.0.1:1"),
        colliding(1, "tcp://127.0.0.1:2"),
    );
    sources[0].act(Act::Give(one.clone()));
    sources[1].act(Act::Give(two.clone()));
    assert_eq!(
        manager
            .discover_by_worker_id(one.worker_id())
            .await
            .expect("the first one"),
        one
    );
    assert_eq!(
        manager
            .discover_by_instance_id(two.instance_id())
            .await
            .expect("the second one"),
        two
    );
}

async fn entries_expire(ctx: Ctx) {
    let [source] = sources(&ctx).await;
    let manager = manager(None, from_ref(&source)).await;
    let (old, new) = (
        colliding(0, "tcp://127.0.0.1:1"),
        colliding(1, "tcp://127.0.0.1:2"),
    );
    let id = old.worker_id();
    source.act(Act::Give(old.clone()));
    assert_eq!(manager.discover_by_worker_id(id).await.expect("found"), old);
    source.act(Act::Give(new.clone()));
    sleep(FRESH / 2).await;
    assert_eq!(manager.discover_by_worker_id(id).await.expect("still fresh"), old);
    assert_eq!(source.calls(), 1);
    sleep(FRESH / 2 + Duration::from_millis(200)).await;
    assert_eq!(manager.discover_by_worker_id(id).await.expect("asked again"), new);
}

async fn a_reported_peer_leaves_at_once(ctx: Ctx) {
    let [source] = sources(&ctx).await;
    let manager = manager(None, from_ref(&source)).await;
    let (asked, other) = (
        colliding(0, "tcp://127.0.0.1:1"),
        colliding(1, "tcp://127.0.0.1:2"),
    );
    source.act(Act::Give(asked.clone()));
    assert_eq!(
        manager
            .discover_by_worker_id(asked.worker_id())
            .await
            .expect("found"),
        asked
    );
    source.act(Act::NotFound);
    manager.report_unreachable(other.instance_id());
    assert_eq!(
        manager
            .discover_by_worker_id(asked.worker_id())
            .await
            .expect("another was reported"),
        asked
    );
    manager.report_unreachable(asked.instance_id());
    let error = manager
        .discover_by_worker_id(asked.worker_id())
        .await
        .expect_err("it left");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    source.act(Act::Give(asked.clone()));
    manager.report_unreachable(asked.instance_id());
    let found = manager.discover_by_worker_id(asked.worker_id()).await;
    assert_eq!(found.expect("a report also ends a kept \"not found\""), asked);
}

async fn a_full_manager_admits_newcomers(ctx: Ctx) {
    let [source] = sources(&ctx).await;
    let builder = PeerDiscoveryManager::builder()
        .source(source.clone())
        .capacity(10);
    let manager = builder
        .fresh_for(Duration::from_secs(3_600))
        .build()
        .await
        .expect("a manager");
    for _ in 0..200 {
        let newcomer = peer();
        source.act(Act::Give(newcomer.clone()));
        assert_eq!(
            manager
                .discover_by_worker_id(newcomer.worker_id())
                .await
                .expect("found"),
            newcomer
        );
        source.act(Act::Fail(ErrorKind::Unavailable));
        assert_eq!(
            manager
                .discover_by_worker_id(newcomer.worker_id())
                .await
                .expect("admitted"),
            newcomer
        );
    }
    // Of 200, at most 10 are kept.
    assert_eq!(source.calls(), 200);
}

async fn the_local_peer_stays_until_superseded(ctx: Ctx) {
    let (local, successor) = (
        colliding(0, "tcp://127.0.0.1:1"),
        colliding(1, "tcp://127.0.0.1:2"),
    );
    let [source] = sources(&ctx).await;
    let manager = manager(local.clone(), from_ref(&source)).await;
    manager.report_unreachable(local.instance_id());
    sleep(FRESH * 2).await;
    assert_eq!(
        manager
            .discover_by_worker_id(local.worker_id())
            .await
            .expect("itself"),
        local
    );
    assert_eq!(source.calls(), 0);
    ctx.delete(&local).await;
    let _planted = ctx.plant_peer(&successor).await;
    let registration = manager.registrations().remove(0);
    eventually(ctx.recovery(), || async {
        registration.state() == RegistrationState::Superseded
    })
    .await;
    assert_eq!(
        manager
            .discover_by_worker_id(local.worker_id())
            .await
            .expect("its successor"),
        successor
    );
    let error = manager
        .discover_by_instance_id(local.instance_id())
        .await
        .expect_err("superseded");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

async fn shutdown_unregisters_everywhere_and_closes(ctx: Ctx) {
    let local = peer();
    let sources: [_; 2] = sources(&ctx).await;
    let manager = manager(local.clone(), &sources).await;
    ctx.found_within(ctx.propagation(), &local).await;
    for _ in 0..2 {
        manager.shutdown(Duration::from_secs(5)).await.expect("shut down");
    }
    ctx.gone_within(ctx.propagation(), &local).await;
    for error in [
        manager
            .discover_by_worker_id(local.worker_id())
            .await
            .expect_err("closed"),
        manager
            .discover_by_instance_id(peer().instance_id())
            .await
            .expect_err("closed"),
        manager
            .discover_many(&[peer().worker_id()])
            .await
            .remove(0)
            .expect_err("closed"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    }
}

async fn shutdown_ends_within_its_deadline_when_nobody_answers(ctx: Ctx) {
    let sources: [_; 2] = sources(&ctx).await;
    let manager = Arc::new(manager(peer(), &sources).await);
    let hanging = {
        sources[0].act(Act::Hang);
        let (manager, unknown) = (manager.clone(), peer().worker_id());
        tokio::spawn(async move { manager.discover_by_worker_id(unknown).await })
    };
    eventually(SOURCE_DEADLINE / 2, || async { sources[0].calls() == 1 }).await;
    ctx.fault(Fault::Stall).await;
    let (begun, deadline) = (Instant::now(), Duration::from_millis(500));
    let error = manager.shutdown(deadline).await.expect_err("nobody confirmed");
    assert!(
        matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable),
        "{error}"
    );
    assert!(
        begun.elapsed() < deadline + Duration::from_millis(500),
        "after {:?}",
        begun.elapsed()
    );
    let error = hanging.await.expect("no panic").expect_err("closed");
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    ctx.fault(Fault::Heal).await;
}

async fn dropping_the_manager_unregisters(ctx: Ctx) {
    let local = peer();
    let sources: [_; 2] = sources(&ctx).await;
    let manager = manager(local.clone(), &sources).await;
    ctx.found_within(ctx.propagation(), &local).await;
    drop(manager);
    ctx.gone_within(ctx.recovery(), &local).await;
    let system = ctx.connect().await;
    let again = register(&*system, &local)
        .await
        .expect("nothing stands in the way");
    drop(again);
}

/// Every order of two answers and a report, with every pair of answers.
async fn no_answer_begun_before_a_report_is_given_or_kept_after_it(ctx: Ctx) {
    let (old, new) = (
        colliding(0, "tcp://127.0.0.1:1"),
        colliding(1, "tcp://127.0.0.1:2"),
    );
    let seconds = [
        Act::Give(new.clone()),
        Act::NotFound,
        Act::Fail(ErrorKind::Unavailable),
    ];
    for second in seconds {
        for old_lands_first in [true, false] {
            let [source] = sources(&ctx).await;
            let manager = Arc::new(manager(None, from_ref(&source)).await);
            let lookup = || {
                let (manager, id) = (manager.clone(), old.worker_id());
                tokio::spawn(async move { manager.discover_by_worker_id(id).await })
            };
            let (first_gate, second_gate) = (source.gate(), source.gate());
            let before = lookup();
            eventually(SOURCE_DEADLINE / 2, || async { source.calls() == 1 }).await;
            manager.report_unreachable(old.instance_id());
            let after = lookup();
            eventually(SOURCE_DEADLINE / 2, || async { source.calls() == 2 }).await;
            let mut gates = [
                (first_gate, Act::Give(old.clone())),
                (second_gate, second.clone()),
            ];
            if !old_lands_first {
                gates.reverse();
            }
            for (gate, act) in gates {
                gate.send(act).expect("the call waits");
                sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(before.await.expect("no panic").expect("its own answer"), old);
            let given = after.await.expect("no panic");
            assert_ne!(
                given.as_ref().ok(),
                Some(&old),
                "an old answer was given after the report"
            );
            source.act(second.clone());
            let kept = manager.discover_by_worker_id(old.worker_id()).await;
            assert_ne!(
                kept.as_ref().ok(),
                Some(&old),
                "an old answer was kept after the report"
            );
            assert_eq!(kept.is_ok(), matches!(second, Act::Give(_)), "{kept:?}");
        }
    }
}
