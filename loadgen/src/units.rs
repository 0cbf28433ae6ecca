//! Quantities as people write them: rates, durations, ratios, key distributions, objectives.

use std::fmt;
use std::str::FromStr;

/// What was expected where, and what came instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitError(String);

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UnitError {}

fn error<T>(text: &str, expected: &str) -> Result<T, UnitError> {
    Err(UnitError(format!("`{text}`: expected {expected}")))
}

/// The leading number of `text` and what follows it.
fn split_number(text: &str) -> Option<(f64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    number.is_finite().then_some((number, text[end..].trim()))
}

/// Transactions per second: `100000`, `100k`, `0.5M`, with or without `/s`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate(pub f64);

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Rate, UnitError> {
        const EXPECTED: &str = "transactions per second such as 1000, 100k or 0.5M";
        let Some((number, unit)) = split_number(text) else {
            return error(text, EXPECTED);
        };
        let scale = match unit.strip_suffix("/s").unwrap_or(unit) {
            "" => 1.0,
            "k" | "K" => 1e3,
            "m" | "M" => 1e6,
            _ => return error(text, EXPECTED),
        };
        let rate = number * scale;
        if rate > 0.0 && rate <= 1e9 {
            Ok(Rate(rate))
        } else {
            error(text, "a rate above 0 and at most 1000M")
        }
    }
}

/// A time span in nanoseconds: `250us`, `60s`, `2m`; a bare number is seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub u64);

impl Span {
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Span, UnitError> {
        const EXPECTED: &str =
            "a duration such as 250us, 10ms, 60s or 2m (a bare number is seconds)";
        let Some((number, unit)) = split_number(text) else {
            return error(text, EXPECTED);
        };
        let scale = match unit {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "" | "s" => 1e9,
            "m" | "min" => 60e9,
            "h" => 3600e9,
            _ => return error(text, EXPECTED),
        };
        let nanoseconds = number * scale;
        if nanoseconds > 1e18 {
            return error(text, "a duration below 30 years");
        }
        Ok(Span(nanoseconds.round() as u64))
    }
}

/// A span with the unit that reads best: `810 us`, `2.90 ms`, `1.50 s`.
pub fn human_ns(nanoseconds: f64) -> String {
    if nanoseconds < 1e3 {
        format!("{nanoseconds:.0} ns")
    } else if nanoseconds < 1e5 {
        format!("{:.0} us", nanoseconds / 1e3)
    } else if nanoseconds < 1e9 {
        format!("{:.2} ms", nanoseconds / 1e6)
    } else {
        format!("{:.2} s", nanoseconds / 1e9)
    }
}

/// A whole number with commas: `100,003`.
pub fn with_commas(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// How arrivals are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    Constant,
    Poisson,
}

impl FromStr for Arrival {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Arrival, UnitError> {
        match text {
            "constant" => Ok(Arrival::Constant),
            "poisson" => Ok(Arrival::Poisson),
            _ => error(text, "constant or poisson"),
        }
    }
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Arrival::Constant => "constant",
            Arrival::Poisson => "poisson",
        })
    }
}

/// Which keys are drawn how often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KeyDistribution {
    Uniform,
    /// The key of rank r is drawn in proportion to 1 / r^exponent.
    Zipf(f64),
}

impl FromStr for KeyDistribution {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<KeyDistribution, UnitError> {
        const EXPECTED: &str = "uniform, or zipf:EXPONENT with an exponent above 0 and at most 5";
        match text.split_once(':') {
            None if text == "uniform" => Ok(KeyDistribution::Uniform),
            None if text == "zipf" => Ok(KeyDistribution::Zipf(0.99)),
            Some(("zipf", exponent)) => match exponent.parse::<f64>() {
                Ok(exponent) if exponent > 0.0 && exponent <= 5.0 => {
                    Ok(KeyDistribution::Zipf(exponent))
                }
                _ => error(text, EXPECTED),
            },
            _ => error(text, EXPECTED),
        }
    }
}

impl fmt::Display for KeyDistribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyDistribution::Uniform => f.write_str("uniform"),
            KeyDistribution::Zipf(exponent) => write!(f, "zipf:{exponent}"),
        }
    }
}

/// Parts of puts and gets: `1:0` only puts, `1:3` three gets for each put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    pub puts: u32,
    pub gets: u32,
}

impl FromStr for Ratio {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Ratio, UnitError> {
        const EXPECTED: &str = "PUTS:GETS such as 1:0 or 1:3, not both 0";
        let parts = text
            .split_once(':')
            .and_then(|(puts, gets)| Some((puts.parse().ok()?, gets.parse().ok()?)));
        match parts {
            Some((puts, gets)) if puts <= 1_000_000 && gets <= 1_000_000 && puts + gets > 0 => {
                Ok(Ratio { puts, gets })
            }
            _ => error(text, EXPECTED),
        }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.puts, self.gets)
    }
}

/// A service-level objective on one percentile: `p99<1ms`, `max<20ms`.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    /// In 0..=100; 100 is the maximum.
    pub percentile: f64,
    pub below_ns: u64,
    text: String,
}

impl FromStr for Objective {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Objective, UnitError> {
        const EXPECTED: &str = "an objective such as 'p99<1ms', 'p99.9<5ms' or 'max<20ms'";
        let Some((what, bound)) = text.split_once('<') else {
            return error(text, EXPECTED);
        };
        let percentile = match what.trim() {
            "max" => 100.0,
            "p999" => 99.9,
            "p9999" => 99.99,
            what => match what.strip_prefix('p').and_then(|p| p.parse::<f64>().ok()) {
                Some(percentile) if percentile > 0.0 && percentile <= 100.0 => percentile,
                _ => return error(text, EXPECTED),
            },
        };
        let below_ns = bound.trim_start_matches('=').trim().parse::<Span>()?.0;
        Ok(Objective {
            percentile,
            below_ns,
            text: text.to_string(),
        })
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// How long an open bundle waits for more transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linger {
    /// As long as a bundle takes to fill at the run's rate, at most a millisecond; 50 us at rates
    /// at which bundling saves nothing.
    Auto,
    Fixed(Span),
}

impl FromStr for Linger {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Linger, UnitError> {
        if text == "auto" {
            Ok(Linger::Auto)
        } else {
            text.parse().map(Linger::Fixed)
        }
    }
}

impl Linger {
    /// The time in nanoseconds for one thread that sends `rate` transactions a second.
    pub fn resolve_ns(self, rate: f64, bundle_max: usize) -> u64 {
        /// Below this rate a request for each transaction is no burden, and waiting finds nobody.
        const FEW: f64 = 2_000.0;
        const LONG_NS: f64 = 500_000.0;
        match self {
            Linger::Fixed(span) => span.0,
            Linger::Auto if bundle_max <= 1 => 0,
            Linger::Auto if rate <= FEW => 0,
            Linger::Auto => {
                let fill_ns = bundle_max as f64 / rate * 1e9;
                fill_ns.min(LONG_NS) as u64
            }
        }
    }
}

/// A list of processor numbers: `0`, `0,2`, `0-3`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreList(pub Vec<usize>);

impl FromStr for CoreList {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<CoreList, UnitError> {
        const EXPECTED: &str = "processor numbers such as 0 or 0,2 or 0-3";
        let mut cores = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
                (Ok(first), Ok(last)) if first <= last && last < 4096 => cores.extend(first..=last),
                _ => return error(text, EXPECTED),
            }
        }
        Ok(CoreList(cores))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        assert_eq!("100k".parse(), Ok(Rate(100_000.0)));
        assert_eq!("0.5M/s".parse(), Ok(Rate(500_000.0)));
        assert_eq!("250".parse(), Ok(Rate(250.0)));
        for bad in ["", "k", "-5", "0", "10x", "1e9", "2000M", "NaN"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn spans() {
        assert_eq!("250us".parse(), Ok(Span(250_000)));
        assert_eq!("60".parse(), Ok(Span(60_000_000_000)));
        assert_eq!("1.5ms".parse(), Ok(Span(1_500_000)));
        assert_eq!("2m".parse(), Ok(Span(120_000_000_000)));
        assert!("5 parsecs".parse::<Span>().is_err());
        assert_eq!(human_ns(12_000.0), "12 us");
        assert_eq!(human_ns(810_000.0), "0.81 ms");
        assert_eq!(with_commas(1_234_567.4), "1,234,567");
        assert_eq!(with_commas(999.0), "999");
    }

    #[test]
    fn objectives_and_ratios() {
        let slo: Objective = "p99<1ms".parse().unwrap();
        assert_eq!((slo.percentile, slo.below_ns), (99.0, 1_000_000));
        assert_eq!("p999<2ms".parse::<Objective>().unwrap().percentile, 99.9);
        assert_eq!("max<1s".parse::<Objective>().unwrap().percentile, 100.0);
        assert!("p99>1ms".parse::<Objective>().is_err());
        assert_eq!("1:3".parse(), Ok(Ratio { puts: 1, gets: 3 }));
        assert!("0:0".parse::<Ratio>().is_err());
        assert_eq!("zipf:0.99".parse(), Ok(KeyDistribution::Zipf(0.99)));
        assert!("zipf:0".parse::<KeyDistribution>().is_err());
        assert_eq!("0,2-3".parse(), Ok(CoreList(vec![0, 2, 3])));
        assert!("3-2".parse::<CoreList>().is_err());
    }

    #[test]
    fn linger_follows_the_rate() {
        assert_eq!(Linger::Auto.resolve_ns(100_000.0, 64), 500_000);
        assert_eq!(Linger::Auto.resolve_ns(200_000.0, 64), 320_000);
        assert_eq!(Linger::Auto.resolve_ns(1_000.0, 64), 0);
        assert_eq!(Linger::Auto.resolve_ns(1_000.0, 1), 0);
        assert_eq!(Linger::Fixed(Span(5)).resolve_ns(1e6, 64), 5);
    }
}
