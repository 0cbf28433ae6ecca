//! The replicated state as a tree of hashes, and the messages that carry parts of it (K1, K4).
//!
//! The state is cut into `STATE_BUCKETS` buckets, and each bucket into [`CELLS`] cells, by a hash of
//! each key that is equal on all replicas. The hash of a [`Bucket`] covers the hashes of its cells
//! ([`CellTree`]); 64 buckets, each with its hash and its length, make a [`Node`]; 64 nodes and a [`StateHead`] make a [`Summary`], whose hash is
//! the state root that replicas sign. Lengths stand in the tree so that a receiver knows from the
//! root, not from a peer, how many bytes a bucket has.
//!
//! FETCH-STATE names one [`Part`] of the state at a checkpoint; CHUNK answers with its bytes, or
//! with the checkpoint that this replica serves instead.

mod cells;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::change::{CHANGE_BYTES, ChangeBody, Pending};
use crate::ids::{Digest, PublicKey, Slot};
use crate::limits::{MESSAGE_BYTES_MAX, STATE_BUCKETS};
use crate::reject::Reject;

pub use cells::{CELL_HEAD_BYTES, CELLS, Cell, CellMask, CellTree, cells, write_cell};

/// Buckets of the state.
pub const BUCKETS: usize = STATE_BUCKETS as usize;
/// Inner nodes of the tree.
pub const NODES: usize = 64;
/// Buckets below one inner node.
pub const BUCKETS_PER_NODE: usize = BUCKETS / NODES;
/// Bytes of a bucket that one CHUNK carries at most; all pieces but the last have as many.
pub const PIECE_BYTES_MAX: usize = 64 * 1024;

const _: () = assert!(BUCKETS == 4096 && NODES * BUCKETS_PER_NODE == BUCKETS);
const _: () = assert!(size_of::<ChunkHead>() + PIECE_BYTES_MAX <= MESSAGE_BYTES_MAX);

/// Odd constants: digits of pi and of the golden ratio.
const KEY_SEED: u64 = 0x243f_6a88_85a3_08d3;
const CLIENT_SEED: u64 = 0x1319_8a2e_0370_7345;
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Number of a bucket, below `BUCKETS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket(u16);

impl Bucket {
    /// The bucket of this number; none from `BUCKETS` on.
    pub fn new(number: u16) -> Option<Bucket> {
        (usize::from(number) < BUCKETS).then_some(Bucket(number))
    }

    /// Every bucket, ascending.
    pub fn all() -> impl DoubleEndedIterator<Item = Bucket> + ExactSizeIterator {
        (0..STATE_BUCKETS as u16).map(Bucket)
    }

    /// The bucket that an entry of the table belongs to. Costs a few nanoseconds.
    ///
    /// Equal on all replicas, so known to everyone: whoever chooses keys can aim at one bucket,
    /// whatever the function. It need only spread the keys of those who do not.
    pub fn of_key(key: &[u8]) -> Bucket {
        Cell::of_key(key).bucket()
    }

    /// The bucket that a client's session belongs to.
    pub fn of_client(client: &PublicKey) -> Bucket {
        Cell::of_client(client).bucket()
    }

    /// As an index into arrays of all buckets.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    pub fn number(self) -> u16 {
        self.0
    }

    /// The inner node above this bucket, below `NODES`.
    pub fn node(self) -> usize {
        self.index() / BUCKETS_PER_NODE
    }
}

/// Multiply-and-fold over 16 bytes at a time. The highest bits choose the bucket, the next the cell.
fn spread(seed: u64, bytes: &[u8]) -> u64 {
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
    };
    let mut state = seed ^ bytes.len() as u64;
    for chunk in bytes.chunks(16) {
        let mut pair = [0; 16];
        pair[..chunk.len()].copy_from_slice(chunk);
        let both = u128::from_le_bytes(pair);
        state = fold(both as u64 ^ state, (both >> 64) as u64 ^ SPREAD);
    }
    fold(state ^ SPREAD, seed ^ !SPREAD)
}

/// A bucket as the tree names it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Leaf {
    pub digest: Digest,
    bytes: U64,
}

const _: () = assert!(size_of::<Leaf>() == 40);

impl Leaf {
    /// The leaf of a bucket with these canonical bytes; none if they are not those of a bucket.
    /// Hashes 0.5 to 1 GB a second, more when values are long.
    pub fn of(bytes: &[u8]) -> Option<Leaf> {
        Some(CellTree::of(bytes)?.leaf())
    }

    /// Bytes of the bucket.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Pieces that the bucket travels in.
    pub fn pieces(&self) -> u64 {
        self.bytes().div_ceil(PIECE_BYTES_MAX as u64)
    }

    /// Bytes of the piece at `index`; none when the bucket has no such piece.
    pub fn piece_bytes(&self, index: u32) -> Option<usize> {
        let start = u64::from(index) * PIECE_BYTES_MAX as u64;
        let rest = self.bytes().checked_sub(start).filter(|rest| *rest > 0)?;
        Some(rest.min(PIECE_BYTES_MAX as u64) as usize)
    }
}

/// Leaves of the buckets below one inner node.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Node {
    pub leaves: [Leaf; BUCKETS_PER_NODE],
}

const _: () = assert!(size_of::<Node>() == 2560);

impl Node {
    pub fn digest(&self) -> Digest {
        Digest(blake3::derive_key(
            "hippodrome/1/state-node",
            self.as_bytes(),
        ))
    }

    /// Reads a node, which must fill `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<&Node, Reject> {
        Node::ref_from_bytes(bytes).map_err(|_| Reject::BodyMalformed)
    }
}

/// What is in the state beside the buckets.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct StateHead {
    slot: U64,
    time_ns: U64,
    transactions: U64,
    /// 0: nothing is pending.
    activation: U64,
    change: ChangeBody,
}

const _: () = assert!(size_of::<StateHead>() == 32 + CHANGE_BYTES);

impl StateHead {
    /// `time_ns`: t(slot), nanoseconds since 1970. `transactions`: executed since genesis.
    pub fn new(slot: Slot, time_ns: u64, transactions: u64) -> StateHead {
        StateHead {
            slot: U64::new(slot.0),
            time_ns: U64::new(time_ns),
            transactions: U64::new(transactions),
            activation: U64::new(0),
            change: ChangeBody::NONE,
        }
    }

    /// With a RECONFIG that was executed.
    pub fn with_pending(mut self, pending: Option<&Pending>) -> StateHead {
        if let Some(pending) = pending {
            self.activation = U64::new(pending.activation.0);
            self.change = ChangeBody::encode(&pending.change);
        }
        self
    }

    /// The RECONFIG that was executed in this epoch, if any (G1). Of a certified state it is one.
    pub fn pending(&self) -> Option<Pending> {
        let activation = Slot(self.activation.get());
        let change = self.change.decode().ok()?;
        (activation > Slot(0)).then_some(Pending { activation, change })
    }

    /// The slot after which the state is this one.
    pub fn slot(&self) -> Slot {
        Slot(self.slot.get())
    }

    /// Time of the state machine, nanoseconds since 1970.
    pub fn time_ns(&self) -> u64 {
        self.time_ns.get()
    }

    /// Transactions executed since genesis.
    pub fn transactions(&self) -> u64 {
        self.transactions.get()
    }
}

/// The top of the tree: its hash is the state root.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Summary {
    pub head: StateHead,
    pub nodes: [Digest; NODES],
}

const _: () = assert!(size_of::<Summary>() == 2080 + CHANGE_BYTES);

impl Summary {
    /// The state root that CHECKPOINT messages sign.
    pub fn root(&self) -> Digest {
        Digest(blake3::derive_key(
            "hippodrome/1/state-root",
            self.as_bytes(),
        ))
    }

    /// Reads a summary, which must fill `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<&Summary, Reject> {
        let summary = Summary::ref_from_bytes(bytes).map_err(|_| Reject::BodyMalformed)?;
        let nothing = summary.head.change == ChangeBody::NONE && summary.head.activation.get() == 0;
        let slot = summary.head.slot();
        let awaits = |pending: Pending| pending.activation >= slot;
        if !nothing && !summary.head.pending().is_some_and(awaits) {
            return Err(Reject::BodyMalformed);
        }
        Ok(summary)
    }
}

/// A part of the state that one message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The [`Summary`].
    Summary,
    /// The [`Node`] of this number, below `NODES`.
    Node(u8),
    /// `PIECE_BYTES_MAX` bytes of a bucket, or the rest of it.
    Piece { bucket: Bucket, index: u32 },
}

const SUMMARY: u8 = 1;
const NODE: u8 = 2;
const PIECE: u8 = 3;
const ELSEWHERE: u8 = 4;

impl Part {
    fn fields(self) -> (u8, u16, u32) {
        match self {
            Part::Summary => (SUMMARY, 0, 0),
            Part::Node(node) => (NODE, u16::from(node), 0),
            Part::Piece { bucket, index } => (PIECE, bucket.number(), index),
        }
    }

    fn from_fields(kind: u8, number: u16, index: u32) -> Result<Part, Reject> {
        let part = match kind {
            SUMMARY => Part::Summary,
            NODE => Part::Node(
                u8::try_from(number)
                    .ok()
                    .filter(|node| usize::from(*node) < NODES)
                    .ok_or(Reject::BodyMalformed)?,
            ),
            PIECE => Part::Piece {
                bucket: Bucket::new(number).ok_or(Reject::BodyMalformed)?,
                index,
            },
            _ => return Err(Reject::BodyMalformed),
        };
        // One part has one encoding.
        if part.fields() == (kind, number, index) {
            Ok(part)
        } else {
            Err(Reject::ReservedNotZero)
        }
    }
}

/// FETCH-STATE(slot, part): a part of the state at the checkpoint of `slot`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FetchStateBody {
    slot: U64,
    kind: u8,
    reserved: u8,
    number: U16,
    index: U32,
}

const _: () = assert!(size_of::<FetchStateBody>() == 16);

impl FetchStateBody {
    pub fn new(slot: Slot, part: Part) -> FetchStateBody {
        let (kind, number, index) = part.fields();
        FetchStateBody {
            slot: U64::new(slot.0),
            kind,
            reserved: 0,
            number: U16::new(number),
            index: U32::new(index),
        }
    }

    /// Reads a body, which must fill `bytes`: the checkpoint's slot and the part asked for.
    pub fn decode(bytes: &[u8]) -> Result<(Slot, Part), Reject> {
        let body = FetchStateBody::read_from_bytes(bytes).map_err(|_| Reject::BodyMalformed)?;
        if body.reserved != 0 {
            return Err(Reject::ReservedNotZero);
        }
        let part = Part::from_fields(body.kind, body.number.get(), body.index.get())?;
        Ok((Slot(body.slot.get()), part))
    }
}

/// Head of a CHUNK body; the part's bytes follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChunkHead {
    slot: U64,
    kind: u8,
    reserved: u8,
    number: U16,
    index: U32,
}

const _: () = assert!(size_of::<ChunkHead>() == 16);

/// CHUNK: an answer to FETCH-STATE. Nothing about it is proven; whoever asked knows the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// The part's bytes in the state at `slot`.
    Part {
        slot: Slot,
        part: Part,
        bytes: &'a [u8],
    },
    /// The replica does not serve the state that was asked for. It serves the one at `slot`, or
    /// will once it has executed that slot.
    Elsewhere { slot: Slot },
}

impl<'a> Chunk<'a> {
    /// Bytes in front of the part's bytes.
    pub const HEAD_BYTES: usize = size_of::<ChunkHead>();

    /// Appends the body to `out`. A part's bytes are at most `PIECE_BYTES_MAX`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (slot, (kind, number, index), bytes) = match *self {
            Chunk::Part { slot, part, bytes } => (slot, part.fields(), bytes),
            Chunk::Elsewhere { slot } => (slot, (ELSEWHERE, 0, 0), &[][..]),
        };
        assert!(bytes.len() <= PIECE_BYTES_MAX, "parts fit a chunk");
        let head = ChunkHead {
            slot: U64::new(slot.0),
            kind,
            reserved: 0,
            number: U16::new(number),
            index: U32::new(index),
        };
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(bytes);
    }

    /// Reads a body, which must fill `bytes`.
    pub fn decode(bytes: &'a [u8]) -> Result<Chunk<'a>, Reject> {
        let (head, bytes) = ChunkHead::read_from_prefix(bytes).map_err(|_| Reject::Truncated)?;
        if head.reserved != 0 {
            return Err(Reject::ReservedNotZero);
        }
        let (slot, number, index) = (Slot(head.slot.get()), head.number.get(), head.index.get());
        if head.kind == ELSEWHERE {
            if number != 0 || index != 0 {
                return Err(Reject::ReservedNotZero);
            }
            if !bytes.is_empty() {
                return Err(Reject::TrailingBytes);
            }
            return Ok(Chunk::Elsewhere { slot });
        }
        let part = Part::from_fields(head.kind, number, index)?;
        let fits = match part {
            Part::Summary => bytes.len() == size_of::<Summary>(),
            Part::Node(_) => bytes.len() == size_of::<Node>(),
            Part::Piece { .. } => !bytes.is_empty() && bytes.len() <= PIECE_BYTES_MAX,
        };
        if !fits {
            return Err(Reject::LengthMismatch);
        }
        Ok(Chunk::Part { slot, part, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(number: u16, index: u32) -> Part {
        Part::Piece {
            bucket: Bucket::new(number).unwrap(),
            index,
        }
    }

    #[test]
    fn buckets_spread_and_are_bounded() {
        let mut filled = [0u32; BUCKETS];
        for number in 0..8 * BUCKETS as u64 {
            let key = format!("user{number}");
            filled[Bucket::of_key(key.as_bytes()).index()] += 1;
        }
        let fullest = filled.iter().max().copied();
        assert!(fullest < Some(32), "eight each on average: {fullest:?}");
        assert!(filled.iter().filter(|count| **count == 0).count() < 40);
        let client = PublicKey([7; 32]);
        assert_ne!(Bucket::of_client(&client), Bucket::of_key(&client.0));
        assert_ne!(Bucket::of_key(b"a"), Bucket::of_key(b"a\0"));
        assert_eq!(Bucket::new(4095).unwrap().node(), 63);
        assert_eq!(Bucket::new(4096), None);
        assert_eq!(Bucket::all().len(), BUCKETS);
    }

    /// Known values: a change here is a change of the protocol.
    #[test]
    fn golden_buckets_and_root() {
        assert_eq!(Bucket::of_key(b"hippodrome").number(), GOLDEN_BUCKET);
        let node = Node {
            leaves: [CellTree::default().leaf(); BUCKETS_PER_NODE],
        };
        let summary = Summary {
            head: StateHead::new(Slot(1024), 5, 9),
            nodes: [node.digest(); NODES],
        };
        assert_eq!(format!("{:#}", summary.root()), GOLDEN_ROOT);
    }

    const GOLDEN_BUCKET: u16 = 2963;
    const GOLDEN_ROOT: &str = "991338772f167e0df84c4ecab5df434aa1119fba672e694186f69aff27bac6d5";

    #[test]
    fn golden_bodies() {
        let fetch = FetchStateBody::new(Slot(0x0102), piece(0x0abc, 0x0304));
        let golden = [2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0xbc, 0x0a, 4, 3, 0, 0];
        assert_eq!(fetch.as_bytes(), golden);
        let mut chunk = Vec::new();
        Chunk::Part {
            slot: Slot(0x0102),
            part: piece(0x0abc, 0x0304),
            bytes: b"part",
        }
        .encode(&mut chunk);
        assert_eq!(chunk[..16], golden);
        assert_eq!(&chunk[16..], b"part");
        chunk.clear();
        Chunk::Elsewhere { slot: Slot(7) }.encode(&mut chunk);
        assert_eq!(chunk, [7, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn parts_round_trip() {
        for part in [Part::Summary, Part::Node(63), piece(4095, u32::MAX)] {
            let body = FetchStateBody::new(Slot(9), part);
            assert_eq!(
                FetchStateBody::decode(body.as_bytes()),
                Ok((Slot(9), part)),
                "{part:?}"
            );
        }
        let mut bytes = Vec::new();
        let chunk = Chunk::Part {
            slot: Slot(9),
            part: Part::Node(3),
            bytes: &[1; 2560],
        };
        chunk.encode(&mut bytes);
        assert_eq!(Chunk::decode(&bytes), Ok(chunk));
        bytes.clear();
        Chunk::Elsewhere { slot: Slot(9) }.encode(&mut bytes);
        assert_eq!(
            Chunk::decode(&bytes),
            Ok(Chunk::Elsewhere { slot: Slot(9) })
        );
    }

    #[test]
    fn malformed_bodies_have_their_reasons() {
        let good = FetchStateBody::new(Slot(9), piece(5, 6));
        let fetch = |at: usize, byte: u8| {
            let mut bytes = good.as_bytes().to_vec();
            bytes[at] = byte;
            FetchStateBody::decode(&bytes).unwrap_err()
        };
        assert_eq!(fetch(8, 0), Reject::BodyMalformed);
        assert_eq!(fetch(8, 4), Reject::BodyMalformed);
        assert_eq!(fetch(8, SUMMARY), Reject::ReservedNotZero);
        assert_eq!(fetch(8, NODE), Reject::ReservedNotZero);
        assert_eq!(fetch(9, 1), Reject::ReservedNotZero);
        assert_eq!(fetch(11, 0x10), Reject::BodyMalformed);
        for length in 0..16 {
            assert_eq!(
                FetchStateBody::decode(&good.as_bytes()[..length]),
                Err(Reject::BodyMalformed)
            );
        }
        let node = FetchStateBody::new(Slot(9), Part::Node(3));
        let mut bytes = node.as_bytes().to_vec();
        bytes[10] = 64;
        assert_eq!(FetchStateBody::decode(&bytes), Err(Reject::BodyMalformed));
        bytes[10] = 3;
        bytes[11] = 1;
        assert_eq!(FetchStateBody::decode(&bytes), Err(Reject::BodyMalformed));

        let mut chunk = Vec::new();
        Chunk::Part {
            slot: Slot(1),
            part: Part::Summary,
            bytes: &[0; 2080],
        }
        .encode(&mut chunk);
        for length in 0..16 {
            assert_eq!(Chunk::decode(&chunk[..length]), Err(Reject::Truncated));
        }
        for length in 16..chunk.len() {
            assert_eq!(Chunk::decode(&chunk[..length]), Err(Reject::LengthMismatch));
        }
        chunk.push(0);
        assert_eq!(Chunk::decode(&chunk), Err(Reject::LengthMismatch));
        let mut elsewhere = Vec::new();
        Chunk::Elsewhere { slot: Slot(1) }.encode(&mut elsewhere);
        elsewhere[10] = 1;
        assert_eq!(Chunk::decode(&elsewhere), Err(Reject::ReservedNotZero));
        elsewhere[10] = 0;
        elsewhere.push(0);
        assert_eq!(Chunk::decode(&elsewhere), Err(Reject::TrailingBytes));
        let mut summary = Summary {
            head: StateHead::new(Slot(1), 2, 3),
            nodes: [Digest::ZERO; NODES],
        };
        assert!(Summary::parse(summary.as_bytes()).is_ok());
        summary.head.activation = U64::new(1);
        let refused = Err(Reject::BodyMalformed);
        assert_eq!(Summary::parse(summary.as_bytes()), refused);
    }

    #[test]
    fn pieces_cover_a_bucket() {
        let leaf = |bytes| Leaf {
            digest: Digest::ZERO,
            bytes: U64::new(bytes),
        };
        assert_eq!(leaf(0).pieces(), 0);
        assert_eq!(leaf(0).piece_bytes(0), None);
        assert_eq!(leaf(65_536).pieces(), 1);
        assert_eq!(leaf(65_536).piece_bytes(0), Some(65_536));
        assert_eq!(leaf(65_537).piece_bytes(1), Some(1));
        assert_eq!(leaf(65_537).piece_bytes(2), None);
        assert_eq!(leaf(u64::MAX).piece_bytes(u32::MAX), Some(65_536));
    }

    #[test]
    fn the_root_covers_every_byte_of_the_tree() {
        let mut node = Node {
            leaves: [CellTree::default().leaf(); BUCKETS_PER_NODE],
        };
        let digest = node.digest();
        for at in (0..size_of::<Node>()).step_by(7) {
            node.as_mut_bytes()[at] ^= 1;
            assert_ne!(node.digest(), digest, "byte {at}");
            node.as_mut_bytes()[at] ^= 1;
        }
        let mut summary = Summary {
            head: StateHead::new(Slot(1), 2, 3),
            nodes: [digest; NODES],
        };
        let root = summary.root();
        for at in 0..size_of::<Summary>() {
            summary.as_mut_bytes()[at] ^= 1;
            assert_ne!(summary.root(), root, "byte {at}");
            summary.as_mut_bytes()[at] ^= 1;
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_what_encodes_to_them(bytes in prop::collection::vec(0u8..6, 0..40)) {
            if let Ok((slot, part)) = FetchStateBody::decode(&bytes) {
                let body = FetchStateBody::new(slot, part);
                prop_assert_eq!(body.as_bytes(), &bytes[..]);
            }
            if let Ok(chunk) = Chunk::decode(&bytes) {
                let mut again = Vec::new();
                chunk.encode(&mut again);
                prop_assert_eq!(again, bytes);
            }
        }
    }
}
