//! Which charts a page has: those of one result, or one line for each of several results.

use super::chart::{Chart, Frame, Quantity, Series, Shape};
use super::tables::OfPercentiles;
use crate::report::hdr;
use crate::report::saved::SavedResult;
use crate::report::schema::{
    AbSummary, Distribution, LinkSummary, PartsSummary, Percentiles, RunSummary, SecondSummary,
    SliceSummary, StepResult, StepSummary,
};
use crate::stats::parts::Part;

/// The points of a line.
type Points = Vec<(f64, f64)>;

const OVER_TIME: [OfPercentiles; 5] = [
    ("p50", |of| of.p50_ns),
    ("p90", |of| of.p90_ns),
    ("p99", |of| of.p99_ns),
    ("p99.9", |of| of.p99_9_ns),
    ("max", |of| of.max_ns),
];
const OF_LAG: [OfPercentiles; 3] = [
    ("Send lag p50", |of| of.p50_ns),
    ("Send lag p99", |of| of.p99_ns),
    ("Send lag max", |of| of.max_ns),
];
const OF_STEPS: [OfPercentiles; 4] = [
    ("p50", |of| of.p50_ns),
    ("p90", |of| of.p90_ns),
    ("p99", |of| of.p99_ns),
    ("max", |of| of.max_ns),
];

/// The charts of one result.
///
/// # Errors
/// A histogram is malformed.
pub fn of_one(result: &SavedResult) -> Result<Vec<Chart>, String> {
    let mut charts = Vec::new();
    if !result.steps().is_empty() {
        // The first objective of each run is that of the search.
        let limit = result.run().and_then(|run| run.objectives.first()?.limit_ns);
        charts.push(curve(result.steps(), limit));
    }
    charts.push(by_percentile(result)?);
    if let SavedResult::Link(link) = result {
        charts.push(of_link(link)?);
    }
    if let SavedResult::Ab(ab) = result {
        charts.extend(of_ab(ab)?);
    }
    charts.extend(result.parts().map(of_parts));
    if let Some(run) = result.run() {
        charts.push(of_targets(run)?);
        charts.push(Chart::of_lines(FAIRNESS, vec![("Replies".to_string(), shares(run))]));
        charts.extend(over_time(run));
    }
    charts.retain(Chart::has_values);
    Ok(charts)
}

/// The charts of several results, each with its name.
///
/// # Errors
/// A histogram is malformed.
pub fn of_several(results: &[(String, SavedResult)]) -> Result<Vec<Chart>, String> {
    let mut latencies = Vec::new();
    for (name, result) in super::measured(results) {
        if let Some((_, latency)) = result.latency() {
            latencies.push((name.clone(), percentiles(latency, name)?));
        }
    }
    let of_each = |points: &dyn Fn(&SavedResult) -> Points| -> Vec<(String, Points)> {
        let each = super::measured(results);
        each.map(|(name, result)| (name.clone(), points(result))).collect()
    };
    let seconds = |of: fn(&SecondSummary) -> Option<f64>| {
        of_each(&move |result| result.run().map_or(Vec::new(), |run| over_seconds(run, of)))
    };
    let mut charts = vec![
        Chart::of_lines(
            Frame {
                about: "The 99th percentile of the runs of searches, at the rates that they tried.",
                ..CURVE
            },
            of_each(&|result| last_tries(result.steps(), |of| of.p99_ns)),
        ),
        Chart::of_lines(BY_PERCENTILE, latencies),
        Chart::of_lines(RATE, seconds(|second| Some(second.requests_per_second))),
        Chart::of_lines(
            Frame {
                title: "99th percentile over time",
                about: "Of the latencies of each second.",
                ..LATENCY_OVER_TIME
            },
            seconds(|second| second.latency.p99_ns.map(float)),
        ),
        Chart::of_lines(FAIRNESS, of_each(&|result| result.run().map_or(Vec::new(), shares))),
        Chart::of_lines(CONNECTIONS, seconds(|second| Some(float(second.connections_open)))),
        Chart::of_lines(ERRORS, seconds(|second| Some(float(second.errors)))),
    ];
    charts.retain(Chart::has_values);
    Ok(charts)
}

const BY_PERCENTILE: Frame = Frame {
    id: "percentiles",
    title: "Latency by percentile",
    about: "From 90 % to 99 % is as far as from 99 % to 99.9 %.",
    x_label: "Percentile",
    x_kind: Quantity::Percentile,
    ..OVER_SECONDS
};

const OF_TARGETS: Frame =
    Frame { id: "targets", title: "Latency of each target by percentile", ..BY_PERCENTILE };

const FAIRNESS: Frame = Frame {
    id: "fairness",
    title: "Replies on each connection",
    about: "The connections in the order of their replies, those with the fewest first. If the line \
            is flat, all had the same number.",
    x_label: "Connections",
    x_kind: Quantity::Percent,
    y_kind: Quantity::Count,
};

const LATE: Frame = Frame {
    id: "late",
    title: "How late packets left the link, by percentile",
    about: "After the time at which each was to leave. It is added to the delay that was asked for.",
    ..BY_PERCENTILE
};

const PARTS: Frame = Frame {
    id: "parts",
    title: "Where the time went, by percentile of the latency",
    about: "The mean of each part of the requests whose latency is at this percentile. The parts \
            add up to the latency.",
    ..BY_PERCENTILE
};

const ROUNDS: Frame = Frame {
    id: "rounds",
    title: "Median latency in each round",
    about: "Of each target. What changes on the machine from round to round is in all of them.",
    x_label: "Round",
    x_kind: Quantity::Count,
    ..OVER_SECONDS
};

const CURVE: Frame = Frame {
    id: "curve",
    title: "Latency at each rate that was tried",
    about: "The lines go through the last try at each rate; points are single tries.",
    x_label: "Rate",
    x_kind: Quantity::Rate,
    ..OVER_SECONDS
};

/// What the charts over time have in common.
const OVER_SECONDS: Frame = Frame {
    id: "",
    title: "",
    about: "",
    x_label: "Time",
    x_kind: Quantity::Seconds,
    y_kind: Quantity::Time,
};

const RATE: Frame = Frame {
    id: "rate",
    title: "Rate over time",
    about: "Complete, verified replies per second.",
    y_kind: Quantity::Rate,
    ..OVER_SECONDS
};

const LATENCY_OVER_TIME: Frame = Frame {
    id: "latency",
    title: "Latency over time",
    about: "Percentiles of each second.",
    ..OVER_SECONDS
};

const LAG: Frame = Frame {
    id: "lag",
    title: "Send lag beside the latency",
    about: "From the time at which a request was to be sent to the actual send. It is part of the \
            latency.",
    ..OVER_SECONDS
};

const CONNECTIONS: Frame = Frame {
    id: "connections",
    title: "Connections over time",
    about: "Open at the end of each second.",
    y_kind: Quantity::Count,
    ..OVER_SECONDS
};

const ERRORS: Frame = Frame {
    id: "errors",
    title: "Errors over time",
    about: "Connections that failed, were lost, or had a byte that differed.",
    y_kind: Quantity::Count,
    ..OVER_SECONDS
};

const OUTSTANDING: Frame = Frame {
    id: "outstanding",
    title: "Outstanding requests over time",
    about: "On average in each second, as counted and by Little's law.",
    y_kind: Quantity::Count,
    ..OVER_SECONDS
};

const PROCESSORS: Frame = Frame {
    id: "processors",
    title: "Processors of the generator over time",
    about: "How many its threads used, and for how many they waited.",
    y_kind: Quantity::Count,
    ..OVER_SECONDS
};

fn by_percentile(result: &SavedResult) -> Result<Chart, String> {
    // Without intended times, the service time is the latency.
    let open_loop = result.distributions().iter().any(|(key, _)| *key == "send_lag");
    // Only the latency of shards is cut to the time in which all measured.
    let is_cut = result.distributions().iter().any(|(key, _)| *key == "latency_together");
    let mut series = Vec::new();
    for (key, distribution) in result.distributions() {
        let label = match key {
            "latency_together" => "Latency while all shards measured",
            "latency" if is_cut => "Latency (of the whole shards)",
            "service_time" if is_cut && open_loop => "Service time (of the whole shards)",
            "send_lag" if is_cut => "Send lag (of the whole shards)",
            "own_lag" if is_cut => "Own lag (of the whole shards)",
            "latency" => "Latency (from the intended time)",
            "service_time" if open_loop => "Service time (from the send)",
            "send_lag" => "Send lag",
            "own_lag" => "Own lag (of the generator)",
            _ => continue,
        };
        series.push((label.to_string(), percentiles(distribution, key)?));
    }
    if let [(label, _)] = &mut series[..] {
        *label = "Latency".into();
    }
    Ok(Chart::of_lines(BY_PERCENTILE, series))
}

fn of_targets(run: &RunSummary) -> Result<Chart, String> {
    let mut series = Vec::new();
    for target in run.per_target.iter().flatten() {
        if let Some(latency) = &target.latency {
            series.push((target.target.clone(), percentiles(latency, &target.target)?));
        }
    }
    Ok(Chart::of_lines(OF_TARGETS, series))
}

/// The numbers of replies on a connection, at each percent of the connections. A single one cannot be
/// treated unfairly.
fn shares(run: &RunSummary) -> Points {
    let replies =
        run.connections.replies_at_percent.iter().filter(|_| run.connections.established > 1);
    replies.enumerate().map(|(percent, replies)| (percent as f64, float(*replies))).collect()
}

/// The mean of each part, at the percentile of the middle of each group of requests. A part that
/// took no time has no place on a logarithmic axis.
fn of_parts(parts: &PartsSummary) -> Chart {
    let all = parts.shares.requests.max(1) as f64;
    let mut lines = Part::ALL.map(|part| (part.words().to_string(), Points::new()));
    let mut before = 0;
    for (_, row) in parts.rows() {
        let rank = (before as f64 + row.count as f64 / 2.0) / all * 100.0;
        before += row.count;
        for ((_, points), sum) in lines.iter_mut().zip(row.sums) {
            if sum > 0 {
                points.push((rank, sum as f64 / row.count as f64));
            }
        }
    }
    Chart::of_lines(PARTS, lines.to_vec())
}

fn of_link(link: &LinkSummary) -> Result<Chart, String> {
    let there = percentiles(&link.there.late, "there")?;
    let back = percentiles(&link.back.late, "back")?;
    Ok(Chart::of_lines(LATE, vec![("There".into(), there), ("Back".into(), back)]))
}

/// The latency of each target, in all rounds and in each of them.
fn of_ab(ab: &AbSummary) -> Result<[Chart; 2], String> {
    let mut whole = Vec::new();
    for target in &ab.targets {
        whole.push((target.name.clone(), percentiles(&target.latency, &target.name)?));
    }
    let each = ab.targets.iter().map(|target| {
        let slices = ab.slices.iter().filter(|slice| slice.name == target.name);
        let point = |slice: &SliceSummary| Some((float(slice.round), float(slice.latency.p50_ns?)));
        (target.name.clone(), slices.filter_map(point).collect())
    });
    Ok([Chart::of_lines(OF_TARGETS, whole), Chart::of_lines(ROUNDS, each.collect())])
}

/// Without the largest value, which has no place on the axis: all lines before the last have it too
/// if they are beyond the last but one value.
fn percentiles(distribution: &Distribution, name: &str) -> Result<Points, String> {
    let values = distribution.histogram().map_err(|why| format!("{name}: {why}"))?;
    let points = hdr::percentiles(&values).into_iter().filter(|(rank, _)| *rank < 100.0);
    Ok(points.map(|(rank, value)| (rank, float(value))).collect())
}

fn over_time(run: &RunSummary) -> Vec<Chart> {
    let of_latency = |of: fn(&Percentiles) -> Option<u64>| {
        over_seconds(run, |second| of(&second.latency).map(float))
    };
    let latencies = OVER_TIME.map(|(name, of)| (name.to_string(), of_latency(of)));
    let lags = OF_LAG.map(|(name, of)| {
        (name.to_string(), over_seconds(run, |second| of(&second.send_lag).map(float)))
    });
    let has_lag = lags.iter().any(|(_, points)| !points.is_empty());
    let mut lag = vec![("Latency p99".to_string(), of_latency(|of| of.p99_ns))];
    lag.extend(lags);
    let one = |name: &str, points| vec![(name.to_string(), points)];
    let rate = match run.intervals.is_empty() {
        false => over_seconds(run, |second| Some(second.requests_per_second)),
        // A file of an earlier version.
        true => over_steps(run, |step| per_nano(step.replies, step) * 1e9),
    };
    let open = over_seconds(run, |second| Some(float(second.connections_open)));
    let errors = over_seconds(run, |second| Some(float(second.errors)));
    let steps = |name: &str, of: fn(&StepSummary) -> f64| (name.to_string(), over_steps(run, of));
    vec![
        Chart::of_lines(RATE, one("Replies", rate)),
        Chart::of_lines(LATENCY_OVER_TIME, latencies.to_vec()),
        Chart::of_lines(LAG, if has_lag { lag } else { Vec::new() }),
        Chart::of_lines(CONNECTIONS, one("Open", open)),
        Chart::of_lines(ERRORS, one("Errors", errors)),
        Chart::of_lines(
            OUTSTANDING,
            vec![
                steps("Counted", |step| step.outstanding_mean),
                steps("By Little's law", |step| step.outstanding_expected),
            ],
        ),
        Chart::of_lines(
            PROCESSORS,
            vec![
                steps("Used", |step| per_nano(step.running_ns, step)),
                steps("Waited for", |step| per_nano(step.waiting_ns, step)),
            ],
        ),
    ]
}

/// Without the last interval if it has no length: what came after the end has no rate.
fn over_seconds(run: &RunSummary, of: impl Fn(&SecondSummary) -> Option<f64>) -> Points {
    let seconds = run.intervals.iter().filter(|second| second.length_ns > 0);
    seconds.filter_map(|second| Some((float(second.start_ns), of(second)?))).collect()
}

fn over_steps(run: &RunSummary, of: impl Fn(&StepSummary) -> f64) -> Points {
    let mut start = 0.0;
    let mut points = Vec::new();
    for step in run.seconds.iter().filter(|step| step.length_ns > 0) {
        points.push((start, of(step)));
        start += float(step.length_ns);
    }
    points
}

fn per_nano(count: u64, step: &StepSummary) -> f64 {
    float(count) / float(step.length_ns)
}

fn float(value: u64) -> f64 {
    value as f64
}

/// The runs of a search. There can be several at a rate. `limit_ns`: what their objective allows.
fn curve(steps: &[StepResult], limit_ns: Option<u64>) -> Chart {
    let mut sorted: Vec<&StepResult> = steps.iter().collect();
    sorted.sort_by_key(|step| step.rate_per_second);
    let is_last = |nth: usize| {
        sorted.get(nth + 1).is_none_or(|next| next.rate_per_second != sorted[nth].rate_per_second)
    };
    let values = |of: &dyn Fn(usize, &StepResult) -> Option<u64>| {
        sorted.iter().enumerate().map(|(nth, step)| of(nth, step).map(float)).collect()
    };
    let mut series: Vec<Series> = OF_STEPS
        .map(|(name, of)| Series {
            label: name.into(),
            values: values(&|nth, step| of(&step.latency).filter(|_| is_last(nth))),
            shape: Shape::Line,
        })
        .to_vec();
    series.retain(|series| series.values.iter().any(Option::is_some));
    if let Some(limit) = limit_ns {
        let values = vec![Some(float(limit)); sorted.len()];
        series.push(Series { label: "Limit".into(), values, shape: Shape::Line });
    }
    for (label, kept, shape) in [("Kept", true, Shape::Full), ("Not kept", false, Shape::Empty)] {
        let values = values(&|_, step| step.measured_ns.filter(|_| step.kept == kept));
        series.push(Series { label: label.into(), values, shape });
    }
    let x = sorted.iter().map(|step| float(step.rate_per_second)).collect();
    Chart { frame: CURVE, x, series }
}

/// The last try at each rate.
fn last_tries(steps: &[StepResult], of: fn(&Percentiles) -> Option<u64>) -> Points {
    let mut points: Points = Vec::new();
    let mut sorted: Vec<&StepResult> = steps.iter().collect();
    sorted.sort_by_key(|step| step.rate_per_second);
    for step in sorted {
        let rate = float(step.rate_per_second);
        points.pop_if(|(last, _)| *last == rate);
        if let Some(value) = of(&step.latency) {
            points.push((rate, float(value)));
        }
    }
    points
}
