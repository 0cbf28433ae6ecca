//! What a datagram turned out to be, or completed.

use std::fmt;
use std::net::SocketAddr;

use super::{Linked, ShortDatagram};
use crate::bytes::Buffers;
use crate::header::Kind;
use crate::ids::{NodeId, PublicKey, Slot, View};
use crate::limits::RECORD_HEADER_BYTES;

/// The bytes of a message.
pub enum Body<Bu: Buffers> {
    /// Part of the datagram; no copy was made.
    Whole(Bu::Shared),
    /// In a buffer of its own, behind the room for a record header, with this length. PROPOSE and
    /// BLOCK always come so.
    Assembled(Bu::Unique, usize),
}

impl<Bu: Buffers> Body<Bu> {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Body::Whole(bytes) => bytes,
            Body::Assembled(buffer, length) => {
                let start = RECORD_HEADER_BYTES;
                &buffer[start..start + length]
            }
        }
    }
}

impl<Bu: Buffers> fmt::Debug for Body<Bu> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.bytes().len())
    }
}

/// A replica's message.
#[derive(Debug)]
pub struct FromPeer<Bu: Buffers> {
    pub from: NodeId,
    pub kind: Kind,
    pub view: View,
    pub slot: Slot,
    pub body: Body<Bu>,
}

/// A client's message: REQUEST, OPEN or READ.
#[derive(Debug)]
pub struct FromClient<Bu: Buffers> {
    pub client: PublicKey,
    pub kind: Kind,
    pub body: Body<Bu>,
}

/// What a datagram turned out to be.
#[derive(Debug)]
pub enum Incoming<Bu: Buffers> {
    Peer(Linked<FromPeer<Bu>>),
    Client(Linked<FromClient<Bu>>),
    /// Part of a greeting: send these bytes there.
    Respond {
        to: SocketAddr,
        datagram: ShortDatagram,
    },
}
