//! CLI4: two operations under one sequence, told to different replicas: the first in the log wins.

use wire::header::Kind;
use wire::ids::PublicKey;
use wire::ops::Operation;

use super::{Line, LyingClient};
use crate::plan::MS;
use crate::random::Random;

/// See the module's documentation.
#[derive(Default)]
pub struct TwoFaced {
    sequence: u64,
}

impl LyingClient for TwoFaced {
    fn turn(&mut self, lines: &mut [Line], _: &[PublicKey], random: &mut Random) -> u64 {
        let line = &mut lines[0];
        if line.session().is_none() {
            return 5 * MS;
        }
        self.sequence += 1;
        let put = |line: &Line, value: &[u8]| {
            let key = b"two faces";
            let operations = [Operation::Put { key, value }, Operation::Get { key }];
            // Now and then the second operation is what the sequences differ in.
            let from = self.sequence - self.sequence % 2;
            line.request(from.max(1), from.max(1) - 1, &operations)
        };
        let faces = [put(line, b"one"), put(line, b"two")];
        let first = random.below(2) as usize;
        for node in 0..line.replicas() {
            let face = (first + node) % 2;
            line.send(node, Kind::Request, &faces[face]);
            if random.chance(300) {
                line.send(node, Kind::Request, &faces[1 - face]);
            }
        }
        random.within(1, 12) * MS
    }
}
