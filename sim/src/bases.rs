//! G2 and G5: for every view, every choice that its leader could make of the view changes that
//! exist leads to a base that extends whatever is final in lower views, and the correct replicas'
//! view changes alone lead to one.
//!
//! SELECT stands here a second time, word by word and slot by slot as the protocol states it (§6.1),
//! with the literal quorums of [`crate::shapes`]; what the product makes of each choice must be the
//! same. View changes of liars count as soon as they are well formed and were sent to anyone.

use std::collections::{BTreeMap, BTreeSet};

use consensus::quorum::Quorums;
use wire::certificates::Place;
use wire::header::{Header, Kind};
use wire::ids::{Digest, NodeId, Slot, View};
use wire::seal::{CheckedViewChange, Compound, Rules};
use wire::view_change::{ViewChange, split_signed};

use crate::agreement::Agreement;
use crate::liars::Parts;
use crate::network::End;
use crate::seals::Seal;
use crate::shapes::Shape;

type Check = Result<(), String>;

/// Choices that are looked at for one new view change at most.
const CHOICES_MAX: usize = 1024;
/// Different view changes of one liar for one view that are looked at.
const FACES_MAX: usize = 4;
/// Views whose view changes are remembered.
const VIEWS_MAX: usize = 64;

/// View changes for one view, and what choices of them led to.
#[derive(Default)]
struct Pool {
    changes: Vec<CheckedViewChange>,
    bases: BTreeSet<Place>,
}

/// See the module's documentation.
pub struct Bases {
    shape: &'static Shape,
    genesis: Place,
    quorums: Quorums,
    compound: Compound<Seal>,
    honest: Vec<bool>,
    pools: BTreeMap<View, Pool>,
    /// Of liars' messages.
    parts: Parts,
}

impl Bases {
    /// Nothing is known yet; `seal` judges the signatures of all.
    pub fn new(shape: &'static Shape, seal: Seal, rules: Rules) -> Bases {
        let Shape { n, b, u, p, .. } = *shape;
        Bases {
            shape,
            genesis: rules.genesis,
            quorums: Quorums::new(n, b, u, p, shape.exclusion),
            compound: Compound::new(seal, rules),
            honest: vec![true; n],
            pools: BTreeMap::new(),
            parts: Parts::default(),
        }
    }

    /// This replica is a liar.
    pub fn distrust(&mut self, id: NodeId) {
        self.honest[id.index()] = false;
    }

    fn liars(&self) -> usize {
        self.honest.iter().filter(|honest| !**honest).count()
    }

    /// A datagram of a liar leaves: its view changes exist from now on.
    pub fn overhears(
        &mut self,
        from: NodeId,
        to: End,
        datagram: &[u8],
        agreement: &mut Agreement,
    ) -> Check {
        let Ok((header, Kind::ViewChange, body)) = Header::split(datagram) else {
            return Ok(());
        };
        // Of different liars to different ends: each its own name.
        let ends = End(from.index() << 8 | to.0);
        match self
            .parts
            .take(ends, Kind::ViewChange, header.fragment(), body)
        {
            Some(whole) => self.exists(&whole, agreement),
            None => Ok(()),
        }
    }

    /// A signed view change exists; one that is not well formed counts nowhere.
    pub fn exists(&mut self, signed: &[u8], agreement: &mut Agreement) -> Check {
        let checked = split_signed(signed).and_then(|(signature, body)| {
            let message = ViewChange::decode(body)?;
            self.compound.view_change(message, signature)
        });
        let Ok(checked) = checked else {
            return Ok(());
        };
        let checked = checked.into_inner();
        let (view, author) = (checked.message.view, checked.message.replica);
        for (header, _) in &checked.headers {
            agreement.learn(header);
        }
        if let Some(checkpoint) = &checked.message.checkpoint {
            agreement.learn(&checkpoint.header);
        }
        let pool = self.pools.entry(view).or_default();
        let mut known = pool.changes.iter().filter(|c| c.message.replica == author);
        let again = known.clone().any(|held| held.digest == checked.digest);
        if again || known.by_ref().count() >= FACES_MAX {
            return Ok(());
        }
        pool.changes.push(checked);
        if self.pools.len() > VIEWS_MAX {
            self.pools.pop_first();
        }
        if self.liars() > self.shape.b {
            return Ok(());
        }
        self.choices(view, agreement)?;
        self.lives(view)
    }

    /// Every choice that holds the newest view change of the view.
    fn choices(&mut self, view: View, agreement: &Agreement) -> Check {
        let Some(pool) = self.pools.get(&view) else {
            return Ok(());
        };
        let Some((newest, others)) = pool.changes.split_last() else {
            return Ok(());
        };
        let mut choices = vec![vec![newest]];
        for id in (0..self.shape.n as u16).map(NodeId) {
            if id == newest.message.replica {
                continue;
            }
            let faces = others.iter().filter(|held| held.message.replica == id);
            let faces = faces.collect::<Vec<_>>();
            let without = choices.len();
            for face in faces {
                for index in 0..without {
                    if choices.len() < CHOICES_MAX {
                        let mut choice = choices[index].clone();
                        choice.push(face);
                        choices.push(choice);
                    }
                }
            }
        }
        let mut bases = BTreeSet::new();
        for choice in &choices {
            let stated = literal(self.shape, self.genesis, choice)?;
            let leader = |view: View| NodeId((view.0 % self.shape.n as u64) as u16);
            let made = consensus::select(&self.quorums, self.genesis, leader, choice);
            let made = made.map(|selected| selected.base);
            if stated != made {
                let authors = choice.iter().map(|c| c.message.replica.0);
                return Err(format!(
                    "G2: of the view changes of {:?} for view {view} the product selects {made:?}, \
                     the protocol {stated:?}",
                    authors.collect::<Vec<_>>()
                ));
            }
            bases.extend(stated);
        }
        for (lower, place) in agreement.by_view().range(..view) {
            for base in &bases {
                extends(agreement, view, *base, *lower, *place)?;
            }
        }
        if let Some(pool) = self.pools.get_mut(&view) {
            pool.bases.extend(bases);
        }
        Ok(())
    }

    /// G5: once the view changes of all correct replicas exist, they are enough.
    fn lives(&self, view: View) -> Check {
        let Some(pool) = self.pools.get(&view) else {
            return Ok(());
        };
        let correct = pool.changes.iter();
        let correct = correct.filter(|c| self.honest[c.message.replica.index()]);
        let correct = correct.collect::<Vec<_>>();
        let all = self.honest.iter().filter(|honest| **honest).count();
        let enough = correct.len() == all && all >= self.shape.change;
        if enough && literal(self.shape, self.genesis, &correct)?.is_none() {
            return Err(format!(
                "G5: all correct view changes for view {view} lead to no base"
            ));
        }
        Ok(())
    }

    /// A block became final in a view: what choices for later views led to must extend it.
    pub fn finalized(&self, lower: View, place: (Slot, Digest), agreement: &Agreement) -> Check {
        for (view, pool) in self.pools.range(View(lower.0 + 1)..) {
            for base in &pool.bases {
                extends(agreement, *view, *base, lower, place)?;
            }
        }
        Ok(())
    }
}

fn extends(
    agreement: &Agreement,
    view: View,
    base: Place,
    lower: View,
    place: (Slot, Digest),
) -> Check {
    if agreement.extends((base.slot, base.digest), place) {
        return Ok(());
    }
    Err(format!(
        "G2: some choice for view {view} leads to slot {} and misses slot {}, final in view {lower}",
        base.slot, place.0
    ))
}

/// What a replica says of a slot: its anchor's block, or one of its suffix.
fn said(change: &CheckedViewChange, slot: Slot) -> Option<Digest> {
    if slot == change.anchor.slot {
        return Some(change.anchor.digest);
    }
    let mut headers = change.headers.iter();
    let found = headers.find(|(header, _)| header.slot() == slot);
    found.map(|(_, digest)| *digest)
}

/// SELECT (§6.1), word by word.
pub(crate) fn literal(
    shape: &Shape,
    genesis: Place,
    set: &[&CheckedViewChange],
) -> Result<Option<Place>, String> {
    // 1
    let w = set.iter().map(|c| c.message.installed).max();
    let w = w.unwrap_or(View(0));
    let in_w = |c: &CheckedViewChange| c.message.installed == w;
    let top = set.iter().map(|c| c.tip().slot.0).max().unwrap_or(0);
    // 3
    let mut conflict = false;
    for one in set.iter().filter(|c| in_w(c)) {
        for other in set.iter().filter(|c| in_w(c)) {
            let first = one.anchor.slot.max(other.anchor.slot).0 + 1;
            let last = one.tip().slot.min(other.tip().slot).0;
            let mut both = (first..=last).map(Slot);
            conflict |= both.any(|slot| said(one, slot) != said(other, slot));
        }
    }
    let liar = NodeId((w.0 % shape.n as u64) as u16);
    let excluded = conflict && shape.exclusion;
    let counts = |c: &CheckedViewChange| !(excluded && c.message.replica == liar);
    let size = set.iter().filter(|c| counts(c)).count();
    if size < shape.change {
        return Ok(None);
    }
    // 2 and 4; of equals the first is taken.
    let mut start: Option<Place> = None;
    let mut deeper = |place: Place| {
        if start.is_none_or(|known| place.slot > known.slot) {
            start = Some(place);
        }
    };
    for change in set {
        if let Some(checkpoint) = &change.message.checkpoint {
            deeper(checkpoint.place());
        }
    }
    for change in set.iter().filter(|c| in_w(c)) {
        deeper(
            change
                .message
                .certificate
                .map_or(genesis, |known| known.base),
        );
    }
    for change in set.iter().filter(|c| in_w(c)) {
        if let Some(quorum) = &change.message.quorum {
            deeper(quorum.block);
        }
    }
    let Some(start) = start else {
        return Ok(None);
    };
    // 5
    let linked = |c: &CheckedViewChange| {
        in_w(c)
            && counts(c)
            && c.tip().slot > start.slot
            && said(c, start.slot) == Some(start.digest)
    };
    let allowed = shape.missing[usize::from(excluded)];
    let mut best = start;
    let mut below: Option<CheckedChain<'_>> = None;
    for slot in (start.slot.0 + 1..=top).map(Slot) {
        for claimed in set.iter().filter(|c| linked(c)) {
            let Some(digest) = said(claimed, slot) else {
                continue;
            };
            let support = set
                .iter()
                .filter(|c| linked(c) && said(c, slot) == Some(digest));
            if size - support.count() > allowed {
                continue;
            }
            // 6
            let on = |chain: &CheckedChain<'_>| said(chain, best.slot) == said(claimed, best.slot);
            if best.slot == slot && best.digest != digest || below.is_some_and(|c| !on(&c)) {
                return Err(format!(
                    "G2: candidates on two chains at slot {slot}, view {w}"
                ));
            }
            best = Place { slot, digest };
            below = Some(claimed);
        }
    }
    Ok(Some(best))
}

type CheckedChain<'a> = &'a CheckedViewChange;
