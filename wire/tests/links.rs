//! Links between replicas and clients: what passes, what is refused and for which reason.

mod support;

use std::net::SocketAddr;

use proptest::prelude::*;
use support::{address, client_secret, committee, parts, secret};
use wire::bytes::{HeapBuffers, HeapShared};
use wire::committee::{Admission, Committee};
use wire::header::{Fragment, HEADER_BYTES, Header, Kind, parts as message_parts};
use wire::ids::{Boot, Epoch, Instant, NodeId, PublicKey, Slot, View};
use wire::limits::{
    BLOCK_BUFFER_BYTES, DATAGRAM_BYTES_ETHERNET, GRAIN_BYTES, RECORD_HEADER_BYTES,
    REQUEST_BYTES_MAX,
};
use wire::link::{
    BLOCK_REASSEMBLY, Body, BodyHash, ClientLink, Endpoint, EndpointConfig, Heard, Incoming,
    LinkError, MESSAGE_REASSEMBLY,
};
use wire::reject::Reject;

type Node = Endpoint<HeapBuffers>;

fn config<'a>(
    committee: &'a Committee,
    secret: &'a wire::keys::NodeSecret,
    me: usize,
    boot: u32,
) -> EndpointConfig<'a> {
    EndpointConfig {
        me: NodeId(me as u16),
        committee,
        secret,
        boot: Boot(boot),
        datagram_bytes: DATAGRAM_BYTES_ETHERNET,
        cookie_secret: [boot as u8; 32],
        blocks: BLOCK_REASSEMBLY,
        messages: MESSAGE_REASSEMBLY,
    }
}

fn buffers() -> (HeapBuffers, HeapBuffers) {
    let bytes_each = RECORD_HEADER_BYTES + REQUEST_BYTES_MAX;
    (
        HeapBuffers {
            bytes_each: BLOCK_BUFFER_BYTES,
        },
        HeapBuffers { bytes_each },
    )
}

fn node_of(committee: &Committee, id: usize, boot: u32) -> Node {
    let (blocks, messages) = buffers();
    Endpoint::new(&config(committee, &secret(id), id, boot), blocks, messages).unwrap()
}

fn node(id: usize, boot: u32) -> Node {
    node_of(&committee(4), id, boot)
}

const NOW: Instant = Instant(1);

fn sealed(from: &mut Node, to: usize, kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut head = [0; HEADER_BYTES];
    let (view, slot) = (View(6), Slot(7));
    let fragment = Fragment::whole(body);
    from.seal_peer(
        NodeId(to as u16),
        kind,
        view,
        slot,
        fragment,
        body,
        &mut head,
    );
    [&head[..], body].concat()
}

fn hear(node: &mut Node, datagram: &[u8]) -> Result<Option<Incoming<HeapBuffers>>, Reject> {
    node.receive(NOW, address(0), &HeapShared::copy_from(datagram))
}

fn refusal(node: &mut Node, datagram: &[u8]) -> Reject {
    hear(node, datagram).unwrap_err()
}

/// Both have heard each other.
fn acquainted() -> (Node, Node) {
    let (mut a, mut b) = (node(0, 1), node(1, 1));
    for _ in 0..2 {
        let status = sealed(&mut a, 1, Kind::Status, b"status");
        hear(&mut b, &status).unwrap().unwrap();
        let status = sealed(&mut b, 0, Kind::Status, b"status");
        hear(&mut a, &status).unwrap().unwrap();
    }
    (a, b)
}

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

fn block(total: usize) -> Vec<u8> {
    (0..total).map(|at| (at % 253) as u8).collect()
}

fn fragments(from: &mut Node, to: usize, body: &[u8], kind: Kind) -> Vec<Vec<u8>> {
    message_parts(body.len(), DATAGRAM_BYTES_ETHERNET)
        .map(|(offset_grains, range)| {
            let fragment = Fragment {
                message: 77,
                offset_grains,
                total: body.len() as u32,
            };
            let part = &body[range];
            let mut head = [0; HEADER_BYTES];
            let hash = BodyHash::of(part);
            let (to, view, slot) = (NodeId(to as u16), View(0), Slot(9));
            from.seal_peer_hashed(to, kind, view, slot, fragment, part.len(), &hash, &mut head);
            [&head[..], part].concat()
        })
        .collect()
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

fn client(name: u8) -> ClientLink {
    ClientLink::new(&committee(4), &client_secret(name), 1000)
}

fn from_client(client: &ClientLink, to: usize, kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut head = [0; HEADER_BYTES];
    let to = NodeId(to as u16);
    client.seal(to, kind, Fragment::whole(body), body, &mut head);
    [&head[..], body].concat()
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

fn hear_at(
    node: &mut Node,
    now: Instant,
    from: SocketAddr,
    datagram: &[u8],
) -> Result<Option<Incoming<HeapBuffers>>, Reject> {
    node.receive(now, from, &HeapShared::copy_from(datagram))
}

/// The node's answer in a greeting; checks that it amplifies nothing.
fn answer(node: &mut Node, now: Instant, from: SocketAddr, datagram: &[u8]) -> Vec<u8> {
    match hear_at(node, now, from, datagram) {
        Ok(Some(Incoming::Respond {
            to,
            datagram: answer,
        })) => {
            assert_eq!(to, from);
            assert!(answer.len() <= datagram.len());
            answer.to_vec()
        }
        other => panic!("not an answer: {other:?}"),
    }
}

fn respond(client: &mut ClientLink, now: Instant, datagram: &[u8]) -> Vec<u8> {
    match client.receive(now, datagram) {
        Ok(Heard::Respond { datagram, .. }) => datagram.to_vec(),
        other => panic!("not a response: {other:?}"),
    }
}

fn greet(client: &mut ClientLink, node: &mut Node, now: Instant, from: SocketAddr) {
    let hello = client.hello(now, node.me());
    let cookie = answer(node, now, from, &hello);
    let hello = respond(client, now, &cookie);
    let welcome = answer(node, now, from, &hello);
    assert!(matches!(
        client.receive(now, &welcome),
        Ok(Heard::Welcome { .. })
    ));
    assert!(client.is_linked(node.me()));
}

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
