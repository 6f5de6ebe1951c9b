//! What the text report says about the load: how requests ended, and how well the schedule was
//! kept.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::line::Line;
use super::{Report, targets};
use crate::plan::Plan;
use crate::report::validity;
use crate::stats::cpu::ThreadUse;
use crate::stats::records::Records;
use crate::stats::tcp::TcpCounts;
use crate::stats::timeseries::Second;
use crate::stats::tls::TlsRecords;
use crate::units::{counted, counted_of, time_us, was};

/// How the requests ended, and when they were sent.
pub fn requests(report: &Report) -> Vec<Line> {
    let records = &report.records;
    let mut lines = vec![account(records)];
    if records.warmup_requests > 0 {
        let text =
            format!("Warm-up: {}, not recorded", counted(records.warmup_requests, "request"));
        lines.push(Line::detail(text));
    }
    if report.plan.open_loop.is_some() {
        // Deliveries of a hub have no service time, and a run may have sent nothing.
        let times = [
            ("Service time", &records.service_time),
            ("Send lag", &records.send_lag),
            ("Own lag", &records.own_lag),
        ];
        let measured = times.into_iter().filter(|(_, values)| !values.is_empty());
        let text = |(name, values)| Line::detail(format!("{name}: {}", shape(values)));
        lines.extend(measured.map(text));
    }
    lines.extend(littles_law(records).map(Line::detail));
    lines
}

/// What became of the connections.
pub fn connections(report: &Report) -> Vec<Line> {
    let Report { plan, records, .. } = report;
    let mut lines = vec![Line::always(format!(
        "Connections: {} asked, {} established, {} served, {} lost",
        plan.connections_asked,
        records.established,
        records.served(),
        records.losses.total()
    ))];
    lines.extend(targets::lines(report));
    if let Some(shortfall) = &plan.shortfall {
        lines.push(Line::always(format!("Limit: {shortfall}")));
    }
    let (least, median, most) = report.replies_each();
    lines.push(Line::detail(format!("Replies each: min {least}, median {median}, max {most}")));
    lines.push(Line::detail(format!("Fairness: {:.4} (Jain)", records.fairness())));
    if !records.connect.is_empty() {
        lines.push(Line::detail(format!("Connect: {}", shape(&records.connect))));
        lines.extend(connects_retried(records).map(Line::always));
    }
    if let Some(tls) = &records.tls {
        lines.extend(tls_lines(report, tls));
    }
    lines.extend(tcp(&records.tcp).map(Line::detail));
    if plan.reconnect {
        lines.push(Line::detail(format!(
            "Reopened: {}; {} closed by the server with no reply outstanding",
            counted(records.reconnects, "connection"),
            records.server_closes
        )));
    } else if plan.lifetime.is_some() || records.reconnects > 0 {
        lines
            .push(Line::detail(format!("Reopened: {}", counted(records.reconnects, "connection"))));
    }
    lines.extend(records.rude.iter().map(|rude| Line::detail(format!("With {rude}"))));
    lines.push(errors(report));
    lines
}

/// What the generator used, and whether it was kept from working.
pub fn generator(report: &Report) -> Vec<Line> {
    let mut lines: Vec<_> = longest_stall(&report.records).map(Line::always).into_iter().collect();
    lines.extend(thread_lines(report).map(Line::detail));
    lines.push(Line::detail(cpu(report)));
    let ceiling = report.ceiling_text().map(|ceiling| format!("Ceiling: {ceiling}"));
    lines.extend(ceiling.map(Line::detail));
    lines
}

fn errors(report: &Report) -> Line {
    match report.errors().as_slice() {
        [] => Line::detail("Errors: none"),
        errors => {
            let texts: Vec<_> = errors.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
            Line::always(format!("Errors: {}", texts.join(", ")))
        }
    }
}

fn cpu(report: &Report) -> String {
    let (busy, waiting) = (report.generator_busy() * 100.0, report.generator_waiting() * 100.0);
    let server =
        report.server_cores.map_or(String::new(), |cores| format!(", server {cores:.2} cores"));
    format!(
        "CPU: generator {:.2} cores in {} (busiest {busy:.0} % busy: {:.0} % running, \
         {waiting:.0} % waiting for a processor){server}",
        report.generator_cores(),
        counted(report.plan.threads as u64, "thread"),
        busy - waiting,
    )
}

/// The handshakes, and whether the servers' certificates were verified.
fn tls_lines(report: &Report, tls: &TlsRecords) -> Vec<Line> {
    let session = |((version, suite), count): (&(&str, &str), &u64)| {
        format!("{count} with TLS {version} {suite}")
    };
    let sessions: Vec<_> = tls.sessions.iter().map(session).collect();
    let mut lines = Vec::new();
    if !sessions.is_empty() {
        lines.push(Line::detail(format!(
            "Handshakes: {}; {:.1} % resumed; {:.1} per second in the measured period",
            sessions.join(", "),
            tls.resumed_ratio() * 100.0,
            report.per_second(tls.measured as f64)
        )));
    }
    for (name, times) in [("Full", &tls.full), ("Resumed", &tls.resumed)] {
        if !times.is_empty() {
            let text = format!("{name} handshakes: {}: {}", times.len(), shape(times));
            lines.push(Line::detail(text));
        }
    }
    if report.plan.tls.as_ref().is_some_and(|plan| plan.options.client.insecure) {
        lines.push(Line::always("Certificates: not verified (insecure=on)"));
    }
    let failed = tls.failed.iter();
    lines.extend(
        failed.map(|(error, count)| Line::always(format!("Failed handshakes: {count}: {error}"))),
    );
    lines
}

/// Connections whose first packet was not answered. TCP repeats it after one second (RFC 6298).
fn connects_retried(records: &Records) -> Option<String> {
    const FIRST_RETRY_NS: u64 = 990_000_000;
    let retried = records.connect.count_between(FIRST_RETRY_NS, u64::MAX);
    (retried > 0).then(|| {
        format!(
            "Connects that took a second or more: {retried}: their first packet was lost, or the \
             server let no more connections wait to be accepted (its backlog, \
             net.core.somaxconn); begin fewer at a time with --connect-rate"
        )
    })
}

/// What TCP did on the generator's side.
fn tcp(tcp: &TcpCounts) -> Option<String> {
    let time = |nanos: u64| time_us(nanos as f64 / 1e3);
    (tcp.connections > 0).then(|| {
        format!(
            "TCP: {} sent again on {}; round trip {} on average ({} to \
             {}), smallest congestion window {}",
            counted(tcp.segments_resent, "segment"),
            counted_of(tcp.connections_resent, tcp.connections, "connection"),
            time(tcp.rtt_mean_ns()),
            time(tcp.rtt_min_ns),
            time(tcp.rtt_max_ns),
            tcp.congestion_window_min
        )
    })
}

/// Each offered request is in exactly one of the counts after the first.
fn account(records: &Records) -> Line {
    let text = format!(
        "Offered: {} requests: {} answered in time, {} answered after the end, {} timed out, \
         {} unanswered, {} never sent",
        records.offered,
        records.replies,
        records.replies_late,
        records.timed_out,
        records.unanswered,
        records.never_sent
    );
    let complete = records.timed_out + records.unanswered + records.never_sent == 0;
    Line::always_if(!complete, text)
}

/// What each thread used, unless there are too many threads to read.
fn thread_lines(report: &Report) -> Option<String> {
    const THREADS_SHOWN: usize = 8;
    let uses = &report.records.thread_uses;
    if uses.len() > THREADS_SHOWN || report.records.elapsed().is_zero() {
        return None;
    }
    let thread = |used: &ThreadUse| {
        let percent = |time| report.records.share(used, time) * 100.0;
        let polling = match report.plan.busy_poll {
            true => format!(", {:.0} % polling in vain", percent(used.polling)),
            false => String::new(),
        };
        format!(
            "{:.0} % running, {:.0} % waiting{polling}, switches {} voluntary, {} involuntary",
            percent(used.running),
            percent(used.waiting),
            used.switches_voluntary,
            used.switches_involuntary
        )
    };
    let threads: Vec<_> = uses.iter().map(thread).collect();
    (!threads.is_empty()).then(|| format!("Generator threads: {}", threads.join("; ")))
}

/// A closed loop has no schedule that would show a stall, so a stall is reported if it is long
/// enough to affect latencies.
fn longest_stall(records: &Records) -> Option<String> {
    const WORTH_SAYING: Duration = Duration::from_millis(10);
    let pause = records.longest_stall;
    (pause >= WORTH_SAYING).then(|| {
        let pause = time_us(pause.as_secs_f64() * 1e6);
        format!(
            "Longest pause: {pause}, in which a thread of loadgen should have worked and did not"
        )
    })
}

fn shape(values: &Histogram<u64>) -> String {
    let at = |quantile| time_us(values.value_at_quantile(quantile) as f64 / 1e3);
    format!("p50 {}, p99 {}, p99.9 {}, max {}", at(0.5), at(0.99), at(0.999), at(1.0))
}

/// Little's law over all seconds, and the second in which its two sides differ most. In a shorter
/// time the requests that reach across its ends weigh too much for a comparison.
fn littles_law(records: &Records) -> Option<String> {
    let steps = records.seconds.steps();
    let whole = steps.iter().filter(|second| second.length() >= records.seconds.step());
    let difference = |second: &Second| {
        let (counted, expected) = (second.outstanding_mean(), second.outstanding_expected());
        (counted - expected).abs() / counted.max(1.0)
    };
    let worst = whole.map(difference).reduce(f64::max)?;
    let mean = |value: fn(&Second) -> f64| {
        let weighted = |second: &Second| value(second) * second.length().as_secs_f64();
        let seconds: f64 = steps.iter().map(|second| second.length().as_secs_f64()).sum();
        steps.iter().map(weighted).sum::<f64>() / seconds.max(f64::MIN_POSITIVE)
    };
    Some(format!(
        "Little's law: {:.2} outstanding, rate x time {:.2}; a second differs by at most {:.1} %",
        mean(Second::outstanding_mean),
        mean(Second::outstanding_expected),
        worst * 100.0
    ))
}

/// Notes of the verdict if the schedule was kept. `ended_early`: requests due at the end would have
/// been sent a moment later.
pub fn open_loop_notes(plan: &Plan, records: &Records, ended_early: bool) -> Vec<String> {
    let time = |nanos: u64| time_us(nanos as f64 / 1e3);
    let mut notes = vec![
        "open loop".to_string(),
        format!(
            "own lag p99 {} of a latency p99 of {}",
            time(records.own_lag.value_at_quantile(0.99)),
            time(records.latency.value_at_quantile(0.99))
        ),
    ];
    if validity::lags_at(records, 0.999) {
        notes.push("beyond p99 latencies are partly the generator's own lag".into());
    }
    notes.extend(not_sent(plan, records, ended_early));
    notes
}

/// How much of the latencies is the generator's own, for the sentence of the verdict.
pub fn own_part(records: &Records) -> Vec<String> {
    if records.own_lag.is_empty() {
        return Vec::new();
    }
    let own = time_us(records.own_lag.value_at_quantile(0.99) as f64 / 1e3);
    let mut notes = vec![format!("99 % of the latencies include at most {own} of its own")];
    if validity::lags_at(records, 0.999) {
        notes.push("beyond p99 they are partly its own".into());
    }
    notes
}

/// Whether the server took what it was offered, and what was never sent.
pub fn not_sent(plan: &Plan, records: &Records, ended_early: bool) -> Option<String> {
    let beyond = (!ended_early).then(|| validity::beyond_capacity(plan, records)).flatten();
    beyond.or_else(|| {
        let why =
            if ended_early { "before it was ended" } else { "because no connection had room" };
        (records.never_sent > 0).then(|| {
            let never = records.never_sent;
            let of_offered = counted_of(never, records.offered, "request");
            format!("{of_offered} {} never sent, {why}", was(never))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One request is outstanding all the time. The last second is cut off after 3 ms, with the
    /// request still outstanding.
    #[test]
    fn a_part_of_a_second_is_no_second() {
        let second = |millis: u64, service_ns| Second {
            threads: 1,
            span_ns: millis * 1_000_000,
            outstanding_ns: millis * 1_000_000,
            service_ns,
            ..Second::default()
        };
        let mut records = Records::default();
        records.seconds.push(second(3, 0));
        assert_eq!(littles_law(&records), None, "nothing to compare");
        let mut records = Records::default();
        records.seconds.push(second(1_000, 990_000_000));
        records.seconds.push(second(3, 0));
        let text = littles_law(&records).expect("a second");
        assert!(
            text.ends_with("1.00 outstanding, rate x time 0.99; a second differs by at most 1.0 %")
        );
    }

    #[test]
    fn what_tcp_did_is_shown_if_it_was_asked() {
        let mut report = crate::report::tests::report();
        assert!(lines_of(&report, "TCP: ").is_empty());
        report.records.tcp = TcpCounts {
            connections: 20,
            segments_resent: 7,
            connections_resent: 3,
            rtt_min_ns: 21_000,
            rtt_sum_ns: 820_000,
            rtt_max_ns: 95_000,
            congestion_window_min: 10,
        };
        let text = "TCP: 7 segments sent again on 3 of 20 connections; round trip 41.00us on \
                    average (21.00us to 95.00us), smallest congestion window 10";
        assert_eq!(lines_of(&report, "TCP: "), [text]);
    }

    #[test]
    fn the_account_is_a_detail_only_if_every_request_was_answered() {
        let each = |timed_out, unanswered, never_sent| {
            account(&Records { timed_out, unanswered, never_sent, ..Records::default() }).always
        };
        let shown = [each(0, 0, 0), each(1, 0, 0), each(0, 1, 0), each(0, 0, 1)];
        assert_eq!(shown, [false, true, true, true]);
    }

    #[test]
    fn handshakes_have_lines_only_where_there_were_any() {
        let report = crate::report::tests::report();
        assert!(tls_lines(&report, &TlsRecords::default()).is_empty());
        let mut tls = TlsRecords { measured: 3, ..TlsRecords::default() };
        tls.sessions.insert(("1.3", "TLS_AES_256_GCM_SHA384"), 4);
        tls.full.record_n(1_000, 3).expect("in bounds");
        let shown: Vec<_> = tls_lines(&report, &tls).into_iter().map(|line| line.text).collect();
        assert_eq!(
            shown,
            [
                "Handshakes: 4 with TLS 1.3 TLS_AES_256_GCM_SHA384; 0.0 % resumed; 3.0 per second in \
                 the measured period",
                "Full handshakes: 3: p50 1.00us, p99 1.00us, p99.9 1.00us, max 1.00us",
            ]
        );
        tls.resumed.record(2_000).expect("in bounds");
        let resumed = &tls_lines(&report, &tls)[2].text;
        assert!(resumed.starts_with("Resumed handshakes: 1: p50 2.00us"), "{resumed}");
    }

    fn lines_of(report: &Report, begin: &str) -> Vec<String> {
        let lines = [requests(report), connections(report), generator(report)].concat();
        lines.into_iter().map(|line| line.text).filter(|text| text.starts_with(begin)).collect()
    }

    #[test]
    fn connections_begun_anew_are_shown_if_there_are_any_or_should_be() {
        use crate::report::tests::{plan, report};
        let mut report = report();
        let mut anew = |flags: &str, reconnects| {
            report.plan = std::sync::Arc::new(plan(&format!("127.0.0.1:7 -c 2 -d 1s {flags}")));
            report.records.reconnects = reconnects;
            lines_of(&report, "Reopened: ")
        };
        assert!(anew("", 0).is_empty());
        assert_eq!(anew("", 3), ["Reopened: 3 connections"]);
        assert_eq!(anew("--lifetime 5", 0), ["Reopened: 0 connections"]);
    }

    #[test]
    fn connects_whose_first_packet_was_lost_are_counted() {
        let mut report = crate::report::tests::report();
        let retried = |report: &Report| lines_of(report, "Connects that took");
        report.records.connect.record(900_000_000).expect("in bounds");
        assert!(retried(&report).is_empty());
        report.records.connect.record_n(1_010_000_000, 2).expect("in bounds");
        assert!(retried(&report)[0].starts_with("Connects that took a second or more: 2: their"));
    }

    #[test]
    fn threads_are_shown_unless_they_are_too_many_or_there_was_no_time() {
        let mut report = crate::report::tests::report();
        let mut shown = |threads| {
            report.records.thread_uses = vec![ThreadUse::default(); threads];
            let lines = lines_of(&report, "Generator threads: ");
            lines.first().map_or(0, |line| line.matches("running").count())
        };
        assert_eq!([0, 1, 8, 9].map(&mut shown), [0, 1, 8, 0]);
        report.records.thread_uses.truncate(1);
        report.records.ended = report.records.began;
        assert!(lines_of(&report, "Generator threads: ").is_empty());
    }

    #[test]
    fn notes_of_a_schedule_have_their_units_and_name_only_what_there_is() {
        let plan = crate::report::tests::plan("127.0.0.1:7 -R 1k");
        let mut records = Records { offered: 1_000, ..Records::default() };
        records.own_lag.record_n(20_000, 1_000).expect("in bounds");
        records.latency.record_n(5_000_000, 1_000).expect("in bounds");
        let notes = open_loop_notes(&plan, &records, true);
        // 20,000 ns is in the step of 16 ns that ends at 20,015.
        assert_eq!(notes, ["open loop", "own lag p99 20.02us of a latency p99 of 5.00ms"]);
        records.never_sent = 1;
        let notes = open_loop_notes(&plan, &records, true);
        assert_eq!(notes[2], "1 of 1000 requests was never sent, before it was ended");
    }
}
