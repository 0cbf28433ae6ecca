//! The files of a run directory.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context;
use hdrhistogram::Histogram;

use crate::histograms::{LogLine, write_hgrm, write_hlog};
use crate::report;
use crate::result::{RunResult, Second};

/// Everything that a run directory holds.
#[derive(Debug)]
pub struct RunFiles<'a> {
    pub result: &'a RunResult,
    pub latency: &'a Histogram<u64>,
    pub seconds: &'a [Second],
    pub log: &'a [LogLine],
    pub started: SystemTime,
}

fn create(directory: &Path, name: &str) -> anyhow::Result<BufWriter<File>> {
    let path = directory.join(name);
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(BufWriter::new(file))
}

/// Writes all files; returns the path of the report.
pub fn write_all(directory: &Path, files: &RunFiles<'_>) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let mut out = create(directory, "result.json")?;
    serde_json::to_writer_pretty(&mut out, files.result)?;
    out.write_all(b"\n")?;
    out.flush()?;

    let mut out = create(directory, "timeseries.ndjson")?;
    for second in files.seconds {
        serde_json::to_writer(&mut out, second)?;
        out.write_all(b"\n")?;
    }
    out.flush()?;

    let mut out = create(directory, "latency.hgrm")?;
    write_hgrm(files.latency, &mut out)?;
    out.flush()?;

    let mut out = create(directory, "latency.hlog")?;
    write_hlog(files.started, files.log, &mut out)?;
    out.flush()?;

    let mut out = create(directory, "report.html")?;
    out.write_all(report::render(files.result, files.latency, files.seconds).as_bytes())?;
    out.flush()?;
    Ok(directory.join("report.html"))
}
