//! The table that a run prints: the same figures, with their conditions, everywhere.

use crate::result::RunResult;
use crate::units::{human_ns, with_commas};

/// The text of interfaces.md: headline, columns, figures, conditions, verdict.
pub fn render(result: &RunResult, title: &str) -> String {
    let cluster = &result.cluster;
    let load = &result.load;
    let mut out = String::new();
    let request_auth = match cluster.request_auth.as_str() {
        "ed25519" => "Ed25519 per request datagram",
        other => other,
    };
    out.push_str(&format!(
        "hippodrome {title}   {} nodes, f={}, {} of {} votes   {}   {} durability, {}\n",
        cluster.nodes,
        cluster.b,
        cluster.fast_quorum,
        cluster.nodes,
        result.environment.network,
        cluster.durability,
        request_auth,
    ));
    let (fast, slow) = result
        .nodes
        .iter()
        .fold((0, 0), |sum, node| (sum.0 + node.fast, sum.1 + node.slow));
    let share = |part: u64| match fast + slow {
        0 => "-".to_string(),
        all => format!("{:.0}%", part as f64 * 100.0 / all as f64),
    };
    let view_changes = result
        .nodes
        .iter()
        .map(|node| node.view_changes)
        .max()
        .unwrap_or(0);
    let latency = &result.latency_ns;
    let offered = if load.loop_kind == "closed" {
        "closed".to_string()
    } else {
        format!("{}/s", with_commas(result.offered_tps))
    };
    let columns = [
        ("offered", offered),
        (
            "achieved",
            format!("{}/s", with_commas(result.achieved_tps)),
        ),
        ("p50", human_ns(latency.p50 as f64)),
        ("p90", human_ns(latency.p90 as f64)),
        ("p99", human_ns(latency.p99 as f64)),
        ("p99.9", human_ns(latency.p999 as f64)),
        ("max", human_ns(latency.max as f64)),
        ("fast/slow", format!("{}/{}", share(fast), share(slow))),
        ("view changes", view_changes.to_string()),
    ];
    let mut heads = String::new();
    let mut figures = String::new();
    for (head, figure) in &columns {
        let width = head.chars().count().max(figure.chars().count()) + 2;
        heads.push_str(&format!("{head:<width$}"));
        figures.push_str(&format!("{figure:<width$}"));
    }
    out.push_str(heads.trim_end());
    out.push('\n');
    out.push_str(figures.trim_end());
    out.push('\n');
    out.push_str(&format!(
        "value {} B  bundle {}  state machine {}  generator lag p99 {}  {}\n",
        load.value_bytes,
        load.bundle_max,
        cluster.state_machine,
        human_ns(result.generator_lag_ns.p99 as f64),
        if result.valid { "VALID" } else { "INVALID" },
    ));
    out.push_str(&format!(
        "{:.1} transactions per request  linger {}  {} clients  CPU {:.1} us/tx  hot allocations {}\n",
        load.bundle_mean,
        human_ns(load.linger_ns as f64),
        load.clients,
        result.cpu_us_per_tx,
        result
            .nodes
            .iter()
            .flat_map(|node| node.hot_allocations.values())
            .sum::<u64>(),
    ));
    if cluster.durability.split(", ").any(|word| word == "none") {
        out.push_str(
            "durability none: nothing waited for the disk; a node that ends uncleanly has lost it. Not a figure for production\n",
        );
    }
    if load.loop_kind == "closed" {
        out.push_str(
            "closed loop: the load waits for replies; the latency is that of a full pipeline, not of open arrivals\n",
        );
    }
    for reason in &result.invalid_reasons {
        out.push_str(&format!("INVALID: {reason}\n"));
    }
    if let Some(slo) = &result.slo {
        out.push_str(&format!(
            "objective {}: {} ({})\n",
            slo.objective,
            if slo.met { "met" } else { "MISSED" },
            human_ns(slo.measured_ns as f64)
        ));
    }
    if result.runs.len() > 1 {
        let mut rates: Vec<f64> = result.runs.iter().map(|run| run.achieved_tps).collect();
        rates.sort_by(f64::total_cmp);
        out.push_str(&format!(
            "{} runs: achieved median of {}..{}/s; times merged\n",
            result.runs.len(),
            with_commas(rates.first().copied().unwrap_or(0.0)),
            with_commas(rates.last().copied().unwrap_or(0.0)),
        ));
    }
    out
}
