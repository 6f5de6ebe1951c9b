//! The flags about results: what is shown, and where it is written.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, ValueEnum};

use super::RunArgs;
use crate::error::Failure;
use crate::files;

/// Where the results go, and in which form.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Results")]
pub struct OutputArgs {
    /// Print the whole latency spectrum
    #[arg(short = 'L', long)]
    pub latency: bool,

    /// Print the service time too: latency from the actual send instead of the scheduled one, which
    /// hides requests that the server's stalls delayed
    #[arg(short = 'U', long)]
    pub uncorrected: bool,

    /// Print everything that was measured, under headings: the basis of the verdict, service time
    /// and lags, fairness, connects, processor time, and more
    #[arg(long)]
    pub details: bool,

    /// Write the report to a file instead of stdout; - is stdout, as for the other files. A file is
    /// replaced when there is a result: at the end, or by the first row of csv or ndjson. It is
    /// compressed if its name ends in .gz
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Format of the report
    #[arg(long, value_name = "FORM", value_enum, default_value = "text")]
    pub output_format: OutputFormat,

    /// Compare with the ceiling in this file instead of the one that loadgen calibrate writes by
    /// default
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,

    /// Write each second's latency histogram to an HdrHistogram interval log, in nanoseconds
    #[arg(long, value_name = "FILE")]
    pub hdr_log: Option<PathBuf>,

    /// Write the latency's percentile distribution as HdrHistogram's tools plot it, in milliseconds
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<PathBuf>,

    /// Write a page with charts and tables
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// What stderr shows during the run
    #[arg(long, value_name = "FORM", value_enum, default_value = "auto")]
    pub progress: ProgressForm,
}

/// Format of the report.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum OutputFormat {
    /// For people, and for parsers of wrk's output.
    Text,
    /// One JSON object at the end.
    Json,
    /// One JSON object per second during the run, then the object of json, each on one line.
    Ndjson,
    /// A header, and one line per second during the run.
    Csv,
    /// Nothing. The exit code is the result.
    Quiet,
}

/// What stderr shows during a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ProgressForm {
    /// A view that is redrawn in place if stderr is a terminal, otherwise lines; lines also if rows
    /// are written to a terminal or a pipe, and nothing if the output format is quiet.
    Auto,
    /// One line per second.
    Lines,
    /// Nothing.
    None,
}

impl Default for OutputArgs {
    /// Those of a command line without any flag.
    fn default() -> OutputArgs {
        RunArgs::parse_from(["loadgen"]).output
    }
}

impl OutputArgs {
    /// Writes no results. The progress is shown as before.
    pub fn quiet(&self) -> OutputArgs {
        let output_format = OutputFormat::Quiet;
        let (output, hdr_log, hgrm, html) = (None, None, None, None);
        OutputArgs { output, hdr_log, hgrm, html, output_format, ..self.clone() }
    }

    /// The effective form of the progress. `stdout_shown`: what is written to stdout may appear on
    /// the terminal at once, where a redrawn view would overwrite the rows of each second.
    pub fn progress_form(&self, stdout_shown: bool) -> ProgressForm {
        match (self.progress, self.output_format) {
            (ProgressForm::Auto, OutputFormat::Quiet) => ProgressForm::None,
            (ProgressForm::Auto, _) if stdout_shown && self.has_rows_on_stdout() => {
                ProgressForm::Lines
            }
            (form, _) => form,
        }
    }

    /// Whether something is written to stdout each second.
    fn has_rows_on_stdout(&self) -> bool {
        let to_stdout = |path: &Option<PathBuf>| path.as_deref().is_some_and(is_stdout);
        let has_rows = matches!(self.output_format, OutputFormat::Csv | OutputFormat::Ndjson);
        let is_report = self.output.is_none() || to_stdout(&self.output);
        has_rows && is_report || to_stdout(&self.hdr_log)
    }

    /// Checks how the flags go together.
    ///
    /// # Errors
    /// Two outputs have the same file.
    pub fn check(&self) -> Result<(), Failure> {
        let stdout = (self.output_format != OutputFormat::Quiet).then_some(Path::new(STDOUT));
        let files: [(&str, Option<&Path>); 4] = [
            ("--output", self.output.as_deref().or(stdout)),
            ("--hdr-log", self.hdr_log.as_deref()),
            ("--hgrm", self.hgrm.as_deref()),
            ("--html", self.html.as_deref()),
        ];
        for (nth, (flag, path)) in files.iter().enumerate() {
            let Some(path) = path else { continue };
            let same = |(_, other): &&(_, Option<&Path>)| other.is_some_and(|it| are_one(it, path));
            if let Some((other, _)) = files[..nth].iter().find(same) {
                let what = match is_stdout(path) {
                    true => "both go to stdout".into(),
                    false => format!("are the same file, {}", path.display()),
                };
                let text = format!("{other} and {flag} {what}: give two names");
                return Err(Failure::Usage(text));
            }
        }
        Ok(())
    }
}

/// The name of stdout among files.
const STDOUT: &str = "-";

/// Whether this is the name of stdout.
pub fn is_stdout(path: &Path) -> bool {
    path == Path::new(STDOUT)
}

/// Whether two outputs would destroy or mix each other. Stdout can be a file, too.
fn are_one(first: &Path, second: &Path) -> bool {
    let place = |path| if is_stdout(path) { Path::new("/dev/stdout") } else { path };
    (is_stdout(first) && is_stdout(second)) || files::are_one(place(first), place(second))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(flags: &str) -> OutputArgs {
        RunArgs::parse_from(format!("loadgen {flags}").split_whitespace()).output
    }

    #[test]
    fn quiet_is_quiet_unless_progress_is_asked_for() {
        let form = |flags| output(flags).progress_form(false);
        assert_eq!(form(""), ProgressForm::Auto);
        assert_eq!(form("--output-format quiet"), ProgressForm::None);
        assert_eq!(form("--output-format quiet --progress lines"), ProgressForm::Lines);
    }

    #[test]
    fn rows_on_a_terminal_are_not_drawn_over() {
        let form = |flags| output(flags).progress_form(true);
        assert_eq!(form("--output-format csv"), ProgressForm::Lines);
        assert_eq!(form("--output-format ndjson"), ProgressForm::Lines);
        assert_eq!(form("--output-format csv -o -"), ProgressForm::Lines);
        assert_eq!(form("-o file --hdr-log -"), ProgressForm::Lines);
        assert_eq!(form("-o file --hdr-log file.hlog"), ProgressForm::Auto);
        assert_eq!(form("--output-format csv -o file"), ProgressForm::Auto);
        assert_eq!(form("--output-format csv --progress none"), ProgressForm::None);
        assert_eq!(form("--output-format json"), ProgressForm::Auto, "it comes behind the view");
        assert_eq!(output("--output-format csv").progress_form(false), ProgressForm::Auto);
    }

    #[test]
    fn two_outputs_cannot_be_one_file() {
        for flags in [
            "-o a --hdr-log b --hgrm c --html d",
            "--hgrm c",
            "-o a --hgrm -",
            "--output-format quiet --hgrm -",
        ] {
            assert_eq!(output(flags).check(), Ok(()), "{flags}");
        }
        for flags in [
            "-o a --html a",
            "-o a --hdr-log a",
            "--hdr-log a --hgrm ./a",
            "-o ../loadgen/a --hgrm a",
        ] {
            let error = output(flags).check().expect_err(flags).to_string();
            assert!(error.contains("the same file, "), "{error}");
        }
        for flags in ["--hgrm -", "-o - --hdr-log -", "-o a --hgrm - --hdr-log -"] {
            let error = output(flags).check().expect_err(flags).to_string();
            assert!(error.contains("both go to stdout: give two names"), "{error}");
        }
    }
}
