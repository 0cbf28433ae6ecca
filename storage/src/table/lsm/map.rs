//! A store in memory, for the simulator and for tests: what a run changes becomes visible when it is
//! finished, as on a disk.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::rc::Rc;

use super::store::{Run, Store};

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// See the module's documentation. Clones are handles of one store.
#[derive(Clone, Debug, Default)]
pub struct MapStore(Rc<RefCell<Entries>>);

impl MapStore {
    /// Another store that holds the same.
    pub fn copy(&self) -> MapStore {
        MapStore(Rc::new(RefCell::new(self.0.borrow().clone())))
    }

    /// Begins a run.
    pub fn run(&self) -> MapRun {
        MapRun {
            store: self.clone(),
            changes: Vec::new(),
        }
    }
}

impl Store for MapStore {
    fn get(&self, key: &[u8], value: &mut Vec<u8>) -> bool {
        let entries = self.0.borrow();
        let found = entries.get(key);
        found.iter().for_each(|held| value.extend_from_slice(held));
        found.is_some()
    }

    fn range(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        let entries = self.0.borrow();
        for (key, value) in entries.range(from.to_vec()..to.to_vec()) {
            if !visit(key, value) {
                return;
            }
        }
    }
}

/// Changes of a run that is not finished yet.
#[derive(Debug)]
pub struct MapRun {
    store: MapStore,
    changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl MapRun {
    fn push(&mut self, key: &[u8], value: Option<&[u8]>) {
        let last = self.changes.last();
        assert!(last.is_none_or(|(last, _)| &last[..] < key), "runs ascend");
        self.changes.push((key.to_vec(), value.map(<[u8]>::to_vec)));
    }
}

impl Run for MapRun {
    type Error = Infallible;

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Infallible> {
        self.push(key, Some(value));
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), Infallible> {
        self.push(key, None);
        Ok(())
    }

    fn finish(self) -> Result<(), Infallible> {
        let mut entries = self.store.0.borrow_mut();
        for (key, value) in self.changes {
            match value {
                Some(value) => entries.insert(key, value),
                None => entries.remove(&key),
            };
        }
        Ok(())
    }
}
