//! What each replica has said in one view: bounded to its deepest linked word, its newest unlinked
//! one and, beside that, its lowest (N3).

use wire::certificates::Place;
use wire::ids::{Signature, Slot, View};

use crate::branch::Branch;
use crate::image::image;
use crate::tree::Tree;

/// One vote, commit or claim.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word {
    pub place: Place,
    pub signature: Signature,
}
image!(Word { place, signature });

/// The words kept of one replica, for votes, commits and DECIDED claims alike.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Words {
    /// Deepest slot of the own branch that is covered.
    pub linked: Slot,
    /// The signature, when a word was for exactly the branch's block at `linked`.
    pub exact: Option<Signature>,
    /// Newest word for a block that is not (yet) on the branch.
    pub unlinked: Option<Word>,
    /// The lowest such word, while there are two: where blocks always arrive a little later than
    /// words for them, the newest word would be replaced for ever before its block links.
    pub lowest: Option<Word>,
}
image!(Words {
    linked,
    exact,
    unlinked,
    lowest
});

impl Words {
    /// Takes a word in.
    pub fn hear(&mut self, branch: &Branch, tree: &Tree, word: Word) {
        let slot = word.place.slot;
        if slot < self.linked || slot == self.linked && self.exact.is_some() {
            return;
        }
        if slot < branch.lowest() {
            // The state was taken over above it: whether it lies on the branch cannot be said any
            // more, and a late word for what is decided would look like one for a rival (I7).
            return;
        }
        if branch.holds(word.place) {
            self.linked = slot;
            self.exact = Some(word.signature);
            self.relink(branch, tree);
        } else if slot <= branch.top().slot || self.unlinked.is_none() {
            self.unlinked = Some(word);
            self.relink(branch, tree);
        } else if self.unlinked.is_some_and(|held| slot > held.place.slot) {
            self.lowest = self.lowest.or(self.unlinked);
            self.unlinked = Some(word);
        }
    }

    /// As [`Words::hear`]; a claim that contradicts the branch is kept before any newer one, for
    /// b + 1 equal ones show that the own branch lost. The lowest one is kept too: whoever is far
    /// behind asks for the next block by its claims, and a rival of it may be here (§11).
    pub fn hear_claim(&mut self, branch: &Branch, tree: &Tree, word: Word) {
        let top = branch.top().slot;
        let contradicted = self.unlinked.is_some_and(|held| held.place.slot <= top);
        let slot = word.place.slot;
        if slot <= top || !contradicted {
            self.hear(branch, tree, word);
        }
        let above = self.unlinked.is_some_and(|held| held.place.slot > slot);
        if slot > top && above && self.lowest.is_none_or(|held| held.place.slot > slot) {
            self.lowest = Some(word);
        }
    }

    /// The branch is about to be cut above `keep`: what was said for a block there stays as a word
    /// for a block that is not on the branch.
    pub fn before_cut(&mut self, branch: &Branch, keep: Slot) {
        if self.linked <= keep {
            return;
        }
        let said = self.exact.zip(branch.place_at(self.linked));
        if let Some((signature, place)) = said
            && self
                .unlinked
                .is_none_or(|held| held.place.slot < place.slot)
        {
            self.unlinked = Some(Word { place, signature });
        }
        (self.linked, self.exact) = (keep, None);
    }

    /// The branch changed: unlinked words may lie on it now, or share a prefix with it.
    pub fn relink(&mut self, branch: &Branch, tree: &Tree) {
        for lowest in [true, false] {
            let held = if lowest { self.lowest } else { self.unlinked };
            let Some(word) = held else { continue };
            let slot = word.place.slot;
            let mut done = false;
            if branch.holds(word.place) {
                done = true;
                if slot > self.linked || slot == self.linked && self.exact.is_none() {
                    (self.linked, self.exact) = (slot, Some(word.signature));
                }
            } else if slot <= branch.top().slot {
                // Off the branch. Its prefix counts as far as it is shared.
                if let Some(fork) = branch.fork(tree, word.place)
                    && fork.slot > self.linked
                {
                    (self.linked, self.exact) = (fork.slot, None);
                }
                done = lowest || slot <= self.linked || slot < branch.lowest();
            }
            if done {
                let held = if lowest {
                    &mut self.lowest
                } else {
                    &mut self.unlinked
                };
                *held = None;
            }
        }
    }
}

/// What all replicas said in one view.
#[derive(Clone, Debug)]
pub(crate) struct Book {
    pub view: View,
    pub votes: Vec<Words>,
    pub commits: Vec<Words>,
}
image!(Book {
    view,
    votes,
    commits
});

impl Book {
    pub fn new(view: View, replicas: usize) -> Book {
        Book {
            view,
            votes: vec![Words::default(); replicas],
            commits: vec![Words::default(); replicas],
        }
    }

    /// Empties the book for another view.
    pub fn reopen(&mut self, view: View) {
        self.view = view;
        self.votes.fill(Words::default());
        self.commits.fill(Words::default());
    }

    pub fn words(&mut self) -> impl Iterator<Item = &mut Words> {
        self.votes.iter_mut().chain(&mut self.commits)
    }
}
