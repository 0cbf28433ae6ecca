//! The end of an epoch (G1): no block above its last slot is valid, whoever signed it.

use wire::ids::{NodeId, Slot};
use wire::seal::Signer;

use crate::core::Core;

impl<S: Signer> Core<S> {
    /// A RECONFIG was executed: the epoch ends behind this slot (G1). Told before anything of what was
    /// executed with it.
    pub fn set_last_slot(&mut self, slot: Slot) {
        let known = self.epoch_end.map(|(known, _)| known);
        assert!(
            known.is_none_or(|known| known == slot),
            "one pending at a time"
        );
        assert!(slot >= self.decided.slot, "G1: nobody votes beyond A");
        if known.is_none() {
            self.epoch_end = Some((slot, self.now));
        }
    }

    /// A, once it is known.
    pub fn last_slot(&self) -> Option<Slot> {
        self.epoch_end.map(|(slot, _)| slot)
    }

    /// The stable checkpoint of another replica, as it says.
    pub fn checkpoint_of(&self, peer: NodeId) -> Slot {
        let status = self.peers[peer.index()].status;
        status.map_or(Slot(0), |status| status.checkpoint)
    }

    /// Everything of this epoch is decided: what is still missing is a certificate (G1).
    pub(crate) fn is_ending(&self) -> bool {
        self.last_slot()
            .is_some_and(|last| self.decided.slot >= last)
    }

    pub(crate) fn is_beyond_the_epoch(&self, slot: Slot) -> bool {
        self.last_slot().is_some_and(|last| slot > last)
    }
}
