//! A few cores and a network of addresses in memory.

use std::collections::BTreeMap;

use wire::committee::{CommitteeParts, Member, Preset};
use wire::ids::ClusterId;

use super::*;

const SECOND: u64 = 1_000_000_000;
/// One way.
const DELAY_NS: u64 = 200_000;

fn secret(id: usize) -> NodeSecret {
    NodeSecret::generate(&[id as u8 + 1; 32]).unwrap()
}

fn at(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 7100))
}

pub fn committee() -> Committee {
    let members = (0..4).map(|id| Member {
        id: NodeId(id as u16),
        public_key: secret(id).public_key(),
        address: at(id as u8),
    });
    let parts =
        CommitteeParts::with_preset(ClusterId([7; 16]), members.collect(), Preset::Balanced);
    Committee::new(parts.unwrap()).unwrap()
}

fn core(id: usize, boot: u32, listen: SocketAddr, now: Instant) -> Core {
    let setup = Setup {
        me: NodeId(id as u16),
        committee: &committee(),
        secret: &secret(id),
        boot: Boot(boot),
        listen,
        addresses: Addresses::new(listen, None).unwrap(),
        follow: true,
        beacon: false,
        interval_ns: SECOND,
        suspect_after_ns: SECOND,
        down_after_ns: 5 * SECOND,
    };
    Core::new(&setup, now)
}

/// Cores by the address at which they receive; the rest of the world is silent.
struct World {
    now: Instant,
    cores: BTreeMap<SocketAddr, Core>,
    /// Datagrams that went to nobody.
    astray: Vec<SocketAddr>,
    delivered: usize,
}

impl World {
    fn new(ids: std::ops::Range<usize>) -> World {
        let now = Instant(100 * SECOND);
        let cores = ids.map(|id| (at(id as u8), core(id, 1, at(id as u8), now)));
        World {
            now,
            cores: cores.collect(),
            astray: Vec::new(),
            delivered: 0,
        }
    }

    /// Ticks everybody and delivers what is sent until nothing is.
    fn step(&mut self, observed: &[Observation]) {
        let mut queue = Vec::new();
        for core in self.cores.values_mut() {
            let mut sends = Sends::default();
            core.tick(self.now, observed, &mut sends);
            queue.extend(sends.drain());
        }
        while !queue.is_empty() {
            self.now = self.now.after_ns(DELAY_NS);
            for sending in std::mem::take(&mut queue) {
                let Target::Address(to) = sending.to else {
                    continue;
                };
                let Some(core) = self.cores.get_mut(&to) else {
                    self.astray.push(to);
                    continue;
                };
                self.delivered += 1;
                assert!(self.delivered < 10_000, "it never ends");
                let mut sends = Sends::default();
                let heard = core.hear(self.now, self.now, sending.bytes(), false, &mut sends);
                assert_eq!(heard, Ok(()));
                queue.extend(sends.drain());
            }
        }
        self.now = self.now.after_ns(SECOND);
    }

    fn sight(&self, by: u8, of: u16) -> Sight {
        self.cores[&at(by)].sight(NodeId(of)).unwrap()
    }
}

fn all_up(now: Instant) -> Vec<Observation> {
    let seen = Observation {
        last_word: Some(now),
        ..Observation::default()
    };
    vec![seen; 4]
}

#[test]
fn round_trips_are_measured_and_nobody_moves() {
    let mut world = World::new(0..4);
    for _ in 0..5 {
        let observed = all_up(world.now);
        world.step(&observed);
    }
    for by in 0..4u8 {
        for of in (0..4).filter(|of| *of != u16::from(by)) {
            let sight = world.sight(by, of);
            assert_eq!(sight.address, at(of as u8));
            assert_eq!(sight.source, AddressSource::Configured);
            assert_eq!(sight.state, PeerState::Up);
            assert_eq!(sight.round_trip_ns, Some(2 * DELAY_NS));
        }
        assert!(world.cores[&at(by)].sight(NodeId(u16::from(by))).is_none());
        assert_eq!(world.cores[&at(by)].signature_checks(), 0, "all were up");
    }
    assert_eq!(world.astray, []);
}

#[test]
fn a_peer_that_restarts_elsewhere_is_followed_by_all() {
    let mut world = World::new(0..4);
    world.step(&[Observation::default(); 4]);
    world.cores.remove(&at(3));
    let moved = core(3, 2, at(33), world.now);
    world.cores.insert(at(33), moved);
    world.step(&[Observation::default(); 4]);
    for by in 0..3 {
        let sight = world.sight(by, 3);
        assert_eq!(sight.address, at(33));
        assert_ne!(sight.source, AddressSource::Configured);
        let core = &world.cores[&at(33)];
        assert_eq!(core.sight(NodeId(u16::from(by))).unwrap().address, at(by));
    }
    // And home again, with the next boot.
    world.cores.remove(&at(33));
    let home = core(3, 3, at(3), world.now);
    world.cores.insert(at(3), home);
    world.step(&[Observation::default(); 4]);
    for by in 0..3 {
        let sight = world.sight(by, 3);
        assert_eq!(
            (sight.address, sight.source),
            (at(3), AddressSource::Configured)
        );
    }
}

#[test]
fn it_is_enough_that_one_node_hears_of_a_move() {
    let mut world = World::new(0..3);
    world.step(&[Observation::default(); 4]);
    let claim = Claim {
        node: NodeId(3),
        incarnation: Incarnation {
            boot: Boot(2),
            counter: 0,
        },
        addresses: Addresses::new(at(33), None).unwrap(),
    };
    let beacon = sign_beacon(&committee(), &secret(3), &claim);
    world.cores.insert(at(33), core(3, 2, at(33), world.now));
    let mut sends = Sends::default();
    let one = world.cores.get_mut(&at(1)).unwrap();
    one.hear(world.now, world.now, &beacon, true, &mut sends)
        .unwrap();
    let passed_on: Vec<Target> = sends.drain().map(|sending| sending.to).collect();
    for receiver in [at(0), at(2), at(33)] {
        assert!(
            passed_on.contains(&Target::Address(receiver)),
            "{passed_on:?}"
        );
    }
    one.hear(world.now, world.now, &beacon, true, &mut sends)
        .unwrap();
    assert_eq!(sends.drain().count(), 0, "passed on once");
}

/// A member that lies, or a beacon of an earlier life, points at somebody who does not answer.
#[test]
fn a_claim_alone_moves_nobody() {
    let mut world = World::new(0..4);
    let claim = Claim {
        node: NodeId(3),
        incarnation: Incarnation {
            boot: Boot(9),
            counter: 0,
        },
        addresses: Addresses::new(at(99), None).unwrap(),
    };
    let beacon = sign_beacon(&committee(), &secret(3), &claim);
    let zero = world.cores.get_mut(&at(0)).unwrap();
    let mut sends = Sends::default();
    zero.hear(world.now, world.now, &beacon, false, &mut sends)
        .unwrap();
    let to_victim = |sending: &Sending| sending.to == Target::Address(at(99));
    let bytes: usize = sends
        .drain()
        .filter(to_victim)
        .map(|sending| sending.bytes().len())
        .sum();
    assert!(bytes < beacon.len(), "nothing is amplified");
    let seen = zero.sight(NodeId(3)).unwrap();
    assert_eq!(seen.address, at(3));
    // Somebody else who receives there cannot answer for the peer.
    world.cores.insert(at(99), core(2, 1, at(99), world.now));
    let zero = world.cores.get_mut(&at(0)).unwrap();
    zero.tick(world.now, &[Observation::default(); 4], &mut sends);
    let question = sends.drain().find(to_victim).unwrap();
    let other = world.cores.get_mut(&at(99)).unwrap();
    let heard = other.hear(world.now, world.now, question.bytes(), false, &mut sends);
    assert_eq!(heard, Err(Reject::BadMac));
    assert_eq!(sends.drain().count(), 0);
}

#[test]
fn strangers_get_no_answer() {
    let mut world = World::new(0..1);
    let zero = world.cores.get_mut(&at(0)).unwrap();
    let mut sends = Sends::default();
    let now = world.now;
    let mut other = committee().parts().clone();
    other.epoch = wire::ids::Epoch(5);
    let other = Committee::new(other).unwrap();
    let claim = Claim {
        node: NodeId(1),
        incarnation: Incarnation {
            boot: Boot(2),
            counter: 0,
        },
        addresses: Addresses::new(at(9), None).unwrap(),
    };
    let mut foreign = ProbeLinks::new(&other, NodeId(1), &secret(1), Boot(2));
    let mut wrong_key = ProbeLinks::new(&committee(), NodeId(2), &secret(2), Boot(2));
    let forged_claim = Claim {
        node: NodeId(1),
        ..claim
    };
    let datagrams: Vec<(Vec<u8>, Reject)> = vec![
        (b"HPB1".to_vec(), Reject::LengthMismatch),
        (b"HPP1".to_vec(), Reject::LengthMismatch),
        (b"GET / HTTP/1.0".to_vec(), Reject::BadMagic),
        (vec![], Reject::Truncated),
        (
            sign_beacon(&other, &secret(1), &claim).to_vec(),
            Reject::ForeignCluster,
        ),
        (
            sign_beacon(&committee(), &secret(2), &claim).to_vec(),
            Reject::BadSignature,
        ),
        (
            foreign.seal(NodeId(0), &claim, true, None).1.to_vec(),
            Reject::ForeignCluster,
        ),
        (
            wrong_key
                .seal(NodeId(0), &forged_claim, true, None)
                .1
                .to_vec(),
            Reject::BadMac,
        ),
    ];
    for (datagram, reject) in datagrams {
        assert_eq!(
            zero.hear(now, now, &datagram, false, &mut sends),
            Err(reject)
        );
    }
    let mut good = ProbeLinks::new(&committee(), NodeId(1), &secret(1), Boot(2));
    let (_, probe) = good.seal(NodeId(0), &claim, true, None);
    assert_eq!(
        zero.hear(now, now, &probe, true, &mut sends),
        Err(Reject::WrongDirection)
    );
    assert_eq!(sends.drain().count(), 0);
    assert_eq!(zero.hear(now, now, &probe, false, &mut sends), Ok(()));
    assert!(sends.drain().count() > 0);
}

#[test]
fn a_flood_of_beacons_costs_a_bounded_number_of_checks() {
    let mut world = World::new(0..1);
    let zero = world.cores.get_mut(&at(0)).unwrap();
    let mut sends = Sends::default();
    let forged: Vec<Beacon> = (0..90)
        .map(|number: u32| {
            let claim = Claim {
                node: NodeId(1 + (number % 3) as u16),
                incarnation: Incarnation {
                    boot: Boot(number + 1),
                    counter: 0,
                },
                addresses: Addresses::new(at(9), None).unwrap(),
            };
            sign_beacon(&committee(), &secret(0), &claim)
        })
        .collect();
    for step in 0..10_000u64 {
        let now = world.now.after_ns(step * SECOND / 10_000);
        let refused = zero.hear(now, now, &forged[step as usize % 90], false, &mut sends);
        assert!(matches!(
            refused,
            Err(Reject::BadSignature | Reject::RateLimited)
        ));
    }
    let per_member = u64::from(wire::beacon::CHECKS_PER_SECOND);
    assert!(zero.signature_checks() <= 3 * 2 * per_member);
    assert_eq!(sends.drain().count(), 0);
}

/// A member that lies can make others send no more than a few datagrams a second.
#[test]
fn a_member_causes_a_bounded_number_of_sends() {
    let mut world = World::new(0..1);
    let zero = world.cores.get_mut(&at(0)).unwrap();
    let mut liar = ProbeLinks::new(&committee(), NodeId(1), &secret(1), Boot(2));
    let mut sends = Sends::default();
    let mut sent = 0;
    for counter in 0..5000 {
        let victim = at(99);
        let claim = Claim {
            node: NodeId(1),
            incarnation: Incarnation {
                boot: Boot(2),
                counter,
            },
            addresses: Addresses::new(victim, Some(at(98))).unwrap(),
        };
        let (_, probe) = liar.seal(NodeId(0), &claim, true, None);
        let _ = zero.hear(world.now, world.now, &probe, false, &mut sends);
        sent += sends.drain().count();
    }
    assert!(
        sent <= (ANSWERS_PER_SECOND + 3 * CLAIMS_PER_SECOND) as usize,
        "{sent}"
    );
}

#[test]
fn a_change_of_address_within_a_boot_is_a_higher_incarnation() {
    let mut world = World::new(0..4);
    world.step(&[Observation::default(); 4]);
    let mut moving = world.cores.remove(&at(3)).unwrap();
    moving.set_addresses(world.now, Addresses::new(at(3), None).unwrap());
    assert_eq!(moving.claim.incarnation.counter, 0, "no change");
    moving.set_addresses(world.now, Addresses::new(at(44), None).unwrap());
    world.cores.insert(at(44), moving);
    let observed = all_up(world.now);
    world.step(&observed);
    world.step(&observed);
    for by in 0..3 {
        assert_eq!(world.sight(by, 3).address, at(44));
    }
}

/// The last resort: a peer whose claims do not get through, but whose datagrams come.
#[test]
fn a_hint_moves_a_silent_peer_that_answers_there() {
    let mut world = World::new(0..2);
    let lost = core(1, 1, at(77), world.now);
    world.cores.remove(&at(1));
    world.cores.insert(at(77), lost);
    let mut observed = vec![Observation::default(); 4];
    observed[1].elsewhere = Some(at(77));
    let claims_lost = |core: &mut Core| {
        core.claim.addresses = Addresses::new(at(1), None).unwrap();
        core.own_beacon = sign_beacon(&committee(), &secret(1), &core.claim);
    };
    claims_lost(world.cores.get_mut(&at(77)).unwrap());
    for _ in 0..SILENT_INTERVALS {
        assert_eq!(world.sight(0, 1).address, at(1));
        world.step(&observed);
    }
    world.step(&observed);
    let sight = world.sight(0, 1);
    assert_eq!((sight.address, sight.source), (at(77), AddressSource::Link));
}
