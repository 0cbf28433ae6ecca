//! Checkpoints of the executed state: roots, what is served to replicas that lag behind, and the
//! installation of a state that was fetched.

use storage::machine::StateMachine;
use storage::state::{Checkpoints, Hold, InstallFailed, Parts, Pinned, Unserved};
use wire::ids::{Digest, Instant, Slot};
use wire::state::{Chunk, Leaf, Part, StateHead};

use super::Execution;
use crate::transfer::Installation;

/// A transfer keeps its checkpoint for this long after its last question.
pub const TRANSFER_HOLD_NS: u64 = 10_000_000_000;
/// Checkpoints above the pinned one that end a transfer: the blocks in between are gone by then.
const OVERTAKEN_INTERVALS: u64 = 2;
/// Bytes of old versions that a slow checkpoint and a transfer may keep.
pub const PRESERVED_BYTES_MAX: u64 = 1 << 30;
/// The state's time advances at most this much with one block.
const TIME_STEP_NS_MAX: u64 = 10_000_000_000;

/// t(s) = max(t(s-1), min(ts, t(s-1) + 10 s)).
pub(super) fn time_after(before_ns: u64, hint_ns: u64) -> u64 {
    before_ns.max(hint_ns.min(before_ns.saturating_add(TIME_STEP_NS_MAX)))
}

impl<M: StateMachine> Execution<M> {
    pub(super) fn apart(&mut self) -> (&mut Checkpoints, Parts<'_>) {
        let parts = Parts {
            machine: self.machine.state_mut(),
            sessions: &mut self.sessions,
        };
        (&mut self.checkpoints, parts)
    }

    /// The block at `executed` was applied.
    pub(super) fn executed_one(&mut self) {
        if self.executed > self.unneeded && self.executed.0.is_multiple_of(self.interval) {
            assert!(
                self.machine.keys() == 0 || self.machine.state().is_some(),
                "a machine with state shows it to checkpoints"
            );
            let head = StateHead::new(self.executed, self.time_ns, self.transactions)
                .with_pending(self.pending());
            let (checkpoints, mut parts) = self.apart();
            checkpoints.begin(head, &mut parts);
        }
        let bytes_max = self.preserved_bytes_max;
        let (checkpoints, mut parts) = self.apart();
        checkpoints.relieve(bytes_max, &mut parts);
    }

    /// Hashes about `budget_bytes` of a checkpoint under way, at least one bucket; to be called
    /// between blocks. True while there is more to do. 256 KiB take about 0.1-0.3 ms.
    pub fn work(&mut self, budget_bytes: usize) -> bool {
        let (checkpoints, mut parts) = self.apart();
        checkpoints.work(budget_bytes, &mut parts)
    }

    /// Begins no checkpoint up to `slot`: for a start that executes again what was checkpointed
    /// before. The checkpoint at `slot` itself is not begun either.
    pub fn skip_checkpoints(&mut self, slot: Slot) {
        self.unneeded = slot;
    }

    /// Whether a checkpoint is being hashed.
    pub fn is_hashing(&self) -> bool {
        self.checkpoints.is_hashing()
    }

    /// Slots executed since the checkpoint that is being hashed.
    pub fn hashing_age(&self) -> Option<u64> {
        let begun = self.checkpoints.hashing_slot()?;
        Some(self.executed.0.saturating_sub(begun.0))
    }

    /// The root of a checkpoint that was finished since the last call, each once, oldest first.
    /// At most four wait. An installed state yields none.
    pub fn take_root(&mut self) -> Option<(Slot, Digest)> {
        self.checkpoints.take_root()
    }

    /// Slot and root of the last finished, or installed, checkpoint.
    pub fn last_checkpoint(&self) -> Option<(Slot, Digest)> {
        let summary = self.checkpoints.last()?;
        Some((summary.head.slot(), summary.root()))
    }

    /// Time of the state machine after the executed slot, nanoseconds since 1970.
    pub fn time_ns(&self) -> u64 {
        self.time_ns
    }

    /// Slots between checkpoints.
    pub fn checkpoint_interval(&self) -> u64 {
        self.interval
    }

    /// Leaves of the state as it is now, by bucket: what a transfer need not fetch. None for
    /// buckets modified since they were hashed.
    pub fn leaves(&mut self) -> Vec<Option<Leaf>> {
        let (checkpoints, parts) = self.apart();
        checkpoints.present(&parts)
    }

    /// Keeps a checkpoint so that [`Execution::serve`] can hand it out: the one already kept, else
    /// the last one if nothing of it is lost, else the next one.
    pub fn pin(&mut self, hold: Hold) -> Pinned {
        let next = Slot((self.executed.0 / self.interval + 1) * self.interval);
        let (checkpoints, mut parts) = self.apart();
        checkpoints.pin(hold, next, &mut parts)
    }

    /// Whether the newest certified checkpoint is kept, for replicas that lag behind.
    pub fn keep_newest(&mut self, keep: bool) {
        let next = Slot((self.executed.0 / self.interval + 1) * self.interval);
        let (checkpoints, mut parts) = self.apart();
        checkpoints.keep_newest(keep, next, &mut parts);
    }

    /// The checkpoint that is, or will be, kept.
    pub fn pinned(&self) -> Option<Pinned> {
        self.checkpoints.pinned()
    }

    /// Lets go of a checkpoint whose transfers have ended; to be called now and then.
    pub fn expire(&mut self, now: Instant) {
        self.expire_copies(now);
        let (checkpoints, mut parts) = self.apart();
        checkpoints.expire(now, &mut parts);
    }

    /// A checkpoint is certified: transfers of one that is two intervals older end.
    pub fn stable(&mut self, slot: Slot) {
        let distance = OVERTAKEN_INTERVALS * self.interval;
        let (checkpoints, mut parts) = self.apart();
        checkpoints.certified(slot, &mut parts);
        checkpoints.overtaken(slot, distance, &mut parts);
    }

    /// Transfers of the pinned checkpoint end if a newer one is certified, for that to be kept.
    pub fn end_transfers(&mut self) {
        let (checkpoints, mut parts) = self.apart();
        checkpoints.end_transfers(&mut parts);
    }

    /// The snapshot file that was pinned with [`Hold::Open`] is finished or given up.
    pub fn close_snapshot(&mut self, now: Instant) {
        let (checkpoints, mut parts) = self.apart();
        checkpoints.close(now, &mut parts);
    }

    /// Appends the bytes of a part of the pinned checkpoint of `slot` to `out`; with an error,
    /// nothing. The first piece of a bucket costs the reading of the whole bucket.
    pub fn serve(&mut self, slot: Slot, part: Part, out: &mut Vec<u8>) -> Result<(), Unserved> {
        let (checkpoints, mut parts) = self.apart();
        checkpoints.serve(slot, part, &mut parts, out)
    }

    /// Answers FETCH-STATE(slot, part) with the body of a CHUNK in `out`, which is cleared; false
    /// when there is nothing to answer. It is the copy on disk that is shown, if there may be one; a
    /// checkpoint is pinned if none is, otherwise. The caller limits the rate.
    pub fn fetch_state(&mut self, now: Instant, slot: Slot, part: Part, out: &mut Vec<u8>) -> bool {
        out.clear();
        Chunk::Part {
            slot,
            part,
            bytes: &[],
        }
        .encode(out);
        let served = if self.has_copy() {
            self.serve_copy(now, slot, part, out)
        } else {
            let hold = Hold::Until(now.after_ns(TRANSFER_HOLD_NS));
            let kept = match self.pinned() {
                // Only a transfer of the kept checkpoint prolongs its life.
                Some(kept) if kept.slot != slot => kept,
                _ => self.pin(hold),
            };
            let elsewhere = Unserved::Elsewhere(kept.slot);
            self.serve(slot, part, out).map_err(|reason| match reason {
                Unserved::NoSuchPart => reason,
                _ => elsewhere,
            })
        };
        match served {
            Ok(()) => true,
            Err(Unserved::Elsewhere(kept)) => {
                out.clear();
                Chunk::Elsewhere { slot: kept }.encode(out);
                true
            }
            Err(_) => {
                out.clear();
                false
            }
        }
    }

    /// The checkpoint that can be shown whole, if it is another one than this.
    pub fn shows_instead_of(&self, slot: Slot) -> Option<Slot> {
        if let Some(copy) = self.copy_certificate(None) {
            let has_it = self.copy_certificate(Some(slot)).is_some();
            return (!has_it).then(|| copy.header.slot());
        }
        let pinned = self.pinned().filter(|pinned| pinned.ready);
        let pinned = pinned.map(|pinned| pinned.slot);
        pinned.filter(|shown| *shown != slot)
    }

    /// Replaces the state by one that was fetched and verified: only the buckets that differ. The
    /// executed slot becomes the checkpoint's, be it higher or lower; roots that were not taken yet
    /// are dropped, and so is the pin.
    ///
    /// Nothing is changed on an error, but for [`InstallFailed::WrongRoot`], after which this
    /// object is unusable.
    pub fn install(&mut self, installation: &Installation) -> Result<(), InstallFailed> {
        let (checkpoints, mut parts) = self.apart();
        checkpoints.install(
            &installation.summary,
            |bucket| installation.leaf(bucket),
            &installation.replaced,
            &mut parts,
        )?;
        let head = installation.summary.head;
        self.executed = head.slot();
        self.time_ns = head.time_ns();
        self.transactions = head.transactions();
        self.reconfiguration.install(&head);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_goes_back_and_never_leaps() {
        let second = 1_000_000_000;
        assert_eq!(time_after(0, 0), 0);
        assert_eq!(time_after(0, 3 * second), 3 * second);
        assert_eq!(time_after(3 * second, second), 3 * second);
        assert_eq!(time_after(3 * second, u64::MAX), 13 * second);
        assert_eq!(time_after(u64::MAX - 1, u64::MAX), u64::MAX);
    }
}
