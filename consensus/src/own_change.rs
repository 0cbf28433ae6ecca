//! The own view change: what this replica tells of its votes when it leaves a view (V1).

use std::sync::Arc;

use wire::canary::reach;
use wire::certificates::{CompactHeader, Place};
use wire::ids::{Signature, View};
use wire::seal::{CheckedViewChange, Signer, Verified, sign_view_change};
use wire::view_change::ViewChange;

use crate::core::Core;
use crate::input::{Outbox, Record};
use crate::speak::Spoken;
use crate::tree::Entry;

impl<S: Signer> Core<S> {
    /// The own view change for the stage: written, and then said. A silent replica has none before
    /// its silence ends, for it could not tell what it voted for (R3, L6), and neither has one that
    /// ran so far ahead of its own checkpoint that it forgot a part of its chain, before a newer one
    /// is its own. Until then nothing that it says rests on the stage.
    pub(crate) fn write_view_change_if_due(&mut self, out: &mut Outbox) {
        let owes = self.change.as_ref().is_some_and(|change| change.owes_own);
        // R6: not before others were heard either.
        if !owes || self.is_silent() || self.is_recalling() {
            return;
        }
        if !self.own_chain_is_whole() {
            reach("tip-beyond-memory");
            return;
        }
        self.change_mut().owes_own = false;
        let own = Arc::new(self.own_view_change(self.stage));
        let spoken = Spoken::ViewChange(Arc::clone(&own));
        self.record(Record::ViewChange(own), spoken, out);
    }

    /// What this replica did in the installed view: certificates, and the chain it voted for.
    fn own_view_change(&self, view: View) -> Verified<CheckedViewChange> {
        let mut message = ViewChange {
            view,
            replica: self.config.me,
            installed: self.installed,
            certificate: self.certificate.as_deref().copied(),
            checkpoint: self.checkpoint.as_deref().copied(),
            suffix: Vec::new(),
            tip_signature: Signature([0; 64]),
            quorum: None,
        };
        let anchor = message.anchor(self.config.genesis);
        let chain = self.tree.down_from(self.tip);
        let chain = chain.take_while(|entry| entry.header.slot() > anchor.slot);
        let mut chain = chain.copied().collect::<Vec<_>>();
        let end = chain.last().map_or(self.tip, Entry::parent);
        assert!(
            end.slot <= anchor.slot,
            "V1: nothing that was voted is hidden"
        );
        // Blocks at the tip that came with a bad signature of the leader were never voted for.
        let signed = chain.iter().position(|entry| entry.signature_good);
        chain.drain(..signed.unwrap_or(chain.len()));
        // A chain that does not reach the anchor is one that a checkpoint has overtaken.
        let reaches = chain.last().is_some_and(|last| last.parent() == anchor);
        if reaches {
            assert!(
                chain.iter().all(|e| e.header.view() == self.installed),
                "the own votes of a view are for blocks of this view"
            );
            message.tip_signature = chain.first().map_or(message.tip_signature, |e| e.signature);
            message.suffix = chain
                .iter()
                .rev()
                .map(|entry| CompactHeader::of(&entry.header))
                .collect();
        }
        let on_chain = |block: Place| {
            block == anchor || reaches && chain.iter().any(|entry| entry.place() == block)
        };
        let quorum = self.quorum.as_deref();
        message.quorum = quorum.filter(|quorum| on_chain(quorum.block)).cloned();
        sign_view_change(&self.signer, &self.rules, message)
    }

    /// Has the own view change written after all, if there is none; whether there was none.
    pub(crate) fn owe_view_change(&mut self) -> bool {
        let change = self.change.as_mut().filter(|change| change.own.is_none());
        let owes = change.is_some();
        if let Some(change) = change {
            change.owes_own = true;
        }
        owes
    }

    /// Whether every block of the own chain above the anchor of a view change is known. Others may
    /// lead far beyond a checkpoint that does not arrive here, and the memory of blocks is a ring.
    fn own_chain_is_whole(&self) -> bool {
        let checkpoint = self.checkpoint.as_ref();
        let genesis = self.config.genesis.slot;
        let checkpoint = checkpoint.map_or(genesis, |known| known.header.slot());
        let base = self.certificate.as_ref();
        let base = base.map_or(genesis, |known| known.base.slot);
        let anchor = checkpoint.max(base);
        let chain = self.tree.down_from(self.tip);
        let chain = chain.take_while(|entry| entry.header.slot() > anchor);
        let end = chain.last().map_or(self.tip, Entry::parent);
        end.slot <= anchor
    }
}
