//! The highest rates of the generator on this machine, as `loadgen calibrate` measured them: the
//! file, and whether a run can be compared with it. `command::calibrate` has the measurement.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use echopool::builtin::url::ServiceOptions;

use crate::error::Failure;
use crate::files;
use crate::plan::Plan;
use crate::units::{counted, time_text};

mod object;

pub use object::{
    CalibratedLoad, Calibration, CalibrationType, CalibrationUse, Ceiling, FloorLatency, Generator,
    MachineName, SCHEMA_VERSION,
};

/// An older calibration is not used, because kernels, settings and the load on the machine change.
const AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Path below the cache directory.
const FILE: &str = "echopool/calibration.json";

/// Whether a run can be compared with a calibration.
#[derive(Clone, PartialEq, Debug)]
pub enum Standing {
    /// This machine was never calibrated.
    None,
    /// There is a calibration that is not for this run.
    Unused(Unused),
    Used(Box<Calibration>),
}

/// Why a calibration is not used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unused {
    /// For machines.
    pub why: CalibrationUse,
    /// For people.
    pub text: String,
}

impl MachineName {
    /// The machine that this process runs on.
    pub fn read() -> MachineName {
        let name = rustix::system::uname();
        MachineName {
            hostname: name.nodename().to_string_lossy().into_owned(),
            kernel: name.release().to_string_lossy().into_owned(),
            cpu: cpu_model().unwrap_or_else(|| std::env::consts::ARCH.into()),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    /// The first property that differs, by name.
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

impl CalibratedLoad {
    /// The load of a run.
    pub fn of(plan: &Plan) -> CalibratedLoad {
        CalibratedLoad {
            threads: plan.threads,
            connections: plan.connections,
            sizes: plan.sizes.to_string(),
            pipeline: plan.pipeline,
            busy_poll: plan.busy_poll,
        }
    }

    /// Whether rates of both can be compared. The number of connections matters little, so it may
    /// differ; reports show it.
    fn is_like(&self, other: &CalibratedLoad) -> bool {
        CalibratedLoad { connections: other.connections, ..self.clone() } == *other
    }

    fn text(&self) -> String {
        let CalibratedLoad { threads, sizes, pipeline, .. } = self;
        let polling = if self.busy_poll { ", busily polling" } else { "" };
        let threads = counted(*threads as u64, "thread");
        format!("{threads}, {sizes} bytes, {pipeline} at a time{polling}")
    }
}

impl Calibration {
    /// The date in UTC.
    pub fn day(&self) -> String {
        let timestamp = jiff::Timestamp::from_nanosecond(i128::from(self.calibrated_unix_ns));
        timestamp.map_or("?".into(), |time| time.strftime("%Y-%m-%d").to_string())
    }

    /// The highest rate of a kind of loop.
    pub fn ceiling(&self, open_loop: bool) -> Option<&Ceiling> {
        if open_loop { self.open_loop.as_ref() } else { Some(&self.closed_loop) }
    }

    /// Checks that a file that was asked for is there.
    ///
    /// # Errors
    /// It is not, or cannot be read.
    pub fn check(path: &Path) -> Result<(), Failure> {
        fs::File::open(path).map(drop).map_err(|error| {
            let path = path.display();
            Failure::Setup(format!("cannot read the calibration {path}: {error}"))
        })
    }

    /// Reads a file; `None` if there is none.
    fn read(path: &Path) -> Result<Option<Calibration>, String> {
        let text = match files::read_text(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let read: Calibration = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        match read.schema_version {
            SCHEMA_VERSION => Ok(Some(read)),
            other => Err(format!(
                "its schema_version is {other}, but only {SCHEMA_VERSION} is supported"
            )),
        }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        files::replace(path, text.as_bytes()).map(drop)
    }

    /// Whether a run with this load can be compared with it.
    fn judge(self, machine: &MachineName, plan: &Plan, now: SystemTime) -> Standing {
        let load = &CalibratedLoad::of(plan);
        let again = "run loadgen calibrate again";
        let day = self.day();
        let made = SystemTime::UNIX_EPOCH + Duration::from_nanos(self.calibrated_unix_ns);
        if let Some(differs) = self.machine.differs(machine) {
            let text = format!("the calibration of {day} is from another machine ({differs})");
            return Standing::unused(CalibrationUse::OtherMachine, format!("{text}: {again}"));
        }
        if self.generator != Generator::this() {
            let text = format!("the calibration of {day} is from another build of loadgen");
            return Standing::unused(CalibrationUse::OtherGenerator, format!("{text}: {again}"));
        }
        // A calibration from the future was made before the clock was set back.
        if now.duration_since(made).is_ok_and(|age| age > AGE_MAX) {
            let text = format!("the calibration of {day} is older than 30 days");
            return Standing::unused(CalibrationUse::TooOld, format!("{text}: {again}"));
        }
        if !self.load.is_like(load) {
            let (then, now) = (self.load.text(), load.text());
            let text = format!("the calibration of {day} is for {then}, and this is {now}");
            return Standing::unused(CalibrationUse::OtherLoad, text);
        }
        if let Some(this) = other_work(plan) {
            let text = format!(
                "the calibration of {day} is for an echo over connections that last, and this is \
                 {this}"
            );
            return Standing::unused(CalibrationUse::OtherLoad, text);
        }
        Standing::Used(Box::new(self))
    }
}

/// What the generator has to do in this run that it had not when it was calibrated: another
/// protocol, or new connections.
fn other_work(plan: &Plan) -> Option<String> {
    if plan.tls.is_some() {
        return Some("one over TLS".into());
    }
    if plan.proxy.is_some() {
        return Some("one with PROXY headers (--proxy-protocol)".into());
    }
    match (&plan.service, plan.lifetime) {
        (ServiceOptions::Echo | ServiceOptions::Delay(_), None) => None,
        (ServiceOptions::Echo | ServiceOptions::Delay(_), Some(_)) => {
            Some("one with connections that are replaced (--lifetime)".into())
        }
        (other, _) => Some(format!("{}://", other.name())),
    }
}

impl Standing {
    fn unused(why: CalibrationUse, text: String) -> Standing {
        Standing::Unused(Unused { why, text })
    }

    /// Looks for a calibration for a run: in this file, or in the default one.
    pub fn find(path: Option<&Path>, plan: &Plan) -> Standing {
        let Some(path) = path.map(Path::to_path_buf).or_else(usual_path) else {
            return Standing::None;
        };
        match Calibration::read(&path) {
            Ok(Some(calibration)) => {
                calibration.judge(&MachineName::read(), plan, SystemTime::now())
            }
            Ok(None) => Standing::None,
            Err(why) => {
                Standing::unused(CalibrationUse::Unreadable, format!("{}: {why}", path.display()))
            }
        }
    }

    /// The line of the text report for a run with this rate; `None` if there is nothing to say.
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
             loop with {}; floor latency p50 {})",
            requests_per_second / ceiling * 100.0,
            counted(calibration.load.connections, "connection"),
            time_text(Duration::from_nanos(calibration.floor_latency.p50_ns))
        ))
    }
}

/// The default file: in `$XDG_CACHE_HOME/echopool/` or `~/.cache/echopool/`.
pub fn usual_path() -> Option<PathBuf> {
    let variable =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    Some(caches?.join(FILE))
}

#[cfg(test)]
pub mod tests;
