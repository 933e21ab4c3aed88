//! One line per trial, for whoever collects them.

use std::{fs::OpenOptions, io::Write, path::PathBuf, time::Duration};

use serde::Serialize;

use crate::runner::TrialOutcome;

/// The folder that report lines go to, if any.
const ENV: &str = "DISCOVERY_REPORT_DIR";

#[derive(Serialize)]
struct Line<'a> {
    backend: &'a str,
    suite: &'a str,
    number: &'a str,
    name: &'a str,
    outcome: &'a str,
    reason: Option<&'a str>,
    seconds: f64,
}

/// Appends a line to this process's file in the report folder.
pub(crate) fn write(
    backend: &str,
    suite: &str,
    number: &str,
    name: &str,
    outcome: &TrialOutcome,
    took: Duration,
) {
    let Some(folder) = std::env::var_os(ENV).map(PathBuf::from) else {
        return;
    };
    let (outcome, reason) = match outcome {
        TrialOutcome::Passed => ("passed", None),
        TrialOutcome::Failed(reason) => ("failed", Some(reason.as_str())),
        TrialOutcome::Ignored(reason) => ("ignored", Some(reason.as_str())),
    };
    let seconds = took.as_secs_f64();
    let line = Line {
        backend,
        suite,
        number,
        name,
        outcome,
        reason,
        seconds,
    };
    let mut text = serde_json::to_string(&line).expect("a report line is JSON");
    text.push('\n');
    let path = folder.join(format!("{backend}-{}.jsonl", std::process::id()));
    let file = OpenOptions::new().create(true).append(true).open(&path);
    // One write call, so that lines of trials that run at once do not mix.
    if let Err(error) = file.and_then(|mut file| file.write_all(text.as_bytes())) {
        eprintln!("cannot write {}: {error}", path.display());
    }
}
