//! A cluster of scripted replicas behind real links: it orders each request in a block of its own,
//! and one replica may lie. No network and no time: callers carry the datagrams.
#![allow(dead_code)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wire::bytes::{HeapBuffers, HeapShared};
use wire::committee::{Committee, CommitteeParts, Member, Preset};
use wire::header::{Fragment, HEADER_BYTES, Kind, parts};
use wire::ids::{Boot, ClusterId, Instant, NodeId, PublicKey, Sequence, SessionId, Slot, View};
use wire::keys::NodeSecret;
use wire::limits::{CACHED_RESULT_BYTES_MAX, RECORD_HEADER_BYTES, REQUEST_BYTES_MAX};
use wire::link::{BLOCK_REASSEMBLY, Endpoint, EndpointConfig, Incoming, MESSAGE_REASSEMBLY};
use wire::ops::{Operation, ResultBuffer, operations};
use wire::read::{Freshness, ReadReplyHead, ReadView};
use wire::reply::{Answer, BUSY_LOG_FULL, BusyBody, ReplyBuilder, result_digest};
use wire::request::RequestView;
use wire::seal::{Ed25519Verifier, Verifier};
use zerocopy::IntoBytes;

/// A datagram that a replica sends to a client.
#[derive(Clone, Debug)]
pub struct Sent {
    pub from: NodeId,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Executed {
    slot: Slot,
    result: Vec<u8>,
}

/// What the lying replica does instead of answering; drawn anew for each reply.
#[derive(Clone, Copy, Debug)]
enum Lie {
    OtherResult,
    OtherSlot,
    OtherSession,
    Expired,
    Stale,
    Busy,
    Silence,
    HugeRun,
}

const LIES: [Lie; 8] = [
    Lie::OtherResult,
    Lie::OtherSlot,
    Lie::OtherSession,
    Lie::Expired,
    Lie::Stale,
    Lie::Busy,
    Lie::Silence,
    Lie::HugeRun,
];

pub struct FakeCluster {
    endpoints: Vec<Endpoint<HeapBuffers>>,
    verifier: Ed25519Verifier,
    datagram_bytes: usize,
    slot: Slot,
    sessions: HashMap<PublicKey, SessionId>,
    executed: HashMap<(PublicKey, u64), Executed>,
    pub table: HashMap<Vec<u8>, Vec<u8>>,
    pub liar: Option<NodeId>,
    /// Replicas that never say anything.
    pub silent: Vec<NodeId>,
    /// Replica 0 ignores requests.
    /// Replicas that answer reads from a state of their own.
    pub behind: Vec<NodeId>,
    /// Fenced READs that arrived.
    pub reads: u64,
    pub deaf_leader: bool,
    /// The leader, replica 0, orders nothing and says so.
    pub log_full: Arc<AtomicBool>,
    /// Check signatures; costs public-key work.
    pub verify: bool,
    /// Operations that were executed a second time: must stay 0.
    pub executed_twice: u64,
    pub bad_signatures: u64,
    random: u64,
    result: ResultBuffer,
}

/// The committee of `n` replicas with fixed keys, replica i at `addresses[i]`.
pub fn committee(addresses: &[SocketAddr]) -> Committee {
    let members = addresses.iter().enumerate().map(|(id, &address)| Member {
        id: NodeId(id as u16),
        public_key: secret(id).public_key(),
        address,
    });
    let parts =
        CommitteeParts::with_preset(ClusterId([9; 16]), members.collect(), Preset::default());
    Committee::new(parts.unwrap()).unwrap()
}

fn secret(id: usize) -> NodeSecret {
    NodeSecret::generate(&[id as u8 + 1; 32]).unwrap()
}

impl FakeCluster {
    pub fn new(committee: &Committee, datagram_bytes: usize, seed: u64) -> FakeCluster {
        let buffers = HeapBuffers {
            bytes_each: RECORD_HEADER_BYTES + REQUEST_BYTES_MAX,
        };
        let endpoints = (0..committee.n()).map(|id| {
            let config = EndpointConfig {
                me: NodeId(id as u16),
                committee,
                secret: &secret(id),
                boot: Boot(1),
                datagram_bytes,
                cookie_secret: [id as u8 + 100; 32],
                blocks: BLOCK_REASSEMBLY,
                messages: MESSAGE_REASSEMBLY,
            };
            Endpoint::new(&config, buffers.clone(), buffers.clone()).unwrap()
        });
        FakeCluster {
            endpoints: endpoints.collect(),
            verifier: Ed25519Verifier::new(committee),
            datagram_bytes,
            slot: Slot(0),
            sessions: HashMap::new(),
            executed: HashMap::new(),
            table: HashMap::new(),
            liar: None,
            silent: Vec::new(),
            deaf_leader: false,
            behind: Vec::new(),
            reads: 0,
            log_full: Arc::default(),
            verify: true,
            executed_twice: 0,
            bad_signatures: 0,
            random: seed | 1,
            result: ResultBuffer::new(),
        }
    }

    fn draw(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % bound
    }

    /// All sessions are forgotten: every request is answered EXPIRED until a new OPEN.
    pub fn expire_sessions(&mut self) {
        self.sessions.clear();
    }

    /// Replica `node` takes a datagram of a client.
    pub fn receive(
        &mut self,
        now: Instant,
        node: NodeId,
        from: SocketAddr,
        datagram: &[u8],
        out: &mut Vec<Sent>,
    ) {
        let shared = HeapShared::copy_from(datagram);
        let incoming = self.endpoints[node.index()].receive(now, from, &shared);
        match incoming {
            Ok(Some(Incoming::Respond { to, datagram })) => out.push(Sent {
                from: node,
                to,
                bytes: datagram.to_vec(),
            }),
            Ok(Some(Incoming::Client(message))) => {
                let message = message.into_inner();
                let body = message.body.bytes();
                match message.kind {
                    Kind::Request if self.deaf_leader && node == NodeId(0) => {}
                    Kind::Open | Kind::Request if self.log_full.load(Ordering::Acquire) => {
                        let Ok(request) = RequestView::parse(body) else {
                            return;
                        };
                        if node == NodeId(0) {
                            let busy = BusyBody::new(request.first_sequence(), 1000, BUSY_LOG_FULL);
                            let to = &message.client;
                            self.send(node, to, Kind::Busy, 0, busy.as_bytes(), out);
                        }
                    }
                    Kind::Open => self.open(&message.client, body, out),
                    Kind::Request => self.request(node, &message.client, body, out),
                    Kind::Read => self.read(node, &message.client, body, out),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// Replica 0 refuses the bundle that begins with `first`, asking for a pause of 100 ms.
    pub fn say_busy(&mut self, client: &PublicKey, first: Sequence) -> Vec<Sent> {
        let busy = BusyBody::new(first, 100_000, BUSY_LOG_FULL);
        let mut out = Vec::new();
        self.send(NodeId(0), client, Kind::Busy, 0, busy.as_bytes(), &mut out);
        out
    }

    fn signature_holds(&mut self, request: &RequestView<'_>) -> bool {
        let holds = !self.verify || self.verifier.request(request).is_ok();
        self.bad_signatures += u64::from(!holds);
        holds
    }

    fn next_slot(&mut self) -> Slot {
        self.slot = self.slot.next();
        for endpoint in &mut self.endpoints {
            endpoint.set_progress(View(0), self.slot);
        }
        self.slot
    }

    fn replicas(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.endpoints.len() as u16).map(NodeId)
    }

    fn open(&mut self, client: &PublicKey, body: &[u8], out: &mut Vec<Sent>) {
        let Ok(request) = RequestView::parse(body) else {
            return;
        };
        if !request.is_open() || !self.signature_holds(&request) {
            return;
        }
        let slot = self.next_slot();
        let new = SessionId::opened_at(slot, 0);
        let session = *self.sessions.entry(*client).or_insert(new);
        for node in self.replicas() {
            let mut reply = ReplyBuilder::new(1024);
            reply.begin(session);
            reply.push(Sequence(0), 1, slot, &Answer::Opened);
            self.reply(node, client, slot, reply, out);
        }
    }

    fn request(&mut self, node: NodeId, client: &PublicKey, body: &[u8], out: &mut Vec<Sent>) {
        let Ok(request) = RequestView::parse(body) else {
            return;
        };
        if !self.signature_holds(&request) {
            return;
        }
        let (session, first) = (request.session(), request.first_sequence());
        if self.sessions.get(client) != Some(&session) {
            let slot = self.next_slot();
            for node in self.replicas() {
                let mut reply = ReplyBuilder::new(1024);
                reply.begin(session);
                reply.push(first, request.count() as u16, slot, &Answer::Expired);
                self.reply(node, client, slot, reply, out);
            }
            return;
        }
        let fresh = !self.executed.contains_key(&(*client, first.0));
        if fresh {
            let slot = self.next_slot();
            for (offset, operation) in operations(request.operation_bytes()).enumerate() {
                self.execute(client, first.0 + offset as u64, slot, &operation);
            }
        }
        let speakers: Vec<NodeId> = if fresh {
            self.replicas().collect()
        } else {
            vec![node]
        };
        for node in speakers {
            let mut reply = ReplyBuilder::new(65_536);
            reply.begin(session);
            for sequence in first.0..first.0 + request.count() as u64 {
                let executed = &self.executed[&(*client, sequence)];
                let long = executed.result.len() > CACHED_RESULT_BYTES_MAX;
                let digest = result_digest(&executed.result);
                let answer = if long && !(fresh && (request.all_full() || node.0 == 0)) {
                    Answer::Digest(digest)
                } else {
                    Answer::Full(&executed.result)
                };
                reply.push(Sequence(sequence), 1, executed.slot, &answer);
            }
            self.reply(node, client, self.slot, reply, out);
        }
    }

    fn execute(
        &mut self,
        client: &PublicKey,
        sequence: u64,
        slot: Slot,
        operation: &Operation<'_>,
    ) {
        self.result.clear();
        match *operation {
            Operation::Put { key, value } => {
                self.table.insert(key.to_vec(), value.to_vec());
                self.result.done();
            }
            Operation::Get { key } => match self.table.get(key) {
                Some(value) => self.result.value(value),
                None => self.result.absent(),
            },
            Operation::Delete { key } => match self.table.remove(key) {
                Some(_) => self.result.done(),
                None => self.result.absent(),
            },
            Operation::Cas {
                key,
                expected,
                value,
            } => {
                let held = self.table.get(key).map(Vec::as_slice);
                if held == expected {
                    self.table.insert(key.to_vec(), value.to_vec());
                    self.result.done();
                } else {
                    self.result.mismatch(held);
                }
            }
            Operation::Txn(_) | Operation::Reconfigure(_) => self.result.txn_refused(0),
            Operation::Scan { .. } => {
                self.result.entries_begin();
                for (key, value) in &self.table {
                    self.result.entry(key, value);
                }
            }
        }
        let executed = Executed {
            slot,
            result: self.result.bytes().to_vec(),
        };
        let before = self.executed.insert((*client, sequence), executed);
        self.executed_twice += u64::from(before.is_some());
    }

    fn read(&mut self, node: NodeId, client: &PublicKey, body: &[u8], out: &mut Vec<Sent>) {
        let Ok(read) = ReadView::parse(body) else {
            return;
        };
        self.reads += u64::from(read.freshness == Freshness::Fenced);
        self.result.clear();
        match read.operation {
            Operation::Get { key } => match self.table.get(key) {
                _ if self.behind.contains(&node) => self.result.value(&[node.0 as u8]),
                Some(value) => self.result.value(value),
                None => self.result.absent(),
            },
            _ => self.result.absent(),
        }
        let result = self.result.bytes();
        let full = read.all_full || node.0 == 0 || result.len() <= CACHED_RESULT_BYTES_MAX;
        let digest = result_digest(result);
        let result: &[u8] = if full { result } else { &digest.0 };
        let slot = Slot(self.slot.0 + u64::from(node.0));
        let head = ReadReplyHead::new(read.number, read.epoch, slot, !full);
        let bytes = [head.as_bytes(), result].concat();
        self.send(node, client, Kind::ReadReply, read.number, &bytes, out);
    }

    /// Sends a reply, or what the liar makes of it.
    fn reply(
        &mut self,
        node: NodeId,
        client: &PublicKey,
        slot: Slot,
        reply: ReplyBuilder,
        out: &mut Vec<Sent>,
    ) {
        if self.liar != Some(node) {
            self.send(node, client, Kind::Reply, 0, reply.bytes(), out);
            return;
        }
        let honest = wire::reply::ReplyView::parse(reply.bytes()).unwrap();
        let lie = LIES[self.draw(LIES.len() as u64) as usize];
        let session = match lie {
            Lie::OtherSession => SessionId(honest.session.0 ^ 0xffff_0000),
            _ => honest.session,
        };
        let mut lied = ReplyBuilder::new(65_536);
        lied.begin(session);
        for run in honest.runs() {
            let (mut count, mut at, mut answer) = (run.count, run.slot, run.answer);
            match lie {
                Lie::OtherResult => answer = Answer::Full(&[1, 0xbe, 0xef]),
                Lie::OtherSlot => at = Slot(slot.0 + 1_000_000),
                Lie::Expired => answer = Answer::Expired,
                Lie::Stale => answer = Answer::Stale,
                Lie::HugeRun => {
                    count = u16::MAX;
                    answer = Answer::Full(&[2]);
                }
                Lie::Silence => return,
                Lie::OtherSession | Lie::Busy => {}
            }
            lied.push(run.first_sequence, count, at, &answer);
            if let Lie::Busy = lie {
                let busy = BusyBody::new(run.first_sequence, u32::MAX, 1);
                self.send(node, client, Kind::Busy, 0, busy.as_bytes(), out);
                return;
            }
        }
        let bytes = lied.bytes().to_vec();
        self.send(node, client, Kind::Reply, 0, &bytes, out);
        if self.draw(2) == 0 {
            // And once more, to count twice.
            self.send(node, client, Kind::Reply, 0, &bytes, out);
        }
    }

    fn send(
        &mut self,
        node: NodeId,
        client: &PublicKey,
        kind: Kind,
        number: u64,
        body: &[u8],
        out: &mut Vec<Sent>,
    ) {
        if self.silent.contains(&node) {
            return;
        }
        let message = self.draw(u64::MAX);
        for (offset_grains, range) in parts(body.len(), self.datagram_bytes) {
            let fragment = Fragment {
                message,
                offset_grains,
                total: body.len() as u32,
            };
            let part = &body[range];
            let mut head = [0; HEADER_BYTES];
            let to = self.endpoints[node.index()].seal_client(
                client,
                kind,
                View(0),
                self.slot,
                number,
                fragment,
                part,
                &mut head,
            );
            if let Some(to) = to {
                let bytes = [&head[..], part].concat();
                out.push(Sent {
                    from: node,
                    to,
                    bytes,
                });
            }
        }
    }
}
