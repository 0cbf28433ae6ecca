//! The command line of `hippo-load`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use platform::driver::Backend;
use platform::idle::Idle;

use crate::units::{Arrival, CoreList, KeyDistribution, Linger, Objective, Rate, Ratio, Span};

/// Drives a Hippodrome cluster and measures it: open loop, latency from the intended send time to
/// the b+1-th equal authenticated reply.
#[derive(Debug, Parser)]
#[command(name = "hippo-load", version, about, after_help = EXAMPLE)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure at one rate (or, with --saturate, in a closed loop).
    Run(Box<Run>),
}

const EXAMPLE: &str = "\
A whole cluster on this machine:
  hippo testnet --nodes 4 --output net
  for i in 0 1 2 3; do hippo start --config net/node-$i/node.toml & done
  hippo-load run --network net --rate 100k --duration 10s --output results/first
  kill %1 %2 %3 %4

Exit codes: 0 ok, 1 failure, 2 usage, 3 no quorum or timeout, 10 the run is INVALID,
99 the objective of --slo was missed.";

#[derive(Clone, Debug, Args)]
pub struct Run {
    /// Network directory that `hippo testnet` wrote: committee.toml and node-*/node.toml
    #[arg(long, value_name = "DIR")]
    pub network: PathBuf,

    /// Transactions a second that all threads together send, whatever the replies do
    #[arg(long, short = 'R', default_value = "1k", conflicts_with = "saturate")]
    pub rate: Rate,

    /// Length of the measured window
    #[arg(long, short = 'd', default_value = "10s")]
    pub duration: Span,

    /// Load before the measured window; its figures are discarded
    #[arg(long, default_value = "2s")]
    pub warmup: Span,

    /// Client identities, each with a key and a session of its own (at most 1024 transactions of
    /// one client are in flight)
    #[arg(long, short = 'c', default_value_t = 64)]
    pub clients: usize,

    /// Key file of one client; repeat it for more. Replaces --clients, and is needed where the
    /// committee admits listed clients only (default there: client.key of the network)
    #[arg(long, value_name = "FILE")]
    pub client_key: Vec<PathBuf>,

    /// Generator threads; the clients are divided among them
    #[arg(long, short = 't', default_value_t = 1)]
    pub threads: usize,

    /// Transactions in flight at most, over all clients. Arrivals beyond are dropped, which makes
    /// the run INVALID. Default: 32768, with --saturate 64 bundles
    #[arg(long)]
    pub max_in_flight: Option<usize>,

    /// Spacing of arrivals: constant or poisson
    #[arg(long, default_value = "constant")]
    pub arrival: Arrival,

    /// Bytes that a put writes
    #[arg(long, default_value_t = 128)]
    pub value_size: usize,

    /// Number of different keys, 16 bytes each
    #[arg(long, default_value_t = 100_000)]
    pub keys: u64,

    /// Which keys are drawn how often: uniform or zipf:EXPONENT
    #[arg(long, default_value = "uniform")]
    pub key_dist: KeyDistribution,

    /// Parts of puts and ordered gets. With gets in the mix all keys are written before
    #[arg(long, default_value = "1:0", value_name = "PUTS:GETS")]
    pub ratio: Ratio,

    /// Transactions under one signature, in one request, at most (1 to 256)
    #[arg(long, default_value_t = 64)]
    pub bundle: usize,

    /// How long an open bundle waits for more transactions. `auto`: as long as it takes to fill at
    /// this rate, at most 500us; nothing at up to 2k transactions a second
    #[arg(long, default_value = "auto")]
    pub linger: Linger,

    /// A transaction without b+1 equal replies for this long is given up: its outcome is unknown
    #[arg(long, default_value = "5s")]
    pub timeout: Span,

    /// How long sessions, and each key written before the load, may take
    #[arg(long, default_value = "10s")]
    pub connect_timeout: Span,

    /// Seeds arrivals, keys and values; the same seed draws the same
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Repetitions; rates are the median of all, times are merged
    #[arg(long, default_value_t = 1)]
    pub runs: usize,

    /// Objective such as 'p99<1ms'; when it is missed the exit code is 99
    #[arg(long)]
    pub slo: Option<Objective>,

    /// Directory for result.json, timeseries.ndjson, latency.hgrm, latency.hlog and report.html
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,

    /// Write every operation as ndjson, for outside checkers. Costs generator time
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,

    /// Keep --max-in-flight outstanding instead of following a rate: a closed loop, for the
    /// throughput at saturation; its latency is not that of open arrivals
    #[arg(long)]
    pub saturate: bool,

    /// No progress bar, also on a terminal
    #[arg(long)]
    pub no_progress: bool,

    /// Processors for the generator threads, such as 0,1; none: not pinned
    #[arg(
        long,
        default_value = "",
        value_name = "LIST",
        hide_default_value = true
    )]
    pub core: CoreList,

    /// How datagrams are moved
    #[arg(long, default_value_t = Backend::Auto, value_name = "auto|uring|mmsg")]
    pub backend: Backend,

    /// What a generator thread does with nothing to do. spin and spin-yield notice replies sooner,
    /// and take a whole processor for it
    #[arg(long, default_value = "block", value_name = "spin|spin-yield|block")]
    pub idle: Idle,

    /// Bytes of a datagram at most, whatever larger size the nodes ask for
    #[arg(long, default_value_t = wire::limits::DATAGRAM_BYTES_MAX)]
    pub datagram_bytes: usize,

    /// Send each request to all replicas at once instead of the leader first
    #[arg(long)]
    pub to_all: bool,

    /// Word in the first line of the table
    #[arg(long, default_value = "load", hide = true)]
    pub title: String,
}

impl Run {
    /// What is wrong with the combination of flags, in one line with a remedy.
    pub fn check(&self) -> Result<(), String> {
        use wire::limits::{BUNDLE_MAX, DATAGRAM_BYTES_MAX, SESSION_WINDOW, VALUE_BYTES_MAX};
        let within = |name: &str, value: usize, low: usize, high: usize| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(format!("--{name} {value}: expected {low} to {high}"))
            }
        };
        within("clients", self.clients, 1, 4096)?;
        within("threads", self.threads, 1, 64)?;
        within("bundle", self.bundle, 1, BUNDLE_MAX)?;
        within("value-size", self.value_size, 0, VALUE_BYTES_MAX)?;
        within("runs", self.runs, 1, 100)?;
        within(
            "datagram-bytes",
            self.datagram_bytes,
            544,
            DATAGRAM_BYTES_MAX,
        )?;
        if self.clients < self.threads {
            return Err(format!(
                "--clients {} is below --threads {}: every thread needs a client",
                self.clients, self.threads
            ));
        }
        if self.keys == 0 || self.keys > 1_000_000_000_000 {
            return Err("--keys: expected 1 to 10^12".to_string());
        }
        if self.ratio.gets > 0 && self.keys > 100_000_000 {
            return Err("--keys: gets need all keys written first; use at most 10^8".to_string());
        }
        if self.duration.0 < 100_000_000 {
            return Err("--duration: expected at least 100ms".to_string());
        }
        if self.timeout.0 == 0 {
            return Err("--timeout: expected more than 0".to_string());
        }
        let request = wire::request::REQUEST_HEAD_BYTES
            + self.bundle * (12 + crate::keys::KEY_BYTES + self.value_size);
        if request > wire::limits::REQUEST_BYTES_MAX {
            return Err(format!(
                "--bundle {} of --value-size {} makes requests of {request} bytes, above {}: lower one of them",
                self.bundle,
                self.value_size,
                wire::limits::REQUEST_BYTES_MAX
            ));
        }
        if self.in_flight() < self.bundle * self.threads {
            return Err(format!(
                "--max-in-flight {} is below one bundle for each thread ({})",
                self.in_flight(),
                self.bundle * self.threads
            ));
        }
        if self.in_flight() > self.clients * SESSION_WINDOW as usize {
            return Err(format!(
                "--max-in-flight {} needs at least {} clients: each may have {SESSION_WINDOW} in flight",
                self.in_flight(),
                self.in_flight().div_ceil(SESSION_WINDOW as usize)
            ));
        }
        Ok(())
    }

    /// Transactions in flight at most.
    pub fn in_flight(&self) -> usize {
        match self.max_in_flight {
            Some(in_flight) => in_flight,
            None if self.saturate => 64 * self.bundle,
            None => 32_768.min(self.clients * wire::limits::SESSION_WINDOW as usize),
        }
    }

    /// The linger of one thread's bundles.
    pub fn linger_ns(&self) -> u64 {
        if self.saturate {
            0
        } else {
            self.linger
                .resolve_ns(self.rate.0 / self.threads as f64, self.bundle)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn run(arguments: &str) -> Run {
        let all = "hippo-load run --network net "
            .split_whitespace()
            .chain(arguments.split_whitespace());
        match Cli::try_parse_from(all).unwrap().command {
            Command::Run(run) => *run,
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_as_other_generators_know_them() {
        let run =
            run("-R 100k -d 60s --warmup 10s -c 32 -t 2 --ratio 1:3 --slo p99<1ms --core 0-1");
        assert_eq!(run.rate.0, 100_000.0);
        assert_eq!((run.clients, run.threads), (32, 2));
        assert_eq!(run.core.0, [0, 1]);
        assert_eq!(run.in_flight(), 32_768);
        assert!(run.check().is_ok());
    }

    #[test]
    fn impossible_combinations_are_refused() {
        for bad in [
            "-c 1 -t 2",
            "--bundle 0",
            "--bundle 257",
            "--bundle 256 --value-size 4096",
            "--max-in-flight 10",
            "-c 1 --max-in-flight 2000",
            "--keys 0",
            "-d 1ms",
        ] {
            assert!(run(bad).check().is_err(), "{bad}");
        }
        assert!(Cli::try_parse_from(["hippo-load", "run"]).is_err());
    }

    #[test]
    fn saturation_keeps_bundles_outstanding() {
        let run = run("--saturate --bundle 32");
        assert_eq!(run.in_flight(), 2048);
        assert_eq!(run.linger_ns(), 0);
    }
}
