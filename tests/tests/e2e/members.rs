//! The committee changes while the cluster runs.

use std::fs;
use std::process::{Command, Output};

use wire::ids::Epoch;

use crate::admin;
use crate::cluster::{Cluster, NODES, assert_ok, binary, stdout};
use crate::connection::connect;
use crate::snapshots::{LIMIT, cluster_with, expect_own, expect_own_of, put_own};

fn recover(cluster: &Cluster, node: usize) -> Output {
    Command::new(binary("hippo"))
        .args(["recover", "--config"])
        .arg(cluster.node_directory(node).join("node.toml"))
        .output()
        .expect("hippo runs")
}

fn epoch(cluster: &Cluster, node: usize) -> Option<u64> {
    admin::status(cluster.admin(node))?["epoch"]["number"].as_u64()
}

fn member(cluster: &Cluster, arguments: &[&str]) -> Output {
    Command::new(binary("hippo"))
        .arg("member")
        .args(arguments)
        .arg("--network")
        .arg(&cluster.directory)
        .output()
        .expect("hippo runs")
}

#[test]
fn a_node_that_lost_its_disk_is_replaced() {
    let mut cluster = cluster_with("replaced", &[]);
    put_own(&cluster, 0);
    cluster.kill(3);
    fs::remove_dir_all(cluster.node_directory(3).join("data")).expect("node 3 had a disk");
    let made = recover(&cluster, 3);
    assert_ok(&made, "recover");
    let told = stdout(&made);
    let key = told
        .split("--public-key ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let key = key.expect("a public key").to_owned();

    let unsound = member(&cluster, &["replace", "9", "--public-key", &key]);
    assert_eq!(unsound.status.code(), Some(2));
    let replaced = member(&cluster, &["replace", "3", "--public-key", &key]);
    assert_ok(&replaced, "member replace");
    let told = stdout(&replaced);
    assert!(told.contains("epoch 1 has begun: 4 members"), "{told}");
    for node in 0..3 {
        cluster.wait(&format!("node {node} is in epoch 1"), LIMIT, || {
            epoch(&cluster, node) == Some(1)
        });
    }
    expect_own_of(&cluster, &[0, 1, 2], 0);
    put_own(&cluster, 1);

    assert_ok(&recover(&cluster, 3), "recover");
    cluster.spawn(3);
    cluster.wait_ready(3);
    put_own(&cluster, 2);
    expect_own(&cluster, 2);
    // The new member votes: it is needed once another one is down.
    cluster.wait("node 3 speaks", LIMIT, || {
        let status = admin::status(cluster.admin(3));
        status.is_some_and(|status| status["lease"]["silent"] == false)
    });
    cluster.kill(0);
    put_own(&cluster, 3);
    expect_own_of(&cluster, &[1, 2, 3], 3);
    for node in 1..NODES {
        cluster.kill(node);
    }
    cluster.start_all();
    expect_own(&cluster, 3);
}

#[test]
fn a_node_that_was_away_asks_what_ended_its_epoch() {
    let mut cluster = cluster_with("away", &[]);
    put_own(&cluster, 0);
    let mut connection = connect(&cluster);
    connection.put(b"epoch", b"0").expect("put");
    let session = connection.client().session();
    cluster.kill(3);
    let file = cluster.directory.join("committee.toml");
    let before = fs::read(&file).expect("there is a committee file");
    let shown = Command::new(binary("hippo"))
        .args(["key", "show"])
        .arg(cluster.node_directory(2).join("node.key"))
        .output()
        .expect("hippo runs");
    assert_ok(&shown, "key show");
    let key = stdout(&shown);
    let replaced = member(&cluster, &["replace", "2", "--public-key", key.trim()]);
    assert_ok(&replaced, "member replace");
    // The same members in a new epoch; the node that comes back has the old committee's file only.
    let after = fs::read(&file).expect("there is a committee file");
    fs::write(&file, before).expect("the file can be written");
    cluster.spawn(3);
    cluster.wait("node 3 is in epoch 1", LIMIT, || {
        epoch(&cluster, 3) == Some(1)
    });
    // Nor has the client that was there before; its session goes on.
    connection.put(b"epoch", b"1").expect("put");
    assert_eq!(connection.client().session(), session);
    assert_eq!(connection.client().committee().epoch(), Epoch(1));
    fs::write(&file, after).expect("the file can be written");
    put_own(&cluster, 1);
    cluster.wait("node 3 speaks", LIMIT, || {
        let status = admin::status(cluster.admin(3));
        status.is_some_and(|status| status["lease"]["silent"] == false)
    });
    cluster.kill(2);
    put_own(&cluster, 2);
    expect_own_of(&cluster, &[0, 1, 3], 2);
}
