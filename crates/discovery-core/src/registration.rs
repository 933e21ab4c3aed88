//! The observable state of a registration.

use std::{fmt, future::Future, pin::Pin};

use tokio::sync::watch;

use crate::{Deadline, DiscoveryError};

/// Where a registration stands, judged at the moment it is read.
///
/// ```text
/// Pending ─created─► Live ◄─renewed─ Renewing ─deadline passed─► Suspect
///                     └─session or record gone─► Lost ─created again─► Live
///                     └─place taken by another─► Superseded
/// any ─unregistered─► Gone
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RegistrationState {
    /// Not yet acknowledged by the backend.
    Pending,
    /// The backend acknowledged it, and what it granted has not run out.
    Live,
    /// The last renewal went unanswered; what was granted has not run out yet.
    Renewing,
    /// What was granted has run out without a renewal: readers may not see it. Still being renewed.
    Suspect,
    /// The backend said that it is gone. Being created again.
    Lost,
    /// Another instance, or another address, stands in its place. Final.
    Superseded,
    /// Unregistered. Final.
    Gone,
}

impl RegistrationState {
    /// Whether this state is never left.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Superseded | Self::Gone)
    }

    /// The state as one lower-case word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Live => "live",
            Self::Renewing => "renewing",
            Self::Suspect => "suspect",
            Self::Lost => "lost",
            Self::Superseded => "superseded",
            Self::Gone => "gone",
        }
    }
}

impl fmt::Display for RegistrationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the owner of a registration last knew of it.
#[derive(Clone, Debug)]
pub struct Status {
    /// The state at the time of writing; `Live` and `Renewing` end with the deadline.
    pub state: RegistrationState,
    /// When what the backend granted runs out, by the clock of this process.
    pub deadline: Option<Deadline>,
    /// Why the state is not `Live`.
    pub cause: Option<DiscoveryError>,
}

impl Status {
    /// A registration that nobody has acknowledged.
    #[must_use]
    pub fn pending() -> Self {
        Self {
            state: RegistrationState::Pending,
            deadline: None,
            cause: None,
        }
    }

    /// The state now: past the deadline, nothing that lives by it is `Live` any more.
    #[must_use]
    pub fn state(&self) -> RegistrationState {
        use RegistrationState::{Live, Renewing, Suspect};
        match (&self.deadline, self.state) {
            (Some(deadline), Live | Renewing) if deadline.passed() => Suspect,
            (_, state) => state,
        }
    }
}

/// What a registration needs of the one who keeps it: a way to give it up.
pub trait Hold: Send + Sync {
    /// Gives the registration up *at once, without blocking*; the future tells when and how it
    /// ended, and need not be polled for it to happen. Called at most once, also on drop and
    /// outside a runtime.
    fn release(&mut self) -> Released;
}

/// The outcome of giving a registration up.
pub type Released = Pin<Box<dyn Future<Output = Result<(), DiscoveryError>> + Send>>;

/// One hold on a registration that is kept alive in the background.
///
/// Registering the same peer through the same system again gives another hold on the same
/// registration; it ends with its last hold. Dropping a hold gives it up in the background,
/// without blocking; [`unregister`](Self::unregister) also waits until readers cannot find
/// the peer any more.
#[must_use = "dropping a registration unregisters"]
pub struct Registration {
    status: watch::Receiver<Status>,
    hold: Option<Box<dyn Hold>>,
}

impl Registration {
    /// A registration with a status that its keeper updates, and a way to give it up.
    pub fn new(status: watch::Receiver<Status>, hold: Box<dyn Hold>) -> Self {
        Self {
            status,
            hold: Some(hold),
        }
    }

    /// The state now, computed from the deadline when read: a process that was starved or
    /// suspended past what the backend granted never reads `Live`.
    /// After a shutdown that nobody confirmed, it reads as before until the deadline passes: so
    /// long does the record stand.
    #[must_use]
    pub fn state(&self) -> RegistrationState {
        self.status.borrow().state()
    }

    /// Why the registration is not `Live`, if a reason is known.
    #[must_use]
    pub fn cause(&self) -> Option<DiscoveryError> {
        self.status.borrow().cause.clone()
    }

    /// A view of the state that neither keeps the registration alive nor ends it.
    #[must_use]
    pub fn observer(&self) -> RegistrationObserver {
        RegistrationObserver {
            seen: self.state(),
            status: self.status.clone(),
        }
    }

    /// Gives this hold up; if it was the last one, removes the record from the backend.
    ///
    /// On success readers stop finding the peer within the declared propagation, unless
    /// another living process holds the same peer. A record that somebody else put in its
    /// place stays.
    ///
    /// # Errors
    /// `Timeout` or `Unavailable` if the backend did not confirm in time: removal goes on in
    /// the background, and the record is not renewed any more. `Closed` if whoever renews has
    /// ended before: the record expires.
    ///
    /// # Cancel safety
    /// The hold is given up when the future is first polled or dropped.
    pub async fn unregister(mut self) -> Result<(), DiscoveryError> {
        match self.hold.take() {
            Some(mut hold) => hold.release().await,
            None => Ok(()),
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(mut hold) = self.hold.take() {
            drop(hold.release());
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// Watches the state of a registration.
#[derive(Clone, Debug)]
pub struct RegistrationObserver {
    status: watch::Receiver<Status>,
    seen: RegistrationState,
}

impl RegistrationObserver {
    /// The state now, computed when read.
    #[must_use]
    pub fn state(&self) -> RegistrationState {
        self.status.borrow().state()
    }

    /// Why the registration is not `Live`, if a reason is known.
    #[must_use]
    pub fn cause(&self) -> Option<DiscoveryError> {
        self.status.borrow().cause.clone()
    }

    /// Waits until the state differs from the last one this observer returned, and returns it.
    /// Once the state is final, or whoever kept the registration is gone, waits for ever.
    ///
    /// # Cancel safety
    /// Nothing is lost: the next call returns the change.
    pub async fn changed(&mut self) -> RegistrationState {
        loop {
            let (state, left) = {
                let status = self.status.borrow_and_update();
                (status.state(), status.deadline.as_ref().map(Deadline::left))
            };
            if state != self.seen {
                self.seen = state;
                return state;
            }
            let timed = matches!(state, RegistrationState::Live | RegistrationState::Renewing);
            let keeper_left = match left.filter(|_| timed) {
                Some(left) => tokio::select! {
                    changed = self.status.changed() => changed.is_err(),
                    () = tokio::time::sleep(left) => false,
                },
                None => self.status.changed().await.is_err(),
            };
            if keeper_left && (state.is_final() || !timed) {
                std::future::pending::<()>().await;
            } else if keeper_left {
                // Nobody renews any more: what is left of the deadline still counts.
                match left {
                    Some(left) => tokio::time::sleep(left).await,
                    None => std::future::pending().await,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        pin::pin,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        task::Poll,
        time::Duration,
    };

    use super::*;
    use crate::Clock;

    struct Counted(Arc<AtomicU32>);

    impl Hold for Counted {
        fn release(&mut self) -> Released {
            self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Ok(()) })
        }
    }

    fn live(ttl: Duration) -> Status {
        let clock = Clock::default();
        let deadline = Some(Deadline::new(clock.clone(), clock.now(), ttl));
        Status {
            state: RegistrationState::Live,
            deadline,
            cause: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_reads_live_past_its_deadline() {
        let (_keeper, status) = watch::channel(live(Duration::from_secs(3)));
        let registration = Registration::new(status, Box::new(Counted(Arc::default())));
        assert_eq!(registration.state(), RegistrationState::Live);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(registration.state(), RegistrationState::Suspect);
    }

    #[tokio::test(start_paused = true)]
    async fn a_passing_deadline_is_a_change() {
        let (keeper, status) = watch::channel(live(Duration::from_secs(3)));
        let registration = Registration::new(status, Box::new(Counted(Arc::default())));
        let mut observer = registration.observer();
        assert_eq!(observer.changed().await, RegistrationState::Suspect);
        keeper.send_replace(live(Duration::from_secs(3)));
        assert_eq!(observer.changed().await, RegistrationState::Live);
        drop(keeper);
        assert_eq!(observer.changed().await, RegistrationState::Suspect);
    }

    #[tokio::test(start_paused = true)]
    async fn without_deadline_and_keeper_nothing_is_waited_for_and_nothing_spins() {
        let unlimited = Status {
            deadline: None,
            ..live(Duration::ZERO)
        };
        let (keeper, status) = watch::channel(unlimited);
        let registration = Registration::new(status, Box::new(Counted(Arc::default())));
        drop(keeper);
        let mut observer = registration.observer();
        let (mut changed, mut polls) = (pin!(observer.changed()), 0);
        let polled = poll_fn(|context| {
            polls += 1;
            if polls > 10 {
                return Poll::Ready(None);
            }
            changed.as_mut().poll(context).map(Some)
        });
        let outcome = tokio::time::timeout(Duration::from_secs(60), polled).await;
        assert!(outcome.is_err(), "changed or spun: {outcome:?}");
    }

    #[test]
    fn a_hold_is_given_up_once_also_outside_a_runtime() {
        let count = Arc::<AtomicU32>::default();
        let (_keeper, status) = watch::channel(Status::pending());
        drop(Registration::new(
            status.clone(),
            Box::new(Counted(count.clone())),
        ));
        assert_eq!(count.load(Ordering::Relaxed), 1);
        drop(Registration::new(status, Box::new(Counted(count.clone()))).unregister());
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }
}
