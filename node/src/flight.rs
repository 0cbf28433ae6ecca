//! The tape of the flight recorder, and how it comes into a file.
//!
//! One thread writes: plain stores of words, nothing locked or allocated. Whoever dumps reads the
//! same words while that thread may go on, or is dead: a reel carries a number that is taken away
//! while it is written anew, so a copy of a reel that was overwritten meanwhile is noticed.
//!
//! A recording is written to `recordings/` in the data directory: when a thread panics, when a
//! failure ends the node, and on SIGUSR1. The newest [`KEPT`] stay.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};

use replica::recorder::Tape;
use replica::recording::{Description, Recording, Reel};

/// Of each of two reels: 8 to 16 s at 100,000 transactions a second, hours when idle. The image at
/// the beginning of a reel is about a megabyte of it.
pub const REEL_BYTES: usize = 8 << 20;
const WORDS: usize = REEL_BYTES / 8;
/// Recordings that stay in the data directory.
const KEPT: usize = 8;
/// In place of the number of a reel that is being begun, or was never.
const NO_REEL: u64 = u64::MAX;

struct Cells {
    number: AtomicU64,
    /// Words that are whole frames.
    length: AtomicU64,
    words: Box<[AtomicU64]>,
}

impl Cells {
    fn new() -> Cells {
        Cells {
            number: AtomicU64::new(NO_REEL),
            length: AtomicU64::new(0),
            words: (0..WORDS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// A copy, if the reel is one from beginning to end of it.
    fn copy(&self) -> Option<Reel> {
        let number = self.number.load(Ordering::Acquire);
        let length = (self.length.load(Ordering::Acquire) as usize).min(WORDS);
        if number == NO_REEL {
            return None;
        }
        let mut bytes = Vec::with_capacity(length * 8);
        for word in &self.words[..length] {
            bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        // Had a word of a later reel been read, its writer's fence would show the number gone.
        fence(Ordering::Acquire);
        (self.number.load(Ordering::Relaxed) == number).then_some(Reel { number, bytes })
    }
}

/// The reels of one node, seen by all threads.
pub struct Flight {
    reels: [Cells; 2],
}

impl Flight {
    /// A blank tape, and what writes it.
    pub fn new() -> (Arc<Flight>, Box<dyn Tape>) {
        let flight = Arc::new(Flight {
            reels: [Cells::new(), Cells::new()],
        });
        let writer = FlightTape {
            flight: flight.clone(),
            next: 0,
            at: WORDS,
        };
        (flight, Box::new(writer))
    }

    /// What is on the tape, oldest first, without a gap.
    pub fn reels(&self) -> Vec<Reel> {
        let number = |cells: &Cells| cells.number.load(Ordering::Acquire);
        // The older one first: when the newer one is copied, it is certainly whole.
        let mut cells = [&self.reels[0], &self.reels[1]];
        if number(cells[0]) > number(cells[1]) {
            cells.swap(0, 1);
        }
        let mut reels: Vec<Reel> = cells.into_iter().filter_map(Cells::copy).collect();
        reels.sort_by_key(|reel| reel.number);
        let last = reels.last().map_or(0, |last| last.number);
        reels.retain(|reel| reel.number + 1 >= last);
        reels
    }
}

struct FlightTape {
    flight: Arc<Flight>,
    /// Number of the next reel.
    next: u64,
    /// Words of the present one.
    at: usize,
}

impl FlightTape {
    fn cells(&self, number: u64) -> &Cells {
        &self.flight.reels[(number % 2) as usize]
    }
}

impl Tape for FlightTape {
    fn begin(&mut self) {
        let cells = self.cells(self.next);
        cells.number.store(NO_REEL, Ordering::Relaxed);
        fence(Ordering::Release);
        cells.length.store(0, Ordering::Relaxed);
        cells.number.store(self.next, Ordering::Release);
        self.next += 1;
        self.at = 0;
    }

    fn room(&self) -> usize {
        (WORDS - self.at) * 8
    }

    fn put(&mut self, frame: &[u8]) {
        assert!(frame.len().is_multiple_of(8) && frame.len() <= self.room());
        let cells = self.cells(self.next - 1);
        let places = &cells.words[self.at..];
        for (word, place) in frame.as_chunks::<8>().0.iter().zip(places) {
            place.store(u64::from_le_bytes(*word), Ordering::Relaxed);
        }
        let end = self.at + frame.len() / 8;
        cells.length.store(end as u64, Ordering::Release);
        self.at = end;
    }
}

/// What this process records, and where recordings go.
struct Deck {
    flight: Arc<Flight>,
    directory: PathBuf,
    description: Description,
}

static DECK: OnceLock<Deck> = OnceLock::new();
static PANICKED: AtomicBool = AtomicBool::new(false);

/// From now on [`dump`] writes this tape. There is one node in a process.
pub fn install(flight: Arc<Flight>, directory: PathBuf, description: Description) {
    let deck = Deck {
        flight,
        directory,
        description,
    };
    let _ = DECK.set(deck);
}

/// Writes what is on the tape to a file of its own; `None` before the recorder runs.
pub fn dump(reason: &str) -> Option<io::Result<PathBuf>> {
    DECK.get().map(|deck| deck.write(reason))
}

/// [`dump`] with a line about it in the log.
pub fn dump_and_say(reason: &str) {
    match dump(reason) {
        Some(Ok(path)) => tracing::info!(
            "flight recording written: hippo-sim replay-recording {}",
            path.display()
        ),
        Some(Err(error)) => tracing::error!("the flight recording cannot be written: {error}"),
        None => {}
    }
}

/// For the hook of panics: the first one is recorded, without the log's machinery.
pub fn dump_on_panic(what: &str) {
    if !PANICKED.swap(true, Ordering::Relaxed) {
        match dump(what) {
            Some(Ok(path)) => eprintln!(
                "flight recording written: hippo-sim replay-recording {}",
                path.display()
            ),
            Some(Err(error)) => eprintln!("the flight recording cannot be written: {error}"),
            None => {}
        }
    }
}

impl Deck {
    fn write(&self, reason: &str) -> io::Result<PathBuf> {
        let mut description = self.description.clone();
        reason.clone_into(&mut description.reason);
        let recording = Recording {
            description,
            reels: self.flight.reels(),
        };
        let mut directory = fs::DirBuilder::new();
        directory.recursive(true).mode(0o700);
        directory.create(&self.directory)?;
        let name = format!(
            "{:020}-boot-{}.hrec",
            platform::clock::wall_ns(),
            self.description.boot
        );
        let path = self.directory.join(name);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(&recording.encode())?;
        file.sync_all()?;
        self.prune();
        Ok(path)
    }

    /// The oldest make room; names sort by time.
    fn prune(&self) {
        let mut names = recordings(&self.directory);
        names.sort();
        for path in names.iter().rev().skip(KEPT) {
            let _ = fs::remove_file(path);
        }
    }
}

fn recordings(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|found| found == "hrec"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tape_holds_the_last_two_reels_and_copies_are_whole() {
        let (flight, mut tape) = Flight::new();
        assert!(flight.reels().is_empty());
        for number in 0..5u64 {
            tape.begin();
            assert_eq!(tape.room(), REEL_BYTES);
            for _ in 0..=number {
                tape.put(&[number as u8; 24]);
            }
            let newest = flight.reels().pop().unwrap();
            assert_eq!(newest.number, number);
            assert_eq!(newest.bytes, vec![number as u8; 24 * (number as usize + 1)]);
        }
        let numbers: Vec<u64> = flight.reels().iter().map(|reel| reel.number).collect();
        assert_eq!(numbers, [3, 4]);
    }

    /// Each reel holds one byte value alone: a torn copy would show two.
    #[test]
    fn copies_taken_meanwhile_are_never_torn() {
        let (flight, mut tape) = Flight::new();
        let stop = Arc::new(AtomicBool::new(false));
        let writer = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let mut number = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    tape.begin();
                    for _ in 0..64 {
                        tape.put(&[number as u8; 4096]);
                    }
                    number += 1;
                }
            }
        });
        for _ in 0..2000 {
            for reel in flight.reels() {
                assert!(reel.bytes.iter().all(|byte| *byte == reel.number as u8));
            }
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    }
}
