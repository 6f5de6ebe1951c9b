//! The configuration file: TOML whose keys are the names of the flags.
//!
//! A value is a text that the flag would take, a whole number, or true or false for a flag without
//! a value. Only `listen` takes a list. There are no sections.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use clap::{Arg, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Origin, Setting, SettingValue, Unreadable, arg, has_several, nearest, try_value};

/// The largest file, in bytes: a thousand listeners fit. Something larger is no configuration, and
/// may be endless.
const BYTES_MAX: usize = 1 << 20;

/// Reads the settings, in the order of their lines.
///
/// # Errors
/// The file cannot be read, or something in it is wrong. The text names the line and the remedy.
pub(super) fn read(path: &Path, command: &Command) -> Result<Vec<Setting>, Unreadable> {
    let bytes = contents(path).map_err(|error| {
        let text = format!("cannot read {} (--config): {error}", path.display());
        Unreadable::Setting { code: super::FAILED, text }
    })?;
    let file = Source { path: path.into(), text: &bytes };
    if bytes.len() > BYTES_MAX {
        let text = "is larger than 1 MiB; give the path of a configuration file";
        return Err(Unreadable::wrong(format_args!("{} (--config) {text}", path.display())));
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        file.wrong(error.valid_up_to(), "not UTF-8 text; save the file as UTF-8")
    })?;
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let message = match (error.message(), without_quotes(file.line_at(at))) {
            ("duplicate key", _) => "the key appears twice; give it once".to_owned(),
            (_, Some(message)) => message,
            (other, None) => format!("not TOML: {other}; write each setting as name = \"value\""),
        };
        file.wrong(at, message)
    })?;
    let table = table.into_inner();
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries.into_iter().map(|(key, value)| file.setting(command, key, value)).collect()
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The contents of the file.
struct Source<'a> {
    path: Arc<Path>,
    text: &'a [u8],
}

impl Source<'_> {
    /// The line of a position, from 1.
    fn line(&self, at: usize) -> usize {
        self.text[..at.min(self.text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
    }

    /// The text of the line of a position.
    fn line_at(&self, at: usize) -> &str {
        let line = self.text.split(|&byte| byte == b'\n').nth(self.line(at) - 1);
        line.and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default()
    }

    fn wrong(&self, at: usize, what: impl std::fmt::Display) -> Unreadable {
        let (path, line) = (self.path.display(), self.line(at));
        Unreadable::wrong(format_args!("{path}:{line}: {what}"))
    }

    fn setting(
        &self,
        command: &Command,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<Setting, Unreadable> {
        let name: &str = key.get_ref();
        let Some(arg) = arg(command, name) else {
            return Err(self.wrong(key.span().start, unknown(command, name, value.get_ref())));
        };
        let wrong =
            |at: Range<usize>, what: String| self.wrong(at.start, format_args!("{name}: {what}"));
        let one = |value: &Spanned<DeValue<'_>>| {
            let text = text(command, arg, name, value.get_ref());
            let line = self.line(value.span().start);
            let origin = Origin::File { path: self.path.clone(), line };
            text.map(|text| SettingValue { text, origin }).map_err(|what| wrong(value.span(), what))
        };
        let values = match value.get_ref() {
            DeValue::Array(_) if !has_several(arg) => {
                return Err(wrong(
                    value.span(),
                    "a list is not allowed here; give one value".into(),
                ));
            }
            DeValue::Array(list) if list.is_empty() => {
                return Err(wrong(
                    value.span(),
                    "the list is empty; give one value or more".into(),
                ));
            }
            DeValue::Array(list) => list.iter().map(one).collect::<Result<_, _>>()?,
            _ => vec![one(value)?],
        };
        Ok(Setting { name: name.to_owned(), values })
    }
}

/// What is wrong with a line that is not TOML because its value is missing or has no quotes. The
/// parser's own message is about what else the value may have become.
fn without_quotes(line: &str) -> Option<String> {
    let (name, value) = line.split_once('=')?;
    let (name, value) = (name.trim(), value.split('#').next()?.trim());
    let is_plain = |c: char| !c.is_control() && !"\"'[]{}=".contains(c);
    let is_name = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    if !is_name || !value.chars().all(is_plain) {
        return None;
    }
    Some(match value {
        "" => format!("{name}: the value is missing; write {name} = \"value\""),
        _ => format!("{name}: the value is not in quotes; write {name} = \"{value}\""),
    })
}

/// What is wrong with a key that is no setting.
fn unknown(command: &Command, name: &str, value: &DeValue<'_>) -> String {
    if super::NO_SETTINGS.contains(&name) {
        return format!("'{name}' is not a setting; use the flag --{name}");
    }
    if let DeValue::Table(_) = value {
        return format!("'{name}' is a section; there are none: write the settings without it");
    }
    match nearest(command, name) {
        Some(nearest) => format!("'{name}' is not a setting; did you mean '{nearest}'?"),
        None => format!("'{name}' is not a setting; the settings are the flags of --help"),
    }
}

/// A value as the text that the flag takes. The error says what to write.
fn text(command: &Command, arg: &Arg, name: &str, value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.clone().into_owned()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        DeValue::Integer(number) => {
            Err(format!("{number} is not decimal; write a decimal number, or a text in quotes"))
        }
        DeValue::Boolean(is_on) if is_switch(arg) => Ok(is_on.to_string()),
        DeValue::Boolean(is_on) => {
            let word = if *is_on { "on" } else { "off" };
            Err(match try_value(command, name, word) {
                Ok(()) if !has_several(arg) => {
                    format!("{is_on} is not allowed here; write \"{word}\"")
                }
                _ => format!("{is_on} is not allowed here; write a value in quotes"),
            })
        }
        DeValue::Float(number) => {
            let number = number.as_str();
            Err(format!("{number} is not a whole number; write a whole one, or a text in quotes"))
        }
        DeValue::Datetime(_) => {
            Err("a date is not allowed here; write a text in quotes".to_owned())
        }
        DeValue::Array(_) => Err("a list in a list is not allowed here; write one list".to_owned()),
        DeValue::Table(_) => Err("a section is not allowed here; write one value".to_owned()),
    }
}

/// Whether the flag needs no value.
pub(super) fn is_switch(arg: &Arg) -> bool {
    arg.get_num_args().is_some_and(|values| values.min_values() == 0)
}
