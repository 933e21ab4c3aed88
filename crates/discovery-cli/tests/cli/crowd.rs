//! Many peers within the test process.

use std::{sync::Arc, time::Duration};

use discovery::{
    peer::{InstanceId, PeerDiscovery, Registration, WorkerAddress},
    systems::DiscoverySystem,
};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
};

/// Peers that live in this process, and come and go in crowds.
pub(crate) struct Crowd {
    pub(crate) runtime: Runtime,
    system: Arc<dyn DiscoverySystem>,
    pub(crate) peers: Arc<dyn PeerDiscovery>,
}

impl Crowd {
    pub(crate) fn connect(system: &str) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let system = runtime.block_on(discovery::connect(system)).unwrap();
        let peers = system.peer_discovery().unwrap();
        Self {
            runtime,
            system,
            peers,
        }
    }

    /// Begins to register so many.
    pub(crate) fn begin_to_register(&self, count: usize) -> JoinSet<Option<Registration>> {
        let mut all = JoinSet::new();
        for number in 0..count {
            let peers = self.peers.clone();
            let address = WorkerAddress::from_bytes(format!("tcp://crowd:{number}"));
            let register = async move { peers.register_instance(InstanceId::new_v4(), address).await.ok() };
            all.spawn_on(register, self.runtime.handle());
        }
        all
    }

    pub(crate) fn register(&self, count: usize) -> Vec<Registration> {
        let all = self.runtime.block_on(self.begin_to_register(count).join_all());
        let all: Vec<_> = all.into_iter().flatten().collect();
        assert_eq!(all.len(), count);
        all
    }

    /// Begins to unregister them.
    pub(crate) fn begin_to_unregister(&self, registrations: Vec<Registration>) -> JoinSet<()> {
        let mut all = JoinSet::new();
        for registration in registrations {
            // Whether it was confirmed in time is not what matters here.
            let unregister = async move { drop(registration.unregister().await) };
            all.spawn_on(unregister, self.runtime.handle());
        }
        all
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self
            .runtime
            .block_on(self.system.shutdown(Duration::from_secs(2)));
    }
}
