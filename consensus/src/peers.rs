//! Everything known of one replica beside its votes.

use wire::block::BlockRef;
use wire::ids::{Boot, Instant, Signature, Slot, View};
use wire::messages::{Held, Status};

use crate::image::image;
use crate::words::Words;

/// The newest wish of a replica (Y1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerWish {
    pub view: View,
    pub boot: Boot,
    pub counter: u64,
    pub signature: Signature,
    pub heard_at: Instant,
}
image!(PeerWish {
    view,
    boot,
    counter,
    signature,
    heard_at
});

/// One replica as this one sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Peer {
    /// DECIDED claims.
    pub claims: Words,
    pub status: Option<Status>,
    /// Its highest statement (R6).
    pub held: Option<Held>,
    /// L, while it says that it is silent (R3).
    pub silent_until: Option<Slot>,
    pub heard_at: Option<Instant>,
    pub wish: Option<PeerWish>,
    /// When our vote was last repeated to it.
    pub vote_resent_at: Option<Instant>,
    /// When certificates were last sent to it because it lags behind.
    pub helped_at: Option<Instant>,
    /// When a fetch of it was last answered; answers are limited to one per RTO.
    pub answered_at: Option<Instant>,
    /// The same for claims alone, which block answers must not crowd out.
    pub claimed_at: Option<Instant>,
}
image!(Peer {
    claims,
    status,
    held,
    silent_until,
    heard_at,
    wish,
    vote_resent_at,
    helped_at,
    answered_at,
    claimed_at
});

/// The vote, or COMMIT, that this replica repeats when asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnWord {
    pub block: BlockRef,
    pub signature: Signature,
    pub sent_at: Instant,
}
image!(OwnWord {
    block,
    signature,
    sent_at
});
