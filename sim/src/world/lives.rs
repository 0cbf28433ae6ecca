//! How processes end and start again.

use replica::recovery::RestartError;
use replica::replica::{Input, StartError};
use wire::ids::NodeId;

use super::{Event, World};
use crate::canaries::Canary;
use crate::network::End;
use crate::plan::MS;
use crate::probes::Probe;
use crate::record::What;

impl World {
    pub(super) fn lives(&self, node: usize, incarnation: u32) -> bool {
        let node = &self.nodes[node];
        node.server.is_some() && node.incarnation == incarnation
    }

    pub(super) fn crash(&mut self, node: usize, down_ns: u64) -> Result<bool, String> {
        if self.nodes[node].server.is_none() {
            return Ok(false);
        }
        self.note(b'C', &[node], &[]);
        self.crashes += 1;
        self.count_buffers(node);
        self.mark(End(node), What::Crashes);
        let writing = self.nodes[node].writing.is_some();
        self.probes.hit_if(Probe::CrashMidWrite, writing);
        let started = self.judge.spoke(NodeId(node as u16));
        self.probes.hit_if(Probe::CrashBeforeStart, !started);
        self.at(self.now + down_ns, Event::Start { node });
        self.nodes[node].check_recording()?;
        let mut random = self.random.fork(2000);
        self.nodes[node].crash(&mut random, self.plan.options.canary);
        let up = self.nodes.iter().any(|node| node.server.is_some());
        self.probes.hit_if(Probe::AllDown, !up);
        Ok(true)
    }

    /// What a replica's last call has made is known before anything of it leaves.
    pub(super) fn seal(&mut self, node: usize) -> Result<(), String> {
        let identity = self.nodes[node].identity(&self.committee);
        self.judge.seals(&self.nodes[node], &identity)
    }

    /// A process is asked to end: it writes its marker first.
    pub(super) fn stop(&mut self, node: usize, down_ns: u64) -> Result<bool, String> {
        let now = self.nodes[node].clock.local(self.now);
        let mut effects = Vec::new();
        let Some(server) = &mut self.nodes[node].server else {
            return Ok(false);
        };
        if server.is_stopping() || self.strikes.found_lost.contains(&node) {
            return Ok(false);
        }
        if !server.stop(now, &mut effects) {
            // No room now.
            self.at(self.now + MS, Event::Stop { node, down_ns });
        }
        self.note(b'E', &[node], &[]);
        self.nodes[node].down_ns = down_ns;
        self.seal(node)?;
        for effect in effects {
            self.carry_out(node, effect)?;
        }
        Ok(true)
    }

    /// Ends a process whose marker is durable.
    pub(super) fn end_if_stopped(&mut self, node: usize) -> Result<(), String> {
        let server = self.nodes[node].server.as_ref();
        if server.is_some_and(|server| server.is_stopped()) {
            self.probes.hit(Probe::StoppedCleanly);
            self.crash(node, self.nodes[node].down_ns)?;
        }
        Ok(())
    }

    pub(super) fn start(&mut self, node: usize) -> Result<bool, String> {
        if self.nodes[node].server.is_some() {
            return Ok(false);
        }
        self.note(b'S', &[node], &[]);
        self.mark(End(node), What::Starts);
        self.do_harm(node)?;
        let now = self.nodes[node].clock.local(self.now);
        let lacks = self.is_lacking(node);
        self.probes.hit_if(Probe::StartsLacking, lacks);
        let started = self.nodes[node].start(now, &self.plan, &self.committee);
        if let Err(error) = started {
            return self.does_not_start(node, error);
        }
        let whole = self.plan.options.canary != Some(Canary::Blankvotes);
        self.judge.started(&self.nodes[node], whole, lacks)?;
        let verdict = self.nodes[node]
            .server
            .as_ref()
            .map(|server| server.verdict());
        let torn = matches!(verdict, Some(storage::wal::Verdict::CutTail { .. }));
        self.torn += u64::from(torn);
        self.nodes[node].wanted = self.nodes[node].disk.segments();
        self.look_at_start(node);
        self.take_seat(node);
        self.feed(node, Input::Tick)?;
        Ok(true)
    }

    /// Only who ran without durability, and ended as nobody asked it to, may refuse its own disk (R5).
    fn does_not_start(&mut self, node: usize, why: StartError) -> Result<bool, String> {
        let lost = matches!(
            why,
            StartError::Log(RestartError::LostWithoutDurability { .. })
        );
        if !(lost && self.plan.careless) {
            return Err(format!("replica {node} does not start: {why}"));
        }
        self.strikes.found_lost.push(node);
        self.judge.turned(NodeId(node as u16))?;
        Ok(false)
    }
}
