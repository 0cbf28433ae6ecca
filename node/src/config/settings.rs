//! The table of all settings of `node.toml`: one row each, from which the parser, the flags, the
//! environment variables, `config show` and `config sample` are made.

use wire::limits::{
    BLOCK_PAYLOAD_BYTES_MAX, DATAGRAM_BYTES_ETHERNET, DATAGRAM_BYTES_MAX, REPLICAS_MAX,
    REQUEST_BYTES_MAX,
};

use super::value::Kind;

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub section: &'static str,
    pub key: &'static str,
    pub kind: Kind,
    /// As in a file; none when the file (or a flag) must say it.
    pub default: Option<&'static str>,
    /// What it does, and what follows from it.
    pub help: &'static str,
}

impl Setting {
    /// `section.key`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("HIPPO_{}_{}", self.section, self.key).to_uppercase()
    }

    /// The flag that sets it, without dashes.
    pub fn flag(&self) -> String {
        self.name().replace(['.', '_'], "-")
    }
}

const fn setting(
    section: &'static str,
    key: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    help: &'static str,
) -> Setting {
    Setting {
        section,
        key,
        kind,
        default,
        help,
    }
}

const MIB: u64 = 1 << 20;

/// Every setting, in the order of `config sample`.
pub const SETTINGS: &[Setting] = &[
    setting(
        "node",
        "id",
        Kind::Number {
            min: 0,
            max: REPLICAS_MAX as u64 - 1,
        },
        None,
        "Place of this node in the committee, from 0.",
    ),
    setting(
        "node",
        "key",
        Kind::Path,
        Some("node.key"),
        "Secret key of this node (mode 0600). It must be the committee's key of `id`.",
    ),
    setting(
        "node",
        "committee",
        Kind::Path,
        Some("../committee.toml"),
        "Who belongs to the cluster. All nodes need the same file but for the addresses.",
    ),
    setting(
        "node",
        "data",
        Kind::Path,
        Some("data"),
        "Formatted data directory of this node; never shared, never made by `start`.",
    ),
    setting(
        "network",
        "address",
        Kind::AddressOrAuto,
        Some("auto"),
        "Where this node listens. auto: at its address in the committee file. Another one needs no \
         change at the other nodes: they follow (see [discovery]).",
    ),
    setting(
        "network",
        "datagram_bytes",
        Kind::SizeOrAuto {
            min: DATAGRAM_BYTES_ETHERNET as u64,
            max: DATAGRAM_BYTES_MAX as u64,
        },
        Some("auto"),
        "Largest UDP payload; longer messages travel in fragments. auto: 65507 on loopback, else \
         1472, which fits an Ethernet frame.",
    ),
    setting(
        "network",
        "backend",
        Kind::Choice(&["auto", "uring", "mmsg"]),
        Some("auto"),
        "System calls: uring needs io_uring, mmsg is sendmmsg and recvmmsg. auto: uring where the \
         kernel allows it.",
    ),
    setting(
        "network",
        "gso",
        Kind::Switch,
        Some("true"),
        "Let the kernel cut large sends into datagrams, where it can.",
    ),
    setting(
        "network",
        "gro",
        Kind::Switch,
        Some("true"),
        "Let the kernel join received datagrams, where it can.",
    ),
    setting(
        "network",
        "receive_buffers",
        Kind::NumberOrAuto {
            min: 16,
            max: 32768,
        },
        Some("auto"),
        "Datagrams that may wait in this process; memory is this times the largest receive. auto: \
         chosen from datagram_bytes.",
    ),
    setting(
        "network",
        "socket_buffer_bytes",
        Kind::Size {
            min: 4096,
            max: 1 << 30,
        },
        Some("8MiB"),
        "Socket buffers asked of the kernel, which may clamp them (net.core.rmem_max); a clamp is \
         reported at start.",
    ),
    setting(
        "discovery",
        "follow",
        Kind::Switch,
        Some("true"),
        "Send to a peer where it says it listens, once it has answered there under its key. false: \
         only at its address in the committee file, as a network of proxies needs it.",
    ),
    setting(
        "discovery",
        "advertise",
        Kind::AddressOrAuto,
        Some("auto"),
        "The address that peers are told. auto: network.address; when that is 0.0.0.0 or [::], the \
         address of this machine from which packets to the peers leave, looked up every interval.",
    ),
    setting(
        "discovery",
        "beacon",
        Kind::Switch,
        Some("false"),
        "Send this node's signed address to `group` every interval, and listen there. For networks \
         in which all addresses may change at once; without it peers tell each other one by one.",
    ),
    setting(
        "discovery",
        "group",
        Kind::Address,
        Some("239.255.72.80:7199"),
        "Where beacons go: an IPv4 multicast group, with TTL 1, or the broadcast address of the LAN. \
         The same for all nodes of a cluster; several clusters may share it.",
    ),
    setting(
        "discovery",
        "interface",
        Kind::IpOrAuto,
        Some("auto"),
        "The IPv4 address of the interface that sends and hears beacons. auto: network.address, or \
         the system's choice when that is 0.0.0.0.",
    ),
    setting(
        "discovery",
        "interval",
        Kind::Duration {
            max_ns: 60_000_000_000,
        },
        Some("1s"),
        "Between two beacons, and between two questions to each peer, which measure the round trip. \
         At least 100ms.",
    ),
    setting(
        "discovery",
        "suspect_after",
        Kind::Duration {
            max_ns: 600_000_000_000,
        },
        Some("1s"),
        "A peer that was not heard for this long is shown as suspect. Nothing else depends on it.",
    ),
    setting(
        "discovery",
        "down_after",
        Kind::Duration {
            max_ns: 600_000_000_000,
        },
        Some("5s"),
        "A peer that was not heard for this long is shown as down.",
    ),
    setting(
        "admin",
        "address",
        Kind::Address,
        Some("127.0.0.1:7200"),
        "Where /livez /readyz /metrics /status.json are served. Loopback only.",
    ),
    setting(
        "threads",
        "layout",
        Kind::Choice(&["auto", "1", "2", "4"]),
        Some("auto"),
        "Hot threads. auto: 1 when this machine has fewer than 4 processors for the node.",
    ),
    setting(
        "threads",
        "cores",
        Kind::Cores,
        Some("[]"),
        "Processors for the hot threads, one each in the order of the layout. Empty: not pinned.",
    ),
    setting(
        "threads",
        "idle",
        Kind::Choice(&["auto", "spin", "spin-yield", "block"]),
        Some("auto"),
        "What an idle hot thread does. spin: lowest latency, one processor busy for ever; \
         spin-yield: lets others run; block: sleeps, wakes in microseconds. auto: spin when every \
         hot thread has a pinned core of its own, else block.",
    ),
    setting(
        "storage",
        "durability",
        Kind::Choice(&["sync", "lease", "none"]),
        Some("sync"),
        "sync: a vote leaves after its record is on stable storage; survives a power cut of all \
         nodes. lease: votes do not wait for the disk; a node that ends uncleanly is silent until \
         the next checkpoint but one at the latest, and more of those at once than the committee \
         bears faults stop it for good, without a wrong answer. none: nothing waits; a node that \
         ends uncleanly refuses to start again. For benchmarks.",
    ),
    setting(
        "storage",
        "flush",
        Kind::Choice(&["dsync", "fdatasync"]),
        Some("dsync"),
        "dsync: each write carries RWF_DSYNC; fdatasync: write, then flush.",
    ),
    setting(
        "storage",
        "direct",
        Kind::Switch,
        Some("true"),
        "O_DIRECT. true refuses to start on a file system without it.",
    ),
    setting(
        "storage",
        "segment_bytes",
        Kind::Size {
            min: MIB,
            max: 16 << 30,
        },
        Some("64MiB"),
        "Size of one log segment file, fixed when the directory is formatted.",
    ),
    setting(
        "storage",
        "segments_max",
        Kind::Number {
            min: 2,
            max: storage::wal::SEGMENTS_MAX as u64,
        },
        Some("64"),
        "Log segments at most. A full log refuses new transactions and loses nothing; raising this \
         and restarting makes room.",
    ),
    setting(
        "storage",
        "segments_initial",
        Kind::Number {
            min: 2,
            max: storage::wal::SEGMENTS_MAX as u64,
        },
        Some("2"),
        "Log segments that formatting makes; the rest follow ahead of need.",
    ),
    setting(
        "storage",
        "table",
        Kind::Choice(&["memory", "disk"]),
        Some("memory"),
        "memory: keys and values are all in memory, and snapshot files hold a copy. disk: data/table \
         holds them, and memory those that were used last; a start reads none of them. A directory \
         that began with disk stays with it.",
    ),
    setting(
        "storage",
        "table_memory_bytes",
        Kind::Size {
            min: 4 * MIB,
            max: 1 << 46,
        },
        Some("256MiB"),
        "Entries of a table on disk that memory holds. What was written since the table on disk was \
         brought up to date comes on top.",
    ),
    setting(
        "storage",
        "table_cache_bytes",
        Kind::Size {
            min: MIB,
            max: 1 << 46,
        },
        Some("32MiB"),
        "Blocks of the files of a table on disk that memory holds.",
    ),
    setting(
        "storage",
        "snapshot_log_bytes",
        Kind::SizeOrAuto {
            min: MIB,
            max: 1 << 46,
        },
        Some("auto"),
        "When the log in use has this many bytes, the state at the next checkpoint is written to \
         data/snapshots, or what changed of it to data/table, and the log before it is used again. \
         Less means shorter starts and more writing. Blocks of the last two checkpoint intervals \
         stay in the log in any case. auto: a quarter of what segments_max segments hold, and \
         64 MiB at most when storage.table is disk.",
    ),
    setting(
        "storage",
        "scrub_interval",
        Kind::Duration {
            max_ns: 365 * 24 * 3_600_000_000_000,
        },
        Some("1h"),
        "Pause before the log and the table on disk are read once more for damage, which is logged and \
         shown in status and metrics. 0s: never.",
    ),
    setting(
        "storage",
        "scrub_rate",
        Kind::Size {
            min: 64 * 1024,
            max: 1 << 40,
        },
        Some("4MiB"),
        "Bytes a second that are read for that.",
    ),
    setting(
        "consensus",
        "batch_delay",
        Kind::Duration {
            max_ns: 1_000_000_000,
        },
        Some("1ms"),
        "How long the oldest transaction waits at most for the block in flight to be decided, \
         before another one leaves beside it (tau). A full block never waits.",
    ),
    setting(
        "consensus",
        "patience_min",
        Kind::Duration {
            max_ns: 60_000_000_000,
        },
        Some("100ms"),
        "The leader is replaced when nothing is decided for eight times what nearly every commit \
         takes, as measured, but never sooner than this. 10ms suits nodes with a core for every \
         hot thread; elsewhere other processes take the cores away for longer than that.",
    ),
    setting(
        "consensus",
        "replace_slow_leader",
        Kind::Switch,
        Some("true"),
        "Wish for another leader when this one, while transactions that this node forwarded wait, \
         pauses between proposals for five times what nearly every commit takes, or commits less \
         than nine tenths of what an earlier one did, for seconds. Once in 5 s at most; b+1 nodes \
         must agree before anything follows.",
    ),
    setting(
        "consensus",
        "block_bytes_max",
        Kind::Size {
            min: REQUEST_BYTES_MAX as u64,
            max: BLOCK_PAYLOAD_BYTES_MAX as u64,
        },
        Some("256KiB"),
        "A block of this payload is proposed at once.",
    ),
];

/// All section names.
pub fn sections() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    SETTINGS.iter().filter_map(move |setting| {
        let fresh = setting.section != last;
        last = setting.section;
        fresh.then_some(setting.section)
    })
}

/// The row of `section.key`.
pub fn find(section: &str, key: &str) -> Option<&'static Setting> {
    SETTINGS
        .iter()
        .find(|setting| setting.section == section && setting.key == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_names_unique() {
        let mut names: Vec<String> = SETTINGS.iter().map(Setting::name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), SETTINGS.len());
        for setting in SETTINGS {
            if let Some(default) = setting.default {
                assert!(setting.kind.parse(default).is_ok(), "{}", setting.name());
            }
        }
        assert_eq!(sections().count(), 7);
    }
}
