//! `hippo config`: check, show and explain configurations.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::output::{Format, Rows, print};
use super::overrides::Overrides;
use crate::config::{self, Config};
use crate::exit::{Exit, Outcome};
use crate::prepare;

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check node.toml or committee.toml files; of two committees, name the fields that differ
    ///
    /// A file that has a `[node]` section is read as a node.toml, together with the committee it
    /// names. Exits 0 when all are valid and all committees agree, 2 when a file is invalid, 1 when
    /// the committees differ.
    Check {
        #[arg(value_name = "FILE", required = true, num_args = 1..=31)]
        files: Vec<PathBuf>,
    },
    /// Print every setting of a node with its value
    Show {
        /// The node's configuration
        #[arg(long, value_name = "FILE", default_value = "node.toml")]
        config: PathBuf,
        /// Also print where each value came from: flag, environment, file and line, or default
        #[arg(long)]
        origin: bool,
        /// Form of the output
        #[arg(long, short, value_enum, default_value_t)]
        output: Format,
        #[command(flatten)]
        overrides: Box<Overrides>,
    },
    /// Print a node.toml with every setting at its default, explained
    Sample,
}

pub fn run(command: ConfigCommand) -> Outcome {
    match command {
        ConfigCommand::Check { files } => check(&files),
        ConfigCommand::Show {
            config,
            origin,
            output,
            overrides,
        } => show(&config, origin, output, &overrides),
        ConfigCommand::Sample => {
            print(config::sample());
            Ok(Exit::Ok)
        }
    }
}

fn check(files: &[PathBuf]) -> Outcome {
    let mut committees = Vec::new();
    for file in files {
        let committee = if is_node_config(file) {
            let (config, _) = Config::load(file, &Vec::new())?;
            config.node.committee
        } else {
            file.clone()
        };
        committees.push((committee.clone(), prepare::load_committee(&committee)?));
        print(format!("{}: valid\n", file.display()));
    }
    let Some(((first_path, first), rest)) = committees.split_first() else {
        return Ok(Exit::Ok);
    };
    let mut exit = Exit::Ok;
    for (path, committee) in rest {
        let Some(fields) = first.difference(committee) else {
            continue;
        };
        let refused = first.digest() != committee.digest();
        let consequence = if refused {
            "nodes with these files refuse each other"
        } else {
            "the digests agree, so nodes with these files accept each other"
        };
        print(format!(
            "{} and {} differ in: {}; {consequence}\n",
            first_path.display(),
            path.display(),
            fields.join(", "),
        ));
        exit = Exit::Failure;
    }
    Ok(exit)
}

fn is_node_config(path: &Path) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().any(|line| {
        let line = line.trim();
        line == "[node]" || line.starts_with("node.")
    })
}

fn show(path: &Path, origin: bool, output: Format, overrides: &Overrides) -> Outcome {
    let (_, layers) = Config::load(path, &overrides.flags)?;
    let mut rows = Rows::new(if origin {
        &["setting", "value", "origin"]
    } else {
        &["setting", "value"]
    });
    for chosen in &layers.chosen {
        let mut row = vec![
            chosen.setting.name().into(),
            chosen.value.to_string().into(),
        ];
        if origin {
            row.push(chosen.origin.to_string().into());
        }
        rows.push(row);
    }
    print(rows.render(output));
    Ok(Exit::Ok)
}
