//! The state and its root in the plainest way. Formats and rules stand here once more on purpose.

use std::collections::BTreeMap;

use wire::ids::{Digest, PublicKey};
use wire::ops::ResultBuffer;
use wire::state::Cell;

/// One operation of the model's clients.
#[derive(Clone, Debug)]
pub enum Deed {
    Put(u8, u8),
    Get(u8),
    Delete(u8),
}

#[derive(Clone, Debug, Default)]
pub struct Session {
    pub id: u64,
    pub low: u64,
    pub last_slot: u64,
    /// Slot and result, or its digest, by sequence.
    pub results: BTreeMap<u64, (u64, Vec<u8>)>,
}

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub slot: u64,
    pub time_ns: u64,
    pub transactions: u64,
    pub entries: BTreeMap<Vec<u8>, Vec<u8>>,
    pub sessions: BTreeMap<PublicKey, Session>,
}

/// Long enough that its result is kept as a digest for some bytes.
pub fn value(byte: u8) -> Vec<u8> {
    vec![byte; usize::from(byte)]
}

impl Model {
    pub fn begin(&mut self, time_ns: u64) {
        self.slot += 1;
        self.time_ns = self.time_ns.max(time_ns.min(self.time_ns + 10_000_000_000));
    }

    pub fn open(&mut self, client: PublicKey, index: u64) {
        let (slot, id) = (self.slot, self.slot << 16 | index);
        self.sessions.entry(client).or_insert(Session {
            id,
            last_slot: slot,
            ..Session::default()
        });
    }

    pub fn request(&mut self, client: PublicKey, first: u64, acked: u64, deeds: &[Deed]) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        session.low = session.low.max(acked.min(first - 1));
        session.results = session.results.split_off(&(session.low + 1));
        for (sequence, deed) in (first..).zip(deeds) {
            let inside = sequence > session.low && sequence <= session.low + 1024;
            if !inside || session.results.contains_key(&sequence) {
                continue;
            }
            let mut out = ResultBuffer::new();
            match deed {
                Deed::Put(key, byte) => {
                    self.entries.insert(vec![*key], value(*byte));
                    out.done();
                }
                Deed::Get(key) => match self.entries.get(&vec![*key]) {
                    Some(value) => out.value(value),
                    None => out.absent(),
                },
                Deed::Delete(key) => match self.entries.remove(&vec![*key]) {
                    Some(_) => out.done(),
                    None => out.absent(),
                },
            }
            session
                .results
                .insert(sequence, (self.slot, out.bytes().to_vec()));
            session.last_slot = self.slot;
            self.transactions += 1;
        }
    }

    pub fn root(&self) -> Digest {
        let mut cells: BTreeMap<Cell, (Vec<u8>, Vec<u8>)> = BTreeMap::new();
        for (key, value) in &self.entries {
            let out = &mut cells.entry(Cell::of_key(key)).or_default().0;
            out.extend((key.len() as u16).to_le_bytes());
            out.extend((value.len() as u32).to_le_bytes());
            out.extend(key);
            out.extend(value);
        }
        for (client, session) in &self.sessions {
            let out = &mut cells.entry(Cell::of_client(client)).or_default().1;
            out.extend(client.0);
            for number in [session.id, session.low, session.last_slot] {
                out.extend(number.to_le_bytes());
            }
            out.extend((session.results.len() as u16).to_le_bytes());
            for (sequence, (slot, result)) in &session.results {
                out.extend(((sequence - session.low) as u16).to_le_bytes());
                out.extend(slot.to_le_bytes());
                if result.len() <= 64 {
                    out.push(result.len() as u8);
                    out.extend(result);
                } else {
                    out.push(254);
                    out.extend(blake3::derive_key("hippodrome/1/result", result));
                }
            }
        }
        let mut top = Vec::new();
        for number in [self.slot, self.time_ns, self.transactions, 0] {
            top.extend(number.to_le_bytes());
        }
        // No change is pending.
        top.extend([0; 72]);
        // Of each bucket: the digests of its cells, which they are, and the length of its bytes.
        let mut buckets = vec![(Vec::new(), [0_u8; 32], 0_u64); 4096];
        let key = blake3::derive_key("hippodrome/1/state-cell", &[]);
        for (cell, (entries, sessions)) in &cells {
            let length = (entries.len() as u64).to_le_bytes();
            let content = [&length[..], entries, sessions].concat();
            let (digests, held, bytes) = &mut buckets[cell.bucket().index()];
            digests.extend(blake3::keyed_hash(&key, &content).as_bytes());
            held[usize::from(cell.index()) / 8] |= 1 << (cell.index() % 8);
            *bytes += 9 + content.len() as u64;
        }
        for node in buckets.chunks(64) {
            let mut leaves = Vec::new();
            for (digests, held, bytes) in node {
                let covered = [&digests[..], held].concat();
                leaves.extend(blake3::derive_key("hippodrome/1/state-bucket", &covered));
                leaves.extend(bytes.to_le_bytes());
            }
            top.extend(blake3::derive_key("hippodrome/1/state-node", &leaves));
        }
        Digest(blake3::derive_key("hippodrome/1/state-root", &top))
    }
}
