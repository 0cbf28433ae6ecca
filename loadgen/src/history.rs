//! `--history FILE`: every operation as one line of JSON, for checkers outside.
//!
//! Times are nanoseconds of one monotonic clock for all threads. Values are hexadecimal. An
//! operation that timed out stays open: its `return_ns` is null and its outcome unknown.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Lines gathered before they are written.
const BUFFER_BYTES: usize = 256 * 1024;

/// One operation's line.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// Number of the client within this run.
    pub client: usize,
    pub op: &'a str,
    pub key: &'a [u8],
    /// What a put writes.
    pub value: Option<&'a [u8]>,
    pub call_ns: u64,
    pub return_ns: Option<u64>,
    pub ok: bool,
    /// The value a get found; none: absent, or not a get.
    pub result: Option<&'a [u8]>,
    pub slot: Option<u64>,
}

/// The file, shared by all threads.
#[derive(Clone, Debug)]
pub struct HistoryFile(Arc<Mutex<File>>);

impl HistoryFile {
    pub fn create(path: &Path) -> io::Result<HistoryFile> {
        Ok(HistoryFile(Arc::new(Mutex::new(File::create(path)?))))
    }

    /// A writer for one thread.
    pub fn writer(&self) -> HistoryWriter {
        HistoryWriter {
            file: self.clone(),
            buffer: Vec::with_capacity(BUFFER_BYTES + 4096),
        }
    }
}

/// One thread's lines on their way to the file.
#[derive(Debug)]
pub struct HistoryWriter {
    file: HistoryFile,
    buffer: Vec<u8>,
}

impl HistoryWriter {
    pub fn write(&mut self, line: &Line<'_>) -> io::Result<()> {
        let out = &mut self.buffer;
        write!(
            out,
            r#"{{"client":{},"op":"{}","key":""#,
            line.client, line.op
        )?;
        for byte in line.key.escape_ascii() {
            // Keys are printable; a backslash or quote would come out escaped for Rust.
            out.push(byte);
        }
        out.extend_from_slice(b"\",\"value\":");
        hex_or_null(out, line.value)?;
        write!(out, r#","call_ns":{},"return_ns":"#, line.call_ns)?;
        number_or_null(out, line.return_ns)?;
        write!(out, r#","ok":{},"result":"#, line.ok)?;
        hex_or_null(out, line.result)?;
        out.extend_from_slice(b",\"slot\":");
        number_or_null(out, line.slot)?;
        out.extend_from_slice(b"}\n");
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    pub fn flush(&mut self) -> io::Result<()> {
        let mut file = self.file.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

/// Nothing that happened is lost when a thread ends early.
impl Drop for HistoryWriter {
    fn drop(&mut self) {
        if !self.buffer.is_empty() {
            let _ = self.flush();
        }
    }
}

fn number_or_null(out: &mut Vec<u8>, number: Option<u64>) -> io::Result<()> {
    match number {
        Some(number) => write!(out, "{number}"),
        None => out.write_all(b"null"),
    }
}

fn hex_or_null(out: &mut Vec<u8>, bytes: Option<&[u8]>) -> io::Result<()> {
    let Some(bytes) = bytes else {
        return out.write_all(b"null");
    };
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
    out.push(b'"');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_json_with_the_promised_fields() {
        let path = std::env::temp_dir().join(format!("history-{}.ndjson", std::process::id()));
        let mut writer = HistoryFile::create(&path).unwrap().writer();
        let mut line = Line {
            client: 3,
            op: "put",
            key: b"key-1",
            value: Some(&[0xab, 1]),
            call_ns: 10,
            return_ns: Some(20),
            ok: true,
            result: None,
            slot: Some(7),
        };
        writer.write(&line).unwrap();
        line.return_ns = None;
        line.ok = false;
        line.slot = None;
        writer.write(&line).unwrap();
        writer.flush().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["value"], "ab01");
        assert_eq!(lines[0]["slot"], 7);
        assert!(lines[1]["return_ns"].is_null());
        for field in [
            "client",
            "op",
            "key",
            "value",
            "call_ns",
            "return_ns",
            "ok",
            "result",
            "slot",
        ] {
            assert!(lines[0].get(field).is_some(), "{field}");
        }
    }
}
