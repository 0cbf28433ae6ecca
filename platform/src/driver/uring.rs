//! io_uring: one ring for network, disk and wake-ups of one thread.
//!
//! Completions are deferred to this thread's own system calls (DEFER_TASKRUN), and the kernel says
//! in the shared flags that there is something to run (TASKRUN_FLAG), so an idle turn is a read of
//! memory. Buffers belong to the kernel from submission to completion: receive buffers sit in a
//! provided ring, everything else in slots of this structure, which do not move.

mod disk;
mod receive;
mod send;

use std::io;
use std::os::fd::AsRawFd;

use io_uring::types::{CancelBuilder, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use self::disk::Disk;
use self::receive::Receive;
use self::send::Sends;
use super::{
    Counters, Driver, Event, EventQueue, FileIndex, Options, Outgoing, Read, Write, too_many_files,
};
use crate::PlatformError;
use crate::file::LogFile;
use crate::idle::Wait;
use crate::pool::Pool;
use crate::process;
use crate::socket::Socket;
use crate::waker::Waker;

/// Submission entries; a turn that fills them submits in between.
const SUBMISSIONS: u32 = 1024;
/// Completions taken in one turn.
const COMPLETIONS_PER_TURN: usize = 512;
/// Longest sleep while no receive runs for want of buffers.
const STARVED_WAIT: std::time::Duration = std::time::Duration::from_millis(1);
/// Place of the socket among the registered files; log files follow.
const SOCKET: Fixed = Fixed(0);
/// IORING_ENTER_GETEVENTS of <linux/io_uring.h>.
const ENTER_GETEVENTS: u32 = 1;

/// What an operation was, in the upper bits of its user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Receive = 1,
    Send = 2,
    Write = 3,
    Flush = 4,
    Read = 5,
    Wake = 6,
}

fn user_data(kind: Kind, index: usize) -> u64 {
    (kind as u64) << 56 | index as u64
}

/// The io_uring backend.
pub(super) struct Uring {
    ring: IoUring,
    socket: Option<Socket>,
    receive: Option<Receive>,
    sends: Sends,
    disk: Disk,
    waker: Waker,
    wake_armed: bool,
    /// The last turn announced sleep and found nothing since.
    drowsy: bool,
    /// Operations submitted whose last completion has not come.
    in_flight: usize,
    counters: Counters,
    files: u32,
    files_max: u32,
    flags: &'static str,
}

impl Uring {
    /// Opens the ring; on failure the options come back for another backend.
    pub(super) fn open(options: Options) -> Result<Uring, (PlatformError, Options)> {
        // A completion for everything that can be in flight, twice: a receive may complete again
        // for a buffer that came home before the first completion was taken.
        let receives = options.receive_pool.as_ref().map_or(0, Pool::count);
        let in_flight = receives + options.sends_max + disk::OPERATIONS_MAX + 2;
        let completions = (2 * in_flight)
            .next_power_of_two()
            .max(2 * SUBMISSIONS as usize);
        let completions = u32::try_from(completions).unwrap_or(u32::MAX >> 1);
        // A place for the socket, and one for each file.
        let places = options.files_max as u64 + 1;
        let room = match process::raise_open_files(places) {
            room if room < places => Err(PlatformError::OpenFilesTooLow {
                needed: places,
                have: room,
            }),
            _ => Ok(()),
        };
        let (ring, flags) = match room.and_then(|()| make_ring(completions)) {
            Ok(made) => made,
            Err(error) => return Err((error, options)),
        };
        let Options {
            socket,
            receive_pool,
            files_max,
            sends_max,
            backend,
        } = options;
        let files_max = files_max as u32;
        let prepare = || {
            ring.submitter().register_files_sparse(files_max + 1)?;
            if let Some(socket) = &socket {
                ring.submitter().register_files_update(0, &[socket.raw()])?;
            }
            let waker = Waker::new()?;
            let receive = match &receive_pool {
                Some(pool) => Some(Receive::register(&ring, pool.clone())?),
                None => None,
            };
            Ok((waker, receive))
        };
        match prepare() {
            Ok((waker, receive)) => Ok(Uring {
                ring,
                socket,
                receive,
                sends: Sends::new(sends_max),
                disk: Disk::new(),
                waker,
                wake_armed: false,
                drowsy: false,
                in_flight: 0,
                counters: Counters::default(),
                files: 0,
                files_max,
                flags,
            }),
            Err(source) => {
                let options = Options {
                    backend,
                    socket,
                    receive_pool,
                    files_max: files_max as usize,
                    sends_max,
                };
                Err((explain(source, completions), options))
            }
        }
    }

    /// Puts an entry into the submission queue, submitting what is there when it is full.
    fn push(&mut self, entry: &squeue::Entry) -> Result<(), PlatformError> {
        self.push_all(std::slice::from_ref(entry))
    }

    /// As `push`, all entries or none: a link must not be cut by a queue that is full.
    fn push_all(&mut self, entries: &[squeue::Entry]) -> Result<(), PlatformError> {
        for _ in 0..2 {
            // SAFETY: every entry is built by this module from memory that lives in slots of this
            // structure, or in the receive ring, until its completion was taken.
            if unsafe { self.ring.submission().push_multiple(entries) }.is_ok() {
                self.in_flight += entries.len();
                self.counters.submissions += entries.len() as u64;
                return Ok(());
            }
            self.enter(0)?;
        }
        Err(PlatformError::Io {
            what: "io_uring submission queue".to_owned(),
            source: io::ErrorKind::OutOfMemory.into(),
        })
    }

    /// One system call: submits everything and runs what the kernel deferred.
    fn enter(&mut self, wait_for: u32) -> Result<(), PlatformError> {
        let queued = self.ring.submission().len() as u32;
        self.enter_with(queued, wait_for)
    }

    /// As `enter`, submitting only the first `submit` entries.
    fn enter_with(&mut self, submit: u32, wait_for: u32) -> Result<(), PlatformError> {
        self.counters.enters += 1;
        // SAFETY: no argument is passed; entries are valid as said in `push_all`.
        let entered = unsafe {
            self.ring
                .submitter()
                .enter::<libc::sigset_t>(submit, wait_for, ENTER_GETEVENTS, None)
        };
        self.note_cut();
        match entered {
            Ok(_) => Ok(()),
            // Interrupted, or completions must be taken first: the next turn goes on.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)
                ) =>
            {
                Ok(())
            }
            Err(source) => Err(PlatformError::Io {
                what: "io_uring_enter".to_owned(),
                source,
            }),
        }
    }

    /// After every system call that submits: the kernel may have stopped within a link.
    fn note_cut(&mut self) {
        let left = self.ring.submission().len() as u64;
        if left > 0 {
            self.disk.stopped_before(self.counters.submissions - left);
        }
    }

    fn wait(&mut self, wait: std::time::Duration) -> Result<(), PlatformError> {
        if !self.wake_armed {
            let event = io_uring::types::Fd(self.waker.fd());
            let entry = opcode::PollAdd::new(event, libc::POLLIN as u32)
                .build()
                .user_data(user_data(Kind::Wake, 0));
            self.push(&entry)?;
            self.wake_armed = true;
        }
        self.counters.enters += 1;
        let limit = Timespec::new()
            .sec(wait.as_secs())
            .nsec(wait.subsec_nanos());
        let arguments = SubmitArgs::new().timespec(&limit);
        let waited = self.ring.submitter().submit_with_args(1, &arguments);
        self.note_cut();
        match waited {
            Ok(_) => Ok(()),
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)
                ) =>
            {
                Ok(())
            }
            Err(source) => Err(PlatformError::Io {
                what: "io_uring_enter".to_owned(),
                source,
            }),
        }
    }

    /// Takes completions as far as there is room for their events.
    fn collect(&mut self, events: &mut EventQueue) -> Result<usize, PlatformError> {
        let mut taken = 0;
        while taken < COMPLETIONS_PER_TURN && events.room() > 0 {
            let Some(entry) = self.ring.completion().next() else {
                break;
            };
            taken += 1;
            self.counters.completions += 1;
            self.complete(&entry, events)?;
        }
        self.counters.cq_overflows = u64::from(self.ring.completion().overflow());
        Ok(taken)
    }

    fn complete(
        &mut self,
        entry: &cqueue::Entry,
        events: &mut EventQueue,
    ) -> Result<(), PlatformError> {
        if !cqueue::more(entry.flags()) {
            self.in_flight -= 1;
        }
        let index = (entry.user_data() & 0xff_ffff_ffff) as usize;
        match entry.user_data() >> 56 {
            kind if kind == Kind::Receive as u64 => {
                if let Some(receive) = &mut self.receive {
                    receive.complete(entry, events, &mut self.counters)?;
                }
            }
            kind if kind == Kind::Send as u64 => {
                self.sends
                    .complete(index, entry.result(), events, &mut self.counters);
            }
            kind if kind == Kind::Write as u64 => {
                self.disk
                    .wrote(index, entry.result(), events, &mut self.counters);
            }
            kind if kind == Kind::Flush as u64 => {
                self.disk
                    .flushed(index, entry.result(), events, &mut self.counters);
            }
            kind if kind == Kind::Read as u64 => self.disk.read(index, entry.result(), events),
            kind if kind == Kind::Wake as u64 => {
                self.wake_armed = false;
                self.waker.drain();
            }
            _ => {}
        }
        Ok(())
    }
}

impl Driver for Uring {
    fn add_file(&mut self, file: &LogFile) -> Result<FileIndex, PlatformError> {
        use std::os::fd::AsFd;
        if self.files == self.files_max {
            return Err(too_many_files());
        }
        // The registration keeps the file open.
        self.ring
            .submitter()
            .register_files_update(self.files + 1, &[file.as_fd().as_raw_fd()])
            .map_err(PlatformError::io("cannot register a log file"))?;
        self.files += 1;
        Ok(FileIndex(self.files - 1))
    }

    fn send(&mut self, outgoing: Outgoing) -> Result<(), Outgoing> {
        self.submit_send(outgoing)
    }

    fn write(&mut self, write: Write) -> Result<(), Write> {
        self.submit_write(write)
    }

    fn read(&mut self, read: Read) -> Result<(), Read> {
        self.submit_read(read)
    }

    fn turn(&mut self, wait: Wait, events: &mut EventQueue) -> Result<usize, PlatformError> {
        self.arm_receive()?;
        let (queued, work) = {
            let mut submission = self.ring.submission();
            submission.sync();
            (
                submission.len(),
                submission.taskrun() || submission.cq_overflow(),
            )
        };
        if queued > 0 || work {
            self.enter(0)?;
        }
        let mut taken = self.collect(events)?;
        match wait {
            Wait::UpTo(limit) if taken == 0 => {
                // The first idle turn announces sleep and returns, so that the caller looks at its
                // rings once more; the next one sleeps.
                if self.drowsy {
                    let starved = self.receive.as_ref().is_some_and(Receive::starved);
                    self.wait(if starved {
                        limit.min(STARVED_WAIT)
                    } else {
                        limit
                    })?;
                    self.waker.end_sleep();
                    self.drowsy = false;
                    taken = self.collect(events)?;
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
        format!("uring ({})", self.flags)
    }
}

impl Drop for Uring {
    /// Cancels everything, waits until the kernel has let go of every buffer, then frees. What does
    /// not end is leaked: memory that the kernel may still write is never given back.
    fn drop(&mut self) {
        let _ = self.enter(0);
        let patience = Timespec::new().sec(1);
        let _ = self
            .ring
            .submitter()
            .register_sync_cancel(Some(patience), CancelBuilder::any());
        let mut events = EventQueue::with_capacity(COMPLETIONS_PER_TURN);
        for _ in 0..100 {
            while let Ok(taken) = self.collect(&mut events)
                && taken > 0
            {
                while events.pop().is_some() {}
            }
            if self.in_flight == 0 {
                return;
            }
            if self.wait_for_any().is_err() {
                break;
            }
        }
        self.sends.leak();
        self.disk.leak();
        if let Some(receive) = self.receive.take() {
            std::mem::forget(receive);
        }
    }
}

impl Uring {
    fn wait_for_any(&mut self) -> Result<(), PlatformError> {
        let limit = Timespec::new().nsec(20_000_000);
        let arguments = SubmitArgs::new().timespec(&limit);
        let waited = self.ring.submitter().submit_with_args(1, &arguments);
        self.note_cut();
        match waited {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => Ok(()),
            Err(source) => Err(PlatformError::Io {
                what: "io_uring drain".to_owned(),
                source,
            }),
        }
    }

    /// Whether the kernel cuts sends.
    fn gso(&self) -> bool {
        self.socket.as_ref().is_some_and(Socket::gso)
    }
}

fn make_ring(completions: u32) -> Result<(IoUring, &'static str), PlatformError> {
    let deferred = IoUring::builder()
        .setup_clamp()
        .setup_cqsize(completions)
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(SUBMISSIONS);
    match deferred {
        Ok(ring) => Ok((ring, "defer-taskrun")),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            // Before Linux 6.1.
            let ring = IoUring::builder()
                .setup_clamp()
                .setup_cqsize(completions)
                .setup_coop_taskrun()
                .setup_taskrun_flag()
                .build(SUBMISSIONS)
                .map_err(|error| explain(error, completions))?;
            Ok((ring, "coop-taskrun"))
        }
        Err(error) => Err(explain(error, completions)),
    }
}

/// An error of setting up as one that says what to do.
fn explain(source: io::Error, completions: u32) -> PlatformError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::ENOSYS | libc::EACCES) => PlatformError::UringDisabled { source },
        Some(libc::ENOMEM) => {
            let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
            let needed = u64::from(SUBMISSIONS) * 64 + u64::from(completions) * 16;
            PlatformError::MemlockTooLow {
                needed,
                have: limit.current.unwrap_or(u64::MAX),
            }
        }
        _ => PlatformError::Io {
            what: "io_uring setup".to_owned(),
            source,
        },
    }
}

/// An event that has no room is dropped only where it is a remark.
fn remark(events: &mut EventQueue, event: Event) {
    if events.room() > 0 {
        events.push(event);
    }
}
