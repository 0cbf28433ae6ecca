//! A store in memory, for the simulator and for tests: what a run changes becomes visible when it is
//! finished, as on a disk.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::rc::Rc;

use super::store::{AsOf, Run, Store};

/// Values of a key, oldest first, each with the number of the run that wrote it; none: deleted.
type History = Vec<(u64, Option<Vec<u8>>)>;

#[derive(Clone, Debug, Default)]
struct Content {
    entries: BTreeMap<Vec<u8>, History>,
    runs: u64,
}

/// See the module's documentation. Clones are handles of one store.
#[derive(Clone, Debug, Default)]
pub struct MapStore(Rc<RefCell<Content>>);

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

/// The value as of a run.
fn shown(history: &History, as_of: AsOf) -> Option<&[u8]> {
    let (_, value) = history.iter().rfind(|(run, _)| *run <= as_of.0)?;
    value.as_deref()
}

impl Store for MapStore {
    fn newest(&self) -> AsOf {
        AsOf(self.0.borrow().runs)
    }

    fn get(&self, as_of: AsOf, key: &[u8], value: &mut Vec<u8>) -> bool {
        let content = self.0.borrow();
        let found = content.entries.get(key);
        let found = found.and_then(|history| shown(history, as_of));
        found.iter().for_each(|held| value.extend_from_slice(held));
        found.is_some()
    }

    fn range(
        &self,
        as_of: AsOf,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) {
        let content = self.0.borrow();
        for (key, history) in content.entries.range(from.to_vec()..to.to_vec()) {
            if let Some(value) = shown(history, as_of)
                && !visit(key, value)
            {
                return;
            }
        }
    }

    fn forget_before(&self, oldest: AsOf) {
        self.0.borrow_mut().entries.retain(|_, history| {
            let first = history.iter().rposition(|(run, _)| *run <= oldest.0);
            history.drain(..first.unwrap_or(0));
            history.len() > 1 || history.iter().any(|(_, value)| value.is_some())
        });
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

    fn before(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), Infallible> {
        let mut all = |key: &[u8], value: &[u8]| {
            visit(key, value);
            true
        };
        self.store.range(self.store.newest(), from, to, &mut all);
        Ok(())
    }

    fn finish(self) -> Result<(), Infallible> {
        let mut content = self.store.0.borrow_mut();
        content.runs += 1;
        let run = content.runs;
        for (key, value) in self.changes {
            content.entries.entry(key).or_default().push((run, value));
        }
        Ok(())
    }
}
