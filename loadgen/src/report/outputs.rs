//! Where results go: the report, the rows of its streaming forms, the interval log, the percentile
//! distribution and the page. All are checked before the run, so that a run is not wasted if one
//! cannot be written. An earlier file stays until there is something to replace it: the report at
//! the end, or the first row. Each second is written at once, so that a terminated program leaves
//! what it had.

use std::fs::File;
use std::io::{self, Write};
use std::mem::take;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::saved::SavedResult;
use super::schema::{RunSummary, SecondSummary};
use super::{Report, hdr, html, rows, text};
use crate::cli::{OutputArgs, OutputFormat, is_stdout};
use crate::error::{Exit, Failure};
use crate::files;
use crate::plan::calibration::Calibration;
use crate::stats::interval::Interval;

/// All outputs of a run.
pub struct Outputs {
    format: OutputFormat,
    shown: text::TextOptions,
    report: Sink,
    /// Whether the measured period has begun.
    begun: bool,
    hdr_log: Option<Sink>,
    hgrm: Option<Sink>,
    html: Option<Sink>,
}

impl Outputs {
    /// Checks them.
    ///
    /// # Errors
    /// One cannot be written to, two are the same, or the calibration that was asked for is not
    /// there.
    pub fn open(flags: &OutputArgs) -> Result<Outputs, Failure> {
        flags.check()?;
        flags.calibration.as_deref().map_or(Ok(()), Calibration::check)?;
        let sink = |path: &Option<PathBuf>| path.as_deref().map(Sink::new).transpose();
        Ok(Outputs {
            format: flags.output_format,
            shown: text::TextOptions {
                spectrum: flags.latency,
                uncorrected: flags.uncorrected,
                details: flags.details,
            },
            report: sink(&flags.output)?.unwrap_or(Sink::Stdout),
            begun: false,
            hdr_log: sink(&flags.hdr_log)?,
            hgrm: sink(&flags.hgrm)?,
            html: sink(&flags.html)?,
        })
    }

    /// Called when the measured period has begun.
    ///
    /// # Errors
    /// Writing failed.
    pub fn begin(&mut self, target: &str, began: SystemTime) -> Result<(), Failure> {
        self.begun = true;
        if self.format == OutputFormat::Csv {
            self.report.write(rows::csv_header)?;
        }
        match &mut self.hdr_log {
            Some(log) => log.write(|out| hdr::begin_log(out, target, began)),
            None => Ok(()),
        }
    }

    /// Called at the end of each second.
    ///
    /// # Errors
    /// Writing failed.
    pub fn second(&mut self, second: &Interval) -> Result<(), Failure> {
        match self.format {
            OutputFormat::Ndjson => {
                self.report.write(|out| json_line(out, &SecondSummary::new(second)))?;
            }
            OutputFormat::Csv => self.report.write(|out| rows::csv_row(out, second))?,
            OutputFormat::Text | OutputFormat::Json | OutputFormat::Quiet => {}
        }
        match &mut self.hdr_log {
            Some(log) => log.write(|out| hdr::log_second(out, second)),
            None => Ok(()),
        }
    }

    /// Called at the end of the run.
    ///
    /// # Errors
    /// Writing failed.
    pub fn finish(&mut self, report: &Report) -> Result<(), Failure> {
        let shown = self.shown;
        match self.format {
            OutputFormat::Text => {
                self.report.write(|out| out.write_all(text::render(report, shown).as_bytes()))?;
            }
            OutputFormat::Json => self.report.write(|out| {
                serde_json::to_writer_pretty(&mut *out, &RunSummary::new(report))?;
                out.write_all(b"\n")
            })?,
            OutputFormat::Ndjson => {
                self.report.write(|out| json_line(out, &RunSummary::new(report)))?;
            }
            // A run that was interrupted before it measured has a header and no rows.
            OutputFormat::Csv if !self.begun => self.report.write(rows::csv_header)?,
            OutputFormat::Csv | OutputFormat::Quiet => {}
        }
        if let Some(hgrm) = &mut self.hgrm {
            hgrm.write(|out| hdr::write_distribution(out, &report.records.latency))?;
        }
        match &mut self.html {
            Some(html) => html.write_page(SavedResult::Run(Box::new(RunSummary::new(report)))),
            None => Ok(()),
        }
    }

    /// As [`Sink::verdict_to_stderr`].
    pub fn verdict_to_stderr(&self, exit: Exit) -> bool {
        self.report.verdict_to_stderr(self.format, exit)
    }
}

/// Writes an object on a line of its own.
pub fn json_line(out: &mut dyn Write, form: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, form)?;
    out.write_all(b"\n")
}

/// Where a result goes.
pub enum Sink {
    Stdout,
    /// A file that is not replaced before the first write.
    File(PathBuf),
    /// A file that has been written to.
    Open(PathBuf, File),
}

impl Sink {
    /// A file, which is compressed if its name ends in `.gz`, or stdout if the path is `-`. Nothing is
    /// changed yet.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn new(path: &Path) -> Result<Sink, Failure> {
        if is_stdout(path) {
            return Ok(Sink::Stdout);
        }
        files::check_writable(path).map_err(|error| cannot_write(path, &error))?;
        Ok(Sink::File(path.into()))
    }

    /// Whether the verdict belongs on stderr: it is not good, and the report does not show it to
    /// somebody who reads stdout.
    pub fn verdict_to_stderr(&self, format: OutputFormat, exit: Exit) -> bool {
        let is_shown = format == OutputFormat::Text && matches!(self, Sink::Stdout);
        exit != Exit::Ok && !is_shown
    }

    /// Writes a page with the charts and tables of a result.
    ///
    /// # Errors
    /// Writing failed.
    pub fn write_page(&mut self, result: SavedResult) -> Result<(), Failure> {
        self.write_results(vec![(String::new(), result)])
    }

    /// The same of several results, each with its name.
    ///
    /// # Errors
    /// A histogram is malformed, or writing failed.
    pub fn write_results(&mut self, results: Vec<(String, SavedResult)>) -> Result<(), Failure> {
        let page = html::render(&results).map_err(Failure::Setup)?;
        self.write(|out| out.write_all(page.as_bytes()))
    }

    /// Writes the next part of the result.
    ///
    /// # Errors
    /// Writing failed.
    pub fn write(
        &mut self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        write(&mut bytes).expect("a vector takes all bytes");
        let written = match self {
            Sink::Stdout => {
                let mut stdout = io::stdout();
                stdout.write_all(&bytes).and_then(|()| stdout.flush())
            }
            Sink::File(path) => match files::replace(path, &files::packed(path, &bytes)) {
                Ok(file) => {
                    *self = Sink::Open(take(path), file);
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Sink::Open(path, file) => file.write_all(&files::packed(path, &bytes)),
        };
        written.map_err(|error| match self {
            Sink::Stdout => cannot_write(Path::new("stdout"), &error),
            Sink::File(path) | Sink::Open(path, _) => cannot_write(path, &error),
        })
    }
}

/// Opens a page that is made from files, while something else goes to stdout.
///
/// # Errors
/// It cannot be written, is one of the files, or is stdout.
pub fn page_beside(page: Option<&Path>, files: &[PathBuf]) -> Result<Option<Sink>, Failure> {
    let Some(page) = page else { return Ok(None) };
    if is_stdout(page) {
        return Err(Failure::Usage("the result and --html both go to stdout: give a name".into()));
    }
    match files.iter().find(|file| files::are_one(file, page)) {
        Some(file) => {
            let text = format!("{} is both input and output: give two names", file.display());
            Err(Failure::Usage(text))
        }
        None => Sink::new(page).map(Some),
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::Setup(format!("cannot write to {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_on_stderr_unless_it_is_good_or_shown() {
        let file = || Sink::File("a".into());
        let told = |sink: Sink, format, exit| sink.verdict_to_stderr(format, exit);
        assert!(!told(Sink::Stdout, OutputFormat::Text, Exit::SloMissed), "it is in the report");
        assert!(told(file(), OutputFormat::Text, Exit::SloMissed));
        assert!(told(Sink::Stdout, OutputFormat::Json, Exit::NotValid));
        assert!(told(Sink::Stdout, OutputFormat::Quiet, Exit::NotValid));
        for format in [OutputFormat::Text, OutputFormat::Json, OutputFormat::Quiet] {
            assert!(!told(Sink::Stdout, format, Exit::Ok));
            assert!(!told(file(), format, Exit::Ok));
        }
    }
}
