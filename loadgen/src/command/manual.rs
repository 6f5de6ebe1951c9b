//! `loadgen __manual DIRECTORY`: writes the manual pages and the completions of shells, for
//! packages. They come from the declarations of the flags.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory, Parser};
use clap_complete::Shell;
use clap_mangen::Man;

#[cfg(feature = "link")]
use super::link;
use super::{ab, calibrate, compare, merge, report};
use crate::cli::RunArgs;
use crate::error::{Exit, Failure};

#[derive(Parser, Debug)]
#[command(name = "loadgen __manual", bin_name = "loadgen __manual")]
struct ManualArgs {
    /// An existing directory
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

/// Writes `loadgen.1`, a page for each command such as `loadgen-merge.1`, and the completions
/// `loadgen.bash`, `_loadgen` (zsh) and `loadgen.fish` into a directory.
///
/// # Errors
/// A file cannot be written.
pub fn run(words: impl Iterator<Item = OsString>) -> Result<Exit, Failure> {
    let directory = ManualArgs::parse_from(words).directory;
    write(&directory)
        .map_err(|error| Failure::Setup(format!("cannot write the manual: {error}")))?;
    Ok(Exit::Ok)
}

/// Each command: its word, the name of its page, and its declaration.
fn commands() -> Vec<(&'static str, &'static str, Command)> {
    vec![
        ("ab", "loadgen-ab", ab::AbArgs::command()),
        ("calibrate", "loadgen-calibrate", calibrate::CalibrateArgs::command()),
        ("compare", "loadgen-compare", compare::CompareArgs::command()),
        ("merge", "loadgen-merge", merge::MergeArgs::command()),
        ("report", "loadgen-report", report::ReportArgs::command()),
        #[cfg(feature = "link")]
        ("link", "loadgen-link", link::LinkArgs::command()),
    ]
}

fn write(directory: &Path) -> io::Result<()> {
    let mut whole = RunArgs::command();
    page(directory, whole.clone())?;
    for (word, name, command) in commands() {
        page(directory, command.clone().name(name))?;
        whole = whole.subcommand(command.name(word));
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut whole, "loadgen", directory)?;
    }
    Ok(())
}

fn page(directory: &Path, command: Command) -> io::Result<()> {
    let path = directory.join(format!("{}.1", command.get_name()));
    let mut text = Vec::new();
    Man::new(command).render(&mut text)?;
    fs::write(path, text)
}
