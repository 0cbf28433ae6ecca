//! Inputs in, effects of the core carried out.

use std::sync::Arc;

use consensus::{Effect, Evidence, Recipient, Source};
use storage::record::Kind as RecordKind;
use wire::bytes::Buffers;
use wire::canary::{planted, reach};
use wire::certificates::{CheckpointCertificate, Place};
use wire::header::Kind;
use wire::ids::{Digest, Instant, NodeId, SessionId, Slot, View};
use wire::limits::{BLOCK_MESSAGE_BYTES_MAX, EVIDENCE_MAX, IN_FLIGHT};
use wire::messages::{EVIDENCE_INVALID_PAYLOAD, EvidenceBody, Held};
use wire::seal::{Signer, Statement, Verifier};
use zerocopy::IntoBytes;

use super::{Input, Ordering, Output};
use crate::peer::PeerMessage;

/// With fewer free block buffers, rivals of needed blocks are dropped: room for what is under
/// reassembly.
pub const SCARCE_BUFFERS: usize = 2 * IN_FLIGHT as usize;
/// Looking for rivals walks the chains of all slots.
const RIVALS_PAUSE_NS: u64 = 10_000_000;

impl<Bu: Buffers, S: Signer, V: Verifier> Ordering<Bu, S, V> {
    /// Takes one input in; what follows from it waits in [`Ordering::next_output`].
    pub fn handle(&mut self, now: Instant, input: Input<Bu>) {
        if self.stopped {
            // The marker of a clean stop is the last record: whatever would come behind it, a vote
            // within the lease above all, is not covered by it (R3).
            if let Input::Durable(durable) = input {
                self.writer.acknowledge(durable);
                self.durable = durable.position();
            }
            return;
        }
        match input {
            Input::Request(request) => self.on_request(now, request, None),
            Input::Forwarded { from, request } => self.on_request(now, request, Some(from)),
            Input::Proposed { from, raw } => self.on_block(now, from, Source::Proposed, raw),
            Input::Offered { from, raw } => self.on_offered(now, from, raw),
            Input::Unfit {
                from,
                place,
                checks,
                unsound,
            } => {
                self.judging.unfit(from, place, checks);
                if let Some(signed) = unsound {
                    self.drive(now, consensus::Input::Unsound { signed });
                }
            }
            Input::Fetched {
                from,
                place,
                raw,
                unsigned,
            } => {
                self.judging.fit(from, place);
                let source = match unsigned {
                    None => Source::Fetched,
                    Some(_) => Source::Vouched,
                };
                self.on_block(now, from, source, raw.into_inner());
                if let Some(checks) = unsigned
                    && !self.core.is_valid(place)
                {
                    self.judging.useless(from, checks);
                }
            }
            Input::Agreement(input) => {
                if let consensus::Input::CheckpointCertificate(found) = &input {
                    self.on_certificate(found);
                }
                self.drive(now, input);
            }
            Input::Evidence(body) => self.on_evidence_of_others(now, &body),
            Input::Peer { from, message } => self.on_peer(now, from, message),
            Input::Durable(durable) => {
                self.writer.acknowledge(durable);
                self.durable = durable.position();
                if self.started_at.is_some_and(|end| durable.covers(end)) {
                    self.started_at = None;
                    self.core.set_started(true);
                }
                self.drive(
                    now,
                    consensus::Input::Durable {
                        position: durable.position(),
                    },
                );
            }
            Input::Executed { slot, work } => {
                self.core.note_executed(work.bytes, work.operations);
                if work.opened {
                    self.pending.opened(now);
                }
                self.note_last(work.last);
                // Blocks that were on their way when a state above them was taken over.
                let slot = slot.max(self.core.summary().executed);
                self.release_executed(slot);
                self.drive(now, consensus::Input::Executed { slot });
            }
            Input::Root { slot, root } => self.drive(now, consensus::Input::Root { slot, root }),
            Input::Rechecked { question, waits } => {
                // §9.3: every replica answers a repeated OPEN; a leader that ignores the client
                // would otherwise keep it out for ever.
                if self.pending.rechecked(now, &question, waits) {
                    self.outputs.push_back(Output::Resend {
                        client: question.client,
                        session: SessionId(0),
                        first: question.first,
                        count: 0,
                    });
                }
            }
            Input::Installed { certificate, last } => {
                self.note_last(last);
                self.on_installed(now, &certificate);
                self.drive(now, consensus::Input::Installed { certificate });
            }
            Input::Saved { slot, shown_from } => self.on_saved(slot, shown_from),
            Input::SaveFailed => self.on_save_failed(now),
            Input::Record { read, record } => self.on_record(read, &record),
            Input::ReadDropped => self.reads -= 1,
            Input::Granted { segments } => self.writer.grant(segments),
            Input::Tick => self.drive(now, consensus::Input::Tick),
        }
        if self.batch.depth() > 0 && !self.may_propose() && !planted("holdswaiting") {
            // Nobody orders them here any more, and they hold buffers that messages of the view
            // change need. Followers have them as well, and clients repeat themselves.
            self.batch.clear();
            self.seen.clear();
        }
        self.write_waiting(now);
        self.append_deferred(now);
        self.tend_buffers(now);
        self.tend_epoch(now);
        self.tend_log(now);
        self.note_log_room();
        self.tend_pending(now);
        self.tend_padding(now);
        self.propose_if_due(now);
    }

    /// Whoever runs out of block buffers takes no block in, and none of a view change either.
    fn tend_buffers(&mut self, now: Instant) {
        if self.block_buffers.free() >= SCARCE_BUFFERS
            || now < self.rivals_forgotten_at.after_ns(RIVALS_PAUSE_NS)
        {
            return;
        }
        self.rivals_forgotten_at = now;
        self.core.forget_rivals(&mut self.outbox);
        self.carry_out_all(now);
    }

    /// Certificates of old checkpoints change nothing here; a transfer may want one.
    fn on_certificate(&mut self, found: &CheckpointCertificate) {
        let executed = self.core.summary().executed;
        if self.core.is_transferring() && found.header.slot() > executed {
            self.outputs.push_back(Output::Offered(Arc::new(*found)));
        }
    }

    /// Blocks of any size must fit, or none is taken: so nothing is half accepted.
    pub(super) fn note_log_room(&mut self) {
        let fits = self.writer.fits(RecordKind::Block, BLOCK_MESSAGE_BYTES_MAX);
        if fits.is_err() && self.log_full.is_none() {
            reach("log-full");
        }
        self.log_full = fits.err();
        self.core
            .set_log_full(self.log_full.is_some() || !self.deferred.is_empty());
    }

    pub(super) fn drive(&mut self, now: Instant, input: consensus::Input) {
        self.core.handle(now, input, &mut self.outbox);
        self.carry_out_all(now);
    }

    pub(super) fn carry_out_all(&mut self, now: Instant) {
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

    /// Feeds the core while its effects are being carried out; they follow in the same round.
    pub(super) fn drive_nested(&mut self, now: Instant, input: consensus::Input) {
        self.core.handle(now, input, &mut self.outbox);
    }

    fn on_peer(&mut self, now: Instant, from: NodeId, message: PeerMessage) {
        self.asked = None;
        let input = match message {
            PeerMessage::Vote { vote, signature } => consensus::Input::Vote {
                from,
                vote,
                signature,
            },
            PeerMessage::Decided { slot, digest } => {
                consensus::Input::Decided { from, slot, digest }
            }
            PeerMessage::Status(status) => {
                if let Some(held) = &status.held {
                    self.check_held(from, held);
                }
                consensus::Input::Status { from, status }
            }
            PeerMessage::Silent { lease, .. } => consensus::Input::Silent { from, lease },
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
                    place: Place { slot, digest },
                    have,
                    grains,
                }
            }
            PeerMessage::FetchRange { first, count } => {
                consensus::Input::FetchRange { from, first, count }
            }
            PeerMessage::FetchViewChange { digest } => {
                consensus::Input::FetchViewChange { from, digest }
            }
            // Comes through verification only; is for the execution half.
            PeerMessage::Signed { .. } | PeerMessage::FetchState { .. } => return,
        };
        self.drive(now, input);
    }

    /// R6: with its own signature on something that its log does not know a replica ends.
    fn check_held(&mut self, from: NodeId, held: &Held) {
        if self.recalls_left[from.index()] == 0 || !self.core.is_beyond_log(&held.statement) {
            return;
        }
        self.recalls_left[from.index()] -= 1;
        let (me, statement) = (self.config.me, &held.statement);
        let own = self.verifier.member(me, statement, &held.signature);
        if own.is_ok() && !self.disk_lost {
            reach("own-word-found");
            self.disk_lost = true;
            self.outputs.push_back(Output::DiskLost(held.statement));
        }
    }

    fn carry_out(&mut self, now: Instant, effect: Effect) {
        match effect {
            Effect::Append {
                place,
                kind,
                verify,
            } => self.append(now, place, kind, verify),
            Effect::Hold { place } => self.hold(place),
            Effect::Refuse { reject, .. } => self.outputs.push_back(Output::Refused(reject)),
            Effect::Forget { place } => self.forget(place),
            Effect::Record(record) => self.write(now, record),
            Effect::Say { to, signed } => self.send(to, signed.into()),
            Effect::Tell { to, message } => self.tell(to, &message),
            Effect::Status { to, status } => self.send(to, PeerMessage::Status(status)),
            Effect::Silent { lease } => {
                let boot = self.config.boot;
                self.send(Recipient::All, PeerMessage::Silent { boot, lease });
            }
            Effect::Decided { to, slot } => self.send_decided(to, slot),
            Effect::FetchBlock { to, place, have } => {
                let Place { slot, digest } = place;
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
            Effect::FetchViewChange { to, digest } => {
                self.send(Recipient::One(to), PeerMessage::FetchViewChange { digest });
            }
            Effect::Ancestors { to, place, have } => self.send_ancestors(to, place, have),
            Effect::Blocks { to, first, last } => self.send_blocks(to, first, last),
            Effect::Grains { to, place } => self.send_grains(to, place),
            Effect::Final { place, way } => self.on_final(now, place, way),
            Effect::Installed { .. } => self.on_view(now),
            Effect::Evidence(evidence) => self.on_own_evidence(now, evidence),
            Effect::Stable { slot } => {
                self.outputs.push_back(Output::Stable(slot));
                let newest = self.core.checkpoint();
                if let Some(newest) = newest.filter(|newest| newest.header.slot() == slot) {
                    self.outputs.push_back(Output::Certified(newest.clone()));
                }
            }
            Effect::Transfer(certificate) => self.outputs.push_back(Output::Transfer(certificate)),
            Effect::Diverged {
                slot,
                own,
                certified,
            } => {
                self.restate_due = true;
                self.outputs.push_back(Output::Diverged {
                    slot,
                    own,
                    certified,
                });
            }
        }
    }

    /// A message of this replica; nothing leaves before START is durable (R4).
    pub(super) fn send(&mut self, to: Recipient, message: PeerMessage) {
        if self.is_started() {
            self.outputs.push_back(Output::Send { to, message });
        }
    }

    /// N9, E1: verifies both signatures, checks that they contradict each other, stores them, and
    /// shows them to everyone.
    fn on_own_evidence(&mut self, now: Instant, evidence: Evidence) {
        if !self.evidence_is_news(evidence.first.header.view()) {
            return;
        }
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
        if signed_by_leader && evidence.is_proof() {
            let body = EvidenceBody::new(evidence.kind, evidence.first, evidence.second);
            self.keep_evidence(now, &body);
        }
    }

    /// Evidence whose signatures were verified.
    fn on_evidence_of_others(&mut self, now: Instant, body: &EvidenceBody) {
        let evidence = Evidence {
            kind: body.kind,
            first: body.first,
            second: body.second,
        };
        // An invalid payload is judged where the block is.
        if evidence.kind != EVIDENCE_INVALID_PAYLOAD && evidence.is_proof() {
            self.keep_evidence(now, body);
        }
    }

    /// Whether evidence against the leader of this view would change anything.
    fn evidence_is_news(&self, view: View) -> bool {
        let summary = self.core.summary();
        let current = (summary.view..=summary.stage).contains(&view);
        current && self.evidence_in.is_none_or(|known| known < view)
    }

    fn keep_evidence(&mut self, now: Instant, body: &EvidenceBody) {
        let view: View = body.first.header.view();
        if !self.evidence_is_news(view) {
            return;
        }
        // It has its effect in any case; what is kept for others is bounded (§11).
        if self.counts.evidence < EVIDENCE_MAX as u64
            && self.record(RecordKind::Evidence, body.as_bytes()).is_some()
        {
            reach("evidence-stored");
            self.counts.evidence += 1;
        }
        self.evidence_in = Some(view);
        if body.kind != EVIDENCE_INVALID_PAYLOAD {
            let bytes = body.as_bytes();
            let name = Digest(*blake3::hash(bytes).as_bytes());
            let all = Recipient::All;
            self.send_long(all, Kind::Evidence, view, Slot(0), name, bytes);
        }
        self.drive_nested(now, consensus::Input::Evidence { view });
    }
}
