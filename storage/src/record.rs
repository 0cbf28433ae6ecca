//! A record as it lies on disk: header ++ body ++ zeros up to a whole sector.
//!
//! The header is 128 bytes, little-endian, and starts on a sector boundary. Two CRC-32 (IEEE) sums
//! guard against torn and rotten sectors; position, segment sequence number and the hash of the
//! previous header guard against sectors that are intact but old or in the wrong place.
//!
//! The [`LogId`] is random, lies in the superblock and in every header, and is never sent to
//! anyone. Recovery looks for headers at every sector, also inside the bodies of torn records, and
//! bodies hold bytes chosen by clients: who does not know the log id cannot make recovery take his
//! bytes for a record.

use wire::ids::{ClusterId, NodeId, Position};
use wire::limits;
pub use wire::limits::SECTOR_BYTES;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Room that a body's buffer keeps free at its front.
pub const HEADER_BYTES: usize = limits::RECORD_HEADER_BYTES;
/// Version of the record format.
pub const VERSION: u16 = 1;

const MAGIC: [u8; 4] = *b"HWAL";

/// Secret name of one log, drawn at random when its directory is formatted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LogId(pub [u8; 16]);

impl std::fmt::Debug for LogId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogId(secret)")
    }
}

/// Whose records these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub log: LogId,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// What a body holds; `wire` owns the bodies.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $name = $code,)*
        }

        impl Kind {
            /// Every kind, in the order of their codes.
            pub const ALL: &'static [Kind] = &[$(Kind::$name),*];

            /// The kind with this code on disk.
            pub fn from_code(code: u8) -> Option<Kind> {
                match code {
                    $($code => Some(Kind::$name),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// Process start: boot, epoch, stage (R4).
    Start = 1,
    /// Header, leader's signature and payload of a block: this *is* the vote (R2).
    Block = 2,
    /// A fetched, inherited or learned block; never counts as a vote.
    FetchedBlock = 3,
    /// The tip jumped to a decided block without a vote (N2).
    Skip = 4,
    /// Vote lease (R3).
    Lease = 5,
    /// COMMIT with its quorum certificate.
    Commit = 6,
    /// Own view-change message, with the stage.
    ViewChange = 7,
    /// Own NEW-VIEW, one per view.
    NewView = 8,
    /// Own NV-ACK.
    Ack = 9,
    /// A view installed, with its certificate.
    Install = 10,
    /// Checkpoint certificate; what usually moves the low-water mark.
    CheckpointCertificate = 11,
    /// Switch of the epoch.
    Epoch = 12,
    /// Proof of another replica's misbehaviour.
    Evidence = 13,
    /// Clean shutdown, naming its boot.
    CleanStop = 14,
    /// Every slot up to this one is decided; saves work at the next start.
    Decided = 15,
    /// Where the replica stood when older records were released: ends a group of records that say
    /// again what those had said.
    Standing = 16,
}

/// A header's fields, checked and in native form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    /// How often this log had been opened for writing when the record was sealed.
    pub generation: u32,
    /// Which stretch of the endless log: `position / segment_bytes`.
    pub segment_sequence: u64,
    /// Where the record starts in the endless log, in bytes.
    pub position: Position,
    /// Everything below was known to be durable when the record was sealed.
    pub durable_before: Position,
    /// Everything below was no longer needed when the record was sealed; starts a segment.
    pub low: Position,
    pub body_bytes: u32,
    pub body_crc: u32,
    /// Of the header before this one; zero in the first record of a log.
    pub previous: HeaderHash,
}

/// First 16 bytes of the BLAKE3 hash of a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderHash(pub [u8; 16]);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 4],
    version: U16,
    kind: u8,
    reserved_a: u8,
    cluster: [u8; 16],
    node: U16,
    reserved_b: [u8; 2],
    generation: U32,
    log: [u8; 16],
    segment_sequence: U64,
    position: U64,
    durable_before: U64,
    low: U64,
    body_bytes: U32,
    body_crc: U32,
    previous: [u8; 16],
    reserved_c: [u8; 20],
    header_crc: U32,
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);
const _: () = assert!(SECTOR_BYTES.is_multiple_of(HEADER_BYTES));

const CRC_AT: usize = HEADER_BYTES - 4;

/// What the 128 bytes at the front of a sector turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Intact, and of this log.
    Intact(Header),
    /// Intact, but of another cluster, node or log.
    Foreign,
    /// Intact and of this log, but in a form that this version does not know.
    Newer,
    /// Not intact, yet part of it is a header of this log.
    Torn,
    /// All zero.
    Blank,
    /// Anything else, such as the inside of an older record.
    Garbage,
}

/// Bytes of a record with `body_bytes` of body: whole sectors.
pub fn record_bytes(body_bytes: usize) -> usize {
    (HEADER_BYTES + body_bytes).next_multiple_of(SECTOR_BYTES)
}

/// CRC-32 (IEEE) of a body.
pub fn body_crc(body: &[u8]) -> u32 {
    crc32fast::hash(body)
}

/// Writes `header` to the first 128 bytes of `record` and returns its hash for the next one.
/// Panics when `record` is shorter (our own error).
pub fn encode(header: &Header, identity: &Identity, record: &mut [u8]) -> HeaderHash {
    let mut raw = RawHeader {
        magic: MAGIC,
        version: U16::new(VERSION),
        kind: header.kind as u8,
        reserved_a: 0,
        cluster: identity.cluster.0,
        node: U16::new(identity.node.0),
        reserved_b: [0; 2],
        generation: U32::new(header.generation),
        log: identity.log.0,
        segment_sequence: U64::new(header.segment_sequence),
        position: U64::new(header.position.0),
        durable_before: U64::new(header.durable_before.0),
        low: U64::new(header.low.0),
        body_bytes: U32::new(header.body_bytes),
        body_crc: U32::new(header.body_crc),
        previous: header.previous.0,
        reserved_c: [0; 20],
        header_crc: U32::ZERO,
    };
    raw.header_crc = U32::new(crc32fast::hash(raw.as_bytes()));
    record[..HEADER_BYTES].copy_from_slice(raw.as_bytes());
    hash(raw.as_bytes())
}

/// Judges the front of a sector. `expected` is the position that belongs here, if known: it only
/// helps to tell a torn header from garbage.
pub fn decode(sector: &[u8], identity: &Identity, expected: Option<Position>) -> Decoded {
    let Ok((raw, _)) = RawHeader::ref_from_prefix(sector) else {
        return Decoded::Garbage;
    };
    let bytes = raw.as_bytes();
    if bytes.iter().all(|byte| *byte == 0) {
        return Decoded::Blank;
    }
    if raw.magic != MAGIC || crc_without_itself(bytes) != raw.header_crc.get() {
        // Three fields far apart: a single rotten spot cannot make a header of ours look like
        // somebody else's bytes.
        let ours = raw.magic == MAGIC
            || raw.log == identity.log.0
            || expected.is_some_and(|position| raw.position.get() == position.0);
        return if ours {
            Decoded::Torn
        } else {
            Decoded::Garbage
        };
    }
    if raw.log != identity.log.0
        || raw.cluster != identity.cluster.0
        || raw.node.get() != identity.node.0
    {
        return Decoded::Foreign;
    }
    let reserved_used =
        raw.reserved_a != 0 || raw.reserved_b != [0; 2] || raw.reserved_c != [0; 20];
    let Some(kind) = Kind::from_code(raw.kind) else {
        return Decoded::Newer;
    };
    if raw.version.get() != VERSION || reserved_used {
        return Decoded::Newer;
    }
    Decoded::Intact(Header {
        kind,
        generation: raw.generation.get(),
        segment_sequence: raw.segment_sequence.get(),
        position: Position(raw.position.get()),
        durable_before: Position(raw.durable_before.get()),
        low: Position(raw.low.get()),
        body_bytes: raw.body_bytes.get(),
        body_crc: raw.body_crc.get(),
        previous: HeaderHash(raw.previous),
    })
}

/// Hash of a header as it lies on disk. Panics when `record` is shorter (our own error).
pub fn header_hash(record: &[u8]) -> HeaderHash {
    hash(&record[..HEADER_BYTES])
}

fn hash(header: &[u8]) -> HeaderHash {
    let mut first = [0; 16];
    first.copy_from_slice(&blake3::hash(header).as_bytes()[..16]);
    HeaderHash(first)
}

fn crc_without_itself(header: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[..CRC_AT]);
    crc.update(&[0; 4]);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster: ClusterId([7; 16]),
            node: NodeId(2),
            log: LogId([9; 16]),
        }
    }

    fn header() -> Header {
        Header {
            kind: Kind::Block,
            generation: 3,
            segment_sequence: 1,
            position: Position(1 << 20),
            durable_before: Position(4096),
            low: Position(0),
            body_bytes: 11,
            body_crc: body_crc(b"hippodrome!"),
            previous: HeaderHash([5; 16]),
        }
    }

    #[test]
    fn header_round_trip() {
        let mut sector = [0; SECTOR_BYTES];
        let hash = encode(&header(), &identity(), &mut sector);
        assert_eq!(
            decode(&sector, &identity(), None),
            Decoded::Intact(header())
        );
        assert_eq!(hash, header_hash(&sector));
    }

    #[test]
    fn every_flipped_bit_is_torn() {
        let mut sector = [0; SECTOR_BYTES];
        encode(&header(), &identity(), &mut sector);
        for bit in 0..HEADER_BYTES * 8 {
            sector[bit / 8] ^= 1 << (bit % 8);
            let judged = decode(&sector, &identity(), Some(header().position));
            assert_eq!(judged, Decoded::Torn, "bit {bit}");
            sector[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn strangers_and_emptiness_are_told_apart() {
        let mut sector = [0; SECTOR_BYTES];
        assert_eq!(decode(&sector, &identity(), None), Decoded::Blank);
        let other = Identity {
            node: NodeId(3),
            ..identity()
        };
        encode(&header(), &other, &mut sector);
        assert_eq!(decode(&sector, &identity(), None), Decoded::Foreign);
        assert_eq!(
            decode(&[0x55; SECTOR_BYTES], &identity(), None),
            Decoded::Garbage
        );
        assert_eq!(decode(&sector[..100], &identity(), None), Decoded::Garbage);
    }

    #[test]
    fn kinds_keep_their_codes() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_code(*kind as u8), Some(*kind));
        }
        assert_eq!(Kind::from_code(0), None);
        assert_eq!(Kind::from_code(17), None);
        assert_eq!(Kind::CleanStop as u8, 14);
    }

    #[test]
    fn unknown_kind_asks_for_newer_software() {
        let mut sector = [0; SECTOR_BYTES];
        encode(&header(), &identity(), &mut sector);
        sector[6] = 200;
        let crc = crc_without_itself(&sector[..HEADER_BYTES]);
        sector[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode(&sector, &identity(), None), Decoded::Newer);
    }
}
