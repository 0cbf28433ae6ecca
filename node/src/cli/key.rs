//! `hippo key`: makes, shows and checks identities.

use std::path::PathBuf;

use clap::Subcommand;
use wire::committee::Committee;

use super::output::print;
use crate::exit::{Exit, Outcome, Refusal};
use crate::{keyfile, prepare};

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a new Ed25519 key; refuses to overwrite a file
    Generate {
        /// File to write (PKCS#8 PEM, mode 0600)
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
    /// Print the public key of a key file
    Show {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Check a key file, and whose it is in a committee
    ///
    /// Exits 0 when the key is sound (and belongs to --id, where given), 7 otherwise.
    Verify {
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Committee in which to look for the key
        #[arg(long, value_name = "FILE")]
        committee: Option<PathBuf>,
        /// The key must be that of this member
        #[arg(long, value_name = "N", requires = "committee")]
        id: Option<u16>,
    },
}

pub fn run(command: KeyCommand) -> Outcome {
    match command {
        KeyCommand::Generate { output } => {
            let secret = keyfile::generate_node()?;
            keyfile::store(&output, &secret.to_pem())?;
            print(format!("{:#}\n", secret.public_key()));
        }
        KeyCommand::Show { file } => {
            let secret = keyfile::load_node(&file)?;
            print(format!("{:#}\n", secret.public_key()));
        }
        KeyCommand::Verify {
            file,
            committee,
            id,
        } => {
            let secret = keyfile::load_node(&file)?;
            let key = secret.public_key();
            let Some(path) = committee else {
                print(format!("{key:#} sound\n"));
                return Ok(Exit::Ok);
            };
            let committee: Committee = prepare::load_committee(&path)?;
            match (committee.find(&key), id) {
                (None, _) => {
                    return Err(Refusal::preflight(format!(
                        "key {key:#} belongs to no member of {}",
                        path.display()
                    )));
                }
                (Some(member), Some(wanted)) if member.0 != wanted => {
                    return Err(Refusal::preflight(format!(
                        "key {key:#} belongs to node {member} of {}, not to node {wanted}",
                        path.display()
                    )));
                }
                (Some(member), _) => print(format!("{key:#} sound, node {member}\n")),
            }
        }
    }
    Ok(Exit::Ok)
}
