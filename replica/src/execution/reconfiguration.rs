//! RECONFIG: executed like any operation, and seen by no state machine (protocol §10).
//!
//! The first one that makes a committee ends the epoch at A = round_up_K(s + W): a vote beyond A needs a
//! checkpoint above s, so nobody votes there without having executed it (G1).

use std::sync::Arc;

use wire::canary::reach;
use wire::change::{Change, ChangeAnswer, Pending};
use wire::committee::{Committee, Origin};
use wire::ids::{Digest, PublicKey, Slot};
use wire::state::StateHead;

/// What is known of the end of this epoch.
#[derive(Debug, Default)]
pub(super) struct Reconfiguration {
    /// None: nobody may change anything.
    committee: Option<Arc<Committee>>,
    pending: Option<Pending>,
}

impl Reconfiguration {
    pub(super) fn of(committee: Arc<Committee>) -> Reconfiguration {
        Reconfiguration {
            committee: Some(committee),
            pending: None,
        }
    }

    pub(super) fn pending(&self) -> Option<&Pending> {
        self.pending.as_ref()
    }

    /// The state is another one now. What was pending in the one that this epoch begins with has become
    /// this epoch, or was left behind with the cluster that it came from.
    pub(super) fn install(&mut self, head: &StateHead) {
        let origin = self.committee.as_ref().map(|known| known.genesis().slot);
        self.pending = head.pending().filter(|_| origin != Some(head.slot()));
    }

    /// The change was ordered at `slot`, with a checkpoint every `interval` slots.
    pub(super) fn execute(
        &mut self,
        client: &PublicKey,
        slot: Slot,
        interval: u64,
        change: &Change,
    ) -> ChangeAnswer {
        let Some(committee) = &self.committee else {
            return ChangeAnswer::NotTheOperator;
        };
        if committee.operator() != Some(client) {
            return ChangeAnswer::NotTheOperator;
        }
        if let Some(Pending { activation, .. }) = self.pending {
            return ChangeAnswer::Pending { activation };
        }
        let window = 2 * interval;
        let activation = Slot((slot.0 + window).div_ceil(interval) * interval);
        // Which block and which state it will be does not decide whether it is a committee.
        let origin = Origin {
            slot: activation,
            block: Digest::ZERO,
            state_root: Digest::ZERO,
        };
        if change.apply(committee, origin).is_err() {
            return ChangeAnswer::Refused;
        }
        reach("reconfigured");
        self.pending = Some(Pending {
            activation,
            change: *change,
        });
        ChangeAnswer::Accepted { activation }
    }
}

#[cfg(test)]
mod tests {
    use wire::change::MemberChange;
    use wire::committee::{CommitteeParts, Member, Preset};
    use wire::ids::{ClusterId, Epoch, NodeId};
    use wire::keys::NodeSecret;

    use super::*;

    const OPERATOR: [u8; 32] = [99; 32];

    fn key(seed: u8) -> PublicKey {
        let secret = NodeSecret::generate(&[seed; 32]);
        secret.expect("a seed of 32 bytes").public_key()
    }

    fn committee(origin: Option<Origin>) -> Arc<Committee> {
        let members = (0..4).map(|id| Member {
            id: NodeId(id),
            public_key: key(id as u8 + 1),
            address: ([127, 0, 0, 1], 7100 + id).into(),
        });
        let parts =
            CommitteeParts::with_preset(ClusterId([3; 16]), members.collect(), Preset::Balanced);
        let parts = CommitteeParts {
            operator: Some(key(OPERATOR[0])),
            origin,
            ..parts.expect("four members")
        };
        Arc::new(Committee::new(parts).expect("a sound committee"))
    }

    fn replacing(epoch: u64, with: u8) -> Change {
        Change {
            epoch: Epoch(epoch),
            members: MemberChange::Replace {
                id: NodeId(3),
                public_key: key(with),
                address: ([127, 0, 0, 1], 7300).into(),
            },
            faults: None,
        }
    }

    #[test]
    fn the_first_sound_change_of_the_operator_counts() {
        let mut known = Reconfiguration::of(committee(None));
        let operator = key(OPERATOR[0]);
        let mut ask = |client: &PublicKey, slot: u64, change: &Change| {
            known.execute(client, Slot(slot), 8, change)
        };
        let stranger = ask(&key(5), 9, &replacing(0, 50));
        assert_eq!(stranger, ChangeAnswer::NotTheOperator);
        for unsound in [replacing(1, 50), replacing(0, 2)] {
            assert_eq!(ask(&operator, 9, &unsound), ChangeAnswer::Refused);
        }
        let activation = Slot(32);
        let first = ask(&operator, 9, &replacing(0, 50));
        assert_eq!(first, ChangeAnswer::Accepted { activation });
        let second = ask(&operator, 12, &replacing(0, 51));
        assert_eq!(second, ChangeAnswer::Pending { activation });
    }

    #[test]
    fn what_is_pending_is_in_the_state_and_ends_with_the_epoch() {
        let mut known = Reconfiguration::of(committee(None));
        let change = replacing(0, 50);
        let accepted = known.execute(&key(OPERATOR[0]), Slot(16), 8, &change);
        let activation = Slot(32);
        assert_eq!(accepted, ChangeAnswer::Accepted { activation });
        let head = |slot: u64| StateHead::new(Slot(slot), 1, 2).with_pending(known.pending());
        let (before, last) = (head(24), head(32));
        let expected = Some(Pending { activation, change });
        assert_eq!(before.pending(), expected);
        let mut other = Reconfiguration::of(committee(None));
        other.install(&before);
        assert_eq!(other.pending().copied(), expected);
        let origin = Origin {
            slot: activation,
            block: Digest([1; 32]),
            state_root: Digest([2; 32]),
        };
        let mut next = Reconfiguration::of(committee(Some(origin)));
        next.install(&last);
        assert_eq!(next.pending(), None);
    }
}
