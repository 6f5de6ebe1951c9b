//! Saved results as one table of comma-separated values, with a number in each row: percentiles,
//! parts, datagrams, seconds, and the runs of a search, of any number of files.

use std::fmt::{Display, Write};

use serde::Serialize;
use serde_json::Value;

use super::hdr;
use super::saved::SavedResult;

/// Renders the table. `results`: each with the name of its file.
///
/// * `percentiles`: `x` is the percentile, and the values are in nanoseconds.
/// * `parts`: `x` is the largest latency of a group of requests, in nanoseconds, and the values are
///   their number and the sums of their parts.
/// * `datagrams`, `stamp`: what became of the datagrams of a run over UDP, and what the replies of a
///   reflector tell of it; `x` is empty. Distributions are in `percentiles`.
/// * `seconds`: `x` is the start of the second, or of the longer interval, in nanoseconds.
/// * `steps`: `x` is the rate that a run of a search tried, per second.
///
/// # Errors
/// A histogram is malformed.
pub fn render(results: &[(String, SavedResult)]) -> Result<String, String> {
    let mut text = String::from("file,table,x,quantity,value\n");
    for (name, result) in results {
        let mut rows = Rows { text: &mut text, file: quoted(name) };
        for (key, distribution) in result.distributions() {
            let values = distribution.histogram();
            let values = values.map_err(|why| format!("{name}: {key}: {why}"))?;
            let quantity = format!("{key}_ns");
            for (percentile, value) in hdr::percentiles(&values) {
                rows.row("percentiles", percentile, &quantity, value);
            }
        }
        for (part, distribution) in result.parts().iter().flat_map(|parts| parts.by_name()) {
            let values = distribution.histogram();
            let values = values.map_err(|why| format!("{name}: parts: {part}: {why}"))?;
            for (percentile, value) in hdr::percentiles(&values) {
                rows.row("percentiles", percentile, &format!("parts_{part}_ns"), value);
            }
        }
        for group in result.parts().map_or(&[][..], |parts| &parts.by_latency) {
            rows.numbers("parts", group.latency_max_ns, group);
        }
        for (key, distribution) in result.stamp().iter().flat_map(|stamp| stamp.by_name()) {
            let values = distribution.histogram();
            let values = values.map_err(|why| format!("{name}: stamp: {key}: {why}"))?;
            for (percentile, value) in hdr::percentiles(&values) {
                rows.row("percentiles", percentile, &format!("stamp_{key}_ns"), value);
            }
        }
        if let Some(datagrams) = result.datagrams() {
            rows.numbers("datagrams", "", datagrams);
        }
        if let Some(stamp) = result.stamp() {
            rows.numbers("stamp", "", stamp);
        }
        for second in result.run().map_or(&[][..], |run| &run.intervals) {
            rows.numbers("seconds", second.start_ns, second);
        }
        for step in result.steps() {
            rows.numbers("steps", step.rate_per_second, step);
        }
    }
    Ok(text)
}

/// The rows of one file.
struct Rows<'a> {
    text: &'a mut String,
    file: String,
}

impl Rows<'_> {
    fn row(&mut self, table: &str, x: impl Display, quantity: &str, value: impl Display) {
        let written = writeln!(self.text, "{},{table},{x},{quantity},{value}", self.file);
        written.expect("writing to a string");
    }

    /// A row for each number of an object, under its key. A number of an inner object has both
    /// keys. A histogram has other rows.
    fn numbers(&mut self, table: &str, x: impl Display + Copy, object: &impl Serialize) {
        let object = serde_json::to_value(object).expect("it has a JSON form");
        for (key, value) in object.as_object().into_iter().flatten() {
            match value {
                Value::Number(number) => self.row(table, x, key, number),
                Value::Bool(is) => self.row(table, x, key, u8::from(*is)),
                Value::Object(inner) if inner.contains_key("histogram_v2_deflate_base64") => {}
                Value::Object(inner) => {
                    let numbers = inner.iter().filter(|(_, value)| value.is_number());
                    numbers.for_each(|(inner, value)| {
                        self.row(table, x, &format!("{key}_{inner}"), value);
                    });
                }
                Value::Null | Value::String(_) | Value::Array(_) => {}
            }
        }
    }
}

fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::distinct::{distinct, stamp_report};
    use crate::report::schema::{PartsSummary, RunSummary, distinct_parts};

    /// The value of the row with this table, x and quantity.
    fn value(text: &str, row: &str) -> f64 {
        let line = text.lines().find_map(|line| line.split_once(row)?.1.strip_prefix(','));
        line.unwrap_or_else(|| panic!("no {row} in\n{text}")).parse().expect("a number")
    }

    #[test]
    fn each_number_of_the_result_is_in_a_row() {
        let run = RunSummary::new(&distinct(0));
        let result = SavedResult::Run(Box::new(run.clone()));
        let text = render(&[("a,\"b\".json".into(), result)]).expect("it has histograms");
        assert!(text.lines().skip(1).all(|line| line.starts_with("\"a,\"\"b\"\".json\",")));
        for (key, distribution) in [
            ("latency", &run.latency),
            ("service_time", &run.service_time),
            ("send_lag", &run.send_lag),
            ("own_lag", &run.own_lag),
            ("connect_latency", &run.connect_latency),
        ] {
            let at = |x: &str| value(&text, &format!(",percentiles,{x},{key}_ns")) as u64;
            let expected = &distribution.percentiles;
            assert_eq!(at("50"), expected.p50_ns.expect("values"), "{key}");
            assert_eq!(at("75"), expected.p75_ns.expect("values"), "{key}");
            assert_eq!(at("99.9"), expected.p99_9_ns.expect("values"), "{key}");
            assert_eq!(at("100"), expected.max_ns.expect("values"), "{key}");
        }
        assert_eq!(run.intervals.len(), 2);
        for second in &run.intervals {
            let at = |key: &str| value(&text, &format!(",seconds,{},{key}", second.start_ns));
            assert_eq!(at("requests_per_second"), second.requests_per_second);
            assert_eq!(at("connections_open") as u64, second.connections_open);
            assert_eq!(at("latency_p99_9_ns") as u64, second.latency.p99_9_ns.expect("values"));
            assert_eq!(at("send_lag_max_ns") as u64, second.send_lag.max_ns.expect("values"));
        }
    }

    #[test]
    fn each_part_is_in_rows_under_its_own_name() {
        let mut run = RunSummary::new(&distinct(0));
        let parts = run.parts.insert(PartsSummary::new(&distinct_parts(1_000))).clone();
        let result = SavedResult::Run(Box::new(run));
        let text = render(&[("a.json".into(), result)]).expect("it has histograms");
        for (key, values) in [
            ("generator_lag", &parts.generator_lag),
            ("connection_wait", &parts.connection_wait),
            ("network", &parts.network),
            ("server_wait", &parts.server_wait),
            ("server_service", &parts.server_service),
            ("generator_read", &parts.generator_read),
        ] {
            let at = |x: &str| value(&text, &format!(",percentiles,{x},parts_{key}_ns")) as u64;
            assert_eq!(at("50"), values.percentiles.p50_ns.expect("values"), "{key}");
            assert_eq!(at("100"), values.percentiles.max_ns.expect("values"), "{key}");
        }
        for group in &parts.by_latency {
            let at = |key: &str| value(&text, &format!(",parts,{},{key}", group.latency_max_ns));
            assert_eq!(at("requests") as u64, group.requests);
            assert_eq!(at("server_wait_ns") as u64, group.server_wait_ns);
        }
    }

    /// Each of them has another value.
    #[test]
    fn what_became_of_datagrams_is_in_rows_under_its_own_name() {
        let run = RunSummary::new(&stamp_report(0));
        let (datagrams, stamp) = (run.datagrams.clone(), run.stamp.clone());
        let (datagrams, stamp) = (datagrams.expect("over UDP"), stamp.expect("a reflector"));
        let result = SavedResult::Run(Box::new(run));
        let text = render(&[("a.json".into(), result)]).expect("it has histograms");
        for (row, expected) in [
            ("datagrams,,sent", 1_000),
            ("datagrams,,lost", 301),
            ("datagrams,,late", 302),
            ("datagrams,,duplicated", 303),
            ("datagrams,,out_of_order", 304),
            ("datagrams,,corrupted", 305),
            ("datagrams,,truncated", 306),
            ("datagrams,,socket_errors", 307),
            ("datagrams,,jitter_ns", 308_000),
            ("datagrams,,jitter_max_ns", 309_000),
            ("datagrams,,jitter_sockets", 2),
            ("stamp,,there_lost", 412),
            ("stamp,,back_lost", 413),
            ("stamp,,lost_unknown", 414),
            ("stamp,,there_duplicated", 415),
            ("stamp,,back_duplicated", 416),
            ("stamp,,there_jitter_ns", 408_000),
            ("stamp,,back_jitter_ns", 409_000),
            ("stamp,,there_jitter_max_ns", 410_000),
            ("stamp,,back_jitter_max_ns", 411_000),
            ("stamp,,clock_error_ns", 401_000),
            ("stamp,,clocks_agree", 1),
            ("stamp,,jitter_sockets", 2),
        ] {
            assert_eq!(value(&text, &format!(",{row}")), f64::from(expected), "{row}");
        }
        assert_eq!(value(&text, ",datagrams,,lost_ratio"), datagrams.lost_ratio);
        for (key, values) in [
            ("round_trip", &stamp.round_trip),
            ("residence", &stamp.residence),
            ("there_delay", stamp.there.delay.as_ref().expect("the clocks agree")),
            ("back_delay", stamp.back.delay.as_ref().expect("the clocks agree")),
            ("there_variation", &stamp.there.variation),
            ("back_variation", &stamp.back.variation),
        ] {
            let row = value(&text, &format!(",percentiles,100,stamp_{key}_ns"));
            assert_eq!(row as u64, values.percentiles.max_ns.expect("values"), "{key}");
        }
        let rows = |table: &str| text.lines().filter(|line| line.contains(table)).count();
        assert_eq!((rows(",datagrams,"), rows(",stamp,")), (12, 12), "all are checked");
    }

    #[test]
    fn a_malformed_histogram_is_named() {
        let mut run = RunSummary::new(&distinct(0));
        run.send_lag.histogram_v2_deflate_base64 = "?".into();
        let error = render(&[("a.json".into(), SavedResult::Run(Box::new(run)))]);
        let error = error.expect_err("no histogram");
        assert!(error.starts_with("a.json: send_lag: not base64: "), "{error}");
    }
}
