//! Start: addresses, start errors with their exit codes and remedies, and the output on stdout.

use std::net::{Ipv4Addr, SocketAddr};

use crate::harness::{
    Client, Daemon, Fleet, eventually, have, have_ipv6, named_values, own_port, run_to_end,
};

/// Exit codes, as documented in `docs/operations.md`.
const FAILED: Option<i32> = Some(1);
const USAGE: Option<i32> = Some(2);

#[test]
fn a_second_daemon_on_the_port_is_refused_and_the_first_keeps_serving() {
    let first = Daemon::start(&["--workers", "2"]);
    let mut client = Client::connect(first.address());
    for _ in 0..3 {
        let (code, stdout, stderr) =
            run_to_end("true", &["--listen", &first.address().to_string()]);
        assert_eq!((code, &stdout[..]), (FAILED, ""), "{stderr}");
        assert!(stderr.contains("in use"), "does not say that the address is in use: {stderr}");
        assert!(stderr.contains(&first.address().to_string()), "does not say which: {stderr}");
        client.ping(1_000);
        Client::connect(first.address()).close();
    }
    client.close();
    first.finish();
}

#[test]
fn daemons_that_share_a_port_both_serve() {
    let first = Daemon::start(&["--share-port", "--workers", "1", "--log", "debug"]);
    let address = first.address().to_string();
    let flags = ["--share-port", "--workers", "1", "--log", "debug", "--listen", &address];
    let second = Daemon::start(&flags);
    assert_eq!(first.address(), second.address());
    for _ in 0..100 {
        let mut client = Client::connect(first.address());
        client.ping(100);
        client.close();
    }
    eventually("100 disconnect lines of both", || {
        first.closed().len() + second.closed().len() == 100
    });
    // The kernel distributes by a hash: all 100 go to one daemon with a probability of 2^-99.
    assert!(!first.closed().is_empty() && !second.closed().is_empty());
    first.finish();
    second.finish();
}

#[test]
fn port_0_is_resolved_once_for_all_workers() {
    let daemon = Daemon::start(&["--workers", "4"]);
    let port = daemon.address().port();
    assert_ne!(port, 0);
    assert_eq!(daemon.listeners_on(port), 4, "listening sockets on port {port}");
    let mut fleet = Fleet::connect(daemon.address(), 200);
    fleet.echo(1_000);
    drop(fleet);
    daemon.finish();
}

#[test]
fn one_address_given_twice_is_an_error() {
    let address = format!("127.0.0.1:{}", own_port());
    let (code, stdout, stderr) = run_to_end("true", &["--listen", &address, "--listen", &address]);
    assert_eq!((code, &stdout[..]), (USAGE, ""), "{stderr}");
    assert!(stderr.contains("twice") && stderr.contains(&address), "{stderr}");
}

#[test]
fn several_addresses_each_have_a_ready_line_and_serve() {
    let flags = ["--listen", "127.0.0.3:0", "--listen", "127.0.0.2:0", "--listen", "127.0.0.1:0"];
    let daemon = Daemon::start(&flags);
    let hosts: Vec<String> = daemon.addresses().iter().map(|at| at.ip().to_string()).collect();
    assert_eq!(hosts, ["127.0.0.3", "127.0.0.2", "127.0.0.1"], "not in the order of --listen");
    for address in daemon.addresses() {
        let mut client = Client::connect(*address);
        client.ping(1_000);
        client.close();
    }
    daemon.finish();
}

#[test]
fn ipv4_and_ipv6_can_be_given_separately_on_one_port() {
    if !have_ipv6() {
        return;
    }
    let port = own_port();
    let (v4, v6) = (format!("0.0.0.0:{port}"), format!("[::]:{port}"));
    for flags in [["--listen", &v4, "--listen", &v6], ["--listen", &v6, "--listen", &v4]] {
        let daemon = Daemon::start(&flags);
        for host in ["127.0.0.1", "[::1]"] {
            let to: SocketAddr = format!("{host}:{port}").parse().expect("an address");
            let mut client = Client::connect(to);
            client.ping(1_000);
            client.close();
        }
        daemon.finish();
    }
}

/// The error of a wrong command line must name the wrong part.
#[test]
fn a_wrong_command_line_is_refused_and_the_wrong_part_named() {
    let wrong: [(&[&str], &str); 12] = [
        (&["--no-such-flag"], "--no-such-flag"),
        (&["--workers", "none"], "--workers"),
        (&["--workers", "0"], "workers"),
        (&["--buffer-size", "12x"], "--buffer-size"),
        (&["--buffer-size", "1"], "buffer-size"),
        (&["--max-connections", "0"], "max-connections"),
        (&["--max-connections", "-1"], "-1"),
        (&["--listen", "nowhere"], "--listen"),
        (&["--listen", "127.0.0.1:99999"], "--listen"),
        (&["--idle-timeout", "5"], "--idle-timeout"),
        (&["--linger", "soon"], "--linger"),
        (&["--log", "loud"], "--log"),
    ];
    for (flags, name) in wrong {
        let (code, stdout, stderr) = run_to_end("true", flags);
        assert_eq!(code, USAGE, "{flags:?}: {stderr}");
        assert_eq!(stdout, "", "{flags:?}: stdout carries only ready lines");
        assert!(stderr.contains(name), "{flags:?}: does not say what is wrong: {stderr}");
    }
}

#[test]
fn help_and_version_succeed() {
    for flag in ["--help", "--version"] {
        let (code, stdout, stderr) = run_to_end("true", &[flag]);
        assert_eq!((code, &stderr[..]), (Some(0), ""), "{flag}");
        assert!(stdout.contains("echopool"), "{flag}: {stdout}");
    }
}

#[test]
fn more_connections_than_files_are_refused_with_both_numbers_and_the_remedy() {
    let flags = ["--max-connections", "5000", "--listen", "127.0.0.1:0"];
    let (code, stdout, stderr) = run_to_end("ulimit -n 1000", &flags);
    assert_eq!((code, &stdout[..]), (FAILED, ""), "{stderr}");
    for part in ["5000", "1000", "ulimit"] {
        assert!(stderr.contains(part), "does not say {part}: {stderr}");
    }
}

#[test]
fn by_default_the_file_limit_sets_the_connection_limit() {
    let daemon = Daemon::start_under("ulimit -n 300", &[]);
    let mut fleet = Fleet::connect(daemon.address(), 200);
    fleet.echo(100);
    drop(fleet);
    daemon.finish();
}

#[test]
fn the_soft_limit_of_files_is_raised() {
    let daemon = Daemon::start_under("ulimit -Sn 100", &["--max-connections", "500"]);
    let mut fleet = Fleet::connect(daemon.address(), 400);
    fleet.echo(100);
    drop(fleet);
    daemon.finish();
}

#[test]
fn the_memory_sum_is_printed_before_the_ready_line() {
    let sums = ["1000", "2000"].map(|buffers| {
        let daemon = Daemon::start(&["--max-connections", "100", "--buffers", buffers]);
        // Read without waiting: after the ready line, the sum must be there.
        daemon.memory_sum()
    });
    let difference = sums[1] - sums[0];
    assert!(difference >= 1_000 * 16 * 1024, "1,000 more buffers add only {difference} bytes");
}

#[test]
fn rates_are_printed_when_asked_for_and_not_on_stdout() {
    let daemon = Daemon::start(&["--stats-interval", "100ms"]);
    let mut client = Client::connect(daemon.address());
    eventually("a line with a rate above 0", || {
        client.ping(1_000);
        let lines = daemon.lines_with("receives_per_s=");
        lines.iter().any(|line| named_values(line)["receives_per_s"] > 0)
    });
    client.close();
    daemon.finish();
}

/// Levels above debug log nothing about single clients.
#[test]
fn clients_are_logged_at_debug_only() {
    for (level, expected) in [("info", 0), ("debug", 1)] {
        let daemon = Daemon::start(&["--log", level]);
        Client::connect(daemon.address()).close();
        eventually("the client is gone", || {
            let stats = daemon.stats();
            stats["accepted"] == 1 && stats["connections"] == 0
        });
        for word in [" connect id=", "disconnect id="] {
            let lines = daemon.wait_lines(expected, word).len();
            assert_eq!(lines, expected, "lines with {word} at {level}");
        }
        daemon.finish();
    }
}

#[test]
fn too_large_buffer_lists_are_refused_with_their_size_and_the_remedy() {
    // 10,000 queues of 32 MiB have 8,202 entries of 16 bytes each: 1.2 GiB.
    let flags = [
        ["--listen", "hub://127.0.0.1:0?queue=32Mi"],
        ["--max-connections", "10k"],
        ["--buffers", "40k"],
        ["--buffer-size", "4k"],
        ["--workers", "1"],
    ];
    let (code, stdout, stderr) = run_to_end("ulimit -v 1200000", flags.as_flattened());
    assert_eq!((code, &stdout[..]), (FAILED, ""), "{stderr}");
    for part in ["1.2 GiB", "service 1.2 GiB", "--max-connections", "--buffers"] {
        assert!(stderr.contains(part), "does not say {part}: {stderr}");
    }
}

#[test]
fn a_link_local_address_takes_its_zone_by_name_and_asks_for_a_missing_one() {
    if !have_ipv6() {
        return;
    }
    // Nobody has the address, so the bind fails; the zone is understood before.
    let at = |zone: &str| format!("[fe80::dead:beef{zone}]:0");
    let run = |zone: &str| run_to_end("true", &["--listen", &at(zone), "--max-connections", "9"]);
    let (code, _, stderr) = run("%lo");
    assert_eq!(code, FAILED, "{stderr}");
    assert!(stderr.contains("no interface of this machine has the address"), "{stderr}");
    let (code, _, stderr) = run("%no-such");
    assert_eq!(code, FAILED, "{stderr}");
    assert!(stderr.contains("%no-such"), "{stderr}");
    let (code, _, stderr) = run("");
    assert_eq!(code, FAILED, "{stderr}");
    assert!(stderr.contains("[fe80::1%eth0]:7777"), "no hint: {stderr}");
}

/// Runs the daemon in a process in which the kernel refuses IPv6 sockets, as one that was started
/// with `ipv6.disable=1` does. The filter for system calls is in struct sock_fprog: it loads the
/// number of the call, and of `socket` (41 on x86-64, 198 on AArch64) the address family.
pub const WITHOUT_IPV6: &str = "exec python3 -c 'import ctypes, os, platform, struct, sys; \
    socket = dict(x86_64=41, aarch64=198)[platform.machine()]; \
    steps = [(32, 0, 0, 0), (21, 0, 3, socket), (32, 0, 0, 16), (21, 0, 1, 10), \
             (6, 0, 0, 0x50000 + 97), (6, 0, 0, 0x7FFF0000)]; \
    code = ctypes.create_string_buffer(b\"\".join(struct.pack(\"HBBI\", *s) for s in steps)); \
    program = struct.pack(\"HxxxxxxP\", len(steps), ctypes.addressof(code)); \
    prctl = ctypes.CDLL(None).prctl; \
    ok = prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, program) == 0; \
    ok or sys.exit(\"no filter\"); \
    os.execv(sys.argv[1], sys.argv[1:])' \"$0\" \"$@\"";

#[test]
fn without_ipv6_the_wildcards_of_ipv4_are_listened_on() {
    if !have("python3") {
        return;
    }
    // Alone, beside the one of IPv4 in either order, and over UDP. Each pair takes a free port.
    let alone = Daemon::start_under(WITHOUT_IPV6, &["--listen", "[::]:0"]);
    assert!(alone.address().is_ipv4(), "{}", alone.address());
    for (v6, v4) in [("[::]", "0.0.0.0"), ("udp://[::]", "udp://0.0.0.0")] {
        for order in [[v6, v4], [v4, v6]] {
            let port = own_port();
            let [first, second] = order.map(|host| format!("{host}:{port}"));
            // One line is read for each `--listen`, and the second is left out.
            let second = format!("--listen={second}");
            let daemon = Daemon::start_under(WITHOUT_IPV6, &["--listen", &first, &second]);
            assert_eq!(daemon.targets().len(), 1, "{:?}", daemon.targets());
            assert!(daemon.targets()[0].contains("0.0.0.0"), "{:?}", daemon.targets());
            let skipped = daemon.wait_lines(1, "no IPv6 on this machine: not listening on");
            assert_eq!(skipped.len(), 1, "{skipped:?}");
            daemon.finish();
        }
    }
    let mut client = Client::connect((Ipv4Addr::LOCALHOST, alone.address().port()).into());
    client.ping(1_000);
    client.close();
    alone.finish();
}
