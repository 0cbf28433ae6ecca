//! What a verifier does next.
//!
//! Proposed blocks come before all else: a vote waits for them, and their number is bounded by the
//! window. Fetched ones, of which a replica that lags has many, take turns with what came by the
//! network, words of others and requests of clients: after a block these have as many signatures as it
//! took, so neither keeps the other waiting for more than what it takes itself. Among fetched ones each
//! sender has the same share ([`Fair`]).

use std::collections::VecDeque;

use wire::bytes::Buffers;

use crate::fair::Fair;
use crate::verifying::Job;

/// A job that takes no signature counts as so small a part of one.
const PARTS: u64 = 16;
/// Room for proposals from the start: as many as there are block buffers, about.
const PROPOSED_USUAL: usize = 512;

/// See the module's documentation. What came by the network waits with the caller.
pub struct VerifyQueue<Bu: Buffers> {
    proposed: VecDeque<Job<Bu>>,
    fetched: Fair<Job<Bu>>,
    turns: Turns,
}

/// Whose turn it is.
#[derive(Default)]
struct Turns {
    last: Last,
    /// Parts of signatures that the network may take before the next fetched block.
    owed: u64,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Last {
    #[default]
    Proposed,
    Network,
    Fetched,
}

impl<Bu: Buffers> VerifyQueue<Bu> {
    /// Of a committee of so many.
    pub fn new(replicas: usize) -> VerifyQueue<Bu> {
        VerifyQueue {
            proposed: VecDeque::with_capacity(PROPOSED_USUAL),
            fetched: Fair::new(replicas),
            turns: Turns::default(),
        }
    }

    /// A block; the ordering half bounds how many there are.
    pub fn push(&mut self, job: Job<Bu>) {
        match &job {
            Job::Fetched(offer) => self.fetched.push(offer.from.index(), job),
            _ => self.proposed.push_back(job),
        }
    }

    /// The next job; `network` takes one of those that came by the network.
    pub fn next(&mut self, network: impl FnOnce() -> Option<Job<Bu>>) -> Option<Job<Bu>> {
        let (last, job) = if let Some(job) = self.proposed.pop_front() {
            (Last::Proposed, Some(job))
        } else if self.turns.owed == 0 && !self.fetched.is_empty() {
            (Last::Fetched, self.fetched.pop())
        } else if let Some(job) = network() {
            (Last::Network, Some(job))
        } else {
            (Last::Fetched, self.fetched.pop())
        };
        self.turns.last = last;
        job
    }

    /// The job that was taken last took so many signatures.
    pub fn done(&mut self, signatures: u64) {
        if self.turns.last == Last::Fetched {
            self.fetched.settle(signatures);
        }
        self.turns.done(signatures);
    }

    /// Blocks that wait.
    pub fn len(&self) -> usize {
        self.proposed.len() + self.fetched.len()
    }

    pub fn is_empty(&self) -> bool {
        self.proposed.is_empty() && self.fetched.is_empty()
    }
}

impl Turns {
    fn done(&mut self, signatures: u64) {
        let spent = PARTS * signatures;
        match self.last {
            Last::Proposed => {}
            Last::Fetched => self.owed = self.owed.max(spent),
            Last::Network => self.owed = self.owed.saturating_sub(spent.max(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use wire::bytes::HeapBuffers;
    use wire::certificates::Place;
    use wire::header::Kind;
    use wire::ids::{Digest, NodeId, Slot, View};
    use wire::limits::RECORD_HEADER_BYTES;

    use super::*;
    use crate::blocks::Raw;
    use crate::verifying::Offer;

    type Jobs = VerifyQueue<HeapBuffers>;

    fn place() -> Place {
        Place {
            slot: Slot(1),
            digest: Digest::ZERO,
        }
    }

    fn fetched(buffers: &mut HeapBuffers) -> Job<HeapBuffers> {
        let raw = Raw {
            buffer: buffers.take().unwrap(),
            message_bytes: 0,
        };
        Job::Fetched(Offer {
            from: NodeId(1),
            place: place(),
            raw,
            vouched: false,
        })
    }

    fn bytes(buffers: &mut HeapBuffers) -> <HeapBuffers as Buffers>::Shared {
        use wire::bytes::{SharedBytes, UniqueBytes};
        let buffer = buffers.take().unwrap();
        buffer.freeze().slice(0..RECORD_HEADER_BYTES)
    }

    fn word(buffers: &mut HeapBuffers) -> Job<HeapBuffers> {
        Job::Message {
            from: NodeId(1),
            kind: Kind::Wish,
            view: View(1),
            slot: Slot(0),
            body: bytes(buffers),
        }
    }

    /// So many blocks and words are done in so many turns when both always wait and take so many
    /// signatures, and a proposal that takes `of_proposal` comes before each.
    fn share(turns: u64, [of_block, of_word, of_proposal]: [u64; 3]) -> (u64, u64) {
        let mut buffers = HeapBuffers { bytes_each: 4096 };
        let mut queue = Jobs::new(4);
        let (mut blocks, mut words) = (0, 0);
        for _ in 0..turns {
            if of_proposal > 0 {
                let message = bytes(&mut buffers);
                let place = place();
                queue.push(Job::Proposed { place, message });
                let first = queue.next(|| None);
                assert!(matches!(first, Some(Job::Proposed { .. })));
                queue.done(of_proposal);
            }
            if queue.is_empty() {
                queue.push(fetched(&mut buffers));
            }
            match queue.next(|| Some(word(&mut buffers))) {
                Some(Job::Fetched(_)) => {
                    queue.done(of_block);
                    blocks += 1;
                }
                Some(Job::Message { .. }) => {
                    queue.done(of_word);
                    words += 1;
                }
                _ => unreachable!("nothing else waits"),
            }
        }
        (blocks, words)
    }

    #[test]
    fn blocks_and_words_take_as_many_signatures() {
        let (blocks, words) = share(100_000, [200, 1, 0]);
        assert!(blocks > 0 && words.abs_diff(200 * blocks) <= 200);
        let (blocks, words) = share(1_000, [1, 1, 0]);
        assert_eq!(blocks, words);
    }

    #[test]
    fn proposals_come_first_and_are_nobodys_cost() {
        let (blocks, words) = share(100_000, [200, 1, 1000]);
        assert!(blocks > 0 && words.abs_diff(200 * blocks) <= 200);
    }

    /// Words that are refused unread do not use the turn of those that are not.
    #[test]
    fn what_takes_no_signature_hardly_counts() {
        let (blocks, words) = share(100_000, [200, 0, 0]);
        assert!(blocks > 0 && words.abs_diff(200 * PARTS * blocks) <= 200 * PARTS);
    }

    #[test]
    fn each_does_the_others_turn_when_nothing_waits_there() {
        let mut buffers = HeapBuffers { bytes_each: 4096 };
        let mut queue = Jobs::new(4);
        assert!(queue.next(|| None).is_none());
        for _ in 0..3 {
            queue.push(fetched(&mut buffers));
            assert_eq!(queue.len(), 1);
            let job = queue.next(|| None);
            assert!(matches!(job, Some(Job::Fetched(_))));
            queue.done(100);
            let job = queue.next(|| Some(word(&mut buffers)));
            assert!(matches!(job, Some(Job::Message { .. })));
            queue.done(1);
        }
    }
}
