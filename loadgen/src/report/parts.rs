//! Where the time went, in the text report, for a server whose replies carry its times.

use hdrhistogram::Histogram;

use super::Report;
use super::line::Line;
use super::schema::{PartsSummary, Percentiles};
use crate::stats::parts::{OneWay, Part, Parts, slowest};
use crate::stats::records::percentile;
use crate::units::{counted_of, time_us};

/// Requests of which the shares are shown beside those of all.
pub const SLOWEST: f64 = 0.01;

/// Lines of the text report; none unless the replies carry times.
pub fn lines(report: &Report) -> Vec<Line> {
    let parts = report.records.parts.as_deref().filter(|parts| parts.count() > 0);
    parts.map_or(Vec::new(), |parts| table(parts, &report.records.latency))
}

/// The parts of several runs or targets side by side: rows with a name, and the value of each of
/// them in nanoseconds. No rows if none has parts.
pub fn side_by_side(all: &[Option<&PartsSummary>]) -> Vec<(String, Vec<Option<u64>>)> {
    /// A percentile, and its name.
    type Shown = (&'static str, fn(&Percentiles) -> Option<u64>);
    const SHOWN: [Shown; 2] = [("p50", |of| of.p50_ns), ("p99", |of| of.p99_ns)];
    if all.iter().all(Option::is_none) {
        return Vec::new();
    }
    let row = |part: Part, (name, of): Shown| {
        let value =
            |one: &Option<&PartsSummary>| of(&one.as_ref()?.each()[part as usize].percentiles);
        (format!("{} {name}", part.short()), all.iter().map(value).collect())
    };
    Part::ALL.into_iter().flat_map(|part| SHOWN.map(|shown| row(part, shown))).collect()
}

fn table(parts: &Parts, latency: &Histogram<u64>) -> Vec<Line> {
    let rows: Vec<_> = parts.rows().collect();
    let (all, _) = slowest(rows.iter().copied(), 1.0);
    let (tail, _) = slowest(rows.iter().copied(), SLOWEST);
    let mut lines = vec![
        Line::always(verdict(percentile(latency, 99.0), tail.shares())),
        Line::detail(format!(
            "{:<34}{:>9}{:>10}{:>10}  of all  of the slowest 1 %",
            "", "p50", "p99", "max"
        )),
    ];
    for (part, values) in Part::ALL.into_iter().zip(&parts.each) {
        let (of_all, of_tail) = (all.shares()[part as usize], tail.shares()[part as usize]);
        lines.push(Line::detail(format!(
            "{:<34}{:>9}{:>10}{:>10}{:>6.0} %{:>6.0} %",
            part.words(),
            time(percentile(values, 50.0)),
            time(percentile(values, 99.0)),
            time(values.max()),
            of_all * 100.0,
            of_tail * 100.0
        )));
    }
    lines.push(Line::detail(one_way(&parts.one_way)));
    if parts.cut > 0 {
        lines.push(Line::always(format!(
            "{}: the server's times were longer than the round trip, and cut",
            counted_of(parts.cut, parts.count(), "reply")
        )));
    }
    lines
}

/// The largest parts of the slowest requests: `p99 1.80ms: 71 % waiting at the server`.
fn verdict(p99_ns: u64, shares: [f64; Part::ALL.len()]) -> String {
    const WORTH_SAYING: f64 = 0.1;
    let mut largest: Vec<_> = Part::ALL.into_iter().zip(shares).collect();
    largest.sort_by(|one, other| other.1.total_cmp(&one.1));
    let is_said = |nth: usize, share: f64| nth == 0 || share >= WORTH_SAYING;
    let said = largest.iter().enumerate().filter(|(nth, (_, share))| is_said(*nth, *share));
    let texts = said.map(|(_, (part, share))| format!("{:.0} % {}", share * 100.0, part.words()));
    format!("p99 {}: {}", time(p99_ns), texts.collect::<Vec<_>>().join(", "))
}

/// How long each way took, and whether the clocks agree.
fn one_way(one_way: &OneWay) -> String {
    let shape = |values: &Histogram<u64>| {
        let at = |rank| time(percentile(values, rank));
        format!("min {}, p50 {}, p99 {}", time(values.min()), at(50.0), at(99.0))
    };
    match one_way {
        OneWay { there, .. } if there.is_empty() => {
            "One way: unknown, because the server has another clock".to_string()
        }
        OneWay { there, back, contradictions: 0, .. } => format!(
            "One way: there {}; back {} (one clock; no reply contradicts it)",
            shape(there),
            shape(back)
        ),
        OneWay { there, contradictions, contradiction_max, .. } => format!(
            "One way: unknown; the clocks should be one, but the times of {} \
             contradict it, by up to {}",
            counted_of(*contradictions, there.len(), "reply"),
            time(*contradiction_max)
        ),
    }
}

fn time(nanos: u64) -> String {
    time_us(nanos as f64 / 1e3)
}

#[cfg(test)]
pub mod tests {
    use std::time::Duration;

    use echopool::builtin::timed::Times;
    use echopool::time::Time;

    use super::*;
    use crate::stats::parts::RoundTrip;

    /// A request of these parts, in microseconds.
    pub fn record(parts: &mut Parts, micros: [u64; 6], clock_offset: u64) {
        let [own, connection, network, waiting, service, reading] = micros.map(|us| us * 1_000);
        let at = |nanos| Time::from_nanos(1_000_000_000 + nanos);
        let sent = own + connection;
        let arrived = micros.iter().sum::<u64>() * 1_000;
        let trip = RoundTrip {
            intended: at(0),
            own_lag: Duration::from_nanos(own),
            sent: at(sent),
            told: at(arrived - reading),
            arrived: at(arrived),
        };
        let received = clock_offset + sent + network / 4;
        let times = Times {
            clock: 7,
            received: at(received),
            taken_up: at(received + waiting),
            sent: at(received + waiting + service),
        };
        parts.record(&trip, &times, true);
    }

    fn shown(clock_offset: u64) -> Vec<String> {
        let (mut parts, mut latency) =
            (Parts::default(), crate::stats::records::latency_histogram());
        for _ in 0..99 {
            record(&mut parts, [1, 0, 40, 2, 50, 7], clock_offset);
            latency.record(100_000).expect("in bounds");
        }
        record(&mut parts, [100, 200, 60, 710, 20, 10], clock_offset);
        latency.record(1_100_000).expect("in bounds");
        table(&parts, &latency).into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn each_part_has_its_percentiles_and_its_shares() {
        let expected = "\
p99 100.03us: 65 % waiting at the server, 18 % waiting for a connection
                                        p50       p99       max  of all  of the slowest 1 %
generator lag                        1.00us    1.00us  100.03us     2 %     9 %
waiting for a connection             0.00us    0.00us  200.06us     2 %    18 %
network and kernel, there and back  40.03us   40.03us   60.03us    37 %     5 %
waiting at the server                2.00us    2.00us  710.14us     8 %    65 %
service                             50.02us   50.02us   50.02us    45 %     2 %
generator's reading                  7.00us    7.00us   10.01us     6 %     1 %
One way: there min 10.00us, p50 10.01us, p99 10.01us; back min 30.00us, p50 30.02us, p99 \
30.02us (one clock; no reply contradicts it)";
        let shown = shown(0).join("\n");
        assert_eq!(shown, expected, "\n{shown}");
    }

    #[test]
    fn clocks_that_cannot_be_one_are_told() {
        let last = shown(2_000_000).pop().expect("a line");
        let text = "One way: unknown; the clocks should be one, but the times of 100 of 100 replies \
                    contradict it, by up to 1.96ms";
        assert!(last.starts_with(text), "{last}");
        let none = one_way(&Parts::default().one_way);
        assert!(none.ends_with("another clock"));
    }

    #[test]
    fn replies_whose_times_were_cut_are_counted_if_there_are_any() {
        let mut report = crate::report::tests::report();
        assert!(lines(&report).is_empty());
        report.records.parts = Some(Box::default());
        assert!(lines(&report).is_empty(), "no reply had times");
        let mut parts = Parts::default();
        record(&mut parts, [1, 0, 40, 2, 50, 7], 0);
        report.records.parts = Some(Box::new(parts.clone()));
        let whole = lines(&report).len();
        assert_eq!(whole, 2 + Part::ALL.len() + 1);
        parts.cut = 1;
        report.records.parts = Some(Box::new(parts));
        let cut = &lines(&report)[whole];
        let text = "1 of 1 reply: the server's times were longer than the round trip, and cut";
        assert_eq!(*cut, Line::always(text));
    }
}
