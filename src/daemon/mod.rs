//! The daemon: carries out the command line, from its arguments to the exit code.
//!
//! Standard output carries the ready lines and nothing else; the log goes to standard error.
//! Besides the workers there are up to six threads, which sleep most of the time: one writes the
//! log, one is for signals, one for the lines of `--stats-interval`, one for `--until-stdin-closes`,
//! one for `--admin`, one for `--drain-delay`.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{panic, thread};

use log::LevelFilter;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::admin::{Admin, AdminListener};
use crate::base::endpoint::Endpoint;
use crate::buffer::room;
use crate::builtin::OfListener;
use crate::builtin::url::{ServiceOptions, Spec};
use crate::error::StartError;
use crate::net::bind::ListenAddress;
use crate::net::transport::TransportOptions;
use crate::server::{Drained, ServerHandle};
use cli::Cli;
use failure::Failure;
use log_writer::LogWriter;
use log_writer::limit::Limited;
use settings::{Settings, Sources};

mod check;
#[cfg(feature = "daemon")]
pub mod cli;
#[cfg(feature = "daemon")]
pub mod connect;
mod failure;
mod inherited;
mod log_writer;
mod report;
mod settings;
#[cfg(test)]
mod tests;

/// Exit code of a failure at start or at run time.
const FAILED: u8 = 1;
/// Exit code for a command line that would be wrong on every machine. clap uses the same.
const USAGE: u8 = 2;

/// How long the ready lines and the exit each wait for log lines that are not written yet.
const LOG_FLUSH: Duration = Duration::from_secs(1);

/// Drain time-out when the parent process is gone. Most likely its clients are gone too.
const ORPHAN_DRAIN: Duration = Duration::from_secs(1);

/// Memory that the program needs in addition to that of the server, in bytes: the queue of the log,
/// the command line, and the text that it prints.
const PROGRAM_BYTES: u64 = 8 << 20;

/// Stack size of a helper thread, in bytes. Each thread only formats a line now and then.
const HELPER_STACK_BYTES: usize = 256 << 10;

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

/// Runs the daemon until it is told to stop. `args` are the arguments of the process, including its
/// name.
///
/// Exit codes: 0 if it was told to stop, even if the drain time-out cut connections (the log says
/// how many); 1 if it could not start or failed; 2 if the command line is wrong.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    if let Err(code) = check_memory() {
        return code;
    }
    let cli = match Sources::new(args, std::env::vars_os()).read() {
        Ok(cli) => cli,
        Err(error) => {
            // Also --help and --version, on standard output and with code 0.
            let _ = error.print();
            return ExitCode::from(error.exit_code());
        }
    };
    if cli.check {
        return check::run(&cli, &mut io::stdout().lock(), &mut io::stderr().lock());
    }
    let mut log = match start_log(cli.log, cli.log_limit) {
        Ok(log) => log,
        Err(error) => {
            let _ = writeln!(io::stderr(), "echopool: cannot start the log: {error}");
            return ExitCode::from(FAILED);
        }
    };
    cli.settings.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    let code = match serve(&cli, &log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Written at every log level.
            let _ = log.write_all(format!("{failure}\n").as_bytes());
            ExitCode::from(failure.code)
        }
    };
    log.flush(LOG_FLUSH);
    code
}

/// Logs to standard error, through a queue. If the process already has a logger, keeps it.
/// `per_second` limits the lines of each level that clients can cause.
fn start_log(level: Option<LevelFilter>, per_second: Option<u32>) -> io::Result<LogWriter> {
    // With a handler, a write beyond the file size limit fails and does not end the process.
    signal_hook::flag::register(SIGXFSZ, Arc::default())?;
    let style = anstream::AutoStream::choice(&io::stderr()).into();
    let writer = LogWriter::start(io::stderr(), style, per_second)?;
    let mut builder = env_logger::Builder::new();
    builder.write_style(style).target(env_logger::Target::Pipe(Box::new(writer.clone())));
    match level {
        Some(level) => builder.filter_module("echopool", level),
        None if std::env::var_os("RUST_LOG").is_some() => builder.parse_default_env(),
        None => builder.filter_module("echopool", LevelFilter::Info),
    };
    // Figures that were requested are logged at any level.
    builder.filter_module(report::TARGET, LevelFilter::Info);
    let logger = builder.build();
    let level = logger.filter();
    if log::set_boxed_logger(Box::new(Limited::new(logger, writer.clone()))).is_ok() {
        log::set_max_level(level);
    }
    log_panics(writer.clone());
    Ok(writer)
}

/// Makes panics write to the queue of the log. The default hook writes to standard error and would
/// block a worker whose service panics.
fn log_panics(log: LogWriter) {
    panic::set_hook(Box::new(move |panic| {
        if !log.admits(log::Level::Error) {
            return;
        }
        let current = thread::current();
        let thread = current.name().unwrap_or("<unnamed>");
        let mut text = format!("thread '{thread}' {panic}\n");
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            text.push_str(&format!("stack backtrace:\n{backtrace}\n"));
        }
        let _ = log.clone().write_all(text.as_bytes());
    }));
}

fn serve(cli: &Cli, log: &LogWriter) -> Result<(), Failure> {
    let settings = &cli.settings;
    let (config, options) = cli.config().map_err(Failure::new)?;
    // Before the server starts: from here on, a signal is kept until it can be handled.
    let signals = inherited::catch(&[SIGTERM, SIGINT, SIGHUP, SIGUSR1])
        .map_err(|error| Failure::new(format_args!("cannot catch signals: {error}")))?;
    let end_of_signals = signals.handle();
    let admin = cli.admin.as_ref().map(|at| bind_admin(at, settings)).transpose()?;
    let transports: Vec<_> = config.listen.iter().map(|on| on.transport.clone()).collect();
    let server = OfListener::new(options.clone()).start(config);
    let server = server.map_err(|error| Failure::of_start(&error, settings))?;
    report::limits(&server.limits());
    report::busy_workers(&server.limits());
    log::info!("{}", server.memory());

    let targets = targets(server.local_endpoints(), options.into_iter().zip(transports));
    let admin = admin.map(|listener| listener.targets(targets.clone()).serve(&server)).transpose();
    let admin = admin
        .map_err(|error| Failure::new(format_args!("cannot serve the admin address: {error}")))?;
    let admin_at = admin.as_ref().map_or(&[][..], Admin::addresses).to_owned();
    let ending = Arc::new(Ending {
        server,
        admin,
        begun: AtomicBool::new(false),
        drain_delay: cli.drain_delay,
        drain_timeout: cli.drain_timeout,
    });
    start_threads(cli, signals, &ending)?;
    // A process that reads a ready line finds the limits and the memory sum in the log.
    log.flush(LOG_FLUSH);
    say_ready(&targets, &admin_at, &mut io::stdout().lock());
    let drained = ending.server.wait();
    end_of_signals.close();
    report::end(drained, &ending.server.stats().total());
    match drained {
        Drained::Clean | Drained::Cut(_) => Ok(()),
        Drained::Failed | Drained::OnWorkerThread => {
            Err(Failure::new("a worker failed; the log says why"))
        }
    }
}

/// Binds the address of `--admin`, before the server starts and accepts clients.
fn bind_admin(at: &ListenAddress, settings: &Settings) -> Result<AdminListener, Failure> {
    let endpoints = at.resolve().map_err(Failure::new)?;
    let addresses: Vec<_> = endpoints.iter().filter_map(|on| on.endpoint.socket_addr()).collect();
    AdminListener::bind(&addresses).map_err(|error| match error {
        StartError::AddressInUse(endpoint) => Failure::new(format_args!(
            "cannot listen on {endpoint} (--admin): the address is in use; stop the program that has \
             it, or give another port (0 takes a free one)"
        )),
        other => Failure::of_start(&other, settings),
    })
}

/// The server, and whether it was told to stop.
struct Ending {
    server: ServerHandle,
    admin: Option<Admin>,
    begun: AtomicBool,
    drain_delay: Duration,
    drain_timeout: Duration,
}

impl Ending {
    /// The first call drains, after the delay. The second call stops at once.
    fn next(self: &Arc<Ending>, why: &str) {
        if self.begun.swap(true, Ordering::AcqRel) {
            log::warn!("{why}: stopping at once");
            self.server.stop();
            return;
        }
        let Ending { drain_delay, drain_timeout, .. } = **self;
        if let Some(admin) = &self.admin {
            admin.withdraw();
        }
        if !drain_delay.is_zero() {
            log::info!("{why}: not ready any more, draining in {drain_delay:?}");
            let ending = Arc::clone(self);
            let drain = move || {
                thread::sleep(drain_delay);
                log::info!("draining, {drain_timeout:?} at most");
                ending.server.begin_drain(drain_timeout);
            };
            match spawn("drain delay", drain) {
                Ok(()) => return,
                Err(failure) => log::warn!("{}; draining at once", failure.text),
            }
        }
        log::info!("{why}: draining, {drain_timeout:?} at most");
        self.server.begin_drain(drain_timeout);
    }
}

fn start_threads(cli: &Cli, signals: Signals, ending: &Arc<Ending>) -> Result<(), Failure> {
    let for_signals = Arc::clone(ending);
    spawn("signals", move || obey(signals, &for_signals))?;
    if let Some(interval) = cli.stats_interval {
        let ending = Arc::clone(ending);
        spawn("stats", move || report_rates(&ending.server, interval))?;
    }
    if cli.until_stdin_closes {
        let ending = Arc::clone(ending);
        spawn("stdin", move || end_with_stdin(&ending))?;
    }
    Ok(())
}

fn spawn(name: &'static str, body: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let refused = |error| Failure::new(format_args!("cannot start the thread '{name}': {error}"));
    room::check(HELPER_STACK_BYTES as u64).map_err(refused)?;
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(HELPER_STACK_BYTES)
        .spawn(body)
        .map(drop)
        .map_err(refused)
}

/// Handles the signals. The signal handler itself only wakes this thread.
fn obey(mut signals: Signals, ending: &Arc<Ending>) {
    let (mut last_totals, mut last_hangup) = (None, None);
    for signal in signals.forever() {
        match signal {
            SIGUSR1 if is_due(&mut last_totals) => report::totals(&ending.server.stats().total()),
            SIGHUP if is_due(&mut last_hangup) => {
                log::info!("SIGHUP: ignored, there is no file to open or read again");
            }
            SIGUSR1 | SIGHUP => {}
            SIGINT => ending.next("SIGINT"),
            _ => ending.next("SIGTERM"),
        }
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

/// Logs the rates once per interval, counted from the start so that the lines do not drift.
fn report_rates(server: &ServerHandle, interval: Duration) {
    let mut last = (Instant::now(), server.stats().total());
    let mut next = last.0;
    loop {
        next += interval;
        thread::sleep(next.saturating_duration_since(Instant::now()));
        let now = (Instant::now(), server.stats().total());
        report::rates(&last.1, &now.1, now.0 - last.0);
        // After a suspension, logs one line for the whole time instead of one for each interval.
        next = next.max(now.0.checked_sub(interval).unwrap_or(now.0));
        last = now;
    }
}

/// Stops the server soon after standard input has ended, because the process at its other end is
/// gone.
fn end_with_stdin(ending: &Ending) {
    let mut stdin = io::stdin().lock();
    let mut ignored = [0; 256];
    loop {
        match stdin.read(&mut ignored) {
            Ok(0) => break,
            Err(error) if error.kind() != io::ErrorKind::Interrupted => break,
            _ => {}
        }
    }
    if !ending.begun.swap(true, Ordering::AcqRel) {
        log::info!("standard input has ended: draining, {ORPHAN_DRAIN:?} at most");
        ending.server.begin_drain(ORPHAN_DRAIN);
    }
    // A drain started by a signal may have a longer time-out.
    thread::sleep(ORPHAN_DRAIN);
    ending.server.stop();
}

/// The services and addresses of the listeners, in the form that loadgen and `echopool connect`
/// accept.
fn targets(
    endpoints: &[Endpoint],
    on: impl Iterator<Item = (ServiceOptions, TransportOptions)>,
) -> Vec<Spec> {
    let spec = |(endpoint, (service, transport)): (&Endpoint, _)| Spec {
        service,
        transport,
        address: endpoint.address(),
    };
    endpoints.iter().zip(on).map(spec).collect()
}

/// Prints where the server listens, and the admin addresses. Keeps running if the output cannot be
/// written.
fn say_ready(targets: &[Spec], admin: &[SocketAddr], out: &mut impl Write) {
    let mut lines = String::new();
    for target in targets {
        lines.push_str(&format!("echopool listening on {target}\n"));
    }
    for address in admin {
        lines.push_str(&format!("echopool admin on http://{address}\n"));
    }
    if let Err(error) = out.write_all(lines.as_bytes()).and_then(|()| out.flush()) {
        log::warn!("cannot write the ready lines to standard output: {error}");
    }
}
