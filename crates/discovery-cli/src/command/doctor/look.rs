//! Looking again and again until what is seen is right.

use std::time::Duration;

use discovery::{
    DiscoveryError, ErrorKind,
    peer::{PeerEvent, PeerEvents},
};
use futures_util::StreamExt;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::finding::{Finding, refused, wrong};
use crate::failure::Failure;

/// How long after its limit a change is still waited for, to tell how late it was.
const LATE: Duration = Duration::from_secs(2);
/// How long a call may take that has no declared bound, whatever the URL allows.
pub(super) const CALL: Duration = Duration::from_secs(10);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// What it may take an event to come, beyond what a lookup may.
const MARGIN: Duration = Duration::from_secs(1);

/// A change that was acknowledged, and is to be seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    /// When it was acknowledged.
    pub(super) at: Instant,
    /// From when on everybody has to see it.
    pub(super) within: Duration,
}

impl Change {
    /// Looks until `look` sees the change. It is late if a look that *began* after the limit did
    /// not see it: how long looking takes is another matter.
    pub(super) async fn seen(
        self,
        what: &str,
        never: &str,
        mut look: impl AsyncFnMut() -> Result<bool, Failure>,
    ) -> Finding {
        let mut late = false;
        loop {
            let begun = self.at.elapsed();
            match timeout(CALL, look()).await {
                Ok(Ok(true)) if late => return Finding::late(what, self.at.elapsed(), self.within),
                Ok(Ok(true)) => return Finding::fine(what, self.at.elapsed()).within(self.within),
                Ok(Ok(false)) => late |= begun > self.within,
                Ok(Err(failure)) => return Finding::failed(failure, self.at.elapsed()),
                Err(_) => return Finding::failed(silent(CALL), self.at.elapsed()),
            }
            if begun > self.within + LATE {
                let failure = wrong(format!("{never}, {begun:.1?} after it was acknowledged"))
                    .with_hint("are there several services behind that address, or a cache in between?");
                return Finding::failed(failure, self.at.elapsed()).within(self.within);
            }
            sleep(PAUSE).await;
        }
    }

    /// Waits until a watch tells the change.
    pub(super) async fn told(
        self,
        what: &str,
        events: &mut PeerEvents,
        mut is_it: impl FnMut(&PeerEvent) -> bool,
    ) -> Finding {
        let limit = self.within + MARGIN;
        let mut interrupted = None;
        loop {
            let next = timeout_at(self.at + limit + LATE, events.next()).await;
            match next {
                Ok(Some(event)) if is_it(&event) => {
                    return Finding::timed(what, self.at.elapsed(), limit);
                }
                Ok(Some(PeerEvent::Interrupted(error))) => interrupted = Some(error),
                Ok(Some(PeerEvent::Resynced { .. })) => interrupted = None,
                Ok(Some(_)) => {}
                Ok(None) => return Finding::failed(ended(), self.at.elapsed()),
                Err(_) => {
                    let failure = interrupted.map_or_else(untold, refused);
                    return Finding::failed(failure, self.at.elapsed()).within(limit);
                }
            }
        }
    }
}

/// A call that is given up here, before a deadline of its own.
fn silent(limit: Duration) -> Failure {
    DiscoveryError::new(ErrorKind::Timeout, format!("no answer within {limit:?}")).into()
}

pub(super) fn ended() -> Failure {
    wrong("the watch ended by itself").with_hint("this is a bug: please report it")
}

fn untold() -> Failure {
    wrong("the watch says nothing of it, nor that it was interrupted")
        .with_hint("is there a proxy in between that holds streams back?")
}

/// Waits for a call, but not for ever.
pub(super) async fn bounded<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, DiscoveryError>>,
) -> Result<T, Failure> {
    match timeout(limit, call).await {
        Ok(done) => done.map_err(refused),
        Err(_) => Err(silent(limit)),
    }
}

#[cfg(test)]
mod tests {
    use discovery::peer::{InstanceId, PeerInfo, WorkerAddress};
    use futures_util::stream;

    use super::*;
    use crate::command::doctor::finding::Status;

    const WITHIN: Duration = Duration::from_millis(500);

    fn change() -> Change {
        Change {
            at: Instant::now(),
            within: WITHIN,
        }
    }

    /// What is found if looks see the change only from then on.
    async fn seen_after(delay: Duration) -> Finding {
        let change = change();
        let look = async || Ok(change.at.elapsed() >= delay);
        change.seen("found", "it is never found", look).await
    }

    #[tokio::test(start_paused = true)]
    async fn late_is_what_a_look_after_the_limit_does_not_see() {
        for (delay, status) in [
            (Duration::ZERO, Status::Ok),
            (WITHIN, Status::Ok),
            (WITHIN * 2, Status::Late),
            (WITHIN * 100, Status::Failed),
        ] {
            let finding = seen_after(delay).await;
            assert_eq!(finding.status, status, "{delay:?}: {finding:?}");
        }
        let never = seen_after(WITHIN * 100).await;
        assert!(never.took.unwrap() < WITHIN + LATE * 2, "{never:?}");
        assert_eq!(never.failure.unwrap().exit().code(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_takes_long_is_not_late_for_that() {
        let look = async || {
            sleep(WITHIN * 4).await;
            Ok(true)
        };
        let finding = change().seen("found", "it is never found", look).await;
        assert_eq!(finding.status, Status::Ok, "{finding:?}");
        let look = async || std::future::pending().await;
        let finding = change().seen("found", "it is never found", look).await;
        assert_eq!(finding.failure.unwrap().exit().code(), 4);
    }

    fn event() -> PeerEvent {
        let address = WorkerAddress::from_bytes("a");
        PeerEvent::Added(PeerInfo::new(InstanceId::new_v4(), address))
    }

    fn interrupted() -> PeerEvent {
        PeerEvent::Interrupted(DiscoveryError::new(ErrorKind::Unavailable, "cut off"))
    }

    fn resynced() -> PeerEvent {
        PeerEvent::Resynced { suspects: Vec::new() }
    }

    /// What is found if these events come, then nothing.
    async fn told(events: Vec<PeerEvent>) -> Finding {
        let mut events: PeerEvents = Box::pin(stream::iter(events).chain(stream::pending()));
        let is_it = |event: &PeerEvent| matches!(event, PeerEvent::Added(_));
        change().told("told", &mut events, is_it).await
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_watch_does_not_tell_is_wrong_unless_it_was_interrupted() {
        for (events, exit) in [
            (vec![event()], None),
            (vec![interrupted(), event()], None),
            (vec![], Some(1)),
            (vec![interrupted()], Some(4)),
            (vec![interrupted(), resynced()], Some(1)),
        ] {
            let finding = told(events.clone()).await;
            let failed = finding.failure.map(|failure| failure.exit().code());
            assert_eq!(failed, exit, "{events:?}");
        }
        let mut events: PeerEvents = Box::pin(stream::empty());
        let ended = change().told("told", &mut events, |_| true).await;
        assert_eq!(ended.status, Status::Failed);
    }
}
