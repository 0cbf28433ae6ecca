//! Tables on disk: started from, taken over, inspected, and damaged.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cluster::{Cluster, NODES, assert_ok, stdout};
use crate::inspect::{contents, flip, inspect, rows};
use crate::snapshots::{LIMIT, cluster_with, expect_own, load, load_until_released, put_own};

/// Brought up to date as soon as a few of the small segments are in use.
const SETTINGS: &[&str] = &[
    "--storage-table",
    "disk",
    "--storage-table-memory-bytes",
    "4MiB",
    "--storage-snapshot-log-bytes",
    "3MiB",
];

#[test]
fn a_table_on_disk_is_taken_over_and_begun_from() {
    let mut cluster = cluster_with("table", SETTINGS);
    put_own(&cluster, 0);
    cluster.kill(3);
    load_until_released(&cluster, &[0, 1, 2]);
    put_own(&cluster, 1);
    cluster.spawn(3);
    cluster.wait_ready(3);
    cluster.wait("node 3 took the state over", LIMIT, || {
        cluster.checkpoint(3, "transfers") > 0 && cluster.checkpoint(3, "snapshot_slot") > 0
    });
    expect_own(&cluster, 1);
    for node in 0..NODES {
        cluster.kill(node);
    }
    cluster.start_all();
    for node in 0..NODES {
        let log = cluster.log(node);
        assert!(log.contains("began from the table at slot"), "{log}");
    }
    expect_own(&cluster, 1);
    // A checkpoint is stable when three agree on the whole state. (How many keys there are is not
    // known exactly between checkpoints.)
    let slot = cluster.checkpoint(0, "slot");
    put_own(&cluster, 2);
    load(&cluster, "after", "4").finish();
    expect_own(&cluster, 2);
    for node in 0..NODES {
        cluster.wait(
            &format!("node {node} has a newer checkpoint"),
            LIMIT,
            || cluster.checkpoint(node, "slot") > slot,
        );
    }
    // Nothing was put into files.
    assert!(crate::snapshots::files(&cluster, 0).is_empty());
}

/// The largest file of a table.
pub fn largest(data: &Path) -> PathBuf {
    let entries = fs::read_dir(data.join("table/tables")).expect("tables");
    let files = entries.map(|entry| entry.expect("entry").path());
    let size = |path: &PathBuf| fs::metadata(path).expect("metadata").len();
    files.max_by_key(size).expect("a file")
}

fn table_state(cluster: &Cluster) -> String {
    let integrity = inspect(cluster, 2, &["integrity", "-o", "ndjson"]);
    let items = rows(&integrity);
    let item = items.iter().find(|item| item["item"] == "table");
    item.expect("the table")["state"]
        .as_str()
        .expect("a state")
        .to_owned()
}

#[test]
fn a_table_is_inspected_whole_and_damaged() {
    let mut cluster = cluster_with("table-damage", SETTINGS);
    assert_ok(&cluster.hippo(&["put", "city", "Byzantium"]), "put");
    load_until_released(&cluster, &[2]);
    for node in 0..NODES {
        assert_eq!(cluster.terminate(node), Some(0), "node {node}");
    }
    let data = cluster.node_directory(2).join("data");
    let before = contents(&data);
    let table = inspect(&cluster, 2, &["table", "-o", "ndjson", "--key", "city"]);
    assert_ok(&table, "hippo inspect table");
    let found = &rows(&table)[0];
    assert_eq!(found["value"], "Byzantium", "{found}");
    assert!(found["entries"].as_u64() > Some(1) && found["sessions"].as_u64() > Some(0));
    let signers = found["signers"].as_array().expect("signers");
    assert!(signers.len() >= 3 && signers.iter().all(|signer| signer["good"] == true));
    let absent = inspect(&cluster, 2, &["table", "--key", "no such key"]);
    assert_eq!(absent.status.code(), Some(4));
    let integrity = inspect(&cluster, 2, &["integrity"]);
    assert_ok(&integrity, "hippo inspect integrity");
    let text = stdout(&integrity);
    assert!(text.contains("from the table at slot"), "{text}");
    assert!(contents(&data) == before, "nothing was changed");

    // One byte of an entry.
    let file = largest(&data);
    flip(&file, 100);
    let table = inspect(&cluster, 2, &["table", "-o", "ndjson"]);
    assert_eq!(table.status.code(), Some(6), "{}", stdout(&table));
    assert_eq!(rows(&table)[0]["state"], "damaged");
    assert_eq!(table_state(&cluster), "damaged");
    flip(&file, 100);

    // One byte of the list of files.
    let current = fs::read(data.join("table/current")).expect("current");
    let (number, _) = current.split_first_chunk().expect("a number");
    let list = data.join(format!("table/v{}", u64::from_le_bytes(*number)));
    flip(&list, 70);
    let table = inspect(&cluster, 2, &["table"]);
    assert_eq!(table.status.code(), Some(6), "{}", stdout(&table));
    flip(&list, 70);
    assert_eq!(table_state(&cluster), "ok");

    // A table that nobody asks for is not passed over.
    cluster.settings = &[];
    cluster.spawn(2);
    assert_eq!(cluster.wait_end(2), Some(7), "{}", cluster.log(2));
    let log = cluster.log(2);
    assert!(log.contains("set storage.table"), "{log}");
    cluster.settings = SETTINGS;

    // One that is damaged gives way to the state of the others.
    flip(&list, 70);
    cluster.start_all();
    let log = cluster.log(2);
    assert!(log.contains("the table is damaged"), "{log}");
    assert!(data.join("table.old").is_dir());
    assert_ok(&cluster.hippo(&["put", "city", "Constantinople"]), "put");
    load(&cluster, "after", "6").finish();
    cluster.wait("node 2 took the state over", LIMIT, || {
        cluster.checkpoint(2, "transfers") > 0 && cluster.checkpoint(2, "snapshot_slot") > 0
    });
    let city = || cluster.hippo(&["get", "city", "--read", "stale", "--node", "2"]);
    cluster.wait("node 2 knows the city", LIMIT, || {
        stdout(&city()) == "Constantinople"
    });
}
