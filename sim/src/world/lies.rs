//! What liars send instead of what their replicas would.

use wire::ids::NodeId;

use super::World;
use crate::buffers::Shared;
use crate::liars::{Liar, Seat};
use crate::network::End;
use crate::probes::Probe;

impl World {
    /// Puts the plan's liars into their seats.
    pub(super) fn seat_liars(&mut self) {
        self.seats = self.nodes.iter().map(|_| None).collect();
        for (node, kind) in self.plan.faults.liars.clone() {
            let mut random = self.random.fork(3000 + node as u64);
            let id = NodeId(node as u16);
            let liar = kind.make(self.nodes.len(), id, &mut random);
            self.seat(node, liar);
        }
    }

    /// Makes a liar of a replica; before anything was sent.
    pub(super) fn seat(&mut self, node: usize, liar: Box<dyn Liar>) {
        self.judge.distrust(NodeId(node as u16));
        self.nodes[node].honest = false;
        self.seats[node] = Some(Seat {
            liar,
            authentic: None,
            random: self.random.fork(4000 + node as u64),
        });
    }

    /// A liar's process started: its words carry the new boot.
    pub(super) fn take_seat(&mut self, node: usize) {
        if let Some(seat) = &mut self.seats[node] {
            let datagram_bytes = self.plan.datagram_bytes;
            let rules = super::committee::rules(&self.plan, &self.committee);
            let authentic = self.nodes[node].authentic(&self.committee, datagram_bytes, rules);
            seat.authentic = authentic;
            if seat.liar.is_two() {
                let twin = self.nodes[node].twin(&self.plan, &self.committee);
                seat.liar.starts(twin);
            }
        }
    }

    /// What arrives at a liar's replica; whether the replica itself learns of it.
    pub(super) fn overhear(&mut self, node: usize, from: End, datagram: &Shared) -> bool {
        let now = self.nodes[node].clock.local(self.now);
        let Some(seat) = self.seats[node].as_mut() else {
            return true;
        };
        if let Some(authentic) = seat.authentic.as_mut() {
            authentic.hears(now, from, datagram);
        }
        seat.admits(self.now, from, datagram)
    }

    /// A liar's replica would send this.
    pub(super) fn lie(&mut self, node: usize, to: End, datagram: &[u8]) -> Result<(), String> {
        let Some(seat) = &mut self.seats[node] else {
            return Ok(());
        };
        let said = seat.instead(self.now, to, datagram);
        // Counters and tags differ in any case; a lie is another body, another receiver or nothing.
        let bodies = wire::header::HEADER_BYTES;
        let same =
            matches!(&said[..], [(end, one)] if *end == to && one[bodies..] == datagram[bodies..]);
        self.probes.hit_if(Probe::Lied, !same);
        for (to, datagram) in said {
            self.judge.overhears(NodeId(node as u16), to, &datagram)?;
            self.send(End(node), to, datagram);
        }
        Ok(())
    }

    /// A liar's replica has had its turn.
    pub(super) fn turn(&mut self, node: usize) -> Result<(), String> {
        let Some(seat) = &mut self.seats[node] else {
            return Ok(());
        };
        for (to, datagram) in seat.turn(self.now) {
            self.probes.hit(Probe::Lied);
            self.judge.overhears(NodeId(node as u16), to, &datagram)?;
            self.send(End(node), to, datagram);
        }
        Ok(())
    }
}
