//! Our ring beside rtrb and crossbeam's ArrayQueue, in the same harness.
//!
//! `cargo run --release -p platform --example ring_compare [-- ITEMS]`
//!
//! Three figures for each: one thread pushing and popping bursts of 32 (the cost of the code), two
//! threads streaming (what a stage pays for an item), and a ping-pong over two rings (twice the
//! latency of a hand-over). Threads are pinned to the first two cores that the process may use;
//! with one core, the two-thread figures measure the scheduler.

use std::hint::black_box;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use platform::clock::now_ns;
use platform::cores::{self, Cores};
use platform::ring;

const CAPACITY: usize = 1024;
const BURST: u64 = 32;
const ROUNDS: usize = 5;
/// Polls without an item before the thread yields, for machines with fewer cores than threads.
const POLLS_BEFORE_YIELD: u32 = 10_000;

/// What a frame hand-over between stages carries: four words.
type Item = [u64; 4];

trait Sender: Send + 'static {
    fn send(&mut self, item: Item) -> bool;
}

trait Receiver: Send + 'static {
    fn receive(&mut self) -> Option<Item>;
}

impl Sender for ring::Producer<Item> {
    fn send(&mut self, item: Item) -> bool {
        self.push(item).is_ok()
    }
}

impl Receiver for ring::Consumer<Item> {
    fn receive(&mut self) -> Option<Item> {
        self.pop()
    }
}

impl Sender for rtrb::Producer<Item> {
    fn send(&mut self, item: Item) -> bool {
        self.push(item).is_ok()
    }
}

impl Receiver for rtrb::Consumer<Item> {
    fn receive(&mut self) -> Option<Item> {
        self.pop().ok()
    }
}

impl Sender for Arc<ArrayQueue<Item>> {
    fn send(&mut self, item: Item) -> bool {
        self.push(item).is_ok()
    }
}

impl Receiver for Arc<ArrayQueue<Item>> {
    fn receive(&mut self) -> Option<Item> {
        self.pop()
    }
}

/// Repeats `attempt` until it gives something.
fn until<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let mut polls = 0;
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        std::hint::spin_loop();
        polls += 1;
        if polls == POLLS_BEFORE_YIELD {
            polls = 0;
            std::thread::yield_now();
        }
    }
}

fn pin(core: Option<usize>) {
    if let Some(core) = core {
        cores::pin_current(core).expect("an allowed core can be pinned to");
    }
}

fn bursts<S: Sender, R: Receiver>((mut sender, mut receiver): (S, R), items: u64) -> f64 {
    let start = now_ns();
    for burst in 0..items / BURST {
        for item in 0..BURST {
            assert!(sender.send(black_box([burst + item; 4])));
        }
        for item in 0..BURST {
            let got = receiver.receive();
            assert_eq!(got.map(|got| got[3]), Some(burst + item));
        }
    }
    (now_ns() - start) as f64 / items as f64
}

fn stream<S: Sender, R: Receiver>(
    (mut sender, mut receiver): (S, R),
    items: u64,
    pair: [Option<usize>; 2],
) -> f64 {
    let start = now_ns();
    let writer = std::thread::spawn(move || {
        pin(pair[1]);
        for item in 0..items {
            until(|| sender.send([item; 4]).then_some(()));
        }
    });
    for item in 0..items {
        let got = until(|| receiver.receive());
        assert_eq!(got[0], item, "order is kept");
    }
    writer.join().expect("the writer ends well");
    (now_ns() - start) as f64 / items as f64
}

fn ping_pong<S: Sender, R: Receiver>(
    (mut there, mut arrived): (S, R),
    (mut back, mut returned): (S, R),
    items: u64,
    pair: [Option<usize>; 2],
) -> f64 {
    let echo = std::thread::spawn(move || {
        pin(pair[1]);
        for _ in 0..items {
            let item = until(|| arrived.receive());
            until(|| back.send(item).then_some(()));
        }
    });
    let start = now_ns();
    for item in 0..items {
        until(|| there.send([item; 4]).then_some(()));
        let got = until(|| returned.receive());
        assert_eq!(got[0], item, "the echo answers in order");
    }
    let took = now_ns() - start;
    echo.join().expect("the echo ends well");
    took as f64 / items as f64
}

fn row<S: Sender, R: Receiver>(
    name: &str,
    make: impl Fn() -> (S, R),
    items: u64,
    pair: [Option<usize>; 2],
) {
    let median = |measure: &dyn Fn() -> f64| {
        let mut figures: Vec<f64> = (0..ROUNDS).map(|_| measure()).collect();
        figures.sort_by(f64::total_cmp);
        figures[ROUNDS / 2]
    };
    let burst = median(&|| bursts(make(), items));
    let streamed = median(&|| stream(make(), items, pair));
    let answered = median(&|| ping_pong(make(), make(), items / 50, pair));
    println!("{name:<22} {burst:>10.2} {streamed:>12.2} {answered:>12.0}");
}

fn main() {
    let items = match std::env::args().nth(1).map(|text| text.parse::<u64>()) {
        None => 5_000_000,
        Some(Ok(items)) if items >= 50 * BURST => items,
        Some(_) => {
            eprintln!("ring_compare: ITEMS is a number of at least {}", 50 * BURST);
            std::process::exit(2);
        }
    };
    let cores = Cores::read().expect("sysfs lists the cores");
    let pair = match cores.allowed() {
        [first, second, ..] => [Some(*first), Some(*second)],
        _ => [None, None],
    };
    pin(pair[0]);
    println!("items of 32 bytes, capacity {CAPACITY}, median of {ROUNDS}, cores {pair:?}");
    println!(
        "{:<22} {:>10} {:>12} {:>12}",
        "ring", "burst ns", "stream ns", "ping-pong ns"
    );
    row("platform::ring", || ring::spsc(CAPACITY), items, pair);
    row(
        "rtrb",
        || rtrb::RingBuffer::<Item>::new(CAPACITY),
        items,
        pair,
    );
    let queue = || {
        let queue = Arc::new(ArrayQueue::<Item>::new(CAPACITY));
        (queue.clone(), queue)
    };
    row("crossbeam ArrayQueue", queue, items, pair);
}
