//! Reach-probes: which of the places that matter a run has been to.
//!
//! A simulator that never gets somewhere proves nothing about it. The world hits a probe when it
//! sees such a moment, a replica may name one too ([`Probe::by_name`]); a campaign counts the seeds
//! that hit each, and says which were hit by fewer than [`SEEDS_FEW`]. What was sent is counted by
//! kind, without a list: a kind of message that nothing ever sends is as telling.

use std::collections::BTreeMap;

use wire::header::Kind;

/// Fewer seeds than that have not shown much.
pub const SEEDS_FEW: u64 = 10;

macro_rules! probes {
    ($($probe:ident, $name:literal, $about:literal;)*) => {
        /// A moment worth reaching.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Probe {
            $(#[doc = $about] $probe,)*
        }

        impl Probe {
            /// All of them.
            pub const ALL: &'static [Probe] = &[$(Probe::$probe,)*];

            /// As it is called in reports.
            pub fn name(self) -> &'static str {
                match self {
                    $(Probe::$probe => $name,)*
                }
            }

            /// What it means.
            pub fn about(self) -> &'static str {
                match self {
                    $(Probe::$probe => $about,)*
                }
            }
        }
    };
}

probes! {
    Decided, "decided", "a slot was decided";
    DecidedAfterRestart, "decided-after-restart", "a process that had restarted decided something new";
    ViewChanged, "view-changed", "a replica came to a view above 0";
    LeaderBarred, "leader-barred", "a restarted leader may not propose (R4)";
    VotingStopped, "voting-stopped", "a replica votes no more in its view";
    CrashMidWrite, "crash-mid-write", "a process ended while a write was under way";
    CrashBeforeStart, "crash-before-start", "a process ended before its first write was durable";
    StoppedCleanly, "stopped-cleanly", "a process ended after its marker was durable";
    ManySilent, "many-silent", "more replicas were silent, or lied, than the committee bears";
    CrashBetweenEffects, "crash-between-effects", "a process ended between two effects of one call";
    TornLog, "torn-log", "a restart found a torn tail";
    AllDown, "all-down", "no process was running";
    InputsHeld, "inputs-held", "inputs waited for a paused process";
    LeaderPaused, "leader-paused", "the leader's process was paused";
    ClockJumped, "clock-jumped", "a replica's clock jumped while it ran";
    DiskLost, "disk-lost", "a replica found that its disk was put back";
    WriteFailed, "write-failed", "a write failed and the replica halted";
    ReadFailed, "read-failed", "an old block could not be read back";
    SegmentGranted, "segment-granted", "a log grew beyond its first files";
    CorruptRefused, "corrupt-refused", "a replica refused a datagram with flipped bits";
    LostToCut, "lost-to-cut", "a datagram was lost to a cut";
    LostInBurst, "lost-in-burst", "a datagram was lost in a burst";
    LostToQueue, "lost-to-queue", "a datagram was lost to the full queue of a slow link";
    Doubled, "doubled", "a datagram arrived twice";
    Lied, "lied", "a liar said something else than its replica";
    ClientLied, "client-lied", "a lying client had a turn";
    Damaged, "disk-damaged", "a disk was damaged before a start";
    TransferFinished, "transfer-finished", "a state was taken over";
    TransferRestarted, "transfer-restarted", "a transfer went over to a newer checkpoint";
    TransferOvertaken, "transfer-overtaken", "blocks were faster than a transfer";
    StateServed, "state-served", "a replica answered a question for its state";
    ChunkRefused, "chunk-refused", "a part of a state was false or not asked for";
    SnapshotWritten, "snapshot-written", "a snapshot became durable";
    LogReleased, "log-released", "a log let older records go";
    StartsLacking, "starts-lacking", "a process started without blocks of its log, or the state before it";
    FromSnapshot, "from-snapshot", "a process started from a snapshot";
    FromShortLog, "from-short-log", "a process started from a log without its beginning";
    ResultLost, "result-lost", "a client learned only that its operation was executed";
    OpenOperations, "open-operations", "operations were unanswered in the end";
    ManyOnOneKey, "many-on-one-key", "more than 50 operations on one key were checked for an order";
    OrderUnknown, "order-unknown", "the search for an order was given up";
}

impl Probe {
    /// The probe of that name, for those who only know names.
    pub fn by_name(name: &str) -> Option<Probe> {
        Probe::ALL
            .iter()
            .copied()
            .find(|probe| probe.name() == name)
    }
}

/// How often one run hit each probe, and how many datagrams of each kind it sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probes {
    hits: Vec<u64>,
    sent: Vec<u64>,
    /// Rare places inside of the product; empty in builds without the feature `canary`.
    reached: BTreeMap<&'static str, u64>,
}

/// Places inside of the product that [`wire::canary::reach`] counts.
pub const PLACES: &[&str] = &[
    "base-without-payload",
    "checkpoint-adopted",
    "copy-shown",
    "decided-by-commits",
    "evidence-stored",
    "final-off-branch",
    "late-install",
    "leader-resigned",
    "leader-too-slow",
    "lease-below-memory",
    "log-full",
    "older-copy-shown",
    "own-word-found",
    "padded-for-a-laggard",
    "padded-for-the-silent",
    "proposal-of-the-accused",
    "read-dropped",
    "read-waits",
    "recalled",
    "restart-in-view-change",
    "rivals-forgotten",
    "select-conflict",
    "select-tie",
    "silence-ends",
    "silence-ends-in-view-change",
    "silent-start",
    "tip-beyond-memory",
    "tip-dropped",
    "tip-invalid",
    "tip-jumps",
    "unsigned-copy-dropped",
    "unsigned-copy-kept-back",
    "unsigned-copy-settled",
    "view-refused",
    "vote-waits-for-disk",
    "vouched-copy-taken",
    "wish-followed",
    "wish-withdrawn",
];

impl Default for Probes {
    fn default() -> Probes {
        Probes {
            hits: vec![0; Probe::ALL.len()],
            sent: vec![0; 256],
            reached: BTreeMap::new(),
        }
    }
}

impl Probes {
    /// It happened.
    pub fn hit(&mut self, probe: Probe) {
        self.hits[probe as usize] += 1;
    }

    /// It happened if so.
    pub fn hit_if(&mut self, probe: Probe, happened: bool) {
        self.hits[probe as usize] += u64::from(happened);
    }

    /// How often it happened.
    pub fn count(&self, probe: Probe) -> u64 {
        self.hits[probe as usize]
    }

    /// Takes over what the product counted in this run.
    pub fn take_reached(&mut self) {
        #[cfg(feature = "canary")]
        {
            self.reached = wire::canary::take_reached();
        }
    }

    /// Rare places of the product, and how often this run came there; `None` when this build does
    /// not count them.
    pub fn places(&self) -> Option<impl Iterator<Item = (&'static str, u64)>> {
        let count = |place: &&'static str| (*place, self.reached.get(place).copied().unwrap_or(0));
        cfg!(feature = "canary").then(|| PLACES.iter().map(count))
    }

    /// A datagram leaves a replica or client; its kind stands behind magic and version.
    pub fn sends(&mut self, datagram: &[u8]) {
        if let Some(kind) = datagram.get(5) {
            self.sent[usize::from(*kind)] += 1;
        }
    }

    /// Every name with its count, those of kinds as `sent-vote`.
    pub fn named(&self) -> BTreeMap<String, u64> {
        let hits = Probe::ALL
            .iter()
            .map(|probe| (probe.name().to_owned(), self.count(*probe)));
        let sent = Kind::ALL
            .iter()
            .map(|kind| (kind_name(*kind), self.sent[*kind as usize]));
        let places = self.places().into_iter().flatten();
        let places = places.map(|(place, count)| (format!("at-{place}"), count));
        hits.chain(sent).chain(places).collect()
    }
}

fn kind_name(kind: Kind) -> String {
    let mut name = "sent".to_owned();
    for letter in format!("{kind:?}").chars() {
        if letter.is_uppercase() {
            name.push('-');
        }
        name.extend(letter.to_lowercase());
    }
    name
}

/// For every probe the number of seeds that hit it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached(BTreeMap<String, u64>);

impl Reached {
    /// Adds one seed.
    pub fn add(&mut self, probes: &Probes) {
        for (name, count) in probes.named() {
            *self.0.entry(name).or_default() += u64::from(count > 0);
        }
    }

    /// Probes with the number of seeds that hit them, by name.
    pub fn seeds(&self) -> &BTreeMap<String, u64> {
        &self.0
    }

    /// Those that were hit by few seeds.
    pub fn few(&self) -> impl Iterator<Item = (&str, u64)> {
        let all = self.0.iter().map(|(name, seeds)| (&name[..], *seeds));
        all.filter(|(_, seeds)| *seeds < SEEDS_FEW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_campaign_counts_seeds_and_names_what_few_hit() {
        let mut reached = Reached::default();
        for seed in 0..20 {
            let mut probes = Probes::default();
            probes.hit(Probe::Decided);
            probes.hit(Probe::Decided);
            probes.hit_if(Probe::TornLog, seed < 3);
            probes.sends(&[0, 0, 0, 0, 0, Kind::FetchBlock as u8]);
            reached.add(&probes);
        }
        assert_eq!(reached.seeds()["decided"], 20);
        assert_eq!(reached.seeds()["sent-fetch-block"], 20);
        let few = reached.few().collect::<BTreeMap<_, _>>();
        assert_eq!(few.get("torn-log"), Some(&3));
        assert_eq!(few.get("sent-view-change"), Some(&0));
        assert!(!few.contains_key("decided"));
    }

    #[test]
    fn names_are_unique_and_found() {
        let probes = Probes::default().named();
        let places = if cfg!(feature = "canary") {
            PLACES.len()
        } else {
            0
        };
        assert_eq!(probes.len(), Probe::ALL.len() + Kind::ALL.len() + places);
        for probe in Probe::ALL {
            assert_eq!(Probe::by_name(probe.name()), Some(*probe));
        }
        assert_eq!(Probe::by_name("nowhere"), None);
    }
}
