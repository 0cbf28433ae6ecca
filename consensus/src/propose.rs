//! N1: when, and on what, the leader may propose.

use wire::block::BlockHeader;
use wire::canary::planted;
use wire::certificates::Place;
use wire::ids::{Digest, Instant, Signature, Slot};
use wire::limits::IN_FLIGHT;
use wire::seal::Signer;

use crate::core::Core;
use crate::input::{Effect, Outbox};
use crate::tree::{Entry, RecordAs, Validity};

impl<S: Signer> Core<S> {
    /// R4: a replica never proposes in (epoch, view) <= the pair in which it restarted.
    pub(crate) fn may_lead_in(&self, view: wire::ids::View) -> bool {
        self.leader(view) == self.config.me
            && !self.is_silent()
            && self
                .restarted_in
                .is_none_or(|then| (self.config.epoch, view) > then || planted("repropose"))
    }

    /// Whether this replica leads the installed view and may propose in it.
    pub(crate) fn may_lead(&self) -> bool {
        self.is_active() && self.may_lead_in(self.installed)
    }

    /// Place of the parent of the next own proposal, when one may be sent now. It extends the last
    /// own proposal, or the base of the view.
    pub fn proposal_parent(&self) -> Option<Place> {
        let top = self.branch.top();
        let next = top.slot.next();
        let room = next <= self.proposal_limit() && self.undecided() < IN_FLIGHT;
        let in_place = self.recorded == top && self.base_is_linked() && self.ground_is_durable();
        (room && in_place && self.may_lead() && !self.log_full && !self.voting_stopped)
            .then_some(top)
    }

    fn proposal_limit(&self) -> Slot {
        // Memory keeps a reserve for what others propose; the window needs none (N1): K slots of it
        // lie above the next checkpoint, and with them a small interval would leave no slot at all.
        let held = self.executed.0 + self.config.blocks_held_max - 2 * IN_FLIGHT;
        Slot(held).min(self.claim_limit())
    }

    /// Blocks of the branch that are not decided.
    pub fn undecided(&self) -> u64 {
        self.branch.top().slot.0 - self.decided.slot.0
    }

    pub(crate) fn on_own(
        &mut self,
        now: Instant,
        header: BlockHeader,
        signature: Signature,
        digest: Digest,
        out: &mut Outbox,
    ) {
        let parent = self
            .proposal_parent()
            .expect("I9: proposes only when it may");
        let place = Place {
            slot: header.slot(),
            digest,
        };
        assert_eq!(place.slot, parent.slot.next(), "I9: one chain");
        assert_eq!(header.parent, parent.digest, "I9: one chain");
        assert_eq!(
            (header.view(), header.epoch()),
            (self.installed, self.config.epoch)
        );
        let entry = Entry {
            header,
            signature,
            signature_good: true,
            digest,
            validity: Validity::Valid,
            record: Some(RecordAs::Vote),
            end: None,
            linked_at: now,
        };
        self.insert(entry, out)
            .expect("I9: nothing else is needed at a slot of the own view");
        self.branch.push(place);
        self.recorded = place;
        out.push(Effect::Append {
            place,
            kind: RecordAs::Vote,
            verify: false,
        });
    }
}
