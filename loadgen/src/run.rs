//! `hippo-load run`: from the command line to threads, and from their figures to the result.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, anyhow};
use client::{Client, Options};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use wire::committee::Admission;
use wire::ids::Sequence;
use wire::limits::SESSION_WINDOW;

use crate::cli::Run;
use crate::files::{RunFiles, write_all};
use crate::history::HistoryFile;
use crate::measure::{Measured, channels, measure};
use crate::network::Network;
use crate::plan::{Control, Plan};
use crate::port::PortConfig;
use crate::summary::summarize;
use crate::table;
use crate::verdict::{exit, exit_code};
use crate::worker::{NEVER_NS, Worker};

/// Runs, prints, writes; returns the exit code.
pub fn run(flags: &Run, command: &str) -> anyhow::Result<u8> {
    if let Err(usage) = flags.check() {
        eprintln!("hippo-load: {usage}");
        return Ok(exit::USAGE);
    }
    let network = Network::read(&flags.network)?;
    let history = match &flags.history {
        Some(path) => Some(
            HistoryFile::create(path)
                .with_context(|| format!("cannot write {}", path.display()))?,
        ),
        None => None,
    };
    let mut plan = plan(flags);
    let secrets = secrets(flags, &network)?;
    if secrets.len() < flags.threads || flags.in_flight() > secrets.len() * SESSION_WINDOW as usize
    {
        eprintln!(
            "hippo-load: {} client keys are too few for {} threads and {} transactions in flight: \
             lower --threads and --max-in-flight, or give more --client-key",
            secrets.len(),
            flags.threads,
            flags.in_flight()
        );
        return Ok(exit::USAGE);
    }
    plan.clients = secrets.len();
    let interrupted = watch_signals()?;
    let mut repetitions = Vec::new();
    for number in 0..flags.runs {
        if flags.runs > 1 {
            eprintln!("run {} of {}", number + 1, flags.runs);
        }
        let mut plan = Plan::clone(&plan);
        plan.seed = plan.seed.wrapping_add(number as u64);
        let history = history.as_ref();
        match repetition(
            flags,
            &network,
            &secrets,
            &Arc::new(plan),
            history,
            &interrupted,
        ) {
            Ok(measured) => repetitions.push(measured),
            Err(error) if is_no_quorum(&error) => {
                eprintln!("hippo-load: {error:#}");
                return Ok(exit::NO_QUORUM);
            }
            Err(error) => return Err(error),
        }
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
    }
    let summary = summarize(flags, &network, &plan, &repetitions, command)?;
    print!("{}", table::render(&summary.result, &flags.title));
    for warning in &summary.warnings {
        eprintln!("note: {warning}");
    }
    if let Some(directory) = &flags.output {
        let report = write_all(
            directory,
            &RunFiles {
                result: &summary.result,
                latency: &summary.figures.latency,
                seconds: &summary.seconds,
                log: &summary.log,
                started: summary.started,
            },
        )?;
        println!("report: {}", report.display());
    }
    let slo_met = summary.result.slo.as_ref().is_none_or(|slo| slo.met);
    Ok(exit_code(summary.result.valid, slo_met))
}

/// The first signal ends the load, and what was measured until then is told; a second one ends the
/// process.
fn watch_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let code = i32::from(exit::FAILURE);
        flag::register_conditional_shutdown(signal, code, Arc::clone(&interrupted))
            .and_then(|_| flag::register(signal, Arc::clone(&interrupted)))
            .context("cannot handle signals")?;
    }
    Ok(interrupted)
}

fn is_no_quorum(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("no quorum")
}

/// The load that the flags describe.
pub fn plan(flags: &Run) -> Plan {
    let in_flight_per_thread = (flags.in_flight() / flags.threads).max(flags.bundle);
    Plan {
        rate_tps: flags.rate.0,
        arrival: flags.arrival,
        warmup_ns: flags.warmup.0,
        duration_ns: flags.duration.0,
        timeout_ns: flags.timeout.0,
        connect_timeout_ns: flags.connect_timeout.0,
        clients: flags.clients,
        threads: flags.threads,
        in_flight_per_thread,
        preload: flags.ratio.gets > 0,
        preload_in_flight: in_flight_per_thread.min(64 * flags.bundle),
        bundle_max: flags.bundle,
        linger_ns: flags.linger_ns(),
        value_bytes: flags.value_size,
        keys: flags.keys,
        key_distribution: flags.key_dist,
        ratio: flags.ratio,
        saturate: flags.saturate,
        seed: flags.seed,
    }
}

/// The keys of the clients: those of `--client-key`, the network's own where strangers are not
/// admitted, fresh ones otherwise.
fn secrets(flags: &Run, network: &Network) -> anyhow::Result<Vec<client::Secret>> {
    let mut files = flags.client_key.clone();
    if files.is_empty() && matches!(network.committee.admission(), Admission::List(_)) {
        files.push(flags.network.join("client.key"));
    }
    if files.is_empty() {
        return (0..flags.clients)
            .map(|_| Ok(client::Secret::generate(&entropy()?)?))
            .collect();
    }
    let read = |path: &PathBuf| {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the client key {}", path.display()))?;
        client::Secret::from_pem(&text)
            .with_context(|| format!("{} is no client key", path.display()))
    };
    files.iter().map(read).collect()
}

/// Random bytes for a client's key, from the system's generator.
fn entropy() -> anyhow::Result<[u8; 32]> {
    use std::io::Read;
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(bytes)
}

fn repetition(
    flags: &Run,
    network: &Network,
    secrets: &[client::Secret],
    plan: &Arc<Plan>,
    history: Option<&HistoryFile>,
    interrupted: &Arc<AtomicBool>,
) -> anyhow::Result<Measured> {
    let control = Arc::new(Control::new(Arc::clone(interrupted)));
    let (desk, worker_channels) = channels(plan.threads);
    let options = Options {
        bundle_max: plan.bundle_max,
        linger_ns: NEVER_NS,
        timeout_ns: plan.timeout_ns,
        datagram_bytes_max: flags.datagram_bytes,
        dissemination: if flags.to_all {
            client::Dissemination::All
        } else {
            client::Dissemination::LeaderFirst
        },
        // The keys may have had sessions before: begin above all that they used.
        first_sequence: Sequence(platform::clock::wall_ns() / 1_000),
        ..Options::default()
    };
    let mut workers = Vec::new();
    let mut first_client = 0;
    for (thread, channels) in worker_channels.into_iter().enumerate() {
        let share = (secrets.len() + thread) / plan.threads;
        let clients = secrets[first_client..first_client + share]
            .iter()
            .map(|secret| {
                let options = Options {
                    seed: u64::from_le_bytes(*entropy()?.first_chunk().expect("32 bytes")),
                    ..options
                };
                Client::new(Arc::clone(&network.committee), secret, options)
                    .map_err(|error| anyhow!("{error}"))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        workers.push(Worker {
            thread,
            plan: Arc::clone(plan),
            control: Arc::clone(&control),
            reports: channels.reports,
            empties: channels.empties,
            clients,
            first_client,
            port: PortConfig {
                addresses: network.addresses(),
                backend: flags.backend,
                idle: flags.idle,
            },
            history: history.map(HistoryFile::writer),
        });
        first_client += share;
    }
    let threads = workers
        .into_iter()
        .map(|worker| {
            let core = flags
                .core
                .0
                .get(worker.thread % flags.core.0.len().max(1))
                .copied();
            let name = format!("load-{}", worker.thread);
            platform::thread::spawn(&name, core, || worker.run())
                .context("cannot start a generator thread")
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let measured = measure(&desk, plan, &control, &network.admins, !flags.no_progress);
    drop(desk);
    for thread in threads {
        if thread.join().is_err() {
            return Err(anyhow!("a generator thread panicked"));
        }
    }
    measured
}
