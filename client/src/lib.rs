//! The client of a Hippodrome cluster.
//!
//! [`Client`] is the event-driven core: one Ed25519 key, one session, no clock, no socket, no
//! thread. Time arrives as an argument, datagrams leave through an [`Outbox`], results come back
//! as [`Completion`]s. [`blocking::Connection`] puts it on a UDP socket for programs that do one
//! thing at a time.
//!
//! Invariants (protocol §9):
//! - A result is accepted only from b+1 equal authentic replies of distinct replicas, so at least
//!   one correct replica vouches for it. No single replica can make one up. A fenced read takes
//!   n-q+b+1 equal answers instead, so that one is of a correct replica which voted for everything
//!   that had completed before; without them it is ordered. A stale read is one replica's word.
//! - Every tag that was submitted ends in exactly one completion. One without a result has an
//!   unknown outcome: the operation may have been executed or may yet be.
//! - A request is signed once and sent again as it is, so it is executed at most once.
//! - Memory is bounded by the session window; in steady state nothing is allocated per operation.
#![forbid(unsafe_code)]

pub mod blocking;
mod bundles;
mod client;
mod links;
mod options;
mod reads;
mod session;
mod window;

pub use client::Client;
pub use options::{
    Completion, ConfigError, Counters, Dissemination, Failure, Options, Outbox, Pushback,
    SubmitError, Way,
};
pub use wire::keys::ClientSecret as Secret;
