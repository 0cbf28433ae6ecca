//! Who certified a state.

use replica::verifying::Verifying;
use wire::certificates::CheckpointCertificate;
use wire::ids::NodeId;
use wire::reject::Reject;
use wire::seal::{Ed25519Verifier, Signed};

/// Who signed a certificate, and whether the signature holds; none where nobody could verify it.
pub type Signer = (NodeId, Option<bool>);

/// A certificate that was looked at.
pub struct Judged {
    pub signers: Vec<Signer>,
    /// Signatures that it needs; none without a committee.
    pub needed: Option<usize>,
    /// Whether it holds; unknown without a committee.
    pub holds: Result<(), Reject>,
}

/// Looks at each signature, and at the whole. `verifying`: none without a committee.
pub fn judge(
    found: &CheckpointCertificate,
    mut verifying: Option<Verifying<Ed25519Verifier>>,
) -> Judged {
    let statement = found.statement();
    let mut compound = verifying.as_mut().map(Verifying::compound);
    let signers = found.signatures.iter().map(|(by, signature)| {
        let signed = Signed {
            by,
            statement,
            signature: *signature,
        };
        let compound = compound.as_mut();
        (by, compound.map(|compound| compound.signed(signed).is_ok()))
    });
    let signers = signers.collect();
    Judged {
        signers,
        needed: compound.as_ref().map(|compound| compound.rules().slow),
        holds: match compound {
            Some(compound) => compound.state(*found).map(drop),
            None => Ok(()),
        },
    }
}
