//! The stages of the hot path: each a component with a non-blocking `turn`, joined by rings.

pub mod execute;
pub mod journal;
pub mod links;
pub mod net;
pub mod order;
pub mod thread;
pub mod verify;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use platform::PlatformError;
use storage::wal::JournalFailed;
use wire::certificates::CheckpointCertificate;
use wire::ids::{NodeId, Slot};
use wire::seal::Statement;

use crate::telemetry::Telemetry;

/// Places that a stage keeps free in the ring to `order` before it takes more work in.
pub const ORDER_ROOM_MIN: usize = 128;

/// What all stages of a node share: counters, and a few words that cross threads.
#[derive(Clone)]
pub struct Shared {
    pub me: NodeId,
    pub telemetry: Arc<Telemetry>,
    pub segments_wanted: Arc<Word>,
    pub fence: Arc<Fence>,
    pub no_space: Arc<Switch>,
    /// Damage was found in the log: it is to be let go early.
    pub log_rotten: Arc<Switch>,
    /// START is durable (R4): before that no stage sends anything but what a link needs.
    pub started: Arc<Switch>,
    /// The node was told to stop: `order` writes its marker.
    pub stopping: Arc<Switch>,
    /// Every thread ends.
    pub stopped: Arc<Switch>,
}

impl Shared {
    pub fn new(me: NodeId, telemetry: Arc<Telemetry>) -> Shared {
        Shared {
            me,
            telemetry,
            segments_wanted: Arc::default(),
            fence: Arc::default(),
            no_space: Arc::default(),
            log_rotten: Arc::default(),
            started: Arc::default(),
            stopping: Arc::default(),
            stopped: Arc::default(),
        }
    }
}

/// A number that one thread writes and others read.
#[derive(Debug, Default)]
pub struct Word(AtomicU64);

impl Word {
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The fence of fenced READs (protocol §9.6): `order` writes it, `execute` reads it.
///
/// `order` publishes after each input, *before* it hands out what followed from that input. So the
/// fence of every vote is stored before that vote enters the ring to `net`. `execute` loads it only
/// after it took the READ from the ring of `net`. Between the two lies `net` itself, which sent the
/// vote before it received any READ asked after that vote was counted: store, ring, send, receive,
/// ring, load is one chain of happens-before (rings release and acquire), so the load finds a fence
/// that covers the vote. A later fence is as good: it only makes the READ wait for more.
#[derive(Debug)]
pub struct Fence(AtomicU64);

/// Stands for a replica that answers no fenced READ.
const NO_FENCE: u64 = u64::MAX;

impl Default for Fence {
    fn default() -> Fence {
        Fence(AtomicU64::new(NO_FENCE))
    }
}

impl Fence {
    pub fn publish(&self, fence: Option<Slot>) {
        let slot = fence.map_or(NO_FENCE, |slot| slot.0);
        self.0.store(slot, Ordering::Release);
    }

    pub fn load(&self) -> Option<Slot> {
        let slot = self.0.load(Ordering::Acquire);
        (slot != NO_FENCE).then_some(Slot(slot))
    }
}

/// A condition that one thread sets and others read.
#[derive(Debug, Default)]
pub struct Switch(AtomicBool);

impl Switch {
    pub fn set(&self, on: bool) {
        self.0.store(on, Ordering::Release);
    }

    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Why a hot thread ends the process.
#[derive(Debug)]
pub enum Failure {
    Platform(PlatformError),
    Journal(JournalFailed),
    /// R6.
    DiskLost(Statement),
    /// G2: none, but the end of what the stages were made for.
    EpochOver(Arc<CheckpointCertificate>),
    /// A snapshot could not be written.
    Snapshot(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Platform(error) => error.fmt(f),
            Failure::Journal(error) => error.fmt(f),
            Failure::DiskLost(found) => write!(
                f,
                "another node holds a statement of this one that its log does not know ({found:?}): \
                 the data directory is an old copy, or its disk lost what it had flushed. This node \
                 must not vote again; start it anew as a new member"
            ),
            Failure::EpochOver(certificate) => {
                write!(f, "the epoch is over at slot {}", certificate.header.slot())
            }
            Failure::Snapshot(error) => error.fmt(f),
        }
    }
}
