//! The system: registrations that live as long as their owner.

use std::{sync::Arc, time::Duration};

use discovery_core::{
    Capability, DiscoverySystem, ErrorKind, InstanceId, RegistrationState, WorkerAddress, peer::PeerDiscovery,
};
use discovery_http::HttpSystem;
use discovery_records::Renewing;

use crate::harness::{SECOND, any_port, config, eventually, forgetful, get, service};

fn peers(system: &HttpSystem) -> Arc<dyn PeerDiscovery> {
    system.peer_discovery().unwrap()
}

#[tokio::test]
async fn a_peer_registered_here_is_found_there_until_unregistered() {
    let server = service().await;
    let here = HttpSystem::connect(config(server.local_addr())).await.unwrap();
    let there = HttpSystem::connect(config(server.local_addr())).await.unwrap();
    let id = InstanceId::new_v4();
    let address = WorkerAddress::from_bytes("tcp://127.0.0.1:5555");
    let registration = peers(&here).register_instance(id, address.clone()).await.unwrap();
    assert_eq!(registration.state(), RegistrationState::Live);
    let found = peers(&there).discover_by_worker_id(id.worker_id()).await.unwrap();
    assert_eq!((found.instance_id(), found.address()), (id, &address));

    let view = format!("/v1/clusters/default/instances/{id}");
    assert_eq!(
        get(server.local_addr(), &view).await.json()["address"],
        "tcp://127.0.0.1:5555"
    );
    let error = peers(&there)
        .register_instance(id, WorkerAddress::from_bytes("tcp://elsewhere"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ChecksumMismatch);

    registration.unregister().await.unwrap();
    let error = peers(&there).discover_by_instance_id(id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    here.shutdown(SECOND).await.unwrap();
}

#[tokio::test]
async fn registrations_come_back_after_a_restart_of_the_service() {
    let server = service().await;
    let addr = server.local_addr();
    for renewing in [Renewing::OwnThread, Renewing::Shared] {
        let system = HttpSystem::connect_lazy(config(addr).with_ttl(SECOND)).unwrap();
        let system = system.with_renewing(renewing);
        assert!(!format!("{system:?}").is_empty());
        system.shutdown(SECOND).await.unwrap();
    }
    let system = HttpSystem::connect_lazy(config(addr).with_ttl(3 * SECOND)).unwrap();
    let mut registrations = Vec::new();
    for number in 0..10 {
        let address = WorkerAddress::from_bytes(format!("tcp://{number}"));
        let id = InstanceId::new_v4();
        registrations.push((id, peers(&system).register_instance(id, address).await.unwrap()));
    }
    server.shutdown(SECOND).await.unwrap();
    let down = peers(&system)
        .discover_by_instance_id(registrations[0].0)
        .await
        .unwrap_err();
    assert_eq!(down.kind(), ErrorKind::Unavailable);
    let _server = forgetful(addr, Duration::ZERO).await;
    eventually(4 * SECOND, async || {
        let ids: Vec<_> = registrations.iter().map(|(id, _)| id.worker_id()).collect();
        peers(&system).discover_many(&ids).await.iter().all(Result::is_ok)
    })
    .await;
    for (_, registration) in &registrations {
        eventually(SECOND, async || registration.state() == RegistrationState::Live).await;
    }
    system.shutdown(SECOND).await.unwrap();
}

#[tokio::test]
async fn it_vends_what_it_declares() {
    let listener = std::net::TcpListener::bind(any_port()).unwrap();
    let system = HttpSystem::connect_lazy(config(listener.local_addr().unwrap())).unwrap();
    assert_eq!((system.name(), system.cluster().as_str()), ("http", "default"));
    assert_eq!(system.capabilities(), &HttpSystem::declared());
    assert!(system.capabilities().has(Capability::ServerRestart));
    let config = config(listener.local_addr().unwrap()).with_keep_alive(2 * SECOND);
    let other = HttpSystem::connect_lazy(config).unwrap();
    assert_eq!(system.capabilities().bounds().watch_silence, 10 * SECOND);
    assert_eq!(other.capabilities().bounds().watch_silence, 4 * SECOND);
    assert!(system.capabilities().has(Capability::Watch));
    assert!(system.peer_discovery().unwrap().watch().is_some());
    assert!(system.peer_discovery().is_some() && system.records().is_some());
}

#[tokio::test]
async fn the_environment_changes_nothing() {
    // Settings that would send requests elsewhere, or look for certificates, are for a child
    // process: they cannot be set safely in this one.
    if std::env::var_os("DISCOVERY_HTTP_CHILD").is_some() {
        let server = service().await;
        HttpSystem::connect(config(server.local_addr())).await.unwrap();
        return;
    }
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "system::the_environment_changes_nothing"])
        .env("DISCOVERY_HTTP_CHILD", "1")
        .env("SSL_CERT_FILE", "/nonexistent")
        .env("SSL_CERT_DIR", "/nonexistent")
        .env("http_proxy", "http://127.0.0.1:9")
        .env("HTTP_PROXY", "http://127.0.0.1:9")
        .env("ALL_PROXY", "http://127.0.0.1:9")
        .output()
        .unwrap();
    assert!(
        status.status.success(),
        "{}",
        String::from_utf8_lossy(&status.stdout)
    );
}
