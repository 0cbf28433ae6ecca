//! A connection for programs that do one thing at a time: the CLI, tests, simple tools.
//!
//! Every call waits for its result, for at most the timeout of its options.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wire::change::{Change, ChangeAnswer};
use wire::committee::Committee;
use wire::ids::{Instant, NodeId, Sequence, Slot};
use wire::ops::{Condition, Operation, Outcome};

use crate::{
    Client, Completion, ConfigError, Failure, Options, Outbox, Pushback, Secret, SubmitError, Way,
};

/// Settings of a [`Connection`].
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// How long the first operation waits for links and a session.
    pub connect_timeout: Duration,
    /// How long each operation waits for its result.
    pub timeout: Duration,
    /// Everything else; its `timeout_ns` is taken from `timeout`, its `linger_ns` is 0.
    pub client: Options,
}

impl Default for ConnectOptions {
    fn default() -> ConnectOptions {
        ConnectOptions {
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
            client: Options::default(),
        }
    }
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was executed: too few replicas answered to open a session.
    #[error("no quorum: {up} of {replicas} replicas answered, {needed} are needed; {hint}")]
    NoQuorum {
        up: usize,
        replicas: usize,
        needed: usize,
        hint: String,
    },
    /// The operation may or may not have been executed.
    #[error("{failure}{}", said(*.pushback))]
    Unknown {
        failure: Failure,
        /// What the leader said meanwhile.
        pushback: Option<Pushback>,
    },
    /// The one replica asked for a stale read did not answer.
    #[error("replica {0} did not answer in time")]
    ReplicaSilent(NodeId),
    #[error("{0}")]
    Refused(#[from] SubmitError),
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    #[error("b+1 replicas agreed on a result that this version cannot read")]
    UnexpectedResult,
    #[error("the result is larger than a reply may be; ask for less")]
    ResultTooLarge,
}

fn said(pushback: Option<Pushback>) -> String {
    pushback.map_or(String::new(), |pushback| format!("; {pushback}"))
}

impl Error {
    /// Whether too few replicas answered in time (exit code 3 of the command line).
    pub fn is_no_quorum_or_timeout(&self) -> bool {
        matches!(
            self,
            Error::NoQuorum { .. }
                | Error::ReplicaSilent(_)
                | Error::Unknown {
                    failure: Failure::Timeout | Failure::Expired | Failure::Stale,
                    ..
                }
        )
    }
}

/// A result and where it stands in the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    pub value: T,
    /// Slot of the block that executed the operation; for a stale read the highest slot that the
    /// replica had executed, for a fenced one a slot that a correct replica had.
    pub slot: Slot,
    /// Equal authentic replies that vouch for it: at least b+1, n-q+b+1 for a fenced read, 1 for a
    /// stale one.
    pub replies: u32,
    /// How it was answered in the end: a fenced read may have been ordered.
    pub way: Way,
}

impl<T> Answer<T> {
    fn map<U>(self, map: impl FnOnce(T) -> U) -> Answer<U> {
        Answer {
            value: map(self.value),
            slot: self.slot,
            replies: self.replies,
            way: self.way,
        }
    }
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// Through the order, as a write: linearizable.
    #[default]
    Ordered,
    /// From one replica's executed state: possibly old, vouched for by that replica alone.
    Stale(NodeId),
    /// From the states of n-q+b+1 replicas that agree: linearizable, without a place in the order.
    /// Ordered instead where they do not agree in time.
    Fenced,
}

/// What a cas did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CasOutcome {
    Swapped,
    /// The key holds this instead of what was expected; `None`: it is absent.
    Mismatch(Option<Vec<u8>>),
}

/// Result of one operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnPart {
    Done,
    Value(Vec<u8>),
    Absent,
    Mismatch(Option<Vec<u8>>),
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOutcome {
    /// All conditions held; the results in order.
    Done(Vec<TxnPart>),
    /// The condition of this index did not hold; nothing was done.
    Refused(usize),
}

/// Entries of a scan, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries {
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
    /// The range holds more: go on behind the last key.
    pub more: bool,
}

/// The end of the one operation in flight.
#[derive(Debug)]
struct Finished {
    tag: u64,
    slot: Slot,
    replies: u32,
    way: Way,
    result: Result<Vec<u8>, Failure>,
}

/// One client over one UDP socket.
///
/// ```no_run
/// use std::sync::Arc;
/// use client::blocking::{ConnectOptions, Connection, ReadMode};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let text = std::fs::read_to_string("net/committee.toml")?;
/// let committee = Arc::new(wire::committee::Committee::parse(&text)?);
/// let secret = client::Secret::from_pem(&std::fs::read_to_string("net/client.key")?)?;
/// let mut connection = Connection::connect(committee, &secret, ConnectOptions::default())?;
/// let put = connection.put(b"city", b"Byzantium")?;
/// println!("executed in block {}", put.slot);
/// let got = connection.get(b"city", ReadMode::Ordered)?;
/// assert_eq!(got.value.as_deref(), Some(&b"Byzantium"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Connection {
    client: Client,
    wires: Wires,
    started: std::time::Instant,
    connect_timeout_ns: u64,
    buffer: Vec<u8>,
    next_tag: u64,
}

/// Socket and the result that just came: what the client's effects reach.
#[derive(Debug)]
struct Wires {
    socket: UdpSocket,
    addresses: Vec<SocketAddr>,
    finished: Option<Finished>,
}

impl Outbox for Wires {
    fn send(&mut self, to: NodeId, datagram: &[u8]) {
        if let Some(address) = self.addresses.get(to.index()) {
            // A full or refused socket is a lost datagram: it is sent again.
            let _ = self.socket.send_to(datagram, address);
        }
    }

    fn complete(&mut self, completion: Completion<'_>) {
        self.finished = Some(Finished {
            tag: completion.tag,
            slot: completion.slot,
            replies: completion.replies,
            way: completion.way,
            result: completion.result.map(<[u8]>::to_vec),
        });
    }
}

/// Longest sleep in the socket, so that timers stay precise.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// Microseconds since 1970: above every sequence that an earlier process of this key used.
fn sequence_from_time() -> Sequence {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Sequence(since.map_or(1, |since| since.as_micros() as u64).max(1))
}

impl Connection {
    /// Makes a socket and a client. Links and session come with the first operation, or with
    /// [`Connection::wait_ready`]; a stale read needs no session, only one replica.
    ///
    /// Errors: [`Error::Config`] for a key or setting that cannot work, [`Error::Io`].
    pub fn connect(
        committee: Arc<Committee>,
        secret: &Secret,
        options: ConnectOptions,
    ) -> Result<Connection, Error> {
        let addresses = crate::links::addresses(&committee);
        let any: SocketAddr = match addresses.first() {
            Some(SocketAddr::V6(_)) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            _ => (Ipv4Addr::UNSPECIFIED, 0).into(),
        };
        let mut client = options.client;
        client.linger_ns = 0;
        client.timeout_ns = options.timeout.as_nanos() as u64;
        if client.first_sequence == Sequence(1) {
            client.first_sequence = sequence_from_time();
        }
        if client.seed == 0 {
            client.seed = RandomState::new().hash_one(0);
        }
        Ok(Connection {
            client: Client::new(committee, secret, client)?,
            wires: Wires {
                socket: UdpSocket::bind(any)?,
                addresses,
                finished: None,
            },
            started: std::time::Instant::now(),
            connect_timeout_ns: options.connect_timeout.as_nanos() as u64,
            buffer: vec![0; wire::limits::DATAGRAM_BYTES_MAX],
            next_tag: 1,
        })
    }

    /// Waits for a session, as every ordered operation does by itself.
    ///
    /// Errors: [`Error::NoQuorum`] when too few replicas answer in time.
    pub fn wait_ready(&mut self) -> Result<(), Error> {
        let deadline = self.now().after_ns(self.connect_timeout_ns);
        while !self.client.is_ready() {
            if self.now() >= deadline {
                let up = self.client.links_up();
                let needed = self.client.quorum();
                return Err(Error::NoQuorum {
                    up,
                    replicas: self.wires.addresses.len(),
                    needed,
                    hint: match self.client.pushback(self.now()) {
                        _ if up < needed => {
                            "are the nodes running, and is this their committee?".to_owned()
                        }
                        Some(pushback) => pushback.to_string(),
                        None => {
                            "links stand, but no session was ordered: is there a leader?".to_owned()
                        }
                    },
                });
            }
            self.turn(deadline)?;
        }
        Ok(())
    }

    /// Waits for links with as many replicas as a fenced read needs.
    fn wait_answerable(&mut self) -> Result<(), Error> {
        let deadline = self.now().after_ns(self.connect_timeout_ns);
        let needed = self.client.fenced_quorum();
        while self.client.links_up() < needed {
            if self.now() >= deadline {
                return Err(Error::NoQuorum {
                    up: self.client.links_up(),
                    replicas: self.wires.addresses.len(),
                    needed,
                    hint: "are the nodes running, and is this their committee?".to_owned(),
                });
            }
            self.turn(deadline)?;
        }
        Ok(())
    }

    /// Waits for the link with one replica: all that a stale read needs.
    fn wait_linked(&mut self, node: NodeId) -> Result<(), Error> {
        if node.index() >= self.wires.addresses.len() {
            return Err(SubmitError::NoSuchReplica.into());
        }
        let deadline = self.now().after_ns(self.connect_timeout_ns);
        while !self.client.is_linked(node) {
            if self.now() >= deadline {
                return Err(Error::ReplicaSilent(node));
            }
            self.turn(deadline)?;
        }
        Ok(())
    }

    /// The event-driven client inside, for its counters and its session.
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn now(&self) -> Instant {
        Instant(1 + self.started.elapsed().as_nanos() as u64)
    }

    /// Waits for one datagram or the next timer, at most until `until`.
    fn turn(&mut self, until: Instant) -> Result<(), Error> {
        let now = self.now();
        self.client.tick(now, &mut self.wires);
        let wake = self.client.wake_at().unwrap_or(until).min(until);
        let wait =
            Duration::from_nanos(wake.since_ns(now)).clamp(Duration::from_micros(100), WAIT_MAX);
        self.wires.socket.set_read_timeout(Some(wait))?;
        match self.wires.socket.recv_from(&mut self.buffer) {
            Ok((length, _)) => {
                let now = self.now();
                let epoch = self.client.committee().epoch();
                self.client
                    .receive(now, &self.buffer[..length], &mut self.wires);
                if self.client.committee().epoch() != epoch {
                    self.wires.addresses = crate::links::addresses(self.client.committee());
                }
                Ok(())
            }
            Err(error) => match error.kind() {
                // Nothing came, or a port was closed (ICMP): a node that is down.
                io::ErrorKind::WouldBlock
                | io::ErrorKind::TimedOut
                | io::ErrorKind::Interrupted
                | io::ErrorKind::ConnectionRefused => Ok(()),
                _ => Err(error.into()),
            },
        }
    }

    fn tag(&mut self) -> u64 {
        self.next_tag += 1;
        self.next_tag
    }

    /// Turns until the operation of `tag` has ended; it always does, by result or timeout.
    fn wait(&mut self, tag: u64) -> Result<Answer<Vec<u8>>, Failure> {
        loop {
            if let Some(finished) = self.wires.finished.take()
                && finished.tag == tag
            {
                return finished.result.map(|value| Answer {
                    value,
                    slot: finished.slot,
                    replies: finished.replies,
                    way: finished.way,
                });
            }
            let until = self.now().after_ns(WAIT_MAX.as_nanos() as u64);
            if self.turn(until).is_err() {
                return Err(Failure::Timeout);
            }
        }
    }

    fn ordered(&mut self, operation: &Operation<'_>) -> Result<Answer<Vec<u8>>, Error> {
        self.wait_ready()?;
        let tag = self.tag();
        let now = self.now();
        self.client.submit(now, operation, tag, &mut self.wires)?;
        self.wait_ordered(tag)
    }

    fn wait_ordered(&mut self, tag: u64) -> Result<Answer<Vec<u8>>, Error> {
        self.wait(tag).map_err(|failure| Error::Unknown {
            failure,
            pushback: self.client.pushback(self.now()),
        })
    }

    fn read(
        &mut self,
        operation: &Operation<'_>,
        mode: ReadMode,
    ) -> Result<Answer<Vec<u8>>, Error> {
        match mode {
            ReadMode::Fenced => {
                self.wait_answerable()?;
                let tag = self.tag();
                let now = self.now();
                self.client
                    .read_fenced(now, operation, tag, &mut self.wires)?;
                match self.wait_ordered(tag) {
                    // It was ordered in the end, and its bytes were lost.
                    Err(Error::Unknown {
                        failure: Failure::ResultLost,
                        ..
                    }) => self.ordered(operation),
                    other => other,
                }
            }
            // A read may simply be made again when its bytes were lost.
            ReadMode::Ordered => match self.ordered(operation) {
                Err(Error::Unknown {
                    failure: Failure::ResultLost,
                    ..
                }) => self.ordered(operation),
                other => other,
            },
            ReadMode::Stale(node) => {
                self.wait_linked(node)?;
                let tag = self.tag();
                let now = self.now();
                self.client
                    .read_stale(now, node, operation, tag, &mut self.wires)?;
                self.wait(tag).map_err(|_| Error::ReplicaSilent(node))
            }
        }
    }

    /// Writes `value` under `key`.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<Answer<()>, Error> {
        let answer = self.ordered(&Operation::Put { key, value })?;
        match Outcome::parse(&answer.value) {
            Ok(Outcome::Done) => Ok(answer.map(|_| ())),
            _ => Err(Error::UnexpectedResult),
        }
    }

    /// The operator's word about the next epoch: whoever connects with another key is refused.
    pub fn reconfigure(&mut self, change: Change) -> Result<Answer<ChangeAnswer>, Error> {
        let answer = self.ordered(&Operation::Reconfigure(change))?;
        let told = match Outcome::parse(&answer.value) {
            Ok(Outcome::Value(told)) => ChangeAnswer::decode(told),
            _ => None,
        };
        let told = told.ok_or(Error::UnexpectedResult)?;
        Ok(answer.map(|_| told))
    }

    /// The value under `key`; `None`: absent.
    pub fn get(&mut self, key: &[u8], mode: ReadMode) -> Result<Answer<Option<Vec<u8>>>, Error> {
        let answer = self.read(&Operation::Get { key }, mode)?;
        let value = match Outcome::parse(&answer.value) {
            Ok(Outcome::Value(value)) => Some(value.to_vec()),
            Ok(Outcome::Absent) => None,
            _ => return Err(Error::UnexpectedResult),
        };
        Ok(answer.map(|_| value))
    }

    /// Removes `key`; false: it was absent.
    pub fn delete(&mut self, key: &[u8]) -> Result<Answer<bool>, Error> {
        let answer = self.ordered(&Operation::Delete { key })?;
        let existed = match Outcome::parse(&answer.value) {
            Ok(Outcome::Done) => true,
            Ok(Outcome::Absent) => false,
            _ => return Err(Error::UnexpectedResult),
        };
        Ok(answer.map(|_| existed))
    }

    /// Writes `value` iff `key` now holds `expected` (`None`: iff it is absent).
    pub fn cas(
        &mut self,
        key: &[u8],
        expected: Option<&[u8]>,
        value: &[u8],
    ) -> Result<Answer<CasOutcome>, Error> {
        let answer = self.ordered(&Operation::Cas {
            key,
            expected,
            value,
        })?;
        let outcome = match Outcome::parse(&answer.value) {
            Ok(Outcome::Done) => CasOutcome::Swapped,
            Ok(Outcome::Mismatch(held)) => CasOutcome::Mismatch(held.map(<[u8]>::to_vec)),
            _ => return Err(Error::UnexpectedResult),
        };
        Ok(answer.map(|_| outcome))
    }

    /// Executes all `operations` iff all `conditions` hold.
    pub fn txn(
        &mut self,
        conditions: &[Condition<'_>],
        operations: &[Operation<'_>],
    ) -> Result<Answer<TxnOutcome>, Error> {
        self.wait_ready()?;
        let tag = self.tag();
        let now = self.now();
        self.client
            .submit_txn(now, conditions, operations, tag, &mut self.wires)?;
        let answer = self.wait_ordered(tag)?;
        let outcome = match Outcome::parse(&answer.value) {
            Ok(Outcome::TxnRefused(index)) => TxnOutcome::Refused(usize::from(index)),
            Ok(Outcome::TxnDone(results)) => TxnOutcome::Done(
                results
                    .map(|part| match part {
                        Outcome::Done => Ok(TxnPart::Done),
                        Outcome::Value(value) => Ok(TxnPart::Value(value.to_vec())),
                        Outcome::Absent => Ok(TxnPart::Absent),
                        Outcome::Mismatch(held) => Ok(TxnPart::Mismatch(held.map(<[u8]>::to_vec))),
                        _ => Err(Error::UnexpectedResult),
                    })
                    .collect::<Result<_, _>>()?,
            ),
            Ok(Outcome::TooLarge) => return Err(Error::ResultTooLarge),
            _ => return Err(Error::UnexpectedResult),
        };
        Ok(answer.map(|_| outcome))
    }

    /// At most `limit` entries of `from..to` in key order; an empty `to` has no upper end.
    pub fn scan(
        &mut self,
        from: &[u8],
        to: &[u8],
        limit: u32,
        mode: ReadMode,
    ) -> Result<Answer<Entries>, Error> {
        let answer = self.read(&Operation::Scan { from, to, limit }, mode)?;
        let entries = match Outcome::parse(&answer.value) {
            Ok(Outcome::Entries(entries)) => Entries {
                more: entries.more,
                entries: entries
                    .map(|(key, value)| (key.to_vec(), value.to_vec()))
                    .collect(),
            },
            _ => return Err(Error::UnexpectedResult),
        };
        Ok(answer.map(|_| entries))
    }
}
