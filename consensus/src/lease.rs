//! R3: votes that leave before their records are on the disk, and what follows from having lost some.
//!
//! With leases a vote stands on LEASE(w, L), which is on the disk before any vote for a slot up to L
//! leaves; the records of the votes themselves follow at the disk's pace. What else a replica says
//! waits for the disk as ever (R1): its view changes, acknowledgements, NEW-VIEWs, the views it
//! installs and the states it signs (K1); jumps of the tip (N2) too, which votes stand on.
//!
//! A process that ends uncleanly may have forgotten votes, all of them for slots up to L. The next
//! one is *silent*: no VOTE, COMMIT, NV-ACK or view change, and no fenced read, until its own stable
//! checkpoint lies at L or above. From then on its view changes carry that checkpoint, so that
//! everything it may have forgotten is decided history in every choice of a new leader (L6).

use wire::canary::{planted, reach};
use wire::ids::{Instant, NodeId, Position, Slot, View};
use wire::messages::Durability;
use wire::seal::Signer;

use crate::core::Core;
use crate::image::image;
use crate::input::{Effect, Outbox, Record};
use crate::restart::Recovered;
use crate::speak::Spoken;

/// Between two announcements of the own silence; STATUS repeats it more often.
const ANNOUNCE_NS: u64 = 1_000_000_000;

/// What leases allow and what they cost. Slot 0 stands for none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lease {
    /// L: the highest lease on the disk, and the highest that was written. Neither ever falls, also
    /// across views: a vote in any view lies within.
    pub held: Slot,
    pub asked: Slot,
    /// Votes of earlier processes for slots up to here may be forgotten.
    pub forgotten: Slot,
    /// The view in which that happened; later votes of it cannot be shown to extend those.
    pub forgetful_in: Option<View>,
    silent: bool,
    announced_at: Option<Instant>,
}

image!(Lease {
    held,
    asked,
    forgotten,
    forgetful_in,
    silent,
    announced_at,
});

impl Lease {
    /// As the log tells it; `low` is the slot of the own stable checkpoint.
    pub(crate) fn resume(recovered: &Recovered, low: Slot) -> Lease {
        let forgotten = recovered.forgotten;
        let silent = low < forgotten;
        if silent {
            reach("silent-start");
        }
        // The log holds the beginning of what was voted in its last view.
        let forgetful = forgotten > recovered.tip.slot;
        Lease {
            held: recovered.lease,
            asked: recovered.lease,
            forgotten,
            forgetful_in: forgetful.then_some(recovered.installed),
            silent,
            announced_at: None,
        }
    }

    /// What the future depends on while time stands still.
    pub(crate) fn hashed(&self) -> (Slot, Slot, Slot, Option<View>, bool) {
        let Lease {
            held,
            asked,
            forgotten,
            forgetful_in,
            silent,
            announced_at: _,
        } = *self;
        (held, asked, forgotten, forgetful_in, silent)
    }
}

impl<S: Signer> Core<S> {
    /// Whether this replica says nothing that counts (R3).
    pub fn is_silent(&self) -> bool {
        self.lease.silent
    }

    /// The slot at which a checkpoint ends the silence.
    pub fn silent_until(&self) -> Option<Slot> {
        self.lease.silent.then_some(self.lease.forgotten)
    }

    /// L of a replica that says it is silent.
    pub fn silent_peer_until(&self, peer: NodeId) -> Option<Slot> {
        self.peers[peer.index()].silent_until
    }

    /// Whether votes and COMMITs wait for their records to be durable (R2).
    pub(crate) fn words_wait(&self) -> bool {
        self.config.durability == Durability::Sync
    }

    /// The highest slot for which a vote may leave.
    pub(crate) fn leased_up_to(&self) -> Slot {
        match self.config.durability {
            Durability::Lease => self.lease.held,
            Durability::Sync | Durability::None => Slot(u64::MAX),
        }
    }

    /// A record has its place in the log. Without durability that is all there is to wait for.
    pub(crate) fn placed(&mut self, end: Position) {
        if self.config.durability == Durability::None {
            self.durable_position = self.durable_position.max(end);
        }
    }

    pub(crate) fn on_durable(&mut self, position: Position) {
        if self.config.durability == Durability::None {
            // Known long since.
            self.durable_position = self.durable_position.max(position);
            return;
        }
        assert!(
            position >= self.durable_position,
            "durability never shrinks"
        );
        self.durable_position = position;
    }

    /// Renews the lease before votes come to its end, announces silence, and ends it.
    pub(crate) fn tend_lease(&mut self, now: Instant, out: &mut Outbox) {
        if !self.started {
            return;
        }
        if self.lease.silent {
            return self.tend_silence(now, out);
        }
        let half = self.config.window() / 2;
        let (next, end) = (self.branch.top().slot.next(), self.window_end());
        let due = next.0 + half > self.lease.asked.0 && end > self.lease.asked;
        if self.config.durability == Durability::Lease && due {
            // L <= low + W.
            self.lease.asked = end;
            let (view, slot) = (self.installed, end);
            self.record(Record::Lease { view, slot }, Spoken::Lease(slot), out);
        }
    }

    fn tend_silence(&mut self, now: Instant, out: &mut Outbox) {
        let early = if planted("shortsilence") {
            self.config.interval
        } else {
            0
        };
        if self.low.0 + early < self.lease.forgotten.0 {
            let announced = self.lease.announced_at;
            if announced.is_none_or(|at| now.since_ns(at) >= ANNOUNCE_NS) {
                self.lease.announced_at = Some(now);
                let lease = self.lease.forgotten;
                out.push(Effect::Silent { lease });
            }
            return;
        }
        reach("silence-ends");
        self.lease.silent = false;
        if self.owe_view_change() {
            // What it did not say when it entered the view.
            reach("silence-ends-in-view-change");
            self.write_view_change_if_due(out);
        }
    }
}
