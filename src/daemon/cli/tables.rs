//! Reads the tables of the documents, for the tests that compare them with the declarations.

/// The rows of all tables in a document whose first column has this heading, as cells without
/// backticks and without commas in numbers.
pub(crate) fn rows(document: &str, heading: &str) -> Vec<Vec<String>> {
    let path = format!("{}/docs/{document}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut rows = Vec::new();
    let mut is_wanted = None;
    for line in text.lines() {
        let Some(inner) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) else {
            is_wanted = None;
            continue;
        };
        let cells: Vec<String> = inner.replace(r"\|", "\0").split('|').map(cell).collect();
        match is_wanted {
            None => is_wanted = Some(cells[0] == heading),
            Some(true) if !cells[0].starts_with("---") => rows.push(cells),
            Some(_) => {}
        }
    }
    rows
}

fn cell(text: &str) -> String {
    let text = text.trim().replace('\0', "|").replace('`', "");
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let grouped = |at: usize| at > 0 && digit(at - 1) && (1..=3).all(|next| digit(at + next));
    let kept = text.char_indices().filter(|&(at, c)| c != ',' || !grouped(at));
    kept.map(|(_, c)| c).collect()
}

/// Checks that a document has a row for each flag of a command, in tables headed `flag`, with the
/// flag's default, and no row for a flag that does not exist.
pub(crate) fn assert_flags_are_documented(command: &clap::Command, document: &str) {
    let rows = rows(document, "flag");
    let mut command = command.clone();
    command.build();
    let flags = command.get_arguments().filter(|arg| !arg.is_hide_set() && !arg.is_positional());
    let mut known: Vec<String> = Vec::new();
    for flag in flags {
        let name = format!("--{}", flag.get_long().expect("each flag has a long name"));
        known.push(name.clone());
        if ["--help", "--version"].contains(&&name[..]) {
            continue;
        }
        let needs_value = flag.get_num_args().is_some_and(|values| values.min_values() > 0);
        let value = needs_value.then(|| flag.get_value_names()).flatten();
        let form = value.map_or(name.clone(), |value| format!("{name} {}", value[0]));
        let row = rows.iter().find(|row| row[0].split(", ").any(|written| written == form));
        let row = row.unwrap_or_else(|| panic!("docs/{document} has no row for '{form}'"));
        if let [default] = flag.get_default_values()
            && flag.get_action().takes_values()
        {
            assert_eq!(row[1], default.to_string_lossy(), "docs/{document}: default of {name}");
        }
    }
    for row in &rows {
        for written in row[0].split(", ").filter(|written| written.starts_with("--")) {
            let name = written.split(' ').next().expect("a name");
            assert!(known.iter().any(|flag| flag == name), "docs/{document}: no flag {written}");
        }
    }
}
