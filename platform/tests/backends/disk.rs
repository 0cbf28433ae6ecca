//! Writes with and without a flush, and reads, on real files.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use platform::PlatformError;
use platform::driver::{Backend, Event, FileIndex, Parts, Read, Sync, WRITE_PARTS_MAX, Write};
use platform::file::LogFile;
use platform::idle::Wait;
use platform::pool::{Buffer, Pool};
use platform::socket::SocketOptions;

use crate::host::{Host, exchange, pattern, shared};
use crate::on_both_backends;

on_both_backends! {
    what_was_written_is_read_back
    a_write_of_many_parts_keeps_their_order
    many_writes_in_flight_all_come_back
    a_failed_write_is_reported_once
    a_write_is_done_only_when_its_flush_is
    a_read_past_the_end_is_short
    socket_and_files_share_a_driver
    files_beyond_the_bound_are_refused
    ending_with_writes_and_reads_in_flight_brings_buffers_home
    a_buffer_that_came_home_is_never_written_again
}

const SECTOR: usize = 4096;
const FILE_BYTES: u64 = 4 << 20;
const SYNCS: [Sync; 3] = [Sync::Dsync, Sync::Fdatasync, Sync::None];

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str, backend: Backend) -> Directory {
        let name = format!("platform-disk-{name}-{backend}-{}", std::process::id());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    /// A log file, O_DIRECT where the filesystem of the build directory has it.
    fn log(&self, name: &str, direct: bool) -> LogFile {
        let path = self.0.join(name);
        match LogFile::create(&path, FILE_BYTES, direct, Duration::ZERO) {
            Err(PlatformError::NoDirectIo { .. }) => {
                eprintln!("NOT RUN with O_DIRECT: {}", path.display());
                LogFile::create(&path, FILE_BYTES, false, Duration::ZERO).unwrap()
            }
            made => made.unwrap(),
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One event of an earlier write or read.
fn wait_for(host: &mut Host) -> Event {
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(event) = host.events.pop() {
            return event;
        }
        assert!(Instant::now() < limit, "the operation does not end");
        host.turn(Wait::UpTo(Duration::from_millis(5)));
    }
}

fn one_part(bytes: &[u8]) -> Parts {
    let mut parts = Parts::new();
    parts.push(shared(bytes));
    parts
}

fn write(
    host: &mut Host,
    file: FileIndex,
    offset: u64,
    parts: Parts,
    sync: Sync,
) -> Result<(), i32> {
    let token = offset ^ 0xabcd_ef01_2345_6789;
    assert!(
        host.driver
            .write(Write {
                file,
                offset,
                parts,
                sync,
                token
            })
            .is_ok()
    );
    match wait_for(host) {
        Event::Written { token: got, result } if got == token => result,
        other => panic!("{other:?}"),
    }
}

fn read(
    host: &mut Host,
    file: FileIndex,
    offset: u64,
    length: usize,
) -> (Buffer, Result<usize, i32>) {
    let buffer = Pool::new("read", 1, length).unwrap().take().unwrap();
    assert!(
        host.driver
            .read(Read {
                file,
                offset,
                buffer,
                length,
                token: 77
            })
            .is_ok()
    );
    match wait_for(host) {
        Event::Read {
            token: 77,
            buffer,
            result,
        } => (buffer, result),
        other => panic!("{other:?}"),
    }
}

fn what_was_written_is_read_back(backend: Backend) {
    let directory = Directory::new("back", backend);
    for direct in [true, false] {
        let log = directory.log(&format!("log-{direct}"), direct);
        let mut host = Host::without_socket(backend);
        let file = host.driver.add_file(&log).unwrap();
        for (index, sync) in SYNCS.into_iter().enumerate() {
            for (step, bytes) in [SECTOR, 16 * SECTOR, 256 * SECTOR].into_iter().enumerate() {
                let offset = ((index * 3 + step) * 100 * SECTOR) as u64;
                let sent = pattern(bytes, index + step);
                assert_eq!(
                    write(&mut host, file, offset, one_part(&sent), sync),
                    Ok(())
                );
                let (buffer, result) = read(&mut host, file, offset, bytes);
                assert_eq!(result, Ok(bytes));
                assert!(
                    buffer[..bytes] == sent,
                    "{sync:?}, {bytes} bytes, direct {direct}"
                );
                let mut again = vec![0; bytes];
                log.read_at(offset, &mut again).unwrap();
                assert!(again == sent);
            }
        }
        assert_eq!(host.driver.counters().writes, 9);
    }
}

fn a_write_of_many_parts_keeps_their_order(backend: Backend) {
    let directory = Directory::new("parts", backend);
    let log = directory.log("log", true);
    let mut host = Host::without_socket(backend);
    let file = host.driver.add_file(&log).unwrap();
    for sync in SYNCS {
        let mut parts = Parts::new();
        let mut sent = Vec::new();
        for part in 0..WRITE_PARTS_MAX {
            let bytes = pattern((1 + part % 3) * SECTOR, part);
            sent.extend_from_slice(&bytes);
            parts.push(shared(&bytes));
        }
        assert_eq!(write(&mut host, file, 8192, parts, sync), Ok(()));
        let mut back = vec![0; sent.len() + 2 * SECTOR];
        log.read_at(SECTOR as u64, &mut back).unwrap();
        assert!(back[SECTOR..][..sent.len()] == sent, "{sync:?}");
        assert!(
            back[..SECTOR]
                .iter()
                .chain(&back[SECTOR + sent.len()..])
                .all(|byte| *byte == 0)
        );
    }
}

fn many_writes_in_flight_all_come_back(backend: Backend) {
    let directory = Directory::new("many", backend);
    let log = directory.log("log", true);
    let mut host = Host::without_socket(backend);
    let file = host.driver.add_file(&log).unwrap();
    let mut expected = BTreeSet::new();
    let mut next = 0u64;
    let mut handed_back = None;
    while next < 300 || handed_back.is_some() || !expected.is_empty() {
        let write = handed_back.take().or_else(|| {
            let token = next;
            next += 1;
            (token < 300).then(|| Write {
                file,
                offset: token * SECTOR as u64,
                parts: one_part(&pattern(SECTOR, token as usize)),
                sync: SYNCS[token as usize % 3],
                token,
            })
        });
        if let Some(write) = write {
            let token = write.token;
            match host.driver.write(write) {
                Ok(()) => {
                    assert!(expected.insert(token));
                    continue;
                }
                Err(back) => handed_back = Some(back),
            }
        }
        match wait_for(&mut host) {
            Event::Written {
                token,
                result: Ok(()),
            } => assert!(expected.remove(&token)),
            other => panic!("{other:?}"),
        }
    }
    for token in 0..300 {
        let mut back = vec![0; SECTOR];
        log.read_at((token * SECTOR) as u64, &mut back).unwrap();
        assert!(back == pattern(SECTOR, token), "write {token}");
    }
}

fn a_failed_write_is_reported_once(backend: Backend) {
    // A device whose every write says that the disk is full.
    let full = LogFile::open("/dev/full".as_ref(), false).unwrap();
    let mut host = Host::without_socket(backend);
    let file = host.driver.add_file(&full).unwrap();
    for sync in SYNCS {
        let result = write(&mut host, file, 0, one_part(&[1; SECTOR]), sync);
        // Which error differs: a device may not know the flag for a durable write.
        assert!(result.is_err_and(|errno| errno > 0), "{sync:?}: {result:?}");
        for _ in 0..4 {
            assert_eq!(
                host.turn(Wait::UpTo(Duration::from_millis(1))),
                0,
                "{sync:?}"
            );
        }
    }
    // The driver goes on; what to do is the caller's decision.
    let directory = Directory::new("failed", backend);
    let log = directory.log("log", true);
    let file = host.driver.add_file(&log).unwrap();
    assert_eq!(
        write(&mut host, file, 0, one_part(&[1; SECTOR]), Sync::Fdatasync),
        Ok(())
    );
}

fn a_write_is_done_only_when_its_flush_is(backend: Backend) {
    // A device that takes every write and cannot be flushed.
    let null = LogFile::open("/dev/null".as_ref(), false).unwrap();
    let mut host = Host::without_socket(backend);
    let file = host.driver.add_file(&null).unwrap();
    for _ in 0..20 {
        let written = write(&mut host, file, 0, one_part(&[1; SECTOR]), Sync::None);
        assert_eq!(written, Ok(()));
        let flushed = write(&mut host, file, 0, one_part(&[1; SECTOR]), Sync::Fdatasync);
        assert_eq!(flushed, Err(libc::EINVAL));
    }
}

fn a_buffer_that_came_home_is_never_written_again(backend: Backend) {
    const BYTES: usize = 512 * SECTOR;
    let directory = Directory::new("never", backend);
    let log = directory.log("log", true);
    log.write_all_at_sync(0, &vec![0x55; BYTES]).unwrap();
    for round in 0..10 {
        let pool = Pool::new("never", 1, BYTES).unwrap();
        let mut host = Host::without_socket(backend);
        let file = host.driver.add_file(&log).unwrap();
        let buffer = pool.take().unwrap();
        let read = Read {
            file,
            offset: 0,
            buffer,
            length: BYTES,
            token: 0,
        };
        assert!(host.driver.read(read).is_ok());
        // Handed to the device, which is still at it when the driver ends.
        host.driver.turn(Wait::No, &mut host.events).unwrap();
        drop(host);
        let mut buffer = pool.take().expect("it came home");
        buffer.fill(0xaa);
        std::thread::sleep(Duration::from_millis(10));
        assert!(buffer.iter().all(|byte| *byte == 0xaa), "round {round}");
    }
}

fn a_read_past_the_end_is_short(backend: Backend) {
    let directory = Directory::new("short", backend);
    let log = directory.log("log", true);
    let mut host = Host::without_socket(backend);
    let file = host.driver.add_file(&log).unwrap();
    assert_eq!(
        read(&mut host, file, FILE_BYTES - SECTOR as u64, 2 * SECTOR).1,
        Ok(SECTOR)
    );
    assert_eq!(read(&mut host, file, FILE_BYTES, SECTOR).1, Ok(0));
}

fn socket_and_files_share_a_driver(backend: Backend) {
    let directory = Directory::new("share", backend);
    let logs = [directory.log("one", true), directory.log("two", true)];
    let mut one = Host::new(backend, SocketOptions::default());
    let mut two = Host::new(backend, SocketOptions::default());
    let files = [0, 1].map(|at| one.driver.add_file(&logs[at]).unwrap());
    // The driver keeps its files open by itself.
    drop(logs);
    for round in 0..50 {
        let sent = pattern(SECTOR, round);
        let offset = (round * SECTOR) as u64;
        let file = files[round % 2];
        assert_eq!(
            write(&mut one, file, offset, one_part(&sent), Sync::Dsync),
            Ok(())
        );
        assert_eq!(
            exchange(&mut one, &mut two, &sent, 512, &[], 0, 8).concat(),
            sent
        );
        assert!(read(&mut one, file, offset, SECTOR).0[..SECTOR] == sent);
        let other = read(&mut one, files[(round + 1) % 2], offset, SECTOR).0;
        assert!(
            other[..SECTOR].iter().all(|byte| *byte == 0),
            "files are not mixed up"
        );
    }
}

fn files_beyond_the_bound_are_refused(backend: Backend) {
    let directory = Directory::new("bound", backend);
    let log = directory.log("log", true);
    let mut host = Host::without_socket(backend);
    for _ in 0..4 {
        host.driver.add_file(&log).unwrap();
    }
    assert!(host.driver.add_file(&log).is_err());
}

fn ending_with_writes_and_reads_in_flight_brings_buffers_home(backend: Backend) {
    let directory = Directory::new("end", backend);
    let log = directory.log("log", true);
    for round in 0..30 {
        let pool = Pool::new("end", 16, 64 * SECTOR).unwrap();
        let mut host = Host::without_socket(backend);
        let file = host.driver.add_file(&log).unwrap();
        let mut accepted = 0;
        for at in 0..6u64 {
            let mut parts = Parts::new();
            parts.push(pool.take().unwrap().freeze());
            let offset = at * 64 * SECTOR as u64;
            let sync = SYNCS[(round + at as usize) % 3];
            accepted += usize::from(
                host.driver
                    .write(Write {
                        file,
                        offset,
                        parts,
                        sync,
                        token: at,
                    })
                    .is_ok(),
            );
            let buffer = pool.take().unwrap();
            let read = Read {
                file,
                offset,
                buffer,
                length: 64 * SECTOR,
                token: at,
            };
            accepted += usize::from(host.driver.read(read).is_ok());
        }
        assert!(accepted > 0);
        if round % 2 == 0 {
            host.turn(Wait::No);
        }
        drop(host);
        assert_eq!(pool.free(), pool.count(), "round {round}");
    }
}
