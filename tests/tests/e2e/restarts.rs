//! kill -9 under load, and what every node knows afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::cluster::{Cluster, NODES, PATIENCE, assert_ok};
use crate::connection::{connect, stale_get};

/// A write as the history tells it.
struct Write {
    value: String,
    acknowledged: bool,
    slot: u64,
}

/// key -> its writes, in the order of their calls.
fn history(path: &Path) -> BTreeMap<String, Vec<Write>> {
    let mut writes: BTreeMap<String, Vec<Write>> = BTreeMap::new();
    for line in fs::read_to_string(path).expect("history").lines() {
        // The last line may be cut where the generator was stopped.
        let Ok(entry) = serde_json::from_str::<serde_json::Value>(line) else {
            continue;
        };
        if entry["op"] != "put" {
            continue;
        }
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        writes.entry(text("key")).or_default().push(Write {
            value: text("value"),
            acknowledged: entry["ok"] == true && !entry["return_ns"].is_null(),
            slot: entry["slot"].as_u64().unwrap_or(0),
        });
    }
    writes
}

#[test]
fn a_killed_follower_catches_up_under_load() {
    let mut cluster = Cluster::start("follower", &[]);
    let load = cluster.load(
        "load",
        &[
            "--rate",
            "500",
            "--warmup",
            "1s",
            "--duration",
            "8s",
            "--bundle",
            "16",
            // What times out then was lost, also on a machine that is busy with other things.
            "--timeout",
            "60s",
        ],
    );
    std::thread::sleep(Duration::from_secs(3));
    cluster.kill(3);
    std::thread::sleep(Duration::from_secs(2));
    cluster.spawn(3);
    cluster.wait_ready(3);
    cluster.wait("node 3 within 100 blocks", PATIENCE, || {
        let others = (0..3).map(|node| cluster.executed(node)).max().unwrap_or(0);
        cluster.executed(3) + 100 >= others && others > 0
    });
    let (_, result) = load.finish();
    assert_eq!(result["errors"]["timeout"], 0, "{result}");
    assert_eq!(result["errors"]["wrong_reply"], 0, "{result}");
}

#[test]
fn acknowledged_writes_survive_kill_9_of_all_nodes() {
    let mut cluster = Cluster::start("all-four", &[]);
    let path = cluster.directory.join("history.ndjson");
    let load = cluster.load(
        "load",
        &[
            "--rate",
            "500",
            "--warmup",
            "0s",
            "--duration",
            "8s",
            "--bundle",
            "16",
            "--ratio",
            "1:0",
            "--history",
            path.to_str().expect("path"),
        ],
    );
    cluster.wait("some blocks", Duration::from_secs(60), || {
        cluster.executed(0) >= 500
    });
    for node in 0..NODES {
        cluster.kill(node);
    }
    // It ends by itself and writes down what stayed open as well.
    load.finish();
    cluster.start_all();
    let writes = history(&path);
    let acknowledged: usize = writes
        .values()
        .flatten()
        .filter(|write| write.acknowledged)
        .count();
    assert!(
        acknowledged > 200,
        "only {acknowledged} writes were acknowledged"
    );
    let last_slot = writes
        .values()
        .flatten()
        .filter(|write| write.acknowledged)
        .map(|write| write.slot)
        .max()
        .unwrap_or(0);
    for node in 0..NODES {
        cluster.wait(
            &format!("node {node} executed slot {last_slot}"),
            PATIENCE,
            || cluster.executed(node) >= last_slot,
        );
    }
    for node in 0..NODES {
        let mut connection = connect(&cluster);
        for (key, of_key) in &writes {
            let Some(newest) = of_key
                .iter()
                .filter(|write| write.acknowledged)
                .max_by_key(|write| write.slot)
            else {
                continue;
            };
            // The history shows values in hexadecimal.
            let found = stale_get(&mut connection, node, key);
            // The value of the newest acknowledged write, or of one that is not acknowledged or
            // was written in the same block or later.
            let allowed = found.as_deref().is_some_and(|value| {
                of_key.iter().any(|write| {
                    write.value == value && (!write.acknowledged || write.slot >= newest.slot)
                })
            });
            assert!(
                allowed,
                "node {node}, key {key}: {found:?}, expected {}",
                newest.value
            );
        }
    }
    // R4, Y5: the leader that restarted hands its view over, and the next one goes on.
    let written = cluster.hippo(&["put", "--timeout", "10s", "after", "restart"]);
    assert_eq!(
        written.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&written.stderr)
    );
    cluster.wait("a healthy cluster", PATIENCE, || {
        cluster.hippo(&["status"]).status.code() == Some(0)
    });
}

/// The client has a session of an earlier process, and nobody else asks for anything: its request
/// alone must make the followers wish.
#[test]
fn a_dead_leader_of_an_idle_cluster_is_replaced_for_a_client_that_is_known() {
    let mut cluster = Cluster::start("leader", &[]);
    assert_ok(&cluster.hippo(&["put", "k", "v"]), "put");
    cluster.kill(0);
    assert_ok(&cluster.hippo(&["put", "k", "w"]), "put without the leader");
    assert_eq!(cluster.hippo(&["get", "k"]).stdout, b"w\n");
    // Three of four, and a leader among them.
    assert_ok(&cluster.hippo(&["status"]), "status");
}

/// R6: the others hold votes that an old copy of the directory does not know.
#[test]
fn a_node_with_an_old_copy_of_its_directory_ends_with_its_code() {
    let mut cluster = Cluster::start("old-copy", &[]);
    let put = |cluster: &Cluster, round: &str| {
        for key in 0..8 {
            assert_ok(
                &cluster.hippo(&["put", &format!("{round}-{key}"), "v"]),
                "put",
            );
        }
    };
    put(&cluster, "first");
    cluster.kill(3);
    let data = cluster.node_directory(3).join("data");
    let copy = cluster.node_directory(3).join("copy");
    let mut copying = std::process::Command::new("cp");
    assert!(
        copying
            .arg("-a")
            .args([&data, &copy])
            .status()
            .expect("cp runs")
            .success()
    );
    cluster.spawn(3);
    cluster.wait_ready(3);
    put(&cluster, "second");
    cluster.wait("node 3 has voted", Duration::from_secs(10), || {
        cluster.executed(3) >= cluster.executed(0)
    });
    cluster.kill(3);
    std::fs::remove_dir_all(&data).expect("removed");
    std::fs::rename(&copy, &data).expect("put back");
    cluster.spawn(3);
    assert_eq!(cluster.wait_end(3), Some(6), "{}", cluster.log(3));
    assert!(
        cluster.log(3).contains("log does not know"),
        "{}",
        cluster.log(3)
    );
    put(&cluster, "third");
}
