//! The daemon: carries out the command line, from its arguments to the exit code.
//!
//! Standard output carries the ready lines and nothing else; the log goes to standard error.
//! Besides the workers there are up to nine threads, which sleep most of the time: one writes
//! the log, one is for signals, one for reloads, one for the lines of `--stats-interval`, one for
//! `--until-stdin-closes`, one for `--admin`, one for a drain, one for the watchdog of a
//! service manager, one for an upgrade.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::admin::{Admin, AdminListener, Token};
use crate::base::endpoint::Endpoint;
use crate::buffer::room;
use crate::builtin::OfListener;
use crate::builtin::url::{ServiceOptions, Spec};
use crate::error::StartError;
use crate::net::bind::{ListenAddress, ListenOn};
use crate::server::Drained;
use cli::Cli;
use ending::Ending;
use failure::Failure;
use listeners::Listeners;
use logger::Logger;
use operations::Operations;
use reload::Reloader;
use sandbox::Sandbox;
use settings::{Settings, Sources};
use upgrade::{Takeover, Upgrader};
use user::User;

#[cfg(feature = "daemon")]
pub mod cert;
mod check;
#[cfg(feature = "daemon")]
pub mod cli;
#[cfg(feature = "daemon")]
pub mod connect;
#[cfg(feature = "daemon")]
pub mod ctl;
mod ending;
mod failure;
mod inherited;
mod listeners;
pub(crate) mod log_format;
mod log_writer;
mod logger;
#[doc(hidden)]
pub mod manual;
mod operations;
mod rates;
mod reload;
mod report;
mod sandbox;
mod settings;
mod systemd;
#[cfg(test)]
mod tests;
mod upgrade;
mod user;

/// Exit code of a failure at start or at run time.
const FAILED: u8 = 1;
/// Exit code for a command line that would be wrong on every machine. clap uses the same.
const USAGE: u8 = 2;

/// How long the ready lines and the exit each wait for log lines that are not written yet.
const LOG_FLUSH: Duration = Duration::from_secs(1);

/// Memory that the program needs in addition to that of the server, in bytes: the queue of the log,
/// the command line, and the text that it prints.
const PROGRAM_BYTES: u64 = 8 << 20;

/// Stack size of a helper thread, in bytes. Each thread only formats a line now and then, but that of
/// the reloads also reads the settings again: without optimisation, clap needs more than 256 KiB of
/// stack for as many flags.
const HELPER_STACK_BYTES: usize = 1 << 20;

/// What an upgrade says of a sandbox that the new settings do not want.
const OFF_NOW: &str = ", although sandbox is off now: a restart ends it";

/// Minimum time between two lines for SIGUSR1, or for SIGHUP, regardless of how many signals arrive.
const SIGNAL_LINE_GAP: Duration = Duration::from_millis(100);

/// Checks that there is memory for the program itself. Call it first: already reading the arguments
/// allocates, and an allocation that the system refuses ends the process with SIGABRT.
///
/// # Errors
/// There is too little. Standard error says so; this is the exit code.
pub fn check_memory() -> Result<(), ExitCode> {
    room::check(PROGRAM_BYTES).map_err(|_| {
        let _ = io::stderr().write_all(b"echopool: cannot start: out of memory (ulimit -v)\n");
        ExitCode::from(FAILED)
    })
}

/// Parses the arguments of a command. If they are wrong or ask for `--help` or `--version`, prints
/// what clap says, and returns the exit code as the error.
fn arguments<P: clap::Parser>(args: impl IntoIterator<Item = OsString>) -> Result<P, ExitCode> {
    P::try_parse_from(args).map_err(|error| {
        // If nobody reads it, the exit code has to do.
        let _ = error.print();
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE))
    })
}

/// Runs the daemon until it is told to stop. `args` are the arguments of the process, including its
/// name.
///
/// Exit codes: 0 if it was told to stop, even if the drain time-out cut connections (the log says
/// how many); 1 if it could not start or failed; 2 if the command line is wrong.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    if let Err(code) = check_memory() {
        return code;
    }
    let mut args: Vec<OsString> = args.into_iter().collect();
    let mut takeover = match Takeover::begin(&mut args) {
        Ok(takeover) => takeover,
        Err(error) => {
            let _ = writeln!(io::stderr(), "echopool: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let sources = Sources::new(args, std::env::vars_os());
    let cli = match sources.read() {
        Ok(cli) => cli,
        Err(error) => {
            // Also --help and --version, on standard output and with code 0.
            let _ = error.print();
            if let Some(takeover) = &takeover {
                takeover.fail(&error.to_string());
            }
            return ExitCode::from(error.exit_code());
        }
    };
    if cli.check {
        return check::run(&cli, &mut io::stdout().lock(), &mut io::stderr().lock());
    }
    let sandbox = match begin_giving_up(&cli, &sources, takeover.as_ref()) {
        Ok(sandbox) => sandbox,
        Err(text) => {
            let _ = writeln!(io::stderr(), "echopool: {text}");
            if let Some(takeover) = &takeover {
                takeover.fail(&text);
            }
            return ExitCode::from(FAILED);
        }
    };
    let log = match Logger::start(cli.log, cli.log_format, cli.log_limit) {
        Ok(log) => log,
        Err(error) => {
            let remedy = room::remedy(&error);
            let _ = writeln!(io::stderr(), "echopool: cannot start the log: {error}{remedy}");
            return ExitCode::from(FAILED);
        }
    };
    cli.settings.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    let log = Arc::new(log);
    let code = match serve(cli, sources, &log, sandbox.as_ref(), &mut takeover) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(takeover) = &takeover {
                takeover.fail(&failure.text);
            }
            // Written at every log level.
            let line = log.style.plain("echopool::daemon", &failure.to_string());
            let _ = log.writer.clone().write_all(&line);
            ExitCode::from(failure.code)
        }
    };
    log.writer.flush(LOG_FLUSH);
    code
}

/// Begins to give up what `--user` and `--sandbox` say, before there are threads: these are properties of
/// each.
fn begin_giving_up(
    cli: &Cli,
    sources: &Sources,
    takeover: Option<&Takeover>,
) -> Result<Option<Sandbox>, String> {
    if cli.user.is_some() || cli.sandbox {
        rustix::thread::set_no_new_privs(true)
            .map_err(|error| format!("cannot set no_new_privs (--user, --sandbox): {error}"))?;
    }
    if takeover.is_some_and(|takeover| takeover.is_sandboxed) {
        sandbox::inherit();
        return Ok(None);
    }
    cli.sandbox.then(|| Sandbox::begin(cli, sources)).transpose()
}

/// `takeover` is what an earlier process passes on. It is `None` once this one has taken over.
fn serve(
    cli: Cli,
    sources: Sources,
    log: &Arc<Logger>,
    sandbox: Option<&Sandbox>,
    takeover: &mut Option<Takeover>,
) -> Result<(), Failure> {
    let settings = cli.settings.clone();
    let user = cli.user.as_ref().map(User::possible).transpose().map_err(Failure::new)?;
    for name in inherited::unused(&cli.passed_sockets()) {
        log::warn!("nothing listens on the passed socket {name}: write --listen fd:{name}");
    }
    let (mut config, options) = cli.config().map_err(Failure::new)?;
    if let Some(takeover) = takeover {
        log::info!("taking over from process {}", takeover.process);
        takeover.give(&mut config.listen).map_err(Failure::new)?;
        if takeover.is_sandboxed {
            let (other, off) = (takeover.process, if cli.sandbox { "" } else { OFF_NOW });
            log::info!("sandbox: that of process {other} stays{off}");
        }
    }
    let starts_stopped = starts_stopped(&cli, takeover.as_ref());
    config.starts_stopped = starts_stopped;
    // Before the server starts: from here on, a signal is kept until it can be handled.
    let signals = inherited::catch(&[SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2])
        .map_err(|error| Failure::new(format_args!("cannot catch signals: {error}")))?;
    let end_of_signals = signals.handle();
    let admin =
        cli.admin.as_ref().map(|at| bind_admin(at, &cli, &settings, takeover)).transpose()?;
    let on = config.listen.clone();
    let services = OfListener::new(options.clone()).with_spares();
    let server = services.clone().start(config.clone());
    let server = server.map_err(|error| Failure::of_start(&error, &settings))?;
    config.listen.iter_mut().for_each(ListenOn::forget_handed_over);
    report::limits(&server.limits());
    report::busy_workers(&server.limits());
    log::info!("{}", server.memory());

    let targets = targets(server.local_endpoints(), options.into_iter().zip(on));
    let listeners = Listeners::new(&cli, &config, &services, &targets);
    let admin = admin.map(|listener| listener.targets(targets.clone()).serve(&server)).transpose();
    let admin = admin.map_err(|error| {
        let remedy = room::remedy(&error);
        Failure::new(format_args!("cannot serve the admin address: {error}{remedy}"))
    })?;
    if let Some(user) = &user {
        let of_admin = admin.as_ref().map_or_else(Vec::new, Admin::offers);
        user.own(&server.offers(), &config.listen)
            .and_then(|()| user.own(&of_admin, &[]))
            .and_then(|()| user.become_it())
            .map_err(Failure::new)?;
    }
    sandbox.map_or(Ok(()), Sandbox::complete).map_err(Failure::new)?;
    let admin_at = admin.as_ref().map_or(&[][..], Admin::endpoints).to_owned();
    let ending = Arc::new(Ending::new(server, admin, cli.end_times()));
    // Before there is a thread for signals, which could end it meanwhile.
    if takeover.is_none() && starts_stopped {
        ending.begin_accepting(&[]);
    }
    let upgrades = takeover.as_ref().map_or_else(Default::default, |takeover| takeover.upgrades);
    let names = targets.iter().map(ToString::to_string).collect();
    let upgrader = Upgrader::new(sources.args(), &ending, names, upgrades);
    let mut reloader = Reloader::new(sources, cli, listeners, config, log, &ending);
    reloader.start_rates()?;
    let ends_with_stdin = reloader.until_stdin_closes();
    let operations = Arc::new(Operations::new(ending.clone(), reloader, upgrader));
    let no_changes = takeover.as_ref().map(|_| operations.upgrader.refuse_changes());
    start_threads(operations.clone(), ends_with_stdin, signals, &ending)?;
    if let Some(admin) = &ending.admin {
        admin.set_operations(Some(operations.clone()));
    }
    systemd::start_watchdog(&ending)?;
    if let Some(takeover) = takeover.take() {
        takeover.finish(&ending, &operations).map_err(Failure::new)?;
    }
    drop(no_changes);
    // A process that reads a ready line finds the limits and the memory sum in the log.
    log.writer.flush(LOG_FLUSH);
    say_ready(&targets, &admin_at, &mut io::stdout().lock());
    systemd::ready(targets.len());
    let drained = ending.server.wait();
    operations.upgrader.end();
    end_of_signals.close();
    if let Some(admin) = &ending.admin {
        admin.close();
    }
    report::end(drained, &ending.server);
    match drained {
        Drained::Clean | Drained::Cut(_) => Ok(()),
        Drained::Failed | Drained::OnWorkerThread => {
            Err(Failure::new("a worker failed; the log says why"))
        }
    }
}

/// Whether nobody is to be served before this process has taken over, or has given up what it is to give
/// up.
fn starts_stopped(cli: &Cli, takeover: Option<&Takeover>) -> bool {
    takeover.is_some() || cli.user.is_some() || cli.sandbox
}

/// Binds the address of `--admin`, before the server starts and accepts clients.
fn bind_admin(
    at: &ListenAddress,
    cli: &Cli,
    settings: &Settings,
    takeover: &mut Option<Takeover>,
) -> Result<AdminListener, Failure> {
    let mut endpoints = at.resolve().map_err(Failure::new)?;
    if let Some(takeover) = takeover {
        takeover.give_admin(&mut endpoints).map_err(Failure::new)?;
    }
    let listener = AdminListener::bind_endpoints(&endpoints).map_err(|error| match error {
        StartError::AddressInUse(endpoint @ Endpoint::Tcp(_)) => Failure::new(format_args!(
            "cannot listen on {endpoint} (--admin): the address is in use; stop the program that \
             uses it, or give another port (0 takes a free one)"
        )),
        other => Failure::of_start(&other, settings),
    })?;
    let listener = listener.replaceable(&endpoints).map_err(Failure::new)?;
    let is_stopped = starts_stopped(cli, takeover.as_ref());
    let listener = if is_stopped { listener.stopped() } else { listener };
    let listener = cli.admin_host.iter().fold(listener, |one, name| one.allow_host(name));
    Ok(match admin_token(cli)? {
        None => listener,
        Some(token) => listener.token(token),
    })
}

/// The token in the file of `--admin-token-file`.
fn admin_token(cli: &Cli) -> Result<Option<Token>, Failure> {
    let Some(path) = &cli.admin_token_file else { return Ok(None) };
    let wrong = |error: &dyn std::fmt::Display| {
        let path = path.display();
        Failure::new(format_args!("cannot read the token in {path} (--admin-token-file): {error}"))
    };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
    Token::new(text.trim_end()).map(Some).map_err(|error| wrong(&error))
}

fn start_threads(
    operations: Arc<Operations>,
    ends_with_stdin: bool,
    signals: Signals,
    ending: &Arc<Ending>,
) -> Result<(), Failure> {
    if ends_with_stdin {
        let ending = Arc::clone(ending);
        spawn("stdin", move || end_with_stdin(&ending))?;
    }
    let ending = Arc::clone(ending);
    let (reload, reloads) = mpsc::sync_channel(1);
    let of_reloads = Arc::clone(&operations);
    spawn("reload", move || reload_when_asked(&reloads, &of_reloads))?;
    spawn("signals", move || obey(signals, &ending, &operations, &reload))
}

fn spawn(name: &'static str, body: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let refused = |error| {
        let remedy = room::remedy(&error);
        Failure::new(format_args!("cannot start the thread '{name}': {error}{remedy}"))
    };
    room::check(HELPER_STACK_BYTES as u64).map_err(refused)?;
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(HELPER_STACK_BYTES)
        .spawn(body)
        .map(drop)
        .map_err(refused)
}

/// Handles the signals. The signal handler itself only wakes this thread, and nothing holds it up:
/// SIGTERM may come next.
fn obey(
    mut signals: Signals,
    ending: &Arc<Ending>,
    operations: &Arc<Operations>,
    reload: &SyncSender<()>,
) {
    let mut last_totals = None;
    for signal in signals.forever() {
        match signal {
            SIGUSR1 if is_due(&mut last_totals) => report::totals(&ending.server),
            SIGUSR1 => {}
            // If one waits already, it will read what there is now.
            SIGHUP => drop(reload.try_send(())),
            SIGUSR2 => {
                let operations = Arc::clone(operations);
                // The log has the result.
                let upgrade = move || drop(operations.upgrader.upgrade("SIGUSR2"));
                if let Err(failure) = spawn("upgrade", upgrade) {
                    log::error!("SIGUSR2: not upgraded: {}", failure.text);
                }
            }
            SIGINT => ending.next("SIGINT"),
            _ => ending.next("SIGTERM"),
        }
    }
}

/// Reloads for SIGHUP, on a thread of its own: a file, a name or a worker may keep a reload waiting.
fn reload_when_asked(asked: &Receiver<()>, operations: &Operations) {
    while asked.recv().is_ok() {
        // The log has the result.
        operations.reload_for("SIGHUP");
        thread::sleep(SIGNAL_LINE_GAP);
    }
}

/// Whether the next line for a signal may be logged, `SIGNAL_LINE_GAP` after the last one.
fn is_due(last: &mut Option<Instant>) -> bool {
    let due = last.is_none_or(|last| last.elapsed() >= SIGNAL_LINE_GAP);
    if due {
        *last = Some(Instant::now());
    }
    due
}

/// Stops the server soon after standard input has ended, because the process at its other end is
/// gone.
fn end_with_stdin(ending: &Ending) {
    // An error is an end too: nobody will say anything.
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
    ending.orphaned();
}

/// The services and addresses of the listeners, in the form that loadgen and `echopool connect`
/// accept.
fn targets(
    endpoints: &[Endpoint],
    on: impl Iterator<Item = (ServiceOptions, ListenOn)>,
) -> Vec<Spec> {
    let spec = |(endpoint, (service, on)): (&Endpoint, (_, ListenOn))| Spec {
        service,
        transport: on.transport,
        proxy: on.proxy,
        address: endpoint.address(),
    };
    endpoints.iter().zip(on).map(spec).collect()
}

/// Prints where the server listens, and the admin addresses. Keeps running if the output cannot be
/// written.
fn say_ready(targets: &[Spec], admin: &[Endpoint], out: &mut impl Write) {
    let mut lines = String::new();
    for target in targets {
        lines.push_str(&format!("echopool listening on {target}\n"));
    }
    for endpoint in admin {
        match endpoint.socket_addr() {
            Some(address) => lines.push_str(&format!("echopool admin on http://{address}\n")),
            None => lines.push_str(&format!("echopool admin on {endpoint}\n")),
        }
    }
    if let Err(error) = out.write_all(lines.as_bytes()).and_then(|()| out.flush()) {
        log::warn!("cannot write the ready lines to standard output: {error}");
    }
}
