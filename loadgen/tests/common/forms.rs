//! Files of runs, and the schema that they must conform to.

use std::path::PathBuf;

use serde_json::Value;

/// A file of one test. Dropping it removes the file.
pub struct TestFile(pub PathBuf);

impl TestFile {
    pub fn new(name: &str) -> TestFile {
        TestFile(std::env::temp_dir().join(format!("loadgen-{}-{name}", std::process::id())))
    }

    pub fn read(&self) -> String {
        std::fs::read_to_string(&self.0).expect("the file is there")
    }

    /// Empty if the file is not there yet.
    pub fn read_if_there(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap_or_default()
    }
}

impl std::fmt::Display for TestFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.display().fmt(f)
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        // It may never have been created.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The committed schema for one `type` of object, extended so that an object must not have
/// undescribed keys. Errors for a single type are more specific than those for one of several
/// types.
pub fn schema(of: &str) -> jsonschema::Validator {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/loadgen.schema.json");
    let text = std::fs::read_to_string(path).expect("the schema is there");
    let mut schema = serde_json::from_str(&text).expect("it is JSON");
    close(&mut schema);
    let object = schema.as_object_mut().expect("an object");
    let reference = format!("#/$defs/{of}_object");
    let any = object.remove("oneOf").expect("one of several").to_string();
    assert!(any.contains(&reference), "{reference} in {any}");
    object.insert("$ref".into(), reference.into());
    jsonschema::validator_for(&schema).expect("it is a schema")
}

/// Readers ignore unknown keys, so the schema allows them; a test does not.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.contains_key("properties") {
                object.insert("additionalProperties".into(), false.into());
            }
            object.values_mut().for_each(close);
        }
        Value::Array(values) => values.iter_mut().for_each(close),
        _ => {}
    }
}

#[track_caller]
pub fn assert_valid(schema: &jsonschema::Validator, object: &Value) {
    let errors: Vec<_> = schema.iter_errors(object).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{object:#}");
}

pub fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}
