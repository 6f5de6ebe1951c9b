//! `loadgen report FILE.json ... -o OUT`: saved results in another form.

use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};

use crate::cli::is_stdout;
use crate::error::{Exit, Failure};
use crate::files;
use crate::report::outputs::Sink;
use crate::report::saved::SavedResult;
use crate::report::{hdr, html, table};

/// Writes saved results in another form: those of runs, of searches, and of loadgen merge and
/// calibrate, and what links did.
///
/// The exit code is 0 if the output was written, whatever the verdict of the results.
#[derive(Parser, Debug)]
#[command(name = "loadgen report", bin_name = "loadgen report", version)]
pub struct ReportArgs {
    /// Results written with --output-format json or ndjson, or by loadgen merge, calibrate or link
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Write to this file; - is stdout [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Form of the output [default: by the file name extension of -o]
    #[arg(long, value_name = "FORM", value_enum)]
    to: Option<ReportForm>,
}

/// Form of a report from files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ReportForm {
    /// A page with charts and tables; of several results, one with each of them in each chart.
    Html,
    /// The latency's percentile distribution of one result, as HdrHistogram's tools plot it.
    Hgrm,
    /// The latency histogram of each second of one run, as an interval log for HdrHistogram's tools.
    Hlog,
    /// Percentiles, seconds, and the runs of a search, with one number in each row.
    Csv,
}

/// Reads the files, and writes the output.
///
/// # Errors
/// A file is no result, or the output cannot be written.
pub fn run(args: &ReportArgs) -> Result<Exit, Failure> {
    let form = args.form()?;
    args.check_output()?;
    let read = |path: &PathBuf| Ok((path.display().to_string(), SavedResult::read(path)?));
    let results = args.files.iter().map(read).collect::<Result<Vec<_>, Failure>>()?;
    let text = match form {
        ReportForm::Html => html::render(&results).map_err(Failure::Setup)?,
        ReportForm::Hgrm => distribution(&results)?,
        ReportForm::Hlog => interval_log(&results)?,
        ReportForm::Csv => table::render(&results).map_err(Failure::Setup)?,
    };
    let mut sink = args.output.as_deref().map_or(Ok(Sink::Stdout), Sink::new)?;
    sink.write(|out| out.write_all(text.as_bytes()))?;
    Ok(Exit::Ok)
}

impl ReportArgs {
    fn form(&self) -> Result<ReportForm, Failure> {
        if let Some(form) = self.to {
            return Ok(form);
        }
        let output = self.output.as_deref().unwrap_or(Path::new(""));
        let name = files::without_gz(output).unwrap_or(output.into());
        let ending = name.extension().unwrap_or_default();
        let form = ending.to_str().map(|ending| ReportForm::from_str(ending, true));
        form.and_then(Result::ok).ok_or_else(|| {
            let forms: Vec<_> = ReportForm::value_variants()
                .iter()
                .filter_map(|form| Some(form.to_possible_value()?.get_name().to_string()))
                .collect();
            let forms = forms.join(", ");
            let text =
                format!("unknown form: give --to, or -o a name with one of the extensions {forms}");
            Failure::Usage(text)
        })
    }

    /// The output must not replace what it is made from.
    fn check_output(&self) -> Result<(), Failure> {
        let Some(output) = self.output.as_deref().filter(|path| !is_stdout(path)) else {
            return Ok(());
        };
        match self.files.iter().find(|file| files::are_one(file, output)) {
            Some(file) => {
                let text = format!("{} is both input and output: give two names", file.display());
                Err(Failure::Usage(text))
            }
            None => Ok(()),
        }
    }
}

/// The latency of a single result.
fn distribution(results: &[(String, SavedResult)]) -> Result<String, Failure> {
    let (name, result) = only("a percentile distribution", results)?;
    let Some((key, latency)) = result.latency() else {
        return Err(Failure::Setup(format!("{name}: it has no latency")));
    };
    let values = latency.histogram();
    let values = values.map_err(|why| Failure::Setup(format!("{name}: {key}: {why}")))?;
    let mut out = Vec::new();
    hdr::write_distribution(&mut out, &values).expect("a vector takes all bytes");
    Ok(String::from_utf8(out).expect("numbers are text"))
}

/// The seconds of a single run, or of the best one of a search.
fn interval_log(results: &[(String, SavedResult)]) -> Result<String, Failure> {
    let (name, result) = only("an interval log", results)?;
    let failed = |why| Failure::Setup(format!("{name}: {why}"));
    let run = result.run().ok_or_else(|| failed("it has no seconds: give the file of one run"))?;
    let log = hdr::log_of_saved(run).ok_or_else(|| {
        failed("it has no histograms of its seconds: an earlier version wrote it")
    })?;
    Ok(String::from_utf8(log).expect("numbers are text"))
}

fn only<'a>(
    what: &str,
    results: &'a [(String, SavedResult)],
) -> Result<&'a (String, SavedResult), Failure> {
    match results {
        [one] => Ok(one),
        _ => Err(Failure::Usage(format!("{what} needs a single result: give one file"))),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn args(text: &str) -> ReportArgs {
        ReportArgs::parse_from(format!("report {text}").split_whitespace())
    }

    #[test]
    fn the_definition_is_consistent() {
        ReportArgs::command().debug_assert();
    }

    #[test]
    fn the_form_is_that_of_the_flag_or_of_the_ending() {
        for (text, form) in [
            ("a.json -o b.html", ReportForm::Html),
            ("a.json -o b.hgrm", ReportForm::Hgrm),
            ("a.json -o b.hlog", ReportForm::Hlog),
            ("a.json -o b.CSV", ReportForm::Csv),
            ("a.json -o b.csv --to hgrm", ReportForm::Hgrm),
            ("a.json --to csv", ReportForm::Csv),
            ("a.json -o b.html.gz", ReportForm::Html),
        ] {
            assert_eq!(args(text).form(), Ok(form), "{text}");
        }
        for text in [
            "a.json",
            "a.json -o b",
            "a.json -o -",
            "a.json -o b.txt",
            "a.json -o b.gz",
            "a.json -o .csv",
        ] {
            let error = args(text).form().expect_err(text);
            assert!(
                error.to_string().contains("with one of the extensions html, "),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn what_is_read_is_not_replaced() {
        let error = args("a.json Cargo.toml --to csv -o ./Cargo.toml").check_output();
        let text = "Cargo.toml is both input and output: give two names";
        assert_eq!(error, Err(Failure::Usage(text.into())));
        assert_eq!(args("Cargo.toml -o -").check_output(), Ok(()));
    }
}
