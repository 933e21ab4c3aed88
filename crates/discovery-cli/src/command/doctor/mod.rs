//! `doctor`: does what peers do, for a moment, and says what works, how fast, and what to fix.

mod checks;
mod exam;
mod finding;
mod look;
mod report;

use std::{sync::Arc, time::Duration};

use discovery::{DiscoveryError, SystemUrl, systems::DiscoverySystem};
use tokio::{time::Instant, try_join};

use self::{exam::Exam, finding::Finding, report::Report};
use crate::{args::DoctorArgs, failure::Failure, output::Output, signal::Stop, system};

/// How long taking the probe back may take.
const GOODBYE: Duration = Duration::from_secs(4);
/// The checks of a system with peers, after `connect`.
const CHECKS: [&str; 12] = [
    "ttl",
    "unknown",
    "watch",
    "register",
    "find_worker",
    "find_instance",
    "list",
    "appear",
    "unregister",
    "forget",
    "unlist",
    "leave",
];

type Connection = Arc<dyn DiscoverySystem>;

/// Makes every check that can be made, and leaves nothing behind.
pub(crate) async fn run(args: DoctorArgs, output: &Output) -> Result<(), Failure> {
    let begun = Instant::now();
    let declared = system::check(&args.system)?;
    let asked: Result<_, DiscoveryError> = args.system.parse().and_then(|mut url: SystemUrl| url.take_ttl());
    let ttl = asked?.unwrap_or(declared.capabilities().bounds().default_ttl);
    let mut stop = Stop::catch()?;
    let mut report = Report::new(output);
    report.introduce(&*declared, ttl)?;
    let connecting = output.waiting("connecting", connect(&args.system));
    let (connected, finding) = tokio::select! {
        connected = connecting => connected,
        () = stop.asked() => return Err(Failure::interrupted()),
    };
    report.add("connect", finding)?;
    let Some((first, second)) = connected else {
        return report.conclude(begun.elapsed());
    };
    examine(&first, &second, ttl, &mut report, &mut stop, output).await?;
    report.conclude(begun.elapsed())
}

async fn connect(url: &str) -> (Option<(Connection, Connection)>, Finding) {
    let begun = Instant::now();
    let connected = try_join!(discovery::connect(url), discovery::connect(url));
    match connected {
        Ok(both) => (
            Some(both),
            Finding::fine("two connections, one to write and one to read", begun.elapsed()),
        ),
        Err(error) => (None, Finding::failed(error, begun.elapsed())),
    }
}

async fn examine(
    first: &Connection,
    second: &Connection,
    ttl: Duration,
    report: &mut Report<'_>,
    stop: &mut Stop,
    output: &Output,
) -> Result<(), Failure> {
    let Some(exam) = Exam::new(first, second, ttl) else {
        for check in CHECKS {
            report.add(check, Finding::not_offered())?;
        }
        return Ok(());
    };
    let examined = tokio::select! {
        examined = exam.run(report) => examined,
        () = stop.asked() => Err(Failure::interrupted()),
    };
    // Also takes back what was being written when the examination was given up.
    let left = first.shutdown(GOODBYE).await;
    if left.is_err() {
        output.warn(format!(
            "the probe {} may still be found: nobody confirmed that it is gone, and it expires within its TTL",
            exam.probe()
        ));
    }
    examined
}
