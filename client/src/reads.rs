//! Reads that take no part in the order: asked of one replica, by link MAC alone.

use wire::ids::{Instant, NodeId};
use wire::ops::{Operation, OperationsBuilder};
use wire::reply::{READ_STALE, ReadHead};
use zerocopy::IntoBytes;

use crate::bundles::Pacer;
use crate::options::SubmitError;

/// Reads in flight at most.
const READS_MAX: usize = 256;

#[derive(Debug)]
pub(crate) struct Read {
    pub tag: u64,
    pub sent: Instant,
    number: u64,
    node: NodeId,
    body: Vec<u8>,
    attempts: u32,
    next_retry: Instant,
    deadline: Instant,
}

/// What became due.
pub(crate) enum Due<'a> {
    Again(NodeId, &'a [u8]),
    GivenUp { tag: u64, sent: Instant },
}

#[derive(Debug)]
pub(crate) struct Reads {
    list: Vec<Read>,
    next_number: u64,
    operation: OperationsBuilder,
}

impl Reads {
    pub(crate) fn new() -> Reads {
        Reads {
            list: Vec::new(),
            next_number: 1,
            operation: OperationsBuilder::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// Notes a read and returns the body to send.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        node: NodeId,
        operation: &Operation<'_>,
        tag: u64,
        next_retry: Instant,
        deadline: Instant,
    ) -> Result<&[u8], SubmitError> {
        if self.list.len() >= READS_MAX {
            return Err(SubmitError::WindowFull);
        }
        let number = self.next_number;
        self.next_number += 1;
        self.operation.clear();
        self.operation.push(operation);
        let mut body = Vec::new();
        body.extend_from_slice(ReadHead::new(number, READ_STALE).as_bytes());
        body.extend_from_slice(self.operation.bytes());
        self.list.push(Read {
            tag,
            sent: now,
            number,
            node,
            body,
            attempts: 1,
            next_retry,
            deadline,
        });
        Ok(self.list.last().map_or(&[], |read| &read.body))
    }

    /// Ends the read that `node` answered.
    pub(crate) fn answered(&mut self, node: NodeId, number: u64, end: impl FnOnce(&Read)) {
        let at = self
            .list
            .iter()
            .position(|read| read.number == number && read.node == node);
        if let Some(at) = at {
            end(&self.list.swap_remove(at));
        }
    }

    pub(crate) fn wake(&self) -> Instant {
        self.list
            .iter()
            .map(|read| read.next_retry.min(read.deadline))
            .min()
            .unwrap_or(Instant(u64::MAX))
    }

    pub(crate) fn tick(&mut self, now: Instant, pacer: &mut Pacer, mut due: impl FnMut(Due<'_>)) {
        self.list.retain_mut(|read| {
            if now >= read.deadline {
                due(Due::GivenUp {
                    tag: read.tag,
                    sent: read.sent,
                });
                return false;
            }
            if now >= read.next_retry {
                read.attempts += 1;
                read.next_retry = now.after_ns(pacer.pause_ns(read.attempts));
                due(Due::Again(read.node, &read.body));
            }
            true
        });
    }
}
