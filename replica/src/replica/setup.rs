//! What a replica starts from.

use consensus::quorum::Quorums;
use storage::record::Identity;
use storage::wal::{Geometry, JournalLimits};
use wire::bytes::Buffers;
use wire::committee::Committee;
use wire::ids::NodeId;
use wire::keys::NodeSecret;
use wire::messages::Durability;

use crate::batch::BatchLimits;

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
    /// S_max: sessions of clients.
    pub sessions_max: usize,
    /// Patience with a leader is never below this, in nanoseconds.
    pub patience_ns_min: u64,
    /// T4: a leader that is slower than it could be is replaced.
    pub replaces_slow_leaders: bool,
    /// Others are asked what they hold of this replica (R6).
    pub recalls: bool,
    /// Votes carry signatures.
    pub sign_votes: bool,
    /// A replica that is further behind a checkpoint takes the state over, in slots.
    pub transfer_beyond: u64,
    /// Which votes wait for the disk.
    pub durability: Durability,
    /// A snapshot is written when the log in use has this many bytes.
    pub snapshot_log_bytes: u64,
    /// Datagrams of this many bytes at most.
    pub datagram_bytes: usize,
    /// New at every start.
    pub cookie_secret: [u8; 32],
    pub wall_offset_ns: u64,
    pub pace: Pace,
    /// Block buffers, single sectors, buffers for long records and messages of the own, and for
    /// long requests.
    pub blocks: Bu,
    pub sectors: Bu,
    pub longs: Bu,
    pub messages: Bu,
}
