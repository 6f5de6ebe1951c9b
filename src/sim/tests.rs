//! A few seeds with every `cargo test`. `simulate` runs thousands.

use std::collections::HashSet;

use super::{Mark, Marks, Seam, run};

const SEAMS: [Seam; 3] = [Seam::Readiness, Seam::Completion, Seam::Client];

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
        // So few leave some marks at zero; but not these.
        let those = match seam {
            Seam::Client => [Mark::ShortSend, Mark::RequestDone, Mark::ResetInSend, Mark::SendDone],
            _ => [Mark::ShortSend, Mark::PoolEmpty, Mark::ClosedPeerClosed, Mark::StaleId],
        };
        for mark in those {
            assert!(marks.count(mark) > 0, "{} on {seam:?}", mark.name());
        }
    }
}

#[test]
fn a_seed_goes_the_same_way_twice_and_told_or_not_and_no_other_goes_it() {
    for seam in SEAMS {
        let hash = |seed, told| run(seed, seam, told).hash;
        let hashes: HashSet<u64> = (0..30).map(|seed| hash(seed, false)).collect();
        assert_eq!(hashes.len(), 30, "two seeds of the same hash, {seam:?}");
        for seed in 0..30 {
            assert!(hashes.contains(&hash(seed, false)), "seed {seed} twice, {seam:?}");
            assert!(hashes.contains(&hash(seed, true)), "seed {seed} told, {seam:?}");
        }
    }
}

#[test]
fn a_story_is_told_when_it_is_asked_for() {
    for seam in SEAMS {
        assert!(run(1, seam, false).story.is_empty());
        let story = run(1, seam, true).story;
        let words = match seam {
            Seam::Client => ["begins", "serves", "recv", "send", "ends with"],
            _ => ["connects, to send", "accept on", "recv", "is closed: ", "the server is"],
        };
        for word in words {
            assert!(story.iter().any(|line| line.contains(word)), "no {word:?}, {seam:?}");
        }
    }
}
