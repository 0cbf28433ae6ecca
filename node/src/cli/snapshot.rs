//! `hippo snapshot`: the snapshot files of a node's data directory.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::Value;

use super::output::{Format, Rows, print};
use super::overrides::Overrides;
use crate::config::Config;
use crate::config::value::show_bytes;
use crate::datadir;
use crate::exit::{Exit, ExitContext, Outcome};

#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
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

pub fn run(command: &SnapshotCommand) -> Outcome {
    let SnapshotCommand::Status {
        config,
        output,
        overrides,
    } = command;
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
    print(rows.render(*output));
    Ok(Exit::Ok)
}
