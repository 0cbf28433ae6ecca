//! The whole state at a checkpoint in the copy that a table keeps on disk: brought up to date while
//! later blocks execute, found again at a start.
//!
//! [`FlushWriter`] leaves what changed since the flush before: the table's entries, then notes. They
//! become visible at once, with the last of them, so the copy is always of one certified checkpoint.
//!
//! | note | holds |
//! |---|---|
//! | `c` | the checkpoint's certificate |
//! | `h` | the summary of the state |
//! | `k` | how many keys each bucket has |
//! | `n`, number (u16, big-endian) | an inner node of the tree |
//! | `s`, bucket (u16, big-endian) | the sessions of a bucket, cell by cell |

use std::sync::Arc;

use storage::machine::StateMachine;
use storage::state::{CellItems, Unserved, join};
use storage::table::write_note;
use wire::certificates::CheckpointCertificate;
use wire::ids::{Digest, Slot};
use wire::seal::{Compound, StateProof, Verifier};
use wire::state::{BUCKETS_PER_NODE, Bucket, Leaf, NODES, Node, Part, Summary};

use crate::execution::Execution;
use crate::recovery::SavedUnusable;
use crate::snapshot::SnapshotFailed;

mod stream;

pub use stream::{Next, StreamWriter};

const CERTIFICATE: &[u8] = b"c";
pub(crate) const SUMMARY: &[u8] = b"h";
const COUNTS: &[u8] = b"k";
const NODE: u8 = b'n';
const SESSIONS: u8 = b's';

fn numbered(kind: u8, number: u16) -> [u8; 3] {
    let [high, low] = number.to_be_bytes();
    [kind, high, low]
}

/// Under which name a copy has an inner node.
pub(crate) fn node_note(index: u8) -> [u8; 3] {
    numbered(NODE, u16::from(index))
}

/// What comes next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Begin,
    Entries,
    Certificate,
    Summary,
    Counts,
    Node(u8),
    Sessions(u16),
    End,
}

/// Hands out one flush; see the module's documentation.
#[derive(Debug)]
pub struct FlushWriter {
    slot: Slot,
    root: Digest,
    certificate: Vec<u8>,
    step: Step,
    note: Vec<u8>,
}

impl FlushWriter {
    /// Of the checkpoint that is pinned with `Hold::Open` and ready, and has this certificate.
    pub fn new(certificate: &CheckpointCertificate) -> FlushWriter {
        FlushWriter {
            slot: certificate.header.slot(),
            root: certificate.root,
            certificate: certificate.encode(),
            step: Step::Begin,
            note: Vec::new(),
        }
    }

    /// The checkpoint's slot.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Appends what comes next, a bucket of entries or a note, to `out`. False, with nothing appended,
    /// when everything was handed out.
    pub fn next<M: StateMachine>(
        &mut self,
        execution: &mut Execution<M>,
        out: &mut Vec<u8>,
    ) -> Result<bool, SnapshotFailed> {
        let pinned = execution.pinned().filter(|pinned| pinned.ready);
        if pinned.is_none_or(|pinned| pinned.slot != self.slot) {
            return Err(Unserved::NotPinned.into());
        }
        self.note.clear();
        loop {
            self.step = match self.step {
                Step::Begin => {
                    execution.serve(self.slot, Part::Summary, &mut self.note)?;
                    let summary = Summary::parse(&self.note).expect("our own bytes");
                    let (found, expected) = (summary.root(), self.root);
                    if found != expected {
                        return Err(SnapshotFailed::WrongRoot { found, expected });
                    }
                    self.note.clear();
                    execution.flush_begin();
                    Step::Entries
                }
                Step::Entries if execution.flush_entries(out) => return Ok(true),
                Step::Entries => Step::Certificate,
                Step::Certificate => {
                    write_note(CERTIFICATE, &self.certificate, out);
                    self.step = Step::Summary;
                    return Ok(true);
                }
                Step::Summary => {
                    execution.serve(self.slot, Part::Summary, &mut self.note)?;
                    write_note(SUMMARY, &self.note, out);
                    self.step = Step::Counts;
                    return Ok(true);
                }
                Step::Counts => {
                    execution
                        .copy()
                        .expect("it is flushed")
                        .counts(&mut self.note);
                    write_note(COUNTS, &self.note, out);
                    self.step = Step::Node(0);
                    return Ok(true);
                }
                Step::Node(index) => {
                    execution.serve(self.slot, Part::Node(index), &mut self.note)?;
                    write_note(&node_note(index), &self.note, out);
                    self.step = match index.checked_add(1) {
                        Some(next) if usize::from(next) < NODES => Step::Node(next),
                        _ => Step::Sessions(0),
                    };
                    return Ok(true);
                }
                Step::Sessions(number) => match Bucket::new(number) {
                    None => Step::End,
                    Some(bucket) => {
                        let next = number.checked_add(1).map_or(Step::End, Step::Sessions);
                        if execution.flush_sessions(bucket, &mut self.note) {
                            write_note(&sessions_note(bucket), &self.note, out);
                            self.step = next;
                            return Ok(true);
                        }
                        next
                    }
                },
                Step::End => return Ok(false),
            };
        }
    }
}

/// What a copy says of the state as a whole.
#[derive(Clone, Debug)]
pub struct CopyHead {
    /// Of this state; its signatures were not verified.
    pub certificate: CheckpointCertificate,
    pub summary: Summary,
    /// As the summary says.
    pub nodes: Vec<Node>,
    counts: Vec<u8>,
}

impl CopyHead {
    /// Reads it; `note` gives what was noted under a name, if anything was.
    pub fn read<E: From<SavedUnusable>>(
        mut note: impl FnMut(&[u8]) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<CopyHead, E> {
        let mut must = |name: &[u8]| -> Result<Vec<u8>, E> {
            note(name)?.ok_or(SavedUnusable::OtherState.into())
        };
        let certificate = CheckpointCertificate::decode(&must(CERTIFICATE)?);
        let certificate = certificate.map_err(SavedUnusable::Uncertified)?;
        let summary = must(SUMMARY)?;
        let summary = Summary::parse(&summary).map_err(|_| SavedUnusable::OtherState)?;
        if (summary.root(), summary.head.slot()) != (certificate.root, certificate.header.slot()) {
            return Err(SavedUnusable::OtherState.into());
        }
        let mut nodes = Vec::with_capacity(NODES);
        for (index, digest) in (0..).zip(&summary.nodes) {
            let node = must(&node_note(index))?;
            let node = Node::parse(&node).map_err(|_| SavedUnusable::OtherState)?;
            if node.digest() != *digest {
                return Err(SavedUnusable::OtherState.into());
            }
            nodes.push(node.clone());
        }
        Ok(CopyHead {
            certificate,
            summary: summary.clone(),
            nodes,
            counts: must(COUNTS)?,
        })
    }

    /// Whether a bucket of these items of the machine and of the sessions is the one in the tree.
    pub fn holds(&self, bucket: Bucket, items: &CellItems, sessions: &CellItems) -> bool {
        let node = &self.nodes[bucket.index() / BUCKETS_PER_NODE];
        let leaf = node.leaves[bucket.index() % BUCKETS_PER_NODE];
        Leaf::of(&join(items, sessions)) == Some(leaf)
    }
}

/// Under which name a copy has the sessions of a bucket.
pub fn sessions_note(bucket: Bucket) -> [u8; 3] {
    numbered(SESSIONS, bucket.number())
}

/// Goes on from the state in the table's copy, if there is one: verifies the certificate and the
/// tree, and gives the sessions to the fresh execution. Entries are read when they are asked for.
pub(crate) fn reopen<M: StateMachine, V: Verifier>(
    execution: &mut Execution<M>,
    compound: &mut Compound<V>,
) -> Result<Option<StateProof>, SavedUnusable> {
    let Some(table) = execution.copy().filter(|table| !table.is_blank()) else {
        return Ok(None);
    };
    let read = |name: &[u8]| {
        let mut note = Vec::new();
        let as_of = table.copy_as_of();
        table.note(as_of, name, &mut note).then_some(note)
    };
    let head = CopyHead::read(|name| Ok::<_, SavedUnusable>(read(name)))?;
    let certificate = head.certificate;
    let proof = compound
        .state(certificate)
        .map_err(SavedUnusable::Uncertified)?;
    resume(execution, head, Arc::new(certificate))?;
    Ok(Some(proof))
}

/// Goes on from the state that the table's copy has now, with this certificate, instead of the present
/// one.
pub(crate) fn adopt<M: StateMachine>(
    execution: &mut Execution<M>,
    certificate: Arc<CheckpointCertificate>,
) -> Result<(), SavedUnusable> {
    execution.renew();
    let table = execution.copy().expect("a state was streamed into it");
    let as_of = table.copy_as_of();
    let head = CopyHead::read(|name| {
        let mut note = Vec::new();
        Ok::<_, SavedUnusable>(table.note(as_of, name, &mut note).then_some(note))
    })?;
    if head.certificate != *certificate {
        return Err(SavedUnusable::OtherState);
    }
    resume(execution, head, certificate)
}

fn resume<M: StateMachine>(
    execution: &mut Execution<M>,
    head: CopyHead,
    certificate: Arc<CheckpointCertificate>,
) -> Result<(), SavedUnusable> {
    let table = execution.copy().expect("its head was read");
    let as_of = table.copy_as_of();
    let mut sessions = Vec::new();
    for bucket in Bucket::all() {
        let mut note = Vec::new();
        if table.note(as_of, &sessions_note(bucket), &mut note) {
            let items = CellItems::decode(&note).ok_or(SavedUnusable::OtherState)?;
            sessions.push((bucket, items));
        }
    }
    if !execution.recount(&head.counts) {
        return Err(SavedUnusable::OtherState);
    }
    execution.resume(certificate, head.summary, head.nodes, &sessions)?;
    Ok(())
}

#[cfg(test)]
mod tests;
