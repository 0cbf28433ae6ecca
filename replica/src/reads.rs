//! READs (protocol §9.6): answered from the executed state, outside of the order.
//!
//! A stale READ is answered at once. A fenced one waits until this replica has executed its *fence*,
//! [`consensus::Core::fence`] as it stood when the READ came or later: every block that this replica
//! may have helped to decide before. Of the R = n-q+b+1 equal answers that a client counts, one is
//! of a correct replica that voted for whatever completed before the client asked; that one's fence
//! lies at or above it, so the answer is as new.
//!
//! What waits is copied: the caller's receive buffer is free again at once. All memory is taken at
//! the start, a READ that finds no room is dropped and counted, and its client asks again or has it
//! ordered.

use storage::machine::StateMachine;
use wire::canary::{planted, reach};
use wire::ids::{Epoch, Instant, NodeId, PublicKey, Sequence, Slot};
use wire::limits::CACHED_RESULT_BYTES_MAX;
use wire::ops::Operation;
use wire::read::{Freshness, READ_OPERATION_BYTES_MAX, ReadReplyHead, ReadView, operation};
use wire::reject::Reject;
use wire::reply::result_digest;
use zerocopy::IntoBytes;

use crate::execution::{Execution, Replies, designated};

/// Fenced READs that wait at most, in all and of one client.
pub const WAITING_MAX: usize = 1024;
pub const WAITING_PER_CLIENT_MAX: usize = 256;
/// A READ that waits for longer makes room for others: its client has had it ordered long ago. It
/// waits for ever when its fence is a tail that nobody decides.
pub const WAIT_NS_MAX: u64 = 1_000_000_000;

const _: () = assert!(WAITING_MAX <= u16::MAX as usize);

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadCounts {
    pub stale: u64,
    pub fenced: u64,
    /// Fenced ones among them that had to wait for execution.
    pub waited: u64,
    /// Found no room, or waited for too long.
    pub dropped: u64,
    /// Came while this replica answers no fenced READ.
    pub unanswered: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    client: PublicKey,
    number: u64,
    all_full: bool,
    fence: Slot,
    since: Instant,
    /// Its operation: a place in the memory, and bytes there.
    at: u16,
    bytes: u16,
}

const _: () = assert!(READ_OPERATION_BYTES_MAX <= u16::MAX as usize);

/// See the module's documentation.
pub struct Reads {
    me: NodeId,
    replicas: u16,
    epoch: Epoch,
    waiting: Vec<Waiting>,
    /// Lowest fence among those that wait.
    lowest: Slot,
    memory: Vec<u8>,
    free: Vec<u16>,
    counts: ReadCounts,
}

impl Reads {
    pub fn new(me: NodeId, replicas: usize, epoch: Epoch) -> Reads {
        Reads {
            me,
            replicas: replicas as u16,
            epoch,
            waiting: Vec::with_capacity(WAITING_MAX),
            lowest: Slot(u64::MAX),
            memory: vec![0; WAITING_MAX * READ_OPERATION_BYTES_MAX],
            free: (0..WAITING_MAX as u16).rev().collect(),
            counts: ReadCounts::default(),
        }
    }

    pub fn counts(&self) -> ReadCounts {
        self.counts
    }

    /// Fenced READs that wait now.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes the body of a READ whose client the link knows; answers it, or lets it wait.
    ///
    /// `fence` must have been read after the READ arrived: an older one may lie below a vote that
    /// left meanwhile. `None`: this replica answers no fenced READ now, and says nothing.
    ///
    /// Errors: it is malformed, of another epoch, or finds no room.
    pub fn arrive<M: StateMachine>(
        &mut self,
        now: Instant,
        client: &PublicKey,
        body: &[u8],
        fence: Option<Slot>,
        execution: &mut Execution<M>,
        replies: &mut impl Replies,
    ) -> Result<(), Reject> {
        let read = ReadView::parse(body)?;
        // A member of another epoch may have votes to its name that no fence here knows of.
        if read.epoch != self.epoch {
            return Err(Reject::WrongEpoch);
        }
        if read.freshness == Freshness::Stale {
            self.counts.stale += 1;
            self.answer(
                client,
                read.number,
                true,
                &read.operation,
                execution,
                replies,
            );
            return Ok(());
        }
        let Some(fence) = fence else {
            self.counts.unanswered += 1;
            return Ok(());
        };
        if execution.executed() >= fence || planted("nofence") {
            self.counts.fenced += 1;
            let (number, all_full) = (read.number, read.all_full);
            self.answer(
                client,
                number,
                all_full,
                &read.operation,
                execution,
                replies,
            );
            return Ok(());
        }
        self.wait(now, client, &read, fence)
    }

    fn wait(
        &mut self,
        now: Instant,
        client: &PublicKey,
        read: &ReadView<'_>,
        fence: Slot,
    ) -> Result<(), Reject> {
        let mut own = self.waiting.iter().filter(|one| one.client == *client);
        if own.any(|one| one.number == read.number) {
            // Asked again: it goes on waiting for its first fence, which is late enough.
            return Ok(());
        }
        if !self.has_room(client) {
            self.drop_old(now);
        }
        let free = if self.has_room(client) {
            self.free.pop()
        } else {
            None
        };
        let Some(at) = free else {
            self.counts.dropped += 1;
            reach("read-dropped");
            return Err(Reject::QueueFull);
        };
        let begin = usize::from(at) * READ_OPERATION_BYTES_MAX;
        let bytes = read.operation_bytes.len();
        self.memory[begin..begin + bytes].copy_from_slice(read.operation_bytes);
        self.lowest = self.lowest.min(fence);
        self.counts.waited += 1;
        reach("read-waits");
        self.waiting.push(Waiting {
            client: *client,
            number: read.number,
            all_full: read.all_full,
            fence,
            since: now,
            at,
            bytes: bytes as u16,
        });
        Ok(())
    }

    fn has_room(&self, client: &PublicKey) -> bool {
        let own = self.waiting.iter().filter(|one| one.client == *client);
        !self.free.is_empty() && own.count() < WAITING_PER_CLIENT_MAX
    }

    fn drop_old(&mut self, now: Instant) {
        let Reads {
            waiting,
            free,
            counts,
            ..
        } = self;
        waiting.retain(|one| {
            let keep = now.since_ns(one.since) < WAIT_NS_MAX;
            if !keep {
                counts.dropped += 1;
                free.push(one.at);
            }
            keep
        });
    }

    /// Something was executed, or a state taken over: answers what waited for it.
    pub fn executed<M: StateMachine>(
        &mut self,
        execution: &mut Execution<M>,
        replies: &mut impl Replies,
    ) {
        let executed = execution.executed();
        if executed < self.lowest {
            return;
        }
        let mut index = 0;
        while let Some(one) = self.waiting.get(index).copied() {
            if one.fence > executed {
                index += 1;
                continue;
            }
            self.waiting.swap_remove(index);
            self.free.push(one.at);
            self.counts.fenced += 1;
            let begin = usize::from(one.at) * READ_OPERATION_BYTES_MAX;
            let memory = std::mem::take(&mut self.memory);
            if let Ok(operation) = operation(&memory[begin..begin + usize::from(one.bytes)]) {
                let (client, number) = (&one.client, one.number);
                self.answer(client, number, one.all_full, &operation, execution, replies);
            }
            self.memory = memory;
        }
        let fences = self.waiting.iter().map(|one| one.fence);
        self.lowest = fences.min().unwrap_or(Slot(u64::MAX));
    }

    fn answer<M: StateMachine>(
        &self,
        client: &PublicKey,
        number: u64,
        all_full: bool,
        operation: &Operation<'_>,
        execution: &mut Execution<M>,
        replies: &mut impl Replies,
    ) {
        let Some((slot, result)) = execution.read(operation) else {
            return;
        };
        let full = all_full
            || result.len() <= CACHED_RESULT_BYTES_MAX
            || designated(client, Sequence(number), self.replicas) == self.me;
        let head = ReadReplyHead::new(number, self.epoch, slot, !full);
        if full {
            replies.read_reply(client, slot, [head.as_bytes(), result]);
        } else {
            let digest = result_digest(result);
            replies.read_reply(client, slot, [head.as_bytes(), &digest.0]);
        }
    }
}
