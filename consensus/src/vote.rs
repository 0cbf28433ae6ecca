//! N2, N3, R2: when an own vote is due, and what the votes of others say.

use wire::block::BlockRef;
use wire::ids::{Digest, Instant, NodeId, Position, Slot};
use wire::limits::{IN_FLIGHT, WINDOW};
use wire::messages::EVIDENCE_INVALID_PAYLOAD;

use crate::chain::Validity;
use crate::core::Core;
use crate::input::{Effect, Outbox, Recipient};
use crate::peers::OwnVote;

impl Core {
    pub(crate) fn on_appended(&mut self, slot: Slot, end: Position) {
        let entry = self
            .chain
            .get_mut(slot)
            .expect("appends what it was told to");
        assert!(entry.end.is_none(), "R2: one record for one (view, slot)");
        entry.end = Some(end);
    }

    pub(crate) fn on_checked(&mut self, slot: Slot, digest: Digest, valid: bool, out: &mut Outbox) {
        let linked = self.chain.linked;
        let Some(entry) = self
            .chain
            .get_mut(slot)
            .filter(|entry| entry.digest == digest)
        else {
            return;
        };
        if valid {
            entry.validity = Validity::Valid;
            return;
        }
        if slot <= self.decided {
            // Correct replicas voted for this digest, which binds the payload, so the block is
            // valid. What failed here is the leader's signature, which the digest does not bind:
            // the leader sent this replica a bad one.
            entry.validity = Validity::Valid;
            return;
        }
        entry.validity = Validity::Invalid;
        let signed = entry.signed();
        self.accuse(EVIDENCE_INVALID_PAYLOAD, signed, signed, out);
        if slot <= linked {
            // No other block is voted at this slot in this view (R2).
            self.abandon_branch(Slot(slot.0 - 1), out);
        }
    }

    /// Drops the undecided blocks above `keep`; what was appended may count as voted, so no
    /// further vote is sent in this view (N2, R2).
    pub(crate) fn abandon_branch(&mut self, keep: Slot, out: &mut Outbox) {
        assert!(keep >= self.decided, "decided blocks stay");
        self.voting_stopped = true;
        for slot in (keep.0 + 1..=self.chain.linked.0).map(Slot) {
            self.chain.remove(slot);
            out.push(Effect::Forget { slot });
        }
        let digest = if keep == self.decided {
            self.decided_digest
        } else {
            self.chain
                .get(keep)
                .expect("kept blocks are on the chain")
                .digest
        };
        self.chain.linked = keep;
        self.chain.linked_digest = digest;
        self.durable = self.durable.min(keep);
        self.valid = self.valid.min(keep);
        for peer in &mut self.peers {
            peer.votes.cut(keep);
            peer.claims.cut(keep);
        }
    }

    /// N3: keeps the deepest linked and the newest unlinked vote of each replica.
    pub(crate) fn on_vote(&mut self, from: NodeId, vote: BlockRef) {
        if vote.view != self.installed || vote.slot.0 > self.executed.0 + WINDOW {
            return;
        }
        self.peers[from.index()]
            .votes
            .hear(&self.chain, vote.slot, vote.digest);
    }

    /// Moves durable, valid and voted as far as they go, then decides.
    pub(crate) fn advance(&mut self, now: Instant, out: &mut Outbox) {
        let durable_position = self.durable_position;
        while let Some(entry) = self.chain.get(self.durable.next())
            && self.durable < self.chain.linked
            && entry.end.is_some_and(|end| end <= durable_position)
        {
            self.durable = self.durable.next();
        }
        while let Some(entry) = self.chain.get(self.valid.next())
            && self.valid < self.chain.linked
            && (entry.validity == Validity::Valid || self.valid < self.decided)
        {
            self.valid = self.valid.next();
        }
        self.vote_if_due(now, out);
        self.decide(now, out);
    }

    /// Blocks are taken in a little above the highest slot that is voted: when all replicas but the
    /// leader stand at their limit, the leader's last vote, which they need to move on, lies at
    /// most D above it.
    fn vote_limit(&self) -> Slot {
        Slot(self.executed.0 + WINDOW.min(self.config.blocks_held_max) - 2 * IN_FLIGHT)
    }

    fn vote_if_due(&mut self, now: Instant, out: &mut Outbox) {
        let due = self.durable.min(self.valid).min(self.vote_limit());
        // I2: only while ACTIVE(installed).
        if due <= self.voted || self.voting_stopped || self.stage != self.installed {
            return;
        }
        let digest = self
            .chain
            .linked_digest_at(due)
            .expect("the voted block is on the chain");
        // I1: each vote is a descendant of the one before, for both lie on the one chain.
        self.voted = due;
        let vote = BlockRef {
            view: self.installed,
            slot: due,
            digest,
        };
        self.own_vote = Some(OwnVote { vote, sent_at: now });
        let me = self.config.me.index();
        self.peers[me].votes.linked = due;
        out.push(Effect::Vote {
            to: Recipient::All,
            vote,
        });
    }
}
