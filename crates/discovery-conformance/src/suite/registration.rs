//! Registering: R1 to R3, R6.

use std::time::Duration;

use discovery_core::{ErrorKind, InstanceId, PeerInfo, RegistrationState, WorkerAddress};
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use crate::{
    Mode,
    trial::{Ctx, eventually, is_absent, peer, register, trials},
};

trials! { "registration":
    "R1" a_registered_peer_is_found_by_both_ids_at_its_address [Register];
    "R1" who_looked_too_early_finds_it_all_the_same [Register];
    "R2" success_means_that_the_backend_acknowledged [Register];
    "R2" an_answer_that_never_comes_is_no_success [Register];
    "R3" registering_again_is_one_registration [Register];
    "R3" a_killed_owner_may_register_again_at_once [Register];
    "R3" two_living_holders_do_not_take_the_record_from_each_other [Register];
    "R3" when_one_holder_leaves_the_other_has_the_record_back [Register];
    "R3" when_one_holder_is_killed_the_other_has_the_record_back [Register, Expiry];
    "R6" a_write_whose_answer_was_lost_is_recognised [Register];
}

async fn a_registered_peer_is_found_by_both_ids_at_its_address(ctx: Ctx) {
    let system = ctx.connect().await;
    let addresses: [&[u8]; 4] = [
        b"tcp://127.0.0.1:5555",
        b"\x00\xff\n\"",
        "grün".as_bytes(),
        &[b'x'; 4_096],
    ];
    for address in addresses {
        let peer = PeerInfo::new(InstanceId::new_v4(), WorkerAddress::from_bytes(address));
        let _registration = register(&*system, &peer).await.expect("registered");
        ctx.found_within(ctx.propagation(), &peer).await;
    }
}

async fn who_looked_too_early_finds_it_all_the_same(ctx: Ctx) {
    let (reader, system, peer) = (ctx.peers().await, ctx.connect().await, peer());
    assert!(is_absent(&*reader, &peer).await, "nobody registered it");
    let _registration = register(&*system, &peer).await.expect("registered");
    eventually(ctx.propagation(), || async {
        let by_worker = reader.discover_by_worker_id(peer.worker_id()).await;
        let by_instance = reader.discover_by_instance_id(peer.instance_id()).await;
        by_worker.is_ok_and(|found| found == peer) && by_instance.is_ok_and(|found| found == peer)
    })
    .await;
}

async fn success_means_that_the_backend_acknowledged(ctx: Ctx) {
    let (faulty, system) = ctx.faulty().await;
    let peer = peer();
    faulty.set(Mode::Stall);
    // The second one finds the first one under way.
    let registering = [(); 2].map(|()| {
        let (system, peer) = (system.clone(), peer.clone());
        tokio::spawn(async move { register(&*system, &peer).await })
    });
    sleep(Duration::from_millis(500)).await;
    for registering in &registering {
        assert!(!registering.is_finished(), "reported before the backend answered");
    }
    faulty.set(Mode::Pass);
    for registering in registering {
        let _registration = registering.await.expect("no panic").expect("registered");
        assert!(
            ctx.standing(&peer).await.is_some(),
            "reported, and nothing stands there"
        );
    }
}

async fn an_answer_that_never_comes_is_no_success(ctx: Ctx) {
    let (faulty, system) = ctx.faulty().await;
    // Another system has a session already: only the write itself goes unanswered.
    let (faulty_too, in_session) = ctx.faulty().await;
    let _other = register(&*in_session, &peer()).await.expect("registered");
    for mode in [Mode::Cut, Mode::Stall] {
        faulty.set(mode);
        faulty_too.set(mode);
        for outcome in join_all([&system, &in_session].map(|system| async move {
            timeout(Duration::from_secs(20), register(&**system, &peer())).await
        }))
        .await
        {
            let error = outcome.expect("bounded").expect_err("nobody answered");
            assert!(
                matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout),
                "{error}"
            );
        }
    }
    faulty.set(Mode::Pass);
    let peer = peer();
    let _registration = register(&*system, &peer)
        .await
        .expect("registered, now that it answers");
    ctx.found_within(ctx.propagation(), &peer).await;
}

async fn registering_again_is_one_registration(ctx: Ctx) {
    let (system, peer) = (ctx.connect().await, peer());
    let first = register(&*system, &peer).await.expect("registered");
    let before = ctx.standing(&peer).await.expect("it stands");
    let second = register(&*system, &peer).await.expect("registered again");
    assert_eq!(
        ctx.standing(&peer).await.expect("it stands").version,
        before.version,
        "written again"
    );
    let elsewhere = ctx.connect().await;
    let third = register(&*elsewhere, &peer)
        .await
        .expect("registered from elsewhere");
    assert_eq!(
        ctx.standing(&peer).await.expect("it stands").body,
        before.body,
        "the body changed"
    );
    drop(third);
    first.unregister().await.expect("one hold given up");
    ctx.found_within(ctx.recovery(), &peer).await;
    second.unregister().await.expect("the other hold given up");
    ctx.gone_within(ctx.recovery(), &peer).await;
    let peers = ctx.peers().await;
    ctx.stays(ctx.ttl() * 2, "kept without a holder", || {
        is_absent(&*peers, &peer)
    })
    .await;
}

async fn a_killed_owner_may_register_again_at_once(ctx: Ctx) {
    let peer = peer();
    let first = ctx.member(&peer).await;
    assert!(first.state().is_live(), "{:?}", first.state());
    first.kill();
    let second = timeout(ctx.ttl(), ctx.member(&peer))
        .await
        .expect("no waiting for the TTL");
    assert!(second.state().is_live(), "{:?}", second.state());
    let peers = ctx.peers().await;
    ctx.stays(
        ctx.expiry() + ctx.ttl(),
        "lost when the killed owner's time was up",
        || async { peers.discover_by_worker_id(peer.worker_id()).await.is_ok() },
    )
    .await;
}

async fn two_living_holders_do_not_take_the_record_from_each_other(ctx: Ctx) {
    let peer = peer();
    let (one, two) = (ctx.member(&peer).await, ctx.member(&peer).await);
    assert!(
        one.state().is_live() && two.state().is_live(),
        "{:?} {:?}",
        one.state(),
        two.state()
    );
    let writer = ctx.standing(&peer).await.expect("it stands").writer;
    ctx.stays(ctx.ttl() * 3, "a living holder lost it, or took it", || async {
        let same = ctx
            .standing(&peer)
            .await
            .is_some_and(|record| record.writer == writer);
        same && one.state().is_live() && two.state().is_live()
    })
    .await;
}

async fn when_one_holder_leaves_the_other_has_the_record_back(ctx: Ctx) {
    let peer = peer();
    for leaver in [0, 1] {
        let mut both = [ctx.member(&peer).await, ctx.member(&peer).await];
        both[leaver].leave().await;
        sleep(ctx.recovery()).await;
        let peers = ctx.peers().await;
        ctx.stays(ctx.ttl(), "the other holder did not bring it back", || async {
            peers.discover_by_instance_id(peer.instance_id()).await.is_ok()
        })
        .await;
        both[1 - leaver].leave().await;
        ctx.gone_within(ctx.recovery(), &peer).await;
    }
}

async fn when_one_holder_is_killed_the_other_has_the_record_back(ctx: Ctx) {
    let peer = peer();
    let (one, two) = (ctx.member(&peer).await, ctx.member(&peer).await);
    two.kill();
    sleep(ctx.expiry() + ctx.recovery()).await;
    ctx.found_within(Duration::ZERO, &peer).await;
    assert!(one.state().is_live(), "{:?}", one.state());
}

async fn a_write_whose_answer_was_lost_is_recognised(ctx: Ctx) {
    let (faulty, system) = ctx.faulty().await;
    let peer = peer();
    faulty.lose_answers(1);
    let registration = register(&*system, &peer)
        .await
        .expect("its own write is no obstacle");
    ctx.found_within(ctx.propagation(), &peer).await;
    let writer = ctx.standing(&peer).await.expect("it stands").writer;
    ctx.stays(ctx.ttl() * 2, "its own write was not recognised", || async {
        let same = ctx
            .standing(&peer)
            .await
            .is_some_and(|record| record.writer == writer);
        same && registration.state() == RegistrationState::Live
    })
    .await;
    assert_eq!(faulty.writes(), 1, "written again");
    registration.unregister().await.expect("unregistered");
    ctx.gone_within(ctx.propagation(), &peer).await;
}
