//! Runs the example, in memory and over a real service.

use std::{sync::Arc, time::Duration};

use discovery::{
    peer::{InstanceId, PeerInfo, WorkerAddress, manager::PeerDiscoveryManager},
    systems::DiscoverySystem,
};
use discovery_http::server::{Server, ServerConfig};
use discovery_memory::MemoryStore;

#[tokio::test]
async fn a_peer_is_found_by_both_its_ids() -> anyhow::Result<()> {
    let system = discovery::connect("memory://").await?;
    consumer::example(system).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_the_registration_outlives_the_system_by_far() -> anyhow::Result<()> {
    let listen = "127.0.0.1:0".parse()?;
    let config = ServerConfig {
        listen,
        forgetful: true,
        ..ServerConfig::default()
    };
    let server = Server::start(config, Arc::new(MemoryStore::new())).await?;
    let url = format!("http://{}?ttl=2s", server.local_addr());
    consumer::example(discovery::connect(&url).await?).await?;

    let system: Arc<dyn DiscoverySystem> = discovery::connect(&url).await?;
    let id = InstanceId::new_v4();
    let local = PeerInfo::new(id, WorkerAddress::from_bytes("tcp://127.0.0.1:5555"));
    let sources = system.peer_discovery();
    drop(system);
    let manager = PeerDiscoveryManager::new(local.clone(), sources).await?;

    let others = PeerDiscoveryManager::builder().sources(discovery::connect(&url).await?.peer_discovery());
    let others = others.fresh_for(Duration::ZERO).build().await?;
    for _ in 0..60 {
        assert_eq!(others.discover_by_worker_id(id.worker_id()).await?, local);
        assert_eq!(others.discover_by_instance_id(id).await?, local);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    manager.shutdown(Duration::from_secs(2)).await?;
    assert!(others.discover_by_worker_id(id.worker_id()).await.is_err());
    server.shutdown(Duration::from_secs(2)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_others_is_told_when_they_come_and_go() -> anyhow::Result<()> {
    let config = ServerConfig {
        listen: "127.0.0.1:0".parse()?,
        forgetful: true,
        ..ServerConfig::default()
    };
    let server = Server::start(config, Arc::new(MemoryStore::new())).await?;
    let url = format!("http://{}?ttl=2s", server.local_addr());
    let (one, other) = (discovery::connect(&url).await?, discovery::connect(&url).await?);
    let waiting = tokio::spawn(async move { consumer::wait_for(&*one, 3).await });
    let peers = other.peer_discovery().expect("http registers peers");
    let mut registrations = Vec::new();
    for port in 1..=3 {
        let address = WorkerAddress::from_bytes(format!("tcp://127.0.0.1:{port}"));
        registrations.push(peers.register_instance(InstanceId::new_v4(), address).await?);
    }
    assert_eq!(
        waiting.await??,
        peers.watch().expect("a watch").list_peers().await?
    );
    other.shutdown(Duration::from_secs(2)).await?;
    assert_eq!(consumer::wait_for(&*other, 0).await?, Vec::new());
    server.shutdown(Duration::from_secs(2)).await?;
    Ok(())
}
