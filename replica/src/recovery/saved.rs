//! The snapshot that a start begins from.

use std::io;

use storage::machine::StateMachine;
use storage::record::Identity;
use storage::snapshot::SnapshotDamaged;
use storage::state::InstallFailed;
use thiserror::Error;
use wire::certificates::CheckpointCertificate;
use wire::reject::Reject;
use wire::seal::{Compound, StateProof, Verifier};

use crate::execution::Execution;
use crate::snapshot::SnapshotReader;

/// A snapshot file as a start finds it.
pub struct Saved<'a> {
    /// Its name, for errors.
    pub name: String,
    /// Its bytes, in any cut.
    pub pieces: &'a mut dyn Iterator<Item = io::Result<Vec<u8>>>,
}

/// Why a snapshot gives no state.
#[derive(Debug, Error)]
pub enum SavedUnusable {
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error(transparent)]
    Damaged(#[from] SnapshotDamaged),
    #[error("the certificate in it does not hold: {0:?}")]
    Uncertified(Reject),
    #[error("the certificate in it is of another state")]
    OtherState,
    #[error(transparent)]
    NotInstalled(#[from] InstallFailed),
}

impl Saved<'_> {
    /// Reads it, verifies its certificate, and puts its state into the fresh execution. Nothing is
    /// changed on an error.
    pub(super) fn load<M: StateMachine, V: Verifier>(
        self,
        identity: &Identity,
        compound: &mut Compound<V>,
        execution: &mut Execution<M>,
    ) -> Result<StateProof, SavedUnusable> {
        let mut reader = SnapshotReader::new(identity.cluster, identity.node);
        for piece in self.pieces {
            reader.push(&piece?)?;
        }
        let certificate = reader.certificate().to_vec();
        let (header, installation) = reader.finish()?;
        let certificate =
            CheckpointCertificate::decode(&certificate).map_err(SavedUnusable::Uncertified)?;
        let proof = compound
            .state(certificate)
            .map_err(SavedUnusable::Uncertified)?;
        let place = certificate.place();
        if (place.slot, place.digest, certificate.root)
            != (header.slot(), header.chain, header.root)
        {
            return Err(SavedUnusable::OtherState);
        }
        execution.install(&installation)?;
        Ok(proof)
    }
}
