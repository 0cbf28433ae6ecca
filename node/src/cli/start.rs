//! `hippo start`: one node in this process, until a signal or a failure.

use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use tracing_subscriber::EnvFilter;

use super::overrides::Overrides;
use crate::admin;
use crate::config::Config;
use crate::exit::{Exit, ExitContext, Outcome, Refusal};
use crate::flight;
use crate::prepare::{self, StopFlag};
use crate::run::Ended;

/// A stop that takes longer ends the process hard: recovery is made for it.
const STOP_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub struct StartArgs {
    /// The node's configuration
    #[arg(long, short, value_name = "FILE", default_value = "node.toml")]
    config: PathBuf,
    /// End when the process that started this one ends
    #[arg(long, hide = true)]
    end_with_parent: bool,
    #[command(flatten)]
    overrides: Box<Overrides>,
}

pub fn run(args: &StartArgs) -> Outcome {
    start_log();
    abort_on_panic();
    if args.end_with_parent {
        let signal = Some(rustix::process::Signal::TERM);
        rustix::process::set_parent_process_death_signal(signal).or_exit(
            Exit::Failure,
            "cannot bind the life of this process to its parent's",
        )?;
    }
    let (config, _) = Config::load(&args.config, &args.overrides.flags)?;
    let stop = watch_signals()?;
    let address = config.admin.address;
    let prepared = prepare::prepare(config, stop.clone(), now())?;
    let source = admin::Source {
        telemetry: prepared.telemetry.clone(),
        members: prepared
            .committee
            .members()
            .iter()
            .map(|member| member.address)
            .collect(),
        quorum: prepare::quorum_of(&prepared.committee),
        faults: prepared.committee.parameters().u,
        committee: prepared.committee.clone(),
        now,
    };
    let (agents, agent) = std::sync::mpsc::channel();
    let address = admin::start(address, source, agent).map_err(|error| {
        Refusal::preflight(format!(
            "cannot serve the admin endpoint on {address}: {error}. Is another node running here? \
             Choose another admin.address"
        ))
    })?;
    tracing::info!(
        "node {} of cluster {}, committee {}, status on http://{address}/status.json",
        prepared.config.node.id,
        prepared.committee.cluster(),
        prepared.committee.digest(),
    );
    watch_over(stop, watch_dump_requests()?)?;
    match crate::run::run(prepared, &agents) {
        Ok(Ended::Stopped) => {
            tracing::info!("stopped cleanly");
            Ok(Exit::Ok)
        }
        Ok(Ended::Epoch(epoch)) => {
            tracing::info!("epoch {epoch} begins");
            begin_anew()
        }
        Err(refusal) => {
            flight::dump_and_say(&refusal.to_string());
            Err(refusal)
        }
    }
}

/// The same command in the same process, from its beginning: nothing of one epoch outlives it but what is
/// on the disk.
fn begin_anew() -> Outcome {
    let program = std::env::current_exe().or_exit(Exit::Failure, "cannot find the program")?;
    let error = Command::new(program)
        .args(std::env::args_os().skip(1))
        .exec();
    Err(Refusal::failure(format!(
        "cannot begin the next epoch: {error}"
    )))
}

fn now() -> wire::ids::Instant {
    wire::ids::Instant(platform::clock::now_ns())
}

fn start_log() {
    let filter = EnvFilter::try_from_env("HIPPO_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false);
    // Another log in the same process, as in a test, stays.
    let _ = subscriber.try_init();
}

/// A panic anywhere ends the process (crash-only), also in builds that unwind. A failed assertion is
/// one.
fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        flight::dump_on_panic(&panic.to_string());
        std::process::abort();
    }));
}

/// SIGTERM and SIGINT ask for a clean stop; a second Ctrl-C ends the process at once.
fn watch_signals() -> Result<StopFlag, Refusal> {
    let stop = StopFlag::default();
    let interrupted = StopFlag::default();
    let failure = i32::from(Exit::Failure as u8);
    signal_hook::flag::register_conditional_shutdown(SIGINT, failure, interrupted.cell())
        .and_then(|_| signal_hook::flag::register(SIGINT, interrupted.cell()))
        .and_then(|_| signal_hook::flag::register(SIGINT, stop.cell()))
        .and_then(|_| signal_hook::flag::register(SIGTERM, stop.cell()))
        .or_exit(Exit::Failure, "cannot handle signals")?;
    Ok(stop)
}

/// SIGUSR1 asks for a flight recording.
fn watch_dump_requests() -> Result<StopFlag, Refusal> {
    let asked = StopFlag::default();
    signal_hook::flag::register(SIGUSR1, asked.cell())
        .or_exit(Exit::Failure, "cannot handle signals")?;
    Ok(asked)
}

/// Ends a stop that a hot thread does not follow, as the last resort, and writes flight recordings
/// on request.
fn watch_over(stop: StopFlag, dump: StopFlag) -> Result<(), Refusal> {
    static SPAWNED: AtomicBool = AtomicBool::new(false);
    assert!(
        !SPAWNED.swap(true, Ordering::Relaxed),
        "one node per process"
    );
    thread::Builder::new()
        .name("hippo-stop".to_owned())
        .spawn(move || {
            let mut since = None;
            loop {
                thread::sleep(Duration::from_millis(100));
                if dump.cell().swap(false, Ordering::Relaxed) {
                    flight::dump_and_say("SIGUSR1");
                }
                if stop.is_set() && since.get_or_insert_with(Instant::now).elapsed() > STOP_LIMIT {
                    tracing::error!("the stop took longer than {STOP_LIMIT:?}; ending hard");
                    flight::dump_and_say("the stop took too long");
                    std::process::exit(i32::from(Exit::Failure as u8));
                }
            }
        })
        .or_exit(Exit::Failure, "cannot start a thread")?;
    Ok(())
}
