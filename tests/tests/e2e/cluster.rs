//! A cluster of real processes in a directory of its own.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::admin;

/// One cluster at a time.
static ALONE: Mutex<()> = Mutex::new(());
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// What depends on the machine's speed may take this long: it ends waits that would never end.
pub const PATIENCE: Duration = Duration::from_secs(120);
pub const NODES: usize = 4;

/// Where the built binaries are: beside this test's own profile directory.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("own path");
    let profile = test.ancestors().nth(2).expect("profile directory");
    let path = profile.join(name);
    assert!(
        path.exists(),
        "{} is missing: build the workspace first",
        path.display()
    );
    path
}

pub struct Cluster {
    pub directory: PathBuf,
    pub base_port: u16,
    /// Flags of every `hippo start`.
    pub settings: &'static [&'static str],
    nodes: Vec<Option<Child>>,
    _alone: MutexGuard<'static, ()>,
}

/// A base port whose neighbourhood is free now, below the ports that sockets of clients get.
fn free_base_port() -> u16 {
    let process = std::process::id() as u16 % 97;
    for _ in 0..200 {
        let step = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let base = 20_000 + (process * 307 + step * 256) % 12_000;
        let free = |offset: u16| UdpSocket::bind(("127.0.0.1", base + offset)).is_ok();
        if (0..40).all(free) {
            return base;
        }
    }
    panic!("no free ports");
}

impl Cluster {
    /// A formatted network that does not run yet. `flags` go to `hippo testnet`.
    pub fn prepare(name: &str, flags: &[&str]) -> Cluster {
        Cluster::prepare_sized(name, "16MiB", flags)
    }

    /// The same with log segments of another size.
    pub fn prepare_sized(name: &str, segment_bytes: &str, flags: &[&str]) -> Cluster {
        Cluster::make(name, &["testnet"], segment_bytes, flags)
    }

    /// One that begins with the state in an archive.
    pub fn restore(name: &str, from: &Path) -> Cluster {
        let from = from.to_str().expect("a path in UTF-8");
        Cluster::make(name, &["snapshot", "restore", "--from", from], "1MiB", &[])
    }

    fn make(name: &str, command: &[&str], segment_bytes: &str, flags: &[&str]) -> Cluster {
        let alone = ALONE
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("e2e-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        let base_port = free_base_port();
        let output = Command::new(binary("hippo"))
            .args(command)
            .args(["--nodes", "4", "--base-port", &base_port.to_string()])
            .args(["--segment-bytes", segment_bytes, "--segments-max", "64"])
            .args(["--idle", "block"])
            .arg("--output")
            .arg(&directory)
            .args(flags)
            .output()
            .expect("hippo testnet runs");
        assert_ok(&output, &command.join(" "));
        let nodes = (0..NODES).map(|_| None).collect();
        Cluster {
            directory,
            base_port,
            settings: &[],
            nodes,
            _alone: alone,
        }
    }

    /// A running cluster.
    pub fn start(name: &str, flags: &[&str]) -> Cluster {
        let mut cluster = Cluster::prepare(name, flags);
        cluster.start_all();
        cluster
    }

    pub fn start_all(&mut self) {
        for node in 0..NODES {
            self.spawn(node);
        }
        for node in 0..NODES {
            self.wait_ready(node);
        }
    }

    pub fn node_directory(&self, node: usize) -> PathBuf {
        self.directory.join(format!("node-{node}"))
    }

    pub fn address(&self, node: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.base_port + node as u16))
    }

    pub fn admin(&self, node: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.base_port + 100 + node as u16))
    }

    pub fn spawn(&mut self, node: usize) {
        let log = self.node_directory(node).join("log");
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .expect("log file");
        let child = Command::new(binary("hippo"))
            .arg("start")
            .arg("--config")
            .arg(self.node_directory(node).join("node.toml"))
            .args(self.settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("hippo start runs");
        self.nodes[node] = Some(child);
    }

    pub fn log(&self, node: usize) -> String {
        fs::read_to_string(self.node_directory(node).join("log")).unwrap_or_default()
    }

    /// Kills the leader of view 0, and starts it again once there is another.
    pub fn kill_first_leader(&mut self) {
        self.kill(0);
        self.wait("another leader", Duration::from_secs(20), || {
            let status = admin::status(self.admin(1));
            status.is_some_and(|status| status["view"].as_u64() > Some(0))
        });
        self.spawn(0);
        self.wait_ready(0);
    }

    /// Waits until the node answers its admin endpoint.
    pub fn wait_ready(&self, node: usize) {
        self.wait(&format!("node {node} is up"), PATIENCE, || {
            admin::status(self.admin(node)).is_some_and(|status| status["state"] != "starting")
        });
    }

    /// Waits for a condition; panics with the nodes' logs when it does not come true.
    pub fn wait(&self, what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + limit;
        while !condition() {
            if Instant::now() > deadline {
                for node in 0..NODES {
                    eprintln!("--- node {node}\n{}", self.log(node));
                    eprintln!("{:?}", admin::status(self.admin(node)));
                }
                panic!("not within {limit:?}: {what}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// kill -9.
    pub fn kill(&mut self, node: usize) {
        if let Some(mut child) = self.nodes[node].take() {
            child.kill().expect("kill");
            child.wait().expect("reap");
        }
    }

    pub fn is_running(&mut self, node: usize) -> bool {
        match &mut self.nodes[node] {
            Some(child) => child.try_wait().expect("wait").is_none(),
            None => false,
        }
    }

    /// Waits until the process ends by itself; its exit code.
    pub fn wait_end(&mut self, node: usize) -> Option<i32> {
        let mut child = self.nodes[node].take()?;
        for _ in 0..3000 {
            if let Some(status) = child.try_wait().expect("wait") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.nodes[node] = Some(child);
        None
    }

    /// SIGTERM; the exit code.
    pub fn terminate(&mut self, node: usize) -> Option<i32> {
        let mut child = self.nodes[node].take()?;
        let killed = Command::new("kill").arg(child.id().to_string()).status();
        assert!(killed.is_ok_and(|status| status.success()));
        child.wait().expect("reap").code()
    }

    /// Sends a signal: `STOP` freezes the process, `CONT` lets it go on.
    pub fn signal(&self, node: usize, signal: &str) {
        let child = self.nodes[node].as_ref().expect("a running node");
        let sent = Command::new("kill")
            .args([format!("-{signal}"), child.id().to_string()])
            .status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{signal}");
    }

    /// A client command of `hippo` on this network.
    pub fn hippo(&self, arguments: &[&str]) -> Output {
        let (command, rest) = arguments.split_first().expect("a command");
        Command::new(binary("hippo"))
            .arg(command)
            .arg("--network")
            .arg(&self.directory)
            .args(rest)
            .output()
            .expect("hippo runs")
    }

    /// `hippo snapshot status` of a node.
    pub fn snapshot_status(&self, node: usize) -> Output {
        Command::new(binary("hippo"))
            .args(["snapshot", "status", "--config"])
            .arg(self.node_directory(node).join("node.toml"))
            .output()
            .expect("hippo runs")
    }

    /// Runs the load generator in the background.
    pub fn load(&self, output: &str, arguments: &[&str]) -> Load {
        let output = self.directory.join(output);
        let log = fs::File::create(self.directory.join("load.log")).expect("log file");
        let child = Command::new(binary("hippo-load"))
            .arg("run")
            .arg("--network")
            .arg(&self.directory)
            .arg("--output")
            .arg(&output)
            .arg("--no-progress")
            .args(["--idle", "block"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("hippo-load runs");
        Load { child, output }
    }

    pub fn committed(&self, node: usize) -> u64 {
        admin::status(self.admin(node))
            .and_then(|status| status["committed_slot"].as_u64())
            .unwrap_or(0)
    }

    /// A number that a node says of its checkpoints.
    pub fn checkpoint(&self, node: usize, field: &str) -> u64 {
        admin::status(self.admin(node))
            .and_then(|status| status["checkpoint"][field].as_u64())
            .unwrap_or(0)
    }

    pub fn executed(&self, node: usize) -> u64 {
        admin::status(self.admin(node))
            .and_then(|status| status["executed_slot"].as_u64())
            .unwrap_or(0)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in 0..NODES {
            self.kill(node);
        }
        if std::thread::panicking() {
            eprintln!("kept for inspection: {}", self.directory.display());
        } else {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// A load generator in the background.
pub struct Load {
    child: Child,
    output: PathBuf,
}

impl Load {
    /// Waits for the end; its exit code and `result.json`.
    pub fn finish(mut self) -> (i32, serde_json::Value) {
        let code = self.child.wait().expect("reap").code().unwrap_or(-1);
        let text = fs::read_to_string(self.output.join("result.json")).unwrap_or_default();
        (code, serde_json::from_str(&text).unwrap_or_default())
    }
}

pub fn assert_ok(output: &Output, what: &str) {
    assert!(
        output.status.success(),
        "{what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
