//! Rules for scripts and pages.

use std::process::Command;

use super::{File, expect_none, repository, root};

/// The beginnings of paths on one person's machine, in two parts so that this file may be checked.
const PRIVATE: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
];
const README_COMMANDS: &[&str] = &["./scripts/demo", "./scripts/test"];

fn names_a_machine(file: &File) -> Vec<String> {
    let mut found = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for private in PRIVATE {
            let begins = |at: usize| {
                !line[..at]
                    .ends_with(|c: char| c.is_alphanumeric() || ['_', '-', '.', '/'].contains(&c))
            };
            if line.match_indices(private).any(|(at, _)| begins(at)) {
                found.push(format!(
                    "{}:{}: a path of one machine: {private}",
                    file.path,
                    index + 1
                ));
            }
        }
    }
    found
}

fn is_script(file: &File) -> bool {
    let folder = file.path.strip_prefix("scripts/");
    folder.is_some_and(|rest| !rest.contains('/')) || file.path == ".ci/run"
}

/// A script is bash, stops at errors and explains itself.
fn is_a_good_script(file: &File) -> Vec<String> {
    let wants = [
        (
            "#!/usr/bin/env bash",
            file.text.starts_with("#!/usr/bin/env bash\n"),
        ),
        (
            "set -euo pipefail",
            file.text.lines().any(|line| line == "set -euo pipefail"),
        ),
        ("--help", file.text.contains("--help")),
    ];
    let missing = wants.iter().filter(|(_, there)| !there);
    missing
        .map(|(want, _)| format!("{}: {want} is missing", file.path))
        .collect()
}

fn helps(name: &str, succeeded: bool, output: &str) -> Vec<String> {
    let good = succeeded && output.starts_with("Usage: ") && output.lines().count() > 3;
    if good {
        Vec::new()
    } else {
        vec![format!("{name} --help does not explain the script")]
    }
}

fn commands_missing(readme: &str) -> Vec<String> {
    let missing = README_COMMANDS
        .iter()
        .filter(|command| !readme.contains(**command));
    missing
        .map(|command| format!("README.md does not name {command}"))
        .collect()
}

/// Links of a page to files beside it.
fn links(page: &str) -> Vec<&str> {
    let after = page.split("](").skip(1);
    let targets = after.filter_map(|rest| rest.split([')', '#']).next());
    targets
        .filter(|target| !target.is_empty() && !target.contains("://"))
        .collect()
}

#[test]
fn no_path_is_of_one_machine() {
    let all: Vec<String> = repository().iter().flat_map(names_a_machine).collect();
    expect_none("paths of a machine", &all);
}

#[test]
fn paths_of_one_machine_are_found() {
    let found = |text: String| names_a_machine(&File::sample("README.md", &text)).len();
    assert_eq!(found(format!("see {}me/file", PRIVATE[1])), 1);
    assert_eq!(found(format!("\"{}x\"", PRIVATE[0])), 1);
    assert_eq!(
        found("a network/root/file, ./home/x, /var/lib/hippo".to_owned()),
        0
    );
}

#[test]
fn scripts_explain_themselves() {
    let files = repository();
    let scripts: Vec<&File> = files.iter().filter(|file| is_script(file)).collect();
    assert!(scripts.len() >= 8, "the walk found too few scripts");
    let mut all: Vec<String> = scripts
        .iter()
        .flat_map(|script| is_a_good_script(script))
        .collect();
    for script in scripts {
        let answer = Command::new(root().join(&script.path))
            .arg("--help")
            .output()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", script.path));
        let output = String::from_utf8_lossy(&answer.stdout);
        all.extend(helps(&script.path, answer.status.success(), &output));
    }
    expect_none("scripts", &all);
}

#[test]
fn bad_scripts_are_found() {
    let found = |text: &str| is_a_good_script(&File::sample("scripts/a", text)).len();
    assert_eq!(
        found("#!/usr/bin/env bash\nset -euo pipefail\ncase $1 in --help) ;; esac\n"),
        0
    );
    assert_eq!(found("#!/bin/sh\nset -e\n"), 3);
    assert!(is_script(&File::sample(".ci/run", "")));
    assert!(!is_script(&File::sample("scripts/lib/cluster.bash", "")));
    assert_eq!(
        helps("a", true, "Usage: a\n\nDoes this\n  --help\n").len(),
        0
    );
    assert_eq!(
        helps("a", false, "Usage: a\n\nDoes this\n  --help\n").len(),
        1
    );
    assert_eq!(helps("a", true, "a: unknown option --help\n").len(), 1);
}

#[test]
fn the_readme_names_both_commands() {
    let files = repository();
    let readme = files
        .iter()
        .find(|file| file.path == "README.md")
        .expect("README.md");
    expect_none("commands", &commands_missing(&readme.text));
}

#[test]
fn missing_commands_are_found() {
    assert_eq!(
        commands_missing("Run `./scripts/demo`."),
        ["README.md does not name ./scripts/test"]
    );
}

#[test]
fn links_lead_somewhere() {
    let files = repository();
    let pages = files
        .iter()
        .filter(|file| file.path.ends_with(".md") && !file.path.contains('/'));
    let broken: Vec<String> = pages
        .flat_map(|page| links(&page.text).into_iter().map(move |link| (page, link)))
        .filter(|(_, link)| !root().join(link).exists())
        .map(|(page, link)| format!("{}: {link} does not exist", page.path))
        .collect();
    expect_none("links", &broken);
}

#[test]
fn links_are_seen() {
    let page = "[a](b.md) and [c](d/e.rs#f), not [g](https://h.org) or [i](#j)";
    assert_eq!(links(page), ["b.md", "d/e.rs"]);
}
