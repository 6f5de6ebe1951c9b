//! What a run is worth: the verdict, the exit code, and the forms of the report.
//!
//! * here: the verdict
//! * `outputs`: where results go; `text`, `json`, `rows`, `hdr`: their forms
//! * `saved`: reports read back; `compare`, `merge`: what is made of them

pub mod compare;
mod hdr;
mod hub;
mod json;
mod load;
pub mod merge;
mod outputs;
mod rows;
mod saved;
pub mod search;
mod text;

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use outputs::Outputs;
pub use text::{metric, time_us};

use echopool::spec::ServiceOptions;

use crate::calibration::Standing;
use crate::cpu::ThreadUse;
use crate::failure::{Exit, Failure};
use crate::outcome::Records;
use crate::plan::Plan;
use crate::slo::{Observed, Outcome, Slo};
use crate::verdict::{self, SATURATED};

/// From this share of the period on it is said that the generator waited for processors: others
/// had taken them, the server or strangers.
const SHORT_OF_PROCESSORS: f64 = 0.05;

/// All that a run has brought.
pub struct Report {
    pub plan: Arc<Plan>,
    pub records: Records,
    /// When the measured period began, if it did.
    pub began_at: Option<SystemTime>,
    /// Ended by a signal or a key.
    pub interrupted: bool,
    /// Ended because it could not pass any more.
    pub aborted: Option<Abort>,
    pub slos: Vec<Slo>,
    /// Processors that the server of our own has used, on average.
    pub server_cores: Option<f64>,
    /// What is known of the ceiling.
    pub calibration: Standing,
}

/// Why a run that could not pass any more was ended.
#[derive(Clone, PartialEq, Debug)]
pub enum Abort {
    /// This second, counted from 1, missed an objective.
    Missed(u64, Outcome),
    /// So many connections failed or were lost, or had a byte that differed.
    Errors(u64),
}

impl fmt::Display for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Abort::Missed(second, outcome) => write!(f, "second {second}: {outcome}"),
            Abort::Errors(1) => f.write_str("one connection failed, was lost or differed"),
            Abort::Errors(count) => write!(f, "{count} connections failed, were lost or differed"),
        }
    }
}

/// Whether the figures are what was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Valid,
    /// Bytes came back that differed from what was sent.
    Differed,
    /// Fewer connections than asked for.
    UnderConnected,
    /// No connection had a single reply.
    NothingServed,
    /// Connections ended, or replies were missing, before the end.
    ConnectionsLost,
    /// A hub dropped messages, or clients did not get them.
    NotDelivered,
    /// The generator did not keep its schedule, so the figures are at least partly its own.
    GeneratorLimited,
}

impl Verdict {
    /// One word for it, for machines.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Valid => "valid",
            Verdict::Differed => "echo-differed",
            Verdict::UnderConnected => "under-connected",
            Verdict::NothingServed => "nothing-served",
            Verdict::ConnectionsLost => "connections-lost",
            Verdict::NotDelivered => "not-delivered",
            Verdict::GeneratorLimited => "generator-limited",
        }
    }
}

impl Report {
    /// The worst that can be said of the run.
    pub fn verdict(&self) -> Verdict {
        let Report { plan, records, .. } = self;
        // A run that is ended early does not wait for its last replies.
        // What a hub says that it dropped is judged by itself.
        let dropped = records.hub.map_or(0, |hub| hub.own_dropped);
        let unanswered = records.timed_out + records.unanswered > dropped && !self.ended_early();
        // A default that the machine has no room for is announced, and no failure.
        let wanted = match plan.connections_explicit {
            true => plan.connections_asked,
            false => plan.connections,
        };
        if records.mismatches > 0 {
            Verdict::Differed
        } else if records.served() == 0 {
            Verdict::NothingServed
        } else if records.losses.total() > 0 || unanswered {
            Verdict::ConnectionsLost
        } else if records.established < wanted {
            Verdict::UnderConnected
        } else if hub::not_delivered(self) {
            Verdict::NotDelivered
        } else if verdict::generator_limit(plan, records).is_some() {
            Verdict::GeneratorLimited
        } else {
            Verdict::Valid
        }
    }

    /// How the program ends. A wrong byte is worth saying even of an interrupted run.
    pub fn exit(&self) -> Exit {
        match self.verdict() {
            Verdict::Differed => Exit::Differed,
            _ if self.interrupted => Exit::Interrupted,
            Verdict::Valid if self.missed() => Exit::SloMissed,
            Verdict::Valid => Exit::Ok,
            _ => Exit::NotValid,
        }
    }

    /// What became of each objective.
    pub fn objectives(&self) -> Vec<Outcome> {
        let records = &self.records;
        let long_enough = !records.elapsed().is_zero();
        let observed = Observed {
            latency: &records.latency,
            rate: long_enough.then(|| self.requests_per_second()),
            errors: records.connect_failed() + records.losses.total() + records.mismatches,
        };
        self.slos.iter().map(|slo| slo.judge(&observed)).collect()
    }

    /// Whether an objective was missed, by the whole run or by the second that ended it.
    fn missed(&self) -> bool {
        matches!(self.aborted, Some(Abort::Missed(..)))
            || self.objectives().iter().any(|outcome| !outcome.met)
    }

    fn ended_early(&self) -> bool {
        self.interrupted || self.aborted.is_some()
    }

    /// The verdict with its reason, in one line.
    pub fn verdict_text(&self) -> String {
        let mut text = self.verdict().word().to_string();
        let mut notes = self.notes();
        if self.interrupted {
            notes.insert(0, "interrupted: a shorter run than asked for".into());
        }
        if let Some(abort) = &self.aborted {
            notes.insert(0, format!("aborted: {abort}"));
        }
        write!(text, " ({})", notes.join("; ")).expect("writing to a string");
        text
    }

    /// The verdict, and the objectives that were missed, in one line.
    pub fn result_text(&self) -> String {
        let mut text = self.verdict_text();
        for outcome in self.objectives().iter().filter(|outcome| !outcome.met) {
            write!(text, "; {outcome}").expect("writing to a string");
        }
        text
    }

    fn notes(&self) -> Vec<String> {
        let Report { plan, records, .. } = self;
        let (established, asked) = (records.established, plan.connections_asked);
        let of_asked = format!("{established} of {asked} connections");
        match self.verdict() {
            Verdict::Valid => {
                let mut notes = match plan.open_loop {
                    None => vec!["closed loop".to_string()],
                    Some(_) => load::open_loop_notes(records, self.ended_early()),
                };
                notes.push(self.busy_note());
                if established < asked {
                    notes.insert(0, format!("{of_asked}, as many as the machine has room for"));
                }
                notes
            }
            Verdict::Differed => {
                vec![format!("on {} of {established} connections", records.mismatches)]
            }
            Verdict::UnderConnected => vec![of_asked],
            Verdict::NotDelivered => vec![hub::losses(records)],
            Verdict::GeneratorLimited => {
                let limit = verdict::generator_limit(plan, records);
                vec![limit.unwrap_or_default(), self.busy_note()]
            }
            Verdict::NothingServed => {
                let what = match records.requests + records.warmup_requests {
                    0 => "they ended, or the run, before anything was sent",
                    _ => "none had a complete reply",
                };
                let mut text = format!("{established} connections, {what}");
                if !self.interrupted && established > 0 {
                    let name = plan.service.name();
                    write!(text, "; check that the server's service is {name}").expect("a string");
                }
                vec![text]
            }
            Verdict::ConnectionsLost => {
                let lost = format!(
                    "{} of {} connections lost, {} requests unanswered",
                    records.losses.total(),
                    established + records.reconnects,
                    records.timed_out + records.unanswered
                );
                std::iter::once(lost).chain(self.other_after().map(str::to_string)).collect()
            }
        }
    }

    /// Messages whose connections end, or do not, as the server's would with the other `after`.
    fn other_after(&self) -> Option<&'static str> {
        let Report { plan, records, .. } = self;
        let closes = match plan.service {
            ServiceOptions::Message(_) => plan.server_closes,
            _ => return None,
        };
        let losses = records.losses;
        match closes {
            true if losses.timed_out > 0 && records.timed_out == 0 => {
                Some("the server did not close them: if that is its way, use after=keep")
            }
            false if losses.closed_by_peer > 0 => {
                Some("the server closed them: if that is its way, use after=close")
            }
            _ => None,
        }
    }

    fn busy_note(&self) -> String {
        let percent = |share: f64| (share * 100.0).round();
        let (busy, waiting) = (self.generator_busy(), self.generator_waiting());
        let mut note = format!("generator threads {} % busy", percent(busy));
        if waiting >= SHORT_OF_PROCESSORS {
            write!(note, ", of that {} % waiting for a processor", percent(waiting / busy))
                .expect("writing to a string");
        }
        if busy >= SATURATED && self.plan.open_loop.is_none() {
            note += ": the rate is at least partly the generator's, \
                     and latencies include its own queueing";
        }
        note
    }

    /// The share of the measured period that the busiest thread ran or waited for a processor.
    pub fn generator_busy(&self) -> f64 {
        let used = self.busiest_thread();
        self.per_second(used.busy().as_secs_f64()).min(1.0)
    }

    /// The part of that share that it waited: processors were taken by others.
    pub fn generator_waiting(&self) -> f64 {
        self.per_second(self.busiest_thread().waiting.as_secs_f64()).min(1.0)
    }

    fn busiest_thread(&self) -> ThreadUse {
        let uses = self.records.thread_uses.iter().copied();
        uses.max_by_key(|used| used.busy()).unwrap_or_default()
    }

    /// Processors that the clients used, on average.
    pub fn generator_cores(&self) -> f64 {
        let running: f64 =
            self.records.thread_uses.iter().map(|used| used.running.as_secs_f64()).sum();
        self.per_second(running)
    }

    /// Replies in a second, within the measured period.
    pub fn requests_per_second(&self) -> f64 {
        self.per_second(self.records.replies as f64)
    }

    /// How much of the generator's ceiling was used, or why that is not known.
    pub fn ceiling_text(&self) -> Option<String> {
        self.calibration.text(self.plan.open_loop.is_some(), self.requests_per_second())
    }

    /// Verified bytes in a second, within the measured period.
    pub fn bytes_per_second(&self) -> f64 {
        self.per_second(self.records.bytes as f64)
    }

    fn per_second(&self, amount: f64) -> f64 {
        let elapsed = self.records.elapsed().as_secs_f64();
        if elapsed > 0.0 { amount / elapsed } else { 0.0 }
    }

    /// Least, median and most replies that a connection had.
    pub fn replies_each(&self) -> (u64, u64, u64) {
        let mut replies = self.records.replies_each.clone();
        replies.sort_unstable();
        match replies.as_slice() {
            [] => (0, 0, 0),
            [least, .., most] => (*least, replies[replies.len() / 2], *most),
            [only] => (*only, *only, *only),
        }
    }

    /// What went wrong with connections and how often, by name, without what did not happen.
    pub fn errors(&self) -> Vec<(String, u64)> {
        let records = &self.records;
        let connect = records.connect_errors.iter();
        let mut errors: Vec<_> =
            connect.map(|(errno, count)| (connect_error_name(*errno), *count)).collect();
        errors.extend([
            ("timed-out".to_string(), records.losses.timed_out),
            ("closed-by-peer".to_string(), records.losses.closed_by_peer),
            ("reset".to_string(), records.losses.reset),
            ("peer-lost".to_string(), records.losses.peer_lost),
            ("failed".to_string(), records.losses.failed),
        ]);
        errors.retain(|(_, count)| *count > 0);
        errors
    }
}

/// Writes to stdout what is no report of a run.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Failure::Setup(format!("cannot write to stdout: {error}")))
}

/// A time for people, with two decimals.
pub fn time_text(time: Duration) -> String {
    time_us(time.as_secs_f64() * 1e6)
}

/// The name under which a failed connect is counted.
fn connect_error_name(errno: i32) -> String {
    use echopool::error::Errno;
    match Errno::from_raw_os_error(errno) {
        Errno::CONNREFUSED => "connect-refused".into(),
        Errno::TIMEDOUT => "connect-timed-out".into(),
        Errno::CONNRESET => "connect-reset".into(),
        Errno::ADDRNOTAVAIL => "connect-no-local-port".into(),
        Errno::MFILE | Errno::NFILE => "connect-no-open-file".into(),
        Errno::HOSTUNREACH | Errno::NETUNREACH => "connect-unreachable".into(),
        _ => format!("connect-errno-{errno}"),
    }
}

#[cfg(test)]
pub mod tests {
    //! A synthetic run that the tests of all forms share, and the verdicts.

    use super::*;
    use crate::args::Args;
    use crate::flow::{Loss, Mismatch};
    use crate::limits::Machine;
    use clap::Parser;
    use echopool::error::Errno;
    use echopool::time::Time;

    pub fn plan(flags: &str) -> Plan {
        let machine = Machine {
            open_files_max: 1 << 20,
            open_files_now: 4,
            ports: 32_768..=60_999,
            processors: 4,
            backlog_max: None,
        };
        let args = Args::parse_from(format!("loadgen {flags}").split_whitespace());
        Plan::new(&args, &machine, Some(([127, 0, 0, 1], 7777).into()), 42).expect("possible")
    }

    /// Two connections on two threads, one second, 1000 replies of 64 bytes with latencies of 1 to
    /// 1000 us.
    pub fn report() -> Report {
        let second = Duration::from_secs(1);
        let began = Time::from_nanos(5);
        let mut records =
            Records { established: 2, began, ended: began + second, ..Records::default() };
        for micros in 1..=1000 {
            records.reply(began + second, Duration::from_micros(micros), true);
        }
        records.offered = 1000;
        records.service_time = records.latency.clone();
        records.requests = 1000;
        records.bytes = 64_000;
        records.bytes_verified = 64_000;
        records.rate(450, second);
        records.rate(550, second);
        records.replies_each = vec![400, 600];
        let half = Duration::from_millis(500);
        records.thread_uses = vec![
            ThreadUse {
                running: half,
                waiting: half / 2,
                switches_voluntary: 10,
                switches_involuntary: 1,
                ..ThreadUse::default()
            };
            2
        ];
        Report {
            plan: Arc::new(plan("tcp://127.0.0.1:7777 -c 2 -d 1s")),
            records,
            began_at: None,
            interrupted: false,
            aborted: None,
            slos: Vec::new(),
            server_cores: None,
            calibration: Standing::None,
        }
    }

    /// The verdict on it.
    pub const CLEAN: &str = "valid (closed loop; generator threads 75 % busy, of that 33 % waiting \
                             for a processor)";

    pub fn mismatch() -> Mismatch {
        Mismatch {
            connection: 1,
            stream_offset: 130,
            request: 2,
            request_offset: 2,
            expected: vec![0xab, 0x01],
            actual: vec![0xcd, 0x02],
            note: None,
        }
    }

    #[test]
    fn a_clean_run_is_valid() {
        let report = report();
        assert_eq!((report.verdict(), report.exit()), (Verdict::Valid, Exit::Ok));
        assert_eq!(report.verdict_text(), CLEAN);
        assert_eq!(report.generator_cores(), 1.0);
        assert_eq!(report.replies_each(), (400, 600, 600));
    }

    #[test]
    fn a_saturated_generator_says_so() {
        let mut report = report();
        report.records.thread_uses[1].waiting = Duration::from_millis(470);
        let text = report.verdict_text();
        assert!(text.contains("97 % busy, of that 48 % waiting"), "{text}");
        assert!(text.contains("processor: the rate is at least partly the generator's"), "{text}");
        assert_eq!(report.exit(), Exit::Ok, "a closed loop is expected to");
    }

    #[test]
    fn fewer_connections_than_asked_for_are_not_valid_but_as_many_as_possible_are() {
        let mut report = report();
        report.records.established = 1;
        assert_eq!((report.verdict(), report.exit()), (Verdict::UnderConnected, Exit::NotValid));

        let plan = Arc::make_mut(&mut report.plan);
        (plan.connections_explicit, plan.connections) = (false, 1);
        assert_eq!((report.verdict(), report.exit()), (Verdict::Valid, Exit::Ok));
        assert!(report.verdict_text().contains("1 of 2 connections, as many as the machine"));
    }

    #[test]
    fn lost_connections_and_missing_replies_are_not_valid() {
        let mut report = report();
        report.records.unanswered = 1;
        assert_eq!((report.verdict(), report.exit()), (Verdict::ConnectionsLost, Exit::NotValid));
        report.records.loss(Loss::Reset);
        *report.records.connect_errors.entry(Errno::CONNREFUSED.raw_os_error()).or_default() += 3;
        let errors = [("connect-refused".to_string(), 3), ("reset".to_string(), 1)];
        assert_eq!(report.errors(), errors);
        report.records.replies_each = vec![0, 0];
        assert_eq!((report.verdict(), report.exit()), (Verdict::NothingServed, Exit::NotValid));
    }

    #[test]
    fn a_server_that_may_be_another_is_asked_about() {
        let mut report = report();
        report.records.loss(Loss::TimedOut);
        let text = report.verdict_text();
        assert!(!text.contains("after="), "{text}");
        for (target, loss, hint) in [
            ("message://127.0.0.1:7", Loss::TimedOut, "use after=keep"),
            ("message://127.0.0.1:7?after=keep", Loss::ClosedByPeer, "use after=close"),
        ] {
            report.plan = Arc::new(plan(&format!("{target} -c 2 -d 1s")));
            report.records.losses = Default::default();
            report.records.loss(loss);
            let text = report.verdict_text();
            assert!(text.contains(hint), "{text}");
        }
        report.records.replies_each = vec![0, 0];
        let text = report.verdict_text();
        assert!(text.contains("check that the server's service is message"), "{text}");
    }

    #[test]
    fn a_missed_objective_has_its_own_exit_code() {
        let mut report = report();
        let slo = |text| crate::slo::parse(text).expect(text);
        report.slos = vec![slo("p99<2ms"), slo("rate>=1k"), slo("errors<1")];
        assert_eq!(report.exit(), Exit::Ok);
        report.slos.push(slo("max<1us"));
        assert_eq!((report.verdict(), report.exit()), (Verdict::Valid, Exit::SloMissed));
        let met: Vec<_> = report.objectives().iter().map(|outcome| outcome.met).collect();
        assert_eq!(met, [true, true, true, false]);
        report.records.loss(Loss::Reset);
        assert_eq!(report.exit(), Exit::NotValid, "then the latency says nothing either");
    }

    #[test]
    fn a_run_that_a_second_ended_has_missed_even_if_the_whole_has_not() {
        let mut report = report();
        let slo = crate::slo::parse("p99<2ms").expect("an objective");
        let outcome = Outcome { slo: slo.clone(), measured: Some(4e6), met: false };
        report.slos = vec![slo];
        report.aborted = Some(Abort::Missed(3, outcome));
        report.records.unanswered = 5;
        assert_eq!((report.verdict(), report.exit()), (Verdict::Valid, Exit::SloMissed));
        let text = report.verdict_text();
        assert!(text.starts_with("valid (aborted: second 3: p99<2ms missed (4.00ms); "), "{text}");
        report.aborted = Some(Abort::Errors(1));
        assert_eq!(report.exit(), Exit::Ok, "the verdict tells what the error was");
    }

    #[test]
    fn a_wrong_byte_outranks_everything() {
        let mut report = report();
        report.interrupted = true;
        assert_eq!(report.exit(), Exit::Interrupted);
        report.records.mismatch(mismatch());
        assert_eq!((report.verdict(), report.exit()), (Verdict::Differed, Exit::Differed));
        assert!(report.verdict_text().contains("interrupted"));
    }

    #[test]
    fn what_was_not_sent_when_a_run_was_ended_waited_for_no_connection() {
        let mut report = Report { plan: Arc::new(plan("127.0.0.1:7 -c 2 -R 1k")), ..report() };
        (report.records.offered, report.records.never_sent) = (1_002, 2);
        let said = |report: &Report, why| report.verdict_text().contains(why);
        assert!(said(&report, "2 of 1002 requests were never sent, for no connection had room"));
        report.interrupted = true;
        assert!(said(&report, "2 of 1002 requests were never sent, before it was ended"));
    }

    #[test]
    fn connections_that_took_the_place_of_others_can_be_lost_too() {
        let mut report = report();
        (0..30).for_each(|_| report.records.loss(Loss::TimedOut));
        report.records.reconnects = 29;
        assert!(report.verdict_text().contains("(30 of 31 connections lost, "));
    }

    #[test]
    fn where_nothing_was_sent_no_reply_is_missed() {
        let mut report = report();
        report.records.replies_each = vec![0, 0];
        assert!(report.verdict_text().contains("2 connections, none had a complete reply; check"));
        report.records.requests = 0;
        assert!(report.verdict_text().contains("before anything was sent; check that the server"));
    }
}
