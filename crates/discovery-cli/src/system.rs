//! System URLs as the commands take them.

use std::sync::Arc;

use discovery::{
    DiscoveryError, ErrorKind, SystemUrl,
    peer::{PeerDiscovery, PeerWatch},
    systems::DiscoverySystem,
};

use crate::failure::Failure;

/// Checks what can be checked of a URL without I/O: that it parses, that its system is known
/// and takes these options, and that other processes can take part.
pub(crate) fn check(url: &str) -> Result<Arc<dyn DiscoverySystem>, Failure> {
    let parsed: SystemUrl = url.parse()?;
    if parsed.scheme() == "memory" {
        let message = "memory:// lives within one process, so no other process can see it";
        return Err(Failure::new(ErrorKind::InvalidConfig, message)
            .with_hint("start `discovery serve` and use the http:// URL that it prints"));
    }
    Ok(discovery::connect_lazy(url)?)
}

/// The discovery of peers that a system provides.
pub(crate) fn peers(system: &dyn DiscoverySystem) -> Result<Arc<dyn PeerDiscovery>, Failure> {
    let missing = || lacks(system, "discovery of peers");
    Ok(system.peer_discovery().ok_or_else(missing)?)
}

/// The list of peers that a system provides.
pub(crate) fn listing(system: &dyn DiscoverySystem) -> Result<Arc<dyn PeerWatch>, Failure> {
    let missing = || lacks(system, "a list of peers");
    Ok(peers(system)?.watch().ok_or_else(missing)?)
}

fn lacks(system: &dyn DiscoverySystem, what: &str) -> DiscoveryError {
    DiscoveryError::new(ErrorKind::Unsupported, format!("does not provide {what}")).with_system(system.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_within_one_process_is_refused_with_the_way_out() {
        let refused = check("memory://lab").err().unwrap();
        assert_eq!(refused.exit().code(), 2);
        assert!(refused.line().contains("discovery serve"), "{}", refused.line());
    }

    #[cfg(not(feature = "http"))]
    #[test]
    fn a_backend_that_was_not_compiled_in_names_its_feature() {
        let refused = check("http://127.0.0.1:7400").err().unwrap();
        assert_eq!(refused.exit().code(), 2);
        assert!(refused.line().contains("feature `http`"), "{}", refused.line());
    }
}
