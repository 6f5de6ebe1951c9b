//! Drives the clients of one run from the first connect to the last close, and monitors them.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Once};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use echopool::error::Errno;
use echopool::internals::{self, ClientLimits};
use echopool::service::Service;
use signal_hook::consts::{
    SIGABRT, SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1,
    SIGUSR2, SIGVTALRM, SIGXCPU, SIGXFSZ,
};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::cli::{OutputArgs, ProgressForm};
use crate::error::{Exit, Failure};
use crate::exec::barrier::StartGate;
use crate::exec::client::Client;
use crate::exec::clocks;
use crate::exec::control::{Control, START_DELAY, Start};
use crate::exec::datagram;
use crate::exec::hub::Members;
use crate::exec::hub::senders::SharedSenders;
use crate::exec::local_server::LocalServer;
use crate::exec::rude::{self, Rude};
use crate::plan::calibration::{MachineName, Standing};
use crate::plan::{Plan, addresses};
use crate::report::schema::ClockComparison;
use crate::report::{Abort, Outputs, Report, Rows};
use crate::stats::cpu;
use crate::stats::interval::{Collector, Interval};
use crate::stats::records::{Records, latency_histogram};
use crate::stats::slo::{Observed, Slo};
use crate::units::time_text;
use crate::view::progress::{Progress, RunStage};
use crate::view::terminal::{self, Keys};

/// Interval at which the main thread checks signals, the server and the counters.
const WATCH_INTERVAL: Duration = Duration::from_millis(20);

/// Signals that stop or end the program unless they are handled. The terminal is restored first.
const STOPPING: [i32; 12] = [
    SIGTSTP, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGXCPU, SIGXFSZ,
    SIGIO, SIGABRT,
];

/// How long after its connections a dying server is noticed. A busy machine may take a while to end
/// a process whose sockets are closed.
const SERVER_END_GRACE: Duration = Duration::from_secs(2);

/// The first signal sets the flag; the second one ends the process at once.
pub fn on_signals() -> Result<Arc<AtomicBool>, Failure> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let failed = |error| Failure::Setup(format!("cannot handle signals: {error}"));
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
    let flag = interrupted.clone();
    let thread = thread::Builder::new().name("signals".into()).spawn(move || {
        for _ in signals.forever() {
            if flag.swap(true, Relaxed) {
                terminal::close();
                std::process::exit(Exit::Interrupted as i32);
            }
        }
    });
    thread.map_err(failed)?;
    Ok(interrupted)
}

/// Drives the clients, and returns when all of them are done. `gate`: what to wait for when all
/// connections are established.
///
/// # Errors
/// The set-up or the run failed, or an output could not be written.
pub fn drive(
    plan: Arc<Plan>,
    gate: Option<StartGate>,
    output: &OutputArgs,
    server: Option<&mut LocalServer>,
    interrupted: &AtomicBool,
    outputs: &mut Outputs,
) -> Result<Report, Failure> {
    let start = Arc::new(Start::new(threads(&plan)).held(gate.is_some()));
    let when = When { start, delay: Duration::ZERO, gate };
    drive_after(when, plan, output, server, interrupted, outputs)
}

/// Threads of a run that become ready.
pub fn threads(plan: &Plan) -> usize {
    plan.threads + usize::from(plan.rude.total() > 0)
}

/// When a run begins: `delay` after a start that others may share, which the gate sets if there is
/// one.
pub struct When {
    pub start: Arc<Start>,
    pub delay: Duration,
    pub gate: Option<StartGate>,
}

/// The same for one of several runs at once. It connects with them, and begins after their common start. If one of them fails, all end.
///
/// # Errors
/// As for [`drive`].
pub fn drive_after(
    when: When,
    plan: Arc<Plan>,
    output: &OutputArgs,
    server: Option<&mut LocalServer>,
    interrupted: &AtomicBool,
    outputs: &mut Outputs,
) -> Result<Report, Failure> {
    let When { start, delay, gate } = when;
    let control = Arc::new(Control::of_several(start, delay, plan.threads, plan.own_requests()));
    let collector = Collector::new(control.handovers(), control.tallies().clone());
    let results = start_threads(&plan, &control)?;
    let form = output.progress_form(terminal::may_show(io::stdout()));
    let has_view = form == ProgressForm::Auto && terminal::can_redraw();
    if has_view {
        restore_on_signals();
    }
    // Keys are only read if the view says so.
    let keys = has_view.then(Keys::open).flatten();
    let mut watch = Watch {
        progress: Progress::new(plan.clone(), form, keys.is_some()),
        keys,
        intervals: Intervals {
            plan: plan.clone(),
            control: control.clone(),
            collector,
            outputs,
            rows: Rows::new(plan.duration),
            began_at: None,
            aborted: None,
        },
        server_use: ServerUse::default(),
        warmup: plan.warmup,
        control,
        server,
        gate,
        clock: None,
        interrupted,
        failure: None,
    };
    let records = watch.until_all_end(threads(&plan), &results);
    watch.emit_last_intervals(&records);
    drop(watch.progress);
    drop(watch.keys);
    if let Some(failure) = watch.failure {
        return Err(failure);
    }
    let interrupted = interrupted.load(Relaxed);
    if records.established == 0 && !interrupted {
        return Err(no_connection(&plan, &records));
    }
    let (server_cores, clock) = (watch.server_use.cores(), watch.clock);
    let Intervals { began_at, aborted, rows, .. } = watch.intervals;
    let calibration = Standing::find(output.calibration.as_deref(), &plan);
    Ok(Report {
        plan,
        records,
        began_at,
        clock,
        interrupted,
        aborted,
        server_cores,
        calibration,
        intervals: rows.finish(),
        command: std::env::args_os().map(|word| word.to_string_lossy().into()).collect(),
        machine: Some(MachineName::read()),
    })
}

fn no_connection(plan: &Plan, records: &Records) -> Failure {
    let is_unix = plan.targets.iter().all(|target| target.socket_addr().is_none());
    let of_system = records.connect_errors.iter().map(|(errno, count)| {
        let error = io::Error::from_raw_os_error(*errno).to_string();
        (*count, error, remedy(Errno::from_raw_os_error(*errno), is_unix))
    });
    let handshakes = records.tls.iter().flat_map(|tls| &tls.failed);
    // The text of these has the remedy.
    let of_tls = handshakes.map(|(error, count)| (*count, error.to_string(), ""));
    let commonest = of_system.chain(of_tls).max_by_key(|(count, ..)| *count);
    let reason = commonest.map_or("no attempt was made".into(), |(count, error, remedy)| {
        format!("{error} ({count} of {} attempts){remedy}", plan.connections)
    });
    let targets = plan.targets_text();
    Failure::Setup(format!("no connection to {targets} could be established: {reason}"))
}

/// The remedy for a connect that failed with this error number.
fn remedy(errno: Errno, is_unix: bool) -> &'static str {
    match errno {
        Errno::CONNREFUSED | Errno::NOENT if is_unix => "; start the server, or check the path",
        Errno::TIMEDOUT if is_unix => "; the server's backlog is full, or raise --timeout",
        Errno::ACCESS if is_unix => "; let this user write to the socket file",
        Errno::CONNREFUSED => "; start the server, or check the port",
        Errno::TIMEDOUT => "; check the address and packet filters, or raise --timeout",
        Errno::NETUNREACH | Errno::HOSTUNREACH => "; check the address and the routes",
        Errno::ADDRNOTAVAIL => {
            "; check that --source-ip is an address of this machine and has free ports"
        }
        Errno::ACCESS | Errno::PERM => "; check the address and packet filters",
        Errno::MFILE => "; allow this process more open files (ulimit -n)",
        _ => "",
    }
}

type ThreadResult = Result<Records, Failure>;

fn start_threads(
    plan: &Arc<Plan>,
    control: &Arc<Control>,
) -> Result<Receiver<ThreadResult>, Failure> {
    let (send, results) = channel();
    let shared = SharedSenders::of_plan(plan).map(Arc::new);
    for nth in 0..plan.threads {
        let (plan, control, shared) = (plan.clone(), control.clone(), shared.clone());
        start_thread(
            format!("{}{nth}", cpu::CLIENT_THREADS),
            &control.clone(),
            &send,
            move || {
                if plan.over_udp {
                    return datagram::run(plan, control, nth);
                }
                let limits = plan.share(nth).limits;
                if let Some(shared) = shared {
                    let members = Members::new(plan.clone(), control, shared, nth);
                    return run_clients(&plan, [0, 0], limits, members).map(Members::into_records);
                }
                let client = Client::new(plan.clone(), control, nth, internals::now);
                run_clients(&plan, [0, 0], limits, client).map(Client::into_records)
            },
        )?;
    }
    if plan.rude.total() > 0 {
        let (plan, control) = (plan.clone(), control.clone());
        start_thread("rude-clients".into(), &control.clone(), &send, move || {
            let limits = rude::limits(&plan, plan.share(0).limits.linger);
            let rude = Rude::new(plan.clone(), control);
            let first = [plan.first_rude(), plan.connections_all];
            let rude = run_clients(&plan, first, limits, rude)?;
            Ok(Records { rude: rude.into_counts(), ..Records::default() })
        })?;
    }
    Ok(results)
}

/// Runs the clients of a thread on this thread, until they stop. `first` are the numbers of the
/// connection with tag 0, by which PROXY headers and targets are chosen.
fn run_clients<S: Service>(
    plan: &Arc<Plan>,
    first: [u64; 2],
    limits: ClientLimits,
    clients: S,
) -> io::Result<S> {
    let proxy = plan.proxy;
    let header = move |tag, target| {
        let number = first[0] + addresses::of_tag(tag).0;
        proxy.map_or(Vec::new(), |headers| headers.header(number, target))
    };
    if let Some(tls) = &plan.tls {
        let (tls, plan) = (tls.clone(), plan.clone());
        let connectors = tls.connectors();
        let server = move |tag| {
            let target = plan.target_index(first[1] + addresses::of_tag(tag).0);
            (connectors[target].clone(), tls.server(target))
        };
        return internals::run_clients_with_tls(limits, clients, header, server);
    }
    match proxy {
        None => internals::run_clients(limits, clients),
        Some(_) => internals::run_clients_with_prefix(limits, clients, header),
    }
}

fn start_thread(
    name: String,
    control: &Arc<Control>,
    results: &Sender<ThreadResult>,
    run: impl FnOnce() -> io::Result<Records> + Send + 'static,
) -> Result<(), Failure> {
    let (control, results) = (control.clone(), results.clone());
    let body = move || {
        // Other threads must not wait for this one if it ends early, for whatever reason.
        let mut end = StopUnlessFinished { control, finished: false };
        let records = run();
        end.finished = records.is_ok();
        let failed = |error| Failure::Setup(format!("a thread of clients failed: {error}"));
        // The receiver is gone only if the run has already failed.
        let _ = results.send(records.map_err(failed));
    };
    let started = thread::Builder::new().name(name).spawn(body);
    started.map_err(|error| Failure::Setup(format!("cannot start a thread: {error}")))?;
    Ok(())
}

struct StopUnlessFinished {
    control: Arc<Control>,
    finished: bool,
}

impl Drop for StopUnlessFinished {
    fn drop(&mut self) {
        if !self.finished {
            self.control.stop();
        }
    }
}

/// The work of the main thread while the clients run.
struct Watch<'a> {
    control: Arc<Control>,
    warmup: Duration,
    progress: Progress,
    keys: Option<Keys>,
    intervals: Intervals<'a>,
    server: Option<&'a mut LocalServer>,
    server_use: ServerUse,
    gate: Option<StartGate>,
    /// How this machine's clock stands to that of shard 0.
    clock: Option<ClockComparison>,
    interrupted: &'a AtomicBool,
    failure: Option<Failure>,
}

/// Processes each second.
struct Intervals<'a> {
    plan: Arc<Plan>,
    control: Arc<Control>,
    collector: Collector,
    outputs: &'a mut Outputs,
    /// The seconds so far, for the summary.
    rows: Rows,
    /// When the measured period began.
    began_at: Option<SystemTime>,
    /// Why the run is ended early.
    aborted: Option<Abort>,
}

impl Watch<'_> {
    fn until_all_end(&mut self, threads: usize, results: &Receiver<ThreadResult>) -> Records {
        let mut all = Records::default();
        let mut ended = 0;
        while ended < threads {
            match results.recv_timeout(WATCH_INTERVAL) {
                Ok(Ok(records)) => all.merge(records),
                Ok(Err(failure)) => self.fail(failure),
                Err(RecvTimeoutError::Timeout) => {
                    self.poll();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.fail(Failure::Setup("a thread of clients panicked".into()));
                    break;
                }
            }
            ended += 1;
        }
        if all.losses.total() + all.connect_failed() > 0 {
            // The end of connections may be noticed before the end of their server.
            self.check_server(SERVER_END_GRACE);
        }
        all
    }

    fn poll(&mut self) {
        if self.keys.as_mut().is_some_and(Keys::quit) {
            self.interrupted.store(true, Relaxed);
        }
        if self.interrupted.load(Relaxed) {
            self.control.stop();
        }
        self.check_server(Duration::ZERO);
        self.start_if_open();
        let stage = self.stage();
        if let Some(server) = &self.server {
            self.server_use.sample(stage, server.process_id());
        }
        let counts = self.control.tallies().snapshot();
        if let RunStage::Measuring(since) = stage {
            self.emit_intervals(since);
        }
        self.intervals.abort_on_errors(counts.errors());
        if self.intervals.aborted.is_some() {
            self.control.stop();
        }
        self.progress.update(stage, &counts);
    }

    /// Sets the start, if the run is ready and the gate is open.
    fn start_if_open(&mut self) {
        if self.failure.is_some() || !self.control.waits_for_start() {
            return;
        }
        let Some(gate) = &mut self.gate else { return };
        match gate.poll() {
            Ok(None) => {}
            Ok(Some(begin)) => {
                self.clock = begin.clock;
                let (now, wall) = clocks::together();
                let late = wall.duration_since(begin.at).unwrap_or_default();
                if !late.is_zero() {
                    terminal::message(format_args!(
                        "loadgen: the connections were established {} after the common start",
                        time_text(late)
                    ));
                }
                let ahead = begin.at.duration_since(wall).unwrap_or_default();
                self.control.start(now + ahead.max(START_DELAY));
            }
            Err(text) => self.fail(Failure::Setup(text)),
        }
    }

    fn emit_intervals(&mut self, since: Duration) {
        let written = self.intervals.emit_complete(since, &mut self.progress);
        written.unwrap_or_else(|failure| self.fail(failure));
    }

    /// Processes the remaining seconds when all threads have ended.
    fn emit_last_intervals(&mut self, records: &Records) {
        let connected = records.established > 0;
        if connected && self.failure.is_none() && self.control.start_at().is_some() {
            let written = self.intervals.emit_rest(records.elapsed(), &mut self.progress);
            written.unwrap_or_else(|failure| self.fail(failure));
        }
    }

    /// Fails the run if the server has ended, or ends within `wait`.
    fn check_server(&mut self, wait: Duration) {
        if let Some(status) = self.server.as_mut().and_then(|server| server.wait(wait)) {
            let text = format!("the server ended during the run ({status})");
            self.fail(Failure::Setup(text));
        }
    }

    /// The first failure is the cause of the others.
    fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
        self.control.stop();
    }

    fn stage(&self) -> RunStage {
        match self.control.start_at() {
            Some(_) if self.control.all_measured() => RunStage::Finishing,
            // Zero during the warm-up.
            Some(start) if internals::now() >= start => {
                RunStage::Measuring(internals::now() - (start + self.warmup))
            }
            _ => RunStage::Connecting,
        }
    }
}

impl Intervals<'_> {
    /// Shows and writes each second that is complete.
    fn emit_complete(&mut self, since: Duration, progress: &mut Progress) -> Result<(), Failure> {
        // Without a connection there may be nothing to report, and earlier files stay.
        if self.began_at.is_some() || self.control.tallies().snapshot().open > 0 {
            self.begin()?;
        }
        if self.began_at.is_none() {
            return Ok(());
        }
        while let Some(second) = self.collector.next(since) {
            progress.second(second);
            self.rows.push(second);
            self.outputs.second(second)?;
            if self.plan.abort_on_fail && self.aborted.is_none() {
                self.aborted = missed(&self.plan.slos, second);
            }
        }
        Ok(())
    }

    /// Shows and writes the remaining seconds of a measured period of length `elapsed`.
    fn emit_rest(&mut self, elapsed: Duration, progress: &mut Progress) -> Result<(), Failure> {
        self.begin()?;
        while let Some(second) = self.collector.rest(elapsed) {
            progress.second(second);
            self.rows.push(second);
            self.outputs.second(second)?;
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Failure> {
        let (None, Some(start)) = (self.began_at, self.control.start_at()) else { return Ok(()) };
        let start = start + self.plan.warmup;
        if internals::now() < start {
            return Ok(());
        }
        let (now, wall) = clocks::together();
        let began = wall - (now - start);
        self.began_at = Some(began);
        self.outputs.begin(&self.plan.targets_text(), began)
    }

    fn abort_on_errors(&mut self, errors: u64) {
        if self.plan.abort_on_fail && self.aborted.is_none() && errors > 0 {
            self.aborted = Some(Abort::Errors(errors));
        }
    }
}

/// Whether a second misses an objective. Errors are counted from the start of the run, because a
/// run cannot have fewer at its end.
fn missed(slos: &[Slo], second: &Interval) -> Option<Abort> {
    // The latencies are lower bounds at least, and only what they miss matters here.
    let observed = Observed {
        latency: &second.latency,
        unfinished: &latency_histogram(),
        generator_late: false,
        rate: second.is_whole().then(|| second.rate()),
        errors: second.counts.errors(),
    };
    let outcome = slos.iter().find_map(|slo| slo.missed_by(&observed))?;
    Some(Abort::Missed(second.number + 1, outcome))
}

/// The server's processor time at the start and at the end of the measured period, each with the
/// time of the reading.
#[derive(Default)]
struct ServerUse {
    first: Option<(Instant, Duration)>,
    last: Option<(Instant, Duration)>,
}

impl ServerUse {
    fn sample(&mut self, stage: RunStage, process: u32) {
        if !matches!(stage, RunStage::Measuring(since) if since > Duration::ZERO) {
            return;
        }
        let now = cpu::of_process(process).map(|used| (Instant::now(), used));
        self.first = self.first.or(now);
        self.last = now.or(self.last);
    }

    fn cores(&self) -> Option<f64> {
        let ((begin, before), (end, after)) = (self.first?, self.last?);
        let span = (end - begin).as_secs_f64();
        (span > 0.0).then(|| after.saturating_sub(before).as_secs_f64() / span)
    }
}

/// Signals that stop or end the program restore the terminal before they take effect. One that
/// continues it makes the view draw all anew.
fn restore_on_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // What the parent has ignored stays ignored, as nohup asks for.
        let handled = STOPPING.into_iter().chain([SIGCONT]);
        // Without this, a signal leaves the terminal as it is.
        let Ok(mut signals) = Signals::new(handled.filter(|one| !terminal::is_ignored(*one)))
        else {
            return;
        };
        let on_signals = move || {
            for signal in signals.forever() {
                if signal != SIGCONT {
                    terminal::suspend();
                    // A stopped job continues here. If this fails the signal has no effect.
                    let _ = emulate_default_handler(signal);
                }
                terminal::resume();
            }
        };
        let _ = thread::Builder::new().name("job-control".into()).spawn(on_signals);
    });
}
