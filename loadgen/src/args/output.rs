//! The flags that say what is shown and written.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// What is shown and written.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Print the whole latency spectrum
    #[arg(short = 'L', long)]
    pub latency: bool,

    /// Write the report to a file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Form of the report
    #[arg(long, value_name = "FORM", value_enum, default_value = "text")]
    pub output_format: OutputFormat,
}

/// Form of the report.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum OutputFormat {
    /// For people, and for parsers of wrk's output.
    Text,
    /// One JSON object.
    Json,
}
