//! A second branch beside the one that a leader's replica builds: the same payloads under other
//! headers, signed by the same leader. Votes and view changes can be told for either.

use std::collections::BTreeMap;

use wire::block::{BlockHeader, BlockPrefix};
use wire::certificates::CompactHeader;
use wire::ids::{Digest, Signature, Slot, View};
use wire::limits::BLOCK_PREFIX_BYTES;
use wire::seal::Statement;
use wire::view_change::{ViewChange, signed_body};
use zerocopy::{FromBytes, IntoBytes};

use super::{Authentic, Spoken};

/// Blocks that are remembered.
const BLOCKS_MAX: usize = 4096;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Branches {
    /// The other header by the digest of the replica's own block.
    others: BTreeMap<Digest, BlockHeader>,
    /// The same by what names its fragments.
    names: BTreeMap<u64, Digest>,
}

impl Branches {
    /// The other block in place of the digest of the replica's own.
    pub fn other(&self, digest: &Digest) -> Option<Digest> {
        self.others.get(digest).map(BlockHeader::digest)
    }

    /// A part of a PROPOSE as a part of the other branch's block, made at `time` for the own time.
    /// `None` for parts of unknown blocks, and for blocks of others.
    pub fn propose(
        &mut self,
        authentic: &Authentic,
        spoken: &Spoken,
        time: impl FnOnce(u64) -> u64,
    ) -> Option<Spoken> {
        let mut said = spoken.clone();
        if spoken.fragment.offset_grains == 0 {
            let (prefix, _) = BlockPrefix::ref_from_prefix(&spoken.body).ok()?;
            let own = prefix.header;
            if authentic.rules().leader(own.view()) != authentic.me() {
                return None;
            }
            let other = *self.others.entry(own.digest()).or_insert_with(|| {
                BlockHeader::new(
                    own.epoch(),
                    own.view(),
                    own.slot(),
                    time(own.time_ns()),
                    own.parent,
                    own.payload,
                )
            });
            let parent = self.other(&own.parent).unwrap_or(own.parent);
            let (view, slot) = (own.view(), own.slot());
            let time_ns = other.time_ns();
            let other = BlockHeader::new(own.epoch(), view, slot, time_ns, parent, own.payload);
            self.others.insert(own.digest(), other);
            self.names.insert(spoken.fragment.message, own.digest());
            if self.others.len() > BLOCKS_MAX {
                self.others.pop_first();
            }
            let prefix = authentic.prefix(other, prefix.payload_bytes());
            said.body[..BLOCK_PREFIX_BYTES].copy_from_slice(prefix.as_bytes());
        }
        let own = self.names.get(&spoken.fragment.message)?;
        said.fragment.message = self.other(own)?.prefix();
        Some(said)
    }

    /// A vote or COMMIT for the other branch.
    pub fn vote(&self, authentic: &Authentic, spoken: &Spoken) -> Option<Spoken> {
        let own = Digest(*spoken.body.first_chunk()?);
        let digest = self.other(&own)?;
        Some(vote_for(authentic, spoken, spoken.slot, digest))
    }

    /// A signed view change that claims the other branch, as far as there is one.
    pub fn view_change(&self, authentic: &Authentic, message: ViewChange) -> Option<Vec<u8>> {
        let rules = authentic.rules();
        let anchor = message.anchor(rules.genesis);
        let headers = message.headers(rules.epoch, anchor);
        let headers = headers.map(|(header, digest)| *self.others.get(&digest).unwrap_or(&header));
        let headers = headers.collect::<Vec<_>>();
        claim(authentic, message, &headers)
    }
}

/// A signed view change that claims these blocks above its anchor, the last of which bears the liar's
/// own signature; `None` if there are none.
pub fn claim(
    authentic: &Authentic,
    mut message: ViewChange,
    headers: &[BlockHeader],
) -> Option<Vec<u8>> {
    let tip = headers.last()?;
    message.tip_signature = authentic.sign(&Statement::Propose {
        view: tip.view(),
        slot: tip.slot(),
        digest: tip.digest(),
    });
    message.suffix = headers.iter().map(CompactHeader::of).collect();
    message.quorum = None;
    Some(signed(authentic, &message))
}

/// A view change under the liar's own signature.
pub fn signed(authentic: &Authentic, message: &ViewChange) -> Vec<u8> {
    let statement = Statement::ViewChange {
        view: message.view,
        digest: message.digest(),
    };
    signed_body(&authentic.sign(&statement), &message.encode())
}

/// A vote or COMMIT like this one, for another block.
pub fn vote_for(authentic: &Authentic, spoken: &Spoken, slot: Slot, digest: Digest) -> Spoken {
    let view: View = spoken.view;
    let statement = if spoken.kind == wire::header::Kind::Vote {
        Statement::Vote { view, slot, digest }
    } else {
        Statement::Commit { view, slot, digest }
    };
    let signature: Signature = authentic.sign(&statement);
    let mut said = spoken.clone();
    said.slot = slot;
    said.body = [&digest.0[..], &signature.0[..]].concat();
    said.fragment = wire::header::Fragment::whole(&said.body);
    said
}
