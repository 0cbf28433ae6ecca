//! Which faults of the enabled classes strike where and when. Everything has ended when the network
//! heals.

use serde::{Deserialize, Serialize};

use super::{Fault, FaultSet};
use crate::liars::LiarKind;
use crate::liars::clients::ClientKind;
use crate::network::{Cut, LinkFaults};
use crate::plan::{BEGIN_NS, Blow, Crash, MS, S, US};
use crate::random::Random;

/// A process ends between two effects of one call.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct StepCrash {
    pub node: usize,
    /// From then on wait for a call with more than one effect.
    pub at_ns: u64,
    /// The part of its effects that is still carried out.
    pub keep_per_mille: u64,
    pub down_ns: u64,
}

/// A process is stopped; what arrives waits.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Pause {
    pub node: usize,
    pub from_ns: u64,
    pub until_ns: u64,
}

/// How one replica's clocks run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClockPlan {
    /// 1000 is true time.
    pub rate_per_mille: u64,
    /// At such a time of the world, so much forward.
    pub jumps: Vec<(u64, u64)>,
    pub wall_offset_ns: u64,
}

/// A process is stopped cleanly, and starts again after it has ended.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Stop {
    pub node: usize,
    pub at_ns: u64,
    pub down_ns: u64,
}

/// The next write of this disk after a time fails.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct DiskError {
    pub node: usize,
    pub at_ns: u64,
    pub down_ns: u64,
}

/// A disk's writes take longer for a while.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct SlowDisk {
    pub node: usize,
    pub from_ns: u64,
    pub until_ns: u64,
    pub factor: u64,
}

/// What a disk suffers while its replica is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Harm {
    /// Flips bits in that many sectors.
    Flip(u32),
    /// Flips bits in the bodies of that many acknowledged blocks.
    Blocks(u32),
    /// Snapshots and table are gone.
    State,
    /// Zeroes that many sectors.
    Zero(u32),
    /// Two sectors change places.
    Swap,
    /// That many sectors show what they held when the image was taken.
    Stale(u32),
    /// The whole disk is as it was when the image was taken.
    Rollback,
    /// Nothing is left.
    Blank,
}

/// Harm to one disk, done at the first start after this time; the image is taken at this time.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Damage {
    pub node: usize,
    pub at_ns: u64,
    pub harm: Harm,
}

/// Everything drawn beyond links, cuts and blows, which the plan holds itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FaultPlan {
    pub enabled: FaultSet,
    pub steps: Vec<StepCrash>,
    pub pauses: Vec<Pause>,
    /// By replica; empty: all clocks are true.
    pub clocks: Vec<ClockPlan>,
    pub disk_errors: Vec<DiskError>,
    pub read_errors_per_mille: u32,
    pub slow_disks: Vec<SlowDisk>,
    pub damages: Vec<Damage>,
    /// No segments are granted before the network heals.
    pub disks_full: bool,
    #[serde(default)]
    pub few_buffers: bool,
    pub liars: Vec<(usize, LiarKind)>,
    #[serde(default)]
    pub clients: Vec<ClientKind>,
    #[serde(default)]
    pub stops: Vec<Stop>,
}

/// What the draws need to know of the world.
pub struct Stage {
    pub nodes: usize,
    pub ends: usize,
    /// Faults begin within this time.
    pub faults_ns: u64,
    /// Liars at most.
    pub liars_max: usize,
    /// One more than that lies.
    pub beyond: bool,
    /// Replicas whose process may end or fail.
    pub mortal: Vec<usize>,
}

impl Stage {
    fn moment(&self, random: &mut Random) -> u64 {
        BEGIN_NS + random.within(30 * MS, self.faults_ns)
    }

    fn window(&self, random: &mut Random, most_ns: u64) -> (u64, u64) {
        let from_ns = self.moment(random);
        let until_ns = from_ns + random.within(MS, most_ns);
        (
            from_ns,
            until_ns.min(BEGIN_NS + self.faults_ns).max(from_ns + 1),
        )
    }
}

fn down(random: &mut Random) -> u64 {
    random.within(MS, 100 * MS)
}

/// A link of its own manners.
pub fn link(random: &mut Random, enabled: FaultSet, harshness: u32) -> LinkFaults {
    let drawn = LinkFaults::draw(random, harshness);
    let whole = LinkFaults::WHOLE;
    let slow = random.chance(150);
    let (bursts, corrupt) = (random.below(8) as u32, random.below(51) as u32);
    let bytes_per_s = random.within(125_000, 1_000_000);
    let queue_bytes = random.within(8, 64) * 1024;
    let has = |fault| enabled.has(fault);
    let if_on = |fault, value: u32| if has(fault) { value } else { 0 };
    LinkFaults {
        loss_per_mille: if_on(Fault::Loss, drawn.loss_per_mille),
        double_per_mille: if_on(Fault::Duplicate, drawn.double_per_mille),
        delay_ns: if has(Fault::Delay) {
            drawn.delay_ns
        } else {
            whole.delay_ns
        },
        jitter_ns: if has(Fault::Reorder) {
            drawn.jitter_ns
        } else {
            whole.jitter_ns
        },
        straggle_per_mille: if_on(Fault::Straggle, drawn.straggle_per_mille),
        burst_per_mille: if_on(Fault::Burst, bursts),
        corrupt_per_mille: if_on(Fault::Corrupt, corrupt),
        bytes_per_s: if slow && has(Fault::SlowLink) {
            bytes_per_s
        } else {
            0
        },
        queue_bytes,
    }
}

/// Everything that is cut, for a while.
pub fn cuts(random: &mut Random, enabled: FaultSet, stage: &Stage) -> Vec<Cut> {
    let (nodes, until_ns) = (stage.nodes, BEGIN_NS + stage.faults_ns);
    let mut cuts = Vec::new();
    let pairs = (0..nodes)
        .flat_map(|from| (0..nodes).map(move |to| (from, to)))
        .filter(|(from, to)| from != to)
        .collect::<Vec<_>>();
    let one_way = |(end, to): (usize, usize), (from_ns, until_ns)| Cut {
        end,
        to: Some(to),
        both_ways: false,
        from_ns,
        until_ns,
    };
    if enabled.has(Fault::Cut) {
        let count = random.within(1, 3);
        cuts.extend((0..count).map(|_| Cut::draw(random, stage.ends, BEGIN_NS, until_ns)));
    }
    if enabled.has(Fault::OneWay) {
        let window = stage.window(random, S);
        cuts.push(one_way(*random.pick(&pairs), window));
    }
    if enabled.has(Fault::Partial) {
        let window = stage.window(random, S);
        let part = random.within(200, 700) as u32;
        let some = pairs.iter().filter(|_| random.chance(part));
        cuts.extend(some.map(|pair| one_way(*pair, window)));
    }
    if enabled.has(Fault::Partition) {
        let window = stage.window(random, S);
        let lone = random.below(nodes as u64) as usize;
        let shape = random.below(3);
        let parted = pairs.iter().filter(|(from, to)| match shape {
            0 => from % 2 != to % 2,
            1 => (*from == lone) != (*to == lone),
            _ => (from + 1) % nodes != *to && (to + 1) % nodes != *from,
        });
        cuts.extend(parted.map(|pair| one_way(*pair, window)));
    }
    if enabled.has(Fault::Flap) {
        let (from_ns, until_ns) = stage.window(random, S);
        let period_ns = random.within(2, 50) * MS;
        let pair = *random.pick(&pairs);
        let starts = (0..20).map(|turn| from_ns + turn * period_ns);
        let starts = starts.take_while(|start| *start < until_ns);
        cuts.extend(starts.map(|start| one_way(pair, (start, start + period_ns / 2))));
    }
    if enabled.has(Fault::Swizzle) {
        let (from_ns, until_ns) = stage.window(random, S);
        let middle_ns = from_ns.midpoint(until_ns);
        cuts.extend((0..nodes).map(|end| Cut {
            end,
            to: None,
            both_ways: true,
            from_ns: random.within(from_ns, middle_ns),
            until_ns: random.within(middle_ns, until_ns),
        }));
    }
    cuts
}

/// Twenty crashes of one replica, each soon after its start.
pub fn crash_loop(random: &mut Random, stage: &Stage) -> Blow {
    let node = *random.pick(&stage.mortal);
    let mut after_ns = 0;
    let crashes = (0..20).map(|_| {
        let down_ns = random.within(US, 2 * MS);
        let crash = Crash {
            node,
            after_ns,
            down_ns,
        };
        after_ns += down_ns + random.within(1, *random.clone().pick(&[US, 100 * US, 5 * MS]));
        crash
    });
    Blow {
        crashes: crashes.collect(),
        at_ns: stage.moment(random),
        mid_write: None,
    }
}

impl FaultPlan {
    /// Draws everything of the enabled classes.
    pub fn draw(random: &mut Random, enabled: FaultSet, stage: &Stage) -> FaultPlan {
        let has = |fault| enabled.has(fault);
        let mut plan = FaultPlan {
            enabled,
            ..FaultPlan::default()
        };
        if has(Fault::CrashStep) {
            let count = random.within(1, 3);
            plan.steps = (0..count)
                .map(|_| StepCrash {
                    node: *random.pick(&stage.mortal),
                    at_ns: stage.moment(random),
                    keep_per_mille: random.below(1000),
                    down_ns: down(random),
                })
                .collect();
        }
        if has(Fault::Pause) {
            let count = random.within(1, 3);
            let pauses = (0..count).map(|_| {
                let (from_ns, until_ns) = stage.window(random, 500 * MS);
                Pause {
                    node: random.below(stage.nodes as u64) as usize,
                    from_ns,
                    until_ns,
                }
            });
            plan.pauses = pauses.collect();
        }
        plan.draw_clocks(random, stage);
        plan.draw_disks(random, stage);
        plan.draw_liars(random, stage);
        plan
    }

    /// In most seeds none; never more than what the committee promises to bear.
    fn draw_liars(&mut self, random: &mut Random, stage: &Stage) {
        let kinds = LiarKind::ALL.iter().copied();
        let kinds = kinds.filter(|kind| self.enabled.has(kind.fault()));
        let kinds = kinds.collect::<Vec<_>>();
        let some = random.chance(500) || stage.beyond;
        if kinds.is_empty() || !some {
            return;
        }
        let drawn = random.within(1, stage.liars_max.max(1) as u64) as usize;
        // A disk that is put back makes its replica one of them (R5).
        let put_back = |damage: &&Damage| matches!(damage.harm, Harm::Rollback);
        let faulty = self.damages.iter().filter(put_back).count();
        let count = if stage.beyond {
            stage.liars_max + 1
        } else {
            drawn.min(stage.liars_max.saturating_sub(faulty))
        };
        let mut seats = (0..stage.nodes).collect::<Vec<_>>();
        for _ in 0..count {
            // The leaders of the first views have more to lie about.
            let among = if random.chance(600) { 2 } else { seats.len() };
            let node = seats.remove(random.below(among as u64) as usize);
            let kind = *random.pick(&kinds);
            self.liars.push((node, kind));
            if kind == LiarKind::Amnesiac {
                let (harm, at_ns) = (Harm::Rollback, stage.moment(random));
                self.damages.push(Damage { node, at_ns, harm });
            }
        }
    }

    /// In every third seed one or two clients that lie.
    pub fn draw_clients(&mut self, random: &mut Random) {
        let kinds = ClientKind::ALL.iter().copied();
        let kinds = kinds.filter(|kind| self.enabled.has(kind.fault()));
        let kinds = kinds.collect::<Vec<_>>();
        if !kinds.is_empty() && random.chance(350) {
            let count = random.within(1, 2);
            self.clients = (0..count).map(|_| *random.pick(&kinds)).collect();
        }
    }

    /// One to three clean stops.
    pub fn draw_stops(&mut self, random: &mut Random, stage: &Stage) {
        if self.enabled.has(Fault::Stop) {
            let stops = (0..random.within(1, 3)).map(|_| Stop {
                node: *random.pick(&stage.mortal),
                at_ns: stage.moment(random),
                down_ns: down(random),
            });
            self.stops = stops.collect();
        }
    }

    fn draw_clocks(&mut self, random: &mut Random, stage: &Stage) {
        let kinds = [Fault::ClockRate, Fault::ClockJump, Fault::ClockWall];
        if !kinds.iter().any(|kind| self.enabled.has(*kind)) {
            return;
        }
        let clocks = (0..stage.nodes).map(|_| {
            let rate_per_mille = random.within(500, 2000);
            let wall_offset_ns = random.within(20, 40) * 365 * 86_400 * S;
            let jumps = (0..random.below(4))
                .map(|_| {
                    let most_ns = *random.pick(&[MS, 100 * MS, 30 * S]);
                    (stage.moment(random), random.within(1, most_ns))
                })
                .collect::<Vec<_>>();
            let has = |fault| self.enabled.has(fault);
            ClockPlan {
                rate_per_mille: if has(Fault::ClockRate) {
                    rate_per_mille
                } else {
                    1000
                },
                jumps: if has(Fault::ClockJump) {
                    jumps
                } else {
                    Vec::new()
                },
                wall_offset_ns: if has(Fault::ClockWall) {
                    wall_offset_ns
                } else {
                    0
                },
            }
        });
        self.clocks = clocks.collect();
    }

    fn draw_disks(&mut self, random: &mut Random, stage: &Stage) {
        let enabled = self.enabled;
        let has = |fault| enabled.has(fault);
        if has(Fault::DiskError) {
            let count = random.within(1, 2);
            let errors = (0..count).map(|_| DiskError {
                node: *random.pick(&stage.mortal),
                at_ns: stage.moment(random),
                down_ns: down(random),
            });
            self.disk_errors = errors.collect();
        }
        if has(Fault::ReadError) {
            self.read_errors_per_mille = random.within(10, 500) as u32;
        }
        if has(Fault::DiskSlow) {
            let (from_ns, until_ns) = stage.window(random, S);
            self.slow_disks.push(SlowDisk {
                node: random.below(stage.nodes as u64) as usize,
                from_ns,
                until_ns,
                factor: random.within(2, 100),
            });
        }
        let sectors = |random: &mut Random| random.within(1, 4) as u32;
        let harms = [
            (Fault::Rot, Harm::Flip(sectors(random))),
            (Fault::Rot, Harm::Zero(sectors(random))),
            (Fault::Misdirect, Harm::Swap),
            (Fault::Misdirect, Harm::Stale(sectors(random))),
            (Fault::Rollback, Harm::Rollback),
            (Fault::Blank, Harm::Blank),
            (Fault::Holes, Harm::Blocks(3)),
            (Fault::Stateless, Harm::State),
        ];
        let harms = harms.into_iter().filter(|(fault, _)| has(*fault));
        let harms = harms.map(|(_, harm)| harm).collect::<Vec<_>>();
        if !harms.is_empty() {
            let node = *random.pick(&stage.mortal);
            let at_ns = stage.moment(random);
            let harm = *random.pick(&harms);
            self.damages.push(Damage { node, at_ns, harm });
        }
        self.disks_full = has(Fault::Full);
        self.few_buffers = has(Fault::FewBuffers);
    }

    /// When the last of it has ended.
    pub fn ends_ns(&self) -> u64 {
        let pauses = self.pauses.iter().map(|pause| pause.until_ns);
        let steps = self.steps.iter().map(|step| step.at_ns + step.down_ns);
        let errors = self
            .disk_errors
            .iter()
            .map(|error| error.at_ns + error.down_ns);
        let slow = self.slow_disks.iter().map(|slow| slow.until_ns);
        let stops = self.stops.iter().map(|stop| stop.at_ns + stop.down_ns);
        pauses
            .chain(steps)
            .chain(errors)
            .chain(slow)
            .chain(stops)
            .max()
            .unwrap_or(0)
    }

    /// Takes one class of faults out, as far as this plan holds it.
    pub fn remove(&mut self, fault: Fault) {
        self.enabled = self.enabled.without(fault);
        self.liars.retain(|(_, kind)| kind.fault() != fault);
        self.clients.retain(|kind| kind.fault() != fault);
        match fault {
            Fault::CrashStep => self.steps.clear(),
            Fault::Pause => self.pauses.clear(),
            Fault::ClockRate => self.clocks.iter_mut().for_each(|c| c.rate_per_mille = 1000),
            Fault::ClockJump => self.clocks.iter_mut().for_each(|c| c.jumps.clear()),
            Fault::ClockWall => self.clocks.iter_mut().for_each(|c| c.wall_offset_ns = 0),
            Fault::DiskError => self.disk_errors.clear(),
            Fault::ReadError => self.read_errors_per_mille = 0,
            Fault::DiskSlow => self.slow_disks.clear(),
            Fault::Holes
            | Fault::Stateless
            | Fault::Rot
            | Fault::Misdirect
            | Fault::Rollback
            | Fault::Blank => self.damages.clear(),
            Fault::Full => self.disks_full = false,
            Fault::FewBuffers => self.few_buffers = false,
            Fault::Stop => self.stops.clear(),
            // Links, cuts, blows and the disks' common manners are the plan's own.
            _ => {}
        }
    }
}
