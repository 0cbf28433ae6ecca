//! Checkpoints, snapshots, and states that come from others and go to them.

use std::fmt::Error;

use super::Page;
use crate::telemetry::Telemetry;

impl Page<'_> {
    pub(super) fn states(&mut self, telemetry: &Telemetry) -> Result<(), Error> {
        let (transfers, snapshots) = (&telemetry.transfers, &telemetry.snapshots);
        self.gauge(
            "checkpoint_slot",
            "Slot of the newest certified state that this node holds",
            telemetry.order.checkpoint_slot.get(),
        )?;
        self.gauge(
            "retained_from_slot",
            "Lowest slot whose block can still be sent to others",
            telemetry.order.retained_from.get(),
        )?;
        self.counter(
            "snapshots",
            "Snapshot files written, or times that the table on disk was brought up to date",
            snapshots.written.get(),
        )?;
        self.counter(
            "snapshot_failures",
            "Snapshot files or runs of the table that could not be written",
            snapshots.failures.get(),
        )?;
        self.gauge(
            "snapshot_given_up",
            "1 when a snapshot could not be written and the node ends",
            u64::from(snapshots.given_up.get()),
        )?;
        self.gauge(
            "snapshot_slot",
            "Slot of the newest snapshot file, or of the table on disk",
            snapshots.slot.get(),
        )?;
        self.gauge(
            "snapshot_bytes",
            "Size of the newest snapshot file, or of the table on disk",
            snapshots.bytes.get(),
        )?;
        let table = &telemetry.table;
        self.gauge(
            "table_memory_bytes",
            "Entries of a table on disk that memory holds",
            table.memory_bytes.get(),
        )?;
        self.gauge(
            "table_disk_bytes",
            "Files of the table on disk",
            table.disk_bytes.get(),
        )?;
        self.gauge(
            "table_files",
            "Files that the table on disk consists of",
            table.tables.get(),
        )?;
        self.gauge(
            "table_runs",
            "Sorted runs of the table on disk that wait to be merged",
            table.runs.get(),
        )?;
        self.gauge(
            "state_transfer_active",
            "1 while the state is taken over from others",
            u64::from(transfers.active.get()),
        )?;
        self.counter(
            "state_transfers",
            "States taken over from others",
            transfers.installed.get(),
        )?;
        self.counter(
            "state_transfer_bytes",
            "Bytes of states taken in and verified",
            transfers.taken_bytes.get(),
        )?;
        self.counter(
            "state_transfer_served_bytes",
            "Bytes of states sent to others",
            transfers.served_bytes.get(),
        )?;
        self.counter(
            "state_transfer_refused_chunks",
            "Parts of a state that were false or not asked for",
            transfers.refused.get(),
        )
    }
}
