//! The suite is itself tested: every broken twin is caught by the trials of its number.

use std::sync::Arc;

use discovery_conformance::{
    InProcess, MakeSystem, StoreUnderTest, TrialOutcome,
    broken::{Broken, FLAWS, Flaw, SelfishSystem},
    run_numbers,
};
use discovery_core::{Capabilities, Capability, DiscoverySystem, store::RecordStore};
use discovery_memory::{MemoryConfig, MemoryStore, MemorySystem};

fn harness(flaw: Option<Flaw>) -> InProcess {
    // What a client gets wrong must sit in front of the faults of the backend, the rest behind.
    let of_the_client = flaw.filter(|flaw| *flaw == Flaw::ErrorsAreNotFound);
    let of_the_store = flaw.filter(|flaw| of_the_client != Some(*flaw));
    InProcess {
        name: "broken",
        capabilities: MemorySystem::declared(),
        make_store: Box::new(move || {
            let memory = MemoryStore::new();
            StoreUnderTest {
                store: broken(Arc::new(memory.clone()), of_the_store),
                wipe: Box::new(move || memory.wipe()),
            }
        }),
        make_system: Arc::new(make_system(of_the_client)),
        texts_with_secret: |_| vec!["nothing to hide".to_owned()],
    }
}

fn broken(store: Arc<dyn RecordStore>, flaw: Option<Flaw>) -> Arc<dyn RecordStore> {
    match flaw {
        Some(flaw) => Arc::new(Broken::new(store, flaw)),
        None => store,
    }
}

fn make_system(flaw: Option<Flaw>) -> MakeSystem {
    Box::new(move |store, connect| {
        let config = MemoryConfig::default()
            .with_cluster(connect.cluster.clone())
            .with_ttl(connect.ttl);
        let system = MemorySystem::with_store(&config, broken(store, flaw))?;
        Ok(Arc::new(system) as Arc<dyn DiscoverySystem>)
    })
}

fn failures(harness: InProcess, number: &str) -> Vec<&'static str> {
    let outcomes = run_numbers(harness, number);
    assert!(!outcomes.is_empty(), "there is no trial of {number}");
    let failed = outcomes
        .into_iter()
        .filter(|(_, outcome)| matches!(outcome, TrialOutcome::Failed(_)));
    failed.map(|(name, _)| name).collect()
}

#[test]
fn every_broken_store_is_caught_by_the_line_that_it_breaks() {
    let mut unnoticed = Vec::new();
    for (number, flaw) in FLAWS {
        let caught = failures(harness(Some(*flaw)), number);
        println!("{number}: {flaw:?} caught by {caught:?}");
        if caught.is_empty() {
            unnoticed.push((number, flaw));
        }
    }
    assert!(unnoticed.is_empty(), "not noticed: {unnoticed:?}");
}

#[test]
fn a_store_without_a_flaw_passes_where_the_broken_ones_fail() {
    let mut numbers: Vec<_> = FLAWS.iter().map(|(number, _)| *number).collect();
    numbers.dedup();
    for number in numbers {
        assert_eq!(failures(harness(None), number), Vec::<&str>::new(), "{number}");
    }
}

#[test]
fn a_system_that_vends_what_it_does_not_declare_is_caught() {
    let declared: Capabilities = MemorySystem::declared().without(Capability::List);
    let harness = InProcess {
        capabilities: declared,
        ..harness(None)
    };
    assert!(!failures(harness, "S1").is_empty());
}

#[test]
fn a_backend_that_shows_its_secrets_is_caught() {
    let harness = InProcess {
        texts_with_secret: |secret| vec![format!("cannot log in as {secret}")],
        ..harness(None)
    };
    assert!(!failures(harness, "S8").is_empty());
}

#[test]
fn a_system_that_takes_its_registrations_along_is_caught() {
    let make_system: MakeSystem = Box::new(|store, connect| {
        let system = make_system(None)(store, connect)?;
        Ok(Arc::new(SelfishSystem(system)) as Arc<dyn DiscoverySystem>)
    });
    let harness = InProcess {
        make_system: Arc::new(make_system),
        ..harness(None)
    };
    assert!(!failures(harness, "S4").is_empty());
}
