//! Flight recordings of real nodes, replayed by `hippo-sim`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::cluster::{Cluster, NODES, assert_ok, binary, stdout};

const LIMIT: Duration = Duration::from_secs(60);

fn recordings(cluster: &Cluster, node: usize) -> Vec<PathBuf> {
    let directory = cluster.node_directory(node).join("data/recordings");
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// Whole: the line in the log follows the last byte.
fn dump(cluster: &Cluster, node: usize) -> PathBuf {
    let before = cluster
        .log(node)
        .matches("flight recording written")
        .count();
    cluster.signal(node, "USR1");
    cluster.wait("a recording is written", LIMIT, || {
        cluster
            .log(node)
            .matches("flight recording written")
            .count()
            > before
    });
    recordings(cluster, node).pop().expect("a recording")
}

fn replay(file: &Path) -> Output {
    Command::new(binary("hippo-sim"))
        .arg("replay-recording")
        .arg(file)
        .output()
        .expect("hippo-sim runs")
}

#[test]
fn recordings_of_all_nodes_under_load_replay_to_the_same() {
    let mut cluster = Cluster::start("recordings", &[]);
    let arguments = ["--rate", "2000", "--warmup", "1s", "--duration", "6s"];
    let load = cluster.load("load", &[&arguments[..], &["--bundle", "16"]].concat());
    std::thread::sleep(Duration::from_secs(3));
    let mut files: Vec<PathBuf> = (0..NODES).map(|node| dump(&cluster, node)).collect();
    // The leader's death: the others change views, a restart begins another boot.
    cluster.kill(0);
    std::thread::sleep(Duration::from_secs(1));
    cluster.spawn(0);
    let (_, result) = load.finish();
    assert!(
        result["achieved_tps"].as_f64().unwrap_or(0.0) > 0.0,
        "{result}"
    );
    cluster.wait_ready(0);
    files.extend((0..NODES).map(|node| dump(&cluster, node)));
    for (index, file) in files.iter().enumerate() {
        let output = replay(file);
        assert_ok(&output, &format!("replay of {}", file.display()));
        let text = stdout(&output);
        assert!(text.contains("EQUAL") && text.contains("SIGUSR1"), "{text}");
        assert!(
            text.contains("from the first input of the process"),
            "{text}"
        );
        let decides = text.contains("decides up to slot");
        assert!(decides || index == NODES, "{text}");
    }
    let after = stdout(&replay(&files[NODES + 1]));
    assert!(after.contains("installs view 1"), "{after}");

    // Damage is refused, each kind by name and with exit code 6.
    let good = fs::read(&files[0]).expect("a recording");
    let bad = cluster.directory.join("bad.hrec");
    let refuse = |bytes: &[u8], why: &str| {
        fs::write(&bad, bytes).expect("written");
        let output = replay(&bad);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(6), "{text}");
        assert!(text.contains(why), "{text}");
    };
    refuse(&good[..good.len() - 5], "digest is wrong");
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    refuse(&flipped, "digest is wrong");
    refuse(b"something else altogether", "not a flight recording");
    let mut newer = good.clone();
    newer[8] = 99;
    refuse(&newer, "format 99");
    assert_eq!(
        replay(&cluster.directory.join("none")).status.code(),
        Some(2)
    );

    // No secret of any node is in a recording.
    for node in 0..NODES {
        let text = fs::read_to_string(key_file(&cluster, node)).expect("a key file");
        let body = text.lines().filter(|line| !line.starts_with('-'));
        let der = base64(&body.collect::<String>());
        // PKCS#8: the seed is an octet string within an octet string.
        let mark = [0x04, 0x22, 0x04, 0x20];
        let at = der
            .windows(4)
            .position(|part| part == mark)
            .expect("a seed")
            + 4;
        let seed = &der[at..at + 32];
        for file in &files {
            let recording = fs::read(file).expect("a recording");
            assert!(!recording.windows(32).any(|part| part == seed));
        }
    }
}

/// Enough of it for a key file.
fn base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text
        .bytes()
        .filter_map(|byte| ALPHABET.iter().position(|known| *known == byte));
    let (mut bits, mut held, mut bytes) = (0u32, 0, Vec::new());
    for digit in digits {
        bits = bits << 6 | digit as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}

fn key_file(cluster: &Cluster, node: usize) -> PathBuf {
    let config =
        fs::read_to_string(cluster.node_directory(node).join("node.toml")).expect("config");
    let table: toml::Table = config.parse().expect("toml");
    let key = table["node"]["key"].as_str().expect("a key path");
    cluster.node_directory(node).join(key)
}

/// A node that ends because of a failure leaves a recording.
#[test]
fn a_snapshot_that_cannot_be_written_ends_the_node_and_is_recorded() {
    let mut cluster = Cluster::prepare_sized("recording-failure", "1MiB", &[]);
    cluster.settings = &["--storage-snapshot-log-bytes", "3MiB"];
    cluster.start_all();
    fs::remove_dir_all(cluster.node_directory(2).join("data/snapshots")).expect("removed");
    let arguments = ["--rate", "600", "--warmup", "0s", "--duration", "40s"];
    let rest = ["--bundle", "1", "--clients", "8", "--keys", "100"];
    let load = cluster.load("load", &[&arguments[..], &rest[..]].concat());
    assert_eq!(cluster.wait_end(2), Some(1));
    assert!(
        cluster.log(2).contains("cannot write a snapshot"),
        "{}",
        cluster.log(2)
    );
    let (_, result) = load.finish();
    assert!(
        result["achieved_tps"].as_f64().unwrap_or(0.0) > 100.0,
        "{result}"
    );
    let file = recordings(&cluster, 2).pop().expect("a recording");
    let output = replay(&file);
    assert_ok(&output, "replay");
    assert!(stdout(&output).contains("cannot write a snapshot"));
}
