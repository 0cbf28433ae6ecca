//! What the ordering half is told, and what it wants done.

use std::sync::Arc;

use consensus::Recipient;
use storage::wal::{Durable, Sealed};
use wire::bytes::Buffers;
use wire::certificates::{CheckpointCertificate, Place};
use wire::header::Kind;
use wire::ids::{Digest, NodeId, PublicKey, Sequence, SessionId, Slot, View};
use wire::messages::{EvidenceBody, SignedHeader};
use wire::reject::Reject;
use wire::seal::{Statement, Verified};

use crate::blocks::Raw;
use crate::execution::Work;
use crate::peer::{Grains, PeerMessage};
use crate::pending::Question;
use crate::verifying::Offer;

/// What arrives at this half.
pub enum Input<Bu: Buffers> {
    /// A client's request whose signature holds.
    Request(Verified<Bu::Shared>),
    /// The same, from a replica that has waited for it to be ordered (§9.4).
    Forwarded {
        from: NodeId,
        request: Verified<Bu::Shared>,
    },
    /// A whole block message from a replica's link, straight from reassembly.
    Proposed {
        from: NodeId,
        raw: Raw<Bu::Unique>,
    },
    /// A whole BLOCK from a replica's link; nothing of it is verified.
    Offered {
        from: NodeId,
        raw: Raw<Bu::Unique>,
    },
    /// The same: every request holds, and the leader's signature. An `unsigned` copy was found to lack
    /// that after so many checks.
    Fetched {
        from: NodeId,
        place: Place,
        raw: Verified<Raw<Bu::Unique>>,
        unsigned: Option<u64>,
    },
    /// The same: refused, after so many checks of signatures. Its leader signed this header of it, if
    /// there is one.
    Unfit {
        from: NodeId,
        place: Place,
        checks: u64,
        unsound: Option<SignedHeader>,
    },
    /// The verdict on a block that was sent to be verified, or a message whose signatures hold.
    Agreement(consensus::Input),
    /// Two headers, both signed by the leader of their view.
    Evidence(Box<EvidenceBody>),
    Peer {
        from: NodeId,
        message: PeerMessage,
    },
    /// The journal's word; nothing else makes one.
    Durable(Durable),
    /// Blocks up to this slot are executed, and that was new.
    Executed {
        slot: Slot,
        work: Work,
    },
    /// The root of the state after this slot.
    Root {
        slot: Slot,
        root: Digest,
    },
    /// Whether a request that waits here is still to be executed.
    Rechecked {
        question: Question,
        waits: bool,
    },
    /// The state at this certified slot was taken over.
    Installed {
        certificate: Box<CheckpointCertificate>,
        /// The last slot of the epoch, if the state there tells it.
        last: Option<Slot>,
    },
    /// A snapshot of the state at `slot` is durable. `shown_from`: the oldest one that others are
    /// being shown; they need the blocks above it.
    Saved {
        slot: Slot,
        shown_from: Option<Slot>,
    },
    /// [`Output::Save`] came to nothing.
    SaveFailed,
    /// A record read back from the log.
    Record {
        read: ReadBack,
        record: Bu::Shared,
    },
    /// A read failed or found no buffer: the asker will ask again.
    ReadDropped,
    /// So many log segments exist now.
    Granted {
        segments: u32,
    },
    Tick,
}

/// Why a record is read from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadBack {
    pub slot: Slot,
    pub segment: u32,
    pub offset: u64,
    pub bytes: usize,
    pub to: NodeId,
    pub want: Want,
}

/// What an asker is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// DECIDED with the block's digest, not the block.
    Claim,
    /// Final blocks in a row.
    Range,
    /// A block that it named.
    Block,
}

/// What this half wants done, in order.
pub enum Output<Bu: Buffers> {
    Send {
        to: Recipient,
        message: PeerMessage,
    },
    /// A long message, in fragments named by the front of `digest`; with `grains` only the marked
    /// ones.
    SendLong {
        to: Recipient,
        kind: Kind,
        view: View,
        slot: Slot,
        digest: Digest,
        message: Bu::Shared,
        grains: Option<Grains>,
    },
    Append(Sealed<Bu::Shared>),
    /// Check the leader's signature and all requests, then answer with
    /// [`consensus::Input::Checked`].
    Verify {
        place: Place,
        message: Bu::Shared,
    },
    /// Check all requests of a block that another replica sent and the leader's signature, without
    /// which a `vouched` one may do, then answer with [`Input::Fetched`] or [`Input::Unfit`].
    Judge(Offer<Bu>),
    /// Apply this decided block.
    Execute {
        slot: Slot,
        message: Bu::Shared,
    },
    Read(ReadBack),
    /// Say whether any part of this request is still to be executed: [`Input::Rechecked`].
    Recheck(Question),
    /// The state at this slot is certified, and the own one is equal.
    Stable(Slot),
    /// The certificate of the slot that is stable now.
    Certified(Arc<CheckpointCertificate>),
    /// An older certificate than the newest one came: of a checkpoint that its sender can show.
    Offered(Arc<CheckpointCertificate>),
    /// The log has grown, or takes no more blocks: write a snapshot of the pinned checkpoint, else of
    /// the next one, then answer [`Input::Saved`] or [`Input::SaveFailed`].
    Save {
        /// The log takes no more blocks: no transfer of an older checkpoint is waited for.
        full: bool,
    },
    /// Whether each checkpoint is to be kept whole until the next one: some replica can be helped
    /// by the state alone.
    KeepNewest(bool),
    /// The state at the last slot of the epoch is certified by this, and durable here (G2). The caller
    /// ends this replica and begins the next epoch's.
    EpochOver(Arc<CheckpointCertificate>),
    /// Take the state of this certificate over from others.
    Transfer(Arc<CheckpointCertificate>),
    /// The own state differs from a certified one (K3).
    Diverged {
        slot: Slot,
        own: Digest,
        certified: Digest,
    },
    /// Answer a repeated request from its session; session 0 stands for a repeated OPEN.
    Resend {
        client: PublicKey,
        session: SessionId,
        first: Sequence,
        count: u16,
    },
    Busy {
        client: PublicKey,
        first: Sequence,
        log_full: bool,
    },
    /// A peer holds this statement of the own replica, which the log does not know: the disk was put
    /// back or lost what was durable (R6). The process must end; nothing leaves after this.
    DiskLost(Statement),
    /// A block was refused; for the counters.
    Refused(Reject),
}
