//! CLI7: huge scans, ordered and as plain reads, whose replies nobody takes; and more reads at once than
//! may wait.

use replica::reads::WAITING_PER_CLIENT_MAX;
use wire::header::Kind;
use wire::ids::{Epoch, PublicKey};
use wire::limits::SCAN_ENTRIES_MAX;
use wire::ops::{Operation, OperationsBuilder};
use wire::read::{Freshness, encode_read};

use super::{Line, LyingClient};
use crate::plan::MS;
use crate::random::Random;

/// Values that are written before the scans.
const VALUES: u64 = 8;

/// Fenced reads of one turn in ten.
const READS: usize = WAITING_PER_CLIENT_MAX + 50;

/// See the module's documentation.
#[derive(Default)]
pub struct Scanner {
    sequence: u64,
}

impl LyingClient for Scanner {
    fn turn(&mut self, lines: &mut [Line], _: &[PublicKey], random: &mut Random) -> u64 {
        let line = &mut lines[0];
        if line.session().is_none() {
            return 5 * MS;
        }
        self.sequence += 1;
        let everything = Operation::Scan {
            from: b"",
            to: b"",
            limit: SCAN_ENTRIES_MAX as u32,
        };
        if self.sequence <= VALUES {
            let key = [b's', self.sequence as u8];
            let value = vec![b's'; 20_000];
            let operation = Operation::Put {
                key: &key,
                value: &value,
            };
            let frame = line.request(self.sequence, 0, &[operation]);
            line.send_all(Kind::Request, &frame);
        } else if random.chance(500) {
            let scans = vec![everything; random.within(1, 4) as usize];
            let frame = line.request(self.sequence, self.sequence - 1, &scans);
            self.sequence += scans.len() as u64 - 1;
            line.send_all(Kind::Request, &frame);
        } else if random.chance(100) {
            for _ in 0..READS {
                let read = plain_read(&Operation::Get { key: b"s" }, Freshness::Fenced, random);
                line.send_all(Kind::Read, &read);
            }
        } else {
            let freshness = if random.chance(500) {
                Freshness::Fenced
            } else {
                Freshness::Stale
            };
            let read = plain_read(&everything, freshness, random);
            line.send_all(Kind::Read, &read);
        }
        random.within(2, 20) * MS
    }
}

fn plain_read(operation: &Operation<'_>, freshness: Freshness, random: &mut Random) -> Vec<u8> {
    let mut builder = OperationsBuilder::new();
    builder.push(operation);
    let (operation, _) = builder.finish();
    let mut read = Vec::new();
    encode_read(
        &mut read,
        random.draw(),
        Epoch(0),
        freshness,
        true,
        &operation,
    );
    read
}
