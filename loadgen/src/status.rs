//! What the nodes say of themselves: `GET /status.json` on their loopback admin address, before
//! and after the measured window, and the difference of the two.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

/// A status document is far smaller.
const STATUS_BYTES_MAX: u64 = 4 << 20;
const TIMEOUT: Duration = Duration::from_secs(2);

/// Sparse histogram: `[lower, upper, count]`.
pub type Buckets = Vec<(u64, u64, u64)>;

/// The parts of `status.json` that a run needs; fields a node leaves out count as zero.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    pub node: u16,
    pub version: String,
    pub boot: u32,
    pub state: String,
    pub reason: Option<String>,
    pub view: u64,
    pub leader: Option<u16>,
    pub is_leader: bool,
    pub committed_slot: u64,
    pub executed_slot: u64,
    pub committed_transactions: u64,
    pub fast_commits: u64,
    pub slow_commits: u64,
    pub view_changes: u64,
    pub cpu_seconds: f64,
    pub rss_bytes: u64,
    pub uptime_seconds: f64,
    pub histograms: BTreeMap<String, Buckets>,
    pub hot_allocations: BTreeMap<String, u64>,
    pub rejects: BTreeMap<String, u64>,
    pub config: NodeConfig,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeConfig {
    pub backend: String,
    pub layout: serde_json::Value,
    pub cores: serde_json::Value,
    pub idle: String,
    pub durability: String,
    pub flush: String,
    pub direct: bool,
    pub datagram_bytes: u64,
    pub gso: bool,
    pub gro: bool,
    pub state_machine: String,
}

/// Fetches and reads the status of the node whose admin endpoint is `address`.
pub fn fetch(address: SocketAddr) -> anyhow::Result<NodeStatus> {
    let body = get(address, "/status.json")?;
    serde_json::from_slice(&body).with_context(|| format!("status.json of {address} is malformed"))
}

/// One HTTP GET over a connection of its own; the body of a 200 answer.
pub fn get(address: SocketAddr, path: &str) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)
        .with_context(|| format!("no admin endpoint at {address}; is the node running?"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // In one segment: a server that answers after the first would reset the connection.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(STATUS_BYTES_MAX).read_to_end(&mut answer)?;
    body(&answer).with_context(|| format!("GET http://{address}{path}"))
}

fn body(answer: &[u8]) -> anyhow::Result<Vec<u8>> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        bail!("the answer is not HTTP");
    };
    let head = std::str::from_utf8(&answer[..end]).context("the answer is not HTTP")?;
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    ensure!(
        status.split(' ').nth(1) == Some("200"),
        "the answer is `{status}`"
    );
    let chunked = lines.any(|line| {
        let line = line.to_ascii_lowercase();
        line.starts_with("transfer-encoding:") && line.contains("chunked")
    });
    let body = &answer[end + 4..];
    if chunked {
        unchunk(body)
    } else {
        Ok(body.to_vec())
    }
}

fn unchunk(mut rest: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let end = rest
            .windows(2)
            .position(|two| two == b"\r\n")
            .context("a chunk's length is cut")?;
        let length = std::str::from_utf8(&rest[..end])?;
        let length = length.split(';').next().unwrap_or_default().trim();
        let length = usize::from_str_radix(length, 16).context("a chunk's length is malformed")?;
        rest = &rest[end + 2..];
        if length == 0 {
            return Ok(out);
        }
        let chunk = rest.get(..length).context("a chunk is cut")?;
        out.extend_from_slice(chunk);
        rest = rest.get(length + 2..).context("a chunk is cut")?;
    }
}

/// What one node did between two of its statuses.
#[derive(Clone, Debug, Default)]
pub struct NodeDelta {
    pub id: u16,
    pub cpu_seconds: f64,
    pub rss_bytes: u64,
    pub committed: u64,
    pub fast: u64,
    pub slow: u64,
    pub view_changes: u64,
    pub wal_flush: Buckets,
    pub decide: Buckets,
    pub hot_allocations: BTreeMap<String, u64>,
    pub rejects: BTreeMap<String, u64>,
    /// The process was replaced in between: the figures are those of the new one.
    pub restarted: bool,
}

/// The difference of two statuses of one node. A restarted node counts from zero.
pub fn delta(before: &NodeStatus, after: &NodeStatus) -> NodeDelta {
    let restarted = before.boot != after.boot;
    let zero = NodeStatus::default();
    let before = if restarted { &zero } else { before };
    let histogram = |name: &str| {
        let empty = Buckets::new();
        subtract(
            before.histograms.get(name).unwrap_or(&empty),
            after.histograms.get(name).unwrap_or(&empty),
        )
    };
    NodeDelta {
        id: after.node,
        cpu_seconds: (after.cpu_seconds - before.cpu_seconds).max(0.0),
        rss_bytes: after.rss_bytes,
        committed: after
            .committed_transactions
            .saturating_sub(before.committed_transactions),
        fast: after.fast_commits.saturating_sub(before.fast_commits),
        slow: after.slow_commits.saturating_sub(before.slow_commits),
        view_changes: after.view_changes.saturating_sub(before.view_changes),
        wal_flush: histogram("wal_flush_ns"),
        decide: histogram("decide_ns"),
        hot_allocations: subtract_counts(&before.hot_allocations, &after.hot_allocations),
        rejects: subtract_counts(&before.rejects, &after.rejects)
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect(),
        restarted,
    }
}

fn subtract_counts(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    after
        .iter()
        .map(|(name, count)| {
            let earlier = before.get(name).copied().unwrap_or(0);
            (name.clone(), count.saturating_sub(earlier))
        })
        .collect()
}

fn subtract(before: &Buckets, after: &Buckets) -> Buckets {
    let earlier: BTreeMap<(u64, u64), u64> = before
        .iter()
        .map(|&(lower, upper, count)| ((lower, upper), count))
        .collect();
    let mut out: Buckets = after
        .iter()
        .map(|&(lower, upper, count)| {
            let earlier = earlier.get(&(lower, upper)).copied().unwrap_or(0);
            (lower, upper, count.saturating_sub(earlier))
        })
        .filter(|bucket| bucket.2 > 0)
        .collect();
    out.sort_unstable();
    out
}

/// The upper bound of the bucket that holds the percentile; none without samples.
pub fn percentile(buckets: &Buckets, percentile: f64) -> Option<u64> {
    let total: u64 = buckets.iter().map(|bucket| bucket.2).sum();
    if total == 0 {
        return None;
    }
    let rank = ((percentile / 100.0 * total as f64).ceil() as u64).clamp(1, total);
    let mut seen = 0;
    for &(_, upper, count) in buckets {
        seen += count;
        if seen >= rank {
            return Some(upper);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(text: &str) -> NodeStatus {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn deltas_subtract_counters_and_histograms() {
        let before = status(
            r#"{"node":2,"boot":1,"committed_transactions":10,"cpu_seconds":1.5,
                "histograms":{"wal_flush_ns":[[0,100,5],[100,200,5]]},"hot_allocations":{"net":3}}"#,
        );
        let after = status(
            r#"{"node":2,"boot":1,"committed_transactions":110,"cpu_seconds":2.0,"fast_commits":7,
                "histograms":{"wal_flush_ns":[[0,100,6],[100,200,14],[400,500,1]]},
                "hot_allocations":{"net":3,"order":1},"unknown":{"field":1}}"#,
        );
        let delta = delta(&before, &after);
        assert_eq!((delta.id, delta.committed, delta.fast), (2, 100, 7));
        assert!((delta.cpu_seconds - 0.5).abs() < 1e-9);
        assert_eq!(delta.wal_flush, [(0, 100, 1), (100, 200, 9), (400, 500, 1)]);
        assert_eq!(percentile(&delta.wal_flush, 50.0), Some(200));
        assert_eq!(percentile(&delta.wal_flush, 99.0), Some(500));
        assert_eq!(percentile(&delta.decide, 50.0), None);
        assert_eq!(delta.hot_allocations["order"], 1);
        assert!(!delta.restarted);
    }

    #[test]
    fn a_restarted_node_counts_from_zero() {
        let before = status(r#"{"boot":1,"committed_transactions":1000}"#);
        let after = status(r#"{"boot":2,"committed_transactions":30}"#);
        let delta = delta(&before, &after);
        assert!(delta.restarted);
        assert_eq!(delta.committed, 30);
    }

    #[test]
    fn answers_with_and_without_chunks() {
        let plain = b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(body(plain).unwrap(), b"{}");
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n2;x\r\n\":\r\n0\r\n\r\n";
        assert_eq!(body(chunked).unwrap(), b"{\"a\":");
        assert!(body(b"HTTP/1.1 503 Unavailable\r\n\r\n").is_err());
        assert!(body(b"garbage").is_err());
        assert!(body(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nab").is_err());
    }
}
