//! What a demonstration shows, step by step, and what it expects of each.

use std::time::Duration;

use discovery::{Bounds, ErrorKind};
use rustix::process::Signal;
use serde::Serialize;
use tokio::time::Instant;

use super::{
    board::{Board, Number},
    fleet::Fleet,
};
use crate::{
    failure::Failure,
    output::{BAD, BOLD, FAINT, GOOD, Output},
};

/// What noticing may take beyond what the system declares.
const MARGIN: Duration = Duration::from_secs(1);
/// How long the workers may take to start and to meet.
const START: Duration = Duration::from_secs(10);
/// How long after its limit a change is still waited for, to tell how late it was.
const LATE: Duration = Duration::from_secs(2);

/// How long each change may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Until a killed worker is gone.
    pub(super) kill: Duration,
    /// Until a polite leave, or a newcomer, is known.
    pub(super) notice: Duration,
}

impl Limits {
    /// What a system declares, plus a margin for processes to notice.
    pub(super) fn new(ttl: Duration, bounds: Bounds) -> Self {
        Self {
            kill: ttl + bounds.expiry_slack + MARGIN,
            notice: bounds.propagation + MARGIN,
        }
    }
}

/// Tells the story, and keeps count of what held.
pub(super) struct Story<'a> {
    pub(super) fleet: Fleet,
    pub(super) limits: Limits,
    pub(super) output: &'a Output,
    pub(super) failed: usize,
}

#[derive(Serialize)]
struct StepObject<'a> {
    event: &'static str,
    step: &'static str,
    held: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    observers: Option<usize>,
    what: &'a str,
}

struct Step {
    name: &'static str,
    what: String,
    began: Instant,
    limit: Duration,
}

impl Story<'_> {
    /// Everything, in order.
    pub(super) async fn tell(&mut self, workers: usize) -> Result<(), Failure> {
        self.meet(workers).await?;
        let victim = workers.div_ceil(2);
        self.part(victim, "kill", Signal::KILL).await?;
        self.part(workers, "leave", Signal::TERM).await?;
        self.join().await?;
        self.stay()
    }

    async fn meet(&mut self, workers: usize) -> Result<(), Failure> {
        let began = Instant::now();
        for _ in 0..workers {
            self.fleet.recruit().await?;
        }
        let what =
            format!("{workers} processes registered and found each other, by worker id and instance id");
        let step = Step {
            name: "meet",
            what,
            began,
            limit: START,
        };
        let all = move |board: &Board| board.all_found().filter(|_| board.present().len() == workers);
        self.expect(step, all).await
    }

    async fn part(&mut self, worker: Number, name: &'static str, signal: Signal) -> Result<(), Failure> {
        let pid = self.fleet.pid(worker).unwrap_or_default();
        let began = self.fleet.end(worker, signal)?;
        let (what, limit) = match signal {
            Signal::KILL => (
                format!("worker {worker} (pid {pid}) killed with SIGKILL"),
                self.limits.kill,
            ),
            _ => (
                format!("worker {worker} (pid {pid}) asked to leave with SIGTERM"),
                self.limits.notice,
            ),
        };
        let step = Step {
            name,
            what,
            began,
            limit,
        };
        self.expect(step, move |board| board.lost_by_all(worker)).await
    }

    async fn join(&mut self) -> Result<(), Failure> {
        let worker = self.fleet.recruit().await?;
        let live = self
            .fleet
            .until(Instant::now() + START, |board| board.live_since(worker));
        let Some(began) = self.output.waiting("a newcomer starts", live).await? else {
            return Err(Failure::new(
                ErrorKind::Timeout,
                format!("worker {worker} did not start within {START:?}"),
            ));
        };
        let pid = self.fleet.pid(worker).unwrap_or_default();
        let step = Step {
            name: "join",
            what: format!("worker {worker} (pid {pid}) registered as a newcomer"),
            began,
            limit: self.limits.notice,
        };
        self.expect(step, move |board| board.found_by_all(worker)).await
    }

    /// Nobody who was there may have been lost on the way.
    fn stay(&mut self) -> Result<(), Failure> {
        let wrongly = self.fleet.board.wrongly_lost();
        let held = wrongly.is_empty();
        self.failed += usize::from(!held);
        let what = match wrongly.first() {
            None => "nobody who was there was ever lost by anybody".to_owned(),
            Some((observer, worker)) => format!(
                "{} times a worker was lost although it was there, first {worker} by {observer}",
                wrongly.len()
            ),
        };
        let object = StepObject {
            event: "step",
            step: "stay",
            held,
            delay_ms: None,
            limit_ms: None,
            observers: None,
            what: &what,
        };
        self.output
            .say(format!("  {} {:<6} {what}", mark(held), "stay"), &object)
    }

    async fn expect(&mut self, step: Step, shown: impl Fn(&Board) -> Option<Instant>) -> Result<(), Failure> {
        let waited = self.fleet.until(step.began + step.limit + LATE, shown);
        let at = self.output.waiting(&step.what, waited).await?;
        let delay = at.map(|at| at.saturating_duration_since(step.began));
        let held = delay.is_some_and(|delay| delay <= step.limit);
        self.failed += usize::from(!held);
        self.report(&step, delay, held)?;
        match (delay, self.fleet.board.trouble()) {
            (None, Some(trouble)) => Err(Failure::new(
                ErrorKind::Unavailable,
                format!("the workers lost the system: {trouble}"),
            )),
            _ => Ok(()),
        }
    }

    fn report(&self, step: &Step, delay: Option<Duration>, held: bool) -> Result<(), Failure> {
        let Step {
            name, what, limit, ..
        } = step;
        let observers = self.fleet.board.present().len() - usize::from(matches!(*name, "join"));
        let object = StepObject {
            event: "step",
            step: name,
            held,
            delay_ms: delay.map(millis),
            limit_ms: Some(millis(*limit)),
            observers: Some(observers),
            what,
        };
        let known = match delay {
            Some(delay) => format!(
                "known to all {observers} after {BOLD}{:.2} s{BOLD:#}",
                delay.as_secs_f32()
            ),
            None => format!("{BAD}not known to all {observers}{BAD:#}"),
        };
        let limit = format!("{FAINT}(limit {:.1} s){FAINT:#}", limit.as_secs_f32());
        let known = match *name {
            "meet" => known.replace("known to all", "all"),
            _ => known,
        };
        self.output.say(
            format!("  {} {name:<6} {what}\n           {known} {limit}", mark(held)),
            &object,
        )
    }
}

fn mark(held: bool) -> String {
    match held {
        true => format!("{GOOD}✔{GOOD:#}"),
        false => format!("{BAD}✘{BAD:#}"),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
