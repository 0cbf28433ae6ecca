//! The repertoire of faults: their names, and which of them a run may use.
//!
//! Of what is allowed each seed enables a random subset (swarm testing): a fault that is always on
//! hides what happens without it. [`draw`] turns the enabled ones into times and places. Faults that
//! the product cannot repair yet are off unless they are asked for by name; those are on in every
//! seed then.

pub mod draw;

use serde::{Deserialize, Serialize};

use crate::random::Random;

macro_rules! faults {
    ($($fault:ident, $name:literal, $standard:literal, $about:literal;)*) => {
        /// Something that goes wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Fault {
            $(#[doc = $about] #[serde(rename = $name)] $fault,)*
        }

        impl Fault {
            /// All of them, in the order of their classes.
            pub const ALL: &'static [Fault] = &[$(Fault::$fault,)*];

            /// As it is called on the command line.
            pub fn name(self) -> &'static str {
                match self {
                    $(Fault::$fault => $name,)*
                }
            }

            /// One line on what it does.
            pub fn about(self) -> &'static str {
                match self {
                    $(Fault::$fault => $about,)*
                }
            }

            /// Whether seeds draw it without being asked to.
            pub fn is_standard(self) -> bool {
                match self {
                    $(Fault::$fault => $standard,)*
                }
            }
        }
    };
}

faults! {
    Loss, "net-loss", true, "each directed link loses up to 30% of its datagrams";
    Burst, "net-burst", true, "links lose everything for 1 to 20 ms at a time";
    Duplicate, "net-duplicate", true, "links deliver up to 15% twice";
    Reorder, "net-reorder", true, "up to 5 ms of jitter, so that datagrams overtake each other";
    Delay, "net-delay", true, "links differ in latency, up to 1 ms";
    Straggle, "net-straggle", true, "single datagrams arrive 10 to 200 ms late";
    Cut, "net-cut", true, "an end hears or is heard by nobody, or by one other, for a while";
    OneWay, "net-one-way", true, "one directed link between replicas is cut";
    Partial, "net-partial", true, "a random set of directed links between replicas is cut";
    Partition, "net-partition", true, "replicas fall into two groups, or into a ring";
    Flap, "net-flap", true, "links go down and up in periods of 2 to 50 ms";
    Swizzle, "net-swizzle", true, "replicas are cut off one by one and come back in another order";
    SlowLink, "net-slow-link", true, "a link of 1 to 8 Mbit/s with a queue of at most 64 KiB";
    Corrupt, "net-corrupt", true, "bits flip in up to 5% of the datagrams; every one must be refused";
    Crash, "proc-crash", true, "processes end at random times and start again";
    CrashMidWrite, "proc-crash-mid-write", true, "crashes wait until a write is under way, and tear it";
    CrashStep, "proc-crash-step", true, "a process ends between two effects of one call";
    CrashLoop, "proc-crash-loop", true, "20 crashes of one replica, each soon after its start";
    Pause, "proc-pause", true, "a process is stopped and goes on; its inputs wait";
    RestartAll, "proc-restart-all", true, "all processes end within 20 ms";
    ClockRate, "clock-rate", true, "monotonic clocks run at half to double speed, each its own";
    ClockJump, "clock-jump", true, "monotonic clocks jump forward by up to 30 s";
    ClockWall, "clock-wall", true, "wall clocks are up to ten years ahead or behind";
    DiskSlow, "disk-slow", true, "one disk is up to 100 times slower for a while";
    DiskStall, "disk-stall", true, "single writes take 50 ms";
    DiskError, "disk-error", true, "a write or its flush fails: the replica must halt";
    ReadError, "disk-read-error", true, "reads of old blocks fail";
    Rot, "disk-rot", false, "bits flip, or sectors are zero, on one disk before a restart";
    Misdirect, "disk-misdirect", false, "two sectors change places, or one shows what it held before";
    Full, "disk-full", false, "no log segments are granted while faults last";
    Rollback, "disk-rollback", false, "a disk is put back to an earlier image before a restart";
    Blank, "disk-blank", false, "a disk is empty after a restart";
    LiarSilent, "liar-silent", true, "a replica sends nothing, or only to one";
    LiarMutator, "liar-mutator", true, "a replica flips bits in what it sends, well authenticated";
    LiarEquivocator, "liar-equivocator", true, "a leader builds two branches and tells each of one";
    LiarDoubleVoter, "liar-double-voter", true, "a replica votes for rivals and unknown blocks";
    LiarSelective, "liar-selective", true, "a replica says some kinds of things to some only";
    LiarFalseChanges, "liar-false-changes", true, "view changes forged, stale, shortened, two-faced";
    LiarFalseLeader, "liar-false-leader", true, "a new leader chooses badly, or twice";
    LiarExtremes, "liar-extremes", true, "views and slots at the ends of their range, well signed";
    LiarFlooder, "liar-flooder", true, "many messages with bad signatures";
    LiarWrongStates, "liar-wrong-states", true, "wrong state roots, replies and claims";
    LiarCensor, "liar-censor", true, "a leader ignores one client";
    LiarSlowLeader, "liar-slow-leader", true, "a leader delays its proposals by 5 to 990 ms";
    LiarBadBatch, "liar-bad-batch", true, "a leader proposes requests with bad signatures";
    LiarTimestamps, "liar-timestamps", true, "a leader's time hints jump to the ends of time";
    LiarStarver, "liar-starver", true, "a replica keeps blocks from one, or from all but one";
    LiarAlarmist, "liar-alarmist", true, "frivolous wishes, split acknowledgements, replayed certificates";
    LiarHalfHeard, "liar-half-heard", true, "a replica authenticates wrongly for some";
    LiarTwin, "liar-twin", true, "two processes with one key, known to different replicas";
    LiarAmnesiac, "liar-amnesiac", true, "a replica comes back with an old disk and goes on";
    ClientForger, "client-forger", true, "a client with bad signatures and other clients' names";
    ClientDisorder, "client-disorder", true, "a client that replays, and numbers in disorder";
    ClientLengths, "client-lengths", true, "datagrams of every length, which contradict themselves";
    ClientTwoFaced, "client-two-faced", true, "two operations under one number, to different replicas";
    ClientFlood, "client-flood", true, "a client with ten times the load of the others";
    ClientCrowd, "client-crowd", true, "a client with many keys and sessions";
    ClientScanner, "client-scanner", true, "huge scans whose replies nobody takes";
    Stop, "proc-stop", true, "a process is stopped cleanly: it leaves its marker, and starts again";
    FewBuffers, "few-buffers", false, "block buffers for little more than one chain: rivals must make room";
    LiarEndSigner, "liar-end-signer", false, "a leader signs the last block of each stretch alone";
    Holes, "disk-holes", false, "blocks rot on one disk before a restart";
    Stateless, "disk-stateless", false, "snapshots and table of one disk are gone before a restart";
}

const _: () = assert!(Fault::ALL.len() <= 64);

impl Fault {
    /// The fault of that name.
    pub fn by_name(name: &str) -> Result<Fault, String> {
        let found = Fault::ALL.iter().find(|fault| fault.name() == name);
        found
            .copied()
            .ok_or_else(|| format!("there is no fault {name:?}; see hippo-sim list-faults"))
    }
}

/// A set of faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Fault>", into = "Vec<Fault>")]
pub struct FaultSet(u64);

impl From<Vec<Fault>> for FaultSet {
    fn from(faults: Vec<Fault>) -> FaultSet {
        faults.into_iter().collect()
    }
}

impl From<FaultSet> for Vec<Fault> {
    fn from(set: FaultSet) -> Vec<Fault> {
        set.iter().collect()
    }
}

impl FromIterator<Fault> for FaultSet {
    fn from_iter<I: IntoIterator<Item = Fault>>(faults: I) -> FaultSet {
        FaultSet(faults.into_iter().fold(0, |set, f| set | 1 << f as u8))
    }
}

impl FaultSet {
    /// No fault at all.
    pub const NONE: FaultSet = FaultSet(0);

    /// What seeds draw from without being asked to.
    pub fn standard() -> FaultSet {
        let standard = Fault::ALL.iter().filter(|fault| fault.is_standard());
        standard.copied().collect()
    }

    /// Whether the fault is in the set.
    pub fn has(self, fault: Fault) -> bool {
        self.0 >> (fault as u8) & 1 == 1
    }

    /// The set with this fault.
    #[must_use]
    pub fn with(self, fault: Fault) -> FaultSet {
        FaultSet(self.0 | 1 << fault as u8)
    }

    /// The set without this fault.
    #[must_use]
    pub fn without(self, fault: Fault) -> FaultSet {
        FaultSet(self.0 & !(1 << fault as u8))
    }

    /// The faults, in the order of [`Fault::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        Fault::ALL.iter().copied().filter(move |f| self.has(*f))
    }

    /// Of the standard ones each with a chance of one half, of the others each.
    pub fn swarm(self, random: &mut Random) -> FaultSet {
        let drawn = Fault::ALL.iter().map(|f| (*f, random.chance(500)));
        let drawn = drawn.collect::<Vec<_>>();
        let taken = drawn.into_iter().filter(|(f, d)| *d || !f.is_standard());
        taken.map(|(f, _)| f).filter(|f| self.has(*f)).collect()
    }
}

/// A line for each fault.
pub fn list() -> String {
    let line = |fault: &Fault| {
        let mark = if fault.is_standard() { "   " } else { "off" };
        format!("{:22} {mark}  {}\n", fault.name(), fault.about())
    };
    Fault::ALL.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_sets_keep_what_they_take() {
        for fault in Fault::ALL {
            assert_eq!(Fault::by_name(fault.name()), Ok(*fault));
            let set = FaultSet::NONE.with(*fault);
            assert_eq!(set.iter().collect::<Vec<_>>(), [*fault]);
            assert_eq!(set.without(*fault), FaultSet::NONE);
        }
        assert!(
            Fault::by_name("net-los")
                .unwrap_err()
                .contains("list-faults")
        );
        assert_eq!(list().lines().count(), Fault::ALL.len());
    }

    #[test]
    fn swarms_differ_and_take_what_was_asked_for() {
        let asked = FaultSet::standard().with(Fault::Rot);
        let mut random = Random::new(1);
        let swarms = (0..100)
            .map(|_| asked.swarm(&mut random))
            .collect::<Vec<_>>();
        assert!(swarms.iter().all(|swarm| swarm.has(Fault::Rot)));
        assert!(swarms.iter().all(|swarm| !swarm.has(Fault::Blank)));
        let losses = swarms.iter().filter(|swarm| swarm.has(Fault::Loss)).count();
        assert!((25..75).contains(&losses));
        assert_eq!(FaultSet::NONE.swarm(&mut random), FaultSet::NONE);
    }
}
