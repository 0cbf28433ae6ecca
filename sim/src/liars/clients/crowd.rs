//! CLI6: many keys, each of which opens a session, and opens it again and again.

use wire::header::Kind;
use wire::ids::{PublicKey, Slot};
use wire::ops::Operation;

use super::{Line, LyingClient};
use crate::plan::MS;
use crate::random::Random;

/// See the module's documentation.
pub struct Crowd {
    keys: usize,
    turns: u64,
}

impl Crowd {
    pub fn draw(random: &mut Random) -> Crowd {
        Crowd {
            keys: random.within(4, 24) as usize,
            turns: 0,
        }
    }
}

impl LyingClient for Crowd {
    fn keys(&self) -> usize {
        self.keys
    }

    fn turn(&mut self, lines: &mut [Line], _: &[PublicKey], random: &mut Random) -> u64 {
        self.turns += 1;
        let line = &mut lines[random.below(self.keys as u64) as usize];
        // From now, from the beginning, from a slot that may never be.
        let reference = *random.pick(&[Slot(0), Slot(1), Slot(1 << 30)]);
        let open = line.open(reference);
        line.send_all(Kind::Open, &open);
        if random.chance(300) {
            let key = self.turns.to_le_bytes();
            let operation = Operation::Put {
                key: &key,
                value: b"crowd",
            };
            let frame = line.request(1 + self.turns % 8, 0, &[operation]);
            line.send_all(Kind::Request, &frame);
        }
        random.within(1, 8) * MS
    }
}
