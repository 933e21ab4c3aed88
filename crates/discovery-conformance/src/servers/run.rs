//! Runs tests that need a server.

use std::{pin::Pin, process::ExitCode};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tokio::runtime::Builder;

use crate::runner::is_required;

/// A test by its name: what it does with a server of its own.
pub type Test<S> = (&'static str, fn(S) -> Pin<Box<dyn Future<Output = ()>>>);

/// Runs tests, each with a server that `start` started for it: the whole `main` of a test target
/// without the standard harness.
///
/// Where there is no server on this machine, the tests show as ignored, with the reason that
/// `start` gave; or they fail, if `DISCOVERY_REQUIRE` names the backend.
pub fn run<S, F>(backend: &'static str, start: fn() -> F, tests: &[Test<S>]) -> ExitCode
where
    S: 'static,
    F: Future<Output = Result<S, String>> + 'static,
{
    let trial = |(name, test): &Test<S>| {
        let test = *test;
        Trial::ignorable_test(*name, move || {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                match start().await {
                    Ok(server) => test(server).await,
                    Err(reason) if is_required(backend) => return Err(Failed::from(reason)),
                    Err(reason) => return Ok(Completion::ignored_with(reason)),
                }
                Ok(Completion::Completed)
            })
        })
    };
    let trials = tests.iter().map(trial).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
