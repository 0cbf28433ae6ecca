//! The execution side beside blocks: checkpoints, READs, states that come and go, snapshots.

use consensus::Recipient;
use storage::machine::StateMachine;
use wire::bytes::Buffers;
use wire::header::Kind;
use wire::ids::{Instant, NodeId, Slot, View};
use wire::seal::{Signer, Verifier};
use wire::state::Part;

use super::{Effect, HASH_BYTES, Query, Replica};
use crate::ordering;
use crate::peer::{PeerMessage, content_digest};
use crate::saving::{Outcome, Piece};

/// Buckets whose entries are dropped from memory in one turn, at most.
const EVICTED_BUCKETS: usize = 16;

impl<Bu, S, V, M> Replica<Bu, S, V, M>
where
    Bu: Buffers + Clone,
    S: Signer,
    V: Verifier + Clone,
    M: StateMachine,
{
    /// K1: one slice of the checkpoint under way.
    pub(super) fn hash(&mut self, now: Instant) -> bool {
        let hashing = self.execution.is_hashing();
        if hashing {
            self.execution.work(HASH_BYTES);
        }
        while let Some((slot, root)) = self.execution.take_root() {
            let input = ordering::Input::Root { slot, root };
            self.ordering.handle(now, input);
        }
        hashing
    }

    pub(super) fn answer(
        &mut self,
        now: Instant,
        query: Query<Bu::Shared>,
        out: &mut Vec<Effect<Bu::Shared>>,
    ) {
        match query {
            Query::Resend(client, session, first, count) => {
                let replies = &mut self.replies;
                self.execution
                    .resend(&client, session, first, count, replies);
            }
            Query::Read(client, body) => {
                // §9.6: the fence of now, which is later than the READ's arrival, and above every
                // vote that left: one thread does everything here.
                let fence = self.ordering.core().fence();
                let (reads, replies) = (&mut self.reads, &mut self.replies);
                let execution = &mut self.execution;
                let read = reads.arrive(now, &client, &body, fence, execution, replies);
                self.rejected += u64::from(read.is_err());
            }
            Query::Chunk(from, body) => self.takeover.on_chunk(now, from, &body),
            Query::FetchState(from, slot, part) => self.serve(now, from, slot, part, out),
        }
    }

    /// Answers FETCH-STATE. Nothing is said before START is durable (R4).
    fn serve(
        &mut self,
        now: Instant,
        from: NodeId,
        slot: Slot,
        part: Part,
        out: &mut Vec<Effect<Bu::Shared>>,
    ) {
        let mut chunk = std::mem::take(&mut self.chunk);
        let (takeover, execution) = (&mut self.takeover, &mut self.execution);
        if self.ordering.is_started()
            && let Some(served) = takeover.serve(now, from, (slot, part), execution, &mut chunk)
        {
            self.send_named(from, Kind::Chunk, slot, &chunk, out);
            let elsewhere = served.elsewhere;
            let certificate = elsewhere.and_then(|slot| {
                let copied = self.execution.copy_certificate(Some(slot));
                copied.or_else(|| self.saving.certificate_of(slot))
            });
            if let Some(certificate) = certificate.cloned() {
                let (kind, slot) = (Kind::CheckpointCertificate, certificate.header.slot());
                self.send_named(from, kind, slot, &certificate.encode(), out);
            }
        }
        self.chunk = chunk;
    }

    fn send_named(
        &mut self,
        to: NodeId,
        kind: Kind,
        slot: Slot,
        body: &[u8],
        out: &mut Vec<Effect<Bu::Shared>>,
    ) {
        let name = content_digest(body).prefix();
        self.send_long(to, (kind, View(0), slot, name), body, None, out);
    }

    /// Goes on with a state that is taken over, and with a snapshot. True when something moved.
    pub(super) fn tend_state(&mut self, now: Instant, out: &mut Vec<Effect<Bu::Shared>>) -> bool {
        let mut moved = false;
        if self.takeover.is_due(now) && self.ordering.is_started() {
            let mut asked = Vec::new();
            let (takeover, execution) = (&mut self.takeover, &mut self.execution);
            let mut ask = |to, slot, part| asked.push((to, slot, part));
            if let Some(certificate) = takeover.poll(now, execution, &mut ask) {
                moved = true;
                let mut piece = |piece| out.push(Effect::Snapshot(piece));
                self.saving.taken_over(certificate, execution, &mut piece);
            }
            for (to, slot, part) in asked {
                let message = PeerMessage::FetchState { slot, part };
                self.send_small(Recipient::One(to), &message, out);
            }
        }
        let mut piece = |piece: Piece| out.push(Effect::Snapshot(piece));
        moved |= self
            .saving
            .turn(now, &mut self.execution, &mut self.takeover, &mut piece);
        moved |= self.execution.evict(EVICTED_BUCKETS);
        while let Some(outcome) = self.saving.next_outcome() {
            moved = true;
            let shown_from = self.execution.copies_from();
            let saved = |slot| ordering::Input::Saved { slot, shown_from };
            match outcome {
                Outcome::Saved(certificate) => {
                    self.ordering.handle(now, saved(certificate.header.slot()));
                }
                Outcome::TakenOver(certificate) => {
                    let slot = certificate.header.slot();
                    let installed = ordering::Input::Installed {
                        certificate: Box::new(*certificate),
                        last: self.execution.last_slot(),
                    };
                    self.ordering.handle(now, installed);
                    self.ordering.handle(now, saved(slot));
                }
                Outcome::Failed => self.ordering.handle(now, ordering::Input::SaveFailed),
            }
        }
        moved
    }

    pub(super) fn piece_written(
        &mut self,
        now: Instant,
        succeeded: bool,
        out: &mut Vec<Effect<Bu::Shared>>,
    ) {
        let mut piece = |piece| out.push(Effect::Snapshot(piece));
        let (execution, takeover) = (&mut self.execution, &mut self.takeover);
        self.saving
            .answered(now, succeeded, execution, takeover, &mut piece);
    }

    /// When a transfer or a snapshot needs a turn.
    pub(super) fn state_wake_at(&self) -> Instant {
        let due = [self.takeover.wake_at(), self.saving.wake_at()];
        let due = due.into_iter().flatten().min();
        due.unwrap_or(Instant(u64::MAX))
    }
}
