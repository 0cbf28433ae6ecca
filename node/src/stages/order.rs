//! Agreement on one thread: inputs of all other stages in, effects out to their rings.

use std::sync::Arc;

use replica::ordering::{Input, Ordering, Output};
use replica::verifying::Job;
use wire::certificates::CheckpointCertificate;
use wire::ids::Instant;
use wire::seal::{Ed25519Signer, Ed25519Verifier, Statement};

use super::execute::ExecuteInput;
use super::journal::JournalInput;
use super::links::{Inlet, Outlet};
use super::net::NetInput;
use super::{Failure, Shared};
use crate::buffers::Pooled;
use crate::telemetry::{LogFull, Stage};

/// Inputs of one turn from each ring.
const INPUTS_PER_TURN: usize = 64;

pub struct Order {
    pub ordering: Ordering<Pooled, Ed25519Signer, Ed25519Verifier>,
    pub from_journal: Inlet<Input<Pooled>>,
    pub from_execute: Inlet<Input<Pooled>>,
    pub from_net: Inlet<Input<Pooled>>,
    pub from_verify: Inlet<Input<Pooled>>,
    pub to_net: Outlet<NetInput>,
    pub to_journal: Outlet<JournalInput>,
    pub to_execute: Outlet<ExecuteInput>,
    pub to_verify: Outlet<Job<Pooled>>,
    /// What found its ring full; nothing is taken in before it is handed over.
    pub stalled: Option<Output<Pooled>>,
    /// End of the marker of a clean stop, once it was written.
    pub stop_marker: Option<wire::ids::Position>,
    /// A statement that proves the disk lost (R6): the process ends.
    pub lost: Option<Statement>,
    /// The epoch is over (G2): the process goes over to the next one.
    pub over: Option<Arc<CheckpointCertificate>>,
    pub shared: Shared,
}

impl Order {
    /// Takes a bounded number of inputs; true when there was one.
    pub fn turn(&mut self, now: Instant) -> Result<bool, Failure> {
        let mut progress = self.hand_out();
        let verifying = self.shared.telemetry.queue_depth.of(Stage::Verify).get();
        self.ordering.expect_more(verifying > 0);
        // Answers of the disk first: votes wait for them. Then what peers sent, then new requests.
        progress |= self.take(now, |order| order.from_journal.pop());
        progress |= self.take(now, |order| order.from_execute.pop());
        progress |= self.take(now, |order| order.from_net.pop());
        progress |= self.take(now, |order| order.from_verify.pop());
        if self.stalled.is_none() && now >= self.ordering.wake_at() {
            progress |= self.handle(now, Input::Tick);
        }
        if progress {
            self.publish(now);
        }
        if self.shared.stopping.get() {
            self.stop_when_durable();
        }
        self.to_net.wake();
        self.to_journal.wake();
        self.to_execute.wake();
        self.to_verify.wake();
        if let Some(certificate) = self.over.take() {
            return Err(Failure::EpochOver(certificate));
        }
        match self.lost {
            Some(found) => Err(Failure::DiskLost(found)),
            None => Ok(progress),
        }
    }

    /// Inputs that wait.
    pub fn queued(&self) -> usize {
        self.from_journal.queued()
            + self.from_execute.queued()
            + self.from_net.queued()
            + self.from_verify.queued()
    }

    fn take(
        &mut self,
        now: Instant,
        mut next: impl FnMut(&mut Order) -> Option<Input<Pooled>>,
    ) -> bool {
        let mut taken = 0;
        while self.stalled.is_none() && taken < INPUTS_PER_TURN {
            let Some(input) = next(self) else { break };
            taken += 1;
            self.handle(now, input);
        }
        taken > 0
    }

    /// One input, the fence that follows from it, and only then what is to be said: no vote leaves
    /// before the fence that covers it (§9.6; see [`super::Fence`]).
    fn handle(&mut self, now: Instant, input: Input<Pooled>) -> bool {
        self.ordering.handle(now, input);
        let fence = self.ordering.core().fence();
        self.shared.fence.publish(fence);
        self.hand_out()
    }

    /// Moves effects to their rings until one is full.
    fn hand_out(&mut self) -> bool {
        let mut moved = false;
        while let Some(output) = self.stalled.take().or_else(|| self.ordering.next_output()) {
            if let Err(output) = self.hand(output) {
                self.stalled = Some(output);
                break;
            }
            moved = true;
        }
        moved
    }

    fn hand(&mut self, output: Output<Pooled>) -> Result<(), Output<Pooled>> {
        match output {
            Output::Append(sealed) => {
                self.to_journal
                    .push(JournalInput::Append(sealed))
                    .map_err(|back| match back {
                        JournalInput::Append(sealed) => Output::Append(sealed),
                        JournalInput::Read(read) => Output::Read(read),
                    })
            }
            Output::Read(read) => self
                .to_journal
                .push(JournalInput::Read(read))
                .map_err(|_| Output::Read(read)),
            Output::Verify { place, message } => {
                let job = Job::Proposed { place, message };
                self.to_verify.push(job).map_err(|back| match back {
                    Job::Proposed { place, message } => Output::Verify { place, message },
                    _ => unreachable!("the job that was pushed"),
                })
            }
            Output::Judge(offer) => {
                self.to_verify
                    .push(Job::Fetched(offer))
                    .map_err(|back| match back {
                        Job::Fetched(offer) => Output::Judge(offer),
                        _ => unreachable!("the job that was pushed"),
                    })
            }
            Output::Execute { slot, message } => self
                .to_execute
                .push(ExecuteInput::Block { slot, message })
                .map_err(|back| match back {
                    ExecuteInput::Block { slot, message } => Output::Execute { slot, message },
                    _ => unreachable!("the block that was pushed"),
                }),
            Output::Resend {
                client,
                session,
                first,
                count,
            } => {
                // Lost answers are asked for again.
                let _ = self.to_execute.push(ExecuteInput::Resend {
                    client,
                    session,
                    first,
                    count,
                });
                Ok(())
            }
            Output::Recheck(question) => self
                .to_execute
                .push(ExecuteInput::Recheck(question))
                .map_err(|_| Output::Recheck(question)),
            Output::Stable(slot) => self
                .to_execute
                .push(ExecuteInput::Stable(slot))
                .map_err(|_| Output::Stable(slot)),
            state @ (Output::Certified(_)
            | Output::Offered(_)
            | Output::Save { .. }
            | Output::KeepNewest(_)
            | Output::Transfer(_)) => self.hand_state(state),
            Output::Diverged {
                slot,
                own,
                certified,
            } => {
                eprintln!(
                    "hippo: the state after slot {slot} is {own} here and {certified} at a quorum \
                     of nodes: this node has diverged and votes no more; keep its directory for \
                     inspection and start it anew from an empty one"
                );
                Ok(())
            }
            Output::EpochOver(certificate) => {
                self.over = Some(certificate);
                Ok(())
            }
            Output::DiskLost(found) => {
                self.lost = Some(found);
                Ok(())
            }
            Output::Refused(reject) => {
                self.shared.telemetry.rejects.count(reject);
                Ok(())
            }
            message @ (Output::Send { .. } | Output::SendLong { .. } | Output::Busy { .. }) => self
                .to_net
                .push(NetInput::Order(message))
                .map_err(|back| match back {
                    NetInput::Order(output) => output,
                }),
        }
    }

    /// What concerns whole states goes to their owner.
    fn hand_state(&mut self, output: Output<Pooled>) -> Result<(), Output<Pooled>> {
        if self.to_execute.room() == 0 {
            return Err(output);
        }
        let input = match output {
            Output::Certified(certificate) => ExecuteInput::Certified(certificate),
            Output::Offered(certificate) => ExecuteInput::Offered(certificate),
            Output::Save { full } => ExecuteInput::Save { full },
            Output::KeepNewest(keep) => ExecuteInput::KeepNewest(keep),
            Output::Transfer(certificate) => ExecuteInput::Transfer(certificate),
            other => return Err(other),
        };
        if self.to_execute.push(input).is_err() {
            unreachable!("room was checked");
        }
        Ok(())
    }

    /// Gauges for admission at `net` and for the control thread.
    fn publish(&mut self, now: Instant) {
        let telemetry = &self.shared.telemetry;
        let summary = self.ordering.summary();
        let counts = self.ordering.counts();
        let order = &telemetry.order;
        order.view.set(summary.view.0);
        order.leader.set(u64::from(summary.leader.0));
        order.is_leader.set(summary.leader == self.shared.me);
        order.may_propose.set(self.ordering.may_propose());
        order.committed_slot.set(summary.decided.0);
        let last = self.ordering.core().last_slot();
        order.last_slot.set(last.map_or(0, |slot| slot.0));
        order.fast_commits.set(counts.fast_blocks);
        order.slow_commits.set(counts.slow_blocks);
        order.view_changes.set(counts.view_changes);
        for (counter, wishes) in order.wishes.iter().zip(self.ordering.core().wishes()) {
            counter.set(wishes);
        }
        order.busy_replies.set(counts.busy);
        order.retransmits.set(counts.duplicates);
        order.evidence.set(counts.evidence);
        order.blocks_in_flight.set(self.ordering.core().undecided());
        order.checkpoint_slot.set(summary.low.0);
        order.lease.set(summary.lease.0);
        let silent_until = |slot: Option<wire::ids::Slot>| slot.map_or(0, |slot| slot.0);
        order.silent_until.set(silent_until(summary.silent_until));
        let retained_from = self.ordering.core().retained_from();
        order.retained_from.set(retained_from.0);
        self.shared.started.set(self.ordering.is_started());
        order.pending_transactions.set(self.ordering.depth() as u64);
        if self.shared.log_rotten.get() {
            self.shared.log_rotten.set(false);
            self.ordering.save_early();
        }
        if telemetry.snapshots.wanted.get() {
            telemetry.snapshots.wanted.set(false);
            self.ordering.save_soon();
        }
        let writer = self.ordering.writer();
        telemetry.log.used_bytes.set(writer.used_bytes());
        telemetry.log.segments.set(u64::from(writer.segments()));
        telemetry
            .log
            .durable_position
            .set(self.ordering.durable().0);
        let wanted = writer.segments_wanted();
        self.shared.segments_wanted.set(u64::from(wanted));
        let full = match self.ordering.log_full() {
            None => LogFull::No,
            Some(_) if self.shared.no_space.get() => LogFull::NoSpace,
            Some(_) => LogFull::SegmentsMax,
        };
        telemetry.log.full.set(full);
        for (id, peer) in telemetry.peers.iter().enumerate() {
            let id = wire::ids::NodeId(id as u16);
            if id == self.shared.me {
                peer.committed_slot.set(summary.decided.0);
                peer.silent_until.set(silent_until(summary.silent_until));
                peer.last_heard_ns.set(now.0);
            } else {
                peer.committed_slot
                    .set(self.ordering.core().committed_by(id).0);
                let silent = self.ordering.core().silent_peer_until(id);
                peer.silent_until.set(silent_until(silent));
                let heard = self.ordering.core().heard_at(id).map_or(0, |at| at.0);
                peer.last_heard_ns.set(heard);
            }
        }
        for nanoseconds in self.ordering.decide_samples() {
            telemetry.histograms.decide_ns.record(nanoseconds);
        }
    }

    /// A clean stop: everything proposed so far, then the marker, becomes durable.
    fn stop_when_durable(&mut self) {
        match self.stop_marker {
            None => {
                self.stop_marker = self.ordering.stop();
                if !self.ordering.needs_clean_stop() {
                    // Without room for the marker nothing is lost.
                    self.stop_marker = self.stop_marker.or(Some(self.ordering.durable()));
                }
                self.hand_out();
            }
            Some(end) if self.ordering.durable() >= end => self.shared.stopped.set(true),
            Some(_) => {}
        }
    }

    pub fn wake_at(&self) -> Instant {
        self.ordering.wake_at()
    }
}
