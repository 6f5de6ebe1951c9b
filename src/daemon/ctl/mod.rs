//! `echopool ctl`: shows and changes what a daemon does, through its admin address.
//!
//! * here: the command line, and what each command asks for
//! * `ask`: a request and its reply
//! * `show`: replies as text

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use serde_json::Value;

use super::{FAILED, USAGE, arguments};
use ask::{At, Request};

mod ask;
mod show;
#[cfg(test)]
mod tests;

/// Where the daemon is, and where the token is: the variables of the same settings of the daemon.
const ADMIN_VARIABLE: &str = "ECHOPOOL_ADMIN";
const TOKEN_FILE_VARIABLE: &str = "ECHOPOOL_ADMIN_TOKEN_FILE";

/// The token itself.
const TOKEN_VARIABLE: &str = "ECHOPOOL_CTL_TOKEN";

/// How long the reply to an upgrade may take: longer than `--upgrade-timeout`.
const UPGRADE_TIME: Duration = Duration::from_secs(90);

const EXAMPLES: &str = "\
The daemon must run with --admin and, for what changes something, with --admin-token-file. The token \
is that of --token-file, or else of ECHOPOOL_CTL_TOKEN, or else of the file that \
ECHOPOOL_ADMIN_TOKEN_FILE names.

Exit codes: 0 done; 1 failure; 2 wrong usage.

Examples:
  echopool ctl --admin 9000 status
  echopool ctl --admin 9000 clients --sort output_bytes --order desc --limit 10
  export ECHOPOOL_ADMIN=9000 ECHOPOOL_ADMIN_TOKEN_FILE=/run/echopool/token
  echopool ctl stop 0
  echopool ctl message --listener 1 'the server restarts in a minute'
  echopool ctl drain";

/// Shows and changes what a running daemon does, through its admin address.
#[derive(Parser, Debug)]
#[command(name = "echopool ctl", bin_name = "echopool ctl", version, after_help = EXAMPLES)]
struct Cli {
    /// The admin address of the daemon: 9000, HOST:PORT, http://HOST:PORT, or unix:///PATH [default:
    /// ECHOPOOL_ADMIN]
    #[arg(long, value_name = "ADDRESS", global = true)]
    admin: Option<String>,

    /// The file with the token [default: see below]
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,

    /// Print the reply as it is, as JSON
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Show whether the daemon is ready, its rates, connections and memory
    Status,
    /// Show whether the loop of each worker turns; the exit code is 1 if one does not
    Health,
    /// List the connected clients
    Clients(ClientsArgs),
    /// List the listeners, with their numbers
    Listeners,
    /// Close the connection of a client once its output is sent
    Disconnect {
        /// The id of the client, as in the list and in the log
        id: u64,
    },
    /// Let a listener accept nothing more; clients wait in its backlog
    Stop {
        /// The number of the listener, from 0
        listener: usize,
    },
    /// Let a listener accept again
    Start {
        /// The number of the listener, from 0
        listener: usize,
    },
    /// Drain the daemon, as SIGTERM does
    Drain,
    /// Send a message to one client or to all clients of a listener
    Message(Message),
    /// Read the settings again, as SIGHUP does
    Reload,
    /// Replace the daemon by a new process of the same command line, as SIGUSR2 does, and wait until
    /// the new one serves; connections move to it, and those that cannot stay with the old one
    Upgrade,
}

#[derive(Args, Debug)]
struct ClientsArgs {
    /// How many to list, at most 10000
    #[arg(long, value_name = "COUNT", default_value = "100")]
    limit: u32,

    /// How many to leave out before the first
    #[arg(long, value_name = "COUNT", default_value = "0")]
    offset: u32,

    /// id, peer, listener, service, transport, age_ns, bytes_received, bytes_sent, output_bytes, state
    #[arg(long, value_name = "COLUMN", default_value = "id")]
    sort: String,

    /// The smallest first, or the largest
    #[arg(long, value_name = "ORDER", default_value = "asc")]
    order: Order,

    /// Only those whose id, peer, listener, service or transport contains this text
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    filter: String,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Order {
    Asc,
    Desc,
}

#[derive(Args, Debug)]
struct Message {
    /// The id of the client
    #[arg(long, value_name = "ID", required_unless_present = "listener")]
    #[arg(conflicts_with = "listener")]
    to: Option<u64>,

    /// The number of the listener, for all of its clients
    #[arg(long, value_name = "NUMBER")]
    listener: Option<usize>,

    /// The message [default: standard input]
    #[arg(value_name = "TEXT")]
    text: Option<String>,
}

/// The command line.
pub(super) fn command() -> clap::Command {
    Cli::command()
}

/// Runs a command. `args` are the arguments of the process without the word `ctl`. Exit codes: 0, 1
/// (failure), 2 (wrong usage).
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli: Cli = match arguments(args) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match carry_out(&cli) {
        Ok(text) => match io::stdout().lock().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(FAILED, &error.to_string()),
        },
        Err(CommandFailed { code, text }) => complain(code, &text),
    }
}

fn complain(code: u8, text: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "echopool ctl: {}", text.trim_end());
    ExitCode::from(code)
}

/// Why a command was not carried out.
struct CommandFailed {
    code: u8,
    text: String,
}

fn failed(text: impl ToString) -> CommandFailed {
    CommandFailed { code: FAILED, text: text.to_string() }
}

/// Asks the daemon. Returns what to print.
fn carry_out(cli: &Cli) -> Result<String, CommandFailed> {
    let usage = |text: String| CommandFailed { code: USAGE, text };
    let variable = |name| std::env::var(name).ok();
    let address = cli.admin.clone().or_else(|| variable(ADMIN_VARIABLE)).ok_or_else(|| {
        usage(format!("where is the daemon? Give --admin ADDRESS, or set {ADMIN_VARIABLE}"))
    })?;
    let at = At::parse(&address).map_err(usage)?;
    let request = request(&cli.command).map_err(failed)?;
    let token = if request.method == Method::GET { None } else { token(cli).map_err(failed)? };
    let (status, body) = ask::ask(&at, request, token.as_deref()).map_err(failed)?;
    if status == StatusCode::UNAUTHORIZED {
        return Err(failed(format!(
            "this needs the token of the daemon's --admin-token-file: give it with --token-file FILE, \
             or in {TOKEN_VARIABLE}"
        )));
    }
    let text = String::from_utf8_lossy(&body).into_owned();
    let reply = serde_json::from_str::<Value>(&text).ok();
    match reply {
        Some(_) if cli.json && status.is_success() => Ok(text + "\n"),
        Some(reply) if status.is_success() => Ok(show::text(&cli.command, &reply)),
        // A reload or an upgrade that was refused.
        Some(reply) => Err(failed(reply["text"].as_str().unwrap_or(&text))),
        // The health is text.
        None if status.is_success() => Ok(text),
        None => Err(failed(format!("{}: {text}", status.as_u16()))),
    }
}

/// The token, if there is one.
fn token(cli: &Cli) -> Result<Option<String>, String> {
    let file = match &cli.token_file {
        Some(file) => file.clone(),
        None => match std::env::var(TOKEN_VARIABLE) {
            Ok(token) => return Ok(Some(token)),
            Err(_) => match std::env::var_os(TOKEN_FILE_VARIABLE) {
                Some(file) => file.into(),
                None => return Ok(None),
            },
        },
    };
    let text = std::fs::read_to_string(&file);
    let text =
        text.map_err(|error| format!("cannot read the token in {}: {error}", file.display()))?;
    Ok(Some(text.trim_end().to_owned()))
}

/// What a command asks for.
fn request(command: &Command) -> Result<Request, String> {
    let get = |path: &str| Request::new(Method::GET, format!("/api/v1/{path}"));
    let post = |path: &str| Request::new(Method::POST, format!("/api/v1/{path}"));
    Ok(match command {
        Command::Status => get("status"),
        Command::Health => Request::new(Method::GET, "/healthz".to_owned()),
        Command::Listeners => get("listeners"),
        Command::Clients(ClientsArgs { limit, offset, sort, order, filter }) => {
            let order = order.to_possible_value().expect("it is shown");
            get("clients")
                .with("limit", &limit.to_string())
                .with("offset", &offset.to_string())
                .with("sort", sort)
                .with("order", order.get_name())
                .with("filter", filter)
        }
        Command::Disconnect { id } => post(&format!("clients/{id}/disconnect")),
        Command::Stop { listener } => post(&format!("listeners/{listener}/stop")),
        Command::Start { listener } => post(&format!("listeners/{listener}/start")),
        Command::Drain => post("drain"),
        Command::Reload => post("reload"),
        Command::Upgrade => post("upgrade").patient(UPGRADE_TIME),
        Command::Message(Message { to, listener, text }) => {
            let request = match (to, listener) {
                (Some(id), _) => post("message").with("to", &id.to_string()),
                (None, listener) => {
                    post("message").with("listener", &listener.unwrap_or_default().to_string())
                }
            };
            let body = match text {
                Some(text) => text.clone().into_bytes(),
                None => {
                    let mut body = Vec::new();
                    let read = io::stdin().lock().read_to_end(&mut body);
                    read.map_err(|error| format!("cannot read standard input: {error}"))?;
                    body
                }
            };
            request.of(body)
        }
    })
}
