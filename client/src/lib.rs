//! The client of a Hippodrome cluster.
#![forbid(unsafe_code)]

mod bundles;
mod options;
mod reads;
mod session;
mod window;

pub use options::{Completion, Counters, Dissemination, Failure, Options, Outbox, SubmitError};
