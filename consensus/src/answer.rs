//! §11: answers to what others miss.

use wire::certificates::Place;
use wire::ids::{Instant, NodeId, Slot};
use wire::limits::REPAIR_BLOCKS_MAX;
use wire::seal::Signer;

use crate::core::Core;
use crate::input::{Effect, Outbox};

impl<S: Signer> Core<S> {
    pub(crate) fn on_fetch_block(
        &mut self,
        now: Instant,
        from: NodeId,
        place: Place,
        have: Slot,
        grains: bool,
        out: &mut Outbox,
    ) {
        // What is final and not remembered any more lies in the log, by its slot.
        let retained = self.retained_from.max(Slot(1))..=self.decided.slot;
        let has = self.knows(place) || retained.contains(&place.slot);
        if !has || !self.may_answer(now, from) {
            return;
        }
        if grains {
            out.push(Effect::Grains { to: from, place });
            return;
        }
        let lowest = place
            .slot
            .0
            .saturating_sub(REPAIR_BLOCKS_MAX)
            .min(place.slot.0 - 1);
        let have = Slot(lowest.max(have.0.min(place.slot.0 - 1)));
        out.push(Effect::Ancestors {
            to: from,
            place,
            have,
        });
    }

    pub(crate) fn on_fetch_range(
        &mut self,
        now: Instant,
        from: NodeId,
        first: Slot,
        count: u64,
        out: &mut Outbox,
    ) {
        if first > self.decided.slot || first < self.retained_from.max(Slot(1)) {
            return;
        }
        // A claim may cost a read of the log.
        let due = if count > 0 {
            self.may_answer(now, from)
        } else {
            let pause_ns = self.repair.rto_ns() / 4;
            take_turn(&mut self.peers[from.index()].claimed_at, now, pause_ns)
        };
        if !due {
            return;
        }
        let count = count.min(REPAIR_BLOCKS_MAX);
        // At most `decided` plus a repair's length: no overflow.
        let last = Slot((first.0 + count.max(1) - 1).min(self.decided.slot.0));
        out.push(Effect::Decided {
            to: from,
            slot: last,
        });
        if count > 0 {
            out.push(Effect::Blocks {
                to: from,
                first,
                last,
            });
        }
    }

    /// One answer a peer in a quarter of the retransmission timeout: a repeated question is not
    /// answered twice, a swarm of them costs one.
    pub(crate) fn may_answer(&mut self, now: Instant, from: NodeId) -> bool {
        let pause_ns = self.repair.rto_ns() / 4;
        take_turn(&mut self.peers[from.index()].answered_at, now, pause_ns)
    }
}

/// Whether the last turn is so long ago; then this is one.
fn take_turn(last: &mut Option<Instant>, now: Instant, pause_ns: u64) -> bool {
    let due = last.is_none_or(|at| now.since_ns(at) >= pause_ns);
    if due {
        *last = Some(now);
    }
    due
}
