//! Batching at the leader: verified requests become the payload of the next block (N1).
//!
//! Each request frame is copied once, into the open block buffer, which is later written to the
//! log and sent as it is. Requests that do not fit wait in a bounded queue.

use std::collections::VecDeque;

use wire::block::{BlockHeader, BlockPrefix, payload_digest};
use wire::bytes::Buffers;
use wire::ids::{Digest, Epoch, Instant, Signature, Slot, View};
use wire::limits::{BLOCK_PAYLOAD_BYTES_MAX, BLOCK_PREFIX_BYTES, RECORD_HEADER_BYTES};
use zerocopy::IntoBytes;

use crate::blocks::Raw;

/// Where the payload begins in a block buffer.
const PAYLOAD_FROM: usize = RECORD_HEADER_BYTES + BLOCK_PREFIX_BYTES;

/// What the leader may wait for and hold.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// tau: a request waits at most so long for company while blocks are in flight.
    pub delay_ns: u64,
    /// Payload bytes of a block.
    pub payload_bytes_max: usize,
    /// Requests that wait behind the open block.
    pub waiting_max: usize,
}

/// The open block and what waits behind it.
pub struct Batch<Bu: Buffers> {
    limits: BatchLimits,
    open: Option<Open<Bu::Unique>>,
    waiting: VecDeque<(Instant, Bu::Shared)>,
}

#[derive(Debug)]
struct Open<U> {
    buffer: U,
    payload_bytes: usize,
    requests: u32,
    oldest: Instant,
}

/// A block that is full of requests and lacks its header.
#[derive(Debug)]
pub struct Closed<U> {
    buffer: U,
    payload_bytes: usize,
    payload: Digest,
}

impl<Bu: Buffers> Batch<Bu> {
    pub fn new(limits: BatchLimits) -> Batch<Bu> {
        assert!(limits.payload_bytes_max <= BLOCK_PAYLOAD_BYTES_MAX);
        Batch {
            limits,
            open: None,
            waiting: VecDeque::with_capacity(2 * limits.waiting_max),
        }
    }

    /// Takes a verified request in; false when the queue is full (the client is told Busy).
    pub fn push(&mut self, now: Instant, request: Bu::Shared, blocks: &mut Bu) -> bool {
        if self.waiting.is_empty() && self.copy(now, &request, blocks) {
            return true;
        }
        if self.waiting.len() >= self.limits.waiting_max {
            return false;
        }
        self.waiting.push_back((now, request));
        true
    }

    /// As [`Batch::push`], before all that wait, and while as many again fit.
    pub fn push_first(&mut self, now: Instant, request: Bu::Shared, blocks: &mut Bu) -> bool {
        if self.copy(now, &request, blocks) {
            return true;
        }
        if self.waiting.len() >= 2 * self.limits.waiting_max {
            return false;
        }
        self.waiting.push_front((now, request));
        true
    }

    /// Copies one request into the open block; false when it does not fit there.
    fn copy(&mut self, arrived: Instant, request: &[u8], blocks: &mut Bu) -> bool {
        assert!(
            request.len() <= self.limits.payload_bytes_max,
            "requests fit an empty block"
        );
        if self.open.is_none() {
            let Some(buffer) = blocks.take() else {
                return false;
            };
            self.open = Some(Open {
                buffer,
                payload_bytes: 0,
                requests: 0,
                oldest: arrived,
            });
        }
        let Some(open) = &mut self.open else {
            return false;
        };
        let end = open.payload_bytes + request.len();
        if end > self.limits.payload_bytes_max {
            return false;
        }
        open.buffer[PAYLOAD_FROM + open.payload_bytes..PAYLOAD_FROM + end].copy_from_slice(request);
        open.payload_bytes = end;
        open.requests += 1;
        true
    }

    /// Whether a block should leave now, given how many own blocks are undecided.
    pub fn due(&self, now: Instant, eager: bool) -> bool {
        match &self.open {
            Some(open) if open.requests > 0 => {
                eager
                    || !self.waiting.is_empty()
                    || now.since_ns(open.oldest) >= self.limits.delay_ns
            }
            _ => false,
        }
    }

    /// When the oldest request will have waited long enough.
    pub fn due_at(&self) -> Option<Instant> {
        let open = self.open.as_ref().filter(|open| open.requests > 0)?;
        Some(open.oldest.after_ns(self.limits.delay_ns))
    }

    /// Ends the open block, an empty one if there is none, and begins the next one with what waits.
    /// `None` when no buffer is free.
    pub fn close(&mut self, blocks: &mut Bu) -> Option<Closed<Bu::Unique>> {
        let open = match self.open.take() {
            Some(open) => open,
            None => Open {
                buffer: blocks.take()?,
                payload_bytes: 0,
                requests: 0,
                oldest: Instant(0),
            },
        };
        self.refill(blocks);
        let bytes = PAYLOAD_FROM..PAYLOAD_FROM + open.payload_bytes;
        let payload = payload_digest(&open.buffer[bytes]);
        Some(Closed {
            buffer: open.buffer,
            payload_bytes: open.payload_bytes,
            payload,
        })
    }

    /// Moves waiting requests into the open block as far as they fit.
    pub fn refill(&mut self, blocks: &mut Bu) {
        while let Some((arrived, request)) = self.waiting.pop_front() {
            if !self.copy(arrived, &request, blocks) {
                self.waiting.push_front((arrived, request));
                return;
            }
        }
    }

    /// Requests that wait, the open block's among them.
    pub fn depth(&self) -> usize {
        self.waiting.len() + self.open.as_ref().map_or(0, |open| open.requests as usize)
    }

    /// Drops everything that was not proposed.
    pub fn clear(&mut self) {
        self.open = None;
        self.waiting.clear();
    }
}

impl<U: std::ops::DerefMut<Target = [u8]>> Closed<U> {
    /// The header of this block at the given place.
    pub fn header(
        &self,
        epoch: Epoch,
        view: View,
        slot: Slot,
        time_ns: u64,
        parent: Digest,
    ) -> BlockHeader {
        BlockHeader::new(epoch, view, slot, time_ns, parent, self.payload)
    }

    /// Writes header and signature in front of the payload.
    pub fn seal(mut self, header: BlockHeader, signature: Signature) -> Raw<U> {
        assert_eq!(header.payload, self.payload);
        let prefix = BlockPrefix::new(header, signature, self.payload_bytes);
        self.buffer[RECORD_HEADER_BYTES..PAYLOAD_FROM].copy_from_slice(prefix.as_bytes());
        Raw {
            buffer: self.buffer,
            message_bytes: BLOCK_PREFIX_BYTES + self.payload_bytes,
        }
    }
}

/// Request frames seen not long ago, by a fingerprint of their signature: a repeated one is
/// answered from its session and not proposed again. Forgetting is harmless (sessions decide).
#[derive(Debug)]
pub struct Seen {
    cells: Vec<u64>,
}

impl Seen {
    /// `cells`: a power of two.
    pub fn new(cells: usize) -> Seen {
        assert!(cells.is_power_of_two());
        Seen {
            cells: vec![0; cells],
        }
    }

    /// True when the signature was noted before and not overwritten since; notes it.
    pub fn note(&mut self, signature: &Signature) -> bool {
        let mut first = [0; 8];
        first.copy_from_slice(&signature.0[..8]);
        let fingerprint = u64::from_le_bytes(first);
        let mask = self.cells.len() as u64 - 1;
        let cell = &mut self.cells[(fingerprint >> 32 & mask) as usize];
        let seen = *cell == fingerprint;
        *cell = fingerprint;
        seen
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.cells.fill(0);
    }

    /// Forgets a signature whose request was not kept.
    pub fn forget(&mut self, signature: &Signature) {
        if self.note(signature) {
            let mut first = [0; 8];
            first.copy_from_slice(&signature.0[..8]);
            let mask = self.cells.len() as u64 - 1;
            self.cells[(u64::from_le_bytes(first) >> 32 & mask) as usize] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::bytes::{HeapBuffers, HeapShared};
    use wire::limits::BLOCK_BUFFER_BYTES;

    fn batch(payload_bytes_max: usize) -> (Batch<HeapBuffers>, HeapBuffers) {
        let limits = BatchLimits {
            delay_ns: 100,
            payload_bytes_max,
            waiting_max: 2,
        };
        (
            Batch::new(limits),
            HeapBuffers {
                bytes_each: BLOCK_BUFFER_BYTES,
            },
        )
    }

    #[test]
    fn requests_wait_in_order_behind_a_full_block() {
        let (mut batch, mut blocks) = batch(10);
        let request = |byte| HeapShared::copy_from(&[byte; 6]);
        assert!(batch.push(Instant(0), request(1), &mut blocks));
        assert!(!batch.due(Instant(50), false));
        assert!(batch.due(Instant(50), true) && batch.due(Instant(100), false));
        assert!(batch.push(Instant(1), request(2), &mut blocks));
        assert!(batch.push(Instant(2), request(3), &mut blocks));
        assert!(
            !batch.push(Instant(3), request(4), &mut blocks),
            "the queue is bounded"
        );
        for byte in 1..=3 {
            let closed = batch.close(&mut blocks).unwrap();
            let header = closed.header(Epoch(0), View(0), Slot(1), 0, Digest::ZERO);
            let raw = closed.seal(header, Signature([0; 64]));
            let view = wire::block::BlockView::parse(raw.message()).unwrap();
            assert_eq!(view.payload, &[byte; 6]);
        }
        let empty = batch.close(&mut blocks).unwrap();
        assert_eq!(empty.payload_bytes, 0);
    }

    /// Buffers that run out.
    struct Few(HeapBuffers, usize);

    impl Buffers for Few {
        type Unique = <HeapBuffers as Buffers>::Unique;
        type Shared = HeapShared;

        fn take(&mut self) -> Option<Self::Unique> {
            self.1 = self.1.checked_sub(1)?;
            self.0.take()
        }

        fn buffer_bytes(&self) -> usize {
            self.0.buffer_bytes()
        }

        fn free(&self) -> usize {
            self.1
        }
    }

    #[test]
    fn requests_that_found_no_buffer_leave_when_one_is_free() {
        let (_, heap) = batch(10);
        let mut blocks = Few(heap, 0);
        let mut batch: Batch<Few> = Batch::new(BatchLimits {
            delay_ns: 100,
            payload_bytes_max: 10,
            waiting_max: 2,
        });
        assert!(batch.push(Instant(0), HeapShared::copy_from(&[1; 6]), &mut blocks));
        batch.refill(&mut blocks);
        assert!(!batch.due(Instant(500), true));
        blocks.1 = 1;
        batch.refill(&mut blocks);
        assert!(batch.due(Instant(500), false));
        assert!(batch.close(&mut blocks).is_some());
        assert_eq!(batch.depth(), 0);
    }

    #[test]
    fn a_repeated_signature_is_recognised() {
        let mut seen = Seen::new(1024);
        let signature = Signature([7; 64]);
        assert!(!seen.note(&signature));
        assert!(seen.note(&signature));
        seen.forget(&signature);
        assert!(!seen.note(&signature));
    }
}
