//! `hippo inspect`: what lies in a node's data directory, read only.

use std::fs;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use storage::record::Kind;
use wire::ids::{Digest, Slot};

use super::output::{Format, Rows, hex, print, show_bytes};
use super::overrides::Overrides;
use crate::config::Config;
use crate::config::value;
use crate::datadir::{self, SnapshotFile, look, tables};
use crate::exit::{Exit, ExitContext, Outcome, Refusal};
use crate::inspect::signers::Signer;
use crate::inspect::{Directory, integrity, log, snapshot};

const EXAMPLE: &str = "\
Whether a stopped node of a test network would start, and what is damaged if not:
  hippo testnet --nodes 4 --output net
  hippo start --config net/node-0/node.toml &     # and the others; then stop them
  hippo inspect integrity --config net/node-0/node.toml
  hippo inspect wal --config net/node-0/node.toml --damaged
  hippo inspect checkpoint --config net/node-0/node.toml --key city

Exit codes:
  0 all is well; a torn tail that was never acknowledged is no damage   1 failure   2 usage
  4 the key is absent   6 data is damaged, or a start would be refused";

#[derive(Debug, Subcommand)]
pub enum InspectCommand {
    /// List the records of the log, with the result of every check
    ///
    /// Header and body sums, place, hash chain, and the signatures inside. Goes on behind damage at
    /// the next record that can be found. All of the log is read and counts for the exit code,
    /// whatever the options choose to show. Exit code 6 if anything is damaged that the next start
    /// would not silently cut as the torn end of records that were never acknowledged.
    #[command(after_help = EXAMPLE)]
    Wal(WalArgs),
    /// Verify a snapshot file: sums, hashes up to the root, certificate
    ///
    /// Exit code 6 with the first damaged frame and where it begins.
    #[command(after_help = EXAMPLE)]
    Checkpoint(CheckpointArgs),
    /// Verify the table on disk: sums, hashes up to the root, certificate, the order of keys
    ///
    /// Reads every entry of data/table, which storage.table = "disk" makes. Exit code 6 with the
    /// first thing that is wrong.
    #[command(after_help = EXAMPLE)]
    Table(TableArgs),
    /// Check everything, and whether the node would start; one line for each item
    ///
    /// Superblock, segment files, log, snapshots or table, flight recordings; then the log is executed
    /// on the newest usable state as a start does it, in memory, which takes as long. Exit code 6 if
    /// anything is damaged or a start would be refused.
    #[command(after_help = EXAMPLE)]
    Integrity(IntegrityArgs),
}

#[derive(Debug, Args)]
pub struct Which {
    /// The node's configuration
    #[arg(long, value_name = "FILE", default_value = "node.toml")]
    config: PathBuf,
    /// Form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    overrides: Box<Overrides>,
}

#[derive(Debug, Args)]
pub struct WalArgs {
    #[command(flatten)]
    which: Which,
    /// Show records from this position of the log on
    #[arg(long, value_name = "POSITION", default_value_t = 0)]
    from: u64,
    /// Show so many rows at most [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Show records of this kind alone
    #[arg(long, value_name = "KIND", value_parser = parse_kind)]
    kind: Option<Kind>,
    /// Show rows with a failed check alone
    #[arg(long)]
    damaged: bool,
    /// Verify no signatures: about 25 us each, one for each request and block
    #[arg(long)]
    no_signatures: bool,
}

#[derive(Debug, Args)]
pub struct CheckpointArgs {
    /// A snapshot file [default: the newest of the data directory]
    file: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
    /// Print the value of this key as well; exits 4 when it is absent
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

#[derive(Debug, Args)]
pub struct TableArgs {
    #[command(flatten)]
    which: Which,
    /// Print the value of this key as well; exits 4 when it is absent
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

#[derive(Debug, Args)]
pub struct IntegrityArgs {
    #[command(flatten)]
    which: Which,
}

/// `FetchedBlock` is `fetched-block`.
fn kind_name(kind: Kind) -> String {
    let mut name = String::new();
    for letter in format!("{kind:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.extend(letter.to_lowercase());
    }
    name
}

fn parse_kind(text: &str) -> Result<Kind, String> {
    let found = Kind::ALL.iter().find(|kind| kind_name(**kind) == text);
    found.copied().ok_or_else(|| {
        let names = Kind::ALL.iter().map(|kind| kind_name(*kind));
        let names = names.collect::<Vec<_>>().join(", ");
        format!("expected one of {names}")
    })
}

pub fn run(command: &InspectCommand) -> Outcome {
    match command {
        InspectCommand::Wal(args) => wal(args),
        InspectCommand::Checkpoint(args) => checkpoint(args),
        InspectCommand::Table(args) => table(args),
        InspectCommand::Integrity(args) => everything(args),
    }
}

fn open(which: &Which) -> Result<Directory, Refusal> {
    let (config, _) = Config::load(&which.config, &which.overrides.flags)?;
    let directory = Directory::open(config)?;
    for remark in &directory.remarks {
        eprintln!("hippo: {remark}");
    }
    Ok(directory)
}

fn wal(args: &WalArgs) -> Outcome {
    let directory = open(&args.which)?;
    let superblock = directory.superblock()?;
    if let Err(why) = directory.owns(&superblock)
        && directory.committee.is_some()
    {
        eprintln!("hippo: {why}; what follows is of node {}", superblock.node);
    }
    let mut segments = look::SegmentFiles::list(directory.data()).or_exit(
        Exit::Damaged,
        format!("the log in {} cannot be listed", directory.data().display()),
    )?;
    let mut judge = directory.judge(&superblock, !args.no_signatures);
    let mut rows = Rows::new(&[
        "position",
        "segment",
        "kind",
        "slot",
        "view",
        "bytes",
        "header",
        "place",
        "body",
        "chain",
        "form",
        "signatures",
        "state",
        "note",
    ]);
    let mut shown = 0;
    let identity = superblock.identity();
    let geometry = &superblock.geometry;
    let report = log::inspect(&mut segments, geometry, &identity, &mut judge, &mut |row| {
        let chosen = row.position.0 >= args.from
            && args.kind.is_none_or(|kind| row.kind == Some(kind))
            && (!args.damaged || row.failed());
        if chosen && args.limit.is_none_or(|limit| shown < limit) {
            shown += 1;
            rows.push(cells(&row));
        }
    });
    print(rows.render(args.which.output));
    let summary = format!(
        "{} records in {} bytes, {} damaged, {} cut, {} unsound, {} bytes skipped; {}",
        report.records,
        report.bytes,
        report.damaged,
        report.cut,
        report.unsound,
        report.skipped_bytes,
        report.verdict_text()
    );
    match args.which.output {
        Format::Table => print(format!("\n{summary}\n")),
        // Rows alone are what programs read.
        _ => eprintln!("hippo: {summary}"),
    }
    Ok(code(report.is_damaged()))
}

fn cells(row: &log::Row) -> Vec<Value> {
    vec![
        row.position.0.into(),
        row.segment.into(),
        row.kind.map(kind_name).into(),
        row.slot.into(),
        row.view.into(),
        row.bytes.into(),
        row.header.into(),
        row.place.into(),
        row.body.into(),
        row.chain.into(),
        row.form.into(),
        row.signatures.into(),
        row.state.name().into(),
        row.note.as_str().into(),
    ]
}

fn checkpoint(args: &CheckpointArgs) -> Outcome {
    let directory = open(&args.which)?;
    let file = match &args.file {
        Some(path) => SnapshotFile {
            slot: Slot(0),
            bytes: fs::metadata(path)
                .or_exit(Exit::Failure, format!("cannot read {}", path.display()))?
                .len(),
            path: path.clone(),
        },
        None => newest(&directory)?,
    };
    let superblock = directory.superblock().ok();
    let key = args.key.as_ref().map(String::as_bytes);
    let report = directory.snapshot(superblock.as_ref(), &file, key)?;
    let mut fields = fields(&file, &report);
    ask(key, report.value.as_deref(), &mut fields);
    show(args.which.output, fields);
    Ok(ended(report.wrong.is_some(), key, report.value.as_deref()))
}

/// One line for each field, or a row for programs.
fn show(format: Format, fields: Vec<(&'static str, Value)>) {
    print(match format {
        Format::Table => lines(&fields),
        format => {
            let names = fields.iter().map(|(name, _)| *name).collect::<Vec<_>>();
            let mut rows = Rows::new(&names);
            rows.push(fields.into_iter().map(|(_, value)| value).collect());
            rows.render(format)
        }
    });
}

/// What was found of the key that was asked for.
fn ask(key: Option<&[u8]>, value: Option<&[u8]>, fields: &mut Vec<(&'static str, Value)>) {
    if let Some(key) = key {
        fields.push(("key", show_bytes(key).into()));
        fields.push(("value_hex", value.map(hex).into()));
        fields.push(("value", value.map(show_bytes).into()));
    }
}

fn ended(wrong: bool, key: Option<&[u8]>, value: Option<&[u8]>) -> Exit {
    match (wrong, key, value) {
        (true, ..) => Exit::Damaged,
        (false, Some(_), None) => Exit::Absent,
        _ => Exit::Ok,
    }
}

fn table(args: &TableArgs) -> Outcome {
    let directory = open(&args.which)?;
    let table = directory.table()?.ok_or_else(|| {
        Refusal::failure(format!(
            "there is no table in {}: storage.table = \"disk\" makes one",
            directory.data().display()
        ))
    })?;
    let key = args.key.as_ref().map(String::as_bytes);
    let report = directory.inspect_table(&table, key);
    let path = tables::table_path(directory.data());
    let mut fields = vec![
        ("directory", path.display().to_string().into()),
        ("state", state(report.wrong.is_some()).into()),
        ("why", report.wrong.as_ref().map(ToString::to_string).into()),
        ("more_wrong", report.more_wrong.into()),
        ("slot", report.slot.into()),
        ("block", digest(report.chain)),
        ("root", digest(report.root)),
        ("signers", signers(&report.signers)),
        ("signers_needed", report.signers_needed.into()),
        ("time_ns", report.time_ns.into()),
        ("transactions", report.transactions.into()),
        ("bytes", report.bytes.into()),
        ("files", report.files.into()),
        ("runs", report.runs.into()),
        ("buckets", report.buckets.into()),
        ("buckets_used", report.buckets_used.into()),
        ("entries", report.entries.into()),
        ("sessions", report.sessions.into()),
    ];
    ask(key, report.value.as_deref(), &mut fields);
    show(args.which.output, fields);
    Ok(ended(report.wrong.is_some(), key, report.value.as_deref()))
}

fn newest(directory: &Directory) -> Result<SnapshotFile, Refusal> {
    let path = datadir::snapshots_path(directory.data());
    let shown = path.display();
    let files =
        datadir::list_snapshots(&path).or_exit(Exit::Failure, format!("cannot list {shown}"))?;
    files.into_iter().next().ok_or_else(|| {
        Refusal::failure(format!(
            "there is no snapshot in {shown}: a node writes one when its log has grown by \
             storage.snapshot_log_bytes"
        ))
    })
}

/// By name, so that machine forms and people see the same.
fn fields(file: &SnapshotFile, report: &snapshot::Report) -> Vec<(&'static str, Value)> {
    vec![
        ("file", file.name().into()),
        ("state", state(report.wrong.is_some()).into()),
        ("why", report.wrong.as_ref().map(ToString::to_string).into()),
        ("node", report.node.map(|node| node.0).into()),
        ("slot", report.slot.into()),
        ("block", digest(report.chain)),
        ("root", digest(report.root)),
        ("signers", signers(&report.signers)),
        ("signers_needed", report.signers_needed.into()),
        ("time_ns", report.time_ns.into()),
        ("transactions", report.transactions.into()),
        ("bytes", report.bytes.into()),
        ("frames", report.frames.into()),
        ("buckets", report.buckets.into()),
        ("buckets_used", report.buckets_used.into()),
        ("entries", report.entries.into()),
        ("sessions", report.sessions.into()),
    ]
}

fn state(wrong: bool) -> &'static str {
    match wrong {
        true => "damaged",
        false => "ok",
    }
}

fn digest(digest: Option<Digest>) -> Value {
    digest.map_or(Value::Null, |digest| format!("{digest:#}").into())
}

fn signers(signers: &[Signer]) -> Value {
    let signers = signers.iter().map(|(by, holds)| {
        let mut signer = Map::new();
        signer.insert("node".to_owned(), by.0.into());
        signer.insert("good".to_owned(), json!(holds));
        Value::Object(signer)
    });
    signers.collect()
}

/// One line for each field.
fn lines(fields: &[(&'static str, Value)]) -> String {
    let mut text = String::new();
    for (name, value) in fields {
        let shown = match (*name, value) {
            ("signers", Value::Array(signers)) => signers.iter().map(signer).collect::<String>(),
            ("bytes", Value::Number(bytes)) => {
                value::show_bytes(bytes.as_u64().unwrap_or_default())
            }
            (_, Value::Null) => "-".to_owned(),
            (_, Value::String(text)) => text.clone(),
            (_, other) => other.to_string(),
        };
        let name = name.replace('_', " ");
        text += format!("{name:<16}{}", shown.trim()).trim_end();
        text.push('\n');
    }
    text
}

fn signer(signer: &Value) -> String {
    let holds = match signer["good"].as_bool() {
        Some(true) => "good",
        Some(false) => "bad",
        None => "unchecked",
    };
    format!("{} ({holds})  ", signer["node"])
}

fn everything(args: &IntegrityArgs) -> Outcome {
    let directory = open(&args.which)?;
    let items = integrity::inspect(&directory)?;
    let mut rows = Rows::new(&["item", "state", "why"]);
    for item in &items {
        let name = item.name.as_str();
        rows.push(vec![
            name.into(),
            item.state.name().into(),
            item.why.as_str().into(),
        ]);
    }
    print(rows.render(args.which.output));
    Ok(code(items.iter().any(|item| item.state.is_bad())))
}

fn code(damaged: bool) -> Exit {
    match damaged {
        true => Exit::Damaged,
        false => Exit::Ok,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_one_name_each() {
        assert_eq!(
            kind_name(Kind::CheckpointCertificate),
            "checkpoint-certificate"
        );
        for kind in Kind::ALL {
            assert_eq!(parse_kind(&kind_name(*kind)), Ok(*kind));
        }
        assert!(parse_kind("blok").unwrap_err().contains("fetched-block"));
    }
}
