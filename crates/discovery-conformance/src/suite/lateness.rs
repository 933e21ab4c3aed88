//! What arrives late: R12.

use discovery_core::{
    ErrorKind, PeerInfo, RegistrationState,
    store::{Expect, Write, Writer, Written},
};
use discovery_records::peer::encode;
use tokio::time::sleep;

use crate::trial::{Ctx, colliding, eventually, is_absent, peer, register, trials};

trials! { "registration":
    "R12" a_late_create_of_an_ended_registration_does_not_happen [Register];
    "R12" a_late_create_on_a_session_that_lives_on_does_not_happen [Register];
    "R12" a_late_create_of_a_failed_registration_does_not_happen [Register];
    "R12" a_late_create_of_a_superseded_registration_does_not_happen [Register];
    "R12" what_hangs_on_the_session_unwanted_is_removed [Register, Expiry];
    "R12" a_late_renewal_of_an_ended_registration_brings_nothing_back [Register];
}

async fn a_late_create_of_an_ended_registration_does_not_happen(ctx: Ctx) {
    let ((faulty, system), peer) = (ctx.faulty().await, peer());
    faulty.hold_writes(1);
    let registration = register(&*system, &peer)
        .await
        .expect("registered by the second write");
    registration.unregister().await.expect("unregistered");
    nothing_arrives_late(&ctx, &faulty, &peer).await;
}

async fn a_late_create_on_a_session_that_lives_on_does_not_happen(ctx: Ctx) {
    let ((faulty, system), peer, bystander) = (ctx.faulty().await, peer(), self::peer());
    let _other = register(&*system, &bystander).await.expect("registered");
    faulty.hold_writes(1);
    let registration = register(&*system, &peer)
        .await
        .expect("registered by the second write");
    registration.unregister().await.expect("unregistered");
    nothing_arrives_late(&ctx, &faulty, &peer).await;
    ctx.found_within(ctx.propagation(), &bystander).await;
    let again = register(&*system, &peer)
        .await
        .expect("a new registration is not fenced");
    ctx.found_within(ctx.propagation(), &peer).await;
    drop(again);
}

async fn a_late_create_of_a_failed_registration_does_not_happen(ctx: Ctx) {
    let ((faulty, system), peer, bystander) = (ctx.faulty().await, peer(), self::peer());
    let _other = register(&*system, &bystander).await.expect("registered");
    faulty.hold_writes(u32::MAX);
    let error = register(&*system, &peer).await.expect_err("nobody answered");
    assert!(
        matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout),
        "{error}"
    );
    faulty.hold_writes(0);
    sleep(ctx.recovery()).await;
    nothing_arrives_late(&ctx, &faulty, &peer).await;
    ctx.found_within(ctx.propagation(), &bystander).await;
}

async fn a_late_create_of_a_superseded_registration_does_not_happen(ctx: Ctx) {
    let ((faulty, system), bystander) = (ctx.faulty().await, peer());
    let (loser, winner) = (
        colliding(0, "tcp://127.0.0.1:1"),
        colliding(1, "tcp://127.0.0.1:2"),
    );
    let _other = register(&*system, &bystander).await.expect("registered");
    let _planted = ctx.plant_peer(&winner).await;
    faulty.hold_writes(1);
    let error = register(&*system, &loser).await.expect_err("the place is taken");
    assert_eq!(error.kind(), ErrorKind::WorkerIdCollision, "{error}");
    sleep(ctx.propagation()).await;
    ctx.delete(&winner).await;
    nothing_arrives_late(&ctx, &faulty, &loser).await;
    ctx.found_within(ctx.propagation(), &bystander).await;
}

async fn what_hangs_on_the_session_unwanted_is_removed(ctx: Ctx) {
    let ((faulty, system), peer, late) = (ctx.faulty().await, peer(), self::peer());
    let registration = register(&*system, &peer).await.expect("registered");
    let session = faulty.sessions().pop().expect("a session");
    // What a client library had queued: nobody holds it, and the session would keep it alive.
    let item = Write {
        key: ctx.key(&late),
        body: encode(&late).expect("a valid peer"),
        writer: Writer::random(),
        expect: Expect::Absent,
    };
    let written = ctx.store().await.write(&session, &[item]).await.remove(0);
    assert!(matches!(written, Ok(Written::Done(_))), "{written:?}");
    let peers = ctx.peers().await;
    eventually(ctx.ttl() + ctx.propagation(), || is_absent(&*peers, &late)).await;
    ctx.stays(ctx.ttl(), "it came back", || is_absent(&*peers, &late))
        .await;
    ctx.found_within(ctx.propagation(), &peer).await;
    assert_eq!(registration.state(), RegistrationState::Live);
}

async fn nothing_arrives_late(ctx: &Ctx, faulty: &crate::Faulty, peer: &PeerInfo) {
    ctx.gone_within(ctx.propagation(), peer).await;
    assert!(faulty.held_back() > 0, "nothing is on its way");
    faulty.deliver_late().await;
    let peers = ctx.peers().await;
    ctx.stays(ctx.ttl() * 2, "an ended registration can be found again", || {
        is_absent(&*peers, peer)
    })
    .await;
}

async fn a_late_renewal_of_an_ended_registration_brings_nothing_back(ctx: Ctx) {
    let ((faulty, system), peer) = (ctx.faulty().await, peer());
    let registration = register(&*system, &peer).await.expect("registered");
    eventually(ctx.ttl() * 2, || async { faulty.renewals() > 0 }).await;
    registration.unregister().await.expect("unregistered");
    let late = faulty.renew_late().await.expect("there was a renewal");
    if let Err(error) = late {
        assert_eq!(error.kind(), ErrorKind::LeaseLost, "{error}");
    }
    let peers = ctx.peers().await;
    ctx.stays(ctx.ttl() * 2, "an ended registration can be found again", || {
        is_absent(&*peers, &peer)
    })
    .await;
}
