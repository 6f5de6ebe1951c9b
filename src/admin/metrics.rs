//! The page `/metrics`, in the text format of Prometheus (version 0.0.4). The table of counters
//! declares most of the metrics and the histograms, and `OTHERS` the rest.

use std::fmt::Write;
use std::time::UNIX_EPOCH;

use super::{AdminState, health};
use crate::error::CloseReason;
use crate::shared::counters::{HistogramRow, MetricKind, ROWS, TIMES};
use crate::shared::histogram::{Recorded, bounds_nanos};

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A metric that is no counter of the workers. Those whose names end in `_total` are counters, the
/// others gauges.
struct Other {
    name: &'static str,
    #[cfg(test)]
    unit: &'static str,
    /// The label, if there is one.
    label: Option<&'static str>,
    help: &'static str,
    /// Returns each value, with the value of its label.
    values: fn(&AdminState) -> Vec<(&'static str, f64)>,
}

impl Other {
    fn kind(&self) -> MetricKind {
        if self.name.ends_with("_total") { MetricKind::Counter } else { MetricKind::Gauge }
    }
}

const OTHERS: &[Other] = &[
    Other {
        name: "echopool_buffers",
        #[cfg(test)]
        unit: "buffers",
        label: None,
        help: "Buffers of all workers together.",
        values: |state| vec![("", f64::from(state.server.limits().buffers))],
    },
    Other {
        name: "echopool_buffer_size_bytes",
        #[cfg(test)]
        unit: "bytes",
        label: None,
        help: "Size of a buffer.",
        values: |state| vec![("", state.server.limits().buffer_size as f64)],
    },
    Other {
        name: "echopool_connections_max",
        #[cfg(test)]
        unit: "connections",
        label: None,
        help: "Most connections of all workers together.",
        values: |state| vec![("", f64::from(state.server.limits().max_connections))],
    },
    Other {
        name: "echopool_memory_bytes",
        #[cfg(test)]
        unit: "bytes",
        label: Some("part"),
        help: "Memory that the server has reserved: the terms of the memory sum.",
        values: |state| {
            let terms = state.server.memory.terms.iter();
            terms.map(|term| (term.name, term.bytes as f64)).collect()
        },
    },
    Other {
        name: "echopool_ready",
        #[cfg(test)]
        unit: "",
        label: None,
        help: "1 if new clients are welcome, as /readyz says; 0 otherwise.",
        values: |state| vec![("", f64::from(u8::from(health::not_ready(state).is_none())))],
    },
    Other {
        name: "echopool_start_time_seconds",
        #[cfg(test)]
        unit: "seconds",
        label: None,
        help: "When the server started, in seconds since 1970.",
        values: |state| {
            let since = state.started.duration_since(UNIX_EPOCH).unwrap_or_default();
            vec![("", since.as_secs_f64())]
        },
    },
    Other {
        name: "echopool_config_last_reload_successful",
        #[cfg(test)]
        unit: "",
        label: None,
        help: "1 if the configuration that was read last was applied; 0 if it was wrong.",
        values: |state| vec![("", f64::from(u8::from(state.loaded().is_successful)))],
    },
    Other {
        name: "echopool_config_last_reload_success_timestamp_seconds",
        #[cfg(test)]
        unit: "seconds",
        label: None,
        help: "When a configuration was applied last, in seconds since 1970.",
        values: |state| {
            let since = state.loaded().at.duration_since(UNIX_EPOCH).unwrap_or_default();
            vec![("", since.as_secs_f64())]
        },
    },
    Other {
        name: "echopool_config_generation",
        #[cfg(test)]
        unit: "",
        label: None,
        help: "How often a configuration was applied, with the start.",
        values: |state| vec![("", state.loaded().generation as f64)],
    },
    Other {
        name: "echopool_upgrades_total",
        #[cfg(test)]
        unit: "upgrades",
        label: None,
        help: "Times that another process has taken over, since the first one started.",
        values: |state| vec![("", state.upgrades().done as f64)],
    },
    Other {
        name: "echopool_upgrades_failed_total",
        #[cfg(test)]
        unit: "upgrades",
        label: None,
        help: "Upgrades that have failed, since the first process started: the process that ran went on.",
        values: |state| vec![("", state.upgrades().failed as f64)],
    },
    Other {
        name: "echopool_build_info",
        #[cfg(test)]
        unit: "",
        label: Some("version"),
        help: "The version of echopool. The value is always 1.",
        values: |_| vec![(env!("CARGO_PKG_VERSION"), 1.0)],
    },
];

/// The page.
pub(super) fn text(state: &AdminState) -> String {
    let stats = state.server.stats();
    let mut page = String::with_capacity(16 << 10);
    for row in ROWS {
        head(&mut page, row.metric, row.kind.word(), row.help());
        if row.by_reason {
            let total = stats.total();
            for reason in CloseReason::ALL {
                line(&mut page, row.metric, Some(("reason", reason.word())), total.closed(reason));
            }
            continue;
        }
        for (worker, counts) in stats.workers().iter().enumerate() {
            line(&mut page, row.metric, Some(("worker", worker)), (row.value)(counts));
        }
    }
    for times in TIMES {
        head(&mut page, times.metric, HISTOGRAM, times.help());
        for (worker, counters) in state.server.counters().iter().enumerate() {
            histogram(&mut page, times, worker, &(times.of)(counters).read());
        }
    }
    for other in OTHERS {
        head(&mut page, other.name, other.kind().word(), other.help);
        for (label, value) in (other.values)(state) {
            line(&mut page, other.name, other.label.map(|name| (name, label)), value);
        }
    }
    page
}

const HISTOGRAM: &str = "histogram";

const NANOS_PER_SECOND: f64 = 1e9;

/// The series of a worker's histogram. The count is the sum of what was read of the buckets, so that
/// the two agree while the worker goes on.
fn histogram(
    page: &mut String,
    HistogramRow { metric, .. }: &HistogramRow,
    worker: usize,
    recorded: &Recorded,
) {
    let count = recorded.count();
    let mut bucket = |bound: &dyn std::fmt::Display, count| {
        writeln!(page, "{metric}_bucket{{worker=\"{worker}\",le=\"{bound}\"}} {count}")
            .expect("a string takes it");
    };
    for (bound, count) in bounds_nanos().zip(recorded.cumulated()) {
        bucket(&(bound as f64 / NANOS_PER_SECOND), count);
    }
    bucket(&"+Inf", count);
    let (of, sum) = (Some(("worker", worker)), recorded.sum_nanos as f64 / NANOS_PER_SECOND);
    line(page, &format!("{metric}_sum"), of, sum);
    line(page, &format!("{metric}_count"), of, count);
}

fn head(page: &mut String, name: &str, kind: &str, help: &str) {
    let help = help.replace('`', "");
    write!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n").expect("a string takes it");
}

/// Values of labels have no characters that need an escape.
fn line(
    page: &mut String,
    name: &str,
    label: Option<(&str, impl std::fmt::Display)>,
    value: impl std::fmt::Display,
) {
    match label {
        Some((label, of)) => writeln!(page, "{name}{{{label}=\"{of}\"}} {value}"),
        None => writeln!(page, "{name} {value}"),
    }
    .expect("a string takes it");
}

/// The table of docs/operations.md.
#[cfg(test)]
pub(super) fn documentation() -> String {
    use crate::shared::counters::CounterRow;

    let mut table = "| metric | in the totals | kind | unit | by | meaning |\n\
                     | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for row in ROWS {
        let by = if row.by_reason { "reason" } else { "worker" };
        let CounterRow { metric, name, kind, unit, .. } = row;
        let (kind, help) = (kind.word(), row.help());
        writeln!(table, "| `{metric}` | `{name}` | {kind} | {unit} | {by} | {help} |").unwrap();
    }
    for times in TIMES {
        let (metric, name, help) = (times.metric, times.name, times.help());
        let names = format!("`{name}_p50_us`, `{name}_p99_us`");
        writeln!(table, "| `{metric}` | {names} | {HISTOGRAM} | seconds | worker | {help} |")
            .unwrap();
    }
    for other @ Other { name, unit, label, help, .. } in OTHERS {
        let (by, kind) = (label.unwrap_or_default(), other.kind().word());
        writeln!(table, "| `{name}` | | {kind} | {unit} | {by} | {help} |").unwrap();
    }
    table
}
