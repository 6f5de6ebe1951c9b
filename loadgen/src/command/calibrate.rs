//! `loadgen calibrate`: the highest rates of the generator on this machine, and the lowest latency
//! that it can measure, against a server that costs as little as possible.
//!
//! The server is the one that loadgen starts if it has no target, in its own process. Compared with
//! bare system calls it costs about three percent more per echo (docs/figures/cpu.md), its workers
//! use the processors that the generator leaves, and most runs that are compared with a calibration
//! use it. A sink on a thread of this process would save the three percent, but it would share open
//! files, allocator and processor time with what is measured.
//!
//! Each step is an ordinary run: every byte is verified, and the verdict is that of any run.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use clap::Parser;

use crate::cli::{OutputArgs, RunSpec};
use crate::command::drive;
use crate::error::{Exit, Failure};
use crate::exec::local_server::LocalServer;
use crate::files;
use crate::plan::Plan;
use crate::plan::calibration::{
    self, CalibratedLoad, Calibration, CalibrationType, Ceiling, FloorLatency, Generator,
    MachineName, SCHEMA_VERSION,
};
use crate::plan::machine::Machine;
use crate::report::outputs::Sink;
use crate::report::saved::SavedResult;
use crate::report::{Outputs, Report, Verdict};
use crate::traffic::rate::Rate;
use crate::traffic::sizes::Sizes;
use crate::units;
use crate::units::{counted, time_text};
use crate::view::terminal;

/// Finds the highest rates of the generator on this machine, in a closed and in an open loop, and
/// the lowest latency that it can measure.
///
/// loadgen calibrates against a server that it starts, and saves the result in a file. Later
/// reports show how much of these rates they used. Run it on a quiet machine; it uses all
/// processors for a few seconds.
#[derive(Parser, Debug)]
#[command(name = "loadgen calibrate", bin_name = "loadgen calibrate", version)]
pub struct CalibrateArgs {
    /// How long the calibration may take
    #[arg(short, long, value_name = "TIME", default_value = "5s", value_parser = units::duration)]
    duration: Duration,

    /// Concurrent connections
    #[arg(short, long, value_name = "N", default_value = "100", value_parser = units::positive)]
    connections: u64,

    /// Threads [default: half of the processors]
    #[arg(short, long, value_name = "N", value_parser = units::positive)]
    threads: Option<u64>,

    /// Bytes in a request, as for a run
    #[arg(short = 'l', long, value_name = "SIZE", default_value = "64")]
    size: Sizes,

    /// Outstanding requests per connection, at most
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = units::positive)]
    pipeline: u64,

    /// Never sleep, as for a run
    #[arg(long)]
    busy_poll: bool,

    /// Write the calibration to this file [default: echopool/calibration.json in $XDG_CACHE_HOME or
    /// ~/.cache, where later runs look for it]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Also write a page with the results
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Parts of the whole time: for the floor latency, for the closed loop, for each rate of the open
/// loop.
const FLOOR_PART: u32 = 5;
const CLOSED_PART: u32 = 5;
const OPEN_PART: u32 = 10;
/// Rates of an open loop that are tried. Each halves the uncertainty, which is at first the rate of
/// the closed loop; a 64th of that remains.
const OPEN_STEPS: u32 = 6;
/// Seed of the payload of all steps.
const SEED: u64 = 1;
/// From this share of waiting, the output says that the machine was busy.
const WAITING_MAX: f64 = 0.05;

/// Calibrates, prints the result, and writes it to the file.
///
/// # Errors
/// A step failed, or the file cannot be written.
pub fn run(args: &CalibrateArgs) -> Result<Exit, Failure> {
    let path = output_path(args)?;
    if args.html.as_deref().is_some_and(|html| files::are_one(html, &path)) {
        let text = format!("--output and --html are the same file, {}", path.display());
        return Err(Failure::Usage(text));
    }
    let mut html = args.html.as_deref().map(Sink::new).transpose()?;
    let load_average = load_average();
    let mut steps = Steps::start(args)?;
    match steps.calibrate(load_average) {
        Ok(found) => {
            found.write(&path).map_err(|error| cannot_write(&path, &error))?;
            crate::report::print(&format!("{}Written to {}\n", render(&found), path.display()))?;
            if let Some(html) = &mut html {
                html.write_page(SavedResult::Calibration(Box::new(found)))?;
            }
            Ok(Exit::Ok)
        }
        Err(Stop::Failure(failure)) => Err(failure),
        Err(Stop::Report(exit, text)) => {
            terminal::message(format_args!("loadgen: nothing was written: {text}"));
            Ok(exit)
        }
    }
}

/// The file to write. The default directory is created if it does not exist; another one is not.
fn output_path(args: &CalibrateArgs) -> Result<PathBuf, Failure> {
    if let Some(path) = &args.output {
        return Ok(path.clone());
    }
    let path = calibration::usual_path().ok_or_else(|| {
        let text = "neither XDG_CACHE_HOME nor HOME is set: give a file with --output";
        Failure::Usage(text.into())
    })?;
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    made.map_err(|error| cannot_write(&path, &error))?;
    Ok(path)
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::Setup(format!("cannot write to {}: {error}", path.display()))
}

/// Why there is no calibration.
enum Stop {
    Failure(Failure),
    /// A step did not have the necessary verdict.
    Report(Exit, String),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failure(failure)
    }
}

/// The steps of a calibration, which share a server.
struct Steps<'a> {
    args: &'a CalibrateArgs,
    machine: Machine,
    interrupted: Arc<AtomicBool>,
    server: LocalServer,
    sink_workers: usize,
    bytes_verified: u64,
}

impl Steps<'_> {
    fn start(args: &CalibrateArgs) -> Result<Steps<'_>, Failure> {
        let interrupted = drive::on_signals()?;
        let machine = Machine::read();
        let mut plan = Plan::new(&closed_spec(args, args.connections), &machine, &[], SEED)?;
        if let Some(shortfall) = &plan.shortfall {
            return Err(Failure::Setup(shortfall.to_string()));
        }
        // Twice as many, because connections of one step may still be closing when the next one
        // begins.
        plan.connections = 2 * args.connections;
        let server = LocalServer::start(&plan, |line| terminal::message(line))?;
        let sink_workers = plan.server_workers;
        Ok(Steps { args, machine, interrupted, server, sink_workers, bytes_verified: 0 })
    }

    fn calibrate(&mut self, load_average: Option<f64>) -> Result<Calibration, Stop> {
        let whole = self.args.duration;
        let floor = self.step("floor latency", closed_spec(self.args, 1), whole / FLOOR_PART)?;
        let spec = closed_spec(self.args, self.args.connections);
        let closed = self.step("closed loop", spec, whole / CLOSED_PART)?;
        let open_loop = self.open_loop(closed.requests_per_second())?;
        let latency = &floor.records.latency;
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Ok(Calibration {
            r#type: CalibrationType::Calibration,
            schema_version: SCHEMA_VERSION,
            calibrated_unix_ns: since_epoch.unwrap_or_default().as_nanos() as u64,
            machine: MachineName::read(),
            generator: Generator::this(),
            load: CalibratedLoad::of(&closed.plan),
            sink_workers: self.sink_workers,
            load_average,
            closed_loop: ceiling(&closed),
            open_loop,
            floor_latency: FloorLatency {
                min_ns: latency.min(),
                p50_ns: latency.value_at_quantile(0.5),
                p99_ns: latency.value_at_quantile(0.99),
            },
            bytes_verified: self.bytes_verified,
        })
    }

    /// The highest rate that is kept, between zero and the rate of the closed loop, which sends as
    /// fast as possible.
    fn open_loop(&mut self, closed_per_second: f64) -> Result<Option<Ceiling>, Stop> {
        let (mut kept, mut not_kept) = (0.0, closed_per_second);
        let mut best = None;
        for _ in 0..OPEN_STEPS {
            let rate = (kept + not_kept) / 2.0;
            let mut spec = closed_spec(self.args, self.args.connections);
            spec.load.rate = Some(Rate::per_second((rate as u64).max(1)));
            let report = self.step("open loop", spec, self.args.duration / OPEN_PART)?;
            if report.verdict() == Verdict::Valid && report.records.never_sent == 0 {
                (kept, best) = (rate, Some(ceiling(&report)));
            } else {
                not_kept = rate;
            }
        }
        Ok(best)
    }

    /// Makes a run against the sink. It may be generator-limited, which the caller handles; any
    /// other verdict ends the calibration.
    fn step(&mut self, name: &str, spec: RunSpec, duration: Duration) -> Result<Report, Stop> {
        let spec = RunSpec { duration: Some(duration), ..spec };
        let mut plan = Plan::new(&spec, &self.machine, &[], SEED)?;
        plan.targets = vec![self.server.address().into()];
        let output = OutputArgs::default().quiet();
        let mut outputs = Outputs::open(&output)?;
        let server = Some(&mut self.server);
        let report =
            drive::drive(Arc::new(plan), None, &output, server, &self.interrupted, &mut outputs)?;
        self.bytes_verified += report.records.bytes_verified;
        match report.verdict() {
            _ if report.interrupted => Err(Stop::Report(Exit::Interrupted, "interrupted".into())),
            Verdict::Valid | Verdict::GeneratorLimited => Ok(report),
            _ => Err(Stop::Report(report.exit(), format!("{name}: {}", report.verdict_text()))),
        }
    }
}

/// A run in a closed loop.
fn closed_spec(args: &CalibrateArgs, connections: u64) -> RunSpec {
    let (connections, threads) = (Some(connections), args.threads);
    let mut spec = RunSpec { connections, threads, ..RunSpec::default() };
    spec.load.size = args.size.clone();
    // The floor is the latency of one request at a time.
    spec.load.pipeline = if connections == Some(1) { 1 } else { args.pipeline };
    spec.load.busy_poll = args.busy_poll;
    spec
}

fn ceiling(report: &Report) -> Ceiling {
    Ceiling {
        requests_per_second: report.requests_per_second(),
        generator_busy_ratio: report.generator_busy(),
        generator_waiting_ratio: report.generator_waiting(),
        sink_cores: report.server_cores,
    }
}

/// Load average of the last minute.
fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

fn render(found: &Calibration) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{text}").expect("writing to a string");
    let MachineName { hostname, kernel, cpu, processors } = &found.machine;
    let load = found.load_average.map_or(String::new(), |load| format!(", load average {load}"));
    line(format!("Machine: {hostname}, kernel {kernel}, {processors} x {cpu}{load}"));
    let CalibratedLoad { threads, connections, sizes, pipeline, busy_poll } = &found.load;
    let polling = if *busy_poll { ", busily polling" } else { "" };
    line(format!(
        "Generator: {}, {}, {sizes} bytes, {pipeline} at a time{polling}; sink: an echo server with {}",
        counted(*threads as u64, "thread"),
        counted(*connections, "connection"),
        counted(found.sink_workers as u64, "worker")
    ));
    line(format!("Closed loop: {}", ceiling_text(&found.closed_loop)));
    line(match &found.open_loop {
        Some(ceiling) => format!("Open loop: {}", ceiling_text(ceiling)),
        None => "Open loop: no rate was kept".into(),
    });
    let FloorLatency { min_ns, p50_ns, p99_ns } = found.floor_latency;
    let [min, p50, p99] = [min_ns, p50_ns, p99_ns].map(|ns| time_text(Duration::from_nanos(ns)));
    line(format!("Floor latency: min {min}, p50 {p50}, p99 {p99} (one connection)"));
    line(format!("Verified: {} bytes, 0 mismatches", found.bytes_verified));
    let waiting = found.closed_loop.generator_waiting_ratio;
    if waiting > WAITING_MAX {
        line(format!(
            "Note: the generator waited for processors {:.0} % of the time: other programs use \
             this machine, and a quiet machine reaches higher rates",
            waiting * 100.0
        ));
    }
    if !found.generator.optimized {
        line("Note: loadgen was built without optimisation".into());
    }
    out
}

fn ceiling_text(ceiling: &Ceiling) -> String {
    let mut text = format!(
        "{:.0} requests/s (busiest thread {:.0} % busy",
        ceiling.requests_per_second,
        ceiling.generator_busy_ratio * 100.0
    );
    if let Some(cores) = ceiling.sink_cores {
        write!(text, ", sink {cores:.2} cores").expect("writing to a string");
    }
    text + ")"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::calibration::tests::calibration;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        CalibrateArgs::command().debug_assert();
    }

    #[test]
    fn what_was_found_is_said_with_its_conditions() {
        let mut found = calibration();
        let text = render(&found);
        let closed = "Closed loop: 200000 requests/s (busiest thread 99 % busy, sink 1.50 cores)\n";
        for part in ["kernel 6.1, 4 x some, load average 0.25", closed, "p50 20.00us"] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        assert!(!text.contains("waited for processors"), "{text}");
        found.closed_loop.generator_waiting_ratio = 0.2;
        found.open_loop = None;
        let text = render(&found);
        assert!(text.contains("waited for processors 20 %"), "{text}");
        assert!(text.contains("Open loop: no rate was kept\n"), "{text}");
    }
}
