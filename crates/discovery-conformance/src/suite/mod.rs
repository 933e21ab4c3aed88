//! The trials, by suite.

mod conflict;
mod lateness;
mod lease;
mod lookup;
mod manager;
mod recovery;
mod registration;
mod scripted;
mod system;
mod unregistration;

use crate::trial::Trial;

/// Every trial.
pub(crate) fn all() -> impl Iterator<Item = &'static Trial> {
    let suites = [
        registration::TRIALS,
        conflict::TRIALS,
        unregistration::TRIALS,
        recovery::TRIALS,
        lateness::TRIALS,
        lease::TRIALS,
        lookup::TRIALS,
        system::TRIALS,
        manager::life::TRIALS,
        manager::flights::TRIALS,
        manager::answers::TRIALS,
    ];
    suites.into_iter().flatten()
}
