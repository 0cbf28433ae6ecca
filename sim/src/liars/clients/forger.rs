//! CLI1: bad signatures, other clients' names, and a key that no replica has ever heard of.

use wire::header::Kind;
use wire::ids::PublicKey;
use wire::ops::Operation;

use super::{Line, LyingClient};
use crate::plan::MS;
use crate::random::Random;

/// See the module's documentation.
#[derive(Default)]
pub struct Forger {
    sequence: u64,
}

/// Where a frame names its client, and where its signature begins.
const CLIENT: std::ops::Range<usize> = 0..32;
const SIGNATURE: usize = 32;

impl LyingClient for Forger {
    fn keys(&self) -> usize {
        2
    }

    fn turn(&mut self, lines: &mut [Line], others: &[PublicKey], random: &mut Random) -> u64 {
        self.sequence += 1;
        let [line, stranger] = lines else {
            return MS;
        };
        let operation = Operation::Put {
            key: b"forged",
            value: b"by a liar",
        };
        let mut frame = line.request(self.sequence, 0, &[operation]);
        match random.below(4) {
            0 => frame[SIGNATURE + random.below(64) as usize] ^= 1 << random.below(8),
            1 => frame[CLIENT].copy_from_slice(&random.pick(others).0),
            2 => {
                // Good bytes over the wrong link.
                frame = stranger.request(self.sequence, 0, &[operation]);
            }
            _ => {
                let last = frame.len() - 1;
                frame[last] ^= 1;
            }
        }
        line.send_all(Kind::Request, &frame);
        // Sealed with a key that was made up: to be dropped before anything is computed.
        let node = random.below(line.replicas() as u64) as usize;
        let mut datagram = vec![0; 200];
        datagram.fill_with(|| random.draw() as u8);
        line.send_raw(node, datagram);
        random.within(1, 8) * MS
    }
}
