//! docs/format.md is true: the code produces the bytes that stand there.

use std::fs;
use std::path::Path;

use node::machine::Machine;
use replica::execution::{Execution, Replies};
use replica::snapshot::SnapshotWriter;
use storage::record::{Kind, LogId, SECTOR_BYTES};
use storage::state::Hold;
use storage::superblock::{DIRECTORY_VERSION, SUPERBLOCK_BYTES, Superblock};
use storage::wal::{Geometry, Tail, Writer};
use wire::block::{BlockHeader, BlockPrefix, payload_digest};
use wire::bytes::{HeapShared, HeapUnique};
use wire::certificates::{CheckpointCertificate, Signatures};
use wire::committee::StateMachine;
use wire::ids::{
    Boot, ClusterId, Digest, Epoch, NodeId, PublicKey, Sequence, SessionId, Signature, Slot, View,
};
use wire::messages::{CleanStopRecord, Durability, StartRecord};
use wire::ops::{Operation, OperationsBuilder};
use wire::request::{RequestFields, encode_open, encode_request};
use zerocopy::IntoBytes;

const CLUSTER: ClusterId = ClusterId([0xc1; 16]);
const NODE: NodeId = NodeId(2);
const CHAIN: Digest = Digest([0xcd; 32]);

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/format.md");
    fs::read_to_string(path).unwrap()
}

/// The bytes of a vector by its name.
fn vector(page: &str, name: &str) -> Vec<u8> {
    let fence = format!("```hex {name}\n");
    let (_, rest) = page.split_once(&fence).expect(name);
    let (digits, _) = rest.split_once("```").expect(name);
    let byte = |digits| u8::from_str_radix(digits, 16).expect(name);
    digits.split_whitespace().map(byte).collect()
}

/// Compares a vector with what the code makes; shows what should stand in the page otherwise.
fn expect(name: &str, made: &[u8]) {
    if vector(&page(), name) == made {
        return;
    }
    let line = |bytes: &[u8]| {
        let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
        digits.collect::<Vec<_>>().join(" ")
    };
    let lines = made.chunks(24).map(line).collect::<Vec<_>>().join("\n");
    panic!("docs/format.md differs from the code:\n```hex {name}\n{lines}\n```");
}

fn superblock() -> Superblock {
    Superblock {
        epoch: Epoch(0),
        directory_version: DIRECTORY_VERSION,
        sequence: 4,
        cluster: CLUSTER,
        node: NODE,
        public_key: PublicKey([0xaa; 32]),
        committee: Digest([0xbb; 32]),
        log: LogId(std::array::from_fn(|at| 0x10 + at as u8)),
        geometry: Geometry {
            segment_bytes: 1 << 20,
            segments_max: 16,
            reserve_bytes: 65_536,
        },
    }
}

#[test]
fn superblock_bytes() {
    let bytes = superblock().format();
    let end = SUPERBLOCK_BYTES - 4;
    expect("superblock", &bytes[..152]);
    assert!(bytes[152..end].iter().all(|byte| *byte == 0));
    expect("superblock-sum", &bytes[end..]);
}

#[test]
fn record_bytes() {
    let superblock = superblock();
    let mut writer = Writer::new(superblock.geometry, superblock.identity(), Tail::blank(2));
    let mut record = |name: &str, kind, body: &[u8]| {
        let mut buffer = vec![0xee; SECTOR_BYTES];
        buffer[128..128 + body.len()].copy_from_slice(body);
        let sealed = writer.seal(kind, HeapUnique(buffer), body.len()).unwrap();
        let (bytes, rest) = sealed.shared.split_at(128 + body.len());
        assert!(rest.iter().all(|byte| *byte == 0));
        assert_eq!(bytes.len() + rest.len(), SECTOR_BYTES);
        expect(name, bytes);
    };
    let start = StartRecord::new(Boot(3), Epoch(0), View(2), Durability::Lease);
    record("record-start", Kind::Start, start.as_bytes());
    let stop = CleanStopRecord::new(Boot(3));
    record("record-clean-stop", Kind::CleanStop, stop.as_bytes());
}

struct Nowhere;

impl Replies for Nowhere {
    fn reply(&mut self, _: &PublicKey, _: Slot, _: &[u8]) {}

    fn read_reply(&mut self, _: &PublicKey, _: Slot, _: [&[u8]; 2]) {}
}

fn header(slot: Slot, payload: &[u8]) -> BlockHeader {
    let parent = Digest::ZERO;
    BlockHeader::new(Epoch(0), View(0), slot, 5, parent, payload_digest(payload))
}

/// The file of the page, in frames.
fn snapshot() -> Vec<Vec<u8>> {
    let machine = Machine::new(StateMachine::Kv, [1, 2], 16);
    let mut execution = Execution::new(NODE, 4, machine, 1400).with_checkpoint_interval(2);
    let client = PublicKey([7; 32]);
    let mut opening = Vec::new();
    encode_open(&mut opening, client, Slot(0));
    let mut operations = OperationsBuilder::new();
    operations.push(&Operation::Put {
        key: b"city",
        value: b"Byzantium",
    });
    let fields = RequestFields {
        session: SessionId::opened_at(Slot(1), 0),
        first_sequence: Sequence(1),
        acked_low: Sequence(0),
        flags: 0,
        count: 1,
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
    let certificate = CheckpointCertificate {
        header: header(slot, &putting),
        root,
        signatures: Signatures::new(),
    };
    let mut writer = SnapshotWriter::new(CLUSTER, NODE, slot, CHAIN, root)
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

#[test]
fn snapshot_bytes() {
    let frames = snapshot();
    // Header, certificate, summary, 64 inner nodes, two buckets, trailer.
    assert_eq!(frames.len(), 3 + 64 + 2 + 1);
    expect("snapshot-header", &frames[0]);
    expect("snapshot-certificate", &frames[1]);
    expect("snapshot-summary", &frames[2][..24 + 32]);
    expect("snapshot-pieces", &frames[67..69].concat());
    expect("snapshot-trailer", &frames[69]);
}

#[test]
fn every_kind_of_record_has_its_line() {
    let page = page();
    for kind in Kind::ALL {
        let mut name = String::new();
        for letter in format!("{kind:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.extend(letter.to_lowercase());
        }
        let line = format!("| {} | {name} | ", *kind as u8);
        assert!(page.contains(&line), "docs/format.md has no line {line}");
    }
    let version = format!("| 4 | version, {} |", replica::recording::VERSION);
    assert!(page.contains(&version), "docs/format.md lacks {version}");
}
