//! The daemon's logger: which lines there are, how they look, and panics among them. `log_writer`
//! writes them.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, Write};
use std::sync::Arc;
use std::{panic, thread};

use log::LevelFilter;
use signal_hook::consts::SIGXFSZ;

use super::log_format::{LineStyle, LogFormat};
use super::log_writer::LogWriter;
use super::log_writer::limit::Limited;
use super::report;
use crate::shared::log_limit;

/// The log of the process.
pub(super) struct Logger {
    pub(super) writer: LogWriter,
    pub(super) style: LineStyle,
    /// `None` if the process had a logger already.
    installed: Option<Limited>,
}

impl Logger {
    /// Logs to standard error, through a queue. If the process already has a logger, keeps it.
    /// `per_second` limits the lines of each level that clients can cause.
    ///
    /// # Errors
    /// The system refuses memory or the thread.
    pub(super) fn start(
        level: Option<LevelFilter>,
        format: LogFormat,
        per_second: Option<u32>,
    ) -> io::Result<Logger> {
        // With a handler, a write beyond the file size limit fails and does not end the process.
        signal_hook::flag::register(SIGXFSZ, Arc::default())?;
        let colours = anstream::AutoStream::choice(&io::stderr()).into();
        let style = LineStyle { format, colours };
        let writer = LogWriter::start(io::stderr(), style, per_second)?;
        let mut logger = Logger { writer, style, installed: None };
        let built = logger.build(level);
        let filter = built.filter();
        let limited = Limited::new(built, logger.writer.clone());
        if log::set_boxed_logger(Box::new(limited.clone())).is_ok() {
            log::set_max_level(filter);
            logger.installed = Some(limited);
            log_limit::install(logger.writer.clone());
        }
        log_panics(logger.writer.clone(), style);
        Ok(logger)
    }

    /// Changes the level and the limit.
    pub(super) fn set(&self, level: Option<LevelFilter>, per_second: Option<u32>) {
        self.writer.set_limit(per_second);
        if let Some(installed) = &self.installed {
            let built = self.build(level);
            let filter = built.filter();
            installed.replace(built);
            log::set_max_level(filter);
        }
    }

    /// Makes the filter and the format. Without a level, `RUST_LOG` has it.
    fn build(&self, level: Option<LevelFilter>) -> env_logger::Logger {
        let mut builder = env_logger::Builder::new();
        let target = env_logger::Target::Pipe(Box::new(self.writer.clone()));
        self.style.apply(&mut builder);
        builder.target(target);
        let from_environment = std::env::var("RUST_LOG").ok().filter(|_| level.is_none());
        // A slash is in front of the text that lines must contain.
        let has_text = from_environment.as_ref().is_some_and(|filter| filter.contains('/'));
        self.writer.set_text_filter(has_text);
        match level {
            Some(level) => builder.filter_module("echopool", level),
            None if from_environment.is_some() => builder.parse_default_env(),
            None => builder.filter_module("echopool", LevelFilter::Info),
        };
        // Figures that were requested are logged at any level.
        builder.filter_module(report::TARGET, LevelFilter::Info);
        builder.build()
    }
}

/// Makes panics write to the queue of the log. The default hook writes to standard error and would
/// block a worker whose service panics.
fn log_panics(log: LogWriter, style: LineStyle) {
    panic::set_hook(Box::new(move |panic| {
        if !log.admits(log::Level::Error) {
            return;
        }
        let current = thread::current();
        let thread = current.name().unwrap_or("<unnamed>");
        let mut text = format!("thread '{thread}' {panic}");
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            text.push_str(&format!("\nstack backtrace:\n{backtrace}"));
        }
        let _ = log.clone().write_all(&style.plain("echopool::panic", &text));
    }));
}
