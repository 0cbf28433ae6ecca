//! N4 and N7: what is final, by votes counted here or learned from b + 1 replicas.

use wire::ids::{Digest, Instant, NodeId, Slot};

use crate::core::Core;
use crate::input::{Effect, Outbox};
use crate::quorum::reached_by;

impl Core {
    pub(crate) fn decide(&mut self, now: Instant, out: &mut Outbox) {
        let quorums = self.config.quorums;
        let voted = self.peers.iter().map(|peer| peer.votes.linked.0);
        let by_votes = Slot(reached_by(quorums.fast(), voted));
        let claimed = self.peers.iter().map(|peer| peer.claims.linked.0);
        let by_claims = Slot(reached_by(quorums.one_correct(), claimed));
        let slot = by_votes.max(by_claims);
        if slot <= self.decided {
            return;
        }
        let entry = *self
            .chain
            .get(slot)
            .expect("counted words lie on the chain");
        self.repair.measure(now.since_ns(entry.seen_at));
        self.decided = slot;
        self.decided_digest = entry.digest;
        out.push(Effect::Final {
            slot,
            digest: entry.digest,
            fast: by_votes >= by_claims,
        });
    }

    /// N7: a claim of one replica; b + 1 of them include a correct one.
    pub(crate) fn on_decided(
        &mut self,
        from: NodeId,
        slot: Slot,
        digest: Digest,
        out: &mut Outbox,
    ) {
        self.peers[from.index()]
            .claims
            .hear_claim(&self.chain, slot, digest);
        self.leave_a_wrong_branch(slot, digest, out);
    }

    /// b + 1 replicas say that (slot, digest) is decided, and another block stands there here: the
    /// leader equivocated and the own branch is the losing one. It is left; what was voted stays
    /// voted, so this view sees no further vote of this replica.
    fn leave_a_wrong_branch(&mut self, slot: Slot, digest: Digest, out: &mut Outbox) {
        let known = self.chain.linked_digest_at(slot);
        if known.is_none_or(|known| known == digest) {
            return;
        }
        let equal = |unlinked: Option<(Slot, Digest)>| unlinked == Some((slot, digest));
        let claims = self
            .peers
            .iter()
            .filter(|peer| equal(peer.claims.unlinked))
            .count();
        if claims < self.config.quorums.one_correct() {
            return;
        }
        assert!(
            slot > self.decided,
            "I7: b+1 replicas decided {digest} at slot {slot}, here {} is decided",
            known.unwrap_or(Digest::ZERO)
        );
        self.abandon_branch(self.decided, out);
    }
}
