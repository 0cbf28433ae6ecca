//! The production seal: Ed25519 over BLAKE3 digests, judged as by `verify_strict`.
//!
//! That predicate asks that neither key nor R are of small order and that R is, byte for byte, the
//! encoding of s B - k A. It decompresses R for the first of these, a quarter of its time. We do not:
//! an R that equals an encoding just computed is canonical, so it is of small order exactly when it
//! is one of eight known encodings. Keys are judged when they are decompressed, once.

use std::cell::RefCell;

use curve25519_dalek::constants::EIGHT_TORSION;
use ed25519_dalek::{Signer as _, SigningKey, Verifier as _, VerifyingKey};

use super::{ClientSigner, Domain, Signer, Statement, Verifier, request_digest};
use crate::canary::planted;
use crate::committee::Committee;
use crate::ids::{ClusterId, NodeId, PublicKey, Signature};
use crate::keys::{ClientSecret, NodeSecret};
use crate::reject::Reject;
use crate::request::RequestView;

/// A secret that fits no member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the key {key:#} belongs to no member of the committee: use the key file that was made with \
     this committee, or the committee file that names this key"
)]
pub struct SealError {
    pub key: PublicKey,
}

/// Signs as one member; about 10 us a signature.
#[derive(Clone)]
pub struct Ed25519Signer {
    me: NodeId,
    domain: Domain,
    key: SigningKey,
}

impl Ed25519Signer {
    pub fn new(committee: &Committee, secret: &NodeSecret) -> Result<Ed25519Signer, SealError> {
        let key = secret.public_key();
        Ok(Ed25519Signer {
            me: committee.find(&key).ok_or(SealError { key })?,
            domain: Domain::of(committee),
            key: secret.signing_key().clone(),
        })
    }
}

impl Signer for Ed25519Signer {
    fn me(&self) -> NodeId {
        self.me
    }

    fn sign(&self, statement: &Statement) -> Signature {
        let digest = self.domain.statement_digest(statement);
        Signature(self.key.sign(&digest.0).to_bytes())
    }
}

/// Judges as `verify_strict` does, 24 us a signature with AVX-512 and 36 with AVX2. Keys of members
/// are decompressed once, those of clients seldom: that is a fifth of a verification.
#[derive(Clone, Debug)]
pub struct Ed25519Verifier {
    domain: Domain,
    members: Vec<VerifyingKey>,
    /// Decompressed keys of clients, each at the one place that its bytes choose.
    clients: RefCell<Vec<Option<VerifyingKey>>>,
    small_order: [[u8; 32]; 8],
}

/// A power of two; 200 KiB.
const CLIENT_KEYS: usize = 1024;

impl Ed25519Verifier {
    pub fn new(committee: &Committee) -> Ed25519Verifier {
        let members = committee.members().iter();
        Ed25519Verifier {
            domain: Domain::of(committee),
            members: members
                .map(|member| {
                    VerifyingKey::from_bytes(&member.public_key.0)
                        .expect("the committee checked its keys")
                })
                .collect(),
            clients: RefCell::new(vec![None; CLIENT_KEYS]),
            small_order: EIGHT_TORSION.map(|point| point.compress().0),
        }
    }

    /// The key of a client. Clients choose their keys, so they can crowd each other out of a
    /// place, which costs a decompression.
    fn client(&self, key: &PublicKey) -> Result<VerifyingKey, Reject> {
        let place = usize::from(u16::from_le_bytes([key.0[8], key.0[9]])) % CLIENT_KEYS;
        let mut clients = self.clients.borrow_mut();
        if let Some(held) = &clients[place]
            && held.as_bytes() == &key.0
        {
            return Ok(*held);
        }
        let decompressed = VerifyingKey::from_bytes(&key.0).map_err(|_| Reject::WeakKey)?;
        if decompressed.is_weak() && !planted("weakverify") {
            return Err(Reject::WeakKey);
        }
        clients[place] = Some(decompressed);
        Ok(decompressed)
    }

    /// `verify_strict` for a key that is not weak.
    fn strict(
        &self,
        key: &VerifyingKey,
        message: &[u8],
        signature: &Signature,
    ) -> Result<(), Reject> {
        let small = || self.small_order.iter().any(|r| signature.0.starts_with(r));
        if !planted("weakverify") && small() {
            return Err(Reject::BadSignature);
        }
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        key.verify(message, &signature)
            .map_err(|_| Reject::BadSignature)
    }
}

impl Verifier for Ed25519Verifier {
    fn member(
        &self,
        by: NodeId,
        statement: &Statement,
        signature: &Signature,
    ) -> Result<(), Reject> {
        let key = self.members.get(by.index()).ok_or(Reject::NotInCommittee)?;
        let digest = self.domain.statement_digest(statement);
        self.strict(key, &digest.0, signature)
    }

    fn request(&self, request: &RequestView<'_>) -> Result<(), Reject> {
        let key = self.client(request.client())?;
        let digest = request_digest(self.domain.cluster, request);
        self.strict(&key, &digest.0, request.signature())
    }
}

/// Signs requests as one client.
#[derive(Clone)]
pub struct Ed25519ClientSigner {
    cluster: ClusterId,
    key: SigningKey,
    client: PublicKey,
}

impl Ed25519ClientSigner {
    pub fn new(cluster: ClusterId, secret: &ClientSecret) -> Ed25519ClientSigner {
        Ed25519ClientSigner {
            cluster,
            key: secret.signing_key().clone(),
            client: secret.public_key(),
        }
    }
}

impl ClientSigner for Ed25519ClientSigner {
    fn client(&self) -> PublicKey {
        self.client
    }

    fn sign(&self, request: &RequestView<'_>) -> Signature {
        let digest = request_digest(self.cluster, request);
        Signature(self.key.sign(&digest.0).to_bytes())
    }
}

impl std::fmt::Debug for Ed25519Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ed25519Signer({})", self.me)
    }
}

impl std::fmt::Debug for Ed25519ClientSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ed25519ClientSigner({})", self.client)
    }
}
