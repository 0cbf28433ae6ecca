//! A small snapshot, whole and then hurt in every frame.

use replica::execution::{Execution, Replies};
use replica::snapshot::SnapshotWriter;
use storage::state::Hold;
use wire::block::{BlockHeader, BlockPrefix, payload_digest};
use wire::bytes::HeapShared;
use wire::certificates::Signatures;
use wire::committee::StateMachine;
use wire::ids::{Epoch, PublicKey, Sequence, SessionId, Signature, Slot, View};
use wire::ops::{Operation, OperationsBuilder};
use wire::request::{RequestFields, encode_open, encode_request};
use zerocopy::IntoBytes;

use super::*;
use crate::inspect::tests::{CLUSTER, ME, sign, verifying};

struct Nowhere;

impl Replies for Nowhere {
    fn reply(&mut self, _: &PublicKey, _: Slot, _: &[u8]) {}

    fn read_reply(&mut self, _: &PublicKey, _: Slot, _: [&[u8]; 2]) {}
}

fn header(slot: Slot, payload: &[u8]) -> BlockHeader {
    let parent = Digest([slot.0 as u8; 32]);
    BlockHeader::new(Epoch(0), View(0), slot, 5, parent, payload_digest(payload))
}

/// Frames of a snapshot with one session and the keys k0 to k9. `certify` may change what was signed.
fn frames(certify: impl Fn(&mut CheckpointCertificate)) -> Vec<Vec<u8>> {
    let machine = Machine::new(StateMachine::Kv, [1, 2], 16);
    let mut execution = Execution::new(ME, 4, machine, 1400).with_checkpoint_interval(2);
    let client = PublicKey([7; 32]);
    let mut opening = Vec::new();
    encode_open(&mut opening, client, Slot(0));
    let mut operations = OperationsBuilder::new();
    for number in 0..10 {
        let (key, value) = (format!("k{number}"), format!("v{number}"));
        let (key, value) = (key.as_bytes(), value.as_bytes());
        operations.push(&Operation::Put { key, value });
    }
    let fields = RequestFields {
        session: SessionId::opened_at(Slot(1), 0),
        first_sequence: Sequence(1),
        acked_low: Sequence(0),
        flags: 0,
        count: 10,
    };
    let mut putting = Vec::new();
    encode_request(&mut putting, client, fields, operations.bytes());
    for (slot, payload) in [(Slot(1), &opening), (Slot(2), &putting)] {
        let prefix = BlockPrefix::new(header(slot, payload), Signature([0; 64]), payload.len());
        let message = HeapShared::copy_from(&[prefix.as_bytes(), payload].concat());
        execution.execute(slot, &message, &mut Nowhere);
    }
    while execution.work(usize::MAX) {}
    let (slot, root) = execution.take_root().unwrap();
    assert!(execution.pin(Hold::Open).ready);
    let mut certificate = CheckpointCertificate {
        header: header(slot, &putting),
        root,
        signatures: Signatures::new(),
    };
    for node in 0..3 {
        let signature = sign(node, &certificate.statement());
        certificate.signatures.add(NodeId(node), signature);
    }
    let place = certificate.place();
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
