//! One simulated server: a disk that stays, and a process that comes and goes.

use replica::batch::BatchLimits;
use replica::ordering::judged_max;
use replica::recording::Reel;
use replica::recovery::Saved;
use replica::replica::{Effect, Input, Pace, Replica, Setup, StartError};
use storage::machine::Kv;
use storage::record::{Identity, LogId};
use storage::table::{EitherTable, LsmTable, MapStore, MemTable};
use storage::wal::{Geometry, JournalLimits};
use wire::committee::{Committee, VoteAuthentication};
use wire::ids::{Instant, NodeId};
use wire::keys::NodeSecret;
use wire::limits::{
    BLOCK_BUFFER_BYTES, BLOCK_PAYLOAD_BYTES_MAX, IN_FLIGHT, REQUEST_BYTES_MAX, SECTOR_BYTES,
};

use wire::messages::Durability;
use wire::seal::Rules;

use crate::buffers::{Pool, Shared};
use crate::canaries::Canary;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::liars::{Authentic, Origin};
use crate::plan::Plan;
use crate::random::Random;
use crate::recordings::Reels;
use crate::seals::Seal;

/// As in production: two chains of blocks above the executed slot, those kept for repair, under
/// reassembly, in the leader's hands, read back, being judged, and in flight.
fn block_buffers(held: u64, replicas: usize) -> usize {
    2 * held as usize + 32 + 2 * IN_FLIGHT as usize + 2 + 64 + judged_max(replicas) + 32
}

/// Rivals make room once so few are left that the messages of a view change may find none.
fn few_block_buffers(held: u64) -> usize {
    held as usize + 64
}

/// As on shared machines.
const PATIENCE_NS_MIN: u64 = 50 * crate::plan::MS;
const SECTOR_BUFFERS: usize = 64;
const LONG_BUFFERS: usize = 32;
const MESSAGE_BUFFERS: usize = 64;
const WAITING_MAX: usize = 256;
const JOURNAL: JournalLimits = JournalLimits {
    queued_max: 512,
    batch_parts_max: 64,
    batch_bytes_max: 4 << 20,
};
/// Everything that waits inside of one replica at most: the window, and the queues before it.
const QUEUED_MAX: usize = 2 * 192 + 512 + 2 * 1024;

/// Of the log of every replica.
pub fn geometry(plan: &Plan) -> Geometry {
    Geometry {
        segment_bytes: plan.disk.segment_bytes,
        segments_max: plan.disk.segments_max,
        reserve_bytes: 1 << 18,
    }
}

pub type Server = Replica<Pool, Seal, Seal, Kv<EitherTable<MapStore>>>;

/// One server.
pub struct Node {
    pub id: NodeId,
    pub disk: Disk,
    pub secret: NodeSecret,
    pub server: Option<Server>,
    /// Counts processes; what belongs to an earlier one is dropped.
    pub incarnation: u32,
    /// Starts and wake-ups of this process.
    pub wake: Instant,
    /// The write under way, by its token.
    pub writing: Option<u64>,
    /// Segments that were asked for.
    pub wanted: u32,
    /// A clean stop is followed by a pause of this length.
    pub down_ns: u64,
    /// What this replica takes for the time.
    pub clock: Clock,
    /// It is no liar, so it asks others what they hold of it (R6).
    pub honest: bool,
    /// Of the present process.
    cookie_secret: [u8; 32],
    seal: Seal,
    random: Random,
    pools: Option<[Pool; 4]>,
    /// The flight recording of the present process, in some runs.
    reels: Option<Reels>,
    /// For one view: view changes (of a liar two), acknowledgements, a NEW-VIEW. They are kept for
    /// the stage and two views above it.
    change_messages_max: usize,
}

impl Node {
    pub fn new(id: NodeId, plan: &Plan, secret: NodeSecret, seal: Seal, random: Random) -> Node {
        let disk = &plan.disk;
        let lies = plan.options.canary == Some(Canary::Nosync);
        Node {
            id,
            disk: Disk::new(disk.segment_bytes, 2, disk.atom_bytes, lies),
            secret,
            server: None,
            incarnation: 0,
            wake: Instant(u64::MAX),
            writing: None,
            wanted: 2,
            down_ns: 0,
            clock: plan
                .faults
                .clocks
                .get(id.index())
                .map_or_else(Clock::exact, Clock::new),
            honest: true,
            cookie_secret: [0; 32],
            seal,
            random,
            pools: None,
            reels: None,
            change_messages_max: 3 * plan.options.nodes + 1,
        }
    }

    /// Signs as this replica, and judges all.
    pub fn seal(&self) -> Seal {
        self.seal.clone()
    }

    /// What the log of this replica is marked with.
    pub fn identity(&self, committee: &Committee) -> Identity {
        Identity {
            cluster: committee.cluster(),
            node: self.id,
            log: LogId([self.id.0 as u8 + 1; 16]),
        }
    }

    /// A new process reads the disk and goes on.
    pub fn start(
        &mut self,
        now: Instant,
        plan: &Plan,
        committee: &Committee,
    ) -> Result<(), StartError> {
        assert!(self.server.is_none());
        self.incarnation += 1;
        let mut quorums = consensus::quorum::Quorums::of(committee);
        if plan.options.canary == Some(Canary::Lowquorum) {
            quorums.p += 1;
        }
        let block_buffers = if plan.faults.few_buffers {
            few_block_buffers(plan.held_blocks)
        } else {
            block_buffers(plan.held_blocks, committee.n())
        };
        let pools = [
            Pool::new(block_buffers, BLOCK_BUFFER_BYTES),
            Pool::new(SECTOR_BUFFERS, SECTOR_BYTES),
            Pool::new(LONG_BUFFERS, BLOCK_BUFFER_BYTES),
            Pool::new(MESSAGE_BUFFERS, REQUEST_BYTES_MAX + 256),
        ];
        self.cookie_secret = self.random.bytes();
        let machine = Kv::new(self.table(plan));
        let setup = Setup {
            me: self.id,
            committee,
            secret: &self.secret,
            quorums,
            signer: self.seal.clone(),
            verifier: self.seal.clone(),
            machine,
            geometry: geometry(plan),
            identity: self.identity(committee),
            journal: JOURNAL,
            batch: BatchLimits {
                delay_ns: plan.batch_delay_ns,
                payload_bytes_max: BLOCK_PAYLOAD_BYTES_MAX,
                waiting_max: WAITING_MAX,
            },
            blocks_held_max: plan.held_blocks,
            interval: plan.interval,
            sessions_max: plan.sessions_max,
            patience_ns_min: PATIENCE_NS_MIN,
            replaces_slow_leaders: true,
            recalls: self.honest,
            sign_votes: committee.vote_authentication() == VoteAuthentication::Signature,
            transfer_beyond: plan.transfer_beyond,
            durability: match (plan.careless, plan.leases) {
                (true, _) => Durability::None,
                (false, true) => Durability::Lease,
                (false, false) => Durability::Sync,
            },
            snapshot_log_bytes: plan.disk.snapshot_log_bytes,
            datagram_bytes: plan.datagram_bytes,
            cookie_secret: self.cookie_secret,
            wall_offset_ns: self.clock.wall_offset_ns(),
            pace: Pace {
                verifications: plan.pace.0,
                executions: plan.pace.1,
            },
            blocks: pools[0].clone(),
            sectors: pools[1].clone(),
            longs: pools[2].clone(),
            messages: pools[3].clone(),
        };
        let snapshot = self.disk.snapshot();
        let mut pieces = snapshot
            .iter()
            .flat_map(|(_, bytes)| bytes.chunks(1 << 16).map(|piece| Ok(piece.to_vec())));
        let saved = snapshot.as_ref().map(|(slot, _)| Saved {
            name: format!("snapshots/{slot}"),
            pieces: &mut pieces,
        });
        let disk = &mut self.disk;
        let mut server = Replica::start(now, setup, disk, saved, |_| Ok(()))?;
        self.reels = plan.records().then(|| Reels::new(plan.reel_bytes()));
        if let Some(reels) = &self.reels {
            server.record_to(Box::new(reels.clone()));
        }
        self.server = Some(server);
        self.pools = Some(pools);
        Ok(())
    }

    fn table(&mut self, plan: &Plan) -> EitherTable<MapStore> {
        let seed = [self.random.draw(), self.random.draw()];
        let Some(memory_bytes_max) = plan.table_memory_bytes else {
            return EitherTable::Memory(MemTable::new(seed));
        };
        let store = self.disk.table().clone();
        EitherTable::Disk(LsmTable::reopen(seed, store, memory_bytes_max))
    }

    /// Another process with this replica's key, an empty disk and a true clock, for a liar.
    pub fn twin(&self, plan: &Plan, committee: &Committee) -> Option<Node> {
        let mut random = self.random.clone();
        let mut plan = plan.clone();
        plan.faults.clocks.clear();
        let seal = self.seal.clone();
        let mut twin = Node::new(self.id, &plan, self.secret.clone(), seal, random.fork(17));
        twin.honest = false;
        let started = twin.start(Instant(crate::plan::BEGIN_NS), &plan, committee);
        started.ok().map(|()| twin)
    }

    /// A second end of the links of the process that runs now, for a liar in its place.
    pub fn authentic(
        &self,
        committee: &Committee,
        datagram_bytes: usize,
        rules: Rules,
    ) -> Option<Authentic> {
        let server = self.server.as_ref()?;
        Some(Authentic::new(Origin {
            committee,
            me: self.id,
            secret: &self.secret,
            seal: self.seal.clone(),
            boot: server.boot(),
            datagram_bytes,
            cookie_secret: self.cookie_secret,
            rules,
            quorums: consensus::quorum::Quorums::of(committee),
        }))
    }

    /// Runs the recording of this process again, if there is one: it must come to the same.
    pub fn check_recording(&self) -> Result<(), String> {
        match &self.reels {
            Some(reels) if self.server.is_some() => reels.check(self.id, self.seal.clone()),
            _ => Ok(()),
        }
    }

    /// What this process has recorded, and who judges signatures in it.
    pub fn recorded(&self) -> Option<(NodeId, Vec<Reel>, Seal)> {
        let reels = self.reels.as_ref()?;
        Some((self.id, reels.kept(), self.seal.clone()))
    }

    /// The process is gone, and of what it had not flushed some part reaches the disk.
    pub fn crash(&mut self, random: &mut Random, canary: Option<Canary>) {
        self.server = None;
        self.pools = None;
        self.reels = None;
        self.writing = None;
        self.wake = Instant(u64::MAX);
        self.disk.crash(random);
        if canary == Some(Canary::Blankvotes) {
            self.disk.erase();
        }
    }

    /// Hands one input to the process, if there is one.
    pub fn handle(&mut self, now: Instant, input: Input<Shared>) -> Vec<Effect<Shared>> {
        let mut effects = Vec::new();
        if let Some(server) = &mut self.server {
            server.handle(now, input, &mut effects);
        }
        effects
    }

    /// Bounds on what waits; the pools bound the rest. Returns the fullest pool, in use of capacity.
    pub fn check_memory(&self) -> Result<(), String> {
        let Some(server) = &self.server else {
            return Ok(());
        };
        let kept = server.ordering().core().change_messages();
        if kept > 3 * self.change_messages_max {
            return Err(format!("{} keeps {kept} messages of view changes", self.id));
        }
        let queued = server.queued();
        if queued > QUEUED_MAX {
            return Err(format!("{queued} items wait inside of replica {}", self.id));
        }
        Ok(())
    }

    /// The most block buffers that this process has used at once.
    pub fn block_buffers_used_max(&self) -> usize {
        self.pools.as_ref().map_or(0, |pools| pools[0].used_max())
    }
}
