//! The state machine that the committee chose.

use storage::machine::{Kv, Noop, StateMachine};
use storage::state::Bucketed;
use storage::table::{DiskStore, EitherTable, Flushing, LsmTable, MemTable};
use wire::committee;
use wire::ops::{Operation, ResultBuffer};

/// One of the built-in state machines; a match costs less than a virtual call.
pub enum Machine {
    Kv(Box<Kv<EitherTable<DiskStore>>>),
    Noop(Noop),
}

impl Machine {
    /// In memory, with room for so many keys. `seed`: random, so that clients cannot choose
    /// colliding keys.
    pub fn new(choice: committee::StateMachine, seed: [u64; 2], keys: usize) -> Machine {
        match choice {
            committee::StateMachine::Kv => {
                Machine::of(EitherTable::Memory(MemTable::with_capacity(seed, keys)))
            }
            committee::StateMachine::Noop => Machine::Noop(Noop),
        }
    }

    /// Keys and values over what is in a store; so many bytes of them are in memory at most.
    pub fn over(store: DiskStore, seed: [u64; 2], memory_bytes_max: u64) -> Machine {
        Machine::of(EitherTable::Disk(LsmTable::reopen(
            seed,
            store,
            memory_bytes_max,
        )))
    }

    fn of(table: EitherTable<DiskStore>) -> Machine {
        Machine::Kv(Box::new(Kv::new(table)))
    }
}

impl StateMachine for Machine {
    fn warm(&self, operations: &mut dyn Iterator<Item = Operation<'_>>) {
        match self {
            Machine::Kv(kv) => kv.warm(operations),
            Machine::Noop(noop) => noop.warm(operations),
        }
    }

    fn apply(&mut self, operation: &Operation<'_>, out: &mut ResultBuffer) {
        match self {
            Machine::Kv(kv) => kv.apply(operation, out),
            Machine::Noop(noop) => noop.apply(operation, out),
        }
    }

    fn read(&mut self, operation: &Operation<'_>, out: &mut ResultBuffer) -> bool {
        match self {
            Machine::Kv(kv) => kv.read(operation, out),
            Machine::Noop(noop) => noop.read(operation, out),
        }
    }

    fn flushing(&mut self) -> Option<&mut dyn Flushing> {
        match self {
            Machine::Kv(kv) => kv.flushing(),
            Machine::Noop(noop) => noop.flushing(),
        }
    }

    fn state(&self) -> Option<&dyn Bucketed> {
        match self {
            Machine::Kv(kv) => kv.state(),
            Machine::Noop(noop) => noop.state(),
        }
    }

    fn state_mut(&mut self) -> Option<&mut dyn Bucketed> {
        match self {
            Machine::Kv(kv) => kv.state_mut(),
            Machine::Noop(noop) => noop.state_mut(),
        }
    }

    fn keys(&self) -> u64 {
        match self {
            Machine::Kv(kv) => kv.keys(),
            Machine::Noop(noop) => noop.keys(),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Machine::Kv(kv) => kv.bytes(),
            Machine::Noop(noop) => noop.bytes(),
        }
    }
}
