//! From a configuration to everything that the hot threads start with, or one clear refusal.
//!
//! Checks go from cheap to dear and change nothing on the disk before all of them passed; the
//! directory's lock is the last thing taken.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use replica::agreement::quorum::Quorums;
use storage::superblock::Expected;
use wire::committee::Committee;
use wire::ids::{Epoch, Instant, NodeId};
use wire::keys::NodeSecret;

use crate::config::Config;
use crate::datadir::{self, DataDirectory};
use crate::epochs;
use crate::exit::{Exit, ExitContext, Refusal};
use crate::keyfile;
use crate::telemetry::Telemetry;

/// How long a port may stay taken after the process that had it, and how often to look.
const PORT_LIMIT: Duration = Duration::from_secs(2);
const PORT_PAUSE: Duration = Duration::from_millis(5);

/// A node that may start. `crate::run::run` consumes it.
#[derive(Debug)]
pub struct Prepared {
    pub config: Config,
    pub committee: Arc<Committee>,
    pub secret: NodeSecret,
    /// Locked and checked; the log in it has not been read.
    pub directory: DataDirectory,
    pub telemetry: Arc<Telemetry>,
    /// When set: flush, write the clean-stop record and return within 5 s.
    pub stop: StopFlag,
}

/// Set by SIGTERM and SIGINT.
#[derive(Clone, Debug, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// For the signal handler.
    pub fn cell(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
}

/// Reads and checks a committee file.
pub fn load_committee(path: &Path) -> Result<Committee, Refusal> {
    let shown = path.display();
    let text = fs::read_to_string(path).or_exit(Exit::Usage, format!("cannot read {shown}"))?;
    Committee::parse(&text).or_exit(Exit::Usage, shown)
}

/// Replicas without which nothing is decided: q, where F is larger as well.
pub fn quorum_of(committee: &Committee) -> usize {
    Quorums::of(committee).slow()
}

/// Everything that a start needs. `now` is the time of the hot threads' clock.
pub fn prepare(mut config: Config, stop: StopFlag, now: Instant) -> Result<Prepared, Refusal> {
    let mut all = epochs::committees(&config.node.data, load_committee(&config.node.committee)?)?;
    let committee = all.pop().expect("the one in the file is there");
    let secret = keyfile::load_node(&config.node.key)?;
    let public_key = secret.public_key();
    if committee.epoch() > Epoch(0) {
        // Ids change from epoch to epoch.
        let Some(id) = committee.find(&public_key) else {
            return Err(Refusal::preflight(format!(
                "this node is no member any more: epoch {} of the cluster began without its key. Its \
                 data directory is of no more use",
                committee.epoch()
            )));
        };
        config.node.id = id.0;
    }
    let file = config.node.committee.display();
    let me = NodeId(config.node.id);
    let Some(member) = committee.member(me).copied() else {
        return Err(Refusal::preflight(format!(
            "node.id is {me}, but {file} has the members 0 to {}. Wrong committee file?",
            committee.n() - 1
        )));
    };
    if public_key != member.public_key {
        let key = config.node.key.display();
        let whose = match committee.find(&public_key) {
            Some(other) => format!("it is the key of node {other}"),
            None => "it belongs to no member".to_owned(),
        };
        return Err(Refusal::preflight(format!(
            "wrong key: {key} is not the key of node {me} in {file}; {whose}. Point node.key at \
             this node's own key, or correct node.id"
        )));
    }
    let expected = Expected {
        cluster: committee.cluster(),
        node: me,
        public_key,
    };
    datadir::go_over(
        &config.node.data,
        &expected,
        (committee.epoch(), committee.digest()),
        config.storage.segments_initial,
    )?;
    let directory = datadir::open(
        &config.node.data,
        &expected,
        committee.digest(),
        config.storage.segment_bytes,
        config.storage.segments_max,
    )?;
    await_port(config.network.listen(member.address))?;
    let telemetry = Telemetry::new(me, committee.n(), now);
    let _ = telemetry.durability.set(config.storage.durability);
    let geometry = directory.superblock.geometry;
    telemetry.log.max_bytes.set(geometry.max_bytes());
    telemetry.log.segments.set(directory.segments.len() as u64);
    Ok(Prepared {
        config,
        committee: Arc::new(committee),
        secret,
        directory,
        telemetry: Arc::new(telemetry),
        stop,
    })
}

/// Waits until nobody listens on `address`. The lock proves that no other process runs on this
/// directory, but the kernel keeps the socket of one that just ended until it has taken its
/// io_uring apart, some milliseconds after the exit.
fn await_port(address: SocketAddr) -> Result<(), Refusal> {
    let since = std::time::Instant::now();
    loop {
        match UdpSocket::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                if since.elapsed() > PORT_LIMIT {
                    return Err(Refusal::preflight(format!(
                        "UDP address {address} is taken by another process. Stop it, or choose \
                         another network.address for this node: its peers will follow"
                    )));
                }
                thread::sleep(PORT_PAUSE);
            }
            Err(error) => {
                return Err(Refusal::preflight(format!(
                    "cannot listen on UDP address {address}: {error}. It must be an address of \
                     this machine"
                )));
            }
            Ok(_) => return Ok(()),
        }
    }
}
