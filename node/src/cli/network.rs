//! The network directory that `hippo testnet` writes, as the client's commands see it.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use wire::committee::Committee;

use crate::admin::Status;
use crate::config::{Config, Layers};
use crate::exit::{Exit, ExitContext, Refusal};
use crate::prepare;

/// Which cluster a command talks to.
#[derive(Clone, Debug, Args)]
pub struct NetworkArgs {
    /// Directory written by `hippo testnet`
    #[arg(
        long,
        value_name = "DIR",
        env = "HIPPO_NETWORK",
        default_value = "./testnet"
    )]
    pub network: PathBuf,
}

/// One node's admin endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub node: u16,
    pub address: SocketAddr,
}

impl NetworkArgs {
    /// The committee of the network.
    pub fn committee(&self) -> Result<Committee, Refusal> {
        let path = self.network.join("committee.toml");
        if !path.exists() {
            return Err(Refusal::usage(format!(
                "{} does not exist: name a network directory with --network DIR or HIPPO_NETWORK, \
                 or make one with `hippo testnet --output DIR`",
                path.display()
            )));
        }
        prepare::load_committee(&path)
    }

    /// Where one node's files are.
    pub fn node_path(&self, node: u16) -> PathBuf {
        self.network.join(format!("node-{node}"))
    }

    /// The admin endpoints of all `nodes`, from their `node.toml`.
    pub fn endpoints(&self, nodes: usize) -> Result<Vec<Endpoint>, Refusal> {
        (0..nodes as u16).map(|node| self.endpoint(node)).collect()
    }

    /// The admin endpoint of one node, from its `node.toml`.
    pub fn endpoint(&self, node: u16) -> Result<Endpoint, Refusal> {
        let path = self.node_path(node).join("node.toml");
        let address = admin_address(&path)?;
        Ok(Endpoint { node, address })
    }
}

/// The environment is left out: it describes a node of this machine, not all of them.
fn admin_address(path: &Path) -> Result<SocketAddr, Refusal> {
    let shown = path.display();
    let text = fs::read_to_string(path).or_exit(Exit::Usage, format!("cannot read {shown}"))?;
    let layers = Layers::merge(path, &text, [], &Vec::new())?;
    Ok(Config::from_layers(&layers)?.admin.address)
}

const TIMEOUT: Duration = Duration::from_secs(2);
/// A status document is far smaller.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// One HTTP GET; status code and body, or what went wrong.
pub fn get(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    ask("GET", address, path)
}

/// One HTTP POST without a body.
pub fn post(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    ask("POST", address, path)
}

fn ask(method: &str, address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    let failed = |error: std::io::Error| format!("no answer from {address}: {error}");
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).map_err(failed)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(failed)?;
    stream.set_write_timeout(Some(TIMEOUT)).map_err(failed)?;
    // Version 1.0: the answer ends with the connection and is not chunked.
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\n\r\n"
    )
    .map_err(failed)?;
    let mut answer = String::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_string(&mut answer)
        .map_err(failed)?;
    let malformed = || format!("{address} does not speak HTTP");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((code.ok_or_else(malformed)?, body.to_owned()))
}

/// The status of one node.
pub fn status(endpoint: &Endpoint) -> Result<Status, String> {
    let (code, body) = get(endpoint.address, "/status.json")?;
    if code != 200 {
        return Err(format!("{} answers {code}", endpoint.address));
    }
    serde_json::from_str(&body)
        .map_err(|error| format!("{} sends a malformed status: {error}", endpoint.address))
}

/// The statuses of all nodes, asked at the same time.
pub fn statuses(endpoints: &[Endpoint]) -> Vec<Result<Status, String>> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = endpoints
            .iter()
            .map(|endpoint| scope.spawn(|| status(endpoint)))
            .collect();
        let answers = asked.into_iter().map(|asked| {
            asked
                .join()
                .unwrap_or_else(|_| Err("the asking thread ended".to_owned()))
        });
        answers.collect()
    })
}
