//! A receiver whose buffers are all held by others.

use std::time::{Duration, Instant};

use platform::driver::{Backend, Event};
use platform::idle::Wait;
use platform::socket::SocketOptions;

use crate::host::{Host, PATIENCE, outgoing};
use crate::on_both_backends;

on_both_backends! {
    waiting_without_buffers_does_not_spin
    every_buffer_can_be_filled_while_the_others_are_held
}

const MILLISECOND: Duration = Duration::from_millis(1);

fn waiting_without_buffers_does_not_spin(backend: Backend) {
    let options = SocketOptions {
        gro: false,
        ..SocketOptions::default()
    };
    let mut sender = Host::new(backend, options);
    let mut receiver = Host::with_buffers(backend, options, 2, 72 << 10);
    sender.send(outgoing(receiver.address, &[5; 6 * 64], 64, &[], 0));
    sender.settle();
    let mut held = Vec::new();
    let limit = Instant::now() + PATIENCE;
    while held.len() < 2 {
        assert!(Instant::now() < limit, "wedged with {} held", held.len());
        receiver.turn(Wait::UpTo(MILLISECOND));
        while let Some(event) = receiver.events.pop() {
            if let Event::Received { data, .. } = event {
                held.push(data);
            }
        }
    }
    // Four datagrams lie in the socket, and there is no place for them. Each pair of turns sleeps
    // for a millisecond; were the readable socket to end the sleep, there would be thousands.
    let (start, before) = (Instant::now(), receiver.driver.counters().enters);
    while start.elapsed() < 50 * MILLISECOND {
        assert_eq!(receiver.turn(Wait::UpTo(20 * MILLISECOND)), 0);
    }
    let enters = receiver.driver.counters().enters - before;
    assert!(enters <= 200, "{enters} system calls in 50 ms");
    held.clear();
    let got = receiver.receive_with(&mut sender, 4);
    assert!(got.iter().all(|datagram| *datagram == [5; 64]));
}

fn every_buffer_can_be_filled_while_the_others_are_held(backend: Backend) {
    let options = SocketOptions::default();
    let mut sender = Host::new(backend, options);
    let mut receiver = Host::with_buffers(backend, options, 5, 72 << 10);
    receiver.turn(Wait::No);
    let mut held = Vec::new();
    for number in 0..5u8 {
        // One at a time: each comes when the earlier buffers are gone for good.
        sender.send(outgoing(receiver.address, &[number; 64], 64, &[], 0));
        let limit = Instant::now() + PATIENCE / 4;
        while held.len() == usize::from(number) {
            assert!(Instant::now() < limit, "datagram {number} never came");
            sender.turn(Wait::No);
            receiver.turn(Wait::UpTo(MILLISECOND));
            while let Some(event) = receiver.events.pop() {
                if let Event::Received { data, .. } = event {
                    assert_eq!(*data, [number; 64]);
                    held.push(data);
                }
            }
        }
    }
}
