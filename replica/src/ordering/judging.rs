//! Blocks of others that are being judged, and what bad ones cost their senders.
//!
//! Judging one takes as many signatures as it has requests. Blocks that hold cost their sender nothing,
//! for whoever helps a replica that lags sends many: those of each sender have the same share of the
//! verifier ([`crate::fair`]), so that one that signs blocks for no other end than to have them judged
//! takes no more than its own (§9.1).

use wire::block::BlockHeader;
use wire::certificates::Place;
use wire::ids::{Digest, Instant, NodeId, View};
use wire::limits::REPAIR_BLOCKS_MAX;
use wire::reject::Reject;

use crate::allowance::{Allowance, Rate};

/// Signatures that a peer may have checked for bad blocks. Debts are deep: an answer of bad blocks is
/// judged before the first of them is paid for. Correct replicas give away what they have judged, and
/// copies that their leader did not sign only to who asks by name, whom an answer may surprise.
const BAD_BLOCKS: Rate = Rate {
    per_s: 4096,
    at_once: 1 << 17,
    debt: 1 << 17,
};
/// A bad block costs so many times what was checked of it, and this.
const TIMES_OF_BAD: u64 = 16;
const COST_OF_BAD: u64 = 16;
/// So many are judged at a time, an answer of one replica; and [`of_each`] one whatever others sent.
const JUDGED_MAX: usize = REPAIR_BLOCKS_MAX as usize;

fn of_each(replicas: usize) -> usize {
    (JUDGED_MAX / replicas).clamp(2, 8)
}

/// So many blocks are being judged at most, whoever sent them; each holds a buffer.
pub fn judged_max(replicas: usize) -> usize {
    JUDGED_MAX + of_each(replicas) * replicas
}

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
}

impl Judging {
    pub(super) fn new(replicas: usize) -> Judging {
        Judging {
            judged: Vec::with_capacity(judged_max(replicas)),
            accounts: vec![Allowance::new(BAD_BLOCKS); replicas],
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
        if self.accounts[from.index()].left(now, BAD_BLOCKS) <= 0 {
            return Err(Reject::RateLimited);
        }
        let of_it = || self.judged.iter().filter(|judged| judged.from == from);
        // A leader that lies can sign any number of blocks of a slot; one is judged.
        let same = (header.view(), header.slot());
        if of_it().any(|judged| (judged.view, judged.place.slot) == same) {
            return Err(Reject::AlreadyHeld);
        }
        let of_each = of_each(self.accounts.len());
        if self.judged.len() >= JUDGED_MAX && of_it().count() >= of_each {
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

    /// The verdict is here: after so many checks it was refused.
    pub(super) fn unfit(&mut self, from: NodeId, place: Place, checks: u64) {
        self.end(from, place);
        if checks > 0 {
            let cost = TIMES_OF_BAD * checks + COST_OF_BAD;
            self.accounts[from.index()].charge(cost, BAD_BLOCKS);
        }
    }

    /// A copy without its leader's signature was not taken. Its sender may have thought that this replica
    /// knows what names it: this costs less than a bad one.
    pub(super) fn useless(&mut self, from: NodeId, checks: u64) {
        self.accounts[from.index()].charge(checks + COST_OF_BAD, BAD_BLOCKS);
    }

    /// The verdict is here: it holds.
    pub(super) fn fit(&mut self, from: NodeId, place: Place) {
        self.end(from, place);
    }

    fn end(&mut self, from: NodeId, place: Place) {
        self.judged
            .retain(|judged| (judged.from, judged.place) != (from, place));
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
        assert_eq!(of_other.count(), of_each(4));
        for id in [0, 2].map(NodeId) {
            let room = (1..200).filter(|slot| admits(&mut judging, 1, id, &block(0, *slot, 0)));
            assert_eq!(room.count(), of_each(4));
        }
        assert!(judging.judged.len() <= judged_max(4), "each has a buffer");
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
        judging.fit(LIAR, place(&block(0, 7, 0)));
        assert!(admits(&mut judging, 1, LIAR, &block(0, 7, 1)));
    }

    #[test]
    fn a_child_that_is_judged_leads_on_to_its_parent() {
        let mut judging = Judging::new(4);
        let parent = block(0, 6, 0);
        let digest = parent.digest();
        let (view, slot) = (View(0), Slot(7));
        let child = BlockHeader::new(Epoch(0), view, slot, 0, digest, Digest::ZERO);
        assert!(admits(&mut judging, 1, LIAR, &child));
        assert_eq!(judging.admit(Instant(1), LIAR, &parent, digest), Ok(true));
        let other = judging.admit(Instant(1), NodeId(1), &parent, digest);
        assert_eq!(other, Ok(false));
        judging.fit(LIAR, place(&child));
        assert_eq!(judging.admit(Instant(1), LIAR, &parent, digest), Ok(false));
    }

    /// As fast as they come, and as many at a time as may.
    #[test]
    fn bad_blocks_are_judged_so_often() {
        const CHECKS: u64 = 2048;
        let mut judging = Judging::new(4);
        let mut judged = 0;
        const SECONDS: u64 = 600;
        for now in (0..SECONDS * 10).map(|tenth| 1 + tenth * 100_000_000) {
            let mut places = Vec::new();
            for slot in 1..200 {
                let header = block(0, slot, now);
                if admits(&mut judging, now, LIAR, &header) {
                    places.push(place(&header));
                }
            }
            for place in places {
                judged += CHECKS;
                judging.unfit(LIAR, place, CHECKS);
            }
        }
        let most = SECONDS * BAD_BLOCKS.per_s + BAD_BLOCKS.at_once;
        assert!(judged > 0 && judged <= most, "{judged}");
        // Others are not hurt, and blocks that hold cost nothing.
        let header = block(0, 7, 0);
        for now in 1..10_000 {
            assert!(admits(&mut judging, now, NodeId(1), &header));
            judging.fit(NodeId(1), place(&header));
        }
    }
}
