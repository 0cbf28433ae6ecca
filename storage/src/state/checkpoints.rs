//! State roots: the tree of hashes, brought up to date slice by slice after each freeze.

use std::collections::VecDeque;
use std::sync::Arc;

use thiserror::Error;
use wire::ids::{Digest, Instant, Slot};
use wire::state::{
    BUCKETS, BUCKETS_PER_NODE, Bucket, CellMask, CellTree, Leaf, NODES, Node, StateHead, Summary,
};

use super::pins::{Hold, Pin, Pinned, Unserved};
use super::{CellSet, Malformed, Parts, Scratch, View, empty_leaf};

/// Roots that wait to be taken; older ones are dropped.
const ROOTS_WAITING_MAX: usize = 4;
/// What a bucket, and a cell, costs beside its bytes, in bytes of hashing.
const BUCKET_COST_BYTES: usize = 4096;
const CELL_COST_BYTES: usize = 128;

/// Leaves and inner nodes of the state.
#[derive(Clone, Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    digests: [Digest; NODES],
    /// Below each leaf; none where that is not known: the bucket is read whole when it is hashed next.
    /// Shared, so that a pinned tree costs no copy of all of it at once.
    cells: Vec<Option<Arc<CellTree>>>,
}

impl Tree {
    /// The tree of a state that holds nothing.
    fn empty() -> Tree {
        let node = Node {
            leaves: [empty_leaf(); BUCKETS_PER_NODE],
        };
        Tree {
            digests: [node.digest(); NODES],
            nodes: vec![node; NODES],
            cells: vec![Some(Arc::new(CellTree::default())); BUCKETS],
        }
    }

    /// The tree of these nodes, below which nothing is known.
    fn of(nodes: Vec<Node>, digests: [Digest; NODES]) -> Tree {
        let mut tree = Tree {
            nodes,
            digests,
            cells: vec![None; BUCKETS],
        };
        let (empty, nothing) = (empty_leaf(), Arc::new(CellTree::default()));
        for bucket in Bucket::all() {
            if tree.leaf(bucket) == empty {
                tree.cells[bucket.index()] = Some(Arc::clone(&nothing));
            }
        }
        tree
    }

    pub fn leaf(&self, bucket: Bucket) -> Leaf {
        self.nodes[bucket.node()].leaves[bucket.index() % BUCKETS_PER_NODE]
    }

    /// The inner node at `index`, below `NODES`.
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// Adds all cells of buckets that must be read whole, of those that are there.
    fn add_unknown(&self, changed: &mut CellSet) {
        for bucket in changed.buckets().clone().iter() {
            if self.cells[bucket.index()].is_none() {
                changed.set(bucket, CellMask::FULL);
            }
        }
    }

    /// These cells of a bucket were read anew. Returns how much was hashed, in bytes.
    fn update(&mut self, bucket: Bucket, read: CellMask, items: &mut Scratch) -> usize {
        let cells = &mut self.cells[bucket.index()];
        assert!(
            cells.is_some() || read == CellMask::FULL,
            "all of it is known then"
        );
        let cells = Arc::make_mut(cells.get_or_insert_default());
        let mut gone = read;
        let mut cost = BUCKET_COST_BYTES;
        items.each(|index, content| {
            cells.set(index, content);
            gone.remove(index);
            cost += CELL_COST_BYTES + content.len();
        });
        gone.iter().for_each(|index| cells.set(index, &[]));
        self.nodes[bucket.node()].leaves[bucket.index() % BUCKETS_PER_NODE] = cells.leaf();
        cost
    }

    fn summary(&self, head: StateHead) -> Summary {
        Summary {
            head,
            nodes: self.digests,
        }
    }
}

/// A frozen state whose root is not known yet.
#[derive(Debug)]
struct Hashing {
    head: StateHead,
    /// Modified before the freeze and not hashed since.
    unhashed: CellSet,
    /// Inner nodes above buckets that were hashed: bit i for node i.
    stale_nodes: u64,
    /// What was hashed is kept until the next freeze: it may be pinned when it is certified.
    whole: bool,
}

const _: () = assert!(NODES <= u64::BITS as usize);

/// Why a transferred state was not installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InstallFailed {
    /// Nothing was changed. The own bucket is not the one that the transfer built on.
    #[error("bucket {} changed since the transfer began; begin it again", .0.number())]
    Moved(Bucket),
    /// Nothing was changed. The committee agreed on bytes that this version cannot read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The state is unusable: the buckets are in place, and yet the root is another one.
    #[error("the installed state has the root {found}, not {expected}")]
    WrongRoot { found: Digest, expected: Digest },
}

/// State roots of one replica, and the checkpoint that it serves to others.
#[derive(Debug)]
pub struct Checkpoints {
    /// Of the last freeze; buckets still `unhashed` are as of the one before.
    tree: Tree,
    hashing: Option<Hashing>,
    finished: Option<Summary>,
    untaken: VecDeque<(Slot, Digest)>,
    pub(super) pin: Pin,
    /// The newest certified checkpoint is pinned until the next one is certified.
    keeps_newest: bool,
    certified: Slot,
    /// As last heard of.
    now: Instant,
    scratch: Scratch,
    /// Empty, for the next checkpoint.
    spare: Option<CellSet>,
}

impl Checkpoints {
    /// Of a state that holds nothing and has no checkpoint yet.
    pub fn new() -> Checkpoints {
        Checkpoints {
            tree: Tree::empty(),
            hashing: None,
            finished: None,
            untaken: VecDeque::with_capacity(ROOTS_WAITING_MAX),
            pin: Pin::Free,
            keeps_newest: false,
            certified: Slot(0),
            now: Instant(0),
            scratch: Scratch::default(),
            spare: None,
        }
    }

    /// Freezes the state as the checkpoint of `head`. One that is still being hashed is finished
    /// first.
    pub fn begin(&mut self, head: StateHead, parts: &mut Parts<'_>) {
        self.finish(parts);
        parts.each(|holder| holder.versions_mut().release_all());
        if self.keeps_newest && matches!(self.pin, Pin::Free) {
            self.pin.hold(Hold::Newest, head.slot());
        }
        let mut dirty = self.spare.take().unwrap_or_else(CellSet::new);
        parts.add_dirty(&mut dirty);
        self.tree.add_unknown(&mut dirty);
        let pin = self.pin.is_wanted();
        let whole = self.keeps_newest && !pin;
        let all = whole.then(CellSet::full);
        let watched = all.as_ref().unwrap_or(&dirty);
        parts.each(|holder| holder.versions_mut().freeze(watched, pin));
        self.pin.begin(head.slot());
        self.hashing = Some(Hashing {
            head,
            unhashed: dirty,
            stale_nodes: 0,
            whole,
        });
    }

    /// The checkpoint at `slot` is certified. The pin moves there from an older one that nothing but
    /// [`Hold::Newest`] holds: so there is one to show at any time, also when those who are left
    /// cannot certify another without the replica that asks for it.
    pub fn certified(&mut self, slot: Slot, parts: &mut Parts<'_>) {
        self.certified = self.certified.max(slot);
        self.move_pin(parts);
    }

    /// Moves the pin to the newest certified checkpoint when that is the last one, is hashed, and the
    /// pin is free to move.
    fn move_pin(&mut self, parts: &mut Parts<'_>) {
        let slot = self.certified;
        let finished = self.finished.as_ref().map(|summary| summary.head.slot());
        let is_last = self.hashing.is_none() && finished == Some(slot);
        let older = self.pin.pinned().is_none_or(|pinned| pinned.slot < slot);
        if self.keeps_newest
            && is_last
            && older
            && (matches!(self.pin, Pin::Free) || self.pin.may_move_on(self.now))
            && !parts.any(|versions| versions.lost())
        {
            self.release(parts);
            self.pin(Hold::Newest, slot, parts);
        }
    }

    /// Hashes about `budget_bytes` of the frozen state, at least one bucket. True while there is
    /// more to do.
    pub fn work(&mut self, budget_bytes: usize, parts: &mut Parts<'_>) -> bool {
        let Some(hashing) = &mut self.hashing else {
            return false;
        };
        let mut spent = 0;
        while let Some((bucket, read)) = hashing.unhashed.pop() {
            parts.read_cells(View::Last, bucket, &read, &mut self.scratch);
            spent += self.tree.update(bucket, read, &mut self.scratch);
            if !hashing.whole {
                parts.each(|holder| holder.versions_mut().release(bucket));
            }
            hashing.stale_nodes |= 1 << bucket.node();
            if spent >= budget_bytes {
                return true;
            }
        }
        for index in 0..NODES {
            if hashing.stale_nodes & 1 << index != 0 {
                self.tree.digests[index] = self.tree.nodes[index].digest();
            }
        }
        let summary = self.tree.summary(hashing.head);
        self.spare = self.hashing.take().map(|hashing| hashing.unhashed);
        if self.untaken.len() == ROOTS_WAITING_MAX {
            self.untaken.pop_front();
        }
        self.untaken
            .push_back((summary.head.slot(), summary.root()));
        self.pin.finished(&summary, &self.tree);
        self.finished = Some(summary);
        // Others may have been faster.
        self.move_pin(parts);
        false
    }

    /// Hashes all that is left of the frozen state.
    pub fn finish(&mut self, parts: &mut Parts<'_>) {
        while self.work(usize::MAX, parts) {}
    }

    /// Whether a frozen state waits to be hashed.
    pub fn is_hashing(&self) -> bool {
        self.hashing.is_some()
    }

    /// The slot of the checkpoint that is being hashed.
    pub fn hashing_slot(&self) -> Option<Slot> {
        self.hashing.as_ref().map(|hashing| hashing.head.slot())
    }

    /// Roots that were finished since the last call, oldest first, each once.
    pub fn take_root(&mut self) -> Option<(Slot, Digest)> {
        self.untaken.pop_front()
    }

    /// The last finished checkpoint.
    pub fn last(&self) -> Option<&Summary> {
        self.finished.as_ref()
    }

    /// Leaves of the state as it is now; none for buckets that were modified since they were
    /// hashed.
    pub fn present(&self, parts: &Parts<'_>) -> Vec<Option<Leaf>> {
        let mut modified = parts.dirty_buckets();
        if let Some(hashing) = &self.hashing {
            modified.add_all(hashing.unhashed.buckets());
        }
        let leaf = |bucket| (!modified.contains(bucket)).then(|| self.tree.leaf(bucket));
        Bucket::all().map(leaf).collect()
    }

    /// Replaces buckets, so that the state becomes the one of `summary`. `leaf` names every bucket
    /// of that state, `replaced` holds the bytes of those that differ from this replica's.
    ///
    /// Nothing is changed unless all of it can be. What was pinned is let go.
    pub fn install(
        &mut self,
        summary: &Summary,
        leaf: impl Fn(Bucket) -> Leaf,
        replaced: &[(Bucket, Vec<u8>)],
        parts: &mut Parts<'_>,
    ) -> Result<(), InstallFailed> {
        let mut replacing = super::BucketSet::new();
        for (bucket, bytes) in replaced {
            parts.check_bucket(*bucket, bytes)?;
            replacing.insert(*bucket);
        }
        self.release(parts);
        self.rehash(summary.head, parts);
        let moved = Bucket::all().find(|bucket| {
            !replacing.contains(*bucket) && self.tree.leaf(*bucket) != leaf(*bucket)
        });
        if let Some(bucket) = moved {
            return Err(InstallFailed::Moved(bucket));
        }
        for (bucket, bytes) in replaced {
            parts.replace_bucket(*bucket, bytes);
        }
        let installed = self.rehash(summary.head, parts);
        let (found, expected) = (installed.root(), summary.root());
        if found != expected {
            return Err(InstallFailed::WrongRoot { found, expected });
        }
        // Roots of a past that is no longer this replica's.
        self.untaken.clear();
        self.finished = Some(installed);
        if self.keeps_newest {
            self.pin(Hold::Newest, summary.head.slot(), parts);
        }
        Ok(())
    }

    /// Forgets every checkpoint, for a state of another origin: what was pinned is let go, and
    /// [`Checkpoints::resume`] comes next.
    pub fn renew(&mut self, parts: &mut Parts<'_>) {
        self.hashing = None;
        parts.each(|holder| holder.versions_mut().release_all());
        self.release(parts);
        self.finished = None;
        self.untaken.clear();
    }

    /// Goes on from a state that the holders have already, whose tree is this one.
    ///
    /// # Panics
    ///
    /// If the nodes are not those of the summary, or a checkpoint was begun before.
    pub fn resume(&mut self, summary: Summary, nodes: Vec<Node>, parts: &mut Parts<'_>) {
        assert!(self.hashing.is_none() && self.finished.is_none());
        let digests = summary.nodes;
        let matches = |(node, digest): (&Node, &Digest)| node.digest() == *digest;
        assert!(nodes.len() == NODES && nodes.iter().zip(&digests).all(matches));
        self.tree = Tree::of(nodes, digests);
        parts.each(|holder| holder.versions_mut().freeze(&CellSet::new(), false));
        let slot = summary.head.slot();
        self.finished = Some(summary);
        if self.keeps_newest {
            self.pin(Hold::Newest, slot, parts);
        }
    }

    /// Brings the tree up to date with the state as it is, outside the sequence of checkpoints.
    fn rehash(&mut self, head: StateHead, parts: &mut Parts<'_>) -> Summary {
        let keeps = std::mem::take(&mut self.keeps_newest);
        self.begin(head, parts);
        self.finish(parts);
        self.keeps_newest = keeps;
        // Nobody signs this root, and nobody may take the state for a checkpoint.
        self.untaken.pop_back();
        self.finished.take().expect("just finished")
    }

    /// Keeps preserved versions within `bytes_max`: finishes the hashing, then gives up the pin.
    pub fn relieve(&mut self, bytes_max: u64, parts: &mut Parts<'_>) {
        if parts.kept_bytes() <= bytes_max {
            return;
        }
        self.finish(parts);
        parts.each(|holder| holder.versions_mut().release_all());
        if parts.kept_bytes() > bytes_max {
            self.release(parts);
        }
    }

    /// Asks to serve a checkpoint for as long as `hold` says: the pinned one, else the last one if
    /// it can still be seen whole, else the one at `next`, the next slot of a checkpoint.
    pub fn pin(&mut self, hold: Hold, next: Slot, parts: &mut Parts<'_>) -> Pinned {
        if matches!(self.pin, Pin::Free) && !parts.any(|versions| versions.lost()) {
            let slot = match (&self.hashing, &self.finished) {
                (Some(hashing), _) => Some(hashing.head.slot()),
                (None, finished) => finished.as_ref().map(|summary| summary.head.slot()),
            };
            if let Some(slot) = slot {
                parts.each(|holder| holder.versions_mut().pin_last());
                self.pin.take(slot);
                if let (None, Some(summary)) = (&self.hashing, &self.finished) {
                    self.pin.finished(summary, &self.tree);
                }
            }
        }
        if self.keeps_newest {
            // When those who asked are gone, it is still the newest one.
            self.pin.hold(Hold::Newest, next);
        }
        self.pin.hold(hold, next)
    }

    /// From now on the newest certified checkpoint is kept whole until the next one is certified, so
    /// that a replica that lags behind finds one also when nothing is executed any more; or no
    /// longer. Costs a copy, or two, of each item at its first write after a checkpoint.
    pub fn keep_newest(&mut self, keep: bool, next: Slot, parts: &mut Parts<'_>) {
        if self.keeps_newest == keep {
            return;
        }
        self.keeps_newest = keep;
        if keep {
            self.pin(Hold::Newest, next, parts);
        } else {
            self.pin.let_newest_go();
            self.expire(self.now, parts);
        }
    }

    /// Gives up the pin when the time of its transfers is over and no snapshot file holds it.
    pub fn expire(&mut self, now: Instant, parts: &mut Parts<'_>) {
        self.now = self.now.max(now);
        if self.pin.is_expired(now) {
            self.release(parts);
        }
        self.move_pin(parts);
    }

    /// The snapshot file that held the pin is written, or given up.
    pub fn close(&mut self, now: Instant, parts: &mut Parts<'_>) {
        self.now = self.now.max(now);
        if self.pin.close(now) {
            self.release(parts);
        }
        self.move_pin(parts);
    }

    /// A newer checkpoint is needed than the one that transfers hold: the pin moves there if it can.
    pub fn end_transfers(&mut self, parts: &mut Parts<'_>) {
        let certified = self.certified;
        if self
            .pin
            .pinned()
            .is_some_and(|pinned| pinned.slot < certified)
        {
            self.pin.end_transfers();
            self.move_pin(parts);
        }
    }

    /// The checkpoint at `stable` is certified: transfers of one `distance` slots below are futile,
    /// for the blocks above it are no longer kept.
    pub fn overtaken(&mut self, stable: Slot, distance: u64, parts: &mut Parts<'_>) {
        if self.pin.is_overtaken(stable, distance) {
            self.release(parts);
            self.certified(stable, parts);
        }
    }

    /// Gives up the pin, whoever holds it.
    pub fn release(&mut self, parts: &mut Parts<'_>) {
        let unhashed = match &self.hashing {
            Some(hashing) => hashing.unhashed.clone(),
            None => CellSet::new(),
        };
        parts.each(|holder| holder.versions_mut().unpin(&unhashed));
        self.pin = Pin::Free;
    }

    /// The pin as it stands.
    pub fn pinned(&self) -> Option<Pinned> {
        self.pin.pinned()
    }

    /// Appends a part of the pinned checkpoint of `slot` to `out`.
    pub fn serve(
        &mut self,
        slot: Slot,
        part: wire::state::Part,
        parts: &mut Parts<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Unserved> {
        self.pin.serve(slot, part, parts, out)
    }
}

const _: () = assert!(BUCKETS == NODES * BUCKETS_PER_NODE);
