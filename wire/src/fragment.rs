//! Joins fragments of large messages, straight into the buffer that the log will write.
//!
//! Fragments arrive here only after their link MAC was checked, so everything that a stranger could
//! do is to lose them; what a liar among the senders can do is bounded: the buffers of one sender,
//! and of all, and who gives way when they are used up (the oldest message of the sender that holds
//! most). A message lands at [`RECORD_HEADER_BYTES`], behind the room for a log record's header.

use std::cmp::Reverse;

use crate::bytes::Buffers;
use crate::canary::planted;
use crate::header::{Fragment, Kind, grain_count};
use crate::ids::{Instant, NodeId, PublicKey, Slot, View};
use crate::limits::{GRAIN_BYTES, GRAINS_MAX, RECORD_HEADER_BYTES};
use crate::messages::GRAIN_WORDS;
use crate::reject::Reject;

/// Late copies of a complete message's fragments are dropped for this long.
const COMPLETED_MEMORY_NS: u64 = 5_000_000;
/// Complete messages remembered for that.
const COMPLETED_MAX: usize = 64;

/// A set of grains of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrainBitmap {
    words: [u64; GRAIN_WORDS],
}

impl GrainBitmap {
    pub const EMPTY: GrainBitmap = GrainBitmap {
        words: [0; GRAIN_WORDS],
    };

    pub fn from_words(words: [u64; GRAIN_WORDS]) -> GrainBitmap {
        GrainBitmap { words }
    }

    /// Bit i of word i / 64: grain i.
    pub fn words(&self) -> &[u64; GRAIN_WORDS] {
        &self.words
    }

    pub fn contains(&self, grain: usize) -> bool {
        grain < GRAINS_MAX && self.words[grain / 64] >> (grain % 64) & 1 == 1
    }

    pub fn count(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    /// Adds a grain; true when it was not in the set. `grain` is below `GRAINS_MAX`.
    fn insert(&mut self, grain: usize) -> bool {
        let bit = 1 << (grain % 64);
        let new = self.words[grain / 64] & bit == 0;
        self.words[grain / 64] |= bit;
        new
    }

    /// The grains below `count` that are not in the set.
    fn complement(&self, count: usize) -> GrainBitmap {
        let mut words = [0; GRAIN_WORDS];
        for (index, word) in words.iter_mut().enumerate() {
            let mask = match count.saturating_sub(index * 64) {
                0 => 0,
                bits @ 1..64 => (1 << bits) - 1,
                _ => u64::MAX,
            };
            *word = !self.words[index] & mask;
        }
        GrainBitmap { words }
    }
}

/// Who sends a fragmented message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    Node(NodeId),
    Client(PublicKey),
}

/// What makes fragments parts of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageKey {
    pub origin: Origin,
    /// PROPOSE stands for BLOCK as well.
    class: Kind,
    /// As in [`Fragment::message`].
    pub message: u64,
}

impl MessageKey {
    pub fn new(origin: Origin, kind: Kind, message: u64) -> MessageKey {
        MessageKey {
            origin,
            class: if kind.is_block() { Kind::Propose } else { kind },
            message,
        }
    }
}

/// What the fragments of one message must agree on besides its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessagePlace {
    pub view: View,
    pub slot: Slot,
    /// The reply's number; 0 in other messages.
    pub number: u64,
}

/// How many messages may be incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReassemblyLimits {
    pub partials_max: usize,
    pub partials_per_sender_max: usize,
    /// An incomplete message that no fragment joined for this long is given up.
    pub idle_ns_max: u64,
}

/// A complete message in its buffer, at `RECORD_HEADER_BYTES .. RECORD_HEADER_BYTES + length`.
#[derive(Debug)]
pub struct Assembled<U> {
    pub buffer: U,
    pub length: usize,
}

impl<U: std::ops::Deref<Target = [u8]>> Assembled<U> {
    pub fn message(&self) -> &[u8] {
        &self.buffer[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + self.length]
    }
}

/// An incomplete message, as repair sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial {
    pub key: MessageKey,
    pub place: MessagePlace,
    pub total: u32,
    /// When the last new grain arrived.
    pub grown_at: Instant,
    pub missing: GrainBitmap,
}

struct Entry<U> {
    key: MessageKey,
    place: MessagePlace,
    total: u32,
    /// Order of birth.
    born: u64,
    grown_at: Instant,
    present: GrainBitmap,
    present_count: usize,
    buffer: U,
}

impl<U> Entry<U> {
    fn missing(&self) -> GrainBitmap {
        self.present.complement(grain_count(self.total as usize))
    }
}

/// Joins the fragments of many senders. Takes no memory after construction but from its buffers.
pub struct Reassembler<Bu: Buffers> {
    buffers: Bu,
    limits: ReassemblyLimits,
    /// At most `partials_max`; reserved at construction.
    entries: Vec<Entry<Bu::Unique>>,
    completed: [Option<(MessageKey, Instant)>; COMPLETED_MAX],
    completed_next: usize,
    births: u64,
    /// Incomplete messages that gave way or were given up.
    evicted: u64,
}

impl<Bu: Buffers> Reassembler<Bu> {
    pub fn new(buffers: Bu, limits: ReassemblyLimits) -> Reassembler<Bu> {
        assert!(limits.partials_max > 0 && limits.partials_per_sender_max > 0);
        Reassembler {
            buffers,
            limits,
            entries: Vec::with_capacity(limits.partials_max),
            completed: [None; COMPLETED_MAX],
            completed_next: 0,
            births: 0,
            evicted: 0,
        }
    }

    /// Takes one part of a message. `kind` bounds the message; the part's own bounds are checked
    /// again here, so that this room is safe on its own.
    pub fn insert(
        &mut self,
        now: Instant,
        origin: Origin,
        kind: Kind,
        place: MessagePlace,
        fragment: Fragment,
        part: &[u8],
    ) -> Result<Option<Assembled<Bu::Unique>>, Reject> {
        let total = fragment.total as usize;
        let start = fragment.offset_bytes();
        let end = start + part.len();
        let room = self.buffers.buffer_bytes();
        let long = total > kind.bytes_max() || RECORD_HEADER_BYTES + total > room;
        if long && !planted("longlen") {
            return Err(Reject::MessageTooLarge);
        }
        if end > total || (part.is_empty() && total > 0) {
            return Err(Reject::LengthMismatch);
        }
        if end < total && !part.len().is_multiple_of(GRAIN_BYTES) {
            return Err(Reject::FragmentMisaligned);
        }
        if part.len() == total {
            return self.whole(origin, part).map(Some);
        }
        let key = MessageKey::new(origin, kind, fragment.message);
        let mixed = |held: &MessageKey| planted("fragmix") && held.origin == origin;
        let same = |held: &MessageKey| *held == key || mixed(held);
        let found = self.entries.iter().position(|entry| same(&entry.key));
        let index = match found {
            Some(index) => {
                let entry = &self.entries[index];
                if entry.total != fragment.total || entry.place != place {
                    return Err(Reject::FragmentMismatch);
                }
                index
            }
            None if self.completed_lately(now, &key) => return Ok(None),
            None => self.open(now, key, place, fragment.total)?,
        };
        let entry = &mut self.entries[index];
        let at = RECORD_HEADER_BYTES + start;
        entry.buffer[at..at + part.len()].copy_from_slice(part);
        let first = usize::from(fragment.offset_grains);
        let grew = (first..first + grain_count(part.len()))
            .map(|grain| usize::from(entry.present.insert(grain)))
            .sum::<usize>();
        if grew > 0 {
            entry.grown_at = now;
            entry.present_count += grew;
        }
        if entry.present_count < grain_count(total) {
            return Ok(None);
        }
        let entry = self.entries.swap_remove(index);
        self.completed[self.completed_next] = Some((key, now));
        self.completed_next = (self.completed_next + 1) % COMPLETED_MAX;
        Ok(Some(Assembled {
            buffer: entry.buffer,
            length: total,
        }))
    }

    /// A message in one part, still to lie in a buffer of its own.
    fn whole(&mut self, origin: Origin, message: &[u8]) -> Result<Assembled<Bu::Unique>, Reject> {
        let mut buffer = self.buffer_for(origin)?;
        buffer[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + message.len()].copy_from_slice(message);
        Ok(Assembled {
            buffer,
            length: message.len(),
        })
    }

    fn open(
        &mut self,
        now: Instant,
        key: MessageKey,
        place: MessagePlace,
        total: u32,
    ) -> Result<usize, Reject> {
        let buffer = if self.held_by(key.origin) >= self.limits.partials_per_sender_max {
            let own_oldest = self.oldest_of(key.origin);
            own_oldest.map(|index| self.evict(index))
        } else if self.entries.len() >= self.limits.partials_max {
            let victim = self.victim(key.origin);
            victim.map(|index| self.evict(index))
        } else {
            None
        };
        let buffer = match buffer {
            Some(buffer) => buffer,
            None => self.buffer_for(key.origin)?,
        };
        self.births += 1;
        self.entries.push(Entry {
            key,
            place,
            total,
            born: self.births,
            grown_at: now,
            present: GrainBitmap::EMPTY,
            present_count: 0,
            buffer,
        });
        assert!(self.entries.len() <= self.limits.partials_max);
        Ok(self.entries.len() - 1)
    }

    /// A buffer of the pool, or that of an incomplete message which gives way.
    fn buffer_for(&mut self, origin: Origin) -> Result<Bu::Unique, Reject> {
        if let Some(buffer) = self.buffers.take() {
            return Ok(buffer);
        }
        let victim = self.victim(origin).ok_or(Reject::NoBuffer)?;
        Ok(self.evict(victim))
    }

    fn held_by(&self, origin: Origin) -> usize {
        let of_origin = |entry: &&Entry<Bu::Unique>| entry.key.origin == origin;
        self.entries.iter().filter(of_origin).count()
    }

    fn oldest_of(&self, origin: Origin) -> Option<usize> {
        (0..self.entries.len())
            .filter(|&index| self.entries[index].key.origin == origin)
            .min_by_key(|&index| self.entries[index].born)
    }

    /// Which incomplete message gives way to a new one of `origin`: the oldest of those whose
    /// sender holds most, the new one counted. So a sender that floods evicts itself.
    fn victim(&self, origin: Origin) -> Option<usize> {
        (0..self.entries.len()).max_by_key(|&index| {
            let entry = &self.entries[index];
            let asks = usize::from(entry.key.origin == origin);
            (self.held_by(entry.key.origin) + asks, Reverse(entry.born))
        })
    }

    fn evict(&mut self, index: usize) -> Bu::Unique {
        self.evicted += 1;
        self.entries.swap_remove(index).buffer
    }

    fn completed_lately(&self, now: Instant, key: &MessageKey) -> bool {
        self.completed
            .iter()
            .flatten()
            .any(|(done, at)| done == key && now.since_ns(*at) < COMPLETED_MEMORY_NS)
    }

    /// Which grains of an incomplete message have not arrived.
    pub fn missing(&self, key: &MessageKey) -> Option<GrainBitmap> {
        let entry = self.entries.iter().find(|entry| entry.key == *key)?;
        Some(entry.missing())
    }

    /// The incomplete messages, in no particular but a repeatable order.
    pub fn partials(&self) -> impl Iterator<Item = Partial> {
        self.entries.iter().map(|entry| Partial {
            key: entry.key,
            place: entry.place,
            total: entry.total,
            grown_at: entry.grown_at,
            missing: entry.missing(),
        })
    }

    /// Gives up incomplete messages that no longer grow; returns how many.
    pub fn expire(&mut self, now: Instant) -> usize {
        if planted("fragleak") {
            return 0;
        }
        let before = self.entries.len();
        let idle_ns_max = self.limits.idle_ns_max;
        self.entries
            .retain(|entry| now.since_ns(entry.grown_at) <= idle_ns_max);
        let given_up = before - self.entries.len();
        self.evicted += given_up as u64;
        given_up
    }

    /// Gives up one incomplete message, for example of a block that was learned otherwise.
    pub fn forget(&mut self, key: &MessageKey) {
        self.entries.retain(|entry| entry.key != *key);
    }

    /// Incomplete messages now.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Incomplete messages given up since construction.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }
}

impl<Bu: Buffers> std::fmt::Debug for Reassembler<Bu> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reassembler({} incomplete)", self.entries.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::HeapBuffers;
    use crate::limits::MESSAGE_BYTES_MAX;
    use proptest::prelude::*;

    const LIMITS: ReassemblyLimits = ReassemblyLimits {
        partials_max: 4,
        partials_per_sender_max: 3,
        idle_ns_max: 1_000_000_000,
    };
    const PLACE: MessagePlace = MessagePlace {
        view: View(1),
        slot: Slot(2),
        number: 0,
    };

    fn reassembler() -> Reassembler<HeapBuffers> {
        let buffers = HeapBuffers {
            bytes_each: RECORD_HEADER_BYTES + MESSAGE_BYTES_MAX,
        };
        Reassembler::new(buffers, LIMITS)
    }

    fn node(id: u16) -> Origin {
        Origin::Node(NodeId(id))
    }

    fn content(total: usize) -> Vec<u8> {
        (0..total).map(|at| (at * 31 % 251) as u8).collect()
    }

    fn part(
        reassembler: &mut Reassembler<HeapBuffers>,
        now: u64,
        origin: Origin,
        message: u64,
        bytes: &[u8],
        grains: std::ops::Range<usize>,
    ) -> Result<Option<Assembled<crate::bytes::HeapUnique>>, Reject> {
        let range = grains.start * GRAIN_BYTES..(grains.end * GRAIN_BYTES).min(bytes.len());
        let fragment = Fragment {
            message,
            offset_grains: grains.start as u16,
            total: bytes.len() as u32,
        };
        let kind = Kind::Propose;
        reassembler.insert(Instant(now), origin, kind, PLACE, fragment, &bytes[range])
    }

    #[test]
    fn the_missing_grains_are_known_and_a_block_completes_a_proposal() {
        let mut joins = reassembler();
        let bytes = content(5 * GRAIN_BYTES + 7);
        assert!(
            part(&mut joins, 0, node(1), 9, &bytes, 0..2)
                .unwrap()
                .is_none()
        );
        assert!(
            part(&mut joins, 0, node(1), 9, &bytes, 4..6)
                .unwrap()
                .is_none()
        );
        let key = MessageKey::new(node(1), Kind::Block, 9);
        let missing = joins.missing(&key).unwrap();
        assert_eq!((missing.count(), missing.words()[0]), (2, 0b1100));
        assert_eq!(joins.partials().next().unwrap().missing, missing);
        let fragment = Fragment {
            message: 9,
            offset_grains: 2,
            total: bytes.len() as u32,
        };
        let rest = &bytes[2 * GRAIN_BYTES..4 * GRAIN_BYTES];
        let done = joins
            .insert(Instant(1), node(1), Kind::Block, PLACE, fragment, rest)
            .unwrap()
            .unwrap();
        assert_eq!(done.message(), bytes);
        // A late copy opens nothing; after a while the message may come again.
        assert!(
            part(&mut joins, 2, node(1), 9, &bytes, 0..2)
                .unwrap()
                .is_none()
        );
        assert!(joins.is_empty());
        let later = COMPLETED_MEMORY_NS + 1;
        assert!(
            part(&mut joins, later, node(1), 9, &bytes, 0..2)
                .unwrap()
                .is_none()
        );
        assert_eq!(joins.len(), 1);
        assert_eq!(joins.expire(Instant(later + LIMITS.idle_ns_max)), 0);
        assert_eq!(joins.expire(Instant(later + LIMITS.idle_ns_max + 1)), 1);
        assert!(joins.missing(&key).is_none());
    }

    #[test]
    fn other_senders_totals_and_places_do_not_join() {
        let mut joins = reassembler();
        let bytes = content(4 * GRAIN_BYTES);
        part(&mut joins, 0, node(1), 9, &bytes, 0..2).unwrap();
        let longer = content(5 * GRAIN_BYTES);
        assert_eq!(
            part(&mut joins, 0, node(1), 9, &longer, 2..4).unwrap_err(),
            Reject::FragmentMismatch
        );
        let fragment = Fragment {
            message: 9,
            offset_grains: 2,
            total: bytes.len() as u32,
        };
        let elsewhere = MessagePlace {
            slot: Slot(3),
            ..PLACE
        };
        let rest = &bytes[2 * GRAIN_BYTES..];
        assert_eq!(
            joins
                .insert(
                    Instant(0),
                    node(1),
                    Kind::Propose,
                    elsewhere,
                    fragment,
                    rest
                )
                .unwrap_err(),
            Reject::FragmentMismatch
        );
        assert!(
            part(&mut joins, 0, node(2), 9, &bytes, 2..4)
                .unwrap()
                .is_none()
        );
        assert!(
            part(&mut joins, 0, node(1), 8, &bytes, 2..4)
                .unwrap()
                .is_none()
        );
        assert!(
            part(&mut joins, 0, node(1), 9, &bytes, 2..4)
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn bounds_are_checked_before_a_buffer_is_taken() {
        let mut joins = reassembler();
        let mut refused = |offset_grains, total, length: usize| {
            let fragment = Fragment {
                message: 1,
                offset_grains,
                total,
            };
            let bytes = vec![0; length];
            let result = joins.insert(Instant(0), node(1), Kind::Vote, PLACE, fragment, &bytes);
            assert!(joins.is_empty());
            result.unwrap_err()
        };
        assert_eq!(refused(0, 2000, 464), Reject::MessageTooLarge);
        assert_eq!(refused(0, 1000, 465), Reject::FragmentMisaligned);
        assert_eq!(refused(2, 1000, 464), Reject::LengthMismatch);
        assert_eq!(refused(u16::MAX, 1000, 464), Reject::LengthMismatch);
        assert_eq!(refused(0, 1000, 0), Reject::LengthMismatch);
    }

    #[test]
    fn a_flooding_sender_evicts_itself() {
        let mut joins = reassembler();
        let bytes = content(4 * GRAIN_BYTES);
        part(&mut joins, 0, node(2), 1, &bytes, 0..1).unwrap();
        for message in 0..50 {
            part(&mut joins, 0, node(1), message, &bytes, 0..1).unwrap();
        }
        assert_eq!((joins.len(), joins.evicted()), (4, 47));
        part(&mut joins, 0, node(3), 1, &bytes, 0..1).unwrap();
        assert_eq!(joins.len(), 4);
        for id in [2, 3] {
            let key = MessageKey::new(node(id), Kind::Propose, 1);
            assert!(joins.missing(&key).is_some(), "node {id} kept its message");
        }
        joins.forget(&MessageKey::new(node(3), Kind::Propose, 1));
        assert_eq!(joins.len(), 3);
    }

    #[test]
    fn an_empty_pool_takes_the_oldest_of_the_heaviest() {
        struct Few(usize);
        impl Buffers for Few {
            type Shared = crate::bytes::HeapShared;
            type Unique = crate::bytes::HeapUnique;
            fn take(&mut self) -> Option<Self::Unique> {
                self.0 = self.0.checked_sub(1)?;
                Some(crate::bytes::HeapUnique(vec![0; 4096]))
            }
            fn buffer_bytes(&self) -> usize {
                4096
            }
            fn free(&self) -> usize {
                self.0
            }
        }
        let mut joins = Reassembler::new(Few(1), LIMITS);
        let fragment = |offset_grains| Fragment {
            message: 5,
            offset_grains,
            total: 928,
        };
        let kind = Kind::Propose;
        let mut put = |origin, offset| {
            let part = [1; 464];
            joins.insert(Instant(0), origin, kind, PLACE, fragment(offset), &part)
        };
        assert!(put(node(1), 0).unwrap().is_none());
        assert!(put(node(2), 0).unwrap().is_none());
        let held = put(node(2), 1).unwrap().unwrap();
        assert_eq!(put(node(1), 1).unwrap_err(), Reject::NoBuffer);
        drop(held);
    }

    proptest! {
        /// Any order, loss and duplication of overlapping, aligned parts: complete exactly when
        /// every grain arrived, with the right bytes, and incomplete with the right gaps otherwise.
        #[test]
        fn reassembles_or_stays_partial(
            total in 1usize..20_000,
            cuts in proptest::collection::vec((0usize..44, 1usize..8), 1..120),
        ) {
            let bytes = content(total);
            let count = grain_count(total);
            let mut joins = reassembler();
            let mut arrived = vec![false; count];
            for (start, length) in cuts {
                let (start, end) = (start.min(count - 1), (start + length).min(count));
                if start == 0 && end == count {
                    continue;
                }
                let done = part(&mut joins, 0, node(1), 1, &bytes, start..end).unwrap();
                arrived[start..end].fill(true);
                if let Some(done) = done {
                    prop_assert!(arrived.iter().all(|arrived| *arrived));
                    prop_assert_eq!(done.message(), &bytes[..]);
                    return Ok(());
                }
            }
            if arrived.contains(&true) {
                let key = MessageKey::new(node(1), Kind::Propose, 1);
                let missing = joins.missing(&key).unwrap();
                for grain in 0..GRAINS_MAX {
                    let expected = arrived.get(grain).is_some_and(|arrived| !arrived);
                    prop_assert_eq!(missing.contains(grain), expected);
                }
            }
        }
    }
}
