//! The committees of a cluster one after the other (protocol §10), as a node's disk proves them.
//!
//! A node keeps the links of all epochs that it has seen, and starts in the epoch to which they lead.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use replica::flush::CopyHead;
use replica::recovery::SavedUnusable;
use replica::snapshot::SnapshotReader;
use storage::table::DiskFailed;
use thiserror::Error;
use wire::certificates::CheckpointCertificate;
use wire::committee::Committee;
use wire::ids::{Epoch, NodeId};
use wire::state::Summary;
use wire::succession::EpochLink;

use crate::datadir::look::{Onlooker, TableLinks};
use crate::datadir::{self, tables};
use crate::exit::{Exit, ExitContext, Refusal};

const EPOCHS: &str = "epochs";
/// Of the table that is looked at.
const CACHE_BYTES: u64 = 1 << 20;

fn path_of(data: &Path, epoch: Epoch) -> PathBuf {
    data.join(EPOCHS).join(format!("{:020}.link", epoch.0))
}

/// The link that ended an epoch, as it is kept.
pub fn kept(data: &Path, epoch: Epoch) -> io::Result<Vec<u8>> {
    fs::read(path_of(data, epoch))
}

/// The committees from this one on, as far as links on the disk lead; it is the first.
pub fn committees(data: &Path, first: Committee) -> Result<Vec<Committee>, Refusal> {
    let mut all = vec![first];
    loop {
        let last = all.last().expect("there is a first");
        let path = path_of(data, last.epoch());
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(all),
            read => read.or_exit(Exit::Failure, format!("cannot read {}", path.display()))?,
        };
        let next = EpochLink::decode(&bytes).and_then(|link| link.follow(last));
        all.push(next.or_exit(Exit::Damaged, path.display())?);
    }
}

/// Keeps the link that ends this epoch, durably.
pub fn keep(data: &Path, epoch: Epoch, link: &EpochLink) -> io::Result<()> {
    let (directory, path) = (data.join(EPOCHS), path_of(data, epoch));
    if !directory.is_dir() {
        DirBuilder::new().mode(0o700).create(&directory)?;
        File::open(data)?.sync_all()?;
    }
    let unnamed = path.with_extension("new");
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&unnamed)?;
    file.write_all(&link.encode())?;
    file.sync_all()?;
    fs::rename(&unnamed, &path)?;
    File::open(&directory)?.sync_all()
}

/// Why the last state of an epoch is not found on the disk.
#[derive(Debug, Error)]
enum Lacking {
    #[error(transparent)]
    Table(#[from] DiskFailed),
    #[error("the table cannot be used: {0}")]
    Head(#[from] SavedUnusable),
    #[error("cannot read the data directory: {0}")]
    Unreadable(#[from] io::Error),
    #[error("no state of slot {0} is on the disk")]
    Absent(u64),
}

/// The epoch is over, and its last state on the disk: keeps the link that proves it.
pub fn end(
    data: &Path,
    me: NodeId,
    committee: &Committee,
    certificate: &CheckpointCertificate,
) -> Result<Committee, Refusal> {
    let failed = "the end of the epoch cannot be kept";
    let summary = last_summary(data, me, committee, certificate);
    let summary = summary.or_exit(Exit::Failure, failed)?;
    let link = EpochLink {
        certificate: *certificate,
        summary,
    };
    let next = link.follow(committee).or_exit(Exit::Failure, failed)?;
    keep(data, committee.epoch(), &link).or_exit(Exit::Failure, failed)?;
    Ok(next)
}

fn last_summary(
    data: &Path,
    me: NodeId,
    committee: &Committee,
    certificate: &CheckpointCertificate,
) -> Result<Summary, Lacking> {
    let slot = certificate.header.slot();
    let files = datadir::list_snapshots(&datadir::snapshots_path(data))?;
    if let Some(file) = files.iter().find(|file| file.slot == slot) {
        let mut reader = SnapshotReader::new(committee.cluster(), me);
        for piece in file.pieces() {
            let _ = reader.push(&piece?);
            if let Some(summary) = reader.summary() {
                return Ok(summary.clone());
            }
        }
    }
    if let Some(links) = TableLinks::beside(data, Onlooker::Save)? {
        let store = tables::open(links.data(), CACHE_BYTES)?;
        let head = CopyHead::read(|name| Ok::<_, Lacking>(store.read_note(name)?))?;
        if head.certificate.header.slot() == slot {
            return Ok(head.summary);
        }
    }
    Err(Lacking::Absent(slot.0))
}
