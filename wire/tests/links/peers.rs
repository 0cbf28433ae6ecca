//! Between replicas.

use super::*;

/// Computed by independent implementations of X25519 and BLAKE3.
#[test]
fn a_status_or_vote_has_known_bytes() {
    let mut a = node(0, 1);
    let mut head = [0; HEADER_BYTES];
    let body = [7; 96];
    let fragment = Fragment::whole(&body);
    a.seal_peer(
        NodeId(1),
        Kind::Vote,
        View(5),
        Slot(6),
        fragment,
        &body,
        &mut head,
    );
    let mut expected = b"HPD1\x01\x03\x00\x00".to_vec();
    expected.extend([0x10, 0xbf, 0xff, 0xca, 0x34, 0x19, 0x7a, 0x09]);
    expected.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    for number in [0u64, 5, 6, 0] {
        expected.extend(number.to_le_bytes());
    }
    expected.extend([0, 0, 96, 0, 96, 0, 0, 0]);
    expected.extend([
        0x3b, 0xfd, 0xb3, 0xaf, 0x7c, 0xa5, 0x8a, 0xed, 0x19, 0xdf, 0x4c, 0x98, 0x7f, 0x46, 0x66,
        0xd3,
    ]);
    assert_eq!(head.as_slice(), expected);
}

#[test]
fn a_message_arrives_once_without_a_copy() {
    let (mut a, mut b) = acquainted();
    let vote = sealed(&mut a, 1, Kind::Vote, b"vote");
    let Some(Incoming::Peer(heard)) = hear(&mut b, &vote).unwrap() else {
        panic!("a peer's message");
    };
    let heard = heard.into_inner();
    assert_eq!((heard.from, heard.kind), (NodeId(0), Kind::Vote));
    assert_eq!((heard.view, heard.slot), (View(6), Slot(7)));
    assert!(matches!(&heard.body, Body::Whole(bytes) if &bytes[..] == b"vote"));
    assert_eq!(refusal(&mut b, &vote), Reject::Replayed);
}

#[test]
fn a_peer_that_has_not_heard_us_may_only_say_where_it_stands() {
    let (mut a, mut b) = (node(0, 3), node(1, 5));
    let vote = sealed(&mut a, 1, Kind::Vote, b"vote");
    assert_eq!(refusal(&mut b, &vote), Reject::StalePeerBoot);
    let status = sealed(&mut a, 1, Kind::Status, b"status");
    assert!(hear(&mut b, &status).unwrap().is_some());
    assert_eq!(
        (b.peer_boot(NodeId(0)), a.peer_boot(NodeId(1))),
        (Boot(3), Boot(0))
    );
    let status = sealed(&mut b, 0, Kind::Status, b"status");
    hear(&mut a, &status).unwrap().unwrap();
    let vote = sealed(&mut a, 1, Kind::Vote, b"vote");
    assert!(hear(&mut b, &vote).unwrap().is_some());
    // b restarts: what a said to its last boot is void, until a has heard the new one.
    let mut b = node(1, 6);
    let old = sealed(&mut a, 1, Kind::Vote, b"vote");
    assert_eq!(refusal(&mut b, &old), Reject::StalePeerBoot);
    assert_eq!(refusal(&mut b, &vote), Reject::StalePeerBoot);
    let status = sealed(&mut b, 0, Kind::Status, b"status");
    hear(&mut a, &status).unwrap().unwrap();
    assert_eq!(a.peer_boot(NodeId(1)), Boot(6));
    let vote = sealed(&mut a, 1, Kind::Vote, b"vote");
    assert!(hear(&mut b, &vote).unwrap().is_some());
    // An earlier process of b is not heard again.
    let mut earlier = node(1, 5);
    let status = sealed(&mut earlier, 0, Kind::Status, b"status");
    assert_eq!(refusal(&mut a, &status), Reject::OldBoot);
}

/// A peer's earlier processes can be heard again by whoever recorded them; the present one gets
/// through all the same.
#[test]
fn recordings_of_earlier_boots_do_not_cut_a_link() {
    let mut earlier = node(0, 3);
    let recording = sealed(&mut earlier, 1, Kind::Status, b"status");
    let (mut a, mut b) = (node(0, 7), node(1, 5));
    let status = sealed(&mut b, 0, Kind::Status, b"status");
    hear(&mut a, &status).unwrap().unwrap();
    // b restarts and hears the recording first.
    let mut b = node(1, 6);
    assert!(hear(&mut b, &recording).unwrap().is_some());
    assert_eq!(refusal(&mut b, &recording), Reject::StalePeerBoot);
    speak_until_linked(&mut a, &mut b).unwrap();
    assert_eq!(refusal(&mut b, &recording), Reject::OldBoot);
    // Once a later process has spoken, nothing of this one is taken, not even what names b.
    let late = sealed(&mut a, 1, Kind::Vote, b"vote");
    let status = sealed(&mut node(0, 8), 1, Kind::Status, b"status");
    hear(&mut b, &status).unwrap().unwrap();
    assert_eq!(refusal(&mut b, &late), Reject::OldBoot);
    // Nor do they hide what the present process says, though the counters are the same.
    let (mut a, mut b) = (node(0, 3), node(1, 6));
    assert!(hear(&mut b, &recording).unwrap().is_some());
    speak_until_linked(&mut a, &mut b).unwrap();
}

/// Each says where it stands, as replicas do all the time; then votes pass both ways.
fn speak_until_linked(a: &mut Node, b: &mut Node) -> Result<(), Reject> {
    for _ in 0..2 {
        let status = sealed(a, 1, Kind::Status, b"status");
        let _ = hear(b, &status);
        let status = sealed(b, 0, Kind::Status, b"status");
        let _ = hear(a, &status);
    }
    let vote = sealed(a, 1, Kind::Vote, b"vote");
    hear(b, &vote)?;
    let vote = sealed(b, 0, Kind::Vote, b"vote");
    hear(a, &vote)?;
    Ok(())
}

#[test]
fn strangers_and_misdirected_datagrams_are_refused() {
    let (mut a, mut b) = acquainted();
    let mut c = node(2, 1);
    let status = sealed(&mut c, 0, Kind::Status, b"status");
    hear(&mut a, &status).unwrap().unwrap();
    let mut for_c = vec![];
    for _ in 0..5 {
        for_c = sealed(&mut a, 2, Kind::Status, b"status");
    }
    assert_eq!(refusal(&mut b, &for_c), Reject::BadMac);
    let for_b = sealed(&mut a, 1, Kind::Status, b"status");
    assert_eq!(refusal(&mut a, &for_b), Reject::FromOurselves);
    assert_eq!(refusal(&mut c, &for_b), Reject::BadMac);
    let mut other = parts(4);
    other.epoch = Epoch(1);
    let other = Committee::new(other).unwrap();
    let foreign = sealed(&mut node_of(&other, 0, 1), 1, Kind::Status, b"status");
    assert_eq!(refusal(&mut b, &foreign), Reject::ForeignCluster);
    let big = committee(7);
    let outsider = sealed(&mut node_of(&big, 5, 1), 1, Kind::Status, b"status");
    let mut disguised = outsider.clone();
    disguised[8..16].copy_from_slice(&committee(4).cluster_key());
    assert_eq!(refusal(&mut b, &outsider), Reject::ForeignCluster);
    assert_eq!(refusal(&mut b, &disguised), Reject::NotInCommittee);
}

#[test]
fn an_endpoint_needs_its_own_key() {
    let committee = committee(4);
    let (blocks, messages) = buffers();
    let wrong = Endpoint::new(&config(&committee, &secret(2), 1, 1), blocks, messages);
    assert!(matches!(wrong.unwrap_err(), LinkError::WrongKey { .. }));
    let (blocks, messages) = buffers();
    let nobody = Endpoint::new(&config(&committee, &secret(4), 4, 1), blocks, messages);
    assert!(matches!(
        nobody.unwrap_err(),
        LinkError::NoSuchMember { .. }
    ));
    let (blocks, messages) = buffers();
    let own = secret(1);
    let tiny = EndpointConfig {
        datagram_bytes: HEADER_BYTES + GRAIN_BYTES - 1,
        ..config(&committee, &own, 1, 1)
    };
    let tiny = Endpoint::new(&tiny, blocks, messages);
    assert!(matches!(tiny.unwrap_err(), LinkError::DatagramBytes { .. }));
}

#[test]
fn a_block_lands_behind_the_record_header() {
    let (mut a, mut b) = acquainted();
    for total in [5, 100_000] {
        let body = block(total);
        let mut datagrams = fragments(&mut a, 1, &body, Kind::Propose);
        let last = datagrams.pop().unwrap();
        for datagram in &datagrams {
            assert!(hear(&mut b, datagram).unwrap().is_none());
        }
        if total > 1400 {
            let missing = b.missing(NodeId(0), Kind::Block, 77).unwrap();
            assert_eq!(missing.count(), 3);
            assert!(missing.contains(100_000 / GRAIN_BYTES));
            assert_eq!(b.partial_blocks().count(), 1);
        }
        let Some(Incoming::Peer(heard)) = hear(&mut b, &last).unwrap() else {
            panic!("complete");
        };
        let heard = heard.into_inner();
        assert_eq!((heard.kind, heard.slot), (Kind::Propose, Slot(9)));
        assert_eq!(heard.body.bytes(), body);
        let Body::Assembled(buffer, length) = heard.body else {
            panic!("a buffer of its own");
        };
        assert_eq!((buffer.0.len(), length), (BLOCK_BUFFER_BYTES, total));
        assert_eq!(b.missing(NodeId(0), Kind::Propose, 77), None);
    }
}

#[test]
fn a_partial_is_given_up_in_the_end() {
    let (mut a, mut b) = acquainted();
    let datagrams = fragments(&mut a, 1, &block(9000), Kind::Block);
    hear(&mut b, &datagrams[0]).unwrap();
    assert_eq!(b.counts().partials, 1);
    let late = NOW.after_ns(BLOCK_REASSEMBLY.idle_ns_max + 1);
    assert_eq!(b.expire(late), 1);
    assert_eq!((b.counts().partials, b.counts().partials_evicted), (0, 1));
    hear(&mut b, &datagrams[1]).unwrap();
    b.forget(NodeId(0), Kind::Propose, 77);
    assert_eq!(b.counts().partials, 0);
}

// Clients.

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Restarts of both ends, with anything ever said played back at any time.
    #[test]
    fn no_recording_cuts_a_link(
        steps in proptest::collection::vec((0u8..6, any::<prop::sample::Index>()), 1..60),
    ) {
        let mut ends = [node(0, 1), node(1, 1)];
        let mut boots = [1, 1];
        let mut said: Vec<(usize, Vec<u8>)> = vec![];
        let mut taken = std::collections::BTreeSet::new();
        for (step, pick) in steps {
            let id = usize::from(step % 2);
            match step {
                0 | 1 => {
                    boots[id] += 1;
                    ends[id] = node(id, boots[id]);
                }
                2 | 3 => {
                    for kind in [Kind::Status, Kind::Vote] {
                        said.push((1 - id, sealed(&mut ends[id], 1 - id, kind, b"word")));
                    }
                }
                _ if said.is_empty() => {}
                _ => {
                    let index = pick.index(said.len());
                    let (to, datagram) = &said[index];
                    if hear(&mut ends[*to], datagram).is_ok() {
                        // A vote is for one process of its receiver, a status once for each.
                        let vote = datagram[5] == Kind::Vote as u8;
                        let process = if vote { 0 } else { boots[*to] };
                        prop_assert!(taken.insert((index, process)), "taken twice");
                    }
                }
            }
        }
        let [a, b] = &mut ends;
        prop_assert_eq!(speak_until_linked(a, b), Ok(()));
    }

    /// Fragments over a bad network: in any order, some twice, some never.
    #[test]
    fn fragments_reassemble_or_stay_partial(
        total in 1500usize..40_000,
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..90),
    ) {
        let (mut a, mut b) = acquainted();
        let body = block(total);
        let count = fragments(&mut a, 1, &body, Kind::Block).len();
        let mut arrived = vec![false; count];
        for index in order {
            // Sealed anew each time, as a retransmission is.
            let index = index.index(count);
            let datagram = fragments(&mut a, 1, &body, Kind::Block).remove(index);
            let heard = hear(&mut b, &datagram).unwrap();
            arrived[index] = true;
            if let Some(Incoming::Peer(heard)) = heard {
                prop_assert!(arrived.iter().all(|arrived| *arrived));
                prop_assert_eq!(heard.body.bytes(), &body[..]);
                return Ok(());
            }
        }
        let missing = b.missing(NodeId(0), Kind::Block, 77);
        prop_assert_eq!(missing.is_some(), arrived.contains(&true));
        if let Some(missing) = missing {
            for (index, arrived) in arrived.iter().enumerate() {
                prop_assert_eq!(missing.contains(3 * index), !arrived);
            }
        }
    }
}
