use super::*;
use wire::reply::result_digest;

const GET: Operation<'static> = Operation::Get { key: b"k" };

fn reads(all_full: bool) -> Reads {
    Reads::new(4, (3, 2), Epoch(0), 7, all_full)
}

fn asked(all_full: bool) -> Reads {
    let mut reads = reads(all_full);
    let body = reads.add(
        Instant(0),
        None,
        &GET,
        9,
        Instant(100),
        Instant(1_000_000_000),
    );
    let view = ReadView::parse(body.unwrap()).unwrap();
    assert_eq!((view.number, view.freshness), (7, Freshness::Fenced));
    reads
}

fn full(number: u64, slot: u64, result: &[u8]) -> ReadReplyView<'_> {
    ReadReplyView {
        number,
        epoch: Epoch(0),
        executed: Slot(slot),
        digest: result_digest(result),
        result: Some(result),
    }
}

fn short(reply: ReadReplyView<'_>) -> ReadReplyView<'static> {
    ReadReplyView {
        result: None,
        number: reply.number,
        epoch: reply.epoch,
        executed: reply.executed,
        digest: reply.digest,
    }
}

/// The result, slot and replies, if the answer ended the read.
fn answer(reads: &mut Reads, node: u16, reply: &ReadReplyView<'_>) -> Option<(Vec<u8>, u64, u32)> {
    let mut seen = None;
    reads.answered(Instant(1), NodeId(node), reply, |ended| {
        assert_eq!((ended.tag, ended.way), (9, Way::Fenced));
        seen = Some((ended.result.to_vec(), ended.slot.0, ended.replies));
    });
    seen
}

#[test]
fn r_equal_answers_of_distinct_replicas_are_accepted() {
    let mut reads = asked(true);
    assert_eq!(answer(&mut reads, 0, &full(7, 5, b"new")), None);
    // The same replica again counts once.
    assert_eq!(answer(&mut reads, 0, &full(7, 6, b"new")), None);
    assert_eq!(answer(&mut reads, 0, &full(7, 6, b"new")), None);
    // Another number, another epoch, nobody.
    assert_eq!(answer(&mut reads, 1, &full(8, 5, b"new")), None);
    let other_epoch = ReadReplyView {
        epoch: Epoch(1),
        ..full(7, 5, b"new")
    };
    assert_eq!(answer(&mut reads, 1, &other_epoch), None);
    assert_eq!(answer(&mut reads, 4, &full(7, 5, b"new")), None);
    // Two are not enough; the slots may differ, and a liar's is not believed.
    assert_eq!(answer(&mut reads, 1, &full(7, 9, b"new")), None);
    let accepted = answer(&mut reads, 3, &full(7, u64::MAX, b"new"));
    assert_eq!(accepted, Some((b"new".to_vec(), 9, 3)));
    assert_eq!(reads.len(), 0);
    assert_eq!(answer(&mut reads, 2, &full(7, 9, b"new")), None);
}

#[test]
fn unequal_answers_are_ordered_once_no_r_can_agree() {
    let mut reads = asked(true);
    answer(&mut reads, 0, &full(7, 5, b"old"));
    answer(&mut reads, 1, &full(7, 6, b"new"));
    assert!(reads.take_hopeless().is_none());
    answer(&mut reads, 2, &full(7, 6, b"new"));
    assert!(reads.take_hopeless().is_none());
    // A newer answer of the first makes three.
    let mut late = asked(true);
    answer(&mut late, 0, &full(7, 5, b"old"));
    answer(&mut late, 1, &full(7, 6, b"new"));
    answer(&mut late, 2, &full(7, 6, b"new"));
    assert!(answer(&mut late, 0, &full(7, 6, b"new")).is_some());
    // The last one says something else again.
    answer(&mut reads, 3, &full(7, 4, b"lie"));
    assert_eq!(reads.wake(), Instant(1));
    let read = reads.take_hopeless().unwrap();
    assert_eq!((read.tag, read.operation()), (9, Some(GET)));
    reads.now_ordered(40);
    assert_eq!(reads.way_of(39), Way::Ordered);
    assert_eq!(reads.way_of(40), Way::FencedThenOrdered);
    assert_eq!(reads.way_of(40), Way::Ordered);
}

#[test]
fn bytes_that_nobody_sent_are_asked_of_everyone() {
    let mut reads = asked(false);
    let value = [3; 200];
    for node in 0..2 {
        assert_eq!(answer(&mut reads, node, &short(full(7, 5, &value))), None);
    }
    // The designated replica lies about the bytes: they have another digest.
    assert_eq!(answer(&mut reads, 3, &full(7, 5, b"lie")), None);
    assert_eq!(answer(&mut reads, 2, &short(full(7, 5, &value))), None);
    let mut sent = Vec::new();
    let mut pacer = Pacer::new(100, 1000, 1);
    reads.tick(Instant(1), &mut pacer, |due| match due {
        Due::Again(node, body) => sent.push((node, ReadView::parse(body).unwrap().all_full)),
        Due::GivenUp { .. } => panic!("its time is not up"),
    });
    let everyone = (0..4).map(|node| (NodeId(node), true)).collect::<Vec<_>>();
    assert_eq!(sent, everyone);
    let accepted = answer(&mut reads, 1, &full(7, 6, &value)).unwrap();
    assert_eq!((&accepted.0[..], accepted.2), (&value[..], 3));
}

#[test]
fn silence_is_asked_again_and_then_ordered() {
    let mut reads = asked(true);
    answer(&mut reads, 1, &full(7, 5, b"new"));
    let mut pacer = Pacer::new(100, 1000, 1);
    let mut now = 100;
    for _ in 1..FENCED_ATTEMPTS_MAX {
        let mut again = Vec::new();
        reads.tick(Instant(now), &mut pacer, |due| match due {
            Due::Again(node, _) => again.push(node.0),
            Due::GivenUp { .. } => panic!("its time is not up"),
        });
        assert_eq!(again, [0, 2, 3], "only those that said nothing");
        assert!(reads.take_hopeless().is_none());
        now += 10_000;
    }
    reads.tick(Instant(now), &mut pacer, |_| panic!("it is not sent again"));
    let read = reads.take_hopeless().unwrap();
    reads.put_back(read, Instant(now + 1));
    let mut given_up = 0;
    reads.tick(Instant(1_000_000_000), &mut pacer, |due| {
        given_up += u32::from(matches!(due, Due::GivenUp { tag: 9, .. }));
    });
    assert_eq!((given_up, reads.len()), (1, 0));
}
