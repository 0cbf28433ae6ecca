//! A small table on disk, whole and then hurt in every part.

use std::fs;
use std::path::PathBuf;

use replica::flush::FlushWriter;
use storage::table::{Flush, Run};
use wire::certificates::CheckpointCertificate;
use wire::ids::{NodeId, Signature};
use wire::state::Cell;

use super::*;
use crate::inspect::tests::{small, verifying};
use crate::machine::Machine;

/// First bytes of places, as docs/format.md has them.
const ENTRY: u8 = 1;
const ORDER: u8 = 2;
const NOTE: u8 = 3;

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let name = format!("hippo-inspect-table-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        Directory(path)
    }

    fn store(&self) -> DiskStore {
        DiskStore::open(&self.0, 1 << 20, |error| panic!("{error}")).unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The small state on disk, with what `certify` makes of its certificate.
fn written(directory: &Directory, certify: impl Fn(&mut CheckpointCertificate)) -> DiskStore {
    let store = directory.store();
    let (mut execution, mut certificate) = small(Machine::over(store.clone(), [1, 2], 1 << 20));
    certify(&mut certificate);
    let mut writer = FlushWriter::new(&certificate);
    let mut flush = Flush::new(store.run().unwrap());
    let mut piece = Vec::new();
    while writer.next(&mut execution, &mut piece).unwrap() {
        flush.add(&piece).unwrap();
        piece.clear();
    }
    flush.finish().unwrap();
    store
}

fn entry(key: &[u8]) -> Vec<u8> {
    let cell = Cell::of_key(key);
    let bucket = cell.bucket().number().to_be_bytes();
    [&[ENTRY], &bucket[..], &[cell.index()], key].concat()
}

/// What is said of the table after one more change to its files.
fn after(name: &str, place: &[u8], value: Option<&[u8]>) -> Report {
    let directory = Directory::new(name);
    let store = written(&directory, |_| {});
    let mut run = store.run().unwrap();
    match value {
        Some(value) => run.put(place, value).unwrap(),
        None => run.delete(place).unwrap(),
    }
    run.finish().unwrap();
    inspect(&store, Some(b"k3"), Some(verifying()))
}

fn why(report: &Report) -> String {
    report.wrong.as_ref().expect("damage").to_string()
}

#[test]
fn a_blank_table_is_no_damage() {
    let directory = Directory::new("blank");
    let report = inspect(&directory.store(), None, Some(verifying()));
    assert!(report.wrong.is_none() && report.slot.is_none());
}

#[test]
fn a_whole_table_is_counted_and_its_signers_are_named() {
    let directory = Directory::new("whole");
    let store = written(&directory, |_| {});
    let report = inspect(&store, Some(b"k3"), Some(verifying()));
    assert!(report.wrong.is_none(), "{:?}", report.wrong);
    assert_eq!((report.slot, report.transactions), (Some(2), Some(10)));
    assert_eq!(
        (report.buckets, report.entries, report.sessions),
        (4096, 10, 1)
    );
    let signers = (0..3).map(|node| (NodeId(node), Some(true)));
    assert_eq!(report.signers, signers.collect::<Vec<_>>());
    assert_eq!(report.value.as_deref(), Some(&b"v3"[..]));
    assert!(inspect(&store, Some(b"k99"), None).value.is_none());
}

#[test]
fn an_entry_that_is_not_the_one_in_the_tree_names_its_bucket() {
    let bucket = format!("bucket {} ", Bucket::of_key(b"k3").number());
    let changed = after("changed", &entry(b"k3"), Some(b"v4"));
    assert!(why(&changed).contains(&bucket), "{}", why(&changed));
    assert_eq!((changed.buckets, changed.more_wrong), (4095, 0));
    let lost = after("lost", &entry(b"k3"), None);
    assert!(why(&lost).contains(&bucket), "{}", why(&lost));
    assert_eq!(
        (lost.entries, lost.more_wrong),
        (9, 1),
        "its place in the order as well"
    );
}

#[test]
fn the_order_of_keys_must_name_each_entry_once() {
    let missing = after("missing", &[&[ORDER], &b"k3"[..]].concat(), None);
    assert!(why(&missing).contains("names 9 of 10"), "{}", why(&missing));
    let stray = after("stray", &[&[ORDER], &b"k33"[..]].concat(), Some(b""));
    assert!(why(&stray).contains("\"k33\""), "{}", why(&stray));
}

#[test]
fn what_it_says_of_its_state_must_be_certified() {
    let lost = after("certificate", &[NOTE, b'c'], None);
    assert!(
        why(&lost).contains("what it says of its state"),
        "{}",
        why(&lost)
    );
    // What can be read is still counted.
    assert_eq!(
        (lost.entries, lost.value.as_deref()),
        (10, Some(&b"v3"[..]))
    );
    let directory = Directory::new("forged");
    let store = written(&directory, |found| {
        found.signatures.add(NodeId(1), Signature([9; 64]));
    });
    let forged = inspect(&store, None, Some(verifying()));
    assert!(why(&forged).contains("does not hold"), "{}", why(&forged));
    let good = forged.signers.iter().map(|(_, good)| *good);
    assert!(good.eq([Some(true), Some(false), Some(true)]));
    assert!(
        inspect(&store, None, None).wrong.is_none(),
        "nobody could verify it"
    );
}
