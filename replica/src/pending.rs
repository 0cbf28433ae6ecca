//! Requests that wait at a replica which does not order them (§9.4): the lowest of each client. They
//! are forwarded to the leader, then to all; while one waits, the leader is on trial (T1, T2).
//!
//! Whoever sends garbage gains nothing: what a block has executed, whatever came of it, waits no
//! more, and every correct leader puts every verified request into a block.

use std::collections::BTreeMap;

use wire::ids::{Instant, PublicKey, Sequence, SessionId};
use wire::request::RequestView;

/// Clients, and bytes of their requests, at most; the newest are not taken.
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

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Pending {
    /// By client: one each. The order is that of the keys, the same in every run.
    items: BTreeMap<PublicKey, Item>,
    bytes: usize,
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

    /// Takes a verified request in; the lowest of its client stays.
    pub fn push(&mut self, now: Instant, request: &RequestView<'_>) {
        let new = Question::about(request);
        let frame = request.bytes();
        if let Some(held) = self.items.get(&new.client).map(|item| item.request) {
            let lower = new.open && !held.open
                || held.session < new.session
                || held.session == new.session && new.first < held.first;
            if !lower || held.open {
                return;
            }
            self.remove(&new.client);
        }
        if self.items.len() == CLIENTS_MAX || self.bytes + frame.len() > BYTES_MAX {
            return;
        }
        self.bytes += frame.len();
        let item = Item {
            request: new,
            frame: frame.to_vec(),
            arrived: now,
            sent: now,
            stage: Stage::New,
        };
        self.items.insert(new.client, item);
    }

    fn remove(&mut self, client: &PublicKey) {
        if let Some(item) = self.items.remove(client) {
            self.bytes -= item.frame.len();
        }
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
        let Some(item) = self.items.get(request.client()) else {
            return;
        };
        let item = item.request;
        let done = if item.open {
            request.is_open()
        } else {
            let end = |first: Sequence, count: usize| first.0.saturating_add(count as u64);
            let until = end(request.first_sequence(), request.count());
            let same = !request.is_open() && item.session == request.session();
            same && request.first_sequence() <= item.first && item.first.0 < until
        };
        if done {
            self.remove(request.client());
        }
    }

    /// Execution's answer to a [`Due::Recheck`]. True for an OPEN that waits no more: its client has
    /// a session and does not know it.
    pub fn rechecked(&mut self, client: &PublicKey, first: Sequence, waits: bool) -> bool {
        let Some(item) = self.items.get_mut(client) else {
            return false;
        };
        if item.request.first != first || item.stage != Stage::Asked {
            return false;
        }
        item.stage = Stage::Open;
        let known = item.request.open && !waits;
        if !waits {
            self.remove(client);
        }
        known
    }

    /// A new leader has everything before it (V5).
    pub fn restart(&mut self) {
        for item in self.items.values_mut() {
            if item.stage.clock().is_some() {
                item.stage = Stage::Open;
            }
        }
    }

    /// What is due now, a bounded number of things.
    pub fn due(&mut self, now: Instant, patience: Patience) -> Vec<Due> {
        let mut due = Vec::new();
        for item in self.items.values_mut() {
            if due.len() == TURN_MAX {
                break;
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
        self.bytes = 0;
        std::mem::take(&mut self.items)
            .into_values()
            .map(|item| item.frame)
    }
}
