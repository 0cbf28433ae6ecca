//! Network and disk of one thread behind one trait.
//!
//! A driver owns what is in flight: buffers go in with an operation and come back with its event,
//! or are dropped when the kernel is done with them. Two backends: io_uring, and plain system
//! calls for kernels and containers that forbid it, and for comparison.

mod message;
mod mmsg;
mod uring;

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use crate::PlatformError;
use crate::file::LogFile;
use crate::idle::Wait;
use crate::pool::{Buffer, Pool, Shared};
use crate::socket::Socket;
use crate::waker::Waker;

/// Datagrams of one GSO send at most.
pub const GSO_SEGMENTS_MAX: usize = 64;
/// Bytes of one send at most.
pub const SEND_BYTES_MAX: usize = 65_507;
/// Parts of one write.
pub const WRITE_PARTS_MAX: usize = 64;

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// `data` holds one datagram, or several of `segment` bytes each that the kernel joined; the
    /// last may be shorter. `segment` is at least 1; `data` is empty for an empty datagram.
    Received {
        from: SocketAddr,
        data: Shared,
        segment: usize,
    },
    /// A write is done, and durable where that was asked for. A short write is EIO.
    Written { token: u64, result: Result<(), i32> },
    Read {
        token: u64,
        buffer: Buffer,
        result: Result<usize, i32>,
    },
    /// A send failed; its datagrams count as lost.
    SendFailed { errno: i32 },
}

/// Datagrams for one address: number i is the i-th `head_each` bytes of `head`, then the i-th
/// `body_each` bytes of `body` (the last may be shorter).
#[derive(Debug)]
pub struct Outgoing {
    pub to: SocketAddr,
    pub head: Shared,
    pub head_each: usize,
    pub body: Option<Shared>,
    pub body_each: usize,
}

impl Outgoing {
    /// Number of datagrams.
    pub fn count(&self) -> usize {
        self.head.len() / self.head_each
    }

    /// Head and body of datagram `index`.
    pub fn datagram(&self, index: usize) -> (&[u8], &[u8]) {
        let head = &self.head[index * self.head_each..(index + 1) * self.head_each];
        let body = self.body.as_deref().map_or(&[][..], |body| {
            let start = (index * self.body_each).min(body.len());
            &body[start..(start + self.body_each).min(body.len())]
        });
        (head, body)
    }
}

/// When a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Durable by the write itself (RWF_DSYNC).
    Dsync,
    /// Durable by an fdatasync after it.
    Fdatasync,
    /// When the kernel took it.
    None,
}

/// Index of a file that the driver knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIndex(pub u32);

/// The parts of one write, in place.
#[derive(Debug)]
pub struct Parts {
    parts: [Option<Shared>; WRITE_PARTS_MAX],
    used: usize,
}

impl Default for Parts {
    fn default() -> Parts {
        Parts::new()
    }
}

impl Parts {
    pub fn new() -> Parts {
        Parts {
            parts: [const { None }; WRITE_PARTS_MAX],
            used: 0,
        }
    }

    /// Adds whole sectors. Panics beyond `WRITE_PARTS_MAX` (our own error).
    pub fn push(&mut self, part: Shared) {
        assert!(
            part.len().is_multiple_of(crate::pool::ALIGNMENT),
            "whole sectors"
        );
        self.parts[self.used] = Some(part);
        self.used += 1;
    }

    pub fn iter(&self) -> impl Iterator<Item = &Shared> {
        self.parts[..self.used].iter().flatten()
    }

    pub fn len(&self) -> usize {
        self.used
    }

    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> usize {
        self.iter().map(|part| part.len()).sum()
    }
}

/// Write these parts one after another.
#[derive(Debug)]
pub struct Write {
    pub file: FileIndex,
    pub offset: u64,
    pub parts: Parts,
    pub sync: Sync,
    pub token: u64,
}

/// Read into the front of a buffer.
#[derive(Debug)]
pub struct Read {
    pub file: FileIndex,
    pub offset: u64,
    pub buffer: Buffer,
    pub length: usize,
    pub token: u64,
}

/// What a driver has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub received_datagrams: u64,
    pub received_bytes: u64,
    pub sent_datagrams: u64,
    pub sent_bytes: u64,
    pub send_errors: u64,
    /// Receives that found no buffer.
    pub no_receive_buffer: u64,
    /// Multishot receives that ended and were started again.
    pub rearmed: u64,
    pub cq_overflows: u64,
    /// Datagrams that the kernel dropped because the socket's buffer was full, as of the last
    /// receive; modulo 2^32.
    pub kernel_drops: u64,
    /// Datagrams dropped because they were larger than a receive buffer.
    pub truncated: u64,
    /// System calls that submit or wait.
    pub enters: u64,
    pub submissions: u64,
    pub completions: u64,
    pub writes: u64,
}

impl Counters {
    fn note_received(&mut self, bytes: usize, segment: usize) {
        self.received_bytes += bytes as u64;
        self.received_datagrams += bytes.div_ceil(segment).max(1) as u64;
    }

    fn note_drops(&mut self, drops: Option<u32>) {
        if let Some(drops) = drops {
            self.kernel_drops = u64::from(drops);
        }
    }
}

fn too_many_files() -> PlatformError {
    PlatformError::Io {
        what: "too many log files for this driver (files_max)".to_owned(),
        source: std::io::ErrorKind::QuotaExceeded.into(),
    }
}

/// Events between the driver and its stages; bounded, taken once.
#[derive(Debug)]
pub struct EventQueue {
    queue: VecDeque<Event>,
    capacity: usize,
}

impl EventQueue {
    pub fn with_capacity(capacity: usize) -> EventQueue {
        EventQueue {
            queue: VecDeque::with_capacity(capacity),
            capacity,
        }
    }

    pub fn pop(&mut self) -> Option<Event> {
        self.queue.pop_front()
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Events that still fit.
    pub fn room(&self) -> usize {
        self.capacity - self.queue.len()
    }

    pub(crate) fn push(&mut self, event: Event) {
        assert!(self.room() > 0, "the driver asks for room first");
        self.queue.push_back(event);
    }
}

/// Network and disk of one thread.
pub trait Driver {
    /// Makes a file known; it stays open until the driver ends.
    fn add_file(&mut self, file: &LogFile) -> Result<FileIndex, PlatformError>;

    /// Queues datagrams. They come back when the queue is full, or there is no socket; so does for
    /// ever a run that takes more sends than `sends_max` (64 datagrams one, without GSO each one).
    fn send(&mut self, outgoing: Outgoing) -> Result<(), Outgoing>;

    fn write(&mut self, write: Write) -> Result<(), Write>;

    fn read(&mut self, read: Read) -> Result<(), Read>;

    /// Submits everything queued, by one system call or none, and collects what has happened, as
    /// far as `events` has room. Waits only as `wait` allows and only when there is nothing.
    /// Returns the number of events.
    fn turn(&mut self, wait: Wait, events: &mut EventQueue) -> Result<usize, PlatformError>;

    /// Ends a wait from another thread.
    fn waker(&self) -> Waker;

    fn counters(&self) -> Counters;

    /// Which backend this is, and why if it was second choice.
    fn backend_name(&self) -> String;
}

/// Choice of backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// io_uring, or system calls where it is forbidden.
    #[default]
    Auto,
    Uring,
    Mmsg,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Auto => "auto",
            Backend::Uring => "uring",
            Backend::Mmsg => "mmsg",
        })
    }
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Backend, String> {
        match text {
            "auto" => Ok(Backend::Auto),
            "uring" => Ok(Backend::Uring),
            "mmsg" => Ok(Backend::Mmsg),
            _ => Err(format!("backend `{text}`: choose auto, uring or mmsg")),
        }
    }
}

/// What a driver serves.
#[derive(Debug)]
pub struct Options {
    pub backend: Backend,
    pub socket: Option<Socket>,
    /// Where datagrams land; needed with a socket.
    pub receive_pool: Option<Pool>,
    pub files_max: usize,
    /// Sends in flight.
    pub sends_max: usize,
}

/// Opens a driver on the calling thread, which must be the one that uses it.
pub fn open(options: Options) -> Result<Box<dyn Driver>, PlatformError> {
    assert_eq!(
        options.socket.is_some(),
        options.receive_pool.is_some(),
        "a socket needs buffers"
    );
    match options.backend {
        Backend::Mmsg => Ok(Box::new(mmsg::Mmsg::open(options, String::new())?)),
        Backend::Uring => match uring::Uring::open(options) {
            Ok(driver) => Ok(Box::new(driver)),
            Err((error, _)) => Err(error),
        },
        Backend::Auto => match uring::Uring::open(options) {
            Ok(driver) => Ok(Box::new(driver)),
            Err((error, options)) => {
                let reason = format!(" ({error})");
                Ok(Box::new(mmsg::Mmsg::open(options, reason)?))
            }
        },
    }
}
