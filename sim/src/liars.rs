//! Replicas that lie: one file for each way of lying.
//!
//! A liar is an honest process whose words are rewritten on their way out. Its replica runs as
//! everyone's does and never learns of it; [`Liar::on_send`] sees every datagram it would send, in
//! the clear, and says what is sent instead: the same, another, several, to others, or nothing.
//! [`Liar::on_turn`] may add words of its own after each of the replica's turns.
//!
//! What is said instead still passes the links' checks. The link's own counters cannot be shared, so
//! a liar's seat has a second end of its links, [`Authentic`], with the same key and the same boot:
//! everything that leaves is sealed anew by that end, and only that end's counters are ever seen by
//! others. It hears what arrives too, so it knows the boots of its peers. Nothing of the product was
//! changed for it. Statements (votes, headers) carry signatures of their own: [`Authentic::sign`]
//! makes those with the liar's key, and with no other.
//!
//! The judge takes a liar for faulty: nothing that it says, writes or holds counts, and nothing is
//! demanded of it.

mod alarmist;
mod amnesiac;
mod authentic;
mod bad_batch;
mod branches;
mod censor;
pub mod clients;
mod double_voter;
mod end_signer;
mod equivocator;
mod extremes;
mod false_changes;
mod false_leader;
mod flooder;
mod half_heard;
mod mutator;
mod parts;
mod selective;
mod silent;
mod slow_leader;
mod starver;
mod timestamps;
mod twin;
mod wrong_states;

use serde::{Deserialize, Serialize};
use wire::header::{Direction, Fragment, Header, Kind};
use wire::ids::{NodeId, PublicKey, Slot, View};

pub use alarmist::Alarmist;
pub use authentic::{Authentic, Origin};
pub use bad_batch::BadBatch;
pub use branches::Branches;
pub use censor::Censor;
pub use end_signer::EndSigner;
pub use equivocator::Equivocator;
pub use false_changes::FalseChanges;
pub use false_leader::{FalseLeader, Way};
pub use half_heard::HalfHeard;
pub use mutator::Mutator;
pub use parts::Parts;
pub use silent::Silent;
pub use slow_leader::SlowLeader;
pub use starver::Starver;
pub use timestamps::Timestamps;
pub use twin::Twin;

use crate::faults::Fault;
use crate::network::End;
use crate::node::Node;
use crate::random::Random;

macro_rules! liars {
    ($($kind:ident, $name:literal, $make:expr;)*) => {
        /// The liars that a plan can name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
        pub enum LiarKind {
            $(#[doc = $name] #[serde(rename = $name)] #[value(name = $name)] $kind,)*
        }

        impl LiarKind {
            /// All of them.
            pub const ALL: &'static [LiarKind] = &[$(LiarKind::$kind,)*];

            /// As it is called; the fault that draws it has the same name behind `liar-`.
            pub fn name(self) -> &'static str {
                match self {
                    $(LiarKind::$kind => $name,)*
                }
            }

            /// A liar of this kind.
            pub fn make(self, nodes: usize, me: NodeId, random: &mut Random) -> Box<dyn Liar> {
                let make: fn(usize, NodeId, &mut Random) -> Box<dyn Liar> = match self {
                    $(LiarKind::$kind => $make,)*
                };
                make(nodes, me, random)
            }
        }
    };
}

liars! {
    Silent, "silent", |n, me, r| Box::new(Silent::draw(n, me, r));
    Mutator, "mutator", |_, _, r| Box::new(Mutator::draw(r));
    Equivocator, "equivocator", |n, me, r| Box::new(equivocator::Equivocator::draw(n, me, r));
    DoubleVoter, "double-voter", |n, _, r| Box::new(double_voter::DoubleVoter::draw(n, r));
    Selective, "selective", |n, _, r| Box::new(selective::Selective::draw(n, r));
    FalseChanges, "false-changes", |_, _, r| Box::new(false_changes::FalseChanges::draw(r));
    FalseLeader, "false-leader", |_, _, r| Box::new(false_leader::FalseLeader::draw(r));
    Extremes, "extremes", |_, _, r| Box::new(extremes::Extremes::draw(r));
    Flooder, "flooder", |_, _, r| Box::new(flooder::Flooder::draw(r));
    WrongStates, "wrong-states", |_, _, r| Box::new(wrong_states::WrongStates::draw(r));
    Censor, "censor", |n, _, _| Box::new(censor::Censor::of(End(n)));
    SlowLeader, "slow-leader", |_, _, r| Box::new(slow_leader::SlowLeader::draw(r));
    BadBatch, "bad-batch", |_, _, r| Box::new(bad_batch::BadBatch::draw(r));
    Timestamps, "timestamps", |_, _, r| Box::new(timestamps::Timestamps::draw(r));
    Starver, "starver", |n, me, r| Box::new(starver::Starver::draw(n, me, r));
    Alarmist, "alarmist", |_, _, r| Box::new(alarmist::Alarmist::draw(r));
    HalfHeard, "half-heard", |n, _, r| Box::new(half_heard::HalfHeard::draw(n, r));
    Twin, "twin", |n, me, r| Box::new(Twin::draw(n, me, r));
    Amnesiac, "amnesiac", |_, _, _| Box::new(amnesiac::Amnesiac);
    EndSigner, "end-signer", |n, _, r| Box::new(EndSigner::draw(n, r));
}

impl LiarKind {
    /// The fault that lets seeds draw it.
    pub fn fault(self) -> Fault {
        let name = format!("liar-{}", self.name());
        Fault::by_name(&name).expect("every liar has a fault of its name")
    }
}

/// One datagram in the clear: to whom, and everything that its sender may choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spoken {
    pub to: End,
    pub kind: Kind,
    /// Between replicas, and from a replica to a client.
    pub view: View,
    pub slot: Slot,
    /// What an answer to a client answers; 0 between replicas.
    pub number: u64,
    /// The part of its message that the body is.
    pub fragment: Fragment,
    pub body: Vec<u8>,
    /// Its tag is wrong: the receiver's link refuses it.
    pub spoiled: bool,
    /// As the honest replica sealed it; for clients it is still good when nothing was changed.
    original: Vec<u8>,
}

impl Spoken {
    /// It was not sealed by the replica that speaks.
    fn forget_original(&mut self) {
        self.original.clear();
    }
}

/// One datagram that arrives at a liar's replica, in the clear.
#[derive(Clone, Copy, Debug)]
pub struct Heard<'a> {
    pub from: End,
    pub kind: Kind,
    pub view: View,
    pub slot: Slot,
    pub fragment: Fragment,
    /// The client whose link it came over.
    pub client: Option<PublicKey>,
    pub body: &'a [u8],
    /// As it came, header and all.
    pub datagram: &'a [u8],
}

impl<'a> Heard<'a> {
    fn open(from: End, datagram: &'a [u8]) -> Option<Heard<'a>> {
        let (header, kind, body) = Header::split(datagram).ok()?;
        let (view, slot, client) = match kind.direction() {
            Direction::BetweenNodes => {
                let route = header.peer_route();
                (route.view(), route.slot(), None)
            }
            _ => (View(0), Slot(0), Some(header.client_route().client)),
        };
        Some(Heard {
            from,
            kind,
            view,
            slot,
            fragment: header.fragment(),
            client,
            body,
            datagram,
        })
    }
}

/// What a liar knows and has when it speaks.
pub struct Context<'a> {
    pub now_ns: u64,
    pub me: NodeId,
    pub nodes: usize,
    pub random: &'a mut Random,
    /// Makes signatures with the liar's own key.
    pub authentic: &'a Authentic,
}

/// A way of lying.
pub trait Liar {
    /// As it is called in plans and reports.
    fn name(&self) -> &'static str;

    /// Whether it runs a second process.
    fn is_two(&self) -> bool {
        false
    }

    /// A process of the replica started; `twin` is another one with the same key and an empty disk.
    fn starts(&mut self, twin: Option<Node>) {
        let _ = twin;
    }

    /// What is sent instead of `spoken`.
    fn on_send(&mut self, context: &mut Context<'_>, spoken: Spoken) -> Vec<Spoken>;

    /// Whether its replica learns of what arrives; a liar may remember it in any case.
    fn on_hear(&mut self, context: &mut Context<'_>, heard: &Heard<'_>) -> bool {
        let _ = (context, heard);
        true
    }

    /// What is sent besides, after each turn of the replica.
    fn on_turn(&mut self, context: &mut Context<'_>) -> Vec<Spoken> {
        let _ = context;
        Vec::new()
    }
}

/// Where a liar sits: between a replica and the network.
pub struct Seat {
    pub liar: Box<dyn Liar>,
    /// One for each process of the replica.
    pub authentic: Option<Authentic>,
    pub random: Random,
}

impl Seat {
    /// The datagrams that leave instead of one of the replica's.
    pub fn instead(&mut self, now_ns: u64, to: End, datagram: &[u8]) -> Vec<(End, Vec<u8>)> {
        let Some(authentic) = &self.authentic else {
            return Vec::new();
        };
        let Some(spoken) = authentic.open(to, datagram) else {
            return Vec::new();
        };
        let mut context = Context {
            now_ns,
            me: authentic.me(),
            nodes: authentic.nodes(),
            random: &mut self.random,
            authentic,
        };
        let said = self.liar.on_send(&mut context, spoken);
        self.seal(said)
    }

    /// Whether a datagram that arrives reaches the replica.
    pub fn admits(&mut self, now_ns: u64, from: End, datagram: &[u8]) -> bool {
        let Some(authentic) = &self.authentic else {
            return true;
        };
        let Some(heard) = Heard::open(from, datagram) else {
            return true;
        };
        let mut context = Context {
            now_ns,
            me: authentic.me(),
            nodes: authentic.nodes(),
            random: &mut self.random,
            authentic,
        };
        self.liar.on_hear(&mut context, &heard)
    }

    /// The datagrams that leave besides, after a turn.
    pub fn turn(&mut self, now_ns: u64) -> Vec<(End, Vec<u8>)> {
        let Some(authentic) = &self.authentic else {
            return Vec::new();
        };
        let mut context = Context {
            now_ns,
            me: authentic.me(),
            nodes: authentic.nodes(),
            random: &mut self.random,
            authentic,
        };
        let said = self.liar.on_turn(&mut context);
        self.seal(said)
    }

    fn seal(&mut self, said: Vec<Spoken>) -> Vec<(End, Vec<u8>)> {
        let Some(authentic) = &mut self.authentic else {
            return Vec::new();
        };
        let sealed = said.into_iter().filter_map(|spoken| {
            let datagram = authentic.seal(&spoken)?;
            Some((spoken.to, datagram))
        });
        sealed.collect()
    }
}
