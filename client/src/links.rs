//! The links with all replicas: greetings, sealing, fragments, and what a datagram turned out to be.

use std::net::SocketAddr;
use std::sync::Arc;

use wire::committee::Committee;
use wire::header::{Fragment, HEADER_BYTES, Kind, parts};
use wire::ids::{Instant, NodeId, PublicKey, Slot, View};
use wire::limits::{DATAGRAM_BYTES_MAX, GRAIN_BYTES};
use wire::link::{self, BodyHash, ClientLink};
use wire::read::ReadReplyView;
use wire::reject::Reject;
use wire::reply::{BusyBody, ReplyView};
use wire::seal::{Ed25519ClientSigner, sign_request};
use zerocopy::FromBytes;

use crate::options::{Options, Outbox};

/// Pause before a second greeting of a replica that does not answer; it doubles.
const HELLO_PAUSE_NS: u64 = 20_000_000;
/// Longest pause between greetings.
const HELLO_PAUSE_NS_MAX: u64 = 1_000_000_000;
/// A replica that was silent for this long while we wait for replies is greeted again: it may have
/// restarted and forgotten us, and leaders alone hear from us otherwise.
const SILENCE_NS: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug)]
struct Node {
    datagram_bytes: usize,
    heard_at: Instant,
    next_hello: Instant,
    pause_ns: u64,
}

/// What a datagram said.
#[derive(Debug)]
pub(crate) enum Heard<'a> {
    /// A part of a greeting or of a longer message.
    Nothing,
    Welcome {
        node: NodeId,
        slot: Slot,
        view: View,
    },
    Reply {
        node: NodeId,
        view: View,
        reply: ReplyView<'a>,
    },
    Busy {
        node: NodeId,
        view: View,
        busy: BusyBody,
    },
    ReadReply {
        node: NodeId,
        reply: ReadReplyView<'a>,
    },
}

/// Seals what goes to the replicas and opens what comes from them.
#[derive(Debug)]
pub(crate) struct Links {
    link: ClientLink,
    signer: Ed25519ClientSigner,
    identity: PublicKey,
    nodes: Vec<Node>,
    datagram_bytes_max: usize,
    /// Names the next message that travels in fragments.
    next_message: u64,
    datagram: Vec<u8>,
    rejected: u64,
    /// When a replica without a link should be greeted.
    wake: Instant,
}

impl Links {
    pub(crate) fn new(
        committee: &Arc<Committee>,
        secret: &crate::Secret,
        options: &Options,
    ) -> Links {
        let link = ClientLink::new(committee, secret, options.seed);
        let node = Node {
            // Until its WELCOME names a size, no message is sent to a replica but short ones.
            datagram_bytes: HEADER_BYTES + GRAIN_BYTES,
            heard_at: Instant(0),
            next_hello: Instant(0),
            pause_ns: HELLO_PAUSE_NS,
        };
        Links {
            identity: *link.client(),
            signer: Ed25519ClientSigner::new(committee.cluster(), secret),
            nodes: vec![node; link.replicas()],
            datagram_bytes_max: options.datagram_bytes_max,
            next_message: options.seed | 1,
            datagram: Vec::with_capacity(DATAGRAM_BYTES_MAX),
            rejected: 0,
            wake: Instant(0),
            link,
        }
    }

    pub(crate) fn identity(&self) -> &PublicKey {
        &self.identity
    }

    pub(crate) fn replicas(&self) -> usize {
        self.nodes.len()
    }

    /// The leader of `view`: the order of the committee is that of its ids.
    pub(crate) fn leader(&self, view: View) -> NodeId {
        NodeId((view.0 % self.nodes.len() as u64) as u16)
    }

    fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u16).map(NodeId)
    }

    pub(crate) fn is_up(&self, node: NodeId) -> bool {
        self.link.is_linked(node)
    }

    /// Replicas with which a link stands.
    pub(crate) fn up_count(&self) -> usize {
        self.ids().filter(|&node| self.is_up(node)).count()
    }

    /// Replicas from which something came in the last `ns`.
    pub(crate) fn heard_within(&self, now: Instant, ns: u64) -> usize {
        let nodes = self.nodes.iter();
        let heard = |node: &&Node| node.heard_at > Instant(0) && now.since_ns(node.heard_at) < ns;
        nodes.filter(heard).count()
    }

    /// Datagrams that were refused.
    pub(crate) fn rejected(&self) -> u64 {
        self.rejected
    }

    /// Signs an own request frame in place.
    pub(crate) fn sign(&self, frame: &mut [u8]) {
        sign_request(&self.signer, frame).expect("own requests are well formed");
    }

    /// Sends a signed frame to the leader, or to everyone when asked, or when there is no link with
    /// the leader: the others forward it.
    pub(crate) fn send_frame(
        &mut self,
        kind: Kind,
        leader: NodeId,
        everyone: bool,
        frame: &[u8],
        out: &mut impl Outbox,
    ) {
        let hash = BodyHash::of(frame);
        if !everyone && self.is_up(leader) {
            self.send_message(leader, kind, frame, &hash, out);
            return;
        }
        for node in self.ids() {
            if self.is_up(node) {
                self.send_message(node, kind, frame, &hash, out);
            }
        }
    }

    /// Sends the body of a READ to one replica, if there is a link.
    pub(crate) fn send_read(&mut self, node: NodeId, body: &[u8], out: &mut impl Outbox) {
        if self.is_up(node) {
            self.send_message(node, Kind::Read, body, &BodyHash::of(body), out);
        }
    }

    /// Sends the body of a READ to every replica with a link.
    pub(crate) fn send_read_to_all(&mut self, body: &[u8], out: &mut impl Outbox) {
        let hash = BodyHash::of(body);
        for node in self.ids() {
            if self.is_up(node) {
                self.send_message(node, Kind::Read, body, &hash, out);
            }
        }
    }

    fn send_message(
        &mut self,
        node: NodeId,
        kind: Kind,
        message: &[u8],
        whole_hash: &BodyHash,
        out: &mut impl Outbox,
    ) {
        let datagram_bytes = self.nodes[node.index()].datagram_bytes;
        let name = self.next_message;
        let mut head = [0; HEADER_BYTES];
        for (offset_grains, range) in parts(message.len(), datagram_bytes) {
            let part = &message[range];
            let whole = part.len() == message.len();
            let fragment = Fragment {
                message: if whole { 0 } else { name },
                offset_grains,
                total: message.len() as u32,
            };
            if whole {
                self.link
                    .seal_hashed(node, kind, fragment, part.len(), whole_hash, &mut head);
            } else {
                self.link.seal(node, kind, fragment, part, &mut head);
                self.next_message = name.wrapping_add(1);
            }
            self.datagram.clear();
            self.datagram.extend_from_slice(&head);
            self.datagram.extend_from_slice(part);
            out.send(node, &self.datagram);
        }
    }

    /// Opens one datagram; greetings are answered here.
    pub(crate) fn receive<'a>(
        &'a mut self,
        now: Instant,
        datagram: &'a [u8],
        out: &mut impl Outbox,
    ) -> Result<Heard<'a>, Reject> {
        let heard = match self.link.receive(now, datagram) {
            Ok(heard) => heard,
            Err(reject) => {
                self.rejected += 1;
                return Err(reject);
            }
        };
        let message = match heard {
            link::Heard::Nothing => return Ok(Heard::Nothing),
            link::Heard::Respond { to, datagram } => {
                out.send(to, &datagram);
                return Ok(Heard::Nothing);
            }
            link::Heard::Welcome {
                from,
                view,
                executed,
                datagram_bytes,
                ..
            } => {
                let node = &mut self.nodes[from.index()];
                node.heard_at = now;
                node.pause_ns = HELLO_PAUSE_NS;
                node.datagram_bytes =
                    datagram_bytes.clamp(HEADER_BYTES + GRAIN_BYTES, self.datagram_bytes_max);
                return Ok(Heard::Welcome {
                    node: from,
                    slot: executed,
                    view,
                });
            }
            link::Heard::Message(message) => message.into_inner(),
        };
        let node = message.from;
        self.nodes[node.index()].heard_at = now;
        let read = read_body(node, message.kind, message.view, message.body);
        self.rejected += u64::from(read.is_err());
        read
    }

    /// When a greeting is due.
    pub(crate) fn wake(&self) -> Instant {
        self.wake
    }

    /// Greets replicas without a link, and, while replies are awaited, those that fell silent.
    pub(crate) fn tick(&mut self, now: Instant, waiting: bool, out: &mut impl Outbox) {
        for node in self.ids() {
            let state = &self.nodes[node.index()];
            let silent = waiting && now.since_ns(state.heard_at) >= SILENCE_NS;
            if now < state.next_hello || (self.is_up(node) && !silent) {
                continue;
            }
            let state = &mut self.nodes[node.index()];
            state.next_hello = now.after_ns(state.pause_ns);
            state.pause_ns = (state.pause_ns * 2).min(HELLO_PAUSE_NS_MAX);
            let hello = self.link.hello(now, node);
            out.send(node, &hello);
        }
        self.wake = self
            .ids()
            .filter(|&node| !self.is_up(node))
            .map(|node| self.nodes[node.index()].next_hello)
            .min()
            .unwrap_or(Instant(u64::MAX));
    }
}

fn read_body(node: NodeId, kind: Kind, view: View, body: &[u8]) -> Result<Heard<'_>, Reject> {
    match kind {
        Kind::Reply => Ok(Heard::Reply {
            node,
            view,
            reply: ReplyView::parse(body)?,
        }),
        Kind::Busy => Ok(Heard::Busy {
            node,
            view,
            busy: BusyBody::read_from_bytes(body).map_err(|_| Reject::BodyMalformed)?,
        }),
        Kind::ReadReply => {
            let reply = ReadReplyView::parse(body)?;
            Ok(Heard::ReadReply { node, reply })
        }
        _ => Err(Reject::UnknownKind),
    }
}

/// Where the replicas listen, by id.
pub(crate) fn addresses(committee: &Committee) -> Vec<SocketAddr> {
    let members = committee.members();
    members.iter().map(|member| member.address).collect()
}
