//! The way of a datagram from one end to another.

use std::rc::Rc;

use replica::replica::Input;

use super::{Event, World};
use crate::buffers::Shared;
use crate::network::{Arrival, End, spoil};
use crate::probes::Probe;
use crate::scenario::director::Leaves;

impl World {
    /// A datagram leaves one end for another.
    pub(super) fn send(&mut self, from: End, to: End, datagram: Vec<u8>) {
        if to.0 >= self.nodes.len() + self.users.len() + self.strangers.len() {
            return;
        }
        self.probes.sends(&datagram);
        let Some(director) = &mut self.director else {
            return self.transmit(from, to, datagram, 0, false);
        };
        for leaves in director.pass(self.now, (from, to), datagram) {
            let Leaves {
                to,
                not_before,
                datagram,
                spoiled,
            } = leaves;
            self.transmit(from, to, datagram, not_before, spoiled);
        }
    }

    /// Puts a datagram on the network; it arrives at `not_before` at the earliest.
    fn transmit(
        &mut self,
        from: End,
        to: End,
        datagram: Vec<u8>,
        not_before: u64,
        already_spoiled: bool,
    ) {
        let arrivals = self.network.send(self.now, from, to, datagram.len());
        let datagram = Rc::<[u8]>::from(datagram);
        if let Some(record) = &self.record {
            let mut record = record.borrow_mut();
            let copies = arrivals.iter().flatten();
            for arrival in copies {
                let at = arrival.at_ns.max(not_before);
                let spoiled = already_spoiled || arrival.spoiled.is_some();
                record.sent((from, to), &datagram, self.now, Some(at), spoiled);
            }
            if arrivals == [None, None] {
                record.sent((from, to), &datagram, self.now, None, false);
            }
        }
        for Arrival { at_ns, spoiled } in arrivals.into_iter().flatten() {
            let arrive = Event::Arrive {
                from,
                to,
                datagram: match spoiled {
                    Some(seed) => Rc::from(spoil(&datagram, seed)),
                    None => Rc::clone(&datagram),
                },
                spoiled: already_spoiled || spoiled.is_some(),
            };
            self.at(at_ns.max(not_before), arrive);
        }
    }

    /// A datagram reaches a replica. What was spoiled on its way between replicas is refused.
    pub(super) fn arrive(
        &mut self,
        from: End,
        to: End,
        bytes: Shared,
        spoiled: bool,
    ) -> Result<(), String> {
        if !self.overhear(to.0, from, &bytes) {
            return Ok(());
        }
        let refused = |world: &World| {
            let server = world.nodes[to.0].server.as_ref();
            server.map(|server| server.rejected())
        };
        let before = refused(self);
        let address = from.address();
        self.feed(
            to.0,
            Input::Datagram {
                from: address,
                bytes,
            },
        )?;
        // A replica that has ended looks at nothing.
        let ended = self.strikes.found_lost.contains(&to.0);
        if !spoiled || from.0 >= self.nodes.len() || ended {
            return Ok(());
        }
        if let (Some(before), Some(after)) = (before, refused(self)) {
            if after == before {
                return Err(format!(
                    "authentic: replica {} took a datagram of {} whose bits had flipped",
                    to.0, from.0
                ));
            }
            self.probes.hit(Probe::CorruptRefused);
        }
        Ok(())
    }
}
