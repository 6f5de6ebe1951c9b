//! Where results go: the report, the rows of its streaming forms, the interval log and the
//! percentile distribution. All are opened before the run, so that a run is not wasted if one
//! cannot be opened. Each second is flushed at once, so that a terminated program leaves what it
//! had.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::SystemTime;

use super::schema::{RunSummary, SecondSummary};
use super::{Report, hdr, rows, text};
use crate::cli::{OutputArgs, OutputFormat};
use crate::error::Failure;
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
}

impl Outputs {
    /// Opens them.
    ///
    /// # Errors
    /// One cannot be written to, or two are the same.
    pub fn open(flags: &OutputArgs) -> Result<Outputs, Failure> {
        flags.check()?;
        let sink = |path: &Option<_>| path.as_deref().map(Sink::create).transpose();
        Ok(Outputs {
            format: flags.output_format,
            shown: text::TextOptions { spectrum: flags.latency, uncorrected: flags.uncorrected },
            report: sink(&flags.output)?.unwrap_or_else(Sink::stdout),
            begun: false,
            hdr_log: sink(&flags.hdr_log)?,
            hgrm: sink(&flags.hgrm)?,
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
        let (shown, begun) = (self.shown, self.begun);
        self.report.write(|out| match self.format {
            OutputFormat::Text => out.write_all(text::render(report, shown).as_bytes()),
            OutputFormat::Json => {
                serde_json::to_writer_pretty(&mut *out, &RunSummary::new(report))?;
                out.write_all(b"\n")
            }
            OutputFormat::Ndjson => json_line(out, &RunSummary::new(report)),
            // A run that was interrupted before it measured has a header and no rows.
            OutputFormat::Csv if !begun => rows::csv_header(out),
            OutputFormat::Csv | OutputFormat::Quiet => Ok(()),
        })?;
        match &mut self.hgrm {
            Some(hgrm) => hgrm.write(|out| hdr::write_distribution(out, &report.records.latency)),
            None => Ok(()),
        }
    }

    /// Whether the report contains the verdict.
    pub fn shows_verdict(&self) -> bool {
        !matches!(self.format, OutputFormat::Csv | OutputFormat::Quiet)
    }
}

fn json_line(out: &mut dyn Write, form: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, form)?;
    out.write_all(b"\n")
}

/// A file or stdout, with its name for error messages.
pub struct Sink {
    name: String,
    out: BufWriter<Box<dyn Write>>,
}

impl Sink {
    pub fn create(path: &Path) -> Result<Sink, Failure> {
        let name = path.display().to_string();
        match File::create(path) {
            Ok(file) => Ok(Sink { name, out: BufWriter::new(Box::new(file)) }),
            Err(error) => Err(Failure::Setup(format!("cannot write to {name}: {error}"))),
        }
    }

    pub fn stdout() -> Sink {
        Sink { name: "stdout".into(), out: BufWriter::new(Box::new(io::stdout())) }
    }

    pub fn write(
        &mut self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let written = write(&mut self.out).and_then(|()| self.out.flush());
        written.map_err(|error| Failure::Setup(format!("cannot write to {}: {error}", self.name)))
    }
}
