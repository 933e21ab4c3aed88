//! What was logged, to be judged by trials.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, Once, PoisonError},
};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// One event, by field name.
pub(crate) type Entry = HashMap<&'static str, String>;

static ENTRIES: Mutex<Vec<Entry>> = Mutex::new(Vec::new());
static INSTALLED: Once = Once::new();

/// Begins to note every event of this workspace, once for the whole process.
pub(crate) fn install() {
    INSTALLED.call_once(|| {
        let _ = tracing::subscriber::set_global_default(Journal);
    });
}

/// The noted events that `which` accepts, in order.
pub(crate) fn entries(which: impl Fn(&Entry) -> bool) -> Vec<Entry> {
    let entries = ENTRIES.lock().unwrap_or_else(PoisonError::into_inner);
    entries.iter().filter(|entry| which(entry)).cloned().collect()
}

struct Journal;

impl Subscriber for Journal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("discovery")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(Entry::new());
        fields.0.insert("target", event.metadata().target().to_owned());
        fields.0.insert("level", event.metadata().level().to_string());
        event.record(&mut fields);
        ENTRIES
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(fields.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Fields(Entry);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}
