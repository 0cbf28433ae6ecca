//! `status.json`: everything one node says of itself, and the same for those who read it.

use std::collections::BTreeMap;

use platform::process;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Source, health};
use crate::telemetry::{LogFull, Telemetry};
use wire::ids::{Instant, NodeId};

/// Version of this document.
pub const SCHEMA_VERSION: u32 = 1;

/// The document. Counters run from the process's start; times and sizes carry their unit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub schema_version: u32,
    pub node: u16,
    pub version: String,
    /// Number of this start; 0 until the log was read.
    pub boot: u64,
    pub state: String,
    pub reason: String,
    pub view: u64,
    pub leader: u16,
    pub is_leader: bool,
    pub committed_slot: u64,
    pub executed_slot: u64,
    pub durable_position: u64,
    pub committed_transactions: u64,
    pub executed_transactions: u64,
    pub fast_commits: u64,
    pub slow_commits: u64,
    pub view_changes: u64,
    pub busy_replies: u64,
    pub retransmits: u64,
    pub evidence: u64,
    #[serde(default)]
    pub checkpoint: CheckpointStatus,
    #[serde(default)]
    pub epoch: EpochStatus,
    #[serde(default)]
    pub lease: LeaseStatus,
    pub log: LogStatus,
    pub table: TableStatus,
    #[serde(default)]
    pub scrub: ScrubStatus,
    pub cpu_seconds: f64,
    pub rss_bytes: u64,
    pub uptime_seconds: f64,
    /// Sparse: (lower, upper, count), `lower <= value < upper`.
    pub histograms: BTreeMap<String, Vec<(u64, u64, u64)>>,
    pub hot_allocations: BTreeMap<String, u64>,
    pub queue_depth: BTreeMap<String, u64>,
    pub peers: Vec<PeerStatus>,
    pub rejects: BTreeMap<String, u64>,
    pub io: BTreeMap<String, u64>,
    /// Null until the node serves.
    pub config: Value,
}

/// Certified states: what this node holds, keeps on the disk, and takes from others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckpointStatus {
    /// Slot of the newest certified state that this node holds.
    pub slot: u64,
    /// Blocks from this slot on can be sent to others.
    pub retained_from: u64,
    /// The newest snapshot file; 0 when there is none.
    pub snapshot_slot: u64,
    pub snapshot_bytes: u64,
    /// Of this process.
    pub snapshots: u64,
    pub snapshot_failures: u64,
    /// A state is being taken over: of this slot, with so many bytes to fetch, so many here.
    pub transferring: bool,
    pub transfer_slot: u64,
    pub transfer_bytes_differing: u64,
    pub transfer_bytes_verified: u64,
    /// States taken over by this process, and bytes taken and sent for such.
    pub transfers: u64,
    pub transfer_bytes: u64,
    pub transfer_served_bytes: u64,
}

/// Votes without the disk (R3).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaseStatus {
    /// Which votes wait for the disk: sync, lease or none.
    pub durability: String,
    /// Votes leave up to this slot; 0 without leases.
    pub slot: u64,
    /// This node gives no vote until a checkpoint at `silent_until`.
    pub silent: bool,
    pub silent_until: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogStatus {
    pub used_bytes: u64,
    pub max_bytes: u64,
    pub segments: u64,
    pub full: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TableStatus {
    pub keys: u64,
    pub bytes: u64,
    pub sessions: u64,
}

/// Which committee this is (protocol §10).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EpochStatus {
    pub number: u64,
    /// Digest of the committee.
    pub committee: String,
    /// Slot at which the epoch ends; 0 until that is known.
    pub last_slot: u64,
}

/// What was found by reading the disk again; of the last pass, but for their number.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScrubStatus {
    pub passes: u64,
    pub log_bytes: u64,
    /// Places of the log that a start could not read.
    pub log_damaged: u64,
    pub table_buckets: u64,
    /// Buckets of the table on disk that are not those of the certified checkpoint.
    pub table_damaged: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    pub id: u16,
    /// Where this node sends to it.
    pub address: String,
    /// Who said so: configured, beacon, probe, link. The peer has answered there in every case.
    pub address_source: String,
    /// Heard within a second.
    pub up: bool,
    /// up, suspect or down, by `[discovery] suspect_after` and `down_after`, with hysteresis.
    pub state: String,
    /// Null when no authentic datagram has come.
    pub last_heard_ms: Option<u64>,
    /// The same on a finer scale.
    pub last_word_age_ns: Option<u64>,
    /// Smoothed; null until the peer answered a probe at its address.
    pub round_trip_ns: Option<u64>,
    /// Share of its datagrams of the last ten seconds that did not come; null when it sent few.
    pub loss: Option<f64>,
    pub committed_slot: u64,
    /// The slot at which it says its silence ends; 0 when it is not silent.
    #[serde(default)]
    pub silent_until: u64,
    pub boot: u64,
}

impl Status {
    /// The document of this moment.
    pub fn of(source: &Source) -> Status {
        let telemetry = &*source.telemetry;
        let now = (source.now)();
        let (state, reason) = health::judge(source);
        let order = &telemetry.order;
        let config = telemetry.effective.get();
        Status {
            schema_version: SCHEMA_VERSION,
            node: telemetry.node.0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot: telemetry.boot.get(),
            state: state.name().to_owned(),
            reason,
            view: order.view.get(),
            leader: order.leader.get() as u16,
            is_leader: order.is_leader.get(),
            committed_slot: order.committed_slot.get(),
            executed_slot: telemetry.execute.executed_slot.get(),
            durable_position: telemetry.log.durable_position.get(),
            committed_transactions: order.committed_transactions.get(),
            executed_transactions: telemetry.execute.executed_transactions.get(),
            fast_commits: order.fast_commits.get(),
            slow_commits: order.slow_commits.get(),
            view_changes: order.view_changes.get(),
            busy_replies: order.busy_replies.get(),
            retransmits: order.retransmits.get(),
            evidence: order.evidence.get(),
            checkpoint: CheckpointStatus::of(telemetry),
            epoch: EpochStatus {
                number: source.committee.epoch().0,
                committee: format!("{:#}", source.committee.digest()),
                last_slot: telemetry.order.last_slot.get(),
            },
            lease: LeaseStatus {
                durability: telemetry
                    .durability
                    .get()
                    .map_or("", |durability| durability.name())
                    .to_owned(),
                slot: order.lease.get(),
                silent: order.silent_until.get() > 0,
                silent_until: order.silent_until.get(),
            },
            log: LogStatus {
                used_bytes: telemetry.log.used_bytes.get(),
                max_bytes: telemetry.log.max_bytes.get(),
                segments: telemetry.log.segments.get(),
                full: telemetry.log.full.get() != LogFull::No,
            },
            table: TableStatus {
                keys: telemetry.execute.table_keys.get(),
                bytes: telemetry.execute.table_bytes.get(),
                sessions: telemetry.execute.sessions.get(),
            },
            scrub: ScrubStatus {
                passes: telemetry.scrub.passes.get(),
                log_bytes: telemetry.scrub.log_bytes.get(),
                log_damaged: telemetry.scrub.log_damaged.get(),
                table_buckets: telemetry.scrub.table_buckets.get(),
                table_damaged: telemetry.scrub.table_damaged.get(),
            },
            cpu_seconds: process::cpu_seconds(std::process::id()).unwrap_or(0.0),
            rss_bytes: process::rss_bytes(std::process::id()).unwrap_or(0),
            uptime_seconds: now.since_ns(telemetry.started) as f64 / 1e9,
            histograms: telemetry
                .histograms
                .list()
                .map(|(name, histogram)| (name.to_owned(), histogram.snapshot().buckets))
                .into(),
            hot_allocations: telemetry
                .hot_allocations
                .iter()
                .map(|(stage, count)| (stage.name().to_owned(), count.get()))
                .collect(),
            queue_depth: telemetry
                .queue_depth
                .iter()
                .map(|(stage, depth)| (stage.name().to_owned(), depth.get()))
                .collect(),
            peers: peers(source, now),
            rejects: telemetry
                .rejects
                .nonzero()
                .map(|(reject, count)| (reject.name().to_owned(), count))
                .collect(),
            io: telemetry
                .io
                .list()
                .map(|(name, count)| (name.to_owned(), count))
                .into(),
            config: serde_json::to_value(config).unwrap_or_default(),
        }
    }
}

impl CheckpointStatus {
    fn of(telemetry: &Telemetry) -> CheckpointStatus {
        let (transfers, snapshots) = (&telemetry.transfers, &telemetry.snapshots);
        CheckpointStatus {
            slot: telemetry.order.checkpoint_slot.get(),
            retained_from: telemetry.order.retained_from.get(),
            snapshot_slot: snapshots.slot.get(),
            snapshot_bytes: snapshots.bytes.get(),
            snapshots: snapshots.written.get(),
            snapshot_failures: snapshots.failures.get(),
            transferring: transfers.active.get(),
            transfer_slot: transfers.slot.get(),
            transfer_bytes_differing: transfers.bytes_differing.get(),
            transfer_bytes_verified: transfers.bytes_verified.get(),
            transfers: transfers.installed.get(),
            transfer_bytes: transfers.taken_bytes.get(),
            transfer_served_bytes: transfers.served_bytes.get(),
        }
    }
}

fn peers(source: &Source, now: Instant) -> Vec<PeerStatus> {
    let telemetry = &*source.telemetry;
    let all = telemetry.peers.iter().zip(&source.members).enumerate();
    all.filter(|(id, _)| *id != telemetry.node.index())
        .map(|(id, (peer, address))| {
            let heard_ns = peer.last_heard_ns.get();
            let age_ns = (heard_ns != 0).then_some(now.since_ns(Instant(heard_ns)));
            let seen = &telemetry.whereabouts[id];
            let round_trip_ns = seen.round_trip_ns.get();
            let loss = seen.loss_ppm.get() as f64 / 1e6;
            PeerStatus {
                id: id as u16,
                address: seen.address.get().unwrap_or(*address).to_string(),
                address_source: seen.source.get().name().to_owned(),
                state: seen.state.get().name().to_owned(),
                up: health::is_up(telemetry, NodeId(id as u16), now),
                last_heard_ms: age_ns.map(|age_ns| age_ns / 1_000_000),
                last_word_age_ns: age_ns,
                round_trip_ns: (round_trip_ns != 0).then_some(round_trip_ns),
                loss: seen.loss_known.get().then_some(loss),
                committed_slot: peer.committed_slot.get(),
                silent_until: peer.silent_until.get(),
                boot: peer.boot.get(),
            }
        })
        .collect()
}
