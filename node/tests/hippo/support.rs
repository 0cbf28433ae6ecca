//! Runs the built `hippo` on networks in scratch directories.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for anything; nothing here measures time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that is removed at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("hippo-test-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a finished command said.
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hippo"));
    for (name, _) in std::env::vars() {
        if name.starts_with("HIPPO_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs `hippo` with words separated by blanks.
pub fn hippo(arguments: &str) -> Said {
    command()
        .args(arguments.split_whitespace())
        .output()
        .unwrap()
        .into()
}

/// A test network of small logs on ports that are free now.
pub struct Network {
    pub scratch: Scratch,
    pub port: u16,
}

impl Network {
    pub fn new(name: &str) -> Network {
        Network::with(name, "")
    }

    pub fn with(name: &str, flags: &str) -> Network {
        let scratch = Scratch::new(name);
        let port = free_ports();
        let said = hippo(&format!(
            "testnet --output {} --base-port {port} --segment-bytes 1MiB --segments-max 4 {flags}",
            scratch.path().join("net").display()
        ));
        assert_eq!(said.code, 0, "{}", said.err);
        Network { scratch, port }
    }

    pub fn path(&self) -> PathBuf {
        self.scratch.path().join("net")
    }

    pub fn node(&self, node: usize) -> PathBuf {
        self.path().join(format!("node-{node}"))
    }

    pub fn start_command(&self, node: usize) -> Command {
        let mut command = command();
        command
            .arg("start")
            .arg("--config")
            .arg(self.node(node).join("node.toml"));
        command
    }

    /// Starts a node that must refuse.
    pub fn refusal(&self, node: usize) -> Said {
        ended(self.start_command(node))
    }

    /// Starts a node and waits until it answers.
    pub fn start(&self, node: usize) -> Running {
        let mut command = self.start_command(node);
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut running = Running(child);
        let since = Instant::now();
        let address = ("127.0.0.1", self.port + 100 + node as u16);
        while std::net::TcpStream::connect(address).is_err() {
            assert!(since.elapsed() < PATIENCE, "no answer from node {node}");
            if running.0.try_wait().unwrap().is_some() {
                let said = running.wait();
                panic!("node {node} ended with {}: {}", said.code, said.err);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        running
    }
}

/// The end of a command that must end by itself.
pub fn ended(mut command: Command) -> Said {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Running(child).wait()
}

/// A process that is killed when the test ends early.
pub struct Running(pub Child);

impl Running {
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.id().to_string()])
            .status();
        assert!(status.unwrap().success());
    }

    /// Waits for the end.
    pub fn wait(mut self) -> Said {
        let since = Instant::now();
        while self.0.try_wait().unwrap().is_none() {
            assert!(since.elapsed() < PATIENCE, "the process does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        let read = |stream: Option<Box<dyn std::io::Read>>| {
            let mut text = String::new();
            if let Some(mut stream) = stream {
                stream.read_to_string(&mut text).unwrap();
            }
            text
        };
        let out = self
            .0
            .stdout
            .take()
            .map(|stream| Box::new(stream) as Box<dyn std::io::Read>);
        let err = self
            .0
            .stderr
            .take()
            .map(|stream| Box::new(stream) as Box<dyn std::io::Read>);
        Said {
            code: self.0.wait().unwrap().code().unwrap_or(-1),
            out: read(out),
            err: read(err),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A base port P for which P..P+8 (UDP) and P+100..P+108 (TCP) are free, each handed out once.
fn free_ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 20) as u16 * 1000;
    for _ in 0..48 {
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % 48;
        let port = first + number / 12 * 220 + number % 12 * 8;
        let free = (0..8).all(|offset| {
            UdpSocket::bind(("127.0.0.1", port + offset)).is_ok()
                && TcpListener::bind(("127.0.0.1", port + 100 + offset)).is_ok()
        });
        if free {
            return port;
        }
    }
    panic!("no free ports");
}
