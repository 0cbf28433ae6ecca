//! Blocks of others that are being judged, and what they cost their senders.
//!
//! Judging one takes as many signatures as it has requests. Its sender pays for them, and gets them
//! back when the block is written: a correct replica pays for little, and one that signs blocks for
//! no other end than to have them judged for all (§9.1).

use std::collections::BTreeMap;

use wire::block::BlockHeader;
use wire::certificates::Place;
use wire::ids::{Digest, Instant, NodeId, View};
use wire::limits::REPAIR_BLOCKS_MAX;
use wire::reject::Reject;

use crate::allowance::{Allowance, Rate};

/// Signatures that a peer may have checked for blocks that are not written: about a tenth of a
/// processor, and at once a whole answer of full blocks, which are written together.
const BLOCKS: Rate = Rate {
    per_s: 4096,
    at_once: 1 << 17,
    debt: 8192,
};
/// A bad block costs so many times what was checked of it, and this.
const TIMES_OF_BAD: u64 = 16;
const COST_OF_BAD: u64 = 512;
/// So many are judged at a time, an answer of one replica; and so many of each whatever others sent.
pub const JUDGED_MAX: usize = REPAIR_BLOCKS_MAX as usize;
const JUDGED_OF_ONE_MIN: usize = 8;
/// Blocks that hold, and may be written yet, whose cost is remembered.
const UNWRITTEN_MAX: usize = 1024;

struct Judged {
    from: NodeId,
    view: View,
    place: Place,
    parent: Digest,
}

/// See the module's documentation.
pub(super) struct Judging {
    judged: Vec<Judged>,
    accounts: Vec<Allowance>,
    unwritten: BTreeMap<Place, (NodeId, u64)>,
}

impl Judging {
    pub(super) fn new(replicas: usize) -> Judging {
        Judging {
            judged: Vec::with_capacity(2 * JUDGED_MAX),
            accounts: vec![Allowance::new(BLOCKS); replicas],
            unwritten: BTreeMap::new(),
        }
    }

    /// Whether one more block of this peer may be judged; and if so, whether its child is being judged.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        from: NodeId,
        header: &BlockHeader,
        digest: Digest,
    ) -> Result<bool, Reject> {
        if self.accounts[from.index()].left(now, BLOCKS) <= 0 {
            return Err(Reject::RateLimited);
        }
        let of_it = || self.judged.iter().filter(|judged| judged.from == from);
        // A leader that lies can sign any number of blocks of a slot; one is judged.
        let same = (header.view(), header.slot());
        if of_it().any(|judged| (judged.view, judged.place.slot) == same) {
            return Err(Reject::AlreadyHeld);
        }
        if self.judged.len() >= JUDGED_MAX && of_it().count() >= JUDGED_OF_ONE_MIN {
            return Err(Reject::QueueFull);
        }
        // Ancestors come newest first; the core knows that it wants one by its child.
        Ok(of_it().any(|judged| judged.parent == digest))
    }

    /// This block is being judged from now on.
    pub(super) fn begin(&mut self, from: NodeId, header: &BlockHeader, digest: Digest) -> Place {
        let slot = header.slot();
        let place = Place { slot, digest };
        self.judged.push(Judged {
            from,
            view: header.view(),
            place,
            parent: header.parent,
        });
        place
    }

    fn end(&mut self, from: NodeId, place: Place) {
        self.judged
            .retain(|judged| (judged.from, judged.place) != (from, place));
    }

    /// It was refused.
    pub(super) fn unfit(&mut self, from: NodeId, place: Place, checks: u64) {
        self.end(from, place);
        if checks > 0 {
            let cost = TIMES_OF_BAD * checks + COST_OF_BAD;
            self.accounts[from.index()].charge(cost, BLOCKS);
        }
    }

    /// It holds, and is about to be offered to the core.
    pub(super) fn fit(&mut self, from: NodeId, place: Place, checks: u64) {
        self.end(from, place);
        if self.unwritten.contains_key(&place) {
            // Two replicas answered one question.
            return;
        }
        self.accounts[from.index()].charge(checks, BLOCKS);
        if self.unwritten.len() >= UNWRITTEN_MAX {
            self.unwritten.pop_first();
        }
        self.unwritten.insert(place, (from, checks));
    }

    /// It is written: what it cost is given back.
    pub(super) fn used(&mut self, place: Place) {
        if let Some((from, checks)) = self.unwritten.remove(&place) {
            self.accounts[from.index()].give_back(checks, BLOCKS);
        }
    }

    /// It was dropped.
    pub(super) fn forgotten(&mut self, place: Place) {
        self.unwritten.remove(&place);
    }
}

#[cfg(test)]
mod tests {
    use wire::ids::{Epoch, Slot};

    use super::*;

    const LIAR: NodeId = NodeId(3);

    fn block(view: u64, slot: u64, time_ns: u64) -> BlockHeader {
        let none = Digest::ZERO;
        BlockHeader::new(Epoch(0), View(view), Slot(slot), time_ns, none, none)
    }

    fn admits(judging: &mut Judging, now: u64, from: NodeId, header: &BlockHeader) -> bool {
        let admitted = judging.admit(Instant(now), from, header, header.digest());
        if admitted.is_ok() {
            judging.begin(from, header, header.digest());
        }
        admitted.is_ok()
    }

    fn place(header: &BlockHeader) -> Place {
        Place {
            slot: header.slot(),
            digest: header.digest(),
        }
    }

    #[test]
    fn one_replica_has_an_answer_judged_and_leaves_room_for_the_others() {
        let mut judging = Judging::new(4);
        let of_one = (1..200).filter(|slot| admits(&mut judging, 1, LIAR, &block(0, *slot, 0)));
        assert_eq!(of_one.count(), JUDGED_MAX);
        let other = NodeId(1);
        let of_other = (1..200).filter(|slot| admits(&mut judging, 1, other, &block(0, *slot, 0)));
        assert_eq!(of_other.count(), JUDGED_OF_ONE_MIN);
        let first = place(&block(0, 1, 0));
        judging.unfit(other, first, 0);
        assert!(admits(&mut judging, 1, other, &block(0, 1, 0)));
    }

    #[test]
    fn one_block_of_a_view_and_slot_is_judged_at_a_time() {
        let mut judging = Judging::new(4);
        let rivals = (0..99).filter(|time| admits(&mut judging, 1, LIAR, &block(0, 7, *time)));
        assert_eq!(rivals.count(), 1);
        assert!(admits(&mut judging, 1, LIAR, &block(4, 7, 0)));
        assert!(admits(&mut judging, 1, NodeId(1), &block(0, 7, 0)));
        judging.fit(LIAR, place(&block(0, 7, 0)), 1);
        assert!(admits(&mut judging, 1, LIAR, &block(0, 7, 1)));
    }

    #[test]
    fn what_is_written_costs_nothing_in_the_end_and_what_is_not_costs_all() {
        let mut judging = Judging::new(4);
        for slot in 1..10_000 {
            let header = block(0, slot, 0);
            assert!(admits(&mut judging, 1, NodeId(1), &header));
            judging.fit(NodeId(1), place(&header), 2048);
            judging.used(place(&header));
        }
        let mut judged = 0;
        for time in 0..10_000 {
            let header = block(0, 7, time);
            if admits(&mut judging, 1, LIAR, &header) {
                judged += 1;
                judging.fit(LIAR, place(&header), 2048);
                judging.forgotten(place(&header));
                judging.used(place(&header));
            }
        }
        assert_eq!(judged, BLOCKS.at_once / 2048);
        assert!(judging.unwritten.is_empty());
        // It fills with time.
        assert!(admits(&mut judging, 1_000_000_000, LIAR, &block(0, 8, 0)));
    }

    #[test]
    fn a_second_answer_to_one_question_costs_nothing() {
        let mut judging = Judging::new(4);
        let header = block(0, 7, 0);
        for now in 1..1_000 {
            for from in [1, 2].map(NodeId) {
                assert!(admits(&mut judging, now, from, &header));
            }
            for from in [1, 2].map(NodeId) {
                judging.fit(from, place(&header), 2048);
            }
            judging.used(place(&header));
        }
    }

    #[test]
    fn bad_blocks_cost_many_times_as_much() {
        let mut judging = Judging::new(4);
        let mut judged = 0;
        for time in 0..10_000 {
            let header = block(0, 7, time);
            if admits(&mut judging, 1, LIAR, &header) {
                judged += 1;
                judging.unfit(LIAR, place(&header), 2048);
            }
        }
        assert_eq!(judged, (BLOCKS.at_once / (16 * 2048 + 512)) + 1);
    }
}
