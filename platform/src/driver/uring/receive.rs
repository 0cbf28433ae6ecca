//! Multishot receive into a ring of provided buffers.
//!
//! The kernel owns the buffers whose numbers stand in the ring; a completion names one, which then
//! belongs to its event. The pool's free buffers take the empty places each turn.

use std::alloc::Layout;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, RecvMsgOut};
use io_uring::{IoUring, cqueue, opcode};

use super::super::message::{CONTROL_BYTES, NAME_BYTES, parse_name, parse_remarks};
use super::super::{Counters, Event, EventQueue};
use super::{Kind, SOCKET, Uring, user_data};
use crate::PlatformError;
use crate::pool::{ALIGNMENT, Buffer, Pool};

/// Buffer group of this driver's only ring.
const GROUP: u16 = 0;
/// Most buffers that a provided ring takes.
const ENTRIES_MAX: usize = 32_768;

/// Receive buffers and the multishot operation that fills them.
pub(super) struct Receive {
    pool: Pool,
    /// Shared with the kernel: `entries` places, page-aligned.
    ring: NonNull<BufRingEntry>,
    layout: Layout,
    entries: u16,
    tail: u16,
    /// The buffer behind each number, while the kernel has it.
    given: Vec<Option<Buffer>>,
    /// Numbers without a buffer.
    empty: Vec<u16>,
    header: Box<libc::msghdr>,
    armed: bool,
}

impl Drop for Receive {
    fn drop(&mut self) {
        // SAFETY: allocated in `register` with this layout. The driver drops this only after the
        // last receive has ended, and its ring is closed right after.
        unsafe { std::alloc::dealloc(self.ring.as_ptr().cast(), self.layout) }
    }
}

impl Receive {
    /// Makes the ring known to the kernel.
    pub(super) fn register(uring: &IoUring, pool: Pool) -> io::Result<Receive> {
        let entries = pool.count().next_power_of_two().min(ENTRIES_MAX);
        let layout = Layout::array::<BufRingEntry>(entries)
            .and_then(|layout| layout.align_to(ALIGNMENT))
            .map_err(io::Error::other)?;
        // SAFETY: the layout has a size above zero.
        let memory = unsafe { std::alloc::alloc_zeroed(layout) };
        let ring = NonNull::new(memory.cast::<BufRingEntry>()).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: all-zero bytes are a valid message header.
        let mut header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        header.msg_namelen = NAME_BYTES as libc::socklen_t;
        header.msg_controllen = CONTROL_BYTES as _;
        let receive = Receive {
            ring,
            layout,
            entries: entries as u16,
            tail: 0,
            given: (0..entries).map(|_| None).collect(),
            empty: (0..entries.min(pool.count()) as u16).rev().collect(),
            pool,
            header,
            armed: false,
        };
        // SAFETY: the ring memory has `entries` places, is page-aligned and outlives the
        // registration: it is freed after the last receive, when the io_uring closes.
        unsafe {
            let address = receive.ring.as_ptr() as u64;
            uring
                .submitter()
                .register_buf_ring_with_flags(address, receive.entries, GROUP, 0)?;
        }
        Ok(receive)
    }

    /// Gives free buffers of the pool to the kernel.
    fn refill(&mut self) {
        let before = self.tail;
        while let Some(&number) = self.empty.last() {
            let Some(mut buffer) = self.pool.take() else {
                break;
            };
            self.empty.pop();
            let place = usize::from(self.tail & (self.entries - 1));
            // SAFETY: `place` is within the ring; the kernel reads it only after the tail below
            // was published.
            let entry = unsafe { &mut *self.ring.as_ptr().add(place) };
            entry.set_addr(buffer.as_mut_ptr() as u64);
            entry.set_len(buffer.len() as u32);
            entry.set_bid(number);
            self.given[usize::from(number)] = Some(buffer);
            self.tail = self.tail.wrapping_add(1);
        }
        if self.tail != before {
            // SAFETY: the tail lies in the first entry of the ring, aligned for its type, and only
            // this thread writes it.
            let tail = unsafe { &*BufRingEntry::tail(self.ring.as_ptr()).cast::<AtomicU16>() };
            tail.store(self.tail, Ordering::Release);
        }
    }

    /// No receive runs, for want of buffers; nobody says when the pool has some again.
    pub(super) fn starved(&self) -> bool {
        !self.armed
    }

    /// One completion of the multishot receive.
    pub(super) fn complete(
        &mut self,
        entry: &cqueue::Entry,
        events: &mut EventQueue,
        counters: &mut Counters,
    ) -> Result<(), PlatformError> {
        if !cqueue::more(entry.flags()) {
            // It ends at any time; the next turn starts it again.
            self.armed = false;
            counters.rearmed += 1;
        }
        let taken = cqueue::buffer_select(entry.flags()).and_then(|number| {
            let buffer = self.given[usize::from(number)].take()?;
            self.empty.push(number);
            Some(buffer)
        });
        match (entry.result(), taken) {
            (length @ 0.., Some(buffer)) => {
                if let Some(event) = self.parse(buffer, length as usize, counters) {
                    events.push(event);
                }
                Ok(())
            }
            (length, _) if -length == libc::ENOBUFS => {
                counters.no_receive_buffer += 1;
                Ok(())
            }
            // A dead peer's ICMP answer, an interruption: nothing was received.
            (length, _)
                if length >= 0
                    || matches!(
                        -length,
                        libc::ECONNREFUSED | libc::EINTR | libc::EAGAIN | libc::ECANCELED
                    ) =>
            {
                Ok(())
            }
            (error, _) => Err(PlatformError::Io {
                what: "UDP receive".to_owned(),
                source: io::Error::from_raw_os_error(-error),
            }),
        }
    }

    fn parse(&self, buffer: Buffer, length: usize, counters: &mut Counters) -> Option<Event> {
        let received = RecvMsgOut::parse(buffer.get(..length)?, &self.header).ok()?;
        if received.is_payload_truncated() {
            counters.truncated += 1;
            return None;
        }
        let from = parse_name(received.name_data())?;
        let remarks = parse_remarks(received.control_data());
        counters.note_drops(remarks.drops);
        let payload = received.payload_data();
        let start = payload.as_ptr() as usize - buffer.as_ptr() as usize;
        let end = start + payload.len();
        let segment = remarks.segment.unwrap_or(end - start).max(1);
        counters.note_received(end - start, segment);
        Some(Event::Received {
            from,
            data: buffer.freeze().slice(start..end),
            segment,
        })
    }
}

impl Uring {
    /// Refills the buffer ring and starts the receive when it is not running.
    pub(super) fn arm_receive(&mut self) -> Result<(), PlatformError> {
        let Some(receive) = &mut self.receive else {
            return Ok(());
        };
        receive.refill();
        if receive.armed || receive.given.iter().all(Option::is_none) {
            return Ok(());
        }
        receive.armed = true;
        let entry = opcode::RecvMsgMulti::new(SOCKET, &*receive.header, GROUP)
            .build()
            .user_data(user_data(Kind::Receive, 0));
        self.push(&entry)
    }
}
