//! Blocks: the header that votes name, and the block message.
//!
//! A block message is a 256-byte prefix (header, the leader's signature, payload length) and the
//! payload: request frames end to end. PROPOSE and BLOCK carry the same message, and it is the body
//! of the log record that backs a vote (protocol R2), so one buffer serves network and log.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::{Digest, Epoch, Signature, Slot, View};
use crate::limits::{BLOCK_PAYLOAD_BYTES_MAX, BLOCK_PREFIX_BYTES};
use crate::reject::Reject;

/// The header h of protocol §2. Its digest names the block and, through `parent`, its whole prefix.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct BlockHeader {
    epoch: U64,
    view: U64,
    slot: U64,
    /// Nanoseconds since 1970 by the leader's clock; a hint, never part of validity.
    time_ns: U64,
    pub parent: Digest,
    pub payload: Digest,
}

const _: () = assert!(size_of::<BlockHeader>() == 96);

impl BlockHeader {
    pub fn new(
        epoch: Epoch,
        view: View,
        slot: Slot,
        time_ns: u64,
        parent: Digest,
        payload: Digest,
    ) -> BlockHeader {
        BlockHeader {
            epoch: U64::new(epoch.0),
            view: U64::new(view.0),
            slot: U64::new(slot.0),
            time_ns: U64::new(time_ns),
            parent,
            payload,
        }
    }

    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.get())
    }

    pub fn view(&self) -> View {
        View(self.view.get())
    }

    pub fn slot(&self) -> Slot {
        Slot(self.slot.get())
    }

    pub fn time_ns(&self) -> u64 {
        self.time_ns.get()
    }

    /// d = H("blk", h).
    pub fn digest(&self) -> Digest {
        Digest(blake3::derive_key("hippodrome/1/blk", self.as_bytes()))
    }
}

/// H("payload", bytes), client signatures included.
pub fn payload_digest(payload: &[u8]) -> Digest {
    Digest(blake3::derive_key("hippodrome/1/payload", payload))
}

/// What a block message has in front of its payload.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockPrefix {
    pub header: BlockHeader,
    /// The leader's signature on (view, slot, digest).
    pub signature: Signature,
    payload_bytes: U32,
    reserved: [u8; 92],
}

const _: () = assert!(size_of::<BlockPrefix>() == BLOCK_PREFIX_BYTES);

impl BlockPrefix {
    pub fn new(header: BlockHeader, signature: Signature, payload_bytes: usize) -> BlockPrefix {
        assert!(payload_bytes <= BLOCK_PAYLOAD_BYTES_MAX);
        BlockPrefix {
            header,
            signature,
            payload_bytes: U32::new(payload_bytes as u32),
            reserved: [0; 92],
        }
    }

    pub fn payload_bytes(&self) -> usize {
        self.payload_bytes.get() as usize
    }
}

/// A well-formed block message whose payload has the digest that its header names. The leader's
/// signature and the requests are checked by [`crate::seal`].
#[derive(Clone, Copy, Debug)]
pub struct BlockView<'a> {
    pub prefix: &'a BlockPrefix,
    pub payload: &'a [u8],
}

impl<'a> BlockView<'a> {
    /// Reads a message that must fill `bytes`; hashes the payload (0.1 us a KiB).
    pub fn parse(bytes: &'a [u8]) -> Result<BlockView<'a>, Reject> {
        let view = BlockView::frame(bytes)?;
        if payload_digest(view.payload) != view.prefix.header.payload {
            return Err(Reject::PayloadDigestMismatch);
        }
        Ok(view)
    }

    /// As [`BlockView::parse`] without hashing: for bytes that were checked before.
    pub fn frame(bytes: &'a [u8]) -> Result<BlockView<'a>, Reject> {
        let (prefix, payload) =
            BlockPrefix::ref_from_prefix(bytes).map_err(|_| Reject::Truncated)?;
        if prefix.reserved != [0; 92] {
            return Err(Reject::ReservedNotZero);
        }
        if prefix.payload_bytes() > BLOCK_PAYLOAD_BYTES_MAX {
            return Err(Reject::PayloadTooLarge);
        }
        if payload.len() != prefix.payload_bytes() {
            return Err(Reject::LengthMismatch);
        }
        Ok(BlockView { prefix, payload })
    }
}

/// A digest with the place in the log that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef {
    pub view: View,
    pub slot: Slot,
    pub digest: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_round_trip_and_every_damage_is_seen() {
        let payload = b"requests";
        let header = BlockHeader::new(
            Epoch(0),
            View(3),
            Slot(9),
            1,
            Digest([1; 32]),
            payload_digest(payload),
        );
        let prefix = BlockPrefix::new(header, Signature([2; 64]), payload.len());
        let mut bytes = prefix.as_bytes().to_vec();
        bytes.extend_from_slice(payload);
        let view = BlockView::parse(&bytes).unwrap();
        assert_eq!(view.prefix.header, header);
        assert_eq!(view.payload, payload);
        for length in 0..bytes.len() {
            assert!(BlockView::parse(&bytes[..length]).is_err());
        }
        bytes[BLOCK_PREFIX_BYTES] ^= 1;
        assert_eq!(
            BlockView::parse(&bytes).unwrap_err(),
            Reject::PayloadDigestMismatch
        );
    }

    #[test]
    fn digest_covers_every_field() {
        let base = BlockHeader::new(
            Epoch(1),
            View(1),
            Slot(1),
            1,
            Digest([1; 32]),
            Digest([1; 32]),
        );
        for byte in 0..size_of::<BlockHeader>() {
            let mut other = base;
            other.as_mut_bytes()[byte] ^= 1;
            assert_ne!(base.digest(), other.digest(), "byte {byte}");
        }
    }
}
