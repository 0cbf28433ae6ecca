//! Blocks that this replica must have though nobody proposed them to it: the base of the installed
//! view, a final block off its branch, and the base that a new view is about to get.

use wire::certificates::Place;
use wire::ids::Slot;
use wire::seal::Signer;

use crate::change::Change;
use crate::core::Core;
use crate::input::Outbox;
use crate::tree::{Entry, RecordAs, Validity};

/// How far the chain of a target is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chain {
    /// Down to this block of the branch.
    Forks(Place),
    /// Down to above this block.
    Lacks(Place),
}

impl<S: Signer> Core<S> {
    /// Whether the base of the installed view is on the branch, or so old that it is not
    /// remembered any more.
    pub(crate) fn base_is_linked(&self) -> bool {
        self.branch.holds(self.base) || self.base.slot < self.decided.slot
    }

    pub(crate) fn chain_of(&self, target: Place) -> Chain {
        if self.branch.holds(target) {
            return Chain::Forks(target);
        }
        let mut lacks = target;
        for entry in self.tree.down_from(target) {
            lacks = entry.parent();
            if self.branch.holds(lacks) {
                return Chain::Forks(lacks);
            }
        }
        Chain::Lacks(lacks)
    }

    /// What is chased now, most urgent first, and the first block of its chain that is missing.
    pub(crate) fn sought(&self) -> Option<(Place, Option<Place>)> {
        let target = self.targets().next()?;
        let missing = match self.chain_of(target) {
            Chain::Forks(_) => None,
            Chain::Lacks(place) => (place.slot > self.decided.slot).then_some(place),
        };
        Some((target, missing))
    }

    /// What lies further up than blocks can be held is reached from below, range by range. The window
    /// has no say: it bounds votes, and a replica whose checkpoint is old needs a newer one.
    pub(crate) fn near(&self) -> Slot {
        Slot(self.executed.0 + self.config.blocks_held_max)
    }

    /// Whether a final block is to be chased rather than the one known so far: a higher one, yet none
    /// out of reach before one within it.
    pub(crate) fn is_better_goal(&self, place: Place) -> bool {
        let near = self.near();
        self.final_place.is_none_or(|known| {
            let (within, is_within) = (known.slot <= near, place.slot <= near);
            is_within && !within || known.slot < place.slot && is_within == within
        })
    }

    pub(crate) fn targets(&self) -> impl Iterator<Item = Place> {
        let near = self.near();
        let base = (!self.base_is_linked()).then_some(self.base);
        let base = base.filter(|place| place.slot <= near);
        let elsewhere = self
            .final_place
            .filter(|place| place.slot > self.decided.slot && place.slot <= near)
            .filter(|place| !self.branch.holds(*place));
        let acked = self.change.as_ref().and_then(Change::acked);
        [base, elsewhere, acked].into_iter().flatten()
    }

    /// Whether a block lies, or may lie, on the chain that is chased.
    pub(crate) fn is_sought(&self, place: Place) -> bool {
        self.targets().any(|target| {
            let above = self.tree.down_from(target);
            let mut above = above.take_while(|entry| entry.header.slot() >= place.slot);
            target == place
                || place.slot <= target.slot && self.tree.at(place.slot).count() < 2
                || above.any(|entry| entry.place() == place || entry.parent() == place)
        })
    }

    /// Goes over to the chased chain when all of it is here; writes what a candidate lacks.
    pub(crate) fn pursue_goal(&mut self, out: &mut Outbox) {
        for target in [Some(self.base), self.final_place].into_iter().flatten() {
            if target.slot > self.decided.slot
                && !self.branch.holds(target)
                && let Chain::Forks(fork) = self.chain_of(target)
                && fork.slot >= self.decided.slot
            {
                self.switch_to(target, out);
            }
        }
        let candidate = self.change.as_ref().and_then(|change| change.candidate);
        if let Some(target) = candidate {
            self.append_chain(target, out);
        }
    }

    /// Writes every held, unwritten block on the chain of `target` into the log.
    fn append_chain(&mut self, target: Place, out: &mut Outbox) {
        let decided: Slot = self.decided.slot;
        let chain = self.tree.down_from(target);
        let chain = chain.take_while(|entry| entry.header.slot() > decided);
        // The bytes of a block that was found invalid may not be here.
        let fit = chain.filter(|entry| entry.validity != Validity::Invalid);
        let unwritten = fit.filter(|entry| entry.record.is_none());
        for place in unwritten.map(Entry::place).collect::<Vec<_>>() {
            self.append(place, RecordAs::Fetched, out);
        }
    }
}
