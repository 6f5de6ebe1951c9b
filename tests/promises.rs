//! Checks that every test that `docs/promises.md` names exists.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// Adds the names of all functions in the Rust files below a directory.
fn functions(directory: &Path, names: &mut HashSet<String>) {
    for entry in fs::read_dir(directory).expect("a directory of the tree") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("source text");
            let lines = text.lines().filter_map(|line| line.trim().strip_prefix("fn "));
            names.extend(lines.filter_map(|rest| Some(rest.split_once('(')?.0.to_owned())));
        }
    }
}

#[test]
fn each_promise_of_the_documents_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join("loadgen").exists() {
        println!("skipped: the package of the library has not the tests of the load generator");
        return;
    }
    let mut names = HashSet::new();
    for directory in ["src", "tests", "loadgen/src", "loadgen/tests"] {
        functions(&root.join(directory), &mut names);
    }
    let page = fs::read_to_string(root.join("docs/promises.md")).expect("docs/promises.md");
    let mut promises = 0;
    for row in page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| --- ")) {
        let tests = row.trim_end_matches('|').rsplit('|').next().expect("a column").trim();
        if tests == "test" {
            continue;
        }
        let named: Vec<&str> = tests.split(", ").map(|name| name.trim_matches('`')).collect();
        for name in named {
            assert!(names.contains(name), "{name} is not a test; it is named for: {row}");
        }
        promises += 1;
    }
    assert!(promises > 50, "{promises} promises were found");
}
