//! What a replica starts from.

use consensus::quorum::Quorums;
use storage::record::Identity;
use storage::wal::{Geometry, JournalLimits};
use thiserror::Error;
use wire::bytes::Buffers;
use wire::committee::Committee;
use wire::ids::NodeId;
use wire::keys::NodeSecret;
use wire::link::LinkError;

use crate::batch::BatchLimits;
use crate::recovery::RestartError;

/// Work of one call at most; a pause between calls lets other inputs in between.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub verifications: usize,
    pub executions: usize,
}

impl Pace {
    /// Everything at once.
    pub const ALL: Pace = Pace {
        verifications: usize::MAX,
        executions: usize::MAX,
    };
}

/// What a replica starts from.
pub struct Setup<'a, Bu: Buffers, S, V, M> {
    pub me: NodeId,
    pub committee: &'a Committee,
    pub secret: &'a NodeSecret,
    pub quorums: Quorums,
    pub signer: S,
    pub verifier: V,
    pub machine: M,
    pub geometry: Geometry,
    pub identity: Identity,
    pub journal: JournalLimits,
    pub batch: BatchLimits,
    /// Blocks above the executed slot whose bytes are held.
    pub blocks_held_max: u64,
    /// K: slots between checkpoints.
    pub interval: u64,
    /// Patience with a leader is never below this, in nanoseconds.
    pub patience_ns_min: u64,
    /// Votes carry signatures.
    pub sign_votes: bool,
    /// A replica that is further behind a checkpoint takes the state over, in slots.
    pub transfer_beyond: u64,
    /// Datagrams of this many bytes at most.
    pub datagram_bytes: usize,
    /// New at every start.
    pub cookie_secret: [u8; 32],
    pub wall_offset_ns: u64,
    pub pace: Pace,
    /// Block buffers, single sectors, and buffers for long requests.
    pub blocks: Bu,
    pub sectors: Bu,
    pub messages: Bu,
}

/// Why a replica does not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Log(#[from] RestartError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("flushing the log failed with errno {0}")]
    Flush(i32),
}
