//! Datagrams in and out, waking, failing, ending.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use platform::PlatformError;
use platform::driver::{Backend, Event, EventQueue, Outgoing};
use platform::idle::Wait;
use platform::socket::{Socket, SocketOptions};

use crate::host::{self, DATAGRAM_BYTES_MAX, Host, PATIENCE, exchange, outgoing, pattern};
use crate::on_both_backends;

on_both_backends! {
    datagrams_of_every_size_arrive
    runs_of_datagrams_keep_their_borders
    a_run_without_a_body_is_cut_by_its_head
    what_was_sent_is_let_go
    an_empty_datagram_does_no_harm
    a_datagram_larger_than_the_buffers_is_dropped_and_counted
    a_flood_beyond_the_buffers_ends_and_receiving_goes_on
    what_the_kernel_drops_is_counted
    a_full_send_queue_hands_the_datagrams_back
    a_send_that_fails_is_counted_and_sending_goes_on
    a_waker_ends_a_wait_every_time
    a_wait_without_events_lasts
    a_driver_without_a_socket_sends_nothing
    events_without_room_stay_for_the_next_turn
    pools_of_any_count_serve_a_receiver
    the_sixth_version_of_ip_works_too
    ending_with_operations_in_flight_brings_every_buffer_home
}

const PLAIN: SocketOptions = SocketOptions {
    buffer_bytes: 8 << 20,
    gro: false,
    gso: false,
};
const OFFLOADED: SocketOptions = SocketOptions {
    buffer_bytes: 8 << 20,
    gro: true,
    gso: true,
};
const MILLISECOND: Duration = Duration::from_millis(1);

fn datagrams_of_every_size_arrive(backend: Backend) {
    for (gso, gro) in [(false, false), (false, true), (true, false), (true, true)] {
        let options = SocketOptions { gso, gro, ..PLAIN };
        let mut sender = Host::new(backend, options);
        let mut receiver = Host::new(backend, options);
        let edges = [
            1, 2, 3, 127, 128, 1471, 1472, 1473, 4095, 4096, 4097, 65_506, 65_507,
        ];
        for bytes in edges
            .into_iter()
            .chain((1..DATAGRAM_BYTES_MAX).step_by(4099))
        {
            let sent = pattern(bytes, bytes);
            let got = exchange(&mut sender, &mut receiver, &sent, sent.len(), &[], 0, 1);
            assert!(got == [sent], "{bytes} bytes, gso {gso}, gro {gro}");
        }
    }
}

fn runs_of_datagrams_keep_their_borders(backend: Backend) {
    for options in [PLAIN, OFFLOADED] {
        let mut sender = Host::new(backend, options);
        let mut receiver = Host::new(backend, options);
        // (datagrams, head bytes each, body bytes each, body bytes in all)
        let runs = [
            (2, 32, 100, 200),
            (10, 32, 1000, 9_999),
            (64, 16, 48, 64 * 48),
            (65, 16, 48, 64 * 48 + 1),
            (150, 8, 400, 59_999),
            (12, 64, 8192, 11 * 8192 + 5),
            (2, 7, 60_000, 64_000),
            (5, 3, 17, 5 * 17),
        ];
        for (count, head_each, body_each, body_bytes) in runs {
            let head = pattern(count * head_each, 1);
            let body = pattern(body_bytes, 2);
            let got = exchange(
                &mut sender,
                &mut receiver,
                &head,
                head_each,
                &body,
                body_each,
                count,
            );
            assert_eq!(got.len(), count);
            for (index, datagram) in got.iter().enumerate() {
                let start = (index * body_each).min(body.len());
                let end = (start + body_each).min(body.len());
                let head = &head[index * head_each..(index + 1) * head_each];
                assert!(
                    *datagram == [head, &body[start..end]].concat(),
                    "datagram {index} of {count} x ({head_each} + {body_each}), {options:?}"
                );
            }
        }
        sender.settle();
        let sent = sender.driver.counters();
        assert_eq!(
            sent.sent_datagrams,
            runs.iter().map(|run| run.0 as u64).sum::<u64>()
        );
        assert_eq!(sent.send_errors, 0);
        let received = receiver.driver.counters();
        assert_eq!(received.received_datagrams, sent.sent_datagrams);
        assert_eq!(received.received_bytes, sent.sent_bytes);
    }
}

fn a_run_without_a_body_is_cut_by_its_head(backend: Backend) {
    for options in [PLAIN, OFFLOADED] {
        let mut sender = Host::new(backend, options);
        let mut receiver = Host::new(backend, options);
        let head = pattern(30 * 99, 5);
        let mut run = outgoing(receiver.address, &head, 99, &[], 0);
        // Of no meaning without a body.
        run.body_each = 1000;
        sender.send(run);
        let got = receiver.receive_with(&mut sender, 30);
        assert!(
            got.iter()
                .zip(head.chunks(99))
                .all(|(got, sent)| got == sent)
        );
    }
}

fn what_was_sent_is_let_go(backend: Backend) {
    for options in [PLAIN, OFFLOADED] {
        let mut sender = Host::new(backend, options);
        let mut receiver = Host::new(backend, options);
        let run = outgoing(receiver.address, &[7; 30 * 16], 16, &pattern(3000, 1), 100);
        sender.send(Outgoing {
            head: run.head.clone(),
            body: run.body.clone(),
            ..run
        });
        receiver.receive_with(&mut sender, 30);
        sender.settle();
        assert!(run.head.try_unique().is_ok());
        assert!(run.body.unwrap().try_unique().is_ok());
    }
}

fn an_empty_datagram_does_no_harm(backend: Backend) {
    let mut sender = Host::new(backend, OFFLOADED);
    let mut receiver = Host::new(backend, OFFLOADED);
    let plain = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..40 {
        plain.send_to(&[], receiver.address).unwrap();
    }
    // `Host::datagrams` insists on a segment size that one can divide by.
    let got = exchange(&mut sender, &mut receiver, &[9; 40], 40, &[], 0, 1);
    assert_eq!(got.last().unwrap(), &[9; 40]);
}

fn a_datagram_larger_than_the_buffers_is_dropped_and_counted(backend: Backend) {
    let mut sender = Host::new(backend, PLAIN);
    let mut receiver = Host::with_buffers(backend, PLAIN, 8, 4096);
    for bytes in [5000, 60_000, 4097] {
        let big = pattern(bytes, 3);
        sender.send(outgoing(receiver.address, &big, bytes, &[], 0));
    }
    let got = exchange(&mut sender, &mut receiver, &[1; 100], 100, &[], 0, 1);
    assert_eq!(got, [vec![1; 100]]);
    assert_eq!(receiver.driver.counters().truncated, 3);
    assert_eq!(receiver.driver.counters().received_datagrams, 1);
}

fn a_flood_beyond_the_buffers_ends_and_receiving_goes_on(backend: Backend) {
    let mut sender = Host::new(backend, PLAIN);
    let mut receiver = Host::with_buffers(backend, PLAIN, 4, 72 << 10);
    for round in 0..5u8 {
        let count = 40;
        let head = vec![round; count * 64];
        sender.send(outgoing(receiver.address, &head, 64, &[], 0));
        sender.settle();
        // Holds on to what it gets until no buffer is left.
        let mut held = Vec::new();
        let mut received = 0;
        let limit = Instant::now() + PATIENCE;
        while held.len() < 4 {
            assert!(
                Instant::now() < limit,
                "wedged with {} buffers held",
                held.len()
            );
            receiver.turn(Wait::UpTo(MILLISECOND));
            while let Some(event) = receiver.events.pop() {
                if let Event::Received { data, segment, .. } = event {
                    received += data.len() / segment;
                    held.push(data);
                }
            }
        }
        for _ in 0..3 {
            assert_eq!(receiver.turn(Wait::No), 0, "there is no buffer");
        }
        held.clear();
        received += receiver.receive_with(&mut sender, count - received).len();
        assert_eq!(received, count);
    }
    assert!(receiver.driver.counters().no_receive_buffer > 0);
    assert_eq!(receiver.driver.counters().received_datagrams, 200);
}

fn what_the_kernel_drops_is_counted(backend: Backend) {
    const SENT: usize = 2000;
    let mut sender = Host::new(backend, PLAIN);
    let mut receiver = Host::new(
        backend,
        SocketOptions {
            buffer_bytes: 8192,
            ..PLAIN
        },
    );
    assert!(receiver.turn(Wait::No) == 0);
    for _ in 0..SENT / 100 {
        sender.send(outgoing(
            receiver.address,
            &vec![1; 100 * 1000],
            1000,
            &[],
            0,
        ));
        sender.settle();
    }
    let mut got = 0;
    while receiver.turn(Wait::UpTo(20 * MILLISECOND)) + receiver.turn(Wait::UpTo(20 * MILLISECOND))
        > 0
    {
        got += receiver.datagrams().len();
    }
    assert!(got < SENT, "8 KiB hold them all?");
    // The drops after the last receive are told by the next one.
    got += exchange(&mut sender, &mut receiver, &[1; 10], 10, &[], 0, 1).len();
    let counters = receiver.driver.counters();
    assert_eq!(counters.kernel_drops as usize, SENT + 1 - got);
    assert_eq!(counters.received_datagrams as usize, got);
}

fn a_full_send_queue_hands_the_datagrams_back(backend: Backend) {
    let mut sender = Host::with_sends(backend, PLAIN, 4);
    let mut receiver = Host::new(backend, PLAIN);
    let one = |n: u8| outgoing(receiver.address, &[n; 10], 10, &[], 0);
    let mut waiting: Vec<Outgoing> = (0..20).map(one).collect();
    let mut handed_back = 0;
    let mut got = Vec::new();
    let limit = Instant::now() + PATIENCE;
    while got.len() < 20 {
        assert!(
            Instant::now() < limit,
            "wedged with {} datagrams",
            got.len()
        );
        while let Some(next) = waiting.pop() {
            if let Err(back) = sender.driver.send(next) {
                waiting.push(back);
                handed_back += 1;
                break;
            }
        }
        sender.turn(Wait::No);
        receiver.turn(Wait::UpTo(MILLISECOND));
        got.extend(receiver.datagrams());
    }
    got.sort();
    assert!(
        got.iter()
            .enumerate()
            .all(|(n, datagram)| *datagram == [n as u8; 10])
    );
    assert!(handed_back > 0, "the queue was never full");
}

fn a_send_that_fails_is_counted_and_sending_goes_on(backend: Backend) {
    let mut sender = Host::new(backend, PLAIN);
    let mut receiver = Host::new(backend, PLAIN);
    let huge = vec![1; DATAGRAM_BYTES_MAX + 1];
    sender.send(outgoing(receiver.address, &huge, huge.len(), &[], 0));
    // The broadcast address needs an option that the socket does not have.
    sender.send(outgoing(
        "255.255.255.255:9".parse().unwrap(),
        &[1],
        1,
        &[],
        0,
    ));
    let mut errors = Vec::new();
    let limit = Instant::now() + PATIENCE;
    while errors.len() < 2 {
        assert!(Instant::now() < limit, "failures were reported: {errors:?}");
        sender.turn(Wait::UpTo(MILLISECOND));
        while let Some(event) = sender.events.pop() {
            if let Event::SendFailed { errno } = event {
                errors.push(errno);
            }
        }
    }
    errors.sort_unstable();
    assert_eq!(errors, [libc::EACCES, libc::EMSGSIZE]);
    assert_eq!(sender.driver.counters().send_errors, 2);
    let got = exchange(&mut sender, &mut receiver, &[3; 50], 50, &[], 0, 1);
    assert_eq!(got, [vec![3; 50]]);
}

fn a_waker_ends_a_wait_every_time(backend: Backend) {
    const ROUNDS: u64 = 2000;
    let mut host = Host::new(backend, PLAIN);
    let waker = host.driver.waker();
    let work = Arc::new(AtomicU64::new(0));
    let (done_sender, done) = mpsc::channel();
    let thread = {
        let work = work.clone();
        std::thread::spawn(move || {
            for round in 1..=ROUNDS {
                work.store(round, Ordering::Release);
                waker.wake();
                if done.recv_timeout(PATIENCE) != Ok(round) {
                    return Err(round);
                }
            }
            Ok(())
        })
    };
    let mut seen = 0;
    while seen < ROUNDS {
        // Were a wake-up lost, this would sleep past the patience of the other thread.
        host.turn(Wait::UpTo(3 * PATIENCE));
        let now = work.load(Ordering::Acquire);
        if now != seen {
            seen = now;
            if done_sender.send(seen).is_err() {
                break;
            }
        }
    }
    assert_eq!(thread.join().unwrap(), Ok(()), "a wake-up was lost");
}

fn a_wait_without_events_lasts(backend: Backend) {
    let mut host = Host::new(backend, PLAIN);
    // Old wake-ups must not cut later waits short.
    for _ in 0..4 {
        host.driver.waker().wake();
        host.turn(Wait::UpTo(MILLISECOND));
    }
    for _ in 0..4 {
        host.turn(Wait::UpTo(MILLISECOND));
    }
    let (start, before) = (Instant::now(), host.driver.counters().enters);
    let mut turns = 0;
    while start.elapsed() < 100 * MILLISECOND {
        host.turn(Wait::UpTo(20 * MILLISECOND));
        turns += 1;
    }
    // At most two turns a wait and five waits: a turn that returns at once would make thousands.
    assert!(turns <= 12, "{turns} turns");
    assert!(host.driver.counters().enters - before <= 24);
}

fn a_driver_without_a_socket_sends_nothing(backend: Backend) {
    let mut host = Host::without_socket(backend);
    assert!(
        host.driver
            .send(outgoing("127.0.0.1:9".parse().unwrap(), &[1], 1, &[], 0))
            .is_err()
    );
    assert_eq!(host.turn(Wait::No), 0);
    assert_eq!(host.turn(Wait::UpTo(MILLISECOND)), 0);
}

fn events_without_room_stay_for_the_next_turn(backend: Backend) {
    let mut sender = Host::new(backend, PLAIN);
    let mut receiver = Host::new(backend, PLAIN);
    receiver.events = EventQueue::with_capacity(3);
    sender.send(outgoing(receiver.address, &pattern(640, 1), 64, &[], 0));
    sender.settle();
    let mut got = Vec::new();
    let limit = Instant::now() + PATIENCE;
    while got.len() < 10 {
        assert!(
            Instant::now() < limit,
            "wedged with {} datagrams",
            got.len()
        );
        receiver.turn(Wait::UpTo(MILLISECOND));
        // A second turn over a full queue neither panics nor loses anything.
        receiver.turn(Wait::UpTo(MILLISECOND));
        assert!(receiver.events.len() <= 3);
        got.extend(receiver.datagrams());
    }
    assert_eq!(got.concat(), pattern(640, 1));
}

fn pools_of_any_count_serve_a_receiver(backend: Backend) {
    for count in [1, 3, 5, 63] {
        let mut sender = Host::new(backend, PLAIN);
        let mut receiver = Host::with_buffers(backend, PLAIN, count, 72 << 10);
        for _ in 0..100 {
            let got = exchange(&mut sender, &mut receiver, &[1; 300], 100, &[], 0, 3);
            assert_eq!(got, vec![vec![1; 100]; 3]);
        }
        let pool = receiver.pool.clone();
        drop(receiver);
        assert_eq!(pool.free(), count);
    }
}

fn the_sixth_version_of_ip_works_too(backend: Backend) {
    let bind = || Socket::bind("[::1]:0".parse().unwrap(), &OFFLOADED);
    let first = match bind() {
        Err(PlatformError::Io { .. }) => return eprintln!("NOT RUN: no IPv6 on this machine"),
        bound => bound.unwrap(),
    };
    let mut sender = Host::on(backend, first);
    let mut receiver = Host::on(backend, bind().unwrap());
    let body = pattern(5000, 1);
    let got = exchange(&mut sender, &mut receiver, &[2; 60], 10, &body, 900, 6);
    assert_eq!(got[5][10..], body[4500..]);
}

fn ending_with_operations_in_flight_brings_every_buffer_home(backend: Backend) {
    for round in 0..20 {
        let mut sender = Host::new(backend, OFFLOADED);
        let receiver = Host::new(backend, OFFLOADED);
        let (sending, receiving) = (sender.pool.clone(), receiver.pool.clone());
        let run = outgoing(
            receiver.address,
            &[7; 50 * 16],
            16,
            &pattern(50_000, round),
            1000,
        );
        for _ in 0..10 {
            sender.send(Outgoing {
                head: run.head.clone(),
                body: run.body.clone(),
                ..run
            });
        }
        if round % 2 == 0 {
            sender.turn(Wait::No);
        }
        drop(sender);
        drop(receiver);
        assert_eq!(sending.free(), sending.count(), "round {round}");
        assert_eq!(receiving.free(), receiving.count(), "round {round}");
        assert!(
            run.head.try_unique().is_ok(),
            "round {round}: the head was let go"
        );
    }
}

#[test]
fn idle_turns_of_io_uring_make_no_system_call() {
    if !host::uring_available() {
        return;
    }
    let mut sender = Host::new(Backend::Mmsg, PLAIN);
    let mut receiver = Host::new(Backend::Uring, PLAIN);
    receiver.turn(Wait::No);
    receiver.turn(Wait::No);
    let before = receiver.driver.counters().enters;
    for _ in 0..10_000 {
        receiver.turn(Wait::No);
    }
    assert_eq!(receiver.driver.counters().enters, before);
    // And yet what comes is seen without waiting.
    sender.send(outgoing(receiver.address, &[1; 20], 20, &[], 0));
    sender.settle();
    let limit = Instant::now() + PATIENCE;
    while receiver.turn(Wait::No) == 0 {
        assert!(Instant::now() < limit, "the receiver is deaf");
    }
    assert_eq!(receiver.datagrams(), [vec![1; 20]]);
}

#[test]
fn the_automatic_backend_says_what_it_is() {
    let host = Host::new(Backend::Auto, PLAIN);
    let name = host.driver.backend_name();
    let expected = if host::uring_available() {
        "uring"
    } else {
        "mmsg"
    };
    assert!(name.starts_with(expected), "{name}");
}
