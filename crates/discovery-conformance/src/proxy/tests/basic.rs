//! Without a fault, and the life of the proxy.

use discovery_core::task::Exit;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_in_both_directions_and_are_counted() {
    let net = Net::new().await;
    let (mut client, mut served) = net.pair().await;
    send(&mut client, b"question").await;
    hear(&mut served, b"question").await;
    send(&mut served, b"answer").await;
    hear(&mut client, b"answer").await;
    assert_eq!(net.proxy.bytes(Direction::ToServer), 8);
    assert_eq!(net.proxy.bytes(Direction::ToClient), 6);
    assert_eq!((net.proxy.connections(), net.proxy.accepted()), (1, 1));
    assert_eq!(net.proxy.swallowed(Direction::ToServer), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn much_passes_unchanged_in_both_directions_at_once() {
    let net = Net::new().await;
    let (client, served) = net.pair().await;
    let (mut from_client, mut to_client) = served.into_split();
    let (mut from_server, mut to_server) = client.into_split();
    let bytes = pattern(3_000_000);
    let (mut up, mut down) = (vec![0; bytes.len()], vec![0; bytes.len()]);
    let all = async {
        tokio::try_join!(
            to_server.write_all(&bytes),
            to_client.write_all(&bytes),
            from_client.read_exact(&mut up),
            from_server.read_exact(&mut down),
        )
    };
    timeout(LIMIT, all).await.unwrap().unwrap();
    assert!(up == bytes && down == bytes);
    assert_eq!(net.proxy.bytes(Direction::ToServer), 3_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_of_stream_passes_and_the_other_direction_goes_on() {
    let net = Net::new().await;
    let (mut client, mut served) = net.pair().await;
    send(&mut client, b"all").await;
    client.shutdown().await.unwrap();
    let (heard, ended) = hear_out(&mut served).await;
    assert!(heard == b"all" && ended.is_ok());
    send(&mut served, b"answer").await;
    hear(&mut client, b"answer").await;
    drop(served);
    is_closed(&mut client).await;
    net.count_becomes(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_one_side_resets_the_other() {
    let net = Net::new().await;
    let (mut client, served) = net.pair().await;
    served.set_zero_linger().unwrap();
    drop(served);
    is_reset(&mut client).await;
    let (client, mut served) = net.pair().await;
    client.set_zero_linger().unwrap();
    drop(client);
    is_reset(&mut served).await;
    net.count_becomes(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_target_is_closed() {
    let net = Net::new().await;
    drop(net.server);
    let mut client = connect(net.proxy.local_addr()).await.unwrap();
    is_closed(&mut client).await;
    eventually(LIMIT, || async { net.proxy.connections() == 0 }).await;
    assert_eq!(net.proxy.accepted(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_new_connections_go_to_a_new_target() {
    let net = Net::new().await;
    let (mut client, mut served) = net.pair().await;
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    net.proxy.set_target(other.local_addr().unwrap());
    let mut moved = net.client().await;
    let (mut there, _) = timeout(LIMIT, other.accept()).await.unwrap().unwrap();
    talk(&mut moved, &mut there).await;
    talk(&mut client, &mut served).await;
    assert!(net.nobody_came());
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_closes_open_connections_and_the_port_in_time() {
    let toxics = [None, Some(Toxic::Swallow), Some(Toxic::Stall), Some(rate(1))];
    for toxic in toxics {
        let net = Net::new().await;
        let (mut client, mut served) = net.pair().await;
        if let Some(toxic) = toxic {
            net.apply(toxic).await;
        }
        let (shared, address) = (net.proxy.shared.clone(), net.proxy.local_addr());
        assert_eq!(net.proxy.shutdown(LIMIT).await, Exit::Done);
        assert_eq!(shared.connections(), 0);
        is_closed(&mut client).await;
        is_closed(&mut served).await;
        let refused = connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_it_ends_everything_soon() {
    let net = Net::new().await;
    let (mut client, mut served) = net.pair().await;
    let (shared, address) = (net.proxy.shared.clone(), net.proxy.local_addr());
    drop(net.proxy);
    is_closed(&mut client).await;
    is_closed(&mut served).await;
    eventually(LIMIT, || async { connect(address).await.is_err() }).await;
    eventually(LIMIT, || async { std::sync::Arc::strong_count(&shared) == 1 }).await;
    assert_eq!(shared.connections(), 0);
}

#[test]
fn a_proxy_without_its_runtime_says_so() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let net = first.block_on(Net::new());
    drop(first);
    let error = runtime().block_on(net.proxy.apply(Toxic::Stall)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_there_is_room_for_wait() {
    let net = Net::new().await;
    net.apply(Toxic::Stall).await;
    let mut clients = Vec::new();
    for _ in 0..70 {
        clients.push(net.client().await);
    }
    net.count_becomes(64).await;
    assert_eq!(net.proxy.accepted(), 64);
    let Net { server, proxy } = net;
    drop(server);
    proxy.heal().await.unwrap();
    for client in &mut clients {
        let _ = hear_out(client).await;
    }
    assert_eq!(proxy.accepted(), 70);
}
