//! The one socket of a generator thread, shared by all its clients.
//!
//! Datagrams that follow each other to one replica with one size leave as one send, cut by the
//! kernel (GSO) where it can: bundles of several clients, or the fragments of one. What finds no
//! buffer is lost, counted, and sent again by its client.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use client::Client;
use platform::driver::{
    self, Driver, Event, EventQueue, GSO_SEGMENTS_MAX, Options, Outgoing, SEND_BYTES_MAX,
};
use platform::idle::{Idle, Idler, Wait};
use platform::pool::{Buffer, Pool};
use platform::socket::{Socket, SocketOptions};
use wire::header::{HEADER_BYTES, client_prefix, reply_client_prefix};
use wire::ids::{NodeId, PublicKey};
use wire::limits::DATAGRAM_BYTES_MAX;

/// Sends in flight; each holds a buffer for heads and one for bodies.
const SENDS_MAX: usize = 256;
/// Buffers in which received datagrams land.
const RECEIVE_BUFFERS: usize = 128;
/// Events collected in one turn.
const EVENTS_MAX: usize = 256;

/// What a port is made of; the port itself belongs to the thread that opens it.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Where the replicas listen, by id.
    pub addresses: Vec<SocketAddr>,
    pub backend: driver::Backend,
    pub idle: Idle,
}

/// Datagrams of one size for one replica, not sent yet. The last may be shorter and ends the run.
struct Batch {
    to: NodeId,
    heads: Buffer,
    bodies: Buffer,
    count: usize,
    body_each: usize,
    body_bytes: usize,
    ended: bool,
}

/// A socket, the replicas' addresses, and which client a reply is for.
pub struct Port {
    driver: Box<dyn Driver>,
    events: EventQueue,
    heads: Pool,
    bodies: Pool,
    batch: Option<Batch>,
    addresses: Vec<SocketAddr>,
    clients: HashMap<u64, usize>,
    idler: Idler,
    lost: u64,
}

impl Port {
    /// Opens the socket on the calling thread, which alone may use it.
    pub fn open(config: &PortConfig, clients: &[PublicKey]) -> anyhow::Result<Port> {
        let loopback = config
            .addresses
            .iter()
            .all(|address| address.ip().is_loopback());
        let any = match (config.addresses.first(), loopback) {
            (Some(SocketAddr::V6(_)), true) => "[::1]:0",
            (Some(SocketAddr::V6(_)), false) => "[::]:0",
            (_, true) => "127.0.0.1:0",
            (_, false) => "0.0.0.0:0",
        };
        let socket = Socket::bind(any.parse()?, &SocketOptions::default())?;
        let pool = |name, count, bytes| {
            Pool::new(name, count, bytes).with_context(|| format!("no memory for the pool {name}"))
        };
        let driver = driver::open(Options {
            backend: config.backend,
            socket: Some(socket),
            receive_pool: Some(pool("load-receive", RECEIVE_BUFFERS, 1 << 16)?),
            files_max: 0,
            sends_max: SENDS_MAX,
        })?;
        Ok(Port {
            driver,
            events: EventQueue::with_capacity(EVENTS_MAX),
            heads: pool("load-heads", SENDS_MAX + 1, GSO_SEGMENTS_MAX * HEADER_BYTES)?,
            bodies: pool("load-bodies", SENDS_MAX + 1, DATAGRAM_BYTES_MAX)?,
            batch: None,
            addresses: config.addresses.clone(),
            clients: clients
                .iter()
                .enumerate()
                .map(|(index, key)| (client_prefix(key), index))
                .collect(),
            idler: Idler::new(match config.idle {
                // Polling a little before each of thousands of short rests adds up to much of a core.
                Idle::Block { .. } => Idle::Block { polls_us: 0 },
                other => other,
            }),
            lost: 0,
        })
    }

    /// Queues one datagram.
    pub fn send(&mut self, to: NodeId, datagram: &[u8]) {
        let (head, body) = datagram.split_at(HEADER_BYTES.min(datagram.len()));
        assert_eq!(head.len(), HEADER_BYTES, "every datagram has a header");
        if !self
            .batch
            .as_ref()
            .is_some_and(|batch| batch.takes(to, body))
        {
            self.close_batch();
            self.batch = self
                .heads
                .take()
                .zip(self.bodies.take())
                .map(|(heads, bodies)| Batch {
                    to,
                    heads,
                    bodies,
                    count: 0,
                    body_each: body.len(),
                    body_bytes: 0,
                    ended: false,
                });
        }
        match &mut self.batch {
            Some(batch) => batch.push(head, body),
            None => self.lost += 1,
        }
    }

    fn close_batch(&mut self) {
        let Some(batch) = self.batch.take() else {
            return;
        };
        let Some(&to) = self.addresses.get(batch.to.index()) else {
            return;
        };
        let count = batch.count as u64;
        let outgoing = Outgoing {
            to,
            head: batch.heads.freeze().slice(0..batch.count * HEADER_BYTES),
            head_each: HEADER_BYTES,
            body: (batch.body_bytes > 0).then(|| batch.bodies.freeze().slice(0..batch.body_bytes)),
            body_each: batch.body_each,
        };
        if self.driver.send(outgoing).is_err() {
            self.lost += count;
        }
    }

    /// Lets go of everything queued and collects what has arrived. Rests when nothing happened,
    /// at most for `due_in_ns`.
    pub fn turn(&mut self, progress: bool, due_in_ns: u64) -> anyhow::Result<()> {
        self.close_batch();
        let due_in = Duration::from_nanos(due_in_ns);
        let wait = match self.events.is_empty() {
            true => self.idler.next(progress || due_in.is_zero(), due_in),
            false => Wait::No,
        };
        self.driver.turn(wait, &mut self.events)?;
        Ok(())
    }

    /// Hands what has arrived to `take`, with the client it is for and this port for its answers.
    /// Returns the number of datagrams.
    pub fn receive(&mut self, mut take: impl FnMut(usize, &[u8], &mut Port)) -> usize {
        let mut received = 0;
        while let Some(event) = self.events.pop() {
            let Event::Received { data, segment, .. } = event else {
                continue;
            };
            for datagram in data.chunks(segment.max(1)) {
                received += 1;
                let client = reply_client_prefix(datagram)
                    .and_then(|prefix| self.clients.get(&prefix).copied());
                if let Some(client) = client {
                    take(client, datagram, self);
                } else if Client::is_epoch_end(datagram) {
                    (0..self.clients.len()).for_each(|client| take(client, datagram, self));
                }
            }
        }
        received
    }

    /// Sends to the members of a later epoch from now on, by id.
    pub fn set_addresses(&mut self, addresses: impl IntoIterator<Item = SocketAddr>) {
        self.addresses.clear();
        self.addresses.extend(addresses);
    }

    /// Datagrams that found no buffer.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// The backend in use.
    pub fn backend_name(&self) -> String {
        self.driver.backend_name()
    }
}

impl Batch {
    /// Whether a datagram joins this run.
    fn takes(&self, to: NodeId, body: &[u8]) -> bool {
        let bytes = (self.count + 1) * HEADER_BYTES + self.body_bytes + body.len();
        to == self.to
            && !self.ended
            && self.count < GSO_SEGMENTS_MAX
            && body.len() <= self.body_each
            && bytes <= SEND_BYTES_MAX
    }

    fn push(&mut self, head: &[u8], body: &[u8]) {
        let at = self.count * HEADER_BYTES;
        self.heads[at..at + HEADER_BYTES].copy_from_slice(head);
        self.bodies[self.body_bytes..self.body_bytes + body.len()].copy_from_slice(body);
        self.count += 1;
        self.body_bytes += body.len();
        self.ended = body.len() < self.body_each;
    }
}
