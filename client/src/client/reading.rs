//! Reads beside the order: stale, fenced, and fenced ones that are ordered after all.

use wire::ids::{Instant, NodeId};
use wire::ops::Operation;

use super::Client;
use super::operations::{check_operation, is_write};
use crate::options::{Outbox, SubmitError};

impl Client {
    /// Reads from the executed state of `node` alone: fast, possibly stale, and as trustworthy as
    /// that one replica. Takes get and scan.
    pub fn read_stale(
        &mut self,
        now: Instant,
        node: NodeId,
        operation: &Operation<'_>,
        tag: u64,
        out: &mut impl Outbox,
    ) -> Result<(), SubmitError> {
        check_read(operation)?;
        if !self.links.is_up(node) {
            return Err(SubmitError::NoSuchReplica);
        }
        let (next_retry, deadline) = self.read_times(now);
        let reads = &mut self.reads;
        let body = reads.add(now, Some(node), operation, tag, next_retry, deadline)?;
        self.links.send_read(node, body, out);
        Ok(())
    }

    /// Reads with a fence (protocol §9.6 b): as fresh as an ordered read, in one round trip without
    /// a signature or a block. All replicas are asked; R = n-q+b+1 equal answers make the result.
    /// Takes get and scan.
    ///
    /// Where R replicas do not agree, because what is read is being written or because too few
    /// answer, the read is ordered instead: its completion says [`crate::Way::FencedThenOrdered`].
    pub fn read_fenced(
        &mut self,
        now: Instant,
        operation: &Operation<'_>,
        tag: u64,
        out: &mut impl Outbox,
    ) -> Result<(), SubmitError> {
        check_read(operation)?;
        let (next_retry, deadline) = self.read_times(now);
        let reads = &mut self.reads;
        let body = reads.add(now, None, operation, tag, next_retry, deadline)?;
        self.links.send_read_to_all(body, out);
        self.counters.fenced_reads += 1;
        Ok(())
    }

    /// Equal answers that make the result of a fenced read: R = n-q+b+1.
    pub fn fenced_quorum(&self) -> usize {
        self.reads.needed()
    }

    fn read_times(&mut self, now: Instant) -> (Instant, Instant) {
        let pause_ns = self.pacer.pause_ns(1);
        (
            now.after_ns(pause_ns),
            now.after_ns(self.options.timeout_ns),
        )
    }

    /// Has fenced reads ordered that will not find R equal answers. An ordered read needs nobody to
    /// agree on a state, only on the order, so it ends where they do not.
    pub(super) fn order_hopeless_reads(&mut self, now: Instant, out: &mut impl Outbox) {
        while let Some(read) = self.reads.take_hopeless() {
            let submitted = match read.operation() {
                Some(operation) => self.submit(now, &operation, read.tag, out),
                None => unreachable!("own reads are well formed"),
            };
            match submitted {
                Ok(sequence) => {
                    self.reads.now_ordered(sequence.0);
                    self.counters.fenced_reads_ordered += 1;
                }
                // The window is full: it waits for room, at most until its deadline.
                Err(_) => {
                    let pause_ns = self.pacer.pause_ns(1);
                    self.reads.put_back(read, now.after_ns(pause_ns));
                    return;
                }
            }
        }
    }
}

fn check_read(operation: &Operation<'_>) -> Result<(), SubmitError> {
    check_operation(operation)?;
    if is_write(operation) {
        return Err(SubmitError::NotARead);
    }
    Ok(())
}
