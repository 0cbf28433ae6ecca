//! The coordinator of one run: starts the threads, asks the nodes before and after the measured
//! window, gathers the figures of all threads.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use wire::ids::Instant;

use crate::histograms::{Interval, LogLine, percentile};
use crate::machine::own_cpu_seconds;
use crate::plan::{self, Control, Plan};
use crate::result::Second;
use crate::status::{self, NodeDelta, NodeStatus};
use crate::units::with_commas;
use crate::worker::{INTERVAL_NS, LOAD_STAGE, Report};

/// Empty figures that go round between a worker and the coordinator.
const INTERVALS_PER_WORKER: usize = 4;

/// What one repetition measured.
#[derive(Debug)]
pub struct Measured {
    /// Length of the measured window.
    pub duration_ns: u64,
    /// Figures of the measured window, all threads merged.
    pub figures: Interval,
    pub seconds: Vec<Second>,
    pub log: Vec<LogLine>,
    pub nodes: Vec<NodeDelta>,
    /// The nodes' own words after the measured window.
    pub statuses: Vec<NodeStatus>,
    pub generator_cpu_seconds: f64,
    /// Heap allocations of the generator threads in the measured window.
    pub generator_allocations: u64,
    /// The generator's socket driver, as it was chosen.
    pub backend: String,
    pub started: SystemTime,
    /// What could not be measured, besides what the verdict says anyway.
    pub warnings: Vec<String>,
}

/// The ends of a worker's channels.
pub struct WorkerChannels {
    pub reports: SyncSender<(usize, Report)>,
    pub empties: Receiver<Box<Interval>>,
}

/// The coordinator's ends.
pub struct Desk {
    reports: Receiver<(usize, Report)>,
    empties: Vec<SyncSender<Box<Interval>>>,
}

/// Channels for `threads` workers, with their empty figures already in them.
pub fn channels(threads: usize) -> (Desk, Vec<WorkerChannels>) {
    let (report_sender, reports) = sync_channel(threads * (INTERVALS_PER_WORKER + 2));
    let mut empties = Vec::new();
    let mut workers = Vec::new();
    for _ in 0..threads {
        let (sender, receiver) = sync_channel(INTERVALS_PER_WORKER);
        for _ in 0..INTERVALS_PER_WORKER {
            sender
                .send(Box::new(Interval::new()))
                .expect("the receiver is alive and the channel has room");
        }
        empties.push(sender);
        workers.push(WorkerChannels {
            reports: report_sender.clone(),
            empties: receiver,
        });
    }
    (Desk { reports, empties }, workers)
}

/// Asks every admin endpoint; nodes that do not answer are left out and named.
fn ask(admins: &[SocketAddr], warnings: &mut Vec<String>) -> Vec<(usize, NodeStatus)> {
    let mut statuses = Vec::new();
    for (index, &address) in admins.iter().enumerate() {
        match status::fetch(address) {
            Ok(status) => {
                if let Some(reason) = status.reason.as_ref().filter(|reason| !reason.is_empty()) {
                    warnings.push(format!("node {index}: {}: {reason}", status.state));
                }
                statuses.push((index, status));
            }
            Err(error) => warnings.push(format!("node {index}: {error:#}")),
        }
    }
    statuses
}

/// CPU seconds of this process and allocations of its generator threads.
fn own_use() -> (f64, u64) {
    (
        own_cpu_seconds(),
        platform::tripwire::allocations(LOAD_STAGE),
    )
}

struct Gathering {
    plan: Arc<Plan>,
    /// When the load ends, after its start.
    load_end_ns: u64,
    /// Figures of intervals that not all threads have reported.
    partial: BTreeMap<u64, (usize, Interval)>,
    seconds: Vec<Second>,
    log: Vec<LogLine>,
    last_end_ns: u64,
}

impl Gathering {
    /// Adds one thread's interval; a complete one becomes a line of the time series.
    fn add(&mut self, index: u64, figures: &Interval) -> Option<&Second> {
        let (threads, interval) = self
            .partial
            .entry(index)
            .or_insert_with(|| (0, Interval::new()));
        *threads += 1;
        interval.add(figures);
        if *threads < self.plan.threads {
            return None;
        }
        let (_, interval) = self.partial.remove(&index)?;
        self.complete(index, interval)
    }

    /// Takes what threads that skipped a report have left incomplete.
    fn settle(&mut self) {
        while let Some((index, (_, interval))) = self.partial.pop_first() {
            self.complete(index, interval);
        }
    }

    fn complete(&mut self, index: u64, interval: Interval) -> Option<&Second> {
        let end_ns = ((index + 1) * INTERVAL_NS).max(self.last_end_ns);
        let length_ns = end_ns - self.last_end_ns;
        let load_end_ns = self.load_end_ns;
        // The last slice of the load may be shorter than a second; the drain belongs to no rate.
        let loaded_ns = load_end_ns.min(end_ns).saturating_sub(self.last_end_ns);
        if loaded_ns == 0 {
            return None;
        }
        let seconds = loaded_ns as f64 / 1e9;
        self.log.push(LogLine::new(
            Duration::from_nanos(self.last_end_ns),
            Duration::from_nanos(length_ns),
            &interval.latency,
        ));
        self.last_end_ns = end_ns;
        self.seconds.push(Second {
            at_s: end_ns.min(load_end_ns) as f64 / 1e9,
            warmup: end_ns <= self.plan.warmup_ns,
            offered_tps: interval.counts.offered as f64 / seconds,
            achieved_tps: interval.counts.answered as f64 / seconds,
            p50_ns: percentile(&interval.latency, 50.0),
            p99_ns: percentile(&interval.latency, 99.0),
            max_ns: interval.latency.max(),
            lag_p99_ns: percentile(&interval.lag, 99.0),
            timeouts: interval.counts.timeouts,
            dropped: interval.counts.dropped,
            retransmissions: interval.counts.retransmissions,
            busy: interval.counts.busy,
        });
        self.seconds.last()
    }
}

fn progress_bar(plan: &Plan, wanted: bool) -> ProgressBar {
    if !wanted || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new((plan.warmup_ns + plan.duration_ns) / 1_000_000_000);
    if let Ok(style) = ProgressStyle::with_template("{bar:32} {pos}/{len} s  {msg}") {
        bar.set_style(style);
    }
    bar
}

/// Runs the load of workers that were given the other ends of `desk`.
pub fn measure(
    desk: &Desk,
    plan: &Arc<Plan>,
    control: &Control,
    admins: &[SocketAddr],
    progress: bool,
) -> anyhow::Result<Measured> {
    let result = gather(desk, plan, control, admins, progress);
    control.stop();
    result
}

fn gather(
    desk: &Desk,
    plan: &Arc<Plan>,
    control: &Control,
    admins: &[SocketAddr],
    progress: bool,
) -> anyhow::Result<Measured> {
    let mut warnings = Vec::new();
    wait_for(desk, plan, |report| matches!(report, Report::Ready))?;
    if plan.preload {
        wait_for(desk, plan, |report| matches!(report, Report::Preloaded))?;
    }

    let start = plan::now().after_ns(20_000_000);
    let started = SystemTime::now();
    control.start_at(start);
    let bar = progress_bar(plan, progress);
    let window_start = start.after_ns(plan.warmup_ns);
    let mut window_end = window_start.after_ns(plan.duration_ns);
    let mut before = None;
    let mut after = None;
    let mut finished = 0;
    let mut figures = Interval::new();
    let mut gathering = Gathering {
        plan: Arc::clone(plan),
        load_end_ns: plan.warmup_ns + plan.duration_ns,
        partial: BTreeMap::new(),
        seconds: Vec::new(),
        log: Vec::new(),
        last_end_ns: 0,
    };
    let mut backend = String::new();
    while finished < plan.threads {
        let now = plan::now();
        if control.interrupted() && after.is_none() && control.end_ns() == u64::MAX {
            if before.is_none() {
                bail!("interrupted before anything was measured");
            }
            // A moment from now, so that all threads end at the same one.
            window_end = window_end.min(now.after_ns(SIGNAL_LOOK_NS));
            gathering.load_end_ns = window_end.since_ns(start);
            control.end_at(gathering.load_end_ns);
            warnings.push("interrupted: what follows is of the time until then".to_string());
        }
        let given_up_at = window_end.after_ns(plan.timeout_ns + 10_000_000_000);
        let next = match (&before, &after) {
            (None, _) if now >= window_start => {
                before = Some((ask(admins, &mut warnings), own_use()));
                continue;
            }
            (Some(_), None) if now >= window_end => {
                after = Some((ask(admins, &mut warnings), own_use()));
                continue;
            }
            (None, _) => window_start,
            (Some(_), None) => window_end,
            (Some(_), Some(_)) => given_up_at,
        };
        let next = next.min(now.after_ns(SIGNAL_LOOK_NS));
        match desk.reports.recv_timeout(until(now, next)) {
            Ok((thread, Report::Interval { index, figures })) => {
                if let Some(second) = gathering.add(index, &figures) {
                    bar.set_position(second.at_s as u64);
                    bar.set_message(format!(
                        "{}/s  p50 {:.2} ms  p99 {:.2} ms",
                        with_commas(second.achieved_tps),
                        second.p50_ns as f64 / 1e6,
                        second.p99_ns as f64 / 1e6
                    ));
                }
                let mut empty = figures;
                empty.clear();
                // A worker that has finished takes nothing back.
                let _ = desk.empties[thread].send(empty);
            }
            Ok((
                _,
                Report::Finished {
                    measured,
                    backend: used,
                },
            )) => {
                figures.add(&measured);
                backend = used;
                finished += 1;
            }
            Ok((thread, Report::Failed(error))) => {
                bar.finish_and_clear();
                bail!("generator thread {thread}: {error}");
            }
            Ok((_, Report::Ready | Report::Preloaded)) => {}
            Err(RecvTimeoutError::Timeout) if after.is_some() && plan::now() >= given_up_at => {
                bail!("a generator thread did not finish");
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => bail!("a generator thread ended early"),
        }
    }
    bar.finish_and_clear();
    gathering.settle();
    let (before, use_before) = before.context("the load ended before its measured window")?;
    let (after, use_after) = match after {
        Some(after) => after,
        None => (ask(admins, &mut warnings), own_use()),
    };
    let mut nodes = Vec::new();
    let mut statuses = Vec::new();
    for (index, after) in after {
        if let Some((_, before)) = before.iter().find(|(other, _)| *other == index) {
            nodes.push(status::delta(before, &after));
        }
        statuses.push(after);
    }
    warnings.sort();
    warnings.dedup();
    Ok(Measured {
        duration_ns: window_end.since_ns(window_start),
        figures,
        seconds: gathering.seconds,
        log: gathering.log,
        nodes,
        statuses,
        generator_cpu_seconds: (use_after.0 - use_before.0).max(0.0),
        generator_allocations: use_after.1 - use_before.1,
        backend,
        started,
        warnings,
    })
}

/// How often it is looked whether a signal asks for the end.
const SIGNAL_LOOK_NS: u64 = 50_000_000;

fn until(now: Instant, then: Instant) -> Duration {
    Duration::from_nanos(then.since_ns(now).clamp(1_000, 3_600_000_000_000))
}

fn wait_for(desk: &Desk, plan: &Plan, expected: fn(&Report) -> bool) -> anyhow::Result<()> {
    let mut count = 0;
    while count < plan.threads {
        let (thread, report) = desk
            .reports
            .recv()
            .map_err(|_| anyhow!("a generator thread ended early"))?;
        match report {
            Report::Failed(error) => bail!("generator thread {thread}: {error}"),
            report if expected(&report) => count += 1,
            _ => {}
        }
    }
    Ok(())
}
