//! V1-V6: leaving a view and installing the next one.

use std::sync::Arc;

use wire::canary::{planted, reach};
use wire::certificates::Place;
use wire::ids::{Instant, View};
use wire::seal::{Signed, Signer, Statement, Verified, sign, sign_new_view};
use wire::view_change::NewView;

use crate::chase::Chain;
use crate::core::Core;
use crate::image::image;
use crate::input::{Effect, Large, NewViewRef, Outbox, Recipient, Record, ViewChangeRef};
use crate::select::select;
use crate::speak::Spoken;
use crate::standing::OwnWords;
use crate::tree::Validity;

/// Own messages of a view change are repeated after this pause, which doubles up to the longest.
const PAUSE_NS_MIN: u64 = 1_000_000;
pub(crate) const PAUSE_NS_MAX: u64 = 64_000_000;
/// Views above the stage whose messages are kept.
const VIEWS_AHEAD: u64 = 2;
/// Claimed blocks that a new leader gave up to find.
const UNAVAILABLE_MAX: usize = 16;

/// The view being entered.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub view: View,
    /// The own view change is still to be written.
    pub(crate) owes_own: bool,
    /// Own view change, once it is durable.
    pub(crate) own: Option<ViewChangeRef>,
    /// Own NEW-VIEW, and whether it was written.
    pub(crate) new_view: Option<NewViewRef>,
    new_view_written: bool,
    /// Own acknowledgement, and whether it was written.
    pub(crate) ack: Option<Verified<Signed>>,
    ack_written: bool,
    /// The base that this replica is about to propose or acknowledge.
    pub candidate: Option<Place>,
    /// What the candidate lacks, and since when.
    lacking: Option<(Place, Instant)>,
    unavailable: Vec<Place>,
    /// The leader's choice does not lead to the base that it names.
    refused: bool,
    pub(crate) resend_at: Instant,
    pub(crate) pause_ns: u64,
    pub(crate) ask_at: Instant,
    pub(crate) asks: usize,
}
image!(Change {
    view,
    owes_own,
    own,
    new_view,
    new_view_written,
    ack,
    ack_written,
    candidate,
    lacking,
    unavailable,
    refused,
    resend_at,
    pause_ns,
    ask_at,
    asks
});

impl Change {
    pub fn new(view: View, now: Instant) -> Change {
        Change {
            view,
            owes_own: false,
            own: None,
            new_view: None,
            new_view_written: false,
            ack: None,
            ack_written: false,
            candidate: None,
            lacking: None,
            unavailable: Vec::new(),
            refused: false,
            resend_at: now.after_ns(PAUSE_NS_MIN),
            pause_ns: PAUSE_NS_MIN,
            ask_at: now,
            asks: 0,
        }
    }

    /// The base that was acknowledged, or is about to be.
    pub fn acked(&self) -> Option<Place> {
        let acked = self.ack.as_ref().and_then(|ack| ack.acked_base());
        acked.or(self.candidate)
    }

    /// What the future of the change depends on beside its candidate, while time stands still.
    pub(crate) fn progress(&self) -> (View, [bool; 5], &[Place]) {
        let own = self.own.is_some();
        let written = [
            self.owes_own,
            own,
            self.new_view_written,
            self.ack_written,
            self.refused,
        ];
        (self.view, written, &self.unavailable)
    }

    /// Nothing that comes can change what this replica says of the view.
    pub(crate) fn is_settled(&self) -> bool {
        self.ack_written || self.refused
    }

    pub fn own_words(&self) -> OwnWords {
        OwnWords {
            view_change: self.own.clone(),
            new_view: self.new_view.clone(),
            ack: self.ack,
        }
    }

    /// What an earlier boot had written of this view.
    pub fn resume(
        &mut self,
        own: Option<ViewChangeRef>,
        new_view: Option<NewViewRef>,
        ack: Option<Verified<Signed>>,
    ) {
        self.new_view_written = new_view.is_some();
        self.ack_written = ack.is_some();
        (self.own, self.new_view, self.ack) = (own, new_view, ack);
    }
}

/// Whether a replica may acknowledge a base now.
enum Readiness {
    Ready,
    /// This block of its chain is not here.
    Lacks(Place),
    /// This block of its chain has an invalid payload.
    Invalid(Place),
    /// Not yet written, verified or within the window.
    Waits,
    /// It contradicts what is decided here (V6).
    Refused,
}

impl<S: Signer> Core<S> {
    /// V1: from now on no vote in a lower view.
    pub(crate) fn enter(&mut self, now: Instant, view: View, out: &mut Outbox) {
        assert!(view > self.stage, "I6: views are entered upwards");
        // k counts views left by T1 or T5 alone: patience does not grow by what others saw, nor by a
        // proof or a hand-over, or a few of these would make a dead leader's view last minutes.
        let deadline = if self.stage > self.installed {
            self.timers.change_deadline
        } else {
            self.progress_deadline()
        };
        let in_vain = deadline.is_some_and(|deadline| now >= deadline);
        if self.stage > self.installed {
            self.pace.change_failed(self.stage);
        }
        self.stage = view;
        self.timers.entered(now, in_vain);
        self.open_book(view);
        self.forget_wish(view);
        self.view_changes.retain(|vc| vc.message.view >= view);
        self.new_views.retain(|known| known.message.view >= view);
        self.acks.retain(|ack| view_of_ack(ack) >= view);
        self.change = Some(Change::new(view, now));
        self.change_mut().owes_own = true;
        self.write_view_change_if_due(out);
    }

    pub(crate) fn on_view_change(&mut self, message: ViewChangeRef) {
        let (view, author) = (message.message.view, message.message.replica);
        self.hold(author, message.held());
        let far = view.0 > self.stage.0 + VIEWS_AHEAD && !planted("future");
        if view < self.stage || view <= self.installed || far {
            return;
        }
        // One of each replica and view: of two different ones a liar's first. The leader may have
        // heard another one first, and whoever checks its choice needs just that.
        let same =
            |held: &&ViewChangeRef| (held.message.view, held.message.replica) == (view, author);
        let named = || {
            let chosen = self.new_views.iter().filter(|nv| nv.message.view == view);
            let mut chosen = chosen.flat_map(|nv| &nv.message.chosen);
            chosen.any(|found| *found == (author, message.digest))
        };
        let mut held = self.view_changes.iter().filter(same);
        if held.clone().next().is_none()
            || held.all(|held| held.digest != message.digest) && named()
        {
            self.view_changes.push(message);
        }
    }

    pub(crate) fn on_new_view(&mut self, message: NewViewRef) {
        let view = message.message.view;
        let near = self.stage.0 + VIEWS_AHEAD;
        if view < self.stage || view <= self.installed || view.0 > near {
            return;
        }
        if !self.new_views.iter().any(|held| held.message.view == view) {
            self.new_views.push(message);
        }
    }

    pub(crate) fn on_ack(&mut self, ack: Verified<Signed>) {
        let view = view_of_ack(&ack);
        let near = self.stage.0 + VIEWS_AHEAD;
        if view < self.stage || view <= self.installed || view.0 > near {
            return;
        }
        if planted("ackcommit")
            && let Statement::NewViewAck {
                view,
                base_slot: slot,
                base: digest,
            } = ack.statement
        {
            let block = wire::block::BlockRef { view, slot, digest };
            self.hear(ack.by, block, ack.signature, true);
        }
        let same = |held: &Verified<Signed>| held.by == ack.by && view_of_ack(held) == view;
        if !self.acks.iter().any(same) {
            self.acks.push(ack);
        }
    }

    /// Goes on with the view that is being entered.
    pub(crate) fn pursue_view(&mut self, now: Instant, out: &mut Outbox) {
        if let Some(certificate) = self.certificate_of_acks()
            && self.install(now, certificate, out)
        {
            return;
        }
        let Some(view) = self.change.as_ref().map(|change| change.view) else {
            return;
        };
        self.write_view_change_if_due(out);
        let owes = self.change.as_ref().is_some_and(|change| change.owes_own);
        if owes || self.is_silent() || self.is_recalling() {
            return;
        }
        let written = self.change.as_ref().is_some_and(|c| c.new_view_written);
        if self.may_lead_in(view) && !written {
            self.lead(now, view, out);
        }
        self.follow(now, view, out);
        self.repeat(now, out);
    }

    pub(crate) fn change_mut(&mut self) -> &mut Change {
        self.change.as_mut().expect("a view is being entered")
    }

    /// V2: chooses view changes and proposes the base that they lead to.
    fn lead(&mut self, now: Instant, view: View, out: &mut Outbox) {
        let Some(change) = &self.change else { return };
        if change.own.is_none() {
            return;
        }
        let unavailable = |place: &Place, vc: &ViewChangeRef| {
            place.slot > vc.anchor.slot && vc.digest_at(place.slot) == Some(place.digest)
        };
        let mut chosen = self
            .view_changes
            .iter()
            .filter(|vc| vc.message.view == view)
            .filter(|vc| {
                !change
                    .unavailable
                    .iter()
                    .any(|place| unavailable(place, vc))
            })
            .cloned()
            .collect::<Vec<_>>();
        chosen.sort_by_key(|vc| vc.message.replica);
        chosen.dedup_by_key(|vc| vc.message.replica);
        let genesis = self.config.genesis;
        let parts = chosen.iter().map(|vc| &***vc).collect::<Vec<_>>();
        let selected = select(&self.config.quorums, genesis, |v| self.leader(v), &parts);
        let Some(selected) = selected else { return };
        let base = selected.base;
        self.adopt_checkpoints(&chosen, out);
        self.change_mut().candidate = Some(base);
        self.pursue_goal(out);
        match self.readiness(view, base) {
            Readiness::Ready => {
                let chosen = chosen.iter().map(|vc| (vc.message.replica, vc.digest));
                let message = NewView {
                    view,
                    base,
                    chosen: chosen.collect(),
                };
                let message = Arc::new(sign_new_view(&self.signer, message));
                self.change_mut().new_view_written = true;
                let spoken = Spoken::NewView(Arc::clone(&message));
                self.record(Record::NewView(message), spoken, out);
            }
            Readiness::Lacks(place) => {
                let patience_ns = self.timers.change_ns() / 4;
                let change = self.change_mut();
                match change.lacking {
                    Some((lacking, since)) if lacking == place => {
                        // Claimed by a liar, perhaps: the others decide without him.
                        if now.since_ns(since) > patience_ns
                            && change.unavailable.len() < UNAVAILABLE_MAX
                        {
                            reach("tip-dropped");
                            change.unavailable.push(place);
                            change.lacking = None;
                        }
                    }
                    _ => change.lacking = Some((place, now)),
                }
                self.ask_for_base(now, place, out);
            }
            Readiness::Invalid(place) => {
                // Only a liar claims it (V3): the others decide without him.
                let change = self.change_mut();
                if change.unavailable.len() < UNAVAILABLE_MAX {
                    reach("tip-invalid");
                    change.unavailable.push(place);
                }
            }
            Readiness::Waits | Readiness::Refused => {}
        }
    }

    /// V3: checks the leader's choice, gets every payload up to the base, and acknowledges it.
    fn follow(&mut self, now: Instant, view: View, out: &mut Outbox) {
        let Some(change) = &self.change else { return };
        if change.ack_written || change.refused {
            return;
        }
        let known = self.new_views.iter().find(|nv| nv.message.view == view);
        let Some(new_view) = known.cloned() else {
            return;
        };
        let mut chosen = Vec::with_capacity(new_view.message.chosen.len());
        for (author, digest) in &new_view.message.chosen {
            let same = |vc: &&ViewChangeRef| {
                vc.message.view == view && vc.message.replica == *author && vc.digest == *digest
            };
            match self.view_changes.iter().find(same) {
                Some(vc) => chosen.push(Arc::clone(vc)),
                None => return self.ask_for_view_change(now, *author, *digest, out),
            }
        }
        let parts = chosen.iter().map(|vc| &***vc).collect::<Vec<_>>();
        let genesis = self.config.genesis;
        let selected = select(&self.config.quorums, genesis, |v| self.leader(v), &parts);
        let base = new_view.message.base;
        if selected.is_none_or(|selected| selected.base != base) {
            self.change_mut().refused = true;
            return;
        }
        self.adopt_checkpoints(&chosen, out);
        self.change_mut().candidate = Some(base);
        self.pursue_goal(out);
        let readiness = match self.readiness(view, base) {
            Readiness::Lacks(_) | Readiness::Waits if planted("ackblind") => Readiness::Ready,
            readiness => readiness,
        };
        match readiness {
            Readiness::Ready => {
                let statement = Statement::NewViewAck {
                    view,
                    base_slot: base.slot,
                    base: base.digest,
                };
                let ack = sign(&self.signer, statement);
                self.change_mut().ack_written = true;
                self.record(Record::Ack(ack), Spoken::Ack(ack), out);
            }
            Readiness::Lacks(place) => {
                reach("base-without-payload");
                self.ask_for_base(now, place, out);
            }
            Readiness::Waits => {}
            Readiness::Refused | Readiness::Invalid(_) => self.change_mut().refused = true,
        }
    }

    /// A replica that is behind takes over the deepest checkpoint of a choice (V3).
    fn adopt_checkpoints(&mut self, chosen: &[ViewChangeRef], out: &mut Outbox) {
        let checkpoints = chosen.iter().filter_map(|vc| vc.message.checkpoint);
        if let Some(deepest) = checkpoints.max_by_key(|found| found.header.slot()) {
            self.adopt_checkpoint(deepest, out);
        }
    }

    /// Whether every payload up to `base` is held, valid and durable here, and nothing decided
    /// contradicts it. Possession before the acknowledgement is what keeps a base retrievable.
    fn readiness(&self, view: View, base: Place) -> Readiness {
        let floor = self.decided_below(view);
        if base.slot < floor.slot || base.slot == floor.slot && base != floor {
            return Readiness::Refused;
        }
        if base.slot <= self.decided.slot {
            // Whatever is decided here above the base belongs to `view` itself.
            return match self.branch.digest_at(base.slot) {
                // Written, and before the acknowledgement: a restart finds it.
                Some(digest) if digest == base.digest && base.slot > self.durable => {
                    Readiness::Waits
                }
                Some(digest) if digest == base.digest => Readiness::Ready,
                Some(_) => Readiness::Refused,
                None => Readiness::Ready,
            };
        }
        if self.is_beyond_the_epoch(base.slot) {
            // G1: nothing above A is valid, whoever signed it.
            return Readiness::Invalid(base);
        }
        if base.slot.0 > self.low.0 + self.config.window() {
            return Readiness::Waits;
        }
        let held_max = self.executed.0 + self.config.blocks_held_max;
        match self.chain_of(base) {
            Chain::Forks(fork) if fork.slot < self.decided.slot => return Readiness::Refused,
            Chain::Forks(_) => {}
            Chain::Lacks(place) if place.slot <= self.decided.slot => return Readiness::Refused,
            // Out of reach until more is executed here.
            Chain::Lacks(_) if base.slot.0 > held_max => return Readiness::Waits,
            Chain::Lacks(place) => return Readiness::Lacks(place),
        }
        let chain = self.tree.down_from(base);
        let mut chain = chain.take_while(|entry| entry.header.slot() > self.decided.slot);
        let mut invalid = chain.clone().filter(|e| e.validity == Validity::Invalid);
        if let Some(entry) = invalid.next() {
            return Readiness::Invalid(entry.place());
        }
        let ready = chain.all(|entry| {
            let durable = entry.end.is_some_and(|end| end <= self.durable_position);
            durable && entry.validity == Validity::Valid
        });
        if ready {
            Readiness::Ready
        } else {
            Readiness::Waits
        }
    }

    /// x of V6: the deepest block that is known to be decided and of a view below `view`. Where
    /// only the end of the decided chain is known, and that is of `view` itself, nothing can be
    /// proven against a base below it.
    pub(crate) fn decided_below(&self, view: View) -> Place {
        let mut place = self.decided;
        while let Some(entry) = self.tree.get(place) {
            if entry.header.view() < view {
                return place;
            }
            place = entry.parent();
        }
        let known = self.checkpoint.iter().find(|known| known.place() == place);
        match known {
            Some(known) if known.header.view() < view => place,
            _ => self.config.genesis,
        }
    }

    /// An own message of a view change is durable: now it is spoken, and counts here.
    pub(crate) fn speak_change(&mut self, spoken: Spoken, out: &mut Outbox) {
        let to = Recipient::All;
        match spoken {
            Spoken::ViewChange(own) if own.message.view == self.stage => {
                if let Some(change) = &mut self.change {
                    change.own = Some(Arc::clone(&own));
                    self.on_view_change(Arc::clone(&own));
                    let message = Large::ViewChange(own);
                    out.push(Effect::Tell { to, message });
                }
            }
            Spoken::NewView(own) if own.message.view == self.stage => {
                if let Some(change) = &mut self.change {
                    change.new_view = Some(Arc::clone(&own));
                    self.on_new_view(Arc::clone(&own));
                    let message = Large::NewView(own);
                    out.push(Effect::Tell { to, message });
                }
            }
            Spoken::Ack(ack) if view_of_ack(&ack) == self.stage => {
                if let Some(change) = &mut self.change {
                    change.ack = Some(ack);
                    self.on_ack(ack);
                    out.push(Effect::Say { to, signed: *ack });
                }
            }
            _ => {}
        }
    }

    /// When the view change next needs a turn.
    pub(crate) fn change_wake_at(&self) -> Instant {
        let never = Instant(u64::MAX);
        if self.is_silent() {
            // It repeats nothing; what ends its silence is an input.
            return never;
        }
        self.change.as_ref().map_or(never, |change| {
            if change.own.is_some() {
                change.resend_at
            } else {
                never
            }
        })
    }
}

/// The view of an acknowledgement; 0 for anything else.
pub(crate) fn view_of_ack(ack: &Signed) -> View {
    match ack.statement {
        Statement::NewViewAck { view, .. } => view,
        _ => View(0),
    }
}
