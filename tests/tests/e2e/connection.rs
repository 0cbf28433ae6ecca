//! Client connections of the tests.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client::Secret;
use client::blocking::{ConnectOptions, Connection, ReadMode};
use wire::committee::Committee;
use wire::ids::NodeId;

use crate::cluster::Cluster;

/// The committee of a file.
pub fn committee(path: &Path) -> Arc<Committee> {
    let text = fs::read_to_string(path).expect("committee file");
    Arc::new(Committee::parse(&text).expect("committee"))
}

/// A connection with the network's own client key.
pub fn connect(cluster: &Cluster) -> Connection {
    connect_through(
        cluster,
        &cluster.directory.join("committee.toml"),
        Duration::from_secs(60),
    )
}

/// The same by the addresses of another committee file.
pub fn connect_through(cluster: &Cluster, file: &Path, timeout: Duration) -> Connection {
    let pem = fs::read_to_string(cluster.directory.join("client.key")).expect("client key");
    let secret = Secret::from_pem(&pem).expect("client key");
    let options = ConnectOptions {
        connect_timeout: timeout,
        timeout,
        ..ConnectOptions::default()
    };
    Connection::connect(committee(file), &secret, options).expect("connection")
}

/// The value of a key on one node, in hexadecimal.
pub fn stale_get(connection: &mut Connection, node: usize, key: &str) -> Option<String> {
    let mode = ReadMode::Stale(NodeId(node as u16));
    let answer = connection.get(key.as_bytes(), mode).expect("stale read");
    let value = answer.value?;
    Some(value.iter().map(|byte| format!("{byte:02x}")).collect())
}
