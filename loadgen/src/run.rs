//! A run from the command line to the report: look at the machine, plan, start a server if there
//! is none, drive the clients, watch them, and write down what came out.

use std::fs::File;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use echopool::internals;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::args::Args;
use crate::client::Client;
use crate::control::Control;
use crate::cpu;
use crate::failure::{Exit, Failure};
use crate::hub::Members;
use crate::limits::Machine;
use crate::outcome::Records;
use crate::own_server::OwnServer;
use crate::plan::Plan;
use crate::progress::{Progress, Stage};
use crate::report::Report;
use crate::rude::Rude;
use crate::target::{self, Address};

/// How often the main thread looks at signals, the server and the counters.
const WATCH_INTERVAL: Duration = Duration::from_millis(20);

/// How long after its connections a server that dies is seen to be dead.
const SERVER_END_GRACE: Duration = Duration::from_millis(200);

/// Makes the run that the command line asks for, and writes its report.
///
/// # Errors
/// There is no report, and why.
pub fn run(args: &Args) -> Result<Exit, Failure> {
    let interrupted = on_signals()?;
    let machine = Machine::read();
    let address = args.target.as_ref().and_then(|target| target.address.as_ref());
    let target = address.map(resolve).transpose()?;
    let mut plan = Plan::new(args, &machine, target, args.seed.unwrap_or_else(new_seed))?;
    let mut out = open_output(args)?;
    if let Some(shortfall) = &plan.shortfall {
        eprintln!("loadgen: {shortfall}; going on with {}", plan.connections);
    }
    if plan.sources_unused > 0 {
        eprintln!(
            "loadgen: the first {} source addresses are used; there are {} more",
            plan.sources.len(),
            plan.sources_unused
        );
    }
    let mut server = match plan.own_server {
        true => Some(OwnServer::start(&plan)?),
        false => None,
    };
    if let Some(server) = &server {
        plan.target = server.address();
    }
    announce(&plan);
    let report = drive(Arc::new(plan), server.as_mut(), &interrupted)?;
    // Before the report, so that the server's own warnings do not follow it.
    drop(server);
    report
        .write(&mut out, args.output.output_format, args.output.latency)
        .map_err(|error| Failure::Setup(format!("cannot write the report: {error}")))?;
    Ok(report.exit())
}

/// The first signal sets the flag, the second one ends the process at once.
fn on_signals() -> Result<Arc<AtomicBool>, Failure> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let exit = Exit::Interrupted as i32;
        // In this order: the exit looks at what earlier signals have set.
        signal_hook::flag::register_conditional_shutdown(signal, exit, interrupted.clone())
            .and_then(|_| signal_hook::flag::register(signal, interrupted.clone()))
            .map_err(|error| Failure::Setup(format!("cannot handle signals: {error}")))?;
    }
    Ok(interrupted)
}

/// The address of a target. Where a name has several, the first that can be connected to.
fn resolve(address: &Address) -> Result<SocketAddr, Failure> {
    let Address { host, port } = address;
    let addresses: Vec<_> = (host.as_str(), *port)
        .to_socket_addrs()
        .map_err(|error| Failure::Setup(format!("cannot look up {host}: {error}")))?
        .collect();
    let answers =
        |address: &&SocketAddr| TcpStream::connect_timeout(address, Duration::from_secs(3)).is_ok();
    match addresses.as_slice() {
        [] => Err(Failure::Setup(format!("{host} has no address"))),
        [only] => Ok(*only),
        [first, ..] => Ok(*addresses.iter().find(answers).unwrap_or(first)),
    }
}

/// Different for each run, so that bytes of an earlier one are foreign.
fn new_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

/// Opened before the run, which would be in vain if it could not be.
fn open_output(args: &Args) -> Result<Box<dyn Write>, Failure> {
    let Some(path) = &args.output.output else { return Ok(Box::new(io::stdout())) };
    let file = File::create(path);
    let file = file
        .map_err(|error| Failure::Setup(format!("cannot write to {}: {error}", path.display())))?;
    Ok(Box::new(file))
}

fn announce(plan: &Plan) {
    let mib = plan.memory_bytes() as f64 / f64::from(1 << 20);
    eprintln!(
        "loadgen: {} connections to {}, {} threads, up to {mib:.1} MiB for buffers \
         and tables",
        plan.connections,
        target::url(plan.service, plan.target),
        plan.threads
    );
}

/// Drives the clients, and answers when all of them are done.
fn drive(
    plan: Arc<Plan>,
    server: Option<&mut OwnServer>,
    interrupted: &AtomicBool,
) -> Result<Report, Failure> {
    let rude = usize::from(plan.rude.total() > 0);
    let control = Arc::new(Control::new(plan.threads, rude, plan.requests));
    let results = start_threads(&plan, &control)?;
    let mut watch = Watch {
        progress: Progress::new(plan.clone()),
        server_use: ServerUse::default(),
        warmup: plan.warmup,
        control,
        server,
        interrupted,
        failure: None,
    };
    let records = watch.until_all_end(plan.threads + rude, &results);
    watch.progress.finish();
    if let Some(failure) = watch.failure {
        return Err(failure);
    }
    let interrupted = interrupted.load(Relaxed);
    if records.established == 0 && !interrupted {
        return Err(no_connection(&plan, &records));
    }
    let server_cores = watch.server_use.cores();
    Ok(Report { plan, records, interrupted, server_cores })
}

fn no_connection(plan: &Plan, records: &Records) -> Failure {
    let commonest = records.connect_errors.iter().max_by_key(|(_, count)| **count);
    let reason = commonest.map_or("nothing was tried".into(), |(errno, count)| {
        let error = io::Error::from_raw_os_error(*errno);
        format!("{error} ({count} of {} attempts)", plan.connections)
    });
    Failure::Setup(format!("no connection to {} could be established: {reason}", plan.target))
}

type ThreadResult = Result<Records, Failure>;

fn start_threads(
    plan: &Arc<Plan>,
    control: &Arc<Control>,
) -> Result<Receiver<ThreadResult>, Failure> {
    let (send, results) = channel();
    let hall = plan.hall().map(Arc::new);
    for nth in 0..plan.threads {
        let (plan, control, hall) = (plan.clone(), control.clone(), hall.clone());
        start_thread(format!("clients-{nth}"), &control.clone(), &send, move || {
            let limits = plan.share(nth).limits;
            if let Some(hall) = hall {
                let members = Members::new(plan, control, hall, nth);
                return internals::run_clients(limits, members).map(Members::into_records);
            }
            let client = Client::new(plan, control, nth, internals::now);
            internals::run_clients(limits, client).map(Client::into_records)
        })?;
    }
    if plan.rude.total() > 0 {
        let (plan, control) = (plan.clone(), control.clone());
        start_thread("rude-clients".into(), &control.clone(), &send, move || {
            let limits = plan.rude.limits(plan.share(0).limits.linger);
            let rude = internals::run_clients(limits, Rude::new(plan, control))?;
            Ok(Records { rude: rude.into_counts(), ..Records::default() })
        })?;
    }
    Ok(results)
}

fn start_thread(
    name: String,
    control: &Arc<Control>,
    results: &Sender<ThreadResult>,
    run: impl FnOnce() -> io::Result<Records> + Send + 'static,
) -> Result<(), Failure> {
    let (control, results) = (control.clone(), results.clone());
    let body = move || {
        // Whatever ends this thread before its time, the others must not wait for it.
        let mut end = StopUnlessFinished { control, finished: false };
        let records = run();
        end.finished = records.is_ok();
        let failed = |error| Failure::Setup(format!("a thread of clients failed: {error}"));
        // The receiver is gone only if the run has failed already.
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

/// What the main thread does while the clients run.
struct Watch<'a> {
    control: Arc<Control>,
    warmup: Duration,
    progress: Progress,
    server: Option<&'a mut OwnServer>,
    server_use: ServerUse,
    interrupted: &'a AtomicBool,
    failure: Option<Failure>,
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
                    self.look();
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
            // Connections may be seen to end before the server that they ended with.
            self.look_at_server(SERVER_END_GRACE);
        }
        all
    }

    fn look(&mut self) {
        if self.interrupted.load(Relaxed) {
            self.control.stop();
        }
        self.look_at_server(Duration::ZERO);
        let stage = self.stage();
        if let Some(server) = &self.server {
            self.server_use.sample(stage, server.process_id());
        }
        self.progress.update(stage, &self.control.snapshot());
    }

    /// A server that has ended, or does within this time, fails the run.
    fn look_at_server(&mut self, wait: Duration) {
        if let Some(status) = self.server.as_mut().and_then(|server| server.wait(wait)) {
            let text = format!("the server ended in the middle of the run ({status})");
            self.fail(Failure::Setup(text));
        }
    }

    /// The first failure is the cause of the others.
    fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
        self.control.stop();
    }

    fn stage(&self) -> Stage {
        match self.control.start_at() {
            Some(_) if self.control.all_measured() => Stage::Finishing,
            // Zero while warming up.
            Some(start) if internals::now() >= start => {
                Stage::Measuring(internals::now() - (start + self.warmup))
            }
            _ => Stage::Connecting,
        }
    }
}

/// The server's processor time at the begin and at the end of the measured period, and when that
/// was looked at.
#[derive(Default)]
struct ServerUse {
    first: Option<(Instant, Duration)>,
    last: Option<(Instant, Duration)>,
}

impl ServerUse {
    fn sample(&mut self, stage: Stage, process: u32) {
        if !matches!(stage, Stage::Measuring(since) if since > Duration::ZERO) {
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
