//! What the body of one record says, and whether the signatures in it hold.

use replica::agreement::{BlockCheck, Evidence};
use replica::recovery::{DecidedRecord, StandingRecord};
use replica::verifying::Verifying;
use storage::record::Kind;
use wire::block::BlockView;
use wire::certificates::{CheckpointCertificate, NewViewCertificate, QuorumCertificate};
use wire::ids::{NodeId, Slot, View};
use wire::messages::{CleanStopRecord, EvidenceBody, LeaseRecord, PlaceRecord, StartRecord};
use wire::reject::Reject;
use wire::seal::{Ed25519Verifier, Signed, Statement};
use wire::view_change::{NewView, ViewChange, split_signed};
use zerocopy::FromBytes;

/// Whether the signatures in a record hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signatures {
    /// It holds none.
    None,
    Good,
    Unchecked,
    /// Of what this node had verified before it wrote the record: the disk, or a bug.
    Bad(Reject),
    /// Of a block, which is written before it is verified (R2): its leader lied, not the disk.
    BadOfLeader,
    BadOfRequests,
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub slot: Option<Slot>,
    pub view: Option<View>,
    /// Why its body is not one of its kind.
    pub malformed: Option<Reject>,
    pub signatures: Signatures,
}

/// Reads the bodies of the log of one node.
pub struct RecordJudge {
    me: NodeId,
    verifying: Option<Verifying<Ed25519Verifier>>,
}

type Place = (Option<View>, Option<Slot>);
type Outcome = Result<(Place, Signatures), Reject>;

impl RecordJudge {
    /// `verifying`: none to leave signatures alone.
    pub fn new(me: NodeId, verifying: Option<Verifying<Ed25519Verifier>>) -> RecordJudge {
        RecordJudge { me, verifying }
    }

    pub fn judge(&mut self, kind: Kind, body: &[u8]) -> Told {
        match self.read(kind, body) {
            Ok(((view, slot), signatures)) => Told {
                slot,
                view,
                malformed: None,
                signatures,
            },
            Err(reject) => Told {
                slot: None,
                view: None,
                malformed: Some(reject),
                signatures: Signatures::None,
            },
        }
    }

    fn read(&mut self, kind: Kind, body: &[u8]) -> Outcome {
        let at = |view, slot| (Some(view), Some(slot));
        let unsigned = |place: Place| Ok((place, Signatures::None));
        match kind {
            Kind::Block | Kind::FetchedBlock => self.block(body),
            Kind::Commit => {
                let quorum = QuorumCertificate::decode(body)?;
                let place = at(quorum.view, quorum.block.slot);
                let check =
                    |v: &mut Verifying<_>| v.compound().quorum_certificate(quorum).map(drop);
                Ok((place, self.check(check)))
            }
            Kind::ViewChange => {
                let (signature, body) = split_signed(body)?;
                let message = ViewChange::decode(body)?;
                let place = (Some(message.view), None);
                let check =
                    |v: &mut Verifying<_>| v.compound().view_change(message, signature).map(drop);
                Ok((place, self.check(check)))
            }
            Kind::NewView => {
                let (signature, body) = split_signed(body)?;
                let message = NewView::decode(body)?;
                let place = at(message.view, message.base.slot);
                let check =
                    |v: &mut Verifying<_>| v.compound().new_view(message, signature).map(drop);
                Ok((place, self.check(check)))
            }
            Kind::Install => {
                let found = NewViewCertificate::decode(body)?;
                let place = at(found.view, found.base.slot);
                let check =
                    |v: &mut Verifying<_>| v.compound().new_view_certificate(found).map(drop);
                Ok((place, self.check(check)))
            }
            Kind::CheckpointCertificate => {
                let found = CheckpointCertificate::decode(body)?;
                let place = at(found.header.view(), found.header.slot());
                let check =
                    |v: &mut Verifying<_>| v.compound().checkpoint_certificate(found).map(drop);
                Ok((place, self.check(check)))
            }
            Kind::Ack => {
                let ack = fixed::<PlaceRecord>(body)?;
                let statement = Statement::NewViewAck {
                    view: ack.view(),
                    base_slot: ack.slot(),
                    base: ack.digest,
                };
                let (by, signature) = (self.me, ack.signature);
                let signed = Signed {
                    by,
                    statement,
                    signature,
                };
                let check = |v: &mut Verifying<_>| v.compound().signed(signed).map(drop);
                Ok((at(ack.view(), ack.slot()), self.check(check)))
            }
            Kind::Evidence => self.evidence(body),
            Kind::Skip => {
                let skip = fixed::<PlaceRecord>(body)?;
                unsigned(at(skip.view(), skip.slot()))
            }
            Kind::Lease => {
                let lease = fixed::<LeaseRecord>(body)?;
                unsigned(at(lease.view(), lease.slot()))
            }
            Kind::Decided => unsigned((None, Some(fixed::<DecidedRecord>(body)?.slot()))),
            Kind::Standing => {
                let standing = fixed::<StandingRecord>(body)?;
                standing.durability().ok_or(Reject::BodyMalformed)?;
                unsigned(at(standing.installed(), standing.tip().slot))
            }
            Kind::Start => {
                let start = fixed::<StartRecord>(body)?;
                start.durability().ok_or(Reject::BodyMalformed)?;
                unsigned((Some(start.stage()), None))
            }
            Kind::CleanStop => {
                fixed::<CleanStopRecord>(body)?;
                unsigned((None, None))
            }
            // No version writes one yet, and a start refuses it.
            Kind::Epoch => Err(Reject::UnknownKind),
        }
    }

    fn block(&mut self, body: &[u8]) -> Outcome {
        let block = BlockView::parse(body)?;
        let header = block.prefix.header;
        let place = (Some(header.view()), Some(header.slot()));
        let Some(verifying) = &mut self.verifying else {
            return Ok((place, Signatures::Unchecked));
        };
        let (_, found) = verifying.block(body)?;
        let signatures = match found {
            BlockCheck::Good => Signatures::Good,
            BlockCheck::InvalidPayload => Signatures::BadOfRequests,
            BlockCheck::ForeignSignature => Signatures::BadOfLeader,
        };
        Ok((place, signatures))
    }

    fn evidence(&mut self, body: &[u8]) -> Outcome {
        let evidence = fixed::<EvidenceBody>(body)?;
        let shown = Evidence {
            kind: evidence.kind,
            first: evidence.first,
            second: evidence.second,
        };
        if !shown.is_proof() {
            return Err(Reject::BodyMalformed);
        }
        let header = evidence.first.header;
        let place = (Some(header.view()), Some(header.slot()));
        Ok((place, self.check(|verifying| verifying.evidence(&evidence))))
    }

    fn check(
        &mut self,
        check: impl FnOnce(&mut Verifying<Ed25519Verifier>) -> Result<(), Reject>,
    ) -> Signatures {
        match self.verifying.as_mut().map(check) {
            None => Signatures::Unchecked,
            Some(Ok(())) => Signatures::Good,
            Some(Err(reject)) => Signatures::Bad(reject),
        }
    }
}

/// A body of fixed length.
fn fixed<T: FromBytes>(body: &[u8]) -> Result<T, Reject> {
    T::read_from_bytes(body).map_err(|_| Reject::LengthMismatch)
}
