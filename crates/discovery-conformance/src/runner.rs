//! Runs trials: under `cargo test`, or by number for the tests of the suite itself.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    sync::{Arc, Once, mpsc},
    thread,
    time::{Duration, SystemTime},
};

use discovery_core::{Cluster, InstanceId};
use libtest_mimic::{Arguments, Completion, Failed};
use tokio::runtime::{Builder, Runtime};

use crate::{
    Harness, Timing, journal, member, report, suite,
    trial::{Ctx, Trial},
};

/// How long one trial may take.
const LIMIT: Duration = Duration::from_secs(120);
/// Trials at once on a real clock: most of their time is waiting.
const AT_ONCE: usize = 4;
/// Backends whose servers must be there: their absence is a failure. Comma separated.
const REQUIRE: &str = "DISCOVERY_REQUIRE";
/// The suites to run, all by default. Comma separated.
const SUITES: &str = "DISCOVERY_SUITES";

/// How a trial ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrialOutcome {
    /// The contract was kept.
    Passed,
    /// It was not; what was seen.
    Failed(String),
    /// It does not apply, or cannot be tried here; why.
    Ignored(String),
}

/// Runs every trial against a backend: the whole `main` of a test target without the standard
/// harness. Takes the usual arguments of a test binary.
pub fn run(harness: impl Harness) -> ExitCode {
    let harness: Arc<dyn Harness> = Arc::new(harness);
    if member::be_one(&harness) {
        return ExitCode::SUCCESS;
    }
    prepare();
    let mut arguments = Arguments::from_args();
    if harness.timing() == Timing::Real {
        arguments.test_threads = arguments.test_threads.or(Some(AT_ONCE));
    }
    let wanted = names(SUITES);
    let trials = suite::all()
        .filter(|trial| wanted.is_empty() || wanted.contains(trial.suite))
        .map(|trial| {
            let harness = harness.clone();
            libtest_mimic::Trial::ignorable_test(format!("{}::{}", trial.number, trial.name), move || {
                match run_reported(&harness, trial) {
                    TrialOutcome::Passed => Ok(Completion::Completed),
                    TrialOutcome::Ignored(reason) => Ok(Completion::ignored_with(reason)),
                    TrialOutcome::Failed(reason) => Err(Failed::from(reason)),
                }
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Runs the trials of one number against a backend: name and outcome of each.
pub fn run_number(harness: &Arc<dyn Harness>, number: &str) -> Vec<(&'static str, TrialOutcome)> {
    prepare();
    let trials = suite::all().filter(|trial| trial.number == number);
    trials
        .map(|trial| (trial.name, run_limited(harness, trial)))
        .collect()
}

/// The numbers of every line of the contract that is tried, in order.
#[must_use]
pub fn numbers() -> Vec<&'static str> {
    let mut numbers: Vec<_> = suite::all().map(|trial| trial.number).collect();
    numbers.sort_by_key(|number| {
        let (letter, digits) = number.split_at(1);
        (letter, digits.parse::<u32>().unwrap_or(u32::MAX))
    });
    numbers.dedup();
    numbers
}

fn prepare() {
    journal::install();
    quiet_panics();
}

fn run_reported(harness: &Arc<dyn Harness>, trial: &'static Trial) -> TrialOutcome {
    let begun = SystemTime::now();
    let outcome = run_limited(harness, trial);
    let took = begun.elapsed().unwrap_or_default();
    report::write(
        harness.name(),
        trial.suite,
        trial.number,
        trial.name,
        &outcome,
        took,
    );
    outcome
}

/// Runs a trial on a thread of its own, so that one that hangs can be given up.
fn run_limited(harness: &Arc<dyn Harness>, trial: &'static Trial) -> TrialOutcome {
    let capabilities = harness.capabilities();
    if let Some(missing) = trial.needs.iter().find(|need| !capabilities.has(**need)) {
        return TrialOutcome::Ignored(format!(
            "{} does not declare `{}`",
            harness.name(),
            missing.name()
        ));
    }
    let (ended, end) = mpsc::sync_channel(1);
    let running = harness.clone();
    let spawned = thread::Builder::new()
        .name(format!("trial {}", trial.number))
        .spawn(move || {
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| run_one(&running, trial)));
            let _ = ended.send(outcome.unwrap_or_else(|_| TrialOutcome::Failed(last_panic())));
        });
    if let Err(error) = spawned {
        return TrialOutcome::Failed(format!("no thread for the trial: {error}"));
    }
    end.recv_timeout(LIMIT)
        .unwrap_or_else(|_| TrialOutcome::Failed(format!("still running after {LIMIT:?}")))
}

fn run_one(harness: &Arc<dyn Harness>, trial: &'static Trial) -> TrialOutcome {
    let runtime = runtime(harness.timing(), trial);
    let outcome = runtime.block_on(async {
        let backend = match harness.start().await {
            Ok(backend) => Arc::from(backend),
            Err(reason) if is_required(harness.name()) => return TrialOutcome::Failed(reason),
            Err(reason) => return TrialOutcome::Ignored(reason),
        };
        let name = format!("{}-{}", trial.number, InstanceId::new_v4());
        let cluster = Cluster::try_new(name).expect("a valid cluster");
        let trying = (trial.run)(Ctx {
            harness: harness.clone(),
            backend,
            cluster,
        });
        // A task, so that what it spawned sees it end by panic, too.
        match tokio::spawn(trying).await {
            Ok(()) => TrialOutcome::Passed,
            Err(_) => TrialOutcome::Failed(String::new()),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    match outcome {
        TrialOutcome::Failed(reason) if reason.is_empty() => TrialOutcome::Failed(last_panic()),
        outcome => outcome,
    }
}

fn runtime(timing: Timing, trial: &Trial) -> Runtime {
    let built = match timing {
        Timing::Virtual if !trial.real_time => Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build(),
        _ => Builder::new_current_thread().enable_all().build(),
    };
    built.expect("a runtime")
}

/// Whether the absence of a backend's server is a failure.
pub(crate) fn is_required(backend: &str) -> bool {
    names(REQUIRE).contains(backend)
}

fn names(variable: &str) -> BTreeSet<String> {
    let value = std::env::var(variable).unwrap_or_default();
    value
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

fn last_panic() -> String {
    LAST_PANIC.take()
}

/// Keeps panics of trials for their report instead of printing them.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !thread::current()
                .name()
                .is_some_and(|name| name.starts_with("trial "))
            {
                return print(info);
            }
            let message = info.payload_as_str().unwrap_or("a panic without a message");
            let place = info
                .location()
                .map(|at| format!(" ({}:{})", at.file(), at.line()))
                .unwrap_or_default();
            LAST_PANIC.set(format!("{message}{place}"));
        }));
    });
}
