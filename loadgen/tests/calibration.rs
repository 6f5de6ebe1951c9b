//! `loadgen calibrate`: what it writes and where, and how later runs use it. No times are asserted.

mod common;

use common::forms::{TestFile, assert_valid, count, schema};
use common::{loadgen, program, start};
use serde_json::Value;

/// Long enough for each step to have replies; the speed of the machine does not matter.
fn calibrate(file: &TestFile, flags: &str) -> Value {
    let ended = loadgen(&format!("calibrate -d 1s -c 4 -o {file} {flags}")).expect(0);
    ended.says("\nClosed loop: ").says("\nOpen loop: ").says("\nFloor latency: ");
    ended.says(&format!("\nWritten to {file}\n"));
    serde_json::from_str(&file.read()).expect("JSON")
}

#[test]
fn a_calibration_is_written_and_later_runs_say_how_much_of_it_they_used() {
    let file = TestFile::new("calibration.json");
    let [page, later] = ["page", "later"].map(|name| TestFile::new(&format!("{name}.html")));
    let found = calibrate(&file, &format!("-t 2 --html {page}"));
    loadgen(&format!("report {file} -o {later}")).expect(0);
    assert!(page.read() == later.read(), "the page is that of the file");
    loadgen(&format!("calibrate -o {file} --html {file}")).expect(2).complains("the same file");
    assert_valid(&schema("calibration"), &found);
    assert_eq!((&found["load"]["threads"], &found["load"]["connections"]), (&2.into(), &4.into()));
    assert!(count(&found["bytes_verified"]) > 64_000, "{found}");
    let flags = format!("-c 3 -t 2 -n 500 --calibration {file}");
    let json = loadgen(&format!("{flags} --output-format json")).expect(0).json();
    assert_valid(&schema("summary"), &json);
    let ceiling = &json["ceiling"];
    assert_eq!(
        (&ceiling["calibration"], &ceiling["unused_reason"]),
        (&"used".into(), &Value::Null)
    );
    assert_eq!(ceiling["requests_per_second"], found["closed_loop"]["requests_per_second"]);
    assert_eq!(ceiling["calibrated_unix_ns"], found["calibrated_unix_ns"]);
    let number = |value: &Value| value.as_f64().expect("a number");
    let used = number(&json["requests_per_second"]) / number(&ceiling["requests_per_second"]);
    assert!((number(&ceiling["used_ratio"]) - used).abs() < 1e-6, "{ceiling}");
    loadgen(&format!("{flags} --details"))
        .expect(0)
        .says(" % of this machine's ceiling, calibrated 20");
}

#[test]
fn a_calibration_that_is_asked_for_and_is_not_there_is_an_error() {
    let ended = loadgen("-c 2 -n 5 --calibration /no/such/file").expect(1);
    ended.complains("cannot read the calibration /no/such/file: No such file");
    assert_eq!(ended.stdout, "");
}

#[test]
fn a_calibration_that_is_not_for_this_run_is_not_used_and_that_is_said() {
    let file = TestFile::new("calibration-unused.json");
    let found = calibrate(&file, "-t 1");
    type Change = fn(&mut Value);
    let changes: [(&str, Change, &str, &str); 5] = [
        ("", |json| json["machine"]["kernel"] = "0.1".into(), "other-machine", "(kernel 0.1, and"),
        ("", |json| json["machine"]["hostname"] = "x".into(), "other-machine", "(host x, and"),
        ("", |json| json["calibrated_unix_ns"] = 1.into(), "too-old", "of 1970-01-01 is older"),
        ("-p 2", |_| {}, "other-load", "and this is 1 thread, 64 bytes, 2 at a time"),
        ("", |json| *json = "fine".into(), "unreadable", "calibration-unused.json: "),
    ];
    for (flags, change, why, text) in changes {
        let mut changed = found.clone();
        change(&mut changed);
        std::fs::write(&file.0, changed.to_string()).expect("it is ours");
        let flags = format!("-c 2 -t 1 -n 50 --calibration {file} {flags}");
        let json = loadgen(&format!("{flags} --output-format json")).expect(0).json();
        assert_valid(&schema("summary"), &json);
        assert_eq!(
            (&json["ceiling"]["calibration"], &json["ceiling"]["used_ratio"]),
            (&why.into(), &Value::Null)
        );
        let details = loadgen(&format!("{flags} --details")).expect(0);
        details.says("\n  Ceiling: not known: ").says(text);
    }
}

#[test]
fn a_calibration_is_kept_in_the_directory_for_caches() {
    let caches = std::env::temp_dir().join(format!("loadgen-{}-caches", std::process::id()));
    let with = |variable: &str, flags: &str| {
        let mut command = program(flags);
        command.env_remove("XDG_CACHE_HOME").env_remove("HOME").env(variable, &caches);
        start(command).wait()
    };
    with("XDG_CACHE_HOME", "-c 1 -n 1 --output-format json")
        .expect(0)
        .says("\"calibration\": \"none\"");
    for (variable, path) in [("XDG_CACHE_HOME", "echopool"), ("HOME", ".cache/echopool")] {
        let path = caches.join(path).join("calibration.json");
        with(variable, "calibrate -d 500ms -c 2 -t 1").expect(0);
        assert!(path.is_file(), "{}", path.display());
        with(variable, "-c 2 -t 1 -n 10 --details").expect(0).says("\n  Ceiling: ");
    }
    std::fs::remove_dir_all(&caches).expect("it was ours");
    with("NOTHING", "calibrate").expect(2).complains("give a file with --output");
    loadgen("calibrate -d 500ms -c 2 -o /no/such/directory/file")
        .expect(1)
        .complains("cannot write");
    loadgen("calibrate -c 0").expect(2).complains("at least 1");
}
