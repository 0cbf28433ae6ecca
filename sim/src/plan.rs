//! Everything that the seed decides in advance: sizes, faults and their times, and what is demanded.

use serde::{Deserialize, Serialize};
use wire::limits::{BLOCK_BUFFER_BYTES, SECTOR_BYTES};

use crate::canaries::Canary;
use crate::faults::draw::{self, FaultPlan, Stage};
use crate::faults::{Fault, FaultSet};
use crate::network::{Cut, LinkFaults};
use crate::random::Random;
use crate::seals::Profile;
use crate::shapes::{SHAPES, Shape};

/// One run of so many keeps flight recordings: a replay costs as much as the cores did.
const RECORDED_EVERY: u64 = 8;
/// Nanoseconds in a microsecond, a millisecond, a second.
pub const US: u64 = 1_000;
pub const MS: u64 = 1_000_000;
pub const S: u64 = 1_000_000_000;

const MIB: u64 = 1 << 20;

/// Virtual time at which a world begins.
pub const BEGIN_NS: u64 = S;
/// After the faults have ended, everything demanded happens within this virtual time. Replicas need
/// a fraction of a second; a client that met many losses pauses for seconds before it asks again.
pub const LIVENESS_NS: u64 = 60 * S;
/// So much longer may it take where replicas are silent: a leader fills up to the end of one's
/// silence once in a minute, of a clock that may run at half speed.
pub const SILENCE_NS: u64 = 150 * S;

/// Which votes wait for the disk, in all replicas of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Votes {
    /// Each seed draws it: leases in a quarter of them.
    #[default]
    Drawn,
    /// All votes wait (R2).
    Sync,
    /// Votes leave within leases (R3).
    Lease,
}

/// Where the tables of all replicas are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tables {
    /// In memory; snapshot files hold them on disk.
    #[default]
    Memory,
    /// Over a store on disk, with little room in memory in most seeds.
    Disk,
}

/// What one run is asked to do.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Options {
    pub nodes: usize,
    /// Index into [`SHAPES`].
    pub shape: usize,
    pub profile: Profile,
    pub canary: Option<Canary>,
    /// What seeds draw their faults from.
    pub faults: FaultSet,
    pub trace: bool,
    /// One liar more than the committee bears.
    #[serde(default)]
    pub beyond: bool,
    #[serde(default)]
    pub durability: Votes,
    #[serde(default)]
    pub table: Tables,
}

impl Options {
    /// The committee.
    pub fn shape(&self) -> &'static Shape {
        &SHAPES[self.shape]
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            nodes: 4,
            shape: 0,
            profile: Profile::Core,
            canary: None,
            faults: FaultSet::standard(),
            trace: false,
            beyond: false,
            durability: Votes::Drawn,
            table: Tables::Memory,
        }
    }
}

/// Which faults a seed has, and with them what it demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scenario {
    /// Followers crash, the leader does not: every operation must end.
    Followers,
    /// All crash: what was acknowledged must survive.
    Everyone,
    /// Scripted; says itself what must happen.
    Story,
    /// The leader of the first view crashes and comes back: another one leads meanwhile.
    Leader,
}

impl Scenario {
    /// Whether every operation must end.
    pub fn demands_progress(self) -> bool {
        match self {
            Scenario::Followers | Scenario::Everyone | Scenario::Leader => true,
            Scenario::Story => false,
        }
    }
}

/// One crash and the restart after it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Crash {
    pub node: usize,
    /// After the group's moment.
    pub after_ns: u64,
    pub down_ns: u64,
}

/// Crashes that have one cause.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Blow {
    pub at_ns: u64,
    /// From then on wait until this replica has a write under way.
    pub mid_write: Option<usize>,
    pub crashes: Vec<Crash>,
}

/// A disk's manners.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct DiskPlan {
    pub write_ns: u64,
    pub jitter_ns: u64,
    /// Writes in a thousand that take fifty milliseconds.
    pub stalls_per_mille: u32,
    pub segment_bytes: u64,
    pub segments_max: u32,
    pub atom_bytes: usize,
    /// A snapshot is written when the log in use has this many bytes.
    pub snapshot_log_bytes: u64,
}

/// What one client does.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct UserPlan {
    pub operations: u32,
    pub in_flight_max: usize,
    pub bundle_max: usize,
    pub linger_ns: u64,
    pub value_bytes_max: u64,
    pub begins_ns: u64,
    /// Pause between two operations, so that load and faults meet.
    pub think_ns: u64,
}

/// The plan of one world.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub seed: u64,
    pub options: Options,
    pub scenario: Scenario,
    /// When the network is whole again and everyone is up, in virtual time.
    pub heal_ns: u64,
    pub deadline_ns: u64,
    pub blows: Vec<Blow>,
    /// Crashes come before this time.
    pub calm_ns: u64,
    pub disk: DiskPlan,
    pub users: Vec<UserPlan>,
    /// Shared keys that users fight for.
    pub keys: u64,
    pub datagram_bytes: usize,
    pub batch_delay_ns: u64,
    /// Votes bear no signatures.
    #[serde(default)]
    pub votes_by_mac: bool,
    /// Blocks above the executed slot whose bytes a replica holds.
    #[serde(default = "held_blocks")]
    pub held_blocks: u64,
    /// Bytes of memory for entries of tables that are over a store on disk; none: all are in memory.
    pub table_memory_bytes: Option<u64>,
    /// Votes leave within leases, without the disk.
    #[serde(default)]
    pub leases: bool,
    /// Nothing waits for the disk (`durability = none`); an unclean end is a lost disk (R5).
    #[serde(default)]
    pub careless: bool,
    /// Slots between checkpoints.
    pub interval: u64,
    /// S_max: sessions of clients.
    #[serde(default = "sessions_max")]
    pub sessions_max: usize,
    /// Slots behind a checkpoint from which on the state is taken over.
    pub transfer_beyond: u64,
    /// Verifications and executions of one call; the rest waits for the next.
    pub pace: (usize, usize),
    /// Pause until a replica goes on with what waits.
    pub lag_ns: u64,
    /// By sender and receiver: replicas first, then users, then clients that lie.
    pub links: Vec<Vec<LinkFaults>>,
    pub cuts: Vec<Cut>,
    pub faults: FaultPlan,
}

fn sessions_max() -> usize {
    wire::limits::SESSIONS_MAX
}

/// As in production.
pub const HELD_BLOCKS: u64 = 192;

fn held_blocks() -> u64 {
    HELD_BLOCKS
}

impl DiskPlan {
    /// The smallest log that a cluster with this checkpoint interval does not get stuck with: two
    /// intervals of large blocks that are kept, one until the next checkpoint, and one while its
    /// snapshot is written.
    fn shrink(&mut self, interval: u64) {
        if self.snapshot_log_bytes > 4 * MIB {
            return;
        }
        let blocks = 4 * interval * (BLOCK_BUFFER_BYTES as u64);
        let needed = blocks + self.snapshot_log_bytes + MIB;
        let segments = needed.div_ceil(self.segment_bytes) as u32 + 2;
        self.segments_max = self.segments_max.min(segments);
    }
}

impl Plan {
    /// Of a flight recording: small, so that reels turn within a run.
    pub fn reel_bytes(&self) -> usize {
        64 << 10 << (self.seed / RECORDED_EVERY % 4)
    }

    /// Whether the replicas of this run keep flight recordings, which are replayed when they end.
    pub fn records(&self) -> bool {
        self.seed % RECORDED_EVERY == RECORDED_EVERY - 1
    }

    pub fn new(seed: u64, options: Options) -> Plan {
        let mut random = Random::new(seed);
        let random = &mut random;
        let enabled = options.faults.swarm(&mut random.fork(1));
        let scenario = match random.below(8) {
            0 if enabled.has(Fault::Crash) => Scenario::Leader,
            1 | 2 if enabled.has(Fault::RestartAll) => Scenario::Everyone,
            _ => Scenario::Followers,
        };
        let faults_ns = random.within(200, 1500) * MS;
        let mut blows = blows(random, scenario, options.nodes, faults_ns);
        if scenario == Scenario::Followers && !enabled.has(Fault::Crash) {
            blows.clear();
        }
        if !enabled.has(Fault::CrashMidWrite) {
            blows.iter_mut().for_each(|blow| blow.mid_write = None);
        }
        let users = (0..random.within(1, 4))
            .map(|_| user(random, faults_ns))
            .collect::<Vec<_>>();
        let ends = options.nodes + users.len();
        let mut fault_random = random.fork(2);
        let shape = options.shape();
        let stage = Stage {
            nodes: options.nodes,
            ends,
            faults_ns,
            liars_max: shape.b.min(shape.u),
            beyond: options.beyond,
            mortal: (usize::from(scenario == Scenario::Followers)..options.nodes).collect(),
        };
        let mut faults = FaultPlan::draw(&mut fault_random, enabled, &stage);
        // Of a stream of their own: seeds without them stay what they were.
        faults.draw_clients(&mut Random::new(seed ^ 0xc11e_4715));
        faults.draw_stops(&mut Random::new(seed ^ 0x5709_5e4c), &stage);
        let leases = match options.durability {
            Votes::Drawn => Random::new(seed ^ 0x1ea5_e000).chance(250),
            Votes::Sync => false,
            Votes::Lease => true,
        };
        let table_memory_bytes = (options.table == Tables::Disk).then(|| {
            let mut random = Random::new(seed ^ 0x7ab1_e000);
            *random.pick(&[0, 4096, 64 * 1024, u64::MAX])
        });
        let links_ends = ends + faults.clients.len();
        if enabled.has(Fault::CrashLoop) && fault_random.chance(300) {
            blows.push(draw::crash_loop(&mut fault_random, &stage));
        }
        // Harm is done to a disk whose replica is down.
        for damage in &faults.damages {
            blows.push(Blow {
                at_ns: damage.at_ns + fault_random.below(100 * MS),
                mid_write: None,
                crashes: vec![Crash {
                    node: damage.node,
                    after_ns: 0,
                    down_ns: 10 * MS,
                }],
            });
        }
        let crashes = blows.iter().flat_map(|blow| &blow.crashes);
        let downtime = crashes.map(|crash| crash.after_ns + crash.down_ns).max();
        let calm_ns = BEGIN_NS + faults_ns;
        let heal_ns = (calm_ns + downtime.unwrap_or(0)).max(faults.ends_ns()) + 5 * MS;
        let harshness = *random.pick(&[0, 20, 100, 300]);
        let links = (0..links_ends)
            .map(|_| {
                (0..links_ends)
                    .map(|_| draw::link(random, enabled, harshness))
                    .collect()
            })
            .collect();
        let cuts = draw::cuts(&mut fault_random, enabled, &stage);
        let mut disk = disk(random);
        if !enabled.has(Fault::DiskStall) {
            disk.stalls_per_mille = 0;
        }
        let interval = *random.pick(&[4, 8, 8, 16, 64, 1024]);
        let transfer_beyond = *random.pick(&[1, interval, 2 * interval, 8 * interval]);
        // Of a stream of their own: the other seeds stay what they were.
        let scarce = &mut Random::new(seed ^ 0x5ca7_ce00);
        let held_blocks = *scarce.pick(&[HELD_BLOCKS, 128]);
        if scarce.chance(500) {
            disk.shrink(interval);
        }
        Plan {
            seed,
            options,
            scenario,
            heal_ns,
            deadline_ns: heal_ns + LIVENESS_NS + if leases { SILENCE_NS } else { 0 },
            blows,
            calm_ns,
            disk,
            users,
            keys: random.within(1, 8),
            datagram_bytes: *random.pick(&[1472, 1472, 4096, 65_507]),
            batch_delay_ns: *random.pick(&[0, 100 * US, MS]),
            votes_by_mac: shape.votes_by_mac,
            held_blocks,
            table_memory_bytes,
            leases,
            careless: false,
            interval,
            sessions_max: sessions_max(),
            transfer_beyond,
            pace: *random.pick(&[(usize::MAX, usize::MAX), (1, usize::MAX), (4, 1), (1, 1)]),
            lag_ns: random.within(1, 100) * US,
            links,
            cuts,
            faults,
        }
    }

    /// Takes one class of faults out. Cuts are not told apart by class: they go one by one.
    pub fn remove(&mut self, fault: Fault) {
        self.faults.remove(fault);
        let whole = LinkFaults::WHOLE;
        for link in self.links.iter_mut().flatten() {
            match fault {
                Fault::Loss => link.loss_per_mille = 0,
                Fault::Burst => link.burst_per_mille = 0,
                Fault::Duplicate => link.double_per_mille = 0,
                Fault::Reorder => link.jitter_ns = whole.jitter_ns,
                Fault::Delay => link.delay_ns = whole.delay_ns,
                Fault::Straggle => link.straggle_per_mille = 0,
                Fault::SlowLink => link.bytes_per_s = 0,
                Fault::Corrupt => link.corrupt_per_mille = 0,
                _ => {}
            }
        }
        match fault {
            Fault::Crash => self.blows.clear(),
            Fault::CrashMidWrite => self.blows.iter_mut().for_each(|b| b.mid_write = None),
            Fault::DiskStall => self.disk.stalls_per_mille = 0,
            _ => {}
        }
    }

    /// When the last fault that has a time of its own has ended.
    pub fn last_fault_ns(&self) -> u64 {
        let crashes = self.blows.iter().flat_map(|blow| {
            let ends = blow.crashes.iter().map(|c| c.after_ns + c.down_ns);
            ends.map(|end| blow.at_ns + end)
        });
        let cuts = self.cuts.iter().map(|cut| cut.until_ns);
        let begins = self.users.iter().map(|user| user.begins_ns);
        let last = crashes.chain(cuts).chain(begins).max().unwrap_or(0);
        last.max(self.faults.ends_ns()).max(BEGIN_NS) + 5 * MS
    }
}

fn blows(random: &mut Random, scenario: Scenario, nodes: usize, faults_ns: u64) -> Vec<Blow> {
    let blow = |random: &mut Random, nodes: &[usize], spread_ns: u64| {
        let crashes = nodes.iter().map(|&node| Crash {
            node,
            after_ns: random.within(0, spread_ns),
            down_ns: match random.below(3) {
                0 => random.within(1, 5 * MS),
                1 => random.within(5 * MS, 200 * MS),
                _ => random.within(200 * MS, 2 * S),
            },
        });
        let crashes = crashes.collect();
        Blow {
            at_ns: BEGIN_NS + random.within(30 * MS, faults_ns),
            mid_write: random.chance(700).then(|| *random.pick(nodes)),
            crashes,
        }
    };
    let everyone = (0..nodes).collect::<Vec<_>>();
    match scenario {
        Scenario::Followers => {
            let count = random.below(4);
            let blows = (0..count).map(|_| {
                let node = random.within(1, nodes as u64 - 1) as usize;
                blow(random, &[node], 0)
            });
            let mut blows = blows.collect::<Vec<_>>();
            if random.chance(300) {
                // Away until the others have let go of what it lacks.
                let node = random.within(1, nodes as u64 - 1) as usize;
                let mut away = blow(random, &[node], 0);
                away.at_ns = BEGIN_NS + random.within(30 * MS, 200 * MS);
                away.crashes[0].down_ns = random.within(faults_ns / 2, 2 * faults_ns);
                blows.push(away);
            }
            blows
        }
        Scenario::Leader => vec![blow(random, &[0], 0)],
        Scenario::Story => Vec::new(),
        Scenario::Everyone => {
            let spread_ns = *random.pick(&[0, 100 * US, 20 * MS]);
            vec![blow(random, &everyone, spread_ns)]
        }
    }
}

fn user(random: &mut Random, faults_ns: u64) -> UserPlan {
    let operations = if random.chance(250) {
        random.within(100, 400)
    } else {
        random.within(10, 60)
    };
    let in_flight_max = *random.pick(&[1, 2, 8, 32]);
    UserPlan {
        operations: operations as u32,
        in_flight_max,
        bundle_max: random.within(1, in_flight_max as u64) as usize,
        linger_ns: *random.pick(&[0, 50 * US, MS]),
        value_bytes_max: *random.pick(&[16, 64, 64, 2_000, 20_000]),
        begins_ns: BEGIN_NS + random.below(50 * MS),
        think_ns: if random.chance(750) {
            faults_ns / operations
        } else {
            0
        },
    }
}

fn disk(random: &mut Random) -> DiskPlan {
    let write_ns = *random.pick(&[20 * US, 150 * US, 2 * MS]);
    DiskPlan {
        write_ns,
        jitter_ns: random.within(1, write_ns),
        stalls_per_mille: *random.pick(&[0, 0, 5, 30]),
        // The smallest holds little more than the largest block.
        segment_bytes: *random.pick(&[288, 288, 288, 512, 4096]) * 1024,
        segments_max: 64,
        atom_bytes: *random.pick(&[SECTOR_BYTES, SECTOR_BYTES, 512]),
        snapshot_log_bytes: *random.pick(&[0, 256 * 1024, MIB, 4 * MIB, u64::MAX]),
    }
}
