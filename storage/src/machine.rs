//! State machines: what decided operations do, and what they answer.
//!
//! `apply` is deterministic: it reads nothing but the operation and the state, so every replica
//! gets the same state and the same result. Results are bounded by `RESULT_BYTES_MAX`.

mod kv;

use wire::ops::{Operation, ResultBuffer};

use crate::state::Bucketed;
use crate::table::Flushing;

pub use kv::Kv;

/// What decided operations act on.
pub trait StateMachine {
    /// Executes one decided operation and writes its result to `out`, which is empty.
    fn apply(&mut self, operation: &Operation<'_>, out: &mut ResultBuffer);

    /// Told of operations that are applied next, before the first of them: a chance to bring what
    /// they need into the cache.
    fn warm(&self, operations: &mut dyn Iterator<Item = Operation<'_>>) {
        let _ = operations;
    }

    /// Answers a read-only operation from the present state; `out` is empty. False, with nothing
    /// written, for an operation that could write ([`is_read_only`]).
    fn read(&mut self, operation: &Operation<'_>, out: &mut ResultBuffer) -> bool;

    /// Keys held.
    fn keys(&self) -> u64;

    /// Bytes of state.
    fn bytes(&self) -> u64;

    /// The state as checkpoints and transfers see it; none for a machine without state. All that
    /// `apply` reads or writes must be in there, and a machine that wraps another passes this on.
    fn state(&self) -> Option<&dyn Bucketed> {
        None
    }

    /// As [`Table::flushing`](crate::table::Table::flushing).
    fn flushing(&mut self) -> Option<&mut dyn Flushing> {
        None
    }

    /// As [`StateMachine::state`].
    fn state_mut(&mut self) -> Option<&mut dyn Bucketed> {
        None
    }
}

/// Whether an operation cannot change any state: get, scan, and transactions of gets alone.
pub fn is_read_only(operation: &Operation<'_>) -> bool {
    match operation {
        Operation::Get { .. } | Operation::Scan { .. } => true,
        Operation::Put { .. }
        | Operation::Delete { .. }
        | Operation::Cas { .. }
        | Operation::Reconfigure(_) => false,
        Operation::Txn(txn) => txn
            .operations()
            .all(|part| matches!(part, Operation::Get { .. })),
    }
}

/// Does nothing and answers *done*: measures ordering alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Noop;

impl StateMachine for Noop {
    fn apply(&mut self, _: &Operation<'_>, out: &mut ResultBuffer) {
        out.done();
    }

    fn read(&mut self, operation: &Operation<'_>, out: &mut ResultBuffer) -> bool {
        let answered = is_read_only(operation);
        if answered {
            out.done();
        }
        answered
    }

    fn keys(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        0
    }
}
