//! Fetching the state of a certified checkpoint from several peers at once (K4).
//!
//! A [`Transfer`] is told the root that a checkpoint certificate names, and what this replica holds
//! already. It asks for the summary, for the inner nodes that differ, and for the buckets that
//! differ. Every answer is verified alone: the summary by the root, a node by the summary, a bucket
//! by its node. So who sent something false is known at once, and is not asked again.
//!
//! A bucket comes from one peer, piece after piece, for only the whole of it has a hash; its length
//! is certified, so nobody can make it grow. Verified buckets wait in memory until all are there:
//! a state is installed whole or not at all. A transfer that is a *stream* hands them out in order
//! instead, for a copy on disk that is replaced whole or not at all, and holds few of them.
//!
//! The driver calls [`Transfer::handle`] for each CHUNK, [`Transfer::poll`] after that and at
//! [`Transfer::wake_at`]; when [`Transfer::is_complete`], [`Transfer::finish`] gives what
//! [`crate::execution::Execution::install`] takes.

mod peers;
mod stream;

use std::collections::{BTreeMap, VecDeque};

use storage::state::empty_leaf;
use thiserror::Error;
use wire::canary::planted;
use wire::ids::{Digest, Instant, NodeId, Slot};
use wire::state::{BUCKETS, BUCKETS_PER_NODE, Bucket, Chunk, Leaf, NODES, Node, Part, Summary};

use peers::Peers;
use stream::Stream;

/// How much is asked for at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Questions to one peer that wait for an answer.
    pub per_peer: usize,
    /// Questions to all peers that wait for an answer.
    pub window: usize,
    /// An answer is given up after this many nanoseconds; a silent peer is left alone for as
    /// long, then for twice as long, up to 32 times.
    pub timeout_ns: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            per_peer: 8,
            window: 24,
            timeout_ns: 200_000_000,
        }
    }
}

/// Why a CHUNK was of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// Late, repeated, or never asked for; the sender may be honest.
    #[error("nothing of this was asked for")]
    Unasked,
    /// The sender is not asked again during this transfer.
    #[error("the bytes are not those of the checkpoint")]
    Wrong,
}

/// How far a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub slot: Slot,
    /// Inner nodes known, of `NODES`.
    pub nodes: usize,
    /// Buckets known to differ from the own ones.
    pub buckets_differing: usize,
    /// Of these, how many are here and verified.
    pub buckets_verified: usize,
    /// Bytes of the buckets known to differ.
    pub bytes_differing: u64,
    /// Of these, bytes here and verified.
    pub bytes_verified: u64,
    pub peers_banned: usize,
}

/// A verified state: what [`crate::execution::Execution::install`] takes.
#[derive(Debug)]
pub struct Installation {
    pub(crate) summary: Summary,
    pub(crate) nodes: Vec<Node>,
    pub(crate) replaced: Vec<(Bucket, Vec<u8>)>,
}

impl Installation {
    /// The checkpoint's slot.
    pub fn slot(&self) -> Slot {
        self.summary.head.slot()
    }

    pub fn root(&self) -> Digest {
        self.summary.root()
    }

    /// Buckets that are replaced.
    pub fn buckets(&self) -> usize {
        self.replaced.len()
    }

    pub(crate) fn leaf(&self, bucket: Bucket) -> Leaf {
        leaf_in(&self.nodes[bucket.node()], bucket)
    }
}

pub(crate) fn leaf_in(node: &Node, bucket: Bucket) -> Leaf {
    node.leaves[bucket.index() % BUCKETS_PER_NODE]
}

/// Buckets below an inner node.
fn buckets_of(node: usize) -> impl Iterator<Item = Bucket> {
    Bucket::all()
        .skip(node * BUCKETS_PER_NODE)
        .take(BUCKETS_PER_NODE)
}

/// What one peer brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Unit {
    Summary,
    Node(u8),
    Bucket(Bucket),
}

/// A unit that a peer was asked for.
#[derive(Debug)]
struct Asked {
    unit: Unit,
    peer: usize,
    /// The next piece of a bucket, and the pieces before it.
    index: u32,
    bytes: Vec<u8>,
    /// None: the question is not sent yet.
    deadline: Option<Instant>,
}

impl Asked {
    fn part(&self) -> Part {
        match self.unit {
            Unit::Summary => Part::Summary,
            Unit::Node(node) => Part::Node(node),
            Unit::Bucket(bucket) => Part::Piece {
                bucket,
                index: self.index,
            },
        }
    }
}

/// One transfer; see the module's documentation.
#[derive(Debug)]
pub struct Transfer {
    slot: Slot,
    root: Digest,
    options: Options,
    peers: Peers,
    /// Leaves of the own state; none for buckets that must be fetched in any case.
    own: Vec<Option<Leaf>>,
    summary: Option<Summary>,
    nodes: Vec<Option<Node>>,
    /// Nodes of the transfer that this one follows.
    earlier: Vec<Option<Node>>,
    wanted: VecDeque<Unit>,
    asked: Vec<Asked>,
    /// Verified buckets; those of an earlier transfer may be of no use.
    held: BTreeMap<Bucket, (Leaf, Vec<u8>)>,
    stream: Option<Stream>,
    progress: Progress,
}

impl Transfer {
    /// `root`: of a verified certificate for `slot`. `own`: [`crate::execution::Execution::leaves`].
    /// `peers`: who may have the state, each once.
    pub fn new(
        slot: Slot,
        root: Digest,
        own: Vec<Option<Leaf>>,
        peers: &[NodeId],
        options: Options,
    ) -> Transfer {
        assert_eq!(own.len(), BUCKETS);
        assert!(options.per_peer > 0 && options.window > 0);
        Transfer {
            slot,
            root,
            options,
            peers: Peers::new(peers),
            own,
            summary: None,
            nodes: vec![None; NODES],
            earlier: vec![None; NODES],
            wanted: VecDeque::from([Unit::Summary]),
            asked: Vec::new(),
            held: BTreeMap::new(),
            stream: None,
            progress: Progress::of(slot),
        }
    }

    /// The same as a stream. What a copy has is said later, in [`Transfer::start_stream`].
    pub fn stream(slot: Slot, root: Digest, peers: &[NodeId], options: Options) -> Transfer {
        let unknown = vec![None; BUCKETS];
        Transfer {
            stream: Some(Stream::default()),
            ..Transfer::new(slot, root, unknown, peers, options)
        }
    }

    /// Begins again for a newer checkpoint; verified buckets that did not change are kept, and who
    /// lied stays banned.
    pub fn restart(self, slot: Slot, root: Digest) -> Transfer {
        let mut next = Transfer::new(slot, root, self.own, &[], self.options);
        next.peers = self.peers.again();
        next.progress.peers_banned = next.peers.banned();
        next.held = self.held;
        next.stream = self.stream.map(|_| Stream::default());
        next.earlier = self.nodes;
        for (node, older) in next.earlier.iter_mut().zip(self.earlier) {
            *node = node.take().or(older);
        }
        next
    }

    /// The own state has changed since: buckets that were equal and are so no more are wanted.
    pub fn rebase(&mut self, own: Vec<Option<Leaf>>) {
        assert_eq!(own.len(), BUCKETS);
        let before = std::mem::replace(&mut self.own, own);
        for (bucket, before) in Bucket::all().zip(before) {
            let Some(node) = &self.nodes[bucket.node()] else {
                continue;
            };
            let leaf = leaf_in(node, bucket);
            if before != Some(leaf) || self.own[bucket.index()] == Some(leaf) {
                continue;
            }
            self.progress.buckets_differing += 1;
            self.progress.bytes_differing += leaf.bytes();
            self.want_bucket(bucket, leaf);
        }
    }

    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Every part is here and verified.
    pub fn is_complete(&self) -> bool {
        let waits = |stream: &Stream| stream.differing.is_none();
        self.summary.is_some()
            && self.wanted.is_empty()
            && self.asked.is_empty()
            && !self.stream.as_ref().is_some_and(waits)
    }

    /// Complete, and not a stream.
    pub fn can_be_installed(&self) -> bool {
        self.stream.is_none() && self.is_complete()
    }

    /// A leaf of the state that is fetched; its node is known.
    fn leaf(&self, bucket: Bucket) -> Leaf {
        let node = self.nodes[bucket.node()].as_ref();
        leaf_in(node.expect("all nodes are known"), bucket)
    }

    /// Every peer sent something false: with a verified root, none of them has the state.
    pub fn is_stuck(&self) -> bool {
        !self.is_complete() && self.peers.all_banned()
    }

    /// Peers that sent something false.
    pub fn banned(&self) -> impl Iterator<Item = NodeId> {
        self.peers.banned_ids()
    }

    /// The highest checkpoint that a peer said it serves instead of this one; proven by nothing.
    pub fn served_elsewhere(&self) -> Option<Slot> {
        self.peers.elsewhere()
    }

    /// When [`Transfer::poll`] has something to do if no answer comes before.
    pub fn wake_at(&self) -> Option<Instant> {
        let deadlines = self.asked.iter().map(|asked| asked.deadline);
        let first = deadlines.min().map(|first| first.unwrap_or(Instant(0)));
        let is_busy = self.asked.len() >= self.options.window;
        if self.wanted.is_empty() || is_busy || self.is_ahead() {
            return first;
        }
        let free = self.peers.free_at(self.options.per_peer);
        first.into_iter().chain(free).min()
    }

    /// Gives up questions without an answer and asks new ones; each goes to `send`.
    pub fn poll(&mut self, now: Instant, send: &mut impl FnMut(NodeId, Slot, Part)) {
        for at in (0..self.asked.len()).rev() {
            if self.asked[at]
                .deadline
                .is_some_and(|deadline| deadline <= now)
            {
                let peer = self.asked[at].peer;
                self.peers.missed(peer, now, self.options.timeout_ns);
                self.give_up(at);
            }
        }
        while self.asked.len() < self.options.window
            && !self.wanted.is_empty()
            && !self.is_ahead()
            && let Some(peer) = self.peers.choose(now, self.options.per_peer)
            && let Some(unit) = self.wanted.pop_front()
        {
            self.peers.asked(peer);
            self.asked.push(Asked {
                unit,
                peer,
                index: 0,
                bytes: Vec::new(),
                deadline: None,
            });
        }
        for asked in &mut self.asked {
            if asked.deadline.is_none() {
                asked.deadline = Some(now.after_ns(self.options.timeout_ns));
                send(self.peers.id(asked.peer), self.slot, asked.part());
            }
        }
    }

    /// Takes a CHUNK of `from`.
    pub fn handle(&mut self, now: Instant, from: NodeId, chunk: &Chunk<'_>) -> Result<(), Refused> {
        let peer = self.peers.position(from).ok_or(Refused::Unasked)?;
        let (slot, part, bytes) = match *chunk {
            Chunk::Part { slot, part, bytes } => (slot, part, bytes),
            Chunk::Elsewhere { slot } => return self.elsewhere(now, peer, slot),
        };
        let at = self
            .asked
            .iter()
            .position(|asked| asked.peer == peer && asked.part() == part)
            .filter(|at| slot == self.slot && self.asked[*at].deadline.is_some())
            .ok_or(Refused::Unasked)?;
        if self.take(at, bytes).is_some() {
            self.peers.answered(peer);
            return Ok(());
        }
        self.peers.ban(peer);
        self.progress.peers_banned = self.peers.banned();
        self.give_up_all(peer);
        Err(Refused::Wrong)
    }

    /// What is to be installed. The transfer must be complete.
    pub fn finish(mut self) -> Installation {
        assert!(self.is_complete(), "a state is installed whole");
        let summary = self.summary.expect("complete");
        let nodes: Vec<_> = self.nodes.into_iter().flatten().collect();
        assert_eq!(nodes.len(), NODES);
        let mut replaced = Vec::with_capacity(self.progress.buckets_differing);
        for (bucket, own) in Bucket::all().zip(self.own) {
            let leaf = leaf_in(&nodes[bucket.node()], bucket);
            if own != Some(leaf) {
                let (held, bytes) = self.held.remove(&bucket).expect("complete");
                assert_eq!(held, leaf);
                replaced.push((bucket, bytes));
            }
        }
        Installation {
            summary,
            nodes,
            replaced,
        }
    }

    fn elsewhere(&mut self, now: Instant, peer: usize, slot: Slot) -> Result<(), Refused> {
        if !self.asked.iter().any(|asked| asked.peer == peer) {
            return Err(Refused::Unasked);
        }
        self.peers.serves(peer, slot);
        self.peers.missed(peer, now, self.options.timeout_ns);
        self.give_up_all(peer);
        Ok(())
    }

    /// The unit is wanted again, from the beginning and from anyone.
    fn give_up(&mut self, at: usize) {
        let asked = self.asked.swap_remove(at);
        self.peers.released(asked.peer);
        match self.stream {
            // In order, lest it wait for a bucket that it does not ask for.
            Some(_) => {
                let at = self.wanted.partition_point(|unit| *unit < asked.unit);
                self.wanted.insert(at, asked.unit);
            }
            None => self.wanted.push_front(asked.unit),
        }
    }

    fn give_up_all(&mut self, peer: usize) {
        for at in (0..self.asked.len()).rev() {
            if self.asked[at].peer == peer {
                self.give_up(at);
            }
        }
    }

    /// Verifies the bytes that answer a question; none when they are false.
    fn take(&mut self, at: usize, bytes: &[u8]) -> Option<()> {
        match self.asked[at].unit {
            Unit::Summary => {
                let summary = Summary::parse(bytes).ok()?;
                if summary.root() != self.root || summary.head.slot() != self.slot {
                    return None;
                }
                self.done(at);
                self.know_summary(summary.clone());
            }
            Unit::Node(number) => {
                let node = Node::parse(bytes).ok()?;
                let expected = self.summary.as_ref()?.nodes[usize::from(number)];
                if node.digest() != expected {
                    return None;
                }
                self.done(at);
                self.know_node(usize::from(number), node.clone());
            }
            Unit::Bucket(bucket) => {
                let leaf = leaf_in(self.nodes[bucket.node()].as_ref()?, bucket);
                let asked = &mut self.asked[at];
                if leaf.piece_bytes(asked.index) != Some(bytes.len()) {
                    return None;
                }
                asked.bytes.extend_from_slice(bytes);
                asked.index += 1;
                if u64::from(asked.index) < leaf.pieces() {
                    asked.deadline = None;
                    return Some(());
                }
                if Leaf::of(&asked.bytes) != Some(leaf) && !planted("rootblind") {
                    return None;
                }
                let bytes = self.done(at);
                self.hold(bucket, leaf, bytes);
            }
        }
        Some(())
    }

    fn done(&mut self, at: usize) -> Vec<u8> {
        let asked = self.asked.swap_remove(at);
        self.peers.released(asked.peer);
        asked.bytes
    }

    fn know_summary(&mut self, summary: Summary) {
        for (index, digest) in summary.nodes.iter().enumerate() {
            match self.node_at_hand(index, digest) {
                Some(node) => self.know_node(index, node),
                None => self.wanted.push_back(Unit::Node(index as u8)),
            }
        }
        self.summary = Some(summary);
    }

    /// An inner node that need not be fetched: the own one, or one of an earlier transfer.
    fn node_at_hand(&self, index: usize, digest: &Digest) -> Option<Node> {
        let mut own = Node {
            leaves: [empty_leaf(); BUCKETS_PER_NODE],
        };
        let whole = own
            .leaves
            .iter_mut()
            .zip(buckets_of(index))
            .all(|(leaf, bucket)| {
                self.own[bucket.index()].is_some_and(|held| {
                    *leaf = held;
                    true
                })
            });
        let own = whole.then_some(own);
        [own, self.earlier[index].clone()]
            .into_iter()
            .flatten()
            .find(|node| node.digest() == *digest)
    }

    fn know_node(&mut self, index: usize, node: Node) {
        for bucket in buckets_of(index) {
            let leaf = leaf_in(&node, bucket);
            if self.stream.is_some() || self.own[bucket.index()] == Some(leaf) {
                continue;
            }
            self.progress.buckets_differing += 1;
            self.progress.bytes_differing += leaf.bytes();
            self.want_bucket(bucket, leaf);
        }
        self.progress.nodes += 1;
        self.nodes[index] = Some(node);
    }

    /// A bucket that differs: fetched, unless it is at hand.
    fn want_bucket(&mut self, bucket: Bucket, leaf: Leaf) {
        let held = self.held.get(&bucket);
        if leaf == empty_leaf() {
            self.hold(bucket, leaf, Vec::new());
        } else if held.is_some_and(|(held, _)| *held == leaf) {
            self.count_verified(leaf);
        } else {
            self.wanted.push_back(Unit::Bucket(bucket));
        }
    }

    fn hold(&mut self, bucket: Bucket, leaf: Leaf, bytes: Vec<u8>) {
        self.count_verified(leaf);
        self.held.insert(bucket, (leaf, bytes));
    }

    fn count_verified(&mut self, leaf: Leaf) {
        self.progress.buckets_verified += 1;
        self.progress.bytes_verified += leaf.bytes();
    }
}

impl Progress {
    fn of(slot: Slot) -> Progress {
        Progress {
            slot,
            nodes: 0,
            buckets_differing: 0,
            buckets_verified: 0,
            bytes_differing: 0,
            bytes_verified: 0,
            peers_banned: 0,
        }
    }
}
