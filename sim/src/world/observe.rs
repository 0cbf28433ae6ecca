//! What is noted while a world runs: the digest, the trace, probes and the record.

use replica::takeover::TakeoverCounts;
use wire::ids::{Slot, View};

use super::World;
use crate::network::End;
use crate::probes::Probe;
use crate::record::What;

/// What a replica said of itself when it was last looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Looked {
    view: View,
    decided: Slot,
    /// What was decided when its process started.
    decided_at_start: Slot,
    local_ns: u64,
    world_ns: u64,
    takeover: TakeoverCounts,
    retained_from: Slot,
}

impl World {
    /// Adds an event to the digest of the run, and to its trace.
    pub(super) fn note(&mut self, kind: u8, numbers: &[usize], bytes: &[u8]) {
        self.hasher.update(&[kind]);
        self.hasher.update(&self.now.to_le_bytes());
        for number in numbers {
            self.hasher.update(&(*number as u64).to_le_bytes());
        }
        self.hasher.update(bytes);
        if self.plan.options.trace {
            crate::report::trace(self.now, kind, numbers, bytes);
        }
    }

    pub(super) fn count_buffers(&mut self, node: usize) {
        let used = self.nodes[node].block_buffers_used_max();
        self.block_buffers_used_max = self.block_buffers_used_max.max(used);
    }

    /// A process started.
    pub(super) fn look_at_start(&mut self, node: usize) {
        let Some(server) = &self.nodes[node].server else {
            return;
        };
        let summary = server.summary();
        self.looked[node] = Looked {
            view: View(0),
            decided: summary.decided,
            decided_at_start: summary.decided,
            local_ns: 0,
            world_ns: 0,
            takeover: TakeoverCounts::default(),
            retained_from: server.ordering().core().retained_from(),
        };
        let disk = &self.nodes[node].disk;
        self.probes
            .hit_if(Probe::FromSnapshot, disk.saved() > Slot(0));
        let short = self.looked[node].retained_from > Slot(1);
        self.probes.hit_if(Probe::FromShortLog, short);
        let barred = summary.barred && self.nodes[node].incarnation > 1;
        self.probes.hit_if(Probe::LeaderBarred, barred);
    }

    /// A replica handled an input.
    pub(super) fn look(&mut self, node: usize) {
        let Some(server) = &self.nodes[node].server else {
            return;
        };
        let summary = server.summary();
        let looked = &mut self.looked[node];
        self.probes
            .hit_if(Probe::VotingStopped, summary.voting_stopped);
        if summary.decided > looked.decided {
            looked.decided = summary.decided;
            self.probes.hit(Probe::Decided);
            let again = self.nodes[node].incarnation > 1;
            let new = summary.decided > looked.decided_at_start;
            self.probes.hit_if(Probe::DecidedAfterRestart, again && new);
            self.mark(End(node), What::Decides(summary.decided));
        }
        let looked = &mut self.looked[node];
        if summary.view > looked.view {
            looked.view = summary.view;
            self.probes.hit(Probe::ViewChanged);
            self.mark(End(node), What::Enters(summary.view));
        }
        let Some(server) = &self.nodes[node].server else {
            return;
        };
        let looked = &mut self.looked[node];
        let (counts, before) = (server.takeover().counts(), looked.takeover);
        let retained_from = server.ordering().core().retained_from();
        let probes = &mut self.probes;
        probes.hit_if(Probe::TransferFinished, counts.installed > before.installed);
        probes.hit_if(
            Probe::TransferRestarted,
            counts.restarted > before.restarted,
        );
        probes.hit_if(
            Probe::TransferOvertaken,
            counts.overtaken > before.overtaken,
        );
        probes.hit_if(Probe::StateServed, counts.served > before.served);
        probes.hit_if(Probe::ChunkRefused, counts.refused > before.refused);
        probes.hit_if(Probe::LogReleased, retained_from > looked.retained_from);
        (looked.takeover, looked.retained_from) = (counts, retained_from);
        let looked = &mut self.looked[node];
        let local_ns = self.nodes[node].clock.local(self.now).0;
        let passed_ns = 2 * (self.now - looked.world_ns) + 1;
        let jumped = looked.world_ns > 0 && local_ns - looked.local_ns > passed_ns;
        (looked.local_ns, looked.world_ns) = (local_ns, self.now);
        self.probes.hit_if(Probe::ClockJumped, jumped);
    }

    /// What can be told at the end only.
    pub(super) fn look_back(&mut self) {
        let counts = self.network.counts;
        let probes = &mut self.probes;
        probes.hit_if(Probe::LostToCut, counts.lost_to_cuts > 0);
        probes.hit_if(Probe::LostInBurst, counts.lost_in_bursts > 0);
        probes.hit_if(Probe::LostToQueue, counts.lost_to_queues > 0);
        probes.hit_if(Probe::Doubled, counts.doubled > 0);
        probes.hit_if(Probe::TornLog, self.torn > 0);
        probes.hit_if(Probe::ResultLost, self.judge.results_lost() > 0);
        let open = self.users.iter().any(|user| user.open().next().is_some());
        probes.hit_if(Probe::OpenOperations, open);
        probes.hit_if(Probe::OrderUnknown, self.checked.unknown > 0);
        probes.hit_if(Probe::ManyOnOneKey, self.checked.most_on_one_key > 50);
    }
}
