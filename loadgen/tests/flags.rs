//! What flags do, where no other test would notice that one does nothing. `docs/testing.md` names
//! the test of each flag.

mod common;

use common::hub::{self, HubServer};
use common::loadgen;
use common::server::{EchoServer, Fault};

/// All that the first connection of a run sent.
fn sent(flags: &str) -> Vec<u8> {
    let server = EchoServer::start(Fault::ReplayFirst { after: u64::MAX });
    loadgen(&format!("{} -c 1 -t 1 {flags}", server.address)).expect(0);
    server.first()
}

#[test]
fn the_payload_and_the_sizes_follow_the_seed() {
    for flags in ["-n 20", "-n 20 -l uniform:1-100", "-n 20 -p 3"] {
        let with = |seed: &str| sent(&format!("{flags} {seed}"));
        let first = with("--seed 5");
        assert!(first.len() > 20, "{flags}");
        assert_eq!(first, with("--seed 5"), "{flags}");
        assert_ne!(first, with("--seed 6"), "{flags}");
        assert_ne!(with(""), with(""), "a new one each time: {flags}");
    }
    assert_ne!(sent("-n 5 --seed 5")[..64], sent("-n 5 --seed 5")[64..128], "nor does it repeat");
}

#[test]
fn each_connection_has_as_many_requests_under_way_as_the_pipeline_allows() {
    for (flags, bytes) in [
        ("-c 3 -n 1000", 3 * 64),
        ("-c 3 -p 5 -n 1000", 3 * 5 * 64),
        ("-c 3 -p 5 -l 10 -n 1000", 3 * 5 * 10),
        ("-c 2 -t 2 -p 7 -R 10k -d 300ms", 2 * 7 * 64),
    ] {
        let server = EchoServer::start(Fault::Mute);
        loadgen(&format!("{} {flags} --timeout 3s", server.address)).expect(4);
        assert_eq!(server.bytes(), bytes, "{flags}");
    }
}

#[test]
fn as_many_clients_of_a_hub_send_as_asked_for() {
    for (flags, senders) in [("", 1), ("--senders 3", 3), ("--senders 6", 6)] {
        let server = HubServer::start(hub::Fault::None);
        // Each of them sends at least one message, however busy the machine is.
        loadgen(&format!("hub://{} -c 6 -t 2 -d 200ms {flags}", server.address)).expect(0);
        assert_eq!(server.senders(), senders, "{flags}");
    }
}

#[test]
fn there_are_as_many_threads_as_asked_for() {
    for threads in [1, 3] {
        let flags = format!("-c 6 -t {threads} -n 60 --output-format json");
        let json = loadgen(&flags).expect(0).json();
        assert_eq!(json["generator_threads"].as_array().expect("a list").len(), threads);
        assert_eq!(json["config"]["threads"], threads);
    }
}

#[test]
fn the_spectrum_and_the_service_time_are_shown_if_asked_for() {
    const SPECTRUM: &str = "Detailed Percentile spectrum:";
    const SERVICE: &str = "Uncorrected Latency Distribution";
    for (flags, spectra, services) in [("", 0, 0), ("-L", 1, 0), ("-U", 0, 1), ("-L -U", 2, 1)] {
        let text = loadgen(&format!("-c 2 -n 20 {flags}")).expect(0).stdout;
        let shown = [SPECTRUM, SERVICE].map(|part| text.matches(part).count());
        assert_eq!(shown, [spectra, services], "{flags}");
    }
}

/// The report with details begins with the short one, which has neither them nor their headings.
#[test]
fn details_are_shown_under_headings_if_asked_for() {
    const DETAILS: [&str; 7] = [
        "Connections",
        "  Replies each",
        "  Fairness",
        "Requests",
        "  Offered",
        "Generator",
        "  CPU",
    ];
    let begin = |line: &str| line.split(':').next().unwrap_or_default().to_string();
    let short = loadgen("-c 2 -n 20").expect(0).stdout;
    let last = short.lines().last().expect("a line");
    assert!(last.starts_with("Verdict: valid: the generator "), "{short}");
    let details = loadgen("-c 2 -n 20 --details").expect(0).stdout;
    let (_, after) = details.split_once("\nVerdict: ").expect("a verdict");
    let mut lines = after.lines();
    for detail in DETAILS {
        assert!(lines.any(|line| begin(line) == detail), "{detail} in {details}");
        let shown = short.lines().any(|line| begin(line) == detail && line.starts_with(' '));
        assert!(!shown, "{detail} in {short}");
    }
}

#[test]
fn the_progress_is_lines_or_nothing_as_asked_for() {
    for (form, lines) in [("lines", true), ("auto", true), ("none", false)] {
        let ended = loadgen(&format!("-c 2 -d 1200ms --progress {form}")).expect(0);
        assert_eq!(ended.stderr.contains("measuring: 1.0s of 1.2s, "), lines, "{}", ended.stderr);
    }
}
