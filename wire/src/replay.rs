//! Which datagrams of a peer were already taken.
//!
//! One window per peer and direction. A boot's counters count once each; a newer boot empties the
//! window, an older one is refused for ever. Counters more than [`REPLAY_WINDOW`] below the highest
//! taken count as taken: a datagram that late is lost.

use crate::canary::planted;
use crate::ids::Boot;
use crate::limits::REPLAY_WINDOW;
use crate::reject::Reject;

const WORDS: usize = (REPLAY_WINDOW / 64) as usize;
const _: () = assert!(REPLAY_WINDOW.is_multiple_of(64));

/// The window of one peer.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    boot: Boot,
    /// One more than the highest counter taken; 0 when none was.
    end: u64,
    /// Bit `counter % REPLAY_WINDOW`, for counters in `end - REPLAY_WINDOW .. end`.
    taken: [u64; WORDS],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        ReplayWindow::new()
    }
}

impl ReplayWindow {
    /// Nothing heard: every boot is newer.
    pub fn new() -> ReplayWindow {
        ReplayWindow {
            boot: Boot(0),
            end: 0,
            taken: [0; WORDS],
        }
    }

    /// The highest boot heard; 0 when none was.
    pub fn boot(&self) -> Boot {
        self.boot
    }

    /// One more than the highest counter taken of that boot; 0 when none was.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Whether this datagram would be taken. Changes nothing: the MAC is not yet checked.
    pub fn check(&self, boot: Boot, counter: u64) -> Result<(), Reject> {
        if boot < self.boot || boot == Boot(0) {
            return Err(Reject::OldBoot);
        }
        // The last counter has no end; a peer gets there after 500 years at line rate.
        if counter == u64::MAX {
            return Err(Reject::Replayed);
        }
        if boot > self.boot || counter >= self.end {
            return Ok(());
        }
        let (word, bit) = place(counter);
        let taken = self.taken[word] & bit != 0 && !planted("noreplay");
        if self.end - counter > REPLAY_WINDOW || taken {
            return Err(Reject::Replayed);
        }
        Ok(())
    }

    /// Takes a datagram whose MAC holds, once.
    pub fn accept(&mut self, boot: Boot, counter: u64) -> Result<(), Reject> {
        if !planted("noreplay") {
            self.check(boot, counter)?;
        }
        if boot > self.boot {
            *self = ReplayWindow {
                boot,
                ..ReplayWindow::new()
            };
        }
        if counter >= self.end {
            if counter - self.end >= REPLAY_WINDOW {
                self.taken = [0; WORDS];
            } else {
                for skipped in self.end..counter {
                    let (word, bit) = place(skipped);
                    self.taken[word] &= !bit;
                }
            }
            self.end = counter + 1;
        }
        let (word, bit) = place(counter);
        self.taken[word] |= bit;
        Ok(())
    }
}

fn place(counter: u64) -> (usize, u64) {
    let index = counter % REPLAY_WINDOW;
    ((index / 64) as usize, 1 << (index % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_counter_once_and_boots_only_grow() {
        let mut window = ReplayWindow::new();
        assert_eq!(window.accept(Boot(0), 1), Err(Reject::OldBoot));
        assert_eq!(window.accept(Boot(2), 5), Ok(()));
        assert_eq!(window.accept(Boot(2), 5), Err(Reject::Replayed));
        assert_eq!(window.accept(Boot(2), 4), Ok(()));
        assert_eq!(window.accept(Boot(1), 6), Err(Reject::OldBoot));
        assert_eq!(window.accept(Boot(3), 5), Ok(()));
        assert_eq!(window.boot(), Boot(3));
        assert_eq!(window.accept(Boot(3), u64::MAX), Err(Reject::Replayed));
    }

    #[test]
    fn the_window_is_exactly_as_long_as_it_says() {
        let mut window = ReplayWindow::new();
        window.accept(Boot(1), REPLAY_WINDOW).unwrap();
        assert_eq!(window.accept(Boot(1), 0), Err(Reject::Replayed));
        assert_eq!(window.accept(Boot(1), 1), Ok(()));
        window.accept(Boot(1), 10 * REPLAY_WINDOW).unwrap();
        assert_eq!(window.accept(Boot(1), 9 * REPLAY_WINDOW + 1), Ok(()));
        assert_eq!(
            window.accept(Boot(1), 9 * REPLAY_WINDOW),
            Err(Reject::Replayed)
        );
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(
            steps in proptest::collection::vec((1u32..4, 0u64..6000), 1..400),
        ) {
            let mut window = ReplayWindow::new();
            let mut boot_now = 0;
            let mut taken = BTreeSet::new();
            for (boot, counter) in steps {
                let expected = if boot < boot_now {
                    false
                } else {
                    if boot > boot_now {
                        boot_now = boot;
                        taken.clear();
                    }
                    let late = taken.last().is_some_and(|&top| counter + REPLAY_WINDOW <= top);
                    !late && taken.insert(counter)
                };
                prop_assert_eq!(window.accept(Boot(boot), counter).is_ok(), expected);
            }
        }
    }
}
