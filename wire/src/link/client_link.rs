//! A client's end of its links to all replicas.

use zerocopy::IntoBytes;

use super::cookie::{CookieBody, HelloBody, WelcomeBody};
use super::{BodyHash, LinkKeys, Linked, Role, ShortDatagram, member_key};
use crate::bytes::{HeapBuffers, HeapUnique};
use crate::committee::Committee;
use crate::fragment::{Assembled, MessagePlace, Origin, Reassembler, ReassemblyLimits};
use crate::header::{
    ClientRoute, Direction, Fragment, HEADER_BYTES, Header, Kind, REPLY_BYTES_MAX, Route,
    client_prefix,
};
use crate::ids::{Boot, Instant, NodeId, PublicKey, Slot, View};
use crate::keys::ClientSecret;
use crate::limits::RECORD_HEADER_BYTES;
use crate::messages;
use crate::reject::Reject;
use crate::seal::Domain;

/// Replies in fragments; one long result at a time from each replica, and some to spare.
const REPLY_REASSEMBLY: ReassemblyLimits = ReassemblyLimits {
    partials_max: 16,
    partials_per_sender_max: 4,
    idle_ns_max: 1_000_000_000,
};
/// Cookies are not authenticated, anyone can forge one: each purpose is answered at most once in
/// this time.
const CHALLENGE_INTERVAL_NS: u64 = 5_000_000;

#[derive(Debug)]
struct Node {
    keys: LinkKeys,
    linked: bool,
    /// Number of the last greeting.
    greeting: u64,
    /// It was not answered by a WELCOME yet.
    greeting_open: bool,
    /// When the last HELLO without and with a cookie left.
    hello_at: Option<Instant>,
    cookie_at: Option<Instant>,
}

/// Whether less than the interval has passed; otherwise notes the time.
fn too_soon(last: &mut Option<Instant>, now: Instant) -> bool {
    if last.is_some_and(|at| now.since_ns(at) < CHALLENGE_INTERVAL_NS) {
        return true;
    }
    *last = Some(now);
    false
}

/// A message of a replica.
#[derive(Clone, Copy, Debug)]
pub struct FromNode<'a> {
    pub from: NodeId,
    /// REPLY, BUSY or READ-REPLY.
    pub kind: Kind,
    pub view: View,
    pub slot: Slot,
    pub number: u64,
    pub body: &'a [u8],
}

/// What a datagram turned out to be.
#[derive(Debug)]
pub enum Heard<'a> {
    Message(Linked<FromNode<'a>>),
    /// The link stands. View and slot are that replica's word alone: hints.
    Welcome {
        from: NodeId,
        boot: Boot,
        view: View,
        executed: Slot,
        /// Datagrams that the replica wants at most.
        datagram_bytes: usize,
    },
    /// Part of a greeting: send these bytes to this replica.
    Respond {
        to: NodeId,
        datagram: ShortDatagram,
    },
    /// Good, and its message is not complete yet.
    Nothing,
}

/// One client's links.
#[derive(Debug)]
pub struct ClientLink {
    client: PublicKey,
    prefix: u64,
    cluster_key: [u8; 8],
    nodes: Vec<Node>,
    next_number: u64,
    replies: Reassembler<HeapBuffers>,
    /// The last message that came in fragments, for the caller to read.
    assembled: Option<Assembled<HeapUnique>>,
}

impl ClientLink {
    /// `first_number` should be random: greetings are numbered from there. Costs about 50 us a
    /// replica.
    pub fn new(committee: &Committee, secret: &ClientSecret, first_number: u64) -> ClientLink {
        let domain = Domain::of(committee);
        let key = secret.signing_key();
        let nodes = committee.members().iter().map(|member| {
            let keys = LinkKeys::derive(&domain, Role::Client, key, &member_key(member));
            Node {
                keys: keys.expect("not of small order"),
                linked: false,
                greeting: 0,
                greeting_open: false,
                hello_at: None,
                cookie_at: None,
            }
        });
        let client = secret.public_key();
        ClientLink {
            client,
            prefix: client_prefix(&client),
            cluster_key: committee.cluster_key(),
            nodes: nodes.collect(),
            next_number: first_number,
            replies: Reassembler::new(
                HeapBuffers {
                    bytes_each: RECORD_HEADER_BYTES + REPLY_BYTES_MAX,
                },
                REPLY_REASSEMBLY,
            ),
            assembled: None,
        }
    }

    pub fn client(&self) -> &PublicKey {
        &self.client
    }

    /// Replicas of the committee.
    pub fn replicas(&self) -> usize {
        self.nodes.len()
    }

    /// Whether this replica answered the greeting. It may have forgotten us since; then it sends a
    /// challenge, which [`ClientLink::receive`] answers.
    pub fn is_linked(&self, node: NodeId) -> bool {
        self.nodes.get(node.index()).is_some_and(|node| node.linked)
    }

    /// A HELLO for this replica. Send one from time to time until the link stands; those of one
    /// greeting carry one number, so that a slow answer still counts.
    pub fn hello(&mut self, now: Instant, to: NodeId) -> ShortDatagram {
        let node = &mut self.nodes[to.index()];
        if !node.greeting_open {
            self.next_number = self.next_number.wrapping_add(1);
            node.greeting = self.next_number;
            node.greeting_open = true;
            node.cookie_at = None;
        }
        node.hello_at = Some(now);
        let number = node.greeting;
        self.greeting(to, number, None)
    }

    fn greeting(&self, to: NodeId, number: u64, cookie: Option<[u8; 16]>) -> ShortDatagram {
        let body = HelloBody::new(cookie);
        let body = body.as_bytes();
        let fragment = Fragment {
            message: number,
            ..Fragment::whole(body)
        };
        let mut header = self.header(Kind::Hello, fragment, body.len());
        self.nodes[to.index()]
            .keys
            .seal(&mut header, &BodyHash::of(body));
        ShortDatagram::new(&header, body)
    }

    fn header(&self, kind: Kind, fragment: Fragment, body_bytes: usize) -> Header {
        let route = Route::Client(ClientRoute {
            client: self.client,
        });
        Header::new(
            kind,
            NodeId::CLIENT,
            self.cluster_key,
            route,
            fragment,
            body_bytes,
        )
    }

    /// Writes the header of one datagram to a replica. `body` is its part of the message; a message
    /// in fragments needs a name of its own.
    pub fn seal(
        &self,
        to: NodeId,
        kind: Kind,
        fragment: Fragment,
        body: &[u8],
        head: &mut [u8; HEADER_BYTES],
    ) {
        self.seal_hashed(to, kind, fragment, body.len(), &BodyHash::of(body), head);
    }

    /// As [`ClientLink::seal`], with the body's hash at hand: a broadcast computes it once.
    pub fn seal_hashed(
        &self,
        to: NodeId,
        kind: Kind,
        fragment: Fragment,
        body_bytes: usize,
        body: &BodyHash,
        head: &mut [u8; HEADER_BYTES],
    ) {
        assert_eq!(kind.direction(), Direction::ToNode);
        let mut header = self.header(kind, fragment, body_bytes);
        self.nodes[to.index()].keys.seal(&mut header, body);
        *head = header.to_bytes();
    }

    /// Takes one datagram; its sender is known by its seal.
    pub fn receive<'a>(
        &'a mut self,
        now: Instant,
        datagram: &'a [u8],
    ) -> Result<Heard<'a>, Reject> {
        let (header, kind, body) = Header::split(datagram)?;
        if header.cluster_key != self.cluster_key {
            return Err(Reject::ForeignCluster);
        }
        if kind.direction() != Direction::ToClient {
            return Err(Reject::WrongDirection);
        }
        let route = header.reply_route();
        if route.client_prefix() != self.prefix {
            return Err(Reject::UnknownClient);
        }
        let from = header.sender();
        let node = self
            .nodes
            .get_mut(from.index())
            .ok_or(Reject::NotInCommittee)?;
        if kind == Kind::Cookie {
            let cookie: &CookieBody = messages::parse(body)?;
            return self.challenged(now, from, route.number(), cookie.cookie);
        }
        node.keys.check(header, body)?;
        if kind == Kind::Welcome {
            if route.number() != node.greeting {
                return Err(Reject::Replayed);
            }
            let welcome = WelcomeBody::decode(body)?;
            node.linked = true;
            node.greeting_open = false;
            return Ok(Heard::Welcome {
                from,
                boot: welcome.boot(),
                view: route.view(),
                executed: route.slot(),
                datagram_bytes: welcome.datagram_bytes(),
            });
        }
        let place = MessagePlace {
            view: route.view(),
            slot: route.slot(),
            number: route.number(),
        };
        let body = if header.is_whole() {
            body
        } else {
            self.replies.expire(now);
            let (origin, fragment) = (Origin::Node(from), header.fragment());
            let complete = self
                .replies
                .insert(now, origin, kind, place, fragment, body)?;
            match complete {
                Some(complete) => self.assembled.insert(complete).message(),
                None => return Ok(Heard::Nothing),
            }
        };
        Ok(Heard::Message(Linked(FromNode {
            from,
            kind,
            view: place.view,
            slot: place.slot,
            number: place.number,
            body,
        })))
    }

    /// A cookie that echoes the open greeting is returned. Another one says at most that the replica
    /// does not know us, and makes us greet it.
    fn challenged(
        &mut self,
        now: Instant,
        from: NodeId,
        number: u64,
        cookie: [u8; 16],
    ) -> Result<Heard<'static>, Reject> {
        let node = &mut self.nodes[from.index()];
        let datagram = if node.greeting_open && number == node.greeting {
            if too_soon(&mut node.cookie_at, now) {
                return Err(Reject::RateLimited);
            }
            self.greeting(from, number, Some(cookie))
        } else {
            if too_soon(&mut node.hello_at, now) {
                return Err(Reject::RateLimited);
            }
            self.hello(now, from)
        };
        Ok(Heard::Respond { to: from, datagram })
    }
}
