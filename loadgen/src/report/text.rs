//! The text report. Its first part repeats wrk's lines word for word, because many scripts parse
//! them. Then come what a reader needs in order to trust them, and the verdict. The details follow
//! under headings, if they are asked for.

use std::fmt::{Display, Write};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::hdr::TICKS_PER_HALF;
use super::line::{Group, Line};
use super::{Report, datagram, hub, load_text, parts, stamp};
use crate::plan::Plan;
use crate::stats::loss::Mismatch;
use crate::stats::records;
use crate::units::{binary, counted, metric, time_us};

/// The percentiles of the short distribution.
const PERCENTILES: [f64; 6] = [50.0, 75.0, 90.0, 99.0, 99.9, 99.99];

/// Optional parts of the report.
#[derive(Clone, Copy, Default, Debug)]
pub struct TextOptions {
    /// All percentiles.
    pub spectrum: bool,
    /// The service time.
    pub uncorrected: bool,
    /// Everything else that was measured.
    pub details: bool,
}

/// The whole report.
pub fn render(report: &Report, shown: TextOptions) -> String {
    let mut out = String::new();
    head(&mut out, report);
    thread_stats(&mut out, report);
    let latency = &report.records.latency;
    distribution(&mut out, "Latency Distribution", latency);
    if shown.spectrum {
        full_spectrum(&mut out, latency);
    }
    if shown.uncorrected && !report.records.service_time.is_empty() {
        uncorrected(&mut out, &report.records.service_time, shown.spectrum);
    }
    totals(&mut out, report);
    let groups = groups(report);
    let always = groups.iter().flat_map(|group| &group.lines).filter(|line| line.always);
    always.for_each(|shown| line(&mut out, &shown.text));
    line(&mut out, format_args!("Verdict: {}", report.verdict_sentence()));
    if shown.details {
        groups.iter().for_each(|group| details(&mut out, group));
    }
    out
}

/// Those of its lines that are not above.
fn details(out: &mut String, group: &Group) {
    let mut lines = group.lines.iter().filter(|line| !line.always).peekable();
    if lines.peek().is_some() {
        line(out, format_args!("\n{}", group.title));
        lines.for_each(|shown| line(out, format_args!("  {}", shown.text)));
    }
}

fn line(out: &mut String, text: impl Display) {
    writeln!(out, "{text}").expect("writing to a string");
}

fn head(out: &mut String, report: &Report) {
    line(out, running(&report.plan));
    let (threads, established) = (report.plan.threads, report.records.established);
    line(out, format_args!("  {threads} threads and {established} connections"));
}

/// The first line: how long which target is driven.
pub fn running(plan: &Plan) -> String {
    let length = match (plan.duration, plan.requests) {
        (Some(duration), _) => whole_time(duration),
        (None, _) => counted(plan.own_requests().unwrap_or_default(), "request"),
    };
    let target = match plan.local_server {
        true => plan.targets_text(),
        false => plan.target_name.clone(),
    };
    let shard = match plan.shard {
        shard if shard.is_whole() => String::new(),
        shard => format!(", shard {shard}"),
    };
    format!("Running {length} test @ {target}{shard}")
}

fn thread_stats(out: &mut String, report: &Report) {
    line(out, "  Thread Stats   Avg      Stdev     Max   +/- Stdev");
    stats_line(out, "Latency", &report.records.latency, |nanos| time_us(nanos / 1e3));
    stats_line(out, "Req/Sec", &report.records.rates, metric);
}

fn stats_line(out: &mut String, name: &str, values: &Histogram<u64>, format: fn(f64) -> String) {
    let (mean, stdev) = (values.mean(), values.stdev());
    let max = if values.is_empty() { 0 } else { values.max() };
    line(
        out,
        format_args!(
            "    {name:<10}{}{}{}{:>8.2}%",
            aligned(&format(mean), 8),
            aligned(&format(stdev), 10),
            aligned(&format(max as f64), 9),
            percent_within(values, mean - stdev, mean + stdev)
        ),
    );
}

/// Takes the middle of each bucket, as mean and deviation do.
fn percent_within(values: &Histogram<u64>, low: f64, high: f64) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let middle = |value| values.median_equivalent(value) as f64;
    let within: u64 = values
        .iter_recorded()
        .filter(|step| (low..=high).contains(&middle(step.value_iterated_to())))
        .map(|step| step.count_at_value())
        .sum();
    within as f64 * 100.0 / values.len() as f64
}

fn distribution(out: &mut String, title: &str, latency: &Histogram<u64>) {
    line(out, format_args!("  {title}"));
    for percentile in PERCENTILES {
        let value = records::percentile(latency, percentile) as f64 / 1e3;
        line(out, format_args!("{percentile:>7}%{}", aligned(&time_us(value), 10)));
    }
}

/// In a closed loop both are equal, because a request is sent when it is due.
fn uncorrected(out: &mut String, service_time: &Histogram<u64>, spectrum: bool) {
    distribution(out, "Uncorrected Latency Distribution (service time)", service_time);
    if spectrum {
        full_spectrum(out, service_time);
    }
}

/// The columns of HdrHistogram's own percentile output, in milliseconds.
fn full_spectrum(out: &mut String, latency: &Histogram<u64>) {
    line(out, "  Detailed Percentile spectrum:");
    line(out, "       Value   Percentile   TotalCount 1/(1-Percentile)\n");
    let mut count = 0;
    for step in latency.iter_quantiles(TICKS_PER_HALF) {
        count += step.count_since_last_iteration();
        let (value, quantile) =
            (step.value_iterated_to() as f64 / 1e6, step.quantile_iterated_to());
        // At the end "inf", as wrk has it.
        let inverse = 1.0 / (1.0 - quantile);
        line(out, format_args!("{value:>12.6} {quantile:>12.6} {count:>12} {inverse:>14.2}"));
    }
    let ms = 1e6;
    let (mean, stdev) = (latency.mean() / ms, latency.stdev() / ms);
    let (max, total) = (latency.max() as f64 / ms, latency.len());
    line(out, format_args!("#[Mean    = {mean:>12.6}, StdDeviation   = {stdev:>12.6}]"));
    line(out, format_args!("#[Max     = {max:>12.6}, Total count    = {total:>12}]"));
}

fn totals(out: &mut String, report: &Report) {
    let records = &report.records;
    line(
        out,
        format_args!(
            "  {} requests in {}, {}B read",
            records.replies,
            time_us(records.elapsed().as_secs_f64() * 1e6),
            binary(records.bytes as f64)
        ),
    );
    let losses = records.losses;
    let (connect, timeout) = (records.connect_failed(), losses.timed_out);
    let read = losses.total() - timeout;
    if connect + read + timeout > 0 {
        // It is unknown whether a read or a write failed, because both use one connection.
        line(
            out,
            format_args!(
                "  Socket errors: connect {connect}, read {read}, write 0, timeout {timeout}"
            ),
        );
    }
    line(out, format_args!("Requests/sec: {:>9.2}", report.requests_per_second()));
    line(out, format_args!("Transfer/sec: {:>10}B", binary(report.bytes_per_second())));
}

/// What wrk does not show: whether the figures can be trusted, and what else was measured.
fn groups(report: &Report) -> [Group; 9] {
    let objectives = report.objectives().into_iter();
    let objectives = objectives.map(|outcome| Line::always(format!("SLO: {outcome}")));
    let verdict = objectives.chain([Line::detail(report.verdict_text())]).collect();
    [
        ("Connections", load_text::connections(report)),
        ("Verification", verification(report)),
        ("Requests", load_text::requests(report)),
        ("Hub", hub::lines(report)),
        ("Datagrams", datagram::lines(report)),
        ("STAMP", stamp::lines(report)),
        ("Where the time went", parts::lines(report)),
        ("Generator", load_text::generator(report)),
        ("Verdict", verdict),
    ]
    .map(|(title, lines)| Group { title, lines })
}

fn verification(report: &Report) -> Vec<Line> {
    let records = &report.records;
    let (bytes, mismatches) = (records.bytes_verified, records.mismatches);
    let verified = format!("Verified: {bytes} bytes, {mismatches} mismatches");
    let texts = std::iter::once(verified).chain(records.first_mismatches.iter().map(mismatch_text));
    texts.map(Line::always).collect()
}

fn mismatch_text(mismatch: &Mismatch) -> String {
    let Mismatch { connection, stream_offset, request, request_offset, expected, actual, note } =
        mismatch;
    let note = note.as_ref().map_or(String::new(), |note| format!("{note}; "));
    let expected = match expected.as_slice() {
        [] => "nothing, as nothing had been sent".to_string(),
        bytes => hex(bytes),
    };
    let actual = match actual.as_slice() {
        [] => "bytes after the last reply".to_string(),
        bytes => hex(bytes),
    };
    format!(
        "  connection {connection}, stream offset {stream_offset} (request {request}, byte \
         {request_offset}): {note}expected {expected}, got {actual}"
    )
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(" ")
}

/// Aligns the number to the right, so that units of one and of two letters start in the same
/// column.
fn aligned(text: &str, width: usize) -> String {
    let letters = text.chars().rev().take(2).take_while(char::is_ascii_alphabetic).count();
    let pad = 2 - letters;
    format!("{text:>0$}{1:pad$}", width - pad, "")
}

/// Formats a time from the command line without unnecessary decimals.
fn whole_time(time: Duration) -> String {
    let nanos = time.as_nanos();
    let units: [(u128, &str); 5] =
        [(60_000_000_000, "m"), (1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us"), (1, "ns")];
    let (unit, name) =
        units.into_iter().find(|(unit, _)| nanos.is_multiple_of(*unit)).expect("1 divides");
    format!("{}{name}", nanos / unit)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{mismatch, plan, report};
    use super::*;
    use crate::plan::{Limit, Shortfall};
    use crate::stats::loss::Loss;
    use crate::stats::records::GivenUp;

    const SPECTRUM: TextOptions =
        TextOptions { spectrum: true, uncorrected: false, details: false };
    const DETAILS: TextOptions = TextOptions { spectrum: false, uncorrected: false, details: true };

    const GOLDEN: &str = "\
Running 1s test @ tcp://127.0.0.1:7777
  2 threads and 2 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   500.50us  288.68us   1.00ms   57.70%
    Req/Sec   500.00     50.00   550.00    100.00%
  Latency Distribution
     50%  500.22us
     75%  750.08us
     90%  900.10us
     99%  990.21us
   99.9%  999.42us
  99.99%    1.00ms
  1000 requests in 1.00s, 62.50KB read
Requests/sec:   1000.00
Transfer/sec:     62.50KB
Connections: 2 asked, 2 established, 2 served, 0 lost
Verified: 64000 bytes, 0 mismatches
Verdict: valid: the generator waited for a processor 25 % of the time, which is part of the \
latencies
";

    const GOLDEN_DETAILS: &str = "
Connections
  Replies each: min 400, median 600, max 600
  Fairness: 0.9615 (Jain)
  Errors: none

Requests
  Offered: 1000 requests: 1000 answered in time, 0 answered after the end, 0 timed out, \
0 unanswered, 0 never sent

Generator
  Generator threads: 50 % running, 25 % waiting, switches 10 voluntary, 1 involuntary; \
50 % running, 25 % waiting, switches 10 voluntary, 1 involuntary
  CPU: generator 1.00 cores in 2 threads (busiest 75 % busy: 50 % running, 25 % waiting \
for a processor)

Verdict
  valid (closed loop; generator threads 75 % busy, of that 33 % waiting for a processor)
";

    #[test]
    fn golden() {
        let text = render(&report(), TextOptions::default());
        assert_eq!(text, GOLDEN, "\n{text}");
        let details = render(&report(), DETAILS);
        assert_eq!(details, [GOLDEN, GOLDEN_DETAILS].concat(), "\n{details}");
    }

    /// Whatever changes what a number is worth is in the short form.
    #[test]
    fn the_short_form_has_every_warning() {
        let warns = |change: fn(&mut Report), text: &str| {
            let mut report = report();
            change(&mut report);
            let shown = render(&report, TextOptions::default());
            assert!(shown.contains(text), "{text:?} in\n{shown}");
            assert!(!render(&self::report(), TextOptions::default()).contains(text), "{text}");
            let details = render(&report, DETAILS);
            assert!(details.starts_with(&shown), "{details}");
        };
        warns(|report| report.records.mismatch(mismatch()), "stream offset 130");
        warns(|report| report.records.loss(Loss::Reset), "\nErrors: reset 1\n");
        warns(|report| report.records.never_sent = 1, "unanswered, 1 never sent\n");
        warns(
            |report| report.records.longest_stall = Duration::from_millis(10),
            "\nLongest pause:",
        );
        warns(|report| report.interrupted = true, "\nVerdict: valid: interrupted: a shorter run");
        let busy = |report: &mut Report| {
            report.records.thread_uses[0].running = Duration::from_millis(990);
        };
        warns(busy, "the rate is at least partly its own limit");
        let slow = |report: &mut Report| {
            let slo = crate::stats::slo::parse("max<1us").expect("an objective");
            std::sync::Arc::make_mut(&mut report.plan).slos = vec![slo];
        };
        warns(slow, "\nSLO: max<1us missed");
        let refused = |report: &mut Report| {
            let limit = Limit::OpenFiles { hard: 10, needed: 20, rude: 0 };
            std::sync::Arc::make_mut(&mut report.plan).shortfall =
                Some(Shortfall { asked: 9, possible: 1, limit });
            report.records.connect.record(1_010_000_000).expect("in bounds");
        };
        warns(refused, "\nLimit: ");
        warns(refused, "\nConnects that took a second or more: 1: ");
        let insecure = |report: &mut Report| {
            report.plan = std::sync::Arc::new(plan("tls://127.0.0.1:7?insecure=on -c 2"));
            report.records.tls = Some(Box::default());
        };
        warns(insecure, "\nCertificates: not verified (insecure=on)");
    }

    #[test]
    fn the_verdict_of_an_open_loop_says_how_much_of_the_latency_is_its_own() {
        let mut report = report();
        report.plan = std::sync::Arc::new(plan("127.0.0.1:7 -c 2 -R 1k"));
        report.records.thread_uses.iter_mut().for_each(|used| used.waiting = Duration::ZERO);
        report.records.own_lag.record_n(66_000, 1_000).expect("in bounds");
        assert_eq!(
            report.verdict_sentence(),
            "valid: the generator had time to spare; 99 % of the latencies include at most 66.05us \
             of its own"
        );
        report.records.own_lag.record_n(900_000, 2).expect("in bounds");
        let sentence = report.verdict_sentence();
        assert!(sentence.ends_with("of its own; beyond p99 they are partly its own"), "{sentence}");
    }

    #[test]
    fn a_generator_has_time_to_spare_if_no_thread_waited() {
        let mut report = report();
        let uses = &mut report.records.thread_uses;
        // The busiest thread did not wait; another one was kept from running.
        uses[0].running = Duration::from_millis(900);
        (uses[0].waiting, uses[1].running) = (Duration::ZERO, Duration::ZERO);
        uses[1].waiting = Duration::from_millis(400);
        let sentence = report.verdict_sentence();
        assert!(sentence.contains("waited for a processor 40 % of the time"), "{sentence}");
        report.records.thread_uses[1].waiting = Duration::ZERO;
        let sentence = report.verdict_sentence();
        assert!(sentence.contains("had time to spare"), "{sentence}");
        report.records.thread_uses[1].waiting_unknown = true;
        let sentence = report.verdict_sentence();
        assert!(sentence.contains("is unknown") && !sentence.contains("spare"), "{sentence}");
    }

    #[test]
    fn equal_values_are_all_within_their_deviation_of_zero() {
        for micros in [1, 7, 999, 1_234, 56_789, 4_321_987] {
            let mut report = report();
            report.records.latency.reset();
            report.records.latency.record_n(micros * 1_000, 3).expect("in bounds");
            let text = render(&report, TextOptions::default());
            let line = text.lines().find(|line| line.contains("Latency  ")).expect("its line");
            assert!(line.contains(" 0.00us ") && line.ends_with("  100.00%"), "{micros}: {line}");
        }
    }

    #[test]
    fn each_request_is_in_one_place_of_the_account() {
        let mut report = report();
        let records = &mut report.records;
        let end = records.ended;
        records.reply(end, 0, Duration::from_millis(5), false);
        for _ in 0..2 {
            records.give_up(end, Some(0), records.began, GivenUp::TimedOut { sent: records.began });
        }
        for _ in 0..3 {
            records.give_up(
                end,
                Some(0),
                records.began,
                GivenUp::Unanswered { sent: records.began },
            );
        }
        for _ in 0..4 {
            records.give_up(end, Some(0), records.began, GivenUp::NeverSent);
        }
        records.offered = 1010;
        records.assert_balanced();
        let text = render(&report, TextOptions::default());
        let line = text.lines().find(|line| line.starts_with("Offered: ")).expect("the account");
        let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        assert_eq!(numbers, [1010, 1000, 1, 2, 3, 4], "{line}");
        assert_eq!(numbers[0], numbers[1..].iter().sum::<u64>());
        let elsewhere = text.matches("after the end").count() + text.matches("timed out").count();
        assert_eq!(elsewhere, 2, "said once each: {text}");
    }

    #[test]
    fn what_went_wrong_is_named() {
        let mut report = report();
        report.records.mismatch(mismatch());
        report.records.loss(Loss::Reset);
        report.records.loss(Loss::TimedOut);
        report.server_cores = Some(1.5);
        let text = render(&report, DETAILS);
        let lines = [
            "  Socket errors: connect 0, read 1, write 0, timeout 1\n",
            "Verified: 64000 bytes, 1 mismatches\n",
            "  connection 1, stream offset 130 (request 2, byte 2): expected ab 01, got cd 02\n",
            "Errors: timed-out 1, reset 1\n",
            ", server 1.50 cores\n",
            "Verdict: echo-differed: on 1 of 2 connections\n",
        ];
        for line in lines {
            assert!(text.contains(line), "{line:?} in\n{text}");
        }
    }

    #[test]
    fn the_spectrum_ends_with_all_of_the_values() {
        let text = render(&report(), SPECTRUM);
        let last = text.lines().rfind(|line| line.ends_with("inf")).expect("a last line");
        let columns: Vec<_> = last.split_whitespace().collect();
        assert_eq!(columns[1..], ["1.000000", "1000", "inf"]);
    }

    #[test]
    fn the_spectrum_is_in_milliseconds() {
        let text = render(&report(), SPECTRUM);
        let number = |text: &str| text.parse::<f64>().expect(text);
        let rows: Vec<Vec<_>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        let mut halves = 0;
        for row in rows.iter().filter(|row| row.len() == 4 && row[0].starts_with(['0', '1'])) {
            let (value, quantile, count) = (number(row[0]), number(row[1]), number(row[2]));
            assert!((value - count / 1e3).abs() < 0.002, "the latencies are 1 to 1000 us: {row:?}");
            if row[3] != "inf" {
                assert!((number(row[3]) * (1.0 - quantile) - 1.0).abs() < 0.01, "{row:?}");
                halves += 1;
            }
        }
        assert!(halves > 10, "{text}");
        let end = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).expect(name);
            let numbers = line.split(['=', ',', ']']).map(str::trim);
            numbers.filter_map(|part| part.parse::<f64>().ok()).collect::<Vec<_>>()
        };
        let [mean, stdev] = end("#[Mean")[..] else { panic!("two numbers") };
        let [max, total] = end("#[Max")[..] else { panic!("two numbers") };
        assert!((mean - 0.5005).abs() < 0.001 && (stdev - 0.2887).abs() < 0.001);
        assert!((max - 1.0).abs() < 0.001 && total == 1000.0);
    }

    #[test]
    fn each_kind_of_error_alone_is_shown() {
        let errors = |change: fn(&mut Report)| {
            let mut report = report();
            change(&mut report);
            let text = render(&report, TextOptions::default());
            text.lines().find(|line| line.contains("Socket errors")).map(str::to_owned)
        };
        assert_eq!(errors(|_| ()), None);
        let line = |connect, read, timeout| {
            Some(format!(
                "  Socket errors: connect {connect}, read {read}, write 0, timeout {timeout}"
            ))
        };
        assert_eq!(errors(|report| report.records.loss(Loss::Reset)), line(0, 1, 0));
        assert_eq!(errors(|report| report.records.loss(Loss::TimedOut)), line(0, 0, 1));
        let refused = |report: &mut Report| {
            *report.records.connect_errors.entry(111).or_default() += 2;
        };
        assert_eq!(errors(refused), line(2, 0, 0));
    }

    #[test]
    fn a_shard_says_which_it_is() {
        let mut report = report();
        let plan = std::sync::Arc::make_mut(&mut report.plan);
        plan.shard = crate::plan::shard::Shard { index: 1, count: 4 };
        let text = render(&report, TextOptions::default());
        let first = text.lines().next().expect("a line");
        assert_eq!(first, "Running 1s test @ tcp://127.0.0.1:7777, shard 1/4");
    }

    #[test]
    fn the_uncorrected_latency_follows_the_latency() {
        let text = render(&report(), TextOptions { uncorrected: true, ..SPECTRUM });
        let at = |title| text.find(title).expect(title);
        assert!(at("  Latency Distribution\n") < at("  Uncorrected Latency Distribution (service"));
        assert_eq!(text.matches("  Detailed Percentile spectrum:\n").count(), 2);
    }

    #[test]
    fn a_run_without_a_reply_has_a_report() {
        let mut report = report();
        report.records = crate::stats::records::Records::default();
        let text = render(&report, SPECTRUM);
        assert!(text.contains("  0 requests in 0.00us, 0.00B read"), "{text}");
        assert!(!text.contains("NaN"), "{text}");
    }

    #[test]
    fn times_are_shown_as_they_were_given() {
        assert_eq!(whole_time(Duration::from_secs(10)), "10s");
        assert_eq!(whole_time(Duration::from_secs(120)), "2m");
        assert_eq!(whole_time(Duration::from_millis(1500)), "1500ms");
    }

    #[test]
    fn units_scale() {
        assert_eq!(time_us(0.25), "0.25us");
        assert_eq!(time_us(1_234.5), "1.23ms");
        assert_eq!(time_us(90e6), "1.50m");
        assert_eq!(metric(56_200.0), "56.20k");
        assert_eq!(binary(1536.0), "1.50K");
        assert_eq!(aligned("1.00s", 10), "    1.00s ");
        assert_eq!(aligned("500.00", 8), "500.00  ");
    }
}
