//! The trials, by suite.

mod conflict;
mod cuts;
mod entry;
mod lateness;
mod lease;
mod lookup;
mod manager;
mod network;
mod recovery;
mod registration;
mod scripted;
mod system;
mod unregistration;
mod watch;

use crate::trial::Trial;

/// Every trial.
pub(crate) fn all() -> impl Iterator<Item = &'static Trial> {
    let suites = [
        registration::TRIALS,
        conflict::TRIALS,
        unregistration::TRIALS,
        cuts::TRIALS,
        recovery::TRIALS,
        lateness::TRIALS,
        lease::TRIALS,
        lookup::TRIALS,
        system::TRIALS,
        entry::TRIALS,
        watch::stream::TRIALS,
        watch::convergence::TRIALS,
        watch::interruption::TRIALS,
        watch::list::TRIALS,
        network::registrations::TRIALS,
        network::lookups::TRIALS,
        network::watches::TRIALS,
        manager::life::TRIALS,
        manager::flights::TRIALS,
        manager::answers::TRIALS,
        manager::watched::TRIALS,
    ];
    suites.into_iter().flatten()
}
