//! Links: every datagram between two parties under a MAC that only those two can make.
//!
//! The key of a direction comes from X25519 on the two Ed25519 identities, bound to cluster, epoch,
//! committee digest and direction; so a datagram of another cluster, or of a replica with another
//! committee file, does not even pass the cheapest check. The MAC covers the header and, through its
//! hash, the body: a broadcast hashes each body once for all receivers.
//!
//! * [`Endpoint`] is a replica's side, towards replicas and clients.
//! * [`ClientLink`] is a client's side.
//! * [`ProbeLinks`] carries what replicas ask each other about addresses and round trips.
//!
//! Where a replica is does not follow from where its datagrams come from: a MAC says who made a
//! datagram, not who put it on the wire. Somebody who delivers a captured one before the original
//! can choose its source at will. So [`Endpoint`] sends to the address it was told
//! ([`Endpoint::set_peer_address`]) and reports a foreign source ([`PeerCounts::elsewhere`]) only
//! for fresh datagrams of the peer's present boot; the address counts after the peer has answered a
//! probe there.
//!
//! [`Linked`] is made in this room alone, by checking a MAC. No clock, no socket, no randomness:
//! the time, the boot number and the cookie secret come from outside, answers leave as bytes.

mod client_link;
mod clients;
mod cookie;
mod endpoint;
mod incoming;
mod peer;
mod probe;

use std::ops::Deref;

use curve25519_dalek::montgomery::MontgomeryPoint;
use ed25519_dalek::{SigningKey, VerifyingKey};
use zeroize::Zeroizing;

pub use client_link::{ClientLink, FromNode, Heard};
pub use endpoint::{
    BLOCK_REASSEMBLY, Endpoint, EndpointConfig, EndpointCounts, LinkError, MESSAGE_REASSEMBLY,
};
pub use incoming::{Body, FromClient, FromPeer, Incoming};
pub use peer::PeerCounts;
pub use probe::{Echo, PROBE_BYTES, PROBE_MAGIC, Probe, ProbeLinks};

use crate::canary::planted;
use crate::committee::Member;
use crate::header::Header;
use crate::ids::PublicKey;
use crate::reject::Reject;
use crate::seal::Domain;

/// A value whose bytes came under a valid link MAC: its sender is who it says, to us alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linked<T>(T);

impl<T> Linked<T> {
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Linked<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Longest datagram of the greeting.
pub const SHORT_BYTES_MAX: usize = 256;

/// A datagram of the greeting, to be sent as it is.
#[derive(Clone, Copy)]
pub struct ShortDatagram {
    bytes: [u8; SHORT_BYTES_MAX],
    length: usize,
}

impl ShortDatagram {
    fn new(header: &Header, body: &[u8]) -> ShortDatagram {
        let header = header.to_bytes();
        let length = header.len() + body.len();
        let mut bytes = [0; SHORT_BYTES_MAX];
        bytes[..header.len()].copy_from_slice(&header);
        bytes[header.len()..length].copy_from_slice(body);
        ShortDatagram { bytes, length }
    }
}

impl Deref for ShortDatagram {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl std::fmt::Debug for ShortDatagram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ShortDatagram({} bytes)", self.length)
    }
}

/// The hash through which a MAC covers a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyHash([u8; 32]);

impl BodyHash {
    /// About 1.4 us a KiB for a body of an Ethernet datagram, 0.2 us for one of 64 KiB.
    pub fn of(body: &[u8]) -> BodyHash {
        BodyHash(*blake3::hash(body).as_bytes())
    }
}

/// Whose link it is: a member that also acts as a client has two, and probes have keys of their own,
/// since their counters are.
#[derive(Clone, Copy)]
enum Role {
    Nodes = 1,
    Client = 2,
    Probes = 3,
}

/// The two keys of one link, as one of its ends holds them.
#[derive(Clone)]
struct LinkKeys {
    send: Zeroizing<[u8; 32]>,
    receive: Zeroizing<[u8; 32]>,
}

/// Decompresses the key of a member.
fn member_key(member: &Member) -> VerifyingKey {
    VerifyingKey::from_bytes(&member.public_key.0).expect("the committee checked its keys")
}

impl LinkKeys {
    /// Costs one X25519, about 45 us. `theirs` has been checked: not of small order.
    fn derive(
        domain: &Domain,
        role: Role,
        own: &SigningKey,
        theirs: &VerifyingKey,
    ) -> Result<LinkKeys, Reject> {
        let scalar = Zeroizing::new(own.to_scalar_bytes());
        let shared = theirs.to_montgomery().mul_clamped(*scalar);
        if shared == MontgomeryPoint([0; 32]) {
            return Err(Reject::WeakKey);
        }
        let shared = Zeroizing::new(shared.to_bytes());
        let us = PublicKey(own.verifying_key().to_bytes());
        let them = PublicKey(theirs.to_bytes());
        Ok(LinkKeys {
            send: direction_key(domain, role, &shared, &us, &them),
            receive: direction_key(domain, role, &shared, &them, &us),
        })
    }

    /// Writes the tag of an outgoing datagram into its header.
    fn seal(&self, header: &mut Header, body: &BodyHash) {
        header.tag = tag(&self.send, header, body);
    }

    /// Whether the other end made this datagram.
    fn check(&self, header: &Header, body: &[u8]) -> Result<(), Reject> {
        let expected = tag(&self.receive, header, &BodyHash::of(body));
        if equal(&expected, &header.tag) {
            Ok(())
        } else {
            Err(Reject::BadMac)
        }
    }
}

impl std::fmt::Debug for LinkKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinkKeys")
    }
}

fn direction_key(
    domain: &Domain,
    role: Role,
    shared: &[u8; 32],
    sender: &PublicKey,
    receiver: &PublicKey,
) -> Zeroizing<[u8; 32]> {
    let mut hasher = blake3::Hasher::new_derive_key("hippodrome/1/link");
    hasher.update(&[role as u8]);
    hasher.update(shared);
    hasher.update(&domain.cluster.0);
    hasher.update(&domain.epoch.0.to_le_bytes());
    hasher.update(&domain.committee.0);
    if !planted("reflect") {
        hasher.update(&sender.0);
        hasher.update(&receiver.0);
    }
    Zeroizing::new(*hasher.finalize().as_bytes())
}

/// BLAKE3 keyed over the header with a zero tag and the body's hash, cut to 16 bytes.
fn tag(key: &[u8; 32], header: &Header, body: &BodyHash) -> [u8; 16] {
    let mut bare = *header;
    bare.tag = [0; 16];
    let mut input = [0; crate::header::HEADER_BYTES + 32];
    let (head, hash) = input.split_at_mut(crate::header::HEADER_BYTES);
    head.copy_from_slice(&bare.to_bytes());
    hash.copy_from_slice(&body.0);
    truncate(blake3::keyed_hash(key, &input).as_bytes())
}

fn truncate(hash: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|at| hash[at])
}

/// Compares tags in constant time, as BLAKE3 compares its hashes.
fn equal(a: &[u8; 16], b: &[u8; 16]) -> bool {
    let wide = |tag: &[u8; 16]| {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(tag);
        blake3::Hash::from_bytes(bytes)
    };
    wide(a) == wide(b)
}
