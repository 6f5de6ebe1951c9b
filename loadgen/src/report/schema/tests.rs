//! The committed schema is the generated one, and every object survives reading and writing.

use std::collections::BTreeSet;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::*;

/// The schema as text, in the form in which it is committed.
fn schema_text() -> String {
    serde_json::to_string_pretty(&json_schema()).expect("it has a JSON form") + "\n"
}

/// `UPDATE=1 cargo test -p loadgen --lib schema` rewrites the file.
#[test]
fn the_committed_schema_is_the_generated_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/loadgen.schema.json");
    let generated = schema_text();
    if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
        std::fs::write(&path, &generated).expect("the file can be written");
    }
    let committed = std::fs::read_to_string(&path).expect("the schema is there");
    assert!(
        committed == generated,
        "docs/loadgen.schema.json is out of date; this rewrites it: \
         UPDATE=1 cargo test -p loadgen --lib schema"
    );
}

/// Fills every key that a schema has with a value that no other key has.
struct Filler {
    root: Value,
    next: u64,
}

impl Filler {
    fn value(&mut self, schema: &Value) -> Value {
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.rsplit('/').next().expect("a path");
            let found = self.root["$defs"][name].clone();
            return self.value(&found);
        }
        if let Some(value) = schema.get("const") {
            return value.clone();
        }
        for several in ["oneOf", "anyOf"] {
            if let Some(schemas) = schema[several].as_array() {
                return self.value(&schemas[0].clone());
            }
        }
        if let Some(values) = schema["enum"].as_array() {
            self.next += 1;
            return values
                [self.next as usize % (values.len() - usize::from(values.contains(&Value::Null)))]
            .clone();
        }
        self.next += 1;
        let kind = schema["type"].as_array().map_or(&schema["type"], |kinds| &kinds[0]);
        match kind.as_str().expect("a type") {
            "object" => self.object(schema),
            "array" => json!([self.value(&schema["items"]), self.value(&schema["items"])]),
            "boolean" => self.next.is_multiple_of(2).into(),
            "string" if schema["description"].is_null() => {
                format!("10.0.{}.{}", self.next / 256, self.next % 256).into()
            }
            "string" => format!("text {}", self.next).into(),
            "integer" if schema["maximum"] == 255 => (self.next % 256).into(),
            "integer" => self.next.into(),
            "number" if schema["maximum"] == 1 => (1.0 / self.next as f64).into(),
            "number" => (self.next as f64 + 0.5).into(),
            other => panic!("{other}"),
        }
    }

    fn object(&mut self, schema: &Value) -> Value {
        if let Some(values) = schema.get("additionalProperties") {
            return json!({ "one": self.value(values), "two": self.value(values) });
        }
        let properties = schema["properties"].as_object().expect("an object has keys").clone();
        properties.iter().map(|(key, schema)| (key.clone(), self.value(schema))).collect()
    }
}

/// Reads an object in which each key has another value, writes it, and compares.
fn round_trip<T: DeserializeOwned + Serialize>(name: &str) {
    let root = json_schema();
    let schema = root["$defs"][name].clone();
    let filled = Filler { root, next: 0 }.value(&schema);
    let read: T = serde_json::from_value(filled.clone()).unwrap_or_else(|error| {
        panic!("{name}: {error}: {filled:#}");
    });
    let written = serde_json::to_value(&read).expect("it has a JSON form");
    assert_eq!(written, filled, "{name}");
    let mut numbers = BTreeSet::new();
    let repeated = repeated_numbers(&filled, &mut numbers);
    assert!(repeated.iter().all(|number| *number < 256), "{name}: {repeated:?}");
}

/// The whole numbers that stand at more than one place.
fn repeated_numbers(value: &Value, seen: &mut BTreeSet<u64>) -> Vec<u64> {
    match value {
        Value::Number(number) => {
            let number = number.as_u64();
            number.filter(|number| !seen.insert(*number)).into_iter().collect()
        }
        Value::Array(values) => {
            values.iter().flat_map(|value| repeated_numbers(value, seen)).collect()
        }
        Value::Object(values) => {
            values.values().flat_map(|value| repeated_numbers(value, seen)).collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn every_key_of_every_object_is_read_and_written() {
    round_trip::<RunSummary>("summary_object");
    round_trip::<SecondSummary>("second_object");
    round_trip::<SearchSummary>("search_object");
    round_trip::<MergedSummary>("merged_object");
    round_trip::<AbSummary>("ab_object");
    round_trip::<SliceSummary>("slice_object");
    round_trip::<ComparisonSummary>("comparison_object");
    round_trip::<Calibration>("calibration_object");
}
