//! What each replica has said: bounded to its deepest linked and its newest unlinked word (N3).

use wire::block::BlockRef;
use wire::ids::{Digest, Instant, Slot, View};
use wire::messages::Status;

use crate::chain::Chain;

/// The two words kept of one replica, for votes and for DECIDED claims alike.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Words {
    /// Deepest slot said for a block on the chain.
    pub linked: Slot,
    /// Newest word for a block that is not (yet) on the chain.
    pub unlinked: Option<(Slot, Digest)>,
}

impl Words {
    /// Takes a word in. True when the linked one moved.
    pub fn hear(&mut self, chain: &Chain, slot: Slot, digest: Digest) -> bool {
        if slot <= self.linked {
            return false;
        }
        if chain.holds(slot, &digest) {
            self.linked = slot;
            if self.unlinked.is_some_and(|(unlinked, _)| unlinked <= slot) {
                self.unlinked = None;
            }
            return true;
        }
        if self.unlinked.is_none_or(|(unlinked, _)| slot >= unlinked) {
            self.unlinked = Some((slot, digest));
        }
        false
    }

    /// The blocks above `keep` left the chain: what was said for them says nothing here any more.
    pub fn cut(&mut self, keep: Slot) {
        self.linked = self.linked.min(keep);
    }

    /// The chain grew: the unlinked word may lie on it now.
    pub fn relink(&mut self, chain: &Chain) -> bool {
        match self.unlinked {
            Some((slot, digest)) if chain.holds(slot, &digest) => {
                self.unlinked = None;
                let moved = slot > self.linked;
                self.linked = self.linked.max(slot);
                moved
            }
            _ => false,
        }
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
