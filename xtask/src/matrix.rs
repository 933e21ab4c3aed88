//! The test matrix: the lines that conformance tests report, as a table.
//!
//! Every conformance test writes a file of its own into a folder that we name, with a line of
//! JSON for each trial. Nothing else knows of a trial why it was ignored and how long it took.

use std::{collections::BTreeMap, fmt, fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::table::table;

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Totals {
    /// As they should.
    pub(crate) passed: usize,
    /// Otherwise, or without a word.
    pub(crate) failed: usize,
    /// They were not run.
    pub(crate) skipped: usize,
}

impl Totals {
    /// Tells whether something ran and nothing failed.
    pub(crate) fn good(self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// A reported line: one trial of one backend.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Trial {
    /// The backend that was tried.
    pub(crate) backend: String,
    /// The suite that the trial belongs to.
    pub(crate) suite: String,
    /// The number of the requirement, such as `R1`.
    pub(crate) number: String,
    /// What it tries.
    pub(crate) name: String,
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// Why it failed or was ignored.
    pub(crate) reason: Option<String>,
    /// How long it took.
    pub(crate) seconds: f64,
}

/// How a trial ended.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// As it should.
    Passed,
    /// Otherwise.
    Failed,
    /// It was not run.
    Ignored,
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            backend,
            suite,
            number,
            name,
            ..
        } = self;
        let reason = self.reason.as_deref().unwrap_or("no reason given");
        write!(f, "{backend} {suite} {number} {name}: {reason}")
    }
}

/// What all conformance tests of a run reported.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Matrix {
    /// The trials, in the order reported.
    pub(crate) trials: Vec<Trial>,
    /// Lines that could not be read, with the reason.
    pub(crate) malformed: Vec<String>,
}

/// One line of the matrix.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct Row {
    backend: String,
    suite: String,
    passed: usize,
    failed: usize,
    ignored: usize,
    seconds: f64,
}

impl Matrix {
    /// Reads every file in the folder.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_file() {
                files.push(path);
            }
        }
        files.sort();
        let mut matrix = Self::default();
        for path in files {
            let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            matrix.add(&name, &String::from_utf8_lossy(&bytes));
        }
        Ok(matrix)
    }

    fn add(&mut self, file: &str, text: &str) {
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            match serde_json::from_str(line) {
                Ok(trial) => self.trials.push(trial),
                Err(error) => self
                    .malformed
                    .push(format!("{file}, line {}: {error}", index + 1)),
            }
        }
    }

    /// The trials that ended so.
    pub(crate) fn ended(&self, outcome: Outcome) -> impl Iterator<Item = &Trial> {
        self.trials.iter().filter(move |trial| trial.outcome == outcome)
    }

    /// The matrix itself: a row per backend and suite, sorted.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let mut rows = BTreeMap::new();
        for trial in &self.trials {
            let row: &mut Row = rows.entry((&trial.backend, &trial.suite)).or_default();
            row.seconds += trial.seconds;
            match trial.outcome {
                Outcome::Passed => row.passed += 1,
                Outcome::Failed => row.failed += 1,
                Outcome::Ignored => row.ignored += 1,
            }
        }
        let named = rows.into_iter().map(|((backend, suite), row)| Row {
            backend: backend.clone(),
            suite: suite.clone(),
            ..row
        });
        named.collect()
    }
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = ["backend", "suite", "passed", "failed", "ignored", "seconds"];
        let rows: Vec<Vec<String>> = self.rows().iter().map(Row::cells).collect();
        f.write_str(&table(&header, 2, &rows))
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        vec![
            self.backend.clone(),
            self.suite.clone(),
            self.passed.to_string(),
            self.failed.to_string(),
            self.ignored.to_string(),
            format!("{:.2}", self.seconds),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(suite: &str, outcome: &str, reason: &str) -> String {
        format!(
            r#"{{"backend":"memory","suite":"{suite}","number":"R1","name":"is found","outcome":"{outcome}","reason":{reason},"seconds":0.25}}"#
        )
    }

    fn matrix(text: &str) -> Matrix {
        let mut matrix = Matrix::default();
        matrix.add("memory.jsonl", text);
        matrix
    }

    #[test]
    fn trials_are_counted_per_backend_and_suite() {
        let lines = [
            line("watch", "passed", "null"),
            line("lookup", "passed", "null"),
            line("watch", "failed", r#""no event""#),
            line("watch", "ignored", r#""no expiry""#),
        ];
        let matrix = matrix(&lines.join("\n"));
        assert_eq!(
            matrix.to_string(),
            "backend  suite   passed  failed  ignored  seconds\n\
             memory   lookup       1       0        0     0.25\n\
             memory   watch        1       1        1     0.75\n"
        );
        let ignored: Vec<String> = matrix.ended(Outcome::Ignored).map(Trial::to_string).collect();
        assert_eq!(ignored, ["memory watch R1 is found: no expiry"]);
    }

    #[test]
    fn a_malformed_line_is_named_and_the_others_count() {
        let good = line("watch", "passed", "null");
        let cut = &good[..good.len() / 2];
        let foreign = line("watch", "postponed", "null");
        let matrix = matrix(&format!("{good}\nnot json\n\n{foreign}\n{good}\n{cut}"));
        assert_eq!(matrix.trials.len(), 2);
        let places: Vec<&str> = matrix
            .malformed
            .iter()
            .filter_map(|text| text.split(':').next())
            .collect();
        assert_eq!(
            places,
            [
                "memory.jsonl, line 2",
                "memory.jsonl, line 4",
                "memory.jsonl, line 6"
            ]
        );
    }

    #[test]
    fn a_run_without_tests_is_no_success() {
        let mut totals = Totals::default();
        assert!(!totals.good());
        totals.skipped = 1;
        assert!(!totals.good());
        totals.passed = 1;
        assert!(totals.good());
        totals.failed = 1;
        assert!(!totals.good());
        assert_eq!(totals.to_string(), "1 passed, 1 failed, 1 skipped");
    }
}
