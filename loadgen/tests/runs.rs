//! Whole runs of the built program: with a local server, against other servers, within limits, and
//! interrupted. No times are asserted.

mod common;

use std::net::IpAddr;
use std::process::Command;

use common::server::{EchoServer, Fault};
use common::{loadgen, own_port, program, start, until};
use rustix::process::Signal;

#[test]
fn without_a_target_it_brings_its_own_server() {
    let ended = loadgen("-c 50 -d 500ms").expect(0);
    ended
        .says("Running 500ms test @ tcp://127.0.0.1:")
        .says("and 50 connections\n")
        .says("  Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency  ")
        .says("  Latency Distribution\n     50% ")
        .says("\nRequests/sec: ")
        .says("\nTransfer/sec: ")
        .says("Connections: 50 asked, 50 established, 50 served, 0 lost\n")
        .says(" bytes, 0 mismatches\n")
        .says("\nVerdict: valid: the generator ");
    assert!(!ended.stdout.contains("measuring"), "progress is on stderr");
}

#[test]
fn a_number_of_requests_is_sent_exactly() {
    for (connections, flags) in
        [(7, "-n 1003 -t 3 -c 7 -l 100"), (7, "-n 1003 -t 2 -c 7 -p 5 -l 100"), (7, "-n 3 -c 7")]
    {
        let server = EchoServer::start(Fault::None);
        let flags = format!("{} {flags} --output-format json", server.address);
        let json = loadgen(&flags).expect(0).json();
        let requests = &json["config"]["requests"];
        assert_eq!((&json["requests_begun"], &json["replies"]), (requests, requests), "{flags}");
        assert_eq!(json["latency"]["count"], *requests, "{flags}");
        let bytes = requests.as_u64().unwrap() * json["config"]["size_bytes"].as_u64().unwrap();
        assert_eq!((server.bytes(), &json["bytes_verified"]), (bytes, &bytes.into()), "{flags}");
        assert_eq!(json["connections"]["established"], connections);
    }
}

#[test]
fn each_connection_is_served_however_short_the_run() {
    let json = loadgen("-c 600 -t 2 -d 1us --output-format json").expect(0).json();
    assert_eq!(json["connections"]["served"], 600);
    assert_eq!(json["elapsed_ns"], 1_000);
}

#[test]
fn requests_larger_than_all_buffers_come_back() {
    let json = loadgen("-c 8 -t 1 -n 40 -l 3m -p 2 --output-format json").expect(0).json();
    assert_eq!(json["bytes_verified"], 40u64 * (3 << 20));
    assert_eq!(json["connections"]["served"], 8);
}

#[test]
fn the_json_form_is_one_object_with_all_parts() {
    let server = EchoServer::start(Fault::None);
    let flags = "-c 4 -t 2 -d 300ms --connect-rate 100 --output-format json";
    let json = loadgen(&format!("tcp://{} {flags}", server.address)).expect(0).json();
    assert_eq!(json["target"], format!("tcp://{}", server.address));
    assert_eq!(json["elapsed_ns"], 300_000_000);
    assert_eq!(json["connections"]["served"], 4);
    assert_eq!(json["config"]["connect_rate_per_second"], 100);
    assert_eq!((&json["verdict"], &json["interrupted"]), (&"valid".into(), &false.into()));
    let late = json["replies_late"].as_u64().unwrap();
    let replies = json["replies"].as_u64().unwrap();
    assert_eq!(json["latency"]["count"], replies + late);
    let latency = |key: &str| json["latency"][key].as_u64().unwrap();
    assert!(latency("p50_ns") <= latency("max_ns"));
}

#[test]
fn the_report_goes_to_a_file_if_asked() {
    let path = std::env::temp_dir().join(format!("loadgen-test-{}.txt", std::process::id()));
    let ended = loadgen(&format!("-c 2 -n 20 -L -o {}", path.display())).expect(0);
    let report = std::fs::read_to_string(&path).expect("the file is there");
    std::fs::remove_file(&path).expect("it can be removed");
    assert_eq!(ended.stdout, "");
    assert!(report.contains("Detailed Percentile spectrum:"), "{report}");
    assert!(report.contains("Verdict: valid"), "{report}");
}

#[test]
fn source_addresses_are_used_in_turn() {
    let server = EchoServer::start(Fault::None);
    let flags = "-c 4 -n 8 --source-ip 127.0.0.5 --source-ip 127.0.0.6";
    loadgen(&format!("{} {flags}", server.address)).expect(0);
    until("all are accepted", || (server.peers().len() >= 4).then_some(()));
    let from = |text: &str| {
        let address: IpAddr = text.parse().unwrap();
        server.peers().into_iter().filter(|peer| *peer == address).count()
    };
    assert_eq!((from("127.0.0.5"), from("127.0.0.6")), (2, 2));
}

#[test]
fn nobody_listening_is_a_failure_that_says_so() {
    let port = own_port();
    let ended = loadgen(&format!("127.0.0.1:{port} -c 3")).expect(1);
    ended
        .complains("no connection to tcp://127.0.0.1")
        .complains("refused")
        .complains("3 of 3")
        .complains("start the server");
    assert_eq!(ended.stdout, "", "there is no report");
}

#[test]
fn a_host_that_cannot_be_looked_up_is_a_failure() {
    loadgen("no-such-host.invalid:7777").expect(1).complains("cannot resolve no-such-host");
}

#[test]
fn a_report_that_cannot_be_written_fails_before_the_run() {
    loadgen("-o /no/such/directory/file").expect(1).complains("cannot write to /no/such");
}

#[test]
fn usage_errors() {
    let wrong = [
        ("-d 10", "unit"),
        ("-c 0", "at least 1"),
        ("-c many", "number"),
        ("-l 4q", "not a unit"),
        ("tls://", "does not speak TLS"),
        ("unix:/tmp/x", "not a port"),
        ("unix://", "path of the Unix socket is missing"),
        ("unix:///e --source-ip 127.0.0.1", "omit it"),
        ("127.0.0.1", "no port"),
        ("--no-such-flag", "unexpected argument"),
        ("127.0.0.1:7 --source-ip ::1", "IPv6"),
        ("-l 2g", "at most"),
    ];
    for (flags, reason) in wrong {
        let ended = loadgen(flags).expect(2);
        ended.complains(reason);
        assert_eq!(ended.stdout, "", "{flags}");
    }
    loadgen("--help").expect(0).says("Exit codes:").says("--connect-rate");
}

/// The program in a shell that has lowered the hard and soft limits of open files.
fn with_open_files(limit: u32, flags: &str) -> Command {
    let mut command = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_loadgen");
    command.args(["-c", &format!("ulimit -n {limit} && exec {program} {flags}")]);
    command
}

#[test]
fn a_machine_with_few_open_files_has_fewer_clients_and_says_so() {
    let ended = start(with_open_files(400, "-d 300ms -t 1")).wait().expect(0);
    ended.complains("10000 connections requested, ").complains("hard limit is 400");
    ended.says("Connections: 10000 asked, ").says("as many as the machine allows");
    ended.says("Limit: 10000 connections requested").says("ulimit -Hn");
    assert!(!ended.stdout.contains("10000 established"), "{}", ended.stdout);
}

#[test]
fn connections_asked_for_that_cannot_be_had_make_the_run_not_valid() {
    let flags = "-c 1000 -d 300ms -t 1 --output-format json";
    let ended = start(with_open_files(400, flags)).wait().expect(4);
    ended.complains("1000 connections requested, ").complains("ulimit -Hn");
    let json = ended.json();
    assert_eq!((&json["verdict"], &json["exit_code"]), (&"under-connected".into(), &4.into()));
    let established = json["connections"]["established"].as_u64().unwrap();
    assert_eq!(json["connections"]["possible"], established);
    assert_eq!(json["connections"]["served"], established);
    assert!((100..400).contains(&established), "{established}");
}

#[test]
fn an_interrupted_run_still_reports() {
    for signal in [Signal::INT, Signal::TERM] {
        let server = EchoServer::start(Fault::None);
        let run = start(program(&format!("{} -c 5 -t 1 -d 10m", server.address)));
        until("requests are answered", || (server.bytes() > 100_000).then_some(()));
        run.signal(signal);
        let ended = run.wait().expect(130);
        ended.says("Requests/sec: ").says("Verdict: valid: interrupted: ");
        ended.says("5 established, 5 served, 0 lost");
    }
}

#[test]
fn interrupted_while_connecting_it_reports_too() {
    let server = EchoServer::start(Fault::None);
    let run = start(program(&format!("{} -c 1000 --connect-rate 2", server.address)));
    until("the first are connected", || (server.peers().len() >= 2).then_some(()));
    run.signal(Signal::INT);
    run.wait().expect(130).says(": interrupted: a shorter run");
}

#[test]
fn the_second_signal_ends_it_at_once() {
    let server = EchoServer::start(Fault::Stall { connection: 0, offset: 0 });
    let run = start(program(&format!("{} -c 1 -d 10m --timeout 10m", server.address)));
    until("the request is stalled", || (server.fired() > 0).then_some(()));
    // Two kinds, because the system may merge two of the same.
    run.signal(Signal::INT);
    run.signal(Signal::TERM);
    // With one signal only it would wait for the reply for a while, and then report.
    let ended = run.wait().expect(130);
    assert!(!ended.stdout.contains("Verdict"), "it reported: {}", ended.stdout);
}

#[test]
fn a_server_of_its_own_that_dies_is_a_failure_that_says_so() {
    let run = start(program("-c 5 -d 10m"));
    let server = run.server_process();
    // Killing it before it listens would be another failure.
    until("clients are connected", || (run.sockets() >= 5).then_some(()));
    rustix::process::kill_process(server, Signal::KILL).expect("it is there");
    run.wait().expect(1).complains("the server ended during the run");
}

#[test]
fn the_server_ends_with_the_program_however_that_ends() {
    let run = start(program("-c 5 -d 10m"));
    let server = run.server_process();
    until("clients are connected", || (run.sockets() >= 5).then_some(()));
    run.signal(Signal::KILL);
    until("the server has ended", || {
        let stat = std::fs::read_to_string(format!("/proc/{server}/stat"));
        let ended = stat.map_or(true, |stat| stat.contains(") Z "));
        ended.then_some(())
    });
}

/// What a process needs beside what grows with the run: its code, and what the allocator keeps.
#[cfg(target_os = "linux")]
#[test]
fn the_memory_that_is_announced_is_not_exceeded() {
    const BASE_MIB: f64 = 16.0;
    let server = EchoServer::start(Fault::None);
    for flags in ["-c 128 -t 128", "-c 128 -t 128 -R 1k", "-c 3000 -t 2 -p 8"] {
        let run = start(program(&format!("{} {flags} -d 800ms", server.address)));
        let status = format!("/proc/{}/status", run.child.id());
        let mut most_kib = 0;
        let ended = loop {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            match peak.and_then(|peak| peak.split_whitespace().next()?.parse::<u64>().ok()) {
                Some(kib) => most_kib = most_kib.max(kib),
                None => break run.wait(),
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        let announced = ended.stderr.split(" threads, up to ").nth(1).expect("a sum");
        let announced: f64 = announced.split(' ').next().unwrap().parse().expect("a number");
        let most_mib = most_kib as f64 / 1024.0;
        assert!(most_mib > BASE_MIB / 4.0, "{flags}: {most_mib}");
        assert!(most_mib <= announced + BASE_MIB, "{flags}: {most_mib} of {announced} MiB");
    }
}
