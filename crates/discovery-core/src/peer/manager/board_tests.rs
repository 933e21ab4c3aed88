//! Every interleaving of lookups, watch events, reports, evictions and the shutdown about one
//! key, walked through one by one.
//!
//! Each actor is a list of atomic steps. An answer carries the step at which its source call
//! began, so the oracle can tell whether it is older than the last event that had been
//! delivered when its caller called. The four mistakes of [`Plant`] must each be caught.

use super::*;
use crate::peer::WorkerAddress;

/// What a source answers; the old instance has left, the new one took its worker id.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Old,
    New,
    NotFound,
    Error,
}

#[derive(Clone, Copy, Debug)]
enum Actor {
    /// join, then begin the call, then land.
    Lookup(Answer),
    /// The watch tells that whoever was there has left.
    Removed,
    /// The watch tells that the new instance is there.
    Added,
    /// The watch tells that the old instance is elsewhere.
    Modified,
    /// The old instance is reported.
    Report,
    /// The watch begins, or goes on after a gap, and confirms nobody: detach, identify, remove.
    Begins,
    /// Everything under way is given up.
    Shutdown,
    /// Pick an entry, then remove it.
    Evict,
}

impl Actor {
    /// Landing takes two steps only where the lock does not join them.
    fn steps(self, plant: Plant) -> usize {
        match self {
            Self::Lookup(_) if plant == Plant::PublishOutsideLock => 4,
            Self::Lookup(_) | Self::Begins => 3,
            Self::Evict => 2,
            _ => 1,
        }
    }
}

#[derive(Default)]
struct Caller {
    /// The last watch event and the last report that had been delivered when it called.
    called_after: Delivered,
    ticket: Option<Ticket>,
    waiting: Option<Waiting>,
    got: Option<Landing>,
    began: usize,
    cleared: Option<Ticket>,
}

const OLD: &str = "b93942ea-7b73-8267-d59f-3d805cf975ae";
const NEW: &str = "b81a078d-f2d8-4f88-3a52-96093bbc56af";

fn instance(answer: Answer) -> InstanceId {
    if answer == Answer::Old { OLD } else { NEW }.parse().unwrap()
}

fn key() -> WorkerId {
    instance(Answer::Old).worker_id()
}

fn landing(answer: Answer, began: usize) -> Landing {
    let error = |kind| Err(DiscoveryError::new(kind, began.to_string()));
    let answer = match answer {
        Answer::NotFound => error(ErrorKind::NotFound),
        Answer::Error => error(ErrorKind::Unavailable),
        found => {
            let peer = PeerInfo::new(instance(found), WorkerAddress::from_bytes(began.to_string()));
            Ok(Hit {
                peer,
                source: 0,
                age: Duration::ZERO,
            })
        }
    };
    Landing { answer, hung: false }
}

fn began(hit: &Hit) -> usize {
    hit.peer.address().to_str().unwrap().parse().unwrap()
}

/// When what was delivered was delivered.
#[derive(Clone, Copy, Default)]
struct Delivered {
    event: usize,
    report: usize,
}

impl Delivered {
    /// Since when an answer must have been begun, to be given or kept. A report is about one
    /// instance; what is known of its successor stays true.
    fn bound(self, hit: Option<&Hit>) -> usize {
        match hit {
            Some(hit) if hit.peer.instance_id() != instance(Answer::Old) => self.event,
            _ => self.event.max(self.report),
        }
    }
}

struct World {
    board: Board,
    time: usize,
    delivered: Delivered,
    callers: Vec<Caller>,
    picked: Option<Option<(super::super::table::Identity, usize)>>,
    /// When the watch began, and what it is about to remove.
    begun: usize,
    unconfirmed: Vec<super::super::table::Identity>,
    broken: Option<String>,
}

impl World {
    fn new(plant: Plant, actors: usize) -> Self {
        let mut board = Board::new(
            Table::new(100, Duration::from_secs(60)),
            100,
            Duration::from_secs(60),
        );
        board.plant = plant;
        let callers = (0..actors).map(|_| Caller::default()).collect();
        Self {
            board,
            time: 1,
            delivered: Delivered::default(),
            callers,
            picked: None,
            begun: 0,
            unconfirmed: Vec::new(),
            broken: None,
        }
    }

    fn run(&mut self, at: usize, actor: Actor, step: usize) {
        self.time += 1;
        match (actor, step) {
            (Actor::Lookup(_), 0) => self.join(at),
            (Actor::Lookup(_), 1) => self.callers[at].began = self.time,
            (Actor::Lookup(answer), 2) => self.land(at, answer),
            (Actor::Lookup(answer), 3) => self.land_rest(at, answer),
            (Actor::Report, _) => {
                let stood = self.entry();
                self.board.report(instance(Answer::Old));
                self.delivered.report = self.time;
                if stood.is_some_and(|hit| hit.peer.instance_id() == instance(Answer::New))
                    && self.entry().is_none()
                {
                    self.broken = Some("a report about one instance removed another".to_owned());
                }
            }
            (Actor::Removed, _) => {
                self.board.left(0, key());
                self.delivered.event = self.time;
            }
            (Actor::Added, _) => self.hear(Answer::New),
            (Actor::Modified, _) => self.hear(Answer::Old),
            (Actor::Begins, 0) => {
                self.begun = self.time;
                self.board.detach_all();
            }
            (Actor::Begins, 1) => self.unconfirmed = self.board.unconfirmed(0, &[]),
            (Actor::Begins, _) => {
                for identity in std::mem::take(&mut self.unconfirmed) {
                    self.board.remove(identity);
                }
                // What was asked for since it began is newer than what it tells.
                self.delivered.event = self.delivered.event.max(self.begun);
            }
            (Actor::Shutdown, _) => {
                for caller in &mut self.callers {
                    caller
                        .ticket
                        .take()
                        .into_iter()
                        .for_each(|ticket| self.board.give_up(ticket));
                }
            }
            (Actor::Evict, 0) => {
                let picked = self.board.pick(key());
                self.picked = Some(
                    picked
                        .zip(self.entry())
                        .map(|(identity, hit)| (identity, began(&hit))),
                );
            }
            (Actor::Evict, _) => self.evict(),
            (Actor::Lookup(_), _) => unreachable!(),
        }
    }

    fn hear(&mut self, what: Answer) {
        let peer = PeerInfo::new(instance(what), WorkerAddress::from_bytes(self.time.to_string()));
        self.board.heard(0, peer);
        self.delivered.event = self.time;
    }

    fn entry(&self) -> Option<Hit> {
        self.board.table().hit(key())
    }

    fn join(&mut self, at: usize) {
        let joined = self.board.join(Question::Worker(key()));
        let caller = &mut self.callers[at];
        caller.called_after = self.delivered;
        match joined {
            Joined::Hit(hit) => {
                caller.got = Some(Landing {
                    answer: Ok(hit),
                    hung: false,
                })
            }
            // Which answer was remembered is told by the generation alone: see below.
            Joined::NotFound => {}
            Joined::Wait(waiting) => caller.waiting = Some(waiting),
            Joined::Lead(ticket, waiting) => (caller.ticket, caller.waiting) = (Some(ticket), Some(waiting)),
        }
    }

    fn land(&mut self, at: usize, answer: Answer) {
        let caller = &mut self.callers[at];
        let Some(ticket) = caller.ticket.take() else {
            return;
        };
        if self.board.plant == Plant::PublishOutsideLock {
            if self.board.land_outside_lock(&ticket) {
                caller.cleared = Some(ticket);
            } else {
                ticket.landing.send_replace(Some(landing(answer, caller.began)));
            }
            return;
        }
        self.board.land(ticket, landing(answer, caller.began));
    }

    fn land_rest(&mut self, at: usize, answer: Answer) {
        let caller = &mut self.callers[at];
        if let Some(ticket) = caller.cleared.take() {
            let landing = landing(answer, caller.began);
            if let Ok(hit) = &landing.answer {
                self.board
                    .table()
                    .put(hit.peer.clone(), hit.source, ticket.flight);
            }
            ticket.landing.send_replace(Some(landing));
        }
    }

    fn evict(&mut self) {
        let Some(Some((identity, picked))) = self.picked.take() else {
            return;
        };
        let before = self.entry().map(|hit| began(&hit));
        self.board.remove(identity);
        if before.is_some_and(|before| before != picked) && self.entry().is_none() {
            self.broken = Some("an eviction removed the successor of what it had picked".to_owned());
        }
    }

    /// What must hold once everything has happened.
    fn judge(&mut self) -> Result<(), String> {
        if let Some(broken) = self.broken.take() {
            return Err(broken);
        }
        for caller in &mut self.callers {
            let waited = caller
                .waiting
                .as_ref()
                .and_then(|waiting| waiting.borrow().clone());
            let Some(landing) = caller.got.take().or(waited) else {
                continue;
            };
            let began = match &landing.answer {
                Ok(hit) => began(hit),
                Err(error) => error.context().parse().unwrap(),
            };
            let bound = caller.called_after.bound(landing.answer.as_ref().ok());
            if began < bound {
                return Err(format!("a caller after event {bound} got an answer of {began}"));
            }
        }
        if let Some(hit) = self.entry() {
            let (began, bound) = (began(&hit), self.delivered.bound(Some(&hit)));
            if began < bound {
                return Err(format!(
                    "the table keeps an answer of {began} after event {bound}"
                ));
            }
        }
        if matches!(self.board.join(Question::Worker(key())), Joined::NotFound) && self.negative_is_old() {
            return Err("an old \"not found\" is remembered after an event".to_owned());
        }
        Ok(())
    }

    /// Whether every "not found" there was began before the last event.
    fn negative_is_old(&self) -> bool {
        let newest = self.callers.iter().filter_map(|caller| {
            let landing = caller.waiting.as_ref()?.borrow().clone()?;
            landing
                .answer
                .err()
                .filter(|error| error.kind() == ErrorKind::NotFound)?
                .context()
                .parse::<usize>()
                .ok()
        });
        newest
            .max()
            .is_none_or(|newest| newest < self.delivered.bound(None))
    }
}

/// Walks every interleaving; how many there were, and the first that went wrong.
fn explore(plant: Plant, actors: &[Actor]) -> (usize, Option<String>) {
    let mut count = 0;
    let mut wrong = None;
    let mut schedule = Vec::new();
    let mut left: Vec<usize> = actors.iter().map(|actor| actor.steps(plant)).collect();
    walk(plant, actors, &mut left, &mut schedule, &mut count, &mut wrong);
    (count, wrong)
}

fn walk(
    plant: Plant,
    actors: &[Actor],
    left: &mut [usize],
    schedule: &mut Vec<usize>,
    count: &mut usize,
    wrong: &mut Option<String>,
) {
    if left.iter().all(|left| *left == 0) {
        *count += 1;
        if wrong.is_none() {
            *wrong = play(plant, actors, schedule)
                .err()
                .map(|why| format!("{why}: {actors:?} as {schedule:?}"));
        }
        return;
    }
    for at in 0..actors.len() {
        if left[at] > 0 {
            left[at] -= 1;
            schedule.push(at);
            walk(plant, actors, left, schedule, count, wrong);
            schedule.pop();
            left[at] += 1;
        }
    }
}

fn play(plant: Plant, actors: &[Actor], schedule: &[usize]) -> Result<(), String> {
    let mut world = World::new(plant, actors.len());
    let mut done = vec![0; actors.len()];
    for at in schedule {
        world.run(*at, actors[*at], done[*at]);
        done[*at] += 1;
    }
    world.judge()
}

const ANSWERS: [Answer; 4] = [Answer::Old, Answer::New, Answer::NotFound, Answer::Error];

const EVENTS: [Actor; 3] = [Actor::Removed, Actor::Added, Actor::Modified];

fn casts() -> Vec<Vec<Actor>> {
    let mut casts = Vec::new();
    for first in ANSWERS {
        for second in ANSWERS {
            let (first, second) = (Actor::Lookup(first), Actor::Lookup(second));
            casts.push(vec![first, second, Actor::Report]);
            casts.push(vec![first, second, Actor::Evict]);
            casts.push(vec![first, Actor::Evict, Actor::Report]);
            casts.push(vec![first, second, Actor::Report, Actor::Report]);
            casts.push(vec![first, second, Actor::Shutdown]);
            casts.push(vec![first, second, Actor::Begins]);
            for event in EVENTS {
                casts.push(vec![first, second, event]);
                casts.push(vec![first, second, event, Actor::Report]);
            }
        }
        let (lookup, next) = (Actor::Lookup(first), Actor::Lookup(Answer::New));
        for event in EVENTS {
            casts.push(vec![lookup, next, event, Actor::Shutdown]);
            casts.push(vec![lookup, event, Actor::Begins, Actor::Report]);
            for later in EVENTS {
                casts.push(vec![lookup, next, event, later]);
            }
            casts.push(vec![Actor::Lookup(first), event, Actor::Evict, Actor::Report]);
        }
    }
    casts.push(vec![
        Actor::Lookup(Answer::Old),
        Actor::Lookup(Answer::New),
        Actor::Evict,
        Actor::Report,
    ]);
    casts
}

fn first_failure(plant: Plant) -> (usize, Option<String>) {
    let mut total = 0;
    for cast in casts() {
        let (count, wrong) = explore(plant, &cast);
        total += count;
        if wrong.is_some() {
            return (total, wrong);
        }
    }
    (total, None)
}

#[test]
fn no_interleaving_hands_out_or_keeps_an_answer_older_than_the_last_event() {
    let (walked, wrong) = first_failure(Plant::Nothing);
    assert_eq!(wrong, None);
    assert!(walked > 10_000, "{walked}");
}

#[test]
fn every_planted_mistake_is_caught() {
    let plants = [
        Plant::NoGenerationCheck,
        Plant::NoDetach,
        Plant::RemovalByKey,
        Plant::PublishOutsideLock,
    ];
    for plant in plants {
        let (_, wrong) = first_failure(plant);
        assert!(wrong.is_some(), "{plant:?} went unnoticed");
    }
}

#[test]
fn a_flight_that_is_given_up_ends_the_waiting() {
    let board = Board::new(Table::new(10, Duration::from_secs(1)), 10, Duration::from_secs(1));
    let Joined::Lead(ticket, waiting) = board.join(Question::Worker(key())) else {
        panic!("nobody flies yet")
    };
    assert!(matches!(board.join(Question::Worker(key())), Joined::Wait(_)));
    board.give_up(ticket);
    assert!(waiting.has_changed().is_err(), "the channel is closed");
    let Joined::Lead(ticket, _) = board.join(Question::Worker(key())) else {
        panic!("it was given up")
    };
    drop(ticket);
    assert!(
        matches!(board.join(Question::Worker(key())), Joined::Lead(..)),
        "a crashed flight is no flight"
    );
}

fn hit(source: u16, answer: Answer) -> Landing {
    let peer = PeerInfo::new(instance(answer), WorkerAddress::from_bytes("tcp://127.0.0.1:1"));
    let age = Duration::ZERO;
    let answer = Ok(Hit { peer, source, age });
    Landing { answer, hung: false }
}

fn lead(board: &Board) -> Ticket {
    match board.join(Question::Worker(key())) {
        Joined::Lead(ticket, _) => ticket,
        other => panic!("{other:?}"),
    }
}

fn board() -> Board {
    Board::new(
        Table::new(10, Duration::from_secs(60)),
        10,
        Duration::from_secs(60),
    )
}

#[test]
fn an_event_replaces_what_is_known_from_its_own_source_or_a_later_one() {
    for (event_of, entry_of, replaced) in [(0, 0, true), (0, 1, true), (1, 1, true), (1, 0, false)] {
        let told = PeerInfo::new(instance(Answer::New), WorkerAddress::from_bytes("tcp://told:1"));
        let board = board();
        board.land(lead(&board), hit(entry_of, Answer::Old));
        board.heard(event_of, told.clone());
        let known = board.table().hit(key()).unwrap();
        assert_eq!(
            known.peer == told,
            replaced,
            "event of {event_of}, entry of {entry_of}"
        );
        assert_eq!(known.source, event_of.min(entry_of), "who said so");
        board.left(event_of, key());
        assert_eq!(board.table().hit(key()).is_none(), replaced);
    }
}

/// A peer whose key is in the same shard.
fn neighbour() -> PeerInfo {
    let same_shard = |id: &InstanceId| {
        id.worker_id() != key() && (id.worker_id().as_u64() ^ key().as_u64()) >> 32 & 63 == 0
    };
    let other = std::iter::repeat_with(InstanceId::new_v4)
        .find(same_shard)
        .unwrap();
    PeerInfo::new(other, WorkerAddress::from_bytes("x"))
}

#[test]
fn an_event_of_one_peer_keeps_no_answer_about_another_from_being_kept() {
    let (board, other) = (board(), neighbour());
    let ticket = lead(&board);
    board.heard(0, other.clone());
    board.left(0, other.worker_id());
    board.land(ticket, hit(0, Answer::Old));
    assert!(board.table().hit(key()).is_some());
}

#[test]
fn an_event_of_one_peer_clears_no_not_found_of_another() {
    let (board, other) = (board(), neighbour());
    let ticket = lead(&board);
    board.heard(0, other.clone());
    board.land(ticket, landing(Answer::NotFound, 0));
    board.left(0, other.worker_id());
    assert!(matches!(board.join(Question::Worker(key())), Joined::NotFound));
    begin(&board, 3, &[]);
    assert!(matches!(board.join(Question::Worker(key())), Joined::Lead(..)));
}

#[test]
fn an_event_about_one_peer_detaches_no_lookup_of_another() {
    let shard = |key: WorkerId| (key.as_u64() >> 32) as usize % SHARDS;
    let mut others = std::iter::repeat_with(|| InstanceId::new_v4().worker_id());
    let other = others.find(|other| shard(*other) == shard(key())).unwrap();
    let board = board();
    let ticket = lead(&board);
    board.left(0, other);
    assert!(matches!(board.join(Question::Worker(key())), Joined::Wait(_)));
    board.left(0, key());
    assert!(matches!(board.join(Question::Worker(key())), Joined::Lead(..)));
    drop(ticket);
}

#[test]
fn what_nobody_asked_for_is_not_taken_in() {
    let board = board();
    board.heard(
        0,
        PeerInfo::new(instance(Answer::New), WorkerAddress::from_bytes("x")),
    );
    assert!(board.table().hit(key()).is_none());
}

#[test]
fn an_event_clears_a_remembered_not_found() {
    let told = PeerInfo::new(instance(Answer::New), WorkerAddress::from_bytes("x"));
    for event in [Actor::Added, Actor::Removed] {
        let board = board();
        board.land(lead(&board), landing(Answer::NotFound, 0));
        assert!(matches!(board.join(Question::Worker(key())), Joined::NotFound));
        match event {
            Actor::Added => board.heard(3, told.clone()),
            _ => board.left(3, key()),
        }
        assert!(
            matches!(board.join(Question::Worker(key())), Joined::Lead(..)),
            "{event:?}"
        );
    }
}

fn begin(board: &Board, source: u16, peers: &[PeerInfo]) {
    board.detach_all();
    for identity in board.unconfirmed(source, peers) {
        board.remove(identity);
    }
}

#[test]
fn a_watch_that_begins_forgets_what_it_does_not_confirm() {
    let same = hit(1, Answer::Old).answer.unwrap().peer;
    let moved = PeerInfo::new(instance(Answer::Old), WorkerAddress::from_bytes("elsewhere"));
    for (source, peers, kept) in [
        (0, vec![same.clone()], true),
        (0, vec![moved], false),
        (0, vec![], false),
        (1, vec![], false),
        (2, vec![], true),
    ] {
        let board = board();
        board.land(lead(&board), hit(1, Answer::Old));
        let under_way = match board.join(Question::Instance(instance(Answer::New))) {
            Joined::Lead(ticket, _) => ticket,
            other => panic!("{other:?}"),
        };
        begin(&board, source, &peers);
        assert_eq!(board.table().hit(key()).is_some(), kept, "{source}: {peers:?}");
        board.land(under_way, hit(source, Answer::New));
        let published = board
            .table()
            .hit(key())
            .is_some_and(|hit| hit.peer.instance_id() == instance(Answer::New));
        assert!(!published, "an answer asked for before the watch began");
    }
}
