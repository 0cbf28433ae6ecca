//! Latency histograms: one shape for all, merged and never averaged, and the files made of them.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer, V2Serializer};

/// Longest time a histogram tells apart from longer ones: two minutes.
const LONGEST_NS: u64 = 120_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// An empty histogram of nanoseconds. Recording into it never allocates.
pub fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_NS, SIGNIFICANT_DIGITS).expect("fixed, valid bounds")
}

/// Counts one time; longer ones than the bound count as the bound.
pub fn record(histogram: &mut Histogram<u64>, nanoseconds: u64) {
    histogram.saturating_record(nanoseconds.max(1));
}

/// Counts one time for each of `count` transactions.
pub fn record_many(histogram: &mut Histogram<u64>, nanoseconds: u64, count: u64) {
    histogram.saturating_record_n(nanoseconds.max(1), count);
}

/// All that one thread measured in one interval.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Intended send to the b+1-th equal reply, of transactions meant for the measured window.
    pub latency: Histogram<u64>,
    /// Actual send to the b+1-th equal reply, of the same.
    pub service_time: Histogram<u64>,
    /// How much later than scheduled a transaction's bundle was closed, of the same.
    pub lag: Histogram<u64>,
    pub counts: Counts,
}

/// What was counted besides times.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Arrivals whose intended time lies in the interval, dropped ones included.
    pub offered: u64,
    /// Transactions answered in the interval, by the clock.
    pub answered: u64,
    /// Answered transactions that were meant for the measured window.
    pub answered_measured: u64,
    pub dropped: u64,
    pub timeouts: u64,
    pub rejected: u64,
    pub wrong_replies: u64,
    pub retransmissions: u64,
    pub busy: u64,
    /// Bundles that closed, and the transactions in them.
    pub bundles: u64,
    pub bundled: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.offered += other.offered;
        self.answered += other.answered;
        self.answered_measured += other.answered_measured;
        self.dropped += other.dropped;
        self.timeouts += other.timeouts;
        self.rejected += other.rejected;
        self.wrong_replies += other.wrong_replies;
        self.retransmissions += other.retransmissions;
        self.busy += other.busy;
        self.bundles += other.bundles;
        self.bundled += other.bundled;
    }
}

impl Interval {
    pub fn new() -> Interval {
        Interval {
            latency: empty(),
            service_time: empty(),
            lag: empty(),
            counts: Counts::default(),
        }
    }

    pub fn clear(&mut self) {
        self.latency.reset();
        self.service_time.reset();
        self.lag.reset();
        self.counts = Counts::default();
    }

    pub fn add(&mut self, other: &Interval) {
        for (mine, theirs) in [
            (&mut self.latency, &other.latency),
            (&mut self.service_time, &other.service_time),
            (&mut self.lag, &other.lag),
        ] {
            mine.add(theirs).expect("all histograms have one shape");
        }
        self.counts.add(&other.counts);
    }
}

/// The percentile in nanoseconds, 0 without samples; 100 is the maximum.
pub fn percentile(histogram: &Histogram<u64>, percentile: f64) -> u64 {
    if histogram.is_empty() {
        0
    } else {
        histogram.value_at_percentile(percentile)
    }
}

/// One point of a percentile distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub value_ns: u64,
    /// In 0..=1.
    pub quantile: f64,
    pub total: u64,
}

/// The distribution at ever finer steps towards 1: `ticks` a halving of the distance.
pub fn distribution(histogram: &Histogram<u64>, ticks: u32) -> Vec<Point> {
    histogram
        .iter_quantiles(ticks)
        .scan(0, |total, step| {
            *total += step.count_since_last_iteration();
            Some(Point {
                value_ns: step.value_iterated_to(),
                quantile: step.quantile_iterated_to(),
                total: *total,
            })
        })
        .collect()
}

/// Writes the percentile text that the HdrHistogram plotter reads, values in milliseconds.
pub fn write_hgrm(histogram: &Histogram<u64>, out: &mut dyn Write) -> io::Result<()> {
    const NS_PER_MS: f64 = 1e6;
    writeln!(
        out,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    )?;
    for point in distribution(histogram, 5) {
        let value = point.value_ns as f64 / NS_PER_MS;
        if point.quantile < 1.0 {
            writeln!(
                out,
                "{value:12.6} {:14.12} {:10} {:14.2}",
                point.quantile,
                point.total,
                1.0 / (1.0 - point.quantile)
            )?;
        } else {
            writeln!(
                out,
                "{value:12.6} {:14.12} {:10}",
                point.quantile, point.total
            )?;
        }
    }
    writeln!(
        out,
        "#[Mean    = {:12.6}, StdDeviation   = {:12.6}]",
        histogram.mean() / NS_PER_MS,
        histogram.stdev() / NS_PER_MS
    )?;
    writeln!(
        out,
        "#[Max     = {:12.6}, Total count    = {:12}]",
        histogram.max() as f64 / NS_PER_MS,
        histogram.len()
    )?;
    writeln!(
        out,
        "#[Buckets = {:12}, SubBuckets     = {:12}]",
        histogram.buckets(),
        2048
    )
}

/// One interval of an interval log, already encoded: a long run keeps lines, not histograms.
#[derive(Clone, Debug)]
pub struct LogLine(String);

impl LogLine {
    /// The interval from `start` on, counted from the start of the load.
    pub fn new(start: Duration, length: Duration, histogram: &Histogram<u64>) -> LogLine {
        let mut serializer = V2DeflateSerializer::new();
        let mut bytes = Vec::new();
        IntervalLogWriterBuilder::new()
            .with_max_value_divisor(1e6)
            .begin_log_with(&mut bytes, &mut serializer)
            .and_then(|mut log| {
                log.write_histogram(histogram, start, length, None)
                    .map_err(|error| io::Error::other(format!("{error:?}")))
            })
            .expect("a vector takes any histogram");
        let text = String::from_utf8_lossy(&bytes);
        LogLine(text.lines().last().unwrap_or_default().to_string())
    }
}

/// Writes an interval log of V2 deflate histograms. Maxima are in milliseconds.
pub fn write_hlog(started: SystemTime, lines: &[LogLine], out: &mut dyn Write) -> io::Result<()> {
    let since = started
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = since.as_secs_f64();
    writeln!(out, "#[Logged by hippo-load; values in nanoseconds]")?;
    writeln!(out, "#[Histogram log format version 1.3]")?;
    writeln!(out, "#[StartTime: {seconds:.3} (seconds since epoch)]")?;
    writeln!(out, "#[BaseTime: {seconds:.3} (seconds since epoch)]")?;
    writeln!(
        out,
        "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\""
    )?;
    for LogLine(line) in lines {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// The histogram in the V2 encoding, as base64.
pub fn base64_v2(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    V2Serializer::new()
        .serialize(histogram, &mut bytes)
        .expect("a vector takes any histogram");
    base64(&bytes)
}

/// RFC 4648 base64 with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for digit in 0..4 {
            if digit <= chunk.len() {
                let index = (bits >> (18 - 6 * digit)) & 63;
                out.push(char::from(ALPHABET[index as usize]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    fn thousand() -> Histogram<u64> {
        let mut histogram = empty();
        for millisecond in 1..=1000u64 {
            record(&mut histogram, millisecond * 1_000_000);
        }
        histogram
    }

    #[test]
    fn percentile_text_ends_at_the_maximum() {
        let mut text = Vec::new();
        write_hgrm(&thousand(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(1)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| {
                line.split_whitespace()
                    .map(|n| n.parse().unwrap())
                    .collect()
            })
            .collect();
        assert!(text.starts_with("       Value     Percentile TotalCount 1/(1-Percentile)\n\n"));
        assert!(
            rows.windows(2)
                .all(|pair| pair[0][0] <= pair[1][0] && pair[0][2] <= pair[1][2])
        );
        let median = rows.iter().find(|row| row[1] >= 0.5).unwrap();
        assert!((median[0] - 500.0).abs() < 1.0);
        let last = rows.last().unwrap();
        assert_eq!((last[1], last[2], last.len()), (1.0, 1000.0, 3));
        assert!(text.contains("#[Max     ="));
    }

    #[test]
    fn the_interval_log_can_be_read_back() {
        let histogram = thousand();
        let second = Duration::from_secs(1);
        let lines = [
            LogLine::new(Duration::ZERO, second, &histogram),
            LogLine::new(second, second, &histogram),
        ];
        let mut bytes = Vec::new();
        write_hlog(SystemTime::UNIX_EPOCH, &lines, &mut bytes).unwrap();
        let intervals: Vec<_> = IntervalLogIterator::new(&bytes)
            .filter_map(|entry| match entry.unwrap() {
                LogEntry::Interval(interval) => Some(interval),
                _ => None,
            })
            .collect();
        assert_eq!(intervals.len(), 2);
        assert_eq!(intervals[1].start_timestamp(), second);
        assert_eq!(intervals[1].duration(), second);
        assert!((intervals[1].max() - 1000.0).abs() < 1.0);
        assert!(bytes.len() < 20_000);
    }

    #[test]
    fn base64_is_the_standard_one() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        let mut bytes = Vec::new();
        V2Serializer::new()
            .serialize(&thousand(), &mut bytes)
            .unwrap();
        let back: Histogram<u64> = Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .unwrap();
        assert_eq!(back, thousand());
    }

    #[test]
    fn intervals_merge() {
        let mut total = Interval::new();
        let mut part = Interval::new();
        record(&mut part.latency, 5);
        part.counts.answered = 3;
        total.add(&part);
        total.add(&part);
        assert_eq!((total.latency.len(), total.counts.answered), (2, 6));
        part.clear();
        assert!(part.latency.is_empty());
    }
}
