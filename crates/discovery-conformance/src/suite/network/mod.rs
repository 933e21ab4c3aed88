//! The same contract over a network that is as bad as networks are.

pub(super) mod lookups;
pub(super) mod registrations;
pub(super) mod watches;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use discovery_core::DiscoverySystem;

use crate::{Backend, Connect, Direction, FaultProxy, Toxic, trial::Ctx};

/// A proxy in front of the backend's server, and the backend as it is reached through it.
struct Network {
    proxy: FaultProxy,
    backend: Arc<dyn Backend>,
}

impl Network {
    async fn start(ctx: &Ctx) -> Self {
        let server = ctx
            .backend
            .server_address()
            .expect("a backend with a server says where");
        let proxy = FaultProxy::start(server).await.expect("a proxy");
        let backend = ctx.backend.via(proxy.local_addr());
        let backend = backend.expect("a backend with a server can be reached elsewhere");
        Self { proxy, backend }
    }

    async fn connect(&self, how: &Connect) -> Arc<dyn DiscoverySystem> {
        self.backend.connect(how).await.expect("the network is sound")
    }

    async fn apply(&self, toxic: Toxic) {
        self.proxy.apply(toxic).await.expect("applied");
    }

    async fn heal(&self) {
        self.proxy.heal().await.expect("healed");
    }
}

/// Whatever keeps answers from coming, for as long as it lasts.
const MUTE: [Toxic; 7] = [
    Toxic::Swallow,
    Toxic::SwallowOnly(Direction::ToServer),
    Toxic::SwallowOnly(Direction::ToClient),
    Toxic::Stall,
    Toxic::HangUp,
    Toxic::Refuse,
    cut(Direction::ToClient, 0),
];

/// What disturbs, and lets something through all the same.
const ROUGH: [Toxic; 7] = [
    Toxic::Reset,
    Toxic::HalfClose(Direction::ToServer),
    Toxic::HalfClose(Direction::ToClient),
    cut(Direction::ToServer, 100),
    cut(Direction::ToClient, 100),
    Toxic::Delay(Duration::from_millis(50)),
    Toxic::Rate(NonZeroU32::new(20_000).expect("not zero")),
];

const fn cut(direction: Direction, bytes: u64) -> Toxic {
    Toxic::CutAfter { direction, bytes }
}
