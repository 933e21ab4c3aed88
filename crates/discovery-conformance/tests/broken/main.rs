//! The suite is itself tested: every broken twin is caught by the trials of its number.
//!
//! With `--table`, prints every line of the contract with its twins and what catches them.

mod least;
mod twins;

use std::{collections::BTreeMap, process::ExitCode, sync::Arc};

use discovery_conformance::{Harness, TrialOutcome, numbers, run_number};
use libtest_mimic::{Arguments, Failed, Trial};

use self::twins::{Twin, least, sound, twins};

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--table") {
        return table();
    }
    let mut trials: Vec<_> = twins().into_iter().map(trial).collect();
    trials.extend(twins_by_number().into_keys().map(control));
    let watches = numbers().into_iter().filter(|number| number.starts_with('W'));
    trials.extend(watches.map(modest));
    trials.push(Trial::test("every_line_has_a_twin", every_line_has_a_twin));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial(twin: Twin) -> Trial {
    Trial::test(
        format!("{}::{}", twin.number, twin.name),
        move || match failures(&(twin.make)(), twin.number).is_empty() {
            true => Err(Failed::from("went unnoticed")),
            false => Ok(()),
        },
    )
}

/// Where the broken ones fail, a backend without a flaw passes.
fn control(number: &'static str) -> Trial {
    Trial::test(format!("{number}::passes_without_a_flaw"), move || {
        let failed = failures(&sound(number), number);
        match failed.is_empty() {
            true => Ok(()),
            false => Err(Failed::from(failed.join(", "))),
        }
    })
}

/// No trial of watches asks for more than a store must tell.
fn modest(number: &'static str) -> Trial {
    Trial::test(
        format!("{number}::passes_with_the_least_that_must_be_told"),
        move || {
            let failed = failures(&least(), number);
            match failed.is_empty() {
                true => Ok(()),
                false => Err(Failed::from(failed.join(", "))),
            }
        },
    )
}

/// Lines about the manager are tried over scripted sources, and its own races are planted in
/// its unit tests; every other line can be broken by a backend.
fn every_line_has_a_twin() -> Result<(), Failed> {
    let twins = twins_by_number();
    let without: Vec<_> = numbers()
        .into_iter()
        .filter(|number| !number.starts_with('M') && !twins.contains_key(number))
        .collect();
    match without.is_empty() {
        true => Ok(()),
        false => Err(Failed::from(without.join(", "))),
    }
}

/// Prints each line of the contract, its twins, and which trials catch each.
fn table() -> ExitCode {
    let (mut twins, mut code) = (twins_by_number(), ExitCode::SUCCESS);
    for number in numbers() {
        for twin in twins.remove(number).unwrap_or_default() {
            let caught = failures(&(twin.make)(), number);
            if caught.is_empty() {
                code = ExitCode::FAILURE;
            }
            let by = if caught.is_empty() {
                "NOBODY".to_owned()
            } else {
                caught.join(", ")
            };
            println!("{number:<4} {:<24} {by}", twin.name);
        }
    }
    code
}

fn twins_by_number() -> BTreeMap<&'static str, Vec<Twin>> {
    let mut by_number = BTreeMap::<_, Vec<_>>::new();
    for twin in twins() {
        by_number.entry(twin.number).or_default().push(twin);
    }
    by_number
}

/// The trials of a number that fail on a backend.
fn failures(harness: &Arc<dyn Harness>, number: &str) -> Vec<&'static str> {
    let outcomes = run_number(harness, number);
    let tried = |(_, outcome): &(_, TrialOutcome)| !matches!(outcome, TrialOutcome::Ignored(_));
    assert!(outcomes.iter().any(tried), "no trial of {number} was run");
    let failed = outcomes
        .into_iter()
        .filter(|(_, outcome)| matches!(outcome, TrialOutcome::Failed(_)));
    failed.map(|(name, _)| name).collect()
}
