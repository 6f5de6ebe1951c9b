//! `loadgen link`: a command behind an emulated link, for machines without netem.
//!
//! * here: the flags, and the order in which everything is made and ends
//! * `rules`: what one direction does with packets; `direction`: their fates
//! * `namespace`: the two ends, in network namespaces of their own; `forward`: the thread of one
//!   direction

mod direction;
mod forward;
pub mod namespace;
mod rules;

use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter};
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitCode, ExitStatus};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tun_rs::SyncDevice;

use self::direction::Direction;
use self::forward::{Forwarded, forward};
use self::namespace::{Namespace, Streams};
use self::rules::{EachWay, Percent, Rules};
use crate::cli::is_stdout;
use crate::error::Failure;
use crate::files;
use crate::plan::new_seed;
use crate::report::outputs::{Sink, json_line};
use crate::report::saved::SavedResult;
use crate::report::schema::{Distribution, LinkDirection, LinkSummary};
use crate::units::{counted, time_us};
use crate::view::terminal;

/// The addresses of the ends, from the network that RFC 2544 sets aside for measurements.
const NEAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// How long the far command may take until it has a socket.
const LISTENS_WITHIN: Duration = Duration::from_secs(5);
/// How long the commands may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(10);

/// Runs a command at one end of an emulated link, and another command at the other end.
///
/// The ends are two network namespaces without names, which exist only while the commands run: the
/// near end is 198.18.0.1, the far end 198.18.0.2. They can reach nothing else, and the network of
/// the machine does not change. The link carries IPv4.
///
/// Values apply to both directions, or are THERE/BACK, as in --delay 10ms/30ms. Each packet may be
/// lost or duplicated. Then it is sent at --rate, and delayed. The flags have the names and
/// meanings of tc-netem(8).
#[derive(Parser, Debug)]
#[command(name = "loadgen link", bin_name = "loadgen link", version, after_help = AFTER_HELP)]
pub struct LinkArgs {
    /// How long a packet travels
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = rules::times)]
    delay: EachWay<Duration>,

    /// Each packet's delay is drawn uniformly from DELAY - JITTER to DELAY + JITTER, so packets
    /// overtake each other (see --in-order)
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = rules::times)]
    jitter: EachWay<Duration>,

    /// Share of the packets that is lost
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = rules::percents)]
    loss: EachWay<Percent>,

    /// Share of the packets that arrives twice
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = rules::percents)]
    duplicate: EachWay<Percent>,

    /// Share of the packets that is sent without the delay, and overtakes those before it
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = rules::percents)]
    reorder: EachWay<Percent>,

    /// Bits of IP packets per second, in units of 1000: 64kbit, 100mbit, 1gbit [default: unlimited]
    #[arg(long, value_name = "RATE", value_parser = rules::rates)]
    rate: Option<EachWay<u64>>,

    /// Packets that wait in the queue for the rate, at most; more are dropped
    #[arg(long, value_name = "PACKETS", default_value = "1000", value_parser = rules::packets)]
    limit: EachWay<u64>,

    /// Keep packets in order in spite of the jitter: a packet leaves no sooner than the one before it
    #[arg(long)]
    in_order: bool,

    /// The largest packet, in bytes
    #[arg(long, value_name = "BYTES", default_value = "1500", value_parser = clap::value_parser!(u16).range(576..))]
    mtu: u16,

    /// Seed that determines which packets are lost, duplicated, and so on [default: a new one each
    /// time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Runs at the far end, by sh -c, until the near command has ended. The near command starts when
    /// this one has a socket that can be reached
    #[arg(long, value_name = "COMMAND")]
    far: Option<String>,

    /// Write what the link did to this file, as JSON; - is stdout. It is also shown on stderr
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Write a page with charts and tables of what the link did
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Runs at the near end [default: the shell in SHELL]
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

const AFTER_HELP: &str = "\
Example: loadgen link --delay 10ms --jitter 1ms --loss 0.1% --rate 100mbit \\
             --far 'echopool --listen 198.18.0.2:7' -- loadgen 198.18.0.2:7 -c 10 -R 1k -d 10s

It needs CAP_SYS_ADMIN and CAP_NET_ADMIN (root, or unshare --user --map-root-user loadgen link ...),
and /dev/net/tun.

Exit code: that of COMMAND (128 + N if signal N ended it); 1 if the link cannot be created; 2 usage.";

impl LinkArgs {
    /// The rules of the two directions.
    fn rules(&self) -> [Rules; 2] {
        let of = |is_there: bool| {
            fn pick<T: Copy>(is_there: bool, each: &EachWay<T>) -> T {
                if is_there { each.there } else { each.back }
            }
            Rules {
                delay: pick(is_there, &self.delay),
                jitter: pick(is_there, &self.jitter),
                loss: pick(is_there, &self.loss).0,
                duplicate: pick(is_there, &self.duplicate).0,
                reorder: pick(is_there, &self.reorder).0,
                rate: self.rate.as_ref().map(|each| pick(is_there, each)),
                limit: pick(is_there, &self.limit) as usize,
                in_order: self.in_order,
            }
        };
        [of(true), of(false)]
    }

    /// Where the page goes, if there is to be one.
    fn page(&self) -> Result<Option<Sink>, Failure> {
        match (self.html.as_deref(), self.output.as_deref()) {
            (Some(page), _) if is_stdout(page) => {
                let text = "stdout is that of the command: give --html a name";
                Err(Failure::Usage(text.into()))
            }
            (Some(page), Some(output)) if files::are_one(page, output) => {
                let text = format!("--html and -o are both {}: give two names", page.display());
                Err(Failure::Usage(text))
            }
            (page, _) => page.map(Sink::new).transpose(),
        }
    }

    /// The near command.
    fn command(&self) -> Vec<OsString> {
        match self.command.as_slice() {
            [] => vec![std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into())],
            words => words.to_vec(),
        }
    }
}

/// Makes the link, runs the commands, and says what the link did.
///
/// # Errors
/// The link cannot be made, or a command cannot be started.
pub fn run(args: &LinkArgs) -> Result<ExitCode, Failure> {
    let mut output = args.output.as_deref().map(Sink::new).transpose()?;
    let mut page = args.page()?;
    let setup = |error: io::Error| Failure::Setup(format!("cannot create the link: {error}"));
    let mut signals = Signals::new([SIGCHLD, SIGHUP, SIGINT, SIGTERM]).map_err(setup)?;
    let seed = args.seed.unwrap_or_else(new_seed);
    let ends = Ends([Namespace::new(NEAR, args.mtu)?, Namespace::new(FAR, args.mtu)?]);
    let link = Link::start(&ends.0, args.rules(), seed).map_err(setup)?;
    let far = args.far.as_deref().map(|command| ends.start_far(command)).transpose()?;
    let mut near = ends.0[0].spawn(&args.command(), Streams::Inherited)?;
    let status = wait(&mut near, &mut signals).map_err(setup)?;
    ends.end_all();
    far.map(|mut far| far.wait()).transpose().map_err(setup)?;
    let dropped_before = ends.0.each_ref().map(Namespace::dropped_before);
    let summary = link.stop(seed, dropped_before)?;
    for (name, direction) in [("there", &summary.there), ("back", &summary.back)] {
        terminal::message(format_args!("link {name}: {direction}"));
    }
    if let Some(output) = &mut output {
        output.write(|out| json_line(out, &summary))?;
    }
    if let Some(page) = &mut page {
        page.write_page(SavedResult::Link(Box::new(summary)))?;
    }
    Ok(exit_code(status))
}

/// The threads that forward packets.
struct Link {
    threads: [JoinHandle<io::Result<Forwarded>>; 2],
    rules: [Rules; 2],
    /// Closed when they are to stop.
    stop: PipeWriter,
}

impl Link {
    fn start(ends: &[Namespace; 2], rules: [Rules; 2], seed: u64) -> io::Result<Link> {
        let (reader, stop) = io::pipe()?;
        let [near, far] = ends.each_ref().map(|end| end.device.clone());
        let [there, back] = Direction::both(rules, seed);
        type Device = Arc<SyncDevice>;
        let spawn = |name: &str, direction, from: Device, to: Device, stop: PipeReader| {
            let run = move || forward(direction, &from, &to, &stop);
            thread::Builder::new().name(name.into()).spawn(run)
        };
        let threads = [
            spawn("link there", there, near.clone(), far.clone(), reader.try_clone()?)?,
            spawn("link back", back, far, near, reader)?,
        ];
        Ok(Link { threads, rules, stop })
    }

    /// Stops them. What is under way then is not delivered.
    fn stop(self, seed: u64, dropped_before: [u64; 2]) -> Result<LinkSummary, Failure> {
        drop(self.stop);
        let ended = self.threads.map(|thread| thread.join().expect("it does not panic"));
        let [there, back] = ended.map(|ended| {
            ended.map_err(|error| Failure::Setup(format!("the link failed: {error}")))
        });
        let direction = |nth: usize, forwarded: Forwarded| {
            LinkDirection::new(&self.rules[nth], &forwarded, dropped_before[nth])
        };
        Ok(LinkSummary::new(seed, direction(0, there?), direction(1, back?)))
    }
}

/// The two ends of the link, the near one first. Dropping them ends all that runs there.
struct Ends([Namespace; 2]);

impl Ends {
    /// Starts the far command, and waits until it has a socket.
    fn start_far(&self, command: &str) -> Result<Child, Failure> {
        let far = &self.0[1];
        let mut child = far.spawn(&["/bin/sh", "-c", command], Streams::Stderr)?;
        let deadline = Instant::now() + LISTENS_WITHIN;
        while !far.listens() && Instant::now() < deadline {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(Failure::Setup(format!("the far command ended: {status}")));
            }
            thread::sleep(STEP);
        }
        Ok(child)
    }

    /// Ends what the commands have left, and the far command.
    fn end_all(&self) {
        let deadline = Instant::now() + ENDS_WITHIN;
        let left = || self.0.iter().flat_map(Namespace::processes);
        left().for_each(|pid| send(pid, Signal::TERM));
        while left().next().is_some() && Instant::now() < deadline {
            thread::sleep(STEP);
        }
        left().for_each(|pid| send(pid, Signal::KILL));
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.end_all();
    }
}

/// Waits until the command has ended, and passes on what asks it to end. An interrupt of the
/// terminal reaches it without help.
fn wait(near: &mut Child, signals: &mut Signals) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = near.try_wait()? {
            return Ok(status);
        }
        for signal in signals.wait() {
            if [SIGTERM, SIGHUP].contains(&signal) {
                send(Pid::from_child(near), Signal::TERM);
            }
        }
    }
}

fn send(pid: Pid, signal: Signal) {
    // It may have ended.
    let _ = kill_process(pid, signal);
}

/// That of the command, as a shell shows it.
fn exit_code(status: ExitStatus) -> ExitCode {
    const SIGNALLED: i32 = 128;
    let code = status.code().or(status.signal().map(|signal| SIGNALLED + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

impl std::fmt::Display for LinkDirection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} in, {} delivered, {} lost, {} dropped (queue full), {} duplicated, {} sent \
             ahead, {} reordered, {} under way",
            counted(self.packets_in, "packet"),
            self.packets_delivered,
            self.packets_lost,
            self.packets_dropped,
            self.packets_duplicated,
            self.packets_sent_ahead,
            self.packets_reordered,
            self.packets_under_way
        )?;
        let other =
            [("refused", self.packets_refused), ("never reached the link", self.packets_missed)];
        for (name, count) in other.into_iter().filter(|(_, count)| *count > 0) {
            write!(f, ", {count} {name}")?;
        }
        let late = &self.late.percentiles;
        match (late.p50_ns, late.p99_ns, late.max_ns) {
            (Some(p50), Some(p99), Some(max)) => {
                let [p50, p99, max] = [p50, p99, max].map(|nanos| time_us(nanos as f64 / 1e3));
                write!(f, "; late by {p50} (p50), {p99} (p99), {max} at most")
            }
            _ => Ok(()),
        }
    }
}

impl LinkDirection {
    fn new(rules: &Rules, forwarded: &Forwarded, missed: u64) -> LinkDirection {
        let counts = forwarded.direction.counts;
        LinkDirection {
            delay_ns: rules.delay.as_nanos() as u64,
            jitter_ns: rules.jitter.as_nanos() as u64,
            loss_ratio: rules.loss,
            duplicate_ratio: rules.duplicate,
            reorder_ratio: rules.reorder,
            rate_bits_per_second: rules.rate,
            limit_packets: rules.limit as u64,
            in_order: rules.in_order,
            packets_in: counts.packets_in,
            bytes_in: counts.bytes_in,
            packets_delivered: counts.delivered,
            bytes_delivered: counts.bytes_delivered,
            packets_lost: counts.lost,
            packets_dropped: counts.dropped,
            packets_duplicated: counts.duplicated,
            packets_sent_ahead: counts.sent_ahead,
            packets_reordered: counts.reordered,
            packets_refused: counts.refused,
            packets_under_way: forwarded.direction.under_way(),
            packets_missed: missed,
            late: Distribution::new(&forwarded.late),
        }
    }
}
