//! One of the two tables, chosen when a replica starts.

use wire::state::{Bucket, Cell, CellMask};

use super::{Flushing, LsmTable, MemTable, Store, Table};
use crate::state::{Bucketed, CellItems, Malformed, Versions, View};

/// A table in memory alone, or over a store; a match costs less than a virtual call.
#[derive(Debug)]
pub enum EitherTable<S> {
    Memory(MemTable),
    Disk(LsmTable<S>),
}

/// Calls the same method of whichever table there is.
macro_rules! each {
    ($this:expr, $table:ident => $call:expr) => {
        match $this {
            EitherTable::Memory($table) => $call,
            EitherTable::Disk($table) => $call,
        }
    };
}

impl<S: Store> EitherTable<S> {
    /// Calls `visit` with every entry in key order until it returns false.
    pub fn visit(&self, visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        match self {
            EitherTable::Memory(table) => {
                table.entries().all(|(key, value)| visit(key, value));
            }
            EitherTable::Disk(table) => table.visit(&[], None, visit),
        }
    }
}

impl<S: Store> Table for EitherTable<S> {
    fn get(&mut self, key: &[u8]) -> Option<&[u8]> {
        each!(self, table => table.get(key))
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        each!(self, table => table.put(key, value));
    }

    fn flushing(&mut self) -> Option<&mut dyn Flushing> {
        each!(self, table => table.flushing())
    }

    fn warm(&self, keys: &mut dyn Iterator<Item = &[u8]>) {
        each!(self, table => table.warm(keys));
    }

    fn delete(&mut self, key: &[u8]) -> bool {
        each!(self, table => table.delete(key))
    }

    fn scan(
        &mut self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) {
        each!(self, table => table.scan(from, to, limit, visit));
    }

    fn len(&self) -> u64 {
        each!(self, table => table.len())
    }

    fn bytes(&self) -> u64 {
        each!(self, table => table.bytes())
    }
}

impl<S: Store> Bucketed for EitherTable<S> {
    fn versions(&self) -> &Versions {
        each!(self, table => table.versions())
    }

    fn versions_mut(&mut self) -> &mut Versions {
        each!(self, table => table.versions_mut())
    }

    fn write_cells(&mut self, view: View, bucket: Bucket, mask: &CellMask, out: &mut CellItems) {
        each!(self, table => table.write_cells(view, bucket, mask, out));
    }

    fn check_cell(&self, cell: Cell, items: &[u8]) -> Result<(), Malformed> {
        each!(self, table => table.check_cell(cell, items))
    }

    fn replace_bucket(&mut self, bucket: Bucket, items: &[u8]) {
        each!(self, table => table.replace_bucket(bucket, items));
    }
}
