//! Words that a room may not say: protocol words in the machine half, the machine in the pure half.

use super::source::{before_tests, code_only, parts, words};
use super::{File, expect_none, repository};

const MACHINE: &[&str] = &["platform"];
const PROTOCOL_WORDS: &[&str] = &[
    "view", "views", "vote", "votes", "quorum", "quorums", "leader", "proposer",
];

const PURE: &[&str] = &["wire", "consensus", "storage", "replica", "client"];
/// Paths, as they are imported or called.
const MACHINE_PATHS: &[&str] = &[
    "std::fs",
    "std::thread",
    "std::net",
    "std::process",
    "Instant::now",
    "SystemTime",
    "thread_rng",
];
/// Addresses are plain data.
const ADDRESS_TYPES: &[&str] = &[
    "SocketAddr",
    "SocketAddrV4",
    "SocketAddrV6",
    "IpAddr",
    "Ipv4Addr",
    "Ipv6Addr",
    "AddrParseError",
];
/// The blocking client is a driver: it owns a socket and waits. So is the table on disk, whose crate opens
/// files.
const DRIVERS: &[(&str, &[&str])] = &[
    (
        "client/src/blocking",
        &["std::net", "std::thread", "Instant::now", "SystemTime"],
    ),
    ("storage/src/table/lsm/manifest", &["std::fs"]),
];

fn speaks_of_protocol(file: &File) -> Vec<String> {
    if !MACHINE.contains(&file.room()) {
        return Vec::new();
    }
    let code = code_only(&file.text);
    words(&code)
        .filter(|(_, word)| {
            parts(word)
                .iter()
                .any(|part| PROTOCOL_WORDS.contains(&part.as_str()))
        })
        .map(|(line, word)| format!("{}:{line}: {word} is a word of the protocol", file.path))
        .collect()
}

/// `use std::{fs, net::UdpSocket}` becomes `std::fs` and `std::net::UdpSocket`; other code stays.
fn flatten(code: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    let mut prefixes: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut word_line = 1;
    let mut end = |word: &mut String, prefixes: &[String], line: usize| {
        if !word.is_empty() {
            paths.push((line, prefixes.concat() + word));
            word.clear();
        }
    };
    let mut line = 1;
    for letter in code.chars() {
        match letter {
            c if c.is_alphanumeric() || c == '_' || c == ':' => {
                if word.is_empty() {
                    word_line = line;
                }
                word.push(c);
            }
            '{' => {
                let prefix = if word.ends_with("::") {
                    std::mem::take(&mut word)
                } else {
                    String::new()
                };
                end(&mut word, &prefixes, word_line);
                prefixes.push(prefix);
            }
            '}' => {
                end(&mut word, &prefixes, word_line);
                prefixes.pop();
            }
            '\n' => {
                end(&mut word, &prefixes, word_line);
                line += 1;
            }
            _ => end(&mut word, &prefixes, word_line),
        }
    }
    end(&mut word, &prefixes, word_line);
    paths
}

fn holds(path: &str, forbidden: &str) -> bool {
    let (path, forbidden): (Vec<&str>, Vec<&str>) =
        (path.split("::").collect(), forbidden.split("::").collect());
    path.windows(forbidden.len())
        .any(|window| window == forbidden)
}

fn touches_the_machine(file: &File) -> Vec<String> {
    if !PURE.contains(&file.room()) || !file.is_rust() || file.is_beside_the_crate() {
        return Vec::new();
    }
    let driver = DRIVERS.iter().find(|(path, _)| {
        file.path
            .strip_prefix(path)
            .is_some_and(|rest| rest.starts_with(['.', '/']))
    });
    let allowed = driver.map_or(&[][..], |(_, allowed)| allowed);
    let code = code_only(&file.text);
    // Unit tests run on a machine; only what is shipped must not know it.
    let length = before_tests(&file.text).len();
    let mut found = Vec::new();
    for (line, path) in flatten(&code[..length]) {
        for forbidden in MACHINE_PATHS.iter().filter(|path| !allowed.contains(path)) {
            let address = *forbidden == "std::net"
                && path.split("::").any(|part| ADDRESS_TYPES.contains(&part));
            if holds(&path, forbidden) && !address {
                found.push(format!("{}:{line}: {path} in the pure half", file.path));
            }
        }
    }
    found
}

#[test]
fn the_machine_half_knows_no_protocol() {
    let files = repository();
    let all: Vec<String> = files
        .iter()
        .filter(|file| file.is_rust())
        .flat_map(speaks_of_protocol)
        .collect();
    expect_none("protocol words in platform", &all);
}

#[test]
fn protocol_words_in_platform_are_found() {
    let found = |path: &str, text: &str| speaks_of_protocol(&File::sample(path, text)).len();
    assert_eq!(found("platform/src/a.rs", "fn next_view() {}"), 1);
    assert_eq!(
        found("platform/src/a.rs", "struct QuorumSize; let leader = 1;"),
        2
    );
    assert_eq!(
        found(
            "platform/src/a.rs",
            "// a view\nlet preview = \"vote\"; devote();"
        ),
        0
    );
    assert_eq!(found("consensus/src/a.rs", "fn next_view() {}"), 0);
}

#[test]
fn the_pure_half_knows_no_machine() {
    let all: Vec<String> = repository().iter().flat_map(touches_the_machine).collect();
    expect_none("the machine in the pure half", &all);
}

#[test]
fn the_machine_in_the_pure_half_is_found() {
    let found = |path: &str, text: &str| touches_the_machine(&File::sample(path, text)).len();
    let pure = "wire/src/a.rs";
    assert_eq!(found(pure, "use std::fs;"), 1);
    assert_eq!(found(pure, "use std::fs::File;"), 1);
    assert_eq!(
        found(pure, "use std::{\n    fmt,\n    fs::File,\n    thread,\n};"),
        2
    );
    assert_eq!(found(pure, "let now = std::time::Instant::now();"), 1);
    assert_eq!(found(pure, "use std::time::{Duration, SystemTime};"), 1);
    assert_eq!(found(pure, "use std::net::UdpSocket;"), 1);
    assert_eq!(found(pure, "use std::net::{SocketAddr, UdpSocket};"), 1);
    assert_eq!(found(pure, "use std::net::{IpAddr, SocketAddr};"), 0);
    assert_eq!(found(pure, "fn a(b: std::net::SocketAddrV4) {}"), 0);
    assert_eq!(
        found(
            pure,
            "// std::fs\nlet a = \"std::fs\"; use wire::ids::Instant;"
        ),
        0
    );
    assert_eq!(
        found(
            pure,
            "fn a() {}\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n"
        ),
        0
    );
    assert_eq!(found("storage/tests/a.rs", "use std::fs;"), 0);
    assert_eq!(found("node/src/a.rs", "use std::fs;"), 0);
    assert_eq!(
        found("client/src/blocking.rs", "use std::net::UdpSocket;"),
        0
    );
    assert_eq!(found("client/src/blocking/wait.rs", "use std::thread;"), 0);
    assert_eq!(found("client/src/blocking.rs", "use std::fs;"), 1);
    assert_eq!(found("client/src/blockings.rs", "use std::thread;"), 1);
}
