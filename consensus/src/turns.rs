//! §11: whose turn it is with which question from far behind. Everyone has its turn with every question,
//! whatever a liar makes there be to ask for meanwhile: each kind has a count of its own.

use crate::image::image;

/// Whom one round asks: numbers of the other replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Round {
    /// For a block by its name.
    pub named: Option<(Name, usize)>,
    /// For a range; another one than for the block, since one answer comes at a time.
    pub range: usize,
}

/// What is asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// A block that ranges leave out.
    LeftOut,
    /// One on the chain that is chased.
    Sought,
}

/// Counts of questions; they go on when the branch moves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Turns {
    rounds: usize,
    ranges: usize,
    left_out: usize,
    sought: usize,
}
image!(Turns {
    rounds,
    ranges,
    left_out,
    sought
});

impl Turns {
    /// Each fourth round asks for what ranges leave out in any case.
    pub(crate) fn is_fourth(&self) -> bool {
        self.rounds % 4 == 3
    }

    /// How often all `others` were asked for what ranges leave out.
    pub(crate) fn laps(&self, others: usize) -> usize {
        self.left_out / others
    }

    /// The kind of claims that this round asks for, of so many.
    pub(crate) fn claims(&self, others: usize, kinds: usize) -> usize {
        (self.rounds + self.rounds / others) % kinds
    }

    /// The next round, where there is something left out, or sought. With both they alternate, so that each
    /// fourth round is for what is left out.
    pub(crate) fn next(&mut self, others: usize, left_out: bool, sought: bool) -> Round {
        let odd = self.rounds % 2 == 1;
        self.rounds = self.rounds.wrapping_add(1);
        let named = match (left_out, sought) {
            (true, sought) if odd || !sought => {
                Some((Name::LeftOut, turn(&mut self.left_out, others)))
            }
            (_, true) => Some((Name::Sought, turn(&mut self.sought, others))),
            (_, false) => None,
        };
        let range = self.ranges % others;
        let range = if named.is_some_and(|(_, asked)| asked == range) {
            (range + 1) % others
        } else {
            turn(&mut self.ranges, others)
        };
        Round { named, range }
    }
}

fn turn(count: &mut usize, others: usize) -> usize {
    let turn = *count % others;
    *count = count.wrapping_add(1);
    turn
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest that any of the others waits for one kind of question, where a liar makes something be
    /// left out, or not, in every round as `adversary` says, and something is sought all the time.
    fn longest(others: usize, mut adversary: impl FnMut(usize) -> bool) -> usize {
        let mut turns = Turns::default();
        let mut last = vec![[0; 3]; others];
        let mut longest = 0;
        for round in 1..=10_000 {
            let left_out = turns.is_fourth() || adversary(round);
            let Round { named, range } = turns.next(others, left_out, true);
            let (kind, asked) = named.expect("something is sought");
            assert_ne!(asked, range);
            for (replica, kind) in [(asked, kind as usize), (range, 2)] {
                longest = longest.max(round - last[replica][kind]);
                last[replica][kind] = round;
            }
        }
        let never = last.iter().flatten().map(|last| 10_000 - last);
        longest.max(never.max().unwrap())
    }

    /// Also with what is left out where only each fourth round asks for it.
    #[test]
    fn everyone_has_its_turn_with_every_question() {
        for others in 3..=30 {
            for pattern in 0..256 {
                let longest = longest(others, |round| pattern >> (round % 8) & 1 == 1);
                assert!(longest <= 4 * others + 3, "{others} {pattern:b}: {longest}");
            }
            let mut random = 1u64;
            let longest = longest(others, |_| {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
                random >> 63 == 1
            });
            assert!(longest <= 4 * others + 3, "{others}: {longest}");
        }
    }

    #[test]
    fn what_there_is_to_ask_for_is_asked_for() {
        let named = |left_out, sought| {
            let mut turns = Turns::default();
            [0; 2].map(|_| turns.next(3, left_out, sought).named)
        };
        assert_eq!(named(false, false), [None; 2]);
        let turns = |kind| [0, 1].map(|turn| Some((kind, turn)));
        assert_eq!(named(true, false), turns(Name::LeftOut));
        assert_eq!(named(false, true), turns(Name::Sought));
        let both = [(Name::Sought, 0), (Name::LeftOut, 0)];
        assert_eq!(named(true, true), both.map(Some));
    }
}
