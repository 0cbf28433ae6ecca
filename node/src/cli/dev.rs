//! `hippo dev`: a whole cluster on this machine, each node a process, until Ctrl-C.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::network;
use super::testnet::{Shape, create};
use crate::exit::{Exit, ExitContext, Outcome, Refusal};
use crate::prepare::StopFlag;
use crate::testnet::node_path;

#[derive(Debug, Args)]
pub struct DevArgs {
    /// Network directory: made if it does not exist, used and kept if it does
    /// [default: a new one that is removed at the end]
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    #[command(flatten)]
    shape: Shape,
}

/// Longest wait for all nodes to be ready, and for their clean stop.
const READY_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(8);
const PAUSE: Duration = Duration::from_millis(50);
/// Lines of a failed node's log that are shown.
const LOG_LINES: usize = 5;

pub fn run(args: &DevArgs) -> Outcome {
    let stop = StopFlag::default();
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.cell())
            .or_exit(Exit::Failure, "cannot handle signals")?;
    }
    let scratch = std::env::temp_dir().join(format!("hippo-dev-{}", std::process::id()));
    let directory = args.output.clone().unwrap_or_else(|| scratch.clone());
    let plan = args.shape.plan(directory.clone())?;
    if !directory.join("committee.toml").exists() {
        create(&plan)?;
    }
    let mut nodes = Nodes::default();
    let ended = serve(&mut nodes, &directory, plan.nodes, &stop);
    let stopped = nodes.stop();
    if args.output.is_none() && ended.is_ok() {
        fs::remove_dir_all(&scratch).or_exit(
            Exit::Failure,
            format!("cannot remove {}", scratch.display()),
        )?;
    }
    ended?;
    stopped?;
    Ok(Exit::Ok)
}

fn serve(
    nodes: &mut Nodes,
    directory: &std::path::Path,
    count: usize,
    stop: &StopFlag,
) -> Result<(), Refusal> {
    let shown = directory.display();
    let program = std::env::current_exe().or_exit(Exit::Failure, "cannot find this program")?;
    for node in 0..count {
        let path = node_path(directory, node);
        let log_path = path.join("log");
        let log = File::create(&log_path).or_exit(
            Exit::Failure,
            format!("cannot write {}", log_path.display()),
        )?;
        let child = Command::new(&program)
            .arg("start")
            .arg("--end-with-parent")
            .arg("--config")
            .arg(path.join("node.toml"))
            // Ctrl-C reaches this process alone, which then asks each node once.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .or_exit(Exit::Failure, format!("cannot start node {node}"))?;
        nodes.children.push((child, log_path));
    }
    let arguments = network::NetworkArgs {
        network: directory.to_owned(),
    };
    let endpoints = arguments.endpoints(count)?;
    let started = Instant::now();
    let mut ready = false;
    while !stop.is_set() {
        nodes.check()?;
        if !ready {
            ready = endpoints
                .iter()
                .all(|endpoint| matches!(network::get(endpoint.address, "/readyz"), Ok((200, _))));
            if ready {
                println!(
                    "{count} nodes serve; network {shown}\n\
                     hippo put --network {shown} city Byzantium\n\
                     hippo status --network {shown}\n\
                     Ctrl-C stops them"
                );
                let _ = io::stdout().flush();
            } else if started.elapsed() > READY_LIMIT {
                return Err(Refusal::new(
                    Exit::Unhealthy,
                    format!(
                        "not all nodes are ready after {READY_LIMIT:?}; see {shown}/node-*/log"
                    ),
                ));
            }
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// The running nodes; those left are killed when this is dropped.
#[derive(Debug, Default)]
struct Nodes {
    children: Vec<(Child, PathBuf)>,
}

impl Nodes {
    /// Fails when a node ended by itself.
    fn check(&mut self) -> Result<(), Refusal> {
        for (node, (child, log)) in self.children.iter_mut().enumerate() {
            let ended = child
                .try_wait()
                .or_exit(Exit::Failure, format!("cannot watch node {node}"))?;
            if let Some(status) = ended {
                let text = fs::read_to_string(&*log).unwrap_or_default();
                let mut tail: Vec<&str> = text.lines().rev().take(LOG_LINES).collect();
                tail.reverse();
                return Err(Refusal::failure(format!(
                    "node {node} ended with {status}; the end of {}:\n{}",
                    log.display(),
                    tail.join("\n")
                )));
            }
        }
        Ok(())
    }

    /// Asks all to stop and waits for them.
    fn stop(&mut self) -> Result<(), Refusal> {
        for (child, _) in &self.children {
            if let Some(pid) = Pid::from_raw(child.id() as i32) {
                // A node that has ended by itself cannot be asked.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let since = Instant::now();
        let mut unclean = Vec::new();
        for (node, (child, _)) in self.children.iter_mut().enumerate() {
            let status = loop {
                match child.try_wait() {
                    Ok(Some(status)) => break Some(status),
                    Ok(None) if since.elapsed() < STOP_LIMIT => thread::sleep(PAUSE),
                    _ => break None,
                }
            };
            if !status.is_some_and(|status| status.success()) {
                unclean.push(node.to_string());
            }
        }
        if unclean.is_empty() {
            Ok(())
        } else {
            let nodes = unclean.join(", ");
            Err(Refusal::failure(format!(
                "node {nodes} did not stop cleanly"
            )))
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for (child, _) in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
