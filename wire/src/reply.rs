//! What replicas say to clients: replies and Busy. Reads have a room of their own: [`crate::read`].
//!
//! A REPLY body is the session id and then runs: consecutive sequences of one slot with one equal
//! result (64 puts are one run of 25 bytes). One datagram answers a client for a whole block.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::{Digest, Sequence, SessionId, Slot};
use crate::limits::{CACHED_RESULT_BYTES_MAX, RESULT_BYTES_MAX};
use crate::reject::Reject;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RunHead {
    first_sequence: U64,
    slot: U64,
    count: U16,
    status: u8,
    reserved: u8,
    length: U32,
}

/// Bytes of a run in front of its result.
pub const RUN_HEAD_BYTES: usize = size_of::<RunHead>();
const _: () = assert!(RUN_HEAD_BYTES == 24);
/// Bytes of a reply in front of its runs.
pub const REPLY_HEAD_BYTES: usize = 8;

/// What a run says about its sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// Executed, with this encoded [`crate::ops::Outcome`].
    Full(&'a [u8]),
    /// Executed; the result is longer than `CACHED_RESULT_BYTES_MAX` and this is its digest.
    Digest(Digest),
    /// The OPEN made, or found, the session in the reply's head.
    Opened,
    /// Executed once, its result no longer kept, or below the session's window.
    Stale,
    /// The session is not current: earlier outcomes unknown, open a new one.
    Expired,
}

const FULL: u8 = 0;
const DIGEST: u8 = 1;
const OPENED: u8 = 2;
const STALE: u8 = 3;
const EXPIRED: u8 = 4;

impl Answer<'_> {
    /// What clients compare (protocol §9.2): equal answers have equal digests whatever their form.
    pub fn digest(&self) -> Digest {
        match self {
            Answer::Full(result) => result_digest(result),
            Answer::Digest(digest) => *digest,
            Answer::Opened => result_digest(b"opened"),
            Answer::Stale => result_digest(b"stale"),
            Answer::Expired => result_digest(b"expired"),
        }
    }
}

/// H("result", bytes).
pub fn result_digest(result: &[u8]) -> Digest {
    Digest(blake3::derive_key("hippodrome/1/result", result))
}

/// Consecutive sequences with one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run<'a> {
    pub first_sequence: Sequence,
    pub count: u16,
    /// Slot of the block that executed them.
    pub slot: Slot,
    pub answer: Answer<'a>,
}

/// A well-formed REPLY body.
#[derive(Clone, Copy, Debug)]
pub struct ReplyView<'a> {
    pub session: SessionId,
    runs: &'a [u8],
}

impl<'a> ReplyView<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<ReplyView<'a>, Reject> {
        let (session, runs) = U64::read_from_prefix(bytes).map_err(|_| Reject::Truncated)?;
        let view = ReplyView {
            session: SessionId(session.get()),
            runs,
        };
        let mut rest = runs;
        while !rest.is_empty() {
            rest = split_run(rest)?.1;
        }
        Ok(view)
    }

    pub fn runs(&self) -> impl Iterator<Item = Run<'a>> + use<'a> {
        let mut rest = self.runs;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (run, after) = split_run(rest).ok()?;
            rest = after;
            Some(run)
        })
    }
}

fn split_run(bytes: &[u8]) -> Result<(Run<'_>, &[u8]), Reject> {
    let (head, rest) = RunHead::read_from_prefix(bytes).map_err(|_| Reject::Truncated)?;
    let length = head.length.get() as usize;
    if length > RESULT_BYTES_MAX + 1024 {
        return Err(Reject::MessageTooLarge);
    }
    let (result, rest) = rest.split_at_checked(length).ok_or(Reject::Truncated)?;
    let bare = |answer| {
        if result.is_empty() {
            Ok(answer)
        } else {
            Err(Reject::BodyMalformed)
        }
    };
    let answer = match head.status {
        FULL => Answer::Full(result),
        DIGEST => {
            Answer::Digest(Digest::read_from_bytes(result).map_err(|_| Reject::BodyMalformed)?)
        }
        OPENED => bare(Answer::Opened)?,
        STALE => bare(Answer::Stale)?,
        EXPIRED => bare(Answer::Expired)?,
        _ => return Err(Reject::BodyMalformed),
    };
    if head.reserved != 0 {
        return Err(Reject::ReservedNotZero);
    }
    let run = Run {
        first_sequence: Sequence(head.first_sequence.get()),
        count: head.count.get(),
        slot: Slot(head.slot.get()),
        answer,
    };
    Ok((run, rest))
}

/// Writes a reply into memory that is taken once and reused.
#[derive(Debug)]
pub struct ReplyBuilder {
    bytes: Vec<u8>,
    /// Where the last run begins; runs grow while answers are equal.
    last: Option<usize>,
}

impl ReplyBuilder {
    /// A builder whose replies stay within `capacity` bytes when the caller asks [`Self::fits`].
    pub fn new(capacity: usize) -> ReplyBuilder {
        ReplyBuilder {
            bytes: Vec::with_capacity(capacity),
            last: None,
        }
    }

    /// Begins a reply of this session.
    pub fn begin(&mut self, session: SessionId) {
        self.bytes.clear();
        self.last = None;
        self.bytes.extend_from_slice(&session.0.to_le_bytes());
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// Whether an answer with `result_bytes` more bytes stays within `limit`.
    pub fn fits(&self, result_bytes: usize, limit: usize) -> bool {
        self.bytes.len() + RUN_HEAD_BYTES + result_bytes <= limit
    }

    /// Adds `count` sequences from `first`; joins them to the last run when that one ends right
    /// before them with the same slot and answer.
    pub fn push(&mut self, first: Sequence, count: u16, slot: Slot, answer: &Answer<'_>) {
        let (status, result): (u8, &[u8]) = match answer {
            Answer::Full(result) => (FULL, result),
            Answer::Digest(digest) => (DIGEST, &digest.0),
            Answer::Opened => (OPENED, &[]),
            Answer::Stale => (STALE, &[]),
            Answer::Expired => (EXPIRED, &[]),
        };
        if let Some(at) = self.last {
            let (head, tail) = self.bytes[at..].split_at_mut(RUN_HEAD_BYTES);
            if let Ok(last) = RunHead::mut_from_bytes(head) {
                let joins = last.status == status
                    && last.slot.get() == slot.0
                    && last.first_sequence.get() + u64::from(last.count.get()) == first.0
                    && last.count.get().checked_add(count).is_some()
                    && result.len() <= CACHED_RESULT_BYTES_MAX
                    && tail == result;
                if joins {
                    last.count = U16::new(last.count.get() + count);
                    return;
                }
            }
        }
        self.last = Some(self.bytes.len());
        let head = RunHead {
            first_sequence: U64::new(first.0),
            slot: U64::new(slot.0),
            count: U16::new(count),
            status,
            reserved: 0,
            length: U32::new(result.len() as u32),
        };
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(result);
    }
}

/// BUSY: a pacing hint, never an outcome.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BusyBody {
    first_sequence: U64,
    retry_after_us: U32,
    pub reason: u8,
    reserved: [u8; 3],
}

const _: () = assert!(size_of::<BusyBody>() == 16);

/// A queue is full.
pub const BUSY_QUEUE: u8 = 1;
/// The log has no room for a new transaction; reads go on.
pub const BUSY_LOG_FULL: u8 = 2;
/// The replica does not serve: it is starting, or no leader proposes.
pub const BUSY_NOT_READY: u8 = 3;

impl BusyBody {
    pub fn new(first_sequence: Sequence, retry_after_us: u32, reason: u8) -> BusyBody {
        BusyBody {
            first_sequence: U64::new(first_sequence.0),
            retry_after_us: U32::new(retry_after_us),
            reason,
            reserved: [0; 3],
        }
    }

    pub fn first_sequence(&self) -> Sequence {
        Sequence(self.first_sequence.get())
    }

    pub fn retry_after_us(&self) -> u32 {
        self.retry_after_us.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_answers_join_into_one_run() {
        let mut builder = ReplyBuilder::new(4096);
        builder.begin(SessionId(3));
        for sequence in 1..=64 {
            builder.push(Sequence(sequence), 1, Slot(9), &Answer::Full(&[0]));
        }
        builder.push(Sequence(65), 1, Slot(9), &Answer::Full(&[2]));
        builder.push(Sequence(70), 1, Slot(9), &Answer::Full(&[2]));
        builder.push(Sequence(71), 2, Slot(9), &Answer::Stale);
        let view = ReplyView::parse(builder.bytes()).unwrap();
        assert_eq!(view.session, SessionId(3));
        let counts: Vec<_> = view
            .runs()
            .map(|run| (run.first_sequence.0, run.count))
            .collect();
        assert_eq!(counts, [(1, 64), (65, 1), (70, 1), (71, 2)]);
        for length in 0..builder.bytes().len() {
            let _ = ReplyView::parse(&builder.bytes()[..length]);
        }
    }

    #[test]
    fn digest_and_full_forms_compare_equal() {
        let result = [1u8; 100];
        let short = Answer::Digest(result_digest(&result));
        assert_eq!(Answer::Full(&result).digest(), short.digest());
        assert_ne!(Answer::Stale.digest(), Answer::Expired.digest());
    }
}
