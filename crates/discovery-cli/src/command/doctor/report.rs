//! What an examination shows: the system, one row per check, and a verdict.

use std::time::Duration;

use discovery::{Bounds, Capability, systems::DiscoverySystem};
use serde::Serialize;

use super::finding::{Finding, Status};
use crate::{
    exit::Exit,
    failure::Failure,
    output::{BAD, BOLD, FAINT, GOOD, ODD, Output},
};

/// The width of the column of checks.
const CHECK: usize = 13;
/// The width of the column of times.
const TIME: usize = 10;

#[derive(Serialize)]
struct SystemObject<'a> {
    event: &'static str,
    name: &'a str,
    source: &'a str,
    cluster: &'a str,
    ttl_ms: u64,
    capabilities: Vec<&'static str>,
    bounds: BoundsObject,
}

#[derive(Serialize)]
struct BoundsObject {
    min_ttl_ms: u64,
    default_ttl_ms: u64,
    expiry_slack_ms: u64,
    propagation_ms: u64,
    watch_silence_ms: u64,
}

#[derive(Serialize)]
struct CheckObject<'a> {
    event: &'static str,
    check: &'static str,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    took_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_ms: Option<u64>,
    #[serde(skip_serializing_if = "str::is_empty")]
    what: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

#[derive(Serialize)]
struct Verdict {
    event: &'static str,
    healthy: bool,
    problems: usize,
    took_ms: f64,
}

/// Shows findings, and remembers what was wrong.
pub(super) struct Report<'a> {
    output: &'a Output,
    problems: Vec<(&'static str, Failure)>,
}

impl<'a> Report<'a> {
    pub(super) fn new(output: &'a Output) -> Self {
        Self {
            output,
            problems: Vec::new(),
        }
    }

    /// What the system is, and what it says of itself.
    pub(super) fn introduce(&self, system: &dyn DiscoverySystem, ttl: Duration) -> Result<(), Failure> {
        let (name, cluster) = (system.name(), system.cluster().as_str());
        let peers = system.peer_discovery();
        let source = peers.as_ref().map_or(name, |peers| peers.name());
        let (capabilities, bounds) = (system.capabilities(), system.capabilities().bounds());
        let object = SystemObject {
            event: "system",
            name,
            source,
            cluster,
            ttl_ms: millis(ttl),
            capabilities: capabilities.iter().map(Capability::name).collect(),
            bounds: BoundsObject {
                min_ttl_ms: millis(bounds.min_ttl),
                default_ttl_ms: millis(bounds.default_ttl),
                expiry_slack_ms: millis(bounds.expiry_slack),
                propagation_ms: millis(bounds.propagation),
                watch_silence_ms: millis(bounds.watch_silence),
            },
        };
        let names = |has: bool| {
            let all = Capability::ALL.into_iter();
            let names: Vec<_> = all
                .filter(|capability| capabilities.has(*capability) == has)
                .map(Capability::name)
                .collect();
            names.join(", ")
        };
        let rows = [
            ("system", format!("{source} ({name}), cluster {cluster}")),
            ("can", names(true)),
            ("cannot", names(false)),
            ("declares", declared(bounds)),
        ];
        let rows = rows.map(|(name, value)| format!("{BOLD}{name:<8}{BOLD:#}  {value}"));
        self.output.say(format!("{}\n", rows.join("\n")), &object)
    }

    /// Waits for a check, and shows that it does.
    pub(super) async fn waiting<T>(&self, what: &str, check: impl Future<Output = T>) -> T {
        self.output.waiting(what, check).await
    }

    /// Shows what a check found, and hands back how it ended.
    pub(super) fn add(&mut self, check: &'static str, finding: Finding) -> Result<Status, Failure> {
        let failure = finding.failure.as_ref();
        let object = CheckObject {
            event: "check",
            check,
            status: finding.status,
            took_ms: finding.took.map(precise),
            limit_ms: finding.limit.map(millis),
            what: &finding.what,
            code: failure.map(Failure::code),
            problem: failure.map(Failure::message),
            fix: failure.and_then(Failure::hint).map(str::to_owned),
        };
        self.output.say(row(check, &finding), &object)?;
        self.problems
            .extend(finding.failure.map(|failure| (check, failure)));
        Ok(finding.status)
    }

    /// The end: healthy, or the worst that was found.
    pub(super) fn conclude(self, took: Duration) -> Result<(), Failure> {
        let object = Verdict {
            event: "verdict",
            healthy: self.problems.is_empty(),
            problems: self.problems.len(),
            took_ms: precise(took),
        };
        let took = shown(took);
        let text = match self.problems.len() {
            0 => format!("\n{GOOD}Everything works{GOOD:#}, found out in {took}."),
            1 => format!("\n{BAD}1 problem{BAD:#}, found out in {took}."),
            count => format!("\n{BAD}{count} problems{BAD:#}, found out in {took}."),
        };
        self.output.say(text, &object)?;
        worst(self.problems).map_or(Ok(()), Err)
    }
}

/// What to report of many problems.
fn worst(problems: Vec<(&'static str, Failure)>) -> Option<Failure> {
    let count = problems.len();
    let (check, failure) = problems.into_iter().min_by_key(|(_, failure)| rank(failure))?;
    Some(match count {
        1 => failure.during(format!("check `{check}`")),
        _ => failure.during(format!("{count} problems, one in check `{check}`")),
    })
}

/// What decides how the process ends. A backend that could not be asked comes first: what else
/// is wrong may come from that.
fn rank(failure: &Failure) -> u8 {
    match failure.exit() {
        Exit::Unasked => 0,
        Exit::Unexpected => 1,
        Exit::Taken => 2,
        _ => 3,
    }
}

fn declared(bounds: Bounds) -> String {
    let Bounds {
        min_ttl,
        default_ttl,
        expiry_slack,
        propagation,
        watch_silence,
    } = bounds;
    let mut declared = format!(
        "TTL from {min_ttl:?}, {default_ttl:?} unless asked for; a killed peer is gone {expiry_slack:?} after its TTL; a write is seen within {propagation:?}"
    );
    if !watch_silence.is_zero() {
        declared.push_str(&format!("; a silent watch is noticed within {watch_silence:?}"));
    }
    declared
}

fn row(check: &str, finding: &Finding) -> String {
    let (style, mark) = match finding.status {
        Status::Ok => (GOOD, '✔'),
        Status::Late => (ODD, '!'),
        Status::Failed => (BAD, '✘'),
        Status::NotOffered | Status::Skipped => (FAINT, '–'),
    };
    let took = finding.took.map_or_else(String::new, shown);
    let limit = match finding.limit {
        Some(limit) if finding.status == Status::Ok => format!("  {FAINT}(limit {limit:?}){FAINT:#}"),
        _ => String::new(),
    };
    let what = match &finding.failure {
        None => format!("{}{limit}", finding.what),
        Some(failure) => {
            let fix = failure.hint().map(|fix| format!("\n{:4}→ {fix}", ""));
            format!("{}{}", failure.message(), fix.unwrap_or_default())
        }
    };
    format!("  {style}{mark}{style:#} {check:<CHECK$}  {took:>TIME$}  {what}")
}

/// As precise as it is worth reading.
fn shown(took: Duration) -> String {
    match took.as_millis() {
        0..10 => format!("{:.2} ms", precise(took)),
        10..10_000 => format!("{} ms", took.as_millis()),
        _ => format!("{:.1} s", took.as_secs_f32()),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds, to the hundredth.
fn precise(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100_000.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use discovery::ErrorKind;

    use super::*;

    fn problem(kind: ErrorKind) -> Failure {
        Failure::new(kind, "so").with_hint("do this")
    }

    #[test]
    fn the_worst_problem_decides_how_it_ends() {
        use ErrorKind::{Unavailable, Unexpected, WorkerIdCollision};
        for (kinds, exit) in [
            (&[Unexpected, Unavailable, WorkerIdCollision][..], 4),
            (&[WorkerIdCollision, Unexpected], 1),
            (&[WorkerIdCollision], 5),
        ] {
            let problems = kinds.iter().map(|kind| ("probe", problem(*kind)));
            let failure = worst(problems.collect()).unwrap();
            assert_eq!(failure.exit().code(), exit, "{kinds:?}");
            let line = failure.line();
            assert!(line.contains("`probe`") && line.contains("do this"), "{line}");
        }
        assert!(worst(Vec::new()).is_none());
    }

    #[test]
    fn a_row_says_how_long_it_took_and_what_to_do() {
        let plain = |finding: &Finding| anstream::adapter::strip_str(&row("find", finding)).to_string();
        let limit = Duration::from_millis(500);
        let fine = plain(&Finding::timed("found", Duration::from_micros(1_234), limit));
        assert_eq!(fine, "  ✔ find              1.23 ms  found  (limit 500ms)");
        let late = plain(&Finding::timed("found", Duration::from_millis(700), limit));
        assert!(
            late.starts_with("  ! find               700 ms  found, but later"),
            "{late}"
        );
        let failed = plain(&Finding::failed(problem(ErrorKind::Timeout), limit));
        assert!(failed.ends_with("500 ms  so\n    → do this"), "{failed}");
        let nothing = plain(&Finding::not_offered());
        assert!(
            nothing.starts_with("  – find ") && nothing.ends_with("not offer it"),
            "{nothing}"
        );
    }
}
