//! Datagrams that nobody honest sends.

use super::*;

/// Every byte of every kind of sealed datagram is covered.
#[test]
fn one_changed_byte_is_refused() {
    let (mut a, mut b) = acquainted();
    let mut me = client(9);
    greet(&mut me, &mut b, NOW, at(1));
    let vote = sealed(&mut a, 1, Kind::Vote, &[5; 96]);
    let block = fragments(&mut a, 1, &block(3000), Kind::Propose).remove(0);
    let request = from_client(&me, 1, Kind::Request, &[6; 200]);
    for (from, datagram) in [(address(0), vote), (address(0), block), (at(1), request)] {
        for byte in 0..datagram.len() {
            for bit in [0, 7] {
                let mut changed = datagram.clone();
                changed[byte] ^= 1 << bit;
                match hear_at(&mut b, NOW, from, &changed) {
                    Err(_) => {}
                    // A changed client key is a stranger's: it is worth a cookie.
                    Ok(Some(Incoming::Respond { .. })) => assert!((16..48).contains(&byte)),
                    other => panic!("byte {byte}: {other:?}"),
                }
            }
        }
        assert!(hear_at(&mut b, NOW, from, &datagram).is_ok(), "itself good");
    }
    let mut head = [0; HEADER_BYTES];
    let body = [7; 100];
    let (kind, client) = (Kind::Reply, *me.client());
    let fragment = Fragment::whole(&body);
    b.seal_client(
        &client,
        kind,
        View(1),
        Slot(2),
        3,
        fragment,
        &body,
        &mut head,
    );
    let reply = [&head[..], &body].concat();
    for byte in 0..reply.len() {
        let mut changed = reply.clone();
        changed[byte] ^= 1;
        assert!(me.receive(NOW, &changed).is_err(), "byte {byte}");
    }
    assert!(me.receive(NOW, &reply).is_ok());
}

#[test]
fn every_length_of_zeros_and_of_a_header_is_survived() {
    let (mut a, mut b) = acquainted();
    let mut me = client(9);
    let whole = fragments(&mut a, 1, &block(1392), Kind::Propose).remove(0);
    for length in (0..2000).chain([65_506, 65_507]) {
        assert!(hear(&mut b, &vec![0; length]).is_err());
        let mut cut = whole.clone();
        cut.resize(length, 0);
        if length != whole.len() {
            assert!(hear(&mut b, &cut).is_err(), "{length}");
        }
        assert!(me.receive(NOW, &cut).is_err());
    }
}

/// A header with the right cluster and otherwise any content.
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let kinds = proptest::sample::select(Kind::ALL);
    (
        proptest::collection::vec(any::<u8>(), HEADER_BYTES..600),
        kinds,
        proptest::sample::select(vec![0u16, 1, 2, 3, 4, u16::MAX]),
        0usize..4,
    )
        .prop_map(|(mut bytes, kind, sender, depth)| {
            bytes[..4].copy_from_slice(b"HPD1");
            bytes[4] = 1;
            bytes[5] = kind as u8;
            bytes[6..8].copy_from_slice(&sender.to_le_bytes());
            if depth > 0 {
                bytes[8..16].copy_from_slice(&committee(4).cluster_key());
            }
            let body = (bytes.len() - HEADER_BYTES) as u16;
            if depth > 1 {
                bytes[58..60].copy_from_slice(&body.to_le_bytes());
            }
            if depth > 2 {
                bytes[56..58].fill(0);
                bytes[60..64].copy_from_slice(&u32::from(body).to_le_bytes());
            }
            bytes
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_datagrams_never_panic_and_store_nothing(
        junk in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..400), 1..4),
        shaped in proptest::collection::vec(plausible(), 1..12),
    ) {
        let mut there = node(1, 1);
        let mut me = client(9);
        for datagram in junk.iter().chain(&shaped) {
            let _ = Header::split(datagram);
            match hear(&mut there, datagram) {
                Err(_) | Ok(Some(Incoming::Respond { .. })) => {}
                other => prop_assert!(false, "{:?}", other),
            }
            let harmless = matches!(
                me.receive(NOW, datagram),
                Err(_) | Ok(Heard::Respond { .. })
            );
            prop_assert!(harmless);
        }
        prop_assert_eq!(there.counts(), Default::default());
        prop_assert_eq!(there.peer_boot(NodeId(0)), Boot(0));
    }
}
