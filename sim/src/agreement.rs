//! G1, G3, G4 and what each replica owes them, from the global log of everything that was sent and
//! written: who voted for what in which view, and what that decided, by literal quorums.
//!
//! A liar counts as having said everything to everyone: what could have been decided with its help
//! is taken as decided.

use std::collections::{BTreeMap, BTreeSet};

use wire::block::BlockHeader;
use wire::certificates::{self, NewViewCertificate};
use wire::ids::{Digest, NodeId, Slot, View};

use crate::shapes::Shape;

type Check = Result<(), String>;

/// A block by slot and digest.
pub type Place = (Slot, Digest);

/// What one honest replica has said and written.
#[derive(Clone, Debug, Default)]
struct Said {
    /// Its deepest votes by view; more than one only where it jumped in between.
    votes: BTreeMap<View, Vec<Place>>,
    commits: BTreeMap<View, Vec<Place>>,
    /// Blocks on its disk, those of them whose records are votes (R2), and those whose records the
    /// present process has made.
    durable: BTreeSet<Digest>,
    durable_votes: BTreeSet<Digest>,
    written: BTreeSet<Digest>,
    /// Views in which it wrote that its tip jumped, and the highest slot to which it did.
    jumped: BTreeMap<View, Slot>,
    /// View changes that it sent: by view, the installed view and the claimed tip.
    changes: BTreeMap<View, (View, Place)>,
    acks: BTreeMap<View, Place>,
    proposed: BTreeMap<(View, Slot), Digest>,
    /// Boot and stage of the START record of the present process.
    boot: u32,
    stage_at_start: View,
}

/// See the module's documentation.
#[derive(Clone)]
pub struct Agreement {
    shape: &'static Shape,
    genesis: certificates::Place,
    /// Votes leave before they are on the disk: within leases (R3), or without durability.
    leases: bool,
    honest: Vec<bool>,
    said: Vec<Said>,
    headers: BTreeMap<Digest, BlockHeader>,
    /// Base of each view that was certified.
    bases: BTreeMap<View, Place>,
    /// The chain that is final.
    decided: BTreeMap<Slot, Digest>,
    top: Place,
    /// Final blocks by the view whose votes made them final, the deepest of each.
    by_view: BTreeMap<View, Place>,
    fast: u64,
    slow: u64,
}

impl Agreement {
    pub fn new(shape: &'static Shape, genesis: certificates::Place, leases: bool) -> Agreement {
        Agreement {
            shape,
            genesis,
            leases,
            honest: vec![true; shape.n],
            said: vec![Said::default(); shape.n],
            headers: BTreeMap::new(),
            bases: BTreeMap::from([(View(0), (genesis.slot, genesis.digest))]),
            decided: BTreeMap::from([(genesis.slot, genesis.digest)]),
            top: (genesis.slot, genesis.digest),
            by_view: BTreeMap::new(),
            fast: 0,
            slow: 0,
        }
    }

    pub fn distrust(&mut self, id: NodeId) {
        self.honest[id.index()] = false;
    }

    /// A replica has become a liar: it may say from now on what anyone honest has said before.
    pub fn recount(&mut self) -> Check {
        let honest = self.said.iter().zip(&self.honest);
        let honest = honest.filter(|(_, honest)| **honest);
        let words = honest.flat_map(|(said, _)| said.votes.iter().chain(&said.commits));
        let words = words.flat_map(|(view, places)| places.iter().map(|place| (*view, *place)));
        for (view, place) in words.collect::<Vec<_>>() {
            self.decide(view, place)?;
        }
        Ok(())
    }

    fn liars(&self) -> usize {
        self.honest.iter().filter(|honest| !**honest).count()
    }

    fn leader(&self, view: View) -> NodeId {
        NodeId((view.0 % self.shape.n as u64) as u16)
    }

    /// The deepest final block.
    pub fn top(&self) -> Place {
        self.top
    }

    /// Digest of the final block at `slot`.
    pub fn final_at(&self, slot: Slot) -> Option<Digest> {
        self.decided.get(&slot).copied()
    }

    /// Final blocks by the view whose votes made them final.
    pub fn by_view(&self) -> &BTreeMap<View, Place> {
        &self.by_view
    }

    /// Slots that votes alone, and that COMMITs, made final first.
    pub fn shares(&self) -> (u64, u64) {
        (self.fast, self.slow)
    }

    /// A header that somebody honest wrote or proposed.
    pub fn learn(&mut self, header: &BlockHeader) {
        self.headers.insert(header.digest(), *header);
    }

    fn parent(&self, place: Place) -> Option<Place> {
        let header = self.headers.get(&place.1)?;
        Some((Slot(place.0.0 - 1), header.parent))
    }

    /// Whether `above` is `below` or a descendant of it, as far as headers are known.
    pub fn extends(&self, above: Place, below: Place) -> bool {
        let mut at = above;
        while at.0 > below.0 {
            match self.parent(at) {
                Some(parent) => at = parent,
                None => return false,
            }
        }
        at == below
    }

    /// A START record is durable.
    pub fn started(&mut self, id: NodeId, boot: u32, stage: View) {
        let said = &mut self.said[id.index()];
        (said.boot, said.stage_at_start) = (boot, stage);
    }

    /// A block record of this replica is durable.
    pub fn durable(&mut self, id: NodeId, digest: Digest, as_vote: bool) {
        let said = &mut self.said[id.index()];
        said.durable.insert(digest);
        if as_vote {
            said.durable_votes.insert(digest);
        }
    }

    /// A process of this replica made a block record.
    pub fn written(&mut self, id: NodeId, digest: Digest) {
        self.said[id.index()].written.insert(digest);
    }

    /// Whether this block is in the log of this replica, or on its way there.
    pub fn has_written(&self, id: NodeId, digest: Digest) -> bool {
        let said = &self.said[id.index()];
        said.written.contains(&digest) || said.durable.contains(&digest)
    }

    /// Another process: what the one before had made and not written is gone.
    pub fn restarted(&mut self, id: NodeId) {
        self.said[id.index()].written.clear();
    }

    /// A jump of this replica's tip was written (N2).
    pub fn jumped(&mut self, id: NodeId, view: View, slot: Slot) {
        let to = self.said[id.index()].jumped.entry(view).or_default();
        *to = slot.max(*to);
    }

    /// The highest slot for which this replica voted in a view.
    pub fn voted_to(&self, id: NodeId, view: View) -> Slot {
        let votes = self.said[id.index()].votes.get(&view);
        let slots = votes.into_iter().flatten().map(|place| place.0);
        slots.max().unwrap_or_default()
    }

    /// The slot to which the tip of this replica jumped in a view, by its log.
    pub fn jumped_to(&self, id: NodeId, view: View) -> Slot {
        let jumped = self.said[id.index()].jumped.get(&view);
        jumped.copied().unwrap_or_default()
    }

    /// I9, R4: one block for each slot and view, and none in views before the start.
    pub fn proposes(&mut self, id: NodeId, view: View, slot: Slot, name: u64) -> Check {
        let said = &mut self.said[id.index()];
        if said.boot > 1 && view <= said.stage_at_start {
            return Err(format!(
                "R4: {id} proposes slot {slot} in view {view}, though it restarted in view {}",
                said.stage_at_start
            ));
        }
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&name.to_le_bytes());
        match said.proposed.insert((view, slot), Digest(digest)) {
            Some(other) if other.0 != digest => Err(format!(
                "I9: {id} proposes two blocks for slot {slot} of view {view}"
            )),
            _ => Ok(()),
        }
    }

    /// A vote leaves an honest replica.
    pub fn votes(&mut self, id: NodeId, view: View, place: Place) -> Check {
        let (slot, digest) = place;
        let said = &self.said[id.index()];
        let leased = self.leases && said.written.contains(&digest);
        if slot > Slot(0) && !leased && !said.durable.contains(&digest) {
            return Err(format!(
                "R2: {id} votes for slot {slot} in view {view}, which is not on its disk"
            ));
        }
        let base = self.bases.get(&view).map(|base| base.0);
        let own = base.is_some_and(|base| slot > base);
        if own && !leased && !said.durable_votes.contains(&digest) {
            return Err(format!(
                "R2: {id} votes for slot {slot} in view {view}, which its log holds as fetched"
            ));
        }
        self.keeps_promises(id, view, place)?;
        self.take(id, view, place, true)?;
        self.decide(view, place)
    }

    /// K1: whoever signs a state can rebuild it after a crash.
    pub fn checkpoints(&self, id: NodeId, place: Place) -> Check {
        let (slot, digest) = place;
        if self.said[id.index()].durable.contains(&digest) {
            return Ok(());
        }
        Err(format!(
            "K1: {id} signs its state at slot {slot}, whose block is not on its disk"
        ))
    }

    /// A COMMIT leaves an honest replica, or stands in the log from which it started.
    pub fn commits(&mut self, id: NodeId, view: View, place: Place) -> Check {
        if !self.shape.has_slow_path() {
            return Err(format!("{id} sends COMMIT in a committee without them"));
        }
        let said = &self.said[id.index()];
        let mut own = said.votes.get(&view).into_iter().flatten();
        if !own.any(|voted| self.extends(*voted, place)) && !self.tip_covers(id, view, place) {
            return Err(format!(
                "N5: {id} commits slot {} of view {view} off its own chain",
                place.0
            ));
        }
        self.keeps_promises(id, view, place)?;
        self.take(id, view, place, false)?;
        self.decide(view, place)
    }

    /// Whether the tip of this replica in a view may have reached this block, though no vote for it was
    /// sent: as the base of the view, by a jump, or by a vote that reached nobody, as right after a start,
    /// when no peer was known yet.
    fn tip_covers(&self, id: NodeId, view: View, place: Place) -> bool {
        let base = self.bases.get(&view);
        let jumped = place.0 <= self.jumped_to(id, view) && self.final_at(place.0) == Some(place.1);
        let mut votes = self.said[id.index()].durable_votes.iter();
        base.is_some_and(|base| self.extends(*base, place))
            || jumped
            || votes.any(|digest| {
                let header = self.headers.get(digest);
                header.is_some_and(|header| {
                    header.view() == view && self.extends((header.slot(), *digest), place)
                })
            })
    }

    /// V1: what was sent about a view, or is sent now, is in the view changes that left it, unless it is
    /// beside what is final: a view change that begins at a checkpoint tells nothing of other chains.
    fn keeps_promises(&self, id: NodeId, view: View, place: Place) -> Check {
        for (left, (installed, tip)) in self.said[id.index()].changes.range(View(view.0 + 1)..) {
            if *installed == view && place.0 > tip.0 && !self.has_lost(place) {
                return Err(format!(
                    "V1: {id} votes for slot {} in view {view} after its view change for {left} \
                     that ends at slot {}",
                    place.0, tip.0
                ));
            }
        }
        Ok(())
    }

    /// I1: the votes of a view lie on one chain, but for jumps.
    fn take(&mut self, id: NodeId, view: View, place: Place, vote: bool) -> Check {
        let said = &self.said[id.index()];
        let books = if vote { &said.votes } else { &said.commits };
        let before = books.get(&view).cloned().unwrap_or_default();
        let mut kept = Vec::with_capacity(before.len() + 1);
        for old in &before {
            if self.extends(*old, place) {
                return Ok(());
            }
            if self.extends(place, *old) {
                continue;
            }
            if !said.jumped.contains_key(&view) {
                return Err(format!(
                    "I1: {id} votes for slot {} and slot {} of view {view} on different chains",
                    old.0, place.0
                ));
            }
            kept.push(*old);
        }
        kept.push(place);
        let said = &mut self.said[id.index()];
        let books = if vote {
            &mut said.votes
        } else {
            &mut said.commits
        };
        books.insert(view, kept);
        Ok(())
    }

    /// Each replica's highest ancestor of `said` that its words of this view cover, none below `least`.
    /// Liars said everything that anyone honest said.
    fn covered(&self, view: View, said: Place, vote: bool, least: Slot) -> Vec<Place> {
        let books = self.said.iter().zip(&self.honest);
        let honest = books
            .filter(|(_, honest)| **honest)
            .filter_map(|(words, _)| {
                let books = if vote { &words.votes } else { &words.commits };
                let deepest = books.get(&view).into_iter().flatten();
                let common = deepest.filter_map(|deepest| self.common(*deepest, said, least));
                common.max()
            });
        let mut covered = honest.collect::<Vec<_>>();
        let highest = covered.iter().max().copied();
        covered.extend(
            highest
                .into_iter()
                .flat_map(|place| vec![place; self.liars()]),
        );
        covered.sort_by_key(|place| std::cmp::Reverse(place.0));
        covered
    }

    /// The highest block at `least` or above that both are or descend from, as far as headers are known.
    fn common(&self, mut one: Place, mut other: Place, least: Slot) -> Option<Place> {
        while one != other {
            let higher = if one.0 >= other.0 {
                &mut one
            } else {
                &mut other
            };
            *higher = self.parent(*higher).filter(|parent| parent.0 >= least)?;
        }
        (one.0 >= least).then_some(one)
    }

    /// What the words about `said` and its ancestors make final (N4, N6).
    fn decide(&mut self, view: View, said: Place) -> Check {
        // What is final in this view already is not counted again; a chain beside it is, and one that
        // may be beside it, as far as headers are known.
        let known = self.by_view.get(&view);
        let fork = known.and_then(|known| self.common(*known, said, Slot(0)));
        let known = fork.map_or(Slot(0), |fork| fork.0);
        let reached = |rank: usize, vote| {
            let covered = self.covered(view, said, vote, known.next());
            covered.get(rank - 1).copied()
        };
        let fast = reached(self.shape.fast, true);
        let slow = self.shape.has_slow_path();
        let slow = slow.then(|| reached(self.shape.slow, false)).flatten();
        let Some(place) = fast.max(slow) else {
            return Ok(());
        };
        let deepest = self.by_view.entry(view).or_insert(place);
        *deepest = place.max(*deepest);
        self.finalize(view, place, fast == Some(place))
    }

    fn finalize(&mut self, view: View, place: Place, fast: bool) -> Check {
        let mut chain = Vec::new();
        let mut at = place;
        loop {
            match self.decided.get(&at.0) {
                Some(digest) if *digest == at.1 => break,
                Some(digest) => {
                    return Err(format!(
                        "G1: slot {} is {} by the votes of view {view}, and {digest} before",
                        at.0, at.1
                    ));
                }
                None => chain.push(at),
            }
            at = self
                .parent(at)
                .ok_or_else(|| format!("G1: {} is final and its header unknown", at.1))?;
        }
        // A chain that ends below the top leaves it: everything between would be decided twice.
        if place.0 > self.top.0 && !chain.is_empty() && at != self.top {
            return Err(format!(
                "G1: slot {} is final in view {view} on another chain than slot {}",
                place.0, self.top.0
            ));
        }
        if fast {
            self.fast += chain.len() as u64;
        } else {
            self.slow += chain.len() as u64;
        }
        self.decided.extend(chain);
        if place.0 > self.top.0 {
            self.top = place;
        }
        Ok(())
    }

    /// The block at `slot` of the chain of `place`, as far as its headers were seen.
    fn known_ancestor(&self, place: Place, slot: Slot) -> Option<Place> {
        let mut at = place;
        while at.0 > slot {
            at = self.parent(at)?;
        }
        (at.0 == slot).then_some(at)
    }

    /// Whether another block than one of its chain is final: a view change may keep quiet about a
    /// vote for it, when a checkpoint of the other chain stands in its place.
    fn has_lost(&self, place: Place) -> bool {
        let mut at = Some(place);
        while let Some((slot, digest)) = at {
            if let Some(decided) = self.decided.get(&slot) {
                return *decided != digest;
            }
            at = self.parent((slot, digest));
        }
        false
    }

    /// I4, V1: an honest replica's own view change, and how it describes its votes.
    pub fn changes(&mut self, id: NodeId, view: View, installed: View, tip: Place) -> Check {
        let said = &self.said[id.index()];
        if let Some(other) = said.changes.get(&view)
            && *other != (installed, tip)
        {
            return Err(format!("I4: {id} sends two view changes for view {view}"));
        }
        // What was voted before a jump may lie off the chain to which the tip jumped.
        let told = said.jumped.get(&installed).copied();
        let votes = said.votes.get(&installed).into_iter().flatten();
        for voted in votes.filter(|voted| told.is_none_or(|to| voted.0 > to)) {
            let claimed = self.known_ancestor(tip, voted.0);
            let hidden = voted.0 > tip.0 || claimed.is_some_and(|claimed| claimed != *voted);
            if hidden && !self.has_lost(*voted) {
                return Err(format!(
                    "V1: {id} voted for slot {} in view {installed}, its view change for {view} \
                     ends at slot {}",
                    voted.0, tip.0
                ));
            }
        }
        if let Some(to) = said.jumped.get(&installed)
            && *to > tip.0
        {
            return Err(format!(
                "N2: the tip of {id} jumped to slot {to} in view {installed}, its view change for \
                 {view} ends at slot {}",
                tip.0
            ));
        }
        let said = &mut self.said[id.index()];
        said.changes.insert(view, (installed, tip));
        Ok(())
    }

    /// I4: one acknowledgement for each view. V3: everything up to the base is on the disk, as far
    /// as it is not known to be `decided` there.
    pub fn acknowledges(&mut self, id: NodeId, view: View, base: Place, decided: Slot) -> Check {
        let mut at = base;
        while at.0 > decided {
            if !self.said[id.index()].durable.contains(&at.1) {
                return Err(format!(
                    "V3: {id} acknowledges slot {} for view {view} and does not hold slot {}",
                    base.0, at.0
                ));
            }
            let Some(parent) = self.parent(at) else { break };
            at = parent;
        }
        match self.said[id.index()].acks.insert(view, base) {
            Some(other) if other != base => {
                Err(format!("I4: {id} acknowledges two bases for view {view}"))
            }
            _ => Ok(()),
        }
    }

    /// G3: one certified base for each view; it extends whatever is final in lower views (G2).
    pub fn certified(&mut self, certificate: &NewViewCertificate) -> Check {
        let view = certificate.view;
        let base = (certificate.base.slot, certificate.base.digest);
        let acks = certificate.acks.count();
        if acks < self.shape.slow {
            return Err(format!("V4: {acks} acknowledgements install view {view}"));
        }
        match self.bases.insert(view, base) {
            Some(other) if other != base => {
                return Err(format!("G3: view {view} has two certified bases"));
            }
            Some(_) => return Ok(()),
            None => {}
        }
        for (lower, place) in self.by_view.range(..view) {
            if !self.extends(base, *place) {
                return Err(format!(
                    "G2: the base of view {view} at slot {} misses slot {}, final in view {lower}",
                    base.0, place.0
                ));
            }
        }
        Ok(())
    }

    /// G4: no honest leader is accused.
    pub fn accuses(&self, by: NodeId, view: View) -> Check {
        let leader = self.leader(view);
        if self.honest[leader.index()] {
            return Err(format!("G4: {by} holds evidence against honest {leader}"));
        }
        Ok(())
    }

    /// What a replica takes to be final must be so by what was said.
    pub fn decides(&self, id: NodeId, place: Place) -> Check {
        match self.final_at(place.0) {
            Some(digest) if digest == place.1 => Ok(()),
            Some(digest) => Err(format!(
                "agreement: {id} decides {} at slot {}, final is {digest}",
                place.1, place.0
            )),
            None => Err(format!(
                "G1: {id} decides slot {}, which no quorum has voted for",
                place.0
            )),
        }
    }

    /// What the first block stands on.
    pub fn genesis(&self) -> certificates::Place {
        self.genesis
    }
}

#[cfg(test)]
mod tests {
    use wire::ids::Epoch;

    use super::*;

    const GENESIS: Digest = Digest([9; 32]);
    const PLACE: certificates::Place = certificates::Place {
        slot: Slot(0),
        digest: GENESIS,
    };

    fn judge() -> Agreement {
        let shape = Shape::named("4").unwrap();
        Agreement::new(shape, PLACE, false)
    }

    /// So many blocks on top of `parent`; the last is returned, and everyone has it on disk.
    fn grow(judge: &mut Agreement, parent: Place, blocks: u64, mark: u8) -> Place {
        let mut at = parent;
        for _ in 0..blocks {
            at = child(judge, View(0), at, mark);
        }
        for id in 0..4 {
            judge.durable(NodeId(id), at.1, true);
        }
        at
    }

    fn child(judge: &mut Agreement, view: View, parent: Place, mark: u8) -> Place {
        let (slot, payload) = (parent.0.next(), Digest([mark; 32]));
        let header = BlockHeader::new(Epoch(0), view, slot, 0, parent.1, payload);
        judge.learn(&header);
        (slot, header.digest())
    }

    /// N5: a COMMIT is for what the tip of its view has reached: by a vote for it or for a descendant, sent
    /// or only written, by a jump, or as the base.
    #[test]
    fn a_commit_rests_on_the_tip_of_its_view() {
        let mut judge = Agreement::new(Shape::named("4-strict").unwrap(), PLACE, false);
        let by = NodeId(0);
        let base = grow(&mut judge, (Slot(0), GENESIS), 2, 1);
        let lost = grow(&mut judge, base, 1, 2);
        let first = child(&mut judge, View(1), base, 1);
        let second = child(&mut judge, View(1), first, 1);
        judge.bases.insert(View(1), base);
        let commits = |judge: &Agreement, place| {
            let mut judge = judge.clone();
            let said = judge.commits(by, View(1), place);
            said.map_err(|violation| assert!(violation.contains("N5"), "{violation}"))
        };
        let expect = |judge: &Agreement, expected: [bool; 4]| {
            let found = [base, first, second, lost].map(|place| commits(judge, place).is_ok());
            assert_eq!(found, expected);
        };
        expect(&judge, [true, false, false, false]);
        judge.durable(by, first.1, false);
        expect(&judge, [true, false, false, false]);
        let mut jumped = judge.clone();
        jumped.jumped(by, View(1), first.0);
        expect(&jumped, [true, false, false, false]);
        jumped.decided.insert(first.0, first.1);
        expect(&jumped, [true, true, false, false]);
        judge.durable(by, second.1, true);
        expect(&judge, [true, true, true, false]);
    }

    /// R2: a fetched block is held, and not voted for; the base of a view may be both.
    #[test]
    fn a_vote_needs_a_record_of_its_own() {
        let mut judge = judge();
        let header = BlockHeader::new(Epoch(0), View(0), Slot(1), 0, GENESIS, Digest([1; 32]));
        judge.learn(&header);
        let (by, place) = (NodeId(0), (Slot(1), header.digest()));
        judge.durable(by, place.1, false);
        let violation = judge.votes(by, View(0), place).unwrap_err();
        assert!(violation.contains("fetched"), "{violation}");
        judge.bases.insert(View(0), place);
        judge.votes(by, View(0), place).unwrap();
        assert_eq!(judge.voted_to(by, View(0)), Slot(1));
    }

    /// V1: a jump excuses what was voted before it, and nothing above.
    #[test]
    fn a_view_change_after_a_jump_tells_of_later_votes() {
        let mut judge = judge();
        let low = grow(&mut judge, (Slot(0), GENESIS), 2, 1);
        let high = grow(&mut judge, low, 3, 1);
        judge.jumped(NodeId(0), View(0), Slot(2));
        judge.votes(NodeId(0), View(0), high).unwrap();
        let violation = judge.changes(NodeId(0), View(1), View(0), low).unwrap_err();
        assert!(violation.contains("V1"), "{violation}");
        judge.changes(NodeId(0), View(1), View(0), high).unwrap();
    }

    /// V1: whose chain a checkpoint has overtaken, tells nothing of it, and may repeat its votes.
    #[test]
    fn what_has_lost_is_not_promised() {
        let mut judge = judge();
        let lost = grow(&mut judge, (Slot(0), GENESIS), 3, 2);
        let tip = grow(&mut judge, (Slot(0), GENESIS), 1, 1);
        let by = NodeId(1);
        judge.changes(by, View(1), View(0), tip).unwrap();
        let violation = judge.votes(by, View(0), lost).unwrap_err();
        assert!(violation.contains("V1"), "{violation}");
        judge.distrust(NodeId(3));
        judge.votes(NodeId(0), View(0), tip).unwrap();
        judge.votes(NodeId(2), View(0), tip).unwrap();
        assert_eq!(judge.top(), tip);
        judge.votes(by, View(0), lost).unwrap();
    }

    /// What two chains share is covered by the words for both, and by those of liars.
    #[test]
    fn words_for_different_blocks_meet_where_their_chains_do() {
        let mut judge = judge();
        judge.distrust(NodeId(3));
        let shared = grow(&mut judge, (Slot(0), GENESIS), 2, 1);
        let middle = grow(&mut judge, shared, 1, 1);
        let one = grow(&mut judge, middle, 2, 1);
        let other = grow(&mut judge, shared, 2, 2);
        judge.votes(NodeId(0), View(0), one).unwrap();
        assert_eq!(judge.top().0, Slot(0), "one, and the liar");
        judge.votes(NodeId(1), View(0), other).unwrap();
        assert_eq!(judge.top(), shared);
        judge.votes(NodeId(2), View(0), middle).unwrap();
        assert_eq!(judge.top(), middle);
        assert_eq!(judge.by_view()[&View(0)], middle);
    }

    /// A voter of both chains makes one final, and a late vote the other, below it.
    #[test]
    fn a_lower_block_of_another_chain_is_counted_late() {
        let mut judge = judge();
        judge.distrust(NodeId(3));
        let shared = grow(&mut judge, (Slot(0), GENESIS), 5, 1);
        let lower = grow(&mut judge, shared, 1, 2);
        let low = grow(&mut judge, lower, 2, 2);
        let high = grow(&mut judge, shared, 5, 1);
        judge.votes(NodeId(1), View(0), lower).unwrap();
        judge.jumped(NodeId(1), View(0), Slot(9));
        judge.votes(NodeId(1), View(0), high).unwrap();
        judge.votes(NodeId(0), View(0), high).unwrap();
        assert_eq!(judge.top(), high);
        let violation = judge.votes(NodeId(2), View(0), low).unwrap_err();
        assert!(violation.contains("G1"), "{violation}");
    }

    /// The first votes of a view may be for a base far above genesis. Counting takes time by how far
    /// apart the words are, not by how far up they are.
    #[test]
    fn the_base_of_a_late_view_is_counted_at_once() {
        let mut judge = judge();
        let base = grow(&mut judge, (Slot(0), GENESIS), 50_000, 1);
        for view in [0, 1] {
            for id in 0..3 {
                judge.votes(NodeId(id), View(view), base).unwrap();
            }
            assert_eq!(judge.by_view().get(&View(view)), Some(&base));
        }
    }
}
