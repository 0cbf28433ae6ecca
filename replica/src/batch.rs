//! Batching at the leader: verified requests become the payload of the next block (N1).
//!
//! Each request frame is copied once, into the open block buffer, which is later written to the
//! log and sent as it is. Requests that do not fit wait in a bounded queue; those that a replica
//! forwarded (§9.4) in a queue of that replica's own, with a share of the room: whoever forwards more
//! than the leader orders takes no place from what others forward.

use std::collections::VecDeque;

use wire::block::{BlockHeader, BlockPrefix, payload_digest};
use wire::bytes::Buffers;
use wire::ids::{Digest, Epoch, Instant, NodeId, PublicKey, Signature, Slot, View};
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

impl BatchLimits {
    /// Requests that wait of those one replica forwarded.
    fn share(&self, replicas: usize) -> usize {
        (self.waiting_max / (replicas - 1)).max(1)
    }
}

/// Client and reference slot of an OPEN: one that refers to another slot may open what this one does
/// not.
pub type Opens = (PublicKey, Slot);

/// A request that waits.
#[derive(Debug)]
struct Waiting<Sh> {
    arrived: Instant,
    request: Sh,
    /// What an OPEN is known by.
    opens: Option<Opens>,
}

/// What one replica forwarded, oldest first.
#[derive(Debug)]
struct Forwarded<Sh> {
    waiting: VecDeque<Waiting<Sh>>,
    bytes: usize,
}

/// The open block and what waits behind it.
pub struct Batch<Bu: Buffers> {
    limits: BatchLimits,
    me: NodeId,
    open: Option<Open<Bu::Unique>>,
    waiting: VecDeque<Waiting<Bu::Shared>>,
    /// By replica. A leader that was a follower forwards to itself what waited there (§9.4).
    forwarded: Vec<Forwarded<Bu::Shared>>,
    /// Requests in all of these, and whose turn it is.
    forwarded_count: usize,
    turn: usize,
    /// The OPENs in the open block, ascending. One changes nothing the second time, and is not
    /// recognised as a repetition: once for each block is enough.
    opened: Vec<Opens>,
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
    pub fn new(limits: BatchLimits, me: NodeId, replicas: usize) -> Batch<Bu> {
        assert!(limits.payload_bytes_max <= BLOCK_PAYLOAD_BYTES_MAX && replicas > 1);
        let share = limits.share(replicas);
        let forwarded = || Forwarded {
            waiting: VecDeque::with_capacity(share),
            bytes: 0,
        };
        Batch {
            limits,
            me,
            open: None,
            waiting: VecDeque::with_capacity(limits.waiting_max),
            forwarded: (0..replicas).map(|_| forwarded()).collect(),
            forwarded_count: 0,
            turn: 0,
            opened: Vec::with_capacity(limits.waiting_max),
        }
    }

    /// Takes a verified request in; false when the queue is full (the client is told Busy). `opens`
    /// names an OPEN.
    pub fn push(
        &mut self,
        now: Instant,
        request: Bu::Shared,
        opens: Option<Opens>,
        blocks: &mut Bu,
    ) -> bool {
        let waiting = Waiting {
            arrived: now,
            request,
            opens,
        };
        let first = self.waiting.is_empty() && self.forwarded_count == 0;
        if first && self.copy(&waiting, blocks) {
            return true;
        }
        if self.waiting.len() >= self.limits.waiting_max {
            return false;
        }
        self.waiting.push_back(waiting);
        true
    }

    /// As [`Batch::push`], before all that clients sent themselves, within the share of the replica
    /// that stands up for it.
    pub fn push_forwarded(
        &mut self,
        now: Instant,
        from: NodeId,
        request: Bu::Shared,
        opens: Option<Opens>,
        blocks: &mut Bu,
    ) -> bool {
        let waiting = Waiting {
            arrived: now,
            request,
            opens,
        };
        if self.forwarded_count == 0 && self.copy(&waiting, blocks) {
            return true;
        }
        let (share, bytes_max) = if from == self.me {
            // Nobody else fills it, and what is refused here has to be sent anew by its client.
            (self.limits.waiting_max, usize::MAX)
        } else {
            let share = self.limits.share(self.forwarded.len());
            (share, self.limits.payload_bytes_max)
        };
        let queue = &mut self.forwarded[from.index()];
        let bytes = queue.bytes + waiting.request.len();
        if queue.waiting.len() >= share || bytes > bytes_max {
            return false;
        }
        queue.bytes = bytes;
        queue.waiting.push_back(waiting);
        self.forwarded_count += 1;
        true
    }

    /// Copies one request into the open block; false when it does not fit there.
    fn copy(&mut self, waiting: &Waiting<Bu::Shared>, blocks: &mut Bu) -> bool {
        let request = &waiting.request[..];
        assert!(
            request.len() <= self.limits.payload_bytes_max,
            "requests fit an empty block"
        );
        let place = match &waiting.opens {
            None => None,
            Some(opens) => match self.opened.binary_search(opens) {
                // The one in the block opens the session, and all replicas answer it.
                Ok(_) => return true,
                Err(place) => Some((place, *opens)),
            },
        };
        if self.open.is_none() {
            let Some(buffer) = blocks.take() else {
                return false;
            };
            self.open = Some(Open {
                buffer,
                payload_bytes: 0,
                requests: 0,
                oldest: waiting.arrived,
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
        if let Some((place, opens)) = place {
            self.opened.insert(place, opens);
        }
        true
    }

    /// Whether a block should leave now, given how many own blocks are undecided.
    pub fn due(&self, now: Instant, eager: bool) -> bool {
        match &self.open {
            Some(open) if open.requests > 0 => {
                eager
                    || !self.waiting.is_empty()
                    || self.forwarded_count > 0
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
        self.opened.clear();
        self.refill(blocks);
        let bytes = PAYLOAD_FROM..PAYLOAD_FROM + open.payload_bytes;
        let payload = payload_digest(&open.buffer[bytes]);
        Some(Closed {
            buffer: open.buffer,
            payload_bytes: open.payload_bytes,
            payload,
        })
    }

    /// Moves waiting requests into the open block as far as they fit: what replicas forwarded, one of
    /// each in turn, then the rest.
    pub fn refill(&mut self, blocks: &mut Bu) {
        while self.forwarded_count > 0 {
            let queue = &mut self.forwarded[self.turn];
            if let Some(waiting) = queue.waiting.pop_front() {
                if !self.copy(&waiting, blocks) {
                    self.forwarded[self.turn].waiting.push_front(waiting);
                    return;
                }
                self.forwarded[self.turn].bytes -= waiting.request.len();
                self.forwarded_count -= 1;
            }
            self.turn = (self.turn + 1) % self.forwarded.len();
        }
        while let Some(waiting) = self.waiting.pop_front() {
            if !self.copy(&waiting, blocks) {
                self.waiting.push_front(waiting);
                return;
            }
        }
    }

    /// Requests that wait, the open block's among them.
    pub fn depth(&self) -> usize {
        let waiting = self.waiting.len() + self.forwarded_count;
        waiting + self.open.as_ref().map_or(0, |open| open.requests as usize)
    }

    /// Drops everything that was not proposed.
    pub fn clear(&mut self) {
        self.open = None;
        self.opened.clear();
        self.waiting.clear();
        for queue in &mut self.forwarded {
            queue.waiting.clear();
            queue.bytes = 0;
        }
        self.forwarded_count = 0;
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
            Batch::new(limits, NodeId(0), 4),
            HeapBuffers {
                bytes_each: BLOCK_BUFFER_BYTES,
            },
        )
    }

    #[test]
    fn requests_wait_in_order_behind_a_full_block() {
        let (mut batch, mut blocks) = batch(10);
        let request = |byte| HeapShared::copy_from(&[byte; 6]);
        assert!(batch.push(Instant(0), request(1), None, &mut blocks));
        assert!(!batch.due(Instant(50), false));
        assert!(batch.due(Instant(50), true) && batch.due(Instant(100), false));
        assert!(batch.push(Instant(1), request(2), None, &mut blocks));
        assert!(batch.push(Instant(2), request(3), None, &mut blocks));
        assert!(
            !batch.push(Instant(3), request(4), None, &mut blocks),
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
        let mut batch: Batch<Few> = Batch::new(
            BatchLimits {
                delay_ns: 100,
                payload_bytes_max: 10,
                waiting_max: 2,
            },
            NodeId(0),
            4,
        );
        assert!(batch.push(
            Instant(0),
            HeapShared::copy_from(&[1; 6]),
            None,
            &mut blocks
        ));
        batch.refill(&mut blocks);
        assert!(!batch.due(Instant(500), true));
        blocks.1 = 1;
        batch.refill(&mut blocks);
        assert!(batch.due(Instant(500), false));
        assert!(batch.close(&mut blocks).is_some());
        assert_eq!(batch.depth(), 0);
    }

    /// The payload of the next block, a byte for each request of `size` bytes.
    fn next(batch: &mut Batch<HeapBuffers>, blocks: &mut HeapBuffers, size: usize) -> Vec<u8> {
        let closed = batch.close(blocks).unwrap();
        let header = closed.header(Epoch(0), View(0), Slot(1), 0, Digest::ZERO);
        let raw = closed.seal(header, Signature([0; 64]));
        let view = wire::block::BlockView::parse(raw.message()).unwrap();
        view.payload.chunks(size).map(|bytes| bytes[0]).collect()
    }

    #[test]
    fn a_replica_that_forwards_without_end_takes_no_place_of_others() {
        let limits = BatchLimits {
            delay_ns: 100,
            payload_bytes_max: 1000,
            waiting_max: 9,
        };
        let mut blocks = HeapBuffers {
            bytes_each: BLOCK_BUFFER_BYTES,
        };
        let mut batch: Batch<HeapBuffers> = Batch::new(limits, NodeId(0), 4);
        let mut forward = |batch: &mut Batch<HeapBuffers>, from: u16, byte: u8, size: usize| {
            let request = HeapShared::copy_from(&vec![byte; size]);
            let from = NodeId(from);
            batch.push_forwarded(Instant(0), from, request, None, &mut blocks)
        };
        // Bytes: a block's worth waits behind the open block, however few requests that are.
        let taken = (0..50).filter(|_| forward(&mut batch, 3, 30, 500)).count();
        assert_eq!(taken, 2 + 2);
        // Requests: a third of the queue.
        let taken = (0..50).filter(|_| forward(&mut batch, 2, 20, 250)).count();
        assert_eq!(taken, 3);
        // The others find room, and their oldest is in the very next block.
        assert!(forward(&mut batch, 1, 10, 250) && forward(&mut batch, 1, 11, 250));
        assert_eq!(next(&mut batch, &mut blocks, 500), [30, 30]);
        let all = (0..4).flat_map(|_| next(&mut batch, &mut blocks, 250));
        let order = all.collect::<Vec<_>>();
        assert_eq!(order, [10, 20, 30, 30, 11, 20, 30, 30, 20]);
        assert_eq!(batch.depth(), 0);
    }

    #[test]
    fn a_client_is_opened_once_in_a_block() {
        let (mut batch, mut blocks) = batch(1000);
        let request = |byte| HeapShared::copy_from(&[byte; 100]);
        let key = |byte| Some((PublicKey([byte; 32]), Slot(7)));
        let now = Instant(0);
        for _ in 0..5 {
            let from = NodeId(1);
            assert!(batch.push_forwarded(now, from, request(7), key(7), &mut blocks));
            assert!(batch.push(now, request(3), key(3), &mut blocks));
            assert!(batch.push(now, request(7), key(7), &mut blocks));
        }
        assert_eq!(next(&mut batch, &mut blocks, 100), [7, 3]);
        assert!(batch.push(now, request(7), key(7), &mut blocks));
        assert_eq!(next(&mut batch, &mut blocks, 100), [7], "another block");
        // An expired one must not take the place of a good one.
        let other = Some((PublicKey([7; 32]), Slot(9)));
        assert!(batch.push(now, request(7), key(7), &mut blocks));
        assert!(batch.push(now, request(8), other, &mut blocks));
        assert_eq!(next(&mut batch, &mut blocks, 100), [7, 8]);
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
