//! A replica's end of all its links.
//!
//! Checks run in the order of their cost: form, cluster, sender, boots and counter, then the MAC;
//! nothing is stored or taken from a pool before the MAC holds. Clients are admitted by a cookie and
//! re-admitted the same way after a restart of the replica, after eviction, or from a new address.

use std::fmt;
use std::net::SocketAddr;

use ed25519_dalek::SigningKey;
use zerocopy::IntoBytes;

use super::clients::ClientTable;
use super::cookie::{COOKIE_BYTES, CookieBody, CookieJar, HelloBody, WelcomeBody};
use super::incoming::{Body, FromClient, FromPeer, Incoming};
use super::peer::{Peer, PeerCounts};
use super::{BodyHash, LinkKeys, Linked, Role, ShortDatagram, member_key};
use crate::bytes::{Buffers, SharedBytes};
use crate::canary::planted;
use crate::committee::{Admission, Committee};
use crate::fragment::{
    GrainBitmap, MessageKey, MessagePlace, Origin, Partial, Reassembler, ReassemblyLimits,
};
use crate::header::{
    ClientRoute, Direction, Fragment, HEADER_BYTES, Header, Kind, PeerRoute, ReplyRoute, Route,
};
use crate::ids::{Boot, Instant, NodeId, PublicKey, Slot, View};
use crate::keys::{NodeSecret, check_public_key};
use crate::limits::{DATAGRAM_BYTES_MAX, GRAIN_BYTES, IN_FLIGHT, SESSIONS_MAX};
use crate::reject::Reject;
use crate::seal::Domain;

/// Usual bounds on incomplete blocks: a leader's blocks in flight, and as much for repair.
pub const BLOCK_REASSEMBLY: ReassemblyLimits = ReassemblyLimits {
    partials_max: 2 * IN_FLIGHT as usize,
    partials_per_sender_max: IN_FLIGHT as usize + 8,
    idle_ns_max: 1_000_000_000,
};
/// Usual bounds on other incomplete messages, most of them requests.
pub const MESSAGE_REASSEMBLY: ReassemblyLimits = ReassemblyLimits {
    partials_max: 64,
    partials_per_sender_max: 8,
    idle_ns_max: 1_000_000_000,
};

/// Greetings that cost public-key work: so many at once, and one more per interval.
const DERIVATIONS_BURST: u32 = SESSIONS_MAX as u32;
const DERIVATION_INTERVAL_NS: u64 = 2_000_000;

/// What an [`Endpoint`] is made of.
#[derive(Debug)]
pub struct EndpointConfig<'a> {
    pub me: NodeId,
    pub committee: &'a Committee,
    pub secret: &'a NodeSecret,
    /// From 1; higher than in every earlier process with this key.
    pub boot: Boot,
    /// Datagrams that this replica sends and tells clients to send, at most.
    pub datagram_bytes: usize,
    /// Random, new at every start, unknown to everyone else.
    pub cookie_secret: [u8; 32],
    pub blocks: ReassemblyLimits,
    pub messages: ReassemblyLimits,
}

/// Why there can be no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    #[error(
        "the secret key is not that of member {me}: the committee says {expected:#}, the key file \
         holds {found:#}"
    )]
    WrongKey {
        me: NodeId,
        expected: PublicKey,
        found: PublicKey,
    },
    #[error("there is no member {me} in a committee of {n}")]
    NoSuchMember { me: NodeId, n: usize },
    #[error("datagram_bytes = {bytes} is not in {min}..={DATAGRAM_BYTES_MAX}", min = HEADER_BYTES + GRAIN_BYTES)]
    DatagramBytes { bytes: usize },
}

/// A replica's links. Takes no memory after construction but from its buffers.
pub struct Endpoint<Bu: Buffers> {
    me: NodeId,
    boot: Boot,
    cluster_key: [u8; 8],
    datagram_bytes: usize,
    domain: Domain,
    key: SigningKey,
    admission: Admission,
    /// Admitted in any case.
    operator: Option<PublicKey>,
    peers: Vec<Peer>,
    clients: ClientTable,
    cookies: CookieJar,
    derivations: u32,
    derivations_at: Instant,
    /// Hints for clients.
    view: View,
    executed: Slot,
    blocks: Reassembler<Bu>,
    messages: Reassembler<Bu>,
}

impl<Bu: Buffers> Endpoint<Bu> {
    /// `blocks` receives PROPOSE and BLOCK, `messages` every other message in fragments.
    pub fn new(
        config: &EndpointConfig<'_>,
        blocks: Bu,
        messages: Bu,
    ) -> Result<Endpoint<Bu>, LinkError> {
        let EndpointConfig { me, committee, .. } = *config;
        assert!(config.boot > Boot(0), "boots count from 1");
        let own = committee.member(me).ok_or(LinkError::NoSuchMember {
            me,
            n: committee.n(),
        })?;
        let found = config.secret.public_key();
        if own.public_key != found {
            return Err(LinkError::WrongKey {
                me,
                expected: own.public_key,
                found,
            });
        }
        let bytes = config.datagram_bytes;
        if !(HEADER_BYTES + GRAIN_BYTES..=DATAGRAM_BYTES_MAX).contains(&bytes) {
            return Err(LinkError::DatagramBytes { bytes });
        }
        let domain = Domain::of(committee);
        let key = config.secret.signing_key().clone();
        let mut peers = Vec::with_capacity(committee.n());
        for member in committee.members() {
            let keys = if member.id == me {
                None
            } else {
                let theirs = member_key(member);
                let keys = LinkKeys::derive(&domain, Role::Nodes, &key, &theirs);
                Some(keys.expect("not of small order"))
            };
            peers.push(Peer::new(member.address, keys));
        }
        Ok(Endpoint {
            me,
            boot: if planted("sameboot") {
                Boot(1)
            } else {
                config.boot
            },
            cluster_key: committee.cluster_key(),
            datagram_bytes: bytes,
            domain,
            key,
            admission: committee.admission().clone(),
            operator: committee.operator().copied(),
            peers,
            clients: ClientTable::new(SESSIONS_MAX, &config.cookie_secret),
            cookies: CookieJar::new(config.cookie_secret),
            derivations: DERIVATIONS_BURST,
            derivations_at: Instant(0),
            view: View(0),
            executed: Slot(0),
            blocks: Reassembler::new(blocks, config.blocks),
            messages: Reassembler::new(messages, config.messages),
        })
    }

    /// Takes one datagram. `None`: it was good, and its message is not complete yet.
    pub fn receive(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &Bu::Shared,
    ) -> Result<Option<Incoming<Bu>>, Reject> {
        let (header, kind, body) = Header::split(datagram)?;
        if header.cluster_key != self.cluster_key {
            return Err(Reject::ForeignCluster);
        }
        match kind.direction() {
            Direction::BetweenNodes => self.hear_peer(now, from, header, kind, body, datagram),
            Direction::ToNode => self.hear_client(now, from, header, kind, body, datagram),
            Direction::ToClient => Err(Reject::WrongDirection),
        }
    }

    /// Whoever has a key that fits: what the canary `reflect` takes for the sender.
    fn any_sender(&self, header: &Header, body: &[u8]) -> NodeId {
        let fits = |peer: &Peer| {
            let keys = peer.keys.as_ref();
            keys.is_some_and(|keys| keys.check(header, body).is_ok())
        };
        let found = self.peers.iter().position(fits);
        found.map_or(header.sender(), |index| NodeId(index as u16))
    }

    fn hear_peer(
        &mut self,
        now: Instant,
        source: SocketAddr,
        header: &Header,
        kind: Kind,
        body: &[u8],
        datagram: &Bu::Shared,
    ) -> Result<Option<Incoming<Bu>>, Reject> {
        let from = if planted("reflect") {
            self.any_sender(header, body)
        } else {
            header.sender()
        };
        let peer = self
            .peers
            .get_mut(from.index())
            .ok_or(Reject::NotInCommittee)?;
        let keys = peer.keys.as_ref().ok_or(Reject::FromOurselves)?;
        let route = header.peer_route();
        if route.boot() < peer.boot() {
            return Err(Reject::OldBoot);
        }
        if route.peer_boot() == self.boot {
            peer.heard.check(route.boot(), route.counter())?;
            keys.check(header, body)?;
            peer.take(source, route.boot(), route.counter())?;
        } else {
            // A peer that has not heard this process of ours may say where it stands, once for
            // each of its own, and no more. So both learn what to name, whatever was played back.
            if kind != Kind::Status || route.boot() == peer.boot() {
                return Err(Reject::StalePeerBoot);
            }
            keys.check(header, body)?;
            peer.claimed = route.boot();
        }
        let place = MessagePlace {
            view: route.view(),
            slot: route.slot(),
            number: 0,
        };
        let origin = Origin::Node(from);
        let body = self.body(now, origin, kind, place, header, body, datagram)?;
        Ok(body.map(|body| {
            Incoming::Peer(Linked(FromPeer {
                from,
                kind,
                view: place.view,
                slot: place.slot,
                body,
            }))
        }))
    }

    /// The whole message, if this datagram completes it.
    fn body(
        &mut self,
        now: Instant,
        origin: Origin,
        kind: Kind,
        place: MessagePlace,
        header: &Header,
        part: &[u8],
        datagram: &Bu::Shared,
    ) -> Result<Option<Body<Bu>>, Reject> {
        if header.is_whole() && !kind.is_block() {
            let end = HEADER_BYTES + part.len();
            return Ok(Some(Body::Whole(datagram.slice(HEADER_BYTES..end))));
        }
        let joins = if kind.is_block() {
            &mut self.blocks
        } else {
            &mut self.messages
        };
        let complete = joins.insert(now, origin, kind, place, header.fragment(), part)?;
        Ok(complete.map(|done| Body::Assembled(done.buffer, done.length)))
    }

    fn hear_client(
        &mut self,
        now: Instant,
        from: SocketAddr,
        header: &Header,
        kind: Kind,
        body: &[u8],
        datagram: &Bu::Shared,
    ) -> Result<Option<Incoming<Bu>>, Reject> {
        let ClientRoute { client } = header.client_route();
        if !self.admission.admits(&client) && self.operator != Some(client) {
            return Err(Reject::ClientNotAdmitted);
        }
        let cookie = match kind {
            Kind::Hello => Some(HelloBody::decode(body)?.cookie),
            _ => None,
        };
        let proven =
            cookie.is_some_and(|cookie| self.cookies.recognise(now, from, &client, &cookie));
        match self.clients.find(&client) {
            Some(slot) => {
                let known = self.clients.get(slot);
                known.keys.check(header, body)?;
                // Replies go where the client has shown that it receives.
                if known.address != from && !proven {
                    return self.challenge(now, from, header, &client, datagram.len());
                }
                self.clients.heard(slot, from);
                if kind == Kind::Hello {
                    return Ok(Some(self.welcome(slot, header.fragment().message)));
                }
                let place = MessagePlace {
                    view: View(0),
                    slot: Slot(0),
                    number: 0,
                };
                let origin = Origin::Client(client);
                let body = self.body(now, origin, kind, place, header, body, datagram)?;
                Ok(body.map(|body| Incoming::Client(Linked(FromClient { client, kind, body }))))
            }
            None if proven => {
                self.spend_derivation(now)?;
                let theirs = check_public_key(&client).map_err(|_| Reject::WeakKey)?;
                let keys = LinkKeys::derive(&self.domain, Role::Client, &self.key, &theirs)?;
                keys.check(header, body)?;
                let slot = self.clients.insert(client, from, keys);
                Ok(Some(self.welcome(slot, header.fragment().message)))
            }
            None => self.challenge(now, from, header, &client, datagram.len()),
        }
    }

    /// Answers a client that has no link, or speaks from elsewhere, with a cookie. Costs one hash.
    fn challenge(
        &self,
        now: Instant,
        to: SocketAddr,
        header: &Header,
        client: &PublicKey,
        received_bytes: usize,
    ) -> Result<Option<Incoming<Bu>>, Reject> {
        if received_bytes < COOKIE_BYTES {
            return Err(Reject::UnknownClient);
        }
        let body = CookieBody {
            cookie: self.cookies.make(now, to, client),
        };
        let number = header.fragment().message;
        let route = ReplyRoute::new(client, number, View(0), Slot(0));
        let header = self.reply_header(Kind::Cookie, route, Fragment::whole(body.as_bytes()), 16);
        let datagram = ShortDatagram::new(&header, body.as_bytes());
        Ok(Some(Incoming::Respond { to, datagram }))
    }

    fn welcome(&self, slot: usize, number: u64) -> Incoming<Bu> {
        let client = self.clients.get(slot);
        let body = WelcomeBody::new(self.boot, self.datagram_bytes);
        let body = body.as_bytes();
        let route = ReplyRoute::new(&client.key, number, self.view, self.executed);
        let fragment = Fragment::whole(body);
        let mut header = self.reply_header(Kind::Welcome, route, fragment, body.len());
        client.keys.seal(&mut header, &BodyHash::of(body));
        Incoming::Respond {
            to: client.address,
            datagram: ShortDatagram::new(&header, body),
        }
    }

    fn reply_header(
        &self,
        kind: Kind,
        route: ReplyRoute,
        fragment: Fragment,
        body_bytes: usize,
    ) -> Header {
        let route = Route::Reply(route);
        Header::new(kind, self.me, self.cluster_key, route, fragment, body_bytes)
    }

    fn spend_derivation(&mut self, now: Instant) -> Result<(), Reject> {
        let earned = now.since_ns(self.derivations_at) / DERIVATION_INTERVAL_NS;
        if earned > 0 {
            let sum = u64::from(self.derivations).saturating_add(earned);
            self.derivations = sum.min(u64::from(DERIVATIONS_BURST)) as u32;
            self.derivations_at = now;
        }
        self.derivations = self.derivations.checked_sub(1).ok_or(Reject::RateLimited)?;
        Ok(())
    }

    /// Writes the header of one datagram to a replica. `body` is its part of the message.
    /// Panics when `to` is not another member or the body is too long (our own error).
    pub fn seal_peer(
        &mut self,
        to: NodeId,
        kind: Kind,
        view: View,
        slot: Slot,
        fragment: Fragment,
        body: &[u8],
        head: &mut [u8; HEADER_BYTES],
    ) {
        let hash = BodyHash::of(body);
        self.seal_peer_hashed(to, kind, view, slot, fragment, body.len(), &hash, head);
    }

    /// As [`Endpoint::seal_peer`], with the body's hash at hand: a broadcast computes it once.
    pub fn seal_peer_hashed(
        &mut self,
        to: NodeId,
        kind: Kind,
        view: View,
        slot: Slot,
        fragment: Fragment,
        body_bytes: usize,
        body: &BodyHash,
        head: &mut [u8; HEADER_BYTES],
    ) {
        assert_eq!(kind.direction(), Direction::BetweenNodes);
        let peer = &mut self.peers[to.index()];
        let keys = peer.keys.as_ref().expect("not to ourselves");
        let route = PeerRoute::new(self.boot, peer.boot(), peer.counter, view, slot);
        peer.counter += 1;
        let route = Route::Peer(route);
        let mut header = Header::new(kind, self.me, self.cluster_key, route, fragment, body_bytes);
        keys.seal(&mut header, body);
        *head = header.to_bytes();
    }

    /// Writes the header of one datagram to a client and returns where to send it; none when there
    /// is no link (the client will be challenged when it speaks next).
    pub fn seal_client(
        &mut self,
        client: &PublicKey,
        kind: Kind,
        view: View,
        slot: Slot,
        number: u64,
        fragment: Fragment,
        body: &[u8],
        head: &mut [u8; HEADER_BYTES],
    ) -> Option<SocketAddr> {
        assert_eq!(kind.direction(), Direction::ToClient);
        let known = self.clients.get(self.clients.find(client)?);
        let route = ReplyRoute::new(client, number, view, slot);
        let mut header = self.reply_header(kind, route, fragment, body.len());
        known.keys.seal(&mut header, &BodyHash::of(body));
        *head = header.to_bytes();
        Some(known.address)
    }

    /// The highest boot heard from a replica; 0 when it was not heard since our start.
    pub fn peer_boot(&self, id: NodeId) -> Boot {
        self.peers.get(id.index()).map_or(Boot(0), Peer::boot)
    }

    /// Where a replica listens: as the committee says, until [`Endpoint::set_peer_address`].
    pub fn peer_address(&self, id: NodeId) -> Option<SocketAddr> {
        self.peers.get(id.index()).map(|peer| peer.address)
    }

    /// Sends to a replica go there from now on. The caller has proof that it receives there; an id
    /// outside the committee changes nothing.
    pub fn set_peer_address(&mut self, id: NodeId, address: SocketAddr) {
        if let Some(peer) = self.peers.get_mut(id.index()) {
            peer.move_to(address);
        }
    }

    /// What was heard of a replica on its link.
    pub fn peer_counts(&self, id: NodeId) -> PeerCounts {
        self.peers
            .get(id.index())
            .map(Peer::counts)
            .unwrap_or_default()
    }

    /// Where a client was last heard.
    pub fn client_address(&self, client: &PublicKey) -> Option<SocketAddr> {
        let slot = self.clients.find(client)?;
        Some(self.clients.get(slot).address)
    }

    /// What a WELCOME tells clients: the view and the highest slot executed here.
    pub fn set_progress(&mut self, view: View, executed: Slot) {
        self.view = view;
        self.executed = executed;
    }

    /// Which grains of an incomplete message of `from` have not arrived.
    pub fn missing(&self, from: NodeId, kind: Kind, message: u64) -> Option<GrainBitmap> {
        let key = MessageKey::new(Origin::Node(from), kind, message);
        self.joins(kind).missing(&key)
    }

    /// The incomplete blocks.
    pub fn partial_blocks(&self) -> impl Iterator<Item = Partial> {
        self.blocks.partials()
    }

    /// Gives up an incomplete message, for example of a block that was learned otherwise.
    pub fn forget(&mut self, from: NodeId, kind: Kind, message: u64) {
        let key = MessageKey::new(Origin::Node(from), kind, message);
        if kind.is_block() {
            self.blocks.forget(&key);
        } else {
            self.messages.forget(&key);
        }
    }

    fn joins(&self, kind: Kind) -> &Reassembler<Bu> {
        if kind.is_block() {
            &self.blocks
        } else {
            &self.messages
        }
    }

    /// Gives up incomplete messages that no longer grow; returns how many. Call it every few
    /// milliseconds.
    pub fn expire(&mut self, now: Instant) -> usize {
        self.blocks.expire(now) + self.messages.expire(now)
    }

    pub fn me(&self) -> NodeId {
        self.me
    }

    pub fn boot(&self) -> Boot {
        self.boot
    }

    pub fn datagram_bytes(&self) -> usize {
        self.datagram_bytes
    }

    /// Clients with a link, clients evicted, and incomplete messages given up, since the start.
    pub fn counts(&self) -> EndpointCounts {
        EndpointCounts {
            clients: self.clients.len(),
            clients_evicted: self.clients.evicted(),
            partials: self.blocks.len() + self.messages.len(),
            partials_evicted: self.blocks.evicted() + self.messages.evicted(),
        }
    }
}

/// How full the endpoint is, and what gave way since its construction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointCounts {
    pub clients: usize,
    pub clients_evicted: u64,
    pub partials: usize,
    pub partials_evicted: u64,
}

impl<Bu: Buffers> fmt::Debug for Endpoint<Bu> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Endpoint({} boot {}, {:?})",
            self.me,
            self.boot,
            self.counts()
        )
    }
}
