//! What `cargo test` writes, read line by line: which target runs and how its tests ended.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::table::table;

/// What a test target did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Target {
    /// The options that choose it, such as `-p discovery-core --lib`.
    pub(crate) options: String,
    /// Tests that passed.
    pub(crate) passed: usize,
    /// Tests that failed.
    pub(crate) failed: usize,
    /// Tests that were not run.
    pub(crate) ignored: usize,
    /// How long they took.
    pub(crate) seconds: f64,
    /// Whether it came as far as writing a result.
    pub(crate) ended: bool,
    /// Whether cargo says that it failed.
    pub(crate) blamed: bool,
    /// How its process ended, if not well.
    pub(crate) exit: Option<String>,
    /// The names of the failed tests.
    pub(crate) failures: Vec<String>,
    /// The names of the ignored tests, with reasons where given.
    pub(crate) ignores: Vec<String>,
}

/// Reads the output of `cargo test`.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    names: BTreeMap<String, String>,
    targets: Vec<Target>,
}

impl Reader {
    /// A reader that knows the options of each test program, by its file name, and of each
    /// library's documentation, by its name in Rust code.
    pub(crate) fn new(names: BTreeMap<String, String>) -> Self {
        let targets = Vec::new();
        Self { names, targets }
    }

    /// Takes in the next line.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(name) = heading(line) {
            let options = self.names.get(name).map_or(name, String::as_str).to_owned();
            self.targets.push(Target {
                options,
                ..Target::default()
            });
        } else if let Some(options) = blamed(line) {
            self.blame(options);
        } else if let Some(target) = self.targets.last_mut() {
            target.line(line);
        }
    }

    /// The targets that ran, in their order.
    pub(crate) fn targets(&self) -> &[Target] {
        &self.targets
    }

    fn blame(&mut self, options: &str) {
        if let Some(target) = self.targets.iter_mut().find(|target| target.options == options) {
            target.blamed = true;
            return;
        }
        self.targets.push(Target {
            options: options.to_owned(),
            blamed: true,
            ..Target::default()
        });
    }
}

impl Target {
    fn line(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.ended = true;
            self.passed += count(counts, "passed");
            self.failed += count(counts, "failed");
            self.ignored += count(counts, "ignored");
            self.seconds += seconds(counts);
        } else if let Some((name, outcome)) = outcome(line) {
            if outcome == "FAILED" {
                self.failures.push(name.to_owned());
            } else if let Some(reason) = outcome.strip_prefix("ignored") {
                let reason = reason.trim_start_matches(", ");
                let reason = if reason.is_empty() {
                    "no reason given"
                } else {
                    reason
                };
                self.ignores.push(format!("{name}: {reason}"));
            }
        } else if let Some(exit) = exit(line) {
            self.exit = Some(exit.to_owned());
        }
    }

    /// Tells whether it holds no test at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.passed + self.failed + self.ignored == 0
    }

    /// Cells for a row of the table.
    fn cells(&self) -> Vec<String> {
        vec![
            self.options.clone(),
            self.passed.to_string(),
            self.failed.to_string(),
            self.ignored.to_string(),
            format!("{:.2}", self.seconds),
        ]
    }
}

/// Lays out the targets, a row each.
pub(crate) fn lay_out(targets: &[&Target]) -> String {
    let header = ["unit and doc tests", "passed", "failed", "ignored", "seconds"];
    let rows: Vec<Vec<String>> = targets.iter().map(|target| target.cells()).collect();
    table(&header, 1, &rows)
}

/// The program that a heading such as `     Running tests/a.rs (target/debug/deps/a-0f)`
/// names, or the library of `   Doc-tests a`.
fn heading(line: &str) -> Option<&str> {
    if let Some(library) = line.strip_prefix("   Doc-tests ") {
        return Some(library);
    }
    let (_, path) = line.strip_prefix("     Running ")?.rsplit_once('(')?;
    path.strip_suffix(')')?.rsplit('/').next()
}

/// The target of a line in cargo's closing list of those that failed.
fn blamed(line: &str) -> Option<&str> {
    let options = line.strip_prefix("    `")?.strip_suffix('`')?;
    options.starts_with("-p ").then_some(options)
}

/// Name and outcome of a line such as `test a::b ... ok`.
fn outcome(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("test ")?.rsplit_once(" ... ")
}

/// The end of a line such as ``process didn't exit successfully: `a` (signal: 9, SIGKILL)``.
fn exit(line: &str) -> Option<&str> {
    let text = line
        .trim_start()
        .strip_prefix("process didn't exit successfully: ")?;
    text.rsplit_once(" (")?.1.strip_suffix(')')
}

/// The number before a word, in `ok. 3 passed; 0 failed; …`.
fn count(counts: &str, word: &str) -> usize {
    let part = counts
        .split(['.', ';'])
        .find_map(|part| part.trim().strip_suffix(word));
    part.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// The seconds in `…; finished in 0.12s`.
fn seconds(counts: &str) -> f64 {
    let text = counts
        .rsplit_once("finished in ")
        .and_then(|(_, text)| text.strip_suffix('s'));
    text.and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Reader {
        let names = [
            ("core-0f", "-p core --lib"),
            ("fault-1f", "-p http --test fault"),
            ("core", "-p core --doc"),
        ];
        let names = names.map(|(name, options)| (name.to_owned(), options.to_owned()));
        let mut reader = Reader::new(names.into());
        text.lines().for_each(|line| reader.line(line));
        reader
    }

    #[test]
    fn results_belong_to_the_target_that_runs() {
        let reader = read(
            "     Running unittests src/lib.rs (target/debug/deps/core-0f)\n\
             \n\
             running 3 tests\n\
             test id::tests::a ... ok\n\
             test id::tests::b ... FAILED\n\
             test id::tests::c ... ignored, needs a server\n\
             test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.50s\n\
             \u{20}  Doc-tests core\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.25s\n\
             test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.25s\n\
             error: 1 target failed:\n    `-p core --lib`\n",
        );
        let [unit, doc] = reader.targets() else {
            panic!("{reader:?}")
        };
        assert_eq!(unit.options, "-p core --lib");
        assert_eq!((unit.passed, unit.failed, unit.ignored), (1, 1, 1));
        assert_eq!(unit.failures, ["id::tests::b"]);
        assert_eq!(unit.ignores, ["id::tests::c: needs a server"]);
        assert!(unit.blamed && unit.ended);
        assert_eq!(
            (doc.options.as_str(), doc.passed, doc.seconds),
            ("-p core --doc", 3, 0.5)
        );
        assert!(!doc.blamed);
    }

    #[test]
    fn a_target_that_died_has_no_result_and_is_blamed() {
        let reader = read(
            "     Running tests/fault.rs (target/debug/deps/fault-1f)\n\
             running 3 tests\n\
             error: test failed, to rerun pass `-p http --test fault`\n\
             \n\
             Caused by:\n\
             \u{20} process didn't exit successfully: `/x (y)/fault-1f` (signal: 6, SIGABRT: process abort signal)\n\
             error: 1 target failed:\n    `-p http --test fault`\n",
        );
        let [target] = reader.targets() else {
            panic!("{reader:?}")
        };
        assert!(target.blamed && !target.ended);
        assert_eq!(
            target.exit.as_deref(),
            Some("signal: 6, SIGABRT: process abort signal")
        );
    }

    #[test]
    fn what_cargo_blames_is_listed_even_if_it_was_not_seen_running() {
        let reader = read("error: 1 target failed:\n    `-p other --bin x`\n");
        assert!(reader.targets()[0].blamed);
    }
}
