//! What is written where: the write-ahead log, the directory's superblock, the key-value table.
//!
//! This room decides bytes and positions; it starts no thread, reads no clock, and opens no file, but
//! for those of the table on disk ([`table::DiskStore`]). Whoever drives it moves the bytes and
//! reports back:
//!
//! * [`record`]: the 128-byte header in front of every record on disk,
//! * [`wal`]: [`Writer`] seals records (ordering thread), [`Journal`] groups them into writes (disk
//!   thread), [`recover`] reads them back and says what may be trusted, [`wal::examine`] shows people
//!   what else is there,
//! * [`superblock`]: binds a directory to one cluster, node and key,
//! * [`table`] and [`machine`]: the state that decided transactions act on,
//! * [`state`]: that state at a checkpoint, as a tree of hashes and as bytes for other replicas,
//! * [`snapshot`]: the frames of a file that holds such a state.
//!
//! Invariants: a [`Durable`] comes only from a completed flush or from a flushed recovery; a log is
//! cut only where nothing acknowledged can have been; the same operations in the same order give
//! the same results and the same scan order on every replica.

#![forbid(unsafe_code)]

pub mod machine;
pub mod record;
pub mod snapshot;
pub mod state;
pub mod superblock;
pub mod table;
pub mod wal;

pub use machine::{Kv, Noop, StateMachine};
pub use record::{Identity, Kind, LogId};
pub use superblock::Superblock;
pub use table::{MemTable, Table};
pub use wal::{
    Batch, Damaged, Durable, Geometry, Journal, JournalFailed, Recovery, Sealed, SegmentInfo,
    SegmentSource, Tail, Verdict, WalFull, Writer, recover,
};
