//! `report.html`: one self-contained page about one run. It opens offline, in light and dark.

use std::fmt::Write;

use hdrhistogram::Histogram;

use crate::chart::{Series, Tick, linear_ticks, lines};
use crate::histograms::distribution;
use crate::result::{MedianTail, Percentiles, RunResult, Second};
use crate::units::{human_ns, with_commas};

const STYLE: &str = "
:root{color-scheme:light dark;--back:#fbfaf8;--card:#fff;--ink:#1d2026;--soft:#667085;--rule:#e4e2dd;
--accent:#2f6fdb;--warm:#d9772b;--good:#17803d;--bad:#c0282d}
@media(prefers-color-scheme:dark){:root{--back:#14161a;--card:#1c1f25;--ink:#e8e6e1;--soft:#98a1b0;
--rule:#30343c;--accent:#7aa7ff;--warm:#f0a35e;--good:#5ecb85;--bad:#ff7b7b}}
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,'Segoe UI',sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:24px;margin:0 0 4px}h2{font-size:17px;margin:36px 0 10px}
.sub{color:var(--soft);margin:0 0 20px}.tag{display:inline-block;padding:2px 12px;border-radius:99px;
font-weight:600;font-size:14px;color:var(--card);vertical-align:3px;margin-left:10px}
.good{background:var(--good)}.bad{background:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(165px,1fr));gap:12px}
.tile,figure,.box{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:14px 16px}
.tile b{display:block;white-space:nowrap;font-size:22px;font-variant-numeric:tabular-nums}.tile span{color:var(--soft);font-size:13px}
figure{margin:0 0 16px}figcaption{display:flex;justify-content:space-between;flex-wrap:wrap;gap:8px;margin-bottom:6px}
.legend span{margin-left:14px;color:var(--soft);font-size:13px}.legend i{display:inline-block;width:12px;height:3px;
margin-right:6px;vertical-align:middle}
svg{width:100%;min-width:520px;height:auto;display:block}figure{overflow-x:auto}svg text{fill:var(--soft);font-size:12px}svg .grid{stroke:var(--rule)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:6px 10px;border-bottom:1px solid var(--rule);white-space:nowrap}
th{color:var(--soft);font-weight:500}th:first-child,td:first-child{text-align:left}
tr:last-child td{border-bottom:0}pre{overflow-x:auto;margin:0;font:13px/1.5 ui-monospace,monospace;white-space:pre-wrap}
ul{margin:0;padding-left:20px}.pairs{display:grid;grid-template-columns:repeat(auto-fit,minmax(220px,1fr));gap:4px 24px}
.pairs div{display:flex;justify-content:space-between;border-bottom:1px solid var(--rule);padding:3px 0}
.pairs span{color:var(--soft)}footer{color:var(--soft);font-size:13px;margin-top:36px}";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// The page of one run: its result, its latency histogram and its seconds.
pub fn render(result: &RunResult, latency: &Histogram<u64>, seconds: &[Second]) -> String {
    let cluster = &result.cluster;
    let load = &result.load;
    let mut page = String::new();
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>hippodrome {} tx/s</title><style>{STYLE}</style></head><body><main>",
        with_commas(result.achieved_tps)
    );
    let (class, verdict) = if result.valid {
        ("good", "VALID")
    } else {
        ("bad", "INVALID")
    };
    let _ = write!(
        page,
        "<h1>{} transactions a second<span class=\"tag {class}\">{verdict}</span></h1>\
         <p class=\"sub\">{} nodes, b={}, {} of {} votes &middot; {} &middot; {} durability &middot; {} per request \
         datagram, {} between nodes &middot; {} B values &middot; bundle {} &middot; state machine {}{}</p>",
        with_commas(result.achieved_tps),
        cluster.nodes,
        cluster.b,
        cluster.fast_quorum,
        cluster.nodes,
        escape(&result.environment.network),
        escape(&cluster.durability),
        escape(&cluster.request_auth),
        escape(&cluster.vote_auth),
        load.value_bytes,
        load.bundle_max,
        escape(&cluster.state_machine),
        if load.loop_kind == "closed" {
            " &middot; <b>closed loop: latency is that of a full pipeline</b>"
        } else {
            ""
        },
    );
    if !result.invalid_reasons.is_empty() {
        page.push_str("<div class=\"box\"><b>Why this run is INVALID</b><ul>");
        for reason in &result.invalid_reasons {
            let _ = write!(page, "<li>{}</li>", escape(reason));
        }
        page.push_str("</ul></div><br>");
    }
    tiles(&mut page, result);
    page.push_str("<h2>Latency</h2>");
    page.push_str(&percentile_plot(latency));
    times_table(&mut page, result);
    page.push_str("<h2>Over time</h2>");
    page.push_str(&rate_plot(seconds));
    page.push_str(&latency_over_time(seconds));
    nodes_table(&mut page, result);
    conditions(&mut page, result);
    let _ = write!(
        page,
        "<h2>Command</h2><div class=\"box\"><pre>{}</pre></div>\
         <footer>Latency counts from the intended send time to the {}-th equal authenticated reply. \
         Warm-up is not included. Generator {}.</footer></main></body></html>",
        escape(&result.command),
        cluster.b + 1,
        escape(&result.commit),
    );
    page
}

fn tiles(page: &mut String, result: &RunResult) {
    let offered = if result.load.loop_kind == "closed" {
        "closed loop".to_string()
    } else {
        format!("{}/s", with_commas(result.offered_tps))
    };
    let latency = &result.latency_ns;
    let tiles = [
        ("offered", offered),
        (
            "achieved",
            format!("{}/s", with_commas(result.achieved_tps)),
        ),
        ("p50", human_ns(latency.p50 as f64)),
        ("p99", human_ns(latency.p99 as f64)),
        ("p99.9", human_ns(latency.p999 as f64)),
        ("max", human_ns(latency.max as f64)),
        (
            "generator lag p99",
            human_ns(result.generator_lag_ns.p99 as f64),
        ),
        (
            "CPU per transaction",
            format!("{:.1} us", result.cpu_us_per_tx),
        ),
    ];
    page.push_str("<div class=\"tiles\">");
    for (name, figure) in tiles {
        let _ = write!(
            page,
            "<div class=\"tile\"><b>{figure}</b><span>{name}</span></div>"
        );
    }
    page.push_str("</div>");
}

/// Time against percentile, each step of the axis ten times nearer to 100%.
fn percentile_plot(latency: &Histogram<u64>) -> String {
    let points = distribution(latency, 8);
    let nines = |quantile: f64| -(1.0 - quantile).max(1e-12).log10();
    let last = points
        .iter()
        .filter(|point| point.quantile < 1.0)
        .map(|point| nines(point.quantile))
        .fold(1.0, f64::max);
    let names = [
        "0",
        "90%",
        "99%",
        "99.9%",
        "99.99%",
        "99.999%",
        "99.9999%",
        "99.99999%",
    ];
    let x_ticks: Vec<Tick> = names
        .iter()
        .enumerate()
        .map(|(nines, name)| (nines as f64, (*name).to_string()))
        .take(last.ceil() as usize + 1)
        .collect();
    let top = latency.max() as f64 / 1e6;
    lines(
        "Latency by percentile",
        "percentile",
        &x_ticks,
        &linear_ticks(top, |value| format!("{value:.4} ms").replace(".0000", "")),
        &[Series {
            name: "intended send to b+1 equal replies",
            points: points
                .iter()
                .map(|point| (nines(point.quantile).min(last), point.value_ns as f64 / 1e6))
                .collect(),
            color: "--accent",
        }],
    )
}

fn time_ticks(seconds: &[Second]) -> Vec<Tick> {
    let end = seconds.last().map_or(1.0, |second| second.at_s);
    linear_ticks(end, |value| format!("{value:.1} s").replace(".0 ", " "))
}

fn rate_plot(seconds: &[Second]) -> String {
    let line = |pick: fn(&Second) -> f64| -> Vec<(f64, f64)> {
        seconds
            .iter()
            .map(|second| (second.at_s, pick(second)))
            .collect()
    };
    let top = seconds
        .iter()
        .map(|second| second.achieved_tps.max(second.offered_tps))
        .fold(0.0, f64::max);
    lines(
        "Transactions a second",
        "seconds since the start of the load, warm-up included",
        &time_ticks(seconds),
        &linear_ticks(top, with_commas),
        &[
            Series {
                name: "offered",
                points: line(|second| second.offered_tps),
                color: "--warm",
            },
            Series {
                name: "achieved",
                points: line(|second| second.achieved_tps),
                color: "--accent",
            },
        ],
    )
}

fn latency_over_time(seconds: &[Second]) -> String {
    let line = |pick: fn(&Second) -> u64| -> Vec<(f64, f64)> {
        seconds
            .iter()
            .filter(|second| second.max_ns > 0)
            .map(|second| (second.at_s, pick(second) as f64 / 1e6))
            .collect()
    };
    let top = seconds
        .iter()
        .map(|second| second.p99_ns as f64 / 1e6)
        .fold(0.0, f64::max);
    lines(
        "Latency of each second",
        "seconds since the start of the load, warm-up included",
        &time_ticks(seconds),
        &linear_ticks(top, |value| format!("{value:.3} ms").replace(".000", "")),
        &[
            Series {
                name: "p99",
                points: line(|second| second.p99_ns),
                color: "--warm",
            },
            Series {
                name: "p50",
                points: line(|second| second.p50_ns),
                color: "--accent",
            },
        ],
    )
}

fn times_table(page: &mut String, result: &RunResult) {
    page.push_str(
        "<div class=\"box scroll\"><table><tr><th></th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th>\
         <th>p99.99</th><th>max</th><th>mean</th></tr>",
    );
    let mut row = |name: &str, times: &Percentiles| {
        let _ = write!(page, "<tr><td>{name}</td>");
        for nanoseconds in [
            times.p50,
            times.p90,
            times.p99,
            times.p999,
            times.p9999,
            times.max,
        ] {
            let _ = write!(page, "<td>{}</td>", human_ns(nanoseconds as f64));
        }
        let _ = write!(page, "<td>{}</td></tr>", human_ns(times.mean));
    };
    row("latency, from the intended send", &result.latency_ns);
    row(
        "service time, from the actual send",
        &result.service_time_ns,
    );
    page.push_str("</table></div>");
}

fn nodes_table(page: &mut String, result: &RunResult) {
    page.push_str(
        "<h2>Nodes in the measured window</h2><div class=\"box scroll\"><table><tr><th>node</th><th>committed</th>\
         <th>fast</th><th>slow</th><th>view changes</th><th>CPU</th><th>RSS</th><th>WAL flush p50</th><th>p99</th>\
         <th>decide p50</th><th>p99</th><th>hot allocations</th></tr>",
    );
    for node in &result.nodes {
        let both = |times: &MedianTail| {
            [times.p50, times.p99]
                .map(|time| time.map_or("-".to_string(), |time| human_ns(time as f64)))
        };
        let [flush_p50, flush_p99] = both(&node.wal_flush_ns);
        let [decide_p50, decide_p99] = both(&node.decide_ns);
        let _ = write!(
            page,
            "<tr><td>{}{}{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.2} s</td><td>{:.0} MiB</td>\
             <td>{flush_p50}</td><td>{flush_p99}</td><td>{decide_p50}</td><td>{decide_p99}</td><td>{}</td></tr>",
            node.id,
            if node.is_leader { " (leader)" } else { "" },
            if node.restarted { " (restarted)" } else { "" },
            with_commas(node.committed as f64),
            with_commas(node.fast as f64),
            with_commas(node.slow as f64),
            node.view_changes,
            node.cpu_seconds,
            node.rss_bytes as f64 / f64::from(1 << 20),
            node.hot_allocations.values().sum::<u64>(),
        );
    }
    page.push_str("</table></div>");
}

fn conditions(page: &mut String, result: &RunResult) {
    let (cluster, load, environment) = (&result.cluster, &result.load, &result.environment);
    let errors = &result.errors;
    let pairs: Vec<(&str, String)> = vec![
        ("CPU", environment.cpu.clone()),
        ("processors", environment.cores.to_string()),
        ("kernel", environment.kernel.clone()),
        ("network", environment.network.clone()),
        ("datagram", format!("{} B", cluster.datagram_bytes)),
        ("node backend", cluster.backend.clone()),
        ("node threads", cluster.layout.clone()),
        ("node idle policy", cluster.idle.clone()),
        ("WAL flush", cluster.flush.clone()),
        (
            "tolerates",
            format!("b={} u={} p={}", cluster.b, cluster.u, cluster.p),
        ),
        (
            "arrivals",
            format!("{}, {} loop", load.arrival, load.loop_kind),
        ),
        ("duration", format!("{} s", load.duration_s)),
        ("warm-up", format!("{} s", load.warmup_s)),
        ("clients", load.clients.to_string()),
        ("generator threads", load.threads.to_string()),
        ("generator backend", load.backend.clone()),
        (
            "keys",
            format!(
                "{} {}",
                with_commas(load.keys as f64),
                load.key_distribution
            ),
        ),
        ("puts : gets", load.ratio_put_get.clone()),
        ("bundle mean", format!("{:.1}", load.bundle_mean)),
        ("linger", human_ns(load.linger_ns as f64)),
        ("in flight at most", with_commas(load.max_in_flight as f64)),
        ("seed", load.seed.to_string()),
        ("timeouts", errors.timeout.to_string()),
        ("rejected", errors.rejected.to_string()),
        ("wrong replies", errors.wrong_reply.to_string()),
        ("dropped arrivals", errors.dropped.to_string()),
        ("retransmissions", errors.retransmissions.to_string()),
        ("busy answers", errors.busy.to_string()),
    ];
    page.push_str("<h2>Conditions</h2><div class=\"box pairs\">");
    for (name, value) in pairs {
        let _ = write!(
            page,
            "<div><span>{name}</span><b>{}</b></div>",
            escape(&value)
        );
    }
    page.push_str("</div>");
}
