//! Operations in flight by sequence, and the rule that accepts a result.
//!
//! A result is accepted when `quorum` (b+1) distinct replicas said the same (slot, digest) for
//! the same sequence of the current session. Of each replica only the newest claim counts, so a
//! liar can neither vote twice nor fill memory. All memory is taken when the window is made, but
//! for result buffers, which are reused, and the table of dissent, made at the first lie.

use wire::canary::planted;
use wire::ids::{Digest, NodeId, Slot};
use wire::limits::CACHED_RESULT_BYTES_MAX;

/// What one replica says of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub slot: Slot,
    pub digest: Digest,
}

impl Claim {
    const NONE: Claim = Claim {
        slot: Slot(0),
        digest: Digest::ZERO,
    };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Never used, or answered and the answer forgotten.
    Free,
    Waiting,
    /// Answered or given up; `leading` still holds the accepted claim, if there was one.
    Done,
}

#[derive(Debug)]
struct Entry {
    sequence: u64,
    state: State,
    tag: u64,
    bundle: u64,
    leading: Claim,
    /// Replicas whose newest claim is `leading`, one bit each.
    supporters: u32,
    /// Replicas whose newest claim stands in the table of dissent.
    dissenters: u32,
    /// The quorum has spoken for this digest, its bytes have not come yet.
    agreed: bool,
    /// Digest of the bytes in `result`.
    held: Option<Digest>,
    result: Vec<u8>,
}

/// Buffers above this are given back when their operation ends.
const RESULT_BYTES_KEPT: usize = 4096;

/// What a claim led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not enough equal claims yet.
    Open,
    /// The quorum agrees on a digest whose bytes nobody has sent in full.
    NeedsResult,
    Accepted {
        tag: u64,
        bundle: u64,
        slot: Slot,
        digest: Digest,
        replies: u32,
        /// Claims of other replicas that contradict the accepted one.
        wrong: u32,
    },
    /// The sequence was answered before; the claim agrees with that answer.
    Late,
    /// The sequence was answered before, and otherwise than this claim.
    LateWrong,
    /// Not a sequence in flight.
    Unknown,
}

/// The ring of sequences `(low, low + capacity]`.
#[derive(Debug)]
pub(crate) struct Window {
    entries: Vec<Entry>,
    replicas: usize,
    quorum: u32,
    /// All sequences up to this one are answered or given up.
    low: u64,
    /// The next sequence to be given out.
    next: u64,
    waiting: usize,
    dissent: Vec<Claim>,
}

impl Window {
    /// `capacity` sequences, the first of which is `first` (at least 1).
    pub(crate) fn new(capacity: usize, replicas: usize, quorum: usize, first: u64) -> Window {
        assert!(capacity > 0 && replicas <= 32 && quorum >= 1 && quorum <= replicas && first >= 1);
        Window {
            entries: (0..capacity)
                .map(|_| Entry {
                    sequence: 0,
                    state: State::Free,
                    tag: 0,
                    bundle: 0,
                    leading: Claim::NONE,
                    supporters: 0,
                    dissenters: 0,
                    agreed: false,
                    held: None,
                    // Most results are short; room for those is taken here.
                    result: Vec::with_capacity(CACHED_RESULT_BYTES_MAX),
                })
                .collect(),
            replicas,
            quorum: quorum as u32,
            low: first - 1,
            next: first,
            waiting: 0,
            dissent: Vec::new(),
        }
    }

    /// What replicas said so far counts no more: others may have their ids now.
    pub(crate) fn renew(&mut self, replicas: usize, quorum: usize) {
        assert!(replicas <= 32 && quorum >= 1 && quorum <= replicas);
        for entry in &mut self.entries {
            entry.supporters = 0;
            entry.dissenters = 0;
            if entry.state == State::Waiting {
                entry.leading = Claim::NONE;
                entry.agreed = false;
                entry.held = None;
            }
        }
        (self.replicas, self.quorum) = (replicas, quorum as u32);
        self.dissent = Vec::new();
    }

    /// Whether another sequence can be given out.
    pub(crate) fn has_room(&self) -> bool {
        self.next - self.low <= self.entries.len() as u64
    }

    /// All sequences up to this one are answered or given up.
    pub(crate) fn low(&self) -> u64 {
        self.low
    }

    /// Operations waiting for their result.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    fn index(&self, sequence: u64) -> usize {
        (sequence % self.entries.len() as u64) as usize
    }

    /// Gives out the next sequence. The caller asked [`Window::has_room`].
    pub(crate) fn assign(&mut self, tag: u64, bundle: u64) -> u64 {
        assert!(self.has_room(), "the session window is full");
        let sequence = self.next;
        self.next += 1;
        self.waiting += 1;
        let index = self.index(sequence);
        let entry = &mut self.entries[index];
        assert!(entry.state != State::Waiting);
        entry.sequence = sequence;
        entry.state = State::Waiting;
        entry.tag = tag;
        entry.bundle = bundle;
        entry.leading = Claim::NONE;
        entry.supporters = 0;
        entry.dissenters = 0;
        entry.agreed = false;
        entry.held = None;
        sequence
    }

    /// Whether `sequence` waits for its result.
    pub(crate) fn is_waiting(&self, sequence: u64) -> bool {
        let entry = &self.entries[self.index(sequence)];
        entry.sequence == sequence && entry.state == State::Waiting
    }

    /// Counts `claim` of `replica`, with the result's bytes when it sent them in full and
    /// `complete` when the claim needs none.
    pub(crate) fn claim(
        &mut self,
        sequence: u64,
        replica: NodeId,
        claim: Claim,
        bytes: Option<&[u8]>,
        complete: bool,
    ) -> Verdict {
        let index = self.index(sequence);
        let replicas = self.replicas;
        if replica.index() >= replicas {
            return Verdict::Unknown;
        }
        let bit = 1u32 << replica.index();
        let entry = &mut self.entries[index];
        if entry.sequence != sequence || entry.state == State::Free {
            return Verdict::Unknown;
        }
        if entry.state == State::Done {
            return if entry.leading == claim || entry.supporters == 0 {
                Verdict::Late
            } else {
                Verdict::LateWrong
            };
        }

        if entry.supporters & bit != 0 && entry.leading != claim {
            entry.supporters &= !bit;
        }
        if entry.supporters == 0 {
            entry.leading = claim;
        }
        if entry.leading == claim {
            entry.supporters |= bit;
            entry.dissenters &= !bit;
        } else {
            if self.dissent.is_empty() {
                self.dissent = vec![Claim::NONE; self.entries.len() * replicas];
            }
            self.dissent[index * replicas + replica.index()] = claim;
            self.entries[index].dissenters |= bit;
        }
        let support = self.support(index, &claim);
        let quorum = if planted("onereply") { 1 } else { self.quorum };
        let entry = &mut self.entries[index];

        if let Some(bytes) = bytes {
            // Bytes of the agreed digest are never replaced; before that the newest are kept.
            let wanted = !entry.agreed || support.count_ones() >= quorum;
            if wanted && entry.held != Some(claim.digest) {
                entry.result.clear();
                entry.result.extend_from_slice(bytes);
                entry.held = Some(claim.digest);
            }
        }
        if support.count_ones() < quorum {
            return Verdict::Open;
        }
        entry.agreed = true;
        if !complete && entry.held != Some(claim.digest) {
            return Verdict::NeedsResult;
        }
        let everyone = entry.supporters | entry.dissenters;
        let (tag, bundle) = (entry.tag, entry.bundle);
        entry.leading = claim;
        entry.supporters = support;
        self.end(index);
        Verdict::Accepted {
            tag,
            bundle,
            slot: claim.slot,
            digest: claim.digest,
            replies: support.count_ones(),
            wrong: (everyone & !support).count_ones(),
        }
    }

    /// Replicas whose newest claim is `claim`.
    fn support(&self, index: usize, claim: &Claim) -> u32 {
        let entry = &self.entries[index];
        if planted("mixreply") {
            return entry.supporters | entry.dissenters;
        }
        let mut support = 0;
        if entry.supporters != 0 && entry.leading == *claim {
            support |= entry.supporters;
        }
        if entry.dissenters != 0 {
            for replica in 0..self.replicas {
                let bit = 1u32 << replica;
                let dissents = entry.dissenters & bit != 0;
                if dissents && self.dissent[index * self.replicas + replica] == *claim {
                    support |= bit;
                }
            }
        }
        support
    }

    /// The bytes of an operation that was just accepted.
    pub(crate) fn result(&self, sequence: u64) -> &[u8] {
        &self.entries[self.index(sequence)].result
    }

    /// Whether the quorum agreed on a digest whose bytes have not come.
    pub(crate) fn lacks_bytes(&self, sequence: u64) -> bool {
        self.is_waiting(sequence) && self.entries[self.index(sequence)].agreed
    }

    /// The part of `first..first + count` that may be in flight or was recently.
    pub(crate) fn clamp(&self, first: u64, count: u64) -> std::ops::Range<u64> {
        let lowest = self.next.saturating_sub(self.entries.len() as u64);
        let from = first.max(lowest);
        from..first.saturating_add(count).min(self.next).max(from)
    }

    /// Gives an operation up without a result; returns its tag and bundle when it was waiting.
    pub(crate) fn give_up(&mut self, sequence: u64) -> Option<(u64, u64)> {
        if !self.is_waiting(sequence) {
            return None;
        }
        let index = self.index(sequence);
        let entry = &mut self.entries[index];
        let ids = (entry.tag, entry.bundle);
        // No answer was accepted, so late replies are neither right nor wrong.
        entry.supporters = 0;
        self.end(index);
        Some(ids)
    }

    fn end(&mut self, index: usize) {
        let entry = &mut self.entries[index];
        entry.state = State::Done;
        self.waiting -= 1;
        if self.entries[index].sequence == self.low + 1 {
            self.low += 1;
            while self.low + 1 < self.next {
                let next = self.low + 1;
                if self.is_waiting(next) {
                    break;
                }
                self.low = next;
            }
        }
        assert!(self.low < self.next);
    }

    /// Frees memory that a large result took; called once the result was handed out.
    pub(crate) fn release_result(&mut self, sequence: u64) {
        let index = self.index(sequence);
        let result = &mut self.entries[index].result;
        if result.capacity() > RESULT_BYTES_KEPT {
            *result = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(slot: u64, byte: u8) -> Claim {
        Claim {
            slot: Slot(slot),
            digest: Digest([byte; 32]),
        }
    }

    fn accepted(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Accepted { .. })
    }

    #[test]
    fn one_replica_never_decides() {
        let mut window = Window::new(8, 4, 2, 1);
        let sequence = window.assign(7, 0);
        for round in 0..5 {
            let verdict = window.claim(sequence, NodeId(2), claim(round, 1), Some(&[0]), false);
            assert_eq!(verdict, Verdict::Open);
            let verdict = window.claim(sequence, NodeId(2), claim(round, 1), Some(&[0]), false);
            assert_eq!(verdict, Verdict::Open);
        }
        assert!(accepted(&window.claim(
            sequence,
            NodeId(0),
            claim(4, 1),
            Some(&[0]),
            false
        )));
    }

    #[test]
    fn a_lie_delays_nothing_and_is_counted() {
        let mut window = Window::new(8, 4, 2, 1);
        let sequence = window.assign(7, 3);
        window.claim(sequence, NodeId(3), claim(5, 9), Some(b"lie"), false);
        window.claim(sequence, NodeId(0), claim(5, 1), Some(b"truth"), false);
        let verdict = window.claim(sequence, NodeId(1), claim(5, 1), None, false);
        assert_eq!(
            verdict,
            Verdict::Accepted {
                tag: 7,
                bundle: 3,
                slot: Slot(5),
                digest: Digest([1; 32]),
                replies: 2,
                wrong: 1,
            }
        );
        assert_eq!(window.result(sequence), b"truth");
        let late = window.claim(sequence, NodeId(2), claim(5, 1), None, false);
        assert_eq!(late, Verdict::Late);
        let late = window.claim(sequence, NodeId(3), claim(5, 8), None, false);
        assert_eq!(late, Verdict::LateWrong);
    }

    #[test]
    fn a_lie_that_replaced_the_bytes_costs_one_more_round() {
        let mut window = Window::new(8, 4, 2, 1);
        let sequence = window.assign(7, 0);
        window.claim(sequence, NodeId(0), claim(5, 1), Some(b"truth"), false);
        window.claim(sequence, NodeId(3), claim(5, 9), Some(b"lie"), false);
        let verdict = window.claim(sequence, NodeId(1), claim(5, 1), None, false);
        assert_eq!(verdict, Verdict::NeedsResult);
        window.claim(sequence, NodeId(3), claim(5, 8), Some(b"lie again"), false);
        let verdict = window.claim(sequence, NodeId(0), claim(5, 1), Some(b"truth"), false);
        assert!(accepted(&verdict));
        assert_eq!(window.result(sequence), b"truth");
    }

    #[test]
    fn slots_count_as_part_of_the_answer() {
        let mut window = Window::new(8, 4, 2, 1);
        let sequence = window.assign(0, 0);
        window.claim(sequence, NodeId(0), claim(5, 1), Some(&[0]), false);
        let verdict = window.claim(sequence, NodeId(1), claim(6, 1), Some(&[0]), false);
        assert_eq!(verdict, Verdict::Open);
        // Replica 0 says later what replica 1 said: the newest claim counts.
        let verdict = window.claim(sequence, NodeId(0), claim(6, 1), Some(&[0]), false);
        assert!(accepted(&verdict));
    }

    #[test]
    fn low_passes_only_what_was_answered() {
        let mut window = Window::new(4, 4, 2, 100);
        let all: Vec<_> = (0..4).map(|tag| window.assign(tag, 0)).collect();
        assert_eq!(all, [100, 101, 102, 103]);
        assert!(!window.has_room());
        assert_eq!(window.give_up(101), Some((1, 0)));
        assert_eq!(window.give_up(101), None);
        assert_eq!(window.low(), 99);
        window.claim(100, NodeId(0), claim(1, 1), Some(&[0]), false);
        window.claim(100, NodeId(1), claim(1, 1), Some(&[0]), false);
        assert_eq!(window.low(), 101);
        assert_eq!(window.waiting(), 2);
        assert!(window.has_room());
        assert_eq!(window.assign(9, 0), 104);
        assert_eq!(
            window.claim(100, NodeId(2), claim(1, 1), None, false),
            Verdict::Unknown
        );
    }
}
