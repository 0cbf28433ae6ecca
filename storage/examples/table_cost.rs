//! Prints what a put, an overwrite, a get and a scan of the in-memory table cost.
//!
//! `cargo run --release -p storage --example table_cost [KEYS]`

use std::hint::black_box;
use std::time::Instant;

use storage::table::{MemTable, Table};

use keys::{key, scattered};

mod keys;

fn report(what: &str, count: u64, started: Instant) {
    let nanoseconds = started.elapsed().as_nanos() as f64 / count as f64;
    println!("{what:<44} {nanoseconds:>8.0} ns");
}

fn main() {
    let keys: u64 = std::env::args().nth(1).map_or(1_000_000, |text| {
        text.parse()
            .expect("usage: table_cost [KEYS], a number of keys")
    });
    let value = [7; 128];
    let mut table = MemTable::with_capacity([1, 2], keys as usize);
    let started = Instant::now();
    for number in 0..keys {
        table.put(&key(number), &value);
    }
    report("put, new key", keys, started);
    let started = Instant::now();
    for step in 0..keys {
        table.put(&key(scattered(step, keys)), &value);
    }
    report("put, overwrite, scattered", keys, started);
    let started = Instant::now();
    for first in (0..keys).step_by(64) {
        let steps = first..(first + 64).min(keys);
        let group: Vec<_> = steps.map(|step| key(scattered(step, keys))).collect();
        table.warm(&mut group.iter().map(|key| &key[..]));
        for key in &group {
            table.put(key, &value);
        }
    }
    report("the same, warmed 64 at a time", keys, started);
    let started = Instant::now();
    for step in 0..keys {
        black_box(table.get(&key(scattered(step, keys))));
    }
    report("get, scattered", keys, started);
    let started = Instant::now();
    table.scan(b"", None, 1, &mut |_, _| true);
    report("first scan builds the order, per key", keys, started);
    let started = Instant::now();
    let mut entries = 0;
    table.scan(b"", None, usize::MAX, &mut |_, value| {
        entries += 1;
        !black_box(value).is_empty()
    });
    report("scan, per entry", entries, started);
    let started = Instant::now();
    for step in 0..keys {
        table.put(&key(scattered(step, keys)), &value);
    }
    report("put, overwrite, scattered, order built", keys, started);
    let more = keys / 10;
    let started = Instant::now();
    for number in keys..keys + more {
        table.put(&key(keys + scattered(number, more)), &value);
    }
    report("put, mostly new keys, order built", more, started);
    println!(
        "{} keys, {} bytes, {} allocated",
        table.len(),
        table.bytes(),
        table.allocated_bytes()
    );
}
