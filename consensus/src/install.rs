//! V4, V6, Y4: a certified base is installed.

use std::sync::Arc;

use wire::canary::{planted, reach};
use wire::certificates::{NewViewCertificate, Place};
use wire::ids::{Instant, Slot};
use wire::seal::{Signed, Signer, Statement, Verified, gather};

use crate::change::view_of_ack;
use crate::chase::Chain;
use crate::core::Core;
use crate::input::{Effect, Outbox, Record};
use crate::speak::Spoken;

impl<S: Signer> Core<S> {
    /// V4: q acknowledgements of one base.
    pub(crate) fn certificate_of_acks(&self) -> Option<NewViewCertificate> {
        let quorums = self.config.quorums;
        let need = if planted("qack") {
            2 * quorums.slow() - quorums.n
        } else {
            quorums.slow()
        };
        let first = self.acks.iter().find(|ack| {
            let same = |held: &&Verified<Signed>| held.statement == ack.statement;
            self.acks.iter().filter(same).count() >= need
        })?;
        let Statement::NewViewAck {
            view,
            base_slot,
            base,
        } = first.statement
        else {
            return None;
        };
        let same = self
            .acks
            .iter()
            .filter(|held| held.statement == first.statement)
            .take(need);
        Some(NewViewCertificate {
            view,
            base: Place {
                slot: base_slot,
                digest: base,
            },
            acks: gather(same),
        })
    }

    pub(crate) fn on_new_view_certificate(
        &mut self,
        now: Instant,
        certificate: Verified<NewViewCertificate>,
        out: &mut Outbox,
    ) {
        self.install(now, certificate.into_inner(), out);
    }

    /// V4, Y4: goes over to a certified view. False when it is old, or contradicts what is decided
    /// here (V6): that view is late or stale.
    pub(crate) fn install(
        &mut self,
        now: Instant,
        certificate: NewViewCertificate,
        out: &mut Outbox,
    ) -> bool {
        let (view, base) = (certificate.view, certificate.base);
        if view < self.stage || view <= self.installed {
            return false;
        }
        let floor = self.decided_below(view);
        let forks_below = match self.chain_of(base) {
            Chain::Forks(fork) => fork.slot < floor.slot,
            Chain::Lacks(_) => false,
        };
        if base.slot < floor.slot || base.slot == floor.slot && base != floor || forks_below {
            reach("view-refused");
            self.acks.retain(|ack| view_of_ack(ack) != view);
            return false;
        }
        if view > self.stage {
            reach("late-install");
        }
        let certificate = Arc::new(certificate);
        (self.stage, self.installed, self.base) = (view, view, base);
        self.certificate = Some(Arc::clone(&certificate));
        self.ground_end = None;
        self.record(Record::Install(certificate), Spoken::Ground, out);
        (self.tip, self.recorded) = (base, base);
        (self.voted, self.own_vote, self.own_commit) = (None, None, None);
        self.quorum = None;
        // K3: what is wrong with the own state is so in every view.
        self.voting_stopped = self.diverged;
        self.decided_in = None;
        self.change = None;
        self.open_book(view);
        self.forget_wish(view);
        self.view_changes.retain(|vc| vc.message.view > view);
        self.new_views.retain(|known| known.message.view > view);
        self.acks.retain(|ack| view_of_ack(ack) > view);
        self.timers.installed(now);
        self.pace.installed(view, now);
        // T2 begins anew with each leader: what was late under the one before says nothing of this one.
        self.request_overdue = false;
        self.go_to_base(out);
        out.push(Effect::Installed { view });
        self.link_all(None, out);
        true
    }

    /// The branch up to the base and no further; up to what is decided while the base is not here.
    fn go_to_base(&mut self, out: &mut Outbox) {
        let base = self.base;
        match self.chain_of(base) {
            Chain::Forks(fork) if fork == base => {
                self.cut(base.slot.max(self.decided.slot));
            }
            Chain::Forks(fork) if fork.slot >= self.decided.slot => self.switch_to(base, out),
            _ => self.cut(self.decided.slot),
        }
        if self.base_is_linked() {
            self.forget_abandoned(out);
        }
    }

    /// Blocks of older views off the branch are not needed any more.
    pub(crate) fn forget_abandoned(&mut self, out: &mut Outbox) {
        let first = self.decided.slot.0 + 1;
        for slot in (first..=first + self.config.window()).map(Slot) {
            let abandoned = self.tree.at(slot).filter(|entry| {
                entry.header.view() < self.installed && !self.branch.holds(entry.place())
            });
            let abandoned = abandoned.map(|entry| entry.place()).collect::<Vec<_>>();
            for place in abandoned {
                self.tree.remove(place);
                out.push(Effect::Forget { place });
            }
        }
    }
}
