//! Sends: prepared message headers in slots that do not move until the kernel is done.

use io_uring::opcode;

use super::super::message::{SendSlot, batches};
use super::super::{Counters, Event, EventQueue, Outgoing};
use super::{Kind, SOCKET, Uring, remark, user_data};

/// Slots for sends in flight.
pub(super) struct Sends {
    slots: Box<[SendSlot]>,
    free: Vec<u32>,
}

impl Sends {
    pub(super) fn new(count: usize) -> Sends {
        Sends {
            slots: (0..count).map(|_| SendSlot::new()).collect(),
            free: (0..count as u32).rev().collect(),
        }
    }

    /// The kernel is done with a slot.
    pub(super) fn complete(
        &mut self,
        index: usize,
        result: i32,
        events: &mut EventQueue,
        counters: &mut Counters,
    ) {
        let slot = &mut self.slots[index];
        if result < 0 {
            counters.send_errors += 1;
            remark(events, Event::SendFailed { errno: -result });
        } else {
            counters.sent_datagrams += slot.datagrams as u64;
            counters.sent_bytes += slot.bytes as u64;
        }
        slot.clear();
        self.free.push(index as u32);
    }

    /// Gives the memory up: the kernel may still read it.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.slots));
    }
}

impl Uring {
    pub(super) fn submit_send(&mut self, outgoing: Outgoing) -> Result<(), Outgoing> {
        let gso = self.gso();
        if self.socket.is_none() || self.sends.free.len() < batches(&outgoing, gso).count() {
            return Err(outgoing);
        }
        for range in batches(&outgoing, gso) {
            let Some(index) = self.sends.free.pop() else {
                return Err(outgoing);
            };
            let slot = &mut self.sends.slots[index as usize];
            slot.fill(&outgoing, range);
            let entry = opcode::SendMsg::new(SOCKET, &slot.header)
                .build()
                .user_data(user_data(Kind::Send, index as usize));
            if self.push(&entry).is_err() {
                // The datagrams are lost, as any may be; the next turn reports what is wrong.
                self.sends.slots[index as usize].clear();
                self.sends.free.push(index);
            }
        }
        Ok(())
    }
}
