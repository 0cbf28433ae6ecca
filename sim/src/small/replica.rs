//! One replica in a search: the real core, a log that is durable at once, and what it said.
//!
//! What a replica does depends on what happened to it alone, so its states are kept apart from those
//! of the whole world, each once: a transition is computed the first time that it is needed. Cores
//! are large; one that was dropped is made again from its first state.

use std::collections::{HashMap, VecDeque};
use std::hash::Hasher;
use std::panic::{AssertUnwindSafe, catch_unwind};

use consensus::{BlockCheck, Core, Effect, Input, Large, Outbox, Recovered, Source};
use wire::block::BlockRef;
use wire::certificates::Place;
use wire::ids::{Instant, NodeId, Position, Signature, Slot, View};
use wire::seal::{FakeSeal, Signed, Statement};

use super::catalogue::{Block, Catalogue, Event, N, NONE, ROOT, config, leader};

/// Cores kept at once; a third of a megabyte each.
const CORES_MAX: usize = 2500;
/// Time stands still.
const NOW: Instant = Instant(1_000_000_000);

/// What a correct replica has sent, ever.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Said {
    pub votes: Vec<(u8, Block)>,
    pub acks: Vec<(u8, Block)>,
    pub changes: Vec<u16>,
    pub new_views: Vec<u16>,
    pub proposed: Vec<Block>,
}

fn add<T: Ord>(list: &mut Vec<T>, item: T) {
    if let Err(at) = list.binary_search(&item) {
        list.insert(at, item);
    }
}

/// A state of a replica, without its core.
#[derive(Clone, Copy, Debug)]
pub struct Local {
    pub stage: u8,
    pub installed: u8,
    /// Of the acknowledgement it sent last.
    pub acked: u8,
    pub proposes: bool,
    pub decided: Block,
    /// Number of what it said.
    pub said: u32,
    /// How it came to be.
    from: (u32, u32),
}

#[derive(Clone)]
struct Node {
    core: Core<FakeSeal>,
    end: u64,
    said: Said,
    decided: Block,
}

/// 128 bits of BLAKE3.
#[derive(Clone, Default)]
struct Print(blake3::Hasher);

impl Hasher for Print {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        self.whole() as u64
    }
}

impl Print {
    fn whole(&self) -> u128 {
        let digest = self.0.finalize();
        let mut half = [0; 16];
        half.copy_from_slice(&digest.as_bytes()[..16]);
        u128::from_le_bytes(half)
    }
}

/// Hashes small keys fast; nobody chooses them to collide.
#[derive(Clone, Copy, Default)]
pub struct Quick(u64);

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 29;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

pub type QuickMap<K, V> = HashMap<K, V, std::hash::BuildHasherDefault<Quick>>;

/// Every state of every replica that was found.
pub struct Locals {
    slots: u64,
    pub list: Vec<Local>,
    pub said: Vec<Said>,
    said_numbers: HashMap<Said, u32>,
    known: HashMap<(u8, u128, u128, u32, Block), u32>,
    /// The same without what was heard of votes.
    bare: Vec<u128>,
    steps: QuickMap<u64, u32>,
    cores: HashMap<u32, Node>,
    order: VecDeque<u32>,
    out: Outbox,
}

impl Locals {
    pub fn new(slots: u64) -> Locals {
        Locals {
            slots,
            list: Vec::new(),
            said: Vec::new(),
            said_numbers: HashMap::new(),
            known: HashMap::new(),
            bare: Vec::new(),
            steps: QuickMap::default(),
            cores: HashMap::new(),
            order: VecDeque::new(),
            out: Outbox::new(),
        }
    }

    /// The first state of a replica.
    pub fn first(&mut self, me: usize, catalogue: &mut Catalogue) -> Result<u32, String> {
        let node = self.boot(me, catalogue)?;
        Ok(self.keep(node, (u32::MAX, me as u32)).0)
    }

    fn boot(&mut self, me: usize, catalogue: &mut Catalogue) -> Result<Node, String> {
        let config = config(me);
        let recovered = Recovered::blank(config.genesis);
        let mut node = Node {
            core: Core::new(config, catalogue.seals[me].clone(), recovered, NOW),
            end: 0,
            said: Said::default(),
            decided: ROOT,
        };
        let slot = Slot(0);
        self.turn(&mut node, vec![Input::Executed { slot }], catalogue)?;
        Ok(node)
    }

    /// Where an event leads: the same state when it changes nothing.
    pub fn step(
        &mut self,
        local: u32,
        event: u32,
        catalogue: &mut Catalogue,
    ) -> Result<u32, String> {
        let name = u64::from(local) << 32 | u64::from(event);
        if let Some(next) = self.steps.get(&name) {
            return Ok(*next);
        }
        let mut node = self.core(local, catalogue)?;
        self.happen(&mut node, event, catalogue)?;
        let (next, bare) = self.keep(node, (local, event));
        // Votes that move nothing yet are as well heard later, together with others.
        let idle = matches!(catalogue.events[event as usize], Event::Votes { .. })
            && bare == self.bare[local as usize]
            && self.list[next as usize].said == self.list[local as usize].said
            && self.list[next as usize].decided == self.list[local as usize].decided;
        let next = if idle { local } else { next };
        self.steps.insert(name, next);
        Ok(next)
    }

    fn keep(&mut self, node: Node, from: (u32, u32)) -> (u32, u128) {
        let (mut state, mut words) = (Print::default(), Print::default());
        // One slot more than there are, for words about blocks that do not exist.
        let highest = Slot(self.slots + 1);
        node.core.fingerprint(highest, &mut state, &mut words);
        let bare = state.whole();
        let summary = node.core.summary();
        let said = self.said_numbers.get(&node.said).copied();
        let said = said.unwrap_or_else(|| {
            let number = self.said.len() as u32;
            self.said.push(node.said.clone());
            self.said_numbers.insert(node.said.clone(), number);
            number
        });
        let me = node.core.me() as u8;
        let name = (me, bare, words.whole(), said, node.decided);
        let parent = node.core.proposal_parent();
        let number = self.list.len() as u32;
        let known = *self.known.entry(name).or_insert(number);
        if known == number {
            self.list.push(Local {
                stage: summary.stage.0 as u8,
                installed: summary.view.0 as u8,
                acked: node.said.acks.last().map_or(0, |(view, _)| *view),
                proposes: parent.is_some_and(|parent| parent.slot.0 < self.slots),
                decided: node.decided,
                said,
                from,
            });
            self.bare.push(bare);
            self.remember(number, node);
        }
        (known, bare)
    }

    fn remember(&mut self, number: u32, node: Node) {
        if self.order.len() == CORES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.cores.remove(&oldest);
        }
        self.order.push_back(number);
        self.cores.insert(number, node);
    }

    fn core(&mut self, local: u32, catalogue: &mut Catalogue) -> Result<Node, String> {
        if let Some(node) = self.cores.get(&local) {
            return Ok(node.clone());
        }
        let (parent, event) = self.list[local as usize].from;
        let node = if parent == u32::MAX {
            self.boot(event as usize, catalogue)?
        } else {
            let mut node = self.core(parent, catalogue)?;
            self.happen(&mut node, event, catalogue)?;
            node
        };
        self.remember(local, node.clone());
        Ok(node)
    }

    fn happen(
        &mut self,
        node: &mut Node,
        event: u32,
        catalogue: &mut Catalogue,
    ) -> Result<(), String> {
        let inputs = inputs_of(node, catalogue.events[event as usize], catalogue);
        self.turn(node, inputs, catalogue)
    }

    /// Everything that follows from some inputs; a panic is a violation.
    fn turn(
        &mut self,
        node: &mut Node,
        inputs: Vec<Input>,
        catalogue: &mut Catalogue,
    ) -> Result<(), String> {
        let out = &mut self.out;
        let carried = catch_unwind(AssertUnwindSafe(|| {
            carry(node, VecDeque::from(inputs), out, catalogue)
        }));
        carried.map_err(|panic| {
            self.out = Outbox::new();
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or(panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            format!("r{}: {}", node.core.me(), text.unwrap_or_default())
        })
    }
}

/// Which replica a core is.
trait Me {
    fn me(&self) -> usize;
}

impl Me for Core<FakeSeal> {
    fn me(&self) -> usize {
        use wire::seal::Signer;
        self.signer().me().index()
    }
}

fn inputs_of(node: &mut Node, event: Event, catalogue: &mut Catalogue) -> Vec<Input> {
    let me = node.core.me();
    match event {
        Event::Propose => {
            let Some(parent) = node.core.proposal_parent() else {
                return Vec::new();
            };
            let parent = catalogue.number(&parent.digest);
            let view = node.core.summary().view.0 as u8;
            let block = catalogue.block(view, parent, 1);
            add(&mut node.said.proposed, block);
            let signed = catalogue.blocks[usize::from(block)].1;
            let signed = signed.expect("no genesis is proposed");
            vec![Input::Own {
                header: signed.header,
                signature: signed.signature,
                digest: signed.header.digest(),
            }]
        }
        Event::Block { block, fetched } => {
            let signed = catalogue.blocks[usize::from(block)].1;
            let signed = signed.expect("no genesis is sent");
            let proposer = leader(catalogue.view(block));
            let from = if proposer == me {
                (me + 1) % N
            } else {
                proposer
            };
            vec![Input::Block {
                from: NodeId(from as u16),
                source: if fetched {
                    Source::Fetched
                } else {
                    Source::Proposed
                },
                header: signed.header,
                signature: signed.signature,
                digest: signed.header.digest(),
            }]
        }
        Event::Votes { view, said } => {
            let others = (0..N).filter(|by| *by != me && said[*by] != NONE);
            let votes = others.map(|by| {
                let Place { slot, digest } = catalogue.place(said[by]);
                let view = View(u64::from(view));
                Input::Vote {
                    from: NodeId(by as u16),
                    vote: BlockRef { view, slot, digest },
                    signature: Signature([0; 64]),
                }
            });
            votes.collect()
        }
        Event::Ack { by, view, base } => {
            vec![Input::Signed(catalogue.ack(usize::from(by), view, base))]
        }
        Event::Certificate { view, base } => {
            vec![Input::NewViewCertificate(Box::new(
                catalogue.certified(view, base),
            ))]
        }
        Event::Change(number) => {
            vec![Input::ViewChange(
                catalogue.changes[usize::from(number)].clone(),
            )]
        }
        Event::NewView(number) => {
            let new_view = catalogue.new_views[usize::from(number)].clone();
            let chosen = new_view.message.chosen.iter();
            let chosen = chosen.map(|(_, digest)| catalogue.change_number(digest));
            let chosen = chosen.map(|number| catalogue.changes[usize::from(number)].clone());
            let chosen = chosen.map(Input::ViewChange).collect::<Vec<_>>();
            std::iter::once(Input::NewView(new_view))
                .chain(chosen)
                .collect()
        }
        Event::Enter(view) => vec![Input::WishCertificate(Box::new(catalogue.wishes(view)))],
    }
}

/// The caller's duties: a log that takes everything at once and is durable at the end of the turn,
/// verification that finds everything good, execution that keeps up.
fn carry(
    node: &mut Node,
    mut inputs: VecDeque<Input>,
    out: &mut Outbox,
    catalogue: &mut Catalogue,
) {
    let mut durable = node.end;
    loop {
        let Some(input) = inputs.pop_front() else {
            if durable == node.end {
                return;
            }
            durable = node.end;
            let position = Position(durable);
            inputs.push_back(Input::Durable { position });
            continue;
        };
        node.core.handle(NOW, input, out);
        for effect in out.drain() {
            match effect {
                Effect::Append { place, verify, .. } => {
                    node.end += 1;
                    let end = Position(node.end);
                    inputs.push_back(Input::Appended { place, end });
                    if verify {
                        let block = catalogue.number(&place.digest);
                        let signed = catalogue.blocks[usize::from(block)].1;
                        inputs.push_back(Input::Checked {
                            place,
                            signature: signed.expect("no genesis is written").signature,
                            found: BlockCheck::Good,
                        });
                    }
                }
                Effect::Record(_) => {
                    node.end += 1;
                    let end = Position(node.end);
                    inputs.push_back(Input::Recorded { end });
                }
                Effect::Final { place, .. } => {
                    node.decided = catalogue.number(&place.digest);
                    inputs.push_back(Input::Executed { slot: place.slot });
                }
                Effect::Say { signed, .. } => hear(&mut node.said, &signed, catalogue),
                Effect::Tell { message, .. } => match message {
                    Large::ViewChange(found) if found.message.replica.index() == node.core.me() => {
                        let number = catalogue.said(&found);
                        add(&mut node.said.changes, number);
                    }
                    Large::NewView(found)
                        if leader(found.message.view.0 as u8) == node.core.me() =>
                    {
                        let number = catalogue.led(&found);
                        add(&mut node.said.new_views, number);
                    }
                    _ => {}
                },
                _ => {}
            }
        }
    }
}

fn hear(said: &mut Said, signed: &Signed, catalogue: &Catalogue) {
    match signed.statement {
        Statement::Vote { view, digest, .. } => {
            let block = catalogue.number(&digest);
            add(&mut said.votes, (view.0 as u8, block));
        }
        Statement::NewViewAck { view, base, .. } => {
            let block = catalogue.number(&base);
            add(&mut said.acks, (view.0 as u8, block));
        }
        // Wishes and resignations: replicas leave views whenever the search likes.
        _ => {}
    }
}
