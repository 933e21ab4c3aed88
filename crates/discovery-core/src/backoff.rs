//! Waiting longer after each failure, each client for itself.
//!
//! After a restart of a backend all of its clients fail at once; what keeps them from coming
//! back at once is chance, as in
//! <https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/>.

use std::time::Duration;

use crate::{DiscoveryError, Retry};

/// The shortest full wait, also if the backend asks for none.
pub const FIRST: Duration = Duration::from_millis(100);
/// The longest wait before trying again, unless the backend asks for more.
const LONGEST: Duration = Duration::from_secs(3);
/// The longest wait that a backend may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

/// Exponential back-off with jitter.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait after one more failure: half to all of 100 ms, doubled by every failure
    /// since the last success, up to 3 s and to `cap`; longer only if the backend asked for it.
    pub fn next(&mut self, error: &DiscoveryError, cap: Duration) -> Duration {
        let cap = cap.max(FIRST);
        let full = FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST)
            .min(cap);
        self.failures = self.failures.saturating_add(1);
        let own = jitter(full, 0.5);
        match error.retry() {
            Retry::Safe { after: Some(after) } => {
                let asked = after.min(LONGEST_ASKED).mul_f64(1.0 + fastrand::f64() / 2.0);
                own.max(asked)
            }
            _ => own,
        }
    }

    /// Something that goes on for as long as it can has ended after this long. If that is less
    /// than the longest wait, it is one more failure in a row: what begins and ends at once
    /// would else be tried again all the time.
    pub fn lasted(&mut self, elapsed: Duration) {
        if elapsed >= LONGEST {
            self.reset();
        }
    }

    /// Something succeeded: the next failure is the first one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A duration between `least` (a fraction) and all of `full`, at random.
pub fn jitter(full: Duration, least: f64) -> Duration {
    full.mul_f64(least + (1.0 - least) * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn error(after: Option<Duration>) -> DiscoveryError {
        DiscoveryError::new(ErrorKind::Unavailable, "x").with_retry(Retry::Safe { after })
    }

    #[test]
    fn waits_double_up_to_the_cap_and_differ() {
        let cap = Duration::from_secs(2);
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..40).map(|_| backoff.next(&error(None), cap)).collect();
        for (failures, wait) in waits.iter().enumerate() {
            let full = FIRST.saturating_mul(1 << failures.min(16)).min(cap);
            assert!(*wait >= full / 2 && *wait <= full, "{failures}: {wait:?}");
        }
        assert!(waits[20..].windows(2).any(|pair| pair[0] != pair[1]));
        backoff.reset();
        assert!(backoff.next(&error(None), cap) <= FIRST);
    }

    #[test]
    fn what_the_backend_asks_for_is_waited_and_never_all_at_once() {
        let (asked, cap) = (Duration::from_secs(5), Duration::MAX);
        let waits: Vec<_> = (0..20)
            .map(|_| Backoff::default().next(&error(Some(asked)), cap))
            .collect();
        assert!(
            waits.iter().all(|wait| *wait >= asked && *wait <= asked * 3 / 2),
            "{waits:?}"
        );
        assert!(waits.windows(2).any(|pair| pair[0] != pair[1]));
        let none = Backoff::default().next(&error(Some(Duration::ZERO)), cap);
        assert!(none >= FIRST / 2, "{none:?}");
        assert!(Backoff::default().next(&error(Some(Duration::MAX)), cap) <= LONGEST_ASKED * 2);
    }

    #[test]
    fn only_what_lasts_is_a_success() {
        let mut backoff = Backoff::default();
        for _ in 0..4 {
            backoff.next(&error(None), Duration::MAX);
        }
        backoff.lasted(LONGEST - Duration::from_millis(1));
        assert!(backoff.next(&error(None), Duration::MAX) > FIRST);
        backoff.lasted(LONGEST);
        assert!(backoff.next(&error(None), Duration::MAX) <= FIRST);
    }

    #[test]
    fn a_cap_of_nothing_is_no_spin() {
        assert!(Backoff::default().next(&error(None), Duration::ZERO) >= FIRST / 2);
    }
}
