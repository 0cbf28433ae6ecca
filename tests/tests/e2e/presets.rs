//! Committees whose fast quorum is larger than the slow one (`--preset strict`: 4 and 3 of 4).

use std::time::Duration;

use crate::admin;
use crate::cluster::{Cluster, assert_ok, stdout};

/// Blocks that a node saw decided by F votes, and by q COMMITs.
fn ways(cluster: &Cluster, node: usize) -> (u64, u64) {
    let status = admin::status(cluster.admin(node)).expect("a node that runs answers");
    let count = |name: &str| status[name].as_u64().expect("a count");
    (count("fast_commits"), count("slow_commits"))
}

#[test]
fn a_strict_cluster_decides_by_commits_when_one_node_is_down() {
    let mut cluster = Cluster::start("strict", &["--preset", "strict"]);
    let put = |cluster: &Cluster, key: String| {
        assert_ok(&cluster.hippo(&["put", &key, "1"]), "put");
    };
    for round in 0..20 {
        put(&cluster, format!("all-{round}"));
    }
    assert!(ways(&cluster, 0).0 > 0, "nothing was decided fast");

    cluster.kill(3);
    // What it voted for before may still be decided with its vote.
    put(&cluster, "between".to_owned());
    let before = ways(&cluster, 0);
    for round in 0..20 {
        put(&cluster, format!("three-{round}"));
    }
    let after = ways(&cluster, 0);
    assert_eq!(after.0, before.0, "fewer than F nodes decided fast");
    assert!(after.1 >= before.1 + 20, "{before:?} {after:?}");
    // Three of four are enough to commit, and so to be ready.
    assert_ok(&cluster.hippo(&["health"]), "health");

    cluster.spawn(3);
    cluster.wait_ready(3);
    cluster.wait("node 3 to catch up", Duration::from_secs(20), || {
        cluster.executed(3) >= cluster.executed(0)
    });

    // What COMMITs decided outlives the leader, and the log that holds them is read again.
    let flags = "--rate 500 --warmup 1s --duration 8s --bundle 16";
    let load = cluster.load("load", &flags.split(' ').collect::<Vec<_>>());
    std::thread::sleep(Duration::from_secs(3));
    cluster.kill_first_leader();
    cluster.wait("node 0 to catch up", Duration::from_secs(20), || {
        cluster.executed(0) >= cluster.executed(1)
    });
    let (_, result) = load.finish();
    assert_eq!(result["errors"]["wrong_reply"], 0, "{result}");
    assert_eq!(result["cluster"]["fast_quorum"], 4, "{result}");
    assert_ok(&cluster.hippo(&["put", "after", "1"]), "put");
    for key in ["three-19", "after"] {
        let got = cluster.hippo(&["get", key]);
        assert_ok(&got, "get");
        assert_eq!(stdout(&got).trim(), "1");
    }
}
