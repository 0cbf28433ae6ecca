//! What the table's copy on disk is told, and what it gives back at a start.

use std::sync::Arc;

use storage::machine::StateMachine;
use storage::state::{Bucketed, InstallFailed, View};
use storage::table::Flushing;
use wire::certificates::CheckpointCertificate;
use wire::ids::Instant;
use wire::state::{Bucket, Node, Summary};

use super::Execution;

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
            self.sessions.write_bucket(View::Pinned, bucket, note);
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

    /// Goes on from the state in the table's copy; nothing is changed on an error. The nodes are
    /// those of the summary.
    pub(crate) fn resume(
        &mut self,
        certificate: Arc<CheckpointCertificate>,
        summary: Summary,
        nodes: Vec<Node>,
        sessions: &[(Bucket, Vec<u8>)],
    ) -> Result<(), InstallFailed> {
        for (bucket, section) in sessions {
            self.sessions.check_bucket(*bucket, section)?;
        }
        for (bucket, section) in sessions {
            self.sessions.replace_bucket(*bucket, section);
        }
        let head = summary.head;
        let (checkpoints, mut parts) = self.apart();
        checkpoints.resume(summary, nodes, &mut parts);
        // What was just put there was written before this.
        self.stored_sessions.before = self.sessions.versions().generation();
        self.executed = head.slot();
        self.time_ns = head.time_ns();
        self.transactions = head.transactions();
        self.copied(Instant(0), certificate);
        Ok(())
    }
}
