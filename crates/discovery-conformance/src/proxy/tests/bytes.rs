//! Faults that say when bytes go on: delay, rate, stall.

use tokio::time::{Instant, sleep};

use super::*;
use crate::proxy::queue::Queue;

#[tokio::test(flavor = "multi_thread")]
async fn delay_holds_each_direction_and_the_end() {
    let net = Net::new().await;
    let (mut client, mut served) = net.pair().await;
    let by = Duration::from_millis(150);
    net.apply(Toxic::Delay(by)).await;
    let begun = Instant::now();
    talk(&mut client, &mut served).await;
    assert!(begun.elapsed() >= by * 2);
    let begun = Instant::now();
    client.shutdown().await.unwrap();
    is_closed(&mut served).await;
    assert!(begun.elapsed() >= by);
}

#[tokio::test(flavor = "multi_thread")]
async fn delay_neither_reorders_nor_serialises() {
    let net = Net::new().await;
    let (mut client, mut served) = net.pair().await;
    let by = Duration::from_millis(300);
    net.apply(Toxic::Delay(by)).await;
    let bytes = pattern(4_000);
    let begun = Instant::now();
    for chunk in bytes.chunks(100) {
        send(&mut client, chunk).await;
        // So that each chunk is one to the proxy.
        sleep(Duration::from_millis(2)).await;
    }
    hear(&mut served, &bytes).await;
    assert!(begun.elapsed() >= by);
    assert!(begun.elapsed() < by * 20, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_fits_is_delayed_unchanged() {
    let net = Net::new().await;
    let (mut client, mut served) = net.pair().await;
    net.apply(Toxic::Delay(Duration::from_millis(20))).await;
    let bytes = pattern(500_000);
    let (sent, ()) = tokio::join!(client.write_all(&bytes), hear(&mut served, &bytes));
    sent.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_delayed_is_delivered_once_healed() {
    let net = Net::new().await;
    let (mut client, mut served) = net.pair().await;
    for by in [Duration::from_secs(3600), Duration::MAX] {
        net.apply(Toxic::Delay(by)).await;
        send(&mut client, b"late").await;
        send(&mut served, b"later").await;
        net.heal().await;
        hear(&mut served, b"late").await;
        hear(&mut client, b"later").await;
        talk(&mut client, &mut served).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_not_exceeded_in_either_direction() {
    let net = Net::new().await;
    let (mut client, mut served) = net.pair().await;
    net.apply(rate(40_000)).await;
    let bytes = pattern(20_000);
    for _ in 0..2 {
        let begun = Instant::now();
        send(&mut client, &bytes).await;
        hear(&mut served, &bytes).await;
        assert!(
            begun.elapsed() >= Duration::from_millis(400),
            "{:?}",
            begun.elapsed()
        );
        (client, served) = (served, client);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_of_each_connection() {
    let net = Net::new().await;
    net.apply(rate(20_000)).await;
    let bytes = pattern(10_000);
    let begun = Instant::now();
    let mut pairs = Vec::new();
    for _ in 0..20 {
        let (mut client, served) = net.pair().await;
        send(&mut client, &bytes).await;
        pairs.push((client, served));
    }
    for (_, served) in &mut pairs {
        hear(served, &bytes).await;
    }
    // One after the other they would take ten seconds.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rate_holds_is_delivered_once_healed() {
    let net = Net::new().await;
    let (mut client, mut served) = net.pair().await;
    net.apply(rate(1)).await;
    let bytes = pattern(100_000);
    let (sent, (), ()) = tokio::join!(client.write_all(&bytes), hear(&mut served, &bytes), async {
        eventually(LIMIT, || async { net.proxy.bytes(Direction::ToServer) > 0 }).await;
        net.heal().await;
    });
    sent.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_keeps_everything_until_healed() {
    let net = Net::new().await;
    let (mut client, mut served) = net.pair().await;
    net.apply(Toxic::Stall).await;
    send(&mut client, b"up").await;
    send(&mut served, b"down").await;
    let mut late = net.client().await;
    send(&mut late, b"new").await;
    net.count_becomes(2).await;
    assert!(is_silent(&served) && is_silent(&client) && net.nobody_came());
    net.heal().await;
    hear(&mut served, b"up").await;
    hear(&mut client, b"down").await;
    let mut served_late = net.served().await;
    hear(&mut served_late, b"new").await;
    talk(&mut client, &mut served).await;
    talk(&mut late, &mut served_late).await;
    assert_eq!(net.proxy.swallowed(Direction::ToServer), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_holds_senders_up() {
    let net = Net::new().await;
    let (mut client, mut served) = net.pair().await;
    net.apply(Toxic::Stall).await;
    // More than all buffers of the operating system together.
    let bytes = pattern(32 * 1024 * 1024);
    let mut sending = std::pin::pin!(client.write_all(&bytes));
    let stuck = timeout(Duration::from_millis(300), &mut sending).await;
    assert!(stuck.is_err());
    assert!(is_silent(&served));
    net.heal().await;
    let (sent, ()) = tokio::join!(sending, hear(&mut served, &bytes));
    sent.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn delay_and_rate_add_up() {
    let net = Net::new().await;
    let (mut client, mut served) = net.pair().await;
    net.apply(Toxic::Delay(Duration::from_millis(200))).await;
    net.apply(rate(20_000)).await;
    let bytes = pattern(6_000);
    let begun = Instant::now();
    send(&mut client, &bytes).await;
    hear(&mut served, &bytes).await;
    assert!(
        begun.elapsed() >= Duration::from_millis(400),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn what_is_under_way_is_bounded() {
    let mut queue = Queue::default();
    queue.push(&[0; 60 * 1024]);
    assert_eq!(queue.room(), 4 * 1024);
    queue.went(1024);
    assert_eq!(queue.room(), 5 * 1024);
    queue.push_end();
    assert_eq!((queue.lose(), queue.room()), (59 * 1024, 64 * 1024));
    assert!(queue.first().is_some_and(|(_, chunk)| chunk.is_empty()));
    for _ in 1..1024 {
        queue.push(&[0]);
    }
    assert_eq!(queue.room(), 0);
}
