//! READs: at once, behind a fence, or not at all.

use replica::reads::{Reads, WAIT_NS_MAX, WAITING_MAX, WAITING_PER_CLIENT_MAX};
use wire::ids::{Epoch, Instant, NodeId, SessionId, Slot};
use wire::ops::{Operation, OperationsBuilder, Outcome};
use wire::read::{Freshness, ReadReplyView, encode_read};
use wire::reject::Reject;

use crate::world::{Said, Server, client, open, request, run, server};

const NOW: Instant = Instant(5);

fn reads() -> Reads {
    Reads::new(NodeId(0), 4, Epoch(0))
}

fn body(number: u64, freshness: Freshness, all_full: bool) -> Vec<u8> {
    let mut operation = OperationsBuilder::new();
    operation.push(&Operation::Get { key: b"k" });
    let mut body = Vec::new();
    let bytes = operation.bytes();
    encode_read(&mut body, number, Epoch(0), freshness, all_full, bytes);
    body
}

fn fenced(number: u64) -> Vec<u8> {
    body(number, Freshness::Fenced, true)
}

/// Slot 1 opens a session, slot 2 writes.
fn written(value: &[u8]) -> (Server, SessionId) {
    let mut server = server(1);
    let mut requests = Vec::new();
    open(&mut requests, client(0), Slot(0));
    run(&mut server, 1, &requests);
    let session = SessionId::opened_at(Slot(1), 0);
    put(&mut server, session, 1, value);
    (server, session)
}

fn put(server: &mut Server, session: SessionId, sequence: u64, value: &[u8]) {
    let mut requests = Vec::new();
    let put = Operation::Put { key: b"k", value };
    request(&mut requests, client(0), session, sequence, 0, &[put]);
    run(server, 2, &requests);
}

/// Number, slot and value of each answer.
fn answers(said: &Said) -> Vec<(u64, u64, Option<Vec<u8>>)> {
    let views = said.0.iter().map(|(_, body)| {
        let view = ReadReplyView::parse(body).unwrap();
        let value = view.result.map(|result| match Outcome::parse(result) {
            Ok(Outcome::Value(value)) => value.to_vec(),
            other => panic!("{other:?}"),
        });
        (view.number, view.executed.0, value)
    });
    views.collect()
}

#[test]
fn a_fenced_read_waits_until_its_fence_is_executed() {
    let (mut server, session) = written(b"old");
    let (mut reads, mut said) = (reads(), Said::default());
    let mut arrive = |reads: &mut Reads, server: &mut Server, body: &[u8], fence| {
        reads.arrive(NOW, &client(1), body, fence, server, &mut said)
    };
    let stale = body(1, Freshness::Stale, false);
    arrive(&mut reads, &mut server, &stale, None).unwrap();
    arrive(&mut reads, &mut server, &fenced(2), Some(Slot(2))).unwrap();
    arrive(&mut reads, &mut server, &fenced(3), Some(Slot(4))).unwrap();
    arrive(&mut reads, &mut server, &fenced(4), Some(Slot(3))).unwrap();
    // The same question again waits once, and whoever is silent says nothing.
    arrive(&mut reads, &mut server, &fenced(4), Some(Slot(3))).unwrap();
    arrive(&mut reads, &mut server, &fenced(5), None).unwrap();
    let old = Some(b"old".to_vec());
    assert_eq!(answers(&said), [(1, 2, old.clone()), (2, 2, old)]);
    assert_eq!(reads.waiting(), 2);

    let mut said = Said::default();
    put(&mut server, session, 2, b"new");
    reads.executed(&mut server, &mut said);
    reads.executed(&mut server, &mut said);
    assert_eq!(answers(&said), [(4, 3, Some(b"new".to_vec()))]);
    put(&mut server, session, 3, b"newer");
    put(&mut server, session, 4, b"newest");
    let mut said = Said::default();
    reads.executed(&mut server, &mut said);
    assert_eq!(answers(&said), [(3, 5, Some(b"newest".to_vec()))]);
    let counts = reads.counts();
    assert_eq!((counts.stale, counts.fenced, counts.waited), (1, 3, 2));
    assert_eq!((counts.unanswered, counts.dropped), (1, 0));
}

#[test]
fn another_epoch_and_writes_are_refused() {
    let (mut server, _) = written(b"old");
    let (mut reads, mut said) = (reads(), Said::default());
    let mut other = Vec::new();
    let mut operation = OperationsBuilder::new();
    operation.push(&Operation::Get { key: b"k" });
    let bytes = operation.bytes();
    encode_read(&mut other, 1, Epoch(1), Freshness::Fenced, true, bytes);
    let mut arrive =
        |body: &[u8]| reads.arrive(NOW, &client(1), body, Some(Slot(0)), &mut server, &mut said);
    assert_eq!(arrive(&other), Err(Reject::WrongEpoch));
    operation.push(&Operation::Delete { key: b"k" });
    let mut two = Vec::new();
    let bytes = operation.bytes();
    encode_read(&mut two, 1, Epoch(0), Freshness::Fenced, true, bytes);
    assert_eq!(arrive(&two), Err(Reject::TrailingBytes));
    for length in 0..fenced(1).len() {
        assert!(arrive(&fenced(1)[..length]).is_err());
    }
    assert!(said.0.is_empty());
}

#[test]
fn long_results_are_whole_from_one_replica_or_when_asked_for() {
    let (mut server, _) = written(&[7; 300]);
    let mut whole = Vec::new();
    for number in 0..4 {
        let mut said = Said::default();
        let short = body(number, Freshness::Fenced, false);
        let mut reads = reads();
        let fence = Some(Slot(1));
        let arrived = reads.arrive(NOW, &client(1), &short, fence, &mut server, &mut said);
        arrived.unwrap();
        whole.push(answers(&said)[0].2.is_some());
        let mut all = Said::default();
        let arrived = reads.arrive(
            NOW,
            &client(1),
            &fenced(number),
            fence,
            &mut server,
            &mut all,
        );
        arrived.unwrap();
        assert_eq!(answers(&all)[0].2.as_deref(), Some(&[7; 300][..]));
        let digest = |said: &Said| ReadReplyView::parse(&said.0[0].1).unwrap().digest;
        assert_eq!(digest(&said), digest(&all));
    }
    assert_eq!(whole.iter().filter(|whole| **whole).count(), 1);
}

#[test]
fn waiting_reads_are_bounded_and_old_ones_make_room() {
    let (mut server, _) = written(b"old");
    let (mut reads, mut said) = (reads(), Said::default());
    let mut arrive = |reads: &mut Reads, now, of: u8, number| {
        let fence = Some(Slot(100));
        reads.arrive(
            now,
            &client(of),
            &fenced(number),
            fence,
            &mut server,
            &mut said,
        )
    };
    let each = WAITING_PER_CLIENT_MAX as u64;
    let clients = (WAITING_MAX / WAITING_PER_CLIENT_MAX) as u8;
    for of in 0..clients {
        for number in 0..each {
            arrive(&mut reads, NOW, of, number).unwrap();
        }
        assert_eq!(arrive(&mut reads, NOW, of, each), Err(Reject::QueueFull));
    }
    assert_eq!(arrive(&mut reads, NOW, 99, 0), Err(Reject::QueueFull));
    assert_eq!(reads.waiting(), WAITING_MAX);
    assert_eq!(reads.counts().dropped, u64::from(clients) + 1);
    let later = NOW.after_ns(WAIT_NS_MAX);
    arrive(&mut reads, later, 99, 0).unwrap();
    assert_eq!(reads.waiting(), 1);
    let dropped = u64::from(clients) + 1 + WAITING_MAX as u64;
    assert_eq!(reads.counts().dropped, dropped);
    for of in 0..clients {
        for number in 0..each - u64::from(of == 0) {
            arrive(&mut reads, later, of, number).unwrap();
        }
    }
    assert_eq!(reads.waiting(), WAITING_MAX);
    assert!(said.0.is_empty());
}
