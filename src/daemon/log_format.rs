//! The forms of a line of the log: text for people, JSON for collectors, and the form that systemd's
//! journal reads from standard error.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, mem};

use env_logger::WriteStyle;
use log::{Level, LevelFilter, Log, Record};
use serde_json::{Map, Value};

/// What a line looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// `[time LEVEL target] text`.
    #[default]
    Text,
    /// An object on one line: time (RFC 3339, UTC), level, target, message, and its name=value pairs
    /// as fields.
    Json,
    /// `<PRIORITY>target: text`, without a time, which the journal adds (sd-daemon(3)).
    Journal,
}

/// The form of all lines, and whether text has colours.
#[derive(Clone, Copy)]
pub(super) struct LineStyle {
    pub(super) format: LogFormat,
    pub(super) colours: WriteStyle,
}

impl LineStyle {
    /// Lets a logger write lines of this form.
    pub(super) fn apply(self, builder: &mut env_logger::Builder) {
        builder.write_style(self.colours);
        match self.format {
            LogFormat::Text => {}
            LogFormat::Json => {
                builder.format(|out, record| {
                    let time = out.timestamp_millis().to_string();
                    writeln!(out, "{}", object(&time, record))
                });
            }
            LogFormat::Journal => {
                builder.format(|out, record| out.write_all(journal_lines(record).as_bytes()));
            }
        }
    }

    /// A line that does not come through the logger.
    pub(super) fn line(self, level: Level, target: &str, text: fmt::Arguments<'_>) -> Vec<u8> {
        let line = Captured(Arc::default());
        let mut builder = env_logger::Builder::new();
        self.apply(&mut builder);
        let logger = builder
            .filter_level(LevelFilter::Trace)
            .target(env_logger::Target::Pipe(Box::new(Captured(Arc::clone(&line.0)))))
            .build();
        logger.log(&Record::builder().level(level).target(target).args(text).build());
        mem::take(&mut line.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A message that is the last word of the daemon or of a thread: in text as it is.
    pub(super) fn plain(self, target: &str, text: &str) -> Vec<u8> {
        match self.format {
            LogFormat::Text => format!("{text}\n").into_bytes(),
            _ => self.line(Level::Error, target, format_args!("{text}")),
        }
    }
}

/// Collects what a logger writes.
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn object(time: &str, record: &Record<'_>) -> Value {
    let message = record.args().to_string();
    let mut object = Map::new();
    object.insert("time".into(), time.into());
    object.insert("level".into(), record.level().as_str().to_lowercase().into());
    object.insert("target".into(), record.target().into());
    let fields = fields(&message);
    object.insert("message".into(), message.into());
    if !fields.is_empty() {
        object.insert("fields".into(), fields.into());
    }
    object.into()
}

/// The pairs `name=value` of a message. A value ends at a space, unless it is quoted as Rust quotes
/// text. A whole number is a number.
fn fields(message: &str) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut rest = message;
    while let Some(at) = rest.find('=') {
        let (before, value) = (&rest[..at], &rest[at + 1..]);
        let is_of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let name = &before[before.trim_end_matches(is_of_name).len()..];
        let begins = before.len() == name.len() || before[..at - name.len()].ends_with([' ', '\n']);
        let (value, behind) = match value.strip_prefix('"') {
            Some(quoted) => match end_of_quote(quoted) {
                // Escapes stay as they are: they may stand for bytes that are not text. The quote
                // stays too: what follows it without a space is no name.
                Some(end) => (quoted[..end].into(), &quoted[end..]),
                None => (value.into(), ""),
            },
            None => {
                let end = value.find([' ', '\n']).unwrap_or(value.len());
                let word = value[..end].trim_end_matches([',', ';', ':']);
                (number_or_text(word), &value[end..])
            }
        };
        if begins && !name.is_empty() {
            fields.insert(name.into(), value);
            rest = behind;
        } else {
            rest = &rest[at + 1..];
        }
    }
    fields
}

fn number_or_text(word: &str) -> Value {
    word.parse::<u64>().map_or_else(|_| word.into(), Into::into)
}

fn end_of_quote(quoted: &str) -> Option<usize> {
    let mut escaped = false;
    quoted.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

/// Each line has the priority in front: the journal takes every line for an entry.
fn journal_lines(record: &Record<'_>) -> String {
    let priority = match record.level() {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    let text = record.args().to_string();
    text.lines().map(|line| format!("<{priority}>{}: {line}\n", record.target())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: LogFormat, level: Level, text: &str) -> String {
        let style = LineStyle { format, colours: WriteStyle::Never };
        let line = style.line(level, "echopool::worker", format_args!("{text}"));
        String::from_utf8(line).expect("text")
    }

    const TEXT: &str = "disconnect id=7 peer=[::1]:5 in=12 out=0 reason=peer-closed connections=3";

    #[test]
    fn text_is_for_people() {
        let line = line(LogFormat::Text, Level::Debug, TEXT);
        assert!(line.ends_with(&format!("Z DEBUG echopool::worker] {TEXT}\n")), "{line}");
    }

    #[test]
    fn json_has_the_pairs_of_the_message_as_fields() {
        let line = line(LogFormat::Json, Level::Warn, TEXT);
        assert_eq!(line.matches('\n').count(), 1);
        let value: Value = serde_json::from_str(&line).expect("JSON");
        let time = value["time"].as_str().expect("text");
        assert_eq!((time.len(), &time[10..11], &time[23..]), (24, "T", "Z"), "{time}");
        assert_eq!(
            [&value["level"], &value["target"], &value["message"]],
            ["warn", "echopool::worker", TEXT]
        );
        let expected = serde_json::json!({
            "id": 7, "peer": "[::1]:5", "in": 12, "out": 0, "reason": "peer-closed",
            "connections": 3,
        });
        assert_eq!(value["fields"], expected);
    }

    #[test]
    fn messages_of_clients_cannot_forge_fields_or_lines() {
        let text = r#"message id=1 bytes=9 text="a\" id=2 \\\n\xff" more=x, and 1+1=2 A=b end=z."#;
        let value: Value =
            serde_json::from_str(&line(LogFormat::Json, Level::Info, text)).expect("JSON");
        assert_eq!(
            value["fields"],
            serde_json::json!({
                "id": 1, "bytes": 9, "text": r#"a\" id=2 \\\n\xff"#, "more": "x", "end": "z.",
            })
        );
        let none: Value =
            serde_json::from_str(&line(LogFormat::Json, Level::Info, "a\nb\u{1}")).expect("JSON");
        assert!(none.get("fields").is_none() && none["message"] == "a\nb\u{1}");
        for odd in ["=", "a=", "=b", "a=\"open", "é=1", "a==b"] {
            let parsed = serde_json::from_str::<Value>(&line(LogFormat::Json, Level::Info, odd));
            assert!(parsed.is_ok(), "{odd}");
        }
    }

    #[test]
    fn names_have_digits_and_underscores_and_quoted_values_any_length() {
        let text = r#"none="" one="a" two="ab" back="\\" a1_b=2 no="x"name=3 last="c""#;
        let value: Value =
            serde_json::from_str(&line(LogFormat::Json, Level::Info, text)).expect("JSON");
        let expected = serde_json::json!({
            "none": "", "one": "a", "two": "ab", "back": r"\\", "a1_b": 2, "no": "x", "last": "c",
        });
        assert_eq!(value["fields"], expected);
    }

    #[test]
    fn the_journal_gets_the_priority_of_each_line() {
        for (level, priority) in
            [(Level::Error, 3), (Level::Warn, 4), (Level::Info, 6), (Level::Trace, 7)]
        {
            assert_eq!(
                line(LogFormat::Journal, level, "one\ntwo"),
                format!("<{priority}>echopool::worker: one\n<{priority}>echopool::worker: two\n")
            );
        }
    }

    #[test]
    fn a_last_word_has_the_form_of_the_log() {
        let plain = |format| {
            let style = LineStyle { format, colours: WriteStyle::Never };
            String::from_utf8(style.plain("echopool::daemon", "echopool: why")).expect("text")
        };
        assert_eq!(plain(LogFormat::Text), "echopool: why\n");
        assert_eq!(plain(LogFormat::Journal), "<3>echopool::daemon: echopool: why\n");
        assert!(plain(LogFormat::Json).contains(r#""message":"echopool: why""#));
    }
}
