//! One setting's value: its kind, how people write it, and how it is shown.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// What a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file or directory; a relative one counts from the directory of the file that names it,
    /// from the working directory in a flag or the environment.
    Path,
    /// IP address and port.
    Address,
    /// The same, or the word `auto`.
    AddressOrAuto,
    /// IP address, or the word `auto`.
    IpOrAuto,
    /// One of these words.
    Choice(&'static [&'static str]),
    Switch,
    /// A number in `min..=max`.
    Number {
        min: u64,
        max: u64,
    },
    /// The same, or the word `auto`.
    NumberOrAuto {
        min: u64,
        max: u64,
    },
    /// Bytes in `min..=max`: `4096`, `64KiB`, `64MiB`, `1GiB`.
    Size {
        min: u64,
        max: u64,
    },
    /// The same, or the word `auto`.
    SizeOrAuto {
        min: u64,
        max: u64,
    },
    /// Nanoseconds in `0..=max`: `100us`, `1ms`; a bare number is seconds.
    Duration {
        max_ns: u64,
    },
    /// Processor numbers: `[]`, `[0, 1]`, and in flags and the environment `0,1` or `0-3`.
    Cores,
}

/// A parsed value. `Auto` leaves the choice to the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Address(SocketAddr),
    Ip(IpAddr),
    Switch(bool),
    Number(u64),
    Bytes(u64),
    Nanoseconds(u64),
    Cores(Vec<usize>),
    Auto,
}

impl Kind {
    /// Reads a value; the error says what was expected.
    pub fn parse(self, text: &str) -> Result<Value, String> {
        let text = text.trim();
        match self {
            Kind::Path if text.is_empty() => Err("expected a path".to_owned()),
            Kind::Path => Ok(Value::Text(text.to_owned())),
            Kind::AddressOrAuto | Kind::IpOrAuto if text == "auto" => Ok(Value::Auto),
            Kind::IpOrAuto => text
                .parse()
                .map(Value::Ip)
                .map_err(|_| format!("expected an IP address such as 10.0.0.1, got `{text}`")),
            Kind::Address | Kind::AddressOrAuto => text.parse().map(Value::Address).map_err(|_| {
                format!("expected an IP address and a port such as 127.0.0.1:7100, got `{text}`")
            }),
            Kind::Choice(words) if words.contains(&text) => Ok(Value::Text(text.to_owned())),
            Kind::Choice(words) => Err(format!(
                "expected one of {}, got `{text}`",
                words.join(", ")
            )),
            Kind::Switch => match text {
                "true" | "yes" | "on" | "1" => Ok(Value::Switch(true)),
                "false" | "no" | "off" | "0" => Ok(Value::Switch(false)),
                _ => Err(format!("expected true or false, got `{text}`")),
            },
            Kind::NumberOrAuto { .. } | Kind::SizeOrAuto { .. } if text == "auto" => {
                Ok(Value::Auto)
            }
            Kind::Number { min, max } | Kind::NumberOrAuto { min, max } => {
                let number = text
                    .parse()
                    .map_err(|_| format!("expected a whole number, got `{text}`"))?;
                within(number, min, max, |number| number.to_string())?;
                Ok(Value::Number(number))
            }
            Kind::Size { min, max } | Kind::SizeOrAuto { min, max } => {
                let bytes = parse_bytes(text)?;
                within(bytes, min, max, show_bytes)?;
                Ok(Value::Bytes(bytes))
            }
            Kind::Duration { max_ns } => {
                let nanoseconds = parse_duration_ns(text)?;
                within(nanoseconds, 0, max_ns, show_ns)?;
                Ok(Value::Nanoseconds(nanoseconds))
            }
            Kind::Cores => parse_cores(text).map(Value::Cores),
        }
    }
}

fn within(number: u64, min: u64, max: u64, show: impl Fn(u64) -> String) -> Result<(), String> {
    if (min..=max).contains(&number) {
        Ok(())
    } else {
        Err(format!(
            "{} is not in {}..{}",
            show(number),
            show(min),
            show(max)
        ))
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => f.write_str(text),
            Value::Address(address) => address.fmt(f),
            Value::Ip(address) => address.fmt(f),
            Value::Switch(on) => on.fmt(f),
            Value::Number(number) => number.fmt(f),
            Value::Bytes(bytes) => f.write_str(&show_bytes(*bytes)),
            Value::Nanoseconds(nanoseconds) => f.write_str(&show_ns(*nanoseconds)),
            Value::Cores(cores) => {
                let cores: Vec<String> = cores.iter().map(usize::to_string).collect();
                write!(f, "[{}]", cores.join(", "))
            }
            Value::Auto => f.write_str("auto"),
        }
    }
}

impl Value {
    /// As it stands in a configuration file.
    pub fn to_toml(&self) -> String {
        match self {
            Value::Switch(_) | Value::Number(_) | Value::Cores(_) => self.to_string(),
            Value::Bytes(bytes) if show_bytes(*bytes) == bytes.to_string() => bytes.to_string(),
            _ => toml::Value::String(self.to_string()).to_string(),
        }
    }
}

/// Splits `12.5ms` into its number and its unit.
fn split_unit(text: &str) -> Option<(f64, &str)> {
    let end = text
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    Some((number, text[end..].trim()))
}

/// Bytes: `4096`, `64KiB`, `64MiB`, `1GiB`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let expected = || format!("expected a size such as 4096, 64KiB, 64MiB or 1GiB, got `{text}`");
    let (number, unit) = split_unit(text).ok_or_else(expected)?;
    let unit_bytes = match unit {
        "" | "B" => 1u64,
        "KiB" | "K" | "k" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "TiB" | "T" => 1 << 40,
        _ => return Err(expected()),
    };
    whole(number * unit_bytes as f64).ok_or_else(expected)
}

/// Nanoseconds: `100us`, `1.5ms`, `2s`, `1m`; a bare number is seconds.
pub fn parse_duration_ns(text: &str) -> Result<u64, String> {
    let expected = || {
        format!(
            "expected a duration such as 100us, 10ms or 5s (a bare number is seconds), got `{text}`"
        )
    };
    let (number, unit) = split_unit(text).ok_or_else(expected)?;
    let unit_ns = match unit {
        "ns" => 1.0,
        "us" | "µs" => 1e3,
        "ms" => 1e6,
        "s" | "" => 1e9,
        "m" | "min" => 60e9,
        "h" => 3600e9,
        _ => return Err(expected()),
    };
    whole(number * unit_ns).ok_or_else(expected)
}

fn whole(number: f64) -> Option<u64> {
    (number.is_finite() && (0.0..9e18).contains(&number)).then_some(number.round() as u64)
}

/// Processor numbers: empty, `0,2`, `0-3`, with or without brackets.
pub fn parse_cores(text: &str) -> Result<Vec<usize>, String> {
    const CORE_MAX: usize = 4095;
    let expected = || format!("expected processor numbers such as 0,1 or 0-3, got `{text}`");
    let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
    let mut cores = Vec::new();
    for part in inner.split(',').map(str::trim) {
        if part.is_empty() {
            continue;
        }
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| expected())?;
        let last: usize = last.trim().parse().map_err(|_| expected())?;
        if first > last || last > CORE_MAX {
            return Err(expected());
        }
        cores.extend(first..=last);
    }
    Ok(cores)
}

/// Bytes in the largest unit that divides them.
pub fn show_bytes(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// Nanoseconds in the largest unit that divides them.
pub fn show_ns(nanoseconds: u64) -> String {
    for (unit, unit_ns) in [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)] {
        if nanoseconds.is_multiple_of(unit_ns) {
            return format!("{}{unit}", nanoseconds / unit_ns);
        }
    }
    format!("{nanoseconds}ns")
}

/// The candidate that `text` was probably meant to be.
pub fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = 1 + text.len() / 3;
    candidates
        .into_iter()
        .map(|candidate| (distance(text, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Edit distance: insertions, deletions and replacements of characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_trip() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("4096", 4096),
            ("4KiB", 4096),
            ("1.5GiB", 3 << 29),
            ("0", 0),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
            assert_eq!(parse_bytes(&show_bytes(bytes)), Ok(bytes));
        }
        for text in ["", "MiB", "64MB", "-1", "1e3", "9999999999TiB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_round_trip() {
        for (text, nanoseconds) in [
            ("100us", 100_000),
            ("1.5ms", 1_500_000),
            ("2", 2_000_000_000),
            ("2s", 2_000_000_000),
            ("7ns", 7),
        ] {
            assert_eq!(parse_duration_ns(text), Ok(nanoseconds), "{text}");
            assert_eq!(parse_duration_ns(&show_ns(nanoseconds)), Ok(nanoseconds));
        }
        assert!(parse_duration_ns("10 parsecs").is_err());
    }

    #[test]
    fn cores_and_near_matches() {
        assert_eq!(parse_cores("0,2-4"), Ok(vec![0, 2, 3, 4]));
        assert_eq!(parse_cores("[0, 1]"), Ok(vec![0, 1]));
        assert_eq!(parse_cores("[]"), Ok(vec![]));
        assert!(parse_cores("3-1").is_err() && parse_cores("x").is_err());
        assert_eq!(nearest("segmnt", ["segment", "data"]), Some("segment"));
        assert_eq!(nearest("colour", ["segment", "data"]), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn bounds_and_words_are_named() {
        let number = Kind::Number { min: 2, max: 9 };
        assert_eq!(number.parse("10"), Err("10 is not in 2..9".to_owned()));
        let choice = Kind::Choice(&["a", "b"]).parse("c").unwrap_err();
        assert!(choice.contains("a, b") && choice.contains("`c`"));
        assert_eq!(
            Kind::SizeOrAuto { min: 1, max: 2 }.parse("auto"),
            Ok(Value::Auto)
        );
    }
}
