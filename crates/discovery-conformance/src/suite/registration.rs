//! Registering and unregistering: R1 to R8, R15, R17.

use std::{sync::Arc, time::Duration};

use discovery_core::{
    Cluster, ErrorKind, InstanceId, PeerInfo, RegistrationState, WorkerAddress,
    peer::Registration,
    store::{Expect, Record, Write, Writer, Written},
};
use discovery_records::peer::decode;
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use crate::{
    Mode,
    trial::{Ctx, colliding, eventually, is_absent, peer, peers_of, register, trials, unreadable},
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
    "R4" another_address_is_a_checksum_mismatch_and_changes_nothing [Register];
    "R5" another_instance_is_a_collision_that_names_both [Register, StrongCollision];
    "R5" of_many_racers_exactly_one_wins [Register, StrongCollision];
    "R6" a_write_whose_answer_was_lost_is_recognised [Register];
    "R7" unregistering_leaves_a_successor_alone [Register];
    "R7" unregistering_leaves_another_living_holder_alone [Register];
    "R7" unregistering_another_instance_leaves_the_holder_alone [Register];
    "R7" unregistering_what_is_gone_succeeds [Register];
    "R7" a_record_known_only_by_its_writer_is_removed [Register];
    "R8" an_unregistered_peer_is_gone_at_once [Register];
    "R8" unregistering_is_no_success_before_the_backend_confirmed [Register];
    "R15" bad_input_is_refused_by_name_before_any_call [Register];
    "R15" a_body_outside_the_limits_is_refused [Register];
    "R17" what_cannot_be_read_is_never_overwritten [Register];
    "R17" what_cannot_be_read_is_left_alone_by_whoever_was_there_before [Register];
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
