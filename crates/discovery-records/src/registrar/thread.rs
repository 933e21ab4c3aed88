//! Where the keeper runs.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use discovery_core::{DiscoveryError, ErrorKind};
use tokio::runtime::{Builder, Handle};

use super::{Renewing, keeper::Keeper, no_runtime};

/// Starts a keeper, which tells the desk when it ends. On a thread of its own, it is joined by
/// what this returns.
pub(super) fn start(
    renewing: Renewing,
    keeper: Keeper,
) -> Result<Option<thread::JoinHandle<()>>, DiscoveryError> {
    match renewing {
        Renewing::Shared => {
            let runtime = Handle::try_current().map_err(no_runtime)?;
            runtime.spawn(async move { drop(keeper.run().await) });
            Ok(None)
        }
        Renewing::OwnThread => {
            let thread = thread::Builder::new()
                .name("discovery-renew".to_owned())
                .spawn(move || run(keeper));
            let failed = |cause| {
                DiscoveryError::new(ErrorKind::Unexpected, "cannot start the renewal thread")
                    .with_source(cause)
            };
            thread.map(Some).map_err(failed)
        }
    }
}

fn run(keeper: Keeper) {
    // Made here, so that it is never dropped where it must not be.
    match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let ending = catch_unwind(AssertUnwindSafe(|| runtime.block_on(keeper.run())));
            // A name lookup that hangs must not hold the thread up.
            runtime.shutdown_background();
            drop(ending);
        }
        Err(error) => {
            tracing::error!(target: "discovery::registration", %error, "the renewal thread has no runtime");
        }
    }
}
