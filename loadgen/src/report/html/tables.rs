//! The tables of a page. They can be read, and their numbers copied, without a script.

use maud::{Markup, html};
use serde::Serialize;
use serde_json::Value;

use crate::report::schema::{Distribution, Percentiles};
use crate::units::time_us;

/// One of the percentiles, in nanoseconds, and its name.
pub type OfPercentiles = (&'static str, fn(&Percentiles) -> Option<u64>);

/// Rows of a table of percentiles.
const ROWS: [OfPercentiles; 10] = [
    ("Min", |of| of.min_ns),
    ("Mean", |of| of.mean_ns),
    ("Std. deviation", |of| of.stdev_ns),
    ("p50", |of| of.p50_ns),
    ("p75", |of| of.p75_ns),
    ("p90", |of| of.p90_ns),
    ("p99", |of| of.p99_ns),
    ("p99.9", |of| of.p99_9_ns),
    ("p99.99", |of| of.p99_99_ns),
    ("Max", |of| of.max_ns),
];

/// Percentiles, a column for each distribution.
pub fn percentiles(caption: &str, columns: &[(String, &Distribution)]) -> Markup {
    let each = || columns.iter().map(|(_, distribution)| &distribution.percentiles);
    html! {
        div.scroll {
            table.numbers {
                caption { (caption) }
                tr { th {} @for (name, _) in columns { th scope="col" { (name) } } }
                @for (name, of) in ROWS {
                    tr {
                        th scope="row" { (name) }
                        @for values in each() {
                            td { @if let Some(nanos) = of(values) { (time(nanos)) } }
                        }
                    }
                }
                tr { th scope="row" { "Count" } @for values in each() { td { (values.count) } } }
            }
        }
    }
}

/// A table with a value in each row.
pub fn pairs(caption: &str, rows: &[(String, Value)]) -> Markup {
    html! {
        div.scroll {
            table.numbers.pairs {
                caption { (caption) }
                @for (name, value) in rows {
                    tr { th scope="row" { (label(name)) } (cell(name, value)) }
                }
            }
        }
    }
}

/// The fields of an object that have a value, with the names of their keys.
pub fn fields(of: &impl Serialize) -> Vec<(String, Value)> {
    let fields = serde_json::to_value(of).expect("it has a JSON form");
    let fields = fields.as_object().into_iter().flatten();
    let has_value = |value: &Value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    };
    fields
        .filter(|(_, value)| has_value(value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// A table with these keys of each object; of an inner object as `outer/inner`.
pub fn objects(caption: &str, keys: &[&str], rows: &[impl Serialize]) -> Markup {
    let value =
        |row: &Value, key: &str| row.pointer(&format!("/{key}")).cloned().unwrap_or_default();
    let rows: Vec<_> =
        rows.iter().map(|row| serde_json::to_value(row).expect("it has a JSON form")).collect();
    let is_words = |key: &str| rows.iter().any(|row| value(row, key).is_string());
    html! {
        div.scroll {
            table.numbers {
                caption { (caption) }
                tr {
                    @for key in keys {
                        th scope="col" class=[is_words(key).then_some("words")] { (label(key)) }
                    }
                }
                @for row in &rows {
                    tr { @for key in keys { (cell(key, &value(row, key))) } }
                }
            }
        }
    }
}

/// The word in a key whose value is a time in nanoseconds.
const NANOS: &str = "ns";

/// A key in words. The unit is beside the value.
fn label(key: &str) -> String {
    let words: Vec<_> = key.split(['/', '_']).filter(|word| *word != NANOS).collect();
    let key = words.join("_");
    let words = key.replace("p99_99", "p99.99").replace("p99_9", "p99.9").replace('_', " ");
    let mut letters = words.chars();
    match letters.next() {
        // Percentiles are written small.
        Some(first) if !words.starts_with("p9") && !words.starts_with("p5") => {
            first.to_uppercase().chain(letters).collect()
        }
        _ => words,
    }
}

fn cell(key: &str, value: &Value) -> Markup {
    html! {
        @match value {
            Value::Null => td {},
            Value::Number(number) => td {
                @match number.as_u64() {
                    Some(nanos) if key.split('_').any(|word| word == NANOS) => { (time(nanos)) }
                    Some(count) => { (count) }
                    None => { (format!("{:.3}", number.as_f64().unwrap_or_default())) }
                }
            },
            Value::Bool(is) => td { @if *is { "yes" } @else { "no" } },
            Value::String(text) => td.words { (text) },
            Value::Array(_) | Value::Object(_) => td.words { (value) },
        }
    }
}

/// A time for people. The whole nanoseconds are its machine-readable value.
pub fn time(nanos: u64) -> Markup {
    html! { data value=(nanos) { (time_us(nanos as f64 / 1e3)) } }
}
