//! What the hot threads tell the control thread: counters, gauges and histograms.
//!
//! One [`Telemetry`] per process behind an `Arc`. Hot threads only bump relaxed atomics: no lock,
//! no allocation, no system call. Each group below sits on cache lines of its own and is written
//! by the stage that it names, so a bump stays in that thread's cache; the control thread reads
//! now and then. Readers see each number on its own, never a consistent cut.
//!
//! Times are nanoseconds of the process's monotonic clock, the one that the stages pass to the
//! core.

mod address;
mod histogram;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use replica::ordering::WishReason;
use serde::Serialize;
use wire::ids::{Instant, NodeId};
use wire::messages::Durability;
use wire::reject::{REJECT_COUNT, Reject};

pub use address::AddressCell;
pub use histogram::{Histogram, HistogramSnapshot};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Takes over a total that somebody else counts, such as the driver. One writer.
    pub fn set(&self, total: u64) {
        self.0.store(total, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that the owner overwrites.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A yes or no that the owner overwrites.
#[derive(Debug, Default)]
pub struct Flag(AtomicU64);

impl Flag {
    pub fn set(&self, value: bool) {
        self.0.store(u64::from(value), Ordering::Relaxed);
    }

    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }
}

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident in $cell:ident { $($(#[$item_doc:meta])* $item:ident => $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $name { $($(#[$item_doc])* $item,)* }

        impl $name {
            /// Every value, in the order of its number.
            pub const ALL: &'static [$name] = &[$($name::$item,)*];

            /// As status and metrics spell it.
            pub fn name(self) -> &'static str {
                match self { $($name::$item => $text,)* }
            }
        }

        #[doc = concat!("Holds one [`", stringify!($name), "`].")]
        #[derive(Debug, Default)]
        pub struct $cell(AtomicU64);

        impl $cell {
            pub fn set(&self, value: $name) {
                self.0.store(value as u64, Ordering::Relaxed);
            }

            pub fn get(&self) -> $name {
                let number = self.0.load(Ordering::Relaxed) as usize;
                $name::ALL.get(number).copied().unwrap_or($name::ALL[0])
            }
        }
    };
}

choice! {
    /// Where the process stands.
    Phase in PhaseCell {
        /// Reading the log and filling the table.
        Starting => "starting",
        /// Takes part.
        Serving => "serving",
        /// Writing the last records before the end.
        Stopping => "stopping",
        /// A hot thread gave up; the process is about to end.
        Failed => "failed",
    }
}

choice! {
    /// Why the log takes no new blocks.
    LogFull in LogFullCell {
        No => "",
        /// All `segments_max` segments are in use.
        SegmentsMax => "the write-ahead log has reached segments_max: new transactions are refused, reads go on",
        /// The disk has no room for another segment file.
        NoSpace => "no space for a new WAL segment: new transactions are refused, reads go on",
    }
}

choice! {
    /// A component with a turn of its own.
    Stage in StageCell {
        Net => "net",
        Verify => "verify",
        Order => "order",
        Journal => "journal",
        Execute => "execute",
    }
}

/// Number of stages.
pub const STAGES: usize = Stage::ALL.len();

/// Written by the ordering stage.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Order {
    pub view: Gauge,
    /// Leader of `view`.
    pub leader: Gauge,
    pub is_leader: Flag,
    /// False in a leader that restarted within its view: rule R4 lets it vote, not propose.
    pub may_propose: Flag,
    pub committed_slot: Gauge,
    /// Of the epoch; 0 until it is known.
    pub last_slot: Gauge,
    pub committed_transactions: Counter,
    /// Blocks decided by F votes, and by the slow path.
    pub fast_commits: Counter,
    pub slow_commits: Counter,
    pub view_changes: Counter,
    /// Own wishes for another view, in the order of [`WishReason::ALL`].
    pub wishes: [Counter; WishReason::ALL.len()],
    /// Requests refused because the log is full or a queue is (replies of the kind Busy).
    pub busy_replies: Counter,
    pub retransmits: Counter,
    /// Proofs of a peer's misbehaviour held.
    pub evidence: Counter,
    pub blocks_in_flight: Gauge,
    pub pending_transactions: Gauge,
    /// Slot of the own stable checkpoint.
    pub checkpoint_slot: Gauge,
    /// Blocks from here on can be sent to others.
    pub retained_from: Gauge,
    /// Votes may leave up to this slot; 0 without leases (R3).
    pub lease: Gauge,
    /// This node is silent until a checkpoint at this slot; 0 when it is not (R3).
    pub silent_until: Gauge,
}

/// Written by the executing stage.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Execute {
    pub executed_slot: Gauge,
    pub executed_transactions: Counter,
    pub replies: Counter,
    /// READs answered (§9.6), and what became of fenced ones.
    pub stale_reads: Counter,
    pub fenced_reads: Counter,
    pub fenced_reads_waited: Counter,
    pub fenced_reads_dropped: Counter,
    pub fenced_reads_waiting: Gauge,
    pub sessions: Gauge,
    pub table_keys: Gauge,
    pub table_bytes: Gauge,
}

/// States that are taken over and given to others. Written by the executing stage.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Transfers {
    /// A state is being taken over; CHUNKs are taken in only then.
    pub active: Flag,
    /// Its slot, and how many bytes are known to differ and are here.
    pub slot: Gauge,
    pub bytes_differing: Gauge,
    pub bytes_verified: Gauge,
    pub installed: Counter,
    pub taken_bytes: Counter,
    pub served_bytes: Counter,
    /// CHUNKs that were false or that nobody asked for.
    pub refused: Counter,
}

/// Written by the thread that writes snapshot files.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Snapshots {
    pub written: Counter,
    pub failures: Counter,
    /// The disk failed: the process ends.
    pub given_up: Flag,
    /// The newest one; 0 when there is none.
    pub slot: Gauge,
    pub bytes: Gauge,
    /// An operator asks for one; not shown.
    pub wanted: Flag,
}

/// The table on disk; all 0 when there is none.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Table {
    /// Of entries that memory holds.
    pub memory_bytes: Gauge,
    pub disk_bytes: Gauge,
    pub tables: Gauge,
    /// Sorted runs that wait to be merged.
    pub runs: Gauge,
}

/// Written by the thread that looks for damage.
#[derive(Debug, Default)]
pub struct Scrub {
    /// Ended, over everything.
    pub passes: Counter,
    /// Of the last pass: good records, places that are not.
    pub log_bytes: Gauge,
    pub log_damaged: Gauge,
    /// Of the last pass: good buckets, and others.
    pub table_buckets: Gauge,
    pub table_damaged: Gauge,
}

/// Written by the stage that writes the log.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Log {
    /// Everything below is on stable storage.
    pub durable_position: Gauge,
    pub used_bytes: Gauge,
    /// Set once at start: `segment_bytes * segments_max`.
    pub max_bytes: Gauge,
    pub segments: Gauge,
    pub full: LogFullCell,
    pub flushes: Counter,
    pub written_bytes: Counter,
}

/// Written by the net stage, copied from the driver's own counts.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Io {
    pub received_datagrams: Counter,
    pub received_bytes: Counter,
    pub sent_datagrams: Counter,
    pub sent_bytes: Counter,
    /// Sends that the kernel refused.
    pub send_errors: Counter,
    /// Times the kernel found no receive buffer.
    pub no_receive_buffer: Counter,
    /// Multishot receives that were armed again.
    pub rearmed: Counter,
    /// Completions that did not fit into the completion queue.
    pub cq_overflows: Counter,
    /// Datagrams that the kernel dropped because the socket buffer was full (SO_RXQ_OVFL).
    pub kernel_drops: Counter,
    /// System calls that submitted or waited.
    pub enters: Counter,
}

impl Io {
    /// Name and value of each counter.
    pub fn list(&self) -> [(&'static str, u64); 10] {
        [
            ("received_datagrams", self.received_datagrams.get()),
            ("received_bytes", self.received_bytes.get()),
            ("sent_datagrams", self.sent_datagrams.get()),
            ("sent_bytes", self.sent_bytes.get()),
            ("send_errors", self.send_errors.get()),
            ("no_receive_buffer", self.no_receive_buffer.get()),
            ("rearmed", self.rearmed.get()),
            ("cq_overflows", self.cq_overflows.get()),
            ("kernel_drops", self.kernel_drops.get()),
            ("enters", self.enters.get()),
        ]
    }
}

/// Written by the verifying stage; several instances may share it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Verify {
    pub signatures: Counter,
    pub failures: Counter,
}

/// What is known of one peer; the own entry stays zero.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Peer {
    /// When an authentic datagram last came; 0 when none has.
    pub last_heard_ns: Gauge,
    pub committed_slot: Gauge,
    /// The slot at which it says its silence ends; 0 when it is not silent (R3). Written by the
    /// ordering stage, the own one included.
    pub silent_until: Gauge,
    /// Number of the peer's start; 0 while unknown. A leader of view 0 with more than one start
    /// cannot propose.
    pub boot: Gauge,
    /// As [`wire::link::PeerCounts`]: the boot that `link_end` belongs to, datagrams taken, and one
    /// more than the highest counter. Written by the net stage.
    pub link_boot: Gauge,
    pub link_taken: Gauge,
    pub link_end: Gauge,
    /// Source of the newest fresh datagram, when that is not where we send.
    pub elsewhere: AddressCell,
}

choice! {
    /// How alive a peer looks, by the age of its last word. Nothing decides by it.
    PeerState in PeerStateCell {
        Down => "down",
        Suspect => "suspect",
        Up => "up",
    }
}

choice! {
    /// Who said where a peer is. Whatever was said, the peer has answered there.
    AddressSource in AddressSourceCell {
        /// The committee file.
        Configured => "configured",
        /// A beacon, under the peer's signature.
        Beacon => "beacon",
        /// A probe, under the peer's MAC.
        Probe => "probe",
        /// The source of its datagrams.
        Link => "link",
    }
}

/// What the control thread found out about one peer; the own entry stays zero.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Whereabouts {
    /// Where to send; empty until discovery runs, and then that of the committee file at first.
    pub address: AddressCell,
    pub source: AddressSourceCell,
    pub state: PeerStateCell,
    /// Smoothed; 0 while unknown.
    pub round_trip_ns: Gauge,
    /// Datagrams lost on the way from the peer, in millionths of those it sent.
    pub loss_ppm: Gauge,
    /// Whether enough was heard lately for `loss_ppm` to mean anything.
    pub loss_known: Flag,
}

/// Written by the control thread, which looks for peers.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Discovery {
    /// Grows when an address in [`Whereabouts`] changes; the net stage looks at it.
    pub moves: Counter,
    pub signature_checks: Counter,
    pub received: Counter,
    pub sent: Counter,
    /// What the kernel refused to send.
    pub send_errors: Counter,
}

/// Refused bytes by reason; any hot thread writes.
#[derive(Debug)]
#[repr(align(128))]
pub struct Rejects([Counter; REJECT_COUNT]);

impl Rejects {
    pub fn count(&self, reject: Reject) {
        self.0[reject as usize].add(1);
    }

    pub fn get(&self, reject: Reject) -> u64 {
        self.0[reject as usize].get()
    }

    /// Reasons that occurred, and how often.
    pub fn nonzero(&self) -> impl Iterator<Item = (Reject, u64)> + '_ {
        Reject::ALL
            .iter()
            .map(|reject| (*reject, self.get(*reject)))
            .filter(|(_, count)| *count > 0)
    }
}

/// One item for each stage, each on a cache line of its own.
#[derive(Debug, Default)]
pub struct PerStage<T>([Apart<T>; STAGES]);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart<T>(T);

impl<T> PerStage<T> {
    pub fn of(&self, stage: Stage) -> &T {
        &self.0[stage as usize].0
    }

    pub fn iter(&self) -> impl Iterator<Item = (Stage, &T)> {
        let items = self.0.iter().map(|item| &item.0);
        Stage::ALL.iter().copied().zip(items)
    }
}

/// Durations and sizes of the stages.
#[derive(Debug, Default)]
pub struct Histograms {
    /// Submission of a log write to the completion of its flush.
    pub wal_flush_ns: Histogram,
    /// Records that one flush made durable.
    pub wal_group_records: Histogram,
    /// A block's proposal, sent or received, to its decision here.
    pub decide_ns: Histogram,
    /// One signature verification.
    pub verify_ns: Histogram,
    /// Execution of one decided block.
    pub execute_ns: Histogram,
    /// Transactions in a decided block.
    pub block_transactions: Histogram,
}

impl Histograms {
    /// Each histogram and its name, which ends in its unit.
    pub fn list(&self) -> [(&'static str, &Histogram); 6] {
        [
            ("wal_flush_ns", &self.wal_flush_ns),
            ("wal_group_records", &self.wal_group_records),
            ("decide_ns", &self.decide_ns),
            ("verify_ns", &self.verify_ns),
            ("execute_ns", &self.execute_ns),
            ("block_transactions", &self.block_transactions),
        ]
    }
}

/// What the process found and chose at start, which the configuration left open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Effective {
    pub backend: String,
    pub layout: String,
    pub cores: Vec<usize>,
    pub idle: String,
    pub durability: String,
    pub flush: String,
    pub direct: bool,
    pub datagram_bytes: usize,
    pub gso: bool,
    pub gro: bool,
    pub state_machine: String,
}

/// Everything that one process tells of itself. See the [module](self) documentation.
#[derive(Debug)]
pub struct Telemetry {
    pub node: NodeId,
    pub phase: PhaseCell,
    /// Number of this start; 0 until the log was read.
    pub boot: Gauge,
    /// When the process started.
    pub started: Instant,
    /// Set once, before `phase` becomes serving.
    pub effective: OnceLock<Effective>,
    /// Known before the log is read.
    pub durability: OnceLock<Durability>,
    pub order: Order,
    pub execute: Execute,
    pub transfers: Transfers,
    pub snapshots: Snapshots,
    pub table: Table,
    pub scrub: Scrub,
    pub log: Log,
    pub io: Io,
    pub verify: Verify,
    pub rejects: Rejects,
    /// Time of each stage's last turn; 0 for a stage that has no turn yet. A stage that is silent
    /// for seconds makes `/livez` fail.
    pub heartbeat_ns: PerStage<Gauge>,
    /// Items that wait in front of each stage.
    pub queue_depth: PerStage<Gauge>,
    /// Heap allocations of each stage since its thread was declared hot.
    pub hot_allocations: PerStage<Counter>,
    pub histograms: Histograms,
    /// By node id, the own one included.
    pub peers: Vec<Peer>,
    /// The same.
    pub whereabouts: Vec<Whereabouts>,
    pub discovery: Discovery,
}

impl Telemetry {
    pub fn new(node: NodeId, replicas: usize, started: Instant) -> Telemetry {
        Telemetry {
            node,
            phase: PhaseCell::default(),
            boot: Gauge::default(),
            started,
            effective: OnceLock::new(),
            durability: OnceLock::new(),
            order: Order::default(),
            execute: Execute::default(),
            transfers: Transfers::default(),
            snapshots: Snapshots::default(),
            table: Table::default(),
            scrub: Scrub::default(),
            log: Log::default(),
            io: Io::default(),
            verify: Verify::default(),
            rejects: Rejects([const { Counter(AtomicU64::new(0)) }; REJECT_COUNT]),
            heartbeat_ns: PerStage::default(),
            queue_depth: PerStage::default(),
            hot_allocations: PerStage::default(),
            histograms: Histograms::default(),
            peers: (0..replicas).map(|_| Peer::default()).collect(),
            whereabouts: (0..replicas).map(|_| Whereabouts::default()).collect(),
            discovery: Discovery::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_are_counted_by_reason() {
        let telemetry = Telemetry::new(NodeId(1), 4, Instant(0));
        telemetry.rejects.count(Reject::BadMac);
        telemetry.rejects.count(Reject::BadMac);
        let seen: Vec<_> = telemetry.rejects.nonzero().collect();
        assert_eq!(seen, [(Reject::BadMac, 2)]);
        assert_eq!(telemetry.peers.len(), 4);
    }

    #[test]
    fn choices_come_back() {
        let cell = LogFullCell::default();
        assert_eq!(cell.get(), LogFull::No);
        cell.set(LogFull::NoSpace);
        assert_eq!(cell.get(), LogFull::NoSpace);
    }
}
