//! A run of several processes: they begin together, do what one process would do, and are added up.

mod common;

use std::time::Duration;

use common::forms::{TestFile, assert_valid, count, schema};
use common::server::{EchoServer, Fault};
use common::{Ended, GUARD, loadgen, own_port, program, start};
use serde_json::Value;

/// Runs the shards of a run at the same time. Returns the file that each has written.
fn run_shards(name: &str, flags: &str, shards: u64) -> Vec<(Ended, TestFile)> {
    let started: Vec<_> = (0..shards)
        .map(|index| {
            let file = TestFile::new(&format!("{name}-{index}.json"));
            let mut command = program(flags);
            command.args(["--output-format", "json", "--progress", "none", "-o"]).arg(&file.0);
            command.arg("--shard").arg(format!("{index}/{shards}"));
            (start(command), file)
        })
        .collect();
    started.into_iter().map(|(run, file)| (run.wait(), file)).collect()
}

fn merge(parts: &[(Ended, TestFile)]) -> Ended {
    let mut command = program("merge");
    command.args(parts.iter().map(|(_, file)| &file.0));
    start(command).wait()
}

#[test]
fn shards_that_meet_at_a_barrier_are_one_run() {
    let server = EchoServer::start(Fault::None);
    let port = own_port();
    let flags = format!(
        "{} -c 10 -t 1 -n 1003 --barrier 127.0.0.1:{port} --slo p99<1h --slo errors<1",
        server.address
    );
    let parts = run_shards("barrier", &flags, 3);
    for (index, (ended, file)) in parts.iter().enumerate() {
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let run: Value = serde_json::from_str(&file.read()).expect("JSON");
        assert_valid(&schema("summary"), &run);
        assert_eq!(run["config"]["shard"], serde_json::json!({"index": index, "count": 3}));
        assert_eq!(
            (&run["config"]["connections"], &run["config"]["seed"]),
            (&10.into(), &1.into())
        );
        assert_eq!(run["connections"]["asked"], [3, 3, 4][index]);
        assert_eq!(run["requests_offered"], [334, 334, 335][index]);
        let clock = &run["clock"];
        let ahead = clock["ahead_ns"].as_i64().expect("compared").unsigned_abs();
        assert!(ahead <= count(&clock["error_max_ns"]) + 1_000, "it is one clock: {clock}");
    }
    let merged = merge(&parts).expect(0).json();
    assert_valid(&schema("merged"), &merged);
    assert_eq!((&merged["requests_offered"], &merged["replies"]), (&1003.into(), &1003.into()));
    assert_eq!(merged["latency"]["count"], 1003);
    assert_eq!(count(&merged["bytes_verified"]), server.bytes(), "what the server has echoed");
    let shards = &merged["shards"];
    assert_eq!((&shards["count"], &shards["missing"]), (&3.into(), &serde_json::json!([])));
    assert!(shards["starts_apart_ns"].is_u64());
    let met: Vec<_> = shards["objectives"].as_array().unwrap().iter().map(|o| &o["met"]).collect();
    assert_eq!((met, &merged["objectives"]), (vec![&Value::from(true); 2], &"met".into()));

    let merged = merge(&parts[..2]).expect(4).json();
    assert_eq!((&merged["verdict"], &merged["exit_code"]), (&"under-connected".into(), &4.into()));
    assert_eq!(merged["shards"]["missing"], serde_json::json!([2]));
}

/// They need no address, and the sum has each of them and the rate of the common time.
#[test]
fn shards_can_meet_by_files_in_a_directory() {
    let server = EchoServer::start(Fault::None);
    let name = format!("loadgen-{}-barrier-files", std::process::id());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir(&directory).expect("a new directory");
    let flags =
        format!("{} -c 4 -t 1 -R 1k -d 1s --barrier {}", server.address, directory.display());
    let parts = run_shards("barrier-files", &flags, 2);
    let left = std::fs::read_dir(&directory).expect("it is there").count();
    std::fs::remove_dir_all(&directory).expect("it is ours");
    assert_eq!(left, 0, "files are left");
    // The generator may be late on a busy machine.
    assert!(parts.iter().all(|(ended, _)| [Some(0), Some(4)].contains(&ended.code)));
    let merged = merge(&parts).json();
    assert_valid(&schema("merged"), &merged);
    let shards = &merged["shards"];
    let starts_apart = count(&shards["starts_apart_ns"]);
    assert_eq!(count(&shards["together_ns"]) + starts_apart, 1_000_000_000, "{shards}");
    let each = shards["each"].as_array().expect("a list");
    assert_eq!([0, 1].map(|nth| each[nth]["index"].clone()), [0, 1].map(Value::from));
    let replies: u64 = each.iter().map(|shard| count(&shard["replies"])).sum();
    assert_eq!(merged["replies"], replies);
    // The start of each is the same, so each second counts, and what came after it.
    if starts_apart < 100_000_000 {
        assert_eq!(shards["latency_together"]["count"], merged["latency"]["count"], "{shards}");
    }
    let rate = shards["requests_per_second_together"].as_f64().expect("they ran together");
    assert!(rate > 0.0 && rate < 2_000.0, "{shards}");
}

/// The others fail too, and say why.
#[test]
fn a_shard_that_does_not_come_fails_the_run_and_is_named() {
    let server = EchoServer::start(Fault::None);
    let port = own_port();
    let flags =
        format!("{} -c 3 -t 1 --barrier 127.0.0.1:{port} --barrier-timeout 15s", server.address);
    let parts = ["0/3", "1/3"].map(|shard| start(program(&format!("{flags} --shard {shard}"))));
    let [first, second] = parts.map(|run| run.wait().expect(1));
    first.complains("of 3 shards these did not arrive at the barrier");
    first.complains("within 15s: 2 (--barrier-timeout)");
    second.complains("shard 1/3: ");
}

#[test]
fn launchers_are_understood_and_said() {
    let server = EchoServer::start(Fault::None);
    let flags = format!("{} -c 4 -t 1 -n 40 --output-format json", server.address);
    let mut command = program(&flags);
    command.env("SLURM_PROCID", "1").env("SLURM_STEP_NUM_TASKS", "4");
    let ended = start(command).wait().expect(0);
    ended.complains("loadgen: shard 1/4 (SLURM_PROCID)");
    assert_eq!(ended.json()["requests_offered"], 10);
    let mut command = program(&format!("{flags} --shard 0/1"));
    command.env("SLURM_PROCID", "1").env("SLURM_STEP_NUM_TASKS", "4");
    assert_eq!(start(command).wait().expect(0).json()["requests_offered"], 40);
    let mut command = program(&flags);
    command.env("PMI_RANK", "4").env("PMI_SIZE", "4");
    start(command)
        .wait()
        .expect(2)
        .complains("PMI_RANK=4 and PMI_SIZE=4 do not determine the shard");
}

#[test]
fn a_run_begins_at_the_time_that_is_given() {
    let server = EchoServer::start(Fault::None);
    let soon = std::time::SystemTime::now() + Duration::from_millis(1_500);
    let at = soon.duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let flags = format!("{} -c 4 -n 40 --output-format json", server.address);
    let ended = loadgen(&format!("{flags} --start-at @{}", at.as_secs_f64())).expect(0);
    let late = count(&ended.json()["began_unix_ns"])
        .checked_sub(at.as_nanos() as u64 / 1_000_000 * 1_000_000);
    assert!(late.is_some_and(|late| u128::from(late) < GUARD.as_nanos()), "{late:?}");
    let ended = loadgen(&format!("{flags} --start-at 2020-01-01T00:00:00Z")).expect(0);
    ended.complains("after the common start");
}
