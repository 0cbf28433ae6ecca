//! `hippo testnet`: flags of [`crate::testnet`].

use std::io::IsTerminal;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use wire::committee::{Committee, StateMachine, VoteAuthentication};
use wire::limits::REPLICAS_MAX;

use super::output::print;
use crate::config::settings;
use crate::config::value::{Value, parse_bytes, parse_cores, show_bytes};
use crate::exit::{Exit, Outcome, Refusal};
use crate::testnet::{self, Addresses, Plan};

/// What decided transactions do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Machine {
    /// The key-value table
    Kv,
    /// Nothing: measures ordering alone
    Noop,
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
    let parameters = committee.parameters();
    let output = plan.output.display();
    print(format!(
        "{output}: {} nodes, {} may lie, {} may fail; committee {}; {} of log zeroed\n\
         start each:  hippo start --config {output}/node-0/node.toml\n\
         then:        hippo put --network {output} city Byzantium\n",
        plan.nodes,
        parameters.b,
        parameters.u,
        committee.digest(),
        show_bytes(plan.zeroed_bytes()),
    ));
    Ok(Exit::Ok)
}
