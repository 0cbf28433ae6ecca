//! `committee.toml`: what is refused and how it is said, and what the digest covers.

mod support;

use std::net::SocketAddr;

use proptest::prelude::*;
use support::{client_secret, committee, parts, secret};
use wire::committee::{
    Admission, Committee, CommitteeError, Exclusion, Origin, Parameters, Preset, StateMachine,
    VoteAuthentication,
};
use wire::ids::{ClusterId, Digest, Epoch, NodeId, PublicKey, Slot};
use wire::keys::KeyError;

#[test]
fn the_file_reads_back() {
    let mut all = parts(6);
    all.preset = Preset::CrashHeavy;
    all.parameters = Parameters {
        n: 6,
        b: 1,
        u: 2,
        p: 1,
    };
    all.epoch = Epoch(3);
    all.operator = Some(client_secret(40).public_key());
    all.admission = Admission::List(vec![
        client_secret(42).public_key(),
        client_secret(41).public_key(),
        client_secret(42).public_key(),
    ]);
    all.state_machine = StateMachine::Noop;
    let all = Committee::new(all).unwrap();
    let again = Committee::parse(&all.to_toml()).unwrap();
    assert_eq!(again, all);
    assert_eq!(again.digest(), all.digest());
    assert_eq!(again.difference(&all), None);
    assert!(again.admission().admits(&client_secret(41).public_key()));
    assert!(!again.admission().admits(&client_secret(43).public_key()));
}

#[test]
fn an_origin_is_read_back_and_covered() {
    let origin = Origin {
        slot: Slot(4096),
        block: Digest([7; 32]),
        state_root: Digest([8; 32]),
    };
    let with = |origin: Origin| {
        let mut all = parts(4);
        all.origin = Some(origin);
        Committee::new(all)
    };
    let committee = with(origin).unwrap();
    assert_eq!(Committee::parse(&committee.to_toml()).unwrap(), committee);
    assert_eq!(committee.genesis().slot, Slot(4096));
    assert_eq!(committee.origin_root(), Some(origin.state_root));
    let (slot, block) = (Slot(5120), Digest([9; 32]));
    let state_root = block;
    for other in [
        Origin { slot, ..origin },
        Origin { block, ..origin },
        Origin {
            state_root,
            ..origin
        },
    ] {
        let other = with(other).unwrap();
        assert_ne!(other.digest(), committee.digest());
        assert_ne!(other.genesis().digest, committee.genesis().digest);
        let names = committee.difference(&other);
        assert_eq!(names, Some(vec!["origin".to_owned()]));
    }
    for slot in [Slot(0), Slot(u64::MAX)] {
        let refused = with(Origin { slot, ..origin });
        assert_eq!(refused, Err(CommitteeError::OriginSlot(slot)));
    }
}

/// Computed by an independent implementation of BLAKE3.
#[test]
fn digests_are_fixed() {
    let committee = committee(4);
    assert_eq!(
        format!("{:#}", committee.digest()),
        "10bfffca34197a09d13d6e5fd58453cfb197d21a4cef733bd04460e43de31cc5"
    );
    assert_eq!(
        format!("{:#}", committee.genesis().digest),
        "c42d9966133875bb3404b3c6f5896662478a064a7a0f60c2f521a5140887d4b0"
    );
    assert_eq!(
        committee.cluster_key(),
        [0x10, 0xbf, 0xff, 0xca, 0x34, 0x19, 0x7a, 0x09]
    );
}

#[test]
fn the_digest_covers_everything_but_addresses() {
    let base = committee(9);
    let changed = |change: &dyn Fn(&mut wire::committee::CommitteeParts)| {
        let mut other = parts(9);
        change(&mut other);
        let other = Committee::new(other).unwrap();
        let names = base.difference(&other).expect("they differ");
        (base.digest() != other.digest(), names)
    };
    let names = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    let address: SocketAddr = "10.1.2.3:4".parse().unwrap();
    assert_eq!(
        changed(&|parts| parts.members[2].address = address),
        (false, names(&["member 2 address"]))
    );
    assert_eq!(
        changed(&|parts| parts.cluster = ClusterId([1; 16])),
        (true, names(&["cluster"]))
    );
    assert_eq!(
        changed(&|parts| parts.epoch = Epoch(1)),
        (true, names(&["epoch"]))
    );
    assert_eq!(
        changed(&|parts| parts.members[1].public_key = client_secret(50).public_key()),
        (true, names(&["member 1 public_key"]))
    );
    assert_eq!(
        changed(&|parts| parts.admission = Admission::List(vec![])),
        (true, names(&["admission"]))
    );
    assert_eq!(
        changed(&|parts| parts.operator = Some(client_secret(50).public_key())),
        (true, names(&["operator"]))
    );
    assert_eq!(
        changed(&|parts| parts.state_machine = StateMachine::Noop),
        (true, names(&["state_machine"]))
    );
    assert_eq!(
        changed(&|parts| {
            parts.preset = Preset::Strict;
            parts.parameters = Preset::Strict.parameters(9).unwrap();
        }),
        (true, names(&["preset", "p"]))
    );
    assert_eq!(
        changed(&|parts| {
            parts.preset = Preset::CrashHeavy;
            parts.parameters = Parameters {
                n: 9,
                b: 1,
                u: 2,
                p: 2,
            };
        }),
        (true, names(&["preset", "b"]))
    );
    let two = Committee::new(parts(10)).unwrap();
    assert!(base.difference(&two).unwrap()[0].contains('b'));
}

#[test]
fn mac_votes_need_one_path() {
    let mut four = parts(4);
    four.vote_authentication = VoteAuthentication::Mac;
    let four = Committee::new(four).unwrap();
    assert_ne!(four.digest(), committee(4).digest());
    assert_eq!(Committee::parse(&four.to_toml()), Ok(four));
    let mut six = parts(6);
    six.vote_authentication = VoteAuthentication::Mac;
    assert_eq!(
        Committee::new(six),
        Err(CommitteeError::MacNeedsNoSlowPath { fast: 5, slow: 4 })
    );
}

#[test]
fn members_are_checked() {
    let refused = |change: &dyn Fn(&mut wire::committee::CommitteeParts)| {
        let mut other = parts(4);
        change(&mut other);
        Committee::new(other).unwrap_err()
    };
    assert_eq!(
        refused(&|parts| parts.members[3].public_key = secret(1).public_key()),
        CommitteeError::DuplicateKey {
            a: NodeId(1),
            b: NodeId(3)
        }
    );
    let error = refused(&|parts| parts.members[2].public_key = PublicKey([0; 32]));
    assert_eq!(error.key_error(), Some(KeyError::SmallOrder));
    assert_eq!(
        error.to_string(),
        "member 2: public_key: weak key: its order is small"
    );
    assert_eq!(
        refused(&|parts| parts.members.swap(0, 1)),
        CommitteeError::MemberOrder {
            id: NodeId(1),
            place: 0
        }
    );
    assert!(matches!(
        refused(&|parts| parts.members[1].address = parts.members[0].address),
        CommitteeError::DuplicateAddress { .. }
    ));
    assert_eq!(
        refused(&|parts| parts.members.clear()),
        CommitteeError::Size(0)
    );
    assert!(matches!(
        refused(&|parts| parts.operator = Some(PublicKey([0; 32]))),
        CommitteeError::OperatorKey(KeyError::SmallOrder)
    ));
    assert!(matches!(
        refused(&|parts| parts.admission = Admission::List(vec![PublicKey([0; 32])])),
        CommitteeError::AdmissionKey { .. }
    ));
}

fn said(text: &str) -> String {
    Committee::parse(text).unwrap_err().to_string()
}

#[test]
fn errors_in_the_file_say_where_and_what() {
    let good = committee(4).to_toml();
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    assert_eq!(
        said(&with("preset =", "prest =")),
        "committee file: line 4: unknown field `prest`, expected one of `cluster`, `epoch`, \
         `preset`, `b`, `u`, `p`, `admission`, `operator`, `client_authentication`, \
         `vote_authentication`, `state_machine`, `origin`, `member`; did you mean \
         `preset`?"
    );
    let typo = said(&with("public_key", "pubic_key"));
    assert!(
        typo.contains("line 15:") && typo.ends_with("did you mean `public_key`?"),
        "{typo}"
    );
    let strange = said(&with("preset =", "zzzzzzzz ="));
    assert!(
        strange.contains("zzzzzzzz") && !strange.contains("did you mean"),
        "{strange}"
    );
    assert!(said(&with("epoch = 0", "epoch = -1")).contains("line 3"));
    assert!(said(&with("id = 2", "id = 2\nid = 3")).contains("duplicate key"));
    assert_eq!(
        said(&with("\"balanced\"", "\"fast\"")),
        "committee file: preset = \"fast\": expected balanced, latency, crash-heavy, safety-heavy \
         or strict"
    );
    assert_eq!(
        said(&with("\"127.0.0.1:4101\"", "\"localhost:4101\"")),
        "committee file: member 1 address = \"localhost:4101\": expected an IP address and port, \
         as 10.0.0.7:4100"
    );
    assert_eq!(
        said(&with("b = 1", "b = 2")),
        "preset balanced gives b=1 u=1 p=1 for n=4, the file says b=2 u=1 p=1: remove b, u and p, \
         or choose crash-heavy or safety-heavy"
    );
    assert_eq!(
        said(&with("\"balanced\"", "\"safety-heavy\"")),
        "preset safety-heavy needs b > u, the file says b=1 u=1"
    );
    assert_eq!(
        said(&with(
            "preset = \"balanced\"\nb = 1\n",
            "preset = \"safety-heavy\"\nb = 2\n"
        )),
        "n=4 b=2 u=1 p=1 breaks condition C2 (q <= n-u: the slow quorum is reachable with u \
         faults): 3 is less than 4"
    );
    assert!(said(&with("admission = \"any\"", "admission = \"all\"")).contains("admission"));
    assert!(said(&with("id = 3", "id = 4")).contains("member 4 stands at place 3"));
    assert!(said(&with("public_key = \"", "public_key = \"x")).contains("64 hexadecimal digits"));
    assert!(said("").contains("missing field"));
    let long = " ".repeat(2 << 20);
    assert!(said(&long).contains("bytes"));
}

#[test]
fn the_shortest_file_takes_the_defaults() {
    let good = committee(4).to_toml();
    let short: String = good
        .lines()
        .filter(|line| {
            line.starts_with("cluster")
                || line.starts_with("[[")
                || line.starts_with("id")
                || line.starts_with("public_key")
                || line.starts_with("address")
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let short = Committee::parse(&short).unwrap();
    assert_eq!(short, committee(4));
    assert_eq!(short.exclusion(), Exclusion::On);
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,400}", at in 0usize..900, byte in any::<char>()) {
        let _ = Committee::parse(&text);
        let mut good: Vec<char> = committee(4).to_toml().chars().collect();
        let at = at % good.len();
        good[at] = byte;
        let _ = Committee::parse(&good.into_iter().collect::<String>());
    }
}
