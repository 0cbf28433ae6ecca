//! A committee whose members sign, and a small state, for the tests of this room.

use std::sync::Arc;

use replica::execution::{Execution, Replies};
use replica::verifying::Verifying;
use storage::state::Hold;
use wire::block::{BlockHeader, BlockPrefix, payload_digest};
use wire::bytes::HeapShared;
use wire::certificates::{CheckpointCertificate, Signatures};
use wire::committee::{Committee, CommitteeParts, Member, Preset};
use wire::ids::{
    ClusterId, Digest, Epoch, NodeId, PublicKey, Sequence, SessionId, Signature, Slot, View,
};
use wire::keys::NodeSecret;
use wire::limits::WINDOW;
use wire::ops::{Operation, OperationsBuilder};
use wire::request::{RequestFields, encode_open, encode_request};
use wire::seal::{Ed25519Signer, Ed25519Verifier, Rules, Signer, Statement};
use zerocopy::IntoBytes;

use crate::machine::Machine;

pub const CLUSTER: ClusterId = ClusterId([1; 16]);
pub const ME: NodeId = NodeId(2);

fn secret(node: u16) -> NodeSecret {
    NodeSecret::generate(&[node as u8 + 1; 32]).unwrap()
}

fn committee() -> Committee {
    let members = (0..4).map(|node| Member {
        id: NodeId(node),
        public_key: secret(node).public_key(),
        address: ([127, 0, 0, 1], 7000 + node).into(),
    });
    let parts = CommitteeParts::with_preset(CLUSTER, members.collect(), Preset::Balanced);
    Committee::new(parts.unwrap()).unwrap()
}

/// The same, for whoever shares it.
pub fn shared_committee() -> Arc<Committee> {
    Arc::new(committee())
}

pub fn verifying() -> Verifying<Ed25519Verifier> {
    let committee = committee();
    let rules = Rules {
        n: 4,
        slow: 3,
        view_change: 3,
        window: WINDOW,
        epoch: Epoch(0),
        genesis: committee.genesis(),
    };
    Verifying::new(Ed25519Verifier::new(&committee), rules)
}

pub fn sign(node: u16, statement: &Statement) -> Signature {
    let signer = Ed25519Signer::new(&committee(), &secret(node)).unwrap();
    signer.sign(statement)
}

struct Nowhere;

impl Replies for Nowhere {
    fn reply(&mut self, _: &PublicKey, _: Slot, _: &[u8]) {}

    fn read_reply(&mut self, _: &PublicKey, _: Slot, _: [&[u8]; 2]) {}
}

fn header(slot: Slot, payload: &[u8]) -> BlockHeader {
    let parent = Digest([slot.0 as u8; 32]);
    BlockHeader::new(Epoch(0), View(0), slot, 5, parent, payload_digest(payload))
}

/// A state after slot 2 with one session and the keys k0 to k9, pinned, and its certificate.
pub fn small(machine: Machine) -> (Execution<Machine>, CheckpointCertificate) {
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
    (execution, certificate)
}
