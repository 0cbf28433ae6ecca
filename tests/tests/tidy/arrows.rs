//! Which crate may import which.

use super::{File, expect_none, repository};

const LIBRARIES: &[&str] = &[
    "wire",
    "consensus",
    "storage",
    "replica",
    "client",
    "platform",
];

/// Importer and what it may import, of ours.
const ARROWS: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("platform", &[]),
    ("consensus", &["wire"]),
    ("storage", &["wire"]),
    ("client", &["wire"]),
    ("replica", &["consensus", "storage", "wire"]),
    (
        "node",
        &["replica", "storage", "client", "wire", "platform"],
    ),
    ("loadgen", &["client", "wire", "platform"]),
    (
        "sim",
        &["replica", "consensus", "storage", "client", "wire"],
    ),
    ("bench", LIBRARIES),
    ("tests", &["wire", "client"]),
];

/// More that tests, examples and benchmarks of a crate may import. None so far.
const ARROWS_OF_TESTS: &[(&str, &[&str])] = &[];

/// What an optional dependency may add: importer, imported, the only feature that may name it.
const BEHIND_FEATURES: &[(&str, &str, &str)] = &[("node", "sim", "liar")];

fn allowed(
    table: &[(&str, &'static [&'static str])],
    importer: &str,
) -> Option<&'static [&'static str]> {
    table
        .iter()
        .find(|(name, _)| *name == importer)
        .map(|(_, imported)| *imported)
}

/// Checks one manifest; `members` are the names of our crates.
fn complaints(members: &[&str], importer: &str, manifest: &str) -> Vec<String> {
    let manifest: toml::Table = match manifest.parse() {
        Ok(manifest) => manifest,
        Err(error) => return vec![format!("{importer}/Cargo.toml: {error}")],
    };
    let Some(normal) = allowed(ARROWS, importer) else {
        return vec![format!("{importer}: has no row in the table of arrows")];
    };
    let of_tests = allowed(ARROWS_OF_TESTS, importer).unwrap_or_default();
    let mut found = Vec::new();
    let mut tables = vec![&manifest];
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    tables.extend(
        targets
            .into_iter()
            .flatten()
            .filter_map(|(_, table)| table.as_table()),
    );
    for table in tables {
        for section in ["dependencies", "build-dependencies", "dev-dependencies"] {
            let Some(dependencies) = table.get(section).and_then(toml::Value::as_table) else {
                continue;
            };
            for (name, value) in dependencies {
                // A renamed dependency is what it was before.
                let name = value
                    .get("package")
                    .and_then(toml::Value::as_str)
                    .unwrap_or(name);
                if !members.contains(&name) || normal.contains(&name) {
                    continue;
                }
                if section == "dev-dependencies" && of_tests.contains(&name) {
                    continue;
                }
                let optional = value.get("optional").and_then(toml::Value::as_bool) == Some(true);
                let feature = BEHIND_FEATURES
                    .iter()
                    .find(|row| (row.0, row.1) == (importer, name));
                if let Some((_, _, feature)) = feature
                    && optional
                    && only_named_by(&manifest, name, feature)
                {
                    continue;
                }
                found.push(format!(
                    "{importer} -> {name} in [{section}] is not in the table"
                ));
            }
        }
    }
    found
}

fn only_named_by(manifest: &toml::Table, dependency: &str, feature: &str) -> bool {
    let features = manifest.get("features").and_then(toml::Value::as_table);
    features.into_iter().flatten().all(|(name, values)| {
        let names = |value: &toml::Value| {
            value.as_str().is_some_and(|value| {
                value.trim_start_matches("dep:").split(['/', '?']).next() == Some(dependency)
            })
        };
        name == feature
            || !values
                .as_array()
                .is_some_and(|values| values.iter().any(names))
    })
}

/// Importers in the table that import each other, directly or not.
fn cycles(table: &[(&'static str, &'static [&'static str])]) -> Vec<String> {
    fn reaches(
        table: &[(&str, &'static [&'static str])],
        from: &str,
        to: &str,
        left: usize,
    ) -> bool {
        left > 0
            && allowed(table, from)
                .unwrap_or_default()
                .iter()
                .any(|next| *next == to || reaches(table, next, to, left - 1))
    }
    table
        .iter()
        .filter(|(name, _)| reaches(table, name, name, table.len()))
        .map(|(name, _)| format!("{name} imports itself in the end"))
        .collect()
}

#[test]
fn arrows_are_those_of_the_table() {
    let files = repository();
    let text = |path: &str| -> &str {
        let file: Option<&File> = files.iter().find(|file| file.path == path);
        &file.unwrap_or_else(|| panic!("{path} is missing")).text
    };
    let workspace: toml::Table = text("Cargo.toml").parse().expect("a workspace");
    let members: Vec<&str> = workspace["workspace"]["members"]
        .as_array()
        .expect("members")
        .iter()
        .filter_map(toml::Value::as_str)
        .collect();
    assert_eq!(
        members.len(),
        ARROWS.len(),
        "each member has a row in the table, and no other"
    );
    let all: Vec<String> = members
        .iter()
        .flat_map(|name| complaints(&members, name, text(&format!("{name}/Cargo.toml"))))
        .collect();
    expect_none("arrows between crates", &all);
    expect_none("cycles", &cycles(ARROWS));
}

#[test]
fn wrong_arrows_are_found() {
    let members = ["wire", "platform", "consensus", "sim", "node"];
    let bad = |importer: &str, manifest: &str| complaints(&members, importer, manifest).len();
    assert_eq!(bad("wire", "[dependencies]\nblake3 = \"1\""), 0);
    assert_eq!(bad("consensus", "[dependencies]\nwire.workspace = true"), 0);
    assert_eq!(bad("wire", "[dependencies]\nconsensus.workspace = true"), 1);
    assert_eq!(
        bad("wire", "[dev-dependencies]\nplatform.workspace = true"),
        1
    );
    assert_eq!(
        bad(
            "sim",
            "[target.'cfg(unix)'.dependencies]\nplatform.workspace = true"
        ),
        1
    );
    assert_eq!(
        bad(
            "sim",
            "[dependencies]\nmachine = { package = \"platform\", path = \"x\" }"
        ),
        1
    );
    assert_eq!(bad("stranger", ""), 1);
    let liar =
        "[features]\nliar = [\"dep:sim\"]\n[dependencies]\nsim = { path = \"x\", optional = true }";
    assert_eq!(bad("node", liar), 0);
    assert_eq!(bad("node", &liar.replace("liar =", "default =")), 1);
    assert_eq!(bad("node", "[dependencies]\nsim.workspace = true"), 1);
    assert_eq!(
        cycles(&[("a", &["b"]), ("b", &["c"]), ("c", &["a"]), ("d", &["a"])]).len(),
        3
    );
}
