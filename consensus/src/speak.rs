//! Durable before spoken: what waits for its record in the log, and when it leaves.

use wire::canary::planted;
use wire::ids::{Position, Slot};
use wire::seal::{Signed, Signer, Verified};

use crate::core::Core;
use crate::input::{Effect, NewViewRef, Outbox, Recipient, Record, ViewChangeRef};
use crate::peers::OwnWord;

/// A message that waits for its record to be durable.
#[derive(Clone, Debug)]
pub(crate) enum Spoken {
    /// INSTALL or SKIP: votes wait for it.
    Ground,
    ViewChange(ViewChangeRef),
    NewView(NewViewRef),
    Ack(Verified<Signed>),
    Commit(Signed, OwnWord),
    Stable(Slot),
    /// A lease up to this slot.
    Lease(Slot),
}

impl<S: Signer> Core<S> {
    /// Has something written; `spoken` waits for it.
    pub(crate) fn record(&mut self, record: Record, spoken: Spoken, out: &mut Outbox) {
        self.unplaced.push_back(spoken);
        out.push(Effect::Record(record));
    }

    pub(crate) fn on_recorded(&mut self, end: Position, out: &mut Outbox) {
        let spoken = self.unplaced.pop_front().expect("a record was asked for");
        self.placed(end);
        let spoken = match spoken {
            // Its slot lies below an own vote's, hence within the lease (R3).
            Spoken::Commit(signed, word) if !self.words_wait() => {
                self.say_commit(signed, word, out);
                return;
            }
            Spoken::Lease(slot) if planted("leaselate") => {
                self.lease.held = slot;
                return;
            }
            spoken => spoken,
        };
        let grounds = |spoken: &Spoken| matches!(spoken, Spoken::Ground);
        if grounds(&spoken) && !self.unplaced.iter().any(grounds) {
            self.ground_end = Some(end);
        }
        self.awaiting.push_back((end, spoken));
    }

    /// Durable before spoken: sends what waited for the log.
    pub(crate) fn speak(&mut self, out: &mut Outbox) {
        while let Some((end, _)) = self.awaiting.front()
            && *end <= self.durable_position
            && let Some((_, spoken)) = self.awaiting.pop_front()
        {
            match spoken {
                Spoken::Commit(signed, word) => self.say_commit(signed, word, out),
                Spoken::Lease(slot) => self.lease.held = slot,
                Spoken::Stable(slot) => out.push(Effect::Stable { slot }),
                Spoken::Ground => {}
                change => self.speak_change(change, out),
            }
        }
    }

    fn say_commit(&mut self, signed: Signed, word: OwnWord, out: &mut Outbox) {
        if word.block.view == self.installed && self.is_active() {
            assert!(word.block.slot <= self.leased_up_to(), "I3");
            self.own_commit = Some(word);
            self.hear(self.config.me, word.block, word.signature, false);
            let to = Recipient::All;
            out.push(Effect::Say { to, signed });
        }
    }
}
