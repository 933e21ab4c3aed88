//! What stands in the way of a registration: R4, R5, R15, R17.

use std::{sync::Arc, time::Duration};

use discovery_core::{
    Cluster, ErrorKind, InstanceId, PeerInfo, RegistrationState, WorkerAddress,
    store::{Expect, Record, Write, Writer, Written},
};
use discovery_records::peer::decode;
use futures_util::future::join_all;
use tokio::time::sleep;

use crate::trial::{Ctx, colliding, is_absent, peer, register, trials, unreadable};

trials! { "registration":
    "R4" another_address_is_a_checksum_mismatch_and_changes_nothing [Register];
    "R5" another_instance_is_a_collision_that_names_both [Register, StrongCollision];
    "R5" of_many_racers_exactly_one_wins [Register, StrongCollision];
    "R15" bad_input_is_refused_by_name_before_any_call [Register];
    "R15" a_body_outside_the_limits_is_refused [Register];
    "R17" what_cannot_be_read_is_never_overwritten [Register];
    "R17" what_cannot_be_read_is_left_alone_by_whoever_was_there_before [Register];
}

async fn another_address_is_a_checksum_mismatch_and_changes_nothing(ctx: Ctx) {
    let peer = peer();
    let other = PeerInfo::new(
        peer.instance_id(),
        WorkerAddress::from_bytes("tcp://127.0.0.1:6666"),
    );
    let system = ctx.connect().await;
    let registration = register(&*system, &peer).await.expect("registered");
    let before = ctx.standing(&peer).await.expect("it stands");
    // Elsewhere, also beside another registration, and where it is registered itself.
    let elsewhere = ctx.connect().await;
    let _bystander = register(&*elsewhere, &self::peer()).await.expect("registered");
    for system in [ctx.connect().await, elsewhere, system.clone()] {
        let error = register(&*system, &other).await.expect_err("another address");
        assert_eq!(error.kind(), ErrorKind::ChecksumMismatch, "{error}");
        for checksum in [peer.address().checksum(), other.address().checksum()] {
            assert!(
                error.to_string().contains(&format!("{checksum:016x}")),
                "{error} does not name {checksum:016x}"
            );
        }
    }
    ctx.stays(ctx.ttl(), "a refused registration changed it", || async {
        ctx.standing(&peer)
            .await
            .is_some_and(|after| (after.version, after.body) == (before.version.clone(), before.body.clone()))
    })
    .await;
    registration.unregister().await.expect("unregistered");
    ctx.gone_within(ctx.propagation(), &peer).await;
    let peers = ctx.peers().await;
    ctx.stays(ctx.ttl() * 2, "a refused registration goes on", || {
        is_absent(&*peers, &peer)
    })
    .await;
}

async fn another_instance_is_a_collision_that_names_both(ctx: Ctx) {
    let (holder, challenger) = (
        colliding(0, "tcp://127.0.0.1:1"),
        colliding(1, "tcp://127.0.0.1:2"),
    );
    let registration = register(&*ctx.connect().await, &holder)
        .await
        .expect("registered");
    let before = ctx.standing(&holder).await.expect("it stands");
    let alone = ctx.connect().await;
    let elsewhere = ctx.connect().await;
    let _bystander = register(&*elsewhere, &peer()).await.expect("registered");
    for system in [alone, elsewhere.clone()] {
        let error = register(&*system, &challenger).await.expect_err("a collision");
        assert_eq!(error.kind(), ErrorKind::WorkerIdCollision, "{error}");
        for id in [holder.instance_id(), challenger.instance_id()] {
            assert!(
                error.to_string().contains(&id.to_string()),
                "{error} does not name {id}"
            );
        }
    }
    ctx.stays(ctx.ttl(), "the loser changed the record", || async {
        ctx.standing(&holder)
            .await
            .is_some_and(|after| after.version == before.version)
    })
    .await;
    registration.unregister().await.expect("unregistered");
    ctx.gone_within(ctx.propagation(), &holder).await;
    let _registration = register(&*elsewhere, &challenger)
        .await
        .expect("the place is free, and nothing is left of the first attempt");
    ctx.found_within(ctx.propagation(), &challenger).await;
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
    for name in [
        "",
        "a/b",
        "/",
        "a\nb",
        "a\0",
        "\u{85}",
        &"x".repeat(129),
        &"ü".repeat(65),
    ] {
        let error = Cluster::try_new(name).expect_err("an impossible cluster");
        assert!(
            error.kind() == ErrorKind::InvalidArgument && error.to_string().contains("cluster"),
            "{error}"
        );
    }
    for ttl in [
        Duration::ZERO,
        Duration::from_millis(999),
        Duration::from_millis(3_600_001),
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
        let (faulty, system) = ctx.faulty_with(&how).await;
        let error = register(&*system, &peer()).await.expect_err("an impossible TTL");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert_eq!(faulty.calls(), 0, "the backend was called");
    }
    what_is_just_within_the_limits_is_accepted(&ctx).await;
}

async fn a_body_outside_the_limits_is_refused(ctx: Ctx) {
    let store = ctx.store().await;
    let session = store.open(ctx.ttl()).await.expect("a session");
    for (length, fits) in [(16 * 1_024, true), (16 * 1_024 + 1, false), (100_000, false)] {
        let peer = peer();
        let item = Write {
            key: ctx.key(&peer),
            body: vec![b'x'; length].into(),
            writer: Writer::random(),
            expect: Expect::Absent,
        };
        let written = store.write(&session, &[item]).await.remove(0);
        match written {
            Ok(Written::Done(_)) if fits => {}
            Err(error) if !fits => {
                assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
                assert!(error.to_string().contains("body"), "{error}");
            }
            other => panic!("{length} bytes: {other:?}"),
        }
        assert_eq!(ctx.standing(&peer).await.is_some(), fits, "{length} bytes");
    }
}

async fn what_is_just_within_the_limits_is_accepted(ctx: &Ctx) {
    for ttl in [ctx.bounds().min_ttl, Duration::from_secs(3_600)] {
        let mut how = ctx.how();
        how.ttl = ttl;
        how.cluster = Cluster::try_new("x".repeat(128)).expect("as long as can be");
        let system = ctx.backend.connect(&how).await.expect("a possible TTL");
        for length in [1, 4_096] {
            let address = WorkerAddress::from_bytes(vec![b'x'; length]);
            let peer = PeerInfo::new(InstanceId::new_v4(), address);
            let registration = register(&*system, &peer).await.expect("a possible address");
            registration.unregister().await.expect("unregistered");
        }
    }
}

async fn what_cannot_be_read_is_never_overwritten(ctx: Ctx) {
    let system: Arc<_> = ctx.connect().await;
    let _bystander = register(&*system, &peer()).await.expect("registered");
    let mut all = Vec::new();
    for (peer, body) in unreadable() {
        let (_session, planted) = ctx.plant(&ctx.key(&peer), body).await;
        let error = register(&*system, &peer)
            .await
            .expect_err("something stands there");
        assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
        all.push((peer, planted));
    }
    still_stand(&ctx, &all).await;
    for (peer, _) in &all {
        ctx.delete(peer).await;
    }
    let peers = ctx.peers().await;
    ctx.stays(ctx.ttl(), "a refused registration goes on", || async {
        join_all(all.iter().map(|(peer, _)| is_absent(&*peers, peer)))
            .await
            .into_iter()
            .all(|absent| absent)
    })
    .await;
}

async fn what_cannot_be_read_is_left_alone_by_whoever_was_there_before(ctx: Ctx) {
    let system = ctx.connect().await;
    let (mut all, mut registrations) = (Vec::new(), Vec::new());
    for (peer, body) in unreadable() {
        registrations.push(register(&*system, &peer).await.expect("registered"));
        ctx.delete(&peer).await;
        let (_session, planted) = ctx.plant(&ctx.key(&peer), body).await;
        all.push((peer, planted));
    }
    sleep(ctx.recovery()).await;
    still_stand(&ctx, &all).await;
    for registration in registrations {
        assert_eq!(registration.state(), RegistrationState::Superseded);
        registration
            .unregister()
            .await
            .expect("nothing of its own is left");
    }
    still_stand(&ctx, &all).await;
}

async fn still_stand(ctx: &Ctx, all: &[(PeerInfo, Record)]) {
    ctx.stays(ctx.ttl(), "what could not be read was changed", || async {
        for (peer, planted) in all {
            let standing = ctx.standing(peer).await;
            let same = |now: &Record| (&now.version, &now.body) == (&planted.version, &planted.body);
            if !standing.as_ref().is_some_and(same) {
                return false;
            }
        }
        true
    })
    .await;
}
