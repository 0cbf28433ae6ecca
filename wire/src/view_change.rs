//! VIEW-CHANGE and NEW-VIEW: what a replica brings into a new view, and what its leader made of it.

use crate::block::BlockHeader;
use crate::certificates::{
    CheckpointCertificate, CompactHeader, NewViewCertificate, Place, QuorumCertificate, expand,
};
use crate::cursor::{Reader, Writer};
use crate::ids::{Digest, Epoch, NodeId, Signature, View};
use crate::limits::{REPLICAS_MAX, REQUEST_BYTES_MAX, WINDOW};
use crate::reject::Reject;
use crate::seal::Statement;

/// Bytes of a VIEW-CHANGE at most: its suffix over a whole window, three certificates.
pub const VIEW_CHANGE_BYTES_MAX: usize = 112 * 1024;
const _: () = assert!(VIEW_CHANGE_BYTES_MAX <= REQUEST_BYTES_MAX);
const _: () = assert!(
    WINDOW as usize * size_of::<CompactHeader>()
        + crate::limits::CERTIFICATE_HEADERS_MAX * size_of::<CompactHeader>()
        + 3 * REPLICAS_MAX * 72
        + 1024
        <= VIEW_CHANGE_BYTES_MAX
);

/// VC(v): one per replica and view (V1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewChange {
    pub view: View,
    pub replica: NodeId,
    /// Highest view that the replica had installed.
    pub installed: View,
    /// Of `installed`; `None` exactly in view 0.
    pub certificate: Option<NewViewCertificate>,
    /// The replica's stable checkpoint; `None`: genesis.
    pub checkpoint: Option<CheckpointCertificate>,
    /// The chain it voted for in `installed`, above the anchor.
    pub suffix: Vec<CompactHeader>,
    /// The leader's signature on the last block of the suffix; zero when that is empty.
    pub tip_signature: Signature,
    /// Of the deepest block for which it sent COMMIT.
    pub quorum: Option<QuorumCertificate>,
}

impl ViewChange {
    /// The deeper of the base of `installed` and the checkpoint: the suffix begins above it. At one
    /// slot the checkpoint counts (SELECT-4): a stale view may have a base that lost.
    pub fn anchor(&self, genesis: Place) -> Place {
        let base = self.certificate.map_or(genesis, |known| known.base);
        let checkpoint = self.checkpoint.map_or(genesis, |known| known.place());
        if base.slot > checkpoint.slot {
            base
        } else {
            checkpoint
        }
    }

    /// Headers of the suffix, ascending.
    pub fn headers(
        &self,
        epoch: Epoch,
        anchor: Place,
    ) -> impl Iterator<Item = (BlockHeader, Digest)> {
        expand(epoch, self.installed, anchor, &self.suffix)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u64(self.view.0).u16(self.replica.0);
        writer.u64(self.installed.0);
        writer.flag(self.certificate.is_some());
        if let Some(certificate) = &self.certificate {
            certificate.write(&mut writer);
        }
        writer.flag(self.checkpoint.is_some());
        if let Some(checkpoint) = &self.checkpoint {
            checkpoint.write(&mut writer);
        }
        writer.count(self.suffix.len());
        for compact in &self.suffix {
            writer.put(zerocopy::IntoBytes::as_bytes(compact));
        }
        writer.signature(&self.tip_signature);
        writer.flag(self.quorum.is_some());
        if let Some(quorum) = &self.quorum {
            quorum.write(&mut writer);
        }
        writer.finish()
    }

    pub fn decode(bytes: &[u8]) -> Result<ViewChange, Reject> {
        let mut reader = Reader::new(bytes);
        let (view, replica) = (View(reader.u64()?), NodeId(reader.u16()?));
        let installed = View(reader.u64()?);
        let certificate = match reader.flag()? {
            true => Some(NewViewCertificate::read(&mut reader)?),
            false => None,
        };
        let checkpoint = match reader.flag()? {
            true => Some(CheckpointCertificate::read(&mut reader)?),
            false => None,
        };
        let count = reader.count(WINDOW as usize, size_of::<CompactHeader>())?;
        let suffix = (0..count).map(|_| CompactHeader::read(&mut reader));
        let suffix = suffix.collect::<Result<Vec<_>, _>>()?;
        let tip_signature = reader.signature()?;
        let quorum = match reader.flag()? {
            true => Some(QuorumCertificate::read(&mut reader)?),
            false => None,
        };
        reader.end()?;
        Ok(ViewChange {
            view,
            replica,
            installed,
            certificate,
            checkpoint,
            suffix,
            tip_signature,
            quorum,
        })
    }

    /// H("vc", body): names this message in NEW-VIEW.
    pub fn digest(&self) -> Digest {
        Digest(blake3::derive_key("hippodrome/1/vc", &self.encode()))
    }
}

/// NEW-VIEW(v): the view changes that the leader of v chose, and the base that SELECT made of them
/// (V2). One per view, ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewView {
    pub view: View,
    pub base: Place,
    /// The chosen view changes by author and digest, ascending by author.
    pub chosen: Vec<(NodeId, Digest)>,
}

impl NewView {
    /// What the leader signs.
    pub fn statement(&self) -> Statement {
        let mut writer = Writer::new();
        for (author, digest) in &self.chosen {
            writer.u16(author.0).digest(digest);
        }
        let chosen = blake3::derive_key("hippodrome/1/nv", &writer.finish());
        Statement::NewView {
            view: self.view,
            base_slot: self.base.slot,
            base: self.base.digest,
            digest: Digest(chosen),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u64(self.view.0);
        self.base.write(&mut writer);
        writer.count(self.chosen.len());
        for (author, digest) in &self.chosen {
            writer.u16(author.0).digest(digest);
        }
        writer.finish()
    }

    /// Authors are distinct and ascending.
    pub fn decode(bytes: &[u8]) -> Result<NewView, Reject> {
        let mut reader = Reader::new(bytes);
        let view = View(reader.u64()?);
        let base = Place::read(&mut reader)?;
        let count = reader.count(REPLICAS_MAX, 34)?;
        let mut chosen: Vec<(NodeId, Digest)> = Vec::with_capacity(count);
        for _ in 0..count {
            let author = NodeId(reader.u16()?);
            if chosen.last().is_some_and(|(last, _)| *last >= author) {
                return Err(Reject::BodyMalformed);
            }
            chosen.push((author, reader.digest()?));
        }
        reader.end()?;
        Ok(NewView { view, base, chosen })
    }
}

/// A signature and the body that it signs, as they travel and as they lie in the log.
pub fn signed_body(signature: &Signature, body: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.signature(signature).put(body);
    writer.finish()
}

/// Takes [`signed_body`] apart.
pub fn split_signed(bytes: &[u8]) -> Result<(Signature, &[u8]), Reject> {
    let (signature, body) = bytes.split_first_chunk().ok_or(Reject::BodyMalformed)?;
    Ok((Signature(*signature), body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::Signatures;
    use crate::ids::Slot;

    #[test]
    fn at_one_slot_the_checkpoint_is_the_anchor() {
        // A stale view's base lost; what others decided there is certified.
        let place = |mark, slot| Place {
            slot: Slot(slot),
            digest: Digest([mark; 32]),
        };
        let header = BlockHeader::new(
            Epoch(0),
            View(2),
            Slot(8),
            0,
            Digest([1; 32]),
            Digest([2; 32]),
        );
        let checkpoint = CheckpointCertificate {
            header,
            root: Digest([3; 32]),
            signatures: Signatures::new(),
        };
        let mut message = ViewChange {
            view: View(3),
            replica: NodeId(1),
            installed: View(1),
            certificate: Some(NewViewCertificate {
                view: View(1),
                base: place(9, 8),
                acks: Signatures::new(),
            }),
            checkpoint: Some(checkpoint),
            suffix: Vec::new(),
            tip_signature: Signature([0; 64]),
            quorum: None,
        };
        let genesis = place(0, 0);
        assert_eq!(message.anchor(genesis), checkpoint.place());
        message.certificate = Some(NewViewCertificate {
            base: place(9, 9),
            ..message.certificate.unwrap()
        });
        assert_eq!(message.anchor(genesis), place(9, 9));
        message.checkpoint = None;
        message.certificate = None;
        assert_eq!(message.anchor(genesis), place(0, 0));
    }
}
