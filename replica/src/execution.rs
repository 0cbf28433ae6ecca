//! The execution half: decided blocks become results, results become replies.
//!
//! Blocks arrive in slot order (N8). Each client gets one reply datagram per block, as long as its
//! results fit one. Every K slots the state is frozen and its root computed, slice by slice between
//! later blocks (K1).

mod checkpoints;
mod copies;
mod flush;
mod reconfiguration;

use std::sync::Arc;

use storage::machine::StateMachine;
use storage::state::Checkpoints;
use wire::block::BlockView;
use wire::bytes::SharedBytes;
use wire::change::Pending;
use wire::committee::Committee;
use wire::ids::{NodeId, PublicKey, Sequence, SessionId, Slot};
use wire::limits::{CACHED_RESULT_BYTES_MAX, CHECKPOINT_INTERVAL, RESULT_BYTES_MAX};
use wire::ops::{self, Operation, ResultBuffer};
use wire::reply::{Answer, ReplyBuilder, result_digest};
use wire::request::{RequestView, checked_requests};

use crate::pending::Question;
use crate::sessions::{Decision, Sessions};

use reconfiguration::Reconfiguration;

pub use checkpoints::{PRESERVED_BYTES_MAX, TRANSFER_HOLD_NS};

/// Replies under construction at once: clients of one block beyond these are answered in more
/// than one datagram.
const BUILDERS: usize = 64;

/// Where finished replies go.
pub trait Replies {
    /// A REPLY body for the session of `client`, belonging to the block at `slot`.
    fn reply(&mut self, client: &PublicKey, slot: Slot, body: &[u8]);

    /// A READ-REPLY body in two parts, made at `slot`.
    fn read_reply(&mut self, client: &PublicKey, slot: Slot, body: [&[u8]; 2]);
}

/// Replies being built for the clients of one block.
struct Builders {
    /// The first `used` are in use.
    all: Vec<(PublicKey, SessionId, ReplyBuilder)>,
    used: usize,
    /// Bytes that one reply may have.
    limit: usize,
}

/// What executing blocks came to; repeated operations are not counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// The last slot of this epoch, once a RECONFIG was executed (G1).
    pub last: Option<Slot>,
    /// Of requests, in proportion to their new operations.
    pub bytes: u64,
    pub operations: u64,
    /// Whether some client got a session that it had not.
    pub opened: bool,
}

/// See the module's documentation.
pub struct Execution<M: StateMachine> {
    me: NodeId,
    replicas: u16,
    machine: M,
    sessions: Sessions,
    result: ResultBuffer,
    builders: Builders,
    executed: Slot,
    transactions: u64,
    /// t(executed).
    time_ns: u64,
    index: u16,
    checkpoints: Checkpoints,
    /// Slots between checkpoints.
    interval: u64,
    /// No checkpoint is begun up to here.
    unneeded: Slot,
    preserved_bytes_max: u64,
    stored_sessions: flush::StoredSessions,
    copies: copies::Copies,
    reconfiguration: Reconfiguration,
}

impl<M: StateMachine> Execution<M> {
    /// `reply_bytes_max`: bytes of a reply body that fit one datagram of the clients' links.
    pub fn new(me: NodeId, replicas: usize, machine: M, reply_bytes_max: usize) -> Execution<M> {
        let builder = || ReplyBuilder::new(RESULT_BYTES_MAX + 2048);
        Execution {
            me,
            replicas: replicas as u16,
            machine,
            sessions: Sessions::new(),
            result: ResultBuffer::new(),
            builders: Builders {
                all: (0..BUILDERS)
                    .map(|_| (PublicKey([0; 32]), SessionId(0), builder()))
                    .collect(),
                used: 0,
                limit: reply_bytes_max,
            },
            executed: Slot(0),
            transactions: 0,
            time_ns: 0,
            index: 0,
            checkpoints: Checkpoints::new(),
            interval: CHECKPOINT_INTERVAL,
            unneeded: Slot(0),
            preserved_bytes_max: PRESERVED_BYTES_MAX,
            stored_sessions: flush::StoredSessions::default(),
            copies: copies::Copies::default(),
            reconfiguration: Reconfiguration::default(),
        }
    }

    /// Of this committee: its operator may change it (G1), and its origin ends what was pending.
    pub fn with_committee(mut self, committee: Arc<Committee>) -> Execution<M> {
        assert_eq!(self.executed, Slot(0));
        self.reconfiguration = Reconfiguration::of(committee);
        self
    }

    /// The RECONFIG that was executed in this epoch.
    pub fn pending(&self) -> Option<&Pending> {
        self.reconfiguration.pending()
    }

    /// The last slot of this epoch, once that is known.
    pub fn last_slot(&self) -> Option<Slot> {
        self.pending().map(|pending| pending.activation)
    }

    /// With a checkpoint every `slots` instead of every `CHECKPOINT_INTERVAL`; at least 1, the
    /// same on all replicas.
    pub fn with_checkpoint_interval(mut self, slots: u64) -> Execution<M> {
        assert!(slots > 0 && self.executed == Slot(0));
        self.interval = slots;
        self
    }

    /// With room for `max` sessions instead of `SESSIONS_MAX`; the same on all replicas.
    pub fn with_sessions_max(mut self, max: usize) -> Execution<M> {
        self.sessions = Sessions::new().with_max(max);
        self
    }

    /// With t(0) = `time_ns`, nanoseconds since 1970, instead of 0; the same on all replicas.
    pub fn with_genesis_time(mut self, time_ns: u64) -> Execution<M> {
        assert_eq!(self.executed, Slot(0));
        self.time_ns = time_ns;
        self
    }

    /// With another bound than `PRESERVED_BYTES_MAX` on what slow checkpoints and transfers keep.
    pub fn with_preserved_bytes_max(mut self, bytes: u64) -> Execution<M> {
        self.preserved_bytes_max = bytes;
        self
    }

    /// Highest slot executed.
    pub fn executed(&self) -> Slot {
        self.executed
    }

    /// Transactions executed, repeated ones not counted.
    pub fn transactions(&self) -> u64 {
        self.transactions
    }

    pub fn machine(&self) -> &M {
        &self.machine
    }

    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Applies the decided block at the next slot, hands out its replies, and says what of it was new.
    pub fn execute<B: SharedBytes>(
        &mut self,
        slot: Slot,
        message: &B,
        replies: &mut impl Replies,
    ) -> Work {
        assert_eq!(
            slot,
            self.executed.next(),
            "N8: blocks execute in slot order"
        );
        let block = BlockView::frame(message).expect("decided blocks are well formed");
        assert_eq!(block.prefix.header.slot(), slot);
        self.index = 0;
        self.time_ns = checkpoints::time_after(self.time_ns, block.prefix.header.time_ns());
        let mut work = Work::default();
        for request in checked_requests(block.payload) {
            if request.is_open() {
                work.opened |= self.execute_open(slot, &request, replies);
                continue;
            }
            let executed = self.execute_request(slot, &request, replies);
            let bytes = request.bytes().len() as u64 * executed;
            work.operations += executed;
            work.bytes += bytes / (request.count() as u64).max(1);
        }
        self.builders.finish(slot, replies);
        self.executed = slot;
        self.executed_one();
        work.last = self.last_slot();
        work
    }

    /// Whether the client got a session that it had not.
    fn execute_open(
        &mut self,
        slot: Slot,
        request: &RequestView<'_>,
        replies: &mut impl Replies,
    ) -> bool {
        let index = self.index;
        self.index = self.index.saturating_add(1);
        let client = request.client();
        let before = self.sessions.id_of(client);
        let opened = self
            .sessions
            .open(client, request.reference_slot(), slot, index);
        let (session, answer) = match opened {
            // Of the slot that created it: an answer that repeats an earlier one is equal to it.
            Some(session) => (session, Answer::Opened),
            None => (SessionId(0), Answer::Expired),
        };
        let at = if opened.is_some() {
            session.opened_in()
        } else {
            slot
        };
        let (to, open) = ((client, session), (Sequence(0), 1));
        self.builders.tell(to, slot, open, at, &answer, replies);
        opened.is_some() && opened != before
    }

    /// How many operations were executed, and had not been before.
    fn execute_request(
        &mut self,
        slot: Slot,
        request: &RequestView<'_>,
        replies: &mut impl Replies,
    ) -> u64 {
        let (client, id, first) = (
            request.client(),
            request.session(),
            request.first_sequence(),
        );
        let Some(session) = self.sessions.current_mut(client, id) else {
            let (to, all) = ((client, id), (first, request.count() as u16));
            self.builders
                .tell(to, slot, all, slot, &Answer::Expired, replies);
            return 0;
        };
        let builder = self.builders.of(client, id, slot, replies);
        session.acknowledge(request.acked_low(), first);
        let full = request.all_full() || designated(client, first, self.replicas) == self.me;
        self.machine
            .warm(&mut ops::operations(request.operation_bytes()));
        let mut executed = 0;
        for (offset, operation) in ops::operations(request.operation_bytes()).enumerate() {
            let sequence = Sequence(first.0 + offset as u64);
            self.result.clear();
            let (at, answer) = match session.decide(sequence) {
                Decision::Execute => {
                    if let Operation::Reconfigure(change) = &operation {
                        let interval = self.interval;
                        let answer = self.reconfiguration.execute(client, slot, interval, change);
                        self.result.value(&answer.encode());
                    } else {
                        self.machine.apply(&operation, &mut self.result);
                    }
                    session.remember(sequence, slot, self.result.bytes());
                    executed += 1;
                    (slot, answer_of(self.result.bytes(), full))
                }
                Decision::Repeat => match session.recall(sequence) {
                    Some(recalled) => recalled,
                    None => continue,
                },
                Decision::Stale => (slot, Answer::Stale),
                Decision::TooFar => continue,
            };
            self.builders
                .push(builder, slot, sequence, at, &answer, replies);
        }
        if executed > 0 {
            self.transactions += executed;
            self.sessions.touch(client, slot);
        }
        executed
    }

    /// Answers a repeated request from its session, without executing anything. The link
    /// authenticates the client; nothing is sent for what was not executed yet.
    pub fn resend(
        &mut self,
        client: &PublicKey,
        id: SessionId,
        first: Sequence,
        count: u16,
        replies: &mut impl Replies,
    ) {
        let slot = self.executed;
        if id == SessionId(0) {
            // A repeated OPEN, which changes nothing: the answer is that of the slot that created
            // the session.
            if let Some(id) = self.sessions.id_of(client) {
                let (to, open) = ((client, id), (Sequence(0), 1));
                self.builders
                    .tell(to, slot, open, id.opened_in(), &Answer::Opened, replies);
                self.builders.finish(slot, replies);
            }
            return;
        }
        let Some(session) = self.sessions.current(client, id) else {
            // Unknown may mean that this replica lags behind the OPEN: then it says nothing.
            if id.opened_in() <= slot {
                let to = (client, id);
                self.builders
                    .tell(to, slot, (first, count), slot, &Answer::Expired, replies);
                self.builders.finish(slot, replies);
            }
            return;
        };
        let builder = self.builders.of(client, id, slot, replies);
        for sequence in (first.0..first.0.saturating_add(u64::from(count))).map(Sequence) {
            let (at, answer) = match session.decide(sequence) {
                Decision::Repeat => match session.recall(sequence) {
                    Some(recalled) => recalled,
                    None => continue,
                },
                Decision::Stale => (Slot(0), Answer::Stale),
                Decision::Execute | Decision::TooFar => continue,
            };
            self.builders
                .push(builder, slot, sequence, at, &answer, replies);
        }
        self.builders.finish(slot, replies);
    }

    /// Whether any part of a request is still to be executed, as far as this replica knows (§9.4).
    pub fn waits(&mut self, request: &Question) -> bool {
        let Question { client, first, .. } = request;
        if request.open {
            return !self.sessions.has(client);
        }
        let Some(session) = self.sessions.current(client, request.session) else {
            return false;
        };
        let end = first.0.saturating_add(u64::from(request.count));
        let mut sequences = (first.0..end).map(Sequence);
        sequences.any(|sequence| session.would_execute(request.acked, *first, sequence))
    }

    /// The result of a read from the executed state, and its slot (§9.6; see [`crate::reads`]).
    /// `None` for an operation that could write.
    pub fn read(&mut self, operation: &Operation<'_>) -> Option<(Slot, &[u8])> {
        self.result.clear();
        let answered = self.machine.read(operation, &mut self.result);
        answered.then_some((self.executed, self.result.bytes()))
    }
}

/// The replica that returns a request's large results in full (§9.2).
pub(crate) fn designated(client: &PublicKey, first: Sequence, replicas: u16) -> NodeId {
    NodeId((u64::from(client.0[0]).wrapping_add(first.0) % u64::from(replicas)) as u16)
}

fn answer_of(result: &[u8], full: bool) -> Answer<'_> {
    if full || result.len() <= CACHED_RESULT_BYTES_MAX {
        Answer::Full(result)
    } else {
        Answer::Digest(result_digest(result))
    }
}

impl Builders {
    /// Where the builder of this client and session stands, begun if need be; good until the next
    /// call.
    fn of(
        &mut self,
        client: &PublicKey,
        session: SessionId,
        slot: Slot,
        replies: &mut impl Replies,
    ) -> usize {
        let same = |(of, id, _): &(PublicKey, SessionId, _)| of == client && *id == session;
        if let Some(at) = self.all[..self.used].iter().position(same) {
            return at;
        }
        if self.used == self.all.len() {
            self.finish(slot, replies);
        }
        let (of, id, builder) = &mut self.all[self.used];
        (*of, *id) = (*client, session);
        builder.begin(session);
        self.used += 1;
        self.used - 1
    }

    /// A reply with one answer about `count` transactions.
    fn tell(
        &mut self,
        to: (&PublicKey, SessionId),
        slot: Slot,
        (first, count): (Sequence, u16),
        at: Slot,
        answer: &Answer<'_>,
        replies: &mut impl Replies,
    ) {
        let builder = self.of(to.0, to.1, slot, replies);
        self.all[builder].2.push(first, count, at, answer);
    }

    /// Adds one answer; a reply that would grow beyond its datagram is sent first.
    fn push(
        &mut self,
        builder: usize,
        slot: Slot,
        sequence: Sequence,
        at: Slot,
        answer: &Answer<'_>,
        replies: &mut impl Replies,
    ) {
        let result_bytes = match answer {
            Answer::Full(result) => result.len(),
            Answer::Digest(_) => 32,
            _ => 0,
        };
        let (client, session, builder) = &mut self.all[builder];
        if !builder.is_empty() && !builder.fits(result_bytes, self.limit) {
            replies.reply(client, slot, builder.bytes());
            builder.begin(*session);
        }
        builder.push(sequence, 1, at, answer);
    }

    fn finish(&mut self, slot: Slot, replies: &mut impl Replies) {
        for (client, _, builder) in &self.all[..self.used] {
            if !builder.is_empty() {
                replies.reply(client, slot, builder.bytes());
            }
        }
        self.used = 0;
    }
}
