//! Error numbers of the operating system, as a type of this crate.

use std::{fmt, io};

/// An error number of the operating system (`errno`).
///
/// ```
/// use echopool::error::Errno;
///
/// let error = std::io::Error::from_raw_os_error(Errno::CONNREFUSED.raw_os_error());
/// assert_eq!(Errno::from_io_error(&error), Some(Errno::CONNREFUSED));
/// assert_eq!(format!("{:?}", Errno::CONNREFUSED), "ECONNREFUSED");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

macro_rules! numbers {
    ($($name:ident = $number:ident: $doc:literal,)*) => {
        /// The error numbers that this crate has names for.
        impl Errno {
            $(#[doc = $doc] pub const $name: Errno = Errno(libc::$number);)*
        }

        impl fmt::Debug for Errno {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Errno::$name => f.write_str(stringify!($number)),)*
                    Errno(number) => write!(f, "Errno({number})"),
                }
            }
        }
    };
}

numbers! {
    ACCESS = EACCES: "Permission denied.",
    ADDRINUSE = EADDRINUSE: "The address is in use.",
    ADDRNOTAVAIL = EADDRNOTAVAIL: "No interface has the address, or no local port is free.",
    AFNOSUPPORT = EAFNOSUPPORT: "The address family is not supported.",
    AGAIN = EAGAIN: "The call would block.",
    BADF = EBADF: "The file descriptor is not open.",
    CANCELED = ECANCELED: "The operation was cancelled.",
    CONNABORTED = ECONNABORTED: "The connection was aborted.",
    CONNREFUSED = ECONNREFUSED: "The connection was refused.",
    CONNRESET = ECONNRESET: "The peer reset the connection.",
    HOSTDOWN = EHOSTDOWN: "The host is down.",
    HOSTUNREACH = EHOSTUNREACH: "There is no route to the host.",
    INPROGRESS = EINPROGRESS: "The connect has started.",
    INTR = EINTR: "A signal interrupted the call.",
    INVAL = EINVAL: "An argument is invalid.",
    IO = EIO: "An input or output error occurred.",
    MFILE = EMFILE: "The process has reached its limit of open files.",
    NETDOWN = ENETDOWN: "The network is down.",
    NETUNREACH = ENETUNREACH: "There is no route to the network.",
    NFILE = ENFILE: "The system has reached its limit of open files.",
    NOBUFS = ENOBUFS: "The kernel has no buffer space.",
    NOMEM = ENOMEM: "The kernel has no memory.",
    NOENT = ENOENT: "The file does not exist.",
    NONET = ENONET: "The machine is not on the network.",
    NOPROTOOPT = ENOPROTOOPT: "The protocol has no such option.",
    NOSPC = ENOSPC: "A limit on kernel objects is reached.",
    NOTCONN = ENOTCONN: "The socket is not connected.",
    OPNOTSUPP = EOPNOTSUPP: "The socket does not support the operation.",
    PERM = EPERM: "The operation is not permitted.",
    PIPE = EPIPE: "The connection is closed for sending.",
    PROTO = EPROTO: "A protocol error occurred.",
    PROTOTYPE = EPROTOTYPE: "The socket has another type.",
    TIMEDOUT = ETIMEDOUT: "The connection timed out.",
}

impl Errno {
    /// The error with this number.
    pub const fn from_raw_os_error(number: i32) -> Errno {
        Errno(number)
    }

    /// The number of an error of the operating system. `None` if the error has another source.
    pub fn from_io_error(error: &io::Error) -> Option<Errno> {
        error.raw_os_error().map(Errno)
    }

    /// The number.
    pub const fn raw_os_error(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from(*self).fmt(f)
    }
}

impl std::error::Error for Errno {}

impl From<Errno> for io::Error {
    fn from(error: Errno) -> io::Error {
        io::Error::from_raw_os_error(error.0)
    }
}
