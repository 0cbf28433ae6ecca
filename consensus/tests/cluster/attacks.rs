//! Scripted liars (protocol §13).

use std::sync::Arc;

use consensus::Source;
use wire::block::BlockHeader;
use wire::certificates::{CompactHeader, NewViewCertificate, Place, Signatures};
use wire::ids::{Boot, Digest, Epoch, NodeId, Signature, Slot, View};
use wire::messages::SignedHeader;
use wire::reject::Reject;
use wire::seal::{Signer, Statement};
use wire::view_change::{NewView, ViewChange};

use crate::world::{
    FOUR, INVALID, MS, Message, SECOND, SEVEN, SIX, STRICT, World, genesis, place_of,
};

impl World {
    pub fn forge(&mut self, by: NodeId, view: u64, parent: Place, mark: u8) -> SignedHeader {
        let payload = Digest([mark; 32]);
        let header = BlockHeader::new(
            Epoch(0),
            View(view),
            parent.slot.next(),
            0,
            parent.digest,
            payload,
        );
        let signed = self.sign_header(by, header);
        self.judge.header(signed);
        signed
    }

    fn offer(&mut self, by: NodeId, to: u16, signed: SignedHeader) {
        self.send(by, NodeId(to), Message::Block(Source::Proposed, signed));
    }

    pub fn lie_vote(&mut self, by: NodeId, to: u16, signed: &SignedHeader) {
        let Place { slot, digest } = place_of(&signed.header);
        let view = signed.header.view();
        let vote = self.sign(by, Statement::Vote { view, slot, digest });
        self.lie(NodeId(to), vote);
    }

    /// A view change out of view 0 that claims these blocks.
    fn lie_change(&mut self, by: NodeId, view: u64, claimed: &[SignedHeader]) -> Message {
        let tip = claimed
            .last()
            .map_or(Signature([0; 64]), |tip| tip.signature);
        let message = ViewChange {
            view: View(view),
            replica: by,
            installed: View(0),
            certificate: None,
            checkpoint: None,
            suffix: claimed
                .iter()
                .map(|signed| CompactHeader::of(&signed.header))
                .collect(),
            tip_signature: tip,
            quorum: None,
        };
        let statement = Statement::ViewChange {
            view: View(view),
            digest: message.digest(),
        };
        let signature = self.seals[by.index()].sign(&statement);
        Message::ViewChange(Arc::new((message, signature)))
    }

    pub fn digest_of(&self, id: u16, slot: u64) -> Digest {
        self.replicas[usize::from(id)].chain[slot as usize]
    }
}

#[test]
fn a3_an_equivocator_cannot_undo_what_one_replica_decided() {
    for seed in 0..10 {
        let mut world = World::new(FOUR, 100 + seed);
        let liar = NodeId(0);
        world.corrupt(liar);
        let x = world.forge(liar, 0, genesis(), 1);
        let y = world.forge(liar, 0, genesis(), 2);
        world.offer(liar, 1, x);
        world.offer(liar, 2, y);
        world.offer(liar, 3, y);
        world.lie_vote(liar, 2, &y);
        // Nothing of what 2 knows leaves it before the others have changed the view.
        assert!(
            world.run_until(SECOND, |w| w.decided(NodeId(2)) == 1),
            "{}",
            world.describe()
        );
        let lie = world.lie_change(liar, 1, &[x]);
        world.load = true;
        for _ in 0..400 {
            world.send_all(liar, lie.clone());
            world.run(5 * MS);
        }
        world.expect_progress(10, 30 * SECOND);
        let expected = place_of(&y.header).digest;
        assert!(
            (1..4).all(|id| world.digest_of(id, 1) == expected),
            "y was decided"
        );
    }
}

#[test]
fn a2_a_split_vote_does_not_stop_the_next_view() {
    for seed in 0..10 {
        let mut world = World::new(FOUR, 120 + seed);
        let liar = NodeId(0);
        world.corrupt(liar);
        let x = world.forge(liar, 0, genesis(), 1);
        let y = world.forge(liar, 0, genesis(), 2);
        world.offer(liar, 1, x);
        world.offer(liar, 2, y);
        world.lie_vote(liar, 1, &x);
        world.lie_vote(liar, 2, &y);
        world.load = true;
        let lie = world.lie_change(liar, 1, &[if seed % 2 == 0 { x } else { y }]);
        for _ in 0..300 {
            world.send_all(liar, lie.clone());
            world.run(5 * MS);
        }
        world.expect_progress(10, 30 * SECOND);
    }
}

#[test]
fn a12_a_claimed_block_that_nobody_has_is_dropped() {
    for seed in 0..5 {
        let mut world = World::new(FOUR, 140 + seed);
        let liar = NodeId(0);
        world.corrupt(liar);
        let hidden = world.forge(liar, 0, genesis(), 7);
        let lie = world.lie_change(liar, 1, &[hidden]);
        world.load = true;
        // One correct view change is late: with the liar's there are enough.
        world.filter = Some(|from, _, message| {
            !(from == NodeId(3) && matches!(message, Message::ViewChange(_)))
        });
        for step in 0..800 {
            world.send_all(liar, lie.clone());
            world.run(5 * MS);
            if step == 500 {
                world.filter = None;
            }
        }
        world.expect_progress(10, 60 * SECOND);
    }
}

#[test]
fn a6_two_new_views_do_not_certify_two_bases() {
    for seed in 0..10 {
        let mut world = World::new(FOUR, 160 + seed);
        let liar = NodeId(1);
        world.expect_progress(20, SECOND);
        world.corrupt(liar);
        // The last blocks of leader 0 reach nobody.
        world.net.cut = vec![(NodeId(0), NodeId(2)), (NodeId(0), NodeId(3))];
        world.run(20 * MS);
        world.heal();
        for id in [0, 2, 3] {
            world.replicas[id].starved = true;
        }
        let entered = |w: &World| w.correct().all(|id| w.stage_of(id) == View(1));
        // V = 3: all correct ones wish.
        assert!(world.run_until(5 * SECOND, entered), "{}", world.describe());
        for replica in &mut world.replicas {
            replica.starved = false;
        }
        world.run(100 * MS);
        let heard = std::mem::take(&mut world.replicas[1].heard);
        let mut told: Vec<(NodeId, Digest, Place)> = Vec::new();
        for message in heard {
            if let Message::ViewChange(body) = message
                && body.0.view == View(1)
            {
                let found = world.compound.view_change(body.0.clone(), body.1).unwrap();
                if told.iter().all(|(by, ..)| *by != found.message.replica) {
                    told.push((found.message.replica, found.digest, found.tip()));
                }
            }
        }
        told.sort();
        assert_eq!(told.len(), 3, "0, 2 and 3 have left view 0");
        let tips = told.iter().map(|(.., tip)| *tip);
        let (deepest, lowest) = (tips.clone().max().unwrap(), tips.min().unwrap());
        let chosen = told
            .iter()
            .map(|(by, digest, _)| (*by, *digest))
            .collect::<Vec<_>>();
        for (base, to) in [(deepest, [0, 2]), (lowest, [3, 3]), (genesis(), [2, 3])] {
            let message = NewView {
                view: View(1),
                base,
                chosen: chosen.clone(),
            };
            let signature = world.seals[1].sign(&message.statement());
            for to in to {
                world.send(
                    liar,
                    NodeId(to),
                    Message::NewView(Arc::new((message.clone(), signature))),
                );
            }
        }
        for base in [deepest, lowest] {
            let statement = Statement::NewViewAck {
                view: View(1),
                base_slot: base.slot,
                base: base.digest,
            };
            let ack = world.sign(liar, statement);
            for to in world.ids() {
                world.lie(to, ack);
            }
        }
        world.expect_progress(10, 120 * SECOND);
    }
}

#[test]
fn a5_an_installed_view_needs_its_certificate() {
    let mut world = World::new(FOUR, 180);
    let by = NodeId(3);
    let mut message = ViewChange {
        view: View(9),
        replica: by,
        installed: View(5),
        certificate: None,
        checkpoint: None,
        suffix: Vec::new(),
        tip_signature: Signature([0; 64]),
        quorum: None,
    };
    let mut judge = |message: &ViewChange| {
        let statement = Statement::ViewChange {
            view: View(9),
            digest: message.digest(),
        };
        let signature = world.seals[3].sign(&statement);
        world
            .compound
            .view_change(message.clone(), signature)
            .map(|_| ())
    };
    assert_eq!(judge(&message), Err(Reject::WrongView));
    let mut certificate = NewViewCertificate {
        view: View(5),
        base: genesis(),
        acks: Signatures::new(),
    };
    let seals = World::new(FOUR, 1).seals;
    let statement = certificate.statement();
    for by in [0u16, 3] {
        certificate
            .acks
            .add(NodeId(by), seals[usize::from(by)].sign(&statement));
    }
    message.certificate = Some(certificate);
    assert_eq!(judge(&message), Err(Reject::TooFewSignatures));
    // The liar's own hand under another's name.
    certificate.acks.add(NodeId(1), seals[3].sign(&statement));
    message.certificate = Some(certificate);
    assert_eq!(judge(&message), Err(Reject::BadSignature));
    certificate.acks.add(NodeId(1), seals[1].sign(&statement));
    message.certificate = Some(certificate);
    assert_eq!(judge(&message), Ok(()));
}

#[test]
fn a11_what_was_said_once_does_nothing_when_repeated() {
    for shape in [FOUR, SEVEN, STRICT] {
        let mut world = World::new(shape, 190);
        world.recording = Some(Vec::new());
        world.expect_progress(10, 5 * SECOND);
        world.crash(NodeId(0));
        world.expect_progress(10, 10 * SECOND);
        world.start(NodeId(0));
        world.expect_progress(10, 10 * SECOND);
        let mut said = world.recording.take().unwrap();
        let views = world
            .correct()
            .map(|id| world.view_of(id))
            .collect::<Vec<_>>();
        for index in (1..said.len()).rev() {
            let other = world.random(index as u64 + 1) as usize;
            said.swap(index, other);
        }
        for chunk in said.chunks(20) {
            for (from, to, message) in chunk {
                world.send(*from, *to, message.clone());
            }
            world.run(MS);
        }
        world.expect_progress(10, 10 * SECOND);
        let after = world
            .correct()
            .map(|id| world.view_of(id))
            .collect::<Vec<_>>();
        assert_eq!(views, after, "old wishes move no view");
    }
}

#[test]
fn n9_an_invalid_block_ends_the_view_at_once() {
    for shape in [FOUR, SEVEN, SIX, STRICT] {
        let mut world = World::new(shape, 200);
        world.expect_progress(10, 5 * SECOND);
        world.replicas[0].lies = true;
        world.poison = true;
        let moved = |w: &World| w.correct().all(|id| w.view_of(id) == View(1));
        assert!(world.run_until(150 * MS, moved), "{}", world.describe());
        assert!(
            world
                .correct()
                .all(|id| world.replicas[id.index()].accused.contains(&View(0)))
        );
        world.replicas[0].core = None;
        world.expect_progress(10, 5 * SECOND);
    }
}

#[test]
fn a9_what_one_replica_decided_alone_survives_it() {
    // The liar's vote reaches replica 1 alone, which decides and is cut off.
    for seed in 0..10 {
        let mut world = World::new(FOUR, 210 + seed);
        let liar = NodeId(3);
        world.corrupt(liar);
        world.net.cut = vec![(NodeId(1), NodeId(2)), (NodeId(0), NodeId(2))];
        world.load = true;
        world.run_until(SECOND, |w| !w.judge.headers.is_empty());
        let block = *world.judge.headers.values().next().unwrap();
        world.lie_vote(liar, 1, &block);
        let alone = world.run_until(50 * MS, |w| w.decided(NodeId(1)) >= 1);
        assert!(alone, "{}", world.describe());
        world.heal();
        // u = 1 is the liar; the replica that knows is only late.
        world.isolate(NodeId(1));
        world.run(300 * MS);
        world.heal();
        world.expect_progress(10, 60 * SECOND);
        let wish = world.sign(
            liar,
            Statement::Wish {
                view: View(4),
                boot: Boot(1),
                counter: 1,
            },
        );
        world.lie(NodeId(0), wish);
        assert_eq!(world.digest_of(0, 1), place_of(&block.header).digest);
        assert_eq!(block.header.slot(), Slot(1));
    }
}

#[test]
fn a_liar_with_two_view_changes_does_not_stop_the_next_view() {
    // The leader of view 1 hears one of them first, everyone else the other.
    for seed in 0..4 {
        let mut world = World::new(FOUR, 220 + seed);
        let liar = NodeId(3);
        world.expect_progress(10, SECOND);
        world.corrupt(liar);
        let block = world.forge(NodeId(0), 0, genesis(), 9);
        world.replicas[0].lies = true;
        for view in 1..40 {
            let one = world.lie_change(liar, view, &[]);
            let other = world.lie_change(liar, view, &[block]);
            let leader = world.leader(View(view));
            for to in world.ids() {
                let told = if to == leader { &one } else { &other };
                world.send(liar, to, told.clone());
            }
            let goal = View(view);
            for id in [0, 1, 2] {
                world.replicas[id].starved = true;
            }
            let near = |w: &World| w.live().all(|id| w.stage_of(id) >= goal);
            assert!(world.run_until(20 * SECOND, near), "{}", world.describe());
            for id in [0, 1, 2] {
                world.replicas[id].starved = false;
            }
            let done = |w: &World| w.live().all(|id| w.view_of(id) >= goal);
            if leader != liar {
                assert!(
                    world.run_until(200 * MS, done),
                    "{view}: {}",
                    world.describe()
                );
                break;
            }
        }
    }
}

#[test]
fn a_claimed_block_with_an_invalid_payload_is_dropped() {
    // V2: the next leader knows the block, found it invalid, and must not wait for it; whether its
    // leader proposed it or sent it as another replica's.
    for seed in 0..8 {
        let mut world = World::new(FOUR, 230 + seed);
        let liar = NodeId(0);
        world.corrupt(liar);
        let bad = world.forge(liar, 0, genesis(), INVALID);
        for to in world.ids().filter(|to| *to != liar) {
            if seed < 4 {
                world.offer(liar, to.0, bad);
            } else {
                world.send(liar, to, Message::Block(Source::Fetched, bad));
            }
        }
        let lie = world.lie_change(liar, 1, &[bad]);
        world.send_all(liar, lie);
        // Of the correct view changes two are in time.
        world.filter = Some(|from, _, message| {
            !(from == NodeId(3) && matches!(message, Message::ViewChange(_)))
        });
        world.load = true;
        world.run(50 * MS);
        world.filter = None;
        let moved = |w: &World| w.correct().all(|id| w.view_of(id) == View(1));
        assert!(world.run_until(150 * MS, moved), "{}", world.describe());
        world.expect_progress(10, 5 * SECOND);
    }
}
