//! L2, over a bad network.

use std::time::Duration;

use discovery_core::{
    ErrorKind,
    limit::{CALL_DEADLINE, CONNECT_DEADLINE},
};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::{MUTE, Network, ROUGH};
use crate::{
    Toxic,
    trial::{Ctx, eventually, peer, peers_of, trials},
};

trials! { "lookup":
    "L2" whatever_the_network_does_is_never_not_found [ServerRestart];
}

async fn whatever_the_network_does_is_never_not_found(ctx: Ctx) {
    let toxics = MUTE.into_iter().chain(ROUGH);
    join_all(toxics.map(|toxic| look_through(&ctx, toxic))).await;
}

async fn look_through(ctx: &Ctx, toxic: Toxic) {
    let (network, there) = (Network::start(ctx).await, peer());
    ctx.plant_peer(&there).await;
    let peers = peers_of(&*network.connect(&ctx.how()).await);
    let found = peers.discover_by_worker_id(there.worker_id()).await;
    assert_eq!(found.expect("the network is sound"), there);
    network.apply(toxic).await;
    for _ in 0..3 {
        let begun = Instant::now();
        let found = peers.discover_by_worker_id(there.worker_id()).await;
        let took = begun.elapsed();
        let limit = CONNECT_DEADLINE + CALL_DEADLINE + Duration::from_secs(1);
        assert!(took < limit, "{toxic:?} after {took:?}");
        match found {
            Ok(found) => assert_eq!(found, there, "{toxic:?}"),
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout),
                "{toxic:?}: {error}"
            ),
        }
    }
    network.heal().await;
    eventually(CALL_DEADLINE + Duration::from_secs(1), || async {
        peers.discover_by_worker_id(there.worker_id()).await.is_ok()
    })
    .await;
}
