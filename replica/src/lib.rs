//! A whole server without a machine: consensus, storage and client sessions joined.
//!
//! Two halves that talk only by messages, so that they run on one thread or on several:
//! [`ordering::Ordering`] (consensus, batching, the log's writer) and [`execution::Execution`]
//! (sessions, table, replies). [`verifying::Verifying`] checks signatures for the first;
//! [`replica::Replica`] joins all of them with the link and the journal into one object, which the
//! simulator runs; the node runs the same parts as stages on pinned threads.
//!
//! Nothing here knows a clock, a file, a socket or a thread. Time arrives with each input; what is
//! to be sent, written or read leaves as effects; block bytes are buffers that the caller lends.
//!
//! **Durable before spoken** (R2): a vote leaves [`ordering::Ordering`] only after a
//! [`storage::wal::Durable`], which only the journal makes, has covered the record behind it.
#![forbid(unsafe_code)]

/// The agreement that this crate drives, for programs that build a server from its parts.
pub use consensus as agreement;

pub mod admission;
pub mod allowance;
pub mod batch;
pub mod blocks;
pub mod execution;
pub mod fair;
pub mod flush;
pub mod ledger;
pub mod ordering;
pub mod peer;
pub mod pending;
pub mod reads;
pub mod recorder;
pub mod recording;
pub mod recovery;
pub mod replica;
pub mod saving;
pub mod sessions;
pub mod snapshot;
pub mod takeover;
pub mod transfer;
pub mod verify_queue;
pub mod verifying;
