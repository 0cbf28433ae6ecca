//! Prints what a checkpoint of the in-memory table costs: freezing, first writes, hashing.
//!
//! `cargo run --release -p storage --example checkpoint_cost [KEYS]`

use std::time::Instant;

use storage::MemTable;
use storage::state::{Bucketed, CellItems, Checkpoints, Hold, Malformed, Parts, Versions, View};
use storage::table::Table;
use wire::ids::Slot;
use wire::state::{Bucket, Cell, CellMask, StateHead};

use keys::{key, scattered};

mod keys;

/// No sessions.
struct Nobody(Versions);

impl Bucketed for Nobody {
    fn versions(&self) -> &Versions {
        &self.0
    }

    fn versions_mut(&mut self) -> &mut Versions {
        &mut self.0
    }

    fn write_cells(&mut self, _: View, _: Bucket, _: &CellMask, _: &mut CellItems) {}

    fn check_cell(&self, _: Cell, _: &[u8]) -> Result<(), Malformed> {
        Ok(())
    }

    fn replace_bucket(&mut self, _: Bucket, _: &[u8]) {}
}

/// Overwrites every key once, scattered; nanoseconds a put.
fn overwrite(table: &mut MemTable, keys: u64) -> f64 {
    let started = Instant::now();
    for step in 0..keys {
        table.put(&key(scattered(step, keys)), &[7; 128]);
    }
    started.elapsed().as_nanos() as f64 / keys as f64
}

fn main() {
    let keys: u64 = std::env::args().nth(1).map_or(1_000_000, |text| {
        text.parse()
            .expect("usage: checkpoint_cost [KEYS], a number of keys")
    });
    let mut table = MemTable::with_capacity([1, 2], keys as usize);
    for number in 0..keys {
        table.put(&key(number), &[7; 128]);
    }
    let mut sessions = Nobody(Versions::new());
    let mut checkpoints = Checkpoints::new();
    println!("overwrite before: {:.0} ns", overwrite(&mut table, keys));
    for slot in 1..=3 {
        if slot == 3 {
            let mut parts = Parts {
                machine: Some(&mut table),
                sessions: &mut sessions,
            };
            checkpoints.pin(Hold::Open, Slot(slot), &mut parts);
        }
        let mut parts = Parts {
            machine: Some(&mut table),
            sessions: &mut sessions,
        };
        let started = Instant::now();
        checkpoints.begin(StateHead::new(Slot(slot), 0, 0), &mut parts);
        println!(
            "freeze {slot}: {:.1} us",
            started.elapsed().as_nanos() as f64 / 1e3
        );
        if slot == 2 {
            let cost = overwrite(&mut table, keys);
            println!("overwrite, first in a bucket not hashed: {cost:.0} ns");
        }
        let mut parts = Parts {
            machine: Some(&mut table),
            sessions: &mut sessions,
        };
        let (mut longest, mut slices) = (0, 0);
        let whole = Instant::now();
        loop {
            let started = Instant::now();
            let more = checkpoints.work(256 << 10, &mut parts);
            longest = longest.max(started.elapsed().as_micros());
            slices += 1;
            if !more {
                break;
            }
        }
        println!(
            "hashing: {:.0} ms in {slices} slices of 256 KiB, longest {longest} us",
            whole.elapsed().as_secs_f64() * 1e3
        );
        let first = overwrite(&mut table, keys);
        let again = overwrite(&mut table, keys);
        println!(
            "overwrite after, pinned: {}: {first:.0} ns, then {again:.0} ns",
            slot == 3
        );
    }
}
