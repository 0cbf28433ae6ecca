//! Beacons, probes, and what a foreign source of a link's datagram is worth.

use wire::beacon::{
    Addresses, BEACON_BYTES, Beacon, BeaconEar, CHECKS_PER_SECOND, Claim, Heard, Incarnation,
    sign_beacon,
};
use wire::link::{Echo, PROBE_BYTES, PeerCounts, Probe, ProbeLinks};

use super::*;

fn claim(id: usize, boot: u32, counter: u32, port: u16) -> Claim {
    Claim {
        node: NodeId(id as u16),
        incarnation: Incarnation {
            boot: Boot(boot),
            counter,
        },
        addresses: Addresses::new(at(port), None).unwrap(),
    }
}

fn beacon(claim: &Claim) -> Beacon {
    sign_beacon(&committee(4), &secret(claim.node.index()), claim)
}

fn ear() -> BeaconEar {
    BeaconEar::new(&committee(4), NodeId(0))
}

#[test]
fn a_beacon_is_heard_once_and_known_then() {
    let mut ear = ear();
    let said = claim(3, 2, 1, 900);
    let bytes = beacon(&said);
    assert_eq!(ear.hear(NOW, &bytes), Ok(Heard::New(said)));
    for _ in 0..1000 {
        assert_eq!(ear.hear(NOW, &bytes), Ok(Heard::Known(NodeId(3))));
    }
    assert_eq!(ear.checks(), 1);
    assert_eq!(ear.beacon_of(NodeId(3)), Some(&bytes));
    assert_eq!(ear.beacon_of(NodeId(2)), None);
    let both = Claim {
        addresses: Addresses::new(at(7), Some("[fd00::1]:7".parse().unwrap())).unwrap(),
        ..claim(3, 2, 2, 1)
    };
    assert_eq!(ear.hear(NOW, &beacon(&both)), Ok(Heard::New(both)));
    let own = beacon(&claim(0, 1, 0, 5));
    assert_eq!(ear.hear(NOW, &own), Err(Reject::FromOurselves));
    ear.set_own(own);
    assert_eq!(ear.hear(NOW, &own), Ok(Heard::Own));
}

#[test]
fn only_a_higher_incarnation_replaces() {
    let mut ear = ear();
    let newest = claim(3, 5, 2, 900);
    ear.hear(NOW, &beacon(&newest)).unwrap();
    for (boot, counter, port) in [(5, 2, 901), (5, 1, 901), (4, 9, 901), (0, 0, 900)] {
        let stale = beacon(&claim(3, boot, counter, port));
        assert_eq!(ear.hear(NOW, &stale), Err(Reject::StaleIncarnation));
    }
    assert_eq!(ear.checks(), 1, "judged without signature work");
    assert!(ear.hear(NOW, &beacon(&claim(3, 5, 3, 901))).is_ok());
    assert!(ear.hear(NOW, &beacon(&claim(3, 6, 0, 902))).is_ok());
    // What the link knows of boots counts as well.
    ear.set_boot_min(NodeId(2), Boot(4));
    let recording = beacon(&claim(2, 3, 0, 900));
    assert_eq!(ear.hear(NOW, &recording), Err(Reject::StaleIncarnation));
    assert!(ear.hear(NOW, &beacon(&claim(2, 4, 0, 900))).is_ok());
}

#[test]
fn each_bit_of_a_beacon_counts() {
    let bytes = beacon(&claim(3, 2, 1, 900));
    for bit in 0..8 * BEACON_BYTES {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        let refused = ear().hear(NOW, &flipped);
        assert!(refused.is_err(), "bit {bit}: {refused:?}");
    }
    for length in 0..BEACON_BYTES {
        assert!(ear().hear(NOW, &bytes[..length]).is_err());
    }
    assert!(ear().hear(NOW, &[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn foreign_beacons_are_refused() {
    let said = claim(3, 2, 1, 900);
    let mut other = parts(4);
    other.epoch = Epoch(1);
    let other = Committee::new(other).unwrap();
    let foreign = sign_beacon(&other, &secret(3), &said);
    assert_eq!(ear().hear(NOW, &foreign), Err(Reject::ForeignCluster));
    let forged = sign_beacon(&committee(4), &secret(2), &said);
    assert_eq!(ear().hear(NOW, &forged), Err(Reject::BadSignature));
    let outsider = sign_beacon(&committee(4), &secret(5), &claim(5, 1, 0, 900));
    assert_eq!(ear().hear(NOW, &outsider), Err(Reject::NotInCommittee));
    assert_eq!(ear().hear(NOW, b"HPD1"), Err(Reject::BadMagic));
    assert_eq!(ear().hear(NOW, b"HP"), Err(Reject::Truncated));
}

#[test]
fn a_flood_costs_a_bounded_number_of_checks_and_shuts_out_nobody_else() {
    let mut ear = ear();
    let forged: Vec<Beacon> = (0..50)
        .map(|counter| sign_beacon(&committee(4), &secret(2), &claim(3, 1, counter, 900)))
        .collect();
    let (seconds, mut limited) = (5, 0);
    for step in 0..seconds * 1000 {
        let now = NOW.after_ns(step * 1_000_000);
        match ear.hear(now, &forged[step as usize % forged.len()]) {
            Err(Reject::RateLimited) => limited += 1,
            other => assert_eq!(other, Err(Reject::BadSignature)),
        }
    }
    let allowed = u64::from(CHECKS_PER_SECOND) * (seconds + 1);
    assert!(ear.checks() <= allowed, "{} checks", ear.checks());
    assert!(limited > 4900);
    let now = NOW.after_ns(seconds * 1_000_000_000);
    assert!(ear.hear(now, &beacon(&claim(2, 1, 0, 900))).is_ok());
}

#[test]
fn addresses_that_reach_nobody_are_refused() {
    for text in [
        "0.0.0.0:7",
        "10.0.0.1:0",
        "239.1.1.1:7",
        "[::]:7",
        "255.255.255.255:7",
        "[ff02::1]:7",
    ] {
        let address = text.parse().unwrap();
        assert_eq!(
            Addresses::new(address, None),
            Err(Reject::BadAddress),
            "{text}"
        );
        assert!(Addresses::new(at(1), Some(address)).is_err());
    }
    let twice = Addresses::new(at(1), Some(at(1))).unwrap();
    assert_eq!(twice.iter().count(), 1);
}

fn probes(id: usize, boot: u32) -> ProbeLinks {
    ProbeLinks::new(&committee(4), NodeId(id as u16), &secret(id), Boot(boot))
}

fn heard(links: &mut ProbeLinks, datagram: &[u8]) -> Result<Probe, Reject> {
    links.hear(datagram).map(|probe| probe.into_inner())
}

#[test]
fn a_probe_is_taken_once_and_answered_by_number() {
    let (mut a, mut b) = (probes(0, 1), probes(1, 4));
    let (own, other) = (claim(0, 1, 0, 900), claim(1, 4, 2, 901));
    let (number, question) = a.seal(NodeId(1), &own, true, None);
    let probe = heard(&mut b, &question).unwrap();
    assert_eq!((probe.claim, probe.asks, probe.echo), (own, true, None));
    assert_eq!(heard(&mut b, &question), Err(Reject::Replayed));
    let echo = Echo {
        boot: Boot(1),
        number: probe.number,
        held_ns: 77,
    };
    let (_, answer) = b.seal(NodeId(0), &other, false, Some(echo));
    assert_eq!(question.len(), answer.len(), "nothing is amplified");
    let probe = heard(&mut a, &answer).unwrap();
    assert_eq!((probe.claim, probe.asks), (other, false));
    assert_eq!(probe.echo, Some(echo));
    assert_eq!(echo.number, number);
}

#[test]
fn probes_of_others_and_of_earlier_boots_are_refused() {
    let mut b = probes(1, 4);
    let own = claim(0, 3, 0, 900);
    let (_, earlier) = probes(0, 2).seal(NodeId(1), &claim(0, 2, 0, 899), true, None);
    let (_, good) = probes(0, 3).seal(NodeId(1), &own, true, None);
    for bit in 0..8 * PROBE_BYTES {
        let mut flipped = good;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(heard(&mut b, &flipped).is_err(), "bit {bit}");
    }
    let (_, for_another) = probes(0, 3).seal(NodeId(2), &own, true, None);
    assert_eq!(heard(&mut b, &for_another), Err(Reject::BadMac));
    assert!(heard(&mut b, &good).is_ok());
    assert_eq!(heard(&mut b, &earlier), Err(Reject::OldBoot));
    assert_eq!(heard(&mut probes(0, 3), &good), Err(Reject::FromOurselves));
    let mut other = parts(4);
    other.epoch = Epoch(1);
    let other = Committee::new(other).unwrap();
    let mut stranger = ProbeLinks::new(&other, NodeId(0), &secret(0), Boot(9));
    let (_, foreign) = stranger.seal(NodeId(1), &own, true, None);
    assert_eq!(heard(&mut b, &foreign), Err(Reject::ForeignCluster));
    for length in 0..PROBE_BYTES {
        assert!(heard(&mut b, &good[..length]).is_err());
    }
}

/// Protocol datagrams of node 0 at node 1, from `from`.
fn from(node: &mut Node, from: SocketAddr, datagram: &[u8]) -> Result<(), Reject> {
    hear_at(node, NOW, from, datagram).map(|_| ())
}

fn elsewhere(node: &Node) -> Option<SocketAddr> {
    node.peer_counts(NodeId(0)).elsewhere
}

#[test]
fn only_fresh_datagrams_of_the_present_boot_point_elsewhere() {
    let (mut a, mut b) = acquainted();
    let home = address(0);
    let held_back = sealed(&mut a, 1, Kind::Vote, b"held back");
    let taken = sealed(&mut a, 1, Kind::Vote, b"taken");
    from(&mut b, home, &taken).unwrap();
    assert_eq!(elsewhere(&b), None);
    // A replay is refused, and one that was held back says nothing about the present.
    assert_eq!(from(&mut b, at(66), &taken), Err(Reject::Replayed));
    assert_eq!(elsewhere(&b), None);
    from(&mut b, at(66), &held_back).unwrap();
    assert_eq!(elsewhere(&b), None);
    // Nor does a datagram without a valid MAC, or one that does not name our boot.
    let mut forged = sealed(&mut a, 1, Kind::Vote, b"forged");
    forged[HEADER_BYTES] ^= 1;
    assert_eq!(from(&mut b, at(66), &forged), Err(Reject::BadMac));
    let claimed = sealed(&mut node(0, 9), 1, Kind::Status, b"status");
    from(&mut b, at(66), &claimed).unwrap();
    assert_eq!(elsewhere(&b), None);
    assert_eq!(b.peer_address(NodeId(0)), Some(home));
}

#[test]
fn a_fresh_datagram_points_and_the_caller_moves() {
    let (mut a, mut b) = acquainted();
    let vote = sealed(&mut a, 1, Kind::Vote, b"one");
    from(&mut b, at(5), &vote).unwrap();
    assert_eq!(elsewhere(&b), Some(at(5)));
    assert_eq!(b.peer_address(NodeId(0)), Some(address(0)), "a hint alone");
    b.set_peer_address(NodeId(0), at(5));
    assert_eq!(b.peer_address(NodeId(0)), Some(at(5)));
    let vote = sealed(&mut a, 1, Kind::Vote, b"two");
    from(&mut b, at(5), &vote).unwrap();
    assert_eq!(elsewhere(&b), None);
    b.set_peer_address(NodeId(77), at(5));
}

#[test]
fn counts_show_what_was_lost() {
    let (mut a, mut b) = acquainted();
    let before = b.peer_counts(NodeId(0));
    for number in 0..100 {
        let vote = sealed(&mut a, 1, Kind::Vote, b"vote");
        if number % 4 != 1 {
            hear(&mut b, &vote).unwrap();
        }
    }
    let after = b.peer_counts(NodeId(0));
    assert_eq!(after.boot, before.boot);
    assert_eq!(
        (after.taken - before.taken, after.end - before.end),
        (75, 100)
    );
    assert_eq!(b.peer_counts(NodeId(40)), PeerCounts::default());
}

proptest! {
    /// Random bytes behind the right magic never panic and never pass.
    #[test]
    fn garbage_is_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), which in 0..2) {
        let magic = if which == 0 { b"HPB1" } else { b"HPP1" };
        for (place, letter) in bytes.iter_mut().zip(magic) {
            *place = *letter;
        }
        prop_assert!(ear().hear(NOW, &bytes).is_err());
        prop_assert!(probes(1, 1).hear(&bytes).is_err());
    }
}
