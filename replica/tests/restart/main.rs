//! What a restart makes of a log whose last blocks were appended before their signatures were
//! checked (R2), of a log that was let go behind a snapshot (K2), of any torn or rotten one (R5), and
//! what a replica says to a client whose session is gone.

mod jumps;
mod leases;
mod released;
mod serving;
mod torn;
mod world;

use replica::execution::Execution;
use replica::recovery::Restarted;
use storage::machine::Noop;
use storage::record::Kind;
use storage::{Writer, recover};
use wire::block::{BlockHeader, BlockPrefix, payload_digest};
use wire::bytes::{Buffers, HeapBuffers};
use wire::ids::{Epoch, NodeId, PublicKey, Sequence, SessionId, Signature, Slot, View};
use wire::limits::RECORD_HEADER_BYTES;
use wire::reply::{Answer, ReplyView};
use zerocopy::IntoBytes;

use world::{BAD, Disk, GENESIS, GEOMETRY, GOOD, IDENTITY, Said, buffers, start_on};

const EMPTY: (Signature, &[u8]) = (GOOD, &[]);
const UNSIGNED: (Signature, &[u8]) = (BAD, &[]);
const MALFORMED: (Signature, &[u8]) = (GOOD, b"no request");

/// A restart on a chain of blocks with these signatures of the leader and payloads, none known to be
/// decided.
fn restarted(blocks: &[(Signature, &[u8])]) -> Restarted<HeapBuffers> {
    restarted_on(blocks).0
}

/// The same, and its disk.
fn restarted_on(blocks: &[(Signature, &[u8])]) -> (Restarted<HeapBuffers>, Disk) {
    let mut disk = Disk(vec![vec![0; GEOMETRY.segment_bytes as usize]; 2]);
    let blank = recover(&mut disk, &GEOMETRY, &IDENTITY, &mut |_| {}).unwrap();
    let mut writer = Writer::new(GEOMETRY, IDENTITY, blank.tail);
    let mut parent = GENESIS;
    for (at, (signature, payload)) in blocks.iter().enumerate() {
        let slot = Slot(at as u64 + 1);
        let digest = payload_digest(payload);
        let header = BlockHeader::new(Epoch(0), View(0), slot, 0, parent, digest);
        parent = header.digest();
        let prefix = BlockPrefix::new(header, *signature, payload.len());
        let body = [prefix.as_bytes(), payload].concat();
        let mut buffer = buffers().take().unwrap();
        buffer[RECORD_HEADER_BYTES..][..body.len()].copy_from_slice(&body);
        let sealed = writer.seal(Kind::Block, buffer, body.len()).unwrap();
        let offset = sealed.offset_in_segment as usize;
        disk.0[sealed.segment as usize][offset..][..sealed.shared.len()]
            .copy_from_slice(&sealed.shared);
    }
    let restarted = start_on(&mut disk, &GEOMETRY);
    (restarted.unwrap(), disk)
}

#[test]
fn blocks_that_hold_are_taken_up_again() {
    let restarted = restarted(&[EMPTY, EMPTY, EMPTY]);
    assert_eq!(restarted.recovered.blocks.len(), 3);
    assert!(!restarted.recovered.voting_stopped);
    assert_eq!(restarted.undecided.len(), 3);
}

/// As when the check fails in a running replica: the branch is left, and no vote follows in this
/// view, since the log may stand for a vote on it.
#[test]
fn a_block_with_an_invalid_payload_ends_the_chain_and_voting() {
    let restarted = restarted(&[EMPTY, MALFORMED, EMPTY]);
    let slots: Vec<_> = restarted
        .recovered
        .blocks
        .iter()
        .map(|block| block.header.slot())
        .collect();
    assert_eq!(slots, [Slot(1), Slot(3)]);
    assert!(restarted.recovered.voting_stopped);
    assert_eq!(restarted.recovered.tip.slot, Slot(1));
    assert_eq!(restarted.undecided.len(), 2);
}

/// The digest does not bind the leader's signature: the block may have been decided, and voted for
/// by a vote for the next one, before its signature was looked at. So it stays, and no view change
/// will show it by that signature.
#[test]
fn a_block_whose_copy_the_leader_did_not_sign_stays() {
    let restarted = restarted(&[EMPTY, UNSIGNED, EMPTY]);
    let blocks = restarted.recovered.blocks.iter();
    let signed = blocks.map(|block| block.signature_good).collect::<Vec<_>>();
    assert_eq!(signed, [true, false, true]);
    assert!(!restarted.recovered.voting_stopped);
    assert_eq!(restarted.recovered.tip.slot, Slot(3));
    assert_eq!(restarted.undecided.len(), 3);
}

/// A session that was opened in a slot executed here and is not held has been evicted; of one
/// opened later this replica knows nothing yet.
#[test]
fn a_session_that_is_gone_is_said_to_be_and_a_later_one_is_not() {
    let mut execution = Execution::new(NodeId(1), 4, Noop, 1400);
    let client = PublicKey([5; 32]);
    let mut said = Said::default();
    let later = SessionId::opened_at(Slot(1), 7);
    execution.resend(&client, later, Sequence(1), 2, &mut said);
    assert!(said.0.is_empty());
    let gone = SessionId::opened_at(Slot(0), 7);
    execution.resend(&client, gone, Sequence(1), 2, &mut said);
    let [body] = &said.0[..] else {
        panic!("one reply");
    };
    let reply = ReplyView::parse(body).unwrap();
    assert_eq!(reply.session, gone);
    assert!(
        reply
            .runs()
            .all(|run| run.answer == Answer::Expired && run.count == 2)
    );
    assert_eq!(reply.runs().count(), 1);
}
