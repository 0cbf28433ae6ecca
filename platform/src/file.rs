//! Files of a log: preallocated, zeroed, O_DIRECT; and small durable files and locks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::PlatformError;
use crate::pool::{ALIGNMENT, Pool};

/// Bytes of zeros written at once, without and with pauses.
const ZERO_BYTES: usize = 1 << 20;
const ZERO_BYTES_PACED: usize = 128 << 10;

/// A file of whole 4 KiB sectors that never grows.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    path: PathBuf,
    bytes: u64,
    direct: bool,
}

fn open_file(path: &Path, direct: bool, create: bool) -> Result<File, PlatformError> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create_new(create)
        .mode(0o600);
    if direct {
        options.custom_flags(libc::O_DIRECT);
    }
    options
        .open(path)
        .map_err(|source| match source.raw_os_error() {
            Some(libc::EINVAL) if direct => {
                // The kernel refuses the flag after it has made the file.
                if create {
                    let _ = fs::remove_file(path);
                }
                PlatformError::NoDirectIo {
                    path: path.to_owned(),
                    source,
                }
            }
            _ => PlatformError::Io {
                what: format!("cannot open {}", path.display()),
                source,
            },
        })
}

impl LogFile {
    /// Makes a file of `bytes` zeros, durable with its name. Zeroed, not only allocated: a write
    /// into an unwritten extent costs twice as much. Fails without a trace when the disk is full.
    ///
    /// `pause` sleeps after every 128 KiB: 64 MiB written in one burst hold up the writes of
    /// others to the same device for tens of milliseconds.
    pub fn create(
        path: &Path,
        bytes: u64,
        direct: bool,
        pause: Duration,
    ) -> Result<LogFile, PlatformError> {
        assert!(
            bytes > 0 && bytes.is_multiple_of(ALIGNMENT as u64),
            "whole sectors"
        );
        let file = open_file(path, direct, true).inspect_err(|error| {
            // The kernel makes the file before it refuses O_DIRECT.
            if matches!(error, PlatformError::NoDirectIo { .. }) {
                let _ = fs::remove_file(path);
            }
        })?;
        let made = LogFile {
            file,
            path: path.to_owned(),
            bytes,
            direct,
        };
        if let Err(source) = made.zero(pause) {
            // The first error is the one that matters.
            let _ = fs::remove_file(path);
            return Err(match source.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT) => PlatformError::NoSpace {
                    path: path.to_owned(),
                    bytes,
                },
                // Some filesystems refuse the first transfer instead of the flag.
                Some(libc::EINVAL) if direct => PlatformError::NoDirectIo {
                    path: path.to_owned(),
                    source,
                },
                _ => PlatformError::Io {
                    what: format!("cannot zero {}", path.display()),
                    source,
                },
            });
        }
        Ok(made)
    }

    fn zero(&self, pause: Duration) -> io::Result<()> {
        let whole = rustix::fs::FallocateFlags::empty();
        match rustix::fs::fallocate(&self.file, whole, 0, self.bytes) {
            // The zeros below take the space as well, only later and in smaller extents.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        let piece_max = if pause.is_zero() {
            ZERO_BYTES
        } else {
            ZERO_BYTES_PACED
        };
        let zeros = Pool::new("zeros", 1, piece_max)?;
        let zeros = zeros.take().ok_or(io::ErrorKind::OutOfMemory)?;
        let mut at = 0;
        while at < self.bytes {
            let piece = (self.bytes - at).min(piece_max as u64);
            self.file.write_all_at(&zeros[..piece as usize], at)?;
            at += piece;
            if !pause.is_zero() {
                thread::sleep(pause);
            }
        }
        self.file.sync_all()?;
        sync_parent(&self.path)
    }

    /// Opens an existing file; its size is what it is. Without `direct`, reads see the disk and not
    /// what an earlier process left in the page cache, see `forget_cached`.
    pub fn open(path: &Path, direct: bool) -> Result<LogFile, PlatformError> {
        let file = open_file(path, direct, false)?;
        let what = || format!("cannot read the size of {}", path.display());
        let bytes = file.metadata().map_err(PlatformError::io(what()))?.len();
        if !direct {
            let what = format!("cannot drop cached pages of {}", path.display());
            forget_cached(&file).map_err(PlatformError::io(what))?;
        }
        Ok(LogFile {
            file,
            path: path.to_owned(),
            bytes,
            direct,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Whether the page cache is bypassed.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Fills `into` from `offset`, waiting for the disk. Alignment is this function's business.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let sector = ALIGNMENT as u64;
        let end = offset
            .checked_add(into.len() as u64)
            .filter(|end| *end <= i64::MAX as u64 - sector)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let mut at = offset / sector * sector;
        let piece_max = (ZERO_BYTES as u64).min(end.next_multiple_of(sector) - at);
        let bounce = Pool::new("bounce", 1, piece_max as usize)?;
        let mut bounce = bounce.take().ok_or(io::ErrorKind::OutOfMemory)?;
        while at < end {
            let piece = (end.next_multiple_of(sector) - at).min(piece_max) as usize;
            self.file.read_exact_at(&mut bounce[..piece], at)?;
            let from = offset.max(at);
            let to = end.min(at + piece as u64);
            let target = &mut into[(from - offset) as usize..(to - offset) as usize];
            target.copy_from_slice(&bounce[(from - at) as usize..(to - at) as usize]);
            at += piece as u64;
        }
        Ok(())
    }

    /// Writes whole sectors at a sector boundary and waits until they are durable.
    pub fn write_all_at_sync(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let aligned =
            offset.is_multiple_of(ALIGNMENT as u64) && bytes.len().is_multiple_of(ALIGNMENT);
        let within = offset
            .checked_add(bytes.len() as u64)
            .is_some_and(|end| end <= self.bytes);
        if !aligned || !within {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not whole sectors of the file",
            ));
        }
        let bounce = Pool::new("bounce", 1, bytes.len())?;
        let mut bounce = bounce.take().ok_or(io::ErrorKind::OutOfMemory)?;
        bounce[..bytes.len()].copy_from_slice(bytes);
        self.file.write_all_at(&bounce[..bytes.len()], offset)?;
        self.file.sync_data()
    }

    /// fdatasync.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

impl AsFd for LogFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Drops the clean pages of a file from the page cache.
///
/// When a flush fails, ext4 and others mark the pages clean although they never reached the disk,
/// and tell only who has the file open. A process that dies of such a failure leaves them behind;
/// its successor would read them, take them for durable, and lose them at the next power cut. So
/// they go before the first read, which then comes from the disk.
///
/// No fdatasync before this: it would turn dirty pages into such clean ones if it fails, and could
/// use up an error that somebody still has to see. Dirty pages stay: their write-back is under way
/// or yet to come, so the next flush through this file covers them and reports their errors.
fn forget_cached(file: &File) -> io::Result<()> {
    // No length means the whole file.
    Ok(rustix::fs::fadvise(
        file,
        0,
        None,
        rustix::fs::Advice::DontNeed,
    )?)
}

/// Opens a file to read it, and only that. Reads see the disk, not what an earlier process left in
/// the page cache.
pub fn open_to_read(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    forget_cached(&file)?;
    Ok(file)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Held while the process uses a directory.
#[derive(Debug)]
pub struct LockGuard {
    _file: File,
}

/// Takes an exclusive lock on a file, which is made if need be.
pub fn lock_file(path: &Path) -> Result<LockGuard, PlatformError> {
    let what = || format!("cannot open {}", path.display());
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(PlatformError::io(what()))?;
    match file.try_lock() {
        Ok(()) => Ok(LockGuard { _file: file }),
        Err(fs::TryLockError::WouldBlock) => Err(PlatformError::Locked {
            path: path.to_owned(),
        }),
        Err(fs::TryLockError::Error(source)) => Err(PlatformError::Io {
            what: what(),
            source,
        }),
    }
}

/// Replaces a small file: all or nothing survives a power cut, and nobody reads it in between with
/// other rights than `mode`.
pub fn write_file_durably(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    let written = write_new(&temporary, bytes, mode).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // The first error is the one that matters.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_parent(path)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // One left by a crash may have been made with other rights.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Bytes that an unprivileged writer can still take on the filesystem of `path`.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail * stat.f_frsize)
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("platform-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn a_log_file_is_zeroed_and_reads_at_any_offset() {
        let directory = directory("file");
        let path = directory.join("log");
        let file = LogFile::create(&path, 3 << 20, true, Duration::ZERO).unwrap();
        assert!(
            LogFile::create(&path, 4096, true, Duration::ZERO).is_err(),
            "never overwrites"
        );
        file.write_all_at_sync(4096, &[7; 8192]).unwrap();
        assert!(file.write_all_at_sync(1, &[7; 4096]).is_err());
        let file = LogFile::open(&path, true).unwrap();
        assert_eq!(file.len(), 3 << 20);
        let mut bytes = vec![1; 8194];
        file.read_at(4095, &mut bytes).unwrap();
        assert_eq!((bytes[0], bytes[1], bytes[8192], bytes[8193]), (0, 7, 7, 0));
        let mut all = vec![1; 3 << 20];
        file.read_at(0, &mut all).unwrap();
        assert_eq!(all.iter().filter(|byte| **byte == 7).count(), 8192);
        assert!(file.read_at(3 << 20, &mut bytes).is_err());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_lock_has_one_holder() {
        let directory = directory("lock");
        let path = directory.join("LOCK");
        let held = lock_file(&path).unwrap();
        assert!(matches!(
            lock_file(&path),
            Err(PlatformError::Locked { .. })
        ));
        drop(held);
        assert!(lock_file(&path).is_ok());
        write_file_durably(&directory.join("small"), b"text", 0o600).unwrap();
        assert_eq!(fs::read(directory.join("small")).unwrap(), b"text");
        assert!(free_bytes(&directory).unwrap() > 0);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_small_file_is_replaced_with_the_rights_asked_for() {
        use std::os::unix::fs::PermissionsExt;
        let directory = directory("small");
        let path = directory.join("key.pem");
        let left_by_a_crash = directory.join("key.pem.new");
        fs::write(&left_by_a_crash, b"half").unwrap();
        write_file_durably(&path, b"first", 0o644).unwrap();
        write_file_durably(&path, b"second", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!left_by_a_crash.exists());
        assert!(write_file_durably(&directory, b"a directory", 0o600).is_err());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_file_too_large_for_the_disk_leaves_nothing_behind() {
        let directory = directory("full");
        let path = directory.join("log");
        let more_than_free = free_bytes(&directory).unwrap() + (1 << 40);
        let bytes = more_than_free.next_multiple_of(ALIGNMENT as u64);
        let error = LogFile::create(&path, bytes, false, Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("log"), "{error}");
        assert!(!path.exists());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn only_the_bytes_of_the_file_are_read_and_written() {
        let directory = directory("bounds");
        let file = LogFile::create(&directory.join("log"), 8192, false, Duration::ZERO).unwrap();
        let mut bytes = [1; 4096];
        file.read_at(4096, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 4096]);
        for offset in [4097, 8192, u64::MAX] {
            assert!(file.read_at(offset, &mut bytes).is_err());
        }
        for offset in [8192, u64::MAX - 4095] {
            assert!(file.write_all_at_sync(offset, &bytes).is_err());
        }
        fs::remove_dir_all(directory).unwrap();
    }
}
