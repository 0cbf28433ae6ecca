//! Blocks: taken in, written to the log, handed to execution, dropped.

use consensus::{Recipient, RecordAs, Source, Way};
use storage::record::Kind as RecordKind;
use wire::block::BlockView;
use wire::bytes::Buffers;
use wire::canary::planted;
use wire::certificates::Place;
use wire::header::Kind;
use wire::ids::{Instant, NodeId, Slot};
use wire::limits::RECORD_HEADER_BYTES;
use wire::seal::{Signer, Verifier};

use super::{DECIDED_RECORD_EVERY, Ordering, Output};
use crate::blocks::{self, RETAINED_BLOCKS, Raw};
use crate::verifying::Offer;

impl<Bu: Buffers, S: Signer, V: Verifier> Ordering<Bu, S, V> {
    /// A BLOCK takes as many signatures to judge as it has requests, so only one that has a use here
    /// is judged: what nobody asked for costs a look at its header (§9.1).
    pub(super) fn on_offered(&mut self, now: Instant, from: NodeId, raw: Raw<Bu::Unique>) {
        let outcome = BlockView::frame(raw.message()).and_then(|view| {
            let header = &view.prefix.header;
            let digest = header.digest();
            let leads_on = self.judging.admit(now, from, header, digest)?;
            let signature = &view.prefix.signature;
            self.core.would_take(header, signature, digest, leads_on)?;
            let place = self.judging.begin(from, header, digest);
            let named = leads_on || self.core.is_vouched(header.view(), place);
            Ok((place, named && !self.core.knows(place)))
        });
        match outcome {
            Ok((place, vouched)) => self.outputs.push_back(Output::Judge(Offer {
                from,
                place,
                raw,
                vouched,
            })),
            Err(reject) => self.outputs.push_back(Output::Refused(reject)),
        }
    }

    pub(super) fn on_block(
        &mut self,
        now: Instant,
        from: NodeId,
        source: Source,
        raw: Raw<Bu::Unique>,
    ) {
        let (header, signature) = match BlockView::parse(raw.message()) {
            Ok(view) => (view.prefix.header, view.prefix.signature),
            Err(reject) => {
                self.outputs.push_back(Output::Refused(reject));
                return;
            }
        };
        let digest = header.digest();
        let place = Place {
            slot: header.slot(),
            digest,
        };
        self.offered = Some((place, raw));
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

    pub(super) fn hold(&mut self, place: Place) {
        if let Some((offered, raw)) = self.offered.take() {
            assert_eq!(offered, place);
            self.blocks.keep_raw(place, raw);
        }
    }

    pub(super) fn forget(&mut self, place: Place) {
        self.blocks.forget(place);
        self.deferred.retain(|(deferred, ..)| *deferred != place);
    }

    /// R2: the block record is the vote record. A block that finds no room in the log waits, and
    /// all that follow it: the core links several at once when a missing one arrives.
    pub(super) fn append(&mut self, now: Instant, place: Place, kind: RecordAs, verify: bool) {
        let raw = match self.offered.take() {
            Some((offered, raw)) if offered == place => Some(raw),
            other => {
                self.offered = other;
                None
            }
        };
        if let Some(raw) = raw {
            self.blocks.keep_raw(place, raw);
        }
        self.deferred.push_back((place, kind, verify));
        let first = self.deferred.len() == 1 && self.unwritten.is_empty();
        if first {
            self.deferred.pop_front();
            if !self.append_kept(now, place, kind, verify) {
                self.deferred.push_front((place, kind, verify));
            }
        }
    }

    pub(super) fn append_deferred(&mut self, now: Instant) {
        while self.unwritten.is_empty()
            && let Some((place, kind, verify)) = self.deferred.pop_front()
        {
            if !self.append_kept(now, place, kind, verify) {
                self.deferred.push_front((place, kind, verify));
                return;
            }
            self.carry_out_all(now);
        }
        self.feed_execution();
    }

    /// Writes a block whose bytes are here; false when it must wait, for room in the log or for a
    /// buffer. A block that was written as fetched is copied to be written again as a vote.
    fn append_kept(&mut self, now: Instant, place: Place, kind: RecordAs, verify: bool) -> bool {
        let Some(bytes) = self.blocks.message_bytes(place) else {
            // Forgotten while it waited.
            return true;
        };
        if self.writer.fits(RecordKind::Block, bytes).is_err() {
            return false;
        }
        let raw = match self.blocks.take_raw(place) {
            Some(raw) => raw,
            None => {
                let Some(mut buffer) = self.block_buffers.take() else {
                    return false;
                };
                let message = self.blocks.get(place).expect("it has a length");
                buffer[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + bytes].copy_from_slice(message);
                Raw {
                    buffer,
                    message_bytes: bytes,
                }
            }
        };
        self.append_raw(now, place, kind, verify, raw);
        true
    }

    /// The leader's PROPOSE leaves before its own flush.
    fn append_raw(
        &mut self,
        now: Instant,
        place: Place,
        kind: RecordAs,
        verify: bool,
        raw: Raw<Bu::Unique>,
    ) {
        let message_bytes = raw.message_bytes;
        let record = match kind {
            RecordAs::Vote => RecordKind::Block,
            RecordAs::Fetched => RecordKind::FetchedBlock,
        };
        let sealed = self
            .writer
            .seal(record, raw.buffer, message_bytes)
            .expect("room was checked before the block was taken");
        let message = blocks::message_of(&sealed, message_bytes);
        let location = (sealed.start, sealed.sectors);
        self.ledger.appended(sealed.start, place.slot);
        let Place { slot, digest } = place;
        if slot <= self.core.summary().decided && self.core.digest_at(slot) == Some(digest) {
            self.ledger.note(slot, location.0, location.1);
        }
        self.blocks.keep(place, message.clone(), location);
        let own = self
            .proposed_at
            .back()
            .is_some_and(|(proposed, _)| *proposed == slot);
        if own && !verify && kind == RecordAs::Vote {
            let view = self.core.summary().view;
            self.outputs.push_back(Output::SendLong {
                to: Recipient::All,
                kind: Kind::Propose,
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
            self.outputs.push_back(Output::Verify { place, message });
        }
        self.drive_nested(now, consensus::Input::Appended { place, end });
    }

    pub(super) fn on_final(&mut self, now: Instant, place: Place, way: Way) {
        let first = self.decided_counted.next();
        let count = place.slot.0 - self.decided_counted.0;
        self.decided_counted = place.slot;
        match way {
            Way::Fast => self.counts.fast_blocks += count,
            Way::Slow => self.counts.slow_blocks += count,
            Way::Learned => self.counts.learned_blocks += count,
        }
        for slot in (first.0..=place.slot.0).map(Slot) {
            let Some(digest) = self.core.digest_at(slot) else {
                continue;
            };
            let place = Place { slot, digest };
            if let Some((start, sectors)) = self.blocks.location(place) {
                self.ledger.note(slot, start, sectors);
                if self.core.is_signed(place) {
                    self.ledger.note_signed(slot, true);
                }
            }
        }
        self.feed_execution();
        while let Some(&(proposed, at)) = self.proposed_at.front()
            && proposed <= place.slot
        {
            self.proposed_at.pop_front();
            if self.decide_samples.len() < self.decide_samples.capacity() {
                self.decide_samples.push_back(now.since_ns(at));
            }
        }
        // Never ahead of the blocks themselves: a restart looks for the decided block below its
        // record, and blocks that found no room are not in the log yet.
        let due = place.slot.0 >= self.decided_recorded.0 + DECIDED_RECORD_EVERY;
        if due && (self.deferred.is_empty() || planted("decidedahead")) {
            self.record_decided();
        }
    }

    /// Hands decided blocks on, in order, as far as their records were sealed. The core may have decided
    /// more, whose blocks are among the effects that are not carried out yet.
    pub(super) fn feed_execution(&mut self) {
        while self.executed_fed < self.decided_counted {
            let slot = self.executed_fed.next();
            let digest = self.core.digest_at(slot);
            let place = digest.map(|digest| Place { slot, digest });
            let Some(message) = place.and_then(|place| self.blocks.get(place)).cloned() else {
                assert!(!self.deferred.is_empty(), "decided blocks are held");
                return;
            };
            self.outputs.push_back(Output::Execute { slot, message });
            self.executed_fed = slot;
        }
    }

    /// Drops the bytes of blocks that were executed long enough ago.
    pub(super) fn release_executed(&mut self, executed: Slot) {
        let first = self.settled.next();
        self.settle_pending(first, executed);
        self.settled = self.settled.max(executed);
        let before = self.released.0;
        // What waits for room in the log is not in it, executed elsewhere or not.
        let waiting = self.deferred.iter().map(|(place, ..)| place.slot.0 - 1);
        let until = executed.0.saturating_sub(RETAINED_BLOCKS);
        let until = waiting.fold(until, u64::min);
        for slot in before + 1..=until {
            self.blocks.forget_slot(Slot(slot));
        }
        self.released = Slot(until.max(before));
    }
}
