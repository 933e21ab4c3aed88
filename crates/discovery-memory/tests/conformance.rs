//! The contract, tried on the memory backend.

use std::{process::ExitCode, sync::Arc};

use discovery_conformance::{InProcess, StoreUnderTest};
use discovery_core::DiscoverySystem;
use discovery_memory::{MemoryConfig, MemoryStore, MemorySystem};
use discovery_records::Renewing;

fn main() -> ExitCode {
    discovery_conformance::run(InProcess {
        name: "memory",
        capabilities: MemorySystem::declared(),
        make_store: Box::new(|| {
            let store = MemoryStore::new();
            StoreUnderTest {
                store: Arc::new(store.clone()),
                wipe: Box::new(move || store.wipe()),
            }
        }),
        make_system: Arc::new(Box::new(|store, connect| {
            let renewing = if connect.own_thread {
                Renewing::OwnThread
            } else {
                Renewing::Shared
            };
            let config = MemoryConfig::default()
                .with_cluster(connect.cluster.clone())
                .with_view(connect.view)
                .with_ttl(connect.ttl);
            let system = MemorySystem::with_store(&config.with_renewing(renewing), store)?;
            Ok(Arc::new(system) as Arc<dyn DiscoverySystem>)
        })),
        texts_with_secret,
    })
}

fn texts_with_secret(secret: &str) -> Vec<String> {
    let url = format!("memory://{secret}@somewhere?cluster=x")
        .parse()
        .expect("a URL");
    let shown = format!("{url:?}");
    let error = MemoryConfig::from_url(url).expect_err("memory has no users");
    vec![shown, error.to_string(), format!("{error:?}")]
}
