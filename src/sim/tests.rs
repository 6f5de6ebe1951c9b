//! A few seeds in every `cargo test`. `simulate` runs thousands.

use std::collections::HashSet;

use super::{Mark, Marks, Seam, run};

const SEAMS: [Seam; 4] = [Seam::Readiness, Seam::Completion, Seam::Client, Seam::Datagram];

#[test]
fn some_hundred_seeds_pass_on_each_seam() {
    for seam in SEAMS {
        let mut marks = Marks::default();
        // Those of clients take longer.
        let seeds = if seam == Seam::Client { 100 } else { 300 };
        for seed in 0..seeds {
            let report = run(seed, seam, false);
            assert_eq!(report.failure, None, "simulate --seed {seed} --trace, {seam:?}");
            marks.add(&report.marks);
        }
        // So few seeds leave some marks at zero, but not these.
        let those = match seam {
            Seam::Client => [Mark::ShortSend, Mark::RequestDone, Mark::ResetInSend, Mark::SendDone],
            Seam::Datagram => [
                Mark::DatagramServed,
                Mark::DatagramReordered,
                Mark::DatagramTruncated,
                Mark::DatagramPartialSend,
            ],
            _ => [Mark::ShortSend, Mark::PoolEmpty, Mark::ClosedPeerClosed, Mark::StaleId],
        };
        for mark in those {
            assert!(marks.count(mark) > 0, "{} on {seam:?}", mark.name());
        }
    }
}

#[test]
fn a_seed_gives_the_same_run_with_and_without_trace_and_other_seeds_give_others() {
    for seam in SEAMS {
        let hash = |seed, told| run(seed, seam, told).hash;
        let hashes: HashSet<u64> = (0..30).map(|seed| hash(seed, false)).collect();
        assert_eq!(hashes.len(), 30, "two seeds with the same hash, {seam:?}");
        for seed in 0..30 {
            assert!(hashes.contains(&hash(seed, false)), "seed {seed} twice, {seam:?}");
            assert!(hashes.contains(&hash(seed, true)), "seed {seed} with trace, {seam:?}");
        }
    }
}

#[test]
fn a_trace_is_recorded_only_when_requested() {
    for seam in SEAMS {
        assert!(run(1, seam, false).trace.is_empty());
        let trace = run(1, seam, true).trace;
        let words = match seam {
            Seam::Client => ["begins", "serves", "recv", "send", "ends with"],
            Seam::Datagram => ["source", "sends", "receive", "send", "is stopped"],
            _ => ["connects, to send", "accept on", "recv", "is closed: ", "the server is"],
        };
        for word in words {
            assert!(trace.iter().any(|line| line.contains(word)), "no {word:?}, {seam:?}");
        }
    }
}
