//! What ends voting, and still does after a restart: N2, jumps where votes after one could break a
//! quorum (L2), and K3, a state that is not the certified one.

use replica::agreement::Standing;
use replica::agreement::quorum::Quorums;
use storage::record::Kind;
use wire::certificates::Place;
use wire::ids::{Digest, Signature, Slot, View};
use wire::messages::PlaceRecord;
use zerocopy::IntoBytes;

use crate::released::{Log, chain, standing};
use crate::world::QUORUMS;

/// A slow path, and u >= b + 2.
const RISKY: Quorums = Quorums {
    n: 8,
    b: 1,
    u: 3,
    p: 1,
    exclusion: true,
};

/// A log of three voted blocks and a jump to `place`: whether votes go on after a restart.
fn votes_after(quorums: Quorums, place: Place) -> bool {
    let (headers, _) = chain(5);
    let mut log = Log::new();
    log.quorums = quorums;
    log.blocks(&headers[..3]);
    for header in &headers[3..] {
        log.fetched(header);
    }
    let none = Signature([0; 64]);
    let skip = PlaceRecord::new(View(0), place.slot, place.digest, none);
    log.put(Kind::Skip, skip.as_bytes());
    let recovered = log.restart(None).unwrap().restarted.recovered;
    assert_eq!(recovered.tip, place);
    !recovered.voting_stopped
}

#[test]
fn a_jump_off_the_known_chain_ends_voting_where_that_is_risky() {
    let (_, places) = chain(5);
    let elsewhere = Place {
        slot: Slot(9),
        digest: Digest([4; 32]),
    };
    assert!(
        votes_after(QUORUMS, elsewhere),
        "four nodes have no slow path"
    );
    assert!(!votes_after(RISKY, elsewhere));
    assert!(votes_after(RISKY, places[5]), "the same chain");
}

#[test]
fn a_replica_that_diverged_remembers() {
    let (headers, places) = chain(3);
    let mut log = Log::new();
    log.blocks(&headers);
    let stopped = Standing {
        voting_stopped: true,
        diverged: true,
        ..standing(View(0), places[3], places[3])
    };
    log.stand(&stopped);
    let recovered = log.restart(None).unwrap().restarted.recovered;
    assert!(recovered.voting_stopped && recovered.diverged);
}
