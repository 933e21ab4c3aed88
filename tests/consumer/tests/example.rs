//! Runs the example.

#[tokio::test]
async fn a_peer_is_found_by_both_its_ids() -> anyhow::Result<()> {
    let system = discovery::connect("memory://").await?;
    consumer::example(system).await
}
