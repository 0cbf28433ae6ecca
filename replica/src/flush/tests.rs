//! A copy of a small state, found again whole, and with each of its notes hurt.

use storage::machine::Kv;
use storage::state::Hold;
use storage::table::{Flush, LsmTable, MapStore, Run, Store, Table};
use wire::block::{BlockHeader, BlockPrefix, payload_digest};
use wire::bytes::HeapShared;
use wire::certificates::Signatures;
use wire::ids::{Epoch, NodeId, PublicKey, Sequence, SessionId, Signature, View};
use wire::ops::{Operation, OperationsBuilder};
use wire::reject::Reject;
use wire::request::{RequestFields, RequestView, encode_open, encode_request};
use wire::seal::{Rules, Statement};
use zerocopy::IntoBytes;

use super::*;
use crate::execution::Replies;

const ME: NodeId = NodeId(1);
const GOOD: Signature = Signature([1; 64]);
const CLIENT: PublicKey = PublicKey([7; 32]);
const RULES: Rules = Rules {
    n: 4,
    slow: 3,
    view_change: 3,
    window: 128,
    epoch: Epoch(0),
    genesis: Digest::ZERO,
};
/// First byte of the place of a note.
const NOTE: u8 = 3;

struct Judge;

impl Verifier for Judge {
    fn member(&self, _: NodeId, _: &Statement, found: &Signature) -> Result<(), Reject> {
        (*found == GOOD).then_some(()).ok_or(Reject::BadSignature)
    }

    fn request(&self, _: &RequestView<'_>) -> Result<(), Reject> {
        Ok(())
    }
}

struct Nowhere;

impl Replies for Nowhere {
    fn reply(&mut self, _: &PublicKey, _: Slot, _: &[u8]) {}

    fn read_reply(&mut self, _: &PublicKey, _: Slot, _: [&[u8]; 2]) {}
}

type Disked = Execution<Kv<LsmTable<MapStore>>>;

fn over(store: &MapStore) -> Disked {
    let table = LsmTable::reopen([1, 2], store.copy(), 1 << 20);
    Execution::new(ME, 4, Kv::new(table), 1400).with_checkpoint_interval(2)
}

fn header(slot: Slot, payload: &[u8]) -> BlockHeader {
    let parent = Digest([slot.0 as u8; 32]);
    BlockHeader::new(Epoch(0), View(0), slot, 5, parent, payload_digest(payload))
}

fn execute(execution: &mut Disked, slot: u64, payload: &[u8]) {
    let slot = Slot(slot);
    let prefix = BlockPrefix::new(header(slot, payload), GOOD, payload.len());
    let message = HeapShared::copy_from(&[prefix.as_bytes(), payload].concat());
    execution.execute(slot, &message, &mut Nowhere);
}

/// Keys k0 to k9 get this value in the first session.
fn putting(sequence: u64, value: &[u8]) -> Vec<u8> {
    let mut operations = OperationsBuilder::new();
    for number in 0..10 {
        let key = format!("k{number}");
        let key = key.as_bytes();
        operations.push(&Operation::Put { key, value });
    }
    let fields = RequestFields {
        session: SessionId::opened_at(Slot(1), 0),
        first_sequence: Sequence(sequence),
        acked_low: Sequence(0),
        flags: 0,
        count: 10,
    };
    let mut request = Vec::new();
    encode_request(&mut request, CLIENT, fields, operations.bytes());
    request
}

fn checkpoint(execution: &mut Disked) -> Digest {
    while execution.work(usize::MAX) {}
    execution.take_root().expect("an interval has passed").1
}

fn certificate(slot: u64, root: Digest, payload: &[u8]) -> CheckpointCertificate {
    let mut certificate = CheckpointCertificate {
        header: header(Slot(slot), payload),
        root,
        signatures: Signatures::new(),
    };
    for node in 0..3 {
        certificate.signatures.add(NodeId(node), GOOD);
    }
    certificate
}

/// Brings `store` up to the checkpoint that is open.
fn flush(execution: &mut Disked, certificate: &CheckpointCertificate, store: &MapStore) {
    assert!(execution.pin(Hold::Open).ready);
    let mut writer = FlushWriter::new(certificate);
    let mut flush = Flush::new(store.run());
    let mut piece = Vec::new();
    while writer.next(execution, &mut piece).unwrap() {
        flush.add(&piece).unwrap();
        piece.clear();
    }
    flush.finish().unwrap();
    execution.flush_end();
}

/// A store of the state after slot 2, who executed it, and its root.
fn written() -> (MapStore, Disked, Digest) {
    let store = MapStore::default();
    let mut execution = over(&store);
    let mut opening = Vec::new();
    encode_open(&mut opening, CLIENT, Slot(0));
    let payload = putting(1, b"one");
    execute(&mut execution, 1, &opening);
    execute(&mut execution, 2, &payload);
    let root = checkpoint(&mut execution);
    flush(&mut execution, &certificate(2, root, &payload), &store);
    (store, execution, root)
}

fn reopened(store: &MapStore) -> Result<Option<(Disked, CheckpointCertificate)>, SavedUnusable> {
    let mut execution = over(store);
    let found = reopen(&mut execution, &mut Compound::new(Judge, RULES))?;
    Ok(found.map(|certificate| (execution, certificate)))
}

fn place(name: &[u8]) -> Vec<u8> {
    [&[NOTE], name].concat()
}

fn note(store: &MapStore, name: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    assert!(store.get(&place(name), &mut note), "{name:?}");
    note
}

/// What a start says of the store with another note under this name, or none.
fn with(store: &MapStore, name: &[u8], note: Option<&[u8]>) -> Result<bool, SavedUnusable> {
    let hurt = store.copy();
    let mut run = hurt.run();
    match note {
        Some(note) => run.put(&place(name), note).unwrap(),
        None => run.delete(&place(name)).unwrap(),
    }
    run.finish().unwrap();
    reopened(&hurt).map(|found| found.is_some())
}

#[test]
fn a_blank_copy_has_no_state() {
    assert!(reopened(&MapStore::default()).unwrap().is_none());
}

#[test]
fn the_state_goes_on_from_its_copy() {
    let (store, mut before, root) = written();
    let (mut after, found) = reopened(&store).unwrap().unwrap();
    assert_eq!((found.place().slot, found.root), (Slot(2), root));
    assert_eq!(after.executed(), Slot(2));
    assert_eq!(after.machine().table().len(), 10);
    // The session is open there, too, and a write over what is on disk gives the same state.
    for execution in [&mut before, &mut after] {
        execute(execution, 3, &putting(11, b"two"));
        execute(execution, 4, &[]);
    }
    let root = checkpoint(&mut before);
    assert_eq!(checkpoint(&mut after), root);
    // Of a second flush, what did not change is from the first one.
    flush(&mut after, &certificate(4, root, &[]), &store);
    let (mut again, found) = reopened(&store).unwrap().unwrap();
    assert_eq!((found.place().slot, found.root), (Slot(4), root));
    for execution in [&mut before, &mut again] {
        execute(execution, 5, &putting(1, b"done before"));
        execute(execution, 6, &putting(21, b"three"));
    }
    assert_eq!(checkpoint(&mut again), checkpoint(&mut before));
}

#[test]
fn a_copy_that_lacks_a_note_gives_no_state() {
    let (store, ..) = written();
    let nodes: Vec<_> = (0..NODES as u16)
        .map(|number| numbered(NODE, number))
        .collect();
    let names = [CERTIFICATE, SUMMARY, COUNTS].into_iter();
    for name in names.chain(nodes.iter().map(|name| &name[..])) {
        assert!(with(&store, name, None).is_err(), "{name:?}");
    }
}

#[test]
fn a_copy_with_a_flipped_bit_in_the_tree_gives_no_state() {
    let (store, ..) = written();
    for name in [SUMMARY, &numbered(NODE, 0), &numbered(NODE, 63)] {
        let whole = note(&store, name);
        for at in 0..whole.len() {
            let mut hurt = whole.clone();
            hurt[at] ^= 1;
            assert!(with(&store, name, Some(&hurt)).is_err(), "{name:?} {at}");
        }
        let cut = &whole[..whole.len() - 1];
        assert!(with(&store, name, Some(cut)).is_err(), "{name:?} cut");
    }
    let whole = note(&store, COUNTS);
    assert!(with(&store, COUNTS, Some(&whole[1..])).is_err());
}

#[test]
fn a_certificate_must_hold_and_be_of_this_state() {
    let (store, _, root) = written();
    let state = |certificate: &CheckpointCertificate| {
        with(&store, CERTIFICATE, Some(&certificate.encode())).unwrap_err()
    };
    let mut forged = certificate(2, root, &[]);
    forged.signatures.add(NodeId(3), Signature([9; 64]));
    let why = state(&forged);
    assert!(matches!(why, SavedUnusable::Uncertified(_)), "{why:?}");
    for other in [
        certificate(4, root, &[]),
        certificate(2, Digest([9; 32]), &[]),
    ] {
        let why = state(&other);
        assert!(matches!(why, SavedUnusable::OtherState), "{why:?}");
    }
}

#[test]
fn malformed_sessions_give_no_state() {
    let (store, ..) = written();
    let holding = Bucket::all().find(|bucket| {
        let name = numbered(SESSIONS, bucket.number());
        store.get(&place(&name), &mut Vec::new())
    });
    let name = numbered(SESSIONS, holding.unwrap().number());
    let whole = note(&store, &name);
    let cut = with(&store, &name, Some(&whole[1..]));
    assert!(
        matches!(cut, Err(SavedUnusable::NotInstalled(_))),
        "{cut:?}"
    );
}
