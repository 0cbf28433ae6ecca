//! A data directory as it lies there, for whoever only looks: nothing is locked, repaired, made or
//! removed, and no file is opened for writing.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use platform::file::open_to_read;
use storage::superblock::{SUPERBLOCK_BYTES, Twin};
use storage::wal::{SegmentInfo, SegmentSource};

use super::tables::TABLE;
use super::{COPIES, LOCK, WAL, segment_path, segments};

/// Who looks at a table in use, each in a directory of its own.
#[derive(Clone, Copy, Debug)]
pub enum Onlooker {
    Scrub,
    Save,
}

impl Onlooker {
    /// Where the links are made.
    fn links(self, data: &Path) -> PathBuf {
        data.join(match self {
            Onlooker::Scrub => "table.scrub",
            Onlooker::Save => "table.save",
        })
    }
}

/// What names the files of a table in use.
const CURRENT: &str = "current";
/// Attempts to link files that change all the time.
const ATTEMPTS: usize = 8;

/// Both copies of the superblock, as they are; an absent one is empty.
pub fn superblock_copies(data: &Path) -> [(Twin, &'static str, io::Result<Vec<u8>>); 2] {
    COPIES.map(|(twin, name)| {
        let mut bytes = Vec::with_capacity(SUPERBLOCK_BYTES);
        let read = match File::open(data.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            // Of a longer file no more than a copy has.
            Ok(file) => file
                .take(SUPERBLOCK_BYTES as u64)
                .read_to_end(&mut bytes)
                .map(|_| ()),
        };
        (twin, name, read.map(|()| bytes))
    })
}

/// Files that a process was making when it ended: the next start removes or replaces them.
pub fn half_made(data: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for directory in [data.join(WAL), super::snapshots_path(data)] {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        found.extend(paths.filter(|path| {
            path.extension()
                .is_some_and(|end| end == "making" || end == "new")
        }));
    }
    found.sort();
    found
}

/// Who holds the lock of a data directory: the process that wrote its number there. The kernel's list
/// of locks is read; to try the lock would make a start at the same moment fail.
pub fn holder(data: &Path) -> Option<String> {
    let path = data.join(LOCK);
    let metadata = fs::metadata(&path).ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    if !names_a_flock(&locks, metadata.dev(), metadata.ino()) {
        return None;
    }
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned())
}

/// Lines look like `1: FLOCK  ADVISORY  WRITE 4711 fd:01:133 0 EOF`.
fn names_a_flock(locks: &str, device: u64, inode: u64) -> bool {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let name = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.any(|word| word == "FLOCK") && words.any(|word| word == name)
    })
}

/// A table on disk that can be opened as if it were one's own: links to its files in a directory of
/// the system's, for the crate removes at an open what an earlier process left behind. Gone when it
/// is dropped.
#[derive(Debug)]
pub struct TableLinks(PathBuf);

impl TableLinks {
    /// None where there is no table.
    pub fn to(data: &Path) -> io::Result<Option<TableLinks>> {
        let table = fs::canonicalize(data)?.join(TABLE);
        if !table.is_dir() {
            return Ok(None);
        }
        let name = format!("hippo-look-{}", std::process::id());
        let links = TableLinks(std::env::temp_dir().join(name));
        links.fill(&table, &|from, to| symlink(from, to))?;
        Ok(Some(links))
    }

    /// The same while a process writes to the table: hard links, in the data directory. Files that are
    /// removed by and by stay. None where there is no table yet.
    pub fn beside(data: &Path, onlooker: Onlooker) -> io::Result<Option<TableLinks>> {
        let table = data.join(TABLE);
        let mut failed = None;
        for _ in 0..ATTEMPTS {
            TableLinks::remove_left(data, onlooker)?;
            let links = TableLinks(onlooker.links(data));
            let current = match fs::read(table.join(CURRENT)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                current => current?,
            };
            match links.fill(&table, &|from, to| fs::hard_link(from, to)) {
                Ok(()) if fs::read(table.join(CURRENT))? == current => return Ok(Some(links)),
                // The list of files was replaced in between.
                Ok(()) => {}
                // A file was removed in between.
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| io::ErrorKind::ResourceBusy.into()))
    }

    /// Removes what an earlier process left of [`TableLinks::beside`].
    pub fn remove_left(data: &Path, onlooker: Onlooker) -> io::Result<()> {
        match fs::remove_dir_all(onlooker.links(data)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn fill(&self, table: &Path, link: Link<'_>) -> io::Result<()> {
        let to = self.0.join(TABLE);
        DirBuilder::new().mode(0o700).recursive(true).create(&to)?;
        link_files(table, &to, link)
    }

    /// Lets the system forget what it holds of the files: they are read from the disk.
    pub fn forget_cached(&self) {
        fn forget(directory: &Path) {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    forget(&entry.path());
                } else {
                    let _ = open_to_read(&entry.path());
                }
            }
        }
        forget(&self.0);
    }

    /// Where the table's directory is.
    pub fn data(&self) -> &Path {
        &self.0
    }
}

impl Drop for TableLinks {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes a link to a file at a place.
type Link<'a> = &'a dyn Fn(&Path, &Path) -> io::Result<()>;

fn link_files(from: &Path, to: &Path, link: Link<'_>) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let named = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&named)?;
            link_files(&entry.path(), &named, link)?;
        } else {
            link(&entry.path(), &named)?;
        }
    }
    Ok(())
}

/// The segment files of a log, to be read only; one is open at a time.
#[derive(Debug)]
pub struct SegmentFiles {
    wal: PathBuf,
    infos: Vec<SegmentInfo>,
    open: Option<(u32, File)>,
}

impl SegmentFiles {
    pub fn list(data: &Path) -> io::Result<SegmentFiles> {
        let wal = data.join(WAL);
        let infos = segments::list(&wal)?;
        Ok(SegmentFiles {
            wal,
            infos,
            open: None,
        })
    }

    /// Ascending by index.
    pub fn infos(&self) -> &[SegmentInfo] {
        &self.infos
    }
}

impl SegmentSource for SegmentFiles {
    fn segments(&self) -> Vec<SegmentInfo> {
        self.infos.clone()
    }

    fn read(&mut self, segment: u32, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let info = self.infos.iter().find(|info| info.index == segment);
        let bytes = info.ok_or(io::ErrorKind::NotFound)?.bytes;
        // Of a file that is too short no sector behind its end is asked for, however many there are.
        let within = offset.checked_add(into.len() as u64);
        if within.is_none_or(|end| end > bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let file = match &mut self.open {
            Some((open, file)) if *open == segment => file,
            other => {
                let file = open_to_read(&segment_path(&self.wal, segment))?;
                &mut other.insert((segment, file)).1
            }
        };
        file.read_exact_at(into, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_found_by_device_and_inode() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 fd:01:133 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 9 fd:01:134 0 EOF\n";
        let device = rustix::fs::makedev(0xfd, 1);
        assert!(names_a_flock(locks, device, 134));
        assert!(!names_a_flock(locks, device, 133));
        assert!(!names_a_flock(locks, rustix::fs::makedev(0xfd, 2), 134));
    }

    #[test]
    fn a_held_lock_is_seen_and_a_free_one_is_not() {
        let name = format!("hippo-look-{}", std::process::id());
        let data = std::env::temp_dir().join(name);
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join(LOCK), "4711\n").unwrap();
        assert_eq!(holder(&data), None);
        let lock = File::options().write(true).open(data.join(LOCK)).unwrap();
        lock.try_lock().unwrap();
        assert_eq!(holder(&data).as_deref(), Some("4711"));
        drop(lock);
        assert_eq!(holder(&data), None);
        fs::remove_dir_all(data).unwrap();
    }
}
