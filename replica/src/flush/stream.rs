//! A state that comes from others on its way into the table's copy, bucket by bucket.

use storage::machine::StateMachine;
use storage::state::split;
use storage::table::{Flushing, entries, write_note, write_replacement};
use wire::certificates::CheckpointCertificate;
use wire::ids::Slot;
use wire::state::{BUCKETS, Bucket, NODES};
use zerocopy::IntoBytes;

use super::{CERTIFICATE, COUNTS, SUMMARY, node_note, sessions_note};
use crate::execution::Execution;
use crate::transfer::Transfer;

/// Bytes of the counts of one bucket: keys, and bytes of keys and values.
const COUNT_BYTES: usize = 2 * size_of::<u64>();

#[derive(Clone, Copy, Debug)]
enum Step {
    Buckets,
    Certificate,
    Summary,
    Counts,
    Node(u8),
    /// The first of the buckets whose sessions are to be noted.
    Sessions(usize),
    End,
}

/// What [`StreamWriter::next`] had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Something was appended.
    Bytes,
    /// Buckets are still to come.
    Nothing,
    /// Everything was handed out.
    End,
}

/// Hands out what replaces the state in the copy by that of a transfer: the buckets that differ, then
/// notes, as [`super::FlushWriter`] does.
#[derive(Debug)]
pub struct StreamWriter {
    slot: Slot,
    certificate: Vec<u8>,
    counts: Vec<u8>,
    /// Of buckets that were replaced.
    sessions: Vec<(Bucket, Vec<u8>)>,
    step: Step,
}

impl StreamWriter {
    /// Of a transfer that was started with [`Execution::copied_leaves`].
    pub fn new(certificate: &CheckpointCertificate, table: &dyn Flushing) -> StreamWriter {
        let mut counts = Vec::new();
        if !table.note(table.copy_as_of(), COUNTS, &mut counts) {
            counts = vec![0; BUCKETS * COUNT_BYTES];
        }
        StreamWriter {
            slot: certificate.header.slot(),
            certificate: certificate.encode(),
            counts,
            sessions: Vec::new(),
            step: Step::Buckets,
        }
    }

    /// The checkpoint's slot.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Appends what comes next to `out`.
    pub fn next<M: StateMachine>(
        &mut self,
        execution: &mut Execution<M>,
        transfer: &mut Transfer,
        out: &mut Vec<u8>,
    ) -> Next {
        if let Step::Buckets = self.step {
            if let Some((bucket, bytes)) = transfer.next_bucket() {
                // A bucket that no correct replica writes cannot have a certified hash.
                execution
                    .check_bucket(bucket, &bytes)
                    .expect("I11: a certified state can be installed");
                self.replace(bucket, &bytes, out);
                return Next::Bytes;
            }
            if transfer.drained().is_none() {
                return Next::Nothing;
            }
            self.step = Step::Certificate;
        }
        let (summary, mut nodes) = transfer.drained().expect("it was a moment ago");
        self.step = match self.step {
            Step::Buckets => unreachable!("they were handed out"),
            Step::Certificate => {
                write_note(CERTIFICATE, &self.certificate, out);
                Step::Summary
            }
            Step::Summary => {
                write_note(SUMMARY, summary.as_bytes(), out);
                Step::Counts
            }
            Step::Counts => {
                write_note(COUNTS, &self.counts, out);
                Step::Node(0)
            }
            Step::Node(index) => {
                let node = nodes.nth(usize::from(index)).expect("all are known");
                write_note(&node_note(index), node.as_bytes(), out);
                if usize::from(index) + 1 < NODES {
                    Step::Node(index + 1)
                } else {
                    Step::Sessions(0)
                }
            }
            Step::Sessions(at) => match self.sessions.get(at) {
                Some((bucket, sessions)) => {
                    write_note(&sessions_note(*bucket), sessions, out);
                    Step::Sessions(at + 1)
                }
                None => Step::End,
            },
            Step::End => Step::End,
        };
        match self.step {
            Step::End => Next::End,
            _ => Next::Bytes,
        }
    }

    fn replace(&mut self, bucket: Bucket, bytes: &[u8], out: &mut Vec<u8>) {
        let (items, sessions) = split(bytes).expect("checked before");
        write_replacement(bucket, items.bytes(), out);
        let (mut keys, mut key_bytes) = (0u64, 0u64);
        for (key, value) in entries(items.bytes()) {
            keys += 1;
            key_bytes += (key.len() + value.len()) as u64;
        }
        let counts = &mut self.counts[bucket.index() * COUNT_BYTES..][..COUNT_BYTES];
        counts[..8].copy_from_slice(&keys.to_le_bytes());
        counts[8..].copy_from_slice(&key_bytes.to_le_bytes());
        let mut noted = Vec::new();
        sessions.encode(&mut noted);
        self.sessions.push((bucket, noted));
    }
}
