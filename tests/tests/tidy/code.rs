//! Rules for every Rust file: unsafe code, length, macros of unfinished work.

use super::source::{before_tests, code_only, words};
use super::{File, expect_none, repository};

const LINES_BEFORE_TESTS_MAX: usize = 600;
const LINES_MAX: usize = 900;
const UNFINISHED: &[&str] = &["todo", "unimplemented", "dbg"];
const FORBID: &str = "#![forbid(unsafe_code)]";

fn each_rust_file(check: impl Fn(&File) -> Vec<String>) -> Vec<String> {
    let files = repository();
    files
        .iter()
        .filter(|file| file.is_rust())
        .flat_map(check)
        .collect()
}

/// The one room that may hold unsafe code.
fn may_be_unsafe(file: &File) -> bool {
    file.room() == "platform"
}

fn length(file: &File) -> Vec<String> {
    let all = file.text.lines().count();
    // A file of tests has no part before them.
    let own = if file.is_beside_the_crate() {
        0
    } else {
        before_tests(&file.text).lines().count()
    };
    let mut found = Vec::new();
    if own > LINES_BEFORE_TESTS_MAX {
        found.push(format!(
            "{}: {own} lines before its tests, at most {LINES_BEFORE_TESTS_MAX}",
            file.path
        ));
    }
    if all > LINES_MAX {
        found.push(format!("{}: {all} lines, at most {LINES_MAX}", file.path));
    }
    found
}

fn is_crate_root(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    matches!(
        parts[..],
        [_, "src", "lib.rs" | "main.rs"] | [_, "src", "bin", _] | [_, "src", "bin", _, "main.rs"]
    )
}

fn forbids_unsafe(file: &File) -> Vec<String> {
    if !is_crate_root(&file.path) || may_be_unsafe(file) {
        return Vec::new();
    }
    let code = code_only(&file.text);
    let missing = !code.lines().any(|line| line.trim() == FORBID);
    missing
        .then(|| format!("{}: {FORBID} is missing", file.path))
        .into_iter()
        .collect()
}

fn holds_no_unsafe(file: &File) -> Vec<String> {
    if may_be_unsafe(file) {
        return Vec::new();
    }
    let code = code_only(&file.text);
    let found = words(&code).filter(|(_, word)| *word == "unsafe");
    found
        .map(|(line, _)| format!("{}:{line}: unsafe code outside platform", file.path))
        .collect()
}

/// Every unsafe block, impl and extern block needs a reason in a comment just before it.
fn gives_reasons(file: &File) -> Vec<String> {
    let code = code_only(&file.text);
    let text: Vec<&str> = file.text.lines().collect();
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        for (at, _) in line.match_indices("unsafe") {
            let before = line[..at]
                .chars()
                .next_back()
                .is_some_and(|c| c.is_alphanumeric() || c == '_');
            let after = &line[at + "unsafe".len()..];
            let next = after.trim_start();
            let next = if next.is_empty() {
                lines.get(index + 1).map_or("", |line| line.trim_start())
            } else {
                next
            };
            let needs =
                next.starts_with('{') || next.starts_with("impl") || next.starts_with("extern");
            // `unsafe extern "C" fn` is a declaration; its literal is blank here.
            let declares = next.starts_with("extern") && next.contains("fn ");
            if before
                || after.starts_with(|c: char| c.is_alphanumeric() || c == '_')
                || !needs
                || declares
            {
                continue;
            }
            if !reason_above(&text, &lines, index) {
                found.push(format!(
                    "{}:{}: unsafe without a SAFETY comment",
                    file.path,
                    index + 1
                ));
            }
        }
    }
    found
}

/// Looks up through comments, attributes and the beginning of the same statement.
fn reason_above(text: &[&str], code: &[&str], index: usize) -> bool {
    for above in (0..index).rev() {
        let line = text[above].trim_start();
        if line.starts_with("//") {
            if line.contains("SAFETY:") {
                return true;
            }
            continue;
        }
        let line = code[above].trim();
        let attribute = line.starts_with("#[");
        let same_statement = !(line.is_empty() || line.ends_with([';', '{', '}']));
        if !attribute && !same_statement {
            break;
        }
    }
    false
}

fn is_finished(file: &File) -> Vec<String> {
    let code = code_only(&file.text);
    let mut found = Vec::new();
    for (index, line) in code.lines().enumerate() {
        for name in UNFINISHED {
            let call = format!("{name}!");
            let begins =
                |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            if line.match_indices(&call).any(|(at, _)| begins(at)) {
                found.push(format!("{}:{}: {call}", file.path, index + 1));
            }
        }
    }
    found
}

#[test]
fn files_are_short() {
    expect_none("length of files", &each_rust_file(length));
}

#[test]
fn long_files_are_found() {
    let lines = |count: usize| "x\n".repeat(count);
    let found = |path: &str, text: String| length(&File::sample(path, &text)).len();
    assert_eq!(found("wire/src/a.rs", lines(600)), 0);
    assert_eq!(found("wire/src/a.rs", lines(601)), 1);
    assert_eq!(
        found(
            "wire/src/a.rs",
            lines(600) + "#[cfg(test)]\nmod tests {\n" + &lines(298)
        ),
        0
    );
    assert_eq!(
        found(
            "wire/src/a.rs",
            lines(600) + "#[cfg(test)]\nmod tests {\n" + &lines(299)
        ),
        1
    );
    assert_eq!(found("wire/tests/a.rs", lines(900)), 0);
    assert_eq!(found("wire/tests/a.rs", lines(901)), 1);
}

#[test]
fn crate_roots_forbid_unsafe_code() {
    expect_none("crate roots", &each_rust_file(forbids_unsafe));
    assert!(
        repository()
            .iter()
            .filter(|file| is_crate_root(&file.path))
            .count()
            >= 11
    );
}

#[test]
fn roots_that_allow_unsafe_code_are_found() {
    let found = |path: &str, text: &str| forbids_unsafe(&File::sample(path, text)).len();
    assert_eq!(
        found("wire/src/lib.rs", "//! Doc\n\n#![forbid(unsafe_code)]\n"),
        0
    );
    assert_eq!(found("wire/src/lib.rs", "//! Doc\n"), 1);
    assert_eq!(found("node/src/main.rs", "// #![forbid(unsafe_code)]\n"), 1);
    assert_eq!(found("node/src/bin/a.rs", ""), 1);
    assert_eq!(found("node/src/cli/main.rs", ""), 0);
    assert_eq!(found("platform/src/lib.rs", ""), 0);
}

#[test]
fn unsafe_code_is_in_platform_alone() {
    expect_none("unsafe code", &each_rust_file(holds_no_unsafe));
}

#[test]
fn unsafe_code_elsewhere_is_found() {
    let found = |path: &str, text: &str| holds_no_unsafe(&File::sample(path, text)).len();
    assert_eq!(found("wire/tests/a.rs", "let a = unsafe { b() };"), 1);
    assert_eq!(found("platform/src/a.rs", "let a = unsafe { b() };"), 0);
    assert_eq!(
        found(
            "wire/src/a.rs",
            "// unsafe\nlet a = \"unsafe\"; #![forbid(unsafe_code)]"
        ),
        0
    );
}

#[test]
fn unsafe_code_gives_its_reasons() {
    expect_none("reasons for unsafe code", &each_rust_file(gives_reasons));
}

#[test]
fn unsafe_code_without_reasons_is_found() {
    let found = |text: &str| gives_reasons(&File::sample("platform/src/a.rs", text)).len();
    assert_eq!(found("unsafe { a() };"), 1);
    assert_eq!(found("// SAFETY: a owns it.\nunsafe { a() };"), 0);
    assert_eq!(
        found("// SAFETY: a owns it\n// until b.\n#[inline]\nlet b =\n    unsafe { a() };"),
        0
    );
    assert_eq!(
        found("// SAFETY: a owns it.\nlet b = 1;\nunsafe { a() };"),
        1
    );
    assert_eq!(
        found("// SAFETY: a owns it.\n\nunsafe impl Send for A {}"),
        1
    );
    assert_eq!(found("// SAFETY: a owns it.\nunsafe impl Send for A {}"), 0);
    assert_eq!(
        found("unsafe fn a() {}\nunsafe_op();\n#![deny(unsafe_op_in_unsafe_fn)]"),
        0
    );
    assert_eq!(found("let a = unsafe\n{\nb()\n};"), 1);
}

#[test]
fn work_is_finished() {
    expect_none("unfinished work", &each_rust_file(is_finished));
}

#[test]
fn unfinished_work_is_found() {
    let found = |text: &str| is_finished(&File::sample("wire/src/a.rs", text)).len();
    assert_eq!(found("fn a() { todo!() }"), 1);
    assert_eq!(found("fn a() { std::unimplemented!(\"b\") }"), 1);
    assert_eq!(found("let a = dbg!(b);"), 1);
    assert_eq!(
        found("// todo! write this\nlet a = \"dbg!\"; not_todo!();"),
        0
    );
}
