//! What happens to a registration: R9 to R11.

use std::time::Duration;

use discovery_core::{PeerInfo, RegistrationState, peer::RegistrationObserver};
use futures_util::future::join_all;
use tokio::time::sleep;

use crate::{
    Fault, Mode,
    trial::{Ctx, colliding, eventually, is_absent, peer, register, trials},
};

trials! { "registration":
    "R9" a_killed_owner_is_gone_after_its_ttl [Register, Expiry];
    "R10" a_deleted_record_comes_back [Register];
    "R10" what_is_lost_is_back_after_a_third_of_a_long_ttl [Register, Expiry];
    "R10" a_revoked_session_comes_back [Register, Expiry];
    "R10" what_is_lost_and_cannot_be_written_for_long_comes_back [Register, Expiry];
    "R10" many_that_cannot_be_written_for_long_are_all_back_in_time [Register, Expiry];
    "R10" a_wiped_store_is_filled_again [Register];
    "R10" an_outage_longer_than_the_ttl_is_survived [Register];
    "R10" a_backend_that_refuses_for_a_while_is_survived [Register];
    "R11" a_paused_owner_whose_place_was_taken_learns_it [Register, Expiry];
    "R11" one_of_many_whose_place_was_taken_learns_it [Register];
}

async fn a_killed_owner_is_gone_after_its_ttl(ctx: Ctx) {
    // Before the first renewal, and after some.
    for age in [Duration::ZERO, ctx.ttl() * 2] {
        let peer = peer();
        let member = ctx.member(&peer).await;
        ctx.found_within(ctx.propagation(), &peer).await;
        sleep(age).await;
        ctx.found_within(Duration::ZERO, &peer).await;
        member.kill();
        ctx.gone_within(ctx.expiry(), &peer).await;
        let peers = ctx.peers().await;
        ctx.stays(ctx.ttl(), "it came back", || is_absent(&*peers, &peer))
            .await;
    }
}

/// After whatever happened: back within the bound, as exactly one record, without a call.
async fn is_back(ctx: &Ctx, peer: &PeerInfo, observer: &RegistrationObserver) {
    ctx.found_within(ctx.recovery(), peer).await;
    eventually(ctx.recovery(), || async {
        observer.state() == RegistrationState::Live
    })
    .await;
    let listed = ctx
        .peers()
        .await
        .watch()
        .expect("a list")
        .list_peers()
        .await
        .expect("listed");
    assert_eq!(listed, std::slice::from_ref(peer), "exactly one record");
    let peers = ctx.peers().await;
    ctx.stays(ctx.ttl() * 2, "lost again", || async {
        peers.discover_by_instance_id(peer.instance_id()).await.is_ok()
    })
    .await;
}

async fn a_deleted_record_comes_back(ctx: Ctx) {
    let (system, peer) = (ctx.connect().await, peer());
    let registration = register(&*system, &peer).await.expect("registered");
    ctx.delete(&peer).await;
    is_back(&ctx, &peer, &registration.observer()).await;
}

async fn what_is_lost_is_back_after_a_third_of_a_long_ttl(ctx: Ctx) {
    let (mut how, peers) = (ctx.how(), [peer(), peer(), peer()]);
    how.ttl = ctx.long_ttl();
    let (faulty, system) = ctx.faulty_with(&how).await;
    let registrations = join_all(peers.iter().map(|peer| register(&*system, peer))).await;
    assert!(registrations.iter().all(Result::is_ok));
    let recovery = how.ttl / 3 + Duration::from_secs(2) + ctx.propagation();
    for _ in 0..3 {
        ctx.delete(&peers[0]).await;
        ctx.found_within(recovery, &peers[0]).await;
        // All of them at once.
        let session = faulty.sessions().pop().expect("a session");
        ctx.store().await.close(&session).await.expect("revoked");
        let back = peers.iter().map(|peer| ctx.found_within(recovery, peer));
        join_all(back).await;
    }
}

async fn a_revoked_session_comes_back(ctx: Ctx) {
    let ((faulty, system), peer) = (ctx.faulty().await, peer());
    let registration = register(&*system, &peer).await.expect("registered");
    let session = faulty.sessions().pop().expect("a session");
    ctx.store().await.close(&session).await.expect("revoked");
    assert!(
        is_absent(&*ctx.peers().await, &peer).await,
        "its session kept it alive"
    );
    is_back(&ctx, &peer, &registration.observer()).await;
}

async fn what_is_lost_and_cannot_be_written_for_long_comes_back(ctx: Ctx) {
    let ((faulty, system), peer) = (ctx.faulty().await, peer());
    let registration = register(&*system, &peer).await.expect("registered");
    let session = faulty.sessions().pop().expect("a session");
    // Nothing else fails: it learns of the loss, and no write is answered.
    faulty.hold_writes(u32::MAX);
    ctx.store().await.close(&session).await.expect("revoked");
    sleep(ctx.long_outage()).await;
    assert_eq!(registration.state(), RegistrationState::Lost);
    // For a while it cannot even look whether a write has arrived.
    faulty.set(Mode::Cut);
    sleep(ctx.recovery()).await;
    assert_eq!(registration.state(), RegistrationState::Lost);
    faulty.set(Mode::Pass);
    faulty.hold_writes(0);
    is_back(&ctx, &peer, &registration.observer()).await;
}

/// However unluckily each of them waits between two attempts.
async fn many_that_cannot_be_written_for_long_are_all_back_in_time(ctx: Ctx) {
    let (faulty, system) = ctx.faulty().await;
    let all: Vec<_> = (0..120).map(|_| peer()).collect();
    let registrations = join_all(all.iter().map(|peer| register(&*system, peer))).await;
    assert!(registrations.iter().all(Result::is_ok));
    let session = faulty.sessions().pop().expect("a session");
    faulty.hold_writes(u32::MAX);
    ctx.store().await.close(&session).await.expect("revoked");
    sleep(ctx.long_outage().min(Duration::from_secs(20))).await;
    faulty.hold_writes(0);
    sleep(ctx.ttl() / 3 + Duration::from_secs(2) + ctx.bounds().propagation).await;
    let ids: Vec<_> = all.iter().map(PeerInfo::worker_id).collect();
    let found = ctx.peers().await.discover_many(&ids).await;
    let missing = found.iter().filter(|found| found.is_err()).count();
    assert_eq!(missing, 0, "not back in time, of {}", all.len());
}

async fn a_wiped_store_is_filled_again(ctx: Ctx) {
    let (system, peer) = (ctx.connect().await, peer());
    let registration = register(&*system, &peer).await.expect("registered");
    ctx.fault(Fault::Wipe).await;
    is_back(&ctx, &peer, &registration.observer()).await;
}

async fn an_outage_longer_than_the_ttl_is_survived(ctx: Ctx) {
    for fault in [Fault::Cut, Fault::Stall] {
        let (system, peer) = (ctx.connect().await, peer());
        let registration = register(&*system, &peer).await.expect("registered");
        ctx.fault(fault).await;
        sleep(ctx.long_outage()).await;
        assert_ne!(
            registration.state(),
            RegistrationState::Live,
            "nobody could renew"
        );
        ctx.fault(Fault::Heal).await;
        is_back(&ctx, &peer, &registration.observer()).await;
        registration.unregister().await.expect("unregistered");
        ctx.gone_within(ctx.propagation(), &peer).await;
    }
}

async fn a_backend_that_refuses_for_a_while_is_survived(ctx: Ctx) {
    let ((faulty, system), peer) = (ctx.faulty().await, peer());
    let registration = register(&*system, &peer).await.expect("registered");
    for outage in [ctx.ttl() / 2, ctx.long_outage()] {
        // As while credentials are rotated.
        faulty.set(Mode::Deny);
        sleep(outage).await;
        faulty.set(Mode::Pass);
        is_back(&ctx, &peer, &registration.observer()).await;
    }
}

async fn a_paused_owner_whose_place_was_taken_learns_it(ctx: Ctx) {
    let (zombie, successor) = (
        colliding(0, "tcp://127.0.0.1:1"),
        colliding(1, "tcp://127.0.0.1:2"),
    );
    let member = ctx.member(&zombie).await;
    assert!(member.state().is_live(), "{:?}", member.state());
    member.pause();
    ctx.gone_within(ctx.expiry(), &zombie).await;
    let (_session, planted) = ctx.plant_peer(&successor).await;
    member.resume();
    let superseded = crate::MemberState::State("superseded".to_owned());
    eventually(ctx.recovery(), || async { member.state() == superseded }).await;
    ctx.stays(ctx.ttl() * 2, "the zombie wrote after its successor", || async {
        ctx.standing(&successor)
            .await
            .is_some_and(|record| record.version == planted.version)
    })
    .await;
    ctx.delete(&successor).await;
    let peers = ctx.peers().await;
    ctx.stays(
        ctx.ttl() * 2,
        "the zombie wrote after its successor had left",
        || is_absent(&*peers, &zombie),
    )
    .await;
    assert_eq!(member.state(), superseded, "superseded is final");
}

async fn one_of_many_whose_place_was_taken_learns_it(ctx: Ctx) {
    let ((faulty, system), bystander) = (ctx.faulty().await, peer());
    let (zombie, successor) = (
        colliding(0, "tcp://127.0.0.1:1"),
        colliding(1, "tcp://127.0.0.1:2"),
    );
    let other = register(&*system, &bystander).await.expect("registered");
    let registration = register(&*system, &zombie).await.expect("registered");
    faulty.set(Mode::Freeze);
    ctx.delete(&zombie).await;
    let (_session, planted) = ctx.plant_peer(&successor).await;
    faulty.set(Mode::Pass);
    eventually(ctx.recovery(), || async {
        registration.state() == RegistrationState::Superseded
    })
    .await;
    ctx.stays(ctx.ttl() * 2, "the zombie wrote after its successor", || async {
        ctx.standing(&successor)
            .await
            .is_some_and(|record| record.version == planted.version)
    })
    .await;
    assert_eq!(other.state(), RegistrationState::Live);
    ctx.delete(&successor).await;
    let _again = register(&*system, &zombie)
        .await
        .expect("the place is free, whoever still holds what was lost");
    ctx.found_within(ctx.propagation(), &zombie).await;
    assert_eq!(registration.state(), RegistrationState::Superseded, "final");
}
