//! Asks the system for memory before it is allocated.
//!
//! Most collections abort the process if the system refuses their memory. At start, each part of a
//! server first checks that there is room for all of its tables, so that a refusal is an error.
#![allow(unsafe_code)]

use std::{io, ptr};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Room that is checked in addition, for small allocations on the way. These abort the process if
/// they fail, and glibc takes at least 1 MiB from the system for each thread that makes one.
const SMALL: u64 = 8 << 20;

/// Checks that the process may allocate `bytes` bytes now: within its limit of address space
/// (`ulimit -v`), and within the memory that the system promises to processes. Memory that another
/// thread allocates after the check is not accounted for.
///
/// Memory is mapped and unmapped, untouched. An allocation would change how `malloc` serves later
/// ones.
///
/// # Errors
/// The system refuses the memory.
pub(crate) fn check(bytes: u64) -> io::Result<()> {
    let none = || io::Error::from(io::ErrorKind::OutOfMemory);
    let bytes = bytes.checked_add(SMALL).and_then(|bytes| usize::try_from(bytes).ok());
    let bytes = bytes.ok_or_else(none)?;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new private mapping at an address that the system chooses changes no memory that
    // is in use.
    let at = unsafe { mmap_anonymous(ptr::null_mut(), bytes, access, MapFlags::PRIVATE) };
    let at = at.map_err(|_| none())?;
    // SAFETY: this is the whole mapping from above, and nothing refers to it.
    unsafe { munmap(at, bytes) }.map_err(io::Error::from)
}

/// What to do about an error of a start that had no memory or no thread, to be appended to its text.
/// The system reports a thread without memory for its stack like one thread too many (EAGAIN).
pub(crate) fn remedy(error: &io::Error) -> &'static str {
    let is_refused = matches!(error.kind(), io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock);
    if is_refused {
        "; allow more memory (ulimit -v) or threads (ulimit -u, or TasksMax= in the systemd unit)"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_the_system_refuses_has_a_remedy() {
        for error in [rustix::io::Errno::AGAIN, rustix::io::Errno::NOMEM] {
            assert!(remedy(&error.into()).contains("(ulimit -v)"), "{error}");
        }
        assert_eq!(remedy(&rustix::io::Errno::PERM.into()), "");
    }

    #[test]
    fn what_no_address_space_has_room_for_is_an_error() {
        assert!(check(1 << 20).is_ok());
        for bytes in [u64::MAX, u64::MAX - SMALL, 1 << 60] {
            assert_eq!(check(bytes).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        }
    }
    /// Unless it is told to promise everything, the system promises no more than what can be written
    /// to.
    #[cfg(all(target_os = "linux", not(miri)))]
    #[test]
    fn more_memory_than_the_machine_has_is_an_error() {
        let read = |path: &str| std::fs::read_to_string(path).unwrap();
        if read("/proc/sys/vm/overcommit_memory").trim() == "1" {
            return;
        }
        let info = read("/proc/meminfo");
        let kib_of = |name: &str| {
            let kib = info.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            kib.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap()
        };
        let all = (kib_of("MemTotal:") + kib_of("SwapTotal:")) * 1024;
        assert_eq!(check(2 * all).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
    }
}
