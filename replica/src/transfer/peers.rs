//! Whom to ask next: bans, pauses, and how many questions wait at each peer.

use wire::canary::planted;
use wire::ids::{Instant, NodeId, Slot};

/// A silent peer's pause doubles up to this many times.
const PAUSE_DOUBLINGS_MAX: u32 = 5;

#[derive(Debug)]
struct Peer {
    id: NodeId,
    banned: bool,
    /// Questions that wait for its answer.
    waiting: usize,
    /// Questions in a row without a useful answer.
    misses: u32,
    paused_until: Instant,
    /// The checkpoint that it said it serves.
    elsewhere: Option<Slot>,
}

/// Peers by position; a position never changes during a transfer.
#[derive(Debug)]
pub(super) struct Peers {
    all: Vec<Peer>,
    /// Who is preferred among equals: moves on with each choice.
    turn: usize,
}

impl Peers {
    pub(super) fn new(ids: &[NodeId]) -> Peers {
        let peer = |id: &NodeId| Peer {
            id: *id,
            banned: false,
            waiting: 0,
            misses: 0,
            paused_until: Instant(0),
            elsewhere: None,
        };
        Peers {
            all: ids.iter().map(peer).collect(),
            turn: 0,
        }
    }

    /// The same peers for another transfer: only bans remain.
    pub(super) fn again(self) -> Peers {
        let ids: Vec<_> = self.all.iter().map(|peer| peer.id).collect();
        let mut next = Peers::new(&ids);
        for (peer, before) in next.all.iter_mut().zip(&self.all) {
            peer.banned = before.banned;
        }
        next
    }

    pub(super) fn id(&self, peer: usize) -> NodeId {
        self.all[peer].id
    }

    pub(super) fn position(&self, id: NodeId) -> Option<usize> {
        self.all.iter().position(|peer| peer.id == id)
    }

    /// The peer with the fewest waiting questions among those that may be asked.
    pub(super) fn choose(&mut self, now: Instant, per_peer: usize) -> Option<usize> {
        if planted("stuckpeer") {
            return (self.all[0].waiting < per_peer).then_some(0);
        }
        let count = self.all.len();
        let chosen = (0..count)
            .map(|offset| (self.turn + offset) % count)
            .filter(|at| {
                let peer = &self.all[*at];
                !peer.banned && peer.paused_until <= now && peer.waiting < per_peer
            })
            .min_by_key(|at| self.all[*at].waiting)?;
        self.turn = (chosen + 1) % count;
        Some(chosen)
    }

    /// When some peer may be asked, if no answer comes before.
    pub(super) fn free_at(&self, per_peer: usize) -> Option<Instant> {
        let usable = |peer: &&Peer| !peer.banned && peer.waiting < per_peer;
        let usable = self.all.iter().filter(usable);
        usable.map(|peer| peer.paused_until).min()
    }

    pub(super) fn asked(&mut self, peer: usize) {
        self.all[peer].waiting += 1;
    }

    pub(super) fn released(&mut self, peer: usize) {
        self.all[peer].waiting -= 1;
    }

    pub(super) fn answered(&mut self, peer: usize) {
        self.all[peer].misses = 0;
        self.all[peer].elsewhere = None;
    }

    /// No useful answer came: the peer is left alone for a while.
    pub(super) fn missed(&mut self, peer: usize, now: Instant, timeout_ns: u64) {
        let peer = &mut self.all[peer];
        if peer.paused_until > now {
            // Several questions were open when it fell silent.
            return;
        }
        let pause_ns = timeout_ns.saturating_mul(1 << peer.misses.min(PAUSE_DOUBLINGS_MAX));
        peer.paused_until = now.after_ns(pause_ns);
        peer.misses += 1;
    }

    pub(super) fn serves(&mut self, peer: usize, slot: Slot) {
        self.all[peer].elsewhere = Some(slot);
    }

    pub(super) fn elsewhere(&self) -> Option<Slot> {
        self.all.iter().filter_map(|peer| peer.elsewhere).max()
    }

    pub(super) fn ban(&mut self, peer: usize) {
        self.all[peer].banned = true;
        self.all[peer].elsewhere = None;
    }

    pub(super) fn banned(&self) -> usize {
        self.banned_ids().count()
    }

    pub(super) fn banned_ids(&self) -> impl Iterator<Item = NodeId> {
        self.all
            .iter()
            .filter(|peer| peer.banned)
            .map(|peer| peer.id)
    }

    pub(super) fn all_banned(&self) -> bool {
        self.all.iter().all(|peer| peer.banned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_peers_are_left_alone_ever_longer() {
        let mut peers = Peers::new(&[NodeId(1), NodeId(2)]);
        assert_eq!(peers.choose(Instant(0), 1), Some(0));
        peers.asked(0);
        assert_eq!(peers.choose(Instant(0), 1), Some(1));
        peers.asked(1);
        assert_eq!(peers.choose(Instant(0), 1), None);
        peers.released(0);
        peers.missed(0, Instant(10), 10);
        peers.missed(0, Instant(10), 10);
        assert_eq!(peers.choose(Instant(19), 1), None);
        assert_eq!(peers.free_at(1), Some(Instant(20)));
        assert_eq!(peers.choose(Instant(20), 1), Some(0));
        peers.missed(0, Instant(20), 10);
        assert_eq!(peers.free_at(1), Some(Instant(40)));
        peers.answered(0);
        peers.missed(0, Instant(40), 10);
        assert_eq!(peers.free_at(1), Some(Instant(50)));
        peers.ban(0);
        assert_eq!(peers.free_at(1), None);
        assert!(!peers.all_banned());
        peers.ban(1);
        assert!(peers.all_banned());
        assert_eq!(peers.again().banned(), 2);
    }
}
