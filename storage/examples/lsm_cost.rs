//! Prints what the table over a disk costs: writes, checkpoints, flushes, reads from the disk, reopening.
//!
//! `cargo run --release -p storage --example lsm_cost [KEYS [DIRECTORY]]`

use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use storage::state::{Checkpoints, Hold, Parts};
use storage::table::{DiskFailed, DiskStore, Flush, Flushing, LsmTable, MemTable, Table};
use wire::ids::{Instant as Time, Slot};
use wire::state::{BUCKETS, StateHead};

use keys::{key, scattered};

mod keys;

const VALUE: [u8; 128] = [7; 128];
const CACHE_BYTES: u64 = 16 << 20;

fn each(what: &str, count: u64, took: Duration) {
    let nanoseconds = took.as_nanos() as f64 / count as f64;
    println!("{what:<52} {nanoseconds:>9.0} ns");
}

fn whole(what: &str, took: Duration) {
    println!("{what:<52} {:>9.1} ms", took.as_secs_f64() * 1e3);
}

fn broken(error: DiskFailed) -> ! {
    panic!("{error}")
}

struct State {
    table: LsmTable<DiskStore>,
    sessions: MemTable,
    checkpoints: Checkpoints,
    slot: u64,
}

impl State {
    /// Time that the thread of the table and that of the run were busy.
    fn flush(&mut self) -> (Duration, Duration, Duration) {
        let store = self.table.store().clone();
        let mut flush = Flush::new(store.run().expect("a run"));
        let (mut reading, mut writing) = (Duration::ZERO, Duration::ZERO);
        self.table.flush_begin();
        loop {
            let mut piece = Vec::with_capacity(256 << 10);
            let started = Instant::now();
            let mut more = true;
            while more && piece.len() < 192 << 10 {
                more = self.table.flush_next(&mut piece);
            }
            reading += started.elapsed();
            let started = Instant::now();
            flush.add(&piece).expect("a piece");
            writing += started.elapsed();
            if !more {
                break;
            }
        }
        let started = Instant::now();
        flush.finish().expect("the end of a run");
        let finishing = started.elapsed();
        self.table.flush_end();
        self.with(|checkpoints, parts| checkpoints.close(Time(0), parts));
        (reading, writing, finishing)
    }

    fn with<T>(&mut self, run: impl FnOnce(&mut Checkpoints, &mut Parts<'_>) -> T) -> T {
        let mut parts = Parts {
            machine: Some(&mut self.table),
            sessions: &mut self.sessions,
        };
        run(&mut self.checkpoints, &mut parts)
    }

    fn checkpoint(&mut self) -> Duration {
        self.slot += 1;
        let slot = Slot(self.slot);
        self.with(|checkpoints, parts| {
            checkpoints.begin(StateHead::new(slot, 0, 0), parts);
            checkpoints.pin(Hold::Open, slot, parts);
        });
        let started = Instant::now();
        self.with(|checkpoints, parts| checkpoints.finish(parts));
        started.elapsed()
    }

    fn evict(&mut self) -> Duration {
        let started = Instant::now();
        while self.table.evict(BUCKETS) && self.table.memory_bytes() > 0 {}
        started.elapsed()
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let keys: u64 = arguments.next().map_or(1_000_000, |text| {
        text.parse()
            .expect("usage: lsm_cost [KEYS [DIRECTORY]], a number of keys")
    });
    let directory = arguments.next().map_or_else(
        || std::env::temp_dir().join(format!("hippo-lsm-cost-{}", std::process::id())),
        PathBuf::from,
    );
    let store = DiskStore::open(&directory, CACHE_BYTES, broken).expect("a store");
    let mut state = State {
        table: LsmTable::new([1, 2], store.clone(), 0),
        sessions: MemTable::new([3, 4]),
        checkpoints: Checkpoints::new(),
        slot: 0,
    };
    let started = Instant::now();
    for number in 0..keys {
        state.table.put(&key(number), &VALUE);
    }
    each("put, new key", keys, started.elapsed());
    let took = state.checkpoint();
    each("checkpoint from memory, a key", keys, took);
    let (reading, writing, finishing) = state.flush();
    each(
        "flush of new keys, the table's thread, a key",
        keys,
        reading,
    );
    each("flush of new keys, the run's thread, a key", keys, writing);
    whole("end of the run", finishing);

    let started = Instant::now();
    for step in 0..keys {
        state.table.put(&key(scattered(step, keys)), &VALUE);
    }
    each("put, overwrite, scattered", keys, started.elapsed());
    state.checkpoint();
    let (reading, writing, finishing) = state.flush();
    each(
        "flush of old keys, the table's thread, a key",
        keys,
        reading,
    );
    each("flush of old keys, the run's thread, a key", keys, writing);
    whole("end of the run", finishing);
    let started = Instant::now();
    store.compact().expect("compaction");
    whole("compaction", started.elapsed());
    each("eviction, a key", keys, state.evict());

    let some = keys.min(100_000);
    let started = Instant::now();
    for step in 0..some {
        black_box(state.table.get(&key(scattered(step, keys))));
    }
    each(
        "get from the disk, scattered, files cached",
        some,
        started.elapsed(),
    );
    state.evict();
    let started = Instant::now();
    for step in 0..some {
        state.table.put(&key(scattered(step, keys)), &VALUE);
    }
    each("put over the disk, scattered", some, started.elapsed());
    let took = state.checkpoint();
    let written = some.min(BUCKETS as u64);
    each("checkpoint from the disk, a bucket", written, took);
    state.flush();
    state.evict();
    let mut count = 0;
    let started = Instant::now();
    state
        .table
        .scan(&key(0), None, some as usize, &mut |_, value| {
            count += 1;
            black_box(value);
            true
        });
    each("scan of the disk, an entry", count, started.elapsed());
    let (bytes, (tables, runs)) = (store.bytes(), store.tables());
    println!(
        "on disk: {} MiB in {tables} tables, {runs} runs unmerged",
        bytes >> 20
    );
    drop((state, store));

    let started = Instant::now();
    let store = DiskStore::open(&directory, CACHE_BYTES, broken).expect("a store");
    whole("open", started.elapsed());
    let mut table = LsmTable::reopen([1, 2], store, 0);
    let started = Instant::now();
    for number in 0..some {
        black_box(table.get(&key(scattered(number, keys))));
    }
    each("get after opening, scattered", some, started.elapsed());
    let _ = std::fs::remove_dir_all(&directory);
}
