//! `hippo recover`: a node whose disk is lost comes back under another key (protocol R5, G5).

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use storage::record::LogId;
use storage::superblock::{DIRECTORY_VERSION, Superblock};
use wire::ids::NodeId;

use super::output::print;
use super::overrides::Overrides;
use crate::config::Config;
use crate::datadir::{self, look};
use crate::exit::{Exit, ExitContext, Outcome, Refusal};
use crate::{keyfile, prepare, testnet};

const EXAMPLE: &str = "\
Node 3 lost its disk:
  hippo recover --config net/node-3/node.toml          # a new key; prints what comes next
  hippo member replace 3 --public-key HEX --network net
  hippo recover --config net/node-3/node.toml          # a directory for the new member
  hippo start --config net/node-3/node.toml";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct RecoverArgs {
    /// The node's configuration
    #[arg(long, value_name = "FILE", default_value = "node.toml")]
    config: PathBuf,
    #[command(flatten)]
    overrides: Box<Overrides>,
}

pub fn run(args: &RecoverArgs) -> Outcome {
    let (config, _) = Config::load(&args.config, &args.overrides.flags)?;
    let data = &config.node.data;
    if let Some(process) = look::holder(data) {
        return Err(Refusal::preflight(format!(
            "{} is in use by process {process}: that node has its disk",
            data.display()
        )));
    }
    let committee = prepare::load_committee(&config.node.committee)?;
    let key = &config.node.key;
    let known = match key.exists() {
        true => Some(keyfile::load_node(key)?),
        false => None,
    };
    let member = known.as_ref().and_then(|secret| {
        let public_key = secret.public_key();
        Some((committee.find(&public_key)?, public_key))
    });
    let spent = data.join("superblock.a").exists() || data.join("superblock.b").exists();
    match member {
        // A member's key with a directory that was formatted may have voted: it is never used again.
        Some((id, public_key)) if !spent && committee.epoch().0 > 0 => {
            let mut log = LogId([0; 16]);
            let entropy = keyfile::entropy().or_exit(Exit::Failure, "cannot read /dev/urandom")?;
            log.0.copy_from_slice(&entropy[..16]);
            let superblock = Superblock {
                epoch: committee.epoch(),
                directory_version: DIRECTORY_VERSION,
                sequence: 1,
                cluster: committee.cluster(),
                node: id,
                public_key,
                committee: committee.digest(),
                log,
                geometry: testnet::geometry(
                    config.storage.segment_bytes,
                    config.storage.segments_max,
                ),
            };
            datadir::format(data, &superblock, config.storage.segments_initial, &|_| ())?;
            print(format!(
                "{}: a directory for member {id} of epoch {}; it asks the others for the state\n",
                data.display(),
                committee.epoch()
            ));
        }
        _ => renew(data, key, NodeId(config.node.id), spent)?,
    }
    Ok(Exit::Ok)
}

/// Sets what is left aside, and makes another key.
fn renew(data: &Path, key: &Path, id: NodeId, spent: bool) -> Result<(), Refusal> {
    for (path, counts) in [(data, spent || data.exists()), (key, key.exists())] {
        if counts {
            let aside = free_name(path);
            let renamed = fs::rename(path, &aside);
            renamed.or_exit(Exit::Failure, format!("cannot rename {}", path.display()))?;
            print(format!("{} is now {}\n", path.display(), aside.display()));
        }
    }
    let secret = keyfile::generate_node()?;
    keyfile::store(key, &secret.to_pem())?;
    print(format!(
        "{}: a new key. Next, with the operator's key:\n  hippo member replace {id} --public-key {:#} \
         --network DIR\nthen copy DIR/committee.toml to this node, and run `hippo recover` again\n",
        key.display(),
        secret.public_key()
    ));
    Ok(())
}

fn free_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let names = (1..).map(|number| path.with_file_name(format!("{name}.lost-{number}")));
    let mut free = names.filter(|name| !name.exists());
    free.next().expect("there is a number")
}
