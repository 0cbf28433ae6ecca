//! A state outside of any cluster: saved from a node, and restored into a new cluster.
//!
//! An archive is a directory with one snapshot file, in the format of a node's own, and the committee
//! that certified it, so that it proves itself: whoever trusts that committee file needs to trust
//! nothing else. It is restored as the origin of a new cluster, whose committee names its root.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use replica::flush::{CopyHead, sessions_note};
use replica::recovery::SavedUnusable;
use storage::snapshot::{FrameKind, SnapshotHeader, SnapshotTrailer, write_frame};
use storage::state::{CellItems, join};
use storage::table::{DiskFailed, DiskStore};
use wire::committee::{Committee, Origin};
use wire::ids::{ClusterId, NodeId};
use wire::state::{Bucket, PIECE_BYTES_MAX, Part};
use zerocopy::IntoBytes;

use crate::assembly;
use crate::config::Config;
use crate::datadir::look::{Onlooker, TableLinks};
use crate::datadir::{self, SnapshotFile, tables};
use crate::exit::{Exit, ExitContext, Refusal};
use crate::inspect::snapshot::{Against, Report, inspect};
use crate::prepare;
use crate::restore;

const STATE: &str = "state.snapshot";
const COMMITTEE: &str = "committee.toml";
/// Of the table that is read, once.
const CACHE_BYTES: u64 = 1 << 20;
const COPY_BYTES: usize = 1 << 20;

/// An archive that was found whole.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    pub committee: Committee,
    pub header: SnapshotHeader,
    pub report: Report,
}

/// Writes the newest checkpoint on a node's disk to a new directory, and verifies what it wrote. The
/// node may run or not.
pub fn save(config: &Config, output: &Path) -> Result<Archive, Refusal> {
    let committee = prepare::load_committee(&config.node.committee)?;
    let (data, shown) = (&config.node.data, output.display());
    let files = datadir::list_snapshots(&datadir::snapshots_path(data));
    let files = files.or_exit(Exit::Failure, "cannot list the snapshots")?;
    let links = TableLinks::beside(data, Onlooker::Save);
    let links = links.or_exit(Exit::Failure, "cannot link the files of the table")?;
    if files.is_empty() && links.is_none() {
        return Err(Refusal::failure(format!(
            "{} holds no snapshot yet: a node writes one when its log has grown, or when a running \
             one is asked (`hippo snapshot save` does that, unless told not to)",
            data.display()
        )));
    }
    DirBuilder::new()
        .mode(0o700)
        .create(output)
        .or_exit(Exit::Usage, format!("--output {shown}"))?;
    let path = output.join(STATE);
    let written = match (&links, files.first()) {
        (Some(links), _) => write_table(links, &committee, NodeId(config.node.id), &path),
        (None, Some(newest)) => write_file(newest, &path),
        (None, None) => unreachable!("one of them was found"),
    };
    written?;
    let text = committee.to_toml();
    let written = create(&output.join(COMMITTEE)).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.or_exit(Exit::Failure, format!("cannot write to {shown}"))?;
    let synced = File::open(output).and_then(|directory| directory.sync_all());
    synced.or_exit(Exit::Failure, format!("cannot flush {shown}"))?;
    open(output)
}

/// Reads an archive and verifies every byte of it.
pub fn open(directory: &Path) -> Result<Archive, Refusal> {
    let path = directory.join(STATE);
    let committee = prepare::load_committee(&directory.join(COMMITTEE))?;
    let header = File::open(&path).and_then(|mut file| SnapshotHeader::read_from_front(&mut file));
    let header = header.or_exit(Exit::Damaged, format!("{} cannot be read", path.display()))?;
    let machine = restore::machine(&committee)?;
    let against = Against {
        cluster: committee.cluster(),
        node: header.node(),
        machine: &machine,
        key: None,
    };
    let file = SnapshotFile {
        slot: header.slot(),
        bytes: 0,
        path: path.clone(),
    };
    let verifying = assembly::verifying(&committee);
    let report = inspect(&mut file.pieces(), &against, Some(verifying));
    if let Some(wrong) = &report.wrong {
        return Err(Refusal::new(
            Exit::Damaged,
            format!("{}: {wrong}", path.display()),
        ));
    }
    Ok(Archive {
        path,
        committee,
        header,
        report,
    })
}

impl Archive {
    /// What a cluster begins with that this is restored into.
    pub fn origin(&self) -> Origin {
        Origin {
            slot: self.header.slot(),
            block: self.header.chain,
            state_root: self.header.root,
        }
    }

    /// Puts the state into the data directory of a node that never ran.
    pub fn place(&self, data: &Path, cluster: ClusterId, node: NodeId) -> io::Result<()> {
        let directory = datadir::snapshots_path(data);
        let (slot, chain, root) = (self.header.slot(), self.header.chain, self.header.root);
        let header = SnapshotHeader::new(cluster, node, slot, chain, root);
        let mut source = File::open(&self.path)?;
        SnapshotHeader::read_from_front(&mut source)?;
        let mut file = create(&datadir::snapshot_path(&directory, slot))?;
        file.write_all(&header.frame())?;
        io::copy(&mut source, &mut file)?;
        file.sync_all()?;
        File::open(directory)?.sync_all()
    }
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}

fn write_file(from: &SnapshotFile, to: &Path) -> Result<(), Refusal> {
    let copied = create(to).and_then(|mut file| {
        io::copy(&mut File::open(&from.path)?, &mut file)?;
        file.sync_all()
    });
    let what = || format!("cannot copy {} to {}", from.name(), to.display());
    copied.or_exit(Exit::Failure, what())
}

/// Why a table makes no snapshot.
#[derive(Debug, thiserror::Error)]
enum Unwritten {
    #[error(transparent)]
    Table(#[from] DiskFailed),
    #[error("the table cannot be used: {0}")]
    Head(#[from] SavedUnusable),
    #[error("bucket {} of the table is not the one in its tree", .0.number())]
    Bucket(Bucket),
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

impl Unwritten {
    fn exit(&self) -> Exit {
        match self {
            Unwritten::Output(_) => Exit::Failure,
            Unwritten::Table(error) if !error.is_damage() => Exit::Failure,
            _ => Exit::Damaged,
        }
    }
}

fn write_table(
    links: &TableLinks,
    committee: &Committee,
    me: NodeId,
    to: &Path,
) -> Result<(), Refusal> {
    let written = tables::open(links.data(), CACHE_BYTES)
        .map_err(Unwritten::from)
        .and_then(|store| {
            let head = CopyHead::read(|name| Ok::<_, Unwritten>(store.read_note(name)?))?;
            Frames::new(to)?.write(&store, &head, committee.cluster(), me)
        });
    written.map_err(|error| Refusal::new(error.exit(), format!("{}: {error}", to.display())))
}

/// A snapshot file that grows.
struct Frames {
    file: File,
    waiting: Vec<u8>,
    frames: u64,
    bytes: u64,
}

impl Frames {
    fn new(path: &Path) -> io::Result<Frames> {
        Ok(Frames {
            file: create(path)?,
            waiting: Vec::with_capacity(2 * COPY_BYTES),
            frames: 0,
            bytes: 0,
        })
    }

    fn add(&mut self, kind: FrameKind, body: &[u8]) -> io::Result<()> {
        let before = self.waiting.len();
        write_frame(kind, body, &mut self.waiting);
        self.bytes += (self.waiting.len() - before) as u64;
        self.frames += 1;
        if self.waiting.len() >= COPY_BYTES {
            self.file.write_all(&self.waiting)?;
            self.waiting.clear();
        }
        Ok(())
    }

    fn write(
        mut self,
        store: &DiskStore,
        head: &CopyHead,
        cluster: ClusterId,
        me: NodeId,
    ) -> Result<(), Unwritten> {
        let place = head.certificate.place();
        let root = head.certificate.root;
        let header = SnapshotHeader::new(cluster, me, place.slot, place.digest, root);
        self.add(FrameKind::Header, header.as_bytes())?;
        self.add(FrameKind::Certificate, &head.certificate.encode())?;
        self.add(FrameKind::Part(Part::Summary), head.summary.as_bytes())?;
        for (index, node) in head.nodes.iter().enumerate() {
            self.add(FrameKind::Part(Part::Node(index as u8)), node.as_bytes())?;
        }
        for bucket in Bucket::all() {
            let mut items = CellItems::new();
            store.read_bucket(bucket, &mut items)?;
            let noted = store.read_note(&sessions_note(bucket))?.unwrap_or_default();
            let sessions = CellItems::decode(&noted).ok_or(Unwritten::Bucket(bucket))?;
            if !head.holds(bucket, &items, &sessions) {
                return Err(Unwritten::Bucket(bucket));
            }
            let bytes = join(&items, &sessions);
            for (index, piece) in bytes.chunks(PIECE_BYTES_MAX).enumerate() {
                let index = index as u32;
                self.add(FrameKind::Part(Part::Piece { bucket, index }), piece)?;
            }
        }
        let trailer = SnapshotTrailer::new(self.frames, self.bytes);
        self.add(FrameKind::Trailer, trailer.as_bytes())?;
        self.file.write_all(&self.waiting)?;
        self.file.sync_all()?;
        Ok(())
    }
}
