//! The whole state at a checkpoint as a file: written while later blocks execute, read at a start.
//!
//! [`SnapshotWriter`] takes the parts of a pinned checkpoint one by one and leaves a frame for
//! each; [`SnapshotReader`] takes the file's bytes in any cut, checks every sum and every hash up
//! to the root in the header, and gives an [`Installation`] for a fresh execution. The format is
//! in [`storage::snapshot`].
//!
//! That the root is the certified one shows the certificate in the file, which the caller
//! verifies.

use storage::machine::StateMachine;
use storage::snapshot::{
    FrameKind, FrameReader, SnapshotDamaged, SnapshotHeader, SnapshotTrailer, write_frame,
};
use storage::state::{Unserved, empty_leaf};
use thiserror::Error;
use wire::ids::{ClusterId, Digest, NodeId, Slot};
use wire::state::{Bucket, Leaf, NODES, Node, Part, Summary};
use zerocopy::IntoBytes;

use crate::execution::Execution;
use crate::transfer::{Installation, leaf_in};

/// Why no snapshot could be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SnapshotFailed {
    /// The checkpoint was given up, for lack of memory, or never pinned.
    #[error(transparent)]
    Unserved(#[from] Unserved),
    /// The state differs from the certified one: this replica has diverged.
    #[error("the state at the checkpoint has the root {found}, not {expected}")]
    WrongRoot { found: Digest, expected: Digest },
}

/// What comes next in a file.
#[derive(Clone, Copy, Debug)]
enum Step {
    Header,
    Certificate,
    Summary,
    Node(usize),
    Piece(Bucket, u32),
    Trailer,
    End,
}

impl Step {
    fn kind(self) -> Option<FrameKind> {
        Some(match self {
            Step::Header => FrameKind::Header,
            Step::Certificate => FrameKind::Certificate,
            Step::Summary => FrameKind::Part(Part::Summary),
            Step::Node(node) => FrameKind::Part(Part::Node(node as u8)),
            Step::Piece(bucket, index) => FrameKind::Part(Part::Piece { bucket, index }),
            Step::Trailer => FrameKind::Trailer,
            Step::End => return None,
        })
    }

    /// The step after this one; `nodes` are those seen so far.
    fn next(self, nodes: &[Node]) -> Step {
        match self {
            Step::Header => Step::Certificate,
            Step::Certificate => Step::Summary,
            Step::Summary => Step::Node(0),
            Step::Node(node) if node + 1 < NODES => Step::Node(node + 1),
            Step::Node(_) => Step::first_piece(nodes, 0),
            Step::Piece(bucket, index) => {
                let leaf = leaf_in(&nodes[bucket.node()], bucket);
                if u64::from(index) + 1 < leaf.pieces() {
                    Step::Piece(bucket, index + 1)
                } else {
                    Step::first_piece(nodes, bucket.index() + 1)
                }
            }
            Step::Trailer | Step::End => Step::End,
        }
    }

    /// The first piece of the first bucket from `start` on that holds something.
    fn first_piece(nodes: &[Node], start: usize) -> Step {
        let empty = empty_leaf();
        Bucket::all()
            .skip(start)
            .find(|bucket| leaf_in(&nodes[bucket.node()], *bucket) != empty)
            .map_or(Step::Trailer, |bucket| Step::Piece(bucket, 0))
    }
}

/// Writes one snapshot; see the module's documentation.
#[derive(Debug)]
pub struct SnapshotWriter {
    header: SnapshotHeader,
    certificate: Vec<u8>,
    step: Step,
    nodes: Vec<Node>,
    frames: u64,
    bytes: u64,
    body: Vec<u8>,
}

impl SnapshotWriter {
    /// Of the checkpoint at `slot`, which is pinned with `Hold::Open` and ready. `chain`: digest of
    /// the block at the slot; `root`: the certified state root.
    pub fn new(
        cluster: ClusterId,
        node: NodeId,
        slot: Slot,
        chain: Digest,
        root: Digest,
    ) -> SnapshotWriter {
        SnapshotWriter {
            header: SnapshotHeader::new(cluster, node, slot, chain, root),
            certificate: Vec::new(),
            step: Step::Header,
            nodes: Vec::with_capacity(NODES),
            frames: 0,
            bytes: 0,
            body: Vec::new(),
        }
    }

    /// With the encoded certificate of the checkpoint, so that the file proves itself.
    pub fn with_certificate(mut self, certificate: Vec<u8>) -> SnapshotWriter {
        self.certificate = certificate;
        self
    }

    /// The checkpoint's slot.
    pub fn slot(&self) -> Slot {
        self.header.slot()
    }

    /// Appends the next frame, at most `FRAME_BYTES_MAX` bytes, to `out`. False, with nothing
    /// appended, when the file is whole; then call [`Execution::close_snapshot`], as after an
    /// error.
    pub fn next<M: StateMachine>(
        &mut self,
        execution: &mut Execution<M>,
        out: &mut Vec<u8>,
    ) -> Result<bool, SnapshotFailed> {
        let Some(kind) = self.step.kind() else {
            return Ok(false);
        };
        self.body.clear();
        match kind {
            FrameKind::Header => self.body.extend_from_slice(self.header.as_bytes()),
            FrameKind::Certificate => self.body.extend_from_slice(&self.certificate),
            FrameKind::Part(part) => {
                execution.serve(self.header.slot(), part, &mut self.body)?;
                self.note(part)?;
            }
            FrameKind::Trailer => {
                let trailer = SnapshotTrailer::new(self.frames, self.bytes);
                self.body.extend_from_slice(trailer.as_bytes());
            }
        }
        let before = out.len();
        write_frame(kind, &self.body, out);
        self.bytes += (out.len() - before) as u64;
        self.frames += 1;
        self.step = self.step.next(&self.nodes);
        Ok(true)
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn note(&mut self, part: Part) -> Result<(), SnapshotFailed> {
        match part {
            Part::Summary => {
                let summary = Summary::parse(&self.body).expect("our own bytes");
                let (found, expected) = (summary.root(), self.header.root);
                if found != expected {
                    return Err(SnapshotFailed::WrongRoot { found, expected });
                }
            }
            Part::Node(_) => {
                let node = Node::parse(&self.body).expect("our own bytes");
                self.nodes.push(node.clone());
            }
            Part::Piece { .. } => {}
        }
        Ok(())
    }
}

/// Reads one snapshot; see the module's documentation. Holds the whole state until it is installed.
#[derive(Debug)]
pub struct SnapshotReader {
    cluster: ClusterId,
    node: NodeId,
    frames: FrameReader,
    step: Step,
    count: u64,
    header: Option<SnapshotHeader>,
    certificate: Vec<u8>,
    summary: Option<Summary>,
    nodes: Vec<Node>,
    /// The bucket under way.
    bucket: Vec<u8>,
    replaced: Vec<(Bucket, Vec<u8>)>,
    damaged: Option<SnapshotDamaged>,
}

impl SnapshotReader {
    /// Of a snapshot that must belong to this cluster and node.
    pub fn new(cluster: ClusterId, node: NodeId) -> SnapshotReader {
        SnapshotReader {
            cluster,
            node,
            frames: FrameReader::new(),
            step: Step::Header,
            count: 0,
            header: None,
            certificate: Vec::new(),
            summary: None,
            nodes: Vec::with_capacity(NODES),
            bucket: Vec::new(),
            replaced: Vec::new(),
            damaged: None,
        }
    }

    /// Takes the next bytes of the file, any number of them. After an error every call fails.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SnapshotDamaged> {
        if let Some(damaged) = self.damaged {
            return Err(damaged);
        }
        self.frames.push(bytes);
        while self
            .advance()
            .inspect_err(|damaged| self.damaged = Some(*damaged))?
        {}
        Ok(())
    }

    /// The header, as soon as it was read.
    pub fn header(&self) -> Option<&SnapshotHeader> {
        self.header.as_ref()
    }

    /// The encoded certificate, as soon as it was read; nothing about it is verified.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The summary, as soon as it was read and found to be of the root in the header.
    pub fn summary(&self) -> Option<&Summary> {
        self.summary.as_ref()
    }

    /// Frames that were read and found good.
    pub fn frames(&self) -> u64 {
        self.count
    }

    /// What the next frame must hold: after an error, what the bad one should have held. None behind
    /// the trailer.
    pub fn expected(&self) -> Option<FrameKind> {
        self.step.kind()
    }

    /// Buckets read whole, and found good, since the last call; with the trailer those that are
    /// empty. For whoever only looks at the content: the state that [`SnapshotReader::finish`]
    /// gives lacks them.
    pub fn take_buckets(&mut self) -> Vec<(Bucket, Vec<u8>)> {
        std::mem::take(&mut self.replaced)
    }

    /// The whole state and whose it is, when the trailer was read and nothing follows it.
    pub fn finish(self) -> Result<(SnapshotHeader, Installation), SnapshotDamaged> {
        if let Some(damaged) = self.damaged {
            return Err(damaged);
        }
        match (self.step, self.header, self.summary) {
            (Step::End, Some(header), Some(summary)) => Ok((
                header,
                Installation {
                    summary,
                    nodes: self.nodes,
                    replaced: self.replaced,
                },
            )),
            _ => Err(SnapshotDamaged::Truncated {
                at: self.frames.at(),
            }),
        }
    }

    /// Reads one frame; false when more bytes are needed, or none.
    fn advance(&mut self) -> Result<bool, SnapshotDamaged> {
        let at = self.frames.at();
        let Some(kind) = self.step.kind() else {
            return if self.frames.is_empty() {
                Ok(false)
            } else {
                Err(SnapshotDamaged::TrailingBytes { at })
            };
        };
        if self.frames.is_empty() {
            return Ok(false);
        }
        let Some(body) = self.frames.next(kind)? else {
            return Ok(false);
        };
        let wrong = SnapshotDamaged::WrongHash { at };
        match kind {
            FrameKind::Header => {
                self.header = Some(SnapshotHeader::parse(body, self.cluster, self.node)?);
            }
            FrameKind::Certificate => self.certificate.extend_from_slice(body),
            FrameKind::Part(Part::Summary) => {
                let summary = Summary::parse(body).map_err(|_| wrong)?;
                let matches = self.header.is_some_and(|header| {
                    summary.root() == header.root && summary.head.slot() == header.slot()
                });
                self.summary = Some(matches.then(|| summary.clone()).ok_or(wrong)?);
            }
            FrameKind::Part(Part::Node(index)) => {
                let node = Node::parse(body).map_err(|_| wrong)?;
                let expected = self
                    .summary
                    .as_ref()
                    .map(|summary| summary.nodes[usize::from(index)]);
                if expected != Some(node.digest()) {
                    return Err(wrong);
                }
                self.nodes.push(node.clone());
            }
            FrameKind::Part(Part::Piece { bucket, index }) => {
                let leaf = leaf_in(&self.nodes[bucket.node()], bucket);
                if leaf.piece_bytes(index) != Some(body.len()) {
                    return Err(wrong);
                }
                self.bucket.extend_from_slice(body);
                if u64::from(index) + 1 == leaf.pieces() {
                    if Leaf::of(&self.bucket) != Some(leaf) {
                        return Err(wrong);
                    }
                    self.replaced
                        .push((bucket, std::mem::take(&mut self.bucket)));
                }
            }
            FrameKind::Trailer => {
                if body != SnapshotTrailer::new(self.count, at).as_bytes() {
                    return Err(wrong);
                }
                self.add_empty();
            }
        }
        self.count += 1;
        self.step = self.step.next(&self.nodes);
        Ok(true)
    }

    /// Buckets that hold nothing are not in the file, yet they replace what is there.
    fn add_empty(&mut self) {
        let empty = empty_leaf();
        for bucket in Bucket::all() {
            if leaf_in(&self.nodes[bucket.node()], bucket) == empty {
                self.replaced.push((bucket, Vec::new()));
            }
        }
    }
}
