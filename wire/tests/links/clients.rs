//! Between a replica and its clients.

use super::*;

#[test]
fn a_greeting_and_then_messages_both_ways() {
    let (mut me, mut there) = (client(9), node(2, 4));
    there.set_progress(View(3), Slot(44));
    let hello = me.hello(NOW, NodeId(2));
    let cookie = answer(&mut there, NOW, at(1), &hello);
    assert_eq!(there.counts().clients, 0, "a stranger leaves no trace");
    let hello = respond(&mut me, NOW, &cookie);
    let welcome = answer(&mut there, NOW, at(1), &hello);
    match me.receive(NOW, &welcome).unwrap() {
        Heard::Welcome {
            from,
            boot,
            view,
            executed,
            datagram_bytes,
        } => {
            assert_eq!((from, boot), (NodeId(2), Boot(4)));
            assert_eq!((view, executed), (View(3), Slot(44)));
            assert_eq!(datagram_bytes, DATAGRAM_BYTES_ETHERNET);
        }
        other => panic!("{other:?}"),
    }
    let request = from_client(&me, 2, Kind::Request, b"request");
    let Ok(Some(Incoming::Client(heard))) = hear_at(&mut there, NOW, at(1), &request) else {
        panic!("a client's message");
    };
    assert_eq!((heard.client, heard.kind), (*me.client(), Kind::Request));
    assert_eq!(heard.body.bytes(), b"request");
    let mut head = [0; HEADER_BYTES];
    let body = b"reply";
    let (kind, fragment) = (Kind::Reply, Fragment::whole(body));
    let to = there.seal_client(
        me.client(),
        kind,
        View(3),
        Slot(5),
        6,
        fragment,
        body,
        &mut head,
    );
    assert_eq!(to, Some(at(1)));
    let datagram = [&head[..], body].concat();
    let Heard::Message(heard) = me.receive(NOW, &datagram).unwrap() else {
        panic!("a reply");
    };
    assert_eq!(
        (heard.from, heard.kind, heard.body),
        (NodeId(2), Kind::Reply, &body[..])
    );
    assert_eq!(
        (heard.view, heard.slot, heard.number),
        (View(3), Slot(5), 6)
    );
    let mut other = client(8);
    assert_eq!(
        other.receive(NOW, &datagram).unwrap_err(),
        Reject::UnknownClient
    );
    let stranger = PublicKey([1; 32]);
    assert_eq!(
        there.seal_client(
            &stranger,
            kind,
            View(0),
            Slot(0),
            0,
            fragment,
            body,
            &mut head
        ),
        None
    );
}

#[test]
fn a_restarted_node_challenges_again() {
    let (mut me, mut there) = (client(9), node(2, 1));
    greet(&mut me, &mut there, NOW, at(1));
    let mut there = node(2, 2);
    let request = from_client(&me, 2, Kind::Request, &[0; 128]);
    let later = NOW.after_ns(1_000_000_000);
    let cookie = answer(&mut there, later, at(1), &request);
    let hello = respond(&mut me, later, &cookie);
    assert!(matches!(
        me.receive(later, &cookie).unwrap_err(),
        Reject::RateLimited
    ));
    let cookie = answer(&mut there, later, at(1), &hello);
    let hello = respond(&mut me, later, &cookie);
    let welcome = answer(&mut there, later, at(1), &hello);
    assert!(matches!(
        me.receive(later, &welcome),
        Ok(Heard::Welcome { .. })
    ));
    assert!(matches!(
        hear_at(&mut there, later, at(1), &request),
        Ok(Some(Incoming::Client(_)))
    ));
}

#[test]
fn lost_datagrams_of_a_greeting_are_made_up_for() {
    let (mut me, mut there) = (client(9), node(2, 1));
    let first = me.hello(NOW, NodeId(2));
    let cookie = answer(&mut there, NOW, at(1), &first);
    // A second HELLO leaves before the first is answered: the late answer still counts.
    let _ = me.hello(NOW, NodeId(2));
    let hello = respond(&mut me, NOW, &cookie);
    let _lost = answer(&mut there, NOW, at(1), &hello);
    // The WELCOME was lost: known and at its address, the client needs no cookie.
    let hello = me.hello(NOW, NodeId(2));
    let welcome = answer(&mut there, NOW, at(1), &hello);
    assert!(matches!(
        me.receive(NOW, &welcome),
        Ok(Heard::Welcome { .. })
    ));
    // An old WELCOME says nothing about a later greeting.
    let _ = me.hello(NOW, NodeId(2));
    assert_eq!(me.receive(NOW, &welcome).unwrap_err(), Reject::Replayed);
}

#[test]
fn replies_do_not_follow_a_replay_from_elsewhere() {
    let (mut me, mut there) = (client(9), node(2, 1));
    greet(&mut me, &mut there, NOW, at(1));
    let request = from_client(&me, 2, Kind::Request, &[0; 128]);
    let _challenge = answer(&mut there, NOW, at(2), &request);
    assert_eq!(there.client_address(me.client()), Some(at(1)));
    // The client itself moves by returning a cookie from the new address.
    let hello = me.hello(NOW, NodeId(2));
    let cookie = answer(&mut there, NOW, at(2), &hello);
    let hello = respond(&mut me, NOW, &cookie);
    let _welcome = answer(&mut there, NOW, at(2), &hello);
    assert_eq!(there.client_address(me.client()), Some(at(2)));
    assert_eq!(there.counts().clients, 1);
}

#[test]
fn a_cookie_serves_one_client_and_address() {
    let (mut me, mut there) = (client(9), node(2, 1));
    let hello = me.hello(NOW, NodeId(2));
    let cookie = answer(&mut there, NOW, at(1), &hello);
    let hello = respond(&mut me, NOW, &cookie);
    // From elsewhere, or too late, it is worth a new cookie only.
    let _cookie = answer(&mut there, NOW, at(2), &hello);
    let _cookie = answer(&mut there, NOW.after_ns(30_000_000_000), at(1), &hello);
    assert_eq!(there.counts().clients, 0);
    // The right cookie without the key makes no link.
    let mut forged = hello.clone();
    forged[79] ^= 1;
    assert_eq!(
        hear_at(&mut there, NOW, at(1), &forged).unwrap_err(),
        Reject::BadMac
    );
    assert_eq!(there.counts().clients, 0);
    let short = &from_client(&me, 2, Kind::Read, b"")[..];
    assert_eq!(
        hear_at(&mut there, NOW, at(1), short).unwrap_err(),
        Reject::UnknownClient
    );
}

#[test]
fn a_weak_client_key_gets_no_link() {
    let mut there = node(2, 1);
    let me = client(9);
    let weak = {
        let mut datagram = from_client(&me, 2, Kind::Request, &[0; 128]);
        datagram[16..48].fill(0);
        datagram
    };
    let cookie = answer(&mut there, NOW, at(1), &weak);
    let mut hello = client(9).hello(NOW, NodeId(2)).to_vec();
    hello[16..48].fill(0);
    hello[80..96].copy_from_slice(&cookie[80..96]);
    assert_eq!(
        hear_at(&mut there, NOW, at(1), &hello).unwrap_err(),
        Reject::WeakKey
    );
}

#[test]
fn a_list_admits_its_keys_and_is_silent_to_others() {
    let mut parts = parts(4);
    parts.admission = Admission::List(vec![client_secret(9).public_key()]);
    let committee = Committee::new(parts).unwrap();
    let mut there = node_of(&committee, 2, 1);
    let mut stranger = ClientLink::new(&committee, &client_secret(8), 5);
    let hello = stranger.hello(NOW, NodeId(2));
    assert_eq!(
        hear_at(&mut there, NOW, at(1), &hello).unwrap_err(),
        Reject::ClientNotAdmitted
    );
    let mut listed = ClientLink::new(&committee, &client_secret(9), 5);
    greet(&mut listed, &mut there, NOW, at(1));
}

#[test]
fn greetings_that_cost_public_key_work_are_rationed() {
    let (mut me, mut there) = (client(9), node(2, 1));
    let hello = me.hello(NOW, NodeId(2));
    let cookie = answer(&mut there, NOW, at(1), &hello);
    let mut forged = respond(&mut me, NOW, &cookie);
    let good = forged.clone();
    forged[79] ^= 1;
    let mut worked = 0;
    while hear_at(&mut there, NOW, at(1), &forged).unwrap_err() == Reject::BadMac {
        worked += 1;
        assert!(worked <= 4096);
    }
    assert_eq!(worked, 4096);
    assert_eq!(
        hear_at(&mut there, NOW, at(1), &good).unwrap_err(),
        Reject::RateLimited
    );
    let _welcome = answer(&mut there, NOW.after_ns(2_000_000), at(1), &good);
}

#[test]
fn a_large_request_and_a_large_reply_travel_in_fragments() {
    let (mut me, mut there) = (client(9), node(2, 1));
    greet(&mut me, &mut there, NOW, at(1));
    let body = block(50_000);
    let parts: Vec<_> = message_parts(body.len(), DATAGRAM_BYTES_ETHERNET).collect();
    let last = parts.len() - 1;
    for (index, (offset_grains, range)) in parts.iter().rev().enumerate() {
        let fragment = Fragment {
            message: 5,
            offset_grains: *offset_grains,
            total: body.len() as u32,
        };
        let part = &body[range.clone()];
        let mut head = [0; HEADER_BYTES];
        me.seal(NodeId(2), Kind::Request, fragment, part, &mut head);
        let datagram = [&head[..], part].concat();
        match hear_at(&mut there, NOW, at(1), &datagram).unwrap() {
            None => assert!(index < last),
            Some(Incoming::Client(heard)) => {
                assert_eq!(index, last);
                assert_eq!(heard.body.bytes(), body);
            }
            other => panic!("{other:?}"),
        }
    }
    for (index, (offset_grains, range)) in parts.iter().enumerate() {
        let fragment = Fragment {
            message: 5,
            offset_grains: *offset_grains,
            total: body.len() as u32,
        };
        let part = &body[range.clone()];
        let mut head = [0; HEADER_BYTES];
        let (kind, view, slot) = (Kind::Reply, View(0), Slot(1));
        let client = *me.client();
        there.seal_client(&client, kind, view, slot, 5, fragment, part, &mut head);
        let datagram = [&head[..], part].concat();
        match me.receive(NOW, &datagram).unwrap() {
            Heard::Nothing => assert!(index < last),
            Heard::Message(heard) => {
                assert_eq!(index, last);
                assert_eq!(heard.body, body);
            }
            other => panic!("{other:?}"),
        }
    }
}
