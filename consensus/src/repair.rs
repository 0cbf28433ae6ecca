//! §11: STATUS, and asking for what is missing. UDP loses, doubles and reorders; everything here
//! is idempotent and paced by the measured commit latency.

use wire::ids::{Digest, Instant, NodeId, Slot, View};
use wire::limits::REPAIR_BLOCKS_MAX;
use wire::messages::{STATUS_HELLO, STATUS_LOG_FULL, Status};

use crate::core::Core;
use crate::input::{Effect, Outbox, Recipient};
use crate::peers::wanted;
use crate::quorum::reached_by;

/// STATUS while something happens, and while nothing does.
const STATUS_ACTIVE_NS: u64 = 5_000_000;
const STATUS_IDLE_NS: u64 = 100_000_000;
/// Without any change for this long the replica counts as idle.
const ACTIVITY_NS: u64 = 200_000_000;
/// Bounds of the retransmission timeout, and its value until something was measured.
const RTO_NS_MIN: u64 = 300_000;
const RTO_NS_START: u64 = 5_000_000;
const RTO_NS_MAX: u64 = 64_000_000;

/// Nothing is missing.
const NEVER: Instant = Instant(u64::MAX);

/// Pacing of repair.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Repair {
    /// Smoothed time from first sight of a block to its decision.
    latency_ns: u64,
    status_due: Instant,
    /// Last moment at which the chain or the decided prefix moved.
    pub(crate) progress_at: Instant,
    progress_mark: (Slot, Slot, Slot),
    ask_due: Instant,
    /// Doublings of the timeout since the last progress.
    attempts: u32,
}

impl Repair {
    pub(crate) fn new(now: Instant) -> Repair {
        Repair {
            latency_ns: 0,
            status_due: now,
            progress_at: now,
            progress_mark: (Slot(0), Slot(0), Slot(0)),
            ask_due: NEVER,
            attempts: 0,
        }
    }

    /// Takes one time from first sight to decision in: an average over about eight.
    pub(crate) fn measure(&mut self, latency_ns: u64) {
        self.latency_ns = if self.latency_ns == 0 {
            latency_ns
        } else {
            (7 * self.latency_ns + latency_ns) / 8
        };
    }

    /// max(2 srtt, 300 us), within bounds.
    pub(crate) fn rto_ns(&self) -> u64 {
        if self.latency_ns == 0 {
            RTO_NS_START
        } else {
            (2 * self.latency_ns).clamp(RTO_NS_MIN, RTO_NS_MAX)
        }
    }

    fn backoff_ns(&self) -> u64 {
        (self.rto_ns() << self.attempts.min(8)).min(RTO_NS_MAX)
    }
}

impl Core {
    /// When [`crate::Input::Tick`] is due at the latest.
    pub fn wake_at(&self) -> Instant {
        self.repair.status_due.min(self.repair.ask_due)
    }

    pub(crate) fn repair_when_due(&mut self, now: Instant, out: &mut Outbox) {
        let mark = (self.chain.linked, self.decided, self.durable);
        if mark != self.repair.progress_mark {
            self.repair.progress_mark = mark;
            self.repair.progress_at = now;
            self.repair.attempts = 0;
            self.repair.ask_due = NEVER;
        }
        let mut status_to_all = false;
        if !self.lacks_something() {
            self.repair.ask_due = NEVER;
        } else if self.repair.ask_due == NEVER {
            self.repair.ask_due = now.after_ns(self.repair.rto_ns());
        } else if now >= self.repair.ask_due {
            status_to_all = self.undecided() > 0;
            self.ask(out);
            self.repair.attempts = if self.repair.attempts < 16 {
                self.repair.attempts + 1
            } else {
                9
            };
            self.repair.ask_due = now.after_ns(self.repair.backoff_ns());
        }
        if status_to_all || now >= self.repair.status_due {
            let active =
                now.since_ns(self.repair.progress_at) < ACTIVITY_NS || self.undecided() > 0;
            let period = if active {
                STATUS_ACTIVE_NS
            } else {
                STATUS_IDLE_NS
            };
            self.repair.status_due = now.after_ns(period);
            let status = self.status();
            out.push(Effect::Status {
                to: Recipient::All,
                status,
            });
        }
    }

    /// A block, a vote or a decision that others have, or should have, is not here.
    fn lacks_something(&self) -> bool {
        self.undecided() > 0
            || self.peers.iter().any(|peer| {
                peer.votes
                    .unlinked
                    .is_some_and(|(slot, _)| slot > self.decided)
                    || peer.status.is_some_and(|status| {
                        status.installed == self.installed
                            && status.committed.max(status.voted_slot) > self.decided
                    })
            })
            || self.holds_unlinked
    }

    /// Asks every replica to answer with its STATUS: sent until each was heard once.
    fn hello(&self) -> u32 {
        let me = self.config.me.index();
        let silent = |(id, peer): (usize, &crate::peers::Peer)| id != me && peer.status.is_none();
        if self.peers.iter().enumerate().any(silent) {
            STATUS_HELLO
        } else {
            0
        }
    }

    fn status(&self) -> Status {
        let voted_digest = self.own_vote.map_or(Digest::ZERO, |own| own.vote.digest);
        Status {
            stage: self.stage,
            installed: self.installed,
            committed: self.decided,
            committed_digest: self.decided_digest,
            voted_slot: self.own_vote.map_or(Slot(0), |own| own.vote.slot),
            voted_digest,
            checkpoint: Slot(0),
            retained_from: Slot(1),
            lease: Slot(0),
            flags: self.hello() | if self.log_full { STATUS_LOG_FULL } else { 0 },
        }
    }

    pub(crate) fn on_status(
        &mut self,
        now: Instant,
        from: NodeId,
        view: View,
        status: Status,
        out: &mut Outbox,
    ) {
        if view != self.installed {
            return;
        }
        let (rto_ns, voted, decided) = (self.repair.rto_ns(), self.voted, self.decided);
        let peer = &mut self.peers[from.index()];
        peer.status = Some(status);
        if status.committed > peer.claims.linked
            && self.chain.holds(status.committed, &status.committed_digest)
        {
            peer.claims
                .hear(&self.chain, status.committed, status.committed_digest);
        }
        if status.committed < voted
            && let Some(own) = self.own_vote
            && now.since_ns(own.sent_at) >= rto_ns
            && peer
                .vote_resent_at
                .is_none_or(|at| now.since_ns(at) >= rto_ns)
        {
            peer.vote_resent_at = Some(now);
            out.push(Effect::Vote {
                to: Recipient::One(from),
                vote: own.vote,
            });
        }
        if status.committed < decided && status.voted_slot >= decided {
            // It holds the blocks and lacks votes: b + 1 of these claims decide there.
            out.push(Effect::Decided {
                to: from,
                slot: decided,
            });
        }
        if status.flags & STATUS_HELLO != 0 {
            let answer = Status {
                flags: self.status().flags & !STATUS_HELLO,
                ..self.status()
            };
            out.push(Effect::Status {
                to: Recipient::One(from),
                status: answer,
            });
        }
    }

    /// Asks for the most useful missing thing; whom changes with every attempt.
    fn ask(&mut self, out: &mut Outbox) {
        let linked = self.chain.linked;
        let committed = |peer: &crate::peers::Peer| peer.status.map_or(0, |s| s.committed.0);
        let agreed = Slot(reached_by(
            self.config.quorums.one_correct(),
            self.peers.iter().map(committed),
        ));
        if agreed.0 > linked.0 + 4 {
            return self.ask_range(agreed, out);
        }
        if agreed > self.decided && self.repair.attempts >= 2 {
            // Blocks may be here, yet the votes lie on another branch or were lost for good.
            let first = self.decided.next();
            self.each_other(|to| {
                out.push(Effect::FetchRange {
                    to,
                    first,
                    count: 0,
                })
            });
        }
        if let Some((slot, digest)) = self.missing_block() {
            let to = self.pick(self.repair.attempts as usize);
            // A block at or below the top is another leader-signed one: only it is wanted.
            let have = linked.min(Slot(slot.0 - 1));
            out.push(Effect::FetchBlock {
                to,
                slot,
                digest,
                have,
            });
        }
    }

    /// A block that is named by a child, a vote or a status and is not here. Statuses, and votes
    /// of liars, may name blocks that do not exist: each candidate has its turn of one attempt
    /// with every replica, the one that the leader signed for first.
    fn missing_block(&self) -> Option<(Slot, Digest)> {
        let linked = self.chain.linked;
        let horizon = linked.0 + self.config.blocks_held_max;
        let parent_of_held = (linked.0 + 2..=linked.0 + 64).map(Slot).find_map(|slot| {
            let held = self.chain.get(slot)?;
            let below = Slot(slot.0 - 1);
            self.chain
                .get(below)
                .is_none()
                .then_some((below, held.header.parent))
        });
        let by_votes = self.peers.iter().filter_map(|peer| {
            wanted(self.installed, &peer.votes).map(|vote| (vote.slot, vote.digest))
        });
        let by_status = self.peers.iter().filter_map(|peer| {
            peer.status
                .filter(|status| status.installed == self.installed)
                .map(|status| (status.voted_slot, status.voted_digest))
        });
        let candidates = parent_of_held
            .into_iter()
            .chain(by_votes)
            .chain(by_status)
            .filter(|(slot, digest)| {
                *slot > self.decided
                    && slot.0 <= horizon
                    && !self.chain.holds(*slot, digest)
                    && self
                        .chain
                        .get(*slot)
                        .is_none_or(|held| held.digest != *digest)
            });
        let count = candidates.clone().count();
        let turn = self.repair.attempts as usize / self.config.quorums.n;
        candidates.into_iter().nth(turn % count.max(1))
    }

    /// Far behind: blocks from one replica, the claim on the last of them from all.
    fn ask_range(&mut self, agreed: Slot, out: &mut Outbox) {
        let stuck = self.repair.attempts >= 3 && self.repair.attempts % 2 == 1;
        let first = if stuck {
            self.decided.next()
        } else {
            self.chain.linked.next()
        };
        let span = REPAIR_BLOCKS_MAX
            .min(self.config.blocks_held_max / 2)
            .max(1);
        let last = Slot(agreed.0.min(first.0 + span - 1));
        let serving = self.pick(self.repair.attempts as usize);
        self.each_other(|to| {
            let message = if to == serving {
                Effect::FetchRange {
                    to,
                    first,
                    count: last.0 + 1 - first.0,
                }
            } else if stuck {
                Effect::FetchRange {
                    to,
                    first,
                    count: 0,
                }
            } else {
                Effect::FetchRange {
                    to,
                    first: last,
                    count: 0,
                }
            };
            out.push(message);
        });
    }

    fn each_other(&self, mut act: impl FnMut(NodeId)) {
        for id in 0..self.config.quorums.n as u16 {
            if NodeId(id) != self.config.me {
                act(NodeId(id));
            }
        }
    }

    /// The leader first, then the others in turn.
    fn pick(&self, attempt: usize) -> NodeId {
        let n = self.config.quorums.n;
        let leader = self.leader(self.installed).index();
        let choice = (0..n)
            .map(|step| (leader + attempt + step) % n)
            .find(|&id| id != self.config.me.index());
        NodeId(choice.expect("a committee has more than one member") as u16)
    }

    pub(crate) fn on_fetch_block(
        &mut self,
        now: Instant,
        from: NodeId,
        slot: Slot,
        digest: Digest,
        have: Slot,
        grains: bool,
        out: &mut Outbox,
    ) {
        let held = self
            .chain
            .get(slot)
            .is_some_and(|entry| entry.digest == digest);
        if !held || !self.may_answer(now, from) {
            return;
        }
        if grains {
            out.push(Effect::Grains { to: from, slot });
            return;
        }
        let lowest = slot.0.saturating_sub(REPAIR_BLOCKS_MAX - 1).max(1);
        let first = Slot(lowest.max(have.0.saturating_add(1)).min(slot.0));
        out.push(Effect::Blocks {
            to: from,
            first,
            last: slot,
            newest_first: true,
        });
    }

    pub(crate) fn on_fetch_range(
        &mut self,
        now: Instant,
        from: NodeId,
        first: Slot,
        count: u64,
        out: &mut Outbox,
    ) {
        if first > self.decided || first == Slot(0) {
            return;
        }
        let count = count.min(REPAIR_BLOCKS_MAX);
        // At most `decided` plus a repair's length: no overflow.
        let last = Slot((first.0 + count.max(1) - 1).min(self.decided.0));
        out.push(Effect::Decided {
            to: from,
            slot: last,
        });
        if count > 0 && self.may_answer(now, from) {
            out.push(Effect::Blocks {
                to: from,
                first,
                last,
                newest_first: false,
            });
        }
    }

    /// One answer a peer in a quarter of the retransmission timeout: a repeated question is not
    /// answered twice, a swarm of them costs one.
    fn may_answer(&mut self, now: Instant, from: NodeId) -> bool {
        let pause_ns = self.repair.rto_ns() / 4;
        let peer = &mut self.peers[from.index()];
        let due = peer
            .answered_at
            .is_none_or(|at| now.since_ns(at) >= pause_ns);
        if due {
            peer.answered_at = Some(now);
        }
        due
    }
}
