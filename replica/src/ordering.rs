//! The ordering half: agreement, batching, and the log's writer on one thread.
//!
//! Carries out what [`consensus::Core`] decides: keeps block bytes by slot, seals log records,
//! signs votes, and turns effects into messages. Votes are released by durability alone: the core
//! emits one only after [`Input::Durable`] has covered the record.

mod answers;
mod blocks_in;
mod epoch;
mod handle;
mod interface;
mod judging;
mod padding;
mod records;
pub(crate) mod release;
mod requests;

use std::collections::VecDeque;

pub use consensus::WishReason;
use consensus::{Core, Outbox, Record, RecordAs, Summary};
use storage::record::Kind as RecordKind;
use storage::wal::{Durable, WalFull, Writer};
use wire::bytes::Buffers;
use wire::certificates::Place;
use wire::ids::{Boot, Epoch, Instant, NodeId, Position, Slot, View};
use wire::limits::WINDOW;
use wire::messages::{CleanStopRecord, Durability, StartRecord};
use wire::seal::{Signer, Verifier};
use zerocopy::IntoBytes;

use self::epoch::EpochEnd;
use crate::batch::{Batch, BatchLimits, Seen};
use crate::blocks::{Blocks, Location, Raw};
use crate::execution::Work;
use crate::ledger::Ledger;
use crate::peer::Grains;
use crate::pending::{Patience, Pending};
use crate::recorder::{Recorded, Tape};

pub use handle::SCARCE_BUFFERS;
pub use interface::{Input, Output, ReadBack, Want};
use judging::Judging;
pub use judging::judged_max;
use padding::Padding;
use release::Release;

/// Blocks of one repair answer stop after this many bytes; the asker asks again.
const REPAIR_BYTES_MAX: usize = 1024 * 1024;
/// Reads of old blocks from the log that may be under way.
const READS_MAX: usize = 64;
/// T_fwd at most. A leader that answers only forwarded requests, and slowly, makes patience long;
/// its clients would wait an eighth of that for every operation.
const FORWARD_NS_MAX: u64 = 125_000_000;
/// Between two records that name the decided prefix, in slots.
pub const DECIDED_RECORD_EVERY: u64 = 64;
/// Statements of this replica that peers show and its log does not know, checked at most.
const RECALLS_MAX: u32 = 1024;
/// Outputs that one input leaves without more memory.
const EFFECTS_MAX: usize = 4096;

/// Counts of this half, read by gauges.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub fast_blocks: u64,
    pub slow_blocks: u64,
    pub learned_blocks: u64,
    /// Views installed.
    pub view_changes: u64,
    pub proposed_blocks: u64,
    pub evidence: u64,
    pub busy: u64,
    pub duplicates: u64,
}

/// What does not change while the process runs.
#[derive(Clone, Debug)]
pub struct OrderingConfig {
    pub me: NodeId,
    pub epoch: Epoch,
    pub boot: Boot,
    pub batch: BatchLimits,
    /// K: slots between checkpoints.
    pub interval: u64,
    /// A snapshot is made when the log in use has this many bytes.
    pub snapshot_log_bytes: u64,
    /// Which votes wait for the disk; the same that the core is told.
    pub durability: Durability,
    /// Wall clock minus the driver's monotonic clock, for the leader's time hint.
    pub wall_offset_ns: u64,
}

/// See the module's documentation.
pub struct Ordering<Bu: Buffers, S: Signer, V: Verifier> {
    config: OrderingConfig,
    core: Recorded<S>,
    outbox: Outbox,
    /// Swapped with `outbox` while effects are carried out.
    spare_outbox: Option<Outbox>,
    batch: Batch<Bu>,
    seen: Seen,
    pub(crate) blocks: Blocks<Bu>,
    pub(crate) ledger: Ledger,
    writer: Writer,
    /// Block buffers, single sectors for small records, and buffers as large as a block's for long
    /// records and messages.
    block_buffers: Bu,
    sector_buffers: Bu,
    long_buffers: Bu,
    rivals_forgotten_at: Instant,
    verifier: V,
    outputs: VecDeque<Output<Bu>>,
    /// The raw block being offered to the core.
    offered: Option<(Place, Raw<Bu::Unique>)>,
    judging: Judging,
    /// Grains that the fetch being handled asks for.
    asked: Option<Grains>,
    /// Requests that wait for the leader.
    pending: Pending,
    executed_fed: Slot,
    decided_counted: Slot,
    /// Linked blocks that wait for room in the log, in order, and whether to verify each.
    deferred: VecDeque<(Place, RecordAs, bool)>,
    /// Records that wait for room, in order.
    unwritten: VecDeque<Record>,
    /// Bytes of blocks up to here were dropped.
    released: Slot,
    /// Requests of blocks up to here wait no more.
    settled: Slot,
    decided_recorded: Slot,
    release: Release,
    /// What this replica stands for is to be said again in the log, for older records do not tell
    /// it (K3).
    restate_due: bool,
    padding: Padding,
    /// Of the newest snapshot.
    saved: Slot,
    /// The oldest snapshot that others are shown, when the newest was made.
    shown_from: Option<Slot>,
    /// Bytes of the log that are kept for them alone.
    held_back_bytes: u64,
    /// A snapshot is asked for although the log has not grown.
    save_early: bool,
    epoch_end: EpochEnd,
    /// No snapshot is asked for before this slot is executed.
    save_after: Slot,
    save_not_before: Instant,
    /// Blocks below are not served.
    retained_from: Slot,
    keeps_newest: bool,
    keeps_until: Slot,
    /// Stage named by START.
    started_in: View,
    reads: usize,
    /// What each asker is still to be sent from the log.
    from_log: Vec<Option<answers::FromLog>>,
    /// What each peer says of own statements is looked at so often more (R6): a liar's word costs a
    /// signature check, and nobody else's.
    recalls_left: Vec<u32>,
    disk_lost: bool,
    /// Newest view against whose leader evidence was stored.
    evidence_in: Option<View>,
    counts: Counts,
    log_full: Option<WalFull>,
    more_expected: bool,
    /// End of the START record: nothing is sent before it is durable (R4).
    started_at: Option<Position>,
    durable: Position,
    /// The marker of a clean stop was written.
    stopped: bool,
    /// When the newest own blocks were proposed; for the histogram of decisions.
    proposed_at: VecDeque<(Slot, Instant)>,
    decide_samples: VecDeque<u64>,
}

impl<Bu: Buffers, S: Signer, V: Verifier> Ordering<Bu, S, V> {
    pub fn new(
        config: OrderingConfig,
        core: Core<S>,
        ledger: Ledger,
        writer: Writer,
        block_buffers: Bu,
        sector_buffers: Bu,
        long_buffers: Bu,
        verifier: V,
    ) -> Self {
        let summary = core.summary();
        let retained_from = core.retained_from();
        let keeps_newest =
            release::keeps_newest_from_start(retained_from, &writer, config.interval);
        let recalls_left = vec![RECALLS_MAX; core.replicas()];
        let judging = Judging::new(core.replicas());
        let from_log = vec![None; core.replicas()];
        let batch = Batch::new(config.batch, config.me, core.replicas());
        let mut ordering = Ordering {
            config,
            core: Recorded::new(core),
            outbox: Outbox::new(),
            spare_outbox: Some(Outbox::new()),
            batch,
            seen: Seen::new(1 << 16),
            more_expected: false,
            blocks: Blocks::new(),
            ledger,
            writer,
            block_buffers,
            sector_buffers,
            long_buffers,
            rivals_forgotten_at: Instant(0),
            verifier,
            outputs: VecDeque::with_capacity(EFFECTS_MAX),
            offered: None,
            judging,
            asked: None,
            pending: Pending::new(),
            executed_fed: summary.decided,
            decided_counted: summary.decided,
            deferred: VecDeque::with_capacity(WINDOW as usize),
            unwritten: VecDeque::new(),
            released: Slot(summary.decided.0.saturating_sub(1)),
            settled: summary.decided,
            decided_recorded: summary.decided,
            release: Release::Idle,
            restate_due: false,
            padding: Padding::new(),
            saved: Slot(0),
            shown_from: None,
            held_back_bytes: 0,
            save_early: false,
            epoch_end: EpochEnd::Far,
            save_after: Slot(0),
            save_not_before: Instant(0),
            retained_from,
            keeps_newest,
            keeps_until: Slot(0),
            started_in: summary.stage,
            reads: 0,
            from_log,
            recalls_left,
            disk_lost: false,
            evidence_in: None,
            counts: Counts::default(),
            log_full: None,
            started_at: None,
            durable: Position(0),
            stopped: false,
            proposed_at: VecDeque::with_capacity(2 * wire::limits::IN_FLIGHT as usize),
            decide_samples: VecDeque::with_capacity(2 * wire::limits::IN_FLIGHT as usize),
        };
        ordering.start();
        ordering
    }

    /// R4: START is written first, and nothing is sent before it is durable.
    fn start(&mut self) {
        let summary = self.core.summary();
        let epoch = self.config.epoch;
        let durability = self.config.durability;
        let body = StartRecord::new(self.config.boot, epoch, summary.stage, durability);
        let end = self.record(RecordKind::Start, body.as_bytes());
        self.started_at = Some(end.expect("the log keeps room for START"));
        self.core.set_started(false);
    }

    /// Writes the marker of a clean stop and says where it ends; nothing but the disk's word is
    /// taken in from then on. The caller waits until it is durable and then ends. `None` when the
    /// log, or a pool, has no room now, and while the others are asked: the marker would tell the
    /// next process that there is nothing to ask (R6).
    pub fn stop(&mut self) -> Option<Position> {
        if self.core.is_recalling() {
            return None;
        }
        let body = CleanStopRecord::new(self.config.boot);
        let end = self.record(RecordKind::CleanStop, body.as_bytes());
        self.stopped |= end.is_some();
        end
    }

    /// Whether a start after an unclean end owes anything (R3, R5), so that a clean one is worth
    /// waiting for.
    pub fn needs_clean_stop(&self) -> bool {
        self.config.durability != Durability::Sync
    }

    /// R6: listens to what others hold of this replica, and waits for it unless the earlier process
    /// stopped cleanly. A first boot waits for nothing, for a new cluster has nothing to say; on an
    /// emptied disk it learns that there were others before.
    pub fn recall(&mut self, clean: bool) {
        self.core.recall(clean || self.config.boot == Boot(1));
    }

    /// Everything below is durable.
    pub fn durable(&self) -> Position {
        self.durable
    }

    /// True once START is durable.
    pub fn is_started(&self) -> bool {
        self.started_at.is_none()
    }

    pub fn summary(&self) -> Summary {
        self.core.summary()
    }

    /// Everything up to this slot is final, and what the core said on the way has left it: effects
    /// are carried out in order, and wait while the log is full.
    pub fn decided(&self) -> Slot {
        self.decided_counted
    }

    pub fn core(&self) -> &Core<S> {
        &self.core
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Why new transactions are refused, when they are.
    pub fn log_full(&self) -> Option<WalFull> {
        self.log_full
    }

    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Requests that wait for a block.
    pub fn depth(&self) -> usize {
        self.batch.depth()
    }

    /// Nanoseconds from proposal to decision of own blocks since the last call.
    pub fn decide_samples(&mut self) -> impl Iterator<Item = u64> + '_ {
        self.decide_samples.drain(..)
    }

    /// Whether this replica takes new requests now: it leads and its log has room.
    pub fn leads(&self) -> bool {
        self.may_propose() && self.log_full.is_none()
    }

    /// How long requests may wait at this replica, as the commit latency is now.
    fn patience(&self) -> Patience {
        let progress_ns = self.core.progress_ns();
        Patience {
            forward_ns: (progress_ns / 8).min(FORWARD_NS_MAX),
            request_ns: 4 * progress_ns,
        }
    }

    /// Requests that wait for the leader.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Whether this replica leads and has not restarted within the view (R4).
    pub fn may_propose(&self) -> bool {
        let summary = self.core.summary();
        summary.leader == self.config.me && !summary.barred
    }

    /// Takes over what recovery found: the bytes of undecided blocks, the slot of the snapshot that
    /// it began from, and that everything decided was executed.
    pub fn resume(
        &mut self,
        now: Instant,
        durable: Durable,
        snapshot: Option<Slot>,
        undecided: impl IntoIterator<Item = (Place, Bu::Shared, Location)>,
    ) {
        for (place, message, location) in undecided {
            // Of a slot with too many rivals the core remembers those that count.
            if self.core.has_written(place) {
                self.blocks.keep(place, message, location);
            }
        }
        self.writer.acknowledge(durable);
        self.durable = durable.position();
        if let Some(slot) = snapshot {
            // The process before may have ended before it let the log go behind it.
            self.on_saved(slot, None);
        }
        let slot = self.core.summary().decided;
        let work = Work::default();
        self.handle(now, Input::Executed { slot, work });
    }

    /// Records what the core is told, and what it answers, from now on; to be called before the first
    /// input after [`Ordering::resume`].
    pub fn record_to(&mut self, tape: Box<dyn Tape>) {
        self.core.record_to(tape);
    }

    /// The next thing to do, oldest first.
    pub fn next_output(&mut self) -> Option<Output<Bu>> {
        while let Some(output) = self.outputs.pop_front() {
            if !self.disk_lost || matches!(output, Output::DiskLost(_)) {
                return Some(output);
            }
        }
        None
    }

    /// Says whether more requests are about to come out of verification. A leader that has nothing
    /// undecided then waits for them, tau at most: under load each signature check would otherwise
    /// end in a block of its own.
    pub fn expect_more(&mut self, more: bool) {
        self.more_expected = more;
    }

    pub fn has_output(&self) -> bool {
        !self.outputs.is_empty()
    }

    /// When [`Input::Tick`] is due at the latest.
    pub fn wake_at(&self) -> Instant {
        if self.stopped {
            return Instant(u64::MAX);
        }
        let core = self.core.wake_at().min(self.pending.wake_at());
        match self.batch.due_at() {
            Some(due) if self.core.proposal_parent().is_some() => due.min(core),
            _ => core,
        }
    }
}
