//! The STAMP reflector: every field of its replies, over IPv4 and IPv6, with and without state; what
//! it does not answer; and a sender that is not ours.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::harness::{Daemon, eventually, have, have_ipv6, run_to_end, run_with_input};
use crate::udp::{ask, client, counter, receive, send};

const USAGE: Option<i32> = Some(2);

/// Nanoseconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64
}

/// A timestamp of NTP, which counts from 1900.
fn ntp(unix_ns: u64) -> [u8; 8] {
    let (seconds, nanos) = (unix_ns / 1_000_000_000 + 2_208_988_800, unix_ns % 1_000_000_000);
    ((seconds << 32) + (nanos << 32).div_ceil(1_000_000_000)).to_be_bytes()
}

fn unix_ns(ntp: &[u8]) -> u64 {
    let number = u64::from_be_bytes(ntp.try_into().expect("8 bytes"));
    let nanos = ((number & 0xffff_ffff) * 1_000_000_000) >> 32;
    ((number >> 32) - 2_208_988_800) * 1_000_000_000 + nanos
}

/// A sender's packet of this length: an error estimate of a millisecond, and session 0x0102.
fn packet(number: u32, length: usize) -> Vec<u8> {
    let mut packet = vec![0; length];
    packet[..4].copy_from_slice(&number.to_be_bytes());
    packet[4..12].copy_from_slice(&ntp(now()));
    packet[12..16].copy_from_slice(&[0x8f, 0x84, 1, 2]);
    packet
}

/// The sequence number of a reply.
fn number(reply: &[u8]) -> u32 {
    u32::from_be_bytes(reply[..4].try_into().expect("4 bytes"))
}

/// Asks once, and checks every field of the reply. `hop_limit` is that of the client's packets.
fn check(client: &UdpSocket, hop_limit: u8, reply_number: u32) {
    let packet = packet(77, 44);
    let before = unix_ns(&packet[4..12]);
    let reply = ask(client, &packet);
    let after = now();
    assert_eq!(reply.len(), 44);
    assert_eq!(number(&reply), reply_number);
    let (sent, received) = (unix_ns(&reply[4..12]), unix_ns(&reply[16..24]));
    assert!(before <= received && received <= sent && sent <= after, "{reply:?}");
    // NTP, a multiplier, and whether this machine's clock is set by anything.
    assert_eq!(reply[12] & 0x40, 0);
    assert_ne!(reply[13], 0);
    assert_eq!(reply[14..16], packet[14..16], "the session");
    assert_eq!(reply[24..38], packet[..14], "what was sent");
    assert_eq!(reply[38..], [0, 0, hop_limit, 0, 0, 0]);
}

#[test]
fn every_field_of_a_reply_is_right() {
    let urls = ["stamp://127.0.0.1:0", "stamp+udp://127.0.0.1:0?stateful=on"];
    let daemon = Daemon::start(&["--listen", urls[0], "--listen", urls[1], "--workers", "2"]);
    let [stateless, stateful] = *daemon.addresses() else { panic!("two addresses") };
    assert_eq!(daemon.targets()[0], format!("stamp://{stateless}"));
    assert_eq!(daemon.targets()[1], format!("stamp://{stateful}?stateful=on"));
    for clients in 0..5 {
        let (one, other) = (client(stateless), client(stateful));
        for hop_limit in [255, 37, 1] {
            one.set_ttl(hop_limit.into()).expect("setting the hop limit");
            check(&one, hop_limit, 77);
        }
        for nth in 0..4 {
            other.set_ttl(9 + clients).expect("setting the hop limit");
            check(&other, 9 + clients as u8, nth);
        }
    }
    daemon.finish();
}

#[test]
fn replies_over_ipv6_and_to_all_addresses_leave_from_where_they_were_sent_to() {
    if !have_ipv6() {
        return;
    }
    let daemon = Daemon::start(&["--listen", "stamp://[::]:0"]);
    let port = daemon.address().port();
    let to_ipv6 = client(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port)));
    for hop_limit in [255_u8, 12] {
        rustix::net::sockopt::set_ipv6_unicast_hops(&to_ipv6, Some(hop_limit)).expect("setting it");
        check(&to_ipv6, hop_limit, 77);
    }
    let to_ipv4 = client(SocketAddr::from(([127, 0, 0, 77], port)));
    to_ipv4.set_ttl(200).expect("setting the hop limit");
    check(&to_ipv4, 200, 77);
    daemon.finish();
}

/// A reply is as long as its packet. What would need a longer one, is authenticated, or says itself
/// that it is unusable, gets none.
#[test]
fn some_packets_are_not_answered_and_no_reply_is_longer() {
    let daemon = Daemon::start(&["--listen", "stamp://127.0.0.1:0"]);
    let to = client(daemon.address());
    let mut sent = 0;
    for length in [0, 1, 14, 40] {
        send(&to, &packet(1, 44)[..length]);
        sent += 1;
    }
    // With authentication: zeros from byte 4 to 15.
    let mut authenticated = packet(1, 112);
    authenticated[4..16].fill(0);
    authenticated[96..].fill(7);
    send(&to, &authenticated);
    let mut without_error = packet(1, 44);
    without_error[13] = 0;
    send(&to, &without_error);
    for (at, length) in [41, 43, 44, 45, 200, 1_400, 9_000].into_iter().enumerate() {
        let reply = ask(&to, &packet(at as u32, length));
        assert_eq!((number(&reply), reply.len()), (at as u32, length));
    }
    sent += 2 + 7;
    eventually("all are received", || counter(&daemon, "received") == sent);
    eventually("seven are sent", || counter(&daemon, "sent") == 7);
    // Extra padding is recognized, a location is not, and the last one is cut.
    let mut extended = packet(9, 44);
    extended.extend([0xc0, 1, 0, 2, 8, 8, 0xc0, 2, 0, 0, 0xc0, 1, 0, 9, 5]);
    let reply = ask(&to, &extended);
    assert_eq!(reply[44..], [0, 1, 0, 2, 8, 8, 0x80, 2, 0, 0, 0x40, 1, 0, 9, 5]);
    daemon.finish();
}

/// What waits in a socket has the time at which the kernel received it, not that of its turn.
#[test]
fn the_time_received_is_that_of_the_kernel() {
    let daemon = Daemon::start(&["--listen", "stamp://127.0.0.1:0"]);
    let to = client(daemon.address());
    check(&to, 64, 77);
    daemon.stop();
    let before = now();
    send(&to, &packet(1, 44));
    let sent = now();
    std::thread::sleep(Duration::from_millis(200));
    daemon.signal(rustix::process::Signal::CONT);
    let reply = receive(&to);
    let (replied, received) = (unix_ns(&reply[4..12]), unix_ns(&reply[16..24]));
    assert!(before <= received && received <= sent + 50_000_000, "{before} {received} {sent}");
    assert!(replied - received >= 150_000_000, "the time in the socket counts: {replied}");
    daemon.finish();
}

#[test]
fn a_reflector_has_no_connections() {
    for (url, reason) in [
        ("stamp+tcp://127.0.0.1:0", "stamp runs over udp only: write stamp://"),
        ("stamp+unix:///tmp/e", "stamp runs over udp only: write stamp://"),
        ("stamp://127.0.0.1:0?stateful=maybe", "'maybe' must be on or off"),
        ("udp://127.0.0.1:0?stateful=on", "'stateful' is an option of stamp, not of echo"),
    ] {
        let (code, _, stderr) = run_to_end("true", &["--listen", url]);
        assert_eq!(code, USAGE, "{url}: {stderr}");
        assert!(stderr.contains(reason), "{url}: {stderr}");
    }
}

#[test]
fn a_sender_that_is_not_ours_measures_against_it() {
    if !have("stamp-suite") {
        return;
    }
    let urls = ["stamp://127.0.0.1:0", "stamp://127.0.0.1:0?stateful=on"];
    let daemon = Daemon::start(&["--listen", urls[0], "--listen", urls[1]]);
    for address in daemon.addresses() {
        let port = address.port().to_string();
        let mut command = Command::new("stamp-suite");
        command.args(["--remote-addr", "127.0.0.1", "--remote-port", &port, "--count", "50"]);
        command.args(["--send-delay", "2", "--timeout", "5", "--ssid", "7"]);
        command.args(["--output-format", "json", "--local-addr", "127.0.0.1"]);
        let output = run_with_input(&mut command, b"");
        let report = String::from_utf8(output).expect("text");
        for part in ["\"packets_sent\":50", "\"packets_received\":50", "\"packets_lost\":0"] {
            assert!(report.replace(' ', "").contains(part), "no {part} in {report}");
        }
    }
    daemon.finish();
}
