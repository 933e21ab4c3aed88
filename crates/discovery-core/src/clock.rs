//! Time that counts suspension: a lease runs on while the machine sleeps.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

/// A point in time, noted on two clocks.
///
/// A monotonic clock may stand still while the machine is suspended, a wall clock may be set
/// back; what has elapsed is the larger of the two.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// tokio's clock, which tests can pause.
    pub steady: Instant,
    /// The wall clock.
    pub wall: SystemTime,
}

impl Moment {
    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub fn since(&self, earlier: Self) -> Duration {
        let wall = self.wall.duration_since(earlier.wall).unwrap_or_default();
        self.steady.saturating_duration_since(earlier.steady).max(wall)
    }
}

/// Where moments come from.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Moment + Send + Sync>);

impl Clock {
    /// A clock that tells what `now` tells: for tests of suspension.
    pub fn from_fn(now: impl Fn() -> Moment + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The current moment.
    #[must_use]
    pub fn now(&self) -> Moment {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::from_fn(|| Moment {
            steady: Instant::now(),
            wall: SystemTime::now(),
        })
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// The end of a span of time that began at a noted moment.
#[derive(Clone, Debug)]
pub struct Deadline {
    clock: Clock,
    start: Moment,
    span: Duration,
}

impl Deadline {
    /// `span` after `start`, judged by `clock`.
    #[must_use]
    pub fn new(clock: Clock, start: Moment, span: Duration) -> Self {
        Self { clock, start, span }
    }

    /// What is left; zero once passed.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.span.saturating_sub(self.clock.now().since(self.start))
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.left().is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_suspended_machine_passes_its_deadlines() {
        let start = Clock::default().now();
        let slept = Clock::from_fn(move || Moment {
            steady: start.steady,
            wall: start.wall + Duration::from_secs(60),
        });
        assert!(Deadline::new(slept, start, Duration::from_secs(10)).passed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_set_back_does_not_prolong_a_deadline() {
        let start = Clock::default().now();
        let set_back = Clock::from_fn(move || Moment {
            steady: Instant::now(),
            wall: start.wall - Duration::from_secs(60),
        });
        let deadline = Deadline::new(set_back, start, Duration::from_secs(10));
        assert_eq!(deadline.left(), Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(deadline.passed());
    }
}
