//! Datagrams that no node should trust: random bytes and cut messages of every length.

use std::net::UdpSocket;
use std::time::Duration;

use crate::admin;
use crate::cluster::{Cluster, NODES, assert_ok};

#[test]
fn datagrams_of_every_length_are_refused_and_counted() {
    let mut cluster = Cluster::start("garbage", &[]);
    assert_ok(&cluster.hippo(&["put", "k", "before"]), "put");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("socket");
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = vec![0u8; 65_507];
    for chunk in bytes.chunks_mut(8) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        chunk.copy_from_slice(&random.to_le_bytes()[..chunk.len()]);
    }
    for length in 0..=bytes.len() {
        // Every other one looks like ours as far as it goes: magic, version and a kind.
        let mut datagram = bytes[..length].to_vec();
        if length % 2 == 0 && length >= 8 {
            datagram[..4].copy_from_slice(b"HPD1");
            datagram[4] = 1;
            datagram[5] = (length / 2 % 110) as u8;
        }
        let node = length % NODES;
        // A refused send (buffers full) is a lost datagram.
        let _ = socket.send_to(&datagram, cluster.address(node));
        if length % 64 == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    assert_ok(
        &cluster.hippo(&["put", "k", "after"]),
        "put after the garbage",
    );
    for node in 0..NODES {
        assert!(
            cluster.is_running(node),
            "node {node} runs: {}",
            cluster.log(node)
        );
        let status = admin::status(cluster.admin(node)).expect("status");
        let rejects = status["rejects"].as_object().expect("rejects");
        let counted: u64 = rejects.values().filter_map(serde_json::Value::as_u64).sum();
        assert!(counted > 1000, "node {node} counted {counted}: {rejects:?}");
    }
}
