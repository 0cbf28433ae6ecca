//! n cores, their callers' duties, the network between them, and virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use consensus::quorum::Quorums;
use consensus::{
    Config, Core, Effect, Evidence, Input, Large, Outbox, Recipient, Recovered, Source, Way,
};
use wire::block::{BlockHeader, BlockRef};
use wire::certificates::{CheckpointCertificate, NewViewCertificate, Place, WishCertificate};
use wire::committee::{Committee, CommitteeParts, Member, Preset};
use wire::ids::{Boot, ClusterId, Digest, Epoch, Instant, NodeId, Position, Signature, Slot, View};
use wire::keys::NodeSecret;
use wire::messages::{EVIDENCE_INVALID_PAYLOAD, SignedHeader, Status};
use wire::seal::{Compound, FakeSeal, Signed, Signer, Statement, Verifier};
use wire::view_change::{NewView, ViewChange};

use crate::disk::{Disk, Entry};
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
enum Event {
    Deliver(NodeId, NodeId, Message),
    Durable(NodeId, u32, u64),
    Checked(NodeId, u32, Place, bool),
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
    wake: u64,
    pub decided_at: u64,
    pub proposed_at: u64,
    pub ways: [u64; 3],
    pub transfers: usize,
    pub accused: Vec<View>,
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
    /// Payload digest of the next block begins with this.
    pub payload: u64,
    pub poison: bool,
    /// Every message that was sent, where a test wants to replay it.
    pub recording: Option<Vec<(NodeId, NodeId, Message)>>,
    /// Messages that the test does not let through.
    pub filter: Option<fn(NodeId, NodeId, &Message) -> bool>,
    queue: BinaryHeap<Reverse<Timed>>,
    sequence: u64,
    outbox: Option<Outbox>,
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
            payload: 0,
            poison: false,
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

    fn config(&self, me: u16) -> Config {
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

    fn schedule(&mut self, after: u64, event: Event) {
        self.sequence += 1;
        self.queue
            .push(Reverse(Timed(self.now + after, self.sequence, event)));
    }

    // ---- starts and ends of processes

    pub fn start(&mut self, id: NodeId) {
        let n = self.shape.n;
        let replica = &mut self.replicas[id.index()];
        assert!(replica.core.is_none());
        replica.boot += 1;
        let seal = self.seals[id.index()].clone();
        let (recovered, chain) = replica
            .disk
            .recover(replica.boot, |signed| is_good(&seal, n, signed));
        let recovered = if replica.boot == 1 {
            Recovered {
                durable_position: recovered.durable_position,
                ..Recovered::blank(GENESIS)
            }
        } else {
            recovered
        };
        replica.bytes.clear();
        for entry in replica.disk.entries() {
            if let Entry::Block(_, signed) = entry {
                replica.bytes.insert(place_of(&signed.header), *signed);
            }
        }
        replica.chain = chain;
        replica.executed = recovered.decided.slot.0;
        replica.executing = false;
        replica.wake = u64::MAX;
        replica.decided_at = self.now;
        let low = recovered
            .checkpoint
            .map_or(0, |known| known.header.slot().0);
        let slot = recovered.decided.slot;
        let retained = recovered.retained_from;
        let config = self.config(id.0);
        let mut core = Core::new(config, seal, recovered, Instant(self.now));
        core.set_retained_from(retained);
        self.replicas[id.index()].core = Some(core);
        self.input(id, Input::Executed { slot });
        for slot in (low + 1..=slot.0)
            .filter(|slot| slot.is_multiple_of(K))
            .map(Slot)
        {
            let root = root(&self.replicas[id.index()].chain, slot);
            self.input(id, Input::Root { slot, root });
        }
    }

    pub fn crash(&mut self, id: NodeId) {
        let luck = self.random(101);
        let replica = &mut self.replicas[id.index()];
        if replica.core.take().is_some() {
            replica.disk.crash(luck);
        }
    }

    pub fn restart(&mut self, id: NodeId) {
        self.crash(id);
        self.start(id);
    }

    /// From now on scripted by the test.
    pub fn corrupt(&mut self, id: NodeId) {
        self.replicas[id.index()].core = None;
        self.replicas[id.index()].lies = true;
    }

    pub fn live(&self) -> impl Iterator<Item = NodeId> + use<> {
        let live = self
            .ids()
            .filter(|id| self.replicas[id.index()].core.is_some());
        live.collect::<Vec<_>>().into_iter()
    }

    /// Live and telling the truth.
    pub fn correct(&self) -> impl Iterator<Item = NodeId> + use<> {
        let correct = self.live().filter(|id| !self.replicas[id.index()].lies);
        correct.collect::<Vec<_>>().into_iter()
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

    fn send_to(&mut self, from: NodeId, to: Recipient, message: Message) {
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
                if source == Source::Fetched && !is_good(seal, self.shape.n, &signed) {
                    return;
                }
                let SignedHeader { header, signature } = signed;
                Input::Block {
                    from,
                    source,
                    header,
                    signature,
                    digest: header.digest(),
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
                    Ok(found) => Input::WishCertificate(found),
                    Err(_) => return,
                }
            }
            Message::NewViewCertificate(found) => {
                match self.compound.new_view_certificate(*found) {
                    Ok(found) => Input::NewViewCertificate(found),
                    Err(_) => return,
                }
            }
            Message::CheckpointCertificate(found) => {
                match self.compound.checkpoint_certificate(*found) {
                    Ok(found) => Input::CheckpointCertificate(found),
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

    /// Verified, stored once, passed on, and heeded (N9).
    fn on_evidence(&mut self, at: NodeId, evidence: Evidence) {
        let view = evidence.first.header.view();
        let leader = NodeId((view.0 % self.shape.n as u64) as u16);
        let signed = [evidence.first, evidence.second];
        let signatures = signed.iter().all(|signed| {
            let again = self.sign_header(leader, signed.header);
            again.signature == signed.signature
        });
        let payload =
            evidence.kind != EVIDENCE_INVALID_PAYLOAD || !is_valid_payload(&evidence.first.header);
        if !(signatures && payload && evidence.is_proof()) {
            return;
        }
        assert!(
            self.replicas[leader.index()].lies,
            "G4: {leader} never lied in view {view}"
        );
        if !self.replicas[at.index()].accused.contains(&view) {
            self.replicas[at.index()].accused.push(view);
            self.send_all(at, Message::Evidence(evidence));
            self.input(at, Input::Evidence { view });
        }
    }

    // ---- one turn of one replica

    pub fn input(&mut self, at: NodeId, input: Input) {
        let mut inputs = VecDeque::from([input]);
        let mut out = self.outbox.take().expect("one turn at a time");
        while let Some(input) = inputs.pop_front() {
            let offered = match &input {
                Input::Block {
                    header, signature, ..
                }
                | Input::Own {
                    header, signature, ..
                } => Some(SignedHeader {
                    header: *header,
                    signature: *signature,
                }),
                _ => None,
            };
            let (load, now, limit) = (self.load, self.now, self.overdue);
            let replica = &mut self.replicas[at.index()];
            let Some(core) = &mut replica.core else { break };
            let overdue = load && now.saturating_sub(replica.decided_at) > limit || replica.starved;
            core.set_pending(load.then_some(Instant(replica.decided_at)), overdue);
            core.handle(Instant(now), input, &mut out);
            let effects = out.drain().collect::<Vec<_>>();
            if let Some(signed) = offered {
                let place = place_of(&signed.header);
                if effects.iter().any(|effect| effect.keeps(place)) {
                    replica.bytes.insert(place, signed);
                }
            }
            for effect in effects {
                self.carry_out(at, effect, &mut inputs);
            }
            if inputs.is_empty()
                && let Some(own) = self.proposal(at)
            {
                inputs.push_back(own);
            }
        }
        self.outbox = Some(out);
        self.plan_wake(at);
    }

    fn plan_wake(&mut self, at: NodeId) {
        let replica = &mut self.replicas[at.index()];
        let Some(core) = &replica.core else { return };
        let mut due = core.wake_at().0;
        if self.load {
            due = due.min(
                replica
                    .decided_at
                    .saturating_add(self.overdue)
                    .max(self.now),
            );
            if core.proposal_parent().is_some() && core.undecided() < self.depth {
                due = due.min(replica.proposed_at + self.pace);
            }
        }
        // A caller does not spin: a reason that stays due is looked at again a little later.
        let due = due.max(self.now + MS / 2);
        if due < replica.wake || replica.wake <= self.now {
            replica.wake = due;
            let boot = replica.boot;
            self.schedule(due - self.now, Event::Wake(at, boot));
        }
    }

    fn proposal(&mut self, at: NodeId) -> Option<Input> {
        let (load, now, pace, depth) = (self.load, self.now, self.pace, self.depth);
        let replica = &mut self.replicas[at.index()];
        let core = replica.core.as_ref()?;
        if !load || now < replica.proposed_at + pace || core.undecided() >= depth {
            return None;
        }
        let parent = core.proposal_parent()?;
        replica.proposed_at = now;
        let view = core.summary().view;
        self.payload += 1;
        let mut payload = [1; 32];
        payload[1..9].copy_from_slice(&self.payload.to_le_bytes());
        if self.poison && replica.lies {
            payload[0] = INVALID;
        }
        let header = BlockHeader::new(
            Epoch(0),
            view,
            parent.slot.next(),
            now,
            parent.digest,
            Digest(payload),
        );
        let signed = self.sign_header(at, header);
        let place = place_of(&header);
        self.judge.proposed(at, signed);
        self.replicas[at.index()].bytes.insert(place, signed);
        self.send_all(at, Message::Block(Source::Proposed, signed));
        Some(Input::Own {
            header,
            signature: signed.signature,
            digest: place.digest,
        })
    }

    fn carry_out(&mut self, at: NodeId, effect: Effect, inputs: &mut VecDeque<Input>) {
        let boot = self.replicas[at.index()].boot;
        let correct = !self.replicas[at.index()].lies;
        match effect {
            Effect::Append {
                place,
                kind,
                verify,
            } => {
                let replica = &mut self.replicas[at.index()];
                let signed = replica.bytes.get(&place).copied();
                let signed = signed
                    .unwrap_or_else(|| panic!("{at} appends a block without bytes: {place:?}"));
                let end = replica.disk.append(Entry::Block(kind, signed));
                inputs.push_back(Input::Appended { place, end });
                if verify {
                    self.verify(at, place, signed);
                }
                self.flush(at);
            }
            Effect::Hold { place, verify } => {
                if verify {
                    let signed = self.replicas[at.index()].bytes[&place];
                    self.verify(at, place, signed);
                }
            }
            Effect::Refuse { .. } => {}
            Effect::Forget { place } => {
                let replica = &mut self.replicas[at.index()];
                let decided = replica.chain.get(place.slot.0 as usize);
                assert_ne!(decided, Some(&place.digest), "{at} forgets a decided block");
                replica.bytes.remove(&place);
            }
            Effect::Record(record) => {
                let end = self.replicas[at.index()].disk.append(Entry::Record(record));
                inputs.push_back(Input::Recorded { end });
                self.flush(at);
            }
            Effect::Say { to, signed } => {
                self.judge.said(at, &signed, correct);
                self.send_to(at, to, Message::Signed(signed));
            }
            Effect::Tell { to, message } => {
                let message = match message {
                    Large::ViewChange(found) => {
                        if found.message.replica == at && correct {
                            self.judge.changed(at, &found);
                        }
                        Message::ViewChange(Arc::new((found.message.clone(), found.signature)))
                    }
                    Large::NewView(found) => {
                        let leader = self.leader(found.message.view);
                        if leader == at && correct {
                            let Statement::NewView { digest, .. } = found.message.statement()
                            else {
                                unreachable!()
                            };
                            self.judge.led(at, found.message.view, digest);
                        }
                        Message::NewView(Arc::new((found.message.clone(), found.signature)))
                    }
                    Large::WishCertificate(found) => Message::WishCertificate(found),
                    Large::NewViewCertificate(found) => Message::NewViewCertificate(found),
                    Large::CheckpointCertificate(found) => Message::CheckpointCertificate(found),
                };
                self.send_to(at, to, message);
            }
            Effect::Status { to, status } => self.send_to(at, to, Message::Status(status)),
            Effect::Decided { to, slot } => {
                let digest = self.replicas[at.index()].chain[slot.0 as usize];
                self.send(at, to, Message::Decided(Place { slot, digest }));
            }
            Effect::FetchBlock { to, place, have } => {
                self.send(at, to, Message::FetchBlock(place, have))
            }
            Effect::FetchRange { to, first, count } => {
                self.send(at, to, Message::FetchRange(first, count))
            }
            Effect::FetchViewChange { to, digest } => {
                self.send(at, to, Message::FetchViewChange(digest))
            }
            Effect::Grains { .. } => unreachable!("blocks are whole here"),
            Effect::Ancestors {
                to,
                mut place,
                have,
            } => {
                while place.slot > have
                    && let Some(signed) = self.replicas[at.index()].bytes.get(&place).copied()
                {
                    self.send(at, to, Message::Block(Source::Fetched, signed));
                    place = Place {
                        slot: Slot(place.slot.0 - 1),
                        digest: signed.header.parent,
                    };
                }
            }
            Effect::Blocks { to, first, last } => {
                for slot in (first.0..=last.0).map(Slot) {
                    let digest = self.replicas[at.index()].chain[slot.0 as usize];
                    let held = self.replicas[at.index()].bytes.get(&Place { slot, digest });
                    if let Some(signed) = held.copied() {
                        self.send(at, to, Message::Block(Source::Fetched, signed));
                    }
                }
            }
            Effect::Final { place, way } => self.finalize(at, place, way),
            // V5: request timers restart.
            Effect::Installed { .. } => self.replicas[at.index()].decided_at = self.now,
            Effect::Evidence(evidence) => {
                // The turn is not over: others hear of it, and this replica by its own message.
                self.schedule(0, Event::Deliver(at, at, Message::Evidence(evidence)));
            }
            Effect::Stable { slot } => {
                let replica = &mut self.replicas[at.index()];
                let keep = Slot(slot.0.saturating_sub(2 * K));
                let chain = &replica.chain;
                replica.bytes.retain(|place, _| {
                    place.slot > keep || chain.get(place.slot.0 as usize).is_none()
                });
                if let Some(core) = &mut replica.core {
                    core.set_retained_from(keep.next());
                }
            }
            Effect::Transfer(certificate) => {
                self.replicas[at.index()].transfers += 1;
                self.schedule(3 * MS, Event::Install(at, boot, certificate));
            }
            Effect::Diverged { slot, .. } => panic!("{at} diverges at {slot}"),
        }
    }

    pub fn leader(&self, view: View) -> NodeId {
        NodeId((view.0 % self.shape.n as u64) as u16)
    }

    fn verify(&mut self, at: NodeId, place: Place, signed: SignedHeader) {
        let valid = is_good(&self.seals[0], self.shape.n, &signed);
        let after = self.random(MS / 4);
        let boot = self.replicas[at.index()].boot;
        self.schedule(after, Event::Checked(at, boot, place, valid));
    }

    fn flush(&mut self, at: NodeId) {
        let after = MS / 20 + self.random(MS / 2);
        let replica = &mut self.replicas[at.index()];
        if !replica.disk.flushing && replica.disk.end() > replica.disk.durable {
            replica.disk.flushing = true;
            let event = Event::Durable(at, replica.boot, replica.disk.end());
            self.schedule(after, event);
        }
    }

    fn finalize(&mut self, at: NodeId, place: Place, way: Way) {
        let now = self.now;
        let replica = &mut self.replicas[at.index()];
        let first = replica.chain.len() as u64;
        assert!(place.slot.0 >= first, "{at} decides {place:?} again");
        replica
            .chain
            .resize(place.slot.0 as usize + 1, Digest::ZERO);
        let mut below = place;
        while below.slot.0 >= first {
            replica.chain[below.slot.0 as usize] = below.digest;
            let signed = replica.bytes.get(&below);
            let signed =
                signed.unwrap_or_else(|| panic!("{at} decides {below:?} without its bytes"));
            assert!(
                is_valid_payload(&signed.header),
                "{at} decides an invalid block"
            );
            below = Place {
                slot: Slot(below.slot.0 - 1),
                digest: signed.header.parent,
            };
        }
        assert_eq!(
            replica.chain[below.slot.0 as usize], below.digest,
            "{at}: I7"
        );
        replica.ways[way as usize] += place.slot.0 + 1 - first;
        replica.decided_at = now;
        replica.disk.append(Entry::Decided(place));
        if !replica.executing {
            replica.executing = true;
            let event = Event::Execute(at, replica.boot);
            let after = self.random(MS / 2);
            self.schedule(after, event);
        }
    }

    fn execute(&mut self, at: NodeId) {
        let replica = &mut self.replicas[at.index()];
        replica.executing = false;
        let last = replica.chain.len() as u64 - 1;
        let first = replica.executed + 1;
        if last < first {
            return;
        }
        for slot in (first..=last)
            .filter(|slot| *slot == last || slot.is_multiple_of(K))
            .map(Slot)
        {
            self.replicas[at.index()].executed = slot.0;
            self.input(at, Input::Executed { slot });
            if slot.0.is_multiple_of(K) {
                let root = root(&self.replicas[at.index()].chain, slot);
                self.input(at, Input::Root { slot, root });
            }
        }
    }

    fn install(&mut self, at: NodeId, certificate: Arc<CheckpointCertificate>) {
        let slot = certificate.header.slot();
        if self.replicas[at.index()].executed < slot.0 {
            let from = self
                .ids()
                .find(|id| self.replicas[id.index()].executed >= slot.0);
            let chain = self.replicas[from.expect("someone executed it").index()].chain
                [..=slot.0 as usize]
                .to_vec();
            assert_eq!(root(&chain, slot), certificate.root, "K4");
            let replica = &mut self.replicas[at.index()];
            if replica.chain.len() < chain.len() {
                replica.chain = chain.clone();
            }
            assert_eq!(replica.chain[slot.0 as usize], *chain.last().unwrap());
            replica.disk.snapshot = chain;
            replica.executed = slot.0;
            if let Some(core) = &mut replica.core {
                core.set_retained_from(slot.next());
            }
        }
        self.input(
            at,
            Input::Installed {
                certificate: Box::new(*certificate),
            },
        );
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
            Event::Checked(id, boot, place, valid) if alive(self, id, boot) => {
                self.input(id, Input::Checked { place, valid });
            }
            Event::Execute(id, boot) if alive(self, id, boot) => self.execute(id),
            Event::Install(id, boot, certificate) if alive(self, id, boot) => {
                self.install(id, certificate)
            }
            Event::Wake(id, boot) if alive(self, id, boot) => {
                if self.replicas[id.index()].wake <= self.now {
                    self.replicas[id.index()].wake = u64::MAX;
                    self.input(id, Input::Tick);
                }
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

fn config(shape: &Shape, me: u16, boot: u32, transfer_beyond: u64) -> Config {
    Config {
        me: NodeId(me),
        quorums: Quorums::new(shape.n, shape.b, shape.u, shape.p, shape.exclusion),
        epoch: Epoch(0),
        genesis: GENESIS,
        boot: Boot(boot),
        blocks_held_max: 128,
        interval: K,
        patience_ns_min: 10 * MS,
        sign_votes: shape.fast > shape.slow,
        transfer_beyond,
    }
}

pub fn is_good(seal: &FakeSeal, n: usize, signed: &SignedHeader) -> bool {
    let header = &signed.header;
    let leader = NodeId((header.view().0 % n as u64) as u16);
    let statement = Statement::Propose {
        view: header.view(),
        slot: header.slot(),
        digest: header.digest(),
    };
    is_valid_payload(header) && seal.member(leader, &statement, &signed.signature).is_ok()
}

/// The state is the chain itself.
fn root(chain: &[Digest], slot: Slot) -> Digest {
    wire::block::payload_digest(&chain[slot.0 as usize].0)
}
