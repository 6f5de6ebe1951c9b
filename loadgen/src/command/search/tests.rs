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
