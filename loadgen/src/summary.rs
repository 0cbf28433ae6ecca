//! From figures to the result: judged per repetition, merged over all.

use std::time::UNIX_EPOCH;

use anyhow::Context;
use hdrhistogram::Histogram;

use crate::cli::Run;
use crate::histograms::{Interval, LogLine, percentile};
use crate::keys::KEY_BYTES;
use crate::machine::environment;
use crate::measure::Measured;
use crate::network::Network;
use crate::plan::Plan;
use crate::result::{
    Cluster, Errors, Histograms, Lag, Load, MedianTail, Node, Percentiles, Repetition, RunResult,
    SCHEMA_VERSION, Second, Slo, median,
};
use crate::status::{NodeDelta, NodeStatus, percentile as bucket_percentile};
use crate::verdict::{Evidence, reasons};

/// All repetitions as one result.
pub struct Summary {
    pub result: RunResult,
    pub figures: Interval,
    pub seconds: Vec<Second>,
    pub log: Vec<LogLine>,
    pub started: std::time::SystemTime,
    pub warnings: Vec<String>,
}

/// Judges every repetition, merges their times and takes the median of their rates.
pub fn summarize(
    flags: &Run,
    network: &Network,
    plan: &Plan,
    repetitions: &[Measured],
    command: &str,
) -> anyhow::Result<Summary> {
    let first = repetitions.first().context("nothing was measured")?;
    let last = repetitions.last().context("nothing was measured")?;
    let mut figures = Interval::new();
    let mut invalid_reasons = Vec::new();
    let mut runs = Vec::new();
    let mut warnings = Vec::new();
    for (number, measured) in repetitions.iter().enumerate() {
        let counts = &measured.figures.counts;
        let duration_s = measured.duration_ns as f64 / 1e9;
        let evidence = Evidence {
            offered_tps: counts.offered as f64 / duration_s,
            achieved_tps: counts.answered as f64 / duration_s,
            lag_p99_ns: percentile(&measured.figures.lag, 99.0),
            latency_p99_ns: percentile(&measured.figures.latency, 99.0),
            dropped: counts.dropped,
            timeouts: counts.timeouts,
            rejected: counts.rejected,
            wrong_replies: counts.wrong_replies,
            answered: counts.answered,
            closed_loop: plan.saturate,
        };
        let reasons = reasons(&evidence);
        runs.push(Repetition {
            valid: reasons.is_empty(),
            offered_tps: evidence.offered_tps,
            achieved_tps: evidence.achieved_tps,
            p50_ns: percentile(&measured.figures.latency, 50.0),
            p99_ns: evidence.latency_p99_ns,
            max_ns: measured.figures.latency.max(),
            lag_p99_ns: evidence.lag_p99_ns,
            cpu_us_per_tx: cpu_us_per_tx(measured, network.admins.len()),
        });
        for reason in reasons {
            invalid_reasons.push(if repetitions.len() > 1 {
                format!("run {}: {reason}", number + 1)
            } else {
                reason
            });
        }
        figures.add(&measured.figures);
        for warning in &measured.warnings {
            if !warnings.contains(warning) {
                warnings.push(warning.clone());
            }
        }
    }
    let middle =
        |pick: fn(&Repetition) -> f64| median(&mut runs.iter().map(pick).collect::<Vec<_>>());
    let slo = flags.slo.as_ref().map(|objective| {
        let measured_ns = percentile(&figures.latency, objective.percentile);
        Slo {
            objective: objective.to_string(),
            measured_ns,
            met: !figures.latency.is_empty() && measured_ns < objective.below_ns,
        }
    });
    let counts = figures.counts;
    let result = RunResult {
        schema_version: SCHEMA_VERSION,
        valid: invalid_reasons.is_empty(),
        invalid_reasons,
        command: command.to_string(),
        commit: commit(),
        started_unix_ns: first
            .started
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as u64),
        environment: environment(network.kind()),
        cluster: cluster(network, &last.statuses),
        load: Load {
            loop_kind: if plan.saturate { "closed" } else { "open" }.to_string(),
            rate_tps: if plan.saturate { 0.0 } else { plan.rate_tps },
            duration_s: last.duration_ns as f64 / 1e9,
            warmup_s: plan.warmup_ns as f64 / 1e9,
            clients: plan.clients,
            threads: plan.threads,
            value_bytes: plan.value_bytes,
            key_bytes: KEY_BYTES,
            keys: plan.keys,
            key_distribution: plan.key_distribution.to_string(),
            ratio_put_get: plan.ratio.to_string(),
            bundle_max: plan.bundle_max,
            bundle_mean: counts.bundled as f64 / counts.bundles.max(1) as f64,
            linger_ns: plan.linger_ns,
            max_in_flight: flags.in_flight(),
            arrival: plan.arrival.to_string(),
            seed: plan.seed,
            backend: last.backend.clone(),
            idle: flags.idle.to_string(),
        },
        offered_tps: middle(|run| run.offered_tps),
        achieved_tps: middle(|run| run.achieved_tps),
        errors: Errors {
            timeout: counts.timeouts,
            rejected: counts.rejected,
            wrong_reply: counts.wrong_replies,
            dropped: counts.dropped,
            retransmissions: counts.retransmissions,
            busy: counts.busy,
        },
        latency_ns: Percentiles::of(&figures.latency),
        service_time_ns: Percentiles::of(&figures.service_time),
        generator_lag_ns: lag(&figures.lag),
        nodes: nodes(last),
        cpu_us_per_tx: middle(|run| run.cpu_us_per_tx),
        generator_cpu_seconds: last.generator_cpu_seconds,
        generator_allocations: last.generator_allocations,
        slo,
        histograms: Histograms::of(&figures.latency, &figures.service_time, &figures.lag),
        runs,
    };
    Ok(Summary {
        result,
        figures,
        seconds: last.seconds.clone(),
        log: last.log.clone(),
        started: last.started,
        warnings,
    })
}

fn lag(histogram: &Histogram<u64>) -> Lag {
    Lag {
        p50: percentile(histogram, 50.0),
        p99: percentile(histogram, 99.0),
        max: histogram.max(),
    }
}

/// All processes' CPU over what was answered; 0 when a node's figures are missing.
fn cpu_us_per_tx(measured: &Measured, nodes: usize) -> f64 {
    let answered = measured.figures.counts.answered;
    if answered == 0 || nodes == 0 || measured.nodes.len() < nodes {
        return 0.0;
    }
    let nodes: f64 = measured.nodes.iter().map(|node| node.cpu_seconds).sum();
    (nodes + measured.generator_cpu_seconds) * 1e6 / answered as f64
}

fn commit() -> String {
    let version = env!("CARGO_PKG_VERSION");
    match option_env!("HIPPO_COMMIT") {
        Some(commit) => format!("{version} {commit}"),
        None => version.to_string(),
    }
}

fn tail(buckets: &crate::status::Buckets) -> MedianTail {
    MedianTail {
        p50: bucket_percentile(buckets, 50.0),
        p99: bucket_percentile(buckets, 99.0),
    }
}

fn nodes(measured: &Measured) -> Vec<Node> {
    let leads = |id: u16| {
        measured
            .statuses
            .iter()
            .any(|status| status.node == id && status.is_leader)
    };
    measured
        .nodes
        .iter()
        .map(|delta: &NodeDelta| Node {
            id: delta.id,
            cpu_seconds: delta.cpu_seconds,
            rss_bytes: delta.rss_bytes,
            committed: delta.committed,
            fast: delta.fast,
            slow: delta.slow,
            view_changes: delta.view_changes,
            wal_flush_ns: tail(&delta.wal_flush),
            decide_ns: tail(&delta.decide),
            hot_allocations: delta.hot_allocations.clone(),
            rejects: delta.rejects.clone(),
            is_leader: leads(delta.id),
            restarted: delta.restarted,
        })
        .collect()
}

/// One word for all nodes, or their words in order.
fn agreed(statuses: &[NodeStatus], pick: impl Fn(&NodeStatus) -> String) -> String {
    let mut words: Vec<String> = Vec::new();
    for status in statuses {
        let word = pick(status);
        if !words.contains(&word) {
            words.push(word);
        }
    }
    if words.is_empty() {
        "unknown".to_string()
    } else {
        words.join(", ")
    }
}

fn cluster(network: &Network, statuses: &[NodeStatus]) -> Cluster {
    let plain = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Cluster {
        durability: agreed(statuses, |status| status.config.durability.clone()),
        request_auth: "ed25519".to_string(),
        vote_auth: network.vote_auth(),
        backend: agreed(statuses, |status| status.config.backend.clone()),
        flush: agreed(statuses, |status| status.config.flush.clone()),
        idle: agreed(statuses, |status| status.config.idle.clone()),
        layout: agreed(statuses, |status| plain(&status.config.layout)),
        datagram_bytes: statuses
            .iter()
            .map(|status| status.config.datagram_bytes)
            .min()
            .unwrap_or(0),
        ..network.cluster()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::histograms::record;
    use crate::run::plan;
    use crate::schema::violations;
    use crate::table;
    use clap::Parser;
    use std::sync::Arc;
    use wire::committee::{Committee, CommitteeParts, Member, Preset};
    use wire::ids::{ClusterId, NodeId};
    use wire::keys::NodeSecret;

    fn network() -> Network {
        let members = (0..4u16)
            .map(|id| Member {
                id: NodeId(id),
                public_key: NodeSecret::generate(&[id as u8 + 1; 32])
                    .unwrap()
                    .public_key(),
                address: ([127, 0, 0, 1], 7000 + id).into(),
            })
            .collect();
        let parts =
            CommitteeParts::with_preset(ClusterId([1; 16]), members, Preset::default()).unwrap();
        Network {
            committee: Arc::new(Committee::new(parts).unwrap()),
            admins: vec![([127, 0, 0, 1], 7100).into()],
        }
    }

    fn measured(answered: u64) -> Measured {
        let mut figures = Interval::new();
        for number in 0..answered {
            record(&mut figures.latency, 500_000 + number);
            record(&mut figures.service_time, 400_000);
            record(&mut figures.lag, 10_000);
        }
        figures.counts.offered = answered;
        figures.counts.answered = answered;
        figures.counts.bundled = answered;
        figures.counts.bundles = answered.div_ceil(10);
        Measured {
            duration_ns: 1_000_000_000,
            figures,
            seconds: Vec::new(),
            log: Vec::new(),
            nodes: vec![NodeDelta {
                cpu_seconds: 0.5,
                hot_allocations: [("net".to_string(), 0)].into(),
                wal_flush: vec![(100, 200, 5)],
                ..NodeDelta::default()
            }],
            statuses: vec![NodeStatus::default()],
            generator_cpu_seconds: 0.5,
            generator_allocations: 0,
            backend: "uring".to_string(),
            started: UNIX_EPOCH,
            warnings: Vec::new(),
        }
    }

    fn flags(more: &str) -> Run {
        let all = "hippo-load run --network net --duration 1s "
            .split_whitespace()
            .chain(more.split_whitespace());
        let Command::Run(run) = Cli::parse_from(all).command;
        *run
    }

    fn summary(more: &str, repetitions: &[Measured]) -> Summary {
        let flags = flags(more);
        summarize(
            &flags,
            &network(),
            &plan(&flags),
            repetitions,
            "hippo-load run",
        )
        .unwrap()
    }

    #[test]
    fn a_result_has_every_field_of_the_schema() {
        let schema = include_str!("../../docs/result.schema.json");
        let schema = serde_json::from_str(schema).unwrap();
        for (more, repetitions) in [
            ("", vec![measured(1000)]),
            (
                "--slo p99<1ms --runs 2",
                vec![measured(1000), measured(900)],
            ),
            ("--saturate", vec![measured(0)]),
        ] {
            let summary = summary(more, &repetitions);
            let document = serde_json::to_value(&summary.result).unwrap();
            assert_eq!(violations(&schema, &document), Vec::<String>::new());
            let mut poorer = document.clone();
            poorer.as_object_mut().unwrap().remove("latency_ns");
            assert_eq!(violations(&schema, &poorer).len(), 1);
        }
    }

    #[test]
    fn rates_are_medians_and_times_are_merged() {
        let summary = summary("--runs 3", &[measured(1000), measured(998), measured(996)]);
        assert_eq!(summary.result.achieved_tps, 998.0);
        assert_eq!(summary.figures.latency.len(), 2994);
        assert_eq!(summary.result.runs.len(), 3);
        assert!(summary.result.valid);
        assert!((summary.result.cpu_us_per_tx - 1e6 / 998.0).abs() < 1e-6);
        assert!((summary.result.load.bundle_mean - 10.0).abs() < 0.1);
    }

    #[test]
    fn a_missed_objective_and_an_invalid_run_differ() {
        let missed = summary("--slo p50<100us", &[measured(1000)]);
        assert!(missed.result.valid && !missed.result.slo.unwrap().met);
        let short = summary("", &[measured(10)]);
        assert!(short.result.valid, "{:?}", short.result.invalid_reasons);
        let mut late = measured(1000);
        late.figures.counts.dropped = 3;
        assert!(!summary("", &[late]).result.valid);
    }

    #[test]
    fn table_and_report_show_the_headline() {
        let summary = summary("--slo p99<1ms", &[measured(100_000)]);
        let text = table::render(&summary.result, "load");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("hippodrome load   4 nodes, f=1, 3 of 4 votes   loopback"));
        assert!(lines[1].starts_with("offered") && lines[1].ends_with("view changes"));
        assert!(lines[2].starts_with("100,000/s"), "{}", lines[2]);
        assert!(lines[3].ends_with("VALID"));
        let report = crate::report::render(&summary.result, &summary.figures.latency, &[]);
        for word in [
            "<svg",
            "100,000",
            "VALID",
            "prefers-color-scheme",
            "hippo-load run",
        ] {
            assert!(report.contains(word), "{word}");
        }
        assert!(!report.contains("http") && !report.contains("NaN"));
    }
}
