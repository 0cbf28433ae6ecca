//! Everything in a data directory, one line for each item, and whether its node would start.

use std::fs;

use platform::pool::Pool;
use replica::recording::Recording;
use storage::superblock::{Superblock, SuperblockError};
use wire::ids::Slot;
use wire::limits::SECTOR_BYTES;

use super::{Directory, OpenTable, Refusal, log};
use crate::datadir::{self, SnapshotFile, look};
use crate::exit::Exit;
use crate::restore::{self, Stored};
use crate::run;

/// A recording is two reels of some megabytes; what is longer is none.
const RECORDING_BYTES_MAX: u64 = 64 << 20;

/// How an item was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Good,
    Damaged,
    Missing,
    /// Nothing that a start minds.
    Note,
    /// Intact, and yet a start would be refused.
    Refused,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Good => "ok",
            State::Damaged => "damaged",
            State::Missing => "missing",
            State::Note => "note",
            State::Refused => "refused",
        }
    }

    /// Whether the command ends with the code of damaged data.
    pub fn is_bad(self) -> bool {
        !matches!(self, State::Good | State::Note)
    }
}

/// A thing in the directory, how it was found, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub name: String,
    pub state: State,
    pub why: String,
}

/// Judges a directory.
pub fn inspect(directory: &Directory) -> Result<Vec<Item>, Refusal> {
    let mut items = Items(Vec::new());
    let Some(superblock) = items.superblock(directory) else {
        return Ok(items.0);
    };
    items.binding(directory, &superblock);
    let mut segments = match look::SegmentFiles::list(directory.data()) {
        Ok(segments) => segments,
        Err(error) => {
            items.add("wal", State::Missing, format!("cannot be listed: {error}"));
            return Ok(items.0);
        }
    };
    items.log(directory, &superblock, &mut segments);
    let listed = datadir::list_snapshots(&datadir::snapshots_path(directory.data()));
    let snapshots = listed.unwrap_or_else(|error| {
        items.add(
            "snapshots",
            State::Damaged,
            format!("cannot be listed: {error}"),
        );
        Vec::new()
    });
    let table = items.table(directory)?;
    // A state is in one of the two.
    if matches!(table, Table::Absent) || !snapshots.is_empty() {
        items.snapshots(directory, &superblock, &snapshots)?;
    }
    items.start(directory, &superblock, &mut segments, &snapshots, &table)?;
    items.others(directory);
    Ok(items.0)
}

/// The table on disk, as it was found.
enum Table {
    Absent,
    Good(OpenTable),
    Damaged,
}

struct Items(Vec<Item>);

impl Items {
    fn add(&mut self, name: impl Into<String>, state: State, why: impl Into<String>) {
        self.0.push(Item {
            name: name.into(),
            state,
            why: why.into(),
        });
    }

    /// Both copies; the one that counts, if one does.
    fn superblock(&mut self, directory: &Directory) -> Option<Superblock> {
        let counts = directory.superblock();
        for (_, name, copy) in look::superblock_copies(directory.data()) {
            let copy = match copy {
                Ok(copy) => copy,
                Err(error) => {
                    self.add(name, State::Damaged, format!("cannot be read: {error}"));
                    continue;
                }
            };
            match Superblock::load(&copy, &[]).map(|loaded| loaded.superblock) {
                Ok(found) => {
                    let counted = counts.as_ref().ok() == Some(&found);
                    let (state, which) = match counted {
                        true => (State::Good, ""),
                        false => (State::Damaged, ", older than the other"),
                    };
                    self.add(
                        name,
                        state,
                        format!(
                            "sequence {}{which}; cluster {}, node {}, key {}, committee {}",
                            found.sequence,
                            found.cluster,
                            found.node,
                            found.public_key,
                            found.committee
                        ),
                    );
                }
                Err(SuperblockError::NotFormatted) => {
                    self.add(
                        name,
                        State::Missing,
                        "there is no such file, or it is empty",
                    );
                }
                Err(SuperblockError::BothDamaged) => {
                    self.add(
                        name,
                        State::Damaged,
                        "its magic number or checksum is wrong",
                    );
                }
                Err(error) => self.add(name, State::Refused, error.to_string()),
            }
        }
        match counts {
            Ok(superblock) => Some(superblock),
            Err(refusal) => {
                self.add("directory", State::Refused, refusal.to_string());
                None
            }
        }
    }

    /// Whether the directory belongs to the node that the configuration names.
    fn binding(&mut self, directory: &Directory, superblock: &Superblock) {
        let geometry = superblock.geometry;
        let config = &directory.config.storage;
        if let Err(why) = directory.owns(superblock) {
            return self.add("directory", State::Refused, why);
        }
        if config.segment_bytes != geometry.segment_bytes
            || config.segments_max < geometry.segments_max
        {
            let why = format!(
                "it was formatted with {} segments of {} bytes, the configuration says {} of {}",
                geometry.segments_max,
                geometry.segment_bytes,
                config.segments_max,
                config.segment_bytes
            );
            return self.add("directory", State::Refused, why);
        }
        self.add(
            "directory",
            State::Good,
            format!(
                "of node {} in cluster {}",
                superblock.node, superblock.cluster
            ),
        );
    }

    /// Segment files and the log in them.
    fn log(
        &mut self,
        directory: &Directory,
        superblock: &Superblock,
        segments: &mut look::SegmentFiles,
    ) {
        let geometry = &superblock.geometry;
        let mut judge = directory.judge(superblock, true);
        let mut first = None;
        let report = log::inspect(
            segments,
            geometry,
            &superblock.identity(),
            &mut judge,
            &mut |row| {
                if row.state == log::State::Damaged && first.is_none() {
                    first = Some(row);
                }
            },
        );
        let mut next = 0;
        for found in &report.examined.segments {
            let (index, bytes) = (found.info.index, found.info.bytes);
            if index != next {
                let name = format!("wal segments {next} to {}", index - 1);
                self.add(name, State::Missing, "a later one is there");
            }
            next = index.saturating_add(1);
            let name = format!("wal segment {index}");
            let (state, why) = if bytes != geometry.segment_bytes {
                let formatted = geometry.segment_bytes;
                (
                    State::Damaged,
                    format!("{bytes} bytes instead of {formatted}"),
                )
            } else if found.is_foreign {
                let why = "begins with a record of another cluster, node or log".to_owned();
                (State::Damaged, why)
            } else {
                let holds = match (found.sequence, found.newest) {
                    (_, Some(newest)) if newest < report.examined.low => {
                        "released records alone, to be used again".to_owned()
                    }
                    (Some(sequence), Some(newest)) => {
                        let start = geometry.start_of(sequence);
                        format!("records from position {start}, the last at {newest}")
                    }
                    _ => "no record yet".to_owned(),
                };
                (State::Good, format!("{bytes} bytes; {holds}"))
            };
            self.add(name, state, why);
        }
        let mut why = format!(
            "{} records, {} bytes, from position {}, acknowledged up to {}; {}",
            report.records,
            report.bytes,
            report.examined.low,
            report.examined.floor,
            report.verdict_text()
        );
        if let Some(row) = first {
            why += &format!(
                "; {} damaged, the first at position {}",
                report.damaged, row.position
            );
        }
        if report.unsound > 0 {
            why += &format!("; {} blocks that a liar sent", report.unsound);
        }
        let state = match report.is_damaged() {
            true => State::Damaged,
            false => State::Good,
        };
        self.add("wal", state, why);
    }

    fn snapshots(
        &mut self,
        directory: &Directory,
        superblock: &Superblock,
        snapshots: &[SnapshotFile],
    ) -> Result<(), Refusal> {
        for file in snapshots {
            let report = directory.snapshot(Some(superblock), file, None)?;
            let name = format!("snapshot {}", file.slot);
            match &report.wrong {
                Some(wrong) => self.add(name, State::Damaged, wrong.to_string()),
                None if report.slot != Some(file.slot.0) => {
                    let why = format!("its name is of another slot than {:?}", report.slot);
                    self.add(name, State::Damaged, why);
                }
                None => {
                    let why = format!(
                        "{} bytes, {} entries, {} sessions, signed by {} nodes",
                        report.bytes,
                        report.entries,
                        report.sessions,
                        report.signers.len()
                    );
                    self.add(name, State::Good, why);
                }
            }
        }
        if snapshots.is_empty() {
            self.add("snapshots", State::Note, "none yet");
        }
        Ok(())
    }

    /// The table on disk, if there is one that a start can read.
    fn table(&mut self, directory: &Directory) -> Result<Table, Refusal> {
        let table = match directory.table() {
            Ok(None) => return Ok(Table::Absent),
            Ok(Some(table)) => table,
            Err(refusal) if refusal.exit == Exit::Damaged => {
                self.add("table", State::Damaged, refusal.to_string());
                return Ok(Table::Damaged);
            }
            Err(refusal) => return Err(refusal),
        };
        let report = directory.inspect_table(&table, None);
        match (&report.wrong, report.slot) {
            (Some(wrong), _) => {
                let more = match report.more_wrong {
                    0 => String::new(),
                    more => format!("; and {more} more"),
                };
                self.add("table", State::Damaged, format!("{wrong}{more}"));
                return Ok(Table::Damaged);
            }
            (None, None) => self.add("table", State::Note, "nothing in it yet"),
            (None, Some(slot)) => {
                let why = format!(
                    "slot {slot}, {} bytes in {} files, {} entries, {} sessions, signed by {} nodes",
                    report.bytes,
                    report.files,
                    report.entries,
                    report.sessions,
                    report.signers.len()
                );
                self.add("table", State::Good, why);
            }
        }
        Ok(Table::Good(table))
    }

    /// What a start makes of the log and the state on disk together.
    fn start(
        &mut self,
        directory: &Directory,
        superblock: &Superblock,
        segments: &mut look::SegmentFiles,
        snapshots: &[SnapshotFile],
        table: &Table,
    ) -> Result<(), Refusal> {
        let Some(committee) = &directory.committee else {
            return Ok(());
        };
        let blocks: Pool = run::block_pool(committee.n())?;
        let stored = Stored {
            superblock,
            snapshots,
            segments,
            blocks: &blocks,
        };
        let machine = match table {
            Table::Good(table) => restore::machine_over(&table.store, &directory.config)?,
            Table::Absent => restore::machine(committee)?,
            Table::Damaged => {
                let why = "not tried: what it reads of a damaged table ends the process";
                self.add("start", State::Note, why);
                return Ok(());
            }
        };
        let me = superblock.node;
        match restore::replay(committee, me, machine, SECTOR_BYTES, stored) {
            Err(error) => self.add("start", State::Refused, error.to_string()),
            Ok(restored) => {
                let restarted = restored.restarted();
                let low = restarted.tail.low();
                let from = match restarted.snapshot {
                    Some(slot) if matches!(table, Table::Good(_)) => {
                        format!("from the table at slot {slot} and the log from position {low}")
                    }
                    Some(slot) => format!("from snapshot {slot} and the log from position {low}"),
                    None => "from the log alone, which is whole".to_owned(),
                };
                let newest = snapshots.first().map(|file| file.slot);
                let passed = match restarted.unusable.len() {
                    0 => String::new(),
                    passed => format!("; snapshots passed over: {passed}"),
                };
                let stopped = match restarted.clean {
                    true => "stopped cleanly",
                    false => "did not stop cleanly, or never ran",
                };
                let (state, silent) = match restored.silent_until() {
                    Some(slot) => {
                        let why = restored.why_silent();
                        (State::Note, format!("; silent until slot {slot}: {why}"))
                    }
                    None => (State::Good, String::new()),
                };
                self.add(
                    "start",
                    state,
                    format!(
                        "{from} (newest snapshot: {}): {} slots decided, {} blocks undecided; the \
                         last process {stopped}, the next has boot {}{passed}{silent}",
                        newest.map_or_else(|| "none".to_owned(), |slot: Slot| slot.to_string()),
                        restored.decided(),
                        restored.undecided(),
                        restored.boot()
                    ),
                );
            }
        }
        Ok(())
    }

    /// What was left half made, and flight recordings.
    fn others(&mut self, directory: &Directory) {
        for path in look::half_made(directory.data()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let why = "was being made when a process ended; the next start removes it";
            self.add(name, State::Note, why);
        }
        let recordings = fs::read_dir(directory.data().join("recordings"));
        let entries = recordings.into_iter().flatten().flatten();
        let mut paths = entries.map(|entry| entry.path()).collect::<Vec<_>>();
        paths.sort();
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = format!("recording {name}");
            let bytes = fs::metadata(&path).map_or(0, |found| found.len());
            if bytes > RECORDING_BYTES_MAX {
                self.add(name, State::Damaged, "too long for a flight recording");
                continue;
            }
            match fs::read(&path).map(|bytes| Recording::decode(&bytes)) {
                Ok(Ok(recording)) => {
                    let told = recording.description;
                    let why = format!("boot {}, because of: {}", told.boot, told.reason);
                    self.add(name, State::Good, why);
                }
                // No start reads one.
                Ok(Err(error)) => self.add(name, State::Damaged, error.to_string()),
                Err(error) => self.add(name, State::Damaged, format!("cannot be read: {error}")),
            }
        }
    }
}
