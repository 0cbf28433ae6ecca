//! BYZ12, A30: a leader that puts a request with a bad signature into a block, under a header that
//! fits the payload or under one that does not.

use wire::block::{BlockHeader, BlockView, payload_digest};
use wire::header::Kind;
use wire::limits::BLOCK_PREFIX_BYTES;
use zerocopy::IntoBytes;

use super::{Context, Liar, Spoken};
use crate::plan::{BEGIN_NS, MS};
use crate::random::Random;

/// Where a client's signature stands in a payload.
const SIGNATURE_AT: usize = 40;

/// See the module's documentation.
pub struct BadBatch {
    from_ns: u64,
    per_mille: u32,
    /// The header is made for the changed payload.
    fits: bool,
}

impl BadBatch {
    /// Every block from this time on; the header fits the payload or not.
    pub fn from_ms(ms: u64, fits: bool) -> BadBatch {
        BadBatch {
            from_ns: BEGIN_NS + ms * MS,
            per_mille: 1000,
            fits,
        }
    }

    /// From some time on.
    pub fn draw(random: &mut Random) -> BadBatch {
        BadBatch {
            from_ns: BEGIN_NS + random.below(400) * MS,
            per_mille: *random.pick(&[30, 300, 1000]),
            fits: random.chance(700),
        }
    }
}

impl Liar for BadBatch {
    fn name(&self) -> &'static str {
        "bad-batch"
    }

    fn on_send(&mut self, context: &mut Context<'_>, mut spoken: Spoken) -> Vec<Spoken> {
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
        }
        vec![spoken]
    }
}
