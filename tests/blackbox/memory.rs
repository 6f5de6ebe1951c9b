//! Memory that the system refuses at start: an error with the sum of memory, and never a signal.

use crate::harness::run_to_end;

/// Small enough that a walk is short, and large enough that the tables of each service matter.
const FLAGS: [&str; 7] =
    ["--workers", "2", "--max-connections", "5000", "--buffers", "1k", "--until-stdin-closes"];

/// Starts the daemon under a limit of its address space that grows in small steps, and expects each
/// start to fail with an error or to succeed.
fn walk(listen: &str) {
    let flags = [&FLAGS[..], &["--listen", listen]].concat();
    let (mut refused, mut summed, mut started) = (0, 0, 0);
    for kib in (6_000..130_000).step_by(1_009) {
        let (code, stdout, stderr) = run_to_end(&format!("ulimit -v {kib}"), &flags);
        let is_ready = stdout.starts_with("echopool listening on ");
        match code {
            Some(0) if is_ready => started += 1,
            Some(1) if stderr.contains("the sum of memory (") => summed += 1,
            Some(1) if stderr.contains("(ulimit -v)") => refused += 1,
            // The loader had no room for the program itself.
            _ if refused + summed + started == 0 && !stderr.contains("memory allocation") => {}
            other => panic!("{other:?} at ulimit -v {kib}: {stdout}{stderr}"),
        }
    }
    assert!(summed > 0 && started > 0, "{refused} refused, {summed} with sum, {started} started");
}

#[test]
fn memory_that_is_refused_to_an_echo_is_an_error() {
    walk("127.0.0.1:0");
}

#[test]
fn memory_that_is_refused_to_a_framed_echo_is_an_error() {
    walk("framed://127.0.0.1:0");
}

#[test]
fn memory_that_is_refused_to_a_message_echo_is_an_error() {
    walk("message://127.0.0.1:0");
}

#[test]
fn memory_that_is_refused_to_a_hub_is_an_error() {
    walk("hub://127.0.0.1:0");
}

#[test]
fn memory_that_is_refused_to_a_delay_is_an_error() {
    walk("delay://127.0.0.1:0?fixed=1ms&depth=200");
}

#[test]
fn memory_that_is_refused_to_chargen_is_an_error() {
    walk("chargen://127.0.0.1:0");
}

#[test]
fn memory_that_is_refused_to_discard_is_an_error() {
    walk("discard://127.0.0.1:0");
}

#[test]
fn the_error_names_the_sum_its_largest_part_first_and_the_remedy() {
    let flags = [&FLAGS[..], &["--listen", "delay://127.0.0.1:0?fixed=1ms&depth=1000"]].concat();
    let (code, _, stderr) = run_to_end("ulimit -v 100000", &flags);
    assert_eq!(code, Some(1), "{stderr}");
    // 2 workers, 5,000 connections, 1,000 requests of 12 bytes.
    let text = "the sum of memory (service 114.7 MiB, buffers 15.6 MiB, ";
    for part in [text, "--buffers, --max-connections, --workers", "ulimit -v"] {
        assert!(stderr.contains(part), "does not say {part}: {stderr}");
    }
}
