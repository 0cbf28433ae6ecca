//! An idle leader makes a checkpoint for those whom blocks cannot help any more.
//!
//! A replica that is behind what others retain needs a state, and a state is served at a checkpoint
//! that was kept whole when it was made. When none was, the next one will be
//! ([`super::Output::KeepNewest`]); a cluster without requests would never reach it. So a leader
//! that sees such a replica alive and not advancing proposes empty blocks up to the next
//! checkpoint.
//!
//! A silent replica (R3) waits for a checkpoint at its lease, too: the leader fills up to there. A
//! liar can ask for all this as well: each replica gets one run in a minute, and none goes further
//! than an honest lease can reach.

use wire::bytes::Buffers;
use wire::canary::reach;
use wire::ids::{Instant, NodeId, Slot};
use wire::limits::REPLICAS_MAX;
use wire::seal::{Signer, Verifier};

use super::Ordering;

/// How long a replica stays where it is before empty blocks are made for it: a transfer that can
/// begin has begun by then.
const PATIENCE_NS: u64 = 2_000_000_000;
/// Between two runs for one replica (R3).
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
    /// When empty blocks were last begun to end its silence.
    silence_ended_at: Option<Instant>,
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

    /// Blocks are wanted up to here even without requests.
    pub(super) fn fill_up_to(&mut self, slot: Slot) {
        self.until = self.until.max(slot);
    }

    /// Whether the block at this slot is wanted even without requests.
    pub(super) fn wants(&self, slot: Slot) -> bool {
        slot <= self.until
    }
}

impl<Bu: Buffers, S: Signer, V: Verifier> Ordering<Bu, S, V> {
    /// Looks for replicas that only the next checkpoint can help.
    pub(super) fn tend_padding(&mut self, now: Instant) {
        if now.since_ns(self.padding.looked_at) < LOOK_NS {
            return;
        }
        self.padding.looked_at = now;
        self.end_silences(now);
        // Blocks from the first slot on help everyone.
        if self.retained_from > self.core.config().genesis.slot.next() {
            self.help_the_cut_off(now);
        }
    }

    /// R3: an idle leader fills up to the checkpoint at which a silent replica speaks again.
    fn end_silences(&mut self, now: Instant) {
        let (interval, leads) = (self.config.interval, self.leads());
        let linked = self.core.summary().linked;
        for id in (0..self.core.replicas() as u16).map(NodeId) {
            let Some(lease) = self.core.silent_peer_until(id).filter(|_| leads) else {
                continue;
            };
            // An honest one granted itself a lease within W = 2 K of a checkpoint that exists.
            if lease.0 > linked.0 + 3 * interval {
                continue;
            }
            let until = Slot(lease.0.div_ceil(interval) * interval);
            let heard = self.core.heard_at(id);
            let alive = heard.is_some_and(|at| now.since_ns(at) < SILENCE_NS);
            let behind = &mut self.padding.replicas[id.index()];
            let helped = behind.silence_ended_at;
            let due = helped.is_none_or(|at| now.since_ns(at) >= PAUSE_NS);
            if id != self.config.me && until > linked && alive && due {
                reach("padded-for-the-silent");
                behind.silence_ended_at = Some(now);
                self.padding.fill_up_to(until);
            }
        }
    }

    fn help_the_cut_off(&mut self, now: Instant) {
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
                let until = Slot((linked / interval + 1) * interval);
                self.padding.fill_up_to(until);
            }
        }
    }
}
