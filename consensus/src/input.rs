//! What enters the core and what leaves it.

use wire::block::{BlockHeader, BlockRef};
use wire::ids::{Digest, NodeId, Position, Signature, Slot, View};
use wire::messages::{SignedHeader, Status};
use wire::reject::Reject;

/// How a block came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// PROPOSE over the leader's own link; its signature is still being verified.
    Proposed,
    /// BLOCK of any replica; signature and requests have been verified.
    Fetched,
}

/// One thing that happened. Messages have passed the link MAC.
#[derive(Clone, Copy, Debug)]
pub enum Input {
    /// A whole block whose payload has the digest of its header; the caller keeps its bytes under
    /// its slot when the answer is an [`Effect::Append`] or [`Effect::Hold`].
    Block {
        from: NodeId,
        source: Source,
        header: BlockHeader,
        signature: Signature,
        digest: Digest,
    },
    /// The caller built this block on [`Core::proposal_parent`], signed it and keeps its bytes.
    Own {
        header: BlockHeader,
        signature: Signature,
        digest: Digest,
    },
    /// The leader's signature and all requests of a block were verified.
    Checked {
        slot: Slot,
        digest: Digest,
        valid: bool,
    },
    /// A block's log record ends here.
    Appended {
        slot: Slot,
        end: Position,
    },
    /// The log is durable up to here.
    Durable {
        position: Position,
    },
    Vote {
        from: NodeId,
        vote: BlockRef,
    },
    Decided {
        from: NodeId,
        slot: Slot,
        digest: Digest,
    },
    Status {
        from: NodeId,
        view: View,
        status: Status,
    },
    FetchBlock {
        from: NodeId,
        slot: Slot,
        digest: Digest,
        have: Slot,
        grains: bool,
    },
    FetchRange {
        from: NodeId,
        first: Slot,
        count: u64,
    },
    /// Execution has finished this slot and all below.
    Executed {
        slot: Slot,
    },
    /// Time passed; the caller woke at [`Core::wake_at`] or had nothing else to do.
    Tick,
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipient {
    All,
    One(NodeId),
}

/// What the caller must do, in this order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Effect {
    /// Write the kept block as a block record, which is the vote record (R2), and answer with
    /// [`Input::Appended`]. With `verify` its signature and requests are to be checked as well.
    Append {
        slot: Slot,
        digest: Digest,
        verify: bool,
    },
    /// Keep the block, its parent is missing.
    Hold {
        slot: Slot,
        digest: Digest,
    },
    /// Drop the bytes of the block just offered.
    Refuse {
        slot: Slot,
        reject: Reject,
    },
    /// Drop the kept bytes of this slot: the block was found invalid or superseded.
    Forget {
        slot: Slot,
    },
    /// Sign and send a VOTE.
    Vote {
        to: Recipient,
        vote: BlockRef,
    },
    Status {
        to: Recipient,
        status: Status,
    },
    Decided {
        to: NodeId,
        slot: Slot,
    },
    FetchBlock {
        to: NodeId,
        slot: Slot,
        digest: Digest,
        have: Slot,
    },
    FetchRange {
        to: NodeId,
        first: Slot,
        count: u64,
    },
    /// Send the blocks of these slots, ascending or newest first.
    Blocks {
        to: NodeId,
        first: Slot,
        last: Slot,
        newest_first: bool,
    },
    /// Send the named fragments of one block, as the request that is being handled lists them.
    Grains {
        to: NodeId,
        slot: Slot,
    },
    /// Every slot up to this one is final. `fast`: by votes counted here (N4), else learned (N7).
    Final {
        slot: Slot,
        digest: Digest,
        fast: bool,
    },
    /// Store this proof against a leader (N9, E1).
    Evidence(Evidence),
}

/// A proof that the leader of a view lied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    /// One of the `EVIDENCE_` kinds of [`wire::messages`].
    pub kind: u8,
    pub first: SignedHeader,
    pub second: SignedHeader,
}

/// Effects of the inputs of one turn; bounded, its memory is taken once.
#[derive(Debug)]
pub struct Outbox {
    effects: Vec<Effect>,
}

/// Effects that one input can cause at most: a parent arrives and releases every held block, and
/// each of them changes what is asked and voted.
pub const EFFECTS_PER_INPUT_MAX: usize = 1024;

impl Default for Outbox {
    fn default() -> Self {
        Outbox::new()
    }
}

impl Outbox {
    pub fn new() -> Outbox {
        Outbox {
            effects: Vec::with_capacity(EFFECTS_PER_INPUT_MAX),
        }
    }

    pub(crate) fn push(&mut self, effect: Effect) {
        assert!(
            self.effects.len() < EFFECTS_PER_INPUT_MAX,
            "one input caused too many effects"
        );
        self.effects.push(effect);
    }

    /// Takes the effects out, in order.
    pub fn drain(&mut self) -> impl Iterator<Item = Effect> + '_ {
        self.effects.drain(..)
    }

    pub fn is_empty(&self) -> bool {
        self.effects.is_empty()
    }
}
