//! N1: when, and on what, the leader may propose; and how proposals are taken in.

use wire::block::BlockHeader;
use wire::ids::{Digest, Instant, NodeId, Signature, Slot};
use wire::limits::{IN_FLIGHT, WINDOW};
use wire::messages::{EVIDENCE_EQUIVOCATION, EVIDENCE_IMPROPER, SignedHeader};
use wire::reject::Reject;

use crate::chain::{Entry, Validity};
use crate::core::Core;
use crate::input::{Effect, Evidence, Outbox, Source};

impl Core {
    /// R4: a replica never proposes in (epoch, view) <= the pair in which it restarted.
    pub(crate) fn may_lead(&self) -> bool {
        self.leader(self.installed) == self.config.me
            && self.stage == self.installed
            && self
                .restarted_in
                .is_none_or(|then| (self.config.epoch, self.installed) > then)
    }

    /// Slot and parent of the next own proposal, when one may be sent now.
    pub fn proposal_parent(&self) -> Option<(Slot, Digest)> {
        let next = self.chain.linked.next();
        let limit = WINDOW.min(self.config.blocks_held_max) - 2 * IN_FLIGHT;
        let room = next.0 <= self.executed.0 + limit && self.undecided() < IN_FLIGHT;
        (room && self.may_lead() && !self.log_full && !self.voting_stopped)
            .then_some((next, self.chain.linked_digest))
    }

    /// Blocks of the chain that are not decided.
    pub fn undecided(&self) -> u64 {
        self.chain.linked.0 - self.decided.0
    }

    pub(crate) fn on_own(
        &mut self,
        now: Instant,
        header: BlockHeader,
        signature: Signature,
        digest: Digest,
        out: &mut Outbox,
    ) {
        let parent = self
            .proposal_parent()
            .expect("I9: proposes only when it may");
        assert_eq!((header.slot(), header.parent), parent, "I9: one chain");
        assert_eq!(
            (header.view(), header.epoch()),
            (self.installed, self.config.epoch)
        );
        let entry = Entry {
            header,
            signature,
            digest,
            validity: Validity::Valid,
            end: None,
            seen_at: now,
        };
        self.chain.insert(header.slot(), entry);
        self.chain.link_next();
        out.push(Effect::Append {
            slot: header.slot(),
            digest,
            verify: false,
        });
    }

    /// A block of another replica: link it, hold it, or refuse it with a reason.
    pub(crate) fn on_block(
        &mut self,
        now: Instant,
        from: NodeId,
        source: Source,
        header: BlockHeader,
        signature: Signature,
        digest: Digest,
        out: &mut Outbox,
    ) {
        let slot = header.slot();
        if let Err(reject) = self.admissible(from, source, &header) {
            out.push(Effect::Refuse { slot, reject });
            return;
        }
        let validity = match source {
            Source::Proposed => Validity::Unknown,
            Source::Fetched => Validity::Valid,
        };
        let entry = Entry {
            header,
            signature,
            digest,
            validity,
            end: None,
            seen_at: now,
        };
        if let Some(held) = self.chain.get(slot).copied() {
            let reject = if held.digest == digest {
                Reject::AlreadyHeld
            } else {
                self.accuse(EVIDENCE_EQUIVOCATION, entry.signed(), held.signed(), out);
                Reject::ConflictingBlock
            };
            // A verified copy may replace a held one that nobody verified and that does not link.
            let replace = reject == Reject::ConflictingBlock
                && slot > self.chain.linked
                && validity == Validity::Valid;
            if !replace {
                out.push(Effect::Refuse { slot, reject });
                return;
            }
            self.chain.remove(slot);
            out.push(Effect::Forget { slot });
        }
        if slot == self.chain.linked.next() && header.parent != self.chain.linked_digest {
            if let Some(parent) = self.chain.get(self.chain.linked).copied() {
                self.accuse(EVIDENCE_IMPROPER, entry.signed(), parent.signed(), out);
            }
            out.push(Effect::Refuse {
                slot,
                reject: Reject::Improper,
            });
            return;
        }
        self.chain.insert(slot, entry);
        if slot == self.chain.linked.next() {
            self.link_all(out);
        } else {
            self.holds_unlinked = true;
            out.push(Effect::Hold { slot, digest });
        }
    }

    fn admissible(&self, from: NodeId, source: Source, header: &BlockHeader) -> Result<(), Reject> {
        if header.epoch() != self.config.epoch {
            return Err(Reject::WrongEpoch);
        }
        // Until views change there is one view; later, blocks of older ones are learned as well.
        if header.view() != self.installed {
            return Err(Reject::WrongView);
        }
        let leader = self.leader(header.view());
        if source == Source::Proposed && (leader == self.config.me || from != leader) {
            return Err(Reject::NotLeader);
        }
        let slot = header.slot();
        if slot <= self.decided {
            return Err(Reject::AlreadyHeld);
        }
        if slot.0 > self.executed.0 + WINDOW.min(self.config.blocks_held_max) {
            return Err(Reject::OutsideWindow);
        }
        if self.log_full {
            return Err(Reject::QueueFull);
        }
        Ok(())
    }

    /// Links every held block that now has its parent, in order.
    fn link_all(&mut self, out: &mut Outbox) {
        while let Some(entry) = self.chain.get(self.chain.linked.next()).copied() {
            let slot = entry.header.slot();
            if entry.header.parent != self.chain.linked_digest {
                if let Some(parent) = self.chain.get(self.chain.linked).copied() {
                    self.accuse(EVIDENCE_IMPROPER, entry.signed(), parent.signed(), out);
                }
                self.chain.remove(slot);
                out.push(Effect::Forget { slot });
                return;
            }
            self.chain.link_next();
            let verify = entry.validity == Validity::Unknown;
            out.push(Effect::Append {
                slot,
                digest: entry.digest,
                verify,
            });
        }
        let above = (self.chain.linked.0 + 2..=self.chain.linked.0 + 2 * IN_FLIGHT).map(Slot);
        self.holds_unlinked =
            self.holds_unlinked && above.into_iter().any(|slot| self.chain.get(slot).is_some());
        for peer in &mut self.peers {
            peer.votes.relink(&self.chain);
            peer.claims.relink(&self.chain);
        }
    }

    /// N9: hands out two leader-signed headers that contradict each other, once per view. The
    /// caller verifies both signatures before it stores them.
    pub(crate) fn accuse(
        &mut self,
        kind: u8,
        first: SignedHeader,
        second: SignedHeader,
        out: &mut Outbox,
    ) {
        if self.accused != Some(self.installed) {
            out.push(Effect::Evidence(Evidence {
                kind,
                first,
                second,
            }));
        }
    }

    /// The caller verified and stored evidence against the leader of the installed view.
    pub fn evidence_stored(&mut self) {
        self.accused = Some(self.installed);
    }
}
