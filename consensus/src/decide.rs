//! N4, N6 and N7: what is final, by votes and COMMITs counted here or learned from others.

use std::collections::BTreeMap;

use wire::canary::{planted, reach};
use wire::certificates::Place;
use wire::ids::{Digest, Instant, NodeId, Signature, Slot, View};
use wire::seal::Signer;

use crate::core::Core;
use crate::input::{Effect, Outbox, Way};
use crate::peers::Peer;
use crate::quorum::reached_by;
use crate::tree::Entry;
use crate::words::{Word, Words};

impl<S: Signer> Core<S> {
    pub(crate) fn decide(&mut self, now: Instant, out: &mut Outbox) {
        let quorums = self.config.quorums;
        let mut best = (self.decided.slot, Way::Learned, None);
        for book in &self.books {
            let reached = |rank, words: &[Words]| {
                let linked = words.iter().map(|words| words.linked.0);
                let own = words[self.config.me.index()].linked.0;
                let again = planted("samevoter").then_some(own);
                Slot(reached_by(rank, linked.chain(again)))
            };
            let fast = reached(quorums.fast(), &book.votes);
            if fast > best.0 {
                best = (fast, Way::Fast, Some(book.view));
            }
            if quorums.has_slow_path() {
                let slow = reached(quorums.slow(), &book.commits);
                if slow > best.0 {
                    best = (slow, Way::Slow, Some(book.view));
                }
            }
        }
        if planted("mixviews") {
            let deepest = |id: usize| self.books.iter().map(move |b| b.votes[id].linked.0).max();
            let deepest = (0..quorums.n).filter_map(deepest);
            let mixed = Slot(reached_by(quorums.fast(), deepest));
            if mixed > best.0 {
                best = (mixed, Way::Fast, Some(self.installed));
            }
        }
        let claimed = self.peers.iter().map(|peer| peer.claims.linked.0);
        let claimed = Slot(reached_by(quorums.one_correct(), claimed));
        if claimed > best.0 {
            best = (claimed, Way::Learned, None);
        }
        if let Some(known) = self.final_place
            && known.slot > best.0
            && self.branch.holds(known)
        {
            best = (known.slot, Way::Learned, None);
        }
        let (slot, way, view) = best;
        if slot > self.decided.slot {
            if way == Way::Slow {
                reach("decided-by-commits");
            }
            self.finalize(now, slot, way, view, out);
        }
    }

    fn finalize(
        &mut self,
        now: Instant,
        slot: Slot,
        way: Way,
        view: Option<View>,
        out: &mut Outbox,
    ) {
        let place = self
            .branch
            .place_at(slot)
            .expect("counted words lie on the branch");
        let entry = self.tree.get(place).expect("undecided blocks are known");
        let latency_ns = now.since_ns(entry.linked_at);
        self.repair.measure(entry.linked_at, now);
        self.timers.decided(now, latency_ns);
        for slot in (self.decided.slot.0 + 1..=slot.0).map(Slot) {
            let final_digest = self.branch.digest_at(slot);
            let losers = self.tree.at(slot).map(Entry::place);
            let losers = losers.filter(|place| Some(place.digest) != final_digest);
            for place in losers.collect::<Vec<_>>() {
                out.push(Effect::Forget { place });
            }
        }
        self.decided = place;
        self.decided_in = view;
        out.push(Effect::Final { place, way });
    }

    /// N7: a claim of one replica; b + 1 of them include a correct one.
    pub(crate) fn on_decided(&mut self, from: NodeId, slot: Slot, digest: Digest) {
        let word = Word {
            place: Place { slot, digest },
            signature: Signature([0; 64]),
        };
        let claims = &mut self.peers[from.index()].claims;
        claims.hear_claim(&self.branch, &self.tree, word);
        self.look_elsewhere = true;
    }

    /// Words of enough replicas for a block that is not on the branch: the leader equivocated, and
    /// the own branch is the losing one. Or it is of a view that this replica has missed, and that it
    /// cannot enter any more: no block of that view will link by itself.
    pub(crate) fn find_final_elsewhere(&mut self) {
        if !std::mem::take(&mut self.look_elsewhere) {
            return;
        }
        let top = self.branch.top().slot;
        let quorums = self.config.quorums;
        for place in self.claimed_elsewhere() {
            self.seek_final(place);
        }
        let mut found = None;
        for book in &self.books {
            if found.is_some() {
                break;
            }
            found = self.supported(&book.votes, quorums.fast(), top);
            if found.is_none() && quorums.has_slow_path() {
                found = self.supported(&book.commits, quorums.slow(), top);
            }
        }
        if let Some(place) = found {
            self.seek_final(place);
        }
    }

    /// Blocks off the branch that b + 1 replicas claim, one of them correct.
    fn claimed_elsewhere(&self) -> Vec<Place> {
        let between_views = self.stage > self.installed;
        let top = self.branch.top().slot;
        self.claimed(|place| between_views || place.slot <= top)
    }

    /// Blocks off the branch that b + 1 replicas claim, of those that are `meant`.
    pub(crate) fn claimed(&self, meant: impl Fn(&Place) -> bool) -> Vec<Place> {
        let off = |peer: &Peer| {
            let claims = [peer.claims.unlinked, peer.claims.lowest];
            claims.map(|word| {
                let place = word.map(|word| word.place);
                // Words are compared with the branch when it changes; an own block may be on it since.
                place.filter(|place| {
                    let remembered = place.slot >= self.branch.lowest();
                    meant(place) && remembered && !self.branch.holds(*place)
                })
            })
        };
        let equal = |place: &Place| {
            let claimants = self
                .peers
                .iter()
                .filter(|peer| off(peer).contains(&Some(*place)));
            claimants.count() >= self.config.quorums.one_correct()
        };
        let places = self.peers.iter().flat_map(off).flatten();
        let mut places = places.filter(equal).collect::<Vec<_>>();
        places.sort_unstable();
        places.dedup();
        places
    }

    fn seek_final(&mut self, place: Place) {
        assert!(
            place.slot > self.decided.slot,
            "I7: {} is final at slot {}, here another block is decided",
            place.digest,
            place.slot
        );
        if self.is_better_goal(place) {
            reach("final-off-branch");
            self.final_place = Some(place);
        }
    }

    /// The deepest block off the branch that `rank` replicas' words cover. One walk for each word.
    fn supported(&self, words: &[Words], rank: usize, top: Slot) -> Option<Place> {
        let off = |words: &Words| words.unlinked.filter(|word| word.place.slot <= top);
        if words.iter().filter_map(off).count() < rank {
            return None;
        }
        let mut covered = BTreeMap::<Place, usize>::new();
        for word in words.iter().filter_map(off) {
            // The block itself may not be here yet.
            let said = [word.place].into_iter();
            let below = self.tree.down_from(word.place).map(Entry::parent);
            // What lies below the lowest slot remembered cannot be told from the branch.
            let lowest = self.branch.lowest();
            let off = |p: &Place| p.slot >= lowest && !self.branch.holds(*p);
            for place in said.chain(below).take_while(off) {
                *covered.entry(place).or_default() += 1;
            }
        }
        let enough = covered.into_iter().filter(|(_, count)| *count >= rank);
        enough
            .map(|(place, _)| place)
            .max_by_key(|place| place.slot)
    }
}
