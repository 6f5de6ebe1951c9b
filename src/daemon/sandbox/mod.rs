//! `--sandbox`: the process gives up the files and the system calls that it does not need, and does not
//! get them back. The new process of an upgrade inherits what is left.
//!
//! * `files`: which files it uses, and the kernel's Landlock, which lets it use no others
//! * `calls`: which system calls it makes, and a filter (seccomp) that refuses all others
//!
//! Landlock restricts a thread and those that it starts, so it begins before the first thread. The filter
//! comes last, for all threads, because a start makes calls that are not needed later.

use std::sync::atomic::{AtomicBool, Ordering};

use super::cli::Cli;
use super::settings::Sources;
use files::Paths;

mod calls;
mod files;

/// Whether the process is in a sandbox of its own or of the process that it has replaced.
static IS_ON: AtomicBool = AtomicBool::new(false);

/// A sandbox that has begun.
pub(super) struct Sandbox {
    files: String,
    is_enforced: bool,
}

impl Sandbox {
    /// Gives up the files. `sources` are those of `cli`. Call it before there are threads.
    ///
    /// # Errors
    /// The system refuses. An old kernel that knows no sandbox is no error.
    pub(super) fn begin(cli: &Cli, sources: &Sources) -> Result<Sandbox, String> {
        let paths = Paths::of(cli, sources);
        let (status, is_enforced) = files::restrict(&paths)
            .map_err(|error| format!("cannot give up files (--sandbox): {error}"))?;
        Ok(Sandbox { files: format!("{status}; {paths}"), is_enforced })
    }

    /// Gives up the system calls, in all threads, and logs what is enforced.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn complete(&self) -> Result<(), String> {
        let calls = calls::filter().map_err(|error| {
            format!("cannot give up system calls (--sandbox): {error}; leave --sandbox out")
        })?;
        log::info!("sandbox: {}", self.files);
        match calls {
            Some(count) => log::info!("sandbox: {count} system calls; all others fail with EPERM"),
            None => log::warn!("sandbox: all system calls: there is no filter for this processor"),
        }
        if !self.is_enforced {
            log::warn!("sandbox: this kernel does not enforce all of it; Linux 6.12 does");
        }
        IS_ON.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// The process is in the sandbox of the one that it replaces.
pub(super) fn inherit() {
    IS_ON.store(true, Ordering::Relaxed);
}

/// Whether the process is in a sandbox of its own or of the process that it has replaced.
pub(super) fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// Why an operation may have been refused, if the process is in a sandbox.
pub(super) fn reason() -> Option<&'static str> {
    is_on().then_some("the daemon may use only files that its log names (--sandbox)")
}
