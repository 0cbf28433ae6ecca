//! What lies in a data directory, for people: read only, whether its node can start or not.
//!
//! Nothing here decides what may be trusted. The superblock, the log and the snapshots are judged by
//! the functions that a start calls; beside their verdict stands what they do not look at, such as the
//! records behind the first damage. No length that a file names is believed before a checksum, and none
//! takes more memory than the largest body that exists.

pub mod integrity;
pub mod log;
mod records;
pub mod signers;
pub mod snapshot;
pub mod table;
#[cfg(test)]
pub(crate) mod tests;

use std::path::Path;

use replica::verifying::Verifying;
use storage::superblock::{Expected, Superblock, SuperblockError};
use storage::table::DiskStore;
use wire::committee::{Committee, StateMachine};
use wire::ids::NodeId;
use wire::seal::Ed25519Verifier;

use records::RecordJudge;

use crate::assembly;
use crate::config::Config;
use crate::datadir::{SnapshotFile, look, tables};
use crate::exit::{Exit, ExitContext, Refusal};
use crate::machine::Machine;
use crate::prepare;
use crate::restore;

/// A data directory and what its node would be configured to.
pub struct Directory {
    pub config: Config,
    /// Without it no signature can be verified.
    pub committee: Option<Committee>,
    /// Why there is no committee, and other things that whoever reads the output must know.
    pub remarks: Vec<String>,
}

/// A table of a data directory.
pub struct OpenTable {
    pub store: DiskStore,
    /// Behind which its files are.
    _links: look::TableLinks,
}

impl Directory {
    /// Refuses a directory that is not there; of everything else there is something to say.
    pub fn open(config: Config) -> Result<Directory, Refusal> {
        let data = &config.node.data;
        if !data.is_dir() {
            return Err(Refusal::failure(format!(
                "data directory {} does not exist. Is the disk mounted, and is this the node's own \
                 configuration?",
                data.display()
            )));
        }
        let mut remarks = Vec::new();
        if let Some(process) = look::holder(data) {
            remarks.push(format!(
                "data directory {} is in use by process {process}: what follows is of a moving log",
                data.display()
            ));
        }
        let committee = match prepare::load_committee(&config.node.committee) {
            Ok(committee) => Some(committee),
            Err(refusal) => {
                remarks.push(format!("signatures are not verified: {refusal}"));
                None
            }
        };
        Ok(Directory {
            config,
            committee,
            remarks,
        })
    }

    pub fn data(&self) -> &Path {
        &self.config.node.data
    }

    /// The node that the configuration names.
    pub fn me(&self) -> NodeId {
        NodeId(self.config.node.id)
    }

    /// The superblock that a start would go by.
    pub fn superblock(&self) -> Result<Superblock, Refusal> {
        let shown = self.data().display();
        let [(_, _, copy_a), (_, _, copy_b)] = look::superblock_copies(self.data());
        // A copy that cannot be read is as good as a damaged one.
        let unreadable = |_| vec![u8::MAX];
        let (copy_a, copy_b) = (
            copy_a.unwrap_or_else(unreadable),
            copy_b.unwrap_or_else(unreadable),
        );
        match Superblock::load(&copy_a, &copy_b) {
            Ok(loaded) => Ok(loaded.superblock),
            Err(error @ (SuperblockError::NotFormatted | SuperblockError::Newer { .. })) => {
                Err(Refusal::failure(format!("{shown}: {error}")))
            }
            Err(error) => Err(Refusal::new(Exit::Damaged, format!("{shown}: {error}"))),
        }
    }

    /// Whether the directory is that of the node which the configuration names; why not otherwise.
    pub fn owns(&self, superblock: &Superblock) -> Result<(), String> {
        let (me, Some(committee)) = (self.me(), &self.committee) else {
            return Err("there is no committee to compare it with".to_owned());
        };
        let Some(member) = committee.member(me) else {
            return Err(format!("node.id is {me}, and no member has that id"));
        };
        let expected = Expected {
            cluster: committee.cluster(),
            node: me,
            public_key: member.public_key,
        };
        superblock
            .check(&expected)
            .map_err(|mismatch| mismatch.to_string())?;
        if superblock.committee == committee.digest() {
            return Ok(());
        }
        Err(format!(
            "it was formatted for committee {}, the committee file is {}",
            superblock.committee,
            committee.digest()
        ))
    }

    /// Judges the records of the log; `verifies`: their signatures as well.
    pub fn judge(&self, superblock: &Superblock, verifies: bool) -> RecordJudge {
        let verifying = self.verifying().filter(|_| verifies);
        RecordJudge::new(superblock.node, verifying)
    }

    /// Reads a snapshot of this node. The superblock, if it can be read, says whose it must be.
    pub fn snapshot(
        &self,
        superblock: Option<&Superblock>,
        file: &SnapshotFile,
        key: Option<&[u8]>,
    ) -> Result<snapshot::Report, Refusal> {
        let committee = self.committee.as_ref();
        let bound = superblock.map(|superblock| (superblock.cluster, superblock.node));
        let named = committee.map(|committee| (committee.cluster(), self.me()));
        let Some((cluster, node)) = bound.or(named) else {
            return Err(Refusal::failure(
                "neither a superblock nor a committee file says whose snapshots these are",
            ));
        };
        let machine = match committee {
            Some(committee) => restore::machine(committee)?,
            // Of no committee it is not known that its tables hold nothing.
            None => Machine::new(StateMachine::Kv, [0; 2], 0),
        };
        let against = snapshot::Against {
            cluster,
            node,
            machine: &machine,
            key,
        };
        let mut pieces = file.pieces();
        Ok(snapshot::inspect(&mut pieces, &against, self.verifying()))
    }

    /// The table on disk, opened so that nothing of it changes; none where there is none.
    pub fn table(&self) -> Result<Option<OpenTable>, Refusal> {
        let path = tables::table_path(self.data());
        let cannot = || format!("cannot look at {}", path.display());
        let links = look::TableLinks::to(self.data()).or_exit(Exit::Failure, cannot())?;
        let Some(links) = links else {
            return Ok(None);
        };
        let cache_bytes = self.config.storage.table_cache_bytes;
        let opened = tables::open(links.data(), cache_bytes);
        let store = opened.map_err(|error| tables::refusal(&error.called(&path)))?;
        let store = store.called(&path);
        Ok(Some(OpenTable {
            store,
            _links: links,
        }))
    }

    /// Reads a table that was opened.
    pub fn inspect_table(&self, table: &OpenTable, key: Option<&[u8]>) -> table::Report {
        table::inspect(&table.store, key, self.verifying())
    }

    /// Judges signatures as a start does.
    fn verifying(&self) -> Option<Verifying<Ed25519Verifier>> {
        let committee = self.committee.as_ref()?;
        Some(assembly::verifying(committee))
    }
}
