//! CLI2: replayed requests and sequences in disorder, also such that replicas differ in what they
//! hold to be open: beyond the window to one, then the window moves, then the same to the others.
//! When those stand up for it, the window moves once more, and the request can be executed no more.

use wire::header::Kind;
use wire::ids::PublicKey;
use wire::limits::SESSION_WINDOW;
use wire::ops::Operation;

use super::{Line, LyingClient};
use crate::plan::MS;
use crate::random::Random;

/// Requests kept for replays.
const KEPT: usize = 32;

/// See the module's documentation.
#[derive(Default)]
pub struct Disorder {
    /// Highest sequence that was used in order.
    low: u64,
    turns: u64,
    said: Vec<Vec<u8>>,
    next: Option<Next>,
}

/// What follows a request that came too early for the leader.
enum Next {
    /// The window moves, so that it is in time.
    Move(u64),
    /// The followers get it.
    Follow(u64),
    /// They stand up for it; then it is given up.
    GiveUp(u64),
}

impl Disorder {
    fn put(line: &Line, sequence: u64, acked_low: u64) -> Vec<u8> {
        let value = sequence.to_le_bytes();
        let operation = Operation::Put {
            key: b"disorder",
            value: &value,
        };
        line.request(sequence, acked_low, &[operation])
    }

    fn keep(&mut self, frame: &[u8], random: &mut Random) {
        if self.said.len() < KEPT {
            self.said.push(frame.to_vec());
        } else {
            self.said[random.below(KEPT as u64) as usize] = frame.to_vec();
        }
    }
}

impl LyingClient for Disorder {
    fn turn(&mut self, lines: &mut [Line], _: &[PublicKey], random: &mut Random) -> u64 {
        let line = &mut lines[0];
        if line.session().is_none() {
            return 5 * MS;
        }
        match self.next.take() {
            Some(Next::Move(sequence)) => {
                self.low += random.within(8, 64);
                let moved = Disorder::put(line, self.low, self.low - 1);
                line.send(0, Kind::Request, &moved);
                self.next = Some(Next::Follow(sequence));
                // Until followers listen to this client again.
                return 30 * MS;
            }
            Some(Next::Follow(sequence)) => {
                let frame = Disorder::put(line, sequence, 0);
                (1..line.replicas()).for_each(|node| line.send(node, Kind::Request, &frame));
                self.next = Some(Next::GiveUp(sequence)).filter(|_| random.below(2) == 0);
                return random.within(5, 15) * MS;
            }
            Some(Next::GiveUp(sequence)) => {
                self.low = sequence + 1;
                let frame = Disorder::put(line, self.low, sequence);
                line.send(0, Kind::Request, &frame);
                return 30 * MS;
            }
            None => {}
        }
        self.turns += 1;
        let nodes = line.replicas();
        match self.turns % 6 {
            0 => {
                // Too early there, open here: the leader's word on it is older than the followers'.
                let sequence = self.low + SESSION_WINDOW + random.within(1, 8);
                let frame = Disorder::put(line, sequence, 0);
                line.send(0, Kind::Request, &frame);
                self.keep(&frame, random);
                self.next = Some(Next::Move(sequence));
                return 5 * MS;
            }
            1 | 2 => {
                if let Some(frame) = self.said.get(random.below(KEPT as u64) as usize) {
                    line.send_all(Kind::Request, frame);
                }
            }
            3 => {
                // Downwards within the window.
                for back in 0..4 {
                    let frame = Disorder::put(line, self.low + 8 - back, self.low);
                    line.send(random.below(nodes as u64) as usize, Kind::Request, &frame);
                    self.keep(&frame, random);
                }
            }
            4 => {
                // Claims of answers that never came, and of the end of time.
                let acked = *random.pick(&[0, self.low + 500, u64::MAX]);
                let frame = Disorder::put(line, self.low + 1, acked);
                line.send_all(Kind::Request, &frame);
            }
            _ => {
                self.low += 1;
                let frame = Disorder::put(line, self.low, self.low - 1);
                line.send_all(Kind::Request, &frame);
                self.keep(&frame, random);
            }
        }
        random.within(1, 10) * MS
    }
}
