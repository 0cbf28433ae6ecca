//! Snapshot files: written piece by piece, named when they are durable.

use replica::replica::Input;
use replica::saving::Piece;

use super::{Event, World};
use crate::plan::{MS, US};
use crate::probes::Probe;

/// The file that a replica writes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UnderWay {
    /// Counts files that were given up.
    file: u64,
    /// One step after the other.
    busy_until: u64,
    /// The last one is on its way.
    ending: bool,
}

impl World {
    /// A replica's next step of writing a snapshot.
    pub(super) fn snapshot(&mut self, node: usize, piece: Piece) {
        let incarnation = self.nodes[node].incarnation;
        let disk = &mut self.nodes[node].disk;
        let named = piece == Piece::End;
        match piece {
            Piece::Begin { slot } => {
                disk.begin_snapshot(slot);
                self.snapshots[node].ending = false;
            }
            Piece::Bytes(bytes) => disk.extend_snapshot(&bytes),
            Piece::End => self.snapshots[node].ending = true,
            Piece::Abort => {
                let ending = std::mem::take(&mut self.snapshots[node].ending);
                if ending && self.random.chance(500) {
                    // It was too late; but nobody hears of it.
                    disk.name_snapshot(self.plan.table_memory_bytes.is_some());
                }
                self.nodes[node].disk.abort_snapshot();
                self.snapshots[node].file += 1;
                return;
            }
        }
        let takes_ns = if named {
            self.random.within(100 * US, 20 * MS)
        } else {
            self.random.within(10 * US, 500 * US)
        };
        let takes_ns = self.slowed(node, takes_ns);
        let under_way = &mut self.snapshots[node];
        under_way.busy_until = under_way.busy_until.max(self.now) + takes_ns;
        let (at_ns, file) = (under_way.busy_until, under_way.file);
        let event = Event::Piece {
            node,
            incarnation,
            file,
            named,
        };
        self.at(at_ns, event);
    }

    /// A step was carried out; the last one is in two parts, with a moment between them.
    pub(super) fn piece(&mut self, node: usize, file: u64, named: bool) -> Result<(), String> {
        // Of a file that was given up nothing is answered.
        if self.snapshots[node].file != file {
            return Ok(());
        }
        if named {
            self.snapshots[node].ending = false;
            let disk = &mut self.nodes[node].disk;
            disk.name_snapshot(self.plan.table_memory_bytes.is_some());
            self.probes.hit(Probe::SnapshotWritten);
            if self.random.chance(800) {
                self.nodes[node].disk.remove_old_snapshots();
            }
        }
        let result = Ok(());
        self.feed(node, Input::PieceWritten { result })
    }
}
