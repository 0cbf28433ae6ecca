//! The log's disk side: group commit with one write in flight, and reads of old records.
//!
//! The first failed write or flush ends the process: nothing is voted after it, and the flush is
//! never tried again.

use platform::driver::{Driver, FileIndex, Parts, Read, Sync, Write};
use platform::file::LogFile;
use platform::pool::Pool;
use replica::ordering::{Input, ReadBack};
use storage::wal::{Journal, PushError, Sealed, Token};

use super::links::{Inlet, Outlet};
use super::{Failure, ORDER_ROOM_MIN, Shared};
use crate::buffers::{Bytes, Pooled};

/// Tokens of reads carry this bit; the rest is an index.
const READ_BIT: u64 = 1 << 63;
/// Reads under way at most; as many as the ordering half asks for.
const READS_MAX: usize = 64;
/// Segment files for which the table has room before it grows.
const SEGMENTS_EXPECTED: usize = 4096;

/// What arrives from the ordering half.
pub enum JournalInput {
    Append(Sealed<Bytes>),
    Read(ReadBack),
}

pub struct JournalStage {
    pub journal: Journal<Bytes>,
    /// Segment files of the start, until the driver knows them.
    pub unregistered: Vec<LogFile>,
    /// Index of each segment file in the driver.
    pub files: Vec<FileIndex>,
    pub sync: Sync,
    pub from_order: Inlet<JournalInput>,
    pub to_order: Outlet<Input<Pooled>>,
    pub segments: Inlet<LogFile>,
    pub read_pool: Pool,
    pub reads: [Option<ReadBack>; READS_MAX],
    pub shared: Shared,
    /// When the write in flight was handed to the driver.
    pub written_at_ns: u64,
    /// A write the driver had no room for.
    pub postponed: Option<Write>,
    /// An append that the journal's queue had no room for.
    pub overflow: Option<Sealed<Bytes>>,
}

impl JournalStage {
    /// `files`: the segment files that exist, by index.
    pub fn new(
        journal: Journal<Bytes>,
        sync: Sync,
        files: Vec<LogFile>,
        from_order: Inlet<JournalInput>,
        to_order: Outlet<Input<Pooled>>,
        segments: Inlet<LogFile>,
        read_pool: Pool,
        shared: Shared,
    ) -> JournalStage {
        JournalStage {
            journal,
            unregistered: files,
            files: Vec::with_capacity(SEGMENTS_EXPECTED),
            sync,
            from_order,
            to_order,
            segments,
            read_pool,
            reads: [None; READS_MAX],
            shared,
            written_at_ns: 0,
            postponed: None,
            overflow: None,
        }
    }

    /// Takes appends in and starts the next write; true when there was something to do.
    pub fn turn(&mut self, now_ns: u64, driver: &mut dyn Driver) -> Result<bool, Failure> {
        let mut progress = false;
        for file in self.unregistered.drain(..) {
            self.files
                .push(driver.add_file(&file).map_err(Failure::Platform)?);
        }
        while let Some(file) = self.segments.pop() {
            progress = true;
            let index = driver.add_file(&file).map_err(Failure::Platform)?;
            self.files.push(index);
            self.answer(Input::Granted {
                segments: self.files.len() as u32,
            });
        }
        if let Some(sealed) = self.overflow.take() {
            self.push(sealed)?;
        }
        while self.overflow.is_none() {
            let Some(input) = self.from_order.pop() else {
                break;
            };
            progress = true;
            match input {
                JournalInput::Append(sealed) => self.push(sealed)?,
                JournalInput::Read(read) => self.read(driver, read),
            }
        }
        self.write_next(now_ns, driver)?;
        self.to_order.wake();
        Ok(progress)
    }

    /// Records and reads that wait.
    pub fn queued(&self) -> usize {
        self.from_order.queued() + usize::from(self.overflow.is_some())
    }

    /// Queues a record; one that finds the queue full waits, and nothing more is taken in.
    fn push(&mut self, sealed: Sealed<Bytes>) -> Result<(), Failure> {
        match self.journal.push(sealed) {
            Ok(()) => Ok(()),
            Err(PushError::Full(sealed)) => {
                self.overflow = Some(sealed);
                Ok(())
            }
            Err(PushError::Failed(failed)) => Err(Failure::Journal(failed)),
        }
    }

    fn write_next(&mut self, now_ns: u64, driver: &mut dyn Driver) -> Result<(), Failure> {
        if self.postponed.is_none()
            && let Some(batch) = self.journal.next_batch()
        {
            let mut parts = Parts::new();
            let mut batch_bytes = 0;
            for sealed in batch.parts {
                batch_bytes += sealed.shared.0.len();
                parts.push(sealed.shared.0.clone());
            }
            let histograms = &self.shared.telemetry.histograms;
            histograms
                .wal_group_records
                .record(batch.parts.len() as u64);
            self.postponed = Some(Write {
                file: self.files[batch.segment as usize],
                offset: batch.offset,
                parts,
                sync: self.sync,
                token: batch.token.raw(),
            });
            self.written_at_ns = now_ns;
            self.shared
                .telemetry
                .log
                .written_bytes
                .add(batch_bytes as u64);
        }
        if let Some(write) = self.postponed.take()
            && let Err(write) = driver.write(write)
        {
            self.postponed = Some(write);
        }
        Ok(())
    }

    /// A write with its flush came back.
    pub fn written(
        &mut self,
        now_ns: u64,
        token: u64,
        result: Result<(), i32>,
    ) -> Result<(), Failure> {
        self.shared.telemetry.log.flushes.add(1);
        let durable = self
            .journal
            .complete(Token::from_raw(token), result)
            .map_err(Failure::Journal)?;
        self.shared
            .telemetry
            .histograms
            .wal_flush_ns
            .record(now_ns.saturating_sub(self.written_at_ns));
        self.answer(Input::Durable(durable));
        Ok(())
    }

    fn read(&mut self, driver: &mut dyn Driver, read: ReadBack) {
        let free = self.reads.iter().position(Option::is_none);
        let (Some(index), Some(buffer)) = (free, self.read_pool.take()) else {
            return self.answer(Input::ReadDropped);
        };
        let request = Read {
            file: self.files[read.segment as usize],
            offset: read.offset,
            buffer,
            length: read.bytes,
            token: READ_BIT | index as u64,
        };
        if driver.read(request).is_err() {
            return self.answer(Input::ReadDropped);
        }
        self.reads[index] = Some(read);
    }

    /// A read came back.
    pub fn read_done(
        &mut self,
        token: u64,
        buffer: platform::pool::Buffer,
        result: Result<usize, i32>,
    ) {
        let index = (token & !READ_BIT) as usize;
        let read = self.reads[index].take().expect("a read under way");
        match result {
            Ok(length) if length >= read.bytes => {
                let record = Bytes(buffer.freeze().slice(0..read.bytes));
                self.answer(Input::Record { read, record });
            }
            _ => self.answer(Input::ReadDropped),
        }
    }

    fn answer(&mut self, input: Input<Pooled>) {
        // The ring has room for every record and read under way: the ordering half bounds both.
        if self.to_order.push(input).is_err() {
            panic!("the ordering half keeps room for {ORDER_ROOM_MIN} answers of the journal");
        }
    }
}
