//! n cores, their callers' duties, the network between them, and virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use consensus::{BlockCheck, Config, Core, Evidence, Input, Outbox, Recipient, Source};
use wire::block::{BlockHeader, BlockRef};
use wire::certificates::{CheckpointCertificate, NewViewCertificate, Place, WishCertificate};
use wire::committee::{Committee, CommitteeParts, Member, Preset};
use wire::ids::{ClusterId, Digest, NodeId, Position, Signature, Slot, View};
use wire::keys::NodeSecret;
use wire::messages::{SignedHeader, Status};
use wire::seal::{Compound, FakeSeal, Signed, Signer, Statement, Verifier};
use wire::view_change::{NewView, ViewChange};

use crate::caller::{check, config};
use crate::disk::Disk;
use crate::judge::Judge;
use crate::liars::Twist;

pub const GENESIS: Digest = Digest([9; 32]);
/// Slots between checkpoints.
pub const K: u64 = 8;
pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1000 * MS;

/// A committee, with its quorums as literal numbers.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub n: usize,
    pub b: usize,
    pub u: usize,
    pub p: usize,
    pub exclusion: bool,
    pub fast: usize,
    pub slow: usize,
    pub change: usize,
}

const fn shape(sizes: [usize; 4], exclusion: bool, quorums: [usize; 3]) -> Shape {
    let ([n, b, u, p], [fast, slow, change]) = (sizes, quorums);
    Shape {
        n,
        b,
        u,
        p,
        exclusion,
        fast,
        slow,
        change,
    }
}

pub const FOUR: Shape = shape([4, 1, 1, 1], true, [3, 3, 3]);
pub const SEVEN: Shape = shape([7, 2, 2, 1], true, [6, 5, 5]);
pub const SIX: Shape = shape([6, 1, 2, 1], true, [5, 4, 4]);
pub const STRICT: Shape = shape([4, 1, 1, 0], false, [4, 3, 3]);
pub const SAFETY: Shape = shape([4, 2, 0, 0], true, [4, 4, 4]);
pub const ALL: [Shape; 5] = [FOUR, SEVEN, SIX, STRICT, SAFETY];

pub fn genesis() -> Place {
    Place {
        slot: Slot(0),
        digest: GENESIS,
    }
}

pub fn place_of(header: &BlockHeader) -> Place {
    Place {
        slot: header.slot(),
        digest: header.digest(),
    }
}

/// Payloads are numbers; those that begin so are invalid.
pub const INVALID: u8 = 0xee;

pub fn is_valid_payload(header: &BlockHeader) -> bool {
    header.payload.0[0] != INVALID
}

#[derive(Clone, Debug)]
pub enum Message {
    Block(Source, SignedHeader),
    Signed(Signed),
    Status(Status),
    Decided(Place),
    ViewChange(Arc<(ViewChange, Signature)>),
    NewView(Arc<(NewView, Signature)>),
    WishCertificate(Arc<WishCertificate>),
    NewViewCertificate(Arc<NewViewCertificate>),
    CheckpointCertificate(Arc<CheckpointCertificate>),
    Evidence(Evidence),
    FetchBlock(Place, Slot),
    FetchRange(Slot, u64),
    FetchViewChange(Digest),
}

#[derive(Debug)]
pub enum Event {
    Deliver(NodeId, NodeId, Message),
    Durable(NodeId, u32, u64),
    Checked(NodeId, u32, Place, (Signature, BlockCheck)),
    Execute(NodeId, u32),
    Install(NodeId, u32, Arc<CheckpointCertificate>),
    Wake(NodeId, u32),
}

#[derive(Debug)]
struct Timed(u64, u64, Event);

impl PartialEq for Timed {
    fn eq(&self, other: &Timed) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Timed) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Timed) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

pub struct Replica {
    /// `None`: crashed, or a liar without a core.
    pub core: Option<Core<FakeSeal>>,
    pub boot: u32,
    pub bytes: HashMap<Place, SignedHeader>,
    pub disk: Disk,
    /// The decided chain from slot 0, and how much of it was executed.
    pub chain: Vec<Digest>,
    pub executed: u64,
    pub executing: bool,
    pub wake: u64,
    pub decided_at: u64,
    pub proposed_at: u64,
    pub ways: [u64; 3],
    pub transfers: usize,
    pub accused: Vec<View>,
    /// Pairs of headers that were handed out as proof of a lie.
    pub accusations: u64,
    /// What a liar without a core was sent.
    pub heard: Vec<Message>,
    pub lies: bool,
    pub twist: Twist,
    /// Its caller finds every request overdue (T2).
    pub starved: bool,
}

/// What the network does.
#[derive(Clone, Debug)]
pub struct Net {
    pub loss: u64,
    pub duplicates: u64,
    pub delay: (u64, u64),
    /// One way links that are cut.
    pub cut: Vec<(NodeId, NodeId)>,
}

pub struct World {
    pub now: u64,
    pub shape: Shape,
    pub net: Net,
    pub replicas: Vec<Replica>,
    pub judge: Judge,
    pub seals: Vec<FakeSeal>,
    pub compound: Compound<FakeSeal>,
    pub random: u64,
    /// Requests keep coming.
    pub load: bool,
    /// Between two proposals of one leader, and undecided ones of it.
    pub pace: u64,
    pub depth: u64,
    /// T2 of the caller.
    pub overdue: u64,
    pub transfer_beyond: u64,
    /// How long it takes to take a state over.
    pub install_ns: u64,
    /// Payload digest of the next block begins with this.
    pub payload: u64,
    pub poison: bool,
    /// How often, in percent of turns, callers find that block buffers are scarce.
    pub scarce: u64,
    /// Every message that was sent, where a test wants to replay it.
    pub recording: Option<Vec<(NodeId, NodeId, Message)>>,
    /// Messages that the test does not let through.
    pub filter: Option<fn(NodeId, NodeId, &Message) -> bool>,
    queue: BinaryHeap<Reverse<Timed>>,
    sequence: u64,
    pub outbox: Option<Outbox>,
}

fn committee(n: usize) -> Committee {
    let members = (0..n as u16).map(|id| Member {
        id: NodeId(id),
        public_key: NodeSecret::generate(&[id as u8 + 1; 32])
            .unwrap()
            .public_key(),
        address: SocketAddr::from(([10, 0, 0, 1], 7000 + id)),
    });
    let parts =
        CommitteeParts::with_preset(ClusterId([3; 16]), members.collect(), Preset::Balanced);
    Committee::new(parts.unwrap()).unwrap()
}

fn seals(n: usize) -> Vec<FakeSeal> {
    static MADE: std::sync::OnceLock<BTreeMap<usize, Vec<FakeSeal>>> = std::sync::OnceLock::new();
    let made = MADE.get_or_init(|| {
        let made = [4, 6, 7].map(|n| {
            let committee = committee(n);
            let seals = (0..n as u16).map(|id| FakeSeal::new(&committee, NodeId(id)));
            (n, seals.collect())
        });
        BTreeMap::from(made)
    });
    made[&n].clone()
}

impl World {
    pub fn new(shape: Shape, seed: u64) -> World {
        let seals = seals(shape.n);
        let replica = |_| Replica {
            core: None,
            boot: 0,
            bytes: HashMap::new(),
            disk: Disk::default(),
            chain: vec![GENESIS],
            executed: 0,
            executing: false,
            wake: u64::MAX,
            decided_at: 0,
            proposed_at: 0,
            ways: [0; 3],
            transfers: 0,
            accused: Vec::new(),
            accusations: 0,
            heard: Vec::new(),
            lies: false,
            twist: Twist::default(),
            starved: false,
        };
        let mut world = World {
            now: 0,
            shape,
            net: Net {
                loss: 0,
                duplicates: 0,
                delay: (MS / 5, MS),
                cut: Vec::new(),
            },
            replicas: (0..shape.n).map(replica).collect(),
            judge: Judge::default(),
            compound: Compound::new(
                seals[0].clone(),
                Core::<FakeSeal>::rules(&config(&shape, 0, 1, 40)),
            ),
            seals,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            load: false,
            pace: MS,
            depth: 4,
            overdue: u64::MAX,
            transfer_beyond: 40,
            install_ns: 3 * MS,
            payload: 0,
            poison: false,
            scarce: 0,
            recording: None,
            filter: None,
            queue: BinaryHeap::new(),
            sequence: 0,
            outbox: Some(Outbox::new()),
        };
        assert_eq!(world.config(0).quorums.fast(), shape.fast);
        assert_eq!(world.config(0).quorums.slow(), shape.slow);
        assert_eq!(world.config(0).quorums.view_change(), shape.change);
        for id in world.ids() {
            world.start(id);
        }
        world
    }

    pub fn config(&self, me: u16) -> Config {
        let boot = self.replicas[usize::from(me)].boot;
        config(&self.shape, me, boot, self.transfer_beyond)
    }

    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.shape.n as u16).map(NodeId)
    }

    pub fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) % below.max(1)
    }

    pub fn schedule(&mut self, after: u64, event: Event) {
        self.sequence += 1;
        self.queue
            .push(Reverse(Timed(self.now + after, self.sequence, event)));
    }

    // ---- the network

    pub fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        if from == to || self.net.cut.contains(&(from, to)) {
            return;
        }
        if self.filter.is_some_and(|lets| !lets(from, to, &message)) {
            return;
        }
        if let Some(recording) = &mut self.recording {
            recording.push((from, to, message.clone()));
        }
        if self.random(100) < self.net.loss {
            return;
        }
        let (least, most) = self.net.delay;
        if self.random(100) < self.net.duplicates {
            let after = least + self.random(4 * most);
            self.schedule(after, Event::Deliver(from, to, message.clone()));
        }
        let after = least + self.random(most - least);
        self.schedule(after, Event::Deliver(from, to, message));
    }

    pub fn send_all(&mut self, from: NodeId, message: Message) {
        for to in self.ids() {
            if self.replicas[from.index()].twist.is_on() {
                for message in self.twisted(from, to, &message) {
                    self.send(from, to, message);
                }
            } else {
                self.send(from, to, message.clone());
            }
        }
    }

    pub fn send_to(&mut self, from: NodeId, to: Recipient, message: Message) {
        match to {
            Recipient::All => self.send_all(from, message),
            Recipient::One(to) => self.send(from, to, message),
        }
    }

    pub fn sign(&self, by: NodeId, statement: Statement) -> Signed {
        let signature = self.seals[by.index()].sign(&statement);
        Signed {
            by,
            statement,
            signature,
        }
    }

    pub fn sign_header(&self, by: NodeId, header: BlockHeader) -> SignedHeader {
        let statement = Statement::Propose {
            view: header.view(),
            slot: header.slot(),
            digest: header.digest(),
        };
        SignedHeader {
            header,
            signature: self.seals[by.index()].sign(&statement),
        }
    }

    /// Says something in a liar's name; the judge hears it.
    pub fn lie(&mut self, to: NodeId, signed: Signed) {
        self.judge.said(signed.by, &signed, false);
        self.send(signed.by, to, Message::Signed(signed));
    }

    pub fn partition(&mut self, side: &[NodeId]) {
        for one in self.ids() {
            for other in self.ids() {
                if side.contains(&one) != side.contains(&other) {
                    self.net.cut.push((one, other));
                }
            }
        }
    }

    pub fn isolate(&mut self, id: NodeId) {
        self.partition(&[id]);
    }

    pub fn heal(&mut self) {
        self.net.cut.clear();
        self.net.loss = 0;
        self.net.duplicates = 0;
        self.filter = None;
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, message: Message) {
        let replica = &mut self.replicas[to.index()];
        if replica.core.is_none() {
            if replica.lies {
                replica.heard.push(message);
            }
            return;
        }
        if replica.twist.is_on() {
            self.overhear(to, &message);
        }
        let seal = &self.seals[0];
        let input = match message {
            Message::Block(source, signed) => {
                let SignedHeader { header, signature } = signed;
                let core = self.replicas[to.index()].core.as_ref().expect("it is up");
                let (fetched, digest) = (source == Source::Fetched, header.digest());
                let taken = core.would_take(&header, &signature, digest, false);
                if fetched && taken.is_err() {
                    return;
                }
                match check(seal, self.shape.n, &signed) {
                    BlockCheck::InvalidPayload if fetched => Input::Unsound { signed },
                    BlockCheck::ForeignSignature if fetched && !is_valid_payload(&header) => return,
                    found => Input::Block {
                        from,
                        source: match found {
                            BlockCheck::ForeignSignature if fetched => Source::Vouched,
                            _ => source,
                        },
                        header,
                        signature,
                        digest,
                    },
                }
            }
            Message::Signed(signed) => match signed.statement {
                Statement::Vote { view, slot, digest } => {
                    let counted = self.shape.fast > self.shape.slow;
                    let good = seal.member(from, &signed.statement, &signed.signature);
                    if signed.by != from || counted && good.is_err() {
                        return;
                    }
                    let vote = BlockRef { view, slot, digest };
                    Input::Vote {
                        from,
                        vote,
                        signature: signed.signature,
                    }
                }
                _ => match self.compound.signed(signed) {
                    Ok(signed) => Input::Signed(signed),
                    Err(_) => return,
                },
            },
            Message::Status(status) => Input::Status { from, status },
            Message::Decided(Place { slot, digest }) => Input::Decided { from, slot, digest },
            Message::ViewChange(body) => match self.compound.view_change(body.0.clone(), body.1) {
                Ok(found) => Input::ViewChange(Arc::new(found)),
                Err(reject) => {
                    assert!(
                        self.replicas[from.index()].lies,
                        "{from}: {reject:?} {body:?}"
                    );
                    return;
                }
            },
            Message::NewView(body) => match self.compound.new_view(body.0.clone(), body.1) {
                Ok(found) => Input::NewView(Arc::new(found)),
                Err(_) => return,
            },
            Message::WishCertificate(found) => {
                match self.compound.wish_certificate((*found).clone()) {
                    Ok(found) => Input::WishCertificate(Box::new(found)),
                    Err(_) => return,
                }
            }
            Message::NewViewCertificate(found) => {
                match self.compound.new_view_certificate(*found) {
                    Ok(found) => Input::NewViewCertificate(Box::new(found)),
                    Err(_) => return,
                }
            }
            Message::CheckpointCertificate(found) => {
                match self.compound.checkpoint_certificate(*found) {
                    Ok(found) => Input::CheckpointCertificate(Box::new(found)),
                    Err(_) => return,
                }
            }
            Message::Evidence(evidence) => return self.on_evidence(to, evidence),
            Message::FetchBlock(place, have) => Input::FetchBlock {
                from,
                place,
                have,
                grains: false,
            },
            Message::FetchRange(first, count) => Input::FetchRange { from, first, count },
            Message::FetchViewChange(digest) => Input::FetchViewChange { from, digest },
        };
        self.input(to, input);
    }

    // ---- time

    pub fn step(&mut self) -> bool {
        let Some(Reverse(Timed(at, _, event))) = self.queue.pop() else {
            return false;
        };
        self.now = at;
        let alive = |world: &World, id: NodeId, boot: u32| {
            world.replicas[id.index()].boot == boot && world.replicas[id.index()].core.is_some()
        };
        match event {
            Event::Deliver(from, to, message) => self.deliver(from, to, message),
            Event::Durable(id, boot, position) if alive(self, id, boot) => {
                let replica = &mut self.replicas[id.index()];
                replica.disk.durable = position;
                replica.disk.flushing = false;
                self.flush(id);
                self.input(
                    id,
                    Input::Durable {
                        position: Position(position),
                    },
                );
            }
            Event::Checked(id, boot, place, (signature, found)) if alive(self, id, boot) => {
                let checked = Input::Checked {
                    place,
                    signature,
                    found,
                };
                self.input(id, checked);
            }
            Event::Execute(id, boot) if alive(self, id, boot) => self.execute(id),
            Event::Install(id, boot, certificate) if alive(self, id, boot) => {
                self.install(id, certificate)
            }
            Event::Wake(id, boot)
                if alive(self, id, boot) && self.replicas[id.index()].wake <= self.now =>
            {
                self.replicas[id.index()].wake = u64::MAX;
                self.input(id, Input::Tick);
            }
            _ => {}
        }
        true
    }

    pub fn run(&mut self, ns: u64) {
        let until = self.now + ns;
        while self.queue.peek().is_some_and(|next| next.0.0 <= until) {
            self.step();
        }
        self.now = until;
    }

    /// Runs until a condition holds; false after so many virtual nanoseconds.
    pub fn run_until(&mut self, ns: u64, holds: impl Fn(&World) -> bool) -> bool {
        let until = self.now + ns;
        while !holds(self) {
            if self.queue.peek().is_none_or(|next| next.0.0 > until) {
                return false;
            }
            self.step();
        }
        true
    }
}
