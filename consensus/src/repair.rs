//! §11: asking for what is missing. UDP loses, doubles and reorders; everything here is idempotent and
//! paced by the measured commit latency.

use std::collections::BTreeSet;
use std::sync::Arc;

use wire::certificates::Place;
use wire::ids::{Instant, NodeId, Slot};
use wire::limits::{IN_FLIGHT, REPAIR_BLOCKS_MAX};
use wire::seal::Signer;

use crate::chase::Chain;
use crate::core::Core;
use crate::image::image;
use crate::input::{Effect, Outbox, Recipient};
use crate::peers::Peer;
use crate::quorum::reached_by;
use crate::tree::Validity;
use crate::turns::{Name, Round, Turns};

/// STATUS while something happens, and while nothing does.
pub(crate) const STATUS_ACTIVE_NS: u64 = 5_000_000;
const STATUS_IDLE_NS: u64 = 100_000_000;
/// Decided slots after which a status is sent before it is due.
const STATUS_SLOTS: u64 = IN_FLIGHT / 2;
/// Without any change for this long the replica counts as idle.
const ACTIVITY_NS: u64 = 200_000_000;
/// Bounds of the retransmission timeout, and its value until something was measured.
const RTO_NS_MIN: u64 = 300_000;
const RTO_NS_START: u64 = 5_000_000;
const RTO_NS_MAX: u64 = 64_000_000;
/// From [`RTO_NS_MIN`] to [`RTO_NS_MAX`].
const DOUBLINGS_MAX: u32 = 8;

/// Whoever is so many slots behind asks for ranges.
const FAR_SLOTS: u64 = 4;
/// Kinds of claims that it asks for.
const CLAIM_KINDS: usize = 3;

/// Nothing is missing.
const NEVER: Instant = Instant(u64::MAX);

/// Pacing of repair.
#[derive(Clone, Debug)]
pub(crate) struct Repair {
    /// Smoothed time from first sight of a block to its decision.
    latency_ns: u64,
    status_due: Instant,
    /// What was decided when all were last told.
    told_decided: Slot,
    /// Last moment at which the chain or the decided prefix moved.
    pub(crate) progress_at: Instant,
    progress_mark: (Place, Slot, Slot),
    ask_due: Instant,
    /// When the last question left, or something began to be missing.
    waits_since: Instant,
    /// Doublings of the timeout since the last progress, or since a block came that was asked for.
    doublings: u32,
    /// Questions since the last progress, and whose turn it is.
    attempts: u32,
    turns: usize,
    /// From far behind. A liar that feeds this replica block by block must not make it begin anew with
    /// the same questions each time.
    far: Turns,
    /// The last questions for blocks by their names, and for a range.
    asked: Vec<(NodeId, Place)>,
    serving: Option<NodeId>,
    /// Who answered last: asked first the next time. A leader that leaves this replica out would
    /// otherwise cost it a question in vain for every block.
    helper: Option<NodeId>,
    helped_at: Option<Instant>,
}
image!(Repair {
    latency_ns,
    status_due,
    told_decided,
    progress_at,
    progress_mark,
    ask_due,
    waits_since,
    doublings,
    attempts,
    turns,
    far,
    asked,
    serving,
    helper,
    helped_at
});

impl Repair {
    pub(crate) fn new(now: Instant, top: Place) -> Repair {
        Repair {
            latency_ns: 0,
            status_due: now,
            told_decided: Slot(0),
            progress_at: now,
            progress_mark: (top, Slot(0), Slot(0)),
            ask_due: NEVER,
            waits_since: now,
            doublings: 0,
            attempts: 0,
            turns: 0,
            far: Turns::default(),
            asked: Vec::new(),
            serving: None,
            helper: None,
            helped_at: None,
        }
    }

    /// Takes one time from first sight to decision in: an average over about eight. What had to be asked
    /// for meanwhile says how long this replica waits before it asks; each such time would make the next
    /// one longer, as a leader that leaves blocks out may want. Nor does one long stop of all. A block that
    /// was final when it came measures nothing.
    pub(crate) fn measure(&mut self, seen_at: Instant, now: Instant) {
        let latency_ns = now.since_ns(seen_at);
        if latency_ns == 0 {
            return;
        }
        let latency_ns = latency_ns.clamp(RTO_NS_MIN / 2, RTO_NS_MAX / 2);
        let helped = self.helped_at.is_some_and(|at| at >= seen_at);
        if helped && latency_ns >= self.latency_ns {
            return;
        }
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
            2 * self.latency_ns
        }
    }

    fn backoff_ns(&self) -> u64 {
        (self.rto_ns() << self.doublings).min(RTO_NS_MAX)
    }

    /// A block came that others sent again and that has a use here: what is missing now is another one,
    /// and was not asked for in vain yet. Unless it `answers` a question it puts nothing off: a liar can
    /// make blocks that seem to have a use. Each has it once.
    fn helped(&mut self, now: Instant, by: NodeId, answers: bool) {
        let due = self.ask_due;
        self.wait_on(now);
        if answers {
            (self.helper, self.helped_at) = (Some(by), Some(now));
        } else {
            self.ask_due = self.ask_due.min(due);
        }
    }

    /// Something came: the rest of the answer may be on its way. It is not waited for for ever.
    fn wait_on(&mut self, now: Instant) {
        self.doublings = 0;
        if self.ask_due != NEVER {
            let longest = self.waits_since.after_ns(RTO_NS_MAX);
            self.ask_due = now.after_ns(self.rto_ns()).min(longest);
        }
    }
}

impl<S: Signer> Core<S> {
    pub(crate) fn repair_wake_at(&self) -> Instant {
        self.repair.status_due.min(self.repair.ask_due)
    }

    pub(crate) fn repair_when_due(&mut self, now: Instant, out: &mut Outbox) {
        let mark = (self.branch.top(), self.decided.slot, self.durable);
        if mark != self.repair.progress_mark {
            let decided = mark.1 != self.repair.progress_mark.1;
            self.repair.progress_mark = mark;
            self.repair.progress_at = now;
            // A branch that has lost may grow for as long as its leader likes: it is not what is sought.
            if decided || !self.seeks() {
                (self.repair.attempts, self.repair.turns) = (0, 0);
                self.repair.wait_on(now);
                if self.far_goal().is_none() {
                    self.repair.ask_due = NEVER;
                }
            }
        }
        let mut status_to_all = false;
        if !self.lacks_something() {
            self.repair.ask_due = NEVER;
        } else if self.repair.ask_due == NEVER {
            self.repair.ask_due = now.after_ns(self.repair.rto_ns());
            self.repair.waits_since = now;
        } else if now >= self.repair.ask_due {
            status_to_all = self.undecided() > 0;
            self.repair.asked.clear();
            self.repair.serving = None;
            self.ask(out);
            self.repair.waits_since = now;
            self.repair.turns = self.repair.turns.wrapping_add(1);
            self.repair.attempts = if self.repair.attempts < 16 {
                self.repair.attempts + 1
            } else {
                9
            };
            self.repair.doublings = (self.repair.doublings + 1).min(DOUBLINGS_MAX);
            self.repair.ask_due = now.after_ns(self.repair.backoff_ns());
        }
        // Others vote no further above than this lets them ([`Core::claim_limit`]).
        status_to_all |= self.decided.slot.0 >= self.repair.told_decided.0 + STATUS_SLOTS;
        if status_to_all || now >= self.repair.status_due {
            self.repair.told_decided = self.decided.slot;
            let active = now.since_ns(self.repair.progress_at) < ACTIVITY_NS
                || self.undecided() > 0
                || self.change.is_some();
            let period = if active {
                STATUS_ACTIVE_NS
            } else {
                STATUS_IDLE_NS
            };
            self.repair.status_due = now.after_ns(period);
            self.each_other(|to| {
                let status = self.status_to(to);
                out.push(Effect::Status {
                    to: Recipient::One(to),
                    status,
                });
            });
        }
    }

    /// A block, a vote or a decision that others have, or should have, is not here.
    fn lacks_something(&self) -> bool {
        let decided = self.decided.slot;
        let said = |peer: &Peer| peer.claims.unlinked.is_some_and(|w| w.place.slot > decided);
        let further = |peer: &Peer| {
            peer.status.is_some_and(|status| {
                let voted = status.installed == self.installed;
                let voted = if voted { status.voted_slot } else { Slot(0) };
                status.committed.max(voted) > decided
            })
        };
        self.undecided() > 0
            || self.holds_unlinked
            || !self.base_is_linked()
            || self.seeks()
            || self.peers.iter().any(|peer| said(peer) || further(peer))
            || self.current_votes_unlinked().next().is_some()
    }

    /// What is final, or the base, is chased, and a block of its chain is not here.
    fn seeks(&self) -> bool {
        self.sought().is_some_and(|(_, missing)| missing.is_some())
    }

    fn current_votes_unlinked(&self) -> impl Iterator<Item = Place> {
        let (installed, decided) = (self.installed, self.decided.slot);
        let book = self.books.iter().find(move |book| book.view == installed);
        let votes = book.into_iter().flat_map(|book| &book.votes);
        votes
            .filter_map(|words| words.unlinked)
            .map(|word| word.place)
            .filter(move |place| place.slot > decided)
    }

    /// What b + 1 replicas have decided at least.
    fn agreed(&self) -> Slot {
        let committed = |peer: &Peer| peer.status.map_or(0, |s| s.committed.0);
        let one_correct = self.config.quorums.one_correct();
        Slot(reached_by(one_correct, self.peers.iter().map(committed)))
    }

    /// The same where this replica is far behind. What is final is reached soonest from below then; only a
    /// branch that turns out to be the wrong one needs the other way.
    fn far_goal(&self) -> Option<Slot> {
        let agreed = self.agreed();
        (agreed.0 > self.branch.top().slot.0 + FAR_SLOTS).then_some(agreed)
    }

    /// Asks for the most useful missing thing; whom changes with every attempt.
    fn ask(&mut self, out: &mut Outbox) {
        if let Some(agreed) = self.far_goal() {
            return self.ask_from_far(agreed, out);
        }
        let top = self.branch.top().slot;
        let (attempts, turns) = (self.repair.attempts as usize, self.repair.turns);
        if attempts >= 2 {
            self.transfer_if_due(false, out);
        }
        let mut turns = turns;
        if let Some((_, Some(place))) = self.sought() {
            self.ask_for(self.pick(turns), place, self.decided.slot, out);
            if attempts.is_multiple_of(2) {
                return;
            }
            // Every second question is for something else beside it: that has turns of its own.
            turns /= 2;
        }
        let agreed = self.agreed();
        if agreed > self.decided.slot && attempts >= 2 {
            // Blocks may be here, yet the votes lie on another branch or were lost for good.
            let next = self.decided.slot.next();
            let highest = agreed.min(top).max(next);
            let first = if attempts % 4 < 2 { next } else { highest };
            self.each_other(|to| {
                out.push(Effect::FetchRange {
                    to,
                    first,
                    count: 0,
                })
            });
        }
        if let Some(place) =
            self.missing_block(turns / self.config.quorums.n, self.config.blocks_held_max)
        {
            // A block at or below the top is another leader-signed one: only it is wanted.
            self.ask_for(self.pick(turns), place, top, out);
        }
    }

    /// Asks for a block by its name, with what is below it down to what is here.
    fn ask_for(&mut self, to: NodeId, place: Place, have: Slot, out: &mut Outbox) {
        self.repair.asked.push((to, place));
        let have = have.min(Slot(place.slot.0 - 1));
        out.push(Effect::FetchBlock { to, place, have });
    }

    /// A block that others sent again was taken in. It answers a question if it is what was asked for by
    /// name, or below it, for answers come newest first. What ranges bring has no names; everyone has its
    /// turn with them.
    pub(crate) fn note_help(&mut self, now: Instant, from: NodeId, place: Place) {
        let mut names = self.repair.asked.iter();
        let named = |(to, asked): &(NodeId, Place)| *to == from && self.leads_to(*asked, place);
        let answers = names.any(named) || self.repair.serving == Some(from);
        self.repair.helped(now, from, answers);
    }

    /// Far behind: a range of one replica, claims of the others; and beside it, of another one, a block by
    /// its name, with what is below it and not here: on the chain that is chased, or one that ranges leave
    /// out, for no copy of it bears its leader's signature.
    fn ask_from_far(&mut self, agreed: Slot, out: &mut Outbox) {
        self.transfer_if_due(true, out);
        let top = self.branch.top().slot;
        let others = self.config.quorums.n - 1;
        // Ranges alone do while they bring something that links: all would come twice.
        let in_vain = self.repair.attempts >= 2 || self.repair.far.is_fourth();
        let left_out = (in_vain || self.holds_above(top))
            .then(|| self.left_out(self.repair.far.laps(others)))
            .flatten();
        let sought = self.sought().and_then(|(_, missing)| missing);
        let claims = self.repair.far.claims(others, CLAIM_KINDS);
        let far = &mut self.repair.far;
        let Round { named, range } = far.next(others, left_out.is_some(), sought.is_some());
        if let Some((name, number)) = named {
            let (place, have) = match name {
                Name::LeftOut => (left_out, top),
                Name::Sought => (sought, self.decided.slot),
            };
            let place = place.expect("asked for what there is");
            self.ask_for(self.other(number), place, have, out);
        }
        let serving = self.other(range);
        self.repair.serving = Some(serving);
        self.ask_range(agreed, serving, claims, out);
    }

    /// A block that ranges leave out: on the way down from one that is final, from the highest that one
    /// answer may join to the branch.
    fn left_out(&self, turn: usize) -> Option<Place> {
        let top = self.branch.top().slot;
        let highest = (top.0 + REPAIR_BLOCKS_MAX).min(self.near().0);
        let within = |place: &Place| (top.0 + 1..=highest).contains(&place.slot.0);
        let last = self.claimed(within).pop();
        match last.map(|last| self.chain_of(last)) {
            Some(Chain::Lacks(place)) if place.slot > self.decided.slot => Some(place),
            _ => self.missing_block(turn, REPAIR_BLOCKS_MAX),
        }
    }

    /// K4: blocks that nobody retains, or too many of them, are replaced by the state itself.
    fn transfer_if_due(&mut self, far: bool, out: &mut Outbox) {
        let Some(newest) = &self.newest_checkpoint else {
            return;
        };
        let slot = newest.header.slot();
        if slot <= self.executed || self.transferring.is_some_and(|under_way| under_way >= slot) {
            return;
        }
        let retained = |peer: &Peer| peer.status.map_or(0, |status| status.retained_from.0);
        let lost = reached_by(
            self.config.quorums.one_correct(),
            self.peers.iter().map(retained),
        );
        let many = far && slot.0 - self.executed.0 > self.config.transfer_beyond;
        // What only waits for the own execution comes sooner from there.
        let gone = slot > self.decided.slot && lost > self.decided.slot.0 + 1;
        if many || gone {
            self.transferring = Some(slot);
            out.push(Effect::Transfer(Arc::clone(newest)));
        }
    }

    /// A block that is named by claims, a child, a vote or a status and is not here. Statuses, votes
    /// of liars, and children whose signatures nobody checked may name blocks that do not exist: each
    /// candidate has its turn of one attempt with every replica. The highest that is final is first, and
    /// what is final has each second turn, whatever liars name.
    fn missing_block(&self, turn: usize, reach: u64) -> Option<Place> {
        let top = self.branch.top().slot;
        let parent_of_held = (top.0 + 1..=top.0 + 64).map(Slot).find_map(|slot| {
            let mut held = self.tree.at(slot);
            let orphan = held.find(|entry| {
                let parent = entry.parent();
                // One whose parent lost, or that is invalid, is no reason to ask, and must not hide
                // one that is.
                entry.validity != Validity::Invalid
                    && parent.slot > self.decided.slot
                    && self.tree.get(parent).is_none()
                    && !self.branch.holds(parent)
            });
            orphan.map(|entry| entry.parent())
        });
        let by_status = self.peers.iter().filter_map(|peer| {
            let status = peer.status?;
            (status.installed == self.installed).then_some(Place {
                slot: status.voted_slot,
                digest: status.voted_digest,
            })
        });
        // An answer holds what is below as well.
        let final_ones = self.claimed(|place| place.slot > top);
        let named = parent_of_held.into_iter();
        let named = named.chain(self.current_votes_unlinked()).chain(by_status);
        let lacked = |place: &Place| {
            place.slot > self.decided.slot
                && place.slot.0 <= top.0 + reach
                && !self.branch.holds(*place)
                && self.tree.get(*place).is_none()
        };
        let mut seen = BTreeSet::new();
        let mut useful = |place: &Place| lacked(place) && seen.insert(*place);
        let final_ones = final_ones.into_iter().rev().filter(&mut useful);
        let final_ones = final_ones.collect::<Vec<_>>();
        let named = named.filter(useful).collect::<Vec<_>>();
        let (kind, turn) = match (final_ones.is_empty(), named.is_empty()) {
            (true, _) => (named, turn),
            (false, true) => (final_ones, turn),
            (false, false) => ([final_ones, named][turn % 2].clone(), turn / 2),
        };
        kind.get(turn % kind.len().max(1)).copied()
    }

    /// Whether a block is here, within one answer's reach, that does not link for want of what is below.
    fn holds_above(&self, top: Slot) -> bool {
        let mut above = (top.0 + 2..=top.0 + REPAIR_BLOCKS_MAX).map(Slot);
        above.any(|slot| self.tree.at(slot).next().is_some())
    }

    /// Blocks from one replica, and claims of the others, of each kind in turn: on the last of the range, on
    /// the highest block of the branch, and on the next one, where the branch may be the wrong one.
    fn ask_range(&mut self, agreed: Slot, serving: NodeId, kind: usize, out: &mut Outbox) {
        let (top, next) = (self.branch.top().slot, self.decided.slot.next());
        let stuck = self.repair.attempts >= 3 && self.repair.attempts % 2 == 1;
        let first = if stuck { next } else { top.next() };
        let span = REPAIR_BLOCKS_MAX
            .min(self.config.blocks_held_max / 2)
            .max(1);
        let last = Slot(agreed.0.min(first.0 + span - 1));
        let kinds: [Slot; CLAIM_KINDS] = [last, top.max(next), next];
        let claimed = kinds[kind];
        self.each_other(|to| {
            let message = if to == serving {
                Effect::FetchRange {
                    to,
                    first,
                    count: last.0 + 1 - first.0,
                }
            } else {
                Effect::FetchRange {
                    to,
                    first: claimed,
                    count: 0,
                }
            };
            out.push(message);
        });
    }

    pub(crate) fn each_other(&self, mut act: impl FnMut(NodeId)) {
        for id in 0..self.config.quorums.n as u16 {
            if NodeId(id) != self.config.me {
                act(NodeId(id));
            }
        }
    }

    /// The other replica of this number, counted without this one.
    fn other(&self, number: usize) -> NodeId {
        let own = self.config.me.index();
        NodeId((number + usize::from(number >= own)) as u16)
    }

    /// Whoever helped last, then the leader, then the others in turn.
    fn pick(&self, attempt: usize) -> NodeId {
        let n = self.config.quorums.n;
        let attempt = match (self.repair.helper, attempt) {
            (Some(helper), 0) => return helper,
            (Some(_), later) => later - 1,
            (None, first) => first,
        };
        let leader = self.leader(self.installed).index();
        let choice = (0..n)
            .map(|step| (leader + attempt % n + step) % n)
            .find(|&id| id != self.config.me.index());
        NodeId(choice.expect("a committee has more than one member") as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn repair() -> Repair {
        let place = Place {
            slot: Slot(0),
            digest: wire::ids::Digest::ZERO,
        };
        Repair::new(Instant(0), place)
    }

    /// A leader leaves every block out at first. Were the times until it comes after all measured, each
    /// would double the next one.
    #[test]
    fn what_had_to_be_asked_for_does_not_set_the_pace() {
        let mut repair = repair();
        repair.measure(Instant(0), Instant(2 * MS));
        assert_eq!(repair.rto_ns(), 4 * MS);
        let mut now = 10 * MS;
        for _ in 0..100 {
            let seen_at = Instant(now);
            now += repair.rto_ns();
            repair.helped(Instant(now), NodeId(1), true);
            repair.measure(seen_at, Instant(now));
        }
        assert_eq!(repair.rto_ns(), 4 * MS);
        for _ in 0..100 {
            repair.measure(Instant(now + 1), Instant(now + 1 + 20 * MS));
        }
        assert_eq!(repair.rto_ns() / MS, 39, "a slow network does");
        repair.measure(Instant(now + 1), Instant(now + 1000 * MS));
        assert!(repair.rto_ns() < 50 * MS, "and one long stop hardly");
        for _ in 0..100 {
            repair.helped(Instant(now), NodeId(1), true);
            repair.measure(Instant(now), Instant(now + 2 * MS));
        }
        assert_eq!(repair.rto_ns() / MS, 4, "it comes down in any case");
        repair.measure(Instant(now), Instant(now));
        assert_eq!(repair.rto_ns() / MS, 4, "final when it came");
        for _ in 0..100 {
            repair.measure(Instant(now), Instant(now + 1));
        }
        assert!((RTO_NS_MIN..RTO_NS_MIN + 10).contains(&repair.rto_ns()));
    }

    #[test]
    fn an_answer_that_helps_takes_the_doublings_back() {
        let mut repair = repair();
        repair.measure(Instant(0), Instant(2 * MS));
        repair.doublings = DOUBLINGS_MAX;
        assert_eq!(repair.backoff_ns(), RTO_NS_MAX);
        repair.ask_due = Instant(RTO_NS_MAX);
        repair.helped(Instant(10 * MS), NodeId(3), false);
        assert_eq!(repair.ask_due, Instant(14 * MS));
        repair.helped(Instant(12 * MS), NodeId(3), false);
        assert_eq!(repair.ask_due, Instant(14 * MS), "what nobody asked for");
        assert_eq!(repair.helper, None);
        repair.helped(Instant(10 * MS), NodeId(1), true);
        assert_eq!(repair.backoff_ns(), 4 * MS);
        assert_eq!(repair.ask_due, Instant(14 * MS));
        repair.helped(Instant(12 * MS), NodeId(1), true);
        assert_eq!(repair.ask_due, Instant(16 * MS), "the rest is on its way");
        repair.helped(Instant(RTO_NS_MAX - MS), NodeId(1), true);
        assert_eq!(repair.ask_due, Instant(RTO_NS_MAX), "or not");
    }
}
