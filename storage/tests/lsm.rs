//! The table over a store against a `BTreeMap`: random operations, checkpoints, flushes, evictions,
//! crashes and reopenings. The store is a map in memory that a run changes at once, or a real one.

use std::cell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::rc::Rc;

use proptest::prelude::*;
use storage::Table;
use storage::state::{Bucketed, Checkpoints, Hold, Parts, Unserved, split};
use storage::table::{
    AsOf, DiskFailed, DiskStore, Flush, Flushing, LsmTable, MapStore, MemTable, Run, Store,
    write_note,
};
use wire::ids::{Instant, Slot};
use wire::state::{Bucket, Cell, Part, StateHead};

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// A store under test.
trait Backing: Store {
    /// Another handle of the same store.
    fn share(&self) -> Self;

    /// As after the end of the process.
    fn reopen(&mut self);

    fn write(&self, pieces: &[Vec<u8>]);
}

fn write_run<R: Run>(run: R, pieces: &[Vec<u8>]) -> Result<(), R::Error> {
    let mut flush = Flush::new(run);
    for piece in pieces {
        flush.add(piece)?;
    }
    flush.finish()
}

impl Backing for MapStore {
    fn share(&self) -> MapStore {
        self.clone()
    }

    fn reopen(&mut self) {}

    fn write(&self, pieces: &[Vec<u8>]) {
        write_run(self.run(), pieces).unwrap();
    }
}

/// A directory of this test that goes with it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("hippo-lsm-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A store on disk.
struct OnDisk {
    open: Option<DiskStore>,
    directory: Rc<Directory>,
}

fn broken(error: DiskFailed) -> ! {
    panic!("{error}")
}

impl OnDisk {
    fn new(name: &str) -> OnDisk {
        let mut made = OnDisk {
            open: None,
            directory: Rc::new(Directory::new(name)),
        };
        made.reopen();
        made
    }

    fn store(&self) -> &DiskStore {
        self.open.as_ref().unwrap()
    }
}

impl Store for OnDisk {
    fn newest(&self) -> AsOf {
        self.store().newest()
    }

    fn get(&self, as_of: AsOf, key: &[u8], value: &mut Vec<u8>) -> bool {
        self.store().get(as_of, key, value)
    }

    fn range(
        &self,
        as_of: AsOf,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) {
        self.store().range(as_of, from, to, visit);
    }

    fn forget_before(&self, oldest: AsOf) {
        self.store().forget_before(oldest);
    }
}

impl Backing for OnDisk {
    fn share(&self) -> OnDisk {
        OnDisk {
            open: self.open.clone(),
            directory: Rc::clone(&self.directory),
        }
    }

    fn reopen(&mut self) {
        self.open = None;
        self.open = Some(DiskStore::open(&self.directory.0, 1 << 16, broken).unwrap());
    }

    fn write(&self, pieces: &[Vec<u8>]) {
        write_run(self.store().run().unwrap(), pieces).unwrap();
        self.store().compact().unwrap();
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put {
        key: usize,
        value_bytes: usize,
        byte: u8,
    },
    Delete(usize),
    Get(usize),
    Scan {
        from: usize,
        to: usize,
        limit: usize,
    },
    /// Freezes the state, to be pinned if nothing is.
    Freeze,
    /// Hashes so many buckets' worth.
    Hash(usize),
    /// Begins a flush of the pinned checkpoint, or goes on with so many pieces.
    Flush(usize),
    Evict(usize),
    /// What was not flushed is lost.
    Crash,
    Replace {
        bucket: usize,
        keep: usize,
    },
}

const KEYS: usize = 60;

/// Few enough keys that they meet again; some share a bucket.
fn key(number: usize) -> Vec<u8> {
    thread_local! {
        static KEYS_OF_FEW_BUCKETS: Vec<Vec<u8>> = {
            let keys = (0_u32..).map(|number| number.to_be_bytes().to_vec());
            // A sixth of them in two cells.
            let (mut scattered, mut crowded) = (0, 0);
            let few = keys.filter(|key| {
                let cell = Cell::of_key(key);
                if cell.bucket().number() == 3 && cell.index() < 2 {
                    crowded += 1;
                    return crowded <= KEYS / 6;
                }
                scattered += usize::from(cell.bucket().number() < 6);
                cell.bucket().number() < 6 && scattered <= KEYS - KEYS / 6
            });
            few.take(KEYS).collect()
        };
    }
    KEYS_OF_FEW_BUCKETS.with(|keys| keys[number % KEYS].clone())
}

fn step() -> impl Strategy<Value = Step> {
    let value_bytes = prop_oneof![6 => 0..100_usize, 1 => 0..3000_usize];
    prop_oneof![
        20 => (0..KEYS, value_bytes, any::<u8>())
            .prop_map(|(key, value_bytes, byte)| Step::Put { key, value_bytes, byte }),
        8 => (0..KEYS).prop_map(Step::Delete),
        8 => (0..KEYS).prop_map(Step::Get),
        3 => (0..KEYS, 0..KEYS, 0..20_usize)
            .prop_map(|(from, to, limit)| Step::Scan { from, to, limit }),
        4 => Just(Step::Freeze),
        4 => (0..4_usize).prop_map(Step::Hash),
        8 => (0..5_usize).prop_map(Step::Flush),
        4 => (0..8000_usize).prop_map(Step::Evict),
        1 => Just(Step::Crash),
        1 => (0..6_usize, 0..KEYS).prop_map(|(bucket, keep)| Step::Replace { bucket, keep }),
    ]
}

/// A table, its store, and what both should hold.
struct World<B: Backing> {
    table: Option<LsmTable<B>>,
    store: B,
    sessions: MemTable,
    checkpoints: Checkpoints,
    present: Entries,
    /// As of the last freeze.
    frozen: Entries,
    pinned: Option<(Slot, Entries)>,
    stored: Entries,
    /// Pieces of the flush under way.
    flush: Option<Vec<Vec<u8>>>,
    /// The flush is on disk, and the table does not know yet.
    finished: bool,
    slot: u64,
    memory_bytes_max: u64,
}

impl<B: Backing> World<B> {
    fn new(store: B, memory_bytes_max: u64) -> World<B> {
        World {
            table: Some(LsmTable::new([1, 2], store.share(), memory_bytes_max)),
            store,
            sessions: MemTable::new([3, 4]),
            checkpoints: Checkpoints::new(),
            present: Entries::new(),
            frozen: Entries::new(),
            pinned: None,
            stored: Entries::new(),
            flush: None,
            finished: false,
            slot: 0,
            memory_bytes_max,
        }
    }

    fn with<T>(&mut self, run: impl FnOnce(&mut Checkpoints, &mut Parts<'_>) -> T) -> T {
        let mut parts = Parts {
            machine: Some(self.table.as_mut().unwrap()),
            sessions: &mut self.sessions,
        };
        run(&mut self.checkpoints, &mut parts)
    }

    fn table(&mut self) -> &mut LsmTable<B> {
        self.table.as_mut().unwrap()
    }

    fn freeze(&mut self) {
        // As the replica does: what was begun is hashed before the next.
        self.hash(usize::MAX);
        if self.pinned.is_none() {
            let next = Slot(self.slot + 1);
            let pinned = self.with(|checkpoints, parts| checkpoints.pin(Hold::Open, next, parts));
            // The last one, where it can still be seen whole, or the next.
            if pinned.slot != next {
                self.pinned = Some((pinned.slot, self.frozen.clone()));
            }
        }
        self.slot += 1;
        let head = StateHead::new(Slot(self.slot), 0, 0);
        self.with(|checkpoints, parts| checkpoints.begin(head, parts));
        self.frozen = self.present.clone();
        if self.pinned.is_none() {
            self.pinned = Some((Slot(self.slot), self.present.clone()));
        }
    }

    /// Hashes; a root that comes of it is the one of a table in memory.
    fn hash(&mut self, buckets: usize) {
        for _ in 0..buckets {
            if !self.with(|checkpoints, parts| checkpoints.work(1, parts)) {
                break;
            }
        }
        while let Some((slot, root)) = self.checkpoints.take_root() {
            assert_eq!(slot, Slot(self.slot));
            let mut machine = MemTable::new([5, 6]);
            let mut checkpoints = Checkpoints::new();
            for (key, value) in &self.frozen {
                machine.put(key, value);
            }
            let mut parts = Parts {
                machine: Some(&mut machine),
                sessions: &mut MemTable::new([7, 8]),
            };
            checkpoints.begin(StateHead::new(slot, 0, 0), &mut parts);
            checkpoints.finish(&mut parts);
            assert_eq!(checkpoints.take_root(), Some((slot, root)));
        }
    }

    /// The pinned checkpoint holds what it held.
    fn look_at_pin(&mut self) {
        let Some((slot, entries)) = self.pinned.clone() else {
            return;
        };
        self.hash(usize::MAX);
        let mut found = Entries::new();
        for bucket in Bucket::all().take(6) {
            let part = Part::Piece { bucket, index: 0 };
            let mut bytes = Vec::new();
            let served =
                self.with(|checkpoints, parts| checkpoints.serve(slot, part, parts, &mut bytes));
            assert!(matches!(served, Ok(()) | Err(Unserved::NoSuchPart)));
            let (machine, _) = split(&bytes).unwrap();
            let mut rest = machine.bytes();
            while !rest.is_empty() {
                let key_bytes = usize::from(u16::from_le_bytes([rest[0], rest[1]]));
                let value_bytes = u32::from_le_bytes(rest[2..6].try_into().unwrap()) as usize;
                let (key, after) = rest[6..].split_at(key_bytes);
                let (value, after) = after.split_at(value_bytes);
                found.insert(key.to_vec(), value.to_vec());
                rest = after;
            }
        }
        assert_eq!(found, entries, "the pinned checkpoint");
    }

    fn flush(&mut self, pieces: usize) {
        let Some((_, entries)) = &self.pinned else {
            return;
        };
        if self.finished {
            self.look_at_pin();
            self.table().flush_end();
            let now = Instant(0);
            self.with(|checkpoints, parts| checkpoints.close(now, parts));
            (self.pinned, self.finished) = (None, false);
            return;
        }
        if self.flush.is_none() {
            self.table.as_mut().unwrap().flush_begin();
            self.flush = Some(Vec::new());
        }
        for _ in 0..pieces {
            let mut piece = Vec::new();
            if self.table.as_mut().unwrap().flush_next(&mut piece) {
                self.flush.as_mut().unwrap().push(piece);
                continue;
            }
            let slot = self.slot.to_le_bytes();
            let mut pieces = self.flush.take().unwrap();
            write_note(b"slot", &slot, &mut piece);
            pieces.push(piece);
            self.store.write(&pieces);
            self.stored = entries.clone();
            self.finished = true;
            self.check_store();
            return;
        }
    }

    fn check_store(&self) {
        let mut expected = Entries::new();
        for (key, value) in &self.stored {
            let cell = Cell::of_key(key);
            let bucket = cell.bucket().number().to_be_bytes();
            let place = [&[1][..], &bucket, &[cell.index()], key].concat();
            expected.insert(place, value.clone());
            expected.insert([&[2][..], key].concat(), Vec::new());
        }
        let mut held = Entries::new();
        self.store
            .range(self.store.newest(), &[], &[3], &mut |key, value| {
                held.insert(key.to_vec(), value.to_vec());
                true
            });
        assert_eq!(held, expected, "the store");
    }

    fn crash(&mut self) {
        self.table = None;
        self.store.reopen();
        let (store, max) = (self.store.share(), self.memory_bytes_max);
        self.table = Some(LsmTable::reopen([9, 9], store, max));
        self.checkpoints = Checkpoints::new();
        self.sessions = MemTable::new([3, 4]);
        self.present = self.stored.clone();
        self.frozen = self.stored.clone();
        (self.pinned, self.flush, self.finished) = (None, None, false);
        let mut counts = vec![[0_u64; 2]; wire::state::BUCKETS];
        for (key, value) in &self.stored {
            let [keys, bytes] = &mut counts[Bucket::of_key(key).index()];
            *keys += 1;
            *bytes += (key.len() + value.len()) as u64;
        }
        let note: Vec<u8> = counts
            .concat()
            .into_iter()
            .flat_map(u64::to_le_bytes)
            .collect();
        assert!(self.table().recount(&note));
        let mut again = Vec::new();
        self.table().counts(&mut again);
        assert_eq!(again, note);
        assert_eq!(self.table().len(), self.present.len() as u64);
        // The tree of a state begins empty: all buckets are hashed once.
        for bucket in Bucket::all() {
            for index in 0..=u8::MAX {
                let cell = Cell::new(bucket, index);
                self.table().versions_mut().added(cell);
            }
        }
    }

    fn replace(&mut self, bucket: usize, keep: usize) {
        // A state is installed only where nothing is pinned.
        if self.pinned.is_some() {
            return;
        }
        let bucket = Bucket::new(bucket as u16).unwrap();
        let mut items = Vec::new();
        self.present
            .retain(|held, _| Bucket::of_key(held) != bucket);
        let mut keys: Vec<_> = (0..KEYS).map(key).collect();
        keys.sort_unstable_by_key(|key| (Cell::of_key(key), key.clone()));
        for key in keys.iter().skip(keep) {
            if Bucket::of_key(key) == bucket {
                items.extend((key.len() as u16).to_le_bytes());
                items.extend(3_u32.to_le_bytes());
                items.extend(key);
                items.extend(b"new");
                self.present.insert(key.clone(), b"new".to_vec());
            }
        }
        self.table().replace_bucket(bucket, &items);
    }

    fn scan(&mut self, from: &[u8], to: Option<&[u8]>, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut entries = Vec::new();
        self.table().scan(from, to, limit, &mut |key, value| {
            entries.push((key.to_vec(), value.to_vec()));
            true
        });
        entries
    }

    fn expected(&self, from: &[u8], to: Option<&[u8]>, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.present
            .range(from.to_vec()..)
            .take_while(|(key, _)| to.is_none_or(|to| &key[..] < to))
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Put {
                key: number,
                value_bytes,
                byte,
            } => {
                let (key, value) = (key(number), vec![byte; value_bytes]);
                self.table().put(&key, &value);
                self.present.insert(key, value);
            }
            Step::Delete(number) => {
                let key = key(number);
                let was_there = self.present.remove(&key).is_some();
                assert_eq!(self.table().delete(&key), was_there);
            }
            Step::Get(number) => {
                let key = key(number);
                let expected = self.present.get(&key).cloned();
                assert_eq!(self.table().get(&key), expected.as_deref());
            }
            Step::Scan { from, to, limit } => {
                let (from, to) = (key(from), key(to));
                let to = (to.as_slice() > from.as_slice()).then_some(&to[..]);
                let expected = self.expected(&from, to, limit);
                assert_eq!(self.scan(&from, to, limit), expected);
            }
            Step::Freeze => self.freeze(),
            Step::Hash(buckets) => self.hash(buckets),
            Step::Flush(pieces) => self.flush(pieces),
            Step::Evict(buckets) => {
                self.table().evict(buckets);
            }
            Step::Crash => self.crash(),
            Step::Replace { bucket, keep } => self.replace(bucket, keep),
        }
    }

    fn end(&mut self) {
        self.look_at_pin();
        assert_eq!(
            self.scan(b"", None, usize::MAX),
            self.expected(b"", None, usize::MAX)
        );
        self.freeze();
        self.hash(usize::MAX);
        assert_eq!(self.table().len(), self.present.len() as u64);
        let bytes = self
            .present
            .iter()
            .map(|(key, value)| key.len() + value.len());
        let bytes = bytes.sum::<usize>() as u64;
        assert_eq!(self.table().bytes(), bytes);
        for (key, value) in self.present.clone() {
            assert_eq!(self.table().get(&key), Some(&value[..]));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn a_table_over_a_store_is_a_sorted_map(
        steps in prop::collection::vec(step(), 1..400),
        memory_bytes_max in prop_oneof![Just(0_u64), Just(4000), Just(u64::MAX)],
    ) {
        let mut world = World::new(MapStore::default(), memory_bytes_max);
        for step in steps {
            world.take(step);
        }
        world.end();
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12, failure_persistence: None, max_shrink_iters: 100, ..ProptestConfig::default()
    })]

    #[test]
    fn a_table_over_a_disk_is_a_sorted_map(
        steps in prop::collection::vec(step(), 100..300),
        memory_bytes_max in prop_oneof![Just(0_u64), Just(4000)],
    ) {
        let mut world = World::new(OnDisk::new("map"), memory_bytes_max);
        for step in steps {
            world.take(step);
        }
        world.end();
    }
}

/// A run that only counts its changes.
#[derive(Default)]
struct CountedRun(Rc<cell::Cell<usize>>);

impl Run for CountedRun {
    type Error = Infallible;

    fn put(&mut self, _: &[u8], _: &[u8]) -> Result<(), Infallible> {
        self.0.set(self.0.get() + 1);
        Ok(())
    }

    fn delete(&mut self, _: &[u8]) -> Result<(), Infallible> {
        self.0.set(self.0.get() + 1);
        Ok(())
    }

    fn before(
        &self,
        _: &[u8],
        _: &[u8],
        _: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), Infallible> {
        unreachable!("no bucket is replaced")
    }

    fn finish(self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// A store that counts what it is asked.
#[derive(Clone, Default)]
struct Counting {
    map: MapStore,
    asked: Rc<cell::Cell<usize>>,
}

impl Store for Counting {
    fn newest(&self) -> AsOf {
        self.map.newest()
    }

    fn get(&self, as_of: AsOf, key: &[u8], value: &mut Vec<u8>) -> bool {
        self.asked.set(self.asked.get() + 1);
        self.map.get(as_of, key, value)
    }

    fn range(
        &self,
        as_of: AsOf,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) {
        self.asked.set(self.asked.get() + 1);
        self.map.range(as_of, from, to, visit);
    }

    fn forget_before(&self, oldest: AsOf) {
        self.map.forget_before(oldest);
    }
}

impl Backing for Counting {
    fn share(&self) -> Counting {
        self.clone()
    }

    fn reopen(&mut self) {}

    fn write(&self, pieces: &[Vec<u8>]) {
        self.map.write(pieces);
    }
}

#[test]
fn what_memory_holds_is_not_read() {
    let mut world = World::new(Counting::default(), u64::MAX);
    let put = |number| Step::Put {
        key: number,
        value_bytes: 10,
        byte: 1,
    };
    (0..KEYS).for_each(|number| world.take(put(number)));
    world.take(Step::Freeze);
    world.take(Step::Flush(usize::MAX));
    world.take(Step::Crash);
    let asked = Rc::clone(&world.store.asked);
    // Every bucket is hashed, and there is room.
    world.take(Step::Freeze);
    world.hash(usize::MAX);
    asked.set(0);
    for number in 0..KEYS {
        world.take(Step::Get(number));
        world.take(put(number));
        world.take(Step::Delete(number));
        world.take(Step::Get(number));
        world.take(put(number));
    }
    world.take(Step::Get(KEYS));
    world.table().get(b"absent");
    assert_eq!(asked.get(), 0, "memory holds everything");
}

#[test]
fn a_key_that_is_on_disk_is_not_added_to_the_order_again() {
    let put = |number| Step::Put {
        key: number,
        value_bytes: 10,
        byte: 1,
    };
    let mut world = World::new(MapStore::default(), u64::MAX);
    (0..KEYS).for_each(|number| world.take(put(number)));
    world.take(Step::Freeze);
    while world.pinned.is_some() {
        world.take(Step::Flush(usize::MAX));
    }
    (0..KEYS).for_each(|number| world.take(put(number)));
    world.freeze();
    world.table().flush_begin();
    let mut pieces = Vec::new();
    while world.table().flush_next(&mut pieces) {}
    let counted = CountedRun::default();
    let changes = Rc::clone(&counted.0);
    write_run(counted, &[pieces]).unwrap();
    assert_eq!(changes.get(), KEYS);
}
