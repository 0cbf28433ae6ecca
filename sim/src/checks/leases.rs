//! R3 once more, in the judge's own words: what a replica may say within its lease, and after it may
//! have forgotten something. Everything here is concluded from records that were seen on their way
//! to the disk, and from whether the disk confirmed them; nothing is asked of the replica.

use wire::ids::{NodeId, Slot};

use super::{Judge, Known};
use crate::node::Node;

type Check = Result<(), String>;

/// What one replica's disk says of leases.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    /// Highest lease that the disk confirmed, and that it may hold.
    held: Slot,
    held_perhaps: Slot,
    /// The marker of a clean stop is the newest word of a process that the disk confirmed.
    marked: bool,
    /// One that was never confirmed may stand there, behind no confirmed START.
    marked_perhaps: bool,
    /// Highest slot with a certificate in the log, or in a snapshot, and that the log may hold though
    /// the disk never confirmed it.
    certified: Slot,
    certified_perhaps: Slot,
    /// Processes before the present one may have forgotten votes up to here: by what the disk has
    /// confirmed, and by what it may hold.
    forgotten: Slot,
    forgotten_perhaps: Slot,
}

/// A record that matters here.
#[derive(Clone, Copy, Debug)]
pub(super) enum Told {
    Start,
    Stop,
    Lease(Slot),
    Certified(Slot),
}

impl Leases {
    /// The disk confirmed this record.
    pub fn durable(&mut self, told: Told) {
        match told {
            Told::Start => (self.marked, self.marked_perhaps) = (false, false),
            Told::Stop => self.marked = true,
            Told::Lease(slot) => {
                self.held = self.held.max(slot);
                self.held_perhaps = self.held_perhaps.max(slot);
            }
            Told::Certified(slot) => self.certified = self.certified.max(slot),
        }
    }

    /// The present process wrote this record.
    pub fn written(&mut self, told: Told) {
        if let Told::Certified(slot) = told {
            self.certified = self.certified.max(slot);
        }
    }

    /// A process started. Of what was `pending` the disk may hold anything; `snapshot` is the slot of
    /// its newest one.
    pub fn started(&mut self, certified_on_disk: Slot, pending: &[Told]) {
        for told in pending {
            match told {
                Told::Certified(slot) => {
                    self.certified_perhaps = self.certified_perhaps.max(*slot);
                }
                Told::Lease(slot) => self.held_perhaps = self.held_perhaps.max(*slot),
                Told::Start | Told::Stop => {}
            }
        }
        self.certified = certified_on_disk.max(self.certified_perhaps);
        // A marker that nobody heard of may be on the disk, and may be torn.
        self.marked_perhaps |= pending.iter().any(|told| matches!(told, Told::Stop));
        if !self.marked && !self.marked_perhaps {
            self.forgotten = self.forgotten.max(self.held);
        }
        // A START that nobody heard of may stand behind the marker.
        let restarted = pending.iter().any(|told| matches!(told, Told::Start));
        if !self.marked || restarted {
            self.forgotten_perhaps = self.forgotten_perhaps.max(self.held_perhaps);
        }
    }

    /// A process started on a log that lacks blocks: it may have forgotten all that it `said`. How
    /// high that is it cannot know but by the window above what is certified.
    pub fn forgot(&mut self, said: Slot, window: u64) {
        self.forgotten = self.forgotten.max(said);
        let until = Slot(self.certified.0 + window).max(said);
        self.forgotten_perhaps = self.forgotten_perhaps.max(until);
    }

    /// Until which slot it must be silent.
    pub fn silent_until(&self) -> Option<Slot> {
        (self.certified < self.forgotten).then_some(self.forgotten)
    }

    /// Until which slot it may rightly be silent.
    pub fn silent_perhaps_until(&self) -> Option<Slot> {
        let until = self.forgotten_perhaps;
        (self.certified < until).then_some(until)
    }

    /// Nothing that counts is said in silence.
    pub fn may_speak(&self, what: &str) -> Check {
        match self.silent_until() {
            Some(slot) => Err(format!(
                "R3: {what} of a replica that is silent until slot {slot}, its checkpoint is slot {}",
                self.certified
            )),
            None => Ok(()),
        }
    }

    /// A vote, or COMMIT, within the lease, and above what may be forgotten.
    pub fn may_vote(&self, what: &str, slot: Slot) -> Check {
        if slot > self.held_perhaps {
            return Err(format!(
                "R3: {what} for slot {slot} beyond the lease on the disk, slot {}",
                self.held_perhaps
            ));
        }
        self.may_say_again(what, slot)
    }

    /// Above what may be forgotten, and not in silence.
    fn may_say_again(&self, what: &str, slot: Slot) -> Check {
        self.may_speak(what)?;
        if slot <= self.forgotten {
            return Err(format!(
                "R3: {what} for slot {slot} again, what it said up to slot {} may be forgotten",
                self.forgotten
            ));
        }
        Ok(())
    }
}

impl Judge {
    pub(super) fn may_vote(&self, from: NodeId, what: &str, slot: Slot) -> Check {
        let leases = &self.known[from.index()].leases;
        if self.leases {
            leases.may_vote(what, slot)
        } else {
            leases.may_say_again(what, slot)
        }
    }

    /// More replicas than the committee bears lie, or are silent at once: for a checkpoint that nobody
    /// has, or for a state that nobody can give them. Then nothing more need happen, and nothing of
    /// what was not on the disks need be left (R3).
    pub fn is_wedged(&self, nodes: &[Node]) -> bool {
        let waits = |(id, known): (usize, &Known)| {
            let until = known.leases.silent_perhaps_until();
            until.is_some_and(|slot| slot > self.certified) || self.is_beyond_help(id, nodes)
        };
        let known = || self.known.iter().enumerate();
        let lost = known().filter(|(id, known)| known.faulty || waits((*id, known)));
        known().any(waits) && lost.count() > self.faults_borne
    }

    /// A replica whose silence ends with a state that it has not executed, and for which nobody keeps
    /// the next block, nor a checkpoint: the next one that is made ends its silence.
    fn is_beyond_help(&self, id: usize, nodes: &[Node]) -> bool {
        let known = &self.known[id];
        if known.executed >= known.leases.forgotten_perhaps {
            return false;
        }
        let others = nodes.iter().filter(|node| node.id.index() != id);
        let mut up = others.filter_map(|node| node.server.as_ref());
        !up.any(|server| {
            let ready = server.execution().pinned().filter(|pinned| pinned.ready);
            server.ordering().core().retained_from() <= known.executed.next()
                || ready.is_some_and(|pinned| pinned.slot > known.executed)
        })
    }

    /// An honest replica that is silent though it need not be: others can certify what it waits for.
    /// A liar that leads an idle cluster does not fill up for it.
    pub(super) fn wrongly_silent(&self) -> Option<usize> {
        let honest = self.known.iter().all(|known| !known.faulty);
        let mut known = self.known.iter();
        let silent = known.position(|known| known.leases.silent_until().is_some());
        silent.filter(|_| honest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process whose lease is durable is asked to stop, and the write of its marker fails.
    fn stopped_perhaps() -> Leases {
        let mut leases = Leases::default();
        leases.durable(Told::Start);
        leases.durable(Told::Lease(Slot(48)));
        leases.started(Slot(0), &[Told::Stop]);
        leases
    }

    #[test]
    fn a_marker_that_nobody_heard_of_counts_until_a_start_is_durable() {
        let mut leases = stopped_perhaps();
        assert!(leases.may_speak("VOTE").is_ok());
        // Nor is the next START heard of: perhaps nothing stands behind the marker.
        leases.started(Slot(0), &[Told::Start]);
        assert!(leases.may_speak("VOTE").is_ok());
        assert_eq!(leases.silent_perhaps_until(), Some(Slot(48)));
        leases.durable(Told::Start);
        leases.started(Slot(0), &[]);
        assert_eq!(leases.silent_until(), Some(Slot(48)));
    }

    /// What one process left on its way to the disk, a later one may still find there.
    #[test]
    fn a_certificate_that_nobody_heard_of_may_be_there_at_any_later_start() {
        let mut leases = Leases::default();
        leases.durable(Told::Start);
        leases.durable(Told::Lease(Slot(72)));
        leases.started(Slot(56), &[Told::Certified(Slot(72))]);
        leases.started(Slot(56), &[Told::Start]);
        assert!(leases.may_speak("VOTE").is_ok());
    }

    #[test]
    fn without_a_marker_what_lies_within_the_lease_is_forgotten() {
        let mut leases = Leases::default();
        leases.durable(Told::Start);
        leases.durable(Told::Lease(Slot(48)));
        leases.started(Slot(16), &[]);
        assert_eq!(leases.silent_until(), Some(Slot(48)));
        leases.durable(Told::Certified(Slot(48)));
        assert!(
            leases.may_vote("VOTE", Slot(49)).is_err(),
            "beyond the lease"
        );
        leases.durable(Told::Lease(Slot(96)));
        assert!(leases.may_vote("VOTE", Slot(49)).is_ok());
        assert!(
            leases.may_vote("VOTE", Slot(48)).is_err(),
            "perhaps forgotten"
        );
    }
}
