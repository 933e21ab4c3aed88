//! One examination: which check is made when, and what it builds upon.

use std::{sync::Arc, time::Duration};

use discovery::{
    peer::{InstanceId, PeerDiscovery, PeerEvents, PeerInfo, PeerWatch, Registration, WorkerAddress},
    systems::DiscoverySystem,
};
use tokio::{join, time::Instant};

use super::{
    checks::unregister,
    finding::{Finding, Status},
    look::Change,
    report::Report,
};
use crate::failure::Failure;

/// Where the probe says it can be reached.
pub(super) const ADDRESS: &str = "doctor://probe";

/// Two connections to one system: what the first one registers, the second one looks for, so
/// that every answer comes from the backend.
pub(super) struct Exam {
    pub(super) first: Arc<dyn DiscoverySystem>,
    pub(super) peers: Arc<dyn PeerDiscovery>,
    pub(super) readers: Arc<dyn PeerDiscovery>,
    pub(super) all: Option<Arc<dyn PeerWatch>>,
    pub(super) probe: PeerInfo,
    pub(super) propagation: Duration,
    pub(super) ttl: Duration,
}

/// Where the probe was seen after it had registered.
struct Seen {
    found: Status,
    listed: Status,
    appeared: Status,
}

impl Exam {
    /// With a probe of its own; `None` if the system has no peers.
    pub(super) fn new(
        first: &Arc<dyn DiscoverySystem>,
        second: &Arc<dyn DiscoverySystem>,
        ttl: Duration,
    ) -> Option<Self> {
        let readers = second.peer_discovery()?;
        Some(Self {
            peers: first.peer_discovery()?,
            all: readers.watch(),
            readers,
            probe: PeerInfo::new(InstanceId::new_v4(), WorkerAddress::from_bytes(ADDRESS)),
            propagation: first.capabilities().bounds().propagation,
            first: first.clone(),
            ttl,
        })
    }

    /// The instance that is registered for a moment.
    pub(super) fn probe(&self) -> InstanceId {
        self.probe.instance_id()
    }

    /// Every check, in order. Whatever was registered is given up when this is dropped.
    pub(super) async fn run(&self, report: &mut Report<'_>) -> Result<(), Failure> {
        let ttl = report.waiting("opening a session", self.ttl()).await;
        report.add("ttl", ttl)?;
        let unknown = report.waiting("looking for nobody", self.unknown()).await;
        report.add("unknown", unknown)?;
        let (mut events, watching) = report.waiting("starting to watch", self.watch()).await;
        report.add("watch", watching)?;
        let (registration, registering) = report.waiting("registering a probe", self.register()).await;
        report.add("register", registering)?;
        let Some((registration, at)) = registration else {
            return self.without_a_probe(report).await;
        };
        let seen = self.arrival(at, &mut events, report).await?;
        self.departure(registration, seen, &mut events, report).await
    }

    async fn arrival(
        &self,
        at: Instant,
        events: &mut Option<PeerEvents>,
        report: &mut Report<'_>,
    ) -> Result<Seen, Failure> {
        let change = self.change(at);
        let looks = async {
            join!(
                self.found_by_worker(change),
                self.found_by_instance(change),
                self.listed(change, true),
                self.told(change, events, true),
            )
        };
        let (by_worker, by_instance, listed, told) = report.waiting("looking for the probe", looks).await;
        let found = report.add("find_worker", by_worker)?;
        report.add("find_instance", by_instance)?;
        Ok(Seen {
            found,
            listed: report.add("list", listed)?,
            appeared: report.add("appear", told)?,
        })
    }

    async fn departure(
        &self,
        registration: Registration,
        seen: Seen,
        events: &mut Option<PeerEvents>,
        report: &mut Report<'_>,
    ) -> Result<(), Failure> {
        let leaving = unregister(registration);
        let (gone, finding) = report.waiting("unregistering the probe", leaving).await;
        let change = self.change(gone.unwrap_or_else(Instant::now));
        let gone = ("unregister", report.add("unregister", finding)?);
        let looks = async {
            join!(
                when(gone, ("find_worker", seen.found), self.forgotten(change)),
                when(gone, ("list", seen.listed), self.listed(change, false)),
                when(gone, ("appear", seen.appeared), self.told(change, events, false)),
            )
        };
        let (forgotten, unlisted, told) = report.waiting("seeing the probe leave", looks).await;
        for (check, finding) in [("forget", forgotten), ("unlist", unlisted), ("leave", told)] {
            report.add(check, finding)?;
        }
        Ok(())
    }

    /// What can be asked of a system that lets nobody in.
    async fn without_a_probe(&self, report: &mut Report<'_>) -> Result<(), Failure> {
        for check in ["find_worker", "find_instance"] {
            report.add(check, Finding::skipped("register"))?;
        }
        let listed = report.waiting("listing", self.listed_at_all()).await;
        report.add("list", listed)?;
        for check in ["appear", "unregister", "forget", "unlist", "leave"] {
            report.add(check, Finding::skipped("register"))?;
        }
        Ok(())
    }

    pub(super) fn change(&self, at: Instant) -> Change {
        Change {
            at,
            within: self.propagation,
        }
    }
}

/// Makes a check only if what it builds upon works.
async fn when(
    first: (&str, Status),
    second: (&str, Status),
    check: impl Future<Output = Finding>,
) -> Finding {
    for (base, status) in [first, second] {
        match status {
            Status::Ok | Status::Late => {}
            Status::NotOffered => return Finding::not_offered(),
            Status::Failed | Status::Skipped => return Finding::skipped(base),
        }
    }
    check.await
}
