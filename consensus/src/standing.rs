//! K2: what must be said again in the log before its older records are let go.

use std::sync::Arc;

use wire::certificates::{CheckpointCertificate, NewViewCertificate, Place, QuorumCertificate};
use wire::ids::{NodeId, Slot, View};
use wire::seal::{Signed, Signer, Verified};

use crate::change::Change;
use crate::core::Core;
use crate::input::{NewViewRef, ViewChangeRef};
use crate::speak::Spoken;
use crate::tree::RecordAs;

/// Own durable words about a view that is being entered.
#[derive(Clone, Debug, Default)]
pub struct OwnWords {
    pub view_change: Option<ViewChangeRef>,
    pub new_view: Option<NewViewRef>,
    pub ack: Option<Verified<Signed>>,
}

/// Everything that the log says of this replica beside blocks. See [`Core::standing`].
#[derive(Clone, Debug)]
pub struct Standing {
    pub stage: View,
    pub installed: View,
    /// End of the chain of own block records in the installed view.
    pub tip: Place,
    pub voting_stopped: bool,
    /// The own state differs from a certified one (K3).
    pub diverged: bool,
    pub decided: Place,
    pub certificate: Option<Arc<NewViewCertificate>>,
    /// Own durable words about the stage, while it is not installed.
    pub change: OwnWords,
    pub quorum: Option<Arc<QuorumCertificate>>,
    pub checkpoint: Option<Arc<CheckpointCertificate>>,
    /// Highest lease, and up to where votes of earlier processes may be forgotten (R3).
    pub lease: Slot,
    pub forgotten: Slot,
}

impl<S: Signer> Core<S> {
    /// Whether blocks alone cannot help some replica any more: it lies below what is retained here,
    /// or was not heard yet.
    pub fn someone_is_cut_off(&self) -> bool {
        let retained = self.retained_from.0;
        let me = self.config.me.index();
        let others = self.peers.iter().enumerate().filter(|(id, _)| *id != me);
        let committed = others.map(|(_, peer)| peer.status.map_or(0, |s| s.committed.0));
        retained > 1 && { committed }.any(|committed| committed.saturating_add(1) < retained)
    }

    /// Whether the blocks that this replica has said it needs are not retained here any more.
    pub fn is_cut_off(&self, peer: NodeId) -> bool {
        let status = self.peers[peer.index()].status;
        status.is_some_and(|s| s.committed.0.saturating_add(1) < self.retained_from.0)
    }

    /// Whether some replica is so many slots behind, or was not heard yet.
    pub fn someone_lags(&self, slots: u64) -> bool {
        let me = self.config.me.index();
        let others = self.peers.iter().enumerate().filter(|(id, _)| *id != me);
        let mut committed = others.map(|(_, peer)| peer.status.map_or(0, |s| s.committed.0));
        committed.any(|committed| committed.saturating_add(slots) < self.executed.0)
    }

    /// Own words about the view being entered are on their way to the disk: what they say is in
    /// [`Core::standing`] only when they are durable, so the log must not be restated now.
    pub fn is_about_to_speak(&self) -> bool {
        let waiting = self.awaiting.iter().map(|(_, spoken)| spoken);
        self.unplaced.iter().chain(waiting).any(|spoken| {
            matches!(
                spoken,
                Spoken::ViewChange(_) | Spoken::NewView(_) | Spoken::Ack(_)
            )
        })
    }

    /// The end of the own chain as far as it is in the log: blocks that wait for room come behind
    /// what is written now, and extend it there. What is stable stands without records.
    fn written_tip(&self) -> Place {
        let mut tip = self.recorded;
        while tip.slot > self.low
            && let Some(entry) = self.tree.get(tip)
            && entry.record == Some(RecordAs::Vote)
            && entry.end.is_none()
        {
            tip = entry.parent();
        }
        tip
    }

    /// What the log must say again before older records of it are let go.
    pub fn standing(&self) -> Standing {
        let change = self.change.as_ref();
        Standing {
            stage: self.stage,
            installed: self.installed,
            tip: self.written_tip(),
            voting_stopped: self.voting_stopped,
            diverged: self.diverged,
            decided: self.decided,
            certificate: self.certificate.clone(),
            change: change.map(Change::own_words).unwrap_or_default(),
            quorum: self.quorum.clone(),
            checkpoint: self.checkpoint.clone(),
            lease: self.lease.asked,
            forgotten: self.lease.forgotten,
        }
    }
}
