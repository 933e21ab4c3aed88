//! Runtimes that go away while a registrar stays.

use futures_util::poll;
use tokio::runtime::{Builder, Runtime};

use super::*;

fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().unwrap()
}

#[test]
fn a_registration_whose_runtime_has_gone_is_made_again_by_another() {
    let store = Arc::<Faulty>::default();
    let registrar = registrar(&store, TTL);
    let first = runtime();
    let _gone = first.block_on(registrar.register(intent("a", "x"))).unwrap();
    drop(first);
    store.memory.wipe();
    runtime().block_on(async {
        let again = registrar.register(intent("a", "x")).await.unwrap();
        assert!(stands(&store.memory, "a").await, "{again:?}");
        sleep(TTL * 2).await;
        assert!(stands(&store.memory, "a").await, "renewed");
    });
}

#[test]
fn shutdown_ends_the_keeper_that_took_the_place_of_another() {
    let store = Arc::<Faulty>::default();
    let registrar = registrar(&store, TTL);
    let first = runtime();
    let _gone = first.block_on(registrar.register(intent("a", "x"))).unwrap();
    drop(first);
    runtime().block_on(async {
        let _held = registrar.register(intent("b", "x")).await.unwrap();
        registrar.shutdown(Duration::from_secs(5)).await.unwrap();
        assert!(!stands(&store.memory, "b").await, "given up");
    });
}

#[test]
fn shutdown_waits_for_no_keeper_that_never_ran() {
    let store = Arc::<Faulty>::default();
    let registrar = registrar(&store, TTL);
    let first = runtime();
    first.block_on(async {
        // Starts the keeper; the runtime ends before its first turn.
        let registering = std::pin::pin!(registrar.register(intent("a", "x")));
        assert!(poll!(registering).is_pending(), "nobody has written it");
    });
    drop(first);
    assert_eq!(store.opened(), 0, "the keeper never ran");
    runtime().block_on(async {
        let begun = Instant::now();
        registrar.shutdown(Duration::from_secs(3)).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    });
}

#[test]
fn registering_outside_a_runtime_is_refused_by_name() {
    use futures_util::FutureExt;
    for renewing in [Renewing::Shared, Renewing::OwnThread] {
        let store = Arc::<Faulty>::default();
        let registrar = registrar_with(config(TTL).with_renewing(renewing), &store);
        let outcome = registrar.register(intent("a", "x")).now_or_never();
        let error = outcome.expect("answered at once").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("runtime"), "{error}");
    }
}
