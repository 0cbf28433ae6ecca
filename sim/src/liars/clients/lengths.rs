//! CLI3: datagrams of every length, well sealed, whose lengths contradict each other.

use wire::header::{Fragment, Kind};
use wire::ids::PublicKey;
use wire::limits::{DATAGRAM_BYTES_MAX, GRAIN_BYTES};
use wire::ops::Operation;

use super::{Line, LyingClient};
use crate::plan::MS;
use crate::random::Random;

/// See the module's documentation.
pub struct Lengths;

impl LyingClient for Lengths {
    fn turn(&mut self, lines: &mut [Line], _: &[PublicKey], random: &mut Random) -> u64 {
        let line = &mut lines[0];
        let node = random.below(line.replicas() as u64) as usize;
        let kind = *random.pick(&[Kind::Request, Kind::Open, Kind::Read, Kind::Hello]);
        let most = *random.pick(&[4, 64, 300, 2_000, DATAGRAM_BYTES_MAX as u64]);
        let length = random.below(most + 1) as usize;
        match random.below(5) {
            0 => {
                let mut bytes = vec![0; length];
                bytes.fill_with(|| random.draw() as u8);
                line.send_raw(node, bytes);
            }
            1 => {
                // A whole message of a length that it does not have.
                let body = vec![random.draw() as u8; length.min(1_200)];
                let fragment = Fragment {
                    message: random.below(3),
                    offset_grains: *random.pick(&[0, 1, 7, u16::MAX]),
                    total: *random.pick(&[0, 1, length as u32, u32::MAX]),
                };
                line.send_contradiction(node, kind, fragment, &body);
            }
            2 => {
                // A part of something that never becomes whole.
                let body = vec![random.draw() as u8; GRAIN_BYTES];
                let offset_grains = random.below(8) as u16;
                let least = (usize::from(offset_grains) + 2) * GRAIN_BYTES;
                let fragment = Fragment {
                    message: random.draw(),
                    offset_grains,
                    total: (least as u64 + random.below(100 * 1024)) as u32,
                };
                line.send_part(node, Kind::Request, fragment, &body);
            }
            3 => {
                let value = vec![b'v'; length.min(3_000)];
                let operation = Operation::Put {
                    key: b"lengths",
                    value: &value,
                };
                let mut frame = line.request(1 + random.below(50), 0, &[operation]);
                // Lengths inside the frame: its operations, their number, key and value.
                let at = *random.pick(&[98, 100, 101, 102, 130, 132, 134, 136]);
                frame[at] = random.draw() as u8;
                line.send(node, Kind::Request, &frame);
            }
            _ => {
                let frame = line.request(1, 0, &[Operation::Get { key: b"lengths" }]);
                let cut = random.below(frame.len() as u64) as usize;
                let whole = Fragment::whole(&frame[..cut]);
                line.send_contradiction(node, kind, whole, &frame[..cut]);
            }
        }
        random.within(1, 6) * MS
    }
}
