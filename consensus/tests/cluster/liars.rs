//! A replica that runs the protocol and lies while it sends: to some about its blocks, its votes,
//! its acknowledgements and what it saw in a view. It signs as itself only.

use std::sync::Arc;

use consensus::Source;
use wire::block::BlockHeader;
use wire::certificates::Place;
use wire::ids::{Digest, Epoch, NodeId, Slot};
use wire::messages::SignedHeader;
use wire::seal::{Signer, Statement};
use wire::view_change::ViewChange;

use crate::world::{Message, World, place_of};

/// How often, in percent, each lie is told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Twist {
    /// Another block for the same slot.
    pub blocks: u64,
    /// The block under a signature that is not the leader's.
    pub signatures: u64,
    /// No vote at all, and one for the other block.
    pub silence: u64,
    pub votes: u64,
    pub claims: u64,
    /// A view change that hides votes; another one to everyone.
    pub changes: u64,
    pub acks: u64,
}

impl Twist {
    pub fn is_on(&self) -> bool {
        self.blocks
            + self.signatures
            + self.silence
            + self.votes
            + self.claims
            + self.changes
            + self.acks
            > 0
    }

    pub fn all(percent: u64) -> Twist {
        Twist {
            blocks: percent,
            signatures: percent,
            silence: percent,
            votes: percent,
            claims: percent,
            changes: percent,
            acks: percent,
        }
    }
}

/// The same block under a signature that nobody made.
pub fn unsigned(mut signed: SignedHeader) -> SignedHeader {
    signed.signature.0[40] ^= 1;
    signed
}

impl World {
    pub fn twist(&mut self, id: NodeId, twist: Twist) {
        self.replicas[id.index()].twist = twist;
        self.replicas[id.index()].lies = true;
    }

    /// A liar's ear; what it hears may be used by a script.
    pub fn overhear(&mut self, _at: NodeId, _message: &Message) {}

    fn lies_now(&mut self, percent: u64) -> bool {
        self.random(100) < percent
    }

    /// Another valid block of the same leader for the same slot.
    pub fn rival(&self, by: NodeId, header: &BlockHeader, mark: u8) -> SignedHeader {
        let mut payload = header.payload;
        payload.0[31] ^= mark;
        let rival = BlockHeader::new(
            Epoch(0),
            header.view(),
            header.slot(),
            header.time_ns(),
            header.parent,
            payload,
        );
        self.sign_header(by, rival)
    }

    /// What a liar sends instead.
    pub fn twisted(&mut self, from: NodeId, to: NodeId, message: &Message) -> Vec<Message> {
        let twist = self.replicas[from.index()].twist;
        let same = vec![message.clone()];
        match message {
            Message::Block(Source::Proposed, signed) if self.lies_now(twist.blocks) => {
                let rival = self.rival(from, &signed.header, 1 + (to.0 % 2) as u8);
                self.judge.header(rival);
                let other = Message::Block(Source::Proposed, rival);
                match self.random(3) {
                    0 => vec![],
                    1 => vec![other],
                    _ => vec![message.clone(), other],
                }
            }
            Message::Block(Source::Proposed, signed) if self.lies_now(twist.signatures) => {
                let copy = unsigned(*signed);
                let copy = Message::Block(Source::Proposed, copy);
                match self.random(3) {
                    0 => vec![copy],
                    1 => vec![copy, message.clone()],
                    _ => vec![message.clone(), copy],
                }
            }
            Message::Signed(signed) => match signed.statement {
                Statement::Vote { .. } | Statement::Commit { .. }
                    if self.lies_now(twist.silence) =>
                {
                    vec![]
                }
                Statement::Vote { view, slot, digest } if self.lies_now(twist.votes) => {
                    let known = self.judge.headers.iter().filter(|(place, header)| {
                        place.slot == slot && place.digest != digest && header.header.view() == view
                    });
                    // A map's order differs between runs: the least is the same.
                    let other = known.map(|(place, _)| *place).min();
                    let Some(Place { slot, digest }) = other else {
                        return same;
                    };
                    let statement = Statement::Vote { view, slot, digest };
                    let lie = self.sign(from, statement);
                    self.judge.said(from, &lie, false);
                    vec![Message::Signed(lie)]
                }
                Statement::NewViewAck {
                    view, base_slot, ..
                } if self.lies_now(twist.acks) => {
                    let known = self
                        .judge
                        .headers
                        .keys()
                        .filter(|place| place.slot <= base_slot);
                    let Some(Place { slot, digest }) = known.max().copied() else {
                        return same;
                    };
                    let statement = Statement::NewViewAck {
                        view,
                        base_slot: slot,
                        base: digest,
                    };
                    let lie = self.sign(from, statement);
                    self.judge.said(from, &lie, false);
                    vec![Message::Signed(lie)]
                }
                _ => same,
            },
            Message::Decided(place) if self.lies_now(twist.claims) => {
                let digest = Digest([self.random(256) as u8; 32]);
                vec![Message::Decided(Place {
                    slot: place.slot,
                    digest,
                })]
            }
            Message::Status(status) if self.lies_now(twist.claims) => {
                let mut status = *status;
                let slot = status.committed.0 + self.random(4);
                status.voted_slot = Slot(slot);
                status.voted_digest = Digest([self.random(256) as u8; 32]);
                if self.lies_now(30) {
                    status.committed = Slot(slot);
                    status.committed_digest = status.voted_digest;
                }
                vec![Message::Status(status)]
            }
            Message::ViewChange(body) if self.lies_now(twist.changes) => {
                let Some(lie) = self.shorter(from, &body.0) else {
                    return same;
                };
                let statement = Statement::ViewChange {
                    view: lie.view,
                    digest: lie.digest(),
                };
                let signature = self.seals[from.index()].sign(&statement);
                vec![Message::ViewChange(Arc::new((lie, signature)))]
            }
            _ => same,
        }
    }

    /// A view change that claims less, or a rival tip.
    fn shorter(&mut self, _from: NodeId, told: &ViewChange) -> Option<ViewChange> {
        let mut lie = told.clone();
        lie.quorum = None;
        let anchor = lie.anchor(crate::world::genesis());
        let keep = self.random(lie.suffix.len() as u64 + 1) as usize;
        lie.suffix.truncate(keep);
        let tip = lie.headers(Epoch(0), anchor).last();
        lie.tip_signature = match tip {
            None => wire::ids::Signature([0; 64]),
            Some((header, _)) => self.judge.headers.get(&place_of(&header))?.signature,
        };
        Some(lie)
    }
}
