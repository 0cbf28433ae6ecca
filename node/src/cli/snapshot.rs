//! `hippo snapshot`: the snapshots on a node's disk, and archives of the state.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use serde_json::Value;

use super::network::{self, Endpoint, NetworkArgs};
use super::output::{Format, Rows, print};
use super::overrides::Overrides;
use super::testnet::{self, Shape};
use crate::admin::Status;
use crate::archive::{self, Archive};
use crate::config::Config;
use crate::config::value::{parse_duration_ns, show_bytes};
use crate::datadir::{self, look};
use crate::exit::{Exit, ExitContext, Outcome, Refusal};
use crate::testnet::node_path;

const EXAMPLE: &str = "\
From a cluster that runs to a new one with the same content:
  hippo snapshot save --config net/node-0/node.toml --output backup
  hippo snapshot restore --from backup --output net2 --base-port 7300
  hippo start --config net2/node-0/node.toml &     # and the others";

#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Save the state at a checkpoint, with its certificate, to a new directory
    ///
    /// A running node is asked for a new checkpoint, so that what is committed now is in it; of a
    /// stopped one the newest is taken. The archive is verified after it was written.
    #[command(after_help = EXAMPLE)]
    Save(SaveArgs),
    /// Make a new cluster that begins with a saved state
    ///
    /// The archive is verified against the committee in it. The new cluster has its own id, keys and
    /// operator, whatever number of nodes, and goes on from the saved slot; sessions of clients go on
    /// too. The old one is not touched: two clusters with one history are two clusters.
    #[command(after_help = EXAMPLE)]
    Restore(Box<RestoreArgs>),
    /// List the snapshots in a node's data directory, newest first
    ///
    /// Reads the directory only, so the node may run or not. A start begins from the newest one that
    /// can be used, and executes the log behind it.
    Status {
        /// The node's configuration
        #[arg(long, value_name = "FILE", default_value = "node.toml")]
        config: PathBuf,
        /// Form of the output
        #[arg(long, short, value_enum, default_value_t)]
        output: Format,
        #[command(flatten)]
        overrides: Box<Overrides>,
    },
}

#[derive(Debug, Args)]
pub struct SaveArgs {
    /// The node's configuration
    #[arg(long, value_name = "FILE", default_value = "node.toml")]
    config: PathBuf,
    /// Directory to make
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Take the newest checkpoint on the disk, however old
    #[arg(long)]
    as_is: bool,
    /// How long to wait for a running node
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration_ns)]
    timeout: u64,
    #[command(flatten)]
    overrides: Box<Overrides>,
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// Directory written by `hippo snapshot save`
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// Directory to make
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    shape: Shape,
}

pub fn run(command: &SnapshotCommand) -> Outcome {
    match command {
        SnapshotCommand::Save(args) => save(args),
        SnapshotCommand::Restore(args) => restore(args),
        SnapshotCommand::Status {
            config,
            output,
            overrides,
        } => status(config.as_path(), *output, overrides),
    }
}

fn status(config: &Path, output: Format, overrides: &Overrides) -> Outcome {
    let (config, _) = Config::load(config, &overrides.flags)?;
    let directory = datadir::snapshots_path(&config.node.data);
    let files = datadir::list_snapshots(&directory).or_exit(
        Exit::Failure,
        format!("cannot list {}", directory.display()),
    )?;
    let mut rows = Rows::new(&["slot", "bytes", "file"]);
    for file in files {
        let bytes = match output {
            Format::Table => Value::from(show_bytes(file.bytes)),
            _ => Value::from(file.bytes),
        };
        rows.push(vec![file.slot.0.into(), bytes, file.name().into()]);
    }
    print(rows.render(output));
    Ok(Exit::Ok)
}

fn save(args: &SaveArgs) -> Outcome {
    let (config, _) = Config::load(&args.config, &args.overrides.flags)?;
    if args.output.exists() {
        return Err(Refusal::usage(format!(
            "--output {} exists; an archive is never written over",
            args.output.display()
        )));
    }
    if !args.as_is && look::holder(&config.node.data).is_some() {
        await_snapshot(&args.config, &config, Duration::from_nanos(args.timeout))?;
    }
    let saved = archive::save(&config, &args.output)?;
    print(told("saved", &saved, &args.output.display().to_string()));
    Ok(Exit::Ok)
}

/// Asks a running node for a snapshot of what it has decided by now.
fn await_snapshot(path: &Path, config: &Config, limit: Duration) -> Result<(), Refusal> {
    const PAUSE: Duration = Duration::from_millis(50);
    let endpoint = Endpoint {
        node: config.node.id,
        address: config.admin.address,
    };
    let unreachable = |reason: String| {
        Refusal::failure(format!(
            "{reason}. The node runs, and cannot be asked; --as-is takes what is on its disk"
        ))
    };
    let status = || network::status(&endpoint).map_err(unreachable);
    let now = status()?;
    let wanted = now.committed_slot;
    network::post(endpoint.address, "/snapshot").map_err(unreachable)?;
    if now.leader != config.node.id {
        // Whether or not it can be found: under load a checkpoint comes by itself.
        let _ = ask_leader(path, now.leader);
    }
    let bar = match std::io::stderr().is_terminal() {
        true => ProgressBar::new_spinner(),
        false => ProgressBar::hidden(),
    };
    let since = Instant::now();
    loop {
        let now = status()?;
        let (slot, at) = (now.checkpoint.snapshot_slot, now.committed_slot);
        if slot >= wanted {
            bar.finish_and_clear();
            return Ok(());
        }
        bar.set_message(format!("slot {wanted} is wanted, the log is at {at}"));
        bar.tick();
        if since.elapsed() >= limit {
            return Err(too_late(&now, wanted));
        }
        thread::sleep(PAUSE);
    }
}

/// Has the leader of a network directory, if the node is in one, fill up to the next checkpoint.
fn ask_leader(config: &Path, leader: u16) -> Option<()> {
    let network = config.canonicalize().ok()?;
    let network = network.ancestors().nth(2)?.to_owned();
    let endpoint = NetworkArgs { network }.endpoint(leader).ok()?;
    network::post(endpoint.address, "/snapshot").ok().map(drop)
}

fn too_late(now: &Status, wanted: u64) -> Refusal {
    Refusal::failure(format!(
        "no checkpoint at slot {wanted} or above in time: the cluster is at slot {}. Checkpoints are \
         made every 1,024 blocks, and only the leader of an idle cluster, now node {}, can fill up to \
         the next: ask that node, or take the one at slot {} with --as-is",
        now.committed_slot, now.leader, now.checkpoint.snapshot_slot
    ))
}

fn restore(args: &RestoreArgs) -> Outcome {
    let from = archive::open(&args.from)?;
    let plan = args.shape.plan(args.output.clone())?;
    if plan.state_machine != from.committee.state_machine() {
        return Err(Refusal::usage(
            "--state-machine: the saved state is another machine's",
        ));
    }
    let plan = crate::testnet::Plan {
        origin: Some(from.origin()),
        ..plan
    };
    let committee = testnet::create(&plan)?;
    for node in committee.members() {
        let data = node_path(&plan.output, node.id.index()).join("data");
        let placed = from.place(&data, committee.cluster(), node.id);
        placed.or_exit(Exit::Failure, format!("cannot write to {}", data.display()))?;
    }
    let shown = args.from.display().to_string();
    print(told("restored", &from, &shown));
    print(testnet::made(&plan, &committee));
    Ok(Exit::Ok)
}

fn told(done: &str, archive: &Archive, directory: &str) -> String {
    let report = &archive.report;
    format!(
        "{directory}: {done} the state at slot {}, root {}: {} entries, {} sessions, {}; of cluster \
         {}, certified by {} nodes\n",
        archive.header.slot(),
        archive.header.root,
        report.entries,
        report.sessions,
        show_bytes(report.bytes),
        archive.committee.cluster(),
        report.signers.len(),
    )
}
