//! The trials, by suite.

mod lifecycle;
mod lookup;
mod manager;
mod registration;
mod scripted;
mod system;

use crate::trial::Trial;

/// Every trial.
pub(crate) fn all() -> impl Iterator<Item = &'static Trial> {
    let suites = [
        registration::TRIALS,
        lifecycle::TRIALS,
        lookup::TRIALS,
        system::TRIALS,
        manager::TRIALS,
    ];
    suites.into_iter().flatten()
}
