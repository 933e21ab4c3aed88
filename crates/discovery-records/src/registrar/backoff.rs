//! Waiting longer after each failure, each client for itself.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);

/// Exponential back-off with jitter.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait after one more failure: half to all of 100 ms, doubled by every
    /// failure since the last success, up to `cap`.
    pub(super) fn next(&mut self, cap: Duration) -> Duration {
        let full = FIRST.saturating_mul(1 << self.failures.min(16)).min(cap);
        self.failures = self.failures.saturating_add(1);
        jitter(full, 0.5)
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A duration between `least` (a fraction) and all of `full`, at random.
pub(super) fn jitter(full: Duration, least: f64) -> Duration {
    full.mul_f64(least + (1.0 - least) * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_differ() {
        let cap = Duration::from_secs(3);
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..40).map(|_| backoff.next(cap)).collect();
        for (failures, wait) in waits.iter().enumerate() {
            let full = FIRST.saturating_mul(1 << failures.min(16)).min(cap);
            assert!(*wait >= full / 2 && *wait <= full, "{failures}: {wait:?}");
        }
        assert!(waits[20..].windows(2).any(|pair| pair[0] != pair[1]));
        backoff.reset();
        assert!(backoff.next(cap) <= FIRST);
    }
}
