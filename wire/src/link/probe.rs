//! Probes: short questions and answers between replicas, under a MAC, about where they are.
//!
//! A probe says where its sender listens, like a beacon but to one receiver alone, and carries the
//! number of a probe that it answers and how long that one waited. So its receiver learns two
//! things: the round trip, from its own clock alone, and that the sender receives at the address to
//! which the answered probe went. Probes have keys and counters of their own and touch nothing of
//! the links that carry the protocol.
//!
//! An answer goes to where its asker says it listens, never to where a datagram came from, and is
//! as long as the question: nobody can be reached through a replica but by a member of the
//! committee, and then with no more than that member sends itself.
//!
//! ```text
//! 0  magic "HPP1"   4 version   5 asks (0, 1)   6 sender (u16)   8 first bytes of the committee's digest
//! 16 boot (u32)   20 counter of the incarnation (u32)   24 number (u64)
//! 32 boot of the answered (u32)   36 zero (u32)   40 number of the answered (u64)   48 held, ns (u64)
//! 56 two addresses as in a beacon   96 tag: BLAKE3 keyed over bytes 0..96
//! ```

use std::fmt;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{LinkKeys, Linked, Role, equal, member_key, truncate};
use crate::beacon::{AddressList, Claim, Incarnation};
use crate::committee::Committee;
use crate::ids::{Boot, NodeId};
use crate::keys::NodeSecret;
use crate::reject::Reject;
use crate::seal::Domain;

/// First four bytes of a probe.
pub const PROBE_MAGIC: [u8; 4] = *b"HPP1";
/// A whole probe.
pub const PROBE_BYTES: usize = 112;

const VERSION: u8 = 1;
const TAGGED_BYTES: usize = PROBE_BYTES - 16;

/// The probe that is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// Of the process that asked.
    pub boot: Boot,
    pub number: u64,
    /// Nanoseconds from its arrival to this answer.
    pub held_ns: u64,
}

/// A probe as its receiver reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Who sent it, in which process, and where that one listens.
    pub claim: Claim,
    /// Grows with every probe of the sender to us.
    pub number: u64,
    /// The sender wants an answer.
    pub asks: bool,
    pub echo: Option<Echo>,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    magic: [u8; 4],
    version: u8,
    asks: u8,
    sender: U16,
    cluster_key: [u8; 8],
    boot: U32,
    counter: U32,
    number: U64,
    echo_boot: U32,
    reserved: U32,
    echo_number: U64,
    held_ns: U64,
    addresses: AddressList,
    tag: [u8; 16],
}

const _: () = assert!(size_of::<Layout>() == PROBE_BYTES);

struct Peer {
    /// None for ourselves.
    keys: Option<LinkKeys>,
    /// The newest probe taken: numbers only rise within a boot, and boots only rise.
    heard: (Boot, u64),
    sent: u64,
}

/// One replica's probes to and from all others.
pub struct ProbeLinks {
    boot: Boot,
    cluster_key: [u8; 8],
    peers: Vec<Peer>,
}

impl ProbeLinks {
    /// `secret` is that of member `me`; `boot` that of its endpoint. Costs one X25519 for each peer.
    pub fn new(committee: &Committee, me: NodeId, secret: &NodeSecret, boot: Boot) -> ProbeLinks {
        let domain = Domain::of(committee);
        let key = secret.signing_key();
        let peers = committee.members().iter().map(|member| Peer {
            keys: (member.id != me).then(|| {
                LinkKeys::derive(&domain, Role::Probes, key, &member_key(member))
                    .expect("not of small order")
            }),
            heard: (Boot(0), 0),
            sent: 0,
        });
        ProbeLinks {
            boot,
            cluster_key: committee.cluster_key(),
            peers: peers.collect(),
        }
    }

    /// The next probe to `to`, and its number. Panics when `to` is not another member (our own
    /// error).
    pub fn seal(
        &mut self,
        to: NodeId,
        own: &Claim,
        asks: bool,
        echo: Option<Echo>,
    ) -> (u64, [u8; PROBE_BYTES]) {
        let peer = &mut self.peers[to.index()];
        let keys = peer.keys.as_ref().expect("not to ourselves");
        peer.sent += 1;
        let echo = echo.unwrap_or(Echo {
            boot: Boot(0),
            number: 0,
            held_ns: 0,
        });
        let mut layout = Layout {
            magic: PROBE_MAGIC,
            version: VERSION,
            asks: u8::from(asks),
            sender: U16::new(own.node.0),
            cluster_key: self.cluster_key,
            boot: U32::new(self.boot.0),
            counter: U32::new(own.incarnation.counter),
            number: U64::new(peer.sent),
            echo_boot: U32::new(echo.boot.0),
            reserved: U32::new(0),
            echo_number: U64::new(echo.number),
            held_ns: U64::new(echo.held_ns),
            addresses: AddressList::new(&own.addresses),
            tag: [0; 16],
        };
        layout.tag = layout.expected_tag(&keys.send);
        let mut bytes = [0; PROBE_BYTES];
        bytes.copy_from_slice(layout.as_bytes());
        (peer.sent, bytes)
    }

    /// Takes one probe, once. Costs one hash.
    pub fn hear(&mut self, datagram: &[u8]) -> Result<Linked<Probe>, Reject> {
        if datagram.len() < 4 {
            return Err(Reject::Truncated);
        }
        if datagram[..4] != PROBE_MAGIC {
            return Err(Reject::BadMagic);
        }
        let layout = Layout::ref_from_bytes(datagram).map_err(|_| Reject::LengthMismatch)?;
        if layout.version != VERSION {
            return Err(Reject::UnknownVersion);
        }
        if layout.cluster_key != self.cluster_key {
            return Err(Reject::ForeignCluster);
        }
        let node = NodeId(layout.sender.get());
        let peer = self
            .peers
            .get_mut(node.index())
            .ok_or(Reject::NotInCommittee)?;
        let keys = peer.keys.as_ref().ok_or(Reject::FromOurselves)?;
        let (boot, number) = (Boot(layout.boot.get()), layout.number.get());
        if boot < peer.heard.0 || boot == Boot(0) {
            return Err(Reject::OldBoot);
        }
        if (boot, number) <= peer.heard {
            return Err(Reject::Replayed);
        }
        if !equal(&layout.expected_tag(&keys.receive), &layout.tag) {
            return Err(Reject::BadMac);
        }
        // From here on a member is to blame.
        if layout.reserved.get() != 0 {
            return Err(Reject::ReservedNotZero);
        }
        let asks = match layout.asks {
            0 => false,
            1 => true,
            _ => return Err(Reject::BodyMalformed),
        };
        let addresses = layout.addresses.decode()?;
        peer.heard = (boot, number);
        let echo = (layout.echo_boot.get() != 0).then(|| Echo {
            boot: Boot(layout.echo_boot.get()),
            number: layout.echo_number.get(),
            held_ns: layout.held_ns.get(),
        });
        let incarnation = Incarnation {
            boot,
            counter: layout.counter.get(),
        };
        Ok(Linked(Probe {
            claim: Claim {
                node,
                incarnation,
                addresses,
            },
            number,
            asks,
            echo,
        }))
    }
}

impl Layout {
    fn expected_tag(&self, key: &[u8; 32]) -> [u8; 16] {
        truncate(blake3::keyed_hash(key, &self.as_bytes()[..TAGGED_BYTES]).as_bytes())
    }
}

impl fmt::Debug for ProbeLinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProbeLinks(boot {})", self.boot)
    }
}
