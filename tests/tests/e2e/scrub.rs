//! What rots on a disk is found while the node runs.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::admin;
use crate::cluster::{Cluster, NODES};
use crate::snapshots::{LIMIT, cluster_with, expect_own, load, load_until_released, put_own};
use crate::tables::largest;

const FAST: [&str; 4] = [
    "--storage-scrub-interval",
    "200ms",
    "--storage-scrub-rate",
    "1GiB",
];
/// The log asks for no snapshot by itself.
const LOG: &[&str] = &[
    FAST[0],
    FAST[1],
    FAST[2],
    FAST[3],
    "--storage-snapshot-log-bytes",
    "40MiB",
];
const TABLE: &[&str] = &[
    FAST[0],
    FAST[1],
    FAST[2],
    FAST[3],
    "--storage-table",
    "disk",
    "--storage-table-memory-bytes",
    "4MiB",
    "--storage-snapshot-log-bytes",
    "3MiB",
];

fn scrub(cluster: &Cluster, node: usize, field: &str) -> u64 {
    let status = admin::status(cluster.admin(node));
    let found = status.and_then(|status| status["scrub"][field].as_u64());
    found.unwrap_or(0)
}

/// As a disk does it: under a process that has the file open.
fn rot(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path);
    let file = file.expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("written");
    file.sync_all().expect("flushed");
}

/// Every node has read everything twice since now.
fn wait_for_passes(cluster: &Cluster) {
    for node in 0..NODES {
        let before = scrub(cluster, node, "passes");
        cluster.wait(&format!("node {node} has read its disk"), LIMIT, || {
            scrub(cluster, node, "passes") >= before + 2
        });
    }
}

#[test]
fn a_rotten_log_is_noticed_and_let_go() {
    let cluster = cluster_with("scrub-log", LOG);
    put_own(&cluster, 0);
    wait_for_passes(&cluster);
    for node in 0..NODES {
        assert!(scrub(&cluster, node, "log_bytes") > 0);
        assert_eq!(scrub(&cluster, node, "log_damaged"), 0, "node {node}");
    }
    // In the body of START, the first record.
    let wal = cluster.node_directory(3).join("data/wal");
    let first = fs::read_dir(wal)
        .expect("wal")
        .map(|entry| entry.expect("entry").path());
    rot(&first.min().expect("a file"), 130);
    cluster.wait("node 3 has noticed", LIMIT, || {
        scrub(&cluster, 3, "log_damaged") == 1
    });
    let log = cluster.log(3);
    assert!(log.contains("the log is damaged at position 0"), "{log}");
    load(&cluster, "more", "8").finish();
    cluster.wait("node 3 has let it go", LIMIT, || {
        scrub(&cluster, 3, "log_damaged") == 0
    });
    assert!(cluster.checkpoint(3, "snapshot_slot") > 0);
    assert_eq!(cluster.checkpoint(2, "snapshot_slot"), 0);
    expect_own(&cluster, 0);
}

#[test]
fn a_rotten_table_is_noticed_and_replaced() {
    let mut cluster = cluster_with("scrub-table", TABLE);
    put_own(&cluster, 0);
    load_until_released(&cluster, &[2]);
    wait_for_passes(&cluster);
    for node in 0..NODES {
        assert_eq!(scrub(&cluster, node, "table_damaged"), 0, "node {node}");
    }
    assert_eq!(scrub(&cluster, 2, "table_buckets"), 4096);
    rot(&largest(&cluster.node_directory(2).join("data")), 100);
    cluster.wait("node 2 has noticed", LIMIT, || {
        scrub(&cluster, 2, "table_damaged") > 0
    });
    let log = cluster.log(2);
    assert!(log.contains("of the table on disk are damaged"), "{log}");
    cluster.kill(2);
    cluster.spawn(2);
    cluster.wait_ready(2);
    assert!(
        cluster.log(2).contains("the table is damaged"),
        "{}",
        cluster.log(2)
    );
    load(&cluster, "after", "6").finish();
    cluster.wait("node 2 took the state over", LIMIT, || {
        cluster.checkpoint(2, "transfers") > 0 && cluster.checkpoint(2, "snapshot_slot") > 0
    });
    expect_own(&cluster, 0);
    wait_for_passes(&cluster);
    assert_eq!(scrub(&cluster, 2, "table_damaged"), 0);
}
