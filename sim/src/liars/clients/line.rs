//! The links of one key of a lying client with all replicas.

use std::sync::Arc;

use wire::committee::Committee;
use wire::header::{Fragment, HEADER_BYTES, Kind, parts};
use wire::ids::{Instant, NodeId, PublicKey, Sequence, SessionId, Slot};
use wire::keys::ClientSecret;
use wire::limits::GRAIN_BYTES;
use wire::link::{ClientLink, Heard};
use wire::ops::{Operation, OperationsBuilder};
use wire::reply::{Answer, ReplyView};
use wire::request::{RequestFields, encode_open, encode_request};
use wire::seal::{Ed25519ClientSigner, sign_request};

use crate::plan::MS;
use crate::random::Random;

/// See the module's documentation.
pub struct Line {
    link: ClientLink,
    signer: Ed25519ClientSigner,
    /// Datagrams that each replica wants at most; 0 before it welcomed us.
    datagram_bytes: Vec<usize>,
    session: Option<SessionId>,
    /// Highest slot that a replica named: one word is enough for a liar.
    executed: Slot,
    next_message: u64,
    next_greeting: u64,
    next_open: u64,
    opens: bool,
    /// Replies that came.
    pub answers: u64,
    sent: Vec<(usize, Vec<u8>)>,
}

impl Line {
    pub fn new(committee: &Arc<Committee>, random: &mut Random) -> Line {
        let secret = ClientSecret::generate(&random.bytes()).expect("a drawn secret is good");
        let link = ClientLink::new(committee, &secret, random.draw());
        Line {
            datagram_bytes: vec![0; link.replicas()],
            link,
            signer: Ed25519ClientSigner::new(committee.cluster(), &secret),
            session: None,
            executed: Slot(0),
            next_message: random.draw() | 1,
            next_greeting: 0,
            next_open: 0,
            opens: true,
            answers: 0,
            sent: Vec::new(),
        }
    }

    pub fn client(&self) -> PublicKey {
        *self.link.client()
    }

    /// The session, once a replica named it.
    pub fn session(&self) -> Option<SessionId> {
        self.session
    }

    pub fn replicas(&self) -> usize {
        self.datagram_bytes.len()
    }

    /// Greets who does not know us, and opens a session.
    pub fn tick(&mut self, now: Instant) {
        if now.0 >= self.next_greeting {
            self.next_greeting = now.0 + 20 * MS;
            for node in 0..self.replicas() {
                if self.datagram_bytes[node] == 0 {
                    let hello = self.link.hello(now, NodeId(node as u16));
                    self.sent.push((node, hello.to_vec()));
                }
            }
        }
        let welcome = self.datagram_bytes.iter().any(|bytes| *bytes > 0);
        if self.opens && self.session.is_none() && welcome && now.0 >= self.next_open {
            self.next_open = now.0 + 50 * MS;
            let open = self.open(self.executed);
            self.send_all(Kind::Open, &open);
        }
    }

    /// A datagram that came; false when it is for another key.
    pub fn receive(&mut self, now: Instant, datagram: &[u8]) -> bool {
        let Ok(heard) = self.link.receive(now, datagram) else {
            return false;
        };
        match heard {
            Heard::Respond { to, datagram } => self.sent.push((to.index(), datagram.to_vec())),
            Heard::Welcome {
                from,
                executed,
                datagram_bytes,
                ..
            } => {
                self.executed = self.executed.max(executed);
                let least = HEADER_BYTES + GRAIN_BYTES;
                self.datagram_bytes[from.index()] = datagram_bytes.max(least);
            }
            Heard::Message(message) => {
                let message = message.into_inner();
                self.answers += 1;
                if message.kind == Kind::Reply
                    && let Ok(reply) = ReplyView::parse(message.body)
                {
                    let runs = reply.runs().collect::<Vec<_>>();
                    // A liar may be lied to.
                    let opened = runs.iter().any(|run| run.answer == Answer::Opened);
                    if opened && reply.session > SessionId(0) {
                        self.session = Some(reply.session);
                    } else if runs.iter().any(|run| run.answer == Answer::Expired) {
                        self.session = None;
                    }
                }
            }
            Heard::Nothing => {}
        }
        true
    }

    /// What is to be sent.
    pub fn take_sent(&mut self) -> Vec<(usize, Vec<u8>)> {
        std::mem::take(&mut self.sent)
    }

    /// A signed OPEN.
    pub fn open(&self, reference: Slot) -> Vec<u8> {
        let mut frame = Vec::new();
        encode_open(&mut frame, self.client(), reference);
        sign_request(&self.signer, &mut frame).expect("well formed");
        frame
    }

    /// A signed request of consecutive operations.
    pub fn request(&self, first: u64, acked_low: u64, operations: &[Operation<'_>]) -> Vec<u8> {
        let mut builder = OperationsBuilder::new();
        operations.iter().for_each(|op| builder.push(op));
        let (bytes, count) = builder.finish();
        let fields = RequestFields {
            session: self.session.unwrap_or(SessionId(1)),
            first_sequence: Sequence(first),
            acked_low: Sequence(acked_low),
            flags: 0,
            count: count as u16,
        };
        let mut frame = Vec::new();
        encode_request(&mut frame, self.client(), fields, &bytes);
        sign_request(&self.signer, &mut frame).expect("well formed");
        frame
    }

    /// Sends a message over the link with one replica, if there is one.
    pub fn send(&mut self, node: usize, kind: Kind, message: &[u8]) {
        let datagram_bytes = self.datagram_bytes[node];
        if datagram_bytes == 0 {
            return;
        }
        self.next_message = self.next_message.wrapping_add(1);
        for (offset_grains, range) in parts(message.len(), datagram_bytes) {
            let whole = range.len() == message.len();
            let fragment = Fragment {
                message: if whole { 0 } else { self.next_message },
                offset_grains,
                total: message.len() as u32,
            };
            self.send_part(node, kind, fragment, &message[range]);
        }
    }

    /// Sends one datagram whose header says of kind and message what it likes, and contradicts
    /// itself where that does not fit the bytes.
    pub fn send_contradiction(&mut self, node: usize, kind: Kind, fragment: Fragment, part: &[u8]) {
        let mut head = [0; HEADER_BYTES];
        let (to, whole) = (NodeId(node as u16), Fragment::whole(part));
        self.link.seal(to, Kind::Request, whole, part, &mut head);
        // As wire/src/header.rs lays it out.
        head[5] = kind as u8;
        head[48..56].copy_from_slice(&fragment.message.to_le_bytes());
        head[56..58].copy_from_slice(&fragment.offset_grains.to_le_bytes());
        head[60..64].copy_from_slice(&fragment.total.to_le_bytes());
        self.send_raw(node, [&head, part].concat());
    }

    /// Sends one part of a message.
    pub fn send_part(&mut self, node: usize, kind: Kind, fragment: Fragment, part: &[u8]) {
        let mut head = [0; HEADER_BYTES];
        self.link
            .seal(NodeId(node as u16), kind, fragment, part, &mut head);
        self.send_raw(node, [&head, part].concat());
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, node: usize, datagram: Vec<u8>) {
        self.sent.push((node, datagram));
    }

    pub fn send_all(&mut self, kind: Kind, message: &[u8]) {
        (0..self.replicas()).for_each(|node| self.send(node, kind, message));
    }
}
