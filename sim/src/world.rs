//! One world: an event heap in virtual time over servers, disks, links and users.
//!
//! This file is the heap and what one event leads to. `strikes` holds how faults come about, `committee` who
//! replicates, `clients` who asks, `delivery` the way of a datagram, `lies` what liars send, `lives` how
//! processes end and start, `snapshots` how files are written, `observe` what is noted, `direct` scenarios,
//! `outcome` how runs are begun and how they end.

mod clients;
mod committee;
mod delivery;
mod direct;
mod lies;
mod lives;
mod observe;
mod outcome;
mod snapshots;
mod strikes;

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;
use std::sync::Arc;

use replica::ordering::ReadBack;
use replica::replica::{Effect, Input};
use storage::wal::SegmentSource;
use wire::committee::Committee;
use wire::header::HEADER_BYTES;
use wire::ids::{Instant, NodeId};

pub use outcome::{Outcome, run, run_caught, run_for_recordings, run_plan, run_recorded};

use crate::buffers::Shared;
use crate::canaries::Canary;
use crate::checks::Judge;
use crate::liars::Seat;
use crate::linear::Checked;
use crate::network::{End, Network};
use crate::node::Node;
use crate::plan::{BEGIN_NS, MS, Plan, US};
use crate::probes::{Probe, Probes};
use crate::random::Random;
use crate::record::{Record, What};
use crate::scenario::director::Director;
use crate::seals::{Judged, Seal};
use crate::user::{Mail, User};

/// A run that does not end by itself is cut here: a livelock is a violation too.
const EVENTS_MAX: u64 = 5_000_000;
/// After the faults have ended, a cluster in which too many are silent is watched for so long.
const WEDGED_NS: u64 = 5 * crate::plan::S;
/// Of a datagram, so much enters the digest of a run: its header, whose MAC binds the rest.
const NOTED_BYTES: usize = 2 * HEADER_BYTES;
/// Making a segment file takes this long.
const SEGMENT_NS: u64 = 3 * MS;

/// Something that will happen.
#[derive(Debug)]
enum Event {
    Arrive {
        from: End,
        to: End,
        datagram: Rc<[u8]>,
        spoiled: bool,
    },
    Written {
        node: usize,
        incarnation: u32,
        token: u64,
    },
    ReadBack {
        node: usize,
        incarnation: u32,
        read: ReadBack,
    },
    Granted {
        node: usize,
        incarnation: u32,
        segments: u32,
    },
    /// A piece of a snapshot was written, or named.
    Piece {
        node: usize,
        incarnation: u32,
        file: u64,
        named: bool,
    },
    WakeNode {
        node: usize,
        incarnation: u32,
    },
    WakeUser {
        user: usize,
    },
    WakeStranger {
        stranger: usize,
    },
    Blow {
        blow: usize,
    },
    Crash {
        node: usize,
        down_ns: u64,
    },
    Start {
        node: usize,
    },
    /// A process is asked to end.
    Stop {
        node: usize,
        down_ns: u64,
    },
    /// Keep a disk as it is now.
    Image {
        node: usize,
    },
    /// An expectation of a scenario.
    Check {
        check: usize,
    },
    /// Only worth a mark.
    Noted {
        node: usize,
        what: What,
    },
}

/// See the module's documentation.
pub struct World {
    plan: Plan,
    committee: Arc<Committee>,
    now: u64,
    next_event: u64,
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    nodes: Vec<Node>,
    users: Vec<User>,
    user_wakes: Vec<u64>,
    /// Clients that lie.
    strangers: Vec<clients::Stranger>,
    network: Network,
    random: Random,
    strikes: strikes::Strikes,
    /// Snapshots that are being written, by replica.
    snapshots: Vec<snapshots::UnderWay>,
    /// Liars, by replica.
    seats: Vec<Option<Seat>>,
    judge: Judge,
    hasher: blake3::Hasher,
    handled: u64,
    crashes: u64,
    torn: u64,
    block_buffers_used_max: usize,
    probes: Probes,
    looked: Vec<observe::Looked>,
    checked: Checked,
    record: Option<Rc<RefCell<Record>>>,
    director: Option<Director>,
}

impl World {
    pub fn new(plan: Plan) -> World {
        let mut random = Random::new(plan.seed ^ 0x51b7);
        let (committee, secrets) = committee::drawn(&plan, &mut random);
        let committee = Arc::new(committee);
        let judged = Rc::new(Judged::new(&committee));
        let nodes = secrets.into_iter().enumerate().map(|(index, secret)| {
            let id = NodeId(index as u16);
            let seal = Seal::new(plan.options.profile, &committee, id, &secret, &judged);
            Node::new(id, &plan, secret, seal, random.fork(index as u64))
        });
        let nodes = nodes.collect::<Vec<_>>();
        let seal = nodes[0].seal();
        let rules = committee::rules(&plan, &committee);
        let users = plan.users.iter().enumerate().map(|(number, user)| {
            User::new(
                number,
                *user,
                plan.keys,
                &committee,
                random.fork(100 + number as u64),
            )
        });
        let users = users.collect::<Vec<_>>();
        let network = Network::new(
            plan.links.clone(),
            plan.cuts.clone(),
            plan.heal_ns,
            random.fork(1000),
        );
        let mut world = World {
            judge: Judge::new(plan.options.shape(), seal, rules, &plan),
            committee,
            now: BEGIN_NS,
            next_event: 0,
            heap: BinaryHeap::new(),
            events: BTreeMap::new(),
            user_wakes: vec![u64::MAX; users.len()],
            nodes,
            users,
            strangers: Vec::new(),
            network,
            random,
            strikes: strikes::Strikes::default(),
            snapshots: vec![snapshots::UnderWay::default(); plan.options.nodes],
            seats: Vec::new(),
            hasher: blake3::Hasher::new(),
            handled: 0,
            crashes: 0,
            torn: 0,
            block_buffers_used_max: 0,
            probes: Probes::default(),
            looked: vec![observe::Looked::default(); plan.options.nodes],
            checked: Checked::default(),
            record: None,
            director: None,
            plan,
        };
        if world.plan.options.beyond {
            world.judge.expect_too_many_liars();
        }
        for node in 0..world.nodes.len() {
            world.at(BEGIN_NS, Event::Start { node });
        }
        for user in 0..world.users.len() {
            world.wake_user(user);
        }
        world.arm();
        world.seat_liars();
        world.let_strangers_in();
        world
    }

    /// Runs to the end.
    pub fn run(mut self) -> Outcome {
        let mut violation = self.run_inner().err();
        let mut recordings = self.nodes.iter().map(Node::check_recording);
        violation = violation.or_else(|| recordings.find_map(Result::err));
        match self.judge.linearizable(&self.users) {
            Ok(checked) => self.checked = checked,
            Err(unordered) => violation = violation.or(Some(unordered)),
        }
        let wedged = self.judge.is_wedged(&self.nodes);
        self.probes.hit_if(Probe::ManySilent, wedged);
        self.look_back();
        self.probes.take_reached();
        Outcome {
            seed: self.plan.seed,
            digest: self.hasher.finalize().to_hex().to_string(),
            violation,
            events: self.handled,
            virtual_ns: self.now - BEGIN_NS,
            network: self.network.counts,
            acknowledged: self.judge.acknowledged(),
            results_lost: self.judge.results_lost(),
            decided: self.judge.decided(),
            crashes: self.crashes,
            torn: self.torn,
            block_buffers_used_max: self.block_buffers_used_max,
            probes: self.probes,
            checked: self.checked,
        }
    }

    fn run_inner(&mut self) -> Result<(), String> {
        Canary::plant(self.plan.options.canary);
        while let Some(Reverse((at, number))) = self.heap.pop() {
            if at > self.plan.deadline_ns {
                break;
            }
            let Some(event) = self.events.remove(&number) else {
                continue;
            };
            self.now = at;
            if self.step(event)? {
                self.handled += 1;
            }
            if self.handled > EVENTS_MAX {
                return Err(format!("no end after {EVENTS_MAX} events"));
            }
            let unscripted = self
                .director
                .as_ref()
                .is_none_or(|director| director.settles);
            let healed = self.now > self.plan.heal_ns && unscripted;
            if healed
                && self.now > self.plan.heal_ns + WEDGED_NS
                && self.judge.is_wedged(&self.nodes)
            {
                break;
            }
            let scenario = self.plan.scenario;
            if healed && self.judge.settled(scenario, &self.nodes, &self.users) {
                // Scenarios without progress go on for a while: nothing new may commit.
                let quiet_ns = if scenario.demands_progress() {
                    0
                } else {
                    500 * MS
                };
                if self.now > self.plan.heal_ns + quiet_ns {
                    break;
                }
            }
        }
        if self
            .director
            .as_ref()
            .is_some_and(|director| !director.settles)
        {
            return Ok(());
        }
        self.judge
            .finish(self.plan.scenario, &self.nodes, &self.users)
    }

    fn at(&mut self, at: u64, event: Event) {
        self.heap.push(Reverse((at, self.next_event)));
        self.events.insert(self.next_event, event);
        self.next_event += 1;
    }

    /// Carries out one event; false when it came to nothing.
    fn step(&mut self, event: Event) -> Result<bool, String> {
        let Some(event) = self.hold(event) else {
            return Ok(false);
        };
        match event {
            Event::Arrive {
                from,
                to,
                datagram,
                spoiled,
            } => {
                let told = datagram.len().min(NOTED_BYTES);
                self.note(b'A', &[from.0, to.0, datagram.len()], &datagram[..told]);
                if let Some(user) = to.0.checked_sub(self.nodes.len()) {
                    self.answered(user, &datagram)?;
                } else {
                    let bytes = Shared::copy_from(&datagram);
                    self.arrive(from, to, bytes, spoiled)?;
                }
            }
            Event::Written {
                node,
                incarnation,
                token,
            } => {
                if !self.lives(node, incarnation) {
                    return Ok(false);
                }
                self.note(b'W', &[node, token as usize], &[]);
                self.written(node, token)?;
            }
            Event::ReadBack {
                node,
                incarnation,
                read,
            } => {
                if !self.lives(node, incarnation) {
                    return Ok(false);
                }
                self.note(b'R', &[node, read.slot.0 as usize], &[]);
                let mut bytes = vec![0; read.bytes];
                let outcome = self.nodes[node]
                    .disk
                    .read(read.segment, read.offset, &mut bytes);
                let good = outcome.is_ok() && !self.read_fails();
                let record = good.then(|| Shared::copy_from(&bytes));
                self.feed(node, Input::Record { read, record })?;
            }
            Event::Granted {
                node,
                incarnation,
                segments,
            } => {
                if !self.lives(node, incarnation) {
                    return Ok(false);
                }
                self.note(b'G', &[node, segments as usize], &[]);
                self.probes.hit(Probe::SegmentGranted);
                self.nodes[node].disk.grow(segments);
                self.feed(node, Input::Granted { segments })?;
            }
            Event::Piece {
                node,
                incarnation,
                file,
                named,
            } => {
                if !self.lives(node, incarnation) {
                    return Ok(false);
                }
                self.note(b'P', &[node], &[]);
                self.piece(node, file, named)?;
            }
            Event::WakeNode { node, incarnation } => {
                let due = self.lives(node, incarnation) && self.nodes[node].wake.0 == self.now;
                // A process that has ended asks to be woken for what was due then, over and over.
                if !due || self.strikes.found_lost.contains(&node) {
                    return Ok(false);
                }
                self.note(b'T', &[node], &[]);
                self.nodes[node].wake = Instant(u64::MAX);
                self.feed(node, Input::Tick)?;
            }
            Event::WakeUser { user } => {
                if self.user_wakes[user] != self.now {
                    return Ok(false);
                }
                self.user_wakes[user] = u64::MAX;
                self.note(b'U', &[user], &[]);
                let mut mail = Mail::default();
                self.users[user].tick(Instant(self.now), &mut mail);
                self.mail(user, mail)?;
            }
            Event::WakeStranger { stranger } => {
                self.note(b'U', &[self.users.len() + stranger], &[]);
                self.wake_stranger(stranger);
            }
            Event::Blow { blow } => {
                self.blow(blow);
                return Ok(false);
            }
            Event::Crash { node, down_ns } => return self.crash(node, down_ns),
            Event::Start { node } => return self.start(node),
            Event::Stop { node, down_ns } => return self.stop(node, down_ns),
            Event::Image { node } => {
                self.take_image(node);
                return Ok(false);
            }
            Event::Check { check } => {
                self.check(check)?;
                return Ok(false);
            }
            Event::Noted { node, what } => {
                self.mark(End(node), what);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// One input to one server, and everything that follows from it.
    fn feed(&mut self, index: usize, input: Input<Shared>) -> Result<(), String> {
        let now = self.nodes[index].clock.local(self.now);
        let mut effects = self.nodes[index].handle(now, input);
        self.seal(index)?;
        Self::halts_last(index, &effects)?;
        let cut = self.cut_short(index, effects.len());
        effects.truncate(cut.map_or(usize::MAX, |(kept, _)| kept));
        for effect in effects {
            self.carry_out(index, effect)?;
        }
        if let Some((_, down_ns)) = cut {
            return self.crash(index, down_ns).map(drop);
        }
        self.turn(index)?;
        self.judge.handled(&self.nodes[index], self.now)?;
        self.look(index);
        let node = &mut self.nodes[index];
        let incarnation = node.incarnation;
        let Some(server) = &node.server else {
            return Ok(());
        };
        let wanted = server.ordering().writer().segments_wanted();
        // The end of time stands for "never".
        let due = match server.wake_at() {
            Instant(u64::MAX) => u64::MAX,
            local => node.clock.world(local).max(self.now + self.plan.lag_ns),
        };
        if wanted > node.wanted {
            node.wanted = wanted;
            let granted = Event::Granted {
                node: index,
                incarnation,
                segments: wanted,
            };
            self.at(self.grows_at(SEGMENT_NS), granted);
        }
        if due < self.nodes[index].wake.0 {
            self.nodes[index].wake = Instant(due);
            self.at(
                due,
                Event::WakeNode {
                    node: index,
                    incarnation,
                },
            );
        }
        Ok(())
    }

    fn carry_out(&mut self, index: usize, effect: Effect<Shared>) -> Result<(), String> {
        let incarnation = self.nodes[index].incarnation;
        let id = NodeId(index as u16);
        match effect {
            Effect::Send { to, datagram } => {
                let Some(to) = End::at(to) else {
                    return Err(format!("{id} sends to {to}"));
                };
                if self.seats[index].is_some() {
                    return self.lie(index, to, &datagram);
                }
                if to.0 < self.nodes.len() {
                    self.judge.sends(id, &datagram)?;
                }
                self.send(End(index), to, datagram);
            }
            Effect::Write {
                segment,
                offset,
                parts,
                token,
            } => {
                self.judge.writes(id, &parts)?;
                let node = &mut self.nodes[index];
                if node.writing.replace(token).is_some() {
                    return Err(format!("{id} has two writes under way"));
                }
                node.disk.begin(segment, offset, &parts);
                let disk = self.plan.disk;
                let stalls = self.random.chance(disk.stalls_per_mille);
                let stall_ns = if stalls { 50 * MS } else { 0 };
                let takes_ns = disk.write_ns + self.random.below(disk.jitter_ns + 1) + stall_ns;
                let takes_ns = self.slowed(index, takes_ns);
                let written = Event::Written {
                    node: index,
                    incarnation,
                    token,
                };
                self.at(self.now + takes_ns, written);
                self.strike_armed(index, takes_ns);
            }
            Effect::Read(read) => {
                let takes_ns = self.random.within(20 * US, 500 * US);
                let event = Event::ReadBack {
                    node: index,
                    incarnation,
                    read,
                };
                self.at(self.now + takes_ns, event);
            }
            Effect::Snapshot(piece) => self.snapshot(index, piece),
            Effect::Halt(failed) => return self.halts(index, failed),
        }
        Ok(())
    }
}
