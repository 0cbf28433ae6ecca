//! R6: whether others hold a statement of this replica that its own log does not know.
//!
//! Such a statement means that the disk was put back to an earlier time, or lost what it had said to
//! be durable: this key must not vote again (R5). Safety does not rest on it, for a statement that
//! nobody holds any more is not found; but backups and disks that lie are.
//!
//! Each STATUS to a peer names the highest statement that was heard of it. After a stop that was not
//! clean a replica says nothing that counts before everyone has answered it, or for a second.

use wire::canary::{planted, reach};
use wire::ids::{Instant, NodeId, Slot, View};
use wire::messages::Held;
use wire::seal::{Signer, Statement};

use crate::core::Core;
use crate::image::image;

/// How long others have to answer.
const WAIT_NS: u64 = 1_000_000_000;

/// Whether this process asks, and how far it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Recall {
    enabled: bool,
    waits: bool,
    until: Option<Instant>,
}

image!(Recall {
    enabled,
    waits,
    until
});

/// The order of a replica's statements: those of one view follow each other so. None is of a kind
/// that says nothing of the disk.
fn height(statement: &Statement) -> Option<(View, u8, Slot, u8)> {
    Some(match *statement {
        Statement::ViewChange { view, .. } => (view, 1, Slot(0), 0),
        Statement::NewViewAck {
            view, base_slot, ..
        } => (view, 2, base_slot, 0),
        Statement::Vote { view, slot, .. } => (view, 3, slot, 0),
        Statement::Commit { view, slot, .. } => (view, 3, slot, 1),
        _ => return None,
    })
}

impl<S: Signer> Core<S> {
    /// The log is that of an earlier process, which stopped cleanly or not. Others are listened to
    /// from now on, and waited for if it did not.
    pub fn recall(&mut self, clean: bool) {
        self.recall = Recall {
            enabled: true,
            waits: !clean,
            until: None,
        };
    }

    /// R6: the others are asked what this replica has said; nothing that counts may be said yet.
    pub fn is_recalling(&self) -> bool {
        self.recall.waits
    }

    pub(crate) fn recall_wake_at(&self) -> Instant {
        let until = self.recall.until.filter(|_| self.recall.waits);
        until.unwrap_or(Instant(u64::MAX))
    }

    /// Ends the wait once everyone was heard, or time is up.
    pub(crate) fn recall_if_due(&mut self, now: Instant) {
        if !self.recall.waits || !self.started {
            return;
        }
        // Questions leave from now on.
        let until = *self.recall.until.get_or_insert(now.after_ns(WAIT_NS));
        let me = self.config.me.index();
        let mut others = self.peers.iter().enumerate().filter(|(id, _)| *id != me);
        let heard = others.all(|(_, peer)| peer.status.is_some());
        if heard || now >= until {
            reach("recalled");
            self.recall.waits = false;
        }
    }

    /// A replica was heard to say this.
    pub(crate) fn hold(&mut self, by: NodeId, held: Held) {
        let known = &mut self.peers[by.index()].held;
        let known_height = known.and_then(|known| height(&known.statement));
        if height(&held.statement) > known_height {
            *known = Some(held);
        }
    }

    /// A statement of this replica, if its signature holds, that its log should know and does not.
    pub fn is_beyond_log(&self, statement: &Statement) -> bool {
        if !self.recall.enabled || planted("rollbackok") {
            return false;
        }
        // What was said within a lease may be forgotten, and that is what silence is for (R3).
        let leased = |slot: Slot| slot <= self.lease.forgotten;
        let words = self.change.as_ref().map(|change| change.own_words());
        let entering = |view| view == self.stage && words.is_some();
        match *statement {
            Statement::Vote { view, slot, .. } => {
                let recorded = self.tip.slot.max(self.recorded.slot);
                let last = recorded.max(self.voted.unwrap_or(Slot(0)));
                (view, slot) > (self.installed, last) && !leased(slot)
            }
            Statement::Commit { view, slot, .. } => {
                let last = self.quorum.as_ref().map_or(Slot(0), |qc| qc.block.slot);
                (view, slot) > (self.installed, last) && !leased(slot)
            }
            Statement::NewViewAck { view, .. } => {
                let unknown = words.as_ref().is_some_and(|own| own.ack.is_none());
                view > self.stage || entering(view) && unknown
            }
            Statement::ViewChange { view, .. } => {
                let unknown = words.as_ref().is_some_and(|own| own.view_change.is_none());
                view > self.stage || entering(view) && unknown
            }
            _ => false,
        }
    }
}
