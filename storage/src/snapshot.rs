//! Frames of a snapshot file: the whole state at a checkpoint, as a stream.
//!
//! A file is a header frame, the checkpoint's certificate, the summary, all inner nodes, the pieces of every bucket that holds
//! something, in order, and a trailer. Each frame is 24 bytes and its body, at most
//! `PIECE_BYTES_MAX`; two CRC-32 (IEEE) sums guard head and body. That the content is the state
//! which the committee certified is shown by the hashes inside, not by the sums: whoever reads the
//! frames checks them against the root.

use std::io::{self, Read};

use thiserror::Error;
use wire::ids::{ClusterId, Digest, NodeId, Slot};
use wire::state::{PIECE_BYTES_MAX, Part};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Version of the format.
pub const VERSION: u32 = 1;
/// Bytes in front of a frame's body.
pub const FRAME_HEAD_BYTES: usize = 24;
/// Bytes of a frame at most.
pub const FRAME_BYTES_MAX: usize = FRAME_HEAD_BYTES + PIECE_BYTES_MAX;

const MAGIC: [u8; 4] = *b"HSNP";

const HEADER: u8 = 1;
const SUMMARY: u8 = 2;
const NODE: u8 = 3;
const PIECE: u8 = 4;
const TRAILER: u8 = 5;
const CERTIFICATE: u8 = 6;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    Header,
    /// The certificate of the checkpoint, in the encoding of the log.
    Certificate,
    Part(Part),
    Trailer,
}

impl FrameKind {
    fn fields(self) -> (u8, u16, u32) {
        match self {
            FrameKind::Header => (HEADER, 0, 0),
            FrameKind::Certificate => (CERTIFICATE, 0, 0),
            FrameKind::Part(Part::Summary) => (SUMMARY, 0, 0),
            FrameKind::Part(Part::Node(node)) => (NODE, u16::from(node), 0),
            FrameKind::Part(Part::Piece { bucket, index }) => (PIECE, bucket.number(), index),
            FrameKind::Trailer => (TRAILER, 0, 0),
        }
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct FrameHead {
    magic: [u8; 4],
    kind: u8,
    reserved: u8,
    number: U16,
    index: U32,
    length: U32,
    body_crc: U32,
    /// Of the 20 bytes before.
    head_crc: U32,
}

const _: () = assert!(size_of::<FrameHead>() == FRAME_HEAD_BYTES);

/// Why a snapshot cannot be used. Delete the file and fetch the state from the other replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SnapshotDamaged {
    #[error("no snapshot: the magic number at byte {at} is missing")]
    NotASnapshot { at: u64 },
    #[error("the frame at byte {at} is damaged")]
    Frame { at: u64 },
    #[error("the frame at byte {at} is not the one that belongs there")]
    OutOfOrder { at: u64 },
    #[error("version {found} of the format; this program reads version {VERSION}")]
    Version { found: u32 },
    #[error("the snapshot belongs to another cluster")]
    ForeignCluster,
    #[error("the snapshot belongs to node {found}")]
    ForeignNode { found: NodeId },
    #[error("the content of the frame at byte {at} does not have the hash that belongs to it")]
    WrongHash { at: u64 },
    #[error("the snapshot ends at byte {at}, before its trailer")]
    Truncated { at: u64 },
    #[error("bytes follow the trailer, from byte {at} on")]
    TrailingBytes { at: u64 },
}

/// Body of the header frame.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SnapshotHeader {
    version: U32,
    node: U16,
    reserved: [u8; 2],
    cluster: [u8; 16],
    slot: U64,
    /// Digest of the block at the slot.
    pub chain: Digest,
    /// State root of the checkpoint.
    pub root: Digest,
}

const _: () = assert!(size_of::<SnapshotHeader>() == 96);

impl SnapshotHeader {
    /// `chain`: digest of the block at `slot`; `root`: of the state after it.
    pub fn new(
        cluster: ClusterId,
        node: NodeId,
        slot: Slot,
        chain: Digest,
        root: Digest,
    ) -> SnapshotHeader {
        SnapshotHeader {
            version: U32::new(VERSION),
            node: U16::new(node.0),
            reserved: [0; 2],
            cluster: cluster.0,
            slot: U64::new(slot.0),
            chain,
            root,
        }
    }

    pub fn slot(&self) -> Slot {
        Slot(self.slot.get())
    }

    /// Whose snapshot it is.
    pub fn node(&self) -> NodeId {
        NodeId(self.node.get())
    }

    /// The first frame of a file.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(FRAME_HEAD_BYTES + size_of::<SnapshotHeader>());
        write_frame(FrameKind::Header, self.as_bytes(), &mut frame);
        frame
    }

    /// What the first frame of a file says, which is read; nothing of it is checked.
    pub fn read_from_front(file: &mut impl Read) -> io::Result<SnapshotHeader> {
        let mut frame = [0; FRAME_HEAD_BYTES + size_of::<SnapshotHeader>()];
        file.read_exact(&mut frame)?;
        let header = SnapshotHeader::read_from_bytes(&frame[FRAME_HEAD_BYTES..]);
        Ok(header.expect("a header has its length"))
    }

    /// Reads the body of the header frame of a snapshot that must belong to this node.
    pub fn parse(
        body: &[u8],
        cluster: ClusterId,
        node: NodeId,
    ) -> Result<SnapshotHeader, SnapshotDamaged> {
        let header =
            SnapshotHeader::read_from_bytes(body).map_err(|_| SnapshotDamaged::Frame { at: 0 })?;
        if header.version.get() != VERSION {
            return Err(SnapshotDamaged::Version {
                found: header.version.get(),
            });
        }
        if header.reserved != [0; 2] {
            return Err(SnapshotDamaged::Frame { at: 0 });
        }
        if header.cluster != cluster.0 {
            return Err(SnapshotDamaged::ForeignCluster);
        }
        if header.node() != node {
            return Err(SnapshotDamaged::ForeignNode {
                found: header.node(),
            });
        }
        Ok(header)
    }
}

/// Body of the trailer: what stands before it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SnapshotTrailer {
    frames: U64,
    bytes: U64,
}

impl SnapshotTrailer {
    pub fn new(frames: u64, bytes: u64) -> SnapshotTrailer {
        SnapshotTrailer {
            frames: U64::new(frames),
            bytes: U64::new(bytes),
        }
    }
}

/// Appends a frame; `body` is at most `PIECE_BYTES_MAX` bytes.
pub fn write_frame(kind: FrameKind, body: &[u8], out: &mut Vec<u8>) {
    assert!(body.len() <= PIECE_BYTES_MAX, "parts fit a frame");
    let (code, number, index) = kind.fields();
    let mut head = FrameHead {
        magic: MAGIC,
        kind: code,
        reserved: 0,
        number: U16::new(number),
        index: U32::new(index),
        length: U32::new(body.len() as u32),
        body_crc: U32::new(crc32fast::hash(body)),
        head_crc: U32::new(0),
    };
    head.head_crc = U32::new(head.sum());
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(body);
}

impl FrameHead {
    fn sum(&self) -> u32 {
        crc32fast::hash(&self.as_bytes()[..FRAME_HEAD_BYTES - 4])
    }
}

/// Cuts pushed bytes into frames. Holds one frame and what was pushed with its end.
#[derive(Debug, Default)]
pub struct FrameReader {
    bytes: Vec<u8>,
    /// Bytes of `bytes` that were read.
    consumed: usize,
    /// Where `bytes` begins in the file.
    start: u64,
}

impl FrameReader {
    pub fn new() -> FrameReader {
        FrameReader::default()
    }

    /// Takes the next bytes of the file.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.consumed);
        self.start += self.consumed as u64;
        self.consumed = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Where in the file the next frame begins.
    pub fn at(&self) -> u64 {
        self.start + self.consumed as u64
    }

    /// Whether every pushed byte was read.
    pub fn is_empty(&self) -> bool {
        self.consumed == self.bytes.len()
    }

    /// The body of the next frame, which must be of this kind; none until all of it was pushed.
    pub fn next(&mut self, kind: FrameKind) -> Result<Option<&[u8]>, SnapshotDamaged> {
        let at = self.at();
        let rest = &self.bytes[self.consumed..];
        let magic = rest.len().min(MAGIC.len());
        if rest[..magic] != MAGIC[..magic] {
            return Err(if at == 0 {
                SnapshotDamaged::NotASnapshot { at }
            } else {
                SnapshotDamaged::Frame { at }
            });
        }
        let Ok((head, rest)) = FrameHead::read_from_prefix(rest) else {
            return Ok(None);
        };
        let length = head.length.get() as usize;
        if head.head_crc.get() != head.sum() || head.reserved != 0 || length > PIECE_BYTES_MAX {
            return Err(SnapshotDamaged::Frame { at });
        }
        if (head.kind, head.number.get(), head.index.get()) != kind.fields() {
            return Err(SnapshotDamaged::OutOfOrder { at });
        }
        if rest.len() < length {
            return Ok(None);
        }
        let start = self.consumed + FRAME_HEAD_BYTES;
        let body = &self.bytes[start..start + length];
        if crc32fast::hash(body) != head.body_crc.get() {
            return Err(SnapshotDamaged::Frame { at });
        }
        self.consumed = start + length;
        Ok(Some(body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::state::Bucket;

    #[test]
    fn golden_header_frame() {
        let header = SnapshotHeader::new(
            ClusterId([0xc1; 16]),
            NodeId(2),
            Slot(0x0102),
            Digest([0xcd; 32]),
            Digest([0x77; 32]),
        );
        let mut frame = Vec::new();
        write_frame(FrameKind::Header, header.as_bytes(), &mut frame);
        let mut golden = Vec::new();
        golden.extend(b"HSNP");
        golden.extend([1, 0, 0, 0, 0, 0, 0, 0, 96, 0, 0, 0]);
        let mut body = Vec::new();
        body.extend([1, 0, 0, 0, 2, 0, 0, 0]);
        body.extend([0xc1; 16]);
        body.extend([2, 1, 0, 0, 0, 0, 0, 0]);
        body.extend([0xcd; 32]);
        body.extend([0x77; 32]);
        golden.extend(crc32fast::hash(&body).to_le_bytes());
        golden.extend(crc32fast::hash(&golden).to_le_bytes());
        golden.extend(&body);
        assert_eq!(frame, golden);
        assert_eq!(frame[16..24], GOLDEN_SUMS);
    }

    const GOLDEN_SUMS: [u8; 8] = [64, 218, 254, 146, 104, 197, 234, 66];

    #[test]
    fn foreign_headers_are_refused() {
        let (cluster, node) = (ClusterId([1; 16]), NodeId(2));
        let header = SnapshotHeader::new(cluster, node, Slot(9), Digest([3; 32]), Digest([4; 32]));
        let parse = |bytes: &[u8]| SnapshotHeader::parse(bytes, cluster, node);
        assert_eq!(parse(header.as_bytes()), Ok(header));
        let damaged = |at: usize| {
            let mut bytes = header.as_bytes().to_vec();
            bytes[at] ^= 2;
            parse(&bytes).unwrap_err()
        };
        assert_eq!(damaged(0), SnapshotDamaged::Version { found: 3 });
        assert_eq!(
            damaged(4),
            SnapshotDamaged::ForeignNode { found: NodeId(0) }
        );
        assert_eq!(damaged(6), SnapshotDamaged::Frame { at: 0 });
        assert_eq!(damaged(8), SnapshotDamaged::ForeignCluster);
        assert!(parse(&header.as_bytes()[1..]).is_err());
    }

    #[test]
    fn frames_arrive_in_any_cut() {
        let kinds = [
            FrameKind::Part(Part::Node(63)),
            FrameKind::Part(Part::Piece {
                bucket: Bucket::new(4095).unwrap(),
                index: 7,
            }),
            FrameKind::Trailer,
        ];
        let mut file = Vec::new();
        for (kind, body) in kinds.iter().zip([&b"first"[..], &[], &[9; 100]]) {
            write_frame(*kind, body, &mut file);
        }
        for step in 1..file.len() {
            let mut reader = FrameReader::new();
            let mut found = Vec::new();
            for part in file.chunks(step) {
                reader.push(part);
                while found.len() < kinds.len() {
                    let Some(body) = reader.next(kinds[found.len()]).unwrap() else {
                        break;
                    };
                    found.push(body.to_vec());
                }
            }
            assert_eq!(found, [b"first".to_vec(), vec![], vec![9; 100]]);
            assert!(reader.is_empty());
            assert_eq!(reader.at(), file.len() as u64);
        }
        let mut reader = FrameReader::new();
        reader.push(&file);
        assert_eq!(
            reader.next(FrameKind::Header),
            Err(SnapshotDamaged::OutOfOrder { at: 0 })
        );
    }
}
