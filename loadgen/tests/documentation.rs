//! `docs/loadgen.md` describes every flag, and it and the help list every exit code.

use std::{fs, process};

use clap::{Command, CommandFactory, Parser};
use loadgen::cli::RunArgs;
use loadgen::command::ab::AbArgs;
use loadgen::command::calibrate::CalibrateArgs;
use loadgen::command::compare::CompareArgs;
#[cfg(feature = "link")]
use loadgen::command::link::LinkArgs;
use loadgen::command::merge::MergeArgs;
use loadgen::command::report::ReportArgs;
use loadgen::error::Exit;

const DOCUMENTATION: &str = include_str!("../../docs/loadgen.md");

/// Whether a flag stands in a text, and not only a longer one that begins or ends with it.
fn mentions(text: &str, flag: &str) -> bool {
    let part_of_a_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
    text.match_indices(flag).any(|(at, _)| {
        !text[..at].ends_with(part_of_a_word)
            && !text[at + flag.len()..].starts_with(part_of_a_word)
    })
}

/// The flags of a command, as they are written.
fn flags(command: &Command) -> Vec<String> {
    let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
    let written = |argument: &clap::Arg| {
        let long = argument.get_long_and_visible_aliases().unwrap_or_default();
        let short = argument.get_short_and_visible_aliases().unwrap_or_default();
        let long = long.into_iter().map(|name| format!("--{name}"));
        long.chain(short.into_iter().map(|name| format!("-{name}"))).collect::<Vec<_>>()
    };
    shown.flat_map(written).collect()
}

fn declarations() -> Vec<(&'static str, Command)> {
    vec![
        ("loadgen", RunArgs::command()),
        ("loadgen-ab", AbArgs::command()),
        ("loadgen-calibrate", CalibrateArgs::command()),
        ("loadgen-compare", CompareArgs::command()),
        ("loadgen-merge", MergeArgs::command()),
        ("loadgen-report", ReportArgs::command()),
        #[cfg(feature = "link")]
        ("loadgen-link", LinkArgs::command()),
    ]
}

#[test]
fn every_flag_is_in_the_documentation() {
    let flags: Vec<_> = declarations().iter().flat_map(|(_, command)| flags(command)).collect();
    assert!(flags.len() > 40, "{flags:?}");
    let missing: Vec<_> = flags.iter().filter(|flag| !mentions(DOCUMENTATION, flag)).collect();
    assert!(missing.is_empty(), "docs/loadgen.md does not describe {missing:?}");
}

#[test]
fn every_flag_is_in_the_manual_pages_and_the_completions() {
    let directory = std::env::temp_dir().join(format!("loadgen-manual-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory");
    let made = process::Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .arg("__manual")
        .arg(&directory)
        .output()
        .expect("it runs");
    assert!(made.status.success() && made.stderr.is_empty(), "{made:?}");
    let read = |name: &str| fs::read_to_string(directory.join(name)).expect(name);
    let completions = ["loadgen.bash", "_loadgen"].map(|name| (name, read(name)));
    for (name, command) in declarations() {
        // Without the changes of font, and the escapes of hyphens.
        let page = ["\\fB", "\\fI", "\\fR", "\\"]
            .iter()
            .fold(read(&format!("{name}.1")), |page, mark| page.replace(mark, ""));
        assert!(page.contains(&format!(".TH {name} 1")), "{page}");
        // clap's pages and completions leave aliases out.
        let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
        for flag in shown.filter_map(|argument| Some(format!("--{}", argument.get_long()?))) {
            assert!(mentions(&page, &flag), "{name}.1 does not describe {flag}");
            for (shell, text) in &completions {
                assert!(mentions(text, &flag), "{shell} does not know {flag} of {name}");
            }
        }
    }
    assert!(read("loadgen.fish").contains("-l fail-if"));
    fs::remove_dir_all(&directory).expect("removing the directory");
}

/// The rows of the table in docs/testing.md: a flag, and the tests of its effect.
#[test]
fn every_flag_has_a_test_of_its_effect() {
    const TESTING: &str = include_str!("../../docs/testing.md");
    let table = TESTING.split("| flag of the load generator | tests of its effect |").nth(1);
    let rows = table.expect("a table").lines().skip(2).take_while(|line| line.starts_with("| "));
    let mut described = Vec::new();
    for row in rows {
        let [flag, tests] = row.trim_matches(['|', ' ']).split(" | ").collect::<Vec<_>>()[..]
        else {
            panic!("{row}");
        };
        described.push(flag.trim_matches('`').to_string());
        for test in tests.split(", ") {
            let (file, name) = test.trim_matches('`').rsplit_once("::").expect("a file and a test");
            let file = file.replace("::", "/");
            let root = env!("CARGO_MANIFEST_DIR");
            let files = ["tests", "src"].map(|room| format!("{root}/{room}/{file}.rs"));
            let text =
                files.iter().find_map(|path| std::fs::read_to_string(path).ok()).expect(test);
            assert!(text.contains(&format!("#[test]\nfn {name}(")), "{test} is not there");
        }
    }
    let mut flags: Vec<_> = flags(&RunArgs::command());
    flags
        .retain(|flag| flag.starts_with("--") && !["--help", "--version"].contains(&flag.as_str()));
    described.sort();
    flags.sort();
    assert_eq!(described, flags);
}

/// The commands of this name in the code of a page. A quoted word of these has no space.
fn commands(page: &str, name: &str) -> Vec<Vec<String>> {
    let mut fenced = false;
    let page = page.replace("\\\n", " ");
    let code = page.lines().filter(|line| {
        fenced ^= line.starts_with("```");
        fenced || line.starts_with("    ")
    });
    let command = |line: &str| {
        let words = line[line.find(&format!("loadgen {name} "))?..].split(" ||").next()?;
        let words =
            words.split_whitespace().take_while(|word| *word != "#" && *word != "(a").skip(1);
        Some(words.map(|word| word.replace('\'', "")).collect())
    };
    code.filter_map(command).collect()
}

/// Those of pages that people copy into a script.
#[test]
fn the_commands_of_the_pages_are_accepted() {
    const PAGES: [&str; 4] = [
        DOCUMENTATION,
        include_str!("../../docs/guide.md"),
        include_str!("../../docs/proxy.md"),
        include_str!("../../docs/ci.md"),
    ];
    let of = |name| PAGES.iter().flat_map(|page| commands(page, name)).collect::<Vec<_>>();
    let (ab, compare) = (of("ab"), of("compare"));
    assert!(ab.len() >= 7 && compare.len() >= 3, "{ab:?} {compare:?}");
    for words in ab {
        let parsed = AbArgs::try_parse_from(&words);
        assert!(parsed.is_ok_and(|args| args.run.targets.len() > 1), "{words:?}");
    }
    for words in compare {
        let parsed = CompareArgs::try_parse_from(&words);
        assert!(parsed.is_ok(), "{words:?}");
    }
}

#[test]
fn a_flag_is_not_taken_for_a_part_of_another() {
    assert!(mentions("use `--hdr-log FILE`", "--hdr-log") && mentions("(-c 5)", "-c"));
    assert!(!mentions("--hdr-log-more", "--hdr-log") && !mentions("--connect", "-c"));
}

#[test]
fn every_exit_code_is_in_the_documentation_and_in_the_help() {
    let section = DOCUMENTATION.split("| code | meaning |").nth(1).expect("a table");
    let rows: Vec<u8> = section
        .lines()
        .skip_while(|line| !line.starts_with("| 0"))
        .map_while(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok())
        .collect();
    let codes = Exit::ALL.map(|exit| exit as u8);
    assert_eq!(rows, codes, "the table of docs/loadgen.md");
    let help = RunArgs::command().render_long_help().to_string();
    let list = help.split("Exit codes: ").nth(1).expect("a list");
    for code in codes {
        let listed = list.split([' ', ',', '\n']).any(|word| word == code.to_string());
        assert!(listed, "exit code {code} in {list}");
    }
}
