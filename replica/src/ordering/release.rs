//! K2: lets the log go behind a snapshot, after saying again what it alone had said.
//!
//! When the log has grown, execution is asked for a snapshot. Once that is durable, a group of
//! records repeats what a restart must know and older records told: START, the installed view with
//! its certificate, own words about a view that is being entered, COMMIT, the checkpoint's
//! certificate, the lease, the end of the own votes. When the group is durable, everything before the oldest
//! block that is still needed is released. Needed are blocks above the snapshot, decided or not,
//! and those of the last two intervals below it, for repair (§11).
//!
//! The snapshot is of the next checkpoint, as a rule. A log that may run full before that one is
//! there needs one that is: then each newest checkpoint is kept whole until the next.

use consensus::Record;
use storage::record::Kind as RecordKind;
use storage::wal::{WalFull, Writer};
use wire::bytes::Buffers;
use wire::canary::planted;
use wire::certificates::{CheckpointCertificate, Place};
use wire::ids::{Instant, Position, Slot};
use wire::limits::{BLOCK_BUFFER_BYTES, RECORD_HEADER_BYTES, SECTOR_BYTES};
use wire::messages::LeaseRecord;
use wire::seal::{Signer, Verifier};
use zerocopy::IntoBytes;

use super::{Ordering, Output};
use crate::recovery::{DecidedRecord, StandingRecord};

/// Intervals below a snapshot whose blocks stay for repair.
const RETAINED_INTERVALS: u64 = 2;

/// Between a snapshot that failed and the next attempt.
const SAVE_PAUSE_NS: u64 = 1_000_000_000;

/// Whether the log may run full before a checkpoint that is asked for now is there and certified:
/// the largest blocks of two intervals find no room in it.
fn may_fill_up(writer: &Writer, interval: u64) -> bool {
    let blocks = (2 * interval).saturating_mul(BLOCK_BUFFER_BYTES as u64);
    writer.used_bytes().saturating_add(blocks) > writer.max_bytes()
}

/// Whether a process that starts keeps the newest checkpoint (see [`Output::KeepNewest`]), from the
/// first block on that it executes again: others may need it, or the own log.
pub(crate) fn keeps_newest_from_start(retained_from: Slot, writer: &Writer, interval: u64) -> bool {
    retained_from > Slot(1) || may_fill_up(writer, interval)
}

/// How far the release of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Release {
    Idle,
    /// Execution was asked for a snapshot.
    Asked,
    /// There is one of this slot; the group is to be written.
    Saved(Slot),
    /// The group ends here; what was durable when it was begun, and all before that, is in it.
    Restated {
        slot: Slot,
        end: Position,
        before: Position,
    },
    /// The log was let go; files are used again when what says so, which ends here, is durable.
    Marked {
        end: Position,
    },
}

impl<Bu: Buffers, S: Signer, V: Verifier> Ordering<Bu, S, V> {
    /// A snapshot of the state at this slot is durable.
    pub(super) fn on_saved(&mut self, slot: Slot, shown_from: Option<Slot>) {
        self.release = Release::Saved(slot);
        self.saved = slot;
        self.save_early = false;
        self.shown_from = shown_from;
        self.save_after = Slot(slot.0 + self.config.interval);
    }

    /// Whether the log takes no more blocks, whatever files come. One that only waits for a file keeps
    /// what it has: nothing was kept beforehand that takes its place for others.
    fn is_full(&self) -> bool {
        let whole = |full: WalFull| full.granted_bytes == full.max_bytes;
        self.log_full.is_some_and(whole)
    }

    /// Blocks up to here are not needed with a snapshot of this slot, or are gone already. A full log
    /// keeps none for others: they take the state over.
    fn unneeded_with(&self, slot: Slot) -> Slot {
        let intervals = if self.is_full() {
            0
        } else {
            RETAINED_INTERVALS
        };
        let kept = intervals * self.config.interval;
        Slot(slot.0.saturating_sub(kept).max(self.retained_from.0 - 1))
    }

    /// The same, but for those who are shown an older snapshot, as long as half of the log is free.
    fn let_go_up_to(&self, slot: Slot) -> Slot {
        let unneeded = self.unneeded_with(slot);
        let is_roomy = self.writer.used_bytes() <= self.writer.max_bytes() / 2;
        match self.shown_from.filter(|_| is_roomy) {
            Some(shown) => unneeded.min(shown.max(Slot(self.retained_from.0 - 1))),
            None => unneeded,
        }
    }

    /// Something in the log cannot be read any more: it is let go behind the next snapshot, as far as
    /// nobody else needs it.
    pub fn save_early(&mut self) {
        self.save_early = true;
    }

    /// A snapshot is made of the next checkpoint; an idle leader fills up to it.
    pub fn save_soon(&mut self) {
        let (linked, interval) = (self.core.summary().linked.0, self.config.interval);
        let next = Slot((linked / interval + 1) * interval);
        self.save_early = true;
        self.save_after = self.save_after.max(next);
        self.padding.fill_up_to(next);
    }

    /// No snapshot was made; the log may ask again.
    pub(super) fn on_save_failed(&mut self, now: Instant) {
        if self.release == Release::Asked {
            self.release = Release::Idle;
            // Not again at once, for the next checkpoint may do better.
            let executed = self.core.summary().executed;
            self.save_after = Slot(executed.0 + self.config.interval);
            self.save_not_before = now.after_ns(SAVE_PAUSE_NS);
        }
    }

    /// The state was taken over: blocks below it that are not here will not come.
    pub(super) fn on_installed(&mut self, now: Instant, certificate: &CheckpointCertificate) {
        let slot = certificate.header.slot();
        let gap = self.core.summary().decided < slot;
        self.executed_fed = self.executed_fed.max(slot);
        self.decided_counted = self.decided_counted.max(slot);
        self.decided_recorded = self.decided_recorded.max(slot);
        self.settled = self.settled.max(slot);
        // Nobody says which requests were executed in between.
        self.pending.restart(now);
        if gap {
            self.retain_from(slot.next());
            // Nobody executes or serves them any more, and nobody would let their buffers go.
            self.blocks.forget_up_to(slot);
            self.deferred.retain(|(place, ..)| place.slot > slot);
            self.released = self.released.max(slot);
        }
    }

    fn retain_from(&mut self, slot: Slot) {
        if slot > self.retained_from {
            self.retained_from = slot;
            self.ledger.release(slot);
            self.core.set_retained_from(slot);
        }
    }

    /// Goes on with the release of the log as far as it can now.
    pub(super) fn tend_log(&mut self, now: Instant) {
        if self.restate_due && self.may_restate() && self.restate().is_some() {
            self.restate_due = false;
        }
        let full = self.is_full();
        match self.release {
            Release::Idle if full && self.let_go_up_to(self.saved) >= self.retained_from => {
                self.release = Release::Saved(self.saved);
            }
            Release::Idle => {
                let own_bytes = self
                    .writer
                    .used_bytes()
                    .saturating_sub(self.held_back_bytes);
                let is_due = self.save_early || own_bytes >= self.config.snapshot_log_bytes;
                let has_grown = is_due && self.core.summary().executed >= self.save_after;
                if (has_grown || full) && self.is_started() && now >= self.save_not_before {
                    // A log that takes no more blocks gets no next checkpoint, so it does not wait.
                    self.release = Release::Asked;
                    self.outputs.push_back(Output::Save { full });
                }
            }
            Release::Asked => {}
            Release::Saved(slot) => {
                let before = self.durable;
                if self.may_restate()
                    && let Some(end) = self.restate()
                {
                    self.release = Release::Restated { slot, end, before };
                }
            }
            Release::Restated { slot, end, before } if end <= self.durable => {
                self.let_go(slot, before);
                let end = self.writer.position();
                self.release = Release::Marked { end };
            }
            Release::Marked { end } if end <= self.durable => self.release = Release::Idle,
            Release::Restated { .. } | Release::Marked { .. } => {}
        }
        let lag = RETAINED_INTERVALS * self.config.interval;
        let wanted = self.core.someone_is_cut_off()
            || may_fill_up(&self.writer, self.config.interval)
            || self.release != Release::Idle && self.core.someone_lags(lag);
        // For an interval at least: what a peer says of itself may change with every datagram, and
        // pinning looks at every bucket.
        let executed = self.core.summary().executed;
        let keep = wanted || self.keeps_newest && executed < self.keeps_until;
        if keep != self.keeps_newest {
            self.keeps_newest = keep;
            self.keeps_until = Slot(executed.0 + self.config.interval);
            self.outputs.push_back(Output::KeepNewest(keep));
        }
    }

    /// An own word that is not durable yet is in no group, and its record may lie behind words that
    /// this one takes the place of.
    fn may_restate(&self) -> bool {
        self.unwritten.is_empty() && !self.core.is_about_to_speak() && self.is_started()
    }

    /// Writes the group; its end, or none when the log has no room for all of it.
    fn restate(&mut self) -> Option<Position> {
        let standing = self.core.standing();
        let mut records = Vec::with_capacity(6);
        if let Some(certificate) = &standing.certificate {
            records.push(Record::Install(certificate.clone()));
        }
        let words = &standing.change;
        if let Some(own) = &words.view_change {
            records.push(Record::ViewChange(own.clone()));
        }
        if let Some(own) = &words.new_view {
            records.push(Record::NewView(own.clone()));
        }
        if let Some(ack) = words.ack {
            records.push(Record::Ack(ack));
        }
        if let Some(quorum) = &standing.quorum {
            records.push(Record::Commit(quorum.clone()));
        }
        if let Some(certificate) = &standing.checkpoint {
            records.push(Record::Checkpoint(certificate.clone()));
        }
        let records = records.iter().map(super::records::encode);
        let records = records.collect::<Vec<_>>();
        if !self.has_room_for(&records) {
            return None;
        }
        for (kind, body) in &records {
            self.record(*kind, body)
                .expect("room and buffers were counted, and nobody else takes them");
        }
        if standing.lease.max(standing.forgotten) > Slot(0) {
            // R3: never less than was promised, and still owed.
            let (lease, forgotten) = (standing.lease, standing.forgotten);
            let body = LeaseRecord::new(standing.installed, lease, forgotten);
            self.record(RecordKind::Lease, body.as_bytes())?;
        }
        let body = StandingRecord::new(
            self.config.boot,
            self.config.epoch,
            self.started_in,
            self.config.durability,
            &standing,
        );
        let end = self.record(RecordKind::Standing, body.as_bytes())?;
        self.record_decided();
        Some(end)
    }

    /// All of a group or nothing: half of it, again and again, would fill the log.
    fn has_room_for(&self, records: &[(RecordKind, Vec<u8>)]) -> bool {
        let long = |body: &Vec<u8>| RECORD_HEADER_BYTES + body.len() > SECTOR_BYTES;
        let longs = records.iter().filter(|(_, body)| long(body)).count();
        let bytes = records.iter().map(|(_, body)| body.len() + SECTOR_BYTES);
        let bytes = bytes.sum::<usize>() + 5 * SECTOR_BYTES;
        // LEASE, STANDING and DECIDED take a sector each.
        self.long_buffers.free() >= longs
            && self.sector_buffers.free() >= records.len() + 3
            && self.writer.fits(RecordKind::Commit, bytes).is_ok()
    }

    /// Names the decided prefix in the log, as far as its blocks are in it: a restart looks for them
    /// before this record. False when there is no room.
    pub(super) fn record_decided(&mut self) -> bool {
        let decided = self.decided_counted;
        let written = if self.deferred.is_empty() || planted("decidedahead") {
            decided
        } else {
            self.executed_fed.min(decided)
        };
        let Some(digest) = self.core.digest_at(written) else {
            return true;
        };
        let place = Place {
            slot: written,
            digest,
        };
        let body = DecidedRecord::new(place.slot, place.digest);
        let is_written = self.record(RecordKind::Decided, body.as_bytes()).is_some();
        if is_written {
            self.decided_recorded = place.slot;
        }
        is_written
    }

    fn let_go(&mut self, slot: Slot, before: Position) {
        let last = self.let_go_up_to(slot);
        let needed = |last| self.ledger.needed_above(last).unwrap_or(before).min(before);
        let without_others = needed(self.unneeded_with(slot));
        let needed = needed(last);
        self.held_back_bytes = without_others.0.saturating_sub(needed.0);
        let low = if planted("gcearly") { before } else { needed };
        self.writer.release(low);
        self.ledger.forget_below(low);
        self.retain_from(last.next());
        // Files are used again once a record that carries the mark is durable.
        self.record_decided();
    }
}
