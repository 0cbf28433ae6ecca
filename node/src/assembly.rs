//! Builds the stages of a node from what recovery found, and joins them with rings.

use std::time::Duration;

use platform::clock;
use platform::driver::{Backend, Sync};
use platform::file::LogFile;
use platform::pool::Pool;
use platform::waker::Waker;
use replica::admission::Followed;
use replica::agreement::Core;
use replica::agreement::quorum::Quorums;
use replica::batch::BatchLimits;
use replica::ordering::{Ordering, OrderingConfig};
use replica::reads::Reads;
use replica::recording::Description;
use replica::saving::Saving;
use replica::takeover::Takeover;
use replica::verify_queue::VerifyQueue;
use replica::verifying::Verifying;
use storage::wal::{Journal, JournalLimits, Writer};
use wire::committee::{Committee, VoteAuthentication};
use wire::ids::{Boot, Instant, NodeId, Slot};
use wire::keys::NodeSecret;
use wire::limits::{CHECKPOINT_INTERVAL, MESSAGE_BYTES_MAX};
use wire::link::{BLOCK_REASSEMBLY, Endpoint, EndpointConfig, MESSAGE_REASSEMBLY};
use wire::seal::{Ed25519Signer, Ed25519Verifier, Rules};

use crate::buffers::Pooled;
use crate::config::{BackendChoice, Config, Flush};
use crate::datadir::{DataDirectory, snapshots, tables};
use crate::discovery::{Arrived, RING_DEPTH};
use crate::exit::{Exit, ExitContext, Refusal};
use crate::flight::{self, Flight};
use crate::restore::Restored;
use crate::run::{HELD_BLOCKS, Pools, Segments};
use crate::scrub;
use crate::stages::Shared;
use crate::stages::execute::{Duties, Execute, ReplyWriter};
use crate::stages::journal::JournalStage;
use crate::stages::links::{Inlet, Outlet, link};
use crate::stages::net::Net;
use crate::stages::order::Order;
use crate::stages::thread::Stages;
use crate::stages::verify::Verify;
use crate::telemetry::Stage;
use crate::topology::{Layout, depth};

/// Requests that wait at the leader at most before clients are told Busy.
const WAITING_MAX: usize = 256;
/// Records that wait for the write in flight, and what one write takes.
const JOURNAL: JournalLimits = JournalLimits {
    queued_max: 512,
    batch_parts_max: 64,
    batch_bytes_max: 4 << 20,
};

/// A node that is further behind a checkpoint takes the state over instead of the blocks, in slots.
const TRANSFER_BEYOND: u64 = 2 * CHECKPOINT_INTERVAL;
/// What peers say about states waits here, apart from what clients want.
const STATES_DEPTH: usize = 64;

/// What a node is built from.
pub struct Assembly<'a> {
    pub config: &'a Config,
    pub committee: &'a Committee,
    pub secret: &'a NodeSecret,
    pub directory: &'a DataDirectory,
    pub pools: &'a Pools,
    pub shared: &'a Shared,
    pub datagram_bytes: usize,
}

/// Stages by thread, and the way for new segment files to the journal.
pub struct Built {
    pub stages: Vec<Stages>,
    pub new_segments: Outlet<LogFile>,
    /// Datagrams of discovery, for the control thread.
    pub discovery: Inlet<Arrived>,
}

/// What the core of a node is told of its committee and configuration.
fn core_config(
    config: &Config,
    committee: &Committee,
    me: NodeId,
    boot: Boot,
) -> replica::agreement::Config {
    replica::agreement::Config {
        me,
        quorums: Quorums::of(committee),
        epoch: committee.epoch(),
        genesis: committee.genesis(),
        boot,
        blocks_held_max: HELD_BLOCKS,
        interval: CHECKPOINT_INTERVAL,
        patience_ns_min: config.consensus.patience_ns_min,
        replaces_slow_leaders: config.consensus.replaces_slow_leaders,
        batch_delay_ns: config.consensus.batch_delay_ns,
        sign_votes: committee.vote_authentication() == VoteAuthentication::Signature,
        transfer_beyond: TRANSFER_BEYOND,
        durability: config.storage.durability,
    }
}

/// The driver's backend by configuration.
pub fn backend(config: &Config) -> Backend {
    match config.network.backend {
        BackendChoice::Auto => Backend::Auto,
        BackendChoice::Uring => Backend::Uring,
        BackendChoice::Mmsg => Backend::Mmsg,
    }
}

/// Judges what the members of a committee have signed, as it stands on a disk.
pub fn verifying(committee: &Committee) -> Verifying<Ed25519Verifier> {
    Verifying::new(Ed25519Verifier::new(committee), Rules::of(committee))
        .with_origin(committee.origin_root())
}

/// Makes every stage and every ring of the layout.
pub fn build(
    node: Assembly<'_>,
    restored: Restored,
    segments: Segments,
    layout: Layout,
    wakers: &[Waker],
) -> Result<Built, Refusal> {
    let Restored {
        execution,
        restarted,
        store,
    } = restored;
    let (committee, pools, shared) = (node.committee, node.pools, node.shared);
    let now = Instant(clock::now_ns());
    // A consumer on the producer's own thread needs no waking.
    let waker = |from: Stage, to: Stage| {
        let (from, to) = (layout.thread_of(from), layout.thread_of(to));
        (from != to).then(|| wakers[to].clone())
    };
    macro_rules! ring {
        ($from:ident, $to:ident) => {
            link(
                depth(Stage::$from, Stage::$to),
                waker(Stage::$from, Stage::$to),
            )
        };
    }
    let (net_to_verify, verify_from_net) = ring!(Net, Verify);
    let (net_to_order, order_from_net) = ring!(Net, Order);
    let (net_to_execute, execute_from_net) = ring!(Net, Execute);
    let (verify_to_order, order_from_verify) = ring!(Verify, Order);
    let (order_to_net, net_from_order) = ring!(Order, Net);
    let (order_to_journal, journal_from_order) = ring!(Order, Journal);
    let (order_to_execute, execute_from_order) = ring!(Order, Execute);
    let (order_to_verify, verify_from_order) = ring!(Order, Verify);
    let (journal_to_order, order_from_journal) = ring!(Journal, Order);
    let (execute_to_order, order_from_execute) = ring!(Execute, Order);
    let (execute_to_net, net_from_execute) = ring!(Execute, Net);
    // The control thread looks by itself.
    let (net_to_discovery, discovery) = link(RING_DEPTH, None);
    let execute_waker = wakers[layout.thread_of(Stage::Execute)].clone();
    let (net_to_states, states_from_net) = link(STATES_DEPTH, waker(Stage::Net, Stage::Execute));
    let journal_thread = layout.thread_of(Stage::Journal);
    let (new_segments, journal_segments) = link(16, Some(wakers[journal_thread].clone()));

    let signer = || Ed25519Signer::new(committee, node.secret).or_exit(Exit::Preflight, "key");
    let durable = restarted.recovery.flushed();
    let boot = restarted.boot;
    let core_config = core_config(node.config, committee, shared.me, boot);
    let votes_verified = core_config.quorums.has_slow_path();
    let core = Core::new(core_config, signer()?, restarted.recovered, now);
    let writer = Writer::new(
        node.directory.superblock.geometry,
        node.directory.superblock.identity(),
        restarted.tail,
    );
    shared.telemetry.boot.set(u64::from(boot.0));
    // What recovery executed counts, also if nothing follows.
    let executed = &shared.telemetry.execute;
    executed.executed_slot.set(execution.executed().0);
    executed.executed_transactions.set(execution.transactions());
    executed.sessions.set(execution.sessions() as u64);
    shared
        .telemetry
        .order
        .committed_transactions
        .set(execution.transactions());
    shared
        .telemetry
        .log
        .max_bytes
        .set(node.directory.superblock.geometry.max_bytes());
    let mut ordering = Ordering::new(
        OrderingConfig {
            me: shared.me,
            epoch: committee.epoch(),
            boot,
            interval: CHECKPOINT_INTERVAL,
            snapshot_log_bytes: node.config.storage.snapshot_log_bytes(),
            durability: node.config.storage.durability,
            batch: BatchLimits {
                delay_ns: node.config.consensus.batch_delay_ns,
                payload_bytes_max: node.config.consensus.block_bytes_max,
                waiting_max: client_share(&pools.receive),
            },
            wall_offset_ns: clock::wall_ns().saturating_sub(now.0),
        },
        core,
        restarted.ledger,
        writer,
        Pooled(pools.blocks.clone()),
        Pooled(pools.sectors.clone()),
        Pooled(pools.longs.clone()),
        Ed25519Verifier::new(committee),
    );
    ordering.note_last(execution.last_slot());
    ordering.resume(now, durable, restarted.snapshot, restarted.undecided);
    if restarted.lacks_copy {
        ordering.save_early();
    }
    ordering.recall(restarted.clean);
    let (flight, tape) = Flight::new();
    ordering.record_to(tape);
    let description = Description {
        node: shared.me,
        boot: boot.0,
        program: format!("hippo {}", env!("CARGO_PKG_VERSION")),
        reason: String::new(),
        wall_offset_ns: clock::wall_ns().saturating_sub(now.0),
        committee: committee.clone(),
    };
    flight::install(flight, node.directory.recordings_path(), description);
    shared.fence.publish(ordering.core().fence());
    let saved = restarted.snapshot.unwrap_or(Slot(0));
    let mut saving = Saving::new(committee.cluster(), shared.me, saved);
    if let Some(certificate) = ordering.core().checkpoint() {
        saving.certified(certificate.clone(), execution.pinned());
    }
    // A machine without keys has no copy on disk.
    let (telemetry, stopped) = (shared.telemetry.clone(), shared.stopped.clone());
    let data = &node.directory.path;
    if node.config.storage.scrub_interval_ns > 0 {
        let plan = scrub::Plan {
            data: data.clone(),
            geometry: node.directory.superblock.geometry,
            identity: node.directory.superblock.identity(),
            has_table: store.is_some(),
            rate: node.config.storage.scrub_rate,
            interval: Duration::from_nanos(node.config.storage.scrub_interval_ns),
        };
        scrub::start(plan, shared.clone())
            .or_exit(Exit::Failure, "cannot start the thread that reads the disk")?;
    }
    let writer = match store {
        Some(store) => tables::start(store, data, telemetry, stopped, execute_waker),
        None => {
            let directory = node.directory.snapshots_path();
            snapshots::start(directory, telemetry, stopped, execute_waker)
        }
    };
    let duties = Duties {
        takeover: Takeover::new(shared.me, committee.n()),
        saving,
        from_net: states_from_net,
        snapshots: writer.or_exit(Exit::Failure, "cannot start the writer of snapshots")?,
        chunk: Vec::with_capacity(MESSAGE_BYTES_MAX),
        expired_at: now,
    };
    let endpoint_config = EndpointConfig {
        me: shared.me,
        committee,
        secret: node.secret,
        boot,
        datagram_bytes: node.datagram_bytes,
        cookie_secret: crate::keyfile::entropy().or_exit(Exit::Failure, "no randomness")?,
        blocks: BLOCK_REASSEMBLY,
        messages: MESSAGE_REASSEMBLY,
    };
    let endpoint = Endpoint::new(
        &endpoint_config,
        Pooled(pools.blocks.clone()),
        Pooled(pools.messages.clone()),
    )
    .or_exit(Exit::Preflight, "network")?;
    let mut parts = Parts {
        net: Some(Net {
            endpoint,
            replicas: committee.n() as u16,
            datagram_bytes: node.datagram_bytes,
            client_share: client_share(&pools.receive),
            votes_verified,
            followed: Followed::new(),
            send_pool: pools.send.clone(),
            block_pool: pools.blocks.clone(),
            from_order: net_from_order,
            from_execute: net_from_execute,
            to_order: net_to_order,
            to_execute: net_to_execute,
            to_states: net_to_states,
            to_verify: net_to_verify,
            to_discovery: net_to_discovery,
            moves_seen: 0,
            postponed: std::collections::VecDeque::with_capacity(4096),
            reply_number: 0,
            shared: shared.clone(),
        }),
        verify: Some(Verify {
            verifying: Verifying::new(Ed25519Verifier::new(committee), Rules::of(committee)),
            from_net: verify_from_net,
            from_order: verify_from_order,
            to_order: verify_to_order,
            blocks: VerifyQueue::new(committee.n()),
            shared: shared.clone(),
        }),
        order: Some(Order {
            ordering,
            from_journal: order_from_journal,
            from_execute: order_from_execute,
            from_net: order_from_net,
            from_verify: order_from_verify,
            to_net: order_to_net,
            to_journal: order_to_journal,
            to_execute: order_to_execute,
            to_verify: order_to_verify,
            stalled: None,
            stop_marker: None,
            lost: None,
            over: None,
            shared: shared.clone(),
        }),
        journal: Some(JournalStage::new(
            Journal::new(JOURNAL, durable.position()),
            match node.config.storage.flush {
                Flush::Dsync => Sync::Dsync,
                Flush::Fdatasync => Sync::Fdatasync,
            },
            segments.files,
            journal_from_order,
            journal_to_order,
            journal_segments,
            pools.blocks.clone(),
            shared.clone(),
        )),
        execute: Some(Execute {
            execution,
            reads: Reads::new(shared.me, committee.n(), committee.epoch()),
            duties,
            hash_due: now,
            from_order: execute_from_order,
            from_net: execute_from_net,
            to_order: execute_to_order,
            replies: ReplyWriter {
                small: pools.send.clone(),
                large: pools.results.clone(),
                to_net: execute_to_net,
                sent: 0,
                dropped: 0,
            },
            turns: 0,
            shared: shared.clone(),
        }),
    };
    let stages = layout
        .threads
        .iter()
        .map(|thread| parts.take(thread.stages))
        .collect();
    Ok(Built {
        stages,
        new_segments,
        discovery,
    })
}

/// Every waiting request may hold a receive buffer. Clients get a quarter of them for requests
/// that wait for verification, one for those in the batch and one for reads; the last quarter is
/// left to peers, whose votes make room again.
fn client_share(receive: &Pool) -> usize {
    (receive.count() / 4).min(WAITING_MAX)
}

/// All stages, until each has found its thread.
type Parts = Stages;

impl Stages {
    fn take(&mut self, stages: &[Stage]) -> Stages {
        let wants = |stage| stages.contains(&stage);
        Stages {
            net: self.net.take_if(|_| wants(Stage::Net)),
            verify: self.verify.take_if(|_| wants(Stage::Verify)),
            order: self.order.take_if(|_| wants(Stage::Order)),
            journal: self.journal.take_if(|_| wants(Stage::Journal)),
            execute: self.execute.take_if(|_| wants(Stage::Execute)),
        }
    }
}
