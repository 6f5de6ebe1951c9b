//! A server of a known capacity: one queue and a millisecond for each request, so exactly a thousand
//! per second. A search finds that rate from below, and no verdict hides that replies fall behind.

use loadgen::command::search::{Missed, Search, rate_of};
use loadgen::report::{Report, Verdict};

use crate::world::{drive_delay, plan};

const SERVER: &str = "fixed=1ms&queue=1";
const CAPACITY: u64 = 1_000;
/// Room for every request that can be outstanding.
const CLIENTS: &str = "-l 16 -c 64 -p 64 --timeout 1h";

fn run(rate: u64, flags: &str) -> Report {
    drive_delay(&format!("{CLIENTS} -R {rate} {flags}"), SERVER)
}

fn search(first: u64, flags: &str) -> Search {
    let plan = plan(&format!("{CLIENTS} -R {first} {flags}"));
    Search::make((first, 10), plan, |rate| Ok(run(rate, flags)), |_| ()).expect("runs")
}

#[test]
fn a_search_finds_the_capacity_from_below() {
    let all: &[u64] = &[100, 700, 1_000, 1_250, 1_500, 1_900];
    for (flags, firsts) in [
        ("-w 500ms -d 3s --slo p99<1s", &all[3..4]),
        ("-t 3 -w 200ms -d 1s --slo p99<700ms", &all[1..2]),
        ("-w 1ms -d 1s --slo p50<10s", if cfg!(debug_assertions) { &all[..1] } else { all }),
    ] {
        for &first in firsts {
            let search = search(first, flags);
            let best = search.best.as_ref().expect("a rate is kept");
            let found = rate_of(best);
            assert!((950..=CAPACITY).contains(&found), "{found} from {first} with {flags}");
            let Some((beyond, Missed::Server(why))) = &search.beyond else { panic!("{flags}") };
            assert!(*beyond > CAPACITY, "{beyond} from {first} with {flags}: {why}");
            for step in &search.steps {
                assert_eq!(
                    step.missed.is_none(),
                    step.rate <= CAPACITY,
                    "{}/s: {flags}",
                    step.rate
                );
            }
        }
    }
}

/// The limit of the latency is far away; only the count of the replies shows that they fall behind.
#[test]
fn a_rate_slightly_above_the_capacity_is_not_kept() {
    let kept = |rate| {
        let flags = "-w 500ms -d 3s --slo p99<1h";
        let plan = plan(&format!("{CLIENTS} -R {rate} {flags}"));
        let search = Search::make((rate, rate), plan, |rate| Ok(run(rate, flags)), |_| ());
        let search = search.expect("runs");
        (search.steps[0].missed.is_none(), search.steps[0].verdict)
    };
    assert_eq!(kept(1_000), (true, Verdict::Valid));
    assert_eq!(kept(1_005), (false, Verdict::Valid));
}

#[test]
fn a_valid_run_whose_replies_fall_behind_says_so() {
    for flags in ["-d 1s", "-t 3 -d 1s", "-d 1s --strict", "-n 1200", "-d 1s --arrivals poisson"] {
        for (rate, behind) in [(500, false), (950, false), (1_100, true), (3_000, true)] {
            if rate == 950 && flags.contains("poisson") {
                // By chance, the queue at such a load may be longer at the end.
                continue;
            }
            let report = run(rate, flags);
            assert_eq!(report.verdict(), Verdict::Valid, "{rate}/s {flags}");
            let text = report.verdict_text();
            assert_eq!(text.contains("beyond capacity: "), behind, "{rate}/s {flags}: {text}");
        }
    }
    // With so few connections the requests wait in the generator.
    let text = drive_delay("-c 2 -R 1100 -d 3s --timeout 1h", SERVER).verdict_text();
    assert!(
        text.contains("beyond capacity: ") && text.contains(" requests were never sent"),
        "{text}"
    );
}

/// A latency that is constant is no sign that replies fall behind, even if it is a large part of
/// the period.
#[test]
fn slow_replies_that_keep_up_are_not_beyond_the_capacity() {
    for flags in ["-d 1s", "-w 500ms -d 1s", "-n 700"] {
        let report = drive_delay(&format!("-c 500 -R 1000 {flags}"), "fixed=400ms");
        let text = report.verdict_text();
        assert!(!text.contains("beyond capacity"), "{flags}: {text}");
    }
}
