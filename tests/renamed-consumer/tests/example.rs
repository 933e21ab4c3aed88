//! Runs the example.

#[tokio::test]
async fn a_peer_is_found_by_both_its_ids() -> anyhow::Result<()> {
    let system = dynamo_am_discovery::connect("memory://").await?;
    renamed_consumer::example(system).await
}
