//! The two system calls for many datagrams, recvmmsg and sendmmsg, as a seam: the simulated world has
//! sockets of its own. Their headers are those of `mmsg`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use crate::base::errno::Errno;

/// A socket for datagrams. Everything that is a file descriptor is one.
pub trait MessageCalls {
    /// recvmmsg: fills headers with datagrams. Returns how many.
    ///
    /// # Errors
    /// What the system says.
    ///
    /// # Safety
    /// Each header points to a name, to vectors and to control messages, with their lengths, and each
    /// vector to a buffer. All of them may be written, take any bytes, and are not borrowed elsewhere.
    unsafe fn receive(
        &self,
        headers: &mut [libc::mmsghdr],
        flags: libc::c_int,
    ) -> Result<usize, Errno>;

    /// sendmmsg: sends the datagrams of headers in their order, and writes to each header how many bytes
    /// it had. Returns how many headers it has sent before one was refused.
    ///
    /// # Errors
    /// What the system says of the first one.
    ///
    /// # Safety
    /// Each header points to vectors, and to a name and control messages or nothing, with their lengths,
    /// and each vector to a buffer. All of them may be read.
    unsafe fn send(&self, headers: &mut [libc::mmsghdr]) -> Result<usize, Errno>;
}

impl<S: AsFd> MessageCalls for S {
    #[inline]
    // SAFETY: it asks for no more than the trait does.
    unsafe fn receive(
        &self,
        headers: &mut [libc::mmsghdr],
        flags: libc::c_int,
    ) -> Result<usize, Errno> {
        let (fd, count) = (self.as_fd().as_raw_fd(), headers.len() as libc::c_uint);
        // SAFETY: the caller's promise is what the kernel needs.
        let received =
            unsafe { libc::recvmmsg(fd, headers.as_mut_ptr(), count, flags as _, ptr::null_mut()) };
        usize::try_from(received).map_err(|_| last_error())
    }

    #[inline]
    // SAFETY: it asks for no more than the trait does.
    unsafe fn send(&self, headers: &mut [libc::mmsghdr]) -> Result<usize, Errno> {
        let (fd, count) = (self.as_fd().as_raw_fd(), headers.len() as libc::c_uint);
        // SAFETY: the caller's promise is what the kernel needs, which only writes to the headers.
        let sent =
            unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), count, libc::MSG_NOSIGNAL as _) };
        usize::try_from(sent).map_err(|_| last_error())
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}
