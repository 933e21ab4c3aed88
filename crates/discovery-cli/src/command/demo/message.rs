//! What a demonstration and its worker processes say to each other: one JSON object per line.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The first and only line that a worker reads. Its stdin stays open for as long as its parent
/// lives: at its end the worker ends too.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Order {
    /// The system to use. Not an argument, because it may hold a password.
    pub(super) system: String,
    pub(super) instance_id: String,
    pub(super) address: String,
    /// How often to look.
    pub(super) every: Duration,
}

/// What a worker tells.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum News {
    /// Registered.
    Live,
    /// A peer was listed, and found by worker id and by instance id.
    Found { instance_id: String },
    /// A peer is not listed any more, and found by neither id.
    Lost { instance_id: String },
    /// Looking failed.
    Trouble { message: String },
    /// Could not start; `code` is that of the kind of error.
    Failed { code: String, message: String },
}
