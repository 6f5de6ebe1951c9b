//! The samples of output in the pages have the lines that the program prints, in their order. Values
//! are not compared, and the runs here are shorter.

mod common;

use std::time::Duration;

use common::forms::TestFile;
use common::loadgen;
use common::server::{EchoServer, Fault};
use loadgen::report::Verdict;

const PAGES: [&str; 4] = [
    include_str!("../../docs/guide.md"),
    include_str!("../../docs/loadgen.md"),
    include_str!("../../docs/proxy.md"),
    include_str!("../../docs/ci.md"),
];

/// A command in a fenced block, and what it prints.
struct Sample {
    command: String,
    lines: Vec<String>,
}

/// The blocks that begin with `$ loadgen`. A command may go on in the next lines, and say that not all
/// of its output is there.
fn samples(page: &str) -> Vec<Sample> {
    let page = page.replace("\\\n", " ");
    let blocks = page.split("```").skip(1).step_by(2);
    let sample = |block: &str| {
        let mut lines = block.lines().skip(1).map(str::to_string);
        let command = lines.next()?.strip_prefix("$ loadgen ")?.replace('\'', "");
        let command = command.split("(a part of it)").next()?.trim().to_string();
        Some(Sample { command, lines: lines.collect() })
    };
    blocks.filter_map(sample).collect()
}

/// What a line says beside its values: all before the first of them. If it begins with one, its words.
fn label(line: &str) -> String {
    const SIGNS: [char; 5] = ['+', '-', '(', '"', '≤'];
    let is_value = |word: &&str| {
        let word = word.trim_start_matches(SIGNS);
        word.starts_with(|c: char| c.is_ascii_digit())
            || word.starts_with('/')
            || word.contains(['<', '>'])
            || word.contains("://")
    };
    let words: Vec<_> = line.split_whitespace().collect();
    let is_verdict = |word: &str| Verdict::ALL.iter().any(|one| one.word() == word);
    let is_result = |word: &str| is_verdict(word) || ["not", "kept"].contains(&word);
    if words.first().is_some_and(|word| is_verdict(word)) {
        return "a verdict".into();
    }
    if let Some((name, _)) = line.split_once(": ")
        && !name.split_whitespace().any(|word| is_value(&word))
    {
        return format!("{}:", name.trim());
    }
    match words.iter().position(is_value) {
        Some(0) => {
            let words = words.iter().filter(|word| !is_result(word));
            let words = words.map(|word| if is_value(word) { "#" } else { word });
            words.collect::<Vec<_>>().join(" ")
        }
        Some(first) => words[..first].join(" "),
        None => words.join(" "),
    }
}

/// Each line of the sample has one in the output, behind that of the line before. Rows of a table are
/// one, because their number may differ.
fn assert_shows(sample: &Sample, output: &str) {
    let labels: Vec<_> = output.lines().map(label).collect();
    let mut rest = labels.iter();
    let mut before = String::new();
    for line in sample.lines.iter().filter(|line| !["...", ""].contains(&line.trim())) {
        let wanted = label(line);
        if wanted == std::mem::replace(&mut before, wanted.clone()) {
            continue;
        }
        assert!(
            rest.any(|found| *found == wanted),
            "loadgen {} prints no line like\n{line}\n({wanted}) where the page has it, but\n{output}",
            sample.command
        );
    }
}

/// The time of a flag as short as a test needs it.
fn with_time(command: &str, flag: &str, time: &str) -> String {
    let mut words: Vec<_> = command.split_whitespace().collect();
    if let Some(at) = words.iter().position(|word| *word == flag) {
        words[at + 1] = time;
    }
    words.join(" ")
}

#[test]
fn the_samples_of_the_pages_have_the_lines_that_the_program_prints() {
    // As many as a page has targets.
    let servers = [(); 4].map(|()| EchoServer::start(Fault::None));
    let slow = EchoServer::start(Fault::Slow { wait: Duration::from_millis(5) });
    let addresses = servers.each_ref().map(|server| server.address.to_string());
    let written = TestFile::new("sample-calibration.json");
    let files = [("one.json", "-p 1"), ("four.json", "-p 4")].map(|(name, flags)| {
        let file = TestFile::new(name);
        loadgen(&format!("-c 2 -n 100 {flags} --output-format json -o {file}"));
        (name, file)
    });
    let mut compared = 0;
    for sample in PAGES.iter().flat_map(|page| samples(page)) {
        let mut command = sample.command.clone();
        for (nth, address) in addresses.iter().enumerate() {
            command = command.replace(&format!("127.0.0.1:700{nth}"), address);
        }
        command = command.replace("127.0.0.1:7777", &addresses[0]);
        // An unoptimised program on a busy machine would be overloaded, and then has other lines.
        for (of_page, lower) in
            [("-R 20k", "-R 1k"), ("-R 10k", "-R 1k"), ("rate>=19k", "rate>=900")]
        {
            command = command.replace(of_page, lower);
        }
        for (name, file) in &files {
            command = command.replace(name, &file.to_string());
        }
        let command = match command.split_whitespace().next().unwrap_or_default() {
            // A pipe, and a link, which needs root and has tests of its own.
            "report" | "link" => continue,
            "ab" => with_time(&with_time(&command, "-d", "1s"), "--rounds", "10"),
            "calibrate" => format!("{command} -d 500ms -o {written}"),
            // Of a server that waits for each reply, so that it finds a rate whatever the machine does.
            _ if command.contains("--search") => {
                format!("{} -c 1 -R 50 -d 300ms -w 1ms --search p99:1s", slow.address)
            }
            _ if command.contains("csv") || command.contains("--progress") => command,
            // Some lines need a whole second.
            _ => with_time(&command, "-d", "1200ms"),
        };
        // With many threads, the lines about them are left out.
        let alike = ["ab", "calibrate", "compare"].iter().any(|name| command.starts_with(name));
        let threads = if alike || command.contains("-t ") { "" } else { " -t 1" };
        // Repeated as long as the machine was too busy for a rate of a search to be kept.
        const TRIES: u32 = 20;
        let mut ended = loadgen(&format!("{command}{threads}"));
        for _ in 1..TRIES {
            if !ended.stdout.contains("no rate keeps") {
                break;
            }
            ended = loadgen(&format!("{command}{threads}"));
        }
        assert_shows(&sample, &format!("{}{}", ended.stderr, ended.stdout));
        compared += 1;
    }
    assert!(compared >= 16, "only {compared} samples were found");
}

#[test]
fn a_label_is_what_is_not_a_value() {
    for (line, expected) in [
        ("  Service time: p50 41.82us, p99 459.52us", "Service time:"),
        ("    Latency   107.08us  209.95us", "Latency"),
        ("     50%   71.23us", "# #"),
        ("  99998 requests in 5.00s, 6.10MB read", "# requests in # # read"),
        ("p99 1.03ms: 53 % network and kernel", "p99"),
        ("  valid (open loop; own lag", "a verdict"),
        ("  generator-limited (it was late: lag 5", "a verdict"),
        ("Written to /home/me/x", "Written to"),
        ("  \"replies\": 100000,", "\"replies\":"),
        ("Verdict", "Verdict"),
    ] {
        assert_eq!(label(line), expected, "{line}");
    }
}
