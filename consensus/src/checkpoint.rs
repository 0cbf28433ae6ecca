//! K1, K2, K3, K5: equal states make a checkpoint, and a checkpoint moves the window.

use std::sync::Arc;

use wire::canary::{planted, reach};
use wire::certificates::{CheckpointCertificate, Place, Signatures};
use wire::ids::{Digest, NodeId, Slot};
use wire::seal::{Signed, Signer, Statement, Verified, sign};

use crate::core::Core;
use crate::image::image;
use crate::input::{Effect, Outbox, Recipient, Record};
use crate::speak::Spoken;

/// Newest statements kept of each replica.
const KEPT: usize = 2;

/// Own states that wait for the log at most.
const ROOTS_MAX: usize = 4;

/// What replicas said about their states.
#[derive(Clone, Debug)]
pub(crate) struct Statements {
    /// By replica, the newest ones.
    said: Vec<[Option<Verified<Signed>>; KEPT]>,
}
image!(Statements { said });

fn parts(signed: &Signed) -> (Slot, Digest, Digest) {
    match signed.statement {
        Statement::Checkpoint { slot, chain, root } => (slot, chain, root),
        _ => (Slot(0), Digest::ZERO, Digest::ZERO),
    }
}

impl Statements {
    pub fn new(replicas: usize) -> Statements {
        Statements {
            said: vec![[None; KEPT]; replicas],
        }
    }

    fn hear(&mut self, signed: Verified<Signed>) {
        let slot = parts(&signed).0;
        let kept = &mut self.said[signed.by.index()];
        if kept.iter().flatten().any(|held| parts(held).0 == slot) {
            return;
        }
        let lowest = kept
            .iter_mut()
            .min_by_key(|held| held.map(|held| parts(&held).0));
        if let Some(cell) = lowest
            && cell.is_none_or(|held| parts(&held).0 < slot)
        {
            *cell = Some(signed);
        }
    }

    fn of(&self, by: NodeId) -> impl Iterator<Item = &Verified<Signed>> {
        self.said[by.index()].iter().flatten()
    }

    fn all(&self) -> impl Iterator<Item = &Verified<Signed>> {
        self.said.iter().flatten().flatten()
    }
}

impl<S: Signer> Core<S> {
    /// K1: the own state after this slot is known. It is said when a crash cannot take it away: when
    /// all blocks up to it are durable.
    pub(crate) fn on_root(&mut self, slot: Slot, root: Digest) {
        if self.roots.len() == ROOTS_MAX {
            self.roots.pop_front();
        }
        self.roots.push_back((slot, root));
    }

    /// Says what has become durable.
    pub(crate) fn say_roots(&mut self, out: &mut Outbox) {
        while let Some(&(slot, root)) = self.roots.front()
            && (slot <= self.durable || planted("ckptearly"))
        {
            self.roots.pop_front();
            self.say_root(slot, root, out);
        }
    }

    /// Everyone is told of an own state.
    fn say_root(&mut self, slot: Slot, root: Digest, out: &mut Outbox) {
        let Some(chain) = self
            .branch
            .digest_at(slot)
            .filter(|_| slot <= self.executed)
        else {
            return;
        };
        // A silent replica says it as well (R3): it stands on no vote, and may be what ends silence.
        let signed = sign(&self.signer, Statement::Checkpoint { slot, chain, root });
        out.push(Effect::Say {
            to: Recipient::All,
            signed: *signed,
        });
        self.statements.hear(signed);
        let mut known = self.known_checkpoints();
        let differing = known.find(|found| found.header.slot() == slot && found.root != root);
        let certified = differing.map(|found| found.root);
        drop(known);
        if let Some(certified) = certified {
            self.diverge(slot, root, certified, out);
        }
    }

    fn diverge(&mut self, slot: Slot, own: Digest, certified: Digest, out: &mut Outbox) {
        (self.voting_stopped, self.diverged) = (true, true);
        out.push(Effect::Diverged {
            slot,
            own,
            certified,
        });
    }

    pub(crate) fn on_checkpoint(&mut self, signed: Verified<Signed>) {
        let slot = parts(&signed).0;
        if slot > self.low && slot.0.is_multiple_of(self.config.interval) {
            self.statements.hear(signed);
        }
    }

    /// K2: q equal statements about one slot.
    pub(crate) fn gather_checkpoint(&mut self, out: &mut Outbox) {
        let known = self.newest_checkpoint.as_ref();
        let known = known.map_or(self.low, |newest| newest.header.slot());
        let need = self.config.quorums.slow();
        let newer = self.statements.all().filter(|said| parts(said).0 > known);
        let agreed = newer.map(|said| said.statement).find(|statement| {
            let equal = self.statements.all();
            equal.filter(|said| said.statement == *statement).count() >= need
        });
        let Some(Statement::Checkpoint { slot, chain, root }) = agreed else {
            return;
        };
        let place = Place {
            slot,
            digest: chain,
        };
        // Without the header a certificate cannot be made; one of the others will send it.
        let Some(header) = self.tree.get(place).map(|entry| entry.header) else {
            return;
        };
        let mut signatures = Signatures::new();
        let equal = self
            .statements
            .all()
            .filter(|said| said.statement == Statement::Checkpoint { slot, chain, root });
        for said in equal.take(need) {
            signatures.add(said.by, said.signature);
        }
        let certificate = CheckpointCertificate {
            header,
            root,
            signatures,
        };
        self.adopt_checkpoint(certificate, out);
    }

    /// Takes a certified checkpoint over: its block is final, and once its state is here the window
    /// moves.
    pub(crate) fn adopt_checkpoint(
        &mut self,
        certificate: CheckpointCertificate,
        out: &mut Outbox,
    ) {
        let place = certificate.place();
        let known = self.newest_checkpoint.as_ref();
        if place.slot <= known.map_or(self.low, |newest| newest.header.slot()) {
            return;
        }
        if place.slot <= self.decided.slot
            && let Some(own) = self.branch.digest_at(place.slot)
        {
            let agrees = own == place.digest;
            assert!(agrees, "I7: a checkpoint contradicts slot {}", place.slot);
        }
        let me = self.config.me;
        let own = self.statements.of(me).map(|said| parts(said));
        let own = own.filter(|(slot, ..)| *slot == place.slot);
        let differing = own
            .map(|(_, _, root)| root)
            .find(|r| *r != certificate.root);
        if let Some(own) = differing {
            self.diverge(place.slot, own, certificate.root, out);
        }
        let passed = self.newest_checkpoint.replace(Arc::new(certificate));
        let low = self.low;
        let is_ahead = |found: &Arc<CheckpointCertificate>| found.header.slot() > low;
        // K2: however fast newer ones come, the next one to be executed here stays until it is.
        if !self.next_checkpoint.as_ref().is_some_and(is_ahead) {
            self.next_checkpoint = passed.filter(is_ahead);
        }
        if place.slot > self.decided.slot && self.is_better_goal(place) {
            reach("checkpoint-adopted");
            self.final_place = Some(place);
        }
    }

    /// The newest first.
    fn known_checkpoints(&self) -> impl Iterator<Item = &Arc<CheckpointCertificate>> {
        let known = [&self.newest_checkpoint, &self.next_checkpoint];
        known.into_iter().flatten()
    }

    /// low := slot, once the certified state is executed here.
    pub(crate) fn move_window(&mut self, out: &mut Outbox) {
        let mut known = self.known_checkpoints();
        let found = known.find(|found| {
            let slot = found.header.slot();
            slot > self.low && slot <= self.executed && slot <= self.decided.slot
        });
        let Some(found) = found.map(Arc::clone) else {
            return;
        };
        drop(known);
        let slot = found.header.slot();
        self.low = slot;
        self.checkpoint = Some(Arc::clone(&found));
        self.record(Record::Checkpoint(found), Spoken::Stable(slot), out);
    }

    /// Own statements that a replica at this checkpoint has not seen the effect of.
    pub(crate) fn repeat_checkpoints(&self, to: NodeId, above: Slot, out: &mut Outbox) {
        for said in self.statements.of(self.config.me) {
            if parts(said).0 > above {
                out.push(Effect::Say {
                    to: Recipient::One(to),
                    signed: **said,
                });
            }
        }
    }

    /// Whether the log does not back the own chain up to this certified block, so that the tip has to
    /// jump there (R2): the own records end below it, or wait for room and are written no more, and a
    /// restart would not find what later ones extend. Where they reach it, SKIP would stand behind
    /// records that count.
    fn own_records_end_below(&self, place: Place) -> bool {
        let passes = self.branch.holds(place);
        let entry = self.tree.get(place);
        // Records are written in order: with the one of this block all of its chain are in the log.
        let is_written = entry.is_some_and(|entry| entry.end.is_some());
        let reach = self.branch.holds(self.recorded) && self.recorded.slot >= place.slot;
        if passes && is_written && reach {
            return false;
        }
        place.slot > self.tip.slot || passes && !is_written && self.branch.holds(self.tip)
    }

    /// K4: the caller took over the state at a certified slot.
    pub(crate) fn on_installed_state(
        &mut self,
        certificate: CheckpointCertificate,
        out: &mut Outbox,
    ) {
        let place = certificate.place();
        self.transferring = None;
        if place.slot <= self.executed {
            return;
        }
        self.executed = place.slot;
        if place.slot > self.decided.slot {
            self.decided = place;
            self.decided_in = None;
            let ends_below = self.own_records_end_below(place);
            if !self.branch.holds(place) {
                // What was said for the branch that is left comes again.
                for book in &mut self.books {
                    book.reopen(book.view);
                }
                for peer in &mut self.peers {
                    peer.claims = Default::default();
                }
                self.branch.restart(place);
            }
            (self.durable, self.valid) = (place.slot, place.slot);
            self.backed = place.slot;
            let view = certificate.header.view();
            let votes_on = self.stage == self.installed;
            if view == self.installed && votes_on && ends_below {
                // N2: the own checkpoint needs no headers.
                // A certificate does not say in which view its block was decided.
                self.voting_stopped |= self.jump_is_risky();
                self.jump(place, out);
            } else if place.slot > self.base.slot && view != self.installed {
                self.voting_stopped = true;
            }
        }
        self.low = self.low.max(place.slot);
        // K1: blocks below may have no record that a crash survives.
        self.roots.retain(|(slot, _)| *slot > place.slot);
        let certificate = Arc::new(certificate);
        self.checkpoint = Some(Arc::clone(&certificate));
        let newest = self.newest_checkpoint.as_ref();
        if newest.is_none_or(|newest| newest.header.slot() < place.slot) {
            self.newest_checkpoint = Some(Arc::clone(&certificate));
        }
        self.record(
            Record::Checkpoint(certificate),
            Spoken::Stable(place.slot),
            out,
        );
        self.relink_words();
        self.link_all(None, out);
    }
}
