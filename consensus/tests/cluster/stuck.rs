//! What kept a cluster waiting although enough of it was correct.

use consensus::{Effect, Input, Record, RecordAs, Recovered};
use wire::certificates::{NewViewCertificate, Signatures};
use wire::ids::{Instant, NodeId, Slot, View};
use wire::messages::Status;
use wire::seal::Statement;

use crate::alone::{Alone, chain, config, in_view_one, log_of};
use crate::asking::idle;
use crate::world::{FOUR, MS, STRICT, World, genesis, place_of};

fn commits(effects: &[Effect]) -> usize {
    let is_commit = |effect: &&Effect| matches!(effect, Effect::Record(Record::Commit(_)));
    effects.iter().filter(is_commit).count()
}

/// N5: a liar completed the F votes of an earlier view for this replica alone. In the next view the
/// q - 1 other correct ones cannot decide the inherited block without this one's COMMIT.
#[test]
fn what_one_decided_alone_is_committed_for_the_others() {
    let mut world = World::new(STRICT, 900);
    let blocks = chain(&mut world, 1);
    let base = place_of(&blocks[0].header);
    let recovered = Recovered {
        decided: base,
        ..in_view_one(base, log_of(&blocks, RecordAs::Fetched))
    };
    let mut alone = Alone::new(&world, config(&world), recovered);
    alone.tell(MS, Input::Executed { slot: base.slot });
    alone.tell(MS, Input::Tick);
    let mut effects = Vec::new();
    for from in [0, 1, 2] {
        effects.extend(alone.hear_vote(&world, from, 1, base));
    }
    assert_eq!(
        commits(&effects),
        0,
        "as far as is known, it is final everywhere"
    );
    let status = Status {
        stage: View(1),
        installed: View(1),
        voted_slot: base.slot,
        voted_digest: base.digest,
        ..idle()
    };
    assert_eq!(status.committed, Slot(0));
    let from = NodeId(1);
    let effects = alone.tell(2 * MS, Input::Status { from, status });
    assert_eq!(commits(&effects), 1);
    let again = alone.tell(3 * MS, Input::Status { from, status });
    assert_eq!(commits(&again), 0, "once");
}

/// T2: a request that waited too long under one leader is no reason to leave the next one at once.
#[test]
fn a_new_leader_gets_its_time() {
    let mut world = World::new(FOUR, 901);
    let mut alone = Alone::new(&world, config(&world), Recovered::blank(genesis()));
    alone.core.set_pending(Some(Instant(0)), true);
    let wishes = |effects: &[Effect]| {
        let views = effects.iter().filter_map(|effect| match effect {
            Effect::Say { signed, .. } => match signed.statement {
                Statement::Wish { view, .. } => Some(view.0),
                _ => None,
            },
            _ => None,
        });
        views.collect::<Vec<_>>()
    };
    assert_eq!(wishes(&alone.tell(MS, Input::Tick)), [1]);
    let mut certificate = NewViewCertificate {
        view: View(1),
        base: genesis(),
        acks: Signatures::new(),
    };
    let base = certificate.base;
    let statement = Statement::NewViewAck {
        view: View(1),
        base_slot: base.slot,
        base: base.digest,
    };
    for by in [0, 1, 2].map(NodeId) {
        let signature = world.sign(by, statement).signature;
        certificate.acks.add(by, signature);
    }
    let certificate = world.compound.new_view_certificate(certificate).unwrap();
    let effects = alone.tell(2 * MS, Input::NewViewCertificate(Box::new(certificate)));
    let installs = |effect: &Effect| matches!(effect, Effect::Installed { .. });
    assert!(effects.iter().any(installs), "{effects:?}");
    assert_eq!(wishes(&effects), [] as [u64; 0]);
}
