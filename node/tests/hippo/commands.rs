//! The commands that need no running cluster, and what commands say when there is none.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::{Network, command, hippo};

#[test]
fn a_test_network_is_complete_and_private() {
    let network = Network::with("layout", "--idle block --datagram-bytes 1472");
    let path = network.path();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path.join("operator.key")), 0o600);
    assert_eq!(mode(&path.join("client.key")), 0o600);
    for node in 0..4 {
        let node = network.node(node);
        assert_eq!(mode(&node.join("node.key")), 0o600);
        assert_eq!(mode(&node.join("data")), 0o700);
        for name in ["LOCK", "superblock.a", "superblock.b"] {
            assert!(node.join("data").join(name).exists());
        }
        for index in 0..2 {
            let segment = node.join(format!("data/wal/{index:08}.segment"));
            let bytes = fs::read(segment).unwrap();
            assert!(bytes.len() == 1 << 20 && bytes.iter().all(|byte| *byte == 0));
        }
    }
    let text = fs::read_to_string(network.node(3).join("node.toml")).unwrap();
    for line in [
        "id = 3",
        "idle = \"block\"",
        "datagram_bytes = 1472",
        "segment_bytes = \"1MiB\"",
    ] {
        assert!(
            text.lines().any(|have| have == line),
            "no `{line}` in\n{text}"
        );
    }
    assert!(text.contains(&format!("127.0.0.1:{}", network.port + 103)));

    let again = hippo(&format!("testnet --output {}", path.display()));
    assert_eq!(again.code, 2);
    assert!(again.err.contains("not empty"), "{}", again.err);
}

#[test]
fn bad_shapes_are_refused() {
    let scratch = crate::support::Scratch::new("shapes");
    let output = scratch.path().join("net");
    for flags in [
        "--nodes 3",
        "--nodes 32",
        "--flush never",
        "--segment-bytes 1000",
        "--segments-max 1",
        "--segments-initial 9 --segments-max 8",
        "--base-port 65535",
        "--cores x",
        "--preset fast",
        "--preset strict --b 1 --u 1 --p 0",
        "--b 1 --u 1",
        "--p 1",
        "--datagram-bytes 100",
        // It has a slow path, whose certificates are made of votes.
        "--nodes 6 --vote-authentication mac",
    ] {
        let said = hippo(&format!("testnet --output {} {flags}", output.display()));
        assert_eq!(said.code, 2, "{flags}: {}", said.err);
        assert!(!output.exists(), "{flags}");
    }
}

#[test]
fn presets_are_written_down() {
    for (flags, lines) in [
        (
            "--nodes 7",
            ["preset = \"balanced\"", "b = 2", "u = 2", "p = 1"],
        ),
        (
            "--preset strict",
            ["preset = \"strict\"", "b = 1", "u = 1", "p = 0"],
        ),
        (
            "--nodes 10 --preset latency",
            ["preset = \"latency\"", "b = 2", "u = 2", "p = 2"],
        ),
        (
            "--nodes 6 --b 1 --u 2 --p 1",
            ["preset = \"crash-heavy\"", "b = 1", "u = 2", "p = 1"],
        ),
        (
            "--b 2 --u 0 --p 0",
            ["preset = \"safety-heavy\"", "b = 2", "u = 0", "p = 0"],
        ),
    ] {
        let network = Network::with("preset", flags);
        let text = fs::read_to_string(network.path().join("committee.toml")).unwrap();
        for line in lines {
            assert!(text.lines().any(|have| have == line), "{flags}: {text}");
        }
        // What a node reads is what was written.
        let committee = network.path().join("committee.toml");
        let committee = committee.display();
        let checked = hippo(&format!("config check {committee} {committee}"));
        assert_eq!(checked.code, 0, "{flags}: {}", checked.err);
    }
}

#[test]
fn impossible_parameters_are_refused_by_name() {
    let scratch = crate::support::Scratch::new("parameters");
    let output = scratch.path().join("net");
    for (flags, expected) in [
        ("--b 2 --u 1 --p 0", "condition C2"),
        ("--nodes 7 --b 2 --u 2 --p 2", "condition C7"),
        ("--b 0 --u 1 --p 1", "range"),
        ("--b 1 --u 0 --p 1", "range"),
        ("--b 1 --u 1 --p 0", "is no preset"),
        ("--preset crash-heavy", "--b, --u and --p"),
        ("--nodes 3 --preset latency", "latency"),
    ] {
        let said = hippo(&format!("testnet --output {} {flags}", output.display()));
        assert_eq!(said.code, 2, "{flags}: {}", said.err);
        assert!(said.err.contains(expected), "{flags}: {}", said.err);
        assert!(!output.exists(), "{flags}");
    }
}

#[test]
fn configurations_are_shown_with_their_origin() {
    let network = Network::new("origin");
    let config = network.node(0).join("node.toml");
    let output = command()
        .args([
            "config",
            "show",
            "--origin",
            "-o",
            "json",
            "--threads-idle",
            "block",
        ])
        .arg("--config")
        .arg(&config)
        .env("HIPPO_STORAGE_FLUSH", "fdatasync")
        .output()
        .unwrap();
    assert!(output.status.success());
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let row = |name: &str| rows.iter().find(|row| row["setting"] == name).unwrap();
    assert_eq!(row("threads.idle")["origin"], "flag --threads-idle");
    assert_eq!(row("storage.flush")["value"], "fdatasync");
    assert_eq!(
        row("storage.flush")["origin"],
        "environment HIPPO_STORAGE_FLUSH"
    );
    assert_eq!(row("storage.direct")["origin"], "default");
    let origin = row("node.id")["origin"].as_str().unwrap();
    assert!(origin.ends_with("node.toml:4"), "{origin}");
}

#[test]
fn the_sample_and_the_check() {
    let network = Network::new("check");
    let sample = hippo("config sample");
    assert_eq!(sample.code, 0);
    let path = network.node(2).join("sample.toml");
    fs::write(&path, sample.out).unwrap();
    let said = hippo(&format!("config check {}", path.display()));
    assert_eq!((said.code, said.err.as_str()), (0, ""));

    let ours = network.path().join("committee.toml");
    let theirs = network.path().join("theirs.toml");
    let text = fs::read_to_string(&ours).unwrap();
    fs::write(
        &theirs,
        text.replace("state_machine = \"kv\"", "state_machine = \"noop\""),
    )
    .unwrap();
    let said = hippo(&format!(
        "config check {} {}",
        ours.display(),
        theirs.display()
    ));
    assert_eq!(said.code, 1);
    assert!(
        said.out
            .contains("differ in: state_machine; nodes with these files refuse each other")
    );
    fs::write(&theirs, "cluster = 3").unwrap();
    let said = hippo(&format!(
        "config check {} {}",
        ours.display(),
        theirs.display()
    ));
    assert_eq!(said.code, 2, "{}", said.err);
}

#[test]
fn keys_are_made_shown_and_verified() {
    let network = Network::new("keys");
    let fresh = network.path().join("fresh.key");
    let made = hippo(&format!("key generate --output {}", fresh.display()));
    assert_eq!(made.code, 0, "{}", made.err);
    assert_eq!(
        hippo(&format!("key show {}", fresh.display())).out,
        made.out
    );
    let again = hippo(&format!("key generate --output {}", fresh.display()));
    assert_eq!(again.code, 1);
    assert!(again.err.contains("never overwritten"));

    let committee = network.path().join("committee.toml");
    let verify = |key: &std::path::Path, id: u16| {
        hippo(&format!(
            "key verify {} --committee {} --id {id}",
            key.display(),
            committee.display()
        ))
    };
    let own = network.node(2).join("node.key");
    assert_eq!(verify(&own, 2).code, 0);
    let other = verify(&own, 1);
    assert_eq!(other.code, 7);
    assert!(other.err.contains("belongs to node 2"), "{}", other.err);
    assert_eq!(verify(&fresh, 1).code, 7);
}

#[test]
fn a_dead_cluster_is_unhealthy_and_has_no_quorum() {
    let network = Network::new("dead");
    let path = network.path();
    let path = path.display();
    let status = hippo(&format!("status --network {path}"));
    assert_eq!(status.code, 5, "{}", status.err);
    assert!(
        status.out.contains("down: node 0, 1, 2, 3"),
        "{}",
        status.out
    );
    assert_eq!(hippo(&format!("health --network {path}")).code, 5);
    assert_eq!(hippo(&format!("health --network {path} --node 2")).code, 5);
    assert_eq!(hippo(&format!("health --network {path} --node 4")).code, 2);
    let get = hippo(&format!("get --network {path} --timeout 300ms k"));
    assert_eq!(get.code, 3, "{}", get.err);
    let stale = hippo(&format!(
        "get --network {path} --timeout 300ms --read stale --node 1 k"
    ));
    assert_eq!(stale.code, 3, "{}", stale.err);
    let fenced = hippo(&format!(
        "get --network {path} --timeout 300ms --read fenced k"
    ));
    assert_eq!(fenced.code, 3);
    assert!(
        fenced
            .err
            .contains("0 of 4 replicas answered, 3 are needed")
    );
    for mode in ["fenced", "ordered"] {
        let node = format!("scan --network {path} --read {mode} --node 1");
        assert_eq!(hippo(&node).code, 2);
    }
    let readable = network.path().join("client.key");
    fs::set_permissions(readable, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(hippo(&format!("put --network {path} k v")).code, 7);
    let none = hippo("put --network /nonexistent k v");
    assert_eq!(none.code, 2);
    assert!(none.err.contains("HIPPO_NETWORK"), "{}", none.err);
}

#[test]
fn help_version_completion_and_mistakes() {
    let help = hippo("--help");
    assert_eq!(help.code, 0);
    assert!(help.out.contains("A whole cluster:") && help.out.contains("Exit codes:"));
    for command in ["testnet", "start", "dev", "status"] {
        let help = hippo(&format!("{command} --help"));
        assert!(
            help.code == 0 && help.out.contains("A whole cluster:"),
            "{command}"
        );
    }
    for what in ["wal", "checkpoint", "integrity"] {
        let help = hippo(&format!("inspect {what} --help"));
        let whole = help.out.contains("hippo inspect wal") && help.out.contains("Exit codes:");
        assert!(help.code == 0 && whole, "inspect {what}");
    }
    assert!(hippo("version").out.starts_with("hippo "));
    for shell in ["bash", "zsh", "fish"] {
        let script = hippo(&format!("completion {shell}"));
        assert!(script.code == 0 && script.out.contains("hippo"), "{shell}");
    }
    for mistake in [
        "",
        "pit k v",
        "put k",
        "txn --if a=b",
        "scan --limit 0",
        "cas k v",
        "inspect",
        "inspect wal --kind blok",
        "inspect wal --config no-such-file",
    ] {
        assert_eq!(hippo(mistake).code, 2, "{mistake}");
    }
}

/// Directories that no node ever ran on; nothing of them is changed.
#[test]
fn formatted_directories_are_inspected() {
    let network = Network::new("inspect");
    let inspect = |node: usize, arguments: &str| {
        let config = network.node(node).join("node.toml");
        hippo(&format!(
            "inspect {arguments} --config {}",
            config.display()
        ))
    };
    let wal = inspect(0, "wal");
    assert_eq!(wal.code, 0, "{}", wal.err);
    assert!(wal.out.contains("0 records"), "{}", wal.out);
    let integrity = inspect(0, "integrity");
    assert_eq!(integrity.code, 0, "{}{}", integrity.out, integrity.err);
    let none = inspect(0, "checkpoint");
    assert_eq!(none.code, 1);
    assert!(none.err.contains("no snapshot"), "{}", none.err);

    // One copy of the superblock, then both.
    let data = network.node(0).join("data");
    let good = fs::read(data.join("superblock.a")).unwrap();
    fs::write(data.join("superblock.b"), vec![9; 4096]).unwrap();
    let integrity = inspect(0, "integrity -o csv");
    assert_eq!(integrity.code, 6);
    assert!(
        integrity.out.contains("superblock.b,damaged"),
        "{}",
        integrity.out
    );
    assert!(
        integrity.out.contains("superblock.a,ok"),
        "{}",
        integrity.out
    );
    assert_eq!(inspect(0, "wal").code, 0);
    fs::write(data.join("superblock.a"), vec![9; 4096]).unwrap();
    assert_eq!(inspect(0, "integrity").code, 6);
    assert_eq!(inspect(0, "wal").code, 6);
    fs::write(data.join("superblock.a"), good).unwrap();

    // Segments: one is too short, one is missing.
    let segment = network.node(1).join("data/wal/00000000.segment");
    fs::write(&segment, vec![0; 8192]).unwrap();
    let integrity = inspect(1, "integrity");
    assert_eq!(integrity.code, 6);
    assert!(
        integrity.out.contains("8192 bytes instead"),
        "{}",
        integrity.out
    );
    fs::remove_file(&segment).unwrap();
    let integrity = inspect(1, "integrity -o csv");
    assert_eq!(integrity.code, 6);
    assert!(
        integrity.out.contains("wal segments 0 to 0,missing"),
        "{}",
        integrity.out
    );

    // Of another node.
    let theirs = network.node(3).join("data");
    fs::remove_dir_all(&theirs).unwrap();
    fs::rename(network.node(2).join("data"), &theirs).unwrap();
    let integrity = inspect(3, "integrity");
    assert_eq!(integrity.code, 6);
    assert!(
        integrity.out.contains("foreign data directory"),
        "{}",
        integrity.out
    );
    assert_eq!(inspect(2, "integrity").code, 1, "there is none");
}
