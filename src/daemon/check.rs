//! `--check`: checks what a start would check, without binding or allocating anything, and prints
//! what would run.

use std::fmt::Write as _;
use std::io::Write;
use std::process::ExitCode;

use super::cli::Cli;
use super::failure::Failure;
use super::settings::Settings;
use super::user::User;
use crate::buffer::room;
use crate::builtin::OfListener;
use crate::config::{Limits, MemorySum};
use crate::error::StartError;

/// Prints the settings and the memory sum to `out`, or the error to `err`. Returns the exit code of
/// a start with the same settings, as far as it does not depend on what other programs have bound.
pub(super) fn run(cli: &Cli, out: &mut impl Write, err: &mut impl Write) -> ExitCode {
    for warning in &cli.settings.warnings {
        let _ = writeln!(err, "echopool: {warning}");
    }
    let result = plan(cli).and_then(|(limits, memory)| {
        let text = format!("{}\n{memory}\n", table(&cli.settings, &limits));
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::new)
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(err, "{failure}");
            ExitCode::from(failure.code)
        }
    }
}

/// What would run.
fn plan(cli: &Cli) -> Result<(Limits, MemorySum), Failure> {
    cli.user.as_ref().map(User::possible).transpose().map_err(Failure::new)?;
    super::admin_token(cli)?;
    let (config, options) = cli.config().map_err(Failure::new)?;
    let planned = OfListener::new(options).plan_of(&config);
    let (limits, memory) = planned.map_err(|error| Failure::of_start(&error, &cli.settings))?;
    match room::check(memory.total()) {
        Ok(()) => Ok((limits, memory)),
        Err(error) => {
            let (needed, parts) = (memory.total(), memory.in_a_line());
            let error = StartError::Memory { needed, parts, error };
            Err(Failure::of_start(&error, &cli.settings))
        }
    }
}

/// A line for each value of each setting: its name, the value, and where it comes from.
fn table(settings: &Settings, limits: &Limits) -> String {
    let mut rows = vec![["setting", "value", "from"].map(str::to_owned)];
    for setting in &settings.rows {
        for value in &setting.values {
            rows.push([setting.name.clone(), value.text.clone(), value.origin.to_string()]);
        }
        if setting.values.is_empty() {
            let derived = match &setting.name[..] {
                "workers" => limits.workers.to_string(),
                "max-connections" => limits.max_connections.to_string(),
                "buffers" => limits.buffers.to_string(),
                _ => "-".to_owned(),
            };
            rows.push([setting.name.clone(), derived, "default".to_owned()]);
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let (name, value) = (width(0).unwrap_or(0), width(1).unwrap_or(0));
    let mut text = String::new();
    for row in &rows {
        let _ = writeln!(text, "{:<name$}  {:<value$}  {}", row[0], row[1], row[2]);
    }
    text
}
