//! Snapshot files.

use replica::snapshot::{SnapshotFailed, SnapshotReader, SnapshotWriter};
use replica::transfer::Installation;
use storage::snapshot::{FRAME_BYTES_MAX, SnapshotDamaged, SnapshotHeader};
use storage::state::{Hold, Unserved};
use wire::ids::{ClusterId, Digest, Instant, NodeId, Slot};

use crate::world::{Server, filled, put, run, server, to_checkpoint};

const CLUSTER: ClusterId = ClusterId([5; 16]);
const NODE: NodeId = NodeId(3);
const CHAIN: Digest = Digest([6; 32]);

/// Writes the checkpoint at which the server is, in frames; blocks execute in between.
fn frames(source: &mut Server, (slot, root): (Slot, Digest), mut next: u64) -> Vec<Vec<u8>> {
    assert!(source.pin(Hold::Open).ready);
    let mut writer = SnapshotWriter::new(CLUSTER, NODE, slot, CHAIN, root);
    let mut frames = Vec::new();
    loop {
        let mut frame = Vec::new();
        if !writer.next(source, &mut frame).unwrap() {
            assert!(frame.is_empty());
            break;
        }
        assert!(frame.len() <= FRAME_BYTES_MAX);
        frames.push(frame);
        if frames.len().is_multiple_of(10) {
            let key = frames.len() as u32 % 300;
            next = put(source, next, key..key + 3, 70, 4);
        }
    }
    assert_eq!(writer.bytes(), frames.concat().len() as u64);
    source.close_snapshot(Instant(1));
    assert_eq!(source.pinned(), None);
    frames
}

fn read(file: &[u8], step: usize) -> Result<(SnapshotHeader, Installation), SnapshotDamaged> {
    let mut reader = SnapshotReader::new(CLUSTER, NODE);
    for part in file.chunks(step) {
        reader.push(part)?;
    }
    reader.finish()
}

#[test]
fn a_file_gives_the_state_back() {
    let (mut source, next) = filled(1, 300, 50);
    let at = to_checkpoint(&mut source);
    let (mut twin, _) = filled(2, 300, 50);
    assert_eq!(to_checkpoint(&mut twin), at);
    let file = frames(&mut source, at, next).concat();
    for step in [1, 23, 70_000, file.len()] {
        let (header, installation) = read(&file, step).unwrap();
        assert_eq!((header.slot(), header.root), at);
        assert_eq!((header.chain, header.node()), (CHAIN, NODE));
        let mut restored = server(3);
        restored.install(&installation).unwrap();
        assert_eq!(restored.executed(), at.0);
        assert_eq!(restored.last_checkpoint(), Some(at));
        let next = put(&mut restored, next, 5..9, 33, 3);
        let mut twin_now = filled(4, 300, 50).0;
        to_checkpoint(&mut twin_now);
        assert_eq!(put(&mut twin_now, next - 4, 5..9, 33, 3), next);
        assert_eq!(to_checkpoint(&mut restored), to_checkpoint(&mut twin_now));
    }
    // It replaces whatever was there, too.
    let (_, installation) = read(&file, 4096).unwrap();
    let (mut other, next) = filled(9, 500, 9);
    put(&mut other, next, 1000..1100, 9, 9);
    other.install(&installation).unwrap();
    assert_eq!(to_checkpoint(&mut other), to_checkpoint(&mut twin));
}

#[test]
fn an_empty_state_and_large_buckets_have_files() {
    let mut empty = server(1);
    let at = to_checkpoint(&mut empty);
    empty.pin(Hold::Open);
    let mut writer = SnapshotWriter::new(CLUSTER, NODE, at.0, CHAIN, at.1);
    let mut file = Vec::new();
    while writer.next(&mut empty, &mut file).unwrap() {}
    let (_, installation) = read(&file, 999).unwrap();
    let mut restored = filled(3, 10, 10).0;
    restored.install(&installation).unwrap();
    assert_eq!(
        (restored.sessions(), restored.last_checkpoint()),
        (0, Some(at))
    );

    let (mut source, next) = filled(1, 20, 64 * 1024);
    let at = to_checkpoint(&mut source);
    let file = frames(&mut source, at, next).concat();
    let (_, installation) = read(&file, 4096).unwrap();
    restored.install(&installation).unwrap();
    assert_eq!(restored.last_checkpoint(), Some(at));
}

#[test]
fn truncation_is_seen_everywhere() {
    let (mut source, next) = filled(1, 100, 20);
    let at = to_checkpoint(&mut source);
    let frames = frames(&mut source, at, next);
    let file = frames.concat();
    let mut ends = vec![];
    for frame in &frames {
        let start = ends.last().copied().unwrap_or(0);
        ends.push(start + frame.len());
    }
    let whole = ends.pop().unwrap();
    for end in ends
        .iter()
        .flat_map(|end| [end - 1, *end, end + 1, end + 24])
    {
        let cut = read(&file[..end.min(whole - 1)], 5000).unwrap_err();
        assert!(matches!(cut, SnapshotDamaged::Truncated { .. }), "{cut}");
    }
    let longer = [&file[..], &[0]].concat();
    assert_eq!(
        read(&longer, 5000).unwrap_err(),
        SnapshotDamaged::TrailingBytes { at: whole as u64 }
    );
    // Frames that are intact, and missing, doubled or exchanged.
    let last = frames.len() - 1;
    for at in [0, 1, 2, 40, 66, 70, last] {
        let mut without = frames.clone();
        without.remove(at);
        assert!(read(&without.concat(), 5000).is_err(), "without {at}");
        let mut doubled = frames.clone();
        doubled.insert(at, frames[at].clone());
        assert!(read(&doubled.concat(), 5000).is_err(), "{at} twice");
        if at < last {
            let mut exchanged = frames.clone();
            exchanged.swap(at, at + 1);
            assert!(read(&exchanged.concat(), 5000).is_err(), "{at} exchanged");
        }
    }
}

#[test]
fn every_flipped_bit_is_seen() {
    let (mut source, next) = filled(1, 3, 20);
    let at = to_checkpoint(&mut source);
    let file = frames(&mut source, at, next).concat();
    // Inner nodes are most of a small file, and all alike: a few of their bytes will do.
    let nodes = 24 + 96 + 24 + 24 + 2080..24 + 96 + 24 + 24 + 2080 + 64 * (24 + 2560);
    for byte in (0..file.len()).filter(|byte| !nodes.contains(byte) || byte % 997 == 0) {
        for bit in 0..8 {
            let mut damaged = file.clone();
            damaged[byte] ^= 1 << bit;
            assert!(
                read(&damaged, file.len()).is_err(),
                "byte {byte}, bit {bit}"
            );
        }
    }
}

#[test]
fn intact_frames_of_a_false_state_are_seen() {
    let made = |byte| {
        let (mut server, next) = filled(1, 100, 20);
        let next = put(&mut server, next, 5..6, 20, byte);
        let at = to_checkpoint(&mut server);
        frames(&mut server, at, next)
    };
    // Equal but for one value: one bucket, one inner node, the summary and the header differ.
    let (mine, theirs) = (made(1), made(2));
    assert_eq!(mine.len(), theirs.len());
    let mut differing = 0;
    for index in 0..mine.len() {
        if mine[index] == theirs[index] {
            continue;
        }
        differing += 1;
        let mut mixed = mine.clone();
        mixed[index] = theirs[index].clone();
        // A false header shows when the summary is read, behind the certificate; everything else at
        // once.
        let shows = if index == 0 { 2 } else { index };
        let start = mine[..shows].concat().len() as u64;
        assert_eq!(
            read(&mixed.concat(), 5000).unwrap_err(),
            SnapshotDamaged::WrongHash { at: start },
            "frame {index}"
        );
    }
    assert_eq!(differing, 4);
    let (mut larger, next) = filled(1, 200, 20);
    let at = to_checkpoint(&mut larger);
    let trailer = frames(&mut larger, at, next).pop().unwrap();
    let mut mixed = mine;
    *mixed.last_mut().unwrap() = trailer;
    assert!(read(&mixed.concat(), 5000).is_err(), "the trailer counts");
}

#[test]
fn a_snapshot_of_another_state_is_not_written() {
    let (mut source, _) = filled(1, 10, 20);
    let (slot, _) = to_checkpoint(&mut source);
    let mut out = Vec::new();
    let mut writer = SnapshotWriter::new(CLUSTER, NODE, slot, CHAIN, Digest([9; 32]));
    for _ in ["header", "certificate"] {
        assert_eq!(writer.next(&mut source, &mut out), Ok(true));
    }
    assert_eq!(
        writer.next(&mut source, &mut out),
        Err(SnapshotFailed::Unserved(Unserved::NotPinned))
    );
    source.pin(Hold::Open);
    let failed = writer.next(&mut source, &mut out);
    assert!(matches!(failed, Err(SnapshotFailed::WrongRoot { .. })));
    run(&mut source, 1, &[]);
    let foreign = SnapshotReader::new(CLUSTER, NodeId(1)).push(&out);
    assert_eq!(foreign, Err(SnapshotDamaged::ForeignNode { found: NODE }));
    let nonsense = SnapshotReader::new(CLUSTER, NODE).push(b"PK\x03\x04");
    assert_eq!(nonsense, Err(SnapshotDamaged::NotASnapshot { at: 0 }));
}
