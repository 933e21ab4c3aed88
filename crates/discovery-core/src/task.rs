//! Background tasks that somebody owns.

use std::{future::Future, time::Duration};

use tokio::{runtime::Handle, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It ended by itself, or because it was told to.
    Done,
    /// It panicked.
    Panicked,
    /// It did not end in time and was aborted.
    Aborted,
}

/// A background task with one owner, who cancels and joins it.
///
/// The task gets a token and says goodbye by itself once the token is cancelled. Dropping the
/// owner only cancels: it neither blocks nor spawns, and works outside a runtime.
#[derive(Debug)]
pub struct OwnedTask {
    cancel: CancellationToken,
    handle: Option<JoinHandle<()>>,
}

impl OwnedTask {
    /// Starts a task on `runtime`.
    pub fn spawn<F>(runtime: &Handle, task: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let cancel = CancellationToken::new();
        let handle = Some(runtime.spawn(task(cancel.clone())));
        Self { cancel, handle }
    }

    /// Cancels the task and waits until it has ended; past `deadline` it is aborted.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the task cancelled, ending by itself.
    pub async fn shutdown(mut self, deadline: Duration) -> Exit {
        self.cancel.cancel();
        let Some(mut handle) = self.handle.take() else {
            return Exit::Done;
        };
        match timeout(deadline, &mut handle).await {
            Ok(Ok(())) => Exit::Done,
            Ok(Err(error)) if error.is_panic() => Exit::Panicked,
            Ok(Err(_)) => Exit::Aborted,
            Err(_) => {
                handle.abort();
                // An aborted task ends at its next await; a blocked one cannot be waited for.
                let _ = timeout(Duration::from_millis(100), handle).await;
                Exit::Aborted
            }
        }
    }
}

impl Drop for OwnedTask {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_listens_is_joined() {
        let task = OwnedTask::spawn(
            &Handle::current(),
            |cancel| async move { cancel.cancelled().await },
        );
        assert_eq!(task.shutdown(Duration::from_secs(1)).await, Exit::Done);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_listen_is_aborted_at_the_deadline() {
        let task = OwnedTask::spawn(&Handle::current(), |_| pending());
        assert_eq!(task.shutdown(Duration::from_secs(1)).await, Exit::Aborted);
    }

    #[tokio::test]
    async fn a_panic_is_told() {
        let task = OwnedTask::spawn(&Handle::current(), |_| async { panic!("as asked") });
        assert_eq!(task.shutdown(Duration::from_secs(1)).await, Exit::Panicked);
    }
}
