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

mod authentic;
mod mutator;
mod silent;

use serde::{Deserialize, Serialize};
use wire::header::{Fragment, Kind};
use wire::ids::{NodeId, Slot, View};

pub use authentic::{Authentic, Origin};
pub use mutator::Mutator;
pub use silent::Silent;

use crate::network::End;
use crate::random::Random;

/// The liars that a plan can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LiarKind {
    Silent,
    Mutator,
}

impl LiarKind {
    /// A liar of this kind.
    pub fn make(self, nodes: usize, me: NodeId, random: &mut Random) -> Box<dyn Liar> {
        match self {
            LiarKind::Silent => Box::new(Silent::draw(nodes, me, random)),
            LiarKind::Mutator => Box::new(Mutator::draw(random)),
        }
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
    /// As the honest replica sealed it; for clients it is still good when nothing was changed.
    original: Vec<u8>,
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

    /// What is sent instead of `spoken`.
    fn on_send(&mut self, context: &mut Context<'_>, spoken: Spoken) -> Vec<Spoken>;

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
