//! Loss and duplication on every link, between replicas and to the client.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use client::blocking::{CasOutcome, ReadMode};

use crate::cluster::{Cluster, NODES, PATIENCE};
use crate::connection::connect_through;
use crate::proxy::{Link, Weather};

/// Rewrites the address of each member in a committee file; addresses are not in its digest.
fn with_addresses(text: &str, cluster: &Cluster, address: impl Fn(usize) -> String) -> String {
    let mut text = text.to_owned();
    for node in 0..NODES {
        let own = format!("\"{}\"", cluster.address(node));
        assert!(text.contains(&own), "the committee file names {own}");
        text = text.replace(&own, &format!("\"@{node}@\""));
    }
    for node in 0..NODES {
        text = text.replace(&format!("@{node}@"), &address(node));
    }
    text
}

/// Puts a link with this weather between all replicas, and one in front of each for clients.
/// Returns the links and the committee file of clients.
fn surround(cluster: &Cluster, between: Weather, clients: Weather) -> (Vec<Link>, PathBuf) {
    let text = fs::read_to_string(cluster.directory.join("committee.toml")).expect("committee");
    let mut links = Vec::new();
    for from in 0..NODES {
        let mut addresses = Vec::new();
        for to in 0..NODES {
            let link = Link::start(cluster.address(to), between, (from * 10 + to) as u64 * 7919);
            addresses.push(link.address);
            links.push(link);
        }
        let own = with_addresses(&text, cluster, |to| {
            let address = if to == from {
                cluster.address(to)
            } else {
                addresses[to]
            };
            address.to_string()
        });
        let file = cluster.node_directory(from).join("committee.toml");
        fs::write(&file, own).expect("committee of a node");
        let config = cluster.node_directory(from).join("node.toml");
        let settings = fs::read_to_string(&config).expect("node.toml");
        assert!(settings.contains("../committee.toml"), "{settings}");
        fs::write(
            &config,
            // The proxies stand where the file says the peers are.
            settings.replace("../committee.toml", "committee.toml")
                + "\n[discovery]\nfollow = false\n",
        )
        .expect("node.toml");
    }
    let mut addresses = Vec::new();
    for node in 0..NODES {
        let link = Link::start(cluster.address(node), clients, node as u64 * 104_729 + 5);
        addresses.push(link.address);
        links.push(link);
    }
    let file = cluster.directory.join("client-committee.toml");
    fs::write(
        &file,
        with_addresses(&text, cluster, |node| addresses[node].to_string()),
    )
    .expect("committee of clients");
    (links, file)
}

#[test]
fn twenty_percent_loss_between_all_replicas_loses_nothing() {
    let mut cluster = Cluster::prepare("loss", &[]);
    let loss = Weather {
        loss: 20,
        duplication: 5,
    };
    let (links, file) = surround(
        &cluster,
        loss,
        Weather {
            loss: 0,
            duplication: 0,
        },
    );
    cluster.start_all();
    let mut connection = connect_through(&cluster, &file, Duration::from_secs(60));
    for number in 0..200u32 {
        let key = format!("key-{}", number % 20);
        connection
            .put(key.as_bytes(), &number.to_le_bytes())
            .expect("put under loss");
    }
    for key in 0..20u32 {
        let got = connection
            .get(format!("key-{key}").as_bytes(), ReadMode::Ordered)
            .expect("get");
        assert_eq!(got.value.as_deref(), Some(&(180 + key).to_le_bytes()[..]));
    }
    let dropped: u64 = links
        .iter()
        .map(|link| link.dropped.load(Ordering::Relaxed))
        .sum();
    assert!(dropped > 100, "the proxy lost only {dropped} datagrams");
    let committed = cluster.committed(0);
    for node in 0..NODES {
        cluster.wait(&format!("node {node} has all blocks"), PATIENCE, || {
            cluster.executed(node) >= committed
        });
    }
}

#[test]
fn a_repeated_request_executes_once() {
    let mut cluster = Cluster::prepare("once", &[]);
    let calm = Weather {
        loss: 0,
        duplication: 0,
    };
    let (_links, file) = surround(
        &cluster,
        calm,
        Weather {
            loss: 30,
            duplication: 50,
        },
    );
    cluster.start_all();
    let mut connection = connect_through(&cluster, &file, Duration::from_secs(60));
    for number in 0..100u32 {
        let key = format!("once-{number}");
        // Executed twice, the second time would find the key present and answer so.
        let outcome = connection
            .cas(key.as_bytes(), None, b"first")
            .unwrap_or_else(|error| {
                let counters = connection.client().counters();
                let status = (0..NODES).map(|node| crate::admin::status(cluster.admin(node)));
                panic!(
                    "{key}: {error}; {counters:?}\n{:#?}",
                    status.collect::<Vec<_>>()
                )
            });
        assert_eq!(outcome.value, CasOutcome::Swapped, "{key}");
    }
}
