//! Checkpoints in the table's copy on disk, as replicas that lag behind are shown them (K4).
//!
//! A copy is whole, certified and durable: it can be shown after a restart too, and takes no memory.
//! The log above it is there, for it is let go behind a copy alone. One that somebody asks for stays
//! readable beside newer ones, and so does the log above it ([`Execution::copies_from`]).

use std::collections::VecDeque;
use std::sync::Arc;

use storage::machine::StateMachine;
use storage::state::{CellItems, Unserved, join};
use storage::table::{AsOf, Flushing};
use wire::canary::reach;
use wire::certificates::CheckpointCertificate;
use wire::ids::{Instant, Slot};
use wire::state::{BUCKETS_PER_NODE, Bucket, Leaf, Node, PIECE_BYTES_MAX, Part};

use super::Execution;
use crate::execution::TRANSFER_HOLD_NS;
use crate::flush::{SUMMARY, node_note, sessions_note};

/// Copies shown at once. One that is older has been asked for ever since, or is not kept.
const COPIES_MAX: usize = 3;
/// Buckets whose pieces are asked for; every one who asks has several under way.
const BUCKETS_HELD: usize = 16;

#[derive(Debug)]
struct Copied {
    certificate: Arc<CheckpointCertificate>,
    as_of: AsOf,
    /// Somebody asks for it until then.
    until: Instant,
}

impl Copied {
    fn slot(&self) -> Slot {
        self.certificate.header.slot()
    }
}

/// Copies that can be shown, oldest first, and buckets that were read of them.
#[derive(Debug, Default)]
pub(super) struct Copies {
    shown: VecDeque<Copied>,
    buckets: VecDeque<(Slot, Bucket, Vec<u8>)>,
}

impl Copies {
    /// Lets go of those that nobody asks for, but for the newest.
    fn expire(&mut self, now: Instant) {
        let newest = self.shown.pop_back();
        self.shown.retain(|copied| copied.until > now);
        while self.shown.len() >= COPIES_MAX {
            self.shown.pop_front();
        }
        self.shown.extend(newest);
        let shown = &self.shown;
        self.buckets
            .retain(|(slot, ..)| shown.iter().any(|copied| copied.slot() == *slot));
    }

    /// A bucket as it is in a copy, whose leaf this is; none if the disk has something else.
    fn bucket(
        &mut self,
        table: &dyn Flushing,
        (slot, as_of): (Slot, AsOf),
        bucket: Bucket,
        leaf: Leaf,
    ) -> Option<&[u8]> {
        let is_held = |(at, held, _): &(Slot, Bucket, Vec<u8>)| (*at, *held) == (slot, bucket);
        if let Some(at) = self.buckets.iter().position(is_held) {
            return self.buckets.get(at).map(|(.., bytes)| &bytes[..]);
        }
        let (mut items, mut noted) = (CellItems::new(), Vec::new());
        table.copied_bucket(as_of, bucket, &mut items);
        table.note(as_of, &sessions_note(bucket), &mut noted);
        let bytes = join(&items, &CellItems::decode(&noted)?);
        if Leaf::of(&bytes) != Some(leaf) {
            return None;
        }
        if self.buckets.len() == BUCKETS_HELD {
            self.buckets.pop_front();
        }
        self.buckets.push_back((slot, bucket, bytes));
        self.buckets.back().map(|(.., bytes)| &bytes[..])
    }
}

impl<M: StateMachine> Execution<M> {
    /// The table's copy is now the state of this certificate.
    pub(super) fn copied(&mut self, now: Instant, certificate: Arc<CheckpointCertificate>) {
        let as_of = self.copy_mut().copy_as_of();
        self.copies.shown.push_back(Copied {
            certificate,
            as_of,
            until: Instant(0),
        });
        self.keep_copies(now);
    }

    pub(super) fn expire_copies(&mut self, now: Instant) {
        if self.copies.shown.len() > 1 {
            self.keep_copies(now);
        }
    }

    fn keep_copies(&mut self, now: Instant) {
        self.copies.expire(now);
        let oldest = self.copies.shown.front().map(|copied| copied.as_of);
        self.copy_mut().keep_copies(oldest);
    }

    /// The oldest checkpoint that is shown to others; what is above it must stay in the log.
    pub fn copies_from(&self) -> Option<Slot> {
        self.copies.shown.front().map(Copied::slot)
    }

    /// The certificate of a copy that is shown to others: of this slot, or of the newest.
    pub fn copy_certificate(&self, slot: Option<Slot>) -> Option<&Arc<CheckpointCertificate>> {
        let mut shown = self.copies.shown.iter().rev();
        let found = shown.find(|copied| slot.is_none_or(|slot| copied.slot() == slot));
        found.map(|copied| &copied.certificate)
    }

    /// As [`Execution::serve`], of a copy.
    pub(super) fn serve_copy(
        &mut self,
        now: Instant,
        slot: Slot,
        part: Part,
        out: &mut Vec<u8>,
    ) -> Result<(), Unserved> {
        let newest = self.copies.shown.back().ok_or(Unserved::NotPinned)?.slot();
        let mut shown = self.copies.shown.iter_mut();
        let copied = shown.find(|copied| copied.slot() == slot);
        let copied = copied.ok_or(Unserved::Elsewhere(newest))?;
        copied.until = now.after_ns(TRANSFER_HOLD_NS);
        let as_of = copied.as_of;
        let table = self.machine.flushing();
        let table = table.expect("only a table with a copy has copies");
        let noted = |name: &[u8], note: &mut Vec<u8>| match table.note(as_of, name, note) {
            true => Ok(()),
            false => Err(Unserved::NoSuchPart),
        };
        match part {
            Part::Summary => {
                let is_newest = slot == newest;
                reach(if is_newest {
                    "copy-shown"
                } else {
                    "older-copy-shown"
                });
                noted(SUMMARY, out)
            }
            Part::Node(index) => noted(&node_note(index), out),
            Part::Piece { bucket, index } => {
                let mut node = Vec::new();
                noted(&node_note(bucket.node() as u8), &mut node)?;
                let node = Node::parse(&node).map_err(|_| Unserved::NoSuchPart)?;
                let leaf = node.leaves[bucket.index() % BUCKETS_PER_NODE];
                let length = leaf.piece_bytes(index).ok_or(Unserved::NoSuchPart)?;
                let at = (slot, as_of);
                let bytes = self.copies.bucket(&*table, at, bucket, leaf);
                let start = index as usize * PIECE_BYTES_MAX;
                let bytes = bytes.ok_or(Unserved::NoSuchPart)?;
                out.extend_from_slice(&bytes[start..start + length]);
                Ok(())
            }
        }
    }
}
