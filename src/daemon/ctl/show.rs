//! Replies of an admin address as text.

use std::fmt::Write;
use std::time::Duration;

use serde_json::Value;

use super::Command;
use crate::base::units::show_size;

/// The text of a reply.
pub(super) fn text(command: &Command, reply: &Value) -> String {
    match command {
        Command::Status => status(reply),
        Command::Health => word(reply),
        Command::Clients(_) => clients(reply),
        Command::Listeners => listeners(reply),
        Command::Disconnect { id } => format!("disconnected {id}\n"),
        Command::Stop { listener } => format!("listener {listener} has stopped accepting\n"),
        Command::Start { listener } => format!("listener {listener} accepts again\n"),
        Command::Drain => "draining\n".to_owned(),
        Command::Message(_) => {
            format!("queued {}, refused {}\n", word(&reply["queued"]), word(&reply["refused"]))
        }
        Command::Reload | Command::Upgrade => format!("{}\n", word(&reply["text"])),
    }
}

fn status(reply: &Value) -> String {
    let total = &reply["total"];
    let not_ready = &reply["not_ready"];
    let ready = match not_ready.as_str() {
        None => "yes".to_owned(),
        Some(why) => format!("no: {why}"),
    };
    let up = nanos(&reply["now_unix_ns"]).saturating_sub(nanos(&reply["started_unix_ns"]));
    let resident = &reply["memory_resident_bytes"];
    let rows = [
        ("version", word(&reply["version"])),
        ("up", age(up)),
        ("ready", ready),
        (
            "connections",
            format!("{} of {}", word(&total["connections"]), word(&reply["max_connections"])),
        ),
        ("accepted", word(&total["accepted"])),
        ("received", size(&total["bytes_received"])),
        ("sent", size(&total["bytes_sent"])),
        ("buffers", format!("{} of {}", word(&total["buffers_held"]), word(&reply["buffers"]))),
        ("memory", format!("{} of {}", size(resident), size(&reply["memory_total_bytes"]))),
    ];
    let mut text = String::new();
    for (name, value) in rows {
        writeln!(text, "{name:<12} {value}").expect("a string takes it");
    }
    text
}

fn clients(reply: &Value) -> String {
    let row = |client: &Value| {
        vec![
            word(&client["id"]),
            word(&client["peer"]),
            word(&client["listener"]),
            word(&client["service"]),
            word(&client["transport"]),
            age(nanos(&client["age_ns"])),
            size(&client["bytes_received"]),
            size(&client["bytes_sent"]),
            size(&client["output_bytes"]),
            word(&client["state"]),
        ]
    };
    let head = [
        "id",
        "peer",
        "listener",
        "service",
        "transport",
        "age",
        "received",
        "sent",
        "waiting",
        "state",
    ];
    let shown = array(&reply["clients"]);
    let mut text = table(&head, shown.iter().map(row));
    let (matched, total) = (word(&reply["matched"]), word(&reply["total"]));
    writeln!(text, "{} of {matched} shown, {total} connected", shown.len()).expect("a string");
    text
}

fn listeners(reply: &Value) -> String {
    let row = |listener: &Value| {
        let state = if listener["accepting"] == true { "accepting" } else { "stopped" };
        let target = if listener["target"].is_null() { "endpoint" } else { "target" };
        vec![
            word(&listener["listener"]),
            word(&listener[target]),
            word(&listener["connections"]),
            state.to_owned(),
        ]
    };
    table(&["no", "target", "clients", "state"], array(&reply["listeners"]).iter().map(row))
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A value without quotes; null is a dash.
fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.escape_debug().to_string(),
        other => other.to_string(),
    }
}

fn size(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), show_size)
}

fn nanos(value: &Value) -> Duration {
    Duration::from_nanos(value.as_u64().unwrap_or_default())
}

fn age(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, ..) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

/// Rows below a head, in columns. The last column is not padded.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head = head.iter().map(|title| (*title).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..rows[0].len()).map(|at| width(at).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        writeln!(text, "{}", line.trim_end()).expect("a string takes it");
    }
    text
}
