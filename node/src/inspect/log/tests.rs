//! Small logs, made by the writer that nodes have, whole and then hurt in one place.

use std::io;

use storage::record::{self, HEADER_BYTES, LogId, SECTOR_BYTES};
use storage::wal::{SegmentInfo, Tail, Writer};
use wire::block::{BlockHeader, BlockPrefix, payload_digest};
use wire::bytes::HeapUnique;
use wire::certificates::{CheckpointCertificate, Signatures as Signed};
use wire::ids::{Digest, Epoch, NodeId, PublicKey, Slot, View};
use wire::messages::{CleanStopRecord, Durability, StartRecord};
use wire::request::encode_open;
use wire::seal::Statement;
use zerocopy::IntoBytes;

use super::*;
use crate::inspect::tests::{CLUSTER, ME, sign, verifying};

const GEOMETRY: Geometry = Geometry {
    segment_bytes: 8 * SECTOR_BYTES as u64,
    segments_max: 3,
    reserve_bytes: 0,
};

fn identity(log: u8) -> Identity {
    Identity {
        cluster: CLUSTER,
        node: ME,
        log: LogId([log; 16]),
    }
}

fn judge() -> RecordJudge {
    RecordJudge::new(ME, Some(verifying()))
}

/// A block of view 0, whose leader is node 0, signed by `by`.
fn block(slot: u64, by: u16, payload: &[u8]) -> Vec<u8> {
    let payload_name = payload_digest(payload);
    let parent = Digest([slot as u8; 32]);
    let header = BlockHeader::new(Epoch(0), View(0), Slot(slot), 5, parent, payload_name);
    let statement = Statement::Propose {
        view: View(0),
        slot: Slot(slot),
        digest: header.digest(),
    };
    let prefix = BlockPrefix::new(header, sign(by, &statement), payload.len());
    [prefix.as_bytes(), payload].concat()
}

/// Signed by three nodes; the one of `liar` is of another state.
fn checkpoint(liar: Option<u16>) -> Vec<u8> {
    let (chain, payload) = (Digest([1; 32]), Digest([2; 32]));
    let mut certificate = CheckpointCertificate {
        header: BlockHeader::new(Epoch(0), View(0), Slot(1024), 5, chain, payload),
        root: Digest([3; 32]),
        signatures: Signed::new(),
    };
    for node in 0..3 {
        let mut statement = certificate.statement();
        if liar == Some(node) {
            let digest = Digest::ZERO;
            statement = Statement::ViewChange {
                view: View(0),
                digest,
            };
        }
        certificate
            .signatures
            .add(NodeId(node), sign(node, &statement));
    }
    certificate.encode()
}

struct Log {
    writer: Writer,
    segments: Vec<Vec<u8>>,
    /// (segment, offset) of each record.
    places: Vec<(usize, usize)>,
}

impl Log {
    fn new() -> Log {
        Log {
            writer: Writer::new(GEOMETRY, identity(3), Tail::blank(3)),
            segments: vec![vec![0; GEOMETRY.segment_bytes as usize]; 3],
            places: Vec::new(),
        }
    }

    fn put(&mut self, kind: Kind, body: &[u8]) {
        let mut buffer = vec![0; record::record_bytes(body.len())];
        buffer[HEADER_BYTES..HEADER_BYTES + body.len()].copy_from_slice(body);
        let sealed = self
            .writer
            .seal(kind, HeapUnique(buffer), body.len())
            .unwrap();
        let (segment, offset) = (sealed.segment as usize, sealed.offset_in_segment as usize);
        self.segments[segment][offset..offset + sealed.shared.len()]
            .copy_from_slice(&sealed.shared);
        self.places.push((segment, offset));
    }

    /// What was written so far is durable, and later records say so.
    fn acknowledge(&mut self) {
        let mut verdict = recover(self, &GEOMETRY, &identity(3), &mut |_| {});
        let recovery = verdict.as_mut().unwrap();
        self.writer.acknowledge(recovery.flushed());
    }

    /// The byte `at` of a record, to be changed.
    fn byte(&mut self, record: usize, at: usize) -> &mut u8 {
        let (segment, offset) = self.places[record];
        &mut self.segments[segment][offset + at]
    }

    fn inspect(&mut self) -> (Vec<Row>, Report) {
        let mut rows = Vec::new();
        let mut judge = judge();
        let report = inspect(self, &GEOMETRY, &identity(3), &mut judge, &mut |row| {
            rows.push(row);
        });
        (rows, report)
    }
}

impl SegmentSource for Log {
    fn segments(&self) -> Vec<SegmentInfo> {
        let info = |index| SegmentInfo {
            index,
            bytes: GEOMETRY.segment_bytes,
        };
        (0..3).map(info).collect()
    }

    fn read(&mut self, segment: u32, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let from = offset as usize;
        into.copy_from_slice(&self.segments[segment as usize][from..from + into.len()]);
        Ok(())
    }
}

/// Ten records in two segments, each acknowledged before the next.
fn written() -> Log {
    let mut log = Log::new();
    let start = StartRecord::new(wire::ids::Boot(1), Epoch(0), View(0), Durability::Sync);
    let mut put = |kind, body: &[u8]| {
        log.put(kind, body);
        log.acknowledge();
    };
    put(Kind::Start, start.as_bytes());
    for slot in 1..8 {
        put(Kind::Block, &block(slot, 0, &[]));
    }
    put(Kind::CheckpointCertificate, &checkpoint(None));
    put(
        Kind::CleanStop,
        CleanStopRecord::new(wire::ids::Boot(1)).as_bytes(),
    );
    log
}

fn of_state(rows: &[Row], state: State) -> Vec<&Row> {
    rows.iter().filter(|row| row.state == state).collect()
}

#[test]
fn a_good_log_passes_every_check() {
    let (rows, report) = written().inspect();
    assert_eq!(of_state(&rows, State::Good).len(), 10, "{rows:?}");
    assert!(rows.iter().all(|row| !row.failed()));
    assert!(!report.is_damaged());
    assert_eq!(
        (report.records, report.bytes),
        (10, 10 * SECTOR_BYTES as u64)
    );
    assert_eq!((rows[3].slot, rows[3].view), (Some(3), Some(0)));
    assert_eq!(rows[3].signatures, "ok");
    assert_eq!((rows[8].slot, rows[8].signatures), (Some(1024), "ok"));
    assert_eq!((rows[0].chain, rows[8].chain), ("first", "ok"));
    assert_eq!((rows[7].segment, rows[8].segment), (Some(0), Some(1)));
    assert!(report.verdict_text().starts_with("clean"));
}

#[test]
fn a_bit_of_a_header_or_a_body_is_damage_in_its_place() {
    for (at, header, body) in [(50, "damaged", "-"), (HEADER_BYTES + 200, "ok", "damaged")] {
        let mut log = written();
        *log.byte(4, at) ^= 1;
        let (rows, report) = log.inspect();
        let damaged = of_state(&rows, State::Damaged);
        assert_eq!(damaged.len(), 1, "{damaged:?}");
        assert_eq!(damaged[0].position.0, 4 * SECTOR_BYTES as u64);
        assert_eq!((damaged[0].header, damaged[0].body), (header, body));
        assert_eq!(of_state(&rows, State::Good).len(), 9);
        assert!(report.is_damaged());
        let position = report.verdict.unwrap_err().position;
        assert_eq!(position, damaged[0].position);
    }
}

#[test]
fn a_record_of_another_chain_is_damage() {
    let mut log = written();
    let (segment, offset) = log.places[5];
    let sector = &mut log.segments[segment][offset..offset + SECTOR_BYTES];
    let record::Decoded::Intact(mut header) = record::decode(sector, &identity(3), None) else {
        panic!("a record was written there");
    };
    header.previous.0[0] ^= 1;
    record::encode(&header, &identity(3), sector);
    let (rows, report) = log.inspect();
    let damaged = of_state(&rows, State::Damaged);
    assert_eq!(damaged.len(), 2, "it, and the one that named it");
    assert!(damaged.iter().all(|row| row.chain == "broken"));
    assert!(report.is_damaged());
}

#[test]
fn a_torn_tail_is_cut_and_is_no_damage() {
    let mut log = written();
    log.put(Kind::Block, &block(8, 0, &[]));
    log.put(Kind::Block, &block(9, 0, &[]));
    *log.byte(10, HEADER_BYTES + 9) ^= 4;
    let (rows, report) = log.inspect();
    let cut = of_state(&rows, State::Cut);
    let bodies = cut.iter().map(|row| row.body).collect::<Vec<_>>();
    assert_eq!(bodies, ["damaged", "ok"]);
    assert!(of_state(&rows, State::Damaged).is_empty());
    assert!(!report.is_damaged());
    assert!(report.verdict_text().starts_with("torn tail"));
}

#[test]
fn a_segment_of_another_log_is_damage() {
    let mut log = written();
    let mut writer = Writer::new(GEOMETRY, identity(9), Tail::blank(3));
    let buffer = HeapUnique(vec![0; SECTOR_BYTES]);
    let sealed = writer.seal(Kind::Start, buffer, 24).unwrap();
    log.segments[2][..SECTOR_BYTES].copy_from_slice(&sealed.shared);
    let (rows, report) = log.inspect();
    assert!(
        of_state(&rows, State::Damaged).is_empty(),
        "the rest is whole"
    );
    assert!(report.is_damaged());
    let text = report.verdict_text();
    assert!(text.contains("segment file 2 belongs to another"), "{text}");
}

#[test]
fn a_leader_that_lies_is_not_the_disks_fault() {
    let mut log = written();
    log.put(Kind::Block, &block(8, 1, &[]));
    let mut payload = Vec::new();
    encode_open(&mut payload, PublicKey([7; 32]), Slot(1));
    log.put(Kind::Block, &block(8, 0, &payload));
    let (rows, report) = log.inspect();
    let unsound = of_state(&rows, State::Unsound);
    let signatures = unsound.iter().map(|row| row.signatures);
    let signatures = signatures.collect::<Vec<_>>();
    assert_eq!(signatures, ["leader's bad", "a request's bad"]);
    assert!(!report.is_damaged());
}

#[test]
fn a_certificate_that_does_not_hold_is_damage() {
    let mut log = written();
    log.put(Kind::CheckpointCertificate, &checkpoint(Some(1)));
    log.put(Kind::Decided, &[0; 39]);
    let (rows, report) = log.inspect();
    let damaged = of_state(&rows, State::Damaged);
    let checks = damaged.iter().map(|row| (row.form, row.signatures));
    assert_eq!(
        checks.collect::<Vec<_>>(),
        [("ok", "bad"), ("malformed", "-")]
    );
    assert!(report.verdict.is_ok() && report.is_damaged());
}

#[test]
fn signatures_can_be_left_alone() {
    let mut log = written();
    let mut rows = Vec::new();
    let mut judge = RecordJudge::new(ME, None);
    inspect(&mut log, &GEOMETRY, &identity(3), &mut judge, &mut |row| {
        rows.push(row)
    });
    let unchecked = rows.iter().filter(|row| row.signatures == "unchecked");
    assert_eq!(unchecked.count(), 8);
    assert_eq!(of_state(&rows, State::Good).len(), 10);
}
