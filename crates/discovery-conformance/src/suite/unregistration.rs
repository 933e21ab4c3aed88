//! Unregistering: R7, R8.

use std::time::Duration;

use discovery_core::{ErrorKind, RegistrationState, peer::Registration};
use tokio::time::{sleep, timeout};

use crate::{
    Mode,
    trial::{Ctx, colliding, eventually, is_absent, peer, peers_of, register, trials},
};

trials! { "registration":
    "R7" unregistering_leaves_a_successor_alone [Register];
    "R7" unregistering_leaves_another_living_holder_alone [Register];
    "R7" unregistering_another_instance_leaves_the_holder_alone [Register];
    "R7" unregistering_what_is_gone_succeeds [Register];
    "R7" a_record_known_only_by_its_writer_is_removed [Register];
    "R8" an_unregistered_peer_is_gone_at_once [Register];
    "R8" unregistering_is_no_success_before_the_backend_confirmed [Register];
    "R8" the_last_one_is_not_unregistered_before_the_backend_confirmed [Register];
    "R8" what_is_leaving_is_not_unregistered_before_the_backend_confirmed [Register];
    "R8" what_is_unregistered_while_it_is_renewed_is_gone [Register];
    "R8" what_is_given_up_while_its_write_is_under_way_is_gone [Register];
}

async fn unregistering_leaves_a_successor_alone(ctx: Ctx) {
    for registrations in [1, 2] {
        let (faulty, system) = ctx.faulty().await;
        let (zombie, successor) = (
            colliding(0, "tcp://127.0.0.1:1"),
            colliding(1, "tcp://127.0.0.1:2"),
        );
        let bystander = peer();
        let registration = register(&*system, &zombie).await.expect("registered");
        let _other = match registrations {
            2 => Some(register(&*system, &bystander).await.expect("registered")),
            _ => None,
        };
        faulty.set(Mode::Freeze);
        ctx.delete(&zombie).await;
        let (_session, record) = ctx.plant_peer(&successor).await;
        let leaving = tokio::spawn(registration.unregister());
        faulty.set(Mode::Pass);
        leaving
            .await
            .expect("no panic")
            .expect("nothing of its own is left");
        let standing = ctx
            .standing(&successor)
            .await
            .expect("the successor's record survives");
        assert_eq!(
            (standing.version, standing.writer),
            (record.version, record.writer)
        );
        ctx.delete(&successor).await;
    }
}

async fn unregistering_leaves_another_living_holder_alone(ctx: Ctx) {
    let (peer, bystander) = (peer(), peer());
    let (faulty, system) = ctx.faulty().await;
    let _other = register(&*system, &bystander).await.expect("registered");
    let registration = register(&*system, &peer).await.expect("registered");
    let elsewhere = ctx.connect().await;
    let _keeps = register(&*elsewhere, &peer)
        .await
        .expect("registered from elsewhere");
    // It learns that the record is in other hands now.
    let before = faulty.renewals();
    eventually(ctx.ttl() * 2, || async { faulty.renewals() > before + 1 }).await;
    let record = ctx.standing(&peer).await.expect("it stands");
    registration.unregister().await.expect("unregistered");
    ctx.stays(ctx.ttl(), "the other holder's record was removed", || async {
        ctx.standing(&peer)
            .await
            .is_some_and(|standing| standing.version == record.version)
    })
    .await;
}

async fn unregistering_another_instance_leaves_the_holder_alone(ctx: Ctx) {
    let (holder, other) = (
        colliding(0, "tcp://127.0.0.1:1"),
        colliding(1, "tcp://127.0.0.1:2"),
    );
    let system = ctx.connect().await;
    let registration = register(&*system, &holder).await.expect("registered");
    let before = ctx.standing(&holder).await.expect("it stands");
    let unregistered = peers_of(&*system).unregister_instance(other.instance_id()).await;
    unregistered.expect("absent is success");
    ctx.stays(ctx.ttl(), "the holder was unregistered", || async {
        let same = ctx
            .standing(&holder)
            .await
            .is_some_and(|after| after.version == before.version);
        same && registration.state() == RegistrationState::Live
    })
    .await;
}

async fn unregistering_what_is_gone_succeeds(ctx: Ctx) {
    let (system, peer) = (ctx.connect().await, peer());
    // Alone in its system, and beside another one.
    let mut bystanders = Vec::new();
    for _ in 0..2 {
        let registration = register(&*system, &peer).await.expect("registered");
        ctx.delete(&peer).await;
        registration.unregister().await.expect("absent is success");
        ctx.gone_within(ctx.propagation(), &peer).await;
        peers_of(&*system)
            .unregister_instance(peer.instance_id())
            .await
            .expect("absent is success");
        let bystander = self::peer();
        bystanders.push(register(&*system, &bystander).await.expect("registered"));
    }
    // With its whole session.
    let (faulty, system) = ctx.faulty().await;
    let registration = register(&*system, &peer).await.expect("registered");
    let session = faulty.sessions().pop().expect("a session");
    ctx.store().await.close(&session).await.expect("revoked");
    registration.unregister().await.expect("absent is success");
    ctx.gone_within(ctx.propagation(), &peer).await;
}

async fn a_record_known_only_by_its_writer_is_removed(ctx: Ctx) {
    let (faulty, system) = ctx.faulty_with(&ctx.how_for_long()).await;
    let (peer, bystander) = (peer(), peer());
    let _other = register(&*system, &bystander).await.expect("registered");
    // The write happens and nobody hears of it; the caller gives up at once.
    faulty.lose_answers(1);
    let given_up = timeout(Duration::from_millis(1), register(&*system, &peer)).await;
    assert!(given_up.is_err(), "it should not be registered yet");
    ctx.gone_within(ctx.recovery(), &peer).await;
    ctx.found_within(ctx.propagation(), &bystander).await;
}

async fn an_unregistered_peer_is_gone_at_once(ctx: Ctx) {
    let how = ctx.how_for_long();
    let system = ctx.backend.connect(&how).await.expect("connected");
    let (one, two, last) = (peer(), peer(), peer());
    let third = register(&*system, &last).await.expect("registered");
    let first = register(&*system, &one).await.expect("registered");
    let _second = register(&*system, &two).await.expect("registered");
    ctx.found_within(ctx.propagation(), &one).await;
    first.unregister().await.expect("unregistered");
    ctx.gone_within(ctx.propagation(), &one).await;
    let peers = ctx.peers().await;
    ctx.stays(ctx.ttl() * 2, "it came back", || is_absent(&*peers, &one))
        .await;
    peers_of(&*system)
        .unregister_instance(two.instance_id())
        .await
        .expect("unregistered");
    ctx.gone_within(ctx.propagation(), &two).await;
    third.unregister().await.expect("unregistered");
    ctx.gone_within(ctx.propagation(), &last).await;
}

async fn unregistering_is_no_success_before_the_backend_confirmed(ctx: Ctx) {
    let ((faulty, system), bystander) = (ctx.faulty().await, peer());
    let _other = register(&*system, &bystander).await.expect("registered");
    for by_id in [false, true] {
        let peer = peer();
        let mut registration = Some(register(&*system, &peer).await.expect("registered"));
        let unregister = |registration: &mut Option<Registration>| {
            let (peers, id) = (peers_of(&*system), peer.instance_id());
            let mine = registration.take_if(|_| !by_id);
            tokio::spawn(async move {
                match mine {
                    Some(mine) => mine.unregister().await,
                    None => peers.unregister_instance(id).await,
                }
            })
        };
        faulty.set(Mode::Stall);
        let unregistering = unregister(&mut registration);
        sleep(Duration::from_millis(500)).await;
        assert!(
            !unregistering.is_finished(),
            "reported before the backend answered"
        );
        faulty.set(Mode::Pass);
        unregistering.await.expect("no panic").expect("unregistered");
        ctx.gone_within(ctx.propagation(), &peer).await;
        let mut registration = Some(register(&*system, &peer).await.expect("registered again"));
        faulty.set(Mode::Cut);
        let outcome = timeout(Duration::from_secs(20), unregister(&mut registration)).await;
        let error = outcome
            .expect("bounded")
            .expect("no panic")
            .expect_err("nobody confirmed");
        assert!(
            matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout),
            "{error}"
        );
        faulty.set(Mode::Pass);
        ctx.gone_within(ctx.recovery(), &peer).await;
    }
    ctx.found_within(ctx.recovery(), &bystander).await;
}

/// Nothing else is left in its session, which ends with it.
async fn the_last_one_is_not_unregistered_before_the_backend_confirmed(ctx: Ctx) {
    for mode in [Mode::Cut, Mode::Deny, Mode::Stall] {
        let ((faulty, system), peer) = (ctx.faulty().await, peer());
        let registration = register(&*system, &peer).await.expect("registered");
        faulty.set(mode);
        let outcome = timeout(Duration::from_secs(20), registration.unregister()).await;
        outcome.expect("bounded").expect_err("nobody confirmed");
        faulty.set(Mode::Pass);
        ctx.gone_within(ctx.expiry(), &peer).await;
    }
}

async fn what_is_given_up_while_its_write_is_under_way_is_gone(ctx: Ctx) {
    // No renewal comes to clear up.
    let (faulty, system) = ctx.faulty_with(&ctx.how_for_long()).await;
    let bystander = peer();
    let _other = register(&*system, &bystander).await.expect("registered");
    for by_id in [false, true] {
        let peer = peer();
        faulty.set(Mode::Stall);
        let given_up = timeout(Duration::from_millis(300), register(&*system, &peer)).await;
        assert!(given_up.is_err(), "it should not be registered yet");
        let (peers, id) = (peers_of(&*system), peer.instance_id());
        let unregistering = by_id.then(|| tokio::spawn(async move { peers.unregister_instance(id).await }));
        sleep(Duration::from_millis(100)).await;
        faulty.set(Mode::Pass);
        match unregistering {
            Some(unregistering) => unregistering.await.expect("no panic").expect("unregistered"),
            None => sleep(ctx.recovery()).await,
        }
        let peers = ctx.peers().await;
        ctx.gone_within(ctx.propagation(), &peer).await;
        ctx.stays(ctx.ttl(), "it is kept although nobody holds it", || {
            is_absent(&*peers, &peer)
        })
        .await;
    }
    ctx.found_within(ctx.propagation(), &bystander).await;
}

async fn what_is_leaving_is_not_unregistered_before_the_backend_confirmed(ctx: Ctx) {
    let ((faulty, system), bystander) = (ctx.faulty().await, peer());
    let _other = register(&*system, &bystander).await.expect("registered");
    let peer = peer();
    let registration = register(&*system, &peer).await.expect("registered");
    faulty.set(Mode::Stall);
    drop(registration);
    let (peers, id) = (peers_of(&*system), peer.instance_id());
    let unregistering = tokio::spawn(async move { peers.unregister_instance(id).await });
    sleep(Duration::from_millis(500)).await;
    assert!(
        !unregistering.is_finished(),
        "reported before the backend answered"
    );
    faulty.set(Mode::Pass);
    unregistering.await.expect("no panic").expect("unregistered");
    ctx.gone_within(ctx.propagation(), &peer).await;
}

async fn what_is_unregistered_while_it_is_renewed_is_gone(ctx: Ctx) {
    let ((faulty, system), bystander) = (ctx.faulty().await, peer());
    let _other = register(&*system, &bystander).await.expect("registered");
    let peer = peer();
    let registration = register(&*system, &peer).await.expect("registered");
    let late = ctx.ttl() / 4;
    faulty.late_answers(late);
    let before = faulty.renewals();
    eventually(ctx.ttl() * 2, || async { faulty.renewals() > before }).await;
    // The renewal is answered while the removal still has to be tried again.
    faulty.set(Mode::Cut);
    let unregistering = tokio::spawn(registration.unregister());
    sleep(late + Duration::from_millis(50)).await;
    faulty.late_answers(Duration::ZERO);
    faulty.set(Mode::Pass);
    unregistering.await.expect("no panic").expect("unregistered");
    ctx.gone_within(ctx.propagation(), &peer).await;
    let peers = ctx.peers().await;
    ctx.stays(ctx.ttl() * 2, "it came back", || is_absent(&*peers, &peer))
        .await;
    ctx.found_within(ctx.recovery(), &bystander).await;
}
