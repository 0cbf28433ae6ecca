//! A transfer that hands its buckets out in order, for a copy on disk.

use wire::state::{BUCKETS, Bucket, Leaf, NODES, Node, Summary};

use super::{Transfer, Unit};

/// Verified buckets of a stream that wait for the one before them, in bytes.
const STREAM_AHEAD_BYTES: usize = 16 << 20;

/// What a stream hands out.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// None until it is known what the copy has.
    pub(super) differing: Option<Vec<Bucket>>,
    /// Of these, how many were handed out.
    handed_out: usize,
}

impl Transfer {
    /// Whether this is a stream that is to be told what the copy has.
    pub fn awaits_start(&self) -> bool {
        let waits = |stream: &Stream| stream.differing.is_none();
        self.progress.nodes == NODES && self.stream.as_ref().is_some_and(waits)
    }

    /// Hands out buckets that differ from these; the copy that has them does not change until the
    /// stream ends.
    pub fn start_stream(&mut self, copied: &[Option<Leaf>]) {
        assert!(self.awaits_start() && copied.len() == BUCKETS);
        let mut held = std::mem::take(&mut self.held);
        held.retain(|bucket, (held, _)| *held == self.leaf(*bucket));
        self.held = held;
        let mut differing = Vec::new();
        for (bucket, copied) in Bucket::all().zip(copied) {
            let leaf = self.leaf(bucket);
            if *copied != Some(leaf) {
                differing.push(bucket);
                self.progress.buckets_differing += 1;
                self.progress.bytes_differing += leaf.bytes();
                self.want_bucket(bucket, leaf);
            }
        }
        let stream = self.stream.as_mut().expect("it awaits its start");
        stream.differing = Some(differing);
    }

    /// Whether this is a stream that was started.
    pub fn is_started(&self) -> bool {
        let started = |stream: &Stream| stream.differing.is_some();
        self.stream.as_ref().is_some_and(started)
    }

    /// Whether this is a stream that asks for nothing because nobody takes what is here.
    pub fn is_held_up(&self) -> bool {
        self.stream.is_some() && (self.awaits_start() || self.is_complete() || self.is_ahead())
    }

    /// The next bucket of a stream, if it is here.
    pub fn next_bucket(&mut self) -> Option<(Bucket, Vec<u8>)> {
        let bucket = self.due()?;
        let leaf = self.leaf(bucket);
        self.held.get(&bucket).filter(|(held, _)| *held == leaf)?;
        let (_, bytes) = self.held.remove(&bucket)?;
        self.stream.as_mut()?.handed_out += 1;
        Some((bucket, bytes))
    }

    /// Everything of a stream was handed out: what was it of?
    pub fn drained(&self) -> Option<(&Summary, impl Iterator<Item = &Node>)> {
        let is_drained = self.is_complete() && self.stream.is_some() && self.due().is_none();
        let summary = self.summary.as_ref().filter(|_| is_drained)?;
        Some((summary, self.nodes.iter().flatten()))
    }

    /// The bucket that a stream hands out next.
    fn due(&self) -> Option<Bucket> {
        let stream = self.stream.as_ref()?;
        stream.differing.as_ref()?.get(stream.handed_out).copied()
    }

    /// Whether a stream waits for buckets to be taken: it asks for none ahead but the one that is due.
    pub(super) fn is_ahead(&self) -> bool {
        let Some(due) = self.due() else {
            return false;
        };
        let held: usize = self.held.values().map(|(_, bytes)| bytes.len()).sum();
        held >= STREAM_AHEAD_BYTES && self.wanted.front() != Some(&Unit::Bucket(due))
    }
}
