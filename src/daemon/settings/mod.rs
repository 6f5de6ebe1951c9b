//! The settings of the daemon, from the flags, the environment and the configuration file.
//!
//! The table of settings is the clap declaration of the flags: a setting has the flag's name, and
//! its value in the environment or the file is a text that the flag would take. So the names, the
//! ranges and the errors are the same everywhere, and a new flag is a new setting.
//!
//! Flags take precedence over the environment, and the environment over the file. [`Sources`] keeps
//! what the process was started with, so that a reload reads the file again in the same manner.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::cli::Cli;
use super::{FAILED, USAGE};
use crate::base::units;

mod file;
#[cfg(test)]
pub(crate) mod tests;

/// What the names of environment variables begin with.
const PREFIX: &str = "ECHOPOOL_";

/// The flag that names the configuration file. It can be set in the environment, too.
const CONFIG: &str = "config";

/// What only a command line sets.
const NO_SETTINGS: [&str; 4] = ["help", "version", "check", CONFIG];

/// A variable that Kubernetes sets in each container beside a Service of the name `echopool`. It says
/// nothing about this daemon's settings.
const OF_KUBERNETES: &str = "ECHOPOOL_PORT";
/// What the names of the others begin with.
const OF_KUBERNETES_WITH: [&str; 2] = ["ECHOPOOL_PORT_", "ECHOPOOL_SERVICE_"];

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    Default,
    File { path: Arc<Path>, line: usize },
    Environment,
    Flag,
}

/// A value of a setting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SettingValue {
    pub(crate) text: String,
    pub(crate) origin: Origin,
}

/// A setting, by the name of its flag without `--`. Only `listen` has several values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Setting {
    pub(crate) name: String,
    /// Empty if it is not set and has no default that can be written as a value.
    pub(crate) values: Vec<SettingValue>,
}

/// Every setting, in the order of the flags.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) rows: Vec<Setting>,
    /// What the operator should know, although it is no error.
    pub(crate) warnings: Vec<String>,
    /// Whether there is a configuration file.
    pub(crate) has_file: bool,
}

/// Why the settings cannot be read.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// The command line is wrong, or requests help or the version.
    CommandLine(Box<clap::Error>),
    /// The environment or the file is wrong.
    Setting { code: u8, text: String },
}

impl Unreadable {
    pub(crate) fn wrong(text: impl ToString) -> Unreadable {
        Unreadable::Setting { code: USAGE, text: text.to_string() }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Unreadable::CommandLine(error) => u8::try_from(error.exit_code()).unwrap_or(USAGE),
            Unreadable::Setting { code, .. } => *code,
        }
    }

    /// Prints the error, and help and the version, to where each belongs.
    pub(crate) fn print(&self) -> std::io::Result<()> {
        match self {
            Unreadable::CommandLine(error) => error.print(),
            Unreadable::Setting { text, .. } => std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("echopool: {text}\n").as_bytes(),
            ),
        }
    }
}

impl From<clap::Error> for Unreadable {
    fn from(error: clap::Error) -> Unreadable {
        Unreadable::CommandLine(Box::new(error))
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreadable::CommandLine(error) => error.fmt(f),
            Unreadable::Setting { text, .. } => f.write_str(text),
        }
    }
}

/// What the settings are read from.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    args: Vec<OsString>,
    /// The variables of the settings.
    environment: Vec<(String, OsString)>,
}

impl Sources {
    /// `args` are the arguments of the process, including its name. Takes the variables of
    /// `environment` that begin with `ECHOPOOL_`.
    pub(crate) fn new(
        args: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Sources {
        let ours = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok().filter(|name| name.starts_with(PREFIX))?, value))
        };
        let mut environment: Vec<_> = environment.into_iter().filter_map(ours).collect();
        environment.sort();
        Sources { args: args.into_iter().collect(), environment }
    }

    /// The arguments of the process, including its name.
    pub(crate) fn args(&self) -> &[OsString] {
        &self.args
    }

    /// The path of the configuration file, if there is one.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        let matches = Cli::clap().try_get_matches_from(&self.args).ok()?;
        self.config_file(&matches)
    }

    /// Reads all settings.
    ///
    /// # Errors
    /// The command line, a variable or the file is wrong, or the file cannot be read. Also returned
    /// if help or the version is requested.
    pub(crate) fn read(&self) -> Result<Cli, Unreadable> {
        let command = Cli::clap();
        let matches = command.clone().try_get_matches_from(&self.args)?;
        let flags = of_flags(&command, &matches);
        let (environment, warnings) = self.of_environment(&command)?;
        let path = self.config_file(&matches);
        let file = match &path {
            Some(path) => file::read(path, &command)?,
            None => Vec::new(),
        };
        for layer in [&environment, &file] {
            check(&command, layer)?;
        }
        let rows = merged(&command, &[flags, environment, file]);
        let settings = Settings { rows, warnings, has_file: path.is_some() };
        // The arguments of the process follow, with those that are no settings.
        let own = self.args.iter().skip(1).cloned();
        let args = [OsString::from("echopool")].into_iter().chain(settings.as_flags()).chain(own);
        Cli::of(&command.try_get_matches_from(args)?, settings)
    }

    /// Reads all settings again, for a reload.
    ///
    /// # Errors
    /// As [`read`](Sources::read); or the file is one that can be read only once, such as a pipe.
    pub(crate) fn read_again(&self) -> Result<Cli, Unreadable> {
        let matches = Cli::clap().try_get_matches_from(&self.args)?;
        if let Some(path) = self.config_file(&matches)
            && path.metadata().is_ok_and(|file| !file.is_file() && !file.is_dir())
        {
            let text = "is not a regular file, so it cannot be read again; restart the daemon";
            return Err(Unreadable::wrong(format_args!("{} (--config) {text}", path.display())));
        }
        self.read()
    }

    /// The path of the configuration file, if there is one.
    fn config_file(&self, matches: &ArgMatches) -> Option<PathBuf> {
        let named = matches.get_one::<PathBuf>(CONFIG).cloned();
        let variable = variable(CONFIG);
        let value = self.environment.iter().find(|(name, _)| *name == variable);
        named.or_else(|| value.map(|(_, path)| PathBuf::from(path)))
    }

    /// The settings in the environment, and warnings about variables that are none.
    fn of_environment(&self, command: &Command) -> Result<(Vec<Setting>, Vec<String>), Unreadable> {
        let (mut settings, mut warnings) = (Vec::new(), Vec::new());
        for (variable, value) in self.environment.iter().filter(|(name, _)| !is_other(name)) {
            let name = variable[PREFIX.len()..].to_ascii_lowercase().replace('_', "-");
            let known = arg(command, &name).filter(|_| self::variable(&name) == *variable);
            let Some(known) = known else {
                let nearest = nearest(command, &name).map(|name| self::variable(&name));
                let hint = nearest.map_or(String::new(), |name| format!("; did you mean {name}?"));
                warnings.push(format!("{variable} is not a setting and is ignored{hint}"));
                continue;
            };
            let text = value.to_str().ok_or_else(|| {
                Unreadable::wrong(format_args!("{variable}: the value must be UTF-8 text"))
            })?;
            let texts: Vec<&str> = match has_several(known) {
                true => text.split_whitespace().collect(),
                false => vec![text],
            };
            if texts.is_empty() {
                let text = format!("{variable}: give at least one value, or unset it");
                return Err(Unreadable::wrong(text));
            }
            let value =
                |text: &str| SettingValue { text: text.to_owned(), origin: Origin::Environment };
            settings.push(Setting { name, values: texts.into_iter().map(value).collect() });
        }
        Ok((settings, warnings))
    }
}

/// Whether a variable of this name is nothing to read a setting from, and nothing to warn of.
fn is_other(name: &str) -> bool {
    name == variable(CONFIG)
        || name == OF_KUBERNETES
        || OF_KUBERNETES_WITH.iter().any(|start| name.starts_with(start))
}

/// The environment variable of a setting.
fn variable(name: &str) -> String {
    format!("{PREFIX}{}", name.to_ascii_uppercase().replace('-', "_"))
}

/// The flags that are settings.
fn args(command: &Command) -> impl Iterator<Item = (&str, &Arg)> {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let named = shown.filter_map(|arg| Some((arg.get_long()?, arg)));
    named.filter(|(name, _)| !NO_SETTINGS.contains(name))
}

fn arg<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    args(command).find(|(known, _)| *known == name).map(|(_, arg)| arg)
}

/// Whether a setting has several values.
fn has_several(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// The setting whose name is most like this one, if it is alike.
fn nearest(command: &Command, name: &str) -> Option<String> {
    /// As clap does for flags.
    const ALIKE: f64 = 0.7;
    let name = name.trim_start_matches('-').replace('_', "-");
    let likeness = |known: &str| strsim::jaro(&name, known);
    let known = args(command).map(|(known, _)| (likeness(known), known));
    let best = known.filter(|(likeness, _)| *likeness > ALIKE);
    best.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known.to_owned())
}

/// The settings on the command line.
fn of_flags(command: &Command, matches: &ArgMatches) -> Vec<Setting> {
    let given = |(name, arg): (&str, &Arg)| {
        let id = arg.get_id().as_str();
        let given = matches.value_source(id) == Some(ValueSource::CommandLine);
        let texts = given.then(|| matches.get_raw(id)).flatten()?;
        let value = |text: &std::ffi::OsStr| SettingValue {
            text: text.to_string_lossy().into_owned(),
            origin: Origin::Flag,
        };
        Some(Setting { name: name.to_owned(), values: texts.map(value).collect() })
    };
    args(command).filter_map(given).collect()
}

/// Checks each value of a layer by itself, and that no two settings of it contradict each other. A
/// value that a higher layer replaces is checked, too.
fn check(command: &Command, layer: &[Setting]) -> Result<(), Unreadable> {
    for setting in layer {
        for value in &setting.values {
            if let Err(reason) = try_value(command, &setting.name, &value.text) {
                let at = value.origin.names(&setting.name);
                return Err(Unreadable::wrong(format_args!("{at}: {reason}")));
            }
        }
        for other in conflicting(command, &setting.name) {
            if let Some(other) = layer.iter().find(|one| one.name == other) {
                // The one that was written later.
                let (first, second) = match setting.line() <= other.line() {
                    true => (setting, other),
                    false => (other, setting),
                };
                let (at, first) = (second.written(), first.bare());
                let text = format!("{at}: cannot be combined with {first}; omit one of them");
                return Err(Unreadable::wrong(text));
            }
        }
    }
    Ok(())
}

/// Whether the flag of this name takes the value. The error is the reason.
fn try_value(command: &Command, name: &str, text: &str) -> Result<(), String> {
    let flag = format!("--{name}={text}");
    command.clone().try_get_matches_from(["echopool", &flag]).map(drop).map_err(|e| reason(&e))
}

/// What is wrong with the value, without the flag's name.
fn reason(error: &clap::Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    let (value, valid) = (text(ContextKind::InvalidValue), text(ContextKind::ValidValue));
    match (std::error::Error::source(error), error.kind()) {
        (Some(source), _) => source.to_string(),
        (None, ErrorKind::InvalidValue) => format!("'{value}' must be one of {valid}"),
        _ => error.to_string(),
    }
}

/// The names of the settings that cannot be combined with this one.
fn conflicting<'a>(command: &'a Command, name: &str) -> Vec<&'a str> {
    let Some(one) = arg(command, name) else { return Vec::new() };
    let conflicts = |a: &Arg, b: &Arg| {
        command.get_arg_conflicts_with(a).iter().any(|other| other.get_id() == b.get_id())
    };
    let all = args(command).filter(|(_, other)| conflicts(one, other) || conflicts(other, one));
    all.map(|(name, _)| name).collect()
}

/// Every setting. The first layer that has a setting, or one that cannot be combined with it, sets
/// it.
fn merged(command: &Command, layers: &[Vec<Setting>]) -> Vec<Setting> {
    let merged_one = |(name, arg): (&str, &Arg)| {
        let alternatives = conflicting(command, name);
        let replaces =
            |one: &Setting| one.name == name || alternatives.contains(&one.name.as_str());
        let layer = layers.iter().find(|layer| layer.iter().any(replaces));
        let own = layer.and_then(|layer| layer.iter().find(|one| one.name == name));
        own.cloned().unwrap_or_else(|| {
            let value = |text: &clap::builder::OsStr| SettingValue {
                text: text.to_string_lossy().into_owned(),
                origin: Origin::Default,
            };
            let values = arg.get_default_values().iter().map(value).collect();
            Setting { name: name.to_owned(), values }
        })
    };
    args(command).map(merged_one).collect()
}

/// A setting that has another value than before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    pub(crate) name: String,
    old: String,
    new: String,
    /// Why it cannot change while the daemon runs, if that depends on the values.
    pub(crate) why_fixed: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.name, self.old, self.new)?;
        self.why_fixed.iter().try_for_each(|why| write!(f, " ({why})"))
    }
}

/// Whether two texts are the same value of a setting.
fn is_same(arg: &Arg, old: &str, new: &str) -> bool {
    let kind = arg.get_value_names().and_then(|names| names.first()).map_or("", |name| name);
    let equal = match kind {
        "COUNT" => units::parse_count(old).ok().zip(units::parse_count(new).ok()).map(is_pair),
        "SIZE" => units::parse_size(old).ok().zip(units::parse_size(new).ok()).map(is_pair),
        "TIME" => units::parse_duration(old).ok().zip(units::parse_duration(new).ok()).map(is_pair),
        _ => None,
    };
    equal.unwrap_or(old == new)
}

fn is_pair<T: PartialEq>((a, b): (T, T)) -> bool {
    a == b
}

impl Settings {
    /// The settings that have another value in `new`.
    pub(crate) fn changes(&self, new: &Settings) -> Vec<Change> {
        let command = Cli::clap();
        let change = |(old, new): (&Setting, &Setting)| {
            let arg = arg(&command, &old.name)?;
            let (before, after) = (old.values.len(), new.values.len());
            let mut pairs = old.values.iter().zip(&new.values);
            let is_same = pairs.all(|(old, new)| is_same(arg, &old.text, &new.text));
            let changed = before != after || !is_same;
            let name = old.name.clone();
            let (old, new) = (old.in_a_line(), new.in_a_line());
            changed.then_some(Change { name, old, new, why_fixed: None })
        };
        self.rows.iter().zip(&new.rows).filter_map(change).collect()
    }

    /// Takes over the settings that were changed.
    pub(crate) fn take_over(&mut self, changes: &[Change], new: &Settings) {
        for (row, new) in self.rows.iter_mut().zip(&new.rows) {
            if changes.iter().any(|change| change.name == row.name) {
                row.clone_from(new);
            }
        }
    }

    /// The setting of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&Setting> {
        self.rows.iter().find(|one| one.name == name)
    }

    /// The settings of the environment and the file, as arguments.
    fn as_flags(&self) -> impl Iterator<Item = OsString> {
        let is_flag = |value: &&SettingValue| {
            matches!(value.origin, Origin::File { .. } | Origin::Environment)
        };
        self.rows.iter().flat_map(move |setting| {
            let values = setting.values.iter().filter(is_flag);
            values.map(|value| format!("--{}={}", setting.name, value.text).into())
        })
    }

    /// Replaces the names of fields in an error text of the library (`` `max_frame` ``) by those of
    /// the settings as they were written (`--max-frame`). If the first of them comes from the file,
    /// its line comes first.
    pub(crate) fn in_their_words(&self, text: &str) -> String {
        let mut parts = text.split('`');
        let mut shown = parts.next().unwrap_or_default().to_owned();
        let mut first = None;
        while let Some(field) = parts.next() {
            let name = field.replace('_', "-");
            let known = self.get(&name).filter(|one| !one.values.is_empty());
            shown.push_str(&known.map_or_else(|| format!("--{name}"), Setting::bare));
            first = first.or(Some(known.map(Setting::at).unwrap_or_default()));
            shown.push_str(parts.next().unwrap_or_default());
        }
        format!("{}{shown}", first.unwrap_or_default())
    }
}

impl Setting {
    /// Its values, or that it is not set.
    fn in_a_line(&self) -> String {
        match &self.values[..] {
            [] => "default".to_owned(),
            values => values.iter().map(|value| &value.text[..]).collect::<Vec<_>>().join(" "),
        }
    }

    pub(crate) fn origin(&self) -> &Origin {
        self.values.first().map_or(&Origin::Default, |value| &value.origin)
    }

    fn line(&self) -> usize {
        if let Origin::File { line, .. } = self.origin() { *line } else { 0 }
    }

    /// Its name as it was written.
    fn bare(&self) -> String {
        self.origin().bare(&self.name)
    }

    /// Its line with a colon, if it comes from the file.
    fn at(&self) -> String {
        match self.origin() {
            Origin::File { path, line } => format!("{}:{line}: ", path.display()),
            _ => String::new(),
        }
    }

    /// Its name as it was written, with its line behind it.
    pub(crate) fn cited(&self) -> String {
        match self.origin() {
            Origin::File { line, .. } => format!("{} (line {line})", self.bare()),
            _ => self.bare(),
        }
    }

    /// Its line, if it has one, and its name as it was written.
    fn written(&self) -> String {
        self.origin().names(&self.name)
    }
}

impl Origin {
    fn bare(&self, name: &str) -> String {
        match self {
            Origin::Default | Origin::Flag => format!("--{name}"),
            Origin::Environment => variable(name),
            Origin::File { .. } => name.to_owned(),
        }
    }

    /// Where a setting of this name is written, for an error about it.
    pub(crate) fn names(&self, name: &str) -> String {
        match self {
            Origin::File { path, line } => format!("{}:{line}: {name}", path.display()),
            _ => self.bare(name),
        }
    }
}

/// The form in the table of `--check`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Environment => f.write_str("environment"),
            Origin::Flag => f.write_str("flag"),
        }
    }
}
