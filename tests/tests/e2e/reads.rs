//! What is written is read: in order, behind a fence, and on every node.

use std::time::Duration;

use crate::cluster::{Cluster, NODES, PATIENCE, assert_ok, stdout};

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
    cluster.wait("node 3 caught up", PATIENCE, || {
        let got = cluster.hippo(&["get", "--read", "stale", "--node", "3", "k"]);
        got.status.success() && stdout(&got) == "w"
    });
}

/// How a fenced get ended: the value, and the way it was answered.
fn fenced(cluster: &Cluster, key: &str) -> (String, String) {
    let got = cluster.hippo(&["get", "--read", "fenced", "-o", "json", key]);
    assert_ok(&got, "get --read fenced");
    let answer: serde_json::Value = serde_json::from_str(&stdout(&got)).expect("json");
    let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
    (text("value"), text("read"))
}

#[test]
fn a_fenced_read_needs_three_of_four_and_no_leader() {
    let cluster = Cluster::start("fenced", &[]);
    assert_ok(&cluster.hippo(&["put", "colour", "green"]), "put");
    // A follower, then the leader too late to be replaced: a fenced read needs neither.
    for frozen in [3, 0] {
        cluster.signal(frozen, "STOP");
        cluster.wait("its fence answers", PATIENCE, || {
            let (value, way) = fenced(&cluster, "colour");
            assert_eq!(value, "green");
            way == "fenced"
        });
        let scan = cluster.hippo(&["scan", "--read", "fenced", "colour"]);
        assert_ok(&scan, "scan --read fenced");
        assert_eq!(stdout(&scan), "colour\tgreen");
        cluster.signal(frozen, "CONT");
    }
    let absent = cluster.hippo(&["get", "--read", "fenced", "nothing"]);
    assert_eq!(absent.status.code(), Some(4), "an absent key");

    cluster.signal(2, "STOP");
    cluster.signal(3, "STOP");
    let got = cluster.hippo(&["get", "--read", "fenced", "--timeout", "1s", "colour"]);
    assert_eq!(got.status.code(), Some(3), "two of four");
    cluster.signal(2, "CONT");
    assert_eq!(fenced(&cluster, "colour").0, "green");
}

#[test]
fn a_node_that_was_frozen_does_not_make_fenced_reads_old() {
    let cluster = Cluster::start("frozen", &[]);
    for round in 0..9 {
        let frozen = 1 + round % 3;
        let value = format!("value {round}");
        cluster.signal(frozen, "STOP");
        assert_ok(&cluster.hippo(&["put", "k", &value]), "put");
        // What was sent to it meanwhile waits in its socket; the read may come before it is heard.
        cluster.signal(frozen, "CONT");
        assert_eq!(fenced(&cluster, "k").0, value);
    }
}
