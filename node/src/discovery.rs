//! Finding and watching peers: the node manager's half that runs on the control thread.
//!
//! The committee file is the authority on who a peer is: its key. Where a peer is, is looked for:
//! at the address of the committee file first, then where the peer says it listens, in a beacon
//! under its signature or in a probe under its MAC, and last where its datagrams come from. Whatever
//! was said, a peer's address changes only when the peer has answered a probe *there* under its key:
//! so neither a stranger nor a member can point a node's traffic at somebody else.
//!
//! * [`book`]: per peer the address in use, and those that wait for an answer. Pure.
//! * [`meter`]: up, suspect or down; round trip; loss. Pure.
//! * [`core`]: what to send when, and what to make of what comes. Pure: time is an argument.
//! * [`links`]: what ended an epoch, asked for and told. Pure.
//! * [`agent`]: sockets and clock, every 20 ms.
//!
//! The net stage recognises beacons and probes by their first four bytes and copies them, unread,
//! into a ring; it looks at one counter every 10 ms to learn of moves. Nothing else of this touches
//! the hot path. What the ring has no room for is dropped and counted.

pub mod agent;
pub mod book;
pub mod core;
pub mod links;
pub mod meter;

use std::net::SocketAddr;

use wire::beacon::BEACON_BYTES;
use wire::ids::Instant;
use wire::link::PROBE_BYTES;
use wire::succession::{ASK_BYTES, ASK_HEAD_BYTES, ASK_MAGIC};

/// Longest datagram of discovery.
pub const DATAGRAM_BYTES_MAX: usize = if BEACON_BYTES > PROBE_BYTES {
    BEACON_BYTES
} else {
    PROBE_BYTES
};

/// Datagrams that wait for the control thread: what 12,000 a second bring between two looks.
pub const RING_DEPTH: usize = 256;

/// A datagram of discovery, unread, as the net stage hands it over.
#[derive(Clone, Copy)]
pub struct Arrived {
    /// When the net stage took it, which is what round trips are measured with.
    pub at: Instant,
    pub from: SocketAddr,
    bytes: [u8; DATAGRAM_BYTES_MAX],
    length: usize,
}

impl Arrived {
    /// Copies a datagram that begins as one of discovery; none for all others, and for longer ones.
    /// Of an ask for a link, which is long for the sake of its length, the beginning.
    pub fn recognise(at: Instant, from: SocketAddr, datagram: &[u8]) -> Option<Arrived> {
        let magic = datagram.get(..4)?;
        let datagram = if magic == ASK_MAGIC {
            let whole = (datagram.len() == ASK_BYTES).then_some(datagram)?;
            &whole[..ASK_HEAD_BYTES]
        } else if magic == wire::beacon::BEACON_MAGIC || magic == wire::link::PROBE_MAGIC {
            datagram
        } else {
            return None;
        };
        let mut bytes = [0; DATAGRAM_BYTES_MAX];
        bytes.get_mut(..datagram.len())?.copy_from_slice(datagram);
        Some(Arrived {
            at,
            from,
            bytes,
            length: datagram.len(),
        })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub fn is_ask(&self) -> bool {
        self.bytes().starts_with(&ASK_MAGIC)
    }
}
