//! What single parts cost; the expectation stands beside each.

use std::hint::black_box;
use std::time::Instant;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use platform::pool::Pool;
use platform::ring::spsc;
use storage::state::{Checkpoints, Parts};
use storage::table::{MemTable, Table};
use wire::ids::{ClusterId, PublicKey, Sequence, SessionId, Slot};
use wire::keys::ClientSecret;
use wire::link::BodyHash;
use wire::ops::{Operation, OperationsBuilder, check};
use wire::request::{RequestFields, encode_request};
use wire::seal::{Ed25519ClientSigner, sign_request};
use wire::state::StateHead;

/// A bundle of 64 puts of 16-byte keys and 128-byte values.
fn bundle() -> OperationsBuilder {
    let mut builder = OperationsBuilder::new();
    for number in 0..64u8 {
        builder.push(&Operation::Put {
            key: &[number; 16],
            value: &[number; 128],
        });
    }
    builder
}

/// Expected: hashing a bundle and one signature, about 15 us; walking it, under 1 us.
fn requests(c: &mut Criterion) {
    let Ok(secret) = ClientSecret::generate(&[7; 32]) else {
        return;
    };
    let signer = Ed25519ClientSigner::new(ClusterId([1; 16]), &secret);
    let operations = bundle();
    let fields = RequestFields {
        session: SessionId(1),
        first_sequence: Sequence(1),
        acked_low: Sequence(0),
        flags: 0,
        count: 64,
    };
    let mut frame = Vec::new();
    let client: PublicKey = secret.public_key();
    encode_request(&mut frame, client, fields, operations.bytes());
    c.bench_function("request_sign_64", |b| {
        b.iter(|| sign_request(&signer, black_box(&mut frame)).is_ok());
    });
    c.bench_function("operations_check_64", |b| {
        b.iter(|| check(black_box(operations.bytes()), 64).is_ok());
    });
    c.bench_function("body_hash_64KiB", |b| {
        let body = vec![3; 65_424];
        b.iter(|| BodyHash::of(black_box(&body)));
    });
}

/// Expected: 2 ns an item; 20 ns a buffer.
fn machine(c: &mut Criterion) {
    let (mut producer, mut consumer) = spsc(1024);
    c.bench_function("ring_push_pop", |b| {
        b.iter(|| {
            let _ = producer.push(black_box(1u64));
            consumer.pop()
        });
    });
    if let Ok(pool) = Pool::new("bench", 64, 4096) {
        c.bench_function("pool_take_drop", |b| b.iter(|| pool.take()));
    }
}

/// Expected: 0.1-0.2 us with 100,000 keys.
fn table(c: &mut Criterion) {
    let mut table = MemTable::with_capacity([1, 2], 100_000);
    let key = |number: u64| (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 100_000).to_le_bytes();
    for number in 0..100_000 {
        table.put(&key(number), &[1; 128]);
    }
    let mut number = 0;
    c.bench_function("table_put_100k_keys", |b| {
        b.iter_batched(
            || {
                number += 1;
                key(number)
            },
            |key| table.put(&key, &[2; 128]),
            BatchSize::SmallInput,
        );
    });
}

/// Expected: collecting 16 MB and hashing them, 0.1 us a key each: 20 ms; puts into a frozen table
/// copy every old entry once, 0.1 us more than a put.
fn checkpoint(c: &mut Criterion) {
    const KEYS: u64 = 100_000;
    let mixed = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % KEYS;
    let keys = (0..KEYS).map(|number| format!("key-{:012}", mixed(number)));
    let keys = keys.collect::<Vec<_>>();
    let mut table = MemTable::with_capacity([1, 2], KEYS as usize);
    let mut sessions = MemTable::with_capacity([3, 4], 16);
    let mut checkpoints = Checkpoints::new();
    let mut slot = 0;
    let mut round = |puts_are_timed: bool| {
        slot += 1024;
        let head = StateHead::new(Slot(slot), 0, 0);
        let mut parts = Parts {
            machine: Some(&mut table),
            sessions: &mut sessions,
        };
        checkpoints.begin(head, &mut parts);
        let began = Instant::now();
        for key in &keys {
            table.put(key.as_bytes(), &[slot as u8; 128]);
        }
        let puts = began.elapsed();
        let mut parts = Parts {
            machine: Some(&mut table),
            sessions: &mut sessions,
        };
        let began = Instant::now();
        checkpoints.finish(&mut parts);
        let hashing = began.elapsed();
        if puts_are_timed { puts } else { hashing }
    };
    for (name, puts_are_timed) in [("frozen_put_100k_keys", true), ("hash_100k_keys", false)] {
        c.bench_function(name, |b| {
            b.iter_custom(|rounds| (0..rounds).map(|_| round(puts_are_timed)).sum());
        });
    }
}

criterion_group!(micro, requests, machine, table, checkpoint);
criterion_main!(micro);
