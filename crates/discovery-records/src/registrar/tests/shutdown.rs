//! Giving everything up.

use super::*;

#[tokio::test(start_paused = true)]
async fn shutdown_may_be_called_again_and_closes() {
    let store = Arc::<Faulty>::default();
    let registrar = registrar(&store, TTL);
    let _held = registrar.register(intent("a", "x")).await.unwrap();
    for _ in 0..2 {
        registrar.shutdown(Duration::from_secs(1)).await.unwrap();
        assert!(!stands(&store.memory, "a").await, "given up");
    }
    let error = registrar.register(intent("a", "x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_failed_never_succeeds_later() {
    let store = Arc::<Faulty>::default();
    let registrar = registrar(&store, LONG_TTL);
    let _held = registrar.register(intent("a", "x")).await.unwrap();
    store.faults().trouble = Some(Trouble::Down);
    for attempt in 0..2 {
        let outcome = registrar.shutdown(Duration::from_secs(1)).await;
        let kind = outcome.map_err(|error| error.kind());
        assert_eq!(kind, Err(ErrorKind::Timeout), "attempt {attempt}");
    }
    assert!(stands(&store.memory, "a").await, "never confirmed");
}

#[tokio::test(start_paused = true)]
async fn a_registration_overtaken_by_shutdown_fails() {
    let store = Arc::<Faulty>::default();
    let registrar = registrar(&store, TTL);
    let registering = registrar.register(intent("a", "x"));
    let (registered, ended) = tokio::join!(registering, registrar.shutdown(Duration::from_secs(1)));
    ended.unwrap();
    assert_eq!(registered.unwrap_err().kind(), ErrorKind::Closed);
    assert!(!stands(&store.memory, "a").await, "given up");
}

/// On the real clock: the keeper's thread has a runtime that cannot be paused from here.
#[tokio::test]
async fn shutdown_waits_for_no_call_that_hangs() {
    let store = Arc::<Faulty>::default();
    let config = config(*limit::TTL.start()).with_renewing(Renewing::OwnThread);
    let registrar = registrar_with(config, &store);
    let first = registrar.register(intent("a", "x")).await.unwrap();
    store.faults().trouble = Some(Trouble::Panics);
    let renewed = async {
        while store.renewals() == 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(1), renewed).await.unwrap();
    store.faults().trouble = None;
    let second = registrar.register(intent("b", "x")).await.unwrap();
    let hang = Duration::from_secs(3);
    store.faults().trouble = Some(Trouble::Stalls(hang));
    let begun = Instant::now();
    let error = registrar.shutdown(Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(begun.elapsed() < hang / 2, "{:?}", begun.elapsed());
    drop((registrar, first, second));
    assert_eq!(Arc::strong_count(&store), 1, "the keeper has ended");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_nobody_confirmed_is_no_success() {
    let store = Arc::<Faulty>::default();
    let registrar = registrar(&store, *limit::TTL.start());
    let _held = registrar.register(intent("a", "x")).await.unwrap();
    store.faults().never_closes = true;
    // Long enough for everything to expire by our clock.
    let error = registrar.shutdown(Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
}
