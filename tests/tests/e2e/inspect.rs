//! `hippo inspect` on what real nodes left on their disks, whole and damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::cluster::{Cluster, NODES, assert_ok, binary, stdout};
use crate::snapshots;

/// Bytes of a sector, of the head of a record, and of what a block has in front of its requests.
const SECTOR: u64 = 4096;
const HEAD: u64 = 128;
const PREFIX: u64 = 256;

pub fn inspect(cluster: &Cluster, node: usize, arguments: &[&str]) -> Output {
    let (what, rest) = arguments.split_first().expect("what to inspect");
    Command::new(binary("hippo"))
        .args(["inspect", what, "--config"])
        .arg(cluster.node_directory(node).join("node.toml"))
        .args(rest)
        .output()
        .expect("hippo runs")
}

pub fn rows(output: &Output) -> Vec<Value> {
    let text = stdout(output);
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a row"))
        .collect()
}

pub fn flip(file: &Path, at: u64) {
    let mut bytes = fs::read(file).expect("a file");
    bytes[at as usize] ^= 0x10;
    fs::write(file, bytes).expect("written");
}

/// Every file below a directory, with its bytes.
pub fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("directory") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.push((path.clone(), fs::read(&path).expect("file")));
        }
    }
    found.sort();
    found
}

#[test]
fn a_stopped_nodes_directory_is_inspected_whole_and_damaged() {
    let mut cluster = snapshots::cluster("inspect");
    assert_ok(&cluster.hippo(&["put", "city", "Byzantium"]), "put");
    let moving = inspect(&cluster, 2, &["wal", "--limit", "1"]);
    let said = String::from_utf8_lossy(&moving.stderr).into_owned();
    assert!(said.contains("is in use by process"), "{said}");
    snapshots::load_until_released(&cluster, &[2]);
    for node in 0..NODES {
        assert_eq!(cluster.terminate(node), Some(0), "node {node}");
    }
    let data = cluster.node_directory(2).join("data");
    let before = contents(&data);

    // Whole.
    let wal = inspect(&cluster, 2, &["wal", "-o", "ndjson"]);
    assert_ok(&wal, "hippo inspect wal");
    let records = rows(&wal);
    assert!(records.len() > 100);
    assert!(records.iter().all(|row| row["state"] == "ok"));
    let good = |kind: &str| {
        let mut found = records.iter().filter(|row| row["kind"] == kind);
        found.any(|row| row["signatures"] == "ok")
    };
    assert!(good("block") && good("checkpoint-certificate"));
    let table = inspect(&cluster, 2, &["wal", "--kind", "clean-stop"]);
    let text = stdout(&table);
    assert!(
        text.contains("0 damaged") && text.contains("clean, ends at"),
        "{text}"
    );
    let checkpoint = inspect(
        &cluster,
        2,
        &["checkpoint", "-o", "ndjson", "--key", "city"],
    );
    assert_ok(&checkpoint, "hippo inspect checkpoint");
    let found = &rows(&checkpoint)[0];
    assert_eq!(found["value"], "Byzantium", "{found}");
    assert!(found["entries"].as_u64() > Some(1) && found["sessions"].as_u64() > Some(0));
    let signers = found["signers"].as_array().expect("signers");
    assert!(signers.len() >= 3 && signers.iter().all(|signer| signer["good"] == true));
    let absent = inspect(&cluster, 2, &["checkpoint", "--key", "no such key"]);
    assert_eq!(absent.status.code(), Some(4));
    let integrity = inspect(&cluster, 2, &["integrity"]);
    assert_ok(&integrity, "hippo inspect integrity");
    let text = stdout(&integrity);
    assert!(
        text.contains("from snapshot") && !text.contains("damaged"),
        "{text}"
    );
    assert!(contents(&data) == before, "nothing was changed");

    // One byte in the body of a block, with good records behind it.
    let at = records.len() / 2;
    let hurt = records[at..].iter().find(|row| row["kind"] == "block");
    let hurt = hurt.expect("a block");
    let position = hurt["position"].as_u64().expect("a position");
    let segment = data.join(format!(
        "wal/{:08}.segment",
        hurt["segment"].as_u64().expect("one")
    ));
    let offset = position % (1 << 20) + HEAD + PREFIX + 20;
    assert!(position.is_multiple_of(SECTOR));
    flip(&segment, offset);
    let wal = inspect(&cluster, 2, &["wal", "--damaged", "-o", "ndjson"]);
    assert_eq!(wal.status.code(), Some(6));
    let damaged = rows(&wal);
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    assert_eq!(damaged[0]["position"], position);
    assert_eq!(
        (&damaged[0]["header"], &damaged[0]["body"]),
        (&"ok".into(), &"damaged".into())
    );
    let said = String::from_utf8_lossy(&wal.stderr).into_owned();
    assert!(
        said.contains(&format!("damaged at position {position}")),
        "{said}"
    );
    let integrity = inspect(&cluster, 2, &["integrity"]);
    assert_eq!(integrity.status.code(), Some(6));
    assert!(stdout(&integrity).contains(&format!("position {position}")));
    let said = stdout(&integrity);
    assert!(said.contains("the log lacks 1 block"), "{said}");
    cluster.spawn(2);
    cluster.wait_ready(2);
    assert_eq!(cluster.terminate(2), Some(0));
    let log = cluster.log(2);
    assert!(
        log.contains("the log lacks 1 block"),
        "a start says the same: {log}"
    );
    flip(&segment, offset);
    // That process has written to the log.
    let before = contents(&data);

    // One byte of a snapshot.
    let newest = snapshots::files(&cluster, 2).pop().expect("a snapshot");
    // Behind the inner nodes, among the buckets.
    let at = fs::metadata(&newest).expect("metadata").len() - 300;
    flip(&newest, at);
    let checkpoint = inspect(&cluster, 2, &["checkpoint", "-o", "ndjson"]);
    assert_eq!(checkpoint.status.code(), Some(6));
    let found = &rows(&checkpoint)[0];
    let why = found["why"].as_str().expect("a reason");
    let start = why
        .split("byte ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let start = start.and_then(|digits| digits.parse::<u64>().ok());
    assert!(start.is_some_and(|start| start <= at), "{why}");
    assert!(
        why.contains("bucket") && why.contains("should stand there"),
        "{why}"
    );
    let integrity = inspect(&cluster, 2, &["integrity", "-o", "ndjson"]);
    assert_eq!(integrity.status.code(), Some(6));
    let items = rows(&integrity);
    let bad = items.iter().filter(|item| item["state"] == "damaged");
    let bad = bad.map(|item| item["item"].to_string()).collect::<Vec<_>>();
    assert!(bad.len() == 1 && bad[0].contains("snapshot"), "{bad:?}");
    flip(&newest, at);
    assert!(contents(&data) == before, "as it was");
    assert_ok(
        &inspect(&cluster, 2, &["integrity"]),
        "hippo inspect integrity",
    );
}
