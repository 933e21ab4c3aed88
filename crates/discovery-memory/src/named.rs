//! Stores that one process shares by name.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use crate::{MemoryStore, store::Inner};

static STORES: Mutex<Option<HashMap<String, Weak<Inner>>>> = Mutex::new(None);

/// The store of this name, which lives as long as somebody uses it.
pub(crate) fn store(name: &str) -> MemoryStore {
    let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
    let stores = stores.get_or_insert_default();
    stores.retain(|_, store| store.strong_count() > 0);
    if let Some(store) = stores.get(name).and_then(Weak::upgrade) {
        return MemoryStore(store);
    }
    let store = MemoryStore::new();
    stores.insert(name.to_owned(), Arc::downgrade(&store.0));
    store
}
