//! Both backends through one suite.

#![cfg(not(miri))]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use platform::driver::{
    Backend, Driver, Event, EventQueue, FileIndex, Options, Outgoing, Parts, Read, Sync, Write,
    open,
};
use platform::file::LogFile;
use platform::idle::Wait;
use platform::pool::{Pool, Shared};
use platform::socket::{Socket, SocketOptions};

const BACKENDS: [Backend; 2] = [Backend::Uring, Backend::Mmsg];

struct End {
    driver: Box<dyn Driver>,
    address: SocketAddr,
    events: EventQueue,
}

fn end(backend: Backend, receive_buffers: usize, offload: bool) -> End {
    let options = SocketOptions {
        gro: offload,
        gso: offload,
        ..SocketOptions::default()
    };
    let socket = Socket::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
    let address = socket.local_addr();
    let pool = Pool::new("receive", receive_buffers, 72 * 1024).unwrap();
    let options = Options {
        backend,
        socket: Some(socket),
        receive_pool: Some(pool),
        files_max: 8,
        sends_max: 256,
    };
    End {
        driver: open(options).unwrap(),
        address,
        events: EventQueue::with_capacity(1024),
    }
}

fn disk(backend: Backend) -> End {
    let options = Options {
        backend,
        socket: None,
        receive_pool: None,
        files_max: 8,
        sends_max: 1,
    };
    let address = "127.0.0.1:1".parse().unwrap();
    End {
        driver: open(options).unwrap(),
        address,
        events: EventQueue::with_capacity(64),
    }
}

impl End {
    fn send(&mut self, to: SocketAddr, bytes: &[u8], pool: &Pool) {
        let head = shared(pool, bytes);
        let head_each = head.len();
        let outgoing = Outgoing {
            to,
            head,
            head_each,
            body: None,
            body_each: 0,
        };
        let mut outgoing = Some(outgoing);
        while let Some(waiting) = outgoing.take() {
            if let Err(back) = self.driver.send(waiting) {
                outgoing = Some(back);
                self.driver.turn(Wait::No, &mut self.events).unwrap();
            }
        }
    }

    /// Turns until an event comes or a second has passed.
    fn next(&mut self) -> Option<Event> {
        let begin = Instant::now();
        loop {
            if let Some(event) = self.events.pop() {
                return Some(event);
            }
            if begin.elapsed() > Duration::from_secs(1) {
                return None;
            }
            self.driver
                .turn(Wait::UpTo(Duration::from_millis(5)), &mut self.events)
                .unwrap();
        }
    }

    fn received(&mut self) -> Option<(Vec<u8>, usize)> {
        match self.next()? {
            Event::Received { data, segment, .. } => Some((data.to_vec(), segment)),
            other => panic!("unexpected {other:?}"),
        }
    }
}

fn shared(pool: &Pool, bytes: &[u8]) -> Shared {
    let mut buffer = pool.take().expect("a free buffer");
    buffer[..bytes.len()].copy_from_slice(bytes);
    buffer.freeze().slice(0..bytes.len())
}

#[test]
fn datagrams_of_all_sizes_arrive_whole() {
    let pool = Pool::new("send", 64, 65_536).unwrap();
    for backend in BACKENDS {
        for offload in [true, false] {
            let mut sender = end(backend, 16, offload);
            let mut receiver = end(backend, 16, offload);
            for length in (1..2000).step_by(97).chain([8192, 32_768, 65_000, 65_507]) {
                let bytes: Vec<u8> = (0..length).map(|at| (at * 7 + length) as u8).collect();
                sender.send(receiver.address, &bytes, &pool);
                sender.driver.turn(Wait::No, &mut sender.events).unwrap();
                let (got, segment) = receiver.received().expect("it arrives");
                assert_eq!((got.len(), segment), (length, length), "{backend}");
                assert!(got == bytes);
            }
        }
    }
}

#[test]
fn a_gathered_send_is_cut_into_its_datagrams() {
    let pool = Pool::new("send", 8, 262_144).unwrap();
    for backend in BACKENDS {
        for offload in [true, false] {
            let mut sender = end(backend, 64, offload);
            let mut receiver = end(backend, 256, offload);
            // 100 datagrams of 10 + 1000 bytes, the last body shorter.
            let head: Vec<u8> = (0..100u8).flat_map(|number| [number; 10]).collect();
            let body: Vec<u8> = (0..99_500).map(|at| (at / 1000) as u8).collect();
            let outgoing = Outgoing {
                to: receiver.address,
                head: shared(&pool, &head),
                head_each: 10,
                body: Some(shared(&pool, &body)),
                body_each: 1000,
            };
            sender.driver.send(outgoing).unwrap();
            sender.driver.turn(Wait::No, &mut sender.events).unwrap();
            let mut seen = [false; 100];
            let mut count = 0;
            while count < 100 {
                let (data, segment) = receiver.received().expect("all arrive");
                for datagram in data.chunks(segment) {
                    let number = usize::from(datagram[0]);
                    let expected = if number == 99 { 510 } else { 1010 };
                    assert_eq!(datagram.len(), expected, "{backend} {offload} {number}");
                    assert!(datagram.iter().all(|byte| usize::from(*byte) == number));
                    assert!(!std::mem::replace(&mut seen[number], true));
                    count += 1;
                }
            }
            sender.driver.turn(Wait::No, &mut sender.events).unwrap();
            assert_eq!(sender.driver.counters().sent_datagrams, 100);
        }
    }
}

#[test]
fn a_flood_beyond_all_buffers_does_not_wedge_the_receiver() {
    let pool = Pool::new("send", 64, 4096).unwrap();
    for backend in BACKENDS {
        let mut sender = end(backend, 8, false);
        let mut receiver = end(backend, 4, false);
        receiver
            .driver
            .turn(Wait::No, &mut receiver.events)
            .unwrap();
        let mut held = Vec::new();
        for round in 0..5 {
            for _ in 0..50 {
                sender.send(receiver.address, &[round; 100], &pool);
                sender.driver.turn(Wait::No, &mut sender.events).unwrap();
            }
            // Buffers are held back for a while, then all come home.
            while let Some(event) = receiver.next() {
                held.push(event);
                if held.len() == 4 {
                    receiver
                        .driver
                        .turn(Wait::No, &mut receiver.events)
                        .unwrap();
                    held.clear();
                }
            }
            held.clear();
        }
        sender.send(receiver.address, b"still there", &pool);
        sender.driver.turn(Wait::No, &mut sender.events).unwrap();
        let (data, _) = receiver.received().expect("the receiver lives");
        assert_eq!(data, b"still there", "{backend}");
    }
}

fn directory(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("driver-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn parts(pool: &Pool, fills: &[u8]) -> Parts {
    let mut parts = Parts::new();
    for fill in fills {
        let mut buffer = pool.take().unwrap();
        buffer.fill(*fill);
        parts.push(buffer.freeze());
    }
    parts
}

#[test]
fn writes_are_read_back_with_both_kinds_of_flush() {
    let pool = Pool::new("disk", 16, 8192).unwrap();
    let directory = directory("writes");
    for backend in BACKENDS {
        let path = directory.join(backend.to_string());
        let file = LogFile::create(&path, 1 << 20, true).unwrap();
        let mut end = disk(backend);
        let index = end.driver.add_file(&file).unwrap();
        for (token, sync) in [(1, Sync::Dsync), (2, Sync::Fdatasync), (3, Sync::None)] {
            let parts = parts(&pool, &[token as u8, token as u8 + 10]);
            let offset = token * 65_536;
            end.driver
                .write(Write {
                    file: index,
                    offset,
                    parts,
                    sync,
                    token,
                })
                .unwrap();
            match end.next() {
                Some(Event::Written {
                    token: done,
                    result: Ok(()),
                }) => assert_eq!(done, token),
                other => panic!("{backend} {sync:?}: {other:?}"),
            }
            let buffer = pool.take().unwrap();
            let read = Read {
                file: index,
                offset,
                buffer,
                length: 4096,
                token: token + 50,
            };
            end.driver.read(read).unwrap();
            match end.next() {
                Some(Event::Read {
                    token: done,
                    buffer,
                    result: Ok(4096),
                }) => {
                    assert_eq!(
                        (done, buffer[0], buffer[4095]),
                        (token + 50, token as u8, token as u8)
                    );
                }
                other => panic!("{backend}: {other:?}"),
            }
        }
        assert_eq!(
            pool.free(),
            pool.count(),
            "{backend}: all buffers came home"
        );
    }
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_failed_write_is_reported_with_both_kinds_of_flush() {
    let pool = Pool::new("disk", 16, 4096).unwrap();
    let directory = directory("failed");
    for backend in BACKENDS {
        let path = directory.join(backend.to_string());
        drop(LogFile::create(&path, 1 << 16, true).unwrap());
        let mut end = disk(backend);
        let file = LogFile::open(&path, true).unwrap();
        let index = end.driver.add_file(&file).unwrap();
        for sync in [Sync::Dsync, Sync::Fdatasync] {
            // Beyond the largest file offset.
            let offset = (i64::MAX as u64) & !4095;
            let parts = parts(&pool, &[1]);
            end.driver
                .write(Write {
                    file: index,
                    offset,
                    parts,
                    sync,
                    token: 9,
                })
                .unwrap();
            match end.next() {
                Some(Event::Written {
                    token: 9,
                    result: Err(errno),
                }) => assert!(errno > 0),
                other => panic!("{backend} {sync:?}: {other:?}"),
            }
        }
    }
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_waker_ends_a_wait() {
    for backend in BACKENDS {
        let mut end = disk(backend);
        for _ in 0..5 {
            let waker = end.driver.waker();
            let begin = Instant::now();
            let waking = std::thread::spawn(move || {
                // Until it hits a sleeping driver; wake-ups before that cost nothing.
                for _ in 0..200 {
                    std::thread::sleep(Duration::from_millis(10));
                    waker.wake();
                }
            });
            end.driver
                .turn(Wait::UpTo(Duration::from_secs(60)), &mut end.events)
                .unwrap();
            end.driver
                .turn(Wait::UpTo(Duration::from_secs(60)), &mut end.events)
                .unwrap();
            assert!(begin.elapsed() < Duration::from_secs(30), "{backend}");
            drop(waking);
        }
    }
}

#[test]
fn a_driver_may_be_dropped_with_everything_in_flight() {
    let pool = Pool::new("all", 64, 4096).unwrap();
    let directory = directory("drop");
    for backend in BACKENDS {
        let path = directory.join(backend.to_string());
        let file = LogFile::create(&path, 1 << 20, true).unwrap();
        let mut open_end = end(backend, 8, true);
        let index: FileIndex = open_end.driver.add_file(&file).unwrap();
        let to = open_end.address;
        for token in 0..4 {
            let parts = parts(&pool, &[7; 4]);
            let write = Write {
                file: index,
                offset: token * 65_536,
                parts,
                sync: Sync::Dsync,
                token,
            };
            open_end.driver.write(write).unwrap();
            open_end.send(to, &[token as u8; 200], &pool);
        }
        open_end
            .driver
            .turn(Wait::No, &mut open_end.events)
            .unwrap();
        drop(open_end);
        assert_eq!(pool.free(), pool.count(), "{backend}: nothing was kept");
    }
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn an_idle_poll_of_io_uring_costs_no_system_call() {
    let mut idle = end(Backend::Uring, 8, true);
    for _ in 0..10 {
        idle.driver.turn(Wait::No, &mut idle.events).unwrap();
    }
    let before = idle.driver.counters().enters;
    for _ in 0..1000 {
        idle.driver.turn(Wait::No, &mut idle.events).unwrap();
    }
    assert_eq!(idle.driver.counters().enters, before);
    // And it still hears.
    let pool = Pool::new("send", 4, 4096).unwrap();
    let mut sender = end(Backend::Mmsg, 4, true);
    sender.send(idle.address, b"hello", &pool);
    sender.driver.turn(Wait::No, &mut sender.events).unwrap();
    assert_eq!(idle.received().expect("heard").0, b"hello");
}
