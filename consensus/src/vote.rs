//! N2, N5, R2: when an own vote or COMMIT is due, and when the tip jumps.

use std::sync::Arc;

use wire::block::BlockRef;
use wire::canary::{planted, reach};
use wire::certificates::{CertifiedVote, CompactHeader, Place, QuorumCertificate};
use wire::ids::{Instant, NodeId, Position, Signature, Slot};
use wire::limits::{CERTIFICATE_HEADERS_MAX, IN_FLIGHT};
use wire::messages::{EVIDENCE_INVALID_PAYLOAD, Held};
use wire::seal::{Signed, Signer, Statement};

use crate::core::Core;
use crate::input::{BlockCheck, Effect, Evidence, Outbox, Recipient, Record};
use crate::peers::OwnWord;
use crate::quorum::reached_by;
use crate::speak::Spoken;
use crate::tree::{RecordAs, Validity};
use crate::words::Word;

impl<S: Signer> Core<S> {
    pub(crate) fn on_appended(&mut self, place: Place, end: Position) {
        if let Some(entry) = self.tree.get_mut(place) {
            assert!(entry.end.is_none(), "R2: one record for one block");
            entry.end = Some(end);
        }
        self.placed(end);
    }

    /// The verdict on one copy of a block. One that was replaced since is of no interest.
    pub(crate) fn on_checked(
        &mut self,
        place: Place,
        signature: Signature,
        found: BlockCheck,
        out: &mut Outbox,
    ) {
        let below_base = place.slot <= self.base.slot && self.branch.holds(self.base);
        let settled = place.slot <= self.decided.slot || below_base;
        let settled = settled && self.branch.holds(place);
        let entry = self.tree.get_mut(place);
        let Some(entry) = entry.filter(|entry| entry.signature == signature) else {
            return;
        };
        let view = entry.header.view();
        if found == BlockCheck::Good {
            entry.validity = Validity::Valid;
            entry.signature_good = true;
            return;
        }
        if found == BlockCheck::ForeignSignature && entry.validity == Validity::Valid {
            // It came again, for something signed names it.
            return;
        }
        if view == self.installed {
            self.accused = self.accused.max(Some(view));
        }
        if settled {
            // Correct replicas voted for, or acknowledged, this digest, which binds the payload,
            // so the block is valid. What failed is the leader's signature on this copy; no view
            // change will claim the block by it.
            reach("unsigned-copy-settled");
            entry.validity = Validity::Valid;
            return;
        }
        if view == self.installed {
            // No other block is voted at this slot in this view (R2).
            self.voting_stopped = true;
        }
        if found == BlockCheck::InvalidPayload {
            entry.validity = Validity::Invalid;
            entry.signature_good = true;
            let signed = entry.signed();
            if view == self.installed {
                out.push(Effect::Evidence(Evidence {
                    kind: EVIDENCE_INVALID_PAYLOAD,
                    first: signed,
                    second: signed,
                }));
            }
            self.leave(place);
            return;
        }
        // A copy that the leader did not sign is as good as none: whoever needs the block asks the
        // others for theirs. The log may hold this one; a restart finds it bad as well.
        reach("unsigned-copy-dropped");
        self.leave(place);
        self.tree.remove(place);
        self.holds_unlinked = true;
        out.push(Effect::Forget { place });
    }

    /// The branch ends below a block that cannot be voted for.
    fn leave(&mut self, place: Place) {
        if !self.branch.holds(place) {
            return;
        }
        let below = Slot(place.slot.0 - 1);
        let lowered = self.recorded.slot >= place.slot && self.branch.holds(self.recorded);
        self.cut(below);
        if lowered {
            let parent = self.branch.place_at(below);
            self.recorded = parent.expect("cut at what is remembered");
        }
    }

    /// N3: keeps the deepest linked and the newest unlinked vote of each replica.
    pub(crate) fn on_vote(&mut self, from: NodeId, vote: BlockRef, signature: Signature) {
        if self.config.sign_votes {
            let BlockRef { view, slot, digest } = vote;
            let statement = Statement::Vote { view, slot, digest };
            // Its signature may be bad; whom it concerns, verifies it.
            let held = Held {
                statement,
                signature,
            };
            self.hold(from, held);
        }
        self.hear(from, vote, signature, true);
    }

    pub(crate) fn hear(&mut self, from: NodeId, said: BlockRef, signature: Signature, vote: bool) {
        if said.slot.0 > self.executed.0 + self.config.window() {
            return;
        }
        let books = &mut self.books;
        let Some(book) = books.iter_mut().find(|book| book.view == said.view) else {
            return;
        };
        let words = if vote {
            &mut book.votes
        } else {
            &mut book.commits
        };
        let place = Place {
            slot: said.slot,
            digest: said.digest,
        };
        let word = Word { place, signature };
        words[from.index()].hear(&self.branch, &self.tree, word);
        self.look_elsewhere = true;
    }

    /// Whether this replica takes part in the installed view at all (I2).
    pub(crate) fn is_active(&self) -> bool {
        let left = self.stage > self.installed && !planted("voteafter");
        !left && !self.is_silent() && !self.is_recalling() && self.started
    }

    /// Whether blocks may still become votes in the installed view.
    pub(crate) fn may_vote(&self) -> bool {
        let wishes = planted("wishstops") && self.wishing.is_wishing();
        self.is_active() && !self.voting_stopped && !wishes
    }

    /// Moves durable, valid, tip and voted as far as they go, then decides.
    pub(crate) fn advance(&mut self, now: Instant, out: &mut Outbox) {
        self.take_up_votes(out);
        self.extend();
        self.vote_if_due(now, out);
        self.commit_if_due(now, out);
        self.decide(now, out);
        self.jump_if_due(out);
    }

    /// R2: undecided blocks that were linked while they could not become votes (too far up, or
    /// before a jump) get their vote record once they can. Without this a replica that jumped under
    /// load would never vote again in its view: there is always a block between its tip and the top.
    fn take_up_votes(&mut self, out: &mut Outbox) {
        if !self.may_vote() || !self.base_is_linked() || !self.branch.holds(self.recorded) {
            return;
        }
        let reached =
            self.recorded.slot >= self.decided.slot && self.recorded.slot >= self.base.slot;
        let linked = self.recorded.slot < self.branch.top().slot;
        let limit = if reached && linked {
            self.claim_limit()
        } else {
            self.recorded.slot
        };
        while self.recorded.slot < limit {
            let next = self.branch.place_at(self.recorded.slot.next());
            let Some(entry) = next.and_then(|place| self.tree.get_mut(place)) else {
                return;
            };
            let place = entry.place();
            if entry.header.view() != self.installed {
                // N2: an older view's, which the base of a view that this replica missed brought in.
                return;
            }
            if entry.record == Some(RecordAs::Fetched) {
                if entry.end.is_none() || entry.validity == Validity::Invalid {
                    // Its first record has no place yet.
                    return;
                }
                (entry.record, entry.end) = (None, None);
                self.append(place, RecordAs::Vote, out);
                self.durable = self.durable.min(self.recorded.slot);
                self.backed = self.backed.min(self.recorded.slot);
            }
            self.recorded = place;
        }
    }

    fn extend(&mut self) {
        let (top, durable_position) = (self.branch.top().slot, self.durable_position);
        while self.durable < top {
            let next = self.branch.place_at(self.durable.next());
            let entry = next.and_then(|place| self.tree.get(place));
            let end = entry.and_then(|entry| entry.end);
            if end.is_none_or(|end| end > durable_position && !planted("votefirst")) {
                break;
            }
            self.durable = self.durable.next();
        }
        self.backed = self.backed.max(self.durable);
        while self.backed < top && !self.words_wait() {
            let next = self.branch.place_at(self.backed.next());
            let entry = next.and_then(|place| self.tree.get(place));
            if entry.is_none_or(|entry| entry.end.is_none()) {
                break;
            }
            self.backed = self.backed.next();
        }
        while self.valid < top {
            let next = self.branch.place_at(self.valid.next());
            let entry = next.and_then(|place| self.tree.get(place));
            let valid = entry.is_some_and(|entry| entry.validity == Validity::Valid);
            if !valid && self.valid >= self.decided.slot {
                break;
            }
            self.valid = self.valid.next();
        }
        // The tip is what the own log can be read to have voted for, as far as it is valid.
        let claimed = self.valid.min(self.recorded.slot);
        if claimed > self.tip.slot
            && self.branch.holds(self.recorded)
            && let Some(place) = self.branch.place_at(claimed)
        {
            self.tip = place;
        }
    }

    /// Blocks are taken in a little above the highest slot that is voted: when all replicas but the
    /// leader stand at their limit, the leader's last vote, which they need to move on, lies at
    /// most D above it. The base is voted for wherever it lies, for all below it is held; without
    /// that vote nobody might execute what stands between (N2).
    fn vote_limit(&self) -> Slot {
        let held = self.executed.0 + self.config.blocks_held_max - 2 * IN_FLIGHT;
        let held = held.max(self.base.slot.0);
        Slot(held.min(self.window_end().0)).min(self.leased_up_to())
    }

    fn vote_if_due(&mut self, now: Instant, out: &mut Outbox) {
        if !self.may_vote() || !self.base_is_linked() || !self.ground_is_durable() {
            return;
        }
        let base = self.base.slot;
        if !self.branch.holds(self.recorded) {
            return;
        }
        let due = self.backed.min(self.valid).min(self.recorded.slot);
        let due = due.min(self.vote_limit());
        // The base itself is voted for unless everyone has it already (N2).
        let news = due > base || due == base && base > self.low;
        if !news || due < base || self.voted.is_some_and(|voted| due <= voted) {
            return;
        }
        if due <= self.lease.forgotten {
            // It may have voted here before; slots of votes grow (I1).
            return;
        }
        let Some(place) = self.branch.place_at(due) else {
            // The next lease is not on the disk yet, and this one ends below a state that was taken
            // over: all that it allows is executed and forgotten (R3).
            assert!(due < self.branch.lowest(), "due blocks are on the branch");
            reach("lease-below-memory");
            return;
        };
        if due > base {
            let Some(entry) = self.tree.get(place) else {
                // Executed so long ago that another slot has taken its room.
                return;
            };
            assert_eq!(entry.header.view(), self.installed, "N2: a w-proper block");
            if entry.record != Some(RecordAs::Vote) {
                // Up to where the tip jumped, before or after a restart: nothing was voted there.
                return;
            }
            if !entry.signature_good {
                // A view change could not show it by the leader's signature.
                return;
            }
            let on_disk = |end| end <= self.durable_position || !self.words_wait();
            if !entry.end.is_some_and(on_disk) && !planted("votefirst") {
                // A state that was taken over needs no blocks, and a vote for its last one does (R2).
                reach("vote-waits-for-disk");
                return;
            }
        }
        assert!(due <= self.tip.slot, "§9.6: the fence covers every vote");
        // I1: each vote is a descendant of the one before, for both lie on the one branch.
        self.voted = Some(due);
        let (signed, word) = self.own_word(now, place, true);
        self.own_vote = Some(word);
        self.hear(self.config.me, word.block, word.signature, true);
        out.push(Effect::Say {
            to: Recipient::All,
            signed,
        });
    }

    fn own_word(&self, now: Instant, place: Place, vote: bool) -> (Signed, OwnWord) {
        let (view, slot, digest) = (self.installed, place.slot, place.digest);
        let statement = if vote {
            Statement::Vote { view, slot, digest }
        } else {
            Statement::Commit { view, slot, digest }
        };
        // Where votes are counted by their MAC and never shown to anyone, they need no signature.
        let signature = if vote && !self.config.sign_votes {
            Signature([0; 64])
        } else {
            self.signer.sign(&statement)
        };
        let word = OwnWord {
            block: BlockRef { view, slot, digest },
            signature,
            sent_at: now,
        };
        let by = self.config.me;
        let signed = Signed {
            by,
            statement,
            signature,
        };
        (signed, word)
    }

    /// N5: COMMIT for the deepest block of the own voted chain that q replicas voted for.
    fn commit_if_due(&mut self, now: Instant, out: &mut Outbox) {
        if !self.config.quorums.has_slow_path() || !self.may_vote() || !self.base_is_linked() {
            return;
        }
        let Some(voted) = self.voted.filter(|_| self.branch.holds(self.tip)) else {
            return;
        };
        let slow = self.config.quorums.slow();
        let installed = self.installed;
        let Some(book) = self.books.iter().find(|book| book.view == installed) else {
            return;
        };
        // Only words for blocks of the branch itself can be shown on one chain.
        let exact = book.votes.iter().filter(|words| words.exact.is_some());
        let reached = reached_by(slow, exact.map(|words| words.linked.0));
        // A tip that jumped may lie above the lease that is held (R3).
        let own = voted.min(self.tip.slot).min(self.leased_up_to());
        let slot = Slot(reached).min(if planted("commitoffchain") {
            Slot(u64::MAX)
        } else {
            own
        });
        let deeper = self.quorum.as_ref().is_none_or(|qc| slot > qc.block.slot);
        if !deeper || slot < self.base.slot || slot <= self.low {
            return;
        }
        // What is final here needs no COMMIT, but for others who cannot see that it is.
        if slot <= self.decided.slot && !(self.has_voted_for(slot) && self.is_open_elsewhere(slot))
        {
            return;
        }
        let votes = (0..).map(NodeId).zip(&book.votes);
        let votes = votes.filter_map(|(by, words)| {
            let above = words.linked.0.checked_sub(slot.0)?;
            let signature = words.exact?;
            (above <= CERTIFICATE_HEADERS_MAX as u64).then_some(CertifiedVote {
                by,
                above: above as u16,
                signature,
            })
        });
        let mut votes = votes.collect::<Vec<_>>();
        votes.sort_by_key(|vote| vote.above);
        votes.truncate(slow);
        if votes.len() < slow {
            return;
        }
        let above = votes.last().map_or(0, |vote| u64::from(vote.above));
        votes.sort_by_key(|vote| vote.by);
        let headers = (slot.0 + 1..=slot.0 + above).map(|slot| {
            let place = self.branch.place_at(Slot(slot));
            let entry = place.and_then(|place| self.tree.get(place));
            entry.map(|entry| CompactHeader::of(&entry.header))
        });
        let Some(above) = headers.collect::<Option<Vec<_>>>() else {
            return;
        };
        let block = self
            .branch
            .place_at(slot)
            .expect("the tip lies on the branch");
        let certificate = Arc::new(QuorumCertificate {
            view: installed,
            block,
            above,
            votes,
        });
        self.quorum = Some(Arc::clone(&certificate));
        let (signed, word) = self.own_word(now, block, false);
        self.record(
            Record::Commit(certificate),
            Spoken::Commit(signed, word),
            out,
        );
    }

    /// Whether a vote of this view covers the block of the branch at this slot: a jump does not.
    fn has_voted_for(&self, slot: Slot) -> bool {
        let voted = self.own_vote.map(|own| own.block);
        voted.is_some_and(|block| {
            let place = Place {
                slot: block.slot,
                digest: block.digest,
            };
            block.slot >= slot && self.branch.holds(place)
        })
    }

    /// Whether some replica of this view voted as far and has not decided it: a liar may have completed
    /// the votes here alone, and its silence must not keep q - 1 others waiting for this replica's COMMIT.
    fn is_open_elsewhere(&self, slot: Slot) -> bool {
        let statuses = self.peers.iter().filter_map(|peer| peer.status);
        let mut here = statuses.filter(|status| status.installed == self.installed);
        here.any(|status| status.committed < slot && status.voted_slot >= slot)
    }

    /// The COMMIT of the log counts and is repeated again: a deeper one may never come. Not where
    /// words may be forgotten (R3): all there is certified by the time this replica speaks.
    pub(crate) fn resume_commit(&mut self, now: Instant) {
        let Some(block) = self.quorum.as_ref().map(|quorum| quorum.block) else {
            return;
        };
        if self.is_active() && block.slot > self.lease.forgotten {
            let (_, word) = self.own_word(now, block, false);
            self.own_commit = Some(word);
            self.hear(self.config.me, word.block, word.signature, false);
        }
    }

    /// N2, skipping: a block of this view is final here and the own votes do not reach it: the tip
    /// jumps there without a vote.
    fn jump_if_due(&mut self, out: &mut Outbox) {
        let place = self.decided;
        if self.stage != self.installed || place.slot <= self.tip.slot || self.voting_stopped {
            return;
        }
        let reaches = self.branch.holds(self.recorded) && self.recorded.slot >= place.slot;
        if reaches || place.slot <= self.base.slot || !self.base_is_linked() {
            return;
        }
        if place.slot > self.window_end() {
            // N2: a tip above the window would make the next view change ill-formed. Execution of
            // what is decided moves the window soon.
            return;
        }
        let transferred = self.low == place.slot && self.tree.get(place).is_none();
        let view = if transferred {
            self.checkpoint.as_ref().map(|known| known.header.view())
        } else {
            self.tree.get(place).map(|entry| entry.header.view())
        };
        let quorum = self.quorum.as_ref().map(|quorum| quorum.block);
        // Below what the branch remembers nothing is provable: a state was taken over since.
        let off_quorum = quorum
            .is_some_and(|block| block.slot >= self.branch.lowest() && !self.branch.holds(block));
        let risky = self.jump_is_risky();
        let counted_here = self.decided_in == Some(self.installed);
        if view != Some(self.installed) || off_quorum || risky && !counted_here {
            self.voting_stopped = true;
            return;
        }
        let signed = self.tree.get(place).is_some_and(|e| e.signature_good);
        if !transferred && !signed {
            // A view change could not show it by the leader's signature: the next decided block that
            // bears one is jumped to, or the next view begins above it.
            return;
        }
        self.jump(place, out);
    }

    /// N2: with a slow path and u >= b + 2, a jump to a block that is not shown to descend from the
    /// own tip lets this replica vote on only if that block was decided in this very view. Where the
    /// tip's end may be forgotten (R3) nothing is shown.
    pub(crate) fn jump_is_risky(&self) -> bool {
        let shown = self.branch.holds(self.tip) && self.lease.forgetful_in != Some(self.installed);
        self.config.quorums.jumps_are_risky() && !shown
    }

    /// The tip goes to `place` without a vote; durable before any later vote or view change.
    pub(crate) fn jump(&mut self, place: Place, out: &mut Outbox) {
        let view = self.installed;
        reach("tip-jumps");
        self.ground_end = None;
        self.record(Record::Skip { view, place }, Spoken::Ground, out);
        (self.tip, self.recorded) = (place, place);
        self.voted = self.voted.max(Some(place.slot));
    }
}
