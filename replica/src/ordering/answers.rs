//! Answers to replicas that lack something: blocks from memory or the log, and claims of decisions.

use consensus::Recipient;
use wire::block::BlockPrefix;
use wire::bytes::{Buffers, SharedBytes};
use wire::ids::{NodeId, Slot};
use wire::limits::{RECORD_HEADER_BYTES, SECTOR_BYTES};
use wire::seal::{Signer, Verifier};
use zerocopy::FromBytes;

use super::{Ordering, Output, READS_MAX, REPAIR_BYTES_MAX, ReadBack};
use crate::blocks;
use crate::peer::{Grains, PeerMessage};

impl<Bu: Buffers, S: Signer, V: Verifier> Ordering<Bu, S, V> {
    pub(super) fn send_decided(&mut self, to: NodeId, slot: Slot) {
        if let Some(digest) = self.core.digest_at(slot) {
            self.send(Recipient::One(to), PeerMessage::Decided { slot, digest });
        } else {
            self.read_back(to, slot, true);
        }
    }

    pub(super) fn send_blocks(&mut self, to: NodeId, first: Slot, last: Slot, newest_first: bool) {
        let mut bytes = 0;
        for step in 0..=last.0.saturating_sub(first.0) {
            let slot = Slot(if newest_first {
                last.0 - step
            } else {
                first.0 + step
            });
            bytes += match self.blocks.get(slot) {
                Some(message) => message.len(),
                None => self
                    .ledger
                    .locate(slot)
                    .map_or(0, |(_, n)| n as usize * SECTOR_BYTES),
            };
            if step > 0 && bytes > REPAIR_BYTES_MAX {
                return;
            }
            self.send_block(to, slot, false);
        }
    }

    pub(super) fn send_block(&mut self, to: NodeId, slot: Slot, only_grains: bool) {
        if !self.is_started() {
            return;
        }
        let Some(message) = self.blocks.get(slot).cloned() else {
            return self.read_back(to, slot, false);
        };
        let grains = if only_grains { self.asked } else { None };
        self.push_block(to, slot, message, grains);
    }

    fn push_block(&mut self, to: NodeId, slot: Slot, message: Bu::Shared, grains: Option<Grains>) {
        let Ok((prefix, _)) = BlockPrefix::ref_from_prefix(&message) else {
            return;
        };
        let (view, digest) = (prefix.header.view(), prefix.header.digest());
        self.outputs.push_back(Output::SendBlock {
            to: Recipient::One(to),
            propose: false,
            view,
            slot,
            digest,
            message: message.clone(),
            grains,
        });
    }

    /// Asks for a record of the log; bounded, the asker repeats itself.
    fn read_back(&mut self, to: NodeId, slot: Slot, claim_only: bool) {
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
            claim_only,
        }));
    }

    pub(super) fn on_record(&mut self, read: ReadBack, record: &Bu::Shared) {
        self.reads -= 1;
        let Some((message_bytes, digest)) = blocks::message_in_record(record, read.slot) else {
            return;
        };
        if read.claim_only {
            let message = PeerMessage::Decided {
                slot: read.slot,
                digest,
            };
            self.send(Recipient::One(read.to), message);
        } else {
            let message = record.slice(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + message_bytes);
            self.push_block(read.to, read.slot, message, None);
        }
    }
}
