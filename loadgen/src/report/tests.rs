//! A synthetic run for the tests of all forms, and tests of the verdict.

use std::time::Duration;

use clap::Parser;
use echopool::error::Errno;
use echopool::service::HandshakeError;
use echopool::time::Time;

use super::*;
use crate::cli::RunArgs;
use crate::error::Exit;
use crate::plan::machine::Machine;
use crate::stats::cpu::ThreadUse;
use crate::stats::datagram::DatagramRecords;
use crate::stats::loss::{Loss, Mismatch};
use crate::stats::records::GivenUp;
use crate::stats::slo::Decision;
use crate::stats::tls::TlsRecords;

pub fn plan(flags: &str) -> Plan {
    let machine = Machine {
        open_files_max: 1 << 20,
        open_files_now: 4,
        ports: 32_768..=60_999,
        processors: 4,
        backlog_max: None,
    };
    let args = RunArgs::parse_from(format!("loadgen {flags}").split_whitespace());
    Plan::new(&args.run, &machine, &[std::net::SocketAddr::from(([127, 0, 0, 1], 7777)).into()], 42)
        .expect("possible")
}

/// Two connections on two threads, one second, 1000 replies of 64 bytes with latencies of 1 to
/// 1000 us.
pub fn report() -> Report {
    let second = Duration::from_secs(1);
    let began = Time::from_nanos(5);
    let mut records =
        Records { established: 2, began, ended: began + second, ..Records::default() };
    for micros in 1..=1000 {
        records.reply(began + second, 0, Duration::from_micros(micros), true);
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
    Report::so_far(Arc::new(plan("tcp://127.0.0.1:7777 -c 2 -d 1s")), records)
}

/// Its verdict.
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

/// Losses that have another cause do not ask about the service.
#[test]
fn a_server_that_is_the_one_asked_for_is_not_asked_about() {
    for (target, loss, timed_out) in [
        ("message://127.0.0.1:7", Loss::ClosedByPeer, 0),
        ("message://127.0.0.1:7", Loss::TimedOut, 1),
        ("message://127.0.0.1:7", Loss::Reset, 0),
        ("message://127.0.0.1:7?after=keep", Loss::TimedOut, 0),
        ("message://127.0.0.1:7?after=keep", Loss::Reset, 0),
        ("framed://127.0.0.1:7", Loss::ClosedByPeer, 0),
    ] {
        let mut report =
            Report { plan: Arc::new(plan(&format!("{target} -c 2 -d 1s"))), ..report() };
        report.records.loss(loss);
        report.records.timed_out = timed_out;
        let text = report.verdict_text();
        assert!(text.starts_with("connections-lost ") && !text.contains("after="), "{text}");
    }
}

#[test]
fn a_missed_objective_has_its_own_exit_code() {
    let mut report = report();
    let slo = |text| crate::stats::slo::parse(text).expect(text);
    Arc::make_mut(&mut report.plan).slos = vec![slo("p99<2ms"), slo("rate>=1k"), slo("errors<1")];
    assert_eq!(report.exit(), Exit::Ok);
    Arc::make_mut(&mut report.plan).slos.push(slo("max<1us"));
    assert_eq!((report.verdict(), report.exit()), (Verdict::Valid, Exit::SloMissed));
    let met: Vec<_> = report.objectives().iter().map(Outcome::is_met).collect();
    assert_eq!(met, [true, true, true, false]);
    report.records.loss(Loss::Reset);
    assert_eq!(report.exit(), Exit::NotValid, "then the latency says nothing either");
}

/// The lag of the generator is part of each latency, so what is met in spite of it is met.
#[test]
fn a_late_generator_spoils_only_the_objectives_that_are_missed() {
    let mut report = Report { plan: Arc::new(plan("127.0.0.1:7 -c 2 -R 1k")), ..report() };
    report.records.own_lag.record_n(400_000, 1_000).expect("in bounds");
    assert_eq!((report.verdict(), report.exit()), (Verdict::GeneratorLimited, Exit::NotValid));
    let slo = |text| crate::stats::slo::parse(text).expect(text);
    Arc::make_mut(&mut report.plan).slos = vec![slo("p99<2ms"), slo("rate>=1k")];
    assert_eq!((report.verdict(), report.exit()), (Verdict::GeneratorLimited, Exit::Ok));
    assert!(report.verdict_text().contains("is unknown"), "{}", report.verdict_text());
    Arc::make_mut(&mut report.plan).slos.push(slo("p50<100us"));
    assert_eq!(report.exit(), Exit::NotValid);
    let text = report.result_text();
    assert!(text.contains("; p50<100us undecided (500.22us; loadgen itself was late)"), "{text}");
    report.records.own_lag.reset();
    assert_eq!((report.verdict(), report.exit()), (Verdict::Valid, Exit::SloMissed));
}

/// Half of the requests were never sent: of the median only a lower bound is known.
#[test]
fn what_was_never_sent_meets_no_objective() {
    let mut report = Report { plan: Arc::new(plan("127.0.0.1:7 -c 2 -R 1k")), ..report() };
    let slo = |text| crate::stats::slo::parse(text).expect(text);
    let records = &mut report.records;
    records.thread_uses.clear();
    for _ in 0..1_000 {
        records.give_up(records.ended, None, records.ended, GivenUp::NeverSent);
    }
    records.offered = 2_000;
    records.assert_balanced();
    Arc::make_mut(&mut report.plan).slos = vec![slo("p40<900us"), slo("p50<1.1ms")];
    assert_eq!((report.verdict(), report.exit()), (Verdict::Valid, Exit::Ok));
    Arc::make_mut(&mut report.plan).slos.push(slo("p60<1h"));
    assert_eq!((report.verdict(), report.exit()), (Verdict::Valid, Exit::NotValid));
    Arc::make_mut(&mut report.plan).slos.push(slo("p99<900us"));
    assert_eq!((report.verdict(), report.exit()), (Verdict::Valid, Exit::SloMissed));
}

#[test]
fn a_run_that_a_second_ended_has_missed_even_if_the_whole_has_not() {
    let mut report = report();
    let slo = crate::stats::slo::parse("p99<2ms").expect("an objective");
    let outcome = Outcome { slo: slo.clone(), measured: Some(4e6), decision: Decision::Missed };
    Arc::make_mut(&mut report.plan).slos = vec![slo];
    report.aborted = Some(Abort::Missed(3, outcome));
    report.records.unanswered = 5;
    assert_eq!((report.verdict(), report.exit()), (Verdict::Valid, Exit::SloMissed));
    let text = report.verdict_text();
    assert!(text.starts_with("valid (aborted: second 3: p99<2ms missed (4.00ms); "), "{text}");
    report.aborted = Some(Abort::Errors(1));
    assert_eq!(report.exit(), Exit::NotValid, "it is not the run that was asked for");
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

/// Datagrams have no connections on which they could differ.
#[test]
fn datagrams_that_differ_are_counted_as_replies() {
    let mut report = report();
    report.records.mismatch(mismatch());
    let text = report.verdict_text();
    assert!(text.contains("on 1 of 2 connections"), "{text}");
    report.records.datagrams = Some(DatagramRecords::default());
    let text = report.verdict_text();
    assert!(text.contains("1 reply") && !text.contains("connections"), "{text}");
}

#[test]
fn what_was_not_sent_when_a_run_was_ended_waited_for_no_connection() {
    let mut report = Report { plan: Arc::new(plan("127.0.0.1:7 -c 2 -R 1k")), ..report() };
    (report.records.offered, report.records.never_sent) = (1_002, 2);
    let said = |report: &Report, why| report.verdict_text().contains(why);
    assert!(said(&report, "2 of 1002 requests were never sent, because no connection had room"));
    report.interrupted = true;
    assert!(said(&report, "2 of 1002 requests were never sent, before it was ended"));
}

#[test]
fn connections_that_took_the_place_of_others_can_be_lost_too() {
    let mut report = report();
    (0..30).for_each(|_| report.records.loss(Loss::TimedOut));
    report.records.reconnects = 29;
    (report.records.timed_out, report.records.unanswered) = (30, 4);
    let text = report.verdict_text();
    let counts = "(30 of 31 connections lost, 34 requests without a reply)";
    assert!(text.contains(counts), "those that timed out are not the unanswered ones: {text}");
}

#[test]
fn where_nothing_was_sent_no_reply_is_missed() {
    let mut report = report();
    report.records.replies_each = vec![0, 0];
    assert!(report.verdict_text().contains("2 connections, none had a complete reply; check"));
    report.records.requests = 0;
    assert!(report.verdict_text().contains("before anything was sent; check that the server"));
    report.records.warmup_requests = 1;
    assert!(report.verdict_text().contains("none had a complete reply; check"));
    report.interrupted = true;
    assert!(!report.verdict_text().contains("check"), "{}", report.verdict_text());
    (report.interrupted, report.records.established) = (false, 0);
    assert!(!report.verdict_text().contains("check"), "{}", report.verdict_text());
}

#[test]
fn too_few_connections_are_explained_by_what_happened() {
    let mut report = Report { plan: Arc::new(plan("127.0.0.1:7 -c 9 -d 1s")), ..report() };
    let said = |report: &Report| {
        assert_eq!(report.verdict(), Verdict::UnderConnected);
        report.verdict_text()
    };
    assert_eq!(said(&report), "under-connected (2 of 9 connections)");
    report.records.reconnects_failed = 3;
    let failed = "3 connects failed in place of connections that had ended";
    assert_eq!(said(&report), format!("under-connected (2 of 9 connections; {failed})"));
    (report.records.never_sent, report.records.offered) = (4, 1_004);
    let never = "4 of 1004 requests were never sent";
    assert_eq!(said(&report), format!("under-connected (2 of 9 connections; {failed}; {never})"));
}

#[test]
fn a_reconnect_that_failed_is_a_connection_too_few() {
    let mut report = report();
    report.records.reconnects_failed = 1;
    assert_eq!(report.verdict(), Verdict::UnderConnected);
}

#[test]
fn errors_of_an_objective_are_connects_losses_and_differences() {
    let mut report = report();
    Arc::make_mut(&mut report.plan).slos =
        vec![crate::stats::slo::parse("errors<1").expect("an objective")];
    *report.records.connect_errors.entry(Errno::CONNREFUSED.raw_os_error()).or_default() += 5;
    (0..3).for_each(|_| report.records.loss(Loss::Reset));
    (0..2).for_each(|_| report.records.mismatch(mismatch()));
    assert_eq!(report.objectives()[0].measured, Some(10.0));
}

#[test]
fn the_use_of_the_ceiling_is_in_text_and_json() {
    let mut report = report();
    let json = |report: &Report| schema::RunSummary::new(report).ceiling;
    assert_eq!((report.ceiling_text(), json(&report)), (None, Default::default()));
    let why = crate::plan::calibration::CalibrationUse::OtherMachine;
    let unused = crate::plan::calibration::Unused { why, text: "another machine".into() };
    report.calibration = Standing::Unused(unused);
    assert!(report.ceiling_text().is_some_and(|text| text.contains("another machine")));
    let ceiling = json(&report);
    assert_eq!(
        (ceiling.calibration, ceiling.unused_reason.as_deref()),
        (why, Some("another machine"))
    );
    assert_eq!((ceiling.used_ratio, ceiling.requests_per_second), (None, None));
    let found = crate::plan::calibration::tests::calibration();
    report.calibration = Standing::Used(Box::new(found.clone()));
    let ceiling = json(&report);
    assert_eq!(ceiling.requests_per_second, Some(200_000.0), "of a closed loop");
    assert_eq!(ceiling.used_ratio, Some(0.005), "1000 of 200000");
    assert_eq!(ceiling.calibrated_unix_ns, Some(found.calibrated_unix_ns));
    assert_eq!(ceiling.floor_latency_p50_ns, Some(found.floor_latency.p50_ns));
    assert!(report.ceiling_text().is_some());
}

/// Alerts of different kinds are one error, beside those of the connects.
#[test]
fn failed_handshakes_of_one_name_are_added_up() {
    let mut report = report();
    report.records.connect_errors.insert(Errno::CONNREFUSED.raw_os_error(), 1);
    let failed = [
        (HandshakeError::Alert("HandshakeFailure"), 2),
        (HandshakeError::Alert("InternalError"), 3),
        (HandshakeError::NotTls, 4),
    ];
    let tls = TlsRecords { failed: failed.into(), ..TlsRecords::default() };
    report.records.tls = Some(Box::new(tls));
    let errors = report.errors();
    let errors: Vec<_> = errors.iter().map(|(name, count)| (&name[..], *count)).collect();
    assert_eq!(errors, [("connect-refused", 1), ("tls-refused", 5), ("tls-not-tls", 4)]);
}
