//! The small messages between replicas, decoded: what travels through rings between stages.

use wire::block::BlockRef;
use wire::header::Kind;
use wire::ids::{Digest, Signature, Slot, View};
use wire::messages::{
    self, DecidedBody, FetchBlockBody, FetchRangeBody, GRAIN_WORDS, Status, StatusBody, VoteBody,
};
use wire::reject::Reject;
use zerocopy::IntoBytes;

/// Largest body of a small message.
pub const SMALL_BODY_BYTES_MAX: usize = 192;
const _: () = assert!(size_of::<FetchBlockBody>() <= SMALL_BODY_BYTES_MAX);
const _: () = assert!(size_of::<StatusBody>() <= SMALL_BODY_BYTES_MAX);

/// One small message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerMessage {
    Vote {
        vote: BlockRef,
        signature: Signature,
    },
    Decided {
        slot: Slot,
        digest: Digest,
    },
    Status {
        view: View,
        status: Status,
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
}

/// Missing grains of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grains {
    pub count: u16,
    pub missing: [u64; GRAIN_WORDS],
}

impl PeerMessage {
    /// Reads the body of a datagram whose link MAC holds.
    pub fn decode(kind: Kind, view: View, slot: Slot, body: &[u8]) -> Result<PeerMessage, Reject> {
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
            Kind::Decided => {
                let body: &DecidedBody = messages::parse(body)?;
                Ok(PeerMessage::Decided {
                    slot,
                    digest: body.digest,
                })
            }
            Kind::Status => Ok(PeerMessage::Status {
                view,
                status: StatusBody::decode(body)?,
            }),
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
            _ => Err(Reject::UnknownKind),
        }
    }

    /// Kind, view and slot for the datagram's header.
    pub fn route(&self) -> (Kind, View, Slot) {
        match *self {
            PeerMessage::Vote { vote, .. } => (Kind::Vote, vote.view, vote.slot),
            PeerMessage::Decided { slot, .. } => (Kind::Decided, View(0), slot),
            PeerMessage::Status { view, .. } => (Kind::Status, view, Slot(0)),
            PeerMessage::FetchBlock { slot, .. } => (Kind::FetchBlock, View(0), slot),
            PeerMessage::FetchRange { first, .. } => (Kind::FetchRange, View(0), first),
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
            PeerMessage::Decided { digest, .. } => write(DecidedBody { digest }.as_bytes()),
            PeerMessage::Status { status, .. } => write(StatusBody::encode(&status).as_bytes()),
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
            PeerMessage::FetchRange { count, .. } => write(FetchRangeBody::new(count).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_round_trips() {
        let digest = Digest([3; 32]);
        let status = Status {
            stage: View(1),
            installed: View(1),
            committed: Slot(2),
            committed_digest: digest,
            voted_slot: Slot(3),
            voted_digest: digest,
            checkpoint: Slot(0),
            retained_from: Slot(1),
            lease: Slot(0),
            flags: 0,
        };
        let grains = Grains {
            count: 9,
            missing: [5; GRAIN_WORDS],
        };
        let fetch = |grains| PeerMessage::FetchBlock {
            slot: Slot(7),
            digest,
            have: Slot(4),
            grains,
        };
        let messages = [
            PeerMessage::Vote {
                vote: BlockRef {
                    view: View(1),
                    slot: Slot(7),
                    digest,
                },
                signature: Signature([8; 64]),
            },
            PeerMessage::Decided {
                slot: Slot(7),
                digest,
            },
            PeerMessage::Status {
                view: View(1),
                status,
            },
            fetch(None),
            fetch(Some(grains)),
            PeerMessage::FetchRange {
                first: Slot(7),
                count: 64,
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
