//! The table of a simulated replica: in memory alone, or over a store on its disk.

use storage::state::{Bucketed, Malformed, Versions, View};
use storage::table::{Flushing, LsmTable, MapStore, MemTable, Table};
use wire::state::Bucket;

/// See the module's documentation.
#[derive(Debug)]
pub enum SimTable {
    Memory(MemTable),
    Disk(LsmTable<MapStore>),
}

impl SimTable {
    /// Every entry, in key order.
    pub fn entries(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        match self {
            SimTable::Memory(table) => {
                let entries = table.entries();
                entries.map(|(k, v)| (k.to_vec(), v.to_vec())).collect()
            }
            SimTable::Disk(table) => {
                let mut entries = Vec::new();
                table.visit(&[], None, &mut |key, value| {
                    entries.push((key.to_vec(), value.to_vec()));
                    true
                });
                entries
            }
        }
    }

    fn table(&self) -> &dyn Table {
        match self {
            SimTable::Memory(table) => table,
            SimTable::Disk(table) => table,
        }
    }

    fn table_mut(&mut self) -> &mut dyn Table {
        match self {
            SimTable::Memory(table) => table,
            SimTable::Disk(table) => table,
        }
    }
}

impl Table for SimTable {
    fn get(&mut self, key: &[u8]) -> Option<&[u8]> {
        self.table_mut().get(key)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.table_mut().put(key, value);
    }

    fn flushing(&mut self) -> Option<&mut dyn Flushing> {
        self.table_mut().flushing()
    }

    fn warm(&self, keys: &mut dyn Iterator<Item = &[u8]>) {
        self.table().warm(keys);
    }

    fn delete(&mut self, key: &[u8]) -> bool {
        self.table_mut().delete(key)
    }

    fn scan(
        &mut self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) {
        self.table_mut().scan(from, to, limit, visit);
    }

    fn len(&self) -> u64 {
        self.table().len()
    }

    fn bytes(&self) -> u64 {
        self.table().bytes()
    }
}

impl Bucketed for SimTable {
    fn versions(&self) -> &Versions {
        self.table().versions()
    }

    fn versions_mut(&mut self) -> &mut Versions {
        self.table_mut().versions_mut()
    }

    fn write_bucket(&mut self, view: View, bucket: Bucket, out: &mut Vec<u8>) {
        self.table_mut().write_bucket(view, bucket, out);
    }

    fn check_bucket(&self, bucket: Bucket, items: &[u8]) -> Result<(), Malformed> {
        self.table().check_bucket(bucket, items)
    }

    fn replace_bucket(&mut self, bucket: Bucket, items: &[u8]) {
        self.table_mut().replace_bucket(bucket, items);
    }
}
