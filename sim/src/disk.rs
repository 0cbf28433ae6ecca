//! A simulated disk: segment files of sectors, one write with its flush under way.
//!
//! What was flushed survives a crash. Of the write under way any subset of its pieces does, whole
//! sectors or half kilobytes, as the plan says.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use storage::Identity;
use storage::record::{HEADER_BYTES, Kind};
use storage::table::{Flush, MapStore};
use storage::wal::{BodyFound, Geometry, SegmentInfo, SegmentSource, examine};
use wire::ids::{Position, Slot};
use wire::limits::SECTOR_BYTES;

use crate::buffers::Shared;
use crate::random::Random;

type Sector = [u8; SECTOR_BYTES];

/// A write that was handed over and has not ended.
#[derive(Debug)]
struct Pending {
    segment: u32,
    /// Number of the first sector.
    first: u64,
    bytes: Vec<u8>,
}

/// One replica's disk; it outlives the process.
#[derive(Debug)]
pub struct Disk {
    segment_bytes: u64,
    segments: u32,
    stable: BTreeMap<(u32, u64), Box<Sector>>,
    /// What was stable at some earlier time.
    image: BTreeMap<(u32, u64), Box<Sector>>,
    /// Written, said to be flushed, and not stable: only a lying disk has such.
    volatile: Vec<Pending>,
    pending: Option<Pending>,
    /// Snapshot files that are durable under their names, by slot, and what they were at the time
    /// of the image.
    snapshots: BTreeMap<u64, Rc<[u8]>>,
    snapshots_image: BTreeMap<u64, Rc<[u8]>>,
    /// The store of a table on disk, the checkpoint in it, and what they were at the time of the image.
    table: (MapStore, Slot),
    table_image: (MapStore, Slot),
    /// The file that is being written, or the pieces of a flush.
    new_snapshot: Option<(u64, Vec<Vec<u8>>)>,
    /// Flushes do nothing (canary `nosync`).
    lies: bool,
    /// The smallest piece that is written as a whole.
    atom_bytes: usize,
}

impl Disk {
    pub fn new(segment_bytes: u64, segments: u32, atom_bytes: usize, lies: bool) -> Disk {
        Disk {
            segment_bytes,
            segments,
            stable: BTreeMap::new(),
            image: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            snapshots_image: BTreeMap::new(),
            table: (MapStore::default(), Slot(0)),
            table_image: (MapStore::default(), Slot(0)),
            new_snapshot: None,
            volatile: Vec::new(),
            pending: None,
            lies,
            atom_bytes,
        }
    }

    pub fn segments(&self) -> u32 {
        self.segments
    }

    /// Adds zeroed files up to this number.
    pub fn grow(&mut self, segments: u32) {
        self.segments = self.segments.max(segments);
    }

    /// Everything is gone (canary `blank`).
    pub fn erase(&mut self) {
        self.stable.clear();
        self.snapshots.clear();
        self.table = (MapStore::default(), Slot(0));
        self.new_snapshot = None;
        self.volatile.clear();
        self.pending = None;
    }

    /// Snapshots and table are gone.
    pub fn lose_state(&mut self) {
        self.snapshots.clear();
        self.table = (MapStore::default(), Slot(0));
    }

    /// Takes a write; it is stable once [`Disk::complete`] was called.
    pub fn begin(&mut self, segment: u32, offset: u64, parts: &[Shared]) {
        assert!(self.pending.is_none(), "one write at a time");
        let bytes = parts.iter().map(|part| &part[..]).collect::<Vec<_>>();
        let bytes = bytes.concat();
        let sector = SECTOR_BYTES as u64;
        assert!(offset.is_multiple_of(sector) && bytes.len().is_multiple_of(SECTOR_BYTES));
        assert!(segment < self.segments && offset + bytes.len() as u64 <= self.segment_bytes);
        self.pending = Some(Pending {
            segment,
            first: offset / sector,
            bytes,
        });
    }

    /// The write under way has ended and was flushed.
    pub fn complete(&mut self) {
        let pending = self.pending.take().expect("a write under way");
        if self.lies {
            self.volatile.push(pending);
        } else {
            self.settle(&pending, |_| true);
        }
    }

    /// Power or process gone: of what was not flushed, some pieces reach the disk.
    pub fn crash(&mut self, random: &mut Random) {
        // A start removes what has no name yet.
        self.new_snapshot = None;
        let mut unsynced = std::mem::take(&mut self.volatile);
        unsynced.extend(self.pending.take());
        for pending in &unsynced {
            // All, nothing, or any subset.
            match random.below(4) {
                0 => {}
                1 => self.settle(pending, |_| true),
                _ => self.settle(pending, |_| random.chance(500)),
            }
        }
    }

    fn settle(&mut self, pending: &Pending, mut keep: impl FnMut(usize) -> bool) {
        let atoms = self.atom_bytes;
        for (index, sector) in pending.bytes.chunks_exact(SECTOR_BYTES).enumerate() {
            let at = (pending.segment, pending.first + index as u64);
            for (atom, piece) in sector.chunks_exact(atoms).enumerate() {
                if keep(atom) {
                    let stored = self
                        .stable
                        .entry(at)
                        .or_insert_with(|| Box::new([0; SECTOR_BYTES]));
                    stored[atom * atoms..(atom + 1) * atoms].copy_from_slice(piece);
                }
            }
        }
    }

    /// Keeps what is stable now.
    pub fn take_image(&mut self) {
        self.image = self.stable.clone();
        self.snapshots_image = self.snapshots.clone();
        self.table_image = (self.table.0.copy(), self.table.1);
    }

    /// Puts everything back to the image.
    pub fn roll_back(&mut self) {
        self.stable = self.image.clone();
        self.snapshots = self.snapshots_image.clone();
        self.table = (self.table_image.0.copy(), self.table_image.1);
    }

    /// Begins a snapshot file beside the one there is.
    pub fn begin_snapshot(&mut self, slot: Slot) {
        self.new_snapshot = Some((slot.0, Vec::new()));
    }

    /// Appends to the new snapshot file.
    pub fn extend_snapshot(&mut self, bytes: &[u8]) {
        if let Some((_, held)) = &mut self.new_snapshot {
            held.push(bytes.to_vec());
        }
    }

    /// The new snapshot file is durable under its name; older ones are still there. Or a flush of the
    /// `table` is.
    pub fn name_snapshot(&mut self, table: bool) {
        let Some((slot, pieces)) = self.new_snapshot.take() else {
            return;
        };
        if !table {
            self.snapshots.insert(slot, pieces.concat().into());
            return;
        }
        let mut flush = Flush::new(self.table.0.run());
        for piece in &pieces {
            let Ok(()) = flush.add(piece);
        }
        let Ok(()) = flush.finish();
        self.table.1 = Slot(slot);
    }

    /// The store of a table on disk.
    pub fn table(&self) -> &MapStore {
        &self.table.0
    }

    /// The checkpoint of the newest snapshot file or flush; 0: there is none.
    pub fn saved(&self) -> Slot {
        let file = self.snapshots.last_key_value();
        file.map_or(Slot(0), |(slot, _)| Slot(*slot))
            .max(self.table.1)
    }

    /// Only the newest snapshot file stays.
    pub fn remove_old_snapshots(&mut self) {
        while self.snapshots.len() > 1 {
            self.snapshots.pop_first();
        }
    }

    /// What was begun is removed.
    pub fn abort_snapshot(&mut self) {
        self.new_snapshot = None;
    }

    /// The newest snapshot file.
    pub fn snapshot(&self) -> Option<(u64, Rc<[u8]>)> {
        let newest = self.snapshots.last_key_value();
        newest.map(|(slot, bytes)| (*slot, Rc::clone(bytes)))
    }

    fn some_sector(&self, random: &mut Random) -> Option<(u32, u64)> {
        let index = random.below((self.stable.len() as u64).max(1));
        self.stable.keys().nth(index as usize).copied()
    }

    /// Flips a bit in each of so many sectors.
    pub fn flip(&mut self, random: &mut Random, sectors: u32) {
        for _ in 0..sectors {
            if let Some(at) = self.some_sector(random) {
                let bit = random.below(8 * SECTOR_BYTES as u64) as usize;
                let sector = self.stable.get_mut(&at).expect("it was just named");
                sector[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    /// Zeroes so many sectors.
    pub fn zero(&mut self, random: &mut Random, sectors: u32) {
        for _ in 0..sectors {
            if let Some(at) = self.some_sector(random) {
                self.stable.remove(&at);
            }
        }
    }

    /// Flips a bit in the body of each of so many blocks that later records show to have been
    /// acknowledged.
    pub fn lose_blocks(
        &mut self,
        random: &mut Random,
        blocks: u32,
        geometry: &Geometry,
        identity: &Identity,
    ) {
        let mut bodies = Vec::new();
        let examined = examine(self, geometry, identity, &mut |found| {
            let is_block = |header: &storage::record::Header| {
                matches!(header.kind, Kind::Block | Kind::FetchedBlock)
            };
            if let (Some(segment), BodyFound::Good(body)) = (found.segment, found.body)
                && found.header.as_ref().is_some_and(is_block)
            {
                bodies.push((found.position, segment, body.len()));
            }
        });
        bodies.retain(|(position, ..)| *position < examined.floor);
        for _ in 0..blocks.min(bodies.len() as u32) {
            let index = random.below(bodies.len() as u64) as usize;
            let (position, segment, bytes) = bodies.swap_remove(index);
            let byte = HEADER_BYTES + random.below(bytes as u64) as usize;
            let sector = geometry.offset_of(position) / SECTOR_BYTES as u64;
            let at = (segment, sector + (byte / SECTOR_BYTES) as u64);
            let held = self
                .stable
                .entry(at)
                .or_insert_with(|| Box::new([0; SECTOR_BYTES]));
            held[byte % SECTOR_BYTES] ^= 1 << random.below(8);
        }
    }

    /// Whether the log lacks the bytes of a block that was acknowledged, or the state that it was let
    /// go behind is not there.
    pub fn lacks_anything(&mut self, geometry: &Geometry, identity: &Identity) -> bool {
        let mut torn = Vec::new();
        let examined = examine(self, geometry, identity, &mut |found| {
            if found.body == BodyFound::Torn {
                torn.push(found.position);
            }
        });
        let stateless = examined.low > Position(0) && self.saved() == Slot(0);
        stateless || torn.iter().any(|position| *position < examined.floor)
    }

    /// Lets two sectors change places.
    pub fn swap(&mut self, random: &mut Random) {
        let (one, other) = (self.some_sector(random), self.some_sector(random));
        if let (Some(one), Some(other)) = (one, other) {
            let first = self.stable[&one].clone();
            let second = self.stable.insert(other, first).expect("it was just named");
            self.stable.insert(one, second);
        }
    }

    /// Lets so many sectors show what they held in the image.
    pub fn bring_back(&mut self, random: &mut Random, sectors: u32) {
        for _ in 0..sectors {
            let Some(at) = self.some_sector(random) else {
                return;
            };
            match self.image.get(&at) {
                Some(old) => drop(self.stable.insert(at, old.clone())),
                None => drop(self.stable.remove(&at)),
            }
        }
    }

    /// Sectors that hold anything.
    pub fn sectors(&self) -> usize {
        self.stable.len()
    }
}

impl SegmentSource for Disk {
    fn segments(&self) -> Vec<SegmentInfo> {
        let bytes = self.segment_bytes;
        (0..self.segments)
            .map(|index| SegmentInfo { index, bytes })
            .collect()
    }

    fn read(&mut self, segment: u32, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if segment >= self.segments || offset + into.len() as u64 > self.segment_bytes {
            return Err(io::Error::other("read beyond the file"));
        }
        into.fill(0);
        let first = offset / SECTOR_BYTES as u64;
        let end = first + (into.len() / SECTOR_BYTES) as u64;
        for (&(_, sector), bytes) in self.stable.range((segment, first)..(segment, end)) {
            let at = (sector - first) as usize * SECTOR_BYTES;
            into[at..at + SECTOR_BYTES].copy_from_slice(&bytes[..]);
        }
        // What a lying disk holds in memory is read back until the crash.
        for pending in &self.volatile {
            for (index, bytes) in pending.bytes.chunks_exact(SECTOR_BYTES).enumerate() {
                let sector = pending.first + index as u64;
                if pending.segment == segment && (first..end).contains(&sector) {
                    let at = (sector - first) as usize * SECTOR_BYTES;
                    into[at..at + SECTOR_BYTES].copy_from_slice(bytes);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(disk: &mut Disk) -> u8 {
        let mut sector = [0; SECTOR_BYTES];
        disk.read(0, 0, &mut sector).unwrap();
        sector[0]
    }

    #[test]
    fn flushed_sectors_survive_and_others_may_not() {
        let part = Shared::copy_from(&[7; SECTOR_BYTES]);
        let mut lost = 0;
        for seed in 0..64 {
            let mut disk = Disk::new(8 * SECTOR_BYTES as u64, 1, SECTOR_BYTES, false);
            disk.begin(0, 0, std::slice::from_ref(&part));
            disk.complete();
            disk.begin(0, SECTOR_BYTES as u64, std::slice::from_ref(&part));
            disk.crash(&mut Random::new(seed));
            assert_eq!(written(&mut disk), 7);
            lost += usize::from(disk.sectors() == 1);
        }
        assert!((8..56).contains(&lost), "{lost}");
    }

    #[test]
    fn harm_is_done() {
        let parts = [1, 2, 3].map(|byte| Shared::copy_from(&[byte; SECTOR_BYTES]));
        let fresh = || {
            let mut disk = Disk::new(8 * SECTOR_BYTES as u64, 1, SECTOR_BYTES, false);
            disk.begin(0, 0, &parts[..2]);
            disk.complete();
            disk.take_image();
            disk.begin(0, SECTOR_BYTES as u64, &parts[2..]);
            disk.complete();
            disk
        };
        let held = |disk: &Disk| disk.stable.values().map(|s| s[0]).collect::<Vec<_>>();
        assert_eq!(held(&fresh()), [1, 3]);
        let mut disk = fresh();
        disk.roll_back();
        assert_eq!(held(&disk), [1, 2]);
        let random = &mut Random::new(1);
        let mut disk = fresh();
        disk.bring_back(random, 20);
        assert_eq!(held(&disk), [1, 2]);
        let mut disk = fresh();
        (0..21).for_each(|_| disk.swap(random));
        let mut sorted = held(&disk);
        sorted.sort_unstable();
        assert_eq!(sorted, [1, 3]);
        let mut disk = fresh();
        disk.zero(random, 20);
        assert_eq!(disk.sectors(), 0);
        let mut disk = fresh();
        disk.flip(random, 1);
        let ones = |disk: &Disk| {
            let bytes = disk.stable.values().flat_map(|sector| sector.iter());
            bytes.map(|byte| byte.count_ones()).sum::<u32>()
        };
        assert_eq!(ones(&disk).abs_diff(ones(&fresh())), 1);
    }

    #[test]
    fn a_lying_disk_reads_back_what_it_loses() {
        let part = Shared::copy_from(&[7; SECTOR_BYTES]);
        let lost = (0..64).filter(|&seed| {
            let mut disk = Disk::new(8 * SECTOR_BYTES as u64, 1, SECTOR_BYTES, true);
            disk.begin(0, 0, std::slice::from_ref(&part));
            disk.complete();
            assert_eq!(written(&mut disk), 7);
            disk.crash(&mut Random::new(seed));
            written(&mut disk) == 0
        });
        assert!(lost.count() > 8);
    }
}
