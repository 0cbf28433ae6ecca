//! Results of operations, as bytes; written by state machines, read in place by clients.

use zerocopy::FromBytes;
use zerocopy::little_endian::{U16, U32};

use crate::limits::RESULT_BYTES_MAX;
use crate::reject::Reject;

/// The result of one operation, borrowed from the bytes that carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// Put or delete was done, or cas succeeded.
    Done,
    Value(&'a [u8]),
    /// The key of a get or delete is absent.
    Absent,
    /// A cas found this instead of what it expected.
    Mismatch(Option<&'a [u8]>),
    /// The condition of this index did not hold; nothing was done.
    TxnRefused(u16),
    TxnDone(TxnResults<'a>),
    Entries(Entries<'a>),
    /// The result would have been larger than `RESULT_BYTES_MAX`; a transaction was not executed.
    TooLarge,
}

const DONE: u8 = 0;
const VALUE: u8 = 1;
const ABSENT: u8 = 2;
const MISMATCH: u8 = 3;
const MISMATCH_ABSENT: u8 = 4;
const TXN_REFUSED: u8 = 5;
const TXN_DONE: u8 = 6;
const ENTRIES: u8 = 7;
const ENTRIES_MORE: u8 = 8;
const TOO_LARGE: u8 = 9;

impl<'a> Outcome<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Outcome<'a>, Reject> {
        let (&code, rest) = bytes.split_first().ok_or(Reject::ResultMalformed)?;
        let bare = |outcome| {
            if rest.is_empty() {
                Ok(outcome)
            } else {
                Err(Reject::ResultMalformed)
            }
        };
        match code {
            DONE => bare(Outcome::Done),
            VALUE => Ok(Outcome::Value(rest)),
            ABSENT => bare(Outcome::Absent),
            MISMATCH => Ok(Outcome::Mismatch(Some(rest))),
            MISMATCH_ABSENT => bare(Outcome::Mismatch(None)),
            TXN_REFUSED => {
                let index = U16::read_from_bytes(rest).map_err(|_| Reject::ResultMalformed)?;
                Ok(Outcome::TxnRefused(index.get()))
            }
            TXN_DONE => Ok(Outcome::TxnDone(TxnResults(rest))),
            ENTRIES => Ok(Outcome::Entries(Entries {
                bytes: rest,
                more: false,
            })),
            ENTRIES_MORE => Ok(Outcome::Entries(Entries {
                bytes: rest,
                more: true,
            })),
            TOO_LARGE => bare(Outcome::TooLarge),
            _ => Err(Reject::ResultMalformed),
        }
    }
}

/// Results of a transaction's operations, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxnResults<'a>(&'a [u8]);

impl<'a> Iterator for TxnResults<'a> {
    type Item = Outcome<'a>;

    fn next(&mut self) -> Option<Outcome<'a>> {
        let (length, rest) = U32::read_from_prefix(self.0).ok()?;
        let (result, rest) = rest.split_at_checked(length.get() as usize)?;
        self.0 = rest;
        Outcome::parse(result).ok()
    }
}

/// Entries of a scan, in key order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entries<'a> {
    bytes: &'a [u8],
    /// The range holds more entries than were returned.
    pub more: bool,
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (key_bytes, rest) = U16::read_from_prefix(self.bytes).ok()?;
        let (value_bytes, rest) = U32::read_from_prefix(rest).ok()?;
        let (key, rest) = rest.split_at_checked(usize::from(key_bytes.get()))?;
        let (value, rest) = rest.split_at_checked(value_bytes.get() as usize)?;
        self.bytes = rest;
        Some((key, value))
    }
}

/// Where a state machine writes the result of one operation; its memory is taken once.
#[derive(Debug)]
pub struct ResultBuffer {
    bytes: Vec<u8>,
    /// Start of the transaction result being written.
    part: usize,
}

impl Default for ResultBuffer {
    fn default() -> Self {
        ResultBuffer::new()
    }
}

impl ResultBuffer {
    pub fn new() -> ResultBuffer {
        ResultBuffer {
            bytes: Vec::with_capacity(RESULT_BYTES_MAX + 1024),
            part: 0,
        }
    }

    /// The encoded result.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.part = 0;
    }

    /// False, with nothing written, when `more` bytes would pass the bound.
    fn fits(&self, more: usize) -> bool {
        self.bytes.len() + more <= RESULT_BYTES_MAX
    }

    pub fn done(&mut self) {
        self.bytes.push(DONE);
    }

    pub fn absent(&mut self) {
        self.bytes.push(ABSENT);
    }

    pub fn too_large(&mut self) {
        self.bytes.truncate(self.part);
        self.bytes.push(TOO_LARGE);
    }

    pub fn value(&mut self, value: &[u8]) {
        if !self.fits(1 + value.len()) {
            return self.too_large();
        }
        self.bytes.push(VALUE);
        self.bytes.extend_from_slice(value);
    }

    pub fn mismatch(&mut self, current: Option<&[u8]>) {
        match current {
            None => self.bytes.push(MISMATCH_ABSENT),
            Some(value) if self.fits(1 + value.len()) => {
                self.bytes.push(MISMATCH);
                self.bytes.extend_from_slice(value);
            }
            Some(_) => self.too_large(),
        }
    }

    pub fn txn_refused(&mut self, condition: u16) {
        self.bytes.push(TXN_REFUSED);
        self.bytes.extend_from_slice(&condition.to_le_bytes());
    }

    /// Opens the result of a transaction; each part follows between `part_begin` and `part_end`.
    pub fn txn_begin(&mut self) {
        self.bytes.push(TXN_DONE);
    }

    pub fn part_begin(&mut self) {
        self.bytes.extend_from_slice(&[0; 4]);
        self.part = self.bytes.len();
    }

    pub fn part_end(&mut self) {
        let length = (self.bytes.len() - self.part) as u32;
        self.bytes[self.part - 4..self.part].copy_from_slice(&length.to_le_bytes());
        self.part = 0;
    }

    pub fn entries_begin(&mut self) {
        self.bytes.push(ENTRIES);
    }

    /// Appends an entry, or marks the result as continued and returns false when it does not fit.
    pub fn entry(&mut self, key: &[u8], value: &[u8]) -> bool {
        if !self.fits(6 + key.len() + value.len()) {
            self.entries_more();
            return false;
        }
        self.bytes
            .extend_from_slice(&(key.len() as u16).to_le_bytes());
        self.bytes
            .extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        true
    }

    /// Marks a scan's result as cut by its limit.
    pub fn entries_more(&mut self) {
        self.bytes[self.part] = ENTRIES_MORE;
    }
}
