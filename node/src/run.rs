//! From a prepared directory to running threads, and back: recovery, pools, rings, supervision.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant as StdInstant};

use platform::cores::Cores;
use platform::driver::{self, EventQueue, Options};
use platform::file::LogFile;
use platform::idle::{BLOCK_POLLS_US, Idle};
use platform::pool::Pool;
use platform::process::raise_open_files;
use platform::socket::{Socket, SocketOptions};
use platform::waker::Waker;
use storage::wal::{SegmentInfo, SegmentSource};
use wire::ids::{Boot, Epoch};
use wire::limits::{
    BLOCK_BUFFER_BYTES, IN_FLIGHT, REPLICAS_MAX, REQUEST_BYTES_MAX, RESULT_BYTES_MAX, SECTOR_BYTES,
};
use wire::messages::Durability;

use crate::admin::health::{self, NO_DURABILITY};
use crate::assembly::{self, Assembly};
use crate::config::Config;
use crate::datadir::MakerState;
use crate::discovery::agent::{self, Agent, Sockets};
use crate::epochs;
use crate::exit::{Exit, ExitContext, Refusal};
use crate::prepare::Prepared;
use crate::restore;
use crate::stages::thread::{HotThread, Stages};
use crate::stages::{Failure, Shared};
use crate::telemetry::{Effective, Phase, Stage, Telemetry};
use crate::topology::{Layout, ThreadPlan};

/// Blocks above the executed slot whose bytes are held (votes stop 2 D below).
pub const HELD_BLOCKS: u64 = 192;
/// Executed blocks kept for repair, from `replica`.
const RETAINED: u64 = replica::blocks::RETAINED_BLOCKS;
/// Block messages under reassembly, the leader's open block, and reads of old ones.
const REASSEMBLY: u64 = 2 * IN_FLIGHT;
const OPEN: u64 = 2;
const READS: u64 = 64;
/// Holders of block buffers, but for the blocks of others that are being judged.
// Twice what is held above the executed slot: a view change may need another chain beside the own.
const BLOCK_BUFFERS: u64 = 2 * HELD_BLOCKS + RETAINED + REASSEMBLY + OPEN + READS + IN_FLIGHT;
/// Single sectors for START, COMMIT, EVIDENCE and CLEAN STOP records on their way to the disk.
const SECTOR_BUFFERS: usize = 64;
/// View changes, certificates and the like on their way to the disk and out: apart from the blocks,
/// for a view change must be able to go on when those have run out.
const LONG_BUFFERS: usize = 32;
/// Datagrams and fragment headers on their way out.
const SEND_BUFFERS: usize = 4096;
pub const SEND_BUFFER_BYTES: usize = 4096;
/// Requests under reassembly; and, apart from them, results too long for a send buffer.
const MESSAGE_BUFFERS: usize = 64;
const MESSAGE_BUFFER_BYTES: usize = {
    let request = REQUEST_BYTES_MAX + 256;
    let result = RESULT_BYTES_MAX + 4096;
    if request > result { request } else { result }
};
/// A receive with GRO holds up to 64 KiB of datagrams and the kernel's own header.
const RECEIVE_BUFFER_BYTES: usize = 72 * 1024;
const RECEIVE_BUFFERS_AUTO: usize = 1024;
/// Segment files that the driver can hold.
const FILES_MAX: usize = storage::wal::SEGMENTS_MAX as usize;
/// Beside them: sockets, rings, snapshots.
const OTHER_FILES: u64 = 512;
const SENDS_MAX: usize = 512;
/// A clean stop takes this long at most.
const STOP_LIMIT: Duration = Duration::from_secs(4);
/// How often the main thread looks after the others. Each look takes a core from a hot thread on a
/// shared machine.
const LOOK: Duration = Duration::from_millis(20);

const _: () = assert!(REPLICAS_MAX * 272 <= 3 * SEND_BUFFER_BYTES);

/// The pools of one node.
pub struct Pools {
    pub receive: Pool,
    pub blocks: Pool,
    pub sectors: Pool,
    pub longs: Pool,
    pub send: Pool,
    pub messages: Pool,
    pub results: Pool,
}

impl Pools {
    fn new(config: &Config, replicas: usize) -> Result<Pools, Refusal> {
        let receive_buffers = config
            .network
            .receive_buffers
            .unwrap_or(RECEIVE_BUFFERS_AUTO);
        let pool = |name, count, bytes| {
            Pool::new(name, count, bytes).or_exit(Exit::Preflight, "cannot get memory for a pool")
        };
        Ok(Pools {
            receive: pool("receive", receive_buffers, RECEIVE_BUFFER_BYTES)?,
            blocks: block_pool(replicas)?,
            sectors: pool("sectors", SECTOR_BUFFERS, SECTOR_BYTES)?,
            longs: pool("longs", LONG_BUFFERS, BLOCK_BUFFER_BYTES)?,
            send: pool("send", SEND_BUFFERS, SEND_BUFFER_BYTES)?,
            messages: pool("messages", MESSAGE_BUFFERS, MESSAGE_BUFFER_BYTES)?,
            results: pool("results", MESSAGE_BUFFERS, MESSAGE_BUFFER_BYTES)?,
        })
    }
}

/// As many block buffers as a node of a committee of this size has.
pub fn block_pool(replicas: usize) -> Result<Pool, Refusal> {
    let blocks = BLOCK_BUFFERS as usize + replica::ordering::judged_max(replicas);
    Pool::new("blocks", blocks, BLOCK_BUFFER_BYTES)
        .or_exit(Exit::Preflight, "cannot get memory for a pool")
}

/// The segment files as recovery reads them.
pub struct Segments {
    pub files: Vec<LogFile>,
    pub infos: Vec<SegmentInfo>,
}

impl SegmentSource for Segments {
    fn segments(&self) -> Vec<SegmentInfo> {
        self.infos.clone()
    }

    fn read(&mut self, segment: u32, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        match self.files.get(segment as usize) {
            Some(file) => file.read_at(offset, into),
            None => Err(std::io::Error::other("no such segment file")),
        }
    }
}

/// One thread that is ready for its stages.
struct Ready {
    plan: &'static ThreadPlan,
    stages: mpsc::Sender<Stages>,
    thread: JoinHandle<Result<(), Failure>>,
    waker: Waker,
    backend: String,
}

/// Why a node that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// Its epoch is over: this one begins, with a process that prepares anew.
    Epoch(Epoch),
}

/// Runs the node until it is told to stop, or fails.
///
/// `discovery` takes the node's agent to the control thread, which drives it from then on.
pub fn run(prepared: Prepared, discovery: &mpsc::Sender<Agent>) -> Result<Ended, Refusal> {
    let Prepared {
        config,
        committee,
        secret,
        directory,
        telemetry,
        stop,
    } = prepared;
    let cores = Cores::read().or_exit(Exit::Failure, "cannot read the machine's cores")?;
    for core in &config.threads.cores {
        cores
            .check(*core)
            .or_exit(Exit::Preflight, "node.toml [threads] cores")?;
    }
    let me = wire::ids::NodeId(config.node.id);
    let member = committee
        .member(me)
        .expect("preparation checked the committee");
    let address = config.network.listen(member.address);
    let options = SocketOptions {
        buffer_bytes: config.network.socket_buffer_bytes,
        gro: config.network.gro,
        gso: config.network.gso,
    };
    let socket = Socket::bind(address, &options).or_exit(Exit::Preflight, "network")?;
    if let Some((wanted, got)) = socket.clamped() {
        tracing::warn!(
            "socket buffers are {got} bytes, {wanted} were asked for: raise net.core.rmem_max and \
             net.core.wmem_max, or expect drops under load"
        );
    }
    let address = socket.local_addr();
    let sockets = Sockets::open(&config, address)?;
    let pools = Pools::new(&config, committee.n())?;
    let shared = Shared::new(me, telemetry.clone());
    raise_open_files(FILES_MAX as u64 + OTHER_FILES);
    let mut segments = open_segments(&config, &directory)?;
    let layout_name = config.threads.layout.name();
    let layout = Layout::choose(layout_name, config.threads.cores.len())
        .ok_or_else(|| Refusal::new(Exit::Usage, format!("no layout {layout_name}")))?;
    let idle = idle_of(&config, cores.count(), layout.threads.len());

    let recovering = StdInstant::now();
    let node = Assembly {
        config: &config,
        committee: &committee,
        secret: &secret,
        directory: &directory,
        pools: &pools,
        shared: &shared,
        datagram_bytes: config.network.datagram_bytes_for(address),
    };
    if config.storage.durability == Durability::None {
        tracing::warn!("{NO_DURABILITY}");
    }
    let restored = restore::restore(&node, &mut segments)?;
    tracing::info!(
        "log read in {:.3} s: boot {}, {} blocks decided, {} undecided",
        recovering.elapsed().as_secs_f64(),
        restored.boot(),
        restored.decided(),
        restored.undecided()
    );
    if let Some(slot) = restored.silent_until() {
        tracing::warn!(
            "{}: this node is silent until a checkpoint at slot {slot} or above is certified (R3)",
            restored.why_silent()
        );
    }
    let (gso, gro) = (socket.gso(), socket.gro());
    let mut backend = String::new();
    let mut socket = Some(socket);
    let mut threads = Vec::new();
    for (index, plan) in layout.threads.iter().enumerate() {
        let core = config
            .threads
            .cores
            .get(index % config.threads.cores.len().max(1))
            .copied();
        let hosts_net = plan.stages.contains(&Stage::Net);
        let options = Options {
            backend: assembly::backend(&config),
            socket: if hosts_net { socket.take() } else { None },
            receive_pool: hosts_net.then(|| pools.receive.clone()),
            files_max: FILES_MAX,
            sends_max: SENDS_MAX,
        };
        let ready = start_thread(plan, core, idle, options, shared.clone())?;
        if hosts_net {
            backend.clone_from(&ready.backend);
        }
        threads.push(ready);
    }
    let wakers: Vec<Waker> = threads.iter().map(|ready| ready.waker.clone()).collect();
    let boot = Boot(restored.boot());
    let mut granted = segments.files.len() as u32;
    let built = assembly::build(node, restored, segments, layout, &wakers)?;
    let (mut new_segments, stages) = (built.new_segments, built.stages);
    let (later_epoch, later_epochs) = mpsc::channel();
    let agent = Agent::new(agent::Parts {
        config: &config,
        committee: &committee,
        secret: &secret,
        me,
        boot,
        listen: address,
        sockets,
        from_net: built.discovery,
        telemetry: telemetry.clone(),
        now: wire::ids::Instant(platform::clock::now_ns()),
        later_epoch,
    });
    let mut running = Vec::new();
    for (ready, stages) in threads.into_iter().zip(stages) {
        let lost = || Refusal::new(Exit::Failure, format!("thread {} ended", ready.plan.name));
        ready.stages.send(stages).map_err(|_| lost())?;
        running.push((ready.plan.name, ready.thread));
    }
    let effective = Effective {
        backend,
        layout: layout.name.to_owned(),
        cores: config.threads.cores.clone(),
        idle: idle.to_string(),
        durability: config.storage.durability.name().to_owned(),
        flush: config.storage.flush.name().to_owned(),
        direct: config.storage.direct,
        datagram_bytes: config.network.datagram_bytes_for(address),
        gso,
        gro,
        state_machine: match committee.state_machine() {
            wire::committee::StateMachine::Kv => "kv".to_owned(),
            wire::committee::StateMachine::Noop => "noop".to_owned(),
        },
    };
    let _ = telemetry.effective.set(effective);
    telemetry.phase.set(Phase::Serving);
    // A control thread that is gone ends the process by itself.
    let _ = discovery.send(agent);

    let maker = directory
        .segment_maker()
        .or_exit(Exit::Failure, "cannot make segment files")?;
    let mut stopping_since: Option<StdInstant> = None;
    let mut later: Option<Epoch> = None;
    let mut silences = Silences::new(committee.parameters().u);
    while running.iter().all(|(_, thread)| !thread.is_finished()) {
        std::thread::sleep(LOOK);
        silences.look(&telemetry);
        maker.want(shared.segments_wanted.get() as u32);
        shared.no_space.set(maker.state() == MakerState::NoSpace);
        if maker.state() == MakerState::Failed {
            return Err(Refusal::new(
                Exit::Failure,
                "a segment file of the log could not be made".to_owned(),
            ));
        }
        while granted < maker.made() {
            let path = directory.segment_path(granted);
            let file = LogFile::open(&path, config.storage.direct)
                .or_exit(Exit::Failure, path.display())?;
            if new_segments.push(file).is_err() {
                break;
            }
            new_segments.wake();
            granted += 1;
        }
        if let Ok(epoch) = later_epochs.try_recv() {
            tracing::info!("epoch {epoch} has begun without this node");
            later = Some(epoch);
        }
        if (stop.is_set() || later.is_some()) && stopping_since.is_none() {
            telemetry.phase.set(Phase::Stopping);
            shared.stopping.set(true);
            for waker in &wakers {
                waker.wake();
            }
            stopping_since = Some(StdInstant::now());
        }
        if stopping_since.is_some_and(|since| since.elapsed() > STOP_LIMIT) {
            return Err(Refusal::new(
                Exit::Failure,
                "the clean stop took too long".to_owned(),
            ));
        }
    }
    // One thread ended: all of them do.
    shared.stopped.set(true);
    for waker in &wakers {
        waker.wake();
    }
    let mut ended = match later.filter(|_| !stop.is_set()) {
        Some(epoch) => Ended::Epoch(epoch),
        None => Ended::Stopped,
    };
    for (name, thread) in running {
        match thread.join() {
            Ok(Ok(())) => {}
            Ok(Err(Failure::EpochOver(certificate))) => {
                let data = &config.node.data;
                ended = Ended::Epoch(epochs::end(data, me, &committee, &certificate)?.epoch());
            }
            Ok(Err(failure)) => {
                telemetry.phase.set(Phase::Failed);
                let exit = match failure {
                    Failure::DiskLost(_) => Exit::Damaged,
                    Failure::Platform(_)
                    | Failure::Journal(_)
                    | Failure::Snapshot(_)
                    | Failure::EpochOver(_) => Exit::Failure,
                };
                return Err(Refusal::new(exit, format!("thread {name}: {failure}")));
            }
            Err(_) => {
                telemetry.phase.set(Phase::Failed);
                return Err(Refusal::new(
                    Exit::Failure,
                    format!("thread {name} panicked"),
                ));
            }
        }
    }
    Ok(ended)
}

/// Logs what is to be said of silent nodes when it changes (R3).
struct Silences {
    faults: usize,
    looked_at: StdInstant,
    said: Option<String>,
}

impl Silences {
    fn new(faults: usize) -> Silences {
        let looked_at = StdInstant::now();
        Silences {
            faults,
            looked_at,
            said: None,
        }
    }

    fn look(&mut self, telemetry: &Telemetry) {
        if self.looked_at.elapsed() < Duration::from_millis(200) {
            return;
        }
        self.looked_at = StdInstant::now();
        let now = wire::ids::Instant(platform::clock::now_ns());
        let reason = health::silence(telemetry, now, self.faults).map(|(_, reason)| reason);
        if reason != self.said {
            match &reason {
                Some(reason) => tracing::warn!("{reason}"),
                None => tracing::info!("no silent node hinders this one any more (R3)"),
            }
            self.said = reason;
        }
    }
}

/// `auto`: a node with pinned cores on a large machine spins. Everywhere else it sleeps when
/// nothing comes: on a machine that several nodes share this gives more throughput and a shorter
/// tail than spin-yield, which has the shorter median when there is little load (tuning.md).
fn idle_of(config: &Config, cores: usize, threads: usize) -> Idle {
    use crate::config::Idle as Choice;
    const BLOCK: Idle = Idle::Block {
        polls_us: BLOCK_POLLS_US,
    };
    match config.threads.idle {
        Choice::Spin => Idle::Spin,
        Choice::SpinYield => Idle::SpinYield,
        Choice::Block => BLOCK,
        Choice::Auto if cores > threads && config.threads.cores.len() >= threads && cores >= 8 => {
            Idle::Spin
        }
        Choice::Auto => BLOCK,
    }
}

fn open_segments(
    config: &Config,
    directory: &crate::datadir::DataDirectory,
) -> Result<Segments, Refusal> {
    let open = |info: &SegmentInfo| {
        let path = directory.segment_path(info.index);
        LogFile::open(&path, config.storage.direct).or_exit(Exit::Preflight, path.display())
    };
    let files = directory
        .segments
        .iter()
        .map(open)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Segments {
        files,
        infos: directory.segments.clone(),
    })
}

/// Starts a thread that opens its driver at once (an io_uring belongs to the thread that made it)
/// and then waits for its stages.
fn start_thread(
    plan: &'static ThreadPlan,
    core: Option<usize>,
    idle: Idle,
    options: Options,
    shared: Shared,
) -> Result<Ready, Refusal> {
    let (ready_sender, ready) = mpsc::channel();
    let (stages_sender, stages) = mpsc::channel::<Stages>();
    let thread = platform::thread::spawn(plan.name, core, move || {
        let driver = match driver::open(options) {
            Ok(driver) => driver,
            Err(error) => {
                let _ = ready_sender.send(Err(error));
                return Ok(());
            }
        };
        let _ = ready_sender.send(Ok((driver.waker(), driver.backend_name())));
        let Ok(stages) = stages.recv() else {
            return Ok(());
        };
        let events = EventQueue::with_capacity(1024);
        HotThread {
            driver,
            events,
            stages,
            sequence: plan.stages,
            idle,
            shared,
        }
        .run()
    })
    .or_exit(Exit::Failure, format!("cannot start thread {}", plan.name))?;
    let opened = ready
        .recv()
        .or_exit(Exit::Failure, format!("thread {} ended", plan.name))?;
    let (waker, backend) = opened.or_exit(Exit::Preflight, format!("thread {}", plan.name))?;
    tracing::info!("thread {} on core {core:?}, {idle}, {backend}", plan.name);
    Ok(Ready {
        plan,
        stages: stages_sender,
        thread,
        waker,
        backend,
    })
}
