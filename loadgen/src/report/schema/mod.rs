//! The JSON that loadgen writes and reads: one type for each kind of object. The same types
//! generate `docs/loadgen.schema.json`, so the documentation of a field here is its description
//! there.
//!
//! * here: what all objects share, and the schema
//! * `run`: a whole run, and one second of it
//! * `search`: a search for the highest rate; `merged`: several runs added up
//! * `ab`: targets and files compared with each other
//! * `parts`: where the time of requests went
//! * `link`: an emulated link
//! * `distribution`: a histogram and its percentiles
//!
//! The object that `loadgen calibrate` writes is [`Calibration`]. Times are whole nanoseconds,
//! rates are per second, and the unit is in each key. A key that was added after the first version
//! has a default, so that files of earlier versions can still be read.

use std::time::{Duration, SystemTime};

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::plan::calibration::Calibration;

mod ab;
mod datagrams;
mod distribution;
mod link;
mod merged;
mod parts;
mod run;
mod search;

pub use ab::{
    AbSummary, AbTarget, ComparisonSummary, ConditionResult, FigureDifference, SliceSummary,
    TargetComparison,
};
pub use distribution::{Distribution, Percentiles};
pub use link::{LinkDirection, LinkSummary};
pub use merged::{MergedSummary, ShardSummary, ShardsSummary};
#[cfg(test)]
pub use parts::tests::distinct_parts;
pub use parts::{OneWaySummary, PartShares, PartsGroup, PartsSummary};
pub use run::{
    CeilingUse, ClockComparison, ConnectionCounts, DatagramCounts, HubConfig, HubCounts,
    ObjectiveResult, RunConfig, RunSummary, SecondSummary, StageConfig, StampDirection,
    StampSummary, StepSummary, TargetCounts, ThreadSummary, TlsSessions, TlsSummary,
};
pub use search::{SearchSummary, SearchVerdict, StepResult};

/// The version of the schema. It increases when a key changes its meaning or is removed; a new key
/// does not change it.
pub const SCHEMA_VERSION: u32 = 1;

/// The version of the program, as JSON shows it.
pub const PROGRAM_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Defines the value of `type` of one kind of object. Reading an object of another kind fails.
macro_rules! object_type {
    ($name:ident, $variant:ident) => {
        #[derive(
            Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema,
        )]
        #[serde(rename_all = "lowercase")]
        #[schemars(inline)]
        pub enum $name {
            #[default]
            $variant,
        }
    };
}

object_type!(SummaryType, Summary);
object_type!(SecondType, Second);
object_type!(SearchType, Search);
object_type!(MergedType, Merged);
object_type!(AbType, Ab);
object_type!(SliceType, Slice);
object_type!(ComparisonType, Comparison);
object_type!(LinkType, Link);

/// The JSON schema (draft 2020-12) of every object that loadgen writes.
pub fn json_schema() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let settings = settings.with_transform(RecursiveTransform(tidy));
    let mut generator = settings.into_generator();
    let objects = [
        reference::<RunSummary>(&mut generator),
        reference::<SecondSummary>(&mut generator),
        reference::<SearchSummary>(&mut generator),
        reference::<MergedSummary>(&mut generator),
        reference::<AbSummary>(&mut generator),
        reference::<SliceSummary>(&mut generator),
        reference::<ComparisonSummary>(&mut generator),
        reference::<Calibration>(&mut generator),
        reference::<LinkSummary>(&mut generator),
    ];
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Results of loadgen",
        "description": "What loadgen writes with --output-format json (one summary) and ndjson \
            (one object per second, then the summary), what a search for the highest rate writes \
            (--search), and what loadgen ab, compare, merge, calibrate and link write. Times are whole \
            nanoseconds, rates are per second, and the unit is in each key. Readers should ignore \
            keys that they do not know.",
        "oneOf": objects,
        "$defs": generator.take_definitions(true),
    })
}

/// Removes what is only about Rust: defaults are for reading older files, formats name types, and
/// descriptions have the line breaks of the source. Only a whole number can be
/// negative: a difference.
fn tidy(schema: &mut Schema) {
    schema.remove("default");
    if schema.remove("format").is_some_and(|format| format == "double") {
        schema.insert("minimum".into(), 0.into());
    }
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.replace('\n', " ");
    }
}

fn reference<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().into()
}

/// Nanoseconds since 1970-01-01 UTC; 0 for an earlier time.
pub fn unix_nanos(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, nanos)
}

/// Whole nanoseconds. The type holds 584 years; a longer time becomes the largest value.
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
