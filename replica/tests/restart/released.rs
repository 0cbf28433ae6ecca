//! Logs that do not reach back to the beginning, and the snapshots in front of them.

use std::io;

use replica::agreement::Standing;
use replica::agreement::quorum::Quorums;
use replica::execution::Execution;
use replica::recovery::{
    DecidedRecord, RestartError, Restarted, Saved, SavedUnusable, StandingRecord, restart,
};
use replica::snapshot::SnapshotWriter;
use replica::verifying::Verifying;
use storage::machine::Noop;
use storage::record::Kind;
use storage::snapshot::SnapshotDamaged;
use storage::state::Hold;
use storage::{Geometry, Writer, recover};
use wire::block::{BlockHeader, BlockPrefix, payload_digest};
use wire::bytes::{Buffers, HeapBuffers, HeapShared};
use wire::certificates::{CheckpointCertificate, NewViewCertificate, Place, Signatures};
use wire::ids::{Boot, Digest, Epoch, NodeId, Position, Signature, Slot, View};
use wire::limits::RECORD_HEADER_BYTES;
use wire::messages::{Durability, PlaceRecord, StartRecord};
use wire::view_change::{ViewChange, signed_body};
use zerocopy::IntoBytes;

use crate::world::{
    BAD, Disk, GENESIS, GENESIS_PLACE, GOOD, IDENTITY, Judge, QUORUMS, RULES, Said, buffers,
};

/// Slots between checkpoints here.
const INTERVAL: u64 = 4;
/// Segments that hold little more than the largest block.
const SMALL: Geometry = Geometry {
    segment_bytes: 288 * 1024,
    segments_max: 4,
    reserve_bytes: 0,
};

/// The chain of empty blocks of view 0, from slot 0 on: headers, and digests.
pub fn chain(slots: u64) -> (Vec<BlockHeader>, Vec<Place>) {
    let mut places = vec![Place {
        slot: Slot(0),
        digest: GENESIS,
    }];
    let mut headers = Vec::new();
    for slot in (1..=slots).map(Slot) {
        let parent = places.last().map_or(GENESIS, |place| place.digest);
        let payload = payload_digest(&[]);
        let header = BlockHeader::new(Epoch(0), View(0), slot, 0, parent, payload);
        let digest = header.digest();
        headers.push(header);
        places.push(Place { slot, digest });
    }
    (headers, places)
}

fn message(header: BlockHeader) -> Vec<u8> {
    BlockPrefix::new(header, GOOD, 0).as_bytes().to_vec()
}

fn fresh() -> Execution<Noop> {
    Execution::new(IDENTITY.node, 4, Noop, 1400).with_checkpoint_interval(INTERVAL)
}

/// A snapshot file of the state at a slot, and its certificate.
fn snapshot(slot: u64) -> (Vec<u8>, CheckpointCertificate) {
    snapshot_signed(slot, GOOD)
}

fn snapshot_signed(slot: u64, signature: Signature) -> (Vec<u8>, CheckpointCertificate) {
    let (headers, places) = chain(slot);
    let mut execution = fresh();
    for header in &headers {
        let block = HeapShared::copy_from(&message(*header));
        execution.execute(header.slot(), &block, &mut Said::default());
        while execution.work(usize::MAX) {}
    }
    assert!(execution.pin(Hold::Open).ready);
    let (at, root) = execution.last_checkpoint().unwrap();
    let place = places[slot as usize];
    assert_eq!(at, place.slot);
    let mut signatures = Signatures::new();
    (0..3).for_each(|id| signatures.add(NodeId(id), signature));
    let certificate = CheckpointCertificate {
        header: headers[slot as usize - 1],
        root,
        signatures,
    };
    let (cluster, node) = (IDENTITY.cluster, IDENTITY.node);
    let writer = SnapshotWriter::new(cluster, node, at, place.digest, root);
    let mut writer = writer.with_certificate(certificate.encode());
    let mut file = Vec::new();
    while writer.next(&mut execution, &mut file).unwrap() {}
    (file, certificate)
}

/// A log that is being written.
pub struct Log {
    disk: Disk,
    writer: Writer,
    pub quorums: Quorums,
}

impl Log {
    pub fn new() -> Log {
        let mut disk = Disk(vec![vec![0; SMALL.segment_bytes as usize]; 4]);
        let blank = recover(&mut disk, &SMALL, &IDENTITY, &mut |_| {}).unwrap();
        let writer = Writer::new(SMALL, IDENTITY, blank.tail);
        let mut log = Log {
            disk,
            writer,
            quorums: QUORUMS,
        };
        let start = StartRecord::new(Boot(1), Epoch(0), View(0), Durability::Sync);
        log.put(Kind::Start, start.as_bytes());
        log
    }

    /// Says where the replica stands.
    pub fn stand(&mut self, standing: &Standing) {
        let (boot, epoch, view) = (Boot(1), Epoch(0), View(0));
        let record = StandingRecord::new(boot, epoch, view, Durability::Sync, standing);
        self.put(Kind::Standing, record.as_bytes());
    }

    pub fn put(&mut self, kind: Kind, body: &[u8]) -> Position {
        let mut buffer = buffers().take().unwrap();
        buffer[RECORD_HEADER_BYTES..][..body.len()].copy_from_slice(body);
        let sealed = self.writer.seal(kind, buffer, body.len()).unwrap();
        let offset = sealed.offset_in_segment as usize;
        self.disk.0[sealed.segment as usize][offset..][..sealed.shared.len()]
            .copy_from_slice(&sealed.shared);
        sealed.start
    }

    pub fn blocks(&mut self, headers: &[BlockHeader]) {
        for header in headers {
            self.put(Kind::Block, &message(*header));
        }
    }

    /// Learned of others, and not a vote.
    pub fn fetched(&mut self, header: &BlockHeader) {
        self.put(Kind::FetchedBlock, &message(*header));
    }

    fn decided(&mut self, place: Place) {
        let record = DecidedRecord::new(place.slot, place.digest);
        self.put(Kind::Decided, record.as_bytes());
    }

    /// Everything is durable, and what lies before `low` is let go.
    fn release(&mut self, low: Position) {
        let recovery = recover(&mut self.disk, &SMALL, &IDENTITY, &mut |_| {}).unwrap();
        self.writer.acknowledge(recovery.flushed());
        self.writer.release(low);
    }

    pub fn restart(&mut self, file: Option<&[u8]>) -> Result<Outcome, RestartError> {
        self.restart_from(file.as_slice())
    }

    /// The newest file comes first.
    fn restart_from(&mut self, files: &[&[u8]]) -> Result<Outcome, RestartError> {
        let mut execution = fresh();
        let pieces = |file: &&[u8]| {
            let pieces = file.chunks(1000).map(|piece| Ok(piece.to_vec()));
            pieces.collect::<Vec<io::Result<Vec<u8>>>>().into_iter()
        };
        let mut files = files.iter().map(pieces).collect::<Vec<_>>();
        let saved = files.iter_mut().map(|pieces| Saved {
            name: "snapshots/8".to_owned(),
            pieces,
        });
        let restarted = restart(
            IDENTITY.node,
            &self.quorums,
            &mut self.disk,
            &SMALL,
            &IDENTITY,
            GENESIS_PLACE,
            &mut execution,
            &mut Verifying::new(Judge, RULES),
            &mut buffers(),
            saved,
        )?;
        Ok(Outcome {
            restarted,
            execution,
        })
    }
}

pub struct Outcome {
    pub restarted: Restarted<HeapBuffers>,
    execution: Execution<Noop>,
}

impl Outcome {
    /// Decided, executed, and retained from.
    fn slots(&self) -> (u64, u64, u64) {
        let recovered = &self.restarted.recovered;
        let executed = self.execution.executed().0;
        (
            recovered.decided.slot.0,
            executed,
            recovered.retained_from.0,
        )
    }
}

#[test]
fn a_whole_log_needs_no_snapshot_and_takes_one() {
    let (headers, places) = chain(12);
    let mut log = Log::new();
    log.blocks(&headers);
    log.decided(places[10]);
    let (file, certificate) = snapshot(8);
    let without = log.restart(None).unwrap();
    let with = log.restart(Some(&file)).unwrap();
    for outcome in [&without, &with] {
        assert_eq!(outcome.slots(), (10, 10, 1));
        assert_eq!(outcome.restarted.recovered.tip, places[12]);
        assert_eq!(outcome.restarted.undecided.len(), 2);
    }
    let known = with
        .restarted
        .recovered
        .checkpoint
        .map(|known| known.place());
    assert_eq!(known, Some(certificate.place()));
    assert!(without.restarted.recovered.checkpoint.is_none());
    // Older than the log's own decision, or newer than all of it.
    log.decided(places[12]);
    assert_eq!(log.restart(Some(&file)).unwrap().slots(), (12, 12, 1));
    let (file, _) = snapshot(16);
    assert_eq!(log.restart(Some(&file)).unwrap().slots(), (16, 16, 17));
}

#[test]
fn a_damaged_snapshot_is_not_needed_by_a_whole_log() {
    let (headers, places) = chain(12);
    let mut log = Log::new();
    log.blocks(&headers);
    log.decided(places[10]);
    let (file, _) = snapshot(8);
    let torn = &file[..file.len() / 2];
    assert_eq!(log.restart(Some(torn)).unwrap().slots(), (10, 10, 1));
    let mut flipped = file.clone();
    flipped[file.len() / 2] ^= 1;
    assert_eq!(log.restart(Some(&flipped)).unwrap().slots(), (10, 10, 1));
}

#[test]
fn an_older_snapshot_does_when_the_newest_is_damaged() {
    let (headers, places) = chain(12);
    let (older, _) = snapshot(4);
    let (newest, certificate) = snapshot(8);
    let torn = &newest[..newest.len() / 2];
    // The log reaches back to the older one, and not to the beginning.
    let mut log = Log::new();
    let (_, of_older) = snapshot(4);
    log.put(Kind::CheckpointCertificate, &of_older.encode());
    let skip = PlaceRecord::new(View(0), places[4].slot, places[4].digest, BAD);
    log.put(Kind::Skip, skip.as_bytes());
    log.blocks(&headers[4..]);
    log.decided(places[10]);
    let whole = log.restart_from(&[&newest, &older]).unwrap();
    assert_eq!(whole.restarted.snapshot, Some(Slot(8)));
    assert!(whole.restarted.unusable.is_empty());
    let outcome = log.restart_from(&[torn, &older]).unwrap();
    assert_eq!(outcome.slots(), (10, 10, 5));
    assert_eq!(outcome.restarted.snapshot, Some(Slot(4)));
    assert_eq!(outcome.restarted.unusable.len(), 1);
    // It does not reach back to the older one.
    let mut log = Log::new();
    log.put(Kind::CheckpointCertificate, &certificate.encode());
    let skip = PlaceRecord::new(View(0), places[8].slot, places[8].digest, BAD);
    log.put(Kind::Skip, skip.as_bytes());
    log.blocks(&headers[8..]);
    log.decided(places[10]);
    let outcome = log.restart_from(&[torn, &older]).unwrap();
    assert_eq!(outcome.restarted.snapshot, Some(Slot(4)));
    assert_eq!(outcome.execution.executed(), Slot(4));
    lacks_what_is_above(&outcome, 8);
}

/// The log knows that this slot is certified, and the state is an older one: all votes in the window
/// above are owed in silence.
fn lacks_what_is_above(outcome: &Outcome, certified: u64) {
    let restarted = &outcome.restarted;
    let recovered = &restarted.recovered;
    assert!(restarted.lacks_state && !restarted.clean);
    assert_eq!(recovered.forgotten, Slot(certified + RULES.window));
    assert!(recovered.decided.slot < Slot(certified));
    assert_eq!(outcome.execution.executed(), recovered.decided.slot);
    let checkpoint = recovered.checkpoint.map(|known| known.header.slot());
    assert!(checkpoint < Some(Slot(certified)), "its state is not here");
    // However many blocks the log retains, those that are settled take no buffers.
    let mut undecided = restarted.undecided.iter();
    assert!(undecided.all(|(place, ..)| place.slot > Slot(certified)));
}

/// Own words stand on blocks far below what is settled.
#[test]
fn a_log_without_its_state_is_not_read_down_to_the_base() {
    let (headers, places) = chain(12);
    let (_, certificate) = snapshot(8);
    let mut log = Log::new();
    log.blocks(&headers[4..]);
    let mut acks = Signatures::new();
    (0..3).for_each(|id| acks.add(NodeId(id), GOOD));
    let (view, base) = (View(1), places[6]);
    let install = NewViewCertificate { view, base, acks };
    log.put(Kind::Install, &install.encode());
    log.put(Kind::CheckpointCertificate, &certificate.encode());
    log.decided(places[10]);
    let outcome = log.restart(None).unwrap();
    lacks_what_is_above(&outcome, 8);
    let recovered = &outcome.restarted.recovered;
    assert_eq!((recovered.tip, recovered.installed), (base, view));
}

/// As after a state was taken over: certificate and jump stand where the blocks are missing.
#[test]
fn a_gap_is_bridged_by_a_snapshot_and_by_nothing_else() {
    let (headers, places) = chain(12);
    let (file, certificate) = snapshot(8);
    let mut log = Log::new();
    log.blocks(&headers[..3]);
    log.decided(places[2]);
    log.put(Kind::CheckpointCertificate, &certificate.encode());
    let skip = PlaceRecord::new(View(0), places[8].slot, places[8].digest, BAD);
    log.put(Kind::Skip, skip.as_bytes());
    log.blocks(&headers[8..]);
    log.decided(places[11]);
    let outcome = log.restart(Some(&file)).unwrap();
    assert_eq!(outcome.slots(), (11, 11, 9));
    assert_eq!(outcome.restarted.recovered.tip, places[12]);
    assert!(!outcome.restarted.recovered.voting_stopped);
    assert!(outcome.restarted.ledger.locate(Slot(3)).is_none());
    assert!(outcome.restarted.ledger.locate(Slot(9)).is_some());
    lacks_what_is_above(&log.restart(None).unwrap(), 8);
    let torn = log.restart(Some(&file[..file.len() - 1])).unwrap();
    lacks_what_is_above(&torn, 8);
    let (name, reason) = &torn.restarted.unusable[0];
    assert!(name.contains("snapshots/8"), "{name}");
    assert!(matches!(
        reason,
        SavedUnusable::Damaged(SnapshotDamaged::Truncated { .. })
    ));
    // One that is not certified.
    let (file, _) = snapshot_signed(8, BAD);
    let forged = log.restart(Some(&file)).unwrap();
    lacks_what_is_above(&forged, 8);
    let (_, reason) = &forged.restarted.unusable[0];
    assert!(
        matches!(reason, SavedUnusable::Uncertified(_)),
        "{reason:?}"
    );
}

/// Where a replica stands that has installed view 0 and says nothing special.
pub fn standing(stage: View, tip: Place, decided: Place) -> Standing {
    Standing {
        lease: Slot(0),
        forgotten: Slot(0),
        stage,
        installed: View(0),
        tip,
        voting_stopped: false,
        diverged: false,
        decided,
        certificate: None,
        change: Default::default(),
        quorum: None,
        checkpoint: None,
    }
}

/// The group of records that replaces what was let go, in view 0.
fn restate(log: &mut Log, tip: Place, decided: Place, certificate: &CheckpointCertificate) {
    log.put(Kind::CheckpointCertificate, &certificate.encode());
    log.stand(&standing(View(0), tip, decided));
    log.decided(decided);
}

#[test]
fn a_released_log_tells_what_the_whole_one_told() {
    let slots = 2 * SMALL.segment_bytes / 4096;
    let (headers, places) = chain(slots);
    let (file, certificate) = snapshot(slots / INTERVAL * INTERVAL - INTERVAL);
    let slot = certificate.header.slot();
    let at = |slot: u64| places[slot as usize];
    let mut log = Log::new();
    log.blocks(&headers[..slots as usize - 2]);
    log.decided(at(slots - 4));
    let whole = log.restart(Some(&file)).unwrap();
    restate(&mut log, at(slots - 2), at(slots - 4), &certificate);
    log.release(Position(SMALL.segment_bytes));
    // The mark travels with the next record; from there on the own votes go on.
    log.blocks(&headers[slots as usize - 2..]);
    let outcome = log.restart(Some(&file)).unwrap();
    let recovered = &outcome.restarted.recovered;
    assert_eq!(recovered.decided, at(slots - 4));
    assert_eq!(outcome.execution.executed(), Slot(slots - 4));
    assert_eq!(recovered.tip, at(slots));
    assert!(!recovered.voting_stopped);
    assert_eq!(outcome.restarted.boot, Boot(2));
    assert_eq!(
        recovered.restarted_in,
        whole.restarted.recovered.restarted_in
    );
    assert!(recovered.retained_from > Slot(1) && recovered.retained_from < slot);
    assert_eq!(
        recovered.checkpoint.map(|c| c.place()),
        Some(certificate.place())
    );
    lacks_what_is_above(&log.restart(None).unwrap(), slot.0);
    lacks_what_is_above(&log.restart(Some(&file[..99])).unwrap(), slot.0);
}

/// K4: a state was taken over while own records up to it waited for room. The group says that the tip is
/// there; what is written behind it, from below, is no rival and extends nothing.
#[test]
fn own_records_below_what_is_stable_end_no_voting() {
    let (headers, places) = chain(2 * INTERVAL);
    let (file, certificate) = snapshot(INTERVAL);
    let slot = INTERVAL as usize;
    let at = |slot: usize| places[slot];
    let mut log = Log::new();
    log.blocks(&headers[..slot - 3]);
    log.put(Kind::CheckpointCertificate, &certificate.encode());
    log.stand(&standing(View(0), at(slot), at(slot)));
    log.blocks(&headers[slot - 3..slot + 2]);
    let recovered = log.restart(Some(&file)).unwrap().restarted.recovered;
    assert_eq!(recovered.tip, at(slot + 2));
    assert!(!recovered.voting_stopped);
    // Above it, a second block of a slot is one.
    log.blocks(&headers[slot..slot + 1]);
    let recovered = log.restart(Some(&file)).unwrap().restarted.recovered;
    assert!(recovered.voting_stopped);
}

/// V3, I4: an acknowledgement stands in front of the group, and the view change that it followed was
/// let go and is repeated behind it. Forgotten, a second one could be given in its view.
#[test]
fn an_acknowledgement_before_the_group_is_remembered() {
    let slots = 2 * SMALL.segment_bytes / 4096;
    let (headers, places) = chain(slots);
    let (file, certificate) = snapshot(slots / INTERVAL * INTERVAL - INTERVAL);
    let base = certificate.place();
    let view_change = ViewChange {
        view: View(1),
        replica: IDENTITY.node,
        installed: View(0),
        certificate: None,
        checkpoint: Some(certificate),
        suffix: Vec::new(),
        tip_signature: Signature([0; 64]),
        quorum: None,
    };
    let view_change = signed_body(&GOOD, &view_change.encode());
    let mut log = Log::new();
    log.put(Kind::ViewChange, &view_change);
    log.blocks(&headers);
    log.decided(base);
    let ack = PlaceRecord::new(View(1), base.slot, base.digest, GOOD);
    log.put(Kind::Ack, ack.as_bytes());
    let acked = |log: &mut Log| {
        let outcome = log.restart(Some(&file)).unwrap();
        let recovered = outcome.restarted.recovered;
        assert_eq!((recovered.stage, recovered.installed), (View(1), View(0)));
        assert!(recovered.view_change.is_some());
        recovered.ack.and_then(|ack| ack.acked_base())
    };
    assert_eq!(acked(&mut log), Some(base), "of the whole log");
    log.put(Kind::ViewChange, &view_change);
    log.put(Kind::CheckpointCertificate, &certificate.encode());
    log.stand(&standing(View(1), places[slots as usize], base));
    assert_eq!(acked(&mut log), Some(base), "repeated and not yet let go");
    log.release(Position(SMALL.segment_bytes));
    log.decided(base);
    assert_eq!(acked(&mut log), Some(base), "of the released log");
}

/// I4: a group names a stage whose view change was owed when it was written, and older words stand in
/// front of it. The view change that was said afterwards is the one that counts.
#[test]
fn words_of_lower_views_do_not_outlive_a_group_of_a_higher_stage() {
    let (headers, places) = chain(3);
    let change = |view| ViewChange {
        view,
        replica: IDENTITY.node,
        installed: View(0),
        certificate: None,
        checkpoint: None,
        suffix: Vec::new(),
        tip_signature: Signature([0; 64]),
        quorum: None,
    };
    let signed = |view| signed_body(&GOOD, &change(view).encode());
    let mut log = Log::new();
    log.blocks(&headers);
    log.put(Kind::ViewChange, &signed(View(1)));
    let ack = PlaceRecord::new(View(1), places[1].slot, places[1].digest, GOOD);
    log.put(Kind::Ack, ack.as_bytes());
    log.stand(&standing(View(2), places[3], places[0]));
    let recovered = log.restart(None).unwrap().restarted.recovered;
    assert_eq!(recovered.stage, View(2));
    assert!(recovered.view_change.is_none() && recovered.ack.is_none());
    log.put(Kind::ViewChange, &signed(View(2)));
    let recovered = log.restart(None).unwrap().restarted.recovered;
    assert_eq!(recovered.view_change.unwrap().message.view, View(2));
}

/// Never: records are released after the group is durable.
#[test]
fn a_released_log_without_the_group_is_refused() {
    let slots = 2 * SMALL.segment_bytes / 4096;
    let (headers, _) = chain(slots);
    let (file, _) = snapshot(slots / INTERVAL * INTERVAL - INTERVAL);
    let mut log = Log::new();
    log.blocks(&headers[..slots as usize - 2]);
    log.release(Position(SMALL.segment_bytes));
    log.blocks(&headers[slots as usize - 2..]);
    assert!(matches!(
        log.restart(Some(&file)).err(),
        Some(RestartError::Unstated)
    ));
}

#[test]
fn digests_are_those_of_the_chain() {
    let (headers, places) = chain(3);
    assert_eq!(headers[2].parent, places[2].digest);
    assert_ne!(places[3].digest, Digest::ZERO);
}
