//! The state of one replica and the dispatch of inputs.

use std::collections::VecDeque;
use std::sync::Arc;

use wire::canary::planted;
use wire::certificates::{CheckpointCertificate, NewViewCertificate, Place, QuorumCertificate};
use wire::ids::{Boot, Digest, Epoch, Instant, NodeId, Position, Slot, View};
use wire::limits::{IN_FLIGHT, WINDOW};
use wire::messages::Durability;
use wire::seal::{Rules, Signed, Signer, Statement, Verified};

use crate::branch::Branch;
use crate::change::Change;
use crate::checkpoint::Statements;
use crate::input::{Effect, Input, NewViewRef, Outbox, ViewChangeRef};
use crate::lease::Lease;
use crate::pace::Pace;
use crate::peers::{OwnWord, Peer};
use crate::quorum::{Quorums, reached_by};
use crate::recall::Recall;
use crate::repair::Repair;
use crate::restart::Recovered;
use crate::signing::Noting;
use crate::speak::Spoken;
use crate::timers::Timers;
use crate::tree::Tree;
use crate::wish::{WishReason, Wishing};
use crate::words::Book;

/// Views whose words are kept (§11).
const BOOKS: usize = 3;

/// What does not change while the process runs.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub me: NodeId,
    pub quorums: Quorums,
    pub epoch: Epoch,
    /// Digest of slot 0.
    /// G_e: what the first block of the epoch stands on.
    pub genesis: Place,
    /// Count of process starts.
    pub boot: Boot,
    /// Blocks above the executed slot whose bytes the caller can hold.
    pub blocks_held_max: u64,
    /// K: slots between checkpoints.
    pub interval: u64,
    /// T_prog is never below this, in nanoseconds.
    pub patience_ns_min: u64,
    /// T4: wish for another leader when this one is slower than it could be.
    pub replaces_slow_leaders: bool,
    /// tau of N1: how long a request waits at the leader for others at most, in nanoseconds.
    pub batch_delay_ns: u64,
    /// Votes carry signatures; always so where COMMITs are sent.
    pub sign_votes: bool,
    /// A replica that is further behind a certified checkpoint takes the state over, in slots.
    pub transfer_beyond: u64,
    /// Which votes wait for the disk.
    pub durability: Durability,
}

impl Config {
    /// W: slots above the own stable checkpoint in which this replica votes.
    pub fn window(&self) -> u64 {
        2 * self.interval
    }
}

/// Where the replica stands, for gauges and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    pub view: View,
    /// Highest view entered; above `view` while views change.
    pub stage: View,
    pub leader: NodeId,
    pub linked: Slot,
    pub linked_digest: Digest,
    pub voted: Slot,
    pub decided: Slot,
    pub decided_digest: Digest,
    pub executed: Slot,
    /// Slot of the own stable checkpoint.
    pub low: Slot,
    /// The leader of the view is this replica, and it may not propose because it restarted (R4).
    pub barred: bool,
    /// Sends no vote any more in this view.
    pub voting_stopped: bool,
    /// Votes may leave up to this slot: the lease on the disk; zero without leases (R3).
    pub lease: Slot,
    /// Silent until a checkpoint at this slot, or above, is its own (R3).
    pub silent_until: Option<Slot>,
}

/// One replica's part in the agreement. See the crate documentation.
#[derive(Clone, Debug)]
pub struct Core<S: Signer> {
    pub(crate) config: Config,
    pub(crate) rules: Rules,
    pub(crate) signer: Noting<S>,
    /// Highest view entered, and highest installed.
    pub(crate) stage: View,
    pub(crate) installed: View,
    /// (epoch, stage) as durable when this process started; `None` on the first boot (R4).
    pub(crate) restarted_in: Option<(Epoch, View)>,
    pub(crate) tree: Tree,
    pub(crate) branch: Branch,
    /// Of the installed view.
    pub(crate) base: Place,
    pub(crate) certificate: Option<Arc<NewViewCertificate>>,
    /// End of the newest record on which votes of the installed view stand, INSTALL or SKIP, once
    /// all of them were written.
    pub(crate) ground_end: Option<Position>,
    /// End of the chain of block records in the installed view, and how far that chain is known to
    /// be valid: what a view change claims.
    pub(crate) recorded: Place,
    pub(crate) tip: Place,
    /// Deepest block of the installed view for which COMMIT was sent.
    pub(crate) quorum: Option<Arc<QuorumCertificate>>,
    /// Own record durable, and block valid, for every slot of the branch up to these.
    pub(crate) durable: Slot,
    pub(crate) valid: Slot,
    /// The same, or only written where a lease covers what may be lost (R3): what votes stand on.
    pub(crate) backed: Slot,
    /// Highest slot voted for, or skipped, in the installed view.
    pub(crate) voted: Option<Slot>,
    pub(crate) decided: Place,
    /// The view whose votes decided it, if they were counted here.
    pub(crate) decided_in: Option<View>,
    pub(crate) executed: Slot,
    /// Slot of the own stable checkpoint, its certificate, the newest certificate known, and the first
    /// one above the own state.
    pub(crate) low: Slot,
    pub(crate) checkpoint: Option<Arc<CheckpointCertificate>>,
    pub(crate) newest_checkpoint: Option<Arc<CheckpointCertificate>>,
    pub(crate) next_checkpoint: Option<Arc<CheckpointCertificate>>,
    pub(crate) statements: Statements,
    /// Own states that are not said yet, ascending.
    pub(crate) roots: VecDeque<(Slot, Digest)>,
    /// Lowest slot whose block can still be sent to others.
    pub(crate) retained_from: Slot,
    /// A of G1, once it is known, and since when: no block above it is valid in this epoch.
    pub(crate) epoch_end: Option<(Slot, Instant)>,
    /// A state that is being taken over.
    pub(crate) transferring: Option<Slot>,
    /// A block that is final though it is not on the branch.
    pub(crate) final_place: Option<Place>,
    pub(crate) durable_position: Position,
    /// No vote any more in this view: the own branch is proven wrong, or held an invalid block.
    pub(crate) voting_stopped: bool,
    pub(crate) lease: Lease,
    /// The own state differs from a certified one (K3): nothing may be read from it.
    pub(crate) diverged: bool,
    /// Whether others know more of this replica than its log does (R6).
    pub(crate) recall: Recall,
    /// The START record of this process is durable (R4); nothing is said before.
    pub(crate) started: bool,
    /// The process is about to end: the leader hands over.
    pub(crate) stopping: bool,
    /// The log takes no more blocks.
    pub(crate) log_full: bool,
    /// Words or blocks came since [`Core::find_final_elsewhere`] last looked.
    pub(crate) look_elsewhere: bool,
    /// Of the input that is being handled.
    pub(crate) now: Instant,
    /// A block without its parent is held.
    pub(crate) holds_unlinked: bool,
    pub(crate) own_vote: Option<OwnWord>,
    pub(crate) own_commit: Option<OwnWord>,
    /// What was said in the installed view, the one before, and the one being entered.
    pub(crate) books: Vec<Book>,
    pub(crate) peers: Vec<Peer>,
    pub(crate) repair: Repair,
    pub(crate) timers: Timers,
    /// How the leader serves what waits here (T4).
    pub(crate) pace: Pace,
    /// When the oldest request that is pending at this replica became so (T1).
    pub(crate) pending_since: Option<Instant>,
    /// A request was not executed in time (T2).
    pub(crate) request_overdue: bool,
    pub(crate) wishing: Wishing,
    pub(crate) change: Option<Change>,
    pub(crate) view_changes: Vec<ViewChangeRef>,
    pub(crate) new_views: Vec<NewViewRef>,
    pub(crate) acks: Vec<Verified<Signed>>,
    /// Newest view whose leader is known to have lied.
    pub(crate) accused: Option<View>,
    /// Messages whose records have no place in the log yet, and those that wait for it.
    pub(crate) unplaced: VecDeque<Spoken>,
    pub(crate) awaiting: VecDeque<(Position, Spoken)>,
}

impl<S: Signer> Core<S> {
    /// The replica as its log left it.
    pub fn new(config: Config, signer: S, recovered: Recovered, now: Instant) -> Core<S> {
        assert!(
            config.me.index() < config.quorums.n,
            "a member of the committee"
        );
        assert!(config.blocks_held_max >= 4 * IN_FLIGHT);
        assert!(config.interval >= 2 && config.window() <= WINDOW);
        assert!(config.sign_votes || !config.quorums.has_slow_path());
        crate::restart::restore(config, signer, recovered, now)
    }

    /// What compound messages of others are measured by.
    pub fn rules(config: &Config) -> Rules {
        Rules {
            n: config.quorums.n,
            slow: config.quorums.slow(),
            view_change: config.quorums.view_change(),
            window: config.window(),
            epoch: config.epoch,
            genesis: config.genesis,
        }
    }

    /// leader(v) = v mod n.
    pub fn leader(&self, view: View) -> NodeId {
        self.rules.leader(view)
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn signer(&self) -> &S {
        &self.signer.inner
    }

    pub fn summary(&self) -> Summary {
        let leader = self.leader(self.installed);
        let top = self.branch.top();
        Summary {
            view: self.installed,
            stage: self.stage,
            leader,
            linked: top.slot,
            linked_digest: top.digest,
            voted: self.voted.unwrap_or(self.base.slot),
            decided: self.decided.slot,
            decided_digest: self.decided.digest,
            executed: self.executed,
            low: self.low,
            barred: leader == self.config.me && !self.may_lead(),
            voting_stopped: self.voting_stopped,
            lease: self.lease.held,
            silent_until: self.silent_until(),
        }
    }

    /// Digest of the block at `slot` on the branch, while the core remembers it.
    pub fn digest_at(&self, slot: Slot) -> Option<Digest> {
        self.branch.digest_at(slot)
    }

    /// The block of the deepest own COMMIT of the installed view, sent or about to be.
    pub fn committing(&self) -> Option<Place> {
        self.quorum.as_ref().map(|quorum| quorum.block)
    }

    /// The block that a view change of this moment would claim.
    pub fn tip(&self) -> Place {
        self.tip
    }

    /// The fence of §9.6: no vote of this replica, in any view, was for a block of a higher slot that
    /// was ever decided, so a state at this slot holds every write and read that completed with its
    /// vote. `None` while this replica answers no fenced read: it has not started (R4), is silent
    /// (R3), or knows that its state is wrong (K3).
    ///
    /// The tip covers the votes of the installed view before they are sent; those of earlier views
    /// by theorem T, for the tip never lies below the base. What is decided here needs no fence, but
    /// costs nothing: it is executed soon. Votes that may be forgotten lie below their lease (R3).
    pub fn fence(&self) -> Option<Slot> {
        let answers = self.started && !self.is_silent() && !self.diverged && !self.is_recalling();
        let voted = self.tip.slot.max(self.lease.forgotten);
        answers.then_some(voted.max(self.decided.slot))
    }

    /// Messages of view changes that are kept; a bound on what liars can make grow.
    pub fn change_messages(&self) -> usize {
        self.view_changes.len() + self.new_views.len() + self.acks.len()
    }

    /// Members of the committee.
    pub fn replicas(&self) -> usize {
        self.peers.len()
    }

    /// When the last word of a replica came.
    pub fn heard_at(&self, peer: NodeId) -> Option<Instant> {
        self.peers[peer.index()].heard_at
    }

    /// Committed slot in the last STATUS of a replica.
    pub fn committed_by(&self, peer: NodeId) -> Slot {
        self.peers[peer.index()]
            .status
            .map_or(Slot(0), |status| status.committed)
    }

    /// The caller's log refuses, or takes again, new blocks.
    pub fn set_log_full(&mut self, full: bool) {
        self.log_full = full;
    }

    /// Whether the START record of this process is durable: until then the replica neither votes
    /// nor speaks (R4).
    pub fn set_started(&mut self, started: bool) {
        self.started = started;
    }

    /// The process is about to end: the leader resigns (Y5).
    pub fn set_stopping(&mut self) {
        self.stopping = true;
    }

    /// Since when the oldest request waits here, and whether one waits too long (T1, T2).
    pub fn set_pending(&mut self, since: Option<Instant>, overdue: bool) {
        (self.pending_since, self.request_overdue) = (since, overdue);
    }

    /// Lowest slot whose block the caller can still send.
    pub fn set_retained_from(&mut self, slot: Slot) {
        self.retained_from = slot;
    }

    /// low + W, or the end of the epoch: the last slot in which this replica votes.
    pub(crate) fn window_end(&self) -> Slot {
        let windows = if planted("farvote") { 2 } else { 1 };
        let end = Slot(self.low.0 + windows * self.config.window());
        self.last_slot().map_or(end, |last| end.min(last))
    }

    /// The last slot whose blocks are recorded as votes. What is recorded is claimed in a view change,
    /// may be the base of the next view, and must be held by all then: others may hold blocks up to
    /// `blocks_held_max` above what they executed. Of the q replicas that say they have decided something
    /// q - u, b + 1 or more, are correct and up, and so everyone learns it (N7); half of the room is for
    /// what a restart forgets of that.
    /// Without this limit a leader that shows one replica alone that a block is decided, and then many
    /// more blocks, would leave a base that the others cannot hold.
    pub(crate) fn claim_limit(&self) -> Slot {
        let me = self.config.me.index();
        let decided = self.peers.iter().enumerate().map(|(index, peer)| {
            let said = peer.status.map_or(0, |status| status.committed.0);
            if index == me {
                self.decided.slot.0
            } else {
                said
            }
        });
        let common = reached_by(self.config.quorums.slow(), decided);
        let limit = common.saturating_add(self.config.blocks_held_max / 2);
        Slot(limit.max(self.base.slot.0).min(self.window_end().0))
    }

    /// Lowest slot whose block can still be sent to others.
    pub fn retained_from(&self) -> Slot {
        self.retained_from
    }

    /// Whether a state is being taken over.
    pub fn is_transferring(&self) -> bool {
        self.transferring.is_some()
    }

    /// Wishes for other views so far, in the order of [`crate::WishReason::ALL`].
    pub fn wishes(&self) -> [u64; WishReason::ALL.len()] {
        self.wishing.counts
    }

    /// Certificate of the own stable checkpoint.
    pub fn checkpoint(&self) -> Option<&Arc<CheckpointCertificate>> {
        self.checkpoint.as_ref()
    }

    /// T_prog: how long the leader may take, in nanoseconds.
    pub fn progress_ns(&self) -> u64 {
        self.timers.progress_ns()
    }

    pub(crate) fn ground_is_durable(&self) -> bool {
        self.ground_end
            .is_some_and(|end| end <= self.durable_position)
    }

    /// Opens a book for `view`; the one that is needed least makes room.
    pub(crate) fn open_book(&mut self, view: View) {
        if self.books.iter().any(|book| book.view == view) {
            return;
        }
        let (installed, n) = (self.installed, self.config.quorums.n);
        if self.books.len() < BOOKS {
            self.books.push(Book::new(view, n));
            return;
        }
        let closed = self.books.iter_mut().filter(|book| book.view != installed);
        let closed = closed.min_by_key(|book| book.view);
        closed.expect("three books for two views").reopen(view);
    }

    /// Takes one input in and leaves its effects in `out`.
    pub fn handle(&mut self, now: Instant, input: Input, out: &mut Outbox) {
        if let Some(from) = input.sender() {
            if from.index() >= self.peers.len() || from == self.config.me {
                return;
            }
            self.peers[from.index()].heard_at = Some(now);
        }
        self.now = now;
        self.dispatch(now, input, out);
        self.recall_if_due(now);
        self.speak(out);
        self.gather_checkpoint(out);
        self.find_final_elsewhere();
        if self.sought().is_some() {
            self.pursue_goal(out);
        }
        self.advance(now, out);
        self.say_roots(out);
        self.move_window(out);
        self.tend_lease(now, out);
        if self.started {
            self.wish_if_due(now, out);
            self.pursue_view(now, out);
            self.repair_when_due(now, out);
        }
        self.check_invariants();
    }

    fn dispatch(&mut self, now: Instant, input: Input, out: &mut Outbox) {
        match input {
            Input::Block {
                from,
                source,
                header,
                signature,
                digest,
            } => self.on_block(now, from, source, header, signature, digest, out),
            Input::Own {
                header,
                signature,
                digest,
            } => self.on_own(now, header, signature, digest, out),
            Input::Unsound { signed } => self.on_unsound(now, signed, out),
            Input::Checked {
                place,
                signature,
                found,
            } => self.on_checked(place, signature, found, out),
            Input::Appended { place, end } => self.on_appended(place, end),
            Input::Recorded { end } => self.on_recorded(end, out),
            Input::Durable { position } => self.on_durable(position),
            Input::Vote {
                from,
                vote,
                signature,
            } => self.on_vote(from, vote, signature),
            Input::Signed(signed) => self.on_signed(now, signed),
            Input::Decided { from, slot, digest } => self.on_decided(from, slot, digest),
            Input::Status { from, status } => self.on_status(now, from, status, out),
            Input::Silent { from, lease } => {
                self.peers[from.index()].silent_until = Some(lease);
            }
            Input::ViewChange(message) => self.on_view_change(message),
            Input::NewView(message) => self.on_new_view(message),
            Input::WishCertificate(found) => self.on_wish_certificate(now, *found, out),
            Input::NewViewCertificate(found) => self.on_new_view_certificate(now, *found, out),
            Input::CheckpointCertificate(found) => self.adopt_checkpoint(found.into_inner(), out),
            Input::Evidence { view } => {
                if (self.installed..=self.stage).contains(&view) {
                    self.accused = self.accused.max(Some(view));
                }
            }
            Input::FetchBlock {
                from,
                place,
                have,
                grains,
            } => self.on_fetch_block(now, from, place, have, grains, out),
            Input::FetchRange { from, first, count } => {
                self.on_fetch_range(now, from, first, count, out);
            }
            Input::FetchViewChange { from, digest } => {
                self.on_fetch_view_change(now, from, digest, out);
            }
            Input::Executed { slot } => {
                assert!(
                    slot >= self.executed && slot <= self.decided.slot,
                    "execution follows decisions"
                );
                self.executed = slot;
                // Blocks were faster than the state.
                self.transferring = self.transferring.filter(|wanted| *wanted > slot);
            }
            Input::Root { slot, root } => self.on_root(slot, root),
            Input::Installed { certificate } => self.on_installed_state(*certificate, out),
            Input::Tick => {}
        }
    }

    fn on_signed(&mut self, now: Instant, signed: Verified<Signed>) {
        let by = signed.by;
        self.hold(by, signed.held());
        match signed.statement {
            Statement::Commit { view, slot, digest } => {
                let block = wire::block::BlockRef { view, slot, digest };
                self.hear(by, block, signed.signature, false);
            }
            Statement::Wish {
                view,
                boot,
                counter,
            } => self.on_wish(now, by, view, (boot, counter), signed.signature),
            Statement::Resign { view } => self.on_resign(by, view),
            Statement::NewViewAck { .. } => self.on_ack(signed),
            Statement::Checkpoint { .. } => self.on_checkpoint(signed),
            // Each has a message of its own.
            Statement::Propose { .. }
            | Statement::Vote { .. }
            | Statement::ViewChange { .. }
            | Statement::NewView { .. } => {}
        }
    }

    /// When [`Input::Tick`] is due at the latest.
    pub fn wake_at(&self) -> Instant {
        self.repair_wake_at()
            .min(self.wish_wake_at())
            .min(self.change_wake_at())
            .min(self.recall_wake_at())
    }

    /// I1-I7 in this crate's terms; always on.
    fn check_invariants(&self) {
        let top = self.branch.top().slot;
        assert!(self.installed <= self.stage, "I6");
        assert!(
            self.decided.slot <= top,
            "I7: what is decided is on the branch"
        );
        assert!(self.executed <= self.decided.slot && self.low <= self.executed);
        assert!(self.durable <= top && self.valid <= top);
        assert!(self.durable <= self.backed && self.backed <= top);
        assert!(self.tip.slot <= self.recorded.slot, "I3");
        assert!(self.change.is_some() == (self.stage > self.installed), "I6");
        if let Some(own) = &self.own_vote {
            assert!(own.block.view == self.installed, "I2");
            assert!(Some(own.block.slot) <= self.voted, "I1");
            assert!(!self.is_silent(), "I2");
            assert!(own.block.slot <= self.leased_up_to(), "I3");
        }
    }
}

impl Input {
    fn sender(&self) -> Option<NodeId> {
        match *self {
            Input::Block { from, .. }
            | Input::Vote { from, .. }
            | Input::Decided { from, .. }
            | Input::Status { from, .. }
            | Input::Silent { from, .. }
            | Input::FetchBlock { from, .. }
            | Input::FetchRange { from, .. }
            | Input::FetchViewChange { from, .. } => Some(from),
            Input::Signed(ref signed) => Some(signed.by),
            _ => None,
        }
    }
}

impl Effect {
    /// Whether the effect offers this block a home.
    pub fn keeps(&self, offered: Place) -> bool {
        matches!(*self, Effect::Append { place, .. } | Effect::Hold { place, .. } if place == offered)
    }
}
