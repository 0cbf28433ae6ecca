//! `hippo testnet`: flags of [`crate::testnet`].

use std::io::IsTerminal;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use replica::agreement::quorum::Quorums;
use wire::committee::{Committee, Parameters, Preset, StateMachine, VoteAuthentication};
use wire::limits::REPLICAS_MAX;

use super::output::print;
use crate::config::settings;
use crate::config::value::{Value, parse_bytes, parse_cores, show_bytes};
use crate::exit::{Exit, Outcome, Refusal};
use crate::testnet::{self, Addresses, Faults, Plan};

/// What decided transactions do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Machine {
    /// The key-value table
    Kv,
    /// Nothing: measures ordering alone
    Noop,
}

/// How many of n nodes may lie (b), may fail in any way (u), and may be missing while votes alone
/// still decide (p).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Named {
    /// b = u = (n-1)/3 rounded down, p as large as that allows: stands the most faults. More nodes
    /// missing than p, and one more message delay goes into each commit (from 6 nodes on)
    Balanced,
    /// b = u = p = (n+1)/5 rounded down: two message delays with every fault that it stands, which
    /// are fewer from 7 nodes on
    Latency,
    /// b = u = (n-1)/3 without the rule that excludes a leader caught lying; p is smaller for it: of
    /// 4 or 7 nodes one missing already costs the third delay
    Strict,
    #[value(hide = true)]
    CrashHeavy,
    #[value(hide = true)]
    SafetyHeavy,
}

impl Named {
    fn preset(self) -> Preset {
        match self {
            Named::Balanced => Preset::Balanced,
            Named::Latency => Preset::Latency,
            Named::Strict => Preset::Strict,
            Named::CrashHeavy => Preset::CrashHeavy,
            Named::SafetyHeavy => Preset::SafetyHeavy,
        }
    }
}

/// What proves that a vote is its sender's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Votes {
    /// Ed25519
    Signature,
    /// The links' MAC: cheaper; votes cannot be shown to others, and committees with a slow path
    /// (6 nodes, for example) refuse it
    Mac,
}

/// Shape of a new cluster.
#[derive(Debug, Args)]
pub struct Shape {
    /// Replicas; 4 stand one fault
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=REPLICAS_MAX as i64))]
    pub nodes: u16,
    /// Node i listens on 127.0.0.1, UDP port P+i, and serves its status on TCP port P+100+i
    #[arg(long, value_name = "P", default_value_t = 7100)]
    base_port: u16,
    /// Node i listens on the i-th address from A, port P; its status is served on its own
    /// loopback, port P+100
    #[arg(long, value_name = "A")]
    starting_ip: Option<Ipv4Addr>,
    /// Which faults the nodes stand, and how many of them decide; for ever
    #[arg(long, value_enum, value_name = "NAME", default_value = "balanced")]
    preset: Named,
    /// Nodes that may lie while nothing wrong is ever answered; with --u and --p, in place of
    /// --preset. b < u is the preset crash-heavy, b > u is safety-heavy
    #[arg(long, value_name = "N", requires_all = ["u", "p"], conflicts_with = "preset")]
    b: Option<u16>,
    /// Nodes that may lie, crash or be cut off, in all, while transactions commit. Refused unless
    /// n >= 2u+b+1
    #[arg(long, value_name = "N", requires_all = ["b", "p"], conflicts_with = "preset")]
    u: Option<u16>,
    /// Nodes that may be missing or slow while a commit takes two message delays; with more than
    /// that it takes three. Refused unless p <= u and n >= u+2b+2p-1
    #[arg(long, value_name = "N", requires_all = ["b", "u"], conflicts_with = "preset")]
    p: Option<u16>,
    /// What decided transactions do
    #[arg(long, value_enum, default_value = "kv")]
    state_machine: Machine,
    /// What proves that a vote is its sender's
    #[arg(long, value_enum, default_value = "signature")]
    vote_authentication: Votes,
    /// Largest UDP payload [default: 65507 on loopback, otherwise 1472]
    #[arg(long, value_name = "SIZE")]
    datagram_bytes: Option<String>,
    /// How a log write becomes durable: dsync, fdatasync [default: dsync]
    #[arg(long, value_name = "HOW")]
    flush: Option<String>,
    /// What an idle hot thread does: auto, spin, spin-yield, block [default: auto]
    #[arg(long, value_name = "HOW")]
    idle: Option<String>,
    /// Hot threads per node: auto, 1, 2, 4 [default: auto]
    #[arg(long, value_name = "N")]
    layout: Option<String>,
    /// System calls of the network: auto, uring, mmsg [default: auto]
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Size of a log segment, fixed for ever
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = parse_bytes)]
    segment_bytes: u64,
    /// Log segments at most; a full log refuses new transactions
    #[arg(long, value_name = "N", default_value_t = 64)]
    segments_max: u32,
    /// Log segments made now; each is zeroed, which takes time
    #[arg(long, value_name = "N", default_value_t = 2)]
    segments_initial: u32,
    /// Processors for the nodes: node i is pinned to the i-th of LIST, modulo its length
    #[arg(long, value_name = "LIST", value_parser = parse_core_list)]
    cores: Option<CoreList>,
    /// Pin no thread, which is the default
    #[arg(long, conflicts_with = "cores")]
    no_pin: bool,
}

/// Processor numbers as one argument.
#[derive(Clone, Debug)]
struct CoreList(Vec<usize>);

fn parse_core_list(text: &str) -> Result<CoreList, String> {
    parse_cores(text).map(CoreList)
}

#[derive(Debug, Args)]
pub struct TestnetArgs {
    /// Directory to make
    #[arg(long, short, value_name = "DIR", default_value = "./testnet")]
    output: PathBuf,
    #[command(flatten)]
    shape: Shape,
}

impl Shape {
    /// The plan of a network in `output`; refuses values that a node would refuse.
    pub fn plan(&self, output: PathBuf) -> Result<Plan, Refusal> {
        let texts = [
            ("network", "datagram_bytes", &self.datagram_bytes),
            ("network", "backend", &self.backend),
            ("threads", "layout", &self.layout),
            ("threads", "idle", &self.idle),
            ("storage", "flush", &self.flush),
        ];
        let mut written = Vec::new();
        for (section, key, text) in texts {
            if let Some(text) = text {
                written.push((section, key, parsed(section, key, text)?));
            }
        }
        for (key, number) in [
            ("segment_bytes", self.segment_bytes),
            ("segments_max", u64::from(self.segments_max)),
            ("segments_initial", u64::from(self.segments_initial)),
        ] {
            parsed("storage", key, &number.to_string())?;
        }
        if self.segments_initial > self.segments_max {
            return Err(Refusal::usage(
                "--segments-initial is more than --segments-max",
            ));
        }
        Ok(Plan {
            faults: self.faults()?,
            nodes: usize::from(self.nodes),
            output,
            addresses: match self.starting_ip {
                Some(first) => Addresses::Consecutive {
                    first,
                    port: self.base_port,
                },
                None => Addresses::Loopback {
                    port: self.base_port,
                },
            },
            state_machine: match self.state_machine {
                Machine::Kv => StateMachine::Kv,
                Machine::Noop => StateMachine::Noop,
            },
            origin: None,
            vote_authentication: match self.vote_authentication {
                Votes::Signature => VoteAuthentication::Signature,
                Votes::Mac => VoteAuthentication::Mac,
            },
            cores: self.cores.clone().map_or_else(Vec::new, |list| list.0),
            settings: written,
            segment_bytes: self.segment_bytes,
            segments_max: self.segments_max,
            segments_initial: self.segments_initial,
        })
    }

    fn faults(&self) -> Result<Faults, Refusal> {
        if let (Some(b), Some(u), Some(p)) = (self.b, self.u, self.p) {
            let [n, b, u, p] = [self.nodes, b, u, p].map(usize::from);
            return Ok(Faults::Given(Parameters { n, b, u, p }));
        }
        let preset = self.preset.preset();
        if preset.is_explicit() {
            return Err(Refusal::usage(format!(
                "--preset {preset} settles no numbers; give --b, --u and --p instead of it"
            )));
        }
        Ok(Faults::Preset(preset))
    }
}

fn parsed(section: &'static str, key: &'static str, text: &str) -> Result<Value, Refusal> {
    let setting = settings::find(section, key).expect("a setting of the table");
    setting
        .kind
        .parse(text)
        .map_err(|reason| Refusal::usage(format!("--{}: {reason}", key.replace('_', "-"))))
}

/// Makes the network, with a progress bar on a terminal.
pub fn create(plan: &Plan) -> Result<Committee, Refusal> {
    let bar = if std::io::stderr().is_terminal() {
        let style = ProgressStyle::with_template("zeroing logs {wide_bar} {bytes}/{total_bytes}");
        ProgressBar::new(plan.zeroed_bytes())
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    } else {
        ProgressBar::hidden()
    };
    let made = testnet::create(plan, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    made
}

pub fn run(args: &TestnetArgs) -> Outcome {
    let plan = args.shape.plan(args.output.clone())?;
    let committee = create(&plan)?;
    print(made(&plan, &committee));
    Ok(Exit::Ok)
}

/// What was made, in words.
pub fn made(plan: &Plan, committee: &Committee) -> String {
    let quorums = Quorums::of(committee);
    let output = plan.output.display();
    let decide = if quorums.has_slow_path() {
        format!(
            "{} decide in two steps, {} in three",
            quorums.fast(),
            quorums.slow()
        )
    } else {
        format!("{} decide", quorums.fast())
    };
    format!(
        "{output}: {} nodes, {} may lie, {} may fail, {decide} ({}); committee {}; {} of log zeroed\n\
         start each:  hippo start --config {output}/node-0/node.toml\n\
         then:        hippo put --network {output} city Byzantium\n",
        plan.nodes,
        quorums.b,
        quorums.u,
        committee.preset(),
        committee.digest(),
        show_bytes(plan.zeroed_bytes()),
    )
}
