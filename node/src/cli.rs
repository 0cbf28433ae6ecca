//! The command line of `hippo`.

mod config;
mod dev;
mod inspect;
mod key;
mod kv;
mod member;
mod network;
mod output;
mod overrides;
mod recover;
mod snapshot;
mod start;
mod status;
mod testnet;
mod txn;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use platform::processor;

use crate::exit::{Exit, Outcome};

const EXAMPLE: &str = "\
A whole cluster:
  hippo testnet --nodes 4 --output net
  for i in 0 1 2 3; do hippo start --config net/node-$i/node.toml & done
  export HIPPO_NETWORK=net
  hippo put city Byzantium
  hippo get city
  hippo cas city Constantinople --expect Byzantium
  hippo txn --if-absent k2 --put k2=1 --get city
  hippo scan --prefix c
  hippo status
  hippo member list
The same for a look around, in one command: hippo dev

Exit codes:
  0 ok   1 failure   2 usage   3 no quorum or timeout   4 key absent or condition failed
  5 cluster unhealthy   6 data damaged   7 preflight failed: the node refuses to start";

/// Byzantine-fault-tolerant replicated key-value node for a local network
///
/// Four nodes tolerate one that lies, crashes or is cut off; a transaction commits in two message
/// delays.
#[derive(Debug, Parser)]
#[command(name = "hippo", version, after_help = EXAMPLE)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new network directory: keys, committee, configurations, formatted data directories
    ///
    /// Refuses a directory that is not empty. Keys get mode 0600; whoever has operator.key may
    /// reconfigure the cluster, whoever has client.key may write.
    #[command(after_help = EXAMPLE)]
    Testnet(testnet::TestnetArgs),
    /// Run one node until SIGTERM or Ctrl-C
    ///
    /// Refuses to start, changing nothing, with exit code 7 when keys, committee or data directory
    /// do not belong together, and with 6 when the log is damaged. It never formats. Logs go to
    /// standard error; HIPPO_LOG=debug shows more. `--help` lists all settings as flags.
    #[command(after_help = EXAMPLE)]
    Start(start::StartArgs),
    /// Run a whole cluster on this machine; Ctrl-C stops it
    #[command(after_help = EXAMPLE)]
    Dev(dev::DevArgs),
    /// Write a value under a key
    Put(kv::PutArgs),
    /// Print the value of a key; exits 4 when it is absent
    Get(kv::GetArgs),
    /// Remove a key; exits 4 when it was absent
    Delete(kv::DeleteArgs),
    /// Write a value only if the key holds what is expected; exits 4 when it does not
    Cas(kv::CasArgs),
    /// Execute several operations together, if all conditions hold; exits 4 when they do not
    ///
    /// hippo txn --if 'k=v' --if-absent k2 --put a=1 --delete b --get c
    Txn(txn::TxnArgs),
    /// Print keys and values in key order
    Scan(kv::ScanArgs),
    /// Print what every node says of itself; exits 5 when too few serve
    #[command(after_help = EXAMPLE)]
    Status(status::StatusArgs),
    /// Say in one line whether the cluster serves; exits 5 when it does not
    Health(status::HealthArgs),
    /// Show who the members are, where they are, and how alive they look
    #[command(subcommand)]
    Member(member::MemberCommand),
    /// Bring a node whose disk is lost back, under a new key
    Recover(recover::RecoverArgs),
    /// Make, show and check keys
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Save the state of a cluster, restore it into a new one, list what a node has on its disk
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Look at what lies in a node's data directory: log, snapshots, everything; read only
    #[command(subcommand)]
    Inspect(inspect::InspectCommand),
    /// Check, show and explain configurations
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print the version
    Version,
    /// Print a completion script for a shell
    Completion {
        #[arg(value_enum)]
        shell: Shell,
    },
}

/// Parses the command line, runs the command, prints its error, returns its code.
pub fn main() -> ExitCode {
    if let Some(missing) = processor::missing() {
        eprintln!("hippo: {}", processor::advice(missing));
        return Exit::Preflight.into();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Ok.into(),
                _ => Exit::Usage.into(),
            };
        }
    };
    match dispatch(cli.command) {
        Ok(exit) => exit.into(),
        Err(refusal) => {
            eprintln!("hippo: {refusal}");
            refusal.exit.into()
        }
    }
}

fn dispatch(command: Command) -> Outcome {
    match command {
        Command::Testnet(args) => testnet::run(&args),
        Command::Start(args) => start::run(&args),
        Command::Dev(args) => dev::run(&args),
        Command::Put(args) => kv::put(&args),
        Command::Get(args) => kv::get(&args),
        Command::Delete(args) => kv::delete(&args),
        Command::Cas(args) => kv::cas(&args),
        Command::Txn(args) => txn::run(&args),
        Command::Scan(args) => kv::scan(&args),
        Command::Status(args) => status::status(&args),
        Command::Health(args) => status::health(&args),
        Command::Member(command) => member::run(&command),
        Command::Recover(args) => recover::run(&args),
        Command::Key(command) => key::run(command),
        Command::Snapshot(command) => snapshot::run(&command),
        Command::Inspect(command) => inspect::run(&command),
        Command::Config(command) => config::run(command),
        Command::Version => {
            output::print(format!("hippo {}\n", env!("CARGO_PKG_VERSION")));
            Ok(Exit::Ok)
        }
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "hippo", &mut script);
            output::print(script);
            Ok(Exit::Ok)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn settings_are_flags_of_start() {
        let args = [
            "hippo",
            "start",
            "--threads-idle",
            "block",
            "--storage-segments-max",
            "9",
        ];
        let Command::Start(_) = Cli::try_parse_from(args).unwrap().command else {
            panic!("not start");
        };
        assert!(Cli::try_parse_from(["hippo", "start", "--threads-idel", "block"]).is_err());
    }
}
