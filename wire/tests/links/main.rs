//! Links between replicas and clients: what passes, what is refused and for which reason.

mod clients;
mod hostile;
mod peers;
#[path = "../support/mod.rs"]
mod support;
mod whereabouts;

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
