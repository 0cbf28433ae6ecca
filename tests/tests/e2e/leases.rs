//! Votes that do not wait for the disk: `storage.durability` lease and none (R3, R5).

use std::time::Duration;

use serde_json::Value;

use crate::admin;
use crate::cluster::Cluster;
use crate::connection::connect;

const LEASE: &[&str] = &["--storage-durability", "lease"];
const NONE: &[&str] = &["--storage-durability", "none"];
const SYNC: &[&str] = &["--storage-durability", "sync"];
/// What a start says that begins silent.
const BEGINS_SILENT: &str = "is silent until";
/// Patience with what depends on the machine.
const LIMIT: Duration = Duration::from_secs(240);

fn cluster(name: &str, settings: &'static [&'static str]) -> Cluster {
    let mut cluster = Cluster::prepare(name, &[]);
    cluster.settings = settings;
    cluster.start_all();
    cluster
}

fn load(cluster: &Cluster, name: &str, seconds: &str) -> crate::cluster::Load {
    let bundle = ["--bundle", "4", "--clients", "8", "--keys", "200"];
    let time = ["--rate", "1000", "--warmup", "0s", "--duration", seconds];
    cluster.load(name, &[bundle, time].concat())
}

fn put(cluster: &Cluster, value: &str) {
    let mut connection = connect(cluster);
    connection.put(b"own", value.as_bytes()).expect("put");
}

fn status(cluster: &Cluster, node: usize) -> Value {
    admin::status(cluster.admin(node)).unwrap_or_default()
}

fn wait_until_it_speaks(cluster: &Cluster, node: usize) {
    cluster.wait(&format!("node {node} speaks"), LIMIT, || {
        let status = status(cluster, node);
        status["lease"]["silent"] == false && status["lease"]["slot"].as_u64() > Some(0)
    });
}

fn times_silent(cluster: &Cluster, node: usize) -> usize {
    cluster.log(node).matches(BEGINS_SILENT).count()
}

#[test]
fn a_killed_node_is_silent_until_a_checkpoint_and_votes_again() {
    let mut cluster = cluster("lease", LEASE);
    put(&cluster, "before");
    for node in 0..4 {
        wait_until_it_speaks(&cluster, node);
    }
    let run = load(&cluster, "load", "6");
    let before = cluster.committed(0);
    cluster.wait("blocks under load", LIMIT, || {
        cluster.committed(0) > before + 20
    });
    cluster.kill(3);
    cluster.spawn(3);
    cluster.wait_ready(3);
    assert_eq!(times_silent(&cluster, 3), 1, "{}", cluster.log(3));
    wait_until_it_speaks(&cluster, 3);
    assert!(cluster.checkpoint(3, "slot") > 0);
    let (_, result) = run.finish();
    assert_eq!(result["errors"]["wrong_reply"], 0, "{result}");
    assert_eq!(result["cluster"]["durability"], "lease");

    // Its vote is needed now.
    cluster.kill(2);
    put(&cluster, "with three");

    // Stopped cleanly, it forgets nothing.
    assert_eq!(cluster.terminate(3), Some(0), "{}", cluster.log(3));
    cluster.spawn(3);
    cluster.wait_ready(3);
    assert_eq!(times_silent(&cluster, 3), 1, "{}", cluster.log(3));
    put(&cluster, "after a clean stop");
    assert_eq!(status(&cluster, 3)["lease"]["silent"], false);
}

#[test]
fn silent_while_another_is_dead_stops_and_says_why() {
    let mut cluster = cluster("lease-stop", LEASE);
    put(&cluster, "before");
    for node in 0..4 {
        wait_until_it_speaks(&cluster, node);
    }
    cluster.kill(2);
    cluster.kill(3);
    cluster.spawn(3);
    cluster.wait("node 0 says why nothing commits", LIMIT, || {
        let status = status(&cluster, 0);
        let reason = status["reason"].as_str().unwrap_or_default();
        let named = reason.contains("node 3 until slot") && reason.contains("node 2 down");
        status["state"] == "stopped-silent" && named
    });
    let health = cluster.hippo(&["health"]);
    assert_eq!(health.status.code(), Some(5));
    let said = [health.stdout, health.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains("node 3 until slot"), "{said}");
    let metrics = admin::get(cluster.admin(0), "/metrics").expect("metrics");
    let until = metrics
        .lines()
        .find_map(|line| line.strip_prefix("hippo_peer_silent_until_slot{peer=\"3\"} "));
    assert_ne!(until, Some("0"), "{metrics}");
    cluster.wait("its log says so", LIMIT, || {
        cluster.log(0).contains("nothing commits: silent")
    });

    // Another durability forgets nothing of what is owed.
    cluster.kill(3);
    cluster.settings = SYNC;
    cluster.spawn(3);
    cluster.wait_ready(3);
    assert_eq!(times_silent(&cluster, 3), 2, "{}", cluster.log(3));
    assert_eq!(status(&cluster, 3)["lease"]["silent"], true);
    assert_eq!(status(&cluster, 3)["lease"]["durability"], "sync");
}

#[test]
fn without_durability_an_unclean_end_is_a_lost_disk() {
    let mut cluster = cluster("none", NONE);
    put(&cluster, "before");
    let (code, result) = load(&cluster, "load", "2").finish();
    assert_eq!(result["cluster"]["durability"], "none", "{code} {result}");
    let reason = status(&cluster, 0)["reason"].clone();
    assert!(
        reason.as_str().unwrap_or_default().contains("benchmarks"),
        "{reason}"
    );
    assert!(cluster.log(0).contains("For benchmarks"));

    assert_eq!(cluster.terminate(1), Some(0), "{}", cluster.log(1));
    cluster.spawn(1);
    cluster.wait_ready(1);
    cluster.kill(3);
    put(&cluster, "node 1 votes");

    // Whatever the next one is configured to.
    for settings in [NONE, SYNC] {
        cluster.settings = settings;
        cluster.spawn(3);
        assert_eq!(cluster.wait_end(3), Some(6));
        let log = cluster.log(3);
        let line = log.lines().last().unwrap_or_default();
        assert!(line.contains("durability = none"), "{log}");
    }
}
