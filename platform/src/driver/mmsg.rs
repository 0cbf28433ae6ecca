//! Plain system calls: recvmmsg, sendmmsg, pwritev2, preadv, ppoll. For kernels and containers
//! that forbid io_uring, and as the yardstick for it. Disk operations are done, and waited for,
//! inside the turn.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use super::message::{CONTROL_BYTES, NAME_BYTES, SendSlot, batches, parse_name, parse_remarks};
use super::{
    Counters, Driver, Event, EventQueue, FileIndex, Options, Outgoing, Read, Sync, WRITE_PARTS_MAX,
    Write, too_many_files,
};
use crate::PlatformError;
use crate::file::LogFile;
use crate::idle::Wait;
use crate::pool::{Buffer, Pool};
use crate::socket::Socket;
use crate::waker::Waker;

/// Messages of one system call.
const BATCH: usize = 32;
const DISK_QUEUE_MAX: usize = 128;
/// Longest sleep while every receive buffer is out: nothing tells when one comes home.
const STARVED_SLEEP: Duration = Duration::from_millis(1);

/// One place of a receive batch.
struct ReceiveSlot {
    buffer: Option<Buffer>,
    name: [u8; NAME_BYTES],
    control: [u64; CONTROL_BYTES / 8],
    iovec: libc::iovec,
}

/// The backend of plain system calls.
pub(super) struct Mmsg {
    socket: Option<Socket>,
    pool: Option<Pool>,
    receives: Box<[ReceiveSlot]>,
    receive_headers: Box<[libc::mmsghdr]>,
    sends: Box<[SendSlot]>,
    /// Slots that are filled, in order, and those that are not.
    queued: VecDeque<u32>,
    free: Vec<u32>,
    send_headers: Box<[libc::mmsghdr]>,
    files: Vec<OwnedFd>,
    files_max: usize,
    writes: VecDeque<Write>,
    reads: VecDeque<Read>,
    waker: Waker,
    drowsy: bool,
    /// There was no buffer to receive into.
    starved: bool,
    counters: Counters,
    reason: String,
}

impl Mmsg {
    /// `reason`: why this backend, if another was wanted.
    pub(super) fn open(options: Options, reason: String) -> Result<Mmsg, PlatformError> {
        let waker = Waker::new().map_err(PlatformError::io("eventfd"))?;
        let receive = || ReceiveSlot {
            buffer: None,
            name: [0; NAME_BYTES],
            control: [0; CONTROL_BYTES / 8],
            iovec: libc::iovec {
                iov_base: std::ptr::null_mut(),
                iov_len: 0,
            },
        };
        // SAFETY: all-zero bytes are a valid mmsghdr.
        let header = || unsafe { std::mem::zeroed::<libc::mmsghdr>() };
        Ok(Mmsg {
            socket: options.socket,
            pool: options.receive_pool,
            receives: (0..BATCH).map(|_| receive()).collect(),
            receive_headers: (0..BATCH).map(|_| header()).collect(),
            sends: (0..options.sends_max).map(|_| SendSlot::new()).collect(),
            queued: VecDeque::with_capacity(options.sends_max),
            free: (0..options.sends_max as u32).rev().collect(),
            send_headers: (0..BATCH).map(|_| header()).collect(),
            files: Vec::with_capacity(options.files_max),
            files_max: options.files_max,
            writes: VecDeque::with_capacity(DISK_QUEUE_MAX),
            reads: VecDeque::with_capacity(DISK_QUEUE_MAX),
            waker,
            drowsy: false,
            starved: false,
            counters: Counters::default(),
            reason,
        })
    }

    fn gso(&self) -> bool {
        self.socket.as_ref().is_some_and(Socket::gso)
    }

    /// Sends queued messages until the socket's buffer is full.
    fn flush_sends(&mut self, events: &mut EventQueue) {
        let Some(socket) = &self.socket else { return };
        while !self.queued.is_empty() {
            let count = self.queued.len().min(BATCH);
            for (header, index) in self.send_headers.iter_mut().zip(&self.queued) {
                header.msg_hdr = self.sends[*index as usize].header;
            }
            self.counters.enters += 1;
            // SAFETY: each header points into its slot, which is filled and does not move; the
            // call is over before a slot is cleared.
            let sent = unsafe {
                libc::sendmmsg(
                    socket.raw(),
                    self.send_headers.as_mut_ptr(),
                    count as u32,
                    0,
                )
            };
            let (done, failed) = match sent {
                0.. => (sent as usize, None),
                _ => match io::Error::last_os_error().raw_os_error().unwrap_or(0) {
                    libc::EAGAIN => return,
                    libc::EINTR => (0, None),
                    errno => (1, Some(errno)),
                },
            };
            for _ in 0..done {
                let Some(index) = self.queued.pop_front() else {
                    break;
                };
                let slot = &mut self.sends[index as usize];
                match failed {
                    None => {
                        self.counters.sent_datagrams += slot.datagrams as u64;
                        self.counters.sent_bytes += slot.bytes as u64;
                    }
                    Some(errno) => {
                        self.counters.send_errors += 1;
                        if events.room() > 0 {
                            events.push(Event::SendFailed { errno });
                        }
                    }
                }
                slot.clear();
                self.free.push(index);
            }
        }
    }

    fn receive(&mut self, events: &mut EventQueue) -> Result<usize, PlatformError> {
        let (Some(socket), Some(pool)) = (&self.socket, &self.pool) else {
            return Ok(0);
        };
        let mut ready = 0;
        for (slot, header) in self.receives.iter_mut().zip(&mut self.receive_headers) {
            if ready == events.room() {
                break;
            }
            if slot.buffer.is_none() {
                slot.buffer = pool.take();
            }
            let Some(buffer) = &mut slot.buffer else {
                break;
            };
            slot.iovec = libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.len(),
            };
            // SAFETY: all-zero bytes are a valid message header.
            header.msg_hdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_name = slot.name.as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = NAME_BYTES as libc::socklen_t;
            header.msg_hdr.msg_iov = &raw mut slot.iovec;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = slot.control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
            ready += 1;
        }
        self.starved = ready == 0 && events.room() > 0;
        if ready == 0 {
            self.counters.no_receive_buffer += u64::from(self.starved);
            return Ok(0);
        }
        self.counters.enters += 1;
        // SAFETY: the first `ready` headers point into slots and buffers that this structure owns.
        let received = unsafe {
            let headers = self.receive_headers.as_mut_ptr();
            libc::recvmmsg(socket.raw(), headers, ready as u32, 0, std::ptr::null_mut())
        };
        if received < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR | libc::ECONNREFUSED) => Ok(0),
                _ => Err(PlatformError::Io {
                    what: "UDP receive".to_owned(),
                    source: error,
                }),
            };
        }
        for index in 0..received as usize {
            let (slot, header) = (&mut self.receives[index], &self.receive_headers[index]);
            let length = header.msg_len as usize;
            let truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            let control_bytes = header.msg_hdr.msg_controllen.min(CONTROL_BYTES);
            // SAFETY: the kernel wrote `control_bytes` bytes into the slot's array.
            let control = unsafe {
                std::slice::from_raw_parts(slot.control.as_ptr().cast::<u8>(), control_bytes)
            };
            let remarks = parse_remarks(control);
            self.counters.note_drops(remarks.drops);
            let buffer = slot.buffer.take();
            let (Some(from), Some(buffer)) = (parse_name(&slot.name), buffer) else {
                continue;
            };
            if truncated {
                self.counters.truncated += 1;
                continue;
            }
            let segment = remarks.segment.unwrap_or(length).max(1);
            self.counters.note_received(length, segment);
            let data = buffer.freeze().slice(0..length);
            events.push(Event::Received {
                from,
                data,
                segment,
            });
        }
        // Buffers that were not filled move to the front: the next call fills slots from there, and
        // ends at the first for which the pool has none.
        for index in received as usize..ready {
            self.receives[index - received as usize].buffer = self.receives[index].buffer.take();
        }
        Ok(received as usize)
    }

    fn disk(&mut self, events: &mut EventQueue) -> usize {
        let mut done = 0;
        while events.room() > 0 {
            let Some(write) = self.writes.pop_front() else {
                break;
            };
            let result = self.write_now(&write);
            self.counters.writes += 1;
            events.push(Event::Written {
                token: write.token,
                result,
            });
            done += 1;
        }
        while events.room() > 0 {
            let Some(mut read) = self.reads.pop_front() else {
                break;
            };
            let result = self.read_now(&mut read);
            events.push(Event::Read {
                token: read.token,
                buffer: read.buffer,
                result,
            });
            done += 1;
        }
        done
    }

    fn write_now(&mut self, write: &Write) -> Result<(), i32> {
        let file = self.files[write.file.0 as usize].as_raw_fd();
        let mut iovecs = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; WRITE_PARTS_MAX];
        for (iovec, part) in iovecs.iter_mut().zip(write.parts.iter()) {
            *iovec = libc::iovec {
                iov_base: part.as_ptr().cast_mut().cast(),
                iov_len: part.len(),
            };
        }
        let flags = if write.sync == Sync::Dsync {
            libc::RWF_DSYNC
        } else {
            0
        };
        self.counters.enters += 1;
        // SAFETY: the iovecs point into parts that `write` owns through the call.
        let written = unsafe {
            let count = write.parts.len() as libc::c_int;
            libc::pwritev2(
                file,
                iovecs.as_ptr(),
                count,
                write.offset as libc::off_t,
                flags,
            )
        };
        if written < 0 {
            return Err(last_errno());
        }
        if written as usize != write.parts.bytes() {
            return Err(libc::EIO);
        }
        if write.sync == Sync::Fdatasync {
            self.counters.enters += 1;
            // SAFETY: the call takes no memory; the file is open.
            if unsafe { libc::fdatasync(file) } < 0 {
                return Err(last_errno());
            }
        }
        Ok(())
    }

    fn read_now(&mut self, read: &mut Read) -> Result<usize, i32> {
        let file = self.files[read.file.0 as usize].as_raw_fd();
        let length = read.length.min(read.buffer.len());
        self.counters.enters += 1;
        // SAFETY: the buffer is owned by `read` through the call and has `length` bytes.
        let got = unsafe {
            let into = read.buffer.as_mut_ptr().cast();
            libc::pread(file, into, length, read.offset as libc::off_t)
        };
        if got < 0 {
            Err(last_errno())
        } else {
            Ok(got as usize)
        }
    }

    fn sleep(&mut self, limit: Duration) {
        let event = |fd, events| libc::pollfd {
            fd,
            events,
            revents: 0,
        };
        let socket = self.socket.as_ref().map_or(-1, Socket::raw);
        // A readable socket must not end the sleep of who cannot read it.
        let (input, limit) = if self.starved {
            (0, limit.min(STARVED_SLEEP))
        } else {
            (libc::POLLIN, limit)
        };
        let output = if self.queued.is_empty() {
            0
        } else {
            libc::POLLOUT
        };
        let mut polled = [
            event(self.waker.fd(), libc::POLLIN),
            event(socket, input | output),
        ];
        let limit = libc::timespec {
            tv_sec: limit.as_secs() as libc::time_t,
            tv_nsec: libc::c_long::from(limit.subsec_nanos()),
        };
        self.counters.enters += 1;
        // SAFETY: two descriptors and a time of this frame; a negative descriptor is skipped. Any
        // error ends the wait, which is all that is asked for.
        unsafe { libc::ppoll(polled.as_mut_ptr(), 2, &limit, std::ptr::null()) };
        if polled[0].revents != 0 {
            self.waker.drain();
        }
    }
}

fn last_errno() -> i32 {
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}

impl Driver for Mmsg {
    fn add_file(&mut self, file: &LogFile) -> Result<FileIndex, PlatformError> {
        if self.files.len() == self.files_max {
            return Err(too_many_files());
        }
        let own = file
            .as_fd()
            .try_clone_to_owned()
            .map_err(PlatformError::io("cannot keep a log file open"))?;
        self.files.push(own);
        Ok(FileIndex(self.files.len() as u32 - 1))
    }

    fn send(&mut self, outgoing: Outgoing) -> Result<(), Outgoing> {
        let gso = self.gso();
        if self.socket.is_none() || self.free.len() < batches(&outgoing, gso).count() {
            return Err(outgoing);
        }
        for range in batches(&outgoing, gso) {
            let Some(index) = self.free.pop() else {
                return Err(outgoing);
            };
            self.sends[index as usize].fill(&outgoing, range);
            self.queued.push_back(index);
        }
        Ok(())
    }

    fn write(&mut self, write: Write) -> Result<(), Write> {
        if self.writes.len() == DISK_QUEUE_MAX {
            return Err(write);
        }
        self.writes.push_back(write);
        Ok(())
    }

    fn read(&mut self, read: Read) -> Result<(), Read> {
        if self.reads.len() == DISK_QUEUE_MAX {
            return Err(read);
        }
        self.reads.push_back(read);
        Ok(())
    }

    fn turn(&mut self, wait: Wait, events: &mut EventQueue) -> Result<usize, PlatformError> {
        self.flush_sends(events);
        let mut taken = self.disk(events) + self.receive(events)?;
        match wait {
            Wait::UpTo(limit) if taken == 0 => {
                // As in the io_uring backend: announce first, sleep at the next idle turn.
                if self.drowsy {
                    self.sleep(limit);
                    self.waker.end_sleep();
                    self.drowsy = false;
                    taken = self.receive(events)?;
                } else {
                    self.waker.prepare_sleep();
                    self.drowsy = true;
                }
            }
            _ => {
                if self.drowsy {
                    self.waker.end_sleep();
                    self.drowsy = false;
                }
            }
        }
        Ok(taken)
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn backend_name(&self) -> String {
        format!("mmsg{}", self.reason)
    }
}
