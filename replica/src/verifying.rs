//! Signature checks, off the ordering path; any number of instances.
//!
//! Expected cost: one strict Ed25519 verification a request (19-29 us) and one a block header.
//! The predicate of `verify_strict` is the only judge, on every path.

use std::cell::Cell;

use wire::block::BlockView;
use wire::bytes::Buffers;
use wire::ids::{Digest, NodeId, Slot, View};
use wire::reject::Reject;
use wire::request::checked_requests;
use wire::seal::{self, Verified, Verifier};

use crate::blocks::Raw;

/// Something to verify.
pub enum Job<Bu: Buffers> {
    /// A client's datagram: one request frame.
    Request(Bu::Shared),
    /// An appended PROPOSE.
    Proposed {
        slot: Slot,
        digest: Digest,
        message: Bu::Shared,
    },
    /// A BLOCK of some replica.
    Fetched { from: NodeId, raw: Raw<Bu::Unique> },
}

/// What came of it.
pub enum Verdict<Bu: Buffers> {
    Request(Verified<Bu::Shared>),
    Checked {
        slot: Slot,
        digest: Digest,
        valid: bool,
    },
    Fetched {
        from: NodeId,
        raw: Verified<Raw<Bu::Unique>>,
    },
    Rejected(Reject),
}

/// One verifier.
pub struct Verifying<V: Verifier> {
    verifier: V,
    replicas: u64,
    signatures: Cell<u64>,
}

impl<V: Verifier> Verifying<V> {
    pub fn new(verifier: V, replicas: usize) -> Verifying<V> {
        Verifying {
            verifier,
            replicas: replicas as u64,
            signatures: Cell::new(0),
        }
    }

    /// Signatures checked so far.
    pub fn signatures(&self) -> u64 {
        self.signatures.get()
    }

    fn count(&self, signatures: u64) {
        self.signatures.set(self.signatures.get() + signatures);
    }

    /// Does one job.
    pub fn handle<Bu: Buffers>(&self, job: Job<Bu>) -> Verdict<Bu> {
        match job {
            Job::Request(bytes) => {
                self.count(1);
                match seal::verify_request(&self.verifier, bytes) {
                    Ok(verified) => Verdict::Request(verified),
                    Err(reject) => Verdict::Rejected(reject),
                }
            }
            Job::Proposed {
                slot,
                digest,
                message,
            } => {
                let valid = self.block(&message).is_ok();
                Verdict::Checked {
                    slot,
                    digest,
                    valid,
                }
            }
            Job::Fetched { from, raw } => {
                self.count_block(raw.message());
                let leader = |view| self.leader(view);
                match seal::verify_block(&self.verifier, leader, raw, |raw| raw.message()) {
                    Ok(raw) => Verdict::Fetched { from, raw },
                    Err(reject) => Verdict::Rejected(reject),
                }
            }
        }
    }

    /// N2: the leader's signature, and every request's form and signature.
    pub fn block(&self, message: &[u8]) -> Result<(), Reject> {
        self.count_block(message);
        seal::check_block(
            &self.verifier,
            |view| self.leader(view),
            &BlockView::frame(message)?,
        )
    }

    fn count_block(&self, message: &[u8]) {
        if let Ok(view) = BlockView::frame(message) {
            self.count(1 + checked_requests(view.payload).count() as u64);
        }
    }

    /// leader(v) = v mod n.
    fn leader(&self, view: View) -> NodeId {
        NodeId((view.0 % self.replicas) as u16)
    }
}
