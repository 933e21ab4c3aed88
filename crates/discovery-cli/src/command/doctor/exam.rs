//! The checks: each asks one thing of the system, and ends.

use std::{sync::Arc, time::Duration};

use discovery::{
    DiscoveryError, ErrorKind,
    peer::{
        InstanceId, PeerDiscovery, PeerEvent, PeerEvents, PeerInfo, PeerWatch, Registration, RemovalReason,
        WorkerAddress,
    },
    systems::DiscoverySystem,
};
use futures_util::StreamExt;
use tokio::{
    join,
    time::{Instant, timeout},
};

use super::{
    finding::{Finding, Status, refused, wrong},
    look::{Change, bounded, ended},
    report::Report,
};
use crate::failure::Failure;

/// Where the probe says it can be reached.
const ADDRESS: &str = "doctor://probe";
/// How long "not found" may take.
const PROMPT: Duration = Duration::from_secs(1);
/// How long a call may take that has no declared bound.
const CALL: Duration = Duration::from_secs(10);
/// How long registering may take: it tries more than once.
const REGISTERING: Duration = Duration::from_secs(20);

/// Two connections to one system: what the first one registers, the second one looks for, so
/// that every answer comes from the backend.
pub(super) struct Exam {
    first: Arc<dyn DiscoverySystem>,
    peers: Arc<dyn PeerDiscovery>,
    readers: Arc<dyn PeerDiscovery>,
    all: Option<Arc<dyn PeerWatch>>,
    probe: PeerInfo,
    propagation: Duration,
    ttl: Duration,
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
        report.add("ttl", self.ttl().await)?;
        report.add("unknown", self.unknown().await)?;
        let (mut events, watching) = self.watch().await;
        report.add("watch", watching)?;
        let (registration, registering) = self.register().await;
        report.add("register", registering)?;
        let Some((registration, at)) = registration else {
            return self.without_a_probe(report).await;
        };
        let change = self.change(at);
        let (by_worker, by_instance, listed, told) = join!(
            self.found_by_worker(change),
            self.found_by_instance(change),
            self.listed(change, true),
            self.told(change, &mut events, true),
        );
        let found = report.add("find_worker", by_worker)?;
        report.add("find_instance", by_instance)?;
        let listed = report.add("list", listed)?;
        let appeared = report.add("appear", told)?;
        let (gone, unregistering) = unregister(registration).await;
        let change = self.change(gone.unwrap_or_else(Instant::now));
        let gone = ("unregister", report.add("unregister", unregistering)?);
        let (forgotten, unlisted, told) = join!(
            when(gone, ("find_worker", found), self.forgotten(change)),
            when(gone, ("list", listed), self.listed(change, false)),
            when(gone, ("appear", appeared), self.told(change, &mut events, false)),
        );
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
        let begun = Instant::now();
        let listed = match &self.all {
            None => Finding::not_offered(),
            Some(all) => match bounded(CALL, all.list_peers()).await {
                Ok(peers) => Finding::fine(counted(peers.len(), "listed"), begun.elapsed()),
                Err(failure) => Finding::failed(failure, begun.elapsed()),
            },
        };
        report.add("list", listed)?;
        for check in ["appear", "unregister", "forget", "unlist", "leave"] {
            report.add(check, Finding::skipped("register"))?;
        }
        Ok(())
    }

    fn change(&self, at: Instant) -> Change {
        Change {
            at,
            within: self.propagation,
        }
    }

    /// What the system grants of the TTL that is asked for.
    async fn ttl(&self) -> Finding {
        let Some(store) = self.first.records() else {
            return Finding::not_offered();
        };
        let begun = Instant::now();
        let granted = bounded(CALL, async {
            let session = store.open(self.ttl).await?;
            store.close(&session).await?;
            Ok(session.ttl)
        });
        let asked = self.ttl;
        match granted.await {
            Err(failure) => Finding::failed(failure, begun.elapsed()),
            Ok(granted) if granted < asked => {
                let failure = wrong(format!("asked for {asked:?}, granted only {granted:?}"))
                    .with_hint("registrations expire too early: ask for a TTL that the backend grants");
                Finding::failed(failure, begun.elapsed())
            }
            Ok(granted) if granted > asked => {
                let what =
                    format!("asked for {asked:?}, granted {granted:?}: so long a killed peer is still found");
                Finding::fine(what, begun.elapsed())
            }
            Ok(_) => Finding::fine(format!("asked for {asked:?}, granted as much"), begun.elapsed()),
        }
    }

    /// Ids that nobody has are "not found", and promptly.
    async fn unknown(&self) -> Finding {
        let nobody = InstanceId::new_v4();
        let begun = Instant::now();
        let answers = [
            bounded_lookup(self.readers.discover_by_worker_id(nobody.worker_id())).await,
            bounded_lookup(self.readers.discover_by_instance_id(nobody)).await,
        ];
        let took = begun.elapsed();
        for answer in answers {
            match answer {
                Ok(None) => {}
                Ok(Some(peer)) => {
                    let failure = wrong(format!("found {} for an id that nobody has", peer.instance_id()))
                        .with_hint("does something else answer there? use another system URL");
                    return Finding::failed(failure, took);
                }
                Err(failure) => return Finding::failed(failure, took),
            }
        }
        Finding::timed("ids that nobody has are not found", took, PROMPT * 2)
    }

    async fn watch(&self) -> (Option<PeerEvents>, Finding) {
        let Some(all) = &self.all else {
            return (None, Finding::not_offered());
        };
        let begun = Instant::now();
        let mut events = match bounded(CALL, all.watch_peers()).await {
            Ok(events) => events,
            Err(failure) => return (None, Finding::failed(failure, begun.elapsed())),
        };
        let failure = match timeout(CALL, events.next()).await {
            Ok(Some(PeerEvent::Snapshot(peers))) => {
                let what = counted(peers.len(), "in the snapshot");
                return (Some(events), Finding::fine(what, begun.elapsed()));
            }
            Ok(Some(PeerEvent::Interrupted(error))) => refused(error),
            Ok(Some(_)) => wrong("the watch did not begin with a snapshot")
                .with_hint("this is a bug of the backend: please report it"),
            Ok(None) => ended(),
            Err(_) => wrong(format!("the watch says nothing within {CALL:?}"))
                .with_hint("is there a proxy in between that holds streams back?"),
        };
        (None, Finding::failed(failure, begun.elapsed()))
    }

    async fn register(&self) -> (Option<(Registration, Instant)>, Finding) {
        let (id, address) = (self.probe.instance_id(), self.probe.address().clone());
        let begun = Instant::now();
        match bounded(REGISTERING, self.peers.register_instance(id, address)).await {
            Ok(registration) => {
                let what = format!("{id} at {ADDRESS} acknowledged");
                (
                    Some((registration, Instant::now())),
                    Finding::fine(what, begun.elapsed()),
                )
            }
            Err(failure) => (None, Finding::failed(failure, begun.elapsed())),
        }
    }

    async fn found_by_worker(&self, change: Change) -> Finding {
        let look = async || {
            self.is_probe(self.readers.discover_by_worker_id(self.probe.worker_id()))
                .await
        };
        let never = "another connection does not find it by worker id";
        change.seen("found by worker id", never, look).await
    }

    async fn found_by_instance(&self, change: Change) -> Finding {
        let look = async || {
            self.is_probe(self.readers.discover_by_instance_id(self.probe()))
                .await
        };
        let never = "another connection does not find it by instance id";
        change.seen("found by instance id", never, look).await
    }

    async fn forgotten(&self, change: Change) -> Finding {
        let look = async || {
            let by_worker = self.readers.discover_by_worker_id(self.probe.worker_id());
            let by_instance = self.readers.discover_by_instance_id(self.probe());
            Ok(!self.is_probe(by_worker).await? && !self.is_probe(by_instance).await?)
        };
        let never = "another connection still finds it";
        change.seen("not found any more", never, look).await
    }

    async fn listed(&self, change: Change, present: bool) -> Finding {
        let Some(all) = &self.all else {
            return Finding::not_offered();
        };
        let look = async || {
            let peers = all.list_peers().await.map_err(refused)?;
            let times = peers.iter().filter(|peer| **peer == self.probe).count();
            match times {
                0 | 1 => Ok((times == 1) == present),
                _ => Err(wrong(format!("it is listed {times} times"))
                    .with_hint("this is a bug of the backend: please report it")),
            }
        };
        let (what, never) = match present {
            true => ("listed", "another connection does not list it"),
            false => ("not listed any more", "another connection still lists it"),
        };
        change.seen(what, never, look).await
    }

    async fn told(&self, change: Change, events: &mut Option<PeerEvents>, present: bool) -> Finding {
        let Some(events) = events else {
            return match self.all {
                None => Finding::not_offered(),
                Some(_) => Finding::skipped("watch"),
            };
        };
        if present {
            let is_it = |event: &PeerEvent| matches!(event, PeerEvent::Added(peer) if *peer == self.probe);
            return change
                .told("the watch told that it appeared", events, is_it)
                .await;
        }
        let mut why = RemovalReason::Unknown;
        let is_it = |event: &PeerEvent| match event {
            PeerEvent::Removed { peer, reason } if *peer == self.probe => {
                why = *reason;
                true
            }
            _ => false,
        };
        let finding = change.told("the watch told that it left", events, is_it).await;
        match why {
            RemovalReason::Expired => {
                let failure = wrong("the watch told that it expired, although it unregistered")
                    .with_hint("is this machine very busy? then try again; else it is a bug of the backend");
                Finding::failed(failure, change.at.elapsed())
            }
            _ => finding,
        }
    }

    /// Whether a lookup finds the probe; another peer in its place is wrong.
    async fn is_probe(
        &self,
        lookup: impl Future<Output = Result<PeerInfo, DiscoveryError>>,
    ) -> Result<bool, Failure> {
        match bounded_lookup(lookup).await? {
            None => Ok(false),
            Some(peer) if peer == self.probe => Ok(true),
            Some(peer) => Err(wrong(format!(
                "asked for {}, answered with {} at {}",
                self.probe(),
                peer.instance_id(),
                peer.address()
            ))
            .with_hint("is there a cache in between, or something else that answers there?")),
        }
    }
}

/// Gives the probe up; tells when that was acknowledged, if it was.
async fn unregister(registration: Registration) -> (Option<Instant>, Finding) {
    let begun = Instant::now();
    match bounded(CALL, registration.unregister()).await {
        Ok(()) => (
            Some(Instant::now()),
            Finding::fine("acknowledged", begun.elapsed()),
        ),
        Err(failure) => (None, Finding::failed(failure, begun.elapsed())),
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

/// `None` if the backend says that there is no such peer.
async fn bounded_lookup(
    lookup: impl Future<Output = Result<PeerInfo, DiscoveryError>>,
) -> Result<Option<PeerInfo>, Failure> {
    let answer = async {
        match lookup.await {
            Ok(peer) => Ok(Some(peer)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    };
    bounded(CALL, answer).await
}

fn counted(count: usize, how: &str) -> String {
    match count {
        1 => format!("1 peer {how}"),
        count => format!("{count} peers {how}"),
    }
}
