//! Faults that end connections, or one direction of them.

use super::*;

async fn is_refused(address: SocketAddr) {
    let refused = connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_up_closes_open_and_new_connections() {
    let net = Net::new().await;
    let (mut client, mut served) = net.pair().await;
    net.apply(Toxic::HangUp).await;
    is_closed(&mut client).await;
    is_closed(&mut served).await;
    for _ in 0..3 {
        let mut next = net.client().await;
        is_closed(&mut next).await;
    }
    eventually(LIMIT, || async { net.proxy.accepted() == 4 }).await;
    net.count_becomes(0).await;
    assert!(net.nobody_came());
    net.heal().await;
    let (mut client, mut served) = net.pair().await;
    talk(&mut client, &mut served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusing_really_refuses_and_the_port_comes_back() {
    let net = Net::new().await;
    let address = net.proxy.local_addr();
    for _ in 0..20 {
        let (mut client, mut served) = net.pair().await;
        talk(&mut client, &mut served).await;
        net.apply(Toxic::Refuse).await;
        is_refused(address).await;
        is_closed(&mut client).await;
        is_closed(&mut served).await;
        net.apply(Toxic::Refuse).await;
        is_refused(address).await;
        net.heal().await;
        net.heal().await;
    }
    assert_eq!(net.proxy.local_addr(), address);
    assert_eq!(net.proxy.accepted(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_up_and_refusing_replace_each_other() {
    let net = Net::new().await;
    net.apply(Toxic::Refuse).await;
    net.apply(Toxic::HangUp).await;
    is_closed(&mut net.client().await).await;
    net.apply(Toxic::Refuse).await;
    is_refused(net.proxy.local_addr()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_healed_at_once_has_still_happened() {
    let net = Net::new().await;
    for toxic in [Toxic::HangUp, Toxic::Refuse] {
        let (mut client, mut served) = net.pair().await;
        net.apply(toxic).await;
        net.heal().await;
        is_closed(&mut client).await;
        is_closed(&mut served).await;
    }
    let (direction, bytes) = (Direction::ToServer, 0);
    for toxic in [Toxic::Reset, Toxic::CutAfter { direction, bytes }] {
        let (mut client, mut served) = net.pair().await;
        net.apply(toxic).await;
        net.heal().await;
        is_reset(&mut client).await;
        is_reset(&mut served).await;
    }
    net.count_becomes(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_happens_once_to_whoever_is_open() {
    let net = Net::new().await;
    let (mut client, mut served) = net.pair().await;
    net.apply(Toxic::Reset).await;
    let (mut next, mut served_next) = net.pair().await;
    is_reset(&mut client).await;
    is_reset(&mut served).await;
    talk(&mut next, &mut served_next).await;
    net.count_becomes(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_happens_also_to_who_waits_to_be_accepted() {
    let net = Net::new().await;
    for _ in 0..50 {
        let mut client = net.client().await;
        send(&mut client, b"x").await;
        net.apply(Toxic::Reset).await;
        is_reset(&mut client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_passes_through_stalls_and_black_holes() {
    for toxic in [Toxic::Stall, Toxic::Swallow] {
        let net = Net::new().await;
        let (mut client, mut served) = net.pair().await;
        net.apply(toxic).await;
        let mut late = net.client().await;
        net.count_becomes(2).await;
        net.apply(Toxic::Reset).await;
        is_reset(&mut client).await;
        is_reset(&mut served).await;
        is_reset(&mut late).await;
        net.count_becomes(0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_close_lets_the_other_direction_go_on() {
    for direction in [Direction::ToServer, Direction::ToClient] {
        let net = Net::new().await;
        let (client, served) = net.pair().await;
        let (mut sender, mut receiver) = match direction {
            Direction::ToServer => (client, served),
            Direction::ToClient => (served, client),
        };
        send(&mut sender, b"before").await;
        hear(&mut receiver, b"before").await;
        net.apply(Toxic::HalfClose(direction)).await;
        send(&mut sender, b"after").await;
        is_closed(&mut receiver).await;
        // Healing does not bring it back, nor does it take the rest away.
        net.heal().await;
        for _ in 0..3 {
            send(&mut receiver, b"still here").await;
            hear(&mut sender, b"still here").await;
            send(&mut sender, b"to nobody").await;
        }
        assert_eq!(net.proxy.bytes(direction), 6);
        let (mut next, mut served_next) = net.pair().await;
        talk(&mut next, &mut served_next).await;
        drop((sender, receiver));
        net.count_becomes(1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_close_waits_for_what_is_on_its_way() {
    let net = Net::new().await;
    let (mut client, mut served) = net.pair().await;
    net.apply(Toxic::Delay(Duration::from_millis(100))).await;
    send(&mut served, b"on its way").await;
    send(&mut client, b"noticed").await;
    hear(&mut served, b"noticed").await;
    net.apply(Toxic::HalfClose(Direction::ToClient)).await;
    let (heard, ended) = hear_out(&mut client).await;
    assert!(heard == b"on its way" && ended.is_ok(), "{heard:?} {ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_is_in_the_middle_of_a_message() {
    let net = Net::new().await;
    let message = pattern(100_000);
    for bytes in [1_usize, 10, 70_000] {
        let (mut client, mut served) = net.pair().await;
        talk(&mut client, &mut served).await;
        let before = net.proxy.bytes(Direction::ToClient);
        net.apply(Toxic::CutAfter {
            direction: Direction::ToClient,
            bytes: bytes as u64,
        })
        .await;
        // Requests are not counted.
        send(&mut client, &message[..500]).await;
        hear(&mut served, &message[..500]).await;
        let (sent, (heard, ended)) = tokio::join!(served.write_all(&message), hear_out(&mut client));
        drop(sent);
        assert!(message.starts_with(&heard));
        assert_eq!(heard.len(), bytes);
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(net.proxy.bytes(Direction::ToClient) - before, bytes as u64);
        net.heal().await;
        net.count_becomes(0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_meets_new_connections_until_healed_and_counts_anew_if_asked_again() {
    let net = Net::new().await;
    let cut = Toxic::CutAfter {
        direction: Direction::ToServer,
        bytes: 6,
    };
    net.apply(cut).await;
    for _ in 0..2 {
        let (mut client, mut served) = net.pair().await;
        send(&mut client, b"whole").await;
        hear(&mut served, b"whole").await;
        net.apply(cut).await;
        send(&mut client, b"and half of it").await;
        let (heard, ended) = hear_out(&mut served).await;
        assert_eq!(heard, b"and ha");
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
    net.heal().await;
    let (mut client, mut served) = net.pair().await;
    for _ in 0..3 {
        talk(&mut client, &mut served).await;
    }
}
