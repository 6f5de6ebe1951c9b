//! Writes the manual pages and the completions of shells, for packages. They come from the
//! declarations of the flags.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use super::cli::Cli;
use super::{FAILED, USAGE, cert, connect, ctl};

/// Writes everything into a directory, which must exist: `echopool.8`, `echopool-connect.1`,
/// `echopool-ctl.1`, `echopool-cert.1`, and the completions `echopool.bash`, `_echopool` (zsh) and
/// `echopool.fish`. `args` are the arguments of the process without the word for this command: its
/// name, and the directory.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let [_, directory] = &args.into_iter().collect::<Vec<_>>()[..] else {
        let _ = io::stderr().write_all(b"usage: echopool __manual DIRECTORY\n");
        return ExitCode::from(USAGE);
    };
    match write(Path::new(directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "echopool: cannot write the manual: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn write(directory: &Path) -> io::Result<()> {
    page(&directory.join("echopool.8"), "8", Cli::clap())?;
    let connect = connect::command().name("echopool-connect");
    page(&directory.join("echopool-connect.1"), "1", connect)?;
    let ctl = ctl::command().name("echopool-ctl");
    page(&directory.join("echopool-ctl.1"), "1", ctl)?;
    let cert = cert::command().name("echopool-cert");
    page(&directory.join("echopool-cert.1"), "1", cert)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut whole(), "echopool", directory)?;
    }
    Ok(())
}

fn page(path: &Path, section: &str, command: Command) -> io::Result<()> {
    let mut text = Vec::new();
    Man::new(command).section(section).render(&mut text)?;
    fs::write(path, text)
}

/// The whole command line, with the words for commands, which `main` takes away.
fn whole() -> Command {
    let daemon = Cli::clap();
    let about = "The server; the default command";
    let flags: Vec<Arg> = daemon.get_arguments().cloned().collect();
    let serve = Command::new("serve").about(about).args(flags);
    let others = [
        connect::command().name("connect"),
        ctl::command().name("ctl"),
        cert::command().name("cert"),
    ];
    daemon.subcommand(serve).subcommands(others)
}
