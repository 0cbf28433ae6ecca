//! Peers that move, and strangers that speak to the sockets of discovery.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use wire::beacon::{
    Addresses, BEACON_MAGIC, Beacon, CHECKS_PER_SECOND, Claim, Incarnation, sign_beacon,
};
use wire::committee::Committee;
use wire::ids::{Boot, Epoch, NodeId};
use wire::keys::NodeSecret;
use wire::link::{PROBE_MAGIC, ProbeLinks};

use crate::admin;
use crate::cluster::{Cluster, NODES, PATIENCE, assert_ok, stdout};

/// Puts settings into a section of a node's configuration.
fn configure(cluster: &Cluster, node: usize, section: &str, settings: &str) {
    let file = cluster.node_directory(node).join("node.toml");
    let text = fs::read_to_string(&file).expect("node.toml");
    let head = format!("[{section}]\n");
    let text = if text.contains(&head) {
        text.replace(&head, &format!("{head}{settings}\n"))
    } else {
        format!("{text}\n{head}{settings}\n")
    };
    fs::write(&file, text).expect("node.toml");
}

fn move_to(cluster: &Cluster, node: usize, port: u16) -> SocketAddr {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    configure(
        cluster,
        node,
        "network",
        &format!("address = \"{address}\""),
    );
    address
}

/// Beacons on loopback, in a group of this cluster alone.
fn turn_beacons_on(cluster: &Cluster) -> SocketAddr {
    let group = SocketAddr::from(([239, 255, 72, 80], cluster.base_port + 90));
    for node in 0..NODES {
        let settings = format!("beacon = true\ngroup = \"{group}\"\ninterface = \"127.0.0.1\"");
        configure(cluster, node, "discovery", &settings);
    }
    group
}

/// What `by` says of its peer `of`.
fn sight(cluster: &Cluster, by: usize, of: usize) -> Option<serde_json::Value> {
    let status = admin::status(cluster.admin(by))?;
    let peers = status["peers"].as_array()?.clone();
    peers.into_iter().find(|peer| peer["id"] == of)
}

fn follows(cluster: &Cluster, by: usize, of: usize, address: SocketAddr) -> bool {
    sight(cluster, by, of).is_some_and(|peer| {
        peer["address"] == address.to_string()
            && peer["state"] == "up"
            && peer["round_trip_ns"].as_u64().is_some()
    })
}

fn secret(cluster: &Cluster, node: usize) -> NodeSecret {
    let file = cluster.node_directory(node).join("node.key");
    NodeSecret::from_pem(&fs::read_to_string(file).expect("key file")).expect("key")
}

fn committee(cluster: &Cluster) -> Committee {
    let file = cluster.directory.join("committee.toml");
    Committee::parse(&fs::read_to_string(file).expect("committee file")).expect("committee")
}

#[test]
fn a_node_that_moves_is_followed() {
    let mut cluster = Cluster::start("moves", &[]);
    assert_ok(&cluster.hippo(&["put", "k", "before"]), "put");
    cluster.wait("every peer is measured", PATIENCE, || {
        (1..NODES).all(|of| follows(&cluster, 0, of, cluster.address(of)))
    });
    assert_eq!(cluster.terminate(3), Some(0));
    let address = move_to(&cluster, 3, cluster.base_port + 60);
    cluster.spawn(3);
    cluster.wait_ready(3);
    cluster.wait("all follow node 3", PATIENCE, || {
        (0..3).all(|by| follows(&cluster, by, 3, address))
    });
    // Nothing commits now without node 3.
    cluster.kill(2);
    assert_ok(&cluster.hippo(&["put", "k", "after"]), "put with node 3");
    cluster.wait("node 3 executes", PATIENCE, || {
        cluster.executed(3) == cluster.executed(0)
    });
    cluster.wait("node 2 is down", PATIENCE, || {
        sight(&cluster, 0, 2).is_some_and(|peer| peer["state"] == "down" && peer["up"] == false)
    });
    let listed = cluster.hippo(&["status"]);
    assert!(stdout(&listed).contains("peers up"), "{}", stdout(&listed));
}

#[test]
fn a_node_that_restarts_knows_only_the_file_and_finds_one_that_moved() {
    let mut cluster = Cluster::prepare("finds", &[]);
    let address = move_to(&cluster, 3, cluster.base_port + 61);
    cluster.start_all();
    cluster.kill(1);
    cluster.spawn(1);
    cluster.wait_ready(1);
    cluster.wait("node 1 finds node 3", PATIENCE, || {
        follows(&cluster, 1, 3, address)
    });
    let listed = std::process::Command::new(crate::cluster::binary("hippo"))
        .args(["member", "list", "-o", "csv", "--network"])
        .arg(&cluster.directory)
        .output()
        .expect("hippo runs");
    assert_ok(&listed, "member list");
    assert!(stdout(&listed).contains(&address.to_string()));
}

#[test]
fn a_cluster_that_moved_as_a_whole_finds_itself_by_beacons() {
    let mut cluster = Cluster::prepare("beacons", &[]);
    turn_beacons_on(&cluster);
    let moved: Vec<SocketAddr> = (0..NODES)
        .map(|node| move_to(&cluster, node, cluster.base_port + 50 + node as u16))
        .collect();
    cluster.start_all();
    for by in 0..NODES {
        for of in (0..NODES).filter(|of| *of != by) {
            cluster.wait(&format!("{by} finds {of}"), PATIENCE, || {
                follows(&cluster, by, of, moved[of])
            });
        }
    }
    // Clients have files alone.
    let file = cluster.directory.join("committee.toml");
    let mut text = fs::read_to_string(&file).expect("committee");
    for (node, address) in moved.iter().enumerate() {
        text = text.replace(&cluster.address(node).to_string(), &address.to_string());
    }
    fs::write(&file, text).expect("committee");
    assert_ok(&cluster.hippo(&["put", "k", "v"]), "put");
}

fn claim(node: u16, boot: u32, address: SocketAddr) -> Claim {
    Claim {
        node: NodeId(node),
        incarnation: Incarnation {
            boot: Boot(boot),
            counter: 0,
        },
        addresses: Addresses::new(address, None).expect("an address"),
    }
}

/// Everything that somebody without a member's key can say, each naming `back` as its address.
fn strange_datagrams(cluster: &Cluster, back: SocketAddr) -> Vec<Vec<u8>> {
    let own = committee(cluster);
    let mut other = own.parts().clone();
    other.epoch = Epoch(77);
    let other = Committee::new(other).expect("another committee");
    let stranger = NodeSecret::generate(&[0x5e; 32]).expect("a key");
    let three = secret(cluster, 3);
    let said = claim(3, 50, back);
    let mut probes = ProbeLinks::new(&other, NodeId(3), &three, Boot(50));
    let foreign_probe = probes.seal(NodeId(0), &said, true, None).1.to_vec();
    let mut probes = ProbeLinks::new(&own, NodeId(3), &stranger, Boot(50));
    let forged_probe = probes.seal(NodeId(0), &said, true, None).1.to_vec();
    let mut cut = forged_probe.clone();
    cut.truncate(60);
    let mut datagrams = vec![
        sign_beacon(&other, &three, &said).to_vec(),
        sign_beacon(&own, &stranger, &said).to_vec(),
        foreign_probe,
        forged_probe,
        cut,
        vec![],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 1400],
    ];
    for magic in [BEACON_MAGIC, PROBE_MAGIC, *b"HPD1"] {
        for length in [4, 80, 112, 152, 153, 1400] {
            let mut garbage = vec![0x5a; length];
            garbage[..4].copy_from_slice(&magic);
            datagrams.push(garbage);
        }
    }
    // A word between replicas that nobody sealed: right cluster, right sender, wrong MAC.
    let mut status = vec![0; 200];
    status[..4].copy_from_slice(b"HPD1");
    status[4] = 1;
    status[8..16].copy_from_slice(&own.cluster_key());
    datagrams.push(status);
    datagrams
}

#[test]
fn strangers_get_no_reply_on_any_socket() {
    let mut cluster = Cluster::prepare("strangers", &[]);
    let group = turn_beacons_on(&cluster);
    cluster.start_all();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("socket");
    let own = socket.local_addr().expect("address");
    for datagram in strange_datagrams(&cluster, own) {
        for node in 0..NODES {
            socket
                .send_to(&datagram, cluster.address(node))
                .expect("sent");
        }
        socket.send_to(&datagram, group).expect("sent to the group");
    }
    socket
        .set_read_timeout(Some(Duration::from_millis(2500)))
        .expect("timeout");
    let mut bytes = [0; 2048];
    let answer = socket.recv_from(&mut bytes);
    assert!(answer.is_err(), "an answer to a stranger: {answer:?}");
    for node in 0..NODES {
        let status = admin::status(cluster.admin(node)).expect("status");
        let rejects = &status["rejects"];
        for reason in [
            "foreign_cluster",
            "bad_signature",
            "bad_mac",
            "length_mismatch",
        ] {
            // Node 3 refuses what names node 3 by that alone.
            let counted = rejects[reason].as_u64().unwrap_or(0);
            assert!(counted > 0 || node == 3, "node {node}: {reason}: {rejects}");
        }
        for of in (0..NODES).filter(|of| *of != node) {
            let seen = sight(&cluster, node, of).expect("a peer");
            assert_eq!(seen["address"], cluster.address(of).to_string());
        }
    }
    assert_ok(&cluster.hippo(&["put", "k", "v"]), "put");
}

fn signature_checks(cluster: &Cluster, node: usize) -> u64 {
    let page = admin::get(cluster.admin(node), "/metrics").expect("metrics");
    let name = "hippo_discovery_signature_checks_total ";
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    line.expect("the metric").trim().parse().expect("a number")
}

#[test]
fn a_flood_of_beacons_costs_few_signature_checks() {
    let cluster = Cluster::start("flood", &[]);
    let own = committee(&cluster);
    let stranger = NodeSecret::generate(&[0x5e; 32]).expect("a key");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("socket");
    let back = socket.local_addr().expect("address");
    let forged: Vec<Beacon> = (0..500)
        .map(|number| sign_beacon(&own, &stranger, &claim(1 + number % 3, 60, back)))
        .enumerate()
        .map(|(index, mut beacon)| {
            // Each different, so that none is known.
            beacon[151] ^= index as u8;
            beacon[150] ^= (index >> 8) as u8;
            beacon
        })
        .collect();
    let before = signature_checks(&cluster, 0);
    let started = Instant::now();
    let (mut sent, mut round) = (0u64, 0);
    while started.elapsed() < Duration::from_secs(3) {
        for beacon in &forged[round % 5 * 100..][..100] {
            sent += u64::from(socket.send_to(beacon, cluster.address(0)).is_ok());
        }
        round += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_ok(&cluster.hippo(&["put", "k", "v"]), "put during the flood");
    let seconds = started.elapsed().as_secs() + 2;
    let checks = signature_checks(&cluster, 0) - before;
    let allowed = seconds * 3 * u64::from(CHECKS_PER_SECOND);
    assert!(checks > 0 && checks <= allowed, "{checks} checks of {sent}");
    assert!(sent > 10 * allowed, "only {sent} were sent");
}
