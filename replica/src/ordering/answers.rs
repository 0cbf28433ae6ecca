//! Answers to replicas that lack something: blocks from memory or the log, and claims of decisions.

use consensus::Recipient;
use wire::block::BlockPrefix;
use wire::bytes::{Buffers, SharedBytes};
use wire::canary::reach;
use wire::certificates::Place;
use wire::header::Kind;
use wire::ids::{NodeId, Slot};
use wire::limits::{RECORD_HEADER_BYTES, SECTOR_BYTES};
use wire::seal::{Signer, Verifier, check_leader};
use zerocopy::FromBytes;

use super::{Ordering, Output, READS_MAX, REPAIR_BYTES_MAX, ReadBack, Want};
use crate::blocks;
use crate::peer::{Grains, PeerMessage};

/// The rest of an answer that lies in the log, from `next` down to above `have`; so many bytes of the answer
/// have left.
#[derive(Clone, Copy, Debug)]
pub(super) struct FromLog {
    next: Slot,
    have: Slot,
    bytes: usize,
}

impl<Bu: Buffers, S: Signer, V: Verifier> Ordering<Bu, S, V> {
    pub(super) fn send_decided(&mut self, to: NodeId, slot: Slot) {
        if let Some(digest) = self.core.digest_at(slot) {
            self.send(Recipient::One(to), PeerMessage::Decided { slot, digest });
        } else {
            self.read_back(to, slot, Want::Claim);
        }
    }

    /// Final blocks, ascending, until the answer is long enough; the asker asks again. What is known to be
    /// kept back takes no part of it.
    pub(super) fn send_blocks(&mut self, to: NodeId, first: Slot, last: Slot) {
        let mut bytes = 0;
        for slot in (first.0..=last.0).map(Slot) {
            let digest = self.core.digest_at(slot);
            let place = digest.map(|digest| Place { slot, digest });
            let message = place.and_then(|place| self.blocks.get(place)).cloned();
            let length = match &message {
                Some(message) => message.len(),
                None if self.ledger.is_signed(slot) == Some(false) => continue,
                None => self.bytes_in_log(slot),
            };
            if bytes > 0 && bytes + length > REPAIR_BYTES_MAX {
                return;
            }
            let sent = match message {
                Some(message) => self.push_block(to, slot, message, Want::Range, None),
                None => {
                    self.read_back(to, slot, Want::Range);
                    true
                }
            };
            bytes += if sent { length } else { 0 };
        }
    }

    /// A block and its ancestors above `have`, newest first.
    pub(super) fn send_ancestors(&mut self, to: NodeId, place: Place, have: Slot) {
        let mut bytes = 0;
        let mut next = place;
        while next.slot > have && bytes <= REPAIR_BYTES_MAX {
            let Some(message) = self.blocks.get(next).cloned() else {
                // Final ones lie in the log, by slot.
                if self.is_final(next) {
                    let next = next.slot;
                    self.from_log[to.index()] = Some(FromLog { next, have, bytes });
                    self.read_on(to);
                }
                return;
            };
            let Ok((prefix, _)) = BlockPrefix::ref_from_prefix(&message) else {
                return;
            };
            let parent = Place {
                slot: Slot(next.slot.0 - 1),
                digest: prefix.header.parent,
            };
            bytes += message.len();
            self.push_block(to, next.slot, message.clone(), Want::Block, None);
            next = parent;
        }
    }

    /// Reads the next block of an answer: one at a time, for a block vouches for those below it where its
    /// asker gets it before them.
    fn read_on(&mut self, to: NodeId) {
        let Some(FromLog { next, have, bytes }) = self.from_log[to.index()].take() else {
            return;
        };
        if next > have && bytes <= REPAIR_BYTES_MAX {
            self.from_log[to.index()] = Some(FromLog {
                next: Slot(next.0 - 1),
                have,
                bytes: bytes + self.bytes_in_log(next),
            });
            self.read_back(to, next, Want::Block);
        }
    }

    fn bytes_in_log(&self, slot: Slot) -> usize {
        let located = self.ledger.locate(slot);
        located.map_or(0, |(_, sectors)| sectors as usize * SECTOR_BYTES)
    }

    /// The fragments of one block that the request at hand names.
    pub(super) fn send_grains(&mut self, to: NodeId, place: Place) {
        if let Some(message) = self.blocks.get(place).cloned() {
            let grains = self.asked;
            self.push_block(to, place.slot, message, Want::Block, grains);
        } else if self.is_final(place) {
            self.read_back(to, place.slot, Want::Block);
        }
    }

    /// Whether it may be given away, and is.
    fn push_block(
        &mut self,
        to: NodeId,
        slot: Slot,
        message: Bu::Shared,
        want: Want,
        grains: Option<Grains>,
    ) -> bool {
        if !self.is_started() {
            return false;
        }
        let Ok((prefix, _)) = BlockPrefix::ref_from_prefix(&message) else {
            return false;
        };
        let (view, digest) = (prefix.header.view(), prefix.header.digest());
        let prefix = *prefix;
        if !self.may_serve(Place { slot, digest }, &prefix, want) {
            reach("unsigned-copy-kept-back");
            return false;
        }
        self.outputs.push_back(Output::SendLong {
            to: Recipient::One(to),
            kind: Kind::Block,
            view,
            slot,
            digest,
            message: message.clone(),
            grains,
        });
        true
    }

    /// Whether this copy may be given away: its requests hold, as do those of what this replica votes
    /// for, acknowledges and shows in a view change (V3); and the leader signed it, for whoever is sent
    /// another takes this replica for a liar. The digest does not bind that signature (R2), so a block
    /// may lie here without one. It goes to who asks for it by name, if it is final or something that is
    /// signed names it here: that asker knows as much, now or the next time.
    fn may_serve(&mut self, place: Place, prefix: &BlockPrefix, want: Want) -> bool {
        let is_final = self.is_final(place);
        let holds = is_final || self.core.is_valid(place);
        let view = prefix.header.view();
        let vouched = |ordering: &Self| is_final || ordering.core.is_vouched(view, place);
        holds && (self.copy_is_signed(place, prefix) || want == Want::Block && vouched(self))
    }

    /// Whether it is the final block of its slot; below what is remembered the log holds no other.
    fn is_final(&self, place: Place) -> bool {
        place.slot <= self.core.summary().decided && self.is_of_branch(place).unwrap_or(true)
    }

    /// Whether it is the block of its slot on the branch; `None` below what is remembered.
    fn is_of_branch(&self, place: Place) -> Option<bool> {
        let digest = self.core.digest_at(place.slot);
        digest.map(|digest| digest == place.digest)
    }

    /// Whether the leader signed the copy that lies here. What nobody has looked at, as what a restart
    /// found decided, costs one verification, once: whoever asks again, and for whatever, costs none.
    fn copy_is_signed(&mut self, place: Place, prefix: &BlockPrefix) -> bool {
        // The noted copy is the one of the final block; rivals of it lie in memory alone.
        let noted = self.is_of_branch(place).unwrap_or(true);
        let in_log = self.ledger.is_signed(place.slot).filter(|_| noted);
        let known = in_log.or_else(|| self.blocks.is_signed(place));
        if self.core.is_signed(place) {
            return true;
        }
        if let Some(known) = known {
            return known;
        }
        let leader = self.core.leader(prefix.header.view());
        let signed = check_leader(
            &self.verifier,
            |_| leader,
            &prefix.header,
            &prefix.signature,
        );
        let signed = signed.is_ok();
        self.blocks.note_signed(place, signed);
        if noted {
            self.ledger.note_signed(place.slot, signed);
        }
        signed
    }

    /// Asks for a record of the log; bounded, the asker repeats itself.
    fn read_back(&mut self, to: NodeId, slot: Slot, want: Want) {
        if self.reads >= READS_MAX {
            return;
        }
        let Some((start, sectors)) = self.ledger.locate(slot) else {
            return;
        };
        let Some((segment, offset)) = self.writer.locate(start) else {
            return;
        };
        self.reads += 1;
        self.outputs.push_back(Output::Read(ReadBack {
            slot,
            segment,
            offset,
            bytes: sectors as usize * SECTOR_BYTES,
            to,
            want,
        }));
    }

    pub(super) fn on_record(&mut self, read: ReadBack, record: &Bu::Shared) {
        self.reads -= 1;
        let Some((message_bytes, digest)) = blocks::message_in_record(record, read.slot) else {
            return;
        };
        if read.want == Want::Claim {
            let message = PeerMessage::Decided {
                slot: read.slot,
                digest,
            };
            self.send(Recipient::One(read.to), message);
        } else {
            let message = record.slice(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + message_bytes);
            self.push_block(read.to, read.slot, message, read.want, None);
            let answer = self.from_log[read.to.index()];
            if read.want == Want::Block && answer.is_some_and(|a| a.next.next() == read.slot) {
                self.read_on(read.to);
            }
        }
    }
}
