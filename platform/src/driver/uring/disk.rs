//! Writes with their flush, and reads.
//!
//! A durable write is a write and a flush that the kernel links: the flush begins when the write is
//! whole. The link holds only if the kernel takes both with one system call, and it may stop
//! anywhere when it is short of memory. Then both run at once, and a flush that began before its
//! write ended proves nothing, whichever of them completes first. So a slot ends only when both
//! have completed, and is good only if the link held.

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
    /// What has completed. Until all has, the kernel uses the slot and its completions name it.
    written: Option<Result<(), i32>>,
    flushed: Option<Result<(), i32>>,
    /// Which submission of the driver the flush is.
    flush_number: u64,
    /// The kernel took the write without its flush.
    cut: bool,
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
            written: None,
            flushed: None,
            flush_number: 0,
            cut: false,
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
        slot.written = Some(match result {
            error if error < 0 => Err(-error),
            bytes if bytes as usize == write.parts.bytes() => Ok(()),
            _ => Err(libc::EIO),
        });
        self.end_write(index, events, counters);
    }

    pub(super) fn flushed(
        &mut self,
        index: usize,
        result: i32,
        events: &mut EventQueue,
        counters: &mut Counters,
    ) {
        let slot = &mut self.writes[index];
        slot.flushed = Some(match result {
            error if error < 0 => Err(-error),
            // It overtook its write, or may have.
            _ if slot.cut || slot.written.is_none() => Err(libc::EIO),
            _ => Ok(()),
        });
        self.end_write(index, events, counters);
    }

    /// Ends the slot if the kernel is done with it.
    fn end_write(&mut self, index: usize, events: &mut EventQueue, counters: &mut Counters) {
        let slot = &mut self.writes[index];
        let flushed = match &slot.write {
            Some(write) if write.sync == Sync::Fdatasync => slot.flushed,
            _ => Some(Ok(())),
        };
        let (Some(written), Some(flushed)) = (slot.written, flushed) else {
            return;
        };
        if let Some(write) = slot.write.take() {
            counters.writes += 1;
            events.push(Event::Written {
                token: write.token,
                // The write's own error first: the flush of a failed write is only cancelled.
                result: written.and(flushed),
            });
        }
    }

    /// The kernel stopped before this submission: if it is a flush, its write went alone.
    pub(super) fn stopped_before(&mut self, submission: u64) {
        for slot in &mut self.writes {
            if let Some(write) = &slot.write
                && write.sync == Sync::Fdatasync
                && slot.flushed.is_none()
                && slot.flush_number == submission
            {
                slot.cut = true;
            }
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
        slot.written = None;
        slot.flushed = None;
        slot.flush_number = u64::MAX;
        slot.cut = false;
        // The entries point into the slot: it is taken before the kernel can see them.
        let linked = write.sync == Sync::Fdatasync;
        slot.write = Some(write);
        let pushed = if linked {
            let flush = opcode::Fsync::new(file)
                .flags(FsyncFlags::DATASYNC)
                .build()
                .user_data(user_data(Kind::Flush, index));
            let pushed = self.push_all(&[entry.flags(squeue::Flags::IO_LINK), flush]);
            if pushed.is_ok() {
                self.disk.writes[index].flush_number = self.counters.submissions - 1;
            }
            pushed
        } else {
            self.push(&entry)
        };
        match pushed {
            Ok(()) => Ok(()),
            // Neither is in the queue.
            Err(_) => match self.disk.writes[index].write.take() {
                Some(write) => Err(write),
                None => Ok(()),
            },
        }
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
}

#[cfg(test)]
mod tests {
    use super::super::super::{FileIndex, Parts};
    use super::*;
    use crate::pool::Pool;

    const BYTES: i32 = 4096;

    fn durable_write(pool: &Pool) -> Write {
        let mut parts = Parts::new();
        parts.push(pool.take().unwrap().freeze());
        Write {
            file: FileIndex(0),
            offset: 0,
            parts,
            sync: Sync::Fdatasync,
            token: 7,
        }
    }

    /// What a durable write says when its completions come in this order.
    fn outcome(completions: [(Kind, i32); 2], cut: bool) -> Result<(), i32> {
        let pool = Pool::new("slot", 1, BYTES as usize).unwrap();
        let mut disk = Disk::new();
        let mut counters = Counters::default();
        let mut events = EventQueue::with_capacity(4);
        disk.writes[0].write = Some(durable_write(&pool));
        disk.writes[0].flush_number = 5;
        disk.stopped_before(if cut { 5 } else { 4 });
        for (kind, result) in completions {
            assert!(events.is_empty(), "the other has not completed");
            assert_eq!(pool.free(), 0, "the kernel may still use the buffers");
            if kind == Kind::Write {
                disk.wrote(0, result, &mut events, &mut counters);
            } else {
                disk.flushed(0, result, &mut events, &mut counters);
            }
        }
        let Some(Event::Written { token: 7, result }) = events.pop() else {
            panic!("both have completed");
        };
        assert_eq!((events.len(), pool.free(), counters.writes), (0, 1, 1));
        result
    }

    #[test]
    fn a_durable_write_ends_when_both_have_completed_in_any_order() {
        use Kind::{Flush, Write};
        assert_eq!(outcome([(Write, BYTES), (Flush, 0)], false), Ok(()));
        for (completions, errno) in [
            ([(Write, BYTES), (Flush, -libc::ENOSPC)], libc::ENOSPC),
            ([(Write, BYTES - 512), (Flush, 0)], libc::EIO),
            ([(Write, -libc::ENOSPC), (Flush, 0)], libc::ENOSPC),
            (
                [(Write, -libc::ENOSPC), (Flush, -libc::ECANCELED)],
                libc::ENOSPC,
            ),
            // Overtaken.
            ([(Flush, 0), (Write, BYTES)], libc::EIO),
            ([(Flush, -libc::EDQUOT), (Write, BYTES)], libc::EDQUOT),
            ([(Flush, 0), (Write, -libc::ENOSPC)], libc::ENOSPC),
        ] {
            assert_eq!(outcome(completions, false), Err(errno), "{completions:?}");
        }
        let cut = outcome([(Write, BYTES), (Flush, 0)], true);
        assert_eq!(cut, Err(libc::EIO), "the flush may have begun first");
    }

    #[cfg(not(miri))]
    #[test]
    fn a_flush_that_the_kernel_took_later_than_its_write_proves_nothing() {
        use super::super::super::{Backend, Driver, Options};
        use crate::PlatformError;
        use crate::file::LogFile;
        use crate::idle::Wait;

        let mut uring = match Uring::open(Options {
            backend: Backend::Uring,
            socket: None,
            receive_pool: None,
            files_max: 1,
            sends_max: 1,
        }) {
            Ok(uring) => uring,
            Err((error @ PlatformError::UringDisabled { .. }, _)) => {
                eprintln!("NOT RUN: {error}");
                return;
            }
            Err((error, _)) => panic!("{error}"),
        };
        let path = std::env::temp_dir().join(format!("platform-cut-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let bytes = 4 * BYTES as u64;
        let log = LogFile::create(&path, bytes, false, std::time::Duration::ZERO).unwrap();
        uring.add_file(&log).unwrap();
        std::fs::remove_file(&path).unwrap();
        let pool = Pool::new("cut", 1, BYTES as usize).unwrap();
        for cut in [false, true, false] {
            uring.write(durable_write(&pool)).unwrap();
            if cut {
                uring.enter_with(1, 0).unwrap();
            }
            let mut events = EventQueue::with_capacity(4);
            let limit = std::time::Instant::now() + std::time::Duration::from_secs(20);
            let result = loop {
                if let Some(Event::Written { result, .. }) = events.pop() {
                    break result;
                }
                assert!(std::time::Instant::now() < limit, "the write does not end");
                uring.turn(Wait::No, &mut events).unwrap();
            };
            let expected = if cut { Err(libc::EIO) } else { Ok(()) };
            assert_eq!((result, pool.free()), (expected, 1));
        }
    }
}
