//! Wakes threads that wait in a receive on sockets that another process continues to use. Shutting
//! down such a socket would shut it down for both processes. A signal ends the receive of one
//! thread.
#![allow(unsafe_code)]
#![cfg_attr(
    not(any(test, feature = "daemon", feature = "sim")),
    allow(dead_code, reason = "for the daemon")
)]

use std::mem::MaybeUninit;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};
use std::{io, ptr, thread};

/// The signal. By default it is ignored, so a program that sends it for its own purpose harms nothing.
const SIGNAL: libc::c_int = libc::SIGURG;

/// A signal that comes just before a receive does not end it, so it is sent again after this time.
const AGAIN: Duration = Duration::from_millis(2);

/// How long the threads have to end. A datagram takes microseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// The threads that run, as [`own`] numbers them.
#[derive(Default)]
pub(super) struct Threads(Mutex<Vec<usize>>);

/// A thread in the list. Dropping it removes the thread.
pub(super) struct Listed<'a>(&'a Threads);

impl Threads {
    fn lock(&self) -> MutexGuard<'_, Vec<usize>> {
        // Each change is a single call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters the calling thread.
    pub(super) fn enter(&self) -> Listed<'_> {
        self.lock().push(own());
        unblock();
        Listed(self)
    }

    /// Signals the threads until all of them have ended, which they do when their receive ends. Returns
    /// whether they have.
    pub(super) fn wake_until_ended(&self) -> bool {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(handle);
        let begun = Instant::now();
        loop {
            let threads = self.lock();
            if threads.is_empty() {
                return true;
            }
            for thread in threads.iter() {
                // SAFETY: a thread leaves the list, which is locked, before it ends.
                unsafe { libc::pthread_kill(*thread as libc::pthread_t, SIGNAL) };
            }
            drop(threads);
            if begun.elapsed() >= PATIENCE {
                return false;
            }
            thread::sleep(AGAIN);
        }
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.0.lock().retain(|thread| *thread != own());
    }
}

/// The calling thread's `pthread_t`: an integer for glibc, a pointer for musl.
fn own() -> usize {
    // SAFETY: the call has no preconditions.
    unsafe { libc::pthread_self() as usize }
}

extern "C" fn do_nothing(_: libc::c_int) {}

/// Sets a handler without SA_RESTART, so that the signal ends a system call.
fn handle() {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all zeros are a valid action; the handler does nothing, which is always allowed in one.
    let result = unsafe {
        (*action.as_mut_ptr()).sa_sigaction = do_nothing as *const () as libc::sighandler_t;
        libc::sigaction(SIGNAL, action.as_ptr(), ptr::null_mut())
    };
    if result != 0 {
        log::warn!("cannot handle SIGURG: {}", io::Error::last_os_error());
    }
}

/// Unblocks the signal for the calling thread, which may have inherited a mask that blocks it.
fn unblock() {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `sigemptyset` initializes the set, which the other calls then read or change. None of
    // them keeps the pointer.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), SIGNAL);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), ptr::null_mut());
    }
}
