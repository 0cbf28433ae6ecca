//! `hippo put | get | delete | cas | txn | scan`: one operation on the cluster, and its outcome.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use client::blocking::{CasOutcome, ConnectOptions, Connection, Error, ReadMode};
use serde_json::{Map, Value, json};
use wire::ids::NodeId;
use wire::limits::{SCAN_ENTRIES_MAX, VALUE_BYTES_MAX};

use super::network::NetworkArgs;
use super::output::{Format, Rows, hex, print, show_bytes};
use crate::config::value::parse_duration_ns;
use crate::exit::{Exit, ExitContext, Outcome, Refusal};
use crate::keyfile;

/// Who asks, and how long it waits.
#[derive(Debug, Args)]
pub struct Caller {
    #[command(flatten)]
    network: NetworkArgs,
    /// Client key; a client is its key [default: DIR/client.key]
    #[arg(long = "key", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// How long to wait; after it the outcome of a write is unknown and the exit code is 3
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration_ns)]
    timeout: u64,
    /// Form of the output
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Freshness {
    /// Through the order, as a write: linearizable; costs a place in a block and a flush of the log
    Ordered,
    /// From the states of n-q+b+1 nodes that agree (3 of 4): linearizable too, one round trip, no
    /// place in the log; ordered instead when they do not agree in time, as under writes to the same
    /// keys
    Fenced,
    /// From the state of one node, which --node names: fastest, possibly old, and believed on that
    /// node's word alone; goes on without a quorum
    Stale,
}

#[derive(Debug, Args)]
pub struct Reading {
    /// How fresh the read must be
    #[arg(long = "read", value_enum, default_value = "ordered")]
    mode: Freshness,
    /// Node that answers a stale read [default: 0]
    #[arg(long, value_name = "N")]
    node: Option<u16>,
}

#[derive(Debug, Args)]
pub struct PutArgs {
    #[arg(value_name = "KEY")]
    key: String,
    /// The value; `-` reads it from standard input
    #[arg(value_name = "VALUE", allow_hyphen_values = true)]
    value: String,
    #[command(flatten)]
    caller: Caller,
}

#[derive(Debug, Args)]
pub struct GetArgs {
    #[arg(value_name = "KEY")]
    key: String,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    caller: Caller,
}

#[derive(Debug, Args)]
pub struct DeleteArgs {
    #[arg(value_name = "KEY")]
    key: String,
    #[command(flatten)]
    caller: Caller,
}

#[derive(Debug, Args)]
pub struct CasArgs {
    #[arg(value_name = "KEY")]
    key: String,
    /// The new value; `-` reads it from standard input
    #[arg(value_name = "VALUE", allow_hyphen_values = true)]
    value: String,
    /// Write only if the key now holds this
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    expect: Option<String>,
    /// Write only if the key is absent
    #[arg(long, conflicts_with = "expect", required_unless_present = "expect")]
    absent: bool,
    #[command(flatten)]
    caller: Caller,
}

#[derive(Debug, Args)]
pub struct ScanArgs {
    /// First key
    #[arg(value_name = "FROM", default_value = "")]
    from: String,
    /// End, not included [default: no end]
    #[arg(value_name = "TO", conflicts_with = "prefix")]
    to: Option<String>,
    /// Only keys that begin with this
    #[arg(long, value_name = "TEXT", conflicts_with = "from")]
    prefix: Option<String>,
    /// Entries at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=SCAN_ENTRIES_MAX as i64))]
    limit: u32,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    caller: Caller,
}

impl Reading {
    fn mode(&self) -> Result<ReadMode, Refusal> {
        match self.mode {
            Freshness::Stale => Ok(ReadMode::Stale(NodeId(self.node.unwrap_or(0)))),
            Freshness::Ordered | Freshness::Fenced if self.node.is_some() => Err(Refusal::usage(
                "--node goes with --read stale: other reads are answered by several nodes",
            )),
            Freshness::Ordered => Ok(ReadMode::Ordered),
            Freshness::Fenced => Ok(ReadMode::Fenced),
        }
    }
}

impl Caller {
    pub(super) fn connect(&self) -> Result<Connection, Refusal> {
        let committee = self.network.committee()?;
        let path = self
            .key_file
            .clone()
            .unwrap_or_else(|| self.network.network.join("client.key"));
        let secret = keyfile::load_client(&path)?;
        let timeout = Duration::from_nanos(self.timeout);
        let options = ConnectOptions {
            connect_timeout: timeout,
            timeout,
            ..ConnectOptions::default()
        };
        Connection::connect(Arc::new(committee), &secret, options).map_err(refusal)
    }

    /// One result as an object; `plain` is what people see.
    pub(super) fn print(&self, fields: Map<String, Value>, plain: &[u8]) {
        match self.output {
            Format::Table => print(plain),
            Format::Json => {
                let text = serde_json::to_string_pretty(&fields).unwrap_or_default();
                print(text + "\n");
            }
            Format::Ndjson => print(Value::Object(fields).to_string() + "\n"),
            Format::Csv => print(csv(&fields)),
        }
    }
}

fn csv(fields: &Map<String, Value>) -> String {
    let mut header = Vec::new();
    let mut cells = Vec::new();
    for (name, value) in fields {
        header.push(name.clone());
        let cell = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        cells.push(format!("\"{}\"", cell.replace('"', "\"\"")));
    }
    format!("{}\n{}\n", header.join(","), cells.join(","))
}

/// The exit code of a client's error.
pub(super) fn refusal(error: Error) -> Refusal {
    let exit = match &error {
        error if error.is_no_quorum_or_timeout() => Exit::NoQuorum,
        Error::Refused(_) => Exit::Usage,
        _ => Exit::Failure,
    };
    Refusal::new(exit, error)
}

pub(super) fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// Adds bytes as text, or as `<name>_hex` where they are not UTF-8.
pub(super) fn insert_bytes(fields: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => fields.insert(name.to_owned(), text.into()),
        Err(_) => fields.insert(format!("{name}_hex"), hex(bytes).into()),
    };
}

fn value_of(argument: &str) -> Result<Vec<u8>, Refusal> {
    if argument != "-" {
        return Ok(argument.as_bytes().to_vec());
    }
    let mut value = Vec::new();
    std::io::stdin()
        .take(VALUE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut value)
        .or_exit(Exit::Failure, "cannot read standard input")?;
    Ok(value)
}

fn line(bytes: &[u8]) -> Vec<u8> {
    let mut line = bytes.to_vec();
    line.push(b'\n');
    line
}

pub fn put(args: &PutArgs) -> Outcome {
    let value = value_of(&args.value)?;
    let mut connection = args.caller.connect()?;
    let answer = connection
        .put(args.key.as_bytes(), &value)
        .map_err(refusal)?;
    let object = fields(json!({ "key": args.key, "done": true, "slot": answer.slot.0 }));
    let plain = format!("done in slot {}\n", answer.slot);
    args.caller.print(object, plain.as_bytes());
    Ok(Exit::Ok)
}

pub fn get(args: &GetArgs) -> Outcome {
    let mode = args.reading.mode()?;
    let mut connection = args.caller.connect()?;
    let answer = connection.get(args.key.as_bytes(), mode).map_err(refusal)?;
    let found = answer.value.is_some();
    let mut object = fields(json!({
        "key": args.key, "found": found, "slot": answer.slot.0, "replies": answer.replies,
        "read": answer.way.name(),
    }));
    match &answer.value {
        Some(value) => {
            insert_bytes(&mut object, "value", value);
            args.caller.print(object, &line(value));
            Ok(Exit::Ok)
        }
        None if args.caller.output == Format::Table => Err(Refusal::new(
            Exit::Absent,
            format!("key {} is absent", args.key),
        )),
        None => {
            args.caller.print(object, b"");
            Ok(Exit::Absent)
        }
    }
}

pub fn delete(args: &DeleteArgs) -> Outcome {
    let mut connection = args.caller.connect()?;
    let answer = connection.delete(args.key.as_bytes()).map_err(refusal)?;
    let existed = answer.value;
    let object = fields(json!({ "key": args.key, "existed": existed, "slot": answer.slot.0 }));
    let plain = if existed {
        format!("deleted in slot {}\n", answer.slot)
    } else {
        "the key was absent\n".to_owned()
    };
    args.caller.print(object, plain.as_bytes());
    Ok(if existed { Exit::Ok } else { Exit::Absent })
}

pub fn cas(args: &CasArgs) -> Outcome {
    let value = value_of(&args.value)?;
    let mut connection = args.caller.connect()?;
    let expected = args.expect.as_ref().map(String::as_bytes);
    let answer = connection
        .cas(args.key.as_bytes(), expected, &value)
        .map_err(refusal)?;
    let swapped = answer.value == CasOutcome::Swapped;
    let mut object = fields(json!({ "key": args.key, "swapped": swapped, "slot": answer.slot.0 }));
    let plain = match &answer.value {
        CasOutcome::Swapped => format!("swapped in slot {}\n", answer.slot),
        CasOutcome::Mismatch(Some(held)) => {
            insert_bytes(&mut object, "held", held);
            format!("not swapped: the key holds {}\n", show_bytes(held))
        }
        CasOutcome::Mismatch(None) => "not swapped: the key is absent\n".to_owned(),
    };
    args.caller.print(object, plain.as_bytes());
    Ok(if swapped { Exit::Ok } else { Exit::Absent })
}

pub fn scan(args: &ScanArgs) -> Outcome {
    let mode = args.reading.mode()?;
    let (from, to) = match &args.prefix {
        Some(prefix) => (prefix.as_bytes().to_vec(), after_prefix(prefix.as_bytes())),
        None => {
            let to = args.to.clone().unwrap_or_default();
            (args.from.as_bytes().to_vec(), to.into_bytes())
        }
    };
    let mut connection = args.caller.connect()?;
    let answer = connection
        .scan(&from, &to, args.limit, mode)
        .map_err(refusal)?;
    let output = args.caller.output;
    if output == Format::Table {
        let lines = answer.value.entries.iter();
        let lines =
            lines.map(|(key, value)| format!("{}\t{}\n", show_bytes(key), show_bytes(value)));
        print(lines.collect::<String>());
    } else {
        let mut rows = Rows::new(&["key", "value"]);
        for (key, value) in &answer.value.entries {
            rows.push(vec![show_bytes(key).into(), show_bytes(value).into()]);
        }
        print(rows.render(output));
    }
    if answer.value.more
        && let Some((last, _)) = answer.value.entries.last()
    {
        eprintln!(
            "hippo: there is more behind key {}; raise --limit or go on from there",
            show_bytes(last)
        );
    }
    Ok(Exit::Ok)
}

/// The first key behind all those with a prefix; empty where there is none.
fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_behind_their_last_key() {
        assert_eq!(after_prefix(b"ab"), b"ac");
        assert_eq!(after_prefix(&[1, 0xff]), [2]);
        assert_eq!(after_prefix(&[0xff]), b"");
        assert_eq!(after_prefix(b""), b"");
    }

    #[test]
    fn errors_have_their_codes() {
        use client::{Failure, SubmitError};
        let timeout = refusal(Error::Unknown {
            failure: Failure::Timeout,
            pushback: None,
        });
        assert_eq!(timeout.exit, Exit::NoQuorum);
        let silent = refusal(Error::ReplicaSilent(NodeId(1)));
        assert_eq!(silent.exit, Exit::NoQuorum);
        let length = refusal(Error::Refused(SubmitError::KeyLength));
        assert_eq!(length.exit, Exit::Usage);
    }

    #[test]
    fn bytes_that_are_not_text_are_digits() {
        let mut object = Map::new();
        insert_bytes(&mut object, "value", &[0xff, 1]);
        insert_bytes(&mut object, "held", b"x,\"y");
        assert_eq!(object["value_hex"], "ff01");
        assert_eq!(csv(&object), "held,value_hex\n\"x,\"\"y\",\"ff01\"\n");
    }
}
