//! Sees every message and every header, and recomputes what is final from votes and COMMITs alone,
//! with literal quorum numbers. Also the word of each correct replica against itself.

use std::collections::{BTreeMap, HashMap};

use wire::certificates::Place;
use wire::ids::{Digest, NodeId, Slot, View};
use wire::messages::SignedHeader;
use wire::seal::{CheckedViewChange, Signed, Statement};

use crate::world::{Shape, genesis, place_of};

pub fn view_of_ack(signed: &Signed) -> View {
    match signed.statement {
        Statement::NewViewAck { view, .. } => view,
        _ => View(0),
    }
}

#[derive(Debug, Default)]
pub struct Judge {
    /// Every header that anyone signed or sent.
    pub headers: HashMap<Place, SignedHeader>,
    votes: BTreeMap<(View, NodeId), Vec<Place>>,
    commits: BTreeMap<(View, NodeId), Vec<Place>>,
    /// One statement of a kind for each replica and view.
    once: HashMap<(u8, NodeId, View, Slot), Digest>,
    view_changes: HashMap<(NodeId, View), CheckedViewChange>,
    bases: BTreeMap<View, BTreeMap<Place, u32>>,
}

impl Judge {
    pub fn header(&mut self, signed: SignedHeader) {
        self.headers.insert(place_of(&signed.header), signed);
    }

    fn only(&mut self, kind: u8, by: NodeId, view: View, slot: Slot, digest: Digest) {
        let known = *self.once.entry((kind, by, view, slot)).or_insert(digest);
        assert_eq!(
            known, digest,
            "{by} said two things of kind {kind} in view {view}, slot {slot}"
        );
    }

    /// A correct leader's block.
    pub fn proposed(&mut self, by: NodeId, signed: SignedHeader) {
        let place = place_of(&signed.header);
        self.only(1, by, signed.header.view(), place.slot, place.digest);
        self.header(signed);
    }

    pub fn said(&mut self, by: NodeId, signed: &Signed, correct: bool) {
        let push = |list: &mut Vec<Place>, place: Place| {
            if list.last() != Some(&place) {
                list.push(place);
            }
        };
        match signed.statement {
            Statement::Vote { view, slot, digest } => {
                let place = Place { slot, digest };
                push(self.votes.entry((view, by)).or_default(), place);
                if correct {
                    self.only(2, by, view, slot, digest);
                    self.not_after_change(by, view, place);
                }
            }
            Statement::Commit { view, slot, digest } => {
                push(
                    self.commits.entry((view, by)).or_default(),
                    Place { slot, digest },
                );
                if correct {
                    self.only(3, by, view, slot, digest);
                    let known = self.votes.get(&(view, by)).into_iter().flatten();
                    let place = Place { slot, digest };
                    let own = known.copied().any(|voted| self.covers(voted, place));
                    assert!(
                        own || place.slot == Slot(0),
                        "{by} commits off its own votes"
                    );
                }
            }
            Statement::NewViewAck {
                view,
                base_slot,
                base,
            } => {
                let place = Place {
                    slot: base_slot,
                    digest: base,
                };
                *self
                    .bases
                    .entry(view)
                    .or_default()
                    .entry(place)
                    .or_default() |= 1 << by.0;
                if correct {
                    self.only(8, by, view, Slot(0), base);
                }
            }
            Statement::Checkpoint { slot, chain, root } if correct => {
                self.only(9, by, View(0), slot, chain);
                self.only(10, by, View(0), slot, root);
            }
            _ => {}
        }
    }

    pub fn changed(&mut self, by: NodeId, vc: &CheckedViewChange) {
        self.only(6, by, vc.message.view, Slot(0), vc.digest);
        self.view_changes.insert((by, vc.message.view), vc.clone());
    }

    /// Whether a correct replica sent a view change for this view.
    pub fn has_left(&self, by: NodeId, view: View) -> bool {
        self.view_changes.contains_key(&(by, view))
    }

    pub fn led(&mut self, by: NodeId, view: View, digest: Digest) {
        self.only(7, by, view, Slot(0), digest);
    }

    /// V1: what is voted after a view change was sent is in that view change.
    fn not_after_change(&self, by: NodeId, view: View, place: Place) {
        for ((author, to), vc) in &self.view_changes {
            if *author == by && *to > view && vc.message.installed == view {
                let told =
                    place.slot <= vc.anchor.slot || vc.digest_at(place.slot) == Some(place.digest);
                // A jump leaves a branch that lost.
                let left = vc.tip().slot >= place.slot;
                assert!(
                    told || left,
                    "{by} votes in view {view} after it left for {to}"
                );
            }
            if *author == by && vc.message.installed > view {
                panic!("{by} votes in view {view}, long left");
            }
        }
    }

    fn covers(&self, said: Place, place: Place) -> bool {
        let mut at = said;
        while at.slot > place.slot {
            let Some(signed) = self.headers.get(&at) else {
                return false;
            };
            at = Place {
                slot: Slot(at.slot.0 - 1),
                digest: signed.header.parent,
            };
        }
        at == place
    }

    fn final_in(
        &self,
        words: &BTreeMap<(View, NodeId), Vec<Place>>,
        need: usize,
        out: &mut BTreeMap<Slot, Digest>,
    ) {
        let mut by_place: HashMap<(View, Place), u32> = HashMap::new();
        for ((view, by), places) in words {
            for said in places {
                let mut at = *said;
                loop {
                    let voters = by_place.entry((*view, at)).or_default();
                    if *voters >> by.0 & 1 == 1 || at == genesis() {
                        break;
                    }
                    *voters |= 1 << by.0;
                    let Some(signed) = self.headers.get(&at) else {
                        break;
                    };
                    at = Place {
                        slot: Slot(at.slot.0 - 1),
                        digest: signed.header.parent,
                    };
                }
            }
        }
        for ((view, place), voters) in by_place {
            if voters.count_ones() as usize >= need {
                let known = *out.entry(place.slot).or_insert(place.digest);
                assert_eq!(
                    known, place.digest,
                    "two blocks final at {}, one in view {view}",
                    place.slot
                );
            }
        }
    }

    /// G1, G3: everything that is final by the messages that were ever sent.
    pub fn finals(&self, shape: &Shape) -> BTreeMap<Slot, Digest> {
        let mut out = BTreeMap::from([(Slot(0), genesis().digest)]);
        self.final_in(&self.votes, shape.fast, &mut out);
        if shape.fast > shape.slow {
            self.final_in(&self.commits, shape.slow, &mut out);
        }
        for (view, bases) in &self.bases {
            let certified = bases
                .values()
                .filter(|acks| acks.count_ones() as usize >= shape.slow);
            assert!(certified.count() <= 1, "two bases of view {view}");
        }
        out
    }
}
