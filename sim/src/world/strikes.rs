//! How faults of processes, clocks and disks strike a world.

use replica::replica::{Effect, Halted, Input};
use wire::ids::NodeId;

use super::{Event, World};
use crate::buffers::Shared;
use crate::faults::draw::{Damage, DiskError, Harm, StepCrash, Stop};
use crate::network::End;
use crate::node::geometry;
use crate::plan::MS;
use crate::probes::Probe;
use crate::record::What;

/// Inputs that wait for a paused process at most; more are lost, as in a socket's buffer.
const HELD_MAX: usize = 4096;
/// What the system calls EIO.
const INPUT_OUTPUT_ERROR: i32 = 5;

/// What is still to come.
#[derive(Debug, Default)]
pub(super) struct Strikes {
    /// Blows that wait for a write of some replica.
    armed: Vec<usize>,
    steps: Vec<StepCrash>,
    errors: Vec<DiskError>,
    damages: Vec<Damage>,
    /// The replica whose write failed just now, and whether it halted.
    failing: Option<(usize, bool)>,
    /// Replicas whose disk was put back, and those of them that found out (R6).
    rolled_back: Vec<usize>,
    pub(super) found_lost: Vec<usize>,
    /// Replicas whose disks lost what others have.
    rotten: Vec<usize>,
    /// Inputs that wait, by replica.
    held: Vec<usize>,
}

impl World {
    /// Arms everything that the plan holds.
    pub(super) fn arm(&mut self) {
        for blow in 0..self.plan.blows.len() {
            let at_ns = self.plan.blows[blow].at_ns;
            self.at(at_ns, Event::Blow { blow });
        }
        let faults = &self.plan.faults;
        self.strikes = Strikes {
            steps: faults.steps.clone(),
            errors: faults.disk_errors.clone(),
            damages: faults.damages.clone(),
            held: vec![0; self.nodes.len()],
            ..Strikes::default()
        };
        let (damages, pauses) = (faults.damages.clone(), faults.pauses.clone());
        let stops = faults.stops.clone();
        for Stop {
            node,
            at_ns,
            down_ns,
        } in stops
        {
            self.at(at_ns, Event::Stop { node, down_ns });
        }
        for Damage { node, at_ns, .. } in damages {
            self.at(at_ns, Event::Image { node });
        }
        for pause in pauses {
            let node = pause.node;
            let (from, until) = (What::Pauses, What::Resumes);
            self.at(pause.from_ns, Event::Noted { node, what: from });
            self.at(pause.until_ns, Event::Noted { node, what: until });
        }
    }

    /// The moment of a blow has come, unless it waits for a write.
    pub(super) fn blow(&mut self, blow: usize) {
        match self.plan.blows[blow].mid_write {
            Some(node) if self.nodes[node].writing.is_none() => self.strikes.armed.push(blow),
            _ => self.strike(blow, self.now),
        }
    }

    fn strike(&mut self, blow: usize, at_ns: u64) {
        for crash in self.plan.blows[blow].crashes.clone() {
            let at_ns = at_ns + crash.after_ns;
            let (node, down_ns) = (crash.node, crash.down_ns);
            self.at(at_ns, Event::Crash { node, down_ns });
        }
    }

    /// A replica's write will take so long: blows that waited for it strike meanwhile.
    pub(super) fn strike_armed(&mut self, node: usize, takes_ns: u64) {
        if self.now >= self.plan.calm_ns {
            return;
        }
        for blow in std::mem::take(&mut self.strikes.armed) {
            if self.plan.blows[blow].mid_write == Some(node) {
                let at_ns = self.now + self.random.below(takes_ns.min(MS));
                self.strike(blow, at_ns);
            } else {
                self.strikes.armed.push(blow);
            }
        }
    }

    /// Until when an event must wait because its replica's process is stopped; the event itself when
    /// it need not.
    pub(super) fn hold(&mut self, event: Event) -> Option<Event> {
        let node = match &event {
            Event::Arrive { to, .. } if to.0 < self.nodes.len() => to.0,
            Event::Written { node, .. }
            | Event::ReadBack { node, .. }
            | Event::Granted { node, .. }
            | Event::Piece { node, .. }
            | Event::WakeNode { node, .. } => *node,
            _ => return Some(event),
        };
        let pauses = self.plan.faults.pauses.iter();
        let mut pauses = pauses.filter(|pause| pause.node == node);
        let Some(pause) = pauses.find(|p| (p.from_ns..p.until_ns).contains(&self.now)) else {
            return Some(event);
        };
        let until_ns = pause.until_ns;
        match event {
            Event::WakeNode { .. } => {
                // Due again when the process goes on, if nothing wakes it before.
                if self.nodes[node].wake.0 != self.now {
                    return None;
                }
                self.nodes[node].wake.0 = until_ns;
            }
            Event::Arrive { .. } => {
                self.strikes.held[node] += 1;
                if self.strikes.held[node] > HELD_MAX {
                    return None;
                }
            }
            _ => {}
        }
        self.probes.hit(Probe::InputsHeld);
        self.probes.hit_if(Probe::LeaderPaused, node == 0);
        self.at(until_ns, event);
        None
    }

    /// So many of its effects a call of this replica carries out before the process ends, and for how
    /// long it is down then.
    pub(super) fn cut_short(&mut self, node: usize, effects: usize) -> Option<(usize, u64)> {
        if effects < 2 || self.now >= self.plan.calm_ns || self.strikes.steps.is_empty() {
            return None;
        }
        let mut steps = self.strikes.steps.iter();
        let found = steps.position(|step| step.node == node && step.at_ns <= self.now)?;
        let step = self.strikes.steps.swap_remove(found);
        self.probes.hit(Probe::CrashBetweenEffects);
        let kept = effects as u64 * step.keep_per_mille / 1000;
        Some((kept as usize, step.down_ns))
    }

    /// A write and its flush have ended, well or not.
    pub(super) fn written(&mut self, node: usize, token: u64) -> Result<(), String> {
        self.nodes[node].writing = None;
        let mut errors = self.strikes.errors.iter();
        let now = self.now;
        let due = errors.position(|e| e.node == node && e.at_ns <= now && now < self.plan.calm_ns);
        // Who found its disk lost has ended, and hears of no error.
        let due = due.filter(|_| !self.strikes.found_lost.contains(&node));
        let Some(due) = due else {
            self.nodes[node].disk.complete();
            self.judge.written(NodeId(node as u16))?;
            self.mark_durable(node);
            let result = Ok(());
            self.feed(node, Input::Written { token, result })?;
            return self.end_if_stopped(node);
        };
        let error = self.strikes.errors.swap_remove(due);
        self.strikes.failing = Some((node, false));
        let result = Err(INPUT_OUTPUT_ERROR);
        self.feed(node, Input::Written { token, result })?;
        if self.strikes.failing.take() != Some((node, true)) {
            return Err(format!("disk: replica {node} goes on after a failed write"));
        }
        self.probes.hit(Probe::WriteFailed);
        self.crash(node, error.down_ns).map(drop)
    }

    /// A replica says that it must end: right after a failed write, or since its disk was put back,
    /// and at no other time.
    pub(super) fn halts(&mut self, node: usize, why: Halted) -> Result<(), String> {
        if let Halted::DiskLost(_) = why
            && self.strikes.rolled_back.contains(&node)
        {
            self.strikes.found_lost.push(node);
            self.probes.hit(Probe::DiskLost);
            return Ok(());
        }
        match &mut self.strikes.failing {
            Some((failing, halted)) if *failing == node => {
                *halted = true;
                Ok(())
            }
            _ => Err(format!("replica {node} halts: {why}")),
        }
    }

    /// A replica that halts does nothing after that.
    pub(super) fn halts_last(node: usize, effects: &[Effect<Shared>]) -> Result<(), String> {
        let halt = effects.iter().position(|e| matches!(e, Effect::Halt(_)));
        if halt.is_some_and(|at| at + 1 < effects.len()) {
            return Err(format!("replica {node} goes on after it has halted"));
        }
        Ok(())
    }

    /// How long a write takes that would take this long on a good day.
    pub(super) fn slowed(&self, node: usize, takes_ns: u64) -> u64 {
        let slow = self.plan.faults.slow_disks.iter();
        let slow = slow.filter(|slow| slow.node == node);
        let mut slow = slow.filter(|slow| (slow.from_ns..slow.until_ns).contains(&self.now));
        takes_ns * slow.next().map_or(1, |slow| slow.factor)
    }

    /// Whether an old block cannot be read back this time.
    pub(super) fn read_fails(&mut self) -> bool {
        let per_mille = self.plan.faults.read_errors_per_mille;
        let fails = per_mille > 0 && self.now < self.plan.heal_ns && self.random.chance(per_mille);
        self.probes.hit_if(Probe::ReadFailed, fails);
        fails
    }

    /// When a log may grow that asks for it now.
    pub(super) fn grows_at(&self, takes_ns: u64) -> u64 {
        if self.plan.faults.disks_full {
            self.plan.heal_ns.max(self.now) + takes_ns
        } else {
            self.now + takes_ns
        }
    }

    /// A disk as it is now, for harm that brings it back.
    pub(super) fn take_image(&mut self, node: usize) {
        self.nodes[node].disk.take_image();
    }

    /// What was to happen to this disk while its replica was down.
    pub(super) fn do_harm(&mut self, node: usize) -> Result<(), String> {
        let damages = std::mem::take(&mut self.strikes.damages);
        let mut random = self.random.clone();
        for damage in damages {
            if damage.node != node || damage.at_ns > self.now {
                self.strikes.damages.push(damage);
                continue;
            }
            self.probes.hit(Probe::Damaged);
            let identity = self.nodes[node].identity(&self.committee);
            let disk = &mut self.nodes[node].disk;
            match damage.harm {
                Harm::Blocks(blocks) => {
                    self.strikes.rotten.push(node);
                    disk.lose_blocks(&mut random, blocks, &geometry(&self.plan), &identity);
                }
                Harm::State => {
                    self.strikes.rotten.push(node);
                    disk.lose_state();
                }
                Harm::Flip(sectors) => disk.flip(&mut random, sectors),
                Harm::Zero(sectors) => disk.zero(&mut random, sectors),
                Harm::Swap => disk.swap(&mut random),
                Harm::Stale(sectors) => disk.bring_back(&mut random, sectors),
                Harm::Rollback => {
                    disk.roll_back();
                    // Its disk is lost: nothing it says counts, and it must notice.
                    self.strikes.rolled_back.push(node);
                    self.judge.turned(NodeId(node as u16))?;
                }
                Harm::Blank => disk.erase(),
            }
        }
        Ok(())
    }

    /// Whether a replica that is about to start finds its disk damaged, and not beyond help.
    pub(super) fn is_lacking(&mut self, node: usize) -> bool {
        let identity = self.nodes[node].identity(&self.committee);
        let geometry = geometry(&self.plan);
        let disk = &mut self.nodes[node].disk;
        self.strikes.rotten.contains(&node) && disk.lacks_anything(&geometry, &identity)
    }

    /// Adds a mark to the record, if there is one.
    pub(super) fn mark(&self, end: End, what: What) {
        if let Some(record) = &self.record {
            record.borrow_mut().mark(self.now, end, what);
        }
    }

    fn mark_durable(&self, node: usize) {
        if self.record.is_some() && self.seats[node].is_none() {
            let slot = self.judge.durable(NodeId(node as u16));
            self.mark(End(node), What::Durable(slot));
        }
    }
}
