//! What is written is read on every node.

use std::time::Duration;

use crate::cluster::{Cluster, NODES, assert_ok, stdout};

#[test]
fn a_put_is_read_in_order_and_from_every_node() {
    let cluster = Cluster::start("put-get", &[]);
    assert_ok(&cluster.hippo(&["put", "colour", "green"]), "put");
    let got = cluster.hippo(&["get", "colour"]);
    assert_ok(&got, "get");
    assert_eq!(stdout(&got), "green");
    for node in 0..NODES {
        let node = node.to_string();
        cluster.wait(
            &format!("node {node} has it"),
            Duration::from_secs(5),
            || {
                let got = cluster.hippo(&["get", "--read", "stale", "--node", &node, "colour"]);
                got.status.success() && stdout(&got) == "green"
            },
        );
    }
}

#[test]
fn operations_answer_and_exit_as_documented() {
    let cluster = Cluster::start("operations", &[]);
    let absent = cluster.hippo(&["get", "nothing"]);
    assert_eq!(absent.status.code(), Some(4), "an absent key");
    assert_ok(&cluster.hippo(&["put", "a", "1"]), "put a");
    assert_ok(&cluster.hippo(&["put", "b", "2"]), "put b");
    let scan = cluster.hippo(&["scan", "a", "c"]);
    assert_ok(&scan, "scan");
    let text = stdout(&scan);
    assert!(
        text.contains('a') && text.contains('1') && text.contains('b'),
        "{text}"
    );
    assert_ok(&cluster.hippo(&["delete", "a"]), "delete");
    assert_eq!(cluster.hippo(&["get", "a"]).status.code(), Some(4));
    let status = cluster.hippo(&["status"]);
    assert_ok(&status, "status");
    assert!(stdout(&status).contains("serving"), "{}", stdout(&status));
}

#[test]
fn sigterm_ends_a_node_cleanly() {
    let mut cluster = Cluster::start("sigterm", &[]);
    assert_ok(&cluster.hippo(&["put", "k", "v"]), "put");
    assert_eq!(cluster.terminate(3), Some(0));
    assert_ok(&cluster.hippo(&["put", "k", "w"]), "put with three nodes");
    cluster.spawn(3);
    cluster.wait_ready(3);
    cluster.wait("node 3 caught up", Duration::from_secs(10), || {
        let got = cluster.hippo(&["get", "--read", "stale", "--node", "3", "k"]);
        got.status.success() && stdout(&got) == "w"
    });
}
