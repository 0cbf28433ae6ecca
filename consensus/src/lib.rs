//! The order: which block stands at which slot, and when that is final.
//!
//! # The protocol in prose
//!
//! A committee of n replicas keeps one chain of blocks. The leader of the current view extends its
//! own last block and sends PROPOSE to all (N1). Every replica that holds the block, found its
//! parent to be its own tip and wrote it to its log, sends VOTE(view, slot, digest) to all (N2, R2).
//! A vote names a block and, through the hash chain, its whole prefix: votes are cumulative (N3).
//! A block is decided as soon as F = n - p replicas voted for it or for a descendant, all in one
//! view (N4): two message delays after the proposal. Where F > q a slower path runs beside it: q
//! votes make a certificate, whose holders send COMMIT, and q of those decide as well (N5, N6).
//!
//! A replica that missed something asks: FETCH-BLOCK for a block whose vote or child it has seen,
//! FETCH-RANGE when it is far behind; b + 1 equal DECIDED claims contain one of a correct replica
//! and decide too (N7). STATUS, sent all the time, shows who lacks what (§11).
//!
//! A leader that restarts never proposes in a view it may have proposed in before (R4): what it
//! sent before the crash may be unknown to its log, and a second, different block would prove it
//! an equivocator. It resigns instead (Y5).
//!
//! A leader that makes no progress, lies or resigns is left: V wishes open the next view (Y1-Y5), its
//! leader derives the base of the view from V view changes (V2, SELECT), and q acknowledgements of
//! that base certify it before anyone votes again (V3, V4). Equal states at every K-th slot make
//! checkpoints, which move the window in which votes are sent (K1, K2).
//!
//! A vote rests on a record on the disk (R2), or, where leases are configured, on one that says up to
//! which slot votes may leave without theirs (R3). Who then ends uncleanly may have forgotten some:
//! it is silent until all that they were for is certified history.
//!
//! # What this room may not do
//!
//! No clock, no bytes of blocks, no file, no socket, no thread. Time arrives with every input;
//! [`Core::handle`] leaves effects in the [`Outbox`]; block bytes, signatures and the log belong to
//! the caller, which carries the effects out in order. Everything is bounded by the window.
#![forbid(unsafe_code)]

mod answer;
mod blocks;
mod branch;
mod change;
mod change_repair;
mod chase;
mod checkpoint;
mod core;
mod decide;
mod epoch;
mod evidence;
mod fingerprint;
pub mod image;
mod input;
mod install;
mod lease;
mod own_change;
mod pace;
mod peers;
mod propose;
pub mod quorum;
mod recall;
mod repair;
mod restart;
mod select;
mod signing;
mod speak;
mod standing;
mod status;
mod timers;
mod tree;
mod turns;
mod vote;
mod wish;
mod words;

pub use crate::core::{Config, Core, Summary};
pub use input::{
    BlockCheck, Effect, Evidence, Input, Large, NewViewRef, Outbox, Recipient, Record, Source,
    ViewChangeRef, Way,
};
pub use restart::{Recovered, RecoveredBlock};
pub use select::{Selected, select};
pub use standing::{OwnWords, Standing};
pub use tree::{RecordAs, Validity};
pub use wish::WishReason;
