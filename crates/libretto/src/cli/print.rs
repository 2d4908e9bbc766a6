//! Output: tables, documents, colours. Formatting is pure; only [`Printer`] writes.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use serde_json::Value;

use crate::cli::CliError;

/// Where a command's result goes. Colours are dropped where they are not wanted.
pub(crate) struct Printer {
    out: Box<dyn Write + Send>,
}

impl Printer {
    pub(crate) fn stdout() -> Self {
        Self {
            out: Box::new(anstream::stdout()),
        }
    }

    pub(crate) fn line(&mut self, line: &str) -> Result<(), CliError> {
        Ok(writeln!(self.out, "{line}")?)
    }

    /// Shows what was printed so far, to whoever waits for more.
    pub(crate) fn flush(&mut self) -> Result<(), CliError> {
        Ok(self.out.flush()?)
    }

    pub(crate) fn text(&mut self, text: &str) -> Result<(), CliError> {
        Ok(self.out.write_all(text.as_bytes())?)
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.out.write_all(bytes)?;
        Ok(self.out.flush()?)
    }

    pub(crate) fn document(&mut self, value: &Value, format: Document) -> Result<(), CliError> {
        let text = document(value, format)?;
        self.text(&text)
    }
}

/// A machine-readable form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Document {
    Json,
    Yaml,
}

/// A machine-readable form, as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    Json,
    Yaml,
}

impl From<Form> for Document {
    fn from(form: Form) -> Self {
        match form {
            Form::Json => Self::Json,
            Form::Yaml => Self::Yaml,
        }
    }
}

/// Forms of a list of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// The whole objects
    Json,
    /// The whole objects
    Yaml,
    /// A table with more columns
    Wide,
    /// One `kind/name` per line
    Name,
}

pub(crate) fn document(value: &Value, format: Document) -> Result<String, CliError> {
    let mut text = match format {
        Document::Json => serde_json::to_string_pretty(value).map_err(|error| error.to_string()),
        Document::Yaml => serde_saphyr::to_string(value).map_err(|error| error.to_string()),
    }
    .map_err(|error| CliError::failed(format!("write the answer down: {error}")))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Rows under headings, columns three spaces apart, nothing after the last.
pub(crate) fn table(headings: &[String], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = headings.iter().map(|heading| width(heading)).collect();
    for row in rows {
        for (index, cell) in row.iter().enumerate() {
            if index < widths.len() {
                widths[index] = widths[index].max(width(cell));
            }
        }
    }
    let mut text = String::new();
    let bold = Style::new().bold();
    text.push_str(&format!("{bold}{}{bold:#}\n", padded(headings, &widths)));
    for row in rows {
        let plain = padded(row, &widths);
        text.push_str(&coloured(row, &plain));
        text.push('\n');
    }
    text
}

fn padded(cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (index, cell) in cells.iter().enumerate() {
        line.push_str(cell);
        if index + 1 < cells.len() {
            let missing = widths
                .get(index)
                .copied()
                .unwrap_or(0)
                .saturating_sub(width(cell));
            line.push_str(&" ".repeat(missing + 3));
        }
    }
    line.trim_end().to_owned()
}

/// A row in trouble is told apart at a glance; everything else stays plain.
fn coloured(row: &[String], line: &str) -> String {
    const BAD: &[&str] = &[
        "CrashLoopBackOff",
        "Error",
        "Failed",
        "ImagePullBackOff",
        "ErrImagePull",
        "Warning",
        "OOMKilled",
        "Evicted",
    ];
    const UNDER_WAY: &[&str] = &[
        "Pending",
        "ContainerCreating",
        "Terminating",
        "Init",
        "Unknown",
        "PodInitializing",
    ];
    let colour = if row.iter().any(|cell| BAD.contains(&cell.as_str())) {
        AnsiColor::Red
    } else if row
        .iter()
        .any(|cell| UNDER_WAY.contains(&cell.split(':').next().unwrap_or_default()))
    {
        AnsiColor::Yellow
    } else {
        return line.to_owned();
    };
    let style = colour.on_default();
    format!("{style}{line}{style:#}")
}

/// Columns a text takes. Names and numbers are ASCII; anything else is counted as one column a character.
fn width(text: &str) -> usize {
    text.chars().count()
}

/// Age as kubectl writes it: two units at most (`95s`, `4m10s`, `3h20m`, `5d`).
pub(crate) fn age(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        match seconds % 60 {
            0 => format!("{minutes}m"),
            rest => format!("{minutes}m{rest}s"),
        }
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        match minutes % 60 {
            0 => format!("{hours}h"),
            rest => format!("{hours}h{rest}m"),
        }
    } else if hours < 48 {
        format!("{hours}h")
    } else {
        format!("{days}d")
    }
}

/// Seconds since an RFC 3339 time stamp; `None` when it is none.
pub(crate) fn seconds_since(time: &Value) -> Option<i64> {
    let time: jiff::Timestamp = time.as_str()?.parse().ok()?;
    Some(jiff::Timestamp::now().as_second() - time.as_second())
}

pub(crate) fn age_of(time: &Value) -> String {
    seconds_since(time).map_or_else(|| "<unknown>".to_owned(), age)
}

pub(crate) fn headings(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn strip(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let rows = vec![
            headings(&["redis-test-0", "1/1", ""]),
            headings(&["x", "0/1", "Pending"]),
        ];
        assert_eq!(
            strip(&table(&headings(&["NAME", "READY", "STATUS"]), &rows)),
            "\
NAME           READY   STATUS
redis-test-0   1/1
x              0/1     Pending
"
        );
    }

    #[test]
    fn a_row_in_trouble_is_coloured() {
        let rows = vec![
            headings(&["a", "Running"]),
            headings(&["b", "CrashLoopBackOff"]),
            headings(&["c", "Init:0/1"]),
        ];
        let text = table(&headings(&["NAME", "STATUS"]), &rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "a      Running");
        assert!(lines[2].contains("\u{1b}[31m"), "{}", lines[2]);
        assert!(lines[3].contains("\u{1b}[33m"), "{}", lines[3]);
    }

    #[test]
    fn ages_read_as_kubectl_writes_them() {
        for (seconds, expected) in [
            (-3, "0s"),
            (95, "95s"),
            (120, "2m"),
            (250, "4m10s"),
            (3600, "60m"),
            (12_000, "3h20m"),
            (10 * 3600, "10h"),
            (5 * 86_400, "5d"),
        ] {
            assert_eq!(age(seconds), expected);
        }
    }

    #[test]
    fn documents_end_with_a_newline() {
        let value = json!({"kind": "Pod", "metadata": {"name": "x"}});
        assert_eq!(
            document(&value, Document::Yaml).unwrap(),
            "kind: Pod\nmetadata:\n  name: x\n"
        );
        assert!(document(&value, Document::Json).unwrap().ends_with("}\n"));
    }
}
