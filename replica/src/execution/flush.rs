//! What the table's copy on disk is told, and what it gives back at a start.

use std::sync::Arc;

use storage::machine::StateMachine;
use storage::state::{Bucketed, CellItems, InstallFailed, Malformed, View, empty_leaf};
use storage::table::Flushing;
use wire::certificates::CheckpointCertificate;
use wire::ids::Instant;
use wire::state::{BUCKETS, BUCKETS_PER_NODE, Bucket, Cell, CellMask, Leaf, NODES, Node, Summary};

use super::Execution;
use crate::flush::node_note;

/// How far the sessions are in the copy.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StoredSessions {
    /// What was written before this generation of theirs is there.
    before: u32,
    /// The same, once the flush under way has ended.
    next: u32,
}

impl<M: StateMachine> Execution<M> {
    /// Whether the table keeps a copy of the state on disk.
    pub fn has_copy(&mut self) -> bool {
        self.machine.flushing().is_some()
    }

    /// Bytes that entries take in memory, when there is a copy of them on disk.
    pub fn memory_bytes(&mut self) -> u64 {
        let table = self.machine.flushing();
        table.map_or(0, |table| table.memory_bytes())
    }

    /// The table's copy.
    pub(crate) fn copy(&mut self) -> Option<&dyn Flushing> {
        self.machine.flushing().map(|table| &*table)
    }

    pub(super) fn copy_mut(&mut self) -> &mut dyn Flushing {
        let table = self.machine.flushing();
        table.expect("only a table with a copy is flushed")
    }

    /// Begins to flush the pinned checkpoint.
    pub(crate) fn flush_begin(&mut self) {
        let generation = self.sessions.versions().pinned_generation();
        self.stored_sessions.next = generation.expect("the checkpoint is pinned");
        self.copy_mut().flush_begin();
    }

    /// Appends the entries of one bucket; false when all were handed out.
    pub(crate) fn flush_entries(&mut self, piece: &mut Vec<u8>) -> bool {
        self.copy_mut().flush_next(piece)
    }

    /// Appends the sessions of a bucket as they are in the pinned checkpoint; false, with nothing
    /// appended, if the copy has them.
    pub(crate) fn flush_sessions(&mut self, bucket: Bucket, note: &mut Vec<u8>) -> bool {
        let changed =
            self.sessions.versions().written(bucket) >= self.stored_sessions.before.max(1);
        if changed {
            let mut items = CellItems::new();
            self.sessions
                .write_cells(View::Pinned, bucket, &CellMask::FULL, &mut items);
            items.encode(note);
        }
        changed
    }

    /// Everything that was handed out is durable.
    pub(crate) fn flush_end(&mut self, now: Instant, certificate: Arc<CheckpointCertificate>) {
        self.stored_sessions.before = self.stored_sessions.next;
        self.copy_mut().flush_end();
        self.copied(now, certificate);
    }

    /// Nothing that was handed out is visible.
    pub(crate) fn flush_abort(&mut self) {
        if let Some(table) = self.machine.flushing() {
            table.flush_abort();
        }
    }

    /// Drops entries that the disk has from memory when that holds too much, of so many buckets at
    /// most. True when there is more to do.
    pub fn evict(&mut self, buckets: usize) -> bool {
        let table = self.machine.flushing();
        table.is_some_and(|table| table.evict(buckets))
    }

    /// How many keys the copy has; false, with nothing changed, if this does not say that.
    pub(crate) fn recount(&mut self, counts: &[u8]) -> bool {
        self.copy_mut().recount(counts)
    }

    /// Leaves of the state in the table's copy, by bucket; none where that is not known.
    pub(crate) fn copied_leaves(&mut self) -> Vec<Option<Leaf>> {
        let table = self
            .copy()
            .expect("only a table with a copy is streamed to");
        if table.is_blank() {
            return vec![Some(empty_leaf()); BUCKETS];
        }
        let mut leaves = Vec::with_capacity(BUCKETS);
        for index in 0..NODES as u8 {
            let mut note = Vec::new();
            table.note(table.copy_as_of(), &node_note(index), &mut note);
            match Node::parse(&note) {
                Ok(node) => leaves.extend(node.leaves.map(Some)),
                Err(_) => leaves.extend([None; BUCKETS_PER_NODE]),
            }
        }
        leaves
    }

    /// Whether these are the bytes of a bucket that the state can have.
    pub(crate) fn check_bucket(&mut self, bucket: Bucket, bytes: &[u8]) -> Result<(), Malformed> {
        let (_, parts) = self.apart();
        parts.check_bucket(bucket, bytes)
    }

    /// The copy holds another state: forgets the present one. [`Execution::resume`] comes next.
    pub(crate) fn renew(&mut self) {
        let (checkpoints, mut parts) = self.apart();
        checkpoints.renew(&mut parts);
        self.copy_mut().renew();
        for bucket in Bucket::all() {
            self.sessions.replace_bucket(bucket, &[]);
        }
    }

    /// Goes on from the state in the table's copy; nothing is changed on an error. The nodes are
    /// those of the summary.
    pub(crate) fn resume(
        &mut self,
        certificate: Arc<CheckpointCertificate>,
        summary: Summary,
        nodes: Vec<Node>,
        sessions: &[(Bucket, CellItems)],
    ) -> Result<(), InstallFailed> {
        for (bucket, items) in sessions {
            for (index, items) in items.cells() {
                self.sessions.check_cell(Cell::new(*bucket, index), items)?;
            }
        }
        for (bucket, items) in sessions {
            self.sessions.replace_bucket(*bucket, items.bytes());
        }
        let head = summary.head;
        let (checkpoints, mut parts) = self.apart();
        checkpoints.resume(summary, nodes, &mut parts);
        // What was just put there was written before this.
        self.stored_sessions.before = self.sessions.versions().generation();
        self.executed = head.slot();
        self.time_ns = head.time_ns();
        self.transactions = head.transactions();
        self.reconfiguration.install(&head);
        self.copied(Instant(0), certificate);
        Ok(())
    }
}
