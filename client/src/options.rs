//! How a client behaves; everything has a default that suits a local network.

use std::fmt;

use wire::header::HEADER_BYTES;
use wire::ids::{Instant, NodeId, Sequence, Slot};
use wire::limits::{BUNDLE_MAX, DATAGRAM_BYTES_MAX, GRAIN_BYTES, SESSION_WINDOW};

/// To whom a new request goes first (protocol §9.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dissemination {
    /// To the leader; to all replicas when no quorum answered in time.
    #[default]
    LeaderFirst,
    /// To all replicas at once: they verify before the proposal arrives.
    All,
}

/// Settings of one [`crate::Client`].
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Operations in one request at most, in `1..=BUNDLE_MAX`.
    pub bundle_max: usize,
    /// How long an open bundle waits for more operations; 0 sends each at once.
    pub linger_ns: u64,
    /// Operations without a result at most, in `1..=SESSION_WINDOW`.
    pub in_flight_max: usize,
    /// Silence after which a request goes to all replicas (T_cli). It grows with the measured
    /// round trip, so that an overloaded cluster is not sent more.
    pub broadcast_after_ns: u64,
    /// Longest pause between two retransmissions.
    pub retry_pause_max_ns: u64,
    /// An operation without a result for this long is given up; its outcome stays unknown.
    pub timeout_ns: u64,
    pub dissemination: Dissemination,
    /// Every replica returns results above 64 bytes in full, not only the designated one: costs
    /// reply bytes, and saves asking again when that one replica is slow, silent or lying.
    pub all_full: bool,
    /// Bytes of a datagram at most, whatever larger size a replica asks for in its WELCOME. Longer
    /// requests travel in fragments.
    pub datagram_bytes_max: usize,
    /// The first sequence of this process, and the first number of its reads. A key that an earlier
    /// process used must begin above every sequence and number used then: the time in microseconds
    /// does.
    pub first_sequence: Sequence,
    /// Should be random: greetings and fragmented messages are numbered from here, and the jitter
    /// of retransmissions follows it.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            bundle_max: 64,
            linger_ns: 50_000,
            in_flight_max: SESSION_WINDOW as usize,
            broadcast_after_ns: 20_000_000,
            retry_pause_max_ns: 500_000_000,
            timeout_ns: 5_000_000_000,
            dissemination: Dissemination::LeaderFirst,
            all_full: true,
            datagram_bytes_max: DATAGRAM_BYTES_MAX,
            first_sequence: Sequence(1),
            seed: 0,
        }
    }
}

impl Options {
    /// Names the setting that is out of its range.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.bundle_max == 0 || self.bundle_max > BUNDLE_MAX {
            return Err("bundle_max is not in 1..=256");
        }
        if self.in_flight_max == 0 || self.in_flight_max as u64 > SESSION_WINDOW {
            return Err("in_flight_max is not in 1..=1024");
        }
        if self.bundle_max > self.in_flight_max {
            return Err("bundle_max is larger than in_flight_max");
        }
        if !(HEADER_BYTES + GRAIN_BYTES..=DATAGRAM_BYTES_MAX).contains(&self.datagram_bytes_max) {
            return Err("datagram_bytes_max is not in 544..=65507");
        }
        if self.first_sequence.0 == 0 || self.first_sequence.0 > u64::MAX / 2 {
            return Err("first_sequence is not in 1..=2^63");
        }
        if self.timeout_ns == 0 || self.broadcast_after_ns == 0 {
            return Err("timeout_ns and broadcast_after_ns must not be 0");
        }
        Ok(())
    }
}

/// Where the client's effects go. Called from inside `submit`, `receive` and `tick`.
pub trait Outbox {
    /// One datagram for the replica `to`, sealed.
    fn send(&mut self, to: NodeId, datagram: &[u8]);

    /// The end of one operation; exactly one for each tag that was submitted.
    fn complete(&mut self, completion: Completion<'_>);
}

/// How an operation was answered, or would have been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// Through the order: b+1 equal replies.
    #[default]
    Ordered,
    /// By a fenced read: R = n-q+b+1 equal answers.
    Fenced,
    /// It was asked as a fenced read; R replicas did not agree in time, so it was ordered.
    FencedThenOrdered,
    /// By one replica, on its word alone.
    Stale,
}

impl Way {
    /// As programs print it.
    pub fn name(self) -> &'static str {
        match self {
            Way::Ordered => "ordered",
            Way::Fenced => "fenced",
            Way::FencedThenOrdered => "fenced-then-ordered",
            Way::Stale => "stale",
        }
    }
}

/// How an operation ended.
#[derive(Clone, Copy, Debug)]
pub struct Completion<'a> {
    /// As given to `submit`.
    pub tag: u64,
    /// 0 for a read that took no part in the order.
    pub sequence: Sequence,
    /// Slot of the block that executed the operation; for a stale read the highest slot that the
    /// replica had executed, for a fenced one a slot that a correct replica had. 0 after a failure.
    pub slot: Slot,
    /// The encoded [`wire::ops::Outcome`].
    pub result: Result<&'a [u8], Failure>,
    /// Replicas that said the same when the result was accepted.
    pub replies: u32,
    pub way: Way,
    /// When the request was first sent; the time of the call when it never was.
    pub sent: Instant,
}

/// Why an operation has no result. But for [`Failure::ResultLost`] its outcome is unknown: it may
/// have been executed or may yet be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("no b+1 equal replies in time; the outcome is unknown")]
    Timeout,
    #[error("the session expired; the outcome is unknown")]
    Expired,
    #[error("the replicas no longer keep the result; the operation was executed or refused")]
    Stale,
    #[error("executed, but no replica still has the whole result; read again")]
    ResultLost,
}

/// Why the leader orders nothing new: its own word, a hint and never an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushback {
    QueueFull,
    LogFull,
    /// It is starting, or may not propose.
    NotReady,
}

impl fmt::Display for Pushback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pushback::QueueFull => "the leader says that its queue is full",
            Pushback::LogFull => {
                "the leader says that its log is full: new transactions are refused, stale reads \
                 go on; `hippo status` has the reason"
            }
            Pushback::NotReady => {
                "the leader says that it may not propose; `hippo status` has the reason"
            }
        })
    }
}

/// Why an operation was not taken. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    #[error("as many operations are in flight as the session window or in_flight_max allows")]
    WindowFull,
    #[error("no session yet, and the first bundle is full")]
    NotReady,
    #[error("a key is empty or longer than 1024 bytes")]
    KeyLength,
    #[error("a value is longer than 65536 bytes")]
    ValueTooLong,
    #[error("the transaction is larger than a request may be, or has more than 64 parts")]
    TooLarge,
    #[error("a scan returns at most 1024 entries")]
    ScanLimit,
    #[error("this read mode takes only get and scan")]
    NotARead,
    #[error("no such replica, or no link with it yet")]
    NoSuchReplica,
}

/// A setting is out of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("client option: {0}")]
pub struct ConfigError(pub(crate) &'static str);

/// What happened besides results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests signed and sent.
    pub bundles: u64,
    /// Requests sent again.
    pub retransmissions: u64,
    /// Claims of replicas that contradict an accepted result.
    pub wrong_replies: u64,
    pub busy: u64,
    /// Sessions lost.
    pub expired: u64,
    /// Fenced reads asked, and those of them that had to be ordered.
    pub fenced_reads: u64,
    pub fenced_reads_ordered: u64,
    /// Datagrams that were refused.
    pub rejected_datagrams: u64,
    /// Well-formed answers to nothing that is in flight.
    pub strays: u64,
}
