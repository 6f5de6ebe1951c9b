//! The floors and the bare client as a program, so that `scripts/figures` can pin each to
//! cores: `cargo build --release --example floor`.

mod floors;

use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use floors::client::{Client, Failure, Load, Report, Until};
use floors::cpus;
use floors::epoll_server::EpollServer;
use floors::sleeper;
use floors::socket::raise_open_files;
use floors::stream::{LENGTH_BYTES, Pattern};
use floors::thread_server::ThreadServer;
#[cfg(feature = "tls")]
use floors::tls_server::TlsServer;
#[cfg(target_os = "linux")]
use floors::udp_server::UdpServer;

/// The length of a timed frame and its times.
const TIMED_BYTES: usize = LENGTH_BYTES + echopool::builtin::timed::TIMES_BYTES;

const USAGE: &str = "\
usage: floor epoll   [--listen ADDRESS] [--buffer-size BYTES]
       floor threads [--listen ADDRESS] [--buffer-size BYTES]
       floor udp     [--listen ADDRESS]
       floor tls     [--listen ADDRESS] [--buffer-size BYTES] [--cert FILE] [--key FILE]
       floor client ADDRESS [--connections N] [--threads N] [--size BYTES] [--pipeline N]
                            [--interval-ms N] [--length-bytes 0|4|36]
       floor sleeper [--every-us N] [--count N]

The servers echo until they are killed. The client connects, prints 'ready', and then reads commands
from its standard input. For each it prints a line of JSON:
  slice SECONDS   drive all connections for this time
  each COUNT      send this many messages on each connection
With --interval-ms, each connection sends one message per interval, even without a reply. Without,
the loop is closed, with --pipeline messages in flight. With --length-bytes 4, each message starts
with the number of bytes that follow, which count towards its size. With --length-bytes 36, 32 bytes
for times come next, which the server may change.
The sleeper sleeps until each of several times and prints how late it woke up.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("floor: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), String> {
    raise_open_files().map_err(|error| format!("cannot raise the limit of open files: {error}"))?;
    match arguments.first().map(String::as_str) {
        Some("epoll") => {
            let (listen, buffer_size) = server_options(&arguments[1..])?;
            let server = EpollServer::start(listen, buffer_size).map_err(text)?;
            announce("tcp", server.address());
            server.wait().map_err(text)
        }
        Some("threads") => {
            let (listen, buffer_size) = server_options(&arguments[1..])?;
            let server = ThreadServer::start(listen, buffer_size).map_err(text)?;
            announce("tcp", server.address());
            server.wait().map_err(text)
        }
        #[cfg(target_os = "linux")]
        Some("udp") => {
            let (listen, _) = server_options(&arguments[1..])?;
            let server = UdpServer::bind(listen).map_err(text)?;
            announce("udp", server.address());
            server.run().map_err(text)
        }
        #[cfg(feature = "tls")]
        Some("tls") => run_tls(&arguments[1..]),
        Some("client") => run_client(&arguments[1..]),
        Some("sleeper") => run_sleeper(&arguments[1..]),
        Some("--help") => {
            println!("{USAGE}");
            Ok(())
        }
        _ => Err(USAGE.to_owned()),
    }
}

fn text(error: io::Error) -> String {
    error.to_string()
}

/// Prints a ready line in echopool's format, so that one parser reads both.
fn announce(transport: &str, address: SocketAddr) {
    println!("floor listening on {transport}://{address}");
}

fn server_options(arguments: &[String]) -> Result<(SocketAddr, usize), String> {
    let mut options = Options::parse(arguments)?;
    let address = address_options(&mut options)?;
    options.none_left()?;
    Ok(address)
}

/// Where to listen, and the size of the buffer.
fn address_options(options: &mut Options) -> Result<(SocketAddr, usize), String> {
    let listen = options.take("--listen", "127.0.0.1:0".parse().expect("an address"))?;
    Ok((listen, options.take("--buffer-size", 16 * 1024)?))
}

#[cfg(feature = "tls")]
fn run_tls(arguments: &[String]) -> Result<(), String> {
    let mut options = Options::parse(arguments)?;
    let (listen, buffer_size) = address_options(&mut options)?;
    let cert = options.take("--cert", "cert.pem".to_owned())?;
    let key = options.take("--key", "key.pem".to_owned())?;
    options.none_left()?;
    let mut server = TlsServer::bind(listen, buffer_size, &cert, &key).map_err(text)?;
    announce("tls", server.address());
    server.run().map_err(text)
}

/// Options of the form `--name value`.
struct Options(Vec<(String, String)>);

impl Options {
    fn parse(arguments: &[String]) -> Result<Options, String> {
        let pairs = arguments.chunks(2).map(|pair| match pair {
            [name, value] => Ok((name.clone(), value.clone())),
            _ => Err(format!("{} has no value\n{USAGE}", pair[0])),
        });
        Ok(Options(pairs.collect::<Result<_, _>>()?))
    }

    fn take<T: std::str::FromStr>(&mut self, name: &str, default: T) -> Result<T, String> {
        let Some(at) = self.0.iter().position(|(given, _)| given == name) else {
            return Ok(default);
        };
        let (_, value) = self.0.remove(at);
        value.parse().map_err(|_| format!("{name} cannot be '{value}'"))
    }

    fn none_left(&self) -> Result<(), String> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(format!("unknown option {name}\n{USAGE}")),
        }
    }
}

fn run_client(arguments: &[String]) -> Result<(), String> {
    let (target, options) = arguments.split_first().ok_or(USAGE)?;
    let target: SocketAddr = target.parse().map_err(|_| format!("not an address: {target}"))?;
    let mut options = Options::parse(options)?;
    let connections: usize = options.take("--connections", 1)?;
    let threads: usize = options.take("--threads", 1)?;
    let size = options.take("--size", 64)?;
    let pipeline = options.take("--pipeline", 1)?;
    let interval_ms = options.take("--interval-ms", 0)?;
    let length_bytes = options.take("--length-bytes", 0)?;
    options.none_left()?;
    if connections == 0 || threads == 0 || size == 0 || pipeline == 0 {
        return Err("connections, threads, size and pipeline must be at least 1".to_owned());
    }
    let interval = (interval_ms > 0).then(|| Duration::from_millis(interval_ms));
    let load = Load { size, pipeline, interval };
    let pattern = pattern(size, length_bytes)?;
    let threads = Threads::start(target, connections, threads.min(connections), load, pattern)?;
    println!("ready");
    for line in io::stdin().lock().lines() {
        let report = threads.execute(&line.map_err(text)?)?;
        print_report(&report, size);
    }
    Ok(())
}

fn run_sleeper(arguments: &[String]) -> Result<(), String> {
    let mut options = Options::parse(arguments)?;
    let every_us = options.take("--every-us", 1_000u32)?;
    let count = options.take("--count", 3_000)?;
    options.none_left()?;
    if every_us == 0 || count == 0 {
        return Err("--every-us and --count must be at least 1".to_owned());
    }
    let every = Duration::from_micros(every_us.into());
    let lateness = sleeper::lateness_ns(every, count).map_err(text)?;
    let at = |quantile| lateness.value_at_quantile(quantile);
    println!(
        "{{\"count\":{count},\"p50_ns\":{},\"p90_ns\":{},\"p99_ns\":{},\"p99_9_ns\":{},\
         \"max_ns\":{}}}",
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        at(1.0)
    );
    Ok(())
}

/// The bytes that the connections send.
fn pattern(size: usize, length_bytes: usize) -> Result<Pattern, String> {
    match length_bytes {
        0 => Ok(Pattern::new()),
        LENGTH_BYTES | TIMED_BYTES if !(length_bytes + 1..=32 << 10).contains(&size) => {
            Err(format!("with --length-bytes the size must be from {} to 32768", length_bytes + 1))
        }
        LENGTH_BYTES => Ok(Pattern::framed(size)),
        TIMED_BYTES => Ok(Pattern::timed(size, TIMED_BYTES - LENGTH_BYTES)),
        _ => Err("--length-bytes must be 0, 4 or 36".to_owned()),
    }
}

/// The client's threads. Each has a share of the connections.
struct Threads {
    orders: Vec<Sender<Until>>,
    reports: Receiver<Result<Report, Failure>>,
}

impl Threads {
    fn start(
        target: SocketAddr,
        connections: usize,
        threads: usize,
        load: Load,
        pattern: Pattern,
    ) -> Result<Threads, String> {
        let pattern = Arc::new(pattern);
        let (report, reports) = channel();
        let cpus = Arc::new(cpus::allowed());
        let mut orders = Vec::new();
        for thread in 0..threads {
            let first = connections * thread / threads;
            let count = connections * (thread + 1) / threads - first;
            let client = Client::connect(target, count, first, load, pattern.clone())
                .map_err(|error| format!("cannot connect to {target}: {error}"))?;
            let (order, inbox) = channel();
            orders.push(order);
            let (report, cpus) = (report.clone(), cpus.clone());
            // Each thread on its own CPU: with two polling threads on one CPU, each would see the
            // time slices of the other as latency.
            std::thread::spawn(move || {
                cpus::pin(&cpus[thread % cpus.len()..][..1]);
                work(client, &inbox, &report);
            });
        }
        Ok(Threads { orders, reports })
    }

    fn execute(&self, line: &str) -> Result<Report, String> {
        let bad = || format!("not a command: '{line}'");
        let (command, value) = line.split_once(' ').ok_or_else(bad)?;
        let until = match command {
            "slice" => {
                let seconds = value.parse().ok().filter(|s| *s > 0.0 && *s < 1e6);
                Until::Time(Instant::now() + Duration::from_secs_f64(seconds.ok_or_else(bad)?))
            }
            "each" => Until::Each(value.parse().map_err(|_| bad())?),
            _ => return Err(bad()),
        };
        for order in &self.orders {
            order.send(until).map_err(|_| "a client thread is gone")?;
        }
        let mut total: Option<Report> = None;
        for _ in &self.orders {
            let report = self.reports.recv().map_err(|_| "the client threads are gone")?;
            let report = report.map_err(|failure| failure.to_string())?;
            match &mut total {
                Some(total) => total.merge(&report),
                None => total = Some(report),
            }
        }
        total.ok_or_else(|| "no threads".to_owned())
    }
}

fn work(mut client: Client, inbox: &Receiver<Until>, report: &Sender<Result<Report, Failure>>) {
    while let Ok(until) = inbox.recv() {
        if report.send(client.run(until)).is_err() {
            return;
        }
    }
}

fn print_report(report: &Report, size: usize) {
    let us = |quantile| report.latency_ns.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "{{\"messages\":{},\"messages_in_time\":{},\"bytes\":{},\"elapsed_s\":{:.6},\
         \"p50_us\":{:.1},\"p99_us\":{:.1},\"p999_us\":{:.1},\"max_us\":{:.1},\
         \"busiest\":{},\"quietest\":{}}}",
        report.messages,
        report.messages_in_time,
        report.messages * size as u64,
        report.elapsed.as_secs_f64(),
        us(0.5),
        us(0.99),
        us(0.999),
        us(1.0),
        report.busiest,
        report.quietest,
    );
    let _ = io::stdout().flush();
}
