//! The time after a start in which "nothing there" is not yet known.

use std::time::Duration;

use tokio::time::Instant;

use super::problem::Refusal;

/// The code of the problem.
pub(super) const CODE: &str = "warming-up";

/// Ends once and for all.
pub(super) struct WarmUp(Instant);

impl WarmUp {
    pub(super) fn new(span: Duration) -> Self {
        Self(Instant::now() + span)
    }

    /// Refuses an answer that says that something is not there.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let left = self.0.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let detail = "the service has just started: what is not there may be on its way back";
        Err(Refusal::unavailable(CODE, detail, left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_tells_what_is_left_and_ends() {
        assert!(WarmUp::new(Duration::ZERO).check().is_ok());
        let warm_up = WarmUp::new(Duration::from_secs(3));
        tokio::time::advance(Duration::from_secs(1)).await;
        let problem = warm_up.check().unwrap_err().into_problem();
        assert_eq!(problem.retry_after_ms, Some(2_000));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(warm_up.check().is_ok());
    }
}
