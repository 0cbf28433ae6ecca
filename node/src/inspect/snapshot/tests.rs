//! A small snapshot, whole and then hurt in every frame.

use replica::snapshot::SnapshotWriter;
use wire::certificates::Signatures;
use wire::committee::StateMachine;
use wire::ids::Signature;
use zerocopy::IntoBytes;

use super::*;
use crate::inspect::tests::{CLUSTER, ME, small, verifying};

/// Frames of a snapshot with one session and the keys k0 to k9. `certify` may change what was signed.
fn frames(certify: impl Fn(&mut CheckpointCertificate)) -> Vec<Vec<u8>> {
    let (mut execution, mut certificate) = small(Machine::new(StateMachine::Kv, [1, 2], 16));
    let place = certificate.place();
    let (slot, root) = (place.slot, certificate.root);
    certify(&mut certificate);
    let mut writer = SnapshotWriter::new(CLUSTER, ME, slot, place.digest, root)
        .with_certificate(certificate.encode());
    let mut frames = Vec::new();
    loop {
        let mut frame = Vec::new();
        if !writer.next(&mut execution, &mut frame).unwrap() {
            return frames;
        }
        frames.push(frame);
    }
}

fn whole() -> Vec<Vec<u8>> {
    frames(|_| {})
}

fn look(file: &[u8], key: Option<&[u8]>) -> Report {
    let machine = Machine::new(StateMachine::Kv, [3, 4], 0);
    let against = Against {
        cluster: CLUSTER,
        node: ME,
        machine: &machine,
        key,
    };
    let mut pieces = file.chunks(4096).map(|piece| Ok(piece.to_vec()));
    inspect(&mut pieces, &against, Some(verifying()))
}

#[test]
fn a_whole_snapshot_is_counted_and_its_signers_are_named() {
    let file = whole().concat();
    let report = look(&file, Some(b"k3"));
    assert!(report.wrong.is_none(), "{:?}", report.wrong);
    assert_eq!((report.slot, report.node), (Some(2), Some(ME)));
    assert_eq!((report.entries, report.sessions), (10, 1));
    assert_eq!((report.buckets, report.bytes), (4096, file.len() as u64));
    assert_eq!(report.transactions, Some(10));
    let signers = (0..3).map(|node| (NodeId(node), Some(true)));
    assert_eq!(report.signers, signers.collect::<Vec<_>>());
    assert_eq!(report.signers_needed, Some(3));
    assert_eq!(report.value.as_deref(), Some(&b"v3"[..]));
    assert_eq!(look(&file, Some(b"k99")).value, None);
}

#[test]
fn a_flipped_bit_of_any_frame_names_it_and_its_place() {
    let whole = whole();
    let mut at = 0;
    for (number, frame) in whole.iter().enumerate() {
        let mut file = whole.concat();
        file[at + frame.len() - 1] ^= 1;
        let wrong = look(&file, None).wrong.expect("damage").to_string();
        let expected = match number {
            0 => "the header".to_owned(),
            1 => "the certificate".to_owned(),
            2 => "the summary".to_owned(),
            3..67 => format!("inner node {}", number - 3),
            _ if number + 1 == whole.len() => "the trailer".to_owned(),
            _ => "piece 0 of bucket".to_owned(),
        };
        assert!(wrong.contains(&format!("byte {at} ")), "{number}: {wrong}");
        assert!(wrong.contains(&expected), "{number}: {wrong}");
        at += frame.len();
    }
    let file = whole.concat();
    let cut = look(&file[..file.len() - 50], None).wrong.expect("damage");
    assert!(cut.to_string().contains("before its trailer"), "{cut}");
}

#[test]
fn a_certificate_must_hold_and_be_of_this_state() {
    let bad = |certify: &dyn Fn(&mut CheckpointCertificate)| {
        let report = look(&frames(certify).concat(), None);
        (report.wrong.expect("damage").to_string(), report.signers)
    };
    let (why, signers) = bad(&|found| found.signatures.add(NodeId(1), Signature([9; 64])));
    assert!(why.contains("bad_signature"), "{why}");
    let good = signers.iter().map(|(_, good)| *good);
    assert_eq!(
        good.collect::<Vec<_>>(),
        [Some(true), Some(false), Some(true)]
    );
    let (why, _) = bad(&|found| found.signatures = Signatures::new());
    assert!(why.contains("too_few_signatures"), "{why}");
    let (why, _) = bad(&|found| found.root = Digest([1; 32]));
    assert!(why.contains("of another state"), "{why}");
    let mut without = whole();
    let mut empty = Vec::new();
    storage::snapshot::write_frame(FrameKind::Certificate, &[], &mut empty);
    let shorter = without[1].len() - empty.len();
    without[1] = empty;
    let end = without.len() - 1;
    let before = u64::from_le_bytes(without[end][32..40].try_into().unwrap());
    let trailer = storage::snapshot::SnapshotTrailer::new(end as u64, before - shorter as u64);
    without[end].clear();
    storage::snapshot::write_frame(FrameKind::Trailer, trailer.as_bytes(), &mut without[end]);
    let wrong = look(&without.concat(), None).wrong;
    assert!(matches!(wrong, Some(Wrong::Uncertified(_))), "{wrong:?}");
}
