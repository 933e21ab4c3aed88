//! Where the keeper runs.

use std::{fmt, thread};

use discovery_core::{DiscoveryError, ErrorKind};
use tokio::{
    runtime::{Builder, Handle},
    task::JoinHandle,
};

use super::{Renewing, keeper::Keeper};

/// A running keeper.
pub(super) enum Running {
    Task(JoinHandle<()>),
    Thread(thread::JoinHandle<()>),
}

pub(super) fn start(renewing: Renewing, keeper: Keeper) -> Result<Running, DiscoveryError> {
    match renewing {
        Renewing::Shared => {
            let runtime = Handle::try_current().map_err(|cause| {
                let context = "registering needs a tokio runtime with its timer enabled";
                DiscoveryError::new(ErrorKind::InvalidConfig, context).with_source(cause)
            })?;
            Ok(Running::Task(
                runtime.spawn(async move { drop(keeper.run().await) }),
            ))
        }
        Renewing::OwnThread => {
            let failed = |cause: std::io::Error| {
                DiscoveryError::new(ErrorKind::Unexpected, "cannot start the renewal thread")
                    .with_source(cause)
            };
            let runtime = Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(failed)?;
            let thread = thread::Builder::new()
                .name("discovery-renew".to_owned())
                .spawn(move || {
                    let ending = runtime.block_on(keeper.run());
                    // A name lookup that hangs must not hold the thread up.
                    runtime.shutdown_background();
                    drop(ending);
                });
            Ok(Running::Thread(thread.map_err(failed)?))
        }
    }
}

impl Running {
    pub(super) fn is_finished(&self) -> bool {
        match self {
            Self::Task(task) => task.is_finished(),
            Self::Thread(thread) => thread.is_finished(),
        }
    }

    /// Joins a keeper that has told that it ended, which is the last thing it does.
    pub(super) fn join(self) {
        if let Self::Thread(thread) = self {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Task(_) => "Task",
            Self::Thread(_) => "Thread",
        })
    }
}
