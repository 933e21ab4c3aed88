//! Watches and lists: W1 to W8.

pub(super) mod convergence;
pub(super) mod interruption;
pub(super) mod list;
pub(super) mod stream;
pub(super) mod watcher;

use std::collections::BTreeMap;

use discovery_core::{
    PeerInfo, WorkerAddress, WorkerId,
    store::{Expect, Record, RecordStore, Removal, Removed, Session, Write, Writer, Written},
};
use discovery_records::peer::encode;

use self::watcher::Watcher;
use crate::trial::{Ctx, peer};

/// Records written by one call.
const BATCH: usize = 128;

/// Peers that a trial writes and removes by hand, fast and many.
pub(super) struct Fleet {
    ctx: Ctx,
    store: std::sync::Arc<dyn RecordStore>,
    session: Session,
    standing: BTreeMap<WorkerId, (PeerInfo, Record)>,
}

impl Fleet {
    pub(super) async fn start(ctx: &Ctx) -> Self {
        let store = ctx.store().await;
        let session = open(&*store).await;
        Self {
            ctx: ctx.clone(),
            store,
            session,
            standing: BTreeMap::new(),
        }
    }

    pub(super) fn peers(&self) -> Vec<PeerInfo> {
        self.standing.values().map(|(peer, _)| peer.clone()).collect()
    }

    /// Any peer that stands, chosen by `which`.
    pub(super) fn pick(&self, which: usize) -> Option<PeerInfo> {
        let at = which.checked_rem(self.standing.len())?;
        self.standing.values().nth(at).map(|(peer, _)| peer.clone())
    }

    pub(super) async fn add(&mut self, count: usize) -> Vec<PeerInfo> {
        let peers: Vec<_> = (0..count).map(|_| peer()).collect();
        self.write(&peers).await;
        peers
    }

    /// Writes peers, each in place of what stands there.
    pub(super) async fn write(&mut self, peers: &[PeerInfo]) {
        for peers in peers.chunks(BATCH) {
            let items: Vec<_> = peers.iter().map(|peer| self.item(peer)).collect();
            let written = self.store.write(&self.session, &items).await;
            for (peer, written) in peers.iter().zip(written) {
                match written {
                    Ok(Written::Done(record)) => {
                        self.standing.insert(peer.worker_id(), (peer.clone(), record));
                    }
                    other => panic!("{peer:?} cannot be written: {other:?}"),
                }
            }
        }
    }

    fn item(&self, peer: &PeerInfo) -> Write {
        let expect = match self.standing.get(&peer.worker_id()) {
            Some((_, record)) => Expect::Version(record.version.clone()),
            None => Expect::Absent,
        };
        Write {
            key: self.ctx.key(peer),
            body: encode(peer).expect("a valid peer"),
            writer: Writer::random(),
            expect,
        }
    }

    pub(super) async fn modify(&mut self, peer: &PeerInfo, address: &str) -> PeerInfo {
        let modified = PeerInfo::new(peer.instance_id(), WorkerAddress::from_bytes(address));
        self.write(std::slice::from_ref(&modified)).await;
        modified
    }

    pub(super) async fn remove(&mut self, peer: &PeerInfo) {
        let Some((_, record)) = self.standing.remove(&peer.worker_id()) else {
            return;
        };
        let removal = Removal {
            key: record.key,
            writer: record.writer,
            expect: Expect::Version(record.version),
        };
        let removed = self.store.remove(&self.session, &removal).await;
        assert!(matches!(removed, Ok(Removed::Done)), "{removed:?}");
    }

    /// Goes on after the store has lost everything.
    pub(super) async fn forget(&mut self) {
        self.standing.clear();
        self.session = open(&*self.store).await;
    }
}

async fn open(store: &dyn RecordStore) -> Session {
    let ttl = std::time::Duration::from_secs(3_600);
    store.open(ttl).await.expect("a session")
}
