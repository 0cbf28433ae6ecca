//! BYZ12, A30: a leader that puts a request with a bad signature into a block, under a header that
//! fits the payload or under one that does not; and claims such a block in its view changes (V2).

use std::collections::BTreeMap;

use wire::block::{BlockHeader, BlockView, payload_digest};
use wire::header::Kind;
use wire::ids::{Digest, NodeId};
use wire::limits::BLOCK_PREFIX_BYTES;
use wire::view_change::{ViewChange, split_signed};
use zerocopy::IntoBytes;

use super::branches::claim;
use super::{Authentic, Context, Liar, Parts, Spoken};
use crate::plan::{BEGIN_NS, MS};
use crate::random::Random;

/// Where a client's signature stands in a payload.
const SIGNATURE_AT: usize = 40;
/// Blocks that are remembered.
const BLOCKS_MAX: usize = 4096;

/// See the module's documentation.
pub struct BadBatch {
    from_ns: u64,
    per_mille: u32,
    /// The header is made for the changed payload.
    fits: bool,
    claims: bool,
    /// The bad block by the digest of the replica's own.
    bad: BTreeMap<Digest, BlockHeader>,
    parts: Parts,
}

impl BadBatch {
    /// Every block from this time on; the header fits the payload or not.
    pub fn from_ms(ms: u64, fits: bool) -> BadBatch {
        BadBatch {
            from_ns: BEGIN_NS + ms * MS,
            per_mille: 1000,
            fits,
            claims: false,
            bad: BTreeMap::new(),
            parts: Parts::default(),
        }
    }

    /// From some time on.
    pub fn draw(random: &mut Random) -> BadBatch {
        BadBatch {
            from_ns: BEGIN_NS + random.below(400) * MS,
            per_mille: *random.pick(&[30, 300, 1000]),
            fits: random.chance(700),
            claims: random.chance(500),
            bad: BTreeMap::new(),
            parts: Parts::default(),
        }
    }

    /// The view change up to the first block that it made bad.
    fn claim_bad(&self, authentic: &Authentic, whole: &[u8]) -> Option<Vec<u8>> {
        let (_, body) = split_signed(whole).ok()?;
        let message = ViewChange::decode(body).ok()?;
        if message.replica != authentic.me() {
            return None;
        }
        let rules = authentic.rules();
        let anchor = message.anchor(rules.genesis);
        let headers = message.headers(rules.epoch, anchor).collect::<Vec<_>>();
        let is_bad = |(_, digest): &(BlockHeader, Digest)| self.bad.contains_key(digest);
        let first = headers.iter().position(is_bad)?;
        let kept = headers[..first].iter().map(|(header, _)| *header);
        let claimed = kept.chain([self.bad[&headers[first].1]]);
        let claimed = claimed.collect::<Vec<_>>();
        claim(authentic, message, &claimed)
    }
}

impl Liar for BadBatch {
    fn name(&self) -> &'static str {
        "bad-batch"
    }

    fn on_send(&mut self, context: &mut Context<'_>, mut spoken: Spoken) -> Vec<Spoken> {
        if spoken.kind == Kind::ViewChange && self.claims {
            let Spoken {
                to, kind, fragment, ..
            } = spoken;
            let Some(whole) = self.parts.take(to, kind, fragment, &spoken.body) else {
                return Vec::new();
            };
            let claimed = self.claim_bad(context.authentic, &whole);
            let (to, route) = (NodeId(to.0 as u16), (kind, spoken.view, spoken.slot));
            let said = claimed.unwrap_or(whole);
            return context.authentic.say_long(to, route, &said);
        }
        let blocks = matches!(spoken.kind, Kind::Propose | Kind::Block);
        let lies = blocks && context.now_ns >= self.from_ns;
        if !lies || !context.random.chance(self.per_mille) {
            return vec![spoken];
        }
        let authentic = context.authentic;
        let Ok(block) = BlockView::frame(&spoken.body) else {
            return vec![spoken];
        };
        let (own, bytes) = (block.prefix.header, block.payload.len());
        if bytes <= SIGNATURE_AT || authentic.rules().leader(own.view()) != authentic.me() {
            return vec![spoken];
        }
        spoken.body[BLOCK_PREFIX_BYTES + SIGNATURE_AT] ^= 1;
        if self.fits {
            let payload = payload_digest(&spoken.body[BLOCK_PREFIX_BYTES..]);
            let header = BlockHeader::new(
                own.epoch(),
                own.view(),
                own.slot(),
                own.time_ns(),
                own.parent,
                payload,
            );
            let prefix = authentic.prefix(header, bytes);
            spoken.body[..BLOCK_PREFIX_BYTES].copy_from_slice(prefix.as_bytes());
            spoken.fragment.message = header.digest().prefix();
            self.bad.insert(own.digest(), header);
            if self.bad.len() > BLOCKS_MAX {
                self.bad.pop_first();
            }
        }
        vec![spoken]
    }
}
