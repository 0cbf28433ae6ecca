//! Opening a session (protocol §9.3): a signed OPEN, answered by b+1 replicas with the same id.

use wire::ids::{Instant, NodeId, SessionId, Slot};

/// Where the client stands with its session.
#[derive(Debug)]
pub(crate) enum Session {
    /// Fewer than b+1 replicas have welcomed us: no reference slot yet.
    Linking,
    Opening(Opening),
    Open(SessionId),
}

impl Session {
    pub(crate) fn id(&self) -> Option<SessionId> {
        match self {
            Session::Open(id) => Some(*id),
            _ => None,
        }
    }
}

/// An OPEN on its way.
#[derive(Debug)]
pub(crate) struct Opening {
    /// The signed frame.
    pub frame: Vec<u8>,
    pub attempts: u32,
    pub next_retry: Instant,
    /// The newest answer of each replica.
    answers: Vec<Option<SessionId>>,
    quorum: usize,
}

impl Opening {
    pub(crate) fn new(
        frame: Vec<u8>,
        replicas: usize,
        quorum: usize,
        next_retry: Instant,
    ) -> Opening {
        Opening {
            frame,
            attempts: 1,
            next_retry,
            answers: vec![None; replicas],
            quorum,
        }
    }

    /// Notes that `replica` says the session is `id`; true once b+1 say so. One OPEN may be
    /// ordered twice, so the slot plays no part: the session's id is what counts.
    pub(crate) fn answered(&mut self, replica: NodeId, id: SessionId) -> bool {
        let Some(answer) = self.answers.get_mut(replica.index()) else {
            return false;
        };
        *answer = Some(id);
        self.answers
            .iter()
            .filter(|answer| **answer == Some(id))
            .count()
            >= self.quorum
    }
}

/// Hints that replicas give in passing, newest per replica; any one may be a lie.
#[derive(Debug)]
pub(crate) struct Hints {
    values: Vec<Option<u64>>,
    quorum: usize,
}

impl Hints {
    pub(crate) fn new(replicas: usize, quorum: usize) -> Hints {
        Hints {
            values: vec![None; replicas],
            quorum,
        }
    }

    /// Notes a hint; older ones of the same replica only grow.
    pub(crate) fn note(&mut self, replica: NodeId, value: u64) {
        if let Some(held) = self.values.get_mut(replica.index()) {
            *held = Some(held.map_or(value, |old| old.max(value)));
        }
    }

    /// The (b+1)-th highest hint: no higher than what some correct replica said. None while
    /// fewer than b+1 replicas gave one.
    pub(crate) fn trusted(&self) -> Option<u64> {
        // The committee is small: find the largest value that b+1 hints reach.
        let reached = |value: u64| {
            self.values
                .iter()
                .filter(|held| held.is_some_and(|held| held >= value))
                .count()
                >= self.quorum
        };
        self.values
            .iter()
            .flatten()
            .copied()
            .filter(|&value| reached(value))
            .max()
    }

    pub(crate) fn trusted_slot(&self) -> Option<Slot> {
        self.trusted().map(Slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_liar_cannot_move_the_trusted_hint() {
        let mut hints = Hints::new(4, 2);
        hints.note(NodeId(3), u64::MAX);
        assert_eq!(hints.trusted(), None);
        hints.note(NodeId(0), 10);
        assert_eq!(hints.trusted(), Some(10));
        hints.note(NodeId(1), 12);
        assert_eq!(hints.trusted(), Some(12));
        hints.note(NodeId(1), 5);
        assert_eq!(hints.trusted(), Some(12));
        hints.note(NodeId(9), 1);
    }

    #[test]
    fn a_session_needs_b_plus_one_equal_ids() {
        let mut opening = Opening::new(Vec::new(), 4, 2, Instant(0));
        assert!(!opening.answered(NodeId(0), SessionId(7)));
        assert!(!opening.answered(NodeId(0), SessionId(7)));
        assert!(!opening.answered(NodeId(1), SessionId(8)));
        assert!(!opening.answered(NodeId(9), SessionId(8)));
        assert!(opening.answered(NodeId(1), SessionId(7)));
    }
}
