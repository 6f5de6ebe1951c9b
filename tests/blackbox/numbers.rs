//! The numbers that the daemon shows. Each has another value, so that no two of them can be swapped
//! unnoticed.

use std::io::{Read, Write};
use std::net::TcpStream;

use rustix::process::Signal;

use crate::harness::{Client, Daemon, GUARD, eventually, named_values};

/// The counters of datagrams in the totals of a server that has none.
const NO_DATAGRAMS_OR_UPGRADES: &str = "datagrams_received=0 datagrams_sent=0 datagrams_unsent=0 \
    datagrams_dropped=0 datagrams_truncated=0 datagrams_refused=0 datagrams_limited=0 \
    handed_over=0 taken_over=0";

fn connect(daemon: &Daemon, listener: usize) -> TcpStream {
    let client = TcpStream::connect_timeout(&daemon.addresses()[listener], GUARD);
    let client = client.expect("connecting");
    client.set_read_timeout(Some(GUARD)).expect("setting a time-out");
    client
}

/// `name=value` words in this order, as one text.
fn words(values: &[(&str, u64)]) -> String {
    values.iter().map(|(name, value)| format!("{name}={value} ")).collect()
}

#[test]
fn totals_at_a_signal_and_at_the_end_and_the_lines_of_connections_have_known_values() {
    let flags = ["--workers", "1", "--log", "debug", "--listen", "127.0.0.1:0"];
    let more = ["--listen", "discard://127.0.0.1:0", "--linger", "600s"];
    let mut daemon = Daemon::start(&[&flags[..], &more].concat());
    let await_stat = |name, value| {
        eventually(&format!("{name}={value}"), || daemon.stat(name) == value);
    };
    let mut discarded = connect(&daemon, 1);
    for (bytes, total) in [(1_000, 1_000), (2_000, 3_000), (4_000, 7_000)] {
        discarded.write_all(&vec![0; bytes]).expect("sending");
        await_stat("bytes_received", total);
    }
    let mut echoed = Client::connect(daemon.address());
    for _ in 0..5 {
        echoed.ping(10);
    }
    let others: Vec<Client> = (0..4).map(|_| Client::connect(daemon.address())).collect();
    await_stat("accepted", 6);
    for number in 1..=2 {
        Client::connect(daemon.address()).close();
        await_stat("closed", number);
    }
    Client::connect(daemon.address()).reset();
    await_stat("closed", 3);
    daemon.stats();
    let line = daemon.lines_with(" accepted=").pop().expect("the totals");
    let totals = words(&[
        ("connections", 6),
        ("accepted", 9),
        ("closed", 3),
        ("receives", 8),
        ("sends", 5),
        ("bytes_received", 7_050),
        ("bytes_sent", 50),
        ("bytes_discarded", 0),
        ("buffers_held", 0),
        ("waits_for_buffer", 0),
        ("waits_for_slot", 0),
    ]);
    assert!(line.contains(&totals), "{line}");
    let rest = format!(" messages_dropped=0 {NO_DATAGRAMS_OR_UPGRADES} peer-closed=2 reset=1");
    // Of the times only those to the first bytes: there is no hub, and nobody asks for those of turns.
    let (counts, times) = line.split_once(" first_byte_time_p50_us=").expect("the times");
    assert!(counts.ends_with(&rest), "{line}");
    let (median, late) = times.split_once(" first_byte_time_p99_us=").expect("two of them");
    let [median, late] = [median, late].map(|time| time.parse::<f64>().expect("a number"));
    assert!(0.0 < median && median <= late, "{line}");

    let discarding = discarded.local_addr().expect("its address");
    let echoing = echoed.local();
    daemon.signal(Signal::TERM);
    assert_eq!(discarded.read(&mut [0]).expect("FIN"), 0);
    discarded.write_all(&[0; 300]).expect("sending");
    echoed.expect_fin();
    drop((discarded, echoed, others));
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
    let end = daemon.lines_with("ended, ").pop().expect("the last line");
    let totals = words(&[
        ("connections", 0),
        ("accepted", 9),
        ("closed", 9),
        ("receives", 8),
        ("sends", 5),
        ("bytes_received", 7_050),
        ("bytes_sent", 50),
        ("bytes_discarded", 300),
    ]);
    assert!(end.contains(&totals), "{end}");
    let rest = format!(
        " unaccepted=0 unanswered=1 messages_dropped=0 {NO_DATAGRAMS_OR_UPGRADES} peer-closed=2 reset=1 drained=6"
    );
    assert!(end.contains(&format!("{rest} first_byte_time_p50_us=")), "{end}");

    let line = |what: &str, peer| {
        let lines = daemon.lines_with(&format!("] {what} id="));
        let is_its = |line: &String| line.contains(&format!(" peer={peer} "));
        lines.into_iter().find(is_its).expect("a line for each connection")
    };
    for (peer, number, bytes) in [
        (discarding, 1, "in=7000 out=0 reason=drained "),
        (echoing, 2, "in=50 out=50 reason=drained "),
    ] {
        let (begin, end) = (line("connect", peer), line("disconnect", peer));
        assert_eq!(named_values(&begin)["connections"], number, "{begin}");
        assert_eq!(named_values(&begin)["id"], named_values(&end)["id"]);
        assert!(end.contains(&format!(" peer={peer} {bytes}connections=")), "{end}");
    }
    let left = daemon.lines_with("] disconnect id=");
    let left: Vec<u64> = left.iter().map(|line| named_values(line)["connections"]).collect();
    assert_eq!(left, [6, 6, 6, 5, 4, 3, 2, 1, 0], "connections that remain");
}

/// Rates are those of the interval: they return to zero when nothing happens any more.
#[test]
fn rates_are_of_their_interval_and_each_has_its_own_name() {
    const BYTES: usize = 64 << 20;
    let flags =
        ["--workers", "1", "--stats-interval", "100ms", "--listen", "discard://127.0.0.1:0"];
    let daemon = Daemon::start(&flags);
    let rates = |line: &str, name: &str| -> f64 {
        let word =
            line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        word.unwrap_or_else(|| panic!("no {name} in {line}")).parse().expect("a number")
    };
    let lines = || daemon.lines_with(" in_mib_per_s=");
    // The first interval begins some time after the ready line.
    eventually("a line", || !lines().is_empty());
    let mut clients: Vec<_> = (0..3).map(|_| connect(&daemon, 0)).collect();
    for _ in 0..BYTES >> 20 {
        clients[0].write_all(&vec![0; 1 << 20]).expect("sending");
    }
    eventually("all is received", || daemon.stat("bytes_received") == BYTES as u64);
    let busy = lines().len();
    eventually("two more lines", || lines().len() >= busy + 2);
    let (lines, last) = (lines(), lines().pop().expect("the last"));
    for name in ["accepted_per_s", "receives_per_s", "in_mib_per_s"] {
        assert!(lines.iter().any(|line| rates(line, name) > 0.0), "{name} is never above 0");
        assert_eq!(rates(&last, name), 0.0, "{last}");
    }
    for line in &lines {
        assert_eq!(rates(line, "out_mib_per_s"), 0.0, "{line}");
    }
    assert_eq!(rates(&last, "connections"), 3.0, "{last}");
    drop(clients);
    daemon.finish();
}

#[test]
fn the_line_of_limits_has_each_value_under_its_name() {
    let daemon = Daemon::start(&[
        "--workers",
        "3",
        "--max-connections",
        "300",
        "--max-connections-per-address",
        "299",
        "--buffers",
        "200",
        "--buffer-size",
        "512",
        "--backlog",
        "70",
    ]);
    let line = daemon.wait_lines(1, "limits: ").pop().expect("the limits");
    let limits = "limits: workers=3 max_connections=300 max_connections_per_address=299 buffers=200 \
                  buffer_size_bytes=512 leases_per_connection=4 backlog=70";
    assert!(line.ends_with(limits), "{line}");
    daemon.finish();
}
