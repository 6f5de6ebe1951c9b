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

fn search() -> Search {
    let objective = slo::parse("p99<2ms").expect("an objective");
    let plan = plan("127.0.0.1:7 -R 1k -c 2");
    Search {
        objective,
        plan,
        steps: Vec::new(),
        best: None,
        beyond: None,
        interrupted: false,
        broken: None,
        failed: None,
    }
}

#[test]
fn a_search_knows_what_it_found_and_what_it_does_not_know() {
    let state = |search: &Search| (search.state().verdict, search.state().objectives);
    let mut search = search();
    assert_eq!(state(&search), (Verdict::Valid, Objectives::Missed));
    search.best = Some(report());
    assert_eq!(state(&search), (Verdict::Valid, Objectives::Met));
    search.beyond = Some((2_000, Missed::Server("slow".into())));
    assert_eq!(state(&search), (Verdict::Valid, Objectives::Met));
    search.failed = Some((2_000, "no server".into()));
    assert_eq!(state(&search), (Verdict::Valid, Objectives::Undecided));
    search.failed = None;
    search.beyond = Some((2_000, Missed::Generator("late".into())));
    assert_eq!(state(&search), (Verdict::GeneratorLimited, Objectives::Undecided));
}

#[test]
fn a_rate_is_a_lower_bound_unless_the_server_missed_the_next_one() {
    let slow = || Some((2_000, Missed::Server("slow".into())));
    let late = || Some((2_000, Missed::Generator("late".into())));
    let failed = || Some((2_000, "no server".into()));
    for (beyond, interrupted, failed, is_lower_bound) in [
        (slow(), false, None, false),
        (slow(), true, None, true),
        (slow(), false, failed(), true),
        (late(), false, None, true),
        (None, false, None, true),
    ] {
        let search = Search { beyond, interrupted, failed, ..search() };
        assert_eq!(report::is_lower_bound(&search), is_lower_bound, "{:?}", search.state());
    }
}

#[test]
fn the_verdict_on_a_search_tells_why_it_ended() {
    let best = || Some(report());
    let reason = report().verdict_text();
    let of = |search: Search| report::verdict_text(&search);
    assert_eq!(of(search()), "not-kept (0 runs; the best: no run met the objective)");
    let slow = Some((2_000, Missed::Server("slow".into())));
    assert_eq!(of(Search { best: best(), beyond: slow, ..search() }), reason);
    let late = Some((2_000, Missed::Generator("late".into())));
    let text = of(Search { best: best(), beyond: late, ..search() });
    assert_eq!(text, format!("generator-limited (0 runs; the best: {reason})"));
    let text = of(Search { best: best(), interrupted: true, ..search() });
    assert_eq!(text, format!("interrupted (0 runs; the best: {reason})"));
    let failed = Some((2_000, "no server".into()));
    let text = of(Search { best: best(), failed, ..search() });
    let expected = "run-failed (at 2000/s after 0 runs: no server; the best: ";
    assert_eq!(text, format!("{expected}{reason})"));
    let mut wrong = report();
    wrong.records.mismatch(crate::report::tests::mismatch());
    let text = wrong.verdict_text();
    assert_eq!(of(Search { best: best(), broken: Some(wrong), ..search() }), text);
    assert!(text.starts_with("echo-differed"), "{text}");
}

#[test]
fn a_run_with_wrong_bytes_or_without_its_connections_ends_a_search() {
    let mut run = report();
    assert!(!is_broken(&run));
    run.records.established = 1;
    assert_eq!((run.verdict(), is_broken(&run)), (Verdict::UnderConnected, true));
    run.records.replies_each = vec![0, 0];
    assert_eq!((run.verdict(), is_broken(&run)), (Verdict::NothingServed, true));
    run.interrupted = true;
    assert!(!is_broken(&run), "its connections may have been missing because of that");
    run.records.mismatch(crate::report::tests::mismatch());
    assert_eq!((run.verdict(), is_broken(&run)), (Verdict::Differed, true));
}

#[test]
fn flags_of_a_single_run_are_refused() {
    use clap::Parser;
    let refused = |flags: &str| {
        let words = format!("loadgen 127.0.0.1:7 --search p99:1ms {flags}");
        let args = RunArgs::parse_from(words.split_whitespace());
        check(&args).err().map(|failure| failure.to_string())
    };
    for flag in [
        "--requests 5",
        "--hdr-log x",
        "--hgrm x",
        "--abort-on-fail --slo p50<1s",
        "--output-format csv",
        "--output-format ndjson",
    ] {
        let text = refused(flag).expect(flag);
        let name = flag.split(' ').next().expect("a word");
        assert!(text.starts_with(name), "{flag}: {text}");
    }
    for flags in ["", "--output-format json", "--duration 5s", "--slo p50<1s"] {
        assert_eq!(refused(flags), None, "{flags}");
    }
}

#[test]
fn a_step_is_a_run_with_a_warm_up_unless_it_is_a_hubs() {
    use clap::Parser;
    let objective = slo::parse("p99<1ms").expect("an objective");
    let step = |words: &str| {
        let args = RunArgs::parse_from(format!("loadgen {words}").split_whitespace());
        let step = step_spec(&args.run, &objective);
        assert_eq!(step.slo[0], objective);
        (step.duration, step.load.warmup, step.slo.len())
    };
    let default = Some(STEP_DURATION);
    assert_eq!(step("127.0.0.1:7"), (default, Some(STEP_WARMUP), 1));
    assert_eq!(step("hub://127.0.0.1:7"), (default, None, 1));
    let second = Some(Duration::from_secs(1));
    assert_eq!(step("127.0.0.1:7 -d 1s --warmup 1s --slo max<1s"), (second, second, 2));
}

/// The lowest rate gives ten requests in the time of a try, 3 s by default, and is whole.
#[test]
fn no_rate_is_tried_that_gives_fewer_than_ten_requests() {
    use clap::Parser;
    let of = |flags: &str| {
        let words = format!("loadgen 127.0.0.1:7 --search p99:1ms {flags}");
        let args = RunArgs::parse_from(words.split_whitespace());
        rates(&args.run).map_err(|failure| failure.to_string())
    };
    for (flags, first, lowest) in [
        ("", FIRST_RATE, 4),
        ("-d 10ms", FIRST_RATE, 1_000),
        ("-d 4ms", 2_500, 2_500),
        ("-d 1m", FIRST_RATE, 1),
        ("-R 4", 4, 4),
        ("-R 50 -d 200ms", 50, 50),
        ("-R 50 -d 500ms", 50, 20),
    ] {
        assert_eq!(of(flags), Ok((first, lowest)), "{flags}");
    }
    for (flags, why) in [
        ("-R 3", "-R 3 gives fewer than 10 requests in 3s"),
        ("-R 49 -d 200ms", "-R 49 gives fewer than 10 requests in 200ms"),
        ("-R 4.5", "whole numbers of requests per second"),
    ] {
        assert!(of(flags).is_err_and(|text| text.contains(why)), "{flags}");
    }
}
