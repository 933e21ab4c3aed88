//! What a test run came to: the matrix, the other targets, and what went wrong beside them.

use std::{collections::BTreeSet, fmt, process::ExitStatus};

use anyhow::Result;
use serde_json::json;

use crate::{
    backends::{self, BACKENDS},
    libtest::{self, Target},
    matrix::{Matrix, Outcome, Totals},
    workspace::Workspace,
};

/// A test run.
///
/// The trials of a conformance test are counted from what it reports, those of every other
/// target from what it prints. A target that fails without a failed test counts as one.
#[derive(Debug)]
pub(crate) struct Report {
    targets: Vec<Target>,
    matrix: Matrix,
    problems: Vec<String>,
}

impl Report {
    /// A report on what ran.
    pub(crate) fn new(targets: Vec<Target>, matrix: Matrix) -> Self {
        let malformed = matrix.malformed.iter();
        let mut problems: Vec<String> = malformed
            .map(|line| format!("malformed report: {line}"))
            .collect();
        for target in &targets {
            problems.extend(problem(target, &matrix));
        }
        Self {
            targets,
            matrix,
            problems,
        }
    }

    /// A report on a run that did not come about.
    pub(crate) fn broken(problem: String) -> Self {
        Self {
            targets: Vec::new(),
            matrix: Matrix::default(),
            problems: vec![problem],
        }
    }

    /// Notes programs that were built and did not run.
    pub(crate) fn expect_programs<'a>(&mut self, options: impl Iterator<Item = &'a String>) {
        for options in options {
            if !self.targets.iter().any(|target| target.options == *options) {
                self.problems.push(format!("{options}: did not run"));
            }
        }
    }

    /// Notes backends that have no conformance test, and such tests of no backend in the list.
    pub(crate) fn expect_backends(&mut self, workspace: &Workspace) {
        let tested = workspace.packages().iter();
        let tested = tested.filter(|package| package.has_conformance_test());
        let tested: BTreeSet<String> = tested.map(|package| package.name.clone()).collect();
        let listed: BTreeSet<String> = BACKENDS
            .iter()
            .map(|known| backends::package(known.name))
            .collect();
        for package in listed.difference(&tested) {
            self.problems.push(format!("{package}: has no conformance test"));
        }
        for package in tested.difference(&listed) {
            self.problems
                .push(format!("{package}: is not in the list of backends"));
        }
    }

    /// Notes a run that failed without saying where.
    pub(crate) fn expect_success(&mut self, status: ExitStatus) {
        if !status.success() && self.totals().failed == 0 {
            self.problems.push(format!("cargo test: {status}"));
        }
    }

    /// How many tests ended how.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals {
            passed: self.matrix.ended(Outcome::Passed).count(),
            failed: self.matrix.ended(Outcome::Failed).count() + self.problems.len(),
            skipped: self.matrix.ended(Outcome::Ignored).count(),
        };
        for target in self.others() {
            totals.passed += target.passed;
            totals.failed += target.failed;
            totals.skipped += target.ignored;
        }
        totals
    }

    /// The report for programs.
    pub(crate) fn json(&self) -> Result<String> {
        let Totals {
            passed,
            failed,
            skipped,
        } = self.totals();
        let value = json!({
            "passed": passed,
            "failed": failed,
            "skipped": skipped,
            "rows": self.matrix.rows(),
            "trials": self.matrix.trials,
            "targets": self.others().collect::<Vec<_>>(),
            "problems": self.problems,
        });
        Ok(serde_json::to_string_pretty(&value)? + "\n")
    }

    /// The targets that are counted by what they print.
    fn others(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(|target| backend(target).is_none())
    }

    fn ignored(&self) -> Vec<String> {
        let trials = self.matrix.ended(Outcome::Ignored).map(ToString::to_string);
        let tests = self
            .others()
            .flat_map(|target| named(target, &target.ignores))
            .collect::<Vec<_>>();
        trials.chain(tests).collect()
    }

    fn failed(&self) -> Vec<String> {
        let trials = self.matrix.ended(Outcome::Failed).map(ToString::to_string);
        let tests = self
            .others()
            .flat_map(|target| named(target, &target.failures))
            .collect::<Vec<_>>();
        trials.chain(tests).chain(self.problems.iter().cloned()).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.matrix.trials.is_empty() {
            writeln!(f, "{}", self.matrix)?;
        }
        for (title, lines) in [("ignored", self.ignored()), ("failed", self.failed())] {
            for line in &lines {
                writeln!(f, "{title}: {}", line.replace('\n', "\n    "))?;
            }
            if !lines.is_empty() {
                writeln!(f)?;
            }
        }
        let others: Vec<&Target> = self.others().filter(|target| !target.is_empty()).collect();
        if others.is_empty() {
            return Ok(());
        }
        writeln!(f, "{}", libtest::lay_out(&others))
    }
}

/// The package whose conformance test this is.
fn backend(target: &Target) -> Option<&str> {
    let package = target
        .options
        .strip_prefix("-p ")?
        .strip_suffix(" --test conformance")?;
    Some(package.strip_prefix("discovery-").unwrap_or(package))
}

/// What is wrong with a target, beside the tests of it that failed.
fn problem(target: &Target, matrix: &Matrix) -> Option<String> {
    let options = &target.options;
    let exit = target.exit.as_deref().unwrap_or(usual_exit(target));
    if !target.ended {
        return Some(format!("{options}: ended without a result ({exit})"));
    }
    let Some(backend) = backend(target) else {
        let silent = target.blamed && target.failed == 0;
        return silent.then(|| format!("{options}: failed, though no test did ({exit})"));
    };
    let mut reported = matrix.trials.iter().filter(|trial| trial.backend == backend);
    let ran = target.passed + target.failed + target.ignored;
    if ran > 0 && reported.clone().next().is_none() {
        return Some(format!("{options}: ran {ran} trials and reported none"));
    }
    let silent = target.blamed && !reported.any(|trial| trial.outcome == Outcome::Failed);
    silent.then(|| format!("{options}: failed, though it reported no failed trial ({exit})"))
}

/// How a process ends of which cargo says nothing: well, or like any test with failures.
fn usual_exit(target: &Target) -> &'static str {
    if target.blamed {
        "exit status: 101"
    } else {
        "exit status: 0"
    }
}

fn named<'a>(target: &'a Target, tests: &'a [String]) -> impl Iterator<Item = String> + 'a {
    tests.iter().map(|test| format!("{} {test}", target.options))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Trial;

    fn target(options: &str, passed: usize) -> Target {
        Target {
            options: options.into(),
            passed,
            ended: true,
            ..Target::default()
        }
    }

    fn matrix(outcomes: &[Outcome]) -> Matrix {
        let trial = |outcome: &Outcome| Trial {
            backend: "memory".into(),
            suite: "watch".into(),
            number: "W1".into(),
            name: "a watch begins with a snapshot".into(),
            outcome: *outcome,
            reason: None,
            seconds: 0.0,
        };
        Matrix {
            trials: outcomes.iter().map(trial).collect(),
            ..Matrix::default()
        }
    }

    const CONFORMANCE: &str = "-p discovery-memory --test conformance";

    #[test]
    fn trials_are_counted_once() {
        let targets = vec![target(CONFORMANCE, 2), target("-p discovery-core --lib", 3)];
        let report = Report::new(targets, matrix(&[Outcome::Passed, Outcome::Ignored]));
        assert_eq!(report.totals().to_string(), "4 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn a_target_that_ended_without_a_result_is_a_failure() {
        for options in [CONFORMANCE, "-p discovery-core --lib"] {
            let died = Target {
                ended: false,
                blamed: true,
                ..target(options, 0)
            };
            let report = Report::new(vec![died], matrix(&[Outcome::Passed]));
            assert_eq!(report.totals().failed, 1);
            assert!(report.problems[0].starts_with(options), "{report:?}");
        }
    }

    #[test]
    fn a_target_that_fails_in_silence_is_a_failure() {
        for options in [CONFORMANCE, "-p discovery-core --lib"] {
            let failed = Target {
                blamed: true,
                ..target(options, 1)
            };
            let report = Report::new(vec![failed], matrix(&[Outcome::Passed]));
            assert_eq!(report.totals().failed, 1, "{report:?}");
        }
    }

    #[test]
    fn a_reported_failure_is_counted_once_though_cargo_blames_the_target() {
        let failed = Target {
            blamed: true,
            failed: 1,
            ..target(CONFORMANCE, 0)
        };
        let report = Report::new(vec![failed], matrix(&[Outcome::Failed]));
        assert_eq!(report.totals().to_string(), "0 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn trials_that_were_not_reported_are_a_failure() {
        let report = Report::new(vec![target(CONFORMANCE, 5)], Matrix::default());
        assert_eq!(report.totals().to_string(), "0 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn a_malformed_line_is_a_failure() {
        let matrix = Matrix {
            malformed: vec!["memory.jsonl, line 1: cut".into()],
            ..Matrix::default()
        };
        let report = Report::new(Vec::new(), matrix);
        assert_eq!(report.totals().failed, 1);
    }

    #[test]
    fn a_program_that_did_not_run_is_a_failure() {
        let mut report = Report::new(vec![target("-p a --lib", 1)], Matrix::default());
        report.expect_programs(["-p a --lib".to_owned(), "-p b --lib".to_owned()].iter());
        assert_eq!(report.problems, ["-p b --lib: did not run"]);
    }
}
