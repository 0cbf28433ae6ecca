//! Blocks: taken in, written to the log, handed to execution, dropped.

use consensus::{Recipient, RecordAs, Source, Way};
use storage::record::Kind as RecordKind;
use wire::block::BlockView;
use wire::bytes::Buffers;
use wire::certificates::Place;
use wire::header::Kind;
use wire::ids::{Instant, NodeId, Slot};
use wire::limits::RECORD_HEADER_BYTES;
use wire::seal::{Signer, Verifier};
use zerocopy::IntoBytes;

use super::{DECIDED_RECORD_EVERY, Ordering, Output};
use crate::blocks::{self, RETAINED_BLOCKS, Raw};

impl<Bu: Buffers, S: Signer, V: Verifier> Ordering<Bu, S, V> {
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
            Some((offered, raw)) if offered == place => raw,
            other => {
                self.offered = other;
                match self.raw_of(place) {
                    Some(raw) => raw,
                    None => {
                        assert!(self.blocks.holds(place), "a held block has its bytes");
                        return self.deferred.push_back((place, kind, verify));
                    }
                }
            }
        };
        let fits = self
            .writer
            .fits(RecordKind::Block, raw.message_bytes)
            .is_ok();
        if fits && self.deferred.is_empty() {
            self.append_raw(now, place, kind, verify, raw);
        } else {
            self.keep_back(place, raw);
            self.deferred.push_back((place, kind, verify));
        }
    }

    /// The bytes of a block to be written: those held, or, for one that lies in the log as fetched
    /// and now becomes a vote, a copy. `None` when no buffer is free for that.
    fn raw_of(&mut self, place: Place) -> Option<Raw<Bu::Unique>> {
        if let Some(raw) = self.blocks.take_raw(place) {
            return Some(raw);
        }
        let message = self.blocks.get(place)?;
        let mut buffer = self.block_buffers.take()?;
        let range = RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + message.len();
        buffer[range].copy_from_slice(message);
        Some(Raw {
            buffer,
            message_bytes: message.len(),
        })
    }

    /// Keeps bytes that found no room in the log; a copy of what lies there already is dropped.
    fn keep_back(&mut self, place: Place, raw: Raw<Bu::Unique>) {
        if self.blocks.get(place).is_none() {
            self.blocks.keep_raw(place, raw);
        }
    }

    pub(super) fn append_deferred(&mut self, now: Instant) {
        while let Some(&(place, kind, verify)) = self.deferred.front() {
            if !self.blocks.holds(place) {
                self.deferred.pop_front();
                continue;
            }
            let Some(raw) = self.raw_of(place) else {
                return;
            };
            let fits = self.writer.fits(RecordKind::Block, raw.message_bytes);
            if fits.is_err() {
                self.keep_back(place, raw);
                return;
            }
            self.append_raw(now, place, kind, verify, raw);
            self.carry_out_all(now);
            self.deferred.pop_front();
        }
        self.feed_execution();
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
            if let Some((start, sectors)) = self.blocks.location(Place { slot, digest }) {
                self.ledger.note(slot, start, sectors);
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
        if due && self.deferred.is_empty() {
            let body = crate::recovery::DecidedRecord::new(place.slot, place.digest);
            if self.record(RecordKind::Decided, body.as_bytes()).is_some() {
                self.decided_recorded = place.slot;
            }
        }
    }

    /// Hands decided blocks on, in order, as far as their records were sealed.
    pub(super) fn feed_execution(&mut self) {
        let decided = self.core.summary().decided;
        while self.executed_fed < decided {
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
    pub(super) fn release_executed(&mut self, now: Instant, executed: Slot) {
        let first = self.settled.next();
        self.settle_pending(now, first, executed);
        self.settled = self.settled.max(executed);
        let before = self.released.0;
        let until = executed.0.saturating_sub(RETAINED_BLOCKS);
        for slot in before + 1..=until {
            self.blocks.forget_slot(Slot(slot));
        }
        self.released = Slot(until.max(before));
    }
}
