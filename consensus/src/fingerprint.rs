//! What the future of a core depends on while time stands still, for exhaustive searches over
//! states: two cores with equal fingerprints answer every input alike.
//!
//! Left out on purpose: everything timed, wishes and accusations (a search lets replicas leave views
//! whenever it likes), and which replicas signed the certificate of the installed view.

use std::hash::{Hash, Hasher};

use wire::ids::Slot;
use wire::seal::{Signer, Statement};

use crate::change::Change;
use crate::core::Core;
use crate::speak::Spoken;
use crate::tree::Entry;
use crate::words::{Word, Words};

impl Words {
    fn fingerprint(&self, into: &mut impl Hasher) {
        let place = |word: Option<Word>| word.map(|word| word.place);
        let found = (place(self.unlinked), place(self.lowest));
        (self.linked, self.exact.is_some(), found).hash(into);
    }
}

impl Entry {
    fn fingerprint(&self, into: &mut impl Hasher) {
        let validity = (self.validity as u8, self.signature_good);
        let record = (self.record.map(|kind| kind as u8), self.end.is_some());
        (self.place(), validity, record).hash(into);
    }
}

impl<S: Signer> Core<S> {
    /// Hashes what was heard of others' votes and claims into `words`, everything else into
    /// `state`. Slots above `highest` are empty in every core that is compared.
    pub fn fingerprint(&self, highest: Slot, state: &mut impl Hasher, words: &mut impl Hasher) {
        // A new field must be looked at here: hashed, or named among those left out.
        let Core {
            config,
            rules: _,
            signer: _,
            stage,
            installed,
            restarted_in,
            tree,
            branch,
            base,
            certificate: _,
            ground_end: _,
            recorded,
            tip,
            quorum,
            durable,
            valid,
            backed,
            voted,
            decided,
            decided_in,
            executed,
            low,
            checkpoint,
            newest_checkpoint,
            next_checkpoint,
            statements: _,
            roots,
            retained_from,
            // Nobody reconfigures in a search.
            epoch_end: _,
            transferring,
            final_place,
            durable_position: _,
            voting_stopped,
            // Off: searches start from empty logs.
            recall: _,
            lease,
            started,
            stopping,
            log_full,
            holds_unlinked,
            diverged,
            // Set, a look finds what it found before; and time stands still.
            look_elsewhere: _,
            now: _,
            own_vote,
            own_commit,
            books,
            peers,
            repair: _,
            timers: _,
            pace: _,
            pending_since: _,
            request_overdue: _,
            wishing: _,
            change,
            view_changes,
            new_views,
            acks,
            accused: _,
            unplaced,
            awaiting,
        } = self;
        (config.me, stage, installed, restarted_in).hash(state);
        for slot in (1..=highest.0).map(Slot) {
            let mut known = tree.at(slot).collect::<Vec<_>>();
            known.sort_by_key(|entry| entry.digest);
            for entry in known {
                entry.fingerprint(state);
            }
            branch.digest_at(slot).hash(state);
        }
        (branch.top(), base, self.ground_is_durable()).hash(state);
        let committing = quorum.as_ref().map(|quorum| quorum.block);
        (recorded, tip, committing, durable, valid, voted).hash(state);
        (backed, lease.hashed()).hash(state);
        (decided, decided_in, executed, low, final_place).hash(state);
        let place = |known: &Option<std::sync::Arc<_>>| {
            let known: Option<&wire::certificates::CheckpointCertificate> = known.as_deref();
            known.map(|known| known.place())
        };
        (place(checkpoint), place(newest_checkpoint)).hash(state);
        place(next_checkpoint).hash(state);
        (roots, retained_from, transferring).hash(state);
        diverged.hash(state);
        (voting_stopped, started, stopping, log_full).hash(state);
        holds_unlinked.hash(state);
        for own in [own_vote, own_commit] {
            let block = own.map(|own| own.block);
            block.map(|b| (b.view, b.slot, b.digest)).hash(state);
        }
        self.fingerprint_change(change.as_ref(), state);
        for ack in acks_in_order(acks) {
            ack.hash(state);
        }
        for spoken in unplaced.iter().chain(awaiting.iter().map(|(_, s)| s)) {
            std::mem::discriminant::<Spoken>(spoken).hash(state);
        }
        // Behind what decides about the view that is entered: these two are only read then.
        let settled = change.as_ref().is_some_and(Change::is_settled);
        let leads = self.leader(*stage) == config.me;
        let mut view_changes = view_changes.iter().collect::<Vec<_>>();
        view_changes.sort_by_key(|known| (known.message.view, known.message.replica));
        for known in view_changes {
            if !settled || known.message.view > *stage {
                (known.message.view, known.message.replica, known.digest).hash(state);
            }
        }
        for known in new_views {
            if !settled || known.message.view > *stage {
                let message = &known.message;
                (leads, message.view, message.base, &message.chosen).hash(state);
            }
        }
        for book in books {
            book.view.hash(words);
            for heard in book.votes.iter().chain(&book.commits) {
                heard.fingerprint(words);
            }
        }
        for peer in peers {
            peer.claims.fingerprint(words);
        }
    }

    fn fingerprint_change(&self, change: Option<&Change>, into: &mut impl Hasher) {
        let Some(change) = change else { return };
        change.progress().hash(into);
        (change.candidate, change.acked()).hash(into);
    }
}

/// Acknowledgements by replica: in which order they came changes nothing.
fn acks_in_order(
    acks: &[wire::seal::Verified<wire::seal::Signed>],
) -> Vec<(u16, wire::ids::View, Slot, wire::ids::Digest)> {
    let parts = acks.iter().filter_map(|ack| match ack.statement {
        Statement::NewViewAck {
            view,
            base_slot,
            base,
        } => Some((ack.by.0, view, base_slot, base)),
        _ => None,
    });
    let mut parts = parts.collect::<Vec<_>>();
    parts.sort();
    parts
}
