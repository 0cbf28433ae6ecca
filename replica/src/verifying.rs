//! Signature checks, off the ordering path; any number of instances.
//!
//! Expected cost: one strict Ed25519 verification a request (19-29 us) and one a block header; where
//! COMMITs are sent, one a vote and one a COMMIT as well. The predicate of `verify_strict` is the
//! only judge, on every path. A peer whose signatures fail is heard less: it pays for each bad one
//! with the next ones unread (§9.1, BYZ6).

use std::sync::Arc;

use consensus::{BlockCheck, Input};
use wire::block::{BlockHeader, BlockView};
use wire::bytes::{Buffers, SharedBytes};
use wire::certificates::{CheckpointCertificate, NewViewCertificate, Place, WishCertificate};
use wire::header::Kind;
use wire::ids::{NodeId, Signature, Slot, View};
use wire::limits::REPLICAS_MAX;
use wire::messages::{self, EvidenceBody};
use wire::reject::Reject;
use wire::request::checked_requests;
use wire::seal::{self, Compound, Rules, Statement, Verified, Verifier, in_range};
use wire::view_change::{NewView, ViewChange, split_signed};

use crate::blocks::Raw;
use crate::peer::PeerMessage;

/// Credit of a peer: a bad signature costs as much as so many good ones earn.
const CREDIT_MAX: i32 = 256;
const CREDIT_OF_BAD: i32 = 32;
/// A peer without credit is heard again after so many jobs of others.
const PARDON_EVERY: u32 = 64;

/// Something to verify.
pub enum Job<Bu: Buffers> {
    /// A client's datagram: one request frame.
    Request(Bu::Shared),
    /// An appended PROPOSE.
    Proposed { place: Place, message: Bu::Shared },
    /// A BLOCK of some replica.
    Fetched { from: NodeId, raw: Raw<Bu::Unique> },
    /// A client's request that a replica forwards.
    Forwarded { from: NodeId, body: Bu::Shared },
    /// A message of a replica that carries signatures.
    Message {
        from: NodeId,
        kind: Kind,
        view: View,
        slot: Slot,
        body: Bu::Shared,
    },
}

/// What came of it.
pub enum Verdict<Bu: Buffers> {
    Request(Verified<Bu::Shared>),
    Fetched {
        from: NodeId,
        raw: Verified<Raw<Bu::Unique>>,
    },
    /// A request that another replica stands up for.
    Forwarded {
        from: NodeId,
        request: Verified<Bu::Shared>,
    },
    /// For the core.
    Agreement(Input),
    /// Two headers that a leader signed.
    Evidence(Box<EvidenceBody>),
    Rejected(Reject),
}

/// One verifier.
pub struct Verifying<V: Verifier> {
    verifier: V,
    compound: Compound<V>,
    signatures: u64,
    credit: [i32; REPLICAS_MAX],
    jobs: u32,
}

impl<V: Verifier + Clone> Verifying<V> {
    pub fn new(verifier: V, rules: Rules) -> Verifying<V> {
        Verifying {
            compound: Compound::new(verifier.clone(), rules),
            verifier,
            signatures: 0,
            credit: [CREDIT_MAX; REPLICAS_MAX],
            jobs: 0,
        }
    }

    /// Signatures checked so far.
    pub fn signatures(&self) -> u64 {
        self.signatures + self.compound.signatures
    }

    /// Judge of compound messages, for reading them back from the log.
    pub fn compound(&mut self) -> &mut Compound<V> {
        &mut self.compound
    }

    /// Does one job.
    pub fn handle<Bu: Buffers>(&mut self, job: Job<Bu>) -> Verdict<Bu> {
        self.jobs = self.jobs.wrapping_add(1);
        if self.jobs.is_multiple_of(PARDON_EVERY) {
            for credit in &mut self.credit {
                *credit = (*credit + CREDIT_OF_BAD).min(CREDIT_MAX);
            }
        }
        match job {
            Job::Request(bytes) => {
                self.signatures += 1;
                match seal::verify_request(&self.verifier, bytes) {
                    Ok(verified) => Verdict::Request(verified),
                    Err(reject) => Verdict::Rejected(reject),
                }
            }
            Job::Proposed { place, message } => match self.block(&message) {
                Ok((signature, found)) => Verdict::Agreement(Input::Checked {
                    place,
                    signature,
                    found,
                }),
                Err(reject) => Verdict::Rejected(reject),
            },
            Job::Fetched { from, raw } => {
                if let Err(reject) = self.admit(from) {
                    return Verdict::Rejected(reject);
                }
                self.count_block(raw.message());
                let rules = *self.compound.rules();
                let leader = |view| rules.leader(view);
                match seal::verify_block(&self.verifier, leader, raw, |raw| raw.message()) {
                    Ok(raw) => Verdict::Fetched { from, raw },
                    Err(reject) => self.reject(from, reject),
                }
            }
            Job::Forwarded { from, body } => {
                if let Err(reject) = self.admit(from) {
                    return Verdict::Rejected(reject);
                }
                self.signatures += 1;
                match seal::verify_request(&self.verifier, body) {
                    Ok(request) => Verdict::Forwarded { from, request },
                    Err(reject) => self.reject(from, reject),
                }
            }
            Job::Message {
                from,
                kind,
                view,
                slot,
                body,
            } => {
                if let Err(reject) = self.admit(from) {
                    return Verdict::Rejected(reject);
                }
                match self.message::<Bu>(from, kind, view, slot, &body) {
                    Ok(verdict) => verdict,
                    Err(reject) => self.reject(from, reject),
                }
            }
        }
    }

    fn admit(&mut self, from: NodeId) -> Result<(), Reject> {
        let credit = &mut self.credit[from.index()];
        if *credit <= 0 {
            return Err(Reject::RateLimited);
        }
        *credit = (*credit + 1).min(CREDIT_MAX);
        Ok(())
    }

    fn reject<Bu: Buffers>(&mut self, from: NodeId, reject: Reject) -> Verdict<Bu> {
        if reject == Reject::BadSignature {
            let credit = &mut self.credit[from.index()];
            *credit = (*credit - CREDIT_OF_BAD).max(-CREDIT_MAX);
        }
        Verdict::Rejected(reject)
    }

    fn message<Bu: Buffers>(
        &mut self,
        from: NodeId,
        kind: Kind,
        view: View,
        slot: Slot,
        body: &[u8],
    ) -> Result<Verdict<Bu>, Reject> {
        let compound = &mut self.compound;
        let input = match kind {
            Kind::ViewChange => {
                let (signature, body) = split_signed(body)?;
                let checked = compound.view_change(ViewChange::decode(body)?, signature)?;
                Input::ViewChange(Arc::new(checked))
            }
            Kind::NewView => {
                let (signature, body) = split_signed(body)?;
                let checked = compound.new_view(NewView::decode(body)?, signature)?;
                Input::NewView(Arc::new(checked))
            }
            Kind::WishCertificate => {
                let certificate = WishCertificate::decode(body)?;
                Input::WishCertificate(Box::new(compound.wish_certificate(certificate)?))
            }
            Kind::NewViewCertificate => {
                let certificate = NewViewCertificate::decode(body)?;
                Input::NewViewCertificate(Box::new(compound.new_view_certificate(certificate)?))
            }
            Kind::CheckpointCertificate => {
                let certificate = CheckpointCertificate::decode(body)?;
                Input::CheckpointCertificate(Box::new(
                    compound.checkpoint_certificate(certificate)?,
                ))
            }
            Kind::Evidence => {
                let body: &EvidenceBody = messages::parse(body)?;
                self.evidence(body)?;
                return Ok(Verdict::Evidence(Box::new(*body)));
            }
            _ => {
                let message = PeerMessage::decode(kind, view, slot, body)?;
                let signed = message.signed(from).ok_or(Reject::UnknownKind)?;
                let signed = compound.signed(signed)?;
                match signed.statement {
                    Statement::Vote { view, slot, digest } => Input::Vote {
                        from,
                        vote: wire::block::BlockRef { view, slot, digest },
                        signature: signed.signature,
                    },
                    _ => Input::Signed(signed),
                }
            }
        };
        Ok(Verdict::Agreement(input))
    }

    /// Whether the leader of their view signed both headers (N9).
    pub fn evidence(&mut self, evidence: &EvidenceBody) -> Result<(), Reject> {
        for signed in [&evidence.first, &evidence.second] {
            let header = &signed.header;
            in_range(header.view(), header.slot())?;
            if header.epoch() != self.compound.rules().epoch {
                return Err(Reject::WrongEpoch);
            }
            let statement = Statement::Propose {
                view: header.view(),
                slot: header.slot(),
                digest: header.digest(),
            };
            self.signatures += 1;
            let leader = self.compound.rules().leader(header.view());
            self.verifier
                .member(leader, &statement, &signed.signature)?;
        }
        Ok(())
    }

    /// N2: the leader's signature, which is returned, and every request's form and signature.
    pub fn block(&mut self, message: &[u8]) -> Result<(Signature, BlockCheck), Reject> {
        self.count_block(message);
        let view = BlockView::frame(message)?;
        let prefix = view.prefix;
        let found = if !self.leader_signed(&prefix.header, &prefix.signature) {
            BlockCheck::ForeignSignature
        } else if !self.payload_is_valid(message) {
            BlockCheck::InvalidPayload
        } else {
            BlockCheck::Good
        };
        Ok((prefix.signature, found))
    }

    /// Every request's form and signature alone.
    pub fn payload_is_valid(&self, message: &[u8]) -> bool {
        let view = BlockView::frame(message);
        view.is_ok_and(|view| seal::check_payload(&self.verifier, &view).is_ok())
    }

    pub fn leader_signed(&self, header: &BlockHeader, signature: &Signature) -> bool {
        let rules = *self.compound.rules();
        let leader = |view| rules.leader(view);
        seal::check_leader(&self.verifier, leader, header, signature).is_ok()
    }

    fn count_block(&mut self, message: &[u8]) {
        if let Ok(view) = BlockView::frame(message) {
            self.signatures += 1 + checked_requests(view.payload).count() as u64;
        }
    }
}

/// The body of a message of a replica, however it came.
pub fn body_of<Bu: Buffers>(body: wire::link::Body<Bu>) -> Bu::Shared {
    use wire::bytes::UniqueBytes;
    use wire::limits::RECORD_HEADER_BYTES;
    match body {
        wire::link::Body::Whole(bytes) => bytes,
        wire::link::Body::Assembled(buffer, length) => buffer
            .freeze()
            .slice(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + length),
    }
}
