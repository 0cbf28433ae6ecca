//! What commands print: rows as a table for people, or json, ndjson and csv for programs.

use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, TableStyle};
use serde_json::{Map, Value};

/// Form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One JSON object per line.
    Ndjson,
    /// Comma-separated, with a header line.
    Csv,
}

/// Rows under named columns; machine formats use the names as they are, so units belong in them.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    columns: Vec<&'static str>,
    rows: Vec<Vec<Value>>,
}

impl Rows {
    pub fn new(columns: &[&'static str]) -> Rows {
        Rows {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Appends a row with one value for each column.
    pub fn push(&mut self, row: Vec<Value>) {
        assert_eq!(row.len(), self.columns.len(), "one value for each column");
        self.rows.push(row);
    }

    /// The whole output, with its last line break.
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Table => self.table(),
            Format::Json => {
                let rows: Vec<Value> = self.rows.iter().map(|row| self.object(row)).collect();
                let mut text = serde_json::to_string_pretty(&rows).unwrap_or_default();
                text.push('\n');
                text
            }
            Format::Ndjson => {
                let lines = self
                    .rows
                    .iter()
                    .map(|row| format!("{}\n", self.object(row)));
                lines.collect()
            }
            Format::Csv => {
                let mut text = self.columns.join(",");
                text.push('\n');
                for row in &self.rows {
                    let cells: Vec<String> = row.iter().map(csv_cell).collect();
                    text.push_str(&cells.join(","));
                    text.push('\n');
                }
                text
            }
        }
    }

    fn object(&self, row: &[Value]) -> Value {
        let names = self.columns.iter().map(|name| (*name).to_owned());
        Value::Object(names.zip(row.iter().cloned()).collect::<Map<_, _>>())
    }

    fn table(&self) -> String {
        let mut table = Table::new();
        table
            .load_style(TableStyle::new())
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(self.columns.iter().map(|name| name.replace('_', " ")));
        for row in &self.rows {
            table.add_row(row.iter().map(plain));
        }
        let lines = table.to_string();
        let lines = lines.lines().map(|line| format!("{}\n", line.trim()));
        lines.collect()
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn csv_cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        other => plain(other),
    };
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

/// Writes to standard output. A reader that went away, as in `hippo scan | head`, is no error.
pub fn print(bytes: impl AsRef<[u8]>) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(bytes.as_ref()).and_then(|()| out.flush());
}

/// Bytes for people: text as it is, anything else in hexadecimal.
pub fn show_bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => format!("0x{}", hex(bytes)),
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Rows {
        let mut rows = Rows::new(&["node", "reason"]);
        rows.push(vec![0.into(), "all \"well\", yes".into()]);
        rows.push(vec![1.into(), Value::Null]);
        rows
    }

    #[test]
    fn four_forms() {
        let rows = rows();
        let csv = "node,reason\n0,\"all \"\"well\"\", yes\"\n1,\n";
        assert_eq!(rows.render(Format::Csv), csv);
        let ndjson =
            "{\"node\":0,\"reason\":\"all \\\"well\\\", yes\"}\n{\"node\":1,\"reason\":null}\n";
        assert_eq!(rows.render(Format::Ndjson), ndjson);
        let json: Vec<Value> = serde_json::from_str(&rows.render(Format::Json)).unwrap();
        assert_eq!(json.len(), 2);
        let table = rows.render(Format::Table);
        assert!(
            table.starts_with("node") && table.lines().count() == 3,
            "{table}"
        );
    }

    #[test]
    fn bytes_are_text_or_digits() {
        assert_eq!(show_bytes(b"hello"), "hello");
        assert_eq!(show_bytes(&[0xff, 0]), "0xff00");
        assert_eq!(show_bytes(b"a\nb"), "0x610a62");
    }
}
