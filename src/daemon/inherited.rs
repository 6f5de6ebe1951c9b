//! What the process inherits from its parent: signals that it blocked or ignored, and listening
//! sockets that a service manager passes. docs/operations.md lists what else the daemon inherits.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::{io, ptr};

use signal_hook::consts::{SIGHUP, SIGINT};
use signal_hook::iterator::Signals;

use crate::config::ListenOn;

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

/// Takes a descriptor that this process has inherited.
///
/// # Errors
/// It is one of the standard streams, or not open.
pub(super) fn descriptor(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the call only looks at the number.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open. The process that started this one has opened it for it, and its argument is
    // read once, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A socket that a service manager has passed.
struct Passed {
    name: String,
    /// Or what is wrong with it.
    on: Result<ListenOn, String>,
}

/// The sockets that a service manager has passed (`LISTEN_FDS`), in their order. The first call takes
/// them.
///
/// # Errors
/// The variables contradict each other.
fn passed() -> Result<&'static [Passed], String> {
    let take = || {
        let sockets = sd_notify::listen_fds_with_names().map_err(|error| {
            format!("cannot take the sockets of the service manager (LISTEN_FDS): {error}")
        })?;
        let passed = |(fd, name)| {
            // SAFETY: the service manager has opened the descriptor for this process, and this code
            // runs once, so nothing else owns it.
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            Passed { name, on: ListenOn::inherited(socket) }
        };
        Ok(sockets.map(passed).collect())
    };
    PASSED.get_or_init(take).as_deref().map_err(String::clone)
}

static PASSED: OnceLock<Result<Vec<Passed>, String>> = OnceLock::new();

/// Sets the sockets that a service manager has passed to an earlier process, with their names. Call it
/// before anything asks for them.
pub(super) fn set_passed(sockets: Vec<(String, OwnedFd)>) {
    let passed = |(name, socket)| Passed { name, on: ListenOn::inherited(socket) };
    let fresh = PASSED.set(Ok(sockets.into_iter().map(passed).collect()));
    assert!(fresh.is_ok(), "nothing has asked for them");
}

/// The names of all sockets that a service manager has passed, with other descriptors of these. Those
/// that do not listen are left out.
///
/// # Errors
/// The process is out of open files.
pub(super) fn copies_of_passed() -> io::Result<Vec<(&'static str, OwnedFd)>> {
    let passed = passed().unwrap_or_default().iter();
    let usable = passed.filter_map(|one| Some((&one.name[..], one.on.as_ref().ok()?)));
    usable.map(|(name, on)| Ok((name, on.copy_of_inherited()?))).collect()
}

/// The sockets of this name, at least one.
///
/// # Errors
/// There is none, or one of them is not a listening socket.
pub(super) fn sockets(name: &str) -> Result<Vec<ListenOn>, String> {
    let passed = passed()?;
    let wrong = |reason: String| format!("cannot listen on fd:{name}: {reason}");
    let named = passed.iter().filter(|socket| socket.name == name);
    let named = named.map(|socket| socket.on.clone().map_err(wrong));
    let named: Vec<ListenOn> = named.collect::<Result<_, _>>()?;
    if named.is_empty() {
        let names: Vec<&str> = passed.iter().map(|socket| &socket.name[..]).collect();
        return Err(wrong(match &names[..] {
            [] => "no socket was passed (LISTEN_FDS); start the daemon by its socket unit".into(),
            names => format!(
                "no socket of this name was passed, only {} (FileDescriptorName= in the socket unit)",
                names.join(", ")
            ),
        }));
    }
    Ok(named)
}

/// The names of the sockets that were passed, without those in `used`.
pub(super) fn unused(used: &[&str]) -> Vec<&'static str> {
    let passed = passed().unwrap_or_default();
    let mut names: Vec<&str> = passed.iter().map(|socket| &socket.name[..]).collect();
    names.dedup();
    names.retain(|name| !used.contains(name));
    names
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn a_descriptor_is_one_that_is_open_and_no_standard_stream() {
        for number in 0..=2 {
            assert_eq!(descriptor(number).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        let closed = descriptor(1_000_000).unwrap_err();
        assert_eq!(closed.raw_os_error(), Some(libc::EBADF));
        let open = std::fs::File::open("/dev/null").unwrap().into_raw_fd();
        drop(descriptor(open).unwrap());
    }
}
