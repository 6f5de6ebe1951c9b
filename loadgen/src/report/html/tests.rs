//! The page has the numbers of the JSON, and nothing that a file contains becomes a part of its
//! markup or its script.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::report::Verdict;
use crate::report::distinct::{distinct, stamp_report};
use crate::report::ending::Objectives;
use crate::report::schema::{
    LinkDirection, LinkSummary, Percentiles, SCHEMA_VERSION, SearchType, SearchVerdict,
    SecondSummary, StepResult,
};
use crate::report::tests::report;
use crate::stats::tls::TlsRecords;

fn run(nth: u64) -> RunSummary {
    RunSummary::new(&distinct(nth))
}

fn page(result: SavedResult) -> String {
    render(&[("a.json".into(), result)]).expect("its histograms are right")
}

fn page_of_run(run: &RunSummary) -> String {
    page(SavedResult::Run(Box::new(run.clone())))
}

/// The numbers of the charts, as the script reads them.
fn numbers_of(page: &str) -> Value {
    let start = page.split("<script id=\"numbers\" type=\"application/json\">").nth(1);
    let block = start.and_then(|rest| rest.split("</script>").next()).expect("a block of numbers");
    serde_json::from_str(block).expect("JSON")
}

/// The points of a series: its values with their places on the x axis.
fn points(numbers: &Value, id: &str, label: &str) -> Vec<(f64, f64)> {
    let named = |list: &Value, key: &str, name: &str| -> Value {
        let found = list.as_array().expect("a list").iter().find(|one| one[key] == name);
        found.unwrap_or_else(|| panic!("no {name} in {list}")).clone()
    };
    let chart = named(&numbers["charts"], "id", id);
    let x = numbers["axes"][chart["axis"].as_u64().expect("a number") as usize].clone();
    let values = named(&chart["series"], "label", label)["values"].clone();
    let (x, values) = (x.as_array().expect("a list"), values.as_array().expect("a list"));
    assert_eq!(x.len(), values.len(), "{id}");
    let point = |(x, value): (&Value, &Value)| Some((x.as_f64()?, value.as_f64()?));
    x.iter().zip(values).filter_map(point).collect()
}

fn ids(numbers: &Value) -> Vec<&str> {
    let charts = numbers["charts"].as_array().expect("a list");
    charts.iter().map(|chart| chart["id"].as_str().expect("text")).collect()
}

#[test]
fn the_policy_allows_the_script_of_the_page() {
    assert_eq!(SCRIPT_SHA256, BASE64.encode(Sha256::digest(script())), "write it into mod.rs");
    let page = page_of_run(&run(0));
    assert!(page.contains(&format!("script-src 'sha256-{SCRIPT_SHA256}';")), "{}", policy());
    assert!(
        page.contains(&format!("<script>{}</script>", script())),
        "it is unchanged in the page"
    );
    assert!(page.contains(&format!("<style>{}\n{STYLE}</style>", uplot::STYLE)), "both styles");
}

/// Of a run in which no two figures are equal.
#[test]
fn each_line_of_each_chart_has_its_own_numbers_of_the_json() {
    let run = run(0);
    let json = serde_json::to_value(&run).expect("it has a JSON form");
    let numbers = numbers_of(&page_of_run(&run));
    let of_each = |list: &str, value: &dyn Fn(usize, &Value) -> (f64, f64)| -> Vec<(f64, f64)> {
        let list = json[list].as_array().expect("a list");
        list.iter().enumerate().map(|(nth, one)| value(nth, one)).collect()
    };
    let float = |value: &Value| value.as_f64().expect("a number");
    for (id, label, key) in [
        ("rate", "Replies", "/requests_per_second"),
        ("latency", "p50", "/latency/p50_ns"),
        ("latency", "p90", "/latency/p90_ns"),
        ("latency", "p99", "/latency/p99_ns"),
        ("latency", "p99.9", "/latency/p99_9_ns"),
        ("latency", "max", "/latency/max_ns"),
        ("lag", "Latency p99", "/latency/p99_ns"),
        ("lag", "Send lag p50", "/send_lag/p50_ns"),
        ("lag", "Send lag p99", "/send_lag/p99_ns"),
        ("lag", "Send lag max", "/send_lag/max_ns"),
        ("connections", "Open", "/connections_open"),
        ("errors", "Errors", "/errors"),
    ] {
        let expected = of_each("intervals", &|_, second| {
            (float(&second["start_ns"]), float(second.pointer(key).expect(key)))
        });
        assert_eq!(points(&numbers, id, label), expected, "{id} {label}");
    }
    let starts = [0.0, float(&json["seconds"][0]["length_ns"])];
    let per_nano = |step: &Value, key: &str| float(&step[key]) / float(&step["length_ns"]);
    for (id, label, value) in [
        (
            "outstanding",
            "Counted",
            &(|step: &Value| float(&step["outstanding_mean"])) as &dyn Fn(&Value) -> f64,
        ),
        ("outstanding", "By Little's law", &|step| float(&step["outstanding_expected"])),
        ("processors", "Used", &|step| per_nano(step, "running_ns")),
        ("processors", "Waited for", &|step| per_nano(step, "waiting_ns")),
    ] {
        let expected = of_each("seconds", &|nth, step| (starts[nth], value(step)));
        assert_eq!(points(&numbers, id, label), expected, "{id} {label}");
    }
    for (key, label) in [
        ("latency", "Latency (from the intended time)"),
        ("service_time", "Service time (from the send)"),
        ("send_lag", "Send lag"),
        ("own_lag", "Own lag (of the generator)"),
    ] {
        let points = points(&numbers, "percentiles", label);
        for (rank, name) in
            [(50.0, "p50"), (75.0, "p75"), (90.0, "p90"), (99.0, "p99"), (99.9, "p99_9")]
        {
            let expected = (rank, float(&json[key][format!("{name}_ns")]));
            assert!(points.contains(&expected), "{key}: no {expected:?} in {points:?}");
        }
        assert!(points.is_sorted_by(|one, next| one.0 < next.0 && one.1 <= next.1), "{points:?}");
        assert!(points.last().expect("points").0 > 99.99 && points.len() > 50, "{points:?}");
    }
    for target in json["per_target"].as_array().expect("a list") {
        let points = points(&numbers, "targets", target["target"].as_str().expect("a name"));
        for (rank, name) in [(50.0, "p50"), (99.0, "p99")] {
            let expected = (rank, float(&target["latency"][format!("{name}_ns")]));
            assert!(points.contains(&expected), "no {expected:?} in {points:?}");
        }
    }
    let replies = json.pointer("/connections/replies_at_percent").and_then(Value::as_array);
    let replies = replies.expect("a list").iter().map(float);
    let expected: Vec<_> = (0..=100).map(f64::from).zip(replies).collect();
    assert_eq!(points(&numbers, "fairness", "Replies"), expected);
    assert_eq!((expected.len(), expected[0].1, expected[100].1), (101, 123.0, 129.0));
    let shown =
        ["percentiles", "targets", "fairness", "rate", "latency", "lag", "connections", "errors"];
    let shown = [&shown[..], &["outstanding", "processors"]].concat();
    assert_eq!(ids(&numbers), shown, "and no other charts");
    let labels: usize = numbers["charts"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|chart| chart["series"].as_array().expect("a list").len())
        .sum();
    assert_eq!(labels, 12 + 4 + 4 + 2 + 1, "and no other lines");
}

#[test]
fn a_closed_loop_has_its_latency_alone() {
    let numbers = numbers_of(&page_of_run(&RunSummary::new(&report())));
    assert_eq!(ids(&numbers), ["percentiles", "fairness"], "it has no seconds");
    assert_eq!(numbers["charts"][0]["series"].as_array().map(Vec::len), Some(1));
    assert!(points(&numbers, "percentiles", "Latency").contains(&(50.0, 500_223.0)), "{numbers}");
}

#[test]
fn one_connection_cannot_be_treated_unfairly() {
    let mut run = run(0);
    let has_chart = |run: &RunSummary| ids(&numbers_of(&page_of_run(run))).contains(&"fairness");
    run.connections.established = 2;
    assert!(has_chart(&run));
    run.connections.established = 1;
    assert!(!has_chart(&run));
    run.connections.established = 2;
    run.connections.replies_at_percent.clear();
    assert!(!has_chart(&run), "a file of an earlier version");
}

#[test]
fn what_arrived_after_the_end_is_no_second_of_a_chart() {
    let mut run = run(0);
    run.intervals.push(SecondSummary {
        length_ns: 0,
        start_ns: 9_000_000_000,
        ..run.intervals[1].clone()
    });
    let rates = points(&numbers_of(&page_of_run(&run)), "rate", "Replies");
    assert_eq!(rates.len(), 2, "{rates:?}");
}

fn step(rate: u64, kept: bool) -> StepResult {
    let at = |part| Some(rate * 1_000 + part);
    StepResult {
        rate_per_second: rate,
        requests_per_second: rate as f64,
        measured_ns: at(5),
        latency: Percentiles {
            count: 1,
            p50_ns: at(1),
            p90_ns: at(2),
            p99_ns: at(3),
            max_ns: at(4),
            ..Percentiles::default()
        },
        own_lag_p99_ns: 7,
        requests_never_sent: 8,
        kept,
        not_kept_reason: (!kept).then(|| "too late".into()),
        verdict: Verdict::Valid,
    }
}

/// Three tries at the highest rate, the first of which had another latency.
fn search() -> SearchSummary {
    let mut first = step(400, false);
    first.latency.p99_ns = Some(1);
    first.measured_ns = Some(2);
    let steps = vec![step(100, true), first, step(400, false), step(200, true)];
    let mut best = run(0);
    best.objectives = vec![ObjectiveResult {
        objective: "p99<5ms".into(),
        limit_ns: Some(5_000_000),
        limit: None,
        measured_ns: Some(1),
        measured: None,
        met: true,
        undecided: false,
    }];
    SearchSummary {
        r#type: SearchType::Search,
        schema_version: SCHEMA_VERSION,
        loadgen_version: PROGRAM_VERSION.into(),
        objective: "p99<5ms".into(),
        rate_per_second: Some(200),
        not_kept_rate_per_second: Some(400),
        not_kept_reason: Some("too late".into()),
        is_lower_bound: false,
        steps,
        verdict: SearchVerdict::Run(Verdict::Valid),
        verdict_text: "valid (a; b)".into(),
        exit_code: 0,
        best: Some(best),
    }
}

#[test]
fn the_curve_of_a_search_has_the_last_try_at_each_rate_and_all_tries_as_points() {
    let page = page(SavedResult::Search(Box::new(search())));
    let numbers = numbers_of(&page);
    let points = |label| points(&numbers, "curve", label);
    let at = |part: f64| vec![(100.0, 100e3 + part), (200.0, 200e3 + part), (400.0, 400e3 + part)];
    let lines = [("p50", 1.0), ("p90", 2.0), ("p99", 3.0), ("max", 4.0)];
    lines.into_iter().for_each(|(label, part)| assert_eq!(points(label), at(part), "{label}"));
    assert_eq!(points("Kept"), at(5.0)[..2]);
    assert_eq!(points("Not kept"), [(400.0, 2.0), (400.0, 400_005.0)]);
    assert_eq!(points("Limit").iter().map(|(_, y)| *y).collect::<Vec<_>>(), [5e6; 4]);
    assert!(ids(&numbers).contains(&"latency"), "the best run's charts follow");
    assert!(page.contains("The highest rate with p99&lt;5ms is 200/s."), "{page}");
}

#[test]
fn several_results_have_a_line_each() {
    let results = [
        ("one.json".to_string(), SavedResult::Run(Box::new(run(0)))),
        ("two.json".to_string(), SavedResult::Run(Box::new(run(1)))),
        ("three.json".to_string(), SavedResult::Search(Box::new(search()))),
    ];
    let page = render(&results).expect("its histograms are right");
    let numbers = numbers_of(&page);
    let shown = ["curve", "percentiles", "rate", "latency", "fairness", "connections", "errors"];
    assert_eq!(ids(&numbers), shown);
    for (nth, name) in [(0, "one.json"), (1, "two.json")] {
        let run = run(nth);
        let of = |value: &dyn Fn(&SecondSummary) -> f64| -> Vec<_> {
            run.intervals.iter().map(|second| (second.start_ns as f64, value(second))).collect()
        };
        let p99 = |second: &SecondSummary| second.latency.p99_ns.expect("values") as f64;
        assert_eq!(points(&numbers, "latency", name), of(&p99));
        assert_eq!(points(&numbers, "rate", name), of(&|second| second.requests_per_second));
        assert_eq!(points(&numbers, "connections", name), of(&|one| one.connections_open as f64));
        assert_eq!(points(&numbers, "errors", name), of(&|one| one.errors as f64));
        let replies =
            points(&numbers, "fairness", name).into_iter().map(|(_, replies)| replies as u64);
        assert_eq!(replies.collect::<Vec<_>>(), run.connections.replies_at_percent);
        let p99 = (99.0, run.latency.percentiles.p99_ns.expect("values") as f64);
        assert!(points(&numbers, "percentiles", name).contains(&p99));
    }
    let curve = points(&numbers, "curve", "three.json");
    assert_eq!(curve, [(100.0, 100_003.0), (200.0, 200_003.0), (400.0, 400_003.0)]);
}

/// Each number of a direction is another one.
fn direction(from: u64) -> LinkDirection {
    let late = Distribution::new(&crate::report::distinct::spread(from));
    let mut numbers = from + 1..;
    let mut next = || numbers.next().expect("there are more");
    LinkDirection {
        delay_ns: next(),
        jitter_ns: next(),
        loss_ratio: 0.000_7,
        duplicate_ratio: 0.25,
        reorder_ratio: 0.375,
        rate_bits_per_second: Some(next()),
        limit_packets: next(),
        in_order: true,
        packets_in: next(),
        bytes_in: next(),
        packets_delivered: next(),
        bytes_delivered: next(),
        packets_lost: next(),
        packets_dropped: next(),
        packets_duplicated: next(),
        packets_sent_ahead: next(),
        packets_reordered: next(),
        packets_refused: 0,
        packets_under_way: next(),
        packets_missed: 0,
        late,
    }
}

pub fn link() -> LinkSummary {
    LinkSummary::new(4_711, direction(1_000), direction(2_000))
}

#[test]
fn a_link_has_how_late_its_packets_were_and_what_became_of_them() {
    let link = link();
    let page_of = |link: &LinkSummary| page(SavedResult::Link(Box::new(link.clone())));
    let text = page_of(&link);
    let numbers = numbers_of(&text);
    assert_eq!(ids(&numbers), ["late"], "it has no latency");
    for (label, one) in [("There", &link.there), ("Back", &link.back)] {
        let points = points(&numbers, "late", label);
        let late = &one.late.percentiles;
        for (rank, value) in [(50.0, late.p50_ns), (99.0, late.p99_ns), (99.9, late.p99_9_ns)] {
            assert!(points.contains(&(rank, value.expect("values") as f64)), "{label} {rank}");
        }
        let cells = cells(&text);
        for count in [one.packets_in, one.packets_lost, one.packets_dropped, one.packets_reordered]
        {
            assert!(cells.contains(&count.to_string()), "{label}: {count}");
        }
        for share in ["0.07 %", "25 %", "37.5 %"] {
            assert!(cells.contains(&share.to_string()), "{label}: {share}");
        }
    }
    assert!(text.contains("The link did with each packet what it was told."), "{text}");
    assert!(!text.contains("Exit code"), "that of the command is its own");
    let changes: [fn(&mut LinkSummary); 2] =
        [|link| link.there.packets_refused = 1, |link| link.back.packets_missed = 1];
    for change in changes {
        let mut link = link.clone();
        change(&mut link);
        let text = page_of(&link);
        assert!(text.contains("The kernel dropped packets beside those"), "{text}");
        assert!(text.contains("<div class=\"verdict warn\">"), "{text}");
    }
}

/// How late packets left a link is no latency of a request.
#[test]
fn a_link_beside_a_run_adds_no_line_of_latencies() {
    let results = [
        ("run.json".to_string(), SavedResult::Run(Box::new(run(0)))),
        ("link.json".to_string(), SavedResult::Link(Box::new(link()))),
    ];
    let page = render(&results).expect("their histograms are right");
    let numbers = numbers_of(&page);
    let percentiles = &numbers["charts"][0];
    assert_eq!(percentiles["id"], "percentiles");
    assert_eq!(percentiles["series"].as_array().map(Vec::len), Some(1), "{percentiles}");
    assert!(page.contains("Packets reordered"), "its counts are there");
}

#[test]
fn a_calibration_has_its_ceilings_and_its_machine() {
    let mut found = crate::plan::calibration::tests::calibration();
    let page_of = |found: &Calibration| page(SavedResult::Calibration(Box::new(found.clone())));
    let shown = page_of(&found);
    for part in [
        "is 50000/s in an open loop, and 200000/s in a closed loop.",
        "<data value=\"15000\">15.00us</data>",
        "<th scope=\"row\">Kernel</th><td class=\"words\">6.1</td>",
        "<th scope=\"row\">Sizes</th>",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(!shown.contains("<h2>Charts"), "it has none");
    found.open_loop = None;
    assert!(
        page_of(&found).contains("200000/s in a closed loop; in an open loop it kept no rate.")
    );
}

/// What would do harm in markup, in an attribute, in the block of numbers, or in a script.
const HOSTILE: &str =
    "</script><script>alert(1)</script><img src=//x onerror=alert(2)>\"'&<!--\u{2028}";

/// Replaces each text of an object by a hostile one where the object can still be read.
fn poison(object: &Value, is_read: &dyn Fn(&Value) -> bool) -> (Value, usize) {
    let mut paths = Vec::new();
    texts(object, String::new(), &mut paths);
    let (mut poisoned, mut count) = (object.clone(), 0);
    for path in paths {
        let mut changed = poisoned.clone();
        *changed.pointer_mut(&path).expect("it is there") = HOSTILE.into();
        if !path.contains("histogram") && is_read(&changed) {
            (poisoned, count) = (changed, count + 1);
        }
    }
    (poisoned, count)
}

fn texts(value: &Value, path: String, found: &mut Vec<String>) {
    match value {
        Value::String(_) => found.push(path),
        Value::Array(values) => {
            for (nth, value) in values.iter().enumerate() {
                texts(value, format!("{path}/{nth}"), found);
            }
        }
        Value::Object(fields) => {
            for (key, value) in fields {
                texts(value, format!("{path}/{key}"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn no_text_of_a_file_becomes_markup_or_script() {
    let mut sample = run(0);
    sample.machine = Some(crate::plan::calibration::MachineName {
        hostname: "host".into(),
        kernel: "6.1".into(),
        cpu: "some".into(),
        processors: 2,
    });
    sample.command = vec!["loadgen".into(), "-c".into()];
    sample.objectives = search().best.expect("a run").objectives;
    let one = std::num::NonZeroU64::MIN;
    sample.errors.insert(HOSTILE.into(), one);
    sample.config.rude_clients.insert(HOSTILE.into(), 1);
    let sample = serde_json::to_value(&sample).expect("it has a JSON form");
    let is_run = |value: &Value| serde_json::from_value::<RunSummary>(value.clone()).is_ok();
    let (poisoned, count) = poison(&sample, &is_run);
    assert!(count > 15, "{count} texts of {poisoned:#}");
    let run: RunSummary = serde_json::from_value(poisoned).expect("it was read before");
    let mut search = search();
    (search.best, search.objective) = (Some(run.clone()), HOSTILE.into());
    (search.verdict_text, search.not_kept_reason) = (HOSTILE.into(), Some(HOSTILE.into()));
    search.steps[1].not_kept_reason = Some(HOSTILE.into());
    let result = || SavedResult::Run(Box::new(run.clone()));
    let search = SavedResult::Search(Box::new(search));
    for results in [
        vec![(HOSTILE.to_string(), result())],
        vec![(HOSTILE.to_string(), search)],
        vec![(HOSTILE.to_string(), result()), (HOSTILE.to_string(), result())],
    ] {
        let page = render(&results).expect("its histograms are right");
        let ours = page.replace(&script(), "").replace(&style(), "");
        assert!(ours.contains("&lt;/script&gt;&lt;script&gt;alert(1)"), "it is shown as text");
        for tag in ["<script", "</script"] {
            assert_eq!(ours.matches(tag).count(), 2, "{tag} in {ours}");
        }
        for tag in ["<img", "<!--"] {
            assert!(!ours.contains(tag), "{tag} in {ours}");
        }
        numbers_of(&page);
    }
}

#[test]
fn a_page_refers_to_nothing_outside_of_it() {
    let page = page_of_run(&run(0)).replace(&script(), "");
    for part in ["http://", "https://", "@import", "url(", "src="] {
        assert!(!page.contains(part), "{part}");
    }
    assert!(
        script().contains("The above copyright notice and this permission notice"),
        "the licence"
    );
    let version = uplot::SCRIPT.lines().next().expect("a first line");
    assert!(version.contains("(v1.6.32)"), "{version}");
}

/// The text of a page, without its markup.
fn cells(page: &str) -> Vec<String> {
    let texts =
        page.split('<').filter_map(|part| part.split_once('>').map(|(_, text)| text.trim()));
    texts.filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

/// Whether a row of a table has this name and this value beside it.
fn has_row(page: &str, name: &str, value: &str) -> bool {
    cells(page).windows(2).any(|pair| pair == [name, value])
}

#[test]
fn what_a_reflector_tells_has_its_own_numbers() {
    let run = RunSummary::new(&stamp_report(0));
    let page = page_of_run(&run);
    let stamp = run.stamp.as_ref().expect("it is there");
    for (name, count) in [
        ("Lost there", 412),
        ("Lost back", 413),
        ("Lost in either direction", 414),
        ("Duplicated there", 415),
        ("Duplicated back", 416),
    ] {
        assert!(has_row(&page, name, &count.to_string()), "{name}");
    }
    assert!(has_row(&page, "Clocks agree", "yes"));
    assert!(!page.contains("Clocks disagree because"), "there is no reason");
    assert_eq!(stamp.lost_unknown, Some(414));
    for name in ["Round trip", "In the reflector", "Variation back", "Delay there"] {
        assert!(cells(&page).iter().any(|cell| cell == name), "{name}");
    }
}

#[test]
fn what_several_runs_against_a_reflector_tell_is_on_their_page() {
    let merged = crate::command::merge::tests::merged_stamp();
    let page = page(SavedResult::Merged(Box::new(merged)));
    for (name, count) in [
        ("Lost there", 2 * 412 + 1_000),
        ("Duplicated back", 2 * 416 + 1_000),
        ("Lost in either direction", 2 * 414 + 1_000),
        ("Truncated", 2 * 306 + 1_000),
    ] {
        assert!(has_row(&page, name, &count.to_string()), "{name}");
    }
}

#[test]
fn handshakes_are_shown_by_kind_and_session() {
    let mut report = report();
    let mut tls = TlsRecords { measured: 4, ..TlsRecords::default() };
    tls.full.record_n(3_000, 3).expect("in bounds");
    tls.sessions.insert(("1.3", "TLS_AES_256_GCM_SHA384"), 7);
    report.records.tls = Some(Box::new(tls));
    let rows = |report: &crate::report::Report| {
        let run = RunSummary::new(report);
        handshakes(run.tls.as_ref().expect("it is there"))
    };
    let shown = rows(&report);
    let value = |name: &str| shown.iter().find(|row| row.0 == name).map(|row| row.1.clone());
    assert_eq!(value("Full handshakes"), Some(json!(3)));
    assert_eq!(value("Resumed handshakes"), Some(json!(0)));
    assert_eq!(value("Handshakes per second"), Some(json!(4.0)));
    assert_eq!(value("Full handshake p50_ns"), Some(json!(3_001)));
    assert_eq!(value("Resumed handshake p50_ns"), None, "there was none");
    assert_eq!(value("TLS 1.3 TLS_AES_256_GCM_SHA384"), Some(json!(7)));
    assert!(has_row(&page_of_run(&RunSummary::new(&report)), "Full handshakes", "3"));
}

/// Only where nothing was to be verified, or nobody wanted it.
#[test]
fn certificates_are_verified_unless_they_need_not_be() {
    let verified = |flags: &str| {
        let mut report = report();
        report.plan = std::sync::Arc::new(crate::report::tests::plan(flags));
        report.records.tls = Some(Box::default());
        RunSummary::new(&report).tls.map(|tls| tls.verified)
    };
    assert_eq!(verified("tls://127.0.0.1:7 -c 2 -d 1s"), Some(true));
    assert_eq!(verified("tls://127.0.0.1:7?insecure=on -c 2 -d 1s"), Some(false));
}

#[test]
fn parts_of_a_round_trip_have_a_table_and_shares() {
    let mut report = report();
    report.records.parts = Some(Box::default());
    let parts = &mut *report.records.parts.as_mut().expect("just set");
    crate::report::parts::tests::record(parts, [1, 0, 40, 2, 50, 7], 0);
    let page = page_of_run(&RunSummary::new(&report));
    for text in ["Shares of all latencies", "Shares of the slowest 1 %", "one way, there"] {
        assert!(cells(&page).iter().any(|cell| cell == text), "{text}");
    }
    let shares = cells(&page);
    let at = shares.iter().position(|cell| cell == "Shares of all latencies").expect("a table");
    let shares = &shares[at..at + 2 * 8];
    assert!(shares.windows(2).any(|pair| pair == ["Service", "50.0 %"]), "{shares:?}");
}

#[test]
fn an_hour_is_less_than_a_megabyte() {
    let mut run = run(0);
    let second = run.intervals[0].clone();
    let step = run.seconds[0].clone();
    let odd = |nth: u64| 1_000_000 + nth.wrapping_mul(2_654_435_761) % 900_000_000;
    for nth in 0..3_600 {
        let values = |more: u64| Percentiles {
            p50_ns: Some(odd(nth + more)),
            p90_ns: Some(odd(nth + more + 1)),
            p99_ns: Some(odd(nth + more + 2)),
            p99_9_ns: Some(odd(nth + more + 3)),
            max_ns: Some(odd(nth + more + 4)),
            ..second.latency
        };
        run.intervals.push(SecondSummary {
            start_ns: nth * 1_000_000_000,
            requests_per_second: odd(nth) as f64 / 1e3,
            connections_open: 10_000 + nth,
            latency: values(5),
            send_lag: values(9),
            ..second.clone()
        });
        let mut step = step.clone();
        step.outstanding_mean = odd(nth) as f64 / 977.0;
        step.outstanding_expected = odd(nth) as f64 / 983.0;
        step.running_ns = odd(nth);
        step.waiting_ns = odd(nth + 1);
        run.seconds.push(step);
    }
    let page = page_of_run(&run);
    assert!((400_000..1_000_000).contains(&page.len()), "{} bytes", page.len());
    assert!(page.contains("3602 seconds are in the charts"), "and are no table");
}

#[test]
fn what_is_not_known_is_left_out() {
    let mut old = run(0);
    (old.intervals, old.seconds, old.machine) = (Vec::new(), Vec::new(), None);
    (old.command, old.per_target, old.generator_threads) = (Vec::new(), None, Vec::new());
    (old.latency, old.service_time) = (Distribution::default(), Distribution::default());
    (old.send_lag, old.own_lag) = (Distribution::default(), Distribution::default());
    old.connections.replies_at_percent.clear();
    let page = page_of_run(&old);
    assert_eq!(ids(&numbers_of(&page)), Vec::<&str>::new());
    assert!(!page.contains("NaN") && !page.contains("<h2>Charts"), "{page}");
}

#[test]
fn a_malformed_histogram_is_named_with_its_file() {
    let mut run = run(0);
    run.own_lag.histogram_v2_deflate_base64 = "?".into();
    let error = render(&[("a.json".into(), SavedResult::Run(Box::new(run)))]);
    assert!(
        error.as_ref().is_err_and(|why| why.starts_with("a.json: own_lag: not base64")),
        "{error:?}"
    );
}

#[test]
fn each_column_about_targets_against_each_other_is_a_key_of_the_schema() {
    let schema = crate::report::schema::json_schema();
    for (keys, object) in
        [(&AB_KEYS[..], "AbTarget"), (&SLICE_KEYS, "slice_object"), (&SHARD_KEYS, "ShardSummary")]
    {
        let properties = &schema["$defs"][object]["properties"];
        for key in keys {
            let outer = key.split('/').next().unwrap_or_default();
            assert!(!properties[outer].is_null(), "no {key} in {object}");
        }
    }
}

#[test]
fn each_shard_stands_beside_the_whole() {
    let mut merged = crate::command::merge::tests::merged();
    merged.shards = Some(crate::report::shards::tests::two_shards());
    let page = page(SavedResult::Merged(Box::new(merged)));
    for text in [
        "Each shard beside the whole",
        ">all<",
        "0 of 2",
        "1 of 2",
        "200.00ms",
        "Requests per second together",
        "Latencies are those of the whole runs: 0.json does not have the histogram of each second.",
    ] {
        assert!(page.contains(text), "{text}");
    }
    assert!(!page.contains("all, together"), "there are none");
}

#[test]
fn the_latencies_of_the_common_time_stand_beside_those_of_the_whole() {
    let mut merged = crate::command::merge::tests::merged();
    let mut shards = crate::report::shards::tests::two_shards();
    let together = Distribution::new(&crate::report::distinct::spread(77_000));
    shards.latency_note = "3 of 4 latencies".into();
    shards.latency_together = Some(together.clone());
    merged.shards = Some(shards);
    let page = page(SavedResult::Merged(Box::new(merged)));
    let p99 = format!("<data value=\"{}\">", together.percentiles.p99_ns.expect("values"));
    // In the table of times, and in that of the shards.
    assert_eq!(page.matches(&p99).count(), 2, "{page}");
    for text in ["3 of 4 latencies", "all, together", "Latency together"] {
        assert!(page.contains(text), "{text}");
    }
    for column in ["Latency", "Service time", "Send lag", "Own lag", "Connect"] {
        assert!(
            page.contains(&format!("<th scope=\"col\">{column}, whole shards</th>")),
            "{column}"
        );
    }
    let numbers = numbers_of(&page);
    let percentiles = &numbers["charts"][0];
    let labels = percentiles["series"].as_array().expect("a list").iter();
    let labels: Vec<_> = labels.map(|series| series["label"].as_str().expect("text")).collect();
    let whole = ["Latency", "Service time", "Send lag", "Own lag"];
    let whole = whole.map(|name| format!("{name} (of the whole shards)"));
    assert_eq!(labels[0], "Latency while all shards measured");
    assert_eq!(labels[1..], whole);
}

/// A misspelled key would be an empty column.
#[test]
fn each_column_of_a_table_is_a_key_of_its_objects() {
    let mut run = run(0);
    run.first_mismatches.push(crate::report::tests::mismatch());
    let run = serde_json::to_value(run).expect("it has a JSON form");
    let step = serde_json::to_value(step(1, false)).expect("it has a JSON form");
    for (keys, object) in [
        (&TARGET_KEYS[..], &run["per_target"][0]),
        (&RUDE_KEYS, &run["rude_clients"][0]),
        (&MISMATCH_KEYS, &run["first_mismatches"][0]),
        (&THREAD_KEYS, &run["generator_threads"][0]),
        (&SECOND_KEYS, &run["intervals"][0]),
        (&STEP_KEYS, &step),
    ] {
        for key in keys {
            assert!(object.pointer(&format!("/{key}")).is_some(), "no {key} in {object}");
        }
    }
}

#[test]
fn tables_have_the_numbers_and_the_conditions() {
    let mut sample = run(0);
    sample.command = ["loadgen", "h:1", "--slo", "p99<1ms", "it's"].map(String::from).to_vec();
    let page = page_of_run(&sample);
    let time = |nanos: Option<u64>| {
        let nanos = nanos.expect("values");
        format!("<data value=\"{nanos}\">{}</data>", time_us(nanos as f64 / 1e3))
    };
    for distribution in [
        &sample.latency,
        &sample.service_time,
        &sample.send_lag,
        &sample.own_lag,
        &sample.connect_latency,
    ] {
        let of = distribution.percentiles;
        for nanos in [of.min_ns, of.mean_ns, of.p50_ns, of.p99_ns, of.p99_99_ns, of.max_ns] {
            assert!(page.contains(&time(nanos)), "{nanos:?}");
        }
    }
    for part in [
        "<th scope=\"row\">Offered</th><td>109</td>",
        "<th scope=\"row\">Never sent</th><td>115</td>",
        "<th scope=\"row\">Connect-refused</th>",
        "<td class=\"words\">tcp://127.0.0.1:7002</td>",
        "<code>loadgen h:1 --slo 'p99&lt;1ms' 'it'\\''s'</code>",
        "<th scope=\"row\">Version of loadgen</th>",
        "Failed: bytes came back that differ from what was sent.",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
}

#[test]
fn a_command_is_shown_as_a_shell_takes_it() {
    let words = ["/bin/loadgen", "", "a b", "$x", "p99<1ms", "it's", "h:1", "~", "a\\b"];
    let shown = command(&words.map(String::from));
    assert_eq!(shown, r"/bin/loadgen '' 'a b' '$x' 'p99<1ms' 'it'\''s' h:1 '~' 'a\b'");
}

#[test]
fn the_verdict_is_a_sentence_with_its_reasons() {
    let sentence = |change: &dyn Fn(&mut RunSummary)| {
        let mut run = RunSummary::new(&report());
        change(&mut run);
        Sentence::of(&SavedResult::Run(Box::new(run)))
    };
    let valid = sentence(&|_| {});
    assert_eq!(valid.text, "Valid: every reply was verified, and no connection was lost.");
    assert_eq!(valid.reasons[0], "closed loop");
    assert_eq!((valid.reasons.len(), valid.tone.class()), (2, "good"));
    let aborted = sentence(&|run| {
        (run.aborted, run.exit_code) = (Some("second 1".into()), 99);
    });
    assert!(aborted.text.ends_with(" any more. An objective is missed."), "{}", aborted.text);
    assert_eq!(aborted.tone.class(), "bad");
    let limited = sentence(&|run| run.verdict = Verdict::GeneratorLimited);
    assert!(limited.text.starts_with("Limited by the load generator: "), "{}", limited.text);
    assert_eq!(limited.tone.class(), "warn", "even if the exit code is 0");
    let mut texts: Vec<_> =
        Verdict::ALL.map(|verdict| sentence(&|run| run.verdict = verdict).text).to_vec();
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), Verdict::ALL.len(), "each has its own: {texts:?}");
}

#[test]
fn a_schedule_that_was_kept_is_said_only_of_an_open_loop() {
    let text = |open_loop| {
        let mut run = RunSummary::new(&report());
        run.config.open_loop = open_loop;
        Sentence::of(&SavedResult::Run(Box::new(run))).text
    };
    assert_eq!([false, true].map(|open| text(open).contains("kept its schedule")), [false, true]);
}

#[test]
fn the_verdict_on_a_search_has_its_rate_and_why_it_ended() {
    let sentence = |verdict| {
        let search = SearchSummary { verdict, ..search() };
        Sentence::of(&SavedResult::Search(Box::new(search)))
    };
    for (verdict, why, tone) in [
        (SearchVerdict::Run(Verdict::Valid), "", "good"),
        (SearchVerdict::NotKept, "", "warn"),
        (SearchVerdict::Interrupted, " The search was ended early", "warn"),
        (SearchVerdict::RunFailed, " A run failed, which ended the search.", "warn"),
        (SearchVerdict::Run(Verdict::GeneratorLimited), " The load generator itself", "warn"),
        (SearchVerdict::Run(Verdict::Differed), " The search ended with this run: ", "warn"),
    ] {
        let Sentence { text, tone: found, .. } = sentence(verdict);
        let rate = "The highest rate with p99<5ms is 200/s.";
        let rest = text.strip_prefix(rate).unwrap_or_else(|| panic!("{verdict:?}: {text}"));
        assert!(rest.starts_with(why) && rest.is_empty() == why.is_empty(), "{verdict:?}: {text}");
        assert_eq!(found.class(), tone, "{verdict:?}");
    }
}

#[test]
fn the_verdict_on_a_merged_result_has_its_objectives_and_what_was_ended_early() {
    let sentence = |objectives: &str, verdict, interrupted, aborted| {
        let mut merged = crate::command::merge::tests::merged();
        (merged.objectives, merged.verdict, merged.exit_code) = (objectives.into(), verdict, 0);
        (merged.runs_interrupted, merged.runs_aborted) = (interrupted, aborted);
        Sentence::of(&SavedResult::Merged(Box::new(merged)))
    };
    let texts = ["none", "met", "undecided", "missed"]
        .map(|objectives| sentence(objectives, Verdict::Valid, 0, 0).text);
    let (none, with) = texts.split_first().expect("four");
    let ends: Vec<_> = with.iter().map(|text| text.strip_prefix(none.as_str())).collect();
    assert_eq!(
        ends,
        [
            super::verdict::objectives(Objectives::Met),
            super::verdict::objectives(Objectives::Undecided),
            super::verdict::objectives(Objectives::Missed)
        ]
        .map(Some)
    );
    let whole = sentence("none", Verdict::Valid, 0, 0);
    assert_eq!((whole.tone.class(), whole.reasons.len()), ("good", 1));
    let early = sentence("none", Verdict::Valid, 1, 1);
    assert_eq!(early.reasons.len(), 3, "{:?}", early.reasons);
    assert!(early.reasons[1].starts_with("1 of ") && early.reasons[1].contains("by a signal"));
    assert_eq!(sentence("none", Verdict::GeneratorLimited, 0, 0).tone.class(), "warn");
}

#[test]
fn a_comparison_is_good_only_if_its_runs_are_valid() {
    let tone = |verdict| {
        let mut ab = crate::command::ab::tests::summary();
        (ab.verdict, ab.exit_code) = (verdict, 0);
        Sentence::of(&SavedResult::Ab(Box::new(ab))).tone.class()
    };
    assert_eq!([Verdict::Valid, Verdict::GeneratorLimited].map(tone), ["good", "warn"]);
}

#[test]
fn a_comparison_of_files_has_its_verdict_its_confidence_and_the_settings_that_differ() {
    let comparison = |change: fn(&mut ComparisonSummary)| {
        let mut summary = crate::command::sets::tests::summary();
        change(&mut summary);
        SavedResult::Comparison(Box::new(summary))
    };
    let sentence = |change| Sentence::of(&comparison(change));
    let equal = sentence(|_| ());
    assert_eq!(equal.tone.class(), "good");
    assert!(!equal.reasons.iter().any(|why| why.contains("settings")), "{:?}", equal.reasons);
    let late = sentence(|summary| summary.verdict = Verdict::GeneratorLimited);
    assert_eq!(late.tone.class(), "warn");
    let other = sentence(|summary| summary.settings_differ = vec!["size".into(), "rate".into()]);
    assert_eq!(other.reasons.last().map(String::as_str), Some("settings differ: size, rate"));
    assert_eq!(other.reasons.len(), equal.reasons.len() + 1);
    let page = page(comparison(|summary| summary.confidence_ratio = 0.75));
    assert!(page.contains("with its 75 % interval"), "{page}");
}

#[test]
fn fields_without_a_value_are_left_out() {
    let object = json!({ "a": "", "b": "x", "c": null, "d": [], "e": {}, "f": 0, "g": false });
    let keys: Vec<_> = tables::fields(&object).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["b", "f", "g"]);
}

#[test]
fn each_chart_has_its_own_axes() {
    let ab = page(SavedResult::Ab(Box::new(crate::command::ab::tests::summary())));
    let mut found = std::collections::BTreeMap::new();
    let mut timed = report();
    crate::report::parts::tests::record(
        timed.records.parts.insert(Box::default()),
        [1, 0, 40, 2, 50, 7],
        0,
    );
    let timed = page_of_run(&RunSummary::new(&timed));
    let link = page(SavedResult::Link(Box::new(link())));
    for page in [page_of_run(&run(0)), page_of_search(), ab, timed, link] {
        for chart in numbers_of(&page)["charts"].as_array().expect("a list") {
            let text = |key: &str| chart[key].as_str().expect("text").to_owned();
            let axes = [text("x_label"), text("x_kind"), text("y_kind")].join(" ");
            assert_eq!(found.entry(text("id")).or_insert(axes.clone()), &axes);
        }
    }
    let found: Vec<_> = found.iter().map(|(id, axes)| format!("{id}: {axes}")).collect();
    assert_eq!(
        found,
        [
            "connections: Time seconds count",
            "curve: Rate rate time",
            "errors: Time seconds count",
            "fairness: Connections percent count",
            "lag: Time seconds time",
            "late: Percentile percentile time",
            "latency: Time seconds time",
            "outstanding: Time seconds count",
            "parts: Percentile percentile time",
            "percentiles: Percentile percentile time",
            "processors: Time seconds count",
            "rate: Time seconds rate",
            "rounds: Round count time",
            "targets: Percentile percentile time",
        ]
    );
}

/// The title of each chart, and what it says of itself: as in the list, and not those of another.
#[test]
fn each_chart_has_its_title_and_an_explanation() {
    let result = |nth| SavedResult::Run(Box::new(run(nth)));
    let search = || SavedResult::Search(Box::new(search()));
    let several = [("a.json".into(), result(0)), ("b.json".into(), search())];
    let several = render(&several).expect("their histograms are right");
    let ab = page(SavedResult::Ab(Box::new(crate::command::ab::tests::summary())));
    let mut timed = report();
    timed.records.parts = Some(Box::new({
        let mut parts = crate::stats::parts::Parts::default();
        crate::report::parts::tests::record(&mut parts, [1, 0, 40, 2, 50, 7], 0);
        parts
    }));
    let timed = page_of_run(&RunSummary::new(&timed));
    for (page, title, about) in [
        (&timed, "Where the time went, by percentile of the latency", "The mean of each part of"),
        (
            &page(SavedResult::Link(Box::new(link()))),
            "How late packets left the link, by percentile",
            "After the time at which each was to leave.",
        ),
        (&timed, "Latency by percentile", "From 90 % to 99 % is as far as from"),
        (&ab, "Latency of each target by percentile", "From 90 % to 99 % is as far as from"),
        (&ab, "Median latency in each round", "Of each target. What changes on the machine"),
        (&page_of_search(), "Latency at each rate that was tried", "The lines go through the last"),
        (&several, "Latency at each rate that was tried", "The 99th percentile of the runs of"),
        (&several, "99th percentile over time", "Of the latencies of each second."),
        (&several, "Rate over time", "Complete, verified replies per second."),
        (&page(result(0)), "Latency over time", "Percentiles of each second."),
        (&page(result(0)), "Send lag beside the latency", "From the time at which a request was"),
        (&page(result(0)), "Connections over time", "Open at the end of each second."),
        (&page(result(0)), "Replies on each connection", "The connections in the order of their"),
        (&page(result(0)), "Errors over time", "Connections that failed, were lost, or"),
        (&page(result(0)), "Outstanding requests over time", "On average in each second, as"),
        (&page(result(0)), "Processors of the generator over time", "How many its threads used"),
    ] {
        let cells = cells(page);
        let at = cells.iter().position(|cell| cell == title).unwrap_or_else(|| panic!("{title}"));
        assert!(cells[at + 1].starts_with(about), "{title}: {}", cells[at + 1]);
    }
}

/// One request of 100 us, and three of 1.1 ms.
#[test]
fn the_parts_stand_at_the_middle_of_the_requests_that_they_are_of() {
    let mut timed = report();
    let parts = timed.records.parts.insert(Box::default());
    for micros in [[1, 0, 40, 2, 50, 7], [100, 200, 60, 710, 20, 10]] {
        for _ in 0..if micros[0] == 1 { 1 } else { 3 } {
            crate::report::parts::tests::record(parts, micros, 0);
        }
    }
    let numbers = numbers_of(&page_of_run(&RunSummary::new(&timed)));
    let of = |part: Part| points(&numbers, "parts", part.words());
    assert_eq!(of(Part::Service), [(12.5, 50_000.0), (62.5, 20_000.0)]);
    assert_eq!(of(Part::Connection), [(62.5, 200_000.0)], "nothing has no logarithm");
}

#[test]
fn no_point_stands_at_the_end_of_a_percentile_axis() {
    let numbers = numbers_of(&page_of_run(&run(0)));
    let all = points(&numbers, "percentiles", "Service time (from the send)");
    assert!(all.len() > 5 && all.iter().all(|(rank, _)| *rank < 100.0), "{all:?}");
}

#[test]
fn each_target_has_the_medians_of_its_own_rounds() {
    let ab = crate::command::ab::tests::summary();
    let numbers = numbers_of(&page(SavedResult::Ab(Box::new(ab.clone()))));
    for target in &ab.targets {
        let own = ab.slices.iter().filter(|slice| slice.name == target.name);
        let expected: Vec<_> = own
            .map(|slice| (slice.round as f64, slice.latency.p50_ns.expect("values") as f64))
            .collect();
        let mut found = points(&numbers, "rounds", &target.name);
        found.retain(|(_, value)| !value.is_nan());
        assert_eq!(found, expected, "{}", target.name);
    }
}

/// A file of an earlier version has no intervals: their rates come from the seconds.
#[test]
fn rates_of_an_earlier_version_are_replies_per_second() {
    let mut run = run(0);
    run.intervals.clear();
    run.seconds.truncate(2);
    (run.seconds[0].length_ns, run.seconds[0].replies) = (0, 3);
    (run.seconds[1].length_ns, run.seconds[1].replies) = (500_000_000, 700);
    let numbers = numbers_of(&page_of_run(&run));
    assert_eq!(points(&numbers, "rate", "Replies"), [(0.0, 1_400.0)]);
    // A second without a length has no place, and no rate.
    let rate = numbers["charts"].as_array().expect("a list").iter().find(|one| one["id"] == "rate");
    assert_eq!(rate.expect("a chart")["series"][0]["values"], json!([1_400]));
}

#[test]
fn the_parts_of_a_page_are_there() {
    let mut sample = run(0);
    sample.requests_per_second = 12_345.0;
    sample.generator_busy_ratio = 0.375;
    sample.objectives = [(true, false), (false, true), (false, false)]
        .map(|(met, undecided)| ObjectiveResult {
            objective: format!("p99<{}ms", 1 + usize::from(met) + 2 * usize::from(undecided)),
            limit_ns: Some(1_000_000),
            limit: None,
            measured_ns: Some(2_500_000),
            measured: None,
            met,
            undecided,
        })
        .to_vec();
    let page = page_of_run(&sample);
    let p99 = sample.latency.percentiles.p99_ns.expect("values");
    for part in [
        format!("<h1>{}</h1>", sample.target),
        "<h2>Charts</h2>".into(),
        "<noscript><p>The charts need JavaScript.".into(),
        "<figure class=\"wide\">".into(),
        "<dt>Replies per second</dt><dd>12.35k</dd>".into(),
        format!("<dt>Latency p99</dt><dd>{}</dd>", time_us(p99 as f64 / 1e3)),
        "<th scope=\"row\">Busiest thread, busy</th><td class=\"words\">37.5 %</td>".into(),
    ] {
        assert!(page.contains(&part), "{part} in {page}");
    }
    for column in ["Latency", "Service time", "Send lag", "Own lag", "Connect"] {
        assert!(page.contains(&format!(">{column}</th>")), "{column} in {page}");
    }
    let rows: Vec<_> = page.split("p99&lt;").skip(1).take(3).collect();
    for (row, word) in rows.iter().zip(["met", "undecided", "missed"]) {
        let row = row.split("</tr>").next().expect("a row");
        assert!(row.contains(&format!(">{word}<")) && row.contains("2.50ms"), "{row}");
    }
    let search = page_of_search();
    for part in ["Highest rate with ", "those of the best run, at ", "All runs"] {
        assert!(search.contains(part), "{part} in {search}");
    }
}

fn page_of_search() -> String {
    page(SavedResult::Search(Box::new(search())))
}

/// What a reader sees of a page without its charts: a line for each piece of text or row.
fn text_of(page: &str) -> String {
    let body = page.split_once("<body>").expect("a body").1;
    let body = body.split_once("<footer").expect("a footer").0;
    let mut text = String::new();
    for piece in body.split('<').skip(1) {
        let (tag, words) = piece.split_once('>').expect("the end of a tag");
        let name = tag.split(' ').next().expect("a name");
        text += match name {
            "td" => " | ",
            "th" if text.ends_with('\n') => "",
            "th" => " | ",
            "data" | "/data" | "/td" | "/th" | "code" | "/code" | "strong" | "/strong" => "",
            _ if text.ends_with('\n') => "",
            _ => "\n",
        };
        text += words;
    }
    let words = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&amp;", "&")];
    let text = words.iter().fold(text, |text, (from, to)| text.replace(from, to));
    let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    let text = text.replace("Optimized build | yes", "Optimized build | no");
    text.replace(PROGRAM_VERSION, "VERSION")
}

/// Every word and number of each kind of page, as committed in `pages/`.
/// `UPDATE=1 cargo test -p loadgen --lib pages` rewrites the files, which are then read.
#[test]
fn the_committed_pages_are_those_that_are_made() {
    let run_of = |nth| {
        let mut run = run(nth);
        run.machine = Some(crate::plan::calibration::tests::calibration().machine);
        run.began_unix_ns = Some(1_700_000_000_000_000_000 + nth);
        run.command = ["loadgen", "127.0.0.1:7", "-c", "909"].map(String::from).to_vec();
        run
    };
    let mut with_objectives = run_of(0);
    let values = [(None, Some(0.5)), (Some(2_500_000), None), (Some(3_500_000), None)];
    let results = [(true, false), (false, true), (false, false)];
    with_objectives.objectives = results
        .into_iter()
        .zip(values)
        .zip(["rate>1", "p9<1ms", "max<1s"])
        .map(|(((met, undecided), (measured_ns, measured)), objective)| ObjectiveResult {
            objective: objective.into(),
            limit_ns: None,
            limit: None,
            measured_ns,
            measured,
            met,
            undecided,
        })
        .collect();
    with_objectives.per_target = run(0).per_target;
    let mut search = search();
    search.best = Some(run_of(2));
    let run = |run: RunSummary| SavedResult::Run(Box::new(run));
    let search = || SavedResult::Search(Box::new(search.clone()));
    let merged = || SavedResult::Merged(Box::new(crate::command::merge::tests::merged()));
    let ab = || SavedResult::Ab(Box::new(crate::command::ab::tests::summary()));
    let calibration = crate::plan::calibration::tests::calibration;
    let calibration = || SavedResult::Calibration(Box::new(calibration()));
    let pages = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/report/html/pages");
    let named = |name: &str, result| (format!("{name}.json"), result);
    for (name, results) in [
        ("run", vec![named("run", run(with_objectives))]),
        ("search", vec![named("search", search())]),
        ("merged", vec![named("merged", merged())]),
        ("ab", vec![named("ab", ab())]),
        ("calibration", vec![named("calibration", calibration())]),
        ("link", vec![named("link", SavedResult::Link(Box::new(link())))]),
        (
            "several",
            vec![
                named("run", run(run_of(1))),
                named("search", search()),
                named("merged", merged()),
                named("ab", ab()),
                named("calibration", calibration()),
            ],
        ),
    ] {
        let made = text_of(&render(&results).expect("its histograms are right"));
        let path = pages.join(name).with_extension("txt");
        if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
            std::fs::write(&path, &made).expect("the file can be written");
        }
        let committed = std::fs::read_to_string(&path).expect("the page is there");
        assert!(
            committed == made,
            "{} is out of date; this rewrites it: UPDATE=1 cargo test -p loadgen --lib pages",
            path.display()
        );
    }
}
