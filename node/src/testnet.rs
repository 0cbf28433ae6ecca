//! `hippo testnet`: keys, committee, configurations and formatted data directories of a new
//! cluster, in one network directory.

use std::fs::{self, DirBuilder};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use storage::record::LogId;
use storage::superblock::{DIRECTORY_VERSION, Superblock};
use storage::wal::Geometry;
use wire::committee::{
    Committee, CommitteeParts, Member, Origin, ParameterError, Parameters, Preset, StateMachine,
    VoteAuthentication,
};
use wire::ids::{ClusterId, NodeId};
use wire::keys::NodeSecret;
use wire::limits::DATAGRAM_BYTES_MAX;

use crate::config::settings::{self, SETTINGS};
use crate::config::value::Value;
use crate::datadir;
use crate::exit::{Exit, ExitContext, Refusal};
use crate::keyfile;

/// Distance between a node's port and its admin port.
pub const ADMIN_PORT_OFFSET: u16 = 100;
/// Room that blocks leave to the protocol's own records, where the log is large enough.
const RESERVE_BYTES: u64 = 16 << 20;

/// Where the nodes listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// Node i at 127.0.0.1, port + i; its admin endpoint 100 above.
    Loopback { port: u16 },
    /// Node i at the i-th address from `first`, each with the same port.
    Consecutive { first: Ipv4Addr, port: u16 },
}

/// What the nodes stand, and how few of them decide (protocol §1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faults {
    /// The preset settles b, u and p.
    Preset(Preset),
    /// Each given; n is the number of nodes.
    Given(Parameters),
}

impl Faults {
    fn settle(self, nodes: usize) -> Result<(Preset, Parameters), ParameterError> {
        match self {
            Faults::Preset(preset) => Ok((preset, preset.parameters(nodes)?)),
            Faults::Given(parameters) => Ok((Preset::of(&parameters)?, parameters)),
        }
    }
}

/// What to make.
#[derive(Clone, Debug)]
pub struct Plan {
    pub nodes: usize,
    pub output: PathBuf,
    pub addresses: Addresses,
    pub faults: Faults,
    pub state_machine: StateMachine,
    /// The state it begins with, which each node is given afterwards.
    pub origin: Option<Origin>,
    pub vote_authentication: VoteAuthentication,
    /// Processors: node i gets the i-th, modulo their number; empty pins nobody.
    pub cores: Vec<usize>,
    /// Settings written into every node.toml, checked.
    pub settings: Vec<(&'static str, &'static str, Value)>,
    pub segment_bytes: u64,
    pub segments_max: u32,
    pub segments_initial: u32,
}

impl Addresses {
    /// The UDP address and the admin address of a node.
    fn of(self, node: usize) -> Result<(SocketAddr, SocketAddr), Refusal> {
        let too_far = || Refusal::usage("the nodes need ports or addresses beyond the last one");
        let node = u16::try_from(node).map_err(|_| too_far())?;
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Ok(match self {
            Addresses::Loopback { port } => {
                let port = port.checked_add(node).ok_or_else(too_far)?;
                let admin = port.checked_add(ADMIN_PORT_OFFSET).ok_or_else(too_far)?;
                (
                    SocketAddr::new(loopback, port),
                    SocketAddr::new(loopback, admin),
                )
            }
            Addresses::Consecutive { first, port } => {
                let ip = u32::from(first)
                    .checked_add(u32::from(node))
                    .ok_or_else(too_far)?;
                let admin = port.checked_add(ADMIN_PORT_OFFSET).ok_or_else(too_far)?;
                (
                    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), port),
                    SocketAddr::new(loopback, admin),
                )
            }
        })
    }

    fn are_loopback(self) -> bool {
        match self {
            Addresses::Loopback { .. } => true,
            Addresses::Consecutive { first, .. } => first.is_loopback(),
        }
    }
}

impl Plan {
    /// Bytes that formatting zeroes in all.
    pub fn zeroed_bytes(&self) -> u64 {
        self.nodes as u64 * u64::from(self.segments_initial) * self.segment_bytes
    }

    fn geometry(&self) -> Geometry {
        geometry(self.segment_bytes, self.segments_max)
    }
}

/// Of the log of a new directory.
pub fn geometry(segment_bytes: u64, segments_max: u32) -> Geometry {
    let spare = u64::from(segments_max - 1) * segment_bytes;
    Geometry {
        segment_bytes,
        segments_max,
        reserve_bytes: RESERVE_BYTES.min(spare / 4),
    }
}

/// Where a node's files are.
pub fn node_path(network: &Path, node: usize) -> PathBuf {
    network.join(format!("node-{node}"))
}

/// Makes the network directory; refuses one that is not empty. `progress` hears the bytes zeroed.
/// A failed attempt leaves what it made, for the message to be understood.
pub fn create(plan: &Plan, progress: &(dyn Fn(u64) + Sync)) -> Result<Committee, Refusal> {
    let output = plan.output.display();
    if let Ok(mut entries) = fs::read_dir(&plan.output)
        && entries.next().is_some()
    {
        return Err(Refusal::usage(format!(
            "{output} exists and is not empty; choose another --output or remove it"
        )));
    }
    let mut secrets = Vec::with_capacity(plan.nodes);
    let mut members = Vec::with_capacity(plan.nodes);
    let mut admins = Vec::with_capacity(plan.nodes);
    for node in 0..plan.nodes {
        let secret = keyfile::generate_node()?;
        let (address, admin) = plan.addresses.of(node)?;
        members.push(Member {
            id: NodeId(node as u16),
            public_key: secret.public_key(),
            address,
        });
        secrets.push(secret);
        admins.push(admin);
    }
    let operator = keyfile::generate_client()?;
    let client = keyfile::generate_client()?;
    let mut cluster = ClusterId([0; 16]);
    cluster.0.copy_from_slice(&entropy()?[..16]);
    let flags = match plan.faults {
        Faults::Preset(_) => "--nodes and --preset",
        Faults::Given(_) => "--nodes, --b, --u and --p",
    };
    let (preset, parameters) = plan.faults.settle(plan.nodes).or_exit(Exit::Usage, flags)?;
    let parts = CommitteeParts {
        operator: Some(operator.public_key()),
        state_machine: plan.state_machine,
        vote_authentication: plan.vote_authentication,
        origin: plan.origin,
        ..CommitteeParts::with_parameters(cluster, members, preset, parameters)
    };
    let committee = Committee::new(parts).or_exit(Exit::Usage, flags)?;

    private_directory(&plan.output)?;
    write(&plan.output.join("committee.toml"), &committee.to_toml())?;
    keyfile::store(&plan.output.join("operator.key"), &operator.to_pem())?;
    keyfile::store(&plan.output.join("client.key"), &client.to_pem())?;
    for (node, (secret, admin)) in secrets.iter().zip(&admins).enumerate() {
        let path = node_path(&plan.output, node);
        private_directory(&path)?;
        keyfile::store(&path.join("node.key"), &secret.to_pem())?;
        write(&path.join("node.toml"), &node_toml(plan, node, *admin))?;
    }
    format_all(plan, &committee, &secrets, progress)?;
    Ok(committee)
}

fn format_all(
    plan: &Plan,
    committee: &Committee,
    secrets: &[NodeSecret],
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(), Refusal> {
    let failed = AtomicBool::new(false);
    let outcomes: Vec<Result<(), Refusal>> = thread::scope(|scope| {
        let formatting: Vec<_> = secrets
            .iter()
            .enumerate()
            .map(|(node, secret)| {
                let failed = &failed;
                scope.spawn(move || {
                    if failed.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    let outcome = format_one(plan, committee, node, secret, progress);
                    failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                    outcome
                })
            })
            .collect();
        let ended = formatting.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(Refusal::failure("a formatting thread panicked")))
        });
        ended.collect()
    });
    outcomes.into_iter().collect()
}

fn format_one(
    plan: &Plan,
    committee: &Committee,
    node: usize,
    secret: &NodeSecret,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(), Refusal> {
    let mut log = LogId([0; 16]);
    log.0.copy_from_slice(&entropy()?[..16]);
    let superblock = Superblock {
        epoch: committee.epoch(),
        directory_version: DIRECTORY_VERSION,
        sequence: 1,
        cluster: committee.cluster(),
        node: NodeId(node as u16),
        public_key: secret.public_key(),
        committee: committee.digest(),
        log,
        geometry: plan.geometry(),
    };
    let data = node_path(&plan.output, node).join("data");
    datadir::format(&data, &superblock, plan.segments_initial, progress)
}

fn node_toml(plan: &Plan, node: usize, admin: SocketAddr) -> String {
    let mut values: Vec<(&str, &str, Value)> = vec![
        ("node", "id", Value::Number(node as u64)),
        ("admin", "address", Value::Address(admin)),
        ("storage", "segment_bytes", Value::Bytes(plan.segment_bytes)),
        (
            "storage",
            "segments_max",
            Value::Number(u64::from(plan.segments_max)),
        ),
        (
            "storage",
            "segments_initial",
            Value::Number(u64::from(plan.segments_initial)),
        ),
    ];
    for key in ["key", "committee", "data"] {
        let default = settings::find("node", key).and_then(|setting| setting.default);
        let path = default.unwrap_or_default().to_owned();
        values.push(("node", key, Value::Text(path)));
    }
    if plan.addresses.are_loopback() {
        let bytes = Value::Bytes(DATAGRAM_BYTES_MAX as u64);
        values.push(("network", "datagram_bytes", bytes));
    }
    if let Some(core) = plan.cores.get(node % plan.cores.len().max(1)) {
        values.push(("threads", "cores", Value::Cores(vec![*core])));
    }
    // Explicit settings come last and win.
    values.extend(plan.settings.iter().cloned());

    let mut text = String::from(
        "# `hippo config sample` explains every setting, `hippo config show` prints all of them.\n",
    );
    let mut section = "";
    for setting in SETTINGS {
        let value = values
            .iter()
            .rfind(|(section, key, _)| *section == setting.section && *key == setting.key);
        let Some((_, _, value)) = value else {
            continue;
        };
        if setting.section != section {
            section = setting.section;
            text.push_str(&format!("\n[{section}]\n"));
        }
        text.push_str(&format!("{} = {}\n", setting.key, value.to_toml()));
    }
    text
}

fn entropy() -> Result<[u8; 32], Refusal> {
    keyfile::entropy().or_exit(Exit::Failure, "cannot read /dev/urandom")
}

fn private_directory(path: &Path) -> Result<(), Refusal> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .or_exit(Exit::Failure, format!("cannot make {}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<(), Refusal> {
    fs::write(path, text).or_exit(Exit::Failure, format!("cannot write {}", path.display()))
}
