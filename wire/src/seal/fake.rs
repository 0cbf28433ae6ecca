//! A seal without public-key work, for the simulator's core profile and for tests.
//!
//! A "signature" is a keyed BLAKE3 of what Ed25519 would sign, under a key that everyone holds. It
//! binds the same fields to the same signer, so honest code behaves as with real signatures; it
//! proves nothing against someone who holds the key. No program of the product uses it.

use super::{ClientSigner, Domain, Signer, Statement, Verifier, request_digest};
use crate::committee::Committee;
use crate::ids::{ClusterId, Digest, NodeId, PublicKey, Signature};
use crate::reject::Reject;
use crate::request::RequestView;

fn tag(signer: &[u8], digest: &Digest) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(b"no secret: simulated signatures.");
    hasher.update(signer);
    hasher.update(&digest.0);
    hasher.finalize()
}

fn signature(signer: &[u8], digest: &Digest) -> Signature {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(tag(signer, digest).as_bytes());
    Signature(bytes)
}

fn check(signer: &[u8], digest: &Digest, signature: &Signature) -> Result<(), Reject> {
    let (tag_bytes, zero) = signature.0.split_at(32);
    if tag(signer, digest) == *tag_bytes && zero == [0; 32] {
        Ok(())
    } else {
        Err(Reject::BadSignature)
    }
}

/// Signs as one replica and judges all of them.
#[derive(Clone, Debug)]
pub struct FakeSeal {
    me: NodeId,
    domain: Domain,
    members: u16,
}

impl FakeSeal {
    pub fn new(committee: &Committee, me: NodeId) -> FakeSeal {
        FakeSeal {
            me,
            domain: Domain::of(committee),
            members: committee.n() as u16,
        }
    }
}

impl Signer for FakeSeal {
    fn me(&self) -> NodeId {
        self.me
    }

    fn sign(&self, statement: &Statement) -> Signature {
        let digest = self.domain.statement_digest(statement);
        signature(&self.me.0.to_le_bytes(), &digest)
    }
}

impl Verifier for FakeSeal {
    fn member(
        &self,
        by: NodeId,
        statement: &Statement,
        signature: &Signature,
    ) -> Result<(), Reject> {
        if by.0 >= self.members {
            return Err(Reject::NotInCommittee);
        }
        let digest = self.domain.statement_digest(statement);
        check(&by.0.to_le_bytes(), &digest, signature)
    }

    fn request(&self, request: &RequestView<'_>) -> Result<(), Reject> {
        let digest = request_digest(self.domain.cluster, request);
        check(&request.client().0, &digest, request.signature())
    }
}

/// Signs requests as one client, for [`FakeSeal`] to judge.
#[derive(Clone, Debug)]
pub struct FakeClientSigner {
    pub cluster: ClusterId,
    pub client: PublicKey,
}

impl ClientSigner for FakeClientSigner {
    fn client(&self) -> PublicKey {
        self.client
    }

    fn sign(&self, request: &RequestView<'_>) -> Signature {
        signature(&self.client.0, &request_digest(self.cluster, request))
    }
}
