//! Names with several addresses: the connections of the run try them, within the time-out, and no
//! other connection is made. No name is looked up here; the plan has the addresses of one.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use common::server::{EchoServer, Fault};
use echopool::Endpoint;
use loadgen::cli::{OutputArgs, RunArgs};
use loadgen::command::drive::drive;
use loadgen::error::Failure;
use loadgen::plan::machine::Machine;
use loadgen::plan::{Alternatives, Plan};
use loadgen::report::{Outputs, Report};
use socket2::{Domain, Socket, Type};

/// A run with targets that each have these addresses.
fn run(flags: &str, targets: &[&[SocketAddr]]) -> Result<Report, Failure> {
    let args = RunArgs::parse_from(format!("loadgen name:1 {flags}").split_whitespace());
    let firsts: Vec<Endpoint> = targets.iter().map(|addresses| addresses[0].into()).collect();
    let mut plan = Plan::new(&args.run, &Machine::read(), &firsts, 1)?;
    let others = targets
        .iter()
        .map(|addresses| addresses[1..].iter().map(|&at| at.into()).collect())
        .collect();
    plan.alternatives = Alternatives::new(others);
    let output = OutputArgs::default().quiet();
    let mut outputs = Outputs::open(&output)?;
    drive(Arc::new(plan), None, &output, None, &AtomicBool::new(false), &mut outputs)
}

/// A socket that refuses, or whose backlog is full, so that nothing answers.
struct Dead {
    _socket: Socket,
    _waiting: Vec<Socket>,
    address: SocketAddr,
}

impl Dead {
    fn refusing() -> Dead {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        let address = socket.local_addr().expect("bound").as_socket().expect("TCP");
        Dead { _socket: socket, _waiting: Vec::new(), address }
    }

    fn silent() -> Dead {
        let Dead { _socket, address, .. } = Dead::refusing();
        _socket.listen(0).expect("it listens");
        let wait = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_nonblocking(true).expect("a socket");
            // In progress, and for ever.
            let _ = socket.connect(&address.into());
            socket
        };
        let waiting = (0..4).map(|_| wait()).collect();
        std::thread::sleep(std::time::Duration::from_millis(100));
        Dead { _socket, _waiting: waiting, address }
    }
}

#[test]
fn the_connections_of_the_run_are_the_only_ones_and_the_first_address_that_accepts_is_taken() {
    let (first, second) = (EchoServer::start(Fault::None), EchoServer::start(Fault::None));
    for threads in [1, 3] {
        let flags = format!("-c 5 -t {threads} -n 100");
        let report = run(&flags, &[&[first.address, second.address]]).expect("a report");
        assert_eq!(report.records.replies, 100);
        assert_eq!(report.plan.target_addresses(), [format!("tcp://{}", first.address)]);
        assert_eq!(second.peers().len(), 0);
    }
    common::until("all are accepted", || (first.peers().len() >= 10).then_some(()));
    assert_eq!(first.peers().len(), 10, "no connection but those of the two runs");
}

#[test]
fn an_address_that_refuses_is_followed_by_the_next_one() {
    let (dead, server) = (Dead::refusing(), EchoServer::start(Fault::None));
    for flags in ["-c 5 -t 1 -n 100", "-c 5 -t 3 -n 100", "-c 5 -n 100 --with idle:3,trickle:2"] {
        let server_before = server.peers().len();
        let report =
            run(flags, &[&[dead.address, dead.address, server.address]]).expect("a report");
        assert_eq!((report.records.replies, report.records.established), (100, 5), "{flags}");
        assert_eq!(report.records.connect_failed(), 0, "the name has been reached: {flags}");
        assert_eq!(report.plan.target_addresses(), [format!("tcp://{}", server.address)]);
        let rude: u64 = report.records.rude.iter().map(|count| count.connect_failed).sum();
        assert_eq!((rude, server.peers().len() - server_before >= 5), (0, true), "{flags}");
    }
}

#[test]
fn connections_that_follow_others_use_the_address_that_was_chosen() {
    let (dead, server) = (Dead::refusing(), EchoServer::start(Fault::None));
    let report = run("-c 2 -n 100 --lifetime 5", &[&[dead.address, server.address]]);
    let records = report.expect("a report").records;
    assert_eq!((records.replies, records.connect_failed()), (100, 0));
    assert!(records.reconnects >= 17, "{}", records.reconnects);
}

#[test]
fn each_port_of_a_range_has_an_address_of_its_own() {
    let (dead, server) = (Dead::refusing(), EchoServer::start(Fault::None));
    // The first port lives nowhere, the second one on its second address only.
    let targets: [&[SocketAddr]; 2] =
        [&[dead.address, dead.address], &[dead.address, server.address]];
    let report = run("-c 4 -n 20", &targets).expect("a report");
    assert_eq!((report.records.established, report.records.connect_failed()), (2, 2));
    assert_eq!(
        report.records.targets.iter().map(|one| one.established).collect::<Vec<_>>(),
        [0, 2]
    );
}

#[test]
fn all_addresses_share_the_time_out() {
    let (dead, server) = (Dead::silent(), EchoServer::start(Fault::None));
    let flags = "-c 2 -n 20 --timeout 6s";
    let report = run(flags, &[&[dead.address, server.address]]).expect("a report");
    assert_eq!((report.records.replies, report.records.connect_failed()), (20, 0));
    // The first address has had half of the time.
    let latency = report.records.connect.min();
    assert!((2_990_000_000..6_000_000_000).contains(&latency), "{latency}");
    let begun = std::time::Instant::now();
    let failure = run("-c 2 -n 20 --timeout 300ms", &[&[dead.address, dead.address]]);
    let Err(Failure::Setup(text)) = failure else { panic!("a report") };
    let both = format!("tcp://{0} or tcp://{0}", dead.address);
    assert!(text.contains(&format!("no connection to {both} could be established")), "{text}");
    assert!(text.contains("raise --timeout"), "{text}");
    assert!(begun.elapsed() < common::GUARD, "a guard against hanging");
}
