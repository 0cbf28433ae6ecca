//! What recovery reads comes from the disk, not from what a dead process left in memory.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::time::Duration;

use platform::PlatformError;
use platform::file::LogFile;

const PAGE: usize = 4096;
const PAGES: usize = 64;

/// Which pages of a file lie in the page cache.
fn cached(file: &LogFile) -> Vec<bool> {
    let bytes = PAGES * PAGE;
    let mut pages = vec![0u8; PAGES];
    // SAFETY: a fresh shared mapping of an open file touches no memory of ours; checked below.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ,
            libc::MAP_SHARED,
            file.as_fd().as_raw_fd(),
            0,
        )
    };
    assert_ne!(start, libc::MAP_FAILED);
    // SAFETY: the mapping has `bytes` bytes and the vector a byte for each of its pages.
    let asked = unsafe { libc::mincore(start, bytes, pages.as_mut_ptr()) };
    assert_eq!(asked, 0);
    // SAFETY: mapped above with this length; nothing points into it.
    assert_eq!(unsafe { libc::munmap(start, bytes) }, 0);
    pages.iter().map(|page| page & 1 == 1).collect()
}

#[test]
fn clean_pages_of_an_earlier_process_are_not_read() {
    let name = format!("platform-cache-{}", std::process::id());
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_file(&path);
    // A filesystem without O_DIRECT may have nothing but its pages.
    match LogFile::create(&path, (PAGES * PAGE) as u64, true, Duration::ZERO) {
        Err(error @ PlatformError::NoDirectIo { .. }) => {
            eprintln!("NOT RUN: {error}");
            return;
        }
        made => drop(made.unwrap()),
    }
    let earlier = LogFile::open(&path, false).unwrap();
    earlier.write_all_at_sync(0, &[7; PAGES * PAGE]).unwrap();
    assert!(cached(&earlier).iter().all(|page| *page));
    drop(earlier);
    let later = LogFile::open(&path, false).unwrap();
    assert!(!cached(&later).contains(&true), "all clean pages are gone");
    let mut bytes = vec![0; PAGES * PAGE];
    later.read_at(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 7));
    // Pages written and not flushed are not lost.
    fs::write(&path, vec![8; PAGES * PAGE]).unwrap();
    let last = LogFile::open(&path, false).unwrap();
    last.read_at(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 8));
    fs::remove_file(&path).unwrap();
}
