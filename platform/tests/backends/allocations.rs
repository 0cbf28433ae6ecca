//! After warm-up neither backend allocates.

use std::time::Duration;

use platform::driver::{Backend, Event, Outgoing, Parts, Sync, Write};
use platform::file::LogFile;
use platform::idle::Wait;
use platform::pool::Pool;
use platform::socket::SocketOptions;
use platform::tripwire;

use crate::host::Host;
use crate::on_both_backends;

on_both_backends! {
    steady_work_allocates_nothing
}

fn steady_work_allocates_nothing(backend: Backend) {
    // Counts are kept by stage for all threads: each backend has one that no other test uses.
    let stage = backend as u8;
    let path = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("platform-steady-{backend}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let log = LogFile::create(&path, 1 << 20, false, Duration::ZERO).unwrap();
    let mut sender = Host::new(backend, SocketOptions::default());
    let mut receiver = Host::new(backend, SocketOptions::default());
    let file = sender.driver.add_file(&log).unwrap();
    let heads = Pool::new("heads", 8, 4096).unwrap();
    let bodies = Pool::new("bodies", 8, 64 << 10).unwrap();
    let mut received = 0usize;
    let mut written = 0u64;
    for round in 0..600u64 {
        if round == 100 {
            tripwire::enter(stage);
        }
        let body = loop {
            match bodies.take() {
                Some(body) => break body.freeze(),
                None => turn(&mut sender, &mut receiver, &mut received, &mut written),
            }
        };
        let head = loop {
            match heads.take() {
                Some(head) => break head.freeze(),
                None => turn(&mut sender, &mut receiver, &mut received, &mut written),
            }
        };
        let mut outgoing = Outgoing {
            to: receiver.address,
            head: head.slice(0..40 * 32),
            head_each: 32,
            body: Some(body.slice(0..40 * 1000)),
            body_each: 1000,
        };
        while let Err(back) = sender.driver.send(outgoing) {
            outgoing = back;
            turn(&mut sender, &mut receiver, &mut received, &mut written);
        }
        let mut parts = Parts::new();
        parts.push(body.slice(0..8192));
        let sync = if round % 50 == 0 {
            Sync::Fdatasync
        } else {
            Sync::None
        };
        let mut write = Write {
            file,
            offset: (round % 64) * 8192,
            parts,
            sync,
            token: round,
        };
        while let Err(back) = sender.driver.write(write) {
            write = back;
            turn(&mut sender, &mut receiver, &mut received, &mut written);
        }
        turn(&mut sender, &mut receiver, &mut received, &mut written);
    }
    for _ in 0..20 {
        turn(&mut sender, &mut receiver, &mut received, &mut written);
    }
    tripwire::enter(tripwire::NONE);
    assert_eq!(tripwire::allocations(stage), 0);
    assert!(
        received > 600 && written > 500,
        "{received} datagrams, {written} writes"
    );
    std::fs::remove_file(&path).unwrap();
}

fn turn(sender: &mut Host, receiver: &mut Host, received: &mut usize, written: &mut u64) {
    sender.turn(Wait::UpTo(Duration::from_micros(50)));
    receiver.turn(Wait::UpTo(Duration::from_micros(50)));
    while let Some(event) = sender.events.pop() {
        if let Event::Written { result, .. } = event {
            assert_eq!(result, Ok(()));
            *written += 1;
        }
    }
    while let Some(event) = receiver.events.pop() {
        if let Event::Received { data, segment, .. } = event {
            *received += data.len().div_ceil(segment);
        }
    }
}
