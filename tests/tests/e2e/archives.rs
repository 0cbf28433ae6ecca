//! The state of one cluster, saved, and another one that begins with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::cluster::{Cluster, NODES, assert_ok, binary, stdout};
use crate::inspect::{flip, inspect};
use crate::snapshots::{cluster_with, expect_own, expect_own_of, put_own};

const DISK: &[&str] = &[
    "--storage-table",
    "disk",
    "--storage-table-memory-bytes",
    "4MiB",
];

/// A place for an archive that outlives its cluster.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let name = format!("e2e-archive-{name}-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a directory");
        Place(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn save(cluster: &Cluster, node: usize, to: &Path) -> Output {
    Command::new(binary("hippo"))
        .args(["snapshot", "save", "--config"])
        .arg(cluster.node_directory(node).join("node.toml"))
        .arg("--output")
        .arg(to)
        .output()
        .expect("hippo runs")
}

/// Writes to a restored cluster, one of whose nodes lost the state before it ever ran.
fn try_out(mut cluster: Cluster) {
    let given = cluster.node_directory(3).join("data/snapshots");
    fs::remove_dir_all(given).expect("node 3 was given the state");
    cluster.start_all();
    expect_own_of(&cluster, &[0, 1, 2], 0);
    put_own(&cluster, 1);
    expect_own(&cluster, 1);
    assert!(cluster.checkpoint(3, "transfers") > 0);
    for node in 0..NODES {
        cluster.kill(node);
    }
    cluster.start_all();
    expect_own(&cluster, 1);
    put_own(&cluster, 2);
    expect_own(&cluster, 2);
    for node in 0..NODES {
        cluster.kill(node);
        let judged = inspect(&cluster, node, &["integrity"]);
        assert_ok(&judged, "inspect integrity");
    }
}

#[test]
fn a_saved_state_begins_a_new_cluster() {
    let place = Place::new("memory");
    let archive = place.0.join("backup");
    let cluster = cluster_with("saved", &[]);
    put_own(&cluster, 0);
    let saved = save(&cluster, 0, &archive);
    assert_ok(&saved, "snapshot save");
    let told = stdout(&saved);
    assert!(told.contains("saved the state at slot 1024"), "{told}");
    assert!(cluster.checkpoint(0, "snapshot_slot") == 1024);
    let again = save(&cluster, 0, &archive);
    assert_eq!(again.status.code(), Some(2), "nothing is written over");
    drop(cluster);

    try_out(Cluster::restore("restored", &archive));

    let copy = place.0.join("rotten");
    fs::create_dir(&copy).expect("a directory");
    for name in ["committee.toml", "state.snapshot"] {
        fs::copy(archive.join(name), copy.join(name)).expect("copied");
    }
    let length = fs::metadata(copy.join("state.snapshot")).expect("a file");
    for at in [130, length.len() / 2, length.len() - 1] {
        flip(&copy.join("state.snapshot"), at);
        let network = place.0.join("network");
        let refused = Command::new(binary("hippo"))
            .args(["snapshot", "restore", "--from"])
            .arg(&copy)
            .arg("--output")
            .arg(&network)
            .output()
            .expect("hippo runs");
        assert_eq!(refused.status.code(), Some(6), "byte {at}");
        assert!(!network.exists());
        flip(&copy.join("state.snapshot"), at);
    }
}

#[test]
fn a_table_on_disk_is_saved_and_restored() {
    let place = Place::new("disk");
    let archive = place.0.join("backup");
    let mut cluster = cluster_with("saved-table", DISK);
    put_own(&cluster, 0);
    assert_ok(&save(&cluster, 0, &archive), "snapshot save");
    // Of a node that does not run as well.
    assert_eq!(cluster.terminate(0), Some(0));
    let stopped = place.0.join("stopped");
    assert_ok(&save(&cluster, 0, &stopped), "snapshot save");
    let states = [&archive, &stopped].map(|from| fs::read(from.join("state.snapshot")));
    let [one, other] = states.map(|state| state.expect("a state"));
    assert_eq!(one, other);
    drop(cluster);
    let mut restored = Cluster::restore("restored-table", &archive);
    restored.settings = DISK;
    try_out(restored);
}

#[test]
fn there_may_be_nothing_to_save() {
    let place = Place::new("nothing");
    let cluster = Cluster::prepare_sized("unsaved", "1MiB", &[]);
    let refused = save(&cluster, 0, &place.0.join("backup"));
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("holds no snapshot yet"), "{told}");
    assert!(!place.0.join("backup").exists());
}
