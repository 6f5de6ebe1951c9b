//! Runs against STAMP reflectors: one that loses and doubles known packets in known directions, each
//! of which must be found there; the daemon's own; and one that is not ours.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::forms::{assert_valid, count, schema};
use common::{have, loadgen, own_port, until};
use echopool::builtin::{OfListener, ServiceOptions, StampOptions};
use echopool::{Config, ServerHandle};
use serde_json::Value;

/// What happens to a packet, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Reflect,
    LoseThere,
    LoseBack,
    DoubleThere,
    DoubleBack,
}

fn fate(number: u32) -> Fate {
    match number % 10 {
        1 => Fate::LoseThere,
        2 | 7 => Fate::DoubleThere,
        3..=5 => Fate::LoseBack,
        6 => Fate::DoubleBack,
        _ => Fate::Reflect,
    }
}

/// How many of the first `count` numbers have this fate.
fn with(fate_of: Fate, count: u32) -> u64 {
    (0..count).filter(|&number| fate(number) == fate_of).count() as u64
}

/// The time that the reflector says a packet was in it, in nanoseconds. No round trip takes as long.
const RESIDENCE: u64 = 10_000_000_000;

/// A reflector on a thread of its own, until it is dropped. Written from the RFC, without the code of
/// the one that is served.
struct Reflector {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reflector {
    /// `error`: its error estimate.
    fn start(error: [u8; 2], is_stateful: bool) -> Reflector {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        common::room_for_datagrams(&socket);
        socket.set_read_timeout(Some(Duration::from_millis(5))).expect("a time-out");
        let address = socket.local_addr().expect("it is bound");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || reflect(&socket, &stopped, error, is_stateful));
        Reflector { address, stop, thread: Some(thread) }
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A timestamp: of NTP or, with the Z bit in the error estimate, of PTP.
fn timestamp(unix_ns: u64, error: [u8; 2]) -> [u8; 8] {
    let (seconds, nanos) = (unix_ns / 1_000_000_000, unix_ns % 1_000_000_000);
    match error[0] & 0x40 {
        0 => {
            ((seconds + 2_208_988_800) << 32 | (nanos << 32).div_ceil(1_000_000_000)).to_be_bytes()
        }
        _ => (seconds << 32 | nanos).to_be_bytes(),
    }
}

fn reflect(socket: &UdpSocket, stop: &AtomicBool, error: [u8; 2], is_stateful: bool) {
    let mut packet = [0; 2_000];
    let mut own_number = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut packet) else { continue };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let now = now.as_nanos() as u64;
        assert!(length < 48 || packet[44] == 0xc0 && packet[45] == 1, "extra padding");
        let number = u32::from_be_bytes(packet[..4].try_into().expect("4 bytes"));
        let fate = fate(number);
        let send = |number: u32, times: usize| {
            let mut reply = packet[..length].to_vec();
            reply[..4].copy_from_slice(&number.to_be_bytes());
            reply[4..12].copy_from_slice(&timestamp(now + RESIDENCE, error));
            reply[12..14].copy_from_slice(&error);
            reply[16..24].copy_from_slice(&timestamp(now, error));
            reply[24..38].copy_from_slice(&packet[..14]);
            reply[40] = 64;
            (0..times)
                .for_each(|_| assert_eq!(socket.send_to(&reply, from).expect("sent"), length));
        };
        let arrivals = match fate {
            Fate::LoseThere => 0,
            Fate::DoubleThere => 2,
            _ => 1,
        };
        for _ in 0..arrivals {
            send(
                if is_stateful { own_number } else { number },
                match fate {
                    Fate::LoseBack => 0,
                    Fate::DoubleBack => 2,
                    _ => 1,
                },
            );
            own_number += 1;
        }
    }
}

/// A run. On a machine with other work, the generator may be late by its own account (exit code 4).
/// That changes no count.
fn run(flags: &str) -> Value {
    let ended = loadgen(&format!("{flags} --output-format json"));
    let code = if ended.code == Some(4) { 4 } else { 0 };
    let json = ended.expect(code).json();
    assert_valid(&schema("summary"), &json);
    json
}

/// S, Z, scale 0 and multiplier 1.
const SYNCHRONIZED: [u8; 2] = [0x80, 1];
const UNSYNCHRONIZED: [u8; 2] = [0, 1];
const PTP: [u8; 2] = [0xc0, 1];

const COUNT: u32 = 400;

fn flags(reflector: &Reflector, query: &str) -> String {
    let address = reflector.address;
    format!("stamp://{address}{query} -c 1 -t 1 -n {COUNT} -R 200 -p 2000 --timeout 3s")
}

#[test]
fn each_loss_and_each_double_is_found_in_its_direction() {
    // Most of the time they wait.
    thread::scope(|scope| {
        for size in ["", " -l 44", " -l uniform:44-1400"] {
            scope.spawn(move || assert_finds_each(size));
        }
    });
}

fn assert_finds_each(size: &str) {
    let of = |fate| with(fate, COUNT);
    let reflector = Reflector::start(UNSYNCHRONIZED, true);
    let json = run(&(flags(&reflector, "?stateful=on") + size));
    let (datagrams, stamp) = (&json["datagrams"], &json["stamp"]);
    let lost = of(Fate::LoseThere) + of(Fate::LoseBack);
    let doubled = of(Fate::DoubleThere) + of(Fate::DoubleBack);
    assert_eq!(count(&datagrams["sent"]), u64::from(COUNT));
    assert_eq!(count(&datagrams["lost"]), lost, "{datagrams}");
    assert_eq!(count(&datagrams["duplicated"]), doubled, "{datagrams}");
    assert_eq!(count(&datagrams["corrupted"]) + count(&datagrams["truncated"]), 0);
    let (there, back) = (&stamp["there"], &stamp["back"]);
    assert_eq!(count(&there["lost"]), of(Fate::LoseThere), "{stamp}");
    assert_eq!(count(&back["lost"]), of(Fate::LoseBack), "{stamp}");
    assert_eq!(count(&there["duplicated"]), of(Fate::DoubleThere), "{stamp}");
    assert_eq!(count(&back["duplicated"]), of(Fate::DoubleBack), "{stamp}");
    assert_eq!(count(&stamp["lost_unknown"]), 0);
    let replies = u64::from(COUNT) - lost;
    for times in [&stamp["round_trip"], &stamp["residence"]] {
        assert_eq!(count(&times["count"]), replies);
    }
    for direction in [there, back] {
        assert_eq!(count(&direction["variation"]["count"]), replies - 1);
        assert_eq!(direction["delay"], Value::Null, "the reflector's clock is not synchronized");
    }
    // Three digits of it are kept.
    for key in ["min_ns", "p50_ns", "max_ns"] {
        let residence = count(&stamp["residence"][key]);
        assert!(residence.abs_diff(RESIDENCE) < RESIDENCE / 500, "{key}: {residence}");
    }
    // It is said to be longer than the whole round trip.
    assert_eq!(count(&stamp["round_trip"]["max_ns"]), 0);
    assert_eq!(stamp["clocks_agree"], false);
}

#[test]
fn without_numbers_of_its_own_no_direction_is_told() {
    let reflector = Reflector::start(SYNCHRONIZED, false);
    let flags = flags(&reflector, "");
    let (json, text) = thread::scope(|scope| {
        let text = scope.spawn(|| loadgen(&format!("{flags} --details")).stdout);
        (run(&flags), text.join().expect("a run"))
    });
    let stamp = &json["stamp"];
    let lost = with(Fate::LoseThere, COUNT) + with(Fate::LoseBack, COUNT);
    assert_eq!(count(&json["datagrams"]["lost"]), lost);
    for direction in [&stamp["there"], &stamp["back"]] {
        assert_eq!((&direction["lost"], &direction["duplicated"]), (&Value::Null, &Value::Null));
    }
    assert_eq!(stamp["lost_unknown"], Value::Null);
    // Its replies leave, as it says, after they have returned.
    assert_eq!(stamp["clocks_agree"], false);
    for part in ["Directions of losses: unknown", "One-way delays: unknown; ", "Variation back: "] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

#[test]
fn times_of_ptp_are_read_and_said_not_to_be_utc() {
    let reflector = Reflector::start(PTP, true);
    let json = run(&flags(&reflector, "?stateful=on"));
    let residence = count(&json["stamp"]["residence"]["p50_ns"]);
    assert!(residence.abs_diff(RESIDENCE) < RESIDENCE / 500, "{residence}");
    assert_eq!(json["stamp"]["clocks_agree"], false);
}

/// The reflector that is served, with and without state.
fn served() -> ServerHandle {
    let services = [false, true].map(|stateful| ServiceOptions::Stamp(StampOptions { stateful }));
    let config = Config::new().listen("udp://127.0.0.1:0").listen("udp://127.0.0.1:0");
    let config = config.workers(2).max_connections(10);
    OfListener::new(services.to_vec()).start(config).expect("a server")
}

#[test]
fn the_reflector_that_is_served_answers_every_packet() {
    let server = served();
    for (listener, query) in [(0, ""), (1, "?stateful=on")] {
        let address = server.local_endpoints()[listener].address();
        for load in ["-n 20k -p 4", "-d 500ms -R 4000 -l 44", "-n 5000 --warmup 100ms -l 1400"] {
            let json = run(&format!("stamp://{address}{query} -c 20 -t 2 {load}"));
            let (datagrams, stamp) = (&json["datagrams"], &json["stamp"]);
            for key in ["lost", "late", "duplicated", "corrupted", "truncated"] {
                assert_eq!(count(&datagrams[key]), 0, "{key}: {datagrams}");
            }
            let is_stateful = !query.is_empty();
            let none = if is_stateful { 0.into() } else { Value::Null };
            for (from, key) in [
                (&stamp["there"], "lost"),
                (&stamp["back"], "lost"),
                (&stamp["there"], "duplicated"),
                (&stamp["back"], "duplicated"),
                (stamp, "lost_unknown"),
            ] {
                assert_eq!(from[key], none, "{key}: {stamp}");
            }
            assert_eq!(stamp["round_trip"]["count"], json["requests_completed"]);
            let [whole, network] = ["latency", "stamp/round_trip"]
                .map(|key| count(json.pointer(&format!("/{key}/min_ns")).expect("a time")));
            assert!(0 < network && network <= whole, "{network} of {whole}");
            assert_eq!(stamp["clocks_agree"], stamp["clocks_reason"].is_null(), "{stamp}");
            assert_eq!(stamp["clocks_agree"], stamp["there"]["delay"].is_object(), "{stamp}");
        }
    }
}

#[test]
fn the_report_and_the_page_show_both_directions() {
    let server = served();
    let page = std::env::temp_dir().join(format!("loadgen-stamp-{}.html", std::process::id()));
    let address = server.local_endpoints()[1].address();
    let flags =
        format!("stamp://{address}?stateful=on -c 4 -n 400 --details --html {}", page.display());
    let text = loadgen(&flags).expect(0).stdout;
    for part in [
        &format!("stamp://{address}?stateful=on"),
        "Round trip: min ",
        "Reflector: min ",
        "Directions: lost 0 there, 0 back, 0 at the end in either; duplicated 0 there, 0 back",
        "Variation there: ",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    let html = std::fs::read_to_string(&page).expect("a page");
    let _ = std::fs::remove_file(&page);
    for part in ["In the reflector", "Variation back", "Lost there", "Clocks agree"] {
        assert!(html.contains(part), "no {part:?} in the page");
    }
}

/// A reflector that is not ours. It is killed at the end.
struct Foreign(Child, SocketAddr);

impl Foreign {
    fn start(more: &[&str]) -> Foreign {
        let address = SocketAddr::from(([127, 0, 0, 1], own_port()));
        let mut command = Command::new("stamp-suite");
        command.args(["--is-reflector", "--local-addr", "127.0.0.1", "--local-port"]);
        command.arg(address.port().to_string()).args(more);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("starting stamp-suite");
        let foreign = Foreign(child, address);
        until("it is bound", || UdpSocket::bind(address).is_err().then_some(()));
        foreign
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_reflector_that_is_not_ours_is_measured() {
    if !have("stamp-suite") {
        return;
    }
    for (more, query) in [(&[][..], ""), (&["--stateful-reflector"], "?stateful=on")] {
        for more_still in [&[][..], &["--clock-source", "PTP"]] {
            let foreign = Foreign::start(&[more, more_still].concat());
            let load = "-c 3 -n 300 -R 600 --timeout 5s";
            let json = run(&format!("stamp://{}{query} {load}", foreign.1));
            let (datagrams, stamp) = (&json["datagrams"], &json["stamp"]);
            for key in ["lost", "duplicated", "corrupted", "truncated"] {
                assert_eq!(count(&datagrams[key]), 0, "{key}: {datagrams}");
            }
            assert_eq!(count(&stamp["round_trip"]["count"]), 300);
            if !query.is_empty() {
                assert_eq!(
                    (&stamp["there"]["lost"], &stamp["back"]["lost"]),
                    (&0.into(), &0.into())
                );
            }
            let residence = count(&stamp["residence"]["p50_ns"]);
            assert!((1..1_000_000_000).contains(&residence), "{stamp}");
        }
    }
}

#[test]
fn what_cannot_be_measured_is_refused() {
    for (flags, reason) in [
        (
            "stamp://127.0.0.1:9 -l 43 -n 1",
            "must be from 44 to 65507: a test packet has its fields",
        ),
        ("stamp:// -n 1", "loadgen starts no server for udp: give an address"),
        ("stamp+tcp://127.0.0.1:9 -n 1", "stamp runs over udp only"),
        (
            "stamp://127.0.0.1:9 -n 1 --lifetime 3",
            "--lifetime applies to connections, and udp has none",
        ),
    ] {
        loadgen(flags).expect(2).complains(reason);
    }
}
