//! Decided blocks to results: owns sessions and table, writes replies into send buffers. States that
//! come from others, go to them, or go to the disk are its own duty too (`states`).

mod states;

use std::sync::Arc;

use platform::pool::{Buffer, Pool};
use replica::execution::{Execution, Replies, Work};
use replica::ordering::Input;
use replica::pending::Question;
use replica::reads::Reads;
use storage::machine::StateMachine;
use wire::certificates::CheckpointCertificate;
use wire::header::HEADER_BYTES;
use wire::ids::{Instant, PublicKey, Sequence, SessionId, Slot};

use super::links::{Inlet, Outlet};
use super::{ORDER_ROOM_MIN, Shared};
use crate::buffers::{Bytes, Pooled};
use crate::machine::Machine;

pub use states::{Duties, Sent as StateSent, StateInput};

/// Bytes of a checkpoint hashed at once, at least one bucket: about 100 us with a million keys.
const HASH_BYTES: usize = 32 * 1024;
/// Pauses between slices, as multiples of what a slice took, in each quarter of an interval that
/// passes before the checkpoint is hashed. Replicas on one machine freeze at one slot: hashing at
/// full speed, they would take its cores from the blocks that come for tens of milliseconds (p90 at
/// 100,000 TPS on 2 cores: 10 ms instead of 2.5).
const HASH_PAUSES: [u64; 4] = [9, 9, 3, 0];
/// Pieces of a snapshot while blocks come: every so many turns.
const SPARE_EVERY: u32 = 16;
/// Buckets whose entries are dropped from memory in one turn, when it holds too much.
const EVICTED_BUCKETS: usize = 1;
/// Blocks applied in one turn.
const BLOCKS_PER_TURN: usize = 4;

/// What arrives from the ordering half and from `net`.
pub enum ExecuteInput {
    Block {
        slot: Slot,
        message: Bytes,
    },
    Resend {
        client: PublicKey,
        session: SessionId,
        first: Sequence,
        count: u16,
    },
    /// Whether any part of a request is still to be executed.
    Recheck(Question),
    /// The state after this slot is certified.
    Stable(Slot),
    /// As the outputs of the ordering half of the same names.
    Certified(Arc<CheckpointCertificate>),
    Offered(Arc<CheckpointCertificate>),
    Save {
        full: bool,
    },
    KeepNewest(bool),
    Transfer(Arc<CheckpointCertificate>),
    /// A READ body of an authenticated client.
    Read {
        client: PublicKey,
        body: Bytes,
    },
}

/// A reply body that stands behind room for the datagram's header.
pub struct Reply {
    pub client: PublicKey,
    pub slot: Slot,
    pub read: bool,
    pub buffer: Buffer,
    pub body_bytes: usize,
}

/// What this stage has sent.
pub enum Sent {
    Reply(Reply),
    State(StateSent),
}

pub struct Execute {
    pub execution: Execution<Machine>,
    pub reads: Reads,
    pub duties: Duties,
    /// When the next slice of a checkpoint is due.
    pub hash_due: Instant,
    pub from_order: Inlet<ExecuteInput>,
    pub from_net: Inlet<ExecuteInput>,
    pub to_order: Outlet<Input<Pooled>>,
    pub replies: ReplyWriter,
    pub turns: u32,
    pub shared: Shared,
}

/// Puts reply bodies into pooled buffers; one that finds no buffer or no room is dropped, and the
/// client asks again.
pub struct ReplyWriter {
    pub small: Pool,
    pub large: Pool,
    pub to_net: Outlet<Sent>,
    pub sent: u64,
    pub dropped: u64,
}

impl ReplyWriter {
    fn write(&mut self, client: &PublicKey, slot: Slot, read: bool, parts: [&[u8]; 2]) {
        let body_bytes = parts[0].len() + parts[1].len();
        let whole = HEADER_BYTES + body_bytes;
        let pool = if whole <= self.small.buffer_bytes() {
            &self.small
        } else {
            &self.large
        };
        let buffer = pool.take().filter(|buffer| buffer.len() >= whole);
        let Some(mut buffer) = buffer else {
            self.dropped += 1;
            return;
        };
        let (first, second) = buffer[HEADER_BYTES..whole].split_at_mut(parts[0].len());
        first.copy_from_slice(parts[0]);
        second.copy_from_slice(parts[1]);
        let reply = Reply {
            client: *client,
            slot,
            read,
            buffer,
            body_bytes,
        };
        match self.to_net.push(Sent::Reply(reply)) {
            Ok(()) => self.sent += 1,
            Err(_) => self.dropped += 1,
        }
    }
}

impl Replies for ReplyWriter {
    fn reply(&mut self, client: &PublicKey, slot: Slot, body: &[u8]) {
        self.write(client, slot, false, [body, &[]]);
    }

    fn read_reply(&mut self, client: &PublicKey, slot: Slot, body: [&[u8]; 2]) {
        self.write(client, slot, true, body);
    }
}

impl Execute {
    /// Applies a few blocks; true when there was something to do.
    pub fn turn(&mut self, clock: impl Fn() -> u64) -> bool {
        let mut done = 0;
        while done < BLOCKS_PER_TURN
            && self.to_order.room() > ORDER_ROOM_MIN
            && !self.duties.saving.is_switching()
        {
            let Some(input) = self.from_order.pop().or_else(|| self.from_net.pop()) else {
                break;
            };
            done += 1;
            match input {
                // What a state that was taken over holds already is not executed again.
                ExecuteInput::Block { slot, .. } if slot <= self.execution.executed() => {
                    let work = Work::default();
                    if self.to_order.push(Input::Executed { slot, work }).is_err() {
                        unreachable!("room was checked");
                    }
                }
                ExecuteInput::Block { slot, message } => {
                    let begin = clock();
                    let work = self.execution.execute(slot, &message, &mut self.replies);
                    let telemetry = &self.shared.telemetry;
                    telemetry
                        .histograms
                        .execute_ns
                        .record(clock().saturating_sub(begin));
                    telemetry
                        .histograms
                        .block_transactions
                        .record(work.operations);
                    self.publish_executed();
                    if self.to_order.push(Input::Executed { slot, work }).is_err() {
                        unreachable!("room was checked");
                    }
                }
                ExecuteInput::Resend {
                    client,
                    session,
                    first,
                    count,
                } => {
                    self.execution
                        .resend(&client, session, first, count, &mut self.replies);
                }
                ExecuteInput::Recheck(question) => {
                    let input = Input::Rechecked {
                        question,
                        waits: self.execution.waits(&question),
                    };
                    if self.to_order.push(input).is_err() {
                        unreachable!("room was checked");
                    }
                }
                ExecuteInput::Stable(slot) => self.execution.stable(slot),
                ExecuteInput::Certified(certificate) => self.certified(certificate),
                ExecuteInput::Offered(certificate) => self.offered(certificate),
                ExecuteInput::Save { full } => self.duties.saving.want(full, &mut self.execution),
                ExecuteInput::KeepNewest(keep) => self.execution.keep_newest(keep),
                ExecuteInput::Transfer(certificate) => self.transfer(certificate),
                ExecuteInput::Read { client, body } => {
                    // Loaded after the READ came: see `Fence`.
                    let fence = self.shared.fence.load();
                    let (reads, replies) = (&mut self.reads, &mut self.replies);
                    let execution = &mut self.execution;
                    let now = Instant(clock());
                    let read = reads.arrive(now, &client, &body, fence, execution, replies);
                    if let Err(reject) = read {
                        self.shared.telemetry.rejects.count(reject);
                    }
                }
            }
        }
        self.reads.executed(&mut self.execution, &mut self.replies);
        self.turns = self.turns.wrapping_add(1);
        let spare = done == 0 || self.turns.is_multiple_of(SPARE_EVERY);
        let hashing = self.hash(&clock);
        let tending = self.tend_states(Instant(clock()), spare);
        let evicting = self.execution.evict(EVICTED_BUCKETS);
        if done > 0 || tending {
            let execute = &self.shared.telemetry.execute;
            execute.replies.set(self.replies.sent);
            let reads = self.reads.counts();
            execute.stale_reads.set(reads.stale);
            execute.fenced_reads.set(reads.fenced);
            execute.fenced_reads_waited.set(reads.waited);
            execute.fenced_reads_dropped.set(reads.dropped);
            execute
                .fenced_reads_waiting
                .set(self.reads.waiting() as u64);
            execute.sessions.set(self.execution.sessions() as u64);
            execute.table_keys.set(self.execution.machine().keys());
            execute.table_bytes.set(self.execution.machine().bytes());
            let memory_bytes = self.execution.memory_bytes();
            self.shared.telemetry.table.memory_bytes.set(memory_bytes);
        }
        self.to_order.wake();
        self.replies.to_net.wake();
        done > 0 || hashing || tending || evicting
    }

    fn publish_executed(&self) {
        let telemetry = &self.shared.telemetry;
        let transactions = self.execution.transactions();
        let executed = self.execution.executed().0;
        telemetry.execute.executed_slot.set(executed);
        telemetry.execute.executed_transactions.set(transactions);
        telemetry.order.committed_transactions.set(transactions);
    }

    /// K1: one slice of the checkpoint under way when it is due; true when another one is at once.
    fn hash(&mut self, clock: impl Fn() -> u64) -> bool {
        let Some(age) = self.execution.hashing_age() else {
            return false;
        };
        let begun = clock();
        if begun < self.hash_due.0 {
            return false;
        }
        let more = self.execution.work(HASH_BYTES);
        let quarter = (4 * age / self.execution.checkpoint_interval()).min(3);
        let pause = HASH_PAUSES[quarter as usize];
        let ended = clock();
        self.hash_due = Instant(ended + pause * (ended - begun));
        while self.to_order.room() > ORDER_ROOM_MIN
            && let Some((slot, root)) = self.execution.take_root()
        {
            if self.to_order.push(Input::Root { slot, root }).is_err() {
                unreachable!("room was checked");
            }
        }
        more && pause == 0
    }
}
