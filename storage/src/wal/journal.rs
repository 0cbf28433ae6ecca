//! Groups sealed records into writes: the disk thread's end of the log.
//!
//! At most one write and flush is in flight; all that is queued meanwhile goes into the next
//! batch. The first failed write or flush is final: after a failed flush the kernel may have
//! dropped the dirty state, so a retry that succeeds proves nothing.

use std::collections::VecDeque;

use thiserror::Error;
use wire::bytes::SharedBytes;
use wire::canary::planted;
use wire::ids::Position;

use super::{Durable, Sealed};
use crate::record::SECTOR_BYTES;

/// Names one batch; it comes back with the batch's completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(u64);

impl Token {
    /// For the user data of a system call.
    pub fn raw(self) -> u64 {
        self.0
    }

    /// From the user data of a completion; [`Journal::complete`] accepts only the one in flight.
    pub fn from_raw(raw: u64) -> Token {
        Token(raw)
    }
}

/// One contiguous write into one segment file, to be followed by one flush of that file.
#[derive(Debug)]
pub struct Batch<'a, S> {
    pub token: Token,
    /// Index of the segment file.
    pub segment: u32,
    /// Where in that file, in bytes.
    pub offset: u64,
    /// Bytes of all parts.
    pub bytes: u64,
    /// Whole sectors each, end to end. The journal keeps them alive until the completion.
    pub parts: &'a [Sealed<S>],
}

/// Bounds of the queue and of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalLimits {
    /// Records queued, at most.
    pub queued_max: usize,
    /// Records in one batch, at most.
    pub batch_parts_max: usize,
    /// Bytes of one batch, at most; a single larger record is a batch of its own.
    pub batch_bytes_max: u64,
}

/// A write or flush failed: the process must stop voting and end (exit 1), never retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "write-ahead log failed with errno {errno} at position {from}: what was written since is in \
     doubt, so the node stops. Check the disk, then start again; recovery finds what is durable"
)]
pub struct JournalFailed {
    /// As the system reported it, positive.
    pub errno: i32,
    /// Everything below was durable.
    pub from: Position,
}

/// Why a record was not queued.
#[derive(Clone, Debug, Error)]
pub enum PushError<S> {
    /// The queue is full; the record comes back.
    #[error("write-ahead log queue is full")]
    Full(Sealed<S>),
    #[error(transparent)]
    Failed(JournalFailed),
}

/// The queue of the log. See the [module](self) documentation.
#[derive(Debug)]
pub struct Journal<S> {
    limits: JournalLimits,
    queue: VecDeque<Sealed<S>>,
    in_flight: Vec<Sealed<S>>,
    token: Token,
    /// End of the last record pushed.
    pushed: Position,
    durable: Position,
    failed: Option<JournalFailed>,
}

impl<S: SharedBytes> Journal<S> {
    /// A journal over a log that is durable up to `durable`. All memory is taken here.
    pub fn new(limits: JournalLimits, durable: Position) -> Journal<S> {
        assert!(limits.queued_max > 0 && limits.batch_parts_max > 0);
        Journal {
            limits,
            queue: VecDeque::with_capacity(limits.queued_max),
            in_flight: Vec::with_capacity(limits.batch_parts_max),
            token: Token(0),
            pushed: durable,
            durable,
            failed: None,
        }
    }

    /// Queues a record. Records come in the order in which they were sealed (asserted).
    pub fn push(&mut self, sealed: Sealed<S>) -> Result<(), PushError<S>> {
        if let Some(failed) = self.failed {
            return Err(PushError::Failed(failed));
        }
        if self.queue.len() == self.limits.queued_max {
            return Err(PushError::Full(sealed));
        }
        assert!(
            sealed.start >= self.pushed && sealed.end > sealed.start,
            "log order"
        );
        assert_eq!(sealed.shared.len(), sealed.sectors as usize * SECTOR_BYTES);
        self.pushed = sealed.end;
        self.queue.push_back(sealed);
        Ok(())
    }

    /// The next write, or none while one is in flight, nothing is queued, or the journal failed.
    pub fn next_batch(&mut self) -> Option<Batch<'_, S>> {
        if self.failed.is_some() || !self.in_flight.is_empty() {
            return None;
        }
        let first = self.queue.front()?;
        let (segment, offset) = (first.segment, first.offset_in_segment);
        let mut bytes = 0;
        while let Some(sealed) = self.queue.front() {
            let length = sealed.shared.len() as u64;
            let fits = self.in_flight.is_empty()
                || (self.in_flight.len() < self.limits.batch_parts_max
                    && bytes + length <= self.limits.batch_bytes_max);
            let adjoins = sealed.segment == segment && sealed.offset_in_segment == offset + bytes;
            if !fits || !adjoins {
                break;
            }
            bytes += length;
            self.in_flight.extend(self.queue.pop_front());
        }
        self.token.0 += 1;
        Some(Batch {
            token: self.token,
            segment,
            offset,
            bytes,
            parts: &self.in_flight,
        })
    }

    /// Takes the outcome of the batch in flight: `Ok` only when the whole batch was written *and*
    /// flushed, otherwise the errno. Panics on a token that is not in flight (our own error).
    pub fn complete(
        &mut self,
        token: Token,
        outcome: Result<(), i32>,
    ) -> Result<Durable, JournalFailed> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        assert!(
            token == self.token && !self.in_flight.is_empty(),
            "no such batch in flight"
        );
        // What is written again after a failed flush says that it is durable, and may be nowhere.
        if let Some(errno) = outcome.err().filter(|_| !planted("resync")) {
            // The parts stay: the kernel may still read them.
            let failed = JournalFailed {
                errno,
                from: self.durable,
            };
            self.failed = Some(failed);
            return Err(failed);
        }
        let end = self.in_flight.last().expect("a batch has parts").end;
        assert!(end > self.durable);
        self.durable = end;
        self.in_flight.clear();
        Ok(Durable(end))
    }

    /// Everything below is durable.
    pub fn durable(&self) -> Position {
        self.durable
    }

    /// The first failure, if there was one.
    pub fn failed(&self) -> Option<JournalFailed> {
        self.failed
    }

    /// Records queued, those in flight not counted.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Records on their way to the disk, in the order of the log.
    pub fn unwritten(&self) -> impl Iterator<Item = &Sealed<S>> {
        self.in_flight.iter().chain(&self.queue)
    }

    /// Whether a batch is in flight.
    pub fn busy(&self) -> bool {
        !self.in_flight.is_empty()
    }
}
