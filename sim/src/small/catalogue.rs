//! Everything that was ever said in a search, by small numbers: equal words have one number.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use consensus::quorum::Quorums;
use consensus::{Config, Core, NewViewRef, ViewChangeRef};
use wire::block::BlockHeader;
use wire::certificates::{CompactHeader, NewViewCertificate, Place, Signatures};
use wire::certificates::{Wish, WishCertificate};
use wire::committee::{Committee, CommitteeParts, Member, Preset};
use wire::ids::{Boot, ClusterId, Digest, Epoch, NodeId, Signature, Slot, View};
use wire::keys::NodeSecret;
use wire::messages::SignedHeader;
use wire::seal::{Compound, FakeSeal, Signed, Signer, Statement, Verified};
use wire::view_change::{NewView, ViewChange};

/// Replicas of the small world: n = 4, b = u = p = 1.
pub const N: usize = 4;
const GENESIS: Place = Place {
    slot: Slot(0),
    digest: Digest([9; 32]),
};

/// A block by number; 0 is genesis.
pub type Block = u16;
pub const ROOT: Block = 0;
/// Nothing, where a block could be named.
pub const NONE: Block = Block::MAX;

/// What can happen to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// It has something to propose.
    Propose,
    /// A block arrives, over the leader's own link or fetched from anyone.
    Block {
        block: Block,
        fetched: bool,
    },
    /// Votes of one view arrive together, by their senders.
    Votes {
        view: u8,
        said: [Block; N],
    },
    Ack {
        by: u8,
        view: u8,
        base: Block,
    },
    Certificate {
        view: u8,
        base: Block,
    },
    Change(u16),
    /// A NEW-VIEW and the view changes that it names.
    NewView(u16),
    /// Enough replicas lost patience.
    Enter(u8),
}

/// See the module's documentation.
pub struct Catalogue {
    pub seals: Vec<FakeSeal>,
    pub compound: Compound<FakeSeal>,
    pub blocks: Vec<(Place, Option<SignedHeader>)>,
    numbers: HashMap<Digest, Block>,
    pub changes: Vec<ViewChangeRef>,
    change_numbers: HashMap<Digest, u16>,
    pub new_views: Vec<NewViewRef>,
    new_view_numbers: HashMap<(u8, Vec<u16>), Option<u16>>,
    lies: HashMap<(u8, u8, Block, Block), Option<u16>>,
    pub events: Vec<Event>,
    event_numbers: HashMap<Event, u32>,
}

pub fn leader(view: u8) -> usize {
    usize::from(view) % N
}

/// Of one replica.
pub fn config(me: usize) -> Config {
    Config {
        me: NodeId(me as u16),
        quorums: Quorums::new(N, 1, 1, 1, true),
        epoch: Epoch(0),
        genesis: GENESIS,
        boot: Boot(1),
        blocks_held_max: 128,
        interval: 8,
        patience_ns_min: 1_000_000,
        replaces_slow_leaders: true,
        batch_delay_ns: 0,
        sign_votes: false,
        transfer_beyond: 40,
        durability: wire::messages::Durability::Sync,
    }
}

fn committee() -> Committee {
    let members = (0..N as u16).map(|id| Member {
        id: NodeId(id),
        public_key: NodeSecret::generate(&[id as u8 + 1; 32])
            .expect("a seed of 32 bytes")
            .public_key(),
        address: SocketAddr::from(([10, 0, 0, 1], 7000 + id)),
    });
    let parts =
        CommitteeParts::with_preset(ClusterId([3; 16]), members.collect(), Preset::Balanced);
    Committee::new(parts.expect("four members")).expect("a sound committee")
}

impl Catalogue {
    pub fn new() -> Catalogue {
        let committee = committee();
        let seals = (0..N as u16).map(|id| FakeSeal::new(&committee, NodeId(id)));
        let seals = seals.collect::<Vec<_>>();
        Catalogue {
            compound: Compound::new(seals[0].clone(), Core::<FakeSeal>::rules(&config(0))),
            seals,
            blocks: vec![(GENESIS, None)],
            numbers: HashMap::from([(GENESIS.digest, ROOT)]),
            changes: Vec::new(),
            change_numbers: HashMap::new(),
            new_views: Vec::new(),
            new_view_numbers: HashMap::new(),
            lies: HashMap::new(),
            events: Vec::new(),
            event_numbers: HashMap::new(),
        }
    }

    pub fn event(&mut self, event: Event) -> u32 {
        *self.event_numbers.entry(event).or_insert_with(|| {
            self.events.push(event);
            self.events.len() as u32 - 1
        })
    }

    // ---- blocks

    pub fn number(&self, digest: &Digest) -> Block {
        self.numbers[digest]
    }

    pub fn place(&self, block: Block) -> Place {
        self.blocks[usize::from(block)].0
    }

    pub fn slot(&self, block: Block) -> u64 {
        self.place(block).slot.0
    }

    pub fn view(&self, block: Block) -> u8 {
        let header = self.blocks[usize::from(block)].1;
        header.map_or(0, |signed| signed.header.view().0 as u8)
    }

    pub fn parent(&self, block: Block) -> Option<Block> {
        let header = self.blocks[usize::from(block)].1?;
        Some(self.number(&header.header.parent))
    }

    /// The block and its ancestors, downwards.
    pub fn chain(&self, block: Block) -> impl Iterator<Item = Block> + '_ {
        std::iter::successors(Some(block), |block| self.parent(*block))
    }

    pub fn extends(&self, above: Block, below: Block) -> bool {
        self.chain(above).any(|block| block == below)
    }

    /// The block that the leader of `view` builds on `parent` with this value.
    pub fn block(&mut self, view: u8, parent: Block, value: u8) -> Block {
        let below = self.place(parent);
        let header = BlockHeader::new(
            Epoch(0),
            View(u64::from(view)),
            below.slot.next(),
            0,
            below.digest,
            Digest([value; 32]),
        );
        let digest = header.digest();
        if let Some(known) = self.numbers.get(&digest) {
            return *known;
        }
        let statement = Statement::Propose {
            view: header.view(),
            slot: header.slot(),
            digest,
        };
        let signature = self.seals[leader(view)].sign(&statement);
        let place = Place {
            slot: header.slot(),
            digest,
        };
        let number = self.blocks.len() as Block;
        let signed = SignedHeader { header, signature };
        self.blocks.push((place, Some(signed)));
        self.numbers.insert(digest, number);
        number
    }

    // ---- what counts for all alike, signed by everyone: who signed it changes nothing

    pub fn wishes(&mut self, view: u8) -> Verified<WishCertificate> {
        let view = View(u64::from(view));
        let (boot, counter) = (Boot(1), 1);
        let wishes = (0..N as u16).map(|by| Wish {
            by: NodeId(by),
            view,
            boot,
            counter,
            signature: self.seals[usize::from(by)].sign(&Statement::Wish {
                view,
                boot,
                counter,
            }),
        });
        let wishes = wishes.collect();
        let made = WishCertificate { view, wishes };
        self.compound.wish_certificate(made).expect("all signed")
    }

    pub fn ack(&mut self, by: usize, view: u8, base: Block) -> Verified<Signed> {
        let statement = self.ack_of(view, base);
        let signed = Signed {
            by: NodeId(by as u16),
            statement,
            signature: self.seals[by].sign(&statement),
        };
        self.compound.signed(signed).expect("signed by its author")
    }

    fn ack_of(&self, view: u8, base: Block) -> Statement {
        let base = self.place(base);
        Statement::NewViewAck {
            view: View(u64::from(view)),
            base_slot: base.slot,
            base: base.digest,
        }
    }

    fn certificate(&self, signers: usize, view: u8, base: Block) -> NewViewCertificate {
        let statement = self.ack_of(view, base);
        let mut acks = Signatures::new();
        for by in 0..signers {
            acks.add(NodeId(by as u16), self.seals[by].sign(&statement));
        }
        NewViewCertificate {
            view: View(u64::from(view)),
            base: self.place(base),
            acks,
        }
    }

    pub fn certified(&mut self, view: u8, base: Block) -> Verified<NewViewCertificate> {
        let made = self.certificate(N, view, base);
        self.compound.new_view_certificate(made).expect("all acked")
    }

    /// So many acknowledgements the product takes for a certificate.
    pub fn acks_needed(&mut self) -> usize {
        let enough = |count: &usize| {
            let made = self.certificate(*count, 1, ROOT);
            self.compound.new_view_certificate(made).is_ok()
        };
        (1..=N).find(enough).unwrap_or(N + 1)
    }

    // ---- view changes

    /// Numbers a view change of a correct replica.
    pub fn said(&mut self, change: &ViewChangeRef) -> u16 {
        let number = self.changes.len() as u16;
        *self.change_numbers.entry(change.digest).or_insert_with(|| {
            self.changes.push(Arc::clone(change));
            number
        })
    }

    /// A liar's view change: it installed `installed` on `base` and voted up to `tip`. `None` where
    /// the product does not take it for well formed.
    pub fn lie(&mut self, liar: usize, view: u8, installed: u8, base: Block, tip: Block) -> Lie {
        let name = (view, installed, base, tip);
        if let Some(known) = self.lies.get(&name) {
            return *known;
        }
        self.make_lie(liar, name, N)
    }

    /// Whether the product believes that a view was installed on one replica's word.
    pub fn believes_without_certificate(&mut self, liar: usize) -> bool {
        let believed = self.make_lie(liar, (2, 1, ROOT, ROOT), 1).is_some();
        self.lies.clear();
        believed
    }

    fn make_lie(&mut self, liar: usize, name: (u8, u8, Block, Block), signers: usize) -> Lie {
        let (view, installed, base, tip) = name;
        let chain = self.chain(tip).take_while(|block| *block != base);
        let headers = chain.filter_map(|block| self.blocks[usize::from(block)].1);
        let headers = headers.collect::<Vec<_>>();
        let suffix = headers.iter().rev();
        let suffix = suffix.map(|signed| CompactHeader::of(&signed.header));
        let certified = installed > 0;
        let message = ViewChange {
            view: View(u64::from(view)),
            replica: NodeId(liar as u16),
            installed: View(u64::from(installed)),
            certificate: certified.then(|| self.certificate(signers, installed, base)),
            checkpoint: None,
            suffix: suffix.collect(),
            tip_signature: headers.first().map_or(Signature([0; 64]), |h| h.signature),
            quorum: None,
        };
        let statement = Statement::ViewChange {
            view: message.view,
            digest: message.digest(),
        };
        let signature = self.seals[liar].sign(&statement);
        let checked = self.compound.view_change(message, signature);
        let number = checked.ok().map(|checked| self.said(&Arc::new(checked)));
        self.lies.insert(name, number);
        number
    }

    /// Numbers a NEW-VIEW of a correct leader.
    pub fn led(&mut self, new_view: &NewViewRef) -> u16 {
        let chosen = new_view.message.chosen.iter();
        let chosen = chosen.map(|(_, digest)| self.change_numbers[digest]);
        let name = (new_view.message.view.0 as u8, chosen.collect());
        if let Some(Some(known)) = self.new_view_numbers.get(&name) {
            return *known;
        }
        self.new_views.push(Arc::clone(new_view));
        let number = self.new_views.len() as u16 - 1;
        self.new_view_numbers.insert(name, Some(number));
        number
    }

    /// A liar's NEW-VIEW with this choice; `None` where the product refuses its form.
    pub fn lead(&mut self, view: u8, chosen: &[u16], base: Block) -> Option<u16> {
        let name = (view, chosen.to_vec());
        if let Some(known) = self.new_view_numbers.get(&name) {
            return *known;
        }
        let parts = chosen.iter().map(|change| {
            let change = &self.changes[usize::from(*change)];
            (change.message.replica, change.digest)
        });
        let message = NewView {
            view: View(u64::from(view)),
            base: self.place(base),
            chosen: parts.collect(),
        };
        let signature = self.seals[leader(view)].sign(&message.statement());
        let checked = self.compound.new_view(message, signature);
        let number = checked.ok().map(|checked| {
            self.new_views.push(Arc::new(checked));
            self.new_views.len() as u16 - 1
        });
        self.new_view_numbers.insert(name, number);
        number
    }

    pub fn change_number(&self, digest: &Digest) -> u16 {
        self.change_numbers[digest]
    }

    // ---- for people

    /// Such as `x1@0`: value, slot, view.
    pub fn name(&self, block: Block) -> String {
        let Some(header) = self.blocks[usize::from(block)].1 else {
            return "genesis".to_owned();
        };
        let chain = self.chain(block).filter(|block| *block != ROOT);
        let mut values = chain.map(|block| self.value(block)).collect::<Vec<_>>();
        values.reverse();
        let values = values.into_iter().collect::<String>();
        format!("{values}@{}", header.header.view())
    }

    fn value(&self, block: Block) -> char {
        let header = self.blocks[usize::from(block)].1;
        header.map_or('-', |signed| char::from(b'w' + signed.header.payload.0[0]))
    }

    pub fn describe(&self, event: Event) -> String {
        match event {
            Event::Propose => "proposes".to_owned(),
            Event::Block { block, fetched } => {
                let how = if fetched { "fetched" } else { "proposed" };
                format!("gets {} {how}", self.name(block))
            }
            Event::Votes { view, said } => {
                let votes = said.iter().enumerate().filter(|(_, block)| **block != NONE);
                let votes = votes.map(|(by, block)| format!("r{by}:{}", self.name(*block)));
                let votes = votes.collect::<Vec<_>>().join(" ");
                format!("hears the votes {votes} of view {view}")
            }
            Event::Ack { by, view, base } => {
                format!(
                    "hears r{by} acknowledge {} for view {view}",
                    self.name(base)
                )
            }
            Event::Certificate { view, base } => {
                format!("learns that view {view} stands on {}", self.name(base))
            }
            Event::Change(number) => format!("gets {}", self.describe_change(number)),
            Event::NewView(number) => {
                let message = &self.new_views[usize::from(number)].message;
                let chosen = message.chosen.iter();
                let chosen = chosen.map(|(_, digest)| self.change_number(digest));
                let chosen = chosen.map(|number| self.describe_change(number));
                let (base, view) = (self.number(&message.base.digest), message.view);
                format!(
                    "gets NEW-VIEW {view} on {} from {}",
                    self.name(base),
                    chosen.collect::<Vec<_>>().join(", ")
                )
            }
            Event::Enter(view) => format!("enters view {view}"),
        }
    }

    fn describe_change(&self, number: u16) -> String {
        let change = &self.changes[usize::from(number)];
        let message = &change.message;
        let tip = self.number(&change.tip().digest);
        format!(
            "VC(r{} {} inst {} tip {})",
            message.replica.0,
            message.view,
            message.installed,
            self.name(tip)
        )
    }
}

/// Number of a view change, if it is well formed.
pub type Lie = Option<u16>;
