//! §11 for view changes: asking for what a new view needs, answering, and repeating own messages.

use wire::certificates::Place;
use wire::ids::{Digest, Instant, NodeId, Slot};
use wire::seal::Signer;

use crate::change::PAUSE_NS_MAX;
use crate::core::Core;
use crate::input::{Effect, Large, Outbox, Recipient, ViewChangeRef};

impl<S: Signer> Core<S> {
    pub(crate) fn ask_for_base(&mut self, now: Instant, place: Place, out: &mut Outbox) {
        let rto_ns = self.repair.rto_ns();
        let have = self.decided.slot.min(Slot(place.slot.0 - 1));
        let claims = |vc: &ViewChangeRef| vc.digest_at(place.slot) == Some(place.digest);
        let claimants = self.view_changes.iter().filter(|vc| claims(vc));
        let claimants = claimants.map(|vc| vc.message.replica);
        let me = self.config.me;
        let claimants = claimants.filter(|id| *id != me).collect::<Vec<_>>();
        let others = (0..self.config.quorums.n as u16).map(NodeId);
        let others = others.filter(|id| *id != me && !claimants.contains(id));
        let asked = claimants.iter().copied().chain(others).collect::<Vec<_>>();
        let change = self.change_mut();
        if now < change.ask_at {
            return;
        }
        change.ask_at = now.after_ns(rto_ns);
        let to = asked[change.asks % asked.len()];
        change.asks += 1;
        out.push(Effect::FetchBlock { to, place, have });
    }

    pub(crate) fn ask_for_view_change(
        &mut self,
        now: Instant,
        author: NodeId,
        digest: Digest,
        out: &mut Outbox,
    ) {
        let rto_ns = self.repair.rto_ns();
        let me = self.config.me;
        let asked = [self.leader(self.stage), author];
        let change = self.change_mut();
        if now < change.ask_at {
            return;
        }
        change.ask_at = now.after_ns(rto_ns);
        let to = asked[change.asks % asked.len()];
        change.asks += 1;
        if to != me {
            out.push(Effect::FetchViewChange { to, digest });
        }
    }

    pub(crate) fn on_fetch_view_change(
        &mut self,
        now: Instant,
        from: NodeId,
        digest: Digest,
        out: &mut Outbox,
    ) {
        let mut known = self.view_changes.iter();
        let known = known.find(|vc| vc.digest == digest).cloned();
        // R3: not even what it said before.
        let silent = self.is_silent();
        let known = known.filter(|vc| !silent || vc.message.replica != self.config.me);
        if let Some(vc) = known
            && self.may_answer(now, from)
        {
            out.push(Effect::Tell {
                to: Recipient::One(from),
                message: Large::ViewChange(vc),
            });
        }
    }

    /// §11: own messages of the view change, until it is installed or left.
    pub(crate) fn repeat(&mut self, now: Instant, out: &mut Outbox) {
        let Some(change) = &mut self.change else {
            return;
        };
        if now < change.resend_at {
            return;
        }
        change.pause_ns = (2 * change.pause_ns).min(PAUSE_NS_MAX);
        change.resend_at = now.after_ns(change.pause_ns);
        let to = Recipient::All;
        if let Some(own) = change.own.clone() {
            let message = Large::ViewChange(own);
            out.push(Effect::Tell { to, message });
        }
        if let Some(own) = change.new_view.clone() {
            let message = Large::NewView(own);
            out.push(Effect::Tell { to, message });
        }
        if let Some(ack) = &change.ack {
            out.push(Effect::Say { to, signed: **ack });
        }
    }
}
