//! `hippo member add | remove | replace`: the operator's word about the next epoch.

use std::fs;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use client::blocking::{ConnectOptions, Connection};
use indicatif::ProgressBar;
use wire::change::{Change, ChangeAnswer, MemberChange};
use wire::committee::{Committee, Origin};
use wire::ids::{Digest, NodeId, PublicKey, Slot, parse_hex};

use super::super::kv::refusal;
use super::super::network::{self, NetworkArgs};
use super::super::output::print;
use crate::config::value::parse_duration_ns;
use crate::exit::{Exit, ExitContext, Outcome, Refusal};
use crate::keyfile;

const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub struct Asking {
    #[command(flatten)]
    network: NetworkArgs,
    /// The operator's key [default: DIR/operator.key]
    #[arg(long, value_name = "FILE")]
    operator: Option<PathBuf>,
    /// Which faults the next committee stands, as B,U,P [default: what the preset says]
    #[arg(long, value_name = "B,U,P", value_parser = parse_faults)]
    faults: Option<[u8; 3]>,
    /// How long to wait for the next epoch
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration_ns)]
    timeout: u64,
}

#[derive(Debug, Args)]
pub struct AddArgs {
    /// Public key of the new node, 64 hexadecimal digits (`hippo key generate` prints it)
    #[arg(long, value_name = "HEX", value_parser = parse_key)]
    public_key: PublicKey,
    /// Where it will listen
    #[arg(long, value_name = "IP:PORT")]
    address: SocketAddr,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// The member
    #[arg(value_name = "ID")]
    id: u16,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Args)]
pub struct ReplaceArgs {
    /// The member whose key ends
    #[arg(value_name = "ID")]
    id: u16,
    /// Public key of the node that takes its place
    #[arg(long, value_name = "HEX", value_parser = parse_key)]
    public_key: PublicKey,
    /// Where that will listen [default: where the old one does]
    #[arg(long, value_name = "IP:PORT")]
    address: Option<SocketAddr>,
    #[command(flatten)]
    asking: Asking,
}

fn parse_key(text: &str) -> Result<PublicKey, String> {
    let key = parse_hex(text).map(PublicKey);
    key.ok_or_else(|| "expected 64 hexadecimal digits".to_owned())
}

fn parse_faults(text: &str) -> Result<[u8; 3], String> {
    let numbers = text
        .split(',')
        .map(str::parse)
        .collect::<Result<Vec<_>, _>>();
    let numbers = numbers.ok().and_then(|numbers| numbers.try_into().ok());
    numbers.ok_or_else(|| "expected three numbers, as 1,1,1".to_owned())
}

pub fn add(args: &AddArgs) -> Outcome {
    args.asking.run(|_| {
        Ok(MemberChange::Add {
            public_key: args.public_key,
            address: args.address,
        })
    })
}

pub fn remove(args: &RemoveArgs) -> Outcome {
    let id = NodeId(args.id);
    args.asking.run(|_| Ok(MemberChange::Remove { id }))
}

pub fn replace(args: &ReplaceArgs) -> Outcome {
    let id = NodeId(args.id);
    args.asking.run(|committee| {
        let member = committee.member(id);
        let member = member.ok_or_else(|| Refusal::usage(format!("there is no member {id}")))?;
        Ok(MemberChange::Replace {
            id,
            public_key: args.public_key,
            address: args.address.unwrap_or(member.address),
        })
    })
}

impl Asking {
    fn run(&self, members: impl Fn(&Committee) -> Result<MemberChange, Refusal>) -> Outcome {
        let committee = self.network.committee()?;
        let change = Change {
            epoch: committee.epoch(),
            members: members(&committee)?,
            faults: self.faults,
        };
        let unknown = Origin {
            slot: Slot(1),
            block: Digest::ZERO,
            state_root: Digest::ZERO,
        };
        let next = change.apply(&committee, unknown);
        let next = next.or_exit(Exit::Usage, "such a committee cannot be")?;
        let path = self.operator.clone();
        let path = path.unwrap_or_else(|| self.network.network.join("operator.key"));
        let limit = Duration::from_nanos(self.timeout);
        let activation = ask(&committee, &path, change, limit)?;
        print(format!(
            "accepted: epoch {} ends behind slot {activation}\n",
            committee.epoch()
        ));
        let begun = self.await_epoch(&committee, &next, limit)?;
        let file = self.network.network.join("committee.toml");
        replace_file(&file, &begun.to_toml())?;
        print(format!(
            "epoch {} has begun: {} members, {} may lie, {} may fail; {} is its committee\n",
            begun.epoch(),
            begun.n(),
            begun.b(),
            begun.parameters().u,
            file.display(),
        ));
        Ok(Exit::Ok)
    }

    /// Waits until u + 1 nodes show the same next committee, of which one is correct.
    fn await_epoch(
        &self,
        committee: &Committee,
        next: &Committee,
        limit: Duration,
    ) -> Result<Committee, Refusal> {
        let endpoints = self.network.endpoints(committee.n())?;
        let bar = match std::io::stderr().is_terminal() {
            true => ProgressBar::new_spinner().with_message("waiting for the next epoch"),
            false => ProgressBar::hidden(),
        };
        let since = Instant::now();
        loop {
            let shown = endpoints.iter().filter_map(|endpoint| {
                let (code, text) = network::get(endpoint.address, "/committee.toml").ok()?;
                let found = Committee::parse(&text).ok().filter(|_| code == 200)?;
                (found.epoch() == next.epoch()).then_some(found)
            });
            let shown = shown.collect::<Vec<_>>();
            for found in &shown {
                let as_many = shown.iter().filter(|other| *other == found).count();
                if as_many > committee.b() && found.members() == next.members() {
                    bar.finish_and_clear();
                    return Ok(found.clone());
                }
            }
            if since.elapsed() >= limit {
                return Err(Refusal::new(
                    Exit::Unhealthy,
                    "the change was accepted, and the next epoch has not begun in time: it begins \
                     when a checkpoint at its last slot is certified. `hippo status` says what is \
                     missing",
                ));
            }
            bar.tick();
            thread::sleep(PAUSE);
        }
    }
}

fn ask(
    committee: &Committee,
    key: &Path,
    change: Change,
    timeout: Duration,
) -> Result<Slot, Refusal> {
    let secret = keyfile::load_client(key)?;
    let options = ConnectOptions {
        connect_timeout: timeout,
        timeout,
        ..ConnectOptions::default()
    };
    let committee = Arc::new(committee.clone());
    let mut connection = Connection::connect(committee, &secret, options).map_err(refusal)?;
    match connection.reconfigure(change).map_err(refusal)?.value {
        ChangeAnswer::Accepted { activation } => Ok(activation),
        ChangeAnswer::NotTheOperator => Err(Refusal::usage(format!(
            "{} is not the key of this cluster's operator",
            key.display()
        ))),
        ChangeAnswer::Pending { activation } => Err(Refusal::failure(format!(
            "another change was accepted before, and takes effect behind slot {activation}"
        ))),
        ChangeAnswer::Refused => Err(Refusal::failure(
            "refused: the committee file is of another epoch than the cluster, or the change makes no \
             committee",
        )),
    }
}

fn replace_file(path: &Path, text: &str) -> Result<(), Refusal> {
    let unnamed = path.with_extension("new");
    let written = fs::write(&unnamed, text).and_then(|()| fs::rename(&unnamed, path));
    written.or_exit(Exit::Failure, format!("cannot write {}", path.display()))
}
