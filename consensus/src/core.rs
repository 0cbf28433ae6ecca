//! The state of one replica and the dispatch of inputs.

use wire::ids::{Digest, Epoch, Instant, NodeId, Position, Slot, View};
use wire::limits::{IN_FLIGHT, WINDOW};

use crate::chain::Chain;
use crate::input::{Effect, Input, Outbox};
use crate::peers::{OwnVote, Peer};
use crate::quorum::Quorums;
use crate::repair::Repair;
use crate::restart::Recovered;

/// What does not change while the process runs.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub me: NodeId,
    pub quorums: Quorums,
    pub epoch: Epoch,
    /// Digest of slot 0.
    pub genesis: Digest,
    /// Blocks above the executed slot whose bytes the caller can hold.
    pub blocks_held_max: u64,
}

/// Where the replica stands, for gauges and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    pub view: View,
    pub leader: NodeId,
    pub linked: Slot,
    pub linked_digest: Digest,
    pub voted: Slot,
    pub decided: Slot,
    pub decided_digest: Digest,
    pub executed: Slot,
    /// The leader of the view is this replica, and it may not propose because it restarted (R4).
    pub barred: bool,
    /// Sends no vote any more in this view.
    pub voting_stopped: bool,
}

/// One replica's part in the agreement. See the crate documentation.
#[derive(Debug)]
pub struct Core {
    pub(crate) config: Config,
    /// Highest view entered, and highest installed; equal until views can change.
    pub(crate) stage: View,
    pub(crate) installed: View,
    /// (epoch, stage) as durable when this process started; `None` on the first boot (R4).
    pub(crate) restarted_in: Option<(Epoch, View)>,
    pub(crate) chain: Chain,
    /// Own record durable, and block valid, for every slot up to these.
    pub(crate) durable: Slot,
    pub(crate) valid: Slot,
    pub(crate) voted: Slot,
    pub(crate) decided: Slot,
    pub(crate) decided_digest: Digest,
    pub(crate) executed: Slot,
    pub(crate) durable_position: Position,
    /// No vote any more in this view: the own branch is proven wrong, or held an invalid block.
    pub(crate) voting_stopped: bool,
    /// The log takes no more blocks.
    pub(crate) log_full: bool,
    /// A block without its parent is held.
    pub(crate) holds_unlinked: bool,
    pub(crate) own_vote: Option<OwnVote>,
    pub(crate) peers: Vec<Peer>,
    pub(crate) repair: Repair,
    /// Views in which evidence was emitted; one each.
    pub(crate) accused: Option<View>,
}

impl Core {
    /// The replica as its log left it.
    pub fn new(config: Config, recovered: Recovered, now: Instant) -> Core {
        assert!(
            config.me.index() < config.quorums.n,
            "a member of the committee"
        );
        assert!((4 * IN_FLIGHT..=WINDOW).contains(&config.blocks_held_max));
        crate::restart::restore(config, recovered, now)
    }

    /// leader(v) = v mod n.
    pub fn leader(&self, view: View) -> NodeId {
        NodeId((view.0 % self.config.quorums.n as u64) as u16)
    }

    pub fn summary(&self) -> Summary {
        let leader = self.leader(self.installed);
        Summary {
            view: self.installed,
            leader,
            linked: self.chain.linked,
            linked_digest: self.chain.linked_digest,
            voted: self.voted,
            decided: self.decided,
            decided_digest: self.decided_digest,
            executed: self.executed,
            barred: leader == self.config.me && !self.may_lead(),
            voting_stopped: self.voting_stopped,
        }
    }

    /// Digest of the block at `slot` on the chain, while the core remembers it.
    pub fn digest_at(&self, slot: Slot) -> Option<Digest> {
        self.chain.linked_digest_at(slot)
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

    /// Takes one input in and leaves its effects in `out`.
    pub fn handle(&mut self, now: Instant, input: Input, out: &mut Outbox) {
        if let Some(from) = input.sender() {
            if from.index() >= self.peers.len() || from == self.config.me {
                return;
            }
            self.peers[from.index()].heard_at = Some(now);
        }
        match input {
            Input::Block {
                from,
                source,
                header,
                signature,
                digest,
            } => {
                self.on_block(now, from, source, header, signature, digest, out);
            }
            Input::Own {
                header,
                signature,
                digest,
            } => {
                self.on_own(now, header, signature, digest, out);
            }
            Input::Checked {
                slot,
                digest,
                valid,
            } => self.on_checked(slot, digest, valid, out),
            Input::Appended { slot, end } => self.on_appended(slot, end),
            Input::Durable { position } => {
                assert!(
                    position >= self.durable_position,
                    "durability never shrinks"
                );
                self.durable_position = position;
            }
            Input::Vote { from, vote } => self.on_vote(from, vote),
            Input::Decided { from, slot, digest } => self.on_decided(from, slot, digest, out),
            Input::Status { from, view, status } => self.on_status(now, from, view, status, out),
            Input::FetchBlock {
                from,
                slot,
                digest,
                have,
                grains,
            } => {
                self.on_fetch_block(now, from, slot, digest, have, grains, out);
            }
            Input::FetchRange { from, first, count } => {
                self.on_fetch_range(now, from, first, count, out);
            }
            Input::Executed { slot } => {
                assert!(
                    slot >= self.executed && slot <= self.decided,
                    "execution follows decisions"
                );
                self.executed = slot;
            }
            Input::Tick => {}
        }
        self.advance(now, out);
        self.repair_when_due(now, out);
        self.check_invariants();
    }

    /// I1, I3, I6, I7 in this crate's terms; always on.
    fn check_invariants(&self) {
        assert!(self.installed <= self.stage, "I6");
        assert!(
            self.decided <= self.chain.linked,
            "I7: what is decided is held by header"
        );
        assert!(self.executed <= self.decided);
        assert!(self.durable <= self.chain.linked && self.valid <= self.chain.linked);
        if let Some(own) = &self.own_vote {
            assert!(own.vote.slot <= self.voted, "I1");
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
            | Input::FetchBlock { from, .. }
            | Input::FetchRange { from, .. } => Some(from),
            _ => None,
        }
    }
}

impl Effect {
    /// Whether the effect offers the block of this slot a home.
    pub fn keeps(&self, slot: Slot) -> bool {
        matches!(*self, Effect::Append { slot: at, .. } | Effect::Hold { slot: at, .. } if at == slot)
    }
}
