mod failures;
mod holds;
mod renewal;
mod runtimes;
mod sessionless;
mod sessions;
mod shutdown;
mod stores;

use discovery_core::{
    Cluster,
    store::{Expect, Record, Removal, Removed},
};
use discovery_memory::MemoryStore;
use tokio::time::{Instant, sleep, timeout_at};

use self::stores::{Faulty, Trouble, unavailable};
use super::*;

const TTL: Duration = Duration::from_secs(9);
/// Long enough to see what follows from one failure before anything expires.
const LONG_TTL: Duration = Duration::from_secs(60);

fn config(ttl: Duration) -> RegistrarConfig {
    RegistrarConfig::new("test", ttl)
}

/// A registrar over a store that is open already.
fn registrar_with<S: RecordStore + 'static>(config: RegistrarConfig, store: &Arc<S>) -> Registrar {
    let store = store.clone();
    let open: OpenStore = Box::new(move || {
        let store = store.clone();
        Box::pin(async move { Ok(store as Arc<dyn RecordStore>) })
    });
    Registrar::new(config, open)
}

fn registrar<S: RecordStore + 'static>(store: &Arc<S>, ttl: Duration) -> Registrar {
    registrar_with(config(ttl), store)
}

fn key(name: &str) -> RecordKey {
    RecordKey::try_new(&Cluster::default(), "things", &[name]).unwrap()
}

fn intent(name: &str, body: &'static str) -> Intent {
    let judge = move |standing: &[u8]| match standing == body.as_bytes() {
        true => Ok(()),
        false => Err(DiscoveryError::new(ErrorKind::ChecksumMismatch, "another body")),
    };
    Intent {
        key: key(name),
        body: Bytes::from_static(body.as_bytes()),
        judge: Box::new(judge),
    }
}

/// What stands in the memory behind a store, whatever that store says.
async fn standing(memory: &MemoryStore, name: &str) -> Option<Record> {
    memory.get(&[key(name)]).await.remove(0).unwrap()
}

async fn stands(memory: &MemoryStore, name: &str) -> bool {
    standing(memory, name).await.is_some()
}

/// Somebody deletes a record, and nobody is told.
async fn delete(memory: &MemoryStore, name: &str) {
    let stood = standing(memory, name).await.unwrap();
    let thief = memory.open(*limit::TTL.start()).await.unwrap();
    let removal = Removal {
        key: stood.key,
        writer: stood.writer,
        expect: Expect::Version(stood.version),
    };
    let removed = memory.remove(&thief, &removal).await.unwrap();
    assert!(matches!(removed, Removed::Done), "the record changed meanwhile");
}

/// How often the state of a registration changes within a time, which passes.
async fn changes_within(time: Duration, registration: &Registration) -> u32 {
    let (mut observer, end) = (registration.observer(), Instant::now() + time);
    let mut changes = 0;
    while timeout_at(end, observer.changed()).await.is_ok() {
        changes += 1;
    }
    changes
}
