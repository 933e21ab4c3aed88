//! Systems: S1 to S5, S8, S9.

use std::{
    panic::{self, AssertUnwindSafe},
    thread,
    time::Duration,
};

use discovery_core::{
    Capability, ErrorKind, RegistrationState, Secret,
    limit::{CALL_DEADLINE, CONNECT_DEADLINE},
};
use tokio::time::{Instant, sleep};

use crate::{
    Fault, Mode,
    journal::{self, Entry},
    trial::{Ctx, is_absent, peer, peers_of, register, system_over, trials},
};

trials! { "system":
    "S1" a_system_vends_what_it_declares_and_nothing_else [];
    "S2" shutdown_unregisters_joins_and_may_be_called_again [Register];
    "S2" shutdown_ends_within_its_deadline_when_nobody_answers [Register];
    "S2" no_task_goes_on_after_a_shutdown_that_nobody_confirmed [Register];
    "S3" dropping_outside_a_runtime_or_in_a_panic_is_harmless [Register] real_time;
    "S4" a_handle_outlives_its_system [Register];
    "S5" a_backend_that_is_down_at_start_is_reported_or_awaited [Register, ServerRestart];
    "S8" no_secret_is_shown [];
    "S9" who_is_idle_costs_a_bounded_number_of_calls [Register];
}

async fn a_system_vends_what_it_declares_and_nothing_else(ctx: Ctx) {
    let system = ctx.connect().await;
    assert_eq!(*system.capabilities(), ctx.capabilities());
    assert_eq!(*system.cluster(), ctx.cluster);
    let peers = system.peer_discovery();
    assert_eq!(peers.is_some(), ctx.capabilities().has(Capability::Register));
    let watches = peers.and_then(|peers| peers.watch()).is_some();
    let declared = ctx.capabilities().has(Capability::List) && ctx.capabilities().has(Capability::Watch);
    assert_eq!(watches, declared);
    if let Some(store) = system.records() {
        // Not even over a store that could do it.
        let less = ctx.capabilities().without(Capability::Register);
        let system = system_over(store, &less, &ctx.how());
        assert!(
            system.peer_discovery().is_none(),
            "vends what it does not declare"
        );
    }
}

async fn shutdown_unregisters_joins_and_may_be_called_again(ctx: Ctx) {
    let ((faulty, system), peer, other) = (ctx.faulty().await, peer(), self::peer());
    let registration = register(&*system, &peer).await.expect("registered");
    let _other = register(&*system, &other).await.expect("registered");
    for _ in 0..3 {
        system.shutdown(Duration::from_secs(5)).await.expect("shut down");
    }
    ctx.gone_within(ctx.propagation(), &peer).await;
    ctx.gone_within(ctx.propagation(), &other).await;
    assert!(registration.state().is_final(), "{}", registration.state());
    let error = register(&*system, &peer).await.expect_err("closed");
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    let calls = faulty.calls();
    sleep(ctx.ttl() * 2).await;
    assert_eq!(faulty.calls(), calls, "a task still works");
}

async fn shutdown_ends_within_its_deadline_when_nobody_answers(ctx: Ctx) {
    let short = Duration::from_secs(1);
    // That a session has expired by the clock of this process confirms nothing, either.
    for (fault, deadline) in [
        (Fault::Stall, short),
        (Fault::Cut, short),
        (Fault::Cut, ctx.expiry() + short),
    ] {
        let (system, peer) = (ctx.connect().await, peer());
        let _registration = register(&*system, &peer).await.expect("registered");
        ctx.fault(fault).await;
        let begun = Instant::now();
        let error = system.shutdown(deadline).await.expect_err("nobody confirmed");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        assert!(
            begun.elapsed() < deadline + Duration::from_secs(1),
            "after {:?}",
            begun.elapsed()
        );
        ctx.fault(Fault::Heal).await;
        ctx.gone_within(ctx.expiry() + ctx.ttl(), &peer).await;
    }
}

async fn no_task_goes_on_after_a_shutdown_that_nobody_confirmed(ctx: Ctx) {
    // The session does not expire while nobody answers: that alone would end what works on it.
    let (mut how, peer) = (ctx.how(), peer());
    how.ttl = ctx.ttl() + CALL_DEADLINE * 2;
    let (faulty, system) = ctx.faulty_with(&how).await;
    let registration = register(&*system, &peer).await.expect("registered");
    faulty.set(Mode::Stall);
    let error = system
        .shutdown(Duration::from_millis(500))
        .await
        .expect_err("nobody confirmed");
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    let calls = faulty.calls();
    // Long enough for a call that is under way to fail, and to be made again.
    sleep(CALL_DEADLINE * 2).await;
    faulty.set(Mode::Pass);
    sleep(how.ttl).await;
    assert_eq!(faulty.calls(), calls, "a task still works");
    assert_ne!(registration.state(), RegistrationState::Live);
}

async fn dropping_outside_a_runtime_or_in_a_panic_is_harmless(ctx: Ctx) {
    for own_thread in [false, true] {
        let mut how = ctx.how();
        how.own_thread = own_thread;
        let (backend, ttl) = (ctx.backend.clone(), ctx.ttl());
        let dropping = thread::Builder::new().name("trial S3".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build();
            let runtime = runtime.expect("a runtime");
            let make = || {
                runtime.block_on(async {
                    let system = backend.connect(&how).await.expect("connected");
                    let registration = register(&*system, &peer()).await.expect("registered");
                    (system, registration)
                })
            };
            let begun = Instant::now();
            drop(make());
            let in_panic = make();
            let panicked = panic::catch_unwind(AssertUnwindSafe(|| {
                let _held = in_panic;
                panic!("as planned");
            }));
            assert!(panicked.is_err());
            let unheard = make();
            runtime.block_on(backend.fault(Fault::Stall));
            let silent = Instant::now();
            drop(unheard);
            assert!(
                silent.elapsed() < Duration::from_secs(1),
                "blocked by a silent backend for {:?}",
                silent.elapsed()
            );
            runtime.block_on(backend.fault(Fault::Heal));
            let (system, registration) = make();
            let unregistering = registration.observer();
            runtime.shutdown_timeout(Duration::from_millis(100));
            drop(registration);
            drop(system);
            drop(unregistering);
            begun.elapsed()
        });
        let took = tokio::task::spawn_blocking(|| dropping.expect("a thread").join())
            .await
            .expect("joined");
        let took = took.expect("no panic but the planned one");
        assert!(took < ttl + Duration::from_secs(5), "blocked for {took:?}");
    }
}

async fn a_handle_outlives_its_system(ctx: Ctx) {
    let peer = peer();
    let system = ctx.connect().await;
    let peers = peers_of(&*system);
    drop(system);
    let registration = peers
        .register_instance(peer.instance_id(), peer.address().clone())
        .await;
    let registration = registration.expect("registered");
    ctx.stays(ctx.ttl() * 3, "the registration went with the system", || async {
        peers
            .discover_by_worker_id(peer.worker_id())
            .await
            .is_ok_and(|found| found == peer)
    })
    .await;
    drop(peers);
    let others = ctx.peers().await;
    ctx.stays(ctx.ttl() * 2, "the registration went with the handle", || async {
        others.discover_by_worker_id(peer.worker_id()).await.is_ok()
    })
    .await;
    drop(registration);
    ctx.gone_within(ctx.recovery(), &peer).await;
}

async fn a_backend_that_is_down_at_start_is_reported_or_awaited(ctx: Ctx) {
    ctx.fault(Fault::Cut).await;
    let begun = Instant::now();
    let error = ctx.backend.connect(&ctx.how()).await.expect_err("it is down");
    assert!(
        matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout),
        "{error}"
    );
    assert!(
        begun.elapsed() < CONNECT_DEADLINE + Duration::from_secs(1),
        "after {:?}",
        begun.elapsed()
    );
    assert!(error.system().is_some(), "{error} names no system");
    let (system, peer) = (ctx.backend.connect_lazy(&ctx.how()).expect("no I/O"), peer());
    let error = peers_of(&*system)
        .discover_by_worker_id(peer.worker_id())
        .await
        .expect_err("it is down");
    assert_ne!(error.kind(), ErrorKind::NotFound, "{error}");
    ctx.fault(Fault::Heal).await;
    let _registration = register(&*system, &peer).await.expect("it is there now");
    ctx.found_within(ctx.propagation(), &peer).await;
    assert!(!is_absent(&*peers_of(&*system), &peer).await);
}

async fn who_is_idle_costs_a_bounded_number_of_calls(ctx: Ctx) {
    let (faulty, system) = ctx.faulty().await;
    let mut registrations = Vec::new();
    for _ in 0..20 {
        registrations.push(register(&*system, &peer()).await.expect("registered"));
    }
    let watch = peers_of(&*system).watch();
    let _events = match watch {
        Some(watch) => Some(watch.watch_peers().await.expect("a watch")),
        None => None,
    };
    sleep(ctx.ttl()).await;
    let before = faulty.calls();
    sleep(ctx.ttl() * 3).await;
    let calls = faulty.calls() - before;
    // A renewal every third of the TTL, at most two calls each, however many are registered.
    assert!(calls <= 2 * (3 * 3 + 1), "{calls} calls in three TTLs");
}

async fn no_secret_is_shown(ctx: Ctx) {
    let secret = "hunter2-correct-horse";
    let texts = ctx.harness.texts_with_secret(secret);
    assert!(!texts.is_empty(), "nothing to look at");
    for text in texts {
        assert!(!text.contains(secret), "shown in {text:?}");
    }
    let wrapped = Secret::new(secret);
    assert!(!format!("{wrapped} {wrapped:?}").contains(secret));
    let (faulty, system) = ctx.faulty().await;
    let peer = peer();
    let registration = register(&*system, &peer).await.expect("registered");
    faulty.set(Mode::Cut);
    let error = peers_of(&*system)
        .discover_by_worker_id(peer.worker_id())
        .await
        .expect_err("cut");
    let shown = format!(
        "{system:?} {registration:?} {error} {error:?} {:?}",
        faulty.sessions()
    );
    // Whoever knows the id of a session can end it.
    registration.unregister().await.expect_err("cut");
    faulty.set(Mode::Pass);
    system.shutdown(Duration::from_secs(5)).await.expect("shut down");
    let logged: Vec<_> = journal::entries(|_| true)
        .into_iter()
        .flat_map(Entry::into_values)
        .collect();
    for session in faulty.sessions().iter().filter(|session| session.id.len() >= 8) {
        for id in written_out(&session.id) {
            assert!(!shown.contains(&id), "the session is shown in {shown}");
            let log = logged.iter().find(|text| text.contains(&id));
            assert!(log.is_none(), "the session is shown in the log: {log:?}");
        }
    }
}

/// How an id would look if somebody printed it.
fn written_out(id: &[u8]) -> [String; 4] {
    let list = format!("{id:?}");
    let hex = id.iter().map(|byte| format!("{byte:02x}")).collect();
    [
        String::from_utf8_lossy(id).into_owned(),
        id.escape_ascii().to_string(),
        list.trim_matches(['[', ']']).to_owned(),
        hex,
    ]
}
