//! Results as one page of HTML that needs nothing else: no network, no font, no other file.
//!
//! * here: the page, and what stands in it
//! * `verdict`: the result in plain sentences; `tables`: numbers without a script
//! * `link`: an emulated link
//! * `charts`: which charts there are; `chart`: their numbers, which `page.js` draws with uPlot
//!
//! The charts are drawn by a script because only that gives one crosshair over all of them, and
//! zoom. The page is safe to open whatever the file of a result contains: text is escaped by the
//! macro that makes the HTML, numbers are in a block that is no script, and the page allows no
//! script but its own (by its hash) and no request.

mod chart;
mod charts;
mod link;
mod tables;
#[cfg(test)]
pub mod tests;
mod verdict;

use echopool::internals::uplot;
use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::{Value, json};

use super::saved::SavedResult;
use super::schema::{
    AbSummary, ComparisonSummary, Distribution, FigureDifference, MergedSummary, ObjectiveResult,
    PROGRAM_VERSION, PartShares, PartsSummary, RunSummary, SearchSummary, ShardsSummary,
    StampSummary, TlsSummary,
};
use crate::plan::calibration::{Calibration, MachineName};
use crate::stats::fail_if::{by_text, times_text};
use crate::stats::parts::Part;
use crate::units::{metric, time_us};
use chart::Chart;
use verdict::Sentence;

/// What draws the charts with uPlot.
const SCRIPT: &str = include_str!("page.js");
/// The base64 of the SHA-256 of [`script`]. A test computes it.
const SCRIPT_SHA256: &str = "DVD03fZ1KVZIapWN7v9D6oaAVwCgt55VYsyAMZur88o=";
const STYLE: &str = include_str!("page.css");

/// Rows of the table of seconds, at most. A longer one is not read by people.
const SECONDS_MAX: usize = 300;

/// The script of the page: the licence of uPlot, uPlot, and what draws the charts with it.
fn script() -> String {
    format!("/*\nuPlot 1.6.32\n\n{}\n*/\n{}\n{SCRIPT}", uplot::LICENSE, uplot::SCRIPT)
}

fn style() -> String {
    format!("{}\n{STYLE}", uplot::STYLE)
}

/// Renders results, each with its name: one with all of its charts and tables, or several beside
/// each other.
///
/// # Errors
/// A histogram is malformed.
pub fn render(results: &[(String, SavedResult)]) -> Result<String, String> {
    let (title, charts, body) = match results {
        [(name, result)] => {
            let charts = charts::of_one(result).map_err(|why| format!("{name}: {why}"))?;
            (title(name, result), charts, one(result))
        }
        _ => {
            let title = format!("{} results", measured(results).count());
            (title, charts::of_several(results)?, several(results))
        }
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy());
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content=(format!("loadgen {PROGRAM_VERSION}"));
                link rel="icon" href="data:,";
                title { (title) " – loadgen" }
                style { (PreEscaped(style())) }
            }
            body {
                h1 { (title) }
                (body.above)
                (figures(&charts))
                (body.below)
                footer.faint {
                    "Made by loadgen " (PROGRAM_VERSION) ". Charts by uPlot 1.6.32 (MIT licence). \
                     Times are those of the generator's clock."
                }
                script id="numbers" type="application/json" {
                    (PreEscaped(in_script(&chart::numbers(&charts))))
                }
                script { (PreEscaped(script())) }
            }
        }
    };
    Ok(page.into_string())
}

/// What the browser may do with the page: run its script and apply styles, and request nothing.
fn policy() -> String {
    format!(
        "default-src 'none'; script-src 'sha256-{SCRIPT_SHA256}'; style-src 'unsafe-inline'; \
         img-src data:; base-uri 'none'; form-action 'none'"
    )
}

/// JSON that can stand between the tags of a script: without `<`, which could end it.
fn in_script(numbers: &Value) -> String {
    numbers.to_string().replace('<', "\\u003c")
}

/// The parts of a page above its charts and below.
struct Body {
    above: Markup,
    below: Markup,
}

fn title(name: &str, result: &SavedResult) -> String {
    match result {
        SavedResult::Run(run) => run.target.clone(),
        SavedResult::Search(search) => format!("Highest rate with {}", search.objective),
        SavedResult::Merged(merged) if name.is_empty() => format!("{} runs", merged.runs),
        SavedResult::Merged(merged) => format!("{} runs ({name})", merged.runs),
        SavedResult::Ab(ab) => {
            let each = ab.targets.iter().map(|one| format!("{} {}", one.name, one.target));
            each.collect::<Vec<_>>().join(" against ")
        }
        SavedResult::Comparison(comparison) => {
            let ComparisonSummary { first, second, .. } = comparison.as_ref();
            format!("{} against {}", second.join(" "), first.join(" "))
        }
        SavedResult::Calibration(found) => format!("Ceiling of {}", found.machine.hostname),
        SavedResult::Link(_) => "An emulated link".into(),
    }
}

fn verdict_box(result: &SavedResult) -> Markup {
    let Sentence { tone, text, reasons, exit_code } = Sentence::of(result);
    html! {
        div class={ "verdict " (tone.class()) } {
            p { strong { (text) } }
            ul { @for reason in reasons { li { (reason) } } }
            // That of a link is the code of the command behind it.
            @if !matches!(result, SavedResult::Link(_)) { p.faint { "Exit code " (exit_code) } }
        }
    }
}

fn figures(charts: &[Chart]) -> Markup {
    html! {
        @if !charts.is_empty() {
            h2 { "Charts" }
            noscript { p { "The charts need JavaScript. The tables below do not." } }
            p.about.hint {
                "Drag over a chart to enlarge a part of it; a double click shows all of it again. \
                 Click on a name to hide its line."
            }
            div.charts {
                @for chart in charts {
                    @let chart::Frame { id, title, about, .. } = chart.frame;
                    @let is_wide = matches!(id, "percentiles" | "curve");
                    figure class=[is_wide.then_some("wide")] {
                        h3 { (title) }
                        p.about { (about) }
                        div.chart id={ "chart-" (id) } {}
                    }
                }
            }
        }
    }
}

/// A page of one result.
fn one(result: &SavedResult) -> Body {
    let (above, below) = match result {
        SavedResult::Run(run) => (run_above(run), run_below(run)),
        SavedResult::Search(search) => (search_above(search), search_below(search)),
        SavedResult::Merged(merged) => (html! {}, merged_below(merged)),
        SavedResult::Ab(ab) => (differences(ab), ab_below(ab)),
        SavedResult::Comparison(comparison) => (html! {}, of_sets(comparison)),
        SavedResult::Calibration(found) => (html! {}, calibration(found)),
        SavedResult::Link(link) => (html! {}, link::tables(link)),
    };
    Body {
        above: html! { (verdict_box(result)) (above) },
        below: html! {
            h2 { "Numbers" }
            @let columns = columns(result);
            @if !columns.is_empty() { (tables::percentiles("Times", &columns)) }
            (below)
        },
    }
}

/// The distributions with their names in words. Only the latency of shards is cut to the time in which
/// all measured.
fn columns(result: &SavedResult) -> Vec<(String, &Distribution)> {
    let words = |key: &str| match key {
        "latency_together" => "Latency together",
        "latency" => "Latency",
        "service_time" => "Service time",
        "send_lag" => "Send lag",
        "own_lag" => "Own lag",
        "late_there" => "Late, there",
        "late_back" => "Late, back",
        _ => "Connect",
    };
    let all = result.distributions();
    let is_cut = all.iter().any(|(key, _)| *key == "latency_together");
    let name = |key: &str| match is_cut && key != "latency_together" {
        true => format!("{}, whole shards", words(key)),
        false => words(key).to_string(),
    };
    all.into_iter().map(|(key, values)| (name(key), values)).collect()
}

/// The most important figures, large.
fn headline(pairs: &[(&str, String)]) -> Markup {
    html! {
        dl.figures { @for (name, value) in pairs { div { dt { (name) } dd { (value) } } } }
    }
}

fn run_above(run: &RunSummary) -> Markup {
    let time = |nanos: Option<u64>| nanos.map_or("–".into(), |ns| time_us(ns as f64 / 1e3));
    let latency = &run.latency.percentiles;
    let errors: u64 = run.errors.values().map(|count| count.get()).fold(0, u64::saturating_add);
    html! {
        (headline(&[
            ("Replies per second", metric(run.requests_per_second)),
            ("Latency p50", time(latency.p50_ns)),
            ("Latency p99", time(latency.p99_ns)),
            ("Latency p99.9", time(latency.p99_9_ns)),
            ("Latency max", time(latency.max_ns)),
            ("Connections", run.connections.established.to_string()),
            ("Errors", errors.to_string()),
        ]))
    }
}

fn run_below(run: &RunSummary) -> Markup {
    let errors: Vec<_> =
        run.errors.iter().map(|(name, count)| (name.clone(), json!(count))).collect();
    let targets = run.per_target.as_deref().unwrap_or_default();
    html! {
        @if let Some(parts) = &run.parts { (where_the_time_went("Where the time went", parts)) }
        @if !run.objectives.is_empty() {
            (tables::objects("Objectives", &OBJECTIVE_KEYS, &objectives(run)))
        }
        div.tables {
            (tables::pairs("Requests", &requests(run)))
            (tables::pairs("Connections", &connections(run)))
            @if run.tcp.connections > 0 { (tables::pairs("TCP", &tables::fields(&run.tcp))) }
            @if errors.is_empty() { p { "No connection failed." } }
            @else { (tables::pairs("Errors", &errors)) }
            @if let Some(tls) = &run.tls { (tables::pairs("TLS", &handshakes(tls))) }
        }
        @if targets.len() > 1 { (tables::objects("Targets", &TARGET_KEYS, targets)) }
        @if let Some(datagrams) = &run.datagrams {
            (tables::pairs("Datagrams", &tables::fields(datagrams)))
        }
        @if let Some(stamp) = &run.stamp { (reflected(stamp)) }
        @if let Some(hub) = &run.hub { (tables::pairs("Hub", &tables::fields(hub))) }
        @if !run.rude_clients.is_empty() {
            (tables::objects("Rude clients", &RUDE_KEYS, &run.rude_clients))
        }
        @if !run.first_mismatches.is_empty() {
            (tables::objects("First bytes that differed", &MISMATCH_KEYS, &run.first_mismatches))
        }
        div.tables {
            (tables::pairs("Generator", &generator(run)))
            @if !run.generator_threads.is_empty() {
                (tables::objects("Threads", &THREAD_KEYS, &run.generator_threads))
            }
        }
        (seconds(run))
        h2 { "How it was measured" }
        (conditions(run))
    }
}

/// The parts of the latency, for a server whose replies carry its times.
fn where_the_time_went(title: &str, parts: &PartsSummary) -> Markup {
    let mut columns: Vec<_> = Part::ALL
        .into_iter()
        .zip(parts.each())
        .map(|(part, values)| (part.words().to_string(), values))
        .collect();
    if let Some(ways) = &parts.one_way {
        columns.push(("one way, there".into(), &ways.there));
        columns.push(("one way, back".into(), &ways.back));
    }
    let shares = |shares: &PartShares| {
        let parts = Part::ALL.into_iter().zip(shares.each());
        let rows = parts.map(|(part, share)| (part.words().to_string(), json!(percent(share))));
        rows.chain([("Requests".to_string(), json!(shares.requests))]).collect::<Vec<_>>()
    };
    html! {
        (tables::percentiles(title, &columns))
        div.tables {
            (tables::pairs("Shares of all latencies", &shares(&parts.shares)))
            (tables::pairs("Shares of the slowest 1 %", &shares(&parts.shares_slowest)))
        }
    }
}

fn objectives(run: &RunSummary) -> Vec<Value> {
    let row = |objective: &ObjectiveResult| {
        let result = match objective {
            ObjectiveResult { met: true, .. } => "met",
            ObjectiveResult { undecided: true, .. } => "undecided",
            _ => "missed",
        };
        let measured = match (objective.measured_ns, objective.measured) {
            (Some(nanos), _) => json!(time_us(nanos as f64 / 1e3)),
            (None, measured) => json!(measured),
        };
        json!({ "objective": objective.objective, "result": result, "measured": measured })
    };
    run.objectives.iter().map(row).collect()
}

fn requests(run: &RunSummary) -> Vec<(String, Value)> {
    [
        ("Measured for_ns", json!(run.elapsed_ns)),
        ("Offered", json!(run.requests_offered)),
        ("Answered in time", json!(run.replies)),
        ("Answered after the end", json!(run.replies_late)),
        ("Timed out", json!(run.requests_timed_out)),
        ("Unanswered", json!(run.requests_unanswered)),
        ("Never sent", json!(run.requests_never_sent)),
        ("In the warm-up", json!(run.requests_warmup)),
        ("Replies per second", json!(run.requests_per_second)),
        ("Bytes per second", json!(run.bytes_read_per_second)),
        ("Bytes verified", json!(run.bytes_verified)),
        ("Connections that differed", json!(run.mismatched_connections)),
    ]
    .map(|(name, value)| (name.to_string(), value))
    .to_vec()
}

/// Without the numbers of the chart.
fn connections(run: &RunSummary) -> Vec<(String, Value)> {
    let fields = tables::fields(&run.connections).into_iter();
    fields.filter(|(_, value)| !value.is_array()).collect()
}

/// The tables of a run against a STAMP reflector.
fn reflected(stamp: &StampSummary) -> Markup {
    let StampSummary { round_trip, residence, there, back, .. } = stamp;
    let variations = [("Variation there", &there.variation), ("Variation back", &back.variation)];
    let delays = [("Delay there", &there.delay), ("Delay back", &back.delay)];
    let delays = delays.into_iter().filter_map(|(name, delay)| Some((name, delay.as_ref()?)));
    let times = [("Round trip", round_trip), ("In the reflector", residence)];
    let times = times.into_iter().chain(variations).chain(delays);
    let times: Vec<_> = times.map(|(name, of)| (name.to_owned(), of)).collect();
    let rows = [
        ("Lost there", json!(there.lost)),
        ("Lost back", json!(back.lost)),
        ("Lost in either direction", json!(stamp.lost_unknown)),
        ("Duplicated there", json!(there.duplicated)),
        ("Duplicated back", json!(back.duplicated)),
        ("jitter_there_ns", json!(there.jitter_ns)),
        ("jitter_back_ns", json!(back.jitter_ns)),
        ("Clocks agree", json!(stamp.clocks_agree)),
        ("Clocks disagree because", json!(stamp.clocks_reason)),
        ("clock_error_ns", json!(stamp.clock_error_ns)),
    ];
    let rows: Vec<_> = rows
        .into_iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    html! {
        (tables::percentiles("STAMP", &times))
        (tables::pairs("Directions and clocks", &rows))
    }
}

fn handshakes(tls: &TlsSummary) -> Vec<(String, Value)> {
    let (full, resumed) = (&tls.handshake_full.percentiles, &tls.handshake_resumed.percentiles);
    let rows = [
        ("Certificates verified", json!(tls.verified)),
        ("Full handshakes", json!(tls.handshakes_full)),
        ("Resumed handshakes", json!(tls.handshakes_resumed)),
        ("Resumed", json!(percent(tls.resumed_ratio))),
        ("Handshakes per second", json!(tls.handshakes_per_second)),
        ("Full handshake p50_ns", json!(full.p50_ns)),
        ("Full handshake p99_ns", json!(full.p99_ns)),
        ("Resumed handshake p50_ns", json!(resumed.p50_ns)),
        ("Resumed handshake p99_ns", json!(resumed.p99_ns)),
    ];
    let rows = rows.into_iter().filter(|(_, value)| !value.is_null());
    let sessions = tls.sessions.iter().map(|session| {
        (format!("TLS {} {}", session.version, session.cipher_suite), json!(session.count))
    });
    rows.map(|(name, value)| (name.to_string(), value)).chain(sessions).collect()
}

fn generator(run: &RunSummary) -> Vec<(String, Value)> {
    let ceiling = &run.ceiling;
    [
        ("Processors used", json!(run.generator_cores)),
        ("Busiest thread, busy", json!(percent(run.generator_busy_ratio))),
        ("Busiest thread, waiting", json!(percent(run.generator_waiting_ratio))),
        ("Longest pause_ns", json!(run.longest_pause_ns)),
        ("Saturated seconds", json!(run.saturated_seconds)),
        ("Processors of the server", json!(run.server_cores)),
        ("Fairness (Jain)", json!(run.fairness_jain)),
        ("Calibration", json!(ceiling.calibration)),
        ("Of this machine's ceiling", json!(ceiling.used_ratio.map(percent))),
        ("Floor latency p50_ns", json!(ceiling.floor_latency_p50_ns)),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_null())
    .map(|(name, value)| (name.to_string(), value))
    .collect()
}

fn percent(ratio: f64) -> String {
    format!("{:.1} %", ratio * 100.0)
}

fn seconds(run: &RunSummary) -> Markup {
    let rows = &run.intervals;
    html! {
        @if rows.len() > SECONDS_MAX {
            p { "The " (rows.len()) " seconds are in the charts, and in the JSON file; "
                code { "loadgen report FILE.json --to csv" } " makes a table of them." }
        } @else if !rows.is_empty() {
            details {
                summary { "Seconds" }
                (tables::objects("Each second", &SECOND_KEYS, rows))
            }
        }
    }
}

/// When and where something was measured.
fn machine(began_unix_ns: Option<u64>, version: &str, machine: Option<&MachineName>) -> Markup {
    let began = began_unix_ns.and_then(|ns| Timestamp::from_nanosecond(ns.into()).ok());
    let mut rows = Vec::new();
    if let Some(began) = began {
        rows.push((
            "Measured at".to_string(),
            json!(began.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()),
        ));
    }
    rows.push(("Version of loadgen".into(), json!(version)));
    rows.extend(machine.into_iter().flat_map(tables::fields));
    tables::pairs("Machine", &rows)
}

fn conditions(run: &RunSummary) -> Markup {
    html! {
        @if !run.command.is_empty() { pre { code { (command(&run.command)) } } }
        div.tables {
            (machine(run.began_unix_ns, &run.loadgen_version, run.machine.as_ref()))
            (tables::pairs("Settings", &tables::fields(&run.config)))
        }
    }
}

/// The command line as a shell takes it.
fn command(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@%+[]".contains(c);
    let quoted = |word: &String| match !word.is_empty() && word.chars().all(plain) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

fn search_above(search: &SearchSummary) -> Markup {
    html! {
        @if let Some(best) = &search.best {
            p { "Charts over time and numbers are those of the best run, at "
                (search.rate_per_second.unwrap_or_default()) "/s to " (best.target) "." }
            (run_above(best))
        }
    }
}

fn search_below(search: &SearchSummary) -> Markup {
    html! {
        (tables::objects("All runs", &STEP_KEYS, &search.steps))
        @if let Some(best) = &search.best { (run_below(best)) }
    }
}

fn merged_below(merged: &MergedSummary) -> Markup {
    // The rest of the object is shown elsewhere, or made of other objects.
    let is_shown = |value: &Value| value.is_number();
    let mut counts = tables::fields(merged);
    counts.retain(|(key, value)| {
        is_shown(value) && !matches!(key.as_str(), "exit_code" | "schema_version")
    });
    let errors: Vec<_> =
        merged.errors.iter().map(|(name, count)| (name.clone(), json!(count))).collect();
    let targets = merged.per_target.as_deref().unwrap_or_default();
    html! {
        @if let Some(parts) = &merged.parts {
            @let title = match merged.latency_together() {
                Some(_) => "Where the time went (in the whole shards)",
                None => "Where the time went",
            };
            (where_the_time_went(title, parts))
        }
        div.tables {
            (tables::pairs("Sums", &counts))
            @if !errors.is_empty() { (tables::pairs("Errors", &errors)) }
        }
        @if targets.len() > 1 { (tables::objects("Targets", &TARGET_KEYS, targets)) }
        @if let Some(datagrams) = &merged.datagrams {
            (tables::pairs("Datagrams", &tables::fields(datagrams)))
        }
        @if let Some(stamp) = &merged.stamp { (reflected(stamp)) }
        @if let Some(shards) = &merged.shards { (self::shards(merged, shards)) }
        h2 { "How it was measured" }
        (tables::pairs("Settings of the first run", &tables::fields(&merged.config)))
    }
}

/// Each shard beside the whole.
fn shards(merged: &MergedSummary, shards: &ShardsSummary) -> Markup {
    let whole = json!({
        "index": "all",
        "elapsed_ns": merged.elapsed_ns_max,
        "connections_established": merged.connections_established,
        "connections_lost": merged.connections_lost,
        "requests_offered": merged.requests_offered,
        "replies": merged.replies,
        "requests_per_second": merged.requests_per_second_sum,
        "latency": merged.latency.percentiles,
        "own_lag": merged.own_lag.percentiles,
        "verdict": merged.verdict,
    });
    let together = shards.latency_together.as_ref().map(|latency| {
        json!({
            "index": "all, together",
            "elapsed_ns": shards.together_ns,
            "requests_per_second": shards.requests_per_second_together,
            "latency": latency.percentiles,
        })
    });
    let each = shards.each.iter().map(|shard| {
        let mut row = serde_json::to_value(shard).expect("it has a JSON form");
        row["index"] = json!(format!("{} of {}", shard.index, shards.count));
        row
    });
    let rows: Vec<_> = std::iter::once(whole).chain(together).chain(each).collect();
    let missing: Vec<_> = shards.missing.iter().map(u64::to_string).collect();
    let facts: Vec<_> = [
        ("Missing", json!(if missing.is_empty() { "none".into() } else { missing.join(", ") })),
        ("Together_ns", json!(shards.together_ns)),
        ("Starts apart_ns", json!(shards.starts_apart_ns)),
        ("Requests per second together", json!(shards.requests_per_second_together)),
    ]
    .map(|(name, value)| (name.to_string(), value))
    .to_vec();
    html! {
        @if !shards.latency_note.is_empty() { p { (shards.latency_note) } }
        (tables::objects("Each shard beside the whole", &SHARD_KEYS, &rows))
        (tables::pairs("Shards", &facts))
    }
}

/// How the targets differ from the first one, with intervals.
fn differences(ab: &AbSummary) -> Markup {
    html! {
        @for comparison in &ab.comparisons {
            (difference_table(
                &format!(
                    "{} against {}, median of the differences in a round, with its {} % interval",
                    comparison.name, comparison.against, ab.confidence_ratio * 100.0
                ),
                &comparison.figures,
            ))
        }
    }
}

/// How the files of one set differ from those of the other.
fn of_sets(comparison: &ComparisonSummary) -> Markup {
    let confidence = comparison.confidence_ratio * 100.0;
    difference_table(
        &format!(
            "Second against first, median of the differences between files, with its \
             {confidence} % interval"
        ),
        &comparison.figures,
    )
}

fn difference_table(caption: &str, figures: &[FigureDifference]) -> Markup {
    html! {
        div.scroll {
            table.numbers {
                caption { (caption) }
                tr {
                    th {}
                    @for name in ["Difference", "Ratio"] { th scope="col" { (name) } }
                }
                @for figure in figures {
                    tr {
                        th scope="row" { (figure.figure) }
                        td { @if let Some(by) = figure.by() { (by_text(&by)) } }
                        td { (times_text(&figure.times())) }
                    }
                }
            }
        }
    }
}

fn ab_below(ab: &AbSummary) -> Markup {
    let latencies: Vec<_> =
        ab.targets.iter().map(|target| (target.name.clone(), &target.latency)).collect();
    let rounds: Vec<(String, Value)> = [
        ("Rounds", json!(ab.rounds)),
        ("Slice_ns", json!(ab.slice_ns)),
        ("Warm-up_ns", json!(ab.warmup_ns)),
        ("All targets at once", json!(ab.together)),
        ("Seed", json!(ab.seed)),
    ]
    .map(|(name, value)| (name.to_string(), value))
    .to_vec();
    html! {
        (tables::percentiles("Latency in all rounds together", &latencies))
        @for target in &ab.targets {
            @if let Some(parts) = &target.parts {
                (where_the_time_went(&format!("Where the time of {} went", target.name), parts))
            }
        }
        (tables::objects("Targets", &AB_KEYS, &ab.targets))
        (tables::pairs("Rounds", &rounds))
        details {
            summary { "Slices" }
            (tables::objects("Each slice", &SLICE_KEYS, &ab.slices))
        }
        h2 { "How it was measured" }
        @if !ab.command.is_empty() { pre { code { (command(&ab.command)) } } }
        div.tables {
            (machine(Some(ab.began_unix_ns), &ab.loadgen_version, ab.machine.as_ref()))
            @for target in &ab.targets {
                (tables::pairs(
                    &format!("Settings of {}", target.name),
                    &tables::fields(&target.config),
                ))
            }
        }
    }
}

const AB_KEYS: [&str; 9] = [
    "name",
    "target",
    "requests_per_second",
    "requests_offered",
    "replies",
    "requests_never_sent",
    "connections_established",
    "connections_lost",
    "verdict",
];
const SLICE_KEYS: [&str; 8] = [
    "round",
    "name",
    "place",
    "replies",
    "requests_per_second",
    "latency/p50_ns",
    "latency/p99_ns",
    "latency/max_ns",
];

fn calibration(found: &Calibration) -> Markup {
    let mut load = tables::fields(&found.load);
    load.push(("workers_of_the_server".into(), json!(found.sink_workers)));
    html! {
        div.tables {
            (tables::pairs("Closed loop", &tables::fields(&found.closed_loop)))
            @if let Some(open) = &found.open_loop {
                (tables::pairs("Open loop", &tables::fields(open)))
            }
            (tables::pairs("One request at a time", &tables::fields(&found.floor_latency)))
            (tables::pairs("Load", &load))
        }
        h2 { "How it was measured" }
        (machine(Some(found.calibrated_unix_ns), &found.generator.version, Some(&found.machine)))
    }
}

/// The results that are not made of others: comparisons have no figures of their own.
fn measured(results: &[(String, SavedResult)]) -> impl Iterator<Item = &(String, SavedResult)> {
    results.iter().filter(|(_, result)| !matches!(result, SavedResult::Comparison(_)))
}

/// A page of several results.
fn several(results: &[(String, SavedResult)]) -> Body {
    let latencies: Vec<_> = results
        .iter()
        .filter_map(|(name, result)| Some((name.clone(), result.latency()?.1)))
        .collect();
    Body {
        above: html! {
            @for (name, result) in results {
                h3 { (name) }
                p.faint { (title(name, result)) }
                (verdict_box(result))
                @if let SavedResult::Comparison(comparison) = result { (of_sets(comparison)) }
            }
        },
        below: html! {
            h2 { "Numbers" }
            (tables::percentiles("Latency", &latencies))
            h2 { "How it was measured" }
            @for (name, result) in measured(results) {
                details {
                    summary { (name) }
                    @if let Some(run) = result.run() {
                        (tables::pairs("Requests", &requests(run)))
                        (conditions(run))
                    }
                    @if let SavedResult::Merged(merged) = result { (merged_below(merged)) }
                    @if let SavedResult::Ab(ab) = result { (differences(ab)) (ab_below(ab)) }
                    @if let SavedResult::Calibration(found) = result { (calibration(found)) }
                    @if let SavedResult::Link(link) = result { (link::tables(link)) }
                    @if let SavedResult::Search(search) = result {
                        (tables::objects("All runs", &STEP_KEYS, &search.steps))
                    }
                }
            }
        },
    }
}

const OBJECTIVE_KEYS: [&str; 3] = ["objective", "result", "measured"];
const TARGET_KEYS: [&str; 10] = [
    "target",
    "connections_asked",
    "connections_established",
    "connections_served",
    "connections_lost",
    "mismatched_connections",
    "requests_completed",
    "latency/p50_ns",
    "latency/p99_ns",
    "latency/max_ns",
];
const SHARD_KEYS: [&str; 13] = [
    "index",
    "began_after_ns",
    "elapsed_ns",
    "connections_established",
    "connections_lost",
    "requests_offered",
    "replies",
    "requests_per_second",
    "latency/p50_ns",
    "latency/p99_ns",
    "latency/max_ns",
    "own_lag/p99_ns",
    "verdict",
];
const RUDE_KEYS: [&str; 9] = [
    "kind",
    "asked",
    "established",
    "connect_failed",
    "finished",
    "closed_by_server",
    "reset_by_server",
    "bytes_sent",
    "bytes_received",
];
const MISMATCH_KEYS: [&str; 5] = ["connection", "stream_offset", "expected", "actual", "note"];
const THREAD_KEYS: [&str; 5] =
    ["running_ns", "waiting_ns", "polling_ns", "switches_voluntary", "switches_involuntary"];
const SECOND_KEYS: [&str; 13] = [
    "start_ns",
    "length_ns",
    "replies",
    "replies_late",
    "requests_per_second",
    "latency/p50_ns",
    "latency/p90_ns",
    "latency/p99_ns",
    "latency/p99_9_ns",
    "latency/max_ns",
    "send_lag/p99_ns",
    "connections_open",
    "errors",
];
const STEP_KEYS: [&str; 9] = [
    "rate_per_second",
    "requests_per_second",
    "measured_ns",
    "latency/p50_ns",
    "latency/p99_ns",
    "own_lag_p99_ns",
    "requests_never_sent",
    "kept",
    "not_kept_reason",
];
