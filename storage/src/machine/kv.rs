//! The key-value state machine.
//!
//! | operation | effect | result |
//! |---|---|---|
//! | put | sets the value | done |
//! | get | - | value, or absent |
//! | delete | removes the key | done, or absent |
//! | cas | sets the value iff the key holds `expected` (none: iff it is absent) | done, or mismatch with what the key holds |
//! | scan | - | the first `limit` entries of `from..to` in key order; `more` when the range goes on: the limit, or the next entry would pass `RESULT_BYTES_MAX` |
//! | txn | all operations in order iff all conditions hold on the state before it | one result for each operation, or refused with the index of the first condition that fails |
//!
//! Within a transaction an operation sees what those before it did. A cas that does not match
//! answers so and the rest still happens: put what must hold for all into the conditions. When the
//! results of a transaction would pass `RESULT_BYTES_MAX` it answers *too large* and nothing of it
//! happens; a transaction of puts and deletes alone never does.

use wire::limits::{RESULT_BYTES_MAX, SCAN_ENTRIES_MAX, TXN_PARTS_MAX};
use wire::ops::{Condition, Operation, Outcome, ResultBuffer, Txn};

use super::{StateMachine, is_read_only};
use crate::state::Bucketed;
use crate::table::{Flushing, Table};

/// Key-value semantics over a [`Table`].
#[derive(Debug)]
pub struct Kv<T> {
    table: T,
}

impl<T: Table> Kv<T> {
    pub fn new(table: T) -> Kv<T> {
        Kv { table }
    }

    /// The table acted on.
    pub fn table(&self) -> &T {
        &self.table
    }

    fn holds(&mut self, condition: &Condition<'_>) -> bool {
        match *condition {
            Condition::Equals { key, value } => self.table.get(key) == Some(value),
            Condition::Absent { key } => self.table.get(key).is_none(),
            Condition::Present { key } => self.table.get(key).is_some(),
        }
    }

    fn scan(&mut self, from: &[u8], to: &[u8], limit: u32, out: &mut ResultBuffer) {
        let limit = (limit as usize).min(SCAN_ENTRIES_MAX);
        out.entries_begin();
        let mut count = 0;
        let to = (!to.is_empty()).then_some(to);
        self.table.scan(from, to, limit + 1, &mut |key, value| {
            if count == limit {
                out.entries_more();
                return false;
            }
            count += 1;
            out.entry(key, value)
        });
    }

    /// Writes a transaction's result as if it had happened. Returns which of its cas operations
    /// match, or none if it must not happen.
    fn foresee(&mut self, txn: &Txn<'_>, out: &mut ResultBuffer) -> Option<Matched> {
        for (index, condition) in (0..).zip(txn.conditions()) {
            if !self.holds(&condition) {
                out.txn_refused(index);
                return None;
            }
        }
        let mut matched = Matched::default();
        out.txn_begin();
        for (index, operation) in txn.operations().enumerate() {
            let part = out.bytes().len() + size_of::<u32>();
            out.part_begin();
            match operation {
                Operation::Put { .. } => out.done(),
                Operation::Get { key } => match self.value_within(txn, index, matched, key) {
                    Some(value) => out.value(value),
                    None => out.absent(),
                },
                Operation::Delete { key } => match self.value_within(txn, index, matched, key) {
                    Some(_) => out.done(),
                    None => out.absent(),
                },
                Operation::Cas { key, expected, .. } => {
                    let current = self.value_within(txn, index, matched, key);
                    if current == expected {
                        matched.insert(index);
                        out.done();
                    } else {
                        out.mismatch(current);
                    }
                }
                // The codec lets none of them into a transaction.
                Operation::Scan { .. } | Operation::Txn(_) | Operation::Reconfigure(_) => {
                    out.absent();
                }
            }
            out.part_end();
            let too_large = Outcome::parse(&out.bytes()[part..]) == Ok(Outcome::TooLarge);
            if too_large || out.bytes().len() > RESULT_BYTES_MAX {
                out.clear();
                out.too_large();
                return None;
            }
        }
        Some(matched)
    }

    /// The value of `key` as the operation at `index` of a transaction sees it.
    fn value_within<'a>(
        &'a mut self,
        txn: &Txn<'a>,
        index: usize,
        matched: Matched,
        key: &[u8],
    ) -> Option<&'a [u8]> {
        // At most 64 short comparisons; the last write wins.
        let mut seen = None;
        for (at, operation) in txn.operations().take(index).enumerate() {
            match operation {
                Operation::Put {
                    key: written,
                    value,
                } if written == key => {
                    seen = Some(Some(value));
                }
                Operation::Cas {
                    key: written,
                    value,
                    ..
                } if written == key && matched.contains(at) => {
                    seen = Some(Some(value));
                }
                Operation::Delete { key: removed } if removed == key => seen = Some(None),
                _ => {}
            }
        }
        seen.unwrap_or_else(|| self.table.get(key))
    }

    fn txn(&mut self, txn: &Txn<'_>, out: &mut ResultBuffer) {
        let Some(matched) = self.foresee(txn, out) else {
            return;
        };
        for (index, operation) in txn.operations().enumerate() {
            match operation {
                Operation::Put { key, value } => {
                    self.table.put(key, value);
                }
                Operation::Cas { key, value, .. } if matched.contains(index) => {
                    self.table.put(key, value);
                }
                Operation::Delete { key } => {
                    self.table.delete(key);
                }
                _ => {}
            }
        }
    }
}

/// Which operations of a transaction are cas operations that match: one bit each.
#[derive(Clone, Copy, Debug, Default)]
struct Matched(u64);

const _: () = assert!(TXN_PARTS_MAX <= u64::BITS as usize);

impl Matched {
    fn insert(&mut self, index: usize) {
        self.0 |= 1 << index;
    }

    fn contains(self, index: usize) -> bool {
        self.0 & (1 << index) != 0
    }
}

impl<T: Table> StateMachine for Kv<T> {
    fn warm(&self, operations: &mut dyn Iterator<Item = Operation<'_>>) {
        self.table
            .warm(&mut operations.filter_map(|operation| match operation {
                Operation::Put { key, .. }
                | Operation::Get { key }
                | Operation::Delete { key }
                | Operation::Cas { key, .. } => Some(key),
                Operation::Scan { .. } | Operation::Txn(_) | Operation::Reconfigure(_) => None,
            }));
    }

    fn apply(&mut self, operation: &Operation<'_>, out: &mut ResultBuffer) {
        match *operation {
            Operation::Put { key, value } => {
                self.table.put(key, value);
                out.done();
            }
            Operation::Delete { key } => {
                if self.table.delete(key) {
                    out.done();
                } else {
                    out.absent();
                }
            }
            Operation::Cas {
                key,
                expected,
                value,
            } => {
                let current = self.table.get(key);
                if current == expected {
                    self.table.put(key, value);
                    out.done();
                } else {
                    out.mismatch(current);
                }
            }
            Operation::Txn(txn) => self.txn(&txn, out),
            Operation::Get { .. } | Operation::Scan { .. } => {
                let answered = self.read(operation, out);
                assert!(answered, "gets and scans are read-only");
            }
            Operation::Reconfigure(_) => out.absent(),
        }
    }

    fn read(&mut self, operation: &Operation<'_>, out: &mut ResultBuffer) -> bool {
        if !is_read_only(operation) {
            return false;
        }
        match *operation {
            Operation::Get { key } => match self.table.get(key) {
                Some(value) => out.value(value),
                None => out.absent(),
            },
            Operation::Scan { from, to, limit } => self.scan(from, to, limit, out),
            Operation::Txn(txn) => {
                self.foresee(&txn, out);
            }
            Operation::Put { .. }
            | Operation::Delete { .. }
            | Operation::Cas { .. }
            | Operation::Reconfigure(_) => {}
        }
        true
    }

    fn keys(&self) -> u64 {
        self.table.len()
    }

    fn bytes(&self) -> u64 {
        self.table.bytes()
    }

    fn state(&self) -> Option<&dyn Bucketed> {
        Some(&self.table)
    }

    fn flushing(&mut self) -> Option<&mut dyn Flushing> {
        self.table.flushing()
    }

    fn state_mut(&mut self) -> Option<&mut dyn Bucketed> {
        Some(&mut self.table)
    }
}
