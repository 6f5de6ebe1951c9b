//! What the generator can do at most on this machine, as `loadgen calibrate` has measured it: the
//! file that keeps it, and whether a run may be held against it. How it is measured is in
//! `calibrate`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::plan::Plan;
use crate::units::time_text;

/// Goes up when a key changes its meaning or is taken away.
pub const SCHEMA_VERSION: u32 = 1;
/// An older one is not believed: by then kernels, settings and neighbours have changed.
const AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Below the directory for caches.
const FILE: &str = "echopool/calibration.json";

/// The ceiling of one machine. docs/loadgen.schema.json describes every key.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Calibration {
    pub r#type: String,
    pub schema_version: u32,
    pub calibrated_unix_ns: u64,
    pub machine: MachineName,
    pub generator: Generator,
    pub load: Load,
    /// Workers of the server that everything came back from.
    pub sink_workers: usize,
    pub load_average: Option<f64>,
    pub closed_loop: Ceiling,
    /// `None` if not even the lowest rate that was tried was kept.
    pub open_loop: Option<Ceiling>,
    pub floor_latency: FloorLatency,
    pub bytes_verified: u64,
}

/// What makes it another machine if it changes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MachineName {
    pub hostname: String,
    pub kernel: String,
    pub cpu: String,
    /// Those that this process may use.
    pub processors: usize,
}

/// The program that was measured.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Generator {
    pub version: String,
    /// Built with optimisation, or without.
    pub optimized: bool,
}

/// The load that it was measured with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Load {
    pub threads: usize,
    pub connections: u64,
    pub sizes: String,
    pub pipeline: u64,
    #[serde(default)]
    pub busy_poll: bool,
}

/// The highest rate of one kind of loop.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Ceiling {
    pub requests_per_second: f64,
    /// Of the busiest thread.
    pub generator_busy_ratio: f64,
    pub generator_waiting_ratio: f64,
    pub sink_cores: Option<f64>,
}

/// One connection, one request at a time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FloorLatency {
    pub min_ns: u64,
    pub p50_ns: u64,
    pub p99_ns: u64,
}

/// What a run can say of the ceiling.
#[derive(Clone, PartialEq, Debug)]
pub enum Standing {
    /// This machine has never been calibrated.
    None,
    /// There is a calibration, which is not for this run.
    Unused(Unused),
    Used(Box<Calibration>),
}

/// Why a calibration is not used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unused {
    /// One word, for machines.
    pub why: &'static str,
    /// For people.
    pub text: String,
}

impl MachineName {
    /// That of the machine that this runs on.
    pub fn read() -> MachineName {
        let name = rustix::system::uname();
        MachineName {
            hostname: name.nodename().to_string_lossy().into_owned(),
            kernel: name.release().to_string_lossy().into_owned(),
            cpu: cpu_model().unwrap_or_else(|| std::env::consts::ARCH.into()),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    /// What differs from another one, by name.
    fn differs(&self, other: &MachineName) -> Option<String> {
        let processors = |machine: &MachineName| machine.processors.to_string();
        let pairs = [
            ("host", self.hostname.clone(), other.hostname.clone()),
            ("kernel", self.kernel.clone(), other.kernel.clone()),
            ("CPU", self.cpu.clone(), other.cpu.clone()),
            ("processors", processors(self), processors(other)),
        ];
        let (name, then, now) = pairs.into_iter().find(|(_, then, now)| then != now)?;
        Some(format!("{name} {then}, and not {now}"))
    }
}

fn cpu_model() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

impl Generator {
    /// This program.
    pub fn this() -> Generator {
        let optimized = !cfg!(debug_assertions);
        Generator { version: env!("CARGO_PKG_VERSION").into(), optimized }
    }
}

impl Load {
    /// That of a run.
    pub fn of(plan: &Plan) -> Load {
        Load {
            threads: plan.threads,
            connections: plan.connections,
            sizes: plan.sizes.to_string(),
            pipeline: plan.pipeline,
            busy_poll: plan.busy_poll,
        }
    }

    /// Whether a rate of one says something of the other. The number of connections matters less
    /// than a machine's mood, and is said beside the figure.
    fn is_like(&self, other: &Load) -> bool {
        Load { connections: other.connections, ..self.clone() } == *other
    }

    fn text(&self) -> String {
        let Load { threads, sizes, pipeline, .. } = self;
        let polling = if self.busy_poll { ", busily polling" } else { "" };
        format!("{threads} threads, {sizes} bytes, {pipeline} at a time{polling}")
    }
}

impl Calibration {
    /// The day, in UTC.
    pub fn day(&self) -> String {
        let timestamp = jiff::Timestamp::from_nanosecond(i128::from(self.calibrated_unix_ns));
        timestamp.map_or("?".into(), |time| time.strftime("%Y-%m-%d").to_string())
    }

    /// The ceiling of the kind of loop.
    pub fn ceiling(&self, open_loop: bool) -> Option<&Ceiling> {
        if open_loop { self.open_loop.as_ref() } else { Some(&self.closed_loop) }
    }

    /// Reads a file; `None` if there is none.
    fn read(path: &Path) -> Result<Option<Calibration>, String> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let read: Calibration = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        match read.schema_version {
            SCHEMA_VERSION => Ok(Some(read)),
            other => Err(format!("its schema_version is {other}; {SCHEMA_VERSION} is understood")),
        }
    }

    /// Writes it to a file, whole or not at all. What is there and no regular file (a link, a pipe, a
    /// device) stays what it is, and is written to.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
            return fs::write(path, text);
        }
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}", std::process::id()));
        let written = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            // It may not be there; the error that is told is the first one.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Whether a run with this load may be held against it.
    fn judge(self, machine: &MachineName, load: &Load, now: SystemTime) -> Standing {
        let again = "run loadgen calibrate again";
        let day = self.day();
        let made = SystemTime::UNIX_EPOCH + Duration::from_nanos(self.calibrated_unix_ns);
        if let Some(differs) = self.machine.differs(machine) {
            let text = format!("the calibration of {day} is of another machine ({differs})");
            return Standing::unused("other-machine", format!("{text}: {again}"));
        }
        if self.generator != Generator::this() {
            let text = format!("the calibration of {day} is of another build of loadgen");
            return Standing::unused("other-generator", format!("{text}: {again}"));
        }
        // One of the future has a clock that was set back behind it.
        if now.duration_since(made).is_ok_and(|age| age > AGE_MAX) {
            let text = format!("the calibration of {day} is older than 30 days");
            return Standing::unused("too-old", format!("{text}: {again}"));
        }
        if !self.load.is_like(load) {
            let (then, now) = (self.load.text(), load.text());
            let text = format!("the calibration of {day} is for {then}, and this is {now}");
            return Standing::unused("other-load", text);
        }
        Standing::Used(Box::new(self))
    }
}

impl Standing {
    fn unused(why: &'static str, text: String) -> Standing {
        Standing::Unused(Unused { why, text })
    }

    /// That of a run: from this file, or the one in the usual place.
    pub fn find(path: Option<&Path>, plan: &Plan) -> Standing {
        let Some(path) = path.map(Path::to_path_buf).or_else(usual_path) else {
            return Standing::None;
        };
        match Calibration::read(&path) {
            Ok(Some(calibration)) => {
                calibration.judge(&MachineName::read(), &Load::of(plan), SystemTime::now())
            }
            Ok(None) => Standing::None,
            Err(why) => Standing::unused("unreadable", format!("{}: {why}", path.display())),
        }
    }

    /// The line of the text report, for a run of this rate; `None` if there is nothing to say.
    pub fn text(&self, open_loop: bool, requests_per_second: f64) -> Option<String> {
        let calibration = match self {
            Standing::None => return None,
            Standing::Unused(unused) => return Some(format!("not known: {}", unused.text)),
            Standing::Used(calibration) => calibration,
        };
        let (day, kind) = (calibration.day(), if open_loop { "open" } else { "closed" });
        let Some(ceiling) = calibration.ceiling(open_loop) else {
            return Some(format!("not known: no rate of an open loop was kept on {day}"));
        };
        let ceiling = ceiling.requests_per_second;
        Some(format!(
            "{:.0} % of this machine's ceiling, calibrated {day} ({ceiling:.0}/s in the {kind} \
             loop with {} connections; floor latency p50 {})",
            requests_per_second / ceiling * 100.0,
            calibration.load.connections,
            time_text(Duration::from_nanos(calibration.floor_latency.p50_ns))
        ))
    }
}

/// Where a calibration is kept if nothing else is said: `$XDG_CACHE_HOME/echopool/`, or
/// `~/.cache/echopool/`.
pub fn usual_path() -> Option<PathBuf> {
    let variable =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    Some(caches?.join(FILE))
}

#[cfg(test)]
pub mod tests {
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
            r#type: "calibration".into(),
            schema_version: SCHEMA_VERSION,
            calibrated_unix_ns: NOW.as_nanos() as u64,
            machine: machine(),
            generator: Generator::this(),
            load: Load::of(&plan("127.0.0.1:7 -c 100")),
            sink_workers: 2,
            load_average: Some(0.25),
            closed_loop: ceiling(200_000.0),
            open_loop: Some(ceiling(50_000.0)),
            floor_latency: FloorLatency { min_ns: 15_000, p50_ns: 20_000, p99_ns: 40_000 },
            bytes_verified: 1 << 30,
        }
    }

    fn machine() -> MachineName {
        MachineName {
            hostname: "a".into(),
            kernel: "6.1".into(),
            cpu: "some".into(),
            processors: 4,
        }
    }

    fn judge(machine: &MachineName, flags: &str, later: Duration) -> Standing {
        let now = SystemTime::UNIX_EPOCH + NOW + later;
        calibration().judge(machine, &Load::of(&plan(flags)), now)
    }

    #[track_caller]
    fn assert_unused(standing: Standing, why: &str, says: &str) {
        let Standing::Unused(unused) = standing else { panic!("{standing:?}") };
        assert_eq!(unused.why, why);
        assert!(unused.text.contains(says), "{}", unused.text);
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
        assert!(
            open.starts_with("20 % of this") && open.contains("(50000/s in the open"),
            "{open}"
        );
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
            assert_unused(judge(&other, target, Duration::ZERO), "other-machine", says);
        }
        let days = |days: u64| Duration::from_secs(days * 24 * 3600);
        assert!(matches!(judge(&machine(), target, days(30)), Standing::Used(_)));
        assert_unused(judge(&machine(), target, days(31)), "too-old", "of 2027-01-15 is older");
        for flags in ["127.0.0.1:7 -p 2", "127.0.0.1:7 -l 65", "127.0.0.1:7 -t 1"] {
            assert_unused(judge(&machine(), flags, days(0)), "other-load", "is for 2 threads, 64");
        }
        let mut older = calibration();
        older.generator.version = "0.0.1".into();
        let standing = older.judge(&machine(), &Load::of(&plan(target)), SystemTime::now());
        assert_unused(standing, "other-generator", "another build");
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
}
