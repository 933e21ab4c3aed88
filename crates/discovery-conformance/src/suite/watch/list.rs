//! Lists: W6.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use discovery_core::PeerInfo;

use super::Fleet;
use crate::trial::{Ctx, trials};

trials! { "watch":
    "W6" a_long_list_has_everything_that_stood_throughout_once [Watch, List];
}

async fn a_long_list_has_everything_that_stood_throughout_once(ctx: Ctx) {
    let mut fleet = Fleet::start(&ctx).await;
    let stood: BTreeSet<_> = fleet.add(10_000).await.iter().map(PeerInfo::worker_id).collect();
    let watch = ctx.peers().await.watch().expect("a list");
    // Others come and go while it is listed.
    let done = Arc::new(AtomicBool::new(false));
    let churning = {
        let (done, mut churn) = (done.clone(), Fleet::start(&ctx).await);
        tokio::spawn(async move {
            let mut came = BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                for peer in churn.add(16).await {
                    came.insert(peer.worker_id());
                }
                for peer in churn.peers() {
                    churn.remove(&peer).await;
                    tokio::task::yield_now().await;
                }
            }
            came
        })
    };
    let mut lists = Vec::new();
    for _ in 0..3 {
        lists.push(watch.list_peers().await.expect("listed"));
    }
    done.store(true, Ordering::Relaxed);
    let came = churning.await.expect("churned");
    for listed in lists {
        let ids: Vec<_> = listed.iter().map(PeerInfo::worker_id).collect();
        assert!(ids.is_sorted(), "in the order of worker ids");
        let set: BTreeSet<_> = ids.iter().copied().collect();
        assert_eq!(set.len(), ids.len(), "something appears twice");
        assert_eq!(
            stood.difference(&set).count(),
            0,
            "something that stood is missing"
        );
        let others = set.difference(&stood).filter(|id| !came.contains(id));
        assert_eq!(others.count(), 0, "something that never stood");
    }
}
