//! Certificates: what a quorum of replicas signed. Their signatures are checked by
//! [`crate::seal`]; here are their fields and their one encoding.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::block::BlockHeader;
use crate::cursor::{Reader, Writer};
use crate::ids::{Boot, Digest, Epoch, NodeId, Signature, Slot, View};
use crate::limits::{CERTIFICATE_HEADERS_MAX, REPLICAS_MAX};
use crate::reject::Reject;
use crate::seal::Statement;

/// A block by slot and digest; through the digest, its whole prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub slot: Slot,
    pub digest: Digest,
}

impl Place {
    /// Before any block.
    pub const NONE: Place = Place {
        slot: Slot(0),
        digest: Digest::ZERO,
    };

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Place, Reject> {
        Ok(Place {
            slot: Slot(reader.u64()?),
            digest: reader.digest()?,
        })
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.u64(self.slot.0).digest(&self.digest);
    }
}

/// Signatures of distinct replicas, by the number of the replica.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signatures {
    signers: u32,
    /// Of the i-th signer at i; the rest is zero.
    list: [Signature; REPLICAS_MAX],
}

impl Default for Signatures {
    fn default() -> Self {
        Signatures::new()
    }
}

impl std::fmt::Debug for Signatures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signatures({:b})", self.signers)
    }
}

impl Signatures {
    pub const fn new() -> Signatures {
        Signatures {
            signers: 0,
            list: [Signature([0; 64]); REPLICAS_MAX],
        }
    }

    /// Adds or replaces the signature of a replica.
    pub fn add(&mut self, by: NodeId, signature: Signature) {
        assert!(by.index() < REPLICAS_MAX, "a member of a committee");
        self.signers |= 1 << by.0;
        self.list[by.index()] = signature;
    }

    /// Distinct signers.
    pub fn count(&self) -> usize {
        self.signers.count_ones() as usize
    }

    /// Signers and their signatures, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Signature)> {
        (0..REPLICAS_MAX as u16)
            .filter(|by| self.signers >> by & 1 == 1)
            .map(|by| (NodeId(by), &self.list[usize::from(by)]))
    }

    fn read(reader: &mut Reader<'_>) -> Result<Signatures, Reject> {
        let signers = reader.u32()?;
        if signers >> REPLICAS_MAX != 0 {
            return Err(Reject::NotInCommittee);
        }
        let mut signatures = Signatures::new();
        for by in (0..REPLICAS_MAX as u16).filter(|by| signers >> by & 1 == 1) {
            signatures.add(NodeId(by), reader.signature()?);
        }
        Ok(signatures)
    }

    fn write(&self, writer: &mut Writer) {
        writer.u32(self.signers);
        for (_, signature) in self.iter() {
            writer.signature(signature);
        }
    }
}

/// NVcert(v): q replicas acknowledged one base for view v (V4). There is one base for each view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewViewCertificate {
    pub view: View,
    pub base: Place,
    pub acks: Signatures,
}

impl NewViewCertificate {
    /// What every signer said.
    pub fn statement(&self) -> Statement {
        Statement::NewViewAck {
            view: self.view,
            base_slot: self.base.slot,
            base: self.base.digest,
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<NewViewCertificate, Reject> {
        Ok(NewViewCertificate {
            view: View(reader.u64()?),
            base: Place::read(reader)?,
            acks: Signatures::read(reader)?,
        })
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.u64(self.view.0);
        self.base.write(writer);
        self.acks.write(writer);
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        self.write(&mut writer);
        writer.finish()
    }

    pub fn decode(bytes: &[u8]) -> Result<NewViewCertificate, Reject> {
        let mut reader = Reader::new(bytes);
        let certificate = NewViewCertificate::read(&mut reader)?;
        reader.end()?;
        Ok(certificate)
    }
}

/// CkptCert: q replicas executed everything up to a block and got the same state (K2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointCertificate {
    /// The block's header; slot and chain digest are those of this header.
    pub header: BlockHeader,
    pub root: Digest,
    pub signatures: Signatures,
}

impl CheckpointCertificate {
    pub fn place(&self) -> Place {
        Place {
            slot: self.header.slot(),
            digest: self.header.digest(),
        }
    }

    /// What every signer said.
    pub fn statement(&self) -> Statement {
        Statement::Checkpoint {
            slot: self.header.slot(),
            chain: self.header.digest(),
            root: self.root,
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<CheckpointCertificate, Reject> {
        let header = reader.array::<{ size_of::<BlockHeader>() }>()?;
        let header = BlockHeader::read_from_bytes(&header).map_err(|_| Reject::BodyMalformed)?;
        Ok(CheckpointCertificate {
            header,
            root: reader.digest()?,
            signatures: Signatures::read(reader)?,
        })
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.put(self.header.as_bytes()).digest(&self.root);
        self.signatures.write(writer);
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        self.write(&mut writer);
        writer.finish()
    }

    pub fn decode(bytes: &[u8]) -> Result<CheckpointCertificate, Reject> {
        let mut reader = Reader::new(bytes);
        let certificate = CheckpointCertificate::read(&mut reader)?;
        reader.end()?;
        Ok(certificate)
    }
}

/// One replica's wish inside a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    pub by: NodeId,
    pub view: View,
    pub boot: Boot,
    pub counter: u64,
    pub signature: Signature,
}

impl Wish {
    pub fn statement(&self) -> Statement {
        Statement::Wish {
            view: self.view,
            boot: self.boot,
            counter: self.counter,
        }
    }
}

/// WC(v): V distinct replicas wish for view v or a higher one (Y3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WishCertificate {
    pub view: View,
    /// Ascending by replica.
    pub wishes: Vec<Wish>,
}

const WISH_BYTES: usize = 2 + 8 + 4 + 8 + 64;

impl WishCertificate {
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u64(self.view.0).count(self.wishes.len());
        for wish in &self.wishes {
            writer.u16(wish.by.0).u64(wish.view.0).u32(wish.boot.0);
            writer.u64(wish.counter).signature(&wish.signature);
        }
        writer.finish()
    }

    /// Wishers are distinct, ascending, and wish for no lower view.
    pub fn decode(bytes: &[u8]) -> Result<WishCertificate, Reject> {
        let mut reader = Reader::new(bytes);
        let view = View(reader.u64()?);
        let count = reader.count(REPLICAS_MAX, WISH_BYTES)?;
        let mut wishes: Vec<Wish> = Vec::with_capacity(count);
        for _ in 0..count {
            let wish = Wish {
                by: NodeId(reader.u16()?),
                view: View(reader.u64()?),
                boot: Boot(reader.u32()?),
                counter: reader.u64()?,
                signature: reader.signature()?,
            };
            if wishes.last().is_some_and(|last| last.by >= wish.by) || wish.view < view {
                return Err(Reject::BodyMalformed);
            }
            wishes.push(wish);
        }
        reader.end()?;
        Ok(WishCertificate { view, wishes })
    }
}

/// The fields of a header that its place in a chain does not give.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct CompactHeader {
    pub payload: Digest,
    time_ns: zerocopy::little_endian::U64,
}

const _: () = assert!(size_of::<CompactHeader>() == 40);

impl CompactHeader {
    pub fn of(header: &BlockHeader) -> CompactHeader {
        CompactHeader {
            payload: header.payload,
            time_ns: header.time_ns().into(),
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<CompactHeader, Reject> {
        let bytes = reader.array::<40>()?;
        CompactHeader::read_from_bytes(&bytes).map_err(|_| Reject::BodyMalformed)
    }
}

/// The whole headers of a chain of blocks of one view, from its parent up.
pub fn expand(
    epoch: Epoch,
    view: View,
    parent: Place,
    compact: &[CompactHeader],
) -> impl Iterator<Item = (BlockHeader, Digest)> {
    let mut below = parent;
    compact.iter().map(move |compact| {
        // A slot near the end of its range is refused before chains are expanded.
        let slot = Slot(below.slot.0.wrapping_add(1));
        let time_ns = compact.time_ns.get();
        let header = BlockHeader::new(epoch, view, slot, time_ns, below.digest, compact.payload);
        let digest = header.digest();
        below = Place { slot, digest };
        (header, digest)
    })
}

/// One vote inside of a quorum certificate: for the block that lies so far above the certified one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertifiedVote {
    pub by: NodeId,
    pub above: u16,
    pub signature: Signature,
}

/// QC(w, block): q replicas voted in view w for the block or for descendants of it (N5). The votes
/// lie on one chain, whose headers above the block come along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumCertificate {
    pub view: View,
    pub block: Place,
    pub above: Vec<CompactHeader>,
    /// Ascending by replica.
    pub votes: Vec<CertifiedVote>,
}

const VOTE_BYTES: usize = 2 + 2 + 64;

impl QuorumCertificate {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<QuorumCertificate, Reject> {
        let view = View(reader.u64()?);
        let block = Place::read(reader)?;
        let count = reader.count(CERTIFICATE_HEADERS_MAX, size_of::<CompactHeader>())?;
        let above = (0..count).map(|_| CompactHeader::read(reader));
        let above = above.collect::<Result<Vec<_>, _>>()?;
        let count = reader.count(REPLICAS_MAX, VOTE_BYTES)?;
        let mut votes: Vec<CertifiedVote> = Vec::with_capacity(count);
        for _ in 0..count {
            let vote = CertifiedVote {
                by: NodeId(reader.u16()?),
                above: reader.u16()?,
                signature: reader.signature()?,
            };
            let ascending = votes.last().is_none_or(|last| last.by < vote.by);
            if !ascending || usize::from(vote.above) > above.len() {
                return Err(Reject::BodyMalformed);
            }
            votes.push(vote);
        }
        // One encoding: no header above the highest vote.
        let highest = votes.iter().map(|vote| usize::from(vote.above)).max();
        if highest.unwrap_or(0) != above.len() {
            return Err(Reject::BodyMalformed);
        }
        Ok(QuorumCertificate {
            view,
            block,
            above,
            votes,
        })
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.u64(self.view.0);
        self.block.write(writer);
        writer.count(self.above.len()).put(self.above.as_bytes());
        writer.count(self.votes.len());
        for vote in &self.votes {
            writer.u16(vote.by.0).u16(vote.above);
            writer.signature(&vote.signature);
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        self.write(&mut writer);
        writer.finish()
    }

    pub fn decode(bytes: &[u8]) -> Result<QuorumCertificate, Reject> {
        let mut reader = Reader::new(bytes);
        let certificate = QuorumCertificate::read(&mut reader)?;
        reader.end()?;
        Ok(certificate)
    }
}
