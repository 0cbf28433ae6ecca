//! Beacons: where a replica says it listens, under its signature.
//!
//! A beacon binds addresses to a member's key and to an [`Incarnation`], for one cluster, epoch and
//! committee. It names nobody as its receiver, so anyone may pass it on, and an old one may be played
//! back: a higher incarnation replaces a lower one, never the reverse. It is a claim and no more. A
//! member that lies can name somebody else's address, so nothing but a probe should be sent to a
//! claimed address before the member has answered from there ([`crate::link::ProbeLinks`]).
//!
//! [`BeaconEar`] judges what arrives, cheap checks first. A beacon equal to the last good one of its
//! member costs a comparison; signature checks are limited for each member that a beacon names, so
//! that a flood in one member's name neither costs much nor shuts out the others.
//!
//! ```text
//! 0  magic "HPB1"   4 version   5 zero   6 sender (u16)   8 first bytes of the committee's digest
//! 16 cluster id     32 epoch (u64)   40 boot (u32)   44 counter (u32)
//! 48 two addresses of 20 bytes: family 0, 4 or 6, zero, port (u16), 16 bytes of IP
//! 88 signature over H("beacon", cluster, epoch, committee digest, bytes 6..8 and 40..88)
//! ```
//! Numbers are little-endian.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ed25519_dalek::{Signer as _, VerifyingKey};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::committee::Committee;
use crate::ids::{Boot, Digest, Instant, NodeId};
use crate::keys::NodeSecret;
use crate::reject::Reject;
use crate::seal::Domain;

/// First four bytes of a beacon.
pub const BEACON_MAGIC: [u8; 4] = *b"HPB1";
/// A whole beacon.
pub const BEACON_BYTES: usize = 152;
/// Addresses in one claim at most.
pub const ADDRESSES_MAX: usize = 2;
/// Beacons in the name of one member whose signature is checked: so many at once, and so many in a
/// second. Four in a second for each of 31 members take less than 1 % of a processor.
pub const CHECKS_PER_SECOND: u32 = 4;

const VERSION: u8 = 1;
const CONTEXT: &str = "hippodrome/1/beacon";
const CHECK_INTERVAL_NS: u64 = 1_000_000_000 / CHECKS_PER_SECOND as u64;

/// The signed bytes of one beacon.
pub type Beacon = [u8; BEACON_BYTES];

/// Which of a replica's claims is newer: by process, then by its number within the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation {
    pub boot: Boot,
    /// Counts the changes of address within one boot.
    pub counter: u32,
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.boot, self.counter)
    }
}

/// One or two addresses, in the order in which to try them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    first: SocketAddr,
    second: Option<SocketAddr>,
}

impl Addresses {
    /// Refuses with [`Reject::BadAddress`] what nobody can be reached at: port 0, an unspecified,
    /// multicast or broadcast IP.
    pub fn new(first: SocketAddr, second: Option<SocketAddr>) -> Result<Addresses, Reject> {
        let second = second.filter(|second| *second != first);
        for address in [Some(first), second].into_iter().flatten() {
            if !is_unicast(&address) {
                return Err(Reject::BadAddress);
            }
        }
        Ok(Addresses { first, second })
    }

    pub fn iter(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        [Some(self.first), self.second].into_iter().flatten()
    }
}

fn is_unicast(address: &SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

/// What a replica says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub addresses: Addresses,
}

/// One address on the wire; all zero for none. Scope and flow of IPv6 are not carried.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Address {
    family: u8,
    reserved: u8,
    port: U16,
    ip: [u8; 16],
}

/// The addresses of a claim on the wire.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct AddressList([Address; ADDRESSES_MAX]);

const _: () = assert!(size_of::<AddressList>() == 40);

impl Address {
    fn new(address: SocketAddr) -> Address {
        let mut bytes = [0; 16];
        let family = match address.ip() {
            IpAddr::V4(ip) => {
                bytes[..4].copy_from_slice(&ip.octets());
                4
            }
            IpAddr::V6(ip) => {
                bytes = ip.octets();
                6
            }
        };
        Address {
            family,
            reserved: 0,
            port: U16::new(address.port()),
            ip: bytes,
        }
    }

    /// One address has one encoding.
    fn decode(&self) -> Result<Option<SocketAddr>, Reject> {
        if self.reserved != 0 {
            return Err(Reject::ReservedNotZero);
        }
        let ip = match self.family {
            0 if self.port.get() == 0 && self.ip == [0; 16] => return Ok(None),
            4 => {
                let (four, rest) = self.ip.split_at(4);
                if rest != [0; 12] {
                    return Err(Reject::ReservedNotZero);
                }
                IpAddr::V4(Ipv4Addr::new(four[0], four[1], four[2], four[3]))
            }
            6 => IpAddr::V6(Ipv6Addr::from(self.ip)),
            _ => return Err(Reject::BadAddress),
        };
        Ok(Some(SocketAddr::new(ip, self.port.get())))
    }
}

impl AddressList {
    pub(crate) fn new(addresses: &Addresses) -> AddressList {
        let mut list = AddressList([Address::default(); ADDRESSES_MAX]);
        for (place, address) in list.0.iter_mut().zip(addresses.iter()) {
            *place = Address::new(address);
        }
        list
    }

    pub(crate) fn decode(&self) -> Result<Addresses, Reject> {
        let first = self.0[0].decode()?.ok_or(Reject::BadAddress)?;
        let second = self.0[1].decode()?;
        if second == Some(first) {
            return Err(Reject::BadAddress);
        }
        Addresses::new(first, second)
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    magic: [u8; 4],
    version: u8,
    reserved: u8,
    sender: U16,
    cluster_key: [u8; 8],
    cluster: [u8; 16],
    epoch: U64,
    boot: U32,
    counter: U32,
    addresses: AddressList,
    signature: [u8; 64],
}

const _: () = assert!(size_of::<Layout>() == BEACON_BYTES);

impl Layout {
    fn signed_digest(&self, domain: &Domain) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&domain.cluster.0);
        hasher.update(&domain.epoch.0.to_le_bytes());
        hasher.update(&domain.committee.0);
        hasher.update(self.sender.as_bytes());
        hasher.update(self.boot.as_bytes());
        hasher.update(self.counter.as_bytes());
        hasher.update(self.addresses.as_bytes());
        Digest(*hasher.finalize().as_bytes())
    }

    fn incarnation(&self) -> Incarnation {
        Incarnation {
            boot: Boot(self.boot.get()),
            counter: self.counter.get(),
        }
    }
}

/// Signs a claim of the member that `secret` belongs to. The same claim always gives the same bytes,
/// so that its repetitions cost receivers nothing.
pub fn sign_beacon(committee: &Committee, secret: &NodeSecret, claim: &Claim) -> Beacon {
    let domain = Domain::of(committee);
    let mut layout = Layout {
        magic: BEACON_MAGIC,
        version: VERSION,
        reserved: 0,
        sender: U16::new(claim.node.0),
        cluster_key: committee.cluster_key(),
        cluster: domain.cluster.0,
        epoch: U64::new(domain.epoch.0),
        boot: U32::new(claim.incarnation.boot.0),
        counter: U32::new(claim.incarnation.counter),
        addresses: AddressList::new(&claim.addresses),
        signature: [0; 64],
    };
    let digest = layout.signed_digest(&domain);
    layout.signature = secret.signing_key().sign(&digest.0).to_bytes();
    let mut beacon = [0; BEACON_BYTES];
    beacon.copy_from_slice(layout.as_bytes());
    beacon
}

/// What a good beacon turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Our own, come back.
    Own,
    /// The member's last one again.
    Known(NodeId),
    /// A newer claim; its signature holds.
    New(Claim),
}

/// What is remembered of one member.
struct Known {
    key: VerifyingKey,
    beacon: Option<(Incarnation, Beacon)>,
    /// Boots below this are over.
    boot_min: Boot,
    checks_left: u32,
    checks_at: Instant,
}

/// Judges beacons. Its memory is fixed at construction.
pub struct BeaconEar {
    me: NodeId,
    domain: Domain,
    cluster_key: [u8; 8],
    own: Option<Beacon>,
    members: Vec<Known>,
    checks: u64,
}

impl BeaconEar {
    pub fn new(committee: &Committee, me: NodeId) -> BeaconEar {
        let members = committee.members().iter().map(|member| Known {
            key: VerifyingKey::from_bytes(&member.public_key.0)
                .expect("the committee checked its keys"),
            beacon: None,
            boot_min: Boot(0),
            checks_left: CHECKS_PER_SECOND,
            checks_at: Instant(0),
        });
        BeaconEar {
            me,
            domain: Domain::of(committee),
            cluster_key: committee.cluster_key(),
            own: None,
            members: members.collect(),
            checks: 0,
        }
    }

    /// What we send ourselves: it is not news when it comes back.
    pub fn set_own(&mut self, beacon: Beacon) {
        self.own = Some(beacon);
    }

    /// A member's earlier boots are over, as its link proved.
    pub fn set_boot_min(&mut self, member: NodeId, boot: Boot) {
        if let Some(known) = self.members.get_mut(member.index()) {
            known.boot_min = known.boot_min.max(boot);
        }
    }

    /// Judges one datagram; at most one signature check.
    pub fn hear(&mut self, now: Instant, datagram: &[u8]) -> Result<Heard, Reject> {
        if datagram.len() < 4 {
            return Err(Reject::Truncated);
        }
        if datagram[..4] != BEACON_MAGIC {
            return Err(Reject::BadMagic);
        }
        let bytes: &Beacon = datagram.try_into().map_err(|_| Reject::LengthMismatch)?;
        if self.own.as_ref() == Some(bytes) {
            return Ok(Heard::Own);
        }
        let layout = Layout::ref_from_bytes(bytes).map_err(|_| Reject::LengthMismatch)?;
        if layout.version != VERSION {
            return Err(Reject::UnknownVersion);
        }
        if layout.reserved != 0 {
            return Err(Reject::ReservedNotZero);
        }
        let domain = &self.domain;
        if layout.cluster_key != self.cluster_key
            || layout.cluster != domain.cluster.0
            || layout.epoch.get() != domain.epoch.0
        {
            return Err(Reject::ForeignCluster);
        }
        let node = NodeId(layout.sender.get());
        if node == self.me {
            return Err(Reject::FromOurselves);
        }
        let known = self
            .members
            .get_mut(node.index())
            .ok_or(Reject::NotInCommittee)?;
        let incarnation = layout.incarnation();
        if let Some((last, beacon)) = &known.beacon {
            if beacon == bytes {
                return Ok(Heard::Known(node));
            }
            if incarnation <= *last {
                return Err(Reject::StaleIncarnation);
            }
        }
        if incarnation.boot == Boot(0) || incarnation.boot < known.boot_min {
            return Err(Reject::StaleIncarnation);
        }
        let addresses = layout.addresses.decode()?;
        known.spend_check(now)?;
        self.checks += 1;
        let digest = layout.signed_digest(domain);
        let signature = ed25519_dalek::Signature::from_bytes(&layout.signature);
        known
            .key
            .verify_strict(&digest.0, &signature)
            .map_err(|_| Reject::BadSignature)?;
        known.beacon = Some((incarnation, *bytes));
        Ok(Heard::New(Claim {
            node,
            incarnation,
            addresses,
        }))
    }

    /// The last good beacon of a member, to be passed on.
    pub fn beacon_of(&self, member: NodeId) -> Option<&Beacon> {
        let known = self.members.get(member.index())?;
        known.beacon.as_ref().map(|(_, beacon)| beacon)
    }

    /// Signatures checked since construction.
    pub fn checks(&self) -> u64 {
        self.checks
    }
}

impl Known {
    fn spend_check(&mut self, now: Instant) -> Result<(), Reject> {
        let earned = now.since_ns(self.checks_at) / CHECK_INTERVAL_NS;
        if earned > 0 {
            let sum = u64::from(self.checks_left).saturating_add(earned);
            self.checks_left = sum.min(u64::from(CHECKS_PER_SECOND)) as u32;
            self.checks_at = now;
        }
        self.checks_left = self.checks_left.checked_sub(1).ok_or(Reject::RateLimited)?;
        Ok(())
    }
}

impl fmt::Debug for BeaconEar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BeaconEar({}, {} checks)", self.me, self.checks)
    }
}
