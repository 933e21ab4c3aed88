//! Calls that fail: whom that concerns, and what is done about it.

use discovery_core::Retry;

use super::*;

fn denied() -> DiscoveryError {
    DiscoveryError::new(ErrorKind::PermissionDenied, "this key")
}

fn rate_limited(after: Duration) -> DiscoveryError {
    let after = Some(after);
    DiscoveryError::new(ErrorKind::RateLimited, "slow down").with_retry(Retry::Safe { after })
}

#[tokio::test(start_paused = true)]
async fn one_record_that_cannot_be_written_stops_the_renewal_of_no_other() {
    let store = Arc::<Faulty>::default();
    let registrar = registrar(&store, TTL);
    let good = registrar.register(intent("good", "x")).await.unwrap();
    let bad = registrar.register(intent("bad", "x")).await.unwrap();
    store.faults().refused.insert(key("bad"), unavailable());
    delete(&store.memory, "bad").await;
    for _ in 0..40 {
        sleep(TTL / 4).await;
        assert_eq!(good.state(), RegistrationState::Live);
        assert!(stands(&store.memory, "good").await, "renewed");
    }
    assert_eq!(bad.state(), RegistrationState::Lost);
    store.faults().refused.clear();
    sleep(Duration::from_secs(4)).await;
    assert_eq!(bad.state(), RegistrationState::Live);
}

#[tokio::test(start_paused = true)]
async fn what_is_hopeless_for_one_record_is_told_to_no_other() {
    // The order within a call is random.
    for _ in 0..20 {
        let store = Arc::<Faulty>::default();
        let registrar = registrar(&store, TTL);
        store.faults().refused.insert(key("bad"), denied());
        store.faults().refused.insert(key("good"), unavailable());
        let mend = async {
            sleep(Duration::from_secs(1)).await;
            store.faults().refused.remove(&key("good"));
        };
        let (bad, good) = (
            registrar.register(intent("bad", "x")),
            registrar.register(intent("good", "x")),
        );
        let (bad, good, ()) = tokio::join!(bad, good, mend);
        assert_eq!(bad.unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert!(good.is_ok(), "{good:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_refused_record_among_hundreds_fails_alone() {
    let store = Arc::<Faulty>::default();
    let registrar = registrar(&store, TTL);
    store.faults().refused.insert(key("bad"), denied());
    let mut names: Vec<_> = (0..300).map(|number| format!("n{number}")).collect();
    names.push("bad".to_owned());
    let registering = names.iter().map(|name| registrar.register(intent(name, "x")));
    let outcomes = futures_util::future::join_all(registering).await;
    let failed = names
        .iter()
        .zip(&outcomes)
        .filter(|(_, outcome)| outcome.is_err());
    let failed: Vec<_> = failed.map(|(name, _)| name.as_str()).collect();
    assert_eq!(failed, ["bad"]);
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_was_lost_is_recognised_and_later_removed() {
    let store = Arc::<Faulty>::default();
    store.faults().lost_answers = 1;
    let registrar = registrar(&store, TTL);
    let held = registrar.register(intent("a", "x")).await.unwrap();
    assert_eq!(held.state(), RegistrationState::Live);
    held.unregister().await.unwrap();
    assert!(!stands(&store.memory, "a").await, "unregistered");
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_failed_leaves_nothing_behind() {
    let store = Arc::<Faulty>::default();
    let registrar = registrar(&store, TTL);
    // Another one on the session, so that ending the session is not what cleans up.
    let _other = registrar.register(intent("other", "x")).await.unwrap();
    store.faults().lost_answers = u32::MAX;
    let registering = registrar.register(intent("a", "x"));
    let outcome = timeout(Duration::from_millis(10), registering).await;
    assert!(outcome.is_err(), "no answer, no registration");
    assert!(stands(&store.memory, "a").await, "the write happened");
    store.faults().lost_answers = 0;
    sleep(Duration::from_secs(5)).await;
    assert!(!stands(&store.memory, "a").await, "taken back");
    assert_eq!(store.opened(), 1, "on the same session");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_panics_ends_no_registration() {
    let store = Arc::<Faulty>::default();
    let registrar = registrar(&store, LONG_TTL);
    let held = registrar.register(intent("a", "x")).await.unwrap();
    store.faults().trouble = Some(Trouble::Panics);
    sleep(LONG_TTL / 2).await;
    assert_eq!(held.state(), RegistrationState::Renewing);
    assert_eq!(held.cause().unwrap().kind(), ErrorKind::Unexpected);
    let failed = registrar.register(intent("b", "x")).await;
    assert!(failed.is_err(), "{failed:?}");
    store.faults().trouble = None;
    sleep(LONG_TTL * 2).await;
    assert_eq!(held.state(), RegistrationState::Live);
    assert!(stands(&store.memory, "a").await, "renewed");
    registrar
        .register(intent("b", "x"))
        .await
        .unwrap()
        .unregister()
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn being_asked_to_try_again_at_once_still_backs_off() {
    let store = Arc::<Faulty>::default();
    let registrar = registrar(&store, LONG_TTL);
    let refusal = rate_limited(Duration::ZERO);
    store.faults().refused.insert(key("a"), refusal);
    let error = registrar.register(intent("a", "x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RateLimited);
    // Waits of 100 ms, doubled up to 3 s, shortened by half at most, for 7 s.
    let attempts = store.writes(&key("a")).len();
    assert!((6..=10).contains(&attempts), "{attempts} attempts");
}

#[tokio::test(start_paused = true)]
async fn the_wait_that_the_store_asks_for_is_kept() {
    let store = Arc::<Faulty>::default();
    let registrar = registrar(&store, LONG_TTL);
    let asked = Duration::from_secs(2);
    store.faults().refused.insert(key("a"), rate_limited(asked));
    let error = registrar.register(intent("a", "x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RateLimited);
    let attempts = store.writes(&key("a"));
    assert!(attempts.len() >= 3, "{} attempts", attempts.len());
    for pair in attempts.windows(2) {
        let waited = pair[1] - pair[0];
        assert!(waited >= asked && waited <= asked * 2, "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn reads_that_hang_hold_up_neither_leaving_nor_coming() {
    let store = Arc::<Faulty>::default();
    let registrar = registrar(&store, LONG_TTL);
    let healthy = registrar.register(intent("healthy", "x")).await.unwrap();
    store.faults().slow_reads = true;
    store.faults().slow = (0..8).map(|at| key(&format!("unsure-{at}"))).collect();
    for at in 0..8 {
        let (registrar, name) = (registrar.clone(), format!("unsure-{at}"));
        tokio::spawn(async move { registrar.register(intent(&name, "x")).await });
    }
    sleep(Duration::from_secs(5)).await;
    let begun = Instant::now();
    healthy.unregister().await.unwrap();
    assert!(!stands(&store.memory, "healthy").await);
    let _new = registrar.register(intent("new", "x")).await.unwrap();
    // The one waits for the call that is under way, the other for two that are due before it.
    assert!(
        begun.elapsed() <= Duration::from_millis(6_100),
        "{:?}",
        begun.elapsed()
    );
}
