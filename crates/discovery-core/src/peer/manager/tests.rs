use std::{future::pending, sync::atomic::AtomicU32};

use async_trait::async_trait;

use super::*;
use crate::peer::{PeerEvent, PeerEvents, PeerWatch, Registration, WorkerAddress};

/// Knows everybody in theory; misbehaves as told.
#[derive(Debug)]
struct Odd {
    calls: AtomicU32,
    how: How,
}

#[derive(Debug, PartialEq)]
enum How {
    Panics,
    Hangs,
    Unknown,
}

fn odd(how: How) -> Arc<Odd> {
    Arc::new(Odd {
        calls: AtomicU32::new(0),
        how,
    })
}

fn peer() -> PeerInfo {
    PeerInfo::new(
        InstanceId::new_v4(),
        WorkerAddress::from_bytes("tcp://127.0.0.1:5555"),
    )
}

#[async_trait]
impl PeerDiscovery for Odd {
    fn name(&self) -> &str {
        "odd"
    }

    async fn discover_by_worker_id(&self, id: WorkerId) -> Result<PeerInfo, DiscoveryError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match self.how {
            How::Panics => panic!("as told"),
            How::Hangs => pending().await,
            How::Unknown => Err(DiscoveryError::new(ErrorKind::NotFound, id.to_string())),
        }
    }

    async fn discover_by_instance_id(&self, id: InstanceId) -> Result<PeerInfo, DiscoveryError> {
        self.discover_by_worker_id(id.worker_id()).await
    }

    async fn discover_many(&self, ids: &[WorkerId]) -> Vec<Result<PeerInfo, DiscoveryError>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        ids.iter()
            .map(|id| Err(DiscoveryError::new(ErrorKind::NotFound, id.to_string())))
            .collect()
    }

    async fn register_instance(
        &self,
        _: InstanceId,
        _: WorkerAddress,
    ) -> Result<Registration, DiscoveryError> {
        pending().await
    }

    async fn unregister_instance(&self, _: InstanceId) -> Result<(), DiscoveryError> {
        Ok(())
    }

    fn watch(&self) -> Option<Arc<dyn PeerWatch>> {
        let how = match self.how {
            How::Panics => Watching::Panics,
            How::Hangs => Watching::Hangs,
            How::Unknown => return None,
        };
        Some(Arc::new(how))
    }
}

/// Watches that do not work.
#[derive(Debug)]
enum Watching {
    Panics,
    Hangs,
    /// Ends at once; how often it was asked for.
    Ends(Arc<AtomicU32>),
    /// Panics after the snapshot; how often it was asked for.
    PanicsLater(Arc<AtomicU32>),
    /// Ends after the snapshot; how often it was asked for.
    EndsLater(Arc<AtomicU32>),
    /// Tells something all the time.
    Chatters,
    /// Is never established; how often it was asked for.
    NeverBegins(Arc<AtomicU32>),
}

#[async_trait]
impl PeerWatch for Watching {
    async fn list_peers(&self) -> Result<Vec<PeerInfo>, DiscoveryError> {
        pending().await
    }

    async fn watch_peers(&self) -> Result<PeerEvents, DiscoveryError> {
        let count = match self {
            Self::Panics => panic!("as told"),
            Self::Hangs => pending().await,
            Self::Chatters => {
                let event = PeerEvent::Added(peer());
                return Ok(Box::pin(futures_util::stream::repeat(event)));
            }
            Self::Ends(count)
            | Self::PanicsLater(count)
            | Self::EndsLater(count)
            | Self::NeverBegins(count) => count,
        };
        count.fetch_add(1, Ordering::Relaxed);
        match self {
            Self::NeverBegins(_) => pending().await,
            Self::EndsLater(_) => {
                let snapshot = PeerEvent::Snapshot(Vec::new());
                return Ok(Box::pin(futures_util::stream::iter([snapshot])));
            }
            _ => {}
        }
        let panics = matches!(self, Self::PanicsLater(_));
        Ok(Box::pin(futures_util::stream::poll_fn(move |_| {
            assert!(!panics, "as told");
            std::task::Poll::Ready(None::<PeerEvent>)
        })))
    }
}

async fn manager() -> PeerDiscoveryManager {
    PeerDiscoveryManager::new(None, [odd(How::Unknown) as _])
        .await
        .unwrap()
}

async fn asked_in_a_minute(manager: &PeerDiscoveryManager, watching: fn(Arc<AtomicU32>) -> Watching) -> u32 {
    let count = Arc::<AtomicU32>::default();
    let follow = follow::follow(manager.shared.clone(), 0, Arc::new(watching(count.clone())));
    let _ = tokio::time::timeout(Duration::from_secs(60), follow).await;
    count.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_never_established_is_tried_again() {
    let asked = asked_in_a_minute(&manager().await, Watching::NeverBegins).await;
    assert_eq!(asked, 2);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_breaks_at_once_is_tried_again_and_not_all_the_time() {
    let manager = manager().await;
    for breaks in [Watching::Ends, Watching::PanicsLater, Watching::EndsLater] {
        let asked = asked_in_a_minute(&manager, breaks).await;
        assert!((15..60).contains(&asked), "{asked} times in a minute");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_panics_or_hangs_disturbs_neither_lookups_nor_the_shutdown() {
    for how in [How::Panics, How::Hangs] {
        let sources = [odd(how) as _, odd(How::Unknown) as _];
        let manager = PeerDiscoveryManager::new(None, sources).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(manager.discover_by_worker_id(peer().worker_id()).await.is_err());
        manager.shutdown(Duration::from_secs(1)).await.unwrap();
    }
}

#[test]
fn a_watch_that_never_pauses_lets_others_run() {
    let (done, finished) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async {
            let manager = manager().await;
            let follow = follow::follow(manager.shared.clone(), 0, Arc::new(Watching::Chatters));
            let following = tokio::spawn(follow);
            tokio::time::sleep(Duration::from_millis(10)).await;
            following.abort();
        });
        done.send(()).unwrap();
    });
    finished.recv_timeout(Duration::from_secs(10)).unwrap();
}

#[tokio::test]
async fn a_source_that_panics_hides_no_other() {
    let sources: [Arc<dyn PeerDiscovery>; 2] = [odd(How::Panics), odd(How::Unknown)];
    let manager = PeerDiscoveryManager::new(None, sources).await.unwrap();
    for _ in 0..2 {
        let error = manager
            .discover_by_worker_id(peer().worker_id())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unexpected);
        assert!(error.to_string().contains("the source panicked"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_never_registers_is_given_up() {
    let error = PeerDiscoveryManager::new(peer(), [odd(How::Hangs) as _])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_ids_are_a_hundred_calls() {
    let source = odd(How::Unknown);
    let manager = PeerDiscoveryManager::new(None, [source.clone() as _])
        .await
        .unwrap();
    let ids: Vec<_> = (0..100_000).map(|_| peer().worker_id()).collect();
    let answers = manager.discover_many(&ids).await;
    assert!(answers.iter().all(|answer| {
        answer
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::NotFound)
    }));
    assert_eq!(source.calls.load(Ordering::Relaxed), 98);
}

#[tokio::test]
async fn spans_that_cannot_be_added_to_a_time_are_refused_by_name() {
    let long = || PeerDiscoveryManager::builder();
    for (name, builder) in [
        ("fresh_for", long().fresh_for(Duration::MAX)),
        ("negative_for", long().negative_for(Duration::MAX)),
        ("source_deadline", long().source_deadline(Duration::MAX)),
    ] {
        let error = builder.build().await.unwrap_err();
        assert!(
            error.kind() == ErrorKind::InvalidConfig && error.to_string().contains(name),
            "{error}"
        );
    }
}

#[test]
fn shutdown_is_bounded_when_nobody_drives_the_managers_runtime() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let (idle, other) = (runtime(), runtime());
    let manager = idle
        .block_on(PeerDiscoveryManager::new(None, [odd(How::Hangs) as _]))
        .unwrap();
    other.block_on(async {
        let lookup = manager.discover_by_worker_id(peer().worker_id());
        assert!(
            tokio::time::timeout(Duration::from_millis(10), lookup)
                .await
                .is_err()
        );
        let begun = Instant::now();
        let error = manager.shutdown(Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(begun.elapsed() < Duration::from_secs(2));
    });
    drop(idle);
    other.block_on(async {
        let error = manager
            .discover_by_worker_id(peer().worker_id())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
    });
}

#[tokio::test]
async fn a_hit_completes_in_its_first_poll() {
    use futures_util::FutureExt;
    let local = peer();
    let manager = PeerDiscoveryManager::new(None, [odd(How::Hangs) as _])
        .await
        .unwrap();
    manager.shared.board.table().put(local.clone(), 0, 0);
    assert_eq!(
        manager
            .discover_by_worker_id(local.worker_id())
            .now_or_never()
            .unwrap()
            .unwrap(),
        local
    );
    assert_eq!(
        manager
            .discover_by_instance_id(local.instance_id())
            .now_or_never()
            .unwrap()
            .unwrap(),
        local
    );
    assert!(
        manager
            .discover_by_worker_id(peer().worker_id())
            .now_or_never()
            .is_none()
    );
}
