//! R2, R4: the core as the log of earlier boots left it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use wire::block::BlockHeader;
use wire::canary::reach;
use wire::certificates::{CheckpointCertificate, NewViewCertificate, Place, QuorumCertificate};
use wire::ids::{Digest, Epoch, Instant, Position, Signature, Slot, View};
use wire::seal::{Signed, Signer, Verified};

use crate::branch::Branch;
use crate::change::Change;
use crate::checkpoint::Statements;
use crate::core::{Config, Core};
use crate::input::{NewViewRef, ViewChangeRef};
use crate::lease::Lease;
use crate::pace::Pace;
use crate::peers::Peer;
use crate::recall::Recall;
use crate::repair::Repair;
use crate::signing::Noting;
use crate::timers::Timers;
use crate::tree::{Entry, RecordAs, Tree, Validity};
use crate::wish::Wishing;
use crate::words::Book;

/// A block of the log: its clients' signatures hold, or it is known to be decided.
#[derive(Clone, Copy, Debug)]
pub struct RecoveredBlock {
    pub header: BlockHeader,
    pub signature: Signature,
    /// The leader's signature was verified.
    pub signature_good: bool,
    pub digest: Digest,
    pub kind: RecordAs,
    /// End of its record.
    pub end: Position,
}

impl RecoveredBlock {
    pub fn place(&self) -> Place {
        Place {
            slot: self.header.slot(),
            digest: self.digest,
        }
    }

    fn entry(&self, now: Instant) -> Entry {
        Entry {
            header: self.header,
            signature: self.signature,
            signature_good: self.signature_good,
            digest: self.digest,
            validity: Validity::Valid,
            record: Some(self.kind),
            end: Some(self.end),
            linked_at: now,
        }
    }
}

/// What the log says. [`Recovered::blank`] on the first boot.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// (epoch, stage) of the START records of earlier boots, `None` when there is none (R4).
    pub restarted_in: Option<(Epoch, View)>,
    /// Highest view entered and highest installed, with its certificate (`None` in view 0).
    pub stage: View,
    pub installed: View,
    pub certificate: Option<NewViewCertificate>,
    /// Of the stage, while it is not installed.
    pub view_change: Option<ViewChangeRef>,
    pub new_view: Option<NewViewRef>,
    pub ack: Option<Verified<Signed>>,
    /// Deepest own COMMIT of the installed view.
    pub quorum: Option<QuorumCertificate>,
    /// End of the chain of own block records, or of the last jump, in the installed view.
    pub tip: Place,
    /// Own stable checkpoint.
    pub checkpoint: Option<CheckpointCertificate>,
    /// Highest place that the log knows to be decided; everything up to it was executed.
    pub decided: Place,
    /// Blocks of the log, ascending by position: those above `decided`, and as many below it as
    /// the ring remembers.
    pub blocks: Vec<RecoveredBlock>,
    /// Lowest slot whose block the log still holds.
    pub retained_from: Slot,
    /// The log holds a vote for a block that was found invalid: no further vote in this view.
    pub voting_stopped: bool,
    /// The own state differed from a certified one (K3): it votes no more, in any view.
    pub diverged: bool,
    /// Highest lease of the log (R3).
    pub lease: Slot,
    /// Votes for slots up to here may be forgotten: a process with leases ended uncleanly.
    pub forgotten: Slot,
    /// Everything in the log is durable up to here.
    pub durable_position: Position,
}

impl Recovered {
    /// An empty log.
    pub fn blank(genesis: Place) -> Recovered {
        Recovered {
            restarted_in: None,
            stage: View(0),
            installed: View(0),
            certificate: None,
            view_change: None,
            new_view: None,
            ack: None,
            quorum: None,
            tip: genesis,
            checkpoint: None,
            decided: genesis,
            blocks: Vec::new(),
            retained_from: genesis.slot.next(),
            voting_stopped: false,
            diverged: false,
            lease: Slot(0),
            forgotten: Slot(0),
            durable_position: Position(0),
        }
    }
}

/// Rebuilds the core. What is in the log counts as voted (over-claiming is safe, §14), so the tip
/// is the last block of the log; its vote is sent again once all up to it was verified.
pub(crate) fn restore<S: Signer>(
    config: Config,
    signer: S,
    recovered: Recovered,
    now: Instant,
) -> Core<S> {
    let genesis = config.genesis;
    let base = recovered.certificate.map_or(genesis, |known| known.base);
    let ring = crate::tree::ring(&config);
    let tree = remembered_tree(&recovered, base, ring, now);
    // Without the state that the epoch begins with, nothing is executed yet.
    let ground = genesis.min(recovered.decided);
    let low = recovered.checkpoint.map_or(ground, |known| known.place());
    let decided = recovered.decided;
    let branch = remembered_branch(&tree, decided, ring);
    let n = config.quorums.n;
    // A tip above the base without a vote record is the end of a jump (N2): the log does not back a
    // vote for it, only for what extends it.
    let tip = recovered.tip;
    let backed = tree
        .get(tip)
        .is_some_and(|e| e.record == Some(RecordAs::Vote));
    let voted = (tip.slot > base.slot && !backed).then_some(tip.slot);
    let lease = Lease::resume(&recovered, low.slot);
    let mut core = Core {
        rules: Core::<S>::rules(&config),
        config,
        signer: Noting::new(signer),
        stage: recovered.stage,
        installed: recovered.installed,
        restarted_in: recovered.restarted_in,
        tree,
        branch,
        base,
        certificate: recovered.certificate.map(Arc::new),
        ground_end: Some(Position(0)),
        look_elsewhere: true,
        now,
        recorded: recovered.tip,
        tip: recovered.tip,
        quorum: recovered.quorum.map(Arc::new),
        durable: decided.slot,
        valid: decided.slot,
        backed: decided.slot,
        voted,
        decided,
        decided_in: None,
        executed: Slot(0),
        low: low.slot,
        checkpoint: recovered.checkpoint.map(Arc::new),
        newest_checkpoint: recovered.checkpoint.map(Arc::new),
        next_checkpoint: None,
        statements: Statements::new(n),
        roots: VecDeque::new(),
        retained_from: recovered.retained_from,
        epoch_end: None,
        transferring: None,
        final_place: None,
        durable_position: recovered.durable_position,
        voting_stopped: recovered.voting_stopped || recovered.diverged,
        lease,
        recall: Recall::default(),
        diverged: recovered.diverged,
        started: true,
        stopping: false,
        log_full: false,
        holds_unlinked: false,
        own_vote: None,
        own_commit: None,
        books: vec![Book::new(recovered.installed, n)],
        peers: vec![Peer::default(); n],
        repair: Repair::new(now, decided),
        timers: Timers::new(config.patience_ns_min, now),
        pace: Pace::new(config.replaces_slow_leaders, n, recovered.installed, now),
        pending_since: None,
        request_overdue: false,
        wishing: Wishing::default(),
        change: None,
        view_changes: Vec::new(),
        new_views: Vec::new(),
        acks: Vec::new(),
        accused: None,
        unplaced: VecDeque::new(),
        awaiting: VecDeque::new(),
    };
    core.resume_branch();
    core.resume_commit(now);
    if core.stage > core.installed {
        reach("restart-in-view-change");
        core.timers.entered(now, false);
        let mut change = Change::new(core.stage, now);
        let known = recovered.view_change.iter().cloned();
        core.view_changes.extend(known);
        core.new_views.extend(recovered.new_view.clone());
        core.acks.extend(recovered.ack);
        // The log may tell of a stage whose view change was owed and not said: what was said is in
        // the log.
        change.owes_own = recovered.view_change.is_none();
        let own = recovered.view_change.as_ref();
        assert!(
            own.is_none_or(|own| own.message.view == core.stage),
            "I4: the own view change is of the stage"
        );
        change.resume(recovered.view_change, recovered.new_view, recovered.ack);
        core.change = Some(change);
    }
    core
}

/// The blocks of the log that fit: first the chains on which own words stand, which nothing may
/// push out, then the others, the newest record first.
fn remembered_tree(recovered: &Recovered, base: Place, ring: usize, now: Instant) -> Tree {
    let mut tree = Tree::new(ring);
    let known = recovered.blocks.iter().map(|block| (block.place(), block));
    let known = known.collect::<BTreeMap<_, _>>();
    // Those of slots further down would share places with the ones that count.
    let lowest = (recovered.decided.slot.0 + 1).saturating_sub(ring as u64 / 2);
    let fits = |slot: Slot| (lowest..lowest + ring as u64).contains(&slot.0);
    let acked = recovered.ack.and_then(|ack| ack.acked_base());
    let proposed = recovered.new_view.as_ref().map(|own| own.message.base);
    let ends = [Some(recovered.tip), Some(base), acked, proposed].into_iter();
    for end in ends.chain([Some(recovered.decided)]).flatten() {
        let mut next = end;
        while let Some(block) = known.get(&next).filter(|_| fits(next.slot)) {
            if tree.get(next).is_none() {
                let _ = tree.insert(block.entry(now), |_| true);
            }
            next = block.entry(now).parent();
        }
    }
    for block in recovered.blocks.iter().rev() {
        if fits(block.header.slot()) && tree.get(block.place()).is_none() {
            // Crowded: it counts for nothing here, and others may have it.
            let _ = tree.insert(block.entry(now), |_| true);
        }
    }
    tree
}

/// The decided chain as far down as its blocks are known.
fn remembered_branch(tree: &Tree, decided: Place, ring: usize) -> Branch {
    let chain = tree.down_from(decided);
    let chain = chain.map(|entry| (entry.place(), entry.parent()));
    let mut chain = chain.collect::<Vec<_>>();
    chain.reverse();
    let lowest = chain.first().map_or(decided, |(_, parent)| *parent);
    let mut branch = Branch::new(lowest, ring);
    for (place, _) in chain {
        branch.push(place);
    }
    branch
}

impl<S: Signer> Core<S> {
    /// The undecided end of the branch: the chain of the tip, else that of the base.
    fn resume_branch(&mut self) {
        for target in [self.tip, self.base] {
            let fork = self.branch.fork(&self.tree, target);
            if target.slot > self.decided.slot && fork == Some(self.decided) {
                let chain = self.tree.down_from(target).map(Entry::place);
                let chain = chain.take_while(|place| place.slot > self.decided.slot);
                for place in chain.collect::<Vec<_>>().into_iter().rev() {
                    self.branch.push(place);
                }
                break;
            }
        }
        self.link_recovered();
    }

    /// Fetched blocks of the installed view above the tip belong to the branch as well.
    fn link_recovered(&mut self) {
        loop {
            let top = self.branch.top();
            if top.slot < self.base.slot || !self.base_is_linked() {
                return;
            }
            let above = self.tree.at(top.slot.next());
            let next = above
                .filter(|e| e.header.parent == top.digest && e.header.view() == self.installed)
                .map(Entry::place)
                .next();
            match next {
                Some(place) => self.branch.push(place),
                None => return,
            }
        }
    }
}
