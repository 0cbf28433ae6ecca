//! The branch: the one chain on which this replica executes, votes and builds.
//!
//! Up to the decided slot it never changes; above, a new view or a proof of the leader's lie may
//! replace it. A ring of digests over the window.

use wire::certificates::Place;
use wire::ids::{Digest, Slot};

use crate::image::image;
use crate::tree::Tree;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Branch {
    digests: Vec<Digest>,
    /// Lowest slot that is remembered.
    lowest: Slot,
    top: Place,
}
image!(Branch {
    digests,
    lowest,
    top
});

impl Branch {
    /// A branch that ends at `top`; nothing below is remembered.
    pub fn new(top: Place, ring: usize) -> Branch {
        let mut branch = Branch {
            digests: vec![Digest::ZERO; ring],
            lowest: top.slot,
            top,
        };
        branch.set(top);
        branch
    }

    fn ring(&self) -> u64 {
        self.digests.len() as u64
    }

    fn set(&mut self, place: Place) {
        let cell = place.slot.0 % self.ring();
        self.digests[cell as usize] = place.digest;
    }

    pub fn top(&self) -> Place {
        self.top
    }

    /// Lowest slot that is remembered: everything below is executed state.
    pub fn lowest(&self) -> Slot {
        self.lowest
            .max(Slot(self.top.slot.0.saturating_sub(self.ring() - 1)))
    }

    /// Digest of the block at `slot`, while it is remembered.
    pub fn digest_at(&self, slot: Slot) -> Option<Digest> {
        (self.lowest() <= slot && slot <= self.top.slot)
            .then(|| self.digests[(slot.0 % self.ring()) as usize])
    }

    pub fn place_at(&self, slot: Slot) -> Option<Place> {
        let digest = self.digest_at(slot)?;
        Some(Place { slot, digest })
    }

    pub fn holds(&self, place: Place) -> bool {
        self.digest_at(place.slot) == Some(place.digest)
    }

    /// Puts the next block on top; its parent is the top.
    pub fn push(&mut self, place: Place) {
        assert_eq!(place.slot, self.top.slot.next(), "a chain has no gaps");
        self.set(place);
        self.top = place;
    }

    /// Cuts everything above `slot` off. What it had overwritten, a ring further down, stays forgotten.
    pub fn cut(&mut self, slot: Slot) {
        self.lowest = self.lowest();
        self.top = self.place_at(slot).expect("cut above what is remembered");
    }

    /// Begins anew at `place`: everything below is executed state that came from others.
    pub fn restart(&mut self, place: Place) {
        (self.lowest, self.top) = (place.slot, place);
        self.set(place);
    }

    /// Where the chain of `place` leaves this branch: the deepest common block, when all between
    /// it and `place` are known.
    pub fn fork(&self, tree: &Tree, place: Place) -> Option<Place> {
        if self.holds(place) {
            return Some(place);
        }
        tree.down_from(place)
            .map(|entry| entry.parent())
            .find(|parent| self.holds(*parent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RING: u64 = 64;

    fn place(slot: u64, mark: u8) -> Place {
        Place {
            slot: Slot(slot),
            digest: Digest([mark; 32]),
        }
    }

    #[test]
    fn what_a_branch_that_was_cut_had_overwritten_is_not_remembered() {
        let mut branch = Branch::new(place(0, 0), RING as usize);
        for slot in 1..=RING + 4 {
            branch.push(place(slot, slot as u8));
        }
        let lowest = branch.lowest();
        assert_eq!(lowest, Slot(5));
        branch.cut(Slot(RING - 10));
        assert_eq!((branch.lowest(), branch.digest_at(Slot(3))), (lowest, None));
        for slot in 1..=2 * RING {
            let known = branch.place_at(Slot(slot));
            assert!(known.is_none_or(|known| known == place(slot, slot as u8)));
        }
        assert!(branch.holds(place(5, 5)));
    }
}
