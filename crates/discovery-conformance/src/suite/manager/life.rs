//! The local peer, and the end: M1, M8, M11.

use std::{
    panic::{self, AssertUnwindSafe},
    slice::from_ref,
    sync::Arc,
    thread,
    time::Duration,
};

use discovery_core::{
    Cluster, ErrorKind,
    peer::{PeerDiscovery, RegistrationState, manager::PeerDiscoveryManager},
};
use tokio::time::{Instant, sleep};

use super::{FRESH, SOURCE_DEADLINE, manager, sources};
use crate::suite::scripted::Act;
use crate::{
    Fault, Mode,
    trial::{Ctx, colliding, eventually, is_absent, peer, peers_of, register, trials},
};

trials! { "manager":
    "M1" construction_registers_in_every_source [Register];
    "M1" a_source_that_refuses_rolls_the_others_back_and_is_named [Register];
    "M8" the_local_peer_stays_until_superseded [Register];
    "M11" shutdown_unregisters_everywhere_and_closes [Register];
    "M11" shutdown_ends_within_its_deadline_when_nobody_answers [Register];
    "M11" shutdown_lets_no_source_wait_for_another [Register];
    "M11" dropping_the_manager_unregisters [Register];
    "M11" dropping_the_manager_outside_a_runtime_or_in_a_panic_is_harmless [Register] real_time;
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

async fn shutdown_lets_no_source_wait_for_another(ctx: Ctx) {
    let mut how = ctx.how();
    how.cluster = Cluster::try_new(format!("{}-other", ctx.cluster)).expect("a valid cluster");
    let [(silent, first), (silent_too, second)] = [ctx.faulty().await, ctx.faulty().await];
    let third = ctx.backend.connect(&how).await.expect("connected");
    let others = peers_of(&*ctx.backend.connect(&how).await.expect("connected"));
    let local = peer();
    let sources = [&first, &second, &third].map(|system| peers_of(&**system));
    let manager = PeerDiscoveryManager::new(local.clone(), sources).await;
    let manager = Arc::new(manager.expect("a manager"));
    silent.set(Mode::Stall);
    silent_too.set(Mode::Stall);
    let deadline = Duration::from_secs(1);
    let second_caller = {
        let manager = manager.clone();
        tokio::spawn(async move { manager.shutdown(deadline).await })
    };
    for outcome in [
        manager.shutdown(deadline).await,
        second_caller.await.expect("no panic"),
    ] {
        let error = outcome.expect_err("not everybody confirmed");
        assert!(
            matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable),
            "{error}"
        );
    }
    assert!(
        is_absent(&*others, &local).await,
        "not unregistered, although it answers"
    );
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
