//! Votes under the links' MAC alone (`vote_authentication = "mac"`).

use std::fs;
use std::time::Duration;

use crate::cluster::{Cluster, assert_ok, stdout};

#[test]
fn a_cluster_whose_votes_bear_no_signatures_outlives_its_leader() {
    let mut cluster = Cluster::start("mac", &["--vote-authentication", "mac"]);
    let committee = fs::read_to_string(cluster.directory.join("committee.toml")).unwrap();
    assert!(committee.contains("vote_authentication = \"mac\""));
    assert_ok(&cluster.hippo(&["put", "before", "1"]), "put");
    let load = cluster.load(
        "load",
        &[
            "--rate",
            "1000",
            "--warmup",
            "1s",
            "--duration",
            "8s",
            "--bundle",
            "16",
        ],
    );
    std::thread::sleep(Duration::from_secs(3));
    cluster.kill_first_leader();
    let (_, result) = load.finish();
    assert_eq!(result["cluster"]["vote_auth"], "mac", "{result}");
    assert_eq!(result["errors"]["wrong_reply"], 0, "{result}");
    assert_ok(&cluster.hippo(&["put", "after", "2"]), "put");
    for (key, value) in [("before", "1"), ("after", "2")] {
        let got = cluster.hippo(&["get", key]);
        assert_ok(&got, "get");
        assert_eq!(stdout(&got).trim(), value);
    }
    // It learned from others what was decided without it: b + 1 equal claims, no certificate (N7).
    cluster.wait("node 0 to catch up", Duration::from_secs(20), || {
        cluster.executed(0) >= cluster.executed(1)
    });
}
