//! The end of an epoch (protocol §10): from the RECONFIG that was executed to the word that this replica's
//! process may go over to the next one.
//!
//! The epoch is over here when the checkpoint at its last slot is certified and the state there is durable.
//! This replica then stays a little longer for those that are not as far: they are told what decides the
//! last blocks, and certifies the last state, by members of this epoch alone.

use wire::bytes::Buffers;
use wire::canary::reach;
use wire::ids::{Instant, NodeId, Slot};
use wire::seal::{Signer, Verifier};

use super::{Ordering, Output};

/// How long replicas that are behind are waited for.
const LINGER_NS: u64 = 1_000_000_000;

/// How far the end of the epoch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum EpochEnd {
    #[default]
    Far,
    /// Everything is durable since then.
    Over(Instant),
    Told,
}

impl<Bu: Buffers, S: Signer, V: Verifier> Ordering<Bu, S, V> {
    /// The epoch ends behind this slot, once it is known: a leader fills up to there (G1).
    pub fn note_last(&mut self, last: Option<Slot>) {
        let Some(last) = last.filter(|last| self.core.last_slot() != Some(*last)) else {
            return;
        };
        self.core.set_last_slot(last);
        self.padding.fill_up_to(last);
    }

    /// Has the last state saved, and says when that is done.
    pub(super) fn tend_epoch(&mut self, now: Instant) {
        let Some(last) = self.core.last_slot() else {
            return;
        };
        if self.core.summary().low < last {
            return;
        }
        match self.epoch_end {
            EpochEnd::Far if self.saved >= last => self.epoch_end = EpochEnd::Over(now),
            EpochEnd::Far => {
                self.save_early = true;
                self.save_after = self.save_after.min(last);
            }
            EpochEnd::Over(since) => {
                let everyone = (0..self.core.replicas() as u16).map(NodeId);
                let mut others = everyone.filter(|id| *id != self.config.me);
                let all_there = others.all(|id| self.core.checkpoint_of(id) >= last);
                if all_there || now.since_ns(since) >= LINGER_NS {
                    let certificate = self.core.checkpoint().cloned();
                    let certificate = certificate.expect("the last state is certified");
                    reach("epoch-over");
                    self.epoch_end = EpochEnd::Told;
                    self.outputs.push_back(Output::EpochOver(certificate));
                }
            }
            EpochEnd::Told => {}
        }
    }
}
