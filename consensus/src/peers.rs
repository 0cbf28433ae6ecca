//! What each replica has said: bounded to its deepest linked and its newest unlinked word (N3).

use wire::block::BlockRef;
use wire::ids::{Digest, Instant, Slot, View};
use wire::messages::Status;

use crate::chain::Chain;

/// The words kept of one replica, for votes and for DECIDED claims alike.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Words {
    /// Deepest slot said for a block on the chain.
    pub linked: Slot,
    /// Newest word for a block that is not (yet) on the chain.
    pub unlinked: Option<(Slot, Digest)>,
    /// The lowest such word, while there are two: where blocks always arrive a little later than
    /// words for them, the newest word would be replaced for ever before its block links.
    pub lowest: Option<(Slot, Digest)>,
}

impl Words {
    /// Takes a word in.
    pub fn hear(&mut self, chain: &Chain, slot: Slot, digest: Digest) {
        if slot <= self.linked {
            return;
        }
        if chain.holds(slot, &digest) {
            self.linked = slot;
            self.relink(chain);
        } else if slot <= chain.linked || self.unlinked.is_none() {
            self.unlinked = Some((slot, digest));
        } else if self.unlinked.is_some_and(|(unlinked, _)| slot > unlinked) {
            self.lowest = self.lowest.or(self.unlinked);
            self.unlinked = Some((slot, digest));
        }
    }

    /// As [`Words::hear`]; a claim that contradicts the chain is kept before any newer one, for
    /// b + 1 equal ones show that the own branch lost.
    pub fn hear_claim(&mut self, chain: &Chain, slot: Slot, digest: Digest) {
        let contradicted = self
            .unlinked
            .is_some_and(|(unlinked, _)| unlinked <= chain.linked);
        if slot <= chain.linked || !contradicted {
            self.hear(chain, slot, digest);
        }
    }

    /// The blocks above `keep` left the chain: what was said for them says nothing here any more.
    pub fn cut(&mut self, keep: Slot) {
        self.linked = self.linked.min(keep);
    }

    /// The chain grew: unlinked words may lie on it now.
    pub fn relink(&mut self, chain: &Chain) {
        let linked = &mut self.linked;
        let mut passed = |word: &mut Option<(Slot, Digest)>, contradiction_stays: bool| {
            let Some((slot, digest)) = *word else { return };
            if slot > chain.linked {
                return;
            }
            let holds = chain.holds(slot, &digest);
            if holds {
                *linked = slot.max(*linked);
            }
            if holds || !contradiction_stays || slot <= *linked {
                *word = None;
            }
        };
        passed(&mut self.lowest, false);
        passed(&mut self.unlinked, true);
    }
}

/// Everything known of one replica.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    /// Votes of the current view.
    pub votes: Words,
    /// DECIDED claims.
    pub claims: Words,
    pub status: Option<Status>,
    pub heard_at: Option<Instant>,
    /// When our vote was last repeated to it.
    pub vote_resent_at: Option<Instant>,
    /// When a fetch of it was last answered; answers are limited to one per RTO.
    pub answered_at: Option<Instant>,
}

impl Peer {
    pub fn new() -> Peer {
        Peer {
            votes: Words::default(),
            claims: Words::default(),
            status: None,
            heard_at: None,
            vote_resent_at: None,
            answered_at: None,
        }
    }
}

/// The vote a replica repeats when asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnVote {
    pub vote: BlockRef,
    pub sent_at: Instant,
}

/// An unlinked vote worth fetching.
pub(crate) fn wanted(view: View, words: &Words) -> Option<BlockRef> {
    words
        .unlinked
        .map(|(slot, digest)| BlockRef { view, slot, digest })
}
