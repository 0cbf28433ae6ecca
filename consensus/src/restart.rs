//! R2, R4: the core as the log of earlier boots left it.

use wire::block::BlockHeader;
use wire::ids::{Digest, Epoch, Instant, Position, Signature, Slot, View};

use crate::chain::{Chain, Entry, Validity};
use crate::core::{Config, Core};
use crate::peers::{OwnVote, Peer};
use crate::repair::Repair;

/// A block of the log: its signatures hold, or it is known to be decided.
#[derive(Clone, Copy, Debug)]
pub struct RecoveredBlock {
    pub header: BlockHeader,
    pub signature: Signature,
    pub digest: Digest,
    /// End of its record.
    pub end: Position,
}

/// What the log says. `Recovered::blank(genesis)` on the first boot.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// (epoch, stage) of the START records of earlier boots, `None` when there is none (R4).
    pub restarted_in: Option<(Epoch, View)>,
    /// Highest slot that the log knows to be decided, and its digest.
    pub decided: Slot,
    pub decided_digest: Digest,
    /// The chain, ascending and without gaps, up to the tip; it may begin anywhere at or below
    /// `decided + 1`.
    pub blocks: Vec<RecoveredBlock>,
    /// The log holds a vote on a branch that was left: no further vote in this view.
    pub voting_stopped: bool,
    /// Everything in the log is durable up to here.
    pub durable_position: Position,
}

impl Recovered {
    /// An empty log.
    pub fn blank(genesis: Digest) -> Recovered {
        Recovered {
            restarted_in: None,
            decided: Slot(0),
            decided_digest: genesis,
            blocks: Vec::new(),
            voting_stopped: false,
            durable_position: Position(0),
        }
    }
}

/// Rebuilds the core. What is in the log counts as voted (over-claiming is safe, §14), so the tip
/// is the last block of the log; its vote is sent again once all up to it was verified.
pub(crate) fn restore(config: Config, recovered: Recovered, now: Instant) -> Core {
    let (base, base_digest) = match recovered.blocks.first() {
        Some(first) => (Slot(first.header.slot().0 - 1), first.header.parent),
        None => (recovered.decided, recovered.decided_digest),
    };
    assert!(
        base <= recovered.decided,
        "the recovered chain reaches down to what is decided"
    );
    let mut chain = Chain::new(base, base_digest);
    for block in &recovered.blocks {
        chain.insert(
            block.header.slot(),
            Entry {
                header: block.header,
                signature: block.signature,
                digest: block.digest,
                validity: Validity::Valid,
                end: Some(block.end),
                seen_at: now,
            },
        );
        chain.link_next();
    }
    // The block right below the chain is known by its digest alone.
    let at_base = recovered.decided == base && recovered.decided_digest == base_digest;
    assert!(
        at_base || chain.holds(recovered.decided, &recovered.decided_digest),
        "I7"
    );
    let view = recovered.restarted_in.map_or(View(0), |(_, stage)| stage);
    let mut core = Core {
        config,
        stage: view,
        installed: view,
        restarted_in: recovered.restarted_in,
        durable: recovered.decided,
        valid: recovered.decided,
        voted: recovered.decided,
        decided: recovered.decided,
        decided_digest: recovered.decided_digest,
        executed: Slot(0),
        durable_position: recovered.durable_position,
        voting_stopped: recovered.voting_stopped,
        log_full: false,
        holds_unlinked: false,
        own_vote: None,
        peers: vec![Peer::new(); config.quorums.n],
        repair: Repair::new(now),
        accused: None,
        chain,
    };
    if core.decided > Slot(0) && !core.voting_stopped {
        let vote = wire::block::BlockRef {
            view,
            slot: core.decided,
            digest: core.decided_digest,
        };
        core.own_vote = Some(OwnVote { vote, sent_at: now });
        core.peers[config.me.index()].votes.linked = core.decided;
    }
    core
}
