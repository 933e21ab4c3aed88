//! The harness of a store that lives in this process.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use discovery_core::{Capabilities, DiscoveryError, DiscoverySystem, store::RecordStore};

use crate::{Backend, Connect, Fault, Faulty, Harness, Mode, Timing};

/// A store that was made for one trial.
pub struct StoreUnderTest {
    /// The store.
    pub store: Arc<dyn RecordStore>,
    /// Makes it lose everything.
    pub wipe: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for StoreUnderTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreUnderTest")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

/// Connects a system to a store.
pub type MakeSystem = Box<
    dyn Fn(Arc<dyn RecordStore>, &Connect) -> Result<Arc<dyn DiscoverySystem>, DiscoveryError> + Send + Sync,
>;

/// The harness of a store that lives in this process and runs on tokio's clock.
pub struct InProcess {
    /// The backend's name.
    pub name: &'static str,
    /// What it declares.
    pub capabilities: Capabilities,
    /// Makes a store for one trial.
    pub make_store: Box<dyn Fn() -> StoreUnderTest + Send + Sync>,
    /// Connects to it.
    pub make_system: Arc<MakeSystem>,
    /// See [`Harness::texts_with_secret`].
    pub texts_with_secret: fn(&str) -> Vec<String>,
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcess")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Harness for InProcess {
    fn name(&self) -> &str {
        self.name
    }

    fn timing(&self) -> Timing {
        Timing::Virtual
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }

    async fn start(&self) -> Result<Box<dyn Backend>, String> {
        let StoreUnderTest { store, wipe } = (self.make_store)();
        let gate = Arc::new(Faulty::new(store));
        Ok(Box::new(Started {
            gate,
            wipe,
            make_system: self.make_system.clone(),
        }))
    }

    fn texts_with_secret(&self, secret: &str) -> Vec<String> {
        (self.texts_with_secret)(secret)
    }
}

struct Started {
    gate: Arc<Faulty>,
    wipe: Box<dyn Fn() + Send + Sync>,
    make_system: Arc<MakeSystem>,
}

#[async_trait]
impl Backend for Started {
    async fn connect(&self, connect: &Connect) -> Result<Arc<dyn DiscoverySystem>, DiscoveryError> {
        self.connect_lazy(connect)
    }

    fn connect_lazy(&self, connect: &Connect) -> Result<Arc<dyn DiscoverySystem>, DiscoveryError> {
        (self.make_system)(self.gate.clone(), connect)
    }

    async fn fault(&self, fault: Fault) {
        match fault {
            Fault::Cut => self.gate.set(Mode::Cut),
            Fault::Stall => self.gate.set(Mode::Stall),
            Fault::Heal => self.gate.set(Mode::Pass),
            Fault::Wipe => (self.wipe)(),
        }
    }

    fn watches(&self) -> Option<usize> {
        Some(self.gate.watches())
    }
}
