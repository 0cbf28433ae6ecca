//! Executions, and blocks for them.

use replica::execution::{Execution, Replies};
use storage::{Kv, MemTable};
use wire::block::{BlockHeader, BlockPrefix, payload_digest};
use wire::bytes::HeapShared;
use wire::ids::{Digest, Epoch, NodeId, PublicKey, Sequence, SessionId, Signature, Slot, View};
use wire::ops::{Operation, OperationsBuilder};
use wire::request::{RequestFields, encode_open, encode_request};
use zerocopy::IntoBytes;

pub type Server = Execution<Kv<MemTable>>;

/// Slots between checkpoints here.
pub const INTERVAL: u64 = 4;

pub fn server(seed: u64) -> Server {
    let machine = Kv::new(MemTable::new([seed, 3]));
    Execution::new(NodeId(0), 4, machine, 1400).with_checkpoint_interval(INTERVAL)
}

/// Replies as they were handed out.
#[derive(Default)]
pub struct Said(pub Vec<(PublicKey, Vec<u8>)>);

impl Replies for Said {
    fn reply(&mut self, client: &PublicKey, _: Slot, body: &[u8]) {
        self.0.push((*client, body.to_vec()));
    }

    fn read_reply(&mut self, client: &PublicKey, _: Slot, body: [&[u8]; 2]) {
        self.0.push((*client, body.concat()));
    }
}

pub fn client(number: u8) -> PublicKey {
    PublicKey([number + 1; 32])
}

/// A block of these requests at the slot after the last.
pub fn block(slot: Slot, time_ns: u64, requests: &[u8]) -> HeapShared {
    let header = BlockHeader::new(
        Epoch(0),
        View(0),
        slot,
        time_ns,
        Digest([1; 32]),
        payload_digest(requests),
    );
    let prefix = BlockPrefix::new(header, Signature([0; 64]), requests.len());
    HeapShared::copy_from(&[prefix.as_bytes(), requests].concat())
}

/// Executes a block at the next slot.
pub fn run(server: &mut Server, time_ns: u64, requests: &[u8]) -> Said {
    let slot = server.executed().next();
    let mut said = Said::default();
    server.execute(slot, &block(slot, time_ns, requests), &mut said);
    said
}

pub fn open(out: &mut Vec<u8>, client: PublicKey, reference: Slot) {
    encode_open(out, client, reference);
}

pub fn request(
    out: &mut Vec<u8>,
    client: PublicKey,
    session: SessionId,
    first: u64,
    acked: u64,
    operations: &[Operation<'_>],
) {
    let mut builder = OperationsBuilder::new();
    for operation in operations {
        builder.push(operation);
    }
    let (bytes, count) = builder.finish();
    let fields = RequestFields {
        session,
        first_sequence: Sequence(first),
        acked_low: Sequence(acked),
        flags: 0,
        count: count as u16,
    };
    encode_request(out, client, fields, &bytes);
}

/// A server with one client that put `keys` keys of `value_bytes` each, at a checkpoint that is
/// hashed; and the next free sequence of client 0.
pub fn filled(seed: u64, keys: u32, value_bytes: usize) -> (Server, u64) {
    let mut server = server(seed);
    let mut opening = Vec::new();
    open(&mut opening, client(0), Slot(0));
    run(&mut server, 1, &opening);
    let mut next = 1;
    // As many as a block holds.
    let each = (200_000 / (value_bytes as u32 + 100)).clamp(1, 100);
    for first in (0..keys).step_by(each as usize) {
        next = put(
            &mut server,
            next,
            first..keys.min(first + each),
            value_bytes,
            1,
        );
    }
    (server, next)
}

/// Client 0 puts these keys, in one block. Returns its next sequence.
pub fn put(
    server: &mut Server,
    next: u64,
    keys: std::ops::Range<u32>,
    value_bytes: usize,
    byte: u8,
) -> u64 {
    let session = SessionId::opened_at(Slot(1), 0);
    let keys: Vec<_> = keys.map(u32::to_be_bytes).collect();
    let value = vec![byte; value_bytes];
    let mut requests = Vec::new();
    let mut next = next;
    // Some values are so large that a request holds one.
    for keys in keys.chunks((100_000 / (value_bytes + 100)).clamp(1, 100)) {
        let operations: Vec<_> = keys
            .iter()
            .map(|key| Operation::Put { key, value: &value })
            .collect();
        // One result stays unacknowledged, so that sessions hold something.
        let acked = next.saturating_sub(2);
        request(&mut requests, client(0), session, next, acked, &operations);
        next += operations.len() as u64;
    }
    run(server, 1, &requests);
    next
}

/// Executes empty blocks up to the next checkpoint and hashes it.
pub fn to_checkpoint(server: &mut Server) -> (Slot, Digest) {
    loop {
        run(server, 1, &[]);
        if server.executed().0.is_multiple_of(INTERVAL) {
            break;
        }
    }
    while server.work(4096) {}
    let mut last = None;
    while let Some(root) = server.take_root() {
        last = Some(root);
    }
    let (slot, root) = last.expect("a checkpoint was hashed");
    assert_eq!(slot, server.executed());
    (slot, root)
}
