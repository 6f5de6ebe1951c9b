//! The emulated link from outside: what the load generator finds through it is what the link says
//! that it did, and nothing of it is left afterwards. How exact its times are is measured by
//! `scripts/figures link`, because that depends on the machine.
//!
//! A machine on which a link cannot be made skips the tests, unless CI is set.

#![cfg(feature = "link")]

mod common;

use std::path::PathBuf;
use std::process::Command;

use common::forms::{TestFile, assert_valid, count, schema};
use common::{loadgen, start, until};
use rustix::process::Signal;
use serde_json::Value;

/// Whether the machine lets us make links.
fn can_link() -> bool {
    let ended = loadgen("link -- true");
    let can = ended.code == Some(0);
    if !can {
        assert!(std::env::var_os("CI").is_none(), "{}", ended.stderr);
        println!("skipped: {}", ended.stderr);
    }
    can
}

/// A link with these flags, and with commands that the shell runs.
fn link(flags: &str, far: &str, near: &str) -> Command {
    let mut command = common::program(&format!("link {flags}"));
    if !far.is_empty() {
        command.args(["--far", far]);
    }
    command.args(["--", "/bin/sh", "-c", near]);
    command
}

/// What the load generator found through the link, and what the link says that it did.
fn measure(name: &str, flags: &str, scheme: &str, load: &str) -> (Value, Value) {
    const LOADGEN: &str = env!("CARGO_BIN_EXE_loadgen");
    let file = TestFile::new(name);
    let address = format!("{scheme}://198.18.0.2:7");
    let far = format!("exec {LOADGEN} __serve --log=warn --workers=1 --listen={address}");
    let near = format!("exec {LOADGEN} {address} {load} --output-format json");
    let ended = start(link(&format!("{flags} -o {file}"), &far, &near)).wait();
    let found = ended.json();
    // The counts are the same on a busy machine, on which the generator is late.
    let verdict = found["verdict"].as_str().expect("a word");
    assert!(["valid", "generator-limited"].contains(&verdict), "{found}");
    let told = serde_json::from_str(&file.read()).expect("JSON");
    assert_valid(&schema("link"), &told);
    for way in ["there", "back"] {
        let of = |key: &str| count(&told[way][key]);
        let ends = ["delivered", "lost", "dropped", "refused", "under_way"];
        let ends: u64 = ends.iter().map(|end| of(&format!("packets_{end}"))).sum();
        assert_eq!(of("packets_in") + of("packets_duplicated"), ends, "{told}");
        assert_eq!(of("packets_missed") + of("packets_refused"), 0, "{told}");
    }
    (found, told)
}

/// Datagrams of one socket. None is given up that may still come, and sockets have room for those
/// of more than a second.
const DATAGRAMS: &str = "-c 1 -t 1 -n 800 -R 200 -p 1024 --timeout 3s";

fn of(value: &Value, pointer: &str) -> u64 {
    count(value.pointer(pointer).unwrap_or_else(|| panic!("{pointer} in {value}")))
}

#[test]
fn datagrams_are_lost_and_doubled_as_the_link_says() {
    if !can_link() {
        return;
    }
    let flags = "--delay 2ms/1ms --loss 2%/1% --duplicate 0%/3% --seed 7";
    let (found, told) = measure("link-loss", flags, "udp", DATAGRAMS);
    let (there, back) = (of(&told, "/there/packets_lost"), of(&told, "/back/packets_lost"));
    assert!(there > 5 && back > 2, "{told}");
    assert_eq!(of(&found, "/datagrams/sent"), of(&told, "/there/packets_in"));
    assert_eq!(of(&told, "/back/packets_in"), of(&told, "/there/packets_delivered"));
    assert_eq!(of(&found, "/datagrams/lost"), there + back, "{told}");
    let doubled = of(&told, "/back/packets_duplicated");
    assert_eq!(of(&found, "/datagrams/duplicated"), doubled, "{told}");
    assert!(doubled > 10, "{told}");
    // Nothing comes early.
    assert!(of(&found, "/latency/min_ns") >= 3_000_000, "{found}");

    let (_, again) = measure("link-again", flags, "udp", DATAGRAMS);
    for count in ["lost", "duplicated", "in"] {
        let pointer = format!("/there/packets_{count}");
        assert_eq!(of(&told, &pointer), of(&again, &pointer), "the same seed");
    }
}

/// The replies to many datagrams of one peer leave as one message, unless they are longer than the
/// link's packets; then they leave one by one, in fragments. None is lost by that, or comes twice.
#[test]
fn replies_that_leave_together_arrive_over_links_with_short_packets() {
    if !can_link() {
        return;
    }
    for (name, length) in
        [("link-short", "1000"), ("link-long", "3000"), ("link-mixed", "list:1400:1,1500:1")]
    {
        let load = format!("-c 1 -t 1 -n 3000 -p 64 -l {length} --timeout 30s");
        let (found, told) = measure(name, "--delay 3ms", "udp", &load);
        assert_eq!(of(&told, "/back/packets_dropped"), 0, "{told}");
        assert_eq!(of(&found, "/datagrams/sent"), 3_000, "{found}");
        for fate in ["lost", "duplicated", "corrupted", "truncated", "socket_errors"] {
            assert_eq!(of(&found, &format!("/datagrams/{fate}")), 0, "{length} bytes: {found}");
        }
    }
}

#[test]
fn datagrams_are_reordered_as_the_link_says() {
    if !can_link() {
        return;
    }
    for (name, flags, most) in [
        ("link-ahead", "--delay 20ms --reorder 2%/0%", 500),
        ("link-jitter", "--delay 20ms --jitter 10ms/0ms", 1_000),
        ("link-order", "--delay 20ms --jitter 10ms --in-order", 0),
    ] {
        let (found, told) = measure(name, flags, "udp", DATAGRAMS);
        let late = of(&told, "/there/packets_reordered");
        assert_eq!(of(&told, "/back/packets_reordered"), 0, "{told}");
        assert_eq!(of(&found, "/datagrams/out_of_order"), late, "{told}");
        assert_eq!((late > 0, late <= most), (most > 0, true), "{told}");
        assert_eq!(of(&found, "/datagrams/lost"), 0, "{found}");
    }
}

#[test]
fn a_line_that_is_too_slow_drops_what_does_not_fit_in_its_queue() {
    if !can_link() {
        return;
    }
    // 1028 bytes each, so about 12 per second; 400 are sent within 400 ms.
    let flags = "--rate 100kbit/100mbit --limit 5/1000";
    let load = "-c 1 -t 1 -n 400 -R 1k -l 1000 -p 1024 --timeout 3s";
    let (found, told) = measure("link-queue", flags, "udp", load);
    let dropped = of(&told, "/there/packets_dropped");
    assert_eq!(of(&found, "/datagrams/lost"), dropped, "{told}");
    // All but the queue and what leaves it meanwhile: even if sending took 20 seconds, the line would
    // take fewer than 300.
    assert!((100..=395).contains(&dropped), "{told}");
    // The last of a full queue has waited for all of it.
    assert!(of(&found, "/latency/p50_ns") > 150_000_000, "{found}");
}

#[test]
fn tcp_recovers_from_everything_and_every_byte_is_verified() {
    if !can_link() {
        return;
    }
    let flags = "--delay 2ms --jitter 1ms --loss 1% --duplicate 1% --reorder 2% --rate 50mbit";
    let load = "-c 10 -t 1 -n 3000 -l 2000 --timeout 20s";
    let (found, told) = measure("link-tcp", flags, "tcp", load);
    assert_eq!((of(&found, "/replies"), of(&found, "/mismatched_connections")), (3_000, 0));
    assert!(of(&told, "/there/packets_lost") > 0 && of(&told, "/back/packets_reordered") > 0);
    assert!(of(&found, "/tcp/segments_resent") > 0, "{found}");
}

#[test]
fn the_exit_code_is_that_of_the_command() {
    if !can_link() {
        return;
    }
    let ended = start(link("", "", "echo out; echo err >&2; exit 7")).wait().expect(7);
    ended.says("out\n").complains("err\n").complains("link there: 0 packets in, 0 delivered");
    start(link("", "", "kill -KILL $$")).wait().expect(128 + 9);
    start(link("", "exit 3", "true")).wait().expect(1).complains("the far command ended");
    loadgen("link -- /no/such/command").expect(127).complains("/no/such/command");
    loadgen("link --loss 5 -- true").expect(2).complains("percent sign");
    loadgen("link -o /no/such/directory/file -- true").expect(1).complains("cannot write");
}

/// The page that is made at once is that of the file.
#[test]
fn the_page_has_what_the_file_has() {
    if !can_link() {
        return;
    }
    let files = ["link-page-json", "link-page-html", "link-page-later"].map(TestFile::new);
    let [json, html, later] = &files;
    start(link(&format!("--seed 7 -o {json} --html {html}"), "", "true")).wait().expect(0);
    loadgen(&format!("report {json} --to html -o {later}")).expect(0);
    let page = html.read();
    assert!(page.contains("An emulated link") && page == later.read(), "{page}");
    loadgen(&format!("link -o {json} --html {json} -- true")).expect(2).complains("two names");
    loadgen("link --html - -- true").expect(2).complains("stdout is that of the command");
    loadgen(&format!("compare {json} {json}")).expect(1).complains("what a link did");
}

/// Only the two ends are there, and both ways work.
#[test]
fn the_ends_reach_each_other_and_nothing_else() {
    if !can_link() {
        return;
    }
    let near = "cat /proc/net/dev /proc/net/route";
    let ended = start(link("", "", near)).wait().expect(0);
    let devices: Vec<_> = ended.stdout.lines().filter_map(|line| line.split_once(':')).collect();
    let names: Vec<_> = devices.iter().map(|(name, _)| name.trim()).collect();
    assert_eq!(names, ["lo", "link0"], "{}", ended.stdout);
    // 198.18.0.0 with the mask of 30 bits, and no gateway.
    let routes: Vec<_> = ended.stdout.lines().filter(|line| line.starts_with("link0\t")).collect();
    assert_eq!(routes.len(), 1, "{routes:?}");
    assert!(routes[0].starts_with("link0\t000012C6\t00000000\t0001"), "{routes:?}");
    // A datagram of 1028 bytes takes two packets.
    let (found, told) = measure("link-mtu", "--mtu 900", "udp", "-c 1 -t 1 -n 10 -l 1000");
    assert_eq!(of(&told, "/there/packets_in"), 2 * of(&found, "/datagrams/sent"), "{told}");
}

/// The network namespaces that processes are in.
fn namespaces() -> Vec<PathBuf> {
    let processes = std::fs::read_dir("/proc").expect("it is mounted").flatten();
    let threads = processes.flat_map(|process| std::fs::read_dir(process.path().join("task")).ok());
    let links = threads.flatten().flatten().map(|thread| thread.path().join("ns/net"));
    links.filter_map(|link| std::fs::read_link(link).ok()).collect()
}

/// Whatever ends it: the command, a signal that it passes on, or one that it cannot see.
#[test]
fn the_commands_and_their_namespaces_are_gone_afterwards() {
    if !can_link() {
        return;
    }
    for signal in [Signal::TERM, Signal::HUP, Signal::KILL] {
        let (near, far) = (TestFile::new("link-near"), TestFile::new("link-far"));
        let show = |file| format!("readlink /proc/self/ns/net > {file}; exec sleep 600");
        // What a command has started is ended too, unless the link itself is killed.
        let more = if signal == Signal::KILL { "" } else { "sleep 600 & " };
        let running = start(link("", &format!("{more}{}", show(&far)), &show(&near)));
        let shown = |file: &TestFile| {
            let name = until("the command runs", || {
                file.read_if_there().trim_end().strip_suffix(']').map(|name| format!("{name}]"))
            });
            PathBuf::from(name)
        };
        let ours = [shown(&near), shown(&far)];
        assert!(ours.iter().all(|name| namespaces().contains(name)), "{ours:?}");
        running.signal(signal);
        let ended = running.wait();
        match signal {
            Signal::KILL => assert_eq!(ended.code, None, "{}", ended.stderr),
            _ => drop(ended.expect(128 + Signal::TERM.as_raw())),
        }
        until("both are gone", || {
            let left = namespaces();
            (!ours.iter().any(|name| left.contains(name))).then_some(())
        });
    }
}

#[test]
fn who_may_not_make_a_link_is_told_what_it_needs() {
    let mut command = Command::new("setpriv");
    let program = env!("CARGO_BIN_EXE_loadgen");
    command.args(["--bounding-set=-all", "--inh-caps=-all"]);
    command.args(["--", program, "link", "--", "true"]);
    if !can_link() {
        return;
    }
    let ended = start(command).wait().expect(1);
    ended.complains("cannot create a network namespace: ").complains("It needs CAP_SYS_ADMIN");
}
