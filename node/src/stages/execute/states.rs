//! Whole states: taken over from others, given to them (K4), and written as snapshots (K1, K2).
//!
//! The pure half decides all of it ([`Takeover`], [`Saving`]); here it is fed from rings, and what
//! it wants is put into buffers. Blocks come first: a few parts at most are served, and one piece
//! of a snapshot is read, between two turns of blocks.

use std::sync::Arc;

use replica::ordering::Input;
use replica::peer::{PeerMessage, content_digest};
use replica::saving::{Outcome, Piece, Saving};
use replica::takeover::Takeover;
use wire::certificates::CheckpointCertificate;
use wire::header::Kind;
use wire::ids::{Digest, Instant, NodeId, Slot};
use wire::state::Part;

use super::{Execute, Sent as ToNet};
use crate::buffers::Bytes;
use crate::datadir::SnapshotSteps;
use crate::stages::ORDER_ROOM_MIN;
use crate::stages::links::Inlet;

/// Questions and answers about states taken in one turn.
const INPUTS_PER_TURN: usize = 4;
/// Steps that one turn hands to the writer of snapshots at most.
const STEPS_PER_TURN: usize = 8;
/// Places kept free for replies in the ring to `net`.
const NET_ROOM_MIN: usize = 64;
/// How often checkpoints that nobody asks for any more are let go.
const EXPIRE_NS: u64 = 100_000_000;

/// What peers say about states.
pub enum StateInput {
    /// FETCH-STATE.
    Fetch {
        from: NodeId,
        slot: Slot,
        part: Part,
    },
    /// The body of a CHUNK.
    Chunk { from: NodeId, body: Bytes },
}

/// A message about states on its way out.
pub enum Sent {
    Small {
        to: NodeId,
        message: PeerMessage,
    },
    /// Named by its content: what is sent again completes what was lost of it.
    Long {
        to: NodeId,
        kind: Kind,
        slot: Slot,
        digest: Digest,
        message: Bytes,
    },
}

/// What the executing stage holds for this.
pub struct Duties {
    pub takeover: Takeover,
    pub saving: Saving,
    pub from_net: Inlet<StateInput>,
    pub snapshots: SnapshotSteps,
    /// The body of a CHUNK on its way out.
    pub chunk: Vec<u8>,
    pub expired_at: Instant,
}

impl Duties {
    /// When a transfer or a snapshot needs a turn if nothing arrives before.
    fn wake_at(&self) -> Option<Instant> {
        let due = [self.takeover.wake_at(), self.saving.wake_at()];
        due.into_iter().flatten().min()
    }
}

impl Execute {
    /// When a turn is due if nothing arrives before.
    pub fn wake_at(&self) -> Instant {
        let due = self.duties.wake_at();
        // Before START is durable nothing is asked (R4), and its durability is an arrival.
        let due = due.filter(|_| self.shared.started.get());
        let hash = self.execution.is_hashing().then_some(self.hash_due);
        due.into_iter()
            .chain(hash)
            .min()
            .unwrap_or(Instant(u64::MAX))
    }

    pub(super) fn certified(&mut self, certificate: Arc<CheckpointCertificate>) {
        let pinned = self.execution.pinned();
        self.duties.saving.certified(certificate, pinned);
    }

    pub(super) fn offered(&mut self, certificate: Arc<CheckpointCertificate>) {
        self.duties.takeover.offer(certificate, &self.execution);
    }

    pub(super) fn transfer(&mut self, certificate: Arc<CheckpointCertificate>) {
        self.duties.takeover.begin(certificate, &mut self.execution);
    }

    /// Goes on with states; `spare`: there is time for a piece of a snapshot. True when something
    /// moved.
    pub(super) fn tend_states(&mut self, now: Instant, spare: bool) -> bool {
        let mut moved = false;
        for _ in 0..INPUTS_PER_TURN {
            if self.replies.to_net.room() < NET_ROOM_MIN {
                break;
            }
            let Some(input) = self.duties.from_net.pop() else {
                break;
            };
            moved = true;
            match input {
                StateInput::Fetch { from, slot, part } => self.serve(now, from, slot, part),
                StateInput::Chunk { from, body } => {
                    self.duties.takeover.on_chunk(now, from, &body);
                }
            }
        }
        moved |= self.tend_transfer(now);
        moved |= self.tend_snapshot(now, spare);
        moved |= self.tell_order();
        if now.since_ns(self.duties.expired_at) >= EXPIRE_NS {
            self.duties.expired_at = now;
            self.execution.expire(now);
        }
        if moved {
            self.publish_states();
        }
        moved
    }

    /// Answers FETCH-STATE. Nothing is said before START is durable (R4).
    fn serve(&mut self, now: Instant, from: NodeId, slot: Slot, part: Part) {
        if !self.shared.started.get() {
            return;
        }
        let mut chunk = std::mem::take(&mut self.duties.chunk);
        let (takeover, execution) = (&mut self.duties.takeover, &mut self.execution);
        if let Some(served) = takeover.serve(now, from, (slot, part), execution, &mut chunk) {
            self.send_long(from, Kind::Chunk, slot, &chunk);
            let elsewhere = served.elsewhere;
            let certificate = elsewhere.and_then(|slot| {
                let copied = self.execution.copy_certificate(Some(slot));
                copied.or_else(|| self.duties.saving.certificate_of(slot))
            });
            if let Some(certificate) = certificate {
                let (slot, body) = (certificate.header.slot(), certificate.encode());
                self.send_long(from, Kind::CheckpointCertificate, slot, &body);
            }
        }
        self.duties.chunk = chunk;
    }

    /// Without a buffer or room nothing is sent: the peer asks again.
    fn send_long(&mut self, to: NodeId, kind: Kind, slot: Slot, body: &[u8]) {
        let buffer = self.replies.large.take();
        let Some(mut buffer) = buffer.filter(|buffer| buffer.len() >= body.len()) else {
            return;
        };
        buffer[..body.len()].copy_from_slice(body);
        let message = Bytes(buffer.freeze().slice(0..body.len()));
        let digest = content_digest(body);
        let _ = self.replies.to_net.push(ToNet::State(Sent::Long {
            to,
            kind,
            slot,
            digest,
            message,
        }));
    }

    fn tend_transfer(&mut self, now: Instant) -> bool {
        if !self.duties.takeover.is_due(now)
            || !self.shared.started.get()
            || !self.duties.snapshots.has_room(STEPS_PER_TURN)
        {
            return false;
        }
        let (duties, execution) = (&mut self.duties, &mut self.execution);
        let to_net = &mut self.replies.to_net;
        // What finds no room is asked again when it stays unanswered.
        let mut ask = |to, slot, part| {
            let message = PeerMessage::FetchState { slot, part };
            let _ = to_net.push(ToNet::State(Sent::Small { to, message }));
        };
        if let Some(certificate) = duties.takeover.poll(now, execution, &mut ask) {
            let snapshots = &mut duties.snapshots;
            let mut piece = |piece: Piece| snapshots.push(piece);
            duties.saving.taken_over(certificate, execution, &mut piece);
            self.publish_executed();
        }
        true
    }

    fn tend_snapshot(&mut self, now: Instant, spare: bool) -> bool {
        let mut moved = false;
        let (duties, execution) = (&mut self.duties, &mut self.execution);
        while duties.snapshots.has_room(STEPS_PER_TURN)
            && let Some(result) = duties.snapshots.next_answer()
        {
            moved = true;
            let snapshots = &mut duties.snapshots;
            let mut piece = |piece: Piece| snapshots.push(piece);
            let (saving, takeover) = (&mut duties.saving, &mut duties.takeover);
            saving.answered(now, result.is_ok(), execution, takeover, &mut piece);
        }
        if moved {
            self.publish_executed();
        }
        let (duties, execution) = (&mut self.duties, &mut self.execution);
        if spare && duties.snapshots.has_room(STEPS_PER_TURN) {
            let snapshots = &mut duties.snapshots;
            let mut piece = |piece: Piece| snapshots.push(piece);
            let takeover = &mut duties.takeover;
            moved |= duties.saving.turn(now, execution, takeover, &mut piece);
        }
        moved
    }

    /// What came of a snapshot. Only now may the ordering half know of a state that was taken over.
    fn tell_order(&mut self) -> bool {
        let mut moved = false;
        while self.to_order.room() > ORDER_ROOM_MIN
            && let Some(outcome) = self.duties.saving.next_outcome()
        {
            moved = true;
            let shown_from = self.execution.copies_from();
            let saved = |slot| Input::Saved { slot, shown_from };
            let told = match outcome {
                Outcome::Saved(certificate) => [Some(saved(certificate.header.slot())), None],
                Outcome::TakenOver(certificate) => {
                    let slot = certificate.header.slot();
                    let installed = Input::Installed {
                        certificate: Box::new(*certificate),
                        last: self.execution.last_slot(),
                    };
                    [Some(installed), Some(saved(slot))]
                }
                Outcome::Failed => [Some(Input::SaveFailed), None],
            };
            for input in told.into_iter().flatten() {
                if self.to_order.push(input).is_err() {
                    unreachable!("room was checked");
                }
            }
        }
        moved
    }

    fn publish_states(&self) {
        let told = &self.shared.telemetry.transfers;
        let counts = self.duties.takeover.counts();
        told.installed.set(counts.installed);
        told.taken_bytes.set(counts.taken_bytes);
        told.served_bytes.set(counts.served_bytes);
        told.refused.set(counts.refused);
        let progress = self.duties.takeover.progress();
        told.active.set(progress.is_some());
        if let Some(progress) = progress {
            told.slot.set(progress.slot.0);
            told.bytes_differing.set(progress.bytes_differing);
            told.bytes_verified.set(progress.bytes_verified);
        }
    }
}
