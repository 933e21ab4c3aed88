//! The manager over the backend's systems: M1 to M4, M6 to M8, M11, M13.

use std::{
    panic::{self, AssertUnwindSafe},
    slice::from_ref,
    sync::Arc,
    thread,
    time::Duration,
};

use discovery_core::{
    ErrorKind, PeerInfo,
    peer::{PeerDiscovery, RegistrationState, manager::PeerDiscoveryManager},
};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::scripted::{Act, Scripted};
use crate::{
    Fault,
    trial::{Ctx, colliding, eventually, is_absent, peer, peers_of, register, trials},
};

trials! { "manager":
    "M1" construction_registers_in_every_source [Register];
    "M1" a_source_that_refuses_rolls_the_others_back_and_is_named [Register];
    "M2" ten_thousand_lookups_of_a_missing_key_are_one_call [];
    "M2" lookups_of_distinct_keys_reach_a_source_a_bounded_number_at_once [];
    "M3" cancelling_the_first_caller_affects_no_other [];
    "M3" a_late_caller_inherits_no_old_deadline [];
    "M4" errors_are_not_kept_and_not_found_only_briefly [];
    "M4" what_only_some_sources_could_say_is_not_kept [];
    "M6" not_found_means_that_every_source_said_so [];
    "M7" a_wrong_answer_is_dropped_counted_and_a_failure [];
    "M7" a_wrong_answer_in_a_batch_is_dropped_counted_and_a_failure [];
    "M8" entries_expire [];
    "M8" a_reported_peer_leaves_at_once [];
    "M8" a_full_manager_admits_newcomers [];
    "M8" the_local_peer_stays_until_superseded [Register];
    "M11" shutdown_unregisters_everywhere_and_closes [Register];
    "M11" shutdown_ends_within_its_deadline_when_nobody_answers [Register];
    "M11" dropping_the_manager_unregisters [Register];
    "M11" dropping_the_manager_outside_a_runtime_or_in_a_panic_is_harmless [Register] real_time;
    "M13" no_answer_begun_before_a_report_is_given_or_kept_after_it [];
    "M13" what_was_kept_before_a_report_is_asked_for_again [];
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

async fn lookups_of_distinct_keys_reach_a_source_a_bounded_number_at_once(ctx: Ctx) {
    let [source] = sources(&ctx).await;
    source.act(Act::NotFound);
    source.delay(Duration::from_millis(5));
    let builder = PeerDiscoveryManager::builder().source(source.clone());
    let manager = builder.source_deadline(Duration::from_secs(60)).build().await;
    let manager = Arc::new(manager.expect("a manager"));
    let lookups = (0..10_000).map(|_| {
        let manager = manager.clone();
        tokio::spawn(async move { manager.discover_by_worker_id(peer().worker_id()).await })
    });
    let lookups: Vec<_> = lookups.collect();
    for outcome in join_all(lookups).await {
        let error = outcome.expect("no panic").expect_err("unknown");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    assert_eq!(source.calls(), 10_000);
    let most = source.most_at_once();
    assert!((2..=1_000).contains(&most), "{most} calls at once");
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
    let kinds = [
        ErrorKind::Unavailable,
        ErrorKind::Timeout,
        ErrorKind::RateLimited,
        ErrorKind::PermissionDenied,
        ErrorKind::Malformed,
        ErrorKind::Unexpected,
    ];
    for kind in kinds {
        source.act(Act::Fail(kind));
        for _ in 0..2 {
            let before = source.calls();
            let error = manager.discover_by_worker_id(id).await.expect_err("as scripted");
            assert_eq!(error.kind(), kind, "{error}");
            assert_eq!(source.calls(), before + 1, "an error was kept");
        }
    }
    let before = source.calls();
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
    assert_eq!(source.calls(), before + 1, "not found is kept for a moment");
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

async fn what_only_some_sources_could_say_is_not_kept(ctx: Ctx) {
    let sources: [_; 2] = sources(&ctx).await;
    let manager = manager(None, &sources).await;
    let asked = peer();
    sources[0].act(Act::NotFound);
    sources[1].act(Act::Fail(ErrorKind::Unavailable));
    for call in 1..=3 {
        let error = manager
            .discover_by_worker_id(asked.worker_id())
            .await
            .expect_err("as scripted");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert_eq!(sources[1].calls(), call, "an error was kept");
    }
    sources[1].act(Act::Give(asked.clone()));
    let found = manager.discover_by_worker_id(asked.worker_id()).await;
    assert_eq!(found.expect("now that it answers"), asked);
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
    sources[0].act(Act::Hang);
    sources[1].act(Act::Hang);
    for peer in [&one, &two] {
        let located = manager.locate_by_instance_id(peer.instance_id()).await;
        assert!(
            located.as_ref().is_ok_and(|found| found.peer == *peer) || located.is_err(),
            "{located:?} for {peer:?}"
        );
    }
}

async fn a_wrong_answer_in_a_batch_is_dropped_counted_and_a_failure(ctx: Ctx) {
    let sources: [_; 2] = sources(&ctx).await;
    let manager = manager(None, &sources).await;
    let (known, wrong) = (peer(), peer());
    let ids = [peer().worker_id(), known.worker_id()];
    sources[0].act(Act::Give(known.clone()));
    sources[1].act(Act::NotFound);
    let mut answers = manager.discover_many(&ids).await;
    assert_eq!(answers.pop().expect("two answers").expect("it fits"), known);
    let error = answers.pop().expect("two answers").expect_err("nobody knows it");
    assert_ne!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("source-0"), "{error}");
    let wrong_answers: Vec<_> = manager
        .wrong_answers()
        .into_iter()
        .map(|(_, count)| count)
        .collect();
    assert_eq!(wrong_answers, [1, 0]);
    // Of the second source, too.
    sources[0].act(Act::NotFound);
    sources[1].act(Act::Give(wrong));
    let error = manager
        .discover_by_worker_id(peer().worker_id())
        .await
        .expect_err("nobody knows it");
    assert_ne!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("source-1"), "{error}");
    let wrong_answers: Vec<_> = manager
        .wrong_answers()
        .into_iter()
        .map(|(_, count)| count)
        .collect();
    assert_eq!(wrong_answers, [1, 1]);
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
    let located = manager.locate_by_worker_id(id).await.expect("asked again");
    assert_eq!(located.peer, new);
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
    let mut all = Vec::new();
    for _ in 0..200 {
        let newcomer = peer();
        all.push(newcomer.worker_id());
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
    assert_eq!(source.calls(), 200);
    source.act(Act::NotFound);
    let answers = join_all(all.iter().map(|id| manager.discover_by_worker_id(*id))).await;
    let kept = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!((1..=10).contains(&kept), "{kept} of 200 are kept, 10 fit");
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
    let registration = manager.registrations().remove(0);
    ctx.fault(Fault::Stall).await;
    eventually(ctx.expiry() + ctx.recovery(), || async {
        registration.state() == RegistrationState::Suspect
    })
    .await;
    let found = manager.discover_by_worker_id(local.worker_id()).await;
    assert_eq!(found.expect("itself, whatever the backend does"), local);
    ctx.fault(Fault::Heal).await;
    ctx.found_within(ctx.recovery(), &local).await;
    ctx.delete(&local).await;
    let _planted = ctx.plant_peer(&successor).await;
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
    let (local, remote) = (peer(), peer());
    let sources: [_; 2] = sources(&ctx).await;
    let manager = manager(local.clone(), &sources).await;
    ctx.found_within(ctx.propagation(), &local).await;
    sources[0].act(Act::Give(remote.clone()));
    let found = manager.discover_by_worker_id(remote.worker_id()).await;
    assert_eq!(found.expect("found"), remote);
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
            .discover_by_worker_id(remote.worker_id())
            .await
            .expect_err("closed, although it is known"),
        manager
            .locate_by_worker_id(remote.worker_id())
            .await
            .expect_err("closed, although it is known"),
        manager
            .locate_by_instance_id(local.instance_id())
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

async fn dropping_the_manager_outside_a_runtime_or_in_a_panic_is_harmless(ctx: Ctx) {
    let (backend, how) = (ctx.backend.clone(), ctx.how());
    let dropping = thread::Builder::new()
        .name("trial M11".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build();
            let runtime = runtime.expect("a runtime");
            let local = peer();
            let make = || {
                runtime.block_on(async {
                    let system = backend.connect(&how).await.expect("connected");
                    let manager = PeerDiscoveryManager::new(local.clone(), [peers_of(&*system)]).await;
                    manager.expect("a manager")
                })
            };
            drop(make());
            let in_panic = make();
            let panicked = panic::catch_unwind(AssertUnwindSafe(|| {
                let _held = in_panic;
                panic!("as planned");
            }));
            assert!(panicked.is_err());
            let unheard = make();
            runtime.block_on(backend.fault(Fault::Stall));
            let begun = Instant::now();
            drop(unheard);
            assert!(
                begun.elapsed() < Duration::from_secs(1),
                "blocked by a silent backend"
            );
            runtime.block_on(backend.fault(Fault::Heal));
            let last = make();
            runtime.shutdown_timeout(Duration::from_millis(100));
            drop(last);
            local
        });
    let local = tokio::task::spawn_blocking(|| dropping.expect("a thread").join())
        .await
        .expect("joined")
        .expect("no panic but the planned one");
    ctx.gone_within(ctx.expiry() + ctx.ttl(), &local).await;
}

/// Every order of two answers and a report, with every pair of answers, for either question.
async fn no_answer_begun_before_a_report_is_given_or_kept_after_it(ctx: Ctx) {
    let (old, new) = (
        colliding(0, "tcp://127.0.0.1:1"),
        colliding(1, "tcp://127.0.0.1:2"),
    );
    let firsts = [Act::Give(old.clone()), Act::NotFound];
    let seconds = [
        Act::Give(new.clone()),
        Act::NotFound,
        Act::Fail(ErrorKind::Unavailable),
    ];
    for first in &firsts {
        for second in &seconds {
            for old_lands_first in [true, false] {
                for by_instance in [false, true] {
                    answers_around_a_report(&ctx, &old, first, second, old_lands_first, by_instance).await;
                }
            }
        }
    }
}

async fn what_was_kept_before_a_report_is_asked_for_again(ctx: Ctx) {
    let asked = peer();
    for first in [Act::Give(asked.clone()), Act::NotFound] {
        for by_instance in [false, true] {
            let [source] = sources(&ctx).await;
            let manager = manager(None, from_ref(&source)).await;
            let lookup = || async {
                match by_instance {
                    true => manager.discover_by_instance_id(asked.instance_id()).await,
                    false => manager.discover_by_worker_id(asked.worker_id()).await,
                }
            };
            let found = matches!(first, Act::Give(_));
            source.act(first.clone());
            assert_eq!(lookup().await.is_ok(), found);
            assert_eq!(lookup().await.is_ok(), found);
            assert_eq!(source.calls(), 1, "{first:?} is kept");
            source.act(match found {
                true => Act::NotFound,
                false => Act::Give(asked.clone()),
            });
            manager.report_unreachable(asked.instance_id());
            assert_eq!(lookup().await.is_ok(), !found, "{first:?} outlived a report");
            assert_eq!(source.calls(), 2);
        }
    }
}

async fn answers_around_a_report(
    ctx: &Ctx,
    old: &PeerInfo,
    first: &Act,
    second: &Act,
    old_lands_first: bool,
    by_instance: bool,
) {
    // The successor does not answer for the instance that was reported.
    let second = match second {
        Act::Give(_) if by_instance => &Act::Give(old.clone()),
        second => second,
    };
    let [source] = sources(ctx).await;
    let manager = Arc::new(manager(None, from_ref(&source)).await);
    let lookup = || {
        let (manager, old) = (manager.clone(), old.clone());
        tokio::spawn(async move {
            match by_instance {
                true => manager.discover_by_instance_id(old.instance_id()).await,
                false => manager.discover_by_worker_id(old.worker_id()).await,
            }
        })
    };
    let (first_gate, second_gate) = (source.gate(), source.gate());
    let before = lookup();
    eventually(SOURCE_DEADLINE / 2, || async { source.calls() == 1 }).await;
    manager.report_unreachable(old.instance_id());
    let after = lookup();
    eventually(SOURCE_DEADLINE / 2, || async { source.calls() == 2 }).await;
    let mut gates = [(first_gate, first.clone()), (second_gate, second.clone())];
    if !old_lands_first {
        gates.reverse();
    }
    let mut joined = None;
    for (gate, act) in gates {
        gate.send(act).expect("the call waits");
        sleep(Duration::from_millis(20)).await;
        // Who comes in between waits for what was asked after the report.
        if old_lands_first && joined.is_none() {
            joined = Some(lookup());
            tokio::task::yield_now().await;
        }
    }
    let case = format!("{first:?}, {second:?}, {old_lands_first}, {by_instance}");
    let answer = |act: &Act| match act {
        Act::Give(peer) => Ok(peer.clone()),
        Act::Fail(kind) => Err(*kind),
        _ => Err(ErrorKind::NotFound),
    };
    let given = before.await.expect("no panic").map_err(|error| error.kind());
    assert_eq!(given, answer(first), "not its own answer: {case}");
    let given = after.await.expect("no panic").map_err(|error| error.kind());
    assert_eq!(
        given,
        answer(second),
        "an old answer was given after the report: {case}"
    );
    if let Some(joined) = joined {
        let given = joined.await.expect("no panic").map_err(|error| error.kind());
        assert_eq!(given, answer(second), "{case}");
        assert_eq!(source.calls(), 2, "a third call: {case}");
    }
    source.act(second.clone());
    let kept = lookup().await.expect("no panic").map_err(|error| error.kind());
    assert_eq!(
        kept,
        answer(second),
        "an old answer was kept after the report: {case}"
    );
}
