//! Cuts what is too large for one request into parts.

use discovery_core::{Cluster, DiscoveryError, store::RecordKey};

use crate::wire::ITEMS;

/// The most bytes of items in one request: even if every byte has to be quoted, half of what
/// a server reads.
pub(crate) const REQUEST_BYTES: usize = 256 * 1_024;
/// What stands around the key and the body of an item.
const AROUND: usize = 160;
/// Cuts items into runs of one cluster whose sizes add up to at most `limit`; a larger item
/// stands alone.
pub(crate) fn split<T>(
    items: &[T],
    key: impl Fn(&T) -> &RecordKey,
    size: impl Fn(&T) -> usize,
    limit: usize,
) -> Vec<&[T]> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut sum = 0;
    for (index, item) in items.iter().enumerate() {
        let full = sum + size(item) > limit || index - start == ITEMS;
        if index > start && (full || first(key(item)) != first(key(&items[start]))) {
            parts.push(&items[start..index]);
            (start, sum) = (index, 0);
        }
        sum += size(item);
    }
    if start < items.len() {
        parts.push(&items[start..]);
    }
    parts
}

/// About how many bytes an item takes in a request, before quoting.
pub(crate) fn size(key: &RecordKey, body: &[u8]) -> usize {
    key.as_str().len() + body.len() + AROUND
}

/// The cluster of a key.
pub(crate) fn cluster(key: &RecordKey) -> Result<Cluster, DiscoveryError> {
    Cluster::try_new(first(key))
}

fn first(key: &RecordKey) -> &str {
    key.segments().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(cluster: &str) -> RecordKey {
        RecordKey::try_new(&Cluster::try_new(cluster).unwrap(), "k", &[]).unwrap()
    }

    fn sizes(items: &[(&str, usize)], limit: usize) -> Vec<usize> {
        let items: Vec<_> = items
            .iter()
            .map(|(cluster, size)| (key(cluster), *size))
            .collect();
        let parts = split(&items, |item| &item.0, |item| item.1, limit);
        parts.into_iter().map(<[_]>::len).collect()
    }

    #[test]
    fn parts_end_before_the_limit_and_with_the_cluster() {
        assert!(sizes(&[], 10).is_empty());
        assert_eq!(sizes(&[("a", 5), ("a", 5), ("a", 1)], 10), [2, 1]);
        assert_eq!(sizes(&[("a", 50), ("a", 50)], 10), [1, 1]);
        assert_eq!(sizes(&[("a", 1), ("b", 1), ("b", 1)], 10), [1, 2]);
        assert_eq!(sizes(&[("a", 0); 2_500], 10), [1_000, 1_000, 500]);
    }
}
