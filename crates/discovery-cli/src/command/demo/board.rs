//! What is known of who has found whom, and since when.

use std::collections::HashMap;

use tokio::time::Instant;

/// The number of a worker, counted from 1.
pub(super) type Number = usize;

/// Who finds whom, and when each of that last changed.
#[derive(Debug, Default)]
pub(super) struct Board {
    finds: HashMap<(Number, Number), (bool, Instant)>,
    live: HashMap<Number, Instant>,
    present: Vec<Number>,
    wrongly_lost: Vec<(Number, Number)>,
    troubles: HashMap<Number, String>,
}

impl Board {
    /// A worker told that it is registered.
    pub(super) fn is_live(&mut self, worker: Number, at: Instant) {
        self.live.insert(worker, at);
        self.present.push(worker);
    }

    /// A worker is about to go.
    pub(super) fn goes(&mut self, worker: Number) {
        self.present.retain(|other| *other != worker);
    }

    /// A worker found another one, or lost it. Losing one that is there is remembered.
    pub(super) fn sees(&mut self, observer: Number, worker: Number, found: bool, at: Instant) {
        self.finds.insert((observer, worker), (found, at));
        self.troubles.remove(&observer);
        if !found && self.present.contains(&worker) {
            self.wrongly_lost.push((observer, worker));
        }
    }

    /// A worker could not look.
    pub(super) fn troubled(&mut self, observer: Number, message: String) {
        self.troubles.insert(observer, message);
    }

    /// Why a worker that is there could not look, and has told nothing since.
    pub(super) fn trouble(&self) -> Option<&str> {
        let mut present = self.present.iter();
        present
            .find_map(|observer| self.troubles.get(observer))
            .map(String::as_str)
    }

    /// Who lost whom although it was there.
    pub(super) fn wrongly_lost(&self) -> &[(Number, Number)] {
        &self.wrongly_lost
    }

    /// The workers that are there.
    pub(super) fn present(&self) -> &[Number] {
        &self.present
    }

    /// When a worker became live, if it did.
    pub(super) fn live_since(&self, worker: Number) -> Option<Instant> {
        self.live.get(&worker).copied()
    }

    /// Since when every other worker that is there finds this one; `None` as long as one does not.
    pub(super) fn found_by_all(&self, worker: Number) -> Option<Instant> {
        self.agreed(worker, true)
    }

    /// Since when no other worker that is there finds this one; `None` as long as one does.
    pub(super) fn lost_by_all(&self, worker: Number) -> Option<Instant> {
        self.agreed(worker, false)
    }

    /// Since when every worker that is there finds every other one.
    pub(super) fn all_found(&self) -> Option<Instant> {
        let since: Option<Vec<_>> = self
            .present
            .iter()
            .map(|worker| self.found_by_all(*worker))
            .collect();
        since?.into_iter().max()
    }

    fn agreed(&self, worker: Number, found: bool) -> Option<Instant> {
        let others = self.present.iter().filter(|observer| **observer != worker);
        let since: Option<Vec<_>> = others
            .map(|observer| match self.finds.get(&(*observer, worker)) {
                Some((seen, at)) if *seen == found => Some(*at),
                _ => None,
            })
            .collect();
        since?.into_iter().max()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn all_agree_when_the_last_one_does() {
        let mut board = Board::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        for worker in 1..=3 {
            board.is_live(worker, start);
        }
        for (observer, worker) in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1)] {
            board.sees(observer, worker, true, at(10));
        }
        assert_eq!(board.all_found(), None);
        board.sees(3, 2, true, at(20));
        assert_eq!(board.all_found(), Some(at(20)));

        board.goes(3);
        board.sees(1, 3, false, at(30));
        assert_eq!(board.lost_by_all(3), None);
        board.sees(2, 3, false, at(40));
        assert_eq!(board.lost_by_all(3), Some(at(40)));
        assert!(board.wrongly_lost().is_empty());

        board.sees(1, 2, false, at(50));
        assert_eq!(board.wrongly_lost(), [(1, 2)]);
    }
}
