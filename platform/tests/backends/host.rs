//! A driver with its queue and pools, as the tests use it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use platform::PlatformError;
use platform::driver::{self, Backend, Driver, Event, EventQueue, Options, Outgoing};
use platform::idle::Wait;
use platform::pool::{Pool, Shared};
use platform::socket::{Socket, SocketOptions};

/// Payload of the largest IPv4 datagram.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;
/// A whole run of datagrams, a receive of the kernel with its remarks.
const BUFFER_BYTES: usize = 128 << 10;
/// Longest wait before a test calls itself wedged.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Host {
    pub driver: Box<dyn Driver>,
    pub events: EventQueue,
    pub address: SocketAddr,
    /// Where datagrams land.
    pub pool: Pool,
}

impl Host {
    pub fn new(backend: Backend, options: SocketOptions) -> Host {
        Host::with_buffers(backend, options, 16, BUFFER_BYTES)
    }

    pub fn with_buffers(
        backend: Backend,
        options: SocketOptions,
        count: usize,
        bytes: usize,
    ) -> Host {
        let socket = Socket::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        Host::open(backend, Some(socket), count, bytes, 256)
    }

    pub fn with_sends(backend: Backend, options: SocketOptions, sends_max: usize) -> Host {
        let socket = Socket::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        Host::open(backend, Some(socket), 16, BUFFER_BYTES, sends_max)
    }

    pub fn on(backend: Backend, socket: Socket) -> Host {
        Host::open(backend, Some(socket), 16, BUFFER_BYTES, 256)
    }

    pub fn without_socket(backend: Backend) -> Host {
        Host::open(backend, None, 1, 4096, 4)
    }

    fn open(
        backend: Backend,
        socket: Option<Socket>,
        count: usize,
        bytes: usize,
        sends_max: usize,
    ) -> Host {
        let receive_pool = Pool::new("receive", count, bytes).unwrap();
        let address = socket
            .as_ref()
            .map_or("0.0.0.0:0".parse().unwrap(), Socket::local_addr);
        let has_socket = socket.is_some();
        let options = Options {
            backend,
            socket,
            receive_pool: has_socket.then(|| receive_pool.clone()),
            files_max: 4,
            sends_max,
        };
        let driver = driver::open(options).unwrap();
        Host {
            driver,
            events: EventQueue::with_capacity(256),
            address,
            pool: receive_pool,
        }
    }

    /// One turn; returns the number of events it brought.
    pub fn turn(&mut self, wait: Wait) -> usize {
        let before = self.events.len();
        self.driver.turn(wait, &mut self.events).unwrap();
        self.events.len() - before
    }

    /// Queues datagrams, turning while the queue is full.
    pub fn send(&mut self, mut outgoing: Outgoing) {
        let limit = Instant::now() + PATIENCE;
        while let Err(back) = self.driver.send(outgoing) {
            assert!(Instant::now() < limit, "the send queue stays full");
            outgoing = back;
            self.turn(Wait::No);
        }
    }

    /// Turns until what was queued has left.
    pub fn settle(&mut self) {
        for _ in 0..20 {
            self.turn(Wait::No);
        }
    }

    /// Datagrams among the events so far.
    pub fn datagrams(&mut self) -> Vec<Vec<u8>> {
        let mut got = Vec::new();
        while let Some(event) = self.events.pop() {
            if let Event::Received { data, segment, .. } = event {
                assert!(segment > 0, "consumers divide by it");
                got.extend(data.chunks(segment).map(<[u8]>::to_vec));
            }
        }
        got
    }

    /// Turns both until this one has `count` datagrams.
    pub fn receive_with(&mut self, sender: &mut Host, count: usize) -> Vec<Vec<u8>> {
        let limit = Instant::now() + PATIENCE;
        let mut got = Vec::new();
        while got.len() < count {
            assert!(
                Instant::now() < limit,
                "{} of {count} datagrams came",
                got.len()
            );
            sender.turn(Wait::No);
            self.turn(Wait::UpTo(Duration::from_millis(1)));
            got.extend(self.datagrams());
        }
        got
    }
}

/// Bytes that differ by place and seed.
pub fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes)
        .map(|at| ((at * 31 + seed * 17) ^ (at >> 8)) as u8)
        .collect()
}

/// Copies bytes into a pool of their own: senders in tests may hold what they like.
pub fn shared(bytes: &[u8]) -> Shared {
    let mut buffer = Pool::new("sent", 1, bytes.len()).unwrap().take().unwrap();
    buffer[..bytes.len()].copy_from_slice(bytes);
    buffer.freeze().slice(0..bytes.len())
}

/// Datagrams for `to`: equal parts of `head`, each with a part of `body`.
pub fn outgoing(
    to: SocketAddr,
    head: &[u8],
    head_each: usize,
    body: &[u8],
    body_each: usize,
) -> Outgoing {
    let body = (!body.is_empty()).then(|| shared(body));
    Outgoing {
        to,
        head: shared(head),
        head_each,
        body,
        body_each,
    }
}

/// Sends one run and returns the datagrams that arrived.
pub fn exchange(
    sender: &mut Host,
    receiver: &mut Host,
    head: &[u8],
    head_each: usize,
    body: &[u8],
    body_each: usize,
    count: usize,
) -> Vec<Vec<u8>> {
    sender.send(outgoing(receiver.address, head, head_each, body, body_each));
    receiver.receive_with(sender, count)
}

/// Whether this kernel and this container let us use io_uring.
pub fn uring_available() -> bool {
    let options = Options {
        backend: Backend::Uring,
        socket: None,
        receive_pool: None,
        files_max: 1,
        sends_max: 1,
    };
    match driver::open(options) {
        Ok(_) => true,
        Err(error @ PlatformError::UringDisabled { .. }) => {
            eprintln!("NOT RUN: {error}");
            false
        }
        Err(error) => panic!("io_uring is there and does not open: {error}"),
    }
}
