//! A session as bytes in a bucket of the state: a fixed head, then the remembered results by
//! sequence, each a fixed head and the result or its digest.

use wire::canary::planted;
use wire::ids::{PublicKey, SessionId, Slot};
use wire::limits::{CACHED_RESULT_BYTES_MAX, SESSION_WINDOW};
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Cached, IS_DIGEST, NOT_EXECUTED, Session};

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    client: PublicKey,
    id: U64,
    low: U64,
    last_slot: U64,
    /// Remembered results that follow.
    results: U16,
}

const _: () = assert!(size_of::<Head>() == 58);
const _: () = assert!(SESSION_WINDOW <= u16::MAX as u64);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ResultHead {
    /// The sequence above `low`: 1 to M.
    offset: U16,
    slot: U64,
    /// Bytes of the result, or `IS_DIGEST`.
    length: u8,
}

const _: () = assert!(size_of::<ResultHead>() == 11);

/// Bytes that a cell of this `length` uses.
fn used_bytes(length: u8) -> usize {
    if length == IS_DIGEST {
        32
    } else {
        usize::from(length)
    }
}

impl Session {
    /// Appends the session. Walks the whole window: about 5 us.
    pub(super) fn write(&self, client: &PublicKey, out: &mut Vec<u8>) {
        let start = out.len();
        let mut head = Head {
            client: *client,
            id: U64::new(self.id.0),
            low: U64::new(self.low),
            last_slot: U64::new(self.last_slot.0),
            results: U16::new(0),
        };
        out.extend_from_slice(head.as_bytes());
        let mut results = 0;
        for offset in 1..=SESSION_WINDOW {
            let Some(sequence) = self.low.checked_add(offset) else {
                break;
            };
            let cell = &self.cached[Session::index(sequence)];
            if cell.length == NOT_EXECUTED || planted("dedupoff") {
                continue;
            }
            results += 1;
            let result = ResultHead {
                offset: U16::new(offset as u16),
                slot: U64::new(cell.slot.0),
                length: cell.length,
            };
            out.extend_from_slice(result.as_bytes());
            out.extend_from_slice(&cell.bytes[..used_bytes(cell.length)]);
        }
        head.results = U16::new(results);
        out[start..start + size_of::<Head>()].copy_from_slice(head.as_bytes());
    }
}

/// Reads one session, its client, and what follows; none if it is not one that [`Session::write`]
/// writes.
pub(super) fn read(bytes: &[u8]) -> Option<(PublicKey, Session, &[u8])> {
    let (head, mut rest) = Head::read_from_prefix(bytes).ok()?;
    if u64::from(head.results.get()) > SESSION_WINDOW {
        return None;
    }
    let mut session = Session::new(SessionId(head.id.get()), Slot(head.last_slot.get()));
    session.low = head.low.get();
    let mut before = 0;
    for _ in 0..head.results.get() {
        let (result, after) = ResultHead::read_from_prefix(rest).ok()?;
        let offset = u64::from(result.offset.get());
        let known =
            usize::from(result.length) <= CACHED_RESULT_BYTES_MAX || result.length == IS_DIGEST;
        if offset <= before || offset > SESSION_WINDOW || !known {
            return None;
        }
        let (kept, after) = after.split_at_checked(used_bytes(result.length))?;
        let sequence = session.low.checked_add(offset)?;
        let cell: &mut Cached = &mut session.cached[Session::index(sequence)];
        cell.slot = Slot(result.slot.get());
        cell.length = result.length;
        cell.bytes[..kept.len()].copy_from_slice(kept);
        (before, rest) = (offset, after);
    }
    Some((head.client, session, rest))
}

/// Our own items, apart and by client.
pub(super) fn split_all(bytes: &[u8]) -> impl Iterator<Item = (PublicKey, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (client, _, after) = read(rest).expect("preserved by ourselves");
        let item = &rest[..rest.len() - after.len()];
        rest = after;
        Some((client, item))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::ids::Sequence;

    fn sample() -> Session {
        let mut session = Session::new(SessionId(77), Slot(9));
        for sequence in [1, 2, 1000, 1024] {
            session.remember(Sequence(sequence), Slot(sequence), b"result");
        }
        session.acknowledge(Sequence(1), Sequence(9));
        session.remember(Sequence(1025), Slot(11), &[5; 64]);
        session.remember(Sequence(3), Slot(12), &[5; 65]);
        session.remember(Sequence(4), Slot(13), b"");
        session
    }

    #[test]
    fn a_session_survives_the_trip() {
        let (session, client) = (sample(), PublicKey([3; 32]));
        let mut bytes = Vec::new();
        session.write(&client, &mut bytes);
        let (of, again, rest) = read(&bytes).unwrap();
        assert_eq!((of, again.id, rest), (client, session.id, &[][..]));
        assert_eq!(again.last_slot, session.last_slot);
        for sequence in (0..3000).map(Sequence) {
            assert_eq!(again.decide(sequence), session.decide(sequence));
            assert_eq!(again.recall(sequence), session.recall(sequence));
        }
        let mut twice = Vec::new();
        again.write(&client, &mut twice);
        assert_eq!(twice, bytes);
    }

    #[test]
    fn malformed_sessions_are_refused() {
        let mut bytes = Vec::new();
        sample().write(&PublicKey([3; 32]), &mut bytes);
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_none(), "{length}");
        }
        let head = size_of::<Head>();
        let damaged = |at: usize, byte: u8| {
            let mut copy = bytes.clone();
            copy[at] = byte;
            read(&copy).is_none_or(|(_, _, rest)| !rest.is_empty())
        };
        assert!(damaged(head - 2, 0xff), "more results than bytes");
        assert!(damaged(head - 1, 0x05), "more results than the window");
        assert!(damaged(head, 0), "offset zero");
        assert!(damaged(head + 1, 0x04), "an offset above the next");
        assert!(damaged(head + 10, 65), "a length that is neither");
        assert!(damaged(head + 10, NOT_EXECUTED), "not executed");
    }
}
