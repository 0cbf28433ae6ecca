//! An idle leader makes a checkpoint for those whom blocks cannot help any more.
//!
//! A replica that is behind what others retain needs a state, and a state is served at a checkpoint
//! that was kept whole when it was made. When none was, the next one will be
//! ([`super::Output::KeepNewest`]); a cluster without requests would never reach it. So a leader
//! that sees such a replica alive and not advancing proposes empty blocks up to the next
//! checkpoint. A liar can ask for this as well: each replica gets one run in a minute.

use wire::bytes::Buffers;
use wire::canary::reach;
use wire::ids::{Instant, NodeId, Slot};
use wire::limits::REPLICAS_MAX;
use wire::seal::{Signer, Verifier};

use super::Ordering;

/// How long a replica stays where it is before empty blocks are made for it: a transfer that can
/// begin has begun by then.
const PATIENCE_NS: u64 = 2_000_000_000;
/// Between two runs for one replica (as in R3).
const PAUSE_NS: u64 = 60_000_000_000;
/// A replica that is silent for longer gets none.
const SILENCE_NS: u64 = 1_000_000_000;
/// Between two looks.
const LOOK_NS: u64 = 50_000_000;

/// What is known of one replica.
#[derive(Clone, Copy, Debug, Default)]
struct Behind {
    /// It is cut off at this slot since then.
    since: Option<(Slot, Instant)>,
    /// When empty blocks were last begun for it.
    helped_at: Option<Instant>,
}

/// See the module's documentation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Padding {
    /// Empty blocks are proposed up to here.
    until: Slot,
    looked_at: Instant,
    replicas: [Behind; REPLICAS_MAX],
}

impl Padding {
    pub(super) fn new() -> Padding {
        Padding {
            until: Slot(0),
            looked_at: Instant(0),
            replicas: [Behind::default(); REPLICAS_MAX],
        }
    }

    /// Whether the block at this slot is wanted even without requests.
    pub(super) fn wants(&self, slot: Slot) -> bool {
        slot <= self.until
    }
}

impl<Bu: Buffers, S: Signer, V: Verifier> Ordering<Bu, S, V> {
    /// Looks for replicas that only the next checkpoint can help.
    pub(super) fn tend_padding(&mut self, now: Instant) {
        // Blocks from the first slot on help everyone.
        if self.retained_from <= Slot(1) || now.since_ns(self.padding.looked_at) < LOOK_NS {
            return;
        }
        self.padding.looked_at = now;
        let leads = self.leads();
        for id in (0..self.core.replicas() as u16).map(NodeId) {
            if id == self.config.me {
                continue;
            }
            let heard = self.core.heard_at(id);
            let alive = heard.is_some_and(|at| now.since_ns(at) < SILENCE_NS);
            let behind = &mut self.padding.replicas[id.index()];
            if !alive || !self.core.is_cut_off(id) {
                behind.since = None;
                continue;
            }
            let committed = self.core.committed_by(id);
            let since = match behind.since {
                Some((slot, since)) if slot == committed => since,
                _ => now,
            };
            behind.since = Some((committed, since));
            let waited = now.since_ns(since) >= PATIENCE_NS;
            let helped = behind.helped_at;
            let due = helped.is_none_or(|at| now.since_ns(at) >= PAUSE_NS);
            if leads && waited && due {
                reach("padded-for-a-laggard");
                behind.helped_at = Some(now);
                let (linked, interval) = (self.core.summary().linked.0, self.config.interval);
                self.padding.until = Slot((linked / interval + 1) * interval);
            }
        }
    }
}
