//! Signals that the parent process blocked or ignored: the child inherits both. docs/operations.md
//! lists what else the daemon inherits.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::{io, ptr};

use signal_hook::consts::{SIGHUP, SIGINT};
use signal_hook::iterator::Signals;

/// Signals that stay ignored if the parent ignored them. By convention a parent asks for that:
/// `nohup` with SIGHUP, a shell without job control with SIGINT for what it starts with `&`.
const KEPT_IGNORED: [c_int; 2] = [SIGHUP, SIGINT];

/// Catches these signals and unblocks them for this thread and the threads that it starts. Does not
/// catch signals of `KEPT_IGNORED` that the parent ignored.
///
/// # Errors
/// The system refuses.
pub(super) fn catch(signals: &[c_int]) -> io::Result<Signals> {
    let stays_ignored = |signal| KEPT_IGNORED.contains(&signal) && is_ignored(signal);
    let caught = Signals::new(signals.iter().filter(|signal| !stays_ignored(**signal)))?;
    // After the handlers are set: a pending signal is delivered now.
    unblock(signals)?;
    Ok(caught)
}

/// Whether a signal is ignored. False for a number that is no signal.
fn is_ignored(signal: c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action, the call only writes the present one, for which there is room.
    // If the call fails, all zeros are a valid action.
    let action = unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

/// Unblocks these signals for this thread.
fn unblock(signals: &[c_int]) -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `sigemptyset` initializes the set, which the other calls then read or change. None of
    // them keeps the pointer.
    let result = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}
