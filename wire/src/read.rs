//! READ and READ-REPLY (protocol §9.6): reads that take no part in the order.
//!
//! A READ is a head and one encoded get or scan. A READ-REPLY is a head and the encoded outcome, or
//! the digest of a long one. What clients compare is (epoch, digest of the result) and nothing else:
//! replicas answer at different slots, so the slot stands in the head for people to see, outside of
//! what is matched.

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::{Digest, Epoch, Slot};
use crate::limits::{KEY_BYTES_MAX, RESULT_BYTES_MAX};
use crate::ops::{self, Operation};
use crate::reject::Reject;
use crate::reply::result_digest;

/// Bytes of an encoded get or scan at most: two keys and their lengths.
pub const READ_OPERATION_BYTES_MAX: usize = 2 * KEY_BYTES_MAX + 32;

/// How fresh a READ must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// At once, from the executed state: possibly old (§9.6 c).
    Stale,
    /// Once everything is executed that this replica may have voted for before the READ came
    /// (§9.6 b).
    Fenced,
}

const STALE: u8 = 0;
const FENCED: u8 = 1;

const FULL: u8 = 0;
const DIGEST: u8 = 1;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ReadHead {
    number: U64,
    epoch: U64,
    mode: u8,
    all_full: u8,
    reserved: [u8; 6],
}

const _: () = assert!(size_of::<ReadHead>() == 24);

/// A well-formed READ body.
#[derive(Clone, Copy, Debug)]
pub struct ReadView<'a> {
    /// Never used twice by one client key: it ties the answers to this question.
    pub number: u64,
    pub epoch: Epoch,
    pub freshness: Freshness,
    /// Every replica is to send a long result whole, not only the designated one.
    pub all_full: bool,
    pub operation: Operation<'a>,
    /// `operation` as it is encoded.
    pub operation_bytes: &'a [u8],
}

impl<'a> ReadView<'a> {
    /// Errors: anything but one whole get or scan behind a head.
    pub fn parse(bytes: &'a [u8]) -> Result<ReadView<'a>, Reject> {
        let (head, operation_bytes) =
            ReadHead::read_from_prefix(bytes).map_err(|_| Reject::Truncated)?;
        if head.reserved != [0; 6] {
            return Err(Reject::ReservedNotZero);
        }
        let freshness = match head.mode {
            STALE => Freshness::Stale,
            FENCED => Freshness::Fenced,
            _ => return Err(Reject::BodyMalformed),
        };
        if head.all_full > 1 {
            return Err(Reject::BodyMalformed);
        }
        let operation = operation(operation_bytes)?;
        Ok(ReadView {
            number: head.number.get(),
            epoch: Epoch(head.epoch.get()),
            freshness,
            all_full: head.all_full == 1,
            operation,
            operation_bytes,
        })
    }
}

/// The one get or scan that `bytes` are.
pub fn operation(bytes: &[u8]) -> Result<Operation<'_>, Reject> {
    if bytes.len() > READ_OPERATION_BYTES_MAX {
        return Err(Reject::MessageTooLarge);
    }
    ops::check(bytes, 1)?;
    match ops::operations(bytes).next() {
        Some(operation @ (Operation::Get { .. } | Operation::Scan { .. })) => Ok(operation),
        _ => Err(Reject::BodyMalformed),
    }
}

/// Appends a READ body; `operation_bytes` are one encoded get or scan.
pub fn encode_read(
    out: &mut Vec<u8>,
    number: u64,
    epoch: Epoch,
    freshness: Freshness,
    all_full: bool,
    operation_bytes: &[u8],
) {
    let head = ReadHead {
        number: U64::new(number),
        epoch: U64::new(epoch.0),
        mode: match freshness {
            Freshness::Stale => STALE,
            Freshness::Fenced => FENCED,
        },
        all_full: u8::from(all_full),
        reserved: [0; 6],
    };
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(operation_bytes);
}

/// Head of a READ-REPLY body; the result or its digest follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ReadReplyHead {
    number: U64,
    epoch: U64,
    /// Highest slot executed when the read was answered; not matched.
    executed: U64,
    form: u8,
    reserved: [u8; 7],
}

const _: () = assert!(size_of::<ReadReplyHead>() == 32);

impl ReadReplyHead {
    /// `digest_only`: what follows is the digest of the result.
    pub fn new(number: u64, epoch: Epoch, executed: Slot, digest_only: bool) -> ReadReplyHead {
        ReadReplyHead {
            number: U64::new(number),
            epoch: U64::new(epoch.0),
            executed: U64::new(executed.0),
            form: if digest_only { DIGEST } else { FULL },
            reserved: [0; 7],
        }
    }
}

/// A well-formed READ-REPLY body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadReplyView<'a> {
    pub number: u64,
    pub epoch: Epoch,
    pub executed: Slot,
    /// H("result", bytes), of the bytes that came or as it was told.
    pub digest: Digest,
    /// The encoded [`crate::ops::Outcome`], when it came whole.
    pub result: Option<&'a [u8]>,
}

impl<'a> ReadReplyView<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<ReadReplyView<'a>, Reject> {
        let (head, rest) = ReadReplyHead::read_from_prefix(bytes).map_err(|_| Reject::Truncated)?;
        if head.reserved != [0; 7] {
            return Err(Reject::ReservedNotZero);
        }
        let (digest, result) = match head.form {
            FULL if rest.len() > RESULT_BYTES_MAX + 1024 => return Err(Reject::MessageTooLarge),
            FULL => (result_digest(rest), Some(rest)),
            DIGEST => {
                let digest = Digest::read_from_bytes(rest).map_err(|_| Reject::BodyMalformed)?;
                (digest, None)
            }
            _ => return Err(Reject::BodyMalformed),
        };
        Ok(ReadReplyView {
            number: head.number.get(),
            epoch: Epoch(head.epoch.get()),
            executed: Slot(head.executed.get()),
            digest,
            result,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::OperationsBuilder;

    fn encoded(operation: &Operation<'_>) -> Vec<u8> {
        let mut builder = OperationsBuilder::new();
        builder.push(operation);
        builder.bytes().to_vec()
    }

    #[test]
    fn a_read_is_one_get_or_scan_and_nothing_else() {
        let get = encoded(&Operation::Get { key: b"k" });
        let scan = encoded(&Operation::Scan {
            from: &[1; KEY_BYTES_MAX],
            to: &[2; KEY_BYTES_MAX],
            limit: 7,
        });
        assert!(scan.len() <= READ_OPERATION_BYTES_MAX);
        for operation in [&get, &scan] {
            let mut body = Vec::new();
            encode_read(&mut body, 9, Epoch(3), Freshness::Fenced, true, operation);
            let view = ReadView::parse(&body).unwrap();
            assert_eq!((view.number, view.epoch), (9, Epoch(3)));
            assert_eq!((view.freshness, view.all_full), (Freshness::Fenced, true));
            assert_eq!(view.operation_bytes, &operation[..]);
            for length in 0..body.len() {
                assert!(ReadView::parse(&body[..length]).is_err());
            }
            // Mode, form, reserved bytes.
            for (at, value) in [(16, 2), (17, 2), (18, 1), (23, 1)] {
                let mut bad = body.clone();
                bad[at] = value;
                assert!(ReadView::parse(&bad).is_err(), "byte {at}");
            }
        }
        let put = encoded(&Operation::Put {
            key: b"k",
            value: b"v",
        });
        for operations in [put, [&get[..], &get[..]].concat(), Vec::new()] {
            let mut body = Vec::new();
            encode_read(&mut body, 1, Epoch(0), Freshness::Stale, false, &operations);
            assert!(ReadView::parse(&body).is_err());
        }
    }

    #[test]
    fn whole_and_short_answers_compare_equal() {
        let result = [7u8; 100];
        let head = ReadReplyHead::new(4, Epoch(1), Slot(8), false);
        let whole = [head.as_bytes(), &result].concat();
        let whole = ReadReplyView::parse(&whole).unwrap();
        assert_eq!(whole.result, Some(&result[..]));
        let head = ReadReplyHead::new(4, Epoch(1), Slot(9), true);
        let body = [head.as_bytes(), &whole.digest.0].concat();
        let short = ReadReplyView::parse(&body).unwrap();
        assert_eq!((short.digest, short.epoch), (whole.digest, whole.epoch));
        assert_eq!(short.result, None);
        assert!(ReadReplyView::parse(&body[..body.len() - 1]).is_err());
        for (at, value) in [(24, 2), (25, 1), (31, 1)] {
            let mut bad = body.clone();
            bad[at] = value;
            assert!(ReadReplyView::parse(&bad).is_err(), "byte {at}");
        }
    }
}
