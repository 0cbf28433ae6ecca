//! Operations of the key-value state machine and their results, as bytes.
//!
//! An operation is a fixed 12-byte head, then key, value and extra bytes. Everything is read in
//! place. [`check`] walks untrusted bytes once; [`operations`] then iterates over checked bytes.

mod results;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::change::{Change, ChangeBody};
use crate::limits::{KEY_BYTES_MAX, SCAN_ENTRIES_MAX, TXN_PARTS_MAX, VALUE_BYTES_MAX};

use crate::reject::Reject;

pub use results::{Entries, Outcome, ResultBuffer, TxnResults};

/// Head of one operation or condition on the wire.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    kind: u8,
    flags: u8,
    key_bytes: U16,
    value_bytes: U32,
    extra_bytes: U32,
}

const HEAD_BYTES: usize = size_of::<Head>();
const _: () = assert!(HEAD_BYTES == 12);

const PUT: u8 = 1;
const GET: u8 = 2;
const DELETE: u8 = 3;
const CAS: u8 = 4;
const TXN: u8 = 5;
const SCAN: u8 = 6;
const RECONFIGURE: u8 = 7;
const IF_EQUALS: u8 = 16;
const IF_ABSENT: u8 = 17;
const IF_PRESENT: u8 = 18;

/// `cas` expects a value (its extra bytes) rather than absence.
const EXPECTS_VALUE: u8 = 1;

/// One operation, borrowed from the bytes that carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    Put {
        key: &'a [u8],
        value: &'a [u8],
    },
    Get {
        key: &'a [u8],
    },
    Delete {
        key: &'a [u8],
    },
    /// Writes `value` iff the key now holds `expected` (`None`: iff it is absent).
    Cas {
        key: &'a [u8],
        expected: Option<&'a [u8]>,
        value: &'a [u8],
    },
    /// All operations iff all conditions hold.
    Txn(Txn<'a>),
    /// At most `limit` entries of `from..to` in key order; an empty `to` has no upper end.
    Scan {
        from: &'a [u8],
        to: &'a [u8],
        limit: u32,
    },
    /// The operator's word about the next epoch; no state machine sees it.
    Reconfigure(Change),
}

/// A condition of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition<'a> {
    Equals { key: &'a [u8], value: &'a [u8] },
    Absent { key: &'a [u8] },
    Present { key: &'a [u8] },
}

/// A transaction whose parts have been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Txn<'a> {
    condition_count: u8,
    operation_count: u8,
    parts: &'a [u8],
}

impl<'a> Txn<'a> {
    pub fn conditions(&self) -> impl Iterator<Item = Condition<'a>> + use<'a> {
        let mut rest = self.parts;
        (0..self.condition_count).map_while(move |_| {
            let (part, after) = split(rest).ok()?;
            rest = after;
            part.condition().ok()
        })
    }

    pub fn operations(&self) -> impl Iterator<Item = Operation<'a>> + use<'a> {
        let mut rest = self.parts;
        for _ in 0..self.condition_count {
            rest = split(rest).map_or(&[], |(_, after)| after);
        }
        (0..self.operation_count).map_while(move |_| {
            let (part, after) = split(rest).ok()?;
            rest = after;
            part.simple_operation().ok()
        })
    }

    /// Operations in the transaction.
    pub fn operation_count(&self) -> usize {
        usize::from(self.operation_count)
    }
}

/// One head with its three byte strings.
#[derive(Clone, Copy)]
struct Part<'a> {
    kind: u8,
    flags: u8,
    key: &'a [u8],
    value: &'a [u8],
    extra: &'a [u8],
}

fn split(bytes: &[u8]) -> Result<(Part<'_>, &[u8]), Reject> {
    let (head, rest) = Head::read_from_prefix(bytes).map_err(|_| Reject::OperationTruncated)?;
    let key_bytes = usize::from(head.key_bytes.get());
    let value_bytes = head.value_bytes.get() as usize;
    let extra_bytes = head.extra_bytes.get() as usize;
    if key_bytes > KEY_BYTES_MAX {
        return Err(Reject::KeyTooLong);
    }
    if (head.kind != TXN && value_bytes > VALUE_BYTES_MAX) || extra_bytes > VALUE_BYTES_MAX {
        return Err(Reject::ValueTooLong);
    }
    let (key, rest) = rest
        .split_at_checked(key_bytes)
        .ok_or(Reject::OperationTruncated)?;
    let (value, rest) = rest
        .split_at_checked(value_bytes)
        .ok_or(Reject::OperationTruncated)?;
    let (extra, rest) = rest
        .split_at_checked(extra_bytes)
        .ok_or(Reject::OperationTruncated)?;
    Ok((
        Part {
            kind: head.kind,
            flags: head.flags,
            key,
            value,
            extra,
        },
        rest,
    ))
}

impl<'a> Part<'a> {
    /// Refuses every encoding but the one that [`OperationsBuilder`] writes.
    fn require(&self, well_formed: bool) -> Result<(), Reject> {
        if well_formed {
            Ok(())
        } else {
            Err(Reject::OperationMalformed)
        }
    }

    fn condition(&self) -> Result<Condition<'a>, Reject> {
        self.require(self.flags == 0 && self.extra.is_empty() && !self.key.is_empty())?;
        match self.kind {
            IF_EQUALS => Ok(Condition::Equals {
                key: self.key,
                value: self.value,
            }),
            IF_ABSENT | IF_PRESENT => {
                self.require(self.value.is_empty())?;
                Ok(if self.kind == IF_ABSENT {
                    Condition::Absent { key: self.key }
                } else {
                    Condition::Present { key: self.key }
                })
            }
            _ => Err(Reject::OperationUnknown),
        }
    }

    /// What a transaction may contain: everything but transactions and scans.
    fn simple_operation(&self) -> Result<Operation<'a>, Reject> {
        match self.kind {
            PUT => {
                self.require(self.flags == 0 && self.extra.is_empty() && !self.key.is_empty())?;
                Ok(Operation::Put {
                    key: self.key,
                    value: self.value,
                })
            }
            GET | DELETE => {
                self.require(
                    self.flags == 0
                        && self.value.is_empty()
                        && self.extra.is_empty()
                        && !self.key.is_empty(),
                )?;
                Ok(if self.kind == GET {
                    Operation::Get { key: self.key }
                } else {
                    Operation::Delete { key: self.key }
                })
            }
            CAS => {
                self.require(self.flags & !EXPECTS_VALUE == 0 && !self.key.is_empty())?;
                let expects = self.flags & EXPECTS_VALUE != 0;
                self.require(expects || self.extra.is_empty())?;
                Ok(Operation::Cas {
                    key: self.key,
                    expected: expects.then_some(self.extra),
                    value: self.value,
                })
            }
            _ => Err(Reject::OperationUnknown),
        }
    }

    fn operation(&self) -> Result<Operation<'a>, Reject> {
        match self.kind {
            TXN => {
                self.require(self.flags == 0 && self.key.is_empty() && self.extra.is_empty())?;
                let (&[condition_count, operation_count], parts) =
                    self.value
                        .split_first_chunk()
                        .ok_or(Reject::OperationTruncated)?;
                if usize::from(condition_count) > TXN_PARTS_MAX
                    || usize::from(operation_count) > TXN_PARTS_MAX
                {
                    return Err(Reject::TxnTooManyParts);
                }
                let mut rest = parts;
                for _ in 0..condition_count {
                    let (part, after) = split(rest)?;
                    part.condition()?;
                    rest = after;
                }
                for _ in 0..operation_count {
                    let (part, after) = split(rest)?;
                    part.simple_operation()?;
                    rest = after;
                }
                self.require(rest.is_empty())?;
                Ok(Operation::Txn(Txn {
                    condition_count,
                    operation_count,
                    parts,
                }))
            }
            SCAN => {
                self.require(self.flags == 0 && self.extra.len() <= KEY_BYTES_MAX)?;
                let limit = U32::read_from_bytes(self.value)
                    .map_err(|_| Reject::OperationMalformed)?
                    .get();
                self.require(limit as usize <= SCAN_ENTRIES_MAX)?;
                Ok(Operation::Scan {
                    from: self.key,
                    to: self.extra,
                    limit,
                })
            }
            RECONFIGURE => {
                self.require(self.flags == 0 && self.key.is_empty() && self.extra.is_empty())?;
                let body = ChangeBody::read_from_bytes(self.value)
                    .map_err(|_| Reject::OperationMalformed)?;
                body.decode().map(Operation::Reconfigure)
            }
            _ => self.simple_operation(),
        }
    }
}

/// Checks that `bytes` are exactly `count` well-formed operations.
pub fn check(bytes: &[u8], count: usize) -> Result<(), Reject> {
    let mut rest = bytes;
    for _ in 0..count {
        let (part, after) = split(rest)?;
        part.operation()?;
        rest = after;
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(Reject::TrailingBytes)
    }
}

/// Iterates over operations; stops at the first malformed one, which checked bytes do not hold.
pub fn operations(bytes: &[u8]) -> impl Iterator<Item = Operation<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (part, after) = split(rest).ok()?;
        rest = after;
        part.operation().ok()
    })
}

/// Appends operations to a byte vector.
#[derive(Debug, Default)]
pub struct OperationsBuilder {
    bytes: Vec<u8>,
    count: usize,
}

impl OperationsBuilder {
    pub fn new() -> OperationsBuilder {
        OperationsBuilder::default()
    }

    /// The operations so far and their number.
    pub fn finish(self) -> (Vec<u8>, usize) {
        (self.bytes, self.count)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Forgets the operations, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }

    pub fn push(&mut self, operation: &Operation<'_>) {
        encode(&mut self.bytes, operation);
        self.count += 1;
    }

    /// A transaction of `conditions` and `operations`, neither more than `TXN_PARTS_MAX`.
    /// Scans and transactions may not be nested; they are refused when the request is checked.
    pub fn push_txn(&mut self, conditions: &[Condition<'_>], operations: &[Operation<'_>]) {
        assert!(conditions.len() <= TXN_PARTS_MAX && operations.len() <= TXN_PARTS_MAX);
        let mut parts = vec![conditions.len() as u8, operations.len() as u8];
        for condition in conditions {
            match *condition {
                Condition::Equals { key, value } => put(&mut parts, IF_EQUALS, 0, key, value, &[]),
                Condition::Absent { key } => put(&mut parts, IF_ABSENT, 0, key, &[], &[]),
                Condition::Present { key } => put(&mut parts, IF_PRESENT, 0, key, &[], &[]),
            }
        }
        for operation in operations {
            encode(&mut parts, operation);
        }
        put(&mut self.bytes, TXN, 0, &[], &parts, &[]);
        self.count += 1;
    }
}

fn encode(out: &mut Vec<u8>, operation: &Operation<'_>) {
    match *operation {
        Operation::Put { key, value } => put(out, PUT, 0, key, value, &[]),
        Operation::Get { key } => put(out, GET, 0, key, &[], &[]),
        Operation::Delete { key } => put(out, DELETE, 0, key, &[], &[]),
        Operation::Cas {
            key,
            expected,
            value,
        } => {
            let flags = if expected.is_some() { EXPECTS_VALUE } else { 0 };
            put(out, CAS, flags, key, value, expected.unwrap_or(&[]));
        }
        Operation::Scan { from, to, limit } => put(out, SCAN, 0, from, &limit.to_le_bytes(), to),
        Operation::Reconfigure(change) => {
            let body = ChangeBody::encode(&change);
            put(out, RECONFIGURE, 0, &[], body.as_bytes(), &[]);
        }
        Operation::Txn(txn) => {
            let mut parts = vec![txn.condition_count, txn.operation_count];
            parts.extend_from_slice(txn.parts);
            put(out, TXN, 0, &[], &parts, &[]);
        }
    }
}

fn put(out: &mut Vec<u8>, kind: u8, flags: u8, key: &[u8], value: &[u8], extra: &[u8]) {
    assert!(
        key.len() <= KEY_BYTES_MAX,
        "keys are at most {KEY_BYTES_MAX} bytes"
    );
    let head = Head {
        kind,
        flags,
        key_bytes: U16::new(key.len() as u16),
        value_bytes: U32::new(value.len() as u32),
        extra_bytes: U32::new(extra.len() as u32),
    };
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value);
    out.extend_from_slice(extra);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::RESULT_BYTES_MAX;

    #[test]
    fn operations_round_trip() {
        let mut builder = OperationsBuilder::new();
        let simple = [
            Operation::Put {
                key: b"a",
                value: b"1",
            },
            Operation::Get { key: b"a" },
            Operation::Delete { key: b"b" },
            Operation::Cas {
                key: b"c",
                expected: None,
                value: b"2",
            },
            Operation::Cas {
                key: b"c",
                expected: Some(b""),
                value: b"2",
            },
        ];
        let scan = Operation::Scan {
            from: b"",
            to: b"z",
            limit: 10,
        };
        for operation in simple.iter().chain([&scan]) {
            builder.push(operation);
        }
        let conditions = [
            Condition::Equals {
                key: b"k",
                value: b"v",
            },
            Condition::Absent { key: b"n" },
        ];
        builder.push_txn(&conditions, &simple);
        let (bytes, count) = builder.finish();
        assert_eq!(count, 7);
        check(&bytes, count).unwrap();
        let parsed: Vec<_> = operations(&bytes).collect();
        assert_eq!(&parsed[..5], &simple);
        assert_eq!(parsed[5], scan);
        let Operation::Txn(txn) = parsed[6] else {
            panic!("not a transaction")
        };
        assert_eq!(txn.conditions().collect::<Vec<_>>(), conditions);
        assert_eq!(txn.operations().collect::<Vec<_>>(), simple);
        assert_eq!(check(&bytes, 6), Err(Reject::TrailingBytes));
        for length in 0..bytes.len() {
            assert!(check(&bytes[..length], count).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn a_second_form_is_refused() {
        let mut builder = OperationsBuilder::new();
        builder.push(&Operation::Get { key: b"a" });
        let (mut bytes, count) = builder.finish();
        bytes[1] = 1;
        assert_eq!(check(&bytes, count), Err(Reject::OperationMalformed));
    }

    #[test]
    fn results_round_trip_and_stay_bounded() {
        let mut out = ResultBuffer::new();
        out.txn_begin();
        for value in [&b"x"[..], &vec![7; RESULT_BYTES_MAX]] {
            out.part_begin();
            out.value(value);
            out.part_end();
        }
        let Ok(Outcome::TxnDone(mut results)) = Outcome::parse(out.bytes()) else {
            panic!("not a transaction's result")
        };
        assert_eq!(results.next(), Some(Outcome::Value(b"x")));
        assert_eq!(results.next(), Some(Outcome::TooLarge));
        out.clear();
        out.entries_begin();
        while out.entry(b"key", &[1; 1000]) {}
        assert!(out.bytes().len() <= RESULT_BYTES_MAX);
        let Ok(Outcome::Entries(entries)) = Outcome::parse(out.bytes()) else {
            panic!("not a scan's result")
        };
        assert!(entries.more);
        assert!(entries.count() > 90);
    }
}
