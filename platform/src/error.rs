//! What the machine can refuse, and what to do about it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

#[derive(Debug, Error)]
pub enum PlatformError {
    #[error(
        "io_uring is not available ({source}): the sysctl kernel.io_uring_disabled or a seccomp \
         filter forbids it. Set backend = \"mmsg\", or sysctl -w kernel.io_uring_disabled=0"
    )]
    UringDisabled { source: io::Error },
    #[error(
        "locked memory is too low for io_uring: {have} bytes allowed, about {needed} needed. Raise \
         it (ulimit -l, LimitMEMLOCK=), or set backend = \"mmsg\""
    )]
    MemlockTooLow { needed: u64, have: u64 },
    #[error(
        "the limit of open files (RLIMIT_NOFILE) is too low for io_uring: {have} allowed, {needed} \
         needed. Raise it (ulimit -Hn, LimitNOFILE=), or set backend = \"mmsg\""
    )]
    OpenFilesTooLow { needed: u64, have: u64 },
    #[error(
        "{path} cannot be opened with O_DIRECT ({source}): this filesystem does not support it. \
         Choose another one, or set direct = false"
    )]
    NoDirectIo { path: PathBuf, source: io::Error },
    #[error(
        "UDP address {address} is taken: another process listens there. Stop it, or change the address"
    )]
    AddressTaken { address: SocketAddr },
    #[error(
        "core {core} does not exist: this machine has the cores {cores}. Change `cores` in node.toml"
    )]
    NoSuchCore { core: usize, cores: String },
    #[error(
        "thread could not be pinned to core {core}: the scheduler keeps it on {got}. Is the core outside the allowed set (taskset, cgroup)?"
    )]
    NotPinned { core: usize, got: String },
    #[error("no space left for {path} ({bytes} bytes). Free some, or lower the configured size")]
    NoSpace { path: PathBuf, bytes: u64 },
    #[error("{path} is in use by another process")]
    Locked { path: PathBuf },
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
}

impl PlatformError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> PlatformError {
        let what = what.into();
        move |source| PlatformError::Io { what, source }
    }
}
