//! Reading, writing and evaluating calibrations.

use super::*;
use crate::report::tests::plan;

const NOW: Duration = Duration::from_secs(1_800_000_000);

pub fn calibration() -> Calibration {
    let ceiling = |requests_per_second| Ceiling {
        requests_per_second,
        generator_busy_ratio: 0.99,
        generator_waiting_ratio: 0.0,
        sink_cores: Some(1.5),
    };
    Calibration {
        r#type: CalibrationType::Calibration,
        schema_version: SCHEMA_VERSION,
        calibrated_unix_ns: NOW.as_nanos() as u64,
        machine: machine(),
        generator: Generator::this(),
        load: CalibratedLoad::of(&plan("127.0.0.1:7 -c 100")),
        sink_workers: 2,
        load_average: Some(0.25),
        closed_loop: ceiling(200_000.0),
        open_loop: Some(ceiling(50_000.0)),
        floor_latency: FloorLatency { min_ns: 15_000, p50_ns: 20_000, p99_ns: 40_000 },
        bytes_verified: 1 << 30,
    }
}

fn machine() -> MachineName {
    MachineName { hostname: "a".into(), kernel: "6.1".into(), cpu: "some".into(), processors: 4 }
}

fn judge(machine: &MachineName, flags: &str, later: Duration) -> Standing {
    let now = SystemTime::UNIX_EPOCH + NOW + later;
    calibration().judge(machine, &plan(flags), now)
}

#[track_caller]
fn assert_unused(standing: Standing, why: CalibrationUse, says: &str) {
    let Standing::Unused(unused) = standing else { panic!("{standing:?}") };
    assert_eq!(unused.why, why);
    assert!(unused.text.contains(says), "{}", unused.text);
}

/// The ceiling of an echo says nothing about other work.
#[test]
fn other_protocols_and_new_connections_have_another_ceiling() {
    for (flags, says) in [
        ("hub://127.0.0.1:7 -c 100", "and this is hub://"),
        ("framed://127.0.0.1:7", "and this is framed://"),
        ("message://127.0.0.1:7", "and this is message://"),
        ("message://127.0.0.1:7?after=keep", "and this is message://"),
        ("127.0.0.1:7 --lifetime 50", "connections that are replaced"),
        ("127.0.0.1:7 --lifetime 1s -R 10", "connections that are replaced"),
    ] {
        let standing = judge(&machine(), flags, Duration::ZERO);
        assert_eq!(
            standing.text(false, 1.0).map(|text| text.contains(says)),
            Some(true),
            "{flags}"
        );
        assert_unused(standing, CalibrationUse::OtherLoad, says);
    }
    for flags in ["127.0.0.1:7", "delay://127.0.0.1:7?fixed=1ms", "127.0.0.1:7 -R 10 --strict"] {
        let standing = judge(&machine(), flags, Duration::ZERO);
        assert!(matches!(standing, Standing::Used(_)), "{flags}: {standing:?}");
    }
}

#[test]
fn a_run_says_how_much_of_the_ceiling_of_its_loop_it_used() {
    let standing = judge(&machine(), "127.0.0.1:7 -c 5000", Duration::from_secs(3600));
    assert_eq!(
        standing.text(false, 62_000.0).expect("a line"),
        "31 % of this machine's ceiling, calibrated 2027-01-15 (200000/s in the closed loop \
         with 100 connections; floor latency p50 20.00us)"
    );
    let open = standing.text(true, 10_000.0).expect("a line");
    assert!(open.starts_with("20 % of this") && open.contains("(50000/s in the open"), "{open}");
    assert_eq!(Standing::None.text(false, 1.0), None);
}

#[test]
fn what_was_measured_of_another_machine_or_long_ago_is_not_used() {
    let target = "127.0.0.1:7";
    type Change = fn(&mut MachineName);
    let changes: [(Change, &str); 4] = [
        (|machine| machine.hostname = "b".into(), "host a, and not b"),
        (|machine| machine.kernel = "6.2".into(), "kernel 6.1, and not 6.2"),
        (|machine| machine.cpu = "other".into(), "CPU some, and not other"),
        (|machine| machine.processors = 2, "processors 4, and not 2"),
    ];
    for (change, says) in changes {
        let mut other = machine();
        change(&mut other);
        assert_unused(judge(&other, target, Duration::ZERO), CalibrationUse::OtherMachine, says);
    }
    let days = |days: u64| Duration::from_secs(days * 24 * 3600);
    assert!(matches!(judge(&machine(), target, days(30)), Standing::Used(_)));
    assert_unused(
        judge(&machine(), target, days(31)),
        CalibrationUse::TooOld,
        "of 2027-01-15 is older",
    );
    for flags in ["127.0.0.1:7 -p 2", "127.0.0.1:7 -l 65", "127.0.0.1:7 -t 1"] {
        assert_unused(
            judge(&machine(), flags, days(0)),
            CalibrationUse::OtherLoad,
            "is for 2 threads, 64",
        );
    }
    let mut older = calibration();
    older.generator.version = "0.0.1".into();
    let standing = older.judge(&machine(), &plan(target), SystemTime::now());
    assert_unused(standing, CalibrationUse::OtherGenerator, "another build");
}

#[test]
fn what_was_written_is_read_back_and_nothing_else_is() {
    let name = format!("loadgen-calibration-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    let path = directory.join("deep/calibration.json");
    assert_eq!(Calibration::read(&path), Ok(None));
    assert!(calibration().write(&path).is_err(), "no directory is made by the way");
    fs::create_dir_all(path.parent().expect("it has one")).expect("it can be made");
    calibration().write(&path).expect("it can be written");
    assert_eq!(Calibration::read(&path), Ok(Some(calibration())));
    let newer = Calibration { schema_version: 99, ..calibration() };
    newer.write(&path).expect("it is there");
    assert!(Calibration::read(&path).expect_err("another version").contains("is 99"));
    fs::write(&path, "{}").expect("it is there");
    assert!(Calibration::read(&path).is_err());
    fs::remove_dir_all(directory).expect("it was ours");
}

#[test]
fn what_is_no_regular_file_is_written_to_and_not_replaced() {
    let directory = std::env::temp_dir().join(format!("loadgen-link-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a place for files");
    let (link, file) = (directory.join("link"), directory.join("file"));
    fs::write(&file, "").expect("it can be written");
    std::os::unix::fs::symlink(&file, &link).expect("a link");
    calibration().write(&link).expect("it can be written");
    assert!(fs::symlink_metadata(&link).expect("it is there").is_symlink());
    assert_eq!(Calibration::read(&file), Ok(Some(calibration())));
    assert_eq!(fs::read_dir(&directory).expect("a directory").count(), 2, "nothing is left");
    fs::remove_dir_all(&directory).expect("it is ours");
}
