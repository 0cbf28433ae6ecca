//! `/metrics`: the telemetry as OpenMetrics, prefix `hippo_`, base units.

mod peers;
mod states;

use std::fmt::Error;

use platform::process;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use replica::ordering::WishReason;

use super::Source;
use super::health::{State, judge};
use crate::telemetry::{Counter, HistogramSnapshot};

/// A registry that reads `source` at each scrape.
pub fn registry(source: Source) -> Registry {
    let mut registry = Registry::with_prefix("hippo");
    registry.register_collector(Box::new(Scrape { source }));
    registry
}

#[derive(Debug)]
struct Scrape {
    source: Source,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let telemetry = &*self.source.telemetry;
        let now = (self.source.now)();
        let (state, _) = judge(&self.source);
        let mut page = Page { encoder };
        let order = &telemetry.order;

        page.gauge(
            "serving",
            "1 when transactions can commit as far as this node knows",
            u64::from(state == State::Serving),
        )?;
        page.gauge("boot", "Number of this start", telemetry.boot.get())?;
        page.gauge("consensus_view", "View", order.view.get())?;
        page.gauge(
            "consensus_is_leader",
            "1 in the leader of the view",
            u64::from(order.is_leader.get()),
        )?;
        page.gauge(
            "consensus_committed_slot",
            "Highest decided slot",
            order.committed_slot.get(),
        )?;
        page.gauge(
            "consensus_executed_slot",
            "Highest executed slot",
            telemetry.execute.executed_slot.get(),
        )?;
        page.gauge(
            "consensus_blocks_in_flight",
            "Proposed, undecided blocks",
            order.blocks_in_flight.get(),
        )?;
        page.gauge(
            "consensus_pending_transactions",
            "Transactions waiting for a block",
            order.pending_transactions.get(),
        )?;
        page.gauge(
            "consensus_lease_slot",
            "Votes leave up to this slot without the disk; 0 without leases",
            order.lease.get(),
        )?;
        page.gauge(
            "consensus_silent_until_slot",
            "A checkpoint at this slot ends the silence of this node; 0 when it is not silent",
            order.silent_until.get(),
        )?;
        let durability = telemetry.durability.get();
        let durability = durability.map(|durability| (durability.name().to_owned(), 1));
        page.gauges(
            "durability",
            "1 for which votes wait for the disk: sync all, lease those beyond a lease, none",
            "durability",
            durability.into_iter(),
        )?;
        page.counter(
            "consensus_view_changes",
            "View changes",
            order.view_changes.get(),
        )?;
        let wishes = order.wishes.iter().map(Counter::get);
        let reasons = WishReason::ALL.map(|reason| reason.name().to_owned());
        page.counters(
            "consensus_wishes",
            "Own wishes for another view by reason",
            "reason",
            reasons.into_iter().zip(wishes),
        )?;
        page.counter(
            "consensus_committed_transactions",
            "Transactions in decided blocks",
            order.committed_transactions.get(),
        )?;
        page.counter(
            "consensus_fast_commits",
            "Blocks decided by the fast quorum",
            order.fast_commits.get(),
        )?;
        page.counter(
            "consensus_slow_commits",
            "Blocks decided by the slow path",
            order.slow_commits.get(),
        )?;
        page.counter(
            "consensus_evidence",
            "Proofs of misbehaviour held",
            order.evidence.get(),
        )?;
        page.counter(
            "busy_replies",
            "Requests refused because something is full",
            order.busy_replies.get(),
        )?;
        page.counter(
            "net_retransmits",
            "Messages sent again for repair",
            order.retransmits.get(),
        )?;

        for (name, value) in telemetry.io.list() {
            page.counter(
                &format!("net_{name}"),
                "Counter of the network driver",
                value,
            )?;
        }
        let drops = telemetry.rejects.nonzero();
        let drops = drops.map(|(reject, count)| (reject.name().to_owned(), count));
        page.counters("net_drops", "Refused bytes by reason", "reason", drops)?;
        page.counter(
            "verify_signatures",
            "Signatures checked",
            telemetry.verify.signatures.get(),
        )?;
        page.counter(
            "verify_failures",
            "Signatures that did not hold",
            telemetry.verify.failures.get(),
        )?;

        let log = &telemetry.log;
        page.gauge(
            "wal_durable_position_bytes",
            "Everything below is on stable storage",
            log.durable_position.get(),
        )?;
        page.gauge(
            "wal_used_bytes",
            "Bytes of the log that are still needed",
            log.used_bytes.get(),
        )?;
        page.gauge(
            "wal_max_bytes",
            "Bytes the log may have",
            log.max_bytes.get(),
        )?;
        page.gauge("wal_segments", "Segment files", log.segments.get())?;
        page.gauge(
            "wal_full",
            "1 when the log takes no new transactions",
            u64::from(state == State::LogFull),
        )?;
        page.counter("wal_flushes", "Completed flushes", log.flushes.get())?;
        page.counter(
            "wal_written_bytes",
            "Bytes written to the log",
            log.written_bytes.get(),
        )?;

        page.counter(
            "scrub_passes",
            "Times that the log and the table on disk were read again",
            telemetry.scrub.passes.get(),
        )?;
        page.gauge(
            "scrub_log_damaged",
            "Damaged places that the last pass found in the log",
            telemetry.scrub.log_damaged.get(),
        )?;
        page.gauge(
            "scrub_table_damaged",
            "Damaged buckets that the last pass found in the table on disk",
            telemetry.scrub.table_damaged.get(),
        )?;
        page.states(telemetry)?;
        let execute = &telemetry.execute;
        page.counter(
            "executed_transactions",
            "Transactions executed",
            execute.executed_transactions.get(),
        )?;
        page.counter("replies", "Reply datagrams", execute.replies.get())?;
        page.counter(
            "stale_reads",
            "Stale reads answered at once",
            execute.stale_reads.get(),
        )?;
        page.counter(
            "fenced_reads",
            "Fenced reads answered",
            execute.fenced_reads.get(),
        )?;
        page.counter(
            "fenced_reads_waited",
            "Fenced reads that waited for execution",
            execute.fenced_reads_waited.get(),
        )?;
        page.counter(
            "fenced_reads_dropped",
            "Fenced reads dropped: no room, or they waited for over a second",
            execute.fenced_reads_dropped.get(),
        )?;
        page.gauge(
            "fenced_reads_waiting",
            "Fenced reads that wait for execution now",
            execute.fenced_reads_waiting.get(),
        )?;
        page.gauge("sessions", "Client sessions", execute.sessions.get())?;
        page.gauge("table_keys", "Keys held", execute.table_keys.get())?;
        page.gauge("table_bytes", "Bytes of state", execute.table_bytes.get())?;

        let depths = telemetry.queue_depth.iter();
        let depths = depths.map(|(stage, depth)| (stage.name().to_owned(), depth.get()));
        page.gauges(
            "stage_queue_depth",
            "Items waiting in front of a stage",
            "stage",
            depths,
        )?;
        let counts = telemetry.hot_allocations.iter();
        let counts = counts.map(|(stage, count)| (stage.name().to_owned(), count.get()));
        page.counters(
            "hot_allocations",
            "Heap allocations of a hot stage after start",
            "stage",
            counts,
        )?;

        page.peers(telemetry, now)?;
        for (name, histogram) in telemetry.histograms.list() {
            page.histogram(name, &histogram.snapshot())?;
        }
        let own = std::process::id();
        page.seconds(
            "process_cpu",
            "Processor time of all threads",
            process::cpu_seconds(own).unwrap_or(0.0),
        )?;
        page.gauge(
            "process_resident_bytes",
            "Resident memory",
            process::rss_bytes(own).unwrap_or(0),
        )?;
        let uptime = now.since_ns(telemetry.started) as f64 / 1e9;
        page.plain_gauge("process_uptime_seconds", "Seconds since the start", uptime)
    }
}

struct Page<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        let encoder = self
            .encoder
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }

    fn plain_gauge(&mut self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        let encoder = self
            .encoder
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        let encoder = self
            .encoder
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(encoder)
    }

    /// A counter of seconds; `_seconds` is appended.
    fn seconds(&mut self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        let unit = prometheus_client::registry::Unit::Seconds;
        let encoder =
            self.encoder
                .encode_descriptor(name, help, Some(&unit), MetricType::Counter)?;
        ConstCounter::new(value).encode(encoder)
    }

    fn plain_gauges(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl Iterator<Item = (String, f64)>,
    ) -> Result<(), Error> {
        let mut encoder = self
            .encoder
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (item, value) in values {
            let labels = [(label, item)];
            ConstGauge::new(value).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl Iterator<Item = (String, u64)>,
    ) -> Result<(), Error> {
        let mut encoder = self
            .encoder
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (item, value) in values {
            let labels = [(label, item)];
            ConstCounter::new(value).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl Iterator<Item = (String, u64)>,
    ) -> Result<(), Error> {
        let mut encoder = self
            .encoder
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (item, value) in values {
            let labels = [(label, item)];
            ConstGauge::new(value).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// Nanoseconds become seconds; one bucket to the octave, the same ones at every scrape.
    fn histogram(&mut self, name: &str, snapshot: &HistogramSnapshot) -> Result<(), Error> {
        let (name, scale, first) = match name.strip_suffix("_ns") {
            Some(stem) => (format!("{stem}_seconds"), 1e-9, 10),
            None => (name.to_owned(), 1.0, 0),
        };
        let octaves = first..first + 24;
        let mut buckets: Vec<(f64, u64)> = octaves
            .clone()
            .map(|octave| ((1u64 << octave) as f64 * scale, 0))
            .collect();
        buckets.push((f64::INFINITY, 0));
        for (_, upper, count) in &snapshot.buckets {
            let place = octaves
                .clone()
                .position(|octave| *upper <= 1 << octave)
                .unwrap_or(octaves.len());
            buckets[place].1 += count;
        }
        let mut encoder = self.encoder.encode_descriptor(
            &name,
            "Distribution since the start",
            None,
            MetricType::Histogram,
        )?;
        let sum = snapshot.sum as f64 * scale;
        encoder.encode_histogram::<NoLabelSet>(sum, snapshot.count(), &buckets, None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wire::ids::{Instant, NodeId};
    use wire::messages::Durability;
    use wire::reject::Reject;

    use super::*;
    use crate::telemetry::{PeerState, Phase, Telemetry};

    #[test]
    fn the_page_names_and_counts() {
        let telemetry = Arc::new(Telemetry::new(NodeId(1), 4, Instant(0)));
        telemetry.phase.set(Phase::Serving);
        telemetry.order.committed_transactions.add(42);
        telemetry.rejects.count(Reject::BadMac);
        telemetry.histograms.wal_flush_ns.record(1500);
        telemetry.histograms.wal_flush_ns.record(u64::MAX / 4);
        telemetry.peers[2].last_heard_ns.set(500_000_000);
        let seen = &telemetry.whereabouts[2];
        seen.state.set(PeerState::Suspect);
        seen.round_trip_ns.set(500_000);
        seen.loss_known.set(true);
        seen.loss_ppm.set(250_000);
        telemetry.discovery.signature_checks.add(3);
        telemetry.order.checkpoint_slot.set(2048);
        telemetry.order.lease.set(4096);
        telemetry.peers[3].silent_until.set(4096);
        telemetry.durability.set(Durability::Lease).unwrap();
        telemetry.snapshots.written.add(2);
        telemetry.transfers.taken_bytes.add(77);
        let source = Source {
            telemetry,
            members: vec!["127.0.0.1:1".parse().unwrap(); 4],
            quorum: 3,
            faults: 1,
            committee: crate::inspect::tests::shared_committee(),
            now: || Instant(1_000_000_000),
        };
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry(source)).unwrap();
        for line in [
            "hippo_consensus_committed_transactions_total 42",
            "hippo_net_drops_total{reason=\"bad_mac\"} 1",
            "hippo_wal_flush_seconds_count 2",
            "hippo_wal_flush_seconds_bucket{le=\"0.000002048\"} 1",
            "hippo_wal_flush_seconds_bucket{le=\"+Inf\"} 2",
            "hippo_stage_queue_depth{stage=\"order\"} 0",
            "hippo_peer_up{peer=\"1\"} 1",
            "hippo_peer_state{peer=\"2\"} 1.0",
            "hippo_peer_round_trip_seconds{peer=\"2\"} 0.0005",
            "hippo_peer_loss_ratio{peer=\"2\"} 0.25",
            "hippo_peer_last_word_age_seconds{peer=\"2\"} 0.5",
            "hippo_discovery_signature_checks_total 3",
            "hippo_checkpoint_slot 2048",
            "hippo_consensus_lease_slot 4096",
            "hippo_consensus_silent_until_slot 0",
            "hippo_peer_silent_until_slot{peer=\"3\"} 4096",
            "hippo_durability{durability=\"lease\"} 1",
            "hippo_snapshots_total 2",
            "hippo_state_transfer_bytes_total 77",
            "hippo_state_transfer_active 0",
            "hippo_process_uptime_seconds 1.0",
            "# EOF",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        }
    }
}
