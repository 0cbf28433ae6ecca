//! What enters the core and what leaves it.

use std::sync::Arc;

use wire::block::{BlockHeader, BlockRef};
use wire::certificates::{
    CheckpointCertificate, NewViewCertificate, Place, QuorumCertificate, WishCertificate,
};
use wire::ids::{Digest, NodeId, Position, Signature, Slot, View};
use wire::messages::{SignedHeader, Status};
use wire::reject::Reject;
use wire::seal::{CheckedViewChange, Signed, SignedNewView, Verified};

use crate::tree::RecordAs;

/// A verified view change, shared by those who keep it.
pub type ViewChangeRef = Arc<Verified<CheckedViewChange>>;
/// A verified NEW-VIEW.
pub type NewViewRef = Arc<Verified<SignedNewView>>;

/// How a block came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// PROPOSE over the leader's own link; its signature is still being verified.
    Proposed,
    /// BLOCK of any replica; signature and requests have been verified.
    Fetched,
    /// BLOCK of any replica whose requests hold and whose copy its leader did not sign. The digest does
    /// not bind that signature: it is taken where something that is signed names it.
    Vouched,
}

/// What verification says of one copy of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockCheck {
    Good,
    /// The leader did not sign it. The digest does not bind the signature, so this says nothing of
    /// the block: another copy may be good.
    ForeignSignature,
    /// The leader signed it, and some request in it is malformed or not its client's.
    InvalidPayload,
}

/// One thing that happened. Messages have passed the link MAC.
#[derive(Clone, Debug)]
pub enum Input {
    /// A whole block whose payload has the digest of its header; the caller keeps its bytes under
    /// its place when the answer is an [`Effect::Append`] or [`Effect::Hold`].
    Block {
        from: NodeId,
        source: Source,
        header: BlockHeader,
        signature: Signature,
        digest: Digest,
    },
    /// The caller built this block on [`crate::Core::proposal_parent`], signed it and keeps its
    /// bytes.
    Own {
        header: BlockHeader,
        signature: Signature,
        digest: Digest,
    },
    /// What verification says of the copy of a block that bears this signature.
    Checked {
        place: Place,
        signature: Signature,
        found: BlockCheck,
    },
    /// A BLOCK whose header the leader of its view signed, and whose payload is invalid (N9). The
    /// caller does not keep it.
    Unsound {
        signed: SignedHeader,
    },
    /// A block's log record ends here.
    Appended {
        place: Place,
        end: Position,
    },
    /// The record of the oldest unanswered [`Effect::Record`] ends here.
    Recorded {
        end: Position,
    },
    /// The log is durable up to here.
    Durable {
        position: Position,
    },
    /// A vote. Its signature was verified if COMMITs are sent in this committee (N4).
    Vote {
        from: NodeId,
        vote: BlockRef,
        signature: Signature,
    },
    /// COMMIT, WISH, RESIGN, NV-ACK or CHECKPOINT of the replica that signed it.
    Signed(Verified<Signed>),
    Decided {
        from: NodeId,
        slot: Slot,
        digest: Digest,
    },
    Status {
        from: NodeId,
        status: Status,
    },
    /// SILENT(boot, L): the sender may have forgotten votes for slots up to L (R3).
    Silent {
        from: NodeId,
        lease: Slot,
    },
    ViewChange(ViewChangeRef),
    NewView(NewViewRef),
    // Certificates hold room for the signatures of the largest committee, 2 KB. They are rare, and
    // every input moves through rings as large as its largest kind.
    WishCertificate(Box<Verified<WishCertificate>>),
    NewViewCertificate(Box<Verified<NewViewCertificate>>),
    CheckpointCertificate(Box<Verified<CheckpointCertificate>>),
    /// The caller verified, and stored, evidence against the leader of this view (N9).
    Evidence {
        view: View,
    },
    FetchBlock {
        from: NodeId,
        place: Place,
        have: Slot,
        grains: bool,
    },
    FetchRange {
        from: NodeId,
        first: Slot,
        count: u64,
    },
    FetchViewChange {
        from: NodeId,
        digest: Digest,
    },
    /// Execution has finished this slot and all below.
    Executed {
        slot: Slot,
    },
    /// The root of the state after this slot (K1).
    Root {
        slot: Slot,
        root: Digest,
    },
    /// The state at this certified slot was taken over from others (K4).
    Installed {
        certificate: Box<CheckpointCertificate>,
    },
    /// Time passed; the caller woke at [`crate::Core::wake_at`] or had nothing else to do.
    Tick,
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipient {
    All,
    One(NodeId),
}

/// A message that is too large to be copied about.
#[derive(Clone, Debug)]
pub enum Large {
    ViewChange(ViewChangeRef),
    NewView(NewViewRef),
    WishCertificate(Arc<WishCertificate>),
    NewViewCertificate(Arc<NewViewCertificate>),
    CheckpointCertificate(Arc<CheckpointCertificate>),
}

/// What the log keeps beside blocks.
#[derive(Clone, Debug)]
pub enum Record {
    /// Own view change, with the stage (V1).
    ViewChange(ViewChangeRef),
    /// Own NEW-VIEW, one per view (V2).
    NewView(NewViewRef),
    /// Own NV-ACK, one per view (V3).
    Ack(Verified<Signed>),
    /// A view installed (V4).
    Install(Arc<NewViewCertificate>),
    /// The tip jumped to this decided block without a vote (N2).
    Skip {
        view: View,
        place: Place,
    },
    /// Own COMMIT for the block of this certificate (N5).
    Commit(Arc<QuorumCertificate>),
    /// Votes for slots up to this one may leave without the disk (R3).
    Lease {
        view: View,
        slot: Slot,
    },
    Checkpoint(Arc<CheckpointCertificate>),
}

/// By what the newest final slot became final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// F votes of one view (N4).
    Fast,
    /// q COMMITs of one view (N6).
    Slow,
    /// Claims of b + 1 replicas or a checkpoint (N7).
    Learned,
}

/// What the caller must do, in this order.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Write the kept block to the log and answer with [`Input::Appended`]. With `verify` its
    /// signature and requests are to be checked as well. A block that was written as fetched may
    /// have to be written once more as a vote (R2).
    Append {
        place: Place,
        kind: RecordAs,
        verify: bool,
    },
    /// Keep the block; it is not written yet.
    Hold {
        place: Place,
    },
    /// Drop the bytes of the block just offered.
    Refuse {
        slot: Slot,
        reject: Reject,
    },
    /// Drop the kept bytes of this block.
    Forget {
        place: Place,
    },
    /// Write this to the log and answer with [`Input::Recorded`].
    Record(Record),
    /// Send this statement of the own replica.
    Say {
        to: Recipient,
        signed: Signed,
    },
    Tell {
        to: Recipient,
        message: Large,
    },
    Status {
        to: Recipient,
        status: Status,
    },
    /// Tell all that this replica is silent until a checkpoint at this slot (R3).
    Silent {
        lease: Slot,
    },
    Decided {
        to: NodeId,
        slot: Slot,
    },
    FetchBlock {
        to: NodeId,
        place: Place,
        have: Slot,
    },
    FetchRange {
        to: NodeId,
        first: Slot,
        count: u64,
    },
    FetchViewChange {
        to: NodeId,
        digest: Digest,
    },
    /// Send this block and its ancestors above `have`, newest first.
    Ancestors {
        to: NodeId,
        place: Place,
        have: Slot,
    },
    /// Send the final blocks of these slots, ascending.
    Blocks {
        to: NodeId,
        first: Slot,
        last: Slot,
    },
    /// Send the named fragments of one block, as the request that is being handled lists them.
    Grains {
        to: NodeId,
        place: Place,
    },
    /// Every slot up to this one is final.
    Final {
        place: Place,
        way: Way,
    },
    /// Another view is installed: a new leader takes requests.
    Installed {
        view: View,
    },
    /// Store this proof against a leader (N9, E1) and answer with [`Input::Evidence`].
    Evidence(Evidence),
    /// The state at this slot is certified and everything below was executed here (K2).
    Stable {
        slot: Slot,
    },
    /// Blocks up to this certified state will not come any more, or too slowly: take the state
    /// over, then answer [`Input::Installed`] (K4).
    Transfer(Arc<CheckpointCertificate>),
    /// The own state differs from a certified one (K3).
    Diverged {
        slot: Slot,
        own: Digest,
        certified: Digest,
    },
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

/// Effects that one input can cause at most: a parent arrives and releases every held block, each
/// of them changes what is asked and voted, and each has three rivals to forget.
pub const EFFECTS_PER_INPUT_MAX: usize = 16_384;

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

    /// For what has no effects; takes no memory.
    pub fn without_room() -> Outbox {
        Outbox {
            effects: Vec::new(),
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

    /// Effects that wait.
    pub fn effects(&self) -> &[Effect] {
        &self.effects
    }

    pub fn is_empty(&self) -> bool {
        self.effects.is_empty()
    }
}
