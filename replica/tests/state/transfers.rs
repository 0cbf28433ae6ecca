//! Transfers between executions, over peers that do as they like.

use std::sync::Arc;

use proptest::prelude::*;
use replica::execution::TRANSFER_HOLD_NS;
use replica::takeover::Takeover;
use replica::transfer::{Options, Refused, Transfer};
use storage::state::{Hold, InstallFailed};
use wire::block::BlockHeader;
use wire::certificates::{CheckpointCertificate, Signatures};
use wire::ids::{Digest, Epoch, Instant, NodeId, SessionId, Slot, View};
use wire::ops::{Operation, OperationsBuilder, operations};
use wire::reply::ReplyView;
use wire::state::{Bucket, Chunk, Part};

use crate::model::Model;
use crate::roots::{Clients, Item, item};
use crate::world::{
    INTERVAL, Said, Server, client, filled, open, put, request, run, server, to_checkpoint,
};

/// How a peer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Honest,
    Silent,
    /// Flips a bit of every answer.
    Flips,
    /// Right lengths, wrong content, and only in buckets.
    FlipsBuckets,
    /// One byte less.
    Shortens,
    /// Claims to serve something else.
    Elsewhere,
    /// Answers every question twice, and with the slot of another checkpoint first.
    Repeats,
}

struct Peer<'a> {
    server: &'a mut Server,
    manner: Manner,
}

impl Peer<'_> {
    fn answers(&mut self, now: Instant, slot: Slot, part: Part) -> Vec<Vec<u8>> {
        let mut body = Vec::new();
        if !self.server.fetch_state(now, slot, part, &mut body) {
            return Vec::new();
        }
        let last = body.len() - 1;
        match self.manner {
            Manner::Honest => vec![body],
            Manner::Silent => vec![],
            Manner::Flips => {
                body[last] ^= 1;
                vec![body]
            }
            Manner::FlipsBuckets => {
                if matches!(part, Part::Piece { .. }) {
                    body[last] ^= 1;
                }
                vec![body]
            }
            Manner::Shortens => {
                if matches!(part, Part::Piece { .. }) {
                    body.pop();
                }
                vec![body]
            }
            Manner::Elsewhere => {
                body.clear();
                Chunk::Elsewhere { slot: Slot(999) }.encode(&mut body);
                vec![body]
            }
            Manner::Repeats => {
                let mut foreign = body.clone();
                foreign[0] ^= 1;
                vec![foreign, body.clone(), body]
            }
        }
    }
}

const OPTIONS: Options = Options {
    per_peer: 3,
    window: 7,
    timeout_ns: 1_000,
};

/// Runs until the transfer is complete or stuck, or `questions` were asked; counts questions by
/// peer.
fn drive(transfer: &mut Transfer, peers: &mut [Peer<'_>], questions: usize) -> Vec<usize> {
    let mut now = Instant(1);
    let mut asked = vec![0; peers.len()];
    while !transfer.is_complete() && !transfer.is_stuck() {
        let mut questioned = Vec::new();
        transfer.poll(now, &mut |to, slot, part| questioned.push((to, slot, part)));
        assert!(questioned.len() <= OPTIONS.window);
        let nobody = questioned.is_empty();
        for (to, slot, part) in questioned {
            asked[to.index()] += 1;
            for body in peers[to.index()].answers(now, slot, part) {
                let Ok(chunk) = Chunk::decode(&body) else {
                    continue;
                };
                let _ = transfer.handle(now, to, &chunk);
            }
        }
        if asked.iter().sum::<usize>() >= questions {
            break;
        }
        if nobody && !transfer.is_complete() && !transfer.is_stuck() {
            let next = transfer.wake_at().expect("something is under way");
            assert!(next > now, "time goes on");
            now = next;
        }
    }
    asked
}

const IDS: [NodeId; 4] = [NodeId(0), NodeId(1), NodeId(2), NodeId(3)];

/// Fetches and installs `root` from these peers.
fn bring(
    target: &mut Server,
    (slot, root): (Slot, Digest),
    mut peers: Vec<Peer<'_>>,
) -> Vec<usize> {
    let ids = &IDS[..peers.len()];
    let mut transfer = Transfer::new(slot, root, target.leaves(), ids, OPTIONS);
    let asked = drive(&mut transfer, &mut peers, usize::MAX);
    assert!(transfer.is_complete());
    let progress = transfer.progress();
    assert_eq!(progress.buckets_verified, progress.buckets_differing);
    assert_eq!(progress.bytes_verified, progress.bytes_differing);
    let installation = transfer.finish();
    assert_eq!((installation.slot(), installation.root()), (slot, root));
    target.install(&installation).unwrap();
    assert_eq!(target.executed(), slot);
    assert_eq!(target.last_checkpoint(), Some((slot, root)));
    assert_eq!(target.take_root(), None);
    asked
}

/// Both execute the same blocks from here on and give the same replies and roots.
fn agree(one: &mut Server, other: &mut Server) {
    let session = SessionId::opened_at(Slot(1), 0);
    assert_eq!(one.executed(), other.executed());
    for round in 0..3 {
        let mut payload = Vec::new();
        open(&mut payload, client(round), Slot(0));
        let get = Operation::Get { key: &[0, 0, 0, 7] };
        // Repeated, new, and beyond what is remembered.
        for first in [1, 290, 5000 + u64::from(round)] {
            request(&mut payload, client(0), session, first, 0, &[get]);
        }
        let (said, heard) = (run(one, 5, &payload), run(other, 5, &payload));
        assert!(!said.0.is_empty());
        assert_eq!(said.0, heard.0);
    }
    let (_, root) = to_checkpoint(one);
    assert_eq!(to_checkpoint(other).1, root);
}

#[test]
fn an_empty_replica_gets_everything() {
    let (mut source, _) = filled(1, 300, 50);
    let at = to_checkpoint(&mut source);
    let mut target = server(2);
    let asked = bring(
        &mut target,
        at,
        vec![Peer {
            server: &mut source,
            manner: Manner::Honest,
        }],
    );
    assert!(asked[0] < 1 + 64 + 302, "empty buckets are not fetched");
    assert_eq!(
        target.machine().table().bytes_and_keys(),
        source.machine().table().bytes_and_keys()
    );
    agree(&mut source, &mut target);
}

trait Counted {
    fn bytes_and_keys(&self) -> (u64, u64);
}

impl Counted for storage::MemTable {
    fn bytes_and_keys(&self) -> (u64, u64) {
        use storage::Table;
        (self.bytes(), self.len())
    }
}

#[test]
fn an_older_replica_gets_what_changed() {
    let (mut source, next) = filled(1, 300, 50);
    let (mut target, _) = filled(2, 300, 50);
    to_checkpoint(&mut target);
    put(&mut source, next, 10..14, 60, 9);
    let at = to_checkpoint(&mut source);
    let asked = bring(
        &mut target,
        at,
        vec![Peer {
            server: &mut source,
            manner: Manner::Honest,
        }],
    );
    // The summary, and one node and one bucket for each key and for the session.
    assert!(asked[0] <= 1 + 5 + 5, "{asked:?}");
    agree(&mut source, &mut target);
}

#[test]
fn a_divergent_replica_is_corrected_even_if_it_is_ahead() {
    let (mut source, _) = filled(1, 300, 50);
    let at = to_checkpoint(&mut source);
    let (mut target, next) = filled(2, 200, 40);
    // Sessions and entries that should not exist; not even a checkpoint is hashed.
    let mut payload = Vec::new();
    for number in 1..20 {
        open(&mut payload, client(number), Slot(0));
    }
    run(&mut target, 1, &payload);
    put(&mut target, next, 1000..1100, 10, 3);
    for _ in 0..20 {
        run(&mut target, 1 << 50, &[]);
    }
    assert!(target.executed() > at.0 && target.sessions() == 20);
    bring(
        &mut target,
        at,
        vec![Peer {
            server: &mut source,
            manner: Manner::Honest,
        }],
    );
    assert_eq!((target.sessions(), target.time_ns()), (1, 1));
    assert_eq!(target.transactions(), source.transactions());
    agree(&mut source, &mut target);
}

#[test]
fn large_buckets_travel_in_pieces_while_the_source_goes_on() {
    let (mut source, next) = filled(1, 30, 64 * 1024);
    let at = to_checkpoint(&mut source);
    source.pin(Hold::Open);
    put(&mut source, next, 0..2, 10, 2);
    run(&mut source, 1, &[]);
    let mut target = server(2);
    bring(
        &mut target,
        at,
        vec![Peer {
            server: &mut source,
            manner: Manner::Honest,
        }],
    );
    let value = |server: &mut Server| {
        let mut builder = OperationsBuilder::new();
        builder.push(&Operation::Get { key: &[0, 0, 0, 1] });
        let (bytes, _) = builder.finish();
        let get = operations(&bytes).next().unwrap();
        server.read(&get).map(|(_, result)| result.len())
    };
    assert!(value(&mut target) > Some(64 * 1024));
    assert!(value(&mut source) < Some(100));
}

#[test]
fn one_honest_peer_is_enough_and_liars_are_found() {
    for manner in [
        Manner::Silent,
        Manner::Flips,
        Manner::FlipsBuckets,
        Manner::Shortens,
        Manner::Elsewhere,
        Manner::Repeats,
    ] {
        let mut servers: Vec<_> = (0..3).map(|seed| filled(seed, 200, 50).0).collect();
        let mut at = None;
        for server in &mut servers {
            let reached = to_checkpoint(server);
            assert_eq!(*at.get_or_insert(reached), reached);
        }
        let (slot, root) = at.unwrap();
        let mut peers: Vec<_> = servers
            .iter_mut()
            .zip([manner, Manner::Honest, manner])
            .map(|(server, manner)| Peer { server, manner })
            .collect();
        let mut target = server(9);
        let mut transfer = Transfer::new(slot, root, target.leaves(), &IDS[..3], OPTIONS);
        let asked = drive(&mut transfer, &mut peers, usize::MAX);
        assert!(transfer.is_complete(), "{manner:?}");
        let lies = matches!(
            manner,
            Manner::Flips | Manner::FlipsBuckets | Manner::Shortens
        );
        let banned: Vec<_> = transfer.banned().collect();
        let expected = if lies {
            vec![NodeId(0), NodeId(2)]
        } else {
            vec![]
        };
        assert_eq!(banned, expected, "{manner:?}");
        assert_eq!(transfer.progress().peers_banned, banned.len());
        if lies {
            // Asked at most what was under way when the lie was seen.
            assert!(asked[0] <= 70 && asked[2] <= 70, "{manner:?}: {asked:?}");
        }
        if manner == Manner::Elsewhere {
            assert_eq!(transfer.served_elsewhere(), Some(Slot(999)));
        }
        target.install(&transfer.finish()).unwrap();
        assert_eq!(target.last_checkpoint(), Some((slot, root)));
    }
}

#[test]
fn only_liars_make_a_transfer_stuck_and_silence_makes_it_wait() {
    let (mut source, _) = filled(1, 50, 50);
    let (slot, root) = to_checkpoint(&mut source);
    let mut transfer = Transfer::new(slot, root, server(2).leaves(), &IDS[..1], OPTIONS);
    let mut liar = [Peer {
        server: &mut source,
        manner: Manner::FlipsBuckets,
    }];
    drive(&mut transfer, &mut liar, usize::MAX);
    assert!(transfer.is_stuck() && !transfer.is_complete());
    assert_eq!(transfer.wake_at(), None);

    let mut transfer = Transfer::new(slot, root, server(2).leaves(), &IDS[..1], OPTIONS);
    let mut silent = [Peer {
        server: &mut source,
        manner: Manner::Silent,
    }];
    drive(&mut transfer, &mut silent, 8);
    assert!(!transfer.is_stuck());
    let mut honest = [Peer {
        server: &mut source,
        manner: Manner::Honest,
    }];
    drive(&mut transfer, &mut honest, usize::MAX);
    assert!(transfer.is_complete());
}

#[test]
fn unasked_chunks_are_ignored() {
    let mut transfer = Transfer::new(
        Slot(4),
        Digest([1; 32]),
        server(2).leaves(),
        &IDS[..2],
        OPTIONS,
    );
    let summary = Chunk::Part {
        slot: Slot(4),
        part: Part::Summary,
        bytes: &[0; 2080],
    };
    let now = Instant(1);
    assert_eq!(
        transfer.handle(now, NodeId(0), &summary),
        Err(Refused::Unasked)
    );
    let mut asked = Vec::new();
    transfer.poll(now, &mut |to, _, part| asked.push((to, part)));
    assert_eq!(asked, [(NodeId(0), Part::Summary)]);
    let foreign = Chunk::Part {
        slot: Slot(8),
        part: Part::Summary,
        bytes: &[0; 2080],
    };
    assert_eq!(
        transfer.handle(now, NodeId(0), &foreign),
        Err(Refused::Unasked)
    );
    assert_eq!(
        transfer.handle(now, NodeId(1), &summary),
        Err(Refused::Unasked)
    );
    assert_eq!(
        transfer.handle(now, NodeId(7), &summary),
        Err(Refused::Unasked)
    );
    assert_eq!(
        transfer.handle(now, NodeId(0), &summary),
        Err(Refused::Wrong)
    );
    assert_eq!(transfer.banned().collect::<Vec<_>>(), [NodeId(0)]);
}

#[test]
fn a_transfer_that_was_overtaken_keeps_what_did_not_change() {
    let (mut source, next) = filled(1, 300, 50);
    let first = to_checkpoint(&mut source);
    let mut target = server(2);
    let mut transfer = Transfer::new(first.0, first.1, target.leaves(), &IDS[..1], OPTIONS);
    let mut peers = [Peer {
        server: &mut source,
        manner: Manner::Honest,
    }];
    drive(&mut transfer, &mut peers, 250);
    let before = transfer.progress();
    assert!(before.buckets_verified > 100 && !transfer.is_complete());
    // Newer checkpoints are certified: the source lets go of the old one.
    put(&mut source, next, 0..5, 50, 2);
    to_checkpoint(&mut source);
    let second = to_checkpoint(&mut source);
    source.stable(second.0);
    assert_eq!(source.pinned(), None);
    let mut transfer = transfer.restart(second.0, second.1);
    let mut peers = [Peer {
        server: &mut source,
        manner: Manner::Honest,
    }];
    let asked = drive(&mut transfer, &mut peers, usize::MAX);
    assert!(transfer.is_complete());
    assert!(asked[0] < 200, "{asked:?}");
    target.install(&transfer.finish()).unwrap();
    agree(&mut source, &mut target);
}

#[test]
fn a_checkpoint_is_kept_while_it_is_asked_for() {
    let (mut source, _) = filled(1, 50, 50);
    let (slot, _) = to_checkpoint(&mut source);
    let mut out = Vec::new();
    assert!(source.fetch_state(Instant(5), slot, Part::Summary, &mut out));
    assert!(matches!(Chunk::decode(&out), Ok(Chunk::Part { .. })));
    source.expire(Instant(4 + TRANSFER_HOLD_NS));
    assert!(source.fetch_state(Instant(4 + TRANSFER_HOLD_NS), slot, Part::Node(1), &mut out));
    // Who asks for something else learns what is served, and prolongs nothing.
    let later = Instant(3 + 2 * TRANSFER_HOLD_NS);
    assert!(source.fetch_state(later, Slot(slot.0 + 1), Part::Summary, &mut out));
    assert_eq!(Chunk::decode(&out), Ok(Chunk::Elsewhere { slot }));
    let absent = Part::Piece {
        bucket: Bucket::new(0).unwrap(),
        index: 1,
    };
    assert!(!source.fetch_state(Instant(6), slot, absent, &mut out));
    source.expire(later);
    assert!(source.pinned().is_some());
    source.expire(Instant(5 + 2 * TRANSFER_HOLD_NS));
    assert_eq!(source.pinned(), None);
}

/// With one liar and one replica far behind, no further checkpoint is certified without the latter: the
/// last one that was must be there to help it.
#[test]
fn the_newest_certified_checkpoint_is_kept_until_another_is_certified() {
    let (mut source, mut next) = filled(1, 50, 50);
    source.keep_newest(true);
    let (first, root) = to_checkpoint(&mut source);
    source.stable(first);
    let shows = |source: &mut Server, slot| source.serve(slot, Part::Summary, &mut Vec::new());
    assert_eq!(shows(&mut source, first), Ok(()));
    for _ in 0..3 {
        next = put(&mut source, next, 0..50, 60, 4);
        let (later, changed) = to_checkpoint(&mut source);
        assert_ne!(changed, root);
        assert!(later > first);
        assert_eq!(
            shows(&mut source, first),
            Ok(()),
            "{later} is not certified"
        );
    }
    let (last, root) = to_checkpoint(&mut source);
    source.stable(last);
    assert_eq!(shows(&mut source, last), Ok(()));
    put(&mut source, next, 0..50, 70, 4);
    let (mut other, _) = filled(2, 5, 50);
    let peer = Peer {
        server: &mut source,
        manner: Manner::Honest,
    };
    bring(&mut other, (last, root), vec![peer]);
}

#[test]
fn a_bucket_that_changed_during_the_transfer_is_noticed() {
    let (mut source, _) = filled(1, 50, 50);
    let (mut target, next) = filled(2, 50, 50);
    to_checkpoint(&mut target);
    let (slot, root) = to_checkpoint(&mut source);
    let mut transfer = Transfer::new(slot, root, target.leaves(), &IDS[..1], OPTIONS);
    let mut peers = [Peer {
        server: &mut source,
        manner: Manner::Honest,
    }];
    drive(&mut transfer, &mut peers, usize::MAX);
    put(&mut target, next, 7..8, 50, 8);
    let refused = target.install(&transfer.finish());
    assert!(
        matches!(refused, Err(InstallFailed::Moved(_))),
        "{refused:?}"
    );
    bring(
        &mut target,
        (slot, root),
        vec![Peer {
            server: &mut source,
            manner: Manner::Honest,
        }],
    );
}

fn history() -> impl Strategy<Value = Vec<(u32, Vec<Item>)>> {
    prop::collection::vec((any::<u32>(), prop::collection::vec(item(), 0..4)), 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 30, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn any_state_becomes_any_other(ours in history(), theirs in history(), after in history()) {
        let build = |seed, history: &[(u32, Vec<Item>)]| {
            let (mut server, mut model) = (server(seed), Model::default());
            let mut clients = Clients::default();
            for (time, items) in history {
                let payload = clients.payload(&mut model, u64::from(*time), items);
                run(&mut server, u64::from(*time), &payload);
            }
            (server, model, clients)
        };
        let (mut target, ..) = build(1, &ours);
        let (mut source, mut model, mut clients) = build(2, &theirs);
        let mut at = None;
        while at.is_none() || !model.slot.is_multiple_of(INTERVAL) {
            let payload = clients.payload(&mut model, 0, &[]);
            run(&mut source, 0, &payload);
            while source.work(100) {}
            while let Some(root) = source.take_root() {
                at = Some(root);
            }
        }
        bring(&mut target, at.unwrap(), vec![Peer { server: &mut source, manner: Manner::Honest }]);
        prop_assert_eq!(target.time_ns(), model.time_ns);
        for (time, items) in after {
            let payload = clients.payload(&mut model, u64::from(time), &items);
            let heard: Said = run(&mut target, u64::from(time), &payload);
            let said = run(&mut source, u64::from(time), &payload);
            prop_assert_eq!(&heard.0, &said.0);
            for (_, body) in heard.0 {
                prop_assert!(ReplyView::parse(&body).is_ok());
            }
        }
        while target.work(usize::MAX) {}
        while source.work(usize::MAX) {}
        let mut roots = [Vec::new(), Vec::new()];
        for (server, roots) in [&mut target, &mut source].into_iter().zip(&mut roots) {
            while let Some(root) = server.take_root() {
                roots.push(root);
            }
        }
        prop_assert_eq!(&roots[0], &roots[1]);
    }
}

/// Blocks pass the checkpoint that a transfer went over to: the one that was asked for first lies
/// ahead still, and nobody will name it again.
#[test]
fn what_was_asked_for_first_is_asked_for_again() {
    let certificate = |slot: u64| {
        let (view, digest) = (View(0), Digest([1; 32]));
        Arc::new(CheckpointCertificate {
            header: BlockHeader::new(Epoch(0), view, Slot(slot), 0, digest, digest),
            root: digest,
            signatures: Signatures::new(),
        })
    };
    let mut server = server(1);
    let mut takeover = Takeover::new(NodeId(0), 4);
    takeover.begin(certificate(8), &mut server);
    takeover.offer(certificate(4), &server);
    assert_eq!(takeover.progress().map(|now| now.slot), Some(Slot(4)));
    while server.executed() < Slot(4) {
        run(&mut server, 1, &[]);
    }
    let none = takeover.poll(Instant(1), &mut server, &mut |_, _, _| {});
    assert!(none.is_none());
    assert_eq!(takeover.progress().map(|now| now.slot), Some(Slot(8)));
    while server.executed() < Slot(8) {
        run(&mut server, 1, &[]);
    }
    let none = takeover.poll(Instant(2), &mut server, &mut |_, _, _| {});
    assert!(none.is_none() && takeover.progress().is_none());
}

/// A server that keeps the newest certified checkpoint, and the first one's slot.
fn keeping_newest() -> (Server, Slot) {
    let (mut server, _) = filled(1, 400, 100);
    server.keep_newest(true);
    let (first, _) = to_checkpoint(&mut server);
    server.stable(first);
    (server, first)
}

/// The certificate of a checkpoint may be here before the own hashing is done, or while a snapshot of
/// the one before is written, or others take it: what is kept moves there as soon as it can.
#[test]
fn what_is_kept_follows_late() {
    let (mut server, first) = keeping_newest();
    let pinned = |server: &Server| server.pinned().map(|kept| kept.slot);
    assert_eq!(pinned(&server), Some(first));
    let next = Slot(first.0 + INTERVAL);
    while server.executed() < next {
        run(&mut server, 1, &[]);
    }
    server.stable(next);
    assert_eq!(pinned(&server), Some(first));
    while server.work(4096) {}
    assert_eq!(pinned(&server), Some(next));

    server.pin(Hold::Open);
    let (last, _) = to_checkpoint(&mut server);
    server.stable(last);
    assert_eq!(pinned(&server), Some(next));
    server.close_snapshot(Instant(1));
    assert_eq!(pinned(&server), Some(last));

    server.pin(Hold::Until(Instant(10)));
    let (newest, _) = to_checkpoint(&mut server);
    server.stable(newest);
    assert_eq!(pinned(&server), Some(last));
    server.expire(Instant(10));
    assert_eq!(pinned(&server), Some(newest));
}

/// While the newest checkpoint is to be kept, one that a transfer happened to take in its place stays
/// when that transfer has ended: a full log may have nothing else.
#[test]
fn what_others_took_stays_while_the_newest_is_to_be_kept() {
    let (mut server, _) = keeping_newest();
    server.pin(Hold::Until(Instant(100)));
    to_checkpoint(&mut server);
    let (overtaking, _) = to_checkpoint(&mut server);
    let frozen = Slot(overtaking.0 + INTERVAL);
    while server.executed() < frozen {
        run(&mut server, 1, &[]);
    }
    server.stable(overtaking);
    assert_eq!(server.pinned(), None);
    server.pin(Hold::Until(Instant(200)));
    while server.work(4096) {}
    server.expire(Instant(200));
    assert_eq!(server.pinned().map(|kept| kept.slot), Some(frozen));
}
