//! A client's signed request: one or many transactions under one Ed25519 signature.
//!
//! The same bytes travel from the client, stand in block payloads and lie in the log. A REQUEST
//! frame is 128 bytes of head, then its operations. An OPEN (protocol §9.3) is a bare head whose
//! `first_sequence` holds the reference slot.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::canary::planted;
use crate::ids::{PublicKey, Sequence, SessionId, Signature, Slot};
use crate::limits::{BUNDLE_MAX, REQUEST_BYTES_MAX, SEQUENCE_MAX};
use crate::ops;
use crate::reject::Reject;

/// Head of a request frame.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RequestHead {
    pub client: PublicKey,
    pub signature: Signature,
    kind: u8,
    flags: u8,
    count: U16,
    length: U32,
    session: U64,
    first_sequence: U64,
    acked_low: U64,
}

/// Bytes of a request in front of its operations.
pub const REQUEST_HEAD_BYTES: usize = size_of::<RequestHead>();
const _: () = assert!(REQUEST_HEAD_BYTES == 128);
/// Where the signed fields begin: behind client and signature.
const SIGNED_FROM: usize = 96;

const KIND_REQUEST: u8 = 1;
const KIND_OPEN: u8 = 2;

/// No operation of the request writes.
pub const FLAG_READ_ONLY: u8 = 1;
/// Every replica, not only the designated one, returns large results in full.
pub const FLAG_ALL_FULL: u8 = 2;

/// A well-formed request frame, borrowed from the bytes that carry it. Its signature is checked
/// by [`crate::seal`], which signs over [`RequestView::signed_bytes`].
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    head: &'a RequestHead,
    bytes: &'a [u8],
}

impl<'a> RequestView<'a> {
    /// Reads one frame that must fill `bytes`, and walks all its operations.
    pub fn parse(bytes: &'a [u8]) -> Result<RequestView<'a>, Reject> {
        let (view, rest) = RequestView::parse_prefix(bytes)?;
        if rest.is_empty() || planted("trailing") {
            Ok(view)
        } else {
            Err(Reject::TrailingBytes)
        }
    }

    /// Reads the frame at the front of `bytes`; returns it and what follows.
    pub fn parse_prefix(bytes: &'a [u8]) -> Result<(RequestView<'a>, &'a [u8]), Reject> {
        let (view, rest) = RequestView::frame(bytes)?;
        view.check()?;
        Ok((view, rest))
    }

    /// Finds the frame's end without walking its operations.
    fn frame(bytes: &'a [u8]) -> Result<(RequestView<'a>, &'a [u8]), Reject> {
        let (head, _) =
            RequestHead::ref_from_prefix(bytes).map_err(|_| Reject::RequestTruncated)?;
        let total = REQUEST_HEAD_BYTES.saturating_add(head.length.get() as usize);
        if total > REQUEST_BYTES_MAX {
            return Err(Reject::RequestTooLarge);
        }
        let (bytes, rest) = bytes
            .split_at_checked(total)
            .ok_or(Reject::RequestTruncated)?;
        Ok((RequestView { head, bytes }, rest))
    }

    fn check(&self) -> Result<(), Reject> {
        let head = self.head;
        match head.kind {
            KIND_REQUEST => {
                let count = usize::from(head.count.get());
                if count == 0 {
                    return Err(Reject::RequestEmpty);
                }
                if count > BUNDLE_MAX {
                    return Err(Reject::RequestTooLarge);
                }
                if head.flags & !(FLAG_READ_ONLY | FLAG_ALL_FULL) != 0
                    || head.first_sequence.get() == 0
                    || head.first_sequence.get() > SEQUENCE_MAX
                    || head.session.get() == 0
                {
                    return Err(Reject::BodyMalformed);
                }
                ops::check(self.operation_bytes(), count)
            }
            KIND_OPEN => {
                let bare = head.flags == 0
                    && head.count.get() == 0
                    && head.length.get() == 0
                    && head.session.get() == 0
                    && head.acked_low.get() == 0;
                if bare {
                    Ok(())
                } else {
                    Err(Reject::BodyMalformed)
                }
            }
            _ => Err(Reject::RequestUnknownKind),
        }
    }

    /// The whole frame.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What the signature covers besides the cluster: all fixed fields and the operations.
    pub fn signed_bytes(&self) -> &'a [u8] {
        &self.bytes[SIGNED_FROM..]
    }

    pub fn client(&self) -> &'a PublicKey {
        &self.head.client
    }

    pub fn signature(&self) -> &'a Signature {
        &self.head.signature
    }

    pub fn is_open(&self) -> bool {
        self.head.kind == KIND_OPEN
    }

    pub fn session(&self) -> SessionId {
        SessionId(self.head.session.get())
    }

    /// Number of the first transaction; the others follow without gaps.
    pub fn first_sequence(&self) -> Sequence {
        Sequence(self.head.first_sequence.get())
    }

    /// The slot that an OPEN names.
    pub fn reference_slot(&self) -> Slot {
        Slot(self.head.first_sequence.get())
    }

    /// Transactions in the request; 0 for an OPEN.
    pub fn count(&self) -> usize {
        usize::from(self.head.count.get())
    }

    /// All sequences up to this one have been answered, says the client.
    pub fn acked_low(&self) -> Sequence {
        Sequence(self.head.acked_low.get())
    }

    pub fn all_full(&self) -> bool {
        self.head.flags & FLAG_ALL_FULL != 0
    }

    pub fn operation_bytes(&self) -> &'a [u8] {
        &self.bytes[REQUEST_HEAD_BYTES..]
    }
}

/// What a client puts in a request before signing.
#[derive(Clone, Copy, Debug)]
pub struct RequestFields {
    pub session: SessionId,
    pub first_sequence: Sequence,
    pub acked_low: Sequence,
    pub flags: u8,
    pub count: u16,
}

/// Appends an unsigned frame to `out`; the caller signs `out[start + 96..]` by
/// [`crate::seal`] and stores the signature with [`set_signature`].
pub fn encode_request(
    out: &mut Vec<u8>,
    client: PublicKey,
    fields: RequestFields,
    operation_bytes: &[u8],
) {
    push_head(
        out,
        client,
        KIND_REQUEST,
        fields,
        operation_bytes.len() as u32,
    );
    out.extend_from_slice(operation_bytes);
}

/// Appends an unsigned OPEN that lives from `reference` on.
pub fn encode_open(out: &mut Vec<u8>, client: PublicKey, reference: Slot) {
    let fields = RequestFields {
        session: SessionId(0),
        first_sequence: Sequence(reference.0),
        acked_low: Sequence(0),
        flags: 0,
        count: 0,
    };
    push_head(out, client, KIND_OPEN, fields, 0);
}

fn push_head(out: &mut Vec<u8>, client: PublicKey, kind: u8, fields: RequestFields, length: u32) {
    let head = RequestHead {
        client,
        signature: Signature([0; 64]),
        kind,
        flags: fields.flags,
        count: U16::new(fields.count),
        length: U32::new(length),
        session: U64::new(fields.session.0),
        first_sequence: U64::new(fields.first_sequence.0),
        acked_low: U64::new(fields.acked_low.0),
    };
    out.extend_from_slice(head.as_bytes());
}

/// Writes the signature into a whole frame.
pub fn set_signature(frame: &mut [u8], signature: &Signature) {
    frame[32..SIGNED_FROM].copy_from_slice(&signature.0);
}

/// Iterates over the requests of a block payload; each is checked as by [`RequestView::parse`].
/// Ends after the first malformed one.
pub fn requests(payload: &[u8]) -> impl Iterator<Item = Result<RequestView<'_>, Reject>> {
    frames(payload, RequestView::parse_prefix)
}

/// As [`requests`], without walking the operations again: for payloads that were checked before.
pub fn checked_requests(payload: &[u8]) -> impl Iterator<Item = RequestView<'_>> {
    frames(payload, RequestView::frame).map_while(Result::ok)
}

type ParsePrefix<'a> = fn(&'a [u8]) -> Result<(RequestView<'a>, &'a [u8]), Reject>;

fn frames<'a>(
    payload: &'a [u8],
    parse: ParsePrefix<'a>,
) -> impl Iterator<Item = Result<RequestView<'a>, Reject>> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        match parse(rest) {
            Ok((view, after)) => {
                rest = after;
                Some(Ok(view))
            }
            Err(reject) => {
                rest = &[];
                Some(Err(reject))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Operation, OperationsBuilder};

    fn frame(count: usize) -> Vec<u8> {
        let mut builder = OperationsBuilder::new();
        for _ in 0..count {
            builder.push(&Operation::Put {
                key: b"key",
                value: b"value",
            });
        }
        let mut out = Vec::new();
        let fields = RequestFields {
            session: SessionId(9),
            first_sequence: Sequence(5),
            acked_low: Sequence(4),
            flags: 0,
            count: count as u16,
        };
        encode_request(&mut out, PublicKey([1; 32]), fields, builder.bytes());
        out
    }

    #[test]
    fn request_round_trip() {
        let mut bytes = frame(3);
        set_signature(&mut bytes, &Signature([7; 64]));
        let view = RequestView::parse(&bytes).unwrap();
        assert_eq!(view.client(), &PublicKey([1; 32]));
        assert_eq!(view.signature(), &Signature([7; 64]));
        assert_eq!(
            (view.session(), view.first_sequence()),
            (SessionId(9), Sequence(5))
        );
        assert_eq!((view.acked_low(), view.count()), (Sequence(4), 3));
        assert_eq!(ops::operations(view.operation_bytes()).count(), 3);
        for length in 0..bytes.len() {
            assert!(
                RequestView::parse(&bytes[..length]).is_err(),
                "cut at {length}"
            );
        }
    }

    #[test]
    fn a_payload_is_frames_end_to_end() {
        let mut payload = frame(1);
        payload.extend(frame(2));
        encode_open(&mut payload, PublicKey([2; 32]), Slot(77));
        let views: Result<Vec<_>, _> = requests(&payload).collect();
        let views = views.unwrap();
        assert_eq!(views.len(), 3);
        assert!(views[2].is_open());
        assert_eq!(views[2].reference_slot(), Slot(77));
        payload.push(0);
        assert_eq!(
            requests(&payload).last().unwrap().unwrap_err(),
            Reject::RequestTruncated
        );
    }

    #[test]
    fn an_empty_or_huge_request_is_refused() {
        assert_eq!(
            RequestView::parse(&frame(0)).unwrap_err(),
            Reject::RequestEmpty
        );
        let mut bytes = frame(1);
        bytes[100..104].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(
            RequestView::parse(&bytes).unwrap_err(),
            Reject::RequestTooLarge
        );
    }
}
