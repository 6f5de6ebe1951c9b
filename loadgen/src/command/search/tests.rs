//! Which trials of a search count.

use super::*;
use crate::report::tests::{plan, report};
use crate::stats::slo;

#[test]
fn a_generator_that_is_late_is_only_held_against_a_rate_that_missed() {
    let objective = |text: &str| slo::parse(text).expect("an objective");
    let mut late = report();
    late.plan = Arc::new(plan("127.0.0.1:7 -R 1k -c 2"));
    late.records.own_lag.record_n(400_000, 1_000).expect("in bounds");
    assert_eq!(late.verdict(), Verdict::GeneratorLimited);
    Arc::make_mut(&mut late.plan).slos = vec![objective("p99<2ms")];
    assert_eq!(why_missed(&late), None, "its latencies have the lag in them");
    Arc::make_mut(&mut late.plan).slos = vec![objective("p99<500us")];
    assert!(matches!(why_missed(&late), Some(Missed::Generator(_))));
    late.records.own_lag.reset();
    let Some(Missed::Server(why)) = why_missed(&late) else { panic!("{:?}", late.verdict()) };
    assert!(why.starts_with("p99<500us missed"), "{why}");
    Arc::make_mut(&mut late.plan).slos = vec![objective("p99<2ms")];
    late.records.never_sent = 3;
    let Some(Missed::Server(why)) = why_missed(&late) else { panic!("{:?}", late.verdict()) };
    assert!(why.starts_with("3 requests were never sent"), "{why}");
}

#[test]
fn of_several_tries_one_that_tells_of_the_server_counts() {
    let server = || Some(Missed::Server("late".into()));
    let generator = || Some(Missed::Generator("busy".into()));
    assert_eq!(of_both(server(), generator()), server());
    assert_eq!(of_both(generator(), server()), server());
    assert_eq!(of_both(generator(), generator()), generator());
    assert_eq!(of_both(server(), None), None, "kept after all");
}
