//! Writes with their flush, and reads.

use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{opcode, squeue};

use super::super::{Counters, Event, EventQueue, Read, Sync, WRITE_PARTS_MAX, Write};
use super::{Kind, Uring, user_data};
use crate::pool::Buffer;

/// Writes in flight; a log has one.
const WRITES_MAX: usize = 8;
const READS_MAX: usize = 128;
/// Completions that the disk can have outstanding: a write, its flush, a read.
pub(super) const OPERATIONS_MAX: usize = 2 * WRITES_MAX + READS_MAX;

/// A write and everything that its operation points to.
struct WriteSlot {
    write: Option<Write>,
    iovecs: [libc::iovec; WRITE_PARTS_MAX],
    /// Result of the write while its flush is under way.
    written: Result<(), i32>,
}

struct ReadSlot {
    buffer: Option<Buffer>,
    token: u64,
}

/// Operations on files.
pub(super) struct Disk {
    writes: Box<[WriteSlot]>,
    reads: Box<[ReadSlot]>,
}

const NOTHING: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

impl Disk {
    pub(super) fn new() -> Disk {
        let write = || WriteSlot {
            write: None,
            iovecs: [NOTHING; WRITE_PARTS_MAX],
            written: Ok(()),
        };
        Disk {
            writes: (0..WRITES_MAX).map(|_| write()).collect(),
            reads: (0..READS_MAX)
                .map(|_| ReadSlot {
                    buffer: None,
                    token: 0,
                })
                .collect(),
        }
    }

    pub(super) fn wrote(
        &mut self,
        index: usize,
        result: i32,
        events: &mut EventQueue,
        counters: &mut Counters,
    ) {
        let slot = &mut self.writes[index];
        let Some(write) = &slot.write else { return };
        slot.written = match result {
            error if error < 0 => Err(-error),
            bytes if bytes as usize == write.parts.bytes() => Ok(()),
            _ => Err(libc::EIO),
        };
        // A linked flush ends the slot, also when it was cancelled because the write failed.
        if write.sync != Sync::Fdatasync {
            self.end_write(index, events, counters);
        }
    }

    pub(super) fn flushed(
        &mut self,
        index: usize,
        result: i32,
        events: &mut EventQueue,
        counters: &mut Counters,
    ) {
        let slot = &mut self.writes[index];
        if result < 0 && slot.written.is_ok() {
            slot.written = Err(-result);
        }
        self.end_write(index, events, counters);
    }

    fn end_write(&mut self, index: usize, events: &mut EventQueue, counters: &mut Counters) {
        let slot = &mut self.writes[index];
        if let Some(write) = slot.write.take() {
            counters.writes += 1;
            events.push(Event::Written {
                token: write.token,
                result: slot.written,
            });
        }
    }

    pub(super) fn read(&mut self, index: usize, result: i32, events: &mut EventQueue) {
        let slot = &mut self.reads[index];
        if let Some(buffer) = slot.buffer.take() {
            let result = if result < 0 {
                Err(-result)
            } else {
                Ok(result as usize)
            };
            events.push(Event::Read {
                token: slot.token,
                buffer,
                result,
            });
        }
    }

    /// Gives the memory up: the kernel may still use it.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.writes));
        std::mem::forget(std::mem::take(&mut self.reads));
    }
}

impl Uring {
    pub(super) fn submit_write(&mut self, write: Write) -> Result<(), Write> {
        let Some(index) = self
            .disk
            .writes
            .iter()
            .position(|slot| slot.write.is_none())
        else {
            return Err(write);
        };
        let slot = &mut self.disk.writes[index];
        let mut used = 0;
        for part in write.parts.iter() {
            slot.iovecs[used] = libc::iovec {
                iov_base: part.as_ptr().cast_mut().cast(),
                iov_len: part.len(),
            };
            used += 1;
        }
        let file = Fixed(write.file.0 + 1);
        let flags = if write.sync == Sync::Dsync {
            libc::RWF_DSYNC
        } else {
            0
        };
        let entry = opcode::Writev::new(file, slot.iovecs.as_ptr(), used as u32)
            .offset(write.offset)
            .rw_flags(flags)
            .build()
            .user_data(user_data(Kind::Write, index));
        let flush = (write.sync == Sync::Fdatasync).then(|| {
            opcode::Fsync::new(file)
                .flags(FsyncFlags::DATASYNC)
                .build()
                .user_data(user_data(Kind::Flush, index))
        });
        slot.written = Ok(());
        // Both go into the queue together, or the link would be cut; and once the first is in it,
        // the slot belongs to the kernel.
        if !self.make_room(2) {
            return Err(write);
        }
        self.disk.writes[index].write = Some(write);
        let pushed = match flush {
            None => self.push(&entry),
            Some(flush) => self
                .push(&entry.flags(squeue::Flags::IO_LINK))
                .and_then(|()| self.push(&flush)),
        };
        assert!(pushed.is_ok(), "there was room");
        Ok(())
    }

    pub(super) fn submit_read(&mut self, read: Read) -> Result<(), Read> {
        let Some(index) = self
            .disk
            .reads
            .iter()
            .position(|slot| slot.buffer.is_none())
        else {
            return Err(read);
        };
        let Read {
            file,
            offset,
            mut buffer,
            length,
            token,
        } = read;
        let length = length.min(buffer.len());
        let entry = opcode::Read::new(Fixed(file.0 + 1), buffer.as_mut_ptr(), length as u32)
            .offset(offset)
            .build()
            .user_data(user_data(Kind::Read, index));
        self.disk.reads[index] = ReadSlot {
            buffer: Some(buffer),
            token,
        };
        if self.push(&entry).is_err()
            && let Some(buffer) = self.disk.reads[index].buffer.take()
        {
            return Err(Read {
                file,
                offset,
                buffer,
                length,
                token,
            });
        }
        Ok(())
    }

    /// Whether the queue has places for so many entries, if need be after submitting.
    fn make_room(&mut self, entries: usize) -> bool {
        for _ in 0..2 {
            let submission = self.ring.submission();
            if submission.capacity() - submission.len() >= entries {
                return true;
            }
            drop(submission);
            if self.enter(0).is_err() {
                return false;
            }
        }
        false
    }
}
