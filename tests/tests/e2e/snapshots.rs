//! Snapshots, logs that were let go, and states that are taken over from others.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use client::blocking::ReadMode;
use wire::ids::NodeId;

use crate::admin;
use crate::cluster::{Cluster, NODES, assert_ok, stdout};
use crate::connection::connect;

/// A snapshot as soon as a few of the small segments are in use.
const SETTINGS: &[&str] = &["--storage-snapshot-log-bytes", "3MiB"];
/// Patience with what depends on the machine.
pub const LIMIT: Duration = Duration::from_secs(240);
/// Keys of the load generator.
const KEYS: &str = "500";
/// Keys of this test that are compared, written before and after the load.
const OWN_KEYS: usize = 20;

pub fn cluster(name: &str) -> Cluster {
    cluster_with(name, SETTINGS)
}

/// With small segments and these settings.
pub fn cluster_with(name: &str, settings: &'static [&'static str]) -> Cluster {
    let mut cluster = Cluster::prepare_sized(name, "1MiB", &[]);
    cluster.settings = settings;
    cluster.start_all();
    cluster
}

/// One transaction in a block, as far as they keep apart: what counts is the number of slots.
pub fn load(cluster: &Cluster, name: &str, seconds: &str) -> crate::cluster::Load {
    cluster.load(
        name,
        &[
            "--rate",
            "600",
            "--warmup",
            "0s",
            "--duration",
            seconds,
            "--bundle",
            "1",
            "--clients",
            "8",
            "--keys",
            KEYS,
        ],
    )
}

pub fn put_own(cluster: &Cluster, round: usize) {
    let mut connection = connect(cluster);
    for key in 0..OWN_KEYS {
        let value = format!("{round}-{key}");
        connection
            .put(format!("own-{key}").as_bytes(), value.as_bytes())
            .expect("put");
    }
}

/// Every node shows what was written last.
pub fn expect_own(cluster: &Cluster, round: usize) {
    expect_own_of(cluster, &[0, 1, 2, 3], round);
}

/// These nodes do.
pub fn expect_own_of(cluster: &Cluster, nodes: &[usize], round: usize) {
    let mut connection = connect(cluster);
    for &node in nodes {
        for key in 0..OWN_KEYS {
            let name = format!("own-{key}");
            let value = format!("{round}-{key}");
            cluster.wait(&format!("node {node} has {name}"), LIMIT, || {
                let mode = ReadMode::Stale(NodeId(node as u16));
                let answer = connection.get(name.as_bytes(), mode);
                answer.is_ok_and(|answer| answer.value.as_deref() == Some(value.as_bytes()))
            });
        }
    }
}

/// Size of the state, which is equal on all nodes that executed as much.
fn table(cluster: &Cluster, node: usize) -> Option<(u64, u64, u64, u64)> {
    let status = admin::status(cluster.admin(node))?;
    Some((
        status["executed_slot"].as_u64()?,
        status["executed_transactions"].as_u64()?,
        status["table"]["keys"].as_u64()?,
        status["table"]["bytes"].as_u64()?,
    ))
}

pub fn expect_equal_tables(cluster: &Cluster) {
    cluster.wait("all nodes hold as much", LIMIT, || {
        let first = table(cluster, 0);
        first.is_some() && (1..NODES).all(|node| table(cluster, node) == first)
    });
}

/// Snapshot files of a node, newest last.
pub fn files(cluster: &Cluster, node: usize) -> Vec<PathBuf> {
    let directory = cluster.node_directory(node).join("data/snapshots");
    let entries = fs::read_dir(directory).expect("snapshots");
    let mut files = entries
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "snapshot"))
        .collect::<Vec<_>>();
    files.sort();
    files
}

/// Clears a few bytes in the middle of the newest snapshot; its name.
fn damage_newest(cluster: &Cluster, node: usize) -> String {
    let newest = files(cluster, node).pop().expect("a snapshot");
    let mut bytes = fs::read(&newest).expect("snapshot");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 64].fill(0xd5);
    fs::write(&newest, bytes).expect("snapshot");
    let name = newest.file_name().and_then(|name| name.to_str());
    name.expect("a name").to_owned()
}

/// Loads the cluster until these nodes have let the first blocks go.
pub fn load_until_released(cluster: &Cluster, nodes: &[usize]) {
    for round in 0.. {
        let run = load(cluster, &format!("load-{round}"), "8");
        run.finish();
        let released = |node: &usize| cluster.checkpoint(*node, "retained_from") > 1;
        if nodes.iter().all(released) {
            return;
        }
        assert!(round < 30, "the log is not released");
    }
}

#[test]
fn a_follower_whose_blocks_are_released_takes_the_state_over_under_load() {
    let mut cluster = cluster("transfer");
    put_own(&cluster, 0);
    cluster.kill(3);
    load_until_released(&cluster, &[0, 1, 2]);
    put_own(&cluster, 1);
    let run = load(&cluster, "meanwhile", "10");
    // Half of a snapshot, as a process leaves it that ends while it writes one.
    let left_over = cluster.node_directory(3).join("data/snapshots/7.new");
    fs::write(&left_over, "half").expect("left-over file");
    cluster.spawn(3);
    cluster.wait_ready(3);
    assert!(!left_over.exists(), "what has no name is removed");
    cluster.wait("node 3 took the state over", LIMIT, || {
        cluster.checkpoint(3, "transfers") > 0 && cluster.checkpoint(3, "slot") > 0
    });
    run.finish();
    assert!(cluster.checkpoint(3, "transfer_bytes") > 0);
    let served = (0..3).map(|node| cluster.checkpoint(node, "transfer_served_bytes"));
    assert!(served.sum::<u64>() > 0);
    expect_own(&cluster, 1);
    expect_equal_tables(&cluster);
    let metrics = admin::get(cluster.admin(3), "/metrics").expect("metrics");
    let bytes = metrics
        .lines()
        .find_map(|line| line.strip_prefix("hippo_state_transfer_bytes_total "))
        .expect("the metric");
    assert_ne!(bytes, "0");
    // What was taken over lasts, and this node is one of those that commit.
    cluster.kill(3);
    cluster.spawn(3);
    cluster.wait_ready(3);
    cluster.kill(2);
    put_own(&cluster, 2);
    cluster.spawn(2);
    expect_own(&cluster, 2);
}

#[test]
fn snapshots_and_what_is_left_of_the_log_hold_everything() {
    let mut cluster = cluster("snapshot");
    put_own(&cluster, 0);
    load_until_released(&cluster, &[0, 1, 2, 3]);
    put_own(&cluster, 1);
    expect_equal_tables(&cluster);
    let before = table(&cluster, 3);
    for node in 0..NODES {
        assert_eq!(cluster.terminate(node), Some(0), "node {node}");
        assert!(!files(&cluster, node).is_empty());
    }
    let listed = cluster.snapshot_status(1);
    assert_ok(&listed, "hippo snapshot status");
    assert!(stdout(&listed).contains(".snapshot"));
    cluster.start_all();
    expect_own(&cluster, 1);
    expect_equal_tables(&cluster);
    let after = table(&cluster, 3);
    assert!(after >= before, "{before:?} {after:?}");
    assert!(cluster.log(3).contains("began from snapshot"));
    put_own(&cluster, 2);
    expect_own(&cluster, 2);

    // One that is damaged is passed over: the log reaches back to the one before.
    assert_eq!(cluster.terminate(3), Some(0));
    let newest = damage_newest(&cluster, 3);
    cluster.spawn(3);
    cluster.wait_ready(3);
    let log = cluster.log(3);
    assert!(
        log.contains(&newest) && log.contains("passed over"),
        "{log}"
    );
    put_own(&cluster, 3);
    expect_own(&cluster, 3);

    // With none before it the state comes from the others.
    assert_eq!(cluster.terminate(3), Some(0));
    let newest = damage_newest(&cluster, 3);
    let mut older = files(&cluster, 3);
    older.pop();
    for file in older {
        fs::remove_file(file).expect("older snapshot");
    }
    cluster.spawn(3);
    cluster.wait_ready(3);
    let log = cluster.log(3);
    assert!(
        log.contains(&newest) && log.contains("others are asked for theirs"),
        "{log}"
    );
    put_own(&cluster, 4);
    load(&cluster, "after", "4").finish();
    cluster.wait("node 3 took the state over", LIMIT, || {
        cluster.checkpoint(3, "transfers") > 0
    });
    expect_own(&cluster, 4);
    expect_equal_tables(&cluster);
}
