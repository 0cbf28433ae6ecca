//! What a start makes of a data directory: the replica as its log left it.

use std::fmt::Display;
use std::sync::Arc;

use platform::pool::Pool;
use replica::agreement::quorum::Quorums;
use replica::execution::Execution;
use replica::recovery::{RestartError, Restarted, Saved, restart};
use storage::superblock::Superblock;
use storage::table::DiskStore;
use storage::wal::SegmentSource;
use wire::committee::{self, Committee};
use wire::header::HEADER_BYTES;
use wire::ids::NodeId;

use crate::assembly::{Assembly, verifying};
use crate::buffers::Pooled;
use crate::config::{Config, Table};
use crate::datadir::{SnapshotFile, tables};
use crate::exit::{Exit, ExitContext, Refusal};
use crate::machine::Machine;
use crate::run::Segments;

/// Keys that the table has room for before it grows its index the first time.
const KEYS_EXPECTED: usize = 1 << 20;
/// The replica as its log left it.
pub struct Restored {
    pub(crate) execution: Execution<Machine>,
    pub(crate) restarted: Restarted<Pooled>,
    /// The table on disk, if that is where it is.
    pub(crate) store: Option<DiskStore>,
}

impl Restored {
    pub fn boot(&self) -> u32 {
        self.restarted.boot.0
    }

    pub fn decided(&self) -> u64 {
        self.restarted.recovered.decided.slot.0
    }

    /// Where this process begins silent, and until which slot (R3).
    pub fn silent_until(&self) -> Option<u64> {
        let recovered = &self.restarted.recovered;
        let low = recovered
            .checkpoint
            .map_or(0, |known| known.header.slot().0);
        Some(recovered.forgotten.0).filter(|forgotten| low < *forgotten)
    }

    /// Why it begins silent.
    pub fn why_silent(&self) -> String {
        let restarted = &self.restarted;
        match (restarted.lost_blocks, restarted.lacks_state) {
            (0, false) => {
                "an earlier process ended uncleanly under durability = lease and may have \
                           forgotten votes"
                    .to_owned()
            }
            (0, true) => {
                "the state that the log was let go behind is not on this disk, and others \
                          are asked for theirs"
                    .to_owned()
            }
            (blocks, _) => format!(
                "the log lacks {blocks} block(s) whose bytes rotted, and votes for them may be \
                 forgotten; check the disk"
            ),
        }
    }

    /// What the log and the snapshots came to.
    pub fn restarted(&self) -> &Restarted<Pooled> {
        &self.restarted
    }

    pub fn undecided(&self) -> usize {
        self.restarted.undecided.len()
    }
}

/// The state machine of a committee, in memory and holding nothing.
pub fn machine(committee: &Committee) -> Result<Machine, Refusal> {
    Ok(Machine::new(
        committee.state_machine(),
        seed()?,
        KEYS_EXPECTED,
    ))
}

/// The state machine over a table on disk.
pub fn machine_over(store: &DiskStore, config: &Config) -> Result<Machine, Refusal> {
    let memory_bytes = config.storage.table_memory_bytes;
    Ok(Machine::over(store.clone(), seed()?, memory_bytes))
}

/// A key for the hash of keys.
fn seed() -> Result<[u64; 2], Refusal> {
    let entropy = crate::keyfile::entropy().or_exit(Exit::Failure, "no randomness")?;
    let mut seed = [0u64; 2];
    for (word, bytes) in seed.iter_mut().zip(entropy.chunks_exact(8)) {
        *word = bytes
            .iter()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    Ok(seed)
}

/// The table of a node, if it is on disk. One that is damaged is set aside for an empty one: others
/// have the state.
fn open_table(node: &Assembly<'_>) -> Result<Option<DiskStore>, Refusal> {
    let (data, storage) = (&node.directory.path, &node.config.storage);
    let has_keys = node.committee.state_machine() == committee::StateMachine::Kv;
    if storage.table == Table::Disk && has_keys {
        if tables::is_marked(data) {
            set_table_aside(node, &"a read of it failed before")?;
        }
        let opened = match tables::open(data, storage.table_cache_bytes) {
            Err(error) if error.is_damage() => {
                set_table_aside(node, &error)?;
                tables::open(data, storage.table_cache_bytes)
            }
            opened => opened,
        };
        return opened.map(Some).map_err(|error| tables::refusal(&error));
    }
    let path = tables::table_path(data);
    if path.exists() {
        return Err(Refusal::preflight(format!(
            "{} holds the state of this node, and storage.table is memory; a node that began with \
             disk stays with it: set storage.table = \"disk\"",
            path.display()
        )));
    }
    Ok(None)
}

fn set_table_aside(node: &Assembly<'_>, why: &dyn Display) -> Result<(), Refusal> {
    let aside = tables::set_aside(&node.directory.path);
    let aside = aside.or_exit(Exit::Failure, "cannot set the damaged table aside")?;
    tracing::error!(
        "the table is damaged: {why}. It is now {}, and others are asked for the state; check the \
         disk",
        aside.display()
    );
    Ok(())
}

/// What a start reads of a data directory.
pub struct Stored<'a, Src> {
    pub superblock: &'a Superblock,
    /// Newest first.
    pub snapshots: &'a [SnapshotFile],
    pub segments: &'a mut Src,
    /// Holds the blocks that are not decided.
    pub blocks: &'a Pool,
}

/// Begins from the newest snapshot that can be used, reads the log and executes what is decided.
/// Writes nothing. `reply_bytes`: of a reply at most.
pub fn replay<Src: SegmentSource>(
    committee: &Committee,
    me: NodeId,
    machine: Machine,
    reply_bytes: usize,
    stored: Stored<'_, Src>,
) -> Result<Restored, RestartError> {
    let execution = Execution::new(me, committee.n(), machine, reply_bytes);
    let mut execution = execution.with_committee(Arc::new(committee.clone()));
    let mut verifying = verifying(committee);
    let files = stored.snapshots;
    let mut pieces = files.iter().map(|file| file.pieces()).collect::<Vec<_>>();
    let saved = files.iter().zip(&mut pieces).map(|(file, pieces)| Saved {
        name: file.name(),
        pieces,
    });
    let restarted = restart(
        me,
        &Quorums::of(committee),
        stored.segments,
        &stored.superblock.geometry,
        &stored.superblock.identity(),
        committee.genesis(),
        &mut execution,
        &mut verifying,
        &mut Pooled(stored.blocks.clone()),
        saved,
    )?;
    Ok(Restored {
        execution,
        restarted,
        store: None,
    })
}

/// Reads the log, executes what is decided, and makes what was read durable.
pub fn restore(node: &Assembly<'_>, segments: &mut Segments) -> Result<Restored, Refusal> {
    let mut store = open_table(node)?;
    let reply_bytes = node.datagram_bytes.min(crate::run::SEND_BUFFER_BYTES) - HEADER_BYTES;
    let files = &node.directory.snapshots;
    let (committee, me) = (node.committee, node.shared.me);
    let mut restored = loop {
        let machine = match &store {
            Some(store) => machine_over(store, node.config)?,
            None => machine(committee)?,
        };
        let stored = Stored {
            superblock: &node.directory.superblock,
            snapshots: files,
            segments: &mut *segments,
            blocks: &node.pools.blocks,
        };
        match replay(committee, me, machine, reply_bytes, stored) {
            // An empty one can be used.
            Err(RestartError::TableUnusable(reason)) => {
                drop(store.take());
                set_table_aside(node, &reason)?;
                store = open_table(node)?;
            }
            replayed => break replayed.or_exit(Exit::Damaged, "write-ahead log")?,
        }
    };
    restored.store = store;
    let restarted = &restored.restarted;
    for (name, reason) in &restarted.unusable {
        tracing::warn!("snapshot {name} is passed over: {reason}");
    }
    let telemetry = &node.shared.telemetry.snapshots;
    if let Some(slot) = restarted.snapshot
        && let Some(file) = files.iter().find(|file| file.slot == slot)
    {
        tracing::info!("began from snapshot {}", file.name());
        // The log is let go behind it, whoever put it there.
        file.sync()
            .or_exit(Exit::Failure, "cannot flush the snapshot")?;
        telemetry.slot.set(slot.0);
        telemetry.bytes.set(file.bytes);
    } else if let Some(slot) = restarted.snapshot {
        tracing::info!("began from the table at slot {slot}");
        telemetry.slot.set(slot.0);
    }
    // What was read may still lie in the system's memory only.
    for file in &segments.files {
        file.sync()
            .or_exit(Exit::Failure, "cannot flush the write-ahead log")?;
    }
    Ok(restored)
}
