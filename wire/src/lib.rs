//! Bytes on the network and in the log: ids, limits, header, messages, fragments and the seal.
//!
//! This room knows what every byte means and who may have produced it; it decides nothing. It has
//! no clock, no socket, no file and no thread. Bytes of a peer become a value in one way only:
//! [`link::Endpoint`] checks the link MAC and yields [`link::Linked`], [`seal`] checks a signature
//! and yields [`seal::Verified`]; everything else is a [`reject::Reject`] with a name and a counter.
//!
//! Layout is fixed by zerocopy structs whose sizes are asserted where they are declared; reserved
//! bytes are checked to be zero, trailing bytes are refused, and one value has one encoding.
#![forbid(unsafe_code)]

pub mod beacon;
pub mod block;
pub mod bytes;
pub mod canary;
pub mod certificates;
pub mod change;
pub mod committee;
mod cursor;
pub mod fragment;
pub mod header;
pub mod ids;
pub mod keys;
pub mod limits;
pub mod link;
pub mod messages;
pub mod ops;
pub mod read;
pub mod reject;
pub mod replay;
pub mod reply;
pub mod request;
pub mod seal;
pub mod state;
pub mod succession;
pub mod view_change;
