//! Sessions of earlier starts of the service, in front of a store that forgot them.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use discovery_core::{DiscoveryError, ErrorKind, store::Session};
use tokio::time::Instant;

use super::token::Token;

/// The most sessions that are remembered.
const SESSIONS: usize = 65_536;
/// The longest name of a session that is remembered.
const ID_BYTES: usize = 256;
/// How often what need not be remembered any longer is dropped.
const SWEEP: Duration = Duration::from_secs(10);

/// What became of the sessions of earlier starts.
///
/// Each is taken up at most once, and only within its TTL after the start: later it would have
/// expired had the store not forgotten it. What was told to have ended never comes back.
pub(super) struct Earlier {
    started: Instant,
    most: usize,
    state: Mutex<State>,
}

struct State {
    fates: HashMap<Name, Entry>,
    /// Something could not be remembered, so nothing may be taken up any more.
    full: bool,
    sweep_at: Instant,
}

type Name = (u64, Bytes);

struct Entry {
    fate: Fate,
    until: Instant,
}

enum Fate {
    Taken(Taken),
    Closed,
}

/// A session that was taken up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// The session that it goes on in.
    pub(super) session: Session,
    /// Whether everything that it held was written again: what is missing now was removed since.
    pub(super) complete: bool,
}

impl Earlier {
    pub(super) fn new() -> Self {
        Self::with_room(SESSIONS)
    }

    fn with_room(most: usize) -> Self {
        let started = Instant::now();
        let state = State {
            fates: HashMap::new(),
            full: false,
            sweep_at: started + SWEEP,
        };
        Self {
            started,
            most,
            state: Mutex::new(state),
        }
    }

    /// What it was taken up as; `None` if it may still be.
    ///
    /// # Errors
    /// `LeaseLost`: it has ended.
    pub(super) fn find(&self, token: &Token) -> Result<Option<Taken>, DiscoveryError> {
        let state = self.lock();
        match state.fates.get(&name(token)).map(|entry| &entry.fate) {
            Some(Fate::Taken(taken)) => Ok(Some(Taken {
                complete: taken.complete || self.is_late(token),
                ..taken.clone()
            })),
            None if !state.full && !self.is_late(token) && token.session.id.len() <= ID_BYTES => Ok(None),
            None | Some(Fate::Closed) => Err(ended()),
        }
    }

    /// Notes what it was taken up as, unless it was taken up or ended in the meantime.
    ///
    /// # Errors
    /// `LeaseLost`: it has ended.
    pub(super) fn take_up(&self, token: &Token, session: &Session) -> Result<Taken, DiscoveryError> {
        if let Some(taken) = self.find(token)? {
            return Ok(taken);
        }
        let taken = Taken {
            session: session.clone(),
            complete: false,
        };
        let until = self.until(token, Some(session));
        match self.note(token, Fate::Taken(taken.clone()), until) {
            true => Ok(taken),
            false => Err(ended()),
        }
    }

    /// Notes that what it was taken up as was renewed, with all that it held or a part of it.
    pub(super) fn renewed(&self, token: &Token, complete: bool) {
        if let Some(entry) = self.lock().fates.get_mut(&name(token))
            && let Fate::Taken(taken) = &mut entry.fate
        {
            taken.complete |= complete;
            entry.until = self.until(token, Some(&taken.session));
        }
    }

    /// What it was taken up as. If it was not, it has ended from now on.
    pub(super) fn taken(&self, token: &Token) -> Option<Session> {
        match self.find(token) {
            Ok(Some(taken)) => Some(taken.session),
            Ok(None) => {
                self.end(token);
                None
            }
            Err(_) => None,
        }
    }

    /// It has ended.
    pub(super) fn end(&self, token: &Token) {
        if !self.is_late(token) {
            self.note(token, Fate::Closed, self.until(token, None));
        } else if let Some(entry) = self.lock().fates.get_mut(&name(token)) {
            entry.fate = Fate::Closed;
        }
    }

    /// Drops what need not be remembered any longer.
    pub(super) fn sweep(&self) {
        drop(self.lock());
    }

    /// Remembers; `false` if there is no room.
    fn note(&self, token: &Token, fate: Fate, until: Instant) -> bool {
        let mut state = self.lock();
        let name = name(token);
        if state.fates.len() >= self.most && !state.fates.contains_key(&name) {
            state.full = true;
            return false;
        }
        state.fates.insert(name, Entry { fate, until });
        true
    }

    /// Whether it would have expired since the start, renewed by nobody.
    fn is_late(&self, token: &Token) -> bool {
        self.started.elapsed() >= token.session.ttl
    }

    /// How long to remember: while it might be asked to be taken up, or while that lives.
    fn until(&self, token: &Token, taken: Option<&Session>) -> Instant {
        let window = self.started + token.session.ttl;
        taken.map_or(window, |session| window.max(Instant::now() + session.ttl))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now >= state.sweep_at {
            state.fates.retain(|_, entry| entry.until > now);
            state.fates.shrink_to_fit();
            state.sweep_at = now + SWEEP;
        }
        state
    }
}

fn name(token: &Token) -> Name {
    (token.epoch, token.session.id.clone())
}

pub(super) fn ended() -> DiscoveryError {
    DiscoveryError::new(ErrorKind::LeaseLost, "the session has ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn session(id: &str) -> Session {
        Session {
            id: Bytes::from(id.to_owned()),
            ttl: TTL,
        }
    }

    fn token(id: &str) -> Token {
        Token {
            epoch: 1,
            session: session(id),
        }
    }

    fn remembered(earlier: &Earlier) -> usize {
        earlier.lock().fates.len()
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_to_take_it_up_gets_what_the_first_did() {
        let earlier = Earlier::new();
        assert_eq!(earlier.find(&token("a")).unwrap(), None);
        let first = earlier.take_up(&token("a"), &session("x")).unwrap();
        assert_eq!(earlier.take_up(&token("a"), &session("y")).unwrap(), first);
        earlier.renewed(&token("a"), false);
        assert!(!earlier.find(&token("a")).unwrap().unwrap().complete);
        earlier.renewed(&token("a"), true);
        assert!(earlier.find(&token("a")).unwrap().unwrap().complete);
        earlier.end(&token("a"));
        assert!(earlier.take_up(&token("a"), &session("z")).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn later_than_its_ttl_after_the_start_nothing_is_taken_up() {
        let earlier = Earlier::new();
        tokio::time::advance(TTL - Duration::from_millis(1)).await;
        assert!(earlier.find(&token("a")).unwrap().is_none());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(
            earlier.find(&token("a")).unwrap_err().kind(),
            ErrorKind::LeaseLost
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_dropped_in_the_end() {
        let earlier = Earlier::new();
        earlier.end(&token("closed"));
        tokio::time::advance(TTL / 2).await;
        earlier.take_up(&token("taken"), &session("x")).unwrap();
        tokio::time::advance(TTL / 2).await;
        earlier.sweep();
        assert_eq!(remembered(&earlier), 1);
        assert!(earlier.find(&token("taken")).unwrap().is_some());
        tokio::time::advance(TTL).await;
        earlier.sweep();
        assert_eq!(remembered(&earlier), 0);
        assert!(earlier.find(&token("taken")).is_err());
        earlier.end(&token("too late to matter"));
        assert_eq!(remembered(&earlier), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn without_room_nothing_is_taken_up_any_more() {
        let earlier = Earlier::with_room(1);
        earlier.take_up(&token("a"), &session("x")).unwrap();
        assert!(earlier.taken(&token("closed")).is_none());
        assert_eq!(remembered(&earlier), 1);
        assert!(
            earlier.find(&token("closed")).is_err(),
            "although it is not remembered"
        );
        assert!(earlier.find(&token("b")).is_err());
        assert!(earlier.find(&token("a")).unwrap().is_some());
        let long = "x".repeat(ID_BYTES + 1);
        assert!(Earlier::new().find(&token(&long)).is_err());
    }
}
