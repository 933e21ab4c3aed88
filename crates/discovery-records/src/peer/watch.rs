//! Peers that come and go, told from a view of their records.

use std::{sync::Arc, time::Duration};

use discovery_core::{
    Cluster, DiscoveryError, PeerInfo,
    peer::{PeerEvent, PeerEvents, RemovalReason},
    store::{Departure, RecordStore},
};
use futures_util::{StreamExt, stream};

use super::{decode, peers_prefix};
use crate::view::{self, ViewConfig, ViewEvent};

/// Watches the peers of a cluster; `source` is what errors and log lines call the backend.
pub(super) async fn watch(
    store: Arc<dyn RecordStore>,
    cluster: &Cluster,
    source: Arc<str>,
    ttl: Duration,
    config: ViewConfig,
) -> Result<PeerEvents, DiscoveryError> {
    let events = view::watch(store, peers_prefix(cluster), decode, ttl, config).await?;
    Ok(Box::pin(events.flat_map(move |event| {
        stream::iter(peer_events(event, &source).into_iter().flatten())
    })))
}

fn peer_events(event: ViewEvent<PeerInfo>, source: &Arc<str>) -> [Option<PeerEvent>; 2] {
    let one = match event {
        ViewEvent::Snapshot(peers) => PeerEvent::Snapshot(peers),
        ViewEvent::Added(peer) => PeerEvent::Added(peer),
        ViewEvent::Modified { previous, item } if previous.instance_id() == item.instance_id() => {
            PeerEvent::Modified { previous, peer: item }
        }
        // Another instance in its place is another peer.
        ViewEvent::Modified { previous, item } => {
            let removed = PeerEvent::Removed {
                peer: previous,
                reason: RemovalReason::Unknown,
            };
            return [Some(removed), Some(PeerEvent::Added(item))];
        }
        ViewEvent::Removed { item, why } => PeerEvent::Removed {
            peer: item,
            reason: reason(why),
        },
        ViewEvent::Interrupted(error) => {
            let error = error.with_operation("watch").with_system(source.clone());
            tracing::warn!(target: "discovery::watch", %source, %error, "a watch was interrupted; trying again");
            PeerEvent::Interrupted(error)
        }
        ViewEvent::Resynced { suspects } => {
            tracing::info!(target: "discovery::watch", %source, suspects = suspects.len(), "a watch was resynced");
            PeerEvent::Resynced { suspects }
        }
    };
    [Some(one), None]
}

fn reason(why: Departure) -> RemovalReason {
    match why {
        Departure::Removed => RemovalReason::Unregistered,
        Departure::Expired => RemovalReason::Expired,
        _ => RemovalReason::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use discovery_core::{ErrorKind, InstanceId, WorkerAddress};

    use super::*;

    fn peer(id: InstanceId, address: &str) -> PeerInfo {
        PeerInfo::new(id, WorkerAddress::from_bytes(address))
    }

    fn told(event: ViewEvent<PeerInfo>) -> Vec<PeerEvent> {
        peer_events(event, &"there".into())
            .into_iter()
            .flatten()
            .collect()
    }

    #[test]
    fn why_a_peer_left_is_passed_on() {
        for (why, expected) in [
            (Departure::Removed, RemovalReason::Unregistered),
            (Departure::Expired, RemovalReason::Expired),
            (Departure::Unknown, RemovalReason::Unknown),
        ] {
            let item = peer(InstanceId::new_v4(), "x");
            let event = ViewEvent::Removed {
                item: item.clone(),
                why,
            };
            let [PeerEvent::Removed { peer, reason }] = &told(event)[..] else {
                panic!("{why:?}");
            };
            assert_eq!((peer, *reason), (&item, expected));
        }
    }

    #[test]
    fn another_instance_in_the_place_of_one_tells_not_why_that_left() {
        let [one, other] = [(); 2].map(|()| peer(InstanceId::new_v4(), "x"));
        let event = ViewEvent::Modified {
            previous: one.clone(),
            item: other.clone(),
        };
        let [PeerEvent::Removed { peer, reason }, PeerEvent::Added(came)] = &told(event)[..] else {
            panic!("not a removal and an arrival");
        };
        assert_eq!((peer, *reason, came), (&one, RemovalReason::Unknown, &other));
    }

    #[test]
    fn an_interruption_names_what_is_interrupted() {
        let error = DiscoveryError::new(ErrorKind::Unavailable, "gone");
        let [PeerEvent::Interrupted(error)] = &told(ViewEvent::Interrupted(error))[..] else {
            panic!("no interruption");
        };
        assert_eq!(
            (error.system(), error.operation()),
            (Some("there"), Some("watch"))
        );
    }
}
