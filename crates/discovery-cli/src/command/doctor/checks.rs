//! The checks: each asks one thing of the system, and ends.

use std::time::Duration;

use discovery::{
    DiscoveryError, ErrorKind,
    peer::{InstanceId, PeerEvent, PeerEvents, PeerInfo, Registration, RemovalReason},
};
use futures_util::StreamExt;
use tokio::time::{Instant, timeout};

use super::{
    exam::{ADDRESS, Exam},
    finding::{Finding, refused, wrong},
    look::{CALL, Change, bounded, ended},
};
use crate::failure::Failure;

/// How long "not found" may take.
const PROMPT: Duration = Duration::from_secs(1);
/// How long registering may take: it tries more than once.
const REGISTERING: Duration = Duration::from_secs(20);

impl Exam {
    /// What the system grants of the TTL that is asked for.
    pub(super) async fn ttl(&self) -> Finding {
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
    pub(super) async fn unknown(&self) -> Finding {
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

    pub(super) async fn watch(&self) -> (Option<PeerEvents>, Finding) {
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

    pub(super) async fn register(&self) -> (Option<(Registration, Instant)>, Finding) {
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

    pub(super) async fn found_by_worker(&self, change: Change) -> Finding {
        let look = async || {
            self.is_probe(self.readers.discover_by_worker_id(self.probe.worker_id()))
                .await
        };
        let never = "another connection does not find it by worker id";
        change.seen("found by worker id", never, look).await
    }

    pub(super) async fn found_by_instance(&self, change: Change) -> Finding {
        let look = async || {
            self.is_probe(self.readers.discover_by_instance_id(self.probe()))
                .await
        };
        let never = "another connection does not find it by instance id";
        change.seen("found by instance id", never, look).await
    }

    pub(super) async fn forgotten(&self, change: Change) -> Finding {
        let look = async || {
            let by_worker = self.readers.discover_by_worker_id(self.probe.worker_id());
            let by_instance = self.readers.discover_by_instance_id(self.probe());
            Ok(!self.is_probe(by_worker).await? && !self.is_probe(by_instance).await?)
        };
        let never = "another connection still finds it";
        change.seen("not found any more", never, look).await
    }

    pub(super) async fn listed(&self, change: Change, present: bool) -> Finding {
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

    /// Whether there is a list, whoever is on it.
    pub(super) async fn listed_at_all(&self) -> Finding {
        let Some(all) = &self.all else {
            return Finding::not_offered();
        };
        let begun = Instant::now();
        match bounded(CALL, all.list_peers()).await {
            Ok(peers) => Finding::fine(counted(peers.len(), "listed"), begun.elapsed()),
            Err(failure) => Finding::failed(failure, begun.elapsed()),
        }
    }

    pub(super) async fn told(
        &self,
        change: Change,
        events: &mut Option<PeerEvents>,
        present: bool,
    ) -> Finding {
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
pub(super) async fn unregister(registration: Registration) -> (Option<Instant>, Finding) {
    let begun = Instant::now();
    match bounded(CALL, registration.unregister()).await {
        Ok(()) => (
            Some(Instant::now()),
            Finding::fine("acknowledged", begun.elapsed()),
        ),
        Err(failure) => (None, Finding::failed(failure, begun.elapsed())),
    }
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

#[cfg(test)]
#[cfg(feature = "memory")]
mod tests {
    use futures_util::stream;

    use super::*;
    use crate::command::doctor::finding::Status;

    async fn exam(cluster: &str, ttl: Duration) -> Exam {
        let url = format!("memory://{cluster}");
        let first = discovery::connect(&url).await.unwrap();
        let second = discovery::connect(&url).await.unwrap();
        Exam::new(&first, &second, ttl).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_system_as_it_should_be_passes_every_check() {
        let exam = exam("passes", Duration::from_secs(5)).await;
        let ok = |finding: Finding| assert_eq!(finding.status, Status::Ok, "{finding:?}");
        ok(exam.ttl().await);
        ok(exam.unknown().await);
        let (mut events, watching) = exam.watch().await;
        ok(watching);
        let (registration, registering) = exam.register().await;
        ok(registering);
        let (registration, at) = registration.unwrap();
        let change = exam.change(at);
        ok(exam.found_by_worker(change).await);
        ok(exam.found_by_instance(change).await);
        ok(exam.listed(change, true).await);
        ok(exam.told(change, &mut events, true).await);
        let (gone, unregistering) = unregister(registration).await;
        ok(unregistering);
        let change = exam.change(gone.unwrap());
        ok(exam.forgotten(change).await);
        ok(exam.listed(change, false).await);
        ok(exam.told(change, &mut events, false).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_there_is_not_found() {
        let exam = exam("nothing", Duration::from_secs(5)).await;
        let change = exam.change(Instant::now());
        for finding in [
            exam.found_by_worker(change).await,
            exam.found_by_instance(change).await,
            exam.listed(change, true).await,
        ] {
            assert_eq!(finding.status, Status::Failed, "{finding:?}");
            assert_eq!(finding.failure.map(|failure| failure.exit().code()), Some(1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_expires_was_not_unregistered() {
        let exam = exam("expires", Duration::from_secs(5)).await;
        let removed = PeerEvent::Removed {
            peer: exam.probe.clone(),
            reason: RemovalReason::Expired,
        };
        let mut told: Option<PeerEvents> = Some(Box::pin(stream::iter([removed])));
        let finding = exam.told(exam.change(Instant::now()), &mut told, false).await;
        assert_eq!(finding.status, Status::Failed, "{finding:?}");
    }
}
