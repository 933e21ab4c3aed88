//! Black holes, and what becomes of whom they robbed.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_swallows_both_directions_and_resets_whoever_lost_something() {
    let net = Net::new().await;
    let (mut robbed, mut served_robbed) = net.pair().await;
    let (mut unheard, mut served_unheard) = net.pair().await;
    let (mut idle, mut served_idle) = net.pair().await;
    net.apply(Toxic::Swallow).await;
    send(&mut robbed, b"lost").await;
    send(&mut served_unheard, b"lost too").await;
    net.swallowed_becomes(Direction::ToServer, 4).await;
    net.swallowed_becomes(Direction::ToClient, 8).await;
    assert!(is_silent(&served_robbed) && is_silent(&robbed) && is_silent(&unheard));
    assert_eq!(net.proxy.connections(), 3);

    net.heal().await;
    for stream in [&mut robbed, &mut served_robbed, &mut unheard, &mut served_unheard] {
        is_reset(stream).await;
    }
    talk(&mut idle, &mut served_idle).await;
    net.count_becomes(1).await;
    assert_eq!(net.proxy.bytes(Direction::ToServer), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_takes_new_connections_too() {
    let net = Net::new().await;
    net.apply(Toxic::Swallow).await;
    let (mut robbed, mut idle) = (net.client().await, net.client().await);
    send(&mut robbed, b"lost").await;
    net.swallowed_becomes(Direction::ToServer, 4).await;
    net.count_becomes(2).await;
    assert!(net.nobody_came() && is_silent(&robbed) && is_silent(&idle));

    net.heal().await;
    is_reset(&mut robbed).await;
    let mut served = net.served().await;
    talk(&mut idle, &mut served).await;
    net.count_becomes(1).await;
    assert!(net.nobody_came());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_direction_can_be_swallowed_alone() {
    for direction in [Direction::ToServer, Direction::ToClient] {
        let net = Net::new().await;
        let (client, served) = net.pair().await;
        let (mut robbed, mut heard) = match direction {
            Direction::ToServer => (client, served),
            Direction::ToClient => (served, client),
        };
        net.apply(Toxic::SwallowOnly(direction)).await;
        send(&mut robbed, b"lost").await;
        net.swallowed_becomes(direction, 4).await;
        send(&mut heard, b"and yet").await;
        hear(&mut robbed, b"and yet").await;
        assert!(is_silent(&heard));
        net.heal().await;
        is_reset(&mut robbed).await;
        is_reset(&mut heard).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_connections_reach_the_target_if_only_answers_are_swallowed() {
    let net = Net::new().await;
    net.apply(Toxic::SwallowOnly(Direction::ToClient)).await;
    let (mut client, mut served) = net.pair().await;
    send(&mut client, b"question").await;
    hear(&mut served, b"question").await;
    net.heal().await;
    talk(&mut client, &mut served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_keeps_goodbyes_until_healed() {
    let net = Net::new().await;
    let (client, mut served) = net.pair().await;
    let (failed, mut served_failed) = net.pair().await;
    net.apply(Toxic::Swallow).await;
    drop(client);
    failed.set_zero_linger().unwrap();
    drop(failed);
    // What is sent later is noticed, so what was before had its time.
    let mut other = net.client().await;
    send(&mut other, b"x").await;
    net.swallowed_becomes(Direction::ToServer, 1).await;
    assert!(is_silent(&served) && is_silent(&served_failed));
    assert_eq!(net.proxy.connections(), 3);
    net.heal().await;
    is_closed(&mut served).await;
    is_reset(&mut served_failed).await;
    drop(served);
    net.count_becomes(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_swallows_what_was_held_back() {
    let net = Net::new().await;
    let (mut client, mut served) = net.pair().await;
    net.apply(Toxic::Delay(Duration::from_secs(3600))).await;
    send(&mut client, b"late").await;
    net.apply(Toxic::Swallow).await;
    net.swallowed_becomes(Direction::ToServer, 4).await;
    net.heal().await;
    is_reset(&mut served).await;
    is_reset(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_that_follows_another_at_once_still_resets() {
    let net = Net::new().await;
    let (mut client, mut served) = net.pair().await;
    net.apply(Toxic::Swallow).await;
    send(&mut client, b"lost").await;
    net.swallowed_becomes(Direction::ToServer, 4).await;
    net.heal().await;
    net.apply(Toxic::Swallow).await;
    is_reset(&mut client).await;
    is_reset(&mut served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_swallows_although_stalled() {
    let net = Net::new().await;
    let (mut client, mut served) = net.pair().await;
    net.apply(Toxic::Swallow).await;
    net.apply(Toxic::Stall).await;
    send(&mut client, b"lost").await;
    net.swallowed_becomes(Direction::ToServer, 4).await;
    net.heal().await;
    is_reset(&mut served).await;
}

/// A client that goes on whatever happens; how often it was cut off.
async fn repeat(address: SocketAddr, bytes: &[u8]) -> u32 {
    let mut ends = 0;
    for _ in 0..60 {
        let Ok(mut stream) = connect(address).await else {
            ends += 1;
            continue;
        };
        let (mut from, mut to) = stream.split();
        let sending = async {
            let _ = to.write_all(bytes).await;
            let _ = to.shutdown().await;
        };
        let mut heard = Vec::new();
        let (_, ended) = tokio::join!(sending, from.read_to_end(&mut heard));
        assert!(bytes.starts_with(&heard), "a stream was torn");
        ends += u32::from(ended.is_err() || heard.len() < bytes.len());
    }
    ends
}

#[tokio::test(flavor = "multi_thread")]
async fn no_stream_is_torn_whatever_happens() {
    let net = Net::new().await;
    let echo = async {
        loop {
            let (mut served, _) = net.server.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut from, mut to) = served.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    };
    let faults = async {
        let (by, direction) = (Duration::from_millis(3), Direction::ToServer);
        let cut = Toxic::CutAfter {
            direction,
            bytes: 1000,
        };
        let toxics = [
            vec![Toxic::Swallow],
            vec![Toxic::Stall],
            vec![Toxic::Delay(by), Toxic::SwallowOnly(Direction::ToClient)],
            vec![rate(500_000), Toxic::Reset],
            vec![Toxic::HangUp],
            vec![Toxic::Delay(by), Toxic::HalfClose(Direction::ToClient)],
            vec![cut],
            vec![Toxic::Refuse],
            vec![Toxic::SwallowOnly(direction), Toxic::Stall],
        ];
        for toxics in toxics.iter().cycle() {
            for toxic in toxics {
                net.apply(*toxic).await;
            }
            tokio::time::sleep(by).await;
            net.heal().await;
            tokio::time::sleep(by).await;
        }
    };
    let bytes = pattern(200_000);
    let address = net.proxy.local_addr();
    let clients = futures_util::future::join_all((0..4).map(|_| repeat(address, &bytes)));
    let ends = timeout(LIMIT * 3, async {
        tokio::select! {
            () = echo => unreachable!("it goes on for ever"),
            () = faults => unreachable!("they go on for ever"),
            ends = clients => ends,
        }
    });
    assert!(ends.await.unwrap().iter().sum::<u32>() > 0);
    net.heal().await;
    drop(net.server);
    eventually(LIMIT, || async { net.proxy.connections() == 0 }).await;
}
