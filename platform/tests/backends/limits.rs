//! Open files: a low soft limit is raised, a low hard limit is explained.

use std::env;
use std::process::Command;

use platform::PlatformError;
use platform::driver::{self, Backend, Options};
use platform::process::raise_open_files;

use crate::host::uring_available;

/// Set in the child process, which alone has the low limit.
const CHILD: &str = "PLATFORM_TEST_OPEN_FILES";

/// Runs one test of this file again under `ulimit`; true in the child.
fn in_a_child(test: &str, limit: &str) -> bool {
    if env::var_os(CHILD).is_some() {
        return true;
    }
    let status = Command::new("sh")
        .args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\"")])
        .arg(env::current_exe().unwrap())
        .args(["--exact", &format!("limits::{test}"), "--nocapture"])
        .env(CHILD, "1")
        .status()
        .unwrap();
    assert!(status.success(), "the child says why");
    false
}

fn options(backend: Backend) -> Options {
    Options {
        backend,
        socket: None,
        receive_pool: None,
        files_max: 4096,
        sends_max: 1,
    }
}

#[test]
fn a_low_soft_limit_of_open_files_is_raised() {
    if !uring_available() || !in_a_child("a_low_soft_limit_of_open_files_is_raised", "-Sn 64") {
        return;
    }
    match driver::open(options(Backend::Uring)) {
        // The hard limit of this machine is the lower one.
        Err(error @ PlatformError::OpenFilesTooLow { .. }) => eprintln!("NOT RUN: {error}"),
        opened => {
            let driver = opened.unwrap();
            assert!(driver.backend_name().starts_with("uring"));
            assert_eq!(raise_open_files(0), 4097, "never lowered");
        }
    }
}

#[test]
fn a_low_hard_limit_of_open_files_is_explained() {
    if !uring_available() || !in_a_child("a_low_hard_limit_of_open_files_is_explained", "-n 64") {
        return;
    }
    let Err(error) = driver::open(options(Backend::Uring)) else {
        panic!("4,097 files do not fit into 64");
    };
    let text = error.to_string();
    assert!(
        text.contains("64 allowed, 4097 needed") && text.contains("LimitNOFILE"),
        "{text}"
    );
    let driver = driver::open(options(Backend::Auto)).unwrap();
    let name = driver.backend_name();
    assert!(
        name.starts_with("mmsg") && name.contains("LimitNOFILE"),
        "{name}"
    );
}
