//! Requests that wait at a replica which does not order them (§9.4): the lowest of each client. They
//! are forwarded to the leader, then to all; while one waits, the leader is on trial (T1, T2).
//!
//! At the leader wait requests that it has ordered once already, of each client the lowest that it
//! sent itself, and the lowest that each replica stands up for: what a client sends to the leader
//! must not push out what it sends to those who judge the leader.
//!
//! Whoever sends garbage gains nothing: what a block has executed, whatever came of it, waits no
//! more, and every correct leader puts every verified request into a block.

use std::collections::BTreeMap;

use wire::ids::{Instant, NodeId, PublicKey, Sequence, SessionId};
use wire::request::RequestView;

/// Clients, and bytes of their requests, of one source at most; the newest are not taken.
const CLIENTS_MAX: usize = 4096;
const BYTES_MAX: usize = 8 << 20;
/// Requests handled in one turn.
const TURN_MAX: usize = 64;

/// How far a waiting request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nobody has asked execution yet whether it is still open.
    New,
    Asked,
    /// It is open; to be forwarded at once.
    Open,
    /// The leader has it, since then.
    Forwarded(Instant),
    /// All have it; the clock began then.
    Spread(Instant),
    /// It has waited for longer than T_req.
    Overdue(Instant),
}

impl Stage {
    /// Since when the leader owes an answer.
    fn clock(self) -> Option<Instant> {
        match self {
            Stage::Forwarded(at) | Stage::Spread(at) | Stage::Overdue(at) => Some(at),
            Stage::New | Stage::Asked | Stage::Open => None,
        }
    }
}

/// What names a request, for execution to say whether any part of it is still to be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    pub client: PublicKey,
    pub session: SessionId,
    pub first: Sequence,
    pub count: u16,
    /// It moves the window of its session before it executes (9.3).
    pub acked: Sequence,
    pub open: bool,
}

impl Question {
    fn about(request: &RequestView<'_>) -> Question {
        Question {
            client: *request.client(),
            session: request.session(),
            first: request.first_sequence(),
            count: request.count() as u16,
            acked: request.acked_low(),
            open: request.is_open(),
        }
    }
}

#[derive(Debug)]
struct Item {
    request: Question,
    frame: Vec<u8>,
    arrived: Instant,
    /// When it was last sent to the leader.
    sent: Instant,
    stage: Stage,
}

/// What is due for one waiting request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Ask execution whether it is still to be executed.
    Recheck(Question),
    /// Send the frame to the leader, or to all.
    Forward { frame: Vec<u8>, to_all: bool },
}

/// How long each step may take, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// T_fwd: from arrival to the leader.
    pub forward_ns: u64,
    /// T_req: from there to a wish for another leader.
    pub request_ns: u64,
}

impl Patience {
    /// Between two sendings to the leader.
    fn again_ns(self) -> u64 {
        self.request_ns / 8
    }
}

/// Who stands up for a request: a replica, or the client alone.
type Source = Option<NodeId>;

/// What items of one source take.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    items: usize,
    bytes: usize,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Pending {
    /// By client and source: one each. The order is that of the keys, the same in every run.
    items: BTreeMap<(PublicKey, Source), Item>,
    shares: BTreeMap<Source, Share>,
}

impl Pending {
    pub fn new() -> Pending {
        Pending::default()
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Takes a verified request in; the lowest of its client stays, among those of one source.
    pub fn push(&mut self, now: Instant, request: &RequestView<'_>, source: Source) {
        let new = Question::about(request);
        let (key, frame) = ((new.client, source), request.bytes());
        if let Some(held) = self.items.get(&key).map(|item| item.request) {
            let lower = new.open && !held.open
                || held.session < new.session
                || held.session == new.session && new.first < held.first;
            if !lower || held.open {
                return;
            }
            self.remove(&key);
        }
        let share = self.shares.entry(source).or_default();
        if share.items == CLIENTS_MAX || share.bytes + frame.len() > BYTES_MAX {
            return;
        }
        share.items += 1;
        share.bytes += frame.len();
        let item = Item {
            request: new,
            frame: frame.to_vec(),
            arrived: now,
            sent: now,
            stage: Stage::New,
        };
        self.items.insert(key, item);
    }

    fn remove(&mut self, key: &(PublicKey, Source)) {
        if let Some(item) = self.items.remove(key) {
            let share = self.shares.get_mut(&key.1).expect("it has an item");
            share.items -= 1;
            share.bytes -= item.frame.len();
        }
    }

    /// What waits of a client, by source.
    fn of(&self, client: PublicKey) -> impl Iterator<Item = (&(PublicKey, Source), &Item)> {
        let last = Some(NodeId(u16::MAX));
        self.items.range((client, None)..=(client, last))
    }

    /// A request was in a block that is executed; so no part of it waits any more. Another OPEN
    /// than the own one shows that the leader serves newcomers: their clock begins anew.
    pub fn executed(&mut self, now: Instant, request: &RequestView<'_>) {
        if request.is_open() {
            for item in self.items.values_mut().filter(|item| item.request.open) {
                if item.stage.clock().is_some() {
                    item.stage = Stage::Forwarded(now);
                }
            }
        }
        let until = (request.first_sequence().0).saturating_add(request.count() as u64);
        let is_done = |item: &Question| {
            if item.open {
                return request.is_open();
            }
            let same = !request.is_open() && item.session == request.session();
            same && request.first_sequence() <= item.first && item.first.0 < until
        };
        let done = self.of(*request.client());
        let done = done.filter(|(_, item)| is_done(&item.request));
        for key in done.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.remove(&key);
        }
    }

    /// Execution's answer to a [`Due::Recheck`]. True for an OPEN that waits no more: its client has
    /// a session and does not know it.
    pub fn rechecked(&mut self, question: &Question, waits: bool) -> bool {
        let asked = self.of(question.client);
        let asked =
            asked.filter(|(_, item)| item.request == *question && item.stage == Stage::Asked);
        let keys = asked.map(|(key, _)| *key).collect::<Vec<_>>();
        for key in &keys {
            if !waits {
                self.remove(key);
            } else if let Some(item) = self.items.get_mut(key) {
                item.stage = Stage::Open;
            }
        }
        question.open && !waits && !keys.is_empty()
    }

    /// A new leader has everything before it (V5). Replicas that stood up for a request do so again.
    pub fn restart(&mut self) {
        self.items.retain(|(_, source), _| source.is_none());
        self.shares.retain(|source, _| source.is_none());
        for item in self.items.values_mut() {
            if item.stage.clock().is_some() {
                item.stage = Stage::Open;
            }
        }
    }

    /// What is due now, a bounded number of things.
    pub fn due(&mut self, now: Instant, patience: Patience) -> Vec<Due> {
        let mut due = Vec::new();
        let mut ordered = None;
        for item in self.items.values_mut() {
            if due.len() == TURN_MAX {
                break;
            }
            if item.stage == Stage::Open && ordered == Some(item.request) {
                // Another source's copy of what was forwarded just now.
                (item.stage, item.sent) = (Stage::Forwarded(now), now);
                continue;
            }
            let mut forward = |to_all| {
                due.push(Due::Forward {
                    frame: item.frame.clone(),
                    to_all,
                });
            };
            match item.stage {
                Stage::New if now.since_ns(item.arrived) >= patience.forward_ns => {
                    item.stage = Stage::Asked;
                    due.push(Due::Recheck(item.request));
                }
                Stage::Open => {
                    (item.stage, item.sent) = (Stage::Forwarded(now), now);
                    ordered = Some(item.request);
                    forward(false);
                }
                Stage::Forwarded(at) if now.since_ns(at) >= patience.request_ns / 2 => {
                    item.stage = Stage::Spread(at);
                    forward(true);
                }
                Stage::Spread(at) if now.since_ns(at) >= patience.request_ns => {
                    item.stage = Stage::Overdue(at);
                }
                // The network may have lost it.
                Stage::Forwarded(_) | Stage::Spread(_) | Stage::Overdue(_)
                    if now.since_ns(item.sent) >= patience.again_ns() =>
                {
                    item.sent = now;
                    forward(false);
                }
                _ => {}
            }
        }
        due
    }

    /// When [`Pending::due`] has something to do, or a request becomes overdue.
    pub fn wake_at(&self, patience: Patience) -> Instant {
        let wakes = self.items.values().map(|item| match item.stage {
            Stage::New => item.arrived.after_ns(patience.forward_ns),
            Stage::Asked => Instant(u64::MAX),
            Stage::Overdue(_) => item.sent.after_ns(patience.again_ns()),
            Stage::Open => Instant(0),
            Stage::Forwarded(at) => {
                let again = item.sent.after_ns(patience.again_ns());
                again.min(at.after_ns(patience.request_ns / 2))
            }
            Stage::Spread(at) => {
                let again = item.sent.after_ns(patience.again_ns());
                again.min(at.after_ns(patience.request_ns))
            }
        });
        wakes.min().unwrap_or(Instant(u64::MAX))
    }

    fn clocks(&self) -> impl Iterator<Item = Instant> {
        self.items.values().filter_map(|item| item.stage.clock())
    }

    /// Since when the leader has owed an answer to the oldest request.
    pub fn oldest(&self) -> Option<Instant> {
        self.clocks().min()
    }

    /// T2: whether some request waits longer than T_req.
    pub fn is_overdue(&self) -> bool {
        let mut stages = self.items.values().map(|item| item.stage);
        stages.any(|stage| matches!(stage, Stage::Overdue(_)))
    }

    /// Hands everything over to a replica that has become the leader itself.
    pub fn take_all(&mut self) -> impl Iterator<Item = Vec<u8>> {
        self.shares.clear();
        std::mem::take(&mut self.items)
            .into_values()
            .map(|item| item.frame)
    }
}

#[cfg(test)]
mod tests {
    use wire::ops::{Operation, OperationsBuilder};
    use wire::request::{RequestFields, encode_request};

    use super::*;

    const PATIENCE: Patience = Patience {
        forward_ns: 10,
        request_ns: 400,
    };
    const CLIENT: PublicKey = PublicKey([3; 32]);

    fn request(session: u64, first: u64) -> Vec<u8> {
        let fields = RequestFields {
            session: SessionId(session),
            first_sequence: Sequence(first),
            acked_low: Sequence(0),
            flags: 0,
            count: 1,
        };
        let mut operations = OperationsBuilder::new();
        operations.push(&Operation::Get { key: b"k" });
        let mut frame = Vec::new();
        encode_request(&mut frame, CLIENT, fields, operations.bytes());
        frame
    }

    fn push(pending: &mut Pending, now: u64, frame: &[u8], source: Source) {
        let view = RequestView::parse(frame).unwrap();
        pending.push(Instant(now), &view, source);
    }

    /// The client's own frames replace each other all the time, and keep nothing from being ordered
    /// that others have vouched for, and judge the leader by.
    #[test]
    fn a_client_cannot_push_out_what_a_replica_stands_up_for() {
        let mut pending = Pending::new();
        let (wanted, bait) = (request(7, 1025), request(u64::MAX, 1025));
        let mut ordered = Vec::new();
        for now in 0..100 {
            push(&mut pending, now, &bait, None);
            push(&mut pending, now, &wanted, Some(NodeId(2)));
            for due in pending.due(Instant(now), PATIENCE) {
                match due {
                    Due::Recheck(question) => {
                        let waits = question.session == SessionId(7);
                        pending.rechecked(&question, waits);
                    }
                    Due::Forward { frame, .. } => ordered.push(frame),
                }
            }
        }
        assert!(ordered.contains(&wanted));
        assert!(!ordered.contains(&bait));
    }

    /// One copy for all who stand up for it; once executed, none is left.
    #[test]
    fn copies_of_several_sources_are_one_request() {
        let mut pending = Pending::new();
        let frame = request(7, 5);
        for source in [None, Some(NodeId(1)), Some(NodeId(3))] {
            push(&mut pending, 0, &frame, source);
        }
        assert_eq!(pending.len(), 3);
        for due in pending.due(Instant(10), PATIENCE) {
            let Due::Recheck(question) = due else {
                panic!("{due:?}");
            };
            pending.rechecked(&question, true);
        }
        assert_eq!(pending.due(Instant(11), PATIENCE).len(), 1);
        pending.executed(Instant(12), &RequestView::parse(&frame).unwrap());
        assert!(pending.is_empty());
        assert_eq!(pending.shares[&None].bytes, 0);
    }

    #[test]
    fn the_room_of_one_source_is_not_that_of_another() {
        let mut pending = Pending::new();
        let share = Share {
            items: CLIENTS_MAX,
            bytes: 0,
        };
        pending.shares.insert(None, share);
        push(&mut pending, 0, &request(7, 5), None);
        assert!(pending.is_empty());
        push(&mut pending, 0, &request(7, 5), Some(NodeId(1)));
        assert_eq!(pending.len(), 1);
        pending.restart();
        assert!(pending.is_empty(), "who stood up for it does so again");
    }
}
