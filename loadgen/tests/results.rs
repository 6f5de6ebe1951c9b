//! What the built program writes: every form of the report, further files, objectives, and the exit
//! codes. No times are asserted.

mod common;

use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::forms::{TestFile, assert_valid, count, schema};
use common::server::{EchoServer, Fault};
use common::{Ended, GUARD, loadgen, own_port, program, start, until};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use rustix::process::Signal;
use serde_json::Value;

fn decode(text: &Value) -> Histogram<u64> {
    let bytes = BASE64.decode(text.as_str().expect("text")).expect("base64");
    Deserializer::new().deserialize(&mut bytes.as_slice()).expect("a histogram")
}

/// The objects of a run, one per line.
fn lines(ended: &Ended) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    ended.stdout.lines().map(parse).collect()
}

#[test]
fn the_schema_describes_real_runs() {
    let schema = schema("summary");
    let server = EchoServer::start(Fault::None);
    let slos = "--slo p99<1h --slo rate>1 --slo errors<1 --slo max<1us";
    for (flags, code) in [
        ("-c 3 -n 500".into(), 0),
        ("message:// -c 3 -n 50".into(), 0),
        ("hub:// -c 5 -n 50".into(), 0),
        (format!("-c 4 -t 2 -d 300ms --source-ip 127.0.0.1 {slos}"), 99),
        (format!("-c 4 -n 100 --connect-rate 1k -p 3 -l 100 --seed 7 -t 1 {}", server.address), 0),
    ] {
        let ended = loadgen(&format!("{flags} --output-format json")).expect(code);
        assert_valid(&schema, &ended.json());
    }
}

/// How well a schedule is kept depends on the machine, so the exit code may be 4.
#[test]
fn the_schema_describes_open_loops() {
    let schema = schema("summary");
    for flags in [
        "-c 4 -R 500 -d 300ms -w 100ms --arrivals poisson -l uniform:10-100 --lifetime 20",
        "-c 4 --stages 200ms:500,100ms:500-1k --strict --lifetime 50ms",
        "-c 4 -R 500 -d 300ms --with idle:2,reset:1,trickle:1,half-close:1,slow-reader:1",
    ] {
        let json = loadgen(&format!("{flags} --output-format json")).json();
        assert_valid(&schema, &json);
        assert_eq!(json["config"]["open_loop"], true);
        assert!(count(&json["send_lag"]["count"]) > 0, "{flags}");
        let histogram = |key: &str| decode(&json[key]["histogram_v2_deflate_base64"]).len();
        assert_eq!(histogram("latency"), count(&json["requests_offered"]), "{flags}");
        assert_eq!(histogram("service_time"), count(&json["service_time"]["count"]), "{flags}");
    }
}

#[test]
fn the_schema_describes_what_went_wrong() {
    let schema = schema("summary");
    for (fault, code) in [
        (Fault::Corrupt { connection: 0, offset: 10 }, 3),
        (Fault::Reset { connection: 0, offset: 10 }, 4),
        (Fault::Close { connection: 0, offset: 10 }, 4),
    ] {
        let server = EchoServer::start(fault);
        let flags = format!("{} -c 2 -d 300ms --output-format json", server.address);
        let json = loadgen(&flags).expect(code).json();
        assert!(server.fired() > 0, "{fault:?}");
        assert_valid(&schema, &json);
        assert_eq!(json["exit_code"], code);
    }
}

#[test]
fn the_schema_finds_what_is_wrong() {
    let schema = schema("summary");
    let good = loadgen("-c 2 -n 10 --output-format json").expect(0).json();
    assert_valid(&schema, &good);
    let wrong: [fn(&mut Value); 5] = [
        |json| json["elapsed_ns"] = "1s".into(),
        |json| json["latency"]["p99_ns"] = 1.5.into(),
        |json| json["verdict"] = "fine".into(),
        |json| json["unknown"] = 1.into(),
        |json| drop(json.as_object_mut().expect("an object").remove("replies")),
    ];
    for (nth, change) in wrong.into_iter().enumerate() {
        let mut json = good.clone();
        change(&mut json);
        assert!(!schema.is_valid(&json), "change {nth} was not found");
    }
}

/// Whatever is written to a name that ends in `.gz`, at once or row by row.
#[test]
fn files_are_packed_by_their_names_and_read_in_any_case() {
    let names = ["run.json.gz", "rows.ndjson.gz", "log.hlog.gz", "page.html.gz", "later.html.gz"];
    let files = names.map(TestFile::new);
    let [run, rows, log, page, later] = &files;
    let flags = format!("-c 3 -d 1200ms --hdr-log {log} --html {page}");
    loadgen(&format!("{flags} --output-format json -o {run}")).expect(0);
    loadgen(&format!("-c 3 -d 1200ms --output-format ndjson -o {rows}")).expect(0);
    loadgen(&format!("report {run} -o {later}")).expect(0);
    let unpacked = |file: &TestFile| {
        let ended = Command::new("gzip").args(["-cd", &file.to_string()]).output();
        let ended = ended.expect("gzip is there");
        assert!(ended.status.success(), "{ended:?}");
        String::from_utf8(ended.stdout).expect("text")
    };
    let json: Value = serde_json::from_str(&unpacked(run)).expect("JSON");
    assert_valid(&schema("summary"), &json);
    assert!(unpacked(rows).lines().count() >= 3, "two seconds and the run");
    assert!(unpacked(log).starts_with("#[Logged with loadgen"));
    assert!(unpacked(page) == unpacked(later) && unpacked(page).contains("</html>"));
    loadgen(&format!("compare {run} {rows}")).expect(0).says("Requests/sec");
    let merged = loadgen(&format!("merge {run} {rows}")).expect(0).json();
    assert_eq!(merged["runs"], 2);
}

#[test]
fn the_histogram_of_a_run_has_the_percentiles_that_the_report_has() {
    let hgrm = TestFile::new("percentiles.hgrm");
    // A prime, so that no percentile falls between two values, where definitions may differ.
    let flags = format!("-c 5 -n 4999 --output-format json --hgrm {hgrm}");
    let json = loadgen(&flags).expect(0).json();
    let latency = &json["latency"];
    let values = decode(&latency["histogram_v2_deflate_base64"]);
    assert_eq!((values.len(), count(&latency["count"])), (4_999, 4_999));
    let keys = [("p50", 50.0), ("p75", 75.0), ("p90", 90.0), ("p99", 99.0), ("p99_9", 99.9)];
    for (key, percentile) in keys {
        let expected = values.value_at_percentile(percentile);
        assert_eq!(count(&latency[format!("{key}_ns")]), expected, "{key}");
    }
    assert_eq!(count(&latency["max_ns"]), values.max());

    let text = hgrm.read();
    let shown = |quantile: &str| {
        let line = text.lines().find(|line| line.split_whitespace().nth(1) == Some(quantile));
        let value = line.and_then(|line| line.split_whitespace().next()).expect(quantile);
        value.to_string()
    };
    let millis = |percentile| format!("{:.3}", values.value_at_percentile(percentile) as f64 / 1e6);
    assert_eq!(shown("0.500000000000"), millis(50.0));
    assert_eq!(shown("0.900000000000"), millis(90.0));
    assert_eq!(shown("1.000000000000"), millis(100.0));
    assert!(text.contains("Total count    =         4999]"), "{text}");
}

/// The release of the kernel.
fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a file").trim().into()
}

#[test]
fn ndjson_has_an_object_each_second_and_the_summary_at_the_end() {
    let ended = loadgen("-c 5 -t 1 -d 2200ms --output-format ndjson").expect(0);
    let objects = lines(&ended);
    assert_eq!(objects[0]["send_lag"]["p50_ns"], Value::Null, "a closed loop has none");
    let (summary, seconds) = objects.split_last().expect("there are some");
    assert_valid(&schema("summary"), summary);
    let schema = schema("second");
    seconds.iter().for_each(|second| assert_valid(&schema, second));
    assert_eq!(summary["type"], "summary");
    let mut intervals = summary["intervals"].as_array().expect("a list").clone();
    for interval in &mut intervals {
        let interval = interval.as_object_mut().expect("an object");
        let text = interval.remove("latency_histogram_v2_deflate_base64").expect("a histogram");
        let values = decode(&text);
        assert_eq!(interval["latency"]["count"], values.len(), "{interval:?}");
    }
    assert_eq!(intervals, seconds);
    let words = "-c 5 -t 1 -d 2200ms --output-format ndjson".split(' ');
    assert!(words.eq(summary["command"].as_array().expect("words").iter().skip(1)));
    assert_eq!(summary["machine"]["kernel"], release());
    assert!(seconds.iter().all(|second| second["type"] == "second"), "{seconds:?}");
    let numbers: Vec<_> = seconds.iter().map(|second| count(&second["second"])).collect();
    assert_eq!(numbers, (1..=seconds.len() as u64).collect::<Vec<_>>());
    let lengths: Vec<_> = seconds.iter().map(|second| count(&second["length_ns"])).collect();
    assert_eq!(lengths[..3], [1_000_000_000, 1_000_000_000, 200_000_000]);
    assert_eq!(lengths.iter().sum::<u64>(), count(&summary["elapsed_ns"]));
    for key in ["replies", "replies_late", "bytes_read"] {
        let sum: u64 = seconds.iter().map(|second| count(&second[key])).sum();
        assert_eq!(sum, count(&summary[key]), "{key}");
    }
    let values: u64 = seconds.iter().map(|second| count(&second["latency"]["count"])).sum();
    assert_eq!(values, count(&summary["latency"]["count"]));
    // Checked every 20 ms. At the end of the run they are being closed.
    assert!(seconds[..2].iter().all(|second| second["connections_open"] == 5), "{seconds:?}");
    assert!(seconds[2..].iter().all(|second| count(&second["connections_open"]) <= 5));
}

/// How well the schedule is kept depends on the machine, so the exit code may be 4.
#[test]
fn rows_of_an_open_loop_have_the_send_lags_of_their_second() {
    let server = EchoServer::start(Fault::None);
    let flags = format!("{} -c 5 -R 500 -d 2200ms", server.address);
    let objects = lines(&loadgen(&format!("{flags} --output-format ndjson")));
    let (summary, seconds) = objects.split_last().expect("there are some");
    let described = schema("second");
    seconds.iter().for_each(|second| assert_valid(&described, second));
    let sum: u64 = seconds.iter().map(|second| count(&second["send_lag"]["count"])).sum();
    // A busy machine may not have sent everything that was due.
    let sent = 1_100 - count(&summary["requests_never_sent"]);
    assert_eq!(count(&summary["requests_offered"]), 1_100);
    assert_eq!((sum, count(&summary["send_lag"]["count"])), (sent, sent));
    let largest = seconds.iter().filter_map(|second| second["send_lag"]["max_ns"].as_u64()).max();
    assert_eq!(largest, summary["send_lag"]["max_ns"].as_u64());
    let csv = loadgen(&format!("{flags} --output-format csv")).stdout;
    let mut rows = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = rows.next().expect("a header");
    let column = header.iter().position(|name| *name == "send_lag_p99_ns").expect("a column");
    // Empty if nothing was sent in a second.
    let lags = rows.filter_map(|row| (!row[column].is_empty()).then(|| row[column].to_string()));
    let lags: Vec<u64> = lags.map(|lag| lag.parse().expect("a time")).collect();
    assert!(lags.iter().any(|lag| *lag > 0), "{lags:?}");
}

#[test]
fn the_summary_of_ndjson_has_the_keys_of_json() {
    let keys = |value: &Value| -> Vec<String> {
        value.as_object().expect("an object").keys().cloned().collect()
    };
    let json = loadgen("-c 2 -n 10 --output-format json").expect(0).json();
    let objects = lines(&loadgen("-c 2 -n 10 --output-format ndjson").expect(0));
    assert_eq!(keys(objects.last().expect("a summary")), keys(&json));
}

#[test]
fn csv_has_a_header_and_a_row_each_second() {
    let server = EchoServer::start(Fault::None);
    let ended = loadgen(&format!("{} -c 3 -n 3k --output-format csv", server.address)).expect(0);
    let mut rows = ended.stdout.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = rows.next().expect("a header");
    assert_eq!(header[..4], ["second", "start_ns", "length_ns", "replies"]);
    let replies = header.iter().position(|name| *name == "replies").expect("a column");
    let mut sum = 0;
    for row in rows {
        assert_eq!(row.len(), header.len(), "{row:?}");
        sum += row[replies].parse::<u64>().expect("a count");
    }
    assert_eq!(sum, 3_000);
}

#[test]
fn csv_has_its_header_even_if_nothing_was_measured() {
    let server = EchoServer::start(Fault::None);
    let flags = format!("{} -c 3 -w 10m --output-format csv", server.address);
    let run = start(program(&flags));
    until("it warms up", || (server.bytes() > 0).then_some(()));
    run.signal(Signal::INT);
    let ended = run.wait().expect(130);
    assert!(ended.stdout.starts_with("second,start_ns,"), "{}", ended.stdout);
    assert_eq!(ended.stdout.lines().count(), 1);
}

#[test]
fn a_run_that_cannot_connect_leaves_the_earlier_results() {
    let server = EchoServer::start_at(own_port(), Fault::None);
    server.die();
    let files = ["report", "log", "distribution"].map(TestFile::new);
    let [report, log, distribution] = &files;
    for form in ["text", "json", "ndjson", "csv"] {
        files.iter().for_each(|file| std::fs::write(&file.0, "earlier").expect("written"));
        let flags = format!("-o {report} --hdr-log {log} --hgrm {distribution}");
        let run = format!("{} -c 2 -d 1s --output-format {form} {flags}", server.address);
        loadgen(&run).expect(1).complains("no connection to");
        assert!(files.iter().all(|file| file.read() == "earlier"), "{form}");
    }
}

#[test]
fn a_file_is_replaced_and_not_overwritten() {
    let file = TestFile::new("replaced.json");
    std::fs::write(&file.0, "earlier").expect("written");
    let earlier = std::fs::File::open(&file.0).expect("open");
    loadgen(&format!("-c 2 -n 10 --output-format json -o {file}")).expect(0);
    assert!(file.read().starts_with("{\n"), "{}", file.read());
    assert_eq!(std::io::read_to_string(earlier).expect("text"), "earlier");
}

#[test]
fn rows_are_in_their_file_when_the_program_is_killed() {
    let file = TestFile::new("killed.csv");
    let flags = format!("-c 2 -d 10m --output-format csv -o {file}");
    let mut run = start(program(&flags));
    until("a row is written", || (file.read_if_there().lines().count() >= 2).then_some(()));
    run.child.kill().expect("it runs");
    run.wait();
    assert!(file.read().starts_with("second,start_ns,") && file.read().contains("\n1,0,"));
}

#[test]
fn a_hyphen_is_stdout() {
    let ended = loadgen("-c 2 -n 10 --output-format json -o -").expect(0);
    assert_eq!(ended.json()["replies"], 10);
    let file = TestFile::new("beside-stdout.json");
    let flags = format!("-c 2 -n 10 --output-format json -o {file}");
    loadgen(&format!("{flags} --hgrm -")).expect(0).says("Total count    =           10]");
    loadgen(&format!("{flags} --hdr-log -")).expect(0).says("#[Histogram log format version");
    loadgen("-c 2 -n 10 --hgrm -").expect(2).complains("both go to stdout");
    assert!(!std::path::Path::new("-").exists());
}

#[test]
fn two_outputs_to_one_file_are_refused_however_they_are_spelled() {
    let (file, link) = (TestFile::new("one"), TestFile::new("another"));
    std::fs::write(&file.0, "earlier").expect("written");
    std::os::unix::fs::symlink(&file.0, &link.0).expect("a link");
    let name = file.0.file_name().expect("a name").display();
    let directory = file.0.parent().expect("a directory").display();
    for other in [file.to_string(), format!("{directory}/./{name}"), link.to_string()] {
        loadgen(&format!("-c 2 -n 10 -o {file} --hgrm {other}")).expect(2).complains("same file");
        assert_eq!(file.read(), "earlier");
    }
}

/// Where nobody reads the verdict in the report.
#[test]
fn an_exit_code_has_a_word_on_stderr() {
    let file = TestFile::new("verdict.txt");
    for flags in
        ["--output-format json".into(), "--output-format ndjson".into(), format!("-o {file}")]
    {
        let server = EchoServer::start(Fault::Close { connection: 0, offset: 10 });
        let ended = loadgen(&format!("{} -c 2 -d 300ms {flags}", server.address)).expect(4);
        ended.complains("loadgen: connections-lost (");
    }
    let server = EchoServer::start(Fault::Close { connection: 0, offset: 10 });
    let ended = loadgen(&format!("{} -c 2 -d 300ms", server.address)).expect(4);
    assert!(!ended.stderr.contains("connections-lost"), "the report says it: {}", ended.stderr);
}

#[test]
fn quiet_is_quiet_and_the_exit_code_tells() {
    let ended = loadgen("-c 2 -n 100 --output-format quiet").expect(0);
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", ""));
    let file = TestFile::new("quiet");
    loadgen(&format!("-c 2 -n 100 --output-format quiet -o {file}")).expect(0);
    assert!(!file.0.exists());
    let ended = loadgen("-c 2 -n 100 --output-format quiet --slo max<1ns").expect(99);
    assert_eq!(ended.stdout, "");
    ended.complains("loadgen: valid (").complains("max<1ns missed (");
}

/// The content of an interval log: its start, the start and length of each interval in
/// milliseconds, and the sum of all histograms.
struct Log {
    began_ms: u128,
    intervals: Vec<(u128, u128)>,
    sum: Histogram<u64>,
}

fn read_log(text: &str, like: &Histogram<u64>) -> Log {
    let mut log = Log { began_ms: 0, intervals: Vec::new(), sum: Histogram::new_from(like) };
    for entry in IntervalLogIterator::new(text.as_bytes()) {
        match entry.expect("it can be read") {
            LogEntry::StartTime(time) => log.began_ms = time.as_millis(),
            LogEntry::BaseTime(time) => assert_eq!(time.as_millis(), log.began_ms),
            LogEntry::Interval(interval) => {
                let (start, length) = (interval.start_timestamp(), interval.duration());
                log.intervals.push((start.as_millis(), length.as_millis()));
                let values = decode(&interval.encoded_histogram().into());
                log.sum.add(&values).expect("the bounds are equal");
            }
        }
    }
    log
}

#[test]
fn the_interval_log_adds_up_to_the_run() {
    let file = TestFile::new("run.hlog");
    let flags = format!("-c 5 -d 2200ms --output-format json --hdr-log {file}");
    let json = loadgen(&flags).expect(0).json();
    let text = file.read();
    assert!(text.starts_with("#[Logged with loadgen "), "{text}");
    assert!(text.contains("#[Histogram log format version 1.3]\n#[StartTime: "), "{text}");
    let whole = decode(&json["latency"]["histogram_v2_deflate_base64"]);
    let log = read_log(&text, &whole);
    assert_eq!(log.sum, whole);
    assert_eq!(whole.len(), count(&json["replies"]) + count(&json["replies_late"]));
    assert_eq!(log.intervals[..3], [(0, 1000), (1000, 1000), (2000, 200)]);
    let unix_ms = u128::from(count(&json["began_unix_ns"]) / 1_000_000);
    assert!(log.began_ms.abs_diff(unix_ms) <= 1, "only rounded off");
}

/// Requests that are completed, given up, and never sent, and some before the measured period. The
/// time-out is so long that those due after the stall find no other connection before the end.
#[test]
fn the_interval_log_of_an_overloaded_open_loop_adds_up_too() {
    let file = TestFile::new("overload.hlog");
    let server = EchoServer::start(Fault::Stall { connection: 0, offset: 64 * 700 });
    let flags = format!("{} -c 1 -R 2k -w 300ms -d 1200ms --timeout 2s", server.address);
    let json = loadgen(&format!("{flags} --output-format json --hdr-log {file}")).expect(4).json();
    assert!(server.fired() > 0);
    for what in ["warmup", "completed", "timed_out", "never_sent"] {
        assert!(count(&json[format!("requests_{what}")]) > 0, "{what} in {json}");
    }
    let whole = decode(&json["latency"]["histogram_v2_deflate_base64"]);
    assert_eq!(whole.len(), count(&json["requests_offered"]));
    assert_eq!(read_log(&file.read(), &whole).sum, whole);
}

#[test]
fn objectives_decide_the_exit_code_and_are_shown() {
    let flags = "-c 2 -n 500 --slo p99<1h --slo errors<1";
    loadgen(flags).expect(0).says("\nSLO: p99<1h met (").says("\nSLO: errors<1 met (0)\n");
    let ended = loadgen(&format!("{flags} --slo p50<1ns --slo rate>1000m")).expect(99);
    ended.says("\nSLO: p99<1h met (").says("\nSLO: p50<1ns missed (");
    ended.says("\nSLO: rate>1000m missed (").says("\nVerdict: valid: ");
    let json = loadgen("-c 2 -n 500 --slo max<=1ns --output-format json").expect(99).json();
    let objective = &json["objectives"][0];
    assert_eq!((&objective["objective"], &objective["met"]), (&"max<=1ns".into(), &false.into()));
    assert_eq!(objective["limit_ns"], 1);
    assert_eq!(objective["measured_ns"], json["latency"]["max_ns"]);
    loadgen("--slo p99=1ms").expect(2).complains("p99<2ms");
    loadgen("--slo p99<1").expect(2).complains("unit");
}

#[test]
fn a_run_is_aborted_at_the_first_second_that_misses_an_objective() {
    let flags = "-c 2 -d 10m --abort-on-fail --slo p50<1ns";
    let ended = loadgen(&format!("{flags} --output-format json")).expect(99);
    let json = ended.json();
    assert_valid(&schema("summary"), &json);
    assert_eq!(json["interrupted"], false);
    let aborted = json["aborted"].as_str().expect("a reason");
    assert!(aborted.starts_with("second 1: p50<1ns missed ("), "{aborted}");
    assert!(u128::from(count(&json["elapsed_ns"])) < GUARD.as_nanos());
    let flags = "-c 2 -d 10m --abort-on-fail --slo rate>1000m";
    loadgen(flags).expect(99).says(": aborted: second 1: rate>1000m missed (");
}

#[test]
fn a_run_is_aborted_at_the_first_error() {
    for (fault, code, verdict) in [
        (Fault::Corrupt { connection: 1, offset: 1_000 }, 3, "echo-differed"),
        (Fault::Reset { connection: 1, offset: 1_000 }, 4, "connections-lost"),
    ] {
        let server = EchoServer::start(fault);
        let flags = format!("{} -c 3 -d 10m --abort-on-fail", server.address);
        let json = loadgen(&format!("{flags} --output-format json")).expect(code).json();
        assert!(server.fired() > 0);
        assert_eq!(json["verdict"], verdict);
        assert_eq!(json["aborted"], "one connection failed, was lost or differed");
    }
}

#[test]
fn an_interrupted_run_writes_all_it_has() {
    let (log, hgrm) = (TestFile::new("interrupted.hlog"), TestFile::new("interrupted.hgrm"));
    let server = EchoServer::start(Fault::None);
    let flags = format!("-c 3 -d 10m --output-format ndjson --hdr-log {log} --hgrm {hgrm}");
    let run = start(program(&format!("{} {flags}", server.address)));
    until("a second is over", || {
        let text = std::fs::read_to_string(&log.0).unwrap_or_default();
        text.lines().any(|line| line.starts_with("0.000,1.000,")).then_some(())
    });
    run.signal(Signal::INT);
    let ended = run.wait().expect(130);
    ended.complains("measuring: 1.0s of 600s, 3 of 3 connections, ");
    let objects = lines(&ended);
    let summary = objects.last().expect("a summary");
    assert_eq!((&summary["type"], &summary["interrupted"]), (&"summary".into(), &true.into()));
    let count_of = |of: &str| count(&summary["latency"][of]);
    let logged = IntervalLogIterator::new(log.read().as_bytes())
        .filter(|entry| matches!(entry, Ok(LogEntry::Interval(_))))
        .count();
    assert_eq!(logged, objects.len() - 1);
    assert!(hgrm.read().contains(&format!("Total count    = {:>12}]", count_of("count"))));
}

#[test]
fn outputs_that_cannot_be_written_fail_before_the_run() {
    for flag in ["--hdr-log", "--hgrm"] {
        let ended = loadgen(&format!("{flag} /no/such/directory/file")).expect(1);
        ended.complains("cannot write to /no/such/directory/file");
    }
    loadgen("-o same --hdr-log same").expect(2).complains("the same file");
}

#[test]
fn a_stderr_that_cannot_be_written_to_spoils_no_run() {
    let server = EchoServer::start(Fault::None);
    let full = || std::fs::File::options().write(true).open("/dev/full").expect("it is there");
    let code = |flags: &str| {
        let mut command = program(&format!("{} {flags}", server.address));
        command.stderr(full()).output().expect("it ends").status.code()
    };
    assert_eq!(code("-c 2 -n 10"), Some(0));
    assert_eq!(code("-c 2 -d 1100ms --progress lines --output-format csv"), Some(0));
    assert_eq!(code("-c 2 -n 10 --hgrm /"), Some(1), "no report can be made, which has a code");
}

#[test]
fn a_full_disk_is_a_failure_that_says_so() {
    for flags in ["--output-format json -o", "--output-format ndjson -o", "--hgrm", "--hdr-log"] {
        let ended = loadgen(&format!("-c 2 -n 10 {flags} /dev/full")).expect(1);
        ended.complains("cannot write to /dev/full: ");
    }
}

#[test]
fn two_runs_are_compared_side_by_side() {
    let (first, second) = (TestFile::new("first.json"), TestFile::new("second.json"));
    let json = loadgen(&format!("-c 2 -n 300 --output-format json -o {first}")).expect(0);
    assert_eq!(json.stdout, "");
    loadgen(&format!("-c 2 -n 300 -l 1k --output-format ndjson -o {second}")).expect(0);
    let ended = loadgen(&format!("compare {first} {second}")).expect(0);
    ended.says("Requests/sec ").says("Latency p99.9 ").says("Replies                      300");
    ended.says("Settings differ: size_bytes (64 and 1024), sizes ");
    let same = loadgen(&format!("compare {first} {first}")).expect(0);
    let p50 = same.stdout.lines().find(|line| line.starts_with("Latency p50 ")).expect("a line");
    assert!(p50.ends_with(" 1.000"), "{p50}");
    assert!(!same.stdout.contains("Settings differ"), "{}", same.stdout);
    loadgen(&format!("compare {first} /no/such/file")).expect(1).complains("cannot read /no/such");
    loadgen(&format!("compare {first}")).expect(2).complains("give two files, or those to");
}

/// How well a schedule is kept depends on the machine, so the exit codes may be 4.
#[test]
fn runs_with_the_same_settings_are_merged() {
    let files = ["a", "b", "c"].map(|name| TestFile::new(&format!("merge-{name}.json")));
    for (file, flags) in files.iter().zip(["-R 1k", "-R 1k", "-R 1k -p 2"]) {
        loadgen(&format!("-c 2 -n 300 {flags} --output-format json -o {file}"));
    }
    let merged = loadgen(&format!("merge {} {}", files[0], files[1])).json();
    assert_valid(&schema("merged"), &merged);
    let parts = [0, 1].map(|nth| serde_json::from_str::<Value>(&files[nth].read()).expect("JSON"));
    for key in ["latency", "service_time", "send_lag", "own_lag", "connect_latency"] {
        let encoded = |object: &Value| decode(&object[key]["histogram_v2_deflate_base64"]);
        let mut sum = encoded(&parts[0]);
        assert!(!sum.is_empty(), "{key}");
        sum.add(encoded(&parts[1])).expect("the bounds are equal");
        assert_eq!(encoded(&merged), sum, "{key}");
        assert_eq!(count(&merged[key]["count"]), sum.len(), "{key}");
    }
    assert_eq!((count(&merged["runs"]), count(&merged["requests_offered"])), (2, 600));
    let ended = loadgen(&format!("merge {} {}", files[0], files[2])).expect(1);
    ended.complains("are not the same run: pipeline (1 and 2)");
    loadgen(&format!("merge {}", files[0])).expect(2);
}

#[test]
fn runs_of_different_services_are_neither_merged_nor_compared_unless_asked() {
    let files: Vec<_> = (1..=4).map(|nth| TestFile::new(&format!("service-{nth}.json"))).collect();
    let runs = ["", "delay://?fixed=1ms", "hub:// --senders 1", "hub:// --senders 2"];
    for (file, flags) in files.iter().zip(runs) {
        loadgen(&format!("{flags} -c 5 -t 1 -n 50 --output-format json -o {file}")).expect(0);
    }
    let differing = [
        (0, 1, "service (\"tcp://\" and \"delay://?fixed=1ms\")"),
        (2, 3, "hub ({\"allow_drops\":false,\"never_read\":0,\"senders\":1} and "),
    ];
    for (first, second, why) in differing {
        let both = format!("{} {}", files[first], files[second]);
        let merged = loadgen(&format!("merge {both}")).expect(1);
        merged.complains("are not the same run: ").complains(why);
        let compared = loadgen(&format!("compare {both}")).expect(1);
        compared.complains("are not of the same kind: ").complains(why);
        assert_eq!((merged.stdout.as_str(), compared.stdout.as_str()), ("", ""));
        loadgen(&format!("compare --anyway {both}")).expect(0).says("Settings differ: ").says(why);
    }
}

/// A file of JSON results: of a run with these flags.
fn json_file(name: &str, flags: &str) -> TestFile {
    let file = TestFile::new(name);
    // How well a schedule is kept depends on the machine, so the exit code may be 4.
    loadgen(&format!("{flags} --output-format json -o {file}"));
    file
}

/// The rows of a table of `loadgen report --to csv`, without the file.
fn table_rows(text: &str, table: &str) -> Vec<(String, String, String)> {
    let row = |line: &str| {
        let columns: Vec<_> = line.split(',').collect();
        let [_, name, x, quantity, value] = columns[..] else { panic!("{line}") };
        (name == table).then(|| (x.into(), quantity.into(), value.into()))
    };
    text.lines().skip(1).filter_map(row).collect()
}

#[test]
fn a_saved_result_has_the_forms_that_the_run_could_have_written() {
    let hgrm = TestFile::new("at-once.hgrm");
    let hlog = TestFile::new("at-once.hlog");
    let flags = format!("-c 3 -d 1200ms -R 500 --hgrm {hgrm} --hdr-log {hlog}");
    let json = json_file("report.json", &flags);
    assert_eq!(loadgen(&format!("report {json} --to hgrm")).expect(0).stdout, hgrm.read());
    assert_eq!(loadgen(&format!("report {json} --to hlog")).expect(0).stdout, hlog.read());
    let later = TestFile::new("later.hgrm");
    loadgen(&format!("report {json} -o {later}")).expect(0);
    assert_eq!(later.read(), hgrm.read());

    let csv = loadgen(&format!("report {json} --to csv")).expect(0).stdout;
    let summary: Value = serde_json::from_str(&json.read()).expect("JSON");
    let has = |table: &str, x: &str, quantity: &str, value: &Value| {
        let row = (x.to_string(), quantity.to_string(), value.to_string());
        assert!(table_rows(&csv, table).contains(&row), "no {row:?} in\n{csv}");
    };
    has("percentiles", "50", "latency_ns", &summary["latency"]["p50_ns"]);
    has("percentiles", "90", "service_time_ns", &summary["service_time"]["p90_ns"]);
    has("percentiles", "100", "send_lag_ns", &summary["send_lag"]["max_ns"]);
    let intervals = summary["intervals"].as_array().expect("rows");
    assert!(intervals.len() >= 2, "{intervals:?}");
    for second in intervals {
        let start = second["start_ns"].to_string();
        has("seconds", &start, "replies", &second["replies"]);
        has("seconds", &start, "latency_p99_ns", &second["latency"]["p99_ns"]);
    }
}

#[test]
fn merged_results_and_searches_are_shown_too() {
    let [one, two] = ["one", "two"].map(|name| json_file(name, "-c 2 -n 100 --seed 5"));
    let merged = TestFile::new("merged.json");
    let sum = loadgen(&format!("merge {one} {two}")).expect(0);
    std::fs::write(&merged.0, &sum.stdout).expect("written");
    let text = loadgen(&format!("report {merged} --to hgrm")).expect(0).stdout;
    assert!(text.contains("Total count    =          200]"), "{text}");
    let ended = loadgen(&format!("report {merged} --to hlog")).expect(1);
    ended.complains("it has no seconds: give the file of one run");

    let page = TestFile::new("merged.html");
    loadgen(&format!("merge {one} {two} --html {page}")).expect(0);
    let later = TestFile::new("merged-later.html");
    loadgen(&format!("report {merged} -o {later}")).expect(0);
    // The title has the name of the file.
    let [page, later] =
        [&page, &later].map(|page| page.read().replace(&format!(" ({merged})"), ""));
    assert!(page.starts_with("<!DOCTYPE html>") && page == later);
    loadgen(&format!("merge {one} {two} --html {one}")).expect(2).complains("give two names");
    loadgen(&format!("merge {one} {two} --html -")).expect(2).complains("both go to stdout");

    let search = TestFile::new("search.json");
    // Each request waits this long, so the search is short.
    let server = EchoServer::start(Fault::Slow { wait: Duration::from_millis(5) });
    let flags = format!("{} -c 1 -R 50 -d 300ms -w 1ms --search p99:1s", server.address);
    loadgen(&format!("{flags} --output-format json -o {search}"));
    let text = loadgen(&format!("report {search} {one} --to csv")).expect(0).stdout;
    assert!(text.contains(&format!("{one},percentiles,50,latency_ns,")), "{text}");
    let json: Value = serde_json::from_str(&search.read()).expect("JSON");
    for step in json["steps"].as_array().expect("runs") {
        let (rate, p99) =
            (step["rate_per_second"].to_string(), step["latency"]["p99_ns"].to_string());
        let row = (rate, "latency_p99_ns".into(), p99);
        assert!(table_rows(&text, "steps").contains(&row), "no {row:?} in\n{text}");
    }
}

/// With a page written at the end of the run, and the same one made from its JSON.
#[test]
fn the_page_of_a_run_is_that_of_its_file() {
    let server = EchoServer::start(Fault::Slow { wait: Duration::from_millis(5) });
    for (nth, flags) in [
        "-c 3 -d 1200ms -R 500 --slo p99<10s".to_string(),
        "hub:// -c 5 -n 50".to_string(),
        format!("{} -c 1 -R 50 -d 300ms -w 1ms --search p99:1s", server.address),
    ]
    .into_iter()
    .enumerate()
    {
        let [page, later] =
            ["page", "later"].map(|name| TestFile::new(&format!("{nth}-{name}.html")));
        let json = json_file(&format!("{nth}.json"), &format!("{flags} --html {page}"));
        loadgen(&format!("report {json} -o {later}")).expect(0);
        assert!(page.read().starts_with("<!DOCTYPE html>"), "{flags}");
        assert!(page.read() == later.read(), "{flags}");
        let command = format!("--html {page}");
        assert!(page.read().contains(&command), "the command is there: {flags}");
    }
    for flags in ["-o a --html a", "--html a -o a --search p99:1s", "--html -"] {
        loadgen(&format!("-c 1 -n 1 {flags}")).expect(2);
    }
}

#[test]
fn what_cannot_be_shown_leaves_the_output_as_it_was() {
    let run = json_file("a-run.json", "-c 2 -n 100");
    let other = TestFile::new("other.json");
    std::fs::write(&other.0, "{\"type\":\"summary\",\"schema_version\":7}").expect("written");
    let old = TestFile::new("old.json");
    let key = "\"latency_histogram_v2_deflate_base64\"";
    std::fs::write(&old.0, run.read().replace(key, "\"unknown\"")).expect("written");
    let out = TestFile::new("out.csv");
    std::fs::write(&out.0, "earlier").expect("written");
    for (flags, code, why) in [
        (format!("{run} {other} -o {out}"), 1, "its schema_version is 7, but only 1 is supported"),
        (format!("/no/such/file -o {out}"), 1, "cannot read /no/such/file"),
        (format!("{out} -o {out} --to csv"), 2, "is both input and output: give two names"),
        (format!("{run} {run} -o {out} --to hgrm"), 2, "needs a single result"),
        (format!("{run} {run} -o {out} --to hlog"), 2, "needs a single result"),
        (format!("{old} -o {out} --to hlog"), 1, "it has no histograms of its seconds"),
        (format!("{run} -o {out}.txt"), 2, "give --to, or -o a name with one of the extensions"),
        (String::new(), 2, "Usage: loadgen report"),
    ] {
        loadgen(&format!("report {flags}")).expect(code).complains(why);
        assert_eq!(out.read(), "earlier", "{flags}");
    }
}
