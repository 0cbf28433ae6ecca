//! Every refusal of `hippo start`: one clear line, the right exit code, nothing changed.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::{Network, Said, ended};
use storage::Superblock;

fn expect(said: &Said, code: i32, parts: &[&str]) {
    assert_eq!(said.code, code, "{}", said.err);
    let last = said.err.lines().last().unwrap_or_default();
    assert!(last.starts_with("hippo: "), "{}", said.err);
    for part in parts {
        assert!(last.contains(part), "no `{part}` in: {last}");
    }
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "no `{from}` in {}", path.display());
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn key_files() {
    let network = Network::new("key-files");
    let key = network.node(1).join("node.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    expect(
        &network.refusal(1),
        7,
        &["can be read by others", "chmod 600"],
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::copy(network.node(2).join("node.key"), &key).unwrap();
    expect(&network.refusal(1), 7, &["wrong key", "key of node 2"]);
    fs::write(&key, "nonsense").unwrap();
    expect(&network.refusal(1), 7, &["PKCS#8"]);
    fs::remove_file(&key).unwrap();
    expect(&network.refusal(1), 7, &["node.key"]);
}

#[test]
fn committees() {
    let network = Network::new("committees");
    let other = Network::new("committees-other");
    let committee = network.path().join("committee.toml");
    let own = fs::read(&committee).unwrap();
    fs::copy(other.path().join("committee.toml"), &committee).unwrap();
    expect(
        &network.refusal(0),
        7,
        &["wrong key", "belongs to no member"],
    );
    fs::write(&committee, &own).unwrap();
    replace(
        &committee,
        "state_machine = \"kv\"",
        "state_machine = \"noop\"",
    );
    expect(
        &network.refusal(0),
        7,
        &["committee mismatch", "hippo config check"],
    );
    fs::write(&committee, &own).unwrap();
    replace(&committee, "state_machine", "state_machin");
    expect(
        &network.refusal(0),
        2,
        &["committee.toml", "line 12", "state_machine"],
    );
    fs::write(&committee, &own).unwrap();
    replace(&network.node(0).join("node.toml"), "id = 0", "id = 9");
    expect(&network.refusal(0), 7, &["node.id is 9", "members 0 to 3"]);
}

#[test]
fn data_directories() {
    let network = Network::new("data");
    let data = network.node(0).join("data");
    let config = network.node(0).join("node.toml");
    replace(&config, "data = \"data\"", "data = \"../node-1/data\"");
    expect(
        &network.refusal(0),
        7,
        &["foreign data directory", "belongs to node 1"],
    );
    replace(&config, "\"../node-1/data\"", "\"nowhere\"");
    expect(
        &network.refusal(0),
        7,
        &["does not exist", "never makes one"],
    );
    assert!(!network.node(0).join("nowhere").exists());
    replace(&config, "\"nowhere\"", "\"data\"");

    let names = ["superblock.a", "superblock.b"];
    let copies = names.map(|name| fs::read(data.join(name)).unwrap());
    let mut newer = Superblock::load(&copies[0], &copies[1]).unwrap().superblock;
    newer.directory_version += 1;
    for name in names {
        fs::write(data.join(name), newer.format()).unwrap();
    }
    expect(&network.refusal(0), 7, &["newer version"]);
    for name in names {
        fs::write(data.join(name), [7; 4096]).unwrap();
    }
    expect(
        &network.refusal(0),
        6,
        &["both copies of the superblock are damaged"],
    );
    for name in names {
        fs::remove_file(data.join(name)).unwrap();
    }
    expect(&network.refusal(0), 7, &["not formatted", "never formats"]);
    assert!(!data.join(names[0]).exists());
}

#[test]
fn a_directory_of_another_cluster() {
    let network = Network::new("cluster");
    let other = Network::new("cluster-other");
    let data = network.node(0).join("data");
    fs::remove_dir_all(&data).unwrap();
    fs::rename(other.node(0).join("data"), &data).unwrap();
    expect(
        &network.refusal(0),
        7,
        &["foreign data directory", "belongs to cluster"],
    );
}

#[test]
fn configurations() {
    let network = Network::new("configurations");
    let config = network.node(0).join("node.toml");
    let own = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{own}segmnts_max = 9\n")).unwrap();
    let line = own.lines().count() + 1;
    let place = format!("node.toml:{line}: unknown key `segmnts_max`");
    expect(
        &network.refusal(0),
        2,
        &[&place, "did you mean `segments_max`?"],
    );
    fs::write(&config, format!("{own}durability = \"lazy\"\n")).unwrap();
    expect(&network.refusal(0), 2, &["durability", "sync, lease, none"]);
    fs::write(&config, &own).unwrap();
    replace(
        &config,
        "segment_bytes = \"1MiB\"",
        "segment_bytes = \"2MiB\"",
    );
    expect(
        &network.refusal(0),
        7,
        &["segment_bytes is 2MiB", "formatted with 1MiB"],
    );
    fs::remove_file(&config).unwrap();
    expect(&network.refusal(0), 2, &["node.toml", "hippo testnet"]);
}

#[test]
fn flags_and_environment() {
    let network = Network::new("flags");
    let mut command = network.start_command(0);
    command.arg("--storage-flush").arg("never");
    expect(
        &ended(command),
        2,
        &["flag --storage-flush", "dsync, fdatasync"],
    );
    let mut command = network.start_command(0);
    command.env("HIPPO_STORAGE_DIRCT", "1");
    expect(&ended(command), 2, &["HIPPO_STORAGE_DIRECT"]);
}

#[test]
fn ports_taken() {
    let network = Network::new("ports");
    let admin = TcpListener::bind(("127.0.0.1", network.port + 100)).unwrap();
    expect(
        &network.refusal(0),
        7,
        &["admin endpoint", &(network.port + 100).to_string()],
    );
    drop(admin);
    let _udp = UdpSocket::bind(("127.0.0.1", network.port)).unwrap();
    expect(&network.refusal(0), 7, &[&network.port.to_string()]);
}

#[test]
fn a_core_that_does_not_exist() {
    let network = Network::with("core", "--cores 4000");
    expect(&network.refusal(0), 7, &["4000"]);
}

#[test]
fn a_second_process_on_one_directory() {
    let network = Network::new("second");
    let first = network.start(0);
    let holder = format!("in use by process {}", first.id());
    expect(&network.refusal(0), 7, &[&holder]);
    first.signal("TERM");
    let said = first.wait();
    assert_eq!(said.code, 0, "{}", said.err);
    let again = network.start(0);
    again.signal("INT");
    assert_eq!(again.wait().code, 0);
}
