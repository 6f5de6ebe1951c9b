//! What the page says about an emulated link: its rules, and the fates of the packets of each
//! direction.

use maud::{Markup, html};
use serde_json::{Value, json};

use super::tables;
use super::verdict::{Sentence, Tone};
use crate::report::schema::{LinkDirection, LinkSummary};
use crate::units::counted;

/// The directions with their names.
fn directions(link: &LinkSummary) -> [(&'static str, &LinkDirection); 2] {
    [("There", &link.there), ("Back", &link.back)]
}

/// What became of the packets, in a sentence. Packets that the kernels did not take, or did not hand
/// over, are not as the link was told.
pub fn sentence(link: &LinkSummary) -> Sentence {
    let both = directions(link);
    let is_told = both.iter().all(|(_, one)| one.packets_refused + one.packets_missed == 0);
    let text = match is_told {
        true => "The link did with each packet what it was told.",
        false => "The kernel dropped packets beside those that the link was to lose.",
    };
    let line = |(name, one): &(&str, &LinkDirection)| {
        format!(
            "{name}: {} in, {} delivered, {} lost, {} dropped because the queue was full",
            counted(one.packets_in, "packet"),
            one.packets_delivered,
            one.packets_lost,
            one.packets_dropped
        )
    };
    Sentence {
        tone: if is_told { Tone::Good } else { Tone::Warn },
        text: text.into(),
        reasons: both.iter().map(line).collect(),
        exit_code: 0,
    }
}

/// Its rules and counts. How late packets left is in a table of percentiles.
fn counts(direction: &LinkDirection) -> Vec<(String, Value)> {
    let fields = tables::fields(direction).into_iter();
    let fields = fields.filter(|(_, value)| !value.is_object());
    let shown = |(key, value): (String, Value)| match key.strip_suffix("_ratio") {
        Some(name) => (name.to_string(), json!(percent(value.as_f64().unwrap_or_default()))),
        None => (key, value),
    };
    fields.map(shown).collect()
}

/// With as many digits as were given: losses are far below a percent.
fn percent(ratio: f64) -> String {
    let text = format!("{:.6}", ratio * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// The rules and counts of each direction, and the seed.
pub fn tables(link: &LinkSummary) -> Markup {
    let made = [("Seed", json!(link.seed)), ("Version of loadgen", json!(link.loadgen_version))];
    let made: Vec<_> = made.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
    html! {
        div.tables {
            @for (name, one) in directions(link) {
                (tables::pairs(name, &counts(one)))
            }
        }
        h2 { "How it was made" }
        (tables::pairs("Link", &made))
    }
}
