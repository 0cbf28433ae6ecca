//! Signatures: who stated what, provable to everyone.
//!
//! Every signature is over H("sig", type, cluster, epoch, committee digest, fields) with fields of
//! one fixed layout per type; clients leave out epoch and committee digest, so that a
//! reconfiguration does not void their requests (protocol §2). The predicate of `verify_strict` is
//! the only judge.
//!
//! [`Verified`] is made in this room alone: by checking a signature or by making one. [`Signer`] and
//! [`Verifier`] are the seam at which the simulator's core profile replaces public-key work by
//! [`FakeSeal`].

mod compound;
mod ed25519;
mod fake;

use std::ops::Deref;

pub use compound::{
    CheckedViewChange, Compound, Rules, SignedNewView, StateProof, gather, in_range, sign_new_view,
    sign_view_change,
};
pub use ed25519::{Ed25519ClientSigner, Ed25519Signer, Ed25519Verifier, SealError};
pub use fake::{FakeClientSigner, FakeSeal};

use crate::block::{BlockHeader, BlockView};
use crate::canary::planted;
use crate::certificates::Place;
use crate::committee::Committee;
use crate::ids::{Boot, ClusterId, Digest, Epoch, NodeId, PublicKey, Signature, Slot, View};
use crate::messages::Held;
use crate::reject::Reject;
use crate::request::{RequestView, requests, set_signature};

/// What a replica signs. View changes name the digest of their body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statement {
    /// By the leader of `view`: the block at `slot` is `digest`.
    Propose {
        view: View,
        slot: Slot,
        digest: Digest,
    },
    Vote {
        view: View,
        slot: Slot,
        digest: Digest,
    },
    Commit {
        view: View,
        slot: Slot,
        digest: Digest,
    },
    /// `counter` grows within a boot (Y1).
    Wish {
        view: View,
        boot: Boot,
        counter: u64,
    },
    Resign {
        view: View,
    },
    ViewChange {
        view: View,
        digest: Digest,
    },
    NewView {
        view: View,
        base_slot: Slot,
        base: Digest,
        digest: Digest,
    },
    NewViewAck {
        view: View,
        base_slot: Slot,
        base: Digest,
    },
    Checkpoint {
        slot: Slot,
        chain: Digest,
        root: Digest,
    },
}

/// Type byte of a client's REQUEST; statements of replicas count from 1.
const TYPE_REQUEST: u8 = 32;
/// Type byte of a client's OPEN.
const TYPE_OPEN: u8 = 33;

/// Bytes of the largest statement's fields.
const FIELDS_MAX: usize = 80;

/// Fields end to end, numbers little-endian.
struct Fields {
    bytes: [u8; FIELDS_MAX],
    length: usize,
}

impl Fields {
    fn new() -> Fields {
        Fields {
            bytes: [0; FIELDS_MAX],
            length: 0,
        }
    }

    fn put(mut self, bytes: &[u8]) -> Fields {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
        self
    }

    fn number(self, number: u64) -> Fields {
        self.put(&number.to_le_bytes())
    }

    fn digest(self, digest: &Digest) -> Fields {
        self.put(&digest.0)
    }
}

impl Statement {
    /// Number of the statement's type; part of the format.
    pub fn type_byte(&self) -> u8 {
        match self {
            Statement::Propose { .. } => 1,
            Statement::Vote { .. } => 2,
            Statement::Commit { .. } => 3,
            Statement::Wish { .. } => 4,
            Statement::Resign { .. } => 5,
            Statement::ViewChange { .. } => 6,
            Statement::NewView { .. } => 7,
            Statement::NewViewAck { .. } => 8,
            Statement::Checkpoint { .. } => 9,
        }
    }

    fn fields(&self) -> Fields {
        let fields = Fields::new();
        match self {
            Statement::Propose { view, slot, digest }
            | Statement::Vote { view, slot, digest }
            | Statement::Commit { view, slot, digest } => {
                let view = if planted("noview") { 0 } else { view.0 };
                fields.number(view).number(slot.0).digest(digest)
            }
            Statement::Wish {
                view,
                boot,
                counter,
            } => fields
                .number(view.0)
                .number(u64::from(boot.0))
                .number(*counter),
            Statement::Resign { view } => fields.number(view.0),
            Statement::ViewChange { view, digest } => fields.number(view.0).digest(digest),
            Statement::NewView {
                view,
                base_slot,
                base,
                digest,
            } => fields
                .number(view.0)
                .number(base_slot.0)
                .digest(base)
                .digest(digest),
            Statement::NewViewAck {
                view,
                base_slot,
                base,
            } => fields.number(view.0).number(base_slot.0).digest(base),
            Statement::Checkpoint { slot, chain, root } => {
                fields.number(slot.0).digest(chain).digest(root)
            }
        }
    }
}

/// What binds a replica's signature to its cluster, epoch and committee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    pub cluster: ClusterId,
    pub epoch: Epoch,
    pub committee: Digest,
}

impl Domain {
    pub fn of(committee: &Committee) -> Domain {
        Domain {
            cluster: committee.cluster(),
            epoch: committee.epoch(),
            committee: committee.digest(),
        }
    }

    /// What a replica's signature signs.
    pub fn statement_digest(&self, statement: &Statement) -> Digest {
        let fields = statement.fields();
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        let kind = statement.type_byte();
        hasher.update(&[if planted("notag") { 0 } else { kind }]);
        hasher.update(&self.cluster.0);
        hasher.update(&self.epoch.0.to_le_bytes());
        hasher.update(&self.committee.0);
        hasher.update(&fields.bytes[..fields.length]);
        Digest(*hasher.finalize().as_bytes())
    }
}

const CONTEXT: &str = "hippodrome/1/sig";

/// What a client's signature signs: the digest of the request's fixed fields and its operations.
pub fn request_digest(cluster: ClusterId, request: &RequestView<'_>) -> Digest {
    let kind = if request.is_open() {
        TYPE_OPEN
    } else {
        TYPE_REQUEST
    };
    // One call for all fields: behind a prefix the first chunks would be hashed one by one, which
    // takes three times as long for a bundle.
    let fields = blake3::hash(request.signed_bytes());
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(&[kind]);
    hasher.update(&cluster.0);
    hasher.update(fields.as_bytes());
    Digest(*hasher.finalize().as_bytes())
}

/// Signs as one replica.
pub trait Signer {
    /// The replica that signs.
    fn me(&self) -> NodeId;

    fn sign(&self, statement: &Statement) -> Signature;
}

/// Judges signatures of one committee and of clients.
pub trait Verifier {
    /// Whether replica `by` made this statement. A replica outside the committee made none.
    fn member(
        &self,
        by: NodeId,
        statement: &Statement,
        signature: &Signature,
    ) -> Result<(), Reject>;

    /// Whether the client that the request names made it.
    fn request(&self, request: &RequestView<'_>) -> Result<(), Reject>;
}

impl<T: Verifier + ?Sized> Verifier for std::sync::Arc<T> {
    fn member(
        &self,
        by: NodeId,
        statement: &Statement,
        signature: &Signature,
    ) -> Result<(), Reject> {
        (**self).member(by, statement, signature)
    }

    fn request(&self, request: &RequestView<'_>) -> Result<(), Reject> {
        (**self).request(request)
    }
}

/// Signs requests as one client.
pub trait ClientSigner {
    fn client(&self) -> PublicKey;

    /// Signature over a whole, unsigned request frame of this client.
    fn sign(&self, request: &RequestView<'_>) -> Signature;
}

/// Signs the unsigned request `frame` in place; it must be well formed and name the signer's key.
pub fn sign_request(signer: &impl ClientSigner, frame: &mut [u8]) -> Result<(), Reject> {
    let request = RequestView::parse(frame)?;
    if *request.client() != signer.client() {
        return Err(Reject::BadSignature);
    }
    let signature = signer.sign(&request);
    set_signature(frame, &signature);
    Ok(())
}

/// A value whose signatures hold. There is no way to make one but to check them, here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A statement, who made it, and the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed {
    pub by: NodeId,
    pub statement: Statement,
    pub signature: Signature,
}

impl Signed {
    /// As others keep it (R6).
    pub fn held(&self) -> Held {
        Held {
            statement: self.statement,
            signature: self.signature,
        }
    }

    /// The view of an NV-ACK.
    pub fn acked_view(&self) -> Option<View> {
        match self.statement {
            Statement::NewViewAck { view, .. } => Some(view),
            _ => None,
        }
    }

    /// The base that an NV-ACK acknowledges.
    pub fn acked_base(&self) -> Option<Place> {
        match self.statement {
            Statement::NewViewAck {
                base_slot, base, ..
            } => Some(Place {
                slot: base_slot,
                digest: base,
            }),
            _ => None,
        }
    }
}

/// Makes an own statement.
pub fn sign(signer: &impl Signer, statement: Statement) -> Verified<Signed> {
    Verified(Signed {
        by: signer.me(),
        statement,
        signature: signer.sign(&statement),
    })
}

/// Checks a statement of a replica.
pub fn verify(verifier: &impl Verifier, signed: Signed) -> Result<Verified<Signed>, Reject> {
    verifier.member(signed.by, &signed.statement, &signed.signature)?;
    Ok(Verified(signed))
}

/// Checks the form and the signature of a request frame that fills `bytes`.
pub fn verify_request<B: Deref<Target = [u8]>>(
    verifier: &impl Verifier,
    bytes: B,
) -> Result<Verified<B>, Reject> {
    verifier.request(&RequestView::parse(&bytes)?)?;
    Ok(Verified(bytes))
}

/// Checks a framed block: the signature of its view's leader, and each request's form and
/// signature. The payload's digest is not computed again; [`BlockView::parse`] did.
pub fn check_block(
    verifier: &impl Verifier,
    leader_of: impl FnOnce(View) -> NodeId,
    block: &BlockView<'_>,
) -> Result<(), Reject> {
    check_leader(
        verifier,
        leader_of,
        &block.prefix.header,
        &block.prefix.signature,
    )?;
    check_payload(verifier, block)
}

/// Checks that the leader of its view signed a header.
pub fn check_leader(
    verifier: &impl Verifier,
    leader_of: impl FnOnce(View) -> NodeId,
    header: &BlockHeader,
    signature: &Signature,
) -> Result<(), Reject> {
    let statement = Statement::Propose {
        view: header.view(),
        slot: header.slot(),
        digest: header.digest(),
    };
    verifier.member(leader_of(header.view()), &statement, signature)
}

/// Checks every request of a block: what its digest binds.
pub fn check_payload(verifier: &impl Verifier, block: &BlockView<'_>) -> Result<(), Reject> {
    for request in requests(block.payload) {
        let judged = verifier.request(&request?);
        if !planted("batchjudge") {
            judged?;
        }
    }
    Ok(())
}

/// Checks a block completely: form, payload digest, leader's signature and every request.
/// `message` finds the block message inside the value that holds it. A `vouched` one may do without
/// the leader's signature, which its digest does not bind; the caller sees to it what names it.
pub fn verify_block<B>(
    verifier: &impl Verifier,
    leader_of: impl FnOnce(View) -> NodeId,
    holder: B,
    message: impl Fn(&B) -> &[u8],
    vouched: bool,
) -> Result<Verified<B>, Reject> {
    let block = BlockView::parse(message(&holder))?;
    let prefix = block.prefix;
    let signed = check_leader(verifier, leader_of, &prefix.header, &prefix.signature);
    signed.or_else(|reject| if vouched { Ok(()) } else { Err(reject) })?;
    check_payload(verifier, &block)?;
    Ok(Verified(holder))
}
