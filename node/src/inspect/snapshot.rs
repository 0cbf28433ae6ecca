//! One snapshot file: every frame's sums, every hash up to the root, and who certified that.

use std::io;

use replica::sessions::{Sessions, clients_of};
use replica::snapshot::SnapshotReader;
use replica::verifying::Verifying;
use storage::machine::StateMachine;
use storage::snapshot::{FrameKind, SnapshotDamaged};
use storage::state::{Malformed, check_bucket, split};
use storage::table::entries;
use wire::certificates::CheckpointCertificate;
use wire::ids::{ClusterId, Digest, NodeId};
use wire::reject::Reject;
use wire::seal::Ed25519Verifier;
use wire::state::{Bucket, Part};

use super::signers::{Signer, judge};
use crate::machine::Machine;

/// What is wrong with a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    #[error("it cannot be read behind byte {at}: {source}")]
    Unreadable { at: u64, source: io::Error },
    #[error("{damaged}; {frame} should stand there")]
    Damaged {
        damaged: SnapshotDamaged,
        frame: String,
    },
    #[error("{0}, though its hash is the one in the tree")]
    Malformed(#[from] Malformed),
    #[error("the certificate in it does not hold: {}", .0.name())]
    Uncertified(Reject),
    #[error("the certificate in it is of another state")]
    OtherState,
}

/// What a snapshot file holds, as far as it could be read.
#[derive(Debug, Default)]
pub struct Report {
    pub node: Option<NodeId>,
    pub slot: Option<u64>,
    pub chain: Option<Digest>,
    pub root: Option<Digest>,
    pub signers: Vec<Signer>,
    /// Signatures that a certificate needs; none without a committee.
    pub signers_needed: Option<usize>,
    pub time_ns: Option<u64>,
    pub transactions: Option<u64>,
    pub bytes: u64,
    /// Good ones, from the first.
    pub frames: u64,
    /// Good ones, from the first, and of these the ones that hold something.
    pub buckets: u64,
    pub buckets_used: u64,
    pub entries: u64,
    pub sessions: u64,
    /// The value of the key that was asked for.
    pub value: Option<Vec<u8>>,
    pub wrong: Option<Wrong>,
}

/// Against what a snapshot is checked.
pub struct Against<'a> {
    pub cluster: ClusterId,
    pub node: NodeId,
    /// Holds nothing.
    pub machine: &'a Machine,
    pub key: Option<&'a [u8]>,
}

/// Reads a file. Holds one piece of it and the bucket under way. `verifying`: none without a
/// committee.
pub fn inspect(
    pieces: &mut dyn Iterator<Item = io::Result<Vec<u8>>>,
    against: &Against<'_>,
    verifying: Option<Verifying<Ed25519Verifier>>,
) -> Report {
    let mut report = Report::default();
    let mut reader = SnapshotReader::new(against.cluster, against.node);
    let sessions = Sessions::new();
    for piece in pieces {
        let piece = match piece {
            Ok(piece) => piece,
            Err(source) => {
                let at = report.bytes;
                report.wrong = Some(Wrong::Unreadable { at, source });
                break;
            }
        };
        report.bytes += piece.len() as u64;
        if report.wrong.is_some() {
            continue;
        }
        // An error is told again at the end.
        let _ = reader.push(&piece);
        for (bucket, bytes) in reader.take_buckets() {
            let counted = report.count(bucket, &bytes, against, &sessions);
            if let Err(malformed) = counted {
                report.wrong.get_or_insert(Wrong::Malformed(malformed));
            }
        }
    }
    report.frames = reader.frames();
    if let Some(summary) = reader.summary() {
        report.time_ns = Some(summary.head.time_ns());
        report.transactions = Some(summary.head.transactions());
    }
    if let Some(header) = reader.header() {
        report.node = Some(header.node());
        report.slot = Some(header.slot().0);
        (report.chain, report.root) = (Some(header.chain), Some(header.root));
    }
    let certified = report.certificate(reader.certificate(), verifying);
    let frame = expected(&reader);
    if let Err(damaged) = reader.finish() {
        let damaged = Wrong::Damaged { damaged, frame };
        report.wrong.get_or_insert(damaged);
    }
    if let Err(wrong) = certified {
        report.wrong.get_or_insert(wrong);
    }
    report
}

/// The frame that comes next, in words.
fn expected(reader: &SnapshotReader) -> String {
    match reader.expected() {
        Some(FrameKind::Header) => "the header".to_owned(),
        Some(FrameKind::Certificate) => "the certificate".to_owned(),
        Some(FrameKind::Part(Part::Summary)) => "the summary".to_owned(),
        Some(FrameKind::Part(Part::Node(node))) => format!("inner node {node}"),
        Some(FrameKind::Part(Part::Piece { bucket, index })) => {
            format!("piece {index} of bucket {}", bucket.number())
        }
        Some(FrameKind::Trailer) => "the trailer".to_owned(),
        None => "nothing".to_owned(),
    }
}

impl Report {
    fn count(
        &mut self,
        bucket: Bucket,
        bytes: &[u8],
        against: &Against<'_>,
        sessions: &Sessions,
    ) -> Result<(), Malformed> {
        self.buckets += 1;
        if bytes.is_empty() {
            return Ok(());
        }
        self.buckets_used += 1;
        check_bucket(against.machine.state(), sessions, bucket, bytes)?;
        let (machine, items) = split(bytes).ok_or(Malformed { bucket })?;
        self.entries += entries(machine.bytes()).count() as u64;
        self.sessions += clients_of(items.bytes()).count() as u64;
        if let Some(key) = against.key
            && Bucket::of_key(key) == bucket
        {
            let found = entries(machine.bytes()).find(|(found, _)| *found == key);
            self.value = found.map(|(_, value)| value.to_vec());
        }
        Ok(())
    }

    /// Whether the certificate holds, and is of this state.
    fn certificate(
        &mut self,
        bytes: &[u8],
        verifying: Option<Verifying<Ed25519Verifier>>,
    ) -> Result<(), Wrong> {
        // The frame behind the header; without it the reader says what is wrong.
        let (Some(root), true) = (self.root, self.frames > 1) else {
            return Ok(());
        };
        let found = CheckpointCertificate::decode(bytes).map_err(Wrong::Uncertified)?;
        let judged = judge(&found, verifying);
        (self.signers, self.signers_needed) = (judged.signers, judged.needed);
        let place = found.place();
        let of_this = (Some(place.slot.0), Some(place.digest), found.root);
        if (self.slot, self.chain, root) != of_this {
            return Err(Wrong::OtherState);
        }
        judged.holds.map_err(Wrong::Uncertified)
    }
}

#[cfg(test)]
mod tests;
