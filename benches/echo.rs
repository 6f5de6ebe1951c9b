//! Compares echo over loopback: echopool with one worker, the epoll floor and the thread floor,
//! each driven by the same client on one thread, which checks every byte.
//!
//! The figures depend on the machine and the moment. Only the ratios at the end carry over. For
//! precise ratios with intervals, use `scripts/figures`.

mod floors;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput};
use echopool::builtin::Echo;
use echopool::{Config, Server};
use floors::client::{Client, Load, Until};
use floors::cpus;
use floors::epoll_server::EpollServer;
use floors::socket::raise_open_files;
use floors::stream::Pattern;
use floors::thread_server::ThreadServer;

const CONNECTIONS: [usize; 3] = [1, 100, 1_000];
const SIZES: [(&str, usize); 3] = [("64B", 64), ("4KiB", 4 << 10), ("64KiB", 64 << 10)];

/// Bytes of echopool's default buffer, so that the floors make as many system calls.
const BUFFER_SIZE: usize = 16 << 10;

#[derive(Clone, Copy)]
enum Kind {
    Echopool,
    FloorEpoll,
    FloorThreads,
}

const KINDS: [(&str, Kind); 3] = [
    ("echopool", Kind::Echopool),
    ("floor-epoll", Kind::FloorEpoll),
    ("floor-threads", Kind::FloorThreads),
];

/// A server of any kind, running in this process.
struct Running {
    address: SocketAddr,
    stop: Box<dyn FnOnce()>,
}

/// Starts the server on its own CPU and pins this thread, the client, to the others. Otherwise the
/// scheduler sometimes puts both on one CPU, which doubles the figure.
fn start_pinned(kind: Kind) -> Running {
    let cpus = cpus::allowed();
    let [others @ .., last] = cpus.as_slice() else { return start(kind) };
    if others.is_empty() {
        return start(kind);
    }
    cpus::pin(&[*last]);
    let running = start(kind);
    cpus::pin(others);
    running
}

fn start(kind: Kind) -> Running {
    let any_port: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    match kind {
        Kind::Echopool => {
            let config = Config::new().listen(any_port).workers(1).max_connections(2_000);
            let handle = Server::start(config, Echo).expect("echopool starts");
            let address = handle.local_endpoints()[0].socket_addr().expect("a TCP endpoint");
            let stop = move || {
                handle.stop();
            };
            Running { address, stop: Box::new(stop) }
        }
        Kind::FloorEpoll => {
            let server = EpollServer::start(any_port, BUFFER_SIZE).expect("the floor starts");
            let address = server.address();
            Running { address, stop: Box::new(|| server.stop().expect("the floor stops")) }
        }
        Kind::FloorThreads => {
            let server = ThreadServer::start(any_port, BUFFER_SIZE).expect("the floor starts");
            let address = server.address();
            Running { address, stop: Box::new(|| server.stop().expect("the floor stops")) }
        }
    }
}

/// Nanoseconds per message in each run, by case and kind.
type Times = BTreeMap<(String, &'static str), Vec<f64>>;

fn bench_case(
    group: &mut BenchmarkGroup<'_, WallTime>,
    connections: usize,
    size: usize,
    times: &RefCell<Times>,
    case: &str,
) {
    let all_cpus = cpus::allowed();
    for (name, kind) in KINDS {
        // Criterion calls this only for selected benchmarks, so no other server is started.
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            let server = start_pinned(kind);
            let load = Load { size, pipeline: 1, interval: None };
            let pattern = Arc::new(Pattern::new());
            let mut client = Client::connect(server.address, connections, 0, load, pattern)
                .expect("the client connects");
            client.run(Until::Each(1)).expect("every connection is served");
            bencher.iter_custom(|messages| {
                let elapsed = drive(&mut client, messages);
                let time_ns = elapsed.as_nanos() as f64 / messages as f64;
                times.borrow_mut().entry((case.to_owned(), name)).or_default().push(time_ns);
                elapsed
            });
            drop(client);
            (server.stop)();
            cpus::pin(&all_cpus);
        });
    }
}

fn drive(client: &mut Client, messages: u64) -> Duration {
    match client.run(Until::Total(messages)) {
        Ok(report) => report.elapsed,
        Err(failure) => panic!("the echo failed: {failure}"),
    }
}

fn bench_all(criterion: &mut Criterion) -> Times {
    let times = RefCell::default();
    for (size_name, size) in SIZES {
        for connections in CONNECTIONS {
            let case = format!("echo/{size_name}/{connections}");
            let mut group = criterion.benchmark_group(&case);
            // One iteration is one message. It travels both ways, but its bytes are counted once.
            group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: size as u64 });
            group.sampling_mode(SamplingMode::Flat).sample_size(20);
            group.warm_up_time(Duration::from_millis(500));
            group.measurement_time(Duration::from_secs(3));
            bench_case(&mut group, connections, size, &times, &case);
            group.finish();
        }
    }
    times.into_inner()
}

/// Prints the median time of each kind as a ratio to the epoll floor. 1.10 is ten percent slower.
fn print_ratios(times: &mut Times) {
    let mut median_ns = BTreeMap::new();
    for ((case, kind), samples) in times {
        // With --test there is only one run of one message, which gives no ratio.
        if samples.len() > 1 {
            samples.sort_by(f64::total_cmp);
            median_ns.insert((case.as_str(), *kind), samples[samples.len() / 2]);
        }
    }
    if median_ns.is_empty() {
        return;
    }
    println!("time per message as a ratio to floor-epoll (median in us)");
    for ((case, kind), &time_ns) in &median_ns {
        if let Some(&floor_ns) = median_ns.get(&(*case, "floor-epoll")) {
            println!("{case:18} {kind:14} {:6.2}  ({:.2} us)", time_ns / floor_ns, time_ns / 1e3);
        }
    }
}

fn main() {
    raise_open_files().expect("the limit of open files can be raised to the hard one");
    let mut criterion = Criterion::default().configure_from_args();
    let mut times = bench_all(&mut criterion);
    criterion.final_summary();
    print_ratios(&mut times);
}
