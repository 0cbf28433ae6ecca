//! What leads from the committee of one epoch to that of the next (protocol §10, G2 and G3).
//!
//! A link is the certificate of an epoch's last checkpoint and the summary of the state there, in which
//! the change stands that the operator signed: whoever has the committee of the epoch computes the next
//! one from it, and believes nobody. Members keep the links of all epochs that they have seen, and tell
//! them to whoever asks, member or client: an answer proves itself, so neither bears a signature or a MAC.
//!
//! ```text
//! ask     0  magic "HPA1"   4 zero   8 epoch that ended (u64)   16 cluster id   32 zero to 5,120
//! answer  0  magic "HPL1"   4 the link, as it is kept
//! ```
//! An ask is longer than any answer, so that nobody can have a member send much to a third.

use thiserror::Error;
use zerocopy::IntoBytes;

use crate::certificates::CheckpointCertificate;
use crate::change::ChangeError;
use crate::committee::{Committee, Origin};
use crate::ids::{ClusterId, Epoch};
use crate::reject::Reject;
use crate::seal::{Compound, Ed25519Verifier, Rules};
use crate::state::Summary;

/// First four bytes of an ask.
pub const ASK_MAGIC: [u8; 4] = *b"HPA1";
/// First four bytes of an answer.
pub const ANSWER_MAGIC: [u8; 4] = *b"HPL1";
/// A whole ask; no answer is longer.
pub const ASK_BYTES: usize = 5120;
/// What an ask says is in so many bytes at its beginning.
pub const ASK_HEAD_BYTES: usize = 32;

const LINK_MAGIC: &[u8; 8] = b"HIPPLINK";

/// Why bytes are no link from one epoch to the next.
#[derive(Debug, Error)]
pub enum LinkBroken {
    #[error("it is damaged")]
    Damaged,
    #[error("its certificate does not hold: {}", .0.name())]
    Uncertified(Reject),
    #[error("its summary is of another state than its certificate")]
    OtherState,
    #[error("no change was pending in that state, or it ends its epoch elsewhere")]
    NoChange,
    #[error("its change makes no committee: {0}")]
    Change(#[from] ChangeError),
}

/// The end of an epoch, proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochLink {
    pub certificate: CheckpointCertificate,
    pub summary: Summary,
}

impl EpochLink {
    pub fn encode(&self) -> Vec<u8> {
        let certificate = self.certificate.encode();
        let mut bytes = LINK_MAGIC.to_vec();
        bytes.extend_from_slice(&(certificate.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&certificate);
        bytes.extend_from_slice(self.summary.as_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<EpochLink, LinkBroken> {
        EpochLink::parts(bytes).ok_or(LinkBroken::Damaged)
    }

    fn parts(bytes: &[u8]) -> Option<EpochLink> {
        let (body, sum) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
            return None;
        }
        let rest = body.strip_prefix(LINK_MAGIC)?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (certificate, summary) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        Some(EpochLink {
            certificate: CheckpointCertificate::decode(certificate).ok()?,
            summary: Summary::parse(summary).ok()?.clone(),
        })
    }

    /// The committee that follows this one, by whose keys the link is judged.
    pub fn follow(&self, committee: &Committee) -> Result<Committee, LinkBroken> {
        let mut compound = Compound::new(Ed25519Verifier::new(committee), Rules::of(committee));
        let certified = compound.checkpoint_certificate(self.certificate);
        let certificate = certified.map_err(LinkBroken::Uncertified)?;
        let (place, head) = (certificate.place(), self.summary.head);
        if self.summary.root() != certificate.root || head.slot() != place.slot {
            return Err(LinkBroken::OtherState);
        }
        let pending = head
            .pending()
            .filter(|pending| pending.activation == place.slot);
        let pending = pending.ok_or(LinkBroken::NoChange)?;
        let origin = Origin {
            slot: place.slot,
            block: place.digest,
            state_root: certificate.root,
        };
        Ok(pending.change.apply(committee, origin)?)
    }
}

/// Asks what ended this epoch of a cluster.
pub fn encode_ask(cluster: ClusterId, epoch: Epoch) -> [u8; ASK_BYTES] {
    let mut ask = [0; ASK_BYTES];
    ask[..4].copy_from_slice(&ASK_MAGIC);
    ask[8..16].copy_from_slice(&epoch.0.to_le_bytes());
    ask[16..ASK_HEAD_BYTES].copy_from_slice(&cluster.0);
    ask
}

/// The epoch of which the beginning of an ask asks, if it is one to this cluster.
pub fn decode_ask(head: &[u8], cluster: ClusterId) -> Result<Epoch, Reject> {
    let head = head.first_chunk::<ASK_HEAD_BYTES>();
    let head = head.ok_or(Reject::BodyMalformed)?;
    let (epoch, asked) = head[8..].split_first_chunk::<8>().expect("24 bytes");
    if head[..4] != ASK_MAGIC || head[4..8] != [0; 4] || asked != cluster.0 {
        return Err(Reject::BodyMalformed);
    }
    Ok(Epoch(u64::from_le_bytes(*epoch)))
}

/// The answer that tells a link; none for bytes that are too many to be one.
pub fn encode_answer(link: &[u8]) -> Option<Vec<u8>> {
    let answer = [&ANSWER_MAGIC, link].concat();
    (answer.len() <= ASK_BYTES).then_some(answer)
}

pub fn decode_answer(datagram: &[u8]) -> Result<EpochLink, LinkBroken> {
    let link = datagram.strip_prefix(&ANSWER_MAGIC);
    EpochLink::decode(link.ok_or(LinkBroken::Damaged)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId([7; 16]);

    #[test]
    fn an_ask_is_of_one_cluster_and_epoch() {
        let ask = encode_ask(CLUSTER, Epoch(3));
        assert_eq!(decode_ask(&ask, CLUSTER), Ok(Epoch(3)));
        assert_eq!(decode_ask(&ask[..ASK_HEAD_BYTES], CLUSTER), Ok(Epoch(3)));
        assert!(decode_ask(&ask, ClusterId([8; 16])).is_err());
        assert!(decode_ask(&ask[..ASK_HEAD_BYTES - 1], CLUSTER).is_err());
        for byte in 0..8 {
            let mut other = ask;
            other[byte] ^= 1;
            assert!(decode_ask(&other, CLUSTER).is_err(), "byte {byte}");
        }
    }

    #[test]
    fn no_answer_is_longer_than_an_ask() {
        assert!(encode_answer(&[0; ASK_BYTES - 4]).is_some());
        assert!(encode_answer(&[0; ASK_BYTES - 3]).is_none());
        let signatures = crate::limits::REPLICAS_MAX * 64 + 256;
        assert!(4 + 16 + signatures + size_of::<Summary>() <= ASK_BYTES);
    }

    #[test]
    fn other_bytes_are_no_answer() {
        assert!(decode_answer(b"HPL1").is_err());
        assert!(decode_answer(&[0; 64]).is_err());
        assert!(decode_answer(&[&ANSWER_MAGIC[..], &[0; 3000]].concat()).is_err());
    }
}
