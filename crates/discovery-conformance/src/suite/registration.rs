//! Registering and unregistering: R1 to R8, R15, R17.

use std::{sync::Arc, time::Duration};

use discovery_core::{ErrorKind, InstanceId, PeerInfo, WorkerAddress, limit};
use discovery_records::peer::{decode, encode};
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use crate::{
    Mode,
    trial::{Ctx, colliding, is_absent, peer, peers_of, register, trials},
};

trials! { "registration":
    "R1" a_registered_peer_is_found_by_both_ids_at_its_address [Register];
    "R2" success_means_that_the_backend_acknowledged [Register];
    "R2" an_answer_that_never_comes_is_no_success [Register];
    "R3" registering_again_is_one_registration [Register];
    "R3" a_killed_owner_may_register_again_at_once [Register];
    "R3" two_living_holders_do_not_take_the_record_from_each_other [Register];
    "R3" when_one_holder_leaves_the_other_has_the_record_back [Register];
    "R3" when_one_holder_is_killed_the_other_has_the_record_back [Register, Expiry];
    "R4" another_address_is_a_checksum_mismatch_and_changes_nothing [Register];
    "R5" another_instance_is_a_collision_that_names_both [Register, StrongCollision];
    "R5" of_many_racers_exactly_one_wins [Register, StrongCollision];
    "R6" a_write_whose_answer_was_lost_is_recognised [Register];
    "R7" unregistering_leaves_a_successor_alone [Register];
    "R7" unregistering_what_is_gone_succeeds [Register];
    "R7" a_record_known_only_by_its_writer_is_removed [Register];
    "R8" an_unregistered_peer_is_gone_at_once [Register];
    "R15" bad_input_is_refused_by_name_before_any_call [Register];
    "R17" what_cannot_be_read_is_never_overwritten [Register];
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

async fn success_means_that_the_backend_acknowledged(ctx: Ctx) {
    let (faulty, system) = ctx.faulty().await;
    let peer = peer();
    faulty.set(Mode::Stall);
    let registering = {
        let (system, peer) = (system.clone(), peer.clone());
        tokio::spawn(async move { register(&*system, &peer).await })
    };
    sleep(Duration::from_millis(500)).await;
    assert!(!registering.is_finished(), "reported before the backend answered");
    faulty.set(Mode::Pass);
    let _registration = registering.await.expect("no panic").expect("registered");
    assert!(
        ctx.standing(&peer).await.is_some(),
        "reported, and nothing stands there"
    );
}

async fn an_answer_that_never_comes_is_no_success(ctx: Ctx) {
    let (faulty, system) = ctx.faulty().await;
    for mode in [Mode::Cut, Mode::Stall] {
        faulty.set(mode);
        let outcome = timeout(Duration::from_secs(20), register(&*system, &peer())).await;
        let error = outcome.expect("bounded").expect_err("nobody answered");
        assert!(
            matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout),
            "{error}"
        );
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

async fn another_address_is_a_checksum_mismatch_and_changes_nothing(ctx: Ctx) {
    let peer = peer();
    let other = PeerInfo::new(
        peer.instance_id(),
        WorkerAddress::from_bytes("tcp://127.0.0.1:6666"),
    );
    let system = ctx.connect().await;
    let _registration = register(&*system, &peer).await.expect("registered");
    let before = ctx.standing(&peer).await.expect("it stands");
    for system in [ctx.connect().await, system.clone()] {
        let error = register(&*system, &other).await.expect_err("another address");
        assert_eq!(error.kind(), ErrorKind::ChecksumMismatch, "{error}");
        for checksum in [peer.address().checksum(), other.address().checksum()] {
            assert!(
                error.to_string().contains(&format!("{checksum:016x}")),
                "{error} does not name {checksum:016x}"
            );
        }
    }
    let after = ctx.standing(&peer).await.expect("it stands");
    assert_eq!((after.version, after.body), (before.version, before.body));
}

async fn another_instance_is_a_collision_that_names_both(ctx: Ctx) {
    let (holder, challenger) = (
        colliding(0, "tcp://127.0.0.1:1"),
        colliding(1, "tcp://127.0.0.1:2"),
    );
    let _registration = register(&*ctx.connect().await, &holder)
        .await
        .expect("registered");
    let before = ctx.standing(&holder).await.expect("it stands");
    let error = register(&*ctx.connect().await, &challenger)
        .await
        .expect_err("a collision");
    assert_eq!(error.kind(), ErrorKind::WorkerIdCollision, "{error}");
    for id in [holder.instance_id(), challenger.instance_id()] {
        assert!(
            error.to_string().contains(&id.to_string()),
            "{error} does not name {id}"
        );
    }
    assert_eq!(
        ctx.standing(&holder).await.expect("it stands").version,
        before.version
    );
}

async fn of_many_racers_exactly_one_wins(ctx: Ctx) {
    let racers = 100;
    let systems = join_all((0..racers).map(|_| ctx.connect())).await;
    let peers: Vec<_> = (0..racers)
        .map(|racer| colliding(racer % 2, &format!("tcp://127.0.0.1:{racer}")))
        .collect();
    let racing = systems
        .iter()
        .zip(&peers)
        .map(|(system, peer)| register(&**system, peer));
    let outcomes = join_all(racing).await;
    let winners: Vec<_> = outcomes
        .iter()
        .zip(&peers)
        .filter(|(outcome, _)| outcome.is_ok())
        .collect();
    assert_eq!(winners.len(), 1, "{} winners", winners.len());
    for error in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        let kind = error.kind();
        assert!(
            matches!(kind, ErrorKind::WorkerIdCollision | ErrorKind::ChecksumMismatch),
            "{error}"
        );
    }
    let winner = winners[0].1.clone();
    let record = ctx.standing(&winner).await.expect("it stands");
    assert_eq!(decode(&record.key, &record.body).expect("whole"), winner);
    drop(outcomes);
    ctx.gone_within(ctx.recovery(), &winner).await;
    let found = ctx.peers().await;
    ctx.stays(ctx.ttl(), "a loser left something behind", || {
        is_absent(&*found, &winner)
    })
    .await;
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
    ctx.stays(ctx.ttl() * 2, "written more than once", || async {
        ctx.standing(&peer)
            .await
            .is_some_and(|record| record.writer == writer)
    })
    .await;
    registration.unregister().await.expect("unregistered");
    ctx.gone_within(ctx.propagation(), &peer).await;
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

async fn unregistering_what_is_gone_succeeds(ctx: Ctx) {
    let (system, peer) = (ctx.connect().await, peer());
    let registration = register(&*system, &peer).await.expect("registered");
    ctx.delete(&peer).await;
    registration.unregister().await.expect("absent is success");
    ctx.gone_within(ctx.propagation(), &peer).await;
    peers_of(&*system)
        .unregister_instance(peer.instance_id())
        .await
        .expect("absent is success");
}

async fn a_record_known_only_by_its_writer_is_removed(ctx: Ctx) {
    let (faulty, system) = ctx.faulty().await;
    let (peer, bystander) = (peer(), peer());
    let _other = register(&*system, &bystander).await.expect("registered");
    // The write happens and nobody hears of it; the caller gives up at once.
    faulty.lose_answers(1);
    let given_up = timeout(Duration::from_millis(1), register(&*system, &peer)).await;
    drop(given_up);
    ctx.gone_within(ctx.recovery(), &peer).await;
    ctx.found_within(ctx.propagation(), &bystander).await;
}

async fn an_unregistered_peer_is_gone_at_once(ctx: Ctx) {
    let (system, one, two) = (ctx.connect().await, peer(), peer());
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
}

async fn bad_input_is_refused_by_name_before_any_call(ctx: Ctx) {
    let (faulty, system) = ctx.faulty().await;
    for length in [0, 4_097, 120_000] {
        let peer = PeerInfo::new(
            InstanceId::new_v4(),
            WorkerAddress::from_bytes(vec![b'x'; length]),
        );
        let error = register(&*system, &peer)
            .await
            .expect_err("an impossible address");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(error.to_string().contains("address"), "{error}");
    }
    assert_eq!(faulty.calls(), 0, "the backend was called");
    for text in [
        "00000000-0000-0000-0000-000000000000",
        "b93942ea-7b73-8267-caad-69f6c443a950",
    ] {
        let error = text.parse::<InstanceId>().expect_err("an impossible id");
        assert!(
            error.kind() == ErrorKind::InvalidArgument && error.to_string().contains("instance id"),
            "{error}"
        );
    }
    for ttl in [
        Duration::ZERO,
        Duration::from_millis(999),
        *limit::TTL.end() + Duration::from_secs(1),
    ] {
        let mut how = ctx.how();
        how.ttl = ttl;
        let error = ctx.backend.connect(&how).await.expect_err("an impossible TTL");
        assert!(
            error.kind() == ErrorKind::InvalidConfig && error.to_string().contains("ttl"),
            "{error}"
        );
        let store = ctx.store().await;
        let error = store.open(ttl).await.expect_err("refused, not clamped");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    }
}

async fn what_cannot_be_read_is_never_overwritten(ctx: Ctx) {
    let elsewhere = encode(&self::peer()).expect("a valid peer");
    let bodies: [&[u8]; 4] = [
        b"not json",
        br#"{"v":2,"kind":"peer","data":{}}"#,
        b"\xff\xfe",
        &elsewhere,
    ];
    let system: Arc<_> = ctx.connect().await;
    for body in bodies {
        let peer = peer();
        let (_session, planted) = ctx.plant(&ctx.key(&peer), body.to_vec()).await;
        let error = register(&*system, &peer)
            .await
            .expect_err("something stands there");
        assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
        let standing = ctx.standing(&peer).await.expect("it still stands");
        assert_eq!((standing.version, standing.body), (planted.version, planted.body));
    }
}
