//! The small messages between replicas, decoded: what travels through rings between stages.

use wire::block::BlockRef;
use wire::header::Kind;
use wire::ids::{Boot, Digest, NodeId, Signature, Slot, View};
use wire::messages::{
    self, CheckpointBody, DecidedBody, FetchBlockBody, FetchRangeBody, GRAIN_WORDS, SilentBody,
    Status, StatusBody, VoteBody, WishBody,
};
use wire::reject::Reject;
use wire::seal::{Signed, Statement};
use wire::state::{FetchStateBody, Part};
use zerocopy::IntoBytes;

/// Largest body of a small message.
pub const SMALL_BODY_BYTES_MAX: usize = 256;
const _: () = assert!(size_of::<FetchBlockBody>() <= SMALL_BODY_BYTES_MAX);
const _: () = assert!(size_of::<StatusBody>() <= SMALL_BODY_BYTES_MAX);
const _: () = assert!(size_of::<CheckpointBody>() <= SMALL_BODY_BYTES_MAX);

/// Names a long message by its content: what is sent again completes what was lost of it.
pub fn content_digest(body: &[u8]) -> Digest {
    Digest(*blake3::hash(body).as_bytes())
}

/// One small message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerMessage {
    Vote {
        vote: BlockRef,
        signature: Signature,
    },
    /// COMMIT, WISH, RESIGN, NV-ACK or CHECKPOINT of the sender.
    Signed {
        statement: Statement,
        signature: Signature,
    },
    Decided {
        slot: Slot,
        digest: Digest,
    },
    Status(Status),
    /// SILENT(boot, L) of R3.
    Silent {
        boot: Boot,
        lease: Slot,
    },
    /// `grains`: only the marked ones of so many grains.
    FetchBlock {
        slot: Slot,
        digest: Digest,
        have: Slot,
        grains: Option<Grains>,
    },
    FetchRange {
        first: Slot,
        count: u64,
    },
    FetchViewChange {
        digest: Digest,
    },
    /// A part of the state at the checkpoint of `slot`.
    FetchState {
        slot: Slot,
        part: Part,
    },
}

/// Missing grains of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grains {
    pub count: u16,
    pub missing: [u64; GRAIN_WORDS],
}

/// Whether messages of this kind carry signatures that are checked before anyone acts on them.
/// Votes do where COMMITs are sent (N4).
pub fn is_verified(kind: Kind, votes_verified: bool) -> bool {
    match kind {
        Kind::Vote => votes_verified,
        Kind::Commit
        | Kind::Wish
        | Kind::WishCertificate
        | Kind::Resign
        | Kind::Evidence
        | Kind::ViewChange
        | Kind::NewView
        | Kind::NewViewAck
        | Kind::NewViewCertificate
        | Kind::Checkpoint
        | Kind::CheckpointCertificate => true,
        _ => false,
    }
}

impl From<Signed> for PeerMessage {
    fn from(signed: Signed) -> PeerMessage {
        let Signed {
            statement,
            signature,
            ..
        } = signed;
        match statement {
            Statement::Vote { view, slot, digest } => PeerMessage::Vote {
                vote: BlockRef { view, slot, digest },
                signature,
            },
            _ => PeerMessage::Signed {
                statement,
                signature,
            },
        }
    }
}

impl PeerMessage {
    /// The statement of replica `from` in this message, to be verified.
    pub fn signed(&self, from: NodeId) -> Option<Signed> {
        let (statement, signature) = match *self {
            PeerMessage::Vote { vote, signature } => {
                let BlockRef { view, slot, digest } = vote;
                (Statement::Vote { view, slot, digest }, signature)
            }
            PeerMessage::Signed {
                statement,
                signature,
            } => (statement, signature),
            _ => return None,
        };
        Some(Signed {
            by: from,
            statement,
            signature,
        })
    }

    /// Reads the body of a datagram whose link MAC holds.
    pub fn decode(kind: Kind, view: View, slot: Slot, body: &[u8]) -> Result<PeerMessage, Reject> {
        let signed = |statement, signature| {
            Ok(PeerMessage::Signed {
                statement,
                signature,
            })
        };
        match kind {
            Kind::Vote => {
                let body: &VoteBody = messages::parse(body)?;
                let vote = BlockRef {
                    view,
                    slot,
                    digest: body.digest,
                };
                Ok(PeerMessage::Vote {
                    vote,
                    signature: body.signature,
                })
            }
            Kind::Commit => {
                let body: &VoteBody = messages::parse(body)?;
                let digest = body.digest;
                signed(Statement::Commit { view, slot, digest }, body.signature)
            }
            Kind::Wish => {
                let body = WishBody::decode(body)?;
                let (boot, counter) = (body.boot(), body.counter());
                let statement = Statement::Wish {
                    view,
                    boot,
                    counter,
                };
                signed(statement, body.signature)
            }
            Kind::Resign => {
                let signature: &Signature = messages::parse(body)?;
                signed(Statement::Resign { view }, *signature)
            }
            Kind::NewViewAck => {
                let body: &VoteBody = messages::parse(body)?;
                let statement = Statement::NewViewAck {
                    view,
                    base_slot: slot,
                    base: body.digest,
                };
                signed(statement, body.signature)
            }
            Kind::Checkpoint => {
                let body: &CheckpointBody = messages::parse(body)?;
                let (chain, root) = (body.chain, body.root);
                signed(Statement::Checkpoint { slot, chain, root }, body.signature)
            }
            Kind::Decided => {
                let body: &DecidedBody = messages::parse(body)?;
                Ok(PeerMessage::Decided {
                    slot,
                    digest: body.digest,
                })
            }
            Kind::FetchState => {
                let (slot, part) = FetchStateBody::decode(body)?;
                Ok(PeerMessage::FetchState { slot, part })
            }
            Kind::Status => Ok(PeerMessage::Status(StatusBody::decode(body)?)),
            Kind::Silent => {
                let boot = SilentBody::decode(body)?;
                Ok(PeerMessage::Silent { boot, lease: slot })
            }
            Kind::FetchBlock => {
                let body = FetchBlockBody::decode(body)?;
                let grains = (body.grain_count() > 0).then(|| Grains {
                    count: body.grain_count() as u16,
                    missing: body.missing(),
                });
                Ok(PeerMessage::FetchBlock {
                    slot,
                    digest: body.digest,
                    have: body.have_slot(),
                    grains,
                })
            }
            Kind::FetchRange => {
                let body: &FetchRangeBody = messages::parse(body)?;
                Ok(PeerMessage::FetchRange {
                    first: slot,
                    count: body.count(),
                })
            }
            Kind::FetchViewChange => {
                let body: &DecidedBody = messages::parse(body)?;
                let digest = body.digest;
                Ok(PeerMessage::FetchViewChange { digest })
            }
            _ => Err(Reject::UnknownKind),
        }
    }

    /// Kind, view and slot for the datagram's header.
    pub fn route(&self) -> (Kind, View, Slot) {
        let none = (View(0), Slot(0));
        match *self {
            PeerMessage::Vote { vote, .. } => (Kind::Vote, vote.view, vote.slot),
            PeerMessage::Signed { statement, .. } => match statement {
                Statement::Commit { view, slot, .. } => (Kind::Commit, view, slot),
                Statement::Wish { view, .. } => (Kind::Wish, view, none.1),
                Statement::Resign { view } => (Kind::Resign, view, none.1),
                Statement::NewViewAck {
                    view, base_slot, ..
                } => (Kind::NewViewAck, view, base_slot),
                Statement::Checkpoint { slot, .. } => (Kind::Checkpoint, none.0, slot),
                Statement::Vote { .. }
                | Statement::Propose { .. }
                | Statement::ViewChange { .. }
                | Statement::NewView { .. } => unreachable!("each has a message of its own"),
            },
            PeerMessage::Decided { slot, .. } => (Kind::Decided, none.0, slot),
            PeerMessage::Status(status) => (Kind::Status, status.installed, none.1),
            PeerMessage::Silent { lease, .. } => (Kind::Silent, none.0, lease),
            PeerMessage::FetchBlock { slot, .. } => (Kind::FetchBlock, none.0, slot),
            PeerMessage::FetchRange { first, .. } => (Kind::FetchRange, none.0, first),
            PeerMessage::FetchViewChange { .. } => (Kind::FetchViewChange, none.0, none.1),
            PeerMessage::FetchState { slot, .. } => (Kind::FetchState, none.0, slot),
        }
    }

    /// Writes the body to the front of `out` and returns its length.
    pub fn encode(&self, out: &mut [u8; SMALL_BODY_BYTES_MAX]) -> usize {
        let mut write = |bytes: &[u8]| {
            out[..bytes.len()].copy_from_slice(bytes);
            bytes.len()
        };
        match *self {
            PeerMessage::Vote { vote, signature } => write(
                VoteBody {
                    digest: vote.digest,
                    signature,
                }
                .as_bytes(),
            ),
            PeerMessage::Signed {
                statement,
                signature,
            } => match statement {
                Statement::Commit { digest, .. } | Statement::NewViewAck { base: digest, .. } => {
                    write(VoteBody { digest, signature }.as_bytes())
                }
                Statement::Wish { boot, counter, .. } => {
                    write(WishBody::new(boot, counter, signature).as_bytes())
                }
                Statement::Resign { .. } => write(signature.as_bytes()),
                Statement::Checkpoint { chain, root, .. } => write(
                    CheckpointBody {
                        chain,
                        root,
                        signature,
                    }
                    .as_bytes(),
                ),
                Statement::Vote { .. }
                | Statement::Propose { .. }
                | Statement::ViewChange { .. }
                | Statement::NewView { .. } => unreachable!("each has a message of its own"),
            },
            PeerMessage::Decided { digest, .. } | PeerMessage::FetchViewChange { digest } => {
                write(DecidedBody { digest }.as_bytes())
            }
            PeerMessage::Status(status) => write(StatusBody::encode(&status).as_bytes()),
            PeerMessage::Silent { boot, .. } => write(SilentBody::new(boot).as_bytes()),
            PeerMessage::FetchBlock {
                digest,
                have,
                grains: None,
                ..
            } => write(FetchBlockBody::whole(digest, have).as_bytes()),
            PeerMessage::FetchBlock {
                digest,
                have,
                grains: Some(grains),
                ..
            } => write(
                FetchBlockBody::grains(digest, have, grains.count, &grains.missing).as_bytes(),
            ),
            PeerMessage::FetchState { slot, part } => {
                write(FetchStateBody::new(slot, part).as_bytes())
            }
            PeerMessage::FetchRange { count, .. } => write(FetchRangeBody::new(count).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::messages::Held;

    #[test]
    fn every_message_round_trips() {
        let digest = Digest([3; 32]);
        let (view, slot) = (View(1), Slot(7));
        let status = Status {
            stage: view,
            installed: view,
            committed: Slot(2),
            committed_digest: digest,
            voted_slot: Slot(3),
            voted_digest: digest,
            checkpoint: Slot(0),
            retained_from: Slot(1),
            lease: Slot(0),
            flags: 0,
            held: None,
        };
        let grains = Grains {
            count: 9,
            missing: [5; GRAIN_WORDS],
        };
        let fetch = |grains| PeerMessage::FetchBlock {
            slot,
            digest,
            have: Slot(4),
            grains,
        };
        let signature = Signature([8; 64]);
        let signed = |statement| PeerMessage::Signed {
            statement,
            signature,
        };
        let held = |statement| {
            let held = Some(Held {
                statement,
                signature,
            });
            PeerMessage::Status(Status { held, ..status })
        };
        let messages = [
            PeerMessage::Vote {
                vote: BlockRef { view, slot, digest },
                signature,
            },
            signed(Statement::Commit { view, slot, digest }),
            signed(Statement::Wish {
                view,
                boot: Boot(3),
                counter: 4,
            }),
            signed(Statement::Resign { view }),
            signed(Statement::NewViewAck {
                view,
                base_slot: slot,
                base: digest,
            }),
            signed(Statement::Checkpoint {
                slot,
                chain: digest,
                root: Digest([4; 32]),
            }),
            PeerMessage::Decided { slot, digest },
            PeerMessage::Status(status),
            held(Statement::Vote { view, slot, digest }),
            held(Statement::Commit { view, slot, digest }),
            held(Statement::ViewChange { view, digest }),
            held(Statement::NewViewAck {
                view,
                base_slot: slot,
                base: digest,
            }),
            PeerMessage::Silent {
                boot: Boot(3),
                lease: slot,
            },
            fetch(None),
            fetch(Some(grains)),
            PeerMessage::FetchRange {
                first: slot,
                count: 64,
            },
            PeerMessage::FetchViewChange { digest },
            PeerMessage::FetchState {
                slot,
                part: Part::Node(3),
            },
        ];
        for message in messages {
            let mut body = [0; SMALL_BODY_BYTES_MAX];
            let length = message.encode(&mut body);
            let (kind, view, slot) = message.route();
            assert_eq!(
                PeerMessage::decode(kind, view, slot, &body[..length]),
                Ok(message)
            );
            for shorter in 0..length {
                assert!(PeerMessage::decode(kind, view, slot, &body[..shorter]).is_err());
            }
        }
    }
}
