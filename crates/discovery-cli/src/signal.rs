//! Being asked to stop, in words or by going away.

use std::{io, thread};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

use crate::failure::Failure;

/// SIGINT and SIGTERM, caught from when this is made.
#[derive(Debug)]
pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    /// Catches the signals from now on.
    pub(crate) fn catch() -> Result<Self, Failure> {
        let caught = |kind| signal(kind).map_err(|cause| Failure::unexpected("cannot catch signals", &cause));
        Ok(Self {
            interrupt: caught(SignalKind::interrupt())?,
            terminate: caught(SignalKind::terminate())?,
        })
    }

    /// Waits until one of them comes.
    pub(crate) async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Waits until nobody can read stdout any more: a command that has nothing to say would not
/// notice by itself. Where that cannot be known, waits for ever.
pub(crate) async fn unread() {
    let (tell, told) = oneshot::channel();
    let watch = move || {
        if is_unread() {
            let _ = tell.send(());
        }
    };
    // Not one of the runtime's threads: it waits for as long as the process lives.
    let watching = thread::Builder::new().name("reader".to_owned()).spawn(watch);
    if watching.is_err() || told.await.is_err() {
        std::future::pending().await
    }
}

/// Blocks until the reader has gone; `false` if that cannot be known.
fn is_unread() -> bool {
    let stdout = io::stdout();
    // Errors and hang-ups are told without being asked for.
    let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
    loop {
        match poll(&mut fds, None) {
            Ok(_) => return fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP),
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
