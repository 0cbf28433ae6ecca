//! CLI5: ten times the load of an honest user, all of it well signed.

use wire::header::Kind;
use wire::ids::PublicKey;
use wire::limits::SESSION_WINDOW;
use wire::ops::Operation;

use super::{Line, LyingClient};
use crate::plan::{MS, US};
use crate::random::Random;

/// See the module's documentation.
pub struct Flood {
    sequence: u64,
    each: u64,
    value_bytes: usize,
    everyone: bool,
}

impl Flood {
    /// So many requests at a time, of such a size.
    pub fn draw(random: &mut Random) -> Flood {
        Flood {
            sequence: 0,
            each: random.within(1, 6),
            value_bytes: *random.pick(&[8, 100, 1_000]),
            everyone: random.chance(500),
        }
    }
}

impl LyingClient for Flood {
    fn turn(&mut self, lines: &mut [Line], _: &[PublicKey], random: &mut Random) -> u64 {
        let line = &mut lines[0];
        if line.session().is_none() {
            return 5 * MS;
        }
        for _ in 0..self.each {
            self.sequence += 1;
            let key = [b'f', random.below(16) as u8];
            let value = vec![b'f'; self.value_bytes];
            let operation = Operation::Put {
                key: &key,
                value: &value,
            };
            // It waits for no answer, but stays in the window that it says is open.
            let acked = self.sequence.saturating_sub(SESSION_WINDOW / 2);
            let frame = line.request(self.sequence, acked, &[operation]);
            if self.everyone {
                line.send_all(Kind::Request, &frame);
            } else {
                line.send(0, Kind::Request, &frame);
            }
        }
        random.within(500, 4_000) * US
    }
}
