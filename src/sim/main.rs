//! Runs seeds of the simulated world on all cores and counts what happened in them, or prints the
//! trace of one seed. See `docs/testing.md`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use echopool::sim::{Mark, Marks, Report, Seam, run};
use echopool::units::{parse_count, parse_duration};

const AFTER_HELP: &str =
    "Exit code 1 if a seed fails or, from 5,000 seeds on, if a mark is at zero.

Each line of a file for --seeds-file is `SEAM SEED WHAT IT WAS`, or empty, or a comment from #.

Example: simulate --seeds 10k; simulate --seed 1234 --trace";

/// With fewer seeds a mark may be at zero by chance: some fire in one of a hundred seeds or fewer.
const SEEDS_FOR_ALL_MARKS: u64 = 5_000;

/// Runs the real code of server and client library in a simulated world, seed by seed.
#[derive(Parser)]
#[command(version, after_help = AFTER_HELP)]
struct Arguments {
    /// How many seeds to run
    #[arg(long, value_name = "N", default_value = "1k", value_parser = parse_count)]
    seeds: u64,

    /// The first seed
    #[arg(long, value_name = "SEED", default_value = "0", value_parser = parse_count)]
    from: u64,

    /// Run seeds until this time has passed, instead of a fixed number
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    for_time: Option<Duration>,

    /// Run this one seed
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "from", "for_time"])]
    seed: Option<u64>,

    /// Run the seeds that this file lists
    #[arg(long, value_name = "FILE",
          conflicts_with_all = ["seed", "seeds", "from", "for_time", "seam", "twice"])]
    seeds_file: Option<PathBuf>,

    /// With --seed: print each event
    #[arg(long, requires = "seed")]
    trace: bool,

    /// Where the simulated world replaces the real system
    #[arg(long, value_enum, default_value = "all")]
    seam: SeamName,

    /// Run each seed twice and compare
    #[arg(long)]
    twice: bool,

    /// Threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,

    /// Stop at the first failure and print only its seed
    #[arg(long)]
    until_failure: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SeamName {
    /// The real readiness engine on simulated system calls
    Readiness,
    /// Simulated completions
    Completion,
    /// The server on either: readiness and completion
    Both,
    /// The client library, on either
    Client,
    /// The threads for datagrams, on simulated sockets
    Datagram,
    All,
}

impl SeamName {
    fn seams(self) -> &'static [Seam] {
        match self {
            SeamName::Readiness => &[Seam::Readiness],
            SeamName::Completion => &[Seam::Completion],
            SeamName::Both => &[Seam::Readiness, Seam::Completion],
            SeamName::Client => &[Seam::Client],
            SeamName::Datagram => &[Seam::Datagram],
            SeamName::All => &[Seam::Readiness, Seam::Completion, Seam::Client, Seam::Datagram],
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A failure is reported with its seed, so panics print no message or backtrace.
    std::panic::set_hook(Box::new(|_| {}));
    match (arguments.seed, &arguments.seeds_file) {
        (Some(seed), _) => tell(seed, &arguments),
        (None, Some(file)) => listed(file),
        (None, None) => batches(&arguments),
    }
}

/// Runs the seeds that a file lists.
fn listed(file: &Path) -> ExitCode {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string());
    let seeds = match text.as_deref().map_err(Clone::clone).and_then(read_list) {
        Ok(seeds) => seeds,
        Err(error) => {
            eprintln!("{}: {error}", file.display());
            return ExitCode::from(2);
        }
    };
    let failures = seeds.iter().filter(|&&(name, seam, seed, what)| {
        let Some(failure) = run(seed, seam, false).failure else { return false };
        println!("FAILED: seed {seed} ({what}): {failure}");
        println!("        simulate --seed {seed} --seam {name} --trace");
        true
    });
    let failures = failures.count();
    println!("{} listed seeds, {failures} failures\n", seeds.len());
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A seam by name, the same as a value, a seed, and what it was.
type Listed<'a> = (&'a str, Seam, u64, &'a str);

fn read_list(text: &str) -> Result<Vec<Listed<'_>>, String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let mut seeds = Vec::new();
    for (number, line) in (1..).zip(lines).filter(|(_, line)| !line.is_empty()) {
        let mut parts = line.splitn(3, ' ');
        let mut part = || parts.next().unwrap_or_default().trim();
        let (name, seed, what) = (part(), part(), part());
        let seam = SeamName::from_str(name, false).map(SeamName::seams);
        match (seam, seed.parse()) {
            (Ok(&[seam]), Ok(seed)) if !what.is_empty() => seeds.push((name, seam, seed, what)),
            _ => return Err(format!("line {number} is not `SEAM SEED WHAT IT WAS`: {line}")),
        }
    }
    match seeds.is_empty() {
        true => Err("lists no seed".to_string()),
        false => Ok(seeds),
    }
}

/// Runs one seed and prints its trace.
fn tell(seed: u64, arguments: &Arguments) -> ExitCode {
    let mut failed = false;
    for &seam in arguments.seam.seams() {
        let report = run(seed, seam, arguments.trace);
        println!("seed {seed}, {seam:?}:");
        report.trace.iter().for_each(|line| println!("{line}"));
        match &report.failure {
            Some(failure) => println!("FAILED: {failure}"),
            None => println!("ok"),
        }
        println!("hash {:016x}, {:?} simulated\n", report.hash, report.simulated);
        failed |= report.failure.is_some();
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn batches(arguments: &Arguments) -> ExitCode {
    let mut ok = true;
    for &seam in arguments.seam.seams() {
        ok &= Batch::new(seam, arguments).run();
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Many seeds on one seam.
struct Batch<'a> {
    seam: Seam,
    arguments: &'a Arguments,
    begun: Instant,
    next: AtomicU64,
    stop: AtomicBool,
    tally: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    seeds: u64,
    simulated: Duration,
    hits: Marks,
    fired: Marks,
    failures: Vec<(u64, String)>,
}

impl<'a> Batch<'a> {
    fn new(seam: Seam, arguments: &'a Arguments) -> Batch<'a> {
        Batch {
            seam,
            arguments,
            begun: Instant::now(),
            next: AtomicU64::new(arguments.from),
            stop: AtomicBool::new(false),
            tally: Mutex::default(),
        }
    }

    fn run(&self) -> bool {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads = self.arguments.threads.map_or(cores, usize::from);
        let (done, wait) = mpsc::channel::<()>();
        thread::scope(|scope| {
            for _ in 0..threads {
                let done = done.clone();
                scope.spawn(move || {
                    self.work();
                    drop(done);
                });
            }
            drop(done);
            // Ends when the last thread has dropped its end.
            while let Err(mpsc::RecvTimeoutError::Timeout) =
                wait.recv_timeout(Duration::from_secs(1))
            {
                self.progress();
            }
        });
        self.report(threads)
    }

    fn work(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            let over = match self.arguments.for_time {
                Some(time) => self.begun.elapsed() >= time,
                None => seed - self.arguments.from >= self.arguments.seeds,
            };
            if over {
                return;
            }
            let mut report = run(seed, self.seam, false);
            if self.arguments.twice {
                let again = run(seed, self.seam, false);
                if again.hash != report.hash && report.failure.is_none() {
                    report.failure = Some("the same seed gave two different runs".to_string());
                }
            }
            self.note(seed, &report);
        }
    }

    fn note(&self, seed: u64, report: &Report) {
        let mut tally = self.tally.lock().expect("no thread panics while it holds the tally");
        tally.seeds += 1;
        tally.simulated += report.simulated;
        tally.hits.add(&report.marks);
        tally.fired.add_fired(&report.marks);
        if let Some(failure) = &report.failure {
            tally.failures.push((seed, failure.clone()));
            if self.arguments.until_failure {
                self.stop.store(true, Ordering::Relaxed);
            }
        }
    }

    fn progress(&self) {
        if self.arguments.until_failure && !std::io::stderr().is_terminal() {
            return;
        }
        let tally = self.tally.lock().expect("no thread panics while it holds the tally");
        let (seam, seeds, failed) = (self.seam, tally.seeds, tally.failures.len());
        let hours = tally.simulated.as_secs_f64() / 3600.0;
        eprintln!("{seam:?}: {seeds} seeds, {hours:.1} hours simulated, {failed} failed");
    }

    fn report(&self, threads: usize) -> bool {
        let tally = self.tally.lock().expect("the threads have ended");
        if self.arguments.until_failure {
            return match tally.failures.iter().min() {
                Some((seed, failure)) => {
                    println!("{seed}\t{}", failure.lines().next().unwrap_or_default());
                    false
                }
                None => true,
            };
        }
        let elapsed = self.begun.elapsed();
        let hours = tally.simulated.as_secs_f64() / 3600.0;
        let core = elapsed.as_secs_f64() * threads as f64;
        println!(
            "{:?}: {} seeds, {hours:.1} hours simulated in {elapsed:.1?} on {threads} threads: \
             {:.0} times real time on each",
            self.seam,
            tally.seeds,
            tally.simulated.as_secs_f64() / core,
        );
        let silent = self.marks(&tally);
        let mut failures = tally.failures.clone();
        failures.sort();
        for (seed, failure) in failures.iter().take(20) {
            println!("FAILED: seed {seed}: {failure}");
            println!("        simulate --seed {seed} --seam {} --trace", self.seam_name());
        }
        println!("{} failures, {silent} marks at zero\n", failures.len());
        failures.is_empty() && (silent == 0 || tally.seeds < SEEDS_FOR_ALL_MARKS)
    }

    fn seam_name(&self) -> &'static str {
        match self.seam {
            Seam::Readiness => "readiness",
            Seam::Completion => "completion",
            Seam::Client => "client",
            Seam::Datagram => "datagram",
        }
    }

    /// Prints how often each mark fired. Returns how many never fired.
    fn marks(&self, tally: &Tally) -> usize {
        let mut silent = 0;
        for &mark in Mark::ALL.iter().filter(|mark| mark.belongs_to(self.seam)) {
            let (seeds, hits) = (tally.fired.count(mark), tally.hits.count(mark));
            let share = 100.0 * seeds as f64 / tally.seeds.max(1) as f64;
            println!("  {:<26} {hits:>10} times, in {share:>5.1} % of the seeds", mark.name());
            silent += usize::from(hits == 0);
        }
        silent
    }
}
