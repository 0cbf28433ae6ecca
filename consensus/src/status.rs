//! §11: STATUS: what a replica tells the others of itself, and what they give to one that lags behind.

use std::sync::Arc;

use wire::certificates::Place;
use wire::ids::{Digest, Instant, NodeId, Slot};
use wire::messages::{STATUS_HELLO, STATUS_LOG_FULL, STATUS_SILENT, Status};
use wire::seal::{Signed, Signer, Statement};

use crate::core::Core;
use crate::input::{Effect, Large, Outbox, Recipient};
use crate::peers::{OwnWord, Peer};
use crate::repair::STATUS_ACTIVE_NS;

impl<S: Signer> Core<S> {
    /// Asks every replica to answer with its STATUS: sent until each was heard once.
    fn hello(&self) -> u32 {
        let me = self.config.me.index();
        let silent = |(id, peer): (usize, &Peer)| id != me && peer.status.is_none();
        if self.peers.iter().enumerate().any(silent) {
            STATUS_HELLO
        } else {
            0
        }
    }

    /// What a replica is told: with it the highest of its own statements that was heard here (R6).
    pub(crate) fn status_to(&self, to: NodeId) -> Status {
        Status {
            held: self.peers[to.index()].held,
            ..self.status()
        }
    }

    fn status(&self) -> Status {
        let voted = self.own_vote.map(|own| own.block);
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let state = flag(self.log_full, STATUS_LOG_FULL) | flag(self.is_silent(), STATUS_SILENT);
        Status {
            stage: self.stage,
            installed: self.installed,
            committed: self.decided.slot,
            committed_digest: self.decided.digest,
            voted_slot: voted.map_or(Slot(0), |block| block.slot),
            voted_digest: voted.map_or(Digest::ZERO, |block| block.digest),
            checkpoint: self.low,
            retained_from: self.retained_from,
            lease: self.silent_until().unwrap_or(self.lease.held),
            held: None,
            flags: self.hello() | state,
        }
    }

    pub(crate) fn on_status(
        &mut self,
        now: Instant,
        from: NodeId,
        status: Status,
        out: &mut Outbox,
    ) {
        let peer = &mut self.peers[from.index()];
        (peer.status, peer.silent_until) = (Some(status), status.silent_until());
        let committed = Place {
            slot: status.committed,
            digest: status.committed_digest,
        };
        if committed.slot > self.peers[from.index()].claims.linked && self.branch.holds(committed) {
            self.on_decided(from, committed.slot, committed.digest);
        }
        if status.installed == self.installed {
            self.repeat_words(now, from, &status, out);
        }
        if status.committed < self.decided.slot && status.voted_slot >= self.decided.slot {
            // It holds the blocks and lacks votes: b + 1 of these claims decide there.
            let slot = self.decided.slot;
            out.push(Effect::Decided { to: from, slot });
        }
        self.help(now, from, &status, out);
        if status.flags & STATUS_HELLO != 0 {
            let status = self.status_to(from);
            let answer = Status {
                flags: status.flags & !STATUS_HELLO,
                ..status
            };
            out.push(Effect::Status {
                to: Recipient::One(from),
                status: answer,
            });
        }
    }

    /// Votes are cumulative: the deepest one, in one datagram, closes any gap.
    fn repeat_words(&mut self, now: Instant, from: NodeId, status: &Status, out: &mut Outbox) {
        let Some(voted) = self.own_vote else { return };
        let rto_ns = self.repair.rto_ns();
        let peer = &mut self.peers[from.index()];
        let due = now.since_ns(voted.sent_at) >= rto_ns
            && peer
                .vote_resent_at
                .is_none_or(|at| now.since_ns(at) >= rto_ns);
        if status.committed >= voted.block.slot || !due {
            return;
        }
        peer.vote_resent_at = Some(now);
        let to = Recipient::One(from);
        let own = |word: OwnWord, vote: bool| {
            let wire::block::BlockRef { view, slot, digest } = word.block;
            Signed {
                by: self.config.me,
                statement: if vote {
                    Statement::Vote { view, slot, digest }
                } else {
                    Statement::Commit { view, slot, digest }
                },
                signature: word.signature,
            }
        };
        let signed = own(voted, true);
        out.push(Effect::Say { to, signed });
        if let Some(commit) = self.own_commit {
            let signed = own(commit, false);
            out.push(Effect::Say { to, signed });
        }
    }

    /// Certificates for a replica that lags behind in views or checkpoints.
    fn help(&mut self, now: Instant, from: NodeId, status: &Status, out: &mut Outbox) {
        let rto_ns = self.repair.rto_ns().max(STATUS_ACTIVE_NS);
        let to = Recipient::One(from);
        let peer = &mut self.peers[from.index()];
        let due = peer.helped_at.is_none_or(|at| now.since_ns(at) >= rto_ns);
        let behind = status.installed < self.installed
            || status.stage < self.stage
            || status.checkpoint < self.low
            || status.committed == self.executed && self.executed > self.low;
        if !due || !behind {
            return;
        }
        peer.helped_at = Some(now);
        if status.installed < self.installed
            && let Some(certificate) = &self.certificate
        {
            let message = Large::NewViewCertificate(Arc::clone(certificate));
            out.push(Effect::Tell { to, message });
        }
        if status.stage < self.stage
            && self.stage > self.installed
            && let Some(certificate) = &self.wishing.certificate
        {
            let message = Large::WishCertificate(Arc::clone(certificate));
            out.push(Effect::Tell { to, message });
        }
        if status.checkpoint < self.low
            && let Some(certificate) = &self.checkpoint
        {
            let message = Large::CheckpointCertificate(Arc::clone(certificate));
            out.push(Effect::Tell { to, message });
        }
        self.repeat_checkpoints(from, status.checkpoint.max(self.low), out);
    }
}
