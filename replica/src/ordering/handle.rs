//! Inputs in, effects of the core carried out.

use consensus::{Effect, Evidence, Recipient, Source};
use storage::record::Kind as RecordKind;
use wire::block::{BlockPrefix, BlockRef, BlockView};
use wire::bytes::Buffers;
use wire::ids::{Digest, Instant, NodeId, Position, Signature, Slot};
use wire::limits::{
    BLOCK_MESSAGE_BYTES_MAX, BLOCK_PREFIX_BYTES, EAGER_BLOCKS, IN_FLIGHT, RECORD_HEADER_BYTES,
    SECTOR_BYTES,
};
use wire::messages::EvidenceBody;
use wire::request::RequestView;
use wire::seal::{Signer, Statement, Verified, Verifier};
use zerocopy::IntoBytes;

use super::{COMMIT_RECORD_EVERY, Input, Ordering, Output};
use crate::blocks::{self, RETAINED_BLOCKS, Raw};
use crate::peer::PeerMessage;

impl<Bu: Buffers, S: Signer, V: Verifier> Ordering<Bu, S, V> {
    /// Takes one input in; what follows from it waits in [`Ordering::next_output`].
    pub fn handle(&mut self, now: Instant, input: Input<Bu>) {
        match input {
            Input::Request(request) => self.on_request(now, request),
            Input::Proposed { from, raw } => self.on_block(now, from, Source::Proposed, raw),
            Input::Fetched { from, raw } => {
                self.on_block(now, from, Source::Fetched, raw.into_inner());
            }
            Input::Checked {
                slot,
                digest,
                valid,
            } => {
                self.drive(
                    now,
                    consensus::Input::Checked {
                        slot,
                        digest,
                        valid,
                    },
                );
            }
            Input::Peer { from, message } => self.on_peer(now, from, message),
            Input::Durable(durable) => {
                self.writer.acknowledge(durable);
                self.durable = durable.position();
                if self.started_at.is_some_and(|end| durable.covers(end)) {
                    self.started_at = None;
                }
                self.drive(
                    now,
                    consensus::Input::Durable {
                        position: durable.position(),
                    },
                );
            }
            Input::Executed(slot) => {
                self.release_executed(slot);
                self.drive(now, consensus::Input::Executed { slot });
            }
            Input::Record { read, record } => self.on_record(read, &record),
            Input::ReadDropped => self.reads -= 1,
            Input::Granted { segments } => self.writer.grant(segments),
            Input::Tick => self.drive(now, consensus::Input::Tick),
        }
        self.append_deferred(now);
        self.note_log_room();
        self.propose_if_due(now);
    }

    /// Blocks of any size must fit, or none is taken: so nothing is half accepted.
    fn note_log_room(&mut self) {
        let fits = self.writer.fits(RecordKind::Block, BLOCK_MESSAGE_BYTES_MAX);
        self.log_full = fits.err();
        self.core
            .set_log_full(self.log_full.is_some() || !self.deferred.is_empty());
    }

    fn drive(&mut self, now: Instant, input: consensus::Input) {
        self.core.handle(now, input, &mut self.outbox);
        self.carry_out_all(now);
    }

    fn carry_out_all(&mut self, now: Instant) {
        // Effects are carried out after the core has finished; carrying one out may feed it again.
        while !self.outbox.is_empty() {
            let spare = self
                .spare_outbox
                .take()
                .expect("effects are carried out in one place");
            let mut effects = std::mem::replace(&mut self.outbox, spare);
            for effect in effects.drain() {
                self.carry_out(now, effect);
            }
            self.spare_outbox = Some(effects);
        }
    }

    fn on_request(&mut self, now: Instant, request: Verified<Bu::Shared>) {
        let bytes = request.into_inner();
        let Ok(view) = RequestView::parse(&bytes) else {
            return;
        };
        let (client, first) = (*view.client(), view.first_sequence());
        let signature = *view.signature();
        if !self.leads() {
            self.outputs.push_back(Output::Busy {
                client,
                first,
                log_full: self.log_full.is_some(),
            });
            self.counts.busy += 1;
            return;
        }
        // A repeated OPEN is ordered again: it changes nothing and is answered by all replicas.
        if !view.is_open() && self.seen.note(&signature) {
            self.counts.duplicates += 1;
            self.outputs.push_back(Output::Resend {
                client,
                session: view.session(),
                first,
                count: view.count() as u16,
            });
            return;
        }
        if !self.batch.push(now, bytes, &mut self.block_buffers) {
            self.seen.forget(&signature);
            self.counts.busy += 1;
            self.outputs.push_back(Output::Busy {
                client,
                first,
                log_full: false,
            });
        }
    }

    /// N1: sends when no own block is undecided (`EAGER_BLOCKS`) and no request is about to come out
    /// of verification, when a block is full, or when the oldest request has waited for tau.
    fn propose_if_due(&mut self, now: Instant) {
        if !self.is_started() {
            return;
        }
        while let Some((slot, parent)) = self.core.proposal_parent() {
            // Requests wait without an open block when no buffer was free for one.
            self.batch.refill(&mut self.block_buffers);
            let eager = self.core.undecided() < EAGER_BLOCKS && !self.more_expected;
            if !self.batch.due(now, eager) {
                return;
            }
            let Some(closed) = self.batch.close(&mut self.block_buffers) else {
                return;
            };
            let summary = self.core.summary();
            let time_ns = now.0.saturating_add(self.config.wall_offset_ns);
            let header = closed.header(self.config.epoch, summary.view, slot, time_ns, parent);
            let digest = header.digest();
            let signature = self.signer.sign(&Statement::Propose {
                view: summary.view,
                slot,
                digest,
            });
            self.offered = Some((slot, closed.seal(header, signature)));
            self.counts.proposed_blocks += 1;
            if self.proposed_at.len() < 2 * IN_FLIGHT as usize {
                self.proposed_at.push_back((slot, now));
            }
            self.drive(
                now,
                consensus::Input::Own {
                    header,
                    signature,
                    digest,
                },
            );
            self.note_log_room();
        }
    }

    fn on_block(&mut self, now: Instant, from: NodeId, source: Source, raw: Raw<Bu::Unique>) {
        let (header, signature) = match BlockView::parse(raw.message()) {
            Ok(view) => (view.prefix.header, view.prefix.signature),
            Err(reject) => {
                self.outputs.push_back(Output::Refused(reject));
                return;
            }
        };
        self.offered = Some((header.slot(), raw));
        let digest = header.digest();
        self.drive(
            now,
            consensus::Input::Block {
                from,
                source,
                header,
                signature,
                digest,
            },
        );
        self.offered = None;
    }

    fn on_peer(&mut self, now: Instant, from: NodeId, message: PeerMessage) {
        self.asked = None;
        let input = match message {
            PeerMessage::Vote { vote, .. } => consensus::Input::Vote { from, vote },
            PeerMessage::Decided { slot, digest } => {
                consensus::Input::Decided { from, slot, digest }
            }
            PeerMessage::Status { view, status } => consensus::Input::Status { from, view, status },
            PeerMessage::FetchBlock {
                slot,
                digest,
                have,
                grains,
            } => {
                self.asked = grains;
                let grains = grains.is_some();
                consensus::Input::FetchBlock {
                    from,
                    slot,
                    digest,
                    have,
                    grains,
                }
            }
            PeerMessage::FetchRange { first, count } => {
                consensus::Input::FetchRange { from, first, count }
            }
        };
        self.drive(now, input);
    }

    fn carry_out(&mut self, now: Instant, effect: Effect) {
        match effect {
            Effect::Append {
                slot,
                digest,
                verify,
            } => self.append(now, slot, digest, verify),
            Effect::Hold { slot, .. } => {
                if let Some((offered, raw)) = self.offered.take() {
                    assert_eq!(offered, slot);
                    self.blocks.keep_raw(slot, raw);
                }
            }
            Effect::Refuse { reject, .. } => self.outputs.push_back(Output::Refused(reject)),
            Effect::Forget { slot } => {
                self.blocks.forget(slot);
                self.deferred.retain(|(deferred, ..)| *deferred != slot);
            }
            Effect::Vote { to, vote } => {
                let signature = self.vote_signature(vote);
                self.send(to, PeerMessage::Vote { vote, signature });
            }
            Effect::Status { to, status } => {
                let view = status.installed;
                self.send(to, PeerMessage::Status { view, status });
            }
            Effect::Decided { to, slot } => self.send_decided(to, slot),
            Effect::FetchBlock {
                to,
                slot,
                digest,
                have,
            } => {
                let message = PeerMessage::FetchBlock {
                    slot,
                    digest,
                    have,
                    grains: None,
                };
                self.send(Recipient::One(to), message);
            }
            Effect::FetchRange { to, first, count } => {
                self.send(Recipient::One(to), PeerMessage::FetchRange { first, count });
            }
            Effect::Blocks {
                to,
                first,
                last,
                newest_first,
            } => {
                self.send_blocks(to, first, last, newest_first);
            }
            Effect::Grains { to, slot } => self.send_block(to, slot, true),
            Effect::Final { slot, digest, fast } => self.on_final(now, slot, digest, fast),
            Effect::Evidence(evidence) => self.on_evidence(evidence),
        }
    }

    /// A message of this replica; nothing leaves before START is durable (R4).
    pub(super) fn send(&mut self, to: Recipient, message: PeerMessage) {
        if self.is_started() {
            self.outputs.push_back(Output::Send { to, message });
        }
    }

    /// R2: the block record is the vote record. A block that finds no room in the log waits, and
    /// all that follow it: the core links several at once when a missing one arrives.
    fn append(&mut self, now: Instant, slot: Slot, digest: Digest, verify: bool) {
        let raw = match self.offered.take() {
            Some((offered, raw)) if offered == slot => raw,
            other => {
                self.offered = other;
                self.blocks
                    .take_raw(slot)
                    .expect("a held block has its bytes")
            }
        };
        let fits = self
            .writer
            .fits(RecordKind::Block, raw.message_bytes)
            .is_ok();
        if fits && self.deferred.is_empty() {
            self.append_raw(now, slot, digest, verify, raw);
        } else {
            self.blocks.keep_raw(slot, raw);
            self.deferred.push_back((slot, digest, verify));
        }
    }

    fn append_deferred(&mut self, now: Instant) {
        while let Some(&(slot, digest, verify)) = self.deferred.front() {
            if let Some(raw) = self.blocks.take_raw(slot) {
                if self
                    .writer
                    .fits(RecordKind::Block, raw.message_bytes)
                    .is_err()
                {
                    self.blocks.keep_raw(slot, raw);
                    return;
                }
                self.append_raw(now, slot, digest, verify, raw);
                self.carry_out_all(now);
            }
            self.deferred.pop_front();
        }
        self.feed_execution();
    }

    /// The leader's PROPOSE leaves before its own flush.
    fn append_raw(
        &mut self,
        now: Instant,
        slot: Slot,
        digest: Digest,
        verify: bool,
        raw: Raw<Bu::Unique>,
    ) {
        let message_bytes = raw.message_bytes;
        let sealed = self
            .writer
            .seal(RecordKind::Block, raw.buffer, message_bytes)
            .expect("room was checked before the block was taken");
        let message = blocks::message_of(&sealed, message_bytes);
        self.ledger.note(slot, sealed.start, sealed.sectors);
        self.blocks.keep(slot, message.clone());
        let own = self.core.summary().leader == self.config.me && !verify;
        if own
            && self
                .proposed_at
                .back()
                .is_some_and(|(proposed, _)| *proposed == slot)
        {
            let view = self.core.summary().view;
            self.outputs.push_back(Output::SendBlock {
                to: Recipient::All,
                propose: true,
                view,
                slot,
                digest,
                message: message.clone(),
                grains: None,
            });
        }
        let end = sealed.end;
        self.outputs.push_back(Output::Append(sealed));
        if verify {
            self.outputs.push_back(Output::Verify {
                slot,
                digest,
                message,
            });
        }
        self.drive_nested(now, consensus::Input::Appended { slot, end });
    }

    /// Feeds the core while its effects are being carried out; they follow in the same round.
    fn drive_nested(&mut self, now: Instant, input: consensus::Input) {
        self.core.handle(now, input, &mut self.outbox);
    }

    fn vote_signature(&mut self, vote: BlockRef) -> Signature {
        if let Some((signed, signature)) = self.signed_vote
            && signed == vote
        {
            return signature;
        }
        let BlockRef { view, slot, digest } = vote;
        let signature = self.signer.sign(&Statement::Vote { view, slot, digest });
        self.signed_vote = Some((vote, signature));
        signature
    }

    fn on_final(&mut self, now: Instant, slot: Slot, digest: Digest, fast: bool) {
        let blocks = slot.0 - self.decided_counted.0;
        self.decided_counted = slot;
        if fast {
            self.counts.fast_blocks += blocks;
        } else {
            self.counts.learned_blocks += blocks;
        }
        self.feed_execution();
        while let Some(&(proposed, at)) = self.proposed_at.front()
            && proposed <= slot
        {
            self.proposed_at.pop_front();
            if self.decide_samples.len() < self.decide_samples.capacity() {
                self.decide_samples.push_back(now.since_ns(at));
            }
        }
        // Never ahead of the blocks themselves: a restart looks for the decided block below its
        // record, and blocks that found no room are not in the log yet.
        let due = slot.0 >= self.commit_recorded.0 + COMMIT_RECORD_EVERY;
        if due && self.deferred.is_empty() {
            let body = crate::recovery::CommitRecord::new(slot, digest);
            if self.record(RecordKind::Commit, body.as_bytes()).is_some() {
                self.commit_recorded = slot;
            }
        }
    }

    /// Hands decided blocks on, in order, as far as their records were sealed.
    fn feed_execution(&mut self) {
        let decided = self.core.summary().decided;
        while self.executed_fed < decided {
            let slot = self.executed_fed.next();
            let Some(message) = self.blocks.get(slot).cloned() else {
                assert!(!self.deferred.is_empty(), "decided blocks are held");
                return;
            };
            self.outputs.push_back(Output::Execute { slot, message });
            self.executed_fed = slot;
        }
    }

    /// Drops the bytes of blocks that were executed long enough ago.
    fn release_executed(&mut self, executed: Slot) {
        let before = self.released.0;
        let until = executed.0.saturating_sub(RETAINED_BLOCKS);
        for slot in before + 1..=until {
            self.blocks.forget(Slot(slot));
        }
        self.released = Slot(until.max(before));
    }

    /// Seals a small record and hands it to the journal; `None` when the log or the sector pool
    /// has no room.
    pub(super) fn record(&mut self, kind: RecordKind, body: &[u8]) -> Option<Position> {
        self.writer.fits(kind, body.len()).ok()?;
        let mut buffer = self.sector_buffers.take()?;
        assert!(RECORD_HEADER_BYTES + body.len() <= SECTOR_BYTES);
        buffer[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + body.len()].copy_from_slice(body);
        let sealed = self.writer.seal(kind, buffer, body.len()).ok()?;
        let end = sealed.end;
        self.outputs.push_back(Output::Append(sealed));
        Some(end)
    }

    /// N9, E1: verifies both signatures, checks that they contradict each other, and stores them.
    /// The wish for another view follows when views can change.
    fn on_evidence(&mut self, evidence: Evidence) {
        let signed_by_leader = [&evidence.first, &evidence.second]
            .into_iter()
            .all(|signed| {
                let header = &signed.header;
                let statement = Statement::Propose {
                    view: header.view(),
                    slot: header.slot(),
                    digest: header.digest(),
                };
                let leader = self.core.leader(header.view());
                self.verifier
                    .member(leader, &statement, &signed.signature)
                    .is_ok()
            });
        if !signed_by_leader || !evidence.is_proof() {
            return;
        }
        let body = EvidenceBody::new(evidence.kind, evidence.first, evidence.second);
        if self.record(RecordKind::Evidence, body.as_bytes()).is_some() {
            self.counts.evidence += 1;
            self.core.evidence_stored();
        }
    }
}

const _: () = assert!(BLOCK_PREFIX_BYTES >= size_of::<BlockPrefix>());
