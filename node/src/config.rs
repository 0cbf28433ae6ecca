//! `node.toml`: what one node decides for itself. What peers must agree on is in `committee.toml`.
//!
//! [`settings`] is the table of settings, [`layers`] merges flag, environment, file and default
//! and remembers where each value came from, [`Config`] is the typed result that the node runs
//! with.

pub mod layers;
pub mod settings;
pub mod value;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

pub use layers::{Chosen, ConfigError, Flags, Layers, Origin};
use value::Value;
use wire::limits::{DATAGRAM_BYTES_ETHERNET, DATAGRAM_BYTES_MAX};
use wire::messages::Durability;

/// Everything `node.toml` says, checked. Paths are absolute or relative to the working directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub node: NodeConfig,
    pub network: NetworkConfig,
    pub discovery: DiscoveryConfig,
    pub admin: AdminConfig,
    pub threads: ThreadsConfig,
    pub storage: StorageConfig,
    pub consensus: ConsensusConfig,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    pub id: u16,
    pub key: PathBuf,
    pub committee: PathBuf,
    pub data: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// None: the node's address in the committee file.
    pub address: Option<SocketAddr>,
    /// None: [`NetworkConfig::datagram_bytes_for`] decides by the node's address.
    pub datagram_bytes: Option<usize>,
    pub backend: BackendChoice,
    pub gso: bool,
    pub gro: bool,
    /// None: the net stage decides.
    pub receive_buffers: Option<usize>,
    pub socket_buffer_bytes: usize,
}

/// How peers are found and watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryConfig {
    pub follow: bool,
    /// None: found out.
    pub advertise: Option<SocketAddr>,
    pub beacon: bool,
    pub group: SocketAddrV4,
    /// None: that of the node's address.
    pub interface: Option<Ipv4Addr>,
    pub interval_ns: u64,
    pub suspect_after_ns: u64,
    pub down_after_ns: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    pub address: SocketAddr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadsConfig {
    pub layout: Layout,
    /// Empty: not pinned.
    pub cores: Vec<usize>,
    pub idle: Idle,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageConfig {
    pub durability: Durability,
    pub flush: Flush,
    /// O_DIRECT, or refuse to start.
    pub direct: bool,
    pub segment_bytes: u64,
    pub segments_max: u32,
    pub segments_initial: u32,
    pub table: Table,
    pub table_memory_bytes: u64,
    pub table_cache_bytes: u64,
    /// None: [`StorageConfig::snapshot_log_bytes`] decides by the size of the log.
    pub snapshot_log_bytes: Option<u64>,
    /// 0: never.
    pub scrub_interval_ns: u64,
    /// Bytes a second.
    pub scrub_rate: u64,
}

impl StorageConfig {
    /// The log in use at which a snapshot is written.
    pub fn snapshot_log_bytes(&self) -> u64 {
        let log_bytes = self
            .segment_bytes
            .saturating_mul(u64::from(self.segments_max));
        let automatic = match self.table {
            Table::Memory => log_bytes / 4,
            Table::Disk => (log_bytes / 4).min(FLUSH_LOG_BYTES),
        };
        self.snapshot_log_bytes.unwrap_or(automatic)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsensusConfig {
    /// tau: how long the oldest transaction waits for company.
    pub batch_delay_ns: u64,
    /// Patience with a leader is never below this.
    pub patience_ns_min: u64,
    /// T4: a leader that is slower than it could be is replaced.
    pub replaces_slow_leaders: bool,
    pub block_bytes_max: usize,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($item:ident => $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($item,)* }

        impl $name {
            /// As the configuration spells it.
            pub fn name(self) -> &'static str {
                match self { $($name::$item => $text,)* }
            }

            fn of(value: &Value) -> $name {
                match value.to_string().as_str() {
                    $($text => $name::$item,)*
                    other => unreachable!("`{other}` is not in the table of settings"),
                }
            }
        }
    };
}

words! {
    /// System calls of the network.
    BackendChoice { Auto => "auto", Uring => "uring", Mmsg => "mmsg", }
}
words! {
    /// Number of hot threads.
    Layout { Auto => "auto", One => "1", Two => "2", Four => "4", }
}
words! {
    /// What an idle hot thread does.
    Idle { Auto => "auto", Spin => "spin", SpinYield => "spin-yield", Block => "block", }
}
words! {
    /// Where keys and values are.
    Table { Memory => "memory", Disk => "disk", }
}
words! {
    /// How a log write becomes durable.
    Flush { Dsync => "dsync", Fdatasync => "fdatasync", }
}

fn durability_of(value: &Value) -> Durability {
    let named = value.to_string();
    let known = Durability::ALL.into_iter().find(|d| d.name() == named);
    known.expect("the table of settings lists these words alone")
}

impl NetworkConfig {
    /// Where member `committed` of the committee file listens on this node.
    pub fn listen(&self, committed: SocketAddr) -> SocketAddr {
        self.address.unwrap_or(committed)
    }

    /// Largest UDP payload of a node that listens on `address`.
    pub fn datagram_bytes_for(&self, address: SocketAddr) -> usize {
        let automatic = if address.ip().is_loopback() {
            DATAGRAM_BYTES_MAX
        } else {
            DATAGRAM_BYTES_ETHERNET
        };
        self.datagram_bytes.unwrap_or(automatic)
    }
}

impl Config {
    /// Reads and merges the layers of `path`, and checks the result.
    pub fn load(path: &Path, flags: &Flags) -> Result<(Config, Layers), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
            path: path.display().to_string(),
            reason: error.to_string(),
        })?;
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let layers = Layers::merge(path, &text, environment, flags)?;
        Ok((Config::from_layers(&layers)?, layers))
    }

    /// The typed form of merged layers; refuses what contradicts itself or is not served yet.
    pub fn from_layers(layers: &Layers) -> Result<Config, ConfigError> {
        let value = |section, key| &layers.get(section, key).value;
        let config = Config {
            node: NodeConfig {
                id: number(value("node", "id")) as u16,
                key: path_of(layers, "key"),
                committee: path_of(layers, "committee"),
                data: path_of(layers, "data"),
            },
            network: NetworkConfig {
                address: address(value("network", "address")),
                datagram_bytes: optional(value("network", "datagram_bytes")),
                backend: BackendChoice::of(value("network", "backend")),
                gso: switch(value("network", "gso")),
                gro: switch(value("network", "gro")),
                receive_buffers: optional(value("network", "receive_buffers")),
                socket_buffer_bytes: number(value("network", "socket_buffer_bytes")) as usize,
            },
            discovery: DiscoveryConfig {
                follow: switch(value("discovery", "follow")),
                advertise: address(value("discovery", "advertise")),
                beacon: switch(value("discovery", "beacon")),
                group: match value("discovery", "group") {
                    Value::Address(SocketAddr::V4(group))
                        if group.port() != 0
                            && !group.ip().is_unspecified()
                            && !group.ip().is_loopback() =>
                    {
                        *group
                    }
                    other => {
                        let reason = format!(
                            "{other} is not an IPv4 multicast or broadcast address with a port"
                        );
                        return refuse(layers, "discovery", "group", reason);
                    }
                },
                interface: match value("discovery", "interface") {
                    Value::Ip(IpAddr::V4(ip)) => Some(*ip),
                    Value::Ip(ip) => {
                        let reason = format!("{ip} is not an IPv4 address; beacons are IPv4");
                        return refuse(layers, "discovery", "interface", reason);
                    }
                    _ => None,
                },
                interval_ns: number(value("discovery", "interval")),
                suspect_after_ns: number(value("discovery", "suspect_after")),
                down_after_ns: number(value("discovery", "down_after")),
            },
            admin: AdminConfig {
                address: match value("admin", "address") {
                    Value::Address(address) => *address,
                    other => unreachable!("{other} is not an address"),
                },
            },
            threads: ThreadsConfig {
                layout: Layout::of(value("threads", "layout")),
                cores: match value("threads", "cores") {
                    Value::Cores(cores) => cores.clone(),
                    other => unreachable!("{other} is not a list"),
                },
                idle: Idle::of(value("threads", "idle")),
            },
            storage: StorageConfig {
                durability: durability_of(value("storage", "durability")),
                flush: Flush::of(value("storage", "flush")),
                direct: switch(value("storage", "direct")),
                segment_bytes: number(value("storage", "segment_bytes")),
                segments_max: number(value("storage", "segments_max")) as u32,
                segments_initial: number(value("storage", "segments_initial")) as u32,
                table: Table::of(value("storage", "table")),
                table_memory_bytes: number(value("storage", "table_memory_bytes")),
                table_cache_bytes: number(value("storage", "table_cache_bytes")),
                snapshot_log_bytes: optional(value("storage", "snapshot_log_bytes"))
                    .map(|bytes| bytes as u64),
                scrub_interval_ns: number(value("storage", "scrub_interval")),
                scrub_rate: number(value("storage", "scrub_rate")),
            },
            consensus: ConsensusConfig {
                batch_delay_ns: number(value("consensus", "batch_delay")),
                patience_ns_min: number(value("consensus", "patience_min")),
                replaces_slow_leaders: switch(value("consensus", "replace_slow_leader")),
                block_bytes_max: number(value("consensus", "block_bytes_max")) as usize,
            },
        };
        config.check(layers)?;
        Ok(config)
    }

    fn check(&self, layers: &Layers) -> Result<(), ConfigError> {
        let refuse = |section, key, reason| refuse(layers, section, key, reason).map(|_| ());
        let discovery = &self.discovery;
        if discovery.interval_ns < INTERVAL_NS_MIN {
            return refuse(
                "discovery",
                "interval",
                "less than 100ms: peers would spend their time on it".to_owned(),
            );
        }
        if discovery.suspect_after_ns == 0 || discovery.suspect_after_ns > discovery.down_after_ns {
            return refuse(
                "discovery",
                "suspect_after",
                "0, or more than discovery.down_after".to_owned(),
            );
        }
        if let Some(advertise) = discovery.advertise
            && wire::beacon::Addresses::new(advertise, None).is_err()
        {
            return refuse(
                "discovery",
                "advertise",
                format!("nobody can be reached at {advertise}"),
            );
        }
        if !self.admin.address.ip().is_loopback() {
            return refuse(
                "admin",
                "address",
                format!(
                    "{} is not a loopback address; the endpoint has no authentication, so it \
                     listens on 127.0.0.1 or [::1] only",
                    self.admin.address.ip()
                ),
            );
        }
        if !self.storage.segment_bytes.is_multiple_of(4096) {
            return refuse(
                "storage",
                "segment_bytes",
                format!("{} is not a multiple of 4096", self.storage.segment_bytes),
            );
        }
        if self.storage.segments_initial > self.storage.segments_max {
            return refuse(
                "storage",
                "segments_initial",
                format!(
                    "more than storage.segments_max = {}",
                    self.storage.segments_max
                ),
            );
        }
        let log_bytes = self.storage.segment_bytes * u64::from(self.storage.segments_max);
        if self.storage.snapshot_log_bytes() > log_bytes / 4 * 3 {
            return refuse(
                "storage",
                "snapshot_log_bytes",
                "more than three quarters of what storage.segments_max segments hold: the log \
                 would be full before it is released"
                    .to_owned(),
            );
        }
        let mut cores = self.threads.cores.clone();
        cores.sort_unstable();
        cores.dedup();
        if cores.len() != self.threads.cores.len() {
            return refuse("threads", "cores", "names a processor twice".to_owned());
        }
        Ok(())
    }
}

/// Questions to peers are no load on them.
const INTERVAL_NS_MIN: u64 = 100_000_000;
/// What is written to the log until a table on disk is brought up to date, if nobody says otherwise:
/// about as many bytes of entries wait in memory.
const FLUSH_LOG_BYTES: u64 = 64 << 20;

fn refuse(
    layers: &Layers,
    section: &str,
    key: &str,
    reason: String,
) -> Result<Config, ConfigError> {
    let chosen = layers.get(section, key);
    Err(ConfigError::Invalid {
        place: chosen.origin.to_string(),
        name: chosen.setting.name(),
        reason,
    })
}

fn address(value: &Value) -> Option<SocketAddr> {
    match value {
        Value::Address(address) => Some(*address),
        _ => None,
    }
}

fn path_of(layers: &Layers, key: &str) -> PathBuf {
    let chosen = layers.get("node", key);
    let path = PathBuf::from(chosen.value.to_string());
    match chosen.origin {
        Origin::File { .. } | Origin::Default => match layers.path.parent() {
            Some(directory) if directory != Path::new("") => directory.join(path),
            _ => path,
        },
        Origin::Flag(_) | Origin::Environment(_) => path,
    }
}

fn number(value: &Value) -> u64 {
    match value {
        Value::Number(number) | Value::Bytes(number) | Value::Nanoseconds(number) => *number,
        other => unreachable!("{other} is not a number"),
    }
}

fn optional(value: &Value) -> Option<usize> {
    match value {
        Value::Auto => None,
        value => Some(number(value) as usize),
    }
}

fn switch(value: &Value) -> bool {
    matches!(value, Value::Switch(true))
}

/// A whole `node.toml` with every setting at its default, explained.
pub fn sample() -> String {
    let mut out = String::from(
        "# One node of a Hippodrome cluster. Flag > environment HIPPO_SECTION_KEY > this file > default.\n",
    );
    let mut section = "";
    for setting in settings::SETTINGS {
        if setting.section != section {
            section = setting.section;
            out.push_str(&format!("\n[{section}]\n"));
        }
        for line in wrap(setting.help, 96) {
            out.push_str(&format!("# {line}\n"));
        }
        match setting.default {
            Some(default) => {
                let value = setting.kind.parse(default).expect("a valid default");
                out.push_str(&format!("# {} = {}\n", setting.key, value.to_toml()));
            }
            None => out.push_str(&format!("{} = 0\n", setting.key)),
        }
    }
    out
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("never empty");
        if !line.is_empty() && line.len() + 1 + word.len() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config, String> {
        let layers = Layers::merge(Path::new("/net/node-1/node.toml"), text, [], &Vec::new());
        layers
            .and_then(|layers| Config::from_layers(&layers))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn defaults() {
        let config = config("[node]\nid = 1\n").unwrap();
        assert_eq!(config.node.data, Path::new("/net/node-1/data"));
        assert_eq!(
            config.node.committee,
            Path::new("/net/node-1/../committee.toml")
        );
        assert_eq!(config.consensus.batch_delay_ns, 1_000_000);
        assert!(config.discovery.follow && !config.discovery.beacon);
        assert_eq!(config.network.address, None);
        assert_eq!(config.storage.segment_bytes, 64 << 20);
        assert_eq!(config.storage.snapshot_log_bytes(), 1 << 30);
        let loopback = "127.0.0.1:1".parse().unwrap();
        let lan = "192.168.0.1:1".parse().unwrap();
        assert_eq!(config.network.datagram_bytes_for(loopback), 65507);
        assert_eq!(config.network.datagram_bytes_for(lan), 1472);
    }

    #[test]
    fn contradictions_are_refused() {
        for (text, part) in [
            ("[storage]\ndurability = \"lazy\"\n", "sync, lease, none"),
            ("[admin]\naddress = \"0.0.0.0:7100\"\n", "loopback"),
            ("[storage]\nsegment_bytes = 2000001\n", "multiple of 4096"),
            (
                "[storage]\nsegments_max = 3\nsegments_initial = 4\n",
                "segments_max",
            ),
            (
                "[storage]\nsegments_max = 4\nsnapshot_log_bytes = \"193MiB\"\n",
                "three quarters",
            ),
            ("[threads]\ncores = [1, 1]\n", "twice"),
            ("[discovery]\ninterval = \"1ms\"\n", "100ms"),
            ("[discovery]\nsuspect_after = 9\n", "down_after"),
            ("[discovery]\ngroup = \"[ff02::1]:7\"\n", "multicast"),
            ("[discovery]\ninterface = \"::1\"\n", "IPv4"),
            ("[discovery]\nadvertise = \"0.0.0.0:7\"\n", "reached"),
        ] {
            let error = config(&format!("node.id = 0\n{text}")).unwrap_err();
            assert!(error.contains(part), "{error}");
            assert!(error.starts_with("/net/node-1/node.toml:"), "{error}");
        }
    }

    #[test]
    fn the_sample_is_valid_and_complete() {
        let text = sample();
        assert!(config(&text).is_ok());
        let all = text.replace("\n# ", "\n");
        for setting in settings::SETTINGS {
            assert!(
                all.contains(&format!("\n{} = ", setting.key)),
                "{}",
                setting.key
            );
        }
    }
}
